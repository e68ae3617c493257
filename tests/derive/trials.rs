//! Journals in memory.

use kernel_sweep::derive::{self, Defaults, Derived, Evidence};
use kernel_sweep::journal::{Header, Stage, Status, Trial};
use kernel_sweep::measure::{location_us, sorted};
use kernel_sweep::model::{Config, Dtype, Family, GpuProfile, Micros, Problem};

pub(crate) fn h200() -> GpuProfile {
    GpuProfile::by_name("h200").unwrap()
}

pub(crate) fn header() -> Header {
    Header {
        schema: 1,
        gpu: "NVIDIA H200".into(),
        arch: "sm_90a".into(),
        driver: "580.159".into(),
        nvrtc: "13.0.88".into(),
        protocol: "cold-l2/2".into(),
        sweep: "0.1.0".into(),
        started: "2026-01-02T03:04:05Z".into(),
        ..Header::default()
    }
}

pub(crate) fn config(block_size: u32) -> Config {
    Config { block_sizes: vec![block_size], ..Config::default() }
}

/// A trial that worked, without quartiles or rounds.
pub(crate) fn trial(family: Family, shape: &str, config: &Config, stage: Stage, median_us: f64) -> Trial {
    let problem = Problem::parse(family, shape, Dtype::Bf16).unwrap();
    Trial {
        median_us: Some(Micros(median_us)),
        samples: Some(10),
        rel_err: Some(0.001),
        kernel: format!("kernel-{config}"),
        ..Trial::untimed(&problem, config.clone(), stage, Status::Ok)
    }
}

/// A finalist whose rounds all took the same time.
pub(crate) fn finalist(family: Family, shape: &str, config: &Config, median_us: f64) -> Trial {
    Trial { rounds_us: vec![median_us; 9], ..trial(family, shape, config, Stage::Final, median_us) }
}

/// An arm of a race by its stage and number, which joined it after so many rounds, of which so many chose the winner.
pub(crate) fn arm(
    family: Family,
    shape: &str,
    config: &Config,
    (stage, race): (Stage, u64),
    (joined, chosen_by): (u32, u32),
    rounds_us: &[f64],
) -> Trial {
    let reported = rounds_us.get(chosen_by.saturating_sub(joined) as usize..).filter(|rounds| !rounds.is_empty());
    let time = |rounds: &[f64]| Some(Micros(location_us(&sorted(rounds.iter().copied()))));
    Trial {
        time_us: time(reported.unwrap_or(rounds_us)),
        race: Some(race),
        joined,
        chosen_by,
        rounds_us: rounds_us.to_vec(),
        ..trial(family, shape, config, stage, 1.0)
    }
}

pub(crate) fn failed(trial: Trial, status: Status) -> Trial {
    Trial { status, time_us: None, median_us: None, rounds_us: Vec::new(), error: Some("no".into()), ..trial }
}

pub(crate) fn evidence(trials: &[Trial]) -> Evidence {
    let mut evidence = Evidence::default();
    evidence.add_journal(&[header()], trials).unwrap();
    evidence
}

pub(crate) fn derive(trials: &[Trial], defaults: &Defaults) -> Derived {
    derive::document(&evidence(trials), &h200(), defaults)
}
