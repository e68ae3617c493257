//! The tcgen05 kernels on a model of the hardware, `tests/gpu_model/`: their arithmetic of addresses against the layouts
//! that the tensor cores and the copy engine define, and their order of things, in which no access may depend on luck. Where
//! there is no such GPU this is the only run they get.
#![cfg(all(unix, feature = "harness"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "gpu_model/attention.rs"]
mod attention;
#[path = "gpu_model/harness.rs"]
mod harness;
#[path = "gpu_model/products.rs"]
mod products;

use attention::{Attention, Mask, masked};
use harness::{COPIES, Case, Cases, Change, check_launch, spread};
use kernel_sweep::model::{Dtype, Family, GpuProfile, Mma, Problem};
use products::{DEALT_OUT, Launches, RUNS, STRIDES, order_of};

// ---- The GEMM ----

/// Where decoded weights go, so many steps of them at once.
#[derive(Clone, Copy)]
enum Decoded {
    Nowhere,
    Shared { warps: u32, buffers: u32 },
    Tensor { warps: u32, buffers: u32 },
}

const BF16: Decoded = Decoded::Nowhere;

/// A config of the GEMM on [m, n, k] products with a split along k, programs and their order.
fn gemm(weights: &str, block: [u32; 3], stages: u32, sum_tiles: u32, decoded: Decoded, runs: &[[u32; 6]]) -> Case {
    let [m, n, k] = block;
    let (decode_warps, buffers, tensor_weights) = match decoded {
        Decoded::Nowhere => (0, 0, 0),
        Decoded::Shared { warps, buffers } => (warps, buffers, 0),
        Decoded::Tensor { warps, buffers } => (warps, buffers, 1),
    };
    let numbers = [
        ("BLOCK_M", m),
        ("BLOCK_N", n),
        ("BLOCK_K", k),
        ("NUM_STAGES", stages),
        ("DECODE_WARPS", decode_warps),
        ("BUFFERS", buffers),
        ("SUM_TILES", sum_tiles),
        ("TENSOR_WEIGHTS", tensor_weights),
    ];
    let weights = [("DTYPE", "bf16".to_string()), ("WEIGHTS", weights.to_string())];
    let numbers = numbers.into_iter().map(|(name, value)| (name, value.to_string()));
    Case {
        main: "gemm.cpp",
        macros: weights.into_iter().chain(numbers).collect(),
        runs: runs.iter().map(|run| [&run[..], &[0]].concat()).collect(),
    }
}

/// The same with weights that share scales, so many of them along k, and may share zero points.
fn grouped(case: Case, group: u32, zero_points: bool) -> Case {
    let is = |name: &str| case.macros.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    let mut macros = vec![("GROUP", group.min(is("BLOCK_K").parse().unwrap()).to_string())];
    if is("WEIGHTS") == "Int4Group" {
        macros.push(("ZERO_POINTS", u8::from(zero_points).to_string()));
    }
    let runs = case.runs.iter().map(|run| [&run[..run.len() - 1], &[group]].concat()).collect();
    Case { macros: [case.macros, macros].concat(), runs, ..case }
}

#[test]
fn tiles_of_128_rows() {
    let mut cases = Cases::default();
    gemm("Bf16", [128, 256, 64], 3, 2, BF16, &[[130, 520, 200, 1, 2, STRIDES]]).passes(&mut cases);
    let shared = Decoded::Shared { warps: 2, buffers: 2 };
    gemm("Fp4", [128, 128, 64], 4, 2, shared, &[[130, 272, 264, 2, 3, RUNS]]).passes(&mut cases);
    let shared = Decoded::Shared { warps: 2, buffers: 3 };
    gemm("Int16", [128, 64, 64], 4, 1, shared, &[[130, 136, 136, 1, 1, STRIDES]]).passes(&mut cases);
    cases.check();
}

#[test]
fn tiles_of_few_rows() {
    let mut cases = Cases::default();
    let runs = [[70, 136, 520, 4, 5, STRIDES], [1, 128, 64, 1, 1, STRIDES]];
    gemm("Bf16", [64, 128, 64], 6, 2, BF16, &runs).passes(&mut cases);
    gemm("Bf16", [48, 128, 128], 3, 2, BF16, &[[100, 136, 264, 1, 2, DEALT_OUT]]).passes(&mut cases);
    let shared = Decoded::Shared { warps: 10, buffers: 4 };
    gemm("Int4", [16, 128, 128], 4, 2, shared, &[[9, 272, 520, 2, 3, RUNS]]).passes(&mut cases);
    cases.check();
}

#[test]
fn columns_in_steps_of_sixteen() {
    let mut cases = Cases::default();
    gemm("Bf16", [128, 208, 64], 3, 2, BF16, &[[130, 424, 136, 2, 2, RUNS]]).passes(&mut cases);
    gemm("Bf16", [256, 96, 64], 3, 2, BF16, &[[300, 200, 136, 1, 1, DEALT_OUT]]).passes(&mut cases);
    let shared = Decoded::Shared { warps: 10, buffers: 3 };
    gemm("Int4", [256, 224, 64], 4, 2, shared, &[[300, 464, 136, 1, 1, STRIDES]]).passes(&mut cases);
    cases.check();
}

#[test]
fn pairs() {
    let mut cases = Cases::default();
    gemm("Bf16", [256, 256, 64], 3, 2, BF16, &[[300, 520, 200, 2, 3, RUNS]]).passes(&mut cases);
    gemm("Bf16", [256, 64, 128], 3, 2, BF16, &[[300, 136, 264, 1, 2, STRIDES]]).passes(&mut cases);
    let runs = [[530, 264, 136, 1, 1, STRIDES], [1030, 264, 136, 2, 1, DEALT_OUT]];
    gemm("Bf16", [512, 256, 64], 2, 1, BF16, &runs).passes(&mut cases);
    let shared = Decoded::Shared { warps: 2, buffers: 2 };
    gemm("Int4", [256, 128, 64], 4, 2, shared, &[[300, 272, 200, 1, 1, STRIDES]]).passes(&mut cases);
    // A pair takes one tile, some, as many as answers fit at once and one more, and all.
    let runs = [18, 7, 4, 1].map(|pairs| [1500, 136, 72, 1, pairs, DEALT_OUT]);
    gemm("Bf16", [256, 64, 64], 2, 2, BF16, &runs).passes(&mut cases);
    cases.check();
}

#[test]
fn weights_in_tensor_memory() {
    let mut cases = Cases::default();
    let tensor = |warps, buffers| Decoded::Tensor { warps, buffers };
    gemm("Int4", [16, 128, 128], 4, 2, tensor(8, 4), &[[9, 272, 520, 2, 3, RUNS]]).passes(&mut cases);
    gemm("Int16", [80, 128, 64], 4, 2, tensor(4, 3), &[[90, 264, 264, 1, 2, DEALT_OUT]]).passes(&mut cases);
    gemm("Fp4", [96, 256, 64], 4, 2, tensor(4, 2), &[[100, 528, 264, 2, 2, DEALT_OUT]]).passes(&mut cases);
    gemm("Int4", [256, 256, 64], 4, 1, tensor(8, 4), &[[260, 272, 136, 1, 1, STRIDES]]).passes(&mut cases);
    cases.check();
}

/// Groups shorter than a step, as long, and longer, of which the last may be short; one of all weights.
#[test]
fn weights_that_share_scales() {
    let mut cases = Cases::default();
    let shared = |warps, buffers| Decoded::Shared { warps, buffers };
    let tensor = |warps, buffers| Decoded::Tensor { warps, buffers };
    let int4 = |block, decoded, runs: &[[u32; 6]]| gemm("Int4Group", block, 3, 2, decoded, runs);
    grouped(int4([16, 128, 128], tensor(8, 3), &[[9, 272, 520, 2, 3, RUNS]]), 64, false).passes(&mut cases);
    grouped(int4([32, 128, 64], tensor(4, 2), &[[40, 144, 328, 1, 1, STRIDES]]), 128, true).passes(&mut cases);
    grouped(int4([96, 256, 64], tensor(8, 2), &[[100, 528, 136, 1, 2, DEALT_OUT]]), 32, true).passes(&mut cases);
    grouped(int4([128, 128, 64], shared(2, 2), &[[130, 144, 328, 1, 1, STRIDES]]), 128, false).passes(&mut cases);
    grouped(int4([256, 96, 128], shared(10, 2), &[[300, 208, 264, 2, 1, RUNS]]), 32, true).passes(&mut cases);
    grouped(int4([48, 128, 64], shared(10, 3), &[[50, 144, 264, 1, 1, DEALT_OUT]]), 264, true).passes(&mut cases);
    grouped(int4([16, 128, 64], tensor(4, 2), &[[9, 144, 264, 1, 1, STRIDES]]), 264, false).passes(&mut cases);
    let fp4 = |weights, block, decoded, runs: &[[u32; 6]]| gemm(weights, block, 3, 2, decoded, runs);
    grouped(fp4("Nvfp4", [16, 128, 64], tensor(8, 3), &[[9, 272, 328, 2, 3, RUNS]]), 16, false).passes(&mut cases);
    grouped(fp4("Nvfp4", [256, 128, 64], shared(2, 2), &[[300, 144, 136, 1, 1, STRIDES]]), 16, false)
        .passes(&mut cases);
    grouped(fp4("Mxfp4", [64, 256, 128], tensor(4, 2), &[[70, 272, 264, 1, 1, STRIDES]]), 32, false).passes(&mut cases);
    grouped(fp4("Mxfp4", [32, 128, 64], shared(10, 3), &[[40, 144, 328, 1, 1, DEALT_OUT]]), 32, false)
        .passes(&mut cases);
    cases.check();
}

/// A config of E4M3 products with scales of tensors (0), of rows and columns (1), or of blocks (128).
fn fp8(block: [u32; 3], stages: u32, scale_block: u32, runs: &[[u32; 6]]) -> Case {
    let case = gemm("E4m3", block, stages, 2, BF16, runs);
    let block_scales = ("BLOCK_SCALES", u8::from(scale_block == 128).to_string());
    let runs = case.runs.iter().map(|run| [&run[..run.len() - 1], &[scale_block]].concat()).collect();
    Case { macros: [case.macros, vec![block_scales]].concat(), runs, ..case }
}

#[test]
fn products_of_8_bit_floats() {
    let mut cases = Cases::default();
    fp8([128, 128, 128], 3, 0, &[[130, 264, 272, 1, 2, STRIDES]]).passes(&mut cases);
    fp8([16, 128, 256], 3, 1, &[[9, 272, 528, 2, 3, RUNS]]).passes(&mut cases);
    fp8([256, 128, 256], 2, 1, &[[300, 264, 272, 1, 1, DEALT_OUT]]).passes(&mut cases);
    fp8([256, 256, 128], 2, 1, &[[300, 264, 272, 2, 2, RUNS]]).passes(&mut cases);
    cases.check();
}

#[test]
fn products_of_8_bit_floats_whose_blocks_have_scales() {
    let mut cases = Cases::default();
    fp8([128, 64, 128], 3, 128, &[[130, 200, 272, 1, 2, STRIDES]]).passes(&mut cases);
    fp8([48, 128, 128], 3, 128, &[[50, 264, 528, 2, 1, DEALT_OUT]]).passes(&mut cases);
    fp8([112, 128, 256], 2, 128, &[[130, 136, 400, 1, 1, STRIDES]]).passes(&mut cases);
    fp8([256, 256, 128], 3, 128, &[[300, 520, 272, 1, 1, STRIDES]]).passes(&mut cases);
    fp8([128, 256, 128], 2, 128, &[[200, 264, 528, 2, 2, RUNS]]).passes(&mut cases);
    cases.check();
}

// ---- The launch ----

/// What the crate launches, tensor maps above all, is what the kernel's contract says of the shapes, by `gemm.cpp`, which is what
/// the model runs.
#[test]
fn the_crate_launches_what_the_model_runs() {
    let launches = Launches {
        main: "gemm.cpp",
        gpu: "b200",
        kinds: &[Mma::Tcgen05, Mma::Tcgen05Tmem],
        configs: 4,
        shapes: &[[700, 1040, 1056]],
        dtype: |family| *family.dtypes().first().unwrap(),
        split: 4,
        told: |count| match count {
            7 => &[0, 1, 2, 4, 5, 6],
            8 => &[0, 1, 2, 4, 5, 6, 7],
            _ => &[0, 1, 2, 4, 5, 6, 7, 8, 9, 10],
        },
    };
    launches.check();
}

// ---- Products of operands that both have scales ----

/// A config of the block-scaled GEMM on [m, n, k] products with a split along k, programs and their order.
fn block_scaled(format: &str, dtype: &str, block: [u32; 3], stages: u32, sum_tiles: u32, runs: &[[u32; 6]]) -> Case {
    let numbers = [
        ("BLOCK_M", block[0]),
        ("BLOCK_N", block[1]),
        ("BLOCK_K", block[2]),
        ("NUM_STAGES", stages),
        ("SUM_TILES", sum_tiles),
    ];
    let numbers = numbers.into_iter().map(|(name, value)| (name, value.to_string()));
    Case {
        main: "block_scaled.cpp",
        macros: [("FORMAT", format.into()), ("DTYPE", dtype.into())].into_iter().chain(numbers).collect(),
        runs: runs.iter().map(|run| run.to_vec()).collect(),
    }
}

/// The same of the kernel that decodes them, with the bytes of its copies and stores.
fn decoded_scaled(format: &str, dtype: &str, block: [u32; 3], warps: u32, vectors: [u32; 2], run: [u32; 6]) -> Case {
    let own = [("NUM_WARPS", warps), ("K_VECTOR_BYTES", vectors[0]), ("C_VECTOR_BYTES", vectors[1])];
    let mut case = block_scaled(format, dtype, block, 2, 1, &[run]);
    case.macros.retain(|(name, _)| *name != "SUM_TILES");
    case.macros.extend(own.map(|(name, value)| (name, value.to_string())));
    case
}

#[test]
fn block_scaled_tiles() {
    let mut cases = Cases::default();
    block_scaled("Nvfp4", "bf16", [128, 128, 256], 3, 2, &[[130, 264, 608, 1, 2, STRIDES]]).passes(&mut cases);
    block_scaled("Nvfp4", "f16", [128, 128, 512], 2, 1, &[[130, 264, 1120, 2, 3, RUNS]]).passes(&mut cases);
    block_scaled("Mxfp8", "f16", [128, 256, 128], 3, 1, &[[130, 264, 400, 2, 3, RUNS]]).passes(&mut cases);
    block_scaled("Mxfp8", "bf16", [128, 128, 256], 2, 2, &[[260, 136, 528, 1, 2, DEALT_OUT]]).passes(&mut cases);
    cases.check();
}

#[test]
fn block_scaled_pairs() {
    let mut cases = Cases::default();
    block_scaled("Nvfp4", "bf16", [256, 256, 256], 3, 1, &[[300, 264, 608, 1, 2, DEALT_OUT]]).passes(&mut cases);
    block_scaled("Nvfp4", "bf16", [256, 128, 256], 3, 2, &[[530, 136, 544, 2, 3, STRIDES]]).passes(&mut cases);
    block_scaled("Mxfp8", "bf16", [256, 256, 128], 3, 1, &[[300, 520, 272, 1, 1, RUNS]]).passes(&mut cases);
    cases.check();
}

#[test]
fn block_scaled_tiles_of_few_rows() {
    let mut cases = Cases::default();
    block_scaled("Nvfp4", "bf16", [16, 128, 256], 4, 2, &[[9, 264, 1056, 2, 3, STRIDES], [1, 128, 32, 1, 1, RUNS]])
        .passes(&mut cases);
    block_scaled("Nvfp4", "bf16", [32, 256, 512], 2, 2, &[[30, 520, 608, 1, 2, DEALT_OUT]]).passes(&mut cases);
    // Rows of the second tile have the third and the fourth column of a block of scales.
    block_scaled("Nvfp4", "f16", [64, 128, 256], 3, 2, &[[190, 136, 288, 1, 2, RUNS]]).passes(&mut cases);
    block_scaled("Mxfp8", "bf16", [64, 256, 128], 4, 2, &[[150, 520, 400, 1, 2, STRIDES]]).passes(&mut cases);
    block_scaled("Mxfp8", "f16", [16, 128, 256], 4, 2, &[[16, 264, 1040, 2, 3, STRIDES]]).passes(&mut cases);
    cases.check();
}

/// The kernel for other GPUs, on the same products: its warps' own products and copies are modelled as well.
#[test]
fn block_scaled_operands_that_warps_decode() {
    let mut cases = Cases::default();
    decoded_scaled("Nvfp4", "bf16", [64, 64, 128], 4, [4, 4], [70, 130, 328, 1, 3, STRIDES]).passes(&mut cases);
    decoded_scaled("Nvfp4", "f16", [16, 32, 256], 1, [2, 2], [9, 67, 76, 1, 2, RUNS]).passes(&mut cases);
    decoded_scaled("Mxfp8", "f16", [32, 128, 256], 4, [2, 2], [41, 133, 334, 1, 2, RUNS]).passes(&mut cases);
    decoded_scaled("Mxfp8", "bf16", [128, 32, 128], 2, [16, 16], [140, 40, 144, 1, 9, STRIDES]).passes(&mut cases);
    cases.check();
}

#[test]
fn the_crate_launches_the_block_scaled_products_that_the_model_runs() {
    const CONFIGS: usize = 6;
    let mut cases = Cases::default();
    let profile = GpuProfile::by_name("b200").unwrap();
    for (family, m) in [Family::MatmulNvfp4Nvfp4, Family::MatmulMxfp8].into_iter().flat_map(|it| [(it, 700), (it, 30)])
    {
        let [n, k] = [1040, 2080];
        let problem = Problem::new(family, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16).unwrap();
        for config in spread(&problem, &profile, CONFIGS, &[Mma::Tcgen05]) {
            check_launch(&mut cases, "block_scaled.cpp", &problem, &profile, &config, |launch| {
                ([&[m, n, k][..], &order_of(&config, launch, 4)].concat(), &[0, 1, 2, 4, 5, 6])
            });
        }
    }
    cases.check();
}

#[test]
fn block_scaled_products_with_something_left_out_are_refused() {
    const SCALED: &str = "gemm_block_scaled_tcgen05.cu";
    const HEADER: &str = "tcgen05_scaled.cuh";
    const DECODING: &str = "gemm_block_scaled.cu";
    let mut cases = Cases::default();
    let nvfp4 = || block_scaled("Nvfp4", "bf16", [128, 128, 256], 2, 2, &[[300, 136, 1056, 1, 1, STRIDES]]);
    let mxfp8 = || block_scaled("Mxfp8", "bf16", [64, 128, 128], 2, 2, &[[190, 136, 528, 1, 1, STRIDES]]);
    let pair = || block_scaled("Mxfp8", "bf16", [256, 128, 128], 2, 2, &[[600, 136, 528, 1, 1, STRIDES]]);
    let full = Change(SCALED, "ptx::mbarrier_wait(stage.of(base + FULL), stage.parity);", "");
    for case in [nvfp4(), mxfp8(), pair()] {
        case.refuses(&mut cases, &[full], &["a product reads what", COPIES, "tcgen05.cp writes tensor memory"]);
    }
    let empty =
        Change(SCALED, "ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);\n                const", "const");
    for case in [nvfp4(), pair()] {
        case.refuses(&mut cases, &[empty], &[COPIES, "more arrivals"]);
    }
    // Scales of one stage where those of another are still read: nobody promises that a copy waits for products.
    let once = Change(SCALED, "SCALES_AT + stage.index * SCALE_COLUMNS", "SCALES_AT");
    for case in [nvfp4(), mxfp8(), pair()] {
        case.refuses(&mut cases, &[once], &["tcgen05.cp writes tensor memory that others may still use"]);
    }
    let uncopied = Change(SCALED, "copy_scales(scales, ptx", "if (step == work.begin) copy_scales(scales, ptx");
    nvfp4().refuses(&mut cases, &[uncopied], &["is ", "other scales", "a scale of code", "being written"]);
    let stored = Change(SCALED, "tiles.await_stored(sums);\n            ptx::tcgen05_after", "ptx::tcgen05_after");
    for case in [nvfp4(), pair()] {
        case.refuses(&mut cases, &[stored], &SUMS);
    }
    let summed = Change(TILES, "ptx::mbarrier_wait(sums.of(base + SUMMED), sums.parity);", "");
    nvfp4().refuses(&mut cases, &[summed], &SUMS);
    // What is told of the operands and of their scales.
    for (case, change, words) in [
        (mxfp8(), Change(SCALED, "IS_E2M1 ? 0 : within", "0"), "C["),
        (nvfp4(), Change(SCALED, "IS_E2M1 ? 0 : within", "within"), "picks bytes of scales"),
        (mxfp8(), Change(HEADER, "(is_e2m1 ? 0u : 1u) << 23", "0u << 23"), "not of this kind's products"),
        (nvfp4(), Change(HEADER, "is_e2m1 ? 1 : 0", "0"), "not of this kind's products"),
        (nvfp4(), Change(HEADER, "u64{128 >> 4} << 32", "u64{64 >> 4} << 32"), "C["),
        (mxfp8(), Change(SCALED, "scales + BLOCK_COLUMNS + first_column", "scales + BLOCK_COLUMNS"), "C["),
        (nvfp4(), Change(SCALED, "scales + BLOCK_COLUMNS + first_column", "scales"), "C["),
        (pair(), Change(SCALED, "second_tile / block_scaled::BLOCK_ROWS", "second_row / 256"), "C["),
        (pair(), Change(SCALED, "first_row / block_scaled::BLOCK_ROWS", "row / block_scaled::BLOCK_ROWS"), "C["),
        (
            pair(),
            Change(SCALED, "ptx::tcgen05_copy_scales<CTAS>", "ptx::tcgen05_copy_scales<1>"),
            "tcgen05.cp by 1 programs",
        ),
    ] {
        case.refuses(&mut cases, &[change], &[words]);
    }
    let columns = Change(
        SCALED,
        "power_of_two_from(32, SCALES_AT + NUM_STAGES * SCALE_COLUMNS)",
        "power_of_two_from(32, SCALES_AT)",
    );
    nvfp4().refuses(&mut cases, &[columns], &["of tensor memory, of which"]);
    // The kernel that decodes.
    let decoded = || decoded_scaled("Mxfp8", "bf16", [64, 64, 128], 4, [16, 16], [70, 72, 656, 1, 1, STRIDES]);
    for change in [
        Change(DECODING, "ptx::cp_async_wait<NUM_STAGES - 2>();", ""),
        Change(
            DECODING,
            "step * SCALE_BLOCKS, thread);\n                copy_scales<BLOCK_N>",
            "0, thread);\n                copy_scales<BLOCK_N>",
        ),
        Change("block_scaled.cuh", "row / 32 % 4 * 4", "row / 32 % 4"),
        Change(DECODING, "sums[2] * lower * left", "sums[2] * upper * left"),
    ] {
        decoded().refuses(&mut cases, &[change], &["C[", "not aligned"]);
    }
    let unsynchronized = Change(DECODING, "__syncthreads();  // this stage", "// this stage");
    decoded().refuses(&mut cases, &[unsynchronized], &["others may still read or write", "may not be written yet"]);
    cases.check();
}

// ---- What the model must refuse: the GEMM with something left out ----

const KERNEL: &str = "gemm_tcgen05.cu";
/// Tiles and the way of sums to C.
const TILES: &str = "tcgen05_gemm.cuh";
const TCGEN05: &str = "tcgen05.cuh";

fn bf16() -> Case {
    gemm("Bf16", [64, 128, 64], 2, 2, BF16, &[[150, 136, 264, 1, 1, STRIDES]])
}
fn split() -> Case {
    gemm("Bf16", [64, 128, 64], 2, 2, BF16, &[[70, 136, 264, 2, 3, STRIDES]])
}
fn decoded() -> Case {
    let shared = Decoded::Shared { warps: 2, buffers: 2 };
    gemm("Int4", [16, 128, 64], 3, 2, shared, &[[40, 144, 264, 1, 1, STRIDES]])
}
fn held() -> Case {
    let tensor = Decoded::Tensor { warps: 4, buffers: 2 };
    gemm("Int4", [16, 128, 64], 3, 2, tensor, &[[40, 144, 264, 1, 1, STRIDES]])
}
fn pair() -> Case {
    gemm("Bf16", [256, 64, 64], 2, 2, BF16, &[[600, 72, 264, 1, 1, STRIDES]])
}
fn decoded_pair() -> Case {
    let shared = Decoded::Shared { warps: 2, buffers: 2 };
    gemm("Int4", [256, 128, 64], 3, 2, shared, &[[300, 144, 264, 1, 1, STRIDES]])
}
fn dealt_out() -> Case {
    gemm("Bf16", [256, 64, 64], 2, 2, BF16, &[[1500, 136, 72, 1, 1, DEALT_OUT]])
}

/// Without this text of the kernel.
const fn without(text: &'static str) -> Change {
    Change(KERNEL, text, "")
}

// Whoever comes first finds that the order is missing: those who use what was not waited for, or those who use it next.
const SUMS: [&str; 2] =
    ["a product writes tensor memory that others may still use", "tcgen05.ld of what is being written"];
const STORED_DRAIN: &str = "for (int i = 0; i < SUM_TILES; ++i, sums.advance()) tiles.await_stored(sums);";
const EMPTY_DRAIN: &str = "for (int i = 0; i < NUM_STAGES; ++i, stage.advance()) ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);";

#[test]
fn a_missing_wait_is_refused() {
    let mut cases = Cases::default();
    let full = without("ptx::mbarrier_wait(stage.of(base + FULL), stage.parity);");
    for case in [bf16(), decoded(), held(), pair(), decoded_pair()] {
        case.refuses(&mut cases, &[full], &["a product reads what", COPIES]);
    }
    let ready = without("if constexpr (DECODED) ptx::mbarrier_wait(buffer.of(base + READY), buffer.parity);");
    for case in [decoded(), decoded_pair()] {
        // What decodes may be the later of the two.
        case.refuses(
            &mut cases,
            &[ready],
            &["a product reads what", "a thread writes where others may still read or write"],
        );
    }
    held().refuses(&mut cases, &[ready], &["a product reads tensor memory that is being written", COPIES]);
    let raw = without("ptx::mbarrier_wait(stage.of(base + RAW), stage.parity);");
    decoded().refuses(&mut cases, &[raw], &["a thread reads what may not be written yet", COPIES]);
    held().refuses(&mut cases, &[raw], &["a thread reads what may not be written yet", COPIES]);
    let empty = Change(
        KERNEL,
        "ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);\n                copy_step",
        "copy_step",
    );
    for case in [bf16(), decoded(), held(), pair()] {
        case.refuses(&mut cases, &[empty], &[COPIES, "more arrivals"]);
    }
    let reused = without("ptx::mbarrier_wait(reused.of(base + EMPTY), reused.parity);");
    decoded().refuses(
        &mut cases,
        &[reused],
        &["a thread writes where others may still read or write", "a product reads what", "the grid hangs"],
    );
    held().refuses(&mut cases, &[reused], &["tcgen05.st where others may still read or write"]);
    let drained = without("tiles.await_stored(sums);\n            ");
    for case in [bf16(), pair()] {
        case.refuses(&mut cases, &[drained], &SUMS);
    }
    let summed = Change(TILES, "ptx::mbarrier_wait(sums.of(base + SUMMED), sums.parity);", "");
    for case in [bf16(), pair()] {
        case.refuses(&mut cases, &[summed], &SUMS);
    }
    let taken =
        Change(TILES, "await_taken(answer);\n        ptx::mbarrier_arrive_expect", "ptx::mbarrier_arrive_expect");
    dealt_out().refuses(
        &mut cases,
        &[taken],
        &["clusterlaunchcontrol.try_cancel writes where", "more arrivals", "in the midst of a phase"],
    );
    let answered = Change(TILES, "ptx::mbarrier_wait(answer.of(base + ANSWERED), answer.parity);", "");
    dealt_out().refuses(
        &mut cases,
        &[answered],
        &["a thread reads what may not be written yet", "clusterlaunchcontrol.try_cancel writes where"],
    );
    let read = Change(TILES, "if (lane == 0) ptx::tma_store_wait_read<1>();", "");
    bf16().refuses(&mut cases, &[read], &["a thread writes where others may still read or write"]);
    cases.check();
}

/// What weights share is waited for like the weights, and is that of their own columns and group.
#[test]
fn scales_of_others_are_refused() {
    let mut cases = Cases::default();
    let tensor = Decoded::Tensor { warps: 4, buffers: 2 };
    let of_tensor =
        || grouped(gemm("Int4Group", [16, 128, 128], 3, 2, tensor, &[[9, 144, 264, 1, 1, STRIDES]]), 64, true);
    let shared = Decoded::Shared { warps: 2, buffers: 2 };
    let of_shared =
        || grouped(gemm("Int4Group", [16, 128, 64], 3, 2, shared, &[[9, 144, 264, 1, 1, STRIDES]]), 128, true);
    let wrong = ["C["];
    of_tensor().refuses(&mut cases, &[without(" || i * SHARES * BLOCK_DEPTH % GROUP_K == 0")], &wrong);
    of_tensor().refuses(
        &mut cases,
        &[without("32 * quarter + 2 * (lane / 4)"), Change(KERNEL, "columns_on()", "columns_on(0)")],
        &wrong,
    );
    of_shared().refuses(&mut cases, &[without(".columns_on(8 * column)")], &wrong);
    of_shared().refuses(&mut cases, &[without("/ scaling.group_steps")], &wrong);
    let raw = without("ptx::mbarrier_wait(stage.of(base + RAW), stage.parity);");
    let bytes = without(" + SCALES_COPIED");
    let first = Change(KERNEL, "SCALE_STAGES + stage.index * SCALES_BYTES;", "SCALE_STAGES;");
    for case in [of_tensor(), of_shared()] {
        case.refuses(&mut cases, &[raw], &["a thread reads what may not be written yet", COPIES]);
        case.refuses(&mut cases, &[bytes], &["bytes are counted in a later phase"]);
        case.refuses(&mut cases, &[first], &["a thread reads what may not be written yet", COPIES, "C["]);
    }
    cases.check();
}

/// Sums of 128 of k take turns in tensor memory, and are scaled by what belongs to them.
#[test]
fn sums_of_8_bit_floats_take_turns() {
    let mut cases = Cases::default();
    let of_rows = || fp8([16, 128, 128], 2, 1, &[[9, 136, 272, 1, 1, STRIDES]]);
    let of_few = || fp8([48, 128, 128], 2, 128, &[[50, 136, 656, 1, 1, STRIDES]]);
    let of_pairs = || fp8([256, 64, 128], 2, 128, &[[600, 72, 528, 1, 1, STRIDES]]);
    let summed = Change(TILES, "ptx::mbarrier_wait(sums.of(base + SUMMED), sums.parity);", "");
    let stored = without("tiles.await_stored(sums);\n                ");
    let before = Change(
        TILES,
        "ptx::tcgen05_before_signal();\n        __syncwarp();\n        if (threadIdx",
        "__syncwarp();\n        if (threadIdx",
    );
    let after = Change(KERNEL, "ptx::tcgen05_after_signal();\n                add_block", "add_block");
    for case in [of_few(), of_pairs()] {
        case.refuses(&mut cases, &[summed], &SUMS);
        case.refuses(&mut cases, &[stored], &SUMS);
        case.refuses(&mut cases, &[before], &["a product writes tensor memory that others may still use"]);
        case.refuses(&mut cases, &[after], &["no tcgen05.fence::after_thread_sync follows the wait"]);
        case.refuses(&mut cases, &[without("ahead[i].fetch(scales, storer, first + i + AHEAD);")], &["C["]);
    }
    let unread = without("__syncwarp();  // the warp has read the last ones");
    of_few().refuses(
        &mut cases,
        &[unread],
        &["a thread writes where others may still read or write", "a thread reads what may not be written yet"],
    );
    of_few().refuses(&mut cases, &[Change(KERNEL, "SWAPPED && !PROMOTED ?", "SWAPPED ?")], &["C["]);
    of_few().refuses(
        &mut cases,
        &[Change(KERNEL, "B_PANEL_BYTES + part * 32 : k16", "B_PANEL_BYTES + part * 16 : k16")],
        &["C["],
    );
    of_rows().refuses(
        &mut cases,
        &[without("if constexpr (FP8) TileScales<Source>(source, rank, work, storer).apply(values, column);")],
        &["C["],
    );
    for case in [of_rows(), of_few()] {
        case.refuses(&mut cases, &[Change(TCGEN05, "kind::f8f6f4", "kind::f16")], &["that is not of bf16 products"]);
        let major = Change(KERNEL, "B_MAJOR = FP8 ? Major::K", "B_MAJOR = FP8 ? Major::MN");
        case.refuses(&mut cases, &[major], &["an MN-major operand"]);
    }
    cases.check();
}

#[test]
fn a_missing_signal_hangs() {
    let mut cases = Cases::default();
    for (case, change) in [
        (bf16(), without("ptx::tcgen05_commit<CTAS>(stage.of(base + EMPTY));")),
        (pair(), without("tiles.say_summed(sums);")),
        (pair(), Change(TCGEN05, "\"h\"(static_cast<u16>(3))", "\"h\"(static_cast<u16>(1))")),
        (decoded(), without("if (thread % 32 == 0) ptx::mbarrier_arrive_first<CTAS>(buffer.of(base + READY));")),
        (bf16(), Change(KERNEL, "CTAS * (A_BYTES + (DECODED ? 0 : B_BYTES))", "CTAS * (A_BYTES + B_BYTES) + 16")),
    ] {
        case.refuses(&mut cases, &[change], &["the grid hangs"]);
    }
    cases.check();
}

#[test]
fn tensor_memory_ends_where_it_was_allocated() {
    let mut cases = Cases::default();
    let words = ["of tensor memory, of which"];
    let anywhere = Change(KERNEL, "multiply_step(tensor_memory + sums.index", "multiply_step(sums.index");
    bf16().refuses(&mut cases, &[anywhere], &words);
    pair().refuses(&mut cases, &[anywhere], &words);
    let from_zero = Change(TILES, "return tensor_memory + (quarter", "return (quarter");
    bf16().refuses(&mut cases, &[from_zero], &words);
    let weights = Change(KERNEL, "tensor_memory + WEIGHTS_AT + buffer.index", "WEIGHTS_AT + buffer.index");
    held().refuses(
        &mut cases,
        &[weights],
        &["of tensor memory, of which", "tcgen05.st where others may still read or write"],
    );
    let half = Change(
        KERNEL,
        "TMEM_COLUMNS = tcgen05_gemm::power_of_two_from(32, WEIGHTS_AT + ALL_WEIGHT_COLUMNS);",
        "TMEM_COLUMNS = tcgen05_gemm::power_of_two_from(32, WEIGHTS_AT + ALL_WEIGHT_COLUMNS) / 2;",
    );
    bf16().refuses(&mut cases, &[half], &words);
    held().refuses(&mut cases, &[half], &words);
    let lanes = Change(TILES, "(quarter << 21)", "(quarter << 20)");
    bf16().refuses(&mut cases, &[lanes], &["reaches lanes from"]);
    cases.check();
}

#[test]
fn tensor_memory_is_allocated_and_freed_once() {
    const ALLOCATE: &str = "asm volatile(\"tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;\" :: \"r\"(shared), \"n\"(COLUMNS) : \"memory\");";
    const RELINQUISH: &str =
        "asm volatile(\"tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;\" ::: \"memory\");";
    const FREE: &str = "if (warp == MULTIPLYING_WARP) ptx::tmem_free<CTAS, TMEM_COLUMNS>(tensor_memory);";
    let mut cases = Cases::default();
    bf16().refuses(&mut cases, &[Change(TCGEN05, RELINQUISH, "")], &["without giving the permit to allocate back"]);
    let early = [
        Change(TCGEN05, RELINQUISH, ""),
        Change(
            TCGEN05,
            ALLOCATE,
            concat!(
                "asm volatile(\"tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;\" ::: \"memory\"); ",
                "asm volatile(\"tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;\" :: \"r\"(shared), \"n\"(COLUMNS) : \"memory\");"
            ),
        ),
    ];
    bf16().refuses(&mut cases, &early, &["tcgen05.alloc after relinquish_alloc_permit"]);
    for case in [bf16(), pair()] {
        case.refuses(&mut cases, &[without(FREE)], &["tensor memory that it did not free"]);
        let twice = Change(
            KERNEL,
            FREE,
            concat!(
                "if (warp == MULTIPLYING_WARP) ptx::tmem_free<CTAS, TMEM_COLUMNS>(tensor_memory);",
                "if (warp == MULTIPLYING_WARP) ptx::tmem_free<CTAS, TMEM_COLUMNS>(tensor_memory);"
            ),
        );
        case.refuses(&mut cases, &[twice], &["tcgen05.dealloc of what is not allocated"]);
        let part = Change(
            KERNEL,
            FREE,
            "if (warp == MULTIPLYING_WARP) ptx::tmem_free<CTAS, TMEM_COLUMNS / 2>(tensor_memory);",
        );
        case.refuses(&mut cases, &[part], &["tcgen05.dealloc of"]);
    }
    let assertion = "static_assert(COLUMNS >= 32 && COLUMNS <= 512 && (COLUMNS & (COLUMNS - 1)) == 0, \"TMEM columns: 32 ... 512\");";
    for (columns, seen) in [("48 + TMEM_COLUMNS", "176 columns"), ("16", "16 columns")] {
        let odd: &'static str = Box::leak(format!("ptx::tmem_allocate<CTAS, {columns}>").into_boxed_str());
        let changes = [Change(TCGEN05, assertion, ""), Change(KERNEL, "ptx::tmem_allocate<CTAS, TMEM_COLUMNS>", odd)];
        bf16().refuses(&mut cases, &changes, &[&format!("{seen} of tensor memory: it must be a power of two")]);
    }
    let alone = Change(KERNEL, "ptx::tcgen05_commit<CTAS>(stage", "ptx::tcgen05_commit<1>(stage");
    pair().refuses(&mut cases, &[alone], &["tcgen05.commit by 1 programs"]);
    cases.check();
}

#[test]
fn loads_of_tensor_memory_give_nothing_before_their_wait() {
    const WAIT: &str = "ptx::tmem_wait(values);";
    let mut cases = Cases::default();
    for case in [bf16(), split(), pair()] {
        case.refuses(&mut cases, &[Change(TILES, WAIT, "")], &["tcgen05.wait::ld"]);
    }
    bf16().refuses(
        &mut cases,
        &[Change(TCGEN05, "asm volatile(\"tcgen05.wait::ld.sync.aligned;\" ::: \"memory\");", "")],
        &["tcgen05.wait::ld"],
    );
    let early = Change(TILES, WAIT, "const float early = values[0][3]; ptx::tmem_wait(values); values[0][3] = early;");
    bf16().refuses(&mut cases, &[early], &["is nan, not"]);
    held().refuses(
        &mut cases,
        &[without("ptx::tmem_wait_stores();")],
        &["a product reads tensor memory that is being written"],
    );
    cases.check();
}

#[test]
fn missing_tcgen05_fences_are_refused() {
    let mut cases = Cases::default();
    let before_drained = Change(TILES, "ptx::tcgen05_before_signal();\n        __syncwarp();", "__syncwarp();");
    for case in [bf16(), pair()] {
        case.refuses(&mut cases, &[before_drained], &["a product writes tensor memory that others may still use"]);
    }
    let before_ready = Change(KERNEL, "ptx::tcgen05_before_signal();\n                } else", "} else");
    held().refuses(&mut cases, &[before_ready], &["a product reads tensor memory that is being written"]);
    let before_end = Change(
        KERNEL,
        "ptx::tcgen05_before_signal();\n    tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    if (warp",
        "tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    if (warp",
    );
    let after_end = Change(
        KERNEL,
        "tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    if (warp",
        "tcgen05_gemm::sync_all<CTAS>();\n    if (warp",
    );
    for case in [bf16(), pair()] {
        case.refuses(
            &mut cases,
            &[before_end, before_drained],
            &["tcgen05.dealloc of what others", "a product writes tensor memory"],
        );
        case.refuses(
            &mut cases,
            &[after_end],
            &["tcgen05.dealloc of what others may still use: no tcgen05.fence::after_thread_sync"],
        );
    }
    let after_full = Change(KERNEL, "ptx::tcgen05_after_signal();\n                multiply_step", "multiply_step");
    for case in [bf16(), decoded(), held(), pair()] {
        case.refuses(&mut cases, &[after_full], &["no tcgen05.fence::after_thread_sync follows"]);
    }
    let after_summed = Change(TILES, "ptx::tcgen05_after_signal();\n            const u32 tile", "const u32 tile");
    bf16().refuses(&mut cases, &[after_summed], &["no tcgen05.fence::after_thread_sync follows the wait"]);
    let after_raw = Change(KERNEL, "ptx::tcgen05_after_signal();\n                    hold_step", "hold_step");
    held().refuses(&mut cases, &[after_raw], &["no tcgen05.fence::after_thread_sync follows the wait"]);
    cases.check();
}

#[test]
fn missing_proxy_fences_are_refused() {
    const READY: &str = "ptx::mbarrier_arrive_first<CTAS>(buffer.of(base + READY))";
    let mut cases = Cases::default();
    let decoded_weights = Change(
        KERNEL,
        "buffer.index * OPERAND_BYTES, thread);\n                    ptx::fence_async_shared();",
        "buffer.index * OPERAND_BYTES, thread);",
    );
    for case in [decoded(), decoded_pair()] {
        case.refuses(&mut cases, &[decoded_weights], &["no fence shows it", "may not be done"]);
    }
    let box_of_c = Change(
        TILES,
        "ptx::fence_async_shared();\n        __syncwarp();\n        if (lane",
        "__syncwarp();\n        if (lane",
    );
    for case in [bf16(), split(), pair()] {
        case.refuses(
            &mut cases,
            &[box_of_c],
            &["the copy engine reads what a write by a thread is known of, but no fence shows it"],
        );
    }
    // The lanes' fences come before they meet the one that signals.
    let unmet = Change(
        KERNEL,
        "__syncwarp();\n                if (thread % 32 == 0) ptx::mbarrier_arrive_first",
        "if (thread % 32 == 0) ptx::mbarrier_arrive_first",
    );
    decoded().refuses(&mut cases, &[unmet], &["a product reads what"]);
    // Nor is what a thread wrote told by a signal that promises nothing of it.
    let relaxed = Change(KERNEL, READY, "ptx::mbarrier_arrive_first_relaxed<CTAS>(buffer.of(base + READY))");
    for case in [decoded(), decoded_pair()] {
        case.refuses(&mut cases, &[relaxed], &["a product reads what"]);
    }
    cases.check();
}

#[test]
fn barriers_are_initialized_where_all_see_it() {
    let mut cases = Cases::default();
    let words = ["a barrier whose initialization", "no barrier was initialized"];
    for case in [bf16(), decoded(), pair()] {
        case.refuses(&mut cases, &[without("ptx::fence_mbarrier_init();")], &words);
    }
    let unmet = Change(
        KERNEL,
        "ptx::tcgen05_before_signal();\n    tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    const u32",
        "const u32",
    );
    bf16().refuses(
        &mut cases,
        &[unmet],
        &["a barrier whose initialization", "no barrier was initialized", "a thread reads what may not be written yet"],
    );
    // Each program by itself is not enough for the other's barriers.
    let alone = Change(
        KERNEL,
        "ptx::tcgen05_before_signal();\n    tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    const u32",
        "ptx::tcgen05_before_signal();\n    __syncthreads();\n    ptx::tcgen05_after_signal();\n    const u32",
    );
    pair().refuses(&mut cases, &[alone], &words);
    cases.check();
}

#[test]
fn programs_of_a_pair_wait_for_each_other() {
    let mut cases = Cases::default();
    let start = without("if (CTAS > 1) tcgen05_gemm::sync_all<CTAS>();");
    pair().refuses(&mut cases, &[start], &["a program that may not have begun"]);
    let end = Change(
        KERNEL,
        "tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    if (warp",
        "__syncthreads();\n    ptx::tcgen05_after_signal();\n    if (warp",
    );
    let drain = without(EMPTY_DRAIN);
    let stored = without(STORED_DRAIN);
    pair().refuses(&mut cases, &[end, drain, stored], &["a program leaves", "a program that has left"]);
    pair().refuses(&mut cases, &[end, stored], &["a program leaves", "a program that has left"]);
    dealt_out().refuses(&mut cases, &[end, stored], &["a program leaves", "a program that has left"]);
    cases.check();
}

/// When a pair meets at its end, what one program has signalled to the other may still be on its way: it has come where the phase that
/// it belongs to was seen to end.
#[test]
fn nobody_leaves_before_the_last_signals_of_the_other_have_come() {
    let mut cases = Cases::default();
    let words = ["without having waited for the last arrivals of others"];
    let scaled = || block_scaled("Mxfp8", "bf16", [256, 128, 128], 2, 2, &[[1500, 136, 144, 1, 2, DEALT_OUT]]);
    let one_each = || gemm("Bf16", [256, 64, 64], 2, 2, BF16, &[[300, 136, 72, 1, 6, DEALT_OUT]]);
    let taken = Change(TILES, "for (int i = 0; i < ANSWERS; ++i, answer.advance()) await_taken(answer);", "");
    for case in [dealt_out(), scaled(), one_each()] {
        case.refuses(&mut cases, &[taken], &words);
    }
    let but_one = Change(TILES, "i < ANSWERS; ++i, answer.advance()", "i < ANSWERS - 1; ++i, answer.advance()");
    dealt_out().refuses(&mut cases, &[but_one], &words);
    for case in [pair(), dealt_out()] {
        case.refuses(&mut cases, &[without(STORED_DRAIN)], &words);
    }
    let stored = Change("gemm_block_scaled_tcgen05.cu", STORED_DRAIN, "");
    scaled().refuses(&mut cases, &[stored], &words);
    cases.check();
}

#[test]
fn nobody_leaves_what_is_under_way() {
    let mut cases = Cases::default();
    let drain = without(EMPTY_DRAIN);
    for case in [bf16(), decoded(), pair()] {
        case.refuses(&mut cases, &[drain], &["a program leaves"]);
    }
    let boxes = Change(TILES, "if (thread % 32 == 0) ptx::tma_store_wait_read<0>();", "");
    for case in [bf16(), pair()] {
        case.refuses(&mut cases, &[boxes], &["a program leaves"]);
    }
    let end = Change(
        KERNEL,
        "tcgen05_gemm::sync_all<CTAS>();\n    ptx::tcgen05_after_signal();\n    if (warp",
        "ptx::tcgen05_after_signal();\n    if (warp",
    );
    let stored = without(STORED_DRAIN);
    bf16().refuses(&mut cases, &[end, stored], &["tcgen05.dealloc of what others may still use"]);
    cases.check();
}

#[test]
fn lanes_come_together_before_aligned_instructions() {
    let mut cases = Cases::default();
    let words = ["an aligned instruction in a warp that is not together"];
    let load = Change(TILES, "Values values;\n                __syncwarp();", "Values values;");
    for case in [bf16(), pair()] {
        case.refuses(&mut cases, &[load], &words);
    }
    let hold = Change(KERNEL, "if constexpr (HELD) {\n                    __syncwarp();", "if constexpr (HELD) {");
    held().refuses(&mut cases, &[hold], &words);
    cases.check();
}

#[test]
fn parts_of_k_are_added_by_whoever_is_last() {
    let mut cases = Cases::default();
    let words = [
        "global memory that another program may not have written",
        "global memory that others may still read or write",
    ];
    let relaxed = Change(TCGEN05, "atom.add.acq_rel.gpu", "atom.add.relaxed.gpu");
    split().refuses(&mut cases, &[relaxed], &words);
    split().refuses(&mut cases, &[Change(TCGEN05, "atom.add.acq_rel.gpu", "atom.add.release.gpu")], &words);
    split().refuses(&mut cases, &[Change(TCGEN05, "atom.add.acq_rel.gpu", "atom.add.acquire.gpu")], &words);
    let before = Change(
        TILES,
        "ptx::barrier_sync<STORING_THREADS>(STORING_BARRIER);\n        if (thread == 0) {",
        "if (thread == 0) {",
    );
    split().refuses(&mut cases, &[before], &["global memory", "shared memory"]);
    // Programs run at once: whoever takes himself for the last before the others have come finds their parts missing.
    let hasty = Change(
        TILES,
        "ptx::count_acquire_release(count) == tiles.schedule.split_k - 1u",
        "ptx::count_acquire_release(count) == 0",
    );
    split().refuses(&mut cases, &[hasty], &["global memory", "is nan", "a count of arrivals is left"]);
    cases.check();
}

#[test]
fn shared_memory_ends_where_the_launch_says() {
    let mut cases = Cases::default();
    bf16().refuses(
        &mut cases,
        &[Change(
            KERNEL,
            "constexpr int SMEM_BYTES = READY + 8 * BUFFERS;",
            "constexpr int SMEM_BYTES = TENSOR_MEMORY;",
        )],
        &["beyond the program's shared memory"],
    );
    cases.check();
}

// ---- Attention ----

/// A config of attention with heads of that many elements, padded, on problems.
fn attention(head: u32, [block_q, block_kv]: [u32; 2], stages: u32, problems: &[Attention]) -> Case {
    let macros = [("HEAD_DIM", head), ("BLOCK_Q", block_q), ("BLOCK_KV", block_kv), ("NUM_STAGES", stages)];
    attention::config(macros, problems)
}

#[test]
fn attention_whose_weights_take_the_place_of_scores() {
    let mut cases = Cases::default();
    let problems = [
        Attention { programs: 2, ..Attention::of([1, 300, 200, 128]) },
        Attention { rising: 40, ..Attention::of([1, 130, 300, 120]) },
    ];
    attention(128, [256, 128], 2, &problems).passes(&mut cases);
    attention(192, [256, 64], 2, &[Attention::of([2, 140, 150, 192])]).passes(&mut cases);
    cases.check();
}

#[test]
fn attention_whose_weights_lie_apart() {
    let mut cases = Cases::default();
    let problems = [
        Attention { contiguous: true, programs: 2, ..Attention::of([3, 40, 257, 64]) },
        Attention { rising: 40, ..Attention::of([2, 260, 300, 64]) },
    ];
    attention(64, [256, 128], 3, &problems).passes(&mut cases);
    let of_splits = Attention { splits: 2, programs: 3, ..Attention::of([2, 150, 200, 40]) };
    attention(48, [256, 96], 2, &[of_splits]).passes(&mut cases);
    attention(128, [256, 64], 2, &[Attention { rising: 40, ..Attention::of([1, 256, 128, 128]) }]).passes(&mut cases);
    cases.check();
}

#[test]
fn attention_of_few_queries_with_splits() {
    let mut cases = Cases::default();
    let problems = [
        Attention { splits: 3, programs: 4, ..Attention::of([3, 1, 600, 128]) },
        Attention { splits: 4, programs: 2, contiguous: true, ..Attention::of([2, 1, 129, 128]) },
    ];
    attention(128, [128, 128], 2, &problems).passes(&mut cases);
    let rising = Attention { splits: 2, programs: 2, rising: 30, ..Attention::of([1, 33, 300, 96]) };
    attention(96, [128, 96], 3, &[rising]).passes(&mut cases);
    let of_large_heads = Attention { splits: 2, programs: 3, ..Attention::of([2, 130, 150, 256]) };
    attention(256, [128, 64], 2, &[of_large_heads]).passes(&mut cases);
    cases.check();
}

/// Tiles of one head and of several, blocks that a query sees nothing of, queries before the first key, windows, both orders.
#[test]
fn attention_under_a_mask() {
    let mut cases = Cases::default();
    let mask = |queries, window, sharing, section| Some(Mask { queries, window, sharing, section });
    let problems = [
        Attention { mask: mask(300, 300, 2, 2), programs: 2, ..Attention::of([2, 300, 300, 64]) },
        Attention { mask: mask(140, 60, 1, 1), programs: 2, contiguous: true, ..Attention::of([1, 140, 60, 64]) },
    ];
    masked(attention(64, [256, 128], 3, &problems)).passes(&mut cases);
    let problems = [
        Attention { mask: mask(40, 500, 1, 3), splits: 2, programs: 3, ..Attention::of([2, 80, 500, 128]) },
        Attention { mask: mask(200, 70, 1, 1), rising: 40, ..Attention::of([1, 200, 330, 128]) },
    ];
    masked(attention(128, [128, 64], 2, &problems)).passes(&mut cases);
    cases.check();
}

/// What the crate launches is what the kernel's contract says of the shapes, by `attention.cpp`, which is what the model runs: for
/// some configs of the space, evenly spread.
#[test]
fn the_crate_launches_the_attention_that_the_model_runs() {
    attention::check_launches("b200", Mma::Tcgen05, 5, [[1, 3000, 128], [700, 520, 72]]);
}

/// What each of these lines is there for: without it the model refuses the kernel.
#[test]
fn attention_that_leaves_something_out_is_refused() {
    let mut cases = Cases::default();
    let rising = Attention { rising: 40, ..Attention::of([2, 130, 330, 64]) };
    let of_one_block = Attention::of([3, 130, 100, 64]);
    // Of several lines, which name the place, the first is left out.
    let without: [(Attention, &str, &[&str]); 13] = [
        (rising, "ptx::tmem_wait(values);\n        if", &["tcgen05.wait::ld"]),
        (rising, "ptx::tmem_wait_stores();\n            signal", &["that is being written"]),
        (rising, "ptx::tcgen05_before_signal();\n    __syncwarp();\n    if", &["may not be done"]),
        (
            rising,
            "if constexpr (APART) ptx::mbarrier_wait(barriers.scores_read, scores.next(panel) ^ 1);",
            &["may still use", "may not be done", "hangs"],
        ),
        (rising, "await(barriers.weights_read, phases.next(WEIGHTS_READ) ^ 1);", &["may not be done"]),
        (
            rising,
            "if (step.is_first()) ptx::mbarrier_wait(barriers.sums_empty, sums.next(panel) ^ 1);",
            &["may still use"],
        ),
        (rising, "await(barriers.sums_full, phase);", &["may not be done"]),
        (rising, "if (panel == 0) ptx::mbarrier_wait(values.full(), values.phase);", &["may not be done"]),
        (rising, "wait_empty(panel);\n                ptx::mbarrier_arrive_expect", &["may not be done", "may still"]),
        (rising, "ptx::mbarrier_wait(values.empty(), values.phase ^ 1);", &["without having waited"]),
        (rising, "if (any_raised) rescale_sums(rescale);", &["out["]),
        (of_one_block, "if (keys < BLOCK_KV) mask(values, keys);", &["out["]),
        (
            of_one_block,
            "ptx::mbarrier_wait(softmax.barriers.sums_empty, softmax.phases.next(Softmax::SUMS_EMPTY) ^ 1);",
            &["may still read or write", "may not be done"],
        ),
    ];
    for (problem, line, words) in without {
        attention(64, [256, 128], 2, &[problem]).refuses(&mut cases, &[without_first(line)], words);
    }
    cases.check();
}

const ATTENTION: &str = "attention_tcgen05.cu";

/// Without the first of several lines, which name the place.
fn without_first(lines: &'static str) -> Change {
    let (_, rest) = lines.split_once('\n').unwrap_or((lines, ""));
    Change(ATTENTION, lines, rest)
}

/// The same of what each of its layouts needs: weights apart, weights in the place of scores, and masked scores.
#[test]
fn attention_of_each_layout_that_does_not_wait_is_refused() {
    let mut cases = Cases::default();
    let rising = |head_dim| Attention { rising: 40, ..Attention::of([1, 130, 330, head_dim]) };
    let apart = attention(64, [256, 128], 2, &[rising(64)]);
    let in_place = attention(128, [256, 128], 2, &[rising(128)]);
    let causal = |window, kv_seq| {
        let mask = Some(Mask { queries: 140, window, sharing: 1, section: 1 });
        masked(attention(64, [256, 128], 2, &[Attention { mask, ..Attention::of([1, 140, kv_seq, 64]) }]))
    };
    let others = ["may not be done", "others may still", "no tcgen05.fence::after_thread_sync follows"];
    for case in [&apart, &in_place, &causal(400, 400)] {
        for (lines, words) in [
            (
                "if (step.is_first()) ptx::mbarrier_wait(barriers.queries_full, queries.next(panel));",
                &["a product reads what"][..],
            ),
            ("if (panel == 0) ptx::mbarrier_wait(keys.full(), keys.phase);", &["a product reads what"]),
            ("await(barriers.scores_full, phases.next(SCORES_FULL));", &others),
            ("ptx::mbarrier_wait(ring.empty(), ring.phase ^ 1);", &[COPIES, "more arrivals", "the grid hangs"]),
            ("ptx::mbarrier_wait(keys.empty(), keys.phase ^ 1);", &["without having waited"]),
            ("for (int panel = 0; panel < PANELS; ++panel) wait_empty(panel);", &["without having waited"]),
            (
                "ptx::mbarrier_wait(barriers.statistics_full, phase);",
                &["a thread reads what", "a thread writes where others"],
            ),
        ] {
            case.refuses(&mut cases, &[without_first(lines)], words);
        }
        let weights = "await(barriers.weights_full + part * 8, weights_phase);";
        case.refuses(&mut cases, &[Change(ATTENTION, weights, "ptx::tcgen05_after_signal();")], &others);
    }
    // What takes the place of scores is not overwritten by the next, and lies in its own panel's.
    let early = Change(ATTENTION, "const bool early = APART && ", "const bool early = ");
    in_place.refuses(&mut cases, &[early], &["may not be done", "the grid hangs"]);
    in_place.refuses(&mut cases, &[Change(ATTENTION, "APART ? BLOCK_KV / 2 : BLOCK_KV;", "BLOCK_KV / 2;")], &others);
    in_place.refuses(
        &mut cases,
        &[without_first("ptx::tmem_wait_stores();\n            signal")],
        &["that is being written"],
    );
    in_place.refuses(&mut cases, &[without_first("if (any_raised) rescale_sums(rescale);")], &["out["]);
    in_place.refuses(&mut cases, &[without_first("await(barriers.sums_full, phase);")], &others);
    // The mask: keys after the query, keys before its window, queries before the first key and such as see nothing of a block.
    let hide = without_first(
        "if (tile.all.hides(key, BLOCK_KV)) hide(values, tile, tile.reach(panel * PANEL + thread, key));",
    );
    for case in [causal(200, 200), causal(60, 60), causal(100, 400)] {
        case.refuses(&mut cases, &[hide], &["out["]);
    }
    let unseen = without_first("if (softmax.row.maximum == LOWEST) softmax.row.sum = 0.0f;");
    causal(60, 60).refuses(&mut cases, &[unseen], &["out["]);
    let lowest = Change(ATTENTION, "fmaxf(maximum_of(values) * scale_log2, LOWEST)", "maximum_of(values) * scale_log2");
    causal(60, 60).refuses(&mut cases, &[lowest], &["out["]);
    cases.check();
}

/// What one instruction moves is aligned to as much.
#[test]
fn unaligned_loads_and_stores_of_global_memory_are_refused() {
    let mut cases = Cases::default();
    // Rows of 80 bytes are no whole sectors of 32.
    let sectors = Change(ATTENTION, "if (head_dim % 16 == 0) {", "if (head_dim % 8 == 0) {");
    attention(48, [256, 96], 2, &[Attention::of([1, 150, 100, 40])]).refuses(
        &mut cases,
        &[sectors],
        &["a store of 32 bytes of global memory, 16 past"],
    );
    let parts = "reinterpret_cast<float4*>(parts) +";
    let stored = Change(TILES, parts, "reinterpret_cast<float4*>(parts + 1) +");
    split().refuses(&mut cases, &[stored], &["a store of 16 bytes of global memory, 4 past"]);
    let loaded = Change(
        TILES,
        "ptx::load_at_l2(part + (column / 4 + i) * 128)",
        "ptx::load_at_l2(reinterpret_cast<const float4*>(reinterpret_cast<const float*>(part + (column / 4 + i) * 128) + 2))",
    );
    split().refuses(&mut cases, &[loaded], &["a load of 16 bytes of global memory, 8 past"]);
    cases.check();
}
