//! One sweep an output folder: a locked file that says who holds it.

use crate::error::{Context, Error, ErrorKind, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Held for as long as this lives, or a process that was given its file, and no longer than the processes: the system lets go of a
/// killed one's lock.
#[derive(Debug)]
pub struct Lock {
    file: Arc<File>,
}

/// What is said where another process holds a lock.
struct Busy {
    /// `another sweep is writing it`
    what: &'static str,
    /// What to do.
    advice: &'static str,
    /// How long to wait for the end of one that is about to end.
    patience: Duration,
}

const FOLDER: Busy = Busy {
    what: "another sweep is writing it",
    advice: "wait for it to end, or give --output another folder",
    patience: Duration::ZERO,
};

/// A killed sweep's process ends some milliseconds after it.
const DEVICE: Busy = Busy {
    what: "another sweep measures on this device",
    advice: "wait for it to end, or name another device with --devices",
    patience: Duration::from_secs(5),
};

/// How often a lock is tried for that is waited for.
const PAUSE: Duration = Duration::from_millis(20);

impl Lock {
    /// Takes the lock file at `path`, made with its folder where it is not there, and writes into it who holds it since
    /// when.
    ///
    /// # Errors
    /// Where another process holds it (the message says which), or the folder cannot be written.
    pub fn take(path: &Path) -> Result<Self> {
        Self::take_else(path, &FOLDER)
    }

    /// The same of a device, whose lock goes to the processes that measure on it: it is free when the last of these is gone.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub fn take_device(path: &Path) -> Result<Self> {
        Self::take_else(path, &DEVICE)
    }

    /// What holds it, to be held by another process too.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    fn take_else(path: &Path, busy: &Busy) -> Result<Self> {
        let what = || format!("lock {}", path.display());
        if let Some(folder) = path.parent() {
            let made = std::fs::create_dir_all(folder).map_err(unusable);
            made.context(|| format!("output folder {}", folder.display()))?;
        }
        // What a link points to is somebody else's, and would be emptied.
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_NOFOLLOW);
        let open = open.open(path);
        let mut file = open.map_err(unusable).context(what)?;
        let end = Instant::now() + busy.patience;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(held(&mut file, busy).context(what())),
                Err(TryLockError::Error(error)) => return Err(unlockable(&error).context(what())),
            }
        }
        file.set_len(0).context(what)?;
        file.write_all(holder().as_bytes()).context(what)?;
        Ok(Self { file: Arc::new(file) })
    }
}

/// A folder that cannot be one, or may not be written, was the wrong one to name.
fn unusable(error: std::io::Error) -> Error {
    if error.raw_os_error() == Some(libc::ELOOP) {
        return Error::usage("it is a symbolic link; take it away, or name another folder with --output");
    }
    match Error::of_named_file(error) {
        wrong if wrong.kind() == ErrorKind::Usage => {
            Error::usage(format!("{wrong}; name a folder that can be written with --output"))
        }
        other => other,
    }
}

/// Network file systems may know no locks, and without one two sweeps would write one journal.
pub(super) fn unlockable(error: &std::io::Error) -> Error {
    Error::failure(format!("{error}: its file system keeps no locks; give --output a folder on a local disk"))
}

fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "this machine" } else { host.trim() };
    format!("pid {} on {host} since {}\n", std::process::id(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"))
}

fn held(file: &mut File, busy: &Busy) -> Error {
    let mut holder = String::new();
    // Whoever holds it may not have written its name yet; that it is held is known all the same.
    let _ = file.read_to_string(&mut holder);
    let holder = if holder.trim().is_empty() { "not yet named" } else { holder.trim() };
    Error::failure(format!("{} ({holder}); {}", busy.what, busy.advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_its_place_is_refused_and_what_it_points_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, path) = (folder.path().join("precious"), folder.path().join("sweep.lock"));
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(error.contains("it is a symbolic link"), "{error}");
        assert_eq!(std::fs::read_to_string(&precious).unwrap(), "precious");
    }

    #[test]
    fn a_second_holder_is_told_who_the_first_is_and_follows_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cpu/sweep.lock");
        std::fs::create_dir_all(folder.path().join("cpu")).unwrap();
        std::fs::write(&path, "pid 1 on another machine since long ago, a line left behind\n").unwrap();
        let first = Lock::take(&path).unwrap();
        let error = Lock::take(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("another sweep is writing it (pid {} on ", std::process::id())), "{error}");
        assert!(error.contains(" since 2") && !error.contains("left behind"), "{error}");
        drop(first);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn a_device_that_is_about_to_be_free_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("device.lock");
        let first = Lock::take_device(&path).unwrap();
        let second = std::thread::spawn(move || Lock::take_device(&path));
        std::thread::sleep(3 * PAUSE);
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn a_file_system_without_locks_is_named_as_one() {
        let error = unlockable(&std::io::Error::from_raw_os_error(libc::ENOLCK)).to_string();
        assert!(error.contains("keeps no locks") && error.contains("--output"), "{error}");
    }
}
