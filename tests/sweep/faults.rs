//! Kernels, workers and compiles that hang, crash or lie: each costs one record with its status, the sweep completes, and
//! none is tried again but by another run, and what may have passed by then.

#![cfg(target_os = "linux")]

use crate::common::{self, sweep, trials};
use include_dir::{Dir, include_dir};
use kernel_sweep::model::GpuProfile;
use predicates::str::contains;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;

static KERNELS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/kernels");
const JOURNAL: &str = "journal/row_softmax.jsonl";

/// A folder whose `sweeps/` and `kernels/` hold the plan and the kernel with faults, made for one GPU.
fn folder_with_faults(profile: &GpuProfile) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (kernels, sweeps) = (folder.path().join("kernels"), folder.path().join("sweeps"));
    fs::create_dir(&sweeps).unwrap();
    fs::create_dir(&kernels).unwrap();
    KERNELS.extract(&kernels).unwrap();
    fs::rename(kernels.join("row_softmax.cu"), kernels.join("include/row_softmax_as_it_should_be.cuh")).unwrap();
    fs::write(kernels.join("row_softmax.cu"), include_str!("faults_of_kernels/row_softmax.cu")).unwrap();
    let stage_bytes = (profile.smem_per_block.0 - (16 << 10)) / 9;
    let chunk = stage_bytes / 16 * 8; // vectors of 16 bytes, bf16 columns
    let plan = include_str!("faults_of_kernels/row_softmax.toml").replace("CHUNK", &chunk.to_string());
    fs::write(sweeps.join("row_softmax.toml"), plan).unwrap();
    folder
}

/// What became of each config, by the field that picks its fault; each was tried once before any final. One that works is timed again
/// where slow ones race with it, as all may be on a busy host.
fn statuses(trials: &[Value], field: &str) -> BTreeMap<u64, String> {
    let mut statuses = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial["stage"] == "screen") {
        let key = trial["config"].pointer(field).unwrap().as_u64().unwrap();
        let status = trial["status"].as_str().unwrap().to_string();
        assert!(status == "ok" || !trial["error"].as_str().unwrap().is_empty(), "{trial}");
        let raced_again = status == "ok" && trial["race"].is_u64();
        let before = statuses.insert(key, status);
        assert!(before.is_none_or(|before| raced_again && before == "ok"), "{trial} is there twice");
    }
    statuses
}

#[test]
fn each_fault_of_a_kernel_costs_one_record_and_the_sweep_completes() {
    let Some(found) = common::gpu() else { return };
    let folder = folder_with_faults(&found.profile);
    let journal = folder.path().join(format!("output/{}/{JOURNAL}", found.profile.name));
    let run = || {
        let mut command = sweep(folder.path());
        command.args(["--family", "row_softmax", "--trial-deadline", "10s", "--compile-deadline", "20s", "--json"]);
        let started = Instant::now();
        let output = command.assert().success();
        let summary: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        println!("{:.1} s: {}", started.elapsed().as_secs_f64(), summary["statuses"]);
        (trials(&journal), summary)
    };
    let (tried, summary) = run();
    let expected = [
        (1, "ok"),
        (2, "wrong"),
        (3, "ok"),
        (4, "timeout"),
        (5, "crashed"),
        (6, "crashed"),
        (7, "compile_timeout"),
        (8, "ok"),
        (9, "launch_failed"),
    ]; // the tenth needs more shared memory than there is, and is not tried
    assert_eq!(statuses(&tried, "/num_stages"), expected.map(|(config, status)| (config, status.to_string())).into());
    for (status, count) in [("wrong", 1), ("timeout", 1), ("crashed", 2), ("launch_failed", 1), ("compile_timeout", 1)]
    {
        assert_eq!(summary["statuses"][status], count, "{status}");
    }
    // Three configs work, and the winner twice.
    assert_eq!(tried.iter().filter(|trial| trial["stage"] == "final" && trial["status"] == "ok").count(), 4);
    for trial in tried.iter().filter(|trial| trial["status"] != "ok") {
        println!("{} {}: {}", trial["status"], trial["config"], trial["error"]);
    }

    let (again, summary) = run();
    assert_eq!(&again[..tried.len()], &tried[..]);
    let expected = serde_json::json!({ "timeout": 1, "compile_timeout": 1, "launch_failed": 1 });
    assert_eq!(summary["statuses"], expected, "a resumed sweep tries again what may have passed");
}

#[test]
fn a_compile_that_never_ends_is_cut_off_at_its_deadline() {
    let folder = folder_with_faults(&GpuProfile::by_name("h200").unwrap());
    let compile = |deadline| {
        let mut command = sweep(folder.path());
        command.args(["compile", "--gpu", "h200", "--family", "row_softmax", "--compile-deadline", deadline]).assert()
    };
    // What does end is compiled beforehand: on a busy machine that may take longer than the deadline.
    let plan = folder.path().join("sweeps/row_softmax.toml");
    let text = fs::read_to_string(&plan).unwrap();
    fs::write(&plan, text.replace(" 7,", "")).unwrap();
    compile("10m").success().stderr(contains("9 configs, 8 compiled, 0 failed, 0 spilling, 1 pruned"));
    fs::write(&plan, text).unwrap();
    compile("5s")
        .code(4)
        .stderr(contains("no answer in 5 s"))
        .stderr(contains("10 configs, 8 compiled, 1 failed, 0 spilling, 1 pruned"));
    assert_eq!(processes_in(folder.path()), Vec::<String>::new(), "nothing compiles on");
}

/// The processes that work in a folder.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.canonicalize().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let inside = processes.filter(|process| fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder));
    inside.map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default()).collect()
}

const PLAN: &str = r#"
[space.cpu]
default = { block_sizes = [1], num_warps = 1, reduction_loops = ["whole"] }
[space.cpu.axes]
block_sizes = [[1, 2, 4, 8, 16, 32]]
num_warps = [1]
reduction_loops = [["whole"]]
[[space.cpu.problem]]
rows = ROWS
cols = 16
"#;

/// What a measuring process does on some configs: it hangs, dies, refuses or lies. One that is slow is screened in a race, where what
/// takes the process down cannot be told, and by itself after that.
const FAULTS: &str = r#"
        *'"ask":"race"'*'"block_sizes":['[248]']'* | *'"ask":"race"'*'"block_sizes":[16]'*) exit 1 ;;
        *'"ask":"trial"'*'"block_sizes":[2]'*) read -r -t 1000 <&"${WORKER[0]}" ;;
        *'"ask":"trial"'*'"block_sizes":[4]'*) exit 1 ;;
        *'"ask":"trial"'*'"block_sizes":[8]'*) echo '{"reply":"dead","error":"an illegal address"}'; exit ;;
        *'"ask":"trial"'*'"block_sizes":[16]'*)
            echo '{"reply":"trial","verdict":{"verdict":"wrong","rel_err":0.5,"error":"12 elements err"},"busy_s":0}'
            continue ;;
"#;

#[test]
fn each_fault_of_a_measuring_process_costs_one_record_and_the_sweep_completes() {
    // Screened one by one, but where the host is busy, and from the first on in races.
    common::at_once(&[64, 16384], each_fault_costs_one_record);
}

fn each_fault_costs_one_record(rows: u32) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan.toml"), PLAN.replace("ROWS", &rows.to_string())).unwrap();
    let tool = common::tool_with_faults(folder.path(), FAULTS);
    let run = || {
        let mut command = sweep(folder.path());
        command.env("SWEEP_PROGRAM", &tool).args(common::TINY).args(["--trial-deadline", "3s", "-q"]);
        command.assert().success();
        trials(&folder.path().join("output/cpu").join(JOURNAL))
    };
    let tried = run();
    let expected = [(1, "ok"), (2, "timeout"), (4, "crashed"), (8, "crashed"), (16, "wrong"), (32, "ok")];
    let expected = expected.map(|(config, status)| (config, status.to_string()));
    assert_eq!(statuses(&tried, "/block_sizes/0"), expected.into());
    let finals = tried.iter().filter(|trial| trial["stage"] == "final");
    assert!(finals.clone().count() == 3 && finals.clone().all(|trial| trial["status"] == "ok"));
    let error = |rows| {
        let wanted = |trial: &&Value| trial["config"]["block_sizes"][0] == rows;
        tried.iter().find(wanted).unwrap()["error"].as_str().unwrap().to_string()
    };
    assert_eq!((error(2), error(8)), ("no answer in 3 s".into(), "an illegal address".into()));
    let again = run();
    assert_eq!(&again[..tried.len()], &tried[..]);
    let again: Vec<_> = again[tried.len()..].iter().map(|trial| trial["status"].as_str().unwrap()).collect();
    // What it raced with is timed again.
    let again = again.into_iter().filter(|status| *status != "ok").collect::<Vec<_>>();
    assert_eq!(again, ["timeout"], "a resumed sweep tries again what may have passed, and nothing else");
}
