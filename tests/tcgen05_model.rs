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

/// Where decoded weights go, so many steps of them at once.
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

/// Compiles the kernel with the model and runs it on [m, n, k] products with a split along k, programs and their order.
fn check(weights: &str, block: [u32; 3], stages: u32, sum_tiles: u32, decoded: Decoded, runs: &[[u32; 6]]) {
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
    let (decode_warps, buffers, tensor_weights) = match decoded {
        Decoded::Nowhere => (0, 0, 0),
        Decoded::Shared { warps, buffers } => (warps, buffers, 0),
        Decoded::Tensor { warps, buffers } => (warps, buffers, 1),
    };
    let macros = [
        ("BLOCK_M", m),
        ("BLOCK_N", n),
        ("BLOCK_K", k),
        ("NUM_STAGES", stages),
        ("DECODE_WARPS", decode_warps),
        ("BUFFERS", buffers),
        ("SUM_TILES", sum_tiles),
        ("TENSOR_WEIGHTS", tensor_weights),
    ];
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

const BF16: Decoded = Decoded::Nowhere;

#[test]
fn tiles_of_128_rows() {
    check("Bf16", [128, 256, 64], 3, 2, BF16, &[[130, 520, 200, 1, 2, STRIDES]]);
    check("Fp4", [128, 128, 64], 4, 2, Decoded::Shared { warps: 2, buffers: 2 }, &[[130, 272, 264, 2, 3, RUNS]]);
    check("Int16", [128, 64, 64], 4, 1, Decoded::Shared { warps: 2, buffers: 3 }, &[[130, 136, 136, 1, 1, STRIDES]]);
}

#[test]
fn tiles_of_few_rows() {
    check("Bf16", [64, 128, 64], 6, 2, BF16, &[[70, 136, 520, 4, 5, STRIDES], [1, 128, 64, 1, 1, STRIDES]]);
    check("Bf16", [48, 128, 128], 3, 2, BF16, &[[100, 136, 264, 1, 2, DEALT_OUT]]);
    check("Int4", [16, 128, 128], 4, 2, Decoded::Shared { warps: 10, buffers: 4 }, &[[9, 272, 520, 2, 3, RUNS]]);
}

#[test]
fn columns_in_steps_of_sixteen() {
    check("Bf16", [128, 208, 64], 3, 2, BF16, &[[130, 424, 136, 2, 2, RUNS]]);
    check("Bf16", [256, 96, 64], 3, 2, BF16, &[[300, 200, 136, 1, 1, DEALT_OUT]]);
    check("Int4", [256, 224, 64], 4, 2, Decoded::Shared { warps: 10, buffers: 3 }, &[[300, 464, 136, 1, 1, STRIDES]]);
}

#[test]
fn pairs() {
    check("Bf16", [256, 256, 64], 3, 2, BF16, &[[300, 520, 200, 2, 3, RUNS]]);
    check("Bf16", [256, 64, 128], 3, 2, BF16, &[[300, 136, 264, 1, 2, STRIDES]]);
    check("Bf16", [512, 256, 64], 2, 1, BF16, &[[530, 264, 136, 1, 1, STRIDES], [1030, 264, 136, 2, 1, DEALT_OUT]]);
    check("Int4", [256, 128, 64], 4, 2, Decoded::Shared { warps: 2, buffers: 2 }, &[[300, 272, 200, 1, 1, STRIDES]]);
}

#[test]
fn weights_in_tensor_memory() {
    check("Int4", [16, 128, 128], 4, 2, Decoded::Tensor { warps: 8, buffers: 4 }, &[[9, 272, 520, 2, 3, RUNS]]);
    check("Int16", [80, 128, 64], 4, 2, Decoded::Tensor { warps: 4, buffers: 3 }, &[[90, 264, 264, 1, 2, DEALT_OUT]]);
    check("Fp4", [96, 256, 64], 4, 2, Decoded::Tensor { warps: 4, buffers: 2 }, &[[100, 528, 264, 2, 2, DEALT_OUT]]);
    check("Int4", [256, 256, 64], 4, 1, Decoded::Tensor { warps: 8, buffers: 4 }, &[[260, 272, 136, 1, 1, STRIDES]]);
}
