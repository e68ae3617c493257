//! The document: rules, fallbacks and fitted models, schema version 2.
//!
//! Documents of other tools are read as they come. A field that is not known, or whose value is of no use, is kept in
//! `extra`: it does not change what is served, and saving writes it back.

use super::template::Template;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The schema version this crate reads and writes.
pub const SCHEMA_VERSION: u32 = 2;

/// A shape bucket: label by field, such as `m_bin: "<=16"`. Compared as a whole.
pub type Bucket = BTreeMap<String, String>;

/// A document of observed heuristics.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct Document {
    /// 2.
    #[cfg_attr(feature = "harness", schemars(range(min = 2, max = 2)))]
    pub schema_version: u32,
    /// What this document is, for people.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub description: String,
    /// How it was made: device, target, matching and whatever else its maker says.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub policy: Map<String, Value>,
    /// Exact-bucket rules. Of two with one class and bucket the later one is served.
    pub rules: Vec<Rule>,
    /// `fallbacks[class][group]`; in a class without a model asked only where no rule's bucket is equal.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub fallbacks: BTreeMap<String, BTreeMap<String, Fallback>>,
    /// `models[class]`: a [`FittedModel`](super::FittedModel), or one of a form that this version does not know.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "harness", schemars(with = "BTreeMap<String, super::fitted::FittedModel>", default))]
    pub models: BTreeMap<String, Value>,
    /// Fields this version does not know, kept for a round trip.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A rule: templates for one bucket of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct Rule {
    /// The class: `matmul_fp4`.
    pub kernel_class: String,
    /// The bucket it answers for.
    pub shape_bucket: Bucket,
    /// Always true: a rule answers for its own bucket alone.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub match_exact_only: bool,
    /// Where it came from.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub source: Map<String, Value>,
    /// Why it can be trusted.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub validation: Map<String, Value>,
    /// The configs to use, best first unless rank metadata says otherwise.
    pub templates: Vec<RankedTemplate>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A template with its rank metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct RankedTemplate {
    /// The config.
    pub template: Template,
    /// Problems of the bucket this config was measured on and works for, a whole number.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    pub shape_coverage: Option<f64>,
    /// Problems of the bucket it wins, a whole number.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    pub win_count: Option<f64>,
    /// Geometric mean of its slowdown over the problems it covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geomean_slowdown: Option<f64>,
    /// Median of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_slowdown: Option<f64>,
    /// 90th percentile of the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_slowdown: Option<f64>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The config for one group of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct Fallback {
    /// The config.
    pub template: Template,
    /// Where it came from.
    #[cfg_attr(feature = "harness", schemars(default))]
    pub source: Map<String, Value>,
    /// Why it can be trusted.
    #[serde(skip_serializing_if = "Map::is_empty")]
    #[cfg_attr(feature = "harness", schemars(default))]
    pub validation: Map<String, Value>,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl RankedTemplate {
    /// The config, unless the document holds something else in its place.
    pub fn config(&self) -> Option<&Template> {
        usable(&self.template, &self.extra)
    }
}

impl Fallback {
    /// The config, unless the document holds something else in its place.
    pub fn config(&self) -> Option<&Template> {
        usable(&self.template, &self.extra)
    }
}

fn usable<'a>(template: &'a Template, extra: &Map<String, Value>) -> Option<&'a Template> {
    (!extra.contains_key("template")).then_some(template)
}

/// Writes a count without the fraction it does not have.
#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref)] // serde's signature
fn whole<S: Serializer>(count: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match *count {
        Some(count) if count.fract() == 0.0 && count.abs() < 1e15 => serializer.serialize_i64(count as i64),
        other => other.serialize(serializer),
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
