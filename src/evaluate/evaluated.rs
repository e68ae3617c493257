//! What became of one problem, and what of it is more than noise.

use super::noise::{NullArm, pooled};
use crate::heuristics::Template;
use crate::measure::{CrossFit, DurationClass, Interval};
use crate::model::{Config, Micros};
use crate::plan::Alignment;
use serde::Serialize;
use std::collections::BTreeMap;

/// What became of one problem.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluated {
    /// Its family.
    pub family: String,
    /// Its dimensions and type.
    pub problem: String,
    /// The model and layer it is taken from.
    pub from: Option<String>,
    /// Its fallback group.
    pub group: &'static str,
    /// Whether its rows are aligned.
    pub alignment: Alignment,
    /// Where the pick came from: `rule`, `fallback`, or `default` where neither has a config that can run.
    pub source: &'static str,
    /// The config that is served.
    pub pick: Option<Config>,
    /// What would have been served before it, but cannot run on this problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// The best that the search found.
    pub best: Option<Config>,
    /// Times of the race.
    pub pick_us: Option<f64>,
    /// Likewise.
    pub best_us: Option<f64>,
    /// Likewise; of the fastest default, where there are several.
    pub default_us: Option<f64>,
    /// Logarithm of the pick's time over that of the best of the search's best three, cross-fitted. Negative where the pick came
    /// out ahead.
    pub ln_regret: Option<f64>,
    /// Where it may be, with 95 %.
    pub ln_regret_interval: Option<Interval>,
    /// The same as a ratio of times.
    pub regret: Option<f64>,
    /// Time of the pick over that of the best default, cross-fitted where there are several.
    pub over_default: Option<f64>,
    /// The pick is slower than the default by more than noise.
    pub slower_than_default: bool,
    /// What the `model`, the `rule`, the `fallback` and the `default` would have come to alone, as far as each has a config that
    /// runs.
    pub answers: BTreeMap<&'static str, Answered>,
    /// For a rule's pick: its time over that of the fallback it stands in for.
    pub over_fallback: Option<f64>,
    /// The rule's pick is slower than that fallback by more than noise.
    pub slower_than_fallback: bool,
    /// Ratios closer to 1 than this mean nothing here: how far from its own duplicate a config comes out, of problems that take
    /// about as long.
    pub noise: Option<f64>,
    /// Why there is no regret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The budget ran out before there was one.
    pub unfinished: bool,
    /// The regret with what its rounds say of it.
    #[serde(skip)]
    pub(super) fit: Option<CrossFit>,
    /// The best beside its duplicate.
    #[serde(skip)]
    pub(super) null_arm: Option<NullArm>,
}

/// What one of those that may answer would have come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answered {
    /// Its first config that can run; of several defaults the fastest.
    pub config: Config,
    /// Its time in the race.
    pub time_us: Option<f64>,
    /// Its time over that of the best, cross-fitted as that of the pick; none where it does not work.
    pub regret: Option<f64>,
}

/// A template that cannot run on a problem of its bucket or group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skipped {
    /// `rule` or `fallback`.
    pub source: &'static str,
    /// The template.
    pub template: Template,
    /// Why it cannot run.
    pub reason: String,
}

/// Says of each problem what its noise is, and what is slower by more than that.
pub(super) fn judge(problems: &mut [Evaluated]) {
    let null_arms: Vec<NullArm> = problems.iter().filter_map(|problem| problem.null_arm).collect();
    for problem in problems {
        let Some(best_us) = problem.best_us else { continue };
        let noise = pooled(&null_arms, DurationClass::of(Micros(best_us)));
        let is_slower = |ratio: Option<f64>| ratio.is_some_and(|ratio| ratio > 1.0 + noise);
        problem.noise = Some(noise);
        problem.slower_than_default |= is_slower(problem.over_default);
        problem.slower_than_fallback = is_slower(problem.over_fallback);
    }
}
