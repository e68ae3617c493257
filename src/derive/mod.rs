//! Journals to a document: rules and fallbacks with the evidence for them. Pure: the same trials, in any order, give the same
//! document on any number of threads.
//!
//! - The slowdown of a config on a problem is its median over the problem's best median, among finals and cross trials; those
//!   are brought to the clocks of the final by the finalists that raced in both. Trials of the search before count only for a
//!   problem that has neither.
//! - A set of problems is given the config with the least geometric mean slowdown; a missing time counts as at least
//!   twice the best. Choices within half a percent are ties, broken by a fixed order: simpler launches first, then the text.
//! - A fallback is that choice over all of a group's problems. A rule is that choice over a bucket's problems, and with
//!   little weight the group's, among the configs nowhere slower than a default, or the family's best single config where that
//!   is faster beyond noise; with up to two more that help most beside it. It is kept only where it beats what would be served
//!   otherwise, the fallback, by more than null arms differ.
//! - Noise is what the null arm and the spread of rounds and quartiles show, never under half a percent.
//! - `validation.ties` names the configs that cannot be told from the one that is served, by that noise or by what the ratio of
//!   two configs changes from one occasion to another, so that a change from one sweep to the next can be judged.

mod choose;
mod compare;
mod evidence;
pub mod helion_csv;
mod incumbent;
mod merge;
mod repeat;
mod table;

pub(crate) use compare::{ASSUMED_NOISE, NOISE_FLOOR, half_width, pair};
pub use evidence::{Environment, Evidence, ProblemFacts, Record, Timing};
pub(crate) use evidence::{config_text, of_latest_kernels, timing_of};
pub use merge::merge;
pub(crate) use merge::{ENVIRONMENT_FIELDS, environments_of};

use crate::heuristics::{Bucket, Document, Fallback, Rule, SCHEMA_VERSION, Template, class_groups};
use crate::measure::{quantile, sorted};
use crate::model::{Config, Family, GpuProfile, Mma};
use choose::{
    FIXED_SPLIT, GROUP_WEIGHT, choose, complement, geomean_slowdown, handicaps, keeps_up_with_defaults, leave_one_out,
    ties,
};
use compare::Comparison;
use incumbent::{Incumbents, unless_beaten};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use table::{MISSING_SLOWDOWN, Row, Table, kernels_of};

/// The defaults of each family, one for each kind of space it has on the device.
pub type Defaults = BTreeMap<Family, Vec<Config>>;

/// A document and what became of the evidence.
#[derive(Clone, Debug)]
pub struct Derived {
    /// The document.
    pub document: Document,
    /// One entry a class there was evidence for, sorted by class.
    pub classes: Vec<ClassReport>,
    /// Trials called `ok` without a usable time, which were left out.
    pub unusable_trials: usize,
    /// Trials called `ok` that err so much more than others of their problem that they were taken for wrong.
    pub stray_trials: usize,
}

/// What became of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassReport {
    /// The class.
    pub class: String,
    /// Trials there were.
    pub trials: usize,
    /// Problems with a working config.
    pub problems: usize,
    /// Problems whose trials all failed.
    pub unworkable: Vec<String>,
    /// Buckets that hold a problem.
    pub buckets: usize,
    /// Buckets that got a rule.
    pub rules: usize,
    /// Buckets left to the fallback, since no choice beats it beyond noise.
    pub left_to_fallback: usize,
    /// Buckets without a config that keeps up with the defaults on every problem.
    pub slower_than_default: usize,
    /// Groups that got a fallback.
    pub fallbacks: usize,
    /// Groups without a problem, given the family's best config.
    pub borrowed_fallbacks: Vec<&'static str>,
}

/// Derives the document of a GPU by its short name.
pub fn document(evidence: &Evidence, gpu: &str, defaults: &Defaults) -> Derived {
    document_after(None, evidence, gpu, defaults)
}

/// The same, but what the document before it serves stays where nothing beats it by more than noise.
pub fn document_after(before: Option<&Document>, evidence: &Evidence, gpu: &str, defaults: &Defaults) -> Derived {
    let default_texts = defaults.iter().map(|(family, configs)| {
        let texts = configs.iter().map(|config| config_text(&evidence::template_of(config))).collect();
        (family.name().to_owned(), texts)
    });
    let tables = Table::all(evidence, &default_texts.collect());
    let classes: Vec<ClassResult> = tables.par_iter().map(|table| derive_class(table, before)).collect();

    let mut rules = Vec::new();
    let mut fallbacks = BTreeMap::new();
    let mut reports = Vec::new();
    for class in classes {
        rules.extend(class.rules);
        if !class.fallbacks.is_empty() {
            fallbacks.insert(class.report.class.clone(), class.fallbacks);
        }
        reports.push(class.report);
    }
    let environments = reports.iter().map(|report| {
        let environments = evidence.environments.get(&report.class).cloned().unwrap_or_default();
        (report.class.clone(), environments.into_iter().collect())
    });
    let document = Document {
        schema_version: SCHEMA_VERSION,
        description: format!(
            "Measured config heuristics for {gpu}: one rule for each shape bucket where a config beats the fallback beyond noise, \
             and one fallback for each group of shapes."
        ),
        policy: policy(gpu, &environments.collect()),
        rules,
        fallbacks,
        models: BTreeMap::new(),
        extra: Map::new(),
    };
    Derived { document, classes: reports, unusable_trials: evidence.unusable, stray_trials: evidence.stray }
}

/// What a Blackwell document says of the kernels that nobody here could run.
const UNPROVEN: &str = "tcgen05 configs were written without a GPU to run them on: compiled for sm_100a and checked on a model of the \
     machine; each was compared with the reference before it was timed";

/// The document's `policy`: what was measured with what, and how the choices were made.
fn policy(gpu: &str, environments: &BTreeMap<String, Vec<Environment>>) -> Map<String, Value> {
    let mut policy = Map::from_iter([
        (
            "fallbacks".to_owned(),
            json!(
                "least geomean slowdown over all measured problems of the group; used only where no rule's bucket is equal"
            ),
        ),
        ("fixed_split".to_owned(), json!(FIXED_SPLIT)),
        ("gpu".to_owned(), json!(gpu)),
        ("group_weight".to_owned(), json!(GROUP_WEIGHT)),
        ("matching".to_owned(), json!("exact shape bucket only")),
        ("missing_slowdown".to_owned(), json!(MISSING_SLOWDOWN)),
        ("noise_floor".to_owned(), json!(NOISE_FLOOR)),
        ("target".to_owned(), json!("least geomean slowdown against the best measured config of each problem")),
        (
            "validation".to_owned(),
            json!(
                "a rule is faster than its group's fallback by more than null arms differ, and no slower than its class's best single config and the defaults beyond noise; ratios are rule over baseline"
            ),
        ),
    ]);
    let is_ours = environments.values().any(|environments| !environments.is_empty());
    if is_ours && GpuProfile::by_name(gpu).is_ok_and(|profile| profile.mma.contains(&Mma::Tcgen05)) {
        policy.insert("tcgen05".to_owned(), json!(UNPROVEN));
    }
    merge::set_environments(&mut policy, environments);
    policy
}

struct ClassResult {
    rules: Vec<Rule>,
    fallbacks: BTreeMap<String, Fallback>,
    report: ClassReport,
}

fn derive_class(table: &Table, before: Option<&Document>) -> ClassResult {
    let class = Class::new(table, before.map_or_else(Incumbents::default, |before| Incumbents::of(before, table)));
    let mut report = ClassReport {
        class: table.class.to_owned(),
        trials: table.trials,
        problems: table.rows.len(),
        unworkable: table.unworkable.iter().map(|facts| facts.name.clone()).collect(),
        ..ClassReport::default()
    };
    let Some(best_single) = class.best_single else {
        return ClassResult { rules: Vec::new(), fallbacks: BTreeMap::new(), report };
    };

    let fallbacks: BTreeMap<String, Fallback> = class_groups(table.class)
        .iter()
        .map(|group| ((*group).to_owned(), class.fallback(group, best_single)))
        .collect();
    let covered: BTreeSet<&str> = table.rows.iter().filter_map(|row| row.facts.group).collect();
    report.borrowed_fallbacks =
        class_groups(table.class).iter().copied().filter(|group| !covered.contains(group)).collect();
    report.fallbacks = fallbacks.len();

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
    ClassResult { rules, fallbacks, report }
}

enum Promotion {
    Rule(Box<Rule>),
    LeftToFallback,
    SlowerThanDefault,
}

/// A class's table with the choices every rule is compared with.
struct Class<'t> {
    table: &'t Table<'t>,
    templates: Vec<Template>,
    best_single: Option<usize>,
    /// The choice of each group that holds a problem.
    groups: BTreeMap<&'static str, usize>,
    incumbents: Incumbents,
    /// What each config is taken to be slower.
    handicaps: Vec<f64>,
}

impl<'t> Class<'t> {
    fn new(table: &'t Table<'t>, incumbents: Incumbents) -> Self {
        let all: Vec<&Row> = table.rows.iter().collect();
        let handicaps = handicaps(&table.configs);
        let choice = |rows: &[&Row]| choose(rows, &[], &handicaps, |_| true);
        let groups = class_groups(table.class).iter().filter_map(|group| {
            let rows = rows_of(table, group);
            Some((*group, unless_beaten(&rows, incumbents.of_group(group), choice(&rows)?)))
        });
        Self {
            table,
            templates: table.configs.iter().map(|config| config.template.clone()).collect(),
            best_single: choice(&all),
            groups: groups.collect(),
            incumbents,
            handicaps,
        }
    }

    fn rule(&self, bucket: &Bucket, rows: &[&Row], best_single: usize) -> Promotion {
        let groups: BTreeSet<&str> = rows.iter().filter_map(|row| row.facts.group).collect();
        let others: Vec<&Row> = groups.iter().flat_map(|group| rows_of(self.table, group)).collect();
        let keeps_up = |config: usize| keeps_up_with_defaults(rows, config);
        let Some(mut chosen) = choose(rows, &others, &self.handicaps, keeps_up) else {
            return Promotion::SlowerThanDefault;
        };
        if keeps_up(best_single) && Comparison::over(rows, chosen, |_| Some(best_single)).is_slower() {
            chosen = best_single;
        }
        let incumbent = self.incumbents.of_bucket(bucket).filter(|config| keeps_up(*config));
        let first = unless_beaten(rows, incumbent, chosen);
        // A new rule must beat the fallback; one that is there must be beaten by it.
        let yields = |comparison: &Comparison| {
            if incumbent == Some(first) { comparison.is_slower() } else { !comparison.is_no_tie() }
        };
        let against_single = Comparison::over(rows, first, |_| Some(best_single));
        let has_fallback = rows.iter().any(|row| row.facts.group.is_some());
        let against_fallback =
            has_fallback.then(|| Comparison::over(rows, first, |row| self.groups.get(row.facts.group?).copied()));
        if against_single.is_slower() || against_fallback.as_ref().is_some_and(yields) {
            return Promotion::LeftToFallback;
        }
        let mut compared = self.against_defaults(rows, first);
        compared.insert("best_single".to_owned(), against_single.to_json());
        compared.extend(against_fallback.map(|comparison| ("fallback".to_owned(), comparison.to_json())));
        let mut validation = Map::from_iter([("compared".to_owned(), Value::Object(compared))]);
        validation.insert("ties".to_owned(), self.ties(rows, first));
        validation.extend(cross_validation(rows, &others, &self.handicaps, keeps_up_with_defaults));
        Promotion::Rule(Box::new(Rule {
            kernel_class: self.table.class.to_owned(),
            shape_bucket: bucket.clone(),
            match_exact_only: true,
            source: self.source(rows, first),
            validation,
            templates: complement(rows, first, &self.templates),
            extra: Map::new(),
        }))
    }

    fn fallback(&self, group: &str, best_single: usize) -> Fallback {
        let rows = rows_of(self.table, group);
        let borrowed = !self.groups.contains_key(group);
        let config = self.groups.get(group).copied().unwrap_or(best_single);
        let mut source = self.source(&rows, config);
        let mut validation = Map::new();
        if borrowed {
            source.insert(
                "borrowed".to_owned(),
                json!("no problem of this group was measured: the class's best single config"),
            );
            validation.insert("shape_coverage".to_owned(), json!(0));
        } else {
            let slowdowns = sorted(rows.iter().filter_map(|row| row.slowdown(config)));
            let mut compared = self.against_defaults(&rows, config);
            let against_single = Comparison::over(&rows, config, |_| Some(best_single));
            compared.insert("best_single".to_owned(), against_single.to_json());
            validation = Map::from_iter([
                ("compared".to_owned(), Value::Object(compared)),
                ("exemplar".to_owned(), exemplar(&rows)),
                ("geomean_slowdown".to_owned(), json!(geomean_slowdown(&rows, |_| Some(config)))),
                ("max_slowdown".to_owned(), json!(slowdowns.last())),
                ("p90_slowdown".to_owned(), json!(quantile(&slowdowns, 0.9))),
                ("shape_coverage".to_owned(), json!(slowdowns.len())),
                ("ties".to_owned(), self.ties(&rows, config)),
            ]);
            validation.extend(cross_validation(&rows, &[], &self.handicaps, |_, _| true));
        }
        Fallback { template: self.templates[config].clone(), source, validation, extra: Map::new() }
    }

    /// The configs that nobody can tell from the one served: another sweep may come to any of them.
    fn ties(&self, rows: &[&Row], config: usize) -> Value {
        let repeat_noise = self.table.repeat_noise(rows);
        let ties = ties(rows, config, repeat_noise).into_iter().map(|tie| &self.table.configs[tie].text);
        json!({ "configs": ties.collect::<Vec<_>>(), "repeat_noise": repeat_noise })
    }

    /// The comparison with the default that does best on these problems, if one was measured.
    fn against_defaults(&self, rows: &[&Row], config: usize) -> Map<String, Value> {
        let defaults = &self.table.defaults;
        let best = choose(rows, &[], &self.handicaps, |config| defaults.contains(&config));
        let comparison = best.map(|default| Comparison::over(rows, config, |_| Some(default)).to_json());
        comparison.map(|comparison| ("default".to_owned(), comparison)).into_iter().collect()
    }

    /// The document's `source`: which problems, which trials, and what the served config reached on each.
    fn source(&self, rows: &[&Row], config: usize) -> Map<String, Value> {
        let problems = rows.iter().map(|row| {
            json!({
                "best_us": row.best_us,
                "noise": row.noise,
                "problem": row.facts.name,
                "served_us": row.median_us(config),
            })
        });
        let tried: BTreeSet<usize> = rows.iter().flat_map(|row| row.cells()).map(|cell| cell.config).collect();
        let timed = rows.iter().flat_map(|row| row.cells()).filter(|cell| cell.timing.is_some()).count();
        Map::from_iter([
            ("configs".to_owned(), json!(tried.len())),
            ("kernels".to_owned(), json!(kernels_of(rows, config))),
            ("measurement".to_owned(), json!(self.table.measurement)),
            ("measurements".to_owned(), json!(timed)),
            ("problem_count".to_owned(), json!(rows.len())),
            ("problems".to_owned(), problems.collect()),
        ])
    }
}

fn rows_of<'t>(table: &'t Table<'t>, group: &str) -> Vec<&'t Row<'t>> {
    table.rows.iter().filter(|row| row.facts.group == Some(group)).collect()
}

/// What the winner of the group's median problem, by its best time, would have been worth on the whole group.
fn exemplar(rows: &[&Row]) -> Value {
    let mut ordered = rows.to_vec();
    ordered.sort_by(|first, second| first.best_us.total_cmp(&second.best_us));
    let Some(typical) = ordered.get((ordered.len().saturating_sub(1)) / 2) else { return Value::Null };
    let winner = typical.winner();
    json!({ "geomean_slowdown": geomean_slowdown(rows, |_| winner), "problem": typical.facts.name })
}

/// `leave_one_out`, or the mark that a single problem has none.
fn cross_validation(
    rows: &[&Row],
    others: &[&Row],
    handicaps: &[f64],
    eligible: impl Fn(&[&Row], usize) -> bool,
) -> [(String, Value); 1] {
    [match leave_one_out(rows, others, handicaps, eligible) {
        Some(figures) => ("leave_one_out".to_owned(), figures),
        None => ("single_problem".to_owned(), json!(true)),
    }]
}
