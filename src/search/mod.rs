//! The search on one problem: screen every kernel, refine the launch knobs of the survivors, let the best race. Decisions
//! alone; a [`Bench`] does the measuring, so that a fake one can test them.

mod cross;

pub use cross::crossings;

use crate::error::Result;
use crate::families::{self, KernelSpec, Launch};
use crate::journal::{Stage, Trial};
use crate::measure::{DurationClass, RacePlan, Sampling};
use crate::model::{Config, Family, Micros, Mma};
use crate::plan::Candidate;
use std::collections::{BTreeMap, BTreeSet};

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
    /// Kernels whose launch knobs are refined.
    pub survivors: usize,
    /// Configs in the final, beside the defaults and last time's winner.
    pub finalists: usize,
    /// Finalists that share one kernel: they tell little of each other, and other problems may want another kernel.
    pub siblings: usize,
    /// Screening gives up on a config this many times slower than the best so far.
    pub abandon_factor: f64,
}

impl Default for Width {
    fn default() -> Self {
        Self { survivors: 6, finalists: 8, siblings: 3, abandon_factor: 2.0 }
    }
}

/// Searches the candidates of one problem. `must_race` are configs that belong in the final whatever they cost: the
/// defaults and last time's winner. Of finalists the winner comes first; there are none where nothing works.
///
/// # Errors
/// Where the bench fails, which is never a config's doing.
pub fn search(
    bench: &mut dyn Bench,
    family: Family,
    candidates: &[Candidate],
    multiprocessors: u32,
    must_race: &[Config],
    width: &Width,
) -> Result<RaceOutcome> {
    let variants = variants(candidates);
    record_rejected(bench, family, candidates, &variants)?;
    let mut scores = Scores::default();
    let screened = variants.iter().flat_map(|variant| representatives(variant, multiprocessors));
    if !scores.try_all(bench, screened, Stage::Screen, width)? {
        return Ok(RaceOutcome::OutOfTime);
    }
    for variant in survivors(&variants, &scores, width.survivors) {
        if !refine(bench, variant, &mut scores, width)? {
            return Ok(RaceOutcome::OutOfTime);
        }
    }
    race(bench, family, candidates, must_race, &scores, width, &RacePlan::FINAL)
}

/// Candidates of an exhaustive search that are sampled more often once all are screened.
const EXHAUSTIVE_SURVIVORS: usize = 64;
/// How many times the rounds of a staged search's final its final has: enough to choose the best by half of them and judge by
/// the others, as the best of many is in part the luckiest.
const EXHAUSTIVE_ROUNDS: u32 = 4;

/// The same in one stage: screens every candidate that can run, samples the best of them again, and lets the best race.
/// What the staged search is measured against.
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
    record_rejected(bench, family, candidates, &variants(candidates))?;
    let mut scores = Scores::default();
    let legal = candidates.iter().filter(|candidate| candidate.program.is_ok());
    if !scores.try_all(bench, legal, Stage::Screen, width)? {
        return Ok(RaceOutcome::OutOfTime);
    }
    let best = scores.ranked(candidates).into_iter().take(EXHAUSTIVE_SURVIVORS).map(|(_, candidate)| candidate);
    if !scores.try_all(bench, best, Stage::Refine, width)? {
        return Ok(RaceOutcome::OutOfTime);
    }
    race(bench, family, candidates, must_race, &scores, width, &RacePlan::FINAL.longer(EXHAUSTIVE_ROUNDS))
}

/// The candidates that share one compiled kernel; host kernels are each their own. Of those with the same launch it is the most
/// [`open`] one, which other problems may be served well by, else the first.
fn variants(candidates: &[Candidate]) -> Vec<Vec<&Candidate>> {
    let mut order: Vec<Vec<&Candidate>> = Vec::new();
    let mut places: BTreeMap<&KernelSpec, usize> = BTreeMap::new();
    for candidate in candidates {
        match &candidate.program {
            Ok(Some((kernel, launch))) => {
                let place = *places.entry(kernel).or_insert(order.len());
                if place == order.len() {
                    order.push(Vec::new());
                }
                let same = |other: &&mut &Candidate| matches!(&other.program, Ok(Some((_, other))) if other == launch);
                match order[place].iter_mut().find(same) {
                    None => order[place].push(candidate),
                    Some(other) if open(&candidate.config) > open(&other.config) => *other = candidate,
                    Some(_) => {}
                }
            }
            Ok(None) => order.push(vec![candidate]),
            Err(_) => {}
        }
    }
    order
}

/// How much a config leaves to the launch: knobs it does not name, then the size of its tile, of which small problems take less.
fn open(config: &Config) -> (usize, &[u32]) {
    let left = [config.split_k.is_none(), config.l2_groupings.is_empty()];
    (left.into_iter().filter(|left| *left).count(), &config.block_sizes)
}

fn record_rejected(
    bench: &mut dyn Bench,
    family: Family,
    candidates: &[Candidate],
    legal: &[Vec<&Candidate>],
) -> Result<()> {
    rejected_variants(family, candidates, legal).into_iter().try_for_each(|rejected| bench.pruned(rejected))
}

/// One candidate for each set of compile-time knobs that cannot be launched at all.
fn rejected_variants<'a>(family: Family, candidates: &'a [Candidate], legal: &[Vec<&Candidate>]) -> Vec<&'a Candidate> {
    let half = |candidate: &Candidate| families::spec(family).compiled_half(&candidate.config);
    let mut seen: BTreeSet<Config> = legal.iter().flatten().map(|candidate| half(candidate)).collect();
    let rejected = candidates.iter().filter(|candidate| candidate.program.is_err());
    rejected.filter(|candidate| seen.insert(half(candidate))).collect()
}

fn blocks(candidate: &Candidate) -> u64 {
    match &candidate.program {
        Ok(Some((_, Launch { grid, .. }))) => grid.iter().map(|extent| u64::from(*extent)).product(),
        _ => 0,
    }
}

/// The launches a kernel is screened with: program order and grouping of the first candidate (the axes list the usual
/// one first), with the split that the launch chooses by itself; where it does not, once with the fewest programs and once
/// with just enough to fill the GPU.
fn representatives<'a>(variant: &[&'a Candidate], multiprocessors: u32) -> Vec<&'a Candidate> {
    let Some(first) = variant.first() else { return Vec::new() };
    let mut by_size: Vec<_> =
        variant.iter().copied().filter(|candidate| differing(&first.config, &candidate.config) & !SPLIT == 0).collect();
    if let Some(chooses) = by_size.iter().find(|candidate| candidate.config.split_k.is_none()) {
        return vec![chooses];
    }
    by_size.sort_by_key(|candidate| blocks(candidate));
    let fills = by_size.iter().copied().find(|candidate| blocks(candidate) >= u64::from(multiprocessors));
    let fewest = by_size.first().copied();
    let mut chosen: Vec<&Candidate> = fewest.into_iter().chain(fills.or(by_size.last().copied())).collect();
    chosen.dedup_by_key(|candidate| &candidate.config);
    chosen
}

/// The launch knobs, in the order they are refined. Program order and multiplier depend on each other.
const SPLIT: u8 = 1;
const ORDER: u8 = 2;
const GROUPING: u8 = 4;

/// Which launch knobs two configs of one kernel differ in.
fn differing(one: &Config, other: &Config) -> u8 {
    let order = (one.pid_type, one.num_sm_multiplier) != (other.pid_type, other.num_sm_multiplier);
    u8::from(one.split_k != other.split_k) * SPLIT
        + u8::from(order) * ORDER
        + u8::from(one.l2_groupings != other.l2_groupings) * GROUPING
}

/// Walks along each launch knob in turn from the variant's best, and stays where it is fastest.
fn refine<'a>(
    bench: &mut dyn Bench,
    variant: &[&'a Candidate],
    scores: &mut Scores<'a>,
    width: &Width,
) -> Result<bool> {
    for knob in [SPLIT, ORDER, GROUPING] {
        let Some(here) = scores.best_of(variant).map(|candidate| candidate.config.clone()) else { return Ok(true) };
        let along = variant.iter().copied().filter(|candidate| differing(&here, &candidate.config) == knob);
        if !scores.try_all(bench, along, Stage::Refine, width)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What a screening time may be off by from one run to the next, in nine of ten.
const SCREEN_NOISE: f64 = 0.02;

/// The fastest `count` variants, and up to half as many more that screening cannot tell from the last of them.
fn survivors<'a, 'b>(
    variants: &'b [Vec<&'a Candidate>],
    scores: &Scores<'a>,
    count: usize,
) -> Vec<&'b Vec<&'a Candidate>> {
    let mut ranked: Vec<_> =
        variants.iter().filter_map(|variant| Some((scores.of(scores.best_of(variant)?)?, variant))).collect();
    ranked.sort_by(|one, other| one.0.0.total_cmp(&other.0.0));
    let last = ranked.get(count.saturating_sub(1)).map_or(f64::INFINITY, |(last, _)| last.0 * (1.0 + SCREEN_NOISE));
    let survive = ranked.into_iter().take(count + count / 2).take_while(|(time, _)| time.0 <= last);
    survive.map(|(_, variant)| variant).collect()
}

fn race<'a>(
    bench: &mut dyn Bench,
    family: Family,
    candidates: &'a [Candidate],
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
    let is_anchor = |candidate: &Candidate| must_race.contains(&candidate.config) && candidate.program.is_ok();
    let required = candidates.iter().filter(|candidate| is_anchor(candidate));
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
        let mut candidates = candidates.into_iter().peekable();
        while candidates.peek().is_some() {
            if let Some((best, incumbent)) =
                self.best.filter(|(best, _)| DurationClass::of(*best) == DurationClass::Slow)
            {
                self.note_all(bench, &mut queued)?;
                let batch: Vec<&Candidate> =
                    candidates.by_ref().filter(|candidate| candidate.config != incumbent.config).take(BATCH).collect();
                let Some(trials) = bench.screen(incumbent, &batch, stage)? else { return Ok(false) };
                self.note_race(best, incumbent, &batch, &trials);
                continue;
            }
            let Some(candidate) = candidates.next() else { break };
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

    /// Those that have a time, fastest first.
    fn ranked(&self, candidates: &'a [Candidate]) -> Vec<(Micros, &'a Candidate)> {
        let mut ranked: Vec<_> =
            candidates.iter().filter_map(|candidate| Some((self.of(candidate)?, candidate))).collect();
        ranked.sort_by(|one, other| one.0.0.total_cmp(&other.0.0));
        ranked
    }

    fn best_of(&self, variant: &[&'a Candidate]) -> Option<&'a Candidate> {
        let timed = variant.iter().filter_map(|candidate| Some((self.of(candidate)?, *candidate)));
        timed.min_by(|one, other| one.0.0.total_cmp(&other.0.0)).map(|(_, candidate)| candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{Arg, Rejection};
    use crate::journal::Status;
    use crate::model::{Bytes, Dtype, PidType, Problem, Shape};
    use std::collections::VecDeque;

    /// Times come from a formula of the config; every measurement is counted.
    struct Formula {
        time: fn(&Config) -> Option<f64>,
        trials: usize,
        queued: VecDeque<Trial>,
        raced: Vec<(Config, bool)>,
        /// Configs of each batch that raced with an incumbent, which comes first.
        screened: Vec<Vec<Config>>,
        pruned: usize,
    }

    impl Formula {
        fn new(time: fn(&Config) -> Option<f64>) -> Self {
            Self { time, trials: 0, queued: VecDeque::new(), raced: Vec::new(), screened: Vec::new(), pruned: 0 }
        }

        fn record(&self, candidate: &Candidate, stage: Stage) -> Trial {
            let time = (self.time)(&candidate.config).map(Micros);
            let problem =
                Problem { family: Family::Matmul, shape: Shape::Gemm { m: 1, n: 1, k: 1 }, dtype: Dtype::Bf16 };
            let status = if time.is_some() { Status::Ok } else { Status::Wrong };
            let blank = Trial::untimed(&problem, candidate.config.clone(), stage, status);
            Trial { time_us: time, median_us: time, q1_us: time, q3_us: time, min_us: time, samples: Some(3), ..blank }
        }
    }

    impl Bench for Formula {
        fn submit(&mut self, candidate: &Candidate, stage: Stage, _: Sampling) -> Result<bool> {
            self.trials += 1;
            self.queued.push_back(self.record(candidate, stage));
            assert!(self.queued.len() <= 2, "one runs and one waits");
            Ok(true)
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

        fn race(&mut self, racers: &[Racer], _: &RacePlan) -> Result<RaceOutcome> {
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

    /// 8 kernels by block size, each with 4 splits, 3 program orders and 2 groupings; 1000 blocks over the split.
    fn space() -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for block in [8, 16, 32, 64, 128, 256, 512, 1024] {
            for split in [1, 2, 4, 8] {
                for pid in PidType::ALL {
                    for group in [1, 8] {
                        let config = Config {
                            block_sizes: vec![block],
                            split_k: Some(split),
                            pid_type: Some(pid),
                            l2_groupings: vec![group],
                            num_sm_multiplier: pid.is_persistent().then_some(1),
                            ..Config::default()
                        };
                        let kernel =
                            KernelSpec { source: "x.cu", entry: "x", macros: vec![("BLOCK", block.to_string())] };
                        let launch = Launch {
                            grid: [1024 / block * split, 1, 1],
                            cluster: 1,
                            threads: 32,
                            dynamic_smem: Bytes(0),
                            args: vec![Arg::I32(group as i32), Arg::I32(pid as i32)],
                            workspace: Bytes(0),
                            counters: 0,
                        };
                        candidates.push(Candidate { config, program: Ok(Some((kernel, launch))) });
                    }
                }
            }
        }
        candidates
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

    #[test]
    fn the_staged_search_finds_the_best_of_the_whole_space_with_a_part_of_the_trials() {
        let mut bench = Formula::new(bowl);
        let space = space();
        let width = Width { survivors: 3, ..Width::default() };
        let best = finalists(search(&mut bench, Family::Matmul, &space, 132, &[], &width));
        assert_eq!(best[0].median_us, Some(Micros(10.0)));
        assert!(bench.trials < space.len() / 3, "{} trials", bench.trials);
    }

    #[test]
    fn slow_configs_race_with_the_best_so_far_and_a_falling_clock_misleads_nobody() {
        let mut bench = Formula::new(|config| bowl(config).map(|time| 40.0 * time));
        let space = space();
        let best = finalists(search(&mut bench, Family::Matmul, &space, 132, &[], &Width::default()));
        assert_eq!(best[0].time(), Some(Micros(400.0)));
        let best_of = |batch: &[Config]| batch.iter().map(|config| bowl(config).unwrap()).fold(f64::INFINITY, f64::min);
        for pair in bench.screened.windows(2) {
            assert!(bowl(&pair[1][0]).unwrap() <= best_of(&pair[0]), "the incumbent is the best so far");
            assert!(pair[0].len() <= BATCH + 1);
        }
        assert!(bench.screened.len() > 3);
    }

    #[test]
    fn an_exhaustive_search_tries_every_candidate_once_and_the_best_again() {
        let mut bench = Formula::new(bowl);
        let space = space();
        let best = finalists(exhaust(&mut bench, Family::Matmul, &space, &[], &Width::default()));
        assert_eq!(best[0].median_us, Some(Micros(10.0)));
        assert_eq!(bench.trials, space.len() + EXHAUSTIVE_SURVIVORS);
    }

    #[test]
    fn of_equal_launches_only_the_one_that_serves_other_problems_too_is_tried() {
        let mut candidates = space();
        let chooses = candidates[0].clone();
        candidates.push(Candidate { config: Config { split_k: None, ..chooses.config }, ..chooses });
        let variant = &variants(&candidates)[0];
        assert_eq!(variant.len(), space().len() / 8);
        assert_eq!(variant[0].config.split_k, None);
        assert_eq!(representatives(variant, 132), [variant[0]]);
    }

    #[test]
    fn defaults_and_the_best_of_each_instruction_are_anchors_however_slow() {
        let mut space = space();
        for candidate in &mut space {
            let is_small = candidate.config.block_sizes[0] <= 16;
            candidate.config.mma = Some(if is_small { Mma::MmaSync } else { Mma::Wgmma });
        }
        let default = space[space.len() - 1].config.clone();
        let mut bench = Formula::new(bowl);
        let width = Width { survivors: 2, finalists: 2, ..Width::default() };
        search(&mut bench, Family::Matmul, &space, 132, std::slice::from_ref(&default), &width).unwrap();
        let anchors: Vec<&Config> =
            bench.raced.iter().filter(|(_, anchor)| *anchor).map(|(config, _)| config).collect();
        assert!(anchors.contains(&&default));
        let kinds: BTreeSet<_> = anchors.iter().map(|config| config.mma).collect();
        assert_eq!(kinds, [Some(Mma::MmaSync), Some(Mma::Wgmma)].into());
        assert_eq!(bench.raced.len(), 4, "{:?}", bench.raced);
    }

    #[test]
    fn a_crossing_is_anchored_to_the_best_each_kind_and_what_is_required() {
        let trial = |block: u32, mma: Mma| {
            let config = Config { block_sizes: vec![block], mma: Some(mma), ..Config::default() };
            let problem =
                Problem { family: Family::Matmul, shape: Shape::Gemm { m: 1, n: 1, k: 1 }, dtype: Dtype::Bf16 };
            Trial::untimed(&problem, config, Stage::Final, Status::Ok)
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
    fn what_screening_cannot_tell_from_the_last_survivor_survives() {
        let candidates = space();
        let variants = variants(&candidates);
        // By block size: 8 is the fastest, each next one slower by so much.
        let kept = |step: f64| {
            let mut scores = Scores::default();
            for (place, variant) in variants.iter().enumerate() {
                scores.add(variant[0], Micros(10.0 * (1.0 + step * place as f64)));
            }
            survivors(&variants, &scores, 4).len()
        };
        assert_eq!((kept(0.05), kept(0.015), kept(0.001)), (4, 5, 6));
    }

    #[test]
    fn where_nothing_works_nothing_races() {
        let mut bench = Formula::new(|_| None);
        assert_eq!(finalists(search(&mut bench, Family::Matmul, &space(), 132, &[], &Width::default())), []);
        assert_eq!(bench.raced.len(), 0);
    }

    #[test]
    fn a_kernel_that_can_never_launch_is_recorded_once() {
        let mut candidates = space();
        for candidate in candidates.iter_mut().filter(|candidate| candidate.config.block_sizes[0] >= 512) {
            candidate.program = Err(Rejection("too large".into()));
        }
        let mut bench = Formula::new(bowl);
        search(&mut bench, Family::Matmul, &candidates, 132, &[], &Width::default()).unwrap();
        assert_eq!(bench.pruned, 2);
    }
}
