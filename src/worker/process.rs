//! The measuring process from outside: requests with deadlines, and a new process where one was lost.

use super::{Arm, Reply, Request, Verdict};
use crate::device::{Address, Program};
use crate::measure::Sampling;
use crate::model::Problem;
use crate::process::{LineProcess, Silence};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long a request may take before its process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Opening a device, or making a problem's inputs and reference.
    pub prepare: Duration,
    /// Verifying and timing one config.
    pub trial: Duration,
}

impl Deadlines {
    /// The plain reference kernels of the largest problems run for seconds.
    pub const PREPARE: Duration = Duration::from_secs(120);
    /// Tens of samples of the slowest kernel that is worth a sample.
    pub const TRIAL: Duration = Duration::from_secs(10);
}

/// Far above anything that ends.
impl Default for Deadlines {
    fn default() -> Self {
        Self { prepare: Self::PREPARE, trial: Self::TRIAL }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The process died or lost its device; a new one is there for the next request.
    Crashed(String),
    /// It ran past the deadline and was killed; likewise.
    Timeout(String),
    /// The worker refused the request and goes on.
    Refused(String),
    /// No process can open the device.
    Gone(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashed(why) | Self::Timeout(why) | Self::Refused(why) | Self::Gone(why) => out.write_str(why),
        }
    }
}

/// The measuring process of one device.
pub struct Worker {
    address: Address,
    support: Option<PathBuf>,
    deadlines: Deadlines,
    process: Option<LineProcess>,
    /// The problem a new process must be given again.
    prepared: Option<Request>,
    busy_s: f64,
    respawns: u32,
}

/// How long a device that does not open is given to come back.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// A worker for the device at `address`; its process starts with the first request.
    pub fn new(address: Address, support: Option<PathBuf>, deadlines: Deadlines) -> Self {
        Self { address, support, deadlines, process: None, prepared: None, busy_s: 0.0, respawns: 0 }
    }

    /// Makes a problem's inputs and reference.
    ///
    /// # Errors
    /// Where the device cannot: out of memory, say.
    pub fn prepare(&mut self, problem: &Problem, seed: u64, reference: Option<Program>) -> Result<(), Failure> {
        self.prepared = None;
        let request = Request::Prepare { problem: *problem, seed, reference };
        match self.ask(&request, self.deadlines.prepare)? {
            Reply::Done => {
                self.prepared = Some(request);
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Verifies a config on the prepared problem, then times it.
    ///
    /// # Errors
    /// Where it crashed or hung.
    pub fn trial(&mut self, arm: Arm, sampling: Sampling) -> Result<Verdict, Failure> {
        match self.ask(&Request::Trial { arm, sampling }, self.deadlines.trial)? {
            Reply::Trial { verdict, busy_s } => {
                self.busy_s += busy_s;
                Ok(verdict)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Times several configs in interleaved rounds.
    ///
    /// # Errors
    /// Where one of them crashed or hung.
    pub fn rounds(&mut self, arms: Vec<Arm>, rounds: u32, seed: u64) -> Result<Vec<Verdict>, Failure> {
        let deadline = self.deadlines.trial * arms.len().max(1) as u32;
        match self.ask(&Request::Rounds { arms, rounds, seed }, deadline)? {
            Reply::Rounds { verdicts, busy_s } => {
                self.busy_s += busy_s;
                Ok(verdicts)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Seconds the device was busy with trials so far, by the worker's clock.
    pub fn busy_s(&self) -> f64 {
        self.busy_s
    }

    /// Processes lost so far.
    pub fn respawns(&self) -> u32 {
        self.respawns
    }

    /// After a process was lost: starts a new one, and tries once more where the device does not open at once.
    ///
    /// # Errors
    /// Where the device does not come back.
    pub fn reopen(&mut self) -> Result<(), Failure> {
        for _ in 0..2 {
            // That the problem cannot be prepared says nothing of the device.
            let Err(Failure::Gone(_)) = self.process() else { return Ok(()) };
            std::thread::sleep(REOPEN_PAUSE);
        }
        match self.process() {
            Err(gone @ Failure::Gone(_)) => Err(gone),
            _ => Ok(()),
        }
    }

    fn ask(&mut self, request: &Request, deadline: Duration) -> Result<Reply, Failure> {
        let answer = self.process().and_then(|process| ask(process, request, deadline));
        if let Err(Failure::Crashed(_) | Failure::Timeout(_)) = &answer {
            self.process = None;
            self.respawns += 1;
        }
        answer
    }

    /// The process, started, opened and prepared where it is new.
    fn process(&mut self) -> Result<&mut LineProcess, Failure> {
        match &mut self.process {
            Some(process) => Ok(process),
            empty => {
                let gone = |why: &dyn fmt::Display| Failure::Gone(format!("cannot open the device: {why}"));
                let mut process = LineProcess::start("worker", &[]).map_err(|error| gone(&error))?;
                let open = Request::Open { address: self.address, support: self.support.clone() };
                let done = |reply| match reply {
                    Reply::Done => Ok(()),
                    other => Err(unexpected(&other)),
                };
                ask(&mut process, &open, self.deadlines.prepare).and_then(done).map_err(|failure| gone(&failure))?;
                if let Some(prepare) = &self.prepared {
                    ask(&mut process, prepare, self.deadlines.prepare).and_then(done)?;
                }
                Ok(empty.insert(process))
            }
        }
    }
}

fn ask(process: &mut LineProcess, request: &Request, deadline: Duration) -> Result<Reply, Failure> {
    match process.ask(request, deadline) {
        Ok(Reply::Dead { error }) => Err(Failure::Crashed(error)),
        Ok(reply) => Ok(reply),
        Err(silence @ Silence::Timeout(_)) => Err(Failure::Timeout(silence.to_string())),
        Err(silence @ Silence::Died(_)) => Err(Failure::Crashed(silence.to_string())),
    }
}

fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Refused { error } => Failure::Refused(error.clone()),
        other => Failure::Crashed(format!("the worker answered something else: {other:?}")),
    }
}
