//! `gemm_wgmma.cu`: one warp that loads by the copy engine and warpgroups that multiply, on Hopper.

use super::launch_cost::{Cut, LaunchCost};
use super::{Product, ProgramOrder, Weights, group_m, program_order, vector_bytes};
use crate::families::knobs::{self, WARP};
use crate::families::{Arg, Element, KernelSpec, Launch, Rejection, Swizzle, TensorMap, require};
use crate::model::{Bytes, Config, GpuProfile, Mma, PidType};

/// Columns of C in one product of a warpgroup.
const TILE_COLUMNS: u64 = 64;
/// Bytes of the widest swizzled row, and of a row of C in shared memory.
const PANEL_BYTES: u64 = 128;
/// Shared memory for the stages' barriers.
const BARRIER_BYTES: u64 = 1024;
/// Rows of a tile, of A or of B, that the copy engine takes at once.
const MOST_ROWS: u64 = 256;
/// Programs in the largest cluster.
const MOST_PARTS: u64 = 16;
/// The numbers of parts of k that the launch chooses from.
const PARTS: [u64; 4] = [1, 2, 4, 8];
/// Rows of C that a product of a warpgroup can have.
const TILE_ROWS: [u64; 20] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256];
/// The numbers of stages that the launch chooses from.
const STAGES: [u64; 4] = [4, 6, 8, 12];
/// Columns of C that a tile can have.
const COLUMNS: [u64; 3] = [64, 128, 256];
/// Columns of C that a group has at most, where it may have more than the config's.
const GROUP_COLUMNS: u64 = 128;
/// Rows of the largest tile that is multiplied warp by warp.
const MOST_ROWS_BY_WARP: u64 = 16;
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
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Elements of k in one stage.
    k: u64,
    /// Warpgroups that multiply.
    groups: u64,
    stages: u64,
}

impl Tiling {
    /// The config's tiling, if a kernel with it can be compiled and run.
    fn new(config: &Config, weights: Weights) -> Result<Self, Rejection> {
        let [m, n, depth] = knobs::block_sizes(config)?.map(u64::from);
        let k = depth * weights.per_element();
        let warps = knobs::num_warps(config)?;
        let stages = knobs::needed("num_stages", config.num_stages)?.into();
        require!(
            TILE_ROWS.contains(&m),
            "block of {m} along m: it must be a multiple of 8 up to 64 or of 16 up to 256"
        );
        require!(k.is_multiple_of(64), "block of {k} along k: it must be a multiple of 64");
        require!(depth <= MOST_ROWS, "block of {depth} rows of B along k: the copy engine takes {MOST_ROWS} at once");
        require!((4..=16).contains(&warps), "num_warps {warps}: 4, 8 or 16 multiply, in groups of 4");
        let groups = u64::from(warps / 4);
        require!((2..=32).contains(&stages), "num_stages {stages}: the load pipeline needs 2 to 32");
        Self { weights, m, n, k, groups, stages }.checked()
    }

    /// Refuses columns that its groups cannot share, and more registers than a thread has.
    fn checked(self) -> Result<Self, Rejection> {
        let (n, groups) = (self.n, self.groups);
        require!(
            n.is_multiple_of(groups) && [64, 128, 256].contains(&(n / groups)),
            "block of {n} along n: each of {groups} groups of warps has 64, 128 or 256"
        );
        let (registers, limit) = (self.registers_used(), self.registers());
        require!(registers <= limit, "{registers} registers a thread for sums, weights and addresses exceed {limit}");
        Ok(self)
    }

    /// The tilings that a launch may choose from: of at most as many sums, groups and bytes of stages as this one, and for each
    /// number of tiles along m no more rows than the product has.
    fn smaller(&self, product: &Product) -> Vec<Self> {
        let most_columns = if self.groups > 1 { self.n.max(GROUP_COLUMNS * self.groups) } else { self.n };
        let mut tilings = Vec::new();
        for n in COLUMNS.into_iter().filter(|n| *n <= most_columns) {
            let mut tiles = u64::MAX;
            for m in TILE_ROWS.into_iter().filter(|m| m * n <= self.m * self.n) {
                if product.m.div_ceil(m) == tiles {
                    continue;
                }
                tiles = product.m.div_ceil(m);
                let groups = self.groups.min(n / TILE_COLUMNS);
                let Ok(tiling) = Self { m, n, groups, ..*self }.checked() else { continue };
                let most = self.stages * self.stage_bytes() / tiling.stage_bytes();
                let own = (m == self.m && n == self.n).then_some(self.stages);
                let stages = STAGES.into_iter().filter(|stages| *stages <= most).chain(own);
                tilings.extend(stages.map(|stages| Self { stages, ..tiling }));
            }
        }
        tilings
    }

    /// The tiling with which `product` is multiplied, and the number of programs that should share a tile's k: those that cost
    /// least. The kernel follows from them, so launch knobs do not count.
    fn dealt(&self, product: &Product, profile: &GpuProfile) -> (Self, u64) {
        let cost = LaunchCost::of_format(self.weights);
        let steps = self.k_steps(product);
        let mut least = (f64::INFINITY, *self, 1);
        for tiling in self.smaller(product) {
            let fits = |parts: &u64| *parts <= steps && tiling.smem(*parts) <= profile.smem_per_block;
            for parts in PARTS.into_iter().filter(fits) {
                let cost = cost.of(&tiling.cut(parts, product, profile), profile.multiprocessors);
                if cost < least.0 {
                    least = (cost, tiling, parts);
                }
            }
        }
        (least.1, least.2)
    }

    /// How a launch with this tiling cuts the product up.
    fn cut(&self, parts: u64, product: &Product, profile: &GpuProfile) -> Cut {
        Cut {
            tile: [self.m, self.n, self.k],
            tiles: self.tiles_of(product).iter().product(),
            steps: self.k_steps(product),
            parts,
            stages: self.stages,
            resident: self.resident(parts, profile),
            b_row_bytes: self.b_row_bytes(),
            a_and_c_bytes: product.m * (product.a_row_bytes() + product.c_row_bytes()),
            b_bytes: product.k.div_ceil(product.weights.per_element()) * product.b_row_bytes(),
        }
    }

    /// Programs that a multiprocessor holds at once: its quarters have 512 registers for each lane, and take warps in turn. A program
    /// that the kernel's bounds let run alone is compiled with registers that leave no room for a second.
    fn resident(&self, parts: u64, profile: &GpuProfile) -> u64 {
        if !self.by_warp() && 512 / ((self.groups + 1) * self.registers_used()) <= 1 {
            return 1;
        }
        let warps_of_a_quarter = 512 / self.registers_used().next_multiple_of(8);
        let by_registers = 4 * warps_of_a_quarter / (4 * self.groups + 1);
        knobs::resident_by_smem(self.smem(parts), profile).min(by_registers).max(1)
    }

    /// Whether each warp multiplies by itself.
    fn by_warp(&self) -> bool {
        self.m <= MOST_ROWS_BY_WARP
    }

    /// Tiles of 64 columns in a group.
    fn tiles(&self) -> u64 {
        self.n / (TILE_COLUMNS * self.groups)
    }

    /// The product in tiles of C, along m and n.
    fn tiles_of(&self, product: &Product) -> [u64; 2] {
        [product.m.div_ceil(self.m), product.n.div_ceil(self.n)]
    }

    /// The product in stages of k.
    fn k_steps(&self, product: &Product) -> u64 {
        product.k.div_ceil(self.k)
    }

    /// Sums a thread holds.
    fn sums(&self) -> u64 {
        self.tiles() * self.m / 2
    }

    /// Registers of a thread for decoded weights: those of one product, or two chunks.
    fn fragments(&self) -> u64 {
        if self.by_warp() {
            return 4 * self.tiles();
        }
        let chunk = match self.tiles() {
            tiles if tiles > 2 || tiles * self.m >= 128 => 2,
            _ => (self.k / 32).min(4),
        };
        if self.weights == Weights::Bf16 { 0 } else { 2 * chunk * self.tiles() * 4 }
    }

    /// Registers that a thread needs.
    fn registers_used(&self) -> u64 {
        self.sums() + self.fragments() + SPARE_REGISTERS
    }

    /// Whether three idle warps come with the loading one, to hand their registers over.
    fn hands_over(&self) -> bool {
        self.groups == 2 && self.registers_used() > MOST_REGISTERS_WITHOUT
    }

    /// Registers of a thread that multiplies: a quarter of the multiprocessor has 512 for each lane, and every fourth warp.
    fn registers(&self) -> u64 {
        if self.hands_over() { MOST_REGISTERS } else { (512 / (self.groups + 1) / 8 * 8).min(255) }
    }

    fn threads(&self) -> u32 {
        self.groups as u32 * 4 * WARP + if self.hands_over() { 4 * WARP } else { WARP }
    }

    /// Rows of B in one stage, and bytes of them in its tile.
    fn b_rows(&self) -> u64 {
        self.k / self.weights.per_element()
    }

    fn b_row_bytes(&self) -> u64 {
        self.n * self.weights.element().size_bytes()
    }

    /// Rows of C that leave through shared memory at once.
    fn staging_rows(&self) -> u64 {
        (1 << self.m.trailing_zeros()).min(TILE_COLUMNS / self.tiles())
    }

    /// Bytes of A and B in one stage.
    fn stage_bytes(&self) -> u64 {
        self.m * self.k * Element::Bf16.size_bytes() + self.b_rows() * self.b_row_bytes()
    }

    /// Shared memory of one program: the stages, then two buffers of C or the partial sums of a share of C.
    fn smem(&self, split_k: u64) -> Bytes {
        let staging = 2 * self.groups * self.tiles() * self.staging_rows() * PANEL_BYTES;
        let partials = if split_k > 1 { self.m * self.n * Element::F32.size_bytes() } else { 0 };
        Bytes(self.stages * self.stage_bytes() + BARRIER_BYTES + staging.max(partials))
    }

    /// Tile rows that share a column band, where the launch chooses: half as many as let the tiles that run at once load
    /// the fewest bytes of A and B, for the next ones find A in L2. A run of neighbouring tiles goes along the columns
    /// instead. On 1,922 launches of the four formats on problems of more than 256 rows, on an H200, it was 1.4 % from the
    /// best of 1, 4, 8 and 16 in the geometric mean.
    fn group_m(&self, config: &Config, tiles_m: u64, profile: &GpuProfile) -> u64 {
        if config.pid_type == Some(PidType::PersistentBlocked) {
            return 1;
        }
        let (a_bytes, b_bytes) = (self.m * self.k * Element::Bf16.size_bytes(), self.b_rows() * self.b_row_bytes());
        let square = f64::from(profile.multiprocessors) * b_bytes as f64 / a_bytes as f64;
        ((square.sqrt() / 2.0).round() as u64).clamp(1, tiles_m)
    }

    /// What the copy engine takes of A, of B and of C: tensor maps where rows are aligned for it, else plain pointers.
    fn operands(&self, product: &Product) -> [Arg; 3] {
        let &Product { weights, m, n, k } = product;
        let b_width = self.b_row_bytes().min(PANEL_BYTES);
        let b_swizzle = if b_width == PANEL_BYTES { Swizzle::Bytes128 } else { Swizzle::Bytes64 };
        let tiled = |input, element: Element, shape, rows: u64, width: u64, swizzle| {
            let tile = [rows as u32, (width / element.size_bytes()) as u32];
            Arg::TensorMap(TensorMap::of_matrix(input, element, shape, tile, swizzle))
        };
        let a = tiled(Some(0), Element::Bf16, [m, k], self.m, PANEL_BYTES, Swizzle::Bytes128);
        let b_shape = [k / weights.per_element(), n];
        let b = tiled(Some(1), weights.element(), b_shape, self.b_rows(), b_width, b_swizzle);
        let c = tiled(None, Element::Bf16, [m, n], self.staging_rows(), PANEL_BYTES, Swizzle::Bytes128);
        [
            if vector_bytes(product.a_row_bytes()) == 16 { a } else { Arg::Input(0) },
            if vector_bytes(product.b_row_bytes()) == 16 { b } else { Arg::Input(1) },
            if vector_bytes(product.c_row_bytes()) == 16 { c } else { Arg::Output },
        ]
    }
}

/// The kernel and its launch, which are legal or not together.
pub(super) fn build(
    config: &Config,
    product: &Product,
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    require!(profile.mma.contains(&Mma::Wgmma), "{} has no wgmma", profile.name);
    let &Product { weights, m, n, k } = product;
    let largest = Tiling::new(config, weights)?;
    knobs::fits_smem(largest.smem(1), profile)?;
    let (tiling, dealt_parts) = largest.dealt(product, profile);

    let [tiles_m, tiles_n] = tiling.tiles_of(product);
    let tiles = tiles_m * tiles_n;
    let k_steps = tiling.k_steps(product);
    let ProgramOrder { programs, stride, span } = program_order(config, tiles, profile)?;
    let one_tile_each = programs == tiles;
    let split_k = match config.split_k {
        Some(_) => u64::from(knobs::needed("split_k", config.split_k)?),
        None if !one_tile_each => 1,
        None => dealt_parts,
    };
    require!(split_k <= k_steps, "split_k {split_k} exceeds the {k_steps} blocks along k = {k}");
    require!(
        split_k.is_power_of_two() && split_k <= MOST_PARTS,
        "split_k {split_k}: a cluster has 1, 2, 4, 8 or 16 programs"
    );
    require!(
        split_k == 1 || one_tile_each,
        "split_k {split_k}: programs that share k have one tile each, not {tiles} for {programs}"
    );
    let smem = tiling.smem(split_k);
    knobs::fits_smem(smem, profile)?;
    let group_m = match config.l2_groupings[..] {
        [] => tiling.group_m(config, tiles_m, profile),
        _ => group_m(config, tiles_m)?,
    };

    let macros = vec![
        ("WEIGHTS", weights.name().to_string()),
        ("BLOCK_M", tiling.m.to_string()),
        ("BLOCK_N", tiling.n.to_string()),
        ("BLOCK_K", tiling.k.to_string()),
        ("NUM_WARPS", (4 * tiling.groups).to_string()),
        ("NUM_STAGES", tiling.stages.to_string()),
        ("A_VECTOR_BYTES", vector_bytes(product.a_row_bytes()).to_string()),
        ("B_VECTOR_BYTES", vector_bytes(product.b_row_bytes()).to_string()),
        ("C_VECTOR_BYTES", vector_bytes(product.c_row_bytes()).to_string()),
    ];
    let numbers = [m, n, k, tiles_m, tiles_n, k_steps, group_m, split_k, stride, span];
    let args = tiling.operands(product).into_iter().chain([Arg::Output]);
    let launch = Launch {
        grid: [(programs * split_k) as u32, 1, 1],
        cluster: split_k as u32,
        threads: tiling.threads(),
        dynamic_smem: smem,
        args: args.chain(numbers.map(|number| Arg::I32(number as i32))).collect(),
        workspace: Bytes(0),
        counters: 0,
    };
    Ok((KernelSpec { source: "gemm_wgmma.cu", entry: "gemm_wgmma", macros }, launch))
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::{Product, Tiling, Weights};
    use crate::families::gemm::tests::{GEMMS, h200, problem};
    use crate::families::{Arg, Launch, Swizzle, TensorMap, spec};
    use crate::model::{Bytes, Config, Family, GpuProfile, Mma, PidType};
    use crate::plan::Plan;
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;

    fn config() -> Config {
        Config {
            block_sizes: vec![16, 128, 64],
            num_warps: Some(4),
            num_stages: Some(3),
            pid_type: Some(PidType::Flat),
            l2_groupings: vec![1],
            split_k: Some(1),
            mma: Some(Mma::Wgmma),
            ..Config::default()
        }
    }

    fn launch(family: Family, config: &Config, shape: [i64; 3]) -> Launch {
        let [m, n, k] = shape;
        spec(family).launch(config, &problem(family, m, n, k), &h200()).unwrap()
    }

    fn map(argument: &Arg) -> &TensorMap {
        match argument {
            Arg::TensorMap(map) => map,
            other => panic!("{other:?} is no tensor map"),
        }
    }

    /// Rows, columns, warps and stages of the tile that a launch chooses.
    fn tile(family: Family, config: &Config, [m, n, k]: [i64; 3]) -> [u64; 4] {
        let kernel = spec(family).kernel(config, &problem(family, m, n, k), &h200()).unwrap();
        ["BLOCK_M", "BLOCK_N", "NUM_WARPS", "NUM_STAGES"]
            .map(|wanted| kernel.macros.iter().find(|(name, _)| *name == wanted).unwrap().1.parse().unwrap())
    }

    #[test]
    fn tiles_are_copied_in_panels_of_128_bytes() {
        let product = Product { weights: Weights::Int4, m: 16, n: 4096, k: 8192 };
        let operands = |n| Tiling { weights: Weights::Int4, m: 16, n, k: 128, groups: 1, stages: 3 }.operands(&product);
        let wide = operands(128);
        let [a, b, c] = wide.each_ref().map(map);
        assert_eq!((a.tile.as_slice(), a.swizzle), (&[64, 16][..], Swizzle::Bytes128));
        assert_eq!((b.tile.as_slice(), b.swizzle), (&[128, 64][..], Swizzle::Bytes128));
        assert_eq!((c.tile.as_slice(), c.input), (&[64, 16][..], None));
        let narrow = operands(64);
        let narrow = map(&narrow[1]);
        assert_eq!((narrow.tile.as_slice(), narrow.swizzle), (&[64, 64][..], Swizzle::Bytes64));
    }

    #[test]
    fn rows_the_copy_engine_cannot_take_are_copied_by_a_warp() {
        let launch = launch(Family::Matmul, &config(), [5, 77, 66]);
        assert_eq!(launch.args[..4], [Arg::Input(0), Arg::Input(1), Arg::Output, Arg::Output]);
        let kernel = spec(Family::Matmul).kernel(&config(), &problem(Family::Matmul, 5, 77, 66), &h200()).unwrap();
        let vectors: Vec<_> = kernel.macros[6..].iter().map(|(_, bytes)| bytes.as_str()).collect();
        assert_eq!(vectors, ["4", "2", "2"]);
    }

    #[test]
    fn the_programs_that_share_a_tile_are_one_cluster() {
        let config = Config { split_k: Some(8), ..config() };
        let shape = [20, 300, 4096];
        let launch = launch(Family::MatmulFp4, &config, shape);
        let [rows, columns, _, stages] = tile(Family::MatmulFp4, &config, shape);
        let programs = 8 * 20u64.div_ceil(rows) * 300u64.div_ceil(columns);
        assert_eq!((launch.grid, launch.cluster), ([programs as u32, 1, 1], 8));
        let stage = rows * 128 * 2 + 64 * columns;
        assert_eq!(launch.dynamic_smem, Bytes(stages * stage + 1024 + rows * columns * 4));
        assert_eq!((launch.workspace, launch.counters), (Bytes(0), 0));
    }

    fn large() -> Config {
        Config {
            block_sizes: vec![256, 128, 64],
            num_warps: Some(8),
            num_stages: Some(4),
            split_k: None,
            l2_groupings: vec![],
            ..config()
        }
    }

    #[test]
    fn a_tile_has_no_more_rows_than_the_problem_and_no_more_of_anything_than_the_config() {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(64));
        let configs = GEMMS.map(|family| (family, open_configs(family)));
        let checked = runner.run(
            &(0usize..4, any::<prop::sample::Index>(), 1i64..9000, 1i64..9000, 1i64..4000),
            |(family, which, m, n, k)| {
                let (family, configs) = &configs[family];
                let config = which.get(configs);
                let [rows, columns, warps, stages] = tile(*family, config, [m, n, 2 * k]);
                let most: Vec<u64> = config.block_sizes.iter().map(|size| u64::from(*size)).collect();
                prop_assert!(rows * columns <= most[0] * most[1], "{config}: {rows} x {columns}");
                prop_assert!(rows < m as u64 + 16 && warps <= u64::from(config.num_warps.unwrap()));
                let weights = if matches!(family, Family::Matmul | Family::MatmulInt16) { 2 } else { 1 };
                let depth = if weights == 2 { most[2] } else { 2 * most[2] };
                let bytes = |rows: u64, columns: u64| rows * depth * 2 + most[2] * columns * weights;
                prop_assert!(
                    stages * bytes(rows, columns) <= u64::from(config.num_stages.unwrap()) * bytes(most[0], most[1])
                );
                Ok(())
            },
        );
        assert!(checked.is_ok(), "{checked:?}");
    }

    #[test]
    fn a_product_is_dealt_out_so_that_the_last_wave_is_full() {
        let of = |shape| tile(Family::Matmul, &large(), shape)[..2].to_vec();
        // 12 x 24 tiles of 256 rows are two waves and a fifth of 132, 16 x 24 of 192 three nearly full ones.
        assert_eq!(of([3072, 3072, 3072]), [192, 128]);
        assert_eq!(of([4096, 4096, 4096]), [256, 128]);
        // Smaller tiles, that all run at once, where large ones would leave half of the GPU idle.
        assert_eq!(of([1024, 1024, 1024]), [128, 64]);
        assert_eq!(of([512, 4096, 4096]), [128, 128]);
    }

    #[test]
    fn small_tiles_have_more_stages_where_each_runs_alone_and_fewer_programs_wait_where_not() {
        let [.., alone] = tile(Family::MatmulFp4, &decode(), [16, 4096, 4096]);
        let [.., many] = tile(Family::MatmulFp4, &decode(), [64, 40_000, 4096]);
        assert!(alone > many, "{alone} and {many} stages");
    }

    fn decode() -> Config {
        Config { block_sizes: vec![64, 64, 64], num_stages: Some(6), split_k: None, l2_groupings: vec![], ..config() }
    }

    #[test]
    fn a_launch_left_to_choose_groups_tile_rows_that_share_columns() {
        let group = |pid_type: PidType, grouping: Vec<u32>| {
            let multiplier = pid_type.is_persistent().then_some(1);
            let config =
                Config { l2_groupings: grouping, pid_type: Some(pid_type), num_sm_multiplier: multiplier, ..large() };
            launch(Family::Matmul, &config, [4096, 4096, 4096]).args[10].clone()
        };
        assert_eq!(group(PidType::Flat, vec![]), Arg::I32(4));
        assert_eq!(group(PidType::PersistentInterleaved, vec![]), Arg::I32(4));
        assert_eq!(group(PidType::PersistentBlocked, vec![]), Arg::I32(1));
        assert_eq!(group(PidType::Flat, vec![2]), Arg::I32(2));
    }

    #[test]
    fn large_tiles_bring_a_whole_group_of_warps_to_load() {
        let shape = [4096, 4096, 4096];
        assert_eq!(launch(Family::Matmul, &large(), shape).threads, 256 + 128);
        assert_eq!(launch(Family::Matmul, &config(), shape).threads, 128 + 32);
    }

    #[test]
    fn a_launch_left_to_choose_splits_what_would_leave_the_gpu_idle() {
        let parts = |config: &Config, shape| match launch(Family::Matmul, config, shape).args[11] {
            Arg::I32(parts) => parts,
            ref other => panic!("split_k is {other:?}"),
        };
        assert_eq!(parts(&decode(), [64, 4096, 14336]), 2);
        assert_eq!(parts(&decode(), [64, 2 * 132 * 64, 8192]), 1);
        assert_eq!(parts(&decode(), [1, 1, 1]), 1);
        assert_eq!(parts(&large(), [4096, 4096, 4096]), 1);
        assert!(parts(&large(), [48, 1024, 8192]) > 2);
        let persistent =
            Config { pid_type: Some(PidType::PersistentInterleaved), num_sm_multiplier: Some(1), ..decode() };
        assert_eq!(parts(&persistent, [64, 4096, 14336]), 2, "each program has one tile");
        assert_eq!(parts(&persistent, [640, 4096, 14336]), 1);
        assert_eq!(
            launch(Family::MatmulInt4, &Config { block_sizes: vec![16, 64, 128], ..decode() }, [16, 4096, 4096])
                .cluster,
            2
        );
    }

    /// The configs of the plan's space whose number of parts is left to the launch.
    fn open_configs(family: Family) -> Vec<Config> {
        let plan = Plan::load(family, None).unwrap();
        let configs = plan.spaces(&h200()).into_iter().flat_map(|space| space.configs.clone());
        let open = |config: &Config| config.split_k.is_none() && config.l2_groupings.is_empty();
        configs.filter(|config| config.mma == Some(Mma::Wgmma) && open(config)).collect()
    }

    #[test]
    fn every_config_of_the_space_runs_every_shape_with_its_split_left_open() {
        for family in GEMMS {
            let configs = open_configs(family);
            assert!(!configs.is_empty());
            let shape = (1i64..9000, 1i64..9000, 1i64..9000);
            let tiny = (1i64..20, 1i64..20, 1i64..20);
            let mut runner = TestRunner::new(ProptestConfig::with_cases(32));
            let checked = runner.run(&prop_oneof![shape, tiny], |(m, n, k)| {
                let k = if matches!(family, Family::Matmul | Family::MatmulInt16) { k } else { 2 * k };
                let problem = problem(family, m, n, k);
                for config in &configs {
                    let launch = spec(family).launch(config, &problem, &h200());
                    prop_assert!(launch.is_ok(), "{}: {:?}", config, launch);
                }
                Ok(())
            });
            assert!(checked.is_ok(), "{family}: {checked:?}");
        }
    }

    #[test]
    fn launch_knobs_cost_no_compile() {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(512));
        let knobs = (0usize..3, 1u32..3, 0u32..4, 0u32..3);
        let checked = runner.run(&((1i64..9000, 1i64..9000, 1i64..1100), knobs), |((m, n, eight_k), knobs)| {
            let (pid, multiplier, split, group) = knobs;
            let pid_type = PidType::ALL[pid];
            let changed = Config {
                pid_type: Some(pid_type),
                num_sm_multiplier: pid_type.is_persistent().then_some(multiplier),
                split_k: (split > 0).then_some(1 << (split - 1)),
                l2_groupings: (group > 0).then_some(group).into_iter().collect(),
                ..large()
            };
            let problem = problem(Family::Matmul, m, n, 8 * eight_k);
            let kernel = |config| spec(Family::Matmul).kernel(config, &problem, &h200());
            if let Ok(changed) = kernel(&changed) {
                prop_assert_eq!(Ok(changed), kernel(&large()));
            }
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
            (blocks([16, 96, 64]), "96 along n"),
            (blocks([16, 128, 32]), "32 along k"),
            (blocks([16, 128, 512]), "512 rows of B"),
            (blocks([256, 256, 64]), "560 registers"),
            (Config { num_warps: Some(2), ..config() }, "num_warps 2"),
            (Config { num_warps: Some(8), block_sizes: vec![32, 64, 64], ..config() }, "each of 2 groups"),
            (Config { num_stages: Some(1), ..config() }, "num_stages 1"),
            (Config { num_stages: Some(32), ..config() }, "of shared memory"),
            (Config { split_k: Some(3), ..config() }, "split_k 3"),
            (Config { split_k: Some(16), ..config() }, "split_k 16 exceeds the 8 blocks"),
            (
                Config { split_k: Some(2), pid_type: persistent, num_sm_multiplier: Some(1), ..blocks([8, 64, 64]) },
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
        assert!(gemm.launch(&config(), &problem, &h200()).is_ok());
    }
}
