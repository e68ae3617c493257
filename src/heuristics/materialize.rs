//! From a template to a config that a caller's config space accepts.

use super::template::Template;
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// A caller's config space, as far as templates must fit it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// The knobs it has.
    pub fields: BTreeMap<String, Knob>,
    /// The program orders it can run.
    pub pid_types: Vec<String>,
}

/// What a knob's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// One value.
    Scalar,
    /// A list of so many.
    List(usize),
}

/// Lays a template over the caller's default config. Knobs the space does not have, and a `pid_type` it cannot run, are
/// left out.
///
/// # Errors
/// Where a list is not as long as the space has it, a list stands for a single value or the other way round, or
/// `num_warps` is no power of two; the message names the field.
pub fn materialize(template: &Template, space: &Space, default: &Template) -> Result<Template> {
    let mut config = default.clone();
    for (name, value) in template {
        let Some(knob) = space.fields.get(name) else { continue };
        if name == "pid_type" && !space.pid_types.iter().any(|known| value == known.as_str()) {
            continue;
        }
        check(name, value, *knob)?;
        config.insert(name.clone(), value.clone());
    }
    Ok(config)
}

fn check(name: &str, value: &Value, knob: Knob) -> Result<()> {
    match (knob, value) {
        (Knob::List(length), Value::Array(items)) if items.len() != length => Err(Error::usage(format!(
            "template field {name} has {} entries; this config space needs {length}",
            items.len()
        ))),
        (Knob::List(_), Value::Array(_)) => Ok(()),
        (Knob::List(length), _) => {
            Err(Error::usage(format!("template field {name} is no list; this config space needs {length} entries")))
        }
        (Knob::Scalar, Value::Array(_)) => {
            Err(Error::usage(format!("template field {name} is a list; this config space needs a single value")))
        }
        (Knob::Scalar, _) if name == "num_warps" && !value.as_u64().is_some_and(u64::is_power_of_two) => {
            Err(Error::usage(format!("template field num_warps = {value}: it must be a power of two")))
        }
        (Knob::Scalar, _) => Ok(()),
    }
}
