//! `gemm.cu`: warps that load and multiply in turn, on any GPU with bf16 tensor cores.

use super::{
    EXTENTS, Groups, PARTIAL_SUMS, Product, ProgramOrder, TILES, Weights, group_m, program_order, split_k, vector_bytes,
};
use crate::families::knobs::{self, WARP};
use crate::families::{Arg, Condition, Element, Footprint, KernelSpec, Launch, Rejection, require};
use crate::model::{Bytes, Config, GpuProfile};
use std::sync::LazyLock;

/// The compile-time half of a config: the tile of one program and who loads and computes it.
struct Tiling {
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    warps: u32,
    stages: u32,
}

impl Tiling {
    /// The config's tiling, if a kernel with it can be compiled for the GPU and run there.
    fn new(config: &Config, weights: Weights, profile: &GpuProfile) -> Result<Self, Rejection> {
        let [m, n, depth] = knobs::block_sizes(config)?.map(u64::from);
        let k = depth * weights.per_element();
        let warps = knobs::num_warps(config)?;
        let stages = knobs::needed("num_stages", config.num_stages)?;
        for (name, extent, least) in [("m", m, 16), ("n", n, 32), ("k", k, 16)] {
            require!(
                extent.is_power_of_two() && extent >= least,
                "block of {extent} along {name}: it must be a power of two from {least}"
            );
        }
        require!(
            u64::from(warps) * 16 * 32 <= m * n,
            "num_warps {warps}: a {m} x {n} tile has only {} warp tiles of 16 x 32",
            m * n / (16 * 32)
        );
        require!(stages >= 2, "num_stages {stages}: the load pipeline needs 2");

        let threads = warps * WARP;
        let accumulators = m * n / u64::from(threads);
        let registers = (profile.registers_per_multiprocessor / threads).min(256);
        require!(
            accumulators <= u64::from(registers / 2),
            "{accumulators} accumulators a thread leave too few of its {registers} registers"
        );
        Ok(Self { m, n, k, warps, stages })
    }

    /// Shared memory of one program.
    fn smem(&self, weights: Weights, groups: Option<Groups>) -> Bytes {
        let a = self.m * self.k * Element::Bf16.size_bytes();
        let b = self.k / weights.per_element() * self.n * weights.element_bytes();
        let scales = groups.map_or(0, |groups| {
            let [scale, zero] = weights.scale_bytes();
            self.k / groups.within(self.k) * self.n * (scale + if groups.zero_points { zero } else { 0 })
        });
        Bytes(u64::from(self.stages) * (a + b + scales))
    }

    /// The same at most, whatever the problem's groups.
    fn most_smem(&self, weights: Weights) -> Bytes {
        let groups = Groups { group: weights.least_group(), zero_points: weights.scale_bytes()[1] > 0 };
        self.smem(weights, weights.is_scaled().then_some(groups))
    }

    fn threads(&self) -> u32 {
        self.warps * WARP
    }

    /// As many registers as gemm.cu leaves a thread of a tile of that size.
    fn registers(&self) -> u32 {
        if self.m * self.n / u64::from(self.threads()) <= 64 { 128 } else { 256 }
    }
}

pub(super) fn check(config: &Config, weights: Weights, profile: &GpuProfile) -> Result<(), Rejection> {
    knobs::fits_smem(Tiling::new(config, weights, profile)?.most_smem(weights), profile)
}

pub(super) fn conditions() -> &'static [Condition] {
    static CONDITIONS: LazyLock<Vec<Condition>> = LazyLock::new(|| super::conditions([EXTENTS, TILES, PARTIAL_SUMS]));
    &CONDITIONS
}

pub(super) fn footprint(config: &Config, weights: Weights, profile: &GpuProfile) -> Result<Footprint, Rejection> {
    let tiling = Tiling::new(config, weights, profile)?;
    let smem = tiling.most_smem(weights);
    Ok(Footprint {
        threads: tiling.threads(),
        registers: tiling.registers(),
        smem,
        stage_bytes: Bytes(smem.0 / u64::from(tiling.stages)),
    })
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    product: &Product,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let &Product { weights, groups, m, n, k, .. } = product;
    let tiling = Tiling::new(config, weights, profile)?;
    let tiles_m = m.div_ceil(tiling.m);
    let tiles_n = n.div_ceil(tiling.n);
    let tiles = tiles_m * tiles_n;
    let k_steps = k.div_ceil(tiling.k);
    let (split_k, group_m) = (split_k(config), group_m(config, tiles_m));
    let work = tiles * split_k;
    let ProgramOrder { programs, stride, span } = program_order(config, work, profile.multiprocessors);

    let own = [
        ("BLOCK_M", tiling.m.to_string()),
        ("BLOCK_N", tiling.n.to_string()),
        ("BLOCK_K", tiling.k.to_string()),
        ("NUM_WARPS", tiling.warps.to_string()),
        ("NUM_STAGES", tiling.stages.to_string()),
        ("A_VECTOR_BYTES", vector_bytes(product.a_row_bytes()).to_string()),
        ("B_VECTOR_BYTES", vector_bytes(product.b_row_bytes()).to_string()),
    ];
    let macros = product.macros(tiling.k).into_iter().chain(own);
    let scales = product.scale_arguments(|input, _, _| Arg::Input(input), |groups| groups.steps(k, tiling.k));
    let (workspace, counters) = match split_k {
        1 => (0, 0),
        _ => (work * tiling.m * tiling.n * Element::F32.size_bytes(), tiles as u32),
    };
    let numbers = [m, n, k, tiles_m, tiles_n, k_steps, group_m, split_k, stride, span];
    let tensors = [Arg::Input(0), Arg::Input(1), Arg::Output(0), Arg::Workspace, Arg::Counters];
    let launch = Launch {
        grid: [programs as u32, 1, 1],
        cluster: [1; 3],
        threads: [tiling.threads(), 1, 1],
        dynamic_smem: tiling.smem(weights, groups),
        args: tensors.into_iter().chain(numbers.map(|number| Arg::I32(number as i32))).chain(scales).collect(),
        workspace: Bytes(workspace),
        counters,
        cooperative: false,
    };
    Ok((KernelSpec::shipped("gemm.cu", "gemm", macros), launch))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::families::gemm::tests::{config, h200, problem};
    use crate::families::spec;
    use crate::model::{Bytes, Config, Family, Mma, PidType};

    #[test]
    fn a_kernel_is_named_by_its_macros() {
        let kernel = spec(Family::MatmulFp4).kernel(&config(), &problem(Family::MatmulFp4, 16, 4100, 4096), &h200());
        let kernel = kernel.unwrap();
        let macros: Vec<_> = kernel.macros.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            macros.join(" "),
            "DTYPE=bf16 WEIGHTS=Fp4 BLOCK_M=64 BLOCK_N=128 BLOCK_K=128 NUM_WARPS=4 NUM_STAGES=3 A_VECTOR_BYTES=16 \
             B_VECTOR_BYTES=4"
        );
    }

    #[test]
    fn odd_rows_are_copied_element_by_element() {
        for (family, b_vector) in [(Family::Matmul, "2"), (Family::MatmulInt16, "2"), (Family::MatmulFp4, "1")] {
            let kernel = spec(family).kernel(&config(), &problem(family, 8, 77, 66), &h200()).unwrap();
            assert!(kernel.macros.contains(&("A_VECTOR_BYTES".into(), "4".into())), "{family}: {kernel:?}");
            assert!(kernel.macros.contains(&("B_VECTOR_BYTES".into(), b_vector.into())), "{family}: {kernel:?}");
        }
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let problem = problem(Family::Matmul, 512, 512, 256);
        let cases: [(Config, &str); 19] = [
            (Config { mma: None, ..config() }, "needs mma"),
            (Config { mma: Some(Mma::Simt), ..config() }, "needs mma"),
            (Config { block_sizes: vec![64, 64], ..config() }, "block_sizes [64, 64]"),
            (Config { block_sizes: vec![8, 64, 64], ..config() }, "8 along m"),
            (Config { block_sizes: vec![48, 64, 64], ..config() }, "48 along m"),
            (Config { block_sizes: vec![64, 16, 64], ..config() }, "16 along n"),
            (Config { block_sizes: vec![64, 64, 8], ..config() }, "8 along k"),
            (Config { block_sizes: vec![16, 64, 64], ..config() }, "only 2 warp tiles"),
            (Config { block_sizes: vec![256, 128, 32], ..config() }, "256 accumulators"),
            (Config { block_sizes: vec![64, 128, 256], ..config() }, "needs 288 KiB of shared memory"),
            (Config { num_warps: Some(3), ..config() }, "num_warps 3"),
            (Config { num_warps: None, ..config() }, "num_warps is missing"),
            (Config { num_stages: Some(1), ..config() }, "num_stages 1"),
            (Config { reduction_loops: vec![None], ..config() }, "reduction_loops"),
            (Config { l2_groupings: vec![], ..config() }, "l2_groupings []"),
            (Config { split_k: Some(0), ..config() }, "split_k 0"),
            (Config { split_k: None, ..config() }, "split_k is missing"),
            (Config { num_sm_multiplier: Some(1), ..config() }, "num_sm_multiplier 1 has no effect"),
            (Config { pid_type: Some(PidType::PersistentBlocked), ..config() }, "num_sm_multiplier is missing"),
        ];
        let gemm = spec(Family::Matmul);
        for (config, reason) in cases {
            let rejection = gemm.launch(&config, &problem, &h200()).unwrap_err();
            assert!(rejection.0.contains(reason), "{config}: '{rejection}' does not say '{reason}'");
        }
        assert!(gemm.launch(&config(), &problem, &h200()).is_ok());
    }

    #[test]
    fn sixteen_warps_have_half_the_registers_of_eight() {
        let legal = |blocks: [u32; 2], warps| {
            let config = Config { block_sizes: vec![blocks[0], blocks[1], 32], num_warps: Some(warps), ..config() };
            spec(Family::Matmul).kernel(&config, &problem(Family::Matmul, 512, 512, 256), &h200()).is_ok()
        };
        assert!(legal([128, 256], 8) && legal([128, 256], 16));
        assert!(!legal([256, 256], 8) && !legal([256, 256], 16));
    }

    #[test]
    fn a_split_k_launch_has_room_for_every_partial_sum() {
        let config = Config { split_k: Some(4), ..config() };
        let launch = spec(Family::MatmulInt4).launch(&config, &problem(Family::MatmulInt4, 65, 129, 1024), &h200());
        let launch = launch.unwrap();
        assert_eq!(launch.grid, [2 * 2 * 4, 1, 1]);
        assert_eq!(launch.counters, 4);
        assert_eq!(launch.workspace, Bytes(2 * 2 * 4 * 64 * 128 * 4));
        assert_eq!(launch.dynamic_smem, Bytes(3 * (64 * 128 * 2 + 64 * 128)));
        assert_eq!(launch.threads, [128, 1, 1]);
    }

    #[test]
    fn without_split_k_there_is_no_workspace() {
        let launch = spec(Family::Matmul).launch(&config(), &problem(Family::Matmul, 65, 129, 1024), &h200()).unwrap();
        assert_eq!((launch.workspace, launch.counters), (Bytes(0), 0));
    }
}
