//! Hopper's products and attention on a model of the hardware, `tests/gpu_model/`: their arithmetic of addresses against the layouts that
//! the tensor cores and the copy engine define, and their order of things, in which no access may depend on luck.
#![cfg(all(unix, feature = "harness"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "gpu_model/attention.rs"]
mod attention;
#[path = "gpu_model/harness.rs"]
mod harness;
#[path = "gpu_model/products.rs"]
mod products;

use attention::{Attention, Mask, masked};
use harness::{COPIES, Case, Cases, Change};
use kernel_sweep::model::{Dtype, Family, Mma};
use products::{Launches, RUNS, STRIDES};

/// As many clusters as tiles, as split products have.
const ALL: u32 = 99;

/// Bytes that the rows of A, B and C are aligned to: the copy engine takes them.
const ENGINE: [u32; 3] = [16; 3];

fn case(macros: &[(&'static str, u32)], named: &[(&'static str, &str)], runs: &[[u32; 7]]) -> Case {
    let numbers = macros.iter().map(|(name, value)| (*name, value.to_string()));
    let names = named.iter().map(|(name, value)| (*name, (*value).to_string()));
    Case {
        main: "wgmma.cpp",
        macros: names.chain(numbers).collect(),
        runs: runs.iter().map(|run| run.to_vec()).collect(),
    }
}

/// A config of gemm_wgmma.cu on [m, n, k] products with a split along k, clusters, their order, and weights that share a scale.
fn gemm(weights: &str, block: [u32; 3], [warps, stages]: [u32; 2], vectors: [u32; 3], runs: &[[u32; 7]]) -> Case {
    let numbers = [
        ("BLOCK_M", block[0]),
        ("BLOCK_N", block[1]),
        ("BLOCK_K", block[2]),
        ("NUM_WARPS", warps),
        ("NUM_STAGES", stages),
        ("A_VECTOR_BYTES", vectors[0]),
        ("B_VECTOR_BYTES", vectors[1]),
        ("C_VECTOR_BYTES", vectors[2]),
        ("BY_WARP", 0),
        ("REALIGNED", 0),
    ];
    case(&numbers, &[("DTYPE", if weights == "F16" { "f16" } else { "bf16" }), ("WEIGHTS", weights)], runs)
}

/// The same of gemm_fp8.cu, transposed or not; what shares a scale is the last number of a run.
fn fp8(transposed: bool, block: [u32; 3], [warps, stages]: [u32; 2], vectors: [u32; 2], run: [u32; 7]) -> Case {
    let numbers = [
        ("TRANSPOSED", u32::from(transposed)),
        ("BLOCK_M", block[0]),
        ("BLOCK_N", block[1]),
        ("BLOCK_K", block[2]),
        ("NUM_WARPS", warps),
        ("NUM_STAGES", stages),
        ("K_VECTOR_BYTES", vectors[0]),
        ("C_VECTOR_BYTES", vectors[1]),
        ("BLOCK_SCALES", u32::from(run[6] == 128)),
        ("REALIGNED", 0),
    ];
    case(&numbers, &[], &[run])
}

/// The same with other macros, or one more.
fn with(mut case: Case, macros: &[(&'static str, u32)]) -> Case {
    for (name, value) in macros {
        case.macros.retain(|(known, _)| known != name);
        case.macros.push((name, value.to_string()));
    }
    case
}

#[test]
fn tiles_of_the_copy_engine() {
    let mut cases = Cases::default();
    gemm("Bf16", [64, 64, 64], [4, 3], ENGINE, &[[70, 72, 200, 1, 2, STRIDES, 0]]).passes(&mut cases);
    gemm("F16", [48, 128, 128], [4, 2], ENGINE, &[[100, 136, 264, 1, 2, RUNS, 0], [1, 128, 64, 1, 1, RUNS, 0]])
        .passes(&mut cases);
    gemm("Bf16", [128, 256, 64], [8, 3], ENGINE, &[[130, 520, 136, 1, 1, STRIDES, 0]]).passes(&mut cases);
    gemm("Bf16", [256, 128, 64], [8, 3], ENGINE, &[[300, 136, 72, 1, 2, RUNS, 0]]).passes(&mut cases);
    gemm("Bf16", [24, 128, 64], [8, 3], ENGINE, &[[70, 144, 520, 4, ALL, STRIDES, 0]]).passes(&mut cases);
    cases.check();
}

#[test]
fn weights_to_be_decoded() {
    let mut cases = Cases::default();
    gemm("Int4", [24, 128, 128], [8, 3], ENGINE, &[[70, 144, 520, 4, ALL, STRIDES, 0]]).passes(&mut cases);
    gemm("Fp4", [128, 256, 64], [8, 3], ENGINE, &[[130, 528, 136, 1, 2, STRIDES, 0]]).passes(&mut cases);
    gemm("Int16", [256, 128, 64], [8, 3], ENGINE, &[[300, 264, 136, 1, 2, STRIDES, 0]]).passes(&mut cases);
    gemm("Int4", [32, 256, 128], [16, 2], ENGINE, &[[40, 272, 264, 1, 1, RUNS, 0]]).passes(&mut cases);
    cases.check();
}

/// Groups shorter than a step, as long, and longer; one of all weights.
#[test]
fn weights_that_share_scales() {
    let mut cases = Cases::default();
    let int4 = |block, groups, zero_points: u32, run: [u32; 7]| {
        let case = gemm("Int4Group", block, groups, ENGINE, &[run]);
        with(case, &[("GROUP", run[6].min(block[2])), ("ZERO_POINTS", zero_points)])
    };
    int4([32, 256, 64], [16, 3], 1, [40, 272, 264, 2, ALL, STRIDES, 128]).passes(&mut cases);
    int4([64, 128, 128], [4, 2], 0, [70, 144, 328, 1, 2, RUNS, 64]).passes(&mut cases);
    int4([16, 64, 64], [4, 4], 1, [20, 80, 264, 1, 1, STRIDES, 264]).passes(&mut cases);
    let nvfp4 = gemm("Nvfp4", [64, 128, 128], [8, 3], ENGINE, &[[70, 144, 328, 1, 2, STRIDES, 16]]);
    with(nvfp4, &[("GROUP", 16)]).passes(&mut cases);
    let mxfp4 = gemm("Mxfp4", [16, 256, 64], [8, 3], ENGINE, &[[20, 272, 200, 2, ALL, RUNS, 32]]);
    with(mxfp4, &[("GROUP", 32)]).passes(&mut cases);
    cases.check();
}

#[test]
fn warps_that_multiply_by_themselves() {
    let mut cases = Cases::default();
    let by_warp = |case| with(case, &[("BY_WARP", 1)]);
    by_warp(gemm("Bf16", [16, 64, 128], [4, 3], ENGINE, &[[20, 72, 520, 2, ALL, RUNS, 0]])).passes(&mut cases);
    by_warp(gemm("Int4", [8, 256, 128], [8, 3], ENGINE, &[[9, 272, 264, 1, 2, STRIDES, 0]])).passes(&mut cases);
    let nvfp4 = by_warp(gemm("Nvfp4", [8, 128, 128], [8, 3], ENGINE, &[[9, 272, 264, 1, 2, STRIDES, 16]]));
    with(nvfp4, &[("GROUP", 16)]).passes(&mut cases);
    by_warp(gemm("F16", [16, 64, 64], [4, 4], [2, 2, 2], &[[9, 131, 333, 2, ALL, RUNS, 0]])).passes(&mut cases);
    cases.check();
}

#[test]
fn rows_that_the_copy_engine_does_not_take() {
    let mut cases = Cases::default();
    gemm("Int4", [64, 64, 64], [4, 6], [4, 2, 4], &[[70, 130, 334, 1, 2, RUNS, 0]]).passes(&mut cases);
    gemm("Bf16", [48, 128, 64], [4, 5], [4, 4, 4], &[[70, 130, 334, 1, 2, RUNS, 0]]).passes(&mut cases);
    gemm("Bf16", [64, 64, 64], [4, 3], [2, 8, 8], &[[130, 68, 333, 1, 1, STRIDES, 0]]).passes(&mut cases);
    gemm("Int16", [32, 128, 64], [8, 8], [2, 16, 16], &[[70, 136, 801, 4, ALL, RUNS, 0]]).passes(&mut cases);
    gemm("Fp4", [256, 128, 64], [8, 3], [16, 1, 2], &[[260, 131, 200, 1, 1, RUNS, 0]]).passes(&mut cases);
    let groups = gemm("Int4Group", [64, 64, 64], [4, 6], [16, 2, 4], &[[70, 134, 328, 1, 2, RUNS, 64]]);
    with(groups, &[("GROUP", 64), ("ZERO_POINTS", 1)]).passes(&mut cases);
    let realigned =
        |bits, vectors, run| with(gemm("Bf16", [64, 64, 64], [4, 4], vectors, &[run]), &[("REALIGNED", bits)]);
    realigned(3, [16, 16, 2], [70, 131, 333, 1, 9, RUNS, 0]).passes(&mut cases);
    realigned(1, [16, 16, 16], [70, 136, 333, 1, 2, STRIDES, 0]).passes(&mut cases);
    realigned(2, [16, 16, 4], [70, 130, 336, 1, 2, STRIDES, 0]).passes(&mut cases);
    cases.check();
}

#[test]
fn products_of_8_bit_floats() {
    let mut cases = Cases::default();
    fp8(true, [24, 128, 128], [8, 3], [16, 16], [70, 144, 528, 4, ALL, STRIDES, 0]).passes(&mut cases);
    fp8(false, [256, 128, 128], [8, 2], [16, 16], [300, 144, 272, 1, 2, RUNS, 1]).passes(&mut cases);
    fp8(false, [128, 64, 256], [4, 2], [16, 4], [130, 70, 400, 1, 1, RUNS, 0]).passes(&mut cases);
    fp8(true, [48, 256, 256], [8, 2], [4, 4], [49, 202, 268, 1, 2, RUNS, 1]).passes(&mut cases);
    let realigned = fp8(true, [64, 128, 128], [4, 3], [16, 2], [70, 131, 333, 1, 6, RUNS, 0]);
    with(realigned, &[("REALIGNED", 1)]).passes(&mut cases);
    cases.check();
}

#[test]
fn products_of_8_bit_floats_whose_blocks_have_scales() {
    let mut cases = Cases::default();
    fp8(false, [128, 128, 128], [8, 3], [16, 16], [130, 200, 272, 1, 2, RUNS, 128]).passes(&mut cases);
    fp8(true, [48, 128, 128], [4, 4], [1, 2], [49, 201, 271, 1, 2, RUNS, 128]).passes(&mut cases);
    fp8(true, [16, 256, 256], [8, 2], [16, 16], [30, 264, 1040, 2, ALL, STRIDES, 128]).passes(&mut cases);
    cases.check();
}

/// A config of attention with heads of that many elements, padded, on problems.
fn attention_of(head: u32, [block_q, block_kv]: [u32; 2], [stages, buffers]: [u32; 2], problems: &[Attention]) -> Case {
    let macros = [
        ("HEAD_DIM", head),
        ("BLOCK_Q", block_q),
        ("BLOCK_KV", block_kv),
        ("NUM_STAGES", stages),
        ("QUERY_BUFFERS", buffers),
    ];
    attention::config(macros, problems)
}

#[test]
fn attention_of_every_key() {
    let mut cases = Cases::default();
    let rising = |shape| Attention { rising: 40, ..Attention::of(shape) };
    attention_of(64, [128, 80], [2, 1], &[Attention::of([2, 130, 330, 64]), rising([1, 70, 200, 40])])
        .passes(&mut cases);
    attention_of(128, [192, 64], [3, 1], &[Attention { programs: 2, ..rising([2, 200, 150, 128]) }]).passes(&mut cases);
    attention_of(128, [128, 128], [2, 2], &[Attention { programs: 2, ..rising([3, 150, 300, 72]) }]).passes(&mut cases);
    let shared = Attention { splits: 3, programs: 4, contiguous: true, ..Attention::of([2, 70, 330, 48]) };
    attention_of(48, [64, 96], [2, 1], &[shared]).passes(&mut cases);
    cases.check();
}

#[test]
fn attention_under_a_mask() {
    let mut cases = Cases::default();
    let every = Mask { queries: 200, window: 1 << 30, sharing: 1, section: 1 };
    let causal = Attention { mask: Some(every), programs: 2, ..Attention::of([2, 200, 330, 64]) };
    masked(attention_of(64, [128, 80], [2, 1], &[causal])).passes(&mut cases);
    let windowed = Mask { queries: 200, window: 70, sharing: 2, section: 2 };
    let windowed = Attention { mask: Some(windowed), rising: 40, ..Attention::of([4, 200, 330, 64]) };
    masked(attention_of(64, [128, 96], [2, 2], &[windowed])).passes(&mut cases);
    let decoding = Mask { queries: 3, window: 100, sharing: 1, section: 1 };
    let decoding = Attention { mask: Some(decoding), splits: 2, programs: 3, ..Attention::of([2, 12, 330, 64]) };
    masked(attention_of(64, [64, 64], [2, 1], &[decoding])).passes(&mut cases);
    cases.check();
}

// ---- The launch ----

/// What the crate launches is what the kernels' contracts say of the shapes, by `wgmma.cpp`, which is what the model runs.
#[test]
fn the_crate_launches_what_the_model_runs() {
    let launches = Launches {
        main: "wgmma.cpp",
        gpu: "h200",
        kinds: &[Mma::Wgmma, Mma::MmaSyncTma],
        configs: 2,
        shapes: &[[700, 1040, 1056], [33, 1042, 2052]],
        dtype: |family| if family == Family::Matmul { Dtype::Bf16 } else { *family.dtypes().last().unwrap() },
        split: 7,
        // All but the tile rows that share a column band, which are for the crate to choose.
        told: |count| if count == 10 { &[0, 1, 2, 3, 4, 5, 7, 8, 9] } else { &[0, 1, 2, 3, 4, 5, 7, 8, 9, 10] },
    };
    launches.check();
}

#[test]
fn the_crate_launches_the_attention_that_the_model_runs() {
    attention::check_launches("h200", Mma::Wgmma, 4, [[1, 3000, 128], [700, 700, 72]]);
}

// ---- What is left out ----

/// What each of these lines is there for: without it the model refuses the kernel.
#[test]
fn products_with_something_left_out_are_refused() {
    const KERNEL: &str = "gemm_wgmma.cu";
    const PROGRAMS: &str = "wgmma_programs.cuh";
    const UNALIGNED: &str = "unaligned.cuh";
    let mut cases = Cases::default();
    let bf16 = || gemm("Bf16", [64, 64, 64], [4, 2], ENGINE, &[[130, 72, 400, 1, 1, STRIDES, 0]]);
    let int4 = || gemm("Int4", [64, 128, 128], [8, 2], ENGINE, &[[130, 144, 776, 1, 1, STRIDES, 0]]);
    let split = || gemm("Bf16", [64, 64, 64], [4, 3], ENGINE, &[[70, 72, 520, 4, ALL, STRIDES, 0]]);
    let shifted = || gemm("Bf16", [64, 64, 64], [4, 4], [2, 2, 2], &[[130, 67, 801, 1, 1, RUNS, 0]]);
    let copied = || gemm("Bf16", [64, 64, 64], [4, 4], [4, 8, 4], &[[130, 68, 802, 1, 1, RUNS, 0]]);
    let realigned =
        || with(gemm("Bf16", [64, 64, 64], [4, 4], [16, 16, 2], &[[70, 131, 333, 1, 6, RUNS, 0]]), &[("REALIGNED", 3)]);

    let full = Change(KERNEL, "ptx::mbarrier_wait(at.full(ring.stage), ring.parity);", "");
    bf16().refuses(&mut cases, &[full], &["a product reads what"]);
    int4().refuses(&mut cases, &[full], &["a product reads what", "a thread reads what"]);
    let empty = Change(KERNEL, "ptx::mbarrier_wait(at.empty(ring.stage), ring.parity ^ 1);", "");
    bf16().refuses(&mut cases, &[empty], &[COPIES, "more arrivals", "in a later phase"]);
    shifted().refuses(&mut cases, &[empty], &["a thread writes where", "more arrivals", "a product reads what"]);
    let aside = Change(KERNEL, "map, barrier, column, row);", "map, barrier, column + 1, row);");
    bf16().refuses(&mut cases, &[aside], &["begins at no multiple of 16 bytes"]);
    // A stage is let go when products that read it are done, and not before.
    let waited = Change(KERNEL, "ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();");
    for case in [bf16(), int4()] {
        case.refuses(&mut cases, &[waited], &[COPIES, "C["]);
    }
    bf16().refuses(&mut cases, &[Change(KERNEL, "ptx::wgmma_wait<0>();", "")], &["C[", COPIES]);
    bf16().refuses(&mut cases, &[Change(KERNEL, "ptx::wgmma_fence();", "")], &["wgmma without a wgmma.fence"]);
    bf16().refuses(&mut cases, &[Change(KERNEL, "at.a(ring.stage), 16, 1024", "at.a(ring.stage), 16, 512")], &["C["]);
    int4().refuses(&mut cases, &[Change(KERNEL, "? 64 : 32;", "? 32 : 64;")], &["C["]);

    // What threads copy themselves.
    let fence = Change(KERNEL, "lane);\n        ptx::fence_async_shared();", "lane);");
    for case in [shifted(), copied()] {
        case.refuses(&mut cases, &[fence], &["no fence shows it"]);
        case.refuses(
            &mut cases,
            &[Change(KERNEL, "ptx::cp_async_wait<0>();", "")],
            &["C[", "no fence shows it", "may not be done"],
        );
    }
    let together = Change(KERNEL, "ptx::cp_async_wait<0>();\n        __syncwarp();", "ptx::cp_async_wait<0>();");
    shifted().refuses(&mut cases, &[together], &["a thread reads what", "a thread writes where"]);
    let shifting = Change(
        UNALIGNED,
        "        __syncwarp();\n#pragma unroll\n        for (int i = 0; i < AT_ONCE; ++i) {\n            ptx::store",
        "#pragma unroll\n        for (int i = 0; i < AT_ONCE; ++i) {\n            ptx::store",
    );
    shifted().refuses(&mut cases, &[shifting], &["a thread writes where", "a thread reads what"]);
    let rounds = Change(KERNEL, "scheduler::smaller(4, NUM_STAGES);", "4;");
    let few_stages = with(shifted(), &[("NUM_STAGES", 2)]);
    few_stages.refuses(
        &mut cases,
        &[rounds],
        &["a thread writes where", "more arrivals", "the grid hangs", "a product reads what"],
    );

    // How sums become C.
    let stored = Change(
        PROGRAMS,
        "    ptx::fence_async_shared();\n    group_sync(place);\n    if (place.warp",
        "    group_sync(place);\n    if (place.warp",
    );
    bf16().refuses(&mut cases, &[stored], &["the copy engine reads what"]);
    let read = Change(PROGRAMS, "ptx::tma_store_wait_read<1>();", "{}");
    with(bf16(), &[("BLOCK_M", 128)]).refuses(&mut cases, &[read], &["a thread writes where"]);
    let free = Change(PROGRAMS, "group_sync(place);  // the buffer is free", "");
    with(bf16(), &[("BLOCK_M", 128)]).refuses(&mut cases, &[free], &["a thread writes where"]);
    split().refuses(
        &mut cases,
        &[Change(KERNEL, "ptx::mbarrier_wait(at.summed(), 0);", "")],
        &["a thread reads what", "st.async writes where"],
    );
    let begun = Change(KERNEL, "ptx::cluster_wait();  // every program has begun", "");
    split().refuses(&mut cases, &[begun], &["may not have begun", "without a wait", "a program that has left"]);
    let copies = Change("realign.cuh", "while (arrived < gridDim.x) {", "while (false) {");
    let seen = Change(
        "realign.cuh",
        "    __syncthreads();\n    asm volatile(\"fence.proxy.async;\" ::: \"memory\");",
        "    __syncthreads();",
    );
    for change in [copies, seen] {
        realigned().refuses(&mut cases, &[change], &["the copy engine reads of global memory"]);
    }
    cases.check();
}

#[test]
fn attention_with_something_left_out_is_refused() {
    const KERNEL: &str = "attention_wgmma.cu";
    let mut cases = Cases::default();
    let one = || attention_of(64, [128, 80], [2, 1], &[Attention::of([2, 130, 500, 64])]);
    let two = || attention_of(64, [128, 80], [2, 2], &[Attention::of([3, 130, 500, 64])]);
    let shared = || {
        attention_of(48, [64, 96], [2, 1], &[Attention { splits: 3, programs: 4, ..Attention::of([2, 70, 330, 48]) }])
    };
    let reads = ["a product reads what", "the grid hangs", "in a later phase", COPIES];
    for wait in ["keys.full(), keys.phase", "values.full(), values.phase"] {
        let full = format!("ptx::mbarrier_wait({wait});");
        one().refuses(&mut cases, &[Change(KERNEL, full.leak(), "")], &reads);
    }
    let empty = Change(KERNEL, "ptx::mbarrier_wait(ring.empty(), ring.phase ^ 1);", "");
    one().refuses(&mut cases, &[empty], &[COPIES, "more arrivals", "in a later phase"]);
    one().refuses(&mut cases, &[Change(KERNEL, "ptx::wgmma_fence();", "")], &["wgmma without a wgmma.fence"]);
    one().refuses(&mut cases, &[Change(KERNEL, "ptx::wgmma_wait<1>();", "ptx::wgmma_wait<2>();")], &["out[", COPIES]);
    for case in [one(), two()] {
        case.refuses(&mut cases, &[Change(KERNEL, "ptx::fence_async_shared();", "")], &["the copy engine reads what"]);
    }
    let queries = Change(KERNEL, "ptx::mbarrier_wait(memory.full(buffer), parity_of(place));", "");
    two().refuses(&mut cases, &[queries], &reads);
    let free = Change(KERNEL, "ptx::mbarrier_wait(memory.empty(buffer_of(place)), parity_of(place) ^ 1);", "");
    // Of one block each, so that the loading warp may be two tiles ahead.
    let short = attention_of(64, [128, 80], [3, 2], &[Attention::of([6, 130, 70, 64])]);
    short.refuses(&mut cases, &[free], &[COPIES, "more arrivals", "in a later phase"]);
    one().refuses(
        &mut cases,
        &[Change(KERNEL, "wgmma_operand(tile, KV_PANEL_BYTES, 1024)", "wgmma_operand(tile, KV_PANEL_BYTES, 512)")],
        &["out["],
    );
    let last = Change(
        "attention_parts.cuh",
        "    __threadfence();\n    sync();\n    if (leader)",
        "    sync();\n    if (leader)",
    );
    shared().refuses(&mut cases, &[last], &["a thread reads global memory"]);
    cases.check();
}
