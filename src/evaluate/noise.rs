//! What differs by chance: the best of each race ran twice, and how far it came out from itself is pooled over problems that take
//! about as long. One draw alone says little.

use crate::derive::{NOISE_FLOOR, half_width};
use crate::journal::Trial;
use crate::measure::{DurationClass, log_ratio, median};

/// Fewer duplicates than this of one class are no pool: all classes' are taken together then.
const FEWEST: usize = 8;

/// A config beside its duplicate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NullArm {
    class: DurationClass,
    /// Logarithm of the duplicate's time over that of the config, by the rounds both ran in.
    ln_ratio: f64,
}

impl NullArm {
    /// Of a race's trials, whose duplicate may have joined late.
    pub(super) fn of(raced: &[Trial]) -> Option<Self> {
        let duplicate = raced.iter().find(|trial| trial.null_arm)?;
        let original = raced.iter().find(|trial| !trial.null_arm && trial.config == duplicate.config)?;
        let rounds_us = original.rounds_us.get(duplicate.joined as usize..)?;
        let ln_ratio = log_ratio(&duplicate.rounds_us, rounds_us);
        ln_ratio.is_finite().then_some(Self { class: DurationClass::of(original.time()?), ln_ratio })
    }
}

/// How far from 1 a ratio must be to mean anything, with 95 %, where kernels take so long.
pub(super) fn pooled(null_arms: &[NullArm], class: DurationClass) -> f64 {
    let own: Vec<f64> = null_arms.iter().filter(|null| null.class == class).map(|null| null.ln_ratio.abs()).collect();
    let pool = if own.len() >= FEWEST { own } else { null_arms.iter().map(|null| null.ln_ratio.abs()).collect() };
    median(pool).map_or(0.0, half_width).exp_m1().max(NOISE_FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null(class: DurationClass, ln_ratio: f64) -> NullArm {
        NullArm { class, ln_ratio }
    }

    #[test]
    fn noise_is_that_of_the_class_and_of_all_where_it_has_few() {
        let mut null_arms = vec![null(DurationClass::Under20, 0.01); 8];
        null_arms.extend([null(DurationClass::Slow, -0.002); 20]);
        let percent = |class| (100.0 * pooled(&null_arms, class)).round();
        assert_eq!((percent(DurationClass::Under20), percent(DurationClass::Under50)), (3.0, 1.0));
        null_arms.pop();
        assert!(pooled(&null_arms, DurationClass::Slow) < 0.006);
        assert!((pooled(&[], DurationClass::Slow) - NOISE_FLOOR).abs() < 1e-12);
    }

    #[test]
    fn one_wild_draw_is_not_the_noise() {
        let mut null_arms = vec![null(DurationClass::Slow, 0.001); 9];
        null_arms.push(null(DurationClass::Slow, 0.2));
        assert!(pooled(&null_arms, DurationClass::Slow) < 0.006);
    }
}
