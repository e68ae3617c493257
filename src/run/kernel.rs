//! A kernel prepared for one problem, and the checks before each launch.

use crate::device::cuda::{Context, Served, Stream, Tensor};
use crate::error::{Error, Result};
use crate::families::{self, Element, TensorSpec};
use crate::model::{Bytes, Config, Problem};
use std::fmt;

/// Tensors that a kernel reads at most: a launch keeps their addresses on its stack.
pub(super) const MOST_INPUTS: usize = 8;

/// What a tensor of the problem must be.
#[derive(Debug)]
struct Operand {
    name: String,
    element: Element,
    shape: Vec<u64>,
}

impl Operand {
    fn of(spec: &TensorSpec) -> Self {
        Self { name: spec.name.clone(), element: spec.element, shape: spec.shape.clone() }
    }
}

/// `A bf16 [16, 4096]`
impl fmt::Display for Operand {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {:?}", self.name, name(self.element), self.shape)
    }
}

/// The short name of a type.
fn name(element: Element) -> String {
    element.to_string()
}

/// The kernel that runs one problem, ready to be launched.
#[derive(Debug)]
pub struct Kernel {
    problem: Problem,
    config: Config,
    inputs: Vec<Operand>,
    output: Operand,
    /// Bytes that every tensor begins at a multiple of.
    alignment: u64,
    served: Served,
}

impl Kernel {
    pub(super) fn new(
        problem: Problem,
        config: Config,
        inputs: &[TensorSpec],
        output: &TensorSpec,
        served: Served,
    ) -> Self {
        let inputs = inputs.iter().map(Operand::of).collect();
        let alignment = families::spec(problem.family).alignment(&config);
        Self { problem, config, inputs, output: Operand::of(output), alignment, served }
    }

    /// What it computes.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// What it was compiled and is launched with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The context it was prepared in.
    pub fn context(&self) -> &Context {
        self.served.context()
    }

    /// Bytes of device memory that a launch needs beside its tensors, for programs that share a tile. Most kernels need none.
    pub fn scratch_bytes(&self) -> Bytes {
        self.served.scratch_bytes()
    }

    /// Launches it on `stream`, and returns at once.
    ///
    /// A kernel that needs scratch has one of its own: its launches come one after the other on the GPU, whatever their streams,
    /// and none can go into a graph. [`Kernel::launch_in`] has neither limit.
    ///
    /// # Errors
    /// Where a tensor is not the problem's: of another shape or type, not aligned to 16 bytes (32 for some of Blackwell's
    /// kernels), in another GPU's memory, or an output that lies over an input; or where the driver refuses.
    #[inline]
    pub fn launch(&self, stream: Stream, inputs: &[Tensor<'_>], output: &Tensor<'_>) -> Result<()> {
        self.launch_times(stream, inputs, output, 1)
    }

    /// Launches it so many times in a row on the same tensors, which are checked once: the launches after the first cost the driver's
    /// own call and no more.
    ///
    /// # Errors
    /// As [`Kernel::launch`].
    #[inline]
    pub fn launch_times(&self, stream: Stream, inputs: &[Tensor<'_>], output: &Tensor<'_>, times: u32) -> Result<()> {
        let addresses = self.checked(inputs, output)?;
        let launched = self.served.launch(stream, &addresses[..inputs.len()], output.address(), times);
        launched.map_err(|fault| self.failed(fault))
    }

    /// The same with scratch of the caller's: at least [`Kernel::scratch_bytes`] of bytes that no other launch uses meanwhile.
    ///
    /// # Errors
    /// As [`Kernel::launch`], and where the scratch is too small, not aligned, or in another GPU's memory.
    pub fn launch_in(
        &self,
        stream: Stream,
        scratch: &Tensor<'_>,
        inputs: &[Tensor<'_>],
        output: &Tensor<'_>,
    ) -> Result<()> {
        let addresses = self.checked(inputs, output)?;
        if scratch.bytes() < self.scratch_bytes().0 {
            let needed = self.scratch_bytes();
            return Err(self.refused(format!("scratch of {} where it needs {needed}", Bytes(scratch.bytes()))));
        }
        self.check_place("scratch", scratch)?;
        let launched = self.served.launch_in(stream, &addresses[..inputs.len()], output.address(), scratch.address());
        launched.map_err(|fault| self.failed(fault))
    }

    /// The inputs' addresses, where all tensors are the problem's.
    #[inline]
    fn checked(&self, inputs: &[Tensor<'_>], output: &Tensor<'_>) -> Result<[u64; MOST_INPUTS]> {
        if inputs.len() != self.inputs.len() {
            return Err(self.refused(format!("{} input tensors where there are {}", inputs.len(), self.inputs.len())));
        }
        self.check(&self.output, output)?;
        let mut addresses = [0; MOST_INPUTS];
        for ((operand, tensor), address) in self.inputs.iter().zip(inputs).zip(&mut addresses) {
            self.check(operand, tensor)?;
            if overlap(tensor, output) {
                return Err(self.refused(format!(
                    "{} lies over {}: programs would read what others have written",
                    self.output.name, operand.name
                )));
            }
            *address = tensor.address();
        }
        Ok(addresses)
    }

    #[inline]
    fn check(&self, operand: &Operand, tensor: &Tensor<'_>) -> Result<()> {
        // Whoever has bytes does not say whether they are signed: a code is neither.
        let is_byte = |element| matches!(element, Element::I8 | Element::U8);
        let is_alike = tensor.element() == operand.element || is_byte(tensor.element()) && is_byte(operand.element);
        if !is_alike || tensor.shape() != operand.shape {
            let found = format!("{} {:?}", name(tensor.element()), tensor.shape());
            return Err(self.refused(format!("it was prepared for {operand}, and this is {found}")));
        }
        self.check_place(&operand.name, tensor)
    }

    #[inline]
    fn check_place(&self, name: &str, tensor: &Tensor<'_>) -> Result<()> {
        let own = self.served.context().ordinal();
        if tensor.device() != own {
            let place = tensor.device();
            return Err(
                self.refused(format!("{name} is in the memory of GPU {place}, and it was prepared on GPU {own}"))
            );
        }
        if tensor.address() == 0 || !tensor.address().is_multiple_of(self.alignment) {
            let (place, alignment) = (tensor.address(), self.alignment);
            return Err(self.refused(format!("{name} at {place:#x} is not aligned to {alignment} bytes: copy it")));
        }
        Ok(())
    }

    #[cold]
    fn refused(&self, why: impl fmt::Display) -> Error {
        self.failed(Error::usage(why))
    }

    #[cold]
    fn failed(&self, why: impl Into<Error>) -> Error {
        why.into().context(format!("launching {}", self.problem))
    }
}

/// Whether two tensors share memory.
#[inline]
fn overlap(one: &Tensor<'_>, other: &Tensor<'_>) -> bool {
    let end = |tensor: &Tensor<'_>| tensor.address().saturating_add(tensor.bytes());
    one.address() < end(other) && other.address() < end(one)
}
