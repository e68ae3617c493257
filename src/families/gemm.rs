//! Matrix products: C[m, n] = A[m, k] · decode(B), one kernel for four formats of B.

use super::{Arg, Element, FamilySpec, Fill, HostTensor, KernelSpec, Launch, Rejection, TensorSpec, Tensors, require};
use crate::model::{Bytes, Config, GpuProfile, Mma, PidType, Problem, Shape};
use half::bf16;
use rayon::prelude::*;

pub(super) static MATMUL: Gemm = Gemm { weights: Weights::Bf16 };
pub(super) static MATMUL_INT4: Gemm = Gemm { weights: Weights::Int4 };
pub(super) static MATMUL_INT16: Gemm = Gemm { weights: Weights::Int16 };
pub(super) static MATMUL_FP4: Gemm = Gemm { weights: Weights::Fp4 };

/// A matrix product by the format of its weights.
pub(super) struct Gemm {
    weights: Weights,
}

/// How B's weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// bf16 [k, n].
    Bf16,
    /// int16 [k, n], rounded to bf16.
    Int16,
    /// Signed int4, two a byte along k, low nibble first: [k/2, n].
    Int4,
    /// E2M1, packed likewise.
    Fp4,
}

/// The largest extent: `gemm.cu` has byte offsets within a row, and the row after the last, in 32 bits.
const MAX_DIMENSION: u64 = 1 << 29;

/// Edge of the tile a program of `gemm_reference.cu` computes.
const REFERENCE_TILE: u64 = 32;

/// The magnitudes of E2M1, by the lower three bits of a code.
const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

impl Weights {
    /// The name of the format in the kernels.
    const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "Bf16",
            Self::Int16 => "Int16",
            Self::Int4 => "Int4",
            Self::Fp4 => "Fp4",
        }
    }

    /// The element that B is made of in memory.
    const fn element(self) -> Element {
        match self {
            Self::Bf16 => Element::Bf16,
            Self::Int16 => Element::I16,
            Self::Int4 | Self::Fp4 => Element::I8,
        }
    }

    /// Weights along k in one element of B.
    const fn per_element(self) -> u64 {
        match self {
            Self::Bf16 | Self::Int16 => 1,
            Self::Int4 | Self::Fp4 => 2,
        }
    }

    /// All weights as a row-major [k, n], from B as it lies in memory.
    fn decode(self, b: &HostTensor, n: usize) -> Vec<f64> {
        let nibbles = |bytes: &[i8], value: fn(u8) -> f64| {
            let row_pairs = bytes.chunks(n).flat_map(|row| {
                let low = row.iter().map(|byte| *byte as u8 & 15);
                let high = row.iter().map(|byte| *byte as u8 >> 4);
                low.chain(high)
            });
            row_pairs.map(value).collect()
        };
        match (self, b) {
            (Self::Bf16, HostTensor::Bf16(weights)) => weights.iter().map(|weight| weight.to_f64()).collect(),
            (Self::Int16, HostTensor::I16(weights)) => {
                weights.iter().map(|weight| bf16::from_f32(f32::from(*weight)).to_f64()).collect()
            }
            (Self::Int4, HostTensor::I8(bytes)) => nibbles(bytes, |code| f64::from((code << 4) as i8 >> 4)),
            (Self::Fp4, HostTensor::I8(bytes)) => nibbles(bytes, |code| {
                let magnitude = E2M1[usize::from(code & 7)];
                if code < 8 { magnitude } else { -magnitude }
            }),
            _ => unreachable!("B does not hold {} weights", self.name()),
        }
    }
}

/// The compile-time half of a config: the tile of one program and who loads and computes it.
struct Tiling {
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    warps: u64,
    stages: u64,
}

impl Tiling {
    /// Shared memory of one program.
    fn smem(&self, weights: Weights) -> Bytes {
        let a = self.m * self.k * Element::Bf16.size_bytes();
        let b = self.k / weights.per_element() * self.n * weights.element().size_bytes();
        Bytes(self.stages * (a + b))
    }
}

impl Gemm {
    /// The config's tiling, if a kernel with it can be compiled for the GPU and run there.
    fn tiling(&self, config: &Config, profile: &GpuProfile) -> Result<Tiling, Rejection> {
        match config.mma {
            Some(Mma::MmaSync) => {}
            Some(mma @ (Mma::Wgmma | Mma::Tcgen05)) => return Err(Rejection(format!("no {mma} kernel yet"))),
            Some(Mma::Simt) | None => return Err(Rejection("a matrix product needs mma = mma_sync".into())),
        }
        require!(profile.mma.contains(&Mma::MmaSync), "{} has no mma_sync", profile.name);
        require!(config.reduction_loops.is_empty(), "reduction_loops has no effect on a matrix product");

        let [m, n, depth] = tile_extents(config)?;
        let tiling = Tiling {
            m,
            n,
            k: depth * self.weights.per_element(),
            warps: needed(config.num_warps, "num_warps")?,
            stages: needed(config.num_stages, "num_stages")?,
        };
        let Tiling { k, warps, stages, .. } = tiling;
        for (name, extent, least) in [("m", m, 16), ("n", n, 32), ("k", k, 16)] {
            require!(
                extent.is_power_of_two() && extent >= least,
                "block of {extent} along {name}: it must be a power of two from {least}"
            );
        }
        require!(warps.is_power_of_two() && warps <= 32, "num_warps = {warps}: it must be a power of two up to 32");
        require!(
            warps * 16 * 32 <= m * n,
            "num_warps = {warps}: a {m} x {n} tile has only {} warp tiles of 16 x 32",
            m * n / (16 * 32)
        );
        require!(stages >= 2, "num_stages = {stages}: the load pipeline needs 2");

        let threads = warps * 32;
        let accumulators = m * n / threads;
        let registers = (u64::from(profile.registers_per_multiprocessor) / threads).min(256);
        require!(
            accumulators <= registers / 2,
            "{accumulators} accumulators a thread leave too few of its {registers} registers"
        );
        let smem = tiling.smem(self.weights);
        require!(
            smem <= profile.smem_per_block,
            "{smem} of shared memory for {stages} stages exceed {} of {}",
            profile.smem_per_block,
            profile.name
        );
        Ok(tiling)
    }

    /// A with the activations, B with the weights and C with the sums.
    fn tensor(name: &'static str, element: Element, shape: [u64; 2]) -> TensorSpec {
        let fill = match element {
            Element::Bf16 | Element::F32 => Fill::Uniform { magnitude: 1.0 },
            Element::I8 | Element::I16 => Fill::Bits,
        };
        TensorSpec { name, element, shape: shape.to_vec(), fill }
    }
}

impl FamilySpec for Gemm {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let [m, n, k] = dimensions(problem);
        Tensors {
            inputs: vec![
                Self::tensor("A", Element::Bf16, [m, k]),
                Self::tensor("B", self.weights.element(), [k / self.weights.per_element(), n]),
            ],
            output: Self::tensor("C", Element::Bf16, [m, n]),
        }
    }

    fn flops(&self, problem: &Problem) -> f64 {
        dimensions(problem).iter().map(|extent| *extent as f64).product::<f64>() * 2.0
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &["l2_groupings", "num_sm_multiplier", "pid_type", "split_k"]
    }

    fn kernel(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<KernelSpec, Rejection> {
        let tiling = self.tiling(config, profile)?;
        let [_, n, k] = dimensions(problem);
        let macros = vec![
            ("WEIGHTS", self.weights.name().to_string()),
            ("BLOCK_M", tiling.m.to_string()),
            ("BLOCK_N", tiling.n.to_string()),
            ("BLOCK_K", tiling.k.to_string()),
            ("NUM_WARPS", tiling.warps.to_string()),
            ("NUM_STAGES", tiling.stages.to_string()),
            ("A_VECTOR_BYTES", vector_bytes(k * Element::Bf16.size_bytes()).to_string()),
            ("B_VECTOR_BYTES", vector_bytes(n * self.weights.element().size_bytes()).to_string()),
        ];
        Ok(KernelSpec { source: "gemm.cu", entry: "gemm", macros })
    }

    fn launch(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Launch, Rejection> {
        let tiling = self.tiling(config, profile)?;
        let [m, n, k] = dimensions(problem);
        for (name, extent) in [("m", m), ("n", n), ("k", k)] {
            require!(extent <= MAX_DIMENSION, "dimension {name} = {extent} exceeds {MAX_DIMENSION}");
        }
        let tiles_m = m.div_ceil(tiling.m);
        let tiles_n = n.div_ceil(tiling.n);
        let tiles = tiles_m * tiles_n;
        let k_steps = k.div_ceil(tiling.k);

        let split_k = needed(config.split_k, "split_k")?;
        require!(split_k >= 1, "split_k = 0: it must be positive");
        require!(split_k <= k_steps, "split_k = {split_k} exceeds the {k_steps} blocks along k = {k}");
        let group_m = match config.l2_groupings[..] {
            [rows] if rows >= 1 => u64::from(rows).min(tiles_m),
            _ => {
                return Err(Rejection(format!(
                    "l2_groupings = {:?}: it must be one positive number",
                    config.l2_groupings
                )));
            }
        };
        let work = tiles * split_k;
        require!(work <= MAX_DIMENSION, "{work} programs exceed {MAX_DIMENSION}");
        let order = program_order(config, work, profile)?;

        let (workspace, counters) = match split_k {
            1 => (0, 0),
            _ => (work * tiling.m * tiling.n * Element::F32.size_bytes(), tiles as u32),
        };
        Ok(Launch {
            grid: [order.programs as u32, 1, 1],
            cluster: 1,
            threads: (tiling.warps * 32) as u32,
            dynamic_smem: tiling.smem(self.weights),
            args: vec![
                Arg::Input(0),
                Arg::Input(1),
                Arg::Output,
                Arg::Workspace,
                Arg::Counters,
                Arg::I32(m as i32),
                Arg::I32(n as i32),
                Arg::I32(k as i32),
                Arg::I32(tiles_m as i32),
                Arg::I32(tiles_n as i32),
                Arg::I32(k_steps as i32),
                Arg::I32(group_m as i32),
                Arg::I32(split_k as i32),
                Arg::I32(order.stride as i32),
                Arg::I32(order.span as i32),
            ],
            workspace: Bytes(workspace),
            counters,
        })
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        let extents = tile_extents(config)?;
        require!(extents.iter().all(|extent| *extent >= 1), "block_sizes = {extents:?}: each must be positive");
        require!(needed(config.num_warps, "num_warps")? >= 1, "num_warps = 0: it must be positive");
        let used = Config { block_sizes: config.block_sizes.clone(), num_warps: config.num_warps, ..Config::default() };
        require!(*config == used, "on the cpu device a matrix product has block_sizes and num_warps alone");
        Ok(())
    }

    fn reference(&self, problem: &Problem) -> (KernelSpec, Launch) {
        let [m, n, k] = dimensions(problem);
        let kernel = KernelSpec {
            source: "gemm_reference.cu",
            entry: "gemm_reference",
            macros: vec![("WEIGHTS", self.weights.name().to_string())],
        };
        let tiles = m.div_ceil(REFERENCE_TILE) * n.div_ceil(REFERENCE_TILE);
        let launch = Launch {
            grid: [tiles as u32, 1, 1],
            cluster: 1,
            threads: (REFERENCE_TILE * REFERENCE_TILE) as u32,
            dynamic_smem: Bytes(0),
            args: vec![
                Arg::Input(0),
                Arg::Input(1),
                Arg::Output,
                Arg::I32(m as i32),
                Arg::I32(n as i32),
                Arg::I32(k as i32),
            ],
            workspace: Bytes(0),
            counters: 0,
        };
        (kernel, launch)
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Vec<f64> {
        let [_, n, k] = dimensions(problem).map(|extent| extent as usize);
        let [HostTensor::Bf16(activations), weights] = inputs else {
            unreachable!("a matrix product has two inputs, A in bf16")
        };
        let weights = self.weights.decode(weights, n);
        let row_sums = |row: &[bf16]| {
            let mut sums = vec![0.0; n];
            for (activation, weights) in row.iter().zip(weights.chunks(n)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += activation.to_f64() * weight;
                }
            }
            sums
        };
        activations.par_chunks(k).flat_map_iter(row_sums).collect()
    }
}

/// The problem's [m, n, k].
fn dimensions(problem: &Problem) -> [u64; 3] {
    match problem.shape {
        Shape::Gemm { m, n, k } => [m, n, k],
        other => unreachable!("{other} is no matrix product"),
    }
}

/// The three entries of `block_sizes`.
fn tile_extents(config: &Config) -> Result<[u64; 3], Rejection> {
    match config.block_sizes[..] {
        [m, n, k] => Ok([m, n, k].map(u64::from)),
        _ => Err(Rejection(format!("block_sizes = {:?}: a matrix product has three", config.block_sizes))),
    }
}

/// The value of a knob that a matrix product cannot do without.
fn needed(knob: Option<u32>, name: &str) -> Result<u64, Rejection> {
    knob.map(u64::from).ok_or_else(|| Rejection(format!("a matrix product needs {name}")))
}

/// The longest copy, up to 16 bytes, that every row of `row_bytes` is aligned for.
const fn vector_bytes(row_bytes: u64) -> u64 {
    let alignment = 1 << row_bytes.trailing_zeros();
    if alignment < 16 { alignment } else { 16 }
}

/// How many programs run, and which numbers of the work each takes: `span` consecutive ones where `stride` is 1, else
/// every `stride`-th of all `span`.
struct ProgramOrder {
    programs: u64,
    stride: u64,
    span: u64,
}

fn program_order(config: &Config, work: u64, profile: &GpuProfile) -> Result<ProgramOrder, Rejection> {
    let Some(pid_type) = config.pid_type else { return Err(Rejection("a matrix product needs pid_type".into())) };
    if !pid_type.is_persistent() {
        require!(config.num_sm_multiplier.is_none(), "num_sm_multiplier needs a persistent pid_type");
        return Ok(ProgramOrder { programs: work, stride: 1, span: 1 });
    }
    let multiplier =
        config.num_sm_multiplier.ok_or_else(|| Rejection(format!("pid_type = {pid_type} needs num_sm_multiplier")))?;
    require!(multiplier >= 1, "num_sm_multiplier = 0: it must be positive");
    let resident = (u64::from(profile.multiprocessors) * u64::from(multiplier)).min(work);
    Ok(match pid_type {
        PidType::PersistentBlocked => {
            let span = work.div_ceil(resident);
            ProgramOrder { programs: work.div_ceil(span), stride: 1, span }
        }
        PidType::PersistentInterleaved | PidType::Flat => {
            ProgramOrder { programs: resident, stride: resident, span: work }
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::families::{fill, spec};
    use crate::model::{Dtype, Family};
    use proptest::prelude::*;

    const GEMMS: [Family; 4] = [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4];

    fn problem(family: Family, m: i64, n: i64, k: i64) -> Problem {
        Problem::new(family, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16).unwrap()
    }

    fn h200() -> GpuProfile {
        GpuProfile::by_name("h200").unwrap()
    }

    fn config() -> Config {
        Config {
            block_sizes: vec![64, 128, 64],
            l2_groupings: vec![4],
            mma: Some(Mma::MmaSync),
            num_sm_multiplier: None,
            num_stages: Some(3),
            num_warps: Some(4),
            pid_type: Some(PidType::Flat),
            reduction_loops: vec![],
            split_k: Some(1),
        }
    }

    fn persistent(pid_type: PidType, multiplier: u32) -> Config {
        Config { pid_type: Some(pid_type), num_sm_multiplier: Some(multiplier), ..config() }
    }

    #[test]
    fn a_kernel_is_named_by_its_macros() {
        let kernel = spec(Family::MatmulFp4).kernel(&config(), &problem(Family::MatmulFp4, 16, 4100, 4096), &h200());
        let kernel = kernel.unwrap();
        let macros: Vec<_> = kernel.macros.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            macros.join(" "),
            "WEIGHTS=Fp4 BLOCK_M=64 BLOCK_N=128 BLOCK_K=128 NUM_WARPS=4 NUM_STAGES=3 A_VECTOR_BYTES=16 B_VECTOR_BYTES=4"
        );
    }

    #[test]
    fn odd_rows_are_copied_element_by_element() {
        for (family, b_vector) in [(Family::Matmul, "2"), (Family::MatmulInt16, "2"), (Family::MatmulFp4, "1")] {
            let kernel = spec(family).kernel(&config(), &problem(family, 8, 77, 66), &h200()).unwrap();
            assert!(kernel.macros.contains(&("A_VECTOR_BYTES", "4".into())), "{family}: {kernel:?}");
            assert!(kernel.macros.contains(&("B_VECTOR_BYTES", b_vector.into())), "{family}: {kernel:?}");
        }
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let problem = problem(Family::Matmul, 512, 512, 256);
        let cases: [(Config, &str); 21] = [
            (Config { mma: None, ..config() }, "needs mma"),
            (Config { mma: Some(Mma::Simt), ..config() }, "needs mma"),
            (Config { mma: Some(Mma::Wgmma), ..config() }, "no wgmma kernel yet"),
            (Config { mma: Some(Mma::Tcgen05), ..config() }, "no tcgen05 kernel yet"),
            (Config { block_sizes: vec![64, 64], ..config() }, "block_sizes = [64, 64]"),
            (Config { block_sizes: vec![8, 64, 64], ..config() }, "8 along m"),
            (Config { block_sizes: vec![48, 64, 64], ..config() }, "48 along m"),
            (Config { block_sizes: vec![64, 16, 64], ..config() }, "16 along n"),
            (Config { block_sizes: vec![64, 64, 8], ..config() }, "8 along k"),
            (Config { block_sizes: vec![16, 64, 64], ..config() }, "only 2 warp tiles"),
            (Config { block_sizes: vec![256, 128, 32], ..config() }, "256 accumulators"),
            (Config { block_sizes: vec![64, 128, 256], ..config() }, "288 KiB of shared memory for 3 stages"),
            (Config { num_warps: Some(3), ..config() }, "num_warps = 3"),
            (Config { num_warps: None, ..config() }, "needs num_warps"),
            (Config { num_stages: Some(1), ..config() }, "num_stages = 1"),
            (Config { reduction_loops: vec![None], ..config() }, "reduction_loops"),
            (Config { l2_groupings: vec![], ..config() }, "l2_groupings = []"),
            (Config { split_k: None, ..config() }, "needs split_k"),
            (Config { split_k: Some(5), ..config() }, "split_k = 5 exceeds the 4 blocks"),
            (Config { num_sm_multiplier: Some(1), ..config() }, "needs a persistent pid_type"),
            (Config { pid_type: Some(PidType::PersistentBlocked), ..config() }, "needs num_sm_multiplier"),
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
    fn an_extent_beyond_32_bit_offsets_is_rejected() {
        let problem = problem(Family::Matmul, 1, 1 << 30, 64);
        let rejection = spec(Family::Matmul).launch(&config(), &problem, &h200()).unwrap_err();
        assert!(rejection.0.contains("n = 1073741824"), "{rejection}");
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
        assert_eq!(launch.threads, 128);
    }

    #[test]
    fn without_split_k_there_is_no_workspace() {
        let launch = spec(Family::Matmul).launch(&config(), &problem(Family::Matmul, 65, 129, 1024), &h200()).unwrap();
        assert_eq!((launch.workspace, launch.counters), (Bytes(0), 0));
    }

    #[test]
    fn a_persistent_grid_is_as_large_as_the_gpu() {
        let problem = problem(Family::Matmul, 4096, 4096, 256); // 64 x 32 = 2048 tiles
        let launch = |config| spec(Family::Matmul).launch(&config, &problem, &h200()).unwrap();
        assert_eq!(launch(config()).grid[0], 2048);
        assert_eq!(launch(persistent(PidType::PersistentInterleaved, 2)).grid[0], 264);
        let blocked = launch(persistent(PidType::PersistentBlocked, 1));
        assert_eq!((blocked.grid[0], &blocked.args[13..]), (128, &[Arg::I32(1), Arg::I32(16)][..]));
    }

    #[test]
    fn host_configs_have_blocks_and_threads_alone() {
        let problem = problem(Family::Matmul, 8, 8, 8);
        let host = Config { block_sizes: vec![3, 5, 7], num_warps: Some(1), ..Config::default() };
        let check = |config: &Config| spec(Family::Matmul).check_host(config, &problem);
        assert_eq!(check(&host), Ok(()));
        assert!(check(&Config { num_stages: Some(2), ..host.clone() }).is_err());
        assert!(check(&Config { mma: Some(Mma::MmaSync), ..host.clone() }).is_err());
        assert!(check(&Config { num_warps: None, ..host.clone() }).is_err());
        assert!(check(&Config { num_warps: Some(0), ..host.clone() }).is_err());
        assert!(check(&Config { block_sizes: vec![3, 0, 7], ..host }).is_err());
    }

    /// One row of A picks the weights of one k at a time, so C shows each decoded.
    fn decoded(family: Family, b: HostTensor, n: i64) -> Vec<f64> {
        let identity = [1.0, 0.0, 0.0, 1.0].map(bf16::from_f32).to_vec();
        spec(family).host_reference(&problem(family, 2, n, 2), &[HostTensor::Bf16(identity), b])
    }

    #[test]
    fn every_code_of_the_packed_formats_is_decoded() {
        let codes = (0..16).map(|code| (code | (15 - code) << 4) as u8 as i8).collect::<Vec<_>>();
        let int4 = [0., 1., 2., 3., 4., 5., 6., 7., -8., -7., -6., -5., -4., -3., -2., -1.];
        let fp4 = [0., 0.5, 1., 1.5, 2., 3., 4., 6., 0., -0.5, -1., -1.5, -2., -3., -4., -6.];
        for (family, low) in [(Family::MatmulInt4, int4), (Family::MatmulFp4, fp4)] {
            let expected: Vec<_> = low.iter().chain(low.iter().rev()).copied().collect();
            assert_eq!(decoded(family, HostTensor::I8(codes.clone()), 16), expected, "{family}");
        }
    }

    #[test]
    fn int16_weights_round_to_nearest_even_bf16() {
        let weights = vec![0, -1, 256, 257, 258, 259, i16::MAX, i16::MIN];
        let rounded = decoded(Family::MatmulInt16, HostTensor::I16(weights), 4);
        assert_eq!(rounded, [0., -1., 256., 256., 258., 260., 32768., -32768.]);
    }

    #[test]
    fn tensors_match_what_the_reference_reads() {
        for family in GEMMS {
            let problem = problem(family, 3, 5, 14);
            let tensors = spec(family).tensors(&problem);
            let inputs: Vec<_> = tensors.inputs.iter().zip(1..).map(|(tensor, seed)| fill(tensor, seed)).collect();
            let c = spec(family).host_reference(&problem, &inputs);
            assert_eq!(c.len() as u64, tensors.output.numel());
            assert!(c.iter().all(|value| value.is_finite() && *value != 0.0), "{family}: {c:?}");
        }
        let bytes = |family| spec(family).bytes(&problem(family, 3, 5, 14)).0;
        assert_eq!(bytes(Family::Matmul), 2 * (3 * 14 + 14 * 5 + 3 * 5));
        assert_eq!(bytes(Family::MatmulFp4), 2 * (3 * 14 + 3 * 5) + 7 * 5);
        assert_eq!(spec(Family::Matmul).flops(&problem(Family::Matmul, 3, 5, 14)).to_bits(), 420f64.to_bits());
    }

    proptest! {
        #[test]
        fn launch_knobs_cost_no_compile(
            m in 1i64..5000, n in 1i64..5000, half_k in 64i64..2500,
            group in 1u32..64, split in 1u32..3, pid in 0usize..3, multiplier in 1u32..4,
        ) {
            let pid_type = PidType::ALL[pid];
            let changed = Config {
                l2_groupings: vec![group],
                split_k: Some(split),
                pid_type: Some(pid_type),
                num_sm_multiplier: pid_type.is_persistent().then_some(multiplier),
                ..config()
            };
            for family in GEMMS {
                let problem = problem(family, m, n, 2 * half_k);
                let kernel = |config| spec(family).kernel(config, &problem, &h200());
                prop_assert_eq!(kernel(&changed), kernel(&config()));
            }
        }

        #[test]
        fn programs_share_all_the_work(work in 1u64..5000, pid in 0usize..3, multiplier in 1u32..4) {
            let pid_type = PidType::ALL[pid];
            let multiplier = pid_type.is_persistent().then_some(multiplier);
            let config = Config { pid_type: Some(pid_type), num_sm_multiplier: multiplier, ..config() };
            let order = program_order(&config, work, &h200()).unwrap();
            let mut takers = vec![0; work as usize];
            for program in 0..order.programs {
                let first = if order.stride == 1 { program * order.span } else { program };
                prop_assert!(first < work, "program {} of {} has nothing to do", program, order.programs);
                for number in (first..work.min(first + order.span)).step_by(order.stride as usize) {
                    takers[number as usize] += 1;
                }
            }
            prop_assert!(takers.iter().all(|takers| *takers == 1));
        }
    }
}
