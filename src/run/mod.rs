//! From the answer to the launch: the kernel that the lookup names for a problem, compiled or taken from a bundle, loaded, and
//! launched on the caller's stream.
//!
//! ```no_run
//! use kernel_sweep::model::{Dtype, Family, Problem};
//! use kernel_sweep::run::{Element, Runtime, Stream, Tensor};
//!
//! # fn main() -> kernel_sweep::error::Result<()> {
//! # let (a, b, c) = (0, 0, 0);
//! let runtime = Runtime::open(0)?; // the primary context, and the document of that GPU
//! let problem = Problem::new(Family::Matmul, &[("m", 16), ("n", 4096), ("k", 8192)], Dtype::Bf16)?;
//! let kernel = runtime.prepare(&problem)?; // looks up, compiles, loads; the launches after it do none of this
//! let (a_shape, b_shape, c_shape) = ([16, 8192], [8192, 4096], [16, 4096]);
//! // SAFETY: these are tensors of those shapes in GPU 0's memory, which stay until the kernel is done.
//! let tensor = |address, shape| unsafe { Tensor::from_raw(address, Element::Bf16, shape, 0) };
//! let inputs = [tensor(a, &a_shape[..]), tensor(b, &b_shape[..])];
//! kernel.launch(Stream::DEFAULT, &inputs, &tensor(c, &c_shape[..]))?;
//! # Ok(())
//! # }
//! ```
//!
//! A launch checks shapes, types, alignment and device, allocates nothing and waits for nothing. Runtimes and kernels may be used
//! from many threads and on many streams at once, and threads that prepare different problems do not wait for each other. A graph has
//! copies of all that a launch is given but the kernel's code and its scratch: code stays loaded as long as a kernel or the runtime that
//! it is from does, unless [`Runtime::forget`] is called. A graph that holds a kernel's launches is not to outlive that.

mod bundle;
mod inventory;
mod kernel;
mod recent;
mod runtime;

pub use crate::device::cuda::{Context, Stream, Tensor};
pub use crate::families::Element;
pub use bundle::{Bundle, Contents, Packed};
pub use inventory::{Inventory, answerable, answered};
pub use kernel::Kernel;
pub use recent::Recent;
pub use runtime::Runtime;
