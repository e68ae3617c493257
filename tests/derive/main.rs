//! Deriving documents: worked examples, a second implementation, and files of other tools.
#![cfg(feature = "harness")]
#![allow(missing_docs, clippy::float_cmp, clippy::panic, clippy::unwrap_used)] // figures are exact; a panic fails a test

#[path = "../common/amount.rs"]
mod amount;
mod carry;
mod command;
mod helion_csv;
mod incumbents;
mod models;
mod properties;
mod races;
mod simulated;
mod speed;
mod trials;
mod worked_example;
