//! Is one config faster than another beyond noise? By the rounds of a race that both ran in, else by what links their races.

use super::evidence::Timing;
use super::table::Row;
use super::validation::Compared;
use crate::measure::{DurationClass, geomean, mean, median, quantile, sorted};
use crate::model::Micros;

/// No two medians are told apart below this: sampling stops where stdev/mean falls under 0.5 %, so nothing is known
/// better.
pub(crate) const NOISE_FLOOR: f64 = 0.005;

/// What a lone time without quartiles, rounds or a null arm may be off by. An assumption: such a time says nothing of
/// its own noise.
pub(crate) const ASSUMED_NOISE: f64 = 0.02;

/// Half the width of a 95 % interval in standard errors.
const Z_95: f64 = 1.96;

/// Standard error of the median over that of the mean, for normal samples: √(π/2).
const MEDIAN_EFFICIENCY: f64 = 1.2533;

/// Interquartile range of a normal distribution in standard deviations.
const IQR_SIGMAS: f64 = 1.349;

/// Standard deviations in a median absolute deviation, for normal samples.
const MAD_SIGMAS: f64 = 1.4826;

/// Half the width of a 95 % interval, from the median of distances to its middle.
pub(crate) fn half_width(median_distance: f64) -> f64 {
    Z_95 * MAD_SIGMAS * median_distance
}

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

/// What the mean of as many ratios as there are rows may be off by chance, by the noise of each.
pub(super) fn joint(noises: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = noises.len().max(1) as f64;
    noises.map(|noise| noise.powi(2)).sum::<f64>().sqrt() / count
}

/// How wide a tie class is on these rows: what null arms alone say of a mean over so many problems.
pub(super) fn tie_width(rows: &[&Row]) -> f64 {
    joint(rows.iter().map(|row| row.noise)).max(NOISE_FLOOR)
}

/// A challenger against a baseline over several problems.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Comparison {
    /// Geometric mean of the problems' ratios, challenger over baseline, with the least and the largest of them.
    ratio: Option<(f64, f64, f64)>,
    /// Mean of the problems' noise.
    noise: f64,
    /// What their null arms alone say of a mean over so many problems: how wide a tie class is.
    tie_width: f64,
    /// Problems both were timed on.
    pairs: usize,
    /// Interleaved rounds behind them.
    rounds: usize,
    /// Problems where the challenger is slower by more than that problem's noise.
    slower_on: usize,
    /// Problems where the baseline failed and the challenger works.
    baseline_fails: usize,
    /// Problems where the challenger failed and the baseline works.
    challenger_fails: usize,
    /// Problems where one of them was never tried.
    untried: usize,
}

impl Comparison {
    /// Compares over `rows`; the baseline may be another config on each.
    pub(super) fn over(rows: &[&Row], challenger: usize, baseline: impl Fn(&Row) -> Option<usize>) -> Self {
        let mut comparison = Self::default();
        let mut pairs = Vec::new();
        for row in rows {
            let theirs = baseline(row).and_then(|config| row.cell(config));
            let Some((ours, theirs)) = row.cell(challenger).zip(theirs) else {
                comparison.untried += 1;
                continue;
            };
            match row.compare(ours, theirs) {
                Some(pair) => pairs.push(pair),
                None if ours.works() => comparison.baseline_fails += 1,
                None => comparison.challenger_fails += usize::from(theirs.works()),
            }
        }
        let ratios = sorted(pairs.iter().map(|pair| pair.ratio));
        comparison.ratio = geomean(&ratios).map(|ratio| (ratio, ratios[0], ratios[ratios.len() - 1]));
        comparison.noise = mean(&pairs.iter().map(|pair| pair.noise).collect::<Vec<_>>()).unwrap_or(0.0);
        comparison.tie_width = tie_width(rows);
        comparison.pairs = pairs.len();
        comparison.rounds = pairs.iter().map(|pair| pair.rounds).sum();
        comparison.slower_on = pairs.iter().filter(|pair| pair.ratio > 1.0 + pair.noise).count();
        comparison
    }

    /// The challenger is faster by more than noise, or works where the baseline fails, or the baseline was never tried
    /// on any of the problems.
    pub(super) fn is_faster(&self) -> bool {
        self.is_faster_by(self.noise)
    }

    /// The same by more than the width of a tie class, which is less than noise, and enough to choose by: whichever of two is
    /// ahead by so little, another sweep that chooses the other loses as little. Beyond noise, a choice that is worth more would
    /// be made in some sweeps and not in others.
    pub(super) fn is_no_tie(&self) -> bool {
        self.is_faster_by(self.tie_width)
    }

    fn is_faster_by(&self, margin: f64) -> bool {
        let by_time = self.ratio.is_none_or(|(ratio, ..)| ratio < 1.0 - margin);
        self.challenger_fails == 0 && (by_time || self.baseline_fails > 0)
    }

    /// The challenger is slower by more than noise, or fails where the baseline works.
    pub(super) fn is_slower(&self) -> bool {
        self.challenger_fails > 0 || self.ratio.is_some_and(|(ratio, ..)| ratio > 1.0 + self.noise)
    }

    /// Both were timed on all problems, and neither is faster by more than noise: that of this occasion, or `repeat_noise`,
    /// that of a mean over these problems from one occasion to another.
    pub(super) fn is_tie(&self, repeat_noise: f64) -> bool {
        let all_timed = self.untried + self.baseline_fails + self.challenger_fails == 0;
        all_timed && self.ratio.is_some_and(|(ratio, ..)| (ratio - 1.0).abs() <= self.noise.max(repeat_noise))
    }

    /// For a document's `validation`.
    pub(super) fn to_document(&self) -> Compared {
        Compared {
            noise: self.ratio.map(|_| self.noise),
            range: self.ratio.map(|(_, least, largest)| [least, largest]),
            ratio: self.ratio.map(|(ratio, ..)| ratio),
            pairs: self.pairs,
            rounds: self.rounds,
            baseline_fails: self.baseline_fails,
            fails: self.challenger_fails,
            slower_on: self.slower_on,
            untried: self.untried,
        }
    }
}
