//! Attention by Blackwell's tensor cores: `kernels/attention_tcgen05.cu`.

use super::super::knobs::{self, WARP};
use super::super::{Condition, Footprint, KernelSpec, Launch, Mapped, Rejection, legality, require};
use super::{Dimensions, HEAD, LINE, PARTIAL_RESULTS, POSITIONS, ROWS, Split, TILES, heads_map};
use crate::model::{Bytes, Config, Family, GpuProfile};
use std::sync::LazyLock;

/// Warps of a warpgroup.
const GROUP_WARPS: u32 = 4;
/// Queries of a panel: the rows of a product, and the lanes of tensor memory.
const PANEL: u32 = 128;
/// Keys that a block can have.
const KEYS: [u32; 4] = [32, 64, 96, 128];
/// Barriers of a panel.
const BARRIERS_A_PANEL: u64 = 10;

/// What the kernel is compiled for, beside the head.
pub(super) struct Tiling {
    block_q: u32,
    block_kv: u32,
    stages: u32,
}

impl Tiling {
    /// The config's tiling, if there is such a kernel.
    pub(super) fn new(config: &Config) -> Result<Self, Rejection> {
        let [one, block_q, block_kv] = knobs::block_sizes(config)?;
        let stages = knobs::needed("num_stages", config.num_stages)?;
        require!(one == 1, "block_sizes [{one}, {block_q}, {block_kv}]: a program has 1 head at a time");
        require!(
            block_q == PANEL || block_q == 2 * PANEL,
            "block_sizes: {block_q} queries are not 128 or 256, one warpgroup for each {PANEL}"
        );
        require!(KEYS.contains(&block_kv), "block_sizes: {block_kv} keys are none of {KEYS:?}");
        require!(stages >= 2, "num_stages {stages}: the pipeline needs 2");
        if let Some(warps) = config.num_warps {
            return Err(Rejection(format!("num_warps {warps} has no effect: queries decide how many there are")));
        }
        if let Some(multiplier) = config.num_sm_multiplier {
            require!(
                multiplier == 1,
                "num_sm_multiplier {multiplier}: a program takes all of a multiprocessor's registers"
            );
        }
        Ok(Self { block_q, block_kv, stages })
    }

    fn panels(&self) -> u32 {
        self.block_q / PANEL
    }

    /// A warpgroup for each panel's softmax, one that writes, and one that copies and multiplies.
    fn threads(&self) -> u32 {
        (self.panels() + 2) * GROUP_WARPS * WARP
    }

    /// Bytes of a query, a key or a value in shared memory.
    fn row_bytes(head: u32) -> u64 {
        u64::from(head.next_multiple_of(LINE)) * 2
    }

    /// Dynamic shared memory: `SMEM_BYTES` of the kernel.
    fn smem(&self, head: u32) -> Bytes {
        let [block_q, block_kv, stages, panels] =
            [self.block_q, self.block_kv, self.stages, self.panels()].map(u64::from);
        let barriers = 4 * stages + BARRIERS_A_PANEL * panels;
        Bytes((block_q + stages * 2 * block_kv) * Self::row_bytes(head) + 8 * (block_q + barriers + 1))
    }

    pub(super) fn footprint(&self, sizes: &Dimensions) -> Footprint {
        let head = sizes.padded_head();
        Footprint {
            threads: self.threads(),
            registers: 65536 / self.threads(),
            smem: self.smem(head),
            stage_bytes: Bytes(2 * u64::from(self.block_kv) * Self::row_bytes(head)),
        }
    }
}

/// Scores, in which weights take their place, and sums of each panel.
const TENSOR_MEMORY: &str = "block_sizes[1] / 128 * (block_sizes[2] + ceil_div(head_dim, 16) * 16) <= 512";
const SMEM: &str = "(block_sizes[1] + num_stages * 2 * block_sizes[2]) * ceil_div(head_dim, 64) * 128 \
    + 8 * (block_sizes[1] + 4 * num_stages + 10 * (block_sizes[1] / 128) + 1) <= smem_per_block";

/// Where a config runs.
pub(super) fn conditions() -> &'static [Condition] {
    static CONDITIONS: LazyLock<Vec<Condition>> = LazyLock::new(|| {
        legality::conditions(
            Family::Attention,
            [
                HEAD,
                POSITIONS,
                ROWS,
                (TENSOR_MEMORY, "scores and sums have too few columns of tensor memory"),
                (SMEM, "too little shared memory"),
                TILES,
                PARTIAL_RESULTS,
            ],
        )
    });
    &CONDITIONS
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    sizes: &Dimensions,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let tiling = Tiling::new(config)?;
    let head = sizes.padded_head();
    let split = Split::new(config, sizes, tiling.block_q);
    let programs = knobs::programs(config, split.tiles(), profile.multiprocessors);
    let macros =
        [("HEAD_DIM", head), ("BLOCK_Q", tiling.block_q), ("BLOCK_KV", tiling.block_kv), ("NUM_STAGES", tiling.stages)];
    let macros = macros.map(|(name, value)| (name, value.to_string()));
    let kernel = KernelSpec::shipped("attention_tcgen05.cu", "attention_tcgen05", macros);
    let maps = [
        heads_map(Mapped::Input(0), sizes, sizes.q_seq, PANEL),
        heads_map(Mapped::Input(1), sizes, sizes.kv_seq, tiling.block_kv),
        heads_map(Mapped::Input(2), sizes, sizes.kv_seq, tiling.block_kv),
    ];
    let threads = tiling.threads();
    Ok((kernel, split.launch(sizes, head, programs, threads, tiling.smem(head), maps)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{built, problem, refused};
    use super::*;
    use crate::families::{Arg, FamilySpec};
    use crate::model::{Mma, PidType};

    fn config(block_q: u32, block_kv: u32, stages: u32) -> Config {
        Config {
            block_sizes: vec![1, block_q, block_kv],
            mma: Some(Mma::Tcgen05),
            num_stages: Some(stages),
            pid_type: Some(PidType::Flat),
            split_k: Some(1),
            ..Config::default()
        }
    }

    #[test]
    fn a_warpgroup_takes_the_softmax_of_each_128_queries_beside_two_others() {
        let launch = |block_q| built(&config(block_q, 64, 2), &problem(2, 16, 4096, 4096, 64)).unwrap().1;
        assert_eq!((launch(128).threads[0], launch(128).grid[0]), (384, 32 * 32));
        assert_eq!((launch(256).threads[0], launch(256).grid[0]), (512, 32 * 16));
        let smem = (256 + 2 * 2 * 64) * 128 + 256 * 8 + (2 * 4 + 2 * 10) * 8 + 8;
        assert_eq!(launch(256).dynamic_smem, Bytes(smem));
    }

    #[test]
    fn blocks_have_no_more_keys_than_tensor_memory_and_shared_memory_hold() {
        let most = |block_q, head_dim| {
            let fits = |keys: &&u32| built(&config(block_q, **keys, 2), &problem(1, 8, 700, 700, head_dim)).is_ok();
            KEYS.iter().filter(fits).max().copied()
        };
        assert_eq!([40, 64, 96, 128].map(|head| most(256, head)), [Some(128); 4]);
        assert_eq!(
            [144, 192, 200, 224, 232, 256].map(|head| most(256, head)),
            [Some(64), Some(64), Some(32), Some(32), None, None]
        );
        assert_eq!([128, 192, 256].map(|head| most(128, head)), [Some(128), Some(96), Some(64)]);
        assert!(refused(&config(256, 64, 2), &problem(1, 1, 300, 300, 256)).contains("tensor memory"));
    }

    #[test]
    fn any_head_whose_rows_the_copy_engine_takes_has_a_kernel() {
        for head_dim in (8..=256).step_by(8) {
            let (kernel, launch) = built(&config(128, 64, 2), &problem(2, 3, 100, 200, head_dim)).unwrap();
            let padded = head_dim.unsigned_abs().next_multiple_of(16).to_string();
            assert_eq!(kernel.macros[0], ("HEAD_DIM".to_owned(), padded));
            let Arg::TensorMap(keys) = &launch.args[1] else { panic!("{:?}", launch.args[1]) };
            assert_eq!((keys.of, keys.tile.as_slice()), (Mapped::Input(1), [64, 64, 1].as_slice()));
            assert_eq!(keys.extents, [head_dim.unsigned_abs(), 200, 6]);
        }
        assert!(refused(&config(128, 64, 2), &problem(1, 1, 5, 7, 100)).contains("multiple of 16 bytes"));
        assert!(refused(&config(128, 64, 2), &problem(1, 1, 5, 7, 264)).contains("264"));
    }

    #[test]
    fn illegal_configs_are_refused_with_their_values() {
        let refused = |config: Config| refused(&config, &problem(1, 1, 640, 640, 128));
        assert!(refused(config(64, 64, 2)).contains("64 queries"));
        assert!(refused(config(384, 64, 2)).contains("384 queries"));
        assert!(refused(config(128, 80, 2)).contains("80 keys"));
        assert!(refused(config(256, 128, 3)).contains("shared memory"));
        assert!(refused(Config { num_stages: Some(1), ..config(128, 128, 2) }).contains("num_stages 1"));
        assert!(refused(Config { num_warps: Some(8), ..config(128, 128, 2) }).contains("num_warps 8"));
        let persistent = |multiplier| Config {
            pid_type: Some(PidType::PersistentBlocked),
            num_sm_multiplier: Some(multiplier),
            ..config(128, 128, 2)
        };
        assert!(refused(persistent(2)).contains("num_sm_multiplier 2"));
        assert!(built(&persistent(1), &problem(1, 1, 640, 640, 128)).is_ok());
        let h200 = GpuProfile::by_name("h200").unwrap();
        let rejection = super::super::Attention.check(&config(128, 128, 2), &h200).unwrap_err();
        assert!(rejection.0.contains("h200 has no tcgen05"), "{rejection}");
    }

    #[test]
    fn one_program_at_a_time_has_a_multiprocessor() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        for (block_q, stages) in [(128, 2), (256, 2)] {
            let config = config(block_q, 64, stages);
            let footprint = super::super::Attention.footprint(&config, &problem(1, 8, 700, 700, 64), &b200).unwrap();
            assert_eq!(footprint.resident(&b200), 1, "{config}");
        }
    }
}
