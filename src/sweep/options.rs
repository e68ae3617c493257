//! What to sweep.

use crate::model::Family;
use crate::site;
use std::path::PathBuf;
use std::time::Duration;

/// What to sweep, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to measure.
    pub site: site::Options,
    /// Which families.
    pub families: Vec<Family>,
    /// A plan in place of the family's own.
    pub plan: Option<PathBuf>,
    /// How long to measure.
    pub budget: Option<Duration>,
    /// How long one config may take to be verified and timed.
    pub trial_deadline: Duration,
    /// Start over, keeping the old journal aside.
    pub fresh: bool,
    /// Screen every legal config in place of the guided search.
    pub exhaustive: bool,
    /// Seed of inputs and orders.
    pub seed: u64,
    /// Only fill the journals, as a shard does: whoever merges them makes the document.
    pub journal_only: bool,
}

impl Options {
    /// Whether the document is made when all is measured: a shard's journal is one of several.
    pub(super) fn makes_document(&self) -> bool {
        !self.journal_only && self.site.shard.1 == 1
    }
}
