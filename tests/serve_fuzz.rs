//! Random documents and queries: whatever comes in, an answer or an error comes out. `PROPTEST_CASES` sets how long.
#![allow(clippy::unwrap_used)]

use kernel_sweep::heuristics::{CLASSES, Document, Heuristics, Options, Signature, Source, answer_batch_line};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A number with no more places than are saved, so that saving makes no two ranks equal.
fn places(steps: i32) -> Value {
    json!(f64::from(steps) / 1e4)
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(places),
        Just(json!(1e300)),
        "[a-z<=0-9\\PC]{0,6}".prop_map(Value::from),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{0,6}", inner, 0..4).prop_map(|fields| json!(fields)),
        ]
    })
}

/// Mostly the right thing, at times anything.
fn mostly<S: Strategy<Value = Value> + 'static>(right: S) -> impl Strategy<Value = Value> {
    prop_oneof![12 => right, 1 => any_json()]
}

fn class() -> impl Strategy<Value = &'static str> {
    prop_oneof![prop::sample::select(&CLASSES[..]), Just("conv2d"), Just("")]
}

fn dtype() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &["torch.bfloat16", "torch.int8", "torch.int16", "torch.int64", "torch.float8_e4m3fn", "x"][..],
    )
}

fn extent() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0i64..20_000, 1 => any::<i64>()]
}

const TRAITS: &[&str] =
    &["matmul", "reduction", "sum_reduction", "exp", "softmax", "cross_entropy", "attention_reduction"];

fn signature() -> impl Strategy<Value = Signature> {
    let shape = prop::collection::vec(extent(), 0..6);
    let tensor = (shape, dtype()).prop_map(|(shape, dtype)| json!({"shape": shape, "dtype": dtype}));
    let facts = (any::<bool>(), any::<bool>(), prop::option::of("int4|e2m1|other"));
    let parts = (
        prop::option::of(class()),
        prop::collection::vec(tensor, 0..4),
        prop::sample::subsequence(TRAITS, 0..=4),
        0u32..5,
        facts,
    );
    parts.prop_map(|(class, args, traits, block_rank, (has_reduction, has_split_k, source))| {
        let query = json!({"kernel_class": class, "args": args, "traits": traits, "block_rank": block_rank,
            "has_reduction": has_reduction, "has_split_k": has_split_k, "kernel_source": source});
        serde_json::from_value(query).unwrap()
    })
}

/// A rule for the very bucket of some query.
fn rule() -> impl Strategy<Value = Value> {
    let template = prop::collection::btree_map("[a-c]", 0u8..3, 0..3).prop_map(|config| json!(config));
    let ranked = (mostly(template), mostly(any::<u8>().prop_map(Value::from)), mostly(any::<i32>().prop_map(places)))
        .prop_map(
            |(template, wins, slowdown)| json!({"template": template, "win_count": wins, "geomean_slowdown": slowdown}),
        );
    let templates = prop::collection::vec(mostly(ranked), 0..5).prop_map(Value::from);
    (signature(), mostly(templates), any_json()).prop_map(|(signature, templates, more)| {
        let query = signature.query();
        let class = query.map_or("none", |query| query.class).to_owned();
        let bucket = query.map(|query| query.bucket()).unwrap_or_default();
        json!({"kernel_class": class, "shape_bucket": bucket, "templates": templates, "validation": more})
    })
}

/// Fallbacks for the groups of some queries.
fn fallbacks() -> impl Strategy<Value = Value> {
    let template = prop::collection::btree_map("[a-c]", 0u8..3, 0..3).prop_map(|config| json!(config));
    let fallback = (mostly(template), any_json())
        .prop_map(|(template, evidence)| json!({"template": template, "validation": evidence}));
    prop::collection::vec((signature(), mostly(fallback)), 0..8).prop_map(|entries| {
        let mut classes = json!({});
        for (signature, fallback) in entries {
            let Some(query) = signature.query() else { continue };
            classes[query.class][query.group().unwrap_or("none")] = fallback;
        }
        classes
    })
}

/// Models that take configs of [`rule`] and [`fallbacks`], for some classes.
fn models() -> impl Strategy<Value = Value> {
    let dims =
        prop::sample::select(vec![json!(["m", "n", "k"]), json!(["rows", "cols"]), json!(["numel"]), json!(["x"])]);
    let config = prop::collection::btree_map("[a-c]", 0u8..3, 0..3).prop_map(|config| json!({"template": config}));
    let legal = prop::sample::select(vec![json!([]), json!(["default(a, 1) > 0"]), json!(["b < 2"])]);
    let parts = (dims, legal, prop::collection::vec(config, 0..5), prop::bool::weighted(0.9));
    let model = parts.prop_map(|(dims, legal, configs, is_whole)| {
        let tree = if is_whole { "0<1 5 -5" } else { "0<1" };
        json!({"form": "trees/1", "dims": dims, "dtypes": {"bf16": 2, "i8": 1}, "knobs": ["a", "b", "c"], "features": ["a"],
            "legal": legal, "aligned": "1", "trees": [tree], "configs": configs,
            "floor": {"bytes": "1", "flops": "1", "launch_us": 2.0, "bytes_per_us": 1.0, "flops_per_us": 1.0}})
    });
    prop::collection::btree_map(class(), mostly(model), 0..4).prop_map(|models| json!(models))
}

fn document() -> impl Strategy<Value = Value> {
    let rules = prop::collection::vec(mostly(rule()), 0..8).prop_map(Value::from);
    let parts = (mostly(rules), mostly(fallbacks()), mostly(models()), any_json());
    parts.prop_map(|(rules, fallbacks, models, policy)| {
        json!({"schema_version": 2, "rules": rules, "fallbacks": fallbacks, "models": models, "policy": policy})
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_document_or_a_one_line_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = Document::from_bytes(&bytes) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn any_json_is_a_document_or_a_one_line_error(value in any_json()) {
        if let Err(error) = Document::from_value(value) {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn saving_changes_no_answer(value in document(), signatures in prop::collection::vec(signature(), 1..8)) {
        let Ok(document) = Document::from_value(value) else { return Ok(()) };
        let text = document.to_canonical_json();
        let again = Document::from_bytes(text.as_bytes()).unwrap();
        prop_assert_eq!(again.to_canonical_json(), text);
        let (before, after) = (Heuristics::new(document), Heuristics::new(again));
        for signature in &signatures {
            let configs: Vec<_> = before.lookup_signature(signature).configs().collect();
            prop_assert_eq!(configs, after.lookup_signature(signature).configs().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_text_answers_as_its_parsed_document_does(
        value in document(),
        space in any::<bool>(),
        signatures in prop::collection::vec(signature(), 1..8),
    ) {
        let text = if space { format!("\n{value:#}\n") } else { value.to_string() };
        let (index, document) = (Heuristics::from_bytes(text.as_bytes()), Document::from_bytes(text.as_bytes()));
        prop_assert_eq!(index.is_ok(), document.is_ok());
        let (Ok(index), Ok(document)) = (index, document.map(Heuristics::new)) else { return Ok(()) };
        for query in signatures.iter().filter_map(Signature::query) {
            let (answer, expected) = (index.lookup(&query), document.lookup(&query));
            prop_assert_eq!(answer.source, expected.source);
            prop_assert_eq!(answer.evidence(), expected.evidence());
            prop_assert_eq!(answer.predicted_us(), expected.predicted_us());
            prop_assert!(answer.configs().eq(expected.configs()));
            prop_assert_eq!(index.nearest(&query), document.nearest(&query));
        }
    }

    #[test]
    fn a_rule_is_found_where_and_only_where_its_bucket_is_equal(value in document(), signature in signature()) {
        let Ok(document) = Document::from_value(value) else { return Ok(()) };
        let Some(query) = signature.query() else { return Ok(()) };
        let equal = |rule: &kernel_sweep::heuristics::Rule| {
            rule.kernel_class == query.class && rule.shape_bucket == query.bucket()
        };
        let expected = document.rules.iter().rposition(equal);
        let without_models = Options { disabled_models: true, ..Options::default() };
        let found = match Heuristics::new(document).with_options(&without_models).lookup(&query).source {
            Source::Rule(index) => Some(index),
            _ => None,
        };
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_line_is_answered_with_one_line_of_json(line in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        any_json().prop_map(|value| value.to_string().into_bytes()),
        signature().prop_map(|signature| format!("{{\"args\":[],\"block_rank\":{}}}", signature.block_rank).into_bytes()),
    ]) {
        let heuristics = Heuristics::new(Document { schema_version: 2, ..Document::default() });
        let answer = answer_batch_line(&heuristics, &line);
        prop_assert!(!answer.contains('\n'));
        let value: Value = serde_json::from_str(&answer).unwrap();
        prop_assert!(value["error"].is_string() != value["source"].is_string());
    }
}
