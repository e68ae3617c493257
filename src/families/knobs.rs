//! What the families share in reading a config: knobs that must be there, knobs that must not, and the program orders.

use super::{Rejection, require};
use crate::model::{Bytes, Config, Dtype, GpuProfile, PidType};

/// Threads of a warp on every GPU there is.
pub(super) const WARP: u32 = 32;

/// The kernels' name of an element type, for their `DTYPE` macro.
pub(super) fn c_type(dtype: Dtype) -> String {
    match dtype {
        Dtype::Bf16 => "bf16",
        Dtype::F32 => "float",
        Dtype::F16 => "f16",
        Dtype::F64 => "double",
        Dtype::Fp8 => "fp8",
        Dtype::I8 => "signed char",
        Dtype::I16 => "short",
        Dtype::I32 => "int",
        Dtype::I64 => "long long",
        Dtype::U8 => "unsigned char",
    }
    .into()
}

/// Refuses every knob that is set but not in `known`: it would change nothing.
pub(super) fn only(config: &Config, known: &[&str]) -> Result<(), Rejection> {
    let set = [
        ("l2_groupings", !config.l2_groupings.is_empty()),
        ("mma", config.mma.is_some()),
        ("num_sm_multiplier", config.num_sm_multiplier.is_some()),
        ("num_stages", config.num_stages.is_some()),
        ("num_warps", config.num_warps.is_some()),
        ("pid_type", config.pid_type.is_some()),
        ("reduction_loops", !config.reduction_loops.is_empty()),
        ("split_k", config.split_k.is_some()),
    ];
    let idle = set.iter().find(|(name, is_set)| *is_set && !known.contains(name));
    let own = config.own.keys().map(String::as_str).find(|name| !known.contains(name));
    let idle = idle.map(|(name, _)| *name).or(own);
    idle.map_or(Ok(()), |name| Err(Rejection(format!("{name} has no effect on this kernel"))))
}

/// The value of a knob the kernel cannot do without; positive.
pub(super) fn needed(knob: &str, value: Option<u32>) -> Result<u32, Rejection> {
    let value = value.ok_or_else(|| Rejection(format!("{knob} is missing")))?;
    require!(value > 0, "{knob} 0 must be positive");
    Ok(value)
}

/// Threads that a config may ask the host for: as many as a block of a GPU has, and more than are worth starting.
const MOST_HOST_THREADS: u32 = 1024;

/// Checks the threads that a config asks the host for, its `num_warps`.
pub(super) fn host_threads(config: &Config) -> Result<(), Rejection> {
    let threads = needed("num_warps", config.num_warps)?;
    require!(
        threads <= MOST_HOST_THREADS,
        "num_warps {threads} is more than the {MOST_HOST_THREADS} threads of the host"
    );
    Ok(())
}

/// The tile extents, exactly `N` and positive.
pub(super) fn block_sizes<const N: usize>(config: &Config) -> Result<[u32; N], Rejection> {
    let sizes = &config.block_sizes;
    let sizes: [u32; N] =
        sizes.as_slice().try_into().map_err(|_| Rejection(format!("block_sizes {sizes:?}: this family has {N}")))?;
    require!(sizes.iter().all(|&size| size > 0), "block_sizes {sizes:?} must be positive");
    Ok(sizes)
}

/// Warps of a program: a power of two up to 32, the largest thread block.
pub(super) fn num_warps(config: &Config) -> Result<u32, Rejection> {
    let warps = needed("num_warps", config.num_warps)?;
    require!(warps.is_power_of_two() && warps <= 32, "num_warps {warps} is not a power of two up to 32");
    Ok(warps)
}

/// The thread blocks that share the tiles of a problem. `kernels/include/programs.cuh` deals them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    /// Thread blocks.
    pub(super) count: u32,
    /// Each has a run of neighbouring tiles; otherwise every `count`-th one.
    pub(super) contiguous: bool,
}

/// Refuses a program order that is missing, that only a kernel which asks the hardware has, or that has a multiplier which does
/// nothing.
pub(super) fn order(config: &Config) -> Result<(), Rejection> {
    require!(
        config.pid_type != Some(PidType::ClusterLaunchControl),
        "pid_type {}: this kernel does not ask for its tiles",
        PidType::ClusterLaunchControl
    );
    any_order(config)
}

/// The same for a kernel that has every order.
pub(super) fn any_order(config: &Config) -> Result<(), Rejection> {
    let pid_type = config.pid_type.ok_or_else(|| Rejection("pid_type is missing".into()))?;
    require!(pid_type != PidType::Xyz, "pid_type {pid_type}: this kernel's grid has one axis");
    match config.num_sm_multiplier {
        multiplier if pid_type.is_persistent() => needed("num_sm_multiplier", multiplier).map(|_| ()),
        Some(multiplier) => {
            Err(Rejection(format!("num_sm_multiplier {multiplier} has no effect with pid_type {pid_type}")))
        }
        None => Ok(()),
    }
}

/// The programs for `tiles` under the config's `pid_type` and `num_sm_multiplier`; more than tiles would have nothing to do.
pub(super) fn programs(config: &Config, tiles: u64, multiprocessors: u32) -> Programs {
    let most = config.num_sm_multiplier.map_or(tiles, |multiplier| u64::from(multiplier) * u64::from(multiprocessors));
    Programs { count: tiles.min(most) as u32, contiguous: config.pid_type == Some(PidType::PersistentBlocked) }
}

/// Shared memory that a multiprocessor loses to each program on it (CUDA C++ Programming Guide, from compute capability 8.0).
const RESERVED_SMEM: Bytes = Bytes::kib(1);

/// Programs whose shared memory a multiprocessor has room for.
pub(super) fn resident_by_smem(smem: Bytes, profile: &GpuProfile) -> u64 {
    profile.smem_per_multiprocessor.0 / (smem.0 + RESERVED_SMEM.0)
}

/// A program's shared memory must fit the GPU.
pub(super) fn fits_smem(needs: Bytes, profile: &GpuProfile) -> Result<(), Rejection> {
    require!(
        needs <= profile.smem_per_block,
        "needs {needs} of shared memory, a program has {}",
        profile.smem_per_block
    );
    Ok(())
}
