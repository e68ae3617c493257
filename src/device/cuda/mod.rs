//! CUDA GPUs through cudarc's driver bindings. All of the crate's `unsafe` is in this folder, and in the C interface.

mod driver;
#[cfg(feature = "harness")]
mod gpu;
mod launch;
mod memory;
mod nvrtc;
mod served;
mod tensor_map;

#[cfg(feature = "harness")]
pub use gpu::{Flush, Gpu, discover, trouble, work_under_way};
pub use nvrtc::LoadedNvrtc;
#[cfg(feature = "harness")]
pub use nvrtc::serve_compiles;
pub use served::{Context, Stream, Tensor};
pub(crate) use served::{Module, Served};
#[cfg(all(feature = "python", feature = "run"))]
pub(crate) use served::{device_of, vouched_stream};
