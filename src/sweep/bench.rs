//! One device at work: trials one by one, races, and what is done where one of them takes the device's process down.

use super::lab::{Lab, problem_seed};
use crate::compile::Key;
use crate::device::{Address, Found, Program, support_kernel};
use crate::error::{Error, ErrorKind, Result};
use crate::families::{self, Rejection};
use crate::journal::{Stage, Status, Trial};
use crate::measure::Sampling;
use crate::model::{Config, Micros, Problem};
use crate::plan;
use crate::process;
use crate::search::Bench;
use crate::worker::{Arm, Failure, Verdict, Worker};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whose turn it is on a device. While kernels that one bench needs next are compiled, another measures; never two at once.
pub(crate) type Turn = Mutex<()>;

/// One device, on one problem at a time.
pub(crate) struct DeviceBench<'lab, 'a> {
    pub(super) lab: &'lab Lab<'a>,
    turn: &'lab Turn,
    /// Held from where the worker is given something to do until all of it is done.
    held: Option<MutexGuard<'lab, ()>>,
    address: Address,
    /// What tells it from others of its kind.
    unit: Option<String>,
    pub(super) worker: Worker,
    pub(super) problem: Option<Problem>,
    is_prepared: bool,
    /// What ran right on the problem before: where it fails, whatever fails beside it is not to blame.
    pub(super) known_good: Option<Arm>,
    /// Trials of the problem whose outcome nobody has asked for yet, oldest first.
    pub(super) queue: VecDeque<Queued>,
    busy_s: f64,
}

/// A trial that was submitted.
pub(super) enum Queued {
    /// It needed no measuring.
    Known(Box<Trial>),
    /// It is with the worker.
    Asked(Box<Asked>),
}

/// A trial that the worker was asked for.
pub(super) struct Asked {
    pub(super) arm: Arm,
    pub(super) sampling: Sampling,
    pub(super) stage: Stage,
    pub(super) key: Key,
}

/// So many failures of a config, each in a process that ran nothing else but what is known to be good, condemn it.
const CONVICTING: u32 = 2;
/// How often something is tried, whoever's fault it is that it fails.
const ATTEMPTS: u32 = 3;
/// How long the machine is given before it runs what is known to be good, each time that failed.
const CONTROL_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];

impl<'lab, 'a> DeviceBench<'lab, 'a> {
    pub(crate) fn new(lab: &'lab Lab<'a>, found: &Found, turn: &'lab Turn) -> Result<Self> {
        let support = lab.compiler().map(|compiler| compiler.needed(&support_kernel())).transpose()?;
        let address = found.address;
        let worker = lab.site.worker(address, support, lab.clock.deadlines);
        Ok(Self {
            lab,
            turn,
            held: None,
            address,
            unit: found.unit.clone(),
            busy_s: worker.busy_s(),
            worker,
            problem: None,
            is_prepared: false,
            known_good: None,
            queue: VecDeque::new(),
        })
    }

    /// Leaves the measuring process, with its device open and warm, to whoever is next.
    pub(crate) fn leave(mut self) {
        self.abandon();
        self.lab.site.leave(self.address, self.worker);
    }

    /// Whether there is time to measure this problem.
    pub(crate) fn has_time(&self, problem: &Problem) -> Result<bool> {
        self.lab.clock.has_time(problem)
    }

    /// Makes `problem` the one that is measured. Its tensors are made when the first trial needs them.
    pub(crate) fn turn_to(&mut self, problem: Problem) {
        self.abandon();
        self.problem = Some(problem);
        (self.is_prepared, self.known_good) = (false, None);
    }

    /// Within a budget, waits for whatever a config's first trial of the problem would wait for.
    pub(crate) fn get_ready(&mut self, first: Option<&Config>) -> Result<()> {
        let Some(end) = self.lab.clock.end() else { return Ok(()) };
        let problem = self.problem()?;
        let first = first.map(|config| plan::candidate(config.clone(), &problem, self.lab.profile()).program);
        let first = first.and_then(Result::ok);
        if let Some(program) = &first {
            self.lab.key(program.as_ref())?; // compiling it begins
        }
        // What the time cut off here, the first trial meets again.
        let _cut = self.in_turn(Self::prepare)?;
        if let Some(program) = &first {
            self.lab.program_by(program.as_ref(), Some(end))?;
        }
        Ok(())
    }

    /// Drops what is still queued of a problem that was given up, and leaves the device to others.
    fn abandon(&mut self) {
        self.queue.clear();
        self.worker.forget();
        self.held = None;
    }

    /// Tries configs again of which the journal says what may pass: a time-out, say. Whether one of them works now.
    pub(crate) fn retry(&mut self, configs: &[Config]) -> Result<bool> {
        let mut works = false;
        for config in configs {
            let candidate = plan::candidate(config.clone(), &self.problem()?, self.lab.profile());
            if !self.submit(&candidate, Stage::Screen, Sampling::SCREEN)? {
                break;
            }
            while let Some(trial) = self.next()? {
                works |= trial.status == Status::Ok;
            }
        }
        Ok(works)
    }

    pub(super) fn problem(&self) -> Result<Problem> {
        self.problem.ok_or_else(|| Error::failure("no problem to measure"))
    }

    /// Waits until the device is this bench's.
    pub(super) fn take_turn(&mut self) {
        if self.held.is_none() {
            self.held = Some(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Leaves the device to others, unless the worker still has something to do.
    pub(super) fn end_turn(&mut self) {
        if !self.queue.iter().any(|queued| matches!(queued, Queued::Asked(_))) {
            self.held = None;
        }
    }

    /// Does as it says while the device is this bench's.
    pub(super) fn in_turn<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.take_turn();
        let done = work(self);
        self.end_turn();
        done
    }

    /// Waits for what the worker still has to do, which leaves the device to others.
    pub(super) fn settle(&mut self) -> Result<()> {
        for queued in std::mem::take(&mut self.queue) {
            let queued = match queued {
                Queued::Asked(asked) => Queued::Known(Box::new(self.outcome(&asked)?)),
                known @ Queued::Known(_) => known,
            };
            self.queue.push_back(queued);
        }
        self.end_turn();
        Ok(())
    }

    /// What the oldest trial that the worker was asked for came to.
    pub(super) fn outcome(&mut self, asked: &Asked) -> Result<Trial> {
        let Asked { arm, sampling, stage, key } = asked;
        let mut is_queued = true;
        let verdict = self.insist(CONVICTING, |bench| {
            if !std::mem::take(&mut is_queued) {
                bench.worker.submit_first(arm.clone(), *sampling);
            }
            bench.first_verdict()
        })?;
        let trial = match verdict {
            Ok(verdict) => {
                self.known_good.get_or_insert_with(|| arm.clone());
                if let Verdict::Timed { local_memory, .. } = verdict {
                    self.lab.tell_of_local_memory(&arm.config, key, local_memory);
                }
                self.judged(&arm.config, *stage, key, verdict)?
            }
            Err(failure) => {
                let failed = self.failed(&arm.config, *stage, &failure, key)?;
                if self.is_time_up()? {
                    return Ok(failed); // which says nothing of the config, and is not recorded
                }
                failed
            }
        };
        self.lab.record(trial)
    }

    /// What the first of the trials that the worker was asked for came to, if it was timed.
    fn first_verdict(&mut self) -> Result<Verdict, Failure> {
        self.limit_to_time_left(1);
        self.worker.verdict()?.timed()
    }

    /// Has the worker do something. Where that fails a new process runs what is known to be good, and then has to do it again.
    /// What fails so as to speak against itself `enough` times is taken to be at fault; what fails once the time is up, which may have
    /// cut it off, is not tried again.
    ///
    /// # Errors
    /// Where not even what is known to be good runs any more, which ends the sweep; and where something else stands in the way
    /// again and again ([`ErrorKind::Trouble`]): the problem is left to the next run.
    pub(super) fn insist<T>(
        &mut self,
        enough: u32,
        mut ask: impl FnMut(&mut Self) -> Result<T, Failure>,
    ) -> Result<Result<T, Failure>> {
        let (mut against, mut last) = (0, None);
        for _ in 0..ATTEMPTS {
            let asked = ask(self);
            self.note_busy();
            let failure = match asked {
                Ok(done) => {
                    if let Some(last) = last {
                        self.lab.site.progress.say(&format!("{}: {last}; not so when tried again", self.problem()?));
                    }
                    return Ok(Ok(done));
                }
                Err(failure) => failure,
            };
            // The language that was to build it says so, and its process is as good as before.
            if self.is_time_up()? || matches!(failure, Failure::Unbuilt(_)) {
                return Ok(Err(failure));
            }
            if self.is_machine_sound(&failure)? {
                against += self.weight(&failure);
            }
            if against >= enough {
                return Ok(Err(failure));
            }
            last = Some(failure);
        }
        let why = last.map(|failure| failure.to_string()).unwrap_or_default();
        Err(Error::new(ErrorKind::Trouble, format!("{why} (so it ended {ATTEMPTS} times)")))
    }

    /// Whether the problem's kernels are called, in another language.
    fn is_called(&self) -> bool {
        self.problem.is_some_and(|problem| families::spec(problem.family).callable().is_some())
    }

    /// How much a failure says against what was asked. An output that is wrong, on a machine that is right otherwise, is so once and
    /// for all: what errs now and then is not to be served. That a process ended by itself says something only where others live.
    fn weight(&self, failure: &Failure) -> u32 {
        match failure {
            Failure::Wrong { .. } | Failure::Unbuilt(_) => CONVICTING,
            Failure::Crashed(_) | Failure::Timeout(_) | Failure::Refused(_) => 1,
            // Whatever is called may do that, and it is asked for again in a process that ran nothing else.
            Failure::Ended(_) | Failure::Killed(_) if self.is_called() => 1,
            Failure::Ended(_) => u32::from(self.known_good.is_some()),
            Failure::Killed(_) | Failure::Trouble(_) => 0,
        }
    }

    /// After a failure: whether a new process runs what was right on the problem before.
    ///
    /// # Errors
    /// Where it does not even run the canary: no trial has a meaning any more.
    fn is_machine_sound(&mut self, after: &Failure) -> Result<bool> {
        let mut trouble = None;
        for pause in CONTROL_PAUSES {
            std::thread::sleep(pause);
            process::check_interrupt()?;
            self.worker.restart();
            self.worker.set_deadlines(self.lab.clock.deadlines);
            match self.worker.control(None) {
                Ok(()) => {
                    let known_good = self.known_good.clone();
                    return Ok(known_good.is_none_or(|arm| self.worker.control(Some(&arm)).is_ok()));
                }
                Err(failure) => trouble = Some(failure),
            }
        }
        let trouble = trouble.map(|failure| failure.to_string()).unwrap_or_default();
        Err(Error::failure(format!(
            "the device is gone: {trouble} (after: {after}); everything measured is in the journal, no config is blamed, and the \
             same command goes on"
        )))
    }

    /// The problem's inputs and reference on the device, whose turn it is; or what cut it off when the time was up.
    pub(super) fn prepare(&mut self) -> Result<Result<(), Failure>> {
        if self.is_prepared {
            return Ok(Ok(()));
        }
        let problem = self.problem()?;
        let spec = families::spec(problem.family);
        let reference = spec.reference(&problem).map_err(|Rejection(why)| Error::usage(format!("{problem}: {why}")))?;
        let reference = match (self.lab.compiler(), reference) {
            (Some(compiler), Some((kernel, launch))) => Some(Program::needed(compiler, &kernel, &launch)?),
            _ => None,
        };
        let task = spec.task(&problem);
        let seed = problem_seed(self.lab.seed, &problem);
        let prepared = self.insist(CONVICTING, |bench| {
            bench.limit_to_time_left(1);
            bench.worker.prepare(task.clone(), seed, reference.clone())
        })?;
        match prepared {
            Err(failure) if !self.is_time_up()? => Err(Error::new(ErrorKind::Trouble, failure)),
            prepared => {
                self.is_prepared = prepared.is_ok();
                Ok(prepared)
            }
        }
    }

    /// From now on the worker is given no longer for a request about so many configs than there is time.
    pub(super) fn limit_to_time_left(&mut self, arms: usize) {
        self.worker.set_deadlines(self.lab.clock.deadlines_of(arms));
    }

    /// Whether what failed may only have been cut off.
    pub(super) fn is_time_up(&self) -> Result<bool> {
        Ok(!self.lab.clock.has_time_to_race(&self.problem()?)?)
    }

    /// Whether there is time for another race of a stage.
    pub(super) fn has_time_at(&self, stage: Stage) -> Result<bool> {
        let (clock, problem) = (&self.lab.clock, self.problem()?);
        match stage {
            Stage::Screen | Stage::Refine => clock.has_time(&problem),
            Stage::Final | Stage::Cross => clock.has_time_to_race(&problem),
        }
    }

    /// Tries a config alone, of which a failure in a race may be known, and records what it is condemned for.
    pub(super) fn is_condemned(
        &mut self,
        arm: &Arm,
        stage: Stage,
        key: &Key,
        mut seen: Option<Failure>,
    ) -> Result<bool> {
        let verdict = self.in_turn(|bench| {
            if let Err(cut) = bench.prepare()? {
                return Ok(Err(cut));
            }
            bench.insist(CONVICTING, |bench| {
                if let Some(failure) = seen.take() {
                    return Err(failure);
                }
                bench.worker.submit_first(arm.clone(), Sampling::SCREEN);
                bench.first_verdict()
            })
        })?;
        let Err(failure) = verdict else { return Ok(false) };
        if self.is_time_up()? {
            return Ok(false);
        }
        let failed = self.failed(&arm.config, stage, &failure, key)?;
        self.lab.record(failed)?;
        Ok(true)
    }

    /// Whether there is time for another trial. An interrupt loses none of those under way.
    pub(super) fn has_time_else_finish(&mut self, problem: &Problem) -> Result<bool> {
        let has_time = self.lab.clock.has_time(problem);
        if has_time.is_err() {
            while self.next()?.is_some() {}
        }
        has_time
    }

    fn note_busy(&mut self) {
        let busy_s = self.worker.busy_s();
        self.lab.state().counts.busy_s += busy_s - self.busy_s;
        self.busy_s = busy_s;
    }

    pub(super) fn unmeasured(
        &self,
        config: &Config,
        stage: Stage,
        status: Status,
        error: Option<String>,
        kernel: &Key,
    ) -> Result<Trial> {
        let blank = Trial::untimed(&self.problem()?, config.clone(), stage, status);
        Ok(Trial { error, device: self.unit.clone(), kernel: kernel.0.clone(), ..blank })
    }

    /// A trial of what is condemned.
    fn failed(&self, config: &Config, stage: Stage, failure: &Failure, kernel: &Key) -> Result<Trial> {
        let (status, rel_err) = match failure {
            Failure::Wrong { rel_err, .. } => (Status::Wrong, *rel_err),
            Failure::Timeout(_) => (Status::Timeout, None),
            Failure::Refused(_) => (Status::LaunchFailed, None),
            Failure::Unbuilt(_) => (Status::CompileFailed, None),
            Failure::Crashed(_) | Failure::Ended(_) | Failure::Killed(_) | Failure::Trouble(_) => {
                (Status::Crashed, None)
            }
        };
        let blank = self.unmeasured(config, stage, status, Some(failure.to_string()), kernel)?;
        Ok(Trial { rel_err, ..blank })
    }

    pub(super) fn judged(&self, config: &Config, stage: Stage, kernel: &Key, verdict: Verdict) -> Result<Trial> {
        let (rel_err, measurement, rounds_us) = match verdict {
            Verdict::Timed { rel_err, measurement, rounds_us, .. } => (rel_err, measurement, rounds_us),
            Verdict::Wrong { error, .. } | Verdict::Refused { error } | Verdict::Unbuilt { error } => {
                return Err(Error::failure(error));
            }
        };
        let blank = self.unmeasured(config, stage, Status::Ok, None, kernel)?;
        Ok(Trial {
            time_us: Some(rounded(measurement.summary.time_us)),
            median_us: Some(rounded(measurement.summary.median_us)),
            q1_us: Some(rounded(measurement.summary.q1_us)),
            q3_us: Some(rounded(measurement.summary.q3_us)),
            min_us: Some(rounded(measurement.summary.min_us)),
            samples: Some(measurement.summary.samples),
            rel_err: Some((rel_err * 1e7).round() / 1e7),
            sm_mhz: measurement.sm_mhz,
            throttled: measurement.throttled,
            loaded: measurement.loaded,
            rounds_us: rounds_us.into_iter().map(|us| rounded(Micros(us)).0).collect(),
            ..blank
        })
    }
}

/// A nanosecond is finer than any clock here.
fn rounded(time: Micros) -> Micros {
    Micros((time.0 * 1e3).round() / 1e3)
}
