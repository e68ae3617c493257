//! Which knobs matter, and whether the spaces are wide enough.

use super::svg::{Scale, at, percent};
use super::{Inputs, Section, Swept, no_trials};
use crate::measure::geomean;
use crate::model::{Config, Problem};
use crate::report::edges::{Axis, Edge, edges};
use crate::report::winners::time_us;
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;

/// An edge is flagged where nothing inside comes near for more than this share of the winners: what lies beyond may be better.
const FLAGGED: f64 = 0.05;
/// And of no fewer winners.
const FEWEST_FLAGGED: usize = 5;
/// The slowdown at the top of a card.
const HIGHEST: f64 = 2.0;

pub(super) fn section(inputs: &Inputs, swept: &[Swept]) -> Section {
    let body = if swept.is_empty() {
        no_trials(inputs)
    } else {
        html! {
            p {
                "How much slower the best config gets if one knob is held at one value: the geometric mean, over the "
                "problems where that value was tried, of the best time with it over the "
                "best time of all. A knob whose columns are all low hardly matters. The search tries what is "
                "promising, so a value that was tried on few problems was tried where it had a chance."
            }
            p class="note" {
                "Knobs are in the order of what their worst value costs. A column's height is up to +100 %. ⚑ "
                "winners at an edge: for more than 5 % of an instruction's winners the best config has the first "
                "or the last value of its space, and none with another comes within 2 %, so that a wider space may "
                "hold better ones."
            }
            @for swept in swept { (family(inputs, swept)) }
        }
    };
    Section { id: "knobs", title: "Which knobs matter", body }
}

/// One value of a knob.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    value: String,
    /// Geometric mean slowdown of the best config that has it.
    slowdown: f64,
    problems: usize,
}

fn family(inputs: &Inputs, swept: &Swept) -> Markup {
    let plan = inputs.plans.iter().find(|plan| plan.family == swept.family);
    let axes = plan
        .map_or_else(Vec::new, |plan| edges(swept.family, &plan.spaces(&inputs.profile), swept.trials.iter().copied()));
    let mut knobs: Vec<(String, Vec<Held>)> =
        sensitivity(&swept.by_problem).into_iter().filter(|(_, held)| held.len() > 1).collect();
    let cost = |held: &[Held]| held.iter().map(|held| held.slowdown).fold(1.0, f64::max);
    knobs.sort_by(|(_, one), (_, other)| cost(other).total_cmp(&cost(one)));
    html! {
        h3 { (swept.family) " " span class="count" { (swept.by_problem.len()) " problems" (swept.source) } }
        div class="cards" { @for (knob, held) in &knobs { (card(knob, held, cost(held), &axes)) } }
    }
}

/// What it costs to hold each knob at each of its values.
fn sensitivity(by_problem: &BTreeMap<Problem, Vec<&crate::journal::Trial>>) -> BTreeMap<String, Vec<Held>> {
    let mut slowdowns: BTreeMap<String, BTreeMap<(u64, String), Vec<f64>>> = BTreeMap::new();
    for trials in by_problem.values() {
        let best_us = trials.iter().map(|trial| time_us(trial)).fold(f64::INFINITY, f64::min);
        let mut held: BTreeMap<(String, (u64, String)), f64> = BTreeMap::new();
        for trial in trials {
            for (knob, value) in values(&trial.config) {
                let best = held.entry((knob, value)).or_insert(f64::INFINITY);
                *best = best.min(time_us(trial));
            }
        }
        for ((knob, value), us) in held {
            slowdowns.entry(knob).or_default().entry(value).or_default().push(us / best_us);
        }
    }
    let summed = |values: BTreeMap<(u64, String), Vec<f64>>| {
        let held = |((_, value), slowdowns): ((u64, String), Vec<f64>)| {
            Some(Held { value, slowdown: geomean(&slowdowns)?, problems: slowdowns.len() })
        };
        values.into_iter().filter_map(held).collect()
    };
    slowdowns.into_iter().map(|(knob, values)| (knob, summed(values))).collect()
}

/// Every knob of a config with its value, and where that lies among others. What a config does not have is no value.
fn values(config: &Config) -> Vec<(String, (u64, String))> {
    let Ok(Value::Object(fields)) = serde_json::to_value(config) else { return Vec::new() };
    let text = |value: &Value| match value {
        Value::Null => (u64::MAX, "whole".to_owned()),
        Value::Number(number) => (number.as_u64().unwrap_or_default(), number.to_string()),
        Value::String(text) => (0, text.replace("persistent_", "p. ").replace('_', " ")),
        other => (0, other.to_string()),
    };
    let mut all = Vec::new();
    for (knob, value) in fields {
        match value {
            Value::Array(values) if values.len() == 1 => all.push((knob, text(&values[0]))),
            Value::Array(values) => {
                all.extend(values.iter().enumerate().map(|(place, value)| (format!("{knob}[{place}]"), text(value))));
            }
            value => all.push((knob, text(&value))),
        }
    }
    all
}

fn card(knob: &str, held: &[Held], cost: f64, axes: &[Axis]) -> Markup {
    let widest = held.iter().map(|held| held.value.chars().count()).max().unwrap_or(1) as f64;
    let step = (widest * 6.2 + 4.0).max(21.0);
    let width = (held.len() as f64 * step + 6.0).max(120.0);
    let (top, bottom) = (14.0, 74.0);
    let y = Scale::linear([1.0, HIGHEST], [bottom, top]);
    let flags: Vec<String> = axes.iter().filter(|axis| axis.axis == knob).flat_map(flags).collect();
    html! {
        div class="card" {
            h4 { (knob) }
            p { "worst value: " (percent(cost)) }
            svg viewBox={ "0 0 " (at(width)) " 90" } width=(at(width)) role="img" aria-label={ "What values of " (knob) " cost" } {
                line class="base" x1="0" x2=(at(width)) y1=(at(bottom)) y2=(at(bottom)) {}
                @for (place, held) in held.iter().enumerate() {
                    @let middle = 3.0 + (place as f64 + 0.5) * step;
                    @let height = (bottom - y.place(held.slowdown)).max(1.0);
                    g data-t={ (knob) " " (held.value) ": " (percent(held.slowdown)) " on " (held.problems) " problems" } {
                        rect x=(at(middle - step / 2.0)) y="0" width=(at(step)) height="90" fill="transparent" {}
                        rect class="fa" x=(at(middle - 6.0)) y=(at(bottom - height))
                        width="12" height=(at(height)) rx="1.5" {}
                        @if held.slowdown > HIGHEST { text x=(at(middle)) y=(at(top - 3.0)) text-anchor="middle" { "↑" } }
                        text x=(at(middle)) y="86" text-anchor="middle" { (held.value) }
                    }
                }
            }
            @for flag in flags { p class="flag" { (flag) } }
        }
    }
}

/// The ends of an axis that many winners lie at.
fn flags(axis: &Axis) -> Vec<String> {
    let ends = [(axis.first, axis.values.first()), (axis.last, axis.values.last())];
    let told = |(edge, value): (Edge, Option<&String>)| {
        // Nothing lies before 1 nor beyond the whole.
        let value = value.filter(|value| !["1", "whole"].contains(&value.as_str()))?;
        let is_flagged = edge.clear >= FEWEST_FLAGGED && edge.clear as f64 > FLAGGED * axis.problems as f64;
        is_flagged.then(|| format!("⚑ {}: {} of {} winners at {value}", axis.space, edge.clear, axis.problems))
    };
    ends.into_iter().filter_map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status, Trial};
    use crate::model::{Dtype, Family, Micros};

    #[test]
    fn a_value_costs_what_the_best_config_with_it_is_behind() {
        let config = |warps, step| Config {
            block_sizes: vec![1],
            num_warps: Some(warps),
            reduction_loops: vec![step],
            ..Config::default()
        };
        let trial = |rows: u64, config: Config, us: f64| {
            let problem = Problem::parse(Family::RowSoftmax, &format!("rows={rows},cols=8"), Dtype::Bf16).unwrap();
            Trial { median_us: Some(Micros(us)), ..Trial::untimed(&problem, config, Stage::Screen, Status::Ok) }
        };
        let trials = [
            trial(1, config(4, None), 10.0),
            trial(1, config(4, Some(64)), 30.0),
            trial(1, config(8, Some(64)), 20.0),
            // Tried with one value alone: it says nothing of the others.
            trial(2, config(4, None), 5.0),
        ];
        let by_problem = crate::report::winners::timed_by_problem(&trials);
        let knobs = sensitivity(&by_problem);
        let held = |value: &str, slowdown: f64, problems| Held { value: value.into(), slowdown, problems };
        assert_eq!(knobs["num_warps"], [held("4", 1.0, 2), held("8", 2.0, 1)]);
        assert_eq!(knobs["reduction_loops"], [held("64", 2.0, 1), held("whole", 1.0, 2)]);
    }

    #[test]
    fn an_edge_is_flagged_where_many_winners_lie_clearly_at_it() {
        let axis = |clear| Axis {
            family: Family::Matmul,
            space: "wgmma",
            axis: "num_stages".into(),
            values: vec!["3".into(), "12".into()],
            problems: 100,
            first: Edge::default(),
            last: Edge { winners: 60, clear },
        };
        assert_eq!(flags(&axis(5)), Vec::<String>::new());
        assert_eq!(flags(&axis(6)), ["⚑ wgmma: 6 of 100 winners at 12"]);
        let of_one = Axis { values: vec!["1".into(), "whole".into()], first: Edge { winners: 9, clear: 9 }, ..axis(9) };
        assert_eq!(flags(&of_one), Vec::<String>::new(), "there is nothing beyond");
    }
}
