//! The lookup: a document indexed once, then asked by class and dimensions without allocating.

use super::buckets::{DtypeClass, Extents, Kind, PackedBucket, group_index};
use super::document::{Bucket, Document, Fallback, RankedTemplate, Rule, Template};
use super::signature::Signature;
use crate::error::Result;
use crate::model::Problem;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

/// A question: which configs for this class at these dimensions?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The class: a family's name, or another one that a document may hold.
    pub class: &'a str,
    /// The dimensions that class goes by.
    pub extents: Extents,
    /// The type of the first argument.
    pub dtype: DtypeClass,
}

impl Query<'_> {
    /// Its bucket, spelled out.
    pub fn bucket(&self) -> Bucket {
        let kind = Kind::of_class(self.class);
        PackedBucket::of(kind, &self.extents, self.dtype).spell_out(kind)
    }

    /// Its fallback group, if its class has groups and no dimension it takes to tell is missing.
    pub fn group(&self) -> Option<&'static str> {
        let kind = Kind::of_class(self.class);
        group_index(kind, &self.extents).map(|index| kind.groups()[index])
    }
}

impl From<&Problem> for Query<'static> {
    fn from(problem: &Problem) -> Self {
        Self { class: problem.family.name(), extents: problem.shape.into(), dtype: problem.dtype.into() }
    }
}

/// What a caller may switch off or cap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Answer nothing at all.
    pub disabled: bool,
    /// Classes that are answered nothing.
    pub disabled_classes: BTreeSet<String>,
    /// The most configs to serve; none for all.
    pub max_configs: Option<usize>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source<'a> {
    /// The rule whose bucket is equal, with its index in the document.
    Rule(usize, &'a Rule),
    /// The fallback of the group, there being no rule.
    Fallback(&'static str, &'a Fallback),
    /// Nothing in the document.
    None,
}

/// An answer: ranked configs, borrowed from the document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer<'a> {
    /// Where the configs came from. A rule may be there and still hold none that is usable.
    pub source: Source<'a>,
    /// Positions of the served templates, best first.
    ranking: &'a [usize],
}

impl<'a> Answer<'a> {
    pub(super) const NOTHING: Self = Self { source: Source::None, ranking: &[] };

    /// The configs, best first, each once.
    pub fn configs(self) -> impl Iterator<Item = &'a Template> {
        self.ranking.iter().filter_map(move |position| match self.source {
            Source::Rule(_, rule) => rule.templates.get(*position).map(|ranked| &ranked.template),
            Source::Fallback(_, fallback) => Some(&fallback.template),
            Source::None => None,
        })
    }

    /// The best config.
    pub fn best(self) -> Option<&'a Template> {
        self.configs().next()
    }

    /// What the document's maker measured to trust this answer.
    pub fn evidence(self) -> Option<&'a Map<String, Value>> {
        match self.source {
            Source::Rule(_, rule) => Some(&rule.validation),
            Source::Fallback(_, fallback) => Some(&fallback.validation),
            Source::None => None,
        }
    }
}

/// A document ready to be asked.
#[derive(Clone, Debug)]
pub struct Heuristics {
    rules: Vec<Rule>,
    /// Sorted by [`order_of_class`].
    classes: Vec<Class>,
}

/// All that a document holds for one class.
#[derive(Clone, Debug)]
struct Class {
    name: String,
    kind: Kind,
    enabled: bool,
    /// Sorted by bucket.
    rules: Vec<Indexed>,
    /// By position of the group.
    fallbacks: Vec<Option<Fallback>>,
}

/// A rule's place in the document and its templates as they are served.
#[derive(Clone, Debug)]
struct Indexed {
    bucket: PackedBucket,
    rule: usize,
    ranking: Vec<usize>,
}

impl Heuristics {
    /// Indexes a document, with everything switched on.
    pub fn new(document: Document) -> Self {
        Self::with_options(document, &Options::default())
    }

    /// Indexes a document as `options` say.
    pub fn with_options(document: Document, options: &Options) -> Self {
        let Document { rules, mut fallbacks, .. } = document;
        let max_configs = options.max_configs.unwrap_or(usize::MAX);
        let mut indexed: BTreeMap<&str, BTreeMap<PackedBucket, Indexed>> = BTreeMap::new();
        for (position, rule) in rules.iter().enumerate() {
            let buckets = indexed.entry(&rule.kernel_class).or_default();
            if let Some(bucket) = PackedBucket::read(Kind::of_class(&rule.kernel_class), &rule.shape_bucket) {
                buckets.insert(bucket, Indexed { bucket, rule: position, ranking: ranking(rule, max_configs) });
            }
        }
        for class in fallbacks.keys() {
            indexed.entry(class).or_default();
        }
        let mut classes: Vec<_> = indexed
            .into_iter()
            .map(|(name, rules)| Class {
                name: name.to_owned(),
                kind: Kind::of_class(name),
                enabled: !options.disabled && !options.disabled_classes.contains(name),
                rules: rules.into_values().collect(),
                fallbacks: Vec::new(),
            })
            .collect();
        classes.sort_by(|a, b| order_of_class(&a.name).cmp(&order_of_class(&b.name)));
        for class in &mut classes {
            let mut entries = fallbacks.remove(&class.name).unwrap_or_default();
            entries.retain(|_, fallback| max_configs > 0 && fallback.config().is_some());
            class.fallbacks = class.kind.groups().iter().map(|group| entries.remove(*group)).collect();
        }
        Self { rules, classes }
    }

    /// Loads a document from a file, with everything switched on.
    ///
    /// # Errors
    /// As [`Document::load`].
    pub fn load(path: &Path) -> Result<Self> {
        Document::load(path).map(Self::new)
    }

    /// Loads a document from its JSON text, with everything switched on.
    ///
    /// # Errors
    /// As [`Document::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Document::from_bytes(bytes).map(Self::new)
    }

    /// The answer to a query. Allocates nothing.
    pub fn lookup(&self, query: &Query) -> Answer<'_> {
        let Some(class) = self.class(query.class).filter(|class| class.enabled) else { return Answer::NOTHING };
        let bucket = PackedBucket::of(class.kind, &query.extents, query.dtype);
        if let Ok(found) = class.rules.binary_search_by_key(&bucket, |indexed| indexed.bucket) {
            let indexed = &class.rules[found];
            return Answer { source: Source::Rule(indexed.rule, &self.rules[indexed.rule]), ranking: &indexed.ranking };
        }
        let Some(group) = group_index(class.kind, &query.extents) else { return Answer::NOTHING };
        match &class.fallbacks[group] {
            Some(fallback) => Answer { source: Source::Fallback(class.kind.groups()[group], fallback), ranking: &[0] },
            None => Answer::NOTHING,
        }
    }

    /// The answer for a problem of one of the families.
    pub fn lookup_problem(&self, problem: &Problem) -> Answer<'_> {
        self.lookup(&problem.into())
    }

    /// The answer for a kernel known by its arguments and traits; nothing where it fits no class.
    pub fn lookup_signature(&self, signature: &Signature) -> Answer<'_> {
        signature.query().map_or(Answer::NOTHING, |query| self.lookup(&query))
    }

    /// The rule of the query's class whose bucket is nearest: equal in the most fields, then the fewest bins away.
    pub fn nearest(&self, query: &Query) -> Option<(usize, &Rule)> {
        let class = self.class(query.class)?;
        let bucket = PackedBucket::of(class.kind, &query.extents, query.dtype);
        let nearest = class.rules.iter().min_by_key(|indexed| (indexed.bucket.distance(bucket), indexed.rule))?;
        Some((nearest.rule, &self.rules[nearest.rule]))
    }

    /// The document's rules, in its order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The classes that the document holds rules or fallbacks for.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(|class| class.name.as_str())
    }

    fn class(&self, name: &str) -> Option<&Class> {
        let found =
            self.classes.binary_search_by(|class| order_of_class(&class.name).cmp(&order_of_class(name))).ok()?;
        self.classes.get(found)
    }
}

/// Shorter names first: lengths mostly differ, and are compared faster than names.
fn order_of_class(name: &str) -> (usize, &str) {
    (name.len(), name)
}

/// The positions of a rule's usable templates, best first, equal configs once.
fn ranking(rule: &Rule, max_configs: usize) -> Vec<usize> {
    let templates = &rule.templates;
    let mut order: Vec<_> = (0..templates.len()).collect();
    if templates.iter().any(has_rank_metadata) {
        order.sort_by(|a, b| by_rank(&templates[*a], &templates[*b]));
    }
    let mut seen = HashSet::new();
    order.retain(|position| templates[*position].config().is_some_and(|config| seen.insert(config)));
    order.truncate(max_configs);
    order
}

fn has_rank_metadata(ranked: &RankedTemplate) -> bool {
    let numbers = [ranked.win_count, ranked.shape_coverage, ranked.geomean_slowdown, ranked.p90_slowdown];
    let names = ["win_count", "shape_coverage", "geomean_slowdown", "p90_slowdown"];
    numbers.iter().any(Option::is_some) || names.iter().any(|name| ranked.extra.contains_key(*name))
}

/// The order templates are served in. Wins and coverage are counts, so a fraction of one counts for nothing.
pub(crate) fn by_rank(a: &RankedTemplate, b: &RankedTemplate) -> Ordering {
    let count = |count: Option<f64>| count.unwrap_or(0.0).trunc();
    let slowdown = |slowdown: Option<f64>| slowdown.unwrap_or(f64::INFINITY);
    count(b.win_count)
        .total_cmp(&count(a.win_count))
        .then(count(b.shape_coverage).total_cmp(&count(a.shape_coverage)))
        .then(slowdown(a.geomean_slowdown).total_cmp(&slowdown(b.geomean_slowdown)))
        .then(slowdown(a.p90_slowdown).total_cmp(&slowdown(b.p90_slowdown)))
}
