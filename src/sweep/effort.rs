//! What the runs that filled the journals took, which trials do not tell.

use super::{Options, Summary};
use crate::error::{Context, Result};
use crate::heuristics;
use crate::paths::GpuFolder;
use serde::{Deserialize, Serialize};

/// The time that runs took, together: [`GpuFolder::effort`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Effort {
    /// Runs since one that started over.
    pub runs: usize,
    /// Their wall time in seconds.
    pub wall_s: f64,
    /// Seconds in which a device was busy with trials, those of several devices together.
    pub busy_s: f64,
    /// Seconds of compile-worker time.
    pub compile_s: f64,
}

impl Effort {
    /// What is known of a GPU's runs; nothing where no file of theirs can be read.
    pub fn load(folder: &GpuFolder) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.effort()).ok()?).ok()
    }

    /// Adds a run that ended. A shard's folder is for all of them, and says nothing of one.
    pub(super) fn add(folder: &GpuFolder, summary: &Summary, options: &Options, busy_s: f64) -> Result<()> {
        if options.site.shard.1 > 1 {
            return Ok(());
        }
        let before = Self::load(folder).filter(|_| !options.fresh).unwrap_or_default();
        let effort = Self {
            runs: before.runs + 1,
            wall_s: before.wall_s + summary.wall_s,
            busy_s: before.busy_s + busy_s,
            compile_s: before.compile_s + summary.compile_s,
        };
        let path = folder.effort();
        heuristics::replace(&path, |file| {
            serde_json::to_writer_pretty(&mut *file, &effort)?;
            Ok(writeln!(file)?)
        })
        .context(|| format!("writing {}", path.display()))
    }
}
