//! A machine ready to measure: its devices, their compiler, and the output folder that no other sweep may write meanwhile.

use super::{Choice, Options, Progress, choose_devices, compiler_within, gpu_folder};
use crate::compile::Compiler;
use crate::device::{self, Found, PROTOCOL};
use crate::error::{Error, Result};
use crate::journal::{Header, Journal, Line, Lock, Trial};
use std::path::Path;

/// The file in a GPU's output folder that whoever writes its journals holds.
pub(crate) const LOCK: &str = "sweep.lock";

/// Where a sweep runs.
pub struct Site {
    /// One or more devices of one profile.
    pub devices: Vec<Found>,
    /// The compiler, where the devices run compiled kernels.
    pub compiler: Option<Compiler>,
    /// What people watch.
    pub progress: Progress,
    _lock: Lock,
}

impl Site {
    /// Finds the devices, takes hold of the output folder (of the shard's part of it, where it is shared) and starts the
    /// compiler.
    ///
    /// # Errors
    /// Where what was asked for is not here, or another sweep holds the folder.
    pub fn open(options: &Options) -> Result<Self> {
        let devices = choose_devices(options, &device::discover())?;
        let profile = &devices[0].profile;
        let lock = match options.shard {
            (_, 1) => LOCK.to_string(),
            (index, count) => format!("sweep.shard-{index}-of-{count}.lock"),
        };
        let lock = Lock::take(&gpu_folder(&options.output, &profile.name).join(lock))?;
        let progress = Progress::new(options.quiet, options.verbose);
        progress.say(&announcement(options, &devices));
        let compiler =
            if profile.is_cpu() { None } else { Some(compiler_within(options.compile_deadline, profile, &progress)?) };
        Ok(Self { devices, compiler, progress, _lock: lock })
    }

    /// The first device; the others are like it.
    pub fn found(&self) -> &Found {
        &self.devices[0]
    }

    /// Opens a journal and returns its trials; what is appended stands under a header of the present environment. One of another
    /// sampling protocol, whose times cannot be compared, is set aside.
    ///
    /// # Errors
    /// As [`Journal::open`], and where its times are another device's.
    pub fn journal(&self, path: &Path, fresh: bool) -> Result<(Journal, Vec<Trial>)> {
        let header = self.header();
        let (mut journal, mut contents) = Journal::open(path, fresh)?;
        if let Some(other) = contents.headers.iter().find(|last| last.gpu != header.gpu) {
            return Err(Error::usage(format!(
                "{} was measured on {}, not on {}: start over with --fresh, or give --output another folder",
                path.display(),
                other.gpu,
                header.gpu,
            )));
        }
        if let Some(other) = contents.headers.iter().find(|last| last.protocol != header.protocol) {
            self.progress.say(&format!(
                "{} was measured by {}, whose times are not those of {}: it is set aside, and all is measured anew",
                path.display(),
                other.protocol,
                header.protocol
            ));
            drop(journal);
            (journal, contents) = Journal::open(path, true)?;
        }
        let undated = |header: &Header| Header { started: String::new(), ..header.clone() };
        if contents.headers.last().is_none_or(|last| undated(last) != undated(&header)) {
            journal.append(&[Line::Header(header)])?;
        }
        Ok((journal, contents.trials))
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
            started: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }
}

fn announcement(options: &Options, devices: &[Found]) -> String {
    let found = &devices[0];
    let reason = match (&options.choice, found.profile.is_cpu()) {
        (Choice::Auto, true) => "no CUDA device here: using the cpu device",
        (_, true) => "using the cpu device",
        (_, false) => "using",
    };
    let count = if devices.len() > 1 { format!("{} × ", devices.len()) } else { String::new() };
    format!("{reason} {count}{} ({})", found.name, found.profile.name)
}
