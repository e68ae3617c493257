//! Products of numbers that both have a scale for each group along k: NVFP4 and MXFP8. Blackwell multiplies them as they are
//! (`gemm_block_scaled_tcgen05.cu`), other GPUs decode them (`gemm_block_scaled.cu`).
//!
//! The type of such a problem is that of C, the only one of its tensors that comes in two.

mod mma_sync;
mod tcgen05;

use super::{allowed, check_order_knobs, dimensions, vector_bytes};
use crate::families::knobs;
use crate::families::{
    Arg, Axis, Condition, Description, Element, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Reference,
    Rejection, TensorSpec, Tensors, decode_e4m3, require,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma, Problem};
use rayon::prelude::*;
use std::sync::LazyLock;

pub(in crate::families) static MATMUL_NVFP4_NVFP4: BlockScaled = BlockScaled { format: Format::Nvfp4 };
pub(in crate::families) static MATMUL_MXFP8: BlockScaled = BlockScaled { format: Format::Mxfp8 };

/// A product by the format of both operands.
pub(in crate::families) struct BlockScaled {
    format: Format,
}

/// How the operands lie in memory: k along each row of A and along each column of B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// E2M1, two a byte along k, low nibble first, with an unsigned E4M3 scale for each 16, and one f32 for all.
    Nvfp4,
    /// E4M3 with an E8M0 scale for each 32.
    Mxfp8,
}

/// So many rows have among them a large scale for every group of k.
const MANY_ROWS: u64 = 16;
/// Rows of a block of scales.
const SCALE_ROWS: u64 = 128;
/// Groups along k of such a block.
const SCALE_GROUPS: u64 = 4;

impl Format {
    /// The name in the kernels.
    const fn name(self) -> &'static str {
        match self {
            Self::Nvfp4 => "Nvfp4",
            Self::Mxfp8 => "Mxfp8",
        }
    }

    /// What the operands are made of in memory.
    const fn element(self) -> Element {
        match self {
            Self::Nvfp4 => Element::I8,
            Self::Mxfp8 => Element::Fp8,
        }
    }

    /// Numbers in one byte.
    const fn per_byte(self) -> u64 {
        match self {
            Self::Nvfp4 => 2,
            Self::Mxfp8 => 1,
        }
    }

    /// Numbers along k with one scale.
    const fn group(self) -> u64 {
        match self {
            Self::Nvfp4 => 16,
            Self::Mxfp8 => 32,
        }
    }

    /// Blocks of scales along so many of k.
    const fn scale_blocks(self, k: u64) -> u64 {
        k.div_ceil(self.group() * SCALE_GROUPS)
    }

    /// What a scale's code stands for.
    fn scale(self, code: u8) -> f64 {
        match self {
            Self::Nvfp4 => super::e4m3(code & 0x7f),
            Self::Mxfp8 => super::e8m0(code),
        }
    }

    /// All numbers of `rows` rows of `k`, with their scales.
    fn decode(self, numbers: &HostTensor, scales: &HostTensor, factor: f64, k: usize) -> Vec<f64> {
        let e2m1 = |code: u8| super::E2M1[usize::from(code & 7)] * if code < 8 { 1.0 } else { -1.0 };
        let numbers: Vec<f64> = match numbers {
            HostTensor::I8(bytes) => bytes
                .iter()
                .map(|byte| byte.cast_unsigned())
                .flat_map(|byte| [e2m1(byte & 15), e2m1(byte >> 4)])
                .collect(),
            HostTensor::Fp8(codes) => codes.iter().map(|code| decode_e4m3(*code).into()).collect(),
            other => unreachable!("{other:?} is no operand of {self:?}"),
        };
        let HostTensor::U8(codes) = scales else { unreachable!("scales are bytes") };
        let blocks = self.scale_blocks(k as u64) as usize;
        let scale = |(place, number): (usize, f64)| {
            let code = codes[scale_place(place / k, place % k / self.group() as usize, blocks)];
            number * self.scale(code) * factor
        };
        numbers.into_iter().enumerate().map(scale).collect()
    }
}

/// Where the scale of a row's group lies, of `blocks` blocks side by side.
const fn scale_place(row: usize, group: usize, blocks: usize) -> usize {
    let (rows, groups) = (SCALE_ROWS as usize, SCALE_GROUPS as usize);
    let block = row / rows * blocks + group / groups;
    block * rows * groups + row % 32 * 16 + row % rows / 32 * 4 + group % groups
}

/// One such product, for a kernel to be built for.
#[derive(Clone, Copy)]
struct Product {
    format: Format,
    /// Of C.
    dtype: Element,
    m: u64,
    n: u64,
    k: u64,
}

impl Product {
    fn of(format: Format, problem: &Problem) -> Self {
        let [m, n, k] = dimensions(problem);
        Self { format, dtype: problem.dtype, m, n, k }
    }

    /// Bytes of a row of A and of a column of B.
    const fn k_bytes(&self) -> u64 {
        self.k / self.format.per_byte()
    }

    /// Bytes of a row of C.
    const fn c_row_bytes(&self) -> u64 {
        self.n * self.dtype.size_bytes()
    }

    /// A kernel's arguments for what multiplies all of A and all of B.
    fn factors(&self) -> [Arg; 2] {
        match self.format {
            Format::Nvfp4 => [Arg::Input(4), Arg::Input(5)],
            Format::Mxfp8 => [Arg::Null, Arg::Null],
        }
    }
}

impl FamilySpec for BlockScaled {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let [m, n, k] = dimensions(problem);
        let numbers = |name, rows| {
            let fill = match self.format {
                Format::Nvfp4 => Fill::Bits,
                Format::Mxfp8 => Fill::Uniform { magnitude: 448.0 },
            };
            TensorSpec::new(name, self.format.element(), &[rows, k / self.format.per_byte()], fill)
        };
        let scales = |name, rows: u64| {
            // Every code but NaN, zero and subnormal ones among them; or powers of two that take sums back to f16's range.
            let fill = match self.format {
                Format::Nvfp4 => Fill::Whole { least: 0, most: 126 },
                Format::Mxfp8 => Fill::Whole { least: 113, most: 120 },
            };
            let shape = [rows.div_ceil(SCALE_ROWS), self.format.scale_blocks(k), 32, 16];
            TensorSpec::new(name, Element::U8, &shape, fill)
        };
        let factor = |name| TensorSpec::new(name, Element::F32, &[1], Fill::Wide { least: -12, most: -8 });
        let mut inputs = vec![numbers("A", m), numbers("B", n), scales("a_scales", m), scales("b_scales", n)];
        if self.format == Format::Nvfp4 {
            inputs.extend([factor("a_factor"), factor("b_factor")]);
        }
        Tensors { inputs, outputs: vec![TensorSpec::new("C", problem.dtype, &[m, n], Fill::Nothing)] }
    }

    fn flops(&self, problem: &Problem) -> f64 {
        dimensions(problem).iter().map(|extent| *extent as f64).product::<f64>() * 2.0
    }

    /// Of the scales those that there are rows and groups for.
    fn bytes(&self, problem: &Problem) -> Bytes {
        let product = Product::of(self.format, problem);
        let a_row = product.k_bytes() + product.k.div_ceil(self.format.group());
        let factors = if self.format == Format::Nvfp4 { 8 } else { 0 };
        Bytes((product.m + product.n) * a_row + product.m * product.c_row_bytes() + factors)
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &super::LAUNCH_KNOBS
    }

    fn description(&self) -> Description {
        crate::families::description::block_scaled(
            self.format.per_byte(),
            match self.format {
                Format::Nvfp4 => "(m + n) * ceil_div(k, 16) + 8",
                Format::Mxfp8 => "(m + n) * ceil_div(k, 32)",
            },
        )
    }

    fn awkward(&self, problem: &Problem, inputs: &[TensorSpec]) -> Option<Vec<TensorSpec>> {
        // Few rows leave nothing of most groups beside those of the largest scales, and a number that is lost there is not seen: so
        // scales are alike.
        let has_few_rows = dimensions(problem)[0] < MANY_ROWS;
        let fills: &[Fill] = match self.format {
            // Every byte of A has a 4 or a 6 beside any other number.
            Format::Nvfp4 if has_few_rows => &[
                Fill::Whole { least: 0x66, most: 0x77 },
                Fill::Bits,
                Fill::Whole { least: 56, most: 63 },
                Fill::Whole { least: 56, most: 63 },
                Fill::Wide { least: -4, most: 0 },
                Fill::Wide { least: -4, most: 0 },
            ],
            // Scales that are zero or subnormal, and the largest.
            Format::Nvfp4 => &[
                Fill::Bits,
                Fill::Bits,
                Fill::Whole { least: 0, most: 7 },
                Fill::Whole { least: 119, most: 126 },
                Fill::Wide { least: -4, most: 0 },
                Fill::Wide { least: -4, most: 0 },
            ],
            // Zeros, numbers too small to be normal, and the largest: 2^9 is rounded down to 448.
            Format::Mxfp8 if has_few_rows => &[
                Fill::Landmarks { least: -11, most: 4 },
                Fill::Wide { least: -11, most: 9 },
                Fill::Whole { least: 119, most: 120 },
                Fill::Whole { least: 119, most: 120 },
            ],
            // The same, and scales of any size.
            Format::Mxfp8 => &[
                Fill::Landmarks { least: -11, most: 4 },
                Fill::Wide { least: -11, most: 9 },
                Fill::Whole { least: 87, most: 120 },
                Fill::Whole { least: 87, most: 120 },
            ],
        };
        Some(inputs.iter().zip(fills).map(|(input, fill)| TensorSpec { fill: *fill, ..input.clone() }).collect())
    }

    fn family(&self) -> Family {
        match self.format {
            Format::Nvfp4 => Family::MatmulNvfp4Nvfp4,
            Format::Mxfp8 => Family::MatmulMxfp8,
        }
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        knobs::only(config, &super::KNOBS)?;
        let mma = config.mma.filter(|mma| matches!(mma, Mma::MmaSync | Mma::Tcgen05)).ok_or_else(|| {
            Rejection("a product of operands that both have scales needs mma: mma_sync or tcgen05".into())
        })?;
        require!(profile.mma.contains(&mma), "{} has no {mma}", profile.name);
        check_order_knobs(config)?;
        match mma {
            Mma::Tcgen05 => tcgen05::check(config, self.format, profile),
            _ => mma_sync::check(config, self.format, profile),
        }
    }

    fn conditions(&self, config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        if config.mma == Some(Mma::Tcgen05) { tcgen05::conditions(self.format) } else { mma_sync::conditions() }
    }

    fn axes(&self) -> &'static [Axis] {
        static UNPACKED: LazyLock<[Axis; 3]> = LazyLock::new(|| super::axes("block_sizes[2]"));
        static PACKED: LazyLock<[Axis; 3]> = LazyLock::new(|| super::axes("block_sizes[2] * 2"));
        if self.format.per_byte() == 1 { UNPACKED.as_slice() } else { PACKED.as_slice() }
    }

    fn footprint(&self, config: &Config, _problem: &Problem, profile: &GpuProfile) -> Result<Footprint, Rejection> {
        match config.mma {
            Some(Mma::Tcgen05) => tcgen05::footprint(config, self.format),
            _ => mma_sync::footprint(config, self.format, profile),
        }
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        let product = Product::of(self.format, problem);
        match config.mma {
            Some(Mma::Tcgen05) => tcgen05::build(config, &product, profile),
            _ => mma_sync::build(config, &product, profile),
        }
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        super::check_host(config)
    }

    fn reference(&self, problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
        let product = Product::of(self.format, problem);
        let macros = [("FORMAT", self.format.name().to_string())];
        let kernel = KernelSpec::shipped("gemm_block_scaled_reference.cu", "gemm_block_scaled_reference", macros);
        let [m, n, k] = dimensions(problem);
        let results = super::reference_results([m, n, k], allowed(k));
        let args = (0..4).map(Arg::Input).chain(product.factors()).chain(results);
        Ok(Some((kernel, super::reference_launch([m, n], args.collect()))))
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let [_, n, k] = dimensions(problem).map(|extent| extent as usize);
        let factor = |place: usize| match inputs.get(place) {
            Some(HostTensor::F32(factor)) => f64::from(factor[0]),
            _ => 1.0,
        };
        let [a, b] = [0, 1].map(|side| self.format.decode(&inputs[side], &inputs[2 + side], factor(4 + side), k));
        let (share, group) = (allowed(k as u64), self.format.group() as usize);
        // Of each group, the norm of a row of A and the largest of a column of B.
        let norm = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let largest = |row: &[f64]| row.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let largest_of_b: Vec<f64> = b.chunks(k).flat_map(|row| row.chunks(group).map(largest)).collect();
        let of_row = |a: &[f64]| {
            let norms: Vec<f64> = a.chunks(group).map(norm).collect();
            let element = |column: usize| {
                let sum = a.iter().zip(&b[column * k..][..k]).map(|(a, b)| a * b).sum::<f64>();
                let largest = &largest_of_b[column * norms.len()..];
                let squares = norms.iter().zip(largest).map(|(norm, largest)| (norm * largest).powi(2)).sum::<f64>();
                (sum, share * squares.sqrt())
            };
            (0..n).map(element).collect::<Vec<_>>()
        };
        a.par_chunks(k).flat_map_iter(of_row).collect::<Vec<_>>().into_iter().collect()
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::{Format, SCALE_ROWS, scale_place};
    use crate::families::{Arg, Element, HostTensor, KernelSpec, Launch, TensorMap, spec};
    use crate::model::{Bytes, Config, Dtype, Family, GpuProfile, Mma, PidType, Problem};
    use std::collections::BTreeSet;

    const FAMILIES: [Family; 2] = [Family::MatmulNvfp4Nvfp4, Family::MatmulMxfp8];

    fn problem(family: Family, shape: &str) -> Problem {
        Problem::parse(family, shape, Dtype::Bf16).unwrap()
    }

    fn gpu(name: &str) -> GpuProfile {
        GpuProfile::by_name(name).unwrap()
    }

    fn decoding() -> Config {
        Config {
            block_sizes: vec![64, 64, 128],
            num_warps: Some(4),
            num_stages: Some(3),
            pid_type: Some(PidType::Flat),
            l2_groupings: vec![4],
            split_k: Some(1),
            mma: Some(Mma::MmaSync),
            ..Config::default()
        }
    }

    fn scaling(block_sizes: [u32; 3]) -> Config {
        Config { block_sizes: block_sizes.into(), num_warps: None, mma: Some(Mma::Tcgen05), ..decoding() }
    }

    fn program(family: Family, config: &Config, shape: &str) -> (KernelSpec, Launch) {
        let gpu = gpu(if config.mma == Some(Mma::Tcgen05) { "b200" } else { "h200" });
        spec(family).program(config, &problem(family, shape), &gpu).unwrap()
    }

    fn maps(launch: &Launch) -> Vec<TensorMap> {
        let map = |arg: &Arg| if let Arg::TensorMap(map) = arg { Some(map.clone()) } else { None };
        launch.args.iter().filter_map(map).collect()
    }

    #[test]
    fn scales_of_whole_blocks_have_a_place_each() {
        for (rows, groups) in [(128, 4), (256, 12), (384, 4)] {
            let places: BTreeSet<usize> =
                (0..rows).flat_map(|row| (0..groups).map(move |group| scale_place(row, group, groups / 4))).collect();
            assert_eq!((places.len(), places.last()), (rows * groups, Some(&(rows * groups - 1))));
        }
        // Row 33 is the second of the second quarter: after one line of 16 bytes, the second word; then blocks along k, then down.
        assert_eq!([scale_place(33, 2, 3), scale_place(33, 6, 3), scale_place(161, 2, 3)], [22, 534, 1558]);
    }

    #[test]
    fn both_operands_lie_along_k_with_padded_scales() {
        let shapes = |family, shape: &str| -> Vec<Vec<u64>> {
            let tensors = spec(family).tensors(&problem(family, shape));
            tensors.inputs.into_iter().chain(tensors.outputs).map(|tensor| tensor.shape).collect()
        };
        let nvfp4: [&[u64]; 7] = [&[6, 39], &[300, 39], &[1, 2, 32, 16], &[3, 2, 32, 16], &[1], &[1], &[6, 300]];
        assert_eq!(shapes(Family::MatmulNvfp4Nvfp4, "m=6,n=300,k=78"), nvfp4);
        let mxfp8: [&[u64]; 5] = [&[130, 129], &[7, 129], &[2, 2, 32, 16], &[1, 2, 32, 16], &[130, 7]];
        assert_eq!(shapes(Family::MatmulMxfp8, "m=130,n=7,k=129"), mxfp8);
        // What pads the scales is not moved.
        let bytes = |family, shape: &str| spec(family).bytes(&problem(family, shape));
        assert_eq!(bytes(Family::MatmulNvfp4Nvfp4, "m=6,n=300,k=78"), Bytes(306 * (39 + 5) + 2 * 6 * 300 + 8));
        assert_eq!(bytes(Family::MatmulMxfp8, "m=130,n=7,k=129"), Bytes(137 * (129 + 5) + 2 * 130 * 7));
    }

    #[test]
    fn the_result_is_of_the_problems_type_alone() {
        for family in FAMILIES {
            for dtype in [Dtype::Bf16, Dtype::F16] {
                let problem = Problem::parse(family, "m=3,n=4,k=64", dtype).unwrap();
                let tensors = spec(family).tensors(&problem);
                assert_eq!(tensors.outputs[0].element, dtype);
                assert!(tensors.inputs.iter().all(|input| ![Element::Bf16, Element::F16].contains(&input.element)));
            }
            assert!(Problem::parse(family, "m=3,n=4,k=64", Dtype::Fp8).is_err(), "{family}");
        }
        assert!(Problem::parse(Family::MatmulNvfp4Nvfp4, "m=3,n=4,k=63", Dtype::Bf16).is_err(), "two share a byte");
    }

    #[test]
    fn every_code_is_decoded() {
        // One row of one number at a time, whose scale is one: all 16 codes of E2M1.
        let bytes: Vec<i8> = (0..8).map(|pair: i8| (2 * pair) | ((2 * pair + 1) << 4)).collect();
        let scales = |format: Format, code| HostTensor::U8(vec![code; 512 * format.scale_blocks(16) as usize]);
        let decoded = Format::Nvfp4.decode(&HostTensor::I8(bytes), &scales(Format::Nvfp4, 56), 1.0, 16);
        let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        assert_eq!(decoded[..8], magnitudes);
        assert_eq!(decoded[8..], magnitudes.map(|magnitude: f64| -magnitude));
        let decoded = Format::Mxfp8.decode(&HostTensor::Fp8(vec![0x38, 0x7e, 1]), &scales(Format::Mxfp8, 130), 1.0, 3);
        assert_eq!(decoded, [8.0, 3584.0, 8.0 / 512.0]);
    }

    #[test]
    fn a_kernel_is_named_by_its_macros() {
        let named = |family, config: &Config, shape: &str| {
            let kernel = program(family, config, shape).0;
            let macros: Vec<_> = kernel.macros.iter().map(|(name, value)| format!("{name}={value}")).collect();
            macros.join(" ")
        };
        assert_eq!(
            named(Family::MatmulNvfp4Nvfp4, &decoding(), "m=64,n=44,k=312"),
            "BLOCK_M=64 BLOCK_N=64 BLOCK_K=256 NUM_WARPS=4 NUM_STAGES=3 DTYPE=bf16 FORMAT=Nvfp4 K_VECTOR_BYTES=4 C_VECTOR_BYTES=8"
        );
        assert_eq!(
            named(Family::MatmulMxfp8, &scaling([256, 256, 128]), "m=512,n=512,k=512"),
            "BLOCK_M=256 BLOCK_N=256 BLOCK_K=128 NUM_STAGES=3 SUM_TILES=1 DTYPE=bf16 FORMAT=Mxfp8"
        );
    }

    #[test]
    fn what_there_is_room_for_in_tensor_memory() {
        // Sums of 128 columns twice and 32 for the scales of each of three stages; sums of 256 leave no room for others.
        let sum_tiles = |block_sizes| {
            let kernel = program(Family::MatmulNvfp4Nvfp4, &scaling(block_sizes), "m=512,n=512,k=512").0;
            kernel.macros.iter().find(|(name, _)| name == "SUM_TILES").unwrap().1.clone()
        };
        assert_eq!([[128, 128, 128], [256, 256, 128], [64, 128, 128]].map(sum_tiles), ["2", "1", "2"]);
    }

    #[test]
    fn the_instructions_columns_have_all_their_scales_in_both_programs() {
        let tiles = |block_sizes, shape: &str| -> Vec<Vec<u32>> {
            maps(&program(Family::MatmulNvfp4Nvfp4, &scaling(block_sizes), shape).1)
                .into_iter()
                .map(|map| map.tile)
                .collect()
        };
        let large: [&[u32]; 5] = [&[128, 128], &[128, 128], &[256, 8, 1], &[256, 8, 2], &[64, 32]];
        assert_eq!(tiles([256, 256, 128], "m=512,n=512,k=512"), large);
        let few: [&[u32]; 5] = [&[128, 16], &[128, 128], &[256, 8, 1], &[256, 8, 1], &[32, 32]];
        assert_eq!(tiles([32, 256, 128], "m=20,n=512,k=512"), few);
        let launch = program(Family::MatmulNvfp4Nvfp4, &scaling([256, 256, 128]), "m=200,n=304,k=544").1;
        assert_eq!(maps(&launch)[2].extents, [256, 2 * 9, 2]);
        assert_eq!(maps(&launch)[3].strides_bytes, [256, 9 * 512]);
        assert_eq!(launch.args[5..7], [Arg::Input(4), Arg::Input(5)]);
        let launch = program(Family::MatmulMxfp8, &scaling([128, 128, 128]), "m=200,n=304,k=544").1;
        assert_eq!(launch.args[5..7], [Arg::Null, Arg::Null]);
        assert_eq!(maps(&launch)[0].element.size_bytes() * SCALE_ROWS, 128);
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let decoding_of = |sizes: [u32; 3]| Config { block_sizes: sizes.to_vec(), ..decoding() };
        let cases = [
            (decoding_of([256, 64, 128]), "block of 256 along m"),
            (decoding_of([64, 16, 128]), "block of 16 along n"),
            (decoding_of([64, 64, 16]), "block of 32 along k"),
            (Config { num_warps: Some(16), ..decoding() }, "warp tiles of 16 x 32"),
            (Config { block_sizes: vec![128, 128, 64], num_warps: Some(1), ..decoding() }, "sums a thread"),
            (Config { num_stages: Some(1), ..decoding() }, "num_stages 1"),
            (Config { split_k: Some(2), ..decoding() }, "split_k 2"),
            (Config { mma: Some(Mma::Wgmma), ..decoding() }, "mma_sync or tcgen05"),
            (Config { num_stages: Some(20), ..decoding() }, "of shared memory"),
            (scaling([48, 128, 128]), "block of 48 along m"),
            (scaling([64, 64, 128]), "block of 64 along n"),
            (scaling([16, 256, 128]), "block of 16 along m"),
            (scaling([128, 128, 64]), "block of 64 bytes along k"),
            (Config { num_warps: Some(8), ..scaling([128, 128, 128]) }, "num_warps 8"),
            (Config { num_stages: Some(8), ..scaling([256, 256, 128]) }, "columns of tensor memory"),
            (scaling([32, 128, 128]), "m = 512"),
        ];
        for (config, reason) in cases {
            let gpu = gpu(if config.mma == Some(Mma::Tcgen05) { "b200" } else { "h200" });
            let problem = problem(Family::MatmulNvfp4Nvfp4, "m=512,n=512,k=512");
            let rejection = spec(problem.family).launch(&config, &problem, &gpu).unwrap_err();
            assert!(rejection.0.contains(reason), "{config}: '{rejection}' does not say '{reason}'");
        }
        let unaligned = problem(Family::MatmulNvfp4Nvfp4, "m=512,n=512,k=528");
        let rejection = spec(unaligned.family).launch(&scaling([128, 128, 128]), &unaligned, &gpu("b200")).unwrap_err();
        assert!(rejection.0.contains("16 bytes"), "{rejection}");
        let there_is_none = spec(Family::MatmulMxfp8).check(&scaling([128, 128, 128]), &gpu("h200")).unwrap_err();
        assert!(there_is_none.0.contains("h200 has no tcgen05"), "{there_is_none}");
    }
}
