//! A plan in shards, each with a journal of its own, merged by `sweep derive`.

use crate::common::{self, TINY, sweep};
use predicates::str::contains;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Five problems of one bucket, one of them twice, and one of another. The default, which is in every final, is not among the axes:
/// with a default of its own each shard has a finalist that no other can have met, whatever the host's clock says.
const PLAN: &str = r#"
[space.cpu]
default = { block_sizes = [DEFAULT], num_warps = 1, reduction_loops = ["whole"] }
[space.cpu.axes]
block_sizes = [[16, 32, 64]]
num_warps = [1]
reduction_loops = [["whole"], [4096]]
[[space.cpu.problem]]
rows = 256
cols = 300
[[space.cpu.problem]]
rows = 200
cols = 300
[[space.cpu.problem]]
rows = 256
cols = 300
[[space.cpu.problem]]
rows = 128
cols = 400
[[space.cpu.problem]]
rows = 64
cols = 260
[[space.cpu.problem]]
rows = 300
cols = 270
[[space.cpu.problem]]
rows = 600
cols = 300
"#;

const SHARDS: usize = 4;

fn run_shard(folder: &Path, index: usize) -> Value {
    fs::write(folder.join("plan.toml"), PLAN.replace("DEFAULT", &(1 + index).to_string())).unwrap();
    let output = sweep(folder).args(TINY).args(["--json", "--shard", &format!("{index}/{SHARDS}")]).assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

fn trials(folder: &Path, index: usize) -> Vec<Value> {
    common::trials(&folder.join(format!("output/cpu/journal/row_softmax.shard-{index}-of-{SHARDS}.jsonl")))
}

#[test]
fn shards_are_disjoint_cover_the_plan_cross_all_finalists_and_merge() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for index in 0..SHARDS {
        let summary = run_shard(folder, index);
        assert!(summary["document"].is_null(), "{summary}");
    }
    let first_round: Vec<Vec<Value>> = (0..SHARDS).map(|index| trials(folder, index)).collect();
    // Once more, now that all finals are there.
    let mut crossed = 0;
    for (index, before) in first_round.iter().enumerate() {
        run_shard(folder, index);
        let after = trials(folder, index);
        assert_eq!(&after[..before.len()], &before[..], "a shard that ran before goes on where it was");
        assert!(after[before.len()..].iter().all(|trial| trial["stage"] == "cross"));
        crossed += after.len() - before.len();
    }
    assert!(crossed > 0, "the shards know nothing of each other's finalists");
    assert!(!folder.join("output/cpu/observed_heuristics_cpu.json").exists(), "a shard makes no document");

    let mut home: BTreeMap<String, usize> = BTreeMap::new();
    let mut winners: BTreeSet<String> = BTreeSet::new();
    let mut tried: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for index in 0..SHARDS {
        let trials = trials(folder, index);
        common::assert_nothing_tried_twice(&trials);
        for trial in trials {
            let problem = trial["problem"].to_string();
            let config = trial["config"].to_string();
            assert_eq!(*home.entry(problem.clone()).or_insert(index), index, "{problem} is in two shards");
            if trial["stage"] == "final" || trial["stage"] == "cross" {
                tried.entry(problem).or_default().insert(config.clone());
            }
            // A final's duplicate is its winner's.
            if trial["stage"] == "final" && trial["null_arm"] == true && trial["problem"]["rows"] != 600 {
                winners.insert(config);
            }
        }
    }
    assert!(!winners.is_empty());
    assert_eq!(home.len(), 6, "every problem of the plan is in a shard: {home:?}");
    for (problem, configs) in tried.iter().filter(|(problem, _)| !problem.contains("600")) {
        assert!(configs.is_superset(&winners), "{problem} lacks winners of its bucket");
    }

    sweep(folder).args(["derive", "--gpu", "cpu"]).assert().success().stderr(contains("6 problems in 2 buckets"));
    sweep(folder).args(["archive", "--gpu", "cpu"]).assert().success().stderr(contains("row_softmax.jsonl.zst"));
    let document = folder.join("output/cpu/observed_heuristics_cpu.json");
    let merged = fs::read(&document).unwrap();
    fs::remove_file(&document).unwrap();
    let archive = "output/cpu/archive/row_softmax.jsonl.zst";
    sweep(folder).args(["derive", "--gpu", "cpu", "--from", archive]).assert().success();
    assert_eq!(fs::read(&document).unwrap(), merged, "the archive holds all shards");
}
