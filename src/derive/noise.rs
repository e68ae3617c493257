//! How far from 1 a ratio of two times must be to mean anything, by how long the kernels take: within one race from all the
//! null arms there are, from one occasion to another from the configs that raced on both. One draw would say little: a second
//! one exceeds it in every third case.

use crate::measure::{DurationClass, Z_95, median, quantile, sorted};
use std::collections::BTreeMap;

/// No two medians are told apart below this: sampling stops where stdev/mean falls under 0.5 %, so nothing is known
/// better.
pub(crate) const NOISE_FLOOR: f64 = 0.005;

/// What a lone time without quartiles, rounds or a null arm may be off by. An assumption: such a time says nothing of
/// its own noise.
pub(crate) const ASSUMED_NOISE: f64 = 0.02;

/// Standard deviations in a median absolute deviation, for normal samples.
pub(super) const MAD_SIGMAS: f64 = 1.4826;

/// Half the width of a 95 % interval, from the median of distances to its middle.
pub(crate) fn half_width(median_distance: f64) -> f64 {
    Z_95 * MAD_SIGMAS * median_distance
}

/// The share of null arms that lie within the noise.
const COVERAGE: f64 = 0.95;

/// With fewer null arms than this the farthest is nearer, on average, than [`COVERAGE`] asks: of so many draws and one more,
/// each is the farthest with the same chance, which must be no more than what lies outside.
const FEWEST_NULL_ARMS: usize = 19;

/// Fewer changes than this say nothing of their spread.
const FEWEST_CHANGES: usize = 20;

/// The ratio of two times that are the same but for chance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub(super) duration: DurationClass,
    /// Logarithm of the ratio.
    pub(super) ln_ratio: f64,
    /// The rounds behind it; 0 where it ran alone.
    pub(super) rounds: usize,
}

/// What is known of the noise of one class's kernels that take about as long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    /// Half the width of a 95 % interval around the ratio of two arms of one race.
    ratio: f64,
    /// The rounds that this is for.
    rounds: f64,
    /// Half the width of such an interval for what a ratio changes by from one occasion to another; 0 where nothing is known.
    repeat: f64,
}

impl Level {
    /// How far from 1 the ratio of two arms may be by chance over so many rounds. More than usual make it no finer: some of the
    /// noise is that of the whole race.
    pub(super) fn of_ratio(&self, rounds: usize) -> f64 {
        (self.ratio * (self.rounds / rounds as f64).sqrt().max(1.0)).max(NOISE_FLOOR)
    }

    /// How far from 1 the ratio of two arms that ran all rounds may be by chance.
    pub(super) fn usual(&self) -> f64 {
        self.ratio.max(NOISE_FLOOR)
    }

    /// What one occasion adds to another's: what is left of [`Self::repeat`] beyond the noise of the two races it comes from.
    pub(super) fn of_occasion(&self) -> f64 {
        (self.repeat.powi(2) - 2.0 * self.ratio.powi(2)).max(0.0).sqrt()
    }

    /// How far a ratio on one occasion may be from that on another.
    pub(super) fn repeat(&self) -> f64 {
        self.repeat
    }
}

/// The noise of one class's kernels by how long they take.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Noise(BTreeMap<DurationClass, Level>);

impl Noise {
    /// Pools null arms, and what the ratios of configs changed by between races. Too few null arms of one duration count as
    /// those of all together, but never less than what they show themselves; where there are too few in all, noise is assumed.
    pub(super) fn of(null_arms: &[Draw], changes: &[Draw]) -> Self {
        let all = pooled(null_arms.iter()).unwrap_or(ASSUMED_NOISE);
        let usual_rounds = |draws: &[&Draw]| median(draws.iter().map(|draw| draw.rounds as f64));
        let all_rounds = usual_rounds(&null_arms.iter().collect::<Vec<_>>()).unwrap_or(0.0);
        let repeats = |draws: Vec<f64>| {
            let enough = draws.len() >= FEWEST_CHANGES;
            median(draws).filter(|_| enough).map(half_width)
        };
        let all_repeats = repeats(changes.iter().map(|draw| draw.ln_ratio.abs()).collect()).unwrap_or(0.0);
        let level = |duration: DurationClass| {
            let own: Vec<&Draw> = null_arms.iter().filter(|draw| draw.duration == duration).collect();
            let farthest = own.iter().map(|draw| distance(draw)).fold(all, f64::max);
            let changes = changes.iter().filter(|draw| draw.duration == duration).map(|draw| draw.ln_ratio.abs());
            let level = Level {
                ratio: pooled(own.iter().copied()).unwrap_or(farthest),
                rounds: usual_rounds(&own).unwrap_or(all_rounds),
                repeat: repeats(changes.collect()).unwrap_or(all_repeats),
            };
            (duration, level)
        };
        Self(DurationClass::ALL.into_iter().map(level).collect())
    }

    /// The noise of kernels that take so long.
    pub(super) fn level(&self, duration: DurationClass) -> Level {
        self.0.get(&duration).copied().unwrap_or(Level { ratio: ASSUMED_NOISE, rounds: 0.0, repeat: 0.0 })
    }
}

/// What the mean of as many ratios as there are rows may be off by chance, by the noise of each.
pub(super) fn joint(noises: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = noises.len().max(1) as f64;
    noises.map(|noise| noise.powi(2)).sum::<f64>().sqrt() / count
}

/// How far from 1 a ratio is, whichever way round.
fn distance(draw: &Draw) -> f64 {
    draw.ln_ratio.abs().exp_m1()
}

/// The distance that [`COVERAGE`] of further null arms stay within, on average; nothing of too few.
fn pooled<'d>(draws: impl Iterator<Item = &'d Draw>) -> Option<f64> {
    let distances = sorted(draws.map(distance));
    if distances.len() < FEWEST_NULL_ARMS {
        return None;
    }
    // The k-th of n draws has k of n + 1 further ones below it.
    let rank = COVERAGE * (distances.len() + 1) as f64 - 1.0;
    quantile(&distances, rank / (distances.len() - 1) as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn draw(duration: DurationClass, ln_ratio: f64) -> Draw {
        Draw { duration, ln_ratio, rounds: 40 }
    }

    fn draws(duration: DurationClass, count: u32) -> Vec<Draw> {
        (1..=count).map(|index| draw(duration, f64::from(index) * if index % 2 == 0 { 1e-3 } else { -1e-3 })).collect()
    }

    #[test]
    fn the_noise_of_a_mean_is_less_than_that_of_each() {
        assert!((joint([0.03, 0.04].into_iter()) - 0.025).abs() < 1e-12);
        assert!((joint([0.02; 4].into_iter()) - 0.01).abs() < 1e-12);
        assert!(joint([].into_iter()).abs() < 1e-12);
    }

    #[test]
    fn one_draw_in_twenty_is_farther() {
        let noise = Noise::of(&draws(DurationClass::Slow, 19), &[]);
        assert!((noise.level(DurationClass::Slow).usual() - 0.019f64.exp_m1()).abs() < 1e-12);
        let noise = Noise::of(&draws(DurationClass::Slow, 199), &[]);
        assert!((noise.level(DurationClass::Slow).usual() - 0.190f64.exp_m1()).abs() < 1e-9);
    }

    #[test]
    fn few_draws_count_as_all_but_never_less_than_they_show() {
        let mut null_arms = draws(DurationClass::Under200, 99);
        null_arms.push(draw(DurationClass::Under20, 0.3));
        null_arms.push(draw(DurationClass::Under50, 0.001));
        let noise = Noise::of(&null_arms, &[]);
        let usual = |duration| noise.level(duration).usual();
        assert!((usual(DurationClass::Under20) - 0.3f64.exp_m1()).abs() < 1e-9);
        assert!(usual(DurationClass::Under50) > usual(DurationClass::Under200) * 0.99);
        assert!((usual(DurationClass::Slow) - usual(DurationClass::Under50)).abs() < 1e-12);
        let unknown = Noise::of(&draws(DurationClass::Slow, 18), &[]).level(DurationClass::Slow);
        assert!((unknown.usual() - ASSUMED_NOISE).abs() < 1e-12);
    }

    #[test]
    fn fewer_rounds_make_a_ratio_noisier_and_more_make_it_no_finer() {
        let level = Noise::of(&draws(DurationClass::Slow, 99), &[]).level(DurationClass::Slow);
        assert!((level.of_ratio(10) / level.usual() - 2.0).abs() < 1e-9);
        assert!((level.of_ratio(400) / level.usual() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_changes_from_one_occasion_to_another_is_its_median_made_an_interval() {
        let changes: Vec<Draw> = (0..40).map(|_| draw(DurationClass::Slow, -0.01)).collect();
        let noise = Noise::of(&[], &changes);
        let slow = noise.level(DurationClass::Slow);
        assert!((slow.repeat() - half_width(0.01)).abs() < 1e-12);
        let beyond = half_width(0.01).powi(2) - 2.0 * ASSUMED_NOISE.powi(2);
        assert!((slow.of_occasion() - beyond.sqrt()).abs() < 1e-12);
        let quiet: Vec<Draw> = (0..40).map(|_| draw(DurationClass::Slow, 0.005)).collect();
        assert!(
            Noise::of(&[], &quiet).level(DurationClass::Slow).of_occasion() < 1e-12,
            "no more than two races differ"
        );
        assert_eq!(noise.level(DurationClass::Under20), Level { rounds: 0.0, ..noise.level(DurationClass::Slow) });
        assert!(Noise::of(&[], &changes[..19]).level(DurationClass::Slow).repeat() < 1e-12);
    }
}
