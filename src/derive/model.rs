//! A class's fitted model: made of all its trials, and judged beside its rules and fallbacks on problems left out of all three.

use super::class::Class;
use super::shapes::Known;
use super::table::{Row, Table};
use crate::error::{Error, Result};
use crate::families::{Description, Legality};
use crate::fit::{self, LeftOut, Problem, Time, Trials};
use crate::heuristics::{FittedModel, Model, Template};
use crate::model::Config;
use crate::plan::Plan;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Where configs that the family does not take, as of another version, win a greater share of the problems than this, what is
/// left is not what a choice should be made of.
const MOST_UNKNOWN: f64 = 0.25;

/// Fits a class's model, to its own trials and those of a `sister` class. What rules and fallbacks `served` is among its configs.
///
/// # Errors
/// Where there is nothing to fit it to: no trial of a config that the family knows.
pub(super) fn fit(
    class: &Class,
    known: Option<&Known>,
    sister: Option<(&Table, &Known)>,
    served: &[&Template],
) -> Result<FittedModel> {
    let known = known.ok_or_else(|| Error::failure("models are of families that ship, on a GPU"))?;
    let configs = known.configs.iter().chain(sister.iter().flat_map(|(_, sister)| &sister.configs));
    let rows: Vec<&Row> = class.table.rows.iter().collect();
    let is_plain = |row: &&Row| row.facts.problem.is_none_or(|problem| problem.shape.is_plain());
    let legality = Legality::new(known.family, known.profile, !rows.iter().all(is_plain), configs.flatten());
    // Of a family whose plan is not here, nothing is known of what is tried.
    let plan = Plan::load(known.family, None).ok();
    let mut description = legality.description(plan.iter().flat_map(|plan| plan.untried(known.profile)));
    // Of a type that nothing was measured in there is nothing to tell.
    let is_measured = |name: &String| {
        let of_row = |row: &&Row| row.facts.problem.is_none_or(|problem| problem.dtype.name() == name);
        rows.iter().any(of_row)
    };
    description.dtypes.retain(|name, _| is_measured(name));
    let mut trials = Trials::default();
    let mut places = BTreeMap::new();
    add(&mut trials, &mut places, &rows, known, (&legality, &description))?;
    if let Some((table, sister)) = sister {
        let theirs: Vec<&Row> = table.rows.iter().collect();
        add(&mut trials, &mut places, &theirs, sister, (&legality, &description))?;
        trials.borrowed = (rows.len()..trials.problems.len()).collect();
    }
    trials.kept =
        (0..trials.configs.len()).filter(|place| served.contains(&&trials.configs[*place].template)).collect();
    let is_known =
        |row: &&Row| row.facts.problem.is_some_and(|problem| known.is_legal(row.winner, &problem) == Some(true));
    let unknown = rows.iter().filter(|row| !is_known(row)).count();
    if unknown as f64 > MOST_UNKNOWN * rows.len() as f64 {
        return Err(Error::failure(format!(
            "configs that this version does not take won {unknown} of {} problems: measure them again",
            rows.len()
        )));
    }
    let mut fitted = fit::fit(&description, &trials)?;
    let model = Model::new(fitted.clone())?;
    let divisions = fit::divisions(&description, &trials.problems);
    let left_out: Vec<[Vec<LeftOut>; 2]> = divisions
        .parts()
        .into_par_iter()
        .map(|(folds, fold)| {
            let (out, kept): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|row| folds[*row] == fold);
            let kept: Vec<&Row> = kept.into_iter().map(|row| rows[row]).collect();
            choices(class, known, &kept, &out, |row| {
                let Problem { dims, dtype, .. } = &trials.problems[row];
                model.is_aligned(dims, dtype)
            })
        })
        .collect();
    for (index, source) in ["rule", "fallback"].into_iter().enumerate() {
        let left_out: Vec<LeftOut> = left_out.iter().flat_map(|sources| sources[index].iter().cloned()).collect();
        if !left_out.is_empty() {
            fitted.cross_validation.regret.insert(source.to_owned(), fit::regrets(&left_out, divisions.folds.len()));
        }
    }
    Ok(fitted)
}

/// Adds a class's trials as a fit takes them, a problem a row. All times of a problem are as if taken in its last final.
fn add(
    trials: &mut Trials,
    places: &mut BTreeMap<Config, Option<usize>>,
    rows: &[&Row],
    known: &Known,
    (legality, description): (&Legality, &Description),
) -> Result<()> {
    for row in rows {
        let problem =
            row.facts.problem.ok_or_else(|| Error::failure("other tools measured it, by shapes of their own"))?;
        let place = trials.problems.len();
        let dims = description.dims_of(&problem);
        let group = row.facts.group.unwrap_or_default().to_owned();
        trials.problems.push(Problem { dims, dtype: problem.dtype.name().to_owned(), group });
        for cell in row.cells().iter().filter(|cell| known.is_legal(cell.config, &problem) == Some(true)) {
            let Some(config) = &known.configs[cell.config] else { continue };
            let config = *places.entry(config.clone()).or_insert_with(|| {
                trials.configs.push(legality.model_config(config)?);
                Some(trials.configs.len() - 1)
            });
            let (Some(config), Some(median_us)) = (config, row.time_us(cell.config)) else { continue };
            trials.times.push(Time { problem: place, config, median_us, is_final: row.is_finalist(cell.config) });
        }
    }
    Ok(())
}

/// What the rules and the fallbacks, chosen from the rows that are kept, take on the others. A rule is only there where its
/// bucket keeps a problem.
fn choices(
    class: &Class,
    known: &Known,
    kept: &[&Row],
    out: &[usize],
    is_aligned: impl Fn(usize) -> bool,
) -> [Vec<LeftOut>; 2] {
    let of_group = |group: Option<&str>| -> Vec<&Row> {
        kept.iter().copied().filter(|row| group.is_some() && row.facts.group == group).collect()
    };
    let mut by_bucket = BTreeMap::new();
    let mut by_group = BTreeMap::new();
    let mut left_out = [Vec::new(), Vec::new()];
    for place in out {
        let row = &class.table.rows[*place];
        let facts = row.facts;
        let rule = *by_bucket.entry(&facts.bucket).or_insert_with(|| {
            let rows: Vec<&Row> = kept.iter().copied().filter(|row| row.facts.bucket == facts.bucket).collect();
            class.choice_of_bucket(&facts.bucket, &rows, &of_group(facts.group))
        });
        let fallback = *by_group.entry(facts.group).or_insert_with(|| {
            let group = facts.group?;
            class.choice_of_group(group, &of_group(Some(group))).or_else(|| class.choice_of_group(group, kept))
        });
        for (left_out, choice) in left_out.iter_mut().zip([rule, fallback]) {
            left_out.extend(choice.map(|config| LeftOut {
                group: facts.group.unwrap_or_default().to_owned(),
                aligned: is_aligned(*place),
                slowdown: slowdown(row, config, known),
            }));
        }
    }
    left_out
}

/// A config's time over the best, where it was tried; what is refused or failed counts as a missing one does where configs are chosen.
fn slowdown(row: &Row, config: usize, known: &Known) -> Option<f64> {
    let missing = row.ln_missing.exp();
    if row.facts.problem.is_some_and(|problem| known.is_legal(config, &problem) == Some(false)) {
        return Some(missing);
    }
    let tried = row.cell(config)?;
    let best_us = row.cells().iter().filter_map(|cell| row.time_us(cell.config)).fold(f64::INFINITY, f64::min);
    Some(if tried.works() { row.time_us(config)? / best_us } else { missing })
}
