//! Indexing a document's text in one pass: buckets are read, templates and evidence stay text.
//!
//! It takes documents of the usual form and leaves all else, with every error, to the full reading in `load`.

use super::document::SCHEMA_VERSION;
use super::entry::Entry;
use super::load::MAX_DOCUMENT_BYTES;
use super::lookup::{Heuristics, Index};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

/// What is served of a document; its other fields are only checked to be JSON.
#[derive(Deserialize)]
struct Outline<'a> {
    schema_version: u32,
    #[serde(borrow, default)]
    rules: Vec<Fields<'a>>,
    #[serde(borrow, default)]
    fallbacks: BTreeMap<Text<'a>, BTreeMap<Text<'a>, Fields<'a>>>,
}

/// An object with its values still text.
type Fields<'a> = BTreeMap<Text<'a>, &'a RawValue>;

/// A string, borrowed from the text unless it holds escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The index of a text that is a document of the usual form.
pub(super) fn scan(bytes: &[u8]) -> Option<Heuristics> {
    // Serde would take an array for the fields in order.
    if bytes.len() > MAX_DOCUMENT_BYTES || bytes.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let outline: Outline = serde_json::from_str(std::str::from_utf8(bytes).ok()?).ok()?;
    if outline.schema_version != SCHEMA_VERSION {
        return None;
    }
    let mut index = Index::default();
    for rule in &outline.rules {
        let class: Text = serde_json::from_str(text_of(rule, "kernel_class")).ok()?;
        let bucket: BTreeMap<Text, Text> = serde_json::from_str(text_of(rule, "shape_bucket")).ok()?;
        let entry = Entry::of_text(text_of(rule, "templates"), text_of(rule, "validation"));
        index.add_rule(&class.0, &bucket, entry);
    }
    for (class, groups) in &outline.fallbacks {
        index.add_class(&class.0);
        for (group, fallback) in groups {
            let template = text_of(fallback, "template");
            if template.starts_with('{') {
                let templates = format!("[{{\"template\":{template}}}]");
                index.add_fallback(&class.0, &group.0, Entry::of_text(&templates, text_of(fallback, "validation")));
            }
        }
    }
    Some(index.finish())
}

/// A field's JSON; nothing where it is not there.
fn text_of<'a>(fields: &Fields<'a>, name: &str) -> &'a str {
    fields.get(name).map_or("", |value| value.get())
}
