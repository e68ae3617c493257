//! Where trials happen: the journal as memory of what is known, the compiler, and a worker for each device.

use super::Progress;
use super::{needed_cubin, support_kernel};
use crate::compile::{Compiler, Key, Outcome};
use crate::device::{Address, Program, cpu};
use crate::error::{Error, ErrorKind, Result};
use crate::families::{self, KernelSpec, Launch};
use crate::journal::{Journal, Line, Stage, Status, Trial};
use crate::measure::{Sampling, median};
use crate::model::{Config, GpuProfile, Micros, Problem};
use crate::plan::{self, Candidate};
use crate::search::{self, Bench};
use crate::worker::{Arm, Deadlines, Failure, Verdict, Worker};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Set by the interrupt handler; the sweep ends at the next trial.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Finalists of a problem that race again with what other problems chose: they tell how its clocks have changed.
const ANCHORS: usize = 3;

/// What happened in one family's sweep.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Trials of this run by status.
    pub statuses: BTreeMap<String, usize>,
    /// Trials answered from the journal.
    pub resumed: usize,
    /// Seconds the devices were busy.
    pub busy_s: f64,
    /// Problems the budget did not reach, or not to their end.
    pub out_of_time: BTreeSet<Problem>,
}

/// What all devices of a family's sweep share.
pub(crate) struct Lab<'a> {
    profile: GpuProfile,
    compiler: Option<&'a Compiler>,
    host_kernels: Key,
    seed: u64,
    /// What the last document serves: it defends its place in each final, but a final that was run without it stands.
    defenders: Vec<Config>,
    state: Mutex<State>,
    pub(super) progress: &'a Progress,
    pub(crate) deadlines: Deadlines,
}

struct State {
    journal: Journal,
    /// Every trial of the journal, by what was tried.
    known: HashMap<(Problem, Config), Vec<Known>>,
    counts: Counts,
    deadline: Option<Instant>,
    /// Measuring processes that nobody uses at the moment.
    idle: Vec<(Address, Worker)>,
}

/// A trial of the journal.
struct Known {
    trial: Trial,
    /// Of this run, or counted already among those that were taken over.
    counted: bool,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(
        profile: GpuProfile,
        compiler: Option<&'a Compiler>,
        seed: u64,
        defenders: Vec<Config>,
        (journal, trials): (Journal, Vec<Trial>),
        progress: &'a Progress,
    ) -> Self {
        let mut known: HashMap<_, Vec<Known>> = HashMap::new();
        for trial in trials {
            let tried = (trial.problem(), trial.config.clone());
            known.entry(tried).or_default().push(Known { trial, counted: false });
        }
        let state = State { journal, known, counts: Counts::default(), deadline: None, idle: Vec::new() };
        let host_kernels = Key::of(&[cpu::kernels::SOURCE, env!("CARGO_PKG_VERSION")]);
        let (state, deadlines) = (Mutex::new(state), Deadlines::default());
        Self { profile, compiler, host_kernels, seed, defenders, state, progress, deadlines }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Past this, nothing new is tried.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        self.state().deadline = deadline;
    }

    /// From now on problems count as out of time only where they are so again.
    pub(crate) fn forget_out_of_time(&self) {
        self.state().counts.out_of_time.clear();
    }

    /// Whether the time was up for this problem.
    pub(crate) fn is_out_of_time(&self, problem: &Problem) -> bool {
        self.state().counts.out_of_time.contains(problem)
    }

    /// What happened; the journal is closed.
    pub(crate) fn finish(self) -> Counts {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).counts
    }

    /// The kernel's identity; compiling it begins.
    fn key(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Key> {
        match (self.compiler, program) {
            (Some(compiler), Some((kernel, _))) => compiler.request(kernel),
            _ => Ok(self.host_kernels.clone()),
        }
    }

    /// Whether a trial of the journal was made with the kernel that its config has now.
    pub(crate) fn is_current(&self, trial: &Trial) -> Result<bool> {
        match plan::candidate(trial.config.clone(), &trial.problem(), &self.profile).program {
            Ok(program) => Ok(trial.kernel == self.key(program.as_ref())?.0),
            Err(_) => Ok(trial.status == Status::Pruned),
        }
    }

    /// What the journal says of this trial: a failure at any stage, or a time at this one.
    fn recall(&self, problem: &Problem, config: &Config, stage: Stage, kernel: &Key) -> Option<Trial> {
        let mut state = self.state();
        let State { known, counts, .. } = &mut *state;
        let known = known.get_mut(&(*problem, config.clone()))?;
        let fits = |Known { trial, .. }: &&mut Known| {
            trial.kernel == kernel.0 && !trial.null_arm && (trial.stage == stage || trial.status != Status::Ok)
        };
        let found = known.iter_mut().find(fits)?;
        counts.resumed += usize::from(!std::mem::replace(&mut found.counted, true));
        Some(found.trial.clone())
    }

    /// Whether the journal has the null arm of a race among these, which is the last of its lines.
    fn raced_to_the_end(&self, problem: &Problem, racers: &[&Candidate]) -> bool {
        let state = self.state();
        let known = |racer: &&Candidate| state.known.get(&(*problem, racer.config.clone()));
        racers.iter().filter_map(known).flatten().any(|known| known.trial.null_arm)
    }

    fn record(&self, trial: Trial) -> Result<Trial> {
        self.record_all(std::slice::from_ref(&trial), &[])?;
        Ok(trial)
    }

    /// Records trials that belong together: all of them or, where that fails, none. The `shared` ones were not made: another
    /// config ran the same program.
    fn record_all(&self, made: &[Trial], shared: &[Trial]) -> Result<()> {
        let all = || made.iter().chain(shared);
        let lines: Vec<Line> = all().map(|trial| Line::Trial(Box::new(trial.clone()))).collect();
        let mut state = self.state();
        state.journal.append(&lines)?;
        for trial in all() {
            let tried = (trial.problem(), trial.config.clone());
            state.known.entry(tried).or_default().push(Known { trial: trial.clone(), counted: true });
        }
        for trial in made {
            let status = serde_json::to_value(trial.status)?;
            *state.counts.statuses.entry(status.as_str().unwrap_or_default().to_string()).or_default() += 1;
        }
        drop(state);
        for trial in made {
            self.progress.trial(trial);
        }
        Ok(())
    }

    fn idle_worker(&self, address: Address) -> Option<Worker> {
        let idle = &mut self.state().idle;
        let place = idle.iter().position(|(at, _)| *at == address)?;
        Some(idle.swap_remove(place).1)
    }

    /// Whether there is time for another trial of this problem.
    fn has_time(&self, problem: &Problem) -> Result<bool> {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted; everything measured is in the journal"));
        }
        let mut state = self.state();
        let is_late = state.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late {
            state.counts.out_of_time.insert(*problem);
        }
        Ok(!is_late)
    }

    /// What became of a candidate's program. Nothing where the time is up before it is compiled.
    fn program(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Option<Compiled>> {
        let Some((kernel, launch)) = program else { return Ok(Some(Ok(None))) };
        let deadline = self.state().deadline;
        let outcome = self.compiler()?.wait_until(kernel, deadline)?;
        Ok(outcome.map(|outcome| program_of(outcome, kernel, launch)))
    }

    fn compiler(&self) -> Result<&Compiler> {
        self.compiler.ok_or_else(|| Error::failure("no compiler for a compiled kernel"))
    }
}

/// A compiled program, none for host kernels, or the status and reason there is none.
type Compiled = Result<Option<Program>, (Status, String)>;

fn program_of(outcome: Outcome, kernel: &KernelSpec, launch: &Launch) -> Compiled {
    match outcome {
        Outcome::Compiled { resources, .. } if resources.spill_bytes > 0 => {
            Err((Status::Pruned, format!("spills {} bytes of registers", resources.spill_bytes)))
        }
        Outcome::Compiled { cubin, .. } => {
            Ok(Some(Program { cubin, entry: kernel.entry.into(), launch: launch.clone() }))
        }
        Outcome::Failed { timed_out: true, error, .. } => Err((Status::CompileTimeout, error)),
        Outcome::Failed { error, .. } => Err((Status::CompileFailed, error)),
    }
}

/// One device, on one problem at a time.
pub(crate) struct DeviceBench<'lab, 'a> {
    lab: &'lab Lab<'a>,
    address: Address,
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

impl<'lab, 'a> DeviceBench<'lab, 'a> {
    pub(crate) fn new(lab: &'lab Lab<'a>, address: Address) -> Result<Self> {
        let support = lab.compiler.map(|compiler| needed_cubin(compiler, &support_kernel())).transpose()?;
        let worker = lab.idle_worker(address).unwrap_or_else(|| Worker::new(address, support, lab.deadlines));
        Ok(Self {
            lab,
            address,
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

    /// Measures other problems' finalists on this one, in interleaved rounds with its own best `finalists`.
    pub(crate) fn cross(&mut self, configs: &[Config], finalists: &[Trial]) -> Result<()> {
        let problem = self.problem()?;
        let mut open = Vec::new();
        for config in configs {
            let candidate = plan::candidate(config.clone(), &problem, &self.lab.profile);
            let Ok(program) = &candidate.program else {
                self.pruned(&candidate)?;
                continue;
            };
            let key = self.lab.key(program.as_ref())?;
            if self.lab.recall(&problem, config, Stage::Cross, &key).is_none() {
                open.push((candidate, key));
            }
        }
        let mut racers = Vec::new();
        for (candidate, key) in open {
            let program = candidate.program.as_ref().ok().and_then(Option::as_ref);
            match self.lab.program(program)? {
                Some(Ok(_)) => racers.push(candidate),
                Some(Err((status, error))) => {
                    let failed = self.unmeasured(&candidate.config, Stage::Cross, status, Some(error), &key)?;
                    self.lab.record(failed)?;
                }
                None => return self.lab.has_time(&problem).map(drop),
            }
        }
        if racers.is_empty() || self.race_with(finalists, &racers)? || !self.lab.has_time(&problem)? {
            return Ok(());
        }
        // One of them crashed. Which one, trials of their own tell.
        let mut working = Vec::new();
        for racer in racers {
            if !self.submit(&racer, Stage::Screen, Sampling::SCREEN)? {
                return Ok(());
            }
            if self.next()?.is_some_and(|trial| trial.status == Status::Ok) {
                working.push(racer);
            }
        }
        self.race_with(finalists, &working).map(|_| ())
    }

    /// Races `racers` with the best finalists, and records them; false where the time is up, or one of them crashed. Configs
    /// that run as one program here run once.
    fn race_with(&mut self, finalists: &[Trial], racers: &[Candidate]) -> Result<bool> {
        let problem = self.problem()?;
        let anchors = finalists.iter().take(ANCHORS).map(|finalist| finalist.config.clone());
        let anchors: Vec<_> = anchors.map(|config| plan::candidate(config, &problem, &self.lab.profile)).collect();
        let mut arms: Vec<&Candidate> = Vec::new();
        let mut shared: Vec<(&Candidate, &Candidate)> = Vec::new();
        for candidate in anchors.iter().chain(racers) {
            match arms.iter().find(|arm| arm.runs_as(candidate)) {
                Some(arm) => shared.push((candidate, arm)),
                None => arms.push(candidate),
            }
        }
        let best_us = finalists.first().and_then(|best| best.median_us).unwrap_or_default();
        let rounds = search::cross_rounds(best_us, arms.len());
        let Some(mut trials) = self.interleave(&arms, Stage::Cross, rounds)? else { return Ok(false) };
        let to_final = to_final(finalists, &trials);
        for trial in trials.iter_mut().filter(|trial| trial.median_us.is_some()) {
            trial.to_final = to_final;
        }
        let of_arm = |(candidate, arm): (&Candidate, &Candidate)| {
            let trial = trials.iter().find(|trial| trial.config == arm.config)?;
            Some(Trial { config: candidate.config.clone(), ..trial.clone() })
        };
        let shared: Vec<Trial> = shared.into_iter().filter_map(of_arm).collect();
        self.lab.record_all(&trials, &shared)?;
        Ok(true)
    }

    fn problem(&self) -> Result<Problem> {
        self.problem.ok_or_else(|| Error::failure("no problem to measure"))
    }

    /// The problem's inputs and reference on the device; tried once more where the worker was lost.
    fn prepare(&mut self) -> Result<Result<(), Failure>> {
        if self.prepared.is_none() {
            let problem = self.problem()?;
            let reference = match self.lab.compiler {
                None => None,
                Some(compiler) => {
                    let (kernel, launch) = families::spec(problem.family).reference(&problem);
                    Some(Program { cubin: needed_cubin(compiler, &kernel)?, entry: kernel.entry.into(), launch })
                }
            };
            let seed = problem_seed(self.lab.seed, &problem);
            let mut outcome = self.worker.prepare(&problem, seed, reference.clone());
            if matches!(outcome, Err(Failure::Crashed(_))) {
                outcome = self.worker.prepare(&problem, seed, reference);
            }
            self.prepared = Some(outcome);
        }
        Ok(self.prepared.clone().unwrap_or(Ok(())))
    }

    /// The finalists' trials where the journal has them all, but for defenders that came up since.
    fn recall_race(&self, racers: &[&Candidate]) -> Result<Option<Vec<Trial>>> {
        let problem = self.problem()?;
        let mut trials = Vec::new();
        for racer in racers {
            let key = self.lab.key(racer.program.as_ref().ok().and_then(Option::as_ref))?;
            match self.lab.recall(&problem, &racer.config, Stage::Final, &key) {
                Some(trial) => trials.push(trial),
                None if self.lab.defenders.contains(&racer.config) => {}
                None => return Ok(None),
            }
        }
        Ok(self.lab.raced_to_the_end(&problem, racers).then_some(trials))
    }

    /// Races candidates in interleaved rounds, whatever the journal knows, and returns all trials in their order, the null
    /// arm with them. Nothing where the time is up, or one of them crashed: whose fault that was cannot be told.
    pub(crate) fn race_anew(&mut self, candidates: &[&Candidate], rounds: u32) -> Result<Option<Vec<Trial>>> {
        let Some(mut trials) = self.interleave(candidates, Stage::Final, rounds)? else { return Ok(None) };
        if let Some(last) = trials.last_mut() {
            last.null_arm = true;
        }
        self.lab.record_all(&trials, &[])?;
        Ok(Some(trials))
    }

    /// What a config runs as on the problem, with the kernel's identity: the one of this hash where that is still cached, else
    /// today's. Or why it does not run.
    pub(crate) fn program_of(&self, config: &Config, kernel: Option<&str>) -> Result<Result<(Arm, Key), String>> {
        let candidate = plan::candidate(config.clone(), &self.problem()?, &self.lab.profile);
        let program = match &candidate.program {
            Ok(program) => program.as_ref(),
            Err(rejection) => return Ok(Err(rejection.to_string())),
        };
        let earlier = kernel.map(|hash| Key(hash.to_string()));
        let earlier = earlier.filter(|key| self.lab.compiler.is_some_and(|compiler| compiler.cached(key).is_some()));
        let (key, program) = match (earlier, program, self.lab.compiler) {
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
            Ok(program) => Ok((Arm { config: config.clone(), program }, key)),
            Err((_, error)) => Err(error),
        })
    }

    /// Races programs on the problem, whatever the journal knows, and records nothing: the times of each arm's rounds, in round
    /// order. Or why there are none: one of them is wrong, or took the process down. Another `turn` has other orders.
    pub(crate) fn race_programs(
        &mut self,
        arms: Vec<Arm>,
        rounds: u32,
        turn: u64,
    ) -> Result<Result<Vec<Vec<f64>>, String>> {
        let problem = self.problem()?;
        // Only an interrupt ends it: there is nothing to go on with where the time is up.
        self.lab.has_time(&problem)?;
        let seed = problem_seed(self.lab.seed.wrapping_add(turn), &problem);
        let verdicts = match self.prepare()? {
            Ok(()) => self.worker.rounds(arms, rounds, seed),
            Err(failure) => Err(failure),
        };
        self.note_busy();
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            Err(failure) => return self.survives(&failure).map(|()| Err(failure.to_string())),
        };
        let rounds_us = |verdict| match verdict {
            Verdict::Timed { rounds_us, .. } => Ok(rounds_us),
            Verdict::Wrong { .. } => Err("its output is not the reference's".to_string()),
            Verdict::Refused { error } => Err(error),
        };
        Ok(verdicts.into_iter().map(rounds_us).collect())
    }

    /// Times candidates in interleaved rounds, and records nothing.
    fn interleave(&mut self, candidates: &[&Candidate], stage: Stage, rounds: u32) -> Result<Option<Vec<Trial>>> {
        let problem = self.problem()?;
        let mut racers = Vec::new();
        let mut arms = Vec::new();
        for candidate in candidates {
            let program = candidate.program.as_ref().ok().and_then(Option::as_ref);
            let key = self.lab.key(program)?;
            let program = match self.lab.program(program)? {
                Some(Ok(program)) => program,
                Some(Err(_)) => continue,
                None => break,
            };
            racers.push((*candidate, key));
            arms.push(Arm { config: candidate.config.clone(), program });
        }
        if !self.lab.has_time(&problem)? {
            return Ok(None);
        }
        let verdicts = match self.prepare()? {
            Ok(()) => self.worker.rounds(arms, rounds, problem_seed(self.lab.seed, &problem)),
            Err(failure) => Err(failure),
        };
        self.note_busy();
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            Err(failure) => return self.survives(&failure).map(|()| None),
        };
        let mut trials = Vec::new();
        for ((candidate, key), verdict) in racers.iter().zip(verdicts) {
            trials.push(self.judged(&candidate.config, stage, key, verdict)?);
        }
        Ok(Some(trials))
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
        Ok(Trial { error, kernel: kernel.0.clone(), ..blank })
    }

    fn judged(&mut self, config: &Config, stage: Stage, kernel: &Key, verdict: Verdict) -> Result<Trial> {
        let blank = self.unmeasured(config, stage, Status::Ok, None, kernel)?;
        Ok(match verdict {
            Verdict::Timed { rel_err, measurement, rounds_us } => Trial {
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
            Verdict::Wrong { rel_err, poisoned } => {
                // It may have written anywhere: the next config is judged on fresh tensors.
                self.prepared = None;
                let error = match rel_err {
                    Some(rel_err) if poisoned == 0 => format!("relative error {rel_err:.2e}"),
                    _ => format!("{poisoned} elements are not finite or were never written"),
                };
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
        let program = match self.lab.program(program.as_ref())? {
            Some(Ok(program)) => program,
            Some(Err((status, error))) => {
                let failed = self.unmeasured(&candidate.config, stage, status, Some(error), &key)?;
                self.queue.push_back(Queued::Known(Box::new(self.lab.record(failed)?)));
                return Ok(true);
            }
            None => return self.has_time_else_finish(&problem).map(|_| false),
        };
        let arm = Arm { config: candidate.config.clone(), program };
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
        let verdict = match self.prepare()? {
            Ok(()) => self.worker.verdict(),
            Err(failure) => {
                self.worker.forget();
                Err(failure)
            }
        };
        self.note_busy();
        if let Err(failure) = &verdict {
            self.survives(failure)?;
        }
        let failed = |status, error| self.unmeasured(&config, stage, status, Some(error), &key);
        let trial = match verdict {
            Ok(verdict) => self.judged(&config, stage, &key, verdict)?,
            Err(Failure::Crashed(error) | Failure::Gone(error)) => failed(Status::Crashed, error)?,
            Err(Failure::Timeout(error)) => failed(Status::Timeout, error)?,
            Err(Failure::Refused(error)) => failed(Status::LaunchFailed, error)?,
        };
        self.lab.record(trial).map(Some)
    }

    fn race(&mut self, candidates: &[&Candidate], rounds: u32) -> Result<Option<Vec<Trial>>> {
        let (racers, _null) = candidates.split_at(candidates.len().saturating_sub(1));
        if let Some(trials) = self.recall_race(racers)? {
            return Ok(Some(trials));
        }
        let mut trials = self.race_anew(candidates, rounds)?;
        if let Some(trials) = &mut trials {
            trials.retain(|trial| !trial.null_arm);
        }
        Ok(trials)
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

/// How much longer `finalists` took in their final than now.
fn to_final(finalists: &[Trial], now: &[Trial]) -> Option<f64> {
    let change = |then: &Trial| {
        let now = now.iter().find(|now| now.config == then.config)?;
        Some(then.median_us?.0 / now.median_us?.0)
    };
    median(finalists.iter().filter_map(change)).map(|ratio| (ratio * 1e4).round() / 1e4)
}

/// A nanosecond is finer than any clock here.
fn rounded(time: Micros) -> Micros {
    Micros((time.0 * 1e3).round() / 1e3)
}

/// Inputs differ from problem to problem, and are the same in every run with one seed.
fn problem_seed(seed: u64, problem: &Problem) -> u64 {
    let digest = Sha256::digest(format!("{seed} {problem}"));
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
