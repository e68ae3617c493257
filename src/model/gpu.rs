//! Profiles of the GPUs the tool knows: what pruning and launch geometry need, without a driver.

use super::{Bytes, Mma};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a GPU model offers a kernel. A device found at run time is matched to one by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProfile {
    /// The name on the command line and in the output folder: `h200`.
    pub name: String,
    /// What the driver calls it holds this text: `H200`.
    pub device_name: String,
    /// The architecture kernels are compiled for: `sm_90a`.
    pub arch: String,
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
    pub mma: Vec<Mma>,
}

/// Name, part of the driver's name, architecture, multiprocessors, shared memory in KiB a block and a multiprocessor,
/// threads a multiprocessor, L2 in MiB. Limits are from the CUDA programming guide's table of compute capabilities;
/// counts and caches from the vendor's datasheets. A live device's own figures take their place.
#[rustfmt::skip]
#[allow(clippy::type_complexity)] // one row of a table
const KNOWN: [(&str, &str, &str, u32, u64, u64, u32, u64); 7] = [
    ("b200", "B200", "sm_100a", 148, 227, 228, 2048, 126),
    ("h200", "H200", "sm_90a", 132, 227, 228, 2048, 60),
    ("h100", "H100", "sm_90a", 132, 227, 228, 2048, 50),
    ("a100", "A100", "sm_80", 108, 163, 164, 2048, 40),
    ("l40s", "L40S", "sm_89", 142, 99, 100, 1536, 96),
    ("rtx4090", "RTX 4090", "sm_89", 128, 99, 100, 1536, 72),
    ("rtx5090", "RTX 5090", "sm_120a", 170, 99, 100, 1536, 96),
];

impl GpuProfile {
    /// The name of the host device in place of a GPU's.
    pub const CPU: &'static str = "cpu";

    /// Every GPU the tool knows.
    pub fn known() -> Vec<Self> {
        KNOWN
            .iter()
            .map(|&(name, device_name, arch, multiprocessors, block_kib, smem_kib, threads, l2_mib)| Self {
                name: name.into(),
                device_name: device_name.into(),
                arch: arch.into(),
                multiprocessors,
                smem_per_block: Bytes::kib(block_kib),
                smem_per_multiprocessor: Bytes::kib(smem_kib),
                registers_per_multiprocessor: 65_536,
                threads_per_multiprocessor: threads,
                l2: Bytes::mib(l2_mib),
                mma: Mma::of_arch(arch),
            })
            .collect()
    }

    /// The profile of a GPU by its short name.
    ///
    /// # Errors
    /// Where no profile has that name.
    pub fn by_name(name: &str) -> Result<Self> {
        Self::known().into_iter().find(|profile| profile.name == name).ok_or_else(|| {
            let known: Vec<_> = Self::known().into_iter().map(|profile| profile.name).collect();
            Error::usage(format!("'{name}' is no GPU this tool knows; it knows {}", known.join(", ")))
        })
    }

    /// The profile that the driver's device name belongs to, if the tool knows it.
    pub fn by_device_name(device_name: &str) -> Option<Self> {
        let words: Vec<_> = device_name.split([' ', '-']).collect();
        Self::known().into_iter().find(|profile| {
            let wanted: Vec<_> = profile.device_name.split(' ').collect();
            words.windows(wanted.len()).any(|window| window == wanted)
        })
    }

    /// The short name of a GPU by the driver's device name; one the tool does not know has one too: `NVIDIA L4` → `l4`.
    pub fn short_name(device_name: &str) -> String {
        if let Some(known) = Self::by_device_name(device_name) {
            return known.name;
        }
        let words = device_name.split(|character: char| !character.is_ascii_alphanumeric());
        let words = words.filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("nvidia"));
        words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_")
    }

    /// The profile of the host: cores for multiprocessors, no matrix instructions.
    pub fn cpu(cores: u32, l2: Bytes) -> Self {
        Self {
            name: Self::CPU.into(),
            device_name: Self::CPU.into(),
            arch: std::env::consts::ARCH.into(),
            multiprocessors: cores,
            smem_per_block: l2,
            smem_per_multiprocessor: l2,
            registers_per_multiprocessor: 0,
            threads_per_multiprocessor: 1,
            l2,
            mma: Vec::new(),
        }
    }

    /// Whether this is the host device.
    pub fn is_cpu(&self) -> bool {
        self.name == Self::CPU
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_match_by_whole_words() {
        let name = |device: &str| GpuProfile::by_device_name(device).map(|profile| profile.name);
        assert_eq!(name("NVIDIA H200").as_deref(), Some("h200"));
        assert_eq!(name("NVIDIA A100-SXM4-80GB").as_deref(), Some("a100"));
        assert_eq!(name("NVIDIA GeForce RTX 4090").as_deref(), Some("rtx4090"));
        assert_eq!(name("NVIDIA GH200 480GB"), None);
        assert_eq!(GpuProfile::short_name("NVIDIA H200"), "h200");
        assert_eq!(GpuProfile::short_name("NVIDIA GH200 480GB"), "gh200_480gb");
    }
}
