//! The command line from outside, on the cpu device.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use assert_cmd::cargo::CommandCargoExt;
use common::{ENDLESS, SOME, TINY, folder_with_plan, plan_with, sweep, trials, wait_for};
use kernel_sweep::device;
use kernel_sweep::model::GpuProfile;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use tempfile::TempDir;

fn journal_lines(folder: &TempDir) -> Vec<Value> {
    common::journal_lines(&folder.path().join("output/cpu/journal/row_softmax.jsonl"))
}

#[test]
fn a_sweep_writes_journal_and_document_and_lookup_answers_from_it() {
    let folder = folder_with_plan();
    let output = sweep(folder.path()).args(TINY).arg("--json").assert().success();
    let summary: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(summary["gpu"], "cpu");
    assert!(summary["statuses"]["ok"].as_u64().unwrap() >= 8, "{summary}");
    assert!(summary["verified_per_s"].as_f64().unwrap() > 0.0);

    let lines = journal_lines(&folder);
    assert_eq!(lines[0]["kind"], "header");
    assert_eq!(lines[0]["protocol"], "cold-l2/2");
    for line in &lines[1..] {
        assert_eq!(line["kind"], "trial");
        assert_eq!(line["status"], "ok", "{line}");
        assert!(line["median_us"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["rel_err"].as_f64().unwrap() <= 1e-2, "{line}");
    }
    let finals = lines.iter().filter(|line| line["stage"] == "final");
    assert!(finals.clone().any(|line| line["null_arm"] == true));

    let document = fs::read_to_string(folder.path().join("output/cpu/observed_heuristics_cpu.json")).unwrap();
    assert!(document.ends_with("}\n"));
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["schema_version"], 2);
    let groups: Vec<_> = document["fallbacks"]["row_softmax"].as_object().unwrap().keys().collect();
    assert_eq!(groups, ["narrow", "short", "square", "wide"]);

    // A sweep says what to do next, and that does it.
    let again = sweep(folder.path()).args(TINY).assert().success();
    let said = String::from_utf8_lossy(&again.get_output().stderr).into_owned();
    let next: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("next: ")).collect();
    assert_eq!(next.len(), 2, "{said}");
    for command in next {
        let arguments = command.trim_start_matches("next:").split_whitespace().skip(1);
        sweep(folder.path()).args(arguments).assert().success();
    }
    assert!(folder.path().join("report.html").is_file());

    sweep(folder.path())
        .args(["lookup", "--gpu", "cpu", "--family", "row_softmax", "--shape", "rows=256,cols=300"])
        .assert()
        .success()
        .stdout(contains("block_sizes"));
}

#[test]
fn a_page_shows_what_a_sweep_left_behind() {
    let folder = folder_with_plan();
    sweep(folder.path()).args(TINY).assert().success();
    let report = || {
        sweep(folder.path()).args(["report", "--gpu", "cpu", "-o", "page.html"]).assert().success();
        fs::read_to_string(folder.path().join("page.html")).unwrap()
    };
    let page = report();
    assert_eq!(page.matches("r=\"2\" data-t=").count(), 2, "the winners of both problems");
    assert!(
        page.contains("rows=256,cols=300 bf16\n") && page.contains("rows=600,cols=300 f32\n"),
        "a family of two types"
    );
    assert!(page.contains("<h4>block_sizes</h4>") && page.contains("<h4>reduction_loops</h4>"));
    assert!(page.contains(" in 1 run, the devices busy") && page.contains("trials were verified and timed"));
    sweep(folder.path()).args(TINY).assert().success();
    assert!(report().contains(" in 2 runs, the devices busy"));
    sweep(folder.path()).args(TINY).arg("--fresh").assert().success();
    assert!(report().contains(" in 1 run, the devices busy"));
}

#[test]
fn a_finished_sweep_run_again_measures_nothing_and_leaves_the_document_as_it_is() {
    let folder = folder_with_plan();
    sweep(folder.path()).args(TINY).assert().success();
    let document = folder.path().join("output/cpu/observed_heuristics_cpu.json");
    let (lines, before) = (journal_lines(&folder).len(), fs::read(&document).unwrap());
    sweep(folder.path()).args(TINY).assert().success().stderr(contains("nothing new"));
    assert_eq!(journal_lines(&folder).len(), lines);
    assert_eq!(fs::read(&document).unwrap(), before);
    fs::remove_file(&document).unwrap();
    sweep(folder.path()).args(["derive", "--gpu", "cpu", "--plan", "plan.toml"]).assert().success();
    assert_eq!(fs::read(&document).unwrap(), before, "the same journal and plan give the same bytes");
}

/// Of a space that no search tries as a whole, what was measured by then has another run look elsewhere first.
#[test]
fn a_finished_problem_is_not_searched_again_by_whoever_knows_more() {
    let folder = folder_with_plan();
    let wide = common::PLAN
        .replace("[[8, 64]]", "[[1, 2, 4, 8, 16, 32, 64, 128]]")
        .replace(r#"[["whole"], [64]]"#, r#"[["whole"], [16], [32], [48], [64], [96], [128], [160], [192], [256]]"#);
    fs::write(folder.path().join("plan.toml"), wide).unwrap();
    sweep(folder.path()).args(TINY).assert().success();
    let lines = journal_lines(&folder);
    for rows in [256, 600] {
        let of_problem = lines[1..].iter().filter(|line| line["problem"]["rows"] == rows);
        let configs: BTreeSet<_> = of_problem.map(|line| line["config"].to_string()).collect();
        assert!((20..80).contains(&configs.len()), "{} of 80 configs", configs.len());
    }
    let output = sweep(folder.path()).args(TINY).arg("--json").assert().success();
    let summary: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(summary["statuses"], json!({}), "nothing is measured again");
    assert_eq!(journal_lines(&folder), lines);
    let made = lines[1..].iter().filter(|line| line["null_arm"] != true).count();
    assert_eq!(summary["resumed"].as_u64().unwrap() as usize, made);
    // A default that has not raced yet makes its problems open again.
    let plan = fs::read_to_string(folder.path().join("plan.toml")).unwrap();
    let another = plan.replace("default = { block_sizes = [64]", "default = { block_sizes = [3]");
    fs::write(folder.path().join("plan.toml"), another).unwrap();
    sweep(folder.path()).args(TINY).assert().success();
    let new = journal_lines(&folder).split_off(lines.len());
    let races = new.iter().filter(|line| line["null_arm"] == true).count();
    assert_eq!(races, 2, "each problem has another final");
}

#[test]
fn trials_of_a_kernel_that_changed_since_are_left_out_of_the_document() {
    let folder = folder_with_plan();
    sweep(folder.path()).args(TINY).assert().success();
    let output = folder.path().join("output/cpu");
    let before = fs::read(output.join("observed_heuristics_cpu.json")).unwrap();
    // As if the slowest finalist had once been a kernel that took no time.
    let lines = journal_lines(&folder);
    let finals = lines.iter().filter(|line| line["stage"] == "final" && line["null_arm"] != true);
    let time = |line: &&Value| line["median_us"].as_f64().unwrap();
    let mut old = finals.max_by(|one, other| time(one).total_cmp(&time(other))).unwrap().clone();
    for figure in ["time_us", "median_us", "q1_us", "q3_us", "min_us"] {
        old[figure] = 0.001.into();
    }
    old["rounds_us"] = vec![0.001; 8].into();
    old["kernel"] = "ffffffffffffffff".into(); // of two trials alike, the last in order counts
    let journal = output.join("journal/row_softmax.jsonl");
    fs::write(&journal, fs::read_to_string(&journal).unwrap() + &format!("{old}\n")).unwrap();
    sweep(folder.path()).args(TINY).assert().success().stderr(contains("nothing new"));
    assert_eq!(fs::read(output.join("observed_heuristics_cpu.json")).unwrap(), before);
}

#[test]
fn fresh_starts_over_and_keeps_the_old_journal() {
    let folder = folder_with_plan();
    sweep(folder.path()).args(TINY).assert().success();
    let journals = folder.path().join("output/cpu/journal");
    let old = fs::read(journals.join("row_softmax.jsonl")).unwrap();
    sweep(folder.path()).args(TINY).arg("--fresh").assert().success();
    let files = fs::read_dir(&journals).unwrap().map(|entry| entry.unwrap().path());
    let (new, aside): (Vec<_>, Vec<_>) = files.partition(|path| path.ends_with("row_softmax.jsonl"));
    assert_eq!((new.len(), aside.len()), (1, 1));
    assert_eq!(fs::read(&aside[0]).unwrap(), old);
    assert!(journal_lines(&folder).len() > 2 && !fs::read(&new[0]).unwrap().starts_with(&old));
}

/// Starts a sweep of the plan with so many problems more, and waits until it has measured something.
fn started(folder: &Path, more: u32) -> Child {
    fs::write(folder.join("plan.toml"), plan_with(more)).unwrap();
    let mut command = std::process::Command::cargo_bin("sweep").unwrap();
    let child = command.current_dir(folder).args(TINY).arg("-q").stderr(Stdio::piped()).spawn().unwrap();
    let journal = folder.join("output/cpu/journal/row_softmax.jsonl");
    wait_for("the sweep to measure", || trials(&journal).len() >= 12);
    child
}

#[test]
fn a_killed_sweep_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = started(folder.path(), SOME);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = journal_lines(&folder);
    let output = sweep(folder.path()).args(TINY).arg("--json").assert().success();
    let summary: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    // A race is journaled at once, its null arm last: one that the kill cut in two is run again.
    let of_race = |line: &&Value| line["stage"] == "final" && line["null_arm"] != true;
    let cut = before.iter().rev().take_while(of_race).count();
    // A null arm stands for itself and is not asked for again.
    let asked = before[1..before.len() - cut].iter().filter(|line| line["null_arm"] != true).count();
    assert_eq!(summary["resumed"].as_u64().unwrap() as usize, asked);
    let mut lines = journal_lines(&folder);
    assert_eq!(lines[..before.len()], before);
    lines.drain(before.len() - cut..before.len());
    assert!(lines[1..].iter().all(|line| line["kind"] == "trial"), "one header");
    let problems: BTreeSet<_> =
        lines[1..].iter().map(|line| format!("{} {}", line["problem"], line["dtype"])).collect();
    assert_eq!(problems.len(), 2 + SOME as usize);
    common::assert_nothing_tried_twice(&lines[1..]);
}

#[test]
fn an_interrupt_ends_with_130_and_keeps_what_was_measured() {
    let folder = tempfile::tempdir().unwrap();
    let child = started(folder.path(), ENDLESS);
    let interrupted = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("everything measured is in the journal"));
    assert!(journal_lines(&folder).len() > 5);
}

#[test]
fn a_second_sweep_of_one_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = started(folder.path(), ENDLESS);
    sweep(folder.path()).args(TINY).assert().failure().stderr(contains("another sweep is writing it"));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_gpu_that_is_not_here_is_never_replaced_silently() {
    let folder = tempfile::tempdir().unwrap();
    let here = device::discover();
    let is_absent = |gpu: &String| here.iter().all(|found| found.profile.name != *gpu);
    let gpu = GpuProfile::known().into_iter().map(|profile| profile.name).find(is_absent).unwrap();
    let message = format!("no {gpu} on this machine; here:");
    sweep(folder.path())
        .args(["--gpu", &gpu, "--family", "elementwise"])
        .assert()
        .code(3)
        .stderr(contains(message).and(contains(format!("sweep compile --gpu {gpu}"))));
    assert!(!folder.path().join("output").exists());
}

fn refused(arguments: &[&str], message: &str) {
    let folder = folder_with_plan();
    let output = sweep(folder.path()).args(arguments).assert().code(2).stderr(contains(message));
    let stderr = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert_eq!(stderr.lines().filter(|line| line.starts_with("error")).count(), 1, "{stderr}");
}

#[test]
fn an_unknown_family_is_answered_with_the_nearest() {
    refused(&["--family", "matmul_pf4"], "did you mean 'matmul_fp4'?");
}

#[test]
fn wrong_flags_are_refused() {
    refused(&["--gpu", "b2000"], "'b2000' is no GPU this tool knows");
    refused(&["--budget", "soon"], "'soon' is no time such as 90s, 10m, 5m30s or 1.5h");
    refused(&["--shard", "4/4"], "'4/4' is no shard I/N");
    refused(&["--devices", "first"], "--devices 'first'");
    refused(&["--devices", "0,1,0"], "names device 0 twice");
    refused(&["--family", "all", "--plan", "plan.toml"], "--plan is the plan of one family");
}

#[test]
fn an_output_folder_that_cannot_be_used_is_named() {
    let folder = folder_with_plan();
    fs::write(folder.path().join("taken"), "a file").unwrap();
    sweep(folder.path())
        .args(TINY)
        .args(["--output", "taken"])
        .assert()
        .code(2)
        .stderr(contains("output folder taken"));
}

/// A plan with one mistake is refused with its file and line.
fn refused_plan(family: &str, plan: &str, message: &str) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wrong.toml"), plan).unwrap();
    sweep(folder.path())
        .args(["--gpu", "cpu", "--family", family, "--plan", "wrong.toml"])
        .assert()
        .code(2)
        .stderr(contains(message));
}

#[test]
fn mistakes_in_plans_are_named_with_their_line() {
    let space = "\n[space.cpu]\ndefault = { block_sizes = [8], num_warps = 1 }\naxes = { block_sizes = [[8]], num_warps = [1] }\n";
    let plan = |problem: &str| format!("[[problem]]\n{problem}\n{space}");
    refused_plan("matmul_fp4", &plan("m = 1\nn = 4\nk = 7"), "wrong.toml:1: dimension k = 7");
    refused_plan("matmul_fp4", &plan("m = 0\nn = 4\nk = 8"), "wrong.toml:1: dimension m = 0: it must be positive");
    refused_plan("matmul_fp4", &plan("m = -3\nn = 4\nk = 8"), "wrong.toml:1: dimension m = -3");
    refused_plan("matmul_fp4", &plan("m = 1\nn = 4"), "wrong.toml:1: matmul_fp4 needs dimension 'k'");
    refused_plan("elementwise", &plan("rows = 1"), "wrong.toml:1: elementwise has no dimension 'rows'");
    refused_plan(
        "elementwise",
        &plan("numel = 9\ndtype = \"fp8\""),
        "wrong.toml:1: elementwise comes in bf16 and f16 and f32 only, not fp8",
    );
    refused_plan("elementwise", "[[problem]]\nnumel = 9\n[space.gpu]\n", "wrong.toml:3");
    refused_plan(
        "elementwise",
        "[[problem]]\nnumel = 9\n[space.cpu]\ndefault = { block_sizes = [8], warps = 1 }\naxes = { block_sizes = [[8]] }\n",
        "wrong.toml:4: unknown field 'warps'",
    );
    refused_plan(
        "elementwise",
        "[[problem]]\nnumel = 9\n[space.cpu]\ndefault = { block_sizes = [8], num_warps = -1 }\naxes = { block_sizes = [[8]] }\n",
        "wrong.toml:4: config: invalid value",
    );
    refused_plan("elementwise", "[[problem]\n", "wrong.toml:1");
    refused_plan("elementwise", "budget = 3\n", "wrong.toml:1: unknown field `budget`");
}

#[test]
fn a_sweep_goes_on_from_an_archive() {
    let folder = folder_with_plan();
    let folder = folder.path();
    let archive = |more: &[&str]| sweep(folder).args(["archive", "--gpu", "cpu"]).args(more).assert();
    archive(&["--unpack"]).code(2).stderr(contains("no archive in output/cpu/archive"));
    sweep(folder).args(TINY).assert().success();
    archive(&[]).success();
    archive(&["--unpack"]).code(2).stderr(contains("is there already"));
    let journal = folder.join("output/cpu/journal/row_softmax.jsonl");
    let before = trials(&journal);
    fs::remove_file(&journal).unwrap();
    archive(&["--unpack"]).success();
    assert_eq!(trials(&journal), before);
    let again = sweep(folder).args(TINY).arg("--json").assert().success();
    let summary: Value = serde_json::from_slice(&again.get_output().stdout).unwrap();
    assert_eq!((trials(&journal), &summary["statuses"]), (before, &json!({})));
}
