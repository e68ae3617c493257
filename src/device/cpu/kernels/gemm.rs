//! C = A·B: one task a [m × n] block of C. For each block along k it packs its rows of A and decodes its panel of B
//! once, then multiplies. The weight format is the decode function alone, and the scales that some have.

use super::panel::{LANES, Panel, ROWS, Sums};
use super::{Float, blocks};
use crate::families::HostTensor;
use crate::model::{Config, Problem};
use half::{bf16, f16};
use rayon::prelude::*;

/// What each signed int4 code stands for.
const INT4: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0];
/// What each E2M1 code stands for: one sign bit, two of exponent, one of mantissa.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// What each unsigned code of four bits stands for.
const UINT4: [f32; 16] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let [a, b, others @ ..] = inputs else { return None };
    match (a, output) {
        (HostTensor::Bf16(a), HostTensor::Bf16(c)) => {
            let plain = if let HostTensor::Bf16(b) = b { Some(&b[..]) } else { None };
            multiply(problem, config, a, (b, plain), others, c)
        }
        (HostTensor::F16(a), HostTensor::F16(c)) => {
            let plain = if let HostTensor::F16(b) = b { Some(&b[..]) } else { None };
            multiply(problem, config, a, (b, plain), others, c)
        }
        _ => None,
    }
}

/// The product with activations of one type, `plain` being weights of the same.
fn multiply<E: Half>(
    problem: &Problem,
    config: &Config,
    a: &[E],
    (b, plain): (&HostTensor, Option<&[E]>),
    others: &[HostTensor],
    c: &mut [E],
) -> Option<()> {
    let [_, n, k, group, zero_points] = problem.shape.first().map(|extent| extent as usize);
    let [block_m, block_n, block_k] = blocks(config)?;
    let scales = Scales::of(problem, n, if group == 0 { k } else { group }, others)?;
    let product = Product { a, n, k, block_m, block_n, block_k, scales };
    let codes = |values| move |byte| decode_nibbles(byte, values);
    match (problem.family.name(), b) {
        ("matmul", _) => product.compute(plain?, |weight| [weight.load()], c),
        ("matmul_int16", HostTensor::I16(b)) => product.compute(b, |weight| [E::nearest(weight)], c),
        ("matmul_int4_group", HostTensor::I8(b)) if zero_points == 1 => product.compute(b, codes(&UINT4), c),
        ("matmul_int4" | "matmul_int4_group", HostTensor::I8(b)) => product.compute(b, codes(&INT4), c),
        ("matmul_fp4" | "matmul_nvfp4" | "matmul_mxfp4", HostTensor::I8(b)) => product.compute(b, codes(&E2M1), c),
        _ => return None,
    }
    Some(())
}

/// What a weight is multiplied by, and what is taken off it before, by its group along k and its column.
struct Scales<'a> {
    n: usize,
    group: usize,
    factors: Vec<f32>,
    zeros: &'a [u8],
}

impl<'a> Scales<'a> {
    /// Those of a problem's weights, if they have any; nothing at all where the tensors are not the family's.
    #[allow(clippy::option_option)] // what has no scales is as right as what has
    fn of(problem: &Problem, n: usize, group: usize, tensors: &'a [HostTensor]) -> Option<Option<Self>> {
        let of_codes =
            |codes: &[u8], decode: fn(u8) -> f32| codes.iter().map(|code| decode(*code)).collect::<Vec<f32>>();
        let (group, factors, zeros): (_, Vec<f32>, &[u8]) = match (problem.family.name(), tensors) {
            ("matmul_int4_group", [scales, zeros @ ..]) => {
                let factors = match scales {
                    HostTensor::Bf16(scales) => scales.iter().map(|scale| scale.load()).collect(),
                    HostTensor::F16(scales) => scales.iter().map(|scale| scale.load()).collect(),
                    _ => return None,
                };
                match zeros {
                    [] => (group, factors, &[]),
                    [HostTensor::U8(zeros)] => (group, factors, zeros),
                    _ => return None,
                }
            }
            ("matmul_nvfp4", [HostTensor::U8(scales), HostTensor::F32(tensor)]) => {
                let factor = *tensor.first()?;
                (16, of_codes(scales, e4m3).into_iter().map(|scale| scale * factor).collect(), &[])
            }
            ("matmul_mxfp4", [HostTensor::U8(scales)]) => (32, of_codes(scales, e8m0), &[]),
            (_, []) => return Some(None),
            _ => return None,
        };
        Some(Some(Self { n, group, factors, zeros }))
    }

    /// The weight at a place of what its code stands for.
    fn apply(&self, k: usize, column: usize, code: f32) -> f32 {
        let place = k / self.group * self.n + column;
        let zero = self.zeros.get(place).map_or(0.0, |zero| f32::from(zero & 15));
        (code - zero) * self.factors[place]
    }
}

/// What an E4M3 code stands for.
pub(super) fn e4m3(code: u8) -> f32 {
    let mantissa = f32::from(code & 7);
    let magnitude = match code & 0x7f {
        0x7f => f32::NAN,
        0..8 => mantissa / 512.0,
        _ => (8.0 + mantissa) * f32::from_bits((u32::from(code >> 3 & 15) + 117) << 23),
    };
    if code < 0x80 { magnitude } else { -magnitude }
}

/// What an E8M0 code stands for: a power of two, the least of which is subnormal.
pub(super) fn e8m0(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        u8::MAX => f32::NAN,
        _ => f32::from_bits(u32::from(code) << 23),
    }
}

/// The types of activations.
trait Half: Float {
    /// The weight as the nearest of this type, ties to even.
    fn nearest(weight: i16) -> f32;
}

impl Half for bf16 {
    fn nearest(weight: i16) -> f32 {
        round_to_bf16(weight)
    }
}

impl Half for f16 {
    fn nearest(weight: i16) -> f32 {
        Self::from_f32(f32::from(weight)).to_f32()
    }
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
struct Product<'a, E> {
    a: &'a [E],
    n: usize,
    k: usize,
    block_m: usize,
    block_n: usize,
    /// In stored elements of B: weights, or bytes that hold several.
    block_k: usize,
    scales: Option<Scales<'a>>,
}

/// The part of C that is one task's: a slice of each of its rows.
pub(super) struct Block<'c, E> {
    pub(super) first_row: usize,
    pub(super) first_column: usize,
    pub(super) rows: Vec<&'c mut [E]>,
}

/// All tasks of a C of `n` columns.
pub(super) fn blocks_of<E>(c: &mut [E], n: usize, block_m: usize, block_n: usize) -> Vec<Block<'_, E>> {
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

impl<E: Float> Block<'_, E> {
    /// Rounds the sums to C.
    pub(super) fn write<const R: usize>(self, sums: &Sums<R>) {
        for (index, row) in self.rows.into_iter().enumerate() {
            for (value, sum) in row.iter_mut().zip(sums.row(index)) {
                *value = E::store(sum);
            }
        }
    }
}

impl<E: Half> Product<'_, E> {
    /// Computes C from B, each of whose elements decodes to the `P` weights it holds along k.
    fn compute<W: Copy + Sync, const P: usize>(&self, b: &[W], decode: impl Fn(W) -> [f32; P] + Sync, c: &mut [E]) {
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
        block: Block<'_, E>,
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
                if let Some(scales) = &self.scales {
                    let apply = |column, code| scales.apply(first_k + step, block.first_column + column, code);
                    right.map_across(step, width, apply);
                }
            }
            sums.add_product(&left, &right);
        }
        block.write(&sums);
    }
}
