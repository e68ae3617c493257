//! C = A·B of numbers that both have a scale for each group along k. Numbers are decoded and scaled as they are packed, so that sums
//! are of f32 numbers.

use super::blocks;
use super::gemm::{E2M1, e4m3, e8m0};
use super::gemm_fp8::{Lines, multiply};
use crate::families::{HostTensor, decode_e4m3};
use crate::model::{Config, Problem};

/// Bytes of a block of scales: 128 rows by four groups.
const BLOCK_BYTES: usize = 512;

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let [a, b, HostTensor::U8(a_scales), HostTensor::U8(b_scales), factors @ ..] = inputs else { return None };
    let [_, n, k] = problem.shape.first().map(|extent| extent as usize);
    let factors = match factors {
        [] => [1.0; 2],
        [HostTensor::F32(a), HostTensor::F32(b)] => [*a.first()?, *b.first()?],
        _ => return None,
    };
    let extents = blocks(config)?;
    match (a, b) {
        (HostTensor::I8(a), HostTensor::I8(b)) => {
            let bytes_along_k = |[m, n, k]: [usize; 3]| [m, n, 2 * k];
            let operand = |codes, scales, factor| Nvfp4 { codes, scales, factor, k };
            let (a, b) = (operand(a, a_scales, factors[0]), operand(b, b_scales, factors[1]));
            write(&a, &b, output, n, bytes_along_k(extents))
        }
        (HostTensor::Fp8(a), HostTensor::Fp8(b)) => {
            let operand = |codes, scales| Mxfp8 { codes, scales, k };
            write(&operand(a, a_scales), &operand(b, b_scales), output, n, extents)
        }
        _ => None,
    }
}

fn write(a: &impl Lines, b: &impl Lines, output: &mut HostTensor, n: usize, blocks: [usize; 3]) -> Option<()> {
    match output {
        HostTensor::Bf16(c) => multiply(a, b, c, n, blocks),
        HostTensor::F16(c) => multiply(a, b, c, n, blocks),
        _ => return None,
    }
    Some(())
}

/// The scale's code of a line's group, where there are so many groups.
fn code_of(scales: &[u8], line: usize, group: usize, groups: usize) -> u8 {
    let block = line / 128 * groups.div_ceil(4) + group / 4;
    scales[block * BLOCK_BYTES + line % 32 * 16 + line % 128 / 32 * 4 + group % 4]
}

/// E2M1, two a byte, with a scale for each 16 and one for all.
struct Nvfp4<'a> {
    codes: &'a [i8],
    scales: &'a [u8],
    factor: f32,
    k: usize,
}

impl Lines for Nvfp4<'_> {
    fn k(&self) -> usize {
        self.k
    }

    fn numbers(&self, line: usize, first_k: usize, depth: usize) -> impl Iterator<Item = f32> {
        (first_k..first_k + depth).map(move |k| {
            let byte = self.codes[line * (self.k / 2) + k / 2].cast_unsigned();
            let scale = e4m3(code_of(self.scales, line, k / 16, self.k.div_ceil(16)) & 0x7f);
            E2M1[usize::from(byte >> (k % 2 * 4) & 15)] * scale * self.factor
        })
    }
}

/// E4M3 with a scale for each 32.
struct Mxfp8<'a> {
    codes: &'a [u8],
    scales: &'a [u8],
    k: usize,
}

impl Lines for Mxfp8<'_> {
    fn k(&self) -> usize {
        self.k
    }

    fn numbers(&self, line: usize, first_k: usize, depth: usize) -> impl Iterator<Item = f32> {
        (first_k..first_k + depth).map(move |k| {
            let scale = e8m0(code_of(self.scales, line, k / 32, self.k.div_ceil(32)));
            decode_e4m3(self.codes[line * self.k + k]) * scale
        })
    }
}
