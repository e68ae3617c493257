//! What is served where a class has a fitted model: the exact shape and type decide.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

use allocation_counter::measure;
use kernel_sweep::heuristics::{
    Answer, Document, DtypeName, Extents, FittedModel, Heuristics, Options, Query, Source, Template, bucket_of,
    builtin_document, builtin_names, group_of,
};
use kernel_sweep::model::{Dtype, Family, Problem};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

#[path = "common/models.rs"]
mod models;

const EXAMPLE: &str = include_str!("data/observed_heuristics_model.json");

fn parsed(value: &Value) -> Heuristics {
    Heuristics::new(Document::from_value(value.clone()).unwrap())
}

fn example() -> Heuristics {
    Heuristics::from_bytes(EXAMPLE.as_bytes()).unwrap()
}

fn query(m: i64, n: i64, k: i64, dtype: &str) -> Query<'_> {
    let extents = Extents::Gemm { m: Some(m), n: Some(n), k: Some(k), sharing: None };
    Query { class: "matmul", extents, dtype: DtypeName::parse(dtype).unwrap() }
}

fn splits(answer: Answer) -> Vec<i64> {
    answer.configs().map(|config| config["split_k"].as_i64().unwrap()).collect()
}

#[test]
fn what_was_measured_for_the_exact_shape_and_type_comes_first() {
    let heuristics = example();
    let answer = heuristics.lookup_problem(&Problem::parse(Family::Matmul, "m=16,n=4096,k=4096", Dtype::Bf16).unwrap());
    assert_eq!((answer.source, splits(answer)), (Source::Measured, vec![4, 1]));
    assert_eq!((answer.measured_us(), answer.predicted_us()), (Some(vec![17.98, 18.3]), None));
    assert_eq!(heuristics.lookup(&query(16, 4096, 4096, "torch.bfloat16")).source, Source::Measured);
    assert_eq!(heuristics.lookup(&query(15, 4096, 4096, "bf16")).source, Source::Rule(0), "one row fewer");
    for other in ["f16", "torch.float16", "torch.half"] {
        let answer = heuristics.lookup(&query(16, 4096, 4096, other));
        assert_eq!((answer.source, splits(answer)), (Source::Rule(0), vec![8, 1]), "{other} was not measured");
    }
}

#[test]
fn the_least_regret_in_group_and_alignment_decides() {
    let heuristics = example();
    for (m, n, k, expected, why) in [
        (15, 4096, 4096, Source::Rule(0), "1.01 against 1.03"),
        (15, 4096, 4160, Source::Model, "no rule has the bucket; the fallback was not judged on aligned rows"),
        (15, 4095, 4032, Source::Fallback("small_m"), "1.1 against 1.2; the rule was not judged on unaligned rows"),
        (15, 4095, 4001, Source::Model, "the fallback's split cannot run this k"),
        (1024, 2048, 4096, Source::Model, "nothing is known of the group: 1.02 against 1.3"),
        (4096, 100, 4096, Source::Model, "the group has no fallback"),
    ] {
        assert_eq!(heuristics.lookup(&query(m, n, k, "bf16")).source, expected, "{m} {n} {k}: {why}");
    }
    let answer = heuristics.lookup(&query(15, 4096, 4104, "bf16"));
    assert_eq!((splits(answer), answer.evidence()), (vec![1, 1], None), "no split where k is no multiple of 64");
    let [fast, slow] = answer.predicted_us().unwrap()[..] else { panic!("two configs are legal") };
    let floor_us = 2.0 + 2.0 * (15.0 * 4104.0 + 4104.0 * 4096.0 + 15.0 * 4096.0) / 4e6;
    assert!((fast - floor_us * 0.1f64.exp()).abs() < 1e-9 && (slow - floor_us * 0.3f64.exp()).abs() < 1e-9);
    let answer = heuristics.lookup(&query(9, 4096, 4040, "bf16"));
    assert_eq!(
        (answer.source, splits(answer)),
        (Source::Rule(0), vec![1]),
        "the rule's other config cannot run this k"
    );
}

/// A document whose models are written down as today.
fn rewritten(text: &str) -> String {
    let mut document = Document::from_bytes(text.as_bytes()).unwrap();
    for model in document.models.values_mut() {
        let fitted: FittedModel = serde_json::from_value(model.take()).unwrap();
        *model = serde_json::to_value(fitted).unwrap();
    }
    document.to_canonical_json()
}

/// Lookups of 2,000 shapes in all classes of a document, with what else is told of some of them; and the times measured of these.
fn answers(text: &str) -> Vec<(Value, Vec<f64>)> {
    let heuristics = Heuristics::from_bytes(text.as_bytes()).unwrap();
    let document = Document::from_bytes(text.as_bytes()).unwrap();
    let models: Vec<(&String, FittedModel)> =
        document.models.iter().map(|(class, model)| (class, serde_json::from_value(model.clone()).unwrap())).collect();
    let mut seed = 1_u64;
    // Knuth's multiplier; the upper bits are the better ones.
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut answers = Vec::new();
    for asked in 0..2000 {
        let (class, model) = &models[random(models.len() as u64) as usize];
        let listed = &model.problems[random(model.problems.len() as u64) as usize];
        let dims: Vec<(&str, i64)> = model.dims.iter().map(String::as_str).zip(listed.dims.iter().copied()).collect();
        // A measured shape, or one near it.
        let mut moved = |extent: i64| if asked % 3 == 0 { extent } else { extent + random(70) as i64 };
        let moved: Vec<(&str, i64)> = dims.iter().map(|(name, extent)| (*name, moved(*extent))).collect();
        let query = |dims: &[(&str, i64)]| heuristics.query(class, dims, DtypeName::parse(&listed.dtype).unwrap());
        // Some move to what is no problem, such as an odd k of packed weights; and models may be of other dimensions than their class.
        let Ok(query) = query(&moved).or_else(|_| query(&dims)) else { continue };
        let answer = heuristics.lookup(&query);
        let mut told = serde_json::to_value(heuristics.explained(&query, asked % 20 == 0)).unwrap();
        let mut times_us = Vec::new();
        take_times(&mut told, &mut times_us);
        answers
            .push((json!([class, moved, answer.source.name(), answer.configs().collect::<Vec<_>>(), told]), times_us));
    }
    answers
}

/// Takes out the times that were measured.
fn take_times(value: &mut Value, times_us: &mut Vec<f64>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "measured_us" {
                    times_us.extend(value.take().as_array().into_iter().flatten().filter_map(Value::as_f64));
                }
                take_times(value, times_us);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| take_times(item, times_us)),
        _ => {}
    }
}

#[test]
fn documents_of_the_form_before_answer_as_those_of_today() {
    let large = models::large_document().to_string();
    let committed = builtin_names().map(|gpu| builtin_document(gpu).unwrap());
    for text in committed.chain([EXAMPLE, &large]) {
        let today = rewritten(text);
        assert!(!today.contains("trees/1"));
        assert_eq!(rewritten(&today), today);
        let (before, after) = (answers(text), answers(&today));
        assert!(before.len() > 1000, "of 2000: {}", before.len());
        assert_eq!(before.len(), after.len());
        for ((before, before_us), (after, after_us)) in before.iter().zip(&after) {
            assert_eq!((before, before_us.len()), (after, after_us.len()));
            // Half of the fourth digit.
            let is_near = |(before, after): (&f64, &f64)| (before / after - 1.0).abs() < 6e-4;
            assert!(before_us.iter().zip(after_us).all(is_near), "{before_us:?} {after_us:?}");
        }
    }
}

#[test]
fn without_regrets_the_model_comes_before_the_rule_and_the_rule_before_the_fallback() {
    let mut document: Value = serde_json::from_str(EXAMPLE).unwrap();
    document["models"]["matmul"]["cross_validation"]["regret"] = json!({});
    let source = |document: &Value| parsed(document).lookup(&query(15, 4096, 4096, "bf16")).source;
    assert_eq!(source(&document), Source::Model);
    document["models"]["matmul"]["configs"] = json!([]);
    document["models"]["matmul"]["problems"] = json!([]);
    assert_eq!(source(&document), Source::Rule(0));
    document["rules"][0]["templates"] = json!([{"template": "lost"}]);
    assert_eq!(source(&document), Source::Fallback("small_m"), "a rule without a config is passed over");
    document["fallbacks"]["matmul"]["small_m"]["template"] = json!({"split_k": 2});
    assert_eq!(source(&document), Source::Fallback("small_m"));
    document["models"]["matmul"]["legal"] = json!(["block_sizes[0] > 0"]);
    assert_eq!(source(&document), Source::None, "its config has no such knob");
}

#[test]
fn constants_of_a_models_own_configs_are_known_wherever_they_stand() {
    let mut document: Value = serde_json::from_str(EXAMPLE).unwrap();
    let model = &mut document["models"]["matmul"];
    model["config_constants"] = json!(["registers"]);
    model["legal"] = json!(["registers <= 128"]);
    model["configs"][0]["constants"] = json!({"registers": 255});
    model["configs"][1]["constants"] = json!({"registers": 64});
    let configs = model["configs"].clone();
    document["rules"][0]["templates"] = json!([{"template": {"unknown": 1}}, {"template": configs[0]["template"]}, {"template": configs[1]["template"]}]);
    let heuristics = parsed(&document);
    let answer = heuristics.lookup(&query(15, 4096, 4096, "bf16"));
    assert_eq!(answer.source, Source::Rule(0));
    assert_eq!(json!(answer.configs().collect::<Vec<_>>()), json!([configs[1]["template"]]));
}

#[test]
fn callers_switch_models_off_and_cap() {
    let at = |options: Options| {
        let heuristics = example().with_options(&options);
        let answer = heuristics.lookup(&query(16, 4096, 4096, "bf16"));
        (answer.source, answer.configs().len(), answer.measured_us().map_or(0, |times| times.len()))
    };
    assert_eq!(at(Options { disabled_models: true, ..Options::default() }), (Source::Rule(0), 2, 0));
    assert_eq!(at(Options { max_configs: Some(1), ..Options::default() }), (Source::Measured, 1, 1));
    assert_eq!(at(Options { disabled: true, ..Options::default() }), (Source::None, 0, 0));
    let disabled_classes = BTreeSet::from(["matmul".to_owned()]);
    assert_eq!(at(Options { disabled_classes, ..Options::default() }), (Source::None, 0, 0));
}

#[test]
fn what_is_no_model_of_this_form_leaves_the_rules_and_fallbacks() {
    let document: Value = serde_json::from_str(EXAMPLE).unwrap();
    for (pointer, broken) in [
        ("/models/matmul/form", json!("trees/3")),
        ("/models/matmul/trees/0", json!("0<1")),
        ("/models/matmul", json!(7)),
        ("/models/matmul/dims/0", json!("rows")),
        ("/models", json!({})),
        ("/models", json!("none")),
    ] {
        let mut changed = document.clone();
        *changed.pointer_mut(pointer).unwrap() = broken;
        for heuristics in [parsed(&changed), Heuristics::from_bytes(changed.to_string().as_bytes()).unwrap()] {
            let answer = heuristics.lookup(&query(16, 4096, 4096, "bf16"));
            assert_eq!((answer.source, splits(answer)), (Source::Rule(0), vec![8, 1]), "{pointer}");
            let explanation = heuristics.explain(&query(16, 4096, 4096, "bf16"));
            assert!(explanation.is_none_or(|explanation| explanation.why.starts_with("the model is not asked")));
        }
    }
}

#[test]
fn a_type_that_the_model_alone_knows_is_run() {
    let mut document: Value = serde_json::from_str(EXAMPLE).unwrap();
    let asked = query(16, 4096, 4096, "f32");
    let refused = parsed(&document).check(&asked).unwrap_err().to_string();
    assert!(refused.contains("does not run f32") && !refused.contains(", f32"), "{refused}");
    document["models"]["matmul"]["dtypes"]["f32"] = document["models"]["matmul"]["dtypes"]["bf16"].clone();
    let heuristics = parsed(&document);
    heuristics.check(&asked).unwrap();
    let refused = heuristics.check(&query(16, 4096, 4096, "i8")).unwrap_err().to_string();
    assert!(refused.contains("bf16, f16, f32"), "{refused}");
}

#[test]
fn other_classes_are_answered_as_if_there_were_no_model() {
    let heuristics = example();
    let tiny = Problem::parse(Family::Elementwise, "numel=5", Dtype::F32).unwrap();
    assert_eq!(heuristics.lookup_problem(&tiny).source, Source::Fallback("tiny"));
    assert!(heuristics.explain(&Query::from(&tiny)).is_none());
    let unknown =
        Query { extents: Extents::Gemm { m: None, n: Some(1), k: Some(1), sharing: None }, ..query(1, 1, 1, "bf16") };
    assert_eq!(heuristics.lookup_unchecked(&unknown).source, Source::None);
    assert_eq!(heuristics.lookup_unchecked(&query(0, 4096, 4096, "bf16")).source, Source::Fallback("small_m"));
    assert_eq!(heuristics.lookup_unchecked(&query(i64::MAX, i64::MAX, i64::MAX, "bf16")).source, Source::None);
}

/// Bounds twenty times those that are promised, and as much again where nothing is optimized.
fn bound(promised: Duration) -> Duration {
    promised * if cfg!(debug_assertions) { 400 } else { 20 }
}

/// The shortest of some runs: others may be busy on this machine.
fn shortest(runs: usize, mut run: impl FnMut()) -> Duration {
    let timed = |()| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    std::iter::repeat_n((), runs).map(timed).min().unwrap()
}

#[test]
fn loading_and_asking_are_fast_and_what_was_asked_before_allocates_nothing() {
    let text = models::large_document().to_string();
    assert!((3_900_000..4_300_000).contains(&text.len()), "{} bytes", text.len());
    let load = || Heuristics::from_bytes(text.as_bytes()).unwrap();
    let loading = measure(|| drop(load()));
    assert!(loading.bytes_max < text.len() as u64 + (1 << 18), "models stay text until they are asked");
    assert!(loading.count_total < 3000, "{} allocations", loading.count_total);
    let took = shortest(5, || drop(load()));
    assert!(took < bound(Duration::from_millis(5)), "loading takes {took:?}");

    let heuristics = load();
    let config = |m: i64| heuristics.lookup(black_box(&query(m, 4096, 48, "bf16"))).best().map(Template::len);
    assert!(config(1).is_some());
    let mut m = 1 << 20;
    let took = shortest(50, || {
        m += 1;
        assert!(config(m).is_some());
    });
    assert!(took < bound(Duration::from_millis(1)), "a new shape takes {took:?}");
    let [measured, predicted] = [6, 1 << 20 | 1];
    assert_eq!(heuristics.lookup(&query(measured, 4096, 48, "bf16")).source, Source::Measured);
    assert_eq!(heuristics.lookup(&query(predicted, 4096, 48, "bf16")).source, Source::Model);
    let again = measure(|| assert!(config(measured).is_some() && config(predicted).is_some()));
    assert_eq!(again.count_total, 0);
    let took = shortest(5, || (0..1000).for_each(|_| assert!(config(predicted).is_some()))) / 1000;
    assert!(took < bound(Duration::from_nanos(100)), "a shape resolved before takes {took:?}");
}

const SIZES: [&[i64]; 3] = [&[1, 16, 100, 300, 5000], &[8, 4095, 4096], &[64, 100, 4096]];

/// Conditions with the same told in Rust, of m, n, k and a config.
type Condition = (&'static str, fn([i64; 3], &Template) -> Option<bool>);
const CONDITIONS: [Condition; 4] = [
    ("split_k == 1 || k % 64 == 0", |[.., k], config| Some(knob(config, "split_k")? == 1 || k % 64 == 0)),
    ("block_sizes[0] <= 2 * m", |[m, ..], config| Some(tile(config)? <= 2 * m)),
    ("n % 8 == 0 || block_sizes[0] < 128", |[_, n, _], config| Some(n % 8 == 0 || tile(config)? < 128)),
    ("given(num_warps) && num_warps != 3", |_, config| Some(knob(config, "num_warps").is_some_and(|warps| warps != 3))),
];

fn knob(config: &Template, name: &str) -> Option<i64> {
    config.get(name)?.as_i64()
}

fn tile(config: &Template) -> Option<i64> {
    config.get("block_sizes")?.get(0)?.as_i64()
}

fn is_legal(conditions: &[usize], dims: [i64; 3], config: &Template) -> bool {
    conditions.iter().all(|condition| CONDITIONS[*condition].1(dims, config) == Some(true))
}

fn dims() -> impl Strategy<Value = [i64; 3]> {
    SIZES.map(|sizes| prop::sample::select(sizes.to_vec()))
}

fn config() -> impl Strategy<Value = Value> {
    let warps = prop::option::weighted(0.9, 1i64..5);
    (prop::sample::select(vec![16, 64, 128, 256]), 1i64..4, warps).prop_map(|(tile, split, warps)| {
        let mut config = json!({"block_sizes": [tile], "split_k": split});
        if let Some(warps) = warps {
            config["num_warps"] = json!(warps);
        }
        config
    })
}

fn problem([m, n, k]: [i64; 3]) -> Problem {
    Problem::new(Family::Matmul, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16).unwrap()
}

/// A document with a model of matrix products, and the conditions that it states.
fn document() -> impl Strategy<Value = (Value, Vec<usize>)> {
    let configs = prop::collection::vec(config(), 1..8);
    let conditions = prop::sample::subsequence((0..CONDITIONS.len()).collect::<Vec<_>>(), 0..=CONDITIONS.len());
    let measured = prop::collection::btree_map(dims(), prop::collection::vec(0usize..8, 0..4), 0..12);
    let rules = prop::collection::vec((dims(), prop::collection::vec(config(), 0..5)), 0..12);
    let groups = ["small_m", "small_n", "small_k", "balanced", "rect"];
    let fallbacks = prop::collection::btree_map(prop::sample::select(groups.to_vec()), config(), 0..5);
    let cell = (prop::option::of(prop::sample::select(groups.to_vec())), any::<Option<bool>>(), 100u32..130);
    let source = prop::sample::select(vec!["model", "rule", "fallback"]);
    let regret = prop::collection::btree_map(source, prop::collection::vec(cell, 0..8), 0..=3);
    (configs, conditions, measured, rules, fallbacks, regret, -30_000i32..30_000).prop_map(
        |(configs, conditions, measured, rules, fallbacks, regret, leaf)| {
            let problems = measured.iter().map(|(dims, winners)| {
                let winners: Vec<_> = winners.iter().map(|winner| json!([winner % configs.len(), 5.5])).collect();
                json!({"dims": dims, "dtype": "bf16", "winners": winners})
            });
            let rules = rules.iter().map(|(dims, templates)| {
                let templates: Vec<_> = templates.iter().map(|config| json!({"template": config})).collect();
                json!({"kernel_class": "matmul", "shape_bucket": bucket_of(&problem(*dims)), "templates": templates})
            });
            let cells = |cells: &Vec<(Option<&str>, Option<bool>, u32)>| -> Vec<Value> {
                let cell = |(group, aligned, regret): &(Option<&str>, Option<bool>, u32)| {
                    json!({"group": group, "aligned": aligned, "problems": 5, "geomean": f64::from(*regret) / 100.0,
                        "p90": 1.5, "max": 2.0})
                };
                cells.iter().map(cell).collect()
            };
            let regret: Value = regret.iter().map(|(source, known)| ((*source).to_owned(), json!(cells(known)))).collect();
            let legal: Vec<_> = conditions.iter().map(|condition| CONDITIONS[*condition].0).collect();
            let model = json!({"form": "trees/1", "dims": ["m", "n", "k"], "dtypes": {"bf16": 2},
                "knobs": ["block_sizes", "split_k", "num_warps"], "features": ["m", "block_sizes[0]"], "legal": legal,
                "aligned": "n % 8 == 0 && k % 8 == 0", "trees": [format!("0<64 1<64 0 {leaf} 1<128 {leaf} 0")],
                "floor": {"bytes": "m", "flops": "m", "launch_us": 2.0, "bytes_per_us": 1.0, "flops_per_us": 1.0},
                "configs": configs.iter().map(|config| json!({"template": config})).collect::<Vec<_>>(),
                "problems": problems.collect::<Vec<_>>(),
                "cross_validation": {"apart": [], "folds": 5, "seeds": 1, "regret": regret}});
            let template = |(group, config): (&&str, &Value)| ((*group).to_owned(), json!({"template": config}));
            let fallbacks: Value = fallbacks.iter().map(template).collect();
            let document = json!({"schema_version": 2, "rules": rules.collect::<Vec<_>>(), "fallbacks": {"matmul": fallbacks},
                "models": {"matmul": model}});
            (document, conditions)
        },
    )
}

/// The source that should answer, told straight from the document.
fn expected_source(document: &Value, conditions: &[usize], dims: [i64; 3]) -> &'static str {
    let (group, bucket) = (group_of(&problem(dims)), json!(bucket_of(&problem(dims))));
    let model = &document["models"]["matmul"];
    let is_legal = |config: &Value| is_legal(conditions, dims, config.as_object().unwrap());
    let runs = |configs: Vec<&Value>| configs.into_iter().any(is_legal);
    let problems = model["problems"].as_array().unwrap();
    let winners = problems.iter().find(|measured| measured["dims"] == json!(dims)).map(|measured| &measured["winners"]);
    let winners = winners.and_then(Value::as_array).into_iter().flatten();
    if runs(winners.map(|winner| &model["configs"][winner[0].as_u64().unwrap() as usize]["template"]).collect()) {
        return "measured";
    }
    let rule = document["rules"].as_array().unwrap().iter().rev().find(|rule| rule["shape_bucket"] == bucket);
    let of_rule =
        rule.map(|rule| rule["templates"].as_array().unwrap().iter().map(|entry| &entry["template"]).collect());
    let of_fallback = document["fallbacks"]["matmul"].get(group).map(|fallback| vec![&fallback["template"]]);
    let of_model: Vec<_> = model["configs"].as_array().unwrap().iter().map(|config| &config["template"]).collect();
    let there = [("model", Some(of_model)), ("rule", of_rule), ("fallback", of_fallback)];
    let aligned = dims[1] % 8 == 0 && dims[2] % 8 == 0;
    let regret = |source: &str, group: Option<&str>, aligned: Option<bool>| {
        let cells = model["cross_validation"]["regret"].get(source)?.as_array()?;
        cells.iter().find(|cell| cell["group"] == json!(group) && cell["aligned"] == json!(aligned))?["geomean"]
            .as_f64()
    };
    let cells = [(Some(group), Some(aligned)), (Some(group), None), (None, Some(aligned)), (None, None)];
    let judged = cells.into_iter().find(|(group, aligned)| {
        there.iter().any(|(source, configs)| configs.is_some() && regret(source, *group, *aligned).is_some())
    });
    let mut best = ("none", f64::INFINITY);
    for (source, configs) in there {
        let regret = judged.and_then(|(group, aligned)| regret(source, group, aligned)).unwrap_or(1e9);
        if configs.is_some_and(&runs) && regret < best.1 {
            best = (source, regret);
        }
    }
    best.0
}

fn said(answer: Answer<'_>) -> (Source, Vec<&Template>, Option<Vec<f64>>) {
    (answer.source, answer.configs().collect(), answer.predicted_us().or(answer.measured_us()))
}

proptest! {
    #[test]
    fn the_right_source_answers_and_only_with_configs_that_can_run(
        (document, conditions) in document(),
        asked in prop::collection::vec(dims(), 1..20),
    ) {
        let heuristics = parsed(&document);
        let of_text = Heuristics::from_bytes(document.to_string().as_bytes()).unwrap();
        for dims in asked {
            let answer = heuristics.lookup_problem(&problem(dims));
            prop_assert!(answer.configs().len() <= 3);
            for config in answer.configs() {
                prop_assert!(is_legal(&conditions, dims, config), "{:?}: {:?} by {:?}", dims, config, answer.source);
            }
            prop_assert_eq!(answer.source.name(), expected_source(&document, &conditions, dims));
            prop_assert_eq!(answer.source == Source::None, answer.best().is_none());
            prop_assert_eq!(said(heuristics.lookup_problem(&problem(dims))), said(answer), "asked again");
            prop_assert_eq!(said(of_text.lookup_problem(&problem(dims))), said(answer), "read from text");
            let explanation = heuristics.explain(&(&problem(dims)).into()).unwrap();
            let chosen = explanation.considered.iter().find(|one| one.source == answer.source.name());
            prop_assert_eq!(chosen.map_or(&[][..], |one| &one.templates[..]), &answer.configs().collect::<Vec<_>>()[..]);
        }
    }

    #[test]
    fn switching_models_off_is_as_good_as_having_none(
        (mut document, _) in document(),
        asked in prop::collection::vec(dims(), 1..20),
    ) {
        let switched_off = parsed(&document).with_options(&Options { disabled_models: true, ..Options::default() });
        let [f16, bf16] = ["f16", "bf16"].map(|name| DtypeName::parse(name).unwrap());
        let with_models = parsed(&document);
        document.as_object_mut().unwrap().remove("models");
        let without = parsed(&document);
        for dims in asked {
            let query = |dtype| Query { dtype, ..Query::from(&problem(dims)) };
            prop_assert_eq!(said(switched_off.lookup(&query(bf16))), said(without.lookup(&query(bf16))));
            prop_assert_eq!(said(with_models.lookup(&query(f16))), said(without.lookup(&query(f16))), "another type");
        }
    }
}

#[test]
fn threads_are_answered_what_one_alone_is() {
    let text = models::large_document().to_string();
    let load = || Heuristics::from_bytes(text.as_bytes()).unwrap();
    let (shared, alone) = (load(), load());
    // More shapes than are remembered, so that they drive each other out.
    let shapes: Vec<_> =
        (0..3000).map(|index| query(index % 700 + 1, 8 * (index % 9) + 8, 64 * (index % 7) + 64, "bf16")).collect();
    let expected: Vec<_> = shapes.iter().map(|query| said(alone.lookup(query))).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (shared, shapes, expected) = (&shared, &shapes, &expected);
            scope.spawn(move || {
                for place in (0..shapes.len()).map(|place| (place + thread * 701) % shapes.len()) {
                    assert_eq!(said(shared.lookup(&shapes[place])), expected[place]);
                }
            });
        }
    });
}
