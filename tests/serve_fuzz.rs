//! Random documents and queries: whatever comes in, an answer or an error comes out. `PROPTEST_CASES` sets how long.
#![allow(clippy::unwrap_used)]

use kernel_sweep::heuristics::{
    CLASSES, Document, DtypeClass, DtypeName, Heuristics, Options, Signature, Source, answer_batch_line,
    answer_batch_line_checked, family_of_shape,
};
use kernel_sweep::model::Family;
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
        for query in signatures.iter().filter_map(Signature::query) {
            let configs: Vec<_> = before.lookup_unchecked(&query).configs().collect();
            prop_assert_eq!(configs, after.lookup_unchecked(&query).configs().collect::<Vec<_>>());
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
            let (answer, expected) = (index.lookup_unchecked(&query), document.lookup_unchecked(&query));
            prop_assert_eq!(index.check(&query).is_ok(), document.check(&query).is_ok());
            prop_assert_eq!(index.lookup(&query).source, if index.check(&query).is_ok() { answer.source } else { Source::None });
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
        let found = match Heuristics::new(document).with_options(&without_models).lookup_unchecked(&query).source {
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
        // Checked, a line is answered the same, or refused.
        match answer_batch_line_checked(&heuristics, &line) {
            Ok(checked) => prop_assert_eq!(checked, answer),
            Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
        }
    }

    #[test]
    fn a_question_by_name_is_answered_only_where_it_fits(
        value in document(),
        class in class(),
        dims in named_dims(),
        dtype in prop_oneof![
            3 => prop::sample::select(&["bf16", "f16", "torch.half", "f32", "fp8", "i8"][..]).prop_map(str::to_owned),
            1 => "(torch\\.)?[a-z0-9_ ]{0,10}",
        ],
    ) {
        let Ok(document) = Document::from_value(value) else { return Ok(()) };
        let heuristics = Heuristics::new(document);
        let Ok(dtype) = DtypeName::parse(&dtype) else { return Ok(()) };
        let named: Vec<_> = dims.iter().map(|(name, value)| (*name, *value)).collect();
        let Ok(query) = heuristics.query(class, &named, dtype) else { return Ok(()) };
        prop_assert!(dims.iter().all(|(_, value)| *value > 0), "{class} {dims:?}");
        let expected = family_of_shape(class).map_or(&[][..], Family::dimensions);
        let sorted = |names: &[&str]| { let mut names = names.to_vec(); names.sort_unstable(); names.join(" ") };
        let given: Vec<_> = dims.iter().map(|(name, _)| *name).collect();
        prop_assert_eq!(sorted(&given), sorted(expected));
        let k = dims.iter().find(|(name, _)| *name == "k");
        prop_assert!(k.is_none_or(|(_, k)| !class.contains('4') || k % 2 == 0));
        prop_assert!(heuristics.lookup(&query).configs().len() < 100);
    }

    #[test]
    fn tensors_are_answered_where_and_only_where_they_fit(
        value in document(),
        (class, args) in fitting_args().prop_flat_map(|(class, args)| (Just(class), mutated(args))),
    ) {
        let Ok(document) = Document::from_value(value) else { return Ok(()) };
        let heuristics = Heuristics::new(document);
        let tensors: Vec<_> = args.iter().map(|(shape, dtype)| json!({"shape": shape, "dtype": dtype})).collect();
        let signature: Signature = serde_json::from_value(json!({"kernel_class": class, "args": tensors})).unwrap();
        let first = args.first().and_then(|(_, dtype)| DtypeName::parse(dtype).ok());
        // Of products whose operands both have scales, the type is the result's.
        let goes_by_result = ["matmul_nvfp4_nvfp4", "matmul_mxfp8"].contains(&class);
        let first = if goes_by_result { DtypeName::parse("bf16").ok() } else { first };
        let runs = first.is_some_and(|dtype| {
            // Rules of random documents may know more types than the family comes in.
            let positive = family_of_shape(class).unwrap().dimensions().iter().map(|name| (*name, 2));
            heuristics.query(class, &positive.collect::<Vec<_>>(), dtype).is_ok()
        });
        let asked = heuristics.query_of(&signature);
        prop_assert_eq!(asked.is_ok(), fits(class, &args) && runs, "{} {:?}: {:?}", class, args, asked.err());
    }
}

type Arg = (Vec<i64>, &'static str);

const BF16: &str = "torch.bfloat16";

/// Names of dimensions with values, now and then of none that fits.
fn named_dims() -> impl Strategy<Value = Vec<(&'static str, i64)>> {
    let family = prop::sample::select(&Family::ALL[..]);
    let value = || prop_oneof![6 => 1i64..10_000, 1 => any::<i64>(), 1 => -2i64..2];
    let odd = prop::collection::vec((prop::sample::select(&["m", "rows", "x", ""][..]), value()), 0..2);
    (family, prop::collection::vec(value(), 5), prop_oneof![8 => Just(Vec::new()), 1 => odd])
        .prop_map(|(family, values, odd)| family.dimensions().iter().copied().zip(values).chain(odd).collect())
}

/// Arguments of a family's kernel that fit each other.
fn fitting_args() -> impl Strategy<Value = (&'static str, Vec<Arg>)> {
    let extent = || 1i64..200;
    (prop::sample::select(&Family::ALL[..]), [extent(), extent(), extent(), extent(), extent()]).prop_map(
        |(family, [one, two, three, four, five])| {
            let (m, n, k) = (one, two, 2 * three);
            let args = match family {
                Family::Matmul => vec![(vec![m, k], BF16), (vec![k, n], BF16), (vec![m, n], BF16)],
                Family::MatmulInt16 => vec![(vec![m, k], BF16), (vec![k, n], "torch.int16")],
                Family::MatmulInt4 => vec![(vec![m, k], BF16), (vec![k / 2, n], "torch.int8")],
                Family::MatmulFp4 => vec![(vec![m, k], BF16), (vec![k / 2, n], "torch.uint8")],
                Family::MatmulFp8 => vec![(vec![m, k], "torch.float8_e4m3fn"), (vec![k, n], "torch.float8_e4m3fn")],
                Family::MatmulNvfp4Nvfp4 => vec![(vec![m, k / 2], "torch.uint8"), (vec![k / 2, n], "torch.int8")],
                Family::MatmulMxfp8 => {
                    let scales = 512 * ((m + 127) / 128) * ((k + 127) / 128);
                    let e4m3 = "torch.float8_e4m3fn";
                    vec![(vec![m, k], e4m3), (vec![k, n], e4m3), (vec![scales], "torch.float8_e8m0fnu")]
                }
                Family::Attention => vec![
                    (vec![one, two, three, five], BF16),
                    (vec![one, two, four, five], BF16),
                    (vec![one, two, four, five], BF16),
                ],
                Family::RowSoftmax => vec![(vec![one, two, three], BF16), (vec![one, two, three], BF16)],
                Family::RowNormRms => vec![(vec![one, two, three], BF16), (vec![three], BF16)],
                Family::RowNormLayer => {
                    vec![(vec![one, two, three], BF16), (vec![three], BF16), (vec![three], BF16)]
                }
                Family::RowCrossEntropy => vec![(vec![one, two], BF16), (vec![one], "torch.int64")],
                _ => vec![(vec![one, two], "torch.float32"), (vec![one, two], "torch.float32")],
            };
            (family.name(), args)
        },
    )
}

/// The arguments as they are, or with one of them changed.
fn mutated(args: Vec<Arg>) -> impl Strategy<Value = Vec<Arg>> {
    let types = &["torch.int8", "torch.half", "torch.float32", "torch.bfloat17", "bf16", "x", ""][..];
    (0..args.len(), 0usize..4, -3i64..4, prop::sample::select(types), 0u8..7).prop_map(
        move |(place, axis, more, dtype, how)| {
            let mut args = args.clone();
            let (shape, own) = &mut args[place];
            let axis = axis % shape.len();
            match how {
                0 => shape[axis] += more,
                1 => shape.reverse(),
                2 => *own = dtype,
                3 => shape[axis] = -more.abs(),
                4 => drop(shape.remove(axis)),
                5 => drop(args.remove(place)),
                _ => {}
            }
            args
        },
    )
}

/// Whether a kernel of the family can take these arguments.
fn fits(class: &str, args: &[Arg]) -> bool {
    let types: Option<Vec<_>> = args.iter().map(|(_, dtype)| DtypeName::parse(dtype).ok()).collect();
    let Some(types) = types else { return false };
    if args.is_empty() || args.iter().any(|(shape, _)| shape.iter().any(|extent| *extent <= 0)) {
        return false;
    }
    // Every extent of one is repeated, those that the larger does not have too.
    let spreads = |small: &[i64], large: &[i64]| {
        let wanted = large.iter().rev().chain(std::iter::repeat(&1));
        small.iter().rev().zip(wanted).all(|(one, other)| *one == 1 || one == other)
    };
    let shapes: Vec<&[i64]> = args.iter().map(|(shape, _)| &shape[..]).collect();
    match (class, &shapes[..]) {
        ("matmul", [[m, k], [rows, n], rest @ ..]) => {
            let result = rest.first().is_none_or(|c| c.len() < 2 || spreads(c, &[*m, *n]));
            rows == k && types[0] == types[1] && result
        }
        ("matmul_int16", [[_, k], [rows, _], ..]) => rows == k && types[1].name() == "i16",
        ("matmul_fp8", [[_, k], [rows, _], ..]) => {
            rows == k && types.iter().take(2).any(|dtype| dtype.class() == DtypeClass::Fp8)
        }
        ("matmul_int4" | "matmul_fp4", [[_, k], [rows, _], ..]) => {
            k % 2 == 0 && *rows == k / 2 && ["i8", "u8"].contains(&types[1].name())
        }
        ("matmul_nvfp4_nvfp4", [[_, k], [rows, _], ..]) => {
            rows == k && types.iter().take(2).all(|dtype| ["i8", "u8"].contains(&dtype.name()))
        }
        ("matmul_mxfp8", [[m, k], [rows, _], rest @ ..]) => {
            let scales = |shape: &&[i64]| shape.iter().product::<i64>() == 512 * ((m + 127) / 128) * ((k + 127) / 128);
            let is_result = |place: usize| types[place].class() == DtypeClass::Fp16Bf16;
            let of_scales = |place: usize| ["float8_e8m0fnu", "fp8", "u8"].contains(&types[place].name());
            let is_e4m3 = |dtype: &DtypeName| ["float8_e4m3fn", "fp8"].contains(&dtype.name());
            let first = rest.first().is_none_or(|shape| is_result(2) || scales(shape) && of_scales(2));
            rows == k && types.iter().take(2).all(is_e4m3) && first
        }
        ("attention", [[batch, heads, _, head_dim], k, rest @ ..]) => {
            let shares = |k: &[i64]| matches!(k, [b, h, _, d] if (b, d) == (batch, head_dim) && heads % h == 0);
            shares(k) && rest.iter().all(|v| v == k) && types.iter().all(|dtype| *dtype == types[0])
        }
        ("row_softmax", [x, rest @ ..]) => x.len() >= 2 && rest.iter().all(|other| spreads(other, x)),
        ("row_norm_rms", [x, rest @ ..]) => {
            x.len() >= 2 && rest.iter().take(1).all(|other| **other == x[x.len() - 1..])
        }
        ("row_norm_layer", [x, rest @ ..]) => {
            x.len() >= 2 && rest.iter().take(2).all(|other| **other == x[x.len() - 1..])
        }
        ("row_cross_entropy", [x, rest @ ..]) => {
            let (outer, labels) = (&x[..x.len() - 1], rest.first());
            let of_rows = |labels: &[i64]| {
                ["i8", "i16", "i32", "i64", "u8"].contains(&types[1].name())
                    && (labels == outer || labels == [outer.iter().product::<i64>()])
            };
            x.len() >= 2 && labels.is_none_or(|labels| of_rows(labels) || (*labels == *x && types[1] == types[0]))
        }
        ("elementwise", [x, rest @ ..]) => {
            !x.is_empty() && rest.iter().all(|other| other == x) && types.iter().all(|dtype| *dtype == types[0])
        }
        _ => false,
    }
}
