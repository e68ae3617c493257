//! A fitted model as a document holds it, and how its choices did; [`super::Model`] says what its fields mean to a lookup.

use super::columns::{self, ModelConfig};
use super::measured::{self, MeasuredProblem};
use super::trees;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The form of model that this crate writes. It reads `trees/1` as well, which says the same at greater length.
pub const MODEL_FORM: &str = "trees/2";

/// The form before: the same models, but for how they are written down.
const FORM_BEFORE: &str = "trees/1";

/// Reads the name of a form. A model of the form before is one of today's once it is read.
fn form_of_today<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let form = String::deserialize(deserializer)?;
    Ok(if form == FORM_BEFORE { MODEL_FORM.to_owned() } else { form })
}

/// A model as the document holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct FittedModel {
    /// Name and version of the form: [`MODEL_FORM`].
    #[serde(deserialize_with = "form_of_today")]
    pub form: String,
    /// The dimensions' names, in the order that shapes are given in.
    pub dims: Vec<String>,
    /// The types it was fitted on, each with the bytes of an element, which is `dtype_bytes` in expressions.
    pub dtypes: BTreeMap<String, i64>,
    /// What is known of the GPU, by name: `multiprocessors`.
    #[serde(default)]
    pub constants: BTreeMap<String, i64>,
    /// The knobs' names.
    #[serde(default)]
    pub knobs: Vec<String>,
    /// The names of what is known of each config beside its knobs: `registers`.
    #[serde(default)]
    pub config_constants: Vec<String>,
    /// `name = expression`; each may use those before it.
    #[serde(default)]
    pub definitions: Vec<String>,
    /// The expressions that the trees look at, by their place.
    #[serde(default)]
    pub features: Vec<String>,
    /// Conditions that hold for every config that may run a shape.
    #[serde(default)]
    pub legal: Vec<String>,
    /// Conditions that hold for every config that is worth trying on a shape: on others little was measured, so what the trees
    /// expect there is a guess, and must be better than what was tried by some margin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<String>,
    /// Whether every row of the operands is aligned for the widest copies; by this, too, cross-validation is told apart.
    pub aligned: String,
    /// The time that no config is expected to beat.
    pub floor: Floor,
    /// The trees: a split as the name of its feature, `a` for the first, and the threshold, then the tree below it, then the
    /// other; leaves as whole numbers with their sign.
    #[serde(deserialize_with = "trees::deserialize")]
    pub trees: Vec<String>,
    /// The configs it may choose from.
    #[serde(with = "columns")]
    #[cfg_attr(feature = "harness", schemars(with = "super::listed::Listed<ModelConfig, columns::Columns>"))]
    pub configs: Vec<ModelConfig>,
    /// What was measured for exact shapes.
    #[serde(default, with = "measured")]
    #[cfg_attr(feature = "harness", schemars(with = "super::listed::Listed<MeasuredProblem, measured::ByType>"))]
    pub problems: Vec<MeasuredProblem>,
    /// How the choices did on problems left out.
    #[serde(default)]
    pub cross_validation: CrossValidation,
    /// Fields this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `launch_us + max(bytes / bytes_per_us, flops / flops_per_us)`, with the rates that were reached on this GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct Floor {
    /// The fewest bytes moved, over the dimensions, `dtype_bytes` and the constants.
    pub bytes: String,
    /// The operations done, likewise.
    pub flops: String,
    /// The shortest time that was measured, in microseconds.
    pub launch_us: f64,
    /// Bytes a microsecond.
    pub bytes_per_us: f64,
    /// Operations a microsecond.
    pub flops_per_us: f64,
}

/// How choices did on problems that were left out of fitting, in folds that share none of certain dimensions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct CrossValidation {
    /// The sets of dimensions that no two folds have a problem each of alike: `n,k`.
    pub apart: Vec<String>,
    /// Folds of a division.
    pub folds: usize,
    /// Divisions, each by a seed of its own.
    pub seeds: usize,
    /// By what chose, such as `model`, for groups and alignments and all of them together.
    pub regret: BTreeMap<String, Vec<Regret>>,
}

/// How much longer chosen configs took than the best measured, over some problems left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct Regret {
    /// The fallback group; null for all.
    pub group: Option<String>,
    /// Whether rows are aligned; null for both.
    pub aligned: Option<bool>,
    /// Problems.
    pub problems: usize,
    /// Geometric mean of the choice's time over the best's.
    pub geomean: f64,
    /// 90th percentile of the same.
    pub p90: f64,
    /// The worst.
    pub max: f64,
}

impl CrossValidation {
    /// The regret of a source, such as `model`, as closely as it is known: in the group at that alignment, else in the
    /// group, else at that alignment, else over all.
    pub fn regret(&self, source: &str, group: Option<&str>, aligned: bool) -> Option<&Regret> {
        let cells = [(group, Some(aligned)), (group, None), (None, Some(aligned)), (None, None)];
        cells.into_iter().find_map(|(group, aligned)| self.cell(source, group, aligned))
    }

    /// The regret of a source in exactly that group, or in all, at exactly that alignment, or at both.
    pub fn cell(&self, source: &str, group: Option<&str>, aligned: Option<bool>) -> Option<&Regret> {
        let cells = self.regret.get(source)?;
        cells.iter().find(|cell| cell.group.as_deref() == group && cell.aligned == aligned)
    }
}

/// The names of the problems that a model lists, by their place: `m=16,n=4096,k=4096 bf16`. None of a form that is not known.
pub(super) fn problem_names(model: &Value) -> Vec<String> {
    #[derive(Deserialize)]
    struct Listing {
        #[serde(deserialize_with = "form_of_today")]
        form: String,
        dims: Vec<String>,
        #[serde(default, deserialize_with = "measured::deserialize")]
        problems: Vec<MeasuredProblem>,
    }
    let Ok(listing) = Listing::deserialize(model) else { return Vec::new() };
    let name = |problem: &MeasuredProblem| {
        let dims = listing.dims.iter().zip(&problem.dims).map(|(name, extent)| format!("{name}={extent}"));
        format!("{} {}", dims.collect::<Vec<_>>().join(","), problem.dtype)
    };
    let is_known = listing.form == MODEL_FORM && listing.dims.iter().map(String::len).sum::<usize>() < 1000;
    if is_known { listing.problems.iter().map(name).collect() } else { Vec::new() }
}
