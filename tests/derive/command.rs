//! `sweep derive` from outside.

use super::trials::{config, finalist, header};
use assert_cmd::Command;
use kernel_sweep::journal::{Journal, Line};
use kernel_sweep::model::{Config, Family};
use predicates::str::contains;
use serde_json::Value;

#[test]
fn the_edges_of_the_space_are_shown_beside_what_became_of_each_class() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = Journal::open(&folder.path().join("output/cpu/journal/elementwise.jsonl"), false).unwrap();
    let mut lines = vec![Line::Header(header())];
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
