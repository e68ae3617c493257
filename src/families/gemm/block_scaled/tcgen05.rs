//! `gemm_block_scaled_tcgen05.cu`: Blackwell's block-scaled products, fed by the copy engine, with sums and scales in tensor memory.

use super::{Format, Product, SCALE_GROUPS, SCALE_ROWS};
use crate::families::gemm::tcgen05::{self, Programs};
use crate::families::gemm::{EXTENTS, PARTIAL_SUMS, TILES, conditions as read};
use crate::families::knobs::{self, WARP};
use crate::families::{
    Arg, Condition, Element, Footprint, KernelSpec, Launch, Mapped, Rejection, Swizzle, TensorMap, require,
};
use crate::model::{Bytes, Config, GpuProfile};
use std::sync::LazyLock;

/// Warps: four that store, one that copies, one that multiplies.
const WARPS: u32 = 6;
/// Rows of the instruction's first operand in one program.
const FIRST_ROWS: u64 = 128;
/// Bytes of a line of an operand.
const LINE_BYTES: u64 = 128;
/// Bytes of a block of scales, and columns of tensor memory that it takes.
const BLOCK_BYTES: u64 = SCALE_ROWS * SCALE_GROUPS;
const BLOCK_COLUMNS: u64 = 4;
/// The widest line of bytes in a tile of scales, of which each block has two.
const SCALE_LINE: u64 = 256;
/// What the swizzle repeats by.
const ALIGNMENT: u64 = 1024;

/// The compile-time half of a config.
struct Tiling {
    format: Format,
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Bytes of a row of one stage.
    k_bytes: u64,
    stages: u64,
    /// Tiles whose sums are in tensor memory at once: two, or one where two have no room.
    sum_tiles: u64,
}

impl Tiling {
    /// The config's tiling, if there is such a kernel.
    fn new(config: &Config, format: Format) -> Result<Self, Rejection> {
        let [m, n, k_bytes] = knobs::block_sizes(config)?.map(u64::from);
        let stages = u64::from(knobs::needed("num_stages", config.num_stages)?);
        require!(matches!(m, 16 | 32 | 64 | 128 | 256), "block of {m} along m: it must be 16, 32, 64, 128 or 256");
        require!(n == 128 || n == 256, "block of {n} along n: it must be 128 or 256");
        require!(m > 16 || n == 128, "block of {m} along m: beside {n} along n it must be from 32");
        require!(
            k_bytes == LINE_BYTES || k_bytes == 2 * LINE_BYTES,
            "block of {k_bytes} bytes along k: it must be 128 or 256"
        );
        require!(stages >= 2, "num_stages {stages}: the load pipeline needs 2");
        let mut tiling = Self { format, m, n, k_bytes, stages, sum_tiles: 2 };
        let share = tcgen05::TMEM_COLUMNS / tiling.resident().next_power_of_two();
        if tiling.tmem_columns() > share {
            tiling.sum_tiles = 1;
        }
        require!(
            tiling.tmem_columns() <= share,
            "{} programs fit a multiprocessor, {} columns of tensor memory for each do not",
            tiling.resident(),
            tiling.tmem_columns()
        );
        Ok(tiling)
    }

    /// Whether columns of C are the instruction's rows.
    const fn is_swapped(&self) -> bool {
        self.m < FIRST_ROWS
    }

    /// Programs that share a tile.
    const fn ctas(&self) -> u64 {
        let rows = if self.is_swapped() { self.n } else { self.m };
        rows / FIRST_ROWS
    }

    /// Columns of the instruction.
    const fn instruction_n(&self) -> u64 {
        if self.is_swapped() { self.m } else { self.n }
    }

    /// Rows of its second operand in one program.
    const fn second_rows(&self) -> u64 {
        self.instruction_n() / self.ctas()
    }

    const fn k(&self) -> u64 {
        self.k_bytes * self.format.per_byte()
    }

    /// Blocks of scales of the second operand along its rows.
    const fn second_blocks(&self) -> u64 {
        self.instruction_n().div_ceil(SCALE_ROWS)
    }

    /// A program's part of one stage.
    const fn stage_bytes(&self) -> Bytes {
        let scales = self.format.scale_blocks(self.k()) * (1 + self.second_blocks()) * BLOCK_BYTES;
        Bytes((FIRST_ROWS + self.second_rows()) * self.k_bytes + scales)
    }

    /// Shared memory of one program: `SMEM_BYTES` of the kernel.
    fn smem(&self) -> Bytes {
        let stages = (self.stages * self.stage_bytes().0).next_multiple_of(ALIGNMENT);
        let line = tcgen05::widest_line(self.instruction_n()).0;
        let boxes = 4 * 2 * u64::from(WARP) * line * Element::Bf16.size_bytes();
        Bytes(stages + boxes + tcgen05::TILES_BYTES + 2 * 8 * self.stages)
    }

    /// Columns of tensor memory that a program takes.
    fn tmem_columns(&self) -> u64 {
        let sums = self.instruction_n().next_multiple_of(tcgen05::LEAST_TMEM_COLUMNS);
        let scales = self.format.scale_blocks(self.k()) * (1 + self.second_blocks()) * BLOCK_COLUMNS;
        (self.sum_tiles * sums + self.stages * scales).next_power_of_two()
    }

    /// Programs that a multiprocessor holds at once: `RESIDENT` of the kernel.
    fn resident(&self) -> u64 {
        tcgen05::resident(self.smem(), WARPS * WARP, tcgen05::REGISTERS).max(1)
    }

    fn macros(&self, product: &Product) -> [(&'static str, String); 7] {
        [
            ("BLOCK_M", self.m.to_string()),
            ("BLOCK_N", self.n.to_string()),
            ("BLOCK_K", self.k().to_string()),
            ("NUM_STAGES", self.stages.to_string()),
            ("SUM_TILES", self.sum_tiles.to_string()),
            ("DTYPE", knobs::c_type(product.dtype)),
            ("FORMAT", self.format.name().to_string()),
        ]
    }

    /// The tiles that the copy engine moves: of A, of B, of their scales and of C.
    fn tensor_maps(&self, product: &Product) -> [TensorMap; 5] {
        let &Product { format, dtype, m, n, k } = product;
        let (first, second) = ((FIRST_ROWS, 1), (self.second_rows(), self.second_blocks()));
        let [of_a, of_b] = if self.is_swapped() { [second, first] } else { [first, second] };
        let numbers = |input, rows, (tile, _): (u64, u64)| {
            let [shape, tile] = [[rows, product.k_bytes()], [tile, LINE_BYTES]];
            let tile = tile.map(|extent| extent as u32);
            TensorMap::of_matrix(Mapped::Input(input), format.element(), shape, tile, Swizzle::Bytes128)
        };
        let along_k = format.scale_blocks(k);
        let scales = |input, rows: u64, (_, blocks): (u64, u64)| TensorMap {
            of: Mapped::Input(input),
            element: Element::U8,
            extents: vec![SCALE_LINE, 2 * along_k, rows.div_ceil(SCALE_ROWS)],
            strides_bytes: vec![SCALE_LINE, BLOCK_BYTES * along_k],
            tile: [SCALE_LINE, 2 * format.scale_blocks(self.k()), blocks].map(|extent| extent as u32).into(),
            swizzle: Swizzle::None,
        };
        let (line, swizzle) = tcgen05::widest_line(self.instruction_n());
        let (tile, swizzle) =
            if self.is_swapped() { ([line as u32, WARP], Swizzle::None) } else { ([WARP, line as u32], swizzle) };
        [
            numbers(0, m, of_a),
            numbers(1, n, of_b),
            scales(2, m, of_a),
            scales(3, n, of_b),
            TensorMap::of_matrix(Mapped::Output, dtype, [m, n], tile, swizzle),
        ]
    }
}

pub(super) fn check(config: &Config, format: Format, profile: &GpuProfile) -> Result<(), Rejection> {
    if let Some(warps) = config.num_warps {
        return Err(Rejection(format!("num_warps {warps} has no effect: numbers that are not decoded need no warps")));
    }
    knobs::any_order(config)?;
    let tiling = Tiling::new(config, format)?;
    tcgen05::check_room(config, tiling.smem(), tiling.resident(), profile)
}

pub(super) fn conditions(format: Format) -> &'static [Condition] {
    fn of(rows: &str, parts: &str) -> Vec<Condition> {
        read([
            EXTENTS,
            (rows, "the copy engine needs rows of A and columns of B of a multiple of 16 bytes"),
            ("n % 8 == 0", "the copy engine needs rows of C of a multiple of 16 bytes"),
            ("block_sizes[0] >= 64 || m <= block_sizes[0]", "fewer rows than 64 begin where no column of scales does"),
            (parts, "each part of k needs a step of its own"),
            TILES,
            PARTIAL_SUMS,
        ])
    }
    static UNPACKED: LazyLock<Vec<Condition>> =
        LazyLock::new(|| of("k % 16 == 0", "split_k <= ceil_div(k, block_sizes[2])"));
    static PACKED: LazyLock<Vec<Condition>> =
        LazyLock::new(|| of("k % 32 == 0", "split_k <= ceil_div(k, block_sizes[2] * 2)"));
    if format.per_byte() == 1 { &UNPACKED } else { &PACKED }
}

pub(super) fn footprint(config: &Config, format: Format) -> Result<Footprint, Rejection> {
    let tiling = Tiling::new(config, format)?;
    Ok(Footprint {
        threads: WARPS * WARP,
        registers: tcgen05::REGISTERS,
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
    let tiling = Tiling::new(config, product.format)?;
    let maps = tiling.tensor_maps(product).map(Arg::TensorMap);
    let programs = Programs {
        tile: [tiling.m, tiling.n, tiling.k()],
        ctas: tiling.ctas(),
        threads: WARPS * WARP,
        smem: tiling.smem(),
    };
    let pointers = maps.into_iter().chain(product.factors());
    let launch = programs.launch(config, [product.m, product.n, product.k], profile, pointers, []);
    let macros = tiling.macros(product);
    Ok((KernelSpec::shipped("gemm_block_scaled_tcgen05.cu", "gemm_block_scaled_tcgen05", macros), launch))
}
