//! The lookup: a document indexed once, then asked by class, dimensions and type. It allocates nothing but where a class has
//! a model and the shape is a new one.

use super::bins::PackedBucket;
use super::classes::{CLASSES, Kind, family_of_shape};
use super::classification::Signature;
use super::document::{Bucket, Document, Template};
use super::dtypes::DtypeName;
use super::entry::Entry;
use super::extents::Extents;
use super::groups::group_index;
use super::load::{MAX_DOCUMENT_BYTES, read_file, without_mark};
use super::model::{Model, ModelConfig};
use super::own::{OwnKind, families_of};
use super::resolve::{Picks, Resolver};
use super::scan::scan;
use super::terms::Terms;
use crate::error::{Context, Error, Result};
use crate::model::{Family, Problem};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// A question: which configs for this class at these dimensions?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The class: a family's name, or another one that a document may hold.
    pub class: &'a str,
    /// The dimensions that class goes by, exactly.
    pub extents: Extents,
    /// The type of the first argument, exactly.
    pub dtype: DtypeName<'a>,
}

impl Query<'_> {
    /// Its bucket, spelled out.
    pub fn bucket(&self) -> Bucket {
        let kind = self.extents.kind_of_class(self.class);
        PackedBucket::of(kind, &self.extents, self.dtype.class()).spell_out(kind)
    }

    /// Its fallback group, if its class has groups and no dimension it takes to tell is missing.
    pub fn group(&self) -> Option<&'static str> {
        let kind = self.extents.kind_of_class(self.class);
        group_index(kind, &self.extents).map(|index| kind.groups()[index])
    }
}

impl From<&Problem> for Query<'static> {
    fn from(problem: &Problem) -> Self {
        Self { class: problem.family.name(), extents: Extents::of(problem), dtype: problem.dtype.into() }
    }
}

/// What a caller may switch off or cap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Answer nothing at all.
    pub disabled: bool,
    /// Classes that are answered nothing.
    pub disabled_classes: BTreeSet<String>,
    /// Answer from rules and fallbacks alone.
    pub disabled_models: bool,
    /// The most configs to serve; none for all.
    pub max_configs: Option<usize>,
}

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

/// An answer: ranked configs, borrowed from the document.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Where the configs came from. A rule may be there and still hold none that is usable.
    pub source: Source,
    held: Held<'a>,
    max_configs: usize,
}

/// What holds an answer's configs.
#[derive(Clone, Copy, Debug)]
enum Held<'a> {
    Nothing,
    /// A rule or fallback, with the document's text: all of its configs, or those picked.
    Entry(&'a Entry, &'a str, Option<Picks>),
    /// The model: those picked.
    Model(&'a Model, Picks),
}

/// The configs that there are to pick from.
#[derive(Clone, Copy)]
enum Pool<'a> {
    Templates(&'a [Template]),
    OfModel(&'a [ModelConfig]),
}

impl<'a> Pool<'a> {
    fn len(self) -> usize {
        match self {
            Self::Templates(templates) => templates.len(),
            Self::OfModel(configs) => configs.len(),
        }
    }

    fn config(self, place: usize) -> &'a Template {
        match self {
            Self::Templates(templates) => &templates[place],
            Self::OfModel(configs) => &configs[place].template,
        }
    }
}

impl<'a> Answer<'a> {
    pub(super) const NOTHING: Self = Self { source: Source::None, held: Held::Nothing, max_configs: 0 };

    /// The configs, best first, each once. The first call for a rule or fallback reads them from the document's text.
    pub fn configs(self) -> impl ExactSizeIterator<Item = &'a Template> {
        let (pool, picks) = match self.held {
            Held::Nothing => (Pool::Templates(&[]), None),
            Held::Entry(entry, text, picks) => (Pool::Templates(&entry.served(text).configs), picks),
            Held::Model(model, picks) => (Pool::OfModel(model.configs()), Some(picks)),
        };
        let count = picks.map_or(pool.len(), |picks| picks.places().len()).min(self.max_configs);
        (0..count).map(move |nth| pool.config(picks.map_or(nth, |picks| picks.places()[nth])))
    }

    /// The best config.
    pub fn best(self) -> Option<&'a Template> {
        self.configs().next()
    }

    /// The medians that were measured for this very shape and type, in microseconds, one a config; nothing where the source
    /// is another.
    pub fn measured_us(self) -> Option<Vec<f64>> {
        self.times_us().filter(|_| self.source == Source::Measured)
    }

    /// The times that the model expects, in microseconds, one a config; nothing where the source is another.
    pub fn predicted_us(self) -> Option<Vec<f64>> {
        self.times_us().filter(|_| self.source == Source::Model)
    }

    fn times_us(self) -> Option<Vec<f64>> {
        let Held::Model(_, picks) = self.held else { return None };
        Some(picks.times_us().iter().copied().take(self.max_configs).collect())
    }

    /// What the document's maker measured to trust a rule or fallback.
    pub fn evidence(self) -> Option<&'a Map<String, Value>> {
        match self.held {
            Held::Entry(entry, text, _) => Some(&entry.served(text).evidence),
            Held::Nothing | Held::Model(..) => None,
        }
    }
}

/// A document ready to be asked.
#[derive(Clone, Debug)]
pub struct Heuristics {
    /// The document, where entries are still to be read from it.
    text: Cow<'static, str>,
    /// Sorted by [`order_of_class`].
    classes: Vec<Class>,
    models: bool,
    max_configs: usize,
}

/// All that a document holds for one class.
#[derive(Clone, Debug)]
pub(super) struct Class {
    name: String,
    kind: Kind,
    terms: Terms,
    enabled: bool,
    /// Sorted by bucket.
    rules: Vec<Rule>,
    /// By position of the group.
    fallbacks: Vec<Option<Entry>>,
    /// There where the document has a model.
    resolver: Option<Box<Resolver>>,
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

impl Class {
    fn new(name: &str, own: Option<&'static OwnKind>) -> Self {
        let kind = own.map_or_else(|| Kind::of_class(name), Kind::Own);
        let fallbacks = vec![None; kind.groups().len()];
        let terms = own.map_or_else(|| Terms::of_class(name), Terms::of_own);
        Self { name: name.to_owned(), kind, terms, enabled: true, rules: Vec::new(), fallbacks, resolver: None }
    }

    /// The rule whose bucket is equal to the query's.
    pub(super) fn rule(&self, query: &Query) -> Option<Found> {
        let bucket = PackedBucket::of(self.kind, &query.extents, query.dtype.class());
        self.rules.binary_search_by_key(&bucket, |rule| rule.bucket).ok().map(Found::Rule)
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

    /// Its model with what was resolved by it, if it has one.
    pub(super) fn resolver(&self) -> Option<&Resolver> {
        self.resolver.as_deref()
    }
}

impl Heuristics {
    /// Indexes a document, with everything switched on.
    pub fn new(document: Document) -> Self {
        let mut index = Index::default();
        for (name, family) in families_of(&document.policy) {
            index.describe(&name, family);
        }
        for rule in document.rules {
            let kind = index.add_class(&rule.kernel_class).kind;
            let bucket = PackedBucket::read(kind, &rule.shape_bucket);
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
        for (class, model) in document.models {
            index.add_model(&class, Resolver::of_value(model));
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

    fn from_vec(mut bytes: Vec<u8>) -> Result<Self> {
        bytes.drain(..bytes.len() - without_mark(&bytes).len());
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
        self.models = !options.disabled_models;
        for class in &mut self.classes {
            class.enabled = !options.disabled && !options.disabled_classes.contains(&class.name);
        }
        self
    }

    /// The question for a class at named dimensions (those of its family, for a class that goes by any) and a type.
    ///
    /// # Errors
    /// Where neither classification nor the document knows the class, and as [`Problem::new`] and [`Heuristics::check`].
    pub fn query<'a>(
        &self,
        class: &'a str,
        dimensions: &[(&str, i64)],
        dtype: impl Into<DtypeName<'a>>,
    ) -> Result<Query<'a>> {
        self.check_class(class)?;
        let own =
            self.class(class).and_then(|class| if let Kind::Own(own) = class.kind { Some(own.family) } else { None });
        let extents = match (own.or_else(|| family_of_shape(class)), dimensions) {
            // A document may hold any type for any class, so the type is the query's own.
            (Some(family), _) => Extents::of(&Problem::new(family, dimensions, family.dtypes()[0])?),
            (None, []) => Extents::Unbinned,
            (None, [(name, _), ..]) => {
                return Err(Error::usage(format!("{class} has no dimension '{name}': it goes by its type alone")));
            }
        };
        let query = Query { class, extents, dtype: dtype.into() };
        self.check(&query).map(|()| query)
    }

    /// The question for a kernel known by its arguments and traits; nothing where it fits no class.
    ///
    /// # Errors
    /// Where an argument says half of what it is (a shape without a type), has a type of no known name, an extent that is not
    /// positive, or does not fit the others as far as the class tells what they are (inner sizes that disagree, a weight laid out the
    /// other way round); where an unknown class is given; and as [`Heuristics::check`].
    pub fn query_of<'a>(&self, signature: &'a Signature) -> Result<Option<Query<'a>>> {
        if let Some(class) = &signature.kernel_class {
            self.check_class(class)?;
        }
        let query = signature.checked_query()?;
        if let Some(query) = &query {
            self.check(query)?;
        }
        Ok(query)
    }

    fn check_class(&self, class: &str) -> Result<()> {
        if CLASSES.contains(&class) || self.class(class).is_some() {
            return Ok(());
        }
        let shown: String = class.chars().take(60).collect();
        let own = self.classes.iter().filter(|class| matches!(class.kind, Kind::Own(_))).map(|class| &*class.name);
        let families: Vec<&str> = Family::ALL.iter().map(|family| family.name()).chain(own).collect();
        Err(Error::usage(format!("'{shown}' is no family; the families are {}", families.join(", "))))
    }

    /// Whether kernels of the query's class can have its dimensions and run its type. What runs is what the family's kernels come in,
    /// with those types that share its bucket, and what the document holds rules or a model for; all types where nothing of this is
    /// known.
    ///
    /// # Errors
    /// Where a dimension is missing or not positive, k is odd for packed weights, a tensor has more elements than 64 bits can count,
    /// or the class does not run the type.
    pub fn check(&self, query: &Query) -> Result<()> {
        let class = self.class(query.class);
        let terms = class.map_or_else(|| Terms::of_class(query.class), |class| class.terms);
        if let Some(fault) = terms.fault(&query.extents) {
            return Err(Error::usage(format!("{}: {fault}", query.class)));
        }
        if self.runs(terms, class, query.dtype) {
            return Ok(());
        }
        let mut names: Vec<&str> = terms.names().collect();
        if let Some(model) = class.and_then(|class| self.model_of(class)) {
            names.extend(model.fitted().dtypes.keys().map(String::as_str));
        }
        names.sort_unstable();
        names.dedup();
        let (asked, names) = (query.dtype.name(), names.join(", "));
        Err(Error::usage(format!(
            "{} does not run {asked}: the type of its first tensor is one of {names}",
            query.class
        )))
    }

    fn runs(&self, terms: Terms, class: Option<&Class>, dtype: DtypeName) -> bool {
        let by_name = terms.runs(dtype);
        let by_model = || class.and_then(|class| self.model_of(class)?.fitted().dtypes.get(dtype.name()));
        match by_name {
            Some(true) => true,
            _ => by_model().is_some() || by_name.is_none(),
        }
    }

    /// The model of a class, if it has one that can be read and is not switched off.
    fn model_of<'a>(&'a self, class: &'a Class) -> Option<&'a Model> {
        self.resolver_of(class)?.model(&self.text).ok()
    }

    /// The answer to a query; nothing to one that [`Heuristics::check`] refuses. Where the class has a model: what was measured for this very shape and type, else whichever of
    /// model, rule and fallback had the least regret on problems left out, in the shape's group and at its alignment, each
    /// with up to three configs that can run the shape. Else, or where the model does not know the type: the rule of the
    /// shape's bucket, else the fallback of its group.
    ///
    /// Allocates nothing, unless a model is asked about a shape for the first time, or was not read yet. What it resolves is
    /// remembered, for some two thousand shapes a class.
    pub fn lookup(&self, query: &Query) -> Answer<'_> {
        match self.class(query.class) {
            Some(class)
                if class.terms.fault(&query.extents).is_none() && self.runs(class.terms, Some(class), query.dtype) =>
            {
                self.answer_of(class, query)
            }
            _ => Answer::NOTHING,
        }
    }

    /// The answer to a query whatever its dimensions and type, as the runtime that documents come from answers.
    pub fn lookup_unchecked(&self, query: &Query) -> Answer<'_> {
        self.class(query.class).map_or(Answer::NOTHING, |class| self.answer_of(class, query))
    }

    fn answer_of<'a>(&'a self, class: &'a Class, query: &Query) -> Answer<'a> {
        if !class.enabled {
            return Answer::NOTHING;
        }
        if let Some(resolver) = self.resolver_of(class)
            && let Some(resolution) = resolver.resolve(class, &self.text, query)
        {
            return self.answer(class, resolution.found, Some(resolution.picks));
        }
        self.answer(class, class.rule(query).or_else(|| class.fallback(query)).unwrap_or(Found::Nothing), None)
    }

    fn answer<'a>(&'a self, class: &'a Class, found: Found, picks: Option<Picks>) -> Answer<'a> {
        let of_entry = || class.entry(found).map(|entry| Held::Entry(entry, &self.text, picks));
        let of_model = || Some(Held::Model(class.resolver()?.model(&self.text).ok()?, picks?));
        let held = of_entry().or_else(of_model).unwrap_or(Held::Nothing);
        Answer { source: class.source(found), held, max_configs: self.max_configs }
    }

    /// The model of a class, with what was resolved by it, if it has one that is not switched off.
    pub(super) fn resolver_of<'a>(&self, class: &'a Class) -> Option<&'a Resolver> {
        class.resolver().filter(|_| self.models)
    }

    /// The document's text, where entries and models are still to be read from it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The answer for a problem of one of the families.
    pub fn lookup_problem(&self, problem: &Problem) -> Answer<'_> {
        self.lookup(&problem.into())
    }

    /// The answer for a kernel known by its arguments and traits; nothing where it fits no class.
    ///
    /// # Errors
    /// As [`Heuristics::query_of`].
    pub fn lookup_signature(&self, signature: &Signature) -> Result<Answer<'_>> {
        Ok(self.query_of(signature)?.map_or(Answer::NOTHING, |query| self.lookup(&query)))
    }

    /// The rule of the query's class whose bucket is nearest, by its index in the document, and that bucket: equal in the
    /// most fields, then the fewest bins away.
    pub fn nearest(&self, query: &Query) -> Option<(usize, Bucket)> {
        let class = self.class(query.class)?;
        let bucket = PackedBucket::of(class.kind, &query.extents, query.dtype.class());
        let nearest = class.rules.iter().min_by_key(|rule| (rule.bucket.distance(bucket), rule.position))?;
        Some((nearest.position, nearest.bucket.spell_out(class.kind)))
    }

    /// The classes that the document holds rules, fallbacks or a model for.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(|class| class.name.as_str())
    }

    pub(super) fn class(&self, name: &str) -> Option<&Class> {
        let found =
            self.classes.binary_search_by(|class| order_of_class(&class.name).cmp(&order_of_class(name))).ok()?;
        self.classes.get(found)
    }
}

/// Gathers what a document serves.
#[derive(Default)]
pub(super) struct Index {
    classes: Vec<Class>,
    /// Where each is among them.
    places: HashMap<String, usize>,
    rules: usize,
}

impl Index {
    /// Adds the next rule in document order. One without a bucket that a query can have serves nothing.
    pub(super) fn add_rule(&mut self, class: &str, bucket: Option<PackedBucket>, entry: Entry) {
        let position = self.rules;
        self.rules += 1;
        let class = self.add_class(class);
        if let Some(bucket) = bucket {
            class.terms.learn(bucket);
            class.rules.push(Rule { bucket, position, entry });
        }
    }

    /// Adds a fallback. One of a group its class does not have serves nothing.
    pub(super) fn add_fallback(&mut self, class: &str, group: &str, entry: Entry) {
        let class = self.add_class(class);
        if let Some(position) = class.kind.groups().iter().position(|known| *known == group) {
            class.fallbacks[position] = Some(entry);
        }
    }

    /// Adds a class's model.
    pub(super) fn add_model(&mut self, class: &str, resolver: Resolver) {
        self.add_class(class).resolver = Some(Box::new(resolver));
    }

    /// The class of that name, which may be new.
    pub(super) fn add_class(&mut self, name: &str) -> &mut Class {
        let place = self.places.get(name).copied().unwrap_or_else(|| {
            self.places.insert(name.to_owned(), self.classes.len());
            self.classes.push(Class::new(name, None));
            self.classes.len() - 1
        });
        &mut self.classes[place]
    }

    /// Notes what a document says of a family before anything of it is added.
    fn describe(&mut self, name: &str, family: Family) {
        let Ok(own) = OwnKind::of(family) else { return };
        self.places.insert(name.to_owned(), self.classes.len());
        self.classes.push(Class::new(name, Some(own)));
    }

    /// The index of that text with everything switched on; of two rules for one bucket, the later one.
    pub(super) fn finish(self, text: Cow<'static, str>) -> Heuristics {
        let mut classes = self.classes;
        classes.sort_unstable_by(|one, other| order_of_class(&one.name).cmp(&order_of_class(&other.name)));
        for class in &mut classes {
            class.rules.sort_by_key(|rule| (rule.bucket, Reverse(rule.position)));
            class.rules.dedup_by_key(|rule| rule.bucket);
        }
        Heuristics { text, classes, models: true, max_configs: usize::MAX }
    }
}

/// Shorter names first: lengths mostly differ, and are compared faster than names.
fn order_of_class(name: &str) -> (usize, &str) {
    (name.len(), name)
}
