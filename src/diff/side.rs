//! One of the two documents: what it serves in each place, and what it says of each problem.

use crate::derive::{ProblemSource, Source, Validation, config_key, text_key};
use crate::heuristics::{ANCHOR_DIGITS, Bucket, Document, Rule, Template, as_written, by_rank, four_digits};
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
    /// Nothing where no time is known.
    fn of(problem: &ProblemSource) -> Option<Self> {
        let positive = |figure: &f64| *figure > 0.0;
        // Documents of before have more digits.
        let program = |key: &String| key.get(..ANCHOR_DIGITS).unwrap_or(key).to_owned();
        let anchors = problem.anchors.iter().filter(|(_, ratio)| positive(ratio));
        Some(Self {
            us: four_digits(problem.served_us.filter(positive)?),
            noise: problem.noise,
            anchors: anchors.map(|(key, ratio)| (program(key), as_written(*ratio))).collect(),
            slowdown: problem.slowdown.filter(positive).map_or(1.0, as_written),
        })
    }

    /// Whether it stands beside no other program's: then it is a number of four digits, and may come out alike twice.
    fn stands_alone(&self) -> bool {
        self.anchors.is_empty() && (self.slowdown - 1.0).abs() < f64::EPSILON
    }
}

/// What a document says of one place.
pub(super) struct Told<'d> {
    template: Option<&'d Template>,
    source: Source,
    validation: Validation,
}

/// All that a document says of its places.
pub(super) type AllTold<'d> = BTreeMap<Place<'d>, Told<'d>>;

/// Reads it.
pub(super) fn all_told(document: &Document) -> AllTold<'_> {
    let told = |template, source, validation| {
        let (source, validation) = (Source::of_document(source), Validation::of_document(validation));
        Told { template, source, validation }
    };
    let rules = document.rules.iter().map(|rule| {
        let place = Place::Rule(&rule.kernel_class, &rule.shape_bucket);
        (place, told(served_first(rule), &rule.source, &rule.validation))
    });
    let groups = document.fallbacks.iter().flat_map(|(class, groups)| groups.iter().map(move |group| (class, group)));
    let fallbacks = groups.map(|(class, (group, fallback))| {
        (Place::Fallback(class, group), told(fallback.config(), &fallback.source, &fallback.validation))
    });
    rules.chain(fallbacks).collect()
}

/// The config that a rule serves first.
fn served_first(rule: &Rule) -> Option<&Template> {
    let ranked = rule.templates.iter().filter(|ranked| ranked.config().is_some()).min_by(|a, b| by_rank(a, b));
    ranked.map(|ranked| &ranked.template)
}

/// What a document serves in one place.
pub(super) struct Served<'d> {
    pub(super) template: Option<&'d Template>,
    /// By problem.
    pub(super) times: BTreeMap<&'d str, Option<Time>>,
    /// The hashes of the kernels it ran as; none where nobody told.
    pub(super) kernels: &'d BTreeSet<String>,
    /// What names the trials that it was derived from; empty where nobody told. Other trials have another name.
    measurement: &'d str,
    /// The keys of the configs that the document cannot tell from the template.
    ties: BTreeSet<String>,
}

impl<'d> Served<'d> {
    fn new(told: &'d Told<'d>) -> Self {
        let Told { template, source, validation } = told;
        // Documents of before keep the texts themselves.
        let key = |tie: &String| if tie.starts_with('{') { text_key(tie) } else { tie.clone() };
        Self {
            template: *template,
            times: source.problems.iter().map(|problem| (problem.problem.as_str(), Time::of(problem))).collect(),
            kernels: &source.kernels,
            measurement: &source.measurement,
            ties: validation.ties.iter().flat_map(|ties| &ties.configs).map(key).collect(),
        }
    }

    pub(super) fn time(&self, problem: &str) -> Option<&Time> {
        self.times.get(problem)?.as_ref()
    }

    /// Whether a problem's time was taken over by the other document, as far as anyone can tell, and not measured again: all that
    /// both say of it is the same. A time that stands alone says too little for that where the trials are others.
    pub(super) fn is_carried_over(&self, other: &Self, problem: &str) -> bool {
        let Some((one, another)) = self.time(problem).zip(other.time(problem)) else { return false };
        let is_told = !self.measurement.is_empty() && !other.measurement.is_empty();
        let other_trials = is_told && self.measurement != other.measurement;
        one == another && !(other_trials && one.stands_alone())
    }

    /// Whether both run one program on every problem.
    pub(super) fn runs_as(&self, other: &Self) -> bool {
        self.template == other.template && self.kernels == other.kernels
    }

    /// The config with the hashes of its kernels.
    pub(super) fn program(&self) -> Option<(Template, Vec<String>)> {
        Some((self.template?.clone(), self.kernels.iter().cloned().collect()))
    }

    /// Whether either document counts the other's config among the ties of its own.
    pub(super) fn ties_with(&self, other: &Self) -> bool {
        let within = |ties: &BTreeSet<String>, template: Option<&Template>| {
            template.is_some_and(|one| ties.contains(&config_key(one)))
        };
        within(&self.ties, other.template) || within(&other.ties, self.template)
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
    pub(super) fn of(document: &'d Document, told: &'d AllTold<'d>) -> Self {
        let entries: BTreeMap<Place, Served> = told.iter().map(|(place, told)| (*place, Served::new(told))).collect();
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
