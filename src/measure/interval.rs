//! How far figures over problems may be off: 95 % intervals of a mean, a quantile and the largest.
//!
//! Problems are taken for independent draws from what users may come with. What the rounds of each are off by is part of how
//! they spread, so it needs no resampling of its own, but where the problems stand fixed: in the largest of them.

use super::statistics::{mean, sorted};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The share of an interval's cases that either of its sides may miss.
pub(super) const TAIL: f64 = 0.025;
/// Half the width of a 95 % interval in standard errors, of a normal distribution.
pub(crate) const Z_95: f64 = 1.96;
/// Resamples of the problems: the ends of the interval are then within some 2 % of its width.
const RESAMPLES: usize = 2000;
/// Fewer values say nothing of their own spread.
const FEWEST: usize = 8;

/// An interval that holds what was to be estimated in 95 of a hundred cases. In JSON `[low, high]`, null where what was measured
/// sets no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[Option<f64>; 2]", into = "[Option<f64>; 2]")]
pub struct Interval {
    /// The lower bound.
    pub low: Option<f64>,
    /// The upper bound.
    pub high: Option<f64>,
}

impl Interval {
    /// The interval with these bounds; what is not finite is none.
    pub(super) fn between(low: f64, high: f64) -> Self {
        let finite = |bound: f64| bound.is_finite().then_some(bound);
        Self { low: finite(low), high: finite(high) }
    }

    /// The interval of a growing function of the value, such as of its exponential.
    #[must_use]
    pub fn map(self, function: impl Fn(f64) -> f64) -> Self {
        Self { low: self.low.map(&function), high: self.high.map(function) }
    }
}

impl From<[Option<f64>; 2]> for Interval {
    fn from([low, high]: [Option<f64>; 2]) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for [Option<f64>; 2] {
    fn from(interval: Interval) -> Self {
        [interval.low, interval.high]
    }
}

/// Of the mean of what the values are a sample of: a studentized bootstrap, since a few large values, which regrets have, make
/// the mean of those without them too low and its error too small together.
pub fn interval_of_mean(values: &[f64], seed: u64) -> Interval {
    if values.len() < FEWEST {
        return Interval::default();
    }
    let (middle, error) = mean_and_error(values);
    if error == 0.0 {
        return Interval::between(middle, middle);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let distances = sorted((0..RESAMPLES).map(|_| {
        let resampled: Vec<f64> = values.iter().map(|_| values[random.random_range(0..values.len())]).collect();
        let (of_resampled, error) = mean_and_error(&resampled);
        (of_resampled - middle) / error // infinite where all that was drawn is equal
    }));
    let at = |share: f64| distances[(share * (distances.len() - 1) as f64).round() as usize];
    Interval::between(middle - at(1.0 - TAIL) * error, middle - at(TAIL) * error)
}

/// The mean, and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let middle = mean(values).unwrap_or(f64::NAN);
    let squares: f64 = values.iter().map(|value| (value - middle).powi(2)).sum();
    (middle, (squares / (count - 1.0) / count).sqrt())
}

/// Of the `share` quantile of what the sorted values are a sample of: how many of them are below it is binomial, whatever they
/// are, so that two ranks bound it. Past the last one it has no bound: forty values do not tell how far the worst hundredth goes,
/// and resampling them would not either.
pub fn interval_of_quantile(sorted: &[f64], share: f64) -> Interval {
    let [low, high] = [TAIL, 1.0 - TAIL].map(|tail| binomial_quantile(sorted.len(), share, tail));
    // Where so many are below, between the last of them and the first that is not.
    let at = |below: f64| {
        let last = sorted.get((below.floor() as usize).checked_sub(1)?)?;
        let next = sorted.get(below.floor() as usize)?;
        Some(last + below.fract() * (next - last))
    };
    Interval { low: at(low), high: at(high) }
}

/// How many of `count` events, each of the given probability, happen at most in the share `tail` of all cases; between two
/// whole numbers in proportion.
fn binomial_quantile(count: usize, probability: f64, tail: f64) -> f64 {
    let mut ln_mass = count as f64 * (1.0 - probability).ln();
    let mut below = 0.0;
    for events in 0..=count {
        let mass = ln_mass.exp();
        if below + mass >= tail {
            return events as f64 + (tail - below) / mass;
        }
        below += mass;
        ln_mass += ((count - events) as f64 / (events + 1) as f64 * probability / (1.0 - probability)).ln();
    }
    (count + 1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::cross_fit::interval_of_largest;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn intervals_are_lists_of_two_in_json() {
        let interval = Interval { low: Some(1.5), high: None };
        let text = serde_json::to_string(&interval).unwrap();
        assert_eq!(text, "[1.5,null]");
        assert_eq!(serde_json::from_str::<Interval>(&text).unwrap(), interval);
    }

    #[test]
    fn the_error_of_a_mean_is_that_of_a_sample() {
        let (middle, error) = mean_and_error(&[1.0, 2.0, 3.0, 6.0]);
        // Squares of 4, 1, 0 and 9 over three, of four values.
        assert!(
            (middle - 3.0).abs() < 1e-12 && (error - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12,
            "{middle} {error}"
        );
    }

    #[test]
    fn a_mean_is_bounded_on_the_side_of_its_large_values_by_more() {
        let values: Vec<f64> = (0..40).map(|index| if index % 8 == 0 { 8.0 } else { f64::from(index % 3) }).collect();
        let (middle, error) = mean_and_error(&values);
        let Interval { low: Some(low), high: Some(high) } = interval_of_mean(&values, 0) else { unreachable!() };
        let [below, above] = [middle - low, high - middle].map(|reach| reach / error);
        assert!((1.4..2.0).contains(&below) && (2.0..3.2).contains(&above), "{below} and {above} standard errors");
        assert_eq!(interval_of_mean(&[3.0; 8], 0), Interval::between(3.0, 3.0));
        assert_eq!(interval_of_mean(&[3.0; 7], 0), Interval::default(), "too few to know their spread");
    }

    #[test]
    fn a_quantile_lies_between_two_ranks() {
        // Of 40 values fewer than 14.27 are below the median in 2.5 of a hundred cases, and more than 26.73 in as many.
        let values: Vec<f64> = (0..40).map(|index| f64::from(2 * index)).collect();
        let Interval { low: Some(low), high: Some(high) } = interval_of_quantile(&values, 0.5) else { unreachable!() };
        assert!((low / 2.0 - 13.27).abs() < 0.01 && (high / 2.0 - 25.73).abs() < 0.01, "{low} {high}");
    }

    #[test]
    fn a_binomial_quantile_is_where_the_sum_of_its_masses_comes_to_the_tail() {
        // Two throws of a coin: 1/4, 1/2, 1/4.
        let quantiles = [0.125, 0.25, 0.5, 0.75, 0.875].map(|tail| binomial_quantile(2, 0.5, tail));
        let wanted = [0.5, 1.0, 1.5, 2.0, 2.5];
        assert!(
            quantiles.iter().zip(wanted).all(|(quantile, wanted)| (quantile - wanted).abs() < 1e-12),
            "{quantiles:?}"
        );
        let many = binomial_quantile(1_000_000, 0.9, 0.5);
        assert!((many / 900_000.0 - 1.0).abs() < 1e-5, "{many}");
    }

    #[test]
    fn what_the_sample_cannot_bound_has_no_bound() {
        let values = sorted((0..40).map(f64::from));
        let (p90, p99) = (interval_of_quantile(&values, 0.9), interval_of_quantile(&values, 0.99));
        assert!(p90.low.unwrap() < 35.1 && p90.high.unwrap() > 35.1 && p90.high.unwrap() < 39.0, "{p90:?}");
        assert!(p99.low.is_some() && p99.high.is_none(), "{p99:?}");
        assert_eq!(interval_of_quantile(&[], 0.9), Interval::default());
        assert_eq!(interval_of_mean(&[1.0, 2.0], 0), Interval::default());
        assert_eq!(interval_of_largest(&[]), Interval::default());
    }

    proptest! {
        #[test]
        fn an_interval_holds_its_figure(values in prop::collection::vec(-1.0..1.0, 50..200)) {
            let sorted = sorted(values.iter().copied());
            let holds = |interval: Interval, figure: f64| {
                interval.low.is_none_or(|low| low <= figure) && interval.high.is_none_or(|high| figure <= high)
            };
            prop_assert!(holds(interval_of_mean(&values, 0), mean(&values).unwrap()));
            prop_assert!(holds(interval_of_quantile(&sorted, 0.9), super::super::quantile(&sorted, 0.9).unwrap()));
        }
    }
}
