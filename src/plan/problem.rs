//! A problem of a plan.

use crate::model::Problem;

/// A problem with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedProblem {
    /// The problem.
    pub problem: Problem,
    /// The model and layer it is taken from.
    pub from: Option<String>,
}
