//! The journal: append-only JSON lines, so that nothing measured is ever lost.

mod file;
mod record;

pub use file::{Contents, Journal, pack, read};
pub use record::{Header, Line, Stage, Status, Trial};
