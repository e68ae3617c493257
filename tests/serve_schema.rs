//! The JSON Schema of the document, committed beside the documents it describes.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "harness")]

use kernel_sweep::heuristics::Document;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schema() -> Value {
    serde_json::to_value(schemars::schema_for!(Document)).unwrap()
}

fn errors(document: &Value) -> Vec<String> {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    validator.iter_errors(document).map(|error| format!("{} at {}", error, error.instance_path)).collect()
}

fn check(path: &Path) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let problems = errors(&serde_json::from_str(&text).unwrap());
    assert!(problems.is_empty(), "{}: {problems:?}", path.display());
}

/// Run with `UPDATE_SCHEMA=1` to write the file anew.
#[test]
fn the_committed_schema_is_current() {
    let path = root().join("output/observed_heuristics.schema.json");
    let text = format!("{:#}\n", schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, text, "run this test with UPDATE_SCHEMA=1 and commit {}", path.display());
}

#[test]
fn committed_documents_and_the_reference_are_valid() {
    let reference = root().join("../shared/reference/observed_heuristics_b200.json");
    check(&std::env::var_os("KERNEL_SWEEP_REFERENCE").map_or(reference, PathBuf::from));
    for folder in std::fs::read_dir(root().join("output")).unwrap().flatten() {
        let gpu = folder.file_name().into_string().unwrap();
        check(&folder.path().join(format!("observed_heuristics_{gpu}.json")));
    }
}

#[test]
fn what_this_crate_writes_is_valid_and_what_is_broken_is_not() {
    let template = json!({"template": {"block_sizes": [16, 64, 64]}, "win_count": 3, "geomean_slowdown": 1.02});
    let rule = json!({"kernel_class": "x", "shape_bucket": {"dtype": "int"}, "templates": [template]});
    let fallbacks = json!({"matmul": {"rect": {"template": {}}}});
    let document = json!({"schema_version": 2, "rules": [rule], "fallbacks": fallbacks, "more": 1});
    let written = Document::from_value(document.clone()).unwrap().to_canonical_json();
    assert_eq!(errors(&serde_json::from_str(&written).unwrap()), [""; 0]);
    assert_eq!(errors(&document), [""; 0]);
    for (pointer, broken) in [
        ("/schema_version", json!(3)),
        ("/rules/0/kernel_class", json!(null)),
        ("/rules/0/shape_bucket/dtype", json!(7)),
        ("/rules/0/templates/0/template", json!("flat")),
        ("/rules/0/templates/0/win_count", json!("many")),
        ("/fallbacks/matmul/rect/template", json!(null)),
    ] {
        let mut changed = document.clone();
        *changed.pointer_mut(pointer).unwrap() = broken;
        assert!(!errors(&changed).is_empty(), "{pointer} may be {changed}");
    }
}
