//! The rules and fallbacks of one class, ready to be found by a query.

use super::bins::PackedBucket;
use super::classes::Kind;
use super::document::Bucket;
use super::entry::Entry;
use super::groups::group_index;
use super::query::Query;
use std::cmp::Reverse;

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// What was measured for this very shape and type.
    Measured,
    /// The rule with that index in the document, whose bucket is equal to the query's.
    Rule(usize),
    /// The class's fitted model.
    Model,
    /// The fallback of that group.
    Fallback(&'static str),
    /// Nothing in the document.
    None,
}

impl Source {
    /// `measured`, `rule`, `model`, `fallback` or `none`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Rule(_) => "rule",
            Self::Model => "model",
            Self::Fallback(_) => "fallback",
            Self::None => "none",
        }
    }

    /// The rule's index in the document.
    pub const fn rule_index(self) -> Option<usize> {
        if let Self::Rule(index) = self { Some(index) } else { None }
    }
}

/// What of a class answers: a rule by its place among the class's, a fallback by the position of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Measured,
    Rule(usize),
    Model,
    Fallback(usize),
    Nothing,
}

/// A rule with its position in the document.
#[derive(Clone, Debug)]
struct Rule {
    bucket: PackedBucket,
    position: usize,
    entry: Entry,
}

/// The rules and fallbacks of a class.
#[derive(Clone, Debug)]
pub(super) struct Entries {
    kind: Kind,
    /// Sorted by bucket once all are added.
    rules: Vec<Rule>,
    /// Their buckets once they are sorted, side by side: a search meets four in a line of the cache.
    buckets: Vec<PackedBucket>,
    /// Whether one of them is for a variant of the class's problems.
    has_variants: bool,
    /// By position of the group.
    fallbacks: Vec<Option<Entry>>,
}

impl Entries {
    /// Those of a class of that kind: none yet.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            rules: Vec::new(),
            buckets: Vec::new(),
            has_variants: false,
            fallbacks: vec![None; kind.groups().len()],
        }
    }

    /// What the class computes.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds the rule of a bucket, at that position of the document.
    pub(super) fn add_rule(&mut self, bucket: PackedBucket, position: usize, entry: Entry) {
        self.rules.push(Rule { bucket, position, entry });
    }

    /// Adds a fallback. One of a group its class does not have serves nothing.
    pub(super) fn add_fallback(&mut self, group: &str, entry: Entry) {
        if let Some(position) = self.kind.groups().iter().position(|known| *known == group) {
            self.fallbacks[position] = Some(entry);
        }
    }

    /// Makes all that was added findable; of two rules for one bucket, the later one.
    pub(super) fn sort(&mut self) {
        self.rules.sort_by_key(|rule| (rule.bucket, Reverse(rule.position)));
        self.rules.dedup_by_key(|rule| rule.bucket);
        self.buckets = self.rules.iter().map(|rule| rule.bucket).collect();
        let may_have = matches!(self.kind, Kind::Attention | Kind::Gemm);
        self.has_variants = may_have && self.buckets.iter().any(|bucket| bucket.is_variant());
    }

    /// Whether there is a rule for a variant of the class's problems.
    pub(super) fn has_variants(&self) -> bool {
        self.has_variants
    }

    /// The rule whose bucket is equal to the query's.
    pub(super) fn rule(&self, query: &Query) -> Option<Found> {
        let bucket = PackedBucket::of(self.kind, &query.extents, query.dtype.class());
        self.buckets.binary_search(&bucket).ok().map(Found::Rule)
    }

    /// The fallback of the query's group.
    pub(super) fn fallback(&self, query: &Query) -> Option<Found> {
        let group = group_index(self.kind, &query.extents)?;
        self.fallbacks[group].is_some().then_some(Found::Fallback(group))
    }

    /// The entry that holds the configs of a rule or fallback.
    pub(super) fn entry(&self, found: Found) -> Option<&Entry> {
        match found {
            Found::Rule(place) => Some(&self.rules.get(place)?.entry),
            Found::Fallback(group) => self.fallbacks.get(group)?.as_ref(),
            Found::Measured | Found::Model | Found::Nothing => None,
        }
    }

    /// The same, as callers know it.
    pub(super) fn source(&self, found: Found) -> Source {
        match found {
            Found::Measured => Source::Measured,
            Found::Rule(place) => Source::Rule(self.rules[place].position),
            Found::Model => Source::Model,
            Found::Fallback(group) => Source::Fallback(self.kind.groups()[group]),
            Found::Nothing => Source::None,
        }
    }

    /// The rule whose bucket is nearest to the query's, by its position in the document, and that bucket: equal in the most
    /// fields, then the fewest bins away.
    pub(super) fn nearest(&self, query: &Query) -> Option<(usize, Bucket)> {
        let bucket = PackedBucket::of(self.kind, &query.extents, query.dtype.class());
        let nearest = self.rules.iter().min_by_key(|rule| (rule.bucket.distance(bucket), rule.position))?;
        Some((nearest.position, nearest.bucket.spell_out(self.kind)))
    }
}
