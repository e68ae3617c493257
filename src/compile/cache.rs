//! The cubin cache: one file a kernel, named by everything that went into it.

use super::Resources;
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A kernel's identity: hash of its code with includes and without comments, options, compiler version and architecture.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub String);

impl Key {
    /// The hash of the parts, each with its length so that no two lists collide.
    pub fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let short = hash.finalize().iter().take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        Self(format!("{short:016x}"))
    }
}

/// What the cache remembers of a compile, beside the cubin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Whether there is a cubin.
    pub(super) compiled: bool,
    /// The compiler's whole log.
    pub(super) log: String,
    /// What ptxas said.
    pub(super) resources: Resources,
}

/// The tool's cache folder: `$SWEEP_CACHE`, else `kernel_sweep` in the user's cache folder.
///
/// # Errors
/// Where there is neither.
pub fn cache_folder() -> Result<PathBuf> {
    use etcetera::BaseStrategy;
    if let Some(folder) = std::env::var_os("SWEEP_CACHE") {
        return Ok(folder.into());
    }
    let base = etcetera::choose_base_strategy()
        .map_err(|error| Error::failure(format!("no cache folder: {error}; set SWEEP_CACHE to one")))?;
    Ok(base.cache_dir().join("kernel_sweep"))
}

/// Cubins on disk.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache in `folder`, made where it is missing.
    ///
    /// # Errors
    /// Where the folder cannot be made.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let folder = folder.join("cubin");
        std::fs::create_dir_all(&folder).context(|| format!("cubin cache {}", folder.display()))?;
        Ok(Self { folder: std::path::absolute(&folder)? })
    }

    /// Where the cubin of `key` is, once it is there.
    pub fn cubin(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.cubin", key.0))
    }

    fn entry(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.json", key.0))
    }

    /// What is known of `key`; anything unreadable counts as unknown and is compiled again.
    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        let entry: Entry = serde_json::from_slice(&std::fs::read(self.entry(key)).ok()?).ok()?;
        (!entry.compiled || self.cubin(key).is_file()).then_some(entry)
    }

    /// Remembers a compile. The entry comes last, so that a kill leaves no entry without its cubin.
    pub(super) fn put(&self, key: &Key, cubin: Option<&[u8]>, entry: &Entry) -> Result<()> {
        if let Some(cubin) = cubin {
            self.write(&self.cubin(key), cubin)?;
        }
        self.write(&self.entry(key), &serde_json::to_vec(entry)?)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let what = || format!("cubin cache {}", path.display());
        let mut temporary = tempfile::NamedTempFile::new_in(&self.folder).context(what)?;
        temporary.write_all(bytes).context(what)?;
        temporary.persist(path).map_err(|error| Error::from(error.error)).context(what)?;
        Ok(())
    }
}
