//! The measuring process from outside: requests with deadlines, and a new process where one was lost.

use super::{Arm, Failure, RaceResults, Reply, Request, Verdict};
use crate::device::{Address, Program};
use crate::families::Task;
use crate::measure::{RacePlan, Sampling};
use crate::process::{self, LineProcess, Silence};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
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

impl Failure {
    /// The same, told as running past this deadline where that is what it is.
    fn within(self, deadline: Duration) -> Self {
        match self {
            Self::Timeout(_) => lost(&Silence::Timeout(deadline)),
            other => other,
        }
    }
}

/// The measuring process of one device.
pub struct Worker {
    address: Address,
    support: Option<PathBuf>,
    deadlines: Deadlines,
    /// What the process holds as long as it lives: the lock of its device.
    held: Option<Arc<File>>,
    /// The file of another language that names the problem's family, where that runs its kernels.
    file: Option<PathBuf>,
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
    /// Whether the problem is prepared there.
    prepared: bool,
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

impl Worker {
    /// A worker for the device at `address`; its process starts with the first request.
    pub fn new(address: Address, support: Option<PathBuf>, deadlines: Deadlines) -> Self {
        let queue = VecDeque::new();
        Self { address, support, deadlines, held: None, file: None, running: None, queue, prepared: None, busy_s: 0.0 }
    }

    /// The same, whose processes hold a file open as long as they live: the lock of its device.
    #[must_use]
    pub fn holding(self, held: Option<Arc<File>>) -> Self {
        Self { held, ..self }
    }

    /// From now on requests have these deadlines.
    pub fn set_deadlines(&mut self, deadlines: Deadlines) {
        self.deadlines = deadlines;
    }

    /// Makes a problem's inputs and reference. Trials that are queued run on these: what the process made of them on the
    /// tensors before is dropped.
    ///
    /// # Errors
    /// Where that fails, for whatever reason: trouble, since no config has run.
    pub fn prepare(&mut self, task: Task, seed: u64, reference: Option<Program>) -> Result<(), Failure> {
        let deadline = self.deadlines.trial;
        let file = task.call.as_ref().map(|call| &call.callable.file);
        if self.file.as_ref() != file {
            self.file = file.cloned();
            self.restart();
        }
        while let Some(running) = self.running.as_mut().filter(|running| running.sent > 0) {
            running.sent -= 1;
            if answer(&mut running.process, deadline).is_err() {
                self.running = None;
            }
        }
        self.prepared = Some(Request::Prepare { task: Box::new(task), seed, reference });
        if let Some(running) = &mut self.running {
            running.prepared = false;
        }
        let outcome = self.ready().map(drop);
        if outcome.is_err() {
            self.prepared = None;
        }
        outcome
    }

    /// Queues a trial: the config is verified on the prepared problem, then timed.
    pub fn submit(&mut self, arm: Arm, sampling: Sampling) {
        self.queue.push_back(Request::Trial { arm, sampling });
        if let Some(running) = self.running.as_mut().filter(|running| running.prepared) {
            running.catch_up(&self.queue);
        }
    }

    /// Queues a trial before all others.
    pub fn submit_first(&mut self, arm: Arm, sampling: Sampling) {
        if self.running.as_ref().is_some_and(|running| running.sent > 0) {
            self.restart();
        }
        self.queue.push_front(Request::Trial { arm, sampling });
    }

    /// Drops all queued trials.
    pub fn forget(&mut self) {
        if !self.queue.is_empty() {
            self.queue.clear();
            self.restart();
        }
    }

    /// Waits for the verdict on the oldest queued trial. Where it took its process down, the next ones run in a new one.
    ///
    /// # Errors
    /// Where it crashed or hung, or the machine failed.
    pub fn verdict(&mut self) -> Result<Verdict, Failure> {
        let deadline = self.deadlines.trial;
        let reply = self.ready().and_then(|(running, queue)| {
            running.catch_up(queue);
            let rest = running.sent.checked_sub(1);
            running.sent = rest.ok_or_else(|| Failure::Trouble("no trial is queued".into()))?;
            answer(&mut running.process, deadline + WATCHING).map_err(|failure| failure.within(deadline))
        });
        self.queue.pop_front();
        let verdict = reply.and_then(|reply| match reply {
            Reply::Trial { verdict, busy_s } => {
                self.busy_s += busy_s;
                Ok(verdict)
            }
            other => Err(unexpected(&other)),
        });
        if verdict.is_err() {
            self.restart();
        }
        verdict
    }

    /// Times several configs in interleaved rounds.
    ///
    /// # Errors
    /// Where one of them crashed or hung.
    pub fn race(&mut self, arms: Vec<Arm>, plan: RacePlan, seed: u64) -> Result<RaceResults, Failure> {
        let deadline = self.deadlines.trial * arms.len().max(1) as u32;
        let request = Request::Race { arms, plan, seed };
        let reply = self.ready().and_then(|(running, _)| {
            ask(&mut running.process, &request, deadline + WATCHING).map_err(|failure| failure.within(deadline))
        });
        let results = reply.and_then(|reply| match reply {
            Reply::Race { results, busy_s } => {
                self.busy_s += busy_s;
                Ok(results)
            }
            other => Err(unexpected(&other)),
        });
        if results.is_err() {
            self.restart();
        }
        results
    }

    /// Has a process that is as good as new run what is known to be good: the canary, and a config that was right on the prepared
    /// problem, where one is named.
    ///
    /// # Errors
    /// Where even that fails.
    pub fn control(&mut self, known_good: Option<&Arm>) -> Result<(), Failure> {
        let deadline = self.deadlines.trial.max(LEAST_CONTROL);
        let running = if known_good.is_some() { self.ready().map(|(running, _)| running) } else { self.running() };
        let request = Request::Control { known_good: known_good.cloned() };
        let reply = running.and_then(|running| ask(&mut running.process, &request, deadline));
        let sound = reply.and_then(|reply| match reply {
            Reply::Sound => Ok(()),
            other => Err(unexpected(&other)),
        });
        if sound.is_err() {
            self.restart();
        }
        sound
    }

    /// Gives the process up: the next request has a new one.
    pub fn restart(&mut self) {
        self.running = None;
    }

    /// Seconds the device was busy with problems and trials so far, by the worker's clock.
    pub fn busy_s(&self) -> f64 {
        self.busy_s
    }

    /// The process, started and with its device open where it is new.
    fn running(&mut self) -> Result<&mut Running, Failure> {
        match &mut self.running {
            Some(running) => Ok(running),
            empty => {
                let trouble = |why: &dyn fmt::Display| Failure::Trouble(format!("cannot open the device: {why}"));
                let process = match &self.file {
                    Some(file) => LineProcess::start_command(process::python("measure", file, ""), self.held.clone()),
                    None => LineProcess::start("worker", &[], self.held.clone()),
                };
                let mut process = process.map_err(|error| trouble(&error))?;
                let open = Request::Open { address: self.address, support: self.support.clone() };
                let opened = match ask(&mut process, &open, self.deadlines.prepare) {
                    Ok(Reply::Opened) => Ok(()),
                    Ok(other) => Err(unexpected(&other)),
                    Err(failure) => Err(failure),
                };
                opened.map_err(|failure| trouble(&failure))?;
                Ok(empty.insert(Running { process, prepared: false, sent: 0 }))
            }
        }
    }

    /// The process with the problem prepared, and the queue.
    fn ready(&mut self) -> Result<(&mut Running, &VecDeque<Request>), Failure> {
        let deadline = self.deadlines.prepare;
        let prepare = self.prepared.clone();
        let running = self.running()?;
        if let Some(prepare) = prepare.filter(|_| !running.prepared) {
            match ask(&mut running.process, &prepare, deadline) {
                Ok(Reply::Prepared { busy_s }) => {
                    running.prepared = true;
                    self.busy_s += busy_s;
                }
                Ok(other) => return Err(self.unprepared(&unexpected(&other))),
                Err(failure) => return Err(self.unprepared(&failure)),
            }
        }
        match &mut self.running {
            Some(running) => Ok((running, &self.queue)),
            None => Err(Failure::Trouble("the process is gone".into())),
        }
    }

    fn unprepared(&mut self, why: &Failure) -> Failure {
        self.restart();
        Failure::Trouble(format!("the problem was not prepared: {why}"))
    }
}

/// What looking at the device and waiting for a quiet moment may take beside a trial: its deadline is for the config.
const WATCHING: Duration = Duration::from_secs(3);
/// A canary on a busy machine takes longer than the shortest deadline a user may name for a trial.
const LEAST_CONTROL: Duration = Duration::from_secs(10);

fn ask(process: &mut LineProcess, request: &Request, deadline: Duration) -> Result<Reply, Failure> {
    process.send(request).map_err(|silence| lost(&silence))?;
    answer(process, deadline)
}

fn answer(process: &mut LineProcess, deadline: Duration) -> Result<Reply, Failure> {
    match process.answer(deadline).map_err(|silence| lost(&silence))? {
        Reply::Dead { error } => Err(Failure::Crashed(error)),
        Reply::Trouble { error } => Err(Failure::Trouble(error)),
        reply => Ok(reply),
    }
}

fn lost(silence: &Silence) -> Failure {
    let why = silence.to_string();
    match silence {
        Silence::Timeout(_) => Failure::Timeout(why),
        Silence::Killed(_) => Failure::Killed(why),
        Silence::Crashed(_) => Failure::Crashed(why),
        Silence::Ended(_) => Failure::Ended(why),
    }
}

fn unexpected(reply: &Reply) -> Failure {
    match reply {
        Reply::Refused { error } => Failure::Refused(error.clone()),
        other => Failure::Ended(format!("the worker answered something else: {other:?}")),
    }
}
