//! What changed: the first thing that is looked at.

use super::sources::Sources;
use super::svg::{Scale, at, grouped, percent};
use super::{Inputs, Section, file, heat_map};
use crate::diff::{Diff, Entry, IncomparableTimes, SAME_CLASS, Status, diff};
use crate::error::Result;
use crate::heuristics::Document;
use maud::{Markup, html};
use serde_json::Value;

/// What is counted first.
const TOLD: [Status; 4] = [Status::Slow, Status::Fast, Status::Ambiguous, Status::Same];
/// Entries that are shown before the rest is folded.
const MOST_ROWS: usize = 10;
/// Ratios of entries beyond this, either way, are drawn as arrows.
const FURTHEST: f64 = 1.5;

pub(super) fn section(inputs: &Inputs, own: &Markup, sources: &mut Sources) -> Result<Section> {
    let (_, document) = &inputs.document;
    let body = match &inputs.against {
        None => html! {
            div class="verdict" {
                p class="word" { "Not compared" }
                p class="what" {
                    "Whether anything regressed shows only beside another document: "
                    code { "sweep report --gpu " (inputs.gpu) " --against OLD.json" } "."
                }
            }
            div class="tiles" { (counted(document)) }
            (measured_with(document, own))
        },
        Some((name, old)) => {
            let diff = diff(old, document, IncomparableTimes::LeaveOut)?;
            let theirs = sources.cite(&html! { (file(name)) ", the document compared with; all that compares two "
            "times is from this one and the other" });
            html! {
                (told(&diff, name, &theirs, !document.models.is_empty()))
                (families(&diff, &theirs))
                (changed(&diff, &theirs))
                h3 { "What it was measured with" }
                (environment(&diff, &theirs))
                (measured_with(document, own))
            }
        }
    };
    Ok(Section { id: "verdict", title: "Did anything regress?", body })
}

/// The word, and how many entries became what.
fn told(diff: &Diff, against: &str, theirs: &Markup, has_models: bool) -> Markup {
    let (class, word) =
        if diff.regression { ("verdict slow", "▲ Regression") } else { ("verdict fine", "✓ No regression") };
    let counts = diff.counts();
    let count = |status: Status| counts.get(&status).copied().unwrap_or(0);
    let what = diff.verdict(&where_of);
    html! {
        div class=(class) {
            p class="word" { (word) }
            p class="what" { @if !what.is_empty() { (what) ". " } "Compared with " code { (against) } (theirs) "." }
        }
        div class="tiles" {
            @for status in TOLD {
                div class={ "tile " (look(status).0) } {
                    b { (grouped(count(status))) }
                    span { (look(status).1) " " (look(status).2) }
                    small { (together(diff, status)) }
                }
            }
            div class="tile" {
                b { (grouped(count(Status::Added))) " / " (grouped(count(Status::Removed))) }
                span { "ADDED / REMOVED" }
                small { "entries of one document alone" }
            }
        }
        p class="note" {
            "An entry is a rule's bucket or a fallback's group. SLOWER and FASTER are beyond 2 % and stand out by "
            "more than anything does in 99 of 100 nights without change; AMBIGUOUS is beyond 2 % "
            "and not sure. Had each problem's change had its sign by the toss of a coin, something would have been "
            "SLOWER in "
            (format!("{:.1} %", diff.calibration.false_alarms * 100.0))
            " of cases: the more, the less one such entry alone proves."
        }
        @if has_models {
            p class="note" { "Compared is what rules and fallbacks serve. Where a family has a model, the lookup "
            "asks that first about exact shapes." }
        }
    }
}

/// Class, sign and word of a status.
fn look(status: Status) -> (&'static str, &'static str, &'static str) {
    match status {
        Status::Slow => ("slow", "▲", "SLOWER"),
        Status::Fast => ("fast", "▼", "FASTER"),
        Status::Ambiguous => ("maybe", "◆", "AMBIGUOUS"),
        Status::Same => ("same", "●", "SAME"),
        Status::Added => ("same", "+", "ADDED"),
        Status::Removed => ("same", "−", "REMOVED"),
    }
}

/// The mean change of a status's entries, with its interval.
fn together(diff: &Diff, status: Status) -> String {
    let times = diff.entries.iter().filter(|entry| entry.status == status).filter_map(|entry| entry.times.as_ref());
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for times in times {
        (count, sum, squares) = (count + 1.0, sum + times.ratio.ln(), squares + times.noise * times.noise);
    }
    if count == 0.0 {
        return String::new();
    }
    format!("on average {} ± {:.1} %", percent(f64::exp(sum / count)), squares.sqrt() / count * 100.0)
}

/// Each family's times as a whole.
fn families(diff: &Diff, theirs: &Markup) -> Markup {
    if diff.classes.is_empty() {
        return html! {};
    }
    let reach = diff.classes.iter().map(|class| class.ratio.max(1.0 / class.ratio)).fold(1.05, f64::max) + 0.01;
    let count = |class: &str, status: Status| {
        diff.entries.iter().filter(|entry| entry.class == class && entry.status == status).count()
    };
    html! {
        figure {
            div class="scroll" { table {
                thead { tr {
                    th { "Family" } th { "All its times, new over old" (theirs) } th class="n" { "change" }
                    @for status in TOLD { th class="n wide" { (look(status).2) } }
                    th class="n wide" { "problems" }
                } }
                tbody { @for class in &diff.classes {
                    @let sure = if class.regression { Status::Slow } else { Status::Ambiguous };
                    @let status = if class.suspect { sure } else { Status::Same };
                    tr {
                        td { (class.class) }
                        td { (interval(class.ratio, class.noise, status, SAME_CLASS, reach)) }
                        td class="n" { (percent(class.ratio)) " ± " (format!("{:.2} %", class.noise * 100.0)) }
                        @for status in TOLD {
                            @let count = count(&class.class, status);
                            td class={ "n wide" @if count > 0 && status != Status::Same {
                            " " (look(status).0) } } { (count) }
                        }
                        td class="n wide" { (class.problems) }
                    }
                } }
            } }
            figcaption {
                "The dot is the geometric mean of new over old times of the problems that both documents have, the "
                "line its 95 % interval, the band the "
                (format!("±{:.1} %", SAME_CLASS * 100.0)) " that nights without change differ by. Right of the "
                "middle is slower."
            }
        }
    }
}

/// The entries that tell most, then all of them.
fn changed(diff: &Diff, theirs: &Markup) -> Markup {
    let entries = diff.by_weight();
    if entries.is_empty() {
        return html! { p { "No entry changed by more than 2 %." } };
    }
    let (shown, folded) = entries.split_at(entries.len().min(MOST_ROWS));
    html! {
        h3 { "What changed most " span class="count" { (shown.len()) " of " (entries.len()) } }
        figure {
            (rows(shown, theirs))
            figcaption { "The band is ±2 %, within which nothing is told apart. Lines end at an arrow where they go "
            "on." }
        }
        @if !folded.is_empty() {
            details { summary { (folded.len()) " more" } (rows(folded, theirs)) }
        }
    }
}

fn rows(entries: &[&Entry], theirs: &Markup) -> Markup {
    html! {
        div class="scroll" { table class="sortable stack" {
            thead { tr {
                th { "Became" } th { "Family" } th { "Where" } th { "New over old" (theirs) }
                    th class="n" { "change" } th class="n" { "problems" }
            } }
            tbody { @for entry in entries {
                @let (class, sign, word) = look(entry.status);
                tr {
                    td class=(class) data-v=(entry.status as u8) { (sign) " " (word) @if entry.uncovered { ", uncovered" } }
                    td { (entry.class) }
                    td class="where" { (where_of(entry)) @if entry.config_changed { " (another config)" } }
                    @if let Some(times) = &entry.times {
                        td data-v=(times.ratio) { (interval(times.ratio, times.noise, entry.status, 0.02, FURTHEST)) }
                        td class="n" data-v=(times.ratio) { (percent(times.ratio))
                        " ± " (format!("{:.1} %", times.noise * 100.0)) }
                        td class="n" data-v=(times.problems) { (times.problems) }
                    } @else {
                        td data-v="0" { "not measured in both" } td class="n" data-v="0" {} td class="n" data-v="0" {}
                    }
                }
            } }
        } }
    }
}

/// Where an entry serves, in the page's words.
fn where_of(entry: &Entry) -> String {
    let place = heat_map::spelled_place(&entry.place);
    let bucket = entry.times.as_ref().and_then(|times| times.bucket.as_deref()).map(heat_map::spelled_place);
    match (entry.rule, bucket) {
        (true, _) => place,
        (false, None) => format!("fallback {place}"),
        (false, Some(bucket)) => format!("fallback {place}, of it {bucket}"),
    }
}

/// A ratio on a line about 1, with its interval and the band within which it means nothing. What lies beyond `furthest` is drawn as
/// an arrow.
fn interval(ratio: f64, noise: f64, status: Status, band: f64, furthest: f64) -> Markup {
    const WIDTH: f64 = 210.0;
    let x = Scale::log([1.0 / furthest, furthest], [8.0, WIDTH - 8.0]);
    let class = match status {
        Status::Slow => "ss",
        Status::Fast => "sf",
        Status::Ambiguous => "sm",
        _ => "sn",
    };
    let (low, high) = (x.place(ratio * (1.0 - noise)), x.place(ratio * (1.0 + noise)));
    let (left, right) = (x.place(1.0 - band), x.place(1.0 + band));
    let middle = x.place(ratio);
    html! {
        svg viewBox={ "0 0 " (WIDTH) " 18" } width=(WIDTH) height="18" role="img" aria-label=(percent(ratio)) {
            rect class="band" x=(at(left)) y="1" width=(at(right - left)) height="16" {}
            line class="base" x1=(at(x.place(1.0))) x2=(at(x.place(1.0))) y1="1" y2="17" {}
            g class=(class) {
                line x1=(at(low)) x2=(at(high)) y1="9" y2="9" stroke-width="2" {}
                @if ratio > furthest { path d={ "M" (at(WIDTH - 8.0)) " 4l7 5l-7 5z" } {} }
                @else if ratio < 1.0 / furthest { path d="M8 4l-7 5l7 5z" {} }
                @else { circle cx=(at(middle)) cy="9" r="4" {} }
            }
        }
    }
}

/// What the two were measured with, where that differs.
fn environment(diff: &Diff, theirs: &Markup) -> Markup {
    let notes = diff.environment_notes();
    html! {
        @if notes.is_empty() { p { "Driver, compiler, protocol and the kernels that both serve are the same in "
        "both." (theirs) } }
        @else { ul { @for note in notes { li { (note) (theirs) } } } }
    }
}

/// What the document was measured with.
fn measured_with(document: &Document, own: &Markup) -> Markup {
    let fields = [
        ("driver", "driver"),
        ("nvrtc", "compiler (NVRTC)"),
        ("arch", "architecture"),
        ("protocol", "sampling protocol"),
        ("sweep", "this tool"),
    ];
    let told: Vec<String> = fields
        .into_iter()
        .filter_map(|(field, name)| Some(format!("{name} {}", document.policy.get(field)?.as_str()?)))
        .collect();
    html! { @if !told.is_empty() { p class="note" { "Now: " (told.join(", ")) "." (own) } } }
}

/// What the document holds.
fn counted(document: &Document) -> Markup {
    let fallbacks: usize = document.fallbacks.values().map(std::collections::BTreeMap::len).sum();
    let problems =
        |source: &serde_json::Map<String, Value>| source.get("problems").and_then(Value::as_array).map_or(0, Vec::len);
    let ruled: usize = document.rules.iter().map(|rule| problems(&rule.source)).sum();
    html! {
        @for (count, what, more) in [
            (document.rules.len(), "RULES", "one a bucket of shapes"),
            (fallbacks, "FALLBACKS", "one a group, where no rule is"),
            (document.models.len(), "MODELS", "one a family, for exact shapes"),
            (ruled, "PROBLEMS", "measured in buckets with a rule"),
        ] {
            div class="tile" { b { (grouped(count)) } span { (what) } small { (more) } }
        }
    }
}
