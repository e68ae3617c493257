//! One class's measurements as a table of problems by configs: how much longer each takes than the winner of the problem's last
//! final, and noise.

use super::evidence::{ConfigFacts, Evidence, ProblemFacts, Record, Timing, config_text};
use super::noise::{ASSUMED_NOISE, Draw, Level, Noise, joint};
use super::pair::{Pair, lone_noise, raced};
use super::race::{Arm, Race};
use crate::heuristics::{ANCHOR_DIGITS, Template};
use crate::journal::Stage;
use crate::measure::DurationClass;
use crate::model::Micros;
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::f64::consts::FRAC_1_SQRT_2;

/// The least slowdown that a config without a time among finals and cross trials is taken to have: screening abandons
/// what is more than twice as slow as the incumbent, so anything from there up may hide behind a missing time.
pub(super) const MISSING_SLOWDOWN: f64 = 2.0;

/// A config tried on a problem.
#[derive(Clone, Debug)]
pub(super) struct Cell<'e> {
    /// Index in [`Table::configs`].
    pub(super) config: usize,
    /// Logarithm of its slowdown; `None` where it failed or is out of the race, that is, was not in finals or cross
    /// trials of a problem that had some. Below 0 where the winner was lucky.
    pub(super) ln_slowdown: Option<f64>,
    /// It is slower than a default by more than noise.
    pub(super) slower_than_default: bool,
    /// The interleaved rounds behind its ratio to the winner; 0 where there are none.
    pub(super) rounds: usize,
    /// Other work disturbed the device when it was timed.
    pub(super) loaded: bool,
    /// Logarithm of its time over the winner's, of whatever stage; `None` where it failed.
    ln_ratio: Option<f64>,
    /// How far its time may be off by itself: that of a ratio is both of them.
    noise: f64,
    kernel: &'e str,
}

impl Cell<'_> {
    /// Whether it has a time.
    pub(super) fn works(&self) -> bool {
        self.ln_ratio.is_some()
    }
}

/// A problem with the configs tried on it.
#[derive(Debug)]
pub(super) struct Row<'e> {
    pub(super) facts: &'e ProblemFacts,
    /// What won the last final, or is fastest where there was none.
    pub(super) winner: usize,
    /// Its time.
    pub(super) winner_us: f64,
    /// Ratios closer to 1 than this mean nothing on this problem.
    pub(super) noise: f64,
    /// Nor do those, on another occasion; 0 where that is not known.
    pub(super) repeat_noise: f64,
    /// Logarithm of the slowdown a config without one is taken to have: at least [`MISSING_SLOWDOWN`] and no better than
    /// the worst measured.
    pub(super) ln_missing: f64,
    level: Level,
    /// The one that slowdowns refer to first, then the others, the latest first.
    races: Vec<Race<'e>>,
    /// Sorted by config.
    cells: Vec<Cell<'e>>,
}

impl<'e> Row<'e> {
    /// What became of a config on this problem, if it was tried.
    pub(super) fn cell(&self, config: usize) -> Option<&Cell<'e>> {
        self.cells.binary_search_by_key(&config, |cell| cell.config).ok().map(|index| &self.cells[index])
    }

    /// Every config tried.
    pub(super) fn cells(&self) -> &[Cell<'e>] {
        &self.cells
    }

    /// A config's slowdown, if it was in the race and works.
    pub(super) fn slowdown(&self, config: usize) -> Option<f64> {
        self.cell(config)?.ln_slowdown.map(f64::exp)
    }

    /// A config's time, of whatever stage, as it would have been in the last final.
    pub(super) fn time_us(&self, config: usize) -> Option<f64> {
        Some(self.winner_us * self.cell(config)?.ln_ratio?.exp())
    }

    /// Whether its configs raced in a final.
    pub(super) fn had_final(&self) -> bool {
        self.races.iter().any(|race| race.stage == Stage::Final)
    }

    /// Whether a config ran in a final.
    pub(super) fn is_finalist(&self, config: usize) -> bool {
        self.races.iter().any(|race| race.stage == Stage::Final && race.arm(config).is_some())
    }

    /// How far a config's slowdown may be off.
    pub(super) fn noise_of(&self, config: usize) -> f64 {
        let noise = |config| self.cell(config).map(|cell| cell.noise);
        noise(config).zip(noise(self.winner)).map_or(self.noise, |(one, other)| one.hypot(other).max(self.noise))
    }

    /// The kernel a config ran as.
    pub(super) fn kernel(&self, config: usize) -> Option<&'e str> {
        self.cell(config).map(|cell| cell.kernel)
    }

    /// The arms of the last final that ran all of its rounds; none where there was no final.
    pub(super) fn lasting(&self) -> impl Iterator<Item = &Arm<'e>> {
        self.races.first().filter(|race| race.stage == Stage::Final).into_iter().flat_map(Race::lasting)
    }

    /// Time of one config over that of another: by the rounds of a race that both ran in, else by what either takes beside the
    /// last final's winner. Nothing where one of them failed.
    pub(super) fn compare(&self, first: &Cell, second: &Cell) -> Option<Pair> {
        let ln_ratio = first.ln_ratio? - second.ln_ratio?;
        let together = self.races.iter().find_map(|race| {
            let (first, second) = race.arm(first.config).zip(race.arm(second.config))?;
            raced(first.timing, second.timing)
        });
        Some(match together {
            Some((ln_ratio, rounds)) => Pair { ratio: ln_ratio.exp(), noise: self.level.of_ratio(rounds), rounds },
            None => Pair {
                ratio: ln_ratio.exp(),
                noise: first.noise.hypot(second.noise),
                rounds: first.rounds.min(second.rounds),
            },
        })
    }
}

/// One class's measurements.
#[derive(Debug)]
pub(super) struct Table<'e> {
    pub(super) class: &'e str,
    /// In the fixed order that breaks ties.
    pub(super) configs: Vec<&'e ConfigFacts>,
    /// Problems with at least one working config, sorted by dimensions and name.
    pub(super) rows: Vec<Row<'e>>,
    /// Problems whose trials all failed, likewise.
    pub(super) unworkable: Vec<&'e ProblemFacts>,
    /// Trials there were.
    pub(super) trials: usize,
    /// Hash over the trials that count.
    pub(super) measurement: String,
    /// Defaults, by index in `configs`, as far as they were tried.
    pub(super) defaults: Vec<usize>,
}

impl<'e> Table<'e> {
    /// The table of every class there is evidence for, sorted by class.
    pub(super) fn all(evidence: &'e Evidence, defaults: &BTreeMap<String, Vec<String>>) -> Vec<Self> {
        let mut by_class: BTreeMap<&str, BTreeMap<usize, Vec<&Record>>> = BTreeMap::new();
        let mut by_problem = vec![Vec::new(); evidence.problems.len()];
        for record in &evidence.records {
            by_problem[record.problem].push(record);
        }
        for (problem, records) in by_problem.into_iter().enumerate() {
            if !records.is_empty() {
                by_class.entry(&evidence.problems[problem].class).or_default().insert(problem, records);
            }
        }
        let none = Vec::new();
        by_class
            .into_iter()
            .map(|(class, problems)| Self::new(evidence, class, problems, defaults.get(class).unwrap_or(&none)))
            .collect()
    }

    fn new(
        evidence: &'e Evidence,
        class: &'e str,
        problems: BTreeMap<usize, Vec<&'e Record>>,
        defaults: &[String],
    ) -> Self {
        let trials = problems.values().map(Vec::len).sum();
        let used: HashSet<usize> = problems.values().flatten().map(|record| record.config).collect();
        let mut order: Vec<usize> = used.into_iter().collect();
        order.sort_by_cached_key(|config| evidence.configs[*config].order());
        let rank: HashMap<usize, usize> = order.iter().enumerate().map(|(rank, config)| (*config, rank)).collect();
        let configs: Vec<_> = order.iter().map(|config| &evidence.configs[*config]).collect();

        let mut ordered: Vec<_> =
            problems.into_iter().map(|(problem, records)| (&evidence.problems[problem], records)).collect();
        ordered.sort_unstable_by_key(|(facts, _)| (&facts.dimensions, &facts.name));
        let mut tried = Vec::new();
        let mut unworkable = Vec::new();
        for (facts, records) in ordered {
            match Tried::new(evidence, facts, &records, &rank) {
                Some(problem) => tried.push(problem),
                None => unworkable.push(facts),
            }
        }
        let measurement = measurement_id(class, &configs, &tried);
        let null_arms: Vec<Draw> = tried.iter().flat_map(Tried::null_draws).collect();
        let changes: Vec<Draw> = tried.iter().flat_map(Tried::changes).collect();
        let noise = Noise::of(&null_arms, &changes);

        let is_default = |config: &&ConfigFacts| defaults.contains(&config.text);
        let defaults: Vec<usize> = (0..configs.len()).filter(|rank| is_default(&configs[*rank])).collect();
        let rows = tried.into_iter().map(|problem| problem.into_row(&noise, &defaults)).collect();
        Self { class, configs, rows, unworkable, trials, measurement, defaults }
    }
}

/// What a mean ratio over these rows may be off from one occasion to another; 0 where nothing is known.
pub(super) fn repeat_noise(rows: &[&Row]) -> f64 {
    joint(rows.iter().map(|row| row.repeat_noise))
}

/// What became of one config on one problem in one trial.
#[derive(Clone, Copy)]
struct Attempt<'e> {
    config: usize,
    kernel: &'e str,
    stage: Stage,
    timing: Option<&'e Timing>,
}

impl<'e> Attempt<'e> {
    /// The race it was in, if it is one of finals or cross trials and works.
    fn race(&self) -> Option<((Stage, u64), Arm<'e>)> {
        let timing = self.timing?;
        let arm = Arm { config: self.config, kernel: self.kernel, timing };
        matches!(self.stage, Stage::Final | Stage::Cross).then_some(((self.stage, timing.race), arm))
    }

    /// Finals say more than cross trials, and these more than the search before.
    fn stage_weight(&self) -> u8 {
        match self.stage {
            Stage::Screen => 0,
            Stage::Refine => 1,
            Stage::Cross => 2,
            Stage::Final => 3,
        }
    }

    /// The greater of two trials of one config on one problem is the one that counts: the one that worked, the later stage, the
    /// later race, neither throttled nor loaded, more samples; then an order of no meaning but independent of which came first.
    fn weigh(&self, other: &Self) -> Ordering {
        let key = |attempt: &Self| {
            let timing = attempt.timing;
            let race = timing.map_or(0, |timing| timing.race);
            let (samples, steady) =
                timing.map_or((0, false), |timing| (timing.samples, !timing.throttled && !timing.loaded));
            (timing.is_some(), attempt.stage_weight(), race, steady, samples)
        };
        let times = |attempt: &Self| attempt.timing.map(|timing| (timing.time_us, timing.quartiles_us));
        let rounds = |attempt: &Self| attempt.timing.map(|timing| (&timing.rounds_us, timing.joined, timing.chosen_by));
        let arbitrary = || {
            let by_times = times(self).partial_cmp(&times(other)).unwrap_or(Ordering::Equal);
            by_times.then_with(|| rounds(self).partial_cmp(&rounds(other)).unwrap_or(Ordering::Equal))
        };
        key(self).cmp(&key(other)).then_with(|| self.kernel.cmp(other.kernel)).then_with(arbitrary)
    }
}

/// The attempt at each config that counts.
fn weightiest<'e>(attempts: impl Iterator<Item = Attempt<'e>>) -> BTreeMap<usize, Attempt<'e>> {
    let mut counts: BTreeMap<usize, Attempt> = BTreeMap::new();
    for attempt in attempts {
        let best = counts.entry(attempt.config).or_insert(attempt);
        if best.weigh(&attempt) == Ordering::Less {
            *best = attempt;
        }
    }
    counts
}

/// A problem with a working config: a row in the making.
struct Tried<'e> {
    facts: &'e ProblemFacts,
    /// As in [`Row::races`].
    races: Vec<Race<'e>>,
    /// The trial of each config that counts outside of races.
    attempts: BTreeMap<usize, Attempt<'e>>,
}

impl<'e> Tried<'e> {
    /// `None` where no config works. A kernel that failed on a config once is out, whatever times it has: what is wrong or
    /// crashes now and then is never served.
    fn new(
        evidence: &'e Evidence,
        facts: &'e ProblemFacts,
        records: &[&'e Record],
        rank: &HashMap<usize, usize>,
    ) -> Option<Self> {
        let failed = records.iter().filter(|record| record.timing.is_none());
        let failures: HashSet<(usize, usize)> = failed.map(|record| (record.config, record.kernel)).collect();
        let attempt = |record: &&&'e Record| Attempt {
            config: rank[&record.config],
            kernel: &evidence.kernels[record.kernel],
            stage: record.stage,
            timing: record.timing.as_ref().filter(|_| !failures.contains(&(record.config, record.kernel))),
        };
        let (null_arms, attempts): (Vec<&&Record>, Vec<&&Record>) = records.iter().partition(|record| record.null_arm);
        let mut null_arms: Vec<Attempt> = null_arms.iter().map(attempt).collect();
        null_arms.sort_by(Attempt::weigh);
        let attempts: Vec<Attempt> = attempts.iter().map(attempt).collect();

        let mut by_race: BTreeMap<(Stage, u64), Vec<Attempt>> = BTreeMap::new();
        for attempt in &attempts {
            if let Some((race, _)) = attempt.race() {
                by_race.entry(race).or_default().push(*attempt);
            }
        }
        let arm = |attempt: &Attempt<'e>| attempt.race().map(|(_, arm)| arm);
        let race = |(race, attempts): ((Stage, u64), Vec<Attempt<'e>>)| {
            let arms = weightiest(attempts.into_iter()).values().filter_map(arm).collect();
            let duplicates = null_arms.iter().filter_map(Attempt::race).filter(|(of, _)| *of == race);
            Race::new(race, arms, duplicates.map(|(_, arm)| arm).collect())
        };
        let mut races: Vec<Race> = by_race.into_iter().filter_map(race).collect();
        races.sort_by_key(|race| std::cmp::Reverse((race.number, race.stage == Stage::Final)));
        if let Some(last_final) = races.iter().position(|race| race.stage == Stage::Final) {
            races[..=last_final].rotate_right(1);
        }
        let attempts = weightiest(attempts.into_iter());
        attempts.values().any(|attempt| attempt.timing.is_some()).then_some(Self { facts, races, attempts })
    }

    fn null_draws(&self) -> impl Iterator<Item = Draw> {
        self.races.iter().flat_map(Race::null_draws)
    }

    /// What ratios changed by from the last final to the other races.
    fn changes(&self) -> Vec<Draw> {
        let Some((reference, others)) = self.races.split_first() else { return Vec::new() };
        others.iter().flat_map(|race| reference.changes(race)).collect()
    }

    /// What slowdowns refer to, with its time: the winner of the first race, or the fastest where there was none.
    fn winner(&self) -> (usize, f64) {
        let lone = || {
            let times = self.attempts.values().filter_map(|attempt| Some((attempt.config, attempt.timing?.time_us)));
            times.min_by(|one, other| one.1.total_cmp(&other.1))
        };
        let won = self.races.first().and_then(|race| race.arm(race.winner));
        won.map(|arm| (arm.config, arm.timing.time_us)).or_else(lone).unwrap_or((0, f64::NAN))
    }

    fn into_row(self, noise: &Noise, defaults: &[usize]) -> Row<'e> {
        let (winner, winner_us) = self.winner();
        let level = noise.level(DurationClass::of(Micros(winner_us)));
        let cells: Vec<Cell> =
            self.attempts.values().map(|attempt| self.cell(attempt, (winner, winner_us), &level)).collect();
        let worst = cells.iter().filter_map(|cell| cell.ln_slowdown).fold(0.0, f64::max);
        let mut row = Row {
            facts: self.facts,
            winner,
            winner_us,
            noise: level.usual(),
            repeat_noise: level.repeat(),
            ln_missing: worst.max(MISSING_SLOWDOWN.ln()),
            level,
            races: self.races,
            cells,
        };
        let slower: Vec<bool> = row.cells.iter().map(|cell| is_slower_than_any(&row, cell, defaults)).collect();
        for (cell, slower) in row.cells.iter_mut().zip(slower) {
            cell.slower_than_default = slower;
        }
        row
    }

    /// How a config compares with the winner: by the rounds of the last final, else through the arms that another race, the
    /// latest there is, shares with it, else by times from two occasions.
    fn cell(&self, attempt: &Attempt<'e>, (winner, winner_us): (usize, f64), level: &Level) -> Cell<'e> {
        let (config, kernel) = (attempt.config, attempt.kernel);
        let cell = |ln_ratio: f64, noise: f64, rounds: usize, kernel: &'e str, races: bool| Cell {
            config,
            ln_slowdown: races.then_some(ln_ratio),
            slower_than_default: false,
            rounds,
            loaded: attempt.timing.is_some_and(|timing| timing.loaded),
            ln_ratio: Some(ln_ratio),
            noise,
            kernel,
        };
        let Some(timing) = attempt.timing else {
            return Cell { ln_slowdown: None, ln_ratio: None, ..cell(0.0, level.usual(), 0, kernel, false) };
        };
        if let Some((reference, others)) = self.races.split_first() {
            let arms = reference.arm(config).zip(reference.arm(winner));
            let direct = arms.and_then(|(arm, won)| Some((arm, raced(arm.timing, won.timing)?)));
            if let Some((arm, (ln_ratio, rounds))) = direct {
                return cell(ln_ratio, level.of_ratio(rounds) * FRAC_1_SQRT_2, rounds, arm.kernel, true);
            }
            let linked = || others.iter().find_map(|race| Some((race.arm(config)?, race.link(config, reference)?)));
            if let Some((arm, link)) = linked().filter(|_| arms.is_none()) {
                let own = level.of_ratio(link.rounds) * (0.5 + link.added_variance).sqrt();
                return cell(link.ln_ratio, own.hypot(level.of_occasion()), link.rounds, arm.kernel, true);
            }
        }
        let lone =
            lone_noise(timing).unwrap_or(0.0).max(ASSUMED_NOISE * FRAC_1_SQRT_2).max(level.usual() * FRAC_1_SQRT_2);
        let races = self.races.is_empty() || attempt.race().is_some();
        cell((timing.time_us / winner_us).ln(), lone, 0, kernel, races)
    }
}

/// Whether a default that works is faster than this, by more than noise.
fn is_slower_than_any(row: &Row, cell: &Cell, defaults: &[usize]) -> bool {
    let works = defaults.iter().filter_map(|config| row.cell(*config)).filter(|default| default.works());
    works.into_iter().any(|default| row.compare(cell, default).is_none_or(|pair| pair.ratio > 1.0 + pair.noise))
}

/// Sixteen hex digits over the trials that count.
fn measurement_id(class: &str, configs: &[&ConfigFacts], tried: &[Tried]) -> String {
    let mut hash = Sha256::new();
    hash.update(class);
    for config in configs {
        hash.update(&config.text);
        hash.update([0]);
    }
    for problem in tried {
        hash.update(&problem.facts.name);
        for race in &problem.races {
            hash.update([race.stage as u8]);
            hash.update(race.number.to_le_bytes());
            for arm in race.arms.iter().chain(&race.null_arms) {
                hash_trial(&mut hash, arm.config, arm.kernel, Some(arm.timing));
            }
        }
        for attempt in problem.attempts.values() {
            hash.update([attempt.stage as u8]);
            hash_trial(&mut hash, attempt.config, attempt.kernel, attempt.timing);
        }
    }
    first_digits(&hash.finalize(), 16)
}

fn hash_trial(hash: &mut Sha256, config: usize, kernel: &str, timing: Option<&Timing>) {
    hash.update((config as u64).to_le_bytes());
    hash.update(kernel);
    if let Some(timing) = timing {
        hash.update(timing.time_us.to_le_bytes());
        hash.update(timing.samples.to_le_bytes());
        hash.update(timing.joined.to_le_bytes());
        hash.update(timing.chosen_by.to_le_bytes());
        for round in &timing.rounds_us {
            hash.update(round.to_le_bytes());
        }
    }
}

/// A name for a program on any problem: hex digits over its config and the hash of its kernel. Two documents that have it in common
/// for a problem have measured the very same program there.
pub(super) fn program_key(config_text: &str, kernel: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(config_text);
    hash.update([0]);
    hash.update(kernel);
    first_digits(&hash.finalize(), ANCHOR_DIGITS)
}

/// A short name for a config, for `validation.ties`: eight hex digits over its template.
pub fn config_key(template: &Template) -> String {
    text_key(&config_text(template))
}

/// The same for a config's text.
pub(crate) fn text_key(config_text: &str) -> String {
    first_digits(&Sha256::digest(config_text), 8)
}

/// The first hex digits of a digest, at most 16.
fn first_digits(digest: &[u8], digits: usize) -> String {
    let head = digest.iter().take(digits / 2).fold(0_u64, |head, byte| head << 8 | u64::from(*byte));
    format!("{head:0digits$x}")
}

/// The kernels a config ran as over some rows.
pub(super) fn kernels_of<'e>(rows: &[&Row<'e>], config: usize) -> BTreeSet<&'e str> {
    rows.iter().filter_map(|row| row.kernel(config)).filter(|kernel| !kernel.is_empty()).collect()
}
