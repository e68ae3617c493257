//! The stand-in for the CUDA driver: building it, running a test with it, and reading what it recorded.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses a part; one that cannot go on may stop

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds the stand-in into a folder. False where no C compiler is.
pub fn build(folder: &Path, flags: &[&str]) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/libcuda.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(folder.join("libcuda.so")).arg(source).args(flags);
    let Ok(status) = compiler.status() else {
        eprintln!("skipped: no cc here to build the stand-in driver with");
        return false;
    };
    assert!(status.success(), "the stand-in does not compile");
    true
}

/// Names the folder of a test that runs with the stand-in.
const FOLDER: &str = "STANDIN_TEST_FOLDER";

/// Whether this is a process that runs a test with it.
pub fn is_at_work() -> bool {
    std::env::var_os(FOLDER).is_some()
}

/// Runs a test in a process of its own, whose loader finds the stand-in before any driver. There it is called again, with the
/// folder that has the stand-in and is its own; here it is not.
pub fn with_standin(test: &str, flags: &[&str], environment: &[(&str, &str)], body: impl FnOnce(&Path)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return body(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    if !build(folder.path(), flags) {
        return;
    }
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    process.env("LD_LIBRARY_PATH", folder.path()).env(FOLDER, folder.path());
    process.env("STANDIN_RECORD", record_of(folder.path())).env("SWEEP_CACHE", folder.path().join("cache"));
    process.envs(environment.iter().copied());
    let output = process.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn record_of(folder: &Path) -> PathBuf {
    folder.join("record.jsonl")
}

/// What was called since the last time this was asked.
pub fn calls(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(record_of(folder)).unwrap_or_default();
    let _ = fs::OpenOptions::new().write(true).truncate(true).open(record_of(folder)); // there may be none yet
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of calls.
pub fn names(calls: &[Value]) -> Vec<&str> {
    calls.iter().map(|call| call["call"].as_str().unwrap()).collect()
}
