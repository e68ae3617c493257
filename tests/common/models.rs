//! Models and documents of the size that full sweeps yield, with made-up contents.

use serde_json::{Value, json};

/// A tree of so many leaves over the features of [`large_model`], written down from its root.
fn tree(leaves: usize, seed: usize) -> String {
    if leaves == 1 {
        return ((seed * 7919 % 60_001) as i64 - 30_000).to_string();
    }
    let below = leaves / 2;
    let (feature, threshold) = (seed * 31 % 30, [16, 64, 128, 256, 1000, 4096][seed % 6]);
    format!("{feature}<{threshold} {} {}", tree(below, seed * 3 + 1), tree(leaves - below, seed * 5 + 2))
}

/// A model of matrix products: 100 trees of 31 leaves, 256 configs, 400 measured problems.
pub(crate) fn large_model() -> Value {
    let config = |index: i64| {
        let at = |values: &[i64], step: i64| values[(index / step) as usize % values.len()];
        json!({"constants": {"registers": 64 + index % 192}, "template": {
            "block_sizes": [at(&[16, 32, 64, 128], 1), at(&[32, 64, 128, 256], 4), at(&[32, 64], 16)],
            "l2_groupings": [at(&[1, 8], 32)], "mma": "wgmma", "num_sm_multiplier": 1, "num_stages": at(&[2, 4], 64),
            "num_warps": 4, "pid_type": "flat", "split_k": at(&[1, 4], 128)}})
    };
    let problem = |index: i64| {
        let winners: Vec<_> = (0..3).map(|place| json!([(index + place) % 256, 10.25 + place as f64])).collect();
        json!({"dims": [index + 1, 4096, 8 * (index % 50 + 1)], "dtype": "bf16", "winners": winners})
    };
    let tiling =
        ["tiles_m * block_sizes[0] - m", "tiles_n * block_sizes[1] - n", "tiles", "programs", "waves", "steps"];
    let ratios = [
        "per_mille(programs, multiprocessors)",
        "per_mille(m, tiles_m * block_sizes[0])",
        "per_mille(n, tiles_n * block_sizes[1])",
        "per_mille(programs, waves * multiprocessors)",
        "per_mille(k, steps * block_sizes[2] * split_k)",
        "steps * waves",
        "block_sizes[0] * block_sizes[1] / num_warps",
        "stage_bytes",
    ];
    let plain = ["m", "n", "k", "floor_ns", "min(align(2 * n), 128)", "min(align(2 * k), 128)", "registers"];
    let knobs =
        ["block_sizes[0]", "block_sizes[1]", "block_sizes[2]", "l2_groupings[0]", "num_stages", "num_warps", "split_k"];
    let more = ["m * n", "pid_type == \"flat\""];
    let features: Vec<_> = [&tiling[..], &ratios, &plain, &knobs, &more].concat();
    assert_eq!(features.len(), 30);
    let regret = |geomean: f64| json!([{"group": null, "aligned": null, "problems": 400, "geomean": geomean, "p90": 1.1, "max": 1.5}]);
    json!({
        "form": "trees/1", "dims": ["m", "n", "k"], "dtypes": {"bf16": 2}, "constants": {"multiprocessors": 132},
        "knobs": ["block_sizes", "l2_groupings", "mma", "num_sm_multiplier", "num_stages", "num_warps", "pid_type", "split_k"],
        "config_constants": ["registers"],
        "definitions": [
            "tiles_m = ceil_div(m, block_sizes[0])", "tiles_n = ceil_div(n, block_sizes[1])", "tiles = tiles_m * tiles_n",
            "programs = tiles * split_k", "waves = ceil_div(programs, multiprocessors)",
            "steps = ceil_div(k, block_sizes[2] * split_k)",
            "stage_bytes = num_stages * 2 * block_sizes[2] * (block_sizes[0] + block_sizes[1])"],
        "features": features,
        "legal": ["split_k <= ceil_div(k, block_sizes[2])", "n % 8 == 0 || block_sizes[1] <= 64", "stage_bytes <= 232448"],
        "aligned": "n % 8 == 0 && k % 8 == 0",
        "floor": {"bytes": "2 * (m * k + k * n + m * n)", "flops": "2 * m * n * k", "launch_us": 2.0,
            "bytes_per_us": 4_200_000.0, "flops_per_us": 800_000_000.0},
        "trees": (0..100).map(|seed| tree(31, seed)).collect::<Vec<_>>(),
        "configs": (0..256).map(config).collect::<Vec<_>>(),
        "problems": (0..400).map(problem).collect::<Vec<_>>(),
        "cross_validation": {"apart": ["n,k"], "folds": 5, "seeds": 3,
            "regret": {"model": regret(1.02), "rule": regret(1.05), "fallback": regret(1.2)}},
    })
}

/// A document of some 4 MB with seven models, a fallback and evidence.
pub(crate) fn large_document() -> Value {
    let mut models = json!({});
    let classes = ["matmul", "matmul_int4", "matmul_int16", "matmul_fp4", "attention", "row_softmax", "elementwise"];
    for class in classes {
        models[class] = large_model();
    }
    let problem = |index: usize| json!({"best_us": 12.5, "noise": 0.005, "problem": format!("m={index},n=4096,k=4096 bf16"), "served_us": 12.75});
    let source = json!({"problems": (0..36_500).map(problem).collect::<Vec<_>>()});
    let template = json!({"block_sizes": [64, 64, 64], "num_warps": 4, "split_k": 2});
    json!({"schema_version": 2, "rules": [], "models": models,
        "fallbacks": {"matmul": {"small_m": {"template": template, "source": source}}}})
}
