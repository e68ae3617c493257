//! Is what looks slower slower? The old program races the new one, in the same rounds, before anything is called a regression.

use super::rounds::{duration_of, ln_ratio};
use crate::diff::{Contest, Diff, relative_sigma};
use crate::error::Result;
use crate::measure::{DurationClass, mean};
use serde::Serialize;

/// Problems raced for an entry.
const PROBLEMS: usize = 4;
/// Problems raced for a class that looks slower as a whole.
const PROBLEMS_OF_CLASS: usize = 8;
/// Races for an entry or class, at least: a race alone may be off by some per cent.
const RACES: usize = 8;
/// Most passes over the same problems.
const MOST_PASSES: usize = 6;
/// Slower by less is no regression.
const LEAST: f64 = 0.02;
/// The same of a class as a whole.
const LEAST_OF_CLASS: f64 = 0.015;
/// Half a 99 % interval in standard errors.
const Z_99: f64 = 2.58;

/// What a race of the old program with the new one came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Duel {
    /// The times of each round, in round order.
    Raced {
        /// The old program's.
        old_us: Vec<f64>,
        /// The new one's.
        new_us: Vec<f64>,
        /// The old kernel is gone: today's kernel ran with the old config.
        stand_in: bool,
    },
    /// Both are one program.
    SameProgram,
    /// One of them does not run.
    Failed(String),
}

/// What the races came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Slower by 2 % or more, a class by 1.5 %, and beyond noise: a regression.
    Confirmed,
    /// Not so: no regression.
    NotConfirmed,
    /// The old program could not be raced. What the documents' times say stands.
    Untold,
}

/// What looked slower, and what racing it came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confirmation {
    /// The class.
    pub class: String,
    /// The bucket or group; none for a class as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What the documents say: new times over old ones.
    pub documents: f64,
    /// What it came to.
    pub finding: Finding,
    /// New program over old one, by the races.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Half a 99 % interval of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// Problems raced, or found to run one program in both documents.
    pub problems: usize,
    /// Races.
    pub races: usize,
    /// What kept it from more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Confirmation {
    /// For people.
    pub fn line(&self) -> String {
        let place = self.place.as_ref().map(|place| format!(" {place}")).unwrap_or_default();
        let raced = match (self.ratio, self.noise) {
            (Some(ratio), Some(noise)) => format!("raced {ratio:.3} ± {noise:.3} on {} problems", self.problems),
            _ => "not raced".to_owned(),
        };
        let finding = match self.finding {
            Finding::Confirmed => "confirmed",
            Finding::NotConfirmed => "not confirmed",
            Finding::Untold => "what the times say stands",
        };
        let note = self.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
        format!(
            "{}{place}: {:.3} times the old time by the documents, {raced}: {finding}{note}",
            self.class, self.documents
        )
    }
}

/// Races what looks slower in `diff`, and leaves only what that confirms, or could not tell, as a regression. `duel` races one
/// problem, in another order of rounds with another turn.
pub(super) fn confirm(
    diff: &mut Diff,
    duel: &mut dyn FnMut(&Contest, u64) -> Result<Duel>,
) -> Result<Vec<Confirmation>> {
    let mut confirmations = Vec::new();
    for entry in diff.entries.iter_mut().filter(|entry| entry.is_suspect()) {
        let raced = Raced::of(&spread(&entry.contests, PROBLEMS), duel)?;
        let finding = raced.finding(LEAST);
        if finding != Finding::Untold {
            entry.settle(finding == Finding::Confirmed);
        }
        let documents = entry.times.as_ref().map_or(f64::NAN, |times| times.ratio);
        confirmations.push(raced.confirmation(&entry.class, Some(entry.place.clone()), documents, finding));
    }
    for class in diff.classes.iter_mut().filter(|class| class.suspect) {
        let raced = Raced::of(&spread(&class.contests, PROBLEMS_OF_CLASS), duel)?;
        let finding = raced.finding(LEAST_OF_CLASS);
        class.regression = match finding {
            Finding::Confirmed => true,
            Finding::NotConfirmed => false,
            Finding::Untold => class.regression,
        };
        confirmations.push(raced.confirmation(&class.class, None, class.ratio, finding));
    }
    diff.regression = diff.has_regression();
    Ok(confirmations)
}

/// At most `count` of the contests, evenly spread.
fn spread(contests: &[Contest], count: usize) -> Vec<&Contest> {
    let shown = contests.len().min(count);
    (0..shown).map(|index| &contests[index * contests.len() / shown]).collect()
}

/// What the races of some problems came to.
#[derive(Default)]
struct Raced {
    /// The changes of each problem, in logarithms, with the duration class of its races; none where both run one program.
    problems: Vec<(Option<DurationClass>, Vec<f64>)>,
    stand_in: bool,
    failures: Vec<String>,
}

impl Raced {
    /// Races the problems several times over: forth and back, so that what changes with time alone cancels out.
    fn of(contests: &[&Contest], duel: &mut dyn FnMut(&Contest, u64) -> Result<Duel>) -> Result<Self> {
        let mut raced = Self::default();
        if contests.is_empty() {
            raced.failures.push("the documents name no problem with a config in both".into());
            return Ok(raced);
        }
        raced.problems = vec![(None, Vec::new()); contests.len()];
        let passes = RACES.div_ceil(contests.len()).clamp(2, MOST_PASSES);
        for pass in 0..passes {
            let forth = 0..contests.len();
            let order: Vec<usize> = if pass % 2 == 0 { forth.collect() } else { forth.rev().collect() };
            for place in order {
                let (duration, changes) = &mut raced.problems[place];
                if !raced.failures.is_empty() {
                    break;
                }
                match duel(contests[place], pass as u64)? {
                    Duel::Raced { old_us, new_us, stand_in } => {
                        raced.stand_in |= stand_in;
                        *duration = Some(duration_of(&old_us));
                        match ln_ratio(&new_us, &old_us) {
                            Some(change) => changes.push(change),
                            None => raced.failures.push("a race without rounds".into()),
                        }
                    }
                    Duel::SameProgram if changes.is_empty() => changes.push(0.0),
                    Duel::SameProgram => {}
                    Duel::Failed(why) => raced.failures.push(format!("{}: {why}", contests[place].problem)),
                }
            }
        }
        Ok(raced)
    }

    /// Mean change in logarithms and its standard error: what one race is off by in another, or what the passes differ by where
    /// that is more. Nothing where some race has no outcome.
    fn change(&self) -> Option<(f64, f64)> {
        if !self.failures.is_empty() {
            return None;
        }
        let means: Option<Vec<f64>> = self.problems.iter().map(|(_, changes)| mean(changes)).collect();
        let means = means?;
        let change = mean(&means)?;
        let (mut known, mut seen, mut freedom) = (0.0, 0.0, 0.0);
        for ((duration, changes), middle) in self.problems.iter().zip(&means) {
            known += duration.map_or(0.0, |duration| relative_sigma(duration, 1).powi(2) / changes.len() as f64);
            seen += changes.iter().map(|change| (change - middle).powi(2)).sum::<f64>();
            freedom += changes.len() as f64 - 1.0;
        }
        let races: f64 = self.problems.iter().map(|(_, changes)| changes.len() as f64).sum();
        let seen = if freedom > 0.0 { (seen / freedom / races).sqrt() } else { 0.0 };
        Some((change, (known.sqrt() / means.len() as f64).max(seen)))
    }

    fn finding(&self, least: f64) -> Finding {
        match self.change() {
            Some((change, error)) if change >= least.ln_1p() && change > Z_99 * error => Finding::Confirmed,
            // Another kernel than the one that was served says nothing for that.
            Some(_) if !self.stand_in => Finding::NotConfirmed,
            _ => Finding::Untold,
        }
    }

    fn confirmation(&self, class: &str, place: Option<String>, documents: f64, finding: Finding) -> Confirmation {
        let raced = self.change().filter(|_| self.problems.iter().any(|(duration, _)| duration.is_some()));
        let same = self.failures.is_empty() && raced.is_none();
        let note = match self.failures.first() {
            Some(failure) => Some(failure.clone()),
            None if same => Some("both documents serve the same program".to_owned()),
            None => {
                self.stand_in.then(|| "the old kernel is no longer cached: today's ran with the old config".to_owned())
            }
        };
        Confirmation {
            class: class.to_owned(),
            place,
            documents,
            finding,
            ratio: raced.map(|(change, _)| change.exp()),
            noise: raced.map(|(_, error)| Z_99 * error),
            problems: self.problems.len(),
            races: self.problems.iter().filter(|(raced, _)| raced.is_some()).map(|(_, changes)| changes.len()).sum(),
            note,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::diff::{IncomparableTimes, diff};
    use crate::heuristics::Document;
    use serde_json::json;

    fn document(us: f64) -> Document {
        let problem =
            |at: u32| json!({ "problem": format!("m={at},n=512,k=512 bf16"), "served_us": us, "noise": 0.04 });
        let problems: Vec<_> = (1..=4).map(problem).collect();
        Document::from_value(json!({
            "schema_version": 2,
            "policy": {},
            "fallbacks": {},
            "rules": [{
                "kernel_class": "matmul", "shape_bucket": { "m_bin": "<=4" }, "match_exact_only": true,
                "source": { "problems": problems, "kernels": ["k"] },
                "templates": [{ "template": { "block_sizes": [16] } }],
            }],
        }))
        .unwrap()
    }

    /// What became of a rule that takes `us` in place of 10 µs, when each duel is `outcome`.
    fn after(us: f64, outcome: impl Fn(u64) -> Duel) -> (bool, Vec<Confirmation>) {
        let mut diff = diff(&document(10.0), &document(us), IncomparableTimes::Refuse).unwrap();
        let confirmations = confirm(&mut diff, &mut |_, pass| Ok(outcome(pass))).unwrap();
        assert_eq!(diff.regression, diff.entries.iter().any(|entry| entry.regression));
        (diff.regression, confirmations)
    }

    fn raced(factor: f64) -> Duel {
        Duel::Raced { old_us: vec![10.0; 90], new_us: vec![10.0 * factor; 90], stand_in: false }
    }

    #[test]
    fn only_what_a_race_confirms_is_a_regression() {
        let (regression, confirmations) = after(10.6, |_| raced(1.06));
        assert!(regression && confirmations[0].finding == Finding::Confirmed, "{confirmations:?}");
        assert_eq!((confirmations[0].problems, confirmations[0].races), (4, 8));
        assert!((confirmations[0].ratio.unwrap() - 1.06).abs() < 1e-9);
        let (regression, confirmations) = after(10.6, |_| raced(1.0));
        assert!(!regression && confirmations[0].finding == Finding::NotConfirmed);
        assert!(confirmations[0].line().contains("not confirmed"), "{}", confirmations[0].line());
        assert!(!after(10.6, |_| raced(1.015)).0, "sure, and nothing anyone is told of");
    }

    #[test]
    fn passes_that_disagree_confirm_nothing() {
        assert!(!after(10.6, |pass| raced(if pass == 0 { 1.6 } else { 0.7 })).0);
    }

    #[test]
    fn what_is_ambiguous_is_raced_too() {
        let ambiguous = diff(&document(10.0), &document(10.22), IncomparableTimes::Refuse).unwrap();
        assert!(!ambiguous.regression && ambiguous.entries[0].is_suspect(), "{ambiguous:?}");
        assert!(after(10.22, |_| raced(1.04)).0);
        assert!(after(10.1, |_| raced(1.04)).1.is_empty(), "within 2 % nothing is");
    }

    #[test]
    fn one_program_is_no_slower_than_itself_and_what_cannot_be_told_stands() {
        let (regression, confirmations) = after(10.6, |_| Duel::SameProgram);
        assert!(!regression && confirmations[0].note.as_ref().unwrap().contains("same program"));
        let (regression, confirmations) = after(10.6, |_| Duel::Failed("gone".into()));
        assert!(regression && confirmations[0].finding == Finding::Untold);
        assert!(confirmations[0].line().contains("m=1,n=512,k=512 bf16: gone"), "{}", confirmations[0].line());
        let stand_in = |factor: f64| match raced(factor) {
            Duel::Raced { old_us, new_us, .. } => Duel::Raced { old_us, new_us, stand_in: true },
            other => other,
        };
        assert!(after(10.6, |_| stand_in(1.0)).0, "another kernel says nothing for the one that was served");
        assert!(after(10.22, |_| stand_in(1.05)).0);
        assert!(!after(10.22, |_| stand_in(1.0)).0, "nor against it");
    }
}
