//! What changed from one document to the next: speed by rule and fallback, coverage, and apart from these the environment.
//!
//! Times come from the problems that each rule and fallback lists in its `source`. A rule that came or went is compared with
//! what the other document serves on the same problems, so that dropping a rule which merely ties its fallback is no
//! regression. Two sweeps differ by more than the noise within one: by how much, the configs that did not change tell.

mod stability;
mod text;

pub use stability::Stability;

use crate::derive::{ENVIRONMENT_FIELDS, Environment, config_text, environments_of, half_width};
use crate::heuristics::{Bucket, Document, Rule, Template, by_rank};
use crate::measure::{geomean, mean, median, sorted};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a rule or fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Faster by more than the noise of both documents.
    Fast,
    /// Slower by more than the noise of both documents.
    Slow,
    /// Within the noise of both.
    Same,
    /// Within the noise of one document and beyond that of the other, faster on some problems and slower on others, or
    /// another config without times to compare.
    Ambiguous,
    /// Only the new document has it.
    Added,
    /// Only the old document has it.
    Removed,
}

impl Status {
    /// The word in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "FAST",
            Self::Slow => "SLOW",
            Self::Same => "SAME",
            Self::Ambiguous => "AMBIGUOUS",
            Self::Added => "ADDED",
            Self::Removed => "REMOVED",
        }
    }
}

/// New times over old times of the problems both documents have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Geometric mean of the problems' ratios.
    pub ratio: f64,
    /// Least and largest of them.
    pub range: [f64; 2],
    /// Noise of the quieter and of the noisier document, averaged over the problems.
    pub noise: [f64; 2],
    /// Problems compared.
    pub problems: usize,
    /// Some problem is faster and some other slower by more than its noise.
    pub mixed: bool,
}

/// A rule or fallback of either document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its class.
    pub class: String,
    /// The bucket of a rule, the group of a fallback.
    pub place: String,
    /// Whether it is a rule.
    pub rule: bool,
    /// What became of it.
    pub status: Status,
    /// How its times changed, where there are times to compare.
    #[serde(flatten)]
    pub times: Option<Ratio>,
    /// Another config is served first.
    pub config_changed: bool,
    /// Whether it counts as a regression.
    pub regression: bool,
}

/// A difference in what was measured with what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// The class; none where the documents as a whole differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// `driver`, `nvrtc`, `kernel`, …
    pub field: String,
    /// In the old document.
    pub old: String,
    /// In the new one.
    pub new: String,
}

/// A problem that only the old document covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LostProblem {
    /// Its class.
    pub class: String,
    /// Its name.
    pub problem: String,
}

/// All that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Something is slower, or covered no more.
    pub regression: bool,
    /// Rules, then fallbacks, sorted by class and place.
    pub entries: Vec<Entry>,
    /// Problems that are covered no more.
    pub lost_problems: Vec<LostProblem>,
    /// What the environments differ in.
    pub environment: Vec<Change>,
    /// How many buckets are served another config first.
    pub stability: Stability,
}

/// Fewer problems than this say nothing of what times change by from one sweep to another.
const FEWEST_UNCHANGED: usize = 20;

/// Compares two documents.
pub fn diff(old: &Document, new: &Document) -> Diff {
    let (mut old, mut new) = (Side::of(old), Side::of(new));
    let drift = drift(&old, &new);
    for side in [&mut old, &mut new] {
        side.widen(&drift);
    }
    let places: BTreeSet<&Place> = old.entries.keys().chain(new.entries.keys()).collect();
    let entries: Vec<Entry> = places.into_iter().filter_map(|place| compare(place, &old, &new)).collect();
    let lost_problems: Vec<LostProblem> = old
        .places
        .keys()
        .filter(|key| !new.places.contains_key(key))
        .map(|(class, problem)| LostProblem { class: (*class).to_owned(), problem: (*problem).to_owned() })
        .collect();
    Diff {
        regression: !lost_problems.is_empty() || entries.iter().any(|entry| entry.regression),
        environment: environment_changes(&old, &new),
        stability: Stability::between(&old, &new),
        entries,
        lost_problems,
    }
}

/// Where a config is served; rules sort before fallbacks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'d> {
    Rule(&'d str, &'d Bucket),
    Fallback(&'d str, &'d str),
}

impl<'d> Place<'d> {
    fn class(&self) -> &'d str {
        match self {
            Self::Rule(class, _) | Self::Fallback(class, _) => class,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Rule(_, bucket) => {
                bucket.iter().map(|(field, label)| format!("{field} {label}")).collect::<Vec<_>>().join(", ")
            }
            Self::Fallback(_, group) => (*group).to_owned(),
        }
    }
}

/// A measured time and its noise.
#[derive(Clone, Copy)]
struct Time {
    us: f64,
    noise: f64,
}

/// What a document serves in one place.
struct Served<'d> {
    template: Option<&'d Template>,
    /// By problem.
    times: BTreeMap<&'d str, Option<Time>>,
    kernels: Option<&'d Value>,
    /// The texts of the configs that the document cannot tell from the template.
    ties: BTreeSet<&'d str>,
}

impl<'d> Served<'d> {
    fn new(template: Option<&'d Template>, source: &'d Map<String, Value>, validation: &'d Map<String, Value>) -> Self {
        let problems = source.get("problems").and_then(Value::as_array).into_iter().flatten();
        let times = problems.filter_map(|problem| {
            let time = problem["served_us"].as_f64().filter(|us| *us > 0.0);
            let noise = problem["noise"].as_f64().unwrap_or(0.0);
            Some((problem["problem"].as_str()?, time.map(|us| Time { us, noise })))
        });
        let ties = validation.get("ties").and_then(|ties| ties["configs"].as_array()).into_iter().flatten();
        let ties = ties.filter_map(Value::as_str).collect();
        Self { template, times: times.collect(), kernels: source.get("kernels"), ties }
    }

    /// Whether either document counts the other's config among the ties of its own.
    fn ties_with(&self, other: &Self) -> bool {
        let within = |ties: &BTreeSet<&str>, template: Option<&Template>| {
            template.is_some_and(|one| ties.contains(config_text(one).as_str()))
        };
        within(&self.ties, other.template) || within(&other.ties, self.template)
    }

    fn of_rule(rule: &'d Rule) -> Self {
        let ranked = rule.templates.iter().filter(|ranked| ranked.config().is_some()).min_by(|a, b| by_rank(a, b));
        Self::new(ranked.map(|ranked| &ranked.template), &rule.source, &rule.validation)
    }
}

/// One of the two documents, by place and by problem.
struct Side<'d> {
    document: &'d Document,
    entries: BTreeMap<Place<'d>, Served<'d>>,
    /// The place that answers each problem, by class and name: a rule before a fallback.
    places: BTreeMap<(&'d str, &'d str), Place<'d>>,
}

impl<'d> Side<'d> {
    fn of(document: &'d Document) -> Self {
        let rules = document.rules.iter();
        let mut entries: BTreeMap<Place, Served> =
            rules.map(|rule| (Place::Rule(&rule.kernel_class, &rule.shape_bucket), Served::of_rule(rule))).collect();
        for (class, groups) in &document.fallbacks {
            for (group, fallback) in groups {
                entries.insert(
                    Place::Fallback(class, group),
                    Served::new(fallback.config(), &fallback.source, &fallback.validation),
                );
            }
        }
        let mut places = BTreeMap::new();
        for (place, entry) in &entries {
            for problem in entry.times.keys() {
                places.entry((place.class(), *problem)).or_insert(*place);
            }
        }
        Self { document, entries, places }
    }

    /// What answers a problem of a class.
    fn answer(&self, class: &str, problem: &str) -> Option<&Served<'_>> {
        self.entries.get(self.places.get(&(class, problem))?)
    }

    /// No time is known better than those of its class come out again.
    fn widen(&mut self, drift: &BTreeMap<String, f64>) {
        for (place, entry) in &mut self.entries {
            let Some(drift) = drift.get(place.class()) else { continue };
            for time in entry.times.values_mut().flatten() {
                time.noise = time.noise.max(*drift);
            }
        }
    }
}

/// What the time of a problem changes by from one document to the other though it is served the same config with the same
/// kernel: half a 95 % interval around what all problems of the class change by, so that a common change still shows.
fn drift(old: &Side, new: &Side) -> BTreeMap<String, f64> {
    let mut changes: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (class, problem) in old.places.keys() {
        let Some((was, is)) = old.answer(class, problem).zip(new.answer(class, problem)) else { continue };
        let times = was.times[problem].zip(is.times[problem]);
        if let Some((before, after)) = times.filter(|_| was.template == is.template && was.kernels == is.kernels) {
            changes.entry(class).or_default().push((after.us / before.us).ln());
        }
    }
    changes.retain(|_, changes| changes.len() >= FEWEST_UNCHANGED);
    let of_class = |(class, changes): (&str, Vec<f64>)| {
        let common = median(changes.iter().copied())?;
        let distance = median(changes.iter().map(|change| (change - common).abs()))?;
        Some((class.to_owned(), half_width(distance)))
    };
    changes.into_iter().filter_map(of_class).collect()
}

/// What became of one place; none where neither document has it.
fn compare(place: &Place, old: &Side, new: &Side) -> Option<Entry> {
    let class = place.class();
    let (was, is) = (old.entries.get(place), new.entries.get(place));
    let elsewhere = |side: &Side, problem: &str| side.answer(class, problem).and_then(|served| served.times[problem]);
    let (status, times, config_changed) = match (was, is) {
        (Some(was), Some(is)) => {
            let times = ratio(was, |problem| is.times.get(problem).copied().flatten(), false);
            let config_changed = was.template != is.template;
            (verdict(times.as_ref(), config_changed), times, config_changed)
        }
        (Some(was), None) => (Status::Removed, ratio(was, |problem| elsewhere(new, problem), false), true),
        (None, Some(is)) => (Status::Added, ratio(is, |problem| elsewhere(old, problem), true), true),
        (None, None) => return None,
    };
    let slower = times.as_ref().is_some_and(|times| verdict(Some(times), true) == Status::Slow);
    let covered_by_less = status == Status::Removed && (times.is_none() || matches!(place, Place::Fallback(..)));
    Some(Entry {
        class: class.to_owned(),
        place: place.label(),
        rule: matches!(place, Place::Rule(..)),
        status,
        config_changed,
        regression: slower || covered_by_less,
        times,
    })
}

/// The times of `served` against those that `other` gives for the same problems, new over old; `served` is the new one where
/// `inverted`.
fn ratio(served: &Served, other: impl Fn(&str) -> Option<Time>, inverted: bool) -> Option<Ratio> {
    let both = served.times.iter().filter_map(|(problem, time)| Some(((*time)?, other(problem)?)));
    let pairs: Vec<(f64, Time, Time)> = both
        .map(
            |(ours, theirs)| {
                if inverted { (ours.us / theirs.us, ours, theirs) } else { (theirs.us / ours.us, ours, theirs) }
            },
        )
        .collect();
    let ratios = sorted(pairs.iter().map(|(ratio, ..)| *ratio));
    let average = |pick: fn(f64, f64) -> f64| {
        mean(&pairs.iter().map(|(_, ours, theirs)| pick(ours.noise, theirs.noise)).collect::<Vec<_>>()).unwrap_or(0.0)
    };
    let beyond = |(ratio, ours, theirs): &(f64, Time, Time)| {
        let noise = ours.noise.max(theirs.noise);
        i32::from(*ratio > 1.0 + noise) - i32::from(*ratio < 1.0 - noise)
    };
    let directions: BTreeSet<i32> = pairs.iter().map(beyond).collect();
    Some(Ratio {
        ratio: geomean(&ratios)?,
        range: [*ratios.first()?, *ratios.last()?],
        noise: [average(f64::min), average(f64::max)],
        problems: pairs.len(),
        mixed: directions.contains(&1) && directions.contains(&-1),
    })
}

fn verdict(times: Option<&Ratio>, config_changed: bool) -> Status {
    let Some(times) = times else {
        return if config_changed { Status::Ambiguous } else { Status::Same };
    };
    let [quieter, noisier] = times.noise;
    match times.ratio - 1.0 {
        change if change < -noisier => Status::Fast,
        change if change > noisier => Status::Slow,
        _ if times.mixed => Status::Ambiguous,
        change if change.abs() <= quieter => Status::Same,
        _ => Status::Ambiguous,
    }
}

/// What the documents were measured with, where it differs: by class where both say so, else as a whole; and which
/// unchanged configs run as other kernels.
fn environment_changes(old: &Side, new: &Side) -> Vec<Change> {
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
