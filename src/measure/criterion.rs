//! When the samples are enough.

use crate::model::Micros;

/// Decides when sampling may stop.
pub trait StoppingCriterion {
    /// Forgets all samples.
    fn initialize(&mut self);
    /// Takes note of one sample.
    fn add(&mut self, time: Micros);
    /// Whether more samples would tell nothing new.
    fn finished(&self) -> bool;
}

/// Stops once the relative standard deviation is small, or has itself stopped changing while the times do not drift:
/// noise that has settled does not shrink by sampling on.
#[derive(Clone, Debug)]
pub struct Noise {
    /// Relative standard deviation that is small enough.
    pub small: f64,
    /// Largest relative change of the noise, over `window` samples, that counts as settled.
    pub settled: f64,
    /// Samples over which the noise must hold still.
    pub window: usize,
    count: f64,
    mean: f64,
    squares: f64,
    times: Vec<f64>,
    history: Vec<f64>,
}

/// A relative standard deviation of 0.5 %; noise that moved by less than 5 % over the last 8 samples.
impl Default for Noise {
    fn default() -> Self {
        Self {
            small: 0.005,
            settled: 0.05,
            window: 8,
            count: 0.0,
            mean: 0.0,
            squares: 0.0,
            times: Vec::new(),
            history: Vec::new(),
        }
    }
}

impl StoppingCriterion for Noise {
    fn initialize(&mut self) {
        let Self { small, settled, window, .. } = *self;
        *self = Self { small, settled, window, ..Self::default() };
    }

    /// Welford's running mean and sum of squares, which loses no digits when the noise is small.
    fn add(&mut self, time: Micros) {
        self.count += 1.0;
        let distance = time.0 - self.mean;
        self.mean += distance / self.count;
        self.squares += distance * (time.0 - self.mean);
        self.times.push(time.0);
        self.history.push(self.relative_deviation());
    }

    fn finished(&self) -> bool {
        let Some(&last) = self.history.last() else { return false };
        if self.history.len() < 2 {
            return false;
        }
        last < self.small || (self.holds_still(last) && !self.drifts(last))
    }
}

impl Noise {
    /// Whether the last `window` values of the noise are all near the `last` one.
    fn holds_still(&self, last: f64) -> bool {
        let recent = &self.history[self.history.len().saturating_sub(self.window)..];
        recent.len() == self.window && recent.iter().all(|noise| (noise - last).abs() <= self.settled * last)
    }

    /// Whether the mean of the last `window` times is off the mean of all by more than two standard errors.
    fn drifts(&self, noise: f64) -> bool {
        let recent = &self.times[self.times.len().saturating_sub(self.window)..];
        let recent_mean = recent.iter().sum::<f64>() / recent.len() as f64;
        (recent_mean / self.mean - 1.0).abs() > 2.0 * noise / (recent.len() as f64).sqrt()
    }

    fn relative_deviation(&self) -> f64 {
        if self.count < 2.0 { f64::INFINITY } else { (self.squares / (self.count - 1.0)).sqrt() / self.mean }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples until it is enough, of times that take turns.
    fn samples_of(mut noise: Noise) -> usize {
        let times_us = [9.0, 11.0, 10.0, 10.5].into_iter().cycle().map(Micros);
        let enough = times_us.take(1000).position(|time| {
            noise.add(time);
            noise.finished()
        });
        enough.map_or(1000, |last| last + 1)
    }

    fn of(times_us: &[f64]) -> Noise {
        let mut noise = Noise { window: 4, ..Noise::default() };
        for us in times_us {
            noise.add(Micros(*us));
        }
        noise
    }

    #[test]
    fn two_equal_samples_are_enough() {
        assert!(!of(&[]).finished() && !of(&[10.0]).finished());
        assert!(of(&[10.0, 10.0]).finished());
    }

    #[test]
    fn noise_is_the_standard_deviation_over_the_mean() {
        for (times_us, wanted) in [(&[9.0, 11.0][..], 2f64.sqrt()), (&[8.0, 10.0, 12.0], 2.0), (&[10.0; 5], 0.0)] {
            let deviation = of(times_us).relative_deviation();
            assert!((deviation - wanted / 10.0).abs() < 1e-12, "{times_us:?}: {deviation}");
        }
        assert!(of(&[10.0]).relative_deviation().is_infinite(), "one says nothing");
    }

    #[test]
    fn times_drift_where_the_last_are_off_by_more_than_two_errors_of_their_mean() {
        for (first, last) in [(10.0, 11.0), (11.0, 10.0)] {
            let mut times_us = [first; 8];
            times_us[4..].fill(last);
            // The mean is 10.5; four times of this noise have an error of half of it.
            let off = 0.5 / 10.5;
            assert!(of(&times_us).drifts(0.99 * off) && !of(&times_us).drifts(1.01 * off), "{times_us:?}");
        }
        assert!(!of(&[10.0; 8]).drifts(0.0));
    }

    #[test]
    fn noise_holds_still_where_all_of_the_window_are_near_the_last() {
        let noise = |history: &[f64]| Noise { history: history.to_vec(), ..of(&[]) };
        assert!(noise(&[0.3, 0.1, 0.096, 0.104, 0.1]).holds_still(0.1));
        assert!(!noise(&[0.3, 0.1, 0.096, 0.106, 0.1]).holds_still(0.1));
        assert!(!noise(&[0.3, 0.094, 0.1, 0.1, 0.1]).holds_still(0.1));
        assert!(!noise(&[0.1, 0.1, 0.1]).holds_still(0.1), "too few");
        let half = Noise { settled: 0.5, ..noise(&[0.25, 0.75, 0.5, 0.5]) };
        assert!(half.holds_still(0.5), "near enough at the bound");
    }

    #[test]
    fn what_is_enough_stays_the_same_when_samples_are_forgotten() {
        let usual = samples_of(Noise::default());
        for noise in [
            Noise { small: 0.2, ..Noise::default() },
            Noise { settled: 0.5, ..Noise::default() },
            Noise { window: 4, ..Noise::default() },
        ] {
            let mut again = noise.clone();
            again.add(Micros(1000.0));
            again.initialize();
            assert_eq!(samples_of(again), samples_of(noise.clone()), "{noise:?}");
            assert!(samples_of(noise.clone()) < usual, "{noise:?} is content with less");
        }
    }
}
