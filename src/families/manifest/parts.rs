//! What a manifest comes to: expressions ready to be evaluated.

use super::expand::Definitions;
use super::raw::Role;
use crate::families::legality::Condition;
use crate::families::{Axis, Callable, Description, Extent, Tolerance};
use crate::heuristics::Formula;
use crate::model::{Dtype, Family};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Bytes that every allocation of a sweep is aligned to, so that no kernel is known to need more.
pub(super) const USUAL_ALIGNMENT: u64 = 256;

/// A family as its manifest has it.
pub(super) struct Manifest {
    pub(super) family: Family,
    pub(super) definitions: Definitions,
    pub(super) knobs: Vec<String>,
    pub(super) own_knobs: &'static [&'static str],
    pub(super) launch_knobs: &'static [&'static str],
    /// Knobs, each with the fields that say when it changes nothing, and how.
    pub(super) idle: Vec<(&'static str, Vec<&'static str>, Formula)>,
    pub(super) domain: &'static [Extent],
    pub(super) flops: Formula,
    pub(super) bytes: Option<Formula>,
    pub(super) c_types: BTreeMap<Dtype, String>,
    pub(super) description: Description,
    pub(super) axes: &'static [Axis],
    pub(super) registers: Option<Formula>,
    pub(super) stage_bytes: Option<Formula>,
    pub(super) tensors: Vec<TensorOf>,
    pub(super) reference: Option<Reference>,
    pub(super) runs: Runs,
}

/// What its configs run.
pub(super) enum Runs {
    /// A config the first whose condition holds.
    Kernels(Vec<Kernel>),
    /// A callable, whatever the config.
    Called {
        callable: Callable,
        /// What must hold of a config on any problem.
        of_knobs: Vec<Condition>,
        conditions: &'static [Condition],
    },
}

/// A tensor.
pub(super) struct TensorOf {
    pub(super) name: String,
    pub(super) role: Role,
    /// Its place among the inputs, or among the outputs.
    pub(super) place: usize,
    /// The problem's type where there is none.
    pub(super) element: Option<Dtype>,
    pub(super) shape: Vec<Formula>,
    pub(super) fill: Option<Contents>,
    pub(super) awkward: Option<Contents>,
    pub(super) file: Option<(PathBuf, Template)>,
    pub(super) alignment: Option<Formula>,
    pub(super) tolerance: Option<Tolerance>,
    pub(super) right: Option<(PathBuf, Template)>,
}

/// What a tensor is filled with.
pub(super) enum Contents {
    Uniform(Formula),
    Logits(Formula),
    Whole(Formula, Formula),
    Wide(Formula, Formula),
    Landmarks(Formula, Formula),
    Bits,
    Extremes,
}

/// The plain kernel that others are compared with.
pub(super) struct Reference {
    pub(super) run: Run,
}

/// A kernel, and which configs run it.
pub(super) struct Kernel {
    pub(super) when: Option<Formula>,
    /// What must hold of a config on any problem.
    pub(super) of_knobs: Vec<Condition>,
    pub(super) conditions: &'static [Condition],
    /// Bytes that its tensors must begin at multiples of.
    pub(super) alignment: u64,
    pub(super) run: Run,
}

/// How a kernel is compiled and launched.
pub(super) struct Run {
    pub(super) source: Template,
    /// Where its files are; none where they are built in.
    pub(super) folder: Option<PathBuf>,
    pub(super) include: Vec<PathBuf>,
    pub(super) options: Vec<String>,
    pub(super) entry: Template,
    pub(super) macros: Vec<(String, Value)>,
    pub(super) grid: [Formula; 3],
    pub(super) threads: [Formula; 3],
    pub(super) cluster: Option<[Formula; 3]>,
    pub(super) smem: Option<Formula>,
    pub(super) scratch: Option<Formula>,
    pub(super) counters: Option<Formula>,
    pub(super) args: Vec<Argument>,
}

impl Run {
    /// What decides which code is compiled or loaded.
    pub(super) fn compiled(&self) -> impl Iterator<Item = &Value> {
        let of_texts = self.source.values().chain(self.entry.values());
        of_texts.chain(self.macros.iter().map(|(_, value)| value))
    }

    /// The expressions of its launch.
    pub(super) fn launched(&self) -> impl Iterator<Item = &Formula> {
        let of_args = self.args.iter().filter_map(|argument| match argument {
            Argument::I32(formula)
            | Argument::I64(formula)
            | Argument::F32(Scalar::Number(formula))
            | Argument::F64(Scalar::Number(formula)) => Some(formula),
            _ => None,
        });
        let sizes = [&self.smem, &self.scratch, &self.counters].into_iter().flatten();
        let axes = self.grid.iter().chain(&self.threads).chain(self.cluster.iter().flatten());
        axes.chain(sizes).chain(of_args)
    }
}

impl Template {
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter_map(|(_, value)| value.as_ref())
    }
}

/// A text with values in it: each after its text, none after the last.
#[derive(Debug)]
pub(super) struct Template(pub(super) Vec<(String, Option<Value>)>);

/// What a macro or a template has.
#[derive(Debug)]
pub(super) enum Value {
    CType,
    Dtype,
    /// As the config has it.
    Knob(String),
    Number(Formula),
}

/// An argument.
#[derive(Debug, PartialEq)]
pub(super) enum Argument {
    Input(usize),
    Output(usize),
    Allowed(usize),
    Null,
    Scratch,
    Counters,
    I32(Formula),
    I64(Formula),
    F32(Scalar),
    F64(Scalar),
}

/// A float.
#[derive(Debug, PartialEq)]
pub(super) enum Scalar {
    Value(f64),
    Number(Formula),
}

/// A list that lives as long as the process: manifests are few, and read once.
pub(super) fn forever<T>(list: Vec<T>) -> &'static [T] {
    Box::leak(list.into_boxed_slice())
}

pub(super) fn forever_text(text: &str) -> &'static str {
    Box::leak(text.into())
}
