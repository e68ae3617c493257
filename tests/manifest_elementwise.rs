//! The manifest of elementwise beside the code that it replaced: the same kernels and the same launches, so that what was measured
//! of them still counts.
#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use kernel_sweep::families::{Arg, KernelSpec, Launch, spec};
use kernel_sweep::model::{Bytes, Config, Dtype, Family, GpuProfile, Mma, PidType, Problem};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config as Cases, TestRunner};

/// What the code said of a legal config.
fn replaced(config: &Config, numel: u64, dtype: Dtype, multiprocessors: u32) -> Option<(KernelSpec, Launch)> {
    let (block, warps) = (config.block_sizes[0], config.num_warps.unwrap());
    if u64::from(block) * dtype.size_bytes() < u64::from(warps) * 128 {
        return None;
    }
    let tiles = numel.div_ceil(u64::from(block));
    let most = config.num_sm_multiplier.map_or(tiles, |multiplier| u64::from(multiplier) * u64::from(multiprocessors));
    let (count, contiguous) = (tiles.min(most) as u32, config.pid_type == Some(PidType::PersistentBlocked));
    let c_type = if dtype == Dtype::Bf16 { "bf16" } else { "float" };
    let macros = [
        ("DTYPE", c_type.to_owned()),
        ("BLOCK", block.to_string()),
        ("NUM_WARPS", warps.to_string()),
        ("ONE_TILE", u8::from(u64::from(count) == tiles).to_string()),
    ];
    let launch = Launch {
        grid: [count, 1, 1],
        cluster: [1; 3],
        threads: [warps * 32, 1, 1],
        dynamic_smem: Bytes(0),
        args: vec![
            Arg::Input(0),
            Arg::Input(1),
            Arg::Output(0),
            Arg::I64(numel as i64),
            Arg::I32(i32::from(contiguous)),
        ],
        workspace: Bytes(0),
        counters: 0,
        cooperative: false,
    };
    Some((KernelSpec::shipped("elementwise.cu", "elementwise", macros), launch))
}

fn config() -> impl Strategy<Value = Config> {
    let order = prop_oneof![
        Just((PidType::Flat, None)),
        (1u32..33).prop_map(|multiplier| (PidType::PersistentBlocked, Some(multiplier))),
        (1u32..33).prop_map(|multiplier| (PidType::PersistentInterleaved, Some(multiplier))),
    ];
    (4u32..16, 0u32..6, order).prop_map(|(block, warps, (pid_type, num_sm_multiplier))| Config {
        block_sizes: vec![1 << block],
        mma: Some(Mma::Simt),
        num_warps: Some(1 << warps),
        pid_type: Some(pid_type),
        num_sm_multiplier,
        ..Config::default()
    })
}

#[test]
fn a_manifest_gives_the_launches_of_the_code_that_it_replaced() {
    let numel = (0u32..31, any::<u32>()).prop_map(|(bits, low)| u64::from((1 << bits) + low % (1 << bits)));
    let cases = (config(), numel, prop::sample::select(vec![Dtype::Bf16, Dtype::F32]), 1u32..200);
    let mut launches = 0;
    let mut runner = TestRunner::new(Cases { cases: 1000, ..Cases::default() });
    runner
        .run(&cases, |(config, numel, dtype, multiprocessors)| {
            let profile = GpuProfile { multiprocessors, ..GpuProfile::by_name("h200").unwrap() };
            let problem = Problem::new(Family::Elementwise, &[("numel", numel as i64)], dtype).unwrap();
            let program = spec(Family::Elementwise).program(&config, &problem, &profile);
            prop_assert_eq!(
                program.ok(),
                replaced(&config, numel, dtype, multiprocessors),
                "{} on {}",
                config,
                problem
            );
            Ok(())
        })
        .unwrap();
    // Most of what is drawn runs, so that the comparison says something.
    let mut runner = TestRunner::deterministic();
    for _ in 0..200 {
        let config = config().new_tree(&mut runner).unwrap().current();
        launches += usize::from(replaced(&config, 12_345, Dtype::F32, 132).is_some());
    }
    assert!(launches > 100, "{launches} of 200 run");
}

fn legal() -> Config {
    Config {
        block_sizes: vec![1024],
        mma: Some(Mma::Simt),
        num_warps: Some(4),
        pid_type: Some(PidType::Flat),
        ..Config::default()
    }
}

#[test]
fn a_knob_without_effect_or_out_of_range_is_refused_by_name() {
    let h200 = GpuProfile::by_name("h200").unwrap();
    let problem = Problem::parse(Family::Elementwise, "numel=4096", Dtype::Bf16).unwrap();
    let refused = |config: Config| spec(Family::Elementwise).program(&config, &problem, &h200).unwrap_err().0;
    assert!(spec(Family::Elementwise).program(&legal(), &problem, &h200).is_ok());
    assert!(refused(Config { num_stages: Some(2), ..legal() }).contains("num_stages"));
    assert!(refused(Config { num_sm_multiplier: Some(2), ..legal() }).contains("num_sm_multiplier 2"));
    assert!(refused(Config { mma: Some(Mma::MmaSync), ..legal() }).contains("simt"));
    assert!(refused(Config { pid_type: None, ..legal() }).contains("pid_type"));
    assert!(refused(Config { num_warps: None, ..legal() }).contains("num_warps"));
    assert!(refused(Config { num_warps: Some(3), ..legal() }).contains("num_warps = 3"));
    assert!(refused(Config { block_sizes: vec![1000], ..legal() }).contains("block_sizes[0] = 1000"));
    assert!(refused(Config { block_sizes: vec![1024, 2], ..legal() }).contains("one entry"));
    assert!(refused(Config { num_warps: Some(32), ..legal() }).contains("less than 4 bytes"));
    let own = [("fuse".to_owned(), kernel_sweep::model::KnobValue::Boolean(true))].into();
    assert!(refused(Config { own, ..legal() }).contains("fuse has no effect"));
}

#[test]
fn the_family_is_the_one_that_the_manifest_describes() {
    let problem = Problem::parse(Family::Elementwise, "numel=77", Dtype::F32).unwrap();
    let spec = spec(Family::Elementwise);
    let tensors = spec.tensors(&problem);
    let names: Vec<&str> = tensors.inputs.iter().chain(&tensors.outputs).map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["X", "Y", "OUT"]);
    assert_eq!((spec.bytes(&problem), spec.flops(&problem)), (Bytes(3 * 77 * 4), 77.0));
    let (reference, launch) = spec.reference(&problem).unwrap().unwrap();
    assert_eq!(reference.to_string(), "elementwise_reference.cu -DDTYPE=float");
    let allowed = Arg::F32(2.0 * (f32::EPSILON / 2.0));
    assert_eq!((launch.grid, launch.threads, launch.args.last()), ([1, 1, 1], [256, 1, 1], Some(&allowed)));
}
