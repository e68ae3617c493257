//! Which config should this kernel run with, on this shape, on this GPU?
//!
//! Kernels are compiled at run time, swept over config spaces on a real device, and the measurements become one JSON
//! document of rules and fallbacks that a small lookup serves:
//!
//! ```text
//! sweeps/<family>.toml ─ plan ─ compile ─ screen ─ refine ─ final ─ cross ─ journal ─ derive ─ document ─ lookup
//! ```
//!
//! Modules are listed in the order the data goes, each after all that it imports from. Those up to `python` are the served
//! part, and all that is left without the `harness` feature.

pub mod error;
pub mod model;
pub mod heuristics;
#[cfg(feature = "c")]
pub mod c;
#[cfg(feature = "python")]
mod python;

#[cfg(feature = "harness")]
pub mod process;
#[cfg(feature = "harness")]
pub mod families;
#[cfg(feature = "harness")]
pub mod plan;
#[cfg(feature = "harness")]
pub mod paths;
#[cfg(feature = "harness")]
pub mod compile;
#[cfg(feature = "harness")]
pub mod measure;
#[cfg(feature = "harness")]
pub mod device;
#[cfg(feature = "harness")]
pub mod worker;
#[cfg(feature = "harness")]
pub mod journal;
#[cfg(feature = "harness")]
pub mod fit;
#[cfg(feature = "harness")]
pub mod search;
#[cfg(feature = "harness")]
pub mod derive;
#[cfg(feature = "harness")]
pub mod diff;
#[cfg(feature = "harness")]
pub mod site;
#[cfg(feature = "harness")]
pub mod sweep;
#[cfg(feature = "harness")]
pub mod evaluate;
#[cfg(feature = "harness")]
pub mod nightly;
#[cfg(feature = "harness")]
pub mod report;
#[cfg(feature = "harness")]
pub mod cli;
