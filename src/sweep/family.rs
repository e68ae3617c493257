//! One family's sweep: search every problem, race on it what others found, and make of it all what the document says.

use super::ahead::Ahead;
use super::bench::{DeviceBench, Turn};
use super::lab::{Counts, Lab, problem_seed};
use super::options::Options;
use super::schedule::{self, Stages};
use super::summary::{FamilySummary, Winner};
use crate::derive::{NOISE_FLOOR, pair, timing_of};
use crate::device::Found;
use crate::error::{Error, ErrorKind, Result};
use crate::heuristics::{Document, Heuristics, group_of};
use crate::journal::{Stage, Trial};
use crate::model::{Config, Family, GpuProfile, Problem};
use crate::paths::GpuFolder;
use crate::plan::{self, Plan};
use crate::process;
use crate::search::{self, Guide, RaceOutcome, Width};
use crate::site::{Progress, Site};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a family's sweep came to.
pub(super) struct Swept {
    pub(super) summary: FamilySummary,
    pub(super) counts: Counts,
}

/// Sweeps one family within the budget. `previous` is the document before the sweep: what it serves races again.
pub(super) fn sweep_family(
    site: &Site,
    options: &Options,
    plan: &Plan,
    previous: Option<&Previous>,
    budget: Option<Duration>,
) -> Result<Swept> {
    let started = Instant::now();
    let (profile, progress) = (&site.found().profile, &site.progress);
    let problems = ordered_problems(options, plan, profile)?;
    let path = site.folder.journal(plan.family, options.site.shard);
    let journal = site.journal(&path, options.fresh)?;
    let defaults = plan.defaults(profile);
    let mut defenders = served_configs(previous, &problems);
    defenders.retain(|config| !defaults.contains(config));
    let mut lab = Lab::new(site, options.seed, defenders, journal);
    lab.clock.deadlines.trial = options.trial_deadline;
    progress.family(plan.family, problems.len());
    let earlier = previous.and_then(|previous| previous.document.models.get(plan.family.name()));
    let guide = Guide::new(plan, profile, earlier);
    let (open, finals, left) = (problems.clone(), BTreeMap::new(), Left::default());
    let mut sweep =
        FamilySweep { started, site, options, plan, lab: &lab, guide: &guide, previous, open, finals, left };
    sweep.take_over_finals()?;
    if !sweep.open.is_empty() {
        guide.learn(&lab.memory.observations())?;
        if let Some(prior) = guide.prior() {
            progress.say(&format!("{} on {}: {prior}", plan.family, profile.name));
        }
    }
    schedule::run(&mut sweep, budget)?;

    let FamilySweep { finals, left, .. } = sweep;
    let left = left.problems.into_inner().unwrap_or_else(PoisonError::into_inner);
    let counts = lab.finish();
    let mut summary = FamilySummary { problems: problems.len(), ..FamilySummary::default() };
    for problem in &problems {
        let cut = counts.out_of_time.contains(problem) || left.contains_key(problem);
        summary.unfinished += usize::from(cut);
        match finals.get(problem) {
            Some(trials) => summary.winners.push(winner(trials, &defaults, served_config(previous, problem).as_ref())),
            None if cut => {}
            None => summary.unworkable.push(problem.to_string()),
        }
    }
    summary.left = left.into_iter().map(|(problem, why)| format!("{problem}: {why}")).collect();
    Ok(Swept { summary, counts })
}

/// The document before the sweep.
pub(super) struct Previous {
    pub(super) document: Document,
    /// What it serves.
    heuristics: Heuristics,
}

impl Previous {
    pub(super) fn new(document: Document) -> Self {
        Self { heuristics: Heuristics::new(document.clone()), document }
    }
}

/// So many problems one after the other that the machine kept from being measured end the sweep.
const MOST_LEFT: usize = 3;

/// Problems that are left to the next run, for no fault of a config.
#[derive(Default)]
struct Left {
    /// Why each is.
    problems: Mutex<BTreeMap<Problem, String>>,
    /// How many there were since the last that was not.
    in_a_row: AtomicUsize,
}

impl Left {
    /// Leaves a problem, unless so many were left before it.
    fn leave(&self, problem: &Problem, why: &str, progress: &Progress) -> Result<()> {
        progress.warn(&format!("{problem} is left to the next run, no config is blamed: {why}"));
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).insert(*problem, why.to_owned());
        if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 < MOST_LEFT {
            return Ok(());
        }
        Err(Error::failure(format!(
            "the machine is in trouble: {MOST_LEFT} problems in a row could not be measured, the last for: {why}; everything \
             measured is in the journal, and the same command goes on"
        )))
    }
}

/// One family's sweep under way.
struct FamilySweep<'s, 'a> {
    started: Instant,
    site: &'a Site,
    options: &'s Options,
    plan: &'s Plan,
    lab: &'s Lab<'a>,
    guide: &'s Guide<'s>,
    previous: Option<&'s Previous>,
    /// Problems that are still to be searched.
    open: Vec<Problem>,
    /// The finalists of those that were, the winner first.
    finals: BTreeMap<Problem, Vec<Trial>>,
    left: Left,
}

impl Stages for FamilySweep<'_, '_> {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn search(&mut self, until: Option<Duration>) -> Result<bool> {
        self.lab.clock.set_end(until.map(|until| self.started + until));
        self.lab.clock.forget_out_of_time();
        let finals = Mutex::new(std::mem::take(&mut self.finals));
        let must_race = |problem: &Problem| self.must_race(problem);
        let ahead = Ahead::new(self.lab, self.guide, &self.open, &must_race, Width::of);
        let still_to_come = AtomicUsize::new(self.open.len());
        let benches = self.site.devices.iter().map(|device| self.lab.benches_on(device)).sum();
        let work = |bench: &mut DeviceBench<'_, '_>, problem: &Problem| {
            let others = still_to_come.fetch_sub(1, Ordering::Relaxed) - 1;
            let searched = self.search_one(bench, problem, &ahead, (others, benches));
            self.lab.clock.leave(problem);
            self.lab.expect_no_more_of(problem);
            let left = match searched {
                Ok(RaceOutcome::Done(trials)) => {
                    if let Some(best) = trials.first() {
                        self.site.progress.best(best);
                        finals.lock().unwrap_or_else(PoisonError::into_inner).insert(*problem, trials);
                    }
                    None
                }
                Ok(RaceOutcome::OutOfTime) => None,
                Ok(RaceOutcome::Crashed(why)) => {
                    Some(format!("its final crashed, though each config works alone: {why}"))
                }
                Err(trouble) if trouble.kind() == ErrorKind::Trouble => Some(trouble.to_string()),
                Err(error) => return Err(error),
            };
            if let Some(why) = left {
                return self.left.leave(problem, &why, &self.site.progress);
            }
            self.left.in_a_row.store(0, Ordering::Relaxed);
            Ok(())
        };
        ahead.beside_and_learning(|| on_all_devices(self.lab, &self.site.devices, &self.open, work))?;
        self.finals = finals.into_inner().unwrap_or_else(PoisonError::into_inner);
        let out_of_time = self.lab.clock.out_of_time();
        self.open.retain(|problem| out_of_time.contains(problem));
        self.site.progress.more(self.open.len());
        Ok(!self.open.is_empty())
    }

    fn cross(&mut self, until: Option<Duration>) -> Result<()> {
        self.lab.clock.set_end(until.map(|until| self.started + until));
        let others = finals_of_other_shards(&self.site.folder, self.options.site.shard, self.plan.family)?;
        let all = self.finals.iter().chain(&others).map(|(problem, trials)| (*problem, trials.clone()));
        let crossings = search::crossings(&all.collect());
        // A journal that was whole before stays as it is.
        if !self.lab.has_measured() {
            return self.race_on_others(crossings);
        }
        // Models serve most shapes, so what they would choose comes first, and again when they have learnt from what that and the
        // crossings came to.
        self.race_on_others(self.guide.held_out_choices(&self.lab.memory.observations())?)?;
        self.race_on_others(crossings)?;
        self.race_on_others(self.guide.held_out_choices(&self.lab.memory.observations())?)
    }
}

impl FamilySweep<'_, '_> {
    /// Races configs on problems that did not choose them for their finals.
    fn race_on_others(&self, mut wanted: Vec<(Problem, Vec<Config>)>) -> Result<()> {
        wanted.retain(|(problem, _)| self.finals.contains_key(problem));
        for (problem, configs) in &wanted {
            self.lab.compile_ahead(problem, configs.iter().cloned())?;
        }
        self.site.progress.more(wanted.len());
        on_all_devices(self.lab, &self.site.devices, &wanted, |bench, (problem, configs)| {
            bench.turn_to(*problem);
            match bench.cross(configs, &search::anchors(&self.finals[problem], &self.must_race(problem))) {
                Err(trouble) if trouble.kind() == ErrorKind::Trouble => {
                    self.left.leave(problem, &trouble.to_string(), &self.site.progress)
                }
                crossed => crossed,
            }
        })
    }

    /// Takes the finals that stand from the journal: their problems need no search. An exhaustive one asks for more than a guided
    /// one has measured, and looks for itself.
    fn take_over_finals(&mut self) -> Result<()> {
        if self.options.exhaustive {
            return Ok(());
        }
        for problem in std::mem::take(&mut self.open) {
            match self.lab.memory.recall_final(&problem, &self.must_race(&problem))? {
                Some(trials) if !trials.is_empty() && self.lab.memory.unsettled(&problem)?.is_empty() => {
                    self.finals.insert(problem, trials);
                    self.site.progress.step();
                }
                _ => self.open.push(problem),
            }
        }
        Ok(())
    }

    /// What races whatever it costs: the defaults, and what is served.
    fn must_race(&self, problem: &Problem) -> Vec<Config> {
        let mut must_race = self.plan.defaults(&self.site.found().profile);
        must_race.extend(served_config(self.previous, problem).filter(|served| !must_race.contains(served)));
        must_race
    }

    /// The finalists of one problem, the winner first; none where nothing works. So many are still to come, which so many benches share.
    fn search_one(
        &self,
        bench: &mut DeviceBench<'_, '_>,
        problem: &Problem,
        ahead: &Ahead<'_, '_, '_>,
        (still_to_come, benches): (usize, usize),
    ) -> Result<RaceOutcome> {
        if !bench.has_time(problem)? {
            return Ok(RaceOutcome::OutOfTime);
        }
        bench.turn_to(*problem);
        let profile = &self.site.found().profile;
        let must_race = self.must_race(problem);
        if self.options.exhaustive {
            let candidates = self.plan.candidates(problem, profile);
            return search::exhaust(bench, problem.family, &candidates, &must_race, &Width::GUIDED);
        }
        // A final that stands but for what may have passed since is run again where something did.
        if let Some(trials) = self.lab.memory.recall_final(problem, &must_race)?.filter(|trials| !trials.is_empty())
            && !bench.retry(&self.lab.memory.unsettled(problem)?)?
        {
            return Ok(RaceOutcome::Done(trials));
        }
        // What the first of a family wait for, its processes and compilers, is not taken from their time.
        bench.get_ready(must_race.first())?;
        self.lab.clock.begin(problem, still_to_come, benches);
        self.lab.hurry();
        ahead.search(bench, problem, &must_race)
    }
}

/// The problems of this shard, so ordered that a run cut short has met every fallback group.
fn ordered_problems(options: &Options, plan: &Plan, profile: &GpuProfile) -> Result<Vec<Problem>> {
    let (index, count) = options.site.shard;
    let mut seen = BTreeSet::new();
    let problems = plan.problems(profile)?.iter().map(|planned| planned.problem);
    let distinct = problems.filter(|problem| seen.insert(*problem));
    let mut by_group: BTreeMap<&str, Vec<Problem>> = BTreeMap::new();
    for problem in plan::shard(distinct, index, count) {
        by_group.entry(group_of(&problem)).or_default().push(problem);
    }
    // A plan lists like problems side by side, and random ones last: in another order the first tell more of the rest.
    for problems in by_group.values_mut() {
        problems.sort_by_cached_key(|problem| problem_seed(0, problem));
    }
    let mut numbered: Vec<(usize, &str, Problem)> = by_group
        .into_iter()
        .flat_map(|(group, problems)| {
            problems.into_iter().enumerate().map(move |(turn, problem)| (turn, group, problem))
        })
        .collect();
    numbered.sort_by_key(|(turn, group, _)| (*turn, *group));
    Ok(numbered.into_iter().map(|(_, _, problem)| problem).collect())
}

/// The finals that the other shards have journaled by now, best first. A shard that runs once more when all are done
/// crosses its problems with all finalists there are.
fn finals_of_other_shards(
    folder: &GpuFolder,
    (own, count): (usize, usize),
    family: Family,
) -> Result<BTreeMap<Problem, Vec<Trial>>> {
    let mut finals: BTreeMap<Problem, Vec<Trial>> = BTreeMap::new();
    for index in (0..count).filter(|index| *index != own) {
        let path = folder.journal(family, (index, count));
        if path.is_file() {
            let trials = crate::journal::read(&path)?.trials.into_iter();
            for trial in trials.filter(|trial| trial.stage == Stage::Final && trial.time().is_some()) {
                finals.entry(trial.problem()).or_default().push(trial);
            }
        }
    }
    for trials in finals.values_mut() {
        let last = trials.iter().filter_map(|trial| trial.race).max();
        let winner = trials.iter().find(|trial| trial.null_arm && trial.race == last).map(|trial| trial.config.clone());
        trials.retain(|trial| trial.race == last && !trial.null_arm);
        search::sort_by_time(trials, &winner.unwrap_or_default());
    }
    Ok(finals)
}

/// Hands the tasks out to the devices as they come free.
pub(crate) fn on_all_devices<T: Sync>(
    lab: &Lab<'_>,
    devices: &[Found],
    tasks: &[T],
    work: impl Fn(&mut DeviceBench<'_, '_>, &T) -> Result<()> + Sync,
) -> Result<()> {
    let turns: Vec<Turn> = devices.iter().map(|_| Turn::default()).collect();
    let next = AtomicUsize::new(0);
    let work_on = |found: &Found, turn: &Turn| {
        let ended = process::caught("a device's thread", || {
            let mut bench = DeviceBench::new(lab, found, turn)?;
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(&mut bench, task)?;
                lab.site.progress.step();
            }
            bench.leave();
            Ok(())
        });
        if ended.is_err() {
            next.store(tasks.len(), Ordering::Relaxed); // the others end too
        }
        ended
    };
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let work_on = &work_on;
        let devices = devices.iter().zip(&turns);
        let benches = devices.flat_map(|device| std::iter::repeat_n(device, lab.benches_on(device.0)));
        let start = |(found, turn)| process::spawn_in(scope, "a device's thread", move || work_on(found, turn));
        let threads: Vec<_> = benches.map(start).collect();
        threads.into_iter().map(|thread| thread.and_then(process::join)).collect()
    });
    outcomes.into_iter().collect()
}

/// What the document before would serve on these problems: its winners defend their place in every final.
fn served_configs(previous: Option<&Previous>, problems: &[Problem]) -> Vec<Config> {
    let mut configs: Vec<Config> = Vec::new();
    for config in problems.iter().filter_map(|problem| served_config(previous, problem)) {
        if !configs.contains(&config) {
            configs.push(config);
        }
    }
    configs
}

fn served_config(previous: Option<&Previous>, problem: &Problem) -> Option<Config> {
    let template = previous?.heuristics.lookup_problem(problem).best().cloned()?;
    serde_json::from_value(template.into()).ok()
}

fn winner(trials: &[Trial], defaults: &[Config], served: Option<&Config>) -> Winner {
    let best = &trials[0];
    let default = trials.iter().find(|trial| defaults.contains(&trial.config));
    let default_ratio = default.and_then(|default| Some(default.time()?.0 / best.time()?.0));
    let served = served.and_then(|served| trials.iter().find(|trial| trial.config == *served));
    let served_ratio = served.map(|served| pair(&timing_of(served), &timing_of(best), NOISE_FLOOR).ratio);
    Winner { trial: Trial { rounds_us: Vec::new(), ..best.clone() }, default_ratio, served_ratio }
}
