//! Where files lie: what a GPU's folder below `output/` holds, and the folders that are the user's alone.

#[cfg(feature = "harness")]
pub(crate) mod lossy;
mod private;

pub use private::cache_folder;
#[cfg(feature = "harness")]
pub(crate) use private::device_lock;
pub(crate) use private::make_private;

#[cfg(feature = "harness")]
use crate::error::Error;
use crate::error::{Context, Result};
#[cfg(feature = "harness")]
use crate::heuristics;
use crate::model::Family;
use std::path::{Path, PathBuf};

/// `output/<gpu>/`, which holds all that was measured on one kind of device and what was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFolder {
    folder: PathBuf,
    /// The GPU's short name.
    gpu: String,
}

impl GpuFolder {
    /// The folder of a GPU by its short name, below `output`. Nothing is made.
    pub fn new(output: &Path, gpu: &str) -> Self {
        Self { folder: output.join(gpu), gpu: gpu.to_owned() }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// `observed_heuristics_<gpu>.json`
    pub fn document(&self) -> PathBuf {
        self.folder.join(format!("observed_heuristics_{}.json", self.gpu))
    }

    /// `journal/`
    pub fn journals(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// `journal/<family>.jsonl`, or `….shard-I-of-N.jsonl` where there is more than one shard, so that shards may share a
    /// folder.
    pub fn journal(&self, family: Family, shard: (usize, usize)) -> PathBuf {
        self.journals().join(match shard {
            (_, 1) => format!("{family}.jsonl"),
            (index, count) => format!("{family}.shard-{index}-of-{count}.jsonl"),
        })
    }

    /// Every journal there is of a family: the whole sweep's and the shards', sorted.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn journals_of(&self, family: Family) -> Result<Vec<PathBuf>> {
        let (whole, shard) = (format!("{family}.jsonl"), format!("{family}.shard-"));
        files(&self.journals(), |name| name == whole || name.starts_with(&shard) && has_ending(name, ".jsonl"))
    }

    /// `archive/`
    pub fn archives(&self) -> PathBuf {
        self.folder.join("archive")
    }

    /// `archive/<family>.jsonl.zst`: journals as they are committed.
    pub fn archive(&self, family: Family) -> PathBuf {
        self.archives().join(format!("{family}.jsonl.zst"))
    }

    /// All journals, or all archives where there are none.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub fn recorded(&self) -> Result<Vec<PathBuf>> {
        let journals = files(&self.journals(), |name| has_ending(name, ".jsonl"))?;
        if !journals.is_empty() {
            return Ok(journals);
        }
        files(&self.archives(), |name| has_ending(name, ".jsonl.zst"))
    }

    /// `evaluate/<family>.jsonl`: apart from the sweep's journals, since the document must not learn from it.
    pub fn evaluation(&self, family: Family) -> PathBuf {
        self.folder.join("evaluate").join(format!("{family}.jsonl"))
    }

    /// `evaluation.json`: what the last evaluation found.
    pub fn evaluation_report(&self) -> PathBuf {
        self.folder.join("evaluation.json")
    }

    /// `effort.json`: the time that the runs behind the journals took.
    pub fn effort(&self) -> PathBuf {
        self.folder.join("effort.json")
    }

    /// `nights/`, which holds a folder for each.
    pub fn nights(&self) -> PathBuf {
        self.folder.join("nights")
    }

    /// `sweep.lock`, which whoever writes the journals holds; each shard has one of its own.
    pub fn lock(&self, shard: (usize, usize)) -> PathBuf {
        self.folder.join(match shard {
            (_, 1) => "sweep.lock".to_owned(),
            (index, count) => format!("sweep.shard-{index}-of-{count}.lock"),
        })
    }
}

fn has_ending(name: &str, ending: &str) -> bool {
    name.strip_suffix(ending).is_some()
}

/// The files of a folder whose names are `wanted`, sorted; none where there is no such folder.
fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let what = || format!("reading {}", folder.display());
    let mut files = Vec::new();
    for entry in folder.read_dir().context(what)? {
        let path = entry.context(what)?.path();
        if path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether files can be replaced and appended to, or made, where they are to be: what takes hours must not end in nothing.
///
/// # Errors
/// Where one cannot.
#[cfg(feature = "harness")]
pub(crate) fn check_outputs(replaced: Option<&Path>, appended: &[PathBuf]) -> Result<()> {
    let check = |path: &Path, is_appended: bool| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = std::fs::create_dir_all(folder).and_then(|()| heuristics::new_file(folder, 0o600));
        let writable = made.and_then(|_| match path.is_file() {
            true if is_appended => std::fs::OpenOptions::new().append(true).open(path).map(drop),
            false if path.exists() => Err(std::io::Error::other("it is no file")),
            _ => Ok(()),
        });
        let refused = |error| Error::usage(format!("{error}; clear the way, or give --output another folder"));
        writable.map_err(refused).context(|| format!("{} cannot be written", path.display()))
    };
    replaced.map_or(Ok(()), |path| check(path, false))?;
    appended.iter().try_for_each(|path| check(path, true))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_family_s_journals_are_its_own_and_archives_stand_in_for_journals_that_are_not_there() {
        let output = tempfile::tempdir().unwrap();
        let folder = GpuFolder::new(output.path(), "h200");
        assert_eq!(folder.document(), output.path().join("h200/observed_heuristics_h200.json"));
        let empty: Vec<PathBuf> = Vec::new();
        assert_eq!((folder.journals_of(Family::Matmul).unwrap(), folder.recorded().unwrap()), (empty.clone(), empty));
        let touch = |path: &Path| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let archive = folder.archive(Family::Matmul);
        touch(&archive);
        assert_eq!(folder.recorded().unwrap(), [archive]);
        let [whole, shard, other] = [
            folder.journal(Family::Matmul, (0, 1)),
            folder.journal(Family::Matmul, (2, 3)),
            folder.journal(Family::MatmulInt4, (0, 1)),
        ];
        for path in [&whole, &shard, &other, &folder.journals().join("matmul.jsonl.20260101T000000.000Z")] {
            touch(path);
        }
        assert_eq!(folder.journals_of(Family::Matmul).unwrap(), [whole.clone(), shard.clone()]);
        assert_eq!(folder.recorded().unwrap(), [whole, shard, other]);
        assert_ne!(folder.lock((0, 2)), folder.lock((1, 2)), "shards of one folder run side by side");
    }
}
