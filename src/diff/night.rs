//! What a night without any change looks like, to tell a change from it.
//!
//! What stands out most of some hundred entries stands out by chance. How far, is found by making nights: each problem is given
//! what some problem of this night is off by, with a sign at random. Few problems say little of how rare the largest of these are,
//! so Student's distribution with four degrees of freedom is mixed in, which the recorded ones follow. A problem counts once,
//! whether a rule, a fallback or both list it, and for at most [`MOST`] standard deviations: one stray is no slowdown.

use crate::measure::{quantile, sorted};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// What telling a change from chance took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// How many deviations an entry must stand out by: in 99 of 100 nights without changes none does.
    pub threshold: f64,
    /// Nights made from this one by giving the change of each problem a sign at random: of a night without changes, others like it.
    pub sign_flips: usize,
    /// The share of them in which something would have been SLOW.
    pub false_alarms: f64,
}

/// Problems that are judged together.
pub(super) struct Set {
    terms: Vec<Term>,
}

struct Term {
    problem: usize,
    deviation: f64,
    weight: f64,
}

/// No problem counts for more standard deviations: times stray farther than a normal distribution has it, and a stray is no proof.
pub(super) const MOST: f64 = 4.0;
/// Times closer than this are the same to everyone.
pub(super) const TOLD_APART: f64 = 0.02;
/// A set all of whose problems changed by so much, each beyond its noise, needs no more proof: of the 716 problems that two
/// sweeps on an H200 timed with the same kernels none changed by more than 16 %.
const PLAIN: f64 = 0.2;

/// Nights made.
const NIGHTS: usize = 10_000;
/// Share of nights without change in which nothing stands out.
const QUIET: f64 = 0.99;
/// Values of Student's distribution mixed in.
const MIXED_IN: usize = 200;
/// Its robust standard deviation: 1.4826 × its third quartile.
const STUDENT_SIGMA: f64 = 1.0982;

impl Set {
    /// Of the problems by number, with their change and its standard deviation.
    pub(super) fn of(shifts: impl Iterator<Item = (usize, f64, f64)>) -> Self {
        let term = |(problem, change, sigma): (usize, f64, f64)| Term {
            problem,
            deviation: change / sigma,
            weight: 1.0 / sigma,
        };
        Self { terms: shifts.map(term).collect() }
    }

    /// How far the set stands out as slower, in standard deviations; below zero as faster.
    pub(super) fn deviations(&self) -> f64 {
        self.deviations_if(|term| term.deviation)
    }

    fn deviations_if(&self, deviation: impl Fn(&Term) -> f64) -> f64 {
        let (mut sum, mut squares) = (0.0, 0.0);
        for term in &self.terms {
            sum += deviation(term).clamp(-MOST, MOST) * term.weight;
            squares += term.weight * term.weight;
        }
        if squares > 0.0 { sum / squares.sqrt() } else { 0.0 }
    }

    /// The mean change in logarithms, the surer ones with more weight.
    pub(super) fn change(&self) -> f64 {
        self.change_if(|_| 1.0)
    }

    fn change_if(&self, sign: impl Fn(&Term) -> f64) -> f64 {
        let squares: f64 = self.terms.iter().map(|term| term.weight * term.weight).sum();
        self.terms.iter().map(|term| sign(term) * term.deviation * term.weight).sum::<f64>() / squares
    }

    /// The standard error of that where nothing changed.
    pub(super) fn error(&self) -> f64 {
        self.terms.iter().map(|term| term.weight * term.weight).sum::<f64>().sqrt().recip()
    }

    /// Whether it is slower beyond chance, if each problem's change had this sign.
    fn is_slower_if(&self, threshold: f64, sign: impl Fn(&Term) -> f64) -> bool {
        let change = self.change_if(&sign);
        let surely = || self.terms.iter().all(|term| sign(term) * term.deviation >= MOST);
        let stands_out = || self.deviations_if(|term| sign(term) * term.deviation) > threshold;
        change > TOLD_APART.ln_1p() && (stands_out() || change > PLAIN.ln_1p() && surely())
    }
}

impl Calibration {
    /// From all that is judged, and what each problem of the night is off by.
    pub(super) fn of(sets: &[Set], problems: usize, deviations: &[f64]) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let student = (0..MIXED_IN).map(|index| student((index as f64 + 0.5) / MIXED_IN as f64) / STUDENT_SIGMA);
        let pool: Vec<f64> = deviations.iter().copied().chain(student).flat_map(|off| [off, -off]).collect();
        let mut drawn = vec![0.0; problems];
        let largest = (0..NIGHTS).map(|_| {
            drawn.fill_with(|| pool[random.random_range(0..pool.len())]);
            sets.iter().map(|set| set.deviations_if(|term| drawn[term.problem])).fold(0.0, f64::max)
        });
        let threshold = quantile(&sorted(largest), QUIET).unwrap_or(MOST);
        let mut signs = vec![1.0; problems];
        let alarms = (0..NIGHTS).filter(|_| {
            signs.fill_with(|| if random.random() { 1.0 } else { -1.0 });
            sets.iter().any(|set| set.is_slower_if(threshold, |term| signs[term.problem]))
        });
        Self { threshold, sign_flips: NIGHTS, false_alarms: alarms.count() as f64 / NIGHTS as f64 }
    }

    /// Whether a set is slower beyond chance.
    pub(super) fn is_slower(&self, set: &Set) -> bool {
        set.is_slower_if(self.threshold, |_| 1.0)
    }

    /// Whether it is faster beyond chance.
    pub(super) fn is_faster(&self, set: &Set) -> bool {
        set.is_slower_if(self.threshold, |_| -1.0)
    }
}

/// The quantile of Student's distribution with four degrees of freedom, which has a closed form (Shaw 2006).
fn student(share: f64) -> f64 {
    let root = (4.0 * share * (1.0 - share)).sqrt();
    let spread = (root.acos() / 3.0).cos() / root;
    (share - 0.5).signum() * 2.0 * (spread - 1.0).max(0.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_students_distribution() {
        let tabulated = [(0.5, 0.0), (0.75, 0.7407), (0.95, 2.1318), (0.99, 3.7469), (0.01, -3.7469)];
        for (share, expected) in tabulated {
            assert!((student(share) - expected).abs() < 1e-4, "{share}: {}", student(share));
        }
        assert!((STUDENT_SIGMA - 1.4826 * student(0.75)).abs() < 1e-3);
    }

    #[test]
    fn one_stray_is_no_slowdown_but_a_slowdown_of_all_is() {
        let set = |changes: &[f64]| Set::of(changes.iter().enumerate().map(|(index, change)| (index, *change, 0.01)));
        let quiet: Vec<f64> = (0..100).map(|index| f64::from(index % 7 - 3) / 2.0).collect();
        let all: Vec<Set> = (0..100).map(|index| Set::of((0..4).map(|of| (index + of, 0.0, 0.01)))).collect();
        let night = Calibration::of(&all, 104, &quiet);
        assert!(night.threshold > MOST && night.threshold < 2.0 * MOST, "{night:?}");
        assert!(!night.is_slower(&set(&[0.3, 0.0, 0.0, 0.0])));
        assert!(
            night.is_slower(&set(&[0.05, 0.04, 0.05, 0.04])) && night.is_faster(&set(&[-0.05, -0.04, -0.05, -0.04]))
        );
        assert!(!night.is_slower(&set(&[0.015; 40])), "sure, and below what anyone is told of");
        assert!(
            night.is_slower(&set(&[0.25])) && !night.is_slower(&set(&[0.1])),
            "one problem alone is proof only so far off"
        );
    }
}
