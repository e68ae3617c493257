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
fn what_a_model_weighs_is_told_for_people_and_for_programs() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/observed_heuristics_model.json");
    let asked = |shape: &str, more: &[&str]| {
        let family = ["--heuristics", document, "--family", "matmul", "--shape", shape];
        lookup().args(family).args(more).assert().success()
    };
    asked("m=16,n=4096,k=4096", &["--explain"]).stdout(
        contains("measured, 2 configs, best first, 17.98, 18.30 us")
            .and(contains("group     small_m, rows aligned"))
            .and(contains("measured  2 configs, 17.98, 18.30 us measured, 11.55, 11.55 us expected"))
            .and(contains(
                "rule 0    2 configs, 11.55, 11.55 us expected, regret 1.0100 (p90 1.060, max 1.210) on 9 problems",
            ))
            .and(contains("model     3 configs, 11.55, 11.55, 14.11 us expected, regret 1.0300"))
            .and(contains("fallback  1 config, 11.55 us expected, regret unknown"))
            .and(contains("chosen    measured: measured for this very shape and type")),
    );
    asked("m=15,n=4095,k=4001", &["--explain"]).stdout(
        contains("model, 2 configs")
            .and(contains("fallback  nothing, 1 that cannot run this shape"))
            .and(contains("chosen    model: those with less regret hold no config that can run this shape")),
    );
    asked("m=16,n=4096,k=4096", &["--explain", "--dtype", "f16"])
        .stdout(contains("rule 0, 2 configs").and(contains("the model is not asked: it knows m, n, k of bf16")));
    let output = asked("m=15,n=4096,k=4104", &["--explain", "--json"]).get_output().stdout.clone();
    let answer: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(
        (&answer["source"], &answer["rule_index"], &answer["aligned"]),
        (&json!("model"), &Value::Null, &json!(true))
    );
    assert_eq!(answer["predicted_us"].as_array().unwrap().len(), answer["templates"].as_array().unwrap().len());
    let sources: Vec<_> = answer["considered"].as_array().unwrap().iter().map(|one| one["source"].clone()).collect();
    assert_eq!(sources, ["measured", "model", "fallback"]);
    assert_eq!(answer["why"], "the least regret on problems of small_m with aligned rows that were left out");
    let plain = asked("m=16,n=4096,k=4096", &["--json"]).get_output().stdout.clone();
    let plain: Value = serde_json::from_slice(&plain).unwrap();
    assert_eq!((&plain["measured_us"], plain.get("why")), (&json!([17.98, 18.3]), None));
}

#[test]
fn a_family_without_bf16_is_asked_in_its_own_type() {
    let shape = "m=16,n=4096,k=4096";
    let asked = |family: &str, more: &[&str]| {
        lookup().args(["--gpu", "h200", "--family", family, "--shape", shape]).args(more).assert()
    };
    asked("matmul_fp8", &[])
        .success()
        .stdout(contains(format!("matmul_fp8 {shape} fp8: ")).and(contains("block_sizes")));
    asked("matmul", &[]).success().stdout(contains(format!("matmul {shape} bf16: ")));
    asked("matmul", &["--dtype", "torch.half"]).success().stdout(contains(format!("matmul {shape} torch.half: ")));
    asked("matmul_fp8", &["--dtype", "bf16"]).failure().code(2).stderr(contains("matmul_fp8 does not run bf16"));
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
        (
            &["--family", "matmul", "--shape", "m=4,n=2,k=2", "--dtype", "torch.bfloat17"],
            "'torch.bfloat17' is no data type",
        ),
        (&["--family", "matmul", "--shape", "m=4,n=2,k=2", "--dtype", "xfloat16y"], "'xfloat16y' is no data type"),
        (&["--family", "matmul", "--shape", "m=4,n=2,k=2", "--dtype", ""], "'' is no data type"),
        (&["--family", "matmul", "--shape", "m=4,n=2,k=2", "--dtype", "f32"], "matmul does not run f32"),
        (&["--family", "matmul_fp4", "--shape", "m=4,n=2,k=2", "--dtype", "fp8"], "matmul_fp4 does not run fp8"),
        (&["--family", "row_softmax", "--shape", "rows=4,cols=2", "--dtype", "int8"], "one of bf16, f16, f32"),
        (&["--family", "conv2d", "--dtype", "bf16"], "conv2d does not run bf16"),
        (&["--family", "conv2d", "--dtype", "f32", "--shape", "m=4"], "no dimension 'm'"),
        (&["--family", "matmul", "--shape", "m=4.0,n=2,k=2"], "'4.0' is not an integer"),
        (&["--family", "matmul", "--shape", "m=9223372036854775808,n=2,k=2"], "m = '9223372036854775808'"),
        (&["--family", "matmul", "--shape", "m=9223372036854775807,n=2,k=2"], "more elements than 64 bits can count"),
        (&["--family", "matmul", "--shape", "m=4,n=2,k=2,cols=2"], "no dimension 'cols'"),
        (&["--family", "matmul", "--shape", "m=4,n=2,k=2", "--check"], "--batch"),
        (&["--batch", "/nowhere.jsonl"], "/nowhere.jsonl"),
    ] {
        let stderr = asked(arguments).failure().code(2).stdout("").get_output().stderr.clone();
        let stderr = String::from_utf8(stderr).unwrap();
        if arguments.contains(&"--check") {
            continue; // clap's own words, in a few lines
        }
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
    // Slices of it, and others of that name, are other devices.
    let slice = with("NVIDIA H200 MIG 1g.18gb").code(2).stdout("");
    slice.stderr(contains("no built-in heuristics for 'NVIDIA H200 MIG 1g.18gb'").and(contains("another device")));
    with("NVIDIA H100 PCIe").code(2).stderr(contains("that of h100 was measured on NVIDIA H100 80GB HBM3"));
    let mut of_slice: Value = serde_json::from_slice(&std::fs::read(EXAMPLE).unwrap()).unwrap();
    for (device, is_served) in [("NVIDIA H200", false), ("NVIDIA H200 MIG 1g.18gb", true)] {
        of_slice["policy"]["device"] = device.into();
        let path = folder.path().join("out/h200_mig_1g_18gb/observed_heuristics_h200_mig_1g_18gb.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, of_slice.to_string()).unwrap();
        let asked = with("NVIDIA H200 MIG 1g.18gb");
        if is_served {
            asked.success().stdout(contains("rule 1"))
        } else {
            asked.code(2).stderr(contains("of another device"))
        };
    }
    with("h200_mig_1g_18gb").success().stdout(contains("rule 1"));
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

#[test]
fn a_checked_batch_refuses_what_fits_nothing_and_goes_on() {
    let query = |weights: [i64; 2], dtype: &str| {
        json!({"args": [{"shape": [16, 4096], "dtype": dtype}, {"shape": weights, "dtype": "torch.int8"}],
            "kernel_class": "matmul_fp4"})
        .to_string()
    };
    let good = query([2048, 4096], "torch.bfloat16");
    let bad = [query([4096, 2048], "torch.bfloat16"), query([2048, 4096], "torch.bfloat17"), "nonsense".to_owned()];
    let asked = |lines: &str, checked: &[&str]| {
        lookup().args(["--heuristics", EXAMPLE, "--batch"]).args(checked).write_stdin(lines.to_owned()).assert()
    };
    let lines = format!("{good}\n{}\n{good}\n", bad.join("\n"));
    let output = asked(&lines, &["--check"]).code(2).stderr(contains("3 of 5 queries were refused"));
    let text = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((answers.len(), &answers[4]), (5, &answers[0]));
    assert_eq!(answers[0]["rule_index"], 1);
    for (answer, expected) in answers[1..4].iter().zip(["it would fit transposed", "is no data type", "not a query"]) {
        assert_eq!(answer.as_object().unwrap().len(), 1);
        assert!(answer["error"].as_str().unwrap().contains(expected), "{answer}");
    }
    asked(&lines, &[]).success();
    asked(&good, &["--check"]).success();
}
