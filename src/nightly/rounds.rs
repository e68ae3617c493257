//! Two programs of one race by its rounds.

use crate::measure::{DurationClass, location_us, log_ratio, sorted};
use crate::model::Micros;

/// The class of what takes about as long as these rounds.
pub(super) fn duration_of(rounds_us: &[f64]) -> DurationClass {
    DurationClass::of(Micros(location_us(&sorted(rounds_us.iter().copied()))))
}

/// ln(time / other time) over the rounds that both ran. Nothing of no rounds.
pub(super) fn ln_ratio(time_us: &[f64], other_us: &[f64]) -> Option<f64> {
    let change = log_ratio(time_us, other_us);
    change.is_finite().then_some(change)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn late_rounds_and_a_changing_clock_make_no_difference() {
        let late: Vec<f64> = (0..90).map(|round| if round % 9 == 0 { 11.0 } else { 10.0 }).collect();
        assert!(ln_ratio(&late, &[10.0; 90]).unwrap().abs() < 1e-12);
        let slowing: Vec<f64> = (0..12).map(|round| 300.0 + 5.0 * f64::from(round)).collect();
        let by_three: Vec<f64> = slowing.iter().map(|us| us * 1.03).collect();
        assert!((ln_ratio(&by_three, &slowing).unwrap() - 1.03f64.ln()).abs() < 1e-12);
        assert!((ln_ratio(&by_three[..6], &slowing).unwrap() - 1.03f64.ln()).abs() < 1e-12, "one dropped out");
        assert_eq!(ln_ratio(&[], &slowing), None);
    }
}
