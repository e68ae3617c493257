//! The lookup: a document indexed once, then asked by class and dimensions without allocating.

use super::buckets::{CLASSES, DtypeClass, Extents, Kind, PackedBucket, family_of_shape, group_index};
use super::document::{Bucket, Document, Template};
use super::entry::Entry;
use super::load::{MAX_DOCUMENT_BYTES, read_file};
use super::scan::scan;
use super::signature::Signature;
use crate::error::{Context, Error, Result};
use crate::model::{Dtype, Family, Problem};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
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
        PackedBucket::of(kind, &self.extents, self.dtype).spell_out()
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The rule with that index in the document, whose bucket is equal to the query's.
    Rule(usize),
    /// The fallback of the group, there being no rule.
    Fallback(&'static str),
    /// Nothing in the document.
    None,
}

/// An answer: ranked configs, borrowed from the document.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Where the configs came from. A rule may be there and still hold none that is usable.
    pub source: Source,
    /// What holds the configs, with the document's text.
    entry: Option<(&'a Entry, &'a str)>,
    max_configs: usize,
}

impl<'a> Answer<'a> {
    pub(super) const NOTHING: Self = Self { source: Source::None, entry: None, max_configs: 0 };

    /// The configs, best first, each once. The first call for a rule or fallback reads them from the document's text.
    pub fn configs(self) -> impl ExactSizeIterator<Item = &'a Template> {
        let configs = self.entry.map_or(&[][..], |(entry, text)| &entry.served(text).configs);
        configs.iter().take(self.max_configs)
    }

    /// The best config.
    pub fn best(self) -> Option<&'a Template> {
        self.configs().next()
    }

    /// What the document's maker measured to trust this answer.
    pub fn evidence(self) -> Option<&'a Map<String, Value>> {
        self.entry.map(|(entry, text)| &entry.served(text).evidence)
    }
}

/// A document ready to be asked.
#[derive(Clone, Debug)]
pub struct Heuristics {
    /// The document, where entries are still to be read from it.
    text: Cow<'static, str>,
    /// Sorted by [`order_of_class`].
    classes: Vec<Class>,
    max_configs: usize,
}

/// All that a document holds for one class.
#[derive(Clone, Debug)]
pub(super) struct Class {
    name: String,
    kind: Kind,
    enabled: bool,
    /// Sorted by bucket.
    rules: Vec<Rule>,
    /// By position of the group.
    fallbacks: Vec<Option<Entry>>,
}

/// A rule with its position in the document.
#[derive(Clone, Debug)]
struct Rule {
    bucket: PackedBucket,
    position: usize,
    entry: Entry,
}

impl Class {
    fn new(name: &str) -> Self {
        let kind = Kind::of_class(name);
        let fallbacks = vec![None; kind.groups().len()];
        Self { name: name.to_owned(), kind, enabled: true, rules: Vec::new(), fallbacks }
    }
}

impl Heuristics {
    /// Indexes a document, with everything switched on.
    pub fn new(document: Document) -> Self {
        let mut index = Index::default();
        for rule in document.rules {
            let bucket = PackedBucket::read(Kind::of_class(&rule.kernel_class), &rule.shape_bucket);
            index.add_rule(&rule.kernel_class, bucket, Entry::of_templates(rule.templates, rule.validation));
        }
        for (class, groups) in document.fallbacks {
            index.add_class(&class);
            for (group, fallback) in groups {
                if fallback.config().is_some() {
                    index.add_fallback(&class, &group, Entry::of_config(fallback.template, fallback.validation));
                }
            }
        }
        index.finish(Cow::default())
    }

    /// Loads a document from a file, with everything switched on.
    ///
    /// # Errors
    /// As [`Document::load`].
    pub fn load(path: &Path) -> Result<Self> {
        let place = || format!("heuristics document {}", path.display());
        read_file(path).and_then(Self::from_vec).context(place)
    }

    /// Loads a document from its JSON text, with everything switched on. Templates and evidence are only checked to be
    /// JSON; they are read when first asked for.
    ///
    /// # Errors
    /// As [`Document::from_bytes`]; but what a template or a field that is not served holds beyond JSON's grammar, such as
    /// a number out of range, is passed over.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        // What is too large is refused unread, and so needs no copy.
        if bytes.len() > MAX_DOCUMENT_BYTES {
            return Document::from_bytes(bytes).map(Self::new);
        }
        Self::from_vec(bytes.to_vec())
    }

    fn from_vec(bytes: Vec<u8>) -> Result<Self> {
        // What is broken, or as unusual as no tool writes it, is left to the full reading.
        match String::from_utf8(bytes) {
            Ok(text) => Self::from_text(text.into()),
            Err(invalid) => Document::from_bytes(invalid.as_bytes()).map(Self::new),
        }
    }

    pub(super) fn from_text(text: Cow<'static, str>) -> Result<Self> {
        scan(text).or_else(|text| Document::from_bytes(text.as_bytes()).map(Self::new))
    }

    /// The same document, answering as `options` say.
    #[must_use]
    pub fn with_options(mut self, options: &Options) -> Self {
        self.max_configs = options.max_configs.unwrap_or(usize::MAX);
        for class in &mut self.classes {
            class.enabled = !options.disabled && !options.disabled_classes.contains(&class.name);
        }
        self
    }

    /// The question for a class at named dimensions: those of its family, for a class that goes by any.
    ///
    /// # Errors
    /// Where neither classification nor the document knows the class, and as [`Problem::new`].
    pub fn query<'a>(&self, class: &'a str, dimensions: &[(&str, i64)], dtype: DtypeClass) -> Result<Query<'a>> {
        if !CLASSES.contains(&class) && self.class(class).is_none() {
            let families = Family::ALL.map(Family::name).join(", ");
            return Err(Error::usage(format!("'{class}' is no family; the families are {families}")));
        }
        let extents = match family_of_shape(class) {
            // A document may hold any type for any class, so the type is the query's own.
            Some(family) => Problem::new(family, dimensions, Dtype::Bf16)?.shape.into(),
            None => Extents::Unbinned,
        };
        Ok(Query { class, extents, dtype })
    }

    /// The answer to a query. Allocates nothing.
    pub fn lookup(&self, query: &Query) -> Answer<'_> {
        let Some(class) = self.class(query.class).filter(|class| class.enabled) else { return Answer::NOTHING };
        let answer =
            |source, entry| Answer { source, entry: Some((entry, &*self.text)), max_configs: self.max_configs };
        let bucket = PackedBucket::of(class.kind, &query.extents, query.dtype);
        if let Ok(found) = class.rules.binary_search_by_key(&bucket, |rule| rule.bucket) {
            let rule = &class.rules[found];
            return answer(Source::Rule(rule.position), &rule.entry);
        }
        let Some(group) = group_index(class.kind, &query.extents) else { return Answer::NOTHING };
        match &class.fallbacks[group] {
            Some(entry) => answer(Source::Fallback(class.kind.groups()[group]), entry),
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

    /// The rule of the query's class whose bucket is nearest, by its index in the document, and that bucket: equal in the
    /// most fields, then the fewest bins away.
    pub fn nearest(&self, query: &Query) -> Option<(usize, Bucket)> {
        let class = self.class(query.class)?;
        let bucket = PackedBucket::of(class.kind, &query.extents, query.dtype);
        let nearest = class.rules.iter().min_by_key(|rule| (rule.bucket.distance(bucket), rule.position))?;
        Some((nearest.position, nearest.bucket.spell_out()))
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

/// Gathers what a document serves.
#[derive(Default)]
pub(super) struct Index {
    classes: Vec<Class>,
    rules: usize,
}

impl Index {
    /// Adds the next rule in document order. One without a bucket that a query can have serves nothing.
    pub(super) fn add_rule(&mut self, class: &str, bucket: Option<PackedBucket>, entry: Entry) {
        let position = self.rules;
        self.rules += 1;
        let class = self.add_class(class);
        class.rules.extend(bucket.map(|bucket| Rule { bucket, position, entry }));
    }

    /// Adds a fallback. One of a group its class does not have serves nothing.
    pub(super) fn add_fallback(&mut self, class: &str, group: &str, entry: Entry) {
        let class = self.add_class(class);
        if let Some(position) = class.kind.groups().iter().position(|known| *known == group) {
            class.fallbacks[position] = Some(entry);
        }
    }

    /// The class of that name, which may be new.
    pub(super) fn add_class(&mut self, name: &str) -> &mut Class {
        let found = self.classes.binary_search_by(|class| order_of_class(&class.name).cmp(&order_of_class(name)));
        let position = found.unwrap_or_else(|position| {
            self.classes.insert(position, Class::new(name));
            position
        });
        &mut self.classes[position]
    }

    /// The index of that text with everything switched on; of two rules for one bucket, the later one.
    pub(super) fn finish(mut self, text: Cow<'static, str>) -> Heuristics {
        for class in &mut self.classes {
            class.rules.sort_by_key(|rule| (rule.bucket, Reverse(rule.position)));
            class.rules.dedup_by_key(|rule| rule.bucket);
        }
        Heuristics { text, classes: self.classes, max_configs: usize::MAX }
    }
}

/// Shorter names first: lengths mostly differ, and are compared faster than names.
fn order_of_class(name: &str) -> (usize, &str) {
    (name.len(), name)
}
