//! The tcgen05 kernel on a model of the hardware, `tests/tcgen05_model/`: its arithmetic of addresses against the layouts
//! that the tensor cores and the copy engine define, and its barriers, which must neither hang nor let a buffer be reused.
//! Where there is no such GPU this is the only run it gets.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Headers that are plain C++; the model takes the place of the others.
const HEADERS: [&str; 5] = ["decode.cuh", "gemm_macros.cuh", "layout.cuh", "scheduler.cuh", "tcgen05_operands.cuh"];
const MODELLED: [&str; 3] = ["ptx.cuh", "streaming.cuh", "tcgen05.cuh"];

/// Compiles the kernel with the model and runs it on [m, n, k] products with a split along k, programs and their order.
fn check(weights: &str, block: [u32; 3], stages: u32, decode_warps: u32, runs: &[[u32; 6]]) {
    if Command::new("c++").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler `c++` here");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, name: &str| fs::copy(root.join(from).join(name), folder.path().join(name)).unwrap();
    copy("kernels", "gemm_tcgen05.cu");
    for name in HEADERS {
        copy("kernels/include", name);
    }
    for name in ["model.h", "main.cpp"] {
        copy("tests/tcgen05_model", name);
    }
    for name in MODELLED {
        fs::write(folder.path().join(name), "#include \"model.h\"\n#include \"tcgen05_operands.cuh\"\n").unwrap();
    }
    let [m, n, k] = block;
    let macros =
        [("BLOCK_M", m), ("BLOCK_N", n), ("BLOCK_K", k), ("NUM_STAGES", stages), ("DECODE_WARPS", decode_warps)];
    let program = folder.path().join("main");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new("c++")
        .args(["-std=c++17", "-O1", "-pthread", "-w"])
        .args(macros.map(|(name, value)| format!("-D{name}={value}")))
        .arg(format!("-DWEIGHTS={weights}"))
        .arg(folder.path().join("main.cpp"))
        .arg("-o")
        .arg(&program));
    for arguments in runs {
        run(Command::new(&program).args(arguments.map(|argument| argument.to_string())));
    }
}

#[test]
fn tiles_of_128_rows() {
    check("Bf16", [128, 256, 64], 3, 0, &[[130, 520, 200, 1, 2, 0]]);
    check("Fp4", [128, 128, 64], 4, 2, &[[130, 272, 264, 2, 3, 1]]);
    check("Int16", [128, 64, 64], 4, 2, &[[130, 136, 136, 1, 1, 0]]);
}

#[test]
fn tiles_of_few_rows() {
    check("Bf16", [64, 128, 64], 6, 0, &[[70, 136, 520, 4, 5, 0], [1, 128, 64, 1, 1, 0]]);
    check("Int4", [16, 128, 128], 4, 10, &[[9, 272, 520, 2, 3, 1]]);
}

#[test]
fn pairs() {
    check("Bf16", [256, 256, 64], 3, 0, &[[300, 520, 200, 2, 3, 1]]);
    check("Int4", [256, 128, 64], 4, 2, &[[300, 272, 200, 1, 1, 0]]);
}
