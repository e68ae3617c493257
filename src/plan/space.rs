//! Config spaces: the product of the axes, less what is excluded, with idle knobs dropped.

use super::problem::PlannedProblem;
use crate::error::{Error, Result};
use crate::families::{self, Values};
use crate::heuristics::{self, Formula};
use crate::model::{Config, Family, GpuProfile, Mma};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// One config space of a plan.
#[derive(Clone, Debug)]
pub struct Space {
    /// The family's default config in this space: what rules must never be slower than.
    pub default: Config,
    /// Every config, in the order of the axes, without duplicates.
    pub configs: Vec<Config>,
    /// What is not worth trying on a problem, though it is legal: where one of these holds.
    pub exclusions: Vec<Formula>,
    /// A GPU with these instructions does without this space: it was swept beside theirs, and none of its configs won.
    pub superseded_by: Option<Mma>,
    /// Problems of its own, in place of the plan's.
    pub problems: Option<Vec<PlannedProblem>>,
}

impl Space {
    /// The kind of a space that any GPU has.
    pub const ANY_GPU: &'static str = "gpu";

    /// Whether a config with these values is worth trying on its problem.
    pub(super) fn suits(&self, values: &Values) -> bool {
        !self.exclusions.iter().any(|exclusion| exclusion.holds(values))
    }
}

/// What is left out of the product of the axes, whatever the problem.
pub(super) enum Exclusion<'a> {
    /// Configs that have one of the values that each of these fields lists.
    Pattern(&'a Map<String, Value>),
    /// Configs for whose knobs this holds.
    Condition(&'a Formula),
}

/// The same, ready to be compared with configs that have all of these fields.
struct Ready<'a> {
    fields: Vec<&'a str>,
    test: Test<'a>,
}

enum Test<'a> {
    /// For each field, configs that have one of its values and nothing else.
    Pattern(Vec<Vec<Config>>),
    Condition(&'a Formula),
}

impl<'a> Ready<'a> {
    fn new(exclusion: &Exclusion<'a>, family: Family) -> Result<Self> {
        match *exclusion {
            Exclusion::Pattern(when) => {
                let alternatives = |(name, values): (&String, &Value)| {
                    list(name, values)?.iter().map(|value| only(name, &any_as_zero(value))).collect()
                };
                let test = Test::Pattern(when.iter().map(alternatives).collect::<Result<_>>()?);
                Ok(Self { fields: when.keys().map(String::as_str).collect(), test })
            }
            Exclusion::Condition(when) => {
                Ok(Self { fields: families::knobs_of(when, family), test: Test::Condition(when) })
            }
        }
    }

    fn excludes(&self, config: &Config, family: Family) -> bool {
        match &self.test {
            Test::Pattern(alternatives) => {
                let mut fields = self.fields.iter().zip(alternatives);
                fields.all(|(name, values)| values.iter().any(|value| alike(value, config, name)))
            }
            Test::Condition(expression) => expression.holds(&families::knob_values(config, family)),
        }
    }
}

/// The fields that a space's kind puts into each of its configs: `mma`, where it is one.
pub(super) fn kind_field(kind: &str) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    let is_of_gpu = kind == Space::ANY_GPU || kind.starts_with("sm_") || GpuProfile::by_name(kind).is_ok();
    if kind != GpuProfile::CPU && !is_of_gpu {
        let mma: Mma = kind.parse().map_err(|error: Error| {
            error.context(format!(
                "[space.{kind}] is neither cpu, {}, a GPU, an architecture nor a kind of mma",
                Space::ANY_GPU
            ))
        })?;
        fields.insert("mma".into(), mma.name().into());
    }
    Ok(fields)
}

/// Refuses fields that no config of the family has.
pub(super) fn check_fields(fields: &Map<String, Value>, family: Family) -> Result<()> {
    let own = families::spec(family).own_knobs();
    let known: Vec<&str> = Config::FIELDS.into_iter().chain(own.iter().copied()).collect();
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let perhaps =
                heuristics::nearest(name, &known).map(|near| format!(", perhaps '{near}'")).unwrap_or_default();
            Err(Error::usage(format!("unknown field '{name}'{perhaps}; a config has {}", known.join(", "))))
        }
    }
}

/// A single config of a space.
pub(super) fn config(fields: &Map<String, Value>, kind_field: &Map<String, Value>, family: Family) -> Result<Config> {
    check_fields(fields, family)?;
    let mut all = kind_field.clone();
    all.extend(fields.iter().map(|(name, value)| (name.clone(), without_words(value))));
    all.retain(|_, value| !value.is_null());
    if all.get("mma") != kind_field.get("mma") {
        return Err(Error::usage("field 'mma' contradicts the space it stands in"));
    }
    Ok(drop_idle_knobs(config_from(all)?, family))
}

/// Configs that axes may multiply to, before the next exclusion: hundreds of bytes each.
const MOST_CONFIGS: usize = 4_000_000;

/// Refuses a product of so many by so many before it takes all memory.
fn limited(one: usize, other: usize, name: &str) -> Result<()> {
    let product = one.checked_mul(other).filter(|product| *product <= MOST_CONFIGS);
    product.map(drop).ok_or_else(|| {
        Error::usage(format!(
            "axis '{name}': {one} configs by {other} values are more than {MOST_CONFIGS}; shorten an axis, or exclude more"
        ))
    })
}

/// All configs of the axes. Each axis lists the values of its field; `block_sizes` lists values for each position. What a kernel is
/// compiled for varies slowest.
pub(super) fn expand(
    axes: &Map<String, Value>,
    exclusions: &[Exclusion],
    kind_field: &Map<String, Value>,
    family: Family,
) -> Result<Vec<Config>> {
    check_fields(axes, family)?;
    let mut pending = exclusions.iter().map(|exclusion| Ready::new(exclusion, family)).collect::<Result<Vec<_>>>()?;
    let mut configs = vec![config(&Map::new(), kind_field, family)?];
    let own = families::spec(family).own_knobs();
    let all = || Config::FIELDS.into_iter().chain(own.iter().copied());
    let mut known: Vec<&str> = all().filter(|field| !axes.contains_key(*field)).collect();
    let first = ["block_sizes", "num_warps", "num_stages", "reduction_loops"];
    let compiled = first.into_iter().chain(own.iter().copied()).chain(["pid_type"]);
    let others = all().filter(|field| !first.contains(field) && *field != "pid_type" && !own.contains(field));
    for name in compiled.chain(others) {
        let Some(candidates) = axes.get(name) else { continue };
        let values = list(name, candidates)?;
        let values = if name == "block_sizes" { positions(values)? } else { values.clone() };
        let values = values.iter().map(|value| only(name, value)).collect::<Result<Vec<_>>>()?;
        known.push(name);
        // Excluded as soon as it is known, so that what is left stays small.
        let ready: Vec<_> =
            pending.extract_if(.., |when| when.fields.iter().all(|field| known.contains(field))).collect();
        limited(configs.len(), values.len(), name)?;
        let extended = configs.iter().flat_map(|config| {
            values.iter().map(|value| {
                let mut config = config.clone();
                set(&mut config, value, name);
                drop_idle_knobs(config, family)
            })
        });
        configs = extended.filter(|config| !ready.iter().any(|when| when.excludes(config, family))).collect();
        configs.dedup();
    }
    if family.ships() && !axes.contains_key("block_sizes") {
        return Err(Error::usage("axis 'block_sizes' is missing"));
    }
    let mut seen = BTreeSet::new();
    configs.retain(|config| seen.insert(config.clone()));
    Ok(configs)
}

/// A config with this field alone.
fn only(name: &str, value: &Value) -> Result<Config> {
    let mut fields = Map::new();
    fields.insert(name.into(), without_words(value));
    fields.retain(|_, value| !value.is_null());
    config_from(fields)
}

/// Takes a field over from another config.
fn set(config: &mut Config, from: &Config, name: &str) {
    match name {
        "block_sizes" => config.block_sizes.clone_from(&from.block_sizes),
        "l2_groupings" => config.l2_groupings.clone_from(&from.l2_groupings),
        "mma" => config.mma = from.mma,
        "num_sm_multiplier" => config.num_sm_multiplier = from.num_sm_multiplier,
        "num_stages" => config.num_stages = from.num_stages,
        "num_warps" => config.num_warps = from.num_warps,
        "pid_type" => config.pid_type = from.pid_type,
        "reduction_loops" => config.reduction_loops.clone_from(&from.reduction_loops),
        "split_k" => config.split_k = from.split_k,
        own => match from.own.get(own) {
            Some(value) => drop(config.own.insert(own.to_owned(), value.clone())),
            None => drop(config.own.remove(own)),
        },
    }
}

fn list<'a>(name: &str, value: &'a Value) -> Result<&'a Vec<Value>> {
    let list = value.as_array().filter(|values| !values.is_empty());
    list.ok_or_else(|| Error::usage(format!("axis '{name}' must be a list of at least one value, not {value}")))
}

/// `[[16, 32], [64]]` → `[16, 64]`, `[32, 64]`.
fn positions(candidates: &[Value]) -> Result<Vec<Value>> {
    let mut lists = vec![Vec::new()];
    for candidates in candidates {
        let candidates = list("block_sizes", candidates)?;
        limited(lists.len(), candidates.len(), "block_sizes")?;
        lists = lists
            .iter()
            .flat_map(|list| {
                candidates.iter().map(move |candidate| {
                    let mut list: Vec<Value> = list.clone();
                    list.push(candidate.clone());
                    list
                })
            })
            .collect();
    }
    Ok(lists.into_iter().map(Value::Array).collect())
}

/// `"*"` in a pattern of `block_sizes` stands for any; no block is of size 0.
fn any_as_zero(value: &Value) -> Value {
    match value {
        Value::String(any) if any == "*" => 0.into(),
        Value::Array(values) => Value::Array(values.iter().map(any_as_zero).collect()),
        other => other.clone(),
    }
}

/// Whether a config's field has the value of a pattern's.
fn alike(pattern: &Config, config: &Config, name: &str) -> bool {
    match name {
        "block_sizes" => {
            let (patterns, sizes) = (&pattern.block_sizes, &config.block_sizes);
            patterns.len() == sizes.len()
                && patterns.iter().zip(sizes).all(|(pattern, size)| *pattern == 0 || pattern == size)
        }
        "l2_groupings" => pattern.l2_groupings == config.l2_groupings,
        "mma" => pattern.mma == config.mma,
        "num_sm_multiplier" => pattern.num_sm_multiplier == config.num_sm_multiplier,
        "num_stages" => pattern.num_stages == config.num_stages,
        "num_warps" => pattern.num_warps == config.num_warps,
        "pid_type" => pattern.pid_type == config.pid_type,
        "reduction_loops" => pattern.reduction_loops == config.reduction_loops,
        "split_k" => pattern.split_k == config.split_k,
        own => pattern.own.get(own) == config.own.get(own),
    }
}

/// Drops the knobs that change nothing in this config, so that no template carries decoration. What they mean to a kernel that is
/// called is its own to say.
fn drop_idle_knobs(mut config: Config, family: Family) -> Config {
    if families::spec(family).callable().is_some() {
        return config;
    }
    if config.pid_type.is_some_and(|order| !order.is_persistent()) {
        config.num_sm_multiplier = None;
    }
    config.without(&families::spec(family).idle_knobs(&config))
}

/// The value of a knob in TOML, which has no null: `"whole"` (a row at once) stands for it, and so does the empty word, for a
/// knob that is left out. In a list the empty word is itself, as a policy of Helion's.
fn without_words(value: &Value) -> Value {
    fn listed(value: &Value) -> Value {
        match value {
            Value::String(text) if text == "whole" => Value::Null,
            Value::Array(values) => Value::Array(values.iter().map(listed).collect()),
            other => other.clone(),
        }
    }
    if value.as_str().is_some_and(str::is_empty) { Value::Null } else { listed(value) }
}

/// A config from JSON, with an error that names the field.
fn config_from(fields: Map<String, Value>) -> Result<Config> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| Error::usage(format!("config: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_word_leaves_a_knob_out_and_is_itself_in_a_list() {
        let word = |text: &str| without_words(&text.into());
        assert_eq!([word(""), word("whole"), word("flat")], [Value::Null, Value::Null, "flat".into()]);
        let list = serde_json::json!(["", "first", "whole", 3]);
        assert_eq!(without_words(&list), serde_json::json!(["", "first", null, 3]));
    }

    fn expand_text(axes: &str, exclude: &str) -> Result<Vec<Config>> {
        let axes: Map<String, Value> = toml::from_str(axes).unwrap();
        let when: Map<String, Value> = toml::from_str(exclude).unwrap();
        let exclusions: Vec<_> = if when.is_empty() { vec![] } else { vec![Exclusion::Pattern(&when)] };
        expand(&axes, &exclusions, &kind_field("mma_sync").unwrap(), Family::Matmul)
    }

    /// Of a family whose manifest says when a knob is idle.
    fn softmax_configs(kind: &str, axes: &str) -> Vec<Config> {
        expand(&toml::from_str(axes).unwrap(), &[], &kind_field(kind).unwrap(), Family::RowSoftmax).unwrap()
    }

    #[test]
    fn axes_that_no_memory_holds_are_refused_before_they_take_it() {
        let many = |axis: &str| format!("{axis} = {:?}", (1..=3000).collect::<Vec<_>>());
        let error =
            expand_text(&[&many("num_warps"), &many("num_stages"), "block_sizes = [[16]]"].join("\n"), "").unwrap_err();
        assert!(error.to_string().contains("axis 'num_stages': 3000 configs by 3000 values are more than"), "{error}");
        let blocks = format!("block_sizes = [{0}, {0}]", format_args!("{:?}", (1..=3000).collect::<Vec<_>>()));
        assert!(expand_text(&blocks, "").unwrap_err().to_string().contains("axis 'block_sizes': 3000 configs"));
    }

    #[test]
    fn the_space_is_the_product_of_its_axes() {
        let configs = expand_text("block_sizes = [[16, 32], [64], [32, 64]]\nnum_warps = [4, 8]", "").unwrap();
        assert_eq!(configs.len(), 2 * 2 * 2);
        assert_eq!(configs[0].block_sizes, [16, 64, 32]);
        assert!(configs.iter().all(|config| config.mma == Some(Mma::MmaSync)));
    }

    #[test]
    fn knobs_that_do_nothing_are_dropped_and_duplicates_merge() {
        let configs = expand_text(
            "block_sizes = [[16]]\npid_type = ['flat', 'persistent_blocked']\nnum_sm_multiplier = [1, 2]",
            "",
        );
        let multipliers: Vec<_> = configs.unwrap().iter().map(|config| config.num_sm_multiplier).collect();
        assert_eq!(multipliers, [None, Some(1), Some(2)]);
    }

    #[test]
    fn nothing_is_left_to_the_launch() {
        let error = expand_text("block_sizes = [[16], [32], [64]]\nsplit_k = ['auto', 2]", "").unwrap_err().to_string();
        assert!(error.contains("auto"), "{error}");
    }

    #[test]
    fn an_exclusion_takes_out_what_matches_all_of_it() {
        let axes = "block_sizes = [[16, 64], [32]]\nnum_warps = [1, 8]";
        let configs = expand_text(axes, "num_warps = [8]\nblock_sizes = [[16, '*']]").unwrap();
        assert_eq!(configs.len(), 3);
        assert!(!configs.iter().any(|config| config.num_warps == Some(8) && config.block_sizes[0] == 16));
    }

    #[test]
    fn an_exclusion_may_name_any_field() {
        let axes = "block_sizes = [[16, 32], [64]]\nl2_groupings = [[1], [8]]\nnum_warps = [4, 8]\nnum_stages = [2, 3]\n\
                    pid_type = ['flat', 'persistent_blocked']\nnum_sm_multiplier = [1, 2]\nsplit_k = [1, 4]\nrealigned = ['', 'a', 'ab']";
        let all = expand_text(axes, "").unwrap();
        let excluded = [
            ("block_sizes", "[16, 64]"),
            ("l2_groupings", "[8]"),
            ("mma", "'mma_sync'"),
            ("num_sm_multiplier", "2"),
            ("num_stages", "3"),
            ("num_warps", "4"),
            ("pid_type", "'flat'"),
            ("realigned", "'a'"),
            ("split_k", "4"),
        ];
        for (field, value) in excluded {
            let pattern: Map<String, Value> = toml::from_str(&format!("{field} = {value}")).unwrap();
            let is_met = |config: &&Config| config.to_template().get(field) != pattern.get(field);
            let left: Vec<&Config> = all.iter().filter(is_met).collect();
            let listed = expand_text(axes, &format!("{field} = [{value}]")).unwrap();
            assert!(left.len() < all.len() && listed.iter().eq(left), "{field}: {} of {}", listed.len(), all.len());
        }
    }

    #[test]
    fn a_whole_row_is_null() {
        let axes = "block_sizes = [[1]]\nreduction_loops = [['whole'], [1024]]\nnum_stages = [2, 3]";
        let configs = softmax_configs("simt", axes);
        assert_eq!(configs.len(), 3);
        assert_eq!((configs[0].reduction_loops.as_slice(), configs[0].num_stages), (&[None][..], None));
        // Wide lanes may have the next row in flight.
        let wide = softmax_configs("simt_wide", axes);
        assert_eq!(wide.len(), 4);
        assert_eq!((wide[0].reduction_loops.as_slice(), wide[0].num_stages), (&[None][..], Some(2)));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = expand_text("block_size = [[1]]", "").unwrap_err().to_string();
        assert!(error.contains("'block_size'") && error.contains("block_sizes"), "{error}");
    }
}
