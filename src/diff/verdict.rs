//! What a diff comes to, in a line; and its entries in the order that people want to read them in.

use super::{Diff, Entry, Status};
use std::collections::BTreeMap;

impl Diff {
    /// How many entries became what; what none became is left out.
    pub fn counts(&self) -> BTreeMap<Status, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry(entry.status).or_default() += 1;
        }
        counts
    }

    /// What is not the same, the most telling first: regressions, then what is faster, then what may be either, each by how much;
    /// what came or went without being one is last.
    pub fn by_weight(&self) -> Vec<&Entry> {
        let rank = |entry: &Entry| match entry.status {
            _ if entry.regression => 0,
            Status::Slow => 1,
            Status::Fast => 2,
            Status::Ambiguous => 3,
            Status::Removed => 4,
            Status::Added | Status::Same => 5,
        };
        let change = |entry: &Entry| entry.times.as_ref().map_or(0.0, |times| times.ratio.ln().abs());
        let mut entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.status != Status::Same).collect();
        entries.sort_by(|one, other| rank(one).cmp(&rank(other)).then(change(other).total_cmp(&change(one))));
        entries
    }

    /// What regressed and how much, or what else became of the entries: `2 slower, the most matmul m_bin <=4 at 1.250 ± 0.028 times
    /// the old time`. Entries are called what `name` calls them.
    pub fn verdict(&self, name: &dyn Fn(&Entry) -> String) -> String {
        let counts = self.counts();
        let count = |status: Status| counts.get(&status).copied().unwrap_or(0);
        let told = |count: usize, what: &str| (count > 0).then(|| format!("{count} {what}"));
        if !self.regression {
            let better = [told(count(Status::Fast), "faster"), told(count(Status::Same), "the same")];
            return join(better);
        }
        let entries: Vec<&Entry> = self.by_weight().into_iter().filter(|entry| entry.regression).collect();
        let uncovered = entries.iter().filter(|entry| entry.uncovered).count();
        let classes: Vec<&str> =
            self.classes.iter().filter(|class| class.regression).map(|class| class.class.as_str()).collect();
        let worst = entries.iter().find_map(|entry| {
            let times = entry.times.as_ref().filter(|times| times.ratio > 1.0)?;
            Some(format!(
                "the most {} {} at {:.3} ± {:.3} times the old time",
                entry.class,
                name(entry),
                times.ratio,
                times.noise
            ))
        });
        let slower = entries.iter().filter(|entry| entry.status == Status::Slow).count();
        let parts = [
            told(slower, "slower"),
            told(entries.len() - slower - uncovered, "slower where a rule came or went"),
            told(uncovered, "no longer covered"),
            (!classes.is_empty()).then(|| format!("{} slower as a whole", classes.join(" and "))),
            told(self.lost_problems.len(), "of the problems covered no more"),
            worst,
        ];
        join(parts)
    }
}

impl Entry {
    /// Where it serves: `m_bin <=4`, `fallback small_m`, of a fallback with the bucket that stands out.
    pub fn name(&self) -> String {
        let kind = if self.rule { "" } else { "fallback " };
        let bucket = self.times.as_ref().and_then(|times| times.bucket.as_ref());
        let bucket = bucket.map(|bucket| format!(": {bucket}")).unwrap_or_default();
        format!("{kind}{}{bucket}", self.place)
    }
}

fn join(parts: impl IntoIterator<Item = Option<String>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
