//! How a model's configs, problems and trees lie in a document: what they share once, then a short row each. The form before
//! repeats the names of knobs in every config, and is read too.

use super::fitted::{MODEL_FORM, MeasuredProblem, ModelConfig};
use super::template::Template;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// The form before [`MODEL_FORM`]: the same models, but for how they are written down.
const FORM_BEFORE: &str = "trees/1";

/// What keeps rows that somebody else wrote from taking all memory once they are spelled out: ten times what is fitted.
const MOST_BYTES: usize = 1 << 22;

/// A list of the form before, or what stands in its place today.
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "harness", schemars(untagged))]
pub(super) enum Listed<Old, New> {
    Old(Vec<Old>),
    New(New),
}

impl<'de, Old: Deserialize<'de>, New: Deserialize<'de>> Deserialize<'de> for Listed<Old, New> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<Old, New>(PhantomData<(Old, New)>);

        impl<'de, Old: Deserialize<'de>, New: Deserialize<'de>> Visitor<'de> for Either<Old, New> {
            type Value = Listed<Old, New>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object, or a list as in the form before")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(Listed::Old)
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                New::deserialize(MapAccessDeserializer::new(fields)).map(Listed::New)
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// Reads the name of a form: a model of the form before is one of today's once it is read.
pub(super) fn form<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let form = String::deserialize(deserializer)?;
    Ok(if form == FORM_BEFORE { MODEL_FORM.to_owned() } else { form })
}

/// The name that trees call a feature by: `a` the first, `z` the 26th, `aa` the next.
pub(crate) fn feature_name(feature: usize) -> String {
    let last = char::from(b'a' + (feature % 26) as u8);
    if feature < 26 { last.to_string() } else { format!("{}{last}", feature_name(feature / 26 - 1)) }
}

/// The feature that trees call so; none where that is no name, or one of far too many features.
pub(super) fn feature_named(name: &str) -> Option<usize> {
    let digit = |letter: u8| letter.is_ascii_lowercase().then(|| usize::from(letter - b'a') + 1);
    let letters = Some(name.bytes()).filter(|letters| letters.len() <= 4)?;
    letters.into_iter().try_fold(0, |place, letter| Some(place * 26 + digit(letter)?))?.checked_sub(1)
}

pub(super) mod trees {
    use super::{Deserialize, Deserializer, feature_name};

    /// Reads trees. What is broken stays as it is, for the model to tell what is wrong.
    pub(in crate::heuristics) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        let trees = Vec::<String>::deserialize(deserializer)?;
        Ok(trees.into_iter().map(|tree| of_today(&tree).unwrap_or(tree)).collect())
    }

    /// A tree of the form before, `3<128 88 -1310`, as it is written today; nothing for any other text.
    fn of_today(tree: &str) -> Option<String> {
        if !tree.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let word = |word: &str| match word.split_once('<') {
            Some((feature, threshold)) => Some(format!("{}{threshold}", feature_name(feature.parse().ok()?))),
            None if word.starts_with('-') => Some(word.to_owned()),
            None => Some(format!("+{word}")),
        };
        tree.split_ascii_whitespace().map(word).collect()
    }
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

pub(super) mod configs {
    use super::{Columns, Deserialize, Deserializer, Listed, ModelConfig, Serialize, Serializer};
    use serde::de::Error as _;

    pub(in crate::heuristics) fn serialize<S: Serializer>(configs: &[ModelConfig], to: S) -> Result<S::Ok, S::Error> {
        Columns::of(configs).serialize(to)
    }

    pub(in crate::heuristics) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ModelConfig>, D::Error> {
        match Listed::<ModelConfig, Columns>::deserialize(from)? {
            Listed::Old(configs) => Ok(configs),
            Listed::New(columns) => columns.configs().map_err(D::Error::custom),
        }
    }
}

/// Problems by their type, each as its dimensions, the places of its fastest configs, best first, and their medians in
/// microseconds.
pub(super) type ByType = BTreeMap<String, Vec<(Vec<i64>, Vec<usize>, Vec<f64>)>>;

pub(super) mod problems {
    use super::{ByType, Deserialize, Deserializer, Listed, MeasuredProblem, Serialize, Serializer};
    use crate::heuristics::rows::four_digits;
    use serde::de::Error as _;

    pub(in crate::heuristics) fn serialize<S: Serializer>(
        problems: &[MeasuredProblem],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let mut by_type = ByType::new();
        for problem in problems {
            let (configs, times_us) = problem.winners.iter().map(|(config, us)| (*config, four_digits(*us))).unzip();
            by_type.entry(problem.dtype.clone()).or_default().push((problem.dims.clone(), configs, times_us));
        }
        by_type.serialize(to)
    }

    pub(in crate::heuristics) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<MeasuredProblem>, D::Error> {
        let by_type = match Listed::<MeasuredProblem, ByType>::deserialize(from)? {
            Listed::Old(problems) => return Ok(problems),
            Listed::New(by_type) => by_type,
        };
        let mut problems = Vec::new();
        for (dtype, rows) in by_type {
            for (dims, configs, times_us) in rows {
                if configs.len() != times_us.len() {
                    let (configs, times) = (configs.len(), times_us.len());
                    return Err(D::Error::custom(format!("problems: {configs} configs with {times} times")));
                }
                let winners = configs.into_iter().zip(times_us).collect();
                problems.push(MeasuredProblem { dims, dtype: dtype.clone(), winners });
            }
        }
        Ok(problems)
    }
}

/// The names of the problems that a model lists, by their place: `m=16,n=4096,k=4096 bf16`. None of a form that is not known.
pub(super) fn problem_names(model: &Value) -> Vec<String> {
    #[derive(Deserialize)]
    struct Listing {
        #[serde(deserialize_with = "form")]
        form: String,
        dims: Vec<String>,
        #[serde(default, with = "problems")]
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
