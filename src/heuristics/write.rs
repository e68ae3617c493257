//! Replacing a file on disk: whoever reads it sees the old one or the new one, whole.

use super::document::Document;
use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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
    let permissions = fs::Permissions::from_mode(0o666); // less what the user's umask takes
    let temporary = tempfile::Builder::new().prefix(".new-").permissions(permissions).tempfile_in(folder)?;
    let mut writer = BufWriter::new(temporary);
    write(&mut writer)?;
    let temporary = writer.into_inner().map_err(|error| Error::from(error.into_error()))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| Error::from(error.error))?;
    // The rename itself is on the disk only once the folder is.
    Ok(File::open(folder)?.sync_all()?)
}
