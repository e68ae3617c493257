//! The devices that run kernels: CUDA GPUs through cudarc, and the host. Everything unsafe is in [`cuda`].

#[cfg(feature = "harness")]
pub mod cpu;
#[allow(unsafe_code)]
pub mod cuda;
#[cfg(feature = "harness")]
mod callee;
mod fault;
#[cfg(feature = "harness")]
mod harness;
#[cfg(feature = "harness")]
pub mod mutants;

#[cfg(feature = "harness")]
pub use callee::{Array, Called, Callee, Where};
pub use fault::Fault;
#[cfg(feature = "harness")]
pub(crate) use harness::LEAST_ALLOWED;
#[cfg(feature = "harness")]
pub use harness::{Address, Deviation, Device, Found, PROTOCOL, Program, support_kernel};
#[cfg(feature = "harness")]
use std::path::PathBuf;

/// Every device here, GPUs first.
#[cfg(feature = "harness")]
pub fn discover() -> Vec<Found> {
    let mut found = cuda::discover();
    found.push(cpu::discover());
    found
}

/// What keeps the CUDA driver that is here from being used, in one line: its error, or what it lacks. Nothing where all is well
/// or there is no driver.
#[cfg(feature = "harness")]
pub fn driver_trouble() -> Option<String> {
    cuda::trouble()
}

/// Opens a device. `support` is the cubin of the harness's own kernels, where the device runs compiled kernels; a `callee` runs
/// kernels of another language in their place.
///
/// # Errors
/// Where the device cannot be opened.
#[cfg(feature = "harness")]
pub fn open(
    address: Address,
    support: Option<&PathBuf>,
    callee: Option<Box<dyn Callee>>,
) -> Result<Box<dyn Device>, Fault> {
    match (address, support, callee) {
        (Address::Cpu, _, None) => Ok(Box::new(cpu::Cpu::open())),
        (Address::Cpu, _, Some(callee)) => Ok(Box::new(cpu::CallingCpu::open(callee)?)),
        (Address::Cuda(ordinal), Some(support), None) => Ok(Box::new(cuda::Gpu::open(ordinal, support)?)),
        (Address::Cuda(ordinal), Some(support), Some(callee)) => {
            Ok(Box::new(cuda::Gpu::open(ordinal, support)?.calling(callee, ordinal)?))
        }
        (Address::Cuda(_), None, _) => Err(Fault::Trouble("a GPU needs the cubin of the support kernels".into())),
    }
}
