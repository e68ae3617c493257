//! How a family's time is dealt out: searching and crossing by turns, so that what is measured when the time is up makes a
//! usable document, and no time is left over while there is work.

use crate::error::Result;
use std::time::Duration;

/// The share of the time left that goes to searching; the rest is for crossing what was found.
const SEARCH_SHARE: f64 = 0.85;
/// With less than this share of the budget left, it is over.
const LEAST_SHARE: f64 = 0.02;
/// The share of the budget that is kept for deriving and writing.
const CLOSING_SHARE: f64 = 0.01;

/// What the time goes to. Moments are times since the start.
pub(super) trait Stages {
    /// The present moment.
    fn now(&self) -> Duration;

    /// Searches problems until then, without end where there is none; returns whether some are still to be searched.
    fn search(&mut self, until: Option<Duration>) -> Result<bool>;

    /// Crosses what was found until then.
    fn cross(&mut self, until: Option<Duration>) -> Result<()>;
}

/// Runs the stages until all is done or the budget is used up.
pub(super) fn run(stages: &mut dyn Stages, budget: Option<Duration>) -> Result<()> {
    let Some(budget) = budget else {
        stages.search(None)?;
        return stages.cross(None);
    };
    let end = budget.mul_f64(1.0 - CLOSING_SHARE);
    loop {
        let now = stages.now();
        let unfinished = stages.search(Some(now + end.saturating_sub(now).mul_f64(SEARCH_SHARE)))?;
        stages.cross(Some(end))?;
        if !unfinished || end.saturating_sub(stages.now()) <= budget.mul_f64(LEAST_SHARE) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Work that takes time on a clock of its own: each problem so long to search, each that was searched so long to cross.
    struct Fake {
        now: f64,
        searching: f64,
        crossing: f64,
        problems: usize,
        /// Seconds already spent on the problem that is being searched.
        begun: f64,
        searched: usize,
        crossed: usize,
        turns: usize,
    }

    impl Fake {
        fn new(problems: usize, searching: f64, crossing: f64) -> Self {
            Self { now: 0.0, searching, crossing, problems, begun: 0.0, searched: 0, crossed: 0, turns: 0 }
        }
    }

    /// The longest a trial takes, during which no clock is looked at.
    const TRIAL: f64 = 0.1;

    impl Stages for Fake {
        fn now(&self) -> Duration {
            Duration::from_secs_f64(self.now)
        }

        fn search(&mut self, until: Option<Duration>) -> Result<bool> {
            self.turns += 1;
            let until = until.map_or(f64::INFINITY, |until| until.as_secs_f64());
            while self.searched < self.problems && self.now < until {
                self.now += TRIAL;
                self.begun += TRIAL;
                if self.begun >= self.searching {
                    self.begun = 0.0;
                    self.searched += 1;
                }
            }
            Ok(self.searched < self.problems)
        }

        fn cross(&mut self, until: Option<Duration>) -> Result<()> {
            let until = until.map_or(f64::INFINITY, |until| until.as_secs_f64());
            while self.crossed < self.searched && self.now < until {
                self.now += self.crossing;
                self.crossed += 1;
            }
            Ok(())
        }
    }

    #[test]
    fn without_a_budget_all_is_done_in_one_turn() {
        let mut work = Fake::new(60, 5.0, 0.5);
        run(&mut work, None).unwrap();
        assert_eq!((work.searched, work.crossed, work.turns), (60, 60, 1));
    }

    #[test]
    fn work_that_fits_ends_early() {
        let mut work = Fake::new(10, 1.0, 0.1);
        run(&mut work, Some(Duration::from_secs(100))).unwrap();
        assert_eq!((work.searched, work.crossed), (10, 10));
        assert!(work.now < 15.0, "{}", work.now);
    }

    #[test]
    fn crossing_that_takes_little_leaves_no_time_over() {
        // The whole takes twice as long as there is.
        let mut work = Fake::new(60, 5.0, 0.5);
        run(&mut work, Some(Duration::from_secs(170))).unwrap();
        assert!((161.5..=171.0).contains(&work.now), "{}", work.now);
        assert_eq!(work.crossed, work.searched, "all that was found is crossed");
        assert!((2..=4).contains(&work.turns), "{} turns", work.turns);
    }

    #[test]
    fn no_budget_at_all_is_over_at_once() {
        let mut work = Fake::new(60, 5.0, 0.5);
        run(&mut work, Some(Duration::ZERO)).unwrap();
        assert_eq!((work.searched, work.turns), (0, 1));
    }

    proptest! {
        #[test]
        fn a_budget_that_work_does_not_fit_in_is_kept_within_5_per_cent(
            problems in 1usize..200,
            searching in 0.1f64..60.0,
            crossing in 0.01f64..1.0,
            budget in 20.0f64..1000.0,
        ) {
            let mut work = Fake::new(problems, searching, crossing);
            run(&mut work, Some(Duration::from_secs_f64(budget))).unwrap();
            let fits = work.searched == problems && work.crossed == problems;
            prop_assert!(work.now <= 1.05 * budget + 1e-9, "{} of {budget} s", work.now);
            prop_assert!(fits || work.now >= 0.95 * budget, "{} of {budget} s", work.now);
        }
    }
}
