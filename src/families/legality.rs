//! Where configs are legal, as data: conditions in dimensions, knobs and the GPU's figures.

use super::{Description, Rejection, spec};
use crate::heuristics::{Formula, ModelConfig};
use crate::model::{Config, Family, GpuProfile, KnobValue, MOST_DIMENSIONS, Mma, PidType, Problem};

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
/// Knobs whose values are words, which come after these.
const WORDS: [&str; 2] = ["mma", "pid_type"];
/// The most knobs of a family's own, which come last.
pub(super) const MOST_OWN_KNOBS: usize = 16;
/// Places that are dimensions, in the family's order.
const DIMENSIONS: usize = MOST_DIMENSIONS;
/// Places of the knobs that are numbers.
const KNOBS: std::ops::Range<usize> = DIMENSIONS + 1..DIMENSIONS + 10;
/// Places of the GPU's figures.
const FIGURES: std::ops::Range<usize> = KNOBS.end..DIMENSIONS + NAMES.len();
/// Places of the words, and of the knobs of a family's own.
const OTHERS: std::ops::Range<usize> = FIGURES.end..FIGURES.end + WORDS.len() + MOST_OWN_KNOBS;

/// The values that expressions read.
pub type Values = [i64; OTHERS.end];

fn is_knob(place: usize) -> bool {
    KNOBS.contains(&place) || OTHERS.contains(&place)
}

/// Dimensions that a family does not have: no expression can name them.
const NO_DIMENSION: &str = "";

/// The names that expressions of a family may use, in the order of [`values`].
pub fn names(family: Family) -> [&'static str; OTHERS.end] {
    names_of(&family.all_dimensions().collect::<Vec<_>>(), spec(family).own_knobs())
}

/// The same of a family with these dimensions and knobs of its own.
pub(super) fn names_of<'n>(dimensions: &[&'n str], own_knobs: &[&'n str]) -> [&'n str; OTHERS.end] {
    let mut names = [NO_DIMENSION; OTHERS.end];
    names[..dimensions.len()].copy_from_slice(dimensions);
    names[DIMENSIONS..FIGURES.end].copy_from_slice(&NAMES);
    names[OTHERS][..WORDS.len()].copy_from_slice(&WORDS);
    names[OTHERS][WORDS.len()..][..own_knobs.len()].copy_from_slice(own_knobs);
    names
}

/// Whether an expression reads nothing but knobs, so that it holds for a config whatever the problem and the GPU.
pub fn is_of_knobs(expression: &Formula) -> bool {
    expression.places().into_iter().all(is_knob)
}

/// Whether an expression reads nothing but dimensions and the bytes of an element, so that it is the same for all configs and GPUs.
pub(super) fn is_of_problem(expression: &Formula) -> bool {
    expression.places().into_iter().all(|place| place <= DIMENSIONS)
}

/// The names that every family's expressions know, without those of a list's entries.
pub(super) fn fixed_names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain(WORDS).map(|name| name.split('[').next().unwrap_or(name))
}

/// The fields of a config of the family that an expression reads, with repetitions.
pub fn knobs_of(expression: &Formula, family: Family) -> Vec<&'static str> {
    let names = names(family);
    let knobs = expression.places().into_iter().filter(|place| is_knob(*place));
    knobs.map(|place| names[place].split('[').next().unwrap_or(names[place])).collect()
}

/// What expressions read of a config on a problem.
pub fn values(config: &Config, problem: &Problem, profile: &GpuProfile) -> Values {
    values_on(knob_values(config, problem.family), problem, profile)
}

/// The same, where what they read of the knobs alone is known.
pub fn values_on(mut values: Values, problem: &Problem, profile: &GpuProfile) -> Values {
    for (value, extent) in values.iter_mut().zip(problem.shape.extents()) {
        *value = *extent as i64;
    }
    values[DIMENSIONS] = problem.dtype.size_bytes() as i64;
    let figures = [
        profile.multiprocessors.into(),
        profile.smem_per_block.0 as i64,
        profile.registers_per_multiprocessor.into(),
        profile.threads_per_multiprocessor.into(),
    ];
    values[FIGURES].copy_from_slice(&figures);
    values
}

/// The same with all but the knobs left at 0.
pub fn knob_values(config: &Config, family: Family) -> Values {
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
    let mut values = [0; OTHERS.end];
    for (value, knob) in values[KNOBS].iter_mut().zip(knobs) {
        *value = knob.into();
    }
    let words = [config.mma.map(Mma::name), config.pid_type.map(PidType::name)];
    let words = words.into_iter().map(|word| word.map_or(0, Formula::word));
    let own = spec(family).own_knobs().iter().map(|name| match config.own.get(*name) {
        Some(KnobValue::Integer(number)) => *number,
        Some(KnobValue::Boolean(yes)) => i64::from(*yes),
        Some(KnobValue::Word(word)) => Formula::word(word),
        Some(list @ KnobValue::List(_)) => Formula::word(&list.to_string()),
        Some(KnobValue::Nothing) | None => 0,
    });
    for (value, knob) in values[OTHERS].iter_mut().zip(words.chain(own)) {
        *value = knob;
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

/// Whether a problem meets all conditions.
pub(super) fn hold(conditions: &[Condition], values: &Values) -> bool {
    conditions.iter().all(|condition| condition.expression.holds(values))
}

/// Refuses a problem that a condition does not hold for, with the values that it read.
pub(super) fn check(family: Family, conditions: &[Condition], values: &Values) -> Result<(), Rejection> {
    let Some(failed) = conditions.iter().find(|condition| !condition.expression.holds(values)) else { return Ok(()) };
    let names = names(family);
    let numbers = failed.expression.places().into_iter().filter(|place| values[*place].abs() < 1 << 60);
    let read: Vec<_> = numbers.map(|place| format!("{} = {}", names[place], values[place])).collect();
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
    /// Whether some problems are variants: else what is said of these is left out, for it holds wherever nothing is one.
    variants: bool,
}

/// The config constant that tells which conditions a config has to meet.
const CONDITIONS: &str = "conditions";

impl Legality {
    /// Of the conditions that any of these configs has to meet. What the family takes on no problem has none.
    pub fn new<'c>(
        family: Family,
        profile: &GpuProfile,
        variants: bool,
        configs: impl IntoIterator<Item = &'c Config>,
    ) -> Self {
        let mut lists: Vec<&'static [Condition]> = Vec::new();
        for config in configs.into_iter().filter(|config| spec(family).check(config, profile).is_ok()) {
            let conditions = spec(family).conditions(config, profile);
            if !lists.contains(&conditions) {
                lists.push(conditions);
            }
        }
        lists.sort_by_cached_key(|list| list.iter().map(|condition| condition.expression.text()).collect::<Vec<_>>());
        Self { family, profile: profile.clone(), lists, variants }
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

    /// Whether a model is told of it: of what variants are, only where there are some.
    fn is_told(&self, expression: &Formula) -> bool {
        let plain = self.family.dimensions().len()..DIMENSIONS;
        self.variants || !expression.places().iter().any(|place| plain.contains(place))
    }

    /// The family's description, with where its configs may run, and are tried: not where one of these expressions holds for configs
    /// with that `mma`, or for any.
    pub fn description<'e>(&self, untried: impl IntoIterator<Item = (Option<Mma>, &'e Formula)>) -> Description {
        let mut described = Description::of(self.family, &self.profile, self.variants);
        let is_told = |condition: &&Condition| self.is_told(&condition.expression);
        let told = untried.into_iter().filter(|(_, expression)| self.is_told(expression));
        described.tried = told
            .map(|(mma, expression)| {
                let others = mma.map(|mma| format!("default(mma, 0) != \"{mma}\" || ")).unwrap_or_default();
                format!("{others}!({})", in_a_model(expression, self.family))
            })
            .collect();
        if self.lists.len() > 1 {
            described.config_constants.push(CONDITIONS.to_owned());
        }
        let is_common = |condition: &Condition| self.lists.iter().all(|list| list.contains(condition));
        let first = self.lists.first().copied().unwrap_or_default();
        described.legal.extend(
            first
                .iter()
                .filter(is_told)
                .filter(|condition| is_common(condition))
                .map(|condition| in_a_model(&condition.expression, self.family)),
        );
        for (number, list) in self.lists.iter().enumerate() {
            let own = list.iter().filter(is_told).filter(|condition| !is_common(condition));
            described.legal.extend(
                own.map(|own| format!("{CONDITIONS} != {number} || ({})", in_a_model(&own.expression, self.family))),
            );
        }
        described
    }
}

/// A condition's text in a model's names, where a knob that is missing or null has no value.
fn in_a_model(expression: &Formula, family: Family) -> String {
    let own_knobs = spec(family).own_knobs();
    let mut rest = expression.text();
    let mut text = String::new();
    while let Some(letter) = rest.chars().next() {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let word = rest.find(|letter| !is_part(letter)).unwrap_or(rest.len());
        if letter == '"' {
            let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
            text.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        if word == 0 {
            text.push(letter);
            rest = &rest[letter.len_utf8()..];
            continue;
        }
        let entry = rest[word..].strip_prefix('[').and_then(|entry| entry.find(']')).map_or(0, |close| close + 2);
        let (name, after) = rest.split_at(word + entry);
        rest = after;
        let is_knob = NAMES[KNOBS.start - DIMENSIONS..KNOBS.end - DIMENSIONS].contains(&name)
            || WORDS.contains(&name)
            || own_knobs.contains(&name);
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
