//! `sweep compile`: the whole space for a GPU's architecture, without the GPU.

use super::arguments::{Families, families};
use super::measure::Time;
use super::outcome::Outcome;
use super::output::{self, note};
use crate::compile::{Compiler, Outcome as Compiled, Settings};
use crate::device::{Program, support_kernel};
use crate::error::Result;
use crate::families::{self as family_specs, KernelSpec, Launch};
use crate::model::{Config, GpuProfile};
use crate::plan::{self, Plan};
use crate::site::{self, Progress};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Compile the whole config space for a GPU's architecture; needs no GPU
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  sweep compile --gpu b200 --family all --json")]
pub(super) struct CompileArgs {
    /// GPU to compile for: b200, h200, h100, a100, …
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Families by name or by their manifests, or all of ours
    #[arg(long, value_name = "NAME|PATH.toml[,…]", default_value = "all", value_parser = families)]
    family: Families,
    /// Compile no more than so many kernels of a family, spread over its space
    #[arg(long, value_name = "COUNT")]
    kernels: Option<std::num::NonZeroUsize>,
    /// Give up on a kernel that compiles for longer than this
    #[arg(long, value_name = "TIME", default_value_t = Time(Settings::DEADLINE))]
    compile_deadline: Time,
    /// Print the counts as JSON on stdout
    #[arg(long)]
    json: bool,
}

/// What became of the spaces.
#[derive(Serialize)]
struct Report {
    gpu: String,
    arch: String,
    families: BTreeMap<&'static str, Counts>,
}

/// Configs by what became of them. A config is legal where it runs on a problem of the plan; it counts as compiled where
/// all the kernels it needs there compiled.
#[derive(Default, Serialize)]
struct Counts {
    configs: usize,
    compiled: usize,
    failed: usize,
    spilling: usize,
    pruned: usize,
}

pub(super) fn run(args: &CompileArgs) -> Result<Outcome> {
    let profile = GpuProfile::by_name(&args.gpu)?;
    let progress = Progress::new(args.json, false);
    let compiler = site::compiler(args.compile_deadline.0, &profile, &progress)?;
    let plans = plan::load_all(&args.family.0, None)?;
    progress.plans(&plans);
    compiler.needed(&support_kernel())?;
    let mut report = Report { gpu: profile.name.clone(), arch: profile.arch.clone(), families: BTreeMap::new() };
    for plan in &plans {
        let most = args.kernels.map_or(usize::MAX, std::num::NonZeroUsize::get);
        let counts = compile_space(plan, &profile, &compiler, most, args.json)?;
        if !args.json {
            note!(
                "{}: {} configs, {} compiled, {} failed, {} spilling, {} pruned",
                plan.family,
                counts.configs,
                counts.compiled,
                counts.failed,
                counts.spilling,
                counts.pruned
            );
        }
        report.families.insert(plan.family.name(), counts);
    }
    progress.finish();
    if args.json {
        output::json(&report)?;
    }
    let failed: usize = report.families.values().map(|counts| counts.failed).sum();
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Unworkable })
}

fn compile_space(
    plan: &Plan,
    profile: &GpuProfile,
    compiler: &Compiler,
    most_kernels: usize,
    quiet: bool,
) -> Result<Counts> {
    let mut kernels: BTreeMap<Config, BTreeSet<KernelSpec>> = BTreeMap::new();
    let mut launches: BTreeMap<KernelSpec, Launch> = BTreeMap::new();
    let mut rejected: BTreeSet<Config> = BTreeSet::new();
    let mut references = BTreeMap::new();
    for planned in plan.problems(profile)? {
        if let Some((reference, launch)) = family_specs::spec(plan.family).reference(&planned.problem) {
            compiler.request(&reference)?;
            references.entry(reference).or_insert(launch);
        }
        for candidate in plan.candidates(&planned.problem, profile) {
            match candidate.program {
                Ok(Some((kernel, launch))) => {
                    launches.entry(kernel.clone()).or_insert(launch);
                    kernels.entry(candidate.config).or_default().insert(kernel);
                }
                Ok(None) => {}
                Err(_) => {
                    rejected.insert(candidate.config);
                }
            }
        }
    }
    let all: BTreeSet<&KernelSpec> = kernels.values().flatten().collect();
    let sample: BTreeSet<KernelSpec> =
        all.iter().step_by(all.len().div_ceil(most_kernels).max(1)).copied().cloned().collect();
    sample.iter().try_for_each(|kernel| compiler.request(kernel).map(|_| ()))?;
    for (reference, launch) in references {
        Program::needed(compiler, &reference, &launch)?;
    }
    let pruned = rejected.iter().filter(|config| !kernels.contains_key(*config)).count();
    for needed in kernels.values_mut() {
        needed.retain(|kernel| sample.contains(kernel));
    }
    kernels.retain(|_, needed| !needed.is_empty());
    let mut counts = Counts { configs: kernels.len() + pruned, pruned, ..Counts::default() };
    let mut told = BTreeSet::new();
    for needed in kernels.values() {
        let outcomes = needed.iter().map(|kernel| compiler.wait(kernel)).collect::<Result<Vec<_>>>()?;
        let failure = needed.iter().zip(&outcomes).find_map(|(kernel, outcome)| match outcome {
            Compiled::Failed { error, .. } => Some((kernel, error.clone())),
            Compiled::Compiled { cubin, entry, .. } => {
                let entry = entry.as_ref().unwrap_or(&kernel.entry);
                Some((kernel, launches.get(kernel)?.check_cubin(cubin, entry).err()?))
            }
        });
        if let Some((kernel, error)) = failure {
            counts.failed += 1;
            if told.insert(kernel) && !quiet {
                note!("{}: {kernel}: {error}", plan.family);
            }
            continue;
        }
        counts.compiled += 1;
        let spills =
            |outcome: &Compiled| matches!(outcome, Compiled::Compiled { resources, .. } if resources.spill_bytes > 0);
        counts.spilling += usize::from(outcomes.iter().any(spills));
    }
    Ok(counts)
}
