//! Indexing a document's text in one pass: buckets are read, templates and evidence stay text.
//!
//! It takes documents of the usual form and leaves all else, with every error, to the full reading in `load`.

use super::buckets::{Kind, PackedBucket};
use super::document::SCHEMA_VERSION;
use super::entry::Entry;
use super::load::MAX_DOCUMENT_BYTES;
use super::lookup::{Heuristics, Index};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::{Borrow, Cow};
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
}

/// What is served of a rule or a fallback.
#[derive(Default)]
struct Part<'a> {
    /// A rule's class and bucket; no bucket, where no query can have it.
    place: Option<(Text<'a>, Option<PackedBucket>)>,
    /// JSON, as are the next two; nothing where it is not there.
    templates: &'a str,
    template: &'a str,
    validation: &'a str,
}

/// A string, borrowed from the text unless it holds escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
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
                let (mut class, mut labels): (Option<Text>, Option<BTreeMap<Text, Text>>) = (None, None);
                while let Some(Text(name)) = fields.next_key()? {
                    match &*name {
                        "kernel_class" => class = Some(fields.next_value()?),
                        "shape_bucket" => labels = Some(fields.next_value()?),
                        "templates" => part.templates = fields.next_value::<&RawValue>()?.get(),
                        "template" => part.template = fields.next_value::<&RawValue>()?.get(),
                        "validation" => part.validation = fields.next_value::<&RawValue>()?.get(),
                        _ => drop(fields.next_value::<IgnoredAny>()?),
                    }
                }
                part.place = class.zip(labels).map(|(class, labels)| {
                    let bucket = PackedBucket::read(Kind::of_class(&class.0), &labels);
                    (class, bucket)
                });
                Ok(part)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The index of a text that is a document of the usual form.
pub(super) fn scan(text: Cow<'static, str>) -> Result<Heuristics, Cow<'static, str>> {
    match index(&text) {
        Some(index) => Ok(index.finish(text)),
        None => Err(text),
    }
}

fn index(text: &str) -> Option<Index> {
    // Serde would take an array for the fields in order.
    if text.len() > MAX_DOCUMENT_BYTES || !text.trim_start().starts_with('{') {
        return None;
    }
    let outline: Outline = serde_json::from_str(text).ok()?;
    if outline.schema_version != SCHEMA_VERSION {
        return None;
    }
    let mut index = Index::default();
    for rule in outline.rules {
        let (class, bucket) = rule.place?;
        let templates = if rule.templates.starts_with('[') { rule.templates } else { "" };
        index.add_rule(&class.0, bucket, Entry::of_text(text, templates, rule.validation));
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
    Some(index)
}
