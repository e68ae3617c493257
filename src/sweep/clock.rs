//! The time that a family's sweep has, and the problems that it did not suffice for.

use crate::error::Result;
use crate::model::Problem;
use crate::process;
use crate::worker::Deadlines;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    /// Problems the time did not reach, or not to their end.
    out_of_time: BTreeSet<Problem>,
}

impl Clock {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Past this, nothing new is tried.
    pub(crate) fn set_end(&self, end: Option<Instant>) {
        self.state().end = end;
    }

    pub(super) fn end(&self) -> Option<Instant> {
        self.state().end
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
        process::check_interrupt()?;
        let mut state = self.state();
        let is_late = state.end.is_some_and(|end| Instant::now() >= end);
        if is_late {
            state.out_of_time.insert(*problem);
        }
        Ok(!is_late)
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
