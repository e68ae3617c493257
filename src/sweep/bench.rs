//! One device at work: trials one by one, races, and what is done where one of them takes the device's process down.

use super::lab::Lab;
use super::{needed_cubin, needed_program, problem_seed, support_kernel};
use crate::compile::Key;
use crate::device::{Address, Found, Program};
use crate::error::{Error, ErrorKind, Result};
use crate::families;
use crate::journal::{Stage, Status, Trial};
use crate::measure::{RacePlan, Sampling};
use crate::model::{Config, Micros, Problem};
use crate::plan::{self, Candidate};
use crate::search::{self, Bench, RaceOutcome, Racer};
use crate::worker::{Arm, Failure, RaceResults, Verdict, Worker};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whose turn it is on a device. While kernels that one bench needs next are compiled, another measures; never two at once.
pub(crate) type Turn = Mutex<()>;

/// One device, on one problem at a time.
pub(crate) struct DeviceBench<'lab, 'a> {
    lab: &'lab Lab<'a>,
    turn: &'lab Turn,
    /// Held from where the worker is given something to do until all of it is done.
    held: Option<MutexGuard<'lab, ()>>,
    address: Address,
    /// What tells it from others of its kind.
    unit: Option<String>,
    worker: Worker,
    problem: Option<Problem>,
    is_prepared: bool,
    /// What ran right on the problem before: where it fails, whatever fails beside it is not to blame.
    known_good: Option<Arm>,
    /// Trials of the problem whose outcome nobody has asked for yet, oldest first.
    queue: VecDeque<Queued>,
    busy_s: f64,
}

/// A trial that was submitted.
enum Queued {
    /// It needed no measuring.
    Known(Box<Trial>),
    /// It is with the worker.
    Asked(Box<Asked>),
}

/// A trial that the worker was asked for.
struct Asked {
    arm: Arm,
    sampling: Sampling,
    stage: Stage,
    key: Key,
}

/// So many failures of a config, each in a process that ran nothing else but what is known to be good, condemn it.
const CONVICTING: u32 = 2;
/// How often something is tried, whoever's fault it is that it fails.
const ATTEMPTS: u32 = 3;
/// How long the machine is given before it runs what is known to be good, each time that failed.
const CONTROL_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(3)];

/// What programs did in a race that nothing was recorded of.
pub(crate) struct Reraced {
    /// The times of each one's rounds, in round order.
    pub(crate) rounds_us: Vec<Vec<f64>>,
    /// Other work disturbed the device meanwhile.
    pub(crate) loaded: bool,
}

/// What a race that was tried once came to. Nothing of it is recorded yet.
enum Attempt {
    /// The trials of its arms, and of the winner's duplicate as the last.
    Done(Vec<Trial>),
    /// The time was up.
    OutOfTime,
    /// Its process was lost though nothing is wrong with the machine. Which of the arms it was cannot be told.
    Crashed(Failure),
}

impl<'lab, 'a> DeviceBench<'lab, 'a> {
    pub(crate) fn new(lab: &'lab Lab<'a>, found: &Found, turn: &'lab Turn) -> Result<Self> {
        let support = lab.kernels.compiler.map(|compiler| needed_cubin(compiler, &support_kernel())).transpose()?;
        let address = found.address;
        let start = || Worker::new(address, support, lab.deadlines).holding(lab.site.held(address));
        let worker = lab.idle_worker(address).unwrap_or_else(start);
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
        self.lab.state().idle.push((self.address, self.worker));
    }

    /// Whether there is time to measure this problem.
    pub(crate) fn has_time(&self, problem: &Problem) -> Result<bool> {
        self.lab.has_time(problem)
    }

    /// Makes `problem` the one that is measured. Its tensors are made when the first trial needs them.
    pub(crate) fn turn_to(&mut self, problem: Problem) {
        self.abandon();
        self.problem = Some(problem);
        (self.is_prepared, self.known_good) = (false, None);
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
            let candidate = plan::candidate(config.clone(), &self.problem()?, &self.lab.kernels.profile);
            if !self.submit(&candidate, Stage::Screen, Sampling::SCREEN)? {
                break;
            }
            while let Some(trial) = self.next()? {
                works |= trial.status == Status::Ok;
            }
        }
        Ok(works)
    }

    /// Races other problems' finalists on this one with its own `anchors`. Configs that run as one program here run once.
    pub(crate) fn cross(&mut self, configs: &[Config], anchors: &[Config]) -> Result<()> {
        let problem = self.problem()?;
        let mut open = Vec::new();
        for config in configs {
            let candidate = plan::candidate(config.clone(), &problem, &self.lab.kernels.profile);
            let Ok(program) = &candidate.program else {
                self.pruned(&candidate)?;
                continue;
            };
            let key = self.lab.key(program.as_ref())?;
            if self.lab.recall(&problem, config, Stage::Cross, &key).is_none() {
                open.push((candidate, key));
            }
        }
        let anchors: Vec<Candidate> =
            anchors.iter().map(|config| plan::candidate(config.clone(), &problem, &self.lab.kernels.profile)).collect();
        let mut racers: Vec<Racer> = anchors.iter().map(Racer::anchor).collect();
        let mut shared: Vec<(&Candidate, &Candidate)> = Vec::new();
        let mut crossed = 0;
        for (candidate, key) in &open {
            let program = candidate.program.as_ref().ok().and_then(Option::as_ref);
            match self.lab.program(program)? {
                Some(Ok(_)) => crossed += 1,
                Some(Err((status, error))) => {
                    let failed = self.unmeasured(&candidate.config, Stage::Cross, status, Some(error), key)?;
                    self.lab.record(failed)?;
                    continue;
                }
                None => return self.lab.has_time(&problem).map(drop),
            }
            match racers.iter().find(|racer| racer.candidate.runs_as(candidate)) {
                Some(racer) => shared.push((candidate, racer.candidate)),
                None => racers.push(Racer::contender(candidate)),
            }
        }
        if crossed == 0 {
            return Ok(());
        }
        let Attempt::Done(trials) = self.race_survivors(&racers, Stage::Cross, &RacePlan::CROSS)? else {
            return Ok(());
        };
        let of_arm = |(candidate, arm): (&Candidate, &Candidate)| {
            let trial = trials.iter().find(|trial| trial.config == arm.config)?;
            Some(Trial { config: candidate.config.clone(), ..trial.clone() })
        };
        let shared: Vec<Trial> = shared.into_iter().filter_map(of_arm).collect();
        self.lab.record_all(&trials, &shared)
    }

    /// Races candidates as finalists, whatever the journal knows, and returns all trials, the winner's first and its duplicate's
    /// last.
    pub(crate) fn race_anew(&mut self, racers: &[Racer], plan: &RacePlan) -> Result<RaceOutcome> {
        Ok(match self.race_survivors(racers, Stage::Final, plan)? {
            Attempt::OutOfTime => RaceOutcome::OutOfTime,
            Attempt::Crashed(failure) => RaceOutcome::Crashed(failure.to_string()),
            Attempt::Done(mut trials) => {
                self.lab.record_all(&trials, &[])?;
                if let Some(duplicate) = trials.pop_if(|last| last.null_arm) {
                    search::sort_by_time(&mut trials, &duplicate.config);
                    trials.push(duplicate);
                }
                RaceOutcome::Done(trials)
            }
        })
    }

    /// What a config runs as on the problem, with the kernel's identity: the one of this hash where that is still cached, else
    /// today's. Or why it does not run.
    pub(crate) fn program_of(&self, config: &Config, kernel: Option<&str>) -> Result<Result<(Arm, Key), String>> {
        let candidate = plan::candidate(config.clone(), &self.problem()?, &self.lab.kernels.profile);
        let program = match &candidate.program {
            Ok(program) => program.as_ref(),
            Err(rejection) => return Ok(Err(rejection.to_string())),
        };
        let earlier = kernel.map(|hash| Key(hash.to_string()));
        let earlier =
            earlier.filter(|key| self.lab.kernels.compiler.is_some_and(|compiler| compiler.cached(key).is_some()));
        let (key, program) = match (earlier, program, self.lab.kernels.compiler) {
            (Some(key), Some((kernel, launch)), Some(compiler)) => {
                let (cubin, entry) = compiler.cached(&key).unwrap_or_default();
                let entry = entry.unwrap_or_else(|| kernel.entry.clone());
                (key, Ok(Some(Program { cubin, entry, launch: launch.clone() })))
            }
            _ => match self.lab.program(program)? {
                Some(compiled) => (self.lab.key(program)?, compiled),
                None => return Ok(Err("the time was up before it was compiled".into())),
            },
        };
        Ok(match program {
            Ok(program) => Ok((Arm { config: config.clone(), program, anchor: true }, key)),
            Err((_, error)) => Err(error),
        })
    }

    /// Races programs on the problem, whatever the journal knows, and records nothing. Or why there is no outcome: one of them is
    /// wrong, or took the process down. Another `turn` has other orders.
    pub(crate) fn race_programs(&mut self, arms: &[Arm], turn: u64) -> Result<Result<Reraced, String>> {
        let problem = self.problem()?;
        // Only an interrupt ends it: there is nothing to go on with where the time is up.
        self.lab.has_time(&problem)?;
        let seed = problem_seed(self.lab.seed.wrapping_add(turn), &problem);
        let verdicts = match self.race_in_turn(arms, RacePlan::RECHECK, seed)? {
            Ok(results) => results.verdicts,
            Err(failure) => return Ok(Err(failure.to_string())),
        };
        let mut loaded = false;
        let rounds_us = |verdict| match verdict {
            Verdict::Timed { rounds_us, measurement, .. } => {
                loaded |= measurement.loaded;
                Ok(rounds_us)
            }
            Verdict::Wrong { error, .. } | Verdict::Refused { error } => Err(error),
        };
        let rounds_us: Result<Vec<Vec<f64>>, String> = verdicts.into_iter().map(rounds_us).collect();
        Ok(rounds_us.map(|rounds_us| Reraced { rounds_us, loaded }))
    }

    fn problem(&self) -> Result<Problem> {
        self.problem.ok_or_else(|| Error::failure("no problem to measure"))
    }

    /// Waits until the device is this bench's.
    fn take_turn(&mut self) {
        if self.held.is_none() {
            self.held = Some(self.turn.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Leaves the device to others, unless the worker still has something to do.
    fn end_turn(&mut self) {
        if !self.queue.iter().any(|queued| matches!(queued, Queued::Asked(_))) {
            self.held = None;
        }
    }

    /// Does as it says while the device is this bench's.
    fn in_turn<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.take_turn();
        let done = work(self);
        self.end_turn();
        done
    }

    /// Waits for what the worker still has to do, which leaves the device to others.
    fn settle(&mut self) -> Result<()> {
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
    fn outcome(&mut self, asked: &Asked) -> Result<Trial> {
        let Asked { arm, sampling, stage, key } = asked;
        let mut is_queued = true;
        let verdict = self.insist(CONVICTING, |bench| {
            if !std::mem::take(&mut is_queued) {
                bench.worker.submit_first(arm.clone(), *sampling);
            }
            bench.limit_to_time_left(1);
            bench.worker.verdict()?.timed()
        })?;
        let trial = match verdict {
            Ok(verdict) => {
                self.known_good.get_or_insert_with(|| arm.clone());
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

    /// Has the worker do something. Where that fails a new process runs what is known to be good, and then has to do it again.
    /// What fails so as to speak against itself `enough` times is taken to be at fault; what fails once the time is up, which may have
    /// cut it off, is not tried again.
    ///
    /// # Errors
    /// Where not even what is known to be good runs any more, which ends the sweep; and where something else stands in the way
    /// again and again ([`ErrorKind::Trouble`]): the problem is left to the next run.
    fn insist<T>(
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
                        self.lab.progress.say(&format!("{}: {last}; not so when tried again", self.problem()?));
                    }
                    return Ok(Ok(done));
                }
                Err(failure) => failure,
            };
            if self.is_time_up()? {
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

    /// How much a failure says against what was asked. An output that is wrong, on a machine that is right otherwise, is so once and
    /// for all: what errs now and then is not to be served. That a process ended by itself says something only where others live.
    fn weight(&self, failure: &Failure) -> u32 {
        match failure {
            Failure::Wrong { .. } => CONVICTING,
            Failure::Crashed(_) | Failure::Timeout(_) | Failure::Refused(_) => 1,
            Failure::Ended(_) => u32::from(self.known_good.is_some()),
            Failure::Trouble(_) => 0,
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
            self.lab.has_time(&self.problem()?)?;
            self.worker.restart();
            self.worker.set_deadlines(self.lab.deadlines);
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
    fn prepare(&mut self) -> Result<Result<(), Failure>> {
        if self.is_prepared {
            return Ok(Ok(()));
        }
        let problem = self.problem()?;
        let spec = families::spec(problem.family);
        let reference = match (self.lab.kernels.compiler, spec.reference(&problem)) {
            (Some(compiler), Some((kernel, launch))) => Some(needed_program(compiler, &kernel, launch)?),
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
    fn limit_to_time_left(&mut self, arms: usize) {
        self.worker.set_deadlines(self.lab.deadlines_of(arms));
    }

    /// Whether what failed may only have been cut off.
    fn is_time_up(&self) -> Result<bool> {
        Ok(!self.lab.has_time(&self.problem()?)?)
    }

    /// A race; where one of its arms takes the process down, each is tried alone, and those that work race without the others,
    /// whose failures are recorded.
    fn race_survivors(&mut self, racers: &[Racer], stage: Stage, plan: &RacePlan) -> Result<Attempt> {
        let crashed = match self.interleave(racers, stage, plan)? {
            Attempt::Crashed(failure) => failure,
            other => return Ok(other),
        };
        let mut survivors = Vec::new();
        for racer in racers {
            let Some((arm, key)) = self.arm(racer)? else { continue };
            if !self.lab.has_time(&self.problem()?)? {
                return Ok(Attempt::OutOfTime);
            }
            if !self.is_condemned(&arm, stage, &key, None)? {
                survivors.push(*racer);
            }
        }
        match self.interleave(&survivors, stage, plan)? {
            // Where each works alone, nothing is wrong with any of them that could be told.
            Attempt::Crashed(_) => Ok(Attempt::Crashed(crashed)),
            other => Ok(other),
        }
    }

    /// Tries a config alone, of which a failure in a race may be known, and records what it is condemned for.
    fn is_condemned(&mut self, arm: &Arm, stage: Stage, key: &Key, mut seen: Option<Failure>) -> Result<bool> {
        let verdict = self.in_turn(|bench| {
            if let Err(cut) = bench.prepare()? {
                return Ok(Err(cut));
            }
            bench.insist(CONVICTING, |bench| {
                if let Some(failure) = seen.take() {
                    return Err(failure);
                }
                bench.limit_to_time_left(1);
                bench.worker.submit_first(arm.clone(), Sampling::SCREEN);
                bench.worker.verdict()?.timed()
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

    /// What a racer runs as; nothing where it does not compile, or the time is up before it does.
    fn arm(&self, racer: &Racer) -> Result<Option<(Arm, Key)>> {
        let program = racer.candidate.program.as_ref().ok().and_then(Option::as_ref);
        let key = self.lab.key(program)?;
        Ok(match self.lab.program(program)? {
            Some(Ok(program)) => {
                Some((Arm { config: racer.candidate.config.clone(), program, anchor: racer.anchor }, key))
            }
            Some(Err(_)) | None => None,
        })
    }

    /// Times candidates in interleaved rounds. Records nothing but what one of them is condemned for.
    fn interleave(&mut self, racers: &[Racer], stage: Stage, plan: &RacePlan) -> Result<Attempt> {
        let problem = self.problem()?;
        let mut running = Vec::new();
        for racer in racers {
            running.extend(self.arm(racer)?);
        }
        if !self.lab.has_time(&problem)? {
            return Ok(Attempt::OutOfTime);
        }
        let arms: Vec<Arm> = running.iter().map(|(arm, _)| arm.clone()).collect();
        let results = self.race_in_turn(&arms, *plan, problem_seed(self.lab.seed, &problem))?;
        let RaceResults { verdicts, chosen_by, null_arm } = match results {
            Ok(results) => results,
            Err(_) if self.is_time_up()? => return Ok(Attempt::OutOfTime),
            Err(failure) => return Ok(Attempt::Crashed(failure)),
        };
        let race = Some(self.lab.next_race(&problem));
        let (mut trials, mut suspects) = (Vec::new(), Vec::new());
        for ((arm, key), verdict) in running.iter().zip(verdicts) {
            match verdict.timed() {
                Ok(verdict) => {
                    trials.push(Trial { race, chosen_by, ..self.judged(&arm.config, stage, key, verdict)? });
                    self.known_good.get_or_insert_with(|| arm.clone());
                }
                Err(failure) => suspects.push((arm, key, failure)),
            }
        }
        if let Some((winner, verdict)) = null_arm {
            let (arm, key) = &running[winner];
            let duplicate = self.judged(&arm.config, stage, key, verdict)?;
            trials.push(Trial { race, chosen_by, joined: chosen_by, null_arm: true, ..duplicate });
        }
        for (arm, key, failure) in suspects {
            self.is_condemned(arm, stage, key, Some(failure))?;
        }
        Ok(Attempt::Done(trials))
    }

    /// A race by the worker.
    fn race_in_turn(&mut self, arms: &[Arm], plan: RacePlan, seed: u64) -> Result<Result<RaceResults, Failure>> {
        self.in_turn(|bench| {
            if let Err(cut) = bench.prepare()? {
                return Ok(Err(cut));
            }
            bench.insist(1, |bench| {
                bench.limit_to_time_left(arms.len());
                bench.worker.race(arms.to_vec(), plan, seed)
            })
        })
    }

    /// Whether there is time for another trial. An interrupt loses none of those under way.
    fn has_time_else_finish(&mut self, problem: &Problem) -> Result<bool> {
        let has_time = self.lab.has_time(problem);
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

    fn unmeasured(
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
            Failure::Crashed(_) | Failure::Ended(_) | Failure::Trouble(_) => (Status::Crashed, None),
        };
        let blank = self.unmeasured(config, stage, status, Some(failure.to_string()), kernel)?;
        Ok(Trial { rel_err, ..blank })
    }

    fn judged(&self, config: &Config, stage: Stage, kernel: &Key, verdict: Verdict) -> Result<Trial> {
        let (rel_err, measurement, rounds_us) = match verdict {
            Verdict::Timed { rel_err, measurement, rounds_us, .. } => (rel_err, measurement, rounds_us),
            Verdict::Wrong { error, .. } | Verdict::Refused { error } => return Err(Error::failure(error)),
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

impl Bench for DeviceBench<'_, '_> {
    fn submit(&mut self, candidate: &Candidate, stage: Stage, sampling: Sampling) -> Result<bool> {
        let problem = self.problem()?;
        let Ok(program) = &candidate.program else {
            self.pruned(candidate)?;
            return Ok(true);
        };
        let key = self.lab.key(program.as_ref())?;
        if let Some(trial) = self.lab.recall(&problem, &candidate.config, stage, &key) {
            self.queue.push_back(Queued::Known(Box::new(trial)));
            return Ok(true);
        }
        if !self.has_time_else_finish(&problem)? {
            return Ok(false);
        }
        let mut compiled = self.lab.program_at_hand(program.as_ref())?;
        if compiled.is_none() {
            self.settle()?;
            compiled = self.lab.program(program.as_ref())?;
        }
        let program = match compiled {
            Some(Ok(program)) => program,
            Some(Err((status, error))) => {
                let failed = self.unmeasured(&candidate.config, stage, status, Some(error), &key)?;
                self.queue.push_back(Queued::Known(Box::new(self.lab.record(failed)?)));
                return Ok(true);
            }
            None => return self.has_time_else_finish(&problem).map(|_| false),
        };
        let arm = Arm { config: candidate.config.clone(), program, anchor: false };
        self.take_turn();
        if self.prepare()?.is_err() {
            self.end_turn();
            return Ok(false);
        }
        self.worker.submit(arm.clone(), sampling);
        self.queue.push_back(Queued::Asked(Box::new(Asked { arm, sampling, stage, key })));
        Ok(true)
    }

    fn next(&mut self) -> Result<Option<Trial>> {
        match self.queue.pop_front() {
            None => Ok(None),
            Some(Queued::Known(trial)) => Ok(Some(*trial)),
            Some(Queued::Asked(asked)) => self.in_turn(|bench| bench.outcome(&asked)).map(Some),
        }
    }

    fn screen(&mut self, incumbent: &Candidate, batch: &[&Candidate], stage: Stage) -> Result<Option<Vec<Trial>>> {
        let problem = self.problem()?;
        let mut racers = vec![Racer::anchor(incumbent)];
        let mut known = Vec::new();
        for candidate in batch {
            let Ok(program) = &candidate.program else {
                self.pruned(candidate)?;
                continue;
            };
            let key = self.lab.key(program.as_ref())?;
            match (self.lab.recall(&problem, &candidate.config, stage, &key), self.lab.program(program.as_ref())?) {
                (Some(trial), _) => known.push(trial),
                (None, Some(Ok(_))) => racers.push(Racer::contender(candidate)),
                (None, Some(Err((status, error)))) => {
                    let failed = self.unmeasured(&candidate.config, stage, status, Some(error), &key)?;
                    known.push(self.lab.record(failed)?);
                }
                (None, None) => return self.lab.has_time(&problem).map(|_| None),
            }
        }
        if racers.len() == 1 {
            return Ok(Some(known));
        }
        match self.race_survivors(&racers, stage, &RacePlan::SCREEN)? {
            Attempt::OutOfTime => Ok(None),
            Attempt::Crashed(_) => Ok(Some(known)),
            Attempt::Done(mut trials) => {
                self.lab.record_all(&trials, &[])?;
                trials.extend(known);
                Ok(Some(trials))
            }
        }
    }

    fn race(&mut self, racers: &[Racer], plan: &RacePlan) -> Result<RaceOutcome> {
        let configs: Vec<Config> = racers.iter().map(|racer| racer.candidate.config.clone()).collect();
        if let Some(trials) = self.lab.recall_final(&self.problem()?, &configs)? {
            return Ok(RaceOutcome::Done(trials));
        }
        let mut outcome = self.race_anew(racers, plan)?;
        if let RaceOutcome::Done(trials) = &mut outcome {
            trials.retain(|trial| !trial.null_arm);
        }
        Ok(outcome)
    }

    fn pruned(&mut self, candidate: &Candidate) -> Result<()> {
        let problem = self.problem()?;
        let Err(rejection) = &candidate.program else { return Ok(()) };
        let none = Key(String::new());
        let known = self.lab.recall(&problem, &candidate.config, Stage::Screen, &none).is_some();
        if !known && self.lab.has_time(&problem)? {
            let reason = Some(rejection.to_string());
            let trial = self.unmeasured(&candidate.config, Stage::Screen, Status::Pruned, reason, &none)?;
            self.lab.record(trial)?;
        }
        Ok(())
    }
}

/// A nanosecond is finer than any clock here.
fn rounded(time: Micros) -> Micros {
    Micros((time.0 * 1e3).round() / 1e3)
}
