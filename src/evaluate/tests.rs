use super::*;
use crate::derive::NOISE_FLOOR;
use crate::journal::{Stage, Status};
use crate::measure::Summary;
use crate::model::Dtype;

const PROBLEM: &str = "m=5,n=4096,k=4096";

fn config(block: u32) -> Config {
    Config { block_sizes: vec![block], ..Config::default() }
}

/// An arm of the race whose rounds took the given times.
fn arm(config: &Config, rounds_us: &[f64], null_arm: bool) -> Trial {
    let problem = Problem::parse(Family::Matmul, PROBLEM, Dtype::Bf16).unwrap();
    let time_us = Summary::of(rounds_us).time_us;
    let blank = Trial::untimed(&problem, config.clone(), Stage::Final, Status::Ok);
    Trial { time_us: Some(time_us), rounds_us: rounds_us.to_vec(), null_arm, ..blank }
}

/// What becomes of a question, where its race alone tells the noise.
fn judged(question: &Question, raced: &[Trial], contenders: &[Config], defaults: &[Config]) -> Evaluated {
    let mut judged = vec![question.judged(raced, contenders, defaults, 0)];
    evaluated::judge(&mut judged);
    judged.remove(0)
}

fn question(pick: Option<u32>, fallback: Option<u32>) -> Question {
    Question {
        planned: PlannedProblem { problem: Problem::parse(Family::Matmul, PROBLEM, Dtype::Bf16).unwrap(), from: None },
        source: if fallback.is_some() { "rule" } else { "fallback" },
        pick: pick.map(config),
        skipped: Vec::new(),
        fallback: fallback.map(config),
        alone: fallback.map(|block| ("fallback", config(block))).into_iter().collect(),
    }
}

/// A clock that drifts by half over the race.
fn drifting(us: f64) -> Vec<f64> {
    (0..10).map(|round| us * (1.0 + 0.06 * f64::from(round))).collect()
}

fn near(value: Option<f64>, wanted: f64) -> bool {
    value.is_some_and(|value| (value - wanted).abs() < 1e-9)
}

#[test]
fn regret_is_told_by_the_rounds_of_the_race() {
    let (best, pick, default) = (config(1), config(2), config(3));
    for us in [10.0, 100.0] {
        let raced = [
            arm(&best, &drifting(us), false),
            arm(&pick, &drifting(1.1 * us), false),
            arm(&default, &drifting(1.05 * us), false),
            arm(&best, &drifting(1.0001 * us), true),
        ];
        let judged =
            judged(&question(Some(2), None), &raced, std::slice::from_ref(&best), std::slice::from_ref(&default));
        assert!(near(judged.regret, 1.1) && near(judged.ln_regret, 1.1f64.ln()), "{judged:?}");
        assert!(near(judged.over_default, 11.0 / 10.5), "{judged:?}");
        assert!(judged.slower_than_default && judged.error.is_none());
        assert!(near(judged.noise, NOISE_FLOOR), "a null arm nearer than the floor is the floor");
        assert_eq!(judged.best, Some(best.clone()));
    }
}

#[test]
fn within_noise_nothing_is_slower() {
    let (best, default) = (config(1), config(3));
    let raced = [
        arm(&best, &[10.0; 10], false),
        arm(&config(2), &[10.3; 10], false),
        arm(&default, &[10.0; 10], false),
        arm(&best, &[10.4; 10], true),
    ];
    let judged = judged(&question(Some(2), None), &raced, &[best], &[default]);
    assert!(!judged.slower_than_default, "3 % is less than what the null arm's 4 % say");
    assert!(near(judged.regret, 1.03));
}

#[test]
fn a_duplicate_that_joined_late_is_compared_with_the_rounds_it_ran_in() {
    let best = config(1);
    let rounds: Vec<f64> = std::iter::repeat_n(20.0, 4).chain(std::iter::repeat_n(10.0, 8)).collect();
    let duplicate = Trial { joined: 4, chosen_by: 4, ..arm(&best, &[10.0; 8], true) };
    let judged = judged(&question(Some(1), None), &[arm(&best, &rounds, false), duplicate], &[best], &[]);
    assert!(near(judged.noise, NOISE_FLOOR), "{judged:?}");
}

#[test]
fn a_pick_that_is_the_best_has_no_regret_and_one_that_beats_it_less_than_none() {
    let (best, pick) = (config(1), config(2));
    let raced = [arm(&best, &[10.0; 10], false), arm(&pick, &[9.0; 10], false), arm(&best, &[10.0; 10], true)];
    assert_eq!(judged(&question(Some(1), None), &raced, std::slice::from_ref(&best), &[]).ln_regret, Some(0.0));
    let ahead = judged(&question(Some(2), None), &raced, std::slice::from_ref(&best), &[]);
    assert!(near(ahead.regret, 0.9) && near(ahead.ln_regret, 0.9f64.ln()));
    let interval = ahead.ln_regret_interval.unwrap();
    assert!(near(interval.low, 0.9f64.ln()) && near(interval.high, 0.9f64.ln()), "steady rounds leave no doubt");
}

#[test]
fn the_best_of_the_three_is_what_the_race_says_and_not_what_the_search_said() {
    let raced = [
        arm(&config(1), &[10.0; 10], false),
        arm(&config(2), &[8.0; 10], false),
        arm(&config(3), &[9.0; 10], false),
        arm(&config(4), &[12.0; 10], false),
        arm(&config(1), &[10.0; 10], true),
    ];
    let judged = judged(&question(Some(4), None), &raced, &[config(1), config(2), config(3)], &[]);
    assert!(near(judged.regret, 1.5) && judged.best == Some(config(2)), "{judged:?}");
}

#[test]
fn a_rule_is_compared_with_the_fallback_it_stands_in_for() {
    let best = config(1);
    let raced = [arm(&best, &[10.0; 10], false), arm(&config(4), &[8.0; 10], false), arm(&best, &[10.0; 10], true)];
    let judged = |pick, fallback| judged(&question(pick, fallback), &raced, std::slice::from_ref(&best), &[]);
    let behind = judged(Some(1), Some(4));
    assert!(near(behind.over_fallback, 1.25) && behind.slower_than_fallback);
    assert_eq!(judged(Some(1), Some(1)).over_fallback, None);
}

#[test]
fn each_that_may_answer_is_judged_alone_beside_the_default() {
    let (best, pick, rule, fallback, default) = (config(1), config(2), config(4), config(5), config(3));
    let broken =
        Trial { status: Status::Wrong, time_us: None, rounds_us: Vec::new(), ..arm(&fallback, &[1.0; 10], false) };
    let raced = [
        arm(&best, &[10.0; 10], false),
        arm(&pick, &[11.0; 10], false),
        arm(&rule, &[12.0; 10], false),
        broken,
        arm(&default, &[20.0; 10], false),
        arm(&best, &[10.0; 10], true),
    ];
    let alone = [("model", pick.clone()), ("rule", rule), ("fallback", fallback)].into_iter().collect();
    let question = Question { source: "model", alone, ..question(Some(2), None) };
    let answers = judged(&question, &raced, &[best], &[default]).answers;
    let regret = |source: &str| answers[source].regret;
    assert!(near(regret("model"), 1.1) && near(regret("rule"), 1.2) && near(regret("default"), 2.0), "{answers:?}");
    assert_eq!((regret("fallback"), answers["fallback"].time_us), (None, None), "it does not work here");
    assert!(near(answers["model"].time_us, 11.0) && answers["model"].config == pick);
}

#[test]
fn what_answers_alone_is_the_first_of_its_own_that_runs() {
    let document = |models: bool| {
        let mut document = Document::from_bytes(builtin_document("h200").unwrap().as_bytes()).unwrap();
        if !models {
            document.models.clear();
        }
        document
    };
    let h200 = GpuProfile::by_name("h200").unwrap();
    let problem = Problem::parse(Family::Matmul, PROBLEM, Dtype::Bf16).unwrap();
    let names = |document: &Document| {
        let fallback = document.fallbacks["matmul"]["small_m"].config();
        let heuristics = Heuristics::new(document.clone());
        let alone = alone(&heuristics, &problem, fallback, |template| runnable(template, &problem, &h200));
        assert_eq!(
            Some(&alone["fallback"]),
            fallback.and_then(|template| runnable(template, &problem, &h200).ok()).as_ref()
        );
        alone.into_keys().collect::<Vec<_>>()
    };
    let has_rule = document(true)
        .rules
        .iter()
        .any(|rule| rule.kernel_class == "matmul" && rule.shape_bucket == crate::heuristics::bucket_of(&problem));
    let with = |others: &[&'static str]| {
        let rule = has_rule.then_some("rule");
        let mut all: Vec<&str> = others.iter().copied().chain(rule).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(names(&document(true)), with(&["fallback", "model"]));
    assert_eq!(names(&document(false)), with(&["fallback"]));
}

#[test]
fn a_pick_that_fails_is_slower_than_a_default_that_works() {
    let best = config(1);
    let broken =
        Trial { status: Status::Wrong, time_us: None, rounds_us: Vec::new(), ..arm(&config(2), &[1.0; 10], false) };
    let raced = [arm(&best, &[10.0; 10], false), broken, arm(&best, &[10.0; 10], true)];
    let best = std::slice::from_ref(&best);
    let failed = judged(&question(Some(2), None), &raced, best, best);
    assert_eq!((failed.regret, failed.slower_than_default), (None, true));
    assert_eq!(failed.error.as_deref(), Some("the pick does not work here"));
    assert_eq!(judged(&question(None, None), &raced, best, best).error.as_deref(), Some("nothing is served"));
}

/// A problem whose pick takes so many times as long as the best, with a doubt of 1 %.
fn evaluated(family: &str, source: &'static str, regret: Option<f64>) -> Evaluated {
    let unanswered = question(Some(2), None).unanswered("", None);
    let known = Evaluated { family: family.to_string(), source, error: None, ..unanswered };
    let Some(regret) = regret else { return known };
    let wobble = |us: f64| (0..10).map(|round| us * (1.0 + 0.01 * f64::from(round % 3))).collect::<Vec<_>>();
    let fit = cross_fit(&wobble(regret * 100.0), &[&[100.0; 10]], 0).unwrap();
    Evaluated {
        ln_regret: Some(fit.ln_ratio),
        ln_regret_interval: Some(fit.interval()),
        regret: Some(fit.ln_ratio.exp()),
        fit: Some(fit),
        ..known
    }
}

#[test]
fn figures_are_by_source_family_and_alignment() {
    let unaligned = Evaluated { alignment: Alignment::Unaligned, ..evaluated("attention", "rule", Some(1.0)) };
    let problems = vec![
        evaluated("matmul", "rule", Some(1.0)),
        evaluated("matmul", "fallback", Some(1.21)),
        unaligned,
        evaluated("attention", "rule", None),
    ];
    let report = Report::new("h200", "x", 0, problems);
    assert!(near(
        report.by_family["matmul"].geomean.map(|geomean| geomean / report.by_source["rule"].max.unwrap()),
        1.1
    ));
    assert_eq!((report.by_family["attention"].failed, report.overall.failed), (1, 1));
    assert_eq!(report.overall.max, report.by_source["fallback"].max);
    assert!(report.overall.worst.as_deref().unwrap().starts_with("matmul m=5"));
    assert_eq!((report.transfer.with_rule, report.transfer.with_fallback), (3, 1));
    let problems = |alignment| report.by_alignment[&alignment].problems;
    assert_eq!((problems(Alignment::Aligned), problems(Alignment::Unaligned)), (3, 1));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["by_alignment"]["unaligned"]["problems"], 1);
    assert_eq!(
        json["overall"]["intervals"]["geomean"],
        serde_json::json!([null, null]),
        "three problems tell no spread"
    );
    let max = &json["overall"]["intervals"]["max"];
    assert!(max[0].as_f64().unwrap() < report.overall.max.unwrap() && max[1].as_f64() > report.overall.max, "{max}");
}

#[test]
fn people_read_signed_logarithms_and_intervals() {
    let problems = (0..40).map(|index| evaluated("matmul", "rule", Some(0.98 + 0.005 * f64::from(index)))).collect();
    let report = Report::new("h200", "x", 0, problems).to_string();
    for wanted in [" -0.01", " +0.17", "… +0.18", " aligned", "p99"] {
        assert!(report.contains(wanted), "{wanted} in\n{report}");
    }
    assert!(report.contains("… ?"), "forty problems set no upper bound to the worst hundredth\n{report}");
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
