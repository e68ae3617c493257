//! What a night says: of each family, of the document, and in the end.

use super::check::Check;
use super::confirm::Confirmation;
use crate::diff::Diff;
use crate::model::Family;
use crate::paths::lossy;
use crate::sweep::Summary;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Why a family is, or is not, measured again.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// There is no journal yet.
    New,
    /// Environment, kernels and, on the problems checked, times are those of the journal.
    Unchanged {
        /// What was checked.
        check: Check,
    },
    /// Some problems' kernels changed; they are measured again, and the rest holds.
    KernelsChanged {
        /// How many problems.
        problems: usize,
        /// What was checked of the rest.
        check: Check,
    },
    /// Other work disturbed the device while the times were checked: whether they still hold cannot be told, and they stand until
    /// a quiet night.
    Loaded {
        /// What was checked.
        check: Check,
    },
    /// Times changed by more than noise: all is measured again.
    Drifted {
        /// What was checked.
        check: Check,
    },
    /// Measured with something else: all is measured again.
    EnvironmentChanged {
        /// What changed: `driver 580.1 → 590.2`.
        changes: Vec<String>,
    },
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |check: &Check| match (check.ratio, check.beside_anchors) {
            (Some(ratio), beside) => {
                let beside = beside.map(|beside| format!(", {beside:.3} beside what raced along")).unwrap_or_default();
                format!("{ratio:.3} of the recorded time on {} problems{beside}", check.problems.len())
            }
            (None, _) => "no finals to check".to_string(),
        };
        match self {
            Self::New => out.write_str("no journal yet: a full run"),
            Self::Unchanged { check } => write!(out, "unchanged ({})", times(check)),
            Self::KernelsChanged { problems, check } => {
                write!(out, "kernels changed: {problems} problems are measured again ({} on the rest)", times(check))
            }
            Self::Loaded { check } => {
                write!(out, "not checked, since the device has other work: what was measured stands ({})", times(check))
            }
            Self::Drifted { check } => {
                write!(out, "drifted beyond noise of {:.1} %: a full run ({})", check.noise * 100.0, times(check))
            }
            Self::EnvironmentChanged { changes } => {
                let changes = changes.join(", ");
                write!(out, "environment changed: the journal is set aside, and all is measured anew ({changes})")
            }
        }
    }
}

/// What became of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The new one is in its place.
    Replaced,
    /// Both are the same.
    Same,
    /// Both are the same, but the device had other work: whether it still holds could not be told.
    Unchecked,
    /// The new one has a regression; the old one is in place.
    Kept,
}

/// A line for the log.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A family was checked.
    Checked {
        /// Which.
        family: Family,
        /// What was found.
        #[serde(flatten)]
        state: State,
    },
    /// All was measured.
    Swept(Box<Summary>),
    /// The night is over.
    Done(Box<Report>),
}

/// What the night came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The GPU's short name.
    pub gpu: String,
    /// What became of the document.
    pub verdict: Verdict,
    /// The new document is slower somewhere, or covers less.
    pub regression: bool,
    /// The budget ran out before the plan did.
    pub cut_short: bool,
    /// Some problem has no working config.
    pub unworkable: bool,
    /// The document.
    #[serde(serialize_with = "lossy::path")]
    pub document: PathBuf,
    /// Tonight's folder: the document before, the new one, the journals.
    #[serde(serialize_with = "lossy::path")]
    pub night: PathBuf,
    /// What changed; none where there was no document.
    pub diff: Option<Diff>,
    /// What looked slower, and what racing it came to.
    pub confirmations: Vec<Confirmation>,
    /// What the document before serves and this version cannot run, so that it did not defend its place, with the reason.
    pub undefended: Vec<String>,
}
