//! Attention by Hopper's warpgroup products: `kernels/attention_wgmma.cu`.

use super::super::knobs::{self, Programs, WARP};
use super::super::split::{Reduction, SplitCost};
use super::super::{Arg, Element, KernelSpec, Launch, Rejection, Swizzle, TensorMap, require};
use super::{Dimensions, MOST_PARTS, SPLIT_COST, Split};
use crate::model::{Bytes, Config, GpuProfile, Mma};

/// Warps of a warpgroup.
const GROUP_WARPS: u32 = 4;
/// Queries of a warpgroup: the rows of a product.
const GROUP_ROWS: u32 = 64;
/// Warpgroups that multiply; one more streams.
const MOST_CONSUMERS: u32 = 3;
/// Elements of the head in one swizzled line of shared memory.
const LINE: u32 = 64;
/// The copy engine's strides are multiples of so many bf16 elements.
const STRIDE_ELEMENTS: u64 = 8;
/// Columns a product can have, of those that `kernels/include/wgmma.cuh` defines: the heads and blocks of keys.
const COLUMNS: [u32; 13] = [16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 256];
/// Columns of the largest head after 192, which blocks of keys do without.
const WIDE_HEAD: u32 = 224;

/// A block is not cut to fewer keys than this: so small ones gain nothing by more warpgroups, and some do not compile.
const LEAST_KEYS: u32 = 64;

/// What a key costs a program of two warpgroups, and what a tile costs beside its keys, in keys: see `SplitCost`. Fitted,
/// with the shares below, to the best times of 64, 128 and 192 queries on each of 65 problems of more than 64, on an H200:
/// the choice was 0.15 % from the best of them in the geometric mean, where always 128 queries were 2 % and always 192
/// were 10 %. On 679 launches, each timed with several numbers of parts, the choice of that number was 0.01 % from the best,
/// where that by `SPLIT_COST` was 1.1 %.
const KEY: f64 = 430.0;
const TILE_KEYS: f64 = 200.0;
/// The same for one, two and three warpgroups, as shares of that for two; the keys for heads up to 64 and from 128.
const KEY_SHARES: [[f64; 2]; 3] = [[0.7, 0.7], [1.0, 1.0], [1.3, 1.49]];
const TILE_SHARES: [f64; 3] = [0.7, 1.0, 1.3];

/// What the kernel is compiled for.
#[derive(Clone, Copy)]
struct Tiling {
    block_q: u32,
    block_kv: u32,
    stages: u32,
    head: u32,
    consumers: u32,
}

impl Tiling {
    /// The largest tile that the config allows.
    fn most(config: &Config, head_dim: u64) -> Result<Self, Rejection> {
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
        require!(
            head_dim.is_multiple_of(STRIDE_ELEMENTS),
            "head_dim = {head_dim}: the copy engine needs a multiple of {STRIDE_ELEMENTS}"
        );
        Ok(Self { block_q, block_kv, stages, head: padded_head(head_dim), consumers })
    }

    fn threads(&self) -> u32 {
        (self.consumers + 1) * GROUP_WARPS * WARP
    }

    /// Dynamic shared memory: queries, the rings of keys and values, their barriers and a flag.
    fn smem(&self) -> Bytes {
        let row = u64::from(self.head.next_multiple_of(LINE)) * 2;
        let [block_q, block_kv, stages] = [self.block_q, self.block_kv, self.stages].map(u64::from);
        Bytes((block_q + stages * 2 * block_kv) * row + (4 * stages + 3) * 8)
    }

    /// What the split of the keys is decided by. Tiles of a head run side by side, and load its keys from memory once.
    fn reduction(&self, sizes: &Dimensions) -> Reduction {
        let [tiles, steps] = sizes.tiles_and_blocks([self.block_q, self.block_kv]);
        let [block_q, block_kv, head] = [self.block_q, self.block_kv, self.head].map(u64::from);
        Reduction {
            tiles,
            steps,
            step_bytes: 2 * block_kv * head * 2 / sizes.q_seq.div_ceil(block_q),
            step_flops: 4 * block_q * block_kv * head,
            steps_ahead: u64::from(self.stages),
            tile_bytes: block_q * head * 4,
            resident: 1,
        }
    }

    /// With fewer warpgroups, and with no more keys in a block than they have registers for: the compiler would spill. A
    /// consumer's thread holds its share of the output, of the scores, and of the weights packed two in a register.
    fn with(self, consumers: u32) -> Option<Self> {
        // A thread of the consumers has so many; found by compiling the space: it needs so many beside.
        let (limit, spare) = [(255, 30), (240, 30), (160, 26)][consumers as usize - 1];
        let fits = |keys: &u32| self.head / 2 + keys / 2 + keys / 4 + spare <= limit;
        let least = LEAST_KEYS.min(self.block_kv);
        let block_kv = COLUMNS.into_iter().filter(|keys| (least..=self.block_kv).contains(keys) && fits(keys)).max()?;
        Some(Self { block_q: consumers * GROUP_ROWS, block_kv, consumers, ..self })
    }

    /// What the work costs. Queries of one warpgroup are bound by memory, as those of the warp-wide kernels are.
    fn cost(&self, sizes: &Dimensions) -> SplitCost {
        if sizes.q_seq <= GROUP_ROWS.into() {
            return SPLIT_COST;
        }
        let group = self.consumers as usize - 1;
        let [narrow, wide] = KEY_SHARES[group];
        let wideness = ((f64::from(self.head) - 64.0) / 64.0).clamp(0.0, 1.0);
        let key = KEY * (narrow + (wide - narrow) * wideness);
        SplitCost {
            saturating_bytes: 1.0,
            flops_per_byte: f64::from(4 * self.block_q * self.head) / key,
            wave: KEY * TILE_KEYS * TILE_SHARES[group],
            ..SPLIT_COST
        }
    }

    /// Deals the queries out to as many warpgroups as cost least: fewer than a tile may have where these leave
    /// multiprocessors idle in the last wave, or have no queries.
    fn dealt(self, sizes: &Dimensions, profile: &GpuProfile) -> Result<Self, Rejection> {
        let most = u64::from(self.consumers).min(sizes.q_seq.div_ceil(GROUP_ROWS.into())) as u32;
        let choices: Vec<Self> = (1..=most).filter_map(|consumers| self.with(consumers)).collect();
        let least_smem = choices.iter().map(Self::smem).min().unwrap_or(Bytes(0));
        knobs::fits_smem(least_smem, profile)?;
        let cost =
            |tiling: &Self| tiling.cost(sizes).least(&tiling.reduction(sizes), profile.multiprocessors, MOST_PARTS).0;
        let fitting = choices.into_iter().filter(|tiling| tiling.smem() <= profile.smem_per_block);
        let least = fitting.min_by(|one, other| cost(one).total_cmp(&cost(other)));
        least.ok_or_else(|| Rejection(format!("{} keys need more registers than threads have", self.block_kv)))
    }
}

/// The head in columns that a product can have.
fn padded_head(head_dim: u64) -> u32 {
    let widths = COLUMNS.into_iter().chain([WIDE_HEAD]).filter(|&columns| u64::from(columns) >= head_dim);
    widths.min().unwrap_or(WIDE_HEAD)
}

/// A tensor of heads as the copy engine sees it: `rows` of one line at a time, never past the end of a head.
fn map(input: Option<usize>, sizes: &Dimensions, seq: u64, rows: u32) -> Arg {
    Arg::TensorMap(TensorMap {
        input,
        element: Element::Bf16,
        extents: vec![sizes.head_dim, seq, sizes.batch_heads],
        strides_bytes: vec![sizes.head_dim * 2, seq * sizes.head_dim * 2],
        tile: vec![LINE, rows, 1],
        swizzle: Swizzle::Bytes128,
    })
}

/// The kernel and its launch, which are legal or not together.
pub(super) fn build(
    config: &Config,
    sizes: &Dimensions,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    require!(profile.mma.contains(&Mma::Wgmma), "mma wgmma needs sm_90a, not {}", profile.arch);
    let tiling = Tiling::most(config, sizes.head_dim)?.dealt(sizes, profile)?;
    let split = Split::new(config, sizes, [tiling.block_q, tiling.block_kv], || {
        tiling.cost(sizes).choose(&tiling.reduction(sizes), profile.multiprocessors, MOST_PARTS)
    })?;
    let Programs { count, contiguous } = knobs::programs(config, split.tiles(), profile)?;
    let macros = [
        ("HEAD_DIM", tiling.head),
        ("BLOCK_Q", tiling.block_q),
        ("BLOCK_KV", tiling.block_kv),
        ("NUM_STAGES", tiling.stages),
    ];
    let kernel = KernelSpec {
        source: "attention_wgmma.cu",
        entry: "attention_wgmma",
        macros: macros.map(|(name, value)| (name, value.to_string())).to_vec(),
    };
    let maps = [
        map(Some(0), sizes, sizes.q_seq, GROUP_ROWS),
        map(Some(1), sizes, sizes.kv_seq, tiling.block_kv),
        map(Some(2), sizes, sizes.kv_seq, tiling.block_kv),
        map(None, sizes, sizes.q_seq, GROUP_ROWS),
    ];
    let launch = Launch {
        grid: [count, 1, 1],
        cluster: 1,
        threads: tiling.threads(),
        dynamic_smem: tiling.smem(),
        args: split.arguments(maps, sizes, contiguous),
        workspace: split.workspace(sizes, tiling.head),
        counters: split.counters(),
    };
    Ok((kernel, launch))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{built, problem, refused};
    use super::*;
    use crate::model::PidType;

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
        assert_eq!((launch(64).threads, launch(64).grid[0]), (256, 32 * 64));
        assert_eq!((launch(128).threads, launch(128).grid[0]), (384, 32 * 32));
        assert_eq!((launch(192).threads, launch(192).grid[0]), (512, 32 * 22));
        assert_eq!(launch(128).dynamic_smem, Bytes((128 + 2 * 2 * 64) * 128 + (4 * 2 + 3) * 8));
    }

    /// The tile's queries and keys that a launch with up to `block_q` and `block_kv` of them has.
    fn dealt(block_q: u32, block_kv: u32, shape: [i64; 4]) -> [u32; 2] {
        let [heads, q_seq, kv_seq, head_dim] = shape;
        let kernel = built(&config(block_q, block_kv, 2), &problem(1, heads, q_seq, kv_seq, head_dim)).unwrap().0;
        ["BLOCK_Q", "BLOCK_KV"]
            .map(|name| kernel.macros.iter().find(|(macro_name, _)| *macro_name == name).unwrap().1.parse().unwrap())
    }

    #[test]
    fn queries_are_dealt_so_that_the_last_wave_is_full() {
        // 192 tiles of 128 queries are a wave and a half of 132, 128 tiles of 192 are one.
        assert_eq!(dealt(192, 128, [16, 1500, 1500, 64])[0], 192);
        assert_eq!(dealt(128, 128, [16, 1500, 1500, 64])[0], 128);
        // 160 tiles of 192 are two waves as 240 of 128 are.
        assert_eq!(dealt(192, 128, [20, 1500, 1500, 64])[0], 128);
        assert_eq!(dealt(192, 80, [12, 16384, 16384, 128])[0], 192);
        assert_eq!(dealt(192, 80, [32, 4096, 4096, 128])[0], 128);
        assert_eq!(dealt(192, 128, [16, 257, 257, 64])[0], 64);
    }

    #[test]
    fn a_tile_has_no_more_warpgroups_than_queries_for_them() {
        assert_eq!(dealt(192, 64, [32, 1, 4096, 128])[0], 64);
        assert_eq!(dealt(192, 64, [132, 100, 4096, 128])[0], 128);
    }

    #[test]
    fn a_wide_head_leaves_three_warpgroups_too_few_keys() {
        assert!(dealt(192, 64, [8, 700, 700, 224])[0] < 192);
    }

    #[test]
    fn blocks_have_no_more_keys_than_there_are_registers_for() {
        assert_eq!(dealt(192, 176, [12, 16384, 16384, 128]), [192, 80]);
        assert_eq!(dealt(192, 176, [32, 4096, 4096, 128]), [128, 176]);
        assert_eq!(dealt(192, 176, [32, 4096, 4096, 64]), [192, 128]);
    }

    #[test]
    fn maps_end_where_a_head_does() {
        let launch = built(&config(64, 80, 2), &problem(2, 3, 100, 200, 40)).unwrap().1;
        let Arg::TensorMap(keys) = &launch.args[1] else { panic!("{:?}", launch.args[1]) };
        assert_eq!(keys.extents, [40, 200, 6]);
        assert_eq!(keys.strides_bytes, [80, 16_000]);
        assert_eq!((keys.input, keys.tile.as_slice()), (Some(1), [64, 80, 1].as_slice()));
        let Arg::TensorMap(out) = &launch.args[3] else { panic!("{:?}", launch.args[3]) };
        assert_eq!((out.input, out.extents[1], out.tile[1]), (None, 100, 64));
    }

    #[test]
    fn heads_are_padded_to_the_columns_of_a_product() {
        let heads = [8, 16, 40, 64, 72, 128, 136, 192, 200, 232, 256].map(padded_head);
        assert_eq!(heads, [16, 16, 48, 64, 80, 128, 144, 192, 224, 256, 256]);
        assert!(refused(&config(64, 64, 2), &problem(1, 1, 5, 7, 100)).contains("head_dim = 100"));
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
