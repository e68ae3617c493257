//! Clocks up and steady before the first trial: a GPU that was idle gives its first kernels slower clocks.

use super::{Timer, median};
use crate::error::Result;
use std::time::Duration;

/// When a device counts as warm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUp {
    /// Load is watched over windows of this length: several readings of the clock, which is polled.
    pub window: Duration,
    /// Largest relative change of clock and median time from one window to the next that counts as steady.
    pub steady: f64,
    /// Windows after which warming ends, steady or not.
    pub max_windows: u32,
}

/// Windows of 100 ms, five readings of the clock each; 1 %, a little more than a step of the clock; at most a second.
impl Default for WarmUp {
    fn default() -> Self {
        Self { window: Duration::from_millis(100), steady: 0.01, max_windows: 10 }
    }
}

/// What one window showed.
#[derive(Clone, Copy)]
struct Window {
    median_us: f64,
    sm_mhz: Option<u32>,
}

impl Window {
    fn is_near(&self, other: &Self, steady: f64) -> bool {
        let near = |one: f64, other: f64| (one / other - 1.0).abs() <= steady;
        let clocks = self.sm_mhz.zip(other.sm_mhz);
        near(self.median_us, other.median_us)
            && clocks.is_none_or(|(one, other)| near(f64::from(one), f64::from(other)))
    }
}

/// Runs the timer's kernel again and again until two windows in turn agree, or the cap is hit; `now` is the time since
/// any fixed moment. Returns whether it is steady.
///
/// # Errors
/// Where the timer fails.
pub fn warm_up(timer: &mut dyn Timer, limits: &WarmUp, now: &dyn Fn() -> Duration) -> Result<bool> {
    let mut last: Option<Window> = None;
    for _ in 0..limits.max_windows {
        let window = watch(timer, limits.window, now)?;
        if last.is_some_and(|last| window.is_near(&last, limits.steady)) {
            return Ok(true);
        }
        last = Some(window);
    }
    Ok(false)
}

fn watch(timer: &mut dyn Timer, length: Duration, now: &dyn Fn() -> Duration) -> Result<Window> {
    let end = now() + length;
    let mut times = Vec::new();
    loop {
        let sample = timer.sample()?;
        times.push(sample.time.0);
        if now() >= end {
            return Ok(Window { median_us: median(times).unwrap_or(f64::NAN), sm_mhz: sample.sm_mhz });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::measure::Sample;
    use crate::model::Micros;
    use std::cell::Cell;

    /// A device on a clock of its own: `state` gives kernel time and clock at any moment; a sample takes a `period`.
    struct Fake<'a> {
        now: &'a Cell<Duration>,
        state: fn(Duration) -> Option<(f64, u32)>,
        period: Duration,
    }

    impl Timer for Fake<'_> {
        fn sample(&mut self) -> Result<Sample> {
            self.now.set(self.now.get() + self.period);
            let (time_us, sm_mhz) = (self.state)(self.now.get()).ok_or_else(|| Error::failure("gone"))?;
            Ok(Sample { time: Micros(time_us), sm_mhz: Some(sm_mhz), throttled: false })
        }
    }

    /// Whether it got warm, and after how many milliseconds.
    fn warmed(state: fn(Duration) -> Option<(f64, u32)>) -> (Result<bool>, u128) {
        let now = Cell::new(Duration::ZERO);
        let mut device = Fake { now: &now, state, period: Duration::from_millis(1) };
        let outcome = warm_up(&mut device, &WarmUp::default(), &|| now.get());
        (outcome, now.get().as_millis())
    }

    #[test]
    fn a_warm_device_costs_two_windows() {
        let (steady, took_ms) = warmed(|_| Some((10.0, 1980)));
        assert_eq!((steady.unwrap(), took_ms), (true, 200));
    }

    #[test]
    fn a_clock_that_rises_is_waited_for() {
        // From 345 to 1980 MHz within 450 ms, times falling along.
        let (steady, took_ms) = warmed(|now| {
            let mhz = 345.0 + (1980.0 - 345.0) * (now.as_secs_f64() / 0.45).min(1.0);
            Some((10.0 * 1980.0 / mhz, mhz as u32))
        });
        assert!(steady.unwrap());
        assert!((600..=700).contains(&took_ms), "{took_ms} ms");
    }

    #[test]
    fn times_that_fall_at_one_clock_are_waited_for() {
        let (steady, took_ms) = warmed(|now| Some((20.0 - 10.0 * (now.as_secs_f64() / 0.5).min(1.0), 1980)));
        assert!(steady.unwrap());
        assert!((600..=700).contains(&took_ms), "{took_ms} ms");
    }

    #[test]
    fn a_device_that_never_settles_costs_a_second() {
        let (steady, took_ms) = warmed(|now| Some((10.0, 1000 + 100 * (now.as_millis() as u32 / 100 % 2))));
        assert_eq!((steady.unwrap(), took_ms), (false, 1000));
    }

    #[test]
    fn one_slow_kernel_fills_a_window() {
        let now = Cell::new(Duration::ZERO);
        let mut device = Fake { now: &now, state: |_| Some((7e5, 1980)), period: Duration::from_millis(700) };
        assert!(warm_up(&mut device, &WarmUp::default(), &|| now.get()).unwrap());
        assert_eq!(now.get().as_millis(), 1400);
    }

    #[test]
    fn a_fault_ends_it() {
        let (outcome, took_ms) = warmed(|now| (now < Duration::from_millis(50)).then_some((10.0, 1980)));
        assert_eq!((outcome.unwrap_err().to_string().as_str(), took_ms), ("gone", 50));
    }
}
