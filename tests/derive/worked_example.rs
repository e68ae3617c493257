//! Small journals with every figure worked out by hand.

use super::trials::{arm, config, derive, evidence, failed, finalist, h200, header, trial};
use kernel_sweep::derive::{self, Defaults, Evidence, config_key};
use kernel_sweep::heuristics::{Document, Rule};
use kernel_sweep::journal::{Header, Stage, Status, Trial};
use kernel_sweep::model::{Config, Family};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ADD: Family = Family::Elementwise;

/// Three blocks on problems in the groups tiny and mid (numbers are µs, slowdowns in brackets):
///
/// | problem | bucket | group | 256 | 512 | 1024 |
/// |---|---|---|---|---|---|
/// | numel=1000 | <=4096 | tiny | 10 (1) | 11 (1.1) | 20 (2) |
/// | numel=4000 | <=4096 | tiny | 10 (1) | 12 (1.2) | 20 (2) |
/// | numel=50000 | <=65536 | tiny | 18 (1.8) | 10 (1) | 12 (1.2) |
/// | numel=500000 | <=1048576 | mid | 10 (1) | 30 (3) | 20 (2), screened only |
/// | numel=60000 | <=65536 | tiny | wrong | wrong | wrong |
///
/// Geometric means: tiny 256: 1.8^⅓ = 1.2164, 512: 1.32^⅓ = 1.0970, 1024: 4.8^⅓ = 1.6869, so tiny falls back to 512.
/// All four: 256: 1.8^¼ = 1.1583, 512: 3.96^¼ = 1.4107, 1024: 9.6^¼ = 1.7602, so 256 is the best single config.
fn journal() -> Vec<Trial> {
    let [a, b, c] = [256, 512, 1024].map(config);
    let mut trials = Vec::new();
    for (shape, times) in
        [("numel=1000", [10.0, 11.0, 20.0]), ("numel=4000", [10.0, 12.0, 20.0]), ("numel=50000", [18.0, 10.0, 12.0])]
    {
        for (config, median_us) in [&a, &b, &c].into_iter().zip(times) {
            trials.push(finalist(ADD, shape, config, median_us));
        }
    }
    for (config, median_us) in [(&a, 10.0), (&b, 30.0), (&c, 20.0)] {
        trials.push(trial(ADD, "numel=500000", config, Stage::Screen, median_us));
        trials.push(failed(trial(ADD, "numel=60000", config, Stage::Screen, 1.0), Status::Wrong));
    }
    trials
}

fn defaults(config: Config) -> Defaults {
    Defaults::from([(ADD, vec![config])])
}

fn close(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 5e-5
}

fn rules<'d>(document: &'d Document, numel_bin: &str) -> Vec<&'d Rule> {
    document.rules.iter().filter(|rule| rule.shape_bucket["numel_bin"] == numel_bin).collect()
}

#[test]
fn the_document_as_a_whole() {
    insta::assert_snapshot!(derive(&journal(), &defaults(config(1024))).document.to_canonical_json());
}

#[test]
fn a_fallback_is_the_least_geomean_of_its_whole_group() {
    let document = derive(&journal(), &Defaults::new()).document;
    let tiny = &document.fallbacks["elementwise"]["tiny"];
    assert_eq!(tiny.template, *json!({ "block_sizes": [512] }).as_object().unwrap());
    assert!(close(&tiny.validation["geomean_slowdown"], 1.0970));
    // Of the three problems that tie for the median best time the middle one is numel=4000, whose winner is 256.
    assert_eq!(tiny.validation["exemplar"]["problem"], "numel=4000 bf16");
    assert!(close(&tiny.validation["exemplar"]["geomean_slowdown"], 1.2164));
    // Without numel=1000: 256 has √1.8, 512 √1.2, so 512 is served: 1.1. Without 4000: 512 again: 1.2. Without 50000: 256: 1.8.
    let left_out = &tiny.validation["leave_one_out"];
    assert!(close(&left_out["geomean_slowdown"], (1.1_f64 * 1.2 * 1.8).cbrt()), "{left_out}");
    assert!(close(&left_out["max_slowdown"], 1.8));
    assert_eq!(left_out["problems"], 3);
    // 512 against the best single config 256: 1.1, 1.2 and 10/18.
    let single = &tiny.validation["compared"]["best_single"];
    assert!(close(&single["ratio"], (1.1_f64 * 1.2 / 1.8).cbrt()));
    assert_eq!((single["pairs"].as_u64(), single["rounds"].as_u64()), (Some(3), Some(27)));
    assert_eq!(single["slower_on"], 2);
}

#[test]
fn a_group_without_problems_borrows_the_best_single_config() {
    let derived = derive(&journal(), &Defaults::new());
    let huge = &derived.document.fallbacks["elementwise"]["huge"];
    assert_eq!(huge.template["block_sizes"], json!([256]));
    assert!(huge.source.contains_key("borrowed"));
    assert!(huge.source.get("problems").and_then(|problems| problems.as_array()).is_none_or(Vec::is_empty));
    assert_eq!(derived.classes[0].borrowed_fallbacks, ["huge"]);
}

#[test]
fn a_rule_is_kept_where_it_beats_the_fallback() {
    let derived = derive(&journal(), &defaults(config(1024)));
    let [rule] = rules(&derived.document, "<=4096")[..] else { panic!("one rule") };
    assert_eq!(rule.templates.len(), 1, "nothing helps beside the winner of both problems");
    let template = &rule.templates[0];
    assert_eq!(template.template["block_sizes"], json!([256]));
    assert_eq!((template.win_count, template.shape_coverage), (Some(2.0), Some(2.0)));
    assert_eq!((template.geomean_slowdown, template.p90_slowdown), (Some(1.0), Some(1.0)));
    let compared = &rule.validation["compared"];
    assert!(close(&compared["fallback"]["ratio"], (10.0 / 11.0 * 10.0 / 12.0_f64).sqrt()));
    assert!(close(&compared["fallback"]["range"][0], 10.0 / 12.0));
    assert!(close(&compared["fallback"]["range"][1], 10.0 / 11.0));
    assert_eq!(compared["fallback"]["pairs"], 2);
    assert!(close(&compared["default"]["ratio"], 0.5));
    assert!(close(&compared["best_single"]["ratio"], 1.0), "it is the best single config");
    assert!(close(&rule.validation["leave_one_out"]["geomean_slowdown"], 1.0));
    let report = &derived.classes[0];
    assert_eq!((report.buckets, report.rules, report.left_to_fallback), (3, 1, 2));
}

#[test]
fn a_bucket_that_ties_is_left_to_the_fallback() {
    let document = derive(&journal(), &Defaults::new()).document;
    assert_eq!(rules(&document, "<=65536"), Vec::<&Rule>::new(), "512 is the fallback already");
    assert_eq!(rules(&document, "<=1048576"), Vec::<&Rule>::new());
}

#[test]
fn problems_without_a_working_config_are_skipped_and_named() {
    let derived = derive(&journal(), &Defaults::new());
    assert_eq!(derived.classes[0].problems, 4);
    assert_eq!(derived.classes[0].unworkable, ["numel=60000 bf16"]);
    assert!(!derived.document.to_canonical_json().contains("60000"));

    let all_failed: Vec<Trial> = journal().into_iter().map(|trial| failed(trial, Status::Crashed)).collect();
    let derived = derive(&all_failed, &Defaults::new());
    assert!(derived.document.rules.is_empty() && derived.document.fallbacks.is_empty());
    assert_eq!(derived.classes[0].unworkable.len(), 5);
}

#[test]
fn one_problem_claims_no_cross_validation() {
    // Among tiny, 256 wins twice by far and 512 once, so that the bucket <=65536 gets a rule from one problem.
    let mut trials = Vec::new();
    for (shape, a, b) in [("numel=1000", 10.0, 20.0), ("numel=4000", 10.0, 20.0), ("numel=50000", 15.0, 10.0)] {
        trials.push(finalist(ADD, shape, &config(256), a));
        trials.push(finalist(ADD, shape, &config(512), b));
    }
    let document = derive(&trials, &Defaults::new()).document;
    let [rule] = rules(&document, "<=65536")[..] else { panic!("one rule") };
    assert_eq!(rule.validation["single_problem"], true);
    assert!(!rule.validation.contains_key("leave_one_out"));
    assert_eq!(document.fallbacks["elementwise"]["tiny"].validation.get("single_problem"), None);
}

#[test]
fn ties_go_to_the_first_config_by_text() {
    // 1 % apart, where 2 % are assumed to be noise: one tie class, of which [256] comes before [512].
    let tie = |a, b| {
        let trials = [finalist(ADD, "numel=1000", &config(256), a), finalist(ADD, "numel=1000", &config(512), b)];
        derive(&trials, &Defaults::new()).document.fallbacks["elementwise"]["tiny"].template["block_sizes"].clone()
    };
    assert_eq!(tie(10.0, 10.1), json!([256]));
    assert_eq!(tie(10.1, 10.0), json!([256]));
    assert_eq!(tie(10.3, 10.0), json!([512]), "3 % are no tie");
}

#[test]
fn ties_go_to_the_simpler_launch() {
    use kernel_sweep::model::PidType::{Flat, PersistentBlocked, PersistentInterleaved};
    let launch = |pid_type| Config { pid_type: Some(pid_type), ..config(256) };
    let order = [launch(Flat), launch(PersistentInterleaved), launch(PersistentBlocked)];
    for rest in (0..order.len()).map(|first| &order[first..]) {
        let one_kernel = |trial: Trial| Trial { kernel: "kernel".into(), ..trial };
        let trials: Vec<Trial> =
            rest.iter().map(|config| one_kernel(finalist(ADD, "numel=1000", config, 10.0))).collect();
        let document = derive(&trials, &Defaults::new()).document;
        assert_eq!(Value::Object(document.fallbacks["elementwise"]["tiny"].template.clone()), json!(rest[0]));
    }
}

#[test]
fn a_group_has_a_say_in_its_buckets() {
    // On the one problem of its bucket 512 is 4 % faster than 1024, but elsewhere in its group by far the slowest.
    let with_group = |elsewhere_us: f64| {
        let mut trials = Vec::new();
        for shape in ["numel=1000", "numel=2000", "numel=4000"] {
            for (block_size, median_us) in [(256, 10.0), (512, elsewhere_us), (1024, 10.6)] {
                trials.push(finalist(ADD, shape, &config(block_size), median_us));
            }
        }
        for (block_size, median_us) in [(256, 20.0), (512, 10.0), (1024, 10.4)] {
            trials.push(finalist(ADD, "numel=50000", &config(block_size), median_us));
        }
        derive(&trials, &Defaults::new()).document
    };
    let first = |document: &Document| {
        let rule = rules(document, "<=65536").first().map(|rule| rule.templates[0].template.clone());
        rule.unwrap_or_else(|| document.fallbacks["elementwise"]["tiny"].template.clone())
    };
    assert_eq!(first(&with_group(10.6))["block_sizes"], json!([512]));
    // ln(1.04) · (1 + 0.3 / 4) is less than 0.3 · 3 / 4 · ln(1.9 / 1.06).
    assert_eq!(first(&with_group(19.0))["block_sizes"], json!([1024]));
}

#[test]
fn a_document_names_what_it_cannot_tell_from_what_it_serves() {
    // In the cross race each second config took 0.5 % more beside the others, each other one 0.5 % less: the ratios of half of the
    // pairs change by 1 %. That both took a fifth longer than in the final does not count.
    let mut trials = Vec::new();
    let configs: Vec<Config> = (1..=24).map(|index| config(index * 16)).collect();
    for (index, config) in configs.iter().enumerate() {
        let final_us = 10.0 * 1.01f64.powi(index as i32);
        let again_us = 1.2 * final_us * if index % 2 == 0 { 1.005 } else { 1.0 / 1.005 };
        trials.push(arm(ADD, "numel=1000", config, (Stage::Cross, 2), (0, 0), &[again_us; 9]));
        trials.push(arm(ADD, "numel=1000", config, (Stage::Final, 1), (0, 0), &[final_us; 9]));
    }
    let document = derive(&trials, &Defaults::new()).document;
    let fallback = &document.fallbacks["elementwise"]["tiny"];
    // 1.01 is within the 2 % that are assumed where there are no null arms, and 256 comes before it by text.
    let mut within: Vec<String> = configs[..2].iter().map(Config::to_string).collect();
    within.sort();
    assert_eq!(Value::Object(fallback.template.clone()).to_string(), within[0]);
    // 1.96 · 1.4826 · 2 · ln(1.005)
    assert!(close(&fallback.validation["ties"]["repeat_noise"], 0.028_987), "{}", fallback.validation["ties"]);
    // What is served won: 1.01 and 1.0201 are within that, 1.0303 is not.
    let named: BTreeSet<&str> =
        fallback.validation["ties"]["configs"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert_eq!(
        named,
        configs[1..3]
            .iter()
            .map(|config| config_key(&config.to_template()))
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect()
    );
}

#[test]
fn finals_outrank_what_came_before() {
    let a = config(256);
    let trials = [
        trial(ADD, "numel=1000", &a, Stage::Screen, 5.0),
        finalist(ADD, "numel=1000", &a, 10.0),
        trial(ADD, "numel=1000", &a, Stage::Cross, 8.0),
        // Never in finals: its screening time, fast as it is, is no candidate's.
        trial(ADD, "numel=1000", &config(512), Stage::Refine, 1.0),
    ];
    let document = derive(&trials, &Defaults::new()).document;
    let tiny = &document.fallbacks["elementwise"]["tiny"];
    assert_eq!(tiny.source["problems"][0]["served_us"], 10.0);
    assert_eq!(tiny.template["block_sizes"], json!([256]));
}

#[test]
fn a_kernel_that_failed_once_is_never_served() {
    let (a, b) = (config(256), config(512));
    let trials = [
        finalist(ADD, "numel=1000", &a, 5.0),
        failed(trial(ADD, "numel=1000", &a, Stage::Refine, 5.0), Status::Wrong),
        finalist(ADD, "numel=1000", &b, 10.0),
    ];
    let document = derive(&trials, &Defaults::new()).document;
    assert_eq!(document.fallbacks["elementwise"]["tiny"].template["block_sizes"], json!([512]));

    // Mended and measured again as another kernel, it counts.
    let mended = Trial { kernel: "mended".into(), ..finalist(ADD, "numel=1000", &a, 5.0) };
    let trials = [trials.to_vec(), vec![mended]].concat();
    let document = derive(&trials, &Defaults::new()).document;
    assert_eq!(document.fallbacks["elementwise"]["tiny"].template["block_sizes"], json!([256]));
}

#[test]
fn a_config_that_fails_somewhere_comes_after_one_that_works_everywhere() {
    let (fast, safe) = (config(256), config(512));
    let mut trials = vec![
        failed(trial(ADD, "numel=3", &fast, Stage::Cross, 1.0), Status::LaunchFailed),
        finalist(ADD, "numel=3", &safe, 10.0),
    ];
    for shape in ["numel=1000", "numel=2000", "numel=4000"] {
        trials.extend([finalist(ADD, shape, &fast, 5.0), finalist(ADD, shape, &safe, 20.0)]);
    }
    let document = derive(&trials, &Defaults::new()).document;
    assert_eq!(document.fallbacks["elementwise"]["tiny"].template["block_sizes"], json!([512]));
}

/// Null arms of 20 further problems, so far off, enough to tell noise by.
fn null_arms(off: f64) -> Vec<Trial> {
    let on = |problem: u32| {
        let arm = |us| finalist(ADD, &format!("numel={}", 2_000_000 + problem), &config(2048), us);
        [arm(10.0), Trial { null_arm: true, ..arm(10.0 * (1.0 + off)) }]
    };
    (0..20).flat_map(on).collect()
}

#[test]
fn noise_comes_from_all_null_arms_of_kernels_that_take_as_long() {
    // In its bucket 512 is 3 % faster than the fallback 256.
    let with = |null_arms: &[Trial]| {
        let mut trials = null_arms.to_vec();
        for (shape, a, b) in [("numel=1000", 10.0, 10.4), ("numel=4000", 10.0, 10.4), ("numel=50000", 10.3, 10.0)] {
            trials.extend([finalist(ADD, shape, &config(256), a), finalist(ADD, shape, &config(512), b)]);
        }
        derive(&trials, &Defaults::new()).document
    };
    let quiet = with(&null_arms(0.001));
    assert_eq!(rules(&quiet, "<=65536").len(), 1);
    assert!(close(&rules(&quiet, "<=65536")[0].source["problems"][0]["noise"], 0.005), "never under the floor");
    assert_eq!(rules(&with(&null_arms(0.04)), "<=65536").len(), 0);
    // One farther draw among them is no more than one in twenty is.
    let mut one_off = null_arms(0.001);
    one_off.pop();
    one_off.push(Trial { null_arm: true, ..finalist(ADD, "numel=2000019", &config(2048), 10.04) });
    assert_eq!(rules(&with(&one_off), "<=65536").len(), 1);
    // Too few tell nothing: 2 % is assumed.
    let few = with(&null_arms(0.001)[..36]);
    assert!(close(&rules(&few, "<=65536")[0].source["problems"][0]["noise"], 0.02));
    // The duplicate is no candidate: its time, were it one, would be the best.
    let mut faster = null_arms(0.001);
    faster.push(Trial { null_arm: true, ..finalist(ADD, "numel=50000", &config(512), 9.99) });
    assert_eq!(rules(&with(&faster), "<=65536")[0].source["problems"][0]["served_us"], 10.0);
}

#[test]
fn paired_rounds_see_what_medians_cannot() {
    // The clock drifts by a factor of two, yet 512 is 1.5 % faster in every round.
    let slow: Vec<f64> = (0..9).map(|round| 80.0 + 10.0 * f64::from(round)).collect();
    let fast: Vec<f64> = slow.iter().map(|us| us * 0.985).collect();
    let mut trials = null_arms(0.001);
    for shape in ["numel=1000", "numel=4000"] {
        trials.extend([finalist(ADD, shape, &config(256), 10.0), finalist(ADD, shape, &config(512), 10.1)]);
    }
    trials.push(Trial { rounds_us: slow, ..finalist(ADD, "numel=50000", &config(256), 120.0) });
    trials.push(Trial { rounds_us: fast, ..finalist(ADD, "numel=50000", &config(512), 118.2) });
    let document = derive(&trials, &Defaults::new()).document;
    let [rule] = rules(&document, "<=65536")[..] else { panic!("one rule") };
    let fallback = &rule.validation["compared"]["fallback"];
    assert!(close(&fallback["ratio"], 0.985), "{fallback}");
    assert!(close(&fallback["noise"], 0.005), "{fallback}");
}

#[test]
fn no_rule_is_slower_than_the_default_anywhere() {
    // Over the bucket 256 has √(1 · 1.2), 512 √(1.35 · 1): but 256 is slower than the default 512 on numel=4000.
    let mut trials = Vec::new();
    for (shape, a, b, c) in [
        ("numel=1000", 10.0, 13.5, 20.0),
        ("numel=4000", 12.0, 10.0, 20.0),
        ("numel=50000", 30.0, 30.0, 10.0),
        ("numel=60000", 30.0, 30.0, 10.0),
        ("numel=65000", 30.0, 30.0, 10.0),
    ] {
        for (config, median_us) in [(config(256), a), (config(512), b), (config(1024), c)] {
            trials.push(finalist(ADD, shape, &config, median_us));
        }
    }
    let served = |defaults: &Defaults| {
        let document = derive(&trials, defaults).document;
        rules(&document, "<=4096")[0].templates[0].template["block_sizes"].clone()
    };
    assert_eq!(served(&Defaults::new()), json!([256]));
    assert_eq!(served(&defaults(config(512))), json!([512]));

    // With two defaults, each the best on its problem, nothing keeps up with both.
    let both = Defaults::from([(ADD, vec![config(256), config(512)])]);
    let derived = derive(&trials, &both);
    assert_eq!(rules(&derived.document, "<=4096").len(), 0);
    assert_eq!(derived.classes[0].slower_than_default, 1);
}

#[test]
fn complements_cover_what_the_first_does_not() {
    // 256 is best on two problems, 512 on the third, 1024 nowhere.
    let mut trials = Vec::new();
    for (shape, times) in
        [("numel=1000", [10.0, 14.0, 11.0]), ("numel=2000", [10.0, 14.0, 11.0]), ("numel=4000", [13.0, 10.0, 12.9])]
    {
        for (block_size, median_us) in [256, 512, 1024].into_iter().zip(times) {
            trials.push(finalist(ADD, shape, &config(block_size), median_us));
        }
    }
    for shape in ["numel=50000", "numel=60000", "numel=65000", "numel=65001"] {
        trials.push(finalist(ADD, shape, &config(2048), 1.0));
        trials.push(finalist(ADD, shape, &config(256), 9.0));
    }
    let document = derive(&trials, &Defaults::new()).document;
    let [rule] = rules(&document, "<=4096")[..] else { panic!("one rule") };
    let served: Vec<&Value> = rule.templates.iter().map(|ranked| &ranked.template["block_sizes"]).collect();
    assert_eq!(served, [&json!([256]), &json!([512])], "1024 helps nowhere once both are there");
    assert_eq!(rule.templates[1].win_count, Some(1.0));
}

#[test]
fn what_is_served_first_is_what_was_validated() {
    // 1024 is never best but never bad; readers rank by wins, and 256 and 512 win once each: they must not come first.
    let mut trials = Vec::new();
    for (shape, times) in [("numel=1000", [10.0, 20.0, 10.5]), ("numel=4000", [20.0, 10.0, 10.5])] {
        for (block_size, median_us) in [256, 512, 1024].into_iter().zip(times) {
            trials.push(finalist(ADD, shape, &config(block_size), median_us));
        }
    }
    for shape in ["numel=50000", "numel=60000", "numel=65000"] {
        trials.push(finalist(ADD, shape, &config(2048), 1.0));
        trials.push(finalist(ADD, shape, &config(1024), 9.0));
    }
    let document = derive(&trials, &Defaults::new()).document;
    let heuristics = kernel_sweep::heuristics::Heuristics::new(document);
    let problem = kernel_sweep::model::Problem::parse(ADD, "numel=2000", kernel_sweep::model::Dtype::Bf16).unwrap();
    assert_eq!(heuristics.lookup_problem(&problem).best().unwrap()["block_sizes"], json!([1024]));
}

#[test]
fn unusable_times_are_counted_and_left_out() {
    let mut trials = journal();
    for median_us in [None, Some(f64::NAN), Some(0.0), Some(-1.0)] {
        trials.push(Trial {
            median_us: median_us.map(kernel_sweep::model::Micros),
            ..finalist(ADD, "numel=1000", &config(64), 1.0)
        });
    }
    let derived = derive(&trials, &Defaults::new());
    assert_eq!(derived.unusable_trials, 4);
    assert_eq!(derived.document, derive(&journal(), &Defaults::new()).document);
}

#[test]
fn journals_of_two_devices_are_refused() {
    let mut evidence = evidence(&journal());
    let other = Header { gpu: "NVIDIA B200".into(), ..header() };
    let error = evidence.add_journal(&[other], &journal()).unwrap_err().to_string();
    assert!(error.contains("NVIDIA B200, NVIDIA H200"), "{error}");
}

#[test]
fn merging_keeps_the_other_classes() {
    let softmax = |us| vec![finalist(Family::RowSoftmax, "rows=4,cols=128", &config(1), us)];
    let document_of = |trials: &[Trial], driver: &str| {
        let mut evidence = Evidence::default();
        evidence.add_journal(&[Header { driver: driver.into(), ..header() }], trials).unwrap();
        derive::document(&evidence, &h200(), &Defaults::new()).document
    };
    let both = document_of(&[journal(), softmax(1.0)].concat(), "1");
    let newer = document_of(&softmax(2.0), "2");
    let merged = derive::merge(both.clone(), newer.clone(), &BTreeSet::from(["row_softmax".to_owned()]));
    assert_eq!(merged.fallbacks["elementwise"], both.fallbacks["elementwise"]);
    assert_eq!(merged.fallbacks["row_softmax"], newer.fallbacks["row_softmax"]);
    assert_eq!(merged.rules, both.rules);
    assert_eq!(merged.policy["driver"], "1, 2");
    assert_eq!(merged.policy["measured_with"]["elementwise"][0]["driver"], "1");
    assert_eq!(merged.policy["measured_with"]["row_softmax"][0]["driver"], "2");
    // Deriving the same class again is the same as having derived all at once.
    let again =
        derive::merge(both.clone(), document_of(&softmax(1.0), "1"), &BTreeSet::from(["row_softmax".to_owned()]));
    assert_eq!(again.to_canonical_json(), both.to_canonical_json());
}

#[test]
fn a_class_is_replaced_by_what_has_rules_of_it_alone() {
    let before = derive(&journal(), &Defaults::new()).document;
    let class = || BTreeSet::from(["elementwise".to_owned()]);
    let rules_alone = Document { fallbacks: BTreeMap::new(), rules: vec![before.rules[0].clone()], ..before.clone() };
    let merged = derive::merge(before.clone(), rules_alone.clone(), &class());
    assert_eq!((merged.rules, merged.fallbacks), (rules_alone.rules, BTreeMap::new()));
    // Where nothing of it is served, what was there stays, whatever there is of others.
    let another = Rule { kernel_class: "row_softmax".to_owned(), ..before.rules[0].clone() };
    let without = Document { fallbacks: BTreeMap::new(), rules: vec![another], ..before.clone() };
    let kept = derive::merge(before.clone(), without, &class());
    assert_eq!((kept.rules, kept.fallbacks), (before.rules, before.fallbacks));
}

#[test]
fn a_split_that_is_compiled_in_makes_another_kernel_not_a_newer_one() {
    let split = |split_k| Config { split_k: Some(split_k), ..config(1) };
    let trials = [
        finalist(Family::RowSoftmax, "rows=16,cols=32768", &split(4), 5.0),
        finalist(Family::RowSoftmax, "rows=16,cols=32768", &split(8), 10.0),
    ];
    let document = derive(&trials, &Defaults::new()).document;
    assert_eq!(document.fallbacks["row_softmax"]["short"].template["split_k"], 4);
}

/// `a` as it was before its kernel changed and as it is now, with a launch knob of each.
#[test]
fn where_a_kernel_has_changed_only_the_later_one_counts() {
    let (a, b) = (config(256), config(512));
    let persistent = Config { num_sm_multiplier: Some(2), ..a.clone() };
    let with_kernel = |kernel: &str, trial: Trial| Trial { kernel: kernel.into(), ..trial };
    let measured = |kernel: &str, shape: &str, config: &Config, us: f64| {
        with_kernel(kernel, finalist(Family::RowSoftmax, shape, config, us))
    };
    let first_day = [
        measured("old", "rows=16,cols=2048", &a, 5.0),
        measured("old", "rows=16,cols=2048", &persistent, 4.0),
        measured("other", "rows=16,cols=2048", &b, 10.0),
        // Of another problem, and never measured again.
        measured("old", "rows=4096,cols=512", &a, 5.0),
        measured("other", "rows=4096,cols=512", &b, 10.0),
    ];
    let second_day = [measured("new", "rows=16,cols=2048", &a, 20.0)];
    let served = |trials: &[Trial], group: &str| {
        derive(trials, &Defaults::new()).document.fallbacks["row_softmax"][group].template.clone()
    };
    let template = |config: &Config| serde_json::to_value(config).unwrap();
    assert_eq!(Value::Object(served(&first_day, "short")), template(&persistent));
    let both = [&first_day[..], &second_day].concat();
    assert_eq!(Value::Object(served(&both, "short")), template(&b), "neither launch of the old kernel counts");
    assert_eq!(Value::Object(served(&both, "narrow")), template(&a), "what was not measured again does");

    let wrong_then = with_kernel(
        "old",
        failed(trial(Family::RowSoftmax, "rows=16,cols=2048", &b, Stage::Screen, 1.0), Status::Wrong),
    );
    let mended = [&[wrong_then], &first_day[..]].concat();
    let mended = [mended, vec![measured("newer", "rows=16,cols=2048", &b, 1.0)]].concat();
    assert_eq!(Value::Object(served(&mended, "short")), template(&b), "a mended kernel is not held to its past");
}

#[test]
fn a_kernel_that_errs_far_more_than_others_is_taken_for_wrong() {
    let erring = |rel_err, trial: Trial| Trial { rel_err: Some(rel_err), ..trial };
    let at = |block: u32, us| finalist(Family::RowSoftmax, "rows=16,cols=2048", &config(block), us);
    let right = (1..=8).map(|block| erring(0.0017, at(block, 10.0 + f64::from(block))));
    let stray = |rel_err| right.clone().chain([erring(rel_err, at(64, 5.0))]).collect::<Vec<_>>();
    let served = |trials: &[Trial]| {
        let derived = derive(trials, &Defaults::new());
        (derived.document.fallbacks["row_softmax"]["short"].template["block_sizes"][0].clone(), derived.stray_trials)
    };
    assert_eq!(served(&stray(0.0018)), (64.into(), 0));
    assert_eq!(served(&stray(0.0040)), (1.into(), 1));
}
