//! Starting the compile service of a site.

use super::Progress;
use crate::compile::{Cache, Compiler, Nvrtc, Settings};
use crate::error::Result;
use crate::model::GpuProfile;
use crate::paths::cache_folder;
use std::time::Duration;

/// Starts the compile service for a GPU's architecture, with a `deadline` for each kernel.
///
/// # Errors
/// Where no NVRTC can be had.
pub fn compiler(deadline: Duration, profile: &GpuProfile, progress: &Progress) -> Result<Compiler> {
    let nvrtc = Nvrtc::find(&|notice| progress.say(notice))?;
    let settings = Settings {
        arch: profile.arch.clone(),
        nvrtc,
        cache: Cache::in_folder(&cache_folder()?)?,
        workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        deadline,
    };
    let voice = progress.clone();
    Compiler::start(settings, Box::new(move |notice| voice.say(notice)))
}
