//! `sweep export`: what a document serves, in the files that other tools read.

use super::arguments::{Families, OutputArgs, families};
use super::outcome::Outcome;
use super::output::{self, note};
use crate::error::{Context, Error, Result};
use crate::export::{self, Target};
use crate::heuristics::{Heuristics, builtin_document};
use crate::model::{Family, GpuProfile, Problem};
use crate::plan::{self, read_shapes};
use clap::ValueEnum;
use std::path::PathBuf;

/// Write what a document serves into the files that Helion and vLLM read
#[derive(clap::Args, Debug)]
#[command(
    after_help = "helion-aot   a folder for HELION_HEURISTIC_DIR: _helion_aot_<file>_cuda_<sm>.py with key_<kernel> and
             autotune_<kernel>, which kernels under @helion.experimental.aot_kernel ask
helion-seeds <kernel>.json, a list of configs for autotune_seed_configs
vllm-helion  <kernel>/nvidia_<gpu>.json, as vLLM has them in vllm/kernels/helion/configs

The first and the last run what they read as it stands, so that only what was
measured on that very kernel is exported there: families that a file of Python
makes of a @helion.kernel. Seeds may come from any family. What the target
refuses is left out and counted.

Examples:
  sweep export --gpu h200 --family matmul --to helion-seeds -o seeds"
)]
pub(super) struct ExportArgs {
    /// GPU whose document to export: the one under --output, else the one built in
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Document to export in its place
    #[arg(long, value_name = "FILE")]
    heuristics: Option<PathBuf>,
    #[command(flatten)]
    documents: OutputArgs,
    /// Families
    #[arg(long, value_name = "NAME", value_parser = families)]
    family: Families,
    /// Who is to read it
    #[arg(long, value_name = "TO")]
    to: To,
    /// Problems to export the configs of: a file of [[problem]] entries as in a plan; else those of the family's plan
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    /// Folder to write into
    #[arg(short, value_name = "DIR")]
    o: PathBuf,
    /// Print what it came to as JSON on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    HelionAot,
    HelionSeeds,
    VllmHelion,
}

impl From<To> for Target {
    fn from(to: To) -> Self {
        match to {
            To::HelionAot => Self::HelionAot,
            To::HelionSeeds => Self::HelionSeeds,
            To::VllmHelion => Self::VllmHelion,
        }
    }
}

pub(super) fn run(args: &ExportArgs) -> Result<Outcome> {
    let profile = GpuProfile::by_name(&args.gpu)?;
    let heuristics = document(args)?;
    let families = args.family.0.iter().map(|family| Ok((*family, problems(args, *family, &profile)?)));
    let families: Vec<(Family, Vec<Problem>)> = families.collect::<Result<_>>()?;
    let report = export::export(&heuristics, &profile, args.to.into(), &families, &args.o)?;
    if args.json {
        output::json(&report)?;
        return Ok(Outcome::Done);
    }
    for (kernel, exported) in &report.kernels {
        note!("{kernel}: {} configs of {} problems", exported.configs, exported.problems);
        for (reason, count) in &exported.refused {
            note!("{kernel}: {count} configs left out: {reason}");
        }
        for (field, count) in &exported.left_out {
            note!("{kernel}: {field} left out of {count} configs");
        }
        if exported.unanswered > 0 {
            note!("{kernel}: {} problems have no answer", exported.unanswered);
        }
    }
    for file in &report.files {
        note!("wrote {}", file.display());
    }
    Ok(Outcome::Done)
}

fn document(args: &ExportArgs) -> Result<Heuristics> {
    let own = args.documents.of_gpu(&args.gpu)?.document();
    if let Some(path) = args.heuristics.as_deref().or(own.is_file().then_some(own.as_path())) {
        return Heuristics::load(path);
    }
    let gpu = &args.gpu;
    let none = || Error::usage(format!("no document for {gpu}: `sweep --gpu {gpu}` makes it, --heuristics names one"));
    Heuristics::from_bytes(builtin_document(gpu).ok_or_else(none)?.as_bytes())
}

fn problems(args: &ExportArgs, family: Family, profile: &GpuProfile) -> Result<Vec<Problem>> {
    let planned = if let Some(path) = &args.shapes {
        read_shapes(family, path)?
    } else {
        let plan = plan::load_all(&[family], None)?;
        let problems = plan.iter().map(|plan| plan.problems(profile)).collect::<Result<Vec<_>>>();
        problems.context(|| "naming problems with --shapes does without a plan")?.concat()
    };
    Ok(planned.into_iter().map(|planned| planned.problem).collect())
}
