//! Attention by warp-wide products, for any tensor-core GPU: `kernels/attention.cu`.

use super::super::knobs::{self, Programs, WARP};
use super::super::split::Reduction;
use super::super::{Arg, KernelSpec, Launch, Rejection, require};
use super::{Dimensions, FRAGMENT, MOST_PARTS, SPLIT_COST, Split};
use crate::model::{Bytes, Config, GpuProfile};

/// Registers an instruction can name.
const MOST_REGISTERS: u32 = 255;
/// Elements that a row in shared memory is longer than a head.
const ROW_PADDING: u32 = 8;
/// Registers of a thread, about, of the kernels that the cost of splitting was fitted to.
const USUAL_REGISTERS: u64 = 168;
/// Static shared memory: whether this program is the last of its splits.
const FLAG_BYTES: u64 = 16;

/// How a program's warps share out a block: `kernels/attention.cu` works out the same from its macros.
struct Tiling {
    block_q: u32,
    block_kv: u32,
    warps: u32,
    stages: u32,
    head: u32,
    kv_warps: u32,
    fragments_per_warp: u32,
    keys_per_warp: u32,
}

impl Tiling {
    fn new(config: &Config, head: u32) -> Result<Self, Rejection> {
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
        let (fragments_per_warp, keys_per_warp) = (fragments / q_warps, block_kv / kv_warps);
        Ok(Self { block_q, block_kv, warps, stages, head, kv_warps, fragments_per_warp, keys_per_warp })
    }

    /// Dynamic shared memory: queries and the ring of keys and values, or, at the end, what the warps merge.
    fn smem(&self) -> Bytes {
        let pitch = u64::from(self.head + ROW_PADDING);
        let [block_q, block_kv] = [self.block_q, self.block_kv].map(u64::from);
        let stream = (block_q + u64::from(self.stages) * 2 * block_kv) * pitch * 2;
        let merge = u64::from(self.kv_warps) * block_q * (pitch * 4 + 8);
        Bytes(stream.max(merge))
    }

    /// What the split of the keys is decided by.
    fn reduction(&self, sizes: &Dimensions, profile: &GpuProfile) -> Reduction {
        let [tiles, steps] = sizes.tiles_and_blocks([self.block_q, self.block_kv]);
        let [block_q, block_kv, head] = [self.block_q, self.block_kv, self.head].map(u64::from);
        let threads = u64::from(self.warps * WARP);
        Reduction {
            tiles,
            steps,
            step_bytes: 2 * block_kv * head * 2,
            step_flops: 4 * block_q * block_kv * head,
            steps_ahead: u64::from(self.stages) - 1,
            tile_bytes: block_q * head * 4,
            resident: knobs::resident(self.smem(), threads * USUAL_REGISTERS, profile),
        }
    }

    /// Refuses what the compiler would spill: a thread holds its share of the output and of the scores in registers, a
    /// lane's part of a 16 by n matrix in f32 being n / 2, and needs some more for everything else.
    fn fits_registers(&self, profile: &GpuProfile) -> Result<(), Rejection> {
        let held = self.fragments_per_warp * (self.head / 2 + self.keys_per_warp / 2);
        let limit = (65_536 / (self.warps * WARP)).min(MOST_REGISTERS);
        // Found by compiling the space for every head: of those that pass, one spills, with heads of 208 on Hopper. For
        // Blackwell the compiler loads further ahead where it is allowed 255. For others a warp of several fragments holds
        // the weights of all, packed two in a register.
        let spare = match self.fragments_per_warp {
            _ if profile.arch.starts_with("sm_1") && limit == MOST_REGISTERS => 96,
            1 => 72,
            fragments => 72 + fragments * self.keys_per_warp / 4,
        };
        require!(
            held + spare <= limit,
            "needs {held} registers a thread for output and scores and {spare} more; {} warps have {limit}",
            self.warps
        );
        Ok(())
    }
}

/// The kernel and its launch, which are legal or not together.
pub(super) fn build(
    config: &Config,
    sizes: &Dimensions,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let tiling = Tiling::new(config, sizes.padded_head())?;
    tiling.fits_registers(profile)?;
    knobs::fits_smem(Bytes(tiling.smem().0 + FLAG_BYTES), profile)?;

    let split = Split::new(config, sizes, [tiling.block_q, tiling.block_kv], || {
        SPLIT_COST.choose(&tiling.reduction(sizes, profile), profile.multiprocessors, MOST_PARTS)
    })?;
    let Programs { count, contiguous } = knobs::programs(config, split.tiles(), profile)?;
    let macros = [
        ("HEAD_DIM", tiling.head),
        ("VECTOR_BYTES", sizes.vector_bytes()),
        ("BLOCK_Q", tiling.block_q),
        ("BLOCK_KV", tiling.block_kv),
        ("NUM_WARPS", tiling.warps),
        ("NUM_STAGES", tiling.stages),
    ];
    let kernel = KernelSpec {
        source: "attention.cu",
        entry: "attention",
        macros: macros.map(|(name, value)| (name, value.to_string())).to_vec(),
    };
    let launch = Launch {
        grid: [count, 1, 1],
        cluster: 1,
        threads: tiling.warps * WARP,
        dynamic_smem: tiling.smem(),
        args: split.arguments([Arg::Input(0), Arg::Input(1), Arg::Input(2)], sizes, contiguous),
        workspace: split.workspace(sizes, tiling.head),
        counters: split.counters(),
    };
    Ok((kernel, launch))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{built, config, problem, refused};
    use crate::families::attention;
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
        let automatic = Config { split_k: None, ..config(64, 64, 4) };
        assert!(built(&automatic, &problem(1, 1, 1, 4096, 128)).unwrap().1.counters > 0);
    }

    #[test]
    fn more_than_the_registers_hold_is_refused_before_it_is_compiled() {
        let problem = problem(1, 1, 64, 64, 128);
        let fits = |gpu, block_q, block_kv, warps| {
            attention::build(&config(block_q, block_kv, warps), &problem, &GpuProfile::by_name(gpu).unwrap()).is_ok()
        };
        assert!(fits("h200", 64, 64, 4) && fits("h200", 128, 32, 4) && !fits("h200", 128, 64, 4));
        assert!(fits("b200", 64, 64, 4) && !fits("b200", 128, 32, 4));
    }
}
