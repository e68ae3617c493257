//! What the two documents were measured with, as far as it differs.

use super::changes::Change;
use super::side::Side;
use crate::derive::{ENVIRONMENT_FIELDS, Environment, environments_of};
use crate::heuristics::Document;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The classes that both documents hold, and measured by other protocols: what each says.
pub(super) fn unlike_protocols(old: &Document, new: &Document) -> BTreeMap<String, [String; 2]> {
    let (was, is) = (environments_of(&old.policy), environments_of(&new.policy));
    let of_class = |document: &Document, environments: &BTreeMap<String, Vec<Environment>>, class: &str| {
        let whole = || document.policy.get("protocol").and_then(Value::as_str).unwrap_or_default().to_owned();
        environments.get(class).map_or_else(whole, |environments| values(environments, "protocol"))
    };
    let classes = |document: &Document| -> BTreeSet<String> {
        document.rules.iter().map(|rule| &rule.kernel_class).chain(document.fallbacks.keys()).cloned().collect()
    };
    let both = classes(old).intersection(&classes(new)).cloned().collect::<Vec<_>>();
    let protocols = both.into_iter().map(|class| {
        let protocols = [of_class(old, &was, &class), of_class(new, &is, &class)];
        (class, protocols)
    });
    // A document of another maker does not say.
    protocols.filter(|(_, [was, is])| was != is && !was.is_empty() && !is.is_empty()).collect()
}

/// What the documents were measured with, where it differs: by class where both say so, else as a whole; and which
/// unchanged configs run as other kernels.
pub(super) fn environment_changes(old: &Side, new: &Side) -> Vec<Change> {
    let by_class = |side: &Side| environments_of(&side.document.policy);
    let (was, is) = (by_class(old), by_class(new));
    let mut changes = BTreeSet::new();
    for field in ENVIRONMENT_FIELDS {
        let whole =
            |side: &Side| side.document.policy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut add = |class: Option<&String>, old: String, new: String| {
            if old != new {
                changes.insert(Change { class: class.cloned(), field: field.to_owned(), old, new });
            }
        };
        if was.is_empty() || is.is_empty() {
            add(None, whole(old), whole(new));
        }
        for (class, environments) in &was {
            if let Some(others) = is.get(class) {
                add(Some(class), values(environments, field), values(others, field));
            }
        }
    }
    changes.extend(kernel_changes(old, new));
    changes.into_iter().collect()
}

/// A field's values, joined.
fn values(environments: &[Environment], field: &str) -> String {
    let all: Vec<Value> =
        environments.iter().filter_map(|environment| serde_json::to_value(environment).ok()).collect();
    let values: BTreeSet<&str> = all.iter().filter_map(|environment| environment[field].as_str()).collect();
    values.into_iter().collect::<Vec<_>>().join(", ")
}

/// Classes where a config that is served by both documents runs as another kernel.
fn kernel_changes(old: &Side, new: &Side) -> Vec<Change> {
    let mut unchanged: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (place, was) in &old.entries {
        let Some(is) = new.entries.get(place).filter(|is| is.template == was.template) else { continue };
        if let (Some(was), Some(is)) = (was.kernels, is.kernels) {
            let (all, other) = unchanged.entry(place.class()).or_default();
            *all += 1;
            *other += usize::from(was != is);
        }
    }
    let changed = unchanged.into_iter().filter(|(_, (_, other))| *other > 0);
    let change = |(class, (all, other)): (&str, (usize, usize))| Change {
        class: Some(class.to_owned()),
        field: "kernel".to_owned(),
        old: format!("{all} configs served as before"),
        new: format!("{other} of them run as other kernels"),
    };
    changed.map(change).collect()
}
