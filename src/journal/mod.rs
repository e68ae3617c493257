//! The journal: append-only JSON lines, so that nothing measured is ever lost.

mod record;

pub use record::{Header, Line, Stage, Status, Trial};
