//! `gemm_wgmma.cu`: one warp that loads by the copy engine and warpgroups that multiply, on Hopper.

use super::{Product, ProgramOrder, Weights, group_m, program_order, vector_bytes};
use crate::families::knobs::{self, WARP};
use crate::families::{Arg, Element, KernelSpec, Launch, Rejection, Swizzle, TensorMap, require};
use crate::model::{Bytes, Config, GpuProfile, Mma};

/// Columns of C in one product of a warpgroup.
const TILE_COLUMNS: u64 = 64;
/// Bytes of the widest swizzled row, and of a row of C in shared memory.
const PANEL_BYTES: u64 = 128;
/// Shared memory for the stages' barriers.
const BARRIER_BYTES: u64 = 1024;
/// Rows of a tile that the copy engine takes at once.
const MOST_ROWS: u64 = 256;
/// Programs in the largest cluster.
const MOST_PARTS: u64 = 16;
/// Registers of a thread for addresses and counters.
const SPARE_REGISTERS: u64 = 48;
/// Registers of a thread that was handed more by the warps that load.
const MOST_REGISTERS: u64 = 232;

/// The compile-time half of a config, as the kernel works it out from its macros.
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
            m == 192 || m.is_power_of_two() && (8..=256).contains(&m),
            "block of {m} along m: it must be 8, 16, 32, 64, 128, 192 or 256"
        );
        require!(k.is_multiple_of(64) && k <= 256, "block of {k} along k: it must be a multiple of 64 up to 256");
        require!((4..=16).contains(&warps), "num_warps {warps}: 4, 8 or 16 multiply, in groups of 4");
        let groups = u64::from(warps / 4);
        let group_columns = n / groups;
        require!(
            n.is_multiple_of(groups) && [64, 128, 256].contains(&group_columns),
            "block of {n} along n: each of {groups} groups of warps has 64, 128 or 256"
        );
        require!((2..=64).contains(&stages), "num_stages {stages}: the load pipeline needs 2 to 64");
        let tiling = Self { weights, m, n, k, groups, stages };
        let registers = tiling.sums() + tiling.fragments() + SPARE_REGISTERS;
        let limit = tiling.registers();
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

    /// Registers of a thread for two chunks of decoded weights.
    fn fragments(&self) -> u64 {
        let chunk = match self.tiles() {
            tiles if tiles > 2 || tiles * self.m >= 128 => 2,
            _ => (self.k / 32).min(4),
        };
        if self.weights == Weights::Bf16 { 0 } else { 2 * chunk * self.tiles() * 4 }
    }

    /// Whether three idle warps come with the loading one, to hand their registers over.
    fn hands_over(&self) -> bool {
        self.groups == 2 && self.sums() >= 128
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
        self.m.min(TILE_COLUMNS / self.tiles())
    }

    /// Shared memory of one program: the stages, then two buffers of C or the partial sums of a share of C.
    fn smem(&self, split_k: u64) -> Bytes {
        let stage = self.m * self.k * Element::Bf16.size_bytes() + self.b_rows() * self.b_row_bytes();
        let staging = 2 * self.groups * self.tiles() * self.staging_rows() * PANEL_BYTES;
        let partials = if split_k > 1 { self.m * self.n * Element::F32.size_bytes() } else { 0 };
        Bytes(self.stages * stage + BARRIER_BYTES + staging.max(partials))
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
    let tiling = Tiling::new(config, weights)?;
    require!(
        tiling.b_rows() <= MOST_ROWS,
        "block of {} rows of B: the copy engine takes {MOST_ROWS} at once",
        tiling.b_rows()
    );

    let tiles_m = m.div_ceil(tiling.m);
    let tiles_n = n.div_ceil(tiling.n);
    let k_steps = k.div_ceil(tiling.k);
    let split_k = u64::from(knobs::needed("split_k", config.split_k)?);
    require!(split_k <= k_steps, "split_k {split_k} exceeds the {k_steps} blocks along k = {k}");
    require!(
        split_k.is_power_of_two() && split_k <= MOST_PARTS,
        "split_k {split_k}: a cluster has 1, 2, 4, 8 or 16 programs"
    );
    if let Some(pid_type) = config.pid_type {
        require!(split_k == 1 || !pid_type.is_persistent(), "split_k {split_k} needs pid_type flat, not {pid_type}");
    }
    let smem = tiling.smem(split_k);
    knobs::fits_smem(smem, profile)?;
    let group_m = group_m(config, tiles_m)?;
    let ProgramOrder { programs, stride, span } = program_order(config, tiles_m * tiles_n, profile)?;

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
