//! Models in the document, and entries that run on all shapes they answer for.

use super::trials::{derive, finalist, h200, trial};
use kernel_sweep::derive::{Defaults, Derived, merge};
use kernel_sweep::families;
use kernel_sweep::heuristics::{Document, FittedModel, Model, bucket_of, group_of};
use kernel_sweep::journal::{Stage, Trial};
use kernel_sweep::model::{Config, Dtype, Family, Mma, PidType, Problem};
use kernel_sweep::plan::{Limits, Plan, Purpose, draw};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// What a config might take: the floor, more for what of its tiles lies outside of the problem, and by its knobs.
fn time_us(config: &Config, problem: &Problem) -> f64 {
    let spec = families::spec(problem.family);
    let floor = 3.0 + (spec.bytes(problem).0 as f64 / 4e6).max(spec.flops(problem) / 6e8);
    let extents: Vec<u64> = problem.shape.dimensions().iter().map(|(_, extent)| *extent).collect();
    let waste = |(extent, block): (&u64, &u32)| extent.next_multiple_of(u64::from(*block)) as f64 / *extent as f64;
    let wasted: f64 = extents.iter().zip(&config.block_sizes).map(waste).product();
    let knobs = f64::from(config.num_warps.unwrap_or(1).ilog2() * 3 + config.num_stages.unwrap_or(2));
    // No two configs are alike on any problem.
    let mark: u64 = format!("{config} {problem}").bytes().fold(7, |mark, byte| (mark * 31 + u64::from(byte)) % 10_007);
    let by_knobs = (knobs - 8.0).abs() * 0.02 + f64::from(config.split_k.unwrap_or(1)) * 0.01 + mark as f64 * 4e-6;
    floor * (1.0 + (wasted - 1.0).min(6.0) * 0.3 + by_knobs)
}

/// What a sweep of some problems and configs of a family would have journaled.
pub(crate) fn journal(family: Family, problems: usize, configs: usize) -> Vec<Trial> {
    let plan = Plan::load(family, None).unwrap();
    let (spec, profile) = (families::spec(family), h200());
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let drawn = draw(family, Purpose::Evaluation, 3, Limits::GPU, []).take(problems);
    drawn
        .flat_map(|drawn| {
            let problem = drawn.problem;
            let mut legal: Vec<Config> = plan.legal_configs(&problem, &profile).into_iter().cloned().collect();
            legal.shuffle(&mut random);
            legal.truncate(configs);
            legal.sort_by(|one, other| time_us(one, &problem).total_cmp(&time_us(other, &problem)));
            let shape = problem.shape.to_string();
            let of_config = move |(place, config): (usize, Config)| {
                let us = time_us(&config, &problem);
                let kernel = format!("kernel-{}", spec.compiled_half(&config));
                let trial = match place {
                    0..8 => finalist(family, &shape, &config, us),
                    8..16 => trial(family, &shape, &config, Stage::Cross, us),
                    _ => trial(family, &shape, &config, Stage::Screen, us),
                };
                Trial { kernel, ..trial }
            };
            legal.into_iter().enumerate().map(of_config).collect::<Vec<_>>()
        })
        .collect()
}

const FAMILIES: [Family; 4] = [Family::Matmul, Family::Attention, Family::RowSoftmax, Family::Elementwise];

fn journals() -> Vec<Trial> {
    FAMILIES.into_iter().flat_map(|family| journal(family, 40, 40)).collect()
}

fn derive_by(trials: &[Trial], threads: usize) -> Derived {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| derive(trials, &Defaults::new()))
}

/// What is made of these journals by three threads.
static DERIVED: LazyLock<Derived> = LazyLock::new(|| derive_by(&journals(), 3));

fn fitted(document: &Document, family: Family) -> FittedModel {
    serde_json::from_value(document.models[family.name()].clone()).unwrap()
}

fn dims(problem: &Problem) -> Vec<i64> {
    problem.shape.extents().iter().map(|extent| *extent as i64).collect()
}

#[test]
fn every_class_has_a_model_whatever_the_order_and_the_threads() {
    let mut trials = journals();
    let derived = &*DERIVED;
    trials.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    let text = derived.document.to_canonical_json();
    assert!(derive_by(&trials, 1).document.to_canonical_json() == text, "another order gives another document");
    assert_eq!(Document::from_bytes(text.as_bytes()).unwrap().to_canonical_json(), text);
    for (family, report) in BTreeSet::from(FAMILIES)
        .into_iter()
        .map(|family| (family, derived.classes.iter().find(|report| report.class == family.name()).unwrap()))
    {
        let fitted = fitted(&derived.document, family);
        let sources: Vec<_> = fitted.cross_validation.regret.keys().map(String::as_str).collect();
        // Of shapes drawn at random, few share a bucket.
        assert!(sources.starts_with(&["fallback", "model"]), "{family}: {sources:?}");
        assert_eq!(report.model.as_ref().unwrap().configs, fitted.configs.len());
        assert_eq!((fitted.problems.len(), &report.no_model), (40, &None), "{family}");
        // The winner of an exact shape is told with its time, in four digits.
        let model = Model::new(fitted).unwrap();
        let finals: Vec<&Trial> =
            trials.iter().filter(|trial| trial.family == family && trial.stage == Stage::Final).collect();
        for trial in &finals {
            let problem = trial.problem();
            let times = finals.iter().filter(|other| other.problem() == problem);
            let best_us = times.map(|other| other.median_us.unwrap().0).fold(f64::INFINITY, f64::min);
            let winners = model.measured(&dims(&problem)[..model.fitted().dims.len()], problem.dtype.name()).unwrap();
            assert!((winners[0].1 - best_us).abs() < 6e-4 * best_us, "{problem}: {winners:?}, not {best_us}");
        }
    }
}

#[test]
fn what_is_served_runs_on_every_shape_it_is_served_for() {
    let document = &DERIVED.document;
    let profile = h200();
    let config = |template: &serde_json::Map<String, Value>| -> Config {
        serde_json::from_value(Value::Object(template.clone())).unwrap()
    };
    let mut judged = 0;
    for family in FAMILIES {
        let spec = families::spec(family);
        let model = Model::new(fitted(document, family)).unwrap();
        let runs = |template: &serde_json::Map<String, Value>, problem: &Problem| {
            let verdict = spec.legal(&config(template), problem, &profile);
            assert!(verdict.is_ok(), "{problem}: {}: {}", config(template), verdict.unwrap_err());
        };
        for drawn in draw(family, Purpose::Evaluation, 99, Limits::GPU, []).take(3000) {
            let problem = drawn.problem;
            let bucket = bucket_of(&problem);
            let class = |class: &str| class == family.name();
            for rule in document.rules.iter().filter(|rule| class(&rule.kernel_class) && rule.shape_bucket == bucket) {
                if rule.validation.get("refused_on").is_none() {
                    rule.templates.iter().for_each(|ranked| runs(&ranked.template, &problem));
                    judged += 1;
                }
            }
            let fallback = &document.fallbacks[family.name()][group_of(&problem)];
            if fallback.validation.get("refused_on").is_none() {
                runs(&fallback.template, &problem);
                judged += 1;
            }
            for choice in model.best(&dims(&problem)[..model.fitted().dims.len()], problem.dtype.name(), 3) {
                runs(&model.configs()[choice.config].template, &problem);
            }
        }
    }
    assert!(judged > 8000, "{judged} entries judged");
}

fn softmax(num_warps: u32) -> Config {
    Config {
        block_sizes: vec![1],
        mma: Some(Mma::Simt),
        num_warps: Some(num_warps),
        pid_type: Some(PidType::Flat),
        reduction_loops: vec![None],
        split_k: Some(1),
        ..Config::default()
    }
}

#[test]
fn cross_validation_tells_what_each_source_is_worth_by_alignment() {
    let trials: Vec<Trial> = (0..300)
        .flat_map(|place| {
            // Three of four are aligned, on which four warps are best; on the others it is eight.
            let cols = 1032 + 16 * place + i64::from(place % 4 == 0);
            let shape = format!("rows={},cols={cols}", 1000 + 10 * place);
            let us = |warps: u32| if (warps == 4) == (place % 4 != 0) { 10.0 } else { 11.0 };
            [4, 8].map(|warps| finalist(Family::RowSoftmax, &shape, &softmax(warps), us(warps)))
        })
        .collect();
    let fitted = fitted(&derive(&trials, &Defaults::new()).document, Family::RowSoftmax);
    let regret = |source: &str, aligned| {
        fitted.cross_validation.regret(source, Some("square"), aligned).map(|cell| cell.geomean)
    };
    for source in ["rule", "fallback"] {
        assert!((regret(source, true).unwrap() - 1.0).abs() < 1e-9, "{source}: {:?}", fitted.cross_validation);
        assert!((regret(source, false).unwrap() - 1.1).abs() < 1e-9, "{source}: {:?}", fitted.cross_validation);
    }
    let [aligned, unaligned] = [true, false].map(|aligned| regret("model", aligned).unwrap());
    assert!(aligned < 1.02 && unaligned < 1.02, "{aligned} {unaligned}");
}

#[test]
fn a_config_that_wins_but_does_not_run_on_all_of_a_bucket_gives_way() {
    // Whole rows of a warp each are in registers up to 1024 columns only, and there are longer ones in the bucket and group.
    let (narrow, wide) = (Config { block_sizes: vec![16], num_warps: Some(4), ..softmax(4) }, softmax(4));
    let shapes: Vec<String> = (0..6).map(|place| format!("rows={},cols=1032", 1000 + place)).collect();
    let trials = |configs: &[(&Config, f64)]| -> Vec<Trial> {
        let of_shape = |shape| configs.iter().map(move |(config, us)| finalist(Family::RowSoftmax, shape, config, *us));
        shapes.iter().flat_map(|shape: &String| of_shape(shape.as_str())).collect()
    };
    let served =
        |trials: &[Trial]| derive(trials, &Defaults::new()).document.fallbacks["row_softmax"]["square"].clone();
    let both = served(&trials(&[(&narrow, 10.0), (&wide, 12.0)]));
    assert_eq!(both.template["block_sizes"], serde_json::json!([1]));
    assert_eq!(both.validation.get("refused_on"), None);
    let alone = served(&trials(&[(&narrow, 10.0)]));
    assert_eq!(alone.template["block_sizes"], serde_json::json!([16]));
    let refused = alone.validation["refused_on"].as_str().unwrap();
    let shape = refused.strip_prefix("row_softmax ").and_then(|rest| rest.strip_suffix(" bf16")).unwrap();
    let problem = Problem::parse(Family::RowSoftmax, shape, Dtype::Bf16).unwrap();
    assert!(families::spec(Family::RowSoftmax).legal(&narrow, &problem, &h200()).is_err(), "{refused}");
}

#[test]
fn configs_of_another_version_have_no_model_and_a_model_stays_with_its_class() {
    let old: Vec<Trial> = journal(Family::RowSoftmax, 12, 12)
        .into_iter()
        .map(|trial| Trial { config: Config { split_k: None, ..trial.config.clone() }, ..trial })
        .collect();
    let derived = derive(&old, &Defaults::new());
    assert!(derived.document.models.is_empty() && !derived.document.fallbacks["row_softmax"].is_empty());
    let reason = derived.classes[0].no_model.as_deref().unwrap();
    assert!(reason.contains("measure"), "{reason}");

    let both: Vec<Trial> =
        [Family::RowSoftmax, Family::Elementwise].into_iter().flat_map(|family| journal(family, 12, 12)).collect();
    let before = derive(&both, &Defaults::new()).document;
    let merged = merge(before.clone(), derived.document, &BTreeSet::from(["row_softmax".to_owned()]));
    assert_eq!(merged.models.keys().collect::<Vec<_>>(), ["elementwise"]);
    assert_eq!(merged.models["elementwise"], before.models["elementwise"]);
}

/// Run by hand: `cargo test --release --test derive -- --ignored --nocapture a_quarter`.
#[test]
#[ignore = "takes a minute"]
fn a_quarter_of_a_million_trials_are_derived_within_a_minute() {
    let trials: Vec<Trial> = Family::ALL.into_iter().flat_map(|family| journal(family, 300, 120)).collect();
    let start = std::time::Instant::now();
    let derived = derive(&trials, &Defaults::new());
    let took = start.elapsed();
    let size = |text: String| text.len() / 1000;
    let models = Document { rules: Vec::new(), fallbacks: BTreeMap::new(), ..derived.document.clone() };
    let (all, models) = (size(derived.document.to_canonical_json()), size(models.to_canonical_json()));
    println!("{} trials in {took:.1?}; the document has {all} KB, {models} of them models", trials.len());
    for report in &derived.classes {
        println!("{}: {} trials: {:?} {:?}", report.class, report.trials, report.model, report.no_model);
    }
    // Of problems drawn at random, almost each has a rule of its own, which no sweep has that many of.
    assert!(took.as_secs() < 60 && models < 2000, "{took:?}, {models} KB");
}
