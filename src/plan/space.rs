//! Config spaces: the product of the axes, less what is excluded, with idle knobs dropped.

use super::PlannedProblem;
use super::read::{config_from, without_words};
use crate::error::{Error, Result};
use crate::model::{Config, GpuProfile, Mma, PidType};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// One config space of a plan.
#[derive(Clone, Debug)]
pub struct Space {
    /// The family's default config in this space: what rules must never be slower than.
    pub default: Config,
    /// Every config, in the order of the axes, without duplicates.
    pub configs: Vec<Config>,
    /// A GPU with these instructions does without this space: it was swept beside theirs, and none of its configs won.
    pub superseded_by: Option<Mma>,
    /// Problems of its own, in place of the plan's.
    pub problems: Option<Vec<PlannedProblem>>,
}

/// The fields that a space's kind puts into each of its configs: `mma`, but for the cpu.
pub(super) fn kind_field(kind: &str) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    if kind != GpuProfile::CPU {
        let mma: Mma = kind
            .parse()
            .map_err(|error: Error| error.context(format!("[space.{kind}] is neither cpu nor a kind of mma")))?;
        fields.insert("mma".into(), mma.name().into());
    }
    Ok(fields)
}

/// Refuses fields that no config has.
pub(super) fn check_fields(fields: &Map<String, Value>) -> Result<()> {
    match fields.keys().find(|name| !Config::FIELDS.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!("unknown field '{name}'; a config has {}", Config::FIELDS.join(", ")))),
    }
}

/// A single config of a space.
pub(super) fn config(fields: &Map<String, Value>, kind_field: &Map<String, Value>) -> Result<Config> {
    check_fields(fields)?;
    let mut all = kind_field.clone();
    all.extend(fields.iter().map(|(name, value)| (name.clone(), without_words(value))));
    all.retain(|_, value| !value.is_null());
    if all.get("mma") != kind_field.get("mma") {
        return Err(Error::usage("field 'mma' contradicts the space it stands in"));
    }
    Ok(drop_idle_knobs(config_from(all)?))
}

/// All configs of the axes. Each axis lists the values of its field; `block_sizes` lists values for each position.
pub(super) fn expand(
    axes: &Map<String, Value>,
    exclusions: &[&Map<String, Value>],
    kind_field: &Map<String, Value>,
) -> Result<Vec<Config>> {
    check_fields(axes)?;
    let mut partial = vec![Map::new()];
    let mut pending = exclusions.to_vec();
    for (name, candidates) in axes {
        let mut values = list(name, candidates)?.clone();
        if name == "block_sizes" {
            values = positions(&values)?;
        }
        partial = partial
            .iter()
            .flat_map(|fields| {
                values.iter().map(move |value| {
                    let mut fields: Map<String, Value> = fields.clone();
                    fields.insert(name.clone(), value.clone());
                    fields
                })
            })
            .collect();
        // Excluded as soon as it is known, so that what is left stays small.
        let is_known = |field: &String| {
            partial.first().is_some_and(|fields| fields.contains_key(field)) || !axes.contains_key(field)
        };
        let known: Vec<_> = pending.extract_if(.., |when| when.keys().all(is_known)).collect();
        partial.retain(|fields: &Map<String, Value>| !known.iter().any(|when| matches(fields, when)));
    }
    let mut seen = BTreeSet::new();
    let mut configs = Vec::new();
    for fields in &partial {
        let config = config(fields, kind_field)?;
        if seen.insert(config.clone()) {
            configs.push(config);
        }
    }
    Ok(configs)
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

/// Whether every field of `when` lists the config's value; `"*"` within a value stands for anything.
fn matches(fields: &Map<String, Value>, when: &Map<String, Value>) -> bool {
    when.iter().all(|(name, values)| {
        let value = fields.get(name).unwrap_or(&Value::Null);
        values.as_array().is_some_and(|values| values.iter().any(|pattern| alike(pattern, value)))
    })
}

fn alike(pattern: &Value, value: &Value) -> bool {
    match (pattern, value) {
        (Value::String(any), _) if any == "*" => true,
        (Value::Array(patterns), Value::Array(values)) => {
            patterns.len() == values.len() && patterns.iter().zip(values).all(|(pattern, value)| alike(pattern, value))
        }
        _ => pattern == value,
    }
}

/// Drops the knobs that change nothing in this config, so that no template carries decoration.
fn drop_idle_knobs(mut config: Config) -> Config {
    if config.pid_type == Some(PidType::Flat) {
        config.num_sm_multiplier = None;
    }
    if config.reduction_loops == [None] {
        config.num_stages = None;
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand_text(axes: &str, exclude: &str) -> Result<Vec<Config>> {
        let axes: Map<String, Value> = toml::from_str(axes).unwrap();
        let when: Map<String, Value> = toml::from_str(exclude).unwrap();
        let exclusions: Vec<_> = if when.is_empty() { vec![] } else { vec![&when] };
        expand(&axes, &exclusions, &kind_field("mma_sync").unwrap())
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
    fn what_is_left_to_the_launch_is_absent() {
        let axes = "block_sizes = [[16], [32], [64]]\nl2_groupings = ['auto', [8]]\nsplit_k = ['auto', 2]";
        let configs = expand_text(axes, "").unwrap();
        let left = configs.iter().filter(|config| config.l2_groupings.is_empty() && config.split_k.is_none());
        assert_eq!((configs.len(), left.count()), (4, 1));
    }

    #[test]
    fn an_exclusion_takes_out_what_matches_all_of_it() {
        let axes = "block_sizes = [[16, 64], [32]]\nnum_warps = [1, 8]";
        let configs = expand_text(axes, "num_warps = [8]\nblock_sizes = [[16, '*']]").unwrap();
        assert_eq!(configs.len(), 3);
        assert!(!configs.iter().any(|config| config.num_warps == Some(8) && config.block_sizes[0] == 16));
    }

    #[test]
    fn a_whole_row_is_null() {
        let configs =
            expand_text("block_sizes = [[1]]\nreduction_loops = [['whole'], [1024]]\nnum_stages = [2, 3]", "");
        let configs = configs.unwrap();
        assert_eq!(configs.len(), 3);
        assert_eq!((configs[0].reduction_loops.as_slice(), configs[0].num_stages), (&[None][..], None));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = expand_text("block_size = [[1]]", "").unwrap_err().to_string();
        assert!(error.contains("'block_size'") && error.contains("block_sizes"), "{error}");
    }
}
