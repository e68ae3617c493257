//! What the last document serves, which stays where nothing beats it by more than noise: so that a document made every
//! night does not change its mind every night.

use super::compare::Comparison;
use super::evidence::config_text;
use super::table::{Row, Table, repeat_noise};
use crate::heuristics::{Bucket, Document, Template, by_rank};
use std::collections::{BTreeMap, HashMap};

/// The last document's configs for one class, by index in the class's table.
#[derive(Default)]
pub(super) struct Incumbents {
    rules: BTreeMap<Bucket, usize>,
    groups: BTreeMap<String, usize>,
}

impl Incumbents {
    /// Those of `document` that were tried again.
    pub(super) fn of(document: &Document, table: &Table) -> Self {
        let by_text: HashMap<&str, usize> =
            table.configs.iter().enumerate().map(|(index, config)| (config.text.as_str(), index)).collect();
        let index_of = |template: &Template| {
            let text = config_text(template);
            by_text.get(text.as_str()).copied()
        };
        let rules = document.rules.iter().filter(|rule| rule.kernel_class == table.class).filter_map(|rule| {
            let usable = rule.templates.iter().filter(|ranked| ranked.config().is_some());
            let first = usable.min_by(|one, other| by_rank(one, other))?;
            Some((rule.shape_bucket.clone(), index_of(&first.template)?))
        });
        let groups = document.fallbacks.get(table.class).into_iter().flatten();
        let groups = groups.filter_map(|(group, fallback)| Some((group.clone(), index_of(fallback.config()?)?)));
        Self { rules: rules.collect(), groups: groups.collect() }
    }

    /// The config of a bucket's rule.
    pub(super) fn of_bucket(&self, bucket: &Bucket) -> Option<usize> {
        self.rules.get(bucket).copied()
    }

    /// The config of a group's fallback.
    pub(super) fn of_group(&self, group: &str) -> Option<usize> {
        self.groups.get(group).copied()
    }
}

/// `chosen`, or the incumbent that it does not beat on `rows` beyond the noise of this occasion, or only by what two occasions
/// differ by: configs of one tie class do not take turns.
pub(super) fn unless_beaten(rows: &[&Row], incumbent: Option<usize>, chosen: usize) -> usize {
    let Some(incumbent) = incumbent else { return chosen };
    let comparison = Comparison::over(rows, chosen, |_| Some(incumbent));
    if comparison.is_faster() && !comparison.is_tie(repeat_noise(rows)) { chosen } else { incumbent }
}
