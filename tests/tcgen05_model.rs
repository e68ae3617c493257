//! The tcgen05 kernels on a model of the hardware, `tests/tcgen05_model/`: their arithmetic of addresses against the layouts
//! that the tensor cores and the copy engine define, and their order of things, in which no access may depend on luck. Where
//! there is no such GPU this is the only run they get.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tcgen05_model/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel compiled with the model.
struct Model {
    _folder: tempfile::TempDir,
    program: PathBuf,
}

impl Model {
    /// Compiles `main` with the kernels; nothing where there is no compiler. `changed` may change a source by its name.
    fn new(main: &str, macros: &[(&str, String)], changed: impl Fn(&str, String) -> String) -> Option<Self> {
        if Command::new("c++").arg("--version").output().is_err() {
            eprintln!("skipped: there is no C++ compiler `c++` here");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        for (from, extensions) in [("kernels", ["cu"]), ("kernels/include", ["cuh"])] {
            for entry in fs::read_dir(root.join(from)).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                if extensions.iter().any(|extension| path.extension().is_some_and(|it| it == *extension)) {
                    let text = changed(name, fs::read_to_string(&path).unwrap());
                    fs::write(folder.path().join(name), source::for_the_host(&text)).unwrap();
                }
            }
        }
        let program = folder.path().join("main");
        let output = Command::new("c++")
            .args(["-std=c++17", "-O1", "-w", "-U_FORTIFY_SOURCE", "-I"])
            .arg(root.join("tests/tcgen05_model"))
            .arg("-I")
            .arg(folder.path())
            .args(macros.iter().map(|(name, value)| format!("-D{name}={value}")))
            .arg(root.join("tests/tcgen05_model").join(main))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Self { _folder: folder, program })
    }

    /// Runs it; what it is refused for, if it is.
    fn run(&self, arguments: &[u32]) -> Result<(), String> {
        let output = Command::new(&self.program).args(arguments.iter().map(u32::to_string)).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}

/// Where decoded weights go, by how many warps, and so many steps of them at once.
#[derive(Clone, Copy)]
enum Decoded {
    Nowhere,
    Shared { warps: u32, buffers: u32 },
    Tensor { warps: u32, buffers: u32 },
}

/// Orders of the programs.
const STRIDES: u32 = 0;
const RUNS: u32 = 1;
const DEALT_OUT: u32 = 2;

/// The macros of a GEMM's config; `sum_tiles` have their sums in tensor memory at once.
fn gemm(
    weights: &str,
    [m, n, k]: [u32; 3],
    stages: u32,
    sum_tiles: u32,
    decoded: Decoded,
) -> Vec<(&'static str, String)> {
    let (decode_warps, buffers, tensor_weights) = match decoded {
        Decoded::Nowhere => (0, 0, 0),
        Decoded::Shared { warps, buffers } => (warps, buffers, 0),
        Decoded::Tensor { warps, buffers } => (warps, buffers, 1),
    };
    vec![
        ("WEIGHTS", weights.to_string()),
        ("BLOCK_M", m.to_string()),
        ("BLOCK_N", n.to_string()),
        ("BLOCK_K", k.to_string()),
        ("NUM_STAGES", stages.to_string()),
        ("DECODE_WARPS", decode_warps.to_string()),
        ("BUFFERS", buffers.to_string()),
        ("SUM_TILES", sum_tiles.to_string()),
        ("TENSOR_WEIGHTS", tensor_weights.to_string()),
    ]
}

/// How many orders of things each product is run in.
const SEEDS: u32 = 3;

/// Runs a GEMM's config on [m, n, k] products with a split along k, programs and their order.
fn check(macros: &[(&str, String)], runs: &[[u32; 6]]) {
    let Some(model) = Model::new("gemm.cpp", macros, |_, text| text) else { return };
    for arguments in runs {
        for seed in 0..SEEDS {
            let arguments: Vec<u32> = arguments.iter().copied().chain([seed]).collect();
            if let Err(refusal) = model.run(&arguments) {
                panic!("{macros:?} {arguments:?}: {refusal}");
            }
        }
    }
}

const BF16: Decoded = Decoded::Nowhere;

#[test]
fn tiles_of_128_rows() {
    check(&gemm("Bf16", [128, 256, 64], 3, 2, BF16), &[[130, 520, 200, 1, 2, STRIDES]]);
    let shared = |buffers| Decoded::Shared { warps: 2, buffers };
    check(&gemm("Fp4", [128, 128, 64], 4, 2, shared(2)), &[[130, 272, 264, 2, 3, RUNS]]);
    check(&gemm("Int16", [128, 64, 64], 4, 1, shared(3)), &[[130, 136, 136, 1, 1, STRIDES]]);
}

#[test]
fn tiles_of_few_rows() {
    check(&gemm("Bf16", [64, 128, 64], 6, 2, BF16), &[[70, 136, 520, 4, 5, STRIDES], [1, 128, 64, 1, 1, STRIDES]]);
    check(&gemm("Bf16", [48, 128, 128], 3, 2, BF16), &[[100, 136, 264, 1, 2, DEALT_OUT]]);
    let shared = Decoded::Shared { warps: 10, buffers: 4 };
    check(&gemm("Int4", [16, 128, 128], 4, 2, shared), &[[9, 272, 520, 2, 3, RUNS]]);
}

#[test]
fn columns_in_steps_of_sixteen() {
    check(&gemm("Bf16", [128, 208, 64], 3, 2, BF16), &[[130, 424, 136, 2, 2, RUNS]]);
    check(&gemm("Bf16", [256, 96, 64], 3, 2, BF16), &[[300, 200, 136, 1, 1, DEALT_OUT]]);
    let shared = Decoded::Shared { warps: 10, buffers: 3 };
    check(&gemm("Int4", [256, 224, 64], 4, 2, shared), &[[300, 464, 136, 1, 1, STRIDES]]);
}

#[test]
fn pairs() {
    check(&gemm("Bf16", [256, 256, 64], 3, 2, BF16), &[[300, 520, 200, 2, 3, RUNS]]);
    check(&gemm("Bf16", [256, 64, 128], 3, 2, BF16), &[[300, 136, 264, 1, 2, STRIDES]]);
    let shared = Decoded::Shared { warps: 2, buffers: 2 };
    check(&gemm("Int4", [256, 128, 64], 4, 2, shared), &[[300, 272, 200, 1, 1, STRIDES]]);
}

#[test]
fn tiles_that_fill_the_tensor_memory() {
    check(
        &gemm("Bf16", [512, 256, 64], 2, 1, BF16),
        &[[1030, 264, 72, 1, 1, STRIDES], [530, 264, 136, 2, 1, DEALT_OUT]],
    );
}

#[test]
fn weights_in_tensor_memory() {
    let tensor = |warps, buffers| Decoded::Tensor { warps, buffers };
    check(&gemm("Int4", [16, 128, 128], 4, 2, tensor(8, 4)), &[[9, 272, 520, 2, 3, RUNS]]);
    check(&gemm("Int16", [80, 128, 64], 4, 2, tensor(4, 3)), &[[90, 264, 264, 1, 2, DEALT_OUT]]);
    check(&gemm("Fp4", [96, 256, 64], 4, 2, tensor(4, 2)), &[[100, 528, 264, 2, 2, DEALT_OUT]]);
    check(&gemm("Int4", [256, 256, 64], 4, 1, tensor(8, 4)), &[[260, 272, 136, 1, 1, STRIDES]]);
}
