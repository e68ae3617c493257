use super::*;
use crate::journal::{Stage, Status};
use crate::model::{Dtype, Micros};

const PROBLEM: &str = "m=5,n=4096,k=4096";

fn config(block: u32) -> Config {
    Config { block_sizes: vec![block], ..Config::default() }
}

/// An arm of the race whose rounds took the given times.
fn arm(config: &Config, rounds_us: &[f64], null_arm: bool) -> Trial {
    let problem = Problem::parse(Family::Matmul, PROBLEM, Dtype::Bf16).unwrap();
    let median_us = sorted(rounds_us)[rounds_us.len() / 2];
    let blank = Trial::untimed(&problem, config.clone(), Stage::Final, Status::Ok);
    Trial { median_us: Some(Micros(median_us)), rounds_us: rounds_us.to_vec(), null_arm, ..blank }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    crate::measure::sorted(values.iter().copied())
}

fn question(pick: Option<u32>, fallback: Option<u32>) -> Question {
    Question {
        planned: PlannedProblem { problem: Problem::parse(Family::Matmul, PROBLEM, Dtype::Bf16).unwrap(), from: None },
        source: if fallback.is_some() { "rule" } else { "fallback" },
        pick: pick.map(config),
        skipped: Vec::new(),
        fallback: fallback.map(config),
    }
}

/// A clock that drifts by half over the race: only paired rounds tell 1.1 from noise.
fn drifting(us: f64) -> Vec<f64> {
    (0..9).map(|round| us * (1.0 + 0.06 * f64::from(round))).collect()
}

fn near(value: Option<f64>, wanted: f64) -> bool {
    value.is_some_and(|value| (value - wanted).abs() < 1e-9)
}

#[test]
fn regret_is_by_paired_rounds() {
    let (best, pick, default) = (config(1), config(2), config(3));
    let duel = [
        arm(&best, &drifting(10.0), false),
        arm(&pick, &drifting(11.0), false),
        arm(&default, &drifting(10.5), false),
        arm(&best, &drifting(10.01), true),
    ];
    let judged = question(Some(2), None).judged(&duel, &best, &[default]);
    assert!(near(judged.regret, 1.1), "{judged:?}");
    assert!(near(judged.over_default, 11.0 / 10.5), "{judged:?}");
    assert!(judged.slower_than_default && judged.error.is_none());
    assert!(near(judged.noise, NOISE_FLOOR), "a null arm nearer than the floor is the floor");
}

#[test]
fn within_noise_nothing_is_slower() {
    let (best, default) = (config(1), config(3));
    let duel = [
        arm(&best, &[10.0; 9], false),
        arm(&config(2), &[10.3; 9], false),
        arm(&default, &[10.0; 9], false),
        arm(&best, &[10.4; 9], true),
    ];
    let judged = question(Some(2), None).judged(&duel, &best, &[default]);
    assert!(!judged.slower_than_default, "3 % is less than the null arm's 4 %");
    assert!(near(judged.regret, 1.03));
}

#[test]
fn a_pick_that_is_the_best_or_beats_it_has_no_regret() {
    let best = config(1);
    let duel = [arm(&best, &[10.0; 9], false), arm(&config(2), &[9.0; 9], false), arm(&best, &[10.0; 9], true)];
    assert_eq!(question(Some(1), None).judged(&duel, &best, &[]).regret, Some(1.0));
    assert_eq!(question(Some(2), None).judged(&duel, &best, &[]).regret, Some(1.0));
}

#[test]
fn a_rule_is_compared_with_the_fallback_it_stands_in_for() {
    let best = config(1);
    let duel = [arm(&best, &[10.0; 9], false), arm(&config(4), &[8.0; 9], false), arm(&best, &[10.0; 9], true)];
    let judged = question(Some(1), Some(4)).judged(&duel, &best, &[]);
    assert!(near(judged.over_fallback, 1.25) && judged.slower_than_fallback);
    assert_eq!(question(Some(1), Some(1)).judged(&duel, &best, &[]).over_fallback, None);
}

#[test]
fn a_pick_that_fails_is_slower_than_a_default_that_works() {
    let best = config(1);
    let broken =
        Trial { status: Status::Wrong, median_us: None, rounds_us: Vec::new(), ..arm(&config(2), &[1.0; 9], false) };
    let duel = [arm(&best, &[10.0; 9], false), broken, arm(&best, &[10.0; 9], true)];
    let judged = question(Some(2), None).judged(&duel, &best, std::slice::from_ref(&best));
    assert_eq!((judged.regret, judged.slower_than_default), (None, true));
    assert_eq!(judged.error.as_deref(), Some("the pick does not work here"));
    let nothing = question(None, None).judged(&duel, &best, std::slice::from_ref(&best));
    assert_eq!(nothing.error.as_deref(), Some("nothing is served"));
}

#[test]
fn figures_are_by_source_and_family() {
    let one = |family: &str, source, regret: Option<f64>| Evaluated {
        family: family.to_string(),
        source,
        regret,
        ..Evaluated::default()
    };
    let problems = vec![
        one("matmul", "rule", Some(1.0)),
        one("matmul", "fallback", Some(1.21)),
        one("attention", "rule", Some(1.0)),
        one("attention", "rule", None),
    ];
    let report = Report::new("h200", "x", problems);
    assert!(near(report.by_family["matmul"].geomean, 1.1));
    assert_eq!((report.by_family["attention"].failed, report.overall.failed), (1, 1));
    assert_eq!((report.by_source["rule"].max, report.overall.max), (Some(1.0), Some(1.21)));
    assert_eq!((report.transfer.with_rule, report.transfer.with_fallback), (3, 1));
}

fn template(block: u32) -> Template {
    serde_json::from_value(serde_json::to_value(config(block)).unwrap()).unwrap()
}

#[test]
fn what_cannot_run_is_passed_over_as_a_user_would() {
    let (wide, narrow, other) = (template(64), template(16), template(32));
    let served = |least: u32| {
        let ranked = [("rule", &wide), ("rule", &narrow), ("fallback", &other)].into_iter();
        let runs = |template: &Template| {
            let config: Config = serde_json::from_value(template.clone().into()).unwrap();
            if config.block_sizes[0] < least { Ok(config) } else { Err("too wide".to_string()) }
        };
        let (served, skipped) = first_that_runs(ranked, runs);
        let names: Vec<&str> = skipped.iter().map(|skipped| skipped.source).collect();
        (served.map(|(source, config)| (source, config.block_sizes[0])), names)
    };
    assert_eq!(served(65), (Some(("rule", 64)), vec![]));
    assert_eq!(served(64), (Some(("rule", 16)), vec!["rule"]));
    assert_eq!(served(16), (None, vec!["rule", "rule", "fallback"]));
    let ranked = [("rule", &wide), ("fallback", &other)].into_iter();
    let (served, _) =
        first_that_runs(ranked, |template| if *template == other { Ok(config(32)) } else { Err(String::new()) });
    assert_eq!(served, Some(("fallback", config(32))));
}

#[test]
fn templates_are_tried_against_the_problem_and_the_gpu() {
    let h200 = GpuProfile::by_name("h200").unwrap();
    let problem = Problem::parse(Family::Matmul, PROBLEM, Dtype::Bf16).unwrap();
    assert!(runnable(&template(64), &problem, &h200).is_err(), "a matrix product has three block sizes");
    let foreign = serde_json::from_str(r#"{"block_sizes": [16], "waves": 3}"#).unwrap();
    assert!(runnable(&foreign, &problem, &h200).unwrap_err().contains("waves"));
    let plan = Plan::load(Family::Matmul, None).unwrap();
    let default = plan.defaults(&h200).remove(0);
    let Ok(serde_json::Value::Object(default_template)) = serde_json::to_value(&default) else { unreachable!() };
    assert_eq!(runnable(&default_template, &problem, &h200), Ok(default));
}
