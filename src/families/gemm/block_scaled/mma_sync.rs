//! `gemm_block_scaled.cu`: numbers decoded by the warps that multiply them, on any GPU with f16 tensor cores.

use super::{Format, Product, SCALE_GROUPS, vector_bytes};
use crate::families::gemm::{EXTENTS, ProgramOrder, TILES, conditions as read, group_m, program_order, split_k};
use crate::families::knobs::{self, WARP};
use crate::families::{Arg, Condition, Footprint, KernelSpec, Launch, Rejection, require};
use crate::model::{Bytes, Config, GpuProfile};
use std::sync::LazyLock;

/// Bytes between the rows of a tile in shared memory.
const ROW_GAP: u64 = 16;
/// Bytes of a row's scales of one block.
const SCALE_BYTES: u64 = 4;

/// The compile-time half of a config.
struct Tiling {
    format: Format,
    /// Rows of C.
    m: u64,
    /// Columns of C.
    n: u64,
    /// Bytes of a row of one stage.
    k_bytes: u64,
    warps: u32,
    stages: u64,
}

impl Tiling {
    /// The config's tiling, if a kernel with it can be compiled and run.
    fn new(config: &Config, format: Format, profile: &GpuProfile) -> Result<Self, Rejection> {
        let [m, n, k_bytes] = knobs::block_sizes(config)?.map(u64::from);
        let warps = knobs::num_warps(config)?;
        let stages = u64::from(knobs::needed("num_stages", config.num_stages)?);
        let least_k = format.group() * SCALE_GROUPS;
        for (name, extent, least, most) in
            [("m", m, 16, 128), ("n", n, 32, 128), ("k", k_bytes * format.per_byte(), least_k, 1024)]
        {
            require!(
                extent.is_power_of_two() && (least..=most).contains(&extent),
                "block of {extent} along {name}: it must be a power of two from {least} to {most}"
            );
        }
        require!(
            u64::from(warps) * 16 * 32 <= m * n,
            "num_warps {warps}: a {m} x {n} tile has only {} warp tiles of 16 x 32",
            m * n / (16 * 32)
        );
        require!(stages >= 2, "num_stages {stages}: the load pipeline needs 2");
        require!(split_k(config) == 1, "split_k {}: a program of this kernel has all of a tile's k", split_k(config));
        let tiling = Self { format, m, n, k_bytes, warps, stages };
        let registers = (profile.registers_per_multiprocessor / tiling.threads()).min(256);
        require!(
            tiling.sums() <= u64::from(registers / 4),
            "{} sums a thread leave too few of its {registers} registers",
            tiling.sums()
        );
        Ok(tiling)
    }

    fn threads(&self) -> u32 {
        self.warps * WARP
    }

    /// Sums of a thread.
    fn sums(&self) -> u64 {
        self.m * self.n / u64::from(self.threads())
    }

    /// As many registers as the kernel leaves a thread.
    fn registers(&self) -> u32 {
        if self.sums() <= 32 { 168 } else { 256 }
    }

    fn k(&self) -> u64 {
        self.k_bytes * self.format.per_byte()
    }

    fn stage_bytes(&self) -> Bytes {
        let scales = self.format.scale_blocks(self.k()) * SCALE_BYTES;
        Bytes((self.m + self.n) * (self.k_bytes + ROW_GAP + scales))
    }

    fn smem(&self) -> Bytes {
        Bytes(self.stages * self.stage_bytes().0)
    }
}

pub(super) fn check(config: &Config, format: Format, profile: &GpuProfile) -> Result<(), Rejection> {
    knobs::order(config)?;
    knobs::fits_smem(Tiling::new(config, format, profile)?.smem(), profile)
}

pub(super) fn conditions() -> &'static [Condition] {
    static CONDITIONS: LazyLock<Vec<Condition>> = LazyLock::new(|| read([EXTENTS, TILES]));
    &CONDITIONS
}

pub(super) fn footprint(config: &Config, format: Format, profile: &GpuProfile) -> Result<Footprint, Rejection> {
    let tiling = Tiling::new(config, format, profile)?;
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
    profile: &GpuProfile,
) -> Result<(KernelSpec, Launch), Rejection> {
    let &Product { format, dtype, m, n, k } = product;
    let tiling = Tiling::new(config, format, profile)?;
    let [tiles_m, tiles_n] = [m.div_ceil(tiling.m), n.div_ceil(tiling.n)];
    let (k_steps, group_m) = (k.div_ceil(tiling.k()), group_m(config, tiles_m));
    let ProgramOrder { programs, stride, span } = program_order(config, tiles_m * tiles_n, profile.multiprocessors);
    let macros = [
        ("BLOCK_M", tiling.m.to_string()),
        ("BLOCK_N", tiling.n.to_string()),
        ("BLOCK_K", tiling.k().to_string()),
        ("NUM_WARPS", tiling.warps.to_string()),
        ("NUM_STAGES", tiling.stages.to_string()),
        ("DTYPE", knobs::c_type(dtype)),
        ("FORMAT", format.name().to_string()),
        ("K_VECTOR_BYTES", vector_bytes(product.k_bytes()).to_string()),
        ("C_VECTOR_BYTES", vector_bytes(product.c_row_bytes()).to_string()),
    ];
    let numbers = [m, n, k, tiles_m, tiles_n, k_steps, group_m, stride, span];
    let tensors = (0..4).map(Arg::Input).chain(product.factors()).chain([Arg::Output(0)]);
    let launch = Launch {
        grid: [programs as u32, 1, 1],
        cluster: [1; 3],
        threads: [tiling.threads(), 1, 1],
        dynamic_smem: tiling.smem(),
        args: tensors.chain(numbers.map(|number| Arg::I32(number as i32))).collect(),
        workspace: Bytes(0),
        counters: 0,
        cooperative: false,
    };
    Ok((KernelSpec::shipped("gemm_block_scaled.cu", "gemm_block_scaled", macros), launch))
}
