//! `sweep lookup` as a user meets it.
#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/observed_heuristics_example.json");
const FP4: [&str; 4] = ["--family", "matmul_fp4", "--shape", "m=16,n=4096,k=4096"];

fn lookup() -> Command {
    let mut command = Command::cargo_bin("sweep").unwrap();
    command.arg("lookup");
    command
}

fn asked(arguments: &[&str]) -> assert_cmd::assert::Assert {
    lookup().args(["--heuristics", EXAMPLE]).args(arguments).assert()
}

#[test]
fn one_shape_is_answered_for_people_and_for_programs() {
    let second_config = contains("[16,64,128]");
    asked(&FP4).success().stdout(contains("rule 1, 2 configs, best first").and(second_config));
    let output = asked(&[&FP4[..], &["--json"]].concat()).success().get_output().stdout.clone();
    let answer: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!((&answer["source"], &answer["rule_index"]), (&json!("rule"), &json!(1)));
    assert_eq!(answer["evidence"], json!({"ratio": 0.73}));
    asked(&["--family", "conv2d", "--dtype", "f32"]).success().stdout(contains("rule 2, 1 config"));
    asked(&["--family", "row_norm_rms", "--shape", "rows=4,cols=4"]).success().stdout(contains("none"));
}

#[test]
fn an_explanation_says_what_was_looked_for_and_what_is_nearest() {
    asked(&["--family", "matmul_fp4", "--shape", "m=17,n=4096,k=4096", "--explain"]).success().stdout(
        contains("m_bin <=64, n_bin <=4096")
            .and(contains("rule      none has this bucket"))
            .and(contains("group     small_m, whose fallback answers"))
            .and(contains("nearest   rule 1: m_bin <=16 instead of <=64")),
    );
}

#[test]
fn bad_questions_are_refused_in_one_line() {
    for (arguments, expected) in [
        (&["--family", "matmul_int4", "--shape", "m=1,n=2,k=3"][..], "k = 3"),
        (&["--family", "matmul", "--shape", "m=0,n=2,k=3"], "m = 0"),
        (&["--family", "matmul", "--shape", "m=-4,n=2,k=3"], "m = -4"),
        (&["--family", "matmul", "--shape", "m=4,n=2"], "needs dimension 'k'"),
        (&["--family", "matmul"], "needs dimension 'm'"),
        (&["--family", "mamtul", "--shape", "m=4,n=2,k=2"], "did you mean 'matmul'?"),
        (&["--family", "matmul", "--shape", "m=4,n=2,k=2", "--dtype", "b16"], "'b16' is no data type"),
        (&["--batch", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ] {
        let stderr = asked(arguments).failure().code(2).stdout("").get_output().stderr.clone();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(stderr.contains(expected) && stderr.trim_end().lines().count() == 1, "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_gpu_stands_for_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out/h200/observed_heuristics_h200.json");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::copy(EXAMPLE, &path).unwrap();
    let with = |gpu: &str| lookup().current_dir(&folder).args(["--output", "out", "--gpu", gpu]).args(FP4).assert();
    with("h200").success().stdout(contains("rule 1"));
    with("NVIDIA H200").success().stdout(contains("rule 1"));
    with("h999").code(2).stderr(contains("'h999' is no GPU this tool knows"));
    with("cpu").code(2).stderr(contains("no built-in heuristics for 'cpu'"));
}

#[test]
fn a_batch_is_answered_line_by_line_and_survives_malformed_lines() {
    let fp4 = json!({"args": [{"shape": [16, 4096], "dtype": "torch.bfloat16"}, {"shape": [2048, 4096], "dtype": "torch.int8"}],
        "traits": ["matmul"], "block_rank": 3, "kernel_source": "nvfp4"});
    let queries = format!("{fp4}\nnonsense\n\n{fp4}");
    let output = lookup().args(["--heuristics", EXAMPLE, "--batch"]).write_stdin(queries).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["rule_index"], json!(1));
    assert!(answers[1]["error"].is_string() && answers[2]["error"].is_string());
    assert_eq!(answers[3], answers[0]);
}
