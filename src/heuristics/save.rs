//! Writing documents: one text for one content, so that a regenerated document differs only where it changed.

use super::document::Document;
use super::rows;
use serde_json::{Map, Value};

impl Document {
    /// The document as canonical JSON: keys sorted at every level, rules by class then bucket, numbers of its own rounded
    /// to 4 places (templates are left as they are), ending in a newline. The problems behind a rule or fallback are rows, and what
    /// belongs together has a line: a template, a bucket, a problem, a config, a tree. Lines are not indented: at the depth they
    /// lie it would make a document a tenth larger.
    pub fn to_canonical_json(&self) -> String {
        let mut document = self.clone();
        document.rules.sort_by(|a, b| (&a.kernel_class, &a.shape_bucket).cmp(&(&b.kernel_class, &b.shape_bucket)));
        rows::shorten(&mut document);
        // A document is strings, numbers and maps keyed by strings, none of which fails to become JSON.
        let value = serde_json::to_value(&document).map(canonical).unwrap_or_default();
        let mut text = String::new();
        write_lines(&value, usize::MAX, &mut text);
        text.push('\n');
        text
    }
}

/// Writes a value with each of its parts on a line of its own, so many levels down.
fn write_lines(value: &Value, levels: usize, text: &mut String) {
    let (parts, [open, close]): (Vec<(Option<&String>, &Value)>, _) = match value {
        Value::Object(fields) if levels > 0 && !fields.is_empty() => {
            (fields.iter().map(|(name, value)| (Some(name), value)).collect(), ['{', '}'])
        }
        Value::Array(items) if levels > 0 && !items.is_empty() => {
            (items.iter().map(|item| (None, item)).collect(), ['[', ']'])
        }
        other => return text.push_str(&other.to_string()),
    };
    for (place, (name, part)) in parts.into_iter().enumerate() {
        text.push(if place == 0 { open } else { ',' });
        text.push('\n');
        if let Some(name) = name {
            text.push_str(&Value::from(name.as_str()).to_string());
            text.push(':');
        }
        let levels = match name.map(String::as_str) {
            Some("kernels" | "shape_bucket" | "template" | "validation") => 0,
            // Of a model; of a rule; and problems of either.
            Some(
                "configs" | "cross_validation" | "definitions" | "features" | "legal" | "rows" | "source" | "templates"
                | "trees",
            ) => 1,
            Some("problems") => 1 + usize::from(part.is_object()),
            Some("models") if levels == usize::MAX => 2,
            Some("regret") => 2,
            _ => levels - 1,
        };
        write_lines(part, levels, text);
    }
    text.push(close);
}

fn canonical(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(sorted(fields, |name, value| match name {
            "template" => sort_keys(value),
            _ => canonical(value),
        })),
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        Value::Number(number) if number.is_f64() => number.as_f64().and_then(round).map_or(Value::Null, Value::Number),
        other => other,
    }
}

fn sort_keys(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(sorted(fields, |_, value| sort_keys(value))),
        Value::Array(items) => items.into_iter().map(sort_keys).collect(),
        other => other,
    }
}

/// The fields in sorted order, whichever order the map keeps, each value changed by `change`.
fn sorted(fields: Map<String, Value>, change: impl Fn(&str, Value) -> Value) -> Map<String, Value> {
    let mut fields: Vec<_> = fields.into_iter().collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields.into_iter().map(|(name, value)| (name.clone(), change(&name, value))).collect()
}

/// Rounds to 4 places; what is too large to have any is left as it is.
fn round(number: f64) -> Option<serde_json::Number> {
    let scaled = (number * 1e4).round();
    // Adding zero makes a negative zero a plain one.
    serde_json::Number::from_f64(if scaled.abs() < 1e15 { scaled / 1e4 + 0.0 } else { number })
}
