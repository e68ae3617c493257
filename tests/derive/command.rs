//! `sweep derive` from outside.

use super::trials::{config, finalist, header};
use assert_cmd::Command;
use kernel_sweep::journal::{Header, Journal, Line};
use kernel_sweep::model::{Config, Family};
use predicates::str::contains;
use serde_json::Value;
use std::fs;

#[test]
fn the_edges_of_the_space_are_shown_beside_what_became_of_each_class() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(&folder.path().join("output/cpu/journal/elementwise.jsonl"), false).unwrap();
    let mut lines = vec![Line::Header(Header { gpu: "Some processor".into(), nvrtc: String::new(), ..header() })];
    for (block, us) in [(1024, 30.0), (65_536, 20.0), (1_048_576, 10.0)] {
        let config = Config { num_warps: Some(2), ..config(block) };
        lines.push(Line::Trial(Box::new(finalist(Family::Elementwise, "numel=4194304", &config, us))));
    }
    journal.append(&lines).unwrap();
    let sweep = || {
        let mut command = Command::cargo_bin("sweep").unwrap();
        command.current_dir(folder.path()).args(["derive", "--gpu", "cpu"]);
        command
    };
    let run = sweep().args(["--json", "-v"]).assert().success().stderr(contains("best at last"));
    let report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(report["classes"][0]["class"], "elementwise");
    assert!(folder.path().join(report["document"].as_str().unwrap()).is_file());
    let edges = report["edges"].as_array().unwrap();
    let block = edges.iter().find(|axis| axis["axis"] == "block_sizes").unwrap();
    assert_eq!(
        (&block["family"], &block["space"], &block["problems"]),
        (&"elementwise".into(), &"cpu".into(), &1.into())
    );
    assert_eq!((&block["last"]["winners"], &block["last"]["clear"]), (&1.into(), &1.into()));
    assert_eq!(block["first"]["winners"], 0);
    sweep().assert().success().stdout("");
}

#[test]
fn a_journal_of_another_device_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(&folder.path().join("elementwise.jsonl"), false).unwrap();
    let trial = finalist(Family::Elementwise, "numel=4194304", &config(1024), 10.0);
    journal.append(&[Line::Header(header()), Line::Trial(Box::new(trial))]).unwrap();
    let derive = |gpu| {
        let mut command = Command::cargo_bin("sweep").unwrap();
        command.current_dir(folder.path()).args(["derive", "--gpu", gpu, "--from", "elementwise.jsonl"]);
        command.assert()
    };
    for gpu in ["h100", "cpu"] {
        let reason = format!("elementwise.jsonl: measured on NVIDIA H200 (h200), so it says nothing of {gpu}");
        derive(gpu).code(2).stderr(contains(reason));
    }
    derive("h200").success();
    derive("../h200").code(2).stderr(contains("is no GPU's short name"));
}

#[test]
fn a_class_that_nothing_works_for_stays_as_it_was_in_the_document() {
    let folder = tempfile::tempdir().unwrap();
    let derive = |time: &str| {
        let features = r#"{""arg0_dim0"":16,""arg0_dim1"":4096,""arg1_dim1"":4096,""arg0_dtype"":""torch.bfloat16""}"#;
        let row = format!(r#"matmul,s0,c0,"{{""block_sizes"":[16,64,64]}}","{features}",{time}"#);
        let text = format!("kernel_name,shape_hash,config_hash,config,shape_features,timing_ms\n{row}\n");
        fs::write(folder.path().join("m.csv"), text).unwrap();
        let mut command = Command::cargo_bin("sweep").unwrap();
        command.current_dir(folder.path()).args(["derive", "--gpu", "b200", "--from", "m.csv"]);
        command.assert()
    };
    let document = || fs::read_to_string(folder.path().join("output/b200/observed_heuristics_b200.json")).unwrap();
    derive("0.5").success();
    let before = document();
    derive("inf").code(4).stderr(contains("nothing to serve: what the document had of it stays"));
    assert_eq!(document(), before);
}
