//! What a sweep came to.

use crate::journal::Trial;
use crate::model::Family;
use crate::paths::lossy;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What a sweep did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The GPU's short name.
    pub gpu: String,
    /// The device's full name.
    pub device: String,
    /// The document written; none where only journals were filled.
    #[serde(serialize_with = "lossy::option")]
    pub document: Option<PathBuf>,
    /// The journals filled.
    #[serde(serialize_with = "lossy::list")]
    pub journals: Vec<PathBuf>,
    /// What each family came to.
    pub families: BTreeMap<Family, FamilySummary>,
    /// Trials verified and timed, a second of wall time.
    pub verified_per_s: f64,
    /// Share of wall time in which the device was busy with trials.
    pub gpu_busy: f64,
    /// Seconds of compile-worker time.
    pub compile_s: f64,
    /// Seconds of wall time.
    pub wall_s: f64,
    /// Trials of this run by status, resumed ones left out.
    pub statuses: BTreeMap<String, usize>,
    /// Trials taken over from the journal.
    pub resumed: usize,
    /// Trials of this run that other work on the device disturbed; they are flagged in the journal.
    pub loaded: usize,
    /// The budget ran out before the plan did.
    pub cut_short: bool,
}

impl Summary {
    /// Problems that the machine kept from being measured.
    pub fn left(&self) -> usize {
        self.families.values().map(|family| family.left.len()).sum()
    }
}

/// What one family came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FamilySummary {
    /// Problems of the plan (of this shard).
    pub problems: usize,
    /// Problems on which no config works.
    pub unworkable: Vec<String>,
    /// Problems that were not reached, or not finished.
    pub unfinished: usize,
    /// Those of them that the machine kept from being measured, and how: the next run tries them again.
    pub left: Vec<String>,
    /// Rules in the document.
    pub rules: usize,
    /// Fallbacks in the document.
    pub fallbacks: usize,
    /// The winner of each problem.
    pub winners: Vec<Winner>,
}

/// The best config of one problem.
#[derive(Clone, Debug, Serialize)]
pub struct Winner {
    /// The final's best trial, without its rounds.
    pub trial: Trial,
    /// How much slower the default was, in the same final.
    pub default_ratio: Option<f64>,
    /// How much slower what the document before the sweep serves was, by paired rounds of the same final.
    pub served_ratio: Option<f64>,
}
