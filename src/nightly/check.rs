//! Does what the journal says still hold? Same environment, same kernels, and on a few problems the same times.

use crate::derive::{ASSUMED_NOISE, Timing, pair, timing_of};
use crate::error::Result;
use crate::heuristics::group_of;
use crate::journal::{Header, Stage, Status, Trial};
use crate::measure::{RacePlan, geomean, mean};
use crate::model::{Config, GpuProfile, Problem};
use crate::plan::{self, Candidate};
use crate::search::{RaceOutcome, Racer};
use crate::sweep::DeviceBench;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Problems of a family that are raced again to see whether its times still hold; one night's are not the next one's.
const SPOTS: usize = 6;

/// What the environment changed in since the journal was written: `driver 580.1 → 590.2`. The tool's own version does not
/// count, since a kernel's hash and the protocol's name say what matters of it.
pub(super) fn environment_changes(headers: &[Header], now: &Header) -> Vec<String> {
    type Field = fn(&Header) -> &str;
    let fields: [(&str, Field); 5] = [
        ("device", |header| &header.gpu),
        ("arch", |header| &header.arch),
        ("driver", |header| &header.driver),
        ("nvrtc", |header| &header.nvrtc),
        ("protocol", |header| &header.protocol),
    ];
    let mut changes = BTreeSet::new();
    for header in headers {
        for (name, field) in fields.iter().filter(|(_, field)| field(header) != field(now)) {
            changes.insert(format!("{name} {} → {}", field(header), field(now)));
        }
    }
    changes.into_iter().collect()
}

/// A problem with what its final said of the winner and the default.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    problem: Problem,
    /// The winner, then the default, as far as it was in the final.
    recorded: Vec<(Config, Timing)>,
    /// How far the winner was from its own duplicate.
    noise: f64,
}

/// How one problem did tonight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The problem.
    pub problem: String,
    /// Time tonight over the time recorded, of the winner and the default together; none where one of them failed.
    pub ratio: Option<f64>,
    /// Ratios closer to 1 than this mean nothing.
    pub noise: f64,
}

/// Whether a family's times still hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Check {
    /// The problems that were raced again.
    pub problems: Vec<Checked>,
    /// Geometric mean of their ratios.
    pub ratio: Option<f64>,
    /// Mean of their noise.
    pub noise: f64,
    /// The times do not hold: they changed by more than noise, or something that worked fails.
    pub drifted: bool,
}

impl Check {
    /// The verdict over some problems.
    pub(super) fn of(problems: Vec<Checked>) -> Self {
        let ratios: Vec<f64> = problems.iter().filter_map(|checked| checked.ratio).collect();
        let noises: Vec<f64> = problems.iter().map(|checked| checked.noise).collect();
        let (ratio, noise) = (geomean(&ratios), mean(&noises).unwrap_or(0.0));
        let failed = ratios.len() < problems.len();
        let drifted = failed || ratio.is_some_and(|ratio| (ratio - 1.0).abs() > noise);
        Self { problems, ratio, noise, drifted }
    }
}

/// The problems to race again: some of each fallback group in turn, other ones with another `turn`.
pub(super) fn spots(trials: &[Trial], defaults: &[Config], turn: usize) -> Vec<Spot> {
    let mut finals: BTreeMap<Problem, Vec<&Trial>> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.stage == Stage::Final && trial.status == Status::Ok) {
        finals.entry(trial.problem()).or_default().push(trial);
    }
    let mut by_group: BTreeMap<&str, Vec<Spot>> = BTreeMap::new();
    for (problem, trials) in &finals {
        if let Some(spot) = spot(*problem, trials, defaults) {
            by_group.entry(group_of(problem)).or_default().push(spot);
        }
    }
    for spots in by_group.values_mut() {
        let start = turn * SPOTS % spots.len();
        spots.rotate_left(start);
    }
    let most = by_group.values().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..most).flat_map(|place| by_group.values().filter_map(move |spots| spots.get(place)));
    in_turn.take(SPOTS).cloned().collect()
}

fn spot(problem: Problem, finals: &[&Trial], defaults: &[Config]) -> Option<Spot> {
    let time = |trial: &Trial| trial.median_us.map_or(f64::INFINITY, |median| median.0);
    let racers = || finals.iter().filter(|trial| !trial.null_arm);
    let winner = racers().min_by(|one, other| time(one).total_cmp(&time(other)))?;
    let default = racers().find(|trial| defaults.contains(&trial.config) && trial.config != winner.config);
    let duplicate = finals.iter().find(|trial| trial.null_arm && trial.config == winner.config);
    let noise = duplicate.map_or(0.0, |duplicate| (time(duplicate) / time(winner) - 1.0).abs());
    let recorded = std::iter::once(winner).chain(default);
    Some(Spot { problem, recorded: recorded.map(|trial| (trial.config.clone(), lone(trial))).collect(), noise })
}

/// A trial's times without its rounds: those of another night are no pairs.
fn lone(trial: &Trial) -> Timing {
    Timing { rounds_us: Vec::new(), ..timing_of(trial) }
}

/// Races a problem's winner and default again.
pub(super) fn check(bench: &mut DeviceBench<'_, '_>, spot: &Spot, profile: &GpuProfile) -> Result<Checked> {
    bench.turn_to(spot.problem);
    let candidates: Vec<Candidate> =
        spot.recorded.iter().map(|(config, _)| plan::candidate(config.clone(), &spot.problem, profile)).collect();
    let racers: Vec<Racer> =
        candidates.iter().filter(|candidate| candidate.program.is_ok()).map(Racer::anchor).collect();
    let outcome = bench.race_anew(&racers, &RacePlan::FINAL)?;
    let trials = if let RaceOutcome::Done(trials) = outcome { trials } else { Vec::new() };
    Ok(compare(spot, &trials))
}

/// Tonight's times against those recorded.
fn compare(spot: &Spot, trials: &[Trial]) -> Checked {
    let tonight = |config: &Config, null_arm: bool| {
        let found = trials.iter().find(|trial| trial.config == *config && trial.null_arm == null_arm);
        found.filter(|trial| trial.median_us.is_some()).map(lone)
    };
    let winner = &spot.recorded[0].0;
    let duplicate = tonight(winner, true).zip(tonight(winner, false));
    let null = duplicate.map_or(0.0, |(duplicate, winner)| (duplicate.time_us / winner.time_us - 1.0).abs());
    let noise = ASSUMED_NOISE.max(spot.noise).max(null);
    let pairs = spot.recorded.iter().map(|(config, recorded)| Some(pair(&tonight(config, false)?, recorded, noise)));
    let pairs: Option<Vec<_>> = pairs.collect();
    Checked {
        problem: spot.problem.to_string(),
        ratio: pairs.as_ref().and_then(|pairs| geomean(&pairs.iter().map(|pair| pair.ratio).collect::<Vec<_>>())),
        noise: pairs.iter().flatten().map(|pair| pair.noise).fold(noise, f64::max),
    }
}

/// Problems with a trial that was made with another kernel than its config has now.
pub(super) fn stale(trials: &[Trial], is_current: impl Fn(&Trial) -> Result<bool>) -> Result<BTreeSet<Problem>> {
    let mut stale = BTreeSet::new();
    for trial in trials {
        if !stale.contains(&trial.problem()) && !is_current(trial)? {
            stale.insert(trial.problem());
        }
    }
    Ok(stale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Family, Micros};

    fn config(block: u32) -> Config {
        Config { block_sizes: vec![block], ..Config::default() }
    }

    fn trial(shape: &str, block: u32, median_us: f64, null_arm: bool) -> Trial {
        let problem = Problem::parse(Family::Matmul, shape, Dtype::Bf16).unwrap();
        let time = Some(Micros(median_us));
        let rounds_us = vec![median_us; 24];
        let blank = Trial::untimed(&problem, config(block), Stage::Final, Status::Ok);
        Trial { median_us: time, q1_us: time, q3_us: time, rounds_us, null_arm, kernel: "k".into(), ..blank }
    }

    fn final_of(shape: &str, winner_us: f64, default_us: f64) -> Vec<Trial> {
        vec![trial(shape, 16, winner_us, false), trial(shape, 64, default_us, false), trial(shape, 16, winner_us, true)]
    }

    fn checked(tonight: &[Trial]) -> Checked {
        let recorded = final_of("m=16,n=4096,k=4096", 10.0, 12.0);
        compare(&spots(&recorded, &[config(64)], 0)[0], tonight)
    }

    #[test]
    fn the_same_times_hold_and_others_do_not() {
        let night = |factor: f64| final_of("m=16,n=4096,k=4096", 10.0 * factor, 12.0 * factor);
        assert!(!Check::of(vec![checked(&night(1.0))]).drifted);
        assert!(!Check::of(vec![checked(&night(1.019))]).drifted, "a night is never told from another below 2 %");
        assert!(Check::of(vec![checked(&night(1.03))]).drifted);
        assert!(Check::of(vec![checked(&night(0.95))]).drifted, "faster is a change as well");
        assert!(!Check::of(vec![]).drifted, "nothing to check is no drift");
    }

    #[test]
    fn a_noisy_night_excuses_what_it_cannot_tell() {
        let mut tonight = final_of("m=16,n=4096,k=4096", 10.5, 12.6);
        assert!(Check::of(vec![checked(&tonight)]).drifted);
        tonight[2].median_us = Some(Micros(11.5));
        assert!(!Check::of(vec![checked(&tonight)]).drifted, "the duplicate is 9.5 % off: 5 % is noise");
    }

    #[test]
    fn what_fails_tonight_is_a_drift() {
        let mut tonight = final_of("m=16,n=4096,k=4096", 10.0, 12.0);
        tonight[1] = Trial { status: Status::Wrong, median_us: None, ..tonight[1].clone() };
        assert!(Check::of(vec![checked(&tonight)]).drifted);
        assert!(Check::of(vec![checked(&[])]).drifted, "a race that crashed");
    }

    #[test]
    fn spots_are_of_every_group_and_others_the_next_night() {
        let mut trials = Vec::new();
        for m in 1..=20 {
            trials.extend(final_of(&format!("m={m},n=4096,k=4096"), 10.0, 12.0));
        }
        trials.extend(final_of("m=4096,n=4096,k=4096", 100.0, 120.0));
        let names = |turn| {
            let spots = spots(&trials, &[config(64)], turn);
            spots.iter().map(|spot| spot.problem.shape.to_string()).collect::<BTreeSet<_>>()
        };
        assert_eq!(names(0).len(), SPOTS);
        assert!(names(0).contains("m=4096,n=4096,k=4096") && names(1).contains("m=4096,n=4096,k=4096"));
        assert_ne!(names(0), names(1));
    }

    #[test]
    fn the_environment_is_compared_but_for_the_tools_version_and_the_date() {
        let header = |driver: &str, sweep: &str| Header {
            schema: 1,
            gpu: "NVIDIA H200".into(),
            arch: "sm_90a".into(),
            driver: driver.into(),
            nvrtc: "13.0.88".into(),
            protocol: "cold-l2/1".into(),
            sweep: sweep.into(),
            started: sweep.into(),
        };
        let now = header("590.2", "0.2.0");
        assert_eq!(environment_changes(&[header("590.2", "0.1.0")], &now), Vec::<String>::new());
        let earlier = [header("580.1", "0.1.0"), header("590.2", "0.2.0")];
        assert_eq!(environment_changes(&earlier, &now), ["driver 580.1 → 590.2"]);
    }

    #[test]
    fn one_changed_kernel_makes_its_problem_stale() {
        let mut trials = final_of("m=16,n=4096,k=4096", 1.0, 1.0);
        trials.extend(final_of("m=32,n=4096,k=4096", 1.0, 1.0));
        trials[4].kernel = "other".into();
        let stale = stale(&trials, |trial| Ok(trial.kernel == "k")).unwrap();
        assert_eq!(stale.into_iter().collect::<Vec<_>>(), [trials[4].problem()]);
    }
}
