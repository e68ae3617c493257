//! Arguments that several commands take.

use crate::error::{Error, Result};
use crate::model::Family;
use crate::paths::GpuFolder;
use std::path::PathBuf;

/// One or more families, or all of them.
#[derive(Clone, Debug)]
pub(super) struct Families(pub(super) Vec<Family>);

/// Reads `NAME[,NAME…]` or `all`.
pub(super) fn families(text: &str) -> Result<Families> {
    if text == "all" {
        return Ok(Families(Family::ALL.to_vec()));
    }
    let mut families = Vec::new();
    for name in text.split(',').map(str::trim) {
        let family = family(name)?;
        if !families.contains(&family) {
            families.push(family);
        }
    }
    Ok(Families(families))
}

/// Reads a family's name; a wrong one is answered with the nearest.
pub(super) fn family(name: &str) -> Result<Family> {
    name.parse().map_err(|_| {
        let known = Family::ALL.map(Family::name);
        let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
        let nearest = known.iter().copied().min_by_key(distance).unwrap_or_default();
        Error::usage(format!("no family '{name}'; did you mean '{nearest}'? There are {}", known.join(", ")))
    })
}

/// Where documents, journals and archives are.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct OutputArgs {
    /// Folder that holds a folder for each GPU
    #[arg(long, value_name = "DIR", default_value = "output")]
    pub(super) output: PathBuf,
}

impl OutputArgs {
    /// The folder of a GPU, whose name is as the user gave it.
    pub(super) fn of_gpu(&self, gpu: &str) -> Result<GpuFolder> {
        if gpu.is_empty() || !gpu.chars().all(|character| character.is_ascii_alphanumeric() || character == '_') {
            return Err(Error::usage(format!("--gpu '{gpu}' is no GPU's short name, such as h200 or cpu")));
        }
        Ok(GpuFolder::new(&self.output, gpu))
    }
}
