//! A machine ready to measure: its devices, their compiler, and the output folder that no other sweep may write meanwhile.

mod compiler;
mod devices;
mod kernels;
mod progress;
mod python;

pub use compiler::compiler;
pub use devices::{Choice, Wanted};
pub use kernels::{check_kernels, needed_reference, no_kernel_runs};
pub use progress::Progress;
pub use python::{Describing, python_family};

use crate::compile::Compiler;
use crate::device::{self, Address, Found, PROTOCOL};
use crate::error::{Error, Result};
use crate::journal::{Change, Header, Journal, Line, Lock, Trial};
use crate::paths::GpuFolder;
use crate::worker::{Deadlines, Worker};
use devices::{choose_devices, lock_devices};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A GPU that was busy for more of the last moments has other work: a sweep that just ended leaves less.
const BUSY_PERCENT: u32 = 20;

/// Where to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// On which devices.
    pub devices: Wanted,
    /// The folder above `<gpu>/`.
    pub output: PathBuf,
    /// This shard of so many.
    pub shard: (usize, usize),
    /// How long one kernel may compile.
    pub compile_deadline: Duration,
    /// Take over what was measured under another driver, or one that is not known.
    pub accept_driver: bool,
    /// No progress bar.
    pub quiet: bool,
    /// Name the configs that fail.
    pub verbose: bool,
}

/// Where a sweep runs.
pub struct Site {
    /// One or more devices of one profile.
    pub devices: Vec<Found>,
    /// The compiler, where the devices run compiled kernels.
    pub compiler: Option<Compiler>,
    /// What people watch.
    pub progress: Progress,
    /// What is measured here lies here.
    pub folder: GpuFolder,
    accept_driver: bool,
    /// When it was opened: what has this in its header is of this run.
    started: String,
    _lock: Lock,
    /// Of each GPU. The host has none: whoever measures there shares it with all else that it does.
    locks: Vec<(Address, Lock)>,
    /// Measuring processes that nobody uses at the moment.
    idle: Mutex<Vec<(Address, Worker)>>,
    /// Whether it was said that a device has other work.
    told_of_load: AtomicBool,
}

impl Site {
    /// Finds the devices, takes hold of the output folder (of the shard's part of it, where it is shared) and starts the
    /// compiler.
    ///
    /// # Errors
    /// Where what was asked for is not here, or another sweep holds the folder.
    pub fn open(options: &Options) -> Result<Self> {
        let trouble = device::driver_trouble();
        let devices = choose_devices(&options.devices, &device::discover(), trouble.as_deref())?;
        let profile = &devices[0].profile;
        let folder = GpuFolder::new(&options.output, &profile.name);
        let lock = Lock::take(&folder.lock(options.shard))?;
        let locks = lock_devices(&devices)?;
        let progress = Progress::new(options.quiet, options.verbose);
        if let Some(trouble) = trouble.filter(|_| profile.is_cpu() && options.devices.choice == Choice::Auto) {
            progress.warn(&format!("no GPU can be used: {trouble}"));
        }
        progress.say(&announcement(&options.devices, &devices));
        for found in &devices {
            if let Address::Cuda(ordinal) = found.address
                && let Some((processes, busy)) = device::cuda::work_under_way(ordinal)
                && (processes > 0 || busy > BUSY_PERCENT)
            {
                progress.warn(&format!(
                    "{} {ordinal} is not alone: {processes} other processes compute there, and it was busy for {busy} % of the last \
                     moments; times that a canary kernel finds disturbed are flagged",
                    found.name
                ));
            }
        }
        let compiler =
            if profile.is_cpu() { None } else { Some(compiler(options.compile_deadline, profile, &progress)?) };
        Ok(Self {
            devices,
            compiler,
            progress,
            folder,
            accept_driver: options.accept_driver,
            started: now(),
            _lock: lock,
            locks,
            idle: Mutex::default(),
            told_of_load: AtomicBool::new(false),
        })
    }

    /// The first device; the others are like it.
    pub fn found(&self) -> &Found {
        &self.devices[0]
    }

    /// What the processes that measure on a device hold open: its lock.
    fn held(&self, address: Address) -> Option<Arc<File>> {
        self.locks.iter().find(|(locked, _)| *locked == address).map(|(_, lock)| lock.file())
    }

    /// A measuring process of a device, with its device open and warm where somebody left one.
    pub(crate) fn worker(&self, address: Address, support: Option<PathBuf>, deadlines: Deadlines) -> Worker {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let place = idle.iter().position(|(at, _)| *at == address);
        let left = place.map(|place| idle.swap_remove(place).1);
        let mut worker = left.unwrap_or_else(|| Worker::new(address, support, deadlines).holding(self.held(address)));
        worker.set_deadlines(deadlines);
        worker
    }

    /// Leaves a measuring process to whoever is next.
    pub(crate) fn leave(&self, address: Address, worker: Worker) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((address, worker));
    }

    /// Says once that times are not to be relied on.
    pub(crate) fn tell_of_load(&self) {
        if self.told_of_load.swap(true, Ordering::Relaxed) {
            return;
        }
        self.progress.warn(&format!(
            "{} has other work, by a canary kernel that takes longer than it did: what is measured meanwhile is flagged as \
             loaded, in the journal and in the document; measure it again with --fresh when all is quiet",
            self.found().name
        ));
    }

    /// Opens a journal and returns its trials; what is appended stands under a header of the present environment. One of another
    /// sampling protocol or driver, whose times are not today's, is set aside, but for what the user takes over all the same.
    ///
    /// # Errors
    /// As [`Journal::open`], and where its times are another device's.
    pub fn journal(&self, path: &Path, fresh: bool) -> Result<(Journal, Vec<Trial>)> {
        let mut header = self.header();
        let (mut journal, mut contents) = Journal::open(path, fresh)?;
        for warning in &contents.warnings {
            self.progress.say(warning);
        }
        let apart = self.apart(&contents.headers);
        if let Some(Change::Device { was, is }) = apart.iter().find(|change| matches!(change, Change::Device { .. })) {
            return Err(Error::usage(format!(
                "{} was measured on {was}, not on {is}: start over with --fresh, or give --output another folder",
                path.display(),
            )));
        }
        if let Some(change) = apart.first() {
            let way = if apart.iter().all(Change::is_acceptable) { " (--accept-driver keeps it)" } else { "" };
            self.progress.say(&match change {
                Change::Protocol { was, is } => format!(
                    "{} was measured by {was}, whose times are not those of {is}: it is set aside, and all is measured anew",
                    path.display()
                ),
                _ => format!(
                    "{} was measured in another environment: {}: it is set aside, and all is measured anew{way}",
                    path.display(),
                    apart.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            });
            drop(journal);
            (journal, contents) = Journal::open(path, true)?;
        }
        if let Some(last) = contents.headers.last().filter(|last| last.nvrtc != header.nvrtc) {
            self.progress.say(&format!(
                "{}: NVRTC {} → {}: what it compiles otherwise is measured again",
                path.display(),
                last.nvrtc,
                header.nvrtc
            ));
        }
        for earlier in &contents.headers {
            header.accepted_drivers.extend(earlier.accepted_drivers.iter().cloned());
            if self.accept_driver && !header.changes_since(earlier).is_empty() {
                header.accepted_drivers.insert(earlier.driver.clone());
            }
        }
        let undated = |header: &Header| Header { started: String::new(), ..header.clone() };
        if contents.headers.last().is_none_or(|last| undated(last) != undated(&header)) {
            journal.append(&[Line::Header(header)])?;
        }
        Ok((journal, contents.trials))
    }

    /// What keeps trials under these headers from standing beside those of today, each once.
    pub(crate) fn apart(&self, headers: &[Header]) -> Vec<Change> {
        let now = self.header();
        let accepted: BTreeSet<&String> = headers
            .iter()
            .filter(|header| header.changes_since(header).is_empty() && now.changes_since(header).is_empty())
            .flat_map(|header| &header.accepted_drivers)
            .collect();
        let is_apart = |change: &Change, earlier: &Header| {
            // Within a run no driver changes, known or not.
            if matches!(change, Change::Driver { was, is } if was == is && earlier.started == now.started) {
                return false;
            }
            !(change.is_acceptable() && (self.accept_driver || accepted.contains(&earlier.driver)))
        };
        let changes = headers
            .iter()
            .flat_map(|earlier| now.changes_since(earlier).into_iter().filter(move |change| is_apart(change, earlier)));
        changes.collect::<BTreeSet<Change>>().into_iter().collect()
    }

    /// What is measured with, from now on.
    pub fn header(&self) -> Header {
        let found = self.found();
        Header {
            schema: Header::SCHEMA,
            gpu: found.name.clone(),
            arch: found.profile.arch.clone(),
            driver: found.driver.clone(),
            nvrtc: self.compiler.as_ref().map(|compiler| compiler.version().to_string()).unwrap_or_default(),
            protocol: PROTOCOL.into(),
            sweep: env!("CARGO_PKG_VERSION").into(),
            started: self.started.clone(),
            multiprocessors: Some(found.profile.multiprocessors),
            memory_bytes: found.memory,
            accepted_drivers: BTreeSet::new(),
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn announcement(wanted: &Wanted, devices: &[Found]) -> String {
    let found = &devices[0];
    let reason = match (&wanted.choice, found.profile.is_cpu()) {
        (Choice::Auto, true) => "no CUDA device here: using the cpu device",
        (_, true) => "using the cpu device",
        (_, false) => "using",
    };
    let count = if devices.len() > 1 { format!("{} × ", devices.len()) } else { String::new() };
    format!("{reason} {count}{} ({})", found.name, found.profile.name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use crate::model::{Config, Dtype, Family, GpuProfile, Problem};

    fn site(folder: &Path, driver: &str, started: &str) -> Site {
        let found = Found { driver: driver.into(), ..device::cpu::discover() };
        Site {
            devices: vec![found],
            compiler: None,
            progress: Progress::new(true, false),
            folder: GpuFolder::new(folder, GpuProfile::CPU),
            accept_driver: false,
            started: started.into(),
            _lock: Lock::take(&folder.join("sweep.lock")).unwrap(),
            locks: Vec::new(),
            idle: Mutex::default(),
            told_of_load: AtomicBool::new(false),
        }
    }

    #[test]
    fn a_run_goes_on_under_a_driver_that_is_not_known_and_the_next_one_starts_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("elementwise.jsonl");
        let problem = Problem::parse(Family::Elementwise, "numel=1000", Dtype::Bf16).unwrap();
        let trial = Trial::untimed(&problem, Config::default(), Stage::Screen, Status::Wrong);
        for (driver, taken_over) in [("", 0), ("580.1", 1)] {
            let first = site(folder.path(), driver, "2026-01-01T00:00:00Z");
            first.journal(&path, true).unwrap().0.append(&[Line::Trial(Box::new(trial.clone()))]).unwrap();
            assert_eq!(first.journal(&path, false).unwrap().1.len(), 1, "a second turn of the same run");
            drop(first);
            let next = site(folder.path(), driver, "2026-01-02T00:00:00Z");
            assert_eq!(next.journal(&path, false).unwrap().1.len(), taken_over, "'{driver}'");
        }
        // One that was set aside, and one that fresh set aside.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2 + 2);
    }
}
