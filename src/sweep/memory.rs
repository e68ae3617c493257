//! The journal as memory: what is known by now of each problem and config, of this run and those before.

use crate::compile::{Key, Recipes};
use crate::derive::TodaysKernels;
use crate::error::Result;
use crate::journal::{Journal, Line, Stage, Status, Trial};
use crate::model::{Config, Problem};
use crate::plan;
use crate::search::{Observation, sort_by_time};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a family's journal holds, shared by all devices that add to it.
pub(crate) struct Memory<'a> {
    kernels: TodaysKernels<&'a Recipes>,
    /// What the last document serves: it defends its place in each final, but a final that was run without it stands.
    defenders: Vec<Config>,
    state: Mutex<State>,
}

struct State {
    journal: Journal,
    /// Every trial of the journal that still says something, by what was tried.
    known: HashMap<Problem, HashMap<Config, Vec<Known>>>,
    /// Those of runs before this one that failed by what may have passed since.
    passing: HashMap<Problem, Vec<Trial>>,
    /// The races of each problem so far.
    races: HashMap<Problem, u64>,
    /// Trials of runs before this one that were taken over.
    resumed: usize,
}

/// A trial of the journal.
struct Known {
    trial: Trial,
    /// Of this run, or counted already among those that were taken over.
    counted: bool,
}

impl Known {
    /// Counts it among those that were taken over, once.
    fn count(&mut self, resumed: &mut usize) {
        *resumed += usize::from(!std::mem::replace(&mut self.counted, true));
    }
}

impl<'a> Memory<'a> {
    /// Of a journal that holds these trials.
    pub(super) fn new(
        kernels: TodaysKernels<&'a Recipes>,
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
        Self { kernels, defenders, state: Mutex::new(State { journal, known, passing, races, resumed: 0 }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Trials of runs before this one that were taken over by now.
    pub(super) fn resumed(&self) -> usize {
        self.state().resumed
    }

    /// What configs run as today.
    pub(super) fn kernels(&self) -> &TodaysKernels<&'a Recipes> {
        &self.kernels
    }

    /// Whether a trial of the journal was made with the kernel that its config has now.
    pub(crate) fn is_current(&self, trial: &Trial) -> Result<bool> {
        self.kernels.made(trial)
    }

    /// What the journal says of this trial: a failure at any stage, or a time at this one.
    pub(super) fn recall(&self, problem: &Problem, config: &Config, stage: Stage, kernel: &Key) -> Option<Trial> {
        let mut state = self.state();
        let State { known, resumed, .. } = &mut *state;
        let known = known.get_mut(problem)?.get_mut(config)?;
        let fits = |Known { trial, .. }: &&mut Known| {
            trial.kernel == kernel.0 && !trial.null_arm && (trial.stage == stage || trial.status != Status::Ok)
        };
        // Who raced again and again as the incumbent has several of one stage.
        let mut first = None;
        for known in known.iter_mut().filter(fits) {
            known.count(resumed);
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

    /// The working trials of the problem's last final, the winner first, where the journal has it whole, not before its time, with today's
    /// kernels, and each of the `required` configs that works has been in a final, but for defenders that came up since.
    pub(super) fn recall_final(&self, problem: &Problem, required: &[Config]) -> Result<Option<Vec<Trial>>> {
        let mut state = self.state();
        let State { known, resumed, .. } = &mut *state;
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
                    true if trial.cut => return Ok(None),
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
        let runs = |config: &Config| plan::candidate(config.clone(), problem, self.kernels.profile()).program.is_ok();
        if missing.into_iter().any(runs) {
            return Ok(None);
        }
        trials.retain(|trial| trial.time().is_some());
        sort_by_time(&mut trials, winner);
        current.into_iter().filter(|known| !known.trial.null_arm).for_each(|known| known.count(resumed));
        Ok(Some(trials))
    }

    /// Adds trials that belong together: all of them or, where that fails, none.
    pub(super) fn add<'t>(&self, trials: impl Iterator<Item = &'t Trial> + Clone) -> Result<()> {
        let lines: Vec<Line> = trials.clone().map(|trial| Line::Trial(Box::new(trial.clone()))).collect();
        let mut state = self.state();
        state.journal.append(&lines)?;
        for trial in trials {
            let of_problem = state.known.entry(trial.problem()).or_default();
            let known = Known { trial: trial.clone(), counted: true };
            of_problem.entry(trial.config.clone()).or_default().push(known);
        }
        Ok(())
    }
}
