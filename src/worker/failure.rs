//! How a request can fail.

use std::fmt;

/// Why a request has no answer, or one that says no. Where it has none the process is given up, and the next request has a new one.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// What was asked broke the device or the process.
    Crashed(String),
    /// The process ended by itself, nobody knows why.
    Ended(String),
    /// The process was ended from outside or gave up itself, by a signal that says nothing of what it did.
    Killed(String),
    /// It ran past the deadline and was killed.
    Timeout(String),
    /// The driver refused it.
    Refused(String),
    /// What was to build it refused.
    Unbuilt(String),
    /// The output is not the reference's.
    Wrong {
        /// Its distance from the reference; none where it is not finite.
        rel_err: Option<f64>,
        /// What is wrong with it.
        error: String,
    },
    /// The machine's doing, which says nothing of what was asked: the process did not start, the device does not
    /// open, the problem was not prepared, there is no memory.
    Trouble(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed(why)
            | Self::Ended(why)
            | Self::Killed(why)
            | Self::Timeout(why)
            | Self::Refused(why)
            | Self::Unbuilt(why)
            | Self::Wrong { error: why, .. }
            | Self::Trouble(why) => out.write_str(why),
        }
    }
}
