//! Races: what is compared with what.

use super::trials::{arm, config, derive, finalist, h200, header, trial};
use kernel_sweep::derive::{self, Defaults, Evidence, Inputs, ProblemSource, Source};
use kernel_sweep::heuristics::Document;
use kernel_sweep::journal::{Contents, Header, Stage, Trial};
use kernel_sweep::model::{Config, Family, Mma};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::slice;

const ADD: Family = Family::Elementwise;
const SHAPE: &str = "numel=1000";

fn at(race: (Stage, u64), halves: (u32, u32), block: u32, rounds: &[f64]) -> Trial {
    arm(ADD, SHAPE, &config(block), race, halves, rounds)
}

fn document(trials: &[Trial]) -> Document {
    derive(trials, &Defaults::new()).document
}

/// What the fallback serves on the one problem, and what the document says of it there.
fn tiny(trials: &[Trial]) -> (u64, ProblemSource) {
    let document = document(trials);
    let fallback = &document.fallbacks["elementwise"]["tiny"];
    let problems = Source::of_document(&fallback.source).problems;
    (fallback.template["block_sizes"][0].as_u64().unwrap(), problems[0].clone())
}

/// Rounds of a kernel that takes so long by a clock that changes by a tenth from round to round.
fn drifting(us: f64, rounds: usize) -> Vec<f64> {
    (0..rounds).map(|round| us * (1.0 + 0.1 * (round as f64).sin())).collect()
}

/// 256 is ahead in the choosing rounds, 512 in those after them by 10 %, beyond any noise here.
fn lucky() -> Vec<Trial> {
    let final_race = (Stage::Final, 3);
    let rounds = |chosen: f64, reported: f64| [vec![chosen; 4], vec![reported; 8]].concat();
    vec![
        at(final_race, (0, 4), 256, &rounds(90.0, 110.0)),
        at(final_race, (0, 4), 512, &rounds(100.0, 100.0)),
        Trial { null_arm: true, ..at(final_race, (4, 4), 256, &[110.0; 8]) },
    ]
}

#[test]
fn the_winner_is_what_the_choosing_rounds_chose_and_the_others_tell_how_lucky_it_was() {
    let (block, problem) = tiny(&lucky());
    assert_eq!(block, 512);
    assert!((problem.slowdown.unwrap() - 100.0 / 110.0).abs() < 1e-9, "{problem:?}");
    assert!((problem.served_us.unwrap() - 100.0).abs() < 1e-9);
}

#[test]
fn an_arm_that_dropped_out_is_compared_over_the_rounds_it_ran() {
    let mut trials = lucky();
    // Only three rounds, of which the winner took 90 µs in each.
    trials.push(at((Stage::Final, 3), (0, 4), 1024, &[270.0; 3]));
    // Nothing else works on these, so that 1024 is served.
    for shape in ["numel=2000", "numel=3000", "numel=4000"] {
        trials.push(arm(ADD, shape, &config(1024), (Stage::Final, 4), (0, 4), &[10.0; 12]));
        trials.push(arm(ADD, shape, &config(512), (Stage::Final, 4), (0, 4), &[70.0; 12]));
    }
    let (block, problem) = tiny(&trials);
    assert_eq!(block, 1024);
    assert!((problem.slowdown.unwrap() - 3.0).abs() < 1e-9, "{problem:?}");
}

#[test]
fn the_last_final_is_the_reference() {
    let mut trials = lucky();
    trials.push(at((Stage::Final, 9), (0, 0), 256, &[100.0; 12]));
    trials.push(at((Stage::Final, 9), (0, 0), 1024, &[120.0; 12]));
    let (_, problem) = tiny(&trials);
    // 512 raced in the one before, where it took 100 beside 256's 110.
    assert!((problem.slowdown.unwrap() - 100.0 / 110.0).abs() < 1e-9, "{problem:?}");
    assert!((problem.served_us.unwrap() - 100.0 * 100.0 / 110.0).abs() < 1e-9);
}

#[test]
fn a_cross_trial_is_compared_through_the_anchors_by_paired_rounds() {
    // The cross race ran on a GPU that took 30 % longer, and drifted by more than the configs differ.
    for (best_us, tolerance) in [(100.0, 1e-9), (1000.0, 1e-9), (10.0, 1e-9)] {
        let in_final =
            |block, factor: f64, rounds| at((Stage::Final, 1), (0, 0), block, &drifting(best_us * factor, rounds));
        let crossed = |block, factor: f64, rounds| {
            at((Stage::Cross, 2), (0, 0), block, &drifting(1.3 * best_us * factor, rounds))
        };
        let trials = [
            in_final(256, 1.0, 24),
            in_final(512, 1.05, 24),
            crossed(256, 1.0, 16),
            crossed(512, 1.05, 16),
            crossed(1024, 0.9, 16),
        ];
        let (block, problem) = tiny(&trials);
        assert_eq!(block, 1024, "10 % faster than what won, though its time is longer");
        assert!((problem.slowdown.unwrap() - 0.9).abs() < tolerance, "{problem:?}");
    }
}

#[test]
fn where_no_anchor_links_two_races_times_count_and_are_noisy() {
    let trials = [at((Stage::Final, 1), (0, 0), 256, &[100.0; 12]), at((Stage::Cross, 2), (0, 0), 1024, &[90.0; 12])];
    let (block, problem) = tiny(&trials);
    assert_eq!(block, 1024);
    assert!((problem.slowdown.unwrap() - 0.9).abs() < 1e-9);
    assert!(problem.noise >= 0.02, "{problem:?}");
}

/// 24 problems with a null arm so far off, and one on which 256 takes so many times what 512 does.
fn with_null_arms(null_off: f64, ratio: f64) -> Vec<Trial> {
    let mut trials = Vec::new();
    for problem in 0..24_u32 {
        let shape = format!("numel={}", 100_000 + problem);
        let of = |block: u32, us: f64| arm(ADD, &shape, &config(block), (Stage::Final, 1), (0, 0), &[us; 12]);
        trials.extend([of(64, 10.0), of(128, 30.0)]);
        trials.push(Trial { null_arm: true, ..of(64, 10.0 * (1.0 + null_off)) });
    }
    let race = (Stage::Final, 2);
    trials.extend([at(race, (0, 0), 256, &[10.0 * ratio; 12]), at(race, (0, 0), 512, &[10.0; 12])]);
    trials
}

#[test]
fn what_is_within_the_pooled_noise_is_a_tie_that_a_fixed_order_breaks() {
    assert_eq!(tiny(&with_null_arms(0.01, 1.009)).0, 256, "within 1 %, the first by text");
    assert_eq!(tiny(&with_null_arms(0.01, 1.011)).0, 512, "beyond it, the faster");
    assert_eq!(tiny(&with_null_arms(0.03, 1.011)).0, 256);
    let (_, problem) = tiny(&with_null_arms(0.01, 1.009));
    assert!((problem.noise - 0.01).abs() < 1e-4 && problem.slowdown > Some(1.008), "{problem:?}");
}

/// Without the winner of the final, each anchor of a cross race adds noise of its own, which several of them even out.
#[test]
fn many_anchors_tell_more_than_one() {
    let noise = |anchors: u32| {
        let mut trials = with_null_arms(0.01, 1.0);
        trials.truncate(trials.len() - 2); // the problem below has other races
        trials.push(at((Stage::Final, 2), (0, 0), 256, &[10.0; 12]));
        for anchor in 0..anchors {
            trials.push(at((Stage::Final, 2), (0, 0), 16 + anchor, &[11.0; 12]));
            trials.push(at((Stage::Cross, 3), (0, 0), 16 + anchor, &[11.0; 12]));
        }
        trials.push(at((Stage::Cross, 3), (0, 0), 1024, &[9.0; 12]));
        let (block, problem) = tiny(&trials);
        assert_eq!(block, 1024);
        problem.noise
    };
    let [one, two, four] = [1, 2, 4].map(noise);
    assert!(one > 1.1 * two && two > 1.05 * four, "{one} {two} {four}");
}

#[test]
fn a_document_names_the_programs_it_compared_with() {
    let with_mma = |block: u32, mma| Config { mma: Some(mma), ..config(block) };
    let of =
        |config: &Config, us: f64, rounds: usize| arm(ADD, SHAPE, config, (Stage::Final, 1), (0, 4), &vec![us; rounds]);
    let mut trials: Vec<Trial> =
        (1..=7).map(|index| of(&with_mma(16 * index, Mma::Wgmma), 100.0 + 3.0 * f64::from(index), 12)).collect();
    let (other_kind, default, dropped) =
        (with_mma(512, Mma::MmaSync), with_mma(1024, Mma::Wgmma), with_mma(2048, Mma::Wgmma));
    trials.extend([of(&other_kind, 150.0, 12), of(&default, 200.0, 12), of(&dropped, 120.0, 4)]);
    let defaults = Defaults::from([(ADD, vec![default.clone()])]);
    let document = derive(&trials, &defaults).document;
    let source = Source::of_document(&document.fallbacks["elementwise"]["tiny"].source);
    let anchors = &source.problems[0].anchors;
    assert_eq!(anchors.len(), 6);
    let ratio = |config: &Config| {
        let digest = Sha256::digest(format!("{}\0kernel-{config}", json!(config)));
        anchors.get(&format!("{:08x}", u32::from_be_bytes(digest[..4].try_into().unwrap()))[..6]).copied()
    };
    let served: Config =
        serde_json::from_value(document.fallbacks["elementwise"]["tiny"].template.clone().into()).unwrap();
    assert_eq!(ratio(&served), Some(1.0), "what is served is what another document may serve no more");
    let served_us = source.problems[0].served_us.unwrap();
    assert!((ratio(&other_kind).unwrap() - served_us / 150.0).abs() < 1e-9);
    assert!((ratio(&default).unwrap() - served_us / 200.0).abs() < 1e-9);
    assert_eq!(ratio(&dropped), None, "it did not stay for the rounds that report");
}

#[test]
fn protocols_never_count_together() {
    let softmax = [finalist(Family::RowSoftmax, "rows=4,cols=128", &config(1), 1.0)];
    let newer = Header { protocol: "cold-l2/2".into(), ..header() };
    let older = Header { protocol: "cold-l2/1".into(), ..header() };
    let mut evidence = Evidence::default();
    evidence.add_journal(slice::from_ref(&older), &lucky()).unwrap();
    for trials in [&lucky()[..], &softmax] {
        let error = evidence.add_journal(slice::from_ref(&newer), trials).unwrap_err().to_string();
        assert!(error.contains(trials[0].family.name()) && error.contains("cold-l2/1 and cold-l2/2"), "{error}");
    }
    let error = Evidence::default().add_journal(&[older, newer], &softmax).unwrap_err().to_string();
    assert!(error.contains("cold-l2/1 and cold-l2/2"), "one journal of both: {error}");
}

fn run(trials: &[Trial], before: Option<&Document>, is_today: &(dyn Fn(&Trial) -> bool + Sync)) -> Document {
    let contents = Contents { headers: vec![header()], trials: trials.to_vec(), ..Contents::default() };
    let inputs = Inputs {
        profile: &h200(),
        journals: &[("journal".into(), contents)],
        measurements: Evidence::default(),
        defaults: &Defaults::new(),
        before,
        accept_driver: false,
    };
    derive::run_where(inputs, is_today).unwrap().document
}

#[test]
fn whoever_derives_gets_the_same_bytes() {
    let all = |_: &Trial| true;
    let first = run(&lucky(), None, &all);
    assert_eq!(first.to_canonical_json(), document(&lucky()).to_canonical_json());
    assert_eq!(run(&lucky(), Some(&first), &all).to_canonical_json(), first.to_canonical_json());
    // What was measured of other classes stays.
    let softmax = [finalist(Family::RowSoftmax, "rows=4,cols=128", &config(1), 1.0)];
    let both = run(&softmax, Some(&first), &all);
    assert_eq!(both.fallbacks.keys().collect::<Vec<_>>(), ["elementwise", "row_softmax"]);
    assert_eq!(both.to_canonical_json(), document(&[&lucky()[..], &softmax].concat()).to_canonical_json());
    // A kernel that is not today's says nothing.
    let old = Trial { kernel: "old".into(), ..at((Stage::Final, 3), (0, 4), 64, &[1.0; 12]) };
    let with_old = [&[old][..], &lucky()].concat();
    assert_eq!(run(&with_old, None, &|trial| trial.kernel != "old"), first);
    assert_ne!(run(&with_old, None, &all), first);
}

#[test]
fn a_lone_time_of_the_search_is_no_slowdown_beside_a_final() {
    let trials = [lucky(), vec![trial(ADD, SHAPE, &config(64), Stage::Screen, 1.0)]].concat();
    assert_eq!(tiny(&trials).0, 512);
}
