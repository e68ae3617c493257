//! Writing documents: one text for one content, so that a regenerated document differs only where it changed.

use super::document::Document;
use serde_json::{Map, Value};

impl Document {
    /// The document as canonical JSON: keys sorted at every level, rules by class then bucket, numbers of its own rounded
    /// to 4 places (templates are left as they are), indented by two spaces, ending in a newline.
    pub fn to_canonical_json(&self) -> String {
        let mut document = self.clone();
        document.rules.sort_by(|a, b| (&a.kernel_class, &a.shape_bucket).cmp(&(&b.kernel_class, &b.shape_bucket)));
        // A document is strings, numbers and maps keyed by strings, none of which fails to become JSON.
        let value = serde_json::to_value(&document).map(canonical).unwrap_or_default();
        format!("{value:#}\n")
    }
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
