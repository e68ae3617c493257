//! Replacing a document on disk: whoever reads it sees the old one or the new one, whole.

use super::document::Document;
use crate::error::{Context, Error, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

impl Document {
    /// Writes the canonical text to a temporary file beside `path`, flushes it to the disk and renames it over `path`.
    /// Missing folders are made.
    ///
    /// # Errors
    /// Where the folder or file cannot be written; `path` is then as it was.
    pub fn write_atomically(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        replace(folder, path, self.to_canonical_json().as_bytes())
            .map_err(Error::from)
            .context(|| format!("writing {}", path.display()))
    }
}

fn replace(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = new_file(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The rename itself is on the disk only once the folder is.
    File::open(folder)?.sync_all()
}

/// A temporary file that is as readable as any other file the user makes.
fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".heuristics-");
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.tempfile_in(folder)
}
