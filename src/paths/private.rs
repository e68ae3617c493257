//! Folders that are the user's alone: what lies there is trusted, so nobody else may write to them.

use crate::error::{Context, Error, Result};
use crate::heuristics;
use std::fmt::Display;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The tool's cache folder: `$SWEEP_CACHE`, else `kernel_sweep` in the user's cache folder. It is made where it is missing, for
/// this user alone.
///
/// # Errors
/// Where there is neither, it cannot be made, or others can write to it.
pub fn cache_folder() -> Result<PathBuf> {
    use etcetera::BaseStrategy;
    let folder = match std::env::var_os("SWEEP_CACHE") {
        Some(folder) if folder.is_empty() => {
            return Err(Error::usage("SWEEP_CACHE is empty: name a folder, or unset it"));
        }
        Some(folder) => PathBuf::from(folder),
        None => etcetera::choose_base_strategy()
            .map_err(|error| Error::usage(format!("no cache folder: {error}; set SWEEP_CACHE to one")))?
            .cache_dir()
            .join("kernel_sweep"),
    };
    let folder = std::path::absolute(folder)?;
    if folder.to_str().is_none() {
        let what = format!("cache folder {}: its name is not UTF-8; set SWEEP_CACHE to one whose is", folder.display());
        return Err(Error::usage(what));
    }
    if let Some(parent) = folder.parent() {
        let made = fs::create_dir_all(parent).map_err(|error| unusable(&error));
        made.context(|| format!("cache folder {}", folder.display()))?;
    }
    make_private(&folder, &["cubin", "nvrtc"])?;
    heuristics::clear_leftovers(&folder);
    Ok(folder)
}

fn unusable(error: &io::Error) -> Error {
    Error::usage(format!("{error}; set SWEEP_CACHE to a folder that can be written"))
}

/// Makes a folder of the cache that is this user's alone, or takes one that is. One with other things in it than are `expected`
/// there is not the tool's to close to others, but must be safe from them.
///
/// # Errors
/// Where it cannot be made, is another user's, or others may have written to it.
pub(crate) fn make_private(folder: &Path, expected: &[&str]) -> Result<()> {
    let what = || format!("cache folder {}", folder.display());
    let refused =
        |why: &dyn Display| Error::usage(format!("{why}; take it away, or set SWEEP_CACHE to another folder"));
    let mode = own(folder, refused, |error| unusable(&error)).context(what)?;
    if mode.trailing_zeros() >= 6 {
        return Ok(());
    }
    let mut inside = fs::read_dir(folder).map_err(|error| unusable(&error)).context(what)?.flatten().peekable();
    if mode & 0o022 != 0 && inside.peek().is_some() {
        let why = format!("others can write to it (mode {mode:o}), and may have put something into it");
        return Err(refused(&why).context(what()));
    }
    if expected.is_empty() || inside.all(|entry| expected.iter().any(|name| entry.file_name() == *name)) {
        let closed = fs::set_permissions(folder, Permissions::from_mode(0o700));
        closed.map_err(|error| unusable(&error)).context(what)?;
    }
    Ok(())
}

/// The lock of a physical GPU, by what tells it from others of its kind. Its place depends on nothing that the environment may
/// say, so that no two sweeps of one user look for it in different ones.
///
/// # Errors
/// Where its folder cannot be made, or is not this user's alone.
pub(crate) fn device_lock(unit: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(format!("/tmp/kernel_sweep-{}", rustix::process::geteuid().as_raw()));
    let what = || format!("folder of device locks {}", folder.display());
    let refused = |why: &dyn Display| Error::failure(format!("{why}; take it away"));
    let mode = own(&folder, refused, Error::from).context(what)?;
    if mode & 0o077 != 0 {
        return Err(refused(&format!("others can get at it (mode {mode:o})")).context(what()));
    }
    Ok(folder.join(format!("gpu-{unit}.lock")))
}

/// Makes a folder of mode 0700 where there is none, and returns the mode of the one that is there, which is this user's. What it
/// may not be is `refused`, and what the system does not allow is `unusable`.
fn own(folder: &Path, refused: impl Fn(&dyn Display) -> Error, unusable: impl Fn(io::Error) -> Error) -> Result<u32> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(unusable)?;
    if found.is_symlink() {
        return Err(refused(&"it is a symbolic link"));
    }
    if !found.is_dir() {
        return Err(refused(&"it is no folder"));
    }
    let user = rustix::process::geteuid().as_raw();
    if found.uid() != user {
        return Err(refused(&format!("it belongs to another user (uid {}, and this is {user})", found.uid())));
    }
    Ok(found.mode() & 0o777)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_is_this_user_s_alone_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let with_mode = |name: &str, mode: u32| {
            fs::create_dir(place(name)).unwrap();
            fs::set_permissions(place(name), Permissions::from_mode(mode)).unwrap();
            place(name)
        };
        let refused = |path: &Path, why: &str| {
            let error = make_private(path, &["cubin"]).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("SWEEP_CACHE"), "{error}");
        };
        make_private(&place("new"), &["cubin"]).unwrap();
        assert_eq!(mode(&place("new")), 0o700);
        let (empty, own, open) = (with_mode("empty", 0o777), with_mode("own", 0o755), with_mode("open", 0o777));
        make_private(&empty, &["cubin"]).unwrap();
        fs::create_dir(own.join("cubin")).unwrap();
        make_private(&own, &["cubin"]).unwrap();
        assert_eq!((mode(&empty), mode(&own)), (0o700, 0o700));
        fs::create_dir(open.join("cubin")).unwrap();
        refused(&open, "others can write to it (mode 777)");
        // A home that somebody named is left as it is.
        let home = with_mode("home", 0o755);
        fs::write(home.join("letter"), "").unwrap();
        make_private(&home, &["cubin"]).unwrap();
        assert_eq!(mode(&home), 0o755);
        symlink(&home, place("link")).unwrap();
        refused(&place("link"), "it is a symbolic link");
        fs::write(place("file"), "").unwrap();
        refused(&place("file"), "it is no folder");
        if !rustix::process::geteuid().is_root() {
            refused(Path::new("/usr"), "it belongs to another user (uid 0");
        }
    }
}
