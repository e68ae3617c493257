//! Two programs of one race by its rounds.

use crate::measure::{DurationClass, location_us, median, sorted};
use crate::model::Micros;

/// Rounds of one race, by duration class: as many as tell one per cent.
pub(super) fn rounds(duration: DurationClass) -> u32 {
    match duration {
        DurationClass::Under20 => 90,
        DurationClass::Under50 => 48,
        DurationClass::Under200 => 20,
        DurationClass::Slow => 12,
    }
}

/// The class of what takes about as long as these rounds.
pub(super) fn duration_of(rounds_us: &[f64]) -> DurationClass {
    DurationClass::of(Micros(location_us(&sorted(rounds_us.iter().copied()))))
}

/// ln(time / other time) over the rounds that both ran: of those whose rounds are late now and then the figure that repeats best,
/// else the median of the rounds' own ratios, since the clock changes from one to the next. Nothing of no rounds.
pub(super) fn ln_ratio(time_us: &[f64], other_us: &[f64]) -> Option<f64> {
    let common = time_us.len().min(other_us.len());
    let (time_us, other_us) = (&time_us[..common], &other_us[..common]);
    let change = if duration_of(other_us).is_late_now_and_then() {
        let figure = |rounds_us: &[f64]| location_us(&sorted(rounds_us.iter().copied()));
        (figure(time_us) / figure(other_us)).ln()
    } else {
        median(time_us.iter().zip(other_us).map(|(time, other)| (time / other).ln()))?
    };
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
