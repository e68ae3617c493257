//! One device at work: trials one by one, races, and what is done where one of them takes the device's process down.

use super::lab::Lab;
use super::{needed_cubin, problem_seed, support_kernel};
use crate::compile::Key;
use crate::device::{Address, Found, Program};
use crate::error::{Error, Result};
use crate::families;
use crate::journal::{Stage, Status, Trial};
use crate::measure::{RacePlan, Sampling};
use crate::model::{Config, Micros, Problem};
use crate::plan::{self, Candidate};
use crate::search::{self, Bench, RaceOutcome, Racer};
use crate::worker::{Arm, Failure, RaceResults, Verdict, Worker};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    prepared: Option<Result<(), Failure>>,
    /// Trials of the problem whose outcome nobody has asked for yet, oldest first.
    queue: VecDeque<Queued>,
    busy_s: f64,
}

/// A trial that was submitted.
enum Queued {
    /// It needed no measuring.
    Known(Box<Trial>),
    /// It is with the worker.
    Asked { config: Config, stage: Stage, key: Key },
}

/// What a race that was tried once came to. Nothing of it is recorded yet.
enum Attempt {
    /// The trials of its arms, and of the winner's duplicate as the last.
    Done(Vec<Trial>),
    /// The time was up.
    OutOfTime,
    /// Its process was lost. Whose fault that was cannot be told.
    Crashed(Failure),
}

impl<'lab, 'a> DeviceBench<'lab, 'a> {
    pub(crate) fn new(lab: &'lab Lab<'a>, found: &Found, turn: &'lab Turn) -> Result<Self> {
        let support = lab.kernels.compiler.map(|compiler| needed_cubin(compiler, &support_kernel())).transpose()?;
        let address = found.address;
        let worker = lab.idle_worker(address).unwrap_or_else(|| Worker::new(address, support, lab.deadlines));
        Ok(Self {
            lab,
            turn,
            held: None,
            address,
            unit: found.unit.clone(),
            busy_s: worker.busy_s(),
            worker,
            problem: None,
            prepared: None,
            queue: VecDeque::new(),
        })
    }

    /// Leaves the measuring process, with its device open and warm, to whoever is next.
    pub(crate) fn leave(self) {
        self.lab.state().idle.push((self.address, self.worker));
    }

    /// Whether there is time to measure this problem.
    pub(crate) fn has_time(&self, problem: &Problem) -> Result<bool> {
        self.lab.has_time(problem)
    }

    /// Makes `problem` the one that is measured. Its tensors are made when the first trial needs them.
    pub(crate) fn turn_to(&mut self, problem: Problem) {
        self.problem = Some(problem);
        self.prepared = None;
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
                let cubin = compiler.cached(&key).unwrap_or_default();
                (key, Ok(Some(Program { cubin, entry: kernel.entry.into(), launch: launch.clone() })))
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

    /// Races programs on the problem, whatever the journal knows, and records nothing: the times of each arm's rounds, in round
    /// order. Or why there are none: one of them is wrong, or took the process down. Another `turn` has other orders.
    pub(crate) fn race_programs(&mut self, arms: Vec<Arm>, turn: u64) -> Result<Result<Vec<Vec<f64>>, String>> {
        let problem = self.problem()?;
        // Only an interrupt ends it: there is nothing to go on with where the time is up.
        self.lab.has_time(&problem)?;
        let seed = problem_seed(self.lab.seed.wrapping_add(turn), &problem);
        let verdicts = match self.race_in_turn(arms, RacePlan::RECHECK, seed)? {
            Ok(results) => results.verdicts,
            Err(failure) => return Ok(Err(failure.to_string())),
        };
        let rounds_us = |verdict| match verdict {
            Verdict::Timed { rounds_us, .. } => Ok(rounds_us),
            Verdict::Wrong { error, .. } | Verdict::Refused { error } => Err(error),
        };
        Ok(verdicts.into_iter().map(rounds_us).collect())
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
        if !self.queue.iter().any(|queued| matches!(queued, Queued::Asked { .. })) {
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
                Queued::Asked { config, stage, key } => Queued::Known(Box::new(self.outcome(&config, stage, &key)?)),
                known @ Queued::Known(_) => known,
            };
            self.queue.push_back(queued);
        }
        self.end_turn();
        Ok(())
    }

    /// What the oldest trial that the worker was asked for came to.
    fn outcome(&mut self, config: &Config, stage: Stage, key: &Key) -> Result<Trial> {
        let verdict = match self.prepare()? {
            Ok(()) => {
                self.worker.set_deadlines(self.lab.deadlines_of(1));
                self.worker.verdict()
            }
            Err(failure) => {
                self.worker.forget();
                Err(failure)
            }
        };
        self.note_busy();
        if let Err(failure) = &verdict {
            self.survives(failure)?;
        }
        let trial = match verdict {
            Ok(verdict) => self.judged(config, stage, key, verdict)?,
            Err(failure) => {
                let failed = self.failed(config, stage, &failure, key)?;
                if self.is_cut(&failure)? {
                    return Ok(failed); // which says nothing of the config, and is not recorded
                }
                failed
            }
        };
        self.lab.record(trial)
    }

    /// The problem's inputs and reference on the device, whose turn it is; tried once more where the worker was lost.
    fn prepare(&mut self) -> Result<Result<(), Failure>> {
        if self.prepared.is_none() {
            let problem = self.problem()?;
            let reference = match self.lab.kernels.compiler {
                None => None,
                Some(compiler) => {
                    let (kernel, launch) = families::spec(problem.family).reference(&problem);
                    Some(Program { cubin: needed_cubin(compiler, &kernel)?, entry: kernel.entry.into(), launch })
                }
            };
            let seed = problem_seed(self.lab.seed, &problem);
            self.worker.set_deadlines(self.lab.deadlines_of(1));
            let mut outcome = self.worker.prepare(&problem, seed, reference.clone());
            if matches!(outcome, Err(Failure::Crashed(_))) {
                outcome = self.worker.prepare(&problem, seed, reference);
            }
            self.prepared = Some(outcome);
        }
        Ok(self.prepared.clone().unwrap_or(Ok(())))
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
            if !self.lab.has_time(&self.problem()?)? {
                return Ok(Attempt::OutOfTime);
            }
            let alone = self.interleave(std::slice::from_ref(racer), stage, &RacePlan::SCREEN)?;
            if let Attempt::Crashed(failure) = &alone {
                let key = self.lab.key(racer.candidate.program.as_ref().ok().and_then(Option::as_ref))?;
                let failed = self.failed(&racer.candidate.config, stage, failure, &key)?;
                self.lab.record(failed)?;
            } else {
                survivors.push(*racer);
            }
        }
        // Where each works alone, nothing is wrong with any of them that could be told.
        if survivors.len() == racers.len() {
            Ok(Attempt::Crashed(crashed))
        } else {
            self.interleave(&survivors, stage, plan)
        }
    }

    /// Times candidates in interleaved rounds, and records nothing.
    fn interleave(&mut self, racers: &[Racer], stage: Stage, plan: &RacePlan) -> Result<Attempt> {
        let problem = self.problem()?;
        let (mut running, mut arms) = (Vec::new(), Vec::new());
        for racer in racers {
            let program = racer.candidate.program.as_ref().ok().and_then(Option::as_ref);
            let key = self.lab.key(program)?;
            let program = match self.lab.program(program)? {
                Some(Ok(program)) => program,
                Some(Err(_)) => continue,
                None => break,
            };
            running.push((racer.candidate, key));
            arms.push(Arm { config: racer.candidate.config.clone(), program, anchor: racer.anchor });
        }
        if !self.lab.has_time(&problem)? {
            return Ok(Attempt::OutOfTime);
        }
        let results = self.race_in_turn(arms, *plan, problem_seed(self.lab.seed, &problem))?;
        let RaceResults { verdicts, chosen_by, null_arm } = match results {
            Ok(results) => results,
            Err(failure) if self.is_cut(&failure)? => return Ok(Attempt::OutOfTime),
            Err(failure) => return Ok(Attempt::Crashed(failure)),
        };
        let race = Some(self.lab.next_race(&problem));
        let mut trials = Vec::new();
        for ((candidate, key), verdict) in running.iter().zip(verdicts) {
            trials.push(Trial { race, chosen_by, ..self.judged(&candidate.config, stage, key, verdict)? });
        }
        if let Some((winner, verdict)) = null_arm {
            let (candidate, key) = &running[winner];
            let duplicate = self.judged(&candidate.config, stage, key, verdict)?;
            trials.push(Trial { race, chosen_by, joined: chosen_by, null_arm: true, ..duplicate });
        }
        Ok(Attempt::Done(trials))
    }

    /// A race by the worker, which is there again where the race took it down.
    fn race_in_turn(&mut self, arms: Vec<Arm>, plan: RacePlan, seed: u64) -> Result<Result<RaceResults, Failure>> {
        self.in_turn(|bench| {
            let results = match bench.prepare()? {
                Ok(()) => {
                    bench.worker.set_deadlines(bench.lab.deadlines_of(arms.len()));
                    bench.worker.race(arms, plan, seed)
                }
                Err(failure) => Err(failure),
            };
            bench.note_busy();
            if let Err(failure) = &results {
                bench.survives(failure)?;
            }
            Ok(results)
        })
    }

    /// Whether it was cut off because the time was up, and not for what it did.
    fn is_cut(&self, failure: &Failure) -> Result<bool> {
        Ok(matches!(failure, Failure::Timeout(_)) && !self.lab.has_time(&self.problem()?)?)
    }

    /// A kernel may take its process down, but not the device: where that does not come back, no trial has a meaning any
    /// more, and what happened last is not this config's doing.
    fn survives(&mut self, failure: &Failure) -> Result<()> {
        if matches!(failure, Failure::Refused(_)) {
            return Ok(());
        }
        self.worker.reopen().map_err(|gone| {
            Error::failure(format!(
                "the device is gone: {gone} (after: {failure}); everything measured is in the journal"
            ))
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

    fn failed(&self, config: &Config, stage: Stage, failure: &Failure, kernel: &Key) -> Result<Trial> {
        let status = match failure {
            Failure::Crashed(_) | Failure::Gone(_) => Status::Crashed,
            Failure::Timeout(_) => Status::Timeout,
            Failure::Refused(_) => Status::LaunchFailed,
        };
        self.unmeasured(config, stage, status, Some(failure.to_string()), kernel)
    }

    fn judged(&mut self, config: &Config, stage: Stage, kernel: &Key, verdict: Verdict) -> Result<Trial> {
        let blank = self.unmeasured(config, stage, Status::Ok, None, kernel)?;
        Ok(match verdict {
            Verdict::Timed { rel_err, measurement, rounds_us, .. } => Trial {
                time_us: Some(rounded(measurement.summary.time_us)),
                median_us: Some(rounded(measurement.summary.median_us)),
                q1_us: Some(rounded(measurement.summary.q1_us)),
                q3_us: Some(rounded(measurement.summary.q3_us)),
                min_us: Some(rounded(measurement.summary.min_us)),
                samples: Some(measurement.summary.samples),
                rel_err: Some((rel_err * 1e7).round() / 1e7),
                sm_mhz: measurement.sm_mhz,
                throttled: measurement.throttled,
                rounds_us: rounds_us.into_iter().map(|us| rounded(Micros(us)).0).collect(),
                ..blank
            },
            Verdict::Wrong { rel_err, error } => {
                // It may have written anywhere: the next config is judged on fresh tensors.
                self.prepared = None;
                Trial { status: Status::Wrong, rel_err, error: Some(error), ..blank }
            }
            Verdict::Refused { error } => Trial { status: Status::LaunchFailed, error: Some(error), ..blank },
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
        if self.prepare()?.is_ok() {
            self.worker.submit(arm, sampling);
        }
        self.queue.push_back(Queued::Asked { config: candidate.config.clone(), stage, key });
        Ok(true)
    }

    fn next(&mut self) -> Result<Option<Trial>> {
        let (config, stage, key) = match self.queue.pop_front() {
            None => return Ok(None),
            Some(Queued::Known(trial)) => return Ok(Some(*trial)),
            Some(Queued::Asked { config, stage, key }) => (config, stage, key),
        };
        self.in_turn(|bench| bench.outcome(&config, stage, &key)).map(Some)
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
