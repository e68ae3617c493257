//! The measuring process from outside: requests with deadlines, and a new process where one was lost.

use super::{Arm, RaceResults, Reply, Request, Verdict};
use crate::device::{Address, Program};
use crate::measure::{RacePlan, Sampling};
use crate::model::Problem;
use crate::process::{LineProcess, Silence};
use std::collections::VecDeque;
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

/// How long past the end of the time what is under way may still take: all but what is hopeless ends by then.
const LAST: Duration = Duration::from_secs(1);

impl Deadlines {
    /// The same where only so much time is left, which `arms` share in a race.
    #[must_use]
    pub fn within(self, left: Option<Duration>, arms: usize) -> Self {
        let Some(left) = left.map(|left| left + LAST) else { return self };
        Self { prepare: self.prepare.min(left), trial: self.trial.min(left / arms.max(1) as u32) }
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
    running: Option<Running>,
    /// Trials without a verdict, oldest first.
    queue: VecDeque<Request>,
    /// The problem a new process must be given again.
    prepared: Option<Request>,
    busy_s: f64,
}

/// A process with its device open.
struct Running {
    process: LineProcess,
    /// How many of the queued trials it was sent.
    sent: usize,
}

impl Running {
    /// Sends what it has not of the queue. That it is gone shows where its answers are waited for.
    fn catch_up(&mut self, queue: &VecDeque<Request>) {
        for request in queue.iter().skip(self.sent) {
            let _ = self.process.send(request);
        }
        self.sent = queue.len();
    }
}

/// How long a device that does not open is given to come back.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// A worker for the device at `address`; its process starts with the first request.
    pub fn new(address: Address, support: Option<PathBuf>, deadlines: Deadlines) -> Self {
        let queue = VecDeque::new();
        Self { address, support, deadlines, running: None, queue, prepared: None, busy_s: 0.0 }
    }

    /// From now on requests have these deadlines.
    pub fn set_deadlines(&mut self, deadlines: Deadlines) {
        self.deadlines = deadlines;
    }

    /// Makes a problem's inputs and reference. Trials that are queued run on these: what the process made of them on the
    /// tensors before is dropped.
    ///
    /// # Errors
    /// Where the device cannot: out of memory, say.
    pub fn prepare(&mut self, problem: &Problem, seed: u64, reference: Option<Program>) -> Result<(), Failure> {
        let deadline = self.deadlines.trial;
        while let Some(running) = self.running.as_mut().filter(|running| running.sent > 0) {
            running.sent -= 1;
            let dropped = answer(&mut running.process, deadline);
            self.note_loss(&dropped);
        }
        self.prepared = None;
        let request = Request::Prepare { problem: *problem, seed, reference };
        match self.ask(&request, self.deadlines.prepare)? {
            Reply::Prepared { busy_s } => {
                self.prepared = Some(request);
                self.busy_s += busy_s;
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Queues a trial: the config is verified on the prepared problem, then timed.
    pub fn submit(&mut self, arm: Arm, sampling: Sampling) {
        self.queue.push_back(Request::Trial { arm, sampling });
        if let Some(running) = &mut self.running {
            running.catch_up(&self.queue);
        }
    }

    /// Drops the queued trials of a problem that cannot be prepared.
    pub fn forget(&mut self) {
        self.queue.clear();
    }

    /// Waits for the verdict on the oldest queued trial. Where it took its process down, the next ones run in a new one.
    ///
    /// # Errors
    /// Where it crashed or hung.
    pub fn verdict(&mut self) -> Result<Verdict, Failure> {
        let deadline = self.deadlines.trial;
        let reply = self.running().and_then(|(running, queue)| {
            running.catch_up(queue);
            let rest = running.sent.checked_sub(1);
            running.sent = rest.ok_or_else(|| Failure::Refused("no trial is queued".into()))?;
            answer(&mut running.process, deadline)
        });
        self.queue.pop_front();
        self.note_loss(&reply);
        match reply? {
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
    pub fn race(&mut self, arms: Vec<Arm>, plan: RacePlan, seed: u64) -> Result<RaceResults, Failure> {
        let deadline = self.deadlines.trial * arms.len().max(1) as u32;
        match self.ask(&Request::Race { arms, plan, seed }, deadline)? {
            Reply::Race { results, busy_s } => {
                self.busy_s += busy_s;
                Ok(results)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Seconds the device was busy with problems and trials so far, by the worker's clock.
    pub fn busy_s(&self) -> f64 {
        self.busy_s
    }

    /// After a process was lost: starts a new one, and tries once more where the device does not open at once.
    ///
    /// # Errors
    /// Where the device does not come back.
    pub fn reopen(&mut self) -> Result<(), Failure> {
        for _ in 0..2 {
            // That the problem cannot be prepared says nothing of the device.
            let Err(Failure::Gone(_)) = self.running() else { return Ok(()) };
            std::thread::sleep(REOPEN_PAUSE);
        }
        match self.running() {
            Err(gone @ Failure::Gone(_)) => Err(gone),
            _ => Ok(()),
        }
    }

    fn ask(&mut self, request: &Request, deadline: Duration) -> Result<Reply, Failure> {
        let reply = self.running().and_then(|(running, _)| ask(&mut running.process, request, deadline));
        self.note_loss(&reply);
        reply
    }

    /// Gives the process up where it is of no more use.
    fn note_loss(&mut self, reply: &Result<Reply, Failure>) {
        if let Err(Failure::Crashed(_) | Failure::Timeout(_)) = reply {
            self.running = None;
        }
    }

    /// The process, started, opened and prepared where it is new, and the queue.
    fn running(&mut self) -> Result<(&mut Running, &VecDeque<Request>), Failure> {
        let running = match &mut self.running {
            Some(running) => running,
            empty => {
                let gone = |why: &dyn fmt::Display| Failure::Gone(format!("cannot open the device: {why}"));
                let mut process = LineProcess::start("worker", &[]).map_err(|error| gone(&error))?;
                let open = Request::Open { address: self.address, support: self.support.clone() };
                let done = |reply| match reply {
                    Reply::Opened | Reply::Prepared { .. } => Ok(()),
                    other => Err(unexpected(&other)),
                };
                ask(&mut process, &open, self.deadlines.prepare).and_then(done).map_err(|failure| gone(&failure))?;
                if let Some(prepare) = &self.prepared {
                    ask(&mut process, prepare, self.deadlines.prepare).and_then(done)?;
                }
                empty.insert(Running { process, sent: 0 })
            }
        };
        Ok((running, &self.queue))
    }
}

fn ask(process: &mut LineProcess, request: &Request, deadline: Duration) -> Result<Reply, Failure> {
    process.send(request).map_err(|silence| lost(&silence))?;
    answer(process, deadline)
}

fn answer(process: &mut LineProcess, deadline: Duration) -> Result<Reply, Failure> {
    match process.answer(deadline).map_err(|silence| lost(&silence))? {
        Reply::Dead { error } => Err(Failure::Crashed(error)),
        reply => Ok(reply),
    }
}

fn lost(silence: &Silence) -> Failure {
    match silence {
        Silence::Timeout(_) => Failure::Timeout(silence.to_string()),
        Silence::Died(_) => Failure::Crashed(silence.to_string()),
    }
}

fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Refused { error } => Failure::Refused(error.clone()),
        other => Failure::Crashed(format!("the worker answered something else: {other:?}")),
    }
}
