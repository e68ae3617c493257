//! Configs to choose from, ready for any problem. What an expression makes of a problem and a config it makes of all configs that
//! are alike in what it reads of them: of some hundred configs it is worked out for some tens.

use super::expression::Expression;
use super::steps::MISSING;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

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

/// Configs that a model was made ready to choose from.
#[derive(Clone, Debug, Default)]
pub struct Candidates {
    count: usize,
    /// How many values follow from a config alone.
    width: usize,
    /// A row a config: these values.
    values: Vec<i64>,
    /// For each expression that varies with problem and config, which configs are alike to it.
    alike: Vec<Arc<Alike>>,
}

/// Which configs are alike in all that an expression makes use of.
#[derive(Debug)]
struct Alike {
    /// The kind of each config.
    kinds: Vec<u32>,
    /// The first config of each kind.
    first: Vec<usize>,
}

impl Alike {
    /// Tells configs apart by their values in these places.
    fn new(candidates: &Candidates, places: &BTreeSet<usize>) -> Self {
        let mut known: HashMap<Vec<i64>, u32> = HashMap::new();
        let mut first = Vec::new();
        let kind = |config: usize| {
            let row = candidates.row(config);
            *known.entry(places.iter().map(|place| row[*place]).collect()).or_insert_with(|| {
                first.push(config);
                first.len() as u32 - 1
            })
        };
        Self { kinds: (0..candidates.count).map(kind).collect(), first }
    }
}

impl Candidates {
    /// So many candidates with the values that follow from each alone, for expressions that stand after those whose values they read.
    pub(super) fn new<'e>(
        count: usize,
        values: Vec<i64>,
        sources: &[Source],
        expressions: impl Iterator<Item = &'e Expression>,
    ) -> Self {
        let width = values.len().checked_div(count).unwrap_or(0);
        let mut candidates = Self { count, width, values, alike: Vec::new() };
        // What each reads of a config, itself or by what it reads.
        let mut reads: Vec<BTreeSet<usize>> = Vec::new();
        let mut known: BTreeMap<BTreeSet<usize>, Arc<Alike>> = BTreeMap::new();
        for expression in expressions {
            let mut places = BTreeSet::new();
            for slot in expression.slots() {
                match sources[slot] {
                    Source::Problem => {}
                    Source::Config(place) => drop(places.insert(place)),
                    Source::Both(other) => places.extend(&reads[other]),
                }
            }
            let alike = known.entry(places.clone()).or_insert_with(|| Arc::new(Alike::new(&candidates, &places)));
            let alike = Arc::clone(alike);
            candidates.alike.push(alike);
            reads.push(places);
        }
        candidates
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

    /// What the expressions come to on the problem whose values are in the slots; other slots are written over.
    pub(super) fn work_out<'e>(
        &self,
        slots: &mut [i64],
        sources: &[Source],
        expressions: impl Iterator<Item = &'e Expression>,
    ) -> WorkedOut<'_> {
        let mut worked_out = WorkedOut { candidates: self, values: Vec::with_capacity(self.alike.len()) };
        for (expression, alike) in expressions.zip(&self.alike) {
            let of_kind = |config: &usize| {
                for slot in expression.slots() {
                    match sources[slot] {
                        Source::Problem => {}
                        Source::Config(place) => slots[slot] = self.row(*config)[place],
                        Source::Both(other) => slots[slot] = worked_out.value(other, *config),
                    }
                }
                expression.evaluate(slots).unwrap_or(MISSING)
            };
            let values = alike.first.iter().map(of_kind).collect();
            worked_out.values.push(values);
        }
        worked_out
    }
}

/// What expressions come to for each candidate on a problem.
pub(super) struct WorkedOut<'c> {
    candidates: &'c Candidates,
    /// By expression, and there by the kind of the config.
    values: Vec<Vec<i64>>,
}

impl WorkedOut<'_> {
    /// The value of an expression for a config; missing where it has none.
    pub(super) fn value(&self, expression: usize, config: usize) -> i64 {
        self.values[expression][self.candidates.alike[expression].kinds[config] as usize]
    }

    /// Whether a condition holds for a config.
    pub(super) fn holds(&self, expression: usize, config: usize) -> bool {
        ![MISSING, 0].contains(&self.value(expression, config))
    }
}
