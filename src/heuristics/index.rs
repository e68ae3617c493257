//! What a document serves, gathered class by class.

use super::bins::PackedBucket;
use super::classes::Kind;
use super::entries::Entries;
use super::entry::Entry;
use super::own::OwnKind;
use super::resolve::Resolver;
use super::terms::Terms;
use crate::model::Family;
use std::collections::HashMap;

/// All that a document holds for one class.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) name: String,
    /// The dimensions and types that it runs.
    pub(super) terms: Terms,
    /// Whether it is answered at all.
    pub(super) enabled: bool,
    pub(super) entries: Entries,
    /// There where the document has a model.
    pub(super) resolver: Option<Box<Resolver>>,
}

impl Class {
    fn new(name: &str, own: Option<&'static OwnKind>) -> Self {
        let kind = own.map_or_else(|| Kind::of_class(name), Kind::Own);
        let terms = own.map_or_else(|| Terms::of_class(name), Terms::of_own);
        let entries = Entries::new(kind);
        Self { name: name.to_owned(), terms, enabled: true, entries, resolver: None }
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
            class.entries.add_rule(bucket, position, entry);
        }
    }

    /// Adds a fallback. One of a group its class does not have serves nothing.
    pub(super) fn add_fallback(&mut self, class: &str, group: &str, entry: Entry) {
        self.add_class(class).entries.add_fallback(group, entry);
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
    pub(super) fn describe(&mut self, name: &str, family: Family) {
        let Ok(own) = OwnKind::of(family) else { return };
        self.places.insert(name.to_owned(), self.classes.len());
        self.classes.push(Class::new(name, Some(own)));
    }

    /// All that was added, for [`find`].
    pub(super) fn classes(self) -> Vec<Class> {
        let mut classes = self.classes;
        classes.sort_unstable_by(|one, other| order_of_class(&one.name).cmp(&order_of_class(&other.name)));
        for class in &mut classes {
            class.entries.sort();
        }
        classes
    }
}

/// The class of that name among those of an index.
pub(super) fn find<'a>(classes: &'a [Class], name: &str) -> Option<&'a Class> {
    let found = classes.binary_search_by(|class| order_of_class(&class.name).cmp(&order_of_class(name))).ok()?;
    classes.get(found)
}

/// Shorter names first: lengths mostly differ, and are compared faster than names.
fn order_of_class(name: &str) -> (usize, &str) {
    (name.len(), name)
}
