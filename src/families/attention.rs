//! Attention.

use super::knobs::{self, Programs, WARP};
use super::split::{Reduction, SplitCost};
use super::{Arg, Element, FamilySpec, Fill, HostTensor, KernelSpec, Launch, Rejection, TensorSpec, Tensors, require};
use crate::model::{Bytes, Config, GpuProfile, Mma, Problem, Shape};
use std::f64::consts::LOG2_E;

pub(super) struct Attention;

/// Rows and columns of the matrices the tensor cores multiply.
const FRAGMENT: u32 = 16;
/// The largest head the kernel has registers for.
const MOST_HEAD_DIM: u64 = 256;
/// The kernel counts queries and keys in 32 bits, and steps past the last by a few blocks.
const MOST_POSITIONS: u64 = 1 << 30;
/// Registers an instruction can name.
const MOST_REGISTERS: u32 = 255;
/// Elements that a row in shared memory is longer than a head.
const ROW_PADDING: u32 = 8;
/// Fitted to 206 kernels, each timed with 1 to 32 parts on one problem, on an H200: the choice was 0.3 % from the best of them
/// in the geometric mean, where the best fixed number was 5 %.
const SPLIT_COST: SplitCost = SplitCost {
    saturating_bytes: 63_400.0,
    flops_per_byte: 36.2,
    wave: 119_000.0,
    merge: 6_200.0,
    partial_byte: 3.2,
    gathered_byte: 2.7,
};
/// The most parts that such a choice makes: as many as were measured.
const MOST_PARTS: u64 = 32;
/// Registers of a thread, about, of the kernels that were measured.
const USUAL_REGISTERS: u64 = 168;
/// Static shared memory: whether this program is the last of its splits.
const FLAG_BYTES: u64 = 16;

/// The problem's dimensions, with batch and heads as one.
struct Dimensions {
    batch_heads: u64,
    q_seq: u64,
    kv_seq: u64,
    head_dim: u64,
}

impl Dimensions {
    fn of(problem: &Problem) -> Self {
        match problem.shape {
            Shape::Attention { batch, heads, q_seq, kv_seq, head_dim } => {
                Self { batch_heads: batch * heads, q_seq, kv_seq, head_dim }
            }
            _ => unreachable!("Problem::new gives attention its own shape"),
        }
    }

    /// The head in whole fragments, as kernels are compiled for it.
    fn padded_head(&self) -> u32 {
        self.head_dim.next_multiple_of(FRAGMENT.into()) as u32
    }

    /// Bytes that every row of `head_dim` bf16 elements is aligned to, up to the widest copy.
    fn vector_bytes(&self) -> u32 {
        2 << self.head_dim.trailing_zeros().min(3)
    }
}

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
    fn reduction(&self, sizes: &Dimensions, blocks: u64, profile: &GpuProfile) -> Reduction {
        let [block_q, block_kv, head] = [self.block_q, self.block_kv, self.head].map(u64::from);
        let threads = u64::from(self.warps * WARP);
        let by_smem = profile.smem_per_multiprocessor.0 / (self.smem().0 + 1024);
        let by_threads = u64::from(profile.threads_per_multiprocessor) / threads;
        let by_registers = u64::from(profile.registers_per_multiprocessor) / (threads * USUAL_REGISTERS);
        Reduction {
            tiles: sizes.batch_heads * sizes.q_seq.div_ceil(block_q),
            steps: blocks,
            step_bytes: 2 * block_kv * head * 2,
            step_flops: 4 * block_q * block_kv * head,
            steps_ahead: u64::from(self.stages) - 1,
            tile_bytes: block_q * head * 4,
            resident: by_smem.min(by_threads).min(by_registers).max(1),
        }
    }

    /// Refuses what the compiler would spill: a thread holds its share of the output and of the scores in registers, a
    /// lane's part of a 16 by n matrix in f32 being n / 2, and needs some more for everything else.
    fn fits_registers(&self, profile: &GpuProfile) -> Result<(), Rejection> {
        let held = self.fragments_per_warp * (self.head / 2 + self.keys_per_warp / 2);
        let limit = (65_536 / (self.warps * WARP)).min(MOST_REGISTERS);
        // Found by compiling the space. For Blackwell the compiler loads further ahead where it is allowed 255.
        let spare = if profile.arch.starts_with("sm_1") && limit == MOST_REGISTERS { 96 } else { 72 };
        require!(
            held + spare <= limit,
            "needs {held} registers a thread for output and scores and {spare} more; {} warps have {limit}",
            self.warps
        );
        Ok(())
    }
}

/// The kernel and its launch, which are legal or not together.
fn build(config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<(KernelSpec, Launch), Rejection> {
    knobs::mma(config, Mma::MmaSync)?;
    knobs::only(config, &["mma", "num_sm_multiplier", "num_stages", "num_warps", "pid_type", "split_k"])?;
    let sizes = Dimensions::of(problem);
    require!(sizes.head_dim <= MOST_HEAD_DIM, "head_dim = {}: at most {MOST_HEAD_DIM}", sizes.head_dim);
    let longest = sizes.q_seq.max(sizes.kv_seq);
    require!(longest <= MOST_POSITIONS, "{longest} positions: at most {MOST_POSITIONS}");
    let tiling = Tiling::new(config, sizes.padded_head())?;
    tiling.fits_registers(profile)?;
    knobs::fits_smem(Bytes(tiling.smem().0 + FLAG_BYTES), profile)?;

    let splits = splits(config, &sizes, &tiling, profile)?;
    let q_tiles = sizes.batch_heads * sizes.q_seq.div_ceil(tiling.block_q.into());
    let Programs { count, contiguous } = knobs::programs(config, q_tiles * splits, profile)?;
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
    // A split's partial result: the sums of every query's padded head, its maximum and its sum, in f32.
    let partials =
        if splits > 1 { splits * sizes.batch_heads * sizes.q_seq * u64::from(tiling.head + 2) * 4 } else { 0 };
    let launch = Launch {
        grid: [count, 1, 1],
        cluster: 1,
        threads: tiling.warps * WARP,
        dynamic_smem: tiling.smem(),
        args: vec![
            Arg::Input(0),
            Arg::Input(1),
            Arg::Input(2),
            Arg::Output,
            Arg::Workspace,
            Arg::Counters,
            Arg::I32(sizes.batch_heads as i32),
            Arg::I32(sizes.q_seq as i32),
            Arg::I32(sizes.kv_seq as i32),
            Arg::I32(sizes.head_dim as i32),
            Arg::I32(splits as i32),
            Arg::F32((LOG2_E / (sizes.head_dim as f64).sqrt()) as f32),
            Arg::I32(i32::from(contiguous)),
        ],
        workspace: Bytes(partials),
        counters: if splits > 1 { q_tiles as u32 } else { 0 },
    };
    Ok((kernel, launch))
}

/// Programs that share a head's keys: `split_k`, or fewer where there are too few blocks of keys to give each some.
fn splits(config: &Config, sizes: &Dimensions, tiling: &Tiling, profile: &GpuProfile) -> Result<u64, Rejection> {
    let blocks = sizes.kv_seq.div_ceil(tiling.block_kv.into());
    let wanted = match config.split_k {
        Some(_) => u64::from(knobs::needed("split_k", config.split_k)?),
        None => SPLIT_COST.choose(&tiling.reduction(sizes, blocks, profile), profile.multiprocessors, MOST_PARTS),
    };
    Ok(blocks.div_ceil(blocks.div_ceil(wanted)))
}

impl FamilySpec for Attention {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let Shape::Attention { batch, heads, q_seq, kv_seq, head_dim } = problem.shape else {
            unreachable!("Problem::new gives attention its own shape")
        };
        let tensor = |name, seq, magnitude| TensorSpec {
            name,
            element: Element::from(problem.dtype),
            shape: vec![batch, heads, seq, head_dim],
            fill: Fill::Uniform { magnitude },
        };
        Tensors {
            inputs: vec![tensor("Q", q_seq, 2.0), tensor("K", kv_seq, 2.0), tensor("V", kv_seq, 1.0)],
            output: tensor("O", q_seq, 1.0),
        }
    }

    /// The two matrix products.
    fn flops(&self, problem: &Problem) -> f64 {
        let sizes = Dimensions::of(problem);
        4.0 * [sizes.batch_heads, sizes.q_seq, sizes.kv_seq, sizes.head_dim]
            .map(|size| size as f64)
            .iter()
            .product::<f64>()
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &["num_sm_multiplier", "pid_type", "split_k"]
    }

    fn kernel(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<KernelSpec, Rejection> {
        build(config, problem, profile).map(|(kernel, _)| kernel)
    }

    fn launch(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Launch, Rejection> {
        build(config, problem, profile).map(|(_, launch)| launch)
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        knobs::only(config, &["num_warps"])?;
        let [one, block_q, block_kv] = knobs::block_sizes(config)?;
        require!(one == 1, "block_sizes [{one}, {block_q}, {block_kv}]: a program has 1 head at a time");
        knobs::needed("num_warps", config.num_warps)?;
        Ok(())
    }

    fn reference(&self, problem: &Problem) -> (KernelSpec, Launch) {
        const QUERIES: u64 = 32;
        const MOST_BLOCKS_Y: u64 = 65_535;
        let sizes = Dimensions::of(problem);
        let kernel = KernelSpec {
            source: "attention_reference.cu",
            entry: "attention_reference",
            macros: vec![("HEAD_DIM", sizes.padded_head().to_string())],
        };
        let launch = Launch {
            grid: [sizes.q_seq.div_ceil(QUERIES) as u32, sizes.batch_heads.min(MOST_BLOCKS_Y) as u32, 1],
            cluster: 1,
            threads: 128,
            dynamic_smem: Bytes(0),
            args: vec![
                Arg::Input(0),
                Arg::Input(1),
                Arg::Input(2),
                Arg::Output,
                Arg::I32(sizes.batch_heads as i32),
                Arg::I32(sizes.q_seq as i32),
                Arg::I32(sizes.kv_seq as i32),
                Arg::I32(sizes.head_dim as i32),
            ],
            workspace: Bytes(0),
            counters: 0,
        };
        (kernel, launch)
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Vec<f64> {
        let sizes = Dimensions::of(problem);
        let head_dim = sizes.head_dim as usize;
        let [queries, keys, values] = [0, 1, 2].map(|index| inputs[index].to_f64());
        let head_keys = sizes.kv_seq as usize * head_dim;
        let scale = 1.0 / (head_dim as f64).sqrt();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let attend = |(row, query): (usize, &[f64])| {
            let head = row / sizes.q_seq as usize * head_keys;
            let keys = keys[head..head + head_keys].chunks(head_dim);
            let scores: Vec<_> = keys.map(|key| scale * dot(query, key)).collect();
            let maximum = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<_> = scores.iter().map(|score| (score - maximum).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut out = vec![0.0; head_dim];
            for (weight, value) in weights.iter().zip(values[head..head + head_keys].chunks(head_dim)) {
                out.iter_mut().zip(value).for_each(|(out, value)| *out += weight / sum * value);
            }
            out
        };
        queries.chunks(head_dim).enumerate().flat_map(attend).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Family, PidType};

    fn problem(batch: i64, heads: i64, q_seq: i64, kv_seq: i64, head_dim: i64) -> Problem {
        let dimensions =
            [("batch", batch), ("heads", heads), ("q_seq", q_seq), ("kv_seq", kv_seq), ("head_dim", head_dim)];
        Problem::new(Family::Attention, &dimensions, Dtype::Bf16).unwrap()
    }

    fn config(block_q: u32, block_kv: u32, warps: u32) -> Config {
        Config {
            block_sizes: vec![1, block_q, block_kv],
            mma: Some(Mma::MmaSync),
            num_stages: Some(2),
            num_warps: Some(warps),
            pid_type: Some(PidType::Flat),
            split_k: Some(1),
            ..Config::default()
        }
    }

    fn built(config: &Config, problem: &Problem) -> Result<(KernelSpec, Launch), Rejection> {
        build(config, problem, &GpuProfile::by_name("h200").unwrap())
    }

    fn refused(config: &Config, problem: &Problem) -> String {
        built(config, problem).unwrap_err().0
    }

    #[test]
    fn every_query_tile_of_every_head_has_a_program() {
        for (q_seq, tiles) in [(1, 1), (64, 1), (65, 2), (4096, 64)] {
            let launch = built(&config(64, 64, 4), &problem(2, 16, q_seq, 4096, 128)).unwrap().1;
            assert_eq!(launch.grid, [32 * tiles, 1, 1], "{q_seq} queries");
            assert_eq!((launch.workspace, launch.counters), (Bytes(0), 0));
        }
    }

    #[test]
    fn splits_have_a_program_each_and_room_for_their_partial_results() {
        let split = |splits, kv_seq| {
            let config = Config { split_k: Some(splits), ..config(16, 64, 4) };
            built(&config, &problem(1, 8, 3, kv_seq, 120)).unwrap().1
        };
        let launch = split(4, 4096);
        assert_eq!((launch.grid[0], launch.args[10].clone(), launch.counters), (32, Arg::I32(4), 8));
        assert_eq!(launch.workspace, Bytes(4 * 8 * 3 * (128 + 2) * 4));
        // Five blocks of keys in shares of two: the fourth split would have none.
        assert_eq!(split(4, 300).args[10], Arg::I32(3));
        assert_eq!(split(8, 1).args[10], Arg::I32(1));
    }

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
        assert!(
            built(&Config { split_k: None, ..config(64, 64, 4) }, &problem(1, 1, 1, 4096, 128)).unwrap().1.counters > 0
        );
    }

    #[test]
    fn more_than_the_registers_hold_is_refused_before_it_is_compiled() {
        let problem = problem(1, 1, 64, 64, 128);
        let fits = |gpu, block_q, block_kv, warps| {
            build(&config(block_q, block_kv, warps), &problem, &GpuProfile::by_name(gpu).unwrap()).is_ok()
        };
        assert!(fits("h200", 64, 64, 4) && fits("h200", 128, 32, 4) && !fits("h200", 128, 64, 4));
        assert!(fits("b200", 64, 64, 4) && !fits("b200", 128, 32, 4));
    }

    #[test]
    fn the_host_reference_weighs_values_by_their_keys() {
        // One head of two elements; the second key is as far ahead of the first as makes it weigh three times as much.
        let ahead = 3f32.ln() * 2f32.sqrt();
        let inputs = [vec![1.0, 0.0], vec![0.0, 5.0, ahead, 5.0], vec![8.0, -4.0, 0.0, 4.0]].map(HostTensor::F32);
        let out = Attention.host_reference(&problem(1, 1, 1, 2, 2), &inputs);
        assert!((out[0] - 2.0).abs() < 1e-6 && (out[1] - 2.0).abs() < 1e-6, "{out:?}");
    }

    #[test]
    fn one_key_gives_its_value_to_every_query_of_its_head() {
        let problem = problem(2, 1, 3, 1, 2);
        let queries = HostTensor::F32((0..12).map(|i| i as f32).collect());
        let keys = HostTensor::F32(vec![1.0, 2.0, 3.0, 4.0]);
        let values = HostTensor::F32(vec![5.0, 6.0, 7.0, 8.0]);
        let out = Attention.host_reference(&problem, &[queries, keys, values]);
        assert_eq!(out, [5.0, 6.0, 5.0, 6.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0, 7.0, 8.0]);
    }
}
