//! What a document says of where each entry came from and why it can be trusted: written when it is derived, read when two
//! documents are compared.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
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
    #[serde(deserialize_with = "items")]
    pub kernels: BTreeSet<String>,
    /// Hash over the trials of the class that count.
    pub measurement: String,
    /// (problem, config) pairs that have a time.
    pub measurements: usize,
    /// What is served reached on each of them. In the document's text each is a row.
    #[serde(deserialize_with = "problems")]
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "fields")]
    pub anchors: BTreeMap<String, f64>,
}

/// The `validation` of a rule or a fallback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validation {
    /// By baseline: `best_single`, `default`, `fallback`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "fields")]
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
    #[serde(deserialize_with = "items")]
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
        as_far_as_it_reads(source)
    }
}

impl Validation {
    /// As a document holds it.
    pub fn to_document(&self) -> Map<String, Value> {
        to_map(self)
    }

    /// That of a document, as far as it can be read.
    pub fn of_document(validation: &Map<String, Value>) -> Self {
        as_far_as_it_reads(validation)
    }
}

fn to_map(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        // A struct of numbers, texts and collections of them is always an object.
        _ => Map::new(),
    }
}

/// What the fields tell. Other tools have fields of these names too, of another kind: such a one says nothing, and takes no other
/// with it.
fn as_far_as_it_reads<T: Default + DeserializeOwned>(fields: &Map<String, Value>) -> T {
    let read = |fields: Map<String, Value>| serde_json::from_value::<T>(fields.into());
    read(fields.clone()).unwrap_or_else(|_| {
        let of_field = |(name, value): (&String, &Value)| Map::from_iter([(name.clone(), value.clone())]);
        let readable = fields.iter().map(of_field).filter(|field| read(field.clone()).is_ok());
        read(readable.flatten().collect()).unwrap_or_default()
    })
}

/// Those items of a list that are what they should be.
fn items<'de, D: Deserializer<'de>, T: DeserializeOwned, C: FromIterator<T>>(from: D) -> Result<C, D::Error> {
    let items = Vec::<Value>::deserialize(from)?.into_iter();
    Ok(items.filter_map(|item| serde_json::from_value(item).ok()).collect())
}

/// Those fields of an object that are what they should be.
fn fields<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<BTreeMap<String, T>, D::Error> {
    let fields = Map::<String, Value>::deserialize(from)?.into_iter();
    Ok(fields.filter_map(|(name, value)| Some((name, serde_json::from_value(value).ok()?))).collect())
}

/// The problems that have a name, each as far as it can be read.
fn problems<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ProblemSource>, D::Error> {
    let problems: Vec<Map<String, Value>> = items(from)?;
    Ok(problems
        .iter()
        .filter(|problem| problem.get("problem").is_some_and(Value::is_string))
        .map(as_far_as_it_reads)
        .collect())
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde asks
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn what_another_tool_means_by_a_name_takes_nothing_else_with_it() {
        let named = json!({"problem": "m=16,n=4096,k=4096 bf16", "served_us": 5.5, "noise": "much", "best": [1],
            "anchors": {"a": 0.5, "b": null}});
        let source = Source::of_document(&map(&json!({
            "configs": "all of them", "kernels": ["k2", 7, "k1"], "measurement": "of a Tuesday", "measurements": -1,
            "problems": [named, {"served_us": 3.0}, {"problem": 4}, ["m=1", 5.0, null, 0], "m=2"], "by": {"whom": null},
        })));
        let problem = ProblemSource {
            problem: "m=16,n=4096,k=4096 bf16".into(),
            served_us: Some(5.5),
            anchors: BTreeMap::from([("a".into(), 0.5)]),
            ..ProblemSource::default()
        };
        let expected = Source {
            kernels: ["k1".to_owned(), "k2".to_owned()].into(),
            measurement: "of a Tuesday".into(),
            problems: vec![problem],
            ..Source::default()
        };
        assert_eq!(source, expected);
        let validation = Validation::of_document(&map(&json!({
            "compared": {"default": {"ratio": 0.9, "pairs": 3}, "fallback": 1.2}, "p90_slowdown": "unknown", "max_slowdown": 1.5,
            "ties": {"configs": ["0a1b2c3d", null]},
        })));
        let compared = Compared { ratio: Some(0.9), pairs: 3, ..Compared::default() };
        let ties = Ties { configs: vec!["0a1b2c3d".into()], repeat_noise: 0.0 };
        let expected = Validation {
            compared: BTreeMap::from([("default".into(), compared)]),
            max_slowdown: Some(1.5),
            ties: Some(ties),
            ..Validation::default()
        };
        assert_eq!(validation, expected);
    }
}
