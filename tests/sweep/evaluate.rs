//! `sweep evaluate` from outside, on the cpu device, and the shapes it is to be asked.

use crate::common::{self, folder_with_plan, sweep};
use kernel_sweep::heuristics::group_of;
use kernel_sweep::model::{Bytes, Family, GpuProfile, Problem};
use kernel_sweep::plan::{Alignment, Limits, Plan, Purpose, draw, read_shapes};
use predicates::prelude::*;
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
        assert!((figure("regret").ln() - figure("ln_regret")).abs() < 1e-9 && figure("noise") >= 0.005, "{problem}");
        let bound = |side: usize| problem["ln_regret_interval"][side].as_f64().unwrap();
        assert!(bound(0) <= figure("ln_regret") && figure("ln_regret") <= bound(1), "{problem}");
        assert!(figure("pick_us") > 0.0 && figure("best_us") > 0.0 && figure("over_default") > 0.0, "{problem}");
        assert!(problem["pick"]["block_sizes"].is_array());
    }
    let overall = &report["overall"];
    assert_eq!((&overall["problems"], &overall["failed"]), (&2.into(), &0.into()));
    assert!(overall["geomean"].as_f64().unwrap() <= overall["max"].as_f64().unwrap());
    assert_eq!(report["by_family"]["row_softmax"], *overall);
    assert_eq!(report["by_alignment"]["unaligned"], *overall, "290 and 1025 columns");

    // What is printed is left behind for others to draw, with what each that may answer comes to alone.
    let left: Value = serde_json::from_slice(&fs::read(output.join("evaluation.json")).unwrap()).unwrap();
    assert_eq!(left, report);
    assert_eq!(report["document_sha256"].as_str().unwrap().len(), 64);
    for problem in problems {
        let answers = problem["answers"].as_object().unwrap();
        assert!(answers.contains_key("fallback") && answers["default"]["regret"].as_f64().unwrap() > 0.0, "{problem}");
    }
    sweep(folder.path()).args(["report", "--gpu", "cpu", "-o", "page.html"]).assert().success();
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    for drawn in ["served", "fallback", "default"] {
        assert!(page.contains(&format!("data-t=\"{drawn}: ")), "{drawn}");
    }
    assert!(!page.contains("may be of an earlier one"), "it is of this very document");

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
        assert!(problem["regret"].as_f64().unwrap() > 0.0);
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
fn random_problems_are_of_the_domain_by_the_seed_and_never_of_the_plan() {
    let folder = swept();
    let evaluate = |seed: &str| {
        let asked = ["evaluate", "--gpu", "cpu", "--family", "row_softmax", "--plan", "plan.toml", "--random", "4"];
        let run = sweep(folder.path()).args(asked).args(["--json", "--seed", seed]).assert().success();
        let report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
        let problems = report["problems"].as_array().unwrap().clone();
        assert_eq!(report["overall"]["failed"], 0, "{report}");
        problems.iter().map(|problem| problem["problem"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let problems = evaluate("7");
    assert_eq!((problems.len(), &evaluate("7")), (4, &problems));
    let of_other_types = problems.iter().filter(|problem| !problem.ends_with(" bf16")).count();
    assert_eq!(of_other_types, 1, "users come with all types of the family: {problems:?}");
    let others = evaluate("8");
    assert!(others.iter().all(|problem| !problems.contains(problem)), "{problems:?} {others:?}");

    // A plan that holds what would be drawn: it is passed over.
    let mut plan = common::PLAN.to_string();
    for problem in &problems[..2] {
        let (shape, dtype) = problem.split_once(' ').unwrap();
        plan = format!("{plan}[[space.cpu.problem]]\n{}\ndtype = '{dtype}'\n", shape.replace(',', "\n"));
    }
    fs::write(folder.path().join("plan.toml"), plan).unwrap();
    let beside = evaluate("7");
    assert!(beside.iter().all(|problem| !problems[..2].contains(problem)), "{beside:?}");
}

#[test]
fn problems_come_from_a_file_or_at_random_and_from_one_of_them() {
    let folder = folder_with_plan();
    let evaluate = ["evaluate", "--gpu", "cpu", "--family", "row_softmax"];
    sweep(folder.path()).args(evaluate).assert().code(2).stderr(contains("--shapes").and(contains("--random")));
    let both = ["--random", "3", "--shapes", "shapes.toml"];
    sweep(folder.path()).args(evaluate).args(both).assert().code(2).stderr(contains("cannot be used with"));
    sweep(folder.path()).args(evaluate).args(["--random", "0"]).assert().code(2).stderr(contains("--random"));
}

/// Plans cover the domain with problems that no evaluation draws.
#[test]
fn every_plan_has_a_random_design_that_evaluations_do_not_meet() {
    for family in Family::ALL {
        let plan = Plan::load(family, None).unwrap();
        let gpu = GpuProfile::by_name("h200").unwrap();
        let planned = plan.problems(&gpu).unwrap();
        let random: BTreeSet<Problem> = planned
            .iter()
            .filter(|planned| planned.from.as_deref().is_some_and(|from| from.starts_with("random")))
            .map(|planned| planned.problem)
            .collect();
        assert!(random.len() >= 40, "{family}: {}", random.len());
        let unaligned = random.iter().filter(|problem| Alignment::of(problem) == Alignment::Unaligned).count();
        assert!((0.15..=0.25).contains(&(unaligned as f64 / random.len() as f64)), "{family}: {unaligned}");
        let all: BTreeSet<Problem> = planned.iter().map(|planned| planned.problem).collect();
        assert_eq!(all.len(), planned.len(), "{family}: the design repeats no problem");
        let drawn = draw(family, Purpose::Evaluation, 1, Limits::GPU, all.clone()).take(100);
        assert!(drawn.map(|drawn| drawn.problem).all(|problem| !all.contains(&problem)), "{family}");
    }
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
