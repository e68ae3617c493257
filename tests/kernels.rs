//! Kernels of every plan, compiled for Hopper and Blackwell: a sample, for all of them take hours. Needs no GPU; NVRTC is found or
//! fetched.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use assert_cmd::Command;
use kernel_sweep::model::Family;
use serde_json::Value;

/// Kernels of each family.
const KERNELS: &str = "120";

fn compile_sample(gpu: &str, arch: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("sweep").unwrap();
    command.current_dir(folder.path()).args([
        "compile",
        "--gpu",
        gpu,
        "--family",
        "all",
        "--kernels",
        KERNELS,
        "--json",
    ]);
    command.args(["--compile-deadline", "10m"]); // on a busy machine the usual one is too short
    let output = command.assert().success();
    let report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!((&report["gpu"], &report["arch"]), (&gpu.into(), &arch.into()));
    for family in Family::ALL {
        let counts = &report["families"][family.name()];
        assert!(counts["compiled"].as_u64().unwrap() >= 100, "{family}: {counts}");
        assert_eq!((counts["failed"].as_u64(), counts["spilling"].as_u64()), (Some(0), Some(0)), "{family}: {counts}");
        assert_eq!(
            counts["configs"].as_u64().unwrap(),
            counts["compiled"].as_u64().unwrap() + counts["pruned"].as_u64().unwrap(),
            "{family}: {counts}"
        );
    }
}

#[test]
fn kernels_compile_for_hopper_without_spilling() {
    compile_sample("h200", "sm_90a");
}

#[test]
fn kernels_compile_for_blackwell_without_spilling() {
    compile_sample("b200", "sm_100a");
}
