//! The measuring process: one a device, so that a kernel that hangs or crashes costs one record and a respawn, never the
//! sweep.

mod failure;
mod process;
mod protocol;
mod serve;

pub use failure::Failure;
pub use process::{Deadlines, Worker};
pub use protocol::{Arm, RaceResults, Reply, Request, Verdict};
pub use serve::serve;
