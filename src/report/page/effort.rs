//! Where time went, and what failed.

use super::sources::Sources;
use super::svg::{Scale, at, grouped, significant};
use super::{Inputs, Section, Swept, no_trials, short};
use crate::journal::{Stage, Status, Trial};
use crate::report::winners::time_us;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Stages in their order, each with the class of its colour and what it is.
const STAGES: [(Stage, &str, &str); 4] = [
    (Stage::Screen, "a", "screen"),
    (Stage::Refine, "c", "refine"),
    (Stage::Final, "b", "final"),
    (Stage::Cross, "d", "cross"),
];
/// The kinds of reasons that are shown of each status.
const MOST_REASONS: usize = 8;

pub(super) fn section(inputs: &Inputs, swept: &[Swept], sources: &mut Sources) -> Section {
    let body = if swept.is_empty() {
        no_trials(inputs)
    } else {
        html! { (runs(inputs, sources)) (time(swept)) h3 { "What failed" } (failures(swept)) }
    };
    Section { id: "effort", title: "Where time went, and what failed", body }
}

/// What the runs took as a whole.
fn runs(inputs: &Inputs, sources: &mut Sources) -> Markup {
    let Some(effort) = inputs.effort.as_ref().filter(|effort| effort.wall_s > 0.0) else {
        return html! { p class="note" {
            "How long the runs took as a whole, and how long they compiled, is not known here: a sweep leaves that "
            "beside its journals, and archives do not keep it."
        } };
    };
    let source = sources.cite(&html! { "effort.json, to which each run adds what it took" });
    html! { p {
        b { (duration(effort.wall_s)) } " in " (effort.runs) @if effort.runs == 1 { " run" } @else { " runs" }
        ", the devices busy with trials for " b { (duration(effort.busy_s)) } " of it; "
        b { (duration(effort.compile_s)) } " of compile workers' time beside that." (source)
    } }
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 3600.0 => format!("{} h", significant(seconds / 3600.0)),
        _ if seconds >= 60.0 => format!("{} min", significant(seconds / 60.0)),
        _ => format!("{} s", significant(seconds)),
    }
}

/// Seconds in timed launches: samples times their median.
fn timed_s(trial: &Trial) -> f64 {
    let us = time_us(trial);
    if us.is_finite() { f64::from(trial.samples.unwrap_or(0)) * us / 1e6 } else { 0.0 }
}

fn time(swept: &[Swept]) -> Markup {
    const WIDTH: f64 = 420.0;
    let of_stage = |swept: &Swept, stage: Stage| -> f64 {
        swept.trials.iter().filter(|trial| trial.stage == stage).map(|trial| timed_s(trial)).sum()
    };
    let bars = |swept: &Swept| {
        let mut from = 0.0;
        STAGES.map(|(stage, color, name)| {
            let seconds = of_stage(swept, stage);
            from += seconds;
            (seconds, from - seconds, color, name)
        })
    };
    let total = |swept: &Swept| STAGES.iter().map(|(stage, ..)| of_stage(swept, *stage)).sum::<f64>();
    let most = swept.iter().map(total).fold(f64::MIN_POSITIVE, f64::max);
    let x = Scale::linear([0.0, most], [0.0, WIDTH]);
    html! {
        p {
            "Seconds that the timed launches took, samples times their median, as far as journals and archives keep them: "
            "verifying, flushing caches, waiting for kernels to be compiled and the rounds that archives leave out come on top."
        }
        div class="legend" {
            @for (_, color, name) in STAGES {
                span { svg width="14" height="12" { rect class={ "f" (color) } width="14" height="12" rx="2" {} } (name) }
            }
        }
        div class="scroll" { table {
            thead { tr { th { "Family" } th { "timed launches" } th class="n" { "seconds" }
                th class="n" { "trials" } th class="n" { "a problem" } th class="n" { "throttled" }
                    th class="n" { "loaded" } } }
            tbody { @for swept in swept {
                @let flagged = |is: fn(&Trial) -> bool| swept.trials.iter().filter(|trial| is(trial)).count();
                tr {
                    td { (swept.family) (swept.source) }
                    td {
                        svg viewBox={ "0 0 " (WIDTH) " 14" } width=(WIDTH) height="14" role="img" aria-label="Seconds by stage" {
                            @for (seconds, from, color, name) in bars(swept) {
                                @let (left, right) = (x.place(from), x.place(from + seconds));
                                rect class={ "f" (color) } x=(at(left)) y="1" width=(at(right - left)) height="12"
                                    data-t={ (swept.family) ", " (name) ": " (significant(seconds)) " s" } {}
                            }
                        }
                    }
                    td class="n" { (significant(total(swept))) }
                    td class="n" { (grouped(swept.trials.len())) }
                    td class="n" { (grouped(swept.trials.len() / swept.by_problem.len().max(1))) }
                    td class="n" { (grouped(flagged(|trial| trial.throttled))) }
                    td class="n" { (grouped(flagged(|trial| trial.loaded))) }
                }
            } }
        } }
        p class="note" { "Throttled: the GPU held its clocks back while it ran. Loaded: other work disturbed the "
        "device, as a canary kernel showed." }
    }
}

fn failures(swept: &[Swept]) -> Markup {
    let all = || swept.iter().flat_map(|swept| &swept.trials);
    let count = |status: Status| all().filter(|trial| trial.status == status).count();
    let statuses = [
        Status::Wrong,
        Status::CompileFailed,
        Status::CompileTimeout,
        Status::LaunchFailed,
        Status::Crashed,
        Status::Timeout,
        Status::Pruned,
    ];
    let clean: Vec<&str> = statuses.into_iter().filter(|status| count(*status) == 0).map(word).collect();
    html! {
        p {
            b { (grouped(count(Status::Ok))) } " of " (grouped(all().count())) " trials were verified and timed. "
            @if !clean.is_empty() { "None " (clean.join(", none ")) "." }
        }
        @if clean.len() < statuses.len() {
            div class="scroll" { table class="sortable" {
                thead { tr { th { "Status" } th { "Family" } th class="n" { "trials" } th { "Reason" }
                    th { "For one" } } }
                tbody { @for status in statuses { @for (family, reason, trials) in reasons(swept, status) {
                    tr {
                        td class="status" { (word(status)) } td { (family) }
                        td class="n" data-v=(trials.len()) { (grouped(trials.len())) }
                        td class="where" {
                            @let (what, condition) = reason.split_once(": not ").unwrap_or((&reason, ""));
                            (what) @if !condition.is_empty() { details { summary { "condition" } (condition) } }
                        }
                        td { (trials[0].problem().label()) ": " (short(&trials[0].config)) }
                    }
                } } }
            } }
        }
    }
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::Wrong => "wrong",
        Status::CompileFailed => "failed to compile",
        Status::CompileTimeout => "took too long to compile",
        Status::LaunchFailed => "failed to launch",
        Status::Crashed => "crashed",
        Status::Timeout => "timed out",
        Status::Pruned => "pruned as illegal",
    }
}

/// The commonest reasons of a status, with the family and its trials; numbers in reasons count as alike.
fn reasons<'s>(swept: &'s [Swept], status: Status) -> Vec<(&'static str, String, Vec<&'s Trial>)> {
    let mut kinds: BTreeMap<(&'static str, String), Vec<&Trial>> = BTreeMap::new();
    for swept in swept {
        for trial in swept.trials.iter().filter(|trial| trial.status == status) {
            let reason = trial.error.as_deref().unwrap_or("no reason given");
            kinds.entry((swept.family.name(), kind_of(reason))).or_default().push(trial);
        }
    }
    let mut kinds: Vec<_> = kinds
        .into_iter()
        .map(|((family, _), trials)| {
            (family, trials[0].error.clone().unwrap_or_else(|| "no reason given".to_owned()), trials)
        })
        .collect();
    kinds.sort_by_key(|(_, _, trials)| std::cmp::Reverse(trials.len()));
    kinds.truncate(MOST_REASONS);
    kinds
}

/// A reason without its numbers.
fn kind_of(reason: &str) -> String {
    let mut kind = String::with_capacity(reason.len());
    for character in reason.chars() {
        let digit = character.is_ascii_digit();
        if !(digit && kind.ends_with('#')) {
            kind.push(if digit { '#' } else { character });
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_alone_are_one_kind() {
        assert_eq!(kind_of("needs 131072 of 99328 bytes"), kind_of("needs 5 of 232448 bytes"));
        assert_ne!(kind_of("needs 5 bytes"), kind_of("needs 5 threads"));
    }
}
