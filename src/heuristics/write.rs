//! Replacing a file on disk: whoever reads it sees the old one or the new one, whole.

use super::document::Document;
use crate::error::{Context, Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::NamedTempFile;
#[cfg(feature = "harness")]
use tempfile::TempDir;

impl Document {
    /// Writes the canonical text to a temporary file beside `path`, flushes it to the disk and renames it over `path`.
    /// Missing folders are made.
    ///
    /// # Errors
    /// Where the folder or file cannot be written; `path` is then as it was.
    pub fn write_atomically(&self, path: &Path) -> Result<()> {
        replace(path, |file| Ok(file.write_all(self.to_canonical_json().as_bytes())?))
            .context(|| format!("writing {}", path.display()))
    }
}

/// Replaces `path` by what `write` writes, flushed to the disk; where that fails, `path` is as it was. The file is as readable
/// as any other the user makes.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    clear_leftovers(folder);
    let mut writer = BufWriter::new(new_file(folder, 0o666)?); // less what the user's umask takes
    write(&mut writer)?;
    let temporary = writer.into_inner().map_err(|error| Error::from(error.into_error()))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| Error::from(error.error))?;
    // The rename itself is on the disk only once the folder is.
    Ok(File::open(folder)?.sync_all()?)
}

/// How the names of files and folders in the making begin.
const IN_THE_MAKING: &str = ".new-";

/// A file in the making, with these permissions. Its maker holds its lock, so that one a kill left behind can be told.
pub(crate) fn new_file(folder: &Path, mode: u32) -> io::Result<NamedTempFile> {
    loop {
        let permissions = fs::Permissions::from_mode(mode);
        let file = tempfile::Builder::new().prefix(IN_THE_MAKING).permissions(permissions).tempfile_in(folder)?;
        if is_ours(file.as_file(), file.path()) {
            return Ok(file);
        }
    }
}

/// A folder in the making, likewise, with the lock that is to be kept as long.
#[cfg(feature = "harness")]
pub(crate) fn new_folder(parent: &Path) -> io::Result<(TempDir, File)> {
    loop {
        let folder = tempfile::Builder::new().prefix(IN_THE_MAKING).tempdir_in(parent)?;
        let lock = File::open(folder.path())?;
        if is_ours(&lock, folder.path()) {
            return Ok((folder, lock));
        }
    }
}

/// Takes the lock of what was just made, and tells whether nobody took it for a leftover before.
fn is_ours(made: &File, path: &Path) -> bool {
    let identity = |found: &fs::Metadata| (found.dev(), found.ino());
    // Where the file system knows no locks, nobody clears it either.
    !matches!(made.try_lock(), Err(TryLockError::WouldBlock))
        && fs::symlink_metadata(path)
            .is_ok_and(|there| made.metadata().is_ok_and(|made| identity(&made) == identity(&there)))
}

/// Takes away what kills have left in a folder: everything in the making that nobody holds. What cannot be taken away now is
/// looked at again the next time.
pub(crate) fn clear_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_named_so = entry.file_name().as_encoded_bytes().starts_with(IN_THE_MAKING.as_bytes());
        let kind = entry.file_type().ok().filter(|kind| is_named_so && (kind.is_file() || kind.is_dir()));
        if let Some(kind) = kind
            && let Ok(left) = File::open(entry.path())
            && left.try_lock().is_ok()
        {
            let _ = if kind.is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kill_left_is_taken_away_and_what_is_in_the_making_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path(".new-left"), "half").unwrap();
        fs::create_dir_all(path(".new-folder/deep")).unwrap();
        fs::write(path(".new-folder/deep/file"), "half").unwrap();
        fs::write(path("other"), "whole").unwrap();
        std::os::unix::fs::symlink(path("other"), path(".new-link")).unwrap();
        let file = new_file(folder.path(), 0o600).unwrap();
        let (making, lock) = new_folder(folder.path()).unwrap();
        replace(&path("document"), |out| Ok(out.write_all(b"{}")?)).unwrap();
        assert!(!path(".new-left").exists() && !path(".new-folder").exists());
        assert!(file.path().exists() && making.path().exists() && path("other").exists());
        let (file, making) = (file.keep().unwrap().1, making.keep());
        drop(lock);
        clear_leftovers(folder.path());
        assert!(!file.exists() && !making.exists() && path("document").exists());
    }

    #[test]
    fn a_full_disk_is_called_one() {
        let error = replace(Path::new("/dev/null/x/y"), |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("Not a directory"), "{error}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let error = Error::from(serde_json::to_writer(full, &[1]).unwrap_err());
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert_eq!(error.kind(), crate::error::ErrorKind::Failure);
    }
}
