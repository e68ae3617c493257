//! Is a config space wide enough? How often the best config of a problem has the first or the last value of an axis.

use super::winners::{time_us, timed_by_problem, winner};
use crate::derive::ASSUMED_NOISE;
use crate::journal::Trial;
use crate::model::{Config, Family};
use crate::plan::Space;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// One axis of a space, and where on it the best configs lie.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Axis {
    /// The family.
    pub family: Family,
    /// The space: the kind of instructions, or `cpu`.
    pub space: &'static str,
    /// The knob; of `block_sizes` each position is an axis.
    pub axis: String,
    /// Its values, ascending.
    pub values: Vec<String>,
    /// Problems whose best config has the knob.
    pub problems: usize,
    /// Those where it has the first value.
    pub first: Edge,
    /// Those where it has the last value.
    pub last: Edge,
}

/// One end of an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Edge {
    /// Problems whose best config lies here.
    pub winners: usize,
    /// Those where no config without this value comes within 2 %, so that a value beyond it might be better still.
    pub clear: usize,
}

/// A value of a knob, so that values sort: a whole row comes after any part of it.
type Value = u64;
const WHOLE: Value = Value::MAX;

/// The knobs of a config that have an order.
fn knobs(config: &Config) -> BTreeMap<String, Value> {
    let lists = [("block_sizes", &config.block_sizes), ("l2_groupings", &config.l2_groupings)];
    let listed = lists.into_iter().flat_map(|(name, values)| {
        let name = move |place: usize| if values.len() == 1 { name.to_owned() } else { format!("{name}[{place}]") };
        values.iter().enumerate().map(move |(place, value)| (name(place), Value::from(*value)))
    });
    let loops = config.reduction_loops.iter().map(|step| ("reduction_loops".into(), step.map_or(WHOLE, Value::from)));
    let single = [
        ("num_sm_multiplier", config.num_sm_multiplier),
        ("num_stages", config.num_stages),
        ("num_warps", config.num_warps),
        ("split_k", config.split_k),
    ];
    let single = single.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())));
    listed.chain(loops).chain(single).collect()
}

/// The axes of a family's spaces, of those that have more than one value, with where the best config of each problem lies.
pub fn edges<'t>(family: Family, spaces: &[&Space], trials: impl IntoIterator<Item = &'t Trial>) -> Vec<Axis> {
    let by_problem = timed_by_problem(trials.into_iter().filter(|trial| trial.family == family));
    let races: Vec<Race> = by_problem.values().filter_map(|trials| Race::new(trials)).collect();
    spaces.iter().flat_map(|space| axes_of(family, space, &races)).collect()
}

/// One problem's configs with their times, and the best.
struct Race {
    configs: Vec<(BTreeMap<String, Value>, f64)>,
    best: Config,
    best_us: f64,
}

impl Race {
    fn new(trials: &[&Trial]) -> Option<Self> {
        let best = winner(trials)?;
        let configs = trials.iter().map(|trial| (knobs(&trial.config), time_us(trial))).collect();
        Some(Self { configs, best: best.config.clone(), best_us: time_us(best) })
    }

    /// No config without this value on the axis comes near the best.
    fn is_clear(&self, axis: &str, value: Value) -> bool {
        let limit = self.best_us * (1.0 + ASSUMED_NOISE);
        !self.configs.iter().any(|(knobs, us)| knobs.get(axis) != Some(&value) && *us <= limit)
    }
}

fn axes_of(family: Family, space: &Space, races: &[Race]) -> Vec<Axis> {
    let kind = space.default.mma;
    let mut axes: BTreeMap<String, BTreeSet<Value>> = BTreeMap::new();
    for (name, value) in space.configs.iter().flat_map(knobs) {
        axes.entry(name).or_default().insert(value);
    }
    let races: Vec<(&Race, BTreeMap<String, Value>)> =
        races.iter().filter(|race| race.best.mma == kind).map(|race| (race, knobs(&race.best))).collect();
    let axis = |(name, values): (String, BTreeSet<Value>)| {
        let (first, last) = (*values.first()?, *values.last()?);
        let here: Vec<(&Race, Value)> =
            races.iter().filter_map(|(race, knobs)| Some((*race, *knobs.get(&name)?))).collect();
        let edge = |value: Value| {
            let winners = here.iter().filter(|(_, best)| *best == value);
            let clear = winners.clone().filter(|(race, _)| race.is_clear(&name, value)).count();
            Edge { winners: winners.count(), clear }
        };
        (first != last).then(|| Axis {
            family,
            space: kind.map_or("cpu", crate::model::Mma::name),
            values: values.iter().copied().map(text).collect(),
            problems: here.len(),
            first: edge(first),
            last: edge(last),
            axis: name.clone(),
        })
    };
    axes.into_iter().filter_map(axis).collect()
}

fn text(value: Value) -> String {
    if value == WHOLE { "whole".into() } else { value.to_string() }
}

/// The axes as a table.
pub fn edges_table(axes: &[Axis]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "family",
        "space",
        "axis",
        "values",
        "problems",
        "best at first",
        "clearly",
        "best at last",
        "clearly",
    ]);
    for axis in axes {
        table.add_row([
            axis.family.to_string(),
            axis.space.to_string(),
            axis.axis.clone(),
            axis.values.join(" "),
            axis.problems.to_string(),
            axis.first.winners.to_string(),
            axis.first.clear.to_string(),
            axis.last.winners.to_string(),
            axis.last.clear.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use crate::model::{Dtype, Micros, Mma, Problem};

    fn config(block: u32, warps: u32, step: Option<u32>) -> Config {
        Config {
            block_sizes: vec![block],
            mma: Some(Mma::Simt),
            num_warps: Some(warps),
            reduction_loops: vec![step],
            ..Config::default()
        }
    }

    fn trial(rows: u64, config: Config, stage: Stage, median_us: f64) -> Trial {
        let shape = format!("rows={rows},cols=8");
        let problem = Problem::parse(Family::RowSoftmax, &shape, Dtype::Bf16).unwrap();
        Trial { median_us: Some(Micros(median_us)), ..Trial::untimed(&problem, config, stage, Status::Ok) }
    }

    #[test]
    fn winners_are_counted_at_either_end_and_apart_where_nothing_inside_comes_near() {
        let mut configs = Vec::new();
        for block in [1, 2, 4] {
            for step in [Some(64), None] {
                configs.push(config(block, 8, step));
            }
        }
        let space =
            Space { default: config(1, 8, None), configs, exclusions: vec![], superseded_by: None, problems: None };
        let trials = [
            // Clearly best at the last block; the search's lucky time does not count where there was a final.
            trial(1, config(4, 8, None), Stage::Final, 10.0),
            trial(1, config(2, 8, None), Stage::Final, 11.0),
            trial(1, config(1, 8, None), Stage::Screen, 9.9),
            // At the last block, but another comes within 2 %.
            trial(2, config(4, 8, Some(64)), Stage::Final, 10.0),
            trial(2, config(2, 8, Some(64)), Stage::Refine, 10.1),
            // Inside.
            trial(3, config(2, 8, None), Stage::Final, 10.0),
            // Not of this space.
            trial(4, Config { mma: None, ..config(1, 8, None) }, Stage::Final, 10.0),
        ];
        let axes = edges(Family::RowSoftmax, &[&space], &trials);
        let names: Vec<&str> = axes.iter().map(|axis| axis.axis.as_str()).collect();
        assert_eq!(names, ["block_sizes", "reduction_loops"], "an axis of one value has no edge");
        let (block, loops) = (&axes[0], &axes[1]);
        assert_eq!((block.problems, block.values.join(" ")), (3, "1 2 4".into()));
        assert_eq!((block.first.winners, block.last.winners), (0, 2));
        assert_eq!(loops.values, ["64", "whole"]);
        assert_eq!((loops.first.winners, loops.last.winners, loops.last.clear), (1, 2, 2));
        assert!(edges_table(&axes).to_string().contains("block_sizes"));
    }

    #[test]
    fn a_winner_at_the_edge_is_clear_only_without_a_rival_elsewhere_on_the_axis() {
        let space = Space {
            default: config(1, 8, None),
            configs: vec![config(1, 8, None), config(2, 8, None)],
            exclusions: vec![],
            superseded_by: None,
            problems: None,
        };
        let clear = |rival_us| {
            let trials = [
                trial(1, config(2, 8, None), Stage::Final, 10.0),
                trial(1, config(1, 8, None), Stage::Final, rival_us),
            ];
            edges(Family::RowSoftmax, &[&space], &trials)[0].last
        };
        assert_eq!(clear(10.1), Edge { winners: 1, clear: 0 });
        assert_eq!(clear(10.3), Edge { winners: 1, clear: 1 });
    }
}
