//! Matrix products: C[m, n] = A[m, k] · decode(B), with four formats of B and one kernel for each kind of tensor core.

mod mma_sync;
mod realigned;
mod tcgen05;
mod wgmma;

use super::knobs::{self, Programs};
use super::{
    Arg, Axis, Condition, Description, Element, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Reference,
    Rejection, TensorSpec, Tensors, legality, require, rounding,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma, PidType, Problem};
use half::bf16;
use rayon::prelude::*;
use std::sync::LazyLock;

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

/// The kernels have byte offsets within a row, and the row after the last, in 32 bits.
const EXTENTS: (&str, &str) = ("max(m, max(n, k)) <= 536870912", "offsets within a row must fit 32 bits");
const TILES: (&str, &str) = (
    "ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1]) * split_k < 1073741824",
    "tiles are counted in 32 bits, larger block_sizes make fewer",
);
const PARTIAL_SUMS: (&str, &str) = (
    "split_k == 1 || ceil_div(m, block_sizes[0]) * block_sizes[0] * ceil_div(n, block_sizes[1]) * block_sizes[1] * split_k <= \
     268435456",
    "partial sums of more than 1 GiB would crowd out the problem",
);

/// Edge of the tile a program of `gemm_reference.cu` computes.
const REFERENCE_TILE: u64 = 64;
/// Threads of such a program.
const REFERENCE_THREADS: u32 = 256;

/// By how much an element of C may differ before it is rounded to bf16, in units of the Euclidean norm of its row of A times the
/// largest weight of its column of B.
///
/// Why this unit: it is no less than the root of the sum of the squares of the element's k terms, and that root is what a sum of
/// terms with random signs comes to. Of a billion elements none has a partial sum of more than six times as much.
///
/// Why so much: products are exact. A tensor core adds 16 of them to what came before and cuts the sum off after 24 bits, always
/// towards zero. Since partial sums grow like a random walk, the k / 16 cuts come to at most some three roundings of the root each,
/// 3 k / 16 in all; k / 2 is nearly three times that. The 16 are for what is lost where the terms of a step are aligned to the largest.
fn allowed(k: u64) -> f64 {
    (16.0 + k as f64 / 2.0) * rounding::F32
}

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

/// One matrix product, for a kernel to be built for.
struct Product {
    weights: Weights,
    m: u64,
    n: u64,
    k: u64,
}

impl Product {
    /// Bytes of a row of A.
    fn a_row_bytes(&self) -> u64 {
        self.k * Element::Bf16.size_bytes()
    }

    /// Bytes of a row of B.
    fn b_row_bytes(&self) -> u64 {
        self.n * self.weights.element().size_bytes()
    }

    /// Bytes of a row of C.
    fn c_row_bytes(&self) -> u64 {
        self.n * Element::Bf16.size_bytes()
    }
}

impl Gemm {
    /// A with the activations, B with the weights and C with the sums.
    fn tensor(name: &'static str, element: Element, shape: [u64; 2]) -> TensorSpec {
        let fill = if element.is_float() { Fill::Uniform { magnitude: 1.0 } } else { Fill::Bits };
        TensorSpec::new(name, element, &shape, fill)
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
            outputs: vec![Self::tensor("C", Element::Bf16, [m, n]).written()],
        }
    }

    fn flops(&self, problem: &Problem) -> f64 {
        dimensions(problem).iter().map(|extent| *extent as f64).product::<f64>() * 2.0
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &["l2_groupings", "num_sm_multiplier", "pid_type", "split_k"]
    }

    fn own_knobs(&self) -> &'static [&'static str] {
        &[realigned::KNOB]
    }

    fn description(&self) -> Description {
        let (bytes, packed) = (self.weights.element().size_bytes(), self.weights.per_element());
        super::description::gemm(bytes, packed)
    }

    fn family(&self) -> Family {
        match self.weights {
            Weights::Bf16 => Family::Matmul,
            Weights::Int4 => Family::MatmulInt4,
            Weights::Int16 => Family::MatmulInt16,
            Weights::Fp4 => Family::MatmulFp4,
        }
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        knobs::only(
            config,
            &[
                "l2_groupings",
                "mma",
                "num_sm_multiplier",
                "num_stages",
                "num_warps",
                "pid_type",
                realigned::KNOB,
                "split_k",
            ],
        )?;
        if let Some(Mma::MmaSync | Mma::Tcgen05 | Mma::Tcgen05Tmem) = config.mma {
            require!(!config.own.contains_key(realigned::KNOB), "{} has no effect on this kernel", realigned::KNOB);
        }
        let mma = config.mma.filter(|mma| !matches!(mma, Mma::Simt | Mma::SimtWide)).ok_or_else(|| {
            Rejection("a matrix product needs mma: mma_sync, mma_sync_tma, wgmma, tcgen05 or tcgen05_tmem".into())
        })?;
        require!(profile.mma.contains(&mma), "{} has no {mma}", profile.name);
        require!(
            matches!(config.l2_groupings[..], [rows] if rows > 0),
            "l2_groupings {:?} must be one positive number",
            config.l2_groupings
        );
        knobs::needed("split_k", config.split_k)?;
        match mma {
            Mma::Tcgen05 | Mma::Tcgen05Tmem => knobs::any_order(config)?,
            _ => knobs::order(config)?,
        }
        match mma {
            Mma::Tcgen05 | Mma::Tcgen05Tmem => tcgen05::check(config, self.weights, profile),
            Mma::Wgmma | Mma::MmaSyncTma => wgmma::check(config, self.weights, profile),
            Mma::MmaSync | Mma::Simt | Mma::SimtWide => mma_sync::check(config, self.weights, profile),
        }
    }

    fn conditions(&self, config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        match config.mma {
            Some(Mma::Tcgen05 | Mma::Tcgen05Tmem) => tcgen05::conditions(self.weights),
            Some(Mma::Wgmma | Mma::MmaSyncTma) => wgmma::conditions(self.weights),
            Some(Mma::MmaSync | Mma::Simt | Mma::SimtWide) | None => mma_sync::conditions(),
        }
    }

    fn axes(&self) -> &'static [Axis] {
        static UNPACKED: LazyLock<[Axis; 3]> = LazyLock::new(|| axes("block_sizes[2]"));
        static PACKED: LazyLock<[Axis; 3]> = LazyLock::new(|| axes("block_sizes[2] * 2"));
        if self.weights.per_element() == 1 { UNPACKED.as_slice() } else { PACKED.as_slice() }
    }

    fn footprint(&self, config: &Config, _problem: &Problem, profile: &GpuProfile) -> Result<Footprint, Rejection> {
        match config.mma {
            Some(Mma::Tcgen05 | Mma::Tcgen05Tmem) => tcgen05::footprint(config, self.weights),
            Some(Mma::Wgmma | Mma::MmaSyncTma) => wgmma::footprint(config, self.weights),
            Some(Mma::MmaSync | Mma::Simt | Mma::SimtWide) | None => mma_sync::footprint(config, self.weights, profile),
        }
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        let [m, n, k] = dimensions(problem);
        let product = Product { weights: self.weights, m, n, k };
        match config.mma {
            Some(Mma::Tcgen05 | Mma::Tcgen05Tmem) => tcgen05::build(config, &product, profile),
            Some(Mma::Wgmma | Mma::MmaSyncTma) => wgmma::build(config, &product, profile),
            Some(Mma::MmaSync | Mma::Simt | Mma::SimtWide) | None => mma_sync::build(config, &product, profile),
        }
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        knobs::only(config, &["num_warps"])?;
        knobs::block_sizes::<3>(config)?;
        knobs::needed("num_warps", config.num_warps)?;
        Ok(())
    }

    fn reference(&self, problem: &Problem) -> Option<(KernelSpec, Launch)> {
        let [m, n, k] = dimensions(problem);
        let macros = [("WEIGHTS", self.weights.name().to_string())];
        let kernel = KernelSpec::shipped("gemm_reference.cu", "gemm_reference", macros);
        let tiles = m.div_ceil(REFERENCE_TILE) * n.div_ceil(REFERENCE_TILE);
        let launch = Launch {
            grid: [tiles as u32, 1, 1],
            cluster: 1,
            threads: [REFERENCE_THREADS, 1, 1],
            dynamic_smem: Bytes(0),
            args: vec![
                Arg::Input(0),
                Arg::Input(1),
                Arg::Output(0),
                Arg::Allowed(0),
                Arg::I32(m as i32),
                Arg::I32(n as i32),
                Arg::I32(k as i32),
                Arg::F32(allowed(k) as f32),
            ],
            workspace: Bytes(0),
            counters: 0,
        };
        Some((kernel, launch))
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let share = allowed(dimensions(problem)[2]);
        let [_, n, k] = dimensions(problem).map(|extent| extent as usize);
        let [HostTensor::Bf16(activations), weights] = inputs else {
            unreachable!("a matrix product has two inputs, A in bf16")
        };
        let weights = self.weights.decode(weights, n);
        let mut largest_weights = vec![0.0f64; n];
        for row in weights.chunks(n) {
            largest_weights.iter_mut().zip(row).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
        }
        let row_sums = |row: &[bf16]| {
            let mut sums = vec![0.0; n];
            for (activation, weights) in row.iter().zip(weights.chunks(n)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += activation.to_f64() * weight;
                }
            }
            let norm = row.iter().map(|activation| activation.to_f64().powi(2)).sum::<f64>().sqrt();
            sums.into_iter().zip(&largest_weights).map(move |(sum, largest)| (sum, share * norm * largest))
        };
        activations.par_chunks(k).flat_map_iter(row_sums).collect::<Vec<_>>().into_iter().collect()
    }
}

/// The problem's [m, n, k].
fn dimensions(problem: &Problem) -> [u64; 3] {
    problem.shape.first()
}

/// What a product is cut along.
fn axes(k_block: &str) -> [Axis; 3] {
    [("m", "block_sizes[0]", false), ("n", "block_sizes[1]", false), ("k", k_block, true)]
        .map(|(extent, block, is_reduced)| Axis::new(Family::Matmul, extent, block, is_reduced))
}

/// Reads the conditions of one kind of product.
fn conditions<const N: usize>(texts: [(&str, &'static str); N]) -> Vec<Condition> {
    legality::conditions(Family::Matmul, texts)
}

/// Tile rows of C that share a column band; more than there are is all of them.
fn group_m(config: &Config, tiles_m: u64) -> u64 {
    config.l2_groupings.first().map_or(1, |rows| u64::from(*rows).min(tiles_m))
}

/// Parts of a tile's k.
fn split_k(config: &Config) -> u64 {
    config.split_k.unwrap_or(1).into()
}

/// The longest copy, up to 16 bytes, that every row of `row_bytes` is aligned for.
const fn vector_bytes(row_bytes: u64) -> u64 {
    let alignment = 1 << row_bytes.trailing_zeros();
    if alignment < 16 { alignment } else { 16 }
}

/// How many programs run, and which numbers of the work each takes: `span` consecutive ones where `stride` is 1, else
/// every `stride`-th of all `span`; the hardware deals them out where it is 0.
struct ProgramOrder {
    programs: u64,
    stride: u64,
    span: u64,
}

fn program_order(config: &Config, work: u64, multiprocessors: u32) -> ProgramOrder {
    let Programs { count, .. } = knobs::programs(config, work, multiprocessors);
    let programs = u64::from(count);
    if config.pid_type == Some(PidType::ClusterLaunchControl) {
        return ProgramOrder { programs, stride: 0, span: work };
    }
    if config.pid_type == Some(PidType::PersistentInterleaved) {
        return ProgramOrder { programs, stride: programs, span: work };
    }
    let span = work.div_ceil(programs);
    ProgramOrder { programs: work.div_ceil(span), stride: 1, span }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::families::{awkward, fill, spec};
    use crate::model::{Dtype, Family};
    use proptest::prelude::*;

    pub(super) const GEMMS: [Family; 4] = [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4];

    pub(super) fn problem(family: Family, m: i64, n: i64, k: i64) -> Problem {
        Problem::new(family, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16).unwrap()
    }

    pub(super) fn h200() -> GpuProfile {
        GpuProfile::by_name("h200").unwrap()
    }

    pub(super) fn config() -> Config {
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
            ..Config::default()
        }
    }

    fn persistent(pid_type: PidType, multiplier: u32) -> Config {
        Config { pid_type: Some(pid_type), num_sm_multiplier: Some(multiplier), ..config() }
    }

    #[test]
    fn an_extent_beyond_32_bit_offsets_is_rejected() {
        let problem = problem(Family::Matmul, 1, 1 << 30, 64);
        let rejection = spec(Family::Matmul).launch(&config(), &problem, &h200()).unwrap_err();
        assert!(rejection.0.contains("n = 1073741824"), "{rejection}");
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
        spec(family).host_reference(&problem(family, 2, n, 2), &[HostTensor::Bf16(identity), b]).values
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
            let c = spec(family).host_reference(&problem, &inputs).values;
            assert_eq!(c.len() as u64, tensors.outputs[0].numel());
            assert!(c.iter().all(|value| value.is_finite() && *value != 0.0), "{family}: {c:?}");
        }
        let bytes = |family| spec(family).bytes(&problem(family, 3, 5, 14)).0;
        assert_eq!(bytes(Family::Matmul), 2 * (3 * 14 + 14 * 5 + 3 * 5));
        assert_eq!(bytes(Family::MatmulFp4), 2 * (3 * 14 + 3 * 5) + 7 * 5);
        assert_eq!(spec(Family::Matmul).flops(&problem(Family::Matmul, 3, 5, 14)).to_bits(), 420f64.to_bits());
    }

    /// The f32 next to a value on the side of zero, as tensor cores round their sums.
    fn cut_off(value: f64) -> f32 {
        let rounded = value as f32;
        match f64::from(rounded).abs() > value.abs() {
            true if rounded > 0.0 => rounded.next_down(),
            true => rounded.next_up(),
            false => rounded,
        }
    }

    #[test]
    fn sums_that_are_cut_off_at_every_step_are_allowed_several_times_over() {
        const STEP: usize = 16;
        for (family, k) in [(Family::Matmul, 57_344), (Family::Matmul, 64), (Family::MatmulInt16, 53_248)] {
            let problem = problem(family, 4, 64, k);
            let spec = spec(family);
            let plain = spec.tensors(&problem).inputs;
            for tensors in [awkward(family, &plain), plain] {
                let inputs: Vec<_> = tensors.iter().zip(1..).map(|(tensor, seed)| fill(tensor, seed)).collect();
                let reference = spec.host_reference(&problem, &inputs);
                let (a, b) = (inputs[0].to_f64(), inputs[1].to_f64());
                let b: Vec<f64> = b.into_iter().map(|weight| bf16::from_f64(weight).to_f64()).collect();
                let sums = a.chunks(k as usize).flat_map(|row| {
                    let mut sums = [0f32; 64];
                    for (row, weights) in row.chunks(STEP).zip(b.chunks(64 * STEP)) {
                        for (column, sum) in sums.iter_mut().enumerate() {
                            let terms = row.iter().zip(weights.chunks(64)).map(|(a, weights)| a * weights[column]);
                            *sum = cut_off(f64::from(*sum) + terms.sum::<f64>());
                        }
                    }
                    sums
                });
                let wanted = reference.values.iter().zip(&reference.allowed);
                let shares = sums.zip(wanted).map(|(sum, (value, allowed))| (f64::from(sum) - value).abs() / allowed);
                let most = shares.fold(0.0, f64::max);
                assert!(most < 0.25, "{problem}: {most} of what is allowed");
            }
        }
    }

    proptest! {
        #[test]
        fn launch_knobs_cost_no_compile(
            m in 1i64..5000, n in 1i64..5000, half_k in 128i64..2500,
            group in 1u32..64, split in 1u32..3, pid in 0usize..3, multiplier in 1u32..4,
        ) {
            let pid_type = PidType::ALL[pid]; // those that mma_sync has
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
        fn programs_share_all_the_work(work in 1u64..5000, pid in 0usize..4, multiplier in 1u32..4) {
            let pid_type = PidType::ALL[pid];
            let multiplier = pid_type.is_persistent().then_some(multiplier);
            let config = Config { pid_type: Some(pid_type), num_sm_multiplier: multiplier, ..config() };
            let order = program_order(&config, work, 132);
            let mut takers = vec![0; work as usize];
            for program in 0..order.programs {
                if order.stride == 0 {
                    takers[program as usize] += 1; // whoever is told of it
                    continue;
                }
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
