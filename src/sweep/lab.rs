//! What the devices of a family's sweep share: the journal as memory of what is known, the compiler, the clock.

use crate::compile::{Compiler, Key, Outcome, key_of_call};
use crate::device::{Address, Found, Program, cpu};
use crate::error::Result;
use crate::families::{KernelSpec, Launch};
use crate::journal::{Journal, Line, Stage, Status, Trial};
use crate::model::{Bytes, Config, GpuProfile, Problem};
use crate::plan;
use crate::process;
use crate::search::{Observation, sort_by_time};
use crate::site::{Progress, Site};
use crate::worker::{Deadlines, Worker};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What two benches need: each holds up to six sets of tensors of a problem, which are 4 GiB at most.
const MEMORY_OF_TWO: Bytes = Bytes::mib(48 << 10);

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
    /// Trials of this run that other work on the device disturbed.
    pub loaded: usize,
}

/// The kernels that configs run as today.
#[derive(Clone)]
pub(crate) struct Kernels<'a> {
    pub(super) profile: GpuProfile,
    pub(super) compiler: Option<&'a Compiler>,
    host: Key,
}

impl Kernels<'_> {
    /// Whether a trial was made with the kernel that its config has now.
    pub(super) fn are_those_of(&self, trial: &Trial) -> Result<bool> {
        match plan::candidate(trial.config.clone(), &trial.problem(), &self.profile).program {
            Ok(program) => {
                let key = match (self.compiler, &program) {
                    (Some(compiler), Some((kernel, _))) => compiler.key(kernel)?,
                    (None, Some((kernel, _))) => key_of_call(kernel, &self.profile.arch),
                    (_, None) => self.host.clone(),
                };
                Ok(trial.kernel == key.0)
            }
            Err(_) => Ok(trial.status == Status::Pruned),
        }
    }
}

/// What all devices of a family's sweep share.
pub(crate) struct Lab<'a> {
    pub(super) site: &'a Site,
    pub(super) kernels: Kernels<'a>,
    pub(super) seed: u64,
    /// What the last document serves: it defends its place in each final, but a final that was run without it stands.
    defenders: Vec<Config>,
    state: Mutex<State>,
    pub(super) progress: &'a Progress,
    pub(crate) deadlines: Deadlines,
}

pub(super) struct State {
    journal: Journal,
    /// Every trial of the journal that still says something, by what was tried.
    known: HashMap<Problem, HashMap<Config, Vec<Known>>>,
    /// Those of runs before this one that failed by what may have passed since.
    passing: HashMap<Problem, Vec<Trial>>,
    /// The races of each problem so far.
    races: HashMap<Problem, u64>,
    /// Kernels of whose local memory people were told.
    told: BTreeSet<Key>,
    pub(super) counts: Counts,
    deadline: Option<Instant>,
    /// Measuring processes that nobody uses at the moment.
    pub(super) idle: Vec<(Address, Worker)>,
}

/// A trial of the journal.
struct Known {
    trial: Trial,
    /// Of this run, or counted already among those that were taken over.
    counted: bool,
}

impl Known {
    /// Counts it among those that were taken over, once.
    fn count(&mut self, counts: &mut Counts) {
        counts.resumed += usize::from(!std::mem::replace(&mut self.counted, true));
    }
}

impl<'a> Lab<'a> {
    /// What the devices of `site` share while they fill a journal that holds these trials.
    pub(crate) fn new(
        site: &'a Site,
        seed: u64,
        defenders: Vec<Config>,
        (journal, trials): (Journal, Vec<Trial>),
    ) -> Self {
        let mut known: HashMap<_, HashMap<_, Vec<Known>>> = HashMap::new();
        let mut races = HashMap::new();
        let mut passing: HashMap<Problem, Vec<Trial>> = HashMap::new();
        for trial in trials {
            let latest = races.entry(trial.problem()).or_default();
            *latest = trial.race.unwrap_or(0).max(*latest);
            if trial.may_pass() {
                passing.entry(trial.problem()).or_default().push(trial);
                continue;
            }
            let of_problem = known.entry(trial.problem()).or_default();
            of_problem.entry(trial.config.clone()).or_default().push(Known { trial, counted: false });
        }
        let (told, counts, idle) = (BTreeSet::new(), Counts::default(), Vec::new());
        let state = State { journal, known, passing, races, told, counts, deadline: None, idle };
        let host = Key::of(&[cpu::kernels::SOURCE, env!("CARGO_PKG_VERSION")]);
        let (profile, compiler) = (site.found().profile.clone(), site.compiler.as_ref());
        let kernels = Kernels { profile, compiler, host };
        let (state, deadlines) = (Mutex::new(state), Deadlines::default());
        Self { site, kernels, seed, defenders, state, progress: &site.progress, deadlines }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Past this, nothing new is tried.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) {
        self.state().deadline = deadline;
    }

    /// How long a worker may take for a request about so many configs: past the end of the time nothing is waited for.
    pub(super) fn deadlines_of(&self, arms: usize) -> Deadlines {
        let end = self.state().deadline;
        self.deadlines.within(end.map(|end| end.saturating_duration_since(Instant::now())), arms)
    }

    /// From now on problems count as out of time only where they are so again.
    pub(crate) fn forget_out_of_time(&self) {
        self.state().counts.out_of_time.clear();
    }

    /// Whether the time was up for this problem.
    pub(crate) fn is_out_of_time(&self, problem: &Problem) -> bool {
        self.state().counts.out_of_time.contains(problem)
    }

    /// Benches that share a device by turns: a second one measures while the first waits for the compiler, if there is one, and
    /// the device has memory for both.
    pub(super) fn benches_on(&self, found: &Found) -> usize {
        let has_room = found.memory.is_some_and(|memory| memory >= MEMORY_OF_TWO);
        if self.kernels.compiler.is_some() && has_room { 2 } else { 1 }
    }

    /// Whether this run has measured anything yet.
    pub(super) fn has_measured(&self) -> bool {
        !self.state().counts.statuses.is_empty()
    }

    /// Lets the kernels of these configs compile, in the order they will be asked for.
    pub(super) fn compile_ahead(&self, problem: &Problem, configs: impl IntoIterator<Item = Config>) -> Result<()> {
        let Some(compiler) = self.kernels.compiler else { return Ok(()) };
        for config in configs {
            if let Ok(Some((kernel, _))) = plan::candidate(config, problem, &self.kernels.profile).program {
                compiler.request(&kernel)?;
            }
        }
        Ok(())
    }

    /// What happened, and today's kernels; the journal is closed.
    pub(crate) fn finish(self) -> (Counts, Kernels<'a>) {
        (self.state.into_inner().unwrap_or_else(PoisonError::into_inner).counts, self.kernels)
    }

    /// The kernel's identity; compiling it begins.
    pub(super) fn key(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Key> {
        match (self.kernels.compiler, program) {
            (Some(compiler), Some((kernel, _))) => compiler.request(kernel),
            (None, Some((kernel, _))) => Ok(key_of_call(kernel, &self.kernels.profile.arch)),
            (_, None) => Ok(self.kernels.host.clone()),
        }
    }

    /// Whether a trial of the journal was made with the kernel that its config has now.
    pub(crate) fn is_current(&self, trial: &Trial) -> Result<bool> {
        self.kernels.are_those_of(trial)
    }

    /// What the journal says of this trial: a failure at any stage, or a time at this one.
    pub(super) fn recall(&self, problem: &Problem, config: &Config, stage: Stage, kernel: &Key) -> Option<Trial> {
        let mut state = self.state();
        let State { known, counts, .. } = &mut *state;
        let known = known.get_mut(problem)?.get_mut(config)?;
        let fits = |Known { trial, .. }: &&mut Known| {
            trial.kernel == kernel.0 && !trial.null_arm && (trial.stage == stage || trial.status != Status::Ok)
        };
        // Who raced again and again as the incumbent has several of one stage.
        let mut first = None;
        for known in known.iter_mut().filter(fits) {
            known.count(counts);
            first.get_or_insert(&known.trial);
        }
        first.cloned()
    }

    /// Configs of the problem that failed by what may have passed since, with today's kernels, and were not tried again.
    pub(super) fn unsettled(&self, problem: &Problem) -> Result<Vec<Config>> {
        let state = self.state();
        let mut unsettled = BTreeSet::new();
        for trial in state.passing.get(problem).into_iter().flatten() {
            let is_settled = |known: &Known| known.trial.kernel == trial.kernel && !known.trial.null_arm;
            let known = state.known.get(problem).and_then(|known| known.get(&trial.config));
            if !known.is_some_and(|known| known.iter().any(is_settled)) && self.is_current(trial)? {
                unsettled.insert(trial.config.clone());
            }
        }
        Ok(unsettled.into_iter().collect())
    }

    /// What a model can learn from the journal.
    pub(super) fn observations(&self) -> Vec<Observation> {
        let state = self.state();
        let known = state.known.values().flat_map(HashMap::values).flatten();
        let timed = known.filter(|known| !known.trial.null_arm).filter_map(|Known { trial, .. }| {
            let (problem, config) = (trial.problem(), trial.config.clone());
            Some(Observation { problem, config, stage: trial.stage, time: trial.time()? })
        });
        let mut observations: Vec<Observation> = timed.collect();
        // The map has no order, and what is learnt depends on it where times are equal.
        observations.sort_by(|one, other| {
            let order = one.problem.cmp(&other.problem).then_with(|| one.config.cmp(&other.config));
            order.then(one.stage.cmp(&other.stage)).then(one.time.0.total_cmp(&other.time.0))
        });
        observations
    }

    /// The number of the next race of a problem.
    pub(super) fn next_race(&self, problem: &Problem) -> u64 {
        let mut state = self.state();
        let latest = state.races.entry(*problem).or_default();
        *latest += 1;
        *latest
    }

    /// The working trials of the problem's last final, the winner first, where the journal has it whole, with today's kernels, and
    /// each of the `required` configs that works has been in a final, but for defenders that came up since.
    pub(super) fn recall_final(&self, problem: &Problem, required: &[Config]) -> Result<Option<Vec<Trial>>> {
        let mut state = self.state();
        let State { known, counts, .. } = &mut *state;
        let Some(known) = known.get_mut(problem) else { return Ok(None) };
        let finals = known.values().flatten().filter(|known| known.trial.stage == Stage::Final);
        let last = finals.filter_map(|known| known.trial.race).max();
        let is_of_last = |trial: &Trial| trial.stage == Stage::Final && trial.race == last && last.is_some();
        let (mut trials, mut winner, mut missing) = (Vec::new(), None, BTreeSet::from_iter(required));
        missing.retain(|config| !self.defenders.contains(config));
        let mut current: Vec<&mut Known> = Vec::new();
        for (config, known) in known.iter_mut() {
            let raced = known.iter().any(|known| is_of_last(&known.trial));
            let before = trials.len();
            for known in known.iter_mut() {
                let trial = &known.trial;
                if !self.is_current(trial)? {
                    continue;
                }
                if trial.stage == Stage::Final || trial.status != Status::Ok {
                    missing.remove(config);
                }
                match is_of_last(trial) {
                    true if trial.null_arm => winner = Some(config),
                    true => trials.push(trial.clone()),
                    false => {}
                }
                current.push(known);
            }
            if raced && trials.len() == before {
                return Ok(None); // its kernel has changed
            }
        }
        // The duplicate is the last of a race's lines: without it, a kill came between.
        let Some(winner) = winner else { return Ok(None) };
        let runs = |config: &Config| plan::candidate(config.clone(), problem, &self.kernels.profile).program.is_ok();
        if missing.into_iter().any(runs) {
            return Ok(None);
        }
        trials.retain(|trial| trial.time().is_some());
        sort_by_time(&mut trials, winner);
        current.into_iter().filter(|known| !known.trial.null_arm).for_each(|known| known.count(counts));
        Ok(Some(trials))
    }

    pub(super) fn record(&self, trial: Trial) -> Result<Trial> {
        self.record_all(std::slice::from_ref(&trial), &[])?;
        Ok(trial)
    }

    /// Records trials that belong together: all of them or, where that fails, none. The `shared` ones were not made: another
    /// config ran the same program.
    pub(super) fn record_all(&self, made: &[Trial], shared: &[Trial]) -> Result<()> {
        let all = || made.iter().chain(shared);
        let lines: Vec<Line> = all().map(|trial| Line::Trial(Box::new(trial.clone()))).collect();
        let mut state = self.state();
        state.journal.append(&lines)?;
        for trial in all() {
            let of_problem = state.known.entry(trial.problem()).or_default();
            let known = Known { trial: trial.clone(), counted: true };
            of_problem.entry(trial.config.clone()).or_default().push(known);
        }
        for trial in made {
            state.counts.loaded += usize::from(trial.loaded);
            let status = serde_json::to_value(trial.status)?;
            *state.counts.statuses.entry(status.as_str().unwrap_or_default().to_string()).or_default() += 1;
        }
        drop(state);
        if made.iter().any(|trial| trial.loaded) {
            self.site.tell_of_load();
        }
        for trial in made {
            self.progress.trial(trial);
        }
        Ok(())
    }

    /// Says of a kernel, once, that its threads have local memory, which is measured like any other.
    pub(super) fn tell_of_local_memory(&self, config: &Config, kernel: &Key, local_memory: Bytes) {
        if local_memory > Bytes(0) && self.state().told.insert(kernel.clone()) {
            self.progress.say(&format!(
                "{config}: a thread has {local_memory} of local memory, for arrays or for values that found no register: the driver \
                 does not tell which, so it is measured all the same"
            ));
        }
    }

    pub(super) fn idle_worker(&self, address: Address) -> Option<Worker> {
        let idle = &mut self.state().idle;
        let place = idle.iter().position(|(at, _)| *at == address)?;
        Some(idle.swap_remove(place).1)
    }

    /// Whether there is time for another trial of this problem.
    pub(super) fn has_time(&self, problem: &Problem) -> Result<bool> {
        process::check_interrupt()?;
        let mut state = self.state();
        let is_late = state.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late {
            state.counts.out_of_time.insert(*problem);
        }
        Ok(!is_late)
    }

    /// What became of a candidate's program. Nothing where the time is up before it is compiled.
    pub(super) fn program(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Option<Compiled>> {
        let deadline = self.state().deadline;
        self.program_by(program, deadline)
    }

    /// The same, and nothing where somebody would have to wait for it.
    pub(super) fn program_at_hand(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Option<Compiled>> {
        self.program_by(program, Some(Instant::now()))
    }

    fn program_by(&self, program: Option<&(KernelSpec, Launch)>, end: Option<Instant>) -> Result<Option<Compiled>> {
        let (Some((kernel, launch)), Some(compiler)) = (program, self.kernels.compiler) else {
            return Ok(Some(Ok(None))); // what the host runs, or calls, is not compiled ahead
        };
        let outcome = compiler.wait_until(kernel, end)?;
        Ok(outcome.map(|outcome| program_of(outcome, kernel, launch)))
    }
}

/// A compiled program, none for host kernels, or the status and reason there is none.
pub(super) type Compiled = Result<Option<Program>, (Status, String)>;

fn program_of(outcome: Outcome, kernel: &KernelSpec, launch: &Launch) -> Compiled {
    match outcome {
        Outcome::Compiled { resources, .. } if resources.spill_bytes > 0 => {
            Err((Status::Pruned, format!("spills {} bytes of registers", resources.spill_bytes)))
        }
        Outcome::Compiled { cubin, entry, .. } => {
            let program = Program::new(cubin, entry, kernel, launch);
            program.map(Some).map_err(|error| (Status::CompileFailed, error))
        }
        Outcome::Failed { timed_out: true, error, .. } => Err((Status::CompileTimeout, error)),
        Outcome::Failed { error, .. } => Err((Status::CompileFailed, error)),
    }
}

/// Inputs differ from problem to problem, and are the same in every run with one seed.
pub(crate) fn problem_seed(seed: u64, problem: &Problem) -> u64 {
    let digest = Sha256::digest(format!("{seed} {problem}"));
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
