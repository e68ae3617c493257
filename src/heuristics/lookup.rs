//! The lookup: a document indexed once, then asked by class, dimensions and type. It allocates nothing but where a class has
//! a model and the shape is a new one.

use super::bins::PackedBucket;
use super::classes::{Kind, family_of_shape};
use super::classification::Signature;
use super::columns::ModelConfig;
use super::document::{Bucket, Document};
use super::dtypes::DtypeName;
use super::entries::{Found, Source};
use super::entry::Entry;
use super::extents::Extents;
use super::index::{self, Class, Index};
use super::load::{MAX_DOCUMENT_BYTES, read_file, without_mark};
use super::model::Model;
use super::own::families_of;
use super::query::Query;
use super::resolve::{Picks, Resolver};
use super::scan::scan;
use super::shipped::CLASSES;
use super::template::Template;
use super::terms::Terms;
use crate::error::{Context, Error, Result};
use crate::model::{Dtype, Family, Problem};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

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
    /// As [`index::find`] takes them.
    classes: Vec<Class>,
    models: bool,
    max_configs: usize,
}

impl Heuristics {
    /// Indexes a document, with everything switched on.
    pub fn new(document: Document) -> Self {
        let mut index = Index::default();
        for (name, family) in families_of(&document.policy) {
            index.describe(&name, family);
        }
        for rule in document.rules {
            let kind = index.add_class(&rule.kernel_class).entries.kind();
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
        Self::of(Cow::default(), index)
    }

    /// What is indexed of that text, with everything switched on.
    fn of(text: Cow<'static, str>, index: Index) -> Self {
        Self { text, classes: index.classes(), models: true, max_configs: usize::MAX }
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
        match scan(&text) {
            Some(index) => Ok(Self::of(text, index)),
            None => Document::from_bytes(text.as_bytes()).map(Self::new),
        }
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
        let extents = match (self.own_family(class).or_else(|| family_of_shape(class)), dimensions) {
            // A document may hold any type for any class, so the type is the query's own.
            (Some(family), _) => Extents::of(&Problem::new(family, dimensions, family.dtypes()[0])?),
            (None, []) => Extents::Unbinned,
            (None, [(name, _), ..]) => {
                return Err(Error::usage(format!("{class} has no dimension '{name}': it goes by its type alone")));
            }
        };
        let query = self.as_known(Query { class, extents, dtype: dtype.into() });
        self.check(&query).map(|()| query)
    }

    /// The type of that name; where none is given, the default of the class's family, or bf16 for a class that is no family's.
    ///
    /// # Errors
    /// As [`DtypeName::parse`].
    pub fn dtype(&self, class: &str, name: Option<&str>) -> Result<DtypeName<'static>> {
        let default = || {
            let family = self.own_family(class).or_else(|| Family::by_name(class));
            Ok(family.map_or_else(Dtype::default, Family::default_dtype).into())
        };
        name.map_or_else(default, DtypeName::parse)
    }

    /// The family that the document itself describes by this name.
    fn own_family(&self, class: &str) -> Option<Family> {
        let class = self.class(class)?;
        if let Kind::Own(own) = class.entries.kind() { Some(own.family) } else { None }
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
        let query = signature.checked_query()?.map(|query| self.as_known(query));
        if let Some(query) = &query {
            self.check(query)?;
        }
        Ok(query)
    }

    /// The query as this document can be asked it: without variants where it knows none of the class, so that it answers as it
    /// always did.
    pub(super) fn as_known<'a>(&self, query: Query<'a>) -> Query<'a> {
        if self.takes(self.class(query.class), &query) { query } else { query.plain() }
    }

    /// Whether a class is asked a query as it is: a plain one, or where it knows variants.
    fn takes(&self, class: Option<&Class>, query: &Query) -> bool {
        let knows =
            |class: &Class| class.entries.has_variants() || self.model_of(class).is_some_and(Model::knows_variants);
        query.extents.is_plain() || class.is_some_and(knows)
    }

    fn check_class(&self, class: &str) -> Result<()> {
        if CLASSES.contains(&class) || self.class(class).is_some() {
            return Ok(());
        }
        let shown: String = class.chars().take(60).collect();
        let own =
            self.classes.iter().filter(|class| matches!(class.entries.kind(), Kind::Own(_))).map(|class| &*class.name);
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
        // A query is large, and mostly asked as it is.
        let plain;
        let query = if self.takes(Some(class), query) {
            query
        } else {
            plain = query.plain();
            &plain
        };
        if let Some(resolver) = self.resolver_of(class)
            && let Some(resolution) = resolver.resolve(&class.entries, &self.text, query)
        {
            return self.answer(class, resolution.found, Some(resolution.picks));
        }
        let entries = &class.entries;
        self.answer(class, entries.rule(query).or_else(|| entries.fallback(query)).unwrap_or(Found::Nothing), None)
    }

    fn answer<'a>(&'a self, class: &'a Class, found: Found, picks: Option<Picks>) -> Answer<'a> {
        let of_entry = || class.entries.entry(found).map(|entry| Held::Entry(entry, &self.text, picks));
        let of_model = || Some(Held::Model(class.resolver.as_deref()?.model(&self.text).ok()?, picks?));
        let held = of_entry().or_else(of_model).unwrap_or(Held::Nothing);
        Answer { source: class.entries.source(found), held, max_configs: self.max_configs }
    }

    /// The model of a class, with what was resolved by it, if it has one that is not switched off.
    pub(super) fn resolver_of<'a>(&self, class: &'a Class) -> Option<&'a Resolver> {
        class.resolver.as_deref().filter(|_| self.models)
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
        self.class(query.class)?.entries.nearest(&self.as_known(*query))
    }

    /// The classes that the document holds rules, fallbacks or a model for.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.iter().map(|class| class.name.as_str())
    }

    pub(super) fn class(&self, name: &str) -> Option<&Class> {
        index::find(&self.classes, name)
    }
}
