//! Host kernels: the families' operations as blocked loops over a thread pool. The config's knobs mean what they mean
//! on a GPU: a block is the work of one task, `num_warps` counts the threads, and operands are decoded to f32 block by
//! block. Sums are kept in f32 and rounded once, when the output is written.

mod attention;
mod block_scaled;
mod elementwise;
mod gemm;
mod gemm_fp8;
mod panel;
mod row_softmax;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::families::HostTensor;
use crate::model::{Config, Problem};
use half::{bf16, f16};
use rayon::ThreadPool;

/// The kernels' source text: what a measurement's kernel hash is taken over, so that a changed kernel is measured anew.
pub(crate) const SOURCE: &str = concat!(
    include_str!("mod.rs"),
    include_str!("attention.rs"),
    include_str!("block_scaled.rs"),
    include_str!("elementwise.rs"),
    include_str!("gemm.rs"),
    include_str!("gemm_fp8.rs"),
    include_str!("panel.rs"),
    include_str!("row_softmax.rs"),
);

/// The threads that `config` asks for: `num_warps`, one where it names none.
pub(crate) fn threads(config: &Config) -> usize {
    config.num_warps.map_or(1, |warps| warps.max(1) as usize)
}

/// Computes `problem` on `threads`, a pool of [`threads`] of them, and writes every element of `output`. The tensors
/// are those of the family, in its order.
///
/// # Errors
/// Where the config or the tensors are not ones of the problem's family.
pub(crate) fn run(
    problem: &Problem,
    config: &Config,
    inputs: &[HostTensor],
    output: &mut HostTensor,
    threads: &ThreadPool,
) -> Result<()> {
    let done = threads.install(|| match problem.family.name() {
        "attention" => attention::run(problem, config, inputs, output),
        "row_softmax" => row_softmax::run(problem, config, inputs, output),
        "matmul_fp8" => gemm_fp8::run(problem, config, inputs, output),
        "matmul_nvfp4_nvfp4" | "matmul_mxfp8" => block_scaled::run(problem, config, inputs, output),
        "elementwise" => elementwise::run(config, inputs, output),
        _ => gemm::run(problem, config, inputs, output),
    });
    done.ok_or_else(|| {
        Error::failure(format!("the host kernel for {problem} has no use for config {config} with these tensors"))
    })
}

/// The config's block extents if there are `N` of them, all positive.
fn blocks<const N: usize>(config: &Config) -> Option<[usize; N]> {
    let extents: [u32; N] = config.block_sizes.as_slice().try_into().ok()?;
    extents.iter().all(|extent| *extent > 0).then(|| extents.map(|extent| extent as usize))
}

/// The element types that tensors of floats come in.
trait Float: Copy + Send + Sync {
    /// The value, exactly.
    fn load(self) -> f32;
    /// The nearest value of this type.
    fn store(value: f32) -> Self;
}

impl Float for f32 {
    fn load(self) -> f32 {
        self
    }
    fn store(value: f32) -> Self {
        value
    }
}

impl Float for f16 {
    fn load(self) -> f32 {
        self.to_f32()
    }
    fn store(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Float for bf16 {
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    fn store(value: f32) -> Self {
        Self::from_f32(value)
    }
}
