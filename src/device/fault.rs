//! What keeps a device from something.

use crate::error::{Error, ErrorKind};
use std::fmt;

/// Why a device could not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This kernel was refused; the device goes on.
    Refused(String),
    /// What was to build this kernel, in another language, refused; the device goes on.
    Unbuilt(String),
    /// This kernel does what no kernel may, beside writing a wrong output; the device goes on.
    Wrong(String),
    /// What ran broke the device: it is of no more use to this process.
    Dead(String),
    /// The machine fails: no memory, no process, a device that is lost. It says nothing of what was to run; another process may
    /// do better.
    Trouble(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(message)
            | Self::Unbuilt(message)
            | Self::Wrong(message)
            | Self::Dead(message)
            | Self::Trouble(message) => out.write_str(message),
        }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let kind = if matches!(fault, Fault::Trouble(_)) { ErrorKind::Trouble } else { ErrorKind::Failure };
        Self::new(kind, fault)
    }
}
