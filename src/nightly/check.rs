//! Does what the journal says still hold? Same environment, same kernels, and on a few problems the same times.

use super::rounds::{duration_of, ln_ratio};
use crate::derive::half_width;
use crate::diff::{absolute_sigma, relative_sigma};
use crate::error::Result;
use crate::heuristics::group_of;
use crate::journal::{Change, Header, Stage, Status, Trial};
use crate::measure::{DurationClass, Z_95, geomean, location_us, mean, median, sorted};
use crate::model::{Config, Problem};
use crate::sweep::{DeviceBench, Reraced};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Problems of a family that are raced again to see whether its times still hold; one night's are not the next one's.
const SPOTS: usize = 6;

/// What the environment changed in since the journal was written, beside what keeps its trials `apart` from today's: `driver 580.1
/// → 590.2`. The tool's own version does not count, since a kernel's hash and the protocol's name say what matters of it.
pub(super) fn environment_changes(headers: &[Header], now: &Header, apart: &[Change]) -> Vec<String> {
    type Field = fn(&Header) -> &str;
    let fields: [(&str, Field); 2] = [("arch", |header| &header.arch), ("nvrtc", |header| &header.nvrtc)];
    let mut changes: BTreeSet<String> = apart.iter().map(ToString::to_string).collect();
    for header in headers {
        for (name, field) in fields.iter().filter(|(_, field)| field(header) != field(now)) {
            changes.insert(format!("{name} {} → {}", field(header), field(now)));
        }
    }
    changes.into_iter().collect()
}

/// Most programs of a final that race again beside its winner.
const ANCHORS: usize = 5;
/// A shift of all times by less is none, from one night to another.
const LEAST_SHIFT: f64 = 0.015;
/// What all times of a family shift by from one night to another: standard deviation.
const NIGHT_SIGMA: f64 = 0.005;
/// Times have drifted where they shifted by so many standard errors: seven families are looked at a night, and one night in a
/// hundred may be wrong.
const SURE: f64 = 4.0;
/// Winners have drifted from what raced with them where they stand out by so many standard deviations together.
const SURE_BESIDE_ANCHORS: f64 = 5.0;
/// No problem counts for more standard deviations: one stray is no drift.
const MOST: f64 = 4.0;
/// But times that shifted by so much, strays and all, have drifted.
const PLAIN: f64 = 0.2;
/// Fewer null arms do not tell their spread: the widest counts.
const FEWEST_NULL_ARMS: usize = 5;

/// A problem with what its final said.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    problem: Problem,
    /// The winner, the default as far as it stayed to the end, and others that did.
    arms: Vec<Recorded>,
    /// How much wider than elsewhere the journal's times spread.
    widened: f64,
}

#[derive(Clone, Debug)]
struct Recorded {
    config: Config,
    rounds_us: Vec<f64>,
}

/// How one problem did tonight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The problem.
    pub problem: String,
    /// Time tonight over the time recorded, of all that raced; none where something failed.
    pub ratio: Option<f64>,
    /// The winner's time beside that of the others, tonight over what was recorded; none where it raced alone.
    pub beside_anchors: Option<f64>,
    /// Other work disturbed the device tonight.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub loaded: bool,
    /// Standard deviations of both, in logarithms, where nothing changed.
    #[serde(skip)]
    sigmas: [f64; 2],
}

/// Whether a family's times still hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Check {
    /// The problems that were raced again.
    pub problems: Vec<Checked>,
    /// Geometric mean of their ratios.
    pub ratio: Option<f64>,
    /// A ratio closer to 1 is no drift.
    pub noise: f64,
    /// Geometric mean of what became of the winners beside the others of their races.
    pub beside_anchors: Option<f64>,
    /// The times do not hold: they changed by more than noise, together or beside each other, or something that worked fails.
    pub drifted: bool,
    /// Other work disturbed the device on one of the problems: nothing can be told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub loaded: bool,
}

impl Check {
    /// The verdict over some problems.
    pub(super) fn of(problems: Vec<Checked>) -> Self {
        let figures = |pick: fn(&Checked) -> Option<f64>| problems.iter().filter_map(pick).collect::<Vec<f64>>();
        let (ratios, beside) = (figures(|checked| checked.ratio), figures(|checked| checked.beside_anchors));
        let squares: f64 = problems.iter().map(|checked| checked.sigmas[1].powi(2)).sum();
        let error = (squares.sqrt() / problems.len().max(1) as f64).hypot(NIGHT_SIGMA);
        let noise = LEAST_SHIFT.max(SURE * error);
        let deviations: f64 = problems
            .iter()
            .filter_map(|checked| Some((checked.beside_anchors?.ln() / checked.sigmas[0]).clamp(-MOST, MOST)))
            .sum();
        let apart = !beside.is_empty() && deviations.abs() / (beside.len() as f64).sqrt() > SURE_BESIDE_ANCHORS;
        let shifts = problems.iter().filter_map(|checked| Some((checked.ratio?.ln(), MOST * checked.sigmas[1])));
        let trimmed: Vec<f64> = shifts.map(|(shift, most)| shift.clamp(-most, most)).collect();
        let plain = geomean(&ratios).is_some_and(|ratio| ratio.ln().abs() > noise.max(PLAIN.ln_1p()));
        let shifted = plain || mean(&trimmed).is_some_and(|shift| shift.abs() > noise);
        let failed = ratios.len() < problems.len();
        let (ratio, beside_anchors) = (geomean(&ratios), geomean(&beside));
        let loaded = problems.iter().any(|checked| checked.loaded);
        Self { problems, ratio, noise, beside_anchors, drifted: failed || apart || shifted, loaded }
    }
}

/// The problems to race again: some of each fallback group in turn, other ones with another `turn`.
pub(super) fn spots(trials: &[Trial], defaults: &[Config], turn: usize) -> Vec<Spot> {
    let mut finals: BTreeMap<Problem, Vec<&Trial>> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.stage == Stage::Final && trial.status == Status::Ok) {
        finals.entry(trial.problem()).or_default().push(trial);
    }
    for trials in finals.values_mut() {
        let latest = trials.iter().filter_map(|trial| trial.race).max();
        trials.retain(|trial| trial.race == latest);
    }
    let spread = spread_of_null_arms(&finals);
    let mut by_group: BTreeMap<&str, Vec<Spot>> = BTreeMap::new();
    for (problem, trials) in &finals {
        if let Some(spot) = spot(*problem, trials, defaults, &spread) {
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

/// The rounds of a trial that did not choose it.
fn held_out(trial: &Trial) -> &[f64] {
    trial.rounds_us.get(trial.chosen_by.saturating_sub(trial.joined) as usize..).unwrap_or_default()
}

fn winner<'t>(finals: &[&'t Trial]) -> Option<&'t Trial> {
    let time = |trial: &Trial| trial.time().map_or(f64::INFINITY, |time| time.0);
    let racers = finals.iter().copied().filter(|trial| !trial.null_arm && !held_out(trial).is_empty());
    racers.min_by(|one, other| time(one).total_cmp(&time(other)))
}

fn spot(
    problem: Problem,
    finals: &[&Trial],
    defaults: &[Config],
    spread: &BTreeMap<DurationClass, f64>,
) -> Option<Spot> {
    let winner = winner(finals)?;
    let rounds = held_out(winner).len();
    let stayed = |trial: &&&Trial| !trial.null_arm && trial.config != winner.config && held_out(trial).len() == rounds;
    let (first, others): (Vec<&Trial>, Vec<&Trial>) =
        finals.iter().filter(stayed).copied().partition(|trial| defaults.contains(&trial.config));
    let arms = std::iter::once(winner).chain(first.into_iter().chain(others).take(ANCHORS));
    let duration = duration_of(held_out(winner));
    let widened = spread.get(&duration).map_or(1.0, |spread| (spread / relative_sigma(duration, 1)).max(1.0));
    let recorded = |trial: &Trial| Recorded { config: trial.config.clone(), rounds_us: held_out(trial).to_vec() };
    Some(Spot { problem, arms: arms.map(recorded).collect(), widened })
}

/// The standard deviation of a null arm from its winner by duration class, in logarithms.
fn spread_of_null_arms(finals: &BTreeMap<Problem, Vec<&Trial>>) -> BTreeMap<DurationClass, f64> {
    let mut distances: BTreeMap<DurationClass, Vec<f64>> = BTreeMap::new();
    for trials in finals.values() {
        let Some(null_arm) = trials.iter().find(|trial| trial.null_arm) else { continue };
        let Some(twin) = trials.iter().find(|trial| !trial.null_arm && trial.config == null_arm.config) else {
            continue;
        };
        if let Some(change) = ln_ratio(held_out(null_arm), held_out(twin)) {
            distances.entry(duration_of(held_out(twin))).or_default().push(change.abs());
        }
    }
    let sigma = |distances: Vec<f64>| {
        if distances.len() < FEWEST_NULL_ARMS {
            distances.iter().copied().fold(0.0, f64::max)
        } else {
            half_width(median(distances).unwrap_or(0.0)) / Z_95
        }
    };
    distances.into_iter().map(|(duration, distances)| (duration, sigma(distances))).collect()
}

/// Races a problem's winner again with what raced with it.
pub(super) fn check(bench: &mut DeviceBench<'_, '_>, spot: &Spot) -> Result<Checked> {
    bench.turn_to(spot.problem);
    let mut arms = Vec::new();
    for recorded in &spot.arms {
        match bench.program_of(&recorded.config, None)? {
            Ok((arm, _)) => arms.push(arm),
            Err(_) => return Ok(compare(spot, &[])),
        }
    }
    Ok(match bench.race_programs(&arms, 0)? {
        Ok(Reraced { rounds_us, loaded }) => Checked { loaded, ..compare(spot, &rounds_us) },
        Err(_) => compare(spot, &[]),
    })
}

/// Tonight's rounds, of as many arms, against those recorded.
fn compare(spot: &Spot, tonight: &[Vec<f64>]) -> Checked {
    let duration = duration_of(&spot.arms[0].rounds_us);
    let pairs: Vec<(&Recorded, &Vec<f64>)> = spot.arms.iter().zip(tonight).collect();
    let shifts: Option<Vec<f64>> = pairs.iter().map(|(arm, now)| shift(now, &arm.rounds_us)).collect();
    let shifts = shifts.filter(|_| tonight.len() == spot.arms.len());
    let beside = |(arm, now): &(&Recorded, &Vec<f64>)| {
        let [then, now] = [(&spot.arms[0].rounds_us, &arm.rounds_us), (pairs[0].1, *now)]
            .map(|(winner, other)| ln_ratio(winner, other));
        Some(now? - then?)
    };
    let beside: Vec<f64> = pairs.iter().skip(1).filter_map(beside).collect();
    Checked {
        problem: spot.problem.to_string(),
        ratio: shifts.and_then(|shifts| mean(&shifts)).map(f64::exp),
        beside_anchors: mean(&beside).map(f64::exp),
        loaded: false,
        sigmas: [relative_sigma(duration, beside.len().max(1)), absolute_sigma(duration)]
            .map(|sigma| sigma * spot.widened),
    }
}

/// ln(tonight / recorded), whose rounds are no pairs.
fn shift(now_us: &[f64], then_us: &[f64]) -> Option<f64> {
    let figure = |rounds_us: &[f64]| location_us(&sorted(rounds_us.iter().copied()));
    let change = (figure(now_us) / figure(then_us)).ln();
    change.is_finite().then_some(change)
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

    fn trial(shape: &str, block: u32, time_us: f64, null_arm: bool) -> Trial {
        let problem = Problem::parse(Family::Matmul, shape, Dtype::Bf16).unwrap();
        let time = Some(Micros(time_us));
        let blank = Trial::untimed(&problem, config(block), Stage::Final, Status::Ok);
        Trial { time_us: time, median_us: time, rounds_us: vec![time_us; 24], null_arm, kernel: "k".into(), ..blank }
    }

    fn final_of(shape: &str, winner_us: f64, default_us: f64) -> Vec<Trial> {
        vec![trial(shape, 16, winner_us, false), trial(shape, 64, default_us, false), trial(shape, 16, winner_us, true)]
    }

    fn spot_of(times: &[f64]) -> Spot {
        let problem = Problem::parse(Family::Matmul, "m=16,n=4096,k=4096", Dtype::Bf16).unwrap();
        let arm = |us: &f64| Recorded { config: config(16), rounds_us: vec![*us; 24] };
        Spot { problem, arms: times.iter().map(arm).collect(), widened: 1.0 }
    }

    /// Six spots whose winner takes `winner` times and whose default takes `default` times what they did.
    fn check_of(winner: f64, default: f64) -> Check {
        let checked = || compare(&spot_of(&[10.0, 12.0]), &[vec![10.0 * winner; 90], vec![12.0 * default; 90]]);
        Check::of((0..6).map(|_| checked()).collect())
    }

    #[test]
    fn the_same_times_hold_and_others_do_not() {
        assert!(!check_of(1.0, 1.0).drifted);
        assert!(!check_of(1.015, 1.015).drifted, "nights differ by so much");
        assert!(check_of(1.05, 1.05).drifted);
        assert!(check_of(0.95, 0.95).drifted, "faster is a change as well");
        assert!(check_of(1.02, 0.97).drifted, "each within what nights differ by, and not so beside the other");
        assert!(!Check::of(vec![]).drifted, "nothing to check is no drift");
    }

    #[test]
    fn a_noisy_journal_excuses_what_it_cannot_tell() {
        let mut trials = final_of("m=16,n=4096,k=4096", 10.0, 12.0);
        let shift_with = |trials: &[Trial]| {
            let spot = &spots(trials, &[config(64)], 0)[0];
            Check::of(vec![compare(spot, &[vec![13.0; 90], vec![15.6; 90]])])
        };
        assert!(shift_with(&trials).drifted);
        trials[2].rounds_us = vec![11.5; 24];
        assert!(!shift_with(&trials).drifted, "the duplicate is 15 % off: 30 % is noise");
    }

    #[test]
    fn what_fails_tonight_is_a_drift() {
        let spot = spot_of(&[10.0, 12.0]);
        assert!(Check::of(vec![compare(&spot, &[])]).drifted, "a race that crashed");
        assert!(Check::of(vec![compare(&spot, &[vec![10.0; 90], vec![]])]).drifted);
    }

    #[test]
    fn a_spot_holds_the_rounds_of_the_latest_race_that_did_not_choose() {
        let mut trials = final_of("m=16,n=4096,k=4096", 10.0, 12.0);
        let mut later = final_of("m=16,n=4096,k=4096", 10.0, 12.0);
        later.push(trial("m=16,n=4096,k=4096", 128, 13.0, false));
        for trial in &mut later {
            trial.race = Some(2);
            trial.chosen_by = 8;
            trial.rounds_us[..8].fill(99.0);
        }
        later[3].rounds_us.truncate(8);
        trials.extend(later);
        let spot = &spots(&trials, &[config(64)], 0)[0];
        assert_eq!(
            spot.arms.iter().map(|arm| arm.config.block_sizes[0]).collect::<Vec<_>>(),
            [16, 64],
            "one fell behind"
        );
        assert!(spot.arms[0].rounds_us == [10.0; 16]);
    }

    /// A simulation from recorded noise, and no source of times: a night of seven families, six spots each.
    #[test]
    fn one_night_in_a_hundred_is_called_drifted_by_chance() {
        use rand::{Rng, SeedableRng, seq::IndexedRandom};
        let recorded: BTreeMap<String, Vec<[f64; 2]>> =
            serde_json::from_str(include_str!("../../tests/data/repeat_noise.json")).unwrap();
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let times = [("under_20", 10.0), ("under_50", 30.0), ("under_200", 90.0), ("slow", 500.0)];
        let mut drifted = |slower: f64| {
            let class_of_family: Vec<usize> = (0..6).map(|_| random.random_range(0..4)).collect();
            // What all of a family shift by from night to night, on top of what each does.
            let night = random.random_range(-0.008..0.008);
            let checked = class_of_family.iter().map(|class| {
                let (name, us) = times[*class];
                let sign = if random.random_bool(0.5) { 1.0 } else { -1.0 };
                let [relative, absolute] = *recorded[name].choose(&mut random).unwrap();
                let others = night + slower + sign * (absolute - relative * 1.2f64.sqrt());
                let winner = night + slower + sign * absolute;
                let arms: Vec<f64> = (0..6).map(|arm| us * (1.0 + 0.02 * f64::from(arm))).collect();
                let tonight = arms
                    .iter()
                    .enumerate()
                    .map(|(arm, us)| vec![us * if arm == 0 { winner } else { others }.exp(); 90]);
                compare(&spot_of(&arms), &tonight.collect::<Vec<_>>())
            });
            Check::of(checked.collect()).drifted
        };
        let nights = (0..2000).filter(|_| (0..7).filter(|_| drifted(0.0)).count() > 0).count();
        assert!(nights <= 20, "{nights} of 2000 nights");
        let found = (0..200).filter(|_| drifted(0.06)).count();
        assert!(found >= 190, "{found} of 200 families that got 6 % slower");
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
            ..Header::default()
        };
        let now = header("590.2", "0.2.0");
        assert_eq!(environment_changes(&[header("590.2", "0.1.0")], &now, &[]), Vec::<String>::new());
        let earlier = [Header { nvrtc: "12.9".into(), ..header("580.1", "0.1.0") }, header("590.2", "0.2.0")];
        let apart = now.changes_since(&earlier[0]);
        assert_eq!(environment_changes(&earlier, &now, &apart), ["driver 580.1 → 590.2", "nvrtc 12.9 → 13.0.88"]);
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
