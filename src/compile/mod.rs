//! Compiling ahead of the GPU: kernels to cubins, in worker processes with a deadline, cached by content. Knows no
//! device: what runs in the workers is [`crate::device`]'s.

mod cache;
#[cfg(feature = "harness")]
mod coverage;
mod here;
mod nvrtc;
#[cfg(feature = "harness")]
mod pool;
mod recipe;
mod report;
mod source;

pub(crate) use cache::sha256;
pub use cache::{Cache, Key, read_cubin};
#[cfg(feature = "harness")]
pub use coverage::{Coverage, Recorded};
pub use here::{cached, cubin};
pub use nvrtc::Nvrtc;
#[cfg(feature = "harness")]
pub use pool::{Compiler, Notice, Outcome, Settings};
#[cfg(feature = "harness")]
pub use recipe::Reply;
pub use recipe::{Answer, Job, Recipes, key_of_call, version_job, version_of};
pub use report::Resources;
