//! Two configs on one problem: which is faster, and by more than noise? By the rounds of a race that both ran in, else by what
//! each time says of itself.

use super::evidence::Timing;
use super::noise::{ASSUMED_NOISE, MAD_SIGMAS};
use crate::measure::{DurationClass, Z_95, mean, median, quantile, sorted};
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

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    /// An arm of the first race there is.
    fn arm(rounds_us: &[f64]) -> Timing {
        Timing {
            time_us: median(rounds_us.iter().copied()).unwrap(),
            rounds_us: rounds_us.to_vec(),
            race: 1,
            ..Timing::default()
        }
    }

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < 1e-9
    }

    #[test]
    fn long_rounds_compare_in_pairs_and_short_ones_by_their_fastest_half() {
        // The clock halves from round to round; the second takes 2 % more each time.
        let clock = [100.0, 400.0, 200.0, 800.0, 300.0];
        let (first, second) = (arm(&clock), arm(&clock.map(|us| 1.02 * us)));
        let (ln_ratio, rounds) = raced(&first, &second).unwrap();
        assert!(near(ln_ratio, -(1.02f64.ln())) && rounds == 5, "{ln_ratio}");
        // The slowest two of five are late.
        let (early, late) = (arm(&[10.0, 10.0, 10.0, 11.0, 11.0]), arm(&[9.0, 40.0, 9.3, 30.0, 9.6]));
        let (ln_ratio, _) = raced(&early, &late).unwrap();
        assert!(near(ln_ratio, (10.0f64 / 9.3).ln()), "{ln_ratio}");
        let (back, _) = raced(&late, &early).unwrap();
        assert!(near(back, -ln_ratio));
    }

    #[test]
    fn rounds_are_shared_from_where_both_ran_and_where_nobody_chose() {
        let rounds = |first: &Timing, second: &Timing| raced(first, second).map(|(_, rounds)| rounds);
        let whole = arm(&[60.0; 10]);
        assert_eq!(rounds(&whole, &Timing { race: 2, ..whole.clone() }), None, "of two races");
        let chosen = Timing { chosen_by: 4, ..whole.clone() };
        assert_eq!(rounds(&chosen, &whole), Some(6));
        assert_eq!(rounds(&chosen, &arm(&[60.0; 3])), Some(3), "it was out before the others reported");
        let late = Timing { joined: 7, ..arm(&[60.0; 3]) };
        assert_eq!([rounds(&late, &whole), rounds(&whole, &late), rounds(&chosen, &late)], [Some(3); 3]);
        assert_eq!(rounds(&whole, &arm(&[60.0, 0.0, 60.0])), Some(2), "no time is none");
    }

    #[test]
    fn noise_is_the_spread_of_the_pairs_and_no_less_than_it_is_said_to_be() {
        // Ratios 1 ± 3 % around 1: a median absolute deviation of 3 %, of nine rounds.
        let spread = [1.0, 1.03, 1.0 / 1.03, 1.03, 1.0 / 1.03, 1.0, 1.03, 1.0 / 1.03, 1.0];
        let (first, second) = (arm(&spread.map(|ratio| 100.0 * ratio)), arm(&[100.0; 9]));
        let compared = pair(&first, &second, 0.005);
        let error = 1.2533 * 1.4826 * 1.03f64.ln() / 3.0;
        assert!(
            near(compared.ratio, 1.0) && near(compared.noise, 1.96 * error) && compared.rounds == 9,
            "{compared:?}"
        );
        assert!(near(pair(&first, &second, 0.2).noise, 0.2));
    }

    #[test]
    fn times_of_their_own_are_as_sure_as_their_quartiles_say() {
        let lone = |time_us: f64, quartiles_us| Timing { time_us, quartiles_us, samples: 16, ..Timing::default() };
        let (first, second) = (lone(100.0, Some((98.0, 102.0))), lone(200.0, Some((197.0, 203.0))));
        let [one, other] = [4.0 / 100.0, 6.0 / 200.0].map(|spread| 1.2533 * spread / 1.349 / 4.0);
        assert!(near(lone_noise(&first).unwrap(), 1.96 * one));
        let compared = pair(&first, &Timing { race: 9, ..second.clone() }, 0.005);
        assert!(near(compared.ratio, 0.5) && near(compared.noise, 1.96 * one.hypot(other)), "{compared:?}");
        assert_eq!(compared.rounds, 0);
        let unsure = pair(&first, &Timing { race: 9, ..lone(200.0, None) }, 0.005);
        assert!(near(unsure.noise, ASSUMED_NOISE));
        // Four rounds say nothing of their own spread.
        let few = [arm(&[100.0, 103.0, 98.0, 101.0]), arm(&[99.0; 4])];
        assert_eq!(pair(&few[0], &few[1], 0.005).rounds, 0);
        assert_eq!(lone_noise(&lone(100.0, Some((102.0, 98.0)))), None, "quartiles the wrong way round");
    }
}
