//! `gemm_tcgen05.cu`: Blackwell's tensor cores, fed by the copy engine, with sums in tensor memory (TMEM).

use super::{EXTENTS, PARTIAL_SUMS, Product, ProgramOrder, TILES, Weights, group_m, program_order, split_k};
use crate::families::knobs::{self, WARP};
use crate::families::{Arg, Condition, Element, Footprint, KernelSpec, Launch, Rejection, Swizzle, TensorMap, require};
use crate::model::{Bytes, Config, GpuProfile};
use std::sync::LazyLock;

/// Warps that do not decode: four that store, one that copies, one that multiplies.
const OTHER_WARPS: u32 = 6;
/// Rows of the instruction's first operand in one program.
const INSTRUCTION_M: u64 = 128;
/// Columns of tensor memory of a multiprocessor.
const TMEM_COLUMNS: u64 = 512;
/// Elements of bf16 that a swizzled line holds.
const LINE: u64 = 64;

/// The compile-time half of a config.
struct Tiling {
    weights: Weights,
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    stages: u64,
    decode_warps: u32,
}

impl Tiling {
    /// The config's tiling, if there is such a kernel.
    fn new(config: &Config, weights: Weights) -> Result<Self, Rejection> {
        let [m, n, depth] = knobs::block_sizes(config)?.map(u64::from);
        let k = depth * weights.per_element();
        let stages = u64::from(knobs::needed("num_stages", config.num_stages)?);
        let columns: &[u64] = match m {
            16 | 32 | 64 => &[128],
            128 => &[64, 128, 256],
            256 => &[128, 256],
            _ => return Err(Rejection(format!("block of {m} along m: it must be 16, 32, 64, 128 or 256"))),
        };
        require!(columns.contains(&n), "block of {n} along n: beside {m} along m it must be one of {columns:?}");
        require!(k == 64 || k == 128, "block of {k} along k: it must be 64 or 128");
        require!(stages >= 2, "num_stages {stages}: the load pipeline needs 2");
        let decode_warps = match (weights, config.num_warps) {
            (Weights::Bf16, None) => 0,
            (Weights::Bf16, Some(warps)) => {
                return Err(Rejection(format!("num_warps {warps} has no effect: bf16 weights need no decoding warps")));
            }
            (_, _) => {
                let warps = knobs::num_warps(config)?;
                require!(
                    warps == 8 || warps == 16,
                    "num_warps {warps}: it must be 8 or 16, {OTHER_WARPS} do not decode"
                );
                warps - OTHER_WARPS
            }
        };
        Ok(Self { weights, m, n, k, stages, decode_warps })
    }

    /// Programs that share a tile: a pair has twice the instruction's rows.
    fn ctas(&self) -> u64 {
        self.m.div_ceil(INSTRUCTION_M)
    }

    /// Whether the weights are the instruction's first operand, for the rows of A are too few.
    fn is_swapped(&self) -> bool {
        self.m < INSTRUCTION_M
    }

    /// Columns of one program's sums in tensor memory.
    fn sum_columns(&self) -> u64 {
        if self.is_swapped() { self.m } else { self.n }
    }

    fn is_decoded(&self) -> bool {
        self.weights != Weights::Bf16
    }

    fn a_rows(&self) -> u64 {
        self.m / self.ctas()
    }

    /// Columns of B of one program.
    fn b_columns(&self) -> u64 {
        self.n / self.ctas()
    }

    /// Rows of B's bytes in one stage.
    fn b_rows(&self) -> u64 {
        self.k / self.weights.per_element()
    }

    fn threads(&self) -> u32 {
        WARP * (OTHER_WARPS + self.decode_warps)
    }

    /// A program's part of A and of B in one stage.
    fn stage_bytes(&self) -> Bytes {
        let a = self.a_rows() * self.k * Element::Bf16.size_bytes();
        Bytes(a + self.b_rows() * self.b_columns() * self.weights.element().size_bytes())
    }

    /// Shared memory of one program: `SMEM_BYTES` of the kernel.
    fn smem(&self) -> Bytes {
        let bf16 = Element::Bf16.size_bytes();
        let decoded = if self.is_decoded() { 2 * self.b_columns() * self.k * bf16 } else { 0 };
        let boxes = 4 * 2 * u64::from(WARP) * self.sum_columns().min(LINE) * bf16;
        let barriers = if self.is_decoded() { 3 * self.stages + 2 + 4 } else { 2 * self.stages + 4 };
        Bytes(self.stages * self.stage_bytes().0 + decoded + boxes + 8 * barriers + 8)
    }

    /// Programs that a multiprocessor holds at once. Each must find its tensor memory, where the next would wait for it.
    fn resident(&self, profile: &GpuProfile) -> Result<u64, Rejection> {
        let by_threads = u64::from(profile.threads_per_multiprocessor / self.threads());
        let resident = knobs::resident_by_smem(self.smem(), profile).min(by_threads).max(1);
        let columns = 2 * self.sum_columns();
        require!(
            resident * columns <= TMEM_COLUMNS,
            "{resident} programs fit a multiprocessor, {columns} columns of tensor memory for each do not"
        );
        Ok(resident)
    }

    fn macros(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WEIGHTS", self.weights.name().to_string()),
            ("BLOCK_M", self.m.to_string()),
            ("BLOCK_N", self.n.to_string()),
            ("BLOCK_K", self.k.to_string()),
            ("NUM_STAGES", self.stages.to_string()),
            ("DECODE_WARPS", self.decode_warps.to_string()),
        ]
    }

    /// The tiles that the copy engine moves: of A, of B and of C.
    fn tensor_maps(&self, product: &Product) -> [TensorMap; 3] {
        let map = |input, element, shape: [u64; 2], tile: [u64; 2], swizzle| {
            TensorMap::of_matrix(input, element, shape, tile.map(|extent| extent as u32), swizzle)
        };
        let &Product { weights, m, n, k } = product;
        let bf16 = Element::Bf16;
        let b_shape = [k / weights.per_element(), n];
        let (b_tile, b_swizzle) = if self.is_decoded() {
            ([self.b_rows(), self.b_columns()], Swizzle::None)
        } else {
            ([self.k, LINE], Swizzle::Bytes128)
        };
        let (c_tile, c_swizzle) = if self.is_swapped() {
            ([self.m, u64::from(WARP)], Swizzle::None)
        } else {
            ([u64::from(WARP), LINE], Swizzle::Bytes128)
        };
        [
            map(Some(0), bf16, [m, k], [self.a_rows(), LINE], Swizzle::Bytes128),
            map(Some(1), weights.element(), b_shape, b_tile, b_swizzle),
            map(None, bf16, [m, n], c_tile, c_swizzle),
        ]
    }
}

pub(super) fn check(config: &Config, weights: Weights, profile: &GpuProfile) -> Result<(), Rejection> {
    let tiling = Tiling::new(config, weights)?;
    knobs::fits_smem(tiling.smem(), profile)?;
    let resident = tiling.resident(profile)?;
    if let Some(multiplier) = config.num_sm_multiplier {
        require!(
            u64::from(multiplier) <= resident,
            "num_sm_multiplier {multiplier}: a multiprocessor holds {resident} of these programs"
        );
    }
    Ok(())
}

pub(super) fn conditions(weights: Weights) -> &'static [Condition] {
    /// A part without a step of its own would leave what its tensor memory held before.
    const PARTS: &str = "each part of k needs a step of its own";
    fn of(b_rows: &str, parts: &str) -> Vec<Condition> {
        super::conditions([
            EXTENTS,
            ("k % 8 == 0", "the copy engine needs rows of A of a multiple of 16 bytes"),
            (b_rows, "the copy engine needs rows of B of a multiple of 16 bytes"),
            (parts, PARTS),
            TILES,
            PARTIAL_SUMS,
        ])
    }
    static UNPACKED: LazyLock<Vec<Condition>> =
        LazyLock::new(|| of("n % 8 == 0", "split_k <= ceil_div(k, block_sizes[2])"));
    static PACKED: LazyLock<Vec<Condition>> =
        LazyLock::new(|| of("n % 16 == 0", "split_k <= ceil_div(k, block_sizes[2] * 2)"));
    if weights.per_element() == 1 { &UNPACKED } else { &PACKED }
}

pub(super) fn footprint(config: &Config, weights: Weights) -> Result<Footprint, Rejection> {
    /// As many as gemm_tcgen05.cu leaves a thread where several programs share a multiprocessor.
    const REGISTERS: u32 = 96;
    let tiling = Tiling::new(config, weights)?;
    Ok(Footprint {
        threads: tiling.threads(),
        registers: REGISTERS,
        smem: tiling.smem(),
        stage_bytes: tiling.stage_bytes(),
    })
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    product: &Product,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let &Product { weights, m, n, k } = product;
    let tiling = Tiling::new(config, weights)?;
    let tiles_m = m.div_ceil(tiling.m);
    let tiles_n = n.div_ceil(tiling.n);
    let tiles = tiles_m * tiles_n;
    let k_steps = k.div_ceil(tiling.k);
    let (split_k, group_m) = (split_k(config), group_m(config, tiles_m));
    let work = tiles * split_k;
    let ctas = tiling.ctas();
    // A pair takes two multiprocessors.
    let ProgramOrder { programs, stride, span } = program_order(config, work, profile.multiprocessors / ctas as u32);

    let (workspace, counters) = match split_k {
        1 => (0, 0),
        _ => (work * tiling.m * tiling.n * Element::F32.size_bytes(), tiles * ctas),
    };
    let maps = tiling.tensor_maps(product).map(Arg::TensorMap);
    let numbers = [tiles_m, tiles_n, k_steps, group_m, split_k, stride, span];
    let scratch = [Arg::Workspace, Arg::Counters];
    let launch = Launch {
        grid: [(programs * ctas) as u32, 1, 1],
        cluster: ctas as u32,
        threads: [tiling.threads(), 1, 1],
        dynamic_smem: tiling.smem(),
        args: maps.into_iter().chain(scratch).chain(numbers.map(|number| Arg::I32(number as i32))).collect(),
        workspace: Bytes(workspace),
        counters: counters as u32,
    };
    Ok((KernelSpec::shipped("gemm_tcgen05.cu", "gemm_tcgen05", tiling.macros()), launch))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::families::gemm::tests::{config, h200, problem};
    use crate::families::{Arg, Swizzle, TensorMap, spec};
    use crate::model::{Bytes, Config, Family, GpuProfile, Mma, PidType};
    use proptest::prelude::*;

    const DECODED: [Family; 3] = [Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4];

    fn b200() -> GpuProfile {
        GpuProfile::by_name("b200").unwrap()
    }

    /// A legal config of bf16 weights.
    fn bf16(block_sizes: [u32; 3]) -> Config {
        Config { block_sizes: block_sizes.into(), mma: Some(Mma::Tcgen05), num_warps: None, ..config() }
    }

    /// A legal config of 4-bit weights.
    fn int4(block_sizes: [u32; 3]) -> Config {
        Config { num_warps: Some(16), ..bf16(block_sizes) }
    }

    fn maps(family: Family, config: &Config) -> Vec<TensorMap> {
        let launch = spec(family).launch(config, &problem(family, 500, 1024, 2048), &b200()).unwrap();
        let maps = launch.args.into_iter().filter_map(|arg| match arg {
            Arg::TensorMap(map) => Some(map),
            _ => None,
        });
        maps.collect()
    }

    #[test]
    fn a_kernel_is_named_by_its_macros() {
        let kernel = |family: Family, config: &Config| {
            let kernel = spec(family).kernel(config, &problem(family, 16, 4096, 4096), &b200()).unwrap();
            let macros: Vec<_> = kernel.macros.iter().map(|(name, value)| format!("{name}={value}")).collect();
            macros.join(" ")
        };
        assert_eq!(
            kernel(Family::Matmul, &bf16([256, 256, 64])),
            "WEIGHTS=Bf16 BLOCK_M=256 BLOCK_N=256 BLOCK_K=64 NUM_STAGES=3 DECODE_WARPS=0"
        );
        assert_eq!(
            kernel(Family::MatmulFp4, &int4([16, 128, 64])),
            "WEIGHTS=Fp4 BLOCK_M=16 BLOCK_N=128 BLOCK_K=128 NUM_STAGES=3 DECODE_WARPS=10"
        );
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let problem = problem(Family::Matmul, 512, 512, 256);
        let legal = || bf16([128, 128, 64]);
        let cases: [(Config, &str); 15] = [
            (bf16([8, 128, 64]), "8 along m"),
            (bf16([512, 128, 64]), "512 along m"),
            (bf16([16, 64, 64]), "64 along n: beside 16 along m it must be one of [128]"),
            (bf16([256, 64, 64]), "64 along n"),
            (bf16([128, 128, 32]), "32 along k"),
            (Config { num_stages: Some(1), ..legal() }, "num_stages 1"),
            (Config { num_stages: None, ..legal() }, "num_stages is missing"),
            (Config { num_stages: Some(8), ..legal() }, "of shared memory"),
            (Config { num_stages: Some(2), ..bf16([256, 256, 64]) }, "2 programs fit"),
            (Config { num_warps: Some(8), ..legal() }, "num_warps 8 has no effect"),
            (Config { split_k: Some(5), ..legal() }, "split_k = 5"),
            (Config { split_k: None, ..legal() }, "split_k is missing"),
            (Config { l2_groupings: vec![], ..legal() }, "l2_groupings []"),
            (Config { pid_type: Some(PidType::PersistentBlocked), ..legal() }, "num_sm_multiplier is missing"),
            (
                Config { pid_type: Some(PidType::PersistentBlocked), num_sm_multiplier: Some(2), ..legal() },
                "num_sm_multiplier 2: a multiprocessor holds 1",
            ),
        ];
        let gemm = spec(Family::Matmul);
        for (config, reason) in cases {
            let rejection = gemm.launch(&config, &problem, &b200()).unwrap_err();
            assert!(rejection.0.contains(reason), "{config}: '{rejection}' does not say '{reason}'");
        }
        assert!(gemm.launch(&legal(), &problem, &b200()).is_ok());
        assert!(gemm.launch(&legal(), &problem, &h200()).unwrap_err().0.contains("h200 has no tcgen05"));
    }

    #[test]
    fn decoding_takes_eight_or_sixteen_warps() {
        for family in DECODED {
            let legal = |num_warps| {
                let depth = if family == Family::MatmulInt16 { 64 } else { 32 };
                let config = Config { num_warps, ..int4([128, 128, depth]) };
                spec(family).kernel(&config, &problem(family, 512, 512, 256), &b200()).is_ok()
            };
            assert!(legal(Some(8)) && legal(Some(16)), "{family}");
            assert!(!legal(None) && !legal(Some(4)) && !legal(Some(32)), "{family}");
        }
    }

    #[test]
    fn rows_the_copy_engine_cannot_take_are_rejected() {
        let reject = |family: Family, config: &Config, n, k| {
            spec(family).launch(config, &problem(family, 64, n, k), &b200()).map_err(|rejection| rejection.0)
        };
        let config = bf16([128, 128, 64]);
        assert!(reject(Family::Matmul, &config, 512, 252).unwrap_err().contains("rows of A"));
        assert!(reject(Family::Matmul, &config, 516, 256).unwrap_err().contains("rows of B"));
        assert!(reject(Family::Matmul, &config, 520, 264).is_ok());
        let config = int4([128, 128, 32]);
        assert!(reject(Family::MatmulInt4, &config, 520, 256).unwrap_err().contains("rows of B"));
        assert!(reject(Family::MatmulInt4, &config, 528, 256).is_ok());
    }

    #[test]
    fn a_pair_is_a_cluster_and_shares_its_tile() {
        let problem = problem(Family::Matmul, 4096, 4096, 1024); // 16 x 16 tiles
        let launch = |config| spec(Family::Matmul).launch(&config, &problem, &b200()).unwrap();
        let pair = launch(bf16([256, 256, 64]));
        assert_eq!((pair.grid, pair.cluster, pair.threads[0]), ([2 * 256, 1, 1], 2, 192));
        let persistent = Config {
            pid_type: Some(PidType::PersistentInterleaved),
            num_sm_multiplier: Some(1),
            ..bf16([256, 256, 64])
        };
        assert_eq!(launch(persistent).grid, [148, 1, 1]);
        let split = launch(Config { split_k: Some(2), ..bf16([256, 256, 64]) });
        assert_eq!((split.workspace, split.counters), (Bytes(256 * 2 * 256 * 256 * 4), 2 * 256));
    }

    #[test]
    fn tiles_are_copied_as_the_kernel_lays_them_out() {
        let tiles = |family, config| {
            let maps = maps(family, &config);
            let tiles: Vec<_> = maps.into_iter().map(|map| (map.tile, map.swizzle)).collect();
            tiles
        };
        let (swizzled, plain) = (Swizzle::Bytes128, Swizzle::None);
        assert_eq!(
            tiles(Family::Matmul, bf16([128, 256, 64])),
            [(vec![64, 128], swizzled), (vec![64, 64], swizzled), (vec![64, 32], swizzled)]
        );
        assert_eq!(
            tiles(Family::Matmul, Config { num_stages: Some(4), ..bf16([32, 128, 128]) }),
            [(vec![64, 32], swizzled), (vec![64, 128], swizzled), (vec![32, 32], plain)]
        );
        assert_eq!(
            tiles(Family::MatmulInt4, int4([256, 256, 32])),
            [(vec![64, 128], swizzled), (vec![128, 32], plain), (vec![64, 32], swizzled)]
        );
    }

    proptest! {
        /// What the driver asks of a tensor map: at most 256 elements a side, and no swizzled line beyond 128 bytes.
        #[test]
        fn every_legal_config_has_legal_maps(
            m in 4u32..9, n in 6u32..9, k in 6u32..8, stages in 2u32..9, warps in 3u32..5, family in 0usize..4,
        ) {
            let family = [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4][family];
            let packed = matches!(family, Family::MatmulInt4 | Family::MatmulFp4);
            let depth = if packed { 1 << (k - 1) } else { 1 << k };
            let config = Config {
                num_stages: Some(stages),
                num_warps: (family != Family::Matmul).then_some(1 << warps),
                ..bf16([1 << m, 1 << n, depth])
            };
            let launch = spec(family).launch(&config, &problem(family, 300, 640, 1000), &b200());
            if let Ok(launch) = launch {
                prop_assert!(launch.dynamic_smem <= b200().smem_per_block);
                prop_assert_eq!(launch.grid[0] % launch.cluster, 0);
                for map in maps(family, &config) {
                    let line_bytes = u64::from(map.tile[0]) * map.element.size_bytes();
                    prop_assert!(map.tile.iter().all(|extent| *extent <= 256));
                    prop_assert_eq!(line_bytes % 16, 0);
                    prop_assert!(map.swizzle == Swizzle::None || line_bytes == 128);
                    prop_assert!(map.strides_bytes.iter().all(|stride| stride % 16 == 0));
                }
            }
        }
    }
}
