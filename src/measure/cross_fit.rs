//! How far an arm of a race is behind the best of its rivals, where luck must not choose the best.
//!
//! The best of several is in part the luckiest, and what chose it flatters it. So one half of the rounds chooses, the other
//! tells, then the other way round, and the mean counts. Rounds take turns in the halves, so that a drifting clock favours
//! neither.

use super::interval::{Interval, TAIL, Z_95};
use super::statistics::{DurationClass, mean, median, quantile, sorted};
use crate::model::Micros;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Resamples behind an error: enough for it to be within some 5 %.
const RESAMPLES: usize = 200;

/// An arm against the best of its rivals.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossFit {
    /// Logarithm of the arm's time over that of the best: negative where the arm came out ahead of it.
    pub ln_ratio: f64,
    /// What resampled rounds make of it, less their mean.
    deviations: Vec<f64>,
}

impl CrossFit {
    /// Where all rounds and their choices would put it, with 95 %.
    pub fn interval(&self) -> Interval {
        let reach = Z_95 * self.error();
        Interval::between(self.ln_ratio - reach, self.ln_ratio + reach)
    }

    /// What resampled rounds make of it, less their mean.
    pub(super) fn deviations(&self) -> &[f64] {
        &self.deviations
    }

    /// Its standard error.
    pub(super) fn error(&self) -> f64 {
        let squares: f64 = self.deviations.iter().map(|deviation| deviation * deviation).sum();
        (squares / self.deviations.len().max(1) as f64).sqrt()
    }
}

/// Cross-fits an arm against `rivals` of its race, by the time of each of their rounds from the first on. Rivals that dropped
/// out before the arm are no match; one that is the arm itself may be among them. Nothing where there are no two rounds.
///
/// Resampled rounds are drawn for all arms alike, from all rounds for either half: a half alone holds too few to know its
/// spread by.
pub fn cross_fit(arm: &[f64], rivals: &[&[f64]], seed: u64) -> Option<CrossFit> {
    let rounds = rivals.iter().map(|rival| rival.len()).max()?.min(arm.len());
    let rivals: Vec<&[f64]> = rivals.iter().filter_map(|rival| rival.get(..rounds)).collect();
    let comparison = Comparison::of(std::iter::once(arm).chain(rivals.iter().copied()));
    let [even, odd] = [0, 1].map(|first| (first..rounds).step_by(2).collect::<Vec<_>>());
    if odd.is_empty() {
        return None;
    }
    let told = |first: &[usize], second: &[usize]| {
        let either_way = |first, second| comparison.chosen_and_told(arm, &rivals, first, second);
        f64::midpoint(either_way(first, second), either_way(second, first))
    };
    let ln_ratio = told(&even, &odd);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |half: &Vec<usize>| half.iter().map(|_| random.random_range(0..rounds)).collect::<Vec<_>>();
    let resampled: Vec<f64> = (0..RESAMPLES).map(|_| told(&draw(&even), &draw(&odd))).collect();
    // So many rounds spread by a little less than what they were drawn from.
    let unbiased = (rounds as f64 / (rounds - 1) as f64).sqrt();
    let middle = mean(&resampled)?;
    let deviations = resampled.iter().map(|resampled| unbiased * (resampled - middle)).collect();
    ln_ratio.is_finite().then_some(CrossFit { ln_ratio, deviations })
}

/// The logarithm of the first arm's time over the second's by their common rounds: of what repeats best of each where rounds
/// are late now and then, else of the median pair.
pub fn log_ratio(first: &[f64], second: &[f64]) -> f64 {
    let rounds: Vec<usize> = (0..first.len().min(second.len())).collect();
    Comparison::of([first, second].into_iter()).log_ratio(first, second, &rounds)
}

/// How two arms compare, which is by how long the faster takes.
#[derive(Clone, Copy)]
enum Comparison {
    /// Means of the fastest half.
    FastestHalf,
    /// Median of the rounds' ratios.
    MedianPair,
}

impl Comparison {
    fn of<'a>(arms: impl Iterator<Item = &'a [f64]>) -> Self {
        let fastest_us = arms.filter_map(|arm| median(arm.iter().copied())).fold(f64::INFINITY, f64::min);
        if DurationClass::of(Micros(fastest_us)).is_late_now_and_then() { Self::FastestHalf } else { Self::MedianPair }
    }

    /// The rival that the rounds of `first` choose, and how far the arm is behind it by those of `second`.
    fn chosen_and_told(self, arm: &[f64], rivals: &[&[f64]], first: &[usize], second: &[usize]) -> f64 {
        let behind = |rival: &&&[f64]| self.log_ratio(arm, rival, first);
        let chosen = rivals.iter().max_by(|one, other| behind(one).total_cmp(&behind(other)));
        chosen.map_or(f64::NAN, |chosen| self.log_ratio(arm, chosen, second))
    }

    fn log_ratio(self, first: &[f64], second: &[f64], rounds: &[usize]) -> f64 {
        match self {
            Self::FastestHalf => {
                let of = |arm: &[f64]| mean_of_fastest_half(rounds.iter().map(|round| arm[*round]).collect());
                (of(first) / of(second)).ln()
            }
            Self::MedianPair => {
                median(rounds.iter().map(|round| (first[*round] / second[*round]).ln())).unwrap_or(f64::NAN)
            }
        }
    }
}

fn mean_of_fastest_half(mut times_us: Vec<f64>) -> f64 {
    let half = times_us.len().div_ceil(2);
    if half < times_us.len() {
        times_us.select_nth_unstable_by(half, f64::total_cmp);
    }
    mean(&times_us[..half]).unwrap_or(f64::NAN)
}

/// The interval of the largest of these very ratios, as it would be without noise. Where several could be it, the largest is in part the
/// luckiest: the lower bound allows for the luck of them all.
pub fn interval_of_largest(fits: &[CrossFit]) -> Interval {
    let largest = fits.iter().map(|fit| fit.ln_ratio).fold(f64::NEG_INFINITY, f64::max);
    let high = fits.iter().map(|fit| fit.ln_ratio + Z_95 * fit.error()).fold(f64::NEG_INFINITY, f64::max);
    let surely = fits.iter().map(|fit| fit.ln_ratio - Z_95 * fit.error()).fold(f64::NEG_INFINITY, f64::max);
    let contenders: Vec<&CrossFit> = fits.iter().filter(|fit| fit.ln_ratio + Z_95 * fit.error() >= surely).collect();
    let resamples = contenders.iter().map(|fit| fit.deviations().len()).min().unwrap_or(0);
    let luck = sorted(
        (0..resamples)
            .map(|resample| contenders.iter().map(|fit| fit.deviations()[resample]).fold(f64::NEG_INFINITY, f64::max)),
    );
    let most = quantile(&luck, 1.0 - TAIL).unwrap_or(f64::NAN);
    Interval::between(largest - most, high)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A clock that drifts by half over the race.
    fn drifting(us: f64) -> Vec<f64> {
        (0..12).map(|round| us * (1.0 + 0.045 * f64::from(round))).collect()
    }

    fn near(value: f64, wanted: f64) -> bool {
        (value - wanted).abs() < 1e-9
    }

    #[test]
    fn a_drifting_clock_favours_nobody() {
        for us in [1.0, 30.0, 100.0, 1000.0] {
            let (arm, best, other) = (drifting(1.1 * us), drifting(us), drifting(1.05 * us));
            let fit = cross_fit(&arm, &[&other, &best], 0).unwrap();
            assert!(near(fit.ln_ratio, 1.1f64.ln()), "{us} µs: {}", fit.ln_ratio);
            assert!(near(log_ratio(&arm, &best), 1.1f64.ln()));
        }
    }

    #[test]
    fn what_chose_the_best_does_not_tell() {
        // Either rival is ahead in one half and behind in the other by as much: the luck of the half that chooses does not
        // count, its bad luck in the other does.
        let turns =
            |first: f64| (0..20).map(|round| if round % 2 == 0 { first } else { 200.0 - first }).collect::<Vec<_>>();
        let (arm, one, other) = (vec![100.0; 20], turns(98.0), turns(102.0));
        let fit = cross_fit(&arm, &[&one, &other], 0).unwrap();
        assert!(near(fit.ln_ratio, (100.0f64 / 102.0).ln()), "{}", fit.ln_ratio);
    }

    #[test]
    fn an_arm_that_beats_its_rivals_is_ahead_and_one_that_is_its_own_rival_is_not_behind() {
        let (arm, rival) = (vec![9.0; 10], vec![10.0; 10]);
        assert!(near(cross_fit(&arm, &[&rival], 0).unwrap().ln_ratio, 0.9f64.ln()));
        let itself = cross_fit(&arm, &[&rival, &arm], 0).unwrap();
        assert_eq!((itself.ln_ratio, itself.interval()), (0.0, Interval::between(0.0, 0.0)));
    }

    #[test]
    fn late_rounds_below_50_us_do_not_count_and_dropped_rivals_are_no_match() {
        let mut late = vec![10.0; 20];
        late.iter_mut().step_by(7).for_each(|us| *us += 1.5);
        assert!(near(cross_fit(&late, &[&[10.0; 20]], 0).unwrap().ln_ratio, 0.0));
        let fit = cross_fit(&[11.0; 20], &[&[1.0; 3], &[10.0; 20]], 0).unwrap();
        assert!(near(fit.ln_ratio, 1.1f64.ln()), "the one that dropped out was slower than it looks: {}", fit.ln_ratio);
        let dropped = cross_fit(&[40.0; 3], &[&[10.0; 20]], 0).unwrap();
        assert!(near(dropped.ln_ratio, 4f64.ln()), "an arm that drops out is told by the rounds it has");
        assert_eq!(cross_fit(&[1.0], &[&[1.0]], 0), None);
        assert_eq!(cross_fit(&[1.0; 9], &[], 0), None);
    }

    /// A fit that resampled rounds put above and below by as much.
    fn fit(ln_ratio: f64, deviations: impl Fn(usize) -> f64) -> CrossFit {
        CrossFit { ln_ratio, deviations: (0..200).map(deviations).collect() }
    }

    #[test]
    fn an_interval_is_two_errors_wide_either_way() {
        let fit = fit(0.1, |resample| if resample % 4 == 0 { 0.02 } else { 0.0 });
        assert!(near(fit.error(), 0.01));
        let Interval { low: Some(low), high: Some(high) } = fit.interval() else { unreachable!() };
        assert!(near(low, 0.1 - 0.0196) && near(high, 0.1 + 0.0196), "{low} {high}");
    }

    #[test]
    fn the_largest_is_less_by_the_luck_of_all_that_could_be_it() {
        let by_turns = |size: f64, turn: usize| {
            move |resample: usize| if (resample / turn).is_multiple_of(2) { size } else { -size }
        };
        let bounds = |fits: &[CrossFit]| {
            let Interval { low: Some(low), high: Some(high) } = interval_of_largest(fits) else { unreachable!() };
            [low, high]
        };
        let [first, near_by, hopeless] =
            [fit(0.10, by_turns(0.01, 1)), fit(0.05, by_turns(0.02, 2)), fit(0.0, by_turns(0.03, 4))];
        let all = [
            (vec![first.clone()], [0.10 - 0.01, 0.10 + 0.0196]),
            (vec![first.clone(), near_by.clone()], [0.10 - 0.02, 0.10 + 0.0196]),
            // Its best is below the worst of the first, so that its luck does not count.
            (vec![first.clone(), hopeless.clone()], [0.10 - 0.01, 0.10 + 0.0196]),
            (vec![hopeless, near_by, first], [0.10 - 0.02, 0.10 + 0.0196]),
        ];
        for (fits, wanted) in all {
            let bounds = bounds(&fits);
            assert!(bounds.iter().zip(wanted).all(|(bound, wanted)| near(*bound, wanted)), "{fits:?}: {bounds:?}");
        }
        // One that is less, and may be more by far.
        let wide = bounds(&[fit(0.10, by_turns(0.01, 1)), fit(0.0, by_turns(0.1, 1))]);
        assert!(near(wide[1], 0.196), "{wide:?}");
    }

    #[test]
    fn the_same_rounds_and_seed_give_the_same_interval() {
        let noisy: Vec<f64> = (0..30).map(|round| 10.0 + f64::from(round * 7 % 11) / 20.0).collect();
        let fit = |seed| cross_fit(&noisy, &[&[10.0; 30]], seed).unwrap();
        assert_eq!(fit(1), fit(1));
        assert_ne!(fit(1), fit(2));
        let interval = fit(1).interval();
        assert!(interval.low.unwrap() < fit(1).ln_ratio && fit(1).ln_ratio < interval.high.unwrap());
    }
}
