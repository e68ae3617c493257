//! The time that a family's sweep has, and the problems that it did not suffice for.

use crate::error::Result;
use crate::model::Problem;
use crate::process;
use crate::worker::Deadlines;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a problem has at least, so that most are searched to their end: those of compiled kernels take a fraction of this. Where
/// a trial takes seconds, as it may with kernels that are called, all problems get to some trials rather than some to all.
const LEAST_SLICE: Duration = Duration::from_secs(5);
/// The part of its time in which a problem's configs are tried. In the rest those found race: without a race nothing is served of them.
const TRYING_SHARE: f64 = 0.85;

/// The clock that all devices of a sweep look at.
#[derive(Default)]
pub(crate) struct Clock {
    /// How long a worker may take for one request.
    pub(crate) deadlines: Deadlines,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    end: Option<Instant>,
    /// When the time to try configs of single problems ends, where that is before it.
    slices: BTreeMap<Problem, Instant>,
    under_way: BTreeSet<Problem>,
    /// Problems the time did not reach, or not to their end.
    out_of_time: BTreeSet<Problem>,
}

impl Clock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Past this, nothing new is tried.
    pub(crate) fn set_end(&self, end: Option<Instant>) {
        let mut state = self.state();
        state.end = end;
        state.slices.clear();
    }

    /// A problem begins, and so many are still to come, which so many benches share with those under way: it has its part of the time
    /// until the end, but for what its race is left.
    pub(super) fn begin(&self, problem: &Problem, still_to_come: usize, benches: usize) {
        let (mut state, now) = (self.state(), Instant::now());
        state.under_way.insert(*problem);
        if let Some(end) = state.end {
            let left = end.saturating_duration_since(now);
            let share = left.mul_f64(benches as f64 / (still_to_come + state.under_way.len()) as f64);
            state.slices.insert(*problem, now + share.max(LEAST_SLICE).min(left).mul_f64(TRYING_SHARE));
        }
    }

    /// A problem is done with, whatever came of it.
    pub(super) fn leave(&self, problem: &Problem) {
        self.state().under_way.remove(problem);
    }

    /// The problems that have begun and are not done with.
    pub(super) fn under_way(&self) -> BTreeSet<Problem> {
        self.state().under_way.clone()
    }

    pub(super) fn end(&self) -> Option<Instant> {
        self.state().end
    }

    /// When the time to try configs of a problem ends.
    pub(super) fn end_of(&self, problem: &Problem) -> Option<Instant> {
        let state = self.state();
        [state.end, state.slices.get(problem).copied()].into_iter().flatten().min()
    }

    /// How long a worker may take for a request about so many configs: past the end of the time nothing is waited for.
    pub(super) fn deadlines_of(&self, arms: usize) -> Deadlines {
        self.deadlines.within(self.end().map(|end| end.saturating_duration_since(Instant::now())), arms)
    }

    /// Whether there is time for another trial of this problem.
    ///
    /// # Errors
    /// Where the user interrupts.
    pub(super) fn has_time(&self, problem: &Problem) -> Result<bool> {
        self.is_before(self.end_of(problem), problem)
    }

    /// Whether there is time for a race of what was found: the time to try configs may be over.
    ///
    /// # Errors
    /// Where the user interrupts.
    pub(super) fn has_time_to_race(&self, problem: &Problem) -> Result<bool> {
        self.is_before(self.end(), problem)
    }

    fn is_before(&self, end: Option<Instant>, problem: &Problem) -> Result<bool> {
        process::check_interrupt()?;
        let is_late = end.is_some_and(|end| Instant::now() >= end);
        if is_late {
            self.state().out_of_time.insert(*problem);
        }
        Ok(!is_late)
    }

    /// Whether there was no time for all that would have been tried of a problem.
    pub(super) fn is_cut(&self, problem: &Problem) -> bool {
        self.state().out_of_time.contains(problem)
    }

    /// From now on problems count as out of time only where they are so again.
    pub(super) fn forget_out_of_time(&self) {
        self.state().out_of_time.clear();
    }

    /// The problems that the time was up for.
    pub(super) fn out_of_time(&self) -> BTreeSet<Problem> {
        self.state().out_of_time.clone()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Family};

    fn problem(n: i64) -> Problem {
        Problem::new(Family::Elementwise, &[("numel", n)], Dtype::F32).unwrap()
    }

    #[test]
    fn a_problem_has_its_share_of_the_time_and_no_more() {
        let clock = Clock::default();
        let begin = |minutes: u64, still_to_come, benches| {
            clock.set_end(Some(Instant::now() + Duration::from_secs(60 * minutes)));
            clock.begin(&problem(1), still_to_come, benches);
            clock.leave(&problem(1));
            let trying = clock.end_of(&problem(1)).unwrap().saturating_duration_since(Instant::now()).as_secs_f64();
            (trying / TRYING_SHARE).round() as u64
        };
        assert_eq!((begin(10, 9, 1), begin(10, 0, 1), begin(10, 9, 2)), (60, 600, 120));
        assert_eq!(begin(10, 0, 2), 600, "no more than there is");
        assert_eq!(begin(0, 0, 1), 0);
        // Three in all: two at once, of which each has as much of the two benches' time as the third will have of its own.
        clock.begin(&problem(2), 2, 2);
        assert_eq!(begin(10, 1, 2), 400);
        assert_eq!(begin(10, 10_000, 1), LEAST_SLICE.as_secs(), "enough to be of use");
    }

    #[test]
    fn what_a_problem_was_given_ends_it_alone_and_not_in_the_next_turn() {
        let clock = Clock::default();
        let later = Some(Instant::now() + Duration::from_secs(600));
        clock.set_end(later);
        clock.state().slices.insert(problem(1), Instant::now());
        assert!(!clock.has_time(&problem(1)).unwrap() && clock.has_time(&problem(2)).unwrap());
        assert!(clock.has_time_to_race(&problem(1)).unwrap() && clock.is_cut(&problem(1)));
        assert_eq!(clock.out_of_time(), BTreeSet::from([problem(1)]));
        clock.set_end(later);
        assert!(clock.has_time(&problem(1)).unwrap());
        clock.set_end(None);
        clock.begin(&problem(1), 5, 1);
        assert!(clock.has_time(&problem(1)).unwrap(), "without an end there is nothing to share");
    }
}
