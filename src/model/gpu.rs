//! Profiles of the GPUs the tool knows: what pruning and launch geometry need, without a driver.

use super::{Bytes, Family, Mma};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    /// What its maker says it reaches, where the tool knows.
    #[serde(default)]
    pub peaks: Option<Peaks>,
}

/// The highest rates that the maker of a GPU names. They order what to try first where nothing was measured, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peaks {
    /// Of memory, in 10^9 bytes a second.
    pub memory_gb_per_s: u32,
    /// Of dense products of bf16 with sums in f32, in 10^12 operations a second.
    pub bf16_tflops: u32,
}

impl Peaks {
    /// Of a family's products by these instructions, in 10^12 operations a second: how many times bf16's, its maker says as well (the
    /// datasheets of H100, H200, HGX B200 and B300). Operands that a kernel decodes are multiplied as bf16. B300's rate of NVFP4, half as
    /// much again, takes instructions over 96 of k, which no kernel here has.
    pub fn tflops(self, family: Family, mma: Option<Mma>) -> u32 {
        let times = match (family, mma) {
            (Family::MatmulNvfp4Nvfp4, Some(Mma::Tcgen05)) => 4,
            (Family::MatmulMxfp8, Some(Mma::Tcgen05)) | (Family::MatmulFp8, Some(Mma::Wgmma | Mma::Tcgen05)) => 2,
            _ => 1,
        };
        times * self.bf16_tflops
    }
}

/// Name, part of the driver's name, architecture, multiprocessors, shared memory in KiB a block and a multiprocessor,
/// threads a multiprocessor, L2 in MiB, memory in GB/s, dense bf16 in TFLOP/s. Limits are from the CUDA programming guide's table
/// of compute capabilities; counts, caches and rates from the vendor's datasheets (HGX B200 and B300, H200, H100 SXM, A100 80GB,
/// L40S) and the whitepapers of the Ada and Blackwell GeForce GPUs, with sums in f32. A live device's own figures take their
/// place, but for the rates.
#[rustfmt::skip]
#[allow(clippy::type_complexity)] // one row of a table
const KNOWN: [(&str, &str, &str, u32, u64, u64, u32, u64, [u32; 2]); 8] = [
    ("b300", "B300", "sm_103a", 148, 227, 228, 2048, 126, [8000, 2250]),
    ("b200", "B200", "sm_100a", 148, 227, 228, 2048, 126, [8000, 2250]),
    ("h200", "H200", "sm_90a", 132, 227, 228, 2048, 60, [4800, 989]),
    ("h100", "H100", "sm_90a", 132, 227, 228, 2048, 50, [3350, 989]),
    ("a100", "A100", "sm_80", 108, 163, 164, 2048, 40, [2039, 312]),
    ("l40s", "L40S", "sm_89", 142, 99, 100, 1536, 96, [864, 362]),
    ("rtx4090", "RTX 4090", "sm_89", 128, 99, 100, 1536, 72, [1008, 165]),
    ("rtx5090", "RTX 5090", "sm_120a", 170, 99, 100, 1536, 96, [1792, 209]),
];

impl GpuProfile {
    /// The name of the host device in place of a GPU's.
    pub const CPU: &'static str = "cpu";

    /// Every GPU the tool knows.
    pub fn known() -> Vec<Self> {
        KNOWN
            .iter()
            .map(|&(name, device_name, arch, multiprocessors, block_kib, smem_kib, threads, l2_mib, rates)| Self {
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
                peaks: Some(Peaks { memory_gb_per_s: rates[0], bf16_tflops: rates[1] }),
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

    /// The profile that the driver's device name belongs to, if the tool knows it. A slice of a GPU has none: it is another
    /// device than the whole.
    pub fn by_device_name(device_name: &str) -> Option<Self> {
        let is_slice = device_name.split([' ', '-']).any(names_a_slice);
        Self::like_device_name(device_name).filter(|_| !is_slice)
    }

    /// The same of a device, or of the GPU that it is a slice of.
    pub(crate) fn like_device_name(device_name: &str) -> Option<Self> {
        let words: Vec<_> = device_name.split([' ', '-']).collect();
        Self::known().into_iter().find(|profile| {
            let wanted: Vec<_> = profile.device_name.split(' ').collect();
            words.windows(wanted.len()).any(|window| window == wanted)
        })
    }

    /// The profile of a GPU by what its maker calls the model, without what tells one device of it from another: `NVIDIA H100`.
    pub fn by_model(name: &str) -> Option<Self> {
        let name = name.strip_prefix("NVIDIA ").unwrap_or(name);
        Self::known().into_iter().find(|profile| profile.device_name == name)
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
            peaks: None,
        }
    }

    /// Whether this is the host device.
    pub fn is_cpu(&self) -> bool {
        self.name == Self::CPU
    }
}

/// Whether a word of a device name says that it is a part of a GPU: `NVIDIA H200 MIG 1g.18gb`, or a virtual one, `A100-4-20C`.
fn names_a_slice(word: &str) -> bool {
    let kind = word.trim_start_matches(|character: char| character.is_ascii_digit());
    word.eq_ignore_ascii_case("mig") || (kind.len() < word.len() && matches!(kind, "A" | "B" | "C" | "CME" | "Q"))
}

/// What tells a device, or a slice of one, from others whose times are not its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// What the driver calls it, in full; of a slice that says which (`NVIDIA H200 MIG 1g.18gb`).
    pub name: String,
    /// Its multiprocessors, or the host's cores, where they are known.
    pub multiprocessors: Option<u32>,
    /// Its memory, where it is known.
    pub memory: Option<Bytes>,
}

/// How like two devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// In all that tells devices apart.
    Same,
    /// In what is known of both; of one of them something is not.
    Unknown,
    /// They differ.
    Other,
}

/// From one driver, or one start of a machine, to the next a device's memory may change by less than one part in so many. The
/// smallest slice more or less of a GPU is one in eight.
const MEMORY_PARTS: u64 = 50;

impl Identity {
    /// How like another device it is.
    pub fn likeness(&self, other: &Self) -> Likeness {
        let cores = self.multiprocessors.zip(other.multiprocessors).map(|(one, other)| one == other);
        let memory = self
            .memory
            .zip(other.memory)
            .map(|(Bytes(one), Bytes(other))| one.abs_diff(other) <= one.max(other) / MEMORY_PARTS);
        let neither = |known: Option<bool>, is_told: [bool; 2]| if is_told == [false; 2] { Some(true) } else { known };
        let cores = neither(cores, [self.multiprocessors.is_some(), other.multiprocessors.is_some()]);
        let memory = neither(memory, [self.memory.is_some(), other.memory.is_some()]);
        match [Some(self.name == other.name), cores, memory] {
            likenesses if likenesses.contains(&Some(false)) => Likeness::Other,
            likenesses if likenesses.contains(&None) => Likeness::Unknown,
            _ => Likeness::Same,
        }
    }
}

/// `NVIDIA H200 (132 multiprocessors, 143771 MiB)`, as far as it is known.
impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let multiprocessors = self.multiprocessors.map(|count| format!("{count} multiprocessors"));
        let known: Vec<String> =
            multiprocessors.into_iter().chain(self.memory.map(|bytes| bytes.to_string())).collect();
        write!(out, "{}", self.name)?;
        if known.is_empty() { Ok(()) } else { write!(out, " ({})", known.join(", ")) }
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
        for slice in
            ["NVIDIA H200 MIG 1g.18gb", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "GRID A100-4-20C", "NVIDIA A100-1-5CME"]
        {
            assert_eq!(name(slice), None, "{slice}");
        }
        assert_eq!(GpuProfile::short_name("NVIDIA H200 MIG 1g.18gb"), "h200_mig_1g_18gb");
        assert_eq!(GpuProfile::short_name("NVIDIA H200"), "h200");
        assert_eq!(GpuProfile::short_name("NVIDIA GH200 480GB"), "gh200_480gb");
    }

    #[test]
    fn narrow_operands_are_multiplied_faster_where_the_instructions_take_them() {
        let rate = |gpu: &str, family, mma| GpuProfile::by_name(gpu).unwrap().peaks.unwrap().tflops(family, Some(mma));
        for gpu in ["b200", "b300"] {
            assert_eq!(rate(gpu, Family::MatmulNvfp4Nvfp4, Mma::Tcgen05), 9000);
            assert_eq!(rate(gpu, Family::MatmulMxfp8, Mma::Tcgen05), 4500);
            assert_eq!(rate(gpu, Family::MatmulFp8, Mma::Tcgen05), 4500);
            // Weights that are decoded to bf16, and operands that warps decode.
            assert_eq!(rate(gpu, Family::MatmulNvfp4, Mma::Tcgen05), 2250);
            assert_eq!(rate(gpu, Family::MatmulNvfp4Nvfp4, Mma::MmaSync), 2250);
            assert_eq!(rate(gpu, Family::MatmulMxfp8, Mma::MmaSync), 2250);
            assert_eq!(rate(gpu, Family::Matmul, Mma::Tcgen05), 2250);
        }
        assert_eq!(rate("h200", Family::MatmulFp8, Mma::Wgmma), 1978);
        assert_eq!(rate("h200", Family::MatmulMxfp8, Mma::MmaSync), 989);
    }

    #[test]
    fn devices_are_alike_in_all_that_is_known_or_not_known_to_be() {
        let of = |name: &str, multiprocessors: u32, gib: u64| Identity {
            name: name.into(),
            multiprocessors: Some(multiprocessors),
            memory: Some(Bytes::mib(gib << 10)),
        };
        let whole = of("NVIDIA H200", 132, 140);
        let nearly = Identity { memory: Some(Bytes::mib((140 << 10) - 300)), ..whole.clone() };
        let untold = Identity { multiprocessors: None, memory: None, ..whole.clone() };
        for (other, likeness) in [
            (whole.clone(), Likeness::Same),
            (nearly, Likeness::Same),
            (of("NVIDIA H200 MIG 1g.18gb", 132, 140), Likeness::Other),
            (of("NVIDIA H200", 16, 140), Likeness::Other),
            (of("NVIDIA H200", 132, 120), Likeness::Other),
            (untold.clone(), Likeness::Unknown),
            (Identity { memory: None, ..whole.clone() }, Likeness::Unknown),
            (Identity { name: "NVIDIA H100".into(), ..untold.clone() }, Likeness::Other),
        ] {
            assert_eq!((whole.likeness(&other), other.likeness(&whole)), (likeness, likeness), "{other}");
        }
        assert_eq!(untold.likeness(&untold), Likeness::Same, "as far as anybody knows");
        assert_eq!(whole.to_string(), "NVIDIA H200 (132 multiprocessors, 143360 MiB)");
    }
}
