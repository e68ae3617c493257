//! Fitting: trials of a class → a model of its times, which chooses configs for shapes that nobody measured.
//!
//! Boosted trees predict ln(time / floor). What they look at comes from a [`Description`], which knows little more of a
//! kernel than which knob tiles which dimension. The same trials give the same model, byte for byte.

mod boost;
mod folds;

use crate::error::{Error, Result};
use crate::families::Description;
use crate::heuristics::{
    Candidates, CrossValidation, FittedModel, Floor, LEAF_UNIT, MODEL_FORM, MeasuredProblem, Model, ModelConfig,
};
use boost::{Bins, Growth, Tree, boost};
use folds::{Kinship, LeftOut, regrets};
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

/// How models are fitted; the same for every kernel and GPU.
const GROWTH: Growth = Growth { trees: 100, leaves: 31, rate: 0.15, least_weight: 10.0, shrinkage: 1.0 };
/// A trial counts by so high a power of best / time: what matters is to tell the best ones apart.
const NEARNESS_POWER: i32 = 4;
/// What a final counts for, where a screen counts for one.
const FINAL_WEIGHT: f64 = 2.0;
/// A slower trial than so many times the best says nothing that those below it do not.
const SLOWEST: f64 = 8.0;
/// Folds of a division, and divisions.
const FOLDS: usize = 5;
const SEEDS: usize = 3;
/// The fastest configs of a problem that are told.
const WINNERS: usize = 3;
/// Targets are told in steps that no platform's logarithm differs by.
const TARGET_STEP: f64 = 1e-6;

/// Trials laid out for fitting: a row each.
struct Rows {
    bins: Bins,
    target: Vec<f64>,
    weight: Vec<f64>,
    /// Each row's problem.
    problem: Vec<usize>,
    /// Each row's time over the best of its problem.
    slowdown: Vec<f64>,
}

/// Fits a model to trials. Trials that the description cannot tell of are passed over.
///
/// # Errors
/// Where no trial can be told of, or the description's expressions are none.
pub fn fit(description: &Description, trials: &Trials) -> Result<FittedModel> {
    let times = last_times(trials);
    let (mut fitted, model) = unfitted(description, trials, &times)?;
    let candidates = model.candidates(&trials.configs);
    let rows = lay_out(&model, &candidates, trials, &times)?;
    fitted.cross_validation = cross_validate(description, trials, &rows, &model);
    let all: Vec<u32> = (0..rows.target.len() as u32).collect();
    let trees = boost(&rows.bins, &all, &rows.target, &rows.weight, &GROWTH);
    fitted.trees = trees.iter().map(|tree| tree.to_text(&rows.bins)).collect();
    (fitted.configs, fitted.problems) = choose_configs(trials, &times);
    Ok(fitted)
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
fn unfitted(
    description: &Description,
    trials: &Trials,
    times: &BTreeMap<(usize, usize), Time>,
) -> Result<(FittedModel, Model)> {
    let named = trials.configs.iter().flat_map(|config| config.template.keys());
    let knobs: BTreeSet<&String> = description.knobs.iter().chain(named).collect();
    let mut features = description.all_features();
    features.extend(knob_features(&trials.configs));
    let mut seen = BTreeSet::new();
    features.retain(|feature| seen.insert(feature.clone()));
    let mut fitted = FittedModel {
        form: MODEL_FORM.to_owned(),
        dims: description.dims.clone(),
        dtypes: description.dtypes.clone(),
        constants: description.constants.clone(),
        knobs: knobs.into_iter().cloned().collect(),
        config_constants: description.config_constants.clone(),
        definitions: description.all_definitions(),
        features,
        legal: description.legal.clone(),
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
    let best = best_times(times);
    for (problem, best_us) in &best {
        let Problem { dims, dtype, .. } = &trials.problems[*problem];
        let Some(work) = work.work(dims, dtype) else { continue };
        for (rate, work) in rates.iter_mut().zip(work) {
            *rate = rate.max(work as f64 / best_us);
        }
    }
    let launch_us = best.values().copied().fold(f64::INFINITY, f64::min);
    if !launch_us.is_finite() {
        return Err(Error::usage("no trial has a time, so there is nothing to fit"));
    }
    // As a document holds them.
    fitted.floor.launch_us = (launch_us * 1e3).round().max(1.0) / 1e3;
    fitted.floor.bytes_per_us = rates[0].round().max(1.0);
    fitted.floor.flops_per_us = rates[1].round().max(1.0);
    let model = Model::new(fitted.clone())?;
    Ok((fitted, model))
}

/// The knobs as features: numbers, entries of lists, and whether a text is this or that. Those that never change are none.
fn knob_features(configs: &[ModelConfig]) -> Vec<String> {
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for config in configs {
        for (name, value) in &config.template {
            let entries = match value {
                Value::Array(entries) => entries.iter().enumerate().map(|(entry, value)| (format!("{name}[{entry}]"), value)).collect(),
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

fn lay_out(
    model: &Model,
    candidates: &Candidates,
    trials: &Trials,
    times: &BTreeMap<(usize, usize), Time>,
) -> Result<Rows> {
    let best = best_times(times);
    let mut rows =
        Rows { bins: Bins::new(&[]), target: Vec::new(), weight: Vec::new(), problem: Vec::new(), slowdown: Vec::new() };
    let mut columns = vec![Vec::new(); model.fitted().features.len()];
    for time in times.values() {
        let Problem { dims, dtype, .. } = &trials.problems[time.problem];
        let slowdown = time.median_us / best[&time.problem];
        if slowdown > SLOWEST {
            continue;
        }
        let Some((features, floor_us)) = model.features_of(dims, dtype, candidates, time.config) else { continue };
        columns.iter_mut().zip(features).for_each(|(column, feature)| column.push(feature));
        let log = ((time.median_us / floor_us).ln() / TARGET_STEP).round() * TARGET_STEP;
        rows.target.push(log * LEAF_UNIT);
        rows.weight.push(if time.is_final { FINAL_WEIGHT } else { 1.0 } * slowdown.powi(-NEARNESS_POWER));
        rows.problem.push(time.problem);
        rows.slowdown.push(slowdown);
    }
    if rows.target.is_empty() {
        return Err(Error::usage("no trial is of a shape and type that the description knows"));
    }
    rows.bins = Bins::new(&columns);
    Ok(rows)
}

/// Chooses, for each problem, among the configs measured on it, by trees that know none of its kin.
fn cross_validate(description: &Description, trials: &Trials, rows: &Rows, model: &Model) -> CrossValidation {
    let place_of = |name: &String| description.dims.iter().position(|dim| dim == name);
    let sets: Vec<Vec<usize>> = description.kin.iter().map(|set| set.iter().filter_map(place_of).collect()).collect();
    let dims: Vec<Vec<i64>> = trials.problems.iter().map(|problem| problem.dims.clone()).collect();
    let kinship = Kinship::new(&dims, &sets, FOLDS);
    let divisions: Vec<Vec<usize>> = (0..SEEDS).map(|seed| kinship.folds(FOLDS, seed as u64)).collect();
    let runs: Vec<(usize, usize)> = (0..SEEDS).flat_map(|seed| (0..FOLDS).map(move |fold| (seed, fold))).collect();
    let chosen: Vec<Vec<LeftOut>> = runs
        .into_par_iter()
        .map(|(seed, fold)| {
            let is_out = |row: u32| divisions[seed][rows.problem[row as usize]] == fold;
            let (out, kept): (Vec<u32>, Vec<u32>) = (0..rows.target.len() as u32).partition(|row| is_out(*row));
            let trees = boost(&rows.bins, &kept, &rows.target, &rows.weight, &GROWTH);
            choices(&trees, &out, rows)
                .into_iter()
                .map(|(problem, slowdown)| {
                    let Problem { dims, dtype, group } = &trials.problems[problem];
                    LeftOut { group: group.clone(), aligned: model.is_aligned(dims, dtype), slowdown }
                })
                .collect()
        })
        .collect();
    let names = |set: &Vec<usize>| set.iter().map(|dim| description.dims[*dim].as_str()).collect::<Vec<_>>().join(",");
    CrossValidation {
        apart: kinship.by.iter().map(names).collect(),
        folds: FOLDS,
        seeds: SEEDS,
        regret: BTreeMap::from([("model".to_owned(), regrets(&chosen.concat(), SEEDS))]),
    }
}

/// For each problem of these rows, the slowdown of the one that the trees take for the fastest.
fn choices(trees: &[Tree], out: &[u32], rows: &Rows) -> BTreeMap<usize, f64> {
    let mut chosen: BTreeMap<usize, (i64, f64)> = BTreeMap::new();
    for row in out {
        let row = *row as usize;
        let predicted = trees.iter().map(|tree| i64::from(tree.leaf(&rows.bins, row))).sum::<i64>();
        let choice = chosen.entry(rows.problem[row]).or_insert((i64::MAX, f64::INFINITY));
        if predicted < choice.0 {
            *choice = (predicted, rows.slowdown[row]);
        }
    }
    chosen.into_iter().map(|(problem, (_, slowdown))| (problem, slowdown)).collect()
}

/// The configs that a model may choose from, those that win somewhere, and the problems with their winners.
fn choose_configs(
    trials: &Trials,
    times: &BTreeMap<(usize, usize), Time>,
) -> (Vec<ModelConfig>, Vec<MeasuredProblem>) {
    let mut by_problem: BTreeMap<usize, Vec<&Time>> = BTreeMap::new();
    for time in times.values() {
        by_problem.entry(time.problem).or_default().push(time);
    }
    for times in by_problem.values_mut() {
        let any_final = times.iter().any(|time| time.is_final);
        times.retain(|time| time.is_final || !any_final);
        times.sort_by(|one, other| one.median_us.total_cmp(&other.median_us).then(one.config.cmp(&other.config)));
    }
    let winners: BTreeSet<usize> = by_problem.values().filter_map(|times| times.first()).map(|time| time.config).collect();
    let mut chosen: Vec<usize> = winners.into_iter().collect();
    chosen.sort_by_key(|config| text_of(&trials.configs[*config]));
    let place: BTreeMap<usize, usize> = chosen.iter().enumerate().map(|(place, config)| (*config, place)).collect();
    let measured = by_problem.into_iter().map(|(problem, times)| {
        let Problem { dims, dtype, .. } = trials.problems[problem].clone();
        let told = times.iter().filter_map(|time| Some((*place.get(&time.config)?, time.median_us)));
        MeasuredProblem { dims, dtype, winners: told.take(WINNERS).collect() }
    });
    let mut measured: Vec<_> = measured.collect();
    measured.sort_by(|one, other| (&one.dims, &one.dtype).cmp(&(&other.dims, &other.dtype)));
    (chosen.into_iter().map(|config| trials.configs[config].clone()).collect(), measured)
}

fn text_of(config: &ModelConfig) -> String {
    Value::Object(config.template.clone()).to_string()
}
