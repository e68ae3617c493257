//! What an evaluation leaves behind for others to look at: `output/<gpu>/evaluation.json`.

use super::Report;
use crate::error::{Context, Error, Result};
use crate::heuristics::{self, Document};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The most that an evaluation's file may hold: some thousand times what forty problems of each family take.
const MOST_BYTES: u64 = 256 << 20;

/// What tells documents apart: the SHA-256 of a document's canonical text, in hex.
pub fn fingerprint(document: &Document) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(document.to_canonical_json()) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Report {
    /// Writes it, in place of what was there.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn write_atomically(&self, path: &Path) -> Result<()> {
        heuristics::replace(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            Ok(std::io::Write::write_all(file, b"\n")?)
        })
        .context(|| format!("evaluation {}", path.display()))
    }
}

/// An evaluation as it was written, as far as others look at it. Those of before `answers` are read too.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Evaluation {
    /// The document that was judged, by its name.
    pub document: String,
    /// And by its [`fingerprint`]; empty where the evaluation does not say.
    #[serde(default)]
    pub document_sha256: String,
    /// Its problems.
    pub problems: Vec<JudgedProblem>,
}

/// One problem of an evaluation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct JudgedProblem {
    /// Its family.
    pub family: String,
    /// Its dimensions and type.
    pub problem: String,
    /// Where what is served came from.
    pub source: String,
    /// Time of what is served over that of the best; none where there was no race.
    pub regret: Option<f64>,
    /// Time of what is served over that of the default.
    #[serde(default)]
    pub over_default: Option<f64>,
    /// The budget ran out before it was judged.
    #[serde(default)]
    pub unfinished: bool,
    /// What others would have come to.
    #[serde(default)]
    answers: BTreeMap<String, Answer>,
}

/// What one of those that may answer would have come to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Answer {
    /// Time of its config over that of the best; none where that does not work.
    pub regret: Option<f64>,
}

impl JudgedProblem {
    /// The regret of `served`, `model`, `rule`, `fallback` or `default`; none where that has no config that works.
    pub fn regret_of(&self, source: &str) -> Option<f64> {
        let regret = match (source, self.answers.get(source)) {
            ("served", _) => self.regret,
            (_, Some(answer)) => answer.regret,
            ("default", None) => Some(self.regret? / self.over_default?),
            (_, None) => None,
        };
        regret.filter(|regret| regret.is_finite() && *regret > 0.0)
    }
}

impl Evaluation {
    /// Reads what [`Report::write_atomically`] wrote.
    ///
    /// # Errors
    /// Where the file cannot be read, is far too large or holds no evaluation.
    pub fn load(path: &Path) -> Result<Self> {
        let what = || format!("evaluation {}", path.display());
        let mut text = String::new();
        let file = File::open(path).map_err(Error::usage).context(what)?;
        file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(Error::usage).context(what)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(Error::usage(format!("more than {} MiB, so no evaluation", MOST_BYTES >> 20)).context(what()));
        }
        serde_json::from_str(&text).map_err(Error::usage).context(what)
    }

    /// Whether it judged this document.
    pub fn is_of(&self, document: &Document) -> bool {
        self.document_sha256 == fingerprint(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regrets_are_read_by_who_answered_and_of_older_files_as_far_as_they_tell() {
        let text = r#"{"gpu": "h200", "document": "d", "problems": [
            {"family": "matmul", "problem": "m=1", "source": "model", "regret": 1.1, "over_default": 0.5,
             "answers": {"rule": {"regret": 1.4}, "fallback": {"regret": null}, "default": {"regret": 2.2}}},
            {"family": "matmul", "problem": "m=2", "source": "rule", "regret": 1.2, "over_default": 0.6},
            {"family": "matmul", "problem": "m=3", "source": "rule", "regret": null, "unfinished": true}]}"#;
        let evaluation: Evaluation = serde_json::from_str(text).unwrap();
        let [new, older, unfinished] = &evaluation.problems[..] else { unreachable!() };
        let regrets = |problem: &JudgedProblem| {
            ["served", "model", "rule", "fallback", "default"].map(|source| problem.regret_of(source))
        };
        assert_eq!(regrets(new), [Some(1.1), None, Some(1.4), None, Some(2.2)]);
        assert_eq!(regrets(older), [Some(1.2), None, None, None, Some(2.0)]);
        assert_eq!(regrets(unfinished), [None; 5]);
        assert!(!evaluation.is_of(&Document::default()), "it does not say whose it is");
    }

    #[test]
    fn a_report_is_read_back_and_a_broken_file_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evaluation.json");
        let report = Report::new("h200", "d.json", 0, Vec::new());
        let document = Document::default();
        Report { document_sha256: fingerprint(&document), ..report }.write_atomically(&path).unwrap();
        let read = Evaluation::load(&path).unwrap();
        assert!(read.is_of(&document) && read.document == "d.json");
        std::fs::write(&path, "{}").unwrap();
        let error = Evaluation::load(&path).unwrap_err().to_string();
        assert!(error.contains("evaluation.json") && error.contains("document"), "{error}");
    }
}
