//! `sweep compile`: the whole space for a GPU's architecture, or a sample of it, without the GPU.

use super::arguments::{Families, families};
use super::measure::Time;
use super::outcome::Outcome;
use super::output::{self, note};
use crate::compile::{Compiler, Coverage, Key, Outcome as Compiled, Recorded, Settings};
use crate::device::support_kernel;
use crate::error::{Context, Result};
use crate::families::{self as family_specs, KernelSpec};
use crate::model::{Config, GpuProfile};
use crate::plan::{self, Plan};
use crate::site::{self, Progress};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Compile the whole config space for a GPU's architecture; needs no GPU
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  sweep compile --gpu b200 --record                 the whole space, recorded in output/b200/
  sweep compile --gpu b300 --kernels 20 --seed 7    some of it")]
pub(super) struct CompileArgs {
    /// GPU to compile for: b200, h200, h100, a100, …
    #[arg(long, value_name = "NAME")]
    gpu: String,
    /// Families, or all
    #[arg(long, value_name = "NAME[,NAME…]", default_value = "all", value_parser = families)]
    family: Families,
    /// Compile no more than so many kernels of a family, as many of each source, spread over its space
    #[arg(long, value_name = "COUNT")]
    kernels: Option<std::num::NonZeroUsize>,
    /// Which ones these are: another number, another sample
    #[arg(long, value_name = "N", default_value_t = 0, requires = "kernels")]
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
    configs: usize,
    compiled: usize,
    failed: usize,
    spilling: usize,
    pruned: usize,
    /// The kernels of these configs, of how many in the space.
    kernels: Coverage,
}

/// What is asked of every family.
struct Asked<'a> {
    profile: &'a GpuProfile,
    compiler: &'a Compiler,
    /// Kernels, and the sample's seed; none for all.
    sample: Option<(usize, u64)>,
    quiet: bool,
}

/// The kernels that were compiled, in the order of their specs.
type Listing<'a> = Option<BufWriter<&'a File>>;

pub(super) fn run(args: &CompileArgs) -> Result<Outcome> {
    let profile = GpuProfile::by_name(&args.gpu)?;
    let progress = Progress::new(args.json, false);
    let list = args.list.as_ref().map(|path| File::create(path).context(|| path.display().to_string())).transpose()?;
    let mut listing = list.as_ref().map(BufWriter::new);
    let compiler = site::compiler(args.compile_deadline.0, &profile, &progress)?;
    let plans = plan::load_all(&args.family.0, None)?;
    progress.plans(&plans);
    compiler.needed(&support_kernel())?;
    let (arch, nvrtc) = (profile.arch.clone(), compiler.version().to_owned());
    let mut report = Report { gpu: profile.name.clone(), arch, nvrtc, families: BTreeMap::new() };
    let sample = args.kernels.map(|most| (most.get(), args.seed));
    let asked = Asked { profile: &profile, compiler: &compiler, sample, quiet: args.json };
    for plan in &plans {
        let counts = asked.compile_space(plan, &mut listing)?;
        if !args.json {
            let Counts { configs, compiled, failed, spilling, pruned, kernels } = &counts;
            note!(
                "{}: {kernels}; {configs} configs, {compiled} compiled, {failed} failed, {spilling} spilling, {pruned} pruned",
                plan.family
            );
        }
        report.families.insert(plan.family.name(), counts);
    }
    if let Some(mut listing) = listing {
        listing.flush()?;
    }
    progress.finish();
    let all = report.families.values().fold(Coverage::default(), |all, counts| all.with(&counts.kernels));
    if let Some(folder) = &args.record {
        let path = folder.join(&profile.name).join("compiled.json");
        let families = report.families.iter().map(|(name, counts)| ((*name).to_owned(), counts.kernels.clone()));
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

impl Asked<'_> {
    fn compile_space(&self, plan: &Plan, listing: &mut Listing) -> Result<Counts> {
        let Self { profile, compiler, sample, quiet } = *self;
        let mut kernels: BTreeMap<Config, BTreeSet<KernelSpec>> = BTreeMap::new();
        let mut rejected: BTreeSet<Config> = BTreeSet::new();
        let mut references = BTreeSet::new();
        for planned in plan.problems(profile)? {
            let reference = family_specs::spec(plan.family).reference(&planned.problem).0;
            compiler.request(&reference)?;
            references.insert(reference);
            for candidate in plan.candidates(&planned.problem, profile) {
                match candidate.program {
                    Ok(Some((kernel, _))) => {
                        kernels.entry(candidate.config).or_default().insert(kernel);
                    }
                    Ok(None) => {}
                    Err(_) => {
                        rejected.insert(candidate.config);
                    }
                }
            }
        }
        let all: BTreeSet<KernelSpec> = kernels.values().flatten().cloned().collect();
        let tried = sample.map_or_else(|| all.clone(), |(most, seed)| sample_of(&all, most, seed));
        let keys: BTreeSet<Key> = tried.iter().map(|kernel| compiler.request(kernel)).collect::<Result<_>>()?;
        for reference in &references {
            compiler.needed(reference)?;
        }
        let mut coverage = Coverage::new(all.len(), &keys);
        let mut outcomes: BTreeMap<&KernelSpec, Compiled> = BTreeMap::new();
        for kernel in &tried {
            let outcome = compiler.wait(kernel)?;
            coverage.count(&outcome);
            if let Compiled::Failed { error, .. } = &outcome
                && !quiet
            {
                note!("{}: {kernel}: {error}", plan.family);
            }
            if let Some(listing) = listing {
                writeln!(listing, "{}", line_of(plan, kernel, &outcome))?;
            }
            outcomes.insert(kernel, outcome);
        }
        let pruned = rejected.iter().filter(|config| !kernels.contains_key(*config)).count();
        for needed in kernels.values_mut() {
            needed.retain(|kernel| tried.contains(kernel));
        }
        kernels.retain(|_, needed| !needed.is_empty());
        let mut counts = Counts { configs: kernels.len() + pruned, pruned, kernels: coverage, ..Counts::default() };
        for needed in kernels.values() {
            let any = |holds: fn(&Compiled) -> bool| needed.iter().any(|kernel| holds(&outcomes[kernel]));
            let has_failed = any(|outcome| matches!(outcome, Compiled::Failed { .. }));
            counts.failed += usize::from(has_failed);
            counts.compiled += usize::from(!has_failed);
            counts.spilling += usize::from(!has_failed && any(Compiled::spills));
        }
        Ok(counts)
    }
}

/// A kernel of the list.
fn line_of(plan: &Plan, kernel: &KernelSpec, outcome: &Compiled) -> serde_json::Value {
    let kernel = kernel.to_string();
    match outcome {
        Compiled::Compiled { key, cubin, resources } => {
            json!({"family": plan.family.name(), "kernel": kernel, "key": key, "cubin": cubin, "resources": resources})
        }
        Compiled::Failed { key, error, .. } => {
            json!({"family": plan.family.name(), "kernel": kernel, "key": key, "error": error})
        }
    }
}

/// `most` of the kernels at most: of each source as many, as far as it has them, at even distances in the order of their macros.
/// Where the first stands follows from the seed.
fn sample_of(all: &BTreeSet<KernelSpec>, most: usize, seed: u64) -> BTreeSet<KernelSpec> {
    let mut by_source: BTreeMap<&str, Vec<&KernelSpec>> = BTreeMap::new();
    for kernel in all {
        by_source.entry(kernel.source).or_default().push(kernel);
    }
    let mut sources: Vec<Vec<&KernelSpec>> = by_source.into_values().collect();
    sources.sort_by_key(Vec::len); // what the small ones leave, the large ones take
    let (mut random, mut left, mut sample) = (ChaCha8Rng::seed_from_u64(seed), most, BTreeSet::new());
    for (place, kernels) in sources.iter().enumerate() {
        let share = (left / (sources.len() - place)).max(1).min(kernels.len());
        let start = random.random_range(0..kernels.len());
        sample.extend((0..share).map(|step| kernels[(start + step * kernels.len()) / share].clone()));
        left = left.saturating_sub(share);
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(source: &'static str, stages: usize) -> KernelSpec {
        KernelSpec { source, entry: "kernel", macros: vec![("NUM_STAGES", format!("{stages:05}"))] }
    }

    #[test]
    fn a_sample_has_kernels_of_every_source_spread_over_each_and_is_the_seeds() {
        let many = (0..1000).map(|stages| kernel("many.cu", stages));
        let all: BTreeSet<KernelSpec> = many.chain((0..5).map(|stages| kernel("few.cu", stages))).collect();
        for seed in 0..50 {
            let sample = sample_of(&all, 50, seed);
            let of = |source| sample.iter().filter(move |kernel| kernel.source == source).collect::<Vec<_>>();
            assert_eq!((of("few.cu").len(), of("many.cu").len()), (5, 45), "{seed}");
            let stages = |kernel: &KernelSpec| kernel.macros[0].1.parse::<usize>().unwrap_or_default();
            let places: Vec<usize> = of("many.cu").into_iter().map(stages).collect();
            assert!(
                places[0] < 23 && places.windows(2).all(|pair| (22..=23).contains(&(pair[1] - pair[0]))),
                "{places:?}"
            );
            assert_eq!(sample, sample_of(&all, 50, seed));
        }
        assert_ne!(sample_of(&all, 50, 1), sample_of(&all, 50, 2));
        assert_eq!(sample_of(&all, 5000, 1), all);
        assert_eq!(sample_of(&all, 1, 1).len(), 2, "one of each source at least");
    }
}
