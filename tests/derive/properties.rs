//! Random small journals against a second, plain implementation.

use super::amount;
use super::trials::{config, derive, failed, trial};
use kernel_sweep::derive::Defaults;
use kernel_sweep::heuristics::{Bucket, bucket_of, group_of};
use kernel_sweep::journal::{Stage, Status, Trial};
use kernel_sweep::model::{Dtype, Family, Micros, Problem};
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

const SHAPES: [&str; 9] = [
    "m=1,n=64,k=64",
    "m=2,n=64,k=64",
    "m=3,n=64,k=64",
    "m=4,n=64,k=64",
    "m=100,n=4096,k=4096",
    "m=120,n=4096,k=4096",
    "m=128,n=4000,k=4096",
    "m=2048,n=2048,k=2048",
    "m=2000,n=2048,k=2048",
];
const BLOCK_SIZES: [u32; 5] = [16, 32, 64, 128, 256];
/// Close enough for ties, far enough for rules, and no two at the very edge of noise.
const TIMES_US: [f64; 6] = [10.0, 10.02, 11.0, 13.0, 17.0, 30.0];

const TIE: f64 = 0.005;
/// These journals tell nothing of their noise.
const NOISE: f64 = 0.02;

/// How far apart two means over so many problems are that tie.
fn tie(problems: usize) -> f64 {
    (NOISE / (problems as f64).sqrt()).max(TIE)
}

fn problem(shape: usize) -> Problem {
    Problem::parse(Family::Matmul, SHAPES[shape], Dtype::Bf16).unwrap()
}

/// At most one trial for each shape and config.
fn any_journal() -> impl Strategy<Value = Vec<Trial>> {
    let cell = prop_oneof![
        1 => Just(None),
        6 => (proptest::sample::select(&TIMES_US[..]), proptest::sample::select(vec![Stage::Screen, Stage::Final, Stage::Cross]), proptest::bool::weighted(0.1)).prop_map(Some),
    ];
    proptest::collection::vec(cell, SHAPES.len() * BLOCK_SIZES.len()).prop_map(|cells| {
        let place = |index: usize| (SHAPES[index / BLOCK_SIZES.len()], config(BLOCK_SIZES[index % BLOCK_SIZES.len()]));
        let cells = cells.into_iter().enumerate().filter_map(|(index, cell)| Some((place(index), cell?)));
        cells
            .map(|((shape, config), (median_us, stage, fails))| {
                let trial = trial(Family::Matmul, shape, &config, stage, median_us);
                if fails { failed(trial, Status::Crashed) } else { trial }
            })
            .collect()
    })
}

/// Arms of several finals and cross races of whatever numbers, lengths and halves, null arms among them.
fn any_races() -> impl Strategy<Value = Vec<Trial>> {
    let stage = proptest::sample::select(vec![Stage::Screen, Stage::Final, Stage::Cross]);
    let race = (0..SHAPES.len(), stage, proptest::option::of(1_u64..4), 0_u32..4, 0_u32..4);
    let rounds = proptest::collection::vec(proptest::sample::select(&TIMES_US[..]), 0..12);
    let arm = (race, proptest::sample::select(&BLOCK_SIZES[..]), rounds, proptest::bool::weighted(0.2));
    let arm = arm.prop_map(|((shape, stage, race, joined, chosen_by), block, rounds_us, null_arm)| Trial {
        race,
        joined,
        chosen_by,
        null_arm: null_arm && stage == Stage::Final,
        median_us: Some(Micros(rounds_us.first().copied().unwrap_or(11.0))),
        rounds_us,
        ..trial(Family::Matmul, SHAPES[shape], &config(block), stage, 1.0)
    });
    proptest::collection::vec(arm, 1..80)
}

/// One problem: each config's time of any stage (`None` where it failed), and its slowdown if it is in the race.
struct Plain {
    problem: Problem,
    times: BTreeMap<String, Option<f64>>,
    slowdowns: BTreeMap<String, f64>,
}

fn plain(trials: &[Trial]) -> Vec<Plain> {
    (0..SHAPES.len())
        .filter_map(|shape| {
            let problem = problem(shape);
            let here: Vec<&Trial> = trials.iter().filter(|trial| trial.problem() == problem).collect();
            let time = |trial: &Trial| trial.median_us.map(|median| median.0);
            let late = |trial: &&&Trial| time(trial).is_some() && trial.stage >= Stage::Final;
            let any_late = here.iter().any(|trial| late(&trial));
            let racing: Vec<&&Trial> =
                here.iter().filter(|trial| time(trial).is_some() && (late(trial) || !any_late)).collect();
            let least = |stage: &dyn Fn(Stage) -> bool| {
                let times = racing.iter().filter(|trial| stage(trial.stage)).filter_map(|trial| time(trial));
                times.min_by(f64::total_cmp)
            };
            let best = least(&|stage| stage == Stage::Final).or_else(|| least(&|_| true)).unwrap_or(f64::NAN);
            (!racing.is_empty()).then(|| Plain {
                problem,
                times: here.iter().map(|trial| (trial.config.to_string(), time(trial))).collect(),
                slowdowns: racing.iter().map(|trial| (trial.config.to_string(), time(trial).unwrap() / best)).collect(),
            })
        })
        .collect()
}

fn penalty(row: &Plain) -> f64 {
    row.slowdowns.values().copied().fold(2.0, f64::max)
}

fn geomean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.collect();
    values.iter().product::<f64>().powf(1.0 / values.len() as f64)
}

/// What all of a group weighs where a bucket's config is chosen.
const GROUP_WEIGHT: f64 = 0.1;

/// Fewest failures, then least geomean over the rows and, with little weight, the group's; then, within a tie, the first by
/// text.
fn brute_force(rows: &[&Plain], group: &[&Plain]) -> Option<String> {
    let mut scored: Vec<(usize, f64, String)> = Vec::new();
    for size in BLOCK_SIZES {
        let config = config(size).to_string();
        if rows.iter().any(|row| row.slowdowns.contains_key(&config)) {
            let failures = rows.iter().filter(|row| row.times.get(&config) == Some(&None)).count();
            let slowdown = |row: &&Plain| row.slowdowns.get(&config).copied().unwrap_or(penalty(row));
            let mut mean = geomean(rows.iter().map(slowdown));
            if !group.is_empty() {
                let weight = GROUP_WEIGHT / (rows.len() as f64 + GROUP_WEIGHT);
                mean = mean.powf(1.0 - weight) * geomean(group.iter().map(slowdown)).powf(weight);
            }
            scored.push((failures, mean, config));
        }
    }
    let fewest = scored.iter().map(|(failures, ..)| *failures).min()?;
    scored.retain(|(failures, ..)| *failures == fewest);
    let best = scored.iter().map(|(_, mean, _)| *mean).fold(f64::INFINITY, f64::min);
    scored.into_iter().filter(|(_, mean, _)| *mean <= best * (1.0 + tie(rows.len()))).map(|(.., config)| config).min()
}

/// Times of a challenger over a baseline on each row, and how often only one of them works.
fn against(rows: &[&Plain], challenger: &str, baseline: impl Fn(&Plain) -> String) -> (Vec<f64>, usize, usize) {
    let (mut ratios, mut baseline_fails, mut challenger_fails) = (Vec::new(), 0, 0);
    for row in rows {
        match (row.times.get(challenger), row.times.get(&baseline(row))) {
            (Some(Some(ours)), Some(Some(theirs))) => ratios.push(ours / theirs),
            (Some(Some(_)), Some(None)) => baseline_fails += 1,
            (Some(None), Some(Some(_))) => challenger_fails += 1,
            _ => {}
        }
    }
    (ratios, baseline_fails, challenger_fails)
}

fn text(template: &serde_json::Map<String, Value>) -> String {
    Value::Object(template.clone()).to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(amount::times(12) as u32))]

    #[test]
    fn choices_equal_brute_force(trials in any_journal()) {
        let document = derive(&trials, &Defaults::new()).document;
        let rows = plain(&trials);
        let all: Vec<&Plain> = rows.iter().collect();
        let single = brute_force(&all, &[]);

        let group_of_rows =
            |group: &str| -> Vec<&Plain> { rows.iter().filter(|row| group_of(&row.problem) == group).collect() };
        let mut fallback_of: BTreeMap<&str, String> = BTreeMap::new();
        let mut buckets: BTreeMap<Bucket, Vec<&Plain>> = BTreeMap::new();
        for row in &rows {
            let group = group_of(&row.problem);
            fallback_of.insert(group, brute_force(&group_of_rows(group), &[]).unwrap());
            buckets.entry(bucket_of(&row.problem)).or_default().push(row);
        }
        for (group, config) in &fallback_of {
            prop_assert_eq!(&text(&document.fallbacks["matmul"][*group].template), config);
        }
        let fallback = |row: &Plain| fallback_of[group_of(&row.problem)].clone();

        for (bucket, rows) in &buckets {
            let group = group_of_rows(group_of(&rows[0].problem));
            let single = single.clone().unwrap();
            let mut first = brute_force(rows, &group).unwrap();
            let (ratios, _, fails) = against(rows, &first, |_| single.clone());
            if fails > 0 || (!ratios.is_empty() && geomean(ratios.iter().copied()) > 1.0 + NOISE) {
                first = single;
            }
            let (ratios, fallback_fails, fails) = against(rows, &first, fallback);
            let beats = ratios.is_empty() || fallback_fails > 0 || geomean(ratios.iter().copied()) < 1.0 - tie(rows.len());
            let faster = fails == 0 && beats;
            let rule = document.rules.iter().find(|rule| rule.shape_bucket == *bucket);
            prop_assert_eq!(rule.is_some(), faster, "{:?}", bucket);
            let Some(rule) = rule else { continue };
            prop_assert_eq!(&text(&rule.templates[0].template), &first);

            let Some(left_out) = rule.validation.get("leave_one_out") else {
                prop_assert_eq!(rows.len(), 1);
                prop_assert_eq!(&rule.validation["single_problem"], true);
                continue;
            };
            let held_out: Vec<(f64, bool)> = (0..rows.len()).map(|index| {
                let others: Vec<&Plain> = rows.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, row)| *row).collect();
                let group: Vec<&Plain> = group.iter().copied().filter(|row| row.problem != rows[index].problem).collect();
                let pick = brute_force(&others, &group).unwrap();
                let slowdown = rows[index].slowdowns.get(&pick).copied();
                (slowdown.unwrap_or(penalty(rows[index])), slowdown.is_none())
            }).collect();
            let mean = geomean(held_out.iter().map(|(slowdown, _)| *slowdown));
            prop_assert!((left_out["geomean_slowdown"].as_f64().unwrap() - mean).abs() < 1e-9);
            prop_assert_eq!(left_out["uncovered"].as_u64().unwrap() as usize, held_out.iter().filter(|(_, missing)| *missing).count());
            let worst = held_out.iter().filter(|(_, missing)| !missing).map(|(slowdown, _)| *slowdown).fold(0.0, f64::max);
            prop_assert!((left_out["max_slowdown"].as_f64().unwrap_or(0.0) - worst).abs() < 1e-9);
        }
        prop_assert!(document.rules.iter().all(|rule| buckets.contains_key(&rule.shape_bucket)));
    }

    #[test]
    fn order_and_threads_make_no_difference(
        (trials, shuffled) in proptest::collection::vec(any_journal(), 2)
            .prop_map(|journals| journals.concat()) // the same pairs twice, with other times
            .prop_flat_map(|trials| (Just(trials.clone()), Just(trials).prop_shuffle())),
    ) {
        let json = |trials: &[Trial], threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| derive(trials, &Defaults::new()).document.to_canonical_json())
        };
        prop_assert_eq!(json(&trials, 1), json(&shuffled, 3));
    }

    #[test]
    fn the_order_of_races_makes_no_difference(
        (trials, shuffled) in any_races().prop_flat_map(|trials| (Just(trials.clone()), Just(trials).prop_shuffle())),
    ) {
        let json = |trials: &[Trial], threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| derive(trials, &Defaults::new()).document.to_canonical_json())
        };
        prop_assert_eq!(json(&trials, 1), json(&shuffled, 3));
    }

    #[test]
    fn every_group_of_a_measured_class_has_a_fallback(trials in any_journal()) {
        let derived = derive(&trials, &Defaults::new());
        let groups = derived.document.fallbacks.get("matmul").map_or(0, BTreeMap::len);
        let expected = if derived.classes.iter().any(|class| class.problems > 0) { 5 } else { 0 };
        prop_assert_eq!(groups, expected);
    }
}
