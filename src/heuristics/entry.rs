//! What is served of one rule or fallback: its configs, ranked, and its evidence. It stays JSON text until someone asks,
//! so that a document loads as fast as it can be checked.

use super::document::{RankedTemplate, Template};
use super::load::read_template;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::OnceLock;

/// A rule's or a fallback's part of an index.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// The array of ranked templates, as JSON.
    templates: Box<str>,
    /// The object `validation`, as JSON.
    validation: Box<str>,
    served: OnceLock<Served>,
}

/// An entry that has been looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    /// The usable configs, best first, equal ones once.
    pub(super) configs: Vec<Template>,
    /// What the document's maker measured to trust it.
    pub(super) evidence: Map<String, Value>,
}

impl Entry {
    /// The entry of a text that is valid JSON. What turns out to hold no templates serves none.
    pub(super) fn of_text(templates: &str, validation: &str) -> Self {
        Self { templates: templates.into(), validation: validation.into(), served: OnceLock::new() }
    }

    pub(super) fn new(templates: Vec<RankedTemplate>, evidence: Map<String, Value>) -> Self {
        let served = Served { configs: ranked(templates), evidence };
        Self { templates: Box::default(), validation: Box::default(), served: OnceLock::from(served) }
    }

    /// What is served; read on the first call.
    pub(super) fn served(&self) -> &Served {
        self.served.get_or_init(|| {
            let templates: Vec<Value> = serde_json::from_str(&self.templates).unwrap_or_default();
            Served {
                configs: ranked(templates.into_iter().map(read_template).collect()),
                evidence: serde_json::from_str(&self.validation).unwrap_or_default(),
            }
        })
    }
}

/// The usable configs of a rule, best first, equal ones once.
fn ranked(mut templates: Vec<RankedTemplate>) -> Vec<Template> {
    if templates.iter().any(has_rank_metadata) {
        templates.sort_by(by_rank);
    }
    let usable: Vec<_> = templates.iter().filter_map(RankedTemplate::config).collect();
    let mut seen = HashSet::new();
    usable.into_iter().filter(|config| seen.insert(*config)).cloned().collect()
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
