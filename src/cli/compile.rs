//! `sweep compile`: the whole space for a GPU's architecture, without the GPU.

use super::arguments::{Families, families};
use super::measure::Time;
use super::outcome::Outcome;
use super::output::{self, note};
use crate::compile::{Compiler, Coverage, Key, Outcome as Compiled, Recorded, Settings};
use crate::device::{Program, support_kernel};
use crate::error::{Context, Result};
use crate::families::{self as family_specs, KernelSpec, Kernels, Needed};
use crate::model::{GpuProfile, Problem};
use crate::plan::{self, Plan};
use crate::site::{self, Progress};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Compile the whole config space for a GPU's architecture; needs no GPU
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sweep compile --gpu b200 --family elementwise --kernels 4
  sweep compile --gpu h200 --family row_softmax --kernels 2 --json")]
pub(super) struct CompileArgs {
    /// GPU to compile for: b200, h200, h100, a100, …
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Families by name or by their manifests, or all of ours
    #[arg(long, value_name = "NAME|PATH[,…]", default_value = "all", value_parser = families)]
    family: Families,
    /// Compile no more than so many kernels of a family: as many of each of its spaces, drawn by --seed
    #[arg(long, value_name = "COUNT")]
    kernels: Option<NonZeroUsize>,
    /// Seed of that draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write a line of JSON for each kernel here: its source and macros, its cubin and what ptxas said
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Record how much of the space compiled, with what tells these kernels from others, in FOLDER/<gpu>/compiled.json
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "output", conflicts_with = "kernels")]
    record: Option<PathBuf>,
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
    nvrtc: String,
    families: BTreeMap<&'static str, Counts>,
}

/// Configs by what became of them. A config is legal where it runs on a problem of the plan; it counts as compiled where
/// all the kernels it needs there compiled.
#[derive(Default, Serialize)]
struct Counts {
    kernels: usize,
    configs: usize,
    compiled: usize,
    failed: usize,
    spilling: usize,
    pruned: usize,
    /// Of the kernels alone, and of how many in the space, on the problems that a sample of it is drawn from.
    coverage: Coverage,
}

pub(super) fn run(args: &CompileArgs) -> Result<Outcome> {
    let profile = GpuProfile::by_name(&args.gpu)?;
    let progress = Progress::new(args.json, false);
    let compiler = site::compiler(args.compile_deadline.0, &profile, &progress)?;
    let (plans, left_out) = plan::with_a_space(plan::load_all(&args.family.0, None)?, &profile);
    for why in &left_out {
        progress.say(why);
    }
    progress.plans(&plans);
    compiler.needed(&support_kernel())?;
    let list = args.list.as_ref().map(|path| File::create(path).context(|| path.display().to_string())).transpose()?;
    let (arch, nvrtc) = (profile.arch.clone(), compiler.version().to_owned());
    let mut report = Report { gpu: profile.name.clone(), arch, nvrtc, families: BTreeMap::new() };
    let problems: Vec<Vec<&Problem>> =
        plans.iter().map(|plan| problems(plan, &profile, args.kernels, args.seed)).collect::<Result<_>>()?;
    let spaces: Vec<Kernels> = std::iter::zip(&plans, &problems)
        .map(|(plan, problems)| plan.kernels(problems.iter().copied(), &profile))
        .collect();
    let samples: Vec<BTreeSet<usize>> = match args.kernels {
        Some(most) => plan::sample(&spaces, most.get(), args.seed),
        None => spaces.iter().map(|space| (0..space.all.len()).collect()).collect(),
    };
    for (((plan, problems), space), sample) in plans.iter().zip(&problems).zip(&spaces).zip(&samples) {
        let counts = compile_space((plan, problems), (space, sample), (&compiler, list.as_ref()), args.json)?;
        if !args.json {
            note!(
                "{}: {}; {} configs, {} compiled, {} failed, {} spilling, {} pruned",
                plan.family,
                counts.coverage,
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
    let all = report.families.values().fold(Coverage::default(), |all, counts| all.with(&counts.coverage));
    if let Some(folder) = &args.record {
        let path = folder.join(&profile.name).join("compiled.json");
        let families = report.families.iter().map(|(name, counts)| ((*name).to_owned(), counts.coverage.clone()));
        let environment = [&report.gpu, &report.arch, &report.nvrtc].map(String::clone);
        Recorded::update(&path, environment, families.collect())?;
        if !args.json {
            note!("recorded in {}", path.display());
        }
    }
    if args.json {
        output::json(&report)?;
    } else {
        note!("{}: {all}, for {} with NVRTC {}", profile.name, report.arch, report.nvrtc);
    }
    Ok(if all.failed == 0 { Outcome::Done } else { Outcome::Unworkable })
}

/// Problems for each kernel of a sample whose kernels are drawn from: a plan has hundreds, most of which need the same ones, and to
/// find that out takes longer than compiling a few.
const PROBLEMS_A_KERNEL: usize = 50;

/// A plan's problems, or of a sample of so many kernels of it some, which are drawn as well.
fn problems<'p>(
    plan: &'p Plan,
    profile: &GpuProfile,
    kernels: Option<NonZeroUsize>,
    seed: u64,
) -> Result<Vec<&'p Problem>> {
    let all = plan.problems(profile)?;
    let most = kernels.map_or(usize::MAX, |kernels| kernels.get().saturating_mul(PROBLEMS_A_KERNEL));
    let mut places: Vec<usize> = (0..all.len()).collect();
    if most < all.len() {
        places.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        places.truncate(most);
    }
    Ok(places.into_iter().map(|place| &all[place].problem).collect())
}

/// Compiles these kernels of a plan, and what it compares their outputs with on these problems.
fn compile_space(
    (plan, problems): (&Plan, &[&Problem]),
    (kernels, sample): (&Kernels, &BTreeSet<usize>),
    (compiler, list): (&Compiler, Option<&File>),
    is_quiet: bool,
) -> Result<Counts> {
    let mut references = BTreeMap::new();
    for problem in problems {
        if let Ok(Some((reference, launch))) = family_specs::spec(plan.family).reference(problem) {
            compiler.request(&reference)?;
            references.entry(reference).or_insert(launch);
        }
    }
    let sampled = || sample.iter().map(|place| (place, &kernels.all[*place]));
    let keys: BTreeSet<Key> = sampled().map(|(_, needed)| compiler.request(&needed.kernel)).collect::<Result<_>>()?;
    for (reference, launch) in references {
        site::needed_reference(plan, &reference, &launch, compiler)?;
    }
    let mut coverage = Coverage::new(kernels.all.len(), &keys);
    let (mut failed, mut spilling, mut why) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (place, Needed { kernel, launch, .. }) in sampled() {
        let outcome = compiler.wait(kernel)?;
        let error = match &outcome {
            Compiled::Failed { error, .. } => Some(error.clone()),
            Compiled::Compiled { cubin, entry, .. } => Program::new(cubin.clone(), entry.clone(), kernel, launch).err(),
        };
        coverage.count(error.is_none(), (!kernel.code.is_binary()).then(|| outcome.spills()));
        if outcome.spills() {
            spilling.insert(place);
        }
        if let Some(list) = list {
            writeln!(&*list, "{}", line_of(plan, kernel, &outcome))?;
        }
        if let Some(error) = error {
            failed.insert(place);
            let is_refused = !matches!(outcome, Compiled::Failed { timed_out: true, .. });
            why.push((is_refused, error, kernel));
        }
    }
    // What a manifest says of all its kernels is bad input, and not a kernel that does not compile.
    if !plan.family.ships()
        && !why.is_empty()
        && why.len() == sample.len()
        && why.iter().all(|(is_refused, ..)| *is_refused)
    {
        return Err(site::no_kernel_runs(plan, &why.into_iter().map(|(_, error, _)| error).collect()));
    }
    for (_, error, kernel) in why.iter().filter(|_| !is_quiet) {
        note!("{}: {kernel}: {error}", plan.family);
    }
    let mut counts = Counts { kernels: sample.len(), pruned: kernels.pruned, coverage, ..Counts::default() };
    for needed in &kernels.of_configs {
        let needed: BTreeSet<&usize> = needed.intersection(sample).collect();
        let has_failed = !needed.is_disjoint(&failed);
        counts.failed += usize::from(has_failed);
        counts.compiled += usize::from(!has_failed && !needed.is_empty());
        counts.spilling += usize::from(!has_failed && !needed.is_disjoint(&spilling));
    }
    counts.configs = counts.failed + counts.compiled + counts.pruned;
    Ok(counts)
}

/// A kernel of the list.
fn line_of(plan: &Plan, kernel: &KernelSpec, outcome: &Compiled) -> serde_json::Value {
    let (family, kernel) = (plan.family.name(), kernel.to_string());
    match outcome {
        Compiled::Compiled { key, cubin, resources, .. } => {
            json!({"family": family, "kernel": kernel, "key": key, "cubin": cubin, "resources": resources})
        }
        Compiled::Failed { key, error, .. } => {
            json!({"family": family, "kernel": kernel, "key": key, "error": error})
        }
    }
}
