//! The cubin cache: one kernel's cubin and what is known of it, named by everything that went into it. It is the user's alone,
//! and what it holds is checked by its hash whenever it is read: what was altered never reaches a driver.

use super::{Nvrtc, Resources};
use crate::error::{Context, Error, Result};
use crate::heuristics;
use crate::paths::make_private;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
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
        Self::shortened(hash)
    }

    /// The hash of a file.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self::shortened(Sha256::new_with_prefix(bytes))
    }

    fn shortened(hash: Sha256) -> Self {
        let short = hash.finalize().iter().take(8).fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        Self(format!("{short:016x}"))
    }
}

/// What the cache remembers of a compile, beside the cubin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// SHA-256 of the cubin; none where the compiler refused the kernel.
    pub(super) cubin: Option<String>,
    /// The compiler's whole log.
    pub(super) log: String,
    /// What ptxas said.
    pub(super) resources: Resources,
    /// The function's name in the cubin, where the kernel is known by an expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) function: Option<String>,
}

impl Entry {
    /// What a compile came to.
    pub(super) fn new(cubin: Option<&[u8]>, log: String) -> Self {
        Self { cubin: cubin.map(sha256), resources: Resources::of_log(&log), log, function: None }
    }

    /// Why the compiler refused, in one line.
    pub(super) fn first_error(&self) -> &str {
        let error = self.log.lines().find(|line| line.contains("error"));
        error.unwrap_or("the compiler failed without a message").trim()
    }
}

/// An entry as it is written, with a hash of its own.
#[derive(Serialize, Deserialize)]
struct Sealed {
    #[serde(flatten)]
    entry: Entry,
    /// SHA-256 of the entry's JSON.
    seal: String,
}

/// The SHA-256 of bytes in hex digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// What the cache says of a kernel.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// It was compiled before, or refused.
    Entry(Entry),
    /// It is not there, or as an earlier version of this tool left it.
    Nothing,
    /// It was cut short or altered since it was written.
    Damaged,
}

/// The file of the versions of the compilers that filled a cache, one a line, the latest first.
const COMPILERS: &str = "compilers";
/// Earlier ones are forgotten.
const MOST_COMPILERS: usize = 8;

/// Cubins on disk.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cubins of the cache in `folder`, in a folder of their own.
    ///
    /// # Errors
    /// Where that cannot be made, or is not this user's alone.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder.join("cubin"))?;
        make_private(&folder, &[])?;
        heuristics::clear_leftovers(&folder);
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The compilers that have filled it, by their versions, the latest first; where none is written down, the one that comes with
    /// this version.
    pub fn compilers(&self) -> Vec<String> {
        let text = read(&self.folder.join(COMPILERS)).unwrap_or_default();
        let mut versions: Vec<String> = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        versions.retain(|version| !version.is_empty());
        let own = Nvrtc::WHEEL.rsplit('=').next().unwrap_or_default().to_owned();
        if !versions.contains(&own) {
            versions.push(own);
        }
        versions
    }

    /// Writes down which compiler fills it from now on, for whoever has none and looks for its cubins. Where that cannot be written, the
    /// cubins are there all the same for whoever has the compiler.
    pub fn note_compiler(&self, version: &str) {
        let path = self.folder.join(COMPILERS);
        let known = String::from_utf8_lossy(&read(&path).unwrap_or_default()).into_owned();
        if known.lines().next() == Some(version) {
            return;
        }
        let others = known.lines().filter(|known| *known != version);
        let versions: Vec<&str> = std::iter::once(version).chain(others).take(MOST_COMPILERS).collect();
        let _ = self.write(&path, (versions.join("\n") + "\n").as_bytes());
    }

    /// Where the cubin of `key` is, once it is there.
    pub fn cubin(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.cubin", key.0))
    }

    /// What is known of `key`.
    pub(super) fn get(&self, key: &Key) -> Found {
        let cubin = self.cubin(key);
        match read_entry(&cubin) {
            Found::Entry(entry) if entry.cubin.is_some() && checked(&cubin, &entry).is_err() => Found::Damaged,
            found => found,
        }
    }

    /// Remembers a compile. The entry comes last, so that a kill leaves no entry without its cubin.
    pub(super) fn put(&self, key: &Key, cubin: Option<&[u8]>, entry: &Entry) -> Result<()> {
        let path = self.cubin(key);
        if let Some(cubin) = cubin {
            self.write(&path, cubin)?;
        }
        let seal = sha256(&serde_json::to_vec(entry)?);
        let sealed = Sealed { entry: entry.clone(), seal };
        self.write(&path.with_extension("json"), &serde_json::to_vec(&sealed)?)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let what = || format!("cubin cache {}", path.display());
        let mut temporary = heuristics::new_file(&self.folder, 0o600).context(what)?;
        temporary.write_all(bytes).context(what)?;
        temporary.persist(path).map_err(|error| Error::from(error.error)).context(what)?;
        Ok(())
    }
}

/// Reads a cubin of the cache, as it was written.
///
/// # Errors
/// Where it cannot be read, or is not what was written.
pub fn read_cubin(path: &Path) -> Result<Vec<u8>> {
    match read_entry(path) {
        Found::Entry(entry) => checked(path, &entry),
        _ => Err(Error::failure("what is known of it was altered; run again, and it is compiled anew")),
    }
    .context(|| format!("cubin {}", path.display()))
}

/// The entry that stands beside a cubin.
fn read_entry(cubin: &Path) -> Found {
    let Ok(text) = read(&cubin.with_extension("json")) else { return Found::Nothing };
    let Ok(fields) = serde_json::from_slice::<serde_json::Value>(&text) else { return Found::Damaged };
    if fields.get("compiled").is_some() {
        return Found::Nothing; // it has no hashes
    }
    let seal_of = |entry: &Entry| serde_json::to_vec(entry).map(|entry| sha256(&entry)).ok();
    match serde_json::from_value::<Sealed>(fields) {
        Ok(Sealed { entry, seal }) if seal_of(&entry).is_some_and(|own| own == seal) => Found::Entry(entry),
        _ => Found::Damaged,
    }
}

/// The bytes of a cubin that are those the entry was made with.
fn checked(cubin: &Path, entry: &Entry) -> Result<Vec<u8>> {
    let bytes = read(cubin)?;
    if entry.cubin.as_ref() == Some(&sha256(&bytes)) {
        return Ok(bytes);
    }
    Err(Error::failure("it was cut short or altered; run again, and it is compiled anew"))
}

/// Far more than a cubin or a log has.
const MOST_BYTES: u64 = 256 << 20;

/// A file of the cache, which is none of somebody else's that a link points to, and no pipe to wait for.
fn read(path: &Path) -> Result<Vec<u8>> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn compilers_are_known_by_what_they_filled_the_latest_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path()).unwrap();
        assert_eq!(cache.compilers(), ["13.0.88"], "the wheel's");
        for version in ["13.1.1", "13.0.88", "13.1.1", "13.1.1"] {
            cache.note_compiler(version);
        }
        assert_eq!(Cache::in_folder(folder.path()).unwrap().compilers(), ["13.1.1", "13.0.88"]);
        (0..20).for_each(|minor| cache.note_compiler(&format!("13.{minor}")));
        assert_eq!((cache.compilers().len(), cache.compilers()[0].as_str()), (9, "13.19"));
        fs::write(cache.folder().join("compilers"), [0xff, 0]).unwrap();
        assert!(cache.compilers().contains(&"13.0.88".to_owned()), "what was altered keeps nothing from being found");
    }

    #[test]
    fn whatever_is_altered_of_an_entry_is_damage_and_reaches_no_driver() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path()).unwrap();
        let key = Key::of(&["a kernel"]);
        assert_eq!(cache.get(&key), Found::Nothing);
        let (cubin, log) = (b"\x7fELF of a kernel".as_slice(), "ptxas info    : Used 8 registers");
        let entry = Entry::new(Some(cubin), log.into());
        let restore = || cache.put(&key, Some(cubin), &entry).unwrap();
        restore();
        assert_eq!(cache.get(&key), Found::Entry(entry.clone()));
        assert_eq!(read_cubin(&cache.cubin(&key)).unwrap(), cubin);
        for path in [cache.cubin(&key), cache.cubin(&key).with_extension("json")] {
            let whole = fs::read(&path).unwrap();
            assert_eq!(mode(&path), 0o600);
            for bit in 0..8 * whole.len() {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &flipped).unwrap();
                assert_ne!(cache.get(&key), Found::Entry(entry.clone()), "bit {bit} of {}", path.display());
                assert!(!matches!(cache.get(&key), Found::Entry(_)), "bit {bit} of {}", path.display());
                assert!(read_cubin(&cache.cubin(&key)).is_err());
            }
            for length in 0..whole.len() {
                fs::write(&path, &whole[..length]).unwrap();
                assert_eq!(cache.get(&key), Found::Damaged, "cut at {length} of {}", path.display());
            }
            fs::remove_file(&path).unwrap();
            let elsewhere = folder.path().join("elsewhere");
            fs::write(&elsewhere, &whole).unwrap();
            symlink(&elsewhere, &path).unwrap();
            assert!(!matches!(cache.get(&key), Found::Entry(_)), "a link");
            restore();
            assert_eq!((cache.get(&key), fs::read(&elsewhere).unwrap()), (Found::Entry(entry.clone()), whole));
        }
    }
}
