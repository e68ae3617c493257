//! How far the ratio of two configs' times is from what another occasion says, from configs that were timed at more than one
//! stage of the search: clocks, temperature and what ran before move it by more than the samples of one occasion show.

use super::compare::{MAD_SIGMAS, Z_95};
use super::evidence::Record;
use crate::journal::Stage;
use crate::measure::median;
use std::collections::BTreeMap;

/// Occasions on which a config is sampled often enough.
const OCCASIONS: [Stage; 3] = [Stage::Refine, Stage::Final, Stage::Cross];
/// Configs of a problem that tell its common drift from what befell one of them.
const FEWEST_CONFIGS: usize = 3;
/// Fewer distances than this say nothing of their spread.
const FEWEST_DISTANCES: usize = 20;

/// Half the width of a 95 % interval for what a ratio changes from one occasion to another; `problems` are the records of each.
/// By the median distance, so that a GPU that was throttled on one occasion does not make all configs ties. Nothing where too
/// little was timed more than once.
pub(super) fn repeat_noise<'e>(problems: impl Iterator<Item = &'e Vec<&'e Record>>) -> Option<f64> {
    let distances: Vec<f64> = problems.flat_map(|records| distances(records)).collect();
    let enough = distances.len() >= FEWEST_DISTANCES;
    // A ratio has the distances of two.
    let of_ratio = Z_95 * MAD_SIGMAS * std::f64::consts::SQRT_2;
    median(distances).filter(|_| enough).map(|distance| of_ratio * distance)
}

/// How far, in logarithms, each config's change between two occasions is from the median change of its problem.
fn distances(records: &[&Record]) -> Vec<f64> {
    let mut times: BTreeMap<(usize, usize), [Option<f64>; 3]> = BTreeMap::new();
    for record in records.iter().filter(|record| !record.null_arm) {
        let occasion = OCCASIONS.iter().position(|stage| *stage == record.stage);
        if let Some((occasion, timing)) = occasion.zip(record.timing.as_ref()) {
            // Of several on one occasion the least, so that their order is no matter.
            let time = &mut times.entry((record.config, record.kernel)).or_default()[occasion];
            *time = Some(time.map_or(timing.median_us, |time| time.min(timing.median_us)));
        }
    }
    let mut distances = Vec::new();
    for (first, second) in [(0, 1), (0, 2), (1, 2)] {
        let change = |times: &[Option<f64>; 3]| Some((times[second]? / times[first]?).ln());
        let changes: Vec<f64> = times.values().filter_map(change).collect();
        if let Some(drift) = median(changes.iter().copied()).filter(|_| changes.len() >= FEWEST_CONFIGS) {
            distances.extend(changes.iter().map(|change| (change - drift).abs()));
        }
    }
    distances
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::Timing;

    fn record(config: usize, stage: Stage, median_us: f64) -> Record {
        let timing = Some(Timing { median_us, ..Timing::default() });
        Record { problem: 0, config, kernel: 0, stage, null_arm: false, timing }
    }

    /// Ten configs whose finals took `drift` times what refining said, each second one 1 % more.
    fn records(drift: f64) -> Vec<Record> {
        let final_us = |config: usize| 10.0 * drift * if config.is_multiple_of(2) { 1.01 } else { 1.0 };
        let both = |config| [record(config, Stage::Refine, 10.0), record(config, Stage::Final, final_us(config))];
        (0..10).flat_map(both).collect()
    }

    fn noise(problems: &[Vec<Record>]) -> Option<f64> {
        let problems: Vec<Vec<&Record>> = problems.iter().map(|records| records.iter().collect()).collect();
        repeat_noise(problems.iter())
    }

    #[test]
    fn a_drift_that_all_configs_share_is_no_noise() {
        let steady = noise(&[records(1.0), records(1.0)]).unwrap();
        // All are half a per cent from the middle.
        assert!((steady - 0.5 * 1.01f64.ln() * 1.96 * 1.4826 * std::f64::consts::SQRT_2).abs() < 1e-9, "{steady}");
        assert!((noise(&[records(1.2), records(0.9)]).unwrap() - steady).abs() < 1e-9);
    }

    #[test]
    fn little_evidence_is_none() {
        assert_eq!(noise(&[records(1.0)]), None);
        let screened = (0..30).map(|config| record(config, Stage::Screen, 1.0)).collect();
        assert_eq!(noise(&[screened]), None);
    }
}
