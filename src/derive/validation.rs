//! What a document says of where each entry came from and why it can be trusted: written when it is derived, read when two
//! documents are compared.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The `source` of a rule or a fallback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Why it has no problems of its own, where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub borrowed: Option<String>,
    /// Configs that were tried on these problems.
    pub configs: usize,
    /// Hashes of the kernels that what is served ran as.
    pub kernels: BTreeSet<String>,
    /// Hash over the trials of the class that count.
    pub measurement: String,
    /// (problem, config) pairs that have a time.
    pub measurements: usize,
    /// What is served reached on each of them. In the document's text each is a row.
    pub problems: Vec<ProblemSource>,
}

/// What is served, on one problem.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProblemSource {
    /// Its name: `m=16,n=4096,k=4096 bf16`.
    pub problem: String,
    /// Time in microseconds, as in the problem's last final; none where it fails there or was not tried.
    pub served_us: Option<f64>,
    /// How far from 1 the slowdown may be by chance.
    pub noise: f64,
    /// That time over the winner's, in rounds that did not choose it; below 1 where it was lucky.
    pub slowdown: Option<f64>,
    /// Other work disturbed the device when it was timed: the times may be too long.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub loaded: bool,
    /// Time over that of other programs in the same final, by the hash of their config and kernel: what is served among them,
    /// the defaults, what was served before, the best of each kind of instructions, the best finalists.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub anchors: BTreeMap<String, f64>,
}

/// The `validation` of a rule or a fallback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validation {
    /// By baseline: `best_single`, `default`, `fallback`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub compared: BTreeMap<String, Compared>,
    /// What the best config of a single typical problem would be worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exemplar: Option<Exemplar>,
    /// Over all problems, missing ones penalized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geomean_slowdown: Option<f64>,
    /// Each problem served by the choice made without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leave_one_out: Option<LeaveOneOut>,
    /// Largest slowdown among those measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_slowdown: Option<f64>,
    /// 90th percentile of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_slowdown: Option<f64>,
    /// A shape of the bucket or group that what is served cannot run, where nothing that was measured runs all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_on: Option<String>,
    /// Problems with a slowdown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape_coverage: Option<usize>,
    /// One problem has no cross-validation.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub single_problem: bool,
    /// What cannot be told from what is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ties: Option<Ties>,
}

/// What is served against a baseline, over all problems.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compared {
    /// How far from 1 the ratio must be to mean anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// Least and largest ratio of a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Geometric mean of the problems' ratios, served over baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Problems with a time of both.
    pub pairs: usize,
    /// Interleaved rounds behind the ratios.
    pub rounds: usize,
    /// Problems where the baseline alone fails.
    #[serde(skip_serializing_if = "is_zero")]
    pub baseline_fails: usize,
    /// Problems where what is served alone fails.
    #[serde(skip_serializing_if = "is_zero")]
    pub fails: usize,
    /// Problems where what is served is slower by more than noise.
    #[serde(skip_serializing_if = "is_zero")]
    pub slower_on: usize,
    /// Problems where one of them was never tried.
    #[serde(skip_serializing_if = "is_zero")]
    pub untried: usize,
}

/// What the best config of the group's median problem would be worth on all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exemplar {
    /// Geometric mean of its slowdowns.
    pub geomean_slowdown: Option<f64>,
    /// The problem.
    pub problem: String,
}

/// Figures of leave-one-shape-out cross-validation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaveOneOut {
    /// Geometric mean of the slowdowns, missing ones penalized.
    pub geomean_slowdown: Option<f64>,
    /// The largest measured.
    pub max_slowdown: Option<f64>,
    /// How many problems.
    pub problems: usize,
    /// Those on which the choice was not measured.
    pub uncovered: usize,
}

/// What nobody can tell from what is served: another sweep may come to any of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ties {
    /// Their [keys](super::config_key).
    pub configs: Vec<String>,
    /// How far the mean ratio of two configs over these problems may be from that of another sweep; 0 where not known.
    pub repeat_noise: f64,
}

impl Source {
    /// As a document holds it.
    pub fn to_document(&self) -> Map<String, Value> {
        to_map(self)
    }

    /// That of a document, as far as it can be read.
    pub fn of_document(source: &Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(source.clone())).unwrap_or_default()
    }
}

impl Validation {
    /// As a document holds it.
    pub fn to_document(&self) -> Map<String, Value> {
        to_map(self)
    }

    /// That of a document, as far as it can be read.
    pub fn of_document(validation: &Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(validation.clone())).unwrap_or_default()
    }
}

fn to_map(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        // A struct of numbers, texts and collections of them is always an object.
        _ => Map::new(),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(count: &usize) -> bool {
    *count == 0
}
