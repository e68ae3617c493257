//! What the document before holds of a class and was not measured anew: it stays, with its source, as long as it was measured on
//! this device, by this protocol and with today's kernels. So a document never gets poorer by a run that measured less.

use super::derived_class::ClassResult;
use super::evidence::{Environment, problem};
use super::merge::environments_of;
use super::report::ModelReport;
use super::table::Table;
use super::validation::Source;
use crate::heuristics::{Bucket, Document, Fallback, FittedModel, MeasuredProblem, Rule, Template, bucket_of};
use crate::journal::{Stage, Status, Trial};
use crate::model::{Config, Family, Likeness, Shape};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A model takes the place of one fitted to so many more problems at most: what it did not see of theirs, their exact answers,
/// it is given.
const ENOUGH_OF_MODEL: f64 = 0.9;

/// A class of the document before.
#[derive(Clone, Debug, Default)]
pub(super) struct Earlier {
    rules: BTreeMap<Bucket, Rule>,
    fallbacks: BTreeMap<String, Fallback>,
    model: Option<Value>,
    environments: Vec<Environment>,
}

/// A problem that an entry was measured on.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Not only its search told its times.
    has_final: bool,
    /// Where its name tells.
    bucket: Option<Bucket>,
}

impl Earlier {
    /// What a document holds of a class, but for what ran as kernels that are not today's, as `is_today` tells of trials.
    pub(super) fn of(before: &Document, class: &str, is_today: &dyn Fn(&Trial) -> bool) -> Self {
        let mut all_are_today = true;
        let mut is_today = |template: Option<&Template>, source: &Map<String, Value>| {
            let is_today = ran_as_today(class, template, &Source::of_document(source), is_today);
            all_are_today &= is_today;
            is_today
        };
        let mut earlier = Self::default();
        for rule in before.rules.iter().filter(|rule| rule.kernel_class == class) {
            let first = rule.templates.iter().find_map(|ranked| ranked.config());
            if is_today(first, &rule.source) {
                earlier.rules.insert(rule.shape_bucket.clone(), rule.clone());
            }
        }
        for (group, fallback) in before.fallbacks.get(class).into_iter().flatten() {
            if is_today(fallback.config(), &fallback.source) {
                earlier.fallbacks.insert(group.clone(), fallback.clone());
            }
        }
        earlier.model = before.models.get(class).filter(|_| all_are_today).cloned();
        earlier.environments = environments_of(&before.policy).remove(class).unwrap_or_default();
        earlier
    }

    /// What it was measured with.
    pub(super) fn environments(&self) -> &[Environment] {
        &self.environments
    }

    /// Whether its times are of the same thing as those measured with `others`: on this device and by this protocol. Measurements
    /// of other tools say nothing of either, and go by the GPU that the user names.
    pub(super) fn is_like(&self, others: &BTreeSet<Environment>) -> bool {
        let is_like = |one: &Environment, other: &Environment| {
            one.protocol == other.protocol && one.identity().likeness(&other.identity()) != Likeness::Other
        };
        self.environments.is_empty() == others.is_empty()
            && self.environments.iter().all(|one| others.iter().all(|other| is_like(one, other)))
    }

    /// Puts what was not measured anew into what was derived; returns how many entries stay as they were.
    pub(super) fn stay_in(self, derived: &mut ClassResult, table: &Table) -> usize {
        if derived.rules.is_empty() && derived.fallbacks.is_empty() {
            return 0; // nothing takes its place
        }
        let coverage = Coverage::of(&self, table);
        let mut stay = 0;
        let mut new_rules: BTreeMap<Bucket, Rule> =
            derived.rules.drain(..).map(|rule| (rule.shape_bucket.clone(), rule)).collect();
        let renewed_groups: BTreeSet<&String> = self
            .fallbacks
            .iter()
            .filter(|(group, fallback)| coverage.renews_group(fallback, derived.fallbacks.get(*group)))
            .map(|(group, _)| group)
            .collect();
        let staying = self.fallbacks.iter().filter(|(group, _)| !renewed_groups.contains(group));
        let left_to_earlier: BTreeSet<String> = staying.flat_map(|(_, fallback)| names(&fallback.source)).collect();
        new_rules.retain(|bucket, _| coverage.renews_bucket(bucket, self.rules.get(bucket)));
        for (bucket, rule) in &self.rules {
            // A bucket left to a fallback was compared with the new one.
            let is_left_to_new = || names(&rule.source).is_disjoint(&left_to_earlier);
            let is_gone = coverage.renews_bucket(bucket, Some(rule)) && is_left_to_new();
            if !new_rules.contains_key(bucket) && !is_gone {
                new_rules.insert(bucket.clone(), rule.clone());
                stay += 1;
            }
        }
        derived.rules = new_rules.into_values().collect();
        for (group, fallback) in &self.fallbacks {
            if !renewed_groups.contains(group) {
                derived.fallbacks.insert(group.clone(), fallback.clone());
                stay += 1;
            }
        }
        stay += usize::from(self.model_stays_in(derived, &coverage));
        derived.report.rules = derived.rules.len();
        derived.report.fallbacks = derived.fallbacks.len();
        stay
    }

    /// The same of its model; whether that stays.
    fn model_stays_in(&self, derived: &mut ClassResult, coverage: &Coverage) -> bool {
        let Some(Ok(mut earlier)) = self.model.clone().map(serde_json::from_value::<FittedModel>) else { return false };
        let measured = earlier.problems.iter().filter(|problem| coverage.has_measured(&earlier.dims, problem)).count();
        let is_enough = measured as f64 >= ENOUGH_OF_MODEL * earlier.problems.len() as f64;
        match &mut derived.model {
            Some(model) if is_enough => {
                learn_answers(model, &earlier, |problem| !coverage.has_measured(&earlier.dims, problem));
                let ranked = derived.rules.iter().flat_map(|rule| &rule.templates).filter_map(|ranked| ranked.config());
                let fallbacks = derived.fallbacks.values().filter_map(Fallback::config);
                learn_configs(model, &earlier, ranked.chain(fallbacks));
                return false;
            }
            None if is_enough => return false,
            Some(model) => learn_answers(&mut earlier, model, |problem| coverage.has_measured(&model.dims, problem)),
            None => {}
        }
        derived.report.model = Some(ModelReport::of(&earlier));
        derived.report.no_model = None;
        derived.model = Some(earlier);
        true
    }
}

/// Whether what is served of an entry ran as the kernels that it has today, as far as anybody can tell.
fn ran_as_today(class: &str, template: Option<&Template>, source: &Source, is_today: &dyn Fn(&Trial) -> bool) -> bool {
    let config = template.and_then(|template| serde_json::from_value::<Config>(template.clone().into()).ok());
    let Some(config) = config.filter(|_| !source.kernels.is_empty()) else { return true };
    // Where it has no time it may never have run.
    let ran_on = source.problems.iter().filter(|known| known.served_us.is_some());
    ran_on.filter_map(|known| problem(class, &known.problem)).all(|problem| {
        let blank = Trial::untimed(&problem, config.clone(), Stage::Final, Status::Ok);
        source.kernels.iter().any(|kernel| is_today(&Trial { kernel: kernel.clone(), ..blank.clone() }))
    })
}

fn names(source: &Map<String, Value>) -> BTreeSet<String> {
    Source::of_document(source).problems.into_iter().map(|problem| problem.problem).collect()
}

/// Which of the problems that a class was measured on were measured anew.
struct Coverage<'t> {
    /// The problems of the document before.
    known: BTreeMap<String, Known>,
    /// Those measured now, by name and by dimensions and type, and whether they had a final.
    measured: HashMap<&'t str, bool>,
    by_dimensions: HashMap<(Vec<i64>, String), bool>,
    /// Whether any problem of before had one.
    had_finals: bool,
}

impl<'t> Coverage<'t> {
    fn of(earlier: &Earlier, table: &'t Table) -> Self {
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        let sources = earlier.rules.values().map(|rule| &rule.source);
        for source in sources.chain(earlier.fallbacks.values().map(|fallback| &fallback.source)) {
            for of_entry in Source::of_document(source).problems {
                let bucket = || problem(table.class, &of_entry.problem).map(|problem| bucket_of(&problem));
                let entry = known
                    .entry(of_entry.problem.clone())
                    .or_insert_with(|| Known { has_final: false, bucket: bucket() });
                // Anchors are of a final.
                entry.has_final |= !of_entry.anchors.is_empty();
            }
        }
        let rows = table.rows.iter().map(|row| (row.facts, row.had_final()));
        // What failed altogether was measured as well.
        let tried: Vec<_> = rows.chain(table.unworkable.iter().map(|facts| (*facts, true))).collect();
        let by_dimensions = tried.iter().filter_map(|(facts, had_final)| {
            let dimensions = facts.dimensions.iter().map(|extent| *extent as i64).collect();
            Some(((dimensions, facts.problem?.dtype.name().to_owned()), *had_final))
        });
        let had_finals = known.values().any(|problem| problem.has_final);
        Self {
            known,
            measured: tried.iter().map(|(facts, had_final)| (facts.name.as_str(), *had_final)).collect(),
            by_dimensions: by_dimensions.collect(),
            had_finals,
        }
    }

    /// Whether a problem of before was measured anew, and no less.
    fn renews(&self, name: &str) -> bool {
        let had_final = self.known.get(name).is_some_and(|known| known.has_final);
        self.measured.get(name).is_some_and(|has_final| *has_final || !had_final)
    }

    /// Whether all problems of before in a bucket were.
    fn renews_bucket(&self, bucket: &Bucket, rule: Option<&Rule>) -> bool {
        let of_rule = rule.map(|rule| names(&rule.source)).unwrap_or_default();
        let lies_there = |known: &Known| known.bucket.as_ref().is_none_or(|lies_in| lies_in == bucket);
        let in_bucket = self.known.iter().filter(|(name, known)| of_rule.contains(*name) || lies_there(known));
        in_bucket.into_iter().all(|(name, _)| self.renews(name))
    }

    /// Whether all problems of a group were; of one without any, whether all of the class were, or some of the group.
    fn renews_group(&self, fallback: &Fallback, new: Option<&Fallback>) -> bool {
        let Some(new) = new else { return false };
        let problems = names(&fallback.source);
        if problems.is_empty() {
            return !names(&new.source).is_empty() || self.known.keys().all(|name| self.renews(name));
        }
        problems.iter().all(|name| self.renews(name))
    }

    /// Whether a model's problem was.
    fn has_measured(&self, names: &[String], problem: &MeasuredProblem) -> bool {
        let dims = dims_of_model(names, &problem.dims, usize::MAX).unwrap_or_else(|| problem.dims.clone());
        let found = self.by_dimensions.get(&(dims, problem.dtype.clone()));
        found.is_some_and(|has_final| *has_final || !self.had_finals)
    }
}

/// A problem's dimensions in one model's names as a model of so many takes them: with its family's variants, if any, or without,
/// where it has none.
fn dims_of_model(names: &[String], dims: &[i64], count: usize) -> Option<Vec<i64>> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let extents: Vec<u64> = dims.iter().map(|extent| extent.unsigned_abs()).collect();
    let shape = Shape::of(Family::of_dimensions(&names)?, &extents);
    let all: Vec<i64> = shape.extents().iter().take(count).map(|extent| *extent as i64).collect();
    (all.len() == shape.extents().len() || shape.is_plain()).then_some(all)
}

/// Whether configs of one model say the same in another.
fn are_of_one_kind(model: &FittedModel, other: &FittedModel) -> bool {
    model.config_constants == other.config_constants && model.knobs == other.knobs
}

/// Gives a model the configs of another that are served: a config that it does not know counts as one that cannot run.
fn learn_configs<'d>(model: &mut FittedModel, other: &FittedModel, served: impl Iterator<Item = &'d Template>) {
    if !are_of_one_kind(model, other) {
        return;
    }
    for template in served {
        if !model.configs.iter().any(|own| own.template == *template) {
            model.configs.extend(other.configs.iter().find(|config| config.template == *template).cloned());
        }
    }
}

/// Gives a model the exact answers of another for some problems, with the configs that these name.
fn learn_answers(model: &mut FittedModel, other: &FittedModel, is_wanted: impl Fn(&MeasuredProblem) -> bool) {
    // One of them may know variants beside.
    let is_alike = model.dims.starts_with(&other.dims) || other.dims.starts_with(&model.dims);
    if !is_alike || !are_of_one_kind(model, other) {
        return;
    }
    let wanted: Vec<&MeasuredProblem> = other.problems.iter().filter(|problem| is_wanted(problem)).collect();
    if wanted.is_empty() {
        return;
    }
    for problem in wanted {
        let dims = if model.dims == other.dims {
            Some(problem.dims.clone())
        } else {
            dims_of_model(&other.dims, &problem.dims, model.dims.len())
        };
        let Some(dims) = dims else { continue };
        let winners = problem.winners.iter().filter_map(|(config, us)| {
            let config = other.configs.get(*config)?;
            let place = model.configs.iter().position(|own| own.template == config.template);
            let place = place.unwrap_or_else(|| {
                model.configs.push(config.clone());
                model.configs.len() - 1
            });
            Some((place, *us))
        });
        let answer = MeasuredProblem { dims, winners: winners.collect(), ..problem.clone() };
        model.problems.retain(|own| (&own.dims, &own.dtype) != (&answer.dims, &answer.dtype));
        model.problems.push(answer);
    }
    for (dtype, bytes) in &other.dtypes {
        model.dtypes.entry(dtype.clone()).or_insert(*bytes);
    }
    model.problems.sort_by(|one, other| (&one.dtype, &one.dims).cmp(&(&other.dtype, &other.dims)));
}
