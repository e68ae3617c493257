//! The one error type: a kind that decides the exit code, a message that names the offending value, and the chain of
//! contexts it passed through.

use std::fmt;

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
    cause: Option<Box<Error>>,
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

    /// Wraps this error in a context; the kind stays that of the root.
    #[must_use]
    pub fn context(self, message: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: message.to_string(), cause: Some(Box::new(self)) }
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
            Some(cause) => write!(out, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::failure(error)
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        if error.is_io() {
            return std::io::Error::from(error).into(); // a full disk says nothing of the JSON
        }
        Self::usage(format!("broken JSON: {error}"))
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
