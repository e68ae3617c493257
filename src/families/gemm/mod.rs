//! Matrix products: C[m, n] = A[m, k] · decode(B), with seven formats of B and one kernel for each kind of tensor core.

mod block_scaled;
mod fp8;
mod groups;
mod mma_sync;
mod realigned;
mod tcgen05;
mod unaligned;
mod wgmma;

use super::knobs::{self, Programs};
use super::{
    Arg, Axis, Condition, Description, Element, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Reference,
    Rejection, TensorSpec, Tensors, legality, require, rounding,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma, PidType, Problem};
use groups::{Groups, LONGEST_STEP};
use half::{bf16, f16};
use rayon::prelude::*;
use realigned::Matrix;
use std::sync::LazyLock;

pub(super) use block_scaled::{MATMUL_MXFP8, MATMUL_NVFP4_NVFP4};
pub(super) use fp8::MATMUL_FP8;

pub(super) static MATMUL: Gemm = Gemm { weights: Weights::Same };
pub(super) static MATMUL_INT4: Gemm = Gemm { weights: Weights::Int4 };
pub(super) static MATMUL_INT16: Gemm = Gemm { weights: Weights::Int16 };
pub(super) static MATMUL_FP4: Gemm = Gemm { weights: Weights::Fp4 };
pub(super) static MATMUL_INT4_GROUP: Gemm = Gemm { weights: Weights::Int4Group };
pub(super) static MATMUL_NVFP4: Gemm = Gemm { weights: Weights::Nvfp4 };
pub(super) static MATMUL_MXFP4: Gemm = Gemm { weights: Weights::Mxfp4 };

/// A matrix product by the format of its weights.
pub(super) struct Gemm {
    weights: Weights,
}

/// How B's weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// The activations' type, [k, n].
    Same,
    /// int16 [k, n], rounded to the activations' type.
    Int16,
    /// Signed int4, two a byte along k, low nibble first: [k/2, n].
    Int4,
    /// E2M1, packed likewise.
    Fp4,
    /// int4, packed likewise, with a scale of the activations' type for each group of weights along k: signed, or unsigned with a
    /// zero point of four bits, a byte each.
    Int4Group,
    /// E2M1, packed likewise, with an E4M3 scale for each 16 weights along k and one f32 for all.
    Nvfp4,
    /// E2M1, packed likewise, with an E8M0 scale for each 32 weights along k.
    Mxfp4,
    /// E4M3 [n, k], and the activations as well; a family of its own ([`fp8`]) has their scales.
    E4m3,
}

/// The kernels have byte offsets within a row, and the row after the last, in 32 bits.
const EXTENTS: (&str, &str) = ("max(m, max(n, k)) <= 536870912", "offsets within a row must fit 32 bits");
const TILES: (&str, &str) = (
    "ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1]) * split_k < 1073741824",
    "tiles are counted in 32 bits, larger block_sizes make fewer",
);
/// An H200 ran 11,931,520 programs in clusters of 16, and of 31,532,640 it reported a launch that failed.
const CLUSTERS: (&str, &str) = (
    "split_k == 1 || ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1]) * split_k <= 16777216",
    "GPUs fail on more than some 2^24 programs in clusters",
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

/// What rounding scaled int4 weights comes to where their scale is the worst there is, in units of the largest it may come to for
/// one: the root of the sum of the squares over all codes. Of all scales and zero points it is 0.652 in bf16 and 0.672 in f16.
const WORST_SCALE: f64 = 0.68;

/// The magnitudes of E2M1, by the lower three bits of a code.
const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

impl Weights {
    /// The name of the format in the kernels.
    const fn name(self, activations: Element) -> &'static str {
        match self {
            Self::Same if matches!(activations, Element::F16) => "F16",
            Self::Same => "Bf16",
            Self::Int16 => "Int16",
            Self::Int4 => "Int4",
            Self::Fp4 => "Fp4",
            Self::Int4Group => "Int4Group",
            Self::Nvfp4 => "Nvfp4",
            Self::Mxfp4 => "Mxfp4",
            Self::E4m3 => "E4m3",
        }
    }

    /// The element that B is made of in memory.
    const fn element(self, activations: Element) -> Element {
        match self {
            Self::Same => activations,
            Self::Int16 => Element::I16,
            Self::Int4 | Self::Fp4 | Self::Int4Group | Self::Nvfp4 | Self::Mxfp4 => Element::I8,
            Self::E4m3 => Element::Fp8,
        }
    }

    /// The element that A is made of in memory, where C is made of this.
    const fn activations(self, c: Element) -> Element {
        if matches!(self, Self::E4m3) { Element::Fp8 } else { c }
    }

    /// Bytes of one element of B.
    const fn element_bytes(self) -> u64 {
        self.element(Element::Bf16).size_bytes()
    }

    /// Weights along k in one element of B.
    const fn per_element(self) -> u64 {
        if matches!(self.element(Element::Bf16), Element::I8) { 2 } else { 1 }
    }

    /// Bytes of a column's scale and of its zero point, at most; none of weights without scales.
    const fn scale_bytes(self) -> [u64; 2] {
        match self {
            Self::Same | Self::Int16 | Self::Int4 | Self::Fp4 | Self::E4m3 => [0, 0],
            Self::Int4Group => [2, 1],
            Self::Nvfp4 | Self::Mxfp4 => [1, 0],
        }
    }

    const fn is_scaled(self) -> bool {
        self.scale_bytes()[0] > 0
    }

    /// The fewest weights along k that share a scale.
    const fn least_group(self) -> u64 {
        if matches!(self, Self::Nvfp4) { 16 } else { 32 }
    }

    /// How a problem's weights share scales; nothing of weights without.
    fn groups(self, problem: &Problem) -> Option<Groups> {
        let [_, _, k, group, zero_points] = problem.shape.first();
        let group = match self {
            // One that ends no step: however long it is, no other begins.
            Self::Int4Group if group == 0 => k.next_multiple_of(LONGEST_STEP),
            Self::Int4Group => group,
            _ => self.least_group(),
        };
        self.is_scaled().then_some(Groups { group, zero_points: self == Self::Int4Group && zero_points == 1 })
    }

    /// By how much rounding scaled weights to the activations' type may move an element of C, in units of the root of the sum of the
    /// squares of its terms.
    ///
    /// E2M1 with a scale of a byte has six significant bits at most, so it is exact. A scaled int4 errs by a share of itself that is u
    /// at most. Over all codes that share a scale it is [`WORST_SCALE`] of u in the root mean square at most, and all of a column may
    /// share the worst one; since activations have random signs, so does what a sum errs by, and of a billion sums none by more than
    /// six times as much.
    fn rounding(self, activations: Element) -> f64 {
        match (self, activations) {
            (Self::Int4Group, Element::F16) => 6.0 * WORST_SCALE * rounding::F16,
            (Self::Int4Group, _) => 6.0 * WORST_SCALE * rounding::BF16,
            _ => 0.0,
        }
    }

    /// All weights as a row-major [k, n], from B and what comes after it, as they lie in memory. `activations`: the type that
    /// int16 is rounded to.
    fn decode(self, problem: &Problem, operands: &[HostTensor]) -> Vec<f64> {
        let [_, n, _] = dimensions(problem).map(|extent| extent as usize);
        let (b, others) = (&operands[0], &operands[1..]);
        let nibbles = |bytes: &[i8], value: fn(u8) -> f64| -> Vec<f64> {
            let row_pairs = bytes.chunks(n).flat_map(|row| {
                let low = row.iter().map(|byte| *byte as u8 & 15);
                let high = row.iter().map(|byte| *byte as u8 >> 4);
                low.chain(high)
            });
            row_pairs.map(value).collect()
        };
        let signed = |code: u8| f64::from((code << 4) as i8 >> 4);
        let e2m1 = |code: u8| {
            let magnitude = E2M1[usize::from(code & 7)];
            if code < 8 { magnitude } else { -magnitude }
        };
        // Of each weight that of its group and column.
        let of_groups = |values: Vec<f64>, weights: usize| -> Vec<f64> {
            let group = self.groups(problem).map_or(1, |groups| groups.group as usize);
            (0..weights).map(|place| values[place / n / group * n + place % n]).collect()
        };
        let scaled = |weights: Vec<f64>, scales: Vec<f64>| -> Vec<f64> {
            let scales = of_groups(scales, weights.len());
            weights.into_iter().zip(scales).map(|(weight, scale)| weight * scale).collect()
        };
        match (self, b, others) {
            (Self::Same, HostTensor::Bf16(_) | HostTensor::F16(_), []) => b.to_f64(),
            (Self::Int16, HostTensor::I16(weights), []) if problem.dtype == Element::F16 => {
                weights.iter().map(|weight| f16::from_f32(f32::from(*weight)).to_f64()).collect()
            }
            (Self::Int16, HostTensor::I16(weights), []) => {
                weights.iter().map(|weight| bf16::from_f32(f32::from(*weight)).to_f64()).collect()
            }
            (Self::Int4, HostTensor::I8(bytes), []) => nibbles(bytes, signed),
            (Self::Fp4, HostTensor::I8(bytes), []) => nibbles(bytes, e2m1),
            (Self::Int4Group, HostTensor::I8(bytes), [scales]) => scaled(nibbles(bytes, signed), scales.to_f64()),
            (Self::Int4Group, HostTensor::I8(bytes), [scales, HostTensor::U8(zeros)]) => {
                let codes = nibbles(bytes, f64::from);
                let zeros = of_groups(zeros.iter().map(|zero| f64::from(zero & 15)).collect(), codes.len());
                scaled(codes.into_iter().zip(zeros).map(|(code, zero)| code - zero).collect(), scales.to_f64())
            }
            (Self::Nvfp4, HostTensor::I8(bytes), [HostTensor::U8(scales), HostTensor::F32(tensor)]) => {
                let factor = f64::from(tensor[0]);
                let scales = scales.iter().map(|code| e4m3(*code) * factor).collect();
                scaled(nibbles(bytes, e2m1), scales)
            }
            (Self::Mxfp4, HostTensor::I8(bytes), [HostTensor::U8(scales)]) => {
                scaled(nibbles(bytes, e2m1), scales.iter().map(|code| e8m0(*code)).collect())
            }
            _ => unreachable!("B does not hold {self:?} weights"),
        }
    }
}

/// What an E4M3 code stands for: a sign, four bits of exponent, three of mantissa.
fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * f64::from(exponent - 7).exp2(),
    };
    if code < 128 { magnitude } else { -magnitude }
}

/// What an E8M0 code stands for: a power of two.
fn e8m0(code: u8) -> f64 {
    if code == u8::MAX { f64::NAN } else { (f64::from(code) - 127.0).exp2() }
}

/// One matrix product, for a kernel to be built for.
struct Product {
    weights: Weights,
    /// Of A, C and, where they have it, of the weights.
    dtype: Element,
    groups: Option<Groups>,
    m: u64,
    n: u64,
    k: u64,
}

impl Product {
    /// Bytes of a row of A.
    fn a_row_bytes(&self) -> u64 {
        self.k * self.dtype.size_bytes()
    }

    /// Bytes of a row of B.
    fn b_row_bytes(&self) -> u64 {
        self.n * self.weights.element_bytes()
    }

    /// A and B as they lie in memory.
    fn operands(&self) -> [Matrix; 2] {
        [
            Matrix { rows: self.m, row_bytes: self.a_row_bytes() },
            Matrix { rows: self.k / self.weights.per_element(), row_bytes: self.b_row_bytes() },
        ]
    }

    /// Bytes of a row of C.
    fn c_row_bytes(&self) -> u64 {
        self.n * self.dtype.size_bytes()
    }

    /// The macros that every kernel needs to know what is multiplied.
    fn macros(&self, block_k: u64) -> Vec<(&'static str, String)> {
        let mut macros =
            vec![("DTYPE", knobs::c_type(self.dtype)), ("WEIGHTS", self.weights.name(self.dtype).to_string())];
        if let Some(groups) = self.groups {
            macros.push(("GROUP", groups.within(block_k).to_string()));
            if self.weights == Weights::Int4Group {
                macros.push(("ZERO_POINTS", u8::from(groups.zero_points).to_string()));
            }
        }
        macros
    }

    /// The kernels' last arguments: scales and zero points by `tensor`, which is told the input, its type and rows, the tensor's own
    /// scale, and `last`, by how scales are shared. None of weights without scales.
    fn scale_arguments(
        &self,
        tensor: impl Fn(usize, Element, u64) -> Arg,
        last: impl FnOnce(Groups) -> u64,
    ) -> Vec<Arg> {
        let Some(groups) = self.groups else { return Vec::new() };
        let count = groups.count(self.k);
        let scales = if self.weights == Weights::Int4Group { self.dtype } else { Element::U8 };
        vec![
            tensor(2, scales, count),
            if groups.zero_points { tensor(3, Element::U8, count) } else { Arg::Null },
            if self.weights == Weights::Nvfp4 { Arg::Input(3) } else { Arg::Null },
            Arg::I32(last(groups) as i32),
        ]
    }
}

/// What activations are that f16 is to hold the sums of with int16 weights: a share of one.
const SMALL: f32 = 1.0 / 4096.0;

impl Gemm {
    /// The product that is the problem.
    fn product(&self, problem: &Problem) -> Product {
        let [m, n, k] = dimensions(problem);
        Product { weights: self.weights, dtype: problem.dtype, groups: self.weights.groups(problem), m, n, k }
    }

    /// What B holds, and what comes after it.
    fn weight_tensors(&self, problem: &Problem) -> Vec<TensorSpec> {
        let Product { groups, n, k, .. } = self.product(problem);
        let count = groups.map_or(0, |groups| groups.count(k));
        let tensor = |name, element, shape: &[u64], fill| TensorSpec::new(name, element, shape, fill);
        let element = self.weights.element(problem.dtype);
        let fill = if element.is_float() { Fill::Uniform { magnitude: 1.0 } } else { Fill::Bits };
        let mut tensors = vec![tensor("B", element, &[k / self.weights.per_element(), n], fill)];
        match self.weights {
            Weights::Same | Weights::Int16 | Weights::Int4 | Weights::Fp4 | Weights::E4m3 => {}
            Weights::Int4Group => {
                tensors.push(tensor("scales", problem.dtype, &[count, n], Fill::Uniform { magnitude: 1.0 }));
                if groups.is_some_and(|groups| groups.zero_points) {
                    tensors.push(tensor("zeros", Element::U8, &[count, n], Fill::Whole { least: 0, most: 15 }));
                }
            }
            // Every code but those of negative numbers and NaN, zero and subnormal ones among them.
            Weights::Nvfp4 => {
                tensors.push(tensor("scales", Element::U8, &[count, n], Fill::Whole { least: 0, most: 126 }));
                tensors.push(tensor("tensor_scale", Element::F32, &[1], Fill::Wide { least: -12, most: -8 }));
            }
            // 2^-12 to 2^3, so that sums fit f16.
            Weights::Mxfp4 => {
                tensors.push(tensor("scales", Element::U8, &[count, n], Fill::Whole { least: 115, most: 130 }));
            }
        }
        tensors
    }
}

impl FamilySpec for Gemm {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let [m, n, k] = dimensions(problem);
        let magnitude = if (self.weights, problem.dtype) == (Weights::Int16, Element::F16) { SMALL } else { 1.0 };
        let a = TensorSpec::new("A", problem.dtype, &[m, k], Fill::Uniform { magnitude });
        let c = TensorSpec::new("C", problem.dtype, &[m, n], Fill::Nothing).written();
        Tensors { inputs: [a].into_iter().chain(self.weight_tensors(problem)).collect(), outputs: vec![c] }
    }

    fn flops(&self, problem: &Problem) -> f64 {
        dimensions(problem).iter().map(|extent| *extent as f64).product::<f64>() * 2.0
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &LAUNCH_KNOBS
    }

    fn own_knobs(&self) -> &'static [&'static str] {
        &[realigned::KNOB]
    }

    fn description_of_variants(&self) -> Option<Description> {
        let scales = " + (2 + zero_points) * ceil_div(k, if(group > 0, group, k)) * n";
        (self.weights == Weights::Int4Group).then(|| super::description::gemm(1, 2, scales))
    }

    fn description(&self) -> Description {
        let (bytes, packed) = (self.weights.element_bytes(), self.weights.per_element());
        let scales = match self.weights {
            Weights::Same | Weights::Int16 | Weights::Int4 | Weights::Fp4 | Weights::E4m3 => "",
            Weights::Int4Group => " + 2 * ceil_div(k, 128) * n",
            Weights::Nvfp4 => " + ceil_div(k, 16) * n + 4",
            Weights::Mxfp4 => " + ceil_div(k, 32) * n",
        };
        super::description::gemm(bytes, packed, scales)
    }

    fn family(&self) -> Family {
        match self.weights {
            Weights::Same => Family::Matmul,
            Weights::Int4 => Family::MatmulInt4,
            Weights::Int16 => Family::MatmulInt16,
            Weights::Fp4 => Family::MatmulFp4,
            Weights::Int4Group => Family::MatmulInt4Group,
            Weights::Nvfp4 => Family::MatmulNvfp4,
            Weights::Mxfp4 => Family::MatmulMxfp4,
            Weights::E4m3 => Family::MatmulFp8,
        }
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        check_knobs(config)?;
        let mma = config.mma.filter(|mma| !matches!(mma, Mma::Simt | Mma::SimtWide)).ok_or_else(|| {
            Rejection("a matrix product needs mma: mma_sync, mma_sync_tma, wgmma, tcgen05 or tcgen05_tmem".into())
        })?;
        require!(profile.mma.contains(&mma), "{} has no {mma}", profile.name);
        check_order_knobs(config)?;
        if self.weights.is_scaled() {
            let [.., depth] = knobs::block_sizes::<3>(config)?;
            require!(
                depth.is_power_of_two(),
                "block of {depth} rows of B along k: it must be a power of two, so that steps and groups of weights share borders"
            );
        }
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

    fn footprint(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> Result<Footprint, Rejection> {
        match config.mma {
            Some(Mma::Tcgen05 | Mma::Tcgen05Tmem) => tcgen05::footprint(config, self.weights),
            Some(Mma::Wgmma | Mma::MmaSyncTma) => wgmma::footprint(config, &self.product(problem)),
            Some(Mma::MmaSync | Mma::Simt | Mma::SimtWide) | None => mma_sync::footprint(config, self.weights, profile),
        }
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        let product = self.product(problem);
        match config.mma {
            Some(Mma::Tcgen05 | Mma::Tcgen05Tmem) => tcgen05::build(config, &product, None, profile),
            Some(Mma::Wgmma | Mma::MmaSyncTma) => wgmma::build(config, &product, profile),
            Some(Mma::MmaSync | Mma::Simt | Mma::SimtWide) | None => mma_sync::build(config, &product, profile),
        }
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        check_host(config)
    }

    fn reference(&self, problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
        let [m, n, k] = dimensions(problem);
        let product =
            Product { weights: self.weights, dtype: problem.dtype, groups: self.weights.groups(problem), m, n, k };
        let mut macros: Vec<_> = product.macros(k).into_iter().filter(|(name, _)| *name != "GROUP").collect();
        if product.groups.is_some() {
            macros.push(("GROUPED", "1".to_string()));
        }
        let scales = product.scale_arguments(|input, _, _| Arg::Input(input), |groups| groups.group);
        let kernel = KernelSpec::shipped("gemm_reference.cu", "gemm_reference", macros);
        let rounding = product.groups.map(|_| Arg::F32(self.weights.rounding(problem.dtype) as f32));
        let results = reference_results([m, n, k], allowed(k));
        let args = [Arg::Input(0), Arg::Input(1)].into_iter().chain(results).chain(scales).chain(rounding);
        Ok(Some((kernel, reference_launch([m, n], args.collect()))))
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let [_, n, k] = dimensions(problem).map(|extent| extent as usize);
        let (share, rounding) = (allowed(k as u64), self.weights.rounding(problem.dtype));
        let activations = inputs[0].to_f64();
        let weights = self.weights.decode(problem, &inputs[1..]);
        let mut largest_weights = vec![0.0f64; n];
        for row in weights.chunks(n) {
            largest_weights.iter_mut().zip(row).for_each(|(largest, weight)| *largest = largest.max(weight.abs()));
        }
        let row_sums = |row: &[f64]| {
            // Of each column the sum of its terms, and that of their squares.
            let mut sums = vec![[0.0; 2]; n];
            for (activation, weights) in row.iter().zip(weights.chunks(n)) {
                for ([sum, squares], weight) in sums.iter_mut().zip(weights) {
                    let term = activation * weight;
                    *sum += term;
                    *squares += term * term;
                }
            }
            let norm = row.iter().map(|activation| activation.powi(2)).sum::<f64>().sqrt();
            let allowed = move |([sum, squares], largest): ([f64; 2], &f64)| {
                (sum, share * norm * largest + rounding * squares.sqrt())
            };
            sums.into_iter().zip(&largest_weights).map(allowed)
        };
        activations.par_chunks(k).flat_map_iter(row_sums).collect::<Vec<_>>().into_iter().collect()
    }
}

/// The problem's [m, n, k].
fn dimensions(problem: &Problem) -> [u64; 3] {
    problem.shape.first()
}

/// The knobs that every product has beside its tile.
const KNOBS: [&str; 7] = ["l2_groupings", "mma", "num_sm_multiplier", "num_stages", "num_warps", "pid_type", "split_k"];
/// Those of them that cost no compile.
const LAUNCH_KNOBS: [&str; 4] = ["l2_groupings", "num_sm_multiplier", "pid_type", "split_k"];

/// Refuses knobs that products do not have: those that load by Hopper's copy engine may realign.
fn check_knobs(config: &Config) -> Result<(), Rejection> {
    let own = (config.mma == Some(Mma::Wgmma)).then_some(realigned::KNOB);
    knobs::only(config, &KNOBS.into_iter().chain(own).collect::<Vec<_>>())
}

/// Refuses a config without a grouping of its tiles or without parts of k.
fn check_order_knobs(config: &Config) -> Result<(), Rejection> {
    require!(
        matches!(config.l2_groupings[..], [rows] if rows > 0),
        "l2_groupings {:?} must be one positive number",
        config.l2_groupings
    );
    knobs::needed("split_k", config.split_k)?;
    Ok(())
}

/// Programs in the largest cluster.
const MOST_PARTS: u64 = 16;

/// Refuses parts of k whose programs are no cluster.
fn check_cluster(config: &Config) -> Result<(), Rejection> {
    let split_k = split_k(config);
    require!(
        split_k.is_power_of_two() && split_k <= MOST_PARTS,
        "split_k {split_k}: a cluster has 1, 2, 4, 8 or 16 programs"
    );
    require!(
        split_k == 1 || config.pid_type == Some(PidType::Flat),
        "split_k {split_k}: programs that share k have one tile each, so pid_type must be flat"
    );
    Ok(())
}

/// Refuses a config that the host's kernels do not run.
fn check_host(config: &Config) -> Result<(), Rejection> {
    knobs::only(config, &["num_warps"])?;
    knobs::block_sizes::<3>(config)?;
    knobs::host_threads(config)
}

/// What follows the inputs among a reference kernel's arguments: C, what it may differ by, the problem and its allowance.
fn reference_results(extents: [u64; 3], allowed: f64) -> impl Iterator<Item = Arg> {
    let extents = extents.map(|extent| Arg::I32(extent as i32));
    [Arg::Output(0), Arg::Allowed(0)].into_iter().chain(extents).chain([Arg::F32(allowed as f32)])
}

/// A reference kernel's launch on a C of [m, n].
fn reference_launch([m, n]: [u64; 2], args: Vec<Arg>) -> Launch {
    Launch {
        grid: [(m.div_ceil(REFERENCE_TILE) * n.div_ceil(REFERENCE_TILE)) as u32, 1, 1],
        cluster: [1; 3],
        threads: [REFERENCE_THREADS, 1, 1],
        dynamic_smem: Bytes(0),
        args,
        workspace: Bytes(0),
        counters: 0,
        cooperative: false,
    }
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

    pub(super) const GEMMS: [Family; 7] = [
        Family::Matmul,
        Family::MatmulInt4,
        Family::MatmulInt16,
        Family::MatmulFp4,
        Family::MatmulInt4Group,
        Family::MatmulNvfp4,
        Family::MatmulMxfp4,
    ];

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

    fn grouped(dtype: Dtype, [m, n, k]: [i64; 3], group: i64, zero_points: i64) -> Problem {
        let extents = [("m", m), ("n", n), ("k", k), ("group", group), ("zero_points", zero_points)];
        Problem::new(Family::MatmulInt4Group, &extents, dtype).unwrap()
    }

    /// Rounds the scaled weights as kernels do, and gives the most that a sum errs by, as a share of what is allowed.
    fn worst_of_rounding(problem: &Problem, inputs: &[HostTensor]) -> f64 {
        let [_, n, k] = dimensions(problem).map(|extent| extent as usize);
        let rounded = |weight: f64| match problem.dtype {
            Dtype::F16 => f16::from_f64(weight).to_f64(),
            _ => bf16::from_f64(weight).to_f64(),
        };
        let weights = Weights::Int4Group.decode(problem, &inputs[1..]);
        let weights: Vec<f64> = weights.into_iter().map(rounded).collect();
        let a = inputs[0].to_f64();
        let sums = a.chunks(k).flat_map(|row| {
            let mut sums = vec![0.0; n];
            for (a, weights) in row.iter().zip(weights.chunks(n)) {
                sums.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += a * weight);
            }
            sums
        });
        let reference = spec(problem.family).host_reference(problem, inputs);
        let wanted = reference.values.iter().zip(&reference.allowed);
        let shares = sums.zip(wanted).map(|(sum, (value, allowed))| (sum - value).abs() / allowed);
        shares.filter(|share| !share.is_nan()).fold(0.0, f64::max)
    }

    #[test]
    fn scaled_weights_that_are_rounded_are_allowed_with_room() {
        for (dtype, group, zero_points) in
            [Dtype::Bf16, Dtype::F16].into_iter().flat_map(|dtype| [(dtype, 32, 0), (dtype, 128, 1), (dtype, 0, 0)])
        {
            let problem = grouped(dtype, [16, 192, 2048], group, zero_points);
            let spec = spec(Family::MatmulInt4Group);
            let plain = spec.tensors(&problem).inputs;
            for tensors in [spec.awkward(&problem, &plain).unwrap(), plain] {
                let inputs: Vec<_> = tensors.iter().zip(1..).map(|(tensor, seed)| fill(tensor, seed)).collect();
                let most = worst_of_rounding(&problem, &inputs);
                assert!(most < 0.7, "{problem}: {most} of what is allowed");
            }
        }
    }

    /// Where all weights share a scale, a code errs alike wherever it stands: of all scales and zero points these err most.
    #[test]
    fn the_worst_scale_of_all_is_allowed_with_room_and_with_no_more_than_that() {
        for (dtype, scale, zero) in [(Dtype::Bf16, 1.656_25, 10), (Dtype::F16, 1.605_468_75, 10)] {
            let problem = grouped(dtype, [16, 192, 2048], 0, 1);
            let tensors = spec(Family::MatmulInt4Group).tensors(&problem).inputs;
            let mut inputs: Vec<_> = tensors.iter().zip(1..).map(|(tensor, seed)| fill(tensor, seed)).collect();
            inputs[2] = match dtype {
                Dtype::F16 => HostTensor::F16(vec![f16::from_f64(scale); 192]),
                _ => HostTensor::Bf16(vec![bf16::from_f64(scale); 192]),
            };
            inputs[3] = HostTensor::U8(vec![zero; 192]);
            // Of three thousand sums one is off by some 3.6 standard deviations, where six are allowed.
            let most = worst_of_rounding(&problem, &inputs);
            assert!((0.45..0.75).contains(&most), "{dtype}: {most} of what is allowed");
        }
    }

    /// The kernel's last arguments on aligned and other rows, and its macros.
    #[test]
    fn a_step_brings_the_scales_of_its_groups() {
        let gemm = spec(Family::MatmulInt4Group);
        let wgmma = Config { mma: Some(Mma::Wgmma), ..config() };
        let macros = |problem: &Problem, config: &Config| {
            let kernel = gemm.kernel(config, problem, &h200()).unwrap();
            let of = |name: &str| kernel.macros.iter().find(|(own, _)| own == name).unwrap().1.clone();
            [of("DTYPE"), of("GROUP"), of("ZERO_POINTS")].join(" ")
        };
        let last = |problem: &Problem, config: &Config| gemm.launch(config, problem, &h200()).unwrap().args.pop();
        // A step is 128 along k.
        for config in [config(), wgmma.clone()] {
            for (group, zero_points, named, steps) in
                [(128, 0, "bf16 128 0", 1), (64, 1, "bf16 64 1", 1), (32, 0, "bf16 32 0", 1), (0, 0, "bf16 128 0", 33)]
            {
                let problem = grouped(Dtype::Bf16, [5, 512, 4130], group, zero_points);
                assert_eq!(macros(&problem, &config), named);
                assert_eq!(last(&problem, &config), Some(Arg::I32(steps)), "group {group}");
            }
        }
        let short = Config { block_sizes: vec![64, 128, 32], ..wgmma.clone() };
        let problem = grouped(Dtype::F16, [5, 512, 4130], 128, 1);
        assert_eq!((macros(&problem, &short).as_str(), last(&problem, &short)), ("f16 64 1", Some(Arg::I32(2))));
        let maps = |n| {
            let args = gemm.launch(&wgmma, &grouped(Dtype::Bf16, [5, n, 4130], 32, 1), &h200()).unwrap().args;
            let last: Vec<_> = args[args.len() - 4..].iter().map(|arg| matches!(arg, Arg::TensorMap(_))).collect();
            last
        };
        // Scales of two bytes a column, and zero points of one.
        assert_eq!(maps(4096), [true, true, false, false]);
        assert_eq!(maps(4104), [true, false, false, false]);
        assert_eq!(maps(4100), [false, false, false, false]);
    }

    #[test]
    fn scaled_weights_need_a_step_that_shares_borders_with_their_groups() {
        let odd = Config { block_sizes: vec![64, 128, 96], mma: Some(Mma::Wgmma), ..config() };
        let rejection = spec(Family::MatmulNvfp4).check(&odd, &h200()).unwrap_err();
        assert!(rejection.0.contains("96 rows of B along k"), "{rejection}");
        assert_eq!(spec(Family::MatmulFp4).check(&odd, &h200()), Ok(()));
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
