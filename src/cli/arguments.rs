//! Arguments that several commands take.

use crate::error::{Error, Result};
use crate::families::{manifest, spec};
use crate::model::Family;
use crate::paths::GpuFolder;
use crate::site::{self, Describing};
use std::path::{Path, PathBuf};

/// One or more families, or all of them.
#[derive(Clone, Debug)]
pub(super) struct Families(pub(super) Vec<Family>);

impl Families {
    /// Those to sweep on the host: of all, the ones that it has kernels of; what is named is taken at its word.
    pub(super) fn of_host(&self) -> Vec<Family> {
        let is_all = self.0 == Family::ALL;
        self.0.iter().copied().filter(|family| !is_all || spec(*family).has_host_kernels()).collect()
    }
}

/// Reads `NAME[,NAME…]` or `all`.
pub(super) fn families(text: &str) -> Result<Families> {
    if text == "all" {
        return Ok(Families(Family::ALL.to_vec()));
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    // All that Python describes is described at once.
    let describing: Vec<Option<Describing>> = names.iter().map(|name| describing(name)).collect::<Result<_>>()?;
    let mut families = Vec::new();
    for (name, describing) in names.into_iter().zip(describing) {
        let family = family(name, describing)?;
        if !families.contains(&family) {
            families.push(family);
        }
    }
    Ok(Families(families))
}

/// The family that a file of Python names, where the name is of one, under way.
fn describing(name: &str) -> Result<Option<Describing>> {
    site::python_family(name).map(|(file, name)| Describing::start(file, name)).transpose()
}

/// Reads a family's name, the manifest that a path ending in `.toml` names, or the family that a file of Python names, `FILE.py:NAME`,
/// which is under way; a wrong name is answered with the nearest.
fn family(name: &str, describing: Option<Describing>) -> Result<Family> {
    if let Some(describing) = describing {
        return manifest::load(&describing.finish()?);
    }
    let is_path = Path::new(name).extension().is_some_and(|ending| ending == "toml");
    if is_path {
        return manifest::load(Path::new(name));
    }
    if let Some(known) = Family::by_name(name) {
        return Ok(known);
    }
    manifest::load_named(name)?.ok_or_else(|| {
        let known = Family::ALL.map(Family::name);
        let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
        let nearest = known.iter().copied().min_by_key(distance).unwrap_or_default();
        Error::usage(format!(
            "no family '{name}'; did you mean '{nearest}'? There are {}, manifests by their paths, and families of Python as FILE.py:NAME",
            known.join(", ")
        ))
    })
}

/// The families that do not ship among those whose journals or archives these files are: the ones that are named, and those that the
/// working directory's `sweeps/` describes under the file's name.
pub(super) fn known_by_files(files: &[PathBuf], named: Option<&Families>) -> Result<Vec<Family>> {
    let mut own: Vec<Family> = named.map(|named| named.0.clone()).unwrap_or_default();
    for file in files {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((family, _)) = name.split_once('.').filter(|(_, rest)| rest.contains("jsonl")) else { continue };
        if Family::by_name(family).is_none() {
            own.extend(manifest::load_named(family)?);
        }
    }
    own.retain(|family| !family.ships());
    own.sort();
    own.dedup();
    Ok(own)
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
