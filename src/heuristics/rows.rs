//! The problems behind a rule or fallback, a short row each, as documents hold them:
//!
//! `"problems":[[412,284.6,78,77,"533665-165 812495+4258"]]`
//!
//! - the problem: its place among the model's problems of the class, or its name where the model does not list it
//! - the time of what is served in microseconds, of four digits; null where it has none
//! - that time over the best, as ten-thousandths of its natural logarithm; null where there is none
//! - how far from 1 the latter may be by chance, in ten-thousandths
//! - if there are any, anchors: each six hex digits for a program, and the time over its, as ten-thousandths of the logarithm
//! - `true`, behind anchors or an empty text, where the device had other work
//!
//! What most entries of a class have as `measurement` stands once, in `policy.measurements`.
//!
//! In a [`Document`] that was read they are objects, as in documents of before, which are read as they are.

use super::document::{Document, Fallback, Rule};
use super::fitted::problem_names;
use super::measured::four_digits;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};

/// Ratios are logarithms, in such parts.
const PARTS: f64 = 1e4;
/// Hex digits of an anchor: problem by problem, a handful of programs are told apart.
pub(crate) const ANCHOR_DIGITS: usize = 6;
/// What keeps rows that somebody else wrote from taking all memory as objects: eight times what the documents of seven families
/// hold.
const MOST_VALUES: usize = 1 << 19;
const VALUES_OF_ROW: usize = 6;

/// A problem as documents of before have it, all that a row says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    problem: String,
    served_us: Option<f64>,
    slowdown: Option<f64>,
    noise: f64,
    #[serde(default)]
    anchors: BTreeMap<String, f64>,
    #[serde(default)]
    loaded: bool,
}

/// The parts of a ratio.
fn to_parts(ratio: f64) -> i64 {
    (ratio.ln() * PARTS).round() as i64
}

fn of_parts(parts: i64) -> f64 {
    (parts as f64 / PARTS).exp()
}

/// The parts of a ratio of 4 places, as documents of before have it, so that reading and writing them changes nothing.
fn parts_of_places(ratio: f64) -> Option<i64> {
    let ratio = places(ratio);
    (ratio > 0.0 && ratio.is_finite()).then(|| to_parts(ratio))
}

fn places(ratio: f64) -> f64 {
    (ratio * 1e4).round() / 1e4
}

/// A ratio as one reads it from a document that it was written to.
#[cfg(feature = "harness")]
pub(crate) fn as_written(ratio: f64) -> f64 {
    parts_of_places(ratio).map_or(ratio, |parts| places(of_parts(parts)))
}

/// Where a policy names what most entries of each class were derived from.
const MEASUREMENTS: &str = "measurements";
const MEASUREMENT: &str = "measurement";

/// Writes the problems of all entries as rows, where they say no more than rows do, and what entries of a class share once.
pub(super) fn shorten(document: &mut Document) {
    // One whose entries tell no problems is somebody else's, and stays as it is.
    let of_rules = document.rules.iter().map(|rule| &rule.source);
    let of_fallbacks = document.fallbacks.values().flat_map(|groups| groups.values()).map(|fallback| &fallback.source);
    if !of_rules.chain(of_fallbacks).any(|source| source.contains_key("problems")) {
        return;
    }
    shorten_measurements(document);
    let names: Vec<(&str, Vec<String>)> =
        document.models.iter().map(|(class, model)| (class.as_str(), problem_names(model))).collect();
    let places: HashMap<&str, HashMap<&str, usize>> =
        names.iter().map(|(class, names)| (*class, names.iter().map(String::as_str).zip(0..).collect())).collect();
    for (class, source) in sources(&mut document.rules, &mut document.fallbacks) {
        let places = places.get(class);
        for problem in source.get_mut("problems").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(row) = row(problem, places) {
                *problem = row;
            }
        }
    }
}

/// Moves the measurement that most entries of a class share to the policy, where all of its entries have one.
fn shorten_measurements(document: &mut Document) {
    if document.policy.contains_key(MEASUREMENTS) {
        return; // somebody else's
    }
    let mut counts: BTreeMap<String, Option<BTreeMap<String, usize>>> = BTreeMap::new();
    for (class, source) in sources(&mut document.rules, &mut document.fallbacks) {
        let of_class = counts.entry(class.to_owned()).or_insert_with(|| Some(BTreeMap::new()));
        match source.get(MEASUREMENT).and_then(Value::as_str) {
            Some(own) => of_class.iter_mut().for_each(|counts| *counts.entry(own.to_owned()).or_default() += 1),
            None => *of_class = None,
        }
    }
    let most = |counts: BTreeMap<String, usize>| counts.into_iter().max_by_key(|(_, count)| *count);
    let shared = counts.into_iter().filter_map(|(class, counts)| Some((class, most(counts?)?.0.into())));
    let shared: Map<String, Value> = shared.collect();
    for (class, source) in sources(&mut document.rules, &mut document.fallbacks) {
        if source.get(MEASUREMENT).is_some_and(|own| shared.get(class) == Some(own)) {
            source.remove(MEASUREMENT);
        }
    }
    if !shared.is_empty() {
        document.policy.insert(MEASUREMENTS.to_owned(), shared.into());
    }
}

fn row(problem: &Value, places: Option<&HashMap<&str, usize>>) -> Option<Value> {
    let told = Told::deserialize(problem).ok().filter(|_| problem.is_object())?;
    let parts = |ratio: Option<f64>| ratio.map_or(Some(Value::Null), |ratio| parts_of_places(ratio).map(Value::from));
    let place = places.and_then(|places| places.get(told.problem.as_str()));
    let place = place.map_or_else(|| Value::from(told.problem.as_str()), |place| Value::from(*place));
    let noise = (told.noise * PARTS).round() as i64;
    let mut row = vec![place, json!(told.served_us.map(four_digits)), parts(told.slowdown)?, noise.into()];
    let anchor = |(program, ratio): (&String, &f64)| {
        let digits = program.get(..ANCHOR_DIGITS).filter(|_| program.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        Some(format!("{digits}{:+}", parts_of_places(*ratio)?))
    };
    let anchors: Vec<String> = told.anchors.iter().map(anchor).collect::<Option<_>>()?;
    if !anchors.is_empty() || told.loaded {
        row.push(anchors.join(" ").into());
    }
    if told.loaded {
        row.push(true.into());
    }
    Some(row.into())
}

/// Spells out the rows of all entries.
///
/// # Errors
/// Where there are more of them than documents hold.
pub(super) fn spell_out(document: &mut Document) -> Result<()> {
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut left = MOST_VALUES;
    let is_ours = document.policy.get(MEASUREMENTS).is_some_and(Value::is_object);
    let shared = if is_ours { document.policy.remove(MEASUREMENTS) } else { None };
    for (class, source) in sources(&mut document.rules, &mut document.fallbacks) {
        if let Some(shared) = shared.as_ref().and_then(|shared| shared.get(class)) {
            source.entry(MEASUREMENT).or_insert_with(|| shared.clone());
        }
        for problem in source.get_mut("problems").and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Array(row) = &*problem else { continue };
            let of_model = || document.models.get(class).map(problem_names).unwrap_or_default();
            let names = names.entry(class).or_insert_with(of_model);
            let values = VALUES_OF_ROW + anchors(row).len() / ANCHOR_DIGITS;
            let too_many = || Error::usage("more problems behind rules and fallbacks than any document holds");
            left = left.checked_sub(values).ok_or_else(too_many)?;
            if let Some(told) = told(row, names) {
                *problem = told;
            }
        }
    }
    Ok(())
}

fn anchors(row: &[Value]) -> &str {
    row.get(4).and_then(Value::as_str).unwrap_or_default()
}

/// What a row says; nothing where it is none.
fn told(row: &[Value], names: &[String]) -> Option<Value> {
    let [problem, served_us, slowdown, noise, ..] = row else { return None };
    let name = match problem {
        Value::String(name) => name.clone(),
        place => {
            let place = usize::try_from(place.as_u64()?).ok()?;
            names.get(place).cloned().unwrap_or_else(|| format!("problem {place} of a model that is not there"))
        }
    };
    if !served_us.is_null() && !served_us.is_number() {
        return None;
    }
    let slowdown = if slowdown.is_null() { None } else { Some(places(of_parts(slowdown.as_i64()?))) };
    let noise = noise.as_i64()? as f64 / PARTS;
    let mut told = json!({"problem": name, "served_us": served_us, "slowdown": slowdown, "noise": noise});
    let anchor = |anchor: &str| {
        let (program, parts) = anchor.split_at_checked(ANCHOR_DIGITS)?;
        Some((program.to_owned(), places(of_parts(parts.parse().ok()?)).into()))
    };
    let anchors: Map<String, Value> = anchors(row).split_ascii_whitespace().map(anchor).collect::<Option<_>>()?;
    if !anchors.is_empty() {
        told["anchors"] = anchors.into();
    }
    if row.get(5).is_some_and(|loaded| *loaded == true) {
        told["loaded"] = true.into();
    }
    Some(told)
}

/// The `source` of every rule and fallback, with its class.
fn sources<'d>(
    rules: &'d mut [Rule],
    fallbacks: &'d mut BTreeMap<String, BTreeMap<String, Fallback>>,
) -> impl Iterator<Item = (&'d str, &'d mut Map<String, Value>)> {
    let of_rules = rules.iter_mut().map(|rule| (rule.kernel_class.as_str(), &mut rule.source));
    let of_groups = fallbacks
        .iter_mut()
        .flat_map(|(class, groups)| groups.values_mut().map(move |fallback| (class.as_str(), &mut fallback.source)));
    of_rules.chain(of_groups)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn document(problems: &Value) -> Document {
        let listed = json!({"bf16": ["1,64 0 5", "100,4096 0 7.5"], "f32": ["1,64"]});
        Document::from_value(json!({
            "schema_version": 2,
            "rules": [{"kernel_class": "x", "shape_bucket": {}, "source": {"configs": 3, "problems": problems}, "templates": []}],
            "fallbacks": {"x": {"all": {"template": {}, "source": {"problems": problems}}}},
            "models": {"x": {"form": "trees/2", "dims": ["m", "n"], "problems": listed}},
        }))
        .unwrap()
    }

    fn written(document: &Document) -> Value {
        serde_json::from_str(&document.to_canonical_json()).unwrap()
    }

    #[test]
    fn problems_are_written_as_rows_and_read_as_they_were() {
        let problems = json!([
            {"problem": "m=100,n=4096 bf16", "served_us": 284.624, "slowdown": 1.0078, "noise": 0.0077,
                "anchors": {"5336653c": 0.9836, "812495": 1.0, "ba092663": 0.0534}},
            {"problem": "m=1,n=64 f32", "served_us": null, "slowdown": null, "noise": 0.006, "loaded": true},
            {"problem": "somebody's own", "served_us": 5.25, "slowdown": 1.0, "noise": 0.02},
            {"problem": "m=1,n=64 bf16", "served_us": 5.0, "noise": 0.02, "more": "than a row says"},
        ]);
        let document = document(&problems);
        let value = written(&document);
        let rows = json!([
            [1, 284.6, 78, 77, "533665-165 812495+0 ba0926-29299"],
            [2, null, null, 60, "", true],
            ["somebody's own", 5.25, 0, 200],
            problems[3],
        ]);
        assert_eq!(value["rules"][0]["source"]["problems"], rows);
        assert_eq!(value["fallbacks"]["x"]["all"]["source"]["problems"], rows);
        let again = Document::from_value(value.clone()).unwrap();
        let read = &again.rules[0].source["problems"];
        let anchors = json!({"533665": 0.9836, "812495": 1.0, "ba0926": 0.0534});
        assert_eq!((&read[0]["anchors"], &read[0]["served_us"]), (&anchors, &284.6.into()));
        assert_eq!((&read[0]["slowdown"], &read[0]["noise"]), (&1.0078.into(), &0.0077.into()));
        assert_eq!((&read[1], &read[2], &read[3]), (&problems[1], &problems[2], &problems[3]));
        assert_eq!(written(&again), value);
    }

    #[test]
    fn what_most_entries_of_a_class_were_derived_from_is_written_once() {
        let rule = |class: &str, bin: &str, measurement: &str| json!({"kernel_class": class, "shape_bucket": {"m_bin": bin}, "source": {"measurement": measurement}, "templates": []});
        let fallback = json!({"template": {}, "source": {"measurement": "new", "problems": []}});
        let document = Document::from_value(json!({"schema_version": 2,
            "rules": [rule("x", "<=4", "new"), rule("x", "<=8", "old"), rule("y", "<=4", "its own"), rule("z", "<=4", "z")],
            "fallbacks": {"x": {"all": fallback}, "z": {"all": {"template": {}}}}}))
        .unwrap();
        let value = written(&document);
        assert_eq!(value["policy"]["measurements"], json!({"x": "new", "y": "its own"}));
        let sources: Vec<&Value> = (0..4).map(|place| &value["rules"][place]["source"]).collect();
        assert_eq!(sources, [&json!({}), &json!({"measurement": "old"}), &json!({}), &json!({"measurement": "z"})]);
        let again = Document::from_value(value.clone()).unwrap();
        assert_eq!((&again, written(&again)), (&document, value));
        let mut theirs = document.clone();
        theirs.policy.insert("measurements".into(), json!("somebody's"));
        assert_eq!(Document::from_value(written(&theirs)).unwrap(), theirs);
    }

    #[test]
    fn what_is_no_row_stays_and_what_no_model_lists_is_told() {
        let rows = json!([[1], [0, 5.0, "1", 60], [0, 5.0, 0, 60, "no anchors"], [-1, 5.0, 0, 60], 7]);
        let broken = document(&rows);
        assert_eq!(broken.rules[0].source["problems"], rows);
        assert_eq!(written(&broken)["rules"][0]["source"]["problems"], rows);
        let unlisted = document(&json!([[3, 5.0, 0, 60]]));
        assert_eq!(unlisted.rules[0].source["problems"][0]["problem"], "problem 3 of a model that is not there");
        let many = vec![json!([0, 5.0, 0, 60]); MOST_VALUES / VALUES_OF_ROW / 2 + 1];
        let mut value = written(&document(&json!([])));
        value["rules"][0]["source"]["problems"] = many.clone().into();
        value["fallbacks"]["x"]["all"]["source"]["problems"] = many.into();
        assert!(Document::from_value(value).unwrap_err().to_string().contains("more problems behind rules"));
    }

    proptest! {
        #[test]
        fn a_row_that_was_read_is_written_the_same(us in 0.001f64..1e7, slowdown in 1u32..500_000, noise in 0i64..9000,
            anchors in prop::collection::btree_map("[0-9a-f]{6}", 1u32..500_000, 0..7), loaded: bool) {
            let parts = |ratio: u32| parts_of_places(f64::from(ratio) / 1e4).unwrap();
            let anchors = anchors.iter().map(|(program, ratio)| format!("{program}{:+}", parts(*ratio)));
            let anchors: Vec<String> = anchors.collect();
            let mut row = vec![json!(1), json!(four_digits(us)), json!(parts(slowdown)), json!(noise)];
            if loaded || !anchors.is_empty() {
                row.push(anchors.join(" ").into());
            }
            row.extend(loaded.then(|| true.into()));
            let names = ["m=1,n=64 bf16".to_owned(), "m=100,n=4096 bf16".to_owned()];
            let places = names.iter().map(String::as_str).zip(0..).collect();
            let told = told(&row, &names).unwrap();
            let again = super::row(&told, Some(&places)).unwrap();
            prop_assert_eq!(again, Value::from(row));
        }
    }
}
