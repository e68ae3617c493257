//! Elementwise addition.

use super::knobs::{self, Programs, WARP};
use super::{
    Arg, Axis, Condition, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Reference, Rejection,
    TensorSpec, Tensors, legality, require, rounding,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma, Problem, Shape};
use std::sync::LazyLock;

pub(super) struct Elementwise;

const WORDS: (&str, &str) =
    ("block_sizes[0] * element_bytes >= num_warps * 128", "a thread's share of a tile is less than 4 bytes");
const WIDE_WORDS: (&str, &str) =
    ("block_sizes[0] * element_bytes >= num_warps * 1024", "a thread's share of a tile is less than 32 bytes");
const TILES: (&str, &str) =
    ("ceil_div(numel, block_sizes[0]) < 1073741824", "tiles are counted in 32 bits, larger block_sizes make fewer");

/// By what share of itself a sum may differ before it is rounded: a sum in f32 is rounded once, and this is twice as much.
const ALLOWED: f64 = 2.0 * rounding::F32;

fn numel(problem: &Problem) -> u64 {
    match problem.shape {
        Shape::Elements { numel } => numel,
        _ => unreachable!("Problem::new gives elementwise its own shape"),
    }
}

/// The kernel of a legal config and its launch.
fn build(config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<(KernelSpec, Launch), Rejection> {
    let [block] = knobs::block_sizes(config)?;
    let warps = knobs::num_warps(config)?;
    let numel = numel(problem);
    let tiles = numel.div_ceil(u64::from(block));
    let Programs { count, contiguous } = knobs::programs(config, tiles, profile.multiprocessors);
    let kernel = KernelSpec {
        source: if config.mma == Some(Mma::SimtWide) { "elementwise_wide.cu" } else { "elementwise.cu" },
        entry: "elementwise",
        macros: vec![
            ("DTYPE", knobs::c_type(problem.dtype)),
            ("BLOCK", block.to_string()),
            ("NUM_WARPS", warps.to_string()),
            ("ONE_TILE", u8::from(u64::from(count) == tiles).to_string()),
        ],
    };
    let launch = Launch {
        grid: [count, 1, 1],
        cluster: 1,
        threads: warps * WARP,
        dynamic_smem: Bytes(0),
        args: vec![Arg::Input(0), Arg::Input(1), Arg::Output, Arg::I64(numel as i64), Arg::I32(i32::from(contiguous))],
        workspace: Bytes(0),
        counters: 0,
    };
    Ok((kernel, launch))
}

impl FamilySpec for Elementwise {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let tensor = |name| TensorSpec {
            name,
            element: problem.dtype.into(),
            shape: vec![numel(problem)],
            fill: Fill::Uniform { magnitude: 1.0 },
        };
        Tensors { inputs: vec![tensor("X"), tensor("Y")], output: tensor("OUT") }
    }

    fn flops(&self, problem: &Problem) -> f64 {
        numel(problem) as f64
    }

    /// A kernel with a program for each tile has no loop over them.
    fn launch_knobs(&self) -> &'static [&'static str] {
        &[]
    }

    fn family(&self) -> Family {
        Family::Elementwise
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        knobs::lanes(config, profile)?;
        knobs::only(config, &["mma", "num_sm_multiplier", "num_warps", "pid_type"])?;
        knobs::order(config)?;
        knobs::num_warps(config)?;
        let [block] = knobs::block_sizes(config)?;
        require!(block.is_power_of_two() && block <= 1 << 24, "block_sizes [{block}] is not a power of two up to 2^24");
        Ok(())
    }

    fn conditions(&self, config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        static PLAIN: LazyLock<Vec<Condition>> =
            LazyLock::new(|| legality::conditions(Family::Elementwise, [WORDS, TILES]));
        static WIDE: LazyLock<Vec<Condition>> =
            LazyLock::new(|| legality::conditions(Family::Elementwise, [WIDE_WORDS, TILES]));
        if config.mma == Some(Mma::SimtWide) { &WIDE } else { &PLAIN }
    }

    fn axes(&self) -> &'static [Axis] {
        static AXES: LazyLock<[Axis; 1]> =
            LazyLock::new(|| [Axis::new(Family::Elementwise, "numel", "block_sizes[0]", false)]);
        AXES.as_slice()
    }

    fn footprint(&self, config: &Config, problem: &Problem, _profile: &GpuProfile) -> Result<Footprint, Rejection> {
        /// As many as leave a multiprocessor all its threads; the wide kernel takes half as many more.
        const REGISTERS: u32 = 32;
        const WIDE_REGISTERS: u32 = 48;
        let [block] = knobs::block_sizes(config)?;
        Ok(Footprint {
            threads: knobs::num_warps(config)? * WARP,
            registers: if config.mma == Some(Mma::SimtWide) { WIDE_REGISTERS } else { REGISTERS },
            smem: Bytes(0),
            stage_bytes: Bytes(2 * u64::from(block) * problem.dtype.size_bytes()),
        })
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        build(config, problem, profile)
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        knobs::only(config, &["num_warps"])?;
        knobs::block_sizes::<1>(config)?;
        knobs::needed("num_warps", config.num_warps)?;
        Ok(())
    }

    fn reference(&self, problem: &Problem) -> (KernelSpec, Launch) {
        const THREADS: u32 = 256;
        const MOST_BLOCKS: u64 = 1 << 16;
        let numel = numel(problem);
        let kernel = KernelSpec {
            source: "elementwise_reference.cu",
            entry: "elementwise_reference",
            macros: vec![("DTYPE", knobs::c_type(problem.dtype))],
        };
        let launch = Launch {
            grid: [numel.div_ceil(u64::from(THREADS)).min(MOST_BLOCKS) as u32, 1, 1],
            cluster: 1,
            threads: THREADS,
            dynamic_smem: Bytes(0),
            args: vec![
                Arg::Input(0),
                Arg::Input(1),
                Arg::Output,
                Arg::Allowed,
                Arg::I64(numel as i64),
                Arg::F32(ALLOWED as f32),
            ],
            workspace: Bytes(0),
            counters: 0,
        };
        (kernel, launch)
    }

    fn host_reference(&self, _problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let sums = inputs[0].to_f64().into_iter().zip(inputs[1].to_f64()).map(|(x, y)| x + y);
        sums.map(|sum| (sum, ALLOWED * sum.abs())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Family, PidType};
    use half::bf16;

    fn problem(numel: i64, dtype: Dtype) -> Problem {
        Problem::new(Family::Elementwise, &[("numel", numel)], dtype).unwrap()
    }

    fn config(block: u32, warps: u32) -> Config {
        Config {
            block_sizes: vec![block],
            mma: Some(Mma::Simt),
            num_warps: Some(warps),
            pid_type: Some(PidType::Flat),
            ..Config::default()
        }
    }

    fn launch(config: &Config, numel: i64) -> Result<Launch, Rejection> {
        Elementwise.launch(config, &problem(numel, Dtype::Bf16), &GpuProfile::by_name("h200").unwrap())
    }

    #[test]
    fn every_element_has_a_program() {
        for (numel, programs) in [(1, 1), (1024, 1), (1025, 2), (1 << 29, 1 << 19)] {
            let launch = launch(&config(1024, 4), numel).unwrap();
            assert_eq!(launch.grid, [programs, 1, 1], "{numel} elements");
            assert_eq!(launch.args[3], Arg::I64(numel));
        }
    }

    #[test]
    fn persistent_programs_are_counted_by_the_gpu_and_never_outnumber_tiles() {
        let persistent = |pid_type| Config { pid_type: Some(pid_type), num_sm_multiplier: Some(2), ..config(1024, 4) };
        let blocked = launch(&persistent(PidType::PersistentBlocked), 1 << 20).unwrap();
        assert_eq!((blocked.grid[0], blocked.args.last().unwrap().clone()), (264, Arg::I32(1)));
        let interleaved = launch(&persistent(PidType::PersistentInterleaved), 5000).unwrap();
        assert_eq!((interleaved.grid[0], interleaved.args.last().unwrap().clone()), (5, Arg::I32(0)));
    }

    #[test]
    fn programs_with_one_tile_each_have_no_loop() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let one_tile = |multiplier: Option<u32>, numel| {
            let pid_type = if multiplier.is_some() { PidType::PersistentInterleaved } else { PidType::Flat };
            let config = Config { pid_type: Some(pid_type), num_sm_multiplier: multiplier, ..config(1024, 4) };
            let kernel = Elementwise.kernel(&config, &problem(numel, Dtype::Bf16), &h200).unwrap();
            kernel.macros.into_iter().find(|(name, _)| *name == "ONE_TILE").unwrap().1
        };
        assert_eq!([one_tile(None, 1 << 20), one_tile(Some(2), 1 << 20), one_tile(Some(2), 5000)], ["1", "0", "1"]);
    }

    #[test]
    fn a_thread_needs_a_word_of_the_tile() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let kernel = |block, dtype| Elementwise.kernel(&config(block, 4), &problem(4096, dtype), &h200);
        assert!(kernel(256, Dtype::Bf16).is_ok());
        assert!(kernel(128, Dtype::Bf16).unwrap_err().0.contains("less than 4 bytes"));
        assert!(kernel(128, Dtype::F32).is_ok());
    }

    #[test]
    fn wide_vectors_are_a_kernel_of_their_own_where_the_gpu_has_them() {
        let wide = |block, warps| Config { mma: Some(Mma::SimtWide), ..config(block, warps) };
        let kernel = |config: &Config, dtype, gpu| {
            let profile = GpuProfile::by_name(gpu).unwrap();
            Elementwise.kernel(config, &problem(1 << 20, dtype), &profile).map(|kernel| kernel.source)
        };
        for gpu in ["b200", "b300", "rtx5090"] {
            assert_eq!(kernel(&wide(4096, 8), Dtype::Bf16, gpu), Ok("elementwise_wide.cu"));
            assert_eq!(kernel(&config(4096, 8), Dtype::Bf16, gpu), Ok("elementwise.cu"));
        }
        for gpu in ["h200", "a100"] {
            assert!(kernel(&wide(4096, 8), Dtype::Bf16, gpu).unwrap_err().0.contains("no simt_wide"));
        }
        assert!(kernel(&wide(2048, 8), Dtype::Bf16, "b200").unwrap_err().0.contains("less than 32 bytes"));
        assert!(kernel(&wide(2048, 8), Dtype::F32, "b200").is_ok());
    }

    #[test]
    fn a_knob_without_effect_or_out_of_range_is_refused_by_name() {
        let refused = |config: Config| launch(&config, 4096).unwrap_err().0;
        assert!(refused(Config { num_stages: Some(2), ..config(1024, 4) }).contains("num_stages"));
        assert!(refused(Config { num_sm_multiplier: Some(2), ..config(1024, 4) }).contains("num_sm_multiplier 2"));
        assert!(refused(Config { mma: Some(Mma::MmaSync), ..config(1024, 4) }).contains("mma_sync"));
        assert!(refused(Config { pid_type: None, ..config(1024, 4) }).contains("pid_type"));
        assert!(refused(Config { num_warps: None, ..config(1024, 4) }).contains("num_warps"));
        assert!(refused(config(1024, 3)).contains("num_warps 3"));
        assert!(refused(config(1000, 4)).contains("[1000]"));
        assert!(refused(Config { block_sizes: vec![1024, 2], ..config(1024, 4) }).contains("[1024, 2]"));
    }

    #[test]
    fn the_host_reference_adds() {
        let tensor = |values: [f32; 2]| HostTensor::Bf16(values.map(bf16::from_f32).to_vec());
        let sums = Elementwise.host_reference(&problem(2, Dtype::Bf16), &[tensor([1.0, -2.5]), tensor([0.5, 2.5])]);
        assert_eq!(sums.values, [1.5, 0.0]);
    }
}
