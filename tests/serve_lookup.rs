//! What a document answers: classification, buckets, ranking, fallbacks, options, batches.
#![allow(clippy::unwrap_used, clippy::panic, clippy::needless_pass_by_value)]

use kernel_sweep::heuristics::{
    Document, DtypeClass, DtypeName, Extents, Heuristics, Knob, Options, Query, Signature, Source, Space, Template,
    UNTRIED, answer_batch_line, answer_batch_line_checked, bucket_of, builtin_document, builtin_names, device_of,
    family_of_shape, materialize,
};
use kernel_sweep::model::{Dtype, Family, GpuProfile, Problem, parse_dimensions};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const EXAMPLE: &str = include_str!("data/observed_heuristics_example.json");

fn example() -> Heuristics {
    Heuristics::from_bytes(EXAMPLE.as_bytes()).unwrap()
}

fn example_with(options: &Options) -> Heuristics {
    example().with_options(options)
}

fn problem(family: Family, shape: &str) -> Problem {
    Problem::parse(family, shape, Dtype::Bf16).unwrap()
}

fn fp4(shape: &str) -> Problem {
    problem(Family::MatmulFp4, shape)
}

fn block_sizes(heuristics: &Heuristics, problem: &Problem) -> Vec<Value> {
    heuristics.lookup_problem(problem).configs().map(|config| config["block_sizes"].clone()).collect()
}

fn template(value: Value) -> Template {
    value.as_object().unwrap().clone()
}

#[test]
fn a_rule_answers_for_its_bucket_alone() {
    let heuristics = example();
    let answer = heuristics.lookup_problem(&fp4("m=16,n=4096,k=4096"));
    assert_eq!(answer.source, Source::Rule(1));
    assert_eq!(answer.evidence().unwrap()["ratio"], json!(0.73));
    assert_eq!(answer.best().unwrap()["block_sizes"], json!([16, 64, 64]));
    assert_eq!(block_sizes(&heuristics, &fp4("m=9,n=1025,k=1026")).len(), 2, "both corners of the bucket");
    let answer = heuristics.lookup_problem(&fp4("m=17,n=4096,k=4096"));
    assert_eq!(answer.source, Source::Fallback("small_m"));
    assert_eq!(answer.best().unwrap()["block_sizes"], json!([64, 64, 16]));
    let answer = heuristics.lookup_problem(&fp4("m=4096,n=4096,k=4096"));
    assert_eq!(answer.source, Source::None);
    assert_eq!(answer.best(), None);
    assert_eq!(
        heuristics.lookup_problem(&problem(Family::Attention, "batch=1,heads=1,q_seq=1,kv_seq=1,head_dim=1")).source,
        Source::None
    );
}

#[test]
fn templates_are_ranked_and_served_once() {
    let heuristics = example();
    let answer = heuristics.lookup_problem(&problem(Family::RowSoftmax, "rows=2048,cols=8192"));
    let warps: Vec<_> = answer.configs().map(|config| config["num_warps"].clone()).collect();
    assert_eq!(warps, [json!(8), json!(4)]);
}

#[test]
fn rank_metadata_orders_by_wins_coverage_and_slowdowns() {
    let ranked = |templates: Value| {
        let document = json!({"schema_version": 2, "rules": [
            {"kernel_class": "x", "shape_bucket": {"dtype": "other"}, "templates": templates}]});
        let heuristics = Heuristics::new(Document::from_value(document).unwrap());
        let query = Query { class: "x", extents: Extents::Unbinned, dtype: DtypeClass::Other.into() };
        let names = heuristics.lookup(&query).configs().map(|config| config["id"].as_str().unwrap().to_owned());
        names.collect::<String>()
    };
    let entry = |id: &str, metadata: Value| {
        let mut fields = template(metadata);
        fields.insert("template".to_owned(), json!({ "id": id }));
        Value::Object(fields)
    };
    assert_eq!(ranked(json!([entry("a", json!({})), entry("b", json!({}))])), "ab", "file order without metadata");
    let one = ranked(json!([entry("a", json!({})), entry("b", json!({"geomean_slowdown": 9.0}))]));
    assert_eq!(one, "ba", "a missing slowdown is the worst");
    let median_alone =
        ranked(json!([entry("a", json!({"median_slowdown": 2})), entry("b", json!({"median_slowdown": 1}))]));
    assert_eq!(median_alone, "ab", "the median is no rank");
    assert_eq!(
        ranked(json!([
            entry("e", json!({"win_count": 1, "shape_coverage": 2, "geomean_slowdown": 1.5, "p90_slowdown": 3.0})),
            entry("d", json!({"win_count": 1, "shape_coverage": 2, "geomean_slowdown": 1.5, "p90_slowdown": 2.0})),
            entry("c", json!({"win_count": 1, "shape_coverage": 2, "geomean_slowdown": 1.25})),
            entry("b", json!({"win_count": 1, "shape_coverage": 3})),
            entry("f", json!({"win_count": "9", "shape_coverage": 99})),
            entry("a", json!({"win_count": 2})),
        ])),
        "abcdef"
    );
    let stable = json!([entry("a", json!({"win_count": 1})), entry("b", json!({"win_count": 1.0}))]);
    assert_eq!(ranked(stable), "ab");
    let zeros =
        json!([entry("a", json!({"win_count": -0.5})), entry("b", json!({"p90_slowdown": -0.0, "win_count": 0}))]);
    assert_eq!(ranked(zeros), "ba", "no wins are no wins");
    let zeros = json!([entry("a", json!({"geomean_slowdown": 0.0})), entry("b", json!({"geomean_slowdown": -0.0}))]);
    assert_eq!(ranked(zeros), "ab");
}

#[test]
fn a_rule_without_a_usable_template_still_blocks_its_fallback() {
    let heuristics = example();
    let answer = heuristics.lookup_problem(&problem(Family::Matmul, "m=512,n=512,k=512"));
    assert_eq!(answer.source, Source::Rule(3));
    assert_eq!(answer.configs().count(), 0);
    let answer = heuristics.lookup_problem(&problem(Family::Matmul, "m=513,n=513,k=513"));
    assert_eq!(answer.source, Source::Fallback("balanced"));
    let answer = heuristics.lookup_problem(&problem(Family::Matmul, "m=513,n=5130,k=513"));
    assert_eq!(answer.source, Source::None, "an unusable fallback is none");
}

#[test]
fn of_two_rules_for_one_bucket_the_later_is_served() {
    let rule = |id: u32| json!({"kernel_class": "x", "shape_bucket": {"dtype": "int"}, "templates": [{"template": {"id": id}}]});
    let document = Document::from_value(json!({"schema_version": 2, "rules": [rule(0), rule(1), rule(2)]})).unwrap();
    let heuristics = Heuristics::new(document);
    let answer = heuristics.lookup(&Query { class: "x", extents: Extents::Unbinned, dtype: DtypeClass::Int.into() });
    assert_eq!(answer.source, Source::Rule(2));
    assert_eq!(answer.best().unwrap()["id"], json!(2));
}

#[test]
fn callers_switch_off_and_cap() {
    let shape = fp4("m=16,n=4096,k=4096");
    let grouped = fp4("m=17,n=4096,k=4096");
    let disabled = example_with(&Options { disabled: true, ..Options::default() });
    assert_eq!(disabled.lookup_problem(&shape).source, Source::None);
    let classes = BTreeSet::from(["matmul_fp4".to_owned()]);
    let without = example_with(&Options { disabled_classes: classes, ..Options::default() });
    assert_eq!(without.lookup_problem(&shape).source, Source::None);
    assert_eq!(without.lookup_problem(&grouped).source, Source::None);
    assert!(without.lookup_problem(&problem(Family::RowSoftmax, "rows=2048,cols=8192")).best().is_some());
    let one = example_with(&Options { max_configs: Some(1), ..Options::default() });
    assert_eq!(block_sizes(&one, &shape), [json!([16, 64, 64])]);
    let none = example_with(&Options { max_configs: Some(0), ..Options::default() });
    assert_eq!(block_sizes(&none, &shape).len() + block_sizes(&none, &grouped).len(), 0);
}

#[test]
fn the_nearest_rule_differs_in_the_fewest_fields() {
    let heuristics = example();
    let problem = fp4("m=17,n=4096,k=4096");
    let (index, bucket) = heuristics.nearest(&Query::from(&problem)).unwrap();
    assert_eq!((index, bucket["m_bin"].as_str()), (1, "<=16"));
    let elementwise = problem_of_elementwise();
    assert!(heuristics.nearest(&Query::from(&elementwise)).is_none());
}

fn problem_of_elementwise() -> Problem {
    problem(Family::Elementwise, "numel=5")
}

/// A signature from `shape dtype` pairs and its facts.
fn signature(args: &[(&[i64], &str)], traits: &[&str], block_rank: u32, more: Value) -> Signature {
    let args: Vec<_> =
        args.iter().map(|(shape, dtype)| json!({"shape": shape, "dtype": format!("torch.{dtype}")})).collect();
    let mut query = template(more);
    query.extend([
        ("args".to_owned(), json!(args)),
        ("traits".to_owned(), json!(traits)),
        ("block_rank".to_owned(), json!(block_rank)),
    ]);
    serde_json::from_value(Value::Object(query)).unwrap()
}

#[test]
fn kernels_are_classified_by_the_first_test_they_fit() {
    let square: &[i64] = &[64, 64];
    let a = (square, "bfloat16");
    let packed: (&[i64], &str) = (&[32, 64], "int8");
    let reduction = || json!({"has_reduction": true});
    let source = |text: &str| json!({"kernel_source": text});
    let sums = ["sum_reduction", "reduction"];
    let row = |length: i64| vec![length];
    let (cols, other) = (row(64), row(63));
    for (args, traits, rank, more, expected) in [
        (vec![a, a], &["attention_reduction", "matmul"][..], 3, json!({"has_split_k": true}), Some("attention")),
        (vec![a, a], &["attention_reduction"], 2, json!({}), None),
        (vec![a, a], &["matmul"], 3, json!({"has_split_k": true}), Some("split_k_matmul")),
        (vec![(&[2, 4, 8], "bfloat16"), (&[2, 8, 4], "bfloat16")], &["matmul"], 4, json!({}), Some("batched_matmul")),
        (vec![a, (&[2, 8, 4], "bfloat16")], &["matmul"], 4, json!({}), Some("grouped_matmul")),
        (vec![a, (square, "float8_e4m3fn")], &["matmul"], 3, json!({}), Some("matmul_fp8")),
        (vec![a, a, (square, "float8_e5m2")], &["matmul"], 3, json!({}), Some("matmul")),
        (vec![a, (square, "int16")], &["matmul"], 3, json!({}), Some("matmul_int16")),
        (vec![a, packed], &["matmul"], 3, json!({}), Some("matmul")),
        (vec![a, packed], &["matmul"], 3, source("unpack_INT4(b)"), Some("matmul_int4")),
        (vec![a, packed], &["matmul"], 3, source("int4 nibbles, E2M1 values"), Some("matmul_fp4")),
        (vec![a, (&[32, 64], "uint8")], &sums, 3, source("NVFP4"), Some("matmul_fp4")),
        (vec![a, (&[33, 64], "int8")], &sums, 3, source("nvfp4"), None),
        (vec![a, packed], &sums, 3, source("something else"), None),
        (vec![a, packed], &["reduction"], 3, source("int4"), None),
        (vec![a, (&cols, "bfloat16")], &["cross_entropy"], 1, reduction(), Some("row_cross_entropy")),
        (vec![a, (&cols, "int64")], &[], 1, reduction(), Some("row_cross_entropy")),
        (vec![a, (&cols, "bfloat16"), (&cols, "bfloat16")], &["softmax"], 1, reduction(), Some("row_norm_layer")),
        (vec![a, (&cols, "bfloat16"), (&other, "bfloat16")], &["softmax"], 1, reduction(), Some("row_norm_rms")),
        (vec![a, (&other, "bfloat16"), (&cols, "bfloat16")], &["softmax"], 1, reduction(), Some("row_softmax")),
        (vec![a], &["exp", "sum_reduction"], 1, reduction(), Some("row_softmax")),
        (vec![a], &["exp"], 1, reduction(), None),
        (vec![a, a], &[], 1, json!({}), Some("elementwise")),
        (vec![a, a], &[], 2, json!({}), None),
        (vec![a, (&cols, "bfloat16")], &[], 1, json!({}), None),
        (vec![], &[], 1, json!({}), None),
        (vec![a], &["matmul"], 1, json!({"kernel_class": "my_own"}), Some("my_own")),
    ] {
        let signature = signature(&args, traits, rank, more);
        assert_eq!(signature.class(), expected, "{signature:?}");
    }
}

#[test]
fn dimensions_come_from_the_arguments() {
    let bucket = |class: &str, shapes: &[&[i64]]| {
        let args: Vec<_> = shapes.iter().map(|shape| (*shape, "bfloat16")).collect();
        let signature = signature(&args, &[], 0, json!({"kernel_class": class}));
        let query = signature.query().unwrap();
        let labels: Vec<_> = query.bucket().into_values().collect();
        format!("{} {}", labels.join(" "), query.group().unwrap_or("-"))
    };
    assert_eq!(bucket("matmul", &[&[9, 16, 4096], &[2048, 512]]), "skinny_m fp16_bf16 <=4096 <=16 <=512 small_m");
    assert_eq!(bucket("matmul", &[&[4096], &[2048, 512]]), "unknown fp16_bf16 unknown unknown unknown -");
    assert_eq!(bucket("matmul", &[]), "unknown other unknown unknown unknown -");
    assert_eq!(bucket("row_norm_rms", &[&[2, 1024, 8192]]), "<=8192 fp16_bf16 <=2048 wide");
    assert_eq!(bucket("row_norm_rms", &[&[8192]]), "unknown fp16_bf16 unknown -");
    assert_eq!(bucket("attention", &[&[2, 16, 2048, 64]]), "<=32 fp16_bf16 <=64 <=2048 small_head");
    assert_eq!(
        bucket("attention", &[&[2, 16, 1, 64], &[2, 4, 9000, 64]]),
        "<=32 fp16_bf16 <=64 <=4 <=16384 <=1 short_seq"
    );
    assert_eq!(bucket("attention", &[&[32, 2048, 64]]), "unknown fp16_bf16 unknown unknown -");
    assert_eq!(bucket("elementwise", &[&[0, i64::MAX, i64::MAX]]), "fp16_bf16 <=4096 tiny");
    assert_eq!(bucket("elementwise", &[&[i64::MAX, i64::MAX]]), "fp16_bf16 >134217728 huge");
    assert_eq!(bucket("elementwise", &[&[]]), "fp16_bf16 <=4096 tiny");
    assert_eq!(bucket("batched_matmul", &[&[2, 2, 2]]), "fp16_bf16 -");
}

/// Of a product whose operands both have scales, no tensor but the result comes in two types, and packed ones have half of k.
#[test]
fn products_of_operands_with_scales_are_asked_for_by_their_result() {
    let heuristics = example();
    let asked = |class: &str, args: &[(&[i64], &str)]| {
        let signature = signature(args, &[], 0, json!({"kernel_class": class}));
        let checked = heuristics.query_of(&signature).unwrap().unwrap();
        let unchecked = signature.query().unwrap();
        assert_eq!((checked.extents, checked.dtype), (unchecked.extents, unchecked.dtype), "{class}");
        let labels: Vec<_> = checked.bucket().into_values().collect();
        format!("{} {} {}", checked.dtype.name(), labels.join(" "), checked.group().unwrap_or("-"))
    };
    let of_nvfp4 = "skinny_m fp16_bf16 <=4096 <=16 <=512 small_m";
    let packed: [(&[i64], &str); 4] = [
        (&[16, 2048], "float4_e2m1fn_x2"),
        (&[2048, 512], "float4_e2m1fn_x2"),
        (&[512 * 64], "float8_e4m3fn"),
        (&[512 * 4, 64], "uint8"),
    ];
    assert_eq!(asked("matmul_nvfp4_nvfp4", &packed[..2]), format!("bf16 {of_nvfp4}"));
    assert_eq!(asked("matmul_nvfp4_nvfp4", &packed), format!("bf16 {of_nvfp4}"));
    let with_result = [&packed[..], &[(&[16, 512][..], "float16")]].concat();
    assert_eq!(asked("matmul_nvfp4_nvfp4", &with_result), format!("f16 {of_nvfp4}"));
    let e4m3: [(&[i64], &str); 3] =
        [(&[300, 4096], "float8_e4m3fn"), (&[4096, 512], "float8_e4m3fn"), (&[3, 32, 512], "float8_e8m0fnu")];
    assert_eq!(asked("matmul_mxfp8", &e4m3), "bf16 skinny_m fp16_bf16 <=4096 <=512 <=512 rect");
}

/// A class, its arguments' shapes and types, and what is expected.
type Asked<'a> = (&'a str, &'a [(&'a [i64], &'a str)], &'a str);

#[test]
fn arguments_that_fit_nothing_are_refused_with_the_reason() {
    let heuristics = example();
    let bf16 = "bfloat16";
    let a: (&[i64], &str) = (&[16, 4096], bf16);
    let q: (&[i64], &str) = (&[2, 8, 64, 128], bf16);
    let refused: &[Asked] = &[
        ("matmul", &[a, (&[4095, 64], bf16)], "argument 1 is [4095, 64], and not B [k, n], here [4096, n]"),
        ("matmul", &[a, (&[64, 4096], bf16)], "it would fit transposed"),
        ("matmul", &[a, (&[4096, 64], "float32")], "argument 1 is float32, where B [k, n] is bfloat16"),
        ("matmul", &[a, (&[4096, 64], bf16), (&[16, 63], bf16)], "C [m, n] = [16, 64]"),
        ("matmul", &[(&[9, 16, 4096], bf16), (&[4096, 64], bf16)], "argument 0 is [9, 16, 4096], and not A [m, k]"),
        ("matmul", &[(&[4096], bf16), (&[4096, 64], bf16)], "A [m, k]"),
        ("matmul", &[(&[], bf16), (&[4096, 64], bf16)], "A [m, k]"),
        ("matmul", &[a], "tensor 1 of its arguments is missing: B"),
        ("matmul", &[], "tensor 0 of its arguments is missing: A [m, k]"),
        ("matmul", &[(&[16, 0], bf16), (&[0, 64], bf16)], "argument 0 is [16, 0]: every extent must be positive"),
        ("matmul", &[(&[-1, 4096], bf16), (&[4096, 64], bf16)], "every extent must be positive"),
        ("matmul", &[(&[i64::MAX, 4096], bf16), (&[4096, 64], bf16)], "more elements than 64 bits can count"),
        ("matmul", &[(&[1 << 40, 1], bf16), (&[1, 1 << 40], bf16)], "more elements than 64 bits can count"),
        ("matmul", &[a, (&[4096, 64], "bfloat17")], "argument 1: 'torch.bfloat17' is no data type"),
        ("matmul", &[(&[16, 4096], "float32"), (&[4096, 64], "float32")], "matmul does not run f32"),
        ("matmul_int4", &[a, (&[4096, 64], "int8")], "it would fit packed"),
        ("matmul_int4", &[a, (&[64, 2048], "uint8")], "it would fit transposed"),
        ("matmul_int4", &[a, (&[2048, 64], bf16)], "is int8 or uint8"),
        ("matmul_int4", &[(&[16, 4097], bf16), (&[2048, 64], "int8")], "an even k"),
        ("matmul_int16", &[a, (&[4096, 64], "int8")], "B [k, n] is int16"),
        ("matmul_fp8", &[a, (&[4096, 64], bf16)], "float8"),
        (
            "matmul_nvfp4_nvfp4",
            &[a, (&[4096, 64], "uint8")],
            "A [m, k/2], two numbers a byte is i8 or u8 or float4_e2m1fn_x2",
        ),
        (
            "matmul_nvfp4_nvfp4",
            &[(&[16, 2048], "uint8"), (&[4096, 64], "uint8")],
            "argument 1 is [4096, 64], and not B [k/2, n], likewise, here [2048, n]",
        ),
        (
            "matmul_nvfp4_nvfp4",
            &[(&[16, 2048], "uint8"), (&[2048, 64], "uint8"), (&[16, 256], "float8_e4m3fn")],
            "scales of A, blocks of 512 for 128 rows by four groups of 16",
        ),
        ("matmul_mxfp8", &[(&[16, 2048], "float8_e5m2"), (&[2048, 64], "float8_e4m3fn")], "A [m, k] is"),
        (
            "matmul_mxfp8",
            &[(&[16, 256], "float8_e4m3fn"), (&[256, 64], "float8_e4m3fn"), (&[1024], "float8_e4m3fn")],
            "scales of A, blocks of 512 for 128 rows by four groups of 32 are",
        ),
        ("split_k_matmul", &[a, (&[64, 4096], bf16)], "it would fit transposed"),
        ("batched_matmul", &[(&[2, 4, 8], bf16), (&[3, 8, 4], bf16)], "the leading extents of A, [2]"),
        ("grouped_matmul", &[a, (&[2, 64, 32], bf16)], "here [4096, n]"),
        ("attention", &[q, (&[2, 3, 64, 128], bf16)], "K [batch, heads, seq, head_dim], here [2, 8, kv_seq, 128]"),
        ("attention", &[q, (&[2, 3, 64, 128], bf16)], "or fewer heads that divide these"),
        ("attention", &[q, (&[2, 0, 64, 128], bf16)], "every extent must be positive"),
        ("attention", &[q, (&[2, 8, 128, 77], bf16)], "it would fit transposed"),
        ("attention", &[q, q, (&[2, 8, 65, 128], bf16)], "V of as many keys as K"),
        ("attention", &[q, (&[2, 8, 64, 128], "float16"), q], "K is of Q's type, bfloat16"),
        ("attention", &[q], "K [batch"),
        ("attention", &[(&[8, 64, 128], bf16), (&[8, 64, 128], bf16)], "Q [batch, heads, seq, head_dim]"),
        ("row_softmax", &[(&[4096], bf16)], "X [rows, cols]"),
        ("row_softmax", &[a, (&[16, 4095], bf16)], "a tensor that spreads over X, [16, 4096]"),
        ("row_norm_rms", &[a, (&[4095], bf16)], "weights of as many as cols, [4096]"),
        ("row_norm_layer", &[a, (&[4096], bf16), (&[16], bf16)], "bias of as many as cols"),
        ("row_cross_entropy", &[a, (&[17], "int64")], "integer labels, one a row, [16]"),
        ("elementwise", &[a, (&[16, 1], bf16)], "a tensor of the first one's shape, [16, 4096]"),
        ("elementwise", &[a, (&[16, 4096], "float32")], "all are of the first one's type, bfloat16"),
        ("elementwise", &[(&[], bf16), (&[], bf16)], "at least one dimension"),
        ("elementwise", &[(&[16], "int8"), (&[16], "int8")], "elementwise does not run i8"),
        ("conv2d", &[(&[16], bf16)], "conv2d does not run bf16"),
        ("mamtul", &[a, a], "'mamtul' is no family"),
    ];
    for (class, args, expected) in refused {
        let signature = signature(args, &[], 0, json!({"kernel_class": class}));
        let message = heuristics.query_of(&signature).unwrap_err().to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{class} {args:?}: {message}");
        assert_eq!(heuristics.lookup_signature(&signature).unwrap_err().to_string(), message);
        let line = json!({"kernel_class": class, "args": args.iter().map(|(shape, dtype)| {
            json!({"shape": shape, "dtype": format!("torch.{dtype}")})}).collect::<Vec<_>>()})
        .to_string();
        assert_eq!(answer_batch_line_checked(&heuristics, line.as_bytes()).unwrap_err().to_string(), message);
        assert!(!answer_batch_line(&heuristics, line.as_bytes()).contains("error"), "{line}");
    }
    for half in [json!({"shape": [16, 4096]}), json!({"dtype": "torch.bfloat16"})] {
        let signature: Signature =
            serde_json::from_value(json!({"kernel_class": "row_softmax", "args": [half]})).unwrap();
        assert!(heuristics.query_of(&signature).unwrap_err().to_string().contains("argument 0 has a"));
    }
}

#[test]
fn arguments_that_fit_are_asked_as_their_dimensions_are() {
    let heuristics = example();
    let bf16 = "bfloat16";
    let fitting: &[Asked] = &[
        ("matmul", &[(&[16, 4096], bf16), (&[4096, 64], bf16), (&[16, 64], bf16)], "m=16,n=64,k=4096"),
        ("matmul", &[(&[1, 16, 4096], bf16), (&[4096, 64], bf16), (&[64], bf16)], "m=16,n=64,k=4096"),
        ("matmul_fp4", &[(&[16, 4096], bf16), (&[2048, 4096], "int8")], "m=16,n=4096,k=4096"),
        ("matmul_int4", &[(&[16, 4096], bf16), (&[2048, 64], "uint8"), (&[32, 64], bf16)], "m=16,n=64,k=4096"),
        ("matmul_int16", &[(&[16, 4096], bf16), (&[4096, 64], "short")], "m=16,n=64,k=4096"),
        (
            "attention",
            &[(&[2, 8, 1, 64], bf16), (&[2, 8, 77, 64], bf16), (&[2, 8, 77, 64], bf16)],
            "batch=2,heads=8,q_seq=1,kv_seq=77,head_dim=64",
        ),
        ("row_softmax", &[(&[2, 1024, 8192], bf16)], "rows=2048,cols=8192"),
        ("row_norm_layer", &[(&[7, 5], "float"), (&[5], bf16), (&[5], bf16)], "rows=7,cols=5"),
        ("row_cross_entropy", &[(&[2, 7, 5], bf16), (&[14], "long")], "rows=14,cols=5"),
        ("elementwise", &[(&[3, 5], "float"), (&[3, 5], "float32")], "numel=15"),
    ];
    for (class, args, shape) in fitting {
        let signature = signature(args, &[], 0, json!({"kernel_class": class}));
        let query = heuristics.query_of(&signature).unwrap().unwrap();
        let dtype = DtypeName::parse(args[0].1).unwrap();
        assert_eq!(query, heuristics.query(class, &parse_dimensions(shape).unwrap(), dtype).unwrap());
    }
    // Aliases of a type are classified as the type itself.
    let args: &[(&[i64], &str)] = &[(&[16, 4096], bf16), (&[4096, 64], "short")];
    let classified = signature(args, &["matmul"], 3, json!({}));
    assert_eq!(heuristics.query_of(&classified).unwrap().unwrap().class, "matmul_int16");
    assert_eq!(heuristics.query_of(&signature(&[], &[], 0, json!({}))).unwrap(), None, "of no class");
}

#[test]
fn a_query_that_fits_nothing_is_answered_nothing() {
    let heuristics = example();
    let query = |m, n, k, dtype| Query {
        class: "matmul_fp4",
        extents: Extents::Gemm { m, n, k, sharing: None },
        dtype: DtypeName::parse(dtype).unwrap(),
    };
    let (some, large) = (Some(4096), Some(1 << 40));
    assert_eq!(heuristics.lookup(&query(Some(16), some, some, "half")).source, Source::Rule(1));
    for (query, expected) in [
        (query(Some(-1), some, some, "bf16"), "m = -1"),
        (query(Some(0), some, some, "bf16"), "m = 0"),
        (query(Some(16), None, some, "bf16"), "'n' is missing"),
        (query(Some(16), some, Some(4095), "bf16"), "k must be even"),
        (query(large, large, some, "bf16"), "more elements"),
        (
            query(Some(16), some, some, "float32"),
            "matmul_fp4 does not run f32: the type of its first tensor is one of bf16, f16",
        ),
        (Query { extents: Extents::Unbinned, ..query(None, None, None, "bf16") }, "another kind of class's"),
    ] {
        assert_eq!(heuristics.lookup(&query).source, Source::None);
        let message = heuristics.check(&query).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let negative = heuristics.lookup_unchecked(&query(Some(-1), some, some, "bf16"));
    assert_eq!(negative.source, Source::Fallback("small_m"), "as the runtime that documents come from answers");
}

fn answer(line: &str) -> Value {
    let text = answer_batch_line(&example(), line.as_bytes());
    assert!(!text.contains('\n'));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn batch_lines_are_answered_in_the_agreed_form() {
    let fp4 = |m: i64| {
        json!({"args": [{"shape": [m, 4096], "dtype": "torch.bfloat16"}, {"shape": [2048, 4096], "dtype": "torch.int8"}],
            "traits": ["matmul"], "block_rank": 3, "has_reduction": false, "has_split_k": false, "kernel_source": "e2m1"})
    };
    assert_eq!(
        answer(&fp4(16).to_string()),
        json!({"kernel_class": "matmul_fp4", "group": "small_m", "source": "rule", "rule_index": 1,
            "shape_bucket": {"aspect": "skinny_m", "dtype": "fp16_bf16", "k_bin": "<=4096", "m_bin": "<=16", "n_bin": "<=4096"},
            "templates": [
                {"block_sizes": [16, 64, 64], "l2_groupings": [1], "num_stages": 4, "num_warps": 4, "pid_type": "flat"},
                {"block_sizes": [16, 64, 128], "l2_groupings": [1], "num_stages": 3, "num_warps": 4, "pid_type": "flat"}]})
    );
    let fallback = answer(&fp4(17).to_string());
    assert_eq!((&fallback["source"], &fallback["rule_index"]), (&json!("fallback"), &Value::Null));
    assert_eq!(fallback["templates"], json!([{"block_sizes": [64, 64, 16], "num_warps": 2, "alpha": 0.123_456_789}]));
    assert_eq!(
        answer("{\"args\": []}"),
        json!({"kernel_class": null, "shape_bucket": {}, "group": null, "source": "none", "rule_index": null, "templates": []})
    );
    assert_eq!(
        answer("{\"kernel_class\": \"conv2d\", \"args\": [{\"shape\": [1], \"dtype\": \"torch.float32\"}]}")["rule_index"],
        json!(2)
    );
}

#[test]
fn malformed_batch_lines_are_answered_with_an_error() {
    for line in [
        "",
        "[]",
        "7",
        "{",
        "{\"args\": 5}",
        "{\"args\": [[]]}",
        "{\"args\": [[[16, 32]], [[32, 64], null]]}",
        "{\"args\": [{\"shape\": [1.5]}]}",
        "{\"block_rank\": -1}",
        "\u{0}",
    ] {
        let answer = answer(line);
        assert!(answer["error"].is_string(), "{line}: {answer}");
        assert_eq!(answer.as_object().unwrap().len(), 1);
    }
    let invalid = answer_batch_line(&example(), b"{\"kernel_class\": \"\xff\"}");
    assert!(invalid.contains("error"), "{invalid}");
}

#[test]
fn templates_are_laid_over_the_default_of_a_space() {
    let fields = BTreeMap::from([
        ("block_sizes".to_owned(), Knob::List(3)),
        ("num_warps".to_owned(), Knob::Scalar),
        ("pid_type".to_owned(), Knob::Scalar),
        ("indexing".to_owned(), Knob::List(2)),
    ]);
    let space = Space { fields, pid_types: vec!["flat".to_owned()] };
    let default = template(json!({"block_sizes": [1, 1, 1], "num_warps": 4, "pid_type": "flat", "num_stages": 2}));
    let lay = |value: Value| materialize(&template(value), &space, &default);
    let laid = lay(json!({"block_sizes": [16, 64, 64], "pid_type": "persistent_blocked", "unheard_of": [1]})).unwrap();
    assert_eq!(
        Value::Object(laid),
        json!({"block_sizes": [16, 64, 64], "num_warps": 4, "pid_type": "flat", "num_stages": 2})
    );
    for (value, named) in [
        (json!({"block_sizes": [1, 2]}), "block_sizes has 2 entries; this config space needs 3"),
        (json!({"block_sizes": 16}), "block_sizes is no list"),
        (json!({"num_warps": [4]}), "num_warps is a list"),
        (json!({"num_warps": 3}), "num_warps = 3"),
        (json!({"indexing": ["pointer"]}), "indexing has 1 entries"),
    ] {
        let message = lay(value).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(lay(json!({"pid_type": "flat"})).unwrap(), default);
}

/// Dimensions whose bin may be the one labelled so: bounds lie at least a factor of two apart.
fn candidates(label: &str) -> [i64; 2] {
    match label.split_at_checked(2) {
        Some(("<=", bound)) => bound.parse().map(|bound: i64| [bound, bound / 2 + 1]).unwrap(),
        _ => label[1..].parse().map(|bound: i64| [bound + 1, bound * 4]).unwrap(),
    }
}

/// A problem that falls into a bucket of a family.
fn problem_in(family: Family, bucket: &Value) -> Problem {
    let of = |field: &str| bucket.get(field).map_or([1, 1], |label| candidates(label.as_str().unwrap()));
    let choices: Vec<(&str, [i64; 2])> = match family {
        Family::Attention => vec![
            ("batch", of("batch_heads_bin")),
            ("heads", [1, 1]),
            ("q_seq", of("seq_bin")),
            ("kv_seq", of(if bucket.get("kv_seq_bin").is_some() { "kv_seq_bin" } else { "seq_bin" })),
            ("head_dim", of("head_dim_bin")),
        ],
        Family::RowSoftmax | Family::RowNormRms | Family::RowNormLayer | Family::RowCrossEntropy => {
            vec![("rows", of("rows_bin")), ("cols", of("cols_bin"))]
        }
        Family::Elementwise => vec![("numel", of("numel_bin"))],
        _ => vec![("m", of("m_bin")), ("n", of("n_bin")), ("k", of("k_bin"))],
    };
    let mut found = (0..1 << choices.len()).filter_map(|choice: usize| {
        let dimensions: Vec<_> =
            choices.iter().enumerate().map(|(at, (name, values))| (*name, values[choice >> at & 1])).collect();
        let problem = Problem::new(family, &dimensions, Dtype::Bf16).ok()?;
        (json!(bucket_of(&problem)) == *bucket).then_some(problem)
    });
    found.next().unwrap_or_else(|| panic!("no problem of {family} is in {bucket}"))
}

/// The configs of an array of templates in file order, each once.
fn configs_of(templates: &[Value]) -> Vec<&Value> {
    let mut configs = Vec::new();
    for template in templates.iter().map(|entry| &entry["template"]) {
        if !configs.contains(&template) {
            configs.push(template);
        }
    }
    configs
}

#[test]
fn the_reference_document_is_served_rule_by_rule() {
    let beside =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/observed_heuristics_b200.json");
    let path = std::env::var_os("KERNEL_SWEEP_REFERENCE").map_or(beside, Into::into);
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let document: Value = serde_json::from_str(&text).unwrap();
    let heuristics = Heuristics::from_bytes(text.as_bytes()).unwrap();
    let served = |answer: kernel_sweep::heuristics::Answer| -> Vec<Value> {
        answer.configs().map(|config| Value::Object(config.clone())).collect()
    };
    for (index, rule) in document["rules"].as_array().unwrap().iter().enumerate() {
        let class = rule["kernel_class"].as_str().unwrap();
        let bucket = &rule["shape_bucket"];
        let problem = problem_in(family_of_shape(class).unwrap(), bucket);
        assert_eq!(bucket["dtype"], "fp16_bf16");
        let dtype = DtypeName::parse("f16").unwrap();
        let answer = heuristics.lookup(&Query { class, dtype, ..Query::from(&problem) });
        assert_eq!(answer.source, Source::Rule(index), "{class} {bucket}");
        assert_eq!(served(answer).iter().collect::<Vec<_>>(), configs_of(rule["templates"].as_array().unwrap()));
        assert_eq!(Value::Object(answer.evidence().unwrap().clone()), rule["validation"]);
    }
    for (class, groups) in document["fallbacks"].as_object().unwrap() {
        for (group, shape) in [
            ("small_m", "m=200,n=70000,k=70000"),
            ("small_n", "m=70000,n=200,k=70000"),
            ("small_k", "m=70000,n=70000,k=200"),
            ("balanced", "m=70000,n=70000,k=70000"),
            ("rect", "m=70000,n=70000,k=270000"),
        ] {
            let answer = heuristics.lookup_problem(&problem(class.parse().unwrap(), shape));
            assert!(matches!(answer.source, Source::Fallback(found) if found == group), "{class} {shape}");
            assert_eq!(served(answer), [groups[group]["template"].clone()]);
        }
    }
}

#[test]
fn built_in_documents_are_asked_by_name() {
    for gpu in builtin_names() {
        let profile = GpuProfile::by_name(gpu).unwrap();
        let device = device_of(builtin_document(gpu).unwrap()).unwrap();
        for name in [gpu.to_owned(), format!("NVIDIA {}", profile.device_name), device.clone()] {
            assert!(Heuristics::builtin(&name).unwrap().classes().count() > 0, "{name}");
        }
        for other in [format!("{device} MIG 1g.18gb"), format!("NVIDIA {} PCIe", profile.device_name)] {
            let message = Heuristics::builtin(&other).unwrap_err().to_string();
            assert!(message.contains(&format!("no built-in heuristics for '{other}'")), "{message}");
            assert!(message.contains(&format!("that of {gpu} was measured on {device}, another device")), "{message}");
        }
    }
    let message = Heuristics::builtin("gtx9999").unwrap_err().to_string();
    assert!(message.contains("no built-in heuristics for 'gtx9999'"), "{message}");
    let committed = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/output"));
    for folder in committed.into_iter().flatten().flatten() {
        let gpu = folder.file_name().into_string().unwrap();
        let path = folder.path().join(format!("observed_heuristics_{gpu}.json"));
        // Where there is no archive the document is not committed: somebody's own sweep.
        if gpu != "cpu" && folder.path().join("archive").is_dir() && path.exists() {
            assert!(Heuristics::builtin(&gpu).is_ok(), "output/{gpu} has a document that is not built in");
        }
    }
}

/// A document of `matmul_fp8` with a rule for one scale a tensor and, if `variants`, one for blocks.
fn scaled_document(variants: bool) -> Heuristics {
    let rule = |more: &[(&str, &str)], block: u32| {
        let mut bucket =
            json!({"aspect": "skinny_m", "dtype": "fp8", "k_bin": "<=4096", "m_bin": "<=16", "n_bin": "<=4096"});
        bucket.as_object_mut().unwrap().extend(more.iter().map(|(name, bin)| ((*name).to_owned(), json!(bin))));
        json!({"kernel_class": "matmul_fp8", "shape_bucket": bucket, "match_exact_only": true,
            "templates": [{"template": {"block_sizes": [block, 64, 128]}}]})
    };
    let rules = [Some(rule(&[], 8)), variants.then(|| rule(&[("scale_block_bin", "<=128")], 16))];
    let document =
        json!({"schema_version": 2, "rules": rules.into_iter().flatten().collect::<Vec<_>>(), "fallbacks": {}});
    Heuristics::from_bytes(document.to_string().as_bytes()).unwrap()
}

#[test]
fn what_shares_a_scale_is_told_by_the_arguments_and_asked_of_documents_that_know_it() {
    let float8 = "float8_e4m3fn";
    let [a, b]: [(&[i64], &str); 2] = [(&[16, 4096], float8), (&[4096, 4096], float8)];
    let scales = |of_a: &'static [i64], of_b: &'static [i64]| [a, b, (of_a, "float32"), (of_b, "float32")];
    let of = |args: &[(&[i64], &str)]| {
        let signature = signature(args, &["matmul"], 3, json!({}));
        let query = signature.query().unwrap();
        (query.class.to_owned(), query.bucket().get("scale_block_bin").cloned())
    };
    for (args, wanted) in [
        (&[a, b][..], None),
        (&scales(&[], &[]), None),
        (&scales(&[1], &[1]), None),
        (&scales(&[16, 1], &[1, 4096]), Some("<=1")),
        (&scales(&[16, 32], &[32, 32]), Some("<=128")),
        (&scales(&[16, 31], &[32, 32]), None),
        (&scales(&[32, 16], &[32, 32]), None),
        (&[a, b, (&[16, 1], "bfloat16"), (&[1, 4096], "bfloat16")], None),
    ] {
        assert_eq!(of(args), ("matmul_fp8".to_owned(), wanted.map(str::to_owned)), "{args:?}");
    }

    let problem = |shape: &str| Problem::parse(Family::MatmulFp8, shape, Dtype::Fp8).unwrap();
    let (plain, blocks) = (problem("m=16,n=4096,k=4096"), problem("m=16,n=4096,k=4096,scale_block=128"));
    let rows = problem("m=16,n=4096,k=4096,scale_block=1");
    let known = scaled_document(true);
    assert_eq!(block_sizes(&known, &plain), [json!([8, 64, 128])]);
    assert_eq!(block_sizes(&known, &blocks), [json!([16, 64, 128])]);
    assert_eq!(known.lookup_problem(&rows).source, Source::None, "no rule for them");
    let signature = signature(&scales(&[16, 32], &[32, 32]), &["matmul"], 3, json!({}));
    assert_eq!(known.lookup_signature(&signature).unwrap().best().unwrap()["block_sizes"], json!([16, 64, 128]));
    let dimensions = parse_dimensions("m=16,n=4096,k=4096,scale_block=128").unwrap();
    let query = known.query("matmul_fp8", &dimensions, Dtype::Fp8).unwrap();
    assert_eq!(known.lookup(&query).best().unwrap()["block_sizes"], json!([16, 64, 128]));

    // A document that was made before knows one kind, and answers all as it did.
    let earlier = scaled_document(false);
    for problem in [plain, blocks, rows] {
        assert_eq!(block_sizes(&earlier, &problem), [json!([8, 64, 128])]);
    }
    assert_eq!(earlier.lookup_signature(&signature).unwrap().source, Source::Rule(0));
    let line = json!({"args": [{"shape": [16, 4096], "dtype": "torch.float8_e4m3fn"},
        {"shape": [4096, 4096], "dtype": "torch.float8_e4m3fn"}, {"shape": [16, 32], "dtype": "torch.float32"},
        {"shape": [32, 32], "dtype": "torch.float32"}], "traits": ["matmul"], "block_rank": 3});
    let answer: Value = serde_json::from_str(&answer_batch_line(&earlier, line.to_string().as_bytes())).unwrap();
    assert_eq!((answer["source"].as_str(), answer["shape_bucket"].get("scale_block_bin")), (Some("rule"), None));
}

#[test]
fn a_question_without_a_type_is_put_in_one_that_the_family_runs() {
    for gpu in builtin_names() {
        let heuristics = Heuristics::builtin(gpu).unwrap();
        for family in Family::ALL {
            let dimensions: Vec<(&str, i64)> = family.dimensions().iter().map(|name| (*name, 64)).collect();
            let dtype = heuristics.dtype(family.name(), None).unwrap();
            let query = heuristics.query(family.name(), &dimensions, dtype).unwrap();
            assert!(family.dtypes().contains(&query.dtype.name().parse().unwrap()), "{gpu} {family:?}: {query:?}");
            let has_bf16 = family.dtypes().contains(&Dtype::Bf16);
            assert_eq!(dtype.name() == "bf16", has_bf16, "{family:?}");
        }
        assert_eq!(
            heuristics.dtype("matmul_fp8", Some("torch.half")).unwrap().name(),
            "f16",
            "what is asked for counts"
        );
        assert!(heuristics.dtype("matmul", Some("b16")).is_err());
    }
}

#[test]
fn a_family_that_a_document_describes_has_a_default_type_of_its_own() {
    let document = |dtypes: Value| {
        let own = json!({"dims": ["tokens"], "dtypes": dtypes, "groups": [{"name": "all"}]});
        let fallback = json!({"own": {"all": {"template": {"id": 1}}}});
        let value =
            json!({"schema_version": 2, "policy": {"families": {"own": own}}, "rules": [], "fallbacks": fallback});
        Heuristics::from_bytes(value.to_string().as_bytes()).unwrap()
    };
    for (dtypes, wanted) in [(json!(["f32", "f16"]), "f32"), (json!(["f16", "bf16"]), "bf16"), (json!(["fp8"]), "fp8")]
    {
        let heuristics = document(dtypes);
        let dtype = heuristics.dtype("own", None).unwrap();
        assert_eq!(dtype.name(), wanted);
        let query = heuristics.query("own", &[("tokens", 5)], dtype).unwrap();
        assert_eq!(heuristics.lookup(&query).source, Source::Fallback("all"));
    }
    assert_eq!(example().dtype("batched_matmul", None).unwrap().name(), "bf16", "no family's");
}

#[test]
fn an_answer_says_how_long_its_configs_take_and_how_that_is_known() {
    let options = Options { max_configs: Some(2), ..Options::default() };
    let heuristics = Heuristics::builtin("h200").unwrap();
    let capped = Heuristics::builtin("h200").unwrap().with_options(&options);
    let (mut measured, mut predicted) = (0, 0);
    // Of the plan, and of nobody's.
    for shape in
        ["m=1,n=40,k=392", "m=1,n=57,k=1952", "m=333,n=4568,k=1240", "m=77,n=3000,k=5000", "m=2000,n=1504,k=712"]
    {
        let problem = problem(Family::Matmul, shape);
        for heuristics in [&heuristics, &capped] {
            let answer = heuristics.lookup_problem(&problem);
            let times_us = match answer.source {
                Source::Measured => (answer.measured_us(), answer.predicted_us().is_none()),
                Source::Model => (answer.predicted_us(), answer.measured_us().is_none()),
                _ => continue,
            };
            measured += usize::from(answer.source == Source::Measured);
            predicted += usize::from(answer.source == Source::Model);
            let (Some(times_us), true) = times_us else { panic!("{shape}: {times_us:?}") };
            assert!(times_us.len() == answer.configs().len() && !times_us.is_empty(), "{shape}: {times_us:?}");
            // A config that is not tried on such shapes comes behind one that is expected to take a little longer.
            let most = if answer.source == Source::Model { UNTRIED } else { 1.0 };
            let in_order = times_us.windows(2).all(|pair| pair[0] <= pair[1] * most);
            assert!(times_us[0] > 0.0 && in_order, "{shape}: {times_us:?}");
        }
    }
    assert!(measured >= 2 && predicted >= 2, "{measured} measured, {predicted} predicted");
}
