//! The search on one problem: screen every kernel, refine the launch knobs of the survivors, let the best race. Decisions
//! alone; a [`Bench`] does the measuring, so that a fake one can test them.

mod cross;

pub use cross::crossings;

use crate::error::Result;
use crate::families::{self, KernelSpec, Launch};
use crate::journal::{Stage, Trial};
use crate::measure::Sampling;
use crate::model::{Config, Family, Micros};
use crate::plan::Candidate;
use std::collections::{BTreeMap, BTreeSet};

/// Measures candidates on one problem. Trials are queued, so that the device has the next one at hand when one is done.
pub trait Bench {
    /// Queues a trial of one candidate; false where the time is up.
    fn submit(&mut self, candidate: &Candidate, stage: Stage, sampling: Sampling) -> Result<bool>;

    /// What the oldest queued trial came to; nothing where none is queued.
    fn next(&mut self) -> Result<Option<Trial>>;

    /// Races candidates in interleaved rounds. The last one is the null arm. Nothing where the time is up.
    fn race(&mut self, candidates: &[&Candidate], rounds: u32) -> Result<Option<Vec<Trial>>>;

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

/// Time a race may take, in microseconds; slow kernels run fewer rounds.
const RACE_BUDGET_US: f64 = 200_000.0;
/// Fewest rounds of a race.
const FEWEST_ROUNDS: f64 = 8.0;
/// Most rounds of a final.
const FINAL_ROUNDS: f64 = 48.0;
/// Most rounds of a race of what other problems chose.
const CROSS_ROUNDS: f64 = 40.0;

/// Searches the candidates of one problem. `must_race` are configs that belong in the final whatever they cost: the
/// defaults and last time's winner. Returns the finalists' trials, best first, or none where nothing works or the time
/// is up.
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
) -> Result<Vec<Trial>> {
    let variants = variants(candidates);
    record_rejected(bench, family, candidates, &variants)?;
    let mut scores = Scores::default();
    let screened = variants.iter().flat_map(|variant| representatives(variant, multiprocessors));
    if !scores.try_all(bench, screened, Stage::Screen, width)? {
        return Ok(Vec::new());
    }
    for variant in survivors(&variants, &scores, width.survivors) {
        if !refine(bench, variant, &mut scores, width)? {
            return Ok(Vec::new());
        }
    }
    race(bench, family, candidates, must_race, &scores, width, 1)
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
) -> Result<Vec<Trial>> {
    record_rejected(bench, family, candidates, &variants(candidates))?;
    let mut scores = Scores::default();
    let legal = candidates.iter().filter(|candidate| candidate.program.is_ok());
    if !scores.try_all(bench, legal, Stage::Screen, width)? {
        return Ok(Vec::new());
    }
    let best = scores.ranked(candidates).into_iter().take(EXHAUSTIVE_SURVIVORS).map(|(_, candidate)| candidate);
    if !scores.try_all(bench, best, Stage::Refine, width)? {
        return Ok(Vec::new());
    }
    race(bench, family, candidates, must_race, &scores, width, EXHAUSTIVE_ROUNDS)
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
fn refine(bench: &mut dyn Bench, variant: &[&Candidate], scores: &mut Scores, width: &Width) -> Result<bool> {
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
fn survivors<'a, 'b>(variants: &'b [Vec<&'a Candidate>], scores: &Scores, count: usize) -> Vec<&'b Vec<&'a Candidate>> {
    let mut ranked: Vec<_> =
        variants.iter().filter_map(|variant| Some((scores.of(scores.best_of(variant)?)?, variant))).collect();
    ranked.sort_by(|one, other| one.0.0.total_cmp(&other.0.0));
    let last = ranked.get(count.saturating_sub(1)).map_or(f64::INFINITY, |(last, _)| last.0 * (1.0 + SCREEN_NOISE));
    let survive = ranked.into_iter().take(count + count / 2).take_while(|(time, _)| time.0 <= last);
    survive.map(|(_, variant)| variant).collect()
}

fn race(
    bench: &mut dyn Bench,
    family: Family,
    candidates: &[Candidate],
    must_race: &[Config],
    scores: &Scores,
    width: &Width,
    rounds_factor: u32,
) -> Result<Vec<Trial>> {
    let ranked = scores.ranked(candidates);
    let Some(&(best_us, winner)) = ranked.first() else { return Ok(Vec::new()) };
    let mut arms: Vec<&Candidate> = Vec::new();
    let half = |candidate: &Candidate| families::spec(family).compiled_half(&candidate.config);
    for (_, candidate) in &ranked {
        let siblings = arms.iter().filter(|arm| half(arm) == half(candidate)).count();
        if arms.len() < width.finalists && siblings < width.siblings {
            arms.push(candidate);
        }
    }
    for candidate in candidates.iter().filter(|candidate| must_race.contains(&candidate.config)) {
        let known = arms.iter().any(|arm| arm.config == candidate.config);
        if !known && candidate.program.is_ok() {
            arms.push(candidate);
        }
    }
    arms.push(winner); // the null arm
    let mut trials = bench.race(&arms, rounds_factor * final_rounds(best_us, arms.len()))?.unwrap_or_default();
    trials.retain(|trial| trial.median_us.is_some());
    sort_by_time(&mut trials);
    Ok(trials)
}

/// The rounds of a final of so many arms, the best of which takes `best_us`.
pub(crate) fn final_rounds(best_us: Micros, arms: usize) -> u32 {
    rounds(best_us, arms, FINAL_ROUNDS)
}

/// The rounds of a race of so many configs that other problems chose, the best of which takes `best_us`.
pub(crate) fn cross_rounds(best_us: Micros, arms: usize) -> u32 {
    rounds(best_us, arms, CROSS_ROUNDS)
}

fn rounds(best_us: Micros, arms: usize, most: f64) -> u32 {
    (RACE_BUDGET_US / (best_us.0 * arms as f64)).clamp(FEWEST_ROUNDS, most) as u32
}

/// Fastest first.
pub(crate) fn sort_by_time(trials: &mut [Trial]) {
    trials.sort_by(|one, other| one.median_us.partial_cmp(&other.median_us).unwrap_or(std::cmp::Ordering::Equal));
}

/// The latest time of each config.
#[derive(Default)]
struct Scores(BTreeMap<Config, Micros>);

impl Scores {
    /// Tries candidates in turn and notes their times; false where the time is up. Each is queued before the one ahead of
    /// it is done, which costs it that one's time as the limit to give up at.
    fn try_all<'a>(
        &mut self,
        bench: &mut dyn Bench,
        candidates: impl IntoIterator<Item = &'a Candidate>,
        stage: Stage,
        width: &Width,
    ) -> Result<bool> {
        let samples = if stage == Stage::Screen { Sampling::SCREEN } else { Sampling::REFINE };
        let mut in_time = true;
        for (index, candidate) in candidates.into_iter().enumerate() {
            in_time = bench.submit(candidate, stage, samples.abandoning(self.best(), width.abandon_factor))?;
            if !in_time {
                break;
            }
            if index > 0 {
                self.note(bench.next()?);
            }
        }
        while self.note(bench.next()?) {}
        Ok(in_time)
    }

    /// Notes the time of a trial that worked; false where there was none.
    fn note(&mut self, trial: Option<Trial>) -> bool {
        let is_trial = trial.is_some();
        if let Some(Trial { config, median_us: Some(median_us), .. }) = trial {
            self.0.insert(config, median_us);
        }
        is_trial
    }

    fn of(&self, candidate: &Candidate) -> Option<Micros> {
        self.0.get(&candidate.config).copied()
    }

    /// Those that have a time, fastest first.
    fn ranked<'a>(&self, candidates: &'a [Candidate]) -> Vec<(Micros, &'a Candidate)> {
        let mut ranked: Vec<_> =
            candidates.iter().filter_map(|candidate| Some((self.of(candidate)?, candidate))).collect();
        ranked.sort_by(|one, other| one.0.0.total_cmp(&other.0.0));
        ranked
    }

    fn best(&self) -> Option<Micros> {
        self.0.values().copied().min_by(|one, other| one.0.total_cmp(&other.0))
    }

    fn best_of<'a>(&self, variant: &[&'a Candidate]) -> Option<&'a Candidate> {
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
        raced: Vec<Config>,
        pruned: usize,
    }

    impl Formula {
        fn new(time: fn(&Config) -> Option<f64>) -> Self {
            Self { time, trials: 0, queued: VecDeque::new(), raced: Vec::new(), pruned: 0 }
        }

        fn record(&self, candidate: &Candidate, stage: Stage) -> Trial {
            let time = (self.time)(&candidate.config).map(Micros);
            let problem =
                Problem { family: Family::Matmul, shape: Shape::Gemm { m: 1, n: 1, k: 1 }, dtype: Dtype::Bf16 };
            let status = if time.is_some() { Status::Ok } else { Status::Wrong };
            let blank = Trial::untimed(&problem, candidate.config.clone(), stage, status);
            Trial { median_us: time, q1_us: time, q3_us: time, min_us: time, samples: Some(3), ..blank }
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

        fn race(&mut self, candidates: &[&Candidate], _: u32) -> Result<Option<Vec<Trial>>> {
            self.raced = candidates.iter().map(|candidate| candidate.config.clone()).collect();
            Ok(Some(candidates.iter().map(|candidate| self.record(candidate, Stage::Final)).collect()))
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
        let best = search(&mut bench, Family::Matmul, &space(), 132, &[], &Width { survivors: 3, ..Width::default() })
            .unwrap();
        assert_eq!(best[0].median_us, Some(Micros(10.0)));
        assert!(bench.trials < space().len() / 3, "{} trials", bench.trials);
    }

    #[test]
    fn an_exhaustive_search_tries_every_candidate_once_and_the_best_again() {
        let mut bench = Formula::new(bowl);
        let best = exhaust(&mut bench, Family::Matmul, &space(), &[], &Width::default()).unwrap();
        assert_eq!(best[0].median_us, Some(Micros(10.0)));
        assert_eq!(bench.trials, space().len() + EXHAUSTIVE_SURVIVORS);
        assert_eq!(bench.raced.first(), bench.raced.last());
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
    fn defaults_race_even_when_slow_and_the_winner_races_twice() {
        let default = space()[0].config.clone();
        let mut bench = Formula::new(bowl);
        search(
            &mut bench,
            Family::Matmul,
            &space(),
            132,
            std::slice::from_ref(&default),
            &Width { survivors: 2, finalists: 2, ..Width::default() },
        )
        .unwrap();
        assert!(bench.raced.contains(&default));
        assert_eq!(bench.raced.first(), bench.raced.last());
    }

    #[test]
    fn what_screening_cannot_tell_from_the_last_survivor_survives() {
        let candidates = space();
        let variants = variants(&candidates);
        // By block size: 8 is the fastest, each next one slower by so much.
        let kept = |step: f64| {
            let mut scores = Scores::default();
            for (place, variant) in variants.iter().enumerate() {
                scores.0.insert(variant[0].config.clone(), Micros(10.0 * (1.0 + step * place as f64)));
            }
            survivors(&variants, &scores, 4).len()
        };
        assert_eq!((kept(0.05), kept(0.015), kept(0.001)), (4, 5, 6));
    }

    #[test]
    fn where_nothing_works_nothing_races() {
        let mut bench = Formula::new(|_| None);
        assert_eq!(search(&mut bench, Family::Matmul, &space(), 132, &[], &Width::default()).unwrap(), []);
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
