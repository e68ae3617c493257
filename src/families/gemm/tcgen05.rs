//! `gemm_tcgen05.cu`: Blackwell's tensor cores, fed by the copy engine, with sums in tensor memory (TMEM).

use super::wgmma::{most_scale_bytes, scale_bytes};
use super::{EXTENTS, PARTIAL_SUMS, Product, ProgramOrder, TILES, Weights, group_m, program_order, split_k};
use crate::families::knobs::{self, WARP};
use crate::families::{
    Arg, Condition, Element, Footprint, KernelSpec, Launch, Mapped, Rejection, Swizzle, TensorMap, legality, require,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma};
use std::sync::LazyLock;

/// Warps that do not decode: four that store, one that copies, one that multiplies.
const OTHER_WARPS: u32 = 6;
/// Rows of the instruction's first operand in one program, lanes of tensor memory.
const INSTRUCTION_M: u64 = 128;
/// Columns of tensor memory of a multiprocessor.
pub(super) const TMEM_COLUMNS: u64 = 512;
/// The least that can be allocated; the next are twice as much each.
pub(super) const LEAST_TMEM_COLUMNS: u64 = 32;
/// Answers of the hardware and barriers of tiles in shared memory: `TILES_BYTES` of tcgen05_gemm.cuh. Barriers of sums are there as if
/// there were two, so that what has room does not hang on them.
pub(super) const TILES_BYTES: u64 = 168;
/// Elements of bf16 of the swizzled lines that panels are wide, the widest first.
const LINES: [(u64, Swizzle); 3] = [(64, Swizzle::Bytes128), (32, Swizzle::Bytes64), (16, Swizzle::Bytes32)];
/// Bytes of the widest of them.
const PANEL_BYTES: u64 = 128;
/// Shared memory of every multiprocessor with tcgen05 (compute capability 10), of which each program on it costs one KiB more
/// than it has. What fits is part of the kernel, so that a config names one kernel whichever such GPU it is for.
const SMEM_PER_MULTIPROCESSOR: Bytes = Bytes::kib(228);
const RESERVED_SMEM: Bytes = Bytes::kib(1);
/// Registers of such a multiprocessor, and how many the kernels leave a thread where several programs share it.
const REGISTERS_PER_MULTIPROCESSOR: u32 = 65536;
pub(super) const REGISTERS: u32 = 104;

/// Columns of E4M3's sums that a storing thread has at most: it scales them, and may add them up in registers.
const STORED_COLUMNS: u64 = 128;
/// Registers of a thread that stores such columns, beside theirs.
const OTHER_REGISTERS: u32 = 96;
/// Of k, and of columns, that have a scale together, where blocks of E4M3 have scales.
const SCALE_BLOCK: u64 = 128;

/// What E4M3 operands have beside them.
pub(super) struct Scales {
    /// Whether blocks have scales, and not rows and columns or tensors.
    pub of_blocks: bool,
    /// The kernel's last arguments.
    pub arguments: Vec<Arg>,
}

/// The compile-time half of a config.
struct Tiling {
    weights: Weights,
    /// Bytes of one program's scales in a stage: the most that any problem's groups take, until they are known.
    scale_bytes: u64,
    /// Whether blocks of E4M3 have scales: so, until it is known.
    block_scales: bool,
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    stages: u64,
    decode_warps: u32,
    /// Whether decoded weights go to tensor memory, where they are the instruction's first operand.
    is_held: bool,
    /// What there is room for.
    room: Room,
}

/// How much of a multiprocessor's memories a program takes beside its stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// Steps of decoded weights at once: the most, up to one a stage, that leave as many programs a multiprocessor as two would.
    buffers: u64,
    /// Tiles whose sums are in tensor memory at once: two, or one where two have no room.
    sum_tiles: u64,
}

impl Tiling {
    /// The config's tiling, if there is such a kernel.
    fn new(config: &Config, weights: Weights) -> Result<Self, Rejection> {
        let [m, n, depth] = knobs::block_sizes(config)?.map(u64::from);
        let k = depth * weights.per_element();
        let stages = u64::from(knobs::needed("num_stages", config.num_stages)?);
        let is_held = config.mma == Some(Mma::Tcgen05Tmem);
        require!(
            !is_held || !matches!(weights, Weights::Same | Weights::E4m3),
            "mma {}: weights that need no decoding are multiplied from where they are copied to",
            Mma::Tcgen05Tmem
        );
        if is_held {
            require!(n == 128 || n == 256, "block of {n} along n: with {} it must be 128 or 256", Mma::Tcgen05Tmem);
            let unit = n / 8;
            require!(
                m.is_multiple_of(unit) && (unit..=256).contains(&m),
                "block of {m} along m: beside {n} along n it must be a multiple of {unit} up to 256"
            );
        } else if m < INSTRUCTION_M {
            require!(m.is_multiple_of(16) && m > 0, "block of {m} along m: below 128 it must be a multiple of 16");
            require!(n == 128, "block of {n} along n: beside {m} along m it must be 128");
        } else {
            require!(
                matches!(m, 128 | 256 | 512),
                "block of {m} along m: it must be a multiple of 16 below 128, or 128, 256 or 512"
            );
            let unit = if m == 128 { 16 } else { 32 };
            require!(
                n.is_multiple_of(unit) && (unit..=256).contains(&n),
                "block of {n} along n: beside {m} along m it must be a multiple of {unit} up to 256"
            );
        }
        let line = PANEL_BYTES / weights.activations(Element::Bf16).size_bytes();
        require!(k == line || k == 2 * line, "block of {k} along k: it must be {line} or {}", 2 * line);
        if weights == Weights::E4m3 {
            require!(m <= 256, "block of {m} along m: that of 8-bit floats must be up to 256");
            require!(
                n == 256 || SCALE_BLOCK.is_multiple_of(n),
                "block of {n} along n: that of 8-bit floats must be 32, 64, 128 or 256, as columns share scales"
            );
        }
        require!(stages >= 2, "num_stages {stages}: the load pipeline needs 2");
        let decode_warps = Self::decode_warps(config, weights, is_held)?;
        let room = Room { buffers: 0, sum_tiles: 1 };
        let block_scales = weights == Weights::E4m3;
        let mut tiling = Self { weights, scale_bytes: 0, block_scales, m, n, k, stages, decode_warps, is_held, room };
        tiling.scale_bytes = most_scale_bytes(weights, tiling.b_columns(), k);
        tiling.room = tiling.find_room()?;
        Ok(tiling)
    }

    fn decode_warps(config: &Config, weights: Weights, is_held: bool) -> Result<u32, Rejection> {
        if matches!(weights, Weights::Same | Weights::E4m3) {
            let idle = config.num_warps.map(|warps| {
                Rejection(format!("num_warps {warps} has no effect: these weights need no decoding warps"))
            });
            return idle.map_or(Ok(0), Err);
        }
        let warps = knobs::needed("num_warps", config.num_warps)?;
        // Tensor memory is reached by quarters, so that four warps or eight share a tile of weights.
        let known = if is_held { [10, 14] } else { [8, 16] };
        require!(
            known.contains(&warps),
            "num_warps {warps}: it must be {} or {}, {OTHER_WARPS} do not decode",
            known[0],
            known[1]
        );
        Ok(warps - OTHER_WARPS)
    }

    /// The most that has room.
    fn find_room(&self) -> Result<Room, Rejection> {
        let least = if self.is_decoded() { 2 } else { 0 };
        let resident = self.resident_with(least).max(1);
        let most = if self.is_decoded() { self.stages } else { 0 };
        let share = TMEM_COLUMNS / resident.next_power_of_two();
        let rooms = [2, 1]
            .into_iter()
            .flat_map(|sum_tiles| (least..=most).rev().map(move |buffers| Room { buffers, sum_tiles }));
        let fits = |room: &Room| {
            let as_many = room.buffers == least || self.resident_with(room.buffers) >= resident;
            as_many && self.tmem_columns(*room) <= share
        };
        rooms.into_iter().find(fits).ok_or_else(|| {
            let columns = self.tmem_columns(Room { buffers: least, sum_tiles: 1 });
            Rejection(format!(
                "{resident} programs fit a multiprocessor, {columns} columns of tensor memory for each do not"
            ))
        })
    }

    /// Programs that a multiprocessor holds at once by shared memory and registers: `RESIDENT` of the kernel. Each must find its
    /// tensor memory, where it would wait for another's.
    fn resident_with(&self, buffers: u64) -> u64 {
        resident(self.smem_with(buffers), self.threads(), self.registers())
    }

    fn resident(&self) -> u64 {
        self.resident_with(self.room.buffers).max(1)
    }

    /// Programs that share a tile: a pair has twice the instruction's rows.
    fn ctas(&self) -> u64 {
        let rows = if self.is_held { self.n } else { self.m };
        if rows > INSTRUCTION_M { 2 } else { 1 }
    }

    /// Whether the weights are the instruction's first operand.
    fn is_swapped(&self) -> bool {
        self.is_held || self.m < INSTRUCTION_M
    }

    /// Columns of the instruction.
    fn instruction_n(&self) -> u64 {
        if self.is_swapped() { self.m } else { self.n }
    }

    /// Columns of a program's sums.
    fn sum_columns(&self) -> u64 {
        let instructions = if self.is_swapped() { 1 } else { self.m / (INSTRUCTION_M * self.ctas()) };
        instructions * self.instruction_n()
    }

    /// Groups of four warps that store, each with so many columns.
    fn storers(&self) -> u64 {
        if self.weights == Weights::E4m3 { self.sum_columns().div_ceil(STORED_COLUMNS) } else { 1 }
    }

    fn registers(&self) -> u32 {
        let stored = (self.sum_columns() / self.storers()) as u32;
        if self.weights == Weights::E4m3 { OTHER_REGISTERS + stored } else { REGISTERS }
    }

    /// Columns of tensor memory that a program takes.
    fn tmem_columns(&self, room: Room) -> u64 {
        let sums = self.sum_columns().next_multiple_of(LEAST_TMEM_COLUMNS);
        let weights = if self.is_held { room.buffers * self.k / 2 } else { 0 };
        (room.sum_tiles * sums + weights).next_power_of_two()
    }

    fn is_decoded(&self) -> bool {
        !matches!(self.weights, Weights::Same | Weights::E4m3)
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
        // Two of them are idle beside two groups that store.
        WARP * if self.storers() > 1 { 12 } else { OTHER_WARPS + self.decode_warps }
    }

    /// A program's part of A and of B in one stage, without scales.
    fn stage_bytes(&self) -> Bytes {
        let a = self.a_rows() * self.k * self.weights.activations(Element::Bf16).size_bytes();
        Bytes(a + self.b_rows() * self.b_columns() * self.weights.element_bytes())
    }

    /// Shared memory of one program: `SMEM_BYTES` of the kernel.
    fn smem_with(&self, buffers: u64) -> Bytes {
        let bf16 = Element::Bf16.size_bytes();
        let decoded = if self.is_held { 0 } else { buffers * self.b_columns() * self.k * bf16 };
        let boxes = self.storers() * 4 * 2 * u64::from(WARP) * widest_line(self.instruction_n()).0 * bf16;
        let barriers = if self.is_decoded() { 3 * self.stages + buffers } else { 2 * self.stages };
        // Each storing warp has the rows' own, where these are the instruction's columns.
        let row_scales =
            if self.block_scales && self.is_swapped() { 4 * self.m * Element::F32.size_bytes() } else { 0 };
        let stages = self.stages * (self.stage_bytes().0 + self.scale_bytes);
        Bytes(stages + decoded + boxes + row_scales + TILES_BYTES + 8 * barriers)
    }

    fn smem(&self) -> Bytes {
        self.smem_with(self.room.buffers)
    }

    fn macros(&self, product: &Product) -> Vec<(&'static str, String)> {
        let own = [
            ("BLOCK_M", self.m.to_string()),
            ("BLOCK_N", self.n.to_string()),
            ("BLOCK_K", self.k.to_string()),
            ("NUM_STAGES", self.stages.to_string()),
            ("DECODE_WARPS", self.decode_warps.to_string()),
            ("BUFFERS", self.room.buffers.to_string()),
            ("SUM_TILES", self.room.sum_tiles.to_string()),
            ("TENSOR_WEIGHTS", u8::from(self.is_held).to_string()),
        ];
        product.macros(self.k).into_iter().chain(own).collect()
    }

    /// The tiles that the copy engine moves: of A, of B and of C.
    fn tensor_maps(&self, product: &Product) -> [TensorMap; 3] {
        let map = |of, element, shape: [u64; 2], tile: [u64; 2], swizzle| {
            TensorMap::of_matrix(of, element, shape, tile.map(|extent| extent as u32), swizzle)
        };
        let &Product { weights, dtype, m, n, k, .. } = product;
        let a_type = weights.activations(dtype);
        let a_swizzle = LINES[0].1;
        let a_line = PANEL_BYTES / a_type.size_bytes();
        let (b_shape, b_rows) = if weights == Weights::E4m3 {
            ([n, k], self.b_columns())
        } else {
            ([k / weights.per_element(), n], self.b_rows())
        };
        let (b_line, b_swizzle) = if self.is_held || weights == Weights::E4m3 {
            (PANEL_BYTES / weights.element_bytes(), a_swizzle)
        } else if self.is_decoded() {
            (self.b_columns(), Swizzle::None)
        } else {
            widest_line(self.b_columns())
        };
        let (chunk, chunk_swizzle) = widest_line(self.instruction_n());
        let (c_tile, c_swizzle) = if self.is_swapped() {
            ([chunk, u64::from(WARP)], Swizzle::None)
        } else {
            ([u64::from(WARP), chunk], chunk_swizzle)
        };
        [
            map(Mapped::Input(0), a_type, [m, k], [self.a_rows(), a_line], a_swizzle),
            map(Mapped::Input(1), weights.element(dtype), b_shape, [b_rows, b_line], b_swizzle),
            map(Mapped::Output, dtype, [m, n], c_tile, c_swizzle),
        ]
    }
}

/// Programs of so much shared memory and so many threads, with so many registers each, that a multiprocessor holds at once.
pub(super) fn resident(smem: Bytes, threads: u32, registers: u32) -> u64 {
    let by_smem = SMEM_PER_MULTIPROCESSOR.0 / (smem.0 + RESERVED_SMEM.0);
    by_smem.min(u64::from(REGISTERS_PER_MULTIPROCESSOR / (threads * registers)))
}

/// The widest swizzled line that so many columns, a multiple of 16, are a multiple of.
pub(super) fn widest_line(columns: u64) -> (u64, Swizzle) {
    LINES.into_iter().find(|(line, _)| columns.is_multiple_of(*line)).unwrap_or(LINES[2])
}

pub(super) fn check(config: &Config, weights: Weights, profile: &GpuProfile) -> Result<(), Rejection> {
    let tiling = Tiling::new(config, weights)?;
    check_room(config, tiling.smem(), tiling.resident(), profile)
}

/// Whether a multiprocessor has room for a program with so much shared memory, and for as many as the config asks for.
pub(super) fn check_room(config: &Config, smem: Bytes, resident: u64, profile: &GpuProfile) -> Result<(), Rejection> {
    knobs::fits_smem(smem, profile)?;
    if let Some(multiplier) = config.num_sm_multiplier {
        require!(
            u64::from(multiplier) <= resident,
            "num_sm_multiplier {multiplier}: a multiprocessor holds {resident} of these programs"
        );
    }
    Ok(())
}

/// What programs with such tiles are launched with, whichever way they multiply.
pub(super) struct Programs {
    /// Rows, columns and elements of k of a tile's step.
    pub tile: [u64; 3],
    /// Programs that share a tile.
    pub ctas: u64,
    pub threads: u32,
    pub smem: Bytes,
}

impl Programs {
    /// The launch of a config on an [m, n, k] product. The kernel's arguments are `first`, the parts and arrivals of split tiles, the
    /// work with its order (tiles_m, tiles_n, k_steps, group_m, split_k, stride, span), and `last`.
    pub(super) fn launch(
        &self,
        config: &Config,
        [m, n, k]: [u64; 3],
        profile: &GpuProfile,
        first: impl IntoIterator<Item = Arg>,
        last: impl IntoIterator<Item = Arg>,
    ) -> Launch {
        let &Self { tile, ctas, threads, smem } = self;
        let [tiles_m, tiles_n, k_steps] = [m.div_ceil(tile[0]), n.div_ceil(tile[1]), k.div_ceil(tile[2])];
        let tiles = tiles_m * tiles_n;
        let (split_k, group_m) = (split_k(config), group_m(config, tiles_m));
        let work = tiles * split_k;
        // A pair takes two multiprocessors.
        let ProgramOrder { programs, stride, span } =
            program_order(config, work, profile.multiprocessors / ctas as u32);
        let (workspace, counters) = match split_k {
            1 => (0, 0),
            _ => (work * tile[0] * tile[1] * Element::F32.size_bytes(), tiles * ctas),
        };
        let numbers = [tiles_m, tiles_n, k_steps, group_m, split_k, stride, span];
        let scratch = [Arg::Workspace, Arg::Counters];
        let numbers = numbers.map(|number| Arg::I32(number as i32));
        Launch {
            grid: [(programs * ctas) as u32, 1, 1],
            cluster: [ctas as u32, 1, 1],
            threads: [threads, 1, 1],
            dynamic_smem: smem,
            args: first.into_iter().chain(scratch).chain(numbers).chain(last).collect(),
            workspace: Bytes(workspace),
            counters: counters as u32,
            cooperative: false,
        }
    }
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
    static E4M3: LazyLock<Vec<Condition>> = LazyLock::new(|| {
        legality::conditions(
            Family::MatmulFp8,
            [
                EXTENTS,
                ("k % 16 == 0", "the copy engine needs rows of A and B of a multiple of 16 bytes"),
                ("n % 8 == 0", "the copy engine needs rows of C of a multiple of 16 bytes"),
                ("split_k <= ceil_div(k, block_sizes[2])", PARTS),
                TILES,
                PARTIAL_SUMS,
            ],
        )
    });
    match weights {
        Weights::E4m3 => &E4M3,
        _ if weights.per_element() == 1 => &UNPACKED,
        _ => &PACKED,
    }
}

pub(super) fn footprint(config: &Config, weights: Weights) -> Result<Footprint, Rejection> {
    let tiling = Tiling::new(config, weights)?;
    Ok(Footprint {
        threads: tiling.threads(),
        registers: tiling.registers(),
        smem: tiling.smem(),
        stage_bytes: tiling.stage_bytes(),
    })
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    product: &Product,
    of_operands: Option<Scales>,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let &Product { weights, groups, m, n, k, .. } = product;
    let mut tiling = Tiling::new(config, weights)?;
    tiling.scale_bytes = groups.map_or(0, |groups| scale_bytes(weights, groups, tiling.b_columns(), tiling.k));
    tiling.block_scales = of_operands.as_ref().is_some_and(|scales| scales.of_blocks);
    let mut macros = tiling.macros(product);
    macros.extend(of_operands.as_ref().map(|scales| ("BLOCK_SCALES", u8::from(scales.of_blocks).to_string())));
    let maps = tiling.tensor_maps(product).map(Arg::TensorMap);
    let by_tile = |input, element, rows| {
        let groups = tiling.k / groups.map_or(tiling.k, |groups| groups.within(tiling.k));
        let tile = [groups, tiling.b_columns()].map(|extent| extent as u32);
        Arg::TensorMap(TensorMap::of_matrix(Mapped::Input(input), element, [rows, n], tile, Swizzle::None))
    };
    let of_groups = product.scale_arguments(by_tile, |groups| groups.steps(k, tiling.k));
    let scales = of_groups.into_iter().chain(of_operands.into_iter().flat_map(|scales| scales.arguments));
    let programs = Programs {
        tile: [tiling.m, tiling.n, tiling.k],
        ctas: tiling.ctas(),
        threads: tiling.threads(),
        smem: tiling.smem(),
    };
    let launch = programs.launch(config, [m, n, k], profile, maps, scales);
    Ok((KernelSpec::shipped("gemm_tcgen05.cu", "gemm_tcgen05", macros), launch))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Tiling, Weights};
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

    /// A legal config of decoded weights in tensor memory.
    fn held(block_sizes: [u32; 3]) -> Config {
        Config { mma: Some(Mma::Tcgen05Tmem), num_warps: Some(14), ..bf16(block_sizes) }
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
            "DTYPE=bf16 WEIGHTS=Bf16 BLOCK_M=256 BLOCK_N=256 BLOCK_K=64 NUM_STAGES=3 DECODE_WARPS=0 BUFFERS=0 SUM_TILES=2 \
             TENSOR_WEIGHTS=0"
        );
        assert_eq!(
            kernel(Family::MatmulFp4, &int4([16, 128, 64])),
            "DTYPE=bf16 WEIGHTS=Fp4 BLOCK_M=16 BLOCK_N=128 BLOCK_K=128 NUM_STAGES=3 DECODE_WARPS=10 BUFFERS=3 SUM_TILES=2 \
             TENSOR_WEIGHTS=0"
        );
        assert_eq!(
            kernel(Family::MatmulInt4, &held([16, 128, 32])),
            "DTYPE=bf16 WEIGHTS=Int4 BLOCK_M=16 BLOCK_N=128 BLOCK_K=64 NUM_STAGES=3 DECODE_WARPS=8 BUFFERS=3 SUM_TILES=2 \
             TENSOR_WEIGHTS=1"
        );
    }

    /// What has room: buffers of decoded weights, tiles of sums.
    fn room(family: Family, config: &Config) -> (u64, u64) {
        let weights = match family {
            Family::Matmul => Weights::Same,
            Family::MatmulInt16 => Weights::Int16,
            _ => Weights::Int4,
        };
        let room = Tiling::new(config, weights).unwrap().room;
        (room.buffers, room.sum_tiles)
    }

    #[test]
    fn memory_that_stages_leave_goes_to_decoded_weights_and_sums() {
        let stages = |num_stages, config: Config| Config { num_stages: Some(num_stages), ..config };
        // 4 x 20 KiB and 32 KiB of boxes leave room for seven buffers of 16 KiB, of which no stage has use for a second one;
        // 7 x 20 KiB leave three.
        assert_eq!(room(Family::MatmulInt4, &stages(4, int4([128, 128, 32]))), (4, 2));
        assert_eq!(room(Family::MatmulInt4, &stages(7, int4([128, 128, 32]))), (3, 2));
        // 64 columns of sums, 64 a buffer.
        assert_eq!(room(Family::MatmulInt4, &stages(12, held([16, 128, 64]))), (7, 2));
        assert_eq!(room(Family::MatmulInt4, &stages(6, held([16, 128, 64]))), (6, 2));
        // 256 columns of sums, once.
        assert_eq!(room(Family::MatmulInt4, &stages(8, held([256, 256, 32]))), (8, 1));
        assert_eq!(room(Family::Matmul, &bf16([512, 256, 64])), (0, 1));
        // Two programs share the columns, each has 160 of 256.
        assert_eq!(room(Family::Matmul, &stages(2, bf16([128, 160, 64]))), (0, 1));
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let problem = problem(Family::Matmul, 512, 512, 256);
        let legal = || bf16([128, 128, 64]);
        let cases: [(Config, &str); 17] = [
            (bf16([8, 128, 64]), "8 along m"),
            (bf16([1024, 128, 64]), "1024 along m"),
            (bf16([16, 64, 64]), "64 along n: beside 16 along m it must be 128"),
            (bf16([128, 120, 64]), "120 along n: beside 128 along m it must be a multiple of 16"),
            (bf16([256, 80, 64]), "80 along n: beside 256 along m it must be a multiple of 32"),
            (bf16([128, 272, 64]), "272 along n"),
            (bf16([128, 128, 32]), "32 along k"),
            (Config { num_stages: Some(1), ..legal() }, "num_stages 1"),
            (Config { num_stages: None, ..legal() }, "num_stages is missing"),
            (Config { num_stages: Some(8), ..legal() }, "of shared memory"),
            (
                Config { mma: Some(Mma::Tcgen05Tmem), ..legal() },
                "weights that need no decoding are multiplied from where",
            ),
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
    fn weights_in_tensor_memory_are_decoded_by_quarters() {
        for family in DECODED {
            let depth = if family == Family::MatmulInt16 { 64 } else { 32 };
            let legal = |m, n, num_warps| {
                let config = Config { num_warps: Some(num_warps), ..held([m, n, depth]) };
                spec(family).kernel(&config, &problem(family, 512, 512, 256), &b200()).is_ok()
            };
            assert!(legal(16, 128, 10) && legal(256, 128, 14) && legal(48, 128, 14) && legal(224, 256, 14), "{family}");
            assert!(!legal(16, 128, 8) && !legal(16, 128, 16), "{family}");
            assert!(
                !legal(48, 256, 14) && !legal(24, 128, 14) && !legal(64, 64, 14) && !legal(512, 128, 14),
                "{family}"
            );
        }
    }

    #[test]
    fn the_hardware_deals_tiles_out_to_a_grid_of_all_of_them() {
        let problem = problem(Family::Matmul, 4096, 4096, 1024); // 16 x 16 tiles
        let dealt = Config { pid_type: Some(PidType::ClusterLaunchControl), ..bf16([256, 256, 64]) };
        let launch = spec(Family::Matmul).launch(&dealt, &problem, &b200()).unwrap();
        assert_eq!((launch.grid, launch.cluster), ([2 * 256, 1, 1], [2, 1, 1]));
        assert_eq!(launch.args[launch.args.len() - 2..], [Arg::I32(0), Arg::I32(256)]);
        let other = Config { mma: Some(Mma::MmaSync), num_warps: Some(4), ..dealt };
        let rejection = spec(Family::Matmul).launch(&other, &problem, &b200()).unwrap_err();
        assert!(rejection.0.contains("cluster_launch_control"), "{rejection}");
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
        assert_eq!((pair.grid, pair.cluster, pair.threads[0]), ([2 * 256, 1, 1], [2, 1, 1], 192));
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
        assert_eq!(
            tiles(Family::Matmul, bf16([256, 96, 64])),
            [(vec![64, 128], swizzled), (vec![16, 64], Swizzle::Bytes32), (vec![32, 32], Swizzle::Bytes64)]
        );
        assert_eq!(
            tiles(Family::MatmulInt16, held([96, 256, 64])),
            [(vec![64, 48], swizzled), (vec![64, 64], swizzled), (vec![32, 32], plain)]
        );
        assert_eq!(
            tiles(Family::MatmulInt4, held([16, 128, 64])),
            [(vec![64, 16], swizzled), (vec![128, 64], swizzled), (vec![32, 16], plain)]
        );
    }

    proptest! {
        /// What the driver asks of a tensor map: at most 256 elements a side, and no swizzled line beyond 128 bytes.
        #[test]
        fn every_legal_config_has_legal_maps(
            m in 1u32..33, n in 1u32..17, k in 6u32..8, stages in 2u32..13, warps in 0usize..4, family in 0usize..4,
            is_held: bool,
        ) {
            let family = [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4][family];
            let packed = matches!(family, Family::MatmulInt4 | Family::MatmulFp4);
            let depth = if packed { 1 << (k - 1) } else { 1 << k };
            let config = Config {
                num_stages: Some(stages),
                num_warps: (family != Family::Matmul).then_some([8, 10, 14, 16][warps]),
                ..if is_held { held([16 * m, 16 * n, depth]) } else { bf16([16 * m, 16 * n, depth]) }
            };
            let launch = spec(family).launch(&config, &problem(family, 300, 640, 1000), &b200());
            if let Ok(launch) = launch {
                prop_assert!(launch.dynamic_smem <= b200().smem_per_block);
                prop_assert_eq!(launch.grid[0] % launch.cluster[0], 0);
                for map in maps(family, &config) {
                    let line_bytes = u64::from(map.tile[0]) * map.element.size_bytes();
                    prop_assert!(map.tile.iter().all(|extent| *extent <= 256));
                    prop_assert_eq!(line_bytes % 16, 0);
                    let swizzled_bytes = match map.swizzle {
                        Swizzle::None => line_bytes,
                        Swizzle::Bytes32 => 32,
                        Swizzle::Bytes64 => 64,
                        Swizzle::Bytes128 => 128,
                    };
                    prop_assert_eq!(line_bytes, swizzled_bytes);
                    prop_assert!(map.strides_bytes.iter().all(|stride| stride % 16 == 0));
                }
            }
        }
    }
}
