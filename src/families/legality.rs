//! Where configs are legal, as data: conditions in dimensions, knobs and the GPU's figures.

use super::{Description, Rejection, spec};
use crate::heuristics::{Formula, ModelConfig};
use crate::model::{Config, Family, GpuProfile, Problem, Shape};

/// A condition on the problem, and what it means that it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What must hold.
    pub expression: Formula,
    /// Why, in a few words.
    pub reason: &'static str,
}

/// What expressions can name beside a family's dimensions: the bytes of an element of the problem's type, the knobs, of which one
/// that the config does not have, or that is null, is 0, and the GPU's figures.
const NAMES: [&str; 14] = [
    "element_bytes",
    "block_sizes[0]",
    "block_sizes[1]",
    "block_sizes[2]",
    "l2_groupings[0]",
    "num_sm_multiplier",
    "num_stages",
    "num_warps",
    "reduction_loops[0]",
    "split_k",
    "multiprocessors",
    "smem_per_block",
    "registers_per_multiprocessor",
    "threads_per_multiprocessor",
];
/// Places that are dimensions, in the family's order.
const DIMENSIONS: usize = 5;
/// Places of the knobs.
const KNOBS: std::ops::Range<usize> = DIMENSIONS + 1..DIMENSIONS + 10;

/// The values that expressions read.
pub type Values = [i64; DIMENSIONS + NAMES.len()];

/// Dimensions that a family does not have: no expression can name them.
const NO_DIMENSION: &str = "";

/// The names that expressions of a family may use, in the order of [`values`].
pub fn names(family: Family) -> [&'static str; DIMENSIONS + NAMES.len()] {
    let mut names = [NO_DIMENSION; DIMENSIONS + NAMES.len()];
    names[..family.dimensions().len()].copy_from_slice(family.dimensions());
    names[DIMENSIONS..].copy_from_slice(&NAMES);
    names
}

/// Whether an expression reads nothing but knobs, so that it holds for a config whatever the problem and the GPU.
pub fn is_of_knobs(expression: &Formula) -> bool {
    expression.places().iter().all(|place| KNOBS.contains(place))
}

/// The fields of a config that an expression reads, with repetitions.
pub fn knobs_of(expression: &Formula) -> Vec<&'static str> {
    let knobs = expression.places().into_iter().filter(|place| KNOBS.contains(place));
    knobs.map(|place| NAMES[place - DIMENSIONS].trim_end_matches(|end| "[]012".contains(end))).collect()
}

/// What expressions read of a config on a problem.
pub fn values(config: &Config, problem: &Problem, profile: &GpuProfile) -> Values {
    let mut values = knob_values(config);
    let dimensions: [u64; DIMENSIONS] = match problem.shape {
        Shape::Gemm { m, n, k } => [m, n, k, 0, 0],
        Shape::Attention { batch, heads, q_seq, kv_seq, head_dim } => [batch, heads, q_seq, kv_seq, head_dim],
        Shape::Rows { rows, cols } => [rows, cols, 0, 0, 0],
        Shape::Elements { numel } => [numel, 0, 0, 0, 0],
    };
    for (value, extent) in values.iter_mut().zip(dimensions) {
        *value = extent as i64;
    }
    values[DIMENSIONS] = problem.dtype.size_bytes() as i64;
    let figures = [
        profile.multiprocessors.into(),
        profile.smem_per_block.0 as i64,
        profile.registers_per_multiprocessor.into(),
        profile.threads_per_multiprocessor.into(),
    ];
    values[KNOBS.end..].copy_from_slice(&figures);
    values
}

/// The same with all but the knobs left at 0.
pub fn knob_values(config: &Config) -> Values {
    let at = |list: &[u32], place: usize| list.get(place).copied().unwrap_or(0);
    let knobs = [
        at(&config.block_sizes, 0),
        at(&config.block_sizes, 1),
        at(&config.block_sizes, 2),
        at(&config.l2_groupings, 0),
        config.num_sm_multiplier.unwrap_or(0),
        config.num_stages.unwrap_or(0),
        config.num_warps.unwrap_or(0),
        config.reduction_loops.first().copied().flatten().unwrap_or(0),
        config.split_k.unwrap_or(0),
    ];
    let mut values = [0; DIMENSIONS + NAMES.len()];
    for (value, knob) in values[KNOBS].iter_mut().zip(knobs) {
        *value = knob.into();
    }
    values
}

/// Reads a family's own conditions.
pub(super) fn conditions<const N: usize>(family: Family, texts: [(&str, &'static str); N]) -> Vec<Condition> {
    let condition = |(text, reason)| match Formula::parse(text, &names(family)) {
        Ok(expression) => Condition { expression, reason },
        Err(error) => unreachable!("a condition of {family}: {error}"),
    };
    texts.into_iter().map(condition).collect()
}

/// Refuses a problem that a condition does not hold for, with the values that it read.
pub(super) fn check(family: Family, conditions: &[Condition], values: &Values) -> Result<(), Rejection> {
    let Some(failed) = conditions.iter().find(|condition| !condition.expression.holds(values)) else { return Ok(()) };
    let names = names(family);
    let read: Vec<_> =
        failed.expression.places().into_iter().map(|place| format!("{} = {}", names[place], values[place])).collect();
    Err(Rejection(format!("{}: not {} with {}", failed.reason, failed.expression.text(), read.join(", "))))
}

/// Where a family's configs may run, told in the expressions of a fitted model, which refuses what the family refuses.
///
/// Configs may have different conditions, such as those of one instruction or another: each distinct list of them has a
/// number, which the model knows each config's by.
pub struct Legality {
    family: Family,
    profile: GpuProfile,
    /// Sorted by their texts.
    lists: Vec<&'static [Condition]>,
}

/// The config constant that tells which conditions a config has to meet.
const CONDITIONS: &str = "conditions";

impl Legality {
    /// Of the conditions that any of these configs has to meet. What the family takes on no problem has none.
    pub fn new<'c>(family: Family, profile: &GpuProfile, configs: impl IntoIterator<Item = &'c Config>) -> Self {
        let mut lists: Vec<&'static [Condition]> = Vec::new();
        for config in configs.into_iter().filter(|config| spec(family).check(config, profile).is_ok()) {
            let conditions = spec(family).conditions(config, profile);
            if !lists.contains(&conditions) {
                lists.push(conditions);
            }
        }
        lists.sort_by_cached_key(|list| list.iter().map(|condition| condition.expression.text()).collect::<Vec<_>>());
        Self { family, profile: profile.clone(), lists }
    }

    /// A config as a model may choose it; none where the family takes it on no problem, or by conditions that are not among
    /// these.
    pub fn model_config(&self, config: &Config) -> Option<ModelConfig> {
        spec(self.family).check(config, &self.profile).ok()?;
        let conditions = spec(self.family).conditions(config, &self.profile);
        let number = self.lists.iter().position(|list| *list == conditions)?;
        let told = (self.lists.len() > 1).then(|| (CONDITIONS.to_owned(), number as i64));
        Some(ModelConfig { constants: told.into_iter().collect(), template: config.to_template() })
    }

    /// The family's description, with where its configs may run.
    pub fn description(&self) -> Description {
        let mut described = Description::of(self.family, &self.profile);
        if self.lists.len() > 1 {
            described.config_constants.push(CONDITIONS.to_owned());
        }
        let is_common = |condition: &Condition| self.lists.iter().all(|list| list.contains(condition));
        let first = self.lists.first().copied().unwrap_or_default();
        described.legal.extend(first.iter().filter(|condition| is_common(condition)).map(in_a_model));
        for (number, list) in self.lists.iter().enumerate() {
            let own = list.iter().filter(|condition| !is_common(condition));
            described.legal.extend(own.map(|own| format!("{CONDITIONS} != {number} || ({})", in_a_model(own))));
        }
        described
    }
}

/// A condition's text in a model's names, where a knob that is missing or null has no value.
fn in_a_model(condition: &Condition) -> String {
    let mut rest = condition.expression.text();
    let mut text = String::new();
    while let Some(letter) = rest.chars().next() {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let word = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        if word == 0 {
            text.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let entry = rest[word..].strip_prefix('[').and_then(|entry| entry.find(']')).map_or(0, |close| close + 2);
        let (name, after) = rest.split_at(word + entry);
        rest = after;
        let is_knob = NAMES[KNOBS.start - DIMENSIONS..KNOBS.end - DIMENSIONS].contains(&name);
        let parts = match name {
            "element_bytes" => ["", "dtype_bytes", ""],
            // Every config has tiles.
            _ if is_knob && !name.starts_with("block_sizes") => ["default(", name, ", 0)"],
            _ => ["", name, ""],
        };
        text.extend(parts);
    }
    text
}
