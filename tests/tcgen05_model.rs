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

/// The macros of a GEMM's config.
fn gemm(weights: &str, [m, n, k]: [u32; 3], stages: u32, decode_warps: u32) -> Vec<(&'static str, String)> {
    vec![
        ("WEIGHTS", weights.to_string()),
        ("BLOCK_M", m.to_string()),
        ("BLOCK_N", n.to_string()),
        ("BLOCK_K", k.to_string()),
        ("NUM_STAGES", stages.to_string()),
        ("DECODE_WARPS", decode_warps.to_string()),
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

#[test]
fn tiles_of_128_rows() {
    check(&gemm("Bf16", [128, 256, 64], 3, 0), &[[130, 520, 200, 1, 2, 0]]);
    check(&gemm("Fp4", [128, 128, 64], 4, 2), &[[130, 272, 264, 2, 3, 1]]);
    check(&gemm("Int16", [128, 64, 64], 4, 2), &[[130, 136, 136, 1, 1, 0]]);
}

#[test]
fn tiles_of_few_rows() {
    check(&gemm("Bf16", [64, 128, 64], 6, 0), &[[70, 136, 520, 4, 5, 0], [1, 128, 64, 1, 1, 0]]);
    check(&gemm("Int4", [16, 128, 128], 4, 10), &[[9, 272, 520, 2, 3, 1]]);
}

#[test]
fn pairs() {
    check(&gemm("Bf16", [256, 256, 64], 3, 0), &[[300, 520, 200, 2, 3, 1]]);
    check(&gemm("Int4", [256, 128, 64], 4, 2), &[[300, 272, 200, 1, 1, 0]]);
}
