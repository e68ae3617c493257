//! What a document serves, in the files that other tools read: Helion's ahead-of-time heuristics, seeds for its autotuner, and vLLM's
//! Helion configs.

mod accept;
mod aot;
mod arguments;
mod json;
mod kernel;

use crate::error::{Context, Error, Result};
use crate::families::{self, Callable, Language};
use crate::heuristics::{self, Heuristics, Template};
use crate::model::{Family, GpuProfile, Problem};
use accept::accepted;
use kernel::Kernel;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Helion, from the folder that `HELION_HEURISTIC_DIR` names: one file of Python for each file of kernels, for GPUs of one
    /// architecture.
    HelionAot,
    /// Helion's autotuner, as `autotune_seed_configs`: a list of configs for each kernel.
    HelionSeeds,
    /// vLLM, from the folder of its Helion configs: a list of problems with their configs for each kernel and GPU.
    VllmHelion,
}

impl Target {
    /// Whether it runs what it reads as it stands, so that nothing but what was measured on that very kernel may be in it.
    const fn takes_at_its_word(self) -> bool {
        !matches!(self, Self::HelionSeeds)
    }
}

/// What came of an export.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Kernels by name.
    pub kernels: BTreeMap<String, Exported>,
    /// The files that were written.
    pub files: Vec<PathBuf>,
}

/// What of one kernel is in it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Exported {
    /// Problems with a config.
    pub problems: usize,
    /// Different configs.
    pub configs: usize,
    /// Problems that the document answers nothing.
    pub unanswered: usize,
    /// Configs that the target would refuse, by why: they are left out.
    pub refused: BTreeMap<String, usize>,
    /// Fields that the target does not have, in so many configs: the configs are there without them.
    pub left_out: BTreeMap<String, usize>,
}

/// Writes what `heuristics` serves for the families' problems into `folder`.
///
/// # Errors
/// Where a family's kernels are not the target's, nothing of one is left, or a file cannot be written.
pub fn export(
    heuristics: &Heuristics,
    profile: &GpuProfile,
    target: Target,
    families: &[(Family, Vec<Problem>)],
    folder: &Path,
) -> Result<Report> {
    let mut report = Report::default();
    let mut kernels = Vec::new();
    for (family, problems) in families {
        let (kernel, exported) =
            collect(heuristics, target, *family, problems).context(|| format!("family {family}"))?;
        if report.kernels.insert(kernel.name.clone(), exported).is_some() {
            return Err(Error::usage(format!("two families have a kernel {}: export one at a time", kernel.name)));
        }
        kernels.push(kernel);
    }
    let files = match target {
        Target::HelionAot => aot::files(&kernels, profile)?,
        Target::HelionSeeds => json::seeds(&kernels)?,
        Target::VllmHelion => json::vllm(&kernels, profile)?,
    };
    for (name, text) in files {
        let path = folder.join(name);
        heuristics::replace(&path, |file| Ok(file.write_all(text.as_bytes())?))
            .context(|| path.display().to_string())?;
        report.files.push(path);
    }
    Ok(report)
}

/// What is served for a family's problems, as far as the target takes it.
fn collect(
    heuristics: &Heuristics,
    target: Target,
    family: Family,
    problems: &[Problem],
) -> Result<(Kernel, Exported)> {
    let callable = families::spec(family).callable();
    let is_helions = callable.is_some_and(|callable| callable.language == Language::Helion);
    if target.takes_at_its_word() && !is_helions {
        return Err(Error::usage(
            "its kernels are not Helion's, and what is exported so is run as it stands: only what was measured on that very kernel may \
             be. --to helion-seeds takes it as a place for Helion's own search to start",
        ));
    }
    let source = callable.map(|Callable { file, source, .. }| source.as_ref().unwrap_or(file));
    let stem = source.and_then(|file| file.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let mut kernel = Kernel {
        name: callable.and_then(|callable| callable.kernel.clone()).unwrap_or_else(|| family.name().to_owned()),
        stem: stem.unwrap_or_else(|| family.name().to_owned()),
        family,
        problems: Vec::new(),
        configs: Vec::new(),
    };
    let mut exported = Exported::default();
    for problem in problems {
        let served: Vec<&Template> = heuristics.lookup_problem(problem).configs().collect();
        if served.is_empty() {
            exported.unanswered += 1;
            continue;
        }
        // Whoever starts a search takes all that is served; whoever runs it, the best that it takes.
        let mut taken = 0;
        for template in served {
            if taken > 0 && target.takes_at_its_word() {
                break;
            }
            let accepted = match accepted(template) {
                Ok(accepted) => accepted,
                Err(reason) => {
                    *exported.refused.entry(reason).or_default() += 1;
                    continue;
                }
            };
            for field in &accepted.left_out {
                *exported.left_out.entry(field.clone()).or_default() += 1;
            }
            let known = kernel.configs.iter().position(|config| *config == accepted.config);
            let place = known.unwrap_or_else(|| {
                kernel.configs.push(accepted.config);
                kernel.configs.len() - 1
            });
            kernel.problems.push((*problem, place));
            taken += 1;
        }
        exported.problems += usize::from(taken > 0);
    }
    exported.configs = kernel.configs.len();
    if kernel.configs.is_empty() {
        let refused: Vec<&String> = exported.refused.keys().collect();
        let why = if refused.is_empty() {
            "the document answers none of its problems".to_owned()
        } else {
            format!("{refused:?}")
        };
        return Err(Error::usage(format!("nothing of it can be exported: {why}")));
    }
    Ok((kernel, exported))
}
