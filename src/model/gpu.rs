//! Profiles of the GPUs the tool knows: what pruning and launch geometry need, without a driver.

use super::{Bytes, Mma};
use crate::error::{Error, Result};

/// What a GPU model offers a kernel. A device found at run time is matched to one by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuProfile {
    /// The name on the command line and in the output folder: `h200`.
    pub name: &'static str,
    /// What the driver calls it holds this text: `H200`.
    pub device_name: &'static str,
    /// The architecture kernels are compiled for: `sm_90a`.
    pub arch: &'static str,
    /// Streaming multiprocessors (cores, on the cpu device).
    pub multiprocessors: u32,
    /// Shared memory one program may ask for.
    pub smem_per_block: Bytes,
    /// Shared memory of a multiprocessor.
    pub smem_per_multiprocessor: Bytes,
    /// 32-bit registers of a multiprocessor.
    pub registers_per_multiprocessor: u32,
    /// Resident threads of a multiprocessor.
    pub threads_per_multiprocessor: u32,
    /// The last-level cache that a cold sample must flush.
    pub l2: Bytes,
    /// The matrix instructions it has, each a space of its own in a plan.
    pub mma: &'static [Mma],
}

const AMPERE: &[Mma] = &[Mma::Simt, Mma::MmaSync];
const HOPPER: &[Mma] = &[Mma::Simt, Mma::MmaSync, Mma::Wgmma];
const BLACKWELL: &[Mma] = &[Mma::Simt, Mma::MmaSync, Mma::Tcgen05];

/// Limits from the CUDA programming guide's table of compute capabilities; counts and caches from the vendor's
/// datasheets. A profile taken from a live device overrides them with what the driver says.
#[rustfmt::skip]
const PROFILES: [GpuProfile; 7] = [
    profile("b200", "B200", "sm_100a", 148, 227, 228, 2048, 126, BLACKWELL),
    profile("h200", "H200", "sm_90a", 132, 227, 228, 2048, 60, HOPPER),
    profile("h100", "H100", "sm_90a", 132, 227, 228, 2048, 50, HOPPER),
    profile("a100", "A100", "sm_80", 108, 163, 164, 2048, 40, AMPERE),
    profile("l40s", "L40S", "sm_89", 142, 99, 100, 1536, 96, AMPERE),
    profile("rtx4090", "RTX 4090", "sm_89", 128, 99, 100, 1536, 72, AMPERE),
    profile("rtx5090", "RTX 5090", "sm_120a", 170, 99, 100, 1536, 96, AMPERE),
];

#[allow(clippy::too_many_arguments)] // one row of the table above
const fn profile(
    name: &'static str,
    device_name: &'static str,
    arch: &'static str,
    multiprocessors: u32,
    smem_per_block_kib: u64,
    smem_per_multiprocessor_kib: u64,
    threads_per_multiprocessor: u32,
    l2_mib: u64,
    mma: &'static [Mma],
) -> GpuProfile {
    GpuProfile {
        name,
        device_name,
        arch,
        multiprocessors,
        smem_per_block: Bytes::kib(smem_per_block_kib),
        smem_per_multiprocessor: Bytes::kib(smem_per_multiprocessor_kib),
        registers_per_multiprocessor: 65_536,
        threads_per_multiprocessor,
        l2: Bytes::mib(l2_mib),
        mma,
    }
}

impl GpuProfile {
    /// The name of the host device in place of a GPU's.
    pub const CPU: &'static str = "cpu";

    /// Every GPU the tool knows.
    pub fn known() -> &'static [GpuProfile] {
        &PROFILES
    }

    /// The profile of a GPU by its short name.
    ///
    /// # Errors
    /// Where no profile has that name.
    pub fn by_name(name: &str) -> Result<Self> {
        Self::known().iter().find(|profile| profile.name == name).cloned().ok_or_else(|| {
            let known: Vec<_> = Self::known().iter().map(|profile| profile.name).collect();
            Error::usage(format!("'{name}' is no GPU this tool knows; it knows {}", known.join(", ")))
        })
    }

    /// The profile that the driver's device name belongs to, if the tool knows it.
    pub fn by_device_name(device_name: &str) -> Option<Self> {
        let words: Vec<_> = device_name.split([' ', '-']).collect();
        let holds = |profile: &&GpuProfile| {
            let wanted: Vec<_> = profile.device_name.split_whitespace().collect();
            words.windows(wanted.len()).any(|window| window == wanted)
        };
        Self::known().iter().find(holds).cloned()
    }

    /// The profile of the host: cores for multiprocessors, no matrix instructions.
    pub fn cpu(cores: u32, l2: Bytes) -> Self {
        Self {
            name: Self::CPU,
            device_name: Self::CPU,
            arch: std::env::consts::ARCH,
            multiprocessors: cores,
            smem_per_block: l2,
            smem_per_multiprocessor: l2,
            registers_per_multiprocessor: 0,
            threads_per_multiprocessor: 1,
            l2,
            mma: &[],
        }
    }

    /// Whether this is the host device.
    pub fn is_cpu(&self) -> bool {
        self.name == Self::CPU
    }
}
