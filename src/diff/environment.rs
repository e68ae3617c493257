//! What the two documents were measured with, as far as it differs.

use super::changes::Change;
use super::side::Side;
use crate::derive::{ENVIRONMENT_FIELDS, Environment, environments_of};
use crate::heuristics::Document;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The classes that both documents hold, and measured by other protocols or on other devices: what each says, and what to do.
pub(super) fn incomparable_classes(old: &Document, new: &Document) -> BTreeMap<String, String> {
    let (was, is) = (environments_of(&old.policy), environments_of(&new.policy));
    let of_class =
        |document: &Document, environments: &BTreeMap<String, Vec<Environment>>, class: &str, field: &str| {
            let whole = || document.policy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            environments.get(class).map_or_else(whole, |environments| values(environments, field))
        };
    let classes = |document: &Document| -> BTreeSet<String> {
        document.rules.iter().map(|rule| &rule.kernel_class).chain(document.fallbacks.keys()).cloned().collect()
    };
    let why = |class: &String| {
        let fields = [
            (
                "protocol",
                "by",
                "a time means something else in each; measure the old configs again with this version of the tool (sweep --fresh), \
                 or compare documents of one protocol",
            ),
            ("device", "on", "a time is one device's; compare documents of one device"),
        ];
        fields.into_iter().find_map(|(field, by, what_to_do)| {
            let [was, is] = [of_class(old, &was, class, field), of_class(new, &is, class, field)];
            // A document of another maker does not say.
            let differ = was != is && !was.is_empty() && !is.is_empty();
            differ.then(|| format!("{by} {was} in the old document and {by} {is} in the new one, and {what_to_do}"))
        })
    };
    let both = classes(old).intersection(&classes(new)).cloned().collect::<Vec<_>>();
    both.into_iter().filter_map(|class| why(&class).map(|why| (class, why))).collect()
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

/// The field of a change of kernels.
pub(super) const KERNEL: &str = "kernel";

/// Classes where a config that is served by both documents runs as another kernel.
fn kernel_changes(old: &Side, new: &Side) -> Vec<Change> {
    let mut unchanged: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (place, was) in &old.entries {
        let Some(is) = new.entries.get(place).filter(|is| is.template == was.template) else { continue };
        if !was.kernels.is_empty() && !is.kernels.is_empty() {
            let (all, other) = unchanged.entry(place.class()).or_default();
            *all += 1;
            *other += usize::from(was.kernels != is.kernels);
        }
    }
    let changed = unchanged.into_iter().filter(|(_, (_, other))| *other > 0);
    let change = |(class, (all, other)): (&str, (usize, usize))| Change {
        class: Some(class.to_owned()),
        field: KERNEL.to_owned(),
        old: format!("{all} configs served as before"),
        new: format!("{other} of them run as other kernels"),
    };
    changed.map(change).collect()
}
