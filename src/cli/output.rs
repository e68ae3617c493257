//! What commands print: notes for people on standard error, results on standard output. A listener that left is no error.

use crate::error::{Context, Error, Result};
use serde::Serialize;
use std::io::{self, Write};

/// Writes a line for people, to whoever still listens.
macro_rules! note {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
pub(super) use note;

/// Writes a result.
///
/// # Errors
/// Where standard output takes no more: a full disk, say.
pub(super) fn result(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(text.as_bytes()).and_then(|()| out.flush())).map(drop)
}

/// Writes a result as a line of JSON.
///
/// # Errors
/// As [`result`].
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    result(&(serde_json::to_string(value).context(|| "printing JSON")? + "\n"))
}

/// Whether output can go on; a reader that has seen enough and left is no error.
pub(super) fn written(done: io::Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::from(error).context("writing to standard output")),
    }
}
