//! What the tests from outside share: a plan that takes a second on the host, folders to sweep in, and journals to read.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses a part; one that cannot go on may stop

pub mod amount;

use assert_cmd::Command;
use kernel_sweep::device::{Found, cuda};
use kernel_sweep::model::Problem;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The sources of kernels that load or store 32 bytes at once, which Blackwell alone can.
pub const WIDE_SOURCES: [&str; 3] = ["elementwise_wide.cu", "row_softmax_wide.cu", "attention_tcgen05.cu"];

/// The problems that a document's entry of a class was measured on, with whether what it serves first was.
pub fn problems_of(class: &str, source: &Map<String, Value>) -> Vec<(Problem, bool)> {
    let problem = |of_source: &Value| {
        let (shape, dtype) = of_source["problem"].as_str().unwrap().rsplit_once(' ').unwrap();
        let problem = Problem::parse(class.parse().unwrap(), shape, dtype.parse().unwrap()).unwrap();
        (problem, !of_source["served_us"].is_null())
    };
    source["problems"].as_array().unwrap().iter().map(problem).collect()
}

/// Two problems in two groups, four configs: a second's work.
pub const PLAN: &str = r#"
[space.cpu]
default = { block_sizes = [64], num_warps = 1, reduction_loops = ["whole"] }
[space.cpu.axes]
block_sizes = [[8, 64]]
num_warps = [1]
reduction_loops = [["whole"], [64]]
[[space.cpu.problem]]
rows = 256
cols = 300
[[space.cpu.problem]]
rows = 600
cols = 300
dtype = "f32"
"#;

/// The sweep of `plan.toml` on the host.
pub const TINY: [&str; 6] = ["--gpu", "cpu", "--family", "row_softmax", "--plan", "plan.toml"];

/// The plan with so many problems more, each of which takes a tenth of a second.
pub fn plan_with(more: u32) -> String {
    let problems = (0..more).map(|more| format!("[[space.cpu.problem]]\nrows = {}\ncols = 300\n", 257 + more));
    PLAN.to_string() + &problems.collect::<String>()
}

/// Problems that outlast every test.
pub const ENDLESS: u32 = 400;
/// Problems that take long enough to be cut off from outside, and come to an end.
pub const SOME: u32 = 30;

/// The tool, run in a folder. `$SWEEP_PROGRAM` may name a copy of it.
pub fn sweep(folder: &Path) -> Command {
    let built = || PathBuf::from(env!("CARGO_BIN_EXE_sweep"));
    let mut command = Command::new(std::env::var_os("SWEEP_PROGRAM").map_or_else(built, PathBuf::from));
    command.current_dir(folder);
    command
}

/// A folder with the plan as `plan.toml`.
pub fn folder_with_plan() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan.toml"), PLAN).unwrap();
    folder
}

/// A folder in which the plan was swept. That is done once for all tests of a file, which get copies.
pub fn swept_folder() -> TempDir {
    static FILES: OnceLock<Vec<(PathBuf, Vec<u8>)>> = OnceLock::new();
    let files = FILES.get_or_init(|| {
        let folder = folder_with_plan();
        sweep(folder.path()).args(TINY).arg("-q").assert().success();
        let (mut files, mut places) = (Vec::new(), vec![PathBuf::new()]);
        while let Some(place) = places.pop() {
            for entry in fs::read_dir(folder.path().join(&place)).unwrap() {
                let (path, place) = entry.map(|entry| (entry.path(), place.join(entry.file_name()))).unwrap();
                if path.is_dir() { places.push(place) } else { files.push((place, fs::read(path).unwrap())) }
            }
        }
        files
    });
    let folder = tempfile::tempdir().unwrap();
    for (place, contents) in files {
        let path = folder.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    folder
}

/// Makes `path` a program as `original` is. By a process of its own: while this one has it open for writing, what other
/// tests start inherits that, and it cannot be run ("text file busy").
pub fn install(original: &Path, path: &Path) {
    let installed = std::process::Command::new("install").args(["-m", "755"]).args([original, path]).status().unwrap();
    assert!(installed.success());
}

/// A program that is the tool, but for a measuring process with faults: `cases` of a bash `case` on what it is asked.
pub fn tool_with_faults(folder: &Path, cases: &str) -> PathBuf {
    let script = r#"#!/bin/bash
[ "$1" = worker ] || exec TOOL "$@"
coproc WORKER { exec TOOL worker; }
while IFS= read -r line; do
    case "$line" in
CASES
    esac
    printf '%s\n' "$line" >&"${WORKER[1]}"
    IFS= read -r answer <&"${WORKER[0]}" || exit 1
    printf '%s\n' "$answer"
done
"#;
    let (text, path) = (folder.join("tool_with_faults.sh"), folder.join("tool_with_faults"));
    let tool = sweep(folder).get_program().to_string_lossy().into_owned();
    fs::write(&text, script.replace("TOOL", &tool).replace("CASES", cases)).unwrap();
    install(&text, &path);
    path
}

/// The first GPU; nothing, and a word, where there is none.
///
/// # Panics
/// Where there is one that cannot be used: a test that passes without it would say nothing.
pub fn gpu() -> Option<Found> {
    let found = cuda::discover().into_iter().next();
    if found.is_none() {
        let is_there = Path::new("/dev/nvidia0").exists() || Path::new("/dev/dxg").exists();
        assert!(!is_there, "a GPU is here and cannot be used: {:?}", cuda::trouble());
        eprintln!("no GPU here: nothing to test");
    }
    found
}

/// Checks each of these at the same time as the others: sweeps wait more than they compute.
pub fn at_once<T: Copy + Sync>(cases: &[T], check: impl Fn(T) + Sync) {
    let check = &check;
    std::thread::scope(|scope| cases.iter().for_each(|case| drop(scope.spawn(move || check(*case)))));
}

/// Waits until something holds, with the patience that a machine busy with other things needs.
pub fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(300);
    while !holds() {
        assert!(Instant::now() < patience, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Panics where a trial was made again: but for the best so far, one in each race of a batch, and for finalists that later races of
/// their problem are anchored to.
pub fn assert_nothing_tried_twice(trials: &[Value]) {
    let (mut seen, mut incumbents) = (BTreeSet::new(), BTreeSet::new());
    for trial in trials {
        let identity = |stage: &Value| format!("{} {} {} {stage}", trial["problem"], trial["dtype"], trial["config"]);
        let (stage, race) = (&trial["stage"], format!("{} {} {}", trial["problem"], trial["dtype"], trial["race"]));
        if trial["null_arm"] == true {
            assert!(seen.insert(format!("{race} null")), "{trial} is the second null arm of a race");
        } else if !seen.insert(identity(stage)) {
            let is_anchor = *stage == "cross" && seen.contains(&identity(&"final".into()));
            let is_incumbent = *stage != "final" && trial["race"].is_u64() && incumbents.insert(race);
            assert!(is_anchor || is_incumbent, "{trial} was tried twice");
        }
    }
}

/// The lines of a journal, none where there is none; a torn last one is left out.
pub fn journal_lines(journal: &Path) -> Vec<Value> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The trials among them.
pub fn trials(journal: &Path) -> Vec<Value> {
    journal_lines(journal).into_iter().filter(|line| line["kind"] == "trial").collect()
}
