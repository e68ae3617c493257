//! How near the winners come to the device: each problem's winner beneath the highest rates that any winner reached.
//!
//! The ceilings are measured, by the very trials that are shown: nobody's datasheet is in them.

use super::palette;
use super::svg::{Frame, Scale, at, grouped, si};
use super::{Section, Swept, short};
use crate::families;
use crate::journal::Trial;
use crate::model::{Family, Micros, Mma, Problem};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};

/// One problem's winner.
struct Point<'t> {
    trial: &'t Trial,
    problem: Problem,
    flops: f64,
    bytes: f64,
    seconds: f64,
}

impl<'t> Point<'t> {
    fn of(trial: &'t Trial) -> Option<Self> {
        let problem = trial.problem();
        let spec = families::spec(problem.family);
        let seconds = trial.time()?.0 / 1e6;
        let point = Self { trial, problem, flops: spec.flops(&problem), bytes: spec.bytes(&problem).0 as f64, seconds };
        (point.seconds > 0.0 && point.bytes > 0.0 && point.flops > 0.0).then_some(point)
    }

    fn bytes_per_s(&self) -> f64 {
        self.bytes / self.seconds
    }

    fn flops_per_s(&self) -> f64 {
        self.flops / self.seconds
    }

    /// FLOPs for each byte that must move.
    fn intensity(&self) -> f64 {
        self.flops / self.bytes
    }

    fn tip(&self) -> String {
        format!(
            "{}\n{}: {}B/s, {}FLOP/s\n{}",
            self.problem.label(),
            Micros(self.seconds * 1e6),
            si(self.bytes_per_s()),
            si(self.flops_per_s()),
            short(&self.trial.config)
        )
    }
}

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
/// The paper within its margins: left, right, bottom, top.
const PAPER: [f64; 4] = [48.0, WIDTH - 8.0, HEIGHT - 36.0, 22.0];
/// Families whose intensities all lie within this factor are shown by size: a roofline of theirs is a single column.
const NARROW: f64 = 3.0;

pub(super) fn section(swept: &[Swept]) -> Section {
    let families: Vec<(&Swept, Vec<Point>)> = swept
        .iter()
        .map(|swept| (swept, swept.winners.iter().filter_map(|trial| Point::of(trial)).collect()))
        .collect();
    let highest = |rate: &dyn Fn(&Point) -> f64| {
        let all = families.iter().flat_map(|(swept, points)| points.iter().map(move |point| (*swept, point)));
        all.max_by(|(_, one), (_, other)| rate(one).total_cmp(&rate(other)))
    };
    let body = match (highest(&|point| point.bytes_per_s()), highest(&|point| point.flops_per_s())) {
        (Some((memory_of, memory)), Some((arithmetic_of, arithmetic))) => html! {
            p {
                "Every problem's winner, and above it the ceilings: the highest rates that the winners themselves "
                "reached, and no datasheet's. Memory: "
                b { (si(memory.bytes_per_s())) "B/s" } ", by " (memory_of.family) " " (memory.problem.label())
                (memory_of.source) ". Arithmetic: "
                b { (si(arithmetic.flops_per_s())) "FLOP/s" } ", by " (arithmetic_of.family) " "
                (arithmetic.problem.label()) (arithmetic_of.source)
                ". Of dots that would lie on each other one is drawn. Bytes are the fewest a problem can move: each input read once, the output written once. What lies "
                "far below both ceilings is small, and takes what a launch takes."
            }
            (legend(&families))
            div class="charts" {
                @for (swept, points) in &families {
                    figure {
                        h3 { (swept.family) " " span class="count" { (grouped(points.len())) " problems" (swept.source) } }
                        (chart(swept.family, points, memory.bytes_per_s(), arithmetic.flops_per_s()))
                    }
                }
            }
        },
        _ => {
            html! { p class="none" { "No problem has a winner here: there are no journals and no archives to read." } }
        }
    };
    Section { id: "roofline", title: "How near to the device", body }
}

fn legend(families: &[(&Swept, Vec<Point>)]) -> Markup {
    let mut kinds: BTreeMap<Option<Mma>, usize> = BTreeMap::new();
    for point in families.iter().flat_map(|(_, points)| points) {
        *kinds.entry(point.trial.config.mma).or_default() += 1;
    }
    html! { div class="legend" {
        @for (mma, count) in kinds {
            span {
                svg width="12" height="12" { circle cx="6" cy="6" r="5" fill=(palette::of_mma(mma)) {} }
                (mma.map_or("host", Mma::name)) " (" (grouped(count)) ")"
            }
        }
        span { svg width="26" height="12" { line class="ceiling" x1="0" x2="26" y1="6" y2="6" {} } "measured ceiling" }
    } }
}

fn chart(family: Family, points: &[Point], most_bytes: f64, most_flops: f64) -> Markup {
    let range = |value: &dyn Fn(&Point) -> f64| {
        let values = points.iter().map(value);
        [values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max)]
    };
    let [least, most] = range(&|point| point.intensity());
    if most / least < NARROW {
        return by_size(
            family,
            points,
            range(&|point| point.bytes),
            range(&|point| point.bytes_per_s())[0],
            most_bytes,
        );
    }
    let [left, right, bottom, top] = PAPER;
    let ridge = most_flops / most_bytes;
    let x = Scale::log([least / 1.2, most.max(ridge * 1.5) * 1.2], [left, right]);
    let y = Scale::log([range(&|point| point.flops_per_s())[0] / 1.3, most_flops * 1.6], [bottom, top]);
    // The slope starts where it enters the paper.
    let start = (least / 1.2).max(range(&|point| point.flops_per_s())[0] / 1.3 / most_bytes);
    let path = format!(
        "M{} {}L{} {}L{} {}",
        at(x.place(start)),
        at(y.place(start * most_bytes)),
        at(x.place(ridge)),
        at(y.place(most_flops)),
        at(right),
        at(y.place(most_flops))
    );
    let frame = Frame {
        x,
        y,
        x_name: "FLOP for each byte that must move",
        y_name: "FLOP/s",
        x_tick: &|tick| si(tick).trim().to_owned(),
        y_tick: &|tick| si(tick).trim().to_owned(),
    };
    html! { svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ "Roofline of " (family) } {
        (frame.draw())
        (dots(points, |point| [x.place(point.intensity()), y.place(point.flops_per_s())]))
        path class="ceiling" d=(path) {}
        text class="axis" x=(at(right - 2.0)) y=(at(y.place(most_flops) - 5.0))
        text-anchor="end" { (si(most_flops)) "FLOP/s" }
        text class="axis" x=(at(x.place(start) + 4.0)) y=(at(top + 2.0)) { (si(most_bytes)) "B/s slope" }
    } }
}

/// Families that do the same few FLOPs on each byte: how much of the memory's rate they reach, by how much there is to move.
fn by_size(family: Family, points: &[Point], [least, most]: [f64; 2], slowest: f64, most_bytes: f64) -> Markup {
    let [left, right, bottom, top] = PAPER;
    let x = Scale::log([least / 1.2, most * 1.2], [left, right]);
    let y = Scale::log([slowest / 1.3, most_bytes * 1.6], [bottom, top]);
    let ceiling = at(y.place(most_bytes));
    let frame = Frame {
        x,
        y,
        x_name: "bytes that must move",
        y_name: "B/s",
        x_tick: &|tick| si(tick).trim().to_owned(),
        y_tick: &|tick| si(tick).trim().to_owned(),
    };
    html! { svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ "Memory rate of " (family) } {
        (frame.draw())
        (dots(points, |point| [x.place(point.bytes), y.place(point.bytes_per_s())]))
        path class="ceiling" d={ "M" (at(left)) " " (ceiling) "L" (at(right)) " " (ceiling) } {}
        text class="axis" x=(at(left + 4.0)) y=(at(y.place(most_bytes) - 5.0)) { (si(most_bytes)) "B/s" }
    } }
}

/// How far dots of a colour are from each other at least: nearer ones could not be told apart, nor pointed at.
const APART: f64 = 2.0;

/// A dot for each point, but where one of its colour is already. What dots of a colour have in common is said once: there are thousands.
fn dots(points: &[Point], place: impl Fn(&Point) -> [f64; 2]) -> Markup {
    let mut of_kind: BTreeMap<Option<Mma>, Vec<(&Point, [f64; 2])>> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for point in points {
        let (mma, place) = (point.trial.config.mma, place(point));
        if taken.insert((mma, place.map(|along| (along / APART).round() as i64))) {
            of_kind.entry(mma).or_default().push((point, place));
        }
    }
    html! {
        @for (mma, points) in of_kind {
            g class="points" fill=(palette::of_mma(mma)) {
                @for (point, [x, y]) in points {
                    circle cx=(at(x)) cy=(at(y)) r="2" data-t=(point.tip()) {}
                }
            }
        }
    }
}
