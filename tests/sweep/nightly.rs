//! `sweep nightly` from outside, on the cpu device.

use crate::common::{self, TINY, folder_with_plan, sweep};
use assert_cmd::Command;
use kernel_sweep::heuristics::Document;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(folder_with_plan())
    }

    fn nightly(&self) -> Command {
        let mut command = sweep(self.0.path());
        command.arg("nightly").args(TINY);
        command
    }

    fn output(&self, name: &str) -> PathBuf {
        self.0.path().join("output/cpu").join(name)
    }

    fn document(&self) -> Vec<u8> {
        fs::read(self.output("observed_heuristics_cpu.json")).unwrap()
    }

    /// The lines of the journal by kind.
    fn trials(&self) -> usize {
        fs::read_to_string(self.output("journal/row_softmax.jsonl")).unwrap().lines().count()
    }

    fn nights(&self) -> Vec<PathBuf> {
        let mut nights: Vec<_> =
            fs::read_dir(self.output("nights")).unwrap().map(|entry| entry.unwrap().path()).collect();
        nights.sort();
        nights
    }

    /// Changes the document, or the journal, as a text.
    fn edit(&self, name: &str, change: impl Fn(&str) -> String) {
        let path = self.output(name);
        let text = fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed, "the edit of {name} changes nothing");
        fs::write(path, changed).unwrap();
    }

    /// Makes the document claim that all it serves took a hundredth of the time, beside nothing.
    fn boast(&self) {
        self.edit("observed_heuristics_cpu.json", |text| {
            let mut document = Document::from_bytes(text.as_bytes()).unwrap();
            for fallback in document.fallbacks.get_mut("row_softmax").unwrap().values_mut() {
                for problem in fallback.source["problems"].as_array_mut().unwrap() {
                    problem["served_us"] = (problem["served_us"].as_f64().unwrap() / 100.0).into();
                    problem.as_object_mut().unwrap().remove("anchors");
                }
            }
            document.rules.clear();
            document.to_canonical_json()
        });
    }
}

fn events(output: &std::process::Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_first_night_makes_the_document_and_one_without_change_leaves_it() {
    let place = Place::new();
    place.nightly().assert().success().stderr(contains("no journal yet: a full run").and(contains("wrote ")));
    let (document, trials) = (place.document(), place.trials());
    let night = &place.nights()[0];
    assert_eq!(fs::read(night.join("observed_heuristics_cpu.json")).unwrap(), document);
    assert!(night.join("journal/row_softmax.jsonl.zst").is_file() && !night.join("before.json").exists());

    let run = place.nightly().arg("--json").output().unwrap();
    let events = events(&run);
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["checked", "swept", "done"]);
    let check = &events[0]["check"]["problems"];
    assert_eq!(check.as_array().unwrap().len(), 2, "{check}");
    assert_eq!(fs::read(place.nights()[1].join("before.json")).unwrap(), document);
    match events[0]["state"].as_str().unwrap() {
        "unchanged" => {
            assert_eq!((place.trials(), events[2]["verdict"].as_str()), (trials, Some("same")));
            assert!(events[1]["statuses"].as_object().unwrap().is_empty(), "nothing is measured again");
            assert_eq!((place.document(), run.status.code()), (document, Some(0)));
        }
        // A busy machine tells nothing of what was measured before,
        "loaded" => assert_eq!(events[2]["verdict"], "unchecked"),
        // or may have changed its pace; then everything is measured again.
        "drifted" => {
            assert!(events[1]["statuses"]["ok"].as_u64().unwrap() >= 8);
            assert!(place.nights()[1].join("before").is_dir(), "the old journal is kept");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_no_race_confirms_is_no_regression() {
    let place = Place::new();
    place.nightly().assert().success();
    place.boast();
    let boastful = place.document();
    let run = place.nightly().arg("--json").output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", String::from_utf8_lossy(&run.stderr));
    let report = &events(&run)[2];
    let confirmations = report["confirmations"].as_array().unwrap();
    assert!(!confirmations.is_empty());
    for confirmation in confirmations {
        assert_eq!(confirmation["finding"], "not_confirmed", "{confirmation}");
        assert!(confirmation["documents"].as_f64().unwrap() > 10.0, "{confirmation}");
    }
    assert!(report["diff"]["entries"].as_array().unwrap().iter().all(|entry| entry["status"] != "SLOW"));
    assert_ne!(place.document(), boastful, "the boast is replaced");
}

#[test]
fn a_regression_that_a_race_confirms_needs_to_be_accepted() {
    let place = Place::new();
    place.nightly().assert().success();
    let document = place.document();
    // From now on there is nothing but one column at a time: what was served takes the process that tries it down.
    let faults = r#"
        *'"ask":"trial"'*'"reduction_loops":[1]'*) ;;
        *'"ask":"trial"'*) exit 1 ;;
    "#;
    let tool = common::tool_with_faults(place.0.path(), faults);
    let slow = common::PLAN.replace(r#"["whole"]"#, "[1]").replace("[[1], [64]]", "[[1]]");
    assert!(!slow.contains("whole"));
    fs::write(place.0.path().join("plan.toml"), slow).unwrap();
    fs::remove_file(place.output("journal/row_softmax.jsonl")).unwrap();
    place
        .nightly()
        .env("SWEEP_PROGRAM", &tool)
        .assert()
        .code(5)
        .stdout(contains("SLOW"))
        .stderr(contains("stays: the new one has a regression").and(contains(": confirmed")));
    assert_eq!(place.document(), document, "the old document is in place");
    place.nightly().env("SWEEP_PROGRAM", &tool).arg("--accept").assert().success().stderr(contains("wrote "));
    assert_ne!(place.document(), document);
}

#[test]
fn another_protocol_is_set_aside_and_its_times_are_not_compared() {
    let place = Place::new();
    place.nightly().assert().success();
    let now = kernel_sweep::device::PROTOCOL;
    for name in ["journal/row_softmax.jsonl", "observed_heuristics_cpu.json"] {
        place.edit(name, |text| text.replace(now, "cold-l2/0"));
    }
    let run = place.nightly().assert().success();
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    let told = format!("the journal is set aside, and all is measured anew (protocol cold-l2/0 → {now})");
    assert!(stderr.contains(&told), "{stderr}");
    let stdout = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(stdout.contains("times are not compared") && !stdout.contains("SLOW"), "{stdout}");
    assert!(!String::from_utf8_lossy(&place.document()).contains("cold-l2/0"));
}

#[test]
fn what_this_version_cannot_run_is_named() {
    let place = Place::new();
    place.nightly().assert().success();
    place.edit("observed_heuristics_cpu.json", |text| text.replace("\"num_warps\":1", "\"num_wraps\":1"));
    let run = place.nightly().arg("--json").output().unwrap();
    let report = &events(&run)[2];
    let undefended = report["undefended"].as_array().unwrap();
    assert!(!undefended.is_empty());
    assert!(undefended[0].as_str().unwrap().contains("num_wraps"), "{undefended:?}");
}

#[test]
fn a_changed_environment_is_named_and_measured_from_the_start() {
    let place = Place::new();
    place.nightly().assert().success();
    let trials = place.trials();
    for name in ["journal/row_softmax.jsonl", "observed_heuristics_cpu.json"] {
        place.edit(name, |text| text.replace("linux", "another system"));
    }
    let run = place.nightly().assert().code(predicate::in_iter([0, 5]));
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    let told =
        "environment changed: the journal is set aside, and all is measured anew (driver another system → linux)";
    assert!(stderr.contains(told), "{stderr}");
    let stdout = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(stdout.contains("driver changed: another system → linux"), "{stdout}");
    assert!(place.trials() >= trials - 2, "all is measured again");
    let before = place.nights()[1].join("before");
    let kept = fs::read_dir(before).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read_to_string(kept).unwrap().contains("another system"));
}

#[test]
fn a_changed_kernel_is_measured_again_and_the_rest_is_not() {
    let place = Place::new();
    place.nightly().assert().success();
    // As if the kernels that ran on one problem had been others.
    place.edit("journal/row_softmax.jsonl", |text| {
        let line = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if line["problem"]["rows"] == 600 {
                line["kernel"] = "0123456789abcdef".into();
            }
            format!("{line}\n")
        };
        text.lines().map(line).collect()
    });
    let run = place.nightly().arg("--json").output().unwrap();
    let events = events(&run);
    match events[0]["state"].as_str().unwrap() {
        "kernels_changed" => {
            assert_eq!(
                (&events[0]["problems"], &events[0]["check"]["problems"].as_array().unwrap().len()),
                (&1.into(), &1)
            );
            assert!(events[1]["resumed"].as_u64().unwrap() >= 4, "the other problem's trials hold");
        }
        "drifted" => {}
        other => panic!("{other}"),
    }
    let journal = fs::read_to_string(place.output("journal/row_softmax.jsonl")).unwrap();
    assert!(!journal.contains("0123456789abcdef"), "no trial of the old kernel is left");
    assert!(journal.lines().filter(|line| line.contains("\"rows\":600")).count() >= 8);
}

#[test]
fn a_night_that_is_cut_or_fails_leaves_the_old_document() {
    let place = Place::new();
    place.nightly().assert().success();
    let document = place.document();
    // Cut: a journal that is measured from the start, and no time for it.
    place.edit("journal/row_softmax.jsonl", |text| text.replace("linux", "another system"));
    place.nightly().args(["--budget", "0.000001s"]).assert().code(predicate::in_iter([0, 5]));
    assert_eq!(place.document(), document);
    // Failed: nothing can be read from the journal.
    fs::write(place.output("journal/row_softmax.jsonl"), "{}\n{}\n").unwrap();
    place.nightly().assert().failure().stderr(contains("row_softmax.jsonl: line 1"));
    assert_eq!(place.document(), document);
    // Not whole: no document before, and no time for a new one.
    fs::remove_dir_all(place.output("")).unwrap();
    place.nightly().args(["--budget", "0.000001s"]).assert().code(1).stderr(contains("no fallback for short"));
    assert!(!place.output("observed_heuristics_cpu.json").exists());
}

#[test]
fn so_many_nights_are_kept() {
    let place = Place::new();
    for _ in 0..3 {
        place.nightly().args(["--keep", "2", "--accept"]).assert().success();
    }
    assert_eq!(place.nights().len(), 2);
    place.nightly().args(["--budget", "never"]).assert().code(2);
}
