//! One class's rules and fallbacks, and its model.

use super::class::{Class, Promotion};
use super::incumbent::Incumbents;
use super::model;
use super::report::{ClassReport, ModelReport};
use super::shapes::{Known, Places};
use super::table::{Row, Table};
use crate::heuristics::{Bucket, Document, Fallback, FittedModel, Rule, Template, class_groups};
use crate::model::GpuProfile;
use std::collections::{BTreeMap, BTreeSet};

/// What a document says of one class, and what became of its evidence.
pub(super) struct ClassResult {
    pub(super) rules: Vec<Rule>,
    pub(super) fallbacks: BTreeMap<String, Fallback>,
    pub(super) model: Option<FittedModel>,
    pub(super) report: ClassReport,
}

/// Derives what a document says of one class. Of a `sister`, whose kernels are alike, its model learns too.
pub(super) fn derive_class(
    table: &Table,
    sister: Option<&Table>,
    before: Option<&Document>,
    profile: &GpuProfile,
) -> ClassResult {
    let known = Known::of(table, profile);
    let known_sister = sister.and_then(|sister| Some((sister, Known::of(sister, profile)?)));
    let incumbents = before.map_or_else(Incumbents::default, |before| Incumbents::of(before, table));
    let class = Class::new(table, Places::of(table, known.as_ref()), incumbents);
    let mut report = ClassReport {
        class: table.class.to_owned(),
        trials: table.trials,
        problems: table.rows.len(),
        unworkable: table.unworkable.iter().map(|facts| facts.name.clone()).collect(),
        ..ClassReport::default()
    };
    let Some(best_single) = class.best_single else {
        return ClassResult { rules: Vec::new(), fallbacks: BTreeMap::new(), model: None, report };
    };

    let mut buckets: BTreeMap<&Bucket, Vec<&Row>> = BTreeMap::new();
    for row in &table.rows {
        buckets.entry(&row.facts.bucket).or_default().push(row);
    }
    report.buckets = buckets.len();
    let mut rules = Vec::new();
    for (bucket, rows) in buckets {
        match class.rule(bucket, &rows, best_single) {
            Promotion::Rule(rule) => rules.push(*rule),
            Promotion::LeftToFallback => report.left_to_fallback += 1,
            Promotion::SlowerThanDefault => report.slower_than_default += 1,
        }
    }
    report.rules = rules.len();

    let ruled: BTreeSet<&Bucket> = rules.iter().map(|rule| &rule.shape_bucket).collect();
    let fallbacks: BTreeMap<String, Fallback> = class_groups(table.class)
        .iter()
        .map(|group| ((*group).to_owned(), class.fallback(group, best_single, &ruled)))
        .collect();
    let covered: BTreeSet<&str> = table.rows.iter().filter_map(|row| row.facts.group).collect();
    report.borrowed_fallbacks =
        class_groups(table.class).iter().copied().filter(|group| !covered.contains(group)).collect();
    report.fallbacks = fallbacks.len();

    let served: Vec<&Template> = rules
        .iter()
        .flat_map(|rule| rule.templates.iter().map(|ranked| &ranked.template))
        .chain(fallbacks.values().map(|fallback| &fallback.template))
        .collect();
    let model = match model::fit(
        &class,
        known.as_ref(),
        known_sister.as_ref().map(|(table, known)| (*table, known)),
        &served,
    ) {
        Ok(model) => {
            report.model = Some(ModelReport::of(&model));
            Some(model)
        }
        Err(error) => {
            report.no_model = Some(error.to_string());
            None
        }
    };
    ClassResult { rules, fallbacks, model, report }
}
