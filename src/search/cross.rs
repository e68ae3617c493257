//! Crossing: which finalists of one problem are measured on which others, since a rule or a fallback needs the times of one
//! config on every problem it answers for.

use crate::heuristics::{bucket_of, group_of};
use crate::journal::Trial;
use crate::model::{Config, Problem};
use std::collections::{BTreeMap, BTreeSet};

/// The configs of each fallback group that are measured on every problem of it: candidates for its fallback.
const GROUP_CANDIDATES: usize = 16;
/// The first of them, measured on every problem of the family: candidates for the family's best single config.
const CHAMPIONS: usize = 2;
/// A finalist whose time is at most this many times the best of its final is near it.
const NEAR: f64 = 1.05;

/// For each problem with a final, the configs still to be measured on it: those near the best in its bucket's other finals, and
/// those that are so in most finals of its group. `finals` holds each problem's finalists, best first.
pub fn crossings(finals: &BTreeMap<Problem, Vec<Trial>>) -> Vec<(Problem, Vec<Config>)> {
    let mut of_bucket: BTreeMap<_, BTreeSet<&Config>> = BTreeMap::new();
    let mut appearances: BTreeMap<_, BTreeMap<&Config, usize>> = BTreeMap::new();
    for (problem, trials) in finals {
        let near: BTreeSet<&Config> = near_the_best(trials).map(|trial| &trial.config).collect();
        of_bucket.entry(bucket_of(problem)).or_default().extend(&near);
        for config in near {
            *appearances.entry(group_of(problem)).or_default().entry(config).or_default() += 1;
        }
    }
    let of_group: BTreeMap<_, Vec<&Config>> =
        appearances.iter().map(|(group, counts)| (*group, most_frequent(counts))).collect();
    let champions: BTreeSet<&Config> =
        of_group.values().flat_map(|configs| configs.iter().take(CHAMPIONS).copied()).collect();
    finals
        .iter()
        .map(|(problem, trials)| {
            let done: BTreeSet<&Config> = trials.iter().map(|trial| &trial.config).collect();
            let mut wanted = of_bucket[&bucket_of(problem)].clone();
            wanted.extend(of_group.get(&group_of(problem)).into_iter().flatten());
            wanted.extend(&champions);
            (*problem, wanted.difference(&done).map(|config| (*config).clone()).collect())
        })
        .collect()
}

fn near_the_best(trials: &[Trial]) -> impl Iterator<Item = &Trial> {
    let limit = trials.first().and_then(Trial::time).map(|best_us| NEAR * best_us.0);
    trials.iter().filter(move |trial| trial.time().zip(limit).is_some_and(|(time, limit)| time.0 <= limit))
}

fn most_frequent<'a>(counts: &BTreeMap<&'a Config, usize>) -> Vec<&'a Config> {
    let mut ranked: Vec<_> = counts.iter().collect();
    ranked.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    ranked.into_iter().take(GROUP_CANDIDATES).map(|(config, _)| *config).collect()
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Stage, Status};
    use crate::model::{Dtype, Family, Micros};

    fn problem(m: i64, n: i64) -> Problem {
        Problem::new(Family::Matmul, &[("m", m), ("n", n), ("k", 4096)], Dtype::Bf16).unwrap()
    }

    fn config(tile: u32) -> Config {
        Config { block_sizes: vec![tile, 64, 64], ..Config::default() }
    }

    /// A final of these tiles with their times, best first.
    fn final_of(problem: Problem, times: &[(u32, f64)]) -> (Problem, Vec<Trial>) {
        let trial = |(tile, time): &(u32, f64)| {
            let blank = Trial::untimed(&problem, config(*tile), Stage::Final, Status::Ok);
            Trial { median_us: Some(Micros(*time)), ..blank }
        };
        (problem, times.iter().map(trial).collect())
    }

    fn wanted(finals: Vec<(Problem, Vec<Trial>)>, problem: &Problem) -> Vec<u32> {
        let crossings = crossings(&finals.into_iter().collect());
        let (_, configs) = crossings.into_iter().find(|(other, _)| other == problem).unwrap();
        configs.iter().map(|config| config.block_sizes[0]).collect()
    }

    #[test]
    fn what_is_near_the_best_is_tried_in_all_of_its_bucket_and_its_group() {
        let (here, neighbour, elsewhere) = (problem(16, 4096), problem(15, 4000), problem(200, 1000));
        let finals = vec![
            final_of(here, &[(1, 10.0)]),
            final_of(neighbour, &[(2, 10.0), (3, 19.0)]),
            final_of(elsewhere, &[(4, 10.0), (5, 10.4), (6, 11.0)]),
        ];
        assert_eq!(wanted(finals.clone(), &here), [2, 4, 5]);
        assert_eq!(wanted(finals, &elsewhere), [1, 2]);
    }

    #[test]
    fn a_group_is_crossed_with_its_most_frequent_configs_alone() {
        let others = (0..100).map(|index| final_of(problem(16, 2048 + index), &[(1000, 10.0), (index as u32, 10.1)]));
        let here = problem(200, 600);
        let wanted = wanted(others.chain([final_of(here, &[(7, 10.0)])]).collect(), &here);
        assert!(wanted.contains(&1000) && wanted.len() <= GROUP_CANDIDATES, "{wanted:?}");
    }
}
