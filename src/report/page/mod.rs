//! All that is known of one GPU as one page that needs no server and no network: what changed, what is served where, how near that
//! comes to the device and to the best, which knobs matter, where time went, and how nights compare.
//!
//! Charts are drawn here, as SVG; the page's script does tooltips and sorting alone, and all is read without it. The same files
//! give the same bytes.

mod effort;
mod heat_map;
mod knobs;
mod palette;
mod regret;
mod roofline;
mod sources;
mod svg;
mod trend;
mod verdict;

use super::winners::{timed_by_problem, winner};
use crate::derive::of_latest_kernels;
use crate::error::Result;
use crate::evaluate::Evaluation;
use crate::heuristics::Document;
use crate::journal::{Contents, Header, Trial};
use crate::model::{Config, Family, GpuProfile, Problem};
use crate::plan::Plan;
use crate::sweep::Effort;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use sources::Sources;
use std::collections::BTreeMap;

/// What the page is made of. Names are what the page calls the files, so that a reader finds them.
pub struct Inputs {
    /// The GPU's short name.
    pub gpu: String,
    /// The document.
    pub document: (String, Document),
    /// The document that it is compared with.
    pub against: Option<(String, Document)>,
    /// The GPU.
    pub profile: GpuProfile,
    /// The plans that say what was to be measured.
    pub plans: Vec<Plan>,
    /// Journals or archives; none where there are none.
    pub journals: Vec<(String, Contents)>,
    /// What the runs took that filled the journals, where that is known.
    pub effort: Option<Effort>,
    /// What `sweep evaluate` wrote.
    pub evaluation: Option<(String, Evaluation)>,
    /// The nights that came to a document, oldest first.
    pub nights: Vec<Night>,
}

/// What one night came to.
pub struct Night {
    /// When it began: the name of its folder.
    pub when: String,
    /// What became of its document: `replaced`, `same`, `kept`, …; empty where it does not say.
    pub verdict: String,
    /// The document it made.
    pub document: Document,
}

/// A part of the page.
struct Section {
    /// Its anchor.
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// One family's trials of today's kernels.
struct Swept<'i> {
    family: Family,
    trials: Vec<&'i Trial>,
    by_problem: BTreeMap<Problem, Vec<&'i Trial>>,
    winners: Vec<&'i Trial>,
    /// The mark of the file they are from.
    source: Markup,
}

/// The page, as HTML.
///
/// # Errors
/// Where documents cannot be compared.
pub fn page(inputs: &Inputs) -> Result<String> {
    let mut sources = Sources::default();
    let (name, document) = &inputs.document;
    let own = sources
        .cite(&html! { (file(name)) ": " (document.rules.len()) " rules, and fallbacks and models beside them" });
    let swept = swept(inputs, &mut sources);
    let sections = [
        verdict::section(inputs, &own, &mut sources)?,
        heat_map::section(document, &own),
        roofline::section(&swept),
        regret::section(inputs, &own, &mut sources),
        knobs::section(inputs, &swept),
        effort::section(inputs, &swept, &mut sources),
        trend::section(inputs, &mut sources)?,
    ];
    let device = device(inputs);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (device) ": what was swept" }
                link rel="icon" href="data:,";
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (device) }
                    p class="sub" { (about(inputs, &swept)) }
                    nav { @for section in &sections { a href={ "#" (section.id) } { (section.title) } } a
                    href="#sources" { "Sources" } }
                }
                main {
                    @for section in &sections {
                        section id=(section.id) { h2 { (section.title) } (section.body) }
                    }
                    (sources.list())
                }
                script { (PreEscaped(include_str!("script.js"))) }
            }
        }
    };
    Ok(markup.into_string())
}

/// The trials of each family that has some, in the order of the documentation.
fn swept<'i>(inputs: &'i Inputs, sources: &mut Sources) -> Vec<Swept<'i>> {
    let of_family = |family: Family| {
        let files: Vec<&(String, Contents)> = inputs
            .journals
            .iter()
            .filter(|(_, contents)| contents.trials.iter().any(|trial| trial.family == family))
            .collect();
        let trials: Vec<&Trial> =
            files.iter().flat_map(|(_, contents)| &contents.trials).filter(|trial| trial.family == family).collect();
        let trials = of_latest_kernels(&trials);
        if trials.is_empty() {
            return None;
        }
        let by_problem = timed_by_problem(trials.iter().copied());
        let winners = by_problem.values().filter_map(|trials| winner(trials)).collect();
        let source = sources.cite(&html! {
            @for (index, (name, _)) in files.iter().enumerate() { @if index > 0 { ", " } (file(name)) }
            ": " (svg::grouped(trials.len())) " trials of " (family.name()) " by the latest kernels"
        });
        Some(Swept { family, trials, by_problem, winners, source })
    };
    Family::ALL.into_iter().filter_map(of_family).collect()
}

/// The device's full name, as far as anything tells it.
fn device(inputs: &Inputs) -> String {
    let of_document = || inputs.document.1.policy.get("device").and_then(Value::as_str).map(str::to_owned);
    headers(inputs).next().map(|header| header.gpu.clone()).or_else(of_document).unwrap_or_else(|| inputs.gpu.clone())
}

fn headers(inputs: &Inputs) -> impl Iterator<Item = &Header> {
    inputs.journals.iter().flat_map(|(_, contents)| &contents.headers)
}

/// What the page is about, in a line.
fn about(inputs: &Inputs, swept: &[Swept]) -> Markup {
    let problems: usize = swept.iter().map(|swept| swept.by_problem.len()).sum();
    let trials: usize = swept.iter().map(|swept| swept.trials.len()).sum();
    let day = |header: &Header| header.started.split('T').next().unwrap_or_default().to_owned();
    let (first, last) = (headers(inputs).map(day).min(), headers(inputs).map(day).max());
    html! {
        "Which config each kernel runs with on this GPU, and how good it is. "
        @if trials > 0 {
            b { (svg::grouped(problems)) } " problems of "
            b { (swept.len()) } @if swept.len() == 1 { " family, " } @else { " families, " }
            b { (svg::grouped(trials)) } " trials"
            @if let (Some(first), Some(last)) = (first, last) { ", " (first) @if last != first { " to " (last) } }
            "."
        } @else { "No journals and no archives are here, so charts that need trials are left out." }
    }
}

/// A file's name.
fn file(name: &str) -> Markup {
    html! { code { (name) } }
}

/// What is said in place of charts of trials.
fn no_trials(inputs: &Inputs) -> Markup {
    html! { p class="none" {
        "There are no journals and no archives of " (inputs.gpu) " here. They are made by "
        code { "sweep --gpu " (inputs.gpu) } " on a machine that has one, and packed by "
        code { "sweep archive --gpu " (inputs.gpu) } "."
    } }
}

/// A config in as few letters as tell it: `wgmma 128×256×64 w8 s4 pb l4`.
fn short(config: &Config) -> String {
    let sizes: Vec<String> = config.block_sizes.iter().map(ToString::to_string).collect();
    let mut parts = vec![sizes.join("×")];
    if let Some(mma) = config.mma.filter(|mma| *mma != crate::model::Mma::Simt) {
        parts.insert(0, mma.name().to_owned());
    }
    let mut knob = |name: &str, value: Option<u32>| parts.extend(value.map(|value| format!("{name} {value}")));
    knob("warps", config.num_warps);
    knob("stages", config.num_stages);
    knob("split", config.split_k.filter(|parts| *parts > 1));
    knob("group", config.l2_groupings.first().copied().filter(|tiles| *tiles > 1));
    knob("per SM", config.num_sm_multiplier);
    parts.extend(config.reduction_loops.iter().flatten().map(|step| format!("step {step}")));
    parts.extend(config.pid_type.filter(|order| order.is_persistent()).map(|order| order.name().replace('_', " ")));
    parts.join(", ")
}
