//! `sweep evaluate` from outside, on the cpu device, and the shapes it is to be asked.

#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::{folder_with_plan, sweep};
use kernel_sweep::heuristics::group_of;
use kernel_sweep::model::{Bytes, Family, GpuProfile, Problem};
use kernel_sweep::plan::{Plan, read_shapes};
use predicates::str::contains;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// One problem of a group the sweep met, and one of another.
const SHAPES: &str = r#"
[[problem]]
rows = 200
cols = 290
from = "a model"
[[problem]]
rows = 513
cols = 1025
"#;

/// As few elements as two groups allow.
const SMALL: &str = "[[problem]]\nrows = 20\ncols = 30\n[[problem]]\nrows = 513\ncols = 20\n";

/// A folder with a document of the tiny plan.
fn swept() -> TempDir {
    let folder = folder_with_plan();
    fs::write(folder.path().join("shapes.toml"), SHAPES).unwrap();
    sweep(folder.path()).args(common::TINY).assert().success();
    folder
}

const TINY: [&str; 9] =
    ["evaluate", "--gpu", "cpu", "--family", "row_softmax", "--plan", "plan.toml", "--shapes", "shapes.toml"];

#[test]
fn an_evaluation_measures_regret_and_leaves_journal_and_document_alone() {
    let folder = swept();
    let output = folder.path().join("output/cpu");
    let files = ["journal/row_softmax.jsonl", "observed_heuristics_cpu.json"].map(|name| output.join(name));
    let before = files.clone().map(|file| fs::read(file).unwrap());
    let run = sweep(folder.path()).args(TINY).arg("--json").assert().success();
    let report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(before, files.map(|file| fs::read(file).unwrap()));

    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2);
    assert_eq!((&problems[0]["problem"], &problems[0]["from"]), (&"rows=200,cols=290 bf16".into(), &"a model".into()));
    for problem in problems {
        let figure = |name: &str| problem[name].as_f64().unwrap();
        assert!(figure("regret") >= 1.0 && figure("noise") >= 0.005, "{problem}");
        assert!(figure("pick_us") > 0.0 && figure("best_us") > 0.0 && figure("over_default") > 0.0, "{problem}");
        assert!(problem["pick"]["block_sizes"].is_array());
    }
    let overall = &report["overall"];
    assert_eq!((&overall["problems"], &overall["failed"]), (&2.into(), &0.into()));
    assert!(overall["geomean"].as_f64().unwrap() <= overall["max"].as_f64().unwrap());
    assert_eq!(report["by_family"]["row_softmax"], *overall);

    // Its journal holds the race of each problem, in interleaved rounds.
    let journal = fs::read_to_string(output.join("evaluate/row_softmax.jsonl")).unwrap();
    let lines: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kind"], "header");
    assert!(lines.iter().filter(|line| line["null_arm"] == true).count() >= 2);

    // Once more: the search is remembered, the race is run anew, and people can read it.
    let run = sweep(folder.path()).args(TINY).assert().success().stdout(contains("overall"));
    assert!(String::from_utf8_lossy(&run.get_output().stdout).contains("rows=513,cols=1025 bf16"));
    let again = fs::read_to_string(output.join("evaluate/row_softmax.jsonl")).unwrap();
    let added: Vec<Value> = again[journal.len()..].lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!added.is_empty() && added.iter().all(|trial| trial["stage"] == "final"), "{added:?}");
}

#[test]
fn what_is_served_but_cannot_run_gives_way_and_is_named() {
    let folder = swept();
    fs::write(folder.path().join("shapes.toml"), SMALL).unwrap();
    let path = folder.path().join("output/cpu/observed_heuristics_cpu.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    document["rules"] = Value::Array(Vec::new());
    for fallback in document["fallbacks"]["row_softmax"].as_object_mut().unwrap().values_mut() {
        fallback["template"]["block_sizes"] = serde_json::json!([8, 8]);
    }
    fs::write(&path, document.to_string()).unwrap();
    let run = sweep(folder.path()).args(TINY).arg("--json").assert().success();
    let report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    for problem in report["problems"].as_array().unwrap() {
        assert_eq!(
            (&problem["source"], &problem["pick"]["block_sizes"]),
            (&"default".into(), &serde_json::json!([64]))
        );
        assert_eq!(problem["skipped"][0]["source"], "fallback");
        assert!(problem["skipped"][0]["reason"].as_str().unwrap().contains("[8, 8]"), "{problem}");
        assert!(problem["regret"].as_f64().unwrap() >= 1.0);
    }
    assert_eq!(
        (&report["overall"]["served_instead"], &report["by_source"]["default"]["problems"]),
        (&2.into(), &2.into())
    );
    sweep(folder.path()).args(TINY).assert().success().stdout(contains("cannot run"));
}

#[test]
fn a_budget_ends_an_evaluation_and_the_same_command_goes_on() {
    let folder = swept();
    fs::write(folder.path().join("shapes.toml"), SMALL).unwrap();
    let run = sweep(folder.path()).args(TINY).args(["--json", "--budget", "0.000001s"]).assert().success();
    let report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!((&report["overall"]["unfinished"], &report["overall"]["failed"]), (&2.into(), &0.into()));
    assert!(report["problems"][0]["error"].as_str().unwrap().contains("budget"));
    let run = sweep(folder.path()).args(TINY).args(["--json", "--budget", "5m"]).assert().success();
    let report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!((&report["overall"]["unfinished"], &report["overall"]["failed"]), (&0.into(), &0.into()));
}

#[test]
fn problems_of_the_plan_and_documents_that_are_not_there_are_refused() {
    let folder = folder_with_plan();
    fs::write(folder.path().join("shapes.toml"), SHAPES).unwrap();
    sweep(folder.path()).args(TINY).assert().code(2).stderr(contains("run sweep --gpu cpu first"));
    let folder = swept();
    fs::write(folder.path().join("shapes.toml"), "[[problem]]\nrows = 256\ncols = 300\n").unwrap();
    let message = "row_softmax rows=256,cols=300 bf16 is in the plan";
    sweep(folder.path()).args(TINY).assert().code(2).stderr(contains(message));
    fs::write(folder.path().join("shapes.toml"), "[[problem]]\nrows = 256\n").unwrap();
    sweep(folder.path())
        .args(TINY)
        .assert()
        .code(2)
        .stderr(contains("shapes.toml:1: row_softmax needs dimension 'cols'"));
    let all = ["evaluate", "--gpu", "cpu", "--family", "all", "--shapes", "shapes.toml"];
    sweep(folder.path()).args(all).assert().code(2).stderr(contains("a folder that holds <family>.toml for each"));
}

#[test]
fn the_committed_shapes_are_ten_a_family_in_several_groups_and_in_no_plan() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shapes");
    let mut profiles = GpuProfile::known();
    profiles.push(GpuProfile::cpu(2, Bytes::mib(1)));
    for family in Family::ALL {
        let plan = Plan::load(family, None).unwrap();
        let planned: BTreeSet<Problem> = profiles
            .iter()
            .filter_map(|profile| plan.problems(profile).ok())
            .flatten()
            .map(|planned| planned.problem)
            .collect();
        assert!(planned.len() > 20, "{family}");
        let shapes = read_shapes(family, &folder.join(format!("{family}.toml"))).unwrap();
        let distinct: BTreeSet<Problem> = shapes.iter().map(|shape| shape.problem).collect();
        assert!(distinct.len() >= 10 && distinct.len() == shapes.len(), "{family}: {}", distinct.len());
        assert!(shapes.iter().all(|shape| shape.from.is_some()), "{family}: every shape names its model");
        let groups: BTreeSet<_> = distinct.iter().map(group_of).collect();
        assert!(groups.len() >= 3, "{family}: {groups:?}");
        for problem in &distinct {
            assert!(!planned.contains(problem), "{problem} is in the plan");
        }
    }
}
