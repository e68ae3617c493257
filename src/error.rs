//! The one error type: a kind that decides the exit code, a message that names the offending value, and the chain of
//! contexts it passed through.

use std::fmt;
use std::io;
use std::sync::Arc;

/// What sort of failure this is; the command line turns it into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller asked for something that cannot be: a bad flag, plan, shape or document.
    Usage,
    /// The device asked for is not on this machine.
    DeviceAbsent,
    /// The user interrupted the run.
    Interrupted,
    /// The machine kept something from being done, again and again: no memory, a process that is killed. It says nothing of
    /// what was to be done, and may pass.
    Trouble,
    /// Anything that went wrong while doing what was asked: I/O, a driver, a compiler.
    Failure,
}

/// An error with its chain of contexts, outermost first.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    cause: Option<Cause>,
}

/// What an error came from.
#[derive(Clone, Debug)]
enum Cause {
    /// What it is the context of.
    Within(Arc<Error>),
    /// Another library's error, whose words are the message.
    Told(Arc<dyn std::error::Error + Send + Sync>),
}

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` with a message that names what was wrong, where, and what to do.
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), cause: None }
    }

    /// Bad input from the caller.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// Something failed while doing what was asked.
    pub fn failure(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failure, message)
    }

    /// Another library's error, in its own words; it stays the source.
    pub fn from_source(kind: ErrorKind, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { kind, message: source.to_string(), cause: Some(Cause::Told(Arc::new(source))) }
    }

    /// What the system says of a file or folder that the user named: bad input where naming another one, or making this one
    /// readable, mends it.
    pub fn of_named_file(source: io::Error) -> Self {
        use io::ErrorKind::{
            AlreadyExists, InvalidFilename, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
        };
        let kind = match source.kind() {
            AlreadyExists | InvalidFilename | IsADirectory | NotADirectory | NotFound | PermissionDenied
            | ReadOnlyFilesystem => ErrorKind::Usage,
            _ => ErrorKind::Failure,
        };
        Self::from_source(kind, source)
    }

    /// Wraps this error in a context; the kind stays that of the root.
    #[must_use]
    pub fn context(self, message: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: message.to_string(), cause: Some(Cause::Within(Arc::new(self))) }
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Prints the whole chain on one line, outermost context first.
impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.message)?;
        match &self.cause {
            Some(Cause::Within(cause)) => write!(out, ": {cause}"),
            Some(Cause::Told(_)) | None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self.cause.as_ref()? {
            Cause::Within(cause) => Some(cause.as_ref()),
            Cause::Told(source) => Some(source.as_ref()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::from_source(ErrorKind::Failure, error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() {
            return io::Error::from(error).into(); // a full disk says nothing of the JSON
        }
        Self::from_source(ErrorKind::Usage, error).context("broken JSON")
    }
}

/// Adds a context to the error of a result.
pub trait Context<T> {
    /// Wraps the error, if there is one, in the context that `message` makes.
    fn context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn an_error_keeps_what_it_came_from_through_all_contexts() {
        let lost = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let error = Error::from(lost).context("reading a plan").context("family matmul");
        assert_eq!(error.to_string(), "family matmul: reading a plan: no such file");
        let mut root = error.source();
        while let Some(deeper) = root.and_then(|root| root.source()) {
            root = Some(deeper);
        }
        let root = root.and_then(|root| root.downcast_ref::<io::Error>());
        assert_eq!(root.map(io::Error::kind), Some(io::ErrorKind::NotFound));
    }

    #[test]
    fn only_what_another_name_mends_is_the_user_s() {
        let kind = |code| Error::of_named_file(io::Error::from_raw_os_error(code)).kind();
        let [no_such_file, io_error, no_permission, too_many_open] = [2, 5, 13, 24].map(kind);
        assert_eq!([no_such_file, no_permission], [ErrorKind::Usage; 2]);
        assert_eq!([io_error, too_many_open], [ErrorKind::Failure; 2]);
    }
}
