//! The main job: for each family, search every problem, cross the finalists, derive, write the document.

mod lab;
mod progress;
mod site;

pub use lab::{Counts, INTERRUPTED};
pub(crate) use lab::{DeviceBench, Lab};
pub use site::Site;

use crate::compile::{Cache, Compiler, Nvrtc, Settings, cache_folder};
use crate::derive::{self, Defaults, Evidence};
use crate::device::{Address, Found};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::families::{self, KernelSpec};
use crate::heuristics::{Document, Heuristics, group_of};
use crate::journal::{Stage, Trial};
use crate::model::{Config, Family, GpuProfile, Problem};
use crate::plan::{self, Plan};
use crate::search::{self, Width};
pub use progress::Progress;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Which device to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The CUDA device that is there, else the host.
    Auto,
    /// A GPU by its short name, or `cpu`.
    Named(String),
}

/// What to sweep, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// On which kind of device.
    pub choice: Choice,
    /// CUDA ordinals to use; empty for the first that fits, all where `all_devices`.
    pub ordinals: Vec<u32>,
    /// Use every device of that kind.
    pub all_devices: bool,
    /// Which families.
    pub families: Vec<Family>,
    /// A plan in place of the family's own.
    pub plan: Option<PathBuf>,
    /// The folder above `<gpu>/`.
    pub output: PathBuf,
    /// How long to measure.
    pub budget: Option<Duration>,
    /// How long one config may take to be verified and timed.
    pub trial_deadline: Duration,
    /// How long one kernel may compile.
    pub compile_deadline: Duration,
    /// This shard of so many.
    pub shard: (usize, usize),
    /// Start over, keeping the old journal aside.
    pub fresh: bool,
    /// Screen every legal config in place of the staged search.
    pub exhaustive: bool,
    /// Seed of inputs and orders.
    pub seed: u64,
    /// No progress bar.
    pub quiet: bool,
    /// Name the configs that fail.
    pub verbose: bool,
    /// Only fill the journals, as a shard does: whoever merges them makes the document.
    pub journal_only: bool,
}

impl Options {
    fn makes_document(&self) -> bool {
        !self.journal_only && self.shard.1 == 1
    }
}

/// What a sweep did.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The GPU's short name.
    pub gpu: String,
    /// The device's full name.
    pub device: String,
    /// The document written; none where only journals were filled.
    pub document: Option<PathBuf>,
    /// The journals filled.
    pub journals: Vec<PathBuf>,
    /// What each family came to.
    pub families: BTreeMap<Family, FamilySummary>,
    /// Trials verified and timed, a second of wall time.
    pub verified_per_s: f64,
    /// Share of wall time in which the device was busy with trials.
    pub gpu_busy: f64,
    /// Seconds of compile-worker time.
    pub compile_s: f64,
    /// Seconds of wall time.
    pub wall_s: f64,
    /// Trials of this run by status, resumed ones left out.
    pub statuses: BTreeMap<String, usize>,
    /// Trials taken over from the journal.
    pub resumed: usize,
    /// The budget ran out before the plan did.
    pub cut_short: bool,
}

/// What one family came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FamilySummary {
    /// Problems of the plan (of this shard).
    pub problems: usize,
    /// Problems on which no config works.
    pub unworkable: Vec<String>,
    /// Problems that were not reached, or not finished.
    pub unfinished: usize,
    /// Rules in the document.
    pub rules: usize,
    /// Fallbacks in the document.
    pub fallbacks: usize,
    /// The winner of each problem.
    #[serde(skip)]
    pub winners: Vec<Winner>,
}

/// The best config of one problem.
#[derive(Clone, Debug)]
pub struct Winner {
    /// The final's best trial.
    pub trial: Trial,
    /// How much slower the default was, in the same final.
    pub default_ratio: Option<f64>,
}

/// The devices a sweep will use: one profile, one or more addresses.
///
/// # Errors
/// Where what was asked for is not here; the message names what is and the ways on.
pub fn choose_devices(options: &Options, here: &[Found]) -> Result<Vec<Found>> {
    let name = match &options.choice {
        Choice::Auto => here.first().map_or(GpuProfile::CPU, |found| &found.profile.name).to_string(),
        Choice::Named(name) => name.clone(),
    };
    let fitting: Vec<_> = here.iter().filter(|found| found.profile.name == name).cloned().collect();
    if fitting.is_empty() {
        let names: Vec<_> = here.iter().map(|found| format!("{} ({})", found.profile.name, found.name)).collect();
        return Err(Error::new(
            ErrorKind::DeviceAbsent,
            format!(
                "no {name} on this machine; here: {}. Run with --gpu {} to measure what is here, run this command on a machine \
                 with a {name}, or compile for it without one: sweep compile --gpu {name}",
                names.join(", "),
                here.first().map_or(GpuProfile::CPU, |found| &found.profile.name),
            ),
        ));
    }
    if options.all_devices {
        return Ok(fitting);
    }
    if options.ordinals.is_empty() {
        return Ok(fitting.into_iter().take(1).collect());
    }
    let at = |ordinal: &u32| {
        let wanted = if name == GpuProfile::CPU { Address::Cpu } else { Address::Cuda(*ordinal) };
        fitting.iter().find(|found| found.address == wanted).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::DeviceAbsent,
                format!("device {ordinal} is no {name}: sweep devices lists what is here"),
            )
        })
    };
    options.ordinals.iter().map(at).collect()
}

/// `output/<gpu>/`
pub fn gpu_folder(output: &Path, gpu: &str) -> PathBuf {
    output.join(gpu)
}

/// `output/<gpu>/journal/<family>.jsonl`, or `….shard-I-of-N.jsonl` where there is more than one shard, so that shards may
/// share a folder.
pub fn journal_path(output: &Path, gpu: &str, family: Family, shard: (usize, usize)) -> PathBuf {
    let name = match shard {
        (_, 1) => format!("{family}.jsonl"),
        (index, count) => format!("{family}.shard-{index}-of-{count}.jsonl"),
    };
    gpu_folder(output, gpu).join("journal").join(name)
}

/// Every journal there is of a family: the whole sweep's and the shards', sorted.
///
/// # Errors
/// Where the folder cannot be read.
pub fn journals(output: &Path, gpu: &str, family: Family) -> Result<Vec<PathBuf>> {
    let folder = gpu_folder(output, gpu).join("journal");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let what = || format!("reading {}", folder.display());
    let mut journals = Vec::new();
    for entry in folder.read_dir().context(what)? {
        let path = entry.context(what)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == format!("{family}.jsonl")
            || (name.starts_with(&format!("{family}.shard-")) && name.ends_with(".jsonl"))
        {
            journals.push(path.clone());
        }
    }
    journals.sort();
    Ok(journals)
}

/// `output/<gpu>/observed_heuristics_<gpu>.json`
pub fn document_path(output: &Path, gpu: &str) -> PathBuf {
    gpu_folder(output, gpu).join(format!("observed_heuristics_{gpu}.json"))
}

/// Runs the sweep.
///
/// # Errors
/// Where the device is absent, a plan is wrong, the output folder cannot be written, or the user interrupts; everything
/// measured by then is in the journal.
pub fn run(options: &Options) -> Result<Summary> {
    run_at(&Site::open(options)?, options)
}

/// Runs the sweep on devices that are held already.
///
/// # Errors
/// As [`run`].
pub fn run_at(site: &Site, options: &Options) -> Result<Summary> {
    let started = Instant::now();
    let (found, progress) = (site.found(), &site.progress);
    let gpu = &found.profile.name;
    let plans = plan::load_all(&options.families, options.plan.as_deref())?;
    let journal_of = |family| journal_path(&options.output, gpu, family, options.shard);
    let mut summary = Summary {
        gpu: gpu.clone(),
        device: found.name.clone(),
        document: options.makes_document().then(|| document_path(&options.output, gpu)),
        journals: plans.iter().map(|plan| journal_of(plan.family)).collect(),
        families: BTreeMap::new(),
        verified_per_s: 0.0,
        gpu_busy: 0.0,
        compile_s: 0.0,
        wall_s: 0.0,
        statuses: BTreeMap::new(),
        resumed: 0,
        cut_short: false,
    };
    let mut busy_s = 0.0;
    for (index, plan) in plans.iter().enumerate() {
        let left = (plans.len() - index) as u32;
        let budget = options.budget.map(|budget| budget.saturating_sub(started.elapsed()) / left);
        let (family, counts) =
            sweep_family(site, options, plan, budget).context(|| format!("family {}", plan.family))?;
        busy_s += counts.busy_s;
        summary.resumed += counts.resumed;
        summary.cut_short |= family.unfinished > 0;
        for (status, count) in counts.statuses {
            *summary.statuses.entry(status).or_default() += count;
        }
        summary.families.insert(plan.family, family);
    }
    summary.wall_s = started.elapsed().as_secs_f64();
    summary.compile_s = site.compiler.as_ref().map_or(0.0, |compiler| compiler.counts().compile_s);
    summary.gpu_busy = busy_s / summary.wall_s / site.devices.len() as f64;
    summary.verified_per_s = summary.statuses.get("ok").copied().unwrap_or(0) as f64 / summary.wall_s;
    progress.finish();
    Ok(summary)
}

/// Starts the compile service for a GPU's architecture, with the usual deadline.
///
/// # Errors
/// Where no NVRTC can be had.
pub fn compiler(profile: &GpuProfile, progress: &Progress) -> Result<Compiler> {
    compiler_within(Settings::DEADLINE, profile, progress)
}

/// The same with a `deadline` for each kernel.
///
/// # Errors
/// Where no NVRTC can be had.
pub fn compiler_within(deadline: Duration, profile: &GpuProfile, progress: &Progress) -> Result<Compiler> {
    let nvrtc = Nvrtc::find(&|notice| progress.say(notice))?;
    Compiler::start(Settings {
        arch: profile.arch.clone(),
        nvrtc,
        cache: Cache::in_folder(&cache_folder()?)?,
        workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        deadline,
    })
}

/// The harness's own kernels.
fn support_kernel() -> KernelSpec {
    KernelSpec { source: "support.cu", entry: "fill_bf16", macros: Vec::new() }
}

/// The problems of this shard, so ordered that a run cut short has met every fallback group.
fn ordered_problems(options: &Options, plan: &Plan, profile: &GpuProfile) -> Result<Vec<Problem>> {
    let (index, count) = options.shard;
    let mut seen = BTreeSet::new();
    let problems = plan.problems(profile)?.iter().map(|planned| planned.problem);
    let distinct = problems.filter(|problem| seen.insert(*problem));
    let mut by_group: BTreeMap<&str, Vec<Problem>> = BTreeMap::new();
    for problem in plan::shard(distinct, index, count) {
        by_group.entry(group_of(&problem)).or_default().push(problem);
    }
    let mut numbered: Vec<(usize, &str, Problem)> = by_group
        .into_iter()
        .flat_map(|(group, problems)| {
            problems.into_iter().enumerate().map(move |(turn, problem)| (turn, group, problem))
        })
        .collect();
    numbered.sort_by_key(|(turn, group, _)| (*turn, *group));
    Ok(numbered.into_iter().map(|(_, _, problem)| problem).collect())
}

fn sweep_family(
    site: &Site,
    options: &Options,
    plan: &Plan,
    budget: Option<Duration>,
) -> Result<(FamilySummary, Counts)> {
    let started = Instant::now();
    let (profile, compiler, progress) = (&site.found().profile, site.compiler.as_ref(), &site.progress);
    let problems = ordered_problems(options, plan, profile)?;
    let path = journal_path(&options.output, &profile.name, plan.family, options.shard);
    let (journal, trials) = site.journal(&path, options.fresh)?;
    let document = document_path(&options.output, &profile.name);
    let previous = if document.is_file() { Some(Document::load(&document)?) } else { None };
    let mut defenders = previous.as_ref().map_or_else(Vec::new, |previous| served_configs(previous, &problems));
    defenders.retain(|config| !plan.defaults(profile).contains(config));
    let must_race = [plan.defaults(profile), defenders.clone()].concat();
    let mut lab = Lab::new(profile.clone(), compiler, options.seed, defenders, (journal, trials), progress);
    lab.deadlines.trial = options.trial_deadline;
    // Compile ahead: the queue fills in the order of the problems while the device works.
    if let Some(compiler) = compiler {
        compiler.request(&support_kernel())?;
        for problem in &problems {
            compiler.request(&families::spec(plan.family).reference(problem).0)?;
            for candidate in plan.candidates(problem, profile) {
                if let Ok(Some((kernel, _))) = candidate.program {
                    compiler.request(&kernel)?;
                }
            }
        }
    }
    progress.family(plan.family, 2 * problems.len());
    lab.set_deadline(budget.map(|budget| started + budget.mul_f64(SEARCH_SHARE)));
    let finals: Mutex<BTreeMap<Problem, Vec<Trial>>> = Mutex::default();
    on_all_devices(&lab, &site.devices, &problems, |bench, problem| {
        bench.turn_to(*problem);
        let candidates = plan.candidates(problem, profile);
        let trials = search::search(bench, &candidates, profile.multiprocessors, &must_race, &Width::default())?;
        if let Some(best) = trials.first() {
            progress.best(best);
            finals.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(*problem, trials);
        }
        Ok(())
    })?;
    let finals = finals.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    lab.set_deadline(budget.map(|budget| started + budget));
    let others = finals_of_other_shards(options, &profile.name, plan.family)?;
    let mut crossings =
        search::crossings(&finals.iter().chain(&others).map(|(problem, trials)| (*problem, trials.clone())).collect());
    crossings.retain(|(problem, _)| finals.contains_key(problem));
    progress.skip(problems.len() - crossings.len());
    on_all_devices(&lab, &site.devices, &crossings, |bench, (problem, configs)| {
        bench.turn_to(*problem);
        let best = finals[problem].first().and_then(|trial| trial.median_us);
        bench.cross(configs, best)
    })?;

    let counts = lab.finish();
    let mut summary = FamilySummary { problems: problems.len(), ..FamilySummary::default() };
    for problem in &problems {
        match finals.get(problem) {
            Some(trials) => summary.winners.push(winner(trials, &plan.defaults(profile))),
            None if counts.out_of_time.contains(problem) => summary.unfinished += 1,
            None => summary.unworkable.push(problem.to_string()),
        }
    }
    if options.makes_document() {
        let derived = derive_family(&path, plan, profile)?;
        summary.rules = derived.rules.len();
        summary.fallbacks = derived.fallbacks.values().map(BTreeMap::len).sum();
        let merged = match previous {
            Some(previous) => derive::merge(previous, derived, &[plan.family.name().to_string()].into()),
            None => derived,
        };
        merged.write_atomically(&document)?;
    }
    Ok((summary, counts))
}

/// The document that one family's journal makes.
fn derive_family(journal: &Path, plan: &Plan, profile: &GpuProfile) -> Result<Document> {
    let contents = crate::journal::read(journal)?;
    let mut evidence = Evidence::default();
    evidence.add_journal(&contents.headers, &contents.trials)?;
    let defaults = Defaults::from([(plan.family, plan.defaults(profile))]);
    Ok(derive::document(&evidence, &profile.name, &defaults).document)
}

/// The finals that the other shards have journaled by now, best first. A shard that runs once more when all are done
/// crosses its problems with all finalists there are.
fn finals_of_other_shards(options: &Options, gpu: &str, family: Family) -> Result<BTreeMap<Problem, Vec<Trial>>> {
    let (own, count) = options.shard;
    let mut finals: BTreeMap<Problem, Vec<Trial>> = BTreeMap::new();
    for index in (0..count).filter(|index| *index != own) {
        let path = journal_path(&options.output, gpu, family, (index, count));
        if path.is_file() {
            let trials = crate::journal::read(&path)?.trials.into_iter();
            for trial in
                trials.filter(|trial| trial.stage == Stage::Final && !trial.null_arm && trial.median_us.is_some())
            {
                finals.entry(trial.problem()).or_default().push(trial);
            }
        }
    }
    for trials in finals.values_mut() {
        search::sort_by_time(trials);
    }
    Ok(finals)
}

/// The share of a family's budget that goes to searching; the rest is for crossing.
const SEARCH_SHARE: f64 = 0.85;

/// Hands the tasks out to the devices as they come free.
pub(crate) fn on_all_devices<T: Sync>(
    lab: &Lab<'_>,
    devices: &[Found],
    tasks: &[T],
    work: impl Fn(&mut DeviceBench<'_, '_>, &T) -> Result<()> + Sync,
) -> Result<()> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let run = |found: &Found| {
            let mut bench = DeviceBench::new(lab, found.address)?;
            while let Some(task) = tasks.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                work(&mut bench, task)?;
                lab.progress.step();
            }
            Ok(())
        };
        let threads: Vec<_> = devices.iter().map(|found| scope.spawn(move || run(found))).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|outcome| outcome.unwrap_or_else(|_| Err(Error::failure("a device's thread panicked")))).collect()
    });
    outcomes.into_iter().collect()
}

/// What the last document would serve for these problems: its winners defend their place in every final.
fn served_configs(document: &Document, problems: &[Problem]) -> Vec<Config> {
    let heuristics = Heuristics::new(document.clone());
    let mut configs: Vec<Config> = Vec::new();
    for problem in problems {
        let template = heuristics.lookup_problem(problem).best().cloned();
        let config = template.and_then(|template| serde_json::from_value(template.into()).ok());
        configs.extend(config.filter(|config| !configs.contains(config)));
    }
    configs
}

fn winner(trials: &[Trial], defaults: &[Config]) -> Winner {
    let best = &trials[0];
    let default = trials.iter().find(|trial| defaults.contains(&trial.config));
    let ratio = default.and_then(|default| Some(default.median_us?.0 / best.median_us?.0));
    Winner { trial: best.clone(), default_ratio: ratio }
}
