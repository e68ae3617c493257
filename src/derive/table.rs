//! One class's measurements as a table of problems by configs: the trial that counts for each, slowdowns and noise.

use super::compare::{ASSUMED_NOISE, NOISE_FLOOR, Pair, pair, spread, unpaired};
use super::evidence::{ConfigFacts, Evidence, ProblemFacts, Record, Timing};
use super::repeat::repeat_noise;
use crate::journal::Stage;
use crate::measure::{quantile, sorted};
use sha2::{Digest, Sha256};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The least slowdown that a config without a time among finals and cross trials is taken to have: screening abandons
/// what is more than twice as slow as the incumbent, so anything from there up may hide behind a missing time.
pub(super) const MISSING_SLOWDOWN: f64 = 2.0;

/// A config tried on a problem.
#[derive(Clone, Debug)]
pub(super) struct Cell<'e> {
    /// Index in [`Table::configs`].
    pub(super) config: usize,
    /// Its times; `None` where it failed.
    pub(super) timing: Option<&'e Timing>,
    /// Logarithm of its slowdown; `None` where it failed or is out of the race, that is, was not in finals or cross
    /// trials of a problem that had some.
    pub(super) ln_slowdown: Option<f64>,
    /// It is slower than a default by more than noise.
    pub(super) slower_than_default: bool,
    stage: Stage,
    kernel: &'e str,
}

impl Cell<'_> {
    /// Compares its times with another's on one problem whose noise is at least `noise`; nothing where one of them failed.
    pub(super) fn against(&self, other: &Self, noise: f64) -> Option<Pair> {
        let (ours, theirs) = (self.timing?, other.timing?);
        let raced = self.stage == other.stage && ours.to_final == theirs.to_final;
        Some(if raced { pair(ours, theirs, noise) } else { unpaired(ours, theirs, noise) })
    }
}

/// A problem with the configs tried on it.
#[derive(Clone, Debug)]
pub(super) struct Row<'e> {
    pub(super) facts: &'e ProblemFacts,
    /// The best median among those in the race.
    pub(super) best_us: f64,
    /// Ratios closer to 1 than this mean nothing on this problem.
    pub(super) noise: f64,
    /// Logarithm of the slowdown a config without one is taken to have: at least [`MISSING_SLOWDOWN`] and no better than
    /// the worst measured.
    pub(super) ln_missing: f64,
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

    /// A config's median, of whatever stage, as it would have been in the final.
    pub(super) fn median_us(&self, config: usize) -> Option<f64> {
        self.cell(config)?.timing.map(Timing::final_us)
    }

    /// The kernel a config ran as.
    pub(super) fn kernel(&self, config: usize) -> Option<&'e str> {
        self.cell(config).map(|cell| cell.kernel)
    }

    /// The fastest config; of equal ones the first.
    pub(super) fn winner(&self) -> Option<usize> {
        let racing = self.cells.iter().filter_map(|cell| Some((cell.ln_slowdown?, cell.config)));
        racing
            .min_by(|first, second| first.0.total_cmp(&second.0).then(first.1.cmp(&second.1)))
            .map(|(_, config)| config)
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
    /// What a ratio of two times on one problem may be off from one occasion to another, by group; 0 where that is not known.
    repeat_noise: BTreeMap<Option<&'static str>, f64>,
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

        let of_class = repeat_noise(problems.values()).unwrap_or(0.0);
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (problem, records) in &problems {
            groups.entry(evidence.problems[*problem].group).or_default().push(records);
        }
        let repeat_noise = groups
            .into_iter()
            .map(|(group, problems)| (group, repeat_noise(problems.into_iter()).unwrap_or(of_class)))
            .collect();
        let mut ordered: Vec<_> =
            problems.into_iter().map(|(problem, records)| (&evidence.problems[problem], records)).collect();
        ordered.sort_unstable_by_key(|(facts, _)| (&facts.dimensions, &facts.name));
        let mut races = Vec::new();
        let mut unworkable = Vec::new();
        for (facts, records) in ordered {
            match Race::new(evidence, facts, &records, &rank) {
                Some(race) => races.push(race),
                None => unworkable.push(facts),
            }
        }

        let defaults: Vec<usize> = configs
            .iter()
            .enumerate()
            .filter(|(_, config)| defaults.contains(&config.text))
            .map(|(rank, _)| rank)
            .collect();
        let measurement = measurement_id(class, &configs, &races);
        let nulls = sorted(races.iter().filter_map(Race::null_distance));
        let class_noise = quantile(&nulls, 0.9);
        let rows = races.into_iter().map(|race| race.into_row(class_noise, &defaults)).collect();
        Self { class, configs, rows, unworkable, trials, measurement, defaults, repeat_noise }
    }

    /// What a ratio of two times on one of these problems may be off from one occasion to another; 0 where nothing is known.
    pub(super) fn repeat_noise(&self, rows: &[&Row]) -> f64 {
        rows.iter().filter_map(|row| self.repeat_noise.get(&row.facts.group)).copied().fold(0.0, f64::max)
    }
}

/// What became of one config on one problem in one trial.
#[derive(Clone, Copy)]
struct Attempt<'e> {
    config: usize,
    kernel: &'e str,
    stage: Stage,
    timing: Option<&'e Timing>,
}

impl Attempt<'_> {
    fn in_finals(&self) -> bool {
        self.timing.is_some() && matches!(self.stage, Stage::Final | Stage::Cross)
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

    /// The greater of two trials of one config on one problem is the one that counts: the one that worked, the later
    /// stage, not throttled, more samples; then an order of no meaning but independent of which came first.
    fn weigh(&self, other: &Self) -> Ordering {
        let key = |attempt: &Self| {
            let timing = attempt.timing;
            let (samples, steady) = timing.map_or((0, false), |timing| (timing.samples, !timing.throttled));
            (timing.is_some(), attempt.stage_weight(), steady, samples)
        };
        let times = |attempt: &Self| attempt.timing.map(|timing| (timing.median_us, timing.quartiles_us));
        let rounds = |attempt: &Self| attempt.timing.map(|timing| timing.rounds_us.clone());
        let arbitrary = || {
            let by_times = times(self).partial_cmp(&times(other)).unwrap_or(Ordering::Equal);
            by_times.then_with(|| rounds(self).partial_cmp(&rounds(other)).unwrap_or(Ordering::Equal))
        };
        key(self).cmp(&key(other)).then_with(|| self.kernel.cmp(other.kernel)).then_with(arbitrary)
    }
}

/// A row in the making.
struct Race<'e> {
    facts: &'e ProblemFacts,
    best_us: f64,
    cells: Vec<Cell<'e>>,
    /// One for each time the problem's finalists raced.
    null_arms: Vec<Attempt<'e>>,
}

impl<'e> Race<'e> {
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
        let mut null_arms: Vec<Attempt> = Vec::new();
        let mut attempts: BTreeMap<usize, Attempt> = BTreeMap::new();
        for record in records {
            let attempt = Attempt {
                config: rank[&record.config],
                kernel: &evidence.kernels[record.kernel],
                stage: record.stage,
                timing: record.timing.as_ref().filter(|_| !failures.contains(&(record.config, record.kernel))),
            };
            if record.null_arm {
                null_arms.push(attempt);
            } else {
                let counts = attempts.entry(attempt.config).or_insert(attempt);
                if counts.weigh(&attempt) == Ordering::Less {
                    *counts = attempt;
                }
            }
        }
        let had_finals = attempts.values().any(Attempt::in_finals);
        let racing =
            |attempt: &Attempt<'e>| attempt.timing.filter(|_| attempt.in_finals() || !had_finals).map(Timing::final_us);
        let best_us = attempts.values().filter_map(racing).min_by(f64::total_cmp)?;
        let cells = attempts.values().map(|attempt| Cell {
            config: attempt.config,
            timing: attempt.timing,
            ln_slowdown: racing(attempt).map(|median_us| (median_us / best_us).ln()),
            slower_than_default: false,
            stage: attempt.stage,
            kernel: attempt.kernel,
        });
        null_arms.sort_by(Attempt::weigh);
        Some(Self { facts, best_us, cells: cells.collect(), null_arms })
    }

    fn cell(&self, config: usize) -> Option<&Cell<'e>> {
        self.cells.binary_search_by_key(&config, |cell| cell.config).ok().map(|index| &self.cells[index])
    }

    /// How far a winner's duplicate is from the winner, as a share: the farthest, where there were several races.
    fn null_distance(&self) -> Option<f64> {
        let distance = |duplicate: &Attempt| {
            let winner = self.cell(duplicate.config)?.timing?;
            Some((pair(duplicate.timing?, winner, 0.0).ratio - 1.0).abs())
        };
        self.null_arms.iter().filter_map(distance).max_by(f64::total_cmp)
    }

    /// What the best time's own quartiles say of two such times.
    fn own_spread(&self) -> Option<f64> {
        let best = self.cells.iter().find(|cell| cell.ln_slowdown == Some(0.0))?.timing?;
        spread(best, best)
    }

    /// The noise of the problem is its own null arm's where it has one, else the 90th percentile of the class's, else what
    /// quartiles say, and never under the floor.
    fn into_row(self, class_noise: Option<f64>, defaults: &[usize]) -> Row<'e> {
        let known = self.null_distance().or(class_noise).or_else(|| self.own_spread());
        let noise = known.unwrap_or(ASSUMED_NOISE).max(NOISE_FLOOR);
        let defaults: Vec<Cell> = defaults.iter().filter_map(|config| self.cell(*config).cloned()).collect();
        let slower = |cell: &Cell| {
            let works = |default: &&Cell| default.timing.is_some();
            let is_slower = |pair: Pair| pair.ratio > 1.0 + pair.noise;
            defaults.iter().filter(works).any(|default| cell.against(default, noise).is_none_or(is_slower))
        };
        let mut cells = self.cells;
        for cell in &mut cells {
            cell.slower_than_default = slower(cell);
        }
        let worst = cells.iter().filter_map(|cell| cell.ln_slowdown).fold(0.0, f64::max);
        Row { facts: self.facts, best_us: self.best_us, noise, ln_missing: worst.max(MISSING_SLOWDOWN.ln()), cells }
    }
}

/// Sixteen hex digits over the trials that count.
fn measurement_id(class: &str, configs: &[&ConfigFacts], races: &[Race]) -> String {
    let mut hash = Sha256::new();
    hash.update(class);
    for config in configs {
        hash.update(&config.text);
        hash.update([0]);
    }
    for race in races {
        hash.update(&race.facts.name);
        for cell in &race.cells {
            hash.update((cell.config as u64).to_le_bytes());
            hash.update([cell.stage as u8]);
            hash.update(cell.kernel);
            if let Some(timing) = cell.timing {
                hash_timing(&mut hash, timing);
            }
        }
        for timing in race.null_arms.iter().filter_map(|duplicate| duplicate.timing) {
            hash_timing(&mut hash, timing);
        }
    }
    let digest = hash.finalize();
    let head = digest.iter().take(8).fold(0, |head, byte| head << 8 | u64::from(*byte));
    format!("{head:016x}")
}

fn hash_timing(hash: &mut Sha256, timing: &Timing) {
    hash.update(timing.median_us.to_le_bytes());
    hash.update(timing.samples.to_le_bytes());
    if let Some(to_final) = timing.to_final {
        hash.update(to_final.to_le_bytes());
    }
    for round in &timing.rounds_us {
        hash.update(round.to_le_bytes());
    }
}

/// The kernels a config ran as over some rows.
pub(super) fn kernels_of<'e>(rows: &[&Row<'e>], config: usize) -> BTreeSet<&'e str> {
    rows.iter().filter_map(|row| row.kernel(config)).filter(|kernel| !kernel.is_empty()).collect()
}
