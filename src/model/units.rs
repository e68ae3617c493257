//! Quantities with their units.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A time in microseconds, read off a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Micros(pub f64);

impl fmt::Display for Micros {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us if us < 100.0 => write!(out, "{us:.2} µs"),
            us if us < 10_000.0 => write!(out, "{us:.1} µs"),
            us => write!(out, "{:.2} ms", us / 1e3),
        }
    }
}

/// An amount of memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// So many binary kilobytes.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many binary megabytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 10 << 10 => write!(out, "{bytes} B"),
            bytes if bytes < 10 << 20 => write!(out, "{} KiB", bytes >> 10),
            bytes => write!(out, "{} MiB", bytes >> 20),
        }
    }
}
