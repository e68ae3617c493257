//! The documents built into the crate, one a GPU that was swept.

use super::lookup::Heuristics;
use crate::error::{Context, Error, Result};
use crate::model::GpuProfile;
use serde::Deserialize;

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

/// The text of a GPU's built-in document, by its short name (`h200`), its model (`NVIDIA H200`) or the full name that the driver
/// has for the device it was measured on. Another device of that model, or a slice of one, is another device.
pub fn builtin_document(gpu: &str) -> Option<&'static str> {
    let text_of = |name: &str| DOCUMENTS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let of_model = || text_of(&GpuProfile::by_model(gpu)?.name);
    let measured_on = || DOCUMENTS.iter().map(|(_, text)| *text).find(|text| device_of(text).as_deref() == Some(gpu));
    text_of(gpu).or_else(of_model).or_else(measured_on)
}

/// The full name of the device that a document says it was measured on; of several there is none.
pub fn device_of(document: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        policy: Policy,
    }
    #[derive(Deserialize)]
    struct Policy {
        device: String,
    }
    serde_json::from_str::<Said>(document).ok().map(|said| said.policy.device)
}

impl Heuristics {
    /// A GPU's built-in document, by the names of [`builtin_document`].
    ///
    /// # Errors
    /// Where the crate holds none for it; the message names those it holds.
    pub fn builtin(gpu: &str) -> Result<Self> {
        let text = builtin_document(gpu).ok_or_else(|| {
            let known: Vec<_> = builtin_names().collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            let like = GpuProfile::like_device_name(gpu).map(|profile| profile.name);
            let device = like.as_deref().and_then(builtin_document).and_then(device_of);
            let other = like
                .zip(device)
                .map(|(like, device)| format!("; that of {like} was measured on {device}, another device"));
            Error::usage(format!("no built-in heuristics for '{gpu}' (built in: {known}){}", other.unwrap_or_default()))
        })?;
        Self::from_text(text.into()).context(|| format!("the built-in heuristics for {gpu}"))
    }
}
