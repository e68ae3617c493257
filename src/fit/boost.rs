//! Gradient-boosted regression trees over whole numbers: histograms of at most 256 bins, the leaf of most gain split first.
//!
//! Sums are taken in a fixed order whatever threads there are, so the same rows give the same trees.

use crate::heuristics::feature_name;
use rayon::prelude::*;

/// Bins of a feature.
const MOST_BINS: usize = 256;
/// Below so many values to count, threads cost more than they save.
const WORTH_THREADS: usize = 1 << 20;

/// How trees are grown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// Trees, one after another on what those before it leave.
    pub(super) trees: usize,
    /// Leaves of a tree.
    pub(super) leaves: usize,
    /// The share of what is left that a tree takes.
    pub(super) rate: f64,
    /// The least weight of a leaf, where the mean weight of a row is 1.
    pub(super) least_weight: f64,
    /// A leaf of little weight gives so much less: weight / (weight + this).
    pub(super) shrinkage: f64,
}

/// Features in bins.
pub(super) struct Bins {
    /// By feature: each row's bin.
    columns: Vec<Vec<u8>>,
    /// By feature: the threshold above each bin but the last.
    thresholds: Vec<Vec<i64>>,
    /// By feature: where its bins begin in a histogram; and the bins of all.
    starts: Vec<usize>,
}

/// A tree from its root, each split before its side below the threshold, then the other.
pub(super) struct Tree {
    nodes: Vec<Node>,
}

#[derive(Clone, Copy)]
enum Node {
    /// Rows up to the bin go to the next node, others to `other`.
    Split { feature: usize, bin: u8, other: usize },
    /// In units of the target.
    Leaf(i32),
}

impl Bins {
    /// The bins of features by column.
    pub(super) fn new(columns: &[Vec<i64>]) -> Self {
        let thresholds: Vec<Vec<i64>> = columns.par_iter().map(|column| thresholds(column)).collect();
        let of = |(column, thresholds): (&Vec<i64>, &Vec<i64>)| {
            column.iter().map(|value| thresholds.partition_point(|threshold| threshold <= value) as u8).collect()
        };
        let columns = columns.par_iter().zip(&thresholds).map(of).collect();
        let mut starts = vec![0];
        for thresholds in &thresholds {
            starts.push(starts[starts.len() - 1] + thresholds.len() + 1);
        }
        Self { columns, thresholds, starts }
    }

    /// The bins of some rows alone. Features that are not wanted have a single bin, and so no splits.
    pub(super) fn of_rows(&self, rows: &[u32], wanted: &[bool]) -> Self {
        let mut starts = vec![0];
        let mut columns = Vec::new();
        let mut all = Vec::new();
        for ((column, thresholds), wanted) in self.columns.iter().zip(&self.thresholds).zip(wanted) {
            let keep = if *wanted { thresholds.clone() } else { Vec::new() };
            columns.push(rows.iter().map(|row| if *wanted { column[*row as usize] } else { 0 }).collect());
            starts.push(starts[starts.len() - 1] + keep.len() + 1);
            all.push(keep);
        }
        Self { columns, thresholds: all, starts }
    }
}

/// The thresholds between bins: between all neighbouring values where these are few, else such that bins hold about as many
/// rows each.
fn thresholds(column: &[i64]) -> Vec<i64> {
    let mut sorted = column.to_vec();
    sorted.sort_unstable();
    let mut counts: Vec<(i64, usize)> = Vec::new();
    for value in sorted {
        match counts.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => counts.push((value, 1)),
        }
    }
    let mut left = column.len();
    let mut bins_left = MOST_BINS;
    let mut filled = 0;
    let mut thresholds = Vec::new();
    for (place, pair) in counts.windows(2).enumerate() {
        let [(value, count), (next, _)] = *pair else { break };
        filled += count;
        let values_left = counts.len() - place;
        if values_left <= bins_left || filled * bins_left >= left {
            thresholds.push(between(value, next));
            (left, filled, bins_left) = (left - filled, 0, bins_left - 1);
        }
        if bins_left == 1 {
            break;
        }
    }
    thresholds
}

/// The number of fewest digits about half way between two, above the lower and up to the upper; half way by ratio where
/// both are positive.
fn between(lower: i64, upper: i64) -> i64 {
    let middle = if lower > 0 {
        (lower as f64 * upper as f64).sqrt()
    } else if lower == i64::MIN {
        return upper;
    } else {
        f64::midpoint(lower as f64, upper as f64)
    };
    let mut unit = 1_000_000_000_000_000_i64;
    while unit > 1 {
        let round = (middle / unit as f64).round() as i64 * unit;
        if lower < round && round <= upper {
            return round;
        }
        unit /= 10;
    }
    (middle.round() as i64).clamp(lower + 1, upper)
}

/// Sums over the rows of a bin.
#[derive(Clone, Copy, Default)]
struct Sums {
    /// Of weight times what is left of the target.
    residual: f64,
    weight: f64,
}

/// A leaf that may still be split.
struct Open {
    /// Its place among the nodes of the growing tree.
    node: usize,
    rows: std::ops::Range<usize>,
    histogram: Vec<Sums>,
    split: Option<Split>,
}

#[derive(Clone, Copy)]
struct Split {
    gain: f64,
    feature: usize,
    bin: usize,
}

/// A node of a growing tree, in the order of growth.
enum Growing {
    Split { feature: usize, bin: u8, below: usize, other: usize },
    Leaf(f64),
}

/// Rows to grow trees on. What is told by row is so for all rows, wanted or not.
#[derive(Clone, Copy)]
pub(super) struct TrainingSet<'a> {
    /// The rows' features.
    pub(super) bins: &'a Bins,
    /// The rows that are wanted.
    pub(super) rows: &'a [u32],
    /// What the trees are to come to, by row.
    pub(super) target: &'a [f64],
    /// What each row counts for.
    pub(super) weight: &'a [f64],
    /// Each row's problem, where only the differences between the rows of a problem are to be learnt.
    pub(super) within: Option<&'a [usize]>,
}

/// Grows trees one after another, each on what those before it leave.
pub(super) fn boost(training_set: &TrainingSet, growth: &Growth) -> Vec<Tree> {
    let TrainingSet { bins, rows, target, weight, within } = *training_set;
    let mean = rows.iter().map(|row| weight[*row as usize]).sum::<f64>() / rows.len().max(1) as f64;
    let mut left: Vec<Sums> =
        target.iter().zip(weight).map(|(target, weight)| Sums { residual: *target, weight: weight / mean }).collect();
    let mut order = rows.to_vec();
    let mut trees = Vec::with_capacity(growth.trees);
    // The first tree is the mean alone.
    for index in 0..=growth.trees {
        order.copy_from_slice(rows);
        let rate = if index == 0 { 1.0 } else { growth.rate };
        let leaves = if index == 0 { 1 } else { growth.leaves };
        if let Some(problems) = within {
            center(rows, problems, &mut left);
        }
        let (tree, parts) = grow(bins, &mut order, &left, leaves, rate, growth);
        for (rows, leaf) in parts {
            for row in &order[rows] {
                left[*row as usize].residual -= f64::from(leaf);
            }
        }
        let is_done = tree.nodes.len() == 1 && index > 0;
        if is_done {
            break;
        }
        trees.push(tree);
    }
    trees
}

/// Takes from what is left of each problem's rows their mean.
fn center(rows: &[u32], problems: &[usize], left: &mut [Sums]) {
    let mut totals = vec![Sums::default(); problems.iter().max().map_or(0, |last| last + 1)];
    for row in rows {
        let Sums { residual, weight } = left[*row as usize];
        let total = &mut totals[problems[*row as usize]];
        total.residual += residual * weight;
        total.weight += weight;
    }
    for row in rows {
        let total = totals[problems[*row as usize]];
        left[*row as usize].residual -= total.residual / total.weight;
    }
}

/// Grows one tree; gives also the rows of each leaf, as ranges of `order`, with its value.
fn grow(
    bins: &Bins,
    order: &mut [u32],
    left: &[Sums],
    leaves: usize,
    rate: f64,
    growth: &Growth,
) -> (Tree, Vec<(std::ops::Range<usize>, i32)>) {
    let value = |total: &Sums| rate * total.residual / (total.weight + if leaves > 1 { growth.shrinkage } else { 0.0 });
    let total = total_of(order, left);
    let mut nodes = vec![Growing::Leaf(value(&total))];
    let mut done: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    let mut open = Vec::new();
    if leaves > 1 {
        let histogram = histogram(bins, order, left);
        let split = best_split(bins, &histogram, &total, growth);
        open.push(Open { node: 0, rows: 0..order.len(), histogram, split });
    } else {
        done.push((0, 0..order.len()));
    }
    while open.len() + done.len() < leaves {
        // The earliest of equal ones, so that the order is fixed.
        let best = (0..open.len()).filter(|place| open[*place].split.is_some()).min_by(|one, other| {
            let gain = |place: &usize| open[*place].split.map_or(0.0, |split| split.gain);
            gain(other).total_cmp(&gain(one)).then(one.cmp(other))
        });
        let Some(best) = best else { break };
        let leaf = open.remove(best);
        let Some(Split { feature, bin, .. }) = leaf.split else { break };
        let column = &bins.columns[feature];
        let middle =
            leaf.rows.start + part(&mut order[leaf.rows.clone()], |row| usize::from(column[row as usize]) <= bin);
        let sides = [leaf.rows.start..middle, middle..leaf.rows.end];
        let smaller = usize::from(sides[1].len() < sides[0].len());
        let counted = histogram(bins, &order[sides[smaller].clone()], left);
        let mut rest = leaf.histogram;
        for (rest, counted) in rest.iter_mut().zip(&counted) {
            rest.residual -= counted.residual;
            rest.weight -= counted.weight;
        }
        let mut histograms = [counted, rest];
        if smaller == 1 {
            histograms.swap(0, 1);
        }
        let first = nodes.len();
        nodes[leaf.node] = Growing::Split { feature, bin: bin as u8, below: first, other: first + 1 };
        for (side, (rows, histogram)) in sides.into_iter().zip(histograms).enumerate() {
            let total = total_of(&order[rows.clone()], left);
            nodes.push(Growing::Leaf(value(&total)));
            let split = best_split(bins, &histogram, &total, growth);
            open.push(Open { node: first + side, rows, histogram, split });
        }
    }
    done.extend(open.into_iter().map(|leaf| (leaf.node, leaf.rows)));
    let parts = done.into_iter().map(|(node, rows)| (rows, leaf_of(&nodes[node]))).collect();
    let mut tree = Tree { nodes: Vec::with_capacity(nodes.len()) };
    tree.write_down(&nodes, 0);
    (tree, parts)
}

fn leaf_of(node: &Growing) -> i32 {
    match node {
        Growing::Leaf(value) => value.round() as i32,
        Growing::Split { .. } => 0,
    }
}

/// Puts the rows that `is_below` first, both sides in the order they had, and gives their number.
fn part(rows: &mut [u32], is_below: impl Fn(u32) -> bool) -> usize {
    let mut others = Vec::with_capacity(rows.len());
    let mut below = 0;
    for place in 0..rows.len() {
        let row = rows[place];
        if is_below(row) {
            rows[below] = row;
            below += 1;
        } else {
            others.push(row);
        }
    }
    rows[below..].copy_from_slice(&others);
    below
}

fn total_of(rows: &[u32], left: &[Sums]) -> Sums {
    rows.iter().fold(Sums::default(), |total, row| {
        let Sums { residual, weight } = left[*row as usize];
        Sums { residual: total.residual + residual * weight, weight: total.weight + weight }
    })
}

fn histogram(bins: &Bins, rows: &[u32], left: &[Sums]) -> Vec<Sums> {
    // Side by side, so that each feature reads them in order.
    let values: Vec<Sums> = rows
        .iter()
        .map(|row| left[*row as usize])
        .map(|Sums { residual, weight }| Sums { residual: residual * weight, weight })
        .collect();
    let mut histogram = vec![Sums::default(); bins.starts[bins.columns.len()]];
    let mut parts = Vec::with_capacity(bins.columns.len());
    let mut rest = histogram.as_mut_slice();
    for (column, ends) in bins.columns.iter().zip(bins.starts.windows(2)) {
        let (part, others) = rest.split_at_mut(ends[1] - ends[0]);
        parts.push((column, part));
        rest = others;
    }
    let count = |(column, part): (&Vec<u8>, &mut [Sums])| {
        for (row, value) in rows.iter().zip(&values) {
            let sums = &mut part[usize::from(column[*row as usize])];
            sums.residual += value.residual;
            sums.weight += value.weight;
        }
    };
    if rows.len() * bins.columns.len() < WORTH_THREADS {
        parts.into_iter().for_each(count);
    } else {
        parts.into_par_iter().for_each(count);
    }
    histogram
}

fn best_split(bins: &Bins, histogram: &[Sums], total: &Sums, growth: &Growth) -> Option<Split> {
    let score = |residual: f64, weight: f64| residual * residual / (weight + growth.shrinkage);
    let whole = score(total.residual, total.weight);
    // What rounding leaves of no gain is none.
    let mut best = Split { gain: whole.abs() * 1e-9 + 1e-9, feature: usize::MAX, bin: 0 };
    for (feature, ends) in bins.starts.windows(2).enumerate() {
        let mut below = Sums::default();
        for (bin, sums) in histogram[ends[0]..ends[1]].iter().enumerate().take(ends[1] - ends[0] - 1) {
            below.residual += sums.residual;
            below.weight += sums.weight;
            let other = Sums { residual: total.residual - below.residual, weight: total.weight - below.weight };
            if below.weight < growth.least_weight {
                continue;
            }
            if other.weight < growth.least_weight {
                break;
            }
            let gain = score(below.residual, below.weight) + score(other.residual, other.weight) - whole;
            if gain > best.gain {
                best = Split { gain, feature, bin };
            }
        }
    }
    (best.feature != usize::MAX).then_some(best)
}

impl Tree {
    fn write_down(&mut self, nodes: &[Growing], from: usize) {
        match nodes[from] {
            Growing::Leaf(_) => self.nodes.push(Node::Leaf(leaf_of(&nodes[from]))),
            Growing::Split { feature, bin, below, other } => {
                let place = self.nodes.len();
                self.nodes.push(Node::Leaf(0));
                self.write_down(nodes, below);
                self.nodes[place] = Node::Split { feature, bin, other: self.nodes.len() };
                self.write_down(nodes, other);
            }
        }
    }

    /// The leaf that a row reaches.
    pub(super) fn leaf(&self, bins: &Bins, row: usize) -> i32 {
        let mut place = 0;
        loop {
            match self.nodes[place] {
                Node::Leaf(value) => return value,
                Node::Split { feature, bin, other } => {
                    place = if bins.columns[feature][row] <= bin { place + 1 } else { other };
                }
            }
        }
    }

    /// The tree as a document holds it: features' names with thresholds, and leaves with their signs.
    pub(super) fn to_text(&self, bins: &Bins) -> String {
        let word = |node: &Node| match *node {
            Node::Leaf(value) => format!("{value:+}"),
            Node::Split { feature, bin, .. } => {
                format!("{}{}", feature_name(feature), bins.thresholds[feature][usize::from(bin)])
            }
        };
        self.nodes.iter().map(word).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GROWTH: Growth = Growth { trees: 60, leaves: 8, rate: 0.3, least_weight: 1.0, shrinkage: 0.1 };

    fn predict(trees: &[Tree], bins: &Bins, row: usize) -> i64 {
        trees.iter().map(|tree| i64::from(tree.leaf(bins, row))).sum()
    }

    /// A grid of two features, and a third that tells nothing.
    fn grid() -> Vec<Vec<i64>> {
        let rows = (0..400).map(|row| [row % 20, row / 20, row * 7919 % 13]);
        (0..3).map(|feature| rows.clone().map(|row| row[feature]).collect()).collect()
    }

    #[test]
    fn trees_come_to_what_depends_on_two_features_together() {
        let columns = grid();
        let bins = Bins::new(&columns);
        let target: Vec<f64> =
            (0..400).map(|row| if columns[0][row] < 7 && columns[1][row] >= 12 { 9000.0 } else { -1000.0 }).collect();
        let (rows, weight) = ((0..400).collect::<Vec<u32>>(), vec![1.0; 400]);
        let training_set = TrainingSet { bins: &bins, rows: &rows, target: &target, weight: &weight, within: None };
        let trees = boost(&training_set, &GROWTH);
        for (row, target) in target.iter().enumerate() {
            assert!((predict(&trees, &bins, row) as f64 - target).abs() < 100.0, "row {row}");
        }
        assert!(trees[1].to_text(&bins).contains("a7") && trees[1].to_text(&bins).contains("b12"));
    }

    #[test]
    fn rows_that_are_not_wanted_and_rows_of_no_weight_teach_nothing() {
        let columns = grid();
        let bins = Bins::new(&columns);
        let rows: Vec<u32> = (0..400).filter(|row| row % 20 != 3).collect();
        let target: Vec<f64> = (0..400).map(|row| if row % 20 == 3 || row % 20 == 11 { 1e9 } else { 500.0 }).collect();
        let weight: Vec<f64> = (0..400).map(|row| if row % 20 == 11 { 0.0 } else { 1.0 }).collect();
        let training_set = TrainingSet { bins: &bins, rows: &rows, target: &target, weight: &weight, within: None };
        let trees = boost(&training_set, &GROWTH);
        assert_eq!((trees.len(), predict(&trees, &bins, 3), predict(&trees, &bins, 11)), (1, 500, 500));
    }

    #[test]
    fn within_problems_only_differences_count() {
        let columns = grid();
        let bins = Bins::new(&columns);
        let problems: Vec<usize> = (0..400).map(|row| row / 20).collect();
        // Problems are worlds apart; the first feature makes the same difference in all.
        let level = |row: usize| ((row / 20) * (row / 20) * 7717 % 1000) as f64 * 1e4;
        let target: Vec<f64> = (0..400).map(|row| level(row) + (row % 20) as f64 * 100.0).collect();
        let (rows, weight) = ((0..400).collect::<Vec<u32>>(), vec![1.0; 400]);
        let training_set =
            TrainingSet { bins: &bins, rows: &rows, target: &target, weight: &weight, within: Some(&problems) };
        let trees = boost(&training_set, &GROWTH);
        for row in 0..400 {
            let difference = predict(&trees, &bins, row) - predict(&trees, &bins, row / 20 * 20);
            assert!((difference - (row % 20) as i64 * 100).abs() < 60, "row {row}: {difference}");
        }
    }

    #[test]
    fn bins_hold_about_as_many_rows_each_where_values_are_many() {
        let column: Vec<i64> = (0..100_000).map(|row| row * row).collect();
        let bins = Bins::new(&[column]);
        let mut counts = vec![0; bins.thresholds[0].len() + 1];
        bins.columns[0].iter().for_each(|bin| counts[usize::from(*bin)] += 1);
        assert_eq!(counts.len(), MOST_BINS);
        assert!(counts.iter().all(|count| (200..800).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_threshold_parts_the_values_beside_it(a: i64, b: i64, small_a in -50i64..50, small_b in -50i64..50) {
            for (a, b) in [(a, b), (small_a, small_b)] {
                let (lower, upper) = (a.min(b), a.max(b));
                if lower < upper {
                    let threshold = between(lower, upper);
                    prop_assert!(lower < threshold && threshold <= upper, "{} < {} <= {}", lower, threshold, upper);
                }
            }
        }

        #[test]
        fn bins_keep_the_order_of_values(column in prop::collection::vec(prop_oneof![-9i64..9, any::<i64>()], 1..900)) {
            let bins = Bins::new(std::slice::from_ref(&column));
            let few = column.iter().collect::<std::collections::BTreeSet<_>>().len() <= MOST_BINS;
            for (one, bin_of_one) in column.iter().zip(&bins.columns[0]) {
                for (other, bin_of_other) in column.iter().zip(&bins.columns[0]).take(50) {
                    prop_assert!(one > other || bin_of_one <= bin_of_other);
                    prop_assert!(!few || (one == other) == (bin_of_one == bin_of_other));
                }
                let thresholds = &bins.thresholds[0];
                let bin = usize::from(*bin_of_one);
                prop_assert!(bin == 0 || thresholds[bin - 1] <= *one);
                prop_assert!(bin == thresholds.len() || *one < thresholds[bin]);
            }
        }
    }
}
