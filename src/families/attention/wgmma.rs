//! Attention by Hopper's warpgroup products: `kernels/attention_wgmma.cu`.

use super::super::knobs::{self, WARP};
use super::super::{Condition, Footprint, KernelSpec, Launch, Mapped, Rejection, legality, require};
use super::{Dimensions, HEAD, LINE, POSITIONS, ROWS, SHARED_POSITIONS, Split, TILES, TOO_MANY_PARTS, heads_map};
use crate::model::{Bytes, Config, Family, GpuProfile, KnobValue, PidType};
use std::sync::LazyLock;

/// Warps of a warpgroup.
const GROUP_WARPS: u32 = 4;
/// Queries of a warpgroup: the rows of a product.
const GROUP_ROWS: u32 = 64;
/// Warpgroups that multiply; one more streams.
const MOST_CONSUMERS: u32 = 3;
/// Columns a product can have, of those that `kernels/include/wgmma.cuh` defines: the heads and blocks of keys.
const COLUMNS: [u32; 13] = [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 256];
/// Columns of the largest head after 192, which blocks of keys do without.
const WIDE_HEAD: u32 = 224;

/// The knob that has a program load what its next tile needs while it multiplies this one's: its `queries`, in a buffer of their own.
pub(super) const PREFETCH: &str = "prefetch";

/// What the kernel is compiled for, beside the head.
pub(super) struct Tiling {
    block_q: u32,
    block_kv: u32,
    stages: u32,
    consumers: u32,
    /// Tiles of queries in shared memory at once.
    query_buffers: u32,
}

impl Tiling {
    /// The config's tiling, if there are products of that size.
    pub(super) fn new(config: &Config) -> Result<Self, Rejection> {
        let [one, block_q, block_kv] = knobs::block_sizes(config)?;
        let warps = knobs::needed("num_warps", config.num_warps)?;
        let stages = knobs::needed("num_stages", config.num_stages)?;
        require!(one == 1, "block_sizes [{one}, {block_q}, {block_kv}]: a program has 1 head at a time");
        let consumers = block_q / GROUP_ROWS;
        require!(
            block_q.is_multiple_of(GROUP_ROWS) && consumers <= MOST_CONSUMERS,
            "block_sizes: {block_q} queries are not 64, 128 or 192, one warpgroup for each {GROUP_ROWS}"
        );
        require!(
            warps == consumers * GROUP_WARPS,
            "num_warps {warps}: {block_q} queries are multiplied by {} warps, 4 for each {GROUP_ROWS}",
            consumers * GROUP_WARPS
        );
        require!(COLUMNS.contains(&block_kv), "block_sizes: {block_kv} keys are not the columns of a product");
        require!(stages >= 2, "num_stages {stages}: the pipeline needs 2");
        let query_buffers = match config.own.get(PREFETCH) {
            None => 1,
            Some(KnobValue::Word(word)) if word == "queries" => 2,
            Some(other) => return Err(Rejection(format!("{PREFETCH} {other}: what is loaded ahead are queries"))),
        };
        let is_persistent = config.pid_type.is_some_and(PidType::is_persistent);
        require!(query_buffers == 1 || is_persistent, "{PREFETCH}: a program of one tile has no next one to load for");
        Ok(Self { block_q, block_kv, stages, consumers, query_buffers })
    }

    fn threads(&self) -> u32 {
        (self.consumers + 1) * GROUP_WARPS * WARP
    }

    /// Bytes of a key in shared memory.
    fn row_bytes(head: u32) -> u64 {
        u64::from(head.next_multiple_of(LINE)) * 2
    }

    /// Dynamic shared memory: queries, the rings of keys and values, their barriers and a flag.
    fn smem(&self, head: u32) -> Bytes {
        let [block_q, block_kv, stages, buffers] =
            [self.block_q, self.block_kv, self.stages, self.query_buffers].map(u64::from);
        let barriers = 4 * stages + 2 * buffers;
        Bytes((buffers * block_q + stages * 2 * block_kv) * Self::row_bytes(head) + (barriers + 1) * 8)
    }

    pub(super) fn footprint(&self, sizes: &Dimensions) -> Footprint {
        let head = padded_head(sizes.head_dim);
        Footprint {
            threads: self.threads(),
            registers: (2048 / (self.threads() / WARP)).min(255),
            smem: self.smem(head),
            stage_bytes: Bytes(2 * u64::from(self.block_kv) * Self::row_bytes(head)),
        }
    }
}

/// The head in columns that a product can have, as conditions say it.
macro_rules! head_columns {
    () => {
        "max(ceil_div(head_dim, 16) * 16, (head_dim > 192) * ceil_div(head_dim, 32) * 32)"
    };
}

/// A consumer's thread holds its share of the output, of the scores, and of the weights packed two in a register: of 255
/// registers with one warpgroup, 240 with two and 160 with three, 30 and 26 are needed beside. Found by compiling the space.
const REGISTERS: &str = concat!(
    head_columns!(),
    " / 2 + block_sizes[2] / 2 + block_sizes[2] / 4 \
     <= 225 - 15 * (block_sizes[1] == 128) - 91 * (block_sizes[1] == 192)"
);
/// A mask takes some more, of the tile it is for.
const REGISTERS_OF_MASK: &str = concat!(
    "causal == 0 || ",
    head_columns!(),
    " / 2 + block_sizes[2] / 2 + block_sizes[2] / 4 \
     <= 221 - 15 * (block_sizes[1] == 128) - 91 * (block_sizes[1] == 192)"
);
/// With the next tile's queries a thread needs the more, the more columns its head has. Found by compiling the space, too.
const REGISTERS_OF_PREFETCH: &str = concat!(
    "prefetch != \"queries\" || (",
    head_columns!(),
    " * 5 + block_sizes[2] * 6) / 8 <= 221 - 23 * (block_sizes[1] == 128) - 83 * (block_sizes[1] == 192)"
);
const SMEM: &str = "((1 + (prefetch == \"queries\")) * block_sizes[1] + num_stages * 2 * block_sizes[2]) * ceil_div(head_dim, 64) * 128 \
    + (4 * num_stages + 2 * (prefetch == \"queries\") + 3) * 8 <= smem_per_block";
const PARTIAL_RESULTS: &str =
    concat!("split_k == 1 || split_k * batch * heads * q_seq * (", head_columns!(), " + 2) <= 268435456");

/// A tile whose queries see no key is written by way of the memory that its queries would be in, where a program that has another
/// tile after it may have that one's by then.
const KEYS_OF_ALL: (&str, &str) =
    ("causal == 0 || q_seq <= kv_seq || pid_type == \"flat\"", "programs of several tiles need a key for every query");

/// Where a config runs.
pub(super) fn conditions() -> &'static [Condition] {
    static CONDITIONS: LazyLock<Vec<Condition>> = LazyLock::new(|| {
        legality::conditions(
            Family::Attention,
            [
                HEAD,
                POSITIONS,
                ROWS,
                (REGISTERS, "too few registers a thread for its output and scores"),
                (SMEM, "too little shared memory"),
                TILES,
                (PARTIAL_RESULTS, TOO_MANY_PARTS),
                SHARED_POSITIONS,
                KEYS_OF_ALL,
                (REGISTERS_OF_MASK, "too few registers a thread for its output, scores and mask"),
                (REGISTERS_OF_PREFETCH, "too few registers a thread for its output, scores and the next tile"),
            ],
        )
    });
    &CONDITIONS
}

/// The head in columns that a product can have.
fn padded_head(head_dim: u64) -> u32 {
    let widths = COLUMNS.into_iter().chain([WIDE_HEAD]).filter(|&columns| u64::from(columns) >= head_dim);
    widths.min().unwrap_or(WIDE_HEAD)
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    sizes: &Dimensions,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let tiling = Tiling::new(config)?;
    let head = padded_head(sizes.head_dim);
    let split = Split::new(config, sizes, tiling.block_q, profile);
    let programs = knobs::programs(config, split.tiles(), profile.multiprocessors);
    let macros = [
        ("HEAD_DIM", head),
        ("BLOCK_Q", tiling.block_q),
        ("BLOCK_KV", tiling.block_kv),
        ("NUM_STAGES", tiling.stages),
        ("QUERY_BUFFERS", tiling.query_buffers),
    ];
    let macros = macros.map(|(name, value)| (name, value.to_string())).into_iter().chain(split.variant_macros(sizes));
    let kernel = KernelSpec::shipped("attention_wgmma.cu", "attention_wgmma", macros);
    let maps = [
        heads_map(Mapped::Input(0), sizes, [split.heads, split.rows], GROUP_ROWS),
        heads_map(Mapped::Input(1), sizes, [sizes.key_heads(), sizes.kv_seq], tiling.block_kv),
        heads_map(Mapped::Input(2), sizes, [sizes.key_heads(), sizes.kv_seq], tiling.block_kv),
        heads_map(Mapped::Output, sizes, [split.heads, split.rows], GROUP_ROWS),
    ];
    let threads = tiling.threads();
    Ok((kernel, split.launch(sizes, head, programs, threads, tiling.smem(head), maps)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{built, problem, refused};
    use super::*;
    use crate::families::Arg;
    use crate::model::Mma;

    fn config(block_q: u32, block_kv: u32, stages: u32) -> Config {
        Config {
            block_sizes: vec![1, block_q, block_kv],
            mma: Some(Mma::Wgmma),
            num_stages: Some(stages),
            num_warps: Some(block_q / 16),
            pid_type: Some(PidType::Flat),
            split_k: Some(1),
            ..Config::default()
        }
    }

    #[test]
    fn a_warpgroup_streams_and_one_for_each_64_queries_multiplies() {
        let launch = |block_q| built(&config(block_q, 64, 2), &problem(2, 16, 4096, 4096, 64)).unwrap().1;
        assert_eq!((launch(64).threads[0], launch(64).grid[0]), (256, 32 * 64));
        assert_eq!((launch(128).threads[0], launch(128).grid[0]), (384, 32 * 32));
        assert_eq!((launch(192).threads[0], launch(192).grid[0]), (512, 32 * 22));
        assert_eq!(launch(128).dynamic_smem, Bytes((128 + 2 * 2 * 64) * 128 + (4 * 2 + 3) * 8));
    }

    #[test]
    fn blocks_have_no_more_keys_than_there_are_registers_for() {
        let most = |block_q, head_dim| {
            let fits = |keys: &&u32| built(&config(block_q, **keys, 2), &problem(1, 8, 700, 700, head_dim)).is_ok();
            COLUMNS.iter().filter(fits).max().copied()
        };
        assert_eq!([most(192, 64), most(128, 64), most(64, 64)], [Some(128), Some(192), Some(256)]);
        assert_eq!([most(192, 128), most(128, 128)], [Some(80), Some(192)]);
        assert_eq!([most(192, 224), most(128, 256)], [Some(16), Some(80)]);
    }

    #[test]
    fn queries_that_are_loaded_ahead_have_a_buffer_of_their_own_and_a_tile_to_be_for() {
        let ahead = |block_q, block_kv, pid_type| {
            let own = [(PREFETCH.to_owned(), KnobValue::Word("queries".to_owned()))].into();
            Config { own, pid_type: Some(pid_type), num_sm_multiplier: Some(1), ..config(block_q, block_kv, 2) }
        };
        let problem = |head_dim| problem(2, 16, 4096, 4096, head_dim);
        let (kernel, launch) = built(&ahead(128, 128, PidType::PersistentInterleaved), &problem(64)).unwrap();
        assert!(kernel.to_string().contains("-DQUERY_BUFFERS=2"), "{kernel}");
        assert_eq!(launch.dynamic_smem, Bytes((2 * 128 + 2 * 2 * 128) * 128 + (4 * 2 + 5) * 8));
        let (kernel, _) = built(&config(128, 128, 2), &problem(64)).unwrap();
        assert!(kernel.to_string().contains("-DQUERY_BUFFERS=1"), "{kernel}");

        let refused = |config: &Config, head_dim| refused(config, &problem(head_dim));
        let flat = Config { num_sm_multiplier: None, ..ahead(128, 128, PidType::Flat) };
        assert!(refused(&flat, 64).contains("no next one"));
        assert!(refused(&ahead(128, 176, PidType::PersistentBlocked), 128).contains("shared memory"));
        assert!(refused(&ahead(192, 80, PidType::PersistentBlocked), 128).contains("the next tile"));
        let strange = [(PREFETCH.to_owned(), KnobValue::Word("keys".to_owned()))].into();
        assert!(refused(&Config { own: strange, ..config(128, 128, 2) }, 64).contains("prefetch keys"));
    }

    #[test]
    fn maps_end_where_a_head_does() {
        let launch = built(&config(64, 80, 2), &problem(2, 3, 100, 200, 40)).unwrap().1;
        let Arg::TensorMap(keys) = &launch.args[1] else { panic!("{:?}", launch.args[1]) };
        assert_eq!(keys.extents, [40, 200, 6]);
        assert_eq!(keys.strides_bytes, [80, 16_000]);
        assert_eq!((keys.of, keys.tile.as_slice()), (Mapped::Input(1), [64, 80, 1].as_slice()));
        let Arg::TensorMap(out) = &launch.args[3] else { panic!("{:?}", launch.args[3]) };
        assert_eq!((out.of, out.extents[1], out.tile[1]), (Mapped::Output, 100, 64));
    }

    #[test]
    fn heads_are_padded_to_the_columns_of_a_product() {
        let heads = [8, 16, 40, 64, 72, 128, 136, 192, 200, 232, 256].map(padded_head);
        assert_eq!(heads, [16, 16, 48, 64, 80, 128, 144, 192, 224, 256, 256]);
        assert!(refused(&config(64, 64, 2), &problem(1, 1, 5, 7, 100)).contains("multiple of 16 bytes"));
    }

    #[test]
    fn blocks_that_the_warpgroups_cannot_take_are_refused() {
        let refused = |config: Config| refused(&config, &problem(1, 1, 640, 640, 128));
        assert!(refused(config(256, 64, 2)).contains("256 queries"));
        assert!(refused(config(96, 64, 2)).contains("96 queries"));
        assert!(refused(config(128, 208, 2)).contains("208 keys"));
        assert!(refused(config(128, 128, 4)).contains("shared memory"));
        assert!(refused(Config { num_warps: Some(4), ..config(128, 128, 2) }).contains("num_warps 4"));
        assert!(refused(Config { num_stages: Some(1), ..config(128, 128, 2) }).contains("num_stages 1"));
    }
}
