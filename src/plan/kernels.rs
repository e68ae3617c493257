//! The kernels that configs of a plan come to, and samples of them.

use super::{Plan, Space, fits, runs_own_kernels};
use crate::families::{self, FamilySpec, Kernels, Needed};
use crate::model::{Config, GpuProfile, Problem};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};

/// Groups of configs that are looked at before what they need is put together: it takes memory.
const GROUPS_AT_ONCE: usize = 256;

impl Plan {
    /// The kernels of all spaces for this GPU on these problems. Nothing is needed on a device that runs its own.
    pub fn kernels<'p>(&self, problems: impl IntoIterator<Item = &'p Problem>, profile: &GpuProfile) -> Kernels {
        let spec = families::spec(self.family);
        if runs_own_kernels(self.family, profile) {
            return Kernels::default();
        }
        let problems: Vec<&Problem> = problems.into_iter().filter(|problem| fits(problem).is_ok()).collect();
        let mut configs: BTreeMap<&Config, Vec<&Space>> = BTreeMap::new();
        for space in self.spaces(profile) {
            for config in std::iter::once(&space.default).chain(&space.configs) {
                configs.entry(config).or_default().push(space);
            }
        }
        let mut groups: BTreeMap<Config, Vec<(&Config, Vec<&Space>)>> = BTreeMap::new();
        for (config, spaces) in configs {
            groups.entry(spec.compiled_half(config)).or_default().push((config, spaces));
        }
        let groups: Vec<_> = groups.into_values().collect();
        let (mut kernels, mut places) = (Kernels::default(), HashMap::new());
        for some in groups.chunks(GROUPS_AT_ONCE) {
            let found: Vec<Kernels> = some.par_iter().map(|group| of_group(spec, group, &problems, profile)).collect();
            for found in found {
                // Groups may share a kernel: what it is compiled for is not all that tells them apart.
                let place_of = |needed: Needed| {
                    *places.entry(needed.kernel.clone()).or_insert_with(|| {
                        kernels.all.push(needed);
                        kernels.all.len() - 1
                    })
                };
                let all: Vec<usize> = found.all.into_iter().map(place_of).collect();
                let own = found.of_configs.iter().map(|needed| needed.iter().map(|place| all[*place]).collect());
                kernels.of_configs.extend(own);
                kernels.pruned += found.pruned;
            }
        }
        kernels
    }
}

/// What configs with the same compile-time half need where one of their spaces tries them.
fn of_group(
    spec: &dyn FamilySpec,
    group: &[(&Config, Vec<&Space>)],
    problems: &[&Problem],
    profile: &GpuProfile,
) -> Kernels {
    let configs: Vec<&Config> = group.iter().map(|(config, _)| *config).collect();
    let is_default = |(config, spaces): &(&Config, Vec<&Space>)| spaces.iter().any(|space| space.default == **config);
    let defaults: Vec<bool> = group.iter().map(is_default).collect();
    Kernels::of_half(spec, &configs, problems, profile, |place, values| {
        defaults[place] || group[place].1.iter().any(|space| space.suits(values))
    })
}

/// Up to so many kernels of each of these: their places. One after the other is drawn of each in turn, and of each source, entry
/// and kind of instructions in turn, as long as it has some left; among these it is one that has most macros of its source at values
/// that no kernel drawn before has, so that few kernels of many families show each value. A larger sample holds a smaller one of the
/// same seed.
pub fn sample(families: &[Kernels], most: usize, seed: u64) -> Vec<BTreeSet<usize>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // The first to be drawn is the greatest of a heap: the least rank, then the first of a random order.
    let shuffled = |kernels: &Kernels| -> BinaryHeap<Reverse<(Rank, usize, usize)>> {
        let mut places: Vec<usize> = (0..kernels.all.len()).collect();
        places.shuffle(&mut random);
        let least = |place: usize| (0, Reverse(kernels.all[place].kernel.macros.len()));
        places.into_iter().zip(0..).map(|(place, order)| Reverse((least(place), order, place))).collect()
    };
    let mut left: Vec<_> = families.iter().map(shuffled).collect();
    let mut drawn: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); families.len()];
    let (mut seen, mut turns) = (HashSet::new(), HashMap::new());
    for _ in 0..most {
        if left.iter().all(BinaryHeap::is_empty) {
            break;
        }
        for (family, (Kernels { all, .. }, left)) in families.iter().zip(&mut left).enumerate() {
            while let Some(Reverse((_, order, place))) = left.pop() {
                let Needed { kernel, mma, .. } = &all[place];
                let turn = turns.entry((family, &kernel.code, &kernel.entry, *mma)).or_insert(0);
                let new = kernel.macros.iter().filter(|one| !seen.contains(&(&kernel.code, *one))).count();
                // Ranks only grow as others are drawn, so that what is known of those left is at most what they are by now.
                let now = (*turn, Reverse(new));
                if left.peek().is_some_and(|Reverse((known, next, _))| (*known, *next) < (now, order)) {
                    left.push(Reverse((now, order, place)));
                    continue;
                }
                *turn += 1;
                seen.extend(kernel.macros.iter().map(|one| (&kernel.code, one)));
                drawn[family].insert(place);
                break;
            }
        }
    }
    drawn
}

/// What is drawn first has the least: how many of its source, entry and instructions were drawn, and most macros at new values.
type Rank = (usize, Reverse<usize>);

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{KernelSpec, Launch};
    use crate::model::{Bytes, Family, Mma};

    fn kernels(all: impl IntoIterator<Item = (&'static str, usize, Mma)>) -> Kernels {
        let launch = Launch {
            grid: [1; 3],
            cluster: [1; 3],
            threads: [32, 1, 1],
            dynamic_smem: Bytes(0),
            args: Vec::new(),
            workspace: Bytes(0),
            counters: 0,
            cooperative: false,
        };
        let needed = |(source, tile, mma): (&str, usize, Mma)| Needed {
            kernel: KernelSpec::shipped(source, "gemm", [("TILE", tile.to_string())]),
            launch: launch.clone(),
            mma: Some(mma),
        };
        Kernels { all: all.into_iter().map(needed).collect(), ..Kernels::default() }
    }

    #[test]
    fn a_sample_holds_kernels_of_every_space_and_a_larger_one_holds_it() {
        let few = (0..3).map(|tile| ("wgmma.cu", tile, Mma::Wgmma));
        let all = [kernels((0..100).map(|tile| ("mma_sync.cu", tile, Mma::MmaSync)).chain(few))];
        let of_few = |sample: &[BTreeSet<usize>]| sample[0].iter().filter(|place| **place >= 100).count();
        let samples = [1, 4, 10, usize::MAX].map(|most| sample(&all, most, 7));
        assert_eq!(samples.each_ref().map(|sample| sample[0].len()), [1, 4, 10, 103]);
        let [one, four, ten, _] = &samples;
        assert_eq!((of_few(four), of_few(ten)), (2, 3), "as many of each space as it has");
        assert!(one[0].is_subset(&four[0]) && four[0].is_subset(&ten[0]));
        assert_eq!(*ten, sample(&all, 10, 7));
        assert_ne!(*ten, sample(&all, 10, 8));
    }

    #[test]
    fn families_that_share_a_source_show_each_value_together() {
        let family =
            || kernels((0..40).map(|at| ("gemm.cu", at % 8, if at < 32 { Mma::Wgmma } else { Mma::MmaSyncTma })));
        let all = [family(), family(), family(), family()];
        for seed in 0..20 {
            let drawn = sample(&all, 2, seed);
            let tiles: BTreeSet<usize> = drawn.iter().flatten().map(|place| place % 8).collect();
            assert_eq!(tiles.len(), 8, "each of eight kernels has another");
            assert!(drawn.iter().all(|of_family| of_family.iter().any(|place| *place >= 32)), "both instructions");
        }
    }

    #[test]
    fn what_configs_need_is_what_their_candidates_are_compiled_from() {
        for (family, gpu) in
            [(Family::Elementwise, "h200"), (Family::RowNormRms, "b200"), (Family::MatmulMxfp8, "b200")]
        {
            let (plan, profile) = (Plan::load(family, None).unwrap(), GpuProfile::by_name(gpu).unwrap());
            let (mut needed, mut refused): (BTreeMap<Config, BTreeSet<KernelSpec>>, BTreeSet<Config>) =
                Default::default();
            for planned in plan.problems(&profile).unwrap() {
                for candidate in plan.candidates(&planned.problem, &profile) {
                    match candidate.program {
                        Ok(program) => {
                            needed.entry(candidate.config).or_default().extend(program.map(|(kernel, _)| kernel));
                        }
                        Err(_) => drop(refused.insert(candidate.config)),
                    }
                }
            }
            let problems = plan.problems(&profile).unwrap();
            let kernels = plan.kernels(problems.iter().map(|planned| &planned.problem), &profile);
            let own =
                |places: &BTreeSet<usize>| places.iter().map(|place| kernels.all[*place].kernel.clone()).collect();
            let mut of_configs: Vec<BTreeSet<KernelSpec>> = kernels.of_configs.iter().map(own).collect();
            let mut wanted: Vec<_> = needed.values().cloned().collect();
            of_configs.sort();
            wanted.sort();
            assert!(of_configs == wanted, "{family}: {} and {} configs", of_configs.len(), wanted.len());
            assert_eq!(kernels.pruned, refused.iter().filter(|config| !needed.contains_key(*config)).count());
            assert_eq!(kernels.all.len(), needed.values().flatten().collect::<BTreeSet<_>>().len(), "each once");
        }
    }

    #[test]
    fn two_kernels_of_each_family_have_every_source_with_every_kind_of_instructions() {
        let families = [Family::Matmul, Family::MatmulInt4, Family::MatmulNvfp4, Family::MatmulFp8, Family::RowSoftmax];
        let profile = GpuProfile::by_name("b200").unwrap();
        let all = families.map(|family| {
            let plan = Plan::load(family, None).unwrap();
            let problems = plan.problems(&profile).unwrap().iter().step_by(8);
            plan.kernels(problems.map(|planned| &planned.problem), &profile)
        });
        let kind = |needed: &Needed| (needed.kernel.code.clone(), needed.mma);
        let wanted: BTreeSet<_> = all.iter().flat_map(|kernels| &kernels.all).map(kind).collect();
        for seed in 0..3 {
            let drawn = sample(&all, 2, seed);
            let drawn =
                all.iter().zip(&drawn).flat_map(|(kernels, drawn)| drawn.iter().map(|place| &kernels.all[*place]));
            assert_eq!(drawn.map(kind).collect::<BTreeSet<_>>(), wanted, "by seed {seed}");
        }
    }
}
