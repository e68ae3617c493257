//! What a sweep's journals make of the document.

use super::options::Options;
use crate::derive::{self, Defaults, Derived, Evidence, Inputs};
use crate::error::Result;
use crate::heuristics::Document;
use crate::journal;
use crate::model::Family;
use crate::plan::Plan;
use crate::site::Site;
use std::collections::{BTreeMap, BTreeSet};

/// Derives from the journals of these plans, and those of their sisters, which learn of each other, what is to be served after
/// the document `before`. A sister's journal of another environment says nothing.
///
/// # Errors
/// Where a journal cannot be read, or not beside the others or that document.
pub(crate) fn derive_journals(
    site: &Site,
    options: &Options,
    plans: &[&Plan],
    before: Option<&Document>,
) -> Result<Derived> {
    let profile = &site.found().profile;
    let mut defaults: Defaults = plans.iter().map(|plan| (plan.family, plan.defaults(profile))).collect();
    let own: BTreeSet<Family> = plans.iter().map(|plan| plan.family).collect();
    let sisters: BTreeSet<Family> = own.iter().filter_map(|family| family.sister()).collect();
    let mut journals = Vec::new();
    for family in own.iter().chain(sisters.difference(&own)) {
        let journal = site.folder.journal(*family, options.site.shard);
        if !journal.is_file() {
            continue;
        }
        let contents = journal::read(&journal)?;
        if !own.contains(family) {
            if let Some(change) = site.apart(&contents.headers).first() {
                let (sister, journal) = (family.sister().unwrap_or(*family), journal.display());
                site.progress.say(&format!("{sister} learns nothing of {journal}: {change} since"));
                continue;
            }
            defaults.insert(*family, Plan::load(*family, None)?.defaults(profile));
        }
        journals.push((journal.display().to_string(), contents));
    }
    derive::run(Inputs {
        profile,
        journals: &journals,
        measurements: Evidence::default(),
        defaults: &defaults,
        before,
        accept_driver: options.site.accept_driver,
    })
}

/// Puts into the document what a plan's journal makes of it; returns the number of its rules and fallbacks. What was served
/// `before` the sweep keeps its place unless beaten, whatever turn of the sweep this is: so the document is what anybody derives
/// of the same journals.
pub(super) fn update(site: &Site, options: &Options, plan: &Plan, before: Option<&Document>) -> Result<(usize, usize)> {
    let path = site.folder.document();
    let now = if path.is_file() { Some(Document::load(&path)?) } else { None };
    let derived = derive_journals(site, options, &[plan], before)?;
    let classes: BTreeSet<String> = derived.classes.into_iter().map(|report| report.class).collect();
    let document = match now {
        Some(now) => derive::merge(now, derived.document, &classes),
        None => derived.document,
    };
    document.write_atomically(&path)?;
    let class = plan.family.name();
    let rules = document.rules.iter().filter(|rule| rule.kernel_class == class).count();
    Ok((rules, document.fallbacks.get(class).map_or(0, BTreeMap::len)))
}
