//! Reading documents: strict about what decides which rule answers, lenient about all else.

use super::document::{Document, Fallback, RankedTemplate, Rule, SCHEMA_VERSION};
use super::rows;
use crate::error::{Context, Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// No document of this kind comes near; what is larger is something else, and must not fill memory.
pub(super) const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// The most JSON values, and objects among them, that a document may hold: four times what the documents of seven families hold,
/// and so few that a document takes little more memory than its text, whatever it is made of.
const MOST_VALUES: usize = 1 << 20;
const MOST_OBJECTS: usize = 1 << 17;

/// The most rules, templates and fallbacks in all, and the most models.
const MOST_ENTRIES: usize = 1 << 16;
pub(super) const MOST_MODELS: usize = 1000;

/// Bytes that are looked at together: a multiple of what a register holds, and no more than a byte can count.
const COUNTED_AT_ONCE: usize = 128;

/// The braces that open an object, and the brackets and commas, of up to [`COUNTED_AT_ONCE`] bytes.
#[inline]
fn count(chunk: &[u8]) -> (usize, usize) {
    let [mut objects, mut others] = [0_u8; 2];
    for byte in chunk {
        objects += u8::from(*byte == b'{');
        others += u8::from(*byte == b'[') + u8::from(*byte == b',');
    }
    (objects.into(), others.into())
}

/// Refuses a text of more than a document holds before any of it is read. Every value but the first of its list or object comes
/// after a comma, so counting these counts none too few; commas within strings are counted too.
pub(super) fn check_size(text: &[u8]) -> Result<()> {
    let most = MAX_DOCUMENT_BYTES;
    if text.len() > most {
        return Err(Error::usage(format!("larger than {} MiB, so no document of rules", most >> 20)));
    }
    let chunks = text.chunks_exact(COUNTED_AT_ONCE);
    let rest = count(chunks.remainder());
    let (objects, others) = chunks.map(count).fold(rest, |sum, more| (sum.0 + more.0, sum.1 + more.1));
    for (what, found, most) in [("objects", objects, MOST_OBJECTS), ("values", objects + others, MOST_VALUES)] {
        if found > most {
            return Err(Error::usage(format!(
                "{found} JSON {what}, so no document of rules, which holds at most {most}"
            )));
        }
    }
    Ok(())
}

/// A text without the byte-order mark that some editors put before it, which JSON does not know.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

impl Document {
    /// Reads a document from a file.
    ///
    /// # Errors
    /// Where the file cannot be read, and as [`Document::from_bytes`].
    pub fn load(path: &Path) -> Result<Self> {
        let place = || format!("heuristics document {}", path.display());
        read_file(path).and_then(|bytes| Self::from_bytes(&bytes)).context(place)
    }

    /// Reads a document from its JSON text.
    ///
    /// # Errors
    /// Where it is larger than 32 MiB or holds more values than documents do, is not JSON (with line and column), is of another schema
    /// version, or holds a rule without class or bucket (with its index).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        check_size(bytes)?;
        Self::from_value(serde_json::from_slice(without_mark(bytes))?)
    }

    /// Reads a document from parsed JSON.
    ///
    /// # Errors
    /// As [`Document::from_bytes`], where the JSON is no document.
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(mut fields) = value else {
            return Err(Error::usage(format!("a document is a JSON object, not {}", kind_of(&value))));
        };
        match fields.remove("schema_version") {
            Some(version) if version == SCHEMA_VERSION => {}
            Some(version) => {
                let version = shortened(&version);
                return Err(Error::usage(format!("schema_version is {version}; this reads version {SCHEMA_VERSION}")));
            }
            None => return Err(Error::usage("schema_version is missing, so this is no heuristics document")),
        }
        let mut entries = Entries::default();
        let rules = match fields.remove("rules") {
            None => Vec::new(),
            Some(Value::Array(rules)) => {
                rules.into_iter().enumerate().map(|rule| read_rule(rule, &mut entries)).collect::<Result<_>>()?
            }
            Some(other) => return Err(Error::usage(format!("rules must be an array, not {}", kind_of(&other)))),
        };
        let fallbacks = take(&mut fields, "fallbacks", object).unwrap_or_default();
        let fallbacks = fallbacks.into_iter().map(|(class, groups)| Ok((class, read_groups(groups, &mut entries)?)));
        let fallbacks = fallbacks.collect::<Result<_>>()?;
        let models = take(&mut fields, "models", object).unwrap_or_default();
        if models.len() > MOST_MODELS {
            return Err(Error::usage(format!("{} models; a document holds at most {MOST_MODELS}", models.len())));
        }
        let mut document = Self {
            schema_version: SCHEMA_VERSION,
            description: take(&mut fields, "description", text).unwrap_or_default(),
            policy: take(&mut fields, "policy", object).unwrap_or_default(),
            rules,
            fallbacks,
            models: models.into_iter().collect(),
            extra: fields,
        };
        rows::spell_out(&mut document)?;
        Ok(document)
    }
}

/// The bytes of a file, and no more of them than tell that it is too large.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(Error::of_named_file)?;
    Ok(bytes)
}

/// How many rules, templates and fallbacks were read so far.
#[derive(Default)]
struct Entries(usize);

impl Entries {
    fn add(&mut self, more: usize) -> Result<()> {
        self.0 += more;
        if self.0 <= MOST_ENTRIES {
            return Ok(());
        }
        Err(Error::usage(format!("more than {MOST_ENTRIES} rules, templates and fallbacks, which no document holds")))
    }
}

fn read_rule((index, value): (usize, Value), entries: &mut Entries) -> Result<Rule> {
    let wrong = |what: &str, found: &Value| Error::usage(format!("rules[{index}]{what}, not {}", kind_of(found)));
    let Value::Object(mut fields) = value else {
        return Err(wrong(" must be an object", &value));
    };
    let kernel_class = match fields.remove("kernel_class").unwrap_or_default() {
        Value::String(class) => class,
        other => return Err(wrong(".kernel_class must be a string", &other)),
    };
    let labels = match fields.remove("shape_bucket").unwrap_or_default() {
        Value::Object(labels) => labels,
        other => return Err(wrong(".shape_bucket must be an object", &other)),
    };
    let shape_bucket = labels.into_iter().map(|(field, label)| match label {
        Value::String(label) => Ok((field, label)),
        other => Err(wrong(&format!(".shape_bucket.{field} must be a string"), &other)),
    });
    let shape_bucket = shape_bucket.collect::<Result<_>>()?;
    let templates = take(&mut fields, "templates", array).unwrap_or_default();
    entries.add(1 + templates.len()).context(|| format!("rules[{index}]"))?;
    Ok(Rule {
        kernel_class,
        shape_bucket,
        match_exact_only: take(&mut fields, "match_exact_only", boolean).unwrap_or(true),
        source: take(&mut fields, "source", object).unwrap_or_default(),
        validation: take(&mut fields, "validation", object).unwrap_or_default(),
        templates: templates.into_iter().map(read_template).collect(),
        extra: fields,
    })
}

pub(super) fn read_template(value: Value) -> RankedTemplate {
    let mut fields = entry(value);
    RankedTemplate {
        template: take_template(&mut fields),
        shape_coverage: take(&mut fields, "shape_coverage", number),
        win_count: take(&mut fields, "win_count", number),
        geomean_slowdown: take(&mut fields, "geomean_slowdown", number),
        median_slowdown: take(&mut fields, "median_slowdown", number),
        p90_slowdown: take(&mut fields, "p90_slowdown", number),
        extra: fields,
    }
}

fn read_groups(value: Value, entries: &mut Entries) -> Result<BTreeMap<String, Fallback>> {
    let groups = object(value).unwrap_or_default();
    entries.add(groups.len())?;
    Ok(groups.into_iter().map(|(group, value)| (group, read_fallback(value))).collect())
}

fn read_fallback(value: Value) -> Fallback {
    let mut fields = entry(value);
    Fallback {
        template: take_template(&mut fields),
        source: take(&mut fields, "source", object).unwrap_or_default(),
        validation: take(&mut fields, "validation", object).unwrap_or_default(),
        extra: fields,
    }
}

/// The fields of an entry that should hold a template; anything but an object stands for an unusable template.
fn entry(value: Value) -> Map<String, Value> {
    object(value).unwrap_or_else(|unusable| Map::from_iter([("template".to_owned(), unusable)]))
}

/// The template; where there is none, its place among the unknown fields is marked.
fn take_template(fields: &mut Map<String, Value>) -> Map<String, Value> {
    take(fields, "template", object).unwrap_or_else(|| {
        fields.entry("template").or_insert(Value::Null);
        Map::new()
    })
}

/// Takes a field out of `fields`, unless `read` gives its value back as unusable: then it stays.
fn take<T>(fields: &mut Map<String, Value>, name: &str, read: fn(Value) -> Result<T, Value>) -> Option<T> {
    match read(fields.remove(name)?) {
        Ok(value) => Some(value),
        Err(unusable) => {
            fields.insert(name.to_owned(), unusable);
            None
        }
    }
}

fn object(value: Value) -> Result<Map<String, Value>, Value> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(other),
    }
}

fn array(value: Value) -> Result<Vec<Value>, Value> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(other),
    }
}

fn text(value: Value) -> Result<String, Value> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(other),
    }
}

fn boolean(value: Value) -> Result<bool, Value> {
    value.as_bool().ok_or(value)
}

fn number(value: Value) -> Result<f64, Value> {
    value.as_f64().ok_or(value)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null or missing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The value as one short piece of text for a message.
fn shortened(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        scalar => scalar.to_string().chars().take(40).collect(),
    }
}
