//! Configs: the values of a kernel's knobs, in Helion's field names.

use super::serde_by_name;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// How programs (thread blocks) are mapped to tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PidType {
    /// One program a tile.
    Flat,
    /// As many programs as the GPU holds, each with a contiguous run of tiles.
    PersistentBlocked,
    /// As many programs as the GPU holds, each striding over the tiles.
    PersistentInterleaved,
}

impl PidType {
    /// Every program order.
    pub const ALL: [Self; 3] = [Self::Flat, Self::PersistentBlocked, Self::PersistentInterleaved];

    /// Helion's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::PersistentBlocked => "persistent_blocked",
            Self::PersistentInterleaved => "persistent_interleaved",
        }
    }

    /// Whether the grid is sized by the GPU instead of by the problem.
    pub const fn is_persistent(self) -> bool {
        !matches!(self, Self::Flat)
    }
}

serde_by_name!(PidType);

/// Which instructions do the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mma {
    /// Plain lanes, for the families with no matrix product.
    Simt,
    /// Warp-wide `mma.sync`, on any tensor-core GPU.
    MmaSync,
    /// Hopper's warp-group `wgmma`.
    Wgmma,
    /// Blackwell's `tcgen05`.
    Tcgen05,
    /// Warp-wide `mma.sync` on tiles that Hopper's copy engine (TMA) loads.
    MmaSyncTma,
    /// Plain lanes that load and store 32 bytes an instruction, as lanes do from Blackwell on.
    SimtWide,
}

impl Mma {
    /// Every kind; the C interface counts them in this order.
    pub const ALL: [Self; 6] =
        [Self::Simt, Self::MmaSync, Self::Wgmma, Self::Tcgen05, Self::MmaSyncTma, Self::SimtWide];

    /// The name in configs and the kind's table in a plan.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simt => "simt",
            Self::MmaSync => "mma_sync",
            Self::Wgmma => "wgmma",
            Self::Tcgen05 => "tcgen05",
            Self::MmaSyncTma => "mma_sync_tma",
            Self::SimtWide => "simt_wide",
        }
    }

    /// The kinds that an architecture such as `sm_90a` runs, the most capable last.
    pub fn of_arch(arch: &str) -> Vec<Self> {
        let own: &[Self] = match arch {
            "sm_90a" => &[Self::MmaSyncTma, Self::Wgmma],
            "sm_100a" | "sm_103a" => &[Self::SimtWide, Self::Tcgen05],
            "sm_120a" => &[Self::SimtWide],
            _ => &[],
        };
        [Self::Simt, Self::MmaSync].iter().chain(own).copied().collect()
    }
}

serde_by_name!(Mma);

/// The values of a kernel's knobs. A field is there only where it changes what that kernel does. Field order is the
/// sorted key order of the document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Tile extents; their meaning is the family's (elements, or packed bytes along a packed k).
    pub block_sizes: Vec<u32>,
    /// Tiles along m that share a column band, so that they meet in L2 (one entry).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub l2_groupings: Vec<u32>,
    /// The instructions that do the arithmetic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>"))]
    pub mma: Option<Mma>,
    /// Programs a multiprocessor, for persistent program orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_sm_multiplier: Option<u32>,
    /// Depth of the load pipeline in tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_stages: Option<u32>,
    /// Warps of a program (threads, on the cpu device).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_warps: Option<u32>,
    /// How programs are mapped to tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>"))]
    pub pid_type: Option<PidType>,
    /// Columns of one step of a row reduction; null means the whole row at once (one entry).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reduction_loops: Vec<Option<u32>>,
    /// Programs that share the reduction dimension of one tile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_k: Option<u32>,
}

impl Config {
    /// The fields' names, sorted.
    pub const FIELDS: [&'static str; 9] = [
        "block_sizes",
        "l2_groupings",
        "mma",
        "num_sm_multiplier",
        "num_stages",
        "num_warps",
        "pid_type",
        "reduction_loops",
        "split_k",
    ];

    /// The config as documents and models hold it: its fields by name.
    pub fn to_template(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(template)) => template,
            // A struct of integers, strings and lists of them is always an object.
            _ => Map::new(),
        }
    }

    /// The same without the fields of these names.
    #[must_use]
    pub fn without(&self, fields: &[&str]) -> Self {
        let mut rest = self.clone();
        for field in fields {
            match *field {
                "block_sizes" => rest.block_sizes.clear(),
                "l2_groupings" => rest.l2_groupings.clear(),
                "mma" => rest.mma = None,
                "num_sm_multiplier" => rest.num_sm_multiplier = None,
                "num_stages" => rest.num_stages = None,
                "num_warps" => rest.num_warps = None,
                "pid_type" => rest.pid_type = None,
                "reduction_loops" => rest.reduction_loops.clear(),
                "split_k" => rest.split_k = None,
                _ => {}
            }
        }
        rest
    }
}

/// Compact JSON with sorted keys: the config's identity in journals and tables.
impl fmt::Display for Config {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_can_be_left_out_and_no_other_goes_with_it() {
        let whole = Config {
            block_sizes: vec![64],
            l2_groupings: vec![8],
            mma: Some(Mma::Wgmma),
            num_sm_multiplier: Some(1),
            num_stages: Some(4),
            num_warps: Some(8),
            pid_type: Some(PidType::Flat),
            reduction_loops: vec![None],
            split_k: Some(2),
        };
        assert_eq!(whole.without(&Config::FIELDS), Config::default());
        let as_map = |config: &Config| serde_json::to_value(config).unwrap().as_object().cloned().unwrap();
        for field in Config::FIELDS {
            let mut expected = as_map(&whole);
            expected.remove(field);
            let mut rest = as_map(&whole.without(&[field]));
            if field == "block_sizes" {
                rest.remove(field); // empty, but never left out
            }
            assert_eq!(rest, expected, "{field}");
        }
    }
}
