//! C = A·B: one task a [m × n] block of C. For each block along k it packs its rows of A and decodes its panel of B
//! once, then multiplies. The weight format is the decode function alone.

use super::panel::{LANES, Panel, ROWS, Sums};
use super::{Float, blocks};
use crate::families::HostTensor;
use crate::model::{Config, Problem};
use half::bf16;
use rayon::prelude::*;

/// What each signed int4 code stands for.
const INT4: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0];
/// What each E2M1 code stands for: one sign bit, two of exponent, one of mantissa.
const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let ([HostTensor::Bf16(a), b], HostTensor::Bf16(c)) = (inputs, output) else { return None };
    let [_, n, k] = problem.shape.first();
    let [block_m, block_n, block_k] = blocks(config)?;
    let product = Product { a, n: n as usize, k: k as usize, block_m, block_n, block_k };
    match (problem.family.name(), b) {
        ("matmul", HostTensor::Bf16(b)) => product.compute(b, |weight| [weight.load()], c),
        ("matmul_int16", HostTensor::I16(b)) => product.compute(b, |weight| [round_to_bf16(weight)], c),
        ("matmul_int4", HostTensor::I8(b)) => product.compute(b, |byte| decode_nibbles(byte, &INT4), c),
        ("matmul_fp4", HostTensor::I8(b)) => product.compute(b, |byte| decode_nibbles(byte, &E2M1), c),
        _ => return None,
    }
    Some(())
}

/// The weight as the nearest bf16, ties to even. On the bits, so that it is done for many weights at once.
fn round_to_bf16(weight: i16) -> f32 {
    let bits = f32::from(weight).to_bits();
    f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
}

/// What the nibbles of a byte stand for, low one first.
fn decode_nibbles(byte: i8, values: &[f32; 16]) -> [f32; 2] {
    let byte = byte.cast_unsigned();
    [values[usize::from(byte & 15)], values[usize::from(byte >> 4)]]
}

/// All of a product but B and C.
struct Product<'a> {
    a: &'a [bf16],
    n: usize,
    k: usize,
    block_m: usize,
    block_n: usize,
    /// In stored elements of B: weights, or bytes that hold several.
    block_k: usize,
}

/// The part of C that is one task's: a slice of each of its rows.
pub(super) struct Block<'c> {
    pub(super) first_row: usize,
    pub(super) first_column: usize,
    pub(super) rows: Vec<&'c mut [bf16]>,
}

/// All tasks of a C of `n` columns.
pub(super) fn blocks_of(c: &mut [bf16], n: usize, block_m: usize, block_n: usize) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    for (band_index, band) in c.chunks_mut(block_m.saturating_mul(n)).enumerate() {
        let first_block = blocks.len();
        blocks.extend((0..n).step_by(block_n).map(|first_column| Block {
            first_row: band_index * block_m,
            first_column,
            rows: Vec::new(),
        }));
        for row in band.chunks_mut(n) {
            for (block, part) in blocks[first_block..].iter_mut().zip(row.chunks_mut(block_n)) {
                block.rows.push(part);
            }
        }
    }
    blocks
}

impl Block<'_> {
    /// Rounds the sums to C.
    pub(super) fn write<const R: usize>(self, sums: &Sums<R>) {
        for (index, row) in self.rows.into_iter().enumerate() {
            for (value, sum) in row.iter_mut().zip(sums.row(index)) {
                *value = bf16::from_f32(sum);
            }
        }
    }
}

impl Product<'_> {
    /// Computes C from B, each of whose elements decodes to the `P` weights it holds along k.
    fn compute<W: Copy + Sync, const P: usize>(&self, b: &[W], decode: impl Fn(W) -> [f32; P] + Sync, c: &mut [bf16]) {
        blocks_of(c, self.n, self.block_m, self.block_n).into_par_iter().with_max_len(1).for_each(|block| {
            if block.rows.len() < ROWS {
                self.compute_block::<_, P, 1>(b, &decode, block);
            } else {
                self.compute_block::<_, P, ROWS>(b, &decode, block);
            }
        });
    }

    fn compute_block<W: Copy, const P: usize, const R: usize>(
        &self,
        b: &[W],
        decode: impl Fn(W) -> [f32; P],
        block: Block<'_>,
    ) {
        let (height, width) = (block.rows.len(), block.rows.first().map_or(0, |row| row.len()));
        let (mut left, mut right) = (Panel::<R>::default(), Panel::<LANES>::default());
        let mut sums = Sums::<R>::zeros(height, width);
        let block_k = self.block_k.saturating_mul(P);
        for first_k in (0..self.k).step_by(block_k) {
            let depth = block_k.min(self.k - first_k);
            left.reset(height, depth);
            for row in 0..height {
                let start = (block.first_row + row) * self.k + first_k;
                left.pack_along(row, self.a[start..start + depth].iter().map(|value| value.load()));
            }
            right.reset(width, depth);
            for step in 0..depth {
                let start = (first_k + step) / P * self.n + block.first_column;
                right.pack_across(step, &b[start..start + width], |weight| decode(weight)[step % P]);
            }
            sums.add_product(&left, &right);
        }
        block.write(&sums);
    }
}
