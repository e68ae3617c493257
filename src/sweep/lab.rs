//! What the devices of a family's sweep share: memory, clock and compiler, and the count of what happened.

use super::clock::Clock;
use super::memory::Memory;
use crate::compile::{Compiler, Key, Outcome};
use crate::derive::TodaysKernels;
use crate::device::{Found, Program};
use crate::error::Result;
use crate::families::{KernelSpec, Launch};
use crate::journal::{Journal, Status, Trial};
use crate::model::{Bytes, Config, GpuProfile, Problem};
use crate::plan;
use crate::site::Site;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
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

/// What all devices of a family's sweep share.
pub(crate) struct Lab<'a> {
    pub(super) site: &'a Site,
    pub(super) seed: u64,
    pub(crate) memory: Memory<'a>,
    pub(crate) clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Kernels of whose local memory people were told.
    told: BTreeSet<Key>,
    pub(super) counts: Counts,
    /// The kernels that each problem is expected to need.
    expected: BTreeMap<Problem, HashSet<KernelSpec>>,
}

impl<'a> Lab<'a> {
    /// What the devices of `site` share while they fill a journal that holds these trials.
    pub(crate) fn new(site: &'a Site, seed: u64, defenders: Vec<Config>, journal: (Journal, Vec<Trial>)) -> Self {
        let kernels = TodaysKernels::new(&site.found().profile, site.compiler.as_ref().map(Compiler::recipes));
        let memory = Memory::new(kernels, defenders, journal);
        Self { site, seed, memory, clock: Clock::default(), state: Mutex::default() }
    }

    /// What the devices are.
    pub(super) fn profile(&self) -> &'a GpuProfile {
        &self.site.found().profile
    }

    /// What compiles for them, where anything is compiled.
    pub(super) fn compiler(&self) -> Option<&'a Compiler> {
        self.site.compiler.as_ref()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Benches that share a device by turns: a second one measures while the first waits for the compiler, if there is one, and
    /// the device has memory for both.
    pub(super) fn benches_on(&self, found: &Found) -> usize {
        let has_room = found.memory.is_some_and(|memory| memory >= MEMORY_OF_TWO);
        if self.compiler().is_some() && has_room { 2 } else { 1 }
    }

    /// Whether this run has measured anything yet.
    pub(super) fn has_measured(&self) -> bool {
        !self.state().counts.statuses.is_empty()
    }

    /// Lets the kernels of these configs compile, in the order they will be asked for.
    pub(super) fn compile_ahead(&self, problem: &Problem, configs: impl IntoIterator<Item = Config>) -> Result<()> {
        let Some(compiler) = self.compiler() else { return Ok(()) };
        for config in configs {
            if let Ok(Some((kernel, _))) = plan::candidate(config, problem, self.profile()).program {
                compiler.request(&kernel)?;
                self.state().expected.entry(*problem).or_default().insert(kernel);
            }
        }
        Ok(())
    }

    /// What the problems under way are expected to need is compiled before what others will, for each by turns.
    pub(super) fn hurry(&self) {
        let Some(compiler) = self.compiler() else { return };
        let (state, under_way) = (self.state(), self.clock.under_way());
        let expected: Vec<&HashSet<KernelSpec>> =
            under_way.iter().filter_map(|problem| state.expected.get(problem)).collect();
        compiler.bring_forward(&expected);
    }

    /// Nothing more is tried of a problem: what it expected and no other one does waits for a compiler no longer.
    pub(super) fn expect_no_more_of(&self, problem: &Problem) {
        let mut state = self.state();
        let mut given_up = state.expected.remove(problem).unwrap_or_default();
        given_up.retain(|kernel| !state.expected.values().any(|of_another| of_another.contains(kernel)));
        drop(state);
        if let Some(compiler) = self.compiler() {
            compiler.withdraw(&given_up);
        }
    }

    /// What happened; the journal is closed.
    pub(crate) fn finish(self) -> Counts {
        if let Some(compiler) = self.compiler() {
            self.state().expected.values().for_each(|kernels| compiler.withdraw(kernels));
        }
        let (resumed, out_of_time) = (self.memory.resumed(), self.clock.out_of_time());
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        Counts { resumed, out_of_time, ..state.counts }
    }

    /// The kernel's identity; compiling it begins.
    pub(super) fn key(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Key> {
        match (self.compiler(), program) {
            (Some(compiler), Some((kernel, _))) => compiler.request(kernel),
            _ => self.memory.kernels().key(program),
        }
    }

    pub(super) fn record(&self, trial: Trial) -> Result<Trial> {
        self.record_all(std::slice::from_ref(&trial), &[])?;
        Ok(trial)
    }

    /// Records trials that belong together: all of them or, where that fails, none. The `shared` ones were not made: another
    /// config ran the same program.
    pub(super) fn record_all(&self, made: &[Trial], shared: &[Trial]) -> Result<()> {
        self.memory.add(made.iter().chain(shared))?;
        let mut state = self.state();
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
            self.site.progress.trial(trial);
        }
        Ok(())
    }

    /// Says of a kernel, once, that its threads have local memory, which is measured like any other.
    pub(super) fn tell_of_local_memory(&self, config: &Config, kernel: &Key, local_memory: Bytes) {
        if local_memory > Bytes(0) && self.state().told.insert(kernel.clone()) {
            self.site.progress.say(&format!(
                "{config}: a thread has {local_memory} of local memory, for arrays or for values that found no register: the driver \
                 does not tell which, so it is measured all the same"
            ));
        }
    }

    /// Whether nobody would have to wait for a candidate's program.
    pub(super) fn is_ready(&self, program: Option<&(KernelSpec, Launch)>) -> bool {
        program.zip(self.compiler()).is_none_or(|((kernel, _), compiler)| compiler.is_done(kernel))
    }

    /// What became of a candidate's program. Nothing where the time is up before it is compiled.
    pub(super) fn program(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Option<Compiled>> {
        self.program_by(program, self.clock.end())
    }

    /// The same, and nothing where somebody would have to wait for it.
    pub(super) fn program_at_hand(&self, program: Option<&(KernelSpec, Launch)>) -> Result<Option<Compiled>> {
        self.program_by(program, Some(Instant::now()))
    }

    /// The same, and nothing where it is not compiled by `end`.
    pub(super) fn program_by(
        &self,
        program: Option<&(KernelSpec, Launch)>,
        end: Option<Instant>,
    ) -> Result<Option<Compiled>> {
        let (Some((kernel, launch)), Some(compiler)) = (program, self.compiler()) else {
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
