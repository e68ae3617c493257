//! Order statistics and geometric means of small samples.

use crate::model::Micros;
use serde::{Deserialize, Serialize};

/// The order statistics a journal keeps of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle.
    pub median_us: Micros,
    /// A quarter of the samples are below.
    pub q1_us: Micros,
    /// A quarter of the samples are above.
    pub q3_us: Micros,
    /// The least.
    pub min_us: Micros,
    /// How many there were.
    pub samples: u32,
}

impl Summary {
    /// Summarizes the samples, in microseconds.
    pub fn of(times_us: &[f64]) -> Self {
        let sorted_us = sorted(times_us.iter().copied());
        let at = |share| Micros(quantile(&sorted_us, share).unwrap_or(f64::NAN));
        Self { median_us: at(0.5), q1_us: at(0.25), q3_us: at(0.75), min_us: at(0.0), samples: times_us.len() as u32 }
    }
}

/// The `share` quantile of sorted values, interpolated linearly between its neighbours; `None` of nothing.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (position - below as f64) * (sorted[above] - sorted[below]))
}

/// The values, sorted.
pub fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The median; `None` of nothing.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// The geometric mean of positive values; `None` of nothing.
pub fn geomean(values: &[f64]) -> Option<f64> {
    mean(&values.iter().map(|value| value.ln()).collect::<Vec<_>>()).map(f64::exp)
}

/// The arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_interpolate() {
        let values = sorted([4.0, 1.0, 3.0, 2.0]);
        assert_eq!(quantile(&values, 0.5), Some(2.5));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&values, 1.0), Some(4.0));
        assert_eq!(quantile(&values, 0.9), Some(3.7));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(median([7.0]), Some(7.0));
    }

    #[test]
    fn geometric_mean_of_a_ratio_and_its_inverse_is_one() {
        assert!((geomean(&[4.0, 0.25]).unwrap() - 1.0).abs() < 1e-15);
        assert_eq!(geomean(&[]), None);
    }

    #[test]
    fn quartiles_of_five() {
        let summary = Summary::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        let figures = [summary.min_us, summary.q1_us, summary.median_us, summary.q3_us];
        assert_eq!(figures, [1.0, 2.0, 3.0, 4.0].map(Micros));
        assert_eq!(summary.samples, 5);
    }

    proptest! {
        #[test]
        fn a_quantile_has_its_share_below(values in prop::collection::vec(0.0..1e6, 1..50), fraction in 0.0..1.0) {
            let cut = quantile(&sorted(values.iter().copied()), fraction).unwrap();
            let below = values.iter().filter(|value| **value <= cut).count();
            prop_assert!(below as f64 >= (fraction * (values.len() - 1) as f64).floor());
        }
    }
}
