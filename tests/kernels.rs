//! Kernels of every plan, compiled for Hopper and Blackwell: of each space a sample, which `$SWEEP_KERNELS` makes larger and
//! `$SWEEP_KERNELS_SEED` another, for all of them take hours (`sweep compile --gpu b200 --family all`). Needs no GPU; NVRTC is
//! found or fetched.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::sweep;
use kernel_sweep::compile::Recorded;
use kernel_sweep::model::{Family, GpuProfile};
use kernel_sweep::plan::Plan;
use serde_json::Value;
use std::path::Path;

/// Kernels of each family: some half a second each on one core.
const KERNELS: u64 = 8;

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Compiles a sample of each family; of a GPU whose spaces were made for it, nothing spills.
fn compile_sample(gpu: &str, arch: &str, may_spill: bool) {
    let folder = tempfile::tempdir().unwrap();
    let (kernels, seed) = (setting("SWEEP_KERNELS", KERNELS), setting("SWEEP_KERNELS_SEED", 0));
    println!("{kernels} kernels of each family by seed {seed}");
    let mut command = sweep(folder.path());
    command.args(["compile", "--gpu", gpu, "--family", "all", "--json"]);
    command.args(["--kernels", &kernels.to_string(), "--seed", &seed.to_string()]);
    command.args(["--compile-deadline", "10m"]); // on a busy machine the usual one is too short
    let output = command.assert().success();
    let report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!((&report["gpu"], &report["arch"]), (&gpu.into(), &arch.into()));
    let profile = GpuProfile::by_name(gpu).unwrap();
    for family in Family::ALL {
        let counts = &report["families"][family.name()];
        if Plan::load(family, None).unwrap().spaces(&profile).is_empty() {
            assert!(counts.is_null(), "{family} has no configs for this GPU: {counts}");
            continue;
        }
        let sampled = counts["kernels"].as_u64().unwrap();
        assert!((kernels.min(KERNELS)..=kernels).contains(&sampled), "{family}: {counts}");
        assert!(counts["compiled"].as_u64().unwrap() > 0, "{family}: {counts}");
        assert_eq!(counts["failed"].as_u64(), Some(0), "{family}: {counts}");
        assert!(may_spill || counts["spilling"].as_u64() == Some(0), "{family}: {counts}");
        assert_eq!(
            counts["configs"].as_u64().unwrap(),
            counts["compiled"].as_u64().unwrap() + counts["pruned"].as_u64().unwrap(),
            "{family}: {counts}"
        );
    }
}

#[test]
fn kernels_compile_for_hopper_without_spilling() {
    compile_sample("h200", "sm_90a", false);
}

#[test]
fn kernels_compile_for_blackwell_without_spilling() {
    compile_sample("b200", "sm_100a", false);
}

#[test]
fn kernels_compile_for_other_blackwell_gpus() {
    // For sm_103a and sm_120a ptxas takes more registers for some tiles of attention than there are; the clock tells what that costs.
    compile_sample("b300", "sm_103a", true);
    compile_sample("rtx5090", "sm_120a", true);
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
        for (family, coverage) in &record.families {
            assert!(coverage.is_whole() && coverage.failed == 0 && coverage.spilling == 0, "{family}: {coverage}");
        }
    }
}
