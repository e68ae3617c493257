//! A diff for people: a table for the terminal, Markdown for a pull request.

use super::environment::KERNEL;
use super::{Diff, Entry, Ratio, Status};
use comfy_table::{Table, presets};
use std::fmt::Write;

const HEADINGS: [&str; 7] = ["", "class", "where", "new/old", "range", "noise", "problems"];

/// Rows that Markdown shows unfolded: what a reader of a pull request takes in at once.
const MOST_ROWS: usize = 10;
/// What the columns mean.
const LEGEND: &str = "new/old: time by the new document over that by the old one, less what shifted all times; under 1 is faster. noise: \
     half of its 95 % interval. AMBIGUOUS: more than 2 % off, and perhaps by chance.";
/// Bytes of a comment. GitHub takes 65,536 characters, and whoever posts it may add a line.
const MOST_BYTES: usize = 60_000;

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
        for line in self.environment_notes().into_iter().chain(self.notes()) {
            out.push_str(&line);
            out.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{}: {}", self.counted(), if self.regression { "a regression" } else { "no regression" });
        out
    }

    /// Markdown that fits a pull request's comment: the verdict, what was measured with something else, the rows that tell most, and
    /// the rest folded.
    pub fn to_markdown(&self) -> String {
        let (verdict, what) =
            (if self.regression { "Regression" } else { "No regression" }, self.verdict(&Entry::name));
        let what = if what.is_empty() { String::new() } else { format!(": {}", escaped(&what)) };
        let mut out = format!("**{verdict}**{what}\n\n{}\n", self.counted());
        let environment = self.environment_notes();
        if !environment.is_empty() {
            out.push('\n');
            push_list(&mut out, &environment);
        }
        let entries = self.by_weight();
        let (shown, folded) = entries.split_at(entries.len().min(MOST_ROWS));
        if !shown.is_empty() {
            out.push('\n');
            push_rows(&mut out, shown);
            let _ = writeln!(out, "\n{LEGEND}");
        }
        let notes = self.notes();
        if !notes.is_empty() {
            push_folded(&mut out, &format!("{} more findings", notes.len()), |out| push_list(out, &notes));
        }
        if !folded.is_empty() {
            push_folded(&mut out, &format!("{} more rows", folded.len()), |out| push_rows(out, folded));
        }
        out
    }

    fn changed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.status != Status::Same)
    }

    /// What the documents were measured with, where it differs: a line a change.
    pub fn environment_notes(&self) -> Vec<String> {
        let named = |value: &str| if value.is_empty() { "unknown".to_owned() } else { value.to_owned() };
        let line = |change: &super::Change| {
            let class = change.class.as_ref().map(|class| format!("{class}: ")).unwrap_or_default();
            let note = if change.field == "protocol" { "; times are not compared" } else { "" };
            let to = if change.field == KERNEL { "," } else { " →" };
            format!("{class}{} changed: {}{to} {}{note}", change.field, named(&change.old), named(&change.new))
        };
        self.environment.iter().map(line).collect()
    }

    /// What else is to be said.
    fn notes(&self) -> Vec<String> {
        let mut lines = Vec::new();
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
                "of {} buckets {:.1} % are served another config first that noise tells from the one before, {:.1} % one that it does not",
                stability.buckets,
                stability.share_outside_ties * 100.0,
                stability.share_within_ties * 100.0
            ));
        }
        lines
    }

    /// `2 SLOW, 7 SAME`
    fn counted(&self) -> String {
        let counts: Vec<_> = self.counts().iter().map(|(status, count)| format!("{count} {}", status.name())).collect();
        if counts.is_empty() { "nothing to compare".to_owned() } else { counts.join(", ") }
    }
}

/// As much of the rows as fits a comment, as a table of Markdown.
fn push_rows(out: &mut String, entries: &[&Entry]) {
    let _ = writeln!(out, "| {} |\n|{}", HEADINGS.join(" | "), "---|".repeat(HEADINGS.len()));
    let rows = entries.iter().map(|entry| format!("| {} |", cells(entry).map(|cell| escaped(&cell)).join(" | ")));
    push_lines(out, rows);
}

/// As much of the lines as fits a comment, as a list of Markdown.
fn push_list(out: &mut String, lines: &[String]) {
    push_lines(out, lines.iter().map(|line| format!("- {}", escaped(line))));
}

fn push_lines(out: &mut String, lines: impl ExactSizeIterator<Item = String>) {
    let count = lines.len();
    for (index, line) in lines.enumerate() {
        if out.len() + line.len() > MOST_BYTES {
            let _ = writeln!(out, "\n… and {} more, which `sweep diff` lists", count - index);
            return;
        }
        let _ = writeln!(out, "{line}");
    }
}

fn push_folded(out: &mut String, summary: &str, push: impl FnOnce(&mut String)) {
    let _ = writeln!(out, "\n<details><summary>{summary}</summary>\n");
    push(out);
    let _ = writeln!(out, "\n</details>");
}

/// Text that Markdown takes for nothing else: documents come from anywhere.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '|' | '`' | '*' | '[' | ']' | '\\' => safe.extend(['\\', character]),
            // `<=4` is no tag.
            '<' if characters.peek().is_none_or(|next| *next != '=') => safe.push_str("&lt;"),
            '@' => safe.push_str("&#64;"),
            '\n' | '\r' => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

fn cells(entry: &Entry) -> [String; 7] {
    let mark = if entry.regression && entry.status != Status::Slow { " (regression)" } else { "" };
    let times = entry.times.as_ref();
    let of_times = |text: fn(&Ratio) -> String| times.map(text).unwrap_or_default();
    [
        format!("{}{mark}", entry.status.name()),
        entry.class.clone(),
        entry.name(),
        of_times(|times| format!("{:.3}", times.ratio)),
        of_times(|times| format!("{:.3} … {:.3}", times.range[0], times.range[1])),
        of_times(|times| format!("{:.1} %", times.noise * 100.0)),
        of_times(|times| times.problems.to_string()),
    ]
}
