//! Two configs on one problem: which is faster, and by more than noise? By the rounds of a race that both ran in, else by what
//! each time says of itself.

use super::evidence::Timing;
use super::noise::{ASSUMED_NOISE, MAD_SIGMAS};
use crate::measure::Z_95;
use crate::measure::{DurationClass, mean, median, quantile, sorted};
use crate::model::Micros;

/// Standard error of the median over that of the mean, for normal samples: √(π/2).
const MEDIAN_EFFICIENCY: f64 = 1.2533;

/// Interquartile range of a normal distribution in standard deviations.
const IQR_SIGMAS: f64 = 1.349;

/// Fewer rounds than this say nothing of their own spread.
const FEWEST_ROUNDS: usize = 5;

/// Two configs on one problem.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair {
    /// Time of the first over time of the second.
    pub(crate) ratio: f64,
    /// How far from 1 the ratio must be to mean anything.
    pub(crate) noise: f64,
    /// The interleaved rounds behind it; 0 where only times of their own were there.
    pub(crate) rounds: usize,
}

/// Compares two times on a problem whose noise is at least `noise`, as far as they tell of it themselves: by the rounds they
/// share, else by what the quartiles of two separate times say.
pub(crate) fn pair(first: &Timing, second: &Timing, noise: f64) -> Pair {
    let rounds = shared_rounds(first, second);
    match ln_ratio(&rounds) {
        Some(ln_ratio) if rounds.len() >= FEWEST_ROUNDS => {
            let distance = median(rounds.iter().map(|(first, second)| ((first / second).ln() - ln_ratio).abs()));
            let error = MEDIAN_EFFICIENCY * MAD_SIGMAS * distance.unwrap_or(0.0) / (rounds.len() as f64).sqrt();
            Pair { ratio: ln_ratio.exp(), noise: noise.max(Z_95 * error), rounds: rounds.len() }
        }
        _ => {
            let spread = relative_error(first).zip(relative_error(second)).map(|(one, other)| Z_95 * one.hypot(other));
            let noise = noise.max(spread.unwrap_or(ASSUMED_NOISE));
            Pair { ratio: first.time_us / second.time_us, noise, rounds: 0 }
        }
    }
}

/// The logarithm of the ratio of two arms of one race, and the rounds behind it; nothing where they share none.
pub(super) fn raced(first: &Timing, second: &Timing) -> Option<(f64, usize)> {
    let rounds = shared_rounds(first, second);
    Some((ln_ratio(&rounds)?, rounds.len()))
}

/// The times of two arms in the rounds of one race that both ran in: of those that did not choose the winner, or of all
/// where one of the two was out by then.
fn shared_rounds(first: &Timing, second: &Timing) -> Vec<(f64, f64)> {
    if first.race != second.race {
        return Vec::new();
    }
    let joined = first.joined.max(second.joined);
    let chosen_by = first.chosen_by.max(second.chosen_by);
    let since = |start: u32| -> Vec<(f64, f64)> {
        first
            .rounds_since(start)
            .zip(second.rounds_since(start))
            .filter(|(first, second)| *first > 0.0 && *second > 0.0)
            .collect()
    };
    let reported = since(joined.max(chosen_by));
    if reported.is_empty() { since(joined) } else { reported }
}

/// The logarithm of the ratio of two arms' times: of the means of their fastest halves where single rounds of the faster are late
/// now and then; else the median of the rounds' ratios, which a clock that changes from round to round does not touch.
fn ln_ratio(rounds: &[(f64, f64)]) -> Option<f64> {
    let (first, second) = (sorted(rounds.iter().map(|round| round.0)), sorted(rounds.iter().map(|round| round.1)));
    let faster_us = quantile(&first, 0.5)?.min(quantile(&second, 0.5)?);
    if DurationClass::of(Micros(faster_us)).is_late_now_and_then() {
        let fastest_half = rounds.len().div_ceil(2);
        Some((mean(&first[..fastest_half])? / mean(&second[..fastest_half])?).ln())
    } else {
        median(rounds.iter().map(|(first, second)| (first / second).ln()))
    }
}

/// Half the width of a 95 % interval for a lone time, relative to it, by its quartiles; nothing where it has none.
pub(super) fn lone_noise(timing: &Timing) -> Option<f64> {
    Some(Z_95 * relative_error(timing)?)
}

/// The standard error of a time, relative to it, from its quartiles.
fn relative_error(timing: &Timing) -> Option<f64> {
    let (q1, q3) = timing.quartiles_us?;
    let error = MEDIAN_EFFICIENCY * (q3 - q1) / IQR_SIGMAS / timing.time_us / f64::from(timing.samples).sqrt();
    (error.is_finite() && error >= 0.0).then_some(error)
}
