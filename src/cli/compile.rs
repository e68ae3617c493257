//! `sweep compile`: the whole space for a GPU's architecture, without the GPU.

use super::arguments::{Families, families};
use super::measure::Time;
use super::outcome::Outcome;
use super::output::{self, note};
use crate::compile::{Compiler, Coverage, Key, Outcome as Compiled, Recorded, Settings};
use crate::device::{Program, support_kernel};
use crate::error::{Context, Error, Result};
use crate::families::{self as family_specs, KernelSpec, Launch};
use crate::model::{Config, GpuProfile};
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
use std::path::{Path, PathBuf};

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
    kernels: Option<std::num::NonZeroUsize>,
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
    /// Of the kernels alone, and of how many in the space.
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
    for plan in &plans {
        let counts = compile_space(plan, &profile, &compiler, list.as_ref(), args)?;
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

/// Reasons that are told of a family none of whose kernels can run.
const MOST_REASONS: usize = 3;

/// Up to so many kernels. Those of one source and entry are of one space: of each, one after the other is drawn in turn, as long
/// as it has some left. A larger sample holds a smaller one of the same seed.
fn sample(all: &BTreeSet<&KernelSpec>, most: usize, seed: u64) -> BTreeSet<KernelSpec> {
    let mut spaces: BTreeMap<_, Vec<&KernelSpec>> = BTreeMap::new();
    for kernel in all {
        spaces.entry((&kernel.code, &kernel.entry)).or_default().push(kernel);
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn: Vec<(usize, &KernelSpec)> = Vec::new();
    for kernels in spaces.values_mut() {
        kernels.shuffle(&mut random);
        drawn.extend(kernels.iter().copied().enumerate());
    }
    drawn.sort_by_key(|(turn, _)| *turn);
    drawn.into_iter().take(most).map(|(_, kernel)| kernel.clone()).collect()
}

fn compile_space(
    plan: &Plan,
    profile: &GpuProfile,
    compiler: &Compiler,
    list: Option<&File>,
    args: &CompileArgs,
) -> Result<Counts> {
    let mut kernels: BTreeMap<Config, BTreeSet<KernelSpec>> = BTreeMap::new();
    let mut launches: BTreeMap<KernelSpec, Launch> = BTreeMap::new();
    let mut rejected: BTreeSet<Config> = BTreeSet::new();
    let mut references = BTreeMap::new();
    for planned in plan.problems(profile)? {
        if let Ok(Some((reference, launch))) = family_specs::spec(plan.family).reference(&planned.problem) {
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
    let space = all.len();
    let most = args.kernels.map_or(usize::MAX, std::num::NonZeroUsize::get);
    let sample = sample(&all, most, args.seed);
    let keys: BTreeSet<Key> = sample.iter().map(|kernel| compiler.request(kernel)).collect::<Result<_>>()?;
    for (reference, launch) in references {
        Program::needed(compiler, &reference, &launch)?;
    }
    let mut coverage = Coverage::new(space, &keys);
    let (mut failed, mut spilling, mut why) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for kernel in &sample {
        let outcome = compiler.wait(kernel)?;
        let error = match &outcome {
            Compiled::Failed { error, .. } => Some(error.clone()),
            Compiled::Compiled { cubin, entry, .. } => {
                let entry = entry.as_ref().unwrap_or(&kernel.entry);
                launches.get(kernel).and_then(|launch| launch.check_cubin(cubin, entry).err())
            }
        };
        coverage.count(error.is_none(), (!kernel.code.is_binary()).then(|| outcome.spills()));
        if outcome.spills() {
            spilling.insert(kernel);
        }
        if let Some(list) = list {
            writeln!(&*list, "{}", line_of(plan, kernel, &outcome))?;
        }
        if let Some(error) = error {
            failed.insert(kernel);
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
        let reasons: BTreeSet<&str> = why.iter().map(|(_, error, _)| error.as_str()).collect();
        let reasons: Vec<&str> = reasons.into_iter().take(MOST_REASONS).collect();
        let file = plan.file().unwrap_or(Path::new("its manifest")).display();
        return Err(Error::usage(format!("{file}: no kernel of {} can run: {}", plan.family, reasons.join("; "))));
    }
    for (_, error, kernel) in why.iter().filter(|_| !args.json) {
        note!("{}: {kernel}: {error}", plan.family);
    }
    let pruned = rejected.iter().filter(|config| !kernels.contains_key(*config)).count();
    for needed in kernels.values_mut() {
        needed.retain(|kernel| sample.contains(kernel));
    }
    kernels.retain(|_, needed| !needed.is_empty());
    let configs = kernels.len() + pruned;
    let mut counts = Counts { kernels: sample.len(), configs, pruned, coverage, ..Counts::default() };
    for needed in kernels.values() {
        let has_failed = needed.iter().any(|kernel| failed.contains(kernel));
        counts.failed += usize::from(has_failed);
        counts.compiled += usize::from(!has_failed);
        counts.spilling += usize::from(!has_failed && needed.iter().any(|kernel| spilling.contains(kernel)));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_holds_kernels_of_every_space_and_a_larger_one_holds_it() {
        let kernel = |source, tile: usize| KernelSpec::shipped(source, "gemm", [("TILE", tile.to_string())]);
        let few = (0..3).map(|tile| kernel("wgmma.cu", tile));
        let kernels: Vec<KernelSpec> = (0..100).map(|tile| kernel("mma_sync.cu", tile)).chain(few).collect();
        let all: BTreeSet<&KernelSpec> = kernels.iter().collect();
        let of_few = |sample: &BTreeSet<KernelSpec>| {
            sample.iter().filter(|kernel| kernel.code.to_string() == "wgmma.cu").count()
        };
        let [one, four, ten, every] = [1, 4, 10, usize::MAX].map(|most| sample(&all, most, 7));
        assert_eq!([one.len(), four.len(), ten.len(), every.len()], [1, 4, 10, 103]);
        assert_eq!((of_few(&four), of_few(&ten)), (2, 3), "as many of each space as it has");
        assert!(one.is_subset(&four) && four.is_subset(&ten));
        assert_eq!(ten, sample(&all, 10, 7));
        assert_ne!(ten, sample(&all, 10, 8));
    }
}
