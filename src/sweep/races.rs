//! Races on one device: finals, crossings and screens, where all arms run in the same rounds.

use super::bench::{Asked, DeviceBench, Queued};
use super::lab::problem_seed;
use crate::compile::Key;
use crate::device::Program;
use crate::error::Result;
use crate::journal::{Stage, Status, Trial};
use crate::measure::{RacePlan, Sampling};
use crate::model::Config;
use crate::plan::{self, Candidate};
use crate::process;
use crate::search::{self, Bench, RaceOutcome, Racer};
use crate::worker::{Arm, Failure, RaceResults, Verdict};

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

impl DeviceBench<'_, '_> {
    /// Races other problems' finalists on this one with its own `anchors`. Configs that run as one program here run once.
    pub(crate) fn cross(&mut self, configs: &[Config], anchors: &[Config]) -> Result<()> {
        let problem = self.problem()?;
        let mut open = Vec::new();
        for config in configs {
            let candidate = plan::candidate(config.clone(), &problem, self.lab.profile());
            let Ok(program) = &candidate.program else {
                self.pruned(&candidate)?;
                continue;
            };
            let key = self.lab.key(program.as_ref())?;
            if self.lab.memory.recall(&problem, config, Stage::Cross, &key).is_none() {
                open.push((candidate, key));
            }
        }
        let anchors: Vec<Candidate> =
            anchors.iter().map(|config| plan::candidate(config.clone(), &problem, self.lab.profile())).collect();
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
                None => return self.lab.clock.has_time(&problem).map(drop),
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
        let candidate = plan::candidate(config.clone(), &self.problem()?, self.lab.profile());
        let program = match &candidate.program {
            Ok(program) => program.as_ref(),
            Err(rejection) => return Ok(Err(rejection.to_string())),
        };
        let earlier = kernel.map(|hash| Key(hash.to_string()));
        let earlier = earlier.filter(|key| self.lab.compiler().is_some_and(|compiler| compiler.cached(key).is_some()));
        let (key, program) = match (earlier, program, self.lab.compiler()) {
            (Some(key), Some((kernel, launch)), Some(compiler)) => {
                let (cubin, entry) = compiler.cached(&key).unwrap_or_default();
                let entry = entry.unwrap_or_else(|| kernel.entry.clone());
                (key, Ok(Some(Program { cubin, entry, launch: launch.clone(), is_binary: kernel.code.is_binary() })))
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
        process::check_interrupt()?;
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
            Verdict::Wrong { error, .. } | Verdict::Refused { error } | Verdict::Unbuilt { error } => Err(error),
        };
        let rounds_us: Result<Vec<Vec<f64>>, String> = verdicts.into_iter().map(rounds_us).collect();
        Ok(rounds_us.map(|rounds_us| Reraced { rounds_us, loaded }))
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
            if !self.has_time_at(stage)? {
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
        if !self.has_time_at(stage)? {
            return Ok(Attempt::OutOfTime);
        }
        let arms: Vec<Arm> = running.iter().map(|(arm, _)| arm.clone()).collect();
        let results = self.race_in_turn(&arms, *plan, problem_seed(self.lab.seed, &problem))?;
        let RaceResults { verdicts, chosen_by, null_arm } = match results {
            Ok(results) => results,
            Err(_) if self.is_time_up()? => return Ok(Attempt::OutOfTime),
            Err(failure) => return Ok(Attempt::Crashed(failure)),
        };
        let race = Some(self.lab.memory.next_race(&problem));
        let cut = stage == Stage::Final && self.lab.clock.is_cut(&problem);
        let (mut trials, mut suspects) = (Vec::new(), Vec::new());
        for ((arm, key), verdict) in running.iter().zip(verdicts) {
            match verdict.timed() {
                Ok(verdict) => {
                    trials.push(Trial { race, chosen_by, cut, ..self.judged(&arm.config, stage, key, verdict)? });
                    self.known_good.get_or_insert_with(|| arm.clone());
                }
                Err(failure) => suspects.push((arm, key, failure)),
            }
        }
        if let Some((winner, verdict)) = null_arm {
            let (arm, key) = &running[winner];
            let duplicate = self.judged(&arm.config, stage, key, verdict)?;
            trials.push(Trial { race, chosen_by, joined: chosen_by, null_arm: true, cut, ..duplicate });
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
}

impl Bench for DeviceBench<'_, '_> {
    fn submit(&mut self, candidate: &Candidate, stage: Stage, sampling: Sampling) -> Result<bool> {
        let problem = self.problem()?;
        let Ok(program) = &candidate.program else {
            self.pruned(candidate)?;
            return Ok(true);
        };
        let key = self.lab.key(program.as_ref())?;
        if let Some(trial) = self.lab.memory.recall(&problem, &candidate.config, stage, &key) {
            self.queue.push_back(Queued::Known(Box::new(trial)));
            return Ok(true);
        }
        if !self.has_time_else_finish(&problem)? {
            return Ok(false);
        }
        let mut compiled = self.lab.program_at_hand(program.as_ref())?;
        if compiled.is_none() {
            self.settle()?;
            compiled = self.lab.program_by(program.as_ref(), self.lab.clock.end_of(&problem))?;
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

    fn is_ready(&self, candidate: &Candidate) -> bool {
        candidate.program.as_ref().map_or(true, |program| self.lab.is_ready(program.as_ref()))
    }

    fn expect(&mut self, candidates: &[Candidate]) -> Result<()> {
        self.lab.compile_ahead(&self.problem()?, candidates.iter().map(|candidate| candidate.config.clone()))?;
        self.lab.hurry();
        Ok(())
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
            match (
                self.lab.memory.recall(&problem, &candidate.config, stage, &key),
                self.lab.program_by(program.as_ref(), self.lab.clock.end_of(&problem))?,
            ) {
                (Some(trial), _) => known.push(trial),
                (None, Some(Ok(_))) => racers.push(Racer::contender(candidate)),
                (None, Some(Err((status, error)))) => {
                    let failed = self.unmeasured(&candidate.config, stage, status, Some(error), &key)?;
                    known.push(self.lab.record(failed)?);
                }
                (None, None) => return self.lab.clock.has_time(&problem).map(|_| None),
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
        if let Some(trials) = self.lab.memory.recall_final(&self.problem()?, &configs)? {
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
        let known = self.lab.memory.recall(&problem, &candidate.config, Stage::Screen, &none).is_some();
        if !known && self.lab.clock.has_time(&problem)? {
            let reason = Some(rejection.to_string());
            let trial = self.unmeasured(&candidate.config, Stage::Screen, Status::Pruned, reason, &none)?;
            self.lab.record(trial)?;
        }
        Ok(())
    }
}
