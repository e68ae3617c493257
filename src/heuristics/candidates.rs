//! Configs to choose from, ready for any problem. What an expression makes of a problem and a config it makes of all configs that
//! are alike in what it reads of them: of some hundred configs it is worked out for some tens.

use super::expression::Expression;
use super::steps::MISSING;
use std::collections::{BTreeSet, HashMap};

/// Where the value of a slot comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// It is the same for all configs of a problem.
    Problem,
    /// It follows from the config alone, and has this place among what does.
    Config(usize),
    /// It varies with both, and has this place among the expressions that do.
    Both(usize),
}

/// What expressions that vary with problem and config read.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    /// Where the value of each slot comes from.
    sources: Vec<Source>,
    /// What is read of a config, by itself or by what is read, in places among what follows from it alone: each such set once.
    sets: Vec<BTreeSet<usize>>,
    /// The set of each expression, by its place.
    of: Vec<usize>,
}

impl Reads {
    /// Of expressions that stand after those whose values they read.
    pub(super) fn new<'e>(sources: Vec<Source>, expressions: impl Iterator<Item = &'e Expression>) -> Self {
        let mut reads = Self { sources, sets: Vec::new(), of: Vec::new() };
        for expression in expressions {
            let mut set = BTreeSet::new();
            for slot in expression.slots() {
                match reads.source(slot) {
                    Source::Problem => {}
                    Source::Config(place) => drop(set.insert(place)),
                    Source::Both(other) => set.extend(&reads.sets[reads.of[other]]),
                }
            }
            let known = reads.sets.iter().position(|known| *known == set);
            reads.of.push(known.unwrap_or(reads.sets.len()));
            if known.is_none() {
                reads.sets.push(set);
            }
        }
        reads
    }

    /// Where the value of a slot comes from.
    pub(super) fn source(&self, slot: usize) -> Source {
        self.sources[slot]
    }
}

/// Configs that a model was made ready to choose from.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    count: usize,
    /// How many values follow from a config alone.
    width: usize,
    /// A row a config: these values.
    values: Vec<i64>,
    /// For each set of values that expressions read, which configs are alike in it.
    alike: Vec<Alike>,
}

/// Which configs are alike.
#[derive(Clone, Debug)]
struct Alike {
    /// The kind of each config.
    kinds: Vec<u32>,
    /// The first config of each kind.
    first: Vec<usize>,
}

impl Candidates {
    /// So many candidates with the values that follow from each alone.
    pub(super) fn new(count: usize, values: Vec<i64>, reads: &Reads) -> Self {
        let width = values.len().checked_div(count).unwrap_or(0);
        let mut candidates = Self { count, width, values, alike: Vec::new() };
        candidates.alike = reads.sets.iter().map(|set| candidates.alike_in(set)).collect();
        candidates
    }

    /// Which of them have the same values in these places.
    fn alike_in(&self, places: &BTreeSet<usize>) -> Alike {
        let mut known: HashMap<Vec<i64>, u32> = HashMap::new();
        let mut first = Vec::new();
        let kind = |config: usize| {
            let row = self.row(config);
            *known.entry(places.iter().map(|place| row[*place]).collect()).or_insert_with(|| {
                first.push(config);
                first.len() as u32 - 1
            })
        };
        Alike { kinds: (0..self.count).map(kind).collect(), first }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values that follow from a config alone.
    pub(super) fn row(&self, config: usize) -> &[i64] {
        &self.values[config * self.width..][..self.width]
    }

    /// What the expressions, which read this, come to on the problem whose values are in the slots; other slots are written over.
    pub(super) fn work_out<'c, 'e>(
        &'c self,
        slots: &mut [i64],
        reads: &'c Reads,
        expressions: impl Iterator<Item = &'e Expression>,
    ) -> WorkedOut<'c> {
        let mut worked_out = WorkedOut { candidates: self, reads, values: Vec::with_capacity(reads.of.len()) };
        for (expression, set) in expressions.zip(&reads.of) {
            let of_kind = |config: &usize| {
                for slot in expression.slots() {
                    match reads.source(slot) {
                        Source::Problem => {}
                        Source::Config(place) => slots[slot] = self.row(*config)[place],
                        Source::Both(other) => slots[slot] = worked_out.value(other, *config),
                    }
                }
                expression.evaluate(slots).unwrap_or(MISSING)
            };
            let values = self.alike[*set].first.iter().map(of_kind).collect();
            worked_out.values.push(values);
        }
        worked_out
    }
}

/// What expressions come to for each candidate on a problem.
pub(super) struct WorkedOut<'c> {
    candidates: &'c Candidates,
    reads: &'c Reads,
    /// By expression, and there by the kind of the config.
    values: Vec<Vec<i64>>,
}

impl WorkedOut<'_> {
    /// The value of an expression for a config; missing where it has none.
    pub(super) fn value(&self, expression: usize, config: usize) -> i64 {
        let alike = &self.candidates.alike[self.reads.of[expression]];
        self.values[expression][alike.kinds[config] as usize]
    }

    /// Whether a condition holds for a config.
    pub(super) fn holds(&self, expression: usize, config: usize) -> bool {
        ![MISSING, 0].contains(&self.value(expression, config))
    }
}
