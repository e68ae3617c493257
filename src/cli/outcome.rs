//! What a command came to, and its exit code.

use super::interrupt;
use crate::error::{ErrorKind, Result};

/// What a command that did not fail came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All well: exit 0.
    Done,
    /// Some problem has no working config: exit 4.
    Unworkable,
    /// Something got slower: exit 5.
    Regression,
}

/// The exit code of a command.
pub fn exit_code(outcome: &Result<Outcome>) -> u8 {
    match outcome {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Unworkable) => 4,
        Ok(Outcome::Regression) => 5,
        Err(error) => match error.kind() {
            ErrorKind::Usage => 2,
            ErrorKind::DeviceAbsent => 3,
            ErrorKind::Interrupted => interrupt::EXIT_CODE,
            _ => 1,
        },
    }
}
