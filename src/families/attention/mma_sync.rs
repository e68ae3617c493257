//! Attention by warp-wide products, for any tensor-core GPU: `kernels/attention.cu`.

use super::super::knobs::{self, WARP};
use super::super::{Arg, Condition, Footprint, KernelSpec, Launch, Rejection, legality, require};
use super::{Dimensions, FRAGMENT, HEAD, PARTIAL_RESULTS, POSITIONS, SHARED_POSITIONS, Split, TILES};
use crate::model::{Bytes, Config, Family, GpuProfile};
use std::sync::LazyLock;

/// Elements that a row in shared memory is longer than a head.
const ROW_PADDING: u32 = 8;
/// Registers that an instruction can name.
const MOST_REGISTERS: u32 = 255;

/// Static shared memory: whether this program is the last of its splits.
const FLAG_BYTES: u64 = 16;

/// How a program's warps share out a block: `kernels/attention.cu` works out the same from its macros.
pub(super) struct Tiling {
    block_q: u32,
    block_kv: u32,
    warps: u32,
    stages: u32,
    kv_warps: u32,
}

impl Tiling {
    /// The config's tiling, if its warps can share it out.
    pub(super) fn new(config: &Config) -> Result<Self, Rejection> {
        let [one, block_q, block_kv] = knobs::block_sizes(config)?;
        let warps = knobs::num_warps(config)?;
        let stages = knobs::needed("num_stages", config.num_stages)?;
        require!(one == 1, "block_sizes [{one}, {block_q}, {block_kv}]: a program has 1 head at a time");
        require!(block_q.is_multiple_of(FRAGMENT), "block_sizes: {block_q} queries are not a multiple of {FRAGMENT}");
        require!(stages >= 2, "num_stages {stages}: the pipeline needs 2");
        let fragments = block_q / FRAGMENT;
        let q_warps = fragments.min(warps);
        require!(
            fragments.is_multiple_of(q_warps) && warps.is_multiple_of(q_warps),
            "{warps} warps cannot share {block_q} queries evenly in parts of {FRAGMENT}"
        );
        let kv_warps = warps / q_warps;
        require!(
            block_kv.is_multiple_of(FRAGMENT * kv_warps),
            "{kv_warps} warps cannot share {block_kv} keys evenly in parts of {FRAGMENT}"
        );
        Ok(Self { block_q, block_kv, warps, stages, kv_warps })
    }

    /// Dynamic shared memory: queries and the ring of keys and values, or, at the end, what the warps merge.
    fn smem(&self, head: u32) -> Bytes {
        let pitch = u64::from(head + ROW_PADDING);
        let [block_q, block_kv] = [self.block_q, self.block_kv].map(u64::from);
        let stream = (block_q + u64::from(self.stages) * 2 * block_kv) * pitch * 2;
        let merge = u64::from(self.kv_warps) * block_q * (pitch * 4 + 8);
        Bytes(stream.max(merge))
    }

    pub(super) fn footprint(&self, sizes: &Dimensions) -> Footprint {
        let head = sizes.padded_head();
        let row_bytes = u64::from(head + ROW_PADDING) * 2;
        Footprint {
            threads: self.warps * WARP,
            registers: (2048 / self.warps).min(MOST_REGISTERS),
            smem: Bytes(self.smem(head).0 + FLAG_BYTES),
            stage_bytes: Bytes(2 * u64::from(self.block_kv) * row_bytes),
        }
    }
}

/// A thread holds its share of the output and of the scores in registers, a lane's part of a 16 by n matrix in f32 being n / 2,
/// and needs some more for everything else; where a warp has several fragments of queries, it holds the weights of all, packed
/// two in a register. Found by compiling the space for every head: of those that pass, one spills, with heads of 208 on Hopper.
/// For Blackwell the compiler loads further ahead where it is allowed 255.
const REGISTERS: &str = "max(1, block_sizes[1] / 16 / num_warps) \
    * (ceil_div(head_dim, 16) * 8 + block_sizes[2] * min(block_sizes[1] / 16, num_warps) / num_warps / 2) + 72 \
    + (block_sizes[1] / 16 > num_warps) * (block_sizes[1] / 16 / num_warps) * block_sizes[2] / 4 \
    <= min(2048 / num_warps, 255)";
const REGISTERS_OF_BLACKWELL: &str = "max(1, block_sizes[1] / 16 / num_warps) \
    * (ceil_div(head_dim, 16) * 8 + block_sizes[2] * min(block_sizes[1] / 16, num_warps) / num_warps / 2) + 72 \
    + (num_warps > 8) * (block_sizes[1] / 16 > num_warps) * (block_sizes[1] / 16 / num_warps) * block_sizes[2] / 4 \
    + 24 * (num_warps <= 8) \
    <= min(2048 / num_warps, 255)";
/// Queries and the ring of keys and values, or what the warps merge, and a flag.
const SMEM: &str = "max((block_sizes[1] + num_stages * 2 * block_sizes[2]) * (ceil_div(head_dim, 16) * 16 + 8) * 2, \
    num_warps / min(block_sizes[1] / 16, num_warps) * block_sizes[1] * ((ceil_div(head_dim, 16) * 16 + 8) * 4 + 8)) + 16 \
    <= smem_per_block";

/// Where a config runs.
pub(super) fn conditions(profile: &GpuProfile) -> &'static [Condition] {
    fn of(registers: &str) -> Vec<Condition> {
        legality::conditions(
            Family::Attention,
            [
                HEAD,
                POSITIONS,
                (registers, "too few registers a thread for its output and scores"),
                (SMEM, "too little shared memory"),
                TILES,
                PARTIAL_RESULTS,
                SHARED_POSITIONS,
            ],
        )
    }
    static CONDITIONS: LazyLock<Vec<Condition>> = LazyLock::new(|| of(REGISTERS));
    static OF_BLACKWELL: LazyLock<Vec<Condition>> = LazyLock::new(|| of(REGISTERS_OF_BLACKWELL));
    if profile.arch.starts_with("sm_1") { &OF_BLACKWELL } else { &CONDITIONS }
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    sizes: &Dimensions,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let tiling = Tiling::new(config)?;
    let head = sizes.padded_head();
    let split = Split::new(config, sizes, tiling.block_q, profile);
    let programs = knobs::programs(config, split.tiles(), profile.multiprocessors);
    let macros = [
        ("HEAD_DIM", head),
        ("VECTOR_BYTES", sizes.vector_bytes()),
        ("BLOCK_Q", tiling.block_q),
        ("BLOCK_KV", tiling.block_kv),
        ("NUM_WARPS", tiling.warps),
        ("NUM_STAGES", tiling.stages),
    ];
    let macros = macros.map(|(name, value)| (name, value.to_string())).into_iter().chain(split.variant_macros(sizes));
    let kernel = KernelSpec::shipped("attention.cu", "attention", macros);
    let sources = [Arg::Input(0), Arg::Input(1), Arg::Input(2)];
    let threads = tiling.warps * WARP;
    Ok((kernel, split.launch(sizes, head, programs, threads, tiling.smem(head), sources)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{built, config, problem, refused};
    use crate::families::FamilySpec;
    use crate::families::attention::Attention;
    use crate::model::{Config, GpuProfile};

    #[test]
    fn any_head_up_to_256_has_a_kernel_for_its_size_and_alignment() {
        let macros = |head_dim| {
            let (kernel, _) = built(&config(16, 64, 4), &problem(1, 1, 5, 7, head_dim)).unwrap();
            let value = |name| kernel.macros.iter().find(|(known, _)| *known == name).unwrap().1.clone();
            [value("HEAD_DIM"), value("VECTOR_BYTES")]
        };
        assert_eq!(macros(64), ["64", "16"]);
        assert_eq!(macros(1), ["16", "2"]);
        assert_eq!(macros(100), ["112", "8"]);
        assert_eq!(macros(126), ["128", "4"]);
        assert_eq!(macros(256), ["256", "16"]);
        assert!(refused(&config(16, 64, 4), &problem(1, 1, 5, 7, 257)).contains("257"));
    }

    #[test]
    fn shared_memory_holds_queries_and_ring_or_what_is_merged() {
        let smem = |config: &Config| built(config, &problem(1, 1, 64, 64, 128)).unwrap().1.dynamic_smem.0;
        assert_eq!(smem(&config(64, 64, 4)), (64 + 2 * 2 * 64) * 136 * 2);
        assert_eq!(smem(&config(64, 16, 4)), 64 * (136 * 4 + 8));
        let deep = Config { num_stages: Some(8), ..config(64, 64, 4) };
        assert!(refused(&deep, &problem(1, 1, 64, 64, 128)).contains("shared memory"));
    }

    #[test]
    fn shapes_that_warps_cannot_share_are_refused() {
        let refused = |config: Config| refused(&config, &problem(1, 1, 64, 64, 128));
        assert!(refused(config(24, 64, 1)).contains("24 queries"));
        assert!(refused(config(48, 64, 2)).contains("48 queries"));
        assert!(refused(config(16, 64, 8)).contains("64 keys"));
        assert!(refused(config(128, 64, 2)).contains("registers"));
        assert!(refused(Config { block_sizes: vec![2, 64, 64], ..config(64, 64, 4) }).contains("[2, 64, 64]"));
        assert!(refused(Config { num_stages: Some(1), ..config(64, 64, 4) }).contains("num_stages 1"));
        assert!(refused(Config { l2_groupings: vec![8], ..config(64, 64, 4) }).contains("l2_groupings"));
        assert!(refused(Config { split_k: Some(0), ..config(64, 64, 4) }).contains("split_k"));
        assert!(refused(Config { split_k: None, ..config(64, 64, 4) }).contains("split_k is missing"));
    }

    #[test]
    fn more_than_the_registers_hold_is_refused_before_it_is_compiled() {
        let problem = problem(1, 1, 64, 64, 128);
        let fits = |gpu, block_q, block_kv, warps| {
            let profile = GpuProfile::by_name(gpu).unwrap();
            Attention.program(&config(block_q, block_kv, warps), &problem, &profile).is_ok()
        };
        assert!(fits("h200", 64, 64, 4) && fits("h200", 128, 32, 4) && !fits("h200", 128, 64, 4));
        assert!(fits("b200", 64, 64, 4) && !fits("b200", 128, 32, 4));
    }
}
