//! Kernels of every plan, compiled for Hopper and the Blackwell GPUs: a sample, for all of them take hours, and what is recorded of
//! all. Needs no GPU; NVRTC is found or fetched.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use assert_cmd::Command;
use kernel_sweep::compile::Recorded;
use kernel_sweep::model::{Family, GpuProfile};
use serde_json::Value;
use std::path::Path;

/// Compiles so many kernels of each family.
fn compile_sample(gpu: &str, arch: &str, kernels: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::cargo_bin("sweep").unwrap();
    command.current_dir(folder.path()).args([
        "compile",
        "--gpu",
        gpu,
        "--family",
        "all",
        "--kernels",
        &kernels.to_string(),
        "--seed",
        "11",
        "--json",
    ]);
    command.args(["--compile-deadline", "10m"]); // on a busy machine the usual one is too short
    let output = command.assert().success();
    let report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!((&report["gpu"], &report["arch"]), (&gpu.into(), &arch.into()));
    for family in Family::ALL {
        let counts = &report["families"][family.name()];
        let count = |name: &str| counts["kernels"][name].as_u64().unwrap();
        assert!((1..=kernels).contains(&count("compiled")), "{family}: {counts}");
        assert!(count("compiled") == kernels || count("compiled") == count("space"), "{family}: {counts}");
        assert!(counts["compiled"].as_u64().unwrap() >= count("compiled").min(100), "{family}: {counts}");
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
    compile_sample("h200", "sm_90a", 120);
}

#[test]
fn kernels_compile_for_blackwell_without_spilling() {
    compile_sample("b200", "sm_100a", 120);
}

#[test]
fn kernels_compile_for_other_blackwell_gpus() {
    compile_sample("b300", "sm_103a", 8);
    compile_sample("rtx5090", "sm_120a", 8);
}

/// The records that `sweep compile --record` made and that are committed: of whole spaces, and of those of the GPU that they name.
#[test]
fn what_is_recorded_as_compiled_is_every_kernel_of_the_space() {
    let output = Path::new(env!("CARGO_MANIFEST_DIR")).join("output");
    for folder in output.read_dir().unwrap() {
        let path = folder.unwrap().path().join("compiled.json");
        if !path.is_file() {
            continue;
        }
        let record = Recorded::read(&path).unwrap();
        let profile = GpuProfile::by_name(&record.gpu).unwrap();
        assert_eq!((path.parent().unwrap().file_name().unwrap(), &record.arch), (profile.name.as_ref(), &profile.arch));
        assert_eq!(record.families.len(), Family::ALL.len());
        for (family, coverage) in &record.families {
            assert!(coverage.is_whole() && coverage.failed == 0 && coverage.spilling == 0, "{family}: {coverage}");
        }
    }
}
