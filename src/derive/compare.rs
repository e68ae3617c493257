//! Is one config faster than another beyond noise, over several problems?

use super::noise::{NOISE_FLOOR, joint};
use super::table::Row;
use super::validation::Compared;
use crate::measure::{geomean, mean, sorted};

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Over four problems, so much slower than the baseline.
    fn by(ratio: f64) -> Comparison {
        Comparison {
            ratio: Some((ratio, ratio, ratio)),
            noise: 0.03,
            tie_width: 0.01,
            pairs: 4,
            ..Comparison::default()
        }
    }

    #[test]
    fn beyond_noise_is_faster_or_slower_and_beyond_a_tie_class_is_no_tie() {
        let told = |ratio: f64| {
            let comparison = by(ratio);
            (comparison.is_faster(), comparison.is_no_tie(), comparison.is_slower(), comparison.is_tie(0.0))
        };
        for (ratio, wanted) in [
            (0.96, (true, true, false, false)),
            (0.98, (false, true, false, true)),
            (0.995, (false, false, false, true)),
            (1.02, (false, false, false, true)),
            (1.04, (false, false, true, false)),
        ] {
            assert_eq!(told(ratio), wanted, "{ratio}");
        }
        assert!(by(0.96).is_tie(0.05) && by(1.04).is_tie(0.05), "occasions differ by more");
        // At the bound it is not beyond it.
        let bounded = |ratio: f64| Comparison { noise: 0.25, tie_width: 0.125, ..by(ratio) };
        assert!(!bounded(0.75).is_faster() && !bounded(1.25).is_slower() && !bounded(0.875).is_no_tie());
        assert!(bounded(0.75).is_tie(0.0) && bounded(1.25).is_tie(0.0) && bounded(0.5).is_tie(0.5));
    }

    #[test]
    fn what_fails_is_never_faster_and_what_works_where_the_other_fails_is() {
        let slow = Comparison { baseline_fails: 1, ..by(1.2) };
        assert!(slow.is_faster() && slow.is_no_tie() && !slow.is_tie(1.0));
        let fails = Comparison { challenger_fails: 1, ..by(0.5) };
        assert!(!fails.is_faster() && !fails.is_no_tie() && fails.is_slower() && !fails.is_tie(1.0));
        let both = Comparison { baseline_fails: 1, ..fails };
        assert!(!both.is_faster() && both.is_slower());
        assert!(!Comparison { untried: 1, ..by(1.0) }.is_tie(1.0), "not timed on all");
        let alone = Comparison { untried: 4, ..Comparison::default() };
        assert!(alone.is_faster() && !alone.is_slower() && !alone.is_tie(1.0), "the baseline was never tried");
    }
}
