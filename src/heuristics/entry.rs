//! What is served of one rule or fallback: its configs, ranked, and its evidence. It stays JSON text until someone asks,
//! so that a document loads as fast as it can be checked.

use super::document::RankedTemplate;
use super::load::read_template;
use super::template::Template;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::OnceLock;

/// A rule's or a fallback's part of an index.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where in the document's text its configs are: an array of ranked templates, or a single config.
    templates: Range<usize>,
    /// Where its `validation` is.
    validation: Range<usize>,
    served: OnceLock<Served>,
}

/// An entry that has been looked at.
#[derive(Clone, Debug)]
pub(super) struct Served {
    /// The usable configs, best first, equal ones once.
    pub(super) configs: Vec<Template>,
    /// What the document's maker measured to trust it.
    pub(super) evidence: Map<String, Value>,
}

impl Entry {
    /// The entry with these parts of a document's text, each valid JSON or empty.
    pub(super) fn of_text(text: &str, templates: &str, validation: &str) -> Self {
        let range = |part: &str| {
            // An empty part lies anywhere.
            let start = if part.is_empty() { 0 } else { part.as_ptr().addr() - text.as_ptr().addr() };
            start..start + part.len()
        };
        Self { templates: range(templates), validation: range(validation), served: OnceLock::new() }
    }

    /// The entry of a parsed rule.
    pub(super) fn of_templates(templates: Vec<RankedTemplate>, evidence: Map<String, Value>) -> Self {
        let served = Served { configs: ranked(templates), evidence };
        Self { templates: 0..0, validation: 0..0, served: OnceLock::from(served) }
    }

    /// The entry of a parsed fallback.
    pub(super) fn of_config(config: Template, evidence: Map<String, Value>) -> Self {
        let served = Served { configs: vec![config], evidence };
        Self { templates: 0..0, validation: 0..0, served: OnceLock::from(served) }
    }

    /// What is served; read on the first call from the text the entry was made of. What proves unreadable serves nothing.
    pub(super) fn served(&self, text: &str) -> &Served {
        let part = |range: &Range<usize>| text.get(range.clone()).unwrap_or_default();
        self.served.get_or_init(|| Served {
            configs: read_configs(part(&self.templates)),
            evidence: serde_json::from_str(part(&self.validation)).unwrap_or_default(),
        })
    }
}

/// The usable configs of a part of the text. One that proves unreadable takes no other with it.
fn read_configs(part: &str) -> Vec<Template> {
    let read = |template: &RawValue| read_template(serde_json::from_str(template.get()).unwrap_or_default());
    // What is no object is no template, and tells nothing of the others' order.
    let may_be_one = |template: &&RawValue| template.get().starts_with('{');
    match serde_json::from_str::<Vec<&RawValue>>(part) {
        Ok(templates) => ranked(templates.into_iter().filter(may_be_one).map(read).collect()),
        Err(_) => serde_json::from_str(part).into_iter().collect(),
    }
}

/// The most configs of a rule that are served: documents have a handful.
const MOST_CONFIGS: usize = 1000;

/// The usable configs of a rule, best first, equal ones once.
fn ranked(mut templates: Vec<RankedTemplate>) -> Vec<Template> {
    if templates.iter().any(has_rank_metadata) {
        templates.sort_by(by_rank);
    }
    let usable: Vec<_> = templates.iter().filter_map(RankedTemplate::config).collect();
    let mut seen = HashSet::new();
    usable.into_iter().filter(|config| seen.insert(*config)).take(MOST_CONFIGS).cloned().collect()
}

fn has_rank_metadata(ranked: &RankedTemplate) -> bool {
    let numbers = [ranked.win_count, ranked.shape_coverage, ranked.geomean_slowdown, ranked.p90_slowdown];
    let names = ["win_count", "shape_coverage", "geomean_slowdown", "p90_slowdown"];
    numbers.iter().any(Option::is_some) || names.iter().any(|name| ranked.extra.contains_key(*name))
}

/// The order templates are served in. Wins and coverage are counts, so a fraction of one counts for nothing.
pub(crate) fn by_rank(a: &RankedTemplate, b: &RankedTemplate) -> Ordering {
    // Adding zero makes a negative zero a plain one.
    let count = |count: Option<f64>| count.unwrap_or(0.0).trunc() + 0.0;
    let slowdown = |slowdown: Option<f64>| slowdown.unwrap_or(f64::INFINITY) + 0.0;
    count(b.win_count)
        .total_cmp(&count(a.win_count))
        .then(count(b.shape_coverage).total_cmp(&count(a.shape_coverage)))
        .then(slowdown(a.geomean_slowdown).total_cmp(&slowdown(b.geomean_slowdown)))
        .then(slowdown(a.p90_slowdown).total_cmp(&slowdown(b.p90_slowdown)))
}
