//! Deriving documents: worked examples, a second implementation, and files of other tools.
#![cfg(feature = "harness")]
#![allow(missing_docs, clippy::unwrap_used)]

mod helion_csv;
mod properties;
mod speed;
mod trials;
mod worked_example;
