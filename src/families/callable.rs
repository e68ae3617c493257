//! Kernels of another language: a file that names a family, and a process of that language that builds, compiles and calls what it
//! names there ([`crate::worker`] says how it is spoken to).

use super::{Arg, Code, KernelSpec, Launch};
use crate::model::{Bytes, Config, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a family's callable is, and what makes it this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Callable {
    /// The file that names the family.
    pub file: PathBuf,
    /// The family's name there.
    pub name: String,
    /// Changes with whatever makes it another kernel: its sources, and the versions of what compiles it.
    pub identity: String,
    /// Whether its configs can be compiled ahead, in processes that have no device.
    #[serde(default)]
    pub compiles: bool,
    /// What the kernel is written in.
    #[serde(default)]
    pub language: Language,
    /// The kernel's own name, where that is not the family's.
    #[serde(default)]
    pub kernel: Option<String>,
    /// The file that the kernel is in, where that is another one.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// The names of the tensors among the kernel's arguments, in order, with an empty one for each argument that is none; those of
    /// the tensors that it reads where nothing is said.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// What a callable's kernel is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Whatever Python calls.
    #[default]
    Python,
    /// Triton.
    Triton,
    /// Helion.
    Helion,
}

/// A problem as a callable is asked about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Whose.
    pub callable: Callable,
    /// The problem's dimensions by name.
    pub dims: BTreeMap<String, u64>,
    /// The problem's type.
    pub dtype: String,
}

impl Call {
    /// A problem of a family whose kernels are calls.
    pub fn new(callable: &Callable, problem: &Problem) -> Self {
        let dims = problem.family.dimensions().iter().zip(problem.shape.extents());
        Self {
            callable: callable.clone(),
            dims: dims.map(|(name, extent)| ((*name).to_owned(), *extent)).collect(),
            dtype: problem.dtype.name().to_owned(),
        }
    }

    /// What runs a config on it: the callable with all that it is built for.
    pub fn kernel(&self, config: &Config) -> KernelSpec {
        let dims = self.dims.iter().map(|(name, extent)| (name.clone(), extent.to_string()));
        let others = [("dtype", self.dtype.clone()), ("config", config.to_string())];
        KernelSpec {
            code: Code::Callable(self.callable.clone()),
            entry: self.callable.name.clone(),
            macros: dims.chain(others.map(|(name, value)| (name.to_owned(), value))).collect(),
            salt: String::new(),
        }
    }
}

impl Launch {
    /// What stands for the launch of what launches itself.
    pub(super) const fn of_callable() -> Self {
        const ARGS: Vec<Arg> = Vec::new();
        let (workspace, counters, dynamic_smem) = (Bytes(0), 0, Bytes(0));
        Self {
            grid: [1; 3],
            cluster: [1; 3],
            threads: [1; 3],
            dynamic_smem,
            args: ARGS,
            workspace,
            counters,
            cooperative: false,
        }
    }
}
