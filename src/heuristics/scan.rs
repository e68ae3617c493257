//! Indexing a document's text in one pass: buckets are read; templates, evidence and models stay text.
//!
//! It takes documents of the usual form and leaves all else, with every error, to the full reading in `load`.

use super::bins::PackedBucket;
use super::classes::Kind;
use super::document::SCHEMA_VERSION;
use super::entry::Entry;
use super::index::Index;
use super::load::{MOST_MODELS, check_size};
use super::own::FAMILIES;
use super::resolve::Resolver;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What is served of a document; its other fields are only checked to be JSON.
#[derive(Deserialize)]
struct Outline<'a> {
    schema_version: u32,
    #[serde(borrow, default)]
    rules: Vec<Part<'a>>,
    #[serde(borrow, default)]
    fallbacks: BTreeMap<Text<'a>, BTreeMap<Text<'a>, Part<'a>>>,
    #[serde(borrow, default)]
    models: BTreeMap<Text<'a>, &'a RawValue>,
    #[serde(default)]
    policy: Policy,
}

/// Whether families are described, which makes buckets and groups of another kind than ours: rare enough to be read in full.
#[derive(Default)]
struct Policy {
    has_families: bool,
}

impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Policy;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Policy, A::Error> {
                let mut policy = Policy::default();
                while let Some(Text(name)) = fields.next_key()? {
                    policy.has_families |= name == FAMILIES;
                    fields.next_value::<IgnoredAny>()?;
                }
                Ok(policy)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// What is served of a rule or a fallback.
#[derive(Default)]
struct Part<'a> {
    kernel_class: Option<Text<'a>>,
    shape_bucket: Option<Labels>,
    /// JSON, as are the next two; nothing where it is not there.
    templates: &'a str,
    template: &'a str,
    validation: &'a str,
}

/// A string, borrowed from the text unless it holds escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A bucket, packed label by label.
struct Labels(PackedBucket);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Labels;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut labels: A) -> Result<Labels, A::Error> {
                let mut packed = PackedBucket::EMPTY;
                while let Some((name, label)) = labels.next_entry()? {
                    packed = packed.with_label(name, label);
                }
                Ok(Labels(packed))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// By hand, since a derived reading would take an array for the fields in order.
impl<'de: 'a, 'a> Deserialize<'de> for Part<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Part<'de>;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Part<'de>, A::Error> {
                let mut part = Part::default();
                while let Some(Text(name)) = fields.next_key()? {
                    match &*name {
                        "kernel_class" => part.kernel_class = Some(fields.next_value()?),
                        "shape_bucket" => part.shape_bucket = Some(fields.next_value()?),
                        "templates" => part.templates = fields.next_value::<&RawValue>()?.get(),
                        "template" => part.template = fields.next_value::<&RawValue>()?.get(),
                        "validation" => part.validation = fields.next_value::<&RawValue>()?.get(),
                        _ => drop(fields.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(part)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The index of a text that is a document of the usual form.
pub(super) fn scan(text: &str) -> Option<Index> {
    // Serde would take an array for the fields in order.
    if check_size(text.as_bytes()).is_err() || !text.trim_start().starts_with('{') {
        return None;
    }
    let outline: Outline = serde_json::from_str(text).ok()?;
    if outline.schema_version != SCHEMA_VERSION || outline.models.len() > MOST_MODELS || outline.policy.has_families {
        return None;
    }
    let mut index = Index::default();
    for rule in outline.rules {
        let class = rule.kernel_class?.0;
        let bucket = rule.shape_bucket?.0.fitting(Kind::of_class(&class));
        let templates = if rule.templates.starts_with('[') { rule.templates } else { "" };
        index.add_rule(&class, bucket, Entry::of_text(text, templates, rule.validation));
    }
    for (class, groups) in outline.fallbacks {
        index.add_class(&class.0);
        for (group, fallback) in groups {
            if fallback.template.starts_with('{') {
                let entry = Entry::of_text(text, fallback.template, fallback.validation);
                index.add_fallback(&class.0, &group.0, entry);
            }
        }
    }
    for (class, model) in outline.models {
        index.add_model(&class.0, Resolver::of_text(text, model.get()));
    }
    Some(index)
}
