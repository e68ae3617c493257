//! What is claimed against what is true, on simulated races: rounds drawn again from those of recorded null arms, whose truth
//! is that both take the same. Simulations say how good the figures are, and are nowhere a source of times.

use super::amount;
use super::trials::{arm, config, derive};
use kernel_sweep::derive::{Defaults, ProblemSource, Source};
use kernel_sweep::journal::{Stage, Trial};
use kernel_sweep::measure::{location_us, mean, sorted};
use kernel_sweep::model::Family;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How long the recorded ones take.
const DURATIONS: [&str; 4] = ["under20", "under50", "under200", "slow"];

/// The rounds of a null arm and of what it duplicates, in microseconds.
type Recorded = [Vec<f64>; 2];

/// Those recorded of kernels that take so long.
fn recorded(duration: &str) -> Vec<Recorded> {
    let text = include_str!("null_arms.txt");
    let lines = text.lines().filter_map(|line| line.strip_prefix(duration)?.strip_prefix(' '));
    let rounds = |ticks: &str| ticks.split(',').map(|ticks| ticks.parse::<f64>().unwrap() * 0.032).collect::<Vec<_>>();
    lines.map(|line| line.split_once(' ').map(|(one, other)| [rounds(one), rounds(other)]).unwrap()).collect()
}

/// As many of a recorded pair's rounds, drawn again together.
fn redrawn(random: &mut ChaCha8Rng, pair: &Recorded, rounds: usize) -> Recorded {
    let picks: Vec<usize> = (0..rounds).map(|_| random.random_range(0..pair[0].len())).collect();
    [0, 1].map(|side| picks.iter().map(|pick| pair[side][*pick]).collect())
}

fn shape(m: usize) -> String {
    format!("m={m},n=4096,k=4096")
}

/// What the document says of its fallback for few rows on each problem.
fn served(trials: &[Trial]) -> (Vec<ProblemSource>, u64) {
    let document = derive(trials, &Defaults::new()).document;
    let fallback = &document.fallbacks["matmul"]["small_m"];
    (Source::of_document(&fallback.source).problems, fallback.template["block_sizes"][0].as_u64().unwrap())
}

/// How much slower the served config truly is where it does not win.
const TRUTH: f64 = 1.2;
/// Problems of either kind in a simulated journal.
const PROBLEMS: usize = 120;

/// The share of slowdowns within their noise of the truth. On half of the problems the served config wins, beside its
/// duplicate; on the others it is slower by [`TRUTH`], over so many rounds. Distances are three times those recorded, so that
/// the floor under all noise, which is there to cover more, does not show.
fn coverage(duration: &str, rounds: usize, journals: u64) -> f64 {
    let pairs = recorded(duration);
    assert_eq!(pairs.len(), 40);
    let (mut within, mut all) = (0_u32, 0_u32);
    for journal in 0..journals {
        let mut random = ChaCha8Rng::seed_from_u64(journal);
        let mut trials = Vec::new();
        for problem in 0..2 * PROBLEMS {
            let null = problem % 2 == 0;
            let pair = &pairs[random.random_range(0..pairs.len())];
            let common_us = location_us(&sorted(pair[0].iter().chain(&pair[1]).copied()));
            let spread = |us: &f64| common_us * (us / common_us).powi(3);
            let rounds = if null { 48 } else { rounds };
            let [one, other] =
                redrawn(&mut random, pair, rounds).map(|rounds| rounds.iter().map(spread).collect::<Vec<f64>>());
            let slower = |rounds: &[f64], factor: f64| rounds.iter().map(|us| us * factor).collect::<Vec<_>>();
            let arm = |block, rounds: &[f64]| {
                arm(Family::Matmul, &shape(1 + problem), &config(block), (Stage::Final, 1), (0, 0), rounds)
            };
            if null {
                trials.extend([arm(16, &one), arm(32, &slower(&one, 1.9))]);
                trials.push(Trial { null_arm: true, ..arm(16, &other) });
            } else {
                trials.extend([arm(16, &slower(&one, TRUTH)), arm(32, &other)]);
            }
        }
        let (problems, block) = served(&trials);
        assert_eq!(block, 16);
        for problem in problems.iter().filter(|problem| problem.slowdown > Some(1.0)) {
            all += 1;
            within += u32::from((problem.slowdown.unwrap() / TRUTH).ln().abs() <= problem.noise.ln_1p());
        }
    }
    assert!(u64::from(all) >= PROBLEMS as u64 * journals * 9 / 10, "{all}");
    f64::from(within) / f64::from(all)
}

#[test]
fn noise_covers_what_it_says() {
    for duration in amount::some(DURATIONS) {
        let share = coverage(duration, 48, 20);
        assert!((share - 0.95).abs() <= 0.02, "{duration}: {share}");
    }
}

#[test]
fn noise_over_fewer_rounds_covers_no_less() {
    for duration in amount::some(DURATIONS) {
        let share = coverage(duration, 16, 8);
        assert!(share >= 0.92, "{duration}: {share}");
    }
}

/// The share of slowdowns within their noise of the truth, of a config that only a cross race tells of, a fifth slower clock's,
/// which it shares with two anchors and, or not, the winner.
fn coverage_through_anchors(with_winner: bool) -> f64 {
    let pairs = recorded("under20");
    let (mut within, mut all) = (0_u32, 0_u32);
    for journal in 0..20 {
        let mut random = ChaCha8Rng::seed_from_u64(journal);
        let mut trials = Vec::new();
        for problem in 0..2 * PROBLEMS {
            let pair = &pairs[random.random_range(0..pairs.len())];
            let usual_us = location_us(&sorted(pair[0].iter().copied()));
            let shape = shape(1 + problem);
            let mut arm = |block, race, us: f64| {
                let spread = |round: &f64| us * (round / usual_us).powi(3);
                let rounds: Vec<f64> = redrawn(&mut random, pair, 48)[0].iter().map(spread).collect();
                arm(Family::Matmul, &shape, &config(block), race, (0, 0), &rounds)
            };
            let (last, cross) = ((Stage::Final, 1), (Stage::Cross, 2));
            if problem % 2 == 0 {
                trials.extend([arm(16, last, 10.0), arm(32, last, 19.0)]);
                trials.push(Trial { null_arm: true, ..arm(16, last, 10.0) });
            } else {
                trials.extend([arm(32, last, 8.0), arm(64, last, 9.0), arm(128, last, 9.0)]);
                trials.extend([arm(64, cross, 10.8), arm(128, cross, 10.8), arm(16, cross, TRUTH * 9.6)]);
                trials.extend(with_winner.then(|| arm(32, cross, 9.6)));
            }
        }
        let (problems, block) = served(&trials);
        assert_eq!(block, 16);
        for problem in problems.iter().filter(|problem| problem.slowdown > Some(1.0)) {
            all += 1;
            within += u32::from((problem.slowdown.unwrap() / TRUTH).ln().abs() <= problem.noise.ln_1p());
        }
    }
    assert!(all >= 2000, "{all}");
    f64::from(within) / f64::from(all)
}

#[test]
fn noise_covers_what_it_says_through_anchors() {
    for with_winner in amount::some([true, false]) {
        let share = coverage_through_anchors(with_winner);
        assert!((share - 0.95).abs() <= 0.02, "with the winner {with_winner}: {share}");
    }
}

/// The mean slowdown, in logarithms, that a document gives one of six configs that all take the same.
fn mean_ln_slowdown(chosen_by: u32) -> f64 {
    let pairs = recorded("under20");
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut trials = Vec::new();
    for problem in 0..PROBLEMS * 2 {
        let mut rounds = |count: usize| -> Vec<f64> {
            let [one, _] = redrawn(&mut random, &pairs[problem % pairs.len()], count);
            let usual_us = location_us(&sorted(pairs[problem % pairs.len()][0].iter().copied()));
            one.iter().map(|us| 10.0 * us / usual_us).collect()
        };
        let arms: Vec<Vec<f64>> = (0..6).map(|_| rounds(90)).collect();
        let chosen_us = |arm: &Vec<f64>| location_us(&sorted(arm[..30].iter().copied()));
        let winner = (0..6).min_by(|one, other| chosen_us(&arms[*one]).total_cmp(&chosen_us(&arms[*other]))).unwrap();
        let shape = shape(1 + problem);
        let arm = |index: usize, joined: u32, rounds: &[f64]| {
            let config = config(16 << index);
            arm(Family::Matmul, &shape, &config, (Stage::Final, 1), (joined, chosen_by), rounds)
        };
        trials.extend(arms.iter().enumerate().map(|(index, rounds)| arm(index, 0, rounds)));
        if chosen_by > 0 {
            trials.push(Trial { null_arm: true, ..arm(winner, chosen_by, &rounds(60)) });
        }
    }
    let (problems, _) = served(&trials);
    mean(&problems.iter().map(|problem| problem.slowdown.unwrap().ln()).collect::<Vec<_>>()).unwrap()
}

#[test]
fn rounds_that_did_not_choose_the_winner_do_not_flatter_it() {
    let (held_out, same) = (mean_ln_slowdown(30), mean_ln_slowdown(0));
    assert!(held_out.abs() < 7e-4, "{held_out}");
    assert!(same > 2e-3, "chosen and reported by the same rounds, the winner is ahead of its equals: {same}");
}
