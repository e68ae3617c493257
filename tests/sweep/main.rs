//! The tool from outside: sweeps and other commands on the host's own device, with whatever may go wrong. They wait as much as they
//! compute, so that they are one program, which does the one beside the other.

#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/nvrtc.rs"]
mod nvrtc;

mod driver;
mod evaluate;
mod exhaustive;
mod faults;
mod foreign;
mod help;
mod hostile;
mod identity;
mod nightly;
mod same_document;
mod shards;
mod trouble;
