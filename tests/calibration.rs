//! Whether intervals hold what they say: 95 of a hundred, within two. A simulation: rounds are drawn anew from recorded ones, and
//! nothing of it is a time that anyone measured.

#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

#[path = "common/amount.rs"]
mod amount;

use kernel_sweep::measure::{
    CrossFit, Interval, cross_fit, interval_of_largest, interval_of_mean, interval_of_quantile, log_ratio, quantile,
    sorted,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Deserialize;

/// Finals of an H200, by how long they take; in each an arm that is behind, then the three fastest.
#[derive(Deserialize)]
struct Recorded {
    under20: Vec<Race>,
    under50: Vec<Race>,
    under200: Vec<Race>,
    slow: Vec<Race>,
}

/// The rounds of its arms.
type Race = Vec<Vec<f64>>;

fn recorded() -> Recorded {
    serde_json::from_str(include_str!("data/recorded_rounds.json")).unwrap()
}

/// A race of so many rounds, each drawn from those recorded, for all arms alike.
fn drawn(race: &Race, rounds: usize, random: &mut ChaCha8Rng) -> Race {
    let drawn: Vec<usize> = (0..rounds).map(|_| random.random_range(0..race[0].len())).collect();
    race.iter().map(|arm| drawn.iter().map(|round| arm[*round]).collect()).collect()
}

fn fit(race: &Race, seed: u64) -> CrossFit {
    let rivals: Vec<&[f64]> = race[1..].iter().map(Vec::as_slice).collect();
    cross_fit(&race[0], &rivals, seed).unwrap()
}

/// What endless rounds would come to.
fn truth(race: &Race) -> f64 {
    race[1..].iter().map(|rival| log_ratio(&race[0], rival)).fold(f64::NEG_INFINITY, f64::max)
}

fn holds(interval: Interval, truth: f64) -> bool {
    interval.low.is_none_or(|low| low <= truth) && interval.high.is_none_or(|high| truth <= high)
}

/// The share of simulated cases whose interval holds.
fn coverage(cases: u64, case: impl Fn(&mut ChaCha8Rng) -> bool + Sync) -> f64 {
    let held = (0..cases).into_par_iter().filter(|seed| case(&mut ChaCha8Rng::seed_from_u64(*seed))).count();
    held as f64 / cases as f64
}

/// A race and how many rounds one of its kind runs for.
fn races(recorded: &Recorded) -> [(&'static str, &[Race], usize); 4] {
    [
        ("below 20 µs", &recorded.under20, 90),
        ("20 to 50 µs", &recorded.under50, 48),
        ("50 to 200 µs", &recorded.under200, 20),
        ("above 200 µs", &recorded.slow, 12),
    ]
}

#[test]
fn the_regret_of_a_race_is_within_its_interval() {
    let recorded = recorded();
    let found = amount::some(races(&recorded)).into_iter().map(|(name, races, rounds)| {
        let held = coverage(1600, |random| {
            let race = &races[random.random_range(0..races.len())];
            holds(fit(&drawn(race, rounds, random), 0).interval(), truth(race))
        });
        (name, held)
    });
    let found: Vec<_> = found.collect();
    assert!(found.iter().all(|(_, held)| (0.93..=0.97).contains(held)), "{found:?}");
}

/// Problems whose regrets spread as those of a document do: most of some tenths of a per cent, some of 5 to 20 %.
fn regret(random: &mut ChaCha8Rng) -> f64 {
    let uniform: f64 = random.random();
    0.004 - 0.024 * (1.0 - uniform).ln() * f64::from(u8::from(uniform > 0.5))
}

/// What rounds add to it: about half a per cent, by a sum of uniform draws.
fn measured(truth: f64, random: &mut ChaCha8Rng) -> f64 {
    truth + (0..12).map(|_| random.random_range(-0.5..0.5) * 0.004).sum::<f64>()
}

#[test]
fn figures_over_problems_are_within_their_intervals() {
    let population = sorted((0..200_000).map(|index| regret(&mut ChaCha8Rng::seed_from_u64(index))));
    let middle = population.iter().sum::<f64>() / population.len() as f64;
    let [p90, p99] = [0.9, 0.99].map(|share| quantile(&population, share).unwrap());
    let sample = |problems: usize, random: &mut ChaCha8Rng| {
        sorted((0..problems).map(|_| {
            let regret = regret(random);
            measured(regret, random)
        }))
    };
    let of_mean = |problems| coverage(1500, |random| holds(interval_of_mean(&sample(problems, random), 0), middle));
    let of_quantile = |problems, share, truth| {
        coverage(4000, |random| holds(interval_of_quantile(&sample(problems, random), share), truth))
    };
    let held =
        [of_mean(40), of_mean(280), of_quantile(40, 0.9, p90), of_quantile(280, 0.9, p90), of_quantile(600, 0.99, p99)];
    assert!(held.iter().all(|held| (0.93..=0.97).contains(held)), "{held:?}");
    // So few set no upper bound to the worst hundredth, and nothing can miss it on that side.
    let held = [of_quantile(40, 0.99, p99), of_quantile(280, 0.99, p99)];
    assert!(held.iter().all(|held| (0.96..1.0).contains(held)), "{held:?}");
}

/// The largest regret of sixteen races, where one stands out; where all tie, the interval may be wider than it says.
#[test]
fn the_largest_regret_is_within_its_interval() {
    let recorded = recorded();
    let races: Vec<&Race> = races(&recorded).iter().flat_map(|(_, races, _)| *races).collect();
    let some = |random: &mut ChaCha8Rng| -> Vec<Race> {
        (0..16).map(|_| races[random.random_range(0..races.len())].clone()).collect()
    };
    let largest =
        |raced: &[Race]| interval_of_largest(&(0..).zip(raced).map(|(seed, race)| fit(race, seed)).collect::<Vec<_>>());
    let held = coverage(800, |random| {
        let races = some(random);
        let truth = races.iter().map(truth).fold(f64::NEG_INFINITY, f64::max);
        holds(largest(&races.iter().map(|race| drawn(race, 20, random)).collect::<Vec<_>>()), truth)
    });
    assert!((0.93..=0.97).contains(&held), "{held}");
    // An arm against itself, each with rounds of its own.
    let held = coverage(800, |random| {
        let races = some(random);
        let mut once = |race: &Race| drawn(race, 20, random).swap_remove(1);
        let tied: Vec<Race> = races.iter().map(|race| vec![once(race), once(race)]).collect();
        holds(largest(&tied), 0.0)
    });
    assert!(held >= 0.93, "all tie: {held}");
}
