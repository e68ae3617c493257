//! What fitting a model needs to know of a kernel: which knob tiles which dimension, and little more.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A kernel, described for a model of its times. All texts but names are expressions of
/// [`heuristics`](crate::heuristics::EXPRESSION_FUNCTIONS), over the dimensions, `dtype_bytes`, the constants and knobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The dimensions' names, in the problem's order.
    pub dims: Vec<String>,
    /// The types it comes in, with the bytes of an element.
    pub dtypes: BTreeMap<String, i64>,
    /// What is known of the GPU: at least `multiprocessors`.
    pub constants: BTreeMap<String, i64>,
    /// The knobs' names.
    pub knobs: Vec<String>,
    /// What is known of a config beside its knobs: `registers`.
    #[serde(default)]
    pub config_constants: Vec<String>,
    /// The fewest bytes that the problem moves.
    pub bytes: String,
    /// The operations that it does.
    pub flops: String,
    /// Bytes of a row of each operand, by the operand's name: their alignment decides how they can be copied.
    #[serde(default)]
    pub rows: BTreeMap<String, String>,
    /// Programs that there are however a config tiles: heads of a batch, say.
    #[serde(default)]
    pub instances: Option<String>,
    /// By dimension: the extent of it that a program has. There are programs for all of it.
    #[serde(default)]
    pub tiles: BTreeMap<String, String>,
    /// By dimension: the extent of it that a program takes in one step. It goes through all of it.
    #[serde(default)]
    pub steps: BTreeMap<String, String>,
    /// Programs that share the steps of one tile.
    #[serde(default)]
    pub parts: Option<String>,
    /// Bytes that a program loads in one step.
    #[serde(default)]
    pub step_bytes: Option<String>,
    /// Programs that a multiprocessor holds at once.
    #[serde(default)]
    pub resident: Option<String>,
    /// `name = expression`, for the expressions after it; may also use `tile_`, `tiles_`, `step_` and `steps_` with a
    /// dimension's name.
    #[serde(default)]
    pub definitions: Vec<String>,
    /// What else the times may depend on.
    #[serde(default)]
    pub features: Vec<String>,
    /// Where a config may run.
    #[serde(default)]
    pub legal: Vec<String>,
    /// The sets of dimensions by which problems are kin, the closest first: `[["n", "k"]]`. Kin are left out of fitting
    /// together, as far as that leaves enough to be fitted to.
    pub kin: Vec<Vec<String>>,
}

/// Bytes of the widest copy.
const WIDEST_COPY: u32 = 16;
/// Bytes of a line of the cache: beyond it, alignment changes nothing.
const CACHE_LINE: u32 = 128;

impl Description {
    /// Whether all operands' rows are aligned for the widest copy.
    pub fn aligned(&self) -> String {
        let rows: Vec<_> = self.rows.values().map(|bytes| format!("({bytes}) % {WIDEST_COPY} == 0")).collect();
        if rows.is_empty() { "1".to_owned() } else { rows.join(" && ") }
    }

    /// What the features are made of, in order: tiles, steps and programs.
    pub fn all_definitions(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (dim, extent) in &self.tiles {
            all.push(format!("tile_{dim} = {extent}"));
            all.push(format!("tiles_{dim} = ceil_div({dim}, tile_{dim})"));
        }
        for (dim, extent) in &self.steps {
            all.push(format!("step_{dim} = {extent}"));
            all.push(format!("steps_{dim} = ceil_div({dim}, step_{dim})"));
        }
        all.extend(self.definitions.iter().cloned());
        let product = |prefix: &str, dims: &BTreeMap<String, String>| {
            dims.keys().map(|dim| format!(" * {prefix}_{dim}")).collect::<String>()
        };
        let instances = self.instances.as_deref().unwrap_or("1");
        let parts = self.parts.as_deref().unwrap_or("1");
        all.push(format!("parts = {parts}"));
        all.push(format!("programs = ({instances}) * parts{}", product("tiles", &self.tiles)));
        all.push("rounds = ceil_div(programs, multiprocessors)".to_owned());
        all.push(format!("steps = ceil_div(1{}, parts)", product("steps", &self.steps)));
        all.push(format!("work = steps{}{}", product("tile", &self.tiles), product("step", &self.steps)));
        if let Some(resident) = &self.resident {
            all.push(format!("resident = {resident}"));
            all.push("waves = ceil_div(programs, multiprocessors * resident)".to_owned());
        }
        if let Some(bytes) = &self.step_bytes {
            all.push(format!("step_bytes = {bytes}"));
        }
        all
    }

    /// What a model looks at, apart from the knobs.
    pub fn all_features(&self) -> Vec<String> {
        let mut all = self.dims.clone();
        if self.dtypes.len() > 1 {
            all.push("dtype_bytes".to_owned());
        }
        all.push("floor_ns".to_owned());
        all.push(format!("per_mille({}, {})", self.flops, self.bytes));
        all.extend(self.rows.values().map(|bytes| format!("min(align({bytes}), {CACHE_LINE})")));
        for dim in self.tiles.keys() {
            all.push(format!("tiles_{dim}"));
            all.push(format!("per_mille({dim}, tiles_{dim} * tile_{dim})"));
        }
        for dim in self.steps.keys() {
            all.push(format!("per_mille({dim}, steps_{dim} * step_{dim})"));
        }
        let volume =
            self.tiles.keys().chain(self.steps.keys()).fold("1".to_owned(), |all, dim| format!("{all} * {dim}"));
        let instances = self.instances.as_deref().unwrap_or("1");
        all.extend([
            "programs".to_owned(),
            "per_mille(programs, multiprocessors)".to_owned(),
            "per_mille(programs, rounds * multiprocessors)".to_owned(),
            "work".to_owned(),
            format!("per_mille(rounds * multiprocessors * work, ({instances}) * {volume})"),
        ]);
        if !self.steps.is_empty() {
            all.extend(["steps".to_owned(), "rounds * steps".to_owned()]);
        }
        if self.resident.is_some() {
            all.push("resident".to_owned());
            all.push("per_mille(programs, waves * multiprocessors * resident)".to_owned());
        }
        if self.step_bytes.is_some() {
            all.push("step_bytes".to_owned());
            all.push(format!("per_mille(programs * steps * step_bytes, {})", self.bytes));
        }
        all.extend(self.features.iter().cloned());
        all.extend(self.config_constants.iter().cloned());
        all
    }
}
