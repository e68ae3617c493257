//! Row softmax.

use super::{FamilySpec, HostTensor, KernelSpec, Launch, Rejection, Tensors};
use crate::model::{Config, GpuProfile, Problem};

pub(super) struct RowSoftmax;

impl FamilySpec for RowSoftmax {
    fn tensors(&self, _problem: &Problem) -> Tensors {
        todo!()
    }
    fn flops(&self, _problem: &Problem) -> f64 {
        todo!()
    }
    fn launch_knobs(&self) -> &'static [&'static str] {
        todo!()
    }
    fn kernel(&self, _config: &Config, _problem: &Problem, _profile: &GpuProfile) -> Result<KernelSpec, Rejection> {
        todo!()
    }
    fn launch(&self, _config: &Config, _problem: &Problem, _profile: &GpuProfile) -> Result<Launch, Rejection> {
        todo!()
    }
    fn check_host(&self, _config: &Config, _problem: &Problem) -> Result<(), Rejection> {
        todo!()
    }
    fn reference(&self, _problem: &Problem) -> (KernelSpec, Launch) {
        todo!()
    }
    fn host_reference(&self, _problem: &Problem, _inputs: &[HostTensor]) -> Vec<f64> {
        todo!()
    }
}
