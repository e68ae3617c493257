//! The plan as it is written beside a manifest, or in a file of its own: problems and config spaces. The manifest's JSON Schema has these
//! types too.

use super::schema;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use toml::Spanned;

/// A problem: its dimensions come as they are named.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RawProblem {
    /// The type, where it is not the family's first.
    #[serde(default)]
    #[schemars(schema_with = "schema::dtype")]
    pub(crate) dtype: Option<String>,
    /// Where it is taken from.
    pub(crate) from: Option<String>,
    /// Its extents by dimension.
    #[serde(flatten)]
    #[schemars(schema_with = "schema::extents")]
    pub(crate) dimensions: BTreeMap<String, toml::Value>,
}

/// A random design over the family's domain, beside the problems that are written out.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRandom {
    /// How many.
    pub(crate) problems: usize,
    /// Of a family that has some, beside these.
    #[serde(default)]
    pub(crate) variants: usize,
    /// What they are drawn by.
    pub(crate) seed: u64,
}

/// A config space.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("anyOf" = [{"required": ["axes"]}, {"required": ["configs"]}]))]
#[serde(deny_unknown_fields)]
pub(crate) struct RawSpace {
    /// The config that is always tried, and that nothing may be slower than.
    #[schemars(schema_with = "schema::config")]
    pub(crate) default: Spanned<Map<String, Value>>,
    /// Every knob's values, whose product is tried; of `block_sizes` a list for each position.
    #[serde(default)]
    #[schemars(schema_with = "schema::axes")]
    pub(crate) axes: Option<Spanned<Map<String, Value>>>,
    /// Configs that no product of axes makes, in their order, beside those of the axes.
    #[serde(default)]
    #[schemars(schema_with = "schema::configs")]
    pub(crate) configs: Vec<Spanned<Map<String, Value>>>,
    /// What is left out of the product.
    #[serde(default)]
    #[schemars(with = "Vec<RawExclusion>")]
    pub(crate) exclude: Vec<Spanned<RawExclusion>>,
    /// The kind of mma whose space stands in place of this one on GPUs that have it.
    #[serde(default)]
    #[schemars(schema_with = "schema::mma")]
    pub(crate) superseded_by: Option<Spanned<String>>,
    /// Problems of this space alone, in place of the plan's.
    #[schemars(with = "Option<Vec<RawProblem>>")]
    pub(crate) problem: Option<Vec<Spanned<RawProblem>>>,
}

/// Configs that are left out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawExclusion {
    /// Which: an expression, or by knob the values of which a config has one each.
    #[schemars(schema_with = "schema::when")]
    pub(crate) when: When,
    /// Why, in a few words.
    #[serde(rename = "reason")]
    pub(crate) _reason: String,
}

/// What is excluded: configs with any of the values that every field lists, or for which an expression holds.
#[derive(Deserialize)]
#[serde(untagged, expecting = "when must be an expression in quotes, or a table of lists of values by knob")]
pub(crate) enum When {
    /// By knob the values, of which a config has one each.
    Pattern(Map<String, Value>),
    /// An expression of knobs and dimensions.
    Condition(String),
}
