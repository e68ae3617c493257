//! What a comparison of two documents says.

use super::night::{Calibration, TOLD_APART};
use super::stability::Stability;
use crate::heuristics::Template;
use serde::Serialize;

/// What became of a rule or fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Faster by more than 2 %, and by more than any entry of a night without changes would be.
    Fast,
    /// Slower, likewise.
    Slow,
    /// Within 2 %.
    Same,
    /// Beyond 2 %, but not surely so; or faster on some problems and slower on others; or another config without times to compare.
    Ambiguous,
    /// Only the new document has it.
    Added,
    /// Only the old document has it.
    Removed,
}

impl Status {
    /// The word in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "FAST",
            Self::Slow => "SLOW",
            Self::Same => "SAME",
            Self::Ambiguous => "AMBIGUOUS",
            Self::Added => "ADDED",
            Self::Removed => "REMOVED",
        }
    }
}

/// New times over old times of the problems both documents have, as far as these can be told from a shift that all share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Mean of the problems' ratios, in logarithms, the surer ones with more weight.
    pub ratio: f64,
    /// Least and largest of them.
    pub range: [f64; 2],
    /// Half a 95 % interval of `ratio`.
    pub noise: f64,
    /// Geometric mean of the times as they stand in the documents.
    pub absolute: f64,
    /// How far it stands out, in standard deviations; of no problem more than four count.
    pub deviations: f64,
    /// Problems compared.
    pub problems: usize,
    /// Those of them that were compared beside programs which did not change.
    pub anchored: usize,
    /// Some problem is far faster and some other far slower.
    pub mixed: bool,
    /// Where the problems of one bucket of a fallback stand out, that bucket: the figures are of these problems alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// A rule or fallback of either document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its class.
    pub class: String,
    /// The bucket of a rule, the group of a fallback.
    pub place: String,
    /// Whether it is a rule.
    pub rule: bool,
    /// What became of it.
    pub status: Status,
    /// How its times changed, where there are times to compare.
    #[serde(flatten)]
    pub times: Option<Ratio>,
    /// Another config is served first.
    pub config_changed: bool,
    /// What served its shapes is gone, and nothing is known to serve them.
    pub uncovered: bool,
    /// Whether it counts as a regression: slower beyond chance, or uncovered.
    pub regression: bool,
    /// What to race, should someone want to know for sure, on the problems behind `times`.
    #[serde(skip)]
    pub contests: Vec<Contest>,
}

impl Entry {
    /// Whether a race could tell more: its times are slower by more than 2 %, surely so or not.
    pub fn is_suspect(&self) -> bool {
        let slower = self.times.as_ref().is_some_and(|times| times.ratio > 1.0 + TOLD_APART);
        slower && !matches!(self.status, Status::Same | Status::Fast)
    }

    /// What a race of its contests came to: a regression, or none that anyone could see again.
    pub(crate) fn settle(&mut self, slower: bool) {
        self.regression = slower || self.uncovered;
        match self.status {
            Status::Ambiguous if slower => self.status = Status::Slow,
            Status::Slow if !slower => self.status = Status::Ambiguous,
            _ => {}
        }
    }
}

/// What each document serves on one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Contest {
    /// The class.
    pub class: String,
    /// The problem's name in it.
    pub problem: String,
    /// What it took by the old document.
    pub old_us: f64,
    /// The old document's config and the hashes of the kernels it ran as, over all problems of its entry.
    pub old: (Template, Vec<String>),
    /// The same of the new one.
    pub new: (Template, Vec<String>),
}

/// How the absolute times of a class changed as a whole, its problems of 200 µs and more left out, whose clocks differ most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassShift {
    /// The class.
    pub class: String,
    /// Geometric mean of new times over old ones, strays trimmed.
    pub ratio: f64,
    /// Half a 95 % interval of it.
    pub noise: f64,
    /// Problems compared.
    pub problems: usize,
    /// Slower by more than 1.5 %, and by more than three standard errors beyond these: a race could tell whether it is.
    pub suspect: bool,
    /// Slower by more than 4 %, and so many errors beyond: more than sweeps of the same kernels differ by.
    pub regression: bool,
    /// What to race, should someone want to know for sure.
    #[serde(skip)]
    pub contests: Vec<Contest>,
}

/// A difference in what was measured with what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// The class; none where the documents as a whole differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// `driver`, `nvrtc`, `kernel`, …
    pub field: String,
    /// In the old document.
    pub old: String,
    /// In the new one.
    pub new: String,
}

/// A problem that only the old document covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LostProblem {
    /// Its class.
    pub class: String,
    /// Its name.
    pub problem: String,
}

/// All that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Something is slower, or covered no more.
    pub regression: bool,
    /// Rules, then fallbacks, sorted by class and place.
    pub entries: Vec<Entry>,
    /// The classes that both documents have times of.
    pub classes: Vec<ClassShift>,
    /// Problems that are covered no more.
    pub lost_problems: Vec<LostProblem>,
    /// What the environments differ in.
    pub environment: Vec<Change>,
    /// How many buckets are served another config first.
    pub stability: Stability,
    /// What it took to be SLOW or FAST.
    pub calibration: Calibration,
}

impl Diff {
    /// Whether something looks slower, surely so or not.
    pub(crate) fn has_suspects(&self) -> bool {
        self.entries.iter().any(Entry::is_suspect) || self.classes.iter().any(|class| class.suspect)
    }

    /// Whether something is slower, or covered no more.
    pub(crate) fn has_regression(&self) -> bool {
        let slower =
            self.entries.iter().any(|entry| entry.regression) || self.classes.iter().any(|class| class.regression);
        slower || !self.lost_problems.is_empty()
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::diff::{IncomparableTimes, diff};
    use crate::heuristics::Document;

    fn entry(status: Status, ratio: Option<f64>) -> Entry {
        let times = ratio.map(|ratio| Ratio {
            ratio,
            range: [ratio; 2],
            noise: 0.01,
            absolute: ratio,
            deviations: 2.0,
            problems: 1,
            anchored: 0,
            mixed: false,
            bucket: None,
        });
        Entry {
            class: "matmul".to_owned(),
            place: "m_bin <=4".to_owned(),
            rule: true,
            status,
            times,
            config_changed: false,
            uncovered: false,
            regression: status == Status::Slow,
            contests: Vec::new(),
        }
    }

    #[test]
    fn a_race_says_whether_what_looks_slower_is() {
        let settled = |status, slower, uncovered| {
            let mut entry = Entry { uncovered, ..entry(status, Some(1.05)) };
            entry.settle(slower);
            (entry.status, entry.regression)
        };
        assert_eq!(settled(Status::Ambiguous, true, false), (Status::Slow, true));
        assert_eq!(settled(Status::Ambiguous, false, false), (Status::Ambiguous, false));
        assert_eq!(settled(Status::Slow, true, false), (Status::Slow, true));
        assert_eq!(settled(Status::Slow, false, false), (Status::Ambiguous, false));
        for other in [Status::Removed, Status::Added] {
            assert_eq!([true, false].map(|slower| settled(other, slower, false)), [(other, true), (other, false)]);
        }
        assert_eq!(settled(Status::Removed, false, true), (Status::Removed, true), "no race brings back what is gone");
    }

    #[test]
    fn what_looks_slower_by_more_than_two_per_cent_is_worth_a_race() {
        for status in [Status::Slow, Status::Ambiguous, Status::Removed, Status::Added] {
            let suspect = |ratio| entry(status, ratio).is_suspect();
            assert_eq!([Some(1.021), Some(1.019), Some(0.9), None].map(suspect), [true, false, false, false]);
        }
        for status in [Status::Same, Status::Fast] {
            assert!(!entry(status, Some(1.1)).is_suspect(), "{status:?}");
        }
    }

    #[test]
    fn anything_slower_or_lost_is_a_regression_of_the_whole() {
        let nothing = Document::from_value(
            serde_json::json!({ "schema_version": 2, "policy": {}, "rules": [], "fallbacks": {} }),
        )
        .unwrap();
        let same = diff(&nothing, &nothing, IncomparableTimes::Refuse).unwrap();
        let told = |diff: &Diff| (diff.has_suspects(), diff.has_regression());
        assert_eq!(told(&same), (false, false));
        let with = |entry| Diff { entries: vec![self::entry(Status::Same, Some(1.0)), entry], ..same.clone() };
        assert_eq!(told(&with(entry(Status::Slow, Some(1.1)))), (true, true));
        assert_eq!(told(&with(entry(Status::Ambiguous, Some(1.1)))), (true, false));
        assert_eq!(told(&with(entry(Status::Fast, Some(0.9)))), (false, false));
        let class = |suspect, regression| {
            let shift = ClassShift {
                class: "matmul".to_owned(),
                ratio: 1.05,
                noise: 0.01,
                problems: 9,
                suspect,
                regression,
                contests: Vec::new(),
            };
            told(&Diff { classes: vec![shift], ..same.clone() })
        };
        assert_eq!(
            [class(false, false), class(true, false), class(true, true)],
            [(false, false), (true, false), (true, true)]
        );
        let lost = LostProblem { class: "matmul".to_owned(), problem: "m=1,n=2,k=3 bf16".to_owned() };
        assert_eq!(told(&Diff { lost_problems: vec![lost], ..same }), (false, true));
    }
}
