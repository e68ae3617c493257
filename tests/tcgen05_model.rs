//! The tcgen05 kernels on a model of the hardware, `tests/tcgen05_model/`: their arithmetic of addresses against the layouts
//! that the tensor cores and the copy engine define, and their order of things, in which no access may depend on luck. Where
//! there is no such GPU this is the only run they get.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tcgen05_model/source.rs"]
mod source;

use rayon::prelude::*;
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

// ---- Attention ----

/// The macros of an attention config.
fn attention(head: u32, block_q: u32, block_kv: u32, stages: u32) -> Vec<(&'static str, String)> {
    [("HEAD_DIM", head), ("BLOCK_Q", block_q), ("BLOCK_KV", block_kv), ("NUM_STAGES", stages)]
        .map(|(name, value)| (name, value.to_string()))
        .to_vec()
}

/// A problem of attention, how it is shared, and how much larger than the first keys the last are.
#[derive(Clone, Copy, Debug)]
struct Attention {
    batch_heads: u32,
    q_seq: u32,
    kv_seq: u32,
    head_dim: u32,
    splits: u32,
    programs: u32,
    contiguous: bool,
    rising: u32,
}

impl Attention {
    /// One head, by one program.
    fn of(q_seq: u32, kv_seq: u32, head_dim: u32) -> Self {
        Self { batch_heads: 1, q_seq, kv_seq, head_dim, splits: 1, programs: 1, contiguous: false, rising: 0 }
    }

    fn arguments(self, seed: u32) -> [u32; 9] {
        let Self { batch_heads, q_seq, kv_seq, head_dim, splits, programs, contiguous, rising } = self;
        [batch_heads, q_seq, kv_seq, head_dim, splits, programs, u32::from(contiguous), rising, seed]
    }
}

/// Runs an attention config on problems.
fn attend(macros: &[(&str, String)], problems: &[Attention]) {
    let Some(model) = Model::new("attention.cpp", macros, |_, text| text) else { return };
    for problem in problems {
        for seed in 0..2 {
            if let Err(refusal) = model.run(&problem.arguments(seed)) {
                panic!("{macros:?} {problem:?}, seed {seed}: {refusal}");
            }
        }
    }
}

#[test]
fn attention_whose_weights_take_the_place_of_scores() {
    attend(
        &attention(128, 256, 128, 2),
        &[
            Attention { programs: 2, ..Attention::of(300, 200, 128) },
            Attention { rising: 40, ..Attention::of(130, 300, 120) },
        ],
    );
    attend(&attention(192, 256, 64, 2), &[Attention { batch_heads: 2, ..Attention::of(140, 150, 192) }]);
}

#[test]
fn attention_whose_weights_lie_apart() {
    attend(
        &attention(64, 256, 128, 3),
        &[
            Attention { batch_heads: 3, contiguous: true, programs: 2, ..Attention::of(40, 257, 64) },
            Attention { batch_heads: 2, rising: 40, ..Attention::of(260, 300, 64) },
        ],
    );
    attend(
        &attention(48, 256, 96, 2),
        &[Attention { batch_heads: 2, splits: 2, programs: 3, ..Attention::of(150, 200, 40) }],
    );
    attend(&attention(128, 256, 64, 2), &[Attention { rising: 40, ..Attention::of(256, 128, 128) }]);
}

#[test]
fn attention_of_few_queries_with_splits() {
    let decode = |heads, kv_seq, head_dim| Attention { batch_heads: heads, ..Attention::of(1, kv_seq, head_dim) };
    attend(
        &attention(128, 128, 128, 2),
        &[
            Attention { splits: 3, programs: 4, ..decode(3, 600, 128) },
            Attention { splits: 4, programs: 2, contiguous: true, ..decode(2, 129, 128) },
        ],
    );
    attend(
        &attention(96, 128, 96, 3),
        &[Attention { splits: 2, programs: 2, rising: 30, ..Attention::of(33, 300, 96) }],
    );
    attend(
        &attention(256, 128, 64, 2),
        &[Attention { batch_heads: 2, splits: 2, programs: 3, ..Attention::of(130, 150, 256) }],
    );
}

/// What each line is there for: without it the model refuses the kernel.
#[test]
fn attention_that_leaves_something_out_is_refused() {
    let of_few_blocks = Attention { batch_heads: 3, ..Attention::of(130, 100, 64) };
    let rising = Attention { batch_heads: 2, rising: 40, ..Attention::of(130, 330, 64) };
    let without = [
        (rising, "ptx::tmem_wait(values);\n        if"),
        (rising, "ptx::tmem_wait_stores();\n            signal"),
        (rising, "ptx::tcgen05_before_signal();\n    __syncwarp();\n    if"),
        (rising, "if constexpr (APART) ptx::mbarrier_wait(barriers.scores_read, scores.next(panel) ^ 1);"),
        (rising, "await(barriers.weights_read, phases.next(WEIGHTS_READ) ^ 1);"),
        (rising, "if (step.is_first()) ptx::mbarrier_wait(barriers.sums_empty, sums.next(panel) ^ 1);"),
        (rising, "await(barriers.sums_full, phase);"),
        (rising, "if (panel == 0) ptx::mbarrier_wait(values.full(), values.phase);"),
        (rising, "wait_empty(panel);\n                ptx::mbarrier_arrive_expect"),
        (rising, "ptx::mbarrier_wait(values.empty(), values.phase ^ 1);"),
        (rising, "if (any_raised) rescale_sums(rescale);"),
        (of_few_blocks, "if (keys < BLOCK_KV) mask(values, keys);"),
        (
            of_few_blocks,
            "ptx::mbarrier_wait(softmax.barriers.sums_empty, softmax.phases.next(Softmax::SUMS_EMPTY) ^ 1);",
        ),
    ];
    let macros = attention(64, 256, 128, 2);
    without.into_par_iter().for_each(|(problem, line)| {
        let change = |name: &str, text: String| {
            if name != "attention_tcgen05.cu" {
                return text;
            }
            assert_eq!(text.matches(line).count(), 1, "{line}");
            // Of several lines, which name the place, the first.
            let (_, rest) = line.split_once('\n').unwrap_or((line, ""));
            text.replace(line, rest)
        };
        let Some(model) = Model::new("attention.cpp", &macros, change) else { return };
        let refused = (0..3).any(|seed| model.run(&problem.arguments(seed)).is_err());
        assert!(refused, "nothing misses: {line}");
    });
}
