//! The document: rules and fallbacks, schema version 2.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A shape bucket: label by field, such as `m_bin: "<=16"`. Compared as a whole.
pub type Bucket = BTreeMap<String, String>;

/// A config as the document holds it: any keys, since a document may come from another tool.
pub type Template = Map<String, Value>;

/// A document of observed heuristics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// 2.
    pub schema_version: u32,
    /// What this document is, for people.
    #[serde(default)]
    pub description: String,
    /// How it was made: device, target, matching and whatever else its maker says.
    #[serde(default)]
    pub policy: Map<String, Value>,
    /// Exact-bucket rules.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// `fallbacks[class][group]`, asked only where no rule's bucket is equal.
    #[serde(default)]
    pub fallbacks: BTreeMap<String, BTreeMap<String, Fallback>>,
    /// Fields this version does not know, kept for a round trip.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A rule: templates for one bucket of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The class: `matmul_fp4`.
    pub kernel_class: String,
    /// The bucket it answers for.
    pub shape_bucket: Bucket,
    /// Always true: a rule answers for its own bucket alone.
    pub match_exact_only: bool,
    /// Where it came from.
    #[serde(default)]
    pub source: Map<String, Value>,
    /// Why it can be trusted.
    #[serde(default)]
    pub validation: Map<String, Value>,
    /// The configs to use, best first unless rank metadata says otherwise.
    pub templates: Vec<RankedTemplate>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A template with its rank metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankedTemplate {
    /// The config.
    pub template: Template,
    /// The share of the bucket's problems this config was measured on and works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape_coverage: Option<f64>,
    /// Problems of the bucket it wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub win_count: Option<f64>,
    /// Geometric mean of its slowdown over the problems it covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geomean_slowdown: Option<f64>,
    /// Median of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_slowdown: Option<f64>,
    /// 90th percentile of the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p90_slowdown: Option<f64>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The config for one group of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fallback {
    /// The config.
    pub template: Template,
    /// Where it came from.
    #[serde(default)]
    pub source: Map<String, Value>,
    /// Why it can be trusted.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub validation: Map<String, Value>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
