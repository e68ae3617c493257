//! Helion's measurement files.

use kernel_sweep::derive::helion_csv::{Report, read};
use kernel_sweep::derive::{self, Defaults, Evidence};
use kernel_sweep::heuristics::Document;
use kernel_sweep::model::GpuProfile;
use serde_json::{Value, json};

const COLUMNS: &str = "kernel_name,shape_hash,config_hash,config,shape_features,timing_ms\n";

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The features Helion writes for tensor arguments.
fn features(args: &[(&[i64], &str)]) -> Value {
    let mut features = serde_json::Map::new();
    for (index, (shape, dtype)) in args.iter().enumerate() {
        features.insert(format!("arg{index}_ndim"), json!(shape.len()));
        for (dim, extent) in shape.iter().enumerate() {
            features.insert(format!("arg{index}_dim{dim}"), json!(extent));
        }
        features.insert(format!("arg{index}_dtype"), json!(dtype));
        features.insert(format!("arg{index}_dtype_cat"), json!(2));
    }
    Value::Object(features)
}

fn row(kernel: &str, args: &[(&[i64], &str)], config: &Value, timing_ms: &str) -> String {
    let hash = format!("{args:?}").len();
    let (config, features) = (quoted(&config.to_string()), quoted(&features(args).to_string()));
    format!("{kernel},s{hash},c0,{config},{features},{timing_ms}\n")
}

fn read_text(text: &str) -> (Document, Report) {
    let mut evidence = Evidence::default();
    let report = read(&mut evidence, text.as_bytes(), "measurements.csv").unwrap();
    (derive::document(&evidence, &GpuProfile::by_name("b200").unwrap(), &Defaults::new()).document, report)
}

const BF16: &str = "torch.bfloat16";

fn gemm(m: i64, n: i64, k: i64) -> [(Vec<i64>, &'static str); 2] {
    [(vec![m, k], BF16), (vec![k, n], BF16)]
}

fn borrowed<'a>(args: &'a [(Vec<i64>, &'a str)]) -> Vec<(&'a [i64], &'a str)> {
    args.iter().map(|(shape, dtype)| (shape.as_slice(), *dtype)).collect()
}

#[test]
fn kernels_become_classes_with_their_buckets_and_groups() {
    let config = json!({ "block_sizes": [64, 64, 32], "indexing": ["pointer", "tensor_descriptor"], "num_warps": 4 });
    let packed = [(vec![16, 4096], BF16), (vec![2048, 512], "torch.int8")];
    let rows = [(vec![1024, 4096], BF16), (vec![4096], BF16)];
    let attention = [(vec![2, 16, 2048, 64], BF16), (vec![2, 16, 2048, 64], BF16), (vec![2, 16, 2048, 64], BF16)];
    let mut text = COLUMNS.to_owned();
    for (kernel, args) in [
        ("matmul", gemm(16, 512, 4096).to_vec()),
        ("fp8_gemm", [(vec![16, 64], "torch.float8_e4m3fn"), (vec![64, 64], "torch.float8_e4m3fn")].to_vec()),
        ("grouped_gemm", gemm(16, 512, 4096).to_vec()),
        ("matmul_bf16_int4", packed.to_vec()),
        ("_bf16xint16_gemm", gemm(16, 512, 4096).to_vec()),
        ("nvfp4_matmul", packed.to_vec()),
        ("attention", attention.to_vec()),
        ("softmax", rows[..1].to_vec()),
        ("rms_norm", rows.to_vec()),
        ("layer_norm", rows.to_vec()),
        ("cross_entropy", rows.to_vec()),
        ("vector_add", rows[..1].to_vec()),
    ] {
        text += &row(kernel, &borrowed(&args), &config, "0.5");
    }
    let (document, report) = read_text(&text);
    assert_eq!((report.timed, report.failed, report.bad.len()), (12, 0, 0));
    let classes: Vec<&str> = document.fallbacks.keys().map(String::as_str).collect();
    assert_eq!(
        classes,
        [
            "attention",
            "elementwise",
            "grouped_matmul",
            "matmul",
            "matmul_fp4",
            "matmul_fp8",
            "matmul_int16",
            "matmul_int4",
            "row_cross_entropy",
            "row_norm_layer",
            "row_norm_rms",
            "row_softmax"
        ]
    );
    let int4 = &document.fallbacks["matmul_int4"]["small_m"];
    assert_eq!(Value::Object(int4.template.clone()), config, "every key of a config is kept");
    assert_eq!(int4.source["problems"][0]["served_us"], 500.0, "milliseconds become microseconds");
    assert!(!int4.source.contains_key("borrowed"));
    assert!(!document.fallbacks["attention"]["small_head"].source.contains_key("borrowed"));
    assert!(!document.fallbacks["row_norm_rms"]["square"].source.contains_key("borrowed"));
}

#[test]
fn a_better_config_for_a_bucket_becomes_a_rule() {
    let (wide, narrow) = (json!({ "block_sizes": [128] }), json!({ "block_sizes": [16] }));
    let mut text = COLUMNS.to_owned();
    for (m, wide_ms, narrow_ms) in
        [(4, "0.20", "0.10"), (3, "0.21", "0.11"), (200, "0.1", "0.5"), (220, "0.1", "0.5"), (240, "0.1", "0.5")]
    {
        let args = gemm(m, 4096, 4096);
        text += &row("matmul", &borrowed(&args), &wide, wide_ms);
        text += &row("matmul", &borrowed(&args), &narrow, narrow_ms);
    }
    let (document, _) = read_text(&text);
    let [rule] = &document.rules[..] else { panic!("one rule, not {}", document.rules.len()) };
    assert_eq!(rule.shape_bucket["m_bin"], "<=4");
    assert_eq!(rule.templates[0].template["block_sizes"], json!([16]));
    assert_eq!(document.fallbacks["matmul"]["small_m"].template["block_sizes"], json!([128]));
    let noise = rule.validation["compared"]["fallback"]["noise"].as_f64().unwrap();
    assert!((noise - 0.02).abs() < 1e-9, "a lone time has an assumed noise");
}

#[test]
fn bad_rows_are_named_and_the_rest_goes_on() {
    let args = gemm(4, 64, 64);
    let args = borrowed(&args);
    let config = json!({ "block_sizes": [16] });
    let good = row("matmul", &args, &config, "0.1");
    let no_shape = format!("matmul,s,c,{},{},0.1\n", quoted(&config.to_string()), quoted("{\"arg0_scalar\": 1}"));
    let broken = good.replace("{\"\"arg0", "{{\"\"arg0");
    let bad = [
        (row("my_kernel", &args, &config, "0.1"), "'my_kernel' belongs to no known class"),
        (row("matmul", &args, &config, "fast"), "'fast' is no number"),
        (row("matmul", &args, &config, "nan"), "no positive time"),
        (row("matmul", &args, &config, "-1"), "no positive time"),
        (row("matmul", &args, &config, ""), "is no number"),
        (row("matmul", &args, &json!([1]), "0.1"), "config is no JSON object"),
        (row("matmul", &args, &json!({}), "0.1"), "config is empty"),
        (broken, "shape_features is broken JSON"),
        (no_shape, "tells no argument's shape"),
        ("matmul,s,c\n".to_owned(), "3 fields where the header has 6"),
    ];
    let rows = bad.iter().flat_map(|(row, _)| [row.as_str(), good.as_str()]).collect::<String>();
    let (document, report) = read_text(&format!("{COLUMNS}{rows}"));
    assert_eq!(report.timed, bad.len());
    assert_eq!(report.bad.len(), bad.len());
    for (index, (row, (_, reason))) in report.bad.iter().zip(&bad).enumerate() {
        assert_eq!(row.line, 2 + 2 * index as u64);
        assert!(row.reason.contains(reason), "{}", row.reason);
    }
    assert_eq!(document.fallbacks["matmul"]["small_m"].template["block_sizes"], json!([16]));
}

#[test]
fn invalid_utf8_is_one_bad_row() {
    let args = gemm(4, 64, 64);
    let good = row("matmul", &borrowed(&args), &json!({ "a": 1 }), "0.1");
    let bytes = [COLUMNS.as_bytes(), b"\xff\xfe,s,c,d,e,1\n", good.as_bytes()].concat();
    let report = read(&mut Evidence::default(), &bytes[..], "file").unwrap();
    assert_eq!((report.timed, report.bad.len()), (1, 1));
}

#[test]
fn an_infinite_time_is_a_config_that_failed() {
    let args = gemm(4, 64, 64);
    let text = COLUMNS.to_owned()
        + &row("matmul", &borrowed(&args), &json!({ "a": 1 }), "inf")
        + &row("matmul", &borrowed(&args), &json!({ "b": 1 }), "0.1");
    let (document, report) = read_text(&text);
    assert_eq!((report.timed, report.failed), (1, 1));
    assert_eq!(document.fallbacks["matmul"]["small_m"].template["b"], 1);
}

#[test]
fn sparse_files_serve_what_was_measured() {
    // No config meets two shapes: each bucket keeps its own, since the fallback was never tried there.
    let mut text = COLUMNS.to_owned();
    for (m, config) in [(4, json!({ "a": 1 })), (100, json!({ "b": 1 }))] {
        let args = gemm(m, 4096, 4096);
        text += &row("matmul", &borrowed(&args), &config, "0.1");
    }
    let (document, _) = read_text(&text);
    assert_eq!(document.fallbacks["matmul"]["small_m"].template, *json!({ "a": 1 }).as_object().unwrap());
    let [rule] = &document.rules[..] else { panic!("one rule, not {}", document.rules.len()) };
    assert_eq!(rule.templates[0].template, *json!({ "b": 1 }).as_object().unwrap());
    let compared = &rule.validation["compared"]["fallback"];
    assert_eq!((compared["pairs"].as_u64(), compared["untried"].as_u64()), (Some(0), Some(1)));
}

#[test]
fn each_dimension_that_was_recorded_counts() {
    let bucket_of = |kernel: &str, features: Value| {
        let config = quoted(&json!({ "a": 1 }).to_string());
        let text = format!("{COLUMNS}{kernel},s,c,{config},{},0.1\n", quoted(&features.to_string()));
        let (document, report) = read_text(&text);
        assert_eq!(report.bad, []);
        let groups = &document.fallbacks[document.fallbacks.keys().next().unwrap()];
        let own = groups.iter().filter(|(_, fallback)| !fallback.source.contains_key("borrowed"));
        let groups: Vec<_> = own.map(|(group, _)| group.clone()).collect();
        (document.rules.first().map(|rule| rule.shape_bucket.clone()), groups)
    };
    // The rows of the second matrix are those of the first's columns.
    let (rule, groups) = bucket_of(
        "matmul",
        json!({ "arg0_dim0": 16, "arg0_dim1": 4096, "arg1_dim1": 4096, "arg0_ndim": 2, "arg1_ndim": 2, "arg0_dtype": BF16 }),
    );
    assert_eq!((rule, groups), (None, vec!["small_m".to_owned()]), "the fallback serves it");
    // Without m there is no group, and the bucket says what is known.
    let (rule, groups) =
        bucket_of("matmul", json!({ "arg0_dim1": 4096, "arg1_dim1": 64, "arg0_ndim": 2, "arg1_ndim": 2 }));
    let rule = rule.unwrap();
    let labels = ["aspect", "m_bin", "n_bin", "k_bin"].map(|field| rule[field].as_str());
    assert_eq!((labels, groups.len()), (["unknown", "unknown", "<=64", "<=4096"], 0));
    let (rule, _) = bucket_of("rms_norm", json!({ "arg0_dim1": 4096, "arg0_ndim": 2, "arg0_dtype": BF16 }));
    let rule = rule.unwrap();
    assert_eq!((rule["rows_bin"].as_str(), rule["cols_bin"].as_str()), ("unknown", "<=4096"));
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let error = read(&mut Evidence::default(), &b"a,b\n1,2\n"[..], "other.csv").unwrap_err().to_string();
    assert!(error.contains("other.csv") && error.contains("kernel_name"), "{error}");
}

/// A row a shape, each with a config of its own.
fn diagonal(shapes: i64) -> String {
    let rows = (0..shapes).map(|index| {
        let config = json!({"block_sizes": [16, 64, 64], "num_stages": index});
        row("matmul", &borrowed(&gemm(index + 1, 512, 4096)), &config, "0.5")
    });
    COLUMNS.to_owned() + &rows.collect::<String>()
}

#[test]
fn thousands_of_shapes_and_configs_are_derived_from_in_seconds() {
    let start = std::time::Instant::now();
    let (document, report) = read_text(&diagonal(5000));
    assert_eq!((report.timed, report.bad_rows), (5000, 0));
    assert!(!document.fallbacks["matmul"].is_empty());
    assert!(start.elapsed().as_secs() < 15, "{:?}", start.elapsed());
}

#[test]
fn files_beyond_all_measure_are_refused() {
    let refused =
        |text: String| read(&mut Evidence::default(), text.as_bytes(), "measurements.csv").unwrap_err().to_string();
    assert!(refused(diagonal(5001)).starts_with("measurements.csv: more than 5000 shapes"));
    let junk = COLUMNS.to_owned() + &"x\n".repeat(500_001);
    assert!(refused(junk).contains("more than 500000 rows"));
    let (_, report) = read_text(&(COLUMNS.to_owned() + &"x\n".repeat(1000)));
    assert_eq!((report.bad_rows, report.bad.len()), (1000, 10), "the first are named");
}
