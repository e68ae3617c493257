//! A diff for people: a table for the terminal, Markdown for a pull request.

use super::{Diff, Entry, Ratio, Status};
use comfy_table::{Table, presets};
use std::collections::BTreeMap;
use std::fmt::Write;

const HEADINGS: [&str; 7] = ["", "class", "where", "new/old", "range", "noise", "problems"];

impl Diff {
    /// A table of what is not the same, the environment's changes and a line of counts.
    pub fn to_table(&self) -> String {
        let mut out = String::new();
        if self.changed().next().is_some() {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(HEADINGS);
            for entry in self.changed() {
                table.add_row(cells(entry));
            }
            out.push_str(&table.trim_fmt());
            out.push('\n');
        }
        for line in self.notes() {
            out.push_str(&line);
            out.push('\n');
        }
        out
    }

    /// The same as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        if self.changed().next().is_some() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "| {} |\n|{}", HEADINGS.join(" | "), "---|".repeat(HEADINGS.len()));
            for entry in self.changed() {
                let _ = writeln!(out, "| {} |", cells(entry).map(|cell| cell.replace('|', "\\|")).join(" | "));
            }
            out.push('\n');
        }
        for line in self.notes() {
            let _ = writeln!(out, "- {line}");
        }
        out
    }

    fn changed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.status != Status::Same)
    }

    /// What is said below the table.
    fn notes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for change in &self.environment {
            let class = change.class.as_ref().map(|class| format!("{class}: ")).unwrap_or_default();
            let named = |value: &str| if value.is_empty() { "unknown".to_owned() } else { value.to_owned() };
            let note = if change.field == "protocol" { "; times are not compared" } else { "" };
            lines.push(format!(
                "{class}{} changed: {} → {}{note}",
                change.field,
                named(&change.old),
                named(&change.new)
            ));
        }
        for class in self.classes.iter().filter(|class| class.suspect) {
            let verdict =
                if class.regression { "slower as a whole" } else { "maybe slower as a whole, which is AMBIGUOUS" };
            lines.push(format!(
                "{}: {verdict}: {:.3} ± {:.3} times the old times of {} problems",
                class.class, class.ratio, class.noise, class.problems
            ));
        }
        for lost in &self.lost_problems {
            lines.push(format!("{}: no longer covered: {}", lost.class, lost.problem));
        }
        let stability = &self.stability;
        if stability.changed_within_ties + stability.changed_outside_ties > 0 {
            lines.push(format!(
                "first templates differ in {:.1} % of {} buckets outside tie classes, in {:.1} % within",
                stability.share_outside_ties * 100.0,
                stability.buckets,
                stability.share_within_ties * 100.0
            ));
        }
        let mut counts: BTreeMap<Status, usize> = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry(entry.status).or_default() += 1;
        }
        let counts: Vec<_> = counts.iter().map(|(status, count)| format!("{count} {}", status.name())).collect();
        let counts = if counts.is_empty() { "nothing to compare".to_owned() } else { counts.join(", ") };
        lines.push(format!("{counts}: {}", if self.regression { "a regression" } else { "no regression" }));
        lines
    }
}

fn cells(entry: &Entry) -> [String; 7] {
    let mark = if entry.regression && entry.status != Status::Slow { " (regression)" } else { "" };
    let kind = if entry.rule { "" } else { "fallback " };
    let times = entry.times.as_ref();
    let of_times = |text: fn(&Ratio) -> String| times.map(text).unwrap_or_default();
    let bucket = times.and_then(|times| times.bucket.as_ref()).map(|bucket| format!(": {bucket}")).unwrap_or_default();
    [
        format!("{}{mark}", entry.status.name()),
        entry.class.clone(),
        format!("{kind}{}{bucket}", entry.place),
        of_times(|times| format!("{:.3}", times.ratio)),
        of_times(|times| format!("{:.3} … {:.3}", times.range[0], times.range[1])),
        of_times(|times| format!("{:.1} %", times.noise * 100.0)),
        of_times(|times| times.problems.to_string()),
    ]
}
