//! Sampling and statistics over a [`Timer`]: when to stop, what to drop, what to report. Knows no device.

mod canary;
mod criterion;
mod cross_fit;
mod interval;
mod race;
mod statistics;
mod warmup;

pub use canary::Watch;
pub use criterion::{Noise, StoppingCriterion};
pub use cross_fit::{CrossFit, cross_fit, interval_of_largest, log_ratio};
pub(crate) use interval::Z_95;
pub use interval::{Interval, interval_of_mean, interval_of_quantile};
pub use race::{RacePlan, Raced, Rounds, race};
pub use statistics::{DurationClass, Summary, geomean, location_us, mean, median, quantile, sorted};
pub use warmup::{WarmUp, warm_up};

use crate::error::Result;
use crate::model::Micros;
use serde::{Deserialize, Serialize};

/// One timed run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How long it took.
    pub time: Micros,
    /// SM clock while it ran, where the device tells.
    pub sm_mhz: Option<u32>,
    /// Whether the device ran below its clocks for heat or power.
    pub throttled: bool,
}

/// Runs the thing being measured once, under the device's sampling protocol.
pub trait Timer {
    /// Takes one sample.
    fn sample(&mut self) -> Result<Sample>;
}

/// How many samples to take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Samples taken in any case (unless abandoned).
    pub min_samples: u32,
    /// Samples after which sampling ends whatever the noise.
    pub max_samples: u32,
    /// Give up after any sample slower than this: the config cannot win.
    pub abandon_above: Option<Micros>,
}

impl Sampling {
    /// Enough to rank configs that differ by some per cent.
    pub const SCREEN: Self = Self { min_samples: 3, max_samples: 5, abandon_above: None };
    /// Enough to rank the neighbours of a good config. What is closer races.
    pub const REFINE: Self = Self { min_samples: 4, max_samples: 10, abandon_above: None };

    /// The same, giving up above `factor` times the best time so far.
    #[must_use]
    pub fn abandoning(self, best: Option<Micros>, factor: f64) -> Self {
        Self { abandon_above: best.map(|best| Micros(best.0 * factor)), ..self }
    }
}

/// Throttled samples dropped one after another before they are kept and their trials flagged.
const MAX_THROTTLED: u32 = 4;

/// Which throttled samples to drop, for the life of a device: the first few of a spell. A device that stays throttled, under
/// a load that its power does not allow, is measured as it is: its clock does not come back for a sample or two.
#[derive(Clone, Debug, Default)]
pub struct Throttling {
    in_a_row: u32,
}

impl Throttling {
    /// Takes note of what came next, throttled or not; whether to drop it.
    pub fn drops(&mut self, throttled: bool) -> bool {
        self.in_a_row = if throttled { self.in_a_row.saturating_add(1) } else { 0 };
        throttled && self.in_a_row <= MAX_THROTTLED
    }
}

/// What sampling found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Order statistics of the samples kept.
    pub summary: Summary,
    /// SM clock while it ran: the median of the samples'.
    pub sm_mhz: Option<u32>,
    /// Throttled samples had to be kept.
    pub throttled: bool,
    /// Other work disturbed the device meanwhile, as far as [`Watch`] tells.
    #[serde(default)]
    pub loaded: bool,
}

/// Samples `timer` until the noise has settled, a cap is hit, or the config proves hopeless.
pub fn measure(timer: &mut dyn Timer, sampling: &Sampling, throttling: &mut Throttling) -> Result<Measurement> {
    let mut criterion = Noise::default();
    criterion.initialize();
    let (mut times, mut clocks) = (Vec::new(), Vec::new());
    let mut throttled = false;
    loop {
        let sample = timer.sample()?;
        if throttling.drops(sample.throttled) {
            continue;
        }
        throttled |= sample.throttled;
        times.push(sample.time.0);
        clocks.extend(sample.sm_mhz);
        criterion.add(sample.time);
        let hopeless = sampling.abandon_above.is_some_and(|limit| sample.time > limit);
        let count = times.len() as u32;
        if hopeless || count >= sampling.max_samples || (count >= sampling.min_samples && criterion.finished()) {
            let (summary, sm_mhz) = (Summary::of(&times), middle_clock(clocks));
            return Ok(Measurement { summary, sm_mhz, throttled, loaded: false });
        }
    }
}

/// The middle one of some samples' clocks.
fn middle_clock(clocks_mhz: impl IntoIterator<Item = u32>) -> Option<u32> {
    median(clocks_mhz.into_iter().map(f64::from)).map(|mhz| mhz.round() as u32)
}

impl Measurement {
    /// What some samples of a race come to.
    pub fn of_race(summary: Summary, samples: &[Sample]) -> Self {
        let sm_mhz = middle_clock(samples.iter().filter_map(|sample| sample.sm_mhz));
        Self { summary, sm_mhz, throttled: samples.iter().any(|sample| sample.throttled), loaded: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Plays back a list of samples; the last one repeats for ever.
    struct Tape(VecDeque<Sample>);

    impl Tape {
        fn of(times: impl IntoIterator<Item = f64>) -> Self {
            Self(
                times.into_iter().map(|us| Sample { time: Micros(us), sm_mhz: Some(1980), throttled: false }).collect(),
            )
        }
    }

    impl Timer for Tape {
        fn sample(&mut self) -> Result<Sample> {
            let first = self.0[0];
            if self.0.len() > 1 {
                self.0.pop_front();
            }
            Ok(first)
        }
    }

    fn measure(tape: &mut Tape, sampling: &Sampling) -> Result<Measurement> {
        super::measure(tape, sampling, &mut Throttling::default())
    }

    const PATIENT: Sampling = Sampling { min_samples: 3, max_samples: 200, abandon_above: None };

    #[test]
    fn steady_times_stop_at_the_minimum() {
        let measured = measure(&mut Tape::of([10.0]), &PATIENT).unwrap();
        assert_eq!(measured.summary.samples, 3);
        assert_eq!(measured.summary.median_us, Micros(10.0));
    }

    #[test]
    fn settled_noise_stops_before_the_cap_and_keeps_the_median() {
        let noisy = (0..1000).map(|index| if index % 2 == 0 { 9.0 } else { 11.0 });
        let measured = measure(&mut Tape::of(noisy), &PATIENT).unwrap();
        assert!((4..200).contains(&measured.summary.samples), "{}", measured.summary.samples);
        assert!((9.0..=11.0).contains(&measured.summary.median_us.0));
    }

    #[test]
    fn drifting_times_run_to_the_cap() {
        let drifting = (0..1000).map(|index| 10.0 * 1.05f64.powi(index));
        assert_eq!(measure(&mut Tape::of(drifting), &PATIENT).unwrap().summary.samples, 200);
    }

    #[test]
    fn a_hopeless_config_is_abandoned_at_once() {
        let sampling = PATIENT.abandoning(Some(Micros(4.0)), 2.0);
        assert_eq!(measure(&mut Tape::of([10.0]), &sampling).unwrap().summary.samples, 1);
    }

    #[test]
    fn throttled_samples_are_dropped() {
        let mut tape = Tape::of([99.0, 10.0]);
        tape.0[0].throttled = true;
        let measured = measure(&mut tape, &PATIENT).unwrap();
        assert_eq!(measured.summary.median_us, Micros(10.0));
        assert!(!measured.throttled);
    }

    #[test]
    fn a_trial_that_is_always_throttled_ends_and_is_flagged() {
        let mut tape = Tape::of([10.0]);
        tape.0[0].throttled = true;
        assert!(measure(&mut tape, &PATIENT).unwrap().throttled);
    }

    #[test]
    fn a_device_that_stays_throttled_is_not_waited_for_again() {
        let mut throttling = Throttling::default();
        let mut samples = |throttled: bool, count: usize| {
            let times = (0..count).map(|index| 10.0 + index as f64);
            let mut tape = Tape::of(times.chain([99.0]));
            tape.0.iter_mut().for_each(|sample| sample.throttled = throttled);
            let three = Sampling { min_samples: 3, max_samples: 3, abandon_above: None };
            let measured = super::measure(&mut tape, &three, &mut throttling).unwrap();
            (measured.summary.median_us, measured.throttled)
        };
        assert_eq!(samples(true, 9), (Micros(15.0), true), "four are dropped");
        assert_eq!(samples(true, 9), (Micros(11.0), true), "none is");
        assert_eq!(samples(false, 9), (Micros(11.0), false));
        assert_eq!(samples(true, 9), (Micros(15.0), true), "a new spell");
    }
}
