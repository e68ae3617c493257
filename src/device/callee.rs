//! Kernels of another language: a device calls them between its own work, on its tensors and on its stream. What is a sample is the
//! device's alone to say.

use super::Fault;
use crate::families::{Call, Element, TensorSpec};
use crate::model::Config;
use std::path::Path;

/// A tensor of the device, contiguous in row-major order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Where it begins: in the host's memory, or in the device's.
    pub address: u64,
    /// The type of its elements.
    pub element: Element,
    /// Its extents, slowest first.
    pub shape: Vec<u64>,
}

impl Array {
    /// A tensor at an address.
    pub(super) fn new(address: u64, tensor: &TensorSpec) -> Self {
        Self { address, element: tensor.element, shape: tensor.shape.clone() }
    }

    /// The same with elements of the type that references are in.
    pub(super) fn of_reference(address: u64, element: Element, tensor: &TensorSpec) -> Self {
        Self { element, ..Self::new(address, tensor) }
    }
}

/// Where kernels are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On the host.
    Host,
    /// On a CUDA GPU, in its primary context, which is current.
    Cuda {
        /// The GPU's ordinal.
        ordinal: u32,
        /// The handle of the stream that everything goes to.
        stream: u64,
    },
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// Its outputs are looked at: what it returns is brought into them.
    ToVerify,
    /// It is timed, and nothing else may happen.
    ToTime,
}

/// A language's side of a device. All of it runs on the thread that opened the device.
pub trait Callee {
    /// Says where kernels are called from now on.
    ///
    /// # Errors
    /// [`Fault::Trouble`] where the language lacks what it takes.
    fn open(&self, place: Where) -> Result<(), Fault>;

    /// Makes a problem the one that is called about; what was built for another may be dropped.
    ///
    /// # Errors
    /// Where there is no such family.
    fn prepare(&self, call: &Call) -> Result<(), Fault>;

    /// Writes what is right of each output of these inputs.
    ///
    /// # Errors
    /// Where it cannot.
    fn reference(&self, inputs: &[Array], outputs: &[Array]) -> Result<(), Fault>;

    /// Builds a config's kernel, or finds it built, and makes it the one that is called. `made` is the file of what came of
    /// compiling it ahead, if that was done.
    ///
    /// # Errors
    /// [`Fault::Unbuilt`] where the language refuses.
    fn build(&self, config: &Config, made: Option<&Path>) -> Result<(), Fault>;

    /// Calls the kernel.
    ///
    /// # Errors
    /// [`Fault::Unbuilt`] where the language refuses.
    fn call(&self, inputs: &[Array], outputs: &[Array], called: Called) -> Result<(), Fault>;

    /// Before a call that nothing may come of as long as the stream is held: fills what the last call returned, if it returned
    /// something, with bytes of this value, and leaves that memory to the next one.
    ///
    /// # Errors
    /// Where it cannot.
    fn poison_returned(&self, byte: u8) -> Result<(), Fault>;

    /// Where, and how many bytes long, what the last call returned lies, if that is where it was poisoned.
    ///
    /// # Errors
    /// Where it cannot tell.
    fn returned(&self) -> Result<Vec<(u64, u64)>, Fault>;
}
