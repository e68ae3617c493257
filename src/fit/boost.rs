//! Gradient-boosted regression trees over whole numbers: histograms of at most 256 bins, the leaf of most gain split first.
//!
//! Sums are taken in a fixed order whatever threads there are, so the same rows give the same trees.

use rayon::prelude::*;

/// Bins of a feature.
const MOST_BINS: usize = 256;
/// Below so many values to count, threads cost more than they save.
const WORTH_THREADS: usize = 1 << 20;

/// How trees are grown.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Trees, one after another on what those before it leave.
    pub trees: usize,
    /// Leaves of a tree.
    pub leaves: usize,
    /// The share of what is left that a tree takes.
    pub rate: f64,
    /// The least weight of a leaf, where the mean weight of a row is 1.
    pub least_weight: f64,
    /// A leaf of little weight gives so much less: weight / (weight + this).
    pub shrinkage: f64,
}

/// Features in bins.
pub struct Bins {
    /// By feature: each row's bin.
    columns: Vec<Vec<u8>>,
    /// By feature: the threshold above each bin but the last.
    thresholds: Vec<Vec<i64>>,
    /// By feature: where its bins begin in a histogram; and the bins of all.
    starts: Vec<usize>,
}

/// A tree from its root, each split before its side below the threshold, then the other.
pub struct Tree {
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
    pub fn new(columns: &[Vec<i64>]) -> Self {
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
    total: Sums,
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

/// Grows trees on some rows. `target` and `weight` are of all rows.
pub fn boost(bins: &Bins, rows: &[u32], target: &[f64], weight: &[f64], growth: &Growth) -> Vec<Tree> {
    let mean = rows.iter().map(|row| weight[*row as usize]).sum::<f64>() / rows.len().max(1) as f64;
    let mut left: Vec<Sums> = target
        .iter()
        .zip(weight)
        .map(|(target, weight)| Sums { residual: *target, weight: weight / mean })
        .collect();
    let mut order = rows.to_vec();
    let mut trees = Vec::with_capacity(growth.trees);
    // The first tree is the mean alone.
    for index in 0..=growth.trees {
        order.copy_from_slice(rows);
        let rate = if index == 0 { 1.0 } else { growth.rate };
        let leaves = if index == 0 { 1 } else { growth.leaves };
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
        open.push(Open { node: 0, rows: 0..order.len(), histogram, total, split });
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
        let middle = leaf.rows.start + part(&mut order[leaf.rows.clone()], |row| usize::from(column[row as usize]) <= bin);
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
            open.push(Open { node: first + side, rows, histogram, total, split });
        }
        let _ = leaf.total;
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
    pub fn leaf(&self, bins: &Bins, row: usize) -> i32 {
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

    /// The tree as a document holds it: `feature<threshold` and leaves.
    pub fn to_text(&self, bins: &Bins) -> String {
        let word = |node: &Node| match *node {
            Node::Leaf(value) => value.to_string(),
            Node::Split { feature, bin, .. } => format!("{feature}<{}", bins.thresholds[feature][usize::from(bin)]),
        };
        self.nodes.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}
