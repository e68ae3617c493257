//! The search on one problem: try what is most promising and some others, then what is near the best of these, and let the best
//! race. A [`Guide`] tells what is promising, by what was measured so far. Decisions alone; a [`Bench`] does the measuring, so
//! that a fake one can test them.

mod cross;
mod guide;
mod prior;

pub use cross::crossings;
pub use guide::{Guide, Observation, Order};

use crate::error::Result;
use crate::families;
use crate::journal::{Stage, Trial};
use crate::measure::{DurationClass, RacePlan, Sampling};
use crate::model::{Config, Family, Micros, Mma, Problem};
use crate::plan::Candidate;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A candidate in a race.
#[derive(Clone, Copy, Debug)]
pub struct Racer<'c> {
    /// What runs.
    pub candidate: &'c Candidate,
    /// Others are measured against it, so it stays however far behind it is.
    pub anchor: bool,
}

impl<'c> Racer<'c> {
    /// One that stays.
    pub const fn anchor(candidate: &'c Candidate) -> Self {
        Self { candidate, anchor: true }
    }

    /// One that may drop out.
    pub const fn contender(candidate: &'c Candidate) -> Self {
        Self { candidate, anchor: false }
    }
}

/// What a race came to.
#[derive(Clone, Debug, PartialEq)]
pub enum RaceOutcome {
    /// The trials, the winner's first.
    Done(Vec<Trial>),
    /// The time was up.
    OutOfTime,
    /// Its process was lost again and again though each config works alone. Whose fault that is cannot be told, and another run may
    /// do better.
    Crashed(String),
}

/// Measures candidates on one problem. Trials are queued, so that the device has the next one at hand when one is done.
pub trait Bench {
    /// Queues a trial of one candidate; false where the time is up.
    fn submit(&mut self, candidate: &Candidate, stage: Stage, sampling: Sampling) -> Result<bool>;

    /// Whether a candidate can be tried without waiting for what it needs.
    fn is_ready(&self, candidate: &Candidate) -> bool;

    /// Tells which candidates will be submitted, so that what they need can be made ready beside one another.
    fn expect(&mut self, candidates: &[Candidate]) -> Result<()>;

    /// What the oldest queued trial came to; nothing where none is queued.
    fn next(&mut self) -> Result<Option<Trial>>;

    /// Times slow candidates in a few rounds together with the incumbent, whose trial comes first where it raced: the clock of a
    /// long kernel changes from one trial to the next, for whoever runs then. Nothing where the time is up.
    fn screen(&mut self, incumbent: &Candidate, batch: &[&Candidate], stage: Stage) -> Result<Option<Vec<Trial>>>;

    /// Races finalists in interleaved rounds.
    fn race(&mut self, racers: &[Racer], plan: &RacePlan) -> Result<RaceOutcome>;

    /// Records a candidate that cannot run.
    fn pruned(&mut self, candidate: &Candidate) -> Result<()>;
}

/// How wide the search is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    /// The most promising configs, which are tried first.
    pub promising: usize,
    /// Others, at random: a model can only know what was tried.
    pub random: usize,
    /// Configs one knob away from the best of these.
    pub neighbours: usize,
    /// How many times as many are tried, each time of what is best by then, for as long as something better is found.
    pub rounds: usize,
    /// Configs in the final, beside the anchors.
    pub finalists: usize,
    /// Finalists that share one kernel: they tell little of each other, and other problems may want another kernel.
    pub siblings: usize,
    /// Screening gives up on a config this many times slower than the best so far.
    pub abandon_factor: f64,
}

impl Width {
    /// Where a model tells what is promising: by its order the best is among the first 24 for 96 of 100 problems within 1 %.
    pub const GUIDED: Self =
        Self { promising: 16, random: 3, neighbours: 6, rounds: 1, finalists: 8, siblings: 3, abandon_factor: 2.0 };
    /// Where none does yet.
    pub const WIDE: Self = Self { promising: 32, random: 16, neighbours: 10, ..Self::GUIDED };
    /// Where none does, and nothing is known of what the knobs of kernels that are called mean.
    pub const CALLED: Self = Self { neighbours: 14, rounds: 5, ..Self::WIDE };

    /// Where what is served is to be judged by the best there is.
    pub const THOROUGH: Self = Self { promising: 32, random: 12, neighbours: 12, ..Self::GUIDED };

    /// How wide to search where configs are in this order.
    pub fn of(order: &Order) -> Self {
        match order {
            Order { is_predicted: true, .. } => Self::GUIDED,
            Order { is_called: true, .. } => Self::CALLED,
            _ => Self::WIDE,
        }
    }

    /// The places in the order, `count` long, of the configs to try first; the random ones follow from the seed.
    pub fn first(&self, count: usize, seed: u64) -> Vec<usize> {
        let promising = self.promising.min(count);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let others = rand::seq::index::sample(&mut random, count - promising, self.random.min(count - promising));
        (0..promising).chain(others.into_iter().map(|place| promising + place)).collect()
    }
}

/// Searches the configs of one problem, which are in the order of their promise. `must_race` are configs that belong in the final
/// whatever they cost: the defaults and what is served. Of finalists the winner comes first; there are none where nothing works.
///
/// # Errors
/// Where the bench fails, which is never a config's doing.
pub fn search(
    bench: &mut dyn Bench,
    problem: &Problem,
    order: &Order,
    must_race: &[Config],
    (width, seed): (&Width, u64),
    candidate: &dyn Fn(&Config) -> Candidate,
) -> Result<RaceOutcome> {
    let required: Vec<Candidate> = must_race.iter().map(candidate).collect();
    let promising: Vec<Candidate> = width
        .first(order.configs.len(), seed)
        .into_iter()
        .map(|place| &order.configs[place])
        .filter(|config| !must_race.contains(config))
        .map(candidate)
        .collect();
    for candidate in required.iter().filter(|candidate| candidate.program.is_err()) {
        bench.pruned(candidate)?;
    }
    let refinement = Refinement { problem, order, must_race, width, candidate };
    let mut scores = Scores::default();
    let first = required.iter().filter(|candidate| candidate.program.is_ok()).chain(&promising).collect();
    let are_tried = refinement.try_all(bench, &mut scores, first, Stage::Screen)?;
    let all: Vec<&Candidate> = required.iter().chain(&promising).collect();
    if !are_tried {
        return refinement.race_what_was_tried(bench, &scores, &all);
    }
    refinement.run(bench, scores, all, width.rounds)
}

/// What a search goes on with once the first candidates were tried.
struct Refinement<'s> {
    problem: &'s Problem,
    order: &'s Order,
    must_race: &'s [Config],
    width: &'s Width,
    candidate: &'s dyn Fn(&Config) -> Candidate,
}

impl Refinement<'_> {
    /// What is near the best by now.
    fn neighbours(&self, scores: &Scores<'_>) -> Vec<Candidate> {
        scores.neighbours(self.order, self.width.neighbours).into_iter().map(self.candidate).collect()
    }

    /// Tries candidates; false where the time is up. Kernels that are called take seconds to compile: when half of the candidates are
    /// tried, what is near the best of these begins to.
    fn try_all<'a>(
        &self,
        bench: &mut dyn Bench,
        scores: &mut Scores<'a>,
        mut candidates: Vec<&'a Candidate>,
        stage: Stage,
    ) -> Result<bool> {
        if self.order.is_called {
            let rest = candidates.split_off(candidates.len() / 2);
            if !scores.try_all(bench, candidates, stage, self.width)? {
                return Ok(false);
            }
            bench.expect(&self.neighbours(scores))?;
            candidates = rest;
        }
        scores.try_all(bench, candidates, stage, self.width)
    }

    /// Tries what is near the best, again where that found something better and `rounds` are left, and lets the best of all race.
    fn run(
        &self,
        bench: &mut dyn Bench,
        scores: Scores<'_>,
        all: Vec<&Candidate>,
        rounds: usize,
    ) -> Result<RaceOutcome> {
        let before = scores.best.map(|(time, _)| time);
        let neighbours = self.neighbours(&scores);
        bench.expect(&neighbours)?;
        // From here on they hold these neighbours too.
        let (mut scores, mut all) = (scores, all);
        let are_tried = self.try_all(bench, &mut scores, neighbours.iter().collect(), Stage::Refine)?;
        all.extend(&neighbours);
        if !are_tried {
            return self.race_what_was_tried(bench, &scores, &all);
        }
        let is_better = scores.best.zip(before).is_some_and(|((time, _), before)| time < before);
        if rounds > 1 && is_better {
            return self.run(bench, scores, all, rounds - 1);
        }
        self.race(bench, &scores, &all)
    }

    /// Where the time to try more is over, what was tried by then races: without that all of it would be of no use.
    fn race_what_was_tried(
        &self,
        bench: &mut dyn Bench,
        scores: &Scores<'_>,
        all: &[&Candidate],
    ) -> Result<RaceOutcome> {
        if scores.best.is_none() {
            return Ok(RaceOutcome::OutOfTime);
        }
        self.race(bench, scores, all)
    }

    /// Lets the best of all race.
    fn race(&self, bench: &mut dyn Bench, scores: &Scores<'_>, all: &[&Candidate]) -> Result<RaceOutcome> {
        race(bench, self.problem.family, all, self.must_race, scores, self.width, &RacePlan::FINAL)
    }
}

/// Candidates of an exhaustive search that are sampled more often once all are screened.
const EXHAUSTIVE_SURVIVORS: usize = 64;
/// How many times the rounds of a guided search's final its final has: enough to choose the best by half of them and judge by
/// the others, as the best of many is in part the luckiest.
const EXHAUSTIVE_ROUNDS: u32 = 4;

/// The same in one stage: screens every candidate that can run, samples the best of them again, and lets the best race.
/// What the guided search is measured against.
///
/// # Errors
/// As [`search`].
pub fn exhaust(
    bench: &mut dyn Bench,
    family: Family,
    candidates: &[Candidate],
    must_race: &[Config],
    width: &Width,
) -> Result<RaceOutcome> {
    let mut scores = Scores::default();
    let legal: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.program.is_ok()).collect();
    if !scores.try_all(bench, legal.iter().copied(), Stage::Screen, width)? {
        return Ok(RaceOutcome::OutOfTime);
    }
    let best = scores.ranked(&legal).into_iter().take(EXHAUSTIVE_SURVIVORS).map(|(_, candidate)| candidate);
    if !scores.try_all(bench, best, Stage::Refine, width)? {
        return Ok(RaceOutcome::OutOfTime);
    }
    race(bench, family, &legal, must_race, &scores, width, &RacePlan::FINAL.longer(EXHAUSTIVE_ROUNDS))
}

fn race<'a>(
    bench: &mut dyn Bench,
    family: Family,
    candidates: &[&'a Candidate],
    must_race: &[Config],
    scores: &Scores<'a>,
    width: &Width,
    plan: &RacePlan,
) -> Result<RaceOutcome> {
    let ranked = scores.ranked(candidates);
    if ranked.is_empty() {
        return Ok(RaceOutcome::Done(Vec::new()));
    }
    let mut racers: Vec<Racer> = Vec::new();
    let half = |candidate: &Candidate| families::spec(family).compiled_half(&candidate.config);
    for (_, candidate) in &ranked {
        let siblings = racers.iter().filter(|racer| half(racer.candidate) == half(candidate)).count();
        if racers.len() < width.finalists && siblings < width.siblings {
            racers.push(Racer::contender(candidate));
        }
    }
    let required = ranked.iter().map(|(_, candidate)| *candidate);
    let required = required.filter(|candidate| must_race.contains(&candidate.config));
    for anchor in required.chain(best_of_each_kind(&ranked)) {
        match racers.iter_mut().find(|racer| racer.candidate.config == anchor.config) {
            Some(racer) => racer.anchor = true,
            None => racers.push(Racer::anchor(anchor)),
        }
    }
    let mut outcome = bench.race(&racers, plan)?;
    if let RaceOutcome::Done(trials) = &mut outcome {
        trials.retain(|trial| trial.time().is_some());
    }
    Ok(outcome)
}

/// The fastest candidate of each instruction that multiplies: what is fast with one may share nothing with the others.
fn best_of_each_kind<'a>(ranked: &[(Micros, &'a Candidate)]) -> Vec<&'a Candidate> {
    let mut kinds: BTreeMap<Option<Mma>, &Candidate> = BTreeMap::new();
    for (_, candidate) in ranked {
        kinds.entry(candidate.config.mma).or_insert(candidate);
    }
    kinds.into_values().collect()
}

/// The trials of finalists that a race of what other problems chose is anchored to: those of the `required` configs, the best of
/// each instruction that multiplies, and some of the best. `finalists` has the winner first.
pub fn anchors(finalists: &[Trial], required: &[Config]) -> Vec<Config> {
    let mut kinds = BTreeSet::new();
    let is_anchor = |(place, trial): &(usize, &Trial)| {
        let is_best_of_kind = kinds.insert(trial.config.mma);
        *place < BEST_ANCHORS || is_best_of_kind || required.contains(&trial.config)
    };
    finalists.iter().enumerate().filter(is_anchor).map(|(_, trial)| trial.config.clone()).collect()
}

/// Finalists that are anchors for being among the best.
const BEST_ANCHORS: usize = 3;

/// The winner first, then the fastest.
pub(crate) fn sort_by_time(trials: &mut [Trial], winner: &Config) {
    let time_us = |trial: &Trial| trial.time().map_or(f64::INFINITY, |time| time.0);
    trials.sort_by(|one, other| {
        let is_other = |trial: &Trial| trial.config != *winner;
        is_other(one).cmp(&is_other(other)).then(time_us(one).total_cmp(&time_us(other)))
    });
}

/// Slow candidates that are timed in one go with the incumbent.
const BATCH: usize = 7;
/// How many candidates are looked at for one that need not be waited for.
const LOOKED_AT: usize = 32;

/// Takes out the first candidate that can be tried at once, or else the first.
fn next_ready<'a>(bench: &dyn Bench, candidates: &mut VecDeque<&'a Candidate>) -> Option<&'a Candidate> {
    let ready = candidates.iter().take(LOOKED_AT).position(|candidate| bench.is_ready(candidate));
    candidates.remove(ready.unwrap_or(0))
}

/// The latest time of each config; of slow ones as it would be beside the best of them.
#[derive(Default)]
struct Scores<'a> {
    times: BTreeMap<Config, Micros>,
    best: Option<(Micros, &'a Candidate)>,
}

impl<'a> Scores<'a> {
    /// Tries candidates and notes their times; false where the time is up. Each is queued before the one ahead of it is done, which
    /// costs it that one's time as the limit to give up at. From where the best is slow on, they race with it.
    fn try_all(
        &mut self,
        bench: &mut dyn Bench,
        candidates: impl IntoIterator<Item = &'a Candidate>,
        stage: Stage,
        width: &Width,
    ) -> Result<bool> {
        let samples = if stage == Stage::Screen { Sampling::SCREEN } else { Sampling::REFINE };
        let mut queued: Option<&Candidate> = None;
        let mut candidates: VecDeque<&Candidate> = candidates.into_iter().collect();
        while !candidates.is_empty() {
            if let Some((best, incumbent)) =
                self.best.filter(|(best, _)| DurationClass::of(*best) == DurationClass::Slow)
            {
                self.note_all(bench, &mut queued)?;
                let others = std::iter::from_fn(|| next_ready(bench, &mut candidates));
                let batch: Vec<&Candidate> =
                    others.filter(|candidate| candidate.config != incumbent.config).take(BATCH).collect();
                let Some(trials) = bench.screen(incumbent, &batch, stage)? else { return Ok(false) };
                self.note_race(best, incumbent, &batch, &trials);
                continue;
            }
            let Some(candidate) = next_ready(bench, &mut candidates) else { break };
            let limit = self.best.map(|(best, _)| best);
            if !bench.submit(candidate, stage, samples.abandoning(limit, width.abandon_factor))? {
                self.note_all(bench, &mut queued)?;
                return Ok(false);
            }
            if let Some(before) = queued.replace(candidate) {
                self.note(before, bench.next()?);
            }
        }
        self.note_all(bench, &mut queued)?;
        Ok(true)
    }

    /// Waits for what is queued.
    fn note_all(&mut self, bench: &mut dyn Bench, queued: &mut Option<&'a Candidate>) -> Result<()> {
        if let Some(candidate) = queued.take() {
            self.note(candidate, bench.next()?);
        }
        Ok(())
    }

    fn note(&mut self, candidate: &'a Candidate, trial: Option<Trial>) {
        if let Some(time) = trial.and_then(|trial| trial.time()) {
            self.add(candidate, time);
        }
    }

    /// Notes the times of a batch as they would have been when the incumbent took `best`.
    fn note_race(&mut self, best: Micros, incumbent: &'a Candidate, batch: &[&'a Candidate], trials: &[Trial]) {
        let time_of = |candidate: &Candidate| {
            let trial = trials.iter().find(|trial| trial.config == candidate.config)?;
            Some((trial.time()?, trial.race))
        };
        let now = time_of(incumbent);
        for candidate in batch {
            let Some((time, race)) = time_of(candidate) else { continue };
            let raced = now.filter(|(_, its)| *its == race && race.is_some());
            self.add(candidate, raced.map_or(time, |(now, _)| Micros(time.0 / now.0 * best.0)));
        }
    }

    fn add(&mut self, candidate: &'a Candidate, time: Micros) {
        self.times.insert(candidate.config.clone(), time);
        if self.best.is_none_or(|(best, _)| time < best) {
            self.best = Some((time, candidate));
        }
    }

    fn of(&self, candidate: &Candidate) -> Option<Micros> {
        self.times.get(&candidate.config).copied()
    }

    /// Untried configs that are one knob away from the best, or else from the next best, in the order of their promise.
    fn neighbours<'o>(&self, order: &'o Order, most: usize) -> Vec<&'o Config> {
        let mut by_time: Vec<(&Config, Micros)> = self.times.iter().map(|(config, time)| (config, *time)).collect();
        by_time.sort_by(|one, other| one.1.0.total_cmp(&other.1.0));
        let mut found: Vec<&Config> = Vec::new();
        for (best, _) in by_time.into_iter().take(BEST_WITH_NEIGHBOURS) {
            let is_new = |config: &&Config| !self.times.contains_key(*config) && knobs_apart(best, config) == 1;
            let near: Vec<&Config> = order.configs.iter().filter(is_new).take(most).collect();
            found.extend(near.into_iter().filter(|config| !found.contains(config)).collect::<Vec<_>>());
        }
        found.truncate(most);
        found
    }

    /// Those that have a time, fastest first.
    fn ranked(&self, candidates: &[&'a Candidate]) -> Vec<(Micros, &'a Candidate)> {
        let mut ranked: Vec<_> =
            candidates.iter().filter_map(|candidate| Some((self.of(candidate)?, *candidate))).collect();
        ranked.sort_by(|one, other| one.0.0.total_cmp(&other.0.0));
        ranked
    }
}

/// The best configs whose neighbours are tried.
const BEST_WITH_NEIGHBOURS: usize = 2;

/// How many knobs two configs differ in, a family's own among them; program order and its multiplier are one.
fn knobs_apart(one: &Config, other: &Config) -> usize {
    let blocks = one.block_sizes.iter().zip(&other.block_sizes).filter(|(one, other)| one != other).count()
        + one.block_sizes.len().abs_diff(other.block_sizes.len());
    let others = [
        one.mma != other.mma,
        one.num_warps != other.num_warps,
        one.num_stages != other.num_stages,
        (one.pid_type, one.num_sm_multiplier) != (other.pid_type, other.num_sm_multiplier),
        one.l2_groupings != other.l2_groupings,
        one.split_k != other.split_k,
        one.reduction_loops != other.reduction_loops,
    ];
    let own: BTreeSet<&String> = one.own.keys().chain(other.own.keys()).collect();
    let own = own.into_iter().filter(|knob| one.own.get(*knob) != other.own.get(*knob)).count();
    blocks + own + others.into_iter().filter(|differ| *differ).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Status;
    use crate::model::{Dtype, KnobValue, PidType, Shape};
    use std::collections::VecDeque;

    #[test]
    fn a_familys_own_knobs_are_knobs() {
        let config = |block: i64, unroll: i64| Config {
            own: [("block", block), ("unroll", unroll)]
                .map(|(knob, value)| (knob.to_owned(), KnobValue::Integer(value)))
                .into(),
            ..Config::default()
        };
        let apart = |one: &Config, other: &Config| knobs_apart(one, other);
        assert_eq!(apart(&config(64, 1), &config(64, 1)), 0);
        assert_eq!(apart(&config(64, 1), &config(128, 1)), 1);
        assert_eq!(apart(&config(64, 1), &config(128, 4)), 2);
        assert_eq!(apart(&config(64, 1), &Config { num_warps: Some(4), ..config(64, 1) }), 1);
        assert_eq!(apart(&Config::default(), &config(64, 1)), 2);
    }

    /// Times come from a formula of the config; every measurement is counted.
    struct Formula {
        time: fn(&Config) -> Option<f64>,
        trials: usize,
        queued: VecDeque<Trial>,
        raced: Vec<(Config, bool)>,
        /// Configs of each batch that raced with an incumbent, which comes first.
        screened: Vec<Vec<Config>>,
        /// How long its last race was to be.
        race_plan: Option<RacePlan>,
        pruned: usize,
        /// How often each was to be sampled, at what stage.
        sampled: Vec<(Config, Stage, Sampling)>,
        /// After so many trials the time to try more is over.
        most_trials: usize,
        /// What need not be waited for.
        is_ready: fn(&Config) -> bool,
        /// What would be submitted soon, and after how many trials that was told.
        expected: Vec<(usize, Vec<Config>)>,
    }

    impl Formula {
        fn new(time: fn(&Config) -> Option<f64>) -> Self {
            Self {
                time,
                trials: 0,
                queued: VecDeque::new(),
                raced: Vec::new(),
                race_plan: None,
                screened: Vec::new(),
                pruned: 0,
                sampled: Vec::new(),
                most_trials: usize::MAX,
                is_ready: |_| true,
                expected: Vec::new(),
            }
        }

        fn record(&self, candidate: &Candidate, stage: Stage) -> Trial {
            let time = (self.time)(&candidate.config).map(Micros);
            let problem =
                Problem { family: Family::Matmul, shape: Shape::of(Family::Matmul, &[1, 1, 1]), dtype: Dtype::Bf16 };
            let status = if time.is_some() { Status::Ok } else { Status::Wrong };
            let blank = Trial::untimed(&problem, candidate.config.clone(), stage, status);
            Trial { time_us: time, median_us: time, q1_us: time, q3_us: time, min_us: time, samples: Some(3), ..blank }
        }
    }

    impl Bench for Formula {
        fn submit(&mut self, candidate: &Candidate, stage: Stage, sampling: Sampling) -> Result<bool> {
            if self.trials == self.most_trials {
                return Ok(false);
            }
            self.trials += 1;
            self.sampled.push((candidate.config.clone(), stage, sampling));
            self.queued.push_back(self.record(candidate, stage));
            assert!(self.queued.len() <= 2, "one runs and one waits");
            Ok(true)
        }

        fn is_ready(&self, candidate: &Candidate) -> bool {
            (self.is_ready)(&candidate.config)
        }

        fn expect(&mut self, candidates: &[Candidate]) -> Result<()> {
            let configs = candidates.iter().map(|candidate| candidate.config.clone());
            self.expected.push((self.trials, configs.collect()));
            Ok(())
        }

        fn next(&mut self) -> Result<Option<Trial>> {
            Ok(self.queued.pop_front())
        }

        fn screen(&mut self, incumbent: &Candidate, batch: &[&Candidate], stage: Stage) -> Result<Option<Vec<Trial>>> {
            self.trials += batch.len();
            let all = || std::iter::once(incumbent).chain(batch.iter().copied());
            self.screened.push(all().map(|candidate| candidate.config.clone()).collect());
            let race = Some(self.screened.len() as u64);
            // The clock falls from batch to batch.
            let slow = 1.0 + 0.5 * self.screened.len() as f64;
            let record = |candidate| {
                let trial = self.record(candidate, stage);
                Trial { time_us: trial.time_us.map(|time| Micros(time.0 * slow)), race, ..trial }
            };
            Ok(Some(all().map(record).collect()))
        }

        fn race(&mut self, racers: &[Racer], plan: &RacePlan) -> Result<RaceOutcome> {
            self.race_plan = Some(*plan);
            self.raced = racers.iter().map(|racer| (racer.candidate.config.clone(), racer.anchor)).collect();
            let mut trials: Vec<Trial> =
                racers.iter().map(|racer| self.record(racer.candidate, Stage::Final)).collect();
            trials.sort_by(|one, other| one.time().partial_cmp(&other.time()).unwrap());
            Ok(RaceOutcome::Done(trials))
        }

        fn pruned(&mut self, _: &Candidate) -> Result<()> {
            self.pruned += 1;
            Ok(())
        }
    }

    /// 8 tiles, each with 4 splits, 3 program orders and 2 groupings.
    fn space() -> Vec<Config> {
        let mut configs = Vec::new();
        for block in [8, 16, 32, 64, 128, 256, 512, 1024] {
            for split in [1, 2, 4, 8] {
                for pid in PidType::ALL {
                    for group in [1, 8] {
                        configs.push(Config {
                            block_sizes: vec![block],
                            split_k: Some(split),
                            pid_type: Some(pid),
                            l2_groupings: vec![group],
                            num_sm_multiplier: pid.is_persistent().then_some(1),
                            ..Config::default()
                        });
                    }
                }
            }
        }
        configs
    }

    fn problem() -> Problem {
        Problem { family: Family::Matmul, shape: Shape::of(Family::Matmul, &[1, 1, 1]), dtype: Dtype::Bf16 }
    }

    fn candidate(config: &Config) -> Candidate {
        Candidate { config: config.clone(), program: Ok(None) }
    }

    fn finalists(outcome: Result<RaceOutcome>) -> Vec<Trial> {
        match outcome.unwrap() {
            RaceOutcome::Done(trials) => trials,
            other => panic!("{other:?}"),
        }
    }

    /// Best at block 64, split 4, interleaved, grouping 8.
    fn bowl(config: &Config) -> Option<f64> {
        let block = f64::from(config.block_sizes[0]).log2() - 6.0;
        let split = f64::from(config.split_k?).log2() - 2.0;
        let order = if config.pid_type == Some(PidType::PersistentInterleaved) { 0.0 } else { 1.0 };
        let group = if config.l2_groupings == [8] { 0.0 } else { 0.5 };
        Some(10.0 + block * block + split * split + order + group)
    }

    /// The order of a model that knows blocks and splits within a half, and nothing of the rest.
    fn roughly(by: fn(&Config) -> f64) -> Order {
        let mut configs = space();
        configs.sort_by(|one, other| by(one).total_cmp(&by(other)));
        Order { configs, is_predicted: true, is_called: false }
    }

    fn by_tile(config: &Config) -> f64 {
        bowl(&Config { pid_type: None, l2_groupings: vec![8], ..config.clone() }).unwrap()
    }

    fn run(bench: &mut Formula, order: &Order, must_race: &[Config]) -> Result<RaceOutcome> {
        search(bench, &problem(), order, must_race, (&Width::of(order), 7), &candidate)
    }

    #[test]
    fn a_rough_order_finds_the_best_in_some_twenty_trials() {
        let mut bench = Formula::new(bowl);
        let best = finalists(run(&mut bench, &roughly(by_tile), &[]));
        assert_eq!(best[0].time(), Some(Micros(10.0)));
        assert!(bench.trials <= 25, "{} trials", bench.trials);
    }

    #[test]
    fn an_order_that_knows_nothing_costs_more_but_comes_near() {
        let order = Order { is_predicted: false, ..roughly(|config| f64::from(config.block_sizes[0])) };
        let mut bench = Formula::new(bowl);
        let best = finalists(run(&mut bench, &order, &[]));
        assert!(best[0].time() <= Some(Micros(11.0)), "{best:?}");
    }

    #[test]
    fn what_was_tried_when_the_time_was_over_races() {
        let order = Order { configs: space(), ..roughly(|_| 0.0) };
        for most_trials in [1, 7, 40, 60] {
            let mut bench = Formula { most_trials, ..Formula::new(bowl) };
            let defaults = [order.configs[100].clone()];
            let how = (&Width::CALLED, 7);
            let trials = finalists(search(&mut bench, &problem(), &order, &defaults, how, &candidate));
            assert_eq!(bench.trials, most_trials);
            let tried: BTreeSet<&Config> = bench.sampled.iter().map(|(config, ..)| config).collect();
            assert!(bench.raced.iter().all(|(config, _)| tried.contains(config)));
            assert!(bench.raced.iter().any(|(config, _)| *config == defaults[0]), "the default is always tried first");
            let best = tried.iter().map(|config| bowl(config).unwrap()).fold(f64::INFINITY, f64::min);
            assert_eq!(trials[0].time(), Some(Micros(best)));
            assert_eq!(bench.race_plan, Some(RacePlan::FINAL));
        }
        let mut bench = Formula { most_trials: 0, ..Formula::new(bowl) };
        let outcome = search(&mut bench, &problem(), &order, &[], (&Width::CALLED, 7), &candidate).unwrap();
        assert_eq!(outcome, RaceOutcome::OutOfTime, "nothing was tried");
    }

    #[test]
    fn what_need_not_be_waited_for_is_tried_first() {
        let order = Order { configs: space(), ..roughly(|_| 0.0) };
        // Some are timed one by one, slow ones in races.
        let slow: fn(&Config) -> Option<f64> = |config| bowl(config).map(|us| us * 1e4);
        for time in [bowl, slow] {
            let is_ready = |config: &Config| config.l2_groupings == [8];
            let mut bench = Formula { is_ready, ..Formula::new(time) };
            search(&mut bench, &problem(), &order, &[], (&Width { neighbours: 0, ..Width::WIDE }, 7), &candidate)
                .unwrap();
            let raced = bench.screened.iter().flat_map(|batch| &batch[1..]);
            let tried: Vec<&Config> = bench.sampled.iter().map(|(config, ..)| config).chain(raced).collect();
            let first_slow = tried.iter().position(|config| !is_ready(config)).unwrap();
            assert!(tried[first_slow..].iter().all(|config| !is_ready(config)), "{tried:?}");
            assert!(first_slow >= 16, "half of those that are tried: {first_slow}");
        }
    }

    #[test]
    fn what_is_near_the_best_of_the_first_half_is_expected_where_kernels_are_called() {
        let called = Order { is_called: true, ..roughly(|_| 0.0) };
        let mut bench = Formula::new(bowl);
        search(&mut bench, &problem(), &called, &[], (&Width::CALLED, 7), &candidate).unwrap();
        let (after, expected) = &bench.expected[0];
        assert_eq!(*after, 24, "of 48");
        let tried: Vec<&Config> = bench.sampled[..24].iter().map(|(config, ..)| config).collect();
        let mut times: Vec<f64> = tried.iter().map(|config| bowl(config).unwrap()).collect();
        times.sort_by(f64::total_cmp);
        let best: Vec<&Config> = tried.iter().copied().filter(|config| bowl(config).unwrap() <= times[1]).collect();
        let is_near = |config: &Config| best.iter().any(|best| knobs_apart(best, config) == 1);
        assert!(!expected.is_empty() && expected.iter().all(|config| is_near(config) && !tried.contains(&config)));
        let mut bench = Formula::new(bowl);
        search(&mut bench, &problem(), &Order { is_called: false, ..called }, &[], (&Width::WIDE, 7), &candidate)
            .unwrap();
        assert_eq!(
            bench.expected.iter().map(|(after, _)| *after).collect::<Vec<_>>(),
            [48],
            "others have compiled by then"
        );
    }

    #[test]
    fn the_first_are_the_promising_and_some_others_and_the_same_each_time() {
        let first = Width::GUIDED.first(1000, 3);
        assert_eq!(first.len(), Width::GUIDED.promising + Width::GUIDED.random);
        assert_eq!(first[..Width::GUIDED.promising], (0..Width::GUIDED.promising).collect::<Vec<_>>());
        assert!(first[Width::GUIDED.promising..].iter().all(|place| (Width::GUIDED.promising..1000).contains(place)));
        assert_eq!(first, Width::GUIDED.first(1000, 3));
        assert_ne!(first, Width::GUIDED.first(1000, 4));
        assert_eq!(Width::GUIDED.first(5, 3), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn neighbours_are_sampled_more_often_and_all_up_to_twice_the_best_so_far() {
        let mut bench = Formula::new(bowl);
        run(&mut bench, &roughly(by_tile), &[]).unwrap();
        let mut times_us: Vec<f64> = Vec::new();
        for (config, stage, sampling) in &bench.sampled {
            let usual = if *stage == Stage::Screen { Sampling::SCREEN } else { Sampling::REFINE };
            // One runs while the next is queued.
            let done = &times_us[..times_us.len().saturating_sub(1)];
            let best = done.iter().copied().reduce(f64::min).map(Micros);
            let all_done = times_us.iter().copied().reduce(f64::min).map(Micros);
            let wanted = [best, all_done].map(|best| usual.abandoning(best, 2.0));
            assert!(wanted.contains(sampling), "{config}: {sampling:?}, not {wanted:?}");
            times_us.push(bowl(config).unwrap());
        }
        let stages: Vec<Stage> = bench.sampled.iter().map(|(_, stage, _)| *stage).collect();
        assert!(stages.is_sorted() && stages.contains(&Stage::Screen) && stages.contains(&Stage::Refine));
    }

    #[test]
    fn the_less_is_known_the_more_is_tried() {
        let predicted = roughly(by_tile);
        let unknown = Order { is_predicted: false, ..predicted.clone() };
        let called = Order { is_called: true, ..unknown.clone() };
        let tried = [&predicted, &unknown, &called].map(|order| {
            let width = Width::of(order);
            (width.first(1000, 0).len(), width.neighbours, width.rounds)
        });
        assert_eq!(tried, [(19, 6, 1), (48, 10, 1), (48, 14, 5)]);
        let predicted = Order { is_called: true, ..predicted };
        assert_eq!(Width::of(&predicted), Width::GUIDED, "whatever runs them, a model tells what is promising");
        let thorough = Width::THOROUGH;
        assert_eq!((thorough.first(1000, 0).len(), thorough.neighbours), (44, 12));
    }

    /// What ran with the incumbent is as much slower as it was there; what ran apart is what it took.
    #[test]
    fn times_are_beside_the_incumbents_of_the_same_race_alone() {
        let configs: Vec<Candidate> = space()[..5].iter().map(candidate).collect();
        let [incumbent, beside, elsewhere, alone, failed] = configs.iter().collect::<Vec<_>>()[..] else {
            unreachable!()
        };
        let trial = |candidate: &Candidate, us: f64, race: Option<u64>| {
            let blank = Trial::untimed(&problem(), candidate.config.clone(), Stage::Screen, Status::Ok);
            Trial { time_us: Some(Micros(us)), median_us: Some(Micros(us)), race, ..blank }
        };
        let times = |race: Option<u64>| {
            let trials = [
                trial(incumbent, 150.0, race),
                trial(beside, 120.0, Some(1)),
                trial(elsewhere, 90.0, Some(2)),
                trial(alone, 75.0, None),
            ];
            let mut scores = Scores::default();
            scores.add(incumbent, Micros(100.0));
            scores.note_race(Micros(100.0), incumbent, &[beside, elsewhere, alone, failed], &trials);
            [incumbent, beside, elsewhere, alone, failed].map(|candidate| scores.of(candidate).map(|time| time.0))
        };
        assert_eq!(times(Some(1)), [Some(100.0), Some(80.0), Some(90.0), Some(75.0), None]);
        assert_eq!(times(None), [Some(100.0), Some(120.0), Some(90.0), Some(75.0), None]);
    }

    #[test]
    fn slow_configs_race_with_the_best_so_far_and_a_falling_clock_misleads_nobody() {
        let mut bench = Formula::new(|config| bowl(config).map(|time| 40.0 * time));
        let best = finalists(run(&mut bench, &roughly(by_tile), &[]));
        assert_eq!(best[0].time(), Some(Micros(400.0)));
        let best_of = |batch: &[Config]| batch.iter().map(|config| bowl(config).unwrap()).fold(f64::INFINITY, f64::min);
        for pair in bench.screened.windows(2) {
            assert!(bowl(&pair[1][0]).unwrap() <= best_of(&pair[0]), "the incumbent is the best so far");
            assert!(pair[0].len() <= BATCH + 1);
        }
        assert!(bench.screened.len() >= 3);
    }

    #[test]
    fn an_exhaustive_search_tries_every_candidate_once_and_the_best_again() {
        let mut bench = Formula::new(bowl);
        let candidates: Vec<Candidate> = space().iter().map(candidate).collect();
        let best = finalists(exhaust(&mut bench, Family::Matmul, &candidates, &[], &Width::GUIDED));
        assert_eq!(best[0].time(), Some(Micros(10.0)));
        assert_eq!(bench.trials, candidates.len() + EXHAUSTIVE_SURVIVORS);
        assert_eq!(bench.race_plan, Some(RacePlan::FINAL.longer(4)), "the best of many is in part the luckiest");
    }

    #[test]
    fn a_search_ends_in_a_whole_final_of_as_many_as_it_is_wide() {
        for finalists in [1, 2, 8] {
            let width = Width { finalists, siblings: usize::MAX, ..Width::WIDE };
            let mut bench = Formula::new(bowl);
            search(&mut bench, &problem(), &roughly(by_tile), &[], (&width, 7), &candidate).unwrap();
            assert_eq!((bench.raced.len(), bench.race_plan), (finalists, Some(RacePlan::FINAL)));
            // The best of them all is an anchor, as the best of its kind.
            assert_eq!(bench.raced.iter().filter(|(_, anchor)| *anchor).count(), 1);
        }
    }

    #[test]
    fn what_is_near_the_best_is_tried_as_often_as_the_width_says() {
        let tried = |neighbours| {
            let width = Width { neighbours, random: 0, ..Width::GUIDED };
            let mut bench = Formula::new(bowl);
            search(&mut bench, &problem(), &roughly(by_tile), &[], (&width, 7), &candidate).unwrap();
            bench.trials
        };
        assert_eq!([0, 1, 6].map(tried), [0, 1, 6].map(|neighbours| Width::GUIDED.promising + neighbours));
    }

    #[test]
    fn rounds_go_on_for_as_long_as_something_better_is_near() {
        // One tile alone is known at first; of the seven others, four are tried a round, the smallest first.
        let mut order = roughly(by_tile);
        let first = order.configs[0].clone();
        order.configs.retain(|config| {
            let blocks = first.block_sizes.clone();
            Config { block_sizes: blocks, ..config.clone() } == first
        });
        order.configs.sort_by_key(|config| config.block_sizes[0]);
        let best_of = |rounds| {
            let width = Width { promising: 1, random: 0, neighbours: 4, rounds, ..Width::GUIDED };
            let mut bench = Formula::new(|config| Some(1e3 / f64::from(config.block_sizes[0])));
            search(&mut bench, &problem(), &order, &[], (&width, 7), &candidate).unwrap();
            (bench.raced.iter().map(|(config, _)| config.block_sizes[0]).max().unwrap(), bench.trials)
        };
        assert!(best_of(1).0 < 1024 && best_of(10).0 == 1024, "{:?} {:?}", best_of(1), best_of(10));
        assert_eq!(best_of(10), best_of(100), "nothing better is left");
    }

    #[test]
    fn defaults_and_the_best_of_each_instruction_are_anchors_however_slow() {
        let mut order = roughly(by_tile);
        for config in &mut order.configs {
            config.mma = Some(if config.block_sizes[0] <= 64 { Mma::MmaSync } else { Mma::Wgmma });
        }
        let default = order.configs.last().unwrap().clone();
        let mut bench = Formula::new(bowl);
        let width = Width { finalists: 2, ..Width::GUIDED };
        let must_race = std::slice::from_ref(&default);
        search(&mut bench, &problem(), &order, must_race, (&width, 7), &candidate).unwrap();
        let anchors: Vec<&Config> =
            bench.raced.iter().filter(|(_, anchor)| *anchor).map(|(config, _)| config).collect();
        assert!(anchors.contains(&&default));
        let kinds: BTreeSet<_> = anchors.iter().map(|config| config.mma).collect();
        assert_eq!(kinds, [Some(Mma::MmaSync), Some(Mma::Wgmma)].into());
        assert!(bench.raced.len() <= 5, "{:?}", bench.raced);
    }

    #[test]
    fn a_crossing_is_anchored_to_the_best_each_kind_and_what_is_required() {
        let trial = |block: u32, mma: Mma| {
            let config = Config { block_sizes: vec![block], mma: Some(mma), ..Config::default() };
            Trial::untimed(&problem(), config, Stage::Final, Status::Ok)
        };
        let finalists: Vec<Trial> =
            (0..6).map(|block| trial(block, if block == 4 { Mma::MmaSync } else { Mma::Wgmma })).collect();
        let blocks = |required: &[Config]| -> Vec<u32> {
            anchors(&finalists, required).iter().map(|config| config.block_sizes[0]).collect()
        };
        assert_eq!(blocks(&[]), [0, 1, 2, 4]);
        assert_eq!(blocks(&[finalists[5].config.clone()]), [0, 1, 2, 4, 5]);
    }

    #[test]
    fn the_winner_comes_first_then_the_fastest_and_last_what_has_no_time() {
        let bench = Formula::new(|config| (config.block_sizes[0] < 40).then_some(f64::from(config.block_sizes[0])));
        let timed = |block: u32| {
            let config = Config { block_sizes: vec![block], ..Config::default() };
            bench.record(&candidate(&config), Stage::Final)
        };
        let mut trials = [40, 30, 20, 10].map(timed);
        sort_by_time(&mut trials, &timed(20).config);
        assert_eq!(trials.map(|trial| trial.config.block_sizes[0]), [20, 10, 30, 40]);
    }

    #[test]
    fn where_nothing_works_nothing_races() {
        let mut bench = Formula::new(|_| None);
        assert_eq!(finalists(run(&mut bench, &roughly(by_tile), &[])), []);
        assert_eq!(bench.raced.len(), 0);
    }
}
