//! What an interrupt (SIGINT, SIGTERM) does: it ends a command wherever it is.

use super::output::note;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::process::{self, INTERRUPTION};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The exit code of a command that was interrupted.
pub(super) const EXIT_CODE: u8 = 130;

/// How long a command that measures may take to end by itself, keeping what is under way. Whatever it is at, planning or
/// deriving, can be left at any moment: journals are whole line by line, and documents whole or as they were.
pub(super) const GRACE: Duration = Duration::from_millis(1200);

/// How long the word about it may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// From now on an interrupt ends this process after `grace` at the latest, and a second one at once.
pub(super) fn end_within(grace: Duration) -> Result<()> {
    let handler = move || {
        if process::interrupt() || grace.is_zero() {
            std::process::exit(EXIT_CODE.into());
        }
        thread::spawn(move || {
            thread::sleep(grace);
            // Standard error may be a pipe that nobody empties.
            let (said, done) = channel();
            thread::spawn(move || {
                note!("error: {INTERRUPTION}");
                let _ = said.send(()); // nobody waits any more where it took too long
            });
            let _ = done.recv_timeout(LAST_WORDS);
            std::process::exit(EXIT_CODE.into());
        });
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Error::from_source(ErrorKind::Failure, error))
        .context(|| "interrupt handler")
}
