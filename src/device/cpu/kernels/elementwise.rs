//! out = x + y: one task a block of elements.

use super::{Float, blocks};
use crate::families::HostTensor;
use crate::model::Config;
use rayon::prelude::*;

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let [block] = blocks(config)?;
    match (inputs, output) {
        ([HostTensor::Bf16(x), HostTensor::Bf16(y)], HostTensor::Bf16(out)) => add(x, y, out, block),
        ([HostTensor::F16(x), HostTensor::F16(y)], HostTensor::F16(out)) => add(x, y, out, block),
        ([HostTensor::F32(x), HostTensor::F32(y)], HostTensor::F32(out)) => add(x, y, out, block),
        _ => return None,
    }
    Some(())
}

fn add<T: Float>(x: &[T], y: &[T], out: &mut [T], block: usize) {
    let blocks = out.par_chunks_mut(block).zip(x.par_chunks(block).zip(y.par_chunks(block))).with_max_len(1);
    blocks.for_each(|(out, (x, y))| {
        for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
            *out = T::store(x.load() + y.load());
        }
    });
}
