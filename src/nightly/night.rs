//! The folder of one night: what was there before, what was measured, what came of it. The last good nights' are kept.

use super::report::{Report, Verdict};
use crate::error::{Context, Result};
use crate::heuristics;
use crate::journal;
use crate::paths::GpuFolder;
use std::fs;
use std::path::{Path, PathBuf};

/// What a night came to: the report of one that did not fail.
const REPORT: &str = "report.json";

/// `output/<gpu>/nights/<when>/`
pub(super) struct Night {
    nights: PathBuf,
    folder: PathBuf,
}

impl Night {
    /// Makes tonight's folder. A clock that was set back does not overwrite an earlier night.
    pub(super) fn begin(nights: PathBuf) -> Result<Self> {
        let what = || format!("folder {}", nights.display());
        fs::create_dir_all(&nights).context(what)?;
        let stamp = jiff::Timestamp::now().strftime("%Y-%m-%dT%H%M%SZ").to_string();
        let mut folder = nights.join(&stamp);
        for turn in 2.. {
            if !folder.exists() {
                break;
            }
            folder = nights.join(format!("{stamp}-{turn}"));
        }
        fs::create_dir(&folder).context(what)?;
        Ok(Self { nights, folder })
    }

    /// Where tonight's document waits for the night to end. A night that fails leaves it there, and no document.
    pub(super) fn candidate(&self) -> PathBuf {
        self.folder.join("candidate.json")
    }

    /// Gives tonight's document its name, writes down what the night came to, and after a good one removes all nights before the
    /// `keep` last good ones. Nights that fail, or whose document is kept out for a regression, cost no good one its place.
    pub(super) fn end(&self, candidate: &Path, report: &Report, keep: usize) -> Result<()> {
        let what = || format!("folder {}", self.folder.display());
        fs::rename(candidate, self.folder.join(report.document.file_name().unwrap_or_default())).context(what)?;
        heuristics::replace(&self.folder.join(REPORT), |file| {
            serde_json::to_writer_pretty(&mut *file, report)?;
            Ok(writeln!(file)?)
        })
        .context(what)?;
        if report.verdict == Verdict::Kept { Ok(()) } else { self.remove_old(keep).context(what) }
    }

    fn remove_old(&self, keep: usize) -> Result<()> {
        let others: Vec<PathBuf> = folders(&self.nights)?.into_iter().filter(|path| *path != self.folder).collect();
        // Tonight is the last good one, whatever the others are called.
        let most = keep.max(1) - 1;
        let goods: Vec<&PathBuf> = others.iter().rev().filter(|folder| is_good(folder)).take(most).collect();
        if goods.len() < most {
            return Ok(());
        }
        for folder in others.iter().filter(|folder| goods.last().is_none_or(|oldest| folder < oldest)) {
            fs::remove_dir_all(folder)?;
        }
        Ok(())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps a copy of a file.
    pub(super) fn keep(&self, file: &Path, name: &str) -> Result<()> {
        fs::copy(file, self.folder.join(name)).context(|| format!("keeping {}", file.display()))?;
        Ok(())
    }

    /// The journals of before tonight that are kept here: copies, and those that were taken out of the way.
    pub(super) fn earlier_journals(&self) -> Result<Vec<PathBuf>> {
        let mut journals = Vec::new();
        for folder in [self.folder.clone(), self.folder.join("before")].iter().filter(|folder| folder.is_dir()) {
            for entry in folder.read_dir().context(|| format!("folder {}", folder.display()))? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_earlier = !folder.ends_with("before") && name.starts_with("before-");
                if path.is_file() && name.contains(".jsonl") && (is_earlier || folder.ends_with("before")) {
                    journals.push(path);
                }
            }
        }
        journals.sort();
        Ok(journals)
    }

    /// Takes a journal out of the way: its family is measured again from the start.
    pub(super) fn set_aside(&self, journal: &Path) -> Result<()> {
        journal::set_aside(journal, &self.folder.join("before")).map(drop)
    }
}

/// A night that came to a document, as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// When it began: the name of its folder.
    pub when: String,
    /// What became of its document, as its report says: `replaced`, `same`, `unchecked`, `kept`; empty where there is none.
    pub verdict: String,
    /// The document it made.
    pub document: PathBuf,
}

/// The nights of a GPU that came to a document, oldest first.
///
/// # Errors
/// Where the folder cannot be read.
pub fn kept(gpu_folder: &GpuFolder) -> Result<Vec<Kept>> {
    let nights = gpu_folder.nights();
    if !nights.is_dir() {
        return Ok(Vec::new());
    }
    let mut kept = Vec::new();
    for folder in folders(&nights).context(|| format!("folder {}", nights.display()))? {
        if let Some(document) = document_of(&folder) {
            let when = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let verdict = verdict(&folder).unwrap_or_default();
            kept.push(Kept { when, verdict, document });
        }
    }
    Ok(kept)
}

/// The folders of nights, oldest first. Whatever else lies there is not ours.
fn folders(nights: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in nights.read_dir()? {
        let path = entry?.path();
        let is_night = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.split('-').next().is_some_and(|year| year.len() == 4 && year.parse::<u16>().is_ok())
                && name.contains('T')
        });
        if is_night && path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The document in a night's folder.
fn document_of(night: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(night).into_iter().flatten().flatten();
    files
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("observed_heuristics_"))
        .map(|entry| entry.path())
        .min()
}

/// What a night's report says became of its document, empty where it does not say; nothing where there is no report.
fn verdict(night: &Path) -> Option<String> {
    let report = fs::read(night.join(REPORT)).ok()?;
    let report = serde_json::from_slice::<serde_json::Value>(&report).unwrap_or_default();
    Some(report["verdict"].as_str().unwrap_or_default().to_owned())
}

/// Whether a night came to a document that was fit to be served. One of a version that wrote no reports was, where it holds one.
fn is_good(night: &Path) -> bool {
    match verdict(night) {
        Some(verdict) => ["replaced", "same", "unchecked"].contains(&verdict.as_str()),
        None => document_of(night).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "observed_heuristics_cpu.json";

    /// A night of before, with what is in it.
    fn earlier(folder: &Path, name: &str, files: &[(&str, &str)]) {
        let night = folder.join("nights").join(name);
        fs::create_dir_all(&night).unwrap();
        for (file, text) in files {
            fs::write(night.join(file), text).unwrap();
        }
    }

    /// Tonight, and what it came to, if it did not fail.
    fn tonight(folder: &Path, keep: usize, verdict: Option<Verdict>) -> String {
        let night = Night::begin(folder.join("nights")).unwrap();
        if let Some(verdict) = verdict {
            let report = Report {
                gpu: "cpu".into(),
                verdict,
                regression: verdict == Verdict::Kept,
                cut_short: false,
                unworkable: false,
                document: folder.join(DOCUMENT),
                night: night.folder().to_path_buf(),
                diff: None,
                confirmations: Vec::new(),
                undefended: Vec::new(),
            };
            fs::write(night.candidate(), "{}").unwrap();
            night.end(&night.candidate(), &report, keep).unwrap();
        }
        night.folder().file_name().unwrap().to_string_lossy().into_owned()
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("nights")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_good_nights_are_kept_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["2020-01-01T030000Z", "2020-01-02T030000Z", "2020-01-03T030000Z"] {
            earlier(folder.path(), name, &[(DOCUMENT, "{}")]);
        }
        earlier(folder.path(), "mine", &[]);
        let tonight = tonight(folder.path(), 2, Some(Verdict::Replaced));
        assert_eq!(names(folder.path()), ["2020-01-03T030000Z", &tonight, "mine"]);
    }

    #[test]
    fn nights_that_come_to_nothing_cost_no_good_one_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let good = ["2020-01-01T030000Z", "2020-01-02T030000Z", "2020-01-03T030000Z"];
        for name in good {
            earlier(folder.path(), name, &[(DOCUMENT, "{}"), (REPORT, r#"{"verdict":"same"}"#)]);
        }
        let mut bad = Vec::new();
        for verdict in [None, Some(Verdict::Kept)].into_iter().cycle().take(8) {
            bad.push(tonight(folder.path(), 3, verdict));
        }
        let all = names(folder.path());
        assert!(good.iter().all(|name| all.contains(&(*name).to_owned())), "{all:?}");
        let last = tonight(folder.path(), 3, Some(Verdict::Same));
        let all = names(folder.path());
        assert_eq!(all[..2], good[1..], "with tonight there are three good ones");
        assert!(all.contains(&last) && bad.iter().all(|name| all.contains(name)), "{all:?}");
    }

    #[test]
    fn a_clock_set_back_costs_no_night() {
        let folder = tempfile::tempdir().unwrap();
        earlier(folder.path(), "2999-01-01T030000Z", &[(DOCUMENT, "{}")]);
        let last = tonight(folder.path(), 1, Some(Verdict::Replaced));
        assert!(names(folder.path()).contains(&last), "tonight's folder stays, whatever the others are called");
        let nights: Vec<String> = (0..3).map(|_| tonight(folder.path(), 9, None)).collect();
        assert_eq!(nights.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "no two nights share a folder");
    }
}
