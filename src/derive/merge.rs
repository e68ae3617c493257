//! Putting newly derived classes into a document that holds others.

use super::evidence::Environment;
use crate::error::{Error, Result};
use crate::heuristics::{Document, FAMILIES};
use crate::model::{Identity, Likeness};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Key in `policy` of what each class was measured with.
pub(crate) const MEASURED_WITH: &str = "measured_with";

/// What a document says of the environment as a whole: each field's values over all classes.
pub(crate) const ENVIRONMENT_FIELDS: [&str; 6] = ["arch", "device", "driver", "nvrtc", "protocol", "sweep"];

/// Replaces the rules, fallbacks and models of `classes` in `existing` by those in `new` and keeps the others. A class of which
/// `new` serves nothing is kept too: that nothing worked, or was reached in time, says nothing against what is there.
pub fn merge(existing: Document, new: Document, classes: &BTreeSet<String>) -> Document {
    let serves = |class: &&String| {
        let fallbacks = new.fallbacks.get(*class);
        fallbacks.is_some_and(|groups| !groups.is_empty()) || new.rules.iter().any(|rule| rule.kernel_class == **class)
    };
    let classes: BTreeSet<&String> = classes.iter().filter(serves).collect();
    let as_set = |(class, environments): (String, Vec<Environment>)| (class, environments.into_iter().collect());
    let mut environments: BTreeMap<String, BTreeSet<Environment>> =
        environments_of(&existing.policy).into_iter().map(as_set).collect();
    environments.retain(|class, _| !classes.contains(class));
    let of_new = environments_of(&new.policy).into_iter().filter(|(class, _)| classes.contains(class));
    environments.extend(of_new.map(as_set));

    let mut merged = new;
    merged.rules.retain(|rule| classes.contains(&rule.kernel_class));
    merged.rules.extend(existing.rules.into_iter().filter(|rule| !classes.contains(&rule.kernel_class)));
    merged.rules.sort_by(|first, second| {
        (&first.kernel_class, &first.shape_bucket).cmp(&(&second.kernel_class, &second.shape_bucket))
    });
    merged.fallbacks.retain(|class, _| classes.contains(class));
    merged.fallbacks.extend(existing.fallbacks.into_iter().filter(|(class, _)| !classes.contains(class)));
    merged.models.retain(|class, _| classes.contains(class));
    merged.models.extend(existing.models.into_iter().filter(|(class, _)| !classes.contains(class)));
    let described =
        |policy: &Map<String, Value>| policy.get(FAMILIES).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut families = described(&existing.policy);
    families.extend(described(&merged.policy).into_iter().filter(|(family, _)| classes.contains(family)));
    if !families.is_empty() {
        merged.policy.insert(FAMILIES.to_owned(), families.into());
    }
    set_environments(&mut merged.policy, &environments);
    merged
}

/// Refuses to let a device's measurements into a document that another's made.
///
/// # Errors
/// Where it says that it was measured on another, or on another slice of that one.
pub(crate) fn refuse_other_device(document: &Document, device: &Identity) -> Result<()> {
    let environments = environments_of(&document.policy);
    let mut devices = environments.values().flatten().map(Environment::identity);
    match devices.find(|own| own.likeness(device) == Likeness::Other) {
        None => Ok(()),
        Some(own) => Err(Error::usage(format!(
            "the document that is there was measured on {own}, not on {device}: give --output another folder, or move the \
             document away"
        ))),
    }
}

/// Writes what each class was measured with, and each field's values over all of them.
pub(super) fn set_environments(
    policy: &mut Map<String, Value>,
    environments: &BTreeMap<String, BTreeSet<Environment>>,
) {
    policy.insert(MEASURED_WITH.to_owned(), json!(environments));
    let all: Vec<Value> = environments.values().flatten().map(|environment| json!(environment)).collect();
    for field in ENVIRONMENT_FIELDS {
        let values: BTreeSet<&str> = all.iter().filter_map(|environment| environment[field].as_str()).collect();
        policy.remove(field);
        if !values.is_empty() {
            policy.insert(field.to_owned(), json!(values.into_iter().collect::<Vec<_>>().join(", ")));
        }
    }
}

/// What each class of a document was measured with, as far as it says.
pub(crate) fn environments_of(policy: &Map<String, Value>) -> BTreeMap<String, Vec<Environment>> {
    let by_class = policy.get(MEASURED_WITH).and_then(Value::as_object).into_iter().flatten();
    let read = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
    by_class.map(|(class, value)| (class.clone(), read(value))).collect()
}
