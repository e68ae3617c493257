//! The documents built into the crate, one a GPU that was swept.

use super::lookup::Heuristics;
use crate::error::{Context, Error, Result};
use crate::model::GpuProfile;

/// The text of a committed document, by the GPU's short name: one line to add for each.
macro_rules! documents {
    ($($gpu:literal),*) => {
        &[$(($gpu, include_str!(concat!("../../output/", $gpu, "/observed_heuristics_", $gpu, ".json")))),*]
    };
}

const DOCUMENTS: &[(&str, &str)] = documents!["h100", "h200"];

/// The names of the GPUs with a built-in document.
pub fn builtin_names() -> impl Iterator<Item = &'static str> {
    DOCUMENTS.iter().map(|(gpu, _)| *gpu)
}

/// The text of a GPU's built-in document, by its short name or the driver's name for the device (`NVIDIA H200`).
pub fn builtin_document(gpu: &str) -> Option<&'static str> {
    let text_of = |name: &str| DOCUMENTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    text_of(gpu).or_else(|| text_of(&GpuProfile::by_device_name(gpu)?.name))
}

impl Heuristics {
    /// A GPU's built-in document, by its short name or the driver's name for the device.
    ///
    /// # Errors
    /// Where the crate holds none for it; the message names those it holds.
    pub fn builtin(gpu: &str) -> Result<Self> {
        let text = builtin_document(gpu).ok_or_else(|| {
            let known: Vec<_> = builtin_names().collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            Error::usage(format!("no built-in heuristics for '{gpu}' (built in: {known})"))
        })?;
        Self::from_text(text.into()).context(|| format!("the built-in heuristics for {gpu}"))
    }
}
