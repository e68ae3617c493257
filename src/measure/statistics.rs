//! Order statistics.

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
        let at = |fraction| Micros(quantile(times_us, fraction));
        Self { median_us: at(0.5), q1_us: at(0.25), q3_us: at(0.75), min_us: at(0.0), samples: times_us.len() as u32 }
    }
}

/// The value below which `fraction` of the values lie, interpolated linearly between neighbours. NaN where there is none.
pub fn quantile(values: &[f64], fraction: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = fraction.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The middle value. NaN where there is none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The geometric mean. NaN where there is no value.
pub fn geomean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            let cut = quantile(&values, fraction);
            let below = values.iter().filter(|value| **value <= cut).count();
            prop_assert!(below as f64 >= (fraction * (values.len() - 1) as f64).floor());
        }
    }
}
