//! Reading and writing documents, real ones and hostile ones.
#![allow(clippy::unwrap_used)]

use kernel_sweep::heuristics::{
    Bucket, Document, DtypeClass, Extents, Heuristics, Query, RankedTemplate, Rule, Source, answer_batch_line,
};
use serde_json::{Value, json};
use std::path::PathBuf;

const EXAMPLE: &str = include_str!("data/observed_heuristics_example.json");

fn example() -> Document {
    Document::from_bytes(EXAMPLE.as_bytes()).unwrap()
}

/// The documents of others that are on this machine: the one this format comes from, where it is given.
fn reference() -> Option<String> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/reference/observed_heuristics_b200.json");
    let path = std::env::var_os("KERNEL_SWEEP_REFERENCE").map_or(beside, PathBuf::from);
    std::fs::read_to_string(path).ok()
}

/// What the text is refused with, whether it is read whole or to be served.
fn error_of(text: &str) -> String {
    let message = Document::from_bytes(text.as_bytes()).unwrap_err().to_string();
    if !text.contains("\"policy\": ") {
        assert_eq!(Heuristics::from_bytes(text.as_bytes()).unwrap_err().to_string(), message);
    }
    assert!(!message.contains('\n'), "more than a line: {message}");
    message
}

/// The JSON with every number outside templates rounded to 4 places and rules sorted, to compare meanings.
fn meaning(text: &str) -> Value {
    fn rounded(name: &str, value: &mut Value) {
        match value {
            _ if name == "template" => {}
            Value::Array(items) => items.iter_mut().for_each(|item| rounded("", item)),
            Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| rounded(name, value)),
            Value::Number(number) => {
                let close = (number.as_f64().unwrap() * 1e4).round() / 1e4;
                *value = json!(close);
            }
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_str(text).unwrap();
    rounded("", &mut value);
    let key = |rule: &Value| format!("{} {}", rule["kernel_class"], rule["shape_bucket"]);
    value["rules"].as_array_mut().unwrap().sort_by_key(key);
    value
}

#[test]
fn the_reference_document_survives_a_round_trip() {
    let Some(text) = reference() else { return };
    let document = Document::from_bytes(text.as_bytes()).unwrap();
    assert_eq!(document.rules.len(), 30);
    assert_eq!(document.fallbacks.values().map(std::collections::BTreeMap::len).sum::<usize>(), 15);
    assert_eq!(meaning(&document.to_canonical_json()), meaning(&text));
    // Without the canonical rounding not a digit changes.
    let unrounded = serde_json::to_value(&document).unwrap();
    assert_eq!(unrounded, serde_json::from_str::<Value>(&text).unwrap());
}

#[test]
fn what_is_not_known_or_not_usable_is_written_back() {
    let saved: Value = serde_json::from_str(&example().to_canonical_json()).unwrap();
    assert_eq!(saved["made_by_hand"], json!(true));
    let rule = |class: &str| {
        let rules = saved["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["kernel_class"] == class).unwrap().clone()
    };
    assert_eq!(rule("row_softmax")["note"], "kept");
    assert_eq!(rule("matmul")["templates"][0], json!({"template": "lost", "win_count": "many"}));
    assert_eq!(rule("matmul")["templates"][1], json!({"template": null, "win_count": 1}));
    assert_eq!(saved["fallbacks"]["matmul_fp4"]["another"]["template"], json!({"block_sizes": [1, 1, 1]}));
}

#[test]
fn the_canonical_text_is_sorted_rounded_and_stable() {
    let text = example().to_canonical_json();
    assert!(text.ends_with("}\n") && !text.ends_with("\n\n"));
    assert_eq!(Document::from_bytes(text.as_bytes()).unwrap().to_canonical_json(), text);
    let value: Value = serde_json::from_str(&text).unwrap();
    let classes: Vec<_> = value["rules"].as_array().unwrap().iter().map(|rule| rule["kernel_class"].clone()).collect();
    assert_eq!(classes, ["conv2d", "matmul", "matmul_fp4", "row_softmax"]);
    let small_m = &value["fallbacks"]["matmul_fp4"]["small_m"];
    assert_eq!(small_m["source"]["archive_perf_ms"], json!(0.0358));
    assert_eq!(small_m["template"]["alpha"], json!(0.123_456_789), "templates are left as they are");
    assert!(text.contains("\"win_count\":24}"), "counts stay whole");
    for keys in [["\"description\"", "\"fallbacks\""], ["\"kernel_class\"", "\"match_exact_only\""]] {
        let [first, second] = keys.map(|key| text.find(key).unwrap());
        assert!(first < second, "{keys:?} are out of order");
    }
}

#[test]
fn rules_sort_by_class_then_bucket() {
    let rule = |class: &str, label: &str| Rule {
        kernel_class: class.to_owned(),
        shape_bucket: Bucket::from([("dtype".to_owned(), label.to_owned())]),
        ..Rule::default()
    };
    let rules = [rule("b", "fp8"), rule("a", "int"), rule("a", "fp8")];
    let text_of = |rules: &[Rule]| {
        Document { schema_version: 2, rules: rules.to_vec(), ..Document::default() }.to_canonical_json()
    };
    let mut reversed = rules.clone();
    reversed.reverse();
    assert_eq!(text_of(&rules), text_of(&reversed));
    assert!(text_of(&rules).find("\"int\"") < text_of(&rules).find("\"b\""));
}

#[test]
fn numbers_that_are_none_are_saved_as_null() {
    let broken =
        RankedTemplate { geomean_slowdown: Some(f64::NAN), p90_slowdown: Some(f64::INFINITY), ..Default::default() };
    let rule = Rule { templates: vec![broken], ..Rule::default() };
    let document = Document { schema_version: 2, rules: vec![rule], ..Document::default() };
    let text = document.to_canonical_json();
    assert!(text.contains("\"geomean_slowdown\":null"));
    assert!(Document::from_bytes(text.as_bytes()).is_ok());
}

#[test]
fn broken_documents_are_refused_in_one_line_that_says_where() {
    for (text, expected) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\"schema_version\": 2,\n \"rules\": [}", "line 2 column 12"),
        ("{\"schema_version\": 2, \"policy\": {\"x\": NaN}}", "line 1 column 39"),
        ("{\"schema_version\": 2, \"policy\": {\"x\": 1e999}}", "number out of range at line 1"),
        ("[]", "a document is a JSON object, not an array"),
        ("{}", "schema_version is missing"),
        ("{\"schema_version\": 3}", "schema_version is 3; this reads version 2"),
        ("{\"schema_version\": \"2\"}", "schema_version is \"2\"; this reads version 2"),
        ("{\"schema_version\": 2, \"rules\": {}}", "rules must be an array, not an object"),
        (
            "{\"schema_version\": 2, \"rules\": [{\"kernel_class\": \"m\", \"shape_bucket\": {}}, 5]}",
            "rules[1] must be an object",
        ),
        ("{\"schema_version\": 2, \"rules\": [{}]}", "rules[0].kernel_class must be a string, not null or missing"),
        ("{\"schema_version\": 2, \"rules\": [{\"kernel_class\": \"m\"}]}", "rules[0].shape_bucket must be an object"),
        (
            "{\"schema_version\": 2, \"rules\": [{\"kernel_class\": \"m\", \"shape_bucket\": {\"m_bin\": 4}}]}",
            "rules[0].shape_bucket.m_bin must be a string, not a number",
        ),
    ] {
        let message = error_of(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn hostile_documents_are_refused() {
    let nested = format!("{{\"schema_version\": 2, \"policy\": {}", "[".repeat(10_000));
    assert!(error_of(&nested).contains("recursion limit exceeded at line 1"));
    let nested = format!("{{\"schema_version\": 2, \"policy\": {}", "{\"a\":".repeat(10_000));
    assert!(error_of(&nested).contains("recursion limit exceeded at line 1"));
    let huge = format!("{{\"schema_version\": 2, \"rules\": [{}]}}", "0,".repeat(50_000_000));
    assert!(error_of(&huge).contains("larger than 32 MiB"));
    let refused = |inner: String| error_of(&format!("{{\"schema_version\": 2, {inner}}}"));
    let rule = |templates: &str| {
        format!("\"rules\": [{{\"kernel_class\": \"x\", \"shape_bucket\": {{}}, \"templates\": [{templates}null]}}]")
    };
    assert!(refused(rule(&"{},".repeat(10_000_000))).contains("10000003 JSON objects, so no document of rules"));
    assert!(refused(format!("\"policy\":{{\"x\":[{}0]}}", "0,".repeat(10_000_000))).contains("JSON values"));
    assert!(refused(format!("\"policy\":{{\"x\":[{}0]}}", "[],".repeat(5_000_000))).contains("JSON values"));
    let models: Vec<_> = (0..1001).map(|index| format!("\"{index}\": 0")).collect();
    assert!(refused(format!("\"models\": {{{}}}", models.join(","))).contains("1001 models"));
    let text = format!("{{\"schema_version\": 2, {}}}", rule(&"null,".repeat(100_000)));
    assert!(
        Document::from_bytes(text.as_bytes()).unwrap_err().to_string().contains("more than 65536 rules, templates")
    );
    let message = Document::from_bytes(b"{\"schema_version\": 2, \"description\": \"\xff\"}").unwrap_err().to_string();
    assert!(message.contains("line 1"), "{message}");
}

/// Serving reads a template only when it is asked for; one that then proves unreadable is as good as none.
#[test]
fn what_is_hostile_beyond_the_grammar_is_not_served() {
    let nested = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for hostile in [nested.as_str(), "1e999", "\"\\ud800\""] {
        let text = format!(
            "{{\"schema_version\": 2, \"policy\": {{\"x\": {hostile}}}, \"rules\": [
                {{\"kernel_class\": \"x\", \"shape_bucket\": {{\"dtype\": \"int\"}}, \"templates\": [{{\"template\": {{\"a\": {hostile}}}}}]}},
                {{\"kernel_class\": \"x\", \"shape_bucket\": {{\"dtype\": \"fp32\"}}, \"templates\": [{{\"template\": {{\"a\": {hostile}}}}}, {{\"template\": {{\"a\": 2}}}}]}},
                {{\"kernel_class\": \"x\", \"shape_bucket\": {{\"dtype\": \"fp8\"}}, \"templates\": [{{\"template\": {{\"a\": 1}}}}]}}]}}"
        );
        let heuristics = Heuristics::from_bytes(text.as_bytes()).unwrap();
        let answer = |dtype: DtypeClass| {
            heuristics.lookup(&Query { class: "x", extents: Extents::Unbinned, dtype: dtype.into() })
        };
        assert_eq!((answer(DtypeClass::Int).source, answer(DtypeClass::Int).best()), (Source::Rule(0), None));
        assert_eq!(answer(DtypeClass::Fp32).best().unwrap()["a"], json!(2), "the others of its rule are");
        assert_eq!(answer(DtypeClass::Fp8).best().unwrap()["a"], json!(1));
    }
    for broken in ["nan", "{\"a\": 01}", "[1,]", "\"\u{1}\"", "\"\\x\"", "{\"a\" 1}", "+1", "tru"] {
        let text = format!("{{\"schema_version\": 2, \"policy\": {broken}, \"rules\": []}}");
        let message = Heuristics::from_bytes(text.as_bytes()).unwrap_err().to_string();
        assert!(message.contains("broken JSON") && message.contains("line 1 column"), "{message}");
    }
}

/// Classes are found in a document of tens of thousands as fast as in any other.
#[test]
fn as_many_classes_as_rules_take_no_longer() {
    let rule = |index: u32| {
        format!("{{\"kernel_class\":\"x{index}\",\"shape_bucket\":{{\"dtype\":\"int\"}},\"templates\":[]}}")
    };
    let rules: Vec<_> = (0..60_000).map(rule).collect();
    let text = format!("{{\"schema_version\": 2, \"rules\": [{}]}}", rules.join(","));
    let start = std::time::Instant::now();
    let heuristics = Heuristics::from_bytes(text.as_bytes()).unwrap();
    assert_eq!(heuristics.classes().count(), 60_000);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let text = example().to_canonical_json();
    let marked = format!("\u{feff}{text}");
    assert_eq!(Document::from_bytes(marked.as_bytes()).unwrap().to_canonical_json(), text);
    let line = br#"{"args": [{"shape": [64, 4096], "dtype": "torch.bfloat16"}], "traits": ["matmul"]}"#;
    let (plain, of_marked) = (Heuristics::from_bytes(text.as_bytes()), Heuristics::from_bytes(marked.as_bytes()));
    let [plain, of_marked] = [plain, of_marked].map(|read| answer_batch_line(&read.unwrap(), line));
    assert_eq!(plain, of_marked);
    let heuristics = Heuristics::from_bytes(text.as_bytes()).unwrap();
    assert_eq!(answer_batch_line(&heuristics, &[b"\xef\xbb\xbf", &line[..]].concat()), plain);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let message = Document::load("/nowhere/heuristics.json".as_ref()).unwrap_err().to_string();
    assert!(message.contains("/nowhere/heuristics.json"), "{message}");
    #[cfg(unix)]
    {
        let endless = Document::load("/dev/zero".as_ref()).unwrap_err().to_string();
        assert!(endless.contains("larger than 32 MiB"), "{endless}");
    }
}

#[cfg(feature = "harness")]
#[test]
fn writing_replaces_the_file_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h200/observed_heuristics_h200.json");
    let mut document = example();
    document.write_atomically(&path).unwrap();
    document.description = "again".to_owned();
    document.write_atomically(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), document.to_canonical_json());
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    let error = document.write_atomically(&path.join("below_a_file.json")).unwrap_err().to_string();
    assert!(error.contains("below_a_file.json"), "{error}");
}
