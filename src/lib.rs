//! Which config should this kernel run with, on this shape, on this GPU?
//!
//! Kernels are compiled at run time, swept over config spaces on a real device, and the measurements become one JSON
//! document of rules and fallbacks that a small lookup serves:
//!
//! ```text
//! sweeps/<family>.toml ─ plan ─ compile ─ screen ─ refine ─ final ─ cross ─ journal ─ derive ─ document ─ lookup
//! ```
//!
//! Modules are listed in the order the data goes, each after all that it imports from. The first three are the served part
//! and, with `c` and `python`, all that is left without features; `run` has what it takes to launch what is served, up to that
//! module, and `harness` the rest.

#[cfg(test)]
#[path = "../tests/common/amount.rs"]
mod amount;

pub mod error;
pub mod model;
pub mod heuristics;
#[cfg(feature = "harness")]
pub mod process;
#[cfg(feature = "run")]
pub mod families;
#[cfg(feature = "harness")]
pub mod plan;
#[cfg(feature = "run")]
pub mod paths;
#[cfg(feature = "run")]
pub mod compile;
#[cfg(feature = "harness")]
pub mod measure;
#[cfg(feature = "run")]
pub mod device;
#[cfg(feature = "run")]
pub mod run;
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
pub mod export;
#[cfg(feature = "harness")]
pub mod cli;

#[cfg(feature = "c")]
pub mod c;
#[cfg(feature = "python")]
mod python;
