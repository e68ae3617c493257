//! The journal: append-only JSON lines, so that nothing measured is ever lost.

mod file;
mod lock;
mod record;
mod seal;

pub use file::{Contents, Journal, pack, read, replace, set_aside};
pub use lock::Lock;
pub use record::{Change, Header, Line, Stage, Status, Trial};
