//! Order statistics and geometric means of small samples.

use crate::model::Micros;
use serde::{Deserialize, Serialize};

/// How long a kernel takes, as far as that decides how it is measured: how many rounds tell it from another, and which
/// statistic of them repeats best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurationClass {
    /// Below 12 µs. Kernels that read through the copy engine have two states here, from one launch to the next and for no reason that
    /// shows: on an H200 one launch in four of some takes 8 µs, the others 9.
    Under12,
    /// 12 to 20 µs, where one round in ten is about a microsecond late.
    Under20,
    /// 20 to 50 µs.
    Under50,
    /// 50 to 200 µs.
    Under200,
    /// 200 µs and more, where the clock changes from one round to the next, and rounds only compare as pairs.
    Slow,
}

impl DurationClass {
    /// All of them, the fastest first.
    pub const ALL: [Self; 5] = [Self::Under12, Self::Under20, Self::Under50, Self::Under200, Self::Slow];

    /// The class of a time.
    pub fn of(time: Micros) -> Self {
        match time.0 {
            us if us < 12.0 => Self::Under12,
            us if us < 20.0 => Self::Under20,
            us if us < 50.0 => Self::Under50,
            us if us < 200.0 => Self::Under200,
            _ => Self::Slow,
        }
    }

    /// Whether the mean of the fastest half repeats better than the median. Of the null arms of 1,547 finals on an H200, 95 % were
    /// within 0.9 and 0.55 % by it below 20 and 50 µs, where by the median it took 1.3 and 1.0 %; above there is little in it.
    pub fn is_late_now_and_then(self) -> bool {
        matches!(self, Self::Under12 | Self::Under20 | Self::Under50)
    }
}

/// The figure of a set of times that repeats best, in microseconds: the mean of the fastest half of those whose median is
/// [late now and then](DurationClass::is_late_now_and_then), else the median. `NaN` of nothing.
pub fn location_us(sorted_us: &[f64]) -> f64 {
    let median_us = quantile(sorted_us, 0.5).unwrap_or(f64::NAN);
    if DurationClass::of(Micros(median_us)).is_late_now_and_then() {
        mean(&sorted_us[..sorted_us.len().div_ceil(2)]).unwrap_or(f64::NAN)
    } else {
        median_us
    }
}

/// What a journal keeps of a set of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What configs are compared by: see [`location_us`].
    pub time_us: Micros,
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
        let time_us = Micros(location_us(&sorted_us));
        Self {
            time_us,
            median_us: at(0.5),
            q1_us: at(0.25),
            q3_us: at(0.75),
            min_us: at(0.0),
            samples: times_us.len() as u32,
        }
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
    fn classes_begin_where_the_ones_before_end() {
        use DurationClass::{Slow, Under12, Under20, Under50, Under200};
        let bounds = [(Under12, 0.0, 12.0), (Under20, 12.0, 20.0), (Under50, 20.0, 50.0), (Under200, 50.0, 200.0)];
        for (class, first, end) in bounds {
            assert_eq!([first, end - 1e-9].map(|us| DurationClass::of(Micros(us))), [class; 2]);
        }
        assert_eq!([200.0, 1e9].map(|us| DurationClass::of(Micros(us))), [Slow; 2]);
        assert_eq!(DurationClass::ALL.map(DurationClass::is_late_now_and_then), [true, true, true, false, false]);
    }

    #[test]
    fn short_times_are_told_by_their_fastest_half_and_long_ones_by_their_middle() {
        for (times_us, wanted) in [
            (&[10.0, 12.0, 30.0, 40.0][..], 11.0),
            (&[10.0, 12.0, 14.0, 40.0, 90.0], 12.0),
            (&[60.0, 62.0, 64.0], 62.0),
            (&[300.0, 301.0, 303.0, 900.0], 302.0),
        ] {
            assert_eq!(Summary::of(times_us).time_us, Micros(wanted), "{times_us:?}");
        }
        assert!(location_us(&[]).is_nan());
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
