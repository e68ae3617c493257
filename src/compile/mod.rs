//! Compiling ahead of the GPU: kernels to cubins, in worker processes with a deadline, cached by content. Knows no
//! device: what runs in the workers is [`crate::device`]'s.

mod cache;
mod coverage;
mod nvrtc;
mod pool;
mod report;
mod source;

pub use cache::{Cache, Key, read_cubin};
pub use coverage::{Coverage, Recorded};
pub use nvrtc::Nvrtc;
pub use pool::{Answer, Compiler, Job, Notice, Outcome, Reply, Settings};
pub use report::Resources;
