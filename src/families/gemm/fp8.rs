//! Products of E4M3 numbers with scales: `gemm_fp8.cu` by Hopper's own `wgmma` for them, `gemm_tcgen05.cu` by Blackwell's.
//!
//! A tensor core of Hopper keeps some 14 bits of a sum, so a kernel adds sums up in f32 every 128 of k.

use super::realigned::{self, Matrix, Realigned};
use super::unaligned::{self, Panels, WORD_BYTES, beside_stages, loading_warps, panel_bytes, row_vector_bytes};
use super::{
    CLUSTERS, EXTENTS, Product, ProgramOrder, TILES, Weights, group_m, program_order, split_k, tcgen05, vector_bytes,
};
use crate::families::knobs::{self, WARP};
use crate::families::{
    Arg, Axis, Condition, Description, Element, FamilySpec, Fill, Footprint, HostTensor, KernelSpec, Launch, Mapped,
    Reference, Rejection, Swizzle, TensorSpec, Tensors, decode_e4m3, legality, require, rounding,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma, Problem};
use rayon::prelude::*;
use std::sync::LazyLock;

pub(in crate::families) static MATMUL_FP8: Fp8 = Fp8;

/// Products of E4M3 numbers.
pub(in crate::families) struct Fp8;

/// Of k that the tensor cores sum before it is added up in f32; also the edge of the blocks that have a scale each.
const PROMOTED: u64 = 128;
/// wgmma's rows: of one product of a warpgroup, as many columns of C, or rows where it is not taken transposed.
const WGMMA_ROWS: u64 = 64;
/// Bytes of a swizzled row of A and B, and of C in shared memory.
const PANEL_BYTES: u64 = 128;
/// Barriers are in whole kibibytes, so that what follows is aligned.
const BARRIER_UNIT: u64 = 1024;
/// Rows of C in a tile that is taken transposed: their sums twice, in the tensor cores' precision and in f32, are what registers hold.
const MOST_ROWS: u64 = 192;
/// Columns of C in a tile that is not, two groups of warps sharing its rows; those of a block with one scale.
const STRAIGHT_COLUMNS: u64 = PROMOTED;
/// Columns of C in a tile: rows of B that the copy engine takes at once.
const MOST_COLUMNS: u64 = 256;
/// So many rows have among them a large scale for every block of k.
const MANY_ROWS: u64 = 16;
/// Registers of a thread for addresses, counters and scales.
const SPARE_REGISTERS: u64 = 40;
/// Registers of a thread that shifts rows into place, where they begin anywhere.
const LOADER_REGISTERS: u64 = 56;
/// Registers of a thread of two groups that it has without more of them from the warps that load, with a few to spare.
const MOST_REGISTERS_WITHOUT: u64 = 160;

/// How much of what a tensor core adds may be cut off: it aligns the 32 products of an instruction and the sum so far to the
/// largest of them and keeps 13 bits below its leading one, always towards zero. This is what those cuts of 128 of k come to, four
/// instructions of 33 numbers each, in units of the norm that [`Reference::allowed`] goes by: cut off evenly between nothing and one
/// unit of 2^-13, and of either sign as the numbers are, they come to √(132 / 3) = 6.6 units as a rule; of a billion sums none has six
/// times as much. Sums of further blocks of 128 are as independent as their norms are.
const NARROW: f64 = 40.0 / 8192.0;

/// By how much an element of C may differ before it is rounded to bf16, in units of the norm of its terms: see [`norms`].
fn allowed(k: u64) -> f64 {
    NARROW + (16.0 + k.div_ceil(PROMOTED) as f64) * rounding::F32
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scaling {
    /// Each tensor.
    Tensor,
    /// Each row of A and each column of B.
    RowColumn,
    /// 128 of k of a row of A, and 128 columns by 128 of k of B, as DeepSeek-V3 has them.
    Block,
}

impl Scaling {
    /// That of a problem, by its `scale_block`.
    const fn of(scale_block: u64) -> Self {
        match scale_block {
            0 => Self::Tensor,
            1 => Self::RowColumn,
            _ => Self::Block,
        }
    }

    /// The name in the reference kernel.
    const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "Tensor",
            Self::RowColumn => "RowColumn",
            Self::Block => "Block",
        }
    }

    /// Extents in memory of A's scales and of B's.
    fn shapes(self, [m, n, k]: [u64; 3]) -> [Vec<u64>; 2] {
        let blocks = |extent: u64| extent.div_ceil(PROMOTED);
        match self {
            Self::Tensor => [vec![1], vec![1]],
            Self::RowColumn => [vec![m], vec![n]],
            Self::Block => [vec![blocks(k), m], vec![blocks(n), blocks(k)]],
        }
    }

    /// Where the scale of a row of A lies, along a block of k.
    const fn of_row(self, row: usize, block: usize, m: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::RowColumn => row,
            Self::Block => block * m + row,
        }
    }

    /// Where the scale of a column of B lies, along a block of k of so many.
    const fn of_column(self, column: usize, block: usize, blocks: usize) -> usize {
        match self {
            Self::Tensor => 0,
            Self::RowColumn => column,
            Self::Block => column / PROMOTED as usize * blocks + block,
        }
    }
}

/// A problem's [m, n, k] and its scaling.
fn parts_of(problem: &Problem) -> ([u64; 3], Scaling) {
    let [m, n, k, scale_block] = problem.shape.first();
    ([m, n, k], Scaling::of(scale_block))
}

/// The compile-time half of a config, as the kernel works it out from its macros.
#[derive(Clone, Copy)]
struct Tiling {
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    /// Groups of four warps that multiply.
    groups: u64,
    stages: u64,
    /// Whether A and B are copied to aligned rows first.
    realigned: Realigned,
    /// Bytes of one copy of a row of A or B: 16, by the copy engine, 8, 4, or 1 where rows begin anywhere.
    k_vector_bytes: u64,
    /// Whether wgmma's rows are columns of C. A lane then has sums of many rows of C, whose scales, where blocks have them, take more of
    /// the shared memory's rate than wgmma leaves; otherwise it has sums of two.
    transposed: bool,
}

impl Tiling {
    /// The config's tiling for such scales and so many elements along k, whose rows the copy engine takes or does not.
    fn of_product(config: &Config, scaling: Scaling, k: u64) -> Result<Self, Rejection> {
        let mut tiling = Self::new(config, scaling)?;
        if !tiling.realigned.any() {
            tiling.k_vector_bytes = row_vector_bytes(k, Element::Fp8.size_bytes());
        }
        Ok(tiling)
    }

    /// The config's tiling for such scales and rows that the copy engine takes, if a kernel with it can be compiled and run.
    fn new(config: &Config, scaling: Scaling) -> Result<Self, Rejection> {
        let [m, n, k] = knobs::block_sizes(config)?.map(u64::from);
        let warps = knobs::num_warps(config)?;
        let stages = knobs::needed("num_stages", config.num_stages)?.into();
        let can_be_straight = n == STRAIGHT_COLUMNS && warps == 8 && matches!(m, 128 | 256);
        require!(
            m <= MOST_ROWS && m.is_multiple_of(if m <= 64 { 8 } else { 16 }) || can_be_straight,
            "block of {m} along m: it must be a multiple of 8 up to 64 or of 16 up to {MOST_ROWS}, or 256 with {STRAIGHT_COLUMNS} \
             along n and 8 warps"
        );
        require!(k.is_multiple_of(PROMOTED), "block of {k} along k: it must be a multiple of {PROMOTED}");
        require!((4..=16).contains(&warps), "num_warps {warps}: 4, 8 or 16 multiply, in groups of 4");
        let groups = u64::from(warps / 4);
        require!((2..=32).contains(&stages), "num_stages {stages}: the load pipeline needs 2 to 32");
        require!(
            n <= MOST_COLUMNS && n.is_multiple_of(groups) && [64, 128, 256].contains(&(n / groups)),
            "block of {n} along n: each of {groups} groups of warps has 64, 128 or 256, all of them {MOST_COLUMNS} at most"
        );
        let transposed = !(can_be_straight && (m > MOST_ROWS || scaling == Scaling::Block));
        let realigned = Realigned::of(config)?;
        require!(
            realigned.a == realigned.b,
            "{}: rows of A and of B are equally long, so both are copied: ab",
            realigned::KNOB
        );
        let tiling = Self { m, n, k, groups, stages, realigned, k_vector_bytes: WORD_BYTES, transposed };
        let (registers, limit) = (tiling.registers_used(), tiling.most_registers());
        require!(registers <= limit, "{registers} registers a thread for sums and addresses exceed {limit}");
        Ok(tiling)
    }

    /// Tiles of 64 of wgmma's rows in a group.
    fn tiles(&self) -> u64 {
        (if self.transposed { self.n } else { self.m }) / (WGMMA_ROWS * self.groups)
    }

    /// Sums a thread holds of one of these.
    fn sums(&self) -> u64 {
        (if self.transposed { self.m } else { self.n }) / 2
    }

    fn most_registers(&self) -> u64 {
        if self.groups == 4 { 96 } else { 232 }
    }

    /// Registers that a thread needs: its sums in f32, and those of the tiles that are multiplied at once.
    fn registers_used(&self) -> u64 {
        let all_at_once = 2 * self.tiles() * self.sums() + SPARE_REGISTERS;
        if all_at_once <= self.most_registers() {
            all_at_once
        } else {
            (self.tiles() + 1) * self.sums() + SPARE_REGISTERS
        }
    }

    /// Whether three idle warps come with the loading one, to hand their registers over.
    fn hands_over(&self) -> bool {
        self.groups == 2 && self.registers_used() > MOST_REGISTERS_WITHOUT
    }

    /// Threads of a program: those that multiply and those that load.
    fn threads(&self) -> u32 {
        let loading = loading_warps(self.k_vector_bytes == WORD_BYTES, self.hands_over(), self.stages);
        WARP * (4 * self.groups as u32 + loading)
    }

    /// Rows of C that leave through shared memory at once.
    fn staging_rows(&self) -> u64 {
        if self.transposed { (1 << self.m.trailing_zeros()).min(WGMMA_ROWS / self.tiles()) } else { WGMMA_ROWS }
    }

    /// Panels of 64 columns that these have.
    fn staged_panels(&self) -> u64 {
        if self.transposed { self.tiles() } else { 1 }
    }

    /// Bytes of A and B in one stage.
    fn stage_bytes(&self) -> u64 {
        [self.m, self.n].map(|rows| self.k / PROMOTED * panel_bytes(rows, PROMOTED, self.k_vector_bytes)).iter().sum()
    }

    /// Bytes of the barriers, and of the scales of blocks.
    fn barrier_bytes(&self, scaling: Scaling) -> u64 {
        let of_columns = self.n.div_ceil(PROMOTED).next_multiple_of(4);
        let scales = if scaling == Scaling::Block { self.k / PROMOTED * (self.m + of_columns) * 4 } else { 0 };
        (self.stages * (16 + scales) + 16).next_multiple_of(BARRIER_UNIT)
    }

    /// Shared memory of one program: the stages, then two buffers of C or the partial sums of a share of C.
    fn smem(&self, scaling: Scaling, split_k: u64) -> Bytes {
        let staging = 2 * self.groups * self.staged_panels() * self.staging_rows() * PANEL_BYTES;
        let partials = if split_k > 1 { self.m * self.n * Element::F32.size_bytes() } else { 0 };
        Bytes(self.stages * self.stage_bytes() + self.barrier_bytes(scaling) + staging.max(partials))
    }

    /// What the copy engine takes of A, of B and of C: tensor maps where rows are aligned for it, else plain pointers.
    fn operands(&self, [m, n, k]: [u64; 3]) -> [Arg; 3] {
        let tiled = |of, element: Element, shape, rows: u64| {
            let tile = [rows as u32, (PANEL_BYTES / element.size_bytes()) as u32];
            realigned::tiles(of, element, shape, tile, Swizzle::Bytes128)
        };
        let [a_source, b_source] = self.realigned.sources(matrices([m, n, k]));
        let [a, b] = if self.k_vector_bytes == WORD_BYTES {
            [tiled(a_source, Element::Fp8, [m, k], self.m), tiled(b_source, Element::Fp8, [n, k], self.n)]
        } else {
            [Arg::Input(0), Arg::Input(1)]
        };
        let aligned = vector_bytes(c_row_bytes(n)) == 16;
        let c =
            if aligned { tiled(Mapped::Output, Element::Bf16, [m, n], self.staging_rows()) } else { Arg::Output(0) };
        [a, b, c]
    }
}

/// A and B as they lie in memory.
fn matrices([m, n, k]: [u64; 3]) -> [Matrix; 2] {
    [m, n].map(|rows| Matrix { rows, row_bytes: k })
}

fn c_row_bytes(n: u64) -> u64 {
    n * Element::Bf16.size_bytes()
}

impl FamilySpec for Fp8 {
    fn tensors(&self, problem: &Problem) -> Tensors {
        let (extents, scaling) = parts_of(problem);
        let [m, n, k] = extents;
        let [of_a, of_b] = scaling.shapes(extents);
        // Numbers fill the range of their format, and scales take them back to around one.
        let numbers =
            |name, shape: [u64; 2]| TensorSpec::new(name, Element::Fp8, &shape, Fill::Uniform { magnitude: 448.0 });
        let scales =
            |name, shape: &[u64]| TensorSpec::new(name, Element::F32, shape, Fill::Wide { least: -10, most: -7 });
        Tensors {
            inputs: vec![
                numbers("A", [m, k]),
                numbers("B", [n, k]),
                scales("a_scales", &of_a),
                scales("b_scales", &of_b),
            ],
            outputs: vec![TensorSpec::new("C", Element::Bf16, &[m, n], Fill::Nothing)],
        }
    }

    fn flops(&self, problem: &Problem) -> f64 {
        let ([m, n, k], _) = parts_of(problem);
        2.0 * m as f64 * n as f64 * k as f64
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &super::LAUNCH_KNOBS
    }

    fn own_knobs(&self) -> &'static [&'static str] {
        &[realigned::KNOB]
    }

    fn description(&self) -> Description {
        crate::families::description::gemm_fp8(false)
    }

    fn description_of_variants(&self) -> Option<Description> {
        Some(crate::families::description::gemm_fp8(true))
    }

    fn awkward(&self, problem: &Problem, inputs: &[TensorSpec]) -> Option<Vec<TensorSpec>> {
        // Scales are of any size, some of them zero. Where a block of k has its own, few rows leave nothing of most blocks beside those
        // of the largest scales, and a number that is lost there is not seen: so they are alike.
        let ([m, ..], scaling) = parts_of(problem);
        let scales = if scaling == Scaling::Block && m < MANY_ROWS {
            Fill::Wide { least: -1, most: 1 }
        } else {
            Fill::Scales { least: -40, most: 40 }
        };
        // Zeros, numbers too small to be normal, and the largest: 2^9 is rounded down to 448.
        let fills = [Fill::Landmarks { least: -11, most: 4 }, Fill::Wide { least: -11, most: 9 }, scales, scales];
        Some(inputs.iter().zip(fills).map(|(input, fill)| TensorSpec { fill, ..input.clone() }).collect())
    }

    fn family(&self) -> Family {
        Family::MatmulFp8
    }

    fn check(&self, config: &Config, profile: &GpuProfile) -> Result<(), Rejection> {
        super::check_knobs(config)?;
        let mma = config.mma.filter(|mma| matches!(mma, Mma::Wgmma | Mma::Tcgen05));
        let mma = mma.ok_or_else(|| Rejection("a product of 8-bit floats needs mma: wgmma or tcgen05".into()))?;
        require!(profile.mma.contains(&mma), "{} has no {mma}", profile.name);
        super::check_order_knobs(config)?;
        if mma == Mma::Tcgen05 {
            knobs::any_order(config)?;
            return tcgen05::check(config, Weights::E4m3, profile);
        }
        knobs::order(config)?;
        let tiling = Tiling::new(config, Scaling::Block)?;
        tiling.realigned.check(config)?;
        super::check_cluster(config)?;
        // What fits with the scales of blocks fits without.
        knobs::fits_smem(tiling.smem(Scaling::Block, split_k(config)), profile)
    }

    fn conditions(&self, config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        static OF_WGMMA: LazyLock<Vec<Condition>> = LazyLock::new(|| {
            let copies = realigned::conditions(Family::MatmulFp8, [("m", "k"), ("n", "k")]);
            let (count, width) = (format!("block_sizes[2] / {PROMOTED}"), PROMOTED.to_string());
            let panels = |operand, rows| Panels { operand, row_bytes: "k", count: &count, rows, width: &width };
            // A scale for each row of A, and those of the columns, of which a multiple of four has room.
            let scales = format!("16 + block_sizes[2] / {PROMOTED} * (block_sizes[0] + 4) * 4");
            let staging = format!("{} * num_warps", WGMMA_ROWS / 4 * 2 * PANEL_BYTES);
            let rest = format!("{} + 16 + {BARRIER_UNIT}", beside_stages(&staging));
            let operands = [panels("a", "block_sizes[0]"), panels("b", "block_sizes[1]")];
            let stages = unaligned::conditions(Family::MatmulFp8, &operands, &scales, &rest);
            let all = legality::conditions(Family::MatmulFp8, [EXTENTS, TILES, CLUSTERS]);
            all.into_iter().chain(copies).chain(stages).collect()
        });
        if config.mma == Some(Mma::Tcgen05) { tcgen05::conditions(Weights::E4m3) } else { &OF_WGMMA }
    }

    fn axes(&self) -> &'static [Axis] {
        static AXES: LazyLock<[Axis; 3]> = LazyLock::new(|| super::axes("block_sizes[2]"));
        AXES.as_slice()
    }

    fn footprint(&self, config: &Config, problem: &Problem, _profile: &GpuProfile) -> Result<Footprint, Rejection> {
        if config.mma == Some(Mma::Tcgen05) {
            return tcgen05::footprint(config, Weights::E4m3);
        }
        let ([_, _, k], scaling) = parts_of(problem);
        let tiling = Tiling::of_product(config, scaling, k)?;
        // A program that the kernel's bounds let run alone is compiled with registers that leave no room for a second.
        let alone = 512 / ((tiling.groups + 1) * tiling.registers_used()) <= 1;
        let loader_registers = if tiling.k_vector_bytes == WORD_BYTES { 0 } else { LOADER_REGISTERS };
        let registers = if alone { tiling.most_registers() } else { tiling.registers_used().max(loader_registers) };
        Ok(Footprint {
            threads: tiling.threads(),
            registers: registers.next_multiple_of(8) as u32,
            smem: tiling.smem(scaling, split_k(config)),
            stage_bytes: Bytes(tiling.stage_bytes()),
        })
    }

    fn build(
        &self,
        config: &Config,
        problem: &Problem,
        profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        let (extents, scaling) = parts_of(problem);
        let [m, n, k] = extents;
        let scale_step = u64::from(scaling == Scaling::RowColumn);
        if config.mma == Some(Mma::Tcgen05) {
            let numbers = [m, n, k.div_ceil(PROMOTED), scale_step].map(|number| Arg::I32(number as i32));
            let arguments = [Arg::Input(2), Arg::Input(3)].into_iter().chain(numbers).collect();
            let scales = tcgen05::Scales { of_blocks: scaling == Scaling::Block, arguments };
            let product = Product { weights: Weights::E4m3, dtype: Element::Bf16, groups: None, m, n, k };
            return tcgen05::build(config, &product, Some(scales), profile);
        }
        let tiling = Tiling::of_product(config, scaling, k)?;
        let realigned = tiling.realigned.any();
        let [tiles_m, tiles_n] = [m.div_ceil(tiling.m), n.div_ceil(tiling.n)];
        let k_steps = k.div_ceil(tiling.k);
        let (split_k, group_m) = (split_k(config), group_m(config, tiles_m));
        let ProgramOrder { programs, stride, span } = program_order(config, tiles_m * tiles_n, profile.multiprocessors);
        let programs = tiling.realigned.programs(programs, split_k, profile);
        let macros = [
            ("BLOCK_SCALES", u8::from(scaling == Scaling::Block).to_string()),
            ("TRANSPOSED", u8::from(tiling.transposed).to_string()),
            ("BLOCK_M", tiling.m.to_string()),
            ("BLOCK_N", tiling.n.to_string()),
            ("BLOCK_K", tiling.k.to_string()),
            ("NUM_WARPS", (4 * tiling.groups).to_string()),
            ("NUM_STAGES", tiling.stages.to_string()),
            ("K_VECTOR_BYTES", tiling.k_vector_bytes.to_string()),
            ("C_VECTOR_BYTES", vector_bytes(c_row_bytes(n)).to_string()),
            ("REALIGNED", u8::from(realigned).to_string()),
        ];
        let numbers = [m, n, k, tiles_m, tiles_n, k_steps, group_m, split_k, stride, span, scale_step];
        let args = tiling.operands(extents).into_iter().chain([Arg::Input(2), Arg::Input(3), Arg::Output(0)]);
        let copies =
            realigned.then_some([Arg::Input(0), Arg::Input(1), Arg::Workspace, Arg::Counters]).into_iter().flatten();
        let launch = Launch {
            grid: [(programs * split_k) as u32, 1, 1],
            cluster: [split_k as u32, 1, 1],
            threads: [tiling.threads(), 1, 1],
            dynamic_smem: tiling.smem(scaling, split_k),
            args: args.chain(numbers.map(|number| Arg::I32(number as i32))).chain(copies).collect(),
            workspace: tiling.realigned.scratch(matrices(extents)),
            counters: if realigned { 2 } else { 0 },
            cooperative: realigned,
        };
        Ok((KernelSpec::shipped("gemm_fp8.cu", "gemm_fp8", macros), launch))
    }

    fn check_host(&self, config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        super::check_host(config)
    }

    fn reference(&self, problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
        let ([m, n, k], scaling) = parts_of(problem);
        let macros = [("SCALING", scaling.name().to_string())];
        let kernel = KernelSpec::shipped("gemm_fp8_reference.cu", "gemm_fp8_reference", macros);
        let args = (0..4).map(Arg::Input).chain(super::reference_results([m, n, k], allowed(k)));
        Ok(Some((kernel, super::reference_launch([m, n], args.collect()))))
    }

    fn host_reference(&self, problem: &Problem, inputs: &[HostTensor]) -> Reference {
        let (extents, scaling) = parts_of(problem);
        let [m, n, k] = extents.map(|extent| extent as usize);
        let [HostTensor::Fp8(a), HostTensor::Fp8(b), HostTensor::F32(a_scales), HostTensor::F32(b_scales)] = inputs
        else {
            unreachable!("a product of 8-bit floats has two inputs of them, and their scales")
        };
        let decoded = |codes: &[u8]| codes.iter().map(|code| f64::from(decode_e4m3(*code))).collect::<Vec<_>>();
        let (a, b) = (decoded(a), decoded(b));
        let (share, block, blocks) = (allowed(extents[2]), PROMOTED as usize, k.div_ceil(PROMOTED as usize));
        // Of the 128 of k that have a scale together, the norm of a row of A and the largest of a column of B.
        let norm = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let largest = |row: &[f64]| row.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let largest_of_b: Vec<f64> = b.chunks(k).flat_map(|row| row.chunks(block).map(largest)).collect();
        let of_row = |row: usize| {
            let a = &a[row * k..][..k];
            let norms: Vec<f64> = a.chunks(block).map(norm).collect();
            let (b, largest_of_b) = (&b, &largest_of_b);
            (0..n).map(move |column| {
                let (mut sum, mut squares) = (0.0, 0.0);
                for (place, (a, b)) in a.chunks(block).zip(b[column * k..][..k].chunks(block)).enumerate() {
                    let scale = f64::from(a_scales[scaling.of_row(row, place, m)])
                        * f64::from(b_scales[scaling.of_column(column, place, blocks)]);
                    sum += scale * a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                    squares += (scale * norms[place] * largest_of_b[column * blocks + place]).powi(2);
                }
                (sum, share * squares.sqrt())
            })
        };
        (0..m).into_par_iter().flat_map_iter(of_row).collect::<Vec<_>>().into_iter().collect()
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::{MATMUL_FP8, Realigned, Scaling, Tiling};
    use crate::families::{
        Arg, Code, Element, FamilySpec, HostTensor, KernelSpec, Launch, Mapped, Swizzle, TensorMap, TensorSpec, fill,
        spec,
    };
    use crate::model::{Bytes, Config, Dtype, Family, GpuProfile, KnobValue, Mma, PidType, Problem};
    use proptest::prelude::*;

    fn problem(shape: &str) -> Problem {
        Problem::parse(Family::MatmulFp8, shape, Dtype::Fp8).unwrap()
    }

    fn h200() -> GpuProfile {
        GpuProfile::by_name("h200").unwrap()
    }

    fn config() -> Config {
        Config {
            block_sizes: vec![24, 128, 128],
            num_warps: Some(4),
            num_stages: Some(3),
            pid_type: Some(PidType::Flat),
            l2_groupings: vec![1],
            split_k: Some(1),
            mma: Some(Mma::Wgmma),
            ..Config::default()
        }
    }

    fn large() -> Config {
        Config { block_sizes: vec![128, 256, 128], num_warps: Some(8), num_stages: Some(4), ..config() }
    }

    fn program(config: &Config, shape: &str) -> (KernelSpec, Launch) {
        spec(Family::MatmulFp8).program(config, &problem(shape), &h200()).unwrap()
    }

    fn macros<'k>(kernel: &'k KernelSpec, name: &str) -> &'k str {
        &kernel.macros.iter().find(|(own, _)| own == name).unwrap().1
    }

    fn map(argument: &Arg) -> &TensorMap {
        match argument {
            Arg::TensorMap(map) => map,
            other => panic!("{other:?} is no tensor map"),
        }
    }

    #[test]
    fn both_operands_lie_along_k_in_memory_with_the_scales_of_the_problem() {
        let shapes = |shape: &str| -> Vec<Vec<u64>> {
            let tensors = MATMUL_FP8.tensors(&problem(shape));
            tensors.inputs.into_iter().chain(tensors.outputs).map(|tensor| tensor.shape).collect()
        };
        let own = |rest: [&[u64]; 2]| -> Vec<Vec<u64>> {
            [&[6, 300], &[400, 300], rest[0], rest[1], &[6, 400]].map(<[u64]>::to_vec).into()
        };
        assert_eq!(shapes("m=6,n=400,k=300"), own([&[1], &[1]]));
        assert_eq!(shapes("m=6,n=400,k=300,scale_block=1"), own([&[6], &[400]]));
        assert_eq!(shapes("m=6,n=400,k=300,scale_block=128"), own([&[3, 6], &[4, 3]]));
    }

    #[test]
    fn what_shares_a_scale_is_1_or_128_or_left_out() {
        for (shape, wanted) in [
            ("m=6,n=4,k=3", r#"{"m":6,"n":4,"k":3}"#),
            ("m=6,n=4,k=3,scale_block=1", r#"{"m":6,"n":4,"k":3,"scale_block":1}"#),
            ("scale_block=128,m=6,n=4,k=3", r#"{"m":6,"n":4,"k":3,"scale_block":128}"#),
        ] {
            let problem = problem(shape);
            let json = serde_json::to_string(&problem.shape).unwrap();
            assert_eq!(json, wanted);
            let read: crate::model::Shape = serde_json::from_str(&json).unwrap();
            assert_eq!(read.in_order_of(Family::MatmulFp8), problem.shape);
        }
        let refused = Problem::parse(Family::MatmulFp8, "m=6,n=4,k=3,scale_block=64", Dtype::Fp8).unwrap_err();
        assert!(refused.to_string().contains("scale_block = 64"), "{refused}");
        let refused = Problem::parse(Family::Matmul, "m=6,n=4,k=3,scale_block=128", Dtype::Bf16).unwrap_err();
        assert!(refused.to_string().contains("no dimension 'scale_block'"), "{refused}");
    }

    #[test]
    fn tiles_are_copied_in_panels_of_128_bytes_or_by_threads() {
        let (kernel, launch) = program(&large(), "m=4096,n=4096,k=4096");
        let [a, b, c] = [0, 1, 2].map(|place| map(&launch.args[place]));
        assert_eq!((a.tile.as_slice(), a.swizzle, a.element), (&[128, 128][..], Swizzle::Bytes128, Element::Fp8));
        assert_eq!((b.tile.as_slice(), b.extents.as_slice()), (&[128, 256][..], &[4096, 4096][..]));
        assert_eq!((c.tile.as_slice(), c.of, c.element), (&[64, 32][..], Mapped::Output, Element::Bf16));
        assert_eq!(launch.args[3..6], [Arg::Input(2), Arg::Input(3), Arg::Output(0)]);
        assert_eq!((launch.threads[0], macros(&kernel, "K_VECTOR_BYTES")), (256 + 128, "16"));
        for (shape, vectors, threads) in [
            ("m=5,n=77,k=66", ["1", "2"], 128 + 96),
            ("m=5,n=78,k=68", ["4", "4"], 128 + 96),
            ("m=5,n=80,k=33", ["1", "16"], 128 + 96),
            ("m=5,n=80,k=16", ["16", "16"], 128 + 32),
        ] {
            let (kernel, launch) = program(&config(), shape);
            assert_eq!(["K_VECTOR_BYTES", "C_VECTOR_BYTES"].map(|name| macros(&kernel, name)), vectors, "{shape}");
            assert_eq!(launch.threads[0], threads, "{shape}");
            assert_eq!(launch.args[0] == Arg::Input(0), vectors[0] != "16", "{shape}");
        }
    }

    #[test]
    fn rows_that_lie_anywhere_are_copied_to_where_the_engine_takes_them() {
        let ab = [("realigned".to_string(), KnobValue::Word("ab".to_string()))];
        let realigned = |config: Config| Config { own: ab.clone().into(), ..config };
        let shared = realigned(Config { split_k: Some(4), ..config() });
        let (kernel, launch) = program(&shared, "m=20,n=301,k=4001");
        assert_eq!(["REALIGNED", "K_VECTOR_BYTES"].map(|name| macros(&kernel, name)), ["1", "16"]);
        let [a, b] = [0, 1].map(|place| map(&launch.args[place]));
        assert_eq!([a.of, b.of], [Mapped::Workspace(0), Mapped::Workspace(20 * 4096)]);
        assert_eq!([&a.strides_bytes[..], &b.strides_bytes[..]], [&[4096], &[4096]]);
        assert_eq!([&a.extents[..], &b.extents[..]], [&[4001, 20], &[4001, 301]]);
        assert_eq!((launch.workspace, launch.counters, launch.cooperative), (Bytes(321 * 4096), 2, true));
        assert_eq!((launch.grid[0], launch.cluster[0], launch.threads[0]), (3 * 4, 4, 128 + 32));
        let last = [Arg::Input(0), Arg::Input(1), Arg::Workspace, Arg::Counters];
        assert_eq!(launch.args[launch.args.len() - 4..], last);
        // Every multiprocessor copies, though there is one tile.
        let interleaved = Config {
            pid_type: Some(PidType::PersistentInterleaved),
            num_sm_multiplier: Some(1),
            ..realigned(config())
        };
        assert_eq!(program(&interleaved, "m=20,n=100,k=4001").1.grid[0], h200().multiprocessors);
        let plain = program(&config(), "m=20,n=301,k=4001");
        assert_eq!((macros(&plain.0, "REALIGNED"), plain.1.args.len()), ("0", launch.args.len() - 4));
        assert_eq!((plain.1.workspace, plain.1.cooperative), (Bytes(0), false));
        let refusal = |config: &Config, shape: &str| {
            spec(Family::MatmulFp8).program(config, &problem(shape), &h200()).unwrap_err().0
        };
        for (config, shape, reason) in [
            (realigned(config()), "m=20,n=301,k=4001", "all programs wait for each other"),
            (shared.clone(), "m=20,n=301,k=4096", "rows of A begin at multiples of 128 bytes as they are"),
            (shared.clone(), "m=20,n=3201,k=4001", "clusters must all run at once"),
            (
                Config { own: [("realigned".to_string(), KnobValue::Word("a".to_string()))].into(), ..shared },
                "m=20,n=301,k=4001",
                "both are copied",
            ),
        ] {
            let refused = refusal(&config, shape);
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn scales_of_blocks_have_room_beside_the_barriers() {
        let launch = |scaling: &str| program(&config(), &format!("m=20,n=300,k=4096{scaling}")).1;
        let stages = 3 * (24 + 128) * 128 + 2 * 8 * 2 * 128;
        assert_eq!(launch("").dynamic_smem, Bytes(stages + 1024));
        assert_eq!(launch(",scale_block=128").dynamic_smem, Bytes(stages + 1024));
        let tiling = Tiling {
            m: 192,
            n: 128,
            k: 128,
            groups: 2,
            stages: 4,
            realigned: Realigned::default(),
            k_vector_bytes: 16,
            transposed: true,
        };
        assert_eq!(tiling.barrier_bytes(Scaling::Block), 4096, "4 (16 + 4 (192 + 4)) + 16 bytes");
        let names =
            |scaling: &str| macros(&program(&config(), &format!("m=2,n=3,k=4{scaling}")).0, "BLOCK_SCALES").to_owned();
        assert_eq!(["", ",scale_block=1", ",scale_block=128"].map(names), ["0", "0", "1"]);
        let step = |scaling: &str| launch(scaling).args.last().cloned();
        assert_eq!((step(""), step(",scale_block=1")), (Some(Arg::I32(0)), Some(Arg::I32(1))), "it costs no compile");
    }

    #[test]
    fn rows_that_have_scales_of_blocks_are_those_of_wgmma_where_tiles_are_large() {
        let built = |m: u32, n: u32, num_warps, scaling: &str| {
            let config = Config { block_sizes: vec![m, n, 128], num_warps: Some(num_warps), ..config() };
            let (kernel, launch) = program(&config, &format!("m=520,n=304,k=4096{scaling}"));
            (macros(&kernel, "TRANSPOSED").to_owned(), map(&launch.args[2]).tile[0], launch.dynamic_smem)
        };
        let staged = |m: u64, n: u64, barriers| Bytes(3 * (m + n) * 128 + barriers + 2 * 2 * 64 * 128);
        assert_eq!(built(128, 128, 8, ",scale_block=128"), ("0".into(), 64, staged(128, 128, 2048)));
        assert_eq!(built(128, 128, 8, ",scale_block=1"), ("1".into(), 64, staged(128, 128, 1024)));
        for scaling in ["", ",scale_block=1", ",scale_block=128"] {
            let barriers = if scaling.ends_with("128") { 4096 } else { 1024 };
            assert_eq!(built(256, 128, 8, scaling), ("0".into(), 64, staged(256, 128, barriers)), "{scaling}");
        }
        for (m, n, num_warps) in [(128, 256, 8), (112, 128, 8), (64, 128, 4), (192, 128, 8)] {
            assert_eq!(built(m, n, num_warps, ",scale_block=128").0, "1", "{m} {n} {num_warps}");
        }
    }

    #[test]
    fn the_programs_that_share_a_tile_are_one_cluster() {
        let launch = program(&Config { split_k: Some(4), ..config() }, "m=20,n=300,k=4096").1;
        assert_eq!((launch.grid, launch.cluster), ([4 * 3, 1, 1], [4, 1, 1]));
        assert_eq!(launch.dynamic_smem, Bytes(3 * (24 + 128) * 128 + 1024 + 24 * 128 * 4));
    }

    #[test]
    fn blackwell_scales_what_it_stores() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        let program = |block_sizes: [u32; 3], scaling: &str| {
            let config =
                Config { block_sizes: block_sizes.to_vec(), mma: Some(Mma::Tcgen05), num_warps: None, ..config() };
            let problem = problem(&format!("m=300,n=520,k=1040{scaling}"));
            spec(Family::MatmulFp8).program(&config, &problem, &b200)
        };
        let (kernel, launch) = program([256, 256, 128], ",scale_block=128").unwrap();
        assert_eq!(kernel.code, Code::Shipped("gemm_tcgen05.cu".into()));
        let [a, b, c] = [0, 1, 2].map(|place| map(&launch.args[place]));
        assert_eq!((a.tile.as_slice(), a.swizzle, a.element), (&[128, 128][..], Swizzle::Bytes128, Element::Fp8));
        assert_eq!((b.tile.as_slice(), b.extents.as_slice()), (&[128, 128][..], &[1040, 520][..]));
        assert_eq!((c.tile.as_slice(), c.of, c.element), (&[64, 32][..], Mapped::Output, Element::Bf16));
        // Two groups of four warps store, so that each thread has 128 columns.
        assert_eq!((launch.threads[0], launch.cluster[0]), (384, 2));
        let numbers = [300, 520, 9, 0].map(Arg::I32);
        assert_eq!(launch.args[launch.args.len() - 6..], [&[Arg::Input(2), Arg::Input(3)], &numbers[..]].concat());
        assert_eq!(macros(&kernel, "BLOCK_SCALES"), "1");
        // Scales of few rows are shared by a warp, 16 bytes a row for all four of them.
        let of_rows = |scaling| program([48, 128, 128], scaling).unwrap().1;
        let [blocks, rows] = [",scale_block=128", ",scale_block=1"].map(of_rows);
        assert_eq!(blocks.dynamic_smem.0 - rows.dynamic_smem.0, 48 * 16);
        assert_eq!((rows.threads[0], rows.args.last()), (192, Some(&Arg::I32(1))));
        for (shape, reason) in [("m=1,n=64,k=1032", "rows of A and B"), ("m=1,n=68,k=1024", "rows of C")] {
            let config = Config { mma: Some(Mma::Tcgen05), num_warps: None, ..config() };
            let config = Config { block_sizes: vec![16, 128, 128], ..config };
            let refused = spec(Family::MatmulFp8).launch(&config, &problem(shape), &b200).unwrap_err().0;
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let blocks = |sizes: [u32; 3]| Config { block_sizes: sizes.to_vec(), ..config() };
        let persistent = Some(PidType::PersistentBlocked);
        let cases = [
            (blocks([72, 128, 128]), "72 along m"),
            (blocks([208, 64, 128]), "208 along m"),
            (blocks([16, 96, 128]), "96 along n"),
            (blocks([16, 128, 64]), "64 along k"),
            (blocks([144, 128, 128]), "256 registers"),
            (Config { num_warps: Some(8), block_sizes: vec![16, 512, 128], ..config() }, "512 along n"),
            (Config { num_warps: Some(2), ..config() }, "num_warps 2"),
            (Config { num_stages: Some(1), ..config() }, "num_stages 1"),
            (Config { num_stages: Some(16), ..config() }, "of shared memory"),
            (Config { split_k: Some(3), ..config() }, "split_k 3"),
            (Config { split_k: None, ..config() }, "split_k is missing"),
            (Config { mma: Some(Mma::MmaSync), ..config() }, "needs mma: wgmma"),
            (
                Config { split_k: Some(2), pid_type: persistent, num_sm_multiplier: Some(1), ..config() },
                "have one tile each",
            ),
        ];
        let (problem, fp8) = (problem("m=512,n=512,k=512"), spec(Family::MatmulFp8));
        for (config, reason) in cases {
            let rejection = fp8.launch(&config, &problem, &h200()).unwrap_err();
            assert!(rejection.0.contains(reason), "{config}: '{rejection}' does not say '{reason}'");
        }
        for gpu in ["a100", "b200"] {
            let other = GpuProfile::by_name(gpu).unwrap();
            let refused = fp8.launch(&config(), &problem, &other).unwrap_err().0;
            assert!(refused.contains(&format!("{gpu} has no wgmma")) && !refused.contains('\n'), "{refused}");
        }
        let of_blackwell = |block_sizes: [u32; 3]| Config {
            block_sizes: block_sizes.to_vec(),
            mma: Some(Mma::Tcgen05),
            num_warps: None,
            ..config()
        };
        let b200 = GpuProfile::by_name("b200").unwrap();
        for (config, reason) in [
            (of_blackwell([16, 128, 64]), "64 along k: it must be 128 or 256"),
            (of_blackwell([128, 96, 128]), "96 along n: that of 8-bit floats"),
            (of_blackwell([512, 256, 128]), "512 along m: that of 8-bit floats"),
            (of_blackwell([48, 64, 128]), "64 along n: beside 48 along m"),
            (Config { num_warps: Some(8), ..of_blackwell([16, 128, 128]) }, "num_warps 8 has no effect"),
            (Config { num_stages: Some(6), ..of_blackwell([256, 256, 128]) }, "of shared memory"),
            (Config { mma: Some(Mma::Tcgen05Tmem), ..of_blackwell([16, 128, 128]) }, "needs mma: wgmma or tcgen05"),
        ] {
            let rejection = fp8.launch(&config, &problem, &b200).unwrap_err();
            assert!(rejection.0.contains(reason), "{config}: '{rejection}' does not say '{reason}'");
        }
        let legal = of_blackwell([256, 256, 128]);
        assert!(fp8.launch(&legal, &problem, &b200).is_ok());
        assert!(fp8.launch(&legal, &problem, &h200()).unwrap_err().0.contains("h200 has no tcgen05"));
        assert!(fp8.launch(&config(), &problem, &h200()).is_ok() && fp8.launch(&large(), &problem, &h200()).is_ok());
    }

    /// What a tensor core of Hopper makes of 32 products and the sum so far: each is cut off 13 bits below the leading one of the
    /// largest, towards zero, and so is their sum.
    fn narrow_step(sum: f64, terms: &[f64]) -> f64 {
        let largest = terms.iter().fold(sum.abs(), |largest, term| largest.max(term.abs()));
        if largest == 0.0 {
            return 0.0;
        }
        let unit = |largest: f64| 2f64.powi(largest.log2().floor() as i32 - 13);
        let cut = |value: f64, unit: f64| (value / unit).trunc() * unit;
        let total = terms.iter().chain([&sum]).map(|value| cut(*value, unit(largest))).sum::<f64>();
        if total == 0.0 { 0.0 } else { cut(total, unit(total.abs())) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Sums of 128 in that precision, added up in f32, stay well within what is allowed; without these additions they do not.
        #[test]
        fn the_bound_explains_narrow_sums_that_are_promoted(
            shape in [1..6u64, 1..40u64, 1..6000u64], scale_block in prop::sample::select(vec!["", ",scale_block=1", ",scale_block=128"]),
            seed in 0u64..1000, is_awkward in any::<bool>(),
        ) {
            let [m, n, k] = shape;
            let problem = problem(&format!("m={m},n={n},k={k}{scale_block}"));
            let scaling = super::parts_of(&problem).1;
            let mut tensors = MATMUL_FP8.tensors(&problem).inputs;
            if is_awkward {
                tensors = MATMUL_FP8.awkward(&problem, &tensors).unwrap();
            }
            let inputs: Vec<HostTensor> = (seed..).zip(&tensors).map(|(seed, tensor)| fill(tensor, seed)).collect();
            let reference = MATMUL_FP8.host_reference(&problem, &inputs);
            let values: Vec<Vec<f64>> = inputs.iter().map(HostTensor::to_f64).collect();
            let [m, n, k] = shape.map(|extent| extent as usize);
            let blocks = k.div_ceil(128);
            for (index, (wanted, allowed)) in reference.values.iter().zip(&reference.allowed).enumerate() {
                let (row, column) = (index / n, index % n);
                let terms: Vec<f64> = (0..k).map(|at| values[0][row * k + at] * values[1][column * k + at]).collect();
                let mut total = 0f32;
                for (block, terms) in terms.chunks(128).enumerate() {
                    let part = terms.chunks(32).fold(0.0, narrow_step);
                    let scale = values[2][scaling.of_row(row, block, m)] * values[3][scaling.of_column(column, block, blocks)];
                    total += (part * scale) as f32;
                }
                let error = (f64::from(total) - wanted).abs();
                prop_assert!(error <= 0.6 * allowed, "{problem} at {row}, {column}: {error} of {allowed}");
            }
        }
    }

    #[test]
    fn awkward_inputs_hold_zeros_subnormals_and_the_largest() {
        let problem = problem("m=16,n=128,k=256,scale_block=128");
        let tensors = MATMUL_FP8.tensors(&problem).inputs;
        let tensors = MATMUL_FP8.awkward(&problem, &tensors).unwrap();
        let HostTensor::Fp8(b) = fill(&tensors[1], 3) else { panic!("B is of E4M3") };
        let met = |codes: std::ops::Range<u8>| b.iter().filter(|code| codes.contains(&(*code & 0x7f))).count();
        assert!(met(0..1) > 10 && met(1..8) > 10 && met(0x7e..0x7f) > 10, "zeros, subnormals and 448");
        assert_eq!(met(0x7f..0x80), 0, "no NaN");
        let scales = fill(&TensorSpec { shape: vec![64, 64], ..tensors[2].clone() }, 3).to_f64();
        assert!(scales.contains(&0.0) && scales.contains(&2f64.powi(40)), "{scales:?}");
    }
}
