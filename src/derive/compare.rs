//! Is one config faster than another beyond noise? By paired rounds where both were finalists, by medians elsewhere.

use super::evidence::Timing;
use super::table::Row;
use crate::measure::{geomean, mean, median, sorted};
use serde_json::{Map, Value, json};

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
    /// The interleaved rounds behind it; 0 where only medians were there.
    pub(crate) rounds: usize,
}

/// Compares two times of one race on a problem whose noise is at least `noise`.
pub(crate) fn pair(first: &Timing, second: &Timing, noise: f64) -> Pair {
    let rounds = first.rounds_us.iter().zip(&second.rounds_us);
    let ratios = sorted(rounds.map(|(first, second)| first / second).filter(|ratio| ratio.is_finite() && *ratio > 0.0));
    match median(ratios.iter().copied()) {
        Some(ratio) if ratios.len() >= FEWEST_ROUNDS => {
            let deviation = median(ratios.iter().map(|other| (other / ratio - 1.0).abs())).unwrap_or(0.0);
            let error = MEDIAN_EFFICIENCY * MAD_SIGMAS * deviation / (ratios.len() as f64).sqrt();
            Pair { ratio, noise: noise.max(Z_95 * error), rounds: ratios.len() }
        }
        _ => unpaired(first, second, noise),
    }
}

/// Compares two times of one problem that were taken on different occasions.
pub(super) fn unpaired(first: &Timing, second: &Timing, noise: f64) -> Pair {
    let spread = spread(first, second).unwrap_or(ASSUMED_NOISE);
    Pair { ratio: first.final_us() / second.final_us(), noise: noise.max(spread), rounds: 0 }
}

/// How far from 1 the ratio of two medians may be by chance, from their quartiles.
pub(super) fn spread(first: &Timing, second: &Timing) -> Option<f64> {
    Some(Z_95 * relative_error(first)?.hypot(relative_error(second)?))
}

/// The standard error of a median, relative to it, from its quartiles.
fn relative_error(timing: &Timing) -> Option<f64> {
    let (q1, q3) = timing.quartiles_us?;
    let error = MEDIAN_EFFICIENCY * (q3 - q1) / IQR_SIGMAS / timing.median_us / f64::from(timing.samples).sqrt();
    (error.is_finite() && error >= 0.0).then_some(error)
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
            match ours.against(theirs, row.noise) {
                Some(pair) => pairs.push(pair),
                None if ours.timing.is_some() => comparison.baseline_fails += 1,
                None => comparison.challenger_fails += usize::from(theirs.timing.is_some()),
            }
        }
        let ratios = sorted(pairs.iter().map(|pair| pair.ratio));
        comparison.ratio = geomean(&ratios).map(|ratio| (ratio, ratios[0], ratios[ratios.len() - 1]));
        comparison.noise = mean(&pairs.iter().map(|pair| pair.noise).collect::<Vec<_>>()).unwrap_or(0.0);
        let squares: f64 = rows.iter().map(|row| row.noise.powi(2)).sum();
        comparison.tie_width = (squares.sqrt() / rows.len() as f64).max(NOISE_FLOOR);
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

    /// Both were timed on all problems, and neither is faster by more than noise: that of this occasion, or of a mean over
    /// so many problems from one occasion to another.
    pub(super) fn is_tie(&self, repeat_noise: f64) -> bool {
        let noise = self.noise.max(repeat_noise / (self.pairs as f64).sqrt());
        let all_timed = self.untried + self.baseline_fails + self.challenger_fails == 0;
        all_timed && self.ratio.is_some_and(|(ratio, ..)| (ratio - 1.0).abs() <= noise)
    }

    /// For a document's `validation`.
    pub(super) fn to_json(&self) -> Value {
        let mut out = Map::new();
        if let Some((ratio, least, largest)) = self.ratio {
            out.insert("noise".to_owned(), json!(self.noise));
            out.insert("range".to_owned(), json!([least, largest]));
            out.insert("ratio".to_owned(), json!(ratio));
        }
        out.insert("pairs".to_owned(), json!(self.pairs));
        out.insert("rounds".to_owned(), json!(self.rounds));
        let counts = [
            ("baseline_fails", self.baseline_fails),
            ("fails", self.challenger_fails),
            ("slower_on", self.slower_on),
            ("untried", self.untried),
        ];
        out.extend(
            counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| ((*name).to_owned(), json!(count))),
        );
        Value::Object(out)
    }
}
