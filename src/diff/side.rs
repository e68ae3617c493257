//! One of the two documents: what it serves in each place, and what it says of each problem.

use crate::derive::{config_key, text_key};
use crate::heuristics::{ANCHOR_DIGITS, Bucket, Document, Rule, Template, as_written, by_rank, four_digits};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Where a config is served; rules sort before fallbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place<'d> {
    Rule(&'d str, &'d Bucket),
    Fallback(&'d str, &'d str),
}

impl<'d> Place<'d> {
    pub(super) fn class(&self) -> &'d str {
        match self {
            Self::Rule(class, _) | Self::Fallback(class, _) => class,
        }
    }

    pub(super) fn label(&self) -> String {
        match self {
            Self::Rule(_, bucket) => label(bucket),
            Self::Fallback(_, group) => (*group).to_owned(),
        }
    }
}

pub(super) fn label(bucket: &Bucket) -> String {
    bucket.iter().map(|(field, label)| format!("{field} {label}")).collect::<Vec<_>>().join(", ")
}

/// What a document says of one problem.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Time {
    pub(super) us: f64,
    /// Half a 95 % interval by the null arms of its sweep, relative.
    pub(super) noise: f64,
    /// The time over that of other programs in the same rounds, by what tells these programs apart.
    pub(super) anchors: BTreeMap<String, f64>,
    /// The time over the best there is; 1 where it is that, or nothing is known.
    slowdown: f64,
}

impl Time {
    fn read(problem: &Value) -> Option<Self> {
        let positive = |value: &Value| value.as_f64().filter(|figure| *figure > 0.0);
        let anchors = problem["anchors"].as_object().into_iter().flatten();
        // Documents of before have more digits.
        let program = |key: &String| key.get(..ANCHOR_DIGITS).unwrap_or(key).to_owned();
        let anchor = |(key, ratio): (&String, &Value)| Some((program(key), as_written(positive(ratio)?)));
        Some(Self {
            us: four_digits(positive(&problem["served_us"])?),
            noise: problem["noise"].as_f64().unwrap_or(0.0),
            anchors: anchors.filter_map(anchor).collect(),
            slowdown: positive(&problem["slowdown"]).map_or(1.0, as_written),
        })
    }

    /// Whether it stands beside no other program's: then it is a number of four digits, and may come out alike twice.
    fn stands_alone(&self) -> bool {
        self.anchors.is_empty() && (self.slowdown - 1.0).abs() < f64::EPSILON
    }
}

/// What a document serves in one place.
pub(super) struct Served<'d> {
    pub(super) template: Option<&'d Template>,
    /// By problem.
    pub(super) times: BTreeMap<&'d str, Option<Time>>,
    pub(super) kernels: Option<&'d Value>,
    /// What names the trials that it was derived from, if it says so: other trials have another name.
    measurement: Option<&'d str>,
    /// The keys of the configs that the document cannot tell from the template.
    ties: BTreeSet<String>,
}

impl<'d> Served<'d> {
    fn new(template: Option<&'d Template>, source: &'d Map<String, Value>, validation: &'d Map<String, Value>) -> Self {
        let problems = source.get("problems").and_then(Value::as_array).into_iter().flatten();
        let times = problems.filter_map(|problem| Some((problem["problem"].as_str()?, Time::read(problem))));
        let ties = validation.get("ties").and_then(|ties| ties["configs"].as_array()).into_iter().flatten();
        // Documents of before keys hold the texts themselves.
        let key = |tie: &str| if tie.starts_with('{') { text_key(tie) } else { tie.to_owned() };
        let ties = ties.filter_map(Value::as_str).map(key).collect();
        let measurement = source.get("measurement").and_then(Value::as_str);
        Self { template, times: times.collect(), kernels: source.get("kernels"), measurement, ties }
    }

    pub(super) fn time(&self, problem: &str) -> Option<&Time> {
        self.times.get(problem)?.as_ref()
    }

    /// Whether a problem's time was taken over by the other document, as far as anyone can tell, and not measured again: all that
    /// both say of it is the same. A time that stands alone says too little for that where the trials are others.
    pub(super) fn is_carried_over(&self, other: &Self, problem: &str) -> bool {
        let Some((one, another)) = self.time(problem).zip(other.time(problem)) else { return false };
        let other_trials = self.measurement.zip(other.measurement).is_some_and(|(one, another)| one != another);
        one == another && !(other_trials && one.stands_alone())
    }

    /// Whether both run one program on every problem.
    pub(super) fn runs_as(&self, other: &Self) -> bool {
        self.template == other.template && self.kernels == other.kernels
    }

    /// The config with the hashes of its kernels.
    pub(super) fn program(&self) -> Option<(Template, Vec<String>)> {
        let kernels = self.kernels.and_then(Value::as_array).into_iter().flatten();
        Some((self.template?.clone(), kernels.filter_map(Value::as_str).map(str::to_owned).collect()))
    }

    /// Whether either document counts the other's config among the ties of its own.
    pub(super) fn ties_with(&self, other: &Self) -> bool {
        let within = |ties: &BTreeSet<String>, template: Option<&Template>| {
            template.is_some_and(|one| ties.contains(&config_key(one)))
        };
        within(&self.ties, other.template) || within(&other.ties, self.template)
    }

    fn of_rule(rule: &'d Rule) -> Self {
        let ranked = rule.templates.iter().filter(|ranked| ranked.config().is_some()).min_by(|a, b| by_rank(a, b));
        Self::new(ranked.map(|ranked| &ranked.template), &rule.source, &rule.validation)
    }
}

/// One of the two documents, by place and by problem.
pub(super) struct Side<'d> {
    pub(super) document: &'d Document,
    pub(super) entries: BTreeMap<Place<'d>, Served<'d>>,
    /// The place that answers each problem, by class and name: a rule before a fallback.
    pub(super) places: BTreeMap<(&'d str, &'d str), Place<'d>>,
}

impl<'d> Side<'d> {
    pub(super) fn of(document: &'d Document) -> Self {
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
    pub(super) fn answer(&self, class: &str, problem: &str) -> Option<&Served<'d>> {
        self.entries.get(self.places.get(&(class, problem))?)
    }

    /// Takes the times of these classes as unknown.
    pub(super) fn forget_times<T>(&mut self, classes: &BTreeMap<String, T>) {
        for (_, entry) in self.entries.iter_mut().filter(|(place, _)| classes.contains_key(place.class())) {
            entry.times.values_mut().for_each(|time| *time = None);
        }
    }
}
