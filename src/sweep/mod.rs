//! The main job: for each family, search every problem, cross the finalists, derive, write the document.

mod ahead;
mod bench;
mod family;
mod lab;
mod progress;
mod schedule;
mod site;

pub(crate) use ahead::Ahead;
pub(crate) use bench::{DeviceBench, Reraced, Turn};
use family::Swept;
pub(crate) use family::on_all_devices;
pub use lab::Counts;
pub(crate) use lab::Lab;
pub(crate) use site::LOCK;
pub use site::Site;

use crate::compile::{Cache, Compiler, Nvrtc, Outcome, Settings, cache_folder};
use crate::derive;
use crate::device::{Address, Found, Program};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::families::{KernelSpec, Launch};
use crate::heuristics::{self, Document, Heuristics};
use crate::journal::Trial;
use crate::model::{Family, GpuProfile, Likeness, Problem};
use crate::plan::{self, Plan};
use crate::process;
pub use progress::Progress;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
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
    /// Take over what was measured under another driver, or one that is not known.
    pub accept_driver: bool,
    /// Screen every legal config in place of the guided search.
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
    #[serde(serialize_with = "lossy::option")]
    pub document: Option<PathBuf>,
    /// The journals filled.
    #[serde(serialize_with = "lossy::list")]
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
    /// Trials of this run that other work on the device disturbed; they are flagged in the journal.
    pub loaded: usize,
    /// The budget ran out before the plan did.
    pub cut_short: bool,
}

impl Summary {
    /// Problems that the machine kept from being measured.
    pub fn left(&self) -> usize {
        self.families.values().map(|family| family.left.len()).sum()
    }
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
    /// Those of them that the machine kept from being measured, and how: the next run tries them again.
    pub left: Vec<String>,
    /// Rules in the document.
    pub rules: usize,
    /// Fallbacks in the document.
    pub fallbacks: usize,
    /// The winner of each problem.
    pub winners: Vec<Winner>,
}

/// The best config of one problem.
#[derive(Clone, Debug, Serialize)]
pub struct Winner {
    /// The final's best trial, without its rounds.
    pub trial: Trial,
    /// How much slower the default was, in the same final.
    pub default_ratio: Option<f64>,
    /// How much slower what the document before the sweep serves was, by paired rounds of the same final.
    pub served_ratio: Option<f64>,
}

/// The devices a sweep will use: one profile, one or more addresses.
///
/// # Errors
/// Where what was asked for is not here; the message names what is, `trouble` with the driver that there may be, and the ways on.
pub fn choose_devices(options: &Options, here: &[Found], trouble: Option<&str>) -> Result<Vec<Found>> {
    let name = match &options.choice {
        Choice::Auto => here.first().map_or(GpuProfile::CPU, |found| &found.profile.name).to_string(),
        Choice::Named(name) => name.clone(),
    };
    let fitting: Vec<_> = here.iter().filter(|found| found.profile.name == name).cloned().collect();
    if fitting.is_empty() {
        let trouble = trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
        let names: Vec<_> = here.iter().map(|found| format!("{} ({})", found.profile.name, found.name)).collect();
        return Err(Error::new(
            ErrorKind::DeviceAbsent,
            format!(
                "no {name} on this machine{trouble}; here: {}. Run with --gpu {} to measure what is here, run this command on a machine \
                 with a {name}, or compile for it without one: sweep compile --gpu {name}",
                names.join(", "),
                here.first().map_or(GpuProfile::CPU, |found| &found.profile.name),
            ),
        ));
    }
    let chosen = if options.all_devices {
        fitting
    } else if options.ordinals.is_empty() {
        fitting.into_iter().take(1).collect()
    } else {
        let at = |ordinal: &u32| {
            let addressed = |found: &&Found| match found.address {
                Address::Cpu => *ordinal == 0,
                Address::Cuda(own) => *ordinal == own,
            };
            fitting.iter().find(addressed).cloned().ok_or_else(|| {
                Error::new(
                    ErrorKind::DeviceAbsent,
                    format!("device {ordinal} is no {name}: sweep devices lists what is here"),
                )
            })
        };
        options.ordinals.iter().map(at).collect::<Result<_>>()?
    };
    all_alike(&chosen)?;
    Ok(chosen)
}

/// Refuses to pool devices that differ in what tells devices apart: their times do not mix.
fn all_alike(devices: &[Found]) -> Result<()> {
    let Some((first, others)) = devices.split_first() else { return Ok(()) };
    match others.iter().find(|other| other.identity().likeness(&first.identity()) != Likeness::Same) {
        None => Ok(()),
        Some(other) => Err(Error::usage(format!(
            "--devices: {} and {} are not alike, and their times do not mix: name devices of one kind (sweep devices lists them)",
            first.identity(),
            other.identity()
        ))),
    }
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

/// Whether files can be replaced and appended to, or made, where they are to be: what takes hours must not end in nothing.
///
/// # Errors
/// Where one cannot.
pub(crate) fn check_outputs(replaced: Option<&Path>, appended: &[PathBuf]) -> Result<()> {
    let check = |path: &Path, is_appended: bool| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let made = std::fs::create_dir_all(folder).and_then(|()| heuristics::new_file(folder, 0o600));
        let writable = made.and_then(|_| match path.is_file() {
            true if is_appended => std::fs::OpenOptions::new().append(true).open(path).map(drop),
            false if path.exists() => Err(std::io::Error::other("it is no file")),
            _ => Ok(()),
        });
        let refused = |error| Error::usage(format!("{error}; clear the way, or give --output another folder"));
        writable.map_err(refused).context(|| format!("{} cannot be written", path.display()))
    };
    replaced.map_or(Ok(()), |path| check(path, false))?;
    appended.iter().try_for_each(|path| check(path, true))
}

/// How paths stand in JSON, which is UTF-8 and paths are not: what is none is replaced there.
pub(crate) mod lossy {
    use serde::{Serialize, Serializer};
    use std::path::{Path, PathBuf};

    pub(crate) fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.to_string_lossy().serialize(serializer)
    }

    #[allow(clippy::ref_option)] // as serde asks
    pub(crate) fn option<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
    }

    pub(crate) fn list<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
    }
}

/// Runs the sweep.
///
/// # Errors
/// Where the device is absent, a plan is wrong, the output folder cannot be written, or the user interrupts; everything
/// measured by then is in the journal.
pub fn run(options: &Options) -> Result<Summary> {
    let started = Instant::now();
    run_at(&Site::open(options)?, options, started)
}

/// Families that were cut have another turn where more than this share of the budget is left: others did not need theirs.
const ANOTHER_TURN_SHARE: f64 = 0.05;

/// The document before the sweep.
pub(crate) struct Previous {
    /// What it serves.
    heuristics: Heuristics,
    /// Its models by class.
    models: BTreeMap<String, serde_json::Value>,
}

impl Previous {
    fn new(document: Document) -> Self {
        let models = document.models.clone();
        Self { heuristics: Heuristics::new(document), models }
    }
}

/// Runs the sweep on devices that are held already. The budget and the wall time are counted from `started`.
///
/// # Errors
/// As [`run`].
pub fn run_at(site: &Site, options: &Options, started: Instant) -> Result<Summary> {
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
        loaded: 0,
        cut_short: false,
    };
    let document = document_path(&options.output, gpu);
    let previous = if document.is_file() { Some(Document::load(&document)?) } else { None };
    if let Some(previous) = &previous {
        derive::refuse_other_device(previous, &found.identity()).context(|| document.display())?;
    }
    let previous = previous.map(Previous::new);
    plans.iter().try_for_each(|plan| plan.problems(&found.profile).map(drop))?;
    check_outputs(summary.document.as_deref(), &summary.journals)?;
    progress.plans(&plans);
    let busy_s = sweep_plans(site, options, &plans, previous.as_ref(), started, &mut summary)?;
    summary.cut_short = summary.families.values().any(|family| family.unfinished > 0);
    summary.wall_s = started.elapsed().as_secs_f64();
    summary.compile_s = site.compiler.as_ref().map_or(0.0, Compiler::compile_s);
    summary.gpu_busy = busy_s / summary.wall_s / site.devices.len() as f64;
    summary.verified_per_s = summary.statuses.get("ok").copied().unwrap_or(0) as f64 / summary.wall_s;
    progress.finish();
    Ok(summary)
}

/// Sweeps each plan in its share of the budget; returns the seconds the devices were busy. What a family's journal makes of the
/// document is derived while the next one is swept.
fn sweep_plans(
    site: &Site,
    options: &Options,
    plans: &[Plan],
    previous: Option<&Previous>,
    started: Instant,
    summary: &mut Summary,
) -> Result<f64> {
    let left = || options.budget.map(|budget| budget.saturating_sub(started.elapsed()));
    let mut busy_s = 0.0;
    let mut turn = options.clone();
    let mut to_do: Vec<&Plan> = plans.iter().collect();
    std::thread::scope(|scope| {
        let mut deriving: Option<Deriving<'_>> = None;
        while !to_do.is_empty() {
            let mut cut = Vec::new();
            for (index, plan) in to_do.iter().copied().enumerate() {
                if deriving.as_ref().is_some_and(|deriving| deriving.reads(plan.family)) {
                    end(deriving.take(), summary)?; // the journal goes on now, or is set aside
                }
                let share = left().map(|left| left / (to_do.len() - index) as u32);
                let swept = family::sweep_family(site, &turn, plan, previous, share);
                let Swept { summary: family, counts, kernels } = swept.context(|| format!("family {}", plan.family))?;
                busy_s += counts.busy_s;
                summary.loaded += counts.loaded;
                if !summary.families.contains_key(&plan.family) {
                    summary.resumed += counts.resumed;
                }
                for (status, count) in counts.statuses {
                    *summary.statuses.entry(status).or_default() += count;
                }
                if family.unfinished > 0 {
                    cut.push(plan);
                }
                summary.families.insert(plan.family, family);
                end(deriving.take(), summary)?;
                if options.makes_document() {
                    let derive = move || family::derive_family(site, options, plan, &kernels);
                    let thread = process::spawn_in(scope, "the deriving thread", derive)?;
                    deriving = Some(Deriving { family: plan.family, thread });
                    if site.found().profile.is_cpu() {
                        end(deriving.take(), summary)?; // it would take the time of what is measured next
                    }
                }
            }
            let worthwhile = |(left, budget): (Duration, Duration)| left > budget.mul_f64(ANOTHER_TURN_SHARE);
            to_do = if left().zip(options.budget).is_some_and(worthwhile) { cut } else { Vec::new() };
            turn.fresh = false;
        }
        end(deriving, summary)
    })?;
    Ok(busy_s)
}

/// A family's part of the document in the making.
struct Deriving<'scope> {
    family: Family,
    thread: ScopedJoinHandle<'scope, Result<(usize, usize)>>,
}

impl Deriving<'_> {
    /// Whether it is made of this family's journal, too.
    fn reads(&self, family: Family) -> bool {
        family == self.family || Some(family) == self.family.sister()
    }
}

/// Waits for a part of the document and notes what is in it.
fn end(deriving: Option<Deriving<'_>>, summary: &mut Summary) -> Result<()> {
    let Some(Deriving { family, thread }) = deriving else { return Ok(()) };
    let (rules, fallbacks) = process::join(thread).context(|| format!("family {family}"))?;
    if let Some(summary) = summary.families.get_mut(&family) {
        (summary.rules, summary.fallbacks) = (rules, fallbacks);
    }
    Ok(())
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
    let settings = Settings {
        arch: profile.arch.clone(),
        nvrtc,
        cache: Cache::in_folder(&cache_folder()?)?,
        workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        deadline,
    };
    let voice = progress.clone();
    Compiler::start(settings, Box::new(move |notice| voice.say(notice)))
}

/// Inputs differ from problem to problem, and are the same in every run with one seed.
pub(crate) fn problem_seed(seed: u64, problem: &Problem) -> u64 {
    let digest = Sha256::digest(format!("{seed} {problem}"));
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// The harness's own kernels.
pub(crate) fn support_kernel() -> KernelSpec {
    KernelSpec::shipped("support.cu", "fill_bf16", [])
}

/// The cubin of a kernel that nothing works without.
///
/// # Errors
/// Where it does not compile.
pub(crate) fn needed_cubin(compiler: &Compiler, kernel: &KernelSpec) -> Result<PathBuf> {
    match compiler.wait(kernel)? {
        Outcome::Compiled { cubin, .. } => Ok(cubin),
        Outcome::Failed { error, .. } => Err(Error::failure(format!("{kernel} does not compile: {error}"))),
    }
}

/// The same, ready to be launched.
///
/// # Errors
/// As [`needed_cubin`].
pub(crate) fn needed_program(compiler: &Compiler, kernel: &KernelSpec, launch: Launch) -> Result<Program> {
    match compiler.wait(kernel)? {
        Outcome::Compiled { cubin, entry, .. } => {
            let entry = entry.unwrap_or_else(|| kernel.entry.clone());
            launch.check_cubin(&cubin, &entry).map_err(|error| Error::usage(format!("{kernel}: {error}")))?;
            Ok(Program { cubin, entry, launch })
        }
        Outcome::Failed { error, .. } => Err(Error::failure(format!("{kernel} does not compile: {error}"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Bytes;

    #[test]
    fn devices_that_are_not_alike_are_not_pooled() {
        let found = |ordinal, name: &str, multiprocessors, gib: u64| Found {
            address: Address::Cuda(ordinal),
            name: name.into(),
            driver: "580.1".into(),
            unit: None,
            memory: Some(Bytes::mib(gib << 10)),
            profile: GpuProfile { multiprocessors, ..GpuProfile::by_name("h100").unwrap() },
        };
        let first = found(0, "NVIDIA H100 80GB HBM3", 132, 79);
        all_alike(&[first.clone(), found(1, "NVIDIA H100 80GB HBM3", 132, 79)]).unwrap();
        for other in [
            found(1, "NVIDIA H100 PCIe", 132, 79),
            found(1, "NVIDIA H100 80GB HBM3", 114, 79),
            found(1, "NVIDIA H100 80GB HBM3", 132, 40),
        ] {
            let message = all_alike(&[first.clone(), first.clone(), other]).unwrap_err().to_string();
            assert!(message.contains("NVIDIA H100 80GB HBM3 (132 multiprocessors, 80896 MiB) and "), "{message}");
        }
    }
}
