//! The families of tests/manifest on the GPU that is here: swept, derived and looked up, without a line of Rust of theirs.
#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::sweep;
use kernel_sweep::device::{discover, driver_trouble};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn every_kind_of_kernel_is_swept_by_its_manifest() {
    let Some(found) = discover().into_iter().find(|found| !found.profile.is_cpu()) else {
        assert_eq!(driver_trouble(), None, "a GPU that is here must be used");
        eprintln!("skipped: there is no GPU here");
        return;
    };
    let gpu = found.profile.name;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifest");
    let folder = tempfile::tempdir().unwrap();
    for (name, shape, dtype) in [
        ("vector_add", "n=1000", "f32"),
        ("stencil", "height=100,width=300", "f32"),
        ("convolution", "height=100,width=300,size=5", "f32"),
        ("reduction", "n=1000", "i32"),
        ("product", "m=100,n=200,k=300", "f32"),
        ("from_ptx", "n=1000", "f32"),
    ] {
        let manifest = data.join(format!("{name}.toml"));
        let mut command = sweep(folder.path());
        command.args(["--gpu", &gpu, "--budget", "8s", "--family"]).arg(&manifest).assert().success();
        let journal = fs::read_to_string(folder.path().join(format!("output/{gpu}/journal/{name}.jsonl"))).unwrap();
        let trials = journal.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
        let statuses: Vec<String> = trials.filter_map(|trial| Some(trial["status"].as_str()?.to_owned())).collect();
        assert!(statuses.iter().any(|status| status == "ok"), "{name}: {statuses:?}");
        assert!(statuses.iter().all(|status| ["ok", "pruned", "timeout"].contains(&&**status)), "{name}: {statuses:?}");
        let asked = ["lookup", "--gpu", &gpu, "--family", name, "--shape", shape, "--dtype", dtype, "--json"];
        let answer = sweep(folder.path()).args(asked).assert().success();
        let answer: Value = serde_json::from_slice(&answer.get_output().stdout).unwrap();
        assert!(answer["templates"].as_array().is_some_and(|configs| !configs.is_empty()), "{name}: {answer}");
    }
}
