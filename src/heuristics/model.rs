//! A fitted model: which config should run a shape that nobody measured.
//!
//! A class's model is boosted regression trees over whole numbers: each feature is an expression over the dimensions, the
//! knobs and what is known of the GPU, and the leaves that a config reaches add up to ln(time / floor), in units of
//! [`LEAF_UNIT`]. So the choice is the same on every platform; only a predicted time is a float. The best of the legal
//! configs is the answer. In the document, one text a tree, written down from its root, first the side below the threshold: a
//! split is the name of its feature, `a` the first, with the threshold, and a leaf a number with its sign. Configs lie in
//! columns, each value of a knob once, and a row a config of the places of its values, constants first, each in the order of
//! their names; `-` where a config has none. Problems lie by their type, a text each: the dimensions, the fastest config and its
//! median in microseconds, and the next ones, each with how much more its median is, in units as of leaves:
//!
//! ```json
//! "models": {"matmul": {
//!   "form": "trees/2",
//!   "dims": ["m", "n", "k"],
//!   "dtypes": {"bf16": 2},
//!   "constants": {"multiprocessors": 132},
//!   "knobs": ["block_sizes", "num_warps", "pid_type", "split_k"],
//!   "config_constants": ["registers"],
//!   "definitions": ["tiles = ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1])", "programs = tiles * split_k"],
//!   "features": ["m", "min(align(n * dtype_bytes), 16)", "floor_ns", "block_sizes[0]", "per_mille(programs, multiprocessors)"],
//!   "legal": ["split_k <= ceil_div(k, block_sizes[2])"],
//!   "aligned": "n % 8 == 0 && k % 8 == 0",
//!   "floor": {"bytes": "(m * k + k * n + m * n) * dtype_bytes", "flops": "2 * m * n * k",
//!             "launch_us": 2.6, "bytes_per_us": 4200000.0, "flops_per_us": 800000000.0},
//!   "trees": ["+41803", "e1000-1204d128+88+1310"],
//!   "configs": {"constants": {"registers": [168, 90]},
//!               "template": {"block_sizes": [[128, 128, 64], [64, 64, 64]], "num_warps": [8, 4], "pid_type": ["flat"],
//!                            "split_k": [1, 4]},
//!               "rows": ["0 0 0 0 0", "1 1 1 0 1"]},
//!   "problems": {"bf16": ["16,4096,4096 1 17.98 0+17858"]},
//!   "cross_validation": {"apart": ["n,k"], "folds": 5, "seeds": 3, "regret": {"model": [
//!     {"aligned": null, "geomean": 1.0211, "group": null, "max": 1.18, "p90": 1.05, "problems": 277}]}}
//! }}
//! ```
//!
//! Expressions may use the dimensions, `dtype_bytes`, `floor_ns`, the constants, the knobs, the config constants and, from
//! the line after its own, each definition. A feature without a value, such as a knob that is missing, lies below every
//! threshold; a condition without one does not hold.

use super::candidates::{Candidates, Reads, Source, WorkedOut};
use super::columns::ModelConfig;
use super::expression::Expression;
use super::fitted::{FittedModel, MODEL_FORM};
use super::measured::MeasuredProblem;
use super::scope::Scope;
use super::steps::MISSING;
use super::trees::{Node, read_tree};
use crate::error::{Context, Error, Result};
use crate::model::{Family, Plain};
use serde_json::Value;

/// A leaf of so much is a factor e in time.
pub const LEAF_UNIT: f64 = 1e5;

/// Features, nodes and names are counted in 16 bits, and a tree is walked down by recursion.
const MOST_FEATURES: usize = 1000;
/// What keeps a model that somebody else wrote from taking all memory, or seconds for an answer: some ten times what is fitted.
const MOST_EXPRESSIONS: usize = 1000;
const MOST_EXPRESSION_BYTES: usize = 1 << 16;
const MOST_CONFIGS: usize = 4096;
const MOST_TREES: usize = 2048;
/// By what factor a config must be expected to be faster that is not tried on such shapes: what trees expect there is a guess, and among
/// near ties the guesses that are too good come first. On problems held out it costs 0.1 to 0.2 % of the time, since what was measured of
/// such configs was measured for being promising; of 41 products that no plan has, it passes over the two that took 1.4 and 1.9 times
/// as long as the best, and leaves those that were rightly expected to be half as fast again.
pub const UNTRIED: f64 = 1.05;
/// Values that are kept ready: a row a config, of all that follows from the config.
const MOST_READY_VALUES: usize = 1 << 22;

/// A config with its predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The config's place among the candidates: among the model's own, [`Model::configs`].
    pub config: usize,
    /// The time expected of it, in microseconds.
    pub predicted_us: f64,
}

/// A config on a shape, as the trees look at it.
#[cfg(any(test, feature = "harness"))]
pub(crate) struct LookedAt {
    /// The model's features, in its order.
    pub(crate) features: Vec<i64>,
    /// The time that no config is expected to beat on the shape, in microseconds.
    pub(crate) floor_us: f64,
    /// Whether the config is tried on such shapes.
    pub(crate) is_tried: bool,
}

/// A model ready to be asked.
#[derive(Clone, Debug)]
pub struct Model {
    fitted: FittedModel,
    scope: Scope,
    slots: Slots,
    /// What is worked out, each from slots before its own, in that order; the last of these are the features.
    steps: Vec<Step>,
    /// The slot of each feature.
    features: Vec<usize>,
    /// The steps that vary with problem and config, by their places.
    joint: Vec<usize>,
    /// What these read, and then the conditions.
    reads: Reads,
    legal: Vec<Expression>,
    tried: Vec<Expression>,
    aligned: Expression,
    bytes: Expression,
    flops: Expression,
    /// All trees' nodes, one after the other.
    nodes: Vec<Node>,
    roots: Vec<usize>,
    own: Candidates,
    /// The places of the measured problems, in the order of their dimensions and types.
    measured: Vec<usize>,
}

/// Where values are that are not worked out.
#[derive(Clone, Debug, Default)]
struct Slots {
    /// The dimensions come first.
    dtype_bytes: usize,
    floor_ns: usize,
    constants: Vec<(usize, i64)>,
    config_constants: Vec<(usize, String)>,
    /// All that follows from the config alone.
    of_config: Vec<usize>,
    /// The least that each dimension can be: 1, but of a variant that may be nothing.
    least: Vec<i64>,
}

/// A definition or feature.
#[derive(Clone, Debug)]
struct Step {
    slot: usize,
    expression: Expression,
    varies: Varies,
}

/// What a value depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Varies {
    with_problem: bool,
    with_config: bool,
}

impl Model {
    /// Reads a model from its JSON text.
    ///
    /// # Errors
    /// Where the text is no model, and as [`Model::new`].
    pub fn from_json(text: &str) -> Result<Self> {
        Self::new(serde_json::from_str(text)?)
    }

    /// Makes a model ready.
    ///
    /// # Errors
    /// Where its form is another, an expression is none, a tree is broken or asks for a feature that is not there, a measured
    /// problem names a config or dimension that is not there, or there is more of any of these than a fitted model has.
    pub fn new(fitted: FittedModel) -> Result<Self> {
        if fitted.form != MODEL_FORM {
            return Err(Error::usage(format!("a model of form '{}'; this reads {MODEL_FORM}", fitted.form)));
        }
        check_size(&fitted)?;
        let mut scope = Scope::default();
        let mut slots = declare(&fitted, &mut scope)?;
        slots.least = least_of(&fitted.dims);
        let mut parse = |text: &str, what: &str| Expression::parse(text, &mut scope).context(|| what.to_owned());
        let aligned = parse(&fitted.aligned, "aligned")?;
        let bytes = parse(&fitted.floor.bytes, "floor.bytes")?;
        let flops = parse(&fitted.floor.flops, "floor.flops")?;
        let rates = [fitted.floor.launch_us, fitted.floor.bytes_per_us, fitted.floor.flops_per_us];
        if !rates.iter().all(|rate| rate.is_finite() && *rate > 0.0) {
            return Err(Error::usage(format!("floor: launch_us and the rates must be positive, not {rates:?}")));
        }

        let mut steps = Vec::new();
        for (index, definition) in fitted.definitions.iter().enumerate() {
            let place = || format!("definitions[{index}]");
            let (name, expression) = definition
                .split_once('=')
                .ok_or_else(|| Error::usage(format!("{}: '{definition}' is not name = expression", place())))?;
            // Read before its name is known, so that it cannot use itself.
            let expression = Expression::parse(expression, &mut scope).context(place)?;
            let slot = scope.declare(name.trim()).context(place)?;
            steps.push(Step { slot, expression, varies: Varies::default() });
        }
        let mut features = Vec::new();
        for (index, feature) in fitted.features.iter().enumerate() {
            let expression = Expression::parse(feature, &mut scope).context(|| format!("features[{index}]"))?;
            let slot = if let Some(slot) = expression.as_slot() {
                slot
            } else {
                let slot = scope.declare(&format!("feature_{index}")).context(|| format!("features[{index}]"))?;
                steps.push(Step { slot, expression, varies: Varies::default() });
                slot
            };
            features.push(slot);
        }
        let mut conditions = |texts: &[String], what: &str| -> Result<Vec<Expression>> {
            let read = |(index, text): (usize, &String)| {
                Expression::parse(text, &mut scope).context(|| format!("{what}[{index}]"))
            };
            texts.iter().enumerate().map(read).collect()
        };
        let (legal, tried) = (conditions(&fitted.legal, "legal")?, conditions(&fitted.tried, "tried")?);

        let varies = vary(&fitted, &scope, &slots, &mut steps);
        let of_both = Varies { with_problem: true, with_config: true };
        let is_outside = |expression: &Expression| expression.slots().any(|slot| varies[slot].with_config);
        if is_outside(&aligned) || is_outside(&bytes) || is_outside(&flops) {
            return Err(Error::usage("aligned and floor are about the problem, and cannot use knobs or definitions"));
        }
        let mut nodes = Vec::new();
        let mut roots = Vec::new();
        for (index, tree) in fitted.trees.iter().enumerate() {
            roots.push(nodes.len());
            read_tree(tree, fitted.features.len(), &mut nodes).context(|| format!("trees[{index}]"))?;
        }
        let width = scope.len().max(fitted.features.len());
        if width.saturating_mul(fitted.configs.len()) > MOST_READY_VALUES {
            let configs = fitted.configs.len();
            return Err(Error::usage(format!(
                "{configs} configs by {width} values: at most {MOST_READY_VALUES} in all"
            )));
        }
        let joint: Vec<usize> = (0..steps.len()).filter(|step| steps[*step].varies == of_both).collect();
        let (sources, of_config) = sources_of(&varies, joint.iter().map(|step| steps[*step].slot));
        let reads = Reads::new(sources, joint_expressions(&joint, &steps, &legal));
        let slots = Slots { of_config, ..slots };
        let mut measured: Vec<_> = (0..fitted.problems.len()).collect();
        measured.sort_by_key(|place| key(&fitted.problems[*place]));
        check_problems(&fitted)?;
        let mut model = Self {
            own: Candidates::default(),
            fitted,
            scope,
            slots,
            steps,
            features,
            joint,
            reads,
            legal,
            tried,
            aligned,
            bytes,
            flops,
            nodes,
            roots,
            measured,
        };
        model.own = model.candidates(&model.fitted.configs);
        Ok(model)
    }

    /// The model as the document holds it.
    pub fn fitted(&self) -> &FittedModel {
        &self.fitted
    }

    /// Whether it knows variants of its family's problems, and not the plain ones alone.
    pub(super) fn knows_variants(&self) -> bool {
        let names: Vec<&str> = self.fitted.dims.iter().map(String::as_str).collect();
        Family::of_dimensions(&names).is_some_and(|family| names.len() > family.dimensions().len())
    }

    /// The configs it may choose from.
    pub fn configs(&self) -> &[ModelConfig] {
        &self.fitted.configs
    }

    /// Its own configs as candidates.
    pub fn own(&self) -> &Candidates {
        &self.own
    }

    /// Makes other configs ready to be chosen from. What they lack counts as missing.
    pub fn candidates(&self, configs: &[ModelConfig]) -> Candidates {
        let mut values = Vec::with_capacity(configs.len() * self.slots.of_config.len());
        let mut row = self.row();
        for config in configs {
            for (slot, variable) in self.scope.knob_slots() {
                let knob = config.template.get(&variable.name);
                let value = match variable.entry {
                    Some(entry) => knob.and_then(|list| list.get(entry)),
                    None => knob,
                };
                row[slot] = value.map_or(MISSING, |value| self.number(value));
            }
            for (slot, name) in &self.slots.config_constants {
                row[*slot] = config.constants.get(name).copied().unwrap_or(MISSING);
            }
            self.work_out(&mut row, Varies { with_config: true, with_problem: false });
            values.extend(self.slots.of_config.iter().map(|slot| row[*slot]));
        }
        Candidates::new(configs.len(), values, &self.reads)
    }

    /// A knob's value as a number; what is none is missing.
    fn number(&self, value: &Value) -> i64 {
        match value {
            Value::Number(number) => number.as_i64().unwrap_or(MISSING),
            Value::String(text) => self.scope.word(text),
            Value::Bool(flag) => i64::from(*flag),
            _ => MISSING,
        }
    }

    /// All slots, with the constants.
    fn row(&self) -> Vec<i64> {
        let mut row = vec![MISSING; self.scope.len()];
        for (slot, value) in &self.slots.constants {
            row[*slot] = *value;
        }
        row
    }

    /// Works out what varies so.
    fn work_out(&self, row: &mut [i64], varies: Varies) {
        for step in self.steps.iter().filter(|step| step.varies == varies) {
            row[step.slot] = step.expression.evaluate(row).unwrap_or(MISSING);
        }
    }

    /// The slots with what follows from the problem, and its floor in microseconds; none where it has no such dimensions
    /// or type, or is beyond what can be counted.
    fn of_problem(&self, dims: &[i64], dtype: &str) -> Option<(Vec<i64>, f64)> {
        let dtype_bytes = *self.fitted.dtypes.get(dtype)?;
        if dims.len() != self.fitted.dims.len()
            || dims.iter().zip(&self.slots.least).any(|(extent, least)| extent < least)
        {
            return None;
        }
        let mut row = self.row();
        row[..dims.len()].copy_from_slice(dims);
        row[self.slots.dtype_bytes] = dtype_bytes;
        let [bytes, flops] = self.work_of(&row)?;
        let floor = &self.fitted.floor;
        let floor_us = floor.launch_us + (bytes as f64 / floor.bytes_per_us).max(flops as f64 / floor.flops_per_us);
        row[self.slots.floor_ns] = (floor_us * 1e3) as i64;
        self.work_out(&mut row, Varies { with_problem: true, with_config: false });
        Some((row, floor_us))
    }

    fn work_of(&self, row: &[i64]) -> Option<[i64; 2]> {
        Some([self.bytes.evaluate(row).ok()?, self.flops.evaluate(row).ok()?])
    }

    /// The fewest bytes that a shape moves, and its operations.
    pub fn work(&self, dims: &[i64], dtype: &str) -> Option<[i64; 2]> {
        self.of_problem(dims, dtype).and_then(|(row, _)| self.work_of(&row))
    }

    /// The time that no config is expected to beat on a shape, in microseconds.
    pub fn floor_us(&self, dims: &[i64], dtype: &str) -> Option<f64> {
        self.of_problem(dims, dtype).map(|(_, floor_us)| floor_us)
    }

    /// Whether every row of the operands is aligned for the widest copies.
    pub fn is_aligned(&self, dims: &[i64], dtype: &str) -> bool {
        self.of_problem(dims, dtype).is_some_and(|(row, _)| self.aligned.holds(&row))
    }

    /// What was measured for exactly this shape and type, best first: config and median.
    pub fn measured(&self, dims: &[i64], dtype: &str) -> Option<&[(usize, f64)]> {
        let problems = &self.fitted.problems;
        let found = self.measured.binary_search_by(|place| key(&problems[*place]).cmp(&(dims, dtype))).ok()?;
        Some(&problems[self.measured[found]].winners)
    }

    /// Up to `most` of its own configs for a shape, by predicted time; of equal ones the earlier first. Only legal ones. One that is
    /// not tried on shapes like this must be expected to be faster by [`UNTRIED`].
    pub fn best(&self, dims: &[i64], dtype: &str, most: usize) -> Vec<Choice> {
        let Some((mut row, _)) = self.of_problem(dims, dtype) else { return Vec::new() };
        // What is chosen so far, by what counts; what comes behind is expected to take longer and longer.
        let mut judged: Vec<(f64, Choice)> = Vec::new();
        for choice in self.rank(dims, dtype, &self.own, usize::MAX) {
            if judged.get(most.wrapping_sub(1)).is_some_and(|(last_us, _)| *last_us <= choice.predicted_us) {
                break;
            }
            self.set_config(&mut row, &self.own, choice.config);
            let is_tried = all_hold(&self.tried, &row);
            let counted_us = choice.predicted_us * if is_tried { 1.0 } else { UNTRIED };
            judged.insert(judged.partition_point(|(its_us, _)| *its_us <= counted_us), (counted_us, choice));
        }
        judged.into_iter().take(most).map(|(_, choice)| choice).collect()
    }

    /// Whether its own config of that place may run the shape.
    pub fn is_legal(&self, dims: &[i64], dtype: &str, config: usize) -> bool {
        let Some((mut row, _)) = self.of_problem(dims, dtype) else { return false };
        if config >= self.own.len() {
            return false;
        }
        self.set_config(&mut row, &self.own, config);
        all_hold(&self.legal, &row)
    }

    /// The places of the candidates, which this model made ready, that may run the shape; all of them where it knows no such
    /// shape or type.
    pub(super) fn legal(&self, dims: &[i64], dtype: &str, candidates: &Candidates) -> Vec<usize> {
        let Some((mut row, _)) = self.of_problem(dims, dtype) else { return (0..candidates.len()).collect() };
        self.work_out_all(&mut row, candidates).1
    }

    /// Why its own config of that place may not run the shape: the first condition that does not hold.
    pub fn why_illegal(&self, dims: &[i64], dtype: &str, config: usize) -> Option<String> {
        let Some((mut row, _)) = self.of_problem(dims, dtype) else {
            return Some(format!("the model knows no {dims:?} of {dtype}"));
        };
        if config >= self.own.len() {
            return Some(format!("the model has {} configs, so no config {config}", self.own.len()));
        }
        self.set_config(&mut row, &self.own, config);
        self.legal.iter().zip(&self.fitted.legal).find_map(|(condition, text)| match condition.evaluate(&row) {
            Ok(0) => Some(format!("'{text}' does not hold")),
            Ok(_) => None,
            Err(fault) => Some(format!("'{text}': {}", fault.explain(&self.scope))),
        })
    }

    /// The time expected of its own config of that place, in microseconds; none where it may not run the shape.
    pub fn predict_us(&self, dims: &[i64], dtype: &str, config: usize) -> Option<f64> {
        if config >= self.own.len() {
            return None;
        }
        let alone = Candidates::new(1, self.own.row(config).to_vec(), &self.reads);
        self.rank(dims, dtype, &alone, 1).first().map(|choice| choice.predicted_us)
    }

    /// Up to `most` of the candidates, which this model made ready, by predicted time; of equal ones the earlier first.
    /// Only legal ones.
    pub fn rank(&self, dims: &[i64], dtype: &str, candidates: &Candidates, most: usize) -> Vec<Choice> {
        let Some((mut row, floor_us)) = self.of_problem(dims, dtype) else { return Vec::new() };
        let (worked_out, legal) = self.work_out_all(&mut row, candidates);
        let column = |slot: &usize| match self.reads.source(*slot) {
            Source::Problem => Column::Same(row[*slot]),
            Source::Config(place) => Column::Each(legal.iter().map(|config| candidates.row(*config)[place]).collect()),
            Source::Both(step) => Column::Each(legal.iter().map(|config| worked_out.value(step, *config)).collect()),
        };
        let table = Table { columns: self.features.iter().map(column).collect(), legal };

        let mut sums = vec![0; table.legal.len()];
        let mut members: Vec<u32> = (0..table.legal.len() as u32).collect();
        for root in &self.roots {
            self.spread(*root, &mut members, &table.columns, &mut sums);
        }
        let mut order: Vec<_> = (0..sums.len()).collect();
        if most < order.len() && most > 0 {
            order.select_nth_unstable_by_key(most - 1, |place| (sums[*place], *place));
        }
        order.truncate(most);
        order.sort_unstable_by_key(|place| (sums[*place], *place));
        let choice = |place: usize| Choice {
            config: table.legal[place],
            predicted_us: floor_us * (sums[place] as f64 / LEAF_UNIT).exp(),
        };
        order.into_iter().map(choice).collect()
    }

    /// Which features are alike for all configs of a problem.
    #[cfg(feature = "harness")]
    pub(crate) fn problem_features(&self) -> Vec<bool> {
        self.features.iter().map(|slot| matches!(self.reads.source(*slot), Source::Problem)).collect()
    }

    /// A candidate on a shape, legal there or not.
    #[cfg(any(test, feature = "harness"))]
    pub(crate) fn looked_at(
        &self,
        dims: &[i64],
        dtype: &str,
        candidates: &Candidates,
        config: usize,
    ) -> Option<LookedAt> {
        let (mut row, floor_us) = self.of_problem(dims, dtype)?;
        self.set_config(&mut row, candidates, config);
        let is_tried = all_hold(&self.legal, &row) && all_hold(&self.tried, &row);
        Some(LookedAt { features: self.features.iter().map(|slot| row[*slot]).collect(), floor_us, is_tried })
    }

    /// What varies with problem and config, of all candidates, and the places of those that may run the problem of the row.
    fn work_out_all<'c>(&'c self, row: &mut [i64], candidates: &'c Candidates) -> (WorkedOut<'c>, Vec<usize>) {
        let expressions = joint_expressions(&self.joint, &self.steps, &self.legal);
        let worked_out = candidates.work_out(row, &self.reads, expressions);
        let conditions = self.joint.len()..self.joint.len() + self.legal.len();
        let legal = (0..candidates.len()).filter(|config| conditions.clone().all(|one| worked_out.holds(one, *config)));
        let legal = legal.collect();
        (worked_out, legal)
    }

    /// Fills in what follows from the config, and from it and the problem.
    fn set_config(&self, row: &mut [i64], candidates: &Candidates, config: usize) {
        for (slot, value) in self.slots.of_config.iter().zip(candidates.row(config)) {
            row[*slot] = *value;
        }
        self.work_out(row, Varies { with_problem: true, with_config: true });
    }

    /// Adds to each member's sum the leaf that it reaches below a node: members are parted at each split, so that what all
    /// share is decided once.
    fn spread(&self, mut at: usize, mut members: &mut [u32], columns: &[Column], sums: &mut [i64]) {
        while let Some(node) = self.nodes.get(at).filter(|_| !members.is_empty()) {
            if node.other == 0 {
                for member in members {
                    sums[*member as usize] += node.value;
                }
                return;
            }
            let (below, other) = (at + 1, node.other as usize);
            match &columns[usize::from(node.feature)] {
                Column::Same(value) => at = if *value < node.value { below } else { other },
                Column::Each(values) => {
                    let mut first = 0;
                    for place in 0..members.len() {
                        let is_below = values[members[place] as usize] < node.value;
                        members.swap(first, place);
                        first += usize::from(is_below);
                    }
                    let (low, high) = members.split_at_mut(first);
                    self.spread(below, low, columns, sums);
                    (at, members) = (other, high);
                }
            }
        }
    }
}

/// What varies with problem and config: the steps in those places, each after those that it reads, and then the conditions.
fn joint_expressions<'m>(
    joint: &'m [usize],
    steps: &'m [Step],
    legal: &'m [Expression],
) -> impl Iterator<Item = &'m Expression> {
    joint.iter().map(|step| &steps[*step].expression).chain(legal)
}

/// Whether all conditions hold for what a row has.
fn all_hold(conditions: &[Expression], row: &[i64]) -> bool {
    conditions.iter().all(|condition| condition.holds(row))
}

/// The features of the legal candidates.
struct Table {
    legal: Vec<usize>,
    columns: Vec<Column>,
}

/// A feature's values.
enum Column {
    /// Of all.
    Same(i64),
    /// Of each.
    Each(Vec<i64>),
}

fn key(problem: &MeasuredProblem) -> (&[i64], &str) {
    (&problem.dims, &problem.dtype)
}

/// Declares all names that are not worked out: the dimensions first.
fn declare(fitted: &FittedModel, scope: &mut Scope) -> Result<Slots> {
    let mut slots = Slots::default();
    for name in &fitted.dims {
        scope.declare(name).context(|| "dims")?;
    }
    slots.dtype_bytes = scope.declare("dtype_bytes")?;
    slots.floor_ns = scope.declare("floor_ns")?;
    for (name, value) in &fitted.constants {
        slots.constants.push((scope.declare(name).context(|| "constants")?, *value));
    }
    for name in &fitted.config_constants {
        slots.config_constants.push((scope.declare(name).context(|| "config_constants")?, name.clone()));
    }
    for name in &fitted.knobs {
        scope.declare_knob(name).context(|| "knobs")?;
    }
    Ok(slots)
}

/// Tells, for each slot and step, what it varies with.
fn vary(fitted: &FittedModel, scope: &Scope, slots: &Slots, steps: &mut [Step]) -> Vec<Varies> {
    let mut varies = vec![Varies::default(); scope.len()];
    for slot in (0..fitted.dims.len()).chain([slots.dtype_bytes, slots.floor_ns]) {
        varies[slot].with_problem = true;
    }
    let knobs = scope.knob_slots().map(|(slot, _)| slot);
    for slot in knobs.chain(slots.config_constants.iter().map(|(slot, _)| *slot)) {
        varies[slot].with_config = true;
    }
    for step in steps {
        for slot in step.expression.slots() {
            step.varies.with_problem |= varies[slot].with_problem;
            step.varies.with_config |= varies[slot].with_config;
        }
        // What varies with nothing is worked out with the problem.
        step.varies.with_problem |= !step.varies.with_config;
        varies[step.slot] = step.varies;
    }
    varies
}

/// Refuses a model that is larger than any that is fitted, before anything is made of it.
fn check_size(fitted: &FittedModel) -> Result<()> {
    let expressions = [&fitted.definitions, &fitted.features, &fitted.legal, &fitted.tried];
    for (what, found, most) in [
        ("features", fitted.features.len(), MOST_FEATURES),
        ("definitions", fitted.definitions.len(), MOST_EXPRESSIONS),
        ("conditions", fitted.legal.len() + fitted.tried.len(), MOST_EXPRESSIONS),
        ("names", fitted.dims.len() + fitted.knobs.len(), MOST_EXPRESSIONS),
        ("constants", fitted.constants.len() + fitted.config_constants.len(), MOST_EXPRESSIONS),
        ("bytes of expressions", expressions.into_iter().flatten().map(String::len).sum(), MOST_EXPRESSION_BYTES),
        ("configs", fitted.configs.len(), MOST_CONFIGS),
        ("trees", fitted.trees.len(), MOST_TREES),
    ] {
        if found > most {
            return Err(Error::usage(format!("{found} {what}: at most {most}")));
        }
    }
    Ok(())
}

fn least_of(dims: &[String]) -> Vec<i64> {
    let names: Vec<&str> = dims.iter().map(String::as_str).collect();
    let variants = Family::of_dimensions(&names).map_or(&[][..], Family::variants);
    let may_be_nothing =
        |name: &str| variants.iter().any(|variant| variant.name == name && !matches!(variant.plain, Plain::As(_)));
    names.iter().map(|name| i64::from(!may_be_nothing(name))).collect()
}

/// Where each slot's value comes from, and the slots of what follows from the config alone. `of_both` are those of what varies with
/// problem and config, in the order in which it is worked out.
fn sources_of(varies: &[Varies], of_both: impl Iterator<Item = usize>) -> (Vec<Source>, Vec<usize>) {
    let mut sources = vec![Source::Problem; varies.len()];
    let is_of_config = |slot: &usize| varies[*slot].with_config && !varies[*slot].with_problem;
    let of_config: Vec<usize> = (0..varies.len()).filter(is_of_config).collect();
    for (place, slot) in of_config.iter().enumerate() {
        sources[*slot] = Source::Config(place);
    }
    for (place, slot) in of_both.enumerate() {
        sources[slot] = Source::Both(place);
    }
    (sources, of_config)
}

fn check_problems(fitted: &FittedModel) -> Result<()> {
    for (index, problem) in fitted.problems.iter().enumerate() {
        let (dims, configs) = (fitted.dims.len(), fitted.configs.len());
        if problem.dims.len() != dims {
            return Err(Error::usage(format!("problems[{index}] has {} dimensions, not {dims}", problem.dims.len())));
        }
        if let Some((config, _)) = problem.winners.iter().find(|(config, _)| *config >= configs) {
            return Err(Error::usage(format!("problems[{index}] names config {config} of {configs}")));
        }
        if let Some((_, time_us)) = problem.winners.iter().find(|(_, time_us)| !(time_us.is_finite() && *time_us > 0.0))
        {
            return Err(Error::usage(format!("problems[{index}] took {time_us} us, which no clock tells")));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)] // what is read or added up in one order is equal to the bit
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Of two tiles the larger is better for more than 64 rows, and a split where programs are few.
    fn value() -> Value {
        json!({
            "form": MODEL_FORM,
            "dims": ["m", "n"],
            "dtypes": {"bf16": 2, "f32": 4},
            "constants": {"multiprocessors": 132},
            "knobs": ["block_sizes", "pid_type", "split_k"],
            "config_constants": ["registers"],
            "definitions": [
                "tiles = ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1])",
                "area = block_sizes[0] * block_sizes[1]",
            ],
            "features": ["m", "block_sizes[0]", "tiles * split_k", "pid_type == \"flat\"", "area * registers"],
            "legal": ["area <= 8192", "split_k == 1 || tiles < multiprocessors"],
            "aligned": "n * dtype_bytes % 16 == 0",
            "floor": {"bytes": "m * n * dtype_bytes", "flops": "m * n", "launch_us": 2.0, "bytes_per_us": 1000.0, "flops_per_us": 1e6},
            "trees": ["+10000", "a65b128+0+20000b128+20000+0", "c132d1+0+5000+0"],
            "configs": {"constants": {"registers": [64, 128, 255]},
                "template": {"block_sizes": [[64, 64], [128, 64], [256, 64]], "pid_type": ["flat", "split"], "split_k": [1, 2]},
                "rows": ["0 0 0 0", "1 1 0 0", "0 0 1 1", "2 2 0 0"]},
            "problems": {"bf16": ["100,4096 1 7.5 0+6454"], "f32": ["16,4096"]},
            "cross_validation": {"apart": ["n"], "folds": 5, "seeds": 3, "regret": {"model": [
                {"group": null, "aligned": null, "problems": 9, "geomean": 1.02, "p90": 1.1, "max": 1.2},
                {"group": "small_m", "aligned": null, "problems": 5, "geomean": 1.01, "p90": 1.1, "max": 1.2},
                {"group": "small_m", "aligned": false, "problems": 2, "geomean": 1.04, "p90": 1.1, "max": 1.2}]}},
        })
    }

    fn model() -> Model {
        Model::from_json(&value().to_string()).unwrap()
    }

    #[test]
    fn a_knob_is_a_number_whatever_it_is() {
        let model = model();
        let flat = model.scope.word("flat");
        let knobs = [json!(true), json!(false), json!(7), json!("flat"), json!(0.5), json!([7]), Value::Null];
        assert_eq!(knobs.map(|knob| model.number(&knob)), [1, 0, 7, flat, MISSING, MISSING, MISSING]);
    }

    #[test]
    fn a_model_with_more_dimensions_than_its_family_needs_knows_variants() {
        let document: Value = serde_json::from_str(crate::heuristics::builtin_document("h200").unwrap()).unwrap();
        let knows = |class: &str| Model::from_json(&document["models"][class].to_string()).unwrap().knows_variants();
        assert_eq!(["attention", "matmul", "row_softmax"].map(knows), [true, false, false]);
        assert!(!model().knows_variants(), "of no family that is known");
    }

    /// The same model in the form before.
    fn value_of_before() -> Value {
        let config = |tile: i64, split: i64, registers: i64| {
            let order = if split == 1 { "flat" } else { "split" };
            json!({"constants": {"registers": registers},
                "template": {"block_sizes": [tile, 64], "pid_type": order, "split_k": split}})
        };
        let mut value = value();
        value["form"] = json!("trees/1");
        value["trees"] = json!(["10000", "0<65 1<128 0 20000 1<128 20000 0", "2<132 3<1 0 5000 0"]);
        value["configs"] = json!([config(64, 1, 64), config(128, 1, 128), config(64, 2, 64), config(256, 1, 255)]);
        value["problems"] = json!([{"dims": [100, 4096], "dtype": "bf16", "winners": [[1, 7.5], [0, 8.0]]},
            {"dims": [16, 4096], "dtype": "f32", "winners": []}]);
        value
    }

    #[test]
    fn the_form_before_is_read_as_the_same_model() {
        let (before, today) = (Model::from_json(&value_of_before().to_string()).unwrap(), model());
        assert_eq!(before.fitted(), today.fitted());
        assert_eq!(serde_json::to_value(before.fitted()).unwrap(), value());
        let read: FittedModel = serde_json::from_value(value_of_before()).unwrap();
        assert_eq!(&read, today.fitted());
        for m in [16, 1000] {
            assert_eq!(before.best(&[m, 4096], "bf16", 3), today.best(&[m, 4096], "bf16", 3));
        }
    }

    #[test]
    fn what_a_config_lacks_has_no_place_in_its_row() {
        let mut value = value();
        value["configs"]["rows"] = json!(["- 0 - 0", "1 - 0 -"]);
        value["problems"] = json!({});
        let model = Model::from_json(&value.to_string()).unwrap();
        let [first, second] = model.configs() else { unreachable!() };
        assert_eq!(
            (&first.template, first.constants.len()),
            (json!({"block_sizes": [64, 64], "split_k": 1}).as_object().unwrap(), 0)
        );
        assert_eq!(
            (&second.template, second.constants["registers"]),
            (json!({"pid_type": "flat"}).as_object().unwrap(), 128)
        );
        let written: Value = serde_json::to_value(model.fitted()).unwrap();
        assert_eq!(
            written["configs"],
            json!({"constants": {"registers": [128]},
            "template": {"block_sizes": [[64, 64]], "pid_type": ["flat"], "split_k": [1]}, "rows": ["- 0 - 0", "0 - 0 -"]})
        );
    }

    #[test]
    fn what_is_not_tried_on_such_shapes_must_be_expected_to_be_clearly_faster() {
        // The split is expected to be faster by so many thousandths of a per cent.
        let best = |by: u32, tried: &str, m: i64, most: usize| {
            let mut value = value();
            (value["tried"], value["trees"][2]) = (json!([tried]), json!(format!("c132d1+0+{by}+0")));
            let chosen = Model::from_json(&value.to_string()).unwrap().best(&[m, 4096], "bf16", most);
            chosen.iter().map(|choice| choice.config).collect::<Vec<_>>()
        };
        let whole = "m > 16 || split_k == 1";
        assert_eq!(best(4000, "1", 16, 3), [2, 0, 1]);
        assert_eq!(best(4000, whole, 16, 3), [0, 2, 1]);
        assert_eq!(best(4000, whole, 17, 3), [2, 0, 1]);
        assert_eq!(best(6000, whole, 16, 3), [2, 0, 1]);
        assert_eq!(best(6000, whole, 16, usize::MAX), [2, 0, 1]);
        // Nothing that is left was tried: the model's own order is what there is.
        assert_eq!(best(4000, "split_k > 2", 16, 2), [2, 0]);
        // Of many, those that were tried are found behind all that were not.
        let mut many = value();
        let rows =
            |split: usize| (0..200).map(|place| if place < split { "0 0 0 0" } else { "1 0 0 0" }).collect::<Vec<_>>();
        (many["problems"], many["trees"]) = (json!({}), json!(["+10000"]));
        many["tried"] = json!(["registers > 64"]);
        for split in [1, 60, 150, 199] {
            many["configs"]["rows"] = json!(rows(split));
            let chosen = Model::from_json(&many.to_string()).unwrap().best(&[16, 4096], "bf16", 1);
            assert_eq!(chosen[0].config, split);
        }
    }

    #[test]
    fn the_best_legal_configs_come_by_predicted_time() {
        let model = model();
        let ranked = |m| model.best(&[m, 4096], "bf16", 3).iter().map(|choice| choice.config).collect::<Vec<_>>();
        // 64 tiles: the split is legal, and better by 5 %.
        assert_eq!(ranked(16), [2, 0, 1]);
        // More than 132 tiles of 64 rows: no split.
        assert_eq!(ranked(1000), [1, 0]);
        let best = model.best(&[16, 4096], "bf16", 1)[0];
        let floor_us: f64 = 2.0 + 16.0 * 4096.0 * 2.0 / 1000.0;
        assert!((best.predicted_us - floor_us * 0.1f64.exp()).abs() < 1e-9, "{best:?}");
        assert_eq!(model.floor_us(&[16, 4096], "bf16"), Some(floor_us));
        assert_eq!(model.predict_us(&[16, 4096], "bf16", 2), Some(best.predicted_us));
        assert_eq!(model.predict_us(&[16, 4096], "bf16", 3), None);
        assert_eq!(model.predict_us(&[16, 4096], "bf16", 4), None);
        assert!(model.is_legal(&[16, 4096], "bf16", 2) && !model.is_legal(&[1000, 4096], "bf16", 2));
        let why = |m, config| model.why_illegal(&[m, 4096], "bf16", config);
        assert_eq!(why(16, 2), None);
        assert_eq!(why(1000, 2).as_deref(), Some("'split_k == 1 || tiles < multiprocessors' does not hold"));
        assert_eq!(why(1000, 3).as_deref(), Some("'area <= 8192' does not hold"));
        assert!(why(0, 0).is_some() && why(16, 4).is_some());
    }

    #[test]
    fn what_it_was_not_fitted_for_it_does_not_answer() {
        let model = model();
        for (dims, dtype) in [(&[16, 4096][..], "f16"), (&[16], "bf16"), (&[16, 0], "bf16"), (&[-1, 5], "bf16")] {
            assert_eq!(model.best(dims, dtype, 3), []);
            assert_eq!(model.floor_us(dims, dtype), None);
        }
        assert_eq!(model.best(&[1 << 40, 1 << 40], "bf16", 3), [], "its bytes need more than 64 bits");
        assert_eq!(model.best(&[16, 4096], "bf16", 0), []);
    }

    #[test]
    fn exact_shapes_are_found_with_their_type() {
        let model = model();
        assert_eq!(model.measured(&[100, 4096], "bf16"), Some(&[(1, 7.5), (0, 8.0)][..]));
        assert_eq!(model.measured(&[16, 4096], "f32"), Some(&[][..]));
        assert_eq!((model.measured(&[100, 4096], "f32"), model.measured(&[101, 4096], "bf16")), (None, None));
    }

    #[test]
    fn alignment_is_of_the_problem() {
        let model = model();
        assert!(
            model.is_aligned(&[3, 8], "bf16") && !model.is_aligned(&[3, 4], "bf16") && model.is_aligned(&[3, 4], "f32")
        );
    }

    #[test]
    fn other_configs_than_its_own_can_be_ranked_and_what_they_lack_is_missing() {
        let model = model();
        let config = |template: Value| ModelConfig {
            template: template.as_object().cloned().unwrap(),
            ..ModelConfig::default()
        };
        let candidates = model.candidates(&[
            config(json!({"block_sizes": [128]})),
            config(json!({"block_sizes": [128, 64], "split_k": 1})),
            config(json!({"block_sizes": [64, 64], "split_k": 1, "pid_type": "never heard of"})),
        ]);
        let ranked: Vec<_> =
            model.rank(&[1000, 64], "bf16", &candidates, 9).iter().map(|choice| choice.config).collect();
        assert_eq!((candidates.len(), ranked), (3, vec![1, 2]), "the first has no area, so it is not legal");
    }

    #[test]
    fn regret_is_told_as_closely_as_it_is_known() {
        let validation = model().fitted().cross_validation.clone();
        let geomean = |group, aligned| validation.regret("model", group, aligned).unwrap().geomean;
        assert_eq!(geomean(Some("small_m"), false), 1.04);
        assert_eq!(geomean(Some("small_m"), true), 1.01);
        assert_eq!(geomean(Some("rect"), true), 1.02);
        assert_eq!(geomean(None, true), 1.02);
        assert_eq!(validation.regret("rule", None, true), None);
    }

    #[test]
    fn a_broken_model_says_what_is_wrong_and_where() {
        let cases = [
            ("/form", json!("trees/3"), "form 'trees/3'; this reads trees/2"),
            ("/dims/1", json!("m"), "dims: the name 'm' is given twice"),
            ("/definitions/0", json!("tiles"), "definitions[0]: 'tiles' is not name = expression"),
            (
                "/definitions/0",
                json!("tiles = tiles + 1"),
                "definitions[0]: expression ' tiles + 1', column 2: unknown name 'tiles'",
            ),
            ("/definitions/1", json!("tiles = 1"), "definitions[1]: the name 'tiles' is given twice"),
            ("/features/0", json!("rows"), "features[0]: expression 'rows', column 1: unknown name 'rows'"),
            ("/legal/1", json!("1 <"), "legal[1]: expression '1 <', column 4"),
            ("/aligned", json!("split_k == 1"), "aligned and floor are about the problem"),
            ("/floor/bytes_per_us", json!(0.0), "must be positive"),
            ("/trees/1", json!("a65+1"), "trees[1]: the tree ends before its last leaf"),
            ("/trees/1", json!("0<65 1"), "trees[1]: the tree ends before its last leaf"),
            ("/trees", json!(vec!["+0"; 2049]), "2049 trees: at most 2048"),
            ("/trees/1", json!("a1".repeat(200_000)), "deeper than 64"),
            ("/features", json!(vec!["m"; 1001]), "1001 features: at most 1000"),
            ("/legal", json!(vec!["m"; 1001]), "1001 conditions: at most 1000"),
            ("/legal", json!(vec![format!("{}1", "1+".repeat(2000)); 17]), "bytes of expressions: at most 65536"),
            (
                "/knobs",
                json!((0..999).map(|place| format!("x{place}")).collect::<Vec<_>>()),
                "1001 names: at most 1000",
            ),
            ("/configs", json!(vec![json!({"template": {}}); 4097]), "4097 configs: at most 4096"),
            ("/configs/rows", json!(vec!["0 0 0 0"; 4097]), "4097 configs: at most 4096"),
            ("/configs/rows/1", json!("0 0 0"), "configs.rows[1] has too few columns"),
            ("/configs/rows/1", json!("0 0 0 0 0"), "configs.rows[1] has more columns than there are"),
            ("/configs/rows/1", json!("0 0 0 2"), "configs.rows[1]: '2' is no place of 2 values"),
            ("/configs/rows/1", json!("0 0 -1 0"), "configs.rows[1]: '-1' is no place of 2 values"),
            ("/configs/template/pid_type/0", json!("x".repeat(1 << 21)), "configs of more than 4194304 bytes"),
            ("/problems/bf16/0", json!("100,4096 1"), "'100,4096 1' is no problem with its fastest configs"),
            ("/problems/bf16/0", json!("100,x 1 7.5"), "'100,x 1 7.5' is no problem"),
            ("/problems/bf16/0", json!("100,4096 1 7.5 0"), "is no problem"),
            ("/problems/bf16/0", json!("100,4096 1 -7.5"), "problems[0] took -7.5 us"),
            ("/trees/1", json!("+1+2"), "trees[1]: '+2' comes after the last leaf"),
            ("/trees/1", json!("x"), "trees[1]: 'x' asks for a feature beyond the 5 there are"),
            ("/trees/1", json!("X"), "trees[1]: 'X' is neither a feature with a threshold nor a leaf"),
            ("/trees/1", json!("a"), "trees[1]: 'a' is neither a feature with a threshold nor a leaf"),
            ("/trees/1", json!("f1+2+3"), "trees[1]: 'f1' asks for a feature beyond the 5 there are"),
            ("/trees/1", json!("+99999999999"), "trees[1]: '+99999999999' is neither"),
            ("/trees/1", json!("a1".repeat(80)), "deeper than 64"),
            ("/problems/bf16/0", json!("100,4096 4 7.5"), "problems[0] names config 4 of 4"),
            ("/problems/bf16/0", json!("100 1 7.5"), "problems[0] has 1 dimensions, not 2"),
            ("/trees", json!(null), "broken JSON"),
        ];
        for (pointer, broken, expected) in cases {
            let mut value = value();
            *value.pointer_mut(pointer).unwrap() = broken;
            let error = Model::from_json(&value.to_string()).unwrap_err().to_string();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
    }

    #[test]
    fn a_document_keeps_its_models_a_line_a_tree() {
        let document = json!({"schema_version": 2, "rules": [], "models": {"x": value(), "y": {"form": "unheard of"}}});
        let document = crate::heuristics::Document::from_value(document).unwrap();
        let text = document.to_canonical_json();
        for line in ["\"a65b128+0+20000b128+20000+0\",", "\"100,4096 1 7.5 0+6454\"],", "\"1 1 0 0\","] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is no line of {text}");
        }
        let again = crate::heuristics::Document::from_bytes(text.as_bytes()).unwrap();
        assert_eq!((&again.models, again.to_canonical_json()), (&document.models, text));
        let read: FittedModel = serde_json::from_value(again.models["x"].clone()).unwrap();
        assert_eq!(&read, model().fitted());
    }

    /// A tree by its text in the form before, and the same one walked node by node.
    fn tree() -> impl Strategy<Value = String> {
        (-1000i32..1000).prop_map(|leaf| leaf.to_string()).prop_recursive(6, 40, 2, |inner| {
            (0usize..5, -3i64..300, inner.clone(), inner)
                .prop_map(|(feature, threshold, below, other)| format!("{feature}<{threshold} {below} {other}"))
        })
    }

    fn walk<'a>(words: &mut impl Iterator<Item = &'a str>, features: &[i64], counts: bool) -> i64 {
        let word = words.next().unwrap();
        let Some((feature, threshold)) = word.split_once('<') else {
            return if counts { word.parse().unwrap() } else { 0 };
        };
        let is_below = features[feature.parse::<usize>().unwrap()] < threshold.parse().unwrap();
        let below = walk(words, features, counts && is_below);
        below + walk(words, features, counts && !is_below)
    }

    proptest! {
        #[test]
        fn trees_are_walked_as_they_are_written(trees in prop::collection::vec(tree(), 1..6), m in 1i64..300) {
            let mut value = value();
            value["trees"] = json!(trees);
            let model = Model::from_json(&value.to_string()).unwrap();
            for choice in model.best(&[m, 128], "bf16", 9) {
                let looked_at = model.looked_at(&[m, 128], "bf16", model.own(), choice.config).unwrap();
                let LookedAt { features, floor_us, .. } = looked_at;
                let sum: i64 = trees.iter().map(|tree| walk(&mut tree.split(' '), &features, true)).sum();
                let expected = floor_us * (sum as f64 / LEAF_UNIT).exp();
                prop_assert_eq!(choice.predicted_us, expected);
                prop_assert_eq!(model.predict_us(&[m, 128], "bf16", choice.config), Some(expected));
                prop_assert!(model.is_legal(&[m, 128], "bf16", choice.config));
            }
        }

        #[test]
        fn no_text_breaks_the_reader_of_trees(words in prop::collection::vec(
            prop::sample::select(vec!["a1", "e-9", "f1", "-", "b", "-7", "+8", "+2147483648", "a99999999999999999999", "é", "<", " ",
                "0<1 ", "4<-9 ", "8 "]), 0..12)) {
            let mut value = value();
            value["trees"] = json!([words.concat()]);
            if let Ok(model) = Model::from_json(&value.to_string()) {
                prop_assert_eq!(model.best(&[16, 64], "bf16", 9).len(), 3);
            }
        }
    }
}
