//! How far the ratio of two configs' times is from what another occasion says, from the finalists that race again among a
//! problem's cross trials: clocks, temperature and what ran before move it by more than the samples of one occasion show.

use super::compare::half_width;
use super::evidence::Record;
use crate::journal::Stage;
use crate::measure::median;
use std::collections::BTreeMap;

/// Fewer distances than this say nothing of their spread.
const FEWEST_DISTANCES: usize = 20;

/// Half the width of a 95 % interval for what the ratio of two configs' times changes from one occasion to another; `problems`
/// are the records of each. By the median distance, so that a GPU that was throttled on one occasion does not make all configs
/// ties. Nothing where too little was timed twice.
pub(super) fn repeat_noise<'e>(problems: impl Iterator<Item = &'e Vec<&'e Record>>) -> Option<f64> {
    let distances: Vec<f64> = problems.flat_map(|records| distances(&changes(records))).collect();
    let enough = distances.len() >= FEWEST_DISTANCES;
    median(distances).filter(|_| enough).map(half_width)
}

/// How far apart each two changes are.
fn distances(changes: &[f64]) -> Vec<f64> {
    let pairs =
        changes.iter().enumerate().flat_map(|(index, one)| changes[index + 1..].iter().map(move |other| (one, other)));
    pairs.map(|(one, other)| (one - other).abs()).collect()
}

/// How much longer, in logarithms, each config took in the final than its cross trial says, of those that were in both.
fn changes(records: &[&Record]) -> Vec<f64> {
    let mut times: BTreeMap<(usize, usize), [Option<f64>; 2]> = BTreeMap::new();
    for record in records.iter().filter(|record| !record.null_arm) {
        let occasion = [Stage::Cross, Stage::Final].iter().position(|stage| *stage == record.stage);
        if let Some((occasion, timing)) = occasion.zip(record.timing.as_ref()) {
            // Of several on one occasion the least, so that their order is no matter.
            let time = &mut times.entry((record.config, record.kernel)).or_default()[occasion];
            *time = Some(time.map_or(timing.final_us(), |time| time.min(timing.final_us())));
        }
    }
    times.values().filter_map(|[crossed, raced]| Some((*raced.as_ref()? / *crossed.as_ref()?).ln())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::Timing;

    fn record(config: usize, stage: Stage, median_us: f64) -> Record {
        let timing = Some(Timing { median_us, ..Timing::default() });
        Record { problem: 0, config, kernel: 0, stage, null_arm: false, timing }
    }

    /// Eight configs whose finals took `drift` times what they did when crossed, each second one 1 % more.
    fn records(drift: f64) -> Vec<Record> {
        let final_us = |config: usize| 10.0 * drift * if config.is_multiple_of(2) { 1.01 } else { 1.0 };
        let both = |config| [record(config, Stage::Cross, 10.0), record(config, Stage::Final, final_us(config))];
        (0..8).flat_map(both).collect()
    }

    fn noise(problems: &[Vec<Record>]) -> Option<f64> {
        let problems: Vec<Vec<&Record>> = problems.iter().map(|records| records.iter().collect()).collect();
        repeat_noise(problems.iter())
    }

    #[test]
    fn a_drift_that_all_configs_share_is_no_noise() {
        let steady = noise(&[records(1.0), records(1.0)]).unwrap();
        // Of the pairs of eight configs 16 are a per cent apart, and 12 are not.
        assert!((steady - 1.01f64.ln() * 1.96 * 1.4826).abs() < 1e-9, "{steady}");
        assert!((noise(&[records(1.2), records(0.9)]).unwrap() - steady).abs() < 1e-9);
    }

    #[test]
    fn little_evidence_is_none() {
        assert_eq!(noise(&[records(1.0)[..8].to_vec()]), None);
        let refined = (0..30).map(|config| record(config, Stage::Refine, 1.0)).collect();
        assert_eq!(noise(&[refined]), None);
    }
}
