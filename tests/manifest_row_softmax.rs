//! The manifest of row_softmax beside the code that it replaced: the same kernels and the same launches, so that what was measured of
//! them still counts.
#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use kernel_sweep::families::{Launch, spec};
use kernel_sweep::model::{Config, Dtype, Family, GpuProfile, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What the code said of a config on a problem.
#[derive(Debug, Deserialize)]
struct Recorded {
    gpu: String,
    shape: String,
    dtype: Dtype,
    config: Config,
    /// As a compiler would be asked for it, and its launch; nothing where it was refused.
    program: Option<(String, Launch)>,
}

fn program(recorded: &Recorded) -> Option<(String, Launch)> {
    let problem = Problem::parse(Family::RowSoftmax, &recorded.shape, recorded.dtype).unwrap();
    let profile = GpuProfile::by_name(&recorded.gpu).unwrap();
    let (kernel, launch) = spec(Family::RowSoftmax).program(&recorded.config, &problem, &profile).ok()?;
    assert_eq!(kernel.entry, "row_softmax");
    Some((kernel.to_string(), launch))
}

#[test]
fn a_manifest_gives_the_launches_of_the_code_that_it_replaced() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/row_softmax_launches.jsonl.zst");
    let text = zstd::decode_all(fs::File::open(path).unwrap()).unwrap();
    let all: Vec<Recorded> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(read).collect();
    let runs = all.iter().filter(|recorded| recorded.program.is_some()).count();
    assert!(all.len() == 1000 && (300..700).contains(&runs), "{runs} of {} run", all.len());
    let kinds = ["row_softmax.cu", "row_softmax_wide.cu"].map(|source| {
        let is_of = |recorded: &&Recorded| {
            recorded.program.as_ref().is_some_and(|(kernel, _)| kernel.starts_with(&format!("{source} ")))
        };
        all.iter().filter(is_of).count()
    });
    assert!(kinds.iter().all(|count| *count > 30), "{kinds:?}");
    for recorded in all {
        assert_eq!(program(&recorded), recorded.program, "{recorded:?}");
    }
}

/// A line of the time when clusters had one dimension.
fn read(line: &[u8]) -> Recorded {
    let mut value: Value = serde_json::from_slice(line).unwrap();
    if let Some(cluster) = value.pointer_mut("/program/1/cluster") {
        *cluster = json!([cluster.as_u64().unwrap(), 1, 1]);
    }
    serde_json::from_value(value).unwrap()
}

fn config(text: &str) -> Config {
    serde_json::from_str(text).unwrap()
}

fn refused(text: &str, shape: &str, gpu: &str) -> String {
    let problem = Problem::parse(Family::RowSoftmax, shape, Dtype::Bf16).unwrap();
    spec(Family::RowSoftmax).program(&config(text), &problem, &GpuProfile::by_name(gpu).unwrap()).unwrap_err().0
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let narrow = |text: &str| refused(text, "rows=64,cols=1024", "h200");
    let whole = |knobs: &str| {
        let given: Vec<&str> = knobs.split('"').skip(1).step_by(2).collect();
        let usual = [
            ("block_sizes", "[1]"),
            ("mma", "\"simt\""),
            ("num_warps", "4"),
            ("pid_type", "\"flat\""),
            ("reduction_loops", "[null]"),
            ("split_k", "1"),
        ];
        let usual = usual.iter().filter(|(name, _)| !given.contains(name));
        let usual: Vec<String> = usual.map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}, {knobs}}}", usual.join(", "))
    };
    for (knobs, wanted) in [
        (r#""num_stages": 2"#, "num_stages has no effect"),
        (r#""num_stages": 0"#, "num_stages 0"),
        (r#""reduction_loops": [0], "num_stages": 1"#, "reduction_loops 0"),
        (r#""reduction_loops": [4096, 4096], "num_stages": 1"#, "reduction_loops has 2 entries"),
        (r#""reduction_loops": [4096]"#, "num_stages is missing"),
        (r#""reduction_loops": [128], "num_stages": 2"#, "reduction_loops[0] = 128"),
        (r#""reduction_loops": [4096], "num_stages": 2, "block_sizes": [8]"#, "a warp each"),
        (r#""l2_groupings": [8]"#, "l2_groupings"),
        (r#""block_sizes": [256]"#, "more rows than threads"),
        (r#""block_sizes": [3]"#, "not one power of two"),
        (r#""split_k": 3"#, "split_k = 3"),
        (r#""split_k": 2, "block_sizes": [2]"#, "one row at a time"),
        (r#""split_k": 2, "reduction_loops": [4096], "num_stages": 2"#, "the whole of it"),
        (r#""mma": "simt_wide", "num_stages": 1"#, "no simt_wide"),
        (r#""mma": "wgmma""#, "this kernel is simt"),
    ] {
        let said = narrow(&whole(knobs));
        assert!(said.contains(wanted), "{knobs}: {said}");
    }
    assert!(
        narrow(r#"{"block_sizes": [1], "mma": "simt", "num_warps": 4, "reduction_loops": [null]}"#)
            .contains("pid_type is missing")
    );
    let long = refused(&whole(r#""num_warps": 32"#), "rows=4096,cols=131072", "h200");
    assert!(long.contains("shared memory") && long.contains("cols = 131072"), "{long}");
    let split = refused(&whole(r#""split_k": 8, "num_warps": 16"#), "rows=16,cols=128256", "a100");
    assert!(split.contains("sm_80 has no thread block clusters"), "{split}");
    let wide = refused(&whole(r#""mma": "simt_wide", "num_stages": 3"#), "rows=64,cols=1024", "b200");
    assert!(wide.contains("num_stages = 3"), "{wide}");
}

#[test]
fn half_precision_runs_what_bf16_does() {
    let program = |dtype| {
        let problem = Problem::parse(Family::RowSoftmax, "rows=4096,cols=8192", dtype).unwrap();
        let text = r#"{"block_sizes": [1], "mma": "simt", "num_warps": 8, "pid_type": "flat", "reduction_loops": [null], "split_k": 1}"#;
        spec(Family::RowSoftmax).program(&config(text), &problem, &GpuProfile::by_name("h200").unwrap()).unwrap()
    };
    let ((bf16, launch), (f16, same)) = (program(Dtype::Bf16), program(Dtype::F16));
    assert_eq!(bf16.to_string().replace("=bf16", "=f16"), f16.to_string());
    assert_eq!(launch, same);
}
