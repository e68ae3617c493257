//! The folder of one night: what was there before, what was measured, what came of it. The last nights' are kept.

use crate::error::{Context, Result};
use crate::journal;
use std::fs;
use std::path::{Path, PathBuf};

/// `output/<gpu>/nights/<when>/`
pub(super) struct Night {
    folder: PathBuf,
}

impl Night {
    /// Makes tonight's folder and removes all but the `keep` last, this one among them. A clock that was set back neither
    /// overwrites an earlier night nor has this one removed.
    pub(super) fn begin(gpu_folder: &Path, keep: usize) -> Result<Self> {
        let nights = gpu_folder.join("nights");
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
        let night = Self { folder };
        night.remove_old(&nights, keep).context(what)?;
        Ok(night)
    }

    fn remove_old(&self, nights: &Path, keep: usize) -> Result<()> {
        let mut others = Vec::new();
        for entry in nights.read_dir()? {
            let path = entry?.path();
            // Whatever else lies here is not ours to remove.
            let is_night = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                name.split('-').next().is_some_and(|year| year.len() == 4 && year.parse::<u16>().is_ok())
                    && name.contains('T')
            });
            if is_night && path.is_dir() && path != self.folder {
                others.push(path);
            }
        }
        others.sort();
        let surplus = (others.len() + 1).saturating_sub(keep.max(1));
        for folder in others.iter().take(surplus) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("nights")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_nights_are_kept_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["2020-01-01T030000Z", "2020-01-02T030000Z", "2020-01-03T030000Z", "mine"] {
            fs::create_dir_all(folder.path().join("nights").join(name)).unwrap();
        }
        let night = Night::begin(folder.path(), 2).unwrap();
        let tonight = night.folder().file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(names(folder.path()), ["2020-01-03T030000Z", &tonight, "mine"]);
    }

    #[test]
    fn a_clock_set_back_costs_no_night() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("nights/2999-01-01T030000Z")).unwrap();
        let night = Night::begin(folder.path(), 1).unwrap();
        assert!(night.folder().is_dir(), "tonight's folder stays, whatever the others are called");
        let nights: Vec<PathBuf> =
            (0..3).map(|_| Night::begin(folder.path(), 9).unwrap().folder().to_path_buf()).collect();
        assert_eq!(nights.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "no two nights share a folder");
    }
}
