//! A model's configs, as a document holds them: in columns, so that the names of knobs stand there once.

use super::listed::Listed;
use super::template::Template;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;

/// What keeps rows that somebody else wrote from taking all memory once they are spelled out: ten times what is fitted.
const MOST_BYTES: usize = 1 << 22;

/// A config that a model may choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct ModelConfig {
    /// What is known of it beside its knobs, by name: registers of a thread, bytes of shared memory.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, i64>,
    /// The config.
    pub template: Template,
}

/// Configs in columns: each value of a knob or constant once, and for each config the places of its values.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub(super) struct Columns {
    /// The values of each constant.
    constants: BTreeMap<String, Vec<i64>>,
    /// The values of each knob.
    template: BTreeMap<String, Vec<Value>>,
    /// A config a text: for each constant, then for each knob, by their names, the place of its value, `-` where it has none.
    rows: Vec<String>,
}

impl Columns {
    fn of(configs: &[ModelConfig]) -> Self {
        let mut columns = Self { constants: BTreeMap::new(), template: BTreeMap::new(), rows: Vec::new() };
        for config in configs {
            for (name, value) in &config.constants {
                place_of(columns.constants.entry(name.clone()).or_default(), value);
            }
            for (name, value) in &config.template {
                place_of(columns.template.entry(name.clone()).or_default(), value);
            }
        }
        let row = |config: &ModelConfig| {
            let constants = columns.constants.iter().map(|(name, values)| found(values, config.constants.get(name)));
            let knobs = columns.template.iter().map(|(name, values)| found(values, config.template.get(name)));
            constants.chain(knobs).collect::<Vec<_>>().join(" ")
        };
        columns.rows = configs.iter().map(row).collect();
        columns
    }

    /// The configs, or what is wrong with them.
    fn configs(&self) -> Result<Vec<ModelConfig>, String> {
        let mut left = MOST_BYTES;
        self.rows.iter().enumerate().map(|(index, row)| self.config(index, row, &mut left)).collect()
    }

    fn config(&self, index: usize, row: &str, left: &mut usize) -> Result<ModelConfig, String> {
        let mut words = row.split_ascii_whitespace();
        let mut next = |values: usize| -> Result<Option<usize>, String> {
            let word = words.next().ok_or_else(|| format!("configs.rows[{index}] has too few columns"))?;
            if word == "-" {
                return Ok(None);
            }
            let place = word.parse().ok().filter(|place| *place < values);
            let shown = || word.chars().take(40).collect::<String>();
            place
                .map(Some)
                .ok_or_else(|| format!("configs.rows[{index}]: '{}' is no place of {values} values", shown()))
        };
        let mut constants = BTreeMap::new();
        for (name, values) in &self.constants {
            if let Some(place) = next(values.len())? {
                constants.insert(name.clone(), values[place]);
            }
        }
        let mut template = Template::new();
        for (name, values) in &self.template {
            if let Some(place) = next(values.len())? {
                template.insert(name.clone(), values[place].clone());
            }
        }
        if words.next().is_some() {
            return Err(format!("configs.rows[{index}] has more columns than there are"));
        }
        let names = constants.keys().map(String::len).sum::<usize>();
        let bytes = names + template.iter().map(|(name, value)| name.len() + size_of_value(value)).sum::<usize>();
        *left = left.checked_sub(bytes).ok_or_else(|| format!("configs of more than {MOST_BYTES} bytes"))?;
        Ok(ModelConfig { constants, template })
    }
}

/// The place of a value among those of a column, which it is added to.
fn place_of<T: PartialEq + Clone>(values: &mut Vec<T>, value: &T) {
    if !values.contains(value) {
        values.push(value.clone());
    }
}

/// The place of a value in a column, as rows have it.
fn found<T: PartialEq>(values: &[T], value: Option<&T>) -> String {
    let place = value.and_then(|value| values.iter().position(|known| known == value));
    place.map_or_else(|| "-".to_owned(), |place| place.to_string())
}

/// Some bytes that a value takes as text.
fn size_of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size_of_value).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + size_of_value(value)).sum::<usize>() + 2
        }
        _ => 4,
    }
}

pub(super) fn serialize<S: Serializer>(configs: &[ModelConfig], to: S) -> Result<S::Ok, S::Error> {
    Columns::of(configs).serialize(to)
}

/// Reads configs in columns, or listed as in the form before.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ModelConfig>, D::Error> {
    match Listed::<ModelConfig, Columns>::deserialize(from)? {
        Listed::Old(configs) => Ok(configs),
        Listed::New(columns) => columns.configs().map_err(D::Error::custom),
    }
}
