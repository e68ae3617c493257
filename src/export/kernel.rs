//! What is exported of one kernel.

use crate::heuristics::Template;
use crate::model::{Family, Problem};

/// A family's kernel as the target knows it, with what is served for its problems.
pub(super) struct Kernel {
    pub(super) name: String,
    /// The file of its source, without the ending.
    pub(super) stem: String,
    pub(super) family: Family,
    /// Problems, each with its config by its place among the configs.
    pub(super) problems: Vec<(Problem, usize)>,
    pub(super) configs: Vec<Template>,
}
