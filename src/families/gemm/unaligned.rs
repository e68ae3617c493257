//! Tiles of rows that the copy engine does not take: `unaligned.cuh`. Warps copy them, in vectors of 8 or 4 bytes where rows are aligned
//! to as many; others they shift into place, and a stage has room for 16 bytes more of each row of a panel.

use super::realigned::KNOB;
use super::vector_bytes;
use crate::families::description::LOADING_WARPS;
use crate::families::{Condition, legality};
use crate::model::Family;

/// What the copy engine reads at multiples of, and what is read at once of rows that are shifted.
pub(super) const WORD_BYTES: u64 = 16;
/// What is copied asynchronously at least; rows that are aligned to less are shifted.
const LEAST_VECTOR_BYTES: u64 = 4;
/// What swizzled panels begin at multiples of.
pub(super) const PANEL_ALIGNMENT: u64 = 1024;

/// Bytes of one copy of rows of so many bytes, of elements of so many: of an element stands for any that are shifted.
pub(super) fn row_vector_bytes(row_bytes: u64, element_bytes: u64) -> u64 {
    match vector_bytes(row_bytes) {
        bytes if bytes < LEAST_VECTOR_BYTES => element_bytes,
        bytes => bytes,
    }
}

/// Bytes of a panel of so many rows of so many bytes, copied so many at once.
pub(super) fn panel_bytes(rows: u64, width: u64, vector_bytes: u64) -> u64 {
    if vector_bytes < LEAST_VECTOR_BYTES {
        (rows * (width + WORD_BYTES)).next_multiple_of(PANEL_ALIGNMENT)
    } else {
        rows * width
    }
}

/// Warps that load: one asks the copy engine for all tiles, and more copy what it does not take, each a step along k in turn, or a
/// stage where there are fewer of these. Where they hand registers over they are a whole group, some of them idle.
pub(super) fn loading_warps(by_engine: bool, hands_over: bool, stages: u64) -> u32 {
    match (hands_over, by_engine) {
        (true, _) => LOADING_WARPS,
        (false, true) => 1,
        (false, false) => LOADING_WARPS.min(stages as u32),
    }
}

/// An operand's panels in a stage, by expressions.
pub(super) struct Panels<'a> {
    /// Its letter among the operands to copy first.
    pub(super) operand: &'a str,
    /// Bytes of a row in memory.
    pub(super) row_bytes: &'a str,
    pub(super) count: &'a str,
    pub(super) rows: &'a str,
    /// Bytes of a panel's row.
    pub(super) width: &'a str,
}

/// Bytes of a tile's sums, by an expression.
pub(super) const SUMS: &str = "4 * block_sizes[0] * block_sizes[1]";

/// Bytes of shared memory beside the stages where so many have C on its way out: these, or the partial sums of a share of C.
pub(super) fn beside_stages(staging: &str) -> String {
    format!("if(split_k > 1, max({SUMS}, {staging}), {staging})")
}

/// That the stages of rows which are shifted into place have room: so many bytes have the stages' scales and all else.
pub(super) fn conditions(family: Family, panels: &[Panels<'_>; 2], stage_scales: &str, rest: &str) -> Vec<Condition> {
    let shifted = panels.each_ref().map(|Panels { operand, row_bytes, .. }| {
        format!("({row_bytes} % {LEAST_VECTOR_BYTES} != 0 && {KNOB} != \"{operand}\" && {KNOB} != \"ab\")")
    });
    let bytes = |of: usize| {
        let (Panels { count, rows, width, .. }, shifted) = (&panels[of], &shifted[of]);
        let roomy = format!("ceil_div({rows} * ({width} + {WORD_BYTES}), {PANEL_ALIGNMENT}) * {PANEL_ALIGNMENT}");
        format!("{count} * if({shifted}, {roomy}, {rows} * {width})")
    };
    let [a, b] = &shifted;
    let stage = format!("{} + {} + {stage_scales}", bytes(0), bytes(1));
    let text = format!("!({a} || {b}) || num_stages * ({stage}) + {rest} <= smem_per_block");
    legality::conditions(family, [(text.as_str(), "stages of rows that begin anywhere exceed the shared memory")])
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::panel_bytes;
    use crate::families::gemm::tests::h200;
    use crate::families::spec;
    use crate::model::{Config, Dtype, Family, Mma, PidType, Problem};
    use proptest::prelude::*;

    const FAMILIES: [(Family, Dtype); 8] = [
        (Family::Matmul, Dtype::Bf16),
        (Family::MatmulInt16, Dtype::F16),
        (Family::MatmulInt4, Dtype::Bf16),
        (Family::MatmulFp4, Dtype::F16),
        (Family::MatmulInt4Group, Dtype::Bf16),
        (Family::MatmulNvfp4, Dtype::Bf16),
        (Family::MatmulMxfp4, Dtype::Bf16),
        (Family::MatmulFp8, Dtype::Fp8),
    ];

    fn config(block_sizes: [u32; 3], warps: u32, stages: u32, split_k: u32) -> Config {
        Config {
            block_sizes: block_sizes.to_vec(),
            num_warps: Some(warps),
            num_stages: Some(stages),
            pid_type: Some(PidType::Flat),
            l2_groupings: vec![1],
            split_k: Some(split_k),
            mma: Some(Mma::Wgmma),
            ..Config::default()
        }
    }

    #[test]
    fn a_panel_has_room_for_a_word_more_a_row() {
        assert_eq!([16, 4, 2].map(|vector| panel_bytes(64, 128, vector)), [8192, 8192, 9216]);
        assert_eq!([16, 8, 1].map(|vector| panel_bytes(24, 128, vector)), [3072, 3072, 4096]);
        assert_eq!([16, 4, 1].map(|vector| panel_bytes(32, 64, vector)), [2048, 2048, 3072]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { max_global_rejects: 65536, ..ProptestConfig::default() })]

        /// The condition is an expression, and what a launch asks for is reckoned from the tiling.
        #[test]
        fn stages_that_warps_copy_fit_where_the_condition_says_so(
            (family, dtype) in proptest::sample::select(&FAMILIES[..]),
            m in 1u32..32,
            n in proptest::sample::select(vec![64u32, 128, 256]),
            k in proptest::sample::select(vec![32u32, 64, 128, 256]),
            warps in proptest::sample::select(vec![4u32, 8, 16]),
            stages in 2u32..12,
            split_k in proptest::sample::select(vec![1u32, 2, 8]),
            odd in (0i64..4, 0i64..8),
        ) {
            let config = config([8 * m, n, k], warps, stages, split_k);
            let spec = spec(family);
            // Rows of A and of B that are whole words, of 4 bytes or of less.
            let shape = |a, b| format!("m=512,n={},k={}", 4096 + b, 4096 + a);
            let problem = |text: &str| Problem::parse(family, text, dtype).unwrap();
            let has_pairs = ![Family::Matmul, Family::MatmulInt16, Family::MatmulFp8].contains(&family);
            let beyond_a = if has_pairs { 2 * odd.0 } else { odd.0 };
            let (aligned, other) = (problem(&shape(0, 0)), problem(&shape(beyond_a, odd.1)));
            prop_assume!(spec.legal(&config, &aligned, &h200()).is_ok());
            match spec.program(&config, &other, &h200()) {
                Ok((_, launch)) => prop_assert!(launch.dynamic_smem <= h200().smem_per_block, "{config}"),
                Err(refused) => prop_assert!(refused.0.contains("stages of rows that begin anywhere"), "{refused}"),
            }
        }
    }

    #[test]
    fn a_tile_that_fits_aligned_alone_is_refused_where_rows_begin_anywhere() {
        let large = config([128, 256, 64], 8, 4, 1);
        let legal = |config: &Config, shape: &str| {
            let problem = Problem::parse(Family::Matmul, shape, Dtype::Bf16).unwrap();
            spec(Family::Matmul).legal(config, &problem, &h200())
        };
        assert!(legal(&large, "m=512,n=4096,k=4096").is_ok());
        for shape in ["m=512,n=4096,k=4101", "m=512,n=4097,k=4096"] {
            let refused = legal(&large, shape).unwrap_err();
            assert!(refused.0.contains("stages of rows that begin anywhere"), "{refused}");
        }
        assert!(legal(&large, "m=512,n=4098,k=4100").is_ok());
        assert!(legal(&config([128, 256, 64], 8, 3, 1), "m=512,n=4097,k=4097").is_ok());
    }
}
