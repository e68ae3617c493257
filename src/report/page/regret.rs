//! How far what is served is behind the best, on problems that nobody planned.

use super::sources::Sources;
use super::svg::{Frame, Scale, at, percent};
use super::{Inputs, Section, file};
use crate::evaluate::Evaluation;
use crate::heuristics::{CrossValidation, Document, Regret};
use crate::measure::{geomean, quantile, sorted};
use crate::model::Family;
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Who may answer: the name, the class of its line and of its letters, and its dashes, which tell lines apart in print.
const ANSWERING: [(&str, &str, &str); 5] = [
    ("served", "a", "none"),
    ("model", "c", "7 3"),
    ("rule", "d", "2 3"),
    ("fallback", "e", "9 3 2 3"),
    ("default", "b", "4 2"),
];

pub(super) fn section(inputs: &Inputs, own: &Markup, sources: &mut Sources) -> Section {
    let body = if let Some((name, evaluation)) = &inputs.evaluation {
        let count = evaluation.problems.len();
        let source = sources.cite(&html! {
            (file(name)) ": an evaluation of " (file(&evaluation.document)) " on " (count) " problems"
        });
        evaluated(inputs, evaluation, &source)
    } else {
        html! {
            p class="none" {
                "There is no evaluation.json of " (inputs.gpu) " here, which would show the regret on shapes that "
                "nobody "
                "planned, as a curve for what is served and for model, rule, fallback and default each alone. On a "
                "machine "
                "with the GPU, " code { "sweep evaluate --gpu " (inputs.gpu) " --family all --random 40 --seed 7" }
                " measures and writes it."
            }
            (left_out(&inputs.document.1, own))
        }
    };
    Section { id: "regret", title: "How far behind the best", body }
}

fn evaluated(inputs: &Inputs, evaluation: &Evaluation, source: &Markup) -> Markup {
    let regrets = |family: Option<&str>, answering: &str| {
        let problems =
            evaluation.problems.iter().filter(|problem| family.is_none_or(|family| problem.family == family));
        sorted(problems.filter_map(|problem| problem.regret_of(answering)))
    };
    let families: Vec<&str> = Family::ALL
        .into_iter()
        .map(Family::name)
        .filter(|family| evaluation.problems.iter().any(|problem| problem.family == *family))
        .collect();
    let unfinished = evaluation.problems.iter().filter(|problem| problem.unfinished).count();
    html! {
        p {
            "Regret on problems that were measured for this alone: the time of what each would serve, over the best "
            "that a search of the problem's space found, in one race."
            (source) " A curve that climbs sooner is better; it ends below 100 % where no config of its works."
            @if unfinished > 0 { " The budget ran out before " (unfinished) " more were judged." }
        }
        @if !evaluation.is_of(&inputs.document.1) {
            p class="note" { "The evaluation does not say that it judged this very document: it may be of an earlier "
            "one." }
        }
        div class="charts" {
            (curves("all", &|answering| regrets(None, answering), evaluation.problems.len() - unfinished))
            @for family in &families {
                @let of_family = evaluation.problems.iter().filter(|problem| problem.family == *family);
                @let judged = of_family.filter(|problem| !problem.unfinished).count();
                (curves(family, &|answering| regrets(Some(family), answering), judged))
            }
        }
        (table(&families, &regrets))
    }
}

fn curves(title: &str, regrets: &dyn Fn(&str) -> Vec<f64>, judged: usize) -> Markup {
    const WIDTH: f64 = 400.0;
    const HEIGHT: f64 = 230.0;
    /// Behind the best by more than this is at the edge.
    const FURTHEST: f64 = 4.0;
    let of = ANSWERING.map(|(name, ..)| regrets(name));
    let worst = of.iter().filter_map(|regrets| quantile(regrets, 0.97)).fold(1.1, f64::max).min(FURTHEST);
    let x = Scale::log([0.97, worst], [48.0, WIDTH - 8.0]);
    let y = Scale::linear([0.0, 1.0], [HEIGHT - 36.0, 22.0]);
    let frame = Frame {
        x,
        y,
        x_name: "regret: time over the best's",
        y_name: "share of problems",
        x_tick: &|tick| super::svg::significant(tick),
        y_tick: &|tick| format!("{:.0} %", tick * 100.0),
    };
    html! {
        figure {
            h3 { (title) " " span class="count" { (judged) " problems" } }
            div class="legend" {
                @for ((name, color, dashes), regrets) in ANSWERING.iter().zip(&of).filter(|(_, regrets)| !regrets.is_empty()) {
                    span { svg width="26" height="10" { line class={ "line l" (color) } stroke-dasharray=(dashes)
                    x1="0" x2="26" y1="5" y2="5" {} } (name) @if regrets.len() < judged { " (" (regrets.len()) ")" } }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ "Cumulative regret, " (title) } {
                (frame.draw())
                line class="base" x1=(at(x.place(1.0))) x2=(at(x.place(1.0))) y1="22" y2=(at(HEIGHT - 36.0)) {}
                @for ((name, color, dashes), regrets) in ANSWERING.iter().zip(&of).filter(|(_, regrets)| !regrets.is_empty()) {
                    path class={ "line l" (color) } stroke-dasharray=(dashes)
                        d=(steps(regrets, judged.max(regrets.len()), &x, &y))
                        data-t={ (name) ": " (percent(geomean(regrets).unwrap_or(1.0)))
                        " on average over " (regrets.len()) " problems" } {}
                }
            }
        }
    }
}

/// The share of `judged` problems whose regret is at most so much.
fn steps(regrets: &[f64], judged: usize, x: &Scale, y: &Scale) -> String {
    let mut path = format!("M{} {}", at(x.place(0.0)), at(y.place(0.0)));
    for (before, regret) in regrets.iter().enumerate() {
        let share = |count: usize| at(y.place(count as f64 / judged.max(1) as f64));
        // Writing to a string cannot fail.
        let _ = write!(path, "H{}V{}", at(x.place(*regret)), share(before + 1));
    }
    path
}

fn table(families: &[&str], regrets: &dyn Fn(Option<&str>, &str) -> Vec<f64>) -> Markup {
    html! {
        div class="scroll" { table class="sortable" {
            thead { tr { th { "Family" } th { "Answering" } th class="n" { "problems" } th class="n" { "average" }
                th class="n" { "p90" } th class="n" { "p99" } th class="n" { "worst" } } }
            tbody { @for family in std::iter::once(None).chain(families.iter().map(|family| Some(*family))) {
                @for (name, ..) in ANSWERING {
                    @let regrets = regrets(family, name);
                    @if !regrets.is_empty() { tr {
                        td { (family.unwrap_or("all")) } td { (name) } td class="n" data-v=(regrets.len()) { (regrets.len()) }
                        @let quantiles = [0.9, 0.99, 1.0].map(|share| quantile(&regrets, share));
                        @for figure in [geomean(&regrets)].into_iter().chain(quantiles) {
                            td class="n" data-v=(figure.unwrap_or_default()) { (figure.map(percent).unwrap_or_default()) }
                        }
                    } }
                }
            } }
        } }
    }
}

/// What the document says of its own regret: on planned problems that were left out while the rest was fitted to.
fn left_out(document: &Document, own: &Markup) -> Markup {
    let of_class = |(class, model): (&String, &serde_json::Value)| {
        let judged: CrossValidation = serde_json::from_value(model["cross_validation"].clone()).ok()?;
        Some((class.clone(), judged))
    };
    let classes: BTreeMap<String, CrossValidation> = document.models.iter().filter_map(of_class).collect();
    let overall = |judged: &CrossValidation, source: &str| -> Option<Regret> {
        judged.regret.get(source)?.iter().find(|cell| cell.group.is_none() && cell.aligned.is_none()).cloned()
    };
    if classes.is_empty() {
        return html! {};
    }
    html! {
        h3 { "What the document says of itself" (own) }
        p class="note" {
            "Regret on planned problems that were left out, in turn, while the rest was fitted to: no problem left "
            "out shares a pair of dimensions with one fitted to, so that it is on the careful side. "
            "The best here is the best measured config of the problem. An evaluation on random shapes says more."
        }
        div class="scroll" { table class="sortable" {
            thead { tr { th { "Family" } th { "Answering" } th class="n" { "problems" } th class="n" { "average" }
                th { "" } th class="n" { "p90" } th class="n" { "worst" } } }
            tbody { @for (class, judged) in &classes { @for (name, color, _) in ANSWERING {
                @if let Some(regret) = overall(judged, name) { tr {
                    td { (class) } td { (name) }
                    td class="n" data-v=(regret.problems) { (regret.problems) }
                    td class="n" data-v=(regret.geomean) { (percent(regret.geomean)) }
                    td data-v=(regret.geomean) { (bar(regret.geomean, color)) }
                    td class="n" data-v=(regret.p90) { (percent(regret.p90)) }
                    td class="n" data-v=(regret.max) { (percent(regret.max)) }
                } }
            } } }
        } }
    }
}

fn bar(regret: f64, color: &str) -> Markup {
    let x = Scale::log([1.0, 2.0], [0.0, 160.0]);
    html! { svg viewBox="0 0 160 12" width="160" height="12" role="img" aria-label=(percent(regret)) {
        rect class={ "f" (color) } x="0" y="1" width=(at(x.place(regret).max(1.0))) height="10" rx="2" {}
    } }
}
