//! Leaving problems out, with all their kin, to see how a model does on shapes that it was not fitted to.

use crate::heuristics::Regret;
use std::collections::{BTreeMap, HashMap};

/// Problems divided into folds so that no two folds have kin.
#[derive(Clone, Debug)]
pub(super) struct Kinship {
    /// The sets of dimensions by which problems are kin here, by their places.
    pub(super) by: Vec<Vec<usize>>,
    /// Each problem's kind, in order of appearance.
    kinds: Vec<usize>,
}

impl Kinship {
    /// The kinds of problems by their dimensions. Sets of dimensions are taken in their order; one that would leave a kind
    /// with more than a `1 / folds` of all problems is not. The same problem in two types is of one kind.
    pub(super) fn new(problems: &[Vec<i64>], sets: &[Vec<usize>], folds: usize) -> Self {
        let most = problems.len().div_ceil(folds.max(1));
        let every: Vec<usize> = (0..problems.first().map_or(0, Vec::len)).collect();
        let mut kinds = join(&(0..problems.len()).collect::<Vec<_>>(), problems, &every);
        let mut by = Vec::new();
        for set in sets {
            let joined = join(&kinds, problems, set);
            let mut sizes = vec![0; problems.len()];
            for kind in &joined {
                sizes[*kind] += 1;
            }
            if sizes.iter().all(|size| *size <= most) {
                kinds = joined;
                by.push(set.clone());
            }
        }
        Self { by, kinds }
    }

    /// Each problem's fold. The seed decides which kinds come together.
    pub(super) fn folds(&self, folds: usize, seed: u64) -> Vec<usize> {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        self.kinds.iter().for_each(|kind| *sizes.entry(*kind).or_default() += 1);
        let mut kinds: Vec<_> = sizes.into_iter().collect();
        kinds.sort_by_key(|(kind, _)| mixed(*kind as u64, seed));
        // Each kind to the fold that has fewest problems so far.
        let mut filled = vec![0; folds];
        let mut fold_of = HashMap::new();
        for (kind, size) in kinds {
            let fold = (0..folds).min_by_key(|fold| (filled[*fold], *fold)).unwrap_or(0);
            filled[fold] += size;
            fold_of.insert(kind, fold);
        }
        self.kinds.iter().map(|kind| fold_of[kind]).collect()
    }
}

/// Joins kinds that have problems alike in a set of dimensions; a kind is named by its first problem.
fn join(kinds: &[usize], problems: &[Vec<i64>], set: &[usize]) -> Vec<usize> {
    let mut kinds = kinds.to_vec();
    let root = |kinds: &[usize], mut place: usize| {
        while kinds[place] != place {
            place = kinds[place];
        }
        place
    };
    let mut first_of: HashMap<Vec<i64>, usize> = HashMap::new();
    for (place, problem) in problems.iter().enumerate() {
        let alike = set.iter().map(|dim| problem[*dim]).collect();
        let first = *first_of.entry(alike).or_insert(place);
        let [one, other] = [root(&kinds, first), root(&kinds, place)];
        kinds[one.max(other)] = one.min(other);
    }
    (0..kinds.len()).map(|place| root(&kinds, place)).collect()
}

/// A number that looks like chance (the finalizer of MurmurHash3).
fn mixed(number: u64, seed: u64) -> u64 {
    let mut mixed = number.wrapping_add(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^ (mixed >> 33)
}

/// A choice on a problem that was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOut {
    /// The problem's fallback group.
    pub group: String,
    /// Whether its rows are aligned.
    pub aligned: bool,
    /// The choice's time over the best's, where it was tried there.
    pub slowdown: Option<f64>,
}

/// Choices in fewer problems than this say little on their own.
const FEWEST_PROBLEMS: usize = 5;
/// And so do choices that were tried on a smaller share of the problems than this: a search leaves untried what it expects little of, so
/// that the others flatter them.
const LEAST_TRIED: f64 = 0.75;

/// A group and an alignment, or all of them.
type Part<'c> = (Option<&'c str>, Option<bool>);

/// The regret of choices where they were tried: over all, by alignment, by group and by both. `divisions` is how often each problem was
/// left out.
pub fn regrets(choices: &[LeftOut], divisions: usize) -> Vec<Regret> {
    let mut cells: BTreeMap<Part, Vec<Option<f64>>> = BTreeMap::new();
    for choice in choices {
        for group in [None, Some(choice.group.as_str())] {
            for aligned in [None, Some(choice.aligned)] {
                cells.entry((group, aligned)).or_default().push(choice.slowdown);
            }
        }
    }
    let told = cells.into_iter().filter_map(|((group, aligned), slowdowns)| {
        let tried: Vec<f64> = slowdowns.iter().copied().flatten().collect();
        let is_all = group.is_none() && aligned.is_none();
        let says_much = tried.len() >= FEWEST_PROBLEMS * divisions.max(1)
            && tried.len() as f64 >= LEAST_TRIED * slowdowns.len() as f64;
        (says_much || is_all && !tried.is_empty()).then(|| regret(group, aligned, tried, divisions))
    });
    told.collect()
}

fn regret(group: Option<&str>, aligned: Option<bool>, mut slowdowns: Vec<f64>, divisions: usize) -> Regret {
    slowdowns.sort_by(f64::total_cmp);
    let count = slowdowns.len();
    let logs: f64 = slowdowns.iter().map(|slowdown| slowdown.ln()).sum();
    Regret {
        group: group.map(str::to_owned),
        aligned,
        problems: count / divisions.max(1),
        geomean: (logs / count as f64).exp(),
        p90: slowdowns[(count * 9 / 10).min(count - 1)],
        max: slowdowns[count - 1],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_set_of_dimensions_that_makes_all_problems_kin_is_passed_over() {
        // Ten pairs (n, k) with three m each; m are the same everywhere.
        let problems: Vec<Vec<i64>> = (0..10).flat_map(|pair| [1, 16, 256].map(|m| vec![m, 64 * pair, 4096])).collect();
        let kinship = Kinship::new(&problems, &[vec![1, 2], vec![0, 2], vec![0, 1]], 5);
        assert_eq!(kinship.by, [vec![1, 2], vec![0, 1]]);
        let folds = kinship.folds(5, 0);
        assert!(folds.chunks(3).all(|kin| kin.iter().all(|fold| *fold == kin[0])));
        assert_ne!(folds, kinship.folds(5, 1));
    }

    #[test]
    fn regrets_are_told_for_cells_with_enough_problems_of_which_most_were_tried() {
        let left_out = |group: &str, aligned, slowdown| {
            let group = group.to_owned();
            LeftOut { group, aligned, slowdown: Some(slowdown) }
        };
        let mut choices: Vec<_> =
            (0..10).map(|place| left_out("rect", place < 6, 1.0 + f64::from(place) / 10.0)).collect();
        choices.push(left_out("small_m", true, 3.0));
        let told = regrets(&choices, 1);
        let cells: Vec<_> = told.iter().map(|cell| (cell.group.as_deref(), cell.aligned, cell.problems)).collect();
        assert_eq!(
            cells,
            [(None, None, 11), (None, Some(true), 7), (Some("rect"), None, 10), (Some("rect"), Some(true), 6)]
        );
        assert_eq!((told[0].max, told[2].p90, told[2].max), (3.0, 1.9, 1.9));
        let geomean = (1..10).map(|place| (1.0 + f64::from(place) / 10.0).ln()).sum::<f64>() / 10.0;
        assert!((told[2].geomean - geomean.exp()).abs() < 1e-12);
        // Three more that were not tried: 11 of 14 were, 7 of 9 aligned ones, 10 of 13 and 6 of 8 of the group's; then one more.
        let untried = |aligned| LeftOut { slowdown: None, ..left_out("rect", aligned, 1.0) };
        choices.extend([untried(true), untried(true), untried(false)]);
        assert_eq!(regrets(&choices, 1), told);
        choices.push(untried(true));
        let cells = |told: &[Regret]| told.iter().map(|cell| (cell.group.is_some(), cell.aligned)).collect::<Vec<_>>();
        assert_eq!(cells(&regrets(&choices, 1)), [(false, None)]);
        assert_eq!(regrets(&[untried(true)], 1), []);
    }

    proptest! {
        #[test]
        fn no_two_folds_have_kin(problems in prop::collection::vec(prop::collection::vec(1i64..6, 3), 1..60), seed: u64) {
            let kinship = Kinship::new(&problems, &[vec![1, 2], vec![0]], 5);
            let folds = kinship.folds(5, seed);
            for (one, fold) in problems.iter().zip(&folds) {
                prop_assert!(*fold < 5);
                for (other, other_fold) in problems.iter().zip(&folds) {
                    let is_kin = kinship.by.iter().any(|set| set.iter().all(|dim| one[*dim] == other[*dim]));
                    prop_assert!(!(is_kin || one == other) || fold == other_fold);
                }
            }
        }
    }
}
