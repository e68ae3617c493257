//! One class's choices: what each bucket's rule and each group's fallback serves, and why.

use super::choose::{Bar, choose, complement, geomean_slowdown, keeps_up_with_defaults, leave_one_out, ties};
use super::compare::Comparison;
use super::incumbent::{Incumbents, unless_beaten};
use super::shapes::{Place, Places};
use super::table::{Cell, Row, Table, kernels_of, program_key, repeat_noise, text_key};
use super::validation::{Compared, Exemplar, ProblemSource, Source, Ties, Validation};
use crate::heuristics::{Bucket, Fallback, Rule, Template, class_groups};
use crate::measure::{quantile, sorted};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// Most programs of a problem that a document names for others to compare with: one more would narrow what is told beside them
/// by 1 %.
const MOST_ANCHORS: usize = 6;

/// Whether a bucket gets a rule.
pub(super) enum Promotion {
    /// It does.
    Rule(Box<Rule>),
    /// No choice beats the fallback beyond noise.
    LeftToFallback,
    /// No config keeps up with the defaults on every problem.
    SlowerThanDefault,
}

/// A class's table with the choices every rule is compared with.
pub(super) struct Class<'t> {
    pub(super) table: &'t Table<'t>,
    templates: Vec<Template>,
    pub(super) best_single: Option<usize>,
    /// The choice of each group that holds a problem.
    groups: BTreeMap<&'static str, usize>,
    incumbents: Incumbents,
    /// The shapes that configs are to run on.
    places: Places,
}

impl<'t> Class<'t> {
    pub(super) fn new(table: &'t Table<'t>, places: Places, incumbents: Incumbents) -> Self {
        let all: Vec<&Row> = table.rows.iter().collect();
        let configs = table.configs.len();
        let best_single = choose(&all, &[], configs, Bar::None, |config| places.class.allows(config));
        let templates = table.configs.iter().map(|config| config.template.clone()).collect();
        let mut class = Self { table, templates, best_single, groups: BTreeMap::new(), incumbents, places };
        let groups = class_groups(table.class).iter().filter_map(|group| {
            let rows = rows_of(table, group);
            let chosen = class.choice_of_group(group, &rows)?;
            let incumbent =
                class.incumbents.of_group(group).filter(|config| class.places.groups[group].allows(*config));
            Some((*group, unless_beaten(&rows, incumbent, chosen)))
        });
        class.groups = groups.collect();
        class
    }

    /// How many configs there are to choose from.
    fn configs(&self) -> usize {
        self.table.configs.len()
    }

    /// The config for a group, by the measurements on these problems.
    pub(super) fn choice_of_group(&self, group: &str, rows: &[&Row]) -> Option<usize> {
        let place = self.places.groups.get(group)?;
        choose(rows, &[], self.configs(), Bar::None, |config| place.allows(config))
    }

    /// The config for a bucket, by the measurements on these problems of it and those of its groups.
    pub(super) fn choice_of_bucket(&self, bucket: &Bucket, rows: &[&Row], others: &[&Row]) -> Option<usize> {
        let place = self.places.buckets.get(bucket)?;
        choose(rows, others, self.configs(), Bar::KeepsUpWithDefaults, |config| place.allows(config))
    }

    pub(super) fn rule(&self, bucket: &Bucket, rows: &[&Row], best_single: usize) -> Promotion {
        let groups: BTreeSet<&str> = rows.iter().filter_map(|row| row.facts.group).collect();
        let others: Vec<&Row> = groups.iter().flat_map(|group| rows_of(self.table, group)).collect();
        let place = &self.places.buckets[bucket];
        let keeps_up = |config: usize| may_serve(place, rows, config);
        let Some(mut chosen) = self.choice_of_bucket(bucket, rows, &others) else {
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
        compared.insert("best_single".to_owned(), against_single.to_document());
        compared.extend(against_fallback.map(|comparison| ("fallback".to_owned(), comparison.to_document())));
        let left_out = leave_one_out(rows, &others, |rows, others| self.choice_of_bucket(bucket, rows, others));
        let validation = Validation {
            compared,
            single_problem: left_out.is_none(),
            leave_one_out: left_out,
            refused_on: place.refusing(first).map(ToString::to_string),
            ties: Some(self.ties(rows, first)),
            ..Validation::default()
        };
        Promotion::Rule(Box::new(Rule {
            kernel_class: self.table.class.to_owned(),
            shape_bucket: bucket.clone(),
            match_exact_only: true,
            source: self.source(rows, first, incumbent).to_document(),
            validation: validation.to_document(),
            templates: complement(rows, first, &self.templates, |config| place.allows(config)),
            extra: Map::new(),
        }))
    }

    /// The entry of a group. Of problems in buckets that have a rule it tells no anchors: the rule does.
    pub(super) fn fallback(&self, group: &str, best_single: usize, ruled: &BTreeSet<&Bucket>) -> Fallback {
        let rows = rows_of(self.table, group);
        let place = &self.places.groups[group];
        let borrowed = !self.groups.contains_key(group);
        let single = || {
            let all: Vec<&Row> = self.table.rows.iter().collect();
            self.choice_of_group(group, &all).unwrap_or(best_single)
        };
        let config = self.groups.get(group).copied().unwrap_or_else(single);
        let refused_on = place.refusing(config).map(ToString::to_string);
        let mut source = self.source(&rows, config, self.incumbents.of_group(group));
        for (problem, row) in source.problems.iter_mut().zip(&rows) {
            if ruled.contains(&row.facts.bucket) {
                problem.anchors.clear();
            }
        }
        let validation = if borrowed {
            let why = "no problem of this group was measured: the class's best single config";
            source.borrowed = Some(why.to_owned());
            Validation { refused_on, shape_coverage: Some(0), ..Validation::default() }
        } else {
            let slowdowns = sorted(rows.iter().filter_map(|row| row.slowdown(config)));
            let mut compared = self.against_defaults(&rows, config);
            let against_single = Comparison::over(&rows, config, |_| Some(best_single));
            compared.insert("best_single".to_owned(), against_single.to_document());
            let left_out = leave_one_out(&rows, &[], |rows, _| self.choice_of_group(group, rows));
            Validation {
                compared,
                exemplar: exemplar(&rows),
                geomean_slowdown: geomean_slowdown(&rows, |_| Some(config)),
                single_problem: left_out.is_none(),
                leave_one_out: left_out,
                max_slowdown: slowdowns.last().copied(),
                p90_slowdown: quantile(&slowdowns, 0.9),
                refused_on,
                shape_coverage: Some(slowdowns.len()),
                ties: Some(self.ties(&rows, config)),
            }
        };
        Fallback {
            template: self.templates[config].clone(),
            source: source.to_document(),
            validation: validation.to_document(),
            extra: Map::new(),
        }
    }

    /// The configs that nobody can tell from the one served: another sweep may come to any of them.
    fn ties(&self, rows: &[&Row], config: usize) -> Ties {
        let configs = ties(rows, config).into_iter().map(|tie| text_key(&self.table.configs[tie].text)).collect();
        Ties { configs, repeat_noise: repeat_noise(rows) }
    }

    /// The comparison with the default that does best on these problems, if one was measured.
    fn against_defaults(&self, rows: &[&Row], config: usize) -> BTreeMap<String, Compared> {
        let defaults = &self.table.defaults;
        let best = choose(rows, &[], self.configs(), Bar::None, |config| defaults.contains(&config));
        let comparison = best.map(|default| Comparison::over(rows, config, |_| Some(default)).to_document());
        comparison.map(|comparison| ("default".to_owned(), comparison)).into_iter().collect()
    }

    /// The document's `source`: which problems, which trials, and what the served config reached on each.
    fn source(&self, rows: &[&Row], config: usize, incumbent: Option<usize>) -> Source {
        let problem = |row: &&Row| ProblemSource {
            problem: row.facts.name.clone(),
            served_us: row.time_us(config),
            noise: row.noise_of(config),
            slowdown: row.slowdown(config),
            loaded: row.cell(config).is_some_and(|cell| cell.loaded),
            anchors: self.anchors(row, config, incumbent),
        };
        let tried: BTreeSet<usize> = rows.iter().flat_map(|row| row.cells()).map(|cell| cell.config).collect();
        Source {
            borrowed: None,
            configs: tried.len(),
            kernels: kernels_of(rows, config).into_iter().map(str::to_owned).collect(),
            measurement: self.table.measurement.clone(),
            measurements: rows.iter().flat_map(|row| row.cells()).filter(|cell| cell.works()).count(),
            problems: rows.iter().map(problem).collect(),
        }
    }

    /// Time of the served config over those of the programs that another document is likeliest to have measured too.
    fn anchors(&self, row: &Row, served: usize, incumbent: Option<usize>) -> BTreeMap<String, f64> {
        let mut lasting: Vec<&Cell> = row.lasting().filter_map(|arm| row.cell(arm.config)).collect();
        lasting.sort_by(|one, other| one.ln_slowdown.partial_cmp(&other.ln_slowdown).unwrap_or(Ordering::Equal));
        let mut kinds = BTreeSet::new();
        let kind = |cell: &&&Cell| kinds.insert(self.templates[cell.config].get("mma").and_then(Value::as_str));
        let best_of_kinds: Vec<usize> = lasting.iter().filter(kind).map(|cell| cell.config).collect();
        let first =
            [served].into_iter().chain(self.table.defaults.iter().copied()).chain(incumbent).chain(best_of_kinds);
        let mut chosen: Vec<&Cell> = Vec::new();
        for config in first.chain(lasting.iter().map(|cell| cell.config)) {
            let cell = lasting.iter().find(|cell| cell.config == config);
            if let Some(cell) = cell.filter(|_| chosen.iter().all(|cell| cell.config != config)) {
                chosen.push(cell);
            }
        }
        chosen.truncate(MOST_ANCHORS);
        let Some(served) = row.cell(served) else { return BTreeMap::new() };
        let anchor = |cell: &&Cell| {
            let key = program_key(&self.table.configs[cell.config].text, row.kernel(cell.config)?);
            Some((key, row.compare(served, cell)?.ratio))
        };
        chosen.iter().filter_map(anchor).collect()
    }
}

/// Whether a config runs on all shapes of a bucket and is nowhere measured to be slower than a default.
fn may_serve(place: &Place, rows: &[&Row], config: usize) -> bool {
    place.allows(config) && keeps_up_with_defaults(rows, config)
}

fn rows_of<'t>(table: &'t Table<'t>, group: &str) -> Vec<&'t Row<'t>> {
    table.rows.iter().filter(|row| row.facts.group == Some(group)).collect()
}

/// What the winner of the group's median problem, by its best time, would have been worth on the whole group.
fn exemplar(rows: &[&Row]) -> Option<Exemplar> {
    let mut ordered = rows.to_vec();
    ordered.sort_by(|first, second| first.winner_us.total_cmp(&second.winner_us));
    let typical = ordered.get((ordered.len().saturating_sub(1)) / 2)?;
    let geomean_slowdown = geomean_slowdown(rows, |_| Some(typical.winner));
    Some(Exemplar { geomean_slowdown, problem: typical.facts.name.clone() })
}
