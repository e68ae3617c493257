//! What stands for a family that a document or a journal names, and whose manifest nobody has read.

use crate::families::{
    Axis, Condition, Description, FamilySpec, Footprint, HostTensor, KernelSpec, Launch, Reference as Right, Rejection,
    Tensors,
};
use crate::model::{Config, Family, GpuProfile, Problem};

/// In place of a family whose manifest was not read, as one that only a document knows: it has no kernel.
pub(super) static NOT_READ: NotRead = NotRead;

pub(super) struct NotRead;

impl NotRead {
    fn refused<T>() -> Result<T, Rejection> {
        Err(Rejection("its manifest was not read: name it with --family".into()))
    }
}

impl FamilySpec for NotRead {
    fn tensors(&self, _problem: &Problem) -> Tensors {
        Tensors { inputs: Vec::new(), outputs: Vec::new() }
    }

    fn flops(&self, _problem: &Problem) -> f64 {
        0.0
    }

    fn launch_knobs(&self) -> &'static [&'static str] {
        &[]
    }

    fn description(&self) -> Description {
        Description { bytes: "0".into(), flops: "0".into(), ..Description::default() }
    }

    fn family(&self) -> Family {
        Family::Elementwise
    }

    fn check(&self, _config: &Config, _profile: &GpuProfile) -> Result<(), Rejection> {
        Self::refused()
    }

    fn conditions(&self, _config: &Config, _profile: &GpuProfile) -> &'static [Condition] {
        &[]
    }

    fn axes(&self) -> &'static [Axis] {
        &[]
    }

    fn footprint(&self, _config: &Config, _problem: &Problem, _profile: &GpuProfile) -> Result<Footprint, Rejection> {
        Self::refused()
    }

    fn build(
        &self,
        _config: &Config,
        _problem: &Problem,
        _profile: &GpuProfile,
    ) -> Result<(KernelSpec, Launch), Rejection> {
        Self::refused()
    }

    fn check_host(&self, _config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        Self::refused()
    }

    fn reference(&self, _problem: &Problem) -> Result<Option<(KernelSpec, Launch)>, Rejection> {
        Ok(None)
    }

    fn host_reference(&self, _problem: &Problem, _inputs: &[HostTensor]) -> Right {
        Right::default()
    }
}
