//! Writing documents: one text for one content, so that a regenerated document differs only where it changed.

use super::document::Document;
use serde_json::{Map, Value};

impl Document {
    /// The document as canonical JSON: keys sorted at every level, rules by class then bucket, numbers of its own rounded
    /// to 4 places (templates are left as they are), indented by a space a level, ending in a newline. What belongs together has a
    /// line: a template, a bucket, a comparison, a problem, a tree.
    pub fn to_canonical_json(&self) -> String {
        let mut document = self.clone();
        document.rules.sort_by(|a, b| (&a.kernel_class, &a.shape_bucket).cmp(&(&b.kernel_class, &b.shape_bucket)));
        // A document is strings, numbers and maps keyed by strings, none of which fails to become JSON.
        let value = serde_json::to_value(&document).map(canonical).unwrap_or_default();
        let mut text = String::new();
        write_lines(&value, usize::MAX, 0, &mut text);
        text.push('\n');
        text
    }
}

/// Levels of a model that are spread over lines: classes, their fields, and entries of these.
const MODEL_LEVELS: usize = 3;

/// Writes a value with each of its parts on a line of its own, so many levels down.
fn write_lines(value: &Value, levels: usize, indent: usize, text: &mut String) {
    let (parts, [open, close]): (Vec<(Option<&String>, &Value)>, _) = match value {
        Value::Object(fields) if levels > 0 && !fields.is_empty() => {
            (fields.iter().map(|(name, value)| (Some(name), value)).collect(), ['{', '}'])
        }
        Value::Array(items) if levels > 0 && !items.is_empty() => {
            (items.iter().map(|item| (None, item)).collect(), ['[', ']'])
        }
        other => return text.push_str(&other.to_string()),
    };
    let start_line = |text: &mut String, indent| {
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent));
    };
    for (place, (name, part)) in parts.into_iter().enumerate() {
        text.push(if place == 0 { open } else { ',' });
        start_line(text, indent + 1);
        if let Some(name) = name {
            text.push_str(&Value::from(name.as_str()).to_string());
            text.push_str(": ");
        }
        let levels = match name.map(String::as_str) {
            Some("models") if indent == 0 => MODEL_LEVELS,
            Some("problems" | "compared" | "templates") => 1.min(levels - 1),
            Some("template" | "shape_bucket" | "ties" | "leave_one_out" | "exemplar" | "kernels") => 0,
            _ => levels - 1,
        };
        write_lines(part, levels, indent + 1, text);
    }
    start_line(text, indent);
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
