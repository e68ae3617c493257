//! Fitting: trials of a class → a model of its times, which chooses configs for shapes that nobody measured.
//!
//! Boosted trees predict ln(time / floor). What they look at comes from a [`Description`], which knows little more of a
//! kernel than which knob tiles which dimension. The same trials give the same model, byte for byte.

mod boost;
mod folds;

pub use folds::{LeftOut, regrets};

use crate::error::{Error, Result};
use crate::families::Description;
use crate::heuristics::{
    CrossValidation, FittedModel, Floor, LEAF_UNIT, LookedAt, MODEL_FORM, MeasuredProblem, Model, ModelConfig, UNTRIED,
};
use boost::{Bins, Growth, TrainingSet, Tree, boost};
use folds::Kinship;
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What was measured of a class.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    /// The problems.
    pub problems: Vec<Problem>,
    /// The configs that ran, as they ran.
    pub configs: Vec<ModelConfig>,
    /// The times; of several for one problem and config, the last one counts.
    pub times: Vec<Time>,
    /// Places of configs that belong among those to choose from, whatever they merit: a document knows of its model's configs alone
    /// where they may run.
    pub kept: BTreeSet<usize>,
    /// Places of problems of another class, whose kernels are alike: they teach which configs are fast, and are not answered.
    pub borrowed: BTreeSet<usize>,
}

/// A problem that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its dimensions, in the description's order.
    pub dims: Vec<i64>,
    /// Its type.
    pub dtype: String,
    /// Its fallback group.
    pub group: String,
}

/// A time that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Place of the problem.
    pub problem: usize,
    /// Place of the config.
    pub config: usize,
    /// The median, in microseconds.
    pub median_us: f64,
    /// It comes from interleaved rounds among the best, so it counts for more.
    pub is_final: bool,
}

/// How trees that choose are grown; the same for every kernel and GPU. First come some that tell what is slow by far, so that
/// nothing of the kind is chosen where none was tried; then those that tell the fast ones apart.
const COARSE: Growth = Growth { rate: 0.2, ..CHOICE };
const CHOICE: Growth = Growth { trees: 100, leaves: 31, rate: 0.15, least_weight: 30.0, shrinkage: 1.0 };
/// How trees are grown that tell a problem's level: of problems there are few.
const LEVEL: Growth = Growth { trees: 50, leaves: 8, rate: 0.15, least_weight: 5.0, shrinkage: 1.0 };
/// A trial counts by so high a power of best / time: what matters is to tell the best ones apart.
const NEARNESS_POWER: i32 = 8;
/// The same for coarse trees, and the least that a trial counts for there.
const COARSE_POWER: i32 = 3;
const COARSE_LEAST: f64 = 0.02;
/// The constant by which trees tell borrowed problems apart: 1 for these, 0 wherever a model answers.
const BORROWED: &str = "borrowed";
/// What a final counts for, where a screen counts for one.
const FINAL_WEIGHT: f64 = 2.0;
/// A slower trial than so many times the best counts as no slower than that.
const SLOWEST: f64 = 16.0;
/// Folds of a division, and divisions.
const FOLDS: usize = 5;
const SEEDS: usize = 2;
/// A config this near to a problem's best is a good choice there.
const NEAR: f64 = 1.02;
/// Configs of a model, but for winners: as many as a lookup has time for.
const MOST_CONFIGS: usize = 400;
/// The fastest configs of a problem that are told.
const WINNERS: usize = 3;
/// Targets are told in steps that no platform's logarithm differs by.
const TARGET_STEP: f64 = 1e-6;

/// Trials laid out for fitting: a row each.
struct Rows {
    bins: Bins,
    target: Vec<f64>,
    weight: Vec<f64>,
    /// What each row counts for when coarse trees are grown.
    coarse_weight: Vec<f64>,
    /// Each row's problem.
    problem: Vec<usize>,
    /// Each row's time over the best of its problem.
    slowdown: Vec<f64>,
    /// Whether each row's config is one that is tried on such problems.
    is_tried: Vec<bool>,
}

impl Rows {
    /// What trees that choose are to learn: how the times of a problem's configs differ.
    fn training_set<'a>(&'a self, rows: &'a [u32]) -> TrainingSet<'a> {
        TrainingSet { bins: &self.bins, rows, target: &self.target, weight: &self.weight, within: Some(&self.problem) }
    }

    /// Trees that choose, grown on these rows.
    fn grow_choice(&self, rows: &[u32]) -> Vec<Tree> {
        let training_set = self.training_set(rows);
        let mut trees = boost(&TrainingSet { weight: &self.coarse_weight, ..training_set }, &COARSE);
        let left = |(row, target): (usize, &f64)| target - self.predicted(&trees, row) as f64;
        let target: Vec<f64> = self.target.iter().enumerate().map(left).collect();
        trees.extend(boost(&TrainingSet { target: &target, ..training_set }, &CHOICE));
        trees
    }

    /// What trees come to for a row.
    fn predicted(&self, trees: &[Tree], row: usize) -> i64 {
        trees.iter().map(|tree| i64::from(tree.leaf(&self.bins, row))).sum()
    }
}

/// Fits a model to trials, and tells how such models do on problems left out. Trials that the description cannot tell of are
/// passed over.
///
/// # Errors
/// Where no trial can be told of, or the description's expressions are none.
pub fn fit(description: &Description, trials: &Trials) -> Result<FittedModel> {
    let prepared = Prepared::new(description, trials)?;
    let cross_validation = prepared.cross_validate(description);
    Ok(FittedModel { cross_validation, ..prepared.train() })
}

/// The same without leaving problems out, a tenth of the work: for a search that goes on.
///
/// # Errors
/// As [`fit`].
pub fn train(description: &Description, trials: &Trials) -> Result<FittedModel> {
    Ok(Prepared::new(description, trials)?.train())
}

/// All that is made of trials before a tree is grown.
struct Prepared<'a> {
    trials: &'a Trials,
    times: BTreeMap<(usize, usize), Time>,
    /// It has all but its trees.
    model: Model,
    rows: Rows,
}

impl<'a> Prepared<'a> {
    fn new(description: &Description, trials: &'a Trials) -> Result<Self> {
        let times = last_times(trials);
        let model = unfitted(description, trials, &times)?;
        let rows = lay_out(&model, trials, &times)?;
        Ok(Self { trials, times, model, rows })
    }

    fn train(&self) -> FittedModel {
        let mut fitted = self.model.fitted().clone();
        let all: Vec<u32> = (0..self.rows.target.len() as u32).collect();
        let choice = self.rows.grow_choice(&all);
        fitted.trees = choice.iter().map(|tree| tree.to_text(&self.rows.bins)).collect();
        fitted.trees.extend(self.level(&choice));
        (fitted.configs, fitted.problems) = choose_configs(self.trials, &self.times);
        fitted
    }

    /// Trees for what the choice's leave of each problem as a whole: they look at nothing that differs between configs, so
    /// they tell how long the choice takes, not which it is.
    fn level(&self, choice: &[Tree]) -> Vec<String> {
        let rows = &self.rows;
        let mut left: BTreeMap<usize, (u32, f64, f64)> = BTreeMap::new();
        for row in (0..rows.target.len()).filter(|row| !self.trials.borrowed.contains(&rows.problem[*row])) {
            let predicted = rows.predicted(choice, row);
            let (_, total, weight) = left.entry(rows.problem[row]).or_insert((row as u32, 0.0, 0.0));
            *total += rows.weight[row] * (rows.target[row] - predicted as f64);
            *weight += rows.weight[row];
        }
        let firsts: Vec<u32> = left.values().map(|(row, ..)| *row).collect();
        let target: Vec<f64> = left.values().map(|(_, total, weight)| total / weight).collect();
        let weight = vec![1.0; target.len()];
        let bins = rows.bins.of_rows(&firsts, &self.model.problem_features());
        let all: Vec<u32> = (0..target.len() as u32).collect();
        let training_set = TrainingSet { bins: &bins, rows: &all, target: &target, weight: &weight, within: None };
        boost(&training_set, &LEVEL).iter().map(|tree| tree.to_text(&bins)).collect()
    }

    /// Chooses, for each problem, among the configs measured on it, by trees that know none of its kin.
    fn cross_validate(&self, description: &Description) -> CrossValidation {
        let (rows, trials) = (&self.rows, self.trials);
        let Divisions { apart, folds } = divisions(description, &trials.problems);
        let runs: Vec<(usize, usize)> = (0..SEEDS).flat_map(|seed| (0..FOLDS).map(move |fold| (seed, fold))).collect();
        let chosen: Vec<Vec<LeftOut>> = runs
            .into_par_iter()
            .map(|(seed, fold)| {
                let is_out = |row: &u32| folds[seed][rows.problem[*row as usize]] == fold;
                let (out, kept): (Vec<u32>, Vec<u32>) = (0..rows.target.len() as u32).partition(is_out);
                let trees = rows.grow_choice(&kept);
                let choices = choices(&trees, &out, rows).into_iter();
                choices
                    .filter(|(problem, _)| !trials.borrowed.contains(problem))
                    .map(|(problem, slowdown)| {
                        let Problem { dims, dtype, group } = &trials.problems[problem];
                        let aligned = self.model.is_aligned(dims, dtype);
                        LeftOut { group: group.clone(), aligned, slowdown: Some(slowdown) }
                    })
                    .collect()
            })
            .collect();
        CrossValidation {
            apart,
            folds: FOLDS,
            seeds: SEEDS,
            regret: BTreeMap::from([("model".to_owned(), regrets(&chosen.concat(), SEEDS))]),
        }
    }
}

/// How problems are left out to judge a model, or whatever is to be compared with it.
#[derive(Clone, Debug)]
pub struct Divisions {
    /// The sets of dimensions that no two folds have a problem each of alike.
    pub apart: Vec<String>,
    /// By division: each problem's fold.
    pub folds: Vec<Vec<usize>>,
}

impl Divisions {
    /// Every fold of every division, each with its division: what is left out in turn.
    pub fn parts(&self) -> Vec<(&[usize], usize)> {
        let of_division = |folds: &'_ Vec<usize>| folds.iter().copied().collect::<BTreeSet<usize>>();
        self.folds.iter().flat_map(|folds| of_division(folds).into_iter().map(|fold| (&**folds, fold))).collect()
    }
}

/// The divisions of these problems that [`fit`] leaves folds out of.
pub fn divisions(description: &Description, problems: &[Problem]) -> Divisions {
    let place_of = |name: &String| description.dims.iter().position(|dim| dim == name);
    let sets: Vec<Vec<usize>> = description.kin.iter().map(|set| set.iter().filter_map(place_of).collect()).collect();
    let dims: Vec<Vec<i64>> = problems.iter().map(|problem| problem.dims.clone()).collect();
    let kinship = Kinship::new(&dims, &sets, FOLDS);
    let names = |set: &Vec<usize>| set.iter().map(|dim| description.dims[*dim].as_str()).collect::<Vec<_>>().join(",");
    Divisions {
        apart: kinship.by.iter().map(names).collect(),
        folds: (0..SEEDS as u64).map(|seed| kinship.folds(FOLDS, seed)).collect(),
    }
}

/// The time of each problem and config.
fn last_times(trials: &Trials) -> BTreeMap<(usize, usize), Time> {
    let usable = trials.times.iter().filter(|time| time.median_us.is_finite() && time.median_us > 0.0);
    usable.map(|time| ((time.problem, time.config), *time)).collect()
}

/// The best time of each problem that has any.
fn best_times(times: &BTreeMap<(usize, usize), Time>) -> BTreeMap<usize, f64> {
    let mut best = BTreeMap::new();
    for time in times.values() {
        let least = best.entry(time.problem).or_insert(time.median_us);
        *least = f64::min(*least, time.median_us);
    }
    best
}

/// A model that has all but its trees.
fn unfitted(description: &Description, trials: &Trials, times: &BTreeMap<(usize, usize), Time>) -> Result<Model> {
    let named = trials.configs.iter().flat_map(|config| config.template.keys());
    let knobs: BTreeSet<&String> = description.knobs.iter().chain(named).collect();
    let mut features = description.all_features();
    features.extend(knob_features(&trials.configs));
    let mut constants = description.constants.clone();
    if !trials.borrowed.is_empty() {
        constants.insert(BORROWED.to_owned(), 0);
        features.push(BORROWED.to_owned());
    }
    let mut seen = BTreeSet::new();
    features.retain(|feature| seen.insert(feature.clone()));
    let mut fitted = FittedModel {
        form: MODEL_FORM.to_owned(),
        dims: description.dims.clone(),
        dtypes: description.dtypes.clone(),
        constants,
        knobs: knobs.into_iter().cloned().collect(),
        config_constants: description.config_constants.clone(),
        definitions: description.all_definitions(),
        features,
        legal: description.legal.clone(),
        tried: description.tried.clone(),
        aligned: description.aligned(),
        floor: Floor {
            bytes: description.bytes.clone(),
            flops: description.flops.clone(),
            launch_us: 1.0,
            bytes_per_us: 1.0,
            flops_per_us: 1.0,
        },
        ..FittedModel::default()
    };
    let work = Model::new(fitted.clone())?;
    let mut rates = [0f64; 2];
    let mut best = best_times(times);
    best.retain(|problem, _| !trials.borrowed.contains(problem));
    for (problem, best_us) in &best {
        let Problem { dims, dtype, .. } = &trials.problems[*problem];
        let Some(work) = work.work(dims, dtype) else { continue };
        for (rate, work) in rates.iter_mut().zip(work) {
            *rate = rate.max(work as f64 / best_us);
        }
    }
    let launch_us = best.values().copied().fold(f64::INFINITY, f64::min);
    if !launch_us.is_finite() {
        return Err(Error::failure("no trial has a time, so there is nothing to fit"));
    }
    // As a document holds them.
    fitted.floor.launch_us = (launch_us * 1e3).round().max(1.0) / 1e3;
    fitted.floor.bytes_per_us = rates[0].round().max(1.0);
    fitted.floor.flops_per_us = rates[1].round().max(1.0);
    Model::new(fitted)
}

/// The knobs as features: numbers, entries of lists, and whether a text is this or that. Those that never change are none.
fn knob_features(configs: &[ModelConfig]) -> Vec<String> {
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for config in configs {
        for (name, value) in &config.template {
            let entries = match value {
                Value::Array(entries) => {
                    entries.iter().enumerate().map(|(entry, value)| (format!("{name}[{entry}]"), value)).collect()
                }
                other => vec![(name.clone(), other)],
            };
            for (knob, value) in entries {
                let feature = match value {
                    Value::String(text) => format!("given({knob}) && {knob} == \"{text}\""),
                    _ => knob,
                };
                values.entry(feature).or_default().insert(value.to_string());
            }
        }
    }
    // A knob that is always there may still be missing somewhere.
    let is_worth = |feature: &String, values: &BTreeSet<String>| {
        let is_text = feature.starts_with("given(");
        values.len() > 1 || is_text || configs.iter().any(|config| !has_knob(config, feature))
    };
    values.into_iter().filter(|(feature, values)| is_worth(feature, values)).map(|(feature, _)| feature).collect()
}

fn has_knob(config: &ModelConfig, knob: &str) -> bool {
    config.template.contains_key(knob.split('[').next().unwrap_or(knob))
}

fn lay_out(model: &Model, trials: &Trials, times: &BTreeMap<(usize, usize), Time>) -> Result<Rows> {
    let candidates = model.candidates(&trials.configs);
    let best = best_times(times);
    let mut rows = Rows {
        bins: Bins::new(&[]),
        target: Vec::new(),
        weight: Vec::new(),
        coarse_weight: Vec::new(),
        problem: Vec::new(),
        slowdown: Vec::new(),
        is_tried: Vec::new(),
    };
    let mut columns = vec![Vec::new(); model.fitted().features.len()];
    let borrowed = model.fitted().features.iter().position(|feature| feature == BORROWED);
    for time in times.values() {
        let Problem { dims, dtype, .. } = &trials.problems[time.problem];
        let best_us = best[&time.problem];
        let slowdown = time.median_us / best_us;
        let counted_us = time.median_us.min(SLOWEST * best_us);
        let Some(looked_at) = model.looked_at(dims, dtype, &candidates, time.config) else { continue };
        let LookedAt { mut features, floor_us, is_tried } = looked_at;
        if let Some(borrowed) = borrowed.filter(|_| trials.borrowed.contains(&time.problem)) {
            features[borrowed] = 1;
        }
        columns.iter_mut().zip(features).for_each(|(column, feature)| column.push(feature));
        let log = ((counted_us / floor_us).ln() / TARGET_STEP).round() * TARGET_STEP;
        rows.target.push(log * LEAF_UNIT);
        rows.weight.push(if time.is_final { FINAL_WEIGHT } else { 1.0 } * slowdown.powi(-NEARNESS_POWER));
        rows.coarse_weight.push(slowdown.powi(-COARSE_POWER).max(COARSE_LEAST));
        rows.problem.push(time.problem);
        rows.slowdown.push(slowdown);
        rows.is_tried.push(is_tried);
    }
    if rows.target.is_empty() {
        return Err(Error::failure("no trial is of a shape and type that the description knows"));
    }
    rows.bins = Bins::new(&columns);
    Ok(rows)
}

/// For each problem of these rows, the slowdown of the one that a model with these trees would choose.
fn choices(trees: &[Tree], out: &[u32], rows: &Rows) -> BTreeMap<usize, f64> {
    let handicap = (UNTRIED.ln() * LEAF_UNIT) as i64;
    let mut chosen: BTreeMap<usize, (i64, f64)> = BTreeMap::new();
    for row in out {
        let row = *row as usize;
        let promise = rows.predicted(trees, row) + if rows.is_tried[row] { 0 } else { handicap };
        let choice = chosen.entry(rows.problem[row]).or_insert((i64::MAX, f64::INFINITY));
        if promise < choice.0 {
            *choice = (promise, rows.slowdown[row]);
        }
    }
    chosen.into_iter().map(|(problem, (_, slowdown))| (problem, slowdown)).collect()
}

/// The configs that a model may choose from, and the problems with their winners. Every winner is there, and what is to be kept;
/// then come those that are near the best of the most problems.
fn choose_configs(trials: &Trials, times: &BTreeMap<(usize, usize), Time>) -> (Vec<ModelConfig>, Vec<MeasuredProblem>) {
    let mut by_problem: BTreeMap<usize, Vec<&Time>> = BTreeMap::new();
    for time in times.values().filter(|time| !trials.borrowed.contains(&time.problem)) {
        by_problem.entry(time.problem).or_default().push(time);
    }
    // By config: the problems it wins, and those that it is near the best of.
    let mut merits: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for times in by_problem.values_mut() {
        // Others were timed too shortly to be told to have won.
        let any_final = times.iter().any(|time| time.is_final);
        times.retain(|time| time.is_final || !any_final);
        times.sort_by(|one, other| one.median_us.total_cmp(&other.median_us).then(one.config.cmp(&other.config)));
        let best_us = times.first().map_or(0.0, |time| time.median_us);
        for (place, time) in times.iter().enumerate().take_while(|(_, time)| time.median_us <= best_us * NEAR) {
            let (wins, near) = merits.entry(time.config).or_default();
            *wins += usize::from(place == 0);
            *near += 1;
        }
    }
    for config in &trials.kept {
        merits.entry(*config).or_default();
    }
    // By config: whether it has to be there, the problems that it is near the best of, and its text.
    let mut ranked: Vec<(usize, (bool, usize), String)> = merits
        .into_iter()
        .map(|(config, (wins, near))| {
            (config, (wins > 0 || trials.kept.contains(&config), near), text_of(&trials.configs[config]))
        })
        .collect();
    ranked.sort_by(|(_, one, one_text), (_, other, other_text)| other.cmp(one).then(one_text.cmp(other_text)));
    let needed = ranked.iter().filter(|(_, (needed, _), _)| *needed).count();
    ranked.truncate(needed.max(MOST_CONFIGS));
    ranked.sort_by(|(.., one), (.., other)| one.cmp(other));
    let place: BTreeMap<usize, usize> =
        ranked.iter().enumerate().map(|(place, (config, ..))| (*config, place)).collect();
    let measured = by_problem.into_iter().map(|(problem, times)| {
        let Problem { dims, dtype, .. } = trials.problems[problem].clone();
        let told = times.iter().filter_map(|time| Some((*place.get(&time.config)?, time.median_us)));
        MeasuredProblem { dims, dtype, winners: told.take(WINNERS).collect() }
    });
    let mut measured: Vec<_> = measured.collect();
    measured.sort_by(|one, other| (&one.dtype, &one.dims).cmp(&(&other.dtype, &other.dims)));
    (ranked.into_iter().map(|(config, ..)| trials.configs[config].clone()).collect(), measured)
}

fn text_of(config: &ModelConfig) -> String {
    Value::Object(config.template.clone()).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)] // sums of whole numbers are equal to the bit
mod tests {
    use super::*;
    use serde_json::json;

    fn description() -> Description {
        let text = r#"{
            "dims": ["m", "n"], "dtypes": {"bf16": 2}, "constants": {"multiprocessors": 8},
            "knobs": ["block_sizes", "pid_type"],
            "bytes": "m * n * dtype_bytes", "flops": "m * n", "rows": {"x": "n * dtype_bytes"},
            "tiles": {"m": "block_sizes[0]", "n": "block_sizes[1]"},
            "legal": ["block_sizes[0] <= 16 || m > 16"],
            "kin": [["n"]]
        }"#;
        serde_json::from_str(text).unwrap()
    }

    /// What it takes on a GPU of 8 multiprocessors that is faster with large tiles, and one order that costs a tenth more where
    /// rows are not aligned.
    fn time_us(dims: &[i64], template: &Value) -> f64 {
        let extent = |index: usize| template["block_sizes"][index].as_i64().unwrap();
        let [tile_m, tile_n] = [extent(0), extent(1)];
        let rounds = (((dims[0] + tile_m - 1) / tile_m) * ((dims[1] + tile_n - 1) / tile_n) + 7) / 8;
        let order = if template["pid_type"] == "flat" && dims[1] % 8 != 0 { 1.1 } else { 1.0 };
        3.0 + rounds as f64 * (0.5 + (tile_m * tile_n) as f64 / 1000.0) * order
    }

    fn problem(dims: [i64; 2]) -> Problem {
        let group = if dims[0] <= 64 { "small_m" } else { "rect" };
        Problem { dims: dims.to_vec(), dtype: "bf16".to_owned(), group: group.to_owned() }
    }

    fn trials() -> Trials {
        let mut trials = Trials::default();
        for tile_m in [16, 32, 64, 128] {
            for tile_n in [32, 64, 128] {
                for order in ["flat", "persistent"] {
                    let template = json!({"block_sizes": [tile_m, tile_n], "pid_type": order});
                    let template = template.as_object().cloned().unwrap();
                    trials.configs.push(ModelConfig { template, ..ModelConfig::default() });
                }
            }
        }
        for m in [4, 10, 30, 64, 100, 200, 500, 1000, 3000] {
            for n in [60, 64, 100, 128, 250, 256, 500, 512, 1000, 1024, 2000, 2048, 3001, 4096] {
                trials.problems.push(problem([m, n]));
            }
        }
        for (place, problem) in trials.problems.iter().enumerate() {
            for (config, ModelConfig { template, .. }) in trials.configs.iter().enumerate() {
                let median_us = time_us(&problem.dims, &Value::Object(template.clone()));
                // Finals are of the few.
                trials.times.push(Time { problem: place, config, median_us, is_final: (place + config) % 5 == 0 });
            }
        }
        trials
    }

    #[test]
    fn a_model_chooses_well_for_shapes_it_was_not_fitted_to() {
        let trials = trials();
        let fitted = fit(&description(), &trials).unwrap();
        let all = fitted.cross_validation.regret("model", None, true).unwrap().clone();
        assert!(all.geomean < 1.03 && all.p90 < 1.1, "{all:?}");
        assert_eq!(fitted.cross_validation.apart, ["n"]);
        let model = Model::new(fitted).unwrap();
        let mut slowdowns = Vec::new();
        for dims in [[20, 777], [72, 900], [72, 901], [300, 3000], [640, 640], [1500, 1200], [1501, 1201], [2200, 130]]
        {
            let choice = model.best(&dims, "bf16", 1)[0];
            let time_of = |config: &ModelConfig| time_us(&dims, &Value::Object(config.template.clone()));
            let best = trials.configs.iter().map(time_of).fold(f64::INFINITY, f64::min);
            let chosen = time_of(&model.configs()[choice.config]);
            slowdowns.push(chosen / best);
            assert!((choice.predicted_us / chosen).ln().abs() < 0.5, "{dims:?}: {choice:?}, really {chosen}");
        }
        let geomean = (slowdowns.iter().map(|slowdown| slowdown.ln()).sum::<f64>() / slowdowns.len() as f64).exp();
        assert!(geomean < 1.08, "{slowdowns:?}");
    }

    #[test]
    fn the_same_trials_give_the_same_model_whatever_the_threads() {
        let trials = trials();
        let fitted_by = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| serde_json::to_string(&fit(&description(), &trials).unwrap()).unwrap())
        };
        let one = fitted_by(1);
        assert_eq!(fitted_by(3), one);
        let read: FittedModel = serde_json::from_str(&one).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), one);
    }

    #[test]
    fn what_is_written_down_predicts_as_what_was_grown() {
        let trials = trials();
        let prepared = Prepared::new(&description(), &trials).unwrap();
        let all: Vec<u32> = (0..prepared.rows.target.len() as u32).collect();
        let trees = boost(&prepared.rows.training_set(&all), &Growth { trees: 20, ..CHOICE });
        let mut fitted = prepared.model.fitted().clone();
        fitted.trees = trees.iter().map(|tree| tree.to_text(&prepared.rows.bins)).collect();
        fitted.legal.clear();
        let model = Model::new(fitted).unwrap();
        let candidates = model.candidates(&trials.configs);
        let mut row = 0;
        for (place, Problem { dims, .. }) in trials.problems.iter().enumerate() {
            let ranked = model.rank(dims, "bf16", &candidates, usize::MAX);
            let floor_us = model.floor_us(dims, "bf16").unwrap();
            while row < prepared.rows.problem.len() && prepared.rows.problem[row] == place {
                let config = prepared.times.keys().nth(row).unwrap().1;
                let sum: i64 = trees.iter().map(|tree| i64::from(tree.leaf(&prepared.rows.bins, row))).sum();
                let choice = ranked.iter().find(|choice| choice.config == config).unwrap();
                assert_eq!(choice.predicted_us, floor_us * (sum as f64 / LEAF_UNIT).exp(), "{dims:?}");
                row += 1;
            }
        }
        assert_eq!(row, prepared.rows.target.len());
    }

    #[test]
    fn winners_are_the_configs_to_choose_from_and_illegal_ones_are_never_chosen() {
        let trials = trials();
        let model = Model::new(train(&description(), &trials).unwrap()).unwrap();
        assert!(model.configs().len() <= trials.configs.len());
        assert_eq!(model.fitted().problems.len(), trials.problems.len());
        for measured in &model.fitted().problems {
            let told = &measured.winners;
            let place = trials.problems.iter().position(|problem| problem.dims == measured.dims).unwrap();
            let finals = trials.times.iter().filter(|time| time.problem == place && time.is_final);
            assert_eq!(told[0].1, finals.map(|time| time.median_us).fold(f64::INFINITY, f64::min), "{measured:?}");
            assert!(!told.is_empty() && told.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{measured:?}");
            assert_eq!(model.measured(&measured.dims, "bf16"), Some(told.as_slice()));
        }
        for m in [1, 7, 16, 17, 3000] {
            for choice in model.best(&[m, 512], "bf16", usize::MAX) {
                let rows = model.configs()[choice.config].template["block_sizes"][0].as_i64().unwrap();
                assert!(rows <= 16 || m > 16, "{m} rows in a tile of {rows}");
            }
        }
    }

    /// A class that measured little chooses better with the help of one that is like it, and answers for its own alone.
    #[test]
    fn what_is_borrowed_teaches_and_is_not_answered() {
        let lent = trials();
        let few =
            Trials { problems: lent.problems.iter().step_by(12).cloned().collect(), times: Vec::new(), ..lent.clone() };
        let mut own = few.clone();
        for (place, problem) in few.problems.iter().enumerate() {
            for (config, ModelConfig { template, .. }) in few.configs.iter().enumerate() {
                // Its kernels take twice as long, whatever the config.
                let median_us = 2.0 * time_us(&problem.dims, &Value::Object(template.clone()));
                own.times.push(Time { problem: place, config, median_us, is_final: true });
            }
        }
        let mut helped = own.clone();
        for time in &lent.times {
            helped.times.push(Time { problem: time.problem + own.problems.len(), ..*time });
        }
        helped.problems.extend(lent.problems.clone());
        helped.borrowed = (own.problems.len()..helped.problems.len()).collect();
        let regret = |trials: &Trials| {
            let fitted = fit(&description(), trials).unwrap();
            let all = fitted.cross_validation.regret("model", None, true).unwrap().clone();
            let model = Model::new(fitted).unwrap();
            assert_eq!(model.fitted().problems.len(), own.problems.len());
            let predicted = model.best(&[100, 1024], "bf16", 1)[0].predicted_us;
            let ModelConfig { template, .. } = &model.configs()[model.best(&[100, 1024], "bf16", 1)[0].config];
            let really = 2.0 * time_us(&[100, 1024], &Value::Object(template.clone()));
            assert!((predicted / really).ln().abs() < 0.5, "{predicted} of {really}");
            all
        };
        let (alone, helped) = (regret(&own), regret(&helped));
        assert_eq!(alone.problems, helped.problems);
        assert!(helped.geomean < alone.geomean - 0.01, "{helped:?} with help, {alone:?} without");
    }

    #[test]
    fn trials_that_tell_nothing_are_refused() {
        let mut trials = trials();
        trials.problems.iter_mut().for_each(|problem| problem.dtype = "f16".to_owned());
        assert!(
            fit(&description(), &trials).unwrap_err().to_string().contains("shape and type that the description knows")
        );
        trials.times.clear();
        assert!(train(&description(), &trials).unwrap_err().to_string().contains("nothing to fit"));
        let broken = Description { bytes: "m *".to_owned(), ..description() };
        assert!(
            train(&broken, &self::trials())
                .unwrap_err()
                .to_string()
                .contains("floor.bytes: expression 'm *', column 4")
        );
    }
}
