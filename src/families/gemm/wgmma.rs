//! `gemm_wgmma.cu`: one warp that loads by the copy engine, or four that copy rows which it does not take, and warps that multiply on
//! Hopper: in groups by `wgmma`, or each by itself by `mma.sync`.

use super::realigned::{self, Realigned};
use super::unaligned::{
    self, PANEL_ALIGNMENT, Panels, SUMS, WORD_BYTES, beside_stages, loading_warps, panel_bytes, row_vector_bytes,
};
use super::{
    CLUSTERS, EXTENTS, Groups, Product, ProgramOrder, TILES, Weights, group_m, program_order, split_k, vector_bytes,
};
use crate::families::knobs::{self, WARP};
use crate::families::{
    Arg, Condition, Element, Footprint, KernelSpec, Launch, Mapped, Rejection, Swizzle, TensorMap, require,
};
use crate::model::{Bytes, Config, Family, GpuProfile, Mma};
use std::sync::LazyLock;

/// Columns of C in one product of a warpgroup.
const TILE_COLUMNS: u64 = 64;
/// Bytes of the widest swizzled row, and of a row of C in shared memory.
const PANEL_BYTES: u64 = 128;
/// Shared memory for the stages' barriers.
const BARRIER_BYTES: u64 = 1024;
/// Columns of scales that the copy engine takes at once, and what their panels begin at multiples of in bytes.
const SCALE_COLUMNS: u64 = 256;
const SCALE_ALIGNMENT: u64 = 128;
/// Rows of a tile, of A or of B, that the copy engine takes at once.
const MOST_ROWS: u64 = 256;
/// Registers of a thread for addresses and counters.
const SPARE_REGISTERS: u64 = 48;
/// Registers of a thread of two groups that it has without more of them from the warps that load, with a few to spare.
const MOST_REGISTERS_WITHOUT: u64 = 160;
/// Registers of a thread that was handed more by the warps that load.
const MOST_REGISTERS: u64 = 232;

/// The compile-time half of a config, as the kernel works it out from its macros.
#[derive(Clone, Copy)]
struct Tiling {
    weights: Weights,
    /// Bytes of a stage's scales.
    scale_bytes: u64,
    /// Whether each warp multiplies by itself.
    by_warp: bool,
    /// Operands that are copied to aligned rows first.
    realigned: Realigned,
    /// Bytes of one copy of A and of B: 16, by the copy engine, 8, 4, or those of an element where rows begin anywhere.
    vectors: [u64; 2],
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    /// Groups of four warps that multiply.
    groups: u64,
    stages: u64,
}

impl Tiling {
    /// The config's tiling for a product, whose rows the copy engine takes or does not.
    fn of_product(config: &Config, product: &Product) -> Result<Self, Rejection> {
        let mut tiling = Self::new(config, product.weights)?;
        let (n, k) = (tiling.n, tiling.k);
        tiling.scale_bytes = product.groups.map_or(0, |groups| scale_bytes(product.weights, groups, n, k));
        let elements = [product.dtype.size_bytes(), product.weights.element_bytes()];
        let (is_copied, operands) = ([tiling.realigned.a, tiling.realigned.b], product.operands());
        tiling.vectors = std::array::from_fn(|of| {
            if is_copied[of] { WORD_BYTES } else { row_vector_bytes(operands[of].row_bytes, elements[of]) }
        });
        Ok(tiling)
    }

    /// The config's tiling for any product whose rows the copy engine takes, if a kernel with it can be compiled and run.
    fn new(config: &Config, weights: Weights) -> Result<Self, Rejection> {
        let [m, n, depth] = knobs::block_sizes(config)?.map(u64::from);
        let k = depth * weights.per_element();
        let warps = knobs::num_warps(config)?;
        let stages = knobs::needed("num_stages", config.num_stages)?.into();
        let by_warp = config.mma == Some(Mma::MmaSyncTma);
        if by_warp {
            require!(m == 8 || m == 16, "block of {m} along m: warps that multiply by themselves have 8 or 16 rows");
        }
        require!(
            m <= MOST_ROWS && m.is_multiple_of(if m <= 64 { 8 } else { 16 }),
            "block of {m} along m: it must be a multiple of 8 up to 64 or of 16 up to 256"
        );
        require!(k.is_multiple_of(64), "block of {k} along k: it must be a multiple of 64");
        require!(depth <= MOST_ROWS, "block of {depth} rows of B along k: the copy engine takes {MOST_ROWS} at once");
        require!((4..=16).contains(&warps), "num_warps {warps}: 4, 8 or 16 multiply, in groups of 4");
        let groups = u64::from(warps / 4);
        require!((2..=32).contains(&stages), "num_stages {stages}: the load pipeline needs 2 to 32");
        require!(
            n.is_multiple_of(groups) && [64, 128, 256].contains(&(n / groups)),
            "block of {n} along n: each of {groups} groups of warps has 64, 128 or 256"
        );
        let realigned = Realigned::of(config)?;
        let scale_bytes = most_scale_bytes(weights, n, k);
        let tiling =
            Self { weights, scale_bytes, by_warp, realigned, vectors: [WORD_BYTES; 2], m, n, k, groups, stages };
        let (registers, limit) = (tiling.registers_used(), tiling.registers());
        require!(registers <= limit, "{registers} registers a thread for sums, weights and addresses exceed {limit}");
        Ok(tiling)
    }

    /// Tiles of 64 columns in a group.
    fn tiles(&self) -> u64 {
        self.n / (TILE_COLUMNS * self.groups)
    }

    /// Sums a thread holds.
    fn sums(&self) -> u64 {
        self.tiles() * self.m / 2
    }

    /// Registers of a thread for decoded weights: those of one product, or two chunks.
    fn fragments(&self) -> u64 {
        if self.by_warp {
            return 4 * self.tiles();
        }
        let chunk = match self.tiles() {
            tiles if tiles > 2 || tiles * self.m >= 128 => 2,
            _ => (self.k / 32).min(4),
        };
        if self.weights == Weights::Same { 0 } else { 2 * chunk * self.tiles() * 4 }
    }

    /// Registers that a thread needs.
    fn registers_used(&self) -> u64 {
        let scales = match self.weights.scale_bytes() {
            [0, _] => 0,
            [bytes, _] => 2 * self.tiles() * bytes + 2,
        };
        self.sums() + self.fragments() + scales + SPARE_REGISTERS
    }

    /// Whether a whole group of warps comes with those that multiply, to hand its registers over.
    fn hands_over(&self) -> bool {
        self.groups == 2 && self.registers_used() > MOST_REGISTERS_WITHOUT
    }

    /// Registers of a thread that multiplies: a quarter of the multiprocessor has 512 for each lane, and every fourth warp.
    fn registers(&self) -> u64 {
        if self.hands_over() { MOST_REGISTERS } else { (512 / (self.groups + 1) / 8 * 8).min(255) }
    }

    fn threads(&self) -> u32 {
        let loading = loading_warps(self.vectors == [WORD_BYTES; 2], self.hands_over(), self.stages);
        WARP * (4 * self.groups as u32 + loading)
    }

    /// Rows of B in one stage, and bytes of them in its tile.
    fn b_rows(&self) -> u64 {
        self.k / self.weights.per_element()
    }

    fn b_row_bytes(&self) -> u64 {
        self.n * self.weights.element_bytes()
    }

    /// Bytes of a row of a panel of B.
    fn b_width(&self) -> u64 {
        self.b_row_bytes().min(PANEL_BYTES)
    }

    /// Rows of C that leave through shared memory at once.
    fn staging_rows(&self) -> u64 {
        (1 << self.m.trailing_zeros()).min(TILE_COLUMNS / self.tiles())
    }

    /// Bytes of A and B in one stage.
    fn stage_bytes(&self) -> u64 {
        let [a, b] = self.vectors;
        let a_panels = self.k * Element::Bf16.size_bytes() / PANEL_BYTES;
        let b_panels = self.b_row_bytes() / self.b_width();
        a_panels * panel_bytes(self.m, PANEL_BYTES, a) + b_panels * panel_bytes(self.b_rows(), self.b_width(), b)
    }

    /// Shared memory of one program: the stages, then two buffers of C or the partial sums of a share of C.
    fn smem(&self, split_k: u64) -> Bytes {
        let staging = 2 * self.groups * self.tiles() * self.staging_rows() * PANEL_BYTES;
        let partials = if split_k > 1 { self.m * self.n * Element::F32.size_bytes() } else { 0 };
        let scales = (self.stages * self.scale_bytes).next_multiple_of(PANEL_ALIGNMENT);
        Bytes(self.stages * self.stage_bytes() + scales + BARRIER_BYTES + staging.max(partials))
    }

    /// What the copy engine takes of A, of B and of C: tensor maps where rows are aligned for it, else plain pointers.
    fn operands(&self, product: &Product) -> [Arg; 3] {
        let &Product { weights, dtype, m, n, k, .. } = product;
        let b_width = self.b_width();
        let b_swizzle = if b_width == PANEL_BYTES { Swizzle::Bytes128 } else { Swizzle::Bytes64 };
        let tiled = |of, element: Element, shape, rows: u64, width: u64, swizzle| {
            let tile = [rows as u32, (width / element.size_bytes()) as u32];
            realigned::tiles(of, element, shape, tile, swizzle)
        };
        let [a_source, b_source] = self.realigned.sources(product.operands());
        let a = tiled(a_source, dtype, [m, k], self.m, PANEL_BYTES, Swizzle::Bytes128);
        let b_shape = [k / weights.per_element(), n];
        let b = tiled(b_source, weights.element(dtype), b_shape, self.b_rows(), b_width, b_swizzle);
        let c = tiled(Mapped::Output, dtype, [m, n], self.staging_rows(), PANEL_BYTES, Swizzle::Bytes128);
        let [a_vector, b_vector] = self.vectors;
        [
            if a_vector == WORD_BYTES { a } else { Arg::Input(0) },
            if b_vector == WORD_BYTES { b } else { Arg::Input(1) },
            if vector_bytes(product.c_row_bytes()) == WORD_BYTES { c } else { Arg::Output(0) },
        ]
    }
}

/// Bytes of one stage's rows of scales, or of zero points, in panels.
fn scale_tile_bytes(rows: u64, columns: u64, bytes: u64) -> u64 {
    let width = columns.min(SCALE_COLUMNS);
    columns / width * (rows * width * bytes).next_multiple_of(SCALE_ALIGNMENT)
}

/// Bytes of one stage's scales and zero points.
pub(super) fn scale_bytes(weights: Weights, groups: Groups, n: u64, k: u64) -> u64 {
    let (rows, [scale, zero]) = (k / groups.within(k), weights.scale_bytes());
    scale_tile_bytes(rows, n, scale) + if groups.zero_points { scale_tile_bytes(rows, n, zero) } else { 0 }
}

/// The same at most, whatever the problem's groups.
pub(super) fn most_scale_bytes(weights: Weights, n: u64, k: u64) -> u64 {
    let groups = Groups { group: weights.least_group(), zero_points: weights.scale_bytes()[1] > 0 };
    if weights.is_scaled() { scale_bytes(weights, groups, n, k) } else { 0 }
}

pub(super) fn check(config: &Config, weights: Weights, profile: &GpuProfile) -> Result<(), Rejection> {
    let tiling = Tiling::new(config, weights)?;
    tiling.realigned.check(config)?;
    require!(
        !(tiling.realigned.b && weights.is_scaled()),
        "{}: scales are loaded as B's rows are aligned",
        realigned::KNOB
    );
    super::check_cluster(config)?;
    knobs::fits_smem(tiling.smem(split_k(config)), profile)
}

/// What each format's problems must meet: [`unaligned::conditions`] among it, by the most that C or its partial sums may take.
pub(super) fn conditions(weights: Weights) -> &'static [Condition] {
    fn read(weights: Weights) -> Vec<Condition> {
        let packed = weights.per_element();
        let (b_rows, b_row) = (format!("ceil_div(k, {packed})"), format!("{} * n", weights.element_bytes()));
        let copies = realigned::conditions(Family::Matmul, [("m", "2 * k"), (&b_rows, &b_row)]);
        let b_row_bytes = format!("block_sizes[1] * {}", weights.element_bytes());
        let b_width = format!("min({b_row_bytes}, {PANEL_BYTES})");
        let a = Panels {
            operand: "a",
            row_bytes: "2 * k",
            count: &format!("block_sizes[2] * {packed} / {}", PANEL_BYTES / Element::Bf16.size_bytes()),
            rows: "block_sizes[0]",
            width: &PANEL_BYTES.to_string(),
        };
        let b = Panels {
            operand: "b",
            row_bytes: &b_row,
            count: &format!("ceil_div({b_row_bytes}, {PANEL_BYTES})"),
            rows: "block_sizes[2]",
            width: &b_width,
        };
        // Panels of scales are rounded up to whole lines, and their stages to what panels begin at multiples of.
        let (scales, rounding) = match weights.scale_bytes() {
            [0, _] => ("0".to_owned(), 0),
            [scale, zero] => {
                let rows = format!("block_sizes[2] * {packed} / {}", weights.least_group());
                (format!("{rows} * block_sizes[1] * {} + 4 * {SCALE_ALIGNMENT}", scale + zero), PANEL_ALIGNMENT)
            }
        };
        let staging = format!("min({SUMS}, {} * num_warps)", TILE_COLUMNS / 4 * 2 * PANEL_BYTES);
        let rest = format!("{} + {}", beside_stages(&staging), BARRIER_BYTES + rounding);
        let stages = unaligned::conditions(Family::Matmul, &[a, b], &scales, &rest);
        super::conditions([EXTENTS, TILES, CLUSTERS]).into_iter().chain(copies).chain(stages).collect()
    }
    static OF: LazyLock<[(Weights, Vec<Condition>); 7]> = LazyLock::new(|| {
        use Weights::{Fp4, Int4, Int4Group, Int16, Mxfp4, Nvfp4, Same};
        [Same, Int16, Int4, Fp4, Int4Group, Nvfp4, Mxfp4].map(|weights| (weights, read(weights)))
    });
    OF.iter().find(|(of, _)| *of == weights).map_or(&[], |(_, conditions)| conditions)
}

pub(super) fn footprint(config: &Config, product: &Product) -> Result<Footprint, Rejection> {
    let tiling = Tiling::of_product(config, product)?;
    // A program that the kernel's bounds let run alone is compiled with registers that leave no room for a second.
    let alone = !tiling.by_warp && 512 / ((tiling.groups + 1) * tiling.registers_used()) <= 1;
    let registers = if alone { tiling.registers() } else { tiling.registers_used() };
    Ok(Footprint {
        threads: tiling.threads(),
        registers: registers.next_multiple_of(8) as u32,
        smem: tiling.smem(split_k(config)),
        stage_bytes: Bytes(tiling.stage_bytes()),
    })
}

/// The kernel of a legal config and its launch.
pub(super) fn build(
    config: &Config,
    product: &Product,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let &Product { groups, m, n, k, .. } = product;
    let tiling = Tiling::of_product(config, product)?;
    let [tiles_m, tiles_n] = [m.div_ceil(tiling.m), n.div_ceil(tiling.n)];
    let k_steps = k.div_ceil(tiling.k);
    let (split_k, group_m) = (split_k(config), group_m(config, tiles_m));
    let ProgramOrder { programs, stride, span } = program_order(config, tiles_m * tiles_n, profile.multiprocessors);
    let programs = tiling.realigned.programs(programs, split_k, profile);

    let [a_vector, b_vector] = tiling.vectors;
    let own = [
        ("BY_WARP", u8::from(tiling.by_warp).to_string()),
        ("BLOCK_M", tiling.m.to_string()),
        ("BLOCK_N", tiling.n.to_string()),
        ("BLOCK_K", tiling.k.to_string()),
        ("NUM_WARPS", (4 * tiling.groups).to_string()),
        ("NUM_STAGES", tiling.stages.to_string()),
        ("A_VECTOR_BYTES", a_vector.to_string()),
        ("B_VECTOR_BYTES", b_vector.to_string()),
        ("C_VECTOR_BYTES", vector_bytes(product.c_row_bytes()).to_string()),
        ("REALIGNED", tiling.realigned.bits().to_string()),
    ];
    let macros = product.macros(tiling.k).into_iter().chain(own);
    let by_tile = |input, element: Element, rows| {
        if vector_bytes(n * element.size_bytes()) < WORD_BYTES {
            return Arg::Input(input);
        }
        let tile = [tiling.k / groups.map_or(tiling.k, |groups| groups.within(tiling.k)), tiling.n.min(SCALE_COLUMNS)];
        let tile = tile.map(|extent| extent as u32);
        Arg::TensorMap(TensorMap::of_matrix(Mapped::Input(input), element, [rows, n], tile, Swizzle::None))
    };
    let scales = product.scale_arguments(by_tile, |groups| groups.steps(k, tiling.k));
    let numbers = [m, n, k, tiles_m, tiles_n, k_steps, group_m, split_k, stride, span];
    let args = tiling.operands(product).into_iter().chain([Arg::Output(0)]);
    let (scratch, counters) =
        if tiling.realigned.any() { (Arg::Workspace, Arg::Counters) } else { (Arg::Null, Arg::Null) };
    let raw = [Arg::Input(0), Arg::Input(1), scratch, counters];
    let launch = Launch {
        grid: [(programs * split_k) as u32, 1, 1],
        cluster: [split_k as u32, 1, 1],
        threads: [tiling.threads(), 1, 1],
        dynamic_smem: tiling.smem(split_k),
        args: args.chain(numbers.map(|number| Arg::I32(number as i32))).chain(raw).chain(scales).collect(),
        workspace: tiling.realigned.scratch(product.operands()),
        counters: if tiling.realigned.any() { 2 } else { 0 },
        cooperative: tiling.realigned.any(),
    };
    Ok((KernelSpec::shipped("gemm_wgmma.cu", "gemm_wgmma", macros), launch))
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::{Mapped, Product, Realigned, Tiling, Weights};
    use crate::families::gemm::tests::{h200, problem};
    use crate::families::{Arg, Element, KernelSpec, Launch, Swizzle, TensorMap, spec};
    use crate::model::{Bytes, Config, Family, GpuProfile, Mma, PidType};
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    fn config() -> Config {
        Config {
            block_sizes: vec![24, 128, 64],
            num_warps: Some(4),
            num_stages: Some(3),
            pid_type: Some(PidType::Flat),
            l2_groupings: vec![1],
            split_k: Some(1),
            mma: Some(Mma::Wgmma),
            ..Config::default()
        }
    }

    fn by_warp() -> Config {
        Config { block_sizes: vec![16, 128, 64], mma: Some(Mma::MmaSyncTma), ..config() }
    }

    fn large() -> Config {
        Config { block_sizes: vec![256, 128, 64], num_warps: Some(8), num_stages: Some(4), ..config() }
    }

    fn program(family: Family, config: &Config, [m, n, k]: [i64; 3]) -> (KernelSpec, Launch) {
        spec(family).program(config, &problem(family, m, n, k), &h200()).unwrap()
    }

    fn launch(family: Family, config: &Config, shape: [i64; 3]) -> Launch {
        program(family, config, shape).1
    }

    fn map(argument: &Arg) -> &TensorMap {
        match argument {
            Arg::TensorMap(map) => map,
            other => panic!("{other:?} is no tensor map"),
        }
    }

    #[test]
    fn tiles_are_copied_in_panels_of_128_bytes() {
        let product = Product { weights: Weights::Int4, dtype: Element::Bf16, groups: None, m: 16, n: 4096, k: 8192 };
        let tiling = Tiling {
            weights: Weights::Int4,
            scale_bytes: 0,
            by_warp: true,
            realigned: Realigned::default(),
            vectors: [16; 2],
            m: 16,
            n: 128,
            k: 128,
            groups: 1,
            stages: 3,
        };
        let wide = tiling.operands(&product);
        let [a, b, c] = wide.each_ref().map(map);
        assert_eq!((a.tile.as_slice(), a.swizzle), (&[64, 16][..], Swizzle::Bytes128));
        assert_eq!((b.tile.as_slice(), b.swizzle), (&[128, 64][..], Swizzle::Bytes128));
        assert_eq!((c.tile.as_slice(), c.of), (&[64, 16][..], Mapped::Output));
        let narrow = Tiling { n: 64, ..tiling }.operands(&product);
        let narrow = map(&narrow[1]);
        assert_eq!((narrow.tile.as_slice(), narrow.swizzle), (&[64, 64][..], Swizzle::Bytes64));
    }

    #[test]
    fn rows_the_copy_engine_cannot_take_are_copied_by_a_warp() {
        let (kernel, launch) = program(Family::Matmul, &config(), [5, 77, 66]);
        assert_eq!(launch.args[..4], [Arg::Input(0), Arg::Input(1), Arg::Output(0), Arg::Output(0)]);
        let last: Vec<_> = kernel.macros[8..].iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let vectors = [("A_VECTOR_BYTES", "4"), ("B_VECTOR_BYTES", "2"), ("C_VECTOR_BYTES", "2")];
        assert_eq!(last, [&vectors[..], &[("REALIGNED", "0")]].concat());
    }

    #[test]
    fn the_programs_that_share_a_tile_are_one_cluster() {
        let config = Config { split_k: Some(4), ..by_warp() };
        let launch = launch(Family::MatmulFp4, &config, [20, 304, 4096]);
        assert_eq!((launch.grid, launch.cluster), ([4 * 2 * 3, 1, 1], [4, 1, 1]));
        let stage = 16 * 128 * 2 + 64 * 128;
        assert_eq!(launch.dynamic_smem, Bytes(3 * stage + 1024 + 16 * 128 * 4));
        assert_eq!((launch.workspace, launch.counters), (Bytes(0), 0));
    }

    #[test]
    fn large_tiles_bring_a_whole_group_of_warps_to_load() {
        let shape = [4096, 4096, 4096];
        assert_eq!(launch(Family::Matmul, &large(), shape).threads[0], 256 + 128);
        assert_eq!(launch(Family::Matmul, &config(), shape).threads[0], 128 + 32);
    }

    #[test]
    fn the_instruction_is_the_one_that_is_named() {
        let names = |config: &Config| {
            let macros = program(Family::Matmul, config, [16, 512, 512]).0.macros;
            macros.into_iter().find(|(name, _)| *name == "BY_WARP").unwrap().1
        };
        assert_eq!(names(&by_warp()), "1");
        assert_eq!(names(&Config { mma: Some(Mma::Wgmma), ..by_warp() }), "0");
    }

    #[test]
    fn launch_knobs_cost_no_compile() {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(512));
        let knobs = (0usize..3, 1u32..3, 0u32..4, 1u32..4);
        let checked = runner.run(&((1i64..9000, 1i64..9000, 1i64..1100), knobs), |((m, n, eight_k), knobs)| {
            let (pid, multiplier, split, group) = knobs;
            let pid_type = PidType::ALL[pid];
            let changed = Config {
                pid_type: Some(pid_type),
                num_sm_multiplier: pid_type.is_persistent().then_some(multiplier),
                split_k: Some(if pid_type.is_persistent() { 1 } else { 1 << split }),
                l2_groupings: vec![group],
                ..config()
            };
            let problem = problem(Family::Matmul, m, n, 8 * eight_k);
            let kernel = |config| spec(Family::Matmul).kernel(config, &problem, &h200());
            prop_assert_eq!(kernel(&changed), kernel(&config()));
            Ok(())
        });
        assert!(checked.is_ok(), "{checked:?}");
    }

    #[test]
    fn illegal_configs_are_rejected_with_their_values() {
        let blocks = |sizes: [u32; 3]| Config { block_sizes: sizes.to_vec(), ..config() };
        let persistent = Some(PidType::PersistentBlocked);
        let cases = [
            (blocks([72, 128, 64]), "72 along m"),
            (blocks([264, 128, 64]), "264 along m"),
            (Config { mma: Some(Mma::MmaSyncTma), ..config() }, "24 along m"),
            (blocks([16, 96, 64]), "96 along n"),
            (blocks([16, 128, 32]), "32 along k"),
            (blocks([16, 128, 512]), "512 rows of B"),
            (blocks([256, 256, 64]), "560 registers"),
            (Config { num_warps: Some(2), ..config() }, "num_warps 2"),
            (Config { num_warps: Some(8), block_sizes: vec![32, 64, 64], ..config() }, "each of 2 groups"),
            (Config { num_stages: Some(1), ..config() }, "num_stages 1"),
            (Config { num_stages: Some(32), ..config() }, "of shared memory"),
            (Config { split_k: Some(3), ..config() }, "split_k 3"),
            (Config { split_k: Some(32), ..config() }, "split_k 32"),
            (Config { split_k: None, ..config() }, "split_k is missing"),
            (Config { l2_groupings: vec![], ..config() }, "l2_groupings []"),
            (
                Config { split_k: Some(2), pid_type: persistent, num_sm_multiplier: Some(1), ..config() },
                "have one tile each",
            ),
        ];
        let problem = problem(Family::Matmul, 512, 512, 512);
        let gemm = spec(Family::Matmul);
        for (config, reason) in cases {
            let rejection = gemm.launch(&config, &problem, &h200()).unwrap_err();
            assert!(rejection.0.contains(reason), "{config}: '{rejection}' does not say '{reason}'");
        }
        let blackwell = GpuProfile::by_name("b200").unwrap();
        assert!(gemm.launch(&config(), &problem, &blackwell).unwrap_err().0.contains("b200 has no wgmma"));
        assert!(gemm.launch(&by_warp(), &problem, &blackwell).unwrap_err().0.contains("b200 has no mma_sync_tma"));
        assert!(gemm.launch(&config(), &problem, &h200()).is_ok());
        assert!(gemm.launch(&by_warp(), &problem, &h200()).is_ok());
    }
}
