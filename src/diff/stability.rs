//! Would the same sweep serve the same configs again? The share of buckets where the first template changed, ties apart.

use super::night::{Set, TOLD_APART};
use super::shift::{Judge, Shift};
use super::side::Side;
use crate::derive::problem;
use crate::heuristics::{Bucket, bucket_of};
use crate::measure::Z_95;
use serde::Serialize;
use std::collections::BTreeMap;

/// The buckets with problems that both documents answer, by rule or by fallback. A bucket counts as changed where some problem
/// of it is served another config first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stability {
    /// How many there are.
    pub buckets: usize,
    /// Those served another config of the same tie class: one document names it among the ties of its own, or both take the
    /// same time, within noise.
    pub changed_within_ties: usize,
    /// Those served another config that takes another time, or whose time is unknown.
    pub changed_outside_ties: usize,
    /// Share of the former.
    pub share_within_ties: f64,
    /// Share of the latter.
    pub share_outside_ties: f64,
}

/// A class, and a bucket in it; a problem that this crate cannot name is a bucket of its own.
type Place<'d> = (&'d str, Result<Bucket, &'d str>);

/// The problems of one bucket.
#[derive(Default)]
struct Answers {
    changed: bool,
    /// On some problem, neither document names the other's config among the ties of its own.
    told_apart: bool,
    /// How the time of each changed, where both are known.
    shifts: Vec<Option<Shift>>,
}

impl Answers {
    fn are_tied(&self) -> bool {
        !self.told_apart || self.take_the_same_time()
    }

    /// Whether old and new configs take the same time, as far as anyone can tell.
    fn take_the_same_time(&self) -> bool {
        let Some(shifts) = self.shifts.iter().copied().collect::<Option<Vec<_>>>() else { return false };
        let set = Set::of(shifts.iter().map(|shift| (shift.index, shift.change, shift.sigma)));
        set.change().abs() <= TOLD_APART.ln_1p().max(Z_95 * set.error())
    }
}

impl Stability {
    pub(super) fn between<'d>(old: &Side<'d>, new: &Side<'d>, judge: &Judge<'d>) -> Self {
        let mut buckets: BTreeMap<Place, Answers> = BTreeMap::new();
        for ((class, name), place) in &old.places {
            let Some((was, is)) = old.answer(class, name).zip(new.answer(class, name)) else { continue };
            let bucket = problem(class, name).map(|problem| bucket_of(&problem)).ok_or(*name);
            let answers = buckets.entry((*class, bucket)).or_default();
            answers.changed |= was.template != is.template;
            answers.told_apart |= was.template != is.template && !was.ties_with(is);
            answers.shifts.push(judge.shift(*place, name, was, is));
        }
        let changed = buckets.values().filter(|answers| answers.changed);
        let (tied, apart): (Vec<_>, Vec<_>) = changed.partition(|answers| answers.are_tied());
        let (within, outside) = (tied.len(), apart.len());
        let share = |count: usize| if buckets.is_empty() { 0.0 } else { count as f64 / buckets.len() as f64 };
        Self {
            buckets: buckets.len(),
            changed_within_ties: within,
            changed_outside_ties: outside,
            share_within_ties: share(within),
            share_outside_ties: share(outside),
        }
    }
}
