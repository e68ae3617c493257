//! The trials of each problem, and which of them won.

use crate::journal::{Stage, Trial};
use crate::model::Problem;
use std::collections::BTreeMap;

/// What a trial took; more than anything where it took nothing that is known.
pub(super) fn time_us(trial: &Trial) -> f64 {
    trial.time().map_or(f64::INFINITY, |time| time.0)
}

/// The trials that have a time, by problem, without the duplicates of winners.
pub(super) fn timed_by_problem<'t>(trials: impl IntoIterator<Item = &'t Trial>) -> BTreeMap<Problem, Vec<&'t Trial>> {
    let mut by_problem: BTreeMap<Problem, Vec<&Trial>> = BTreeMap::new();
    for trial in trials.into_iter().filter(|trial| trial.time().is_some() && !trial.null_arm) {
        by_problem.entry(trial.problem()).or_default().push(trial);
    }
    by_problem
}

/// The best of a problem's last final, or of all its trials where there was none.
pub(super) fn winner<'t>(trials: &[&'t Trial]) -> Option<&'t Trial> {
    let finals = || trials.iter().copied().filter(|trial| trial.stage == Stage::Final);
    let last = finals().map(|trial| trial.race).max();
    let finalists = finals().filter(|trial| Some(trial.race) == last);
    let fastest = |one: &&Trial, other: &&Trial| time_us(one).total_cmp(&time_us(other));
    finalists.min_by(fastest).or_else(|| trials.iter().copied().min_by(fastest))
}
