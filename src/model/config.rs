//! Configs: the values of a kernel's knobs, in Helion's field names.

use super::serde_by_name;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
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
    /// One program a tile, but those that run take the tiles of those that have not begun, one at a time, as the hardware deals
    /// them out (Blackwell's `clusterlaunchcontrol`).
    ClusterLaunchControl,
    /// One program a tile, on a grid with an axis for each of the tiles'. Helion's; no kernel of ours has it.
    Xyz,
}

impl PidType {
    /// Every program order.
    pub const ALL: [Self; 5] =
        [Self::Flat, Self::PersistentBlocked, Self::PersistentInterleaved, Self::ClusterLaunchControl, Self::Xyz];

    /// Helion's name, where Helion has the order.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::PersistentBlocked => "persistent_blocked",
            Self::PersistentInterleaved => "persistent_interleaved",
            Self::ClusterLaunchControl => "cluster_launch_control",
            Self::Xyz => "xyz",
        }
    }

    /// Whether the grid is sized by the GPU instead of by the problem.
    pub const fn is_persistent(self) -> bool {
        matches!(self, Self::PersistentBlocked | Self::PersistentInterleaved)
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
    /// Blackwell's `tcgen05` with its first operand, decoded weights, in tensor memory (TMEM).
    Tcgen05Tmem,
    /// Plain lanes that load and store 32 bytes an instruction, as lanes do from Blackwell on.
    SimtWide,
}

impl Mma {
    /// Every kind; the C interface counts them in this order.
    pub const ALL: [Self; 7] =
        [Self::Simt, Self::MmaSync, Self::Wgmma, Self::Tcgen05, Self::MmaSyncTma, Self::Tcgen05Tmem, Self::SimtWide];

    /// The name in configs and the kind's table in a plan.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Simt => "simt",
            Self::MmaSync => "mma_sync",
            Self::Wgmma => "wgmma",
            Self::Tcgen05 => "tcgen05",
            Self::MmaSyncTma => "mma_sync_tma",
            Self::Tcgen05Tmem => "tcgen05_tmem",
            Self::SimtWide => "simt_wide",
        }
    }

    /// The kinds that an architecture such as `sm_90a` runs, the most capable last.
    pub fn of_arch(arch: &str) -> Vec<Self> {
        let own: &[Self] = match arch {
            "sm_90a" => &[Self::MmaSyncTma, Self::Wgmma],
            "sm_100a" | "sm_103a" => &[Self::SimtWide, Self::Tcgen05, Self::Tcgen05Tmem],
            "sm_120a" => &[Self::SimtWide],
            _ => &[],
        };
        [Self::Simt, Self::MmaSync].iter().chain(own).copied().collect()
    }
}

serde_by_name!(Mma);

/// The value of a knob that is a family's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged, expecting = "a knob's value must be a whole number, true, false, a word, or a list of those")]
pub enum KnobValue {
    /// A number.
    Integer(i64),
    /// Yes or no.
    Boolean(bool),
    /// One of a few words.
    Word(String),
    /// A value for each of some things: of loops, say.
    List(Vec<KnobValue>),
    /// In a list, what has no value.
    Nothing,
}

/// As a macro of the kernel has it: yes is 1, no 0; a list, which only callables have, as Python writes it.
impl fmt::Display for KnobValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(out, "{number}"),
            Self::Boolean(yes) => write!(out, "{}", u8::from(*yes)),
            Self::Word(word) => out.write_str(word),
            Self::List(values) => {
                let values: Vec<String> = values.iter().map(ToString::to_string).collect();
                write!(out, "[{}]", values.join(","))
            }
            Self::Nothing => out.write_str("None"),
        }
    }
}

/// The values of a kernel's knobs: those that Helion has too, and the family's own. A field is there only where it changes what
/// that kernel does. In JSON the keys are sorted, as in the document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct Config {
    /// Tile extents; their meaning is the family's (elements, or packed bytes along a packed k).
    #[serde(default)]
    pub block_sizes: Vec<u32>,
    /// Tiles along m that share a column band, so that they meet in L2 (one entry).
    #[serde(default)]
    pub l2_groupings: Vec<u32>,
    /// The instructions that do the arithmetic.
    #[serde(default)]
    pub mma: Option<Mma>,
    /// Programs a multiprocessor, for persistent program orders.
    #[serde(default)]
    pub num_sm_multiplier: Option<u32>,
    /// Depth of the load pipeline in tiles.
    #[serde(default)]
    pub num_stages: Option<u32>,
    /// Warps of a program (threads, on the cpu device).
    #[serde(default)]
    pub num_warps: Option<u32>,
    /// How programs are mapped to tiles.
    #[serde(default)]
    pub pid_type: Option<PidType>,
    /// Columns of one step of a row reduction; null means the whole row at once (one entry).
    #[serde(default)]
    pub reduction_loops: Vec<Option<u32>>,
    /// Programs that share the reduction dimension of one tile.
    #[serde(default)]
    pub split_k: Option<u32>,
    /// The family's own knobs.
    #[serde(flatten)]
    pub own: BTreeMap<String, KnobValue>,
}

/// A field's value as it is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Field<'a> {
    Numbers(&'a [u32]),
    Loops(&'a [Option<u32>]),
    Number(u32),
    Word(&'static str),
    Own(&'a KnobValue),
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields())
    }
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

    /// The fields that are there, sorted by name.
    fn fields(&self) -> Vec<(&str, Field<'_>)> {
        fn numbers(list: &[u32]) -> Option<Field<'_>> {
            (!list.is_empty()).then_some(Field::Numbers(list))
        }
        let named = [
            ("block_sizes", numbers(&self.block_sizes)),
            ("l2_groupings", numbers(&self.l2_groupings)),
            ("mma", self.mma.map(|mma| Field::Word(mma.name()))),
            ("num_sm_multiplier", self.num_sm_multiplier.map(Field::Number)),
            ("num_stages", self.num_stages.map(Field::Number)),
            ("num_warps", self.num_warps.map(Field::Number)),
            ("pid_type", self.pid_type.map(|pid_type| Field::Word(pid_type.name()))),
            ("reduction_loops", (!self.reduction_loops.is_empty()).then_some(Field::Loops(&self.reduction_loops))),
            ("split_k", self.split_k.map(Field::Number)),
        ];
        let named = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let mut fields: Vec<_> = named.collect();
        if !self.own.is_empty() {
            fields.extend(self.own.iter().map(|(name, value)| (name.as_str(), Field::Own(value))));
            fields.sort_by_key(|(name, _)| *name);
        }
        fields
    }

    /// The names of the fields that are there, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.fields().into_iter().map(|(name, _)| name).collect()
    }

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
                own => drop(rest.own.remove(own)),
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
    fn knobs_of_a_familys_own_may_be_lists_with_nothing_in_places() {
        let text = r#"{"block_sizes":[16],"indexing":["pointer","tensor_descriptor"],"loop_orders":[[1,0]],"pid_type":"xyz","range_flattens":[null,true]}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.own["range_flattens"], KnobValue::List(vec![KnobValue::Nothing, KnobValue::Boolean(true)]));
        assert_eq!(config.pid_type, Some(PidType::Xyz));
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
    }

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
            own: BTreeMap::from([("depth".into(), KnobValue::Integer(3))]),
        };
        assert_eq!(whole.without(&["depth"]).without(&Config::FIELDS), Config::default());
        let as_map = |config: &Config| serde_json::to_value(config).unwrap().as_object().cloned().unwrap();
        for field in Config::FIELDS {
            let mut expected = as_map(&whole);
            expected.remove(field);
            assert_eq!(as_map(&whole.without(&[field])), expected, "{field}");
        }
    }

    #[test]
    fn knobs_of_a_familys_own_stand_among_the_others_and_come_back() {
        let text = r#"{"block_sizes":[64],"fuse":true,"layout":"nhwc","num_warps":4,"unroll":8}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        assert_eq!(config.to_string(), text);
        assert_eq!(config.names(), ["block_sizes", "fuse", "layout", "num_warps", "unroll"]);
        assert_eq!(config.own["unroll"], KnobValue::Integer(8));
        for text in [r#"{"unroll":{"by":8}}"#, r#"{"unroll":[{"by":8}]}"#, r#"{"unroll":0.5}"#] {
            assert!(serde_json::from_str::<Config>(text).is_err(), "{text}: neither is a knob's value");
        }
    }
}
