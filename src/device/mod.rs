//! The devices that run kernels: CUDA GPUs through cudarc, and the host. Everything unsafe is in [`cuda`].

#[cfg(feature = "harness")]
pub mod cpu;
#[allow(unsafe_code)]
pub mod cuda;
mod fault;
#[cfg(feature = "harness")]
mod harness;
#[cfg(feature = "harness")]
pub mod mutants;

pub use fault::Fault;
#[cfg(feature = "harness")]
pub(crate) use harness::LEAST_ALLOWED;
#[cfg(feature = "harness")]
pub use harness::{Address, Deviation, Device, Found, PROTOCOL, Program, discover, driver_trouble, open};
