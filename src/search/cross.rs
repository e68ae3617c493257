//! Crossing: which finalists of one problem are measured on which others, since a rule or a fallback needs the times of one
//! config on every problem it answers for.

use crate::heuristics::{bucket_of, group_of};
use crate::journal::Trial;
use crate::model::{Config, Problem};
use std::collections::{BTreeMap, BTreeSet};

/// Finalists of a problem that are measured on every problem of its fallback group.
const GROUP_FINALISTS: usize = 2;
/// The configs of each group, seen in most of its finals, that are measured on every problem of the family: candidates for
/// the family's best single config.
const CHAMPIONS: usize = 2;

/// For each problem with a final, the configs still to be measured on it. `finals` holds each problem's finalists, best
/// first.
pub fn crossings(finals: &BTreeMap<Problem, Vec<Trial>>) -> Vec<(Problem, Vec<Config>)> {
    let mut of_bucket: BTreeMap<_, BTreeSet<&Config>> = BTreeMap::new();
    let mut of_group: BTreeMap<_, BTreeSet<&Config>> = BTreeMap::new();
    let mut appearances: BTreeMap<_, BTreeMap<&Config, usize>> = BTreeMap::new();
    for (problem, trials) in finals {
        let group = group_of(problem);
        let configs = || trials.iter().map(|trial| &trial.config);
        of_bucket.entry(bucket_of(problem)).or_default().extend(configs());
        of_group.entry(group).or_default().extend(configs().take(GROUP_FINALISTS));
        for config in configs().collect::<BTreeSet<_>>() {
            *appearances.entry(group).or_default().entry(config).or_default() += 1;
        }
    }
    let champions: BTreeSet<&Config> = appearances.values().flat_map(champions).collect();
    finals
        .iter()
        .map(|(problem, trials)| {
            let done: BTreeSet<&Config> = trials.iter().map(|trial| &trial.config).collect();
            let mut wanted = of_bucket[&bucket_of(problem)].clone();
            wanted.extend(&of_group[&group_of(problem)]);
            wanted.extend(&champions);
            (*problem, wanted.difference(&done).map(|config| (*config).clone()).collect())
        })
        .collect()
}

fn champions<'a>(appearances: &BTreeMap<&'a Config, usize>) -> Vec<&'a Config> {
    let mut ranked: Vec<_> = appearances.iter().collect();
    ranked.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    ranked.into_iter().take(CHAMPIONS).map(|(config, _)| *config).collect()
}
