//! How much of a config space compiles, and the record of it that is kept beside a GPU's documents.

use super::Key;
use crate::error::{Context, Error, Result};
use crate::heuristics;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// What became of a space's kernels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    /// Kernels that the space has.
    pub space: usize,
    /// Those that compiled.
    pub compiled: usize,
    /// Those that were refused by the compiler, or took it too long.
    pub failed: usize,
    /// Those that compiled and keep values in memory because registers ran out.
    pub spilling: usize,
    /// Those of which the driver alone can tell that: PTX and cubins.
    #[serde(default, skip_serializing_if = "is_none")]
    pub untold: usize,
    /// A hash of the identities of all that were tried: of sources, macros, architecture and compiler.
    pub digest: String,
}

impl Coverage {
    /// Of a space of so many kernels, of which these are tried.
    pub fn new(space: usize, tried: &BTreeSet<Key>) -> Self {
        let keys: Vec<&str> = tried.iter().map(|key| key.0.as_str()).collect();
        Self { space, digest: Key::of(&keys).0, ..Self::default() }
    }

    /// Takes in what became of a kernel; whether it spills, where that is known.
    pub fn count(&mut self, has_compiled: bool, spills: Option<bool>) {
        self.compiled += usize::from(has_compiled);
        self.failed += usize::from(!has_compiled);
        self.spilling += usize::from(spills == Some(true));
        self.untold += usize::from(has_compiled && spills.is_none());
    }

    /// Of two spaces together.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self {
            space: self.space + other.space,
            compiled: self.compiled + other.compiled,
            failed: self.failed + other.failed,
            spilling: self.spilling + other.spilling,
            untold: self.untold + other.untold,
            digest: Key::of(&[&self.digest, &other.digest]).0,
        }
    }

    /// Whether every kernel of the space compiled.
    pub fn is_whole(&self) -> bool {
        self.compiled == self.space
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// `2310 of 2310 kernels of the space compiled (100 %), 0 failed, 0 spill`
impl fmt::Display for Coverage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, compiled, failed, spilling, untold, .. } = self;
        // Never rounded up to all of them.
        let share = (1000 * compiled).checked_div(*space).unwrap_or(1000);
        let share = if share % 10 == 0 { format!("{}", share / 10) } else { format!("{}.{}", share / 10, share % 10) };
        write!(
            out,
            "{compiled} of {space} kernels of the space compiled ({share} %), {failed} failed, {spilling} spill"
        )?;
        match untold {
            0 => Ok(()),
            _ => write!(out, ", of {untold} the driver alone can tell"),
        }
    }
}

/// `output/<gpu>/compiled.json`: how much of a GPU's spaces has compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// The GPU's short name.
    pub gpu: String,
    /// The architecture.
    pub arch: String,
    /// The compiler's full version.
    pub nvrtc: String,
    /// What became of each family's kernels, each tried.
    pub families: BTreeMap<String, Coverage>,
}

impl Recorded {
    /// Reads a record.
    ///
    /// # Errors
    /// Where it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).context(|| path.display().to_string())?;
        serde_json::from_slice(&text).map_err(Error::from).context(|| path.display().to_string())
    }

    /// Writes down what became of these families' kernels, beside what is written of others for the same `[gpu, arch, nvrtc]`.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub fn update(path: &Path, environment: [String; 3], families: BTreeMap<String, Coverage>) -> Result<()> {
        let [gpu, arch, nvrtc] = environment;
        let mut record = Self { gpu, arch, nvrtc, families: BTreeMap::new() };
        if path.exists() {
            let earlier = Self::read(path)?;
            let alike = [&earlier.gpu, &earlier.arch, &earlier.nvrtc] == [&record.gpu, &record.arch, &record.nvrtc];
            record.families = if alike { earlier.families } else { BTreeMap::new() };
        }
        record.families.extend(families);
        heuristics::replace(path, |file| {
            serde_json::to_writer_pretty(&mut *file, &record)?;
            Ok(file.write_all(b"\n")?)
        })
        .context(|| format!("writing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_compile_is_never_rounded_away() {
        let keys = BTreeSet::from([Key("a".into()), Key("b".into())]);
        let mut coverage = Coverage::new(2000, &keys);
        (0..1999).for_each(|kernel| coverage.count(true, Some(kernel < 3)));
        coverage.count(false, Some(false));
        assert_eq!(coverage.to_string(), "1999 of 2000 kernels of the space compiled (99.9 %), 1 failed, 3 spill");
        let mut told = coverage.clone();
        told.count(true, None);
        assert!(told.to_string().ends_with("3 spill, of 1 the driver alone can tell"), "{told}");
        assert!(!coverage.is_whole() && coverage.with(&coverage).space == 4000);
        assert_ne!(coverage.digest, Coverage::new(2000, &BTreeSet::from([Key("a".into())])).digest);
    }

    #[test]
    fn a_record_keeps_other_families_of_the_same_compiler_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("b200/compiled.json");
        let of = |family: &str| BTreeMap::from([(family.to_owned(), Coverage::new(1, &BTreeSet::new()))]);
        let environment = |nvrtc: &str| ["b200", "sm_100a", nvrtc].map(str::to_owned);
        Recorded::update(&path, environment("13.0.88"), of("matmul"))?;
        Recorded::update(&path, environment("13.0.88"), of("attention"))?;
        assert_eq!(Recorded::read(&path)?.families.len(), 2);
        Recorded::update(&path, environment("13.1.1"), of("attention"))?;
        assert_eq!(Recorded::read(&path)?.families.keys().collect::<Vec<_>>(), ["attention"]);
        Ok(())
    }
}
