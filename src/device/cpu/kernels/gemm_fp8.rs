//! C = A·B of E4M3 numbers with scales, B column-major: one task a [m × n] block of C. Numbers are decoded and scaled as they are
//! packed, so that sums are of f32 numbers.

use super::gemm::{Block, blocks_of};
use super::panel::{LANES, Panel, ROWS, Sums};
use super::{Float, blocks};
use crate::families::{HostTensor, decode_e4m3};
use crate::model::{Config, Problem};
use rayon::prelude::*;
use std::sync::LazyLock;

/// Of k, and of columns of B, that have a scale together where blocks have.
const SCALED: usize = 128;

/// What each code stands for.
static NUMBERS: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|code| decode_e4m3(code as u8)));

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let [HostTensor::Fp8(a), HostTensor::Fp8(b), HostTensor::F32(a_scales), HostTensor::F32(b_scales)] = inputs else {
        return None;
    };
    let HostTensor::Bf16(c) = output else { return None };
    let [m, n, k, scale_block] = problem.shape.first().map(|extent| extent as usize);
    let [block_m, block_n, block_k] = blocks(config)?;
    let k_blocks = k.div_ceil(SCALED);
    let a = Operand {
        codes: a,
        scales: a_scales,
        k,
        scale_at: |row: usize, block: usize| match scale_block {
            0 => 0,
            1 => row,
            _ => block * m + row,
        },
    };
    let b = Operand {
        codes: b,
        scales: b_scales,
        k,
        scale_at: |column: usize, block: usize| match scale_block {
            0 => 0,
            1 => column,
            _ => column / SCALED * k_blocks + block,
        },
    };
    multiply(&a, &b, c, n, [block_m, block_n, block_k]);
    Some(())
}

/// A or B: lines of `k` codes, and where in the scales that of a line and 128 of k is.
struct Operand<'a, S> {
    codes: &'a [u8],
    scales: &'a [f32],
    k: usize,
    scale_at: S,
}

/// An operand whose lines, rows of A or columns of B, lie along k.
pub(super) trait Lines: Sync {
    /// Numbers of a line.
    fn k(&self) -> usize;

    /// `depth` numbers of a line, from `first_k` on.
    fn numbers(&self, line: usize, first_k: usize, depth: usize) -> impl Iterator<Item = f32>;
}

impl<S: Fn(usize, usize) -> usize + Sync> Lines for Operand<'_, S> {
    fn k(&self) -> usize {
        self.k
    }

    fn numbers(&self, line: usize, first_k: usize, depth: usize) -> impl Iterator<Item = f32> {
        let codes = &self.codes[line * self.k + first_k..][..depth];
        codes
            .iter()
            .zip(first_k..)
            .map(move |(code, k)| NUMBERS[usize::from(*code)] * self.scales[(self.scale_at)(line, k / SCALED)])
    }
}

/// Computes C, of `n` columns, in blocks along m, n and k.
pub(super) fn multiply<E: Float>(
    a: &impl Lines,
    b: &impl Lines,
    c: &mut [E],
    n: usize,
    [block_m, block_n, block_k]: [usize; 3],
) {
    blocks_of(c, n, block_m, block_n).into_par_iter().with_max_len(1).for_each(|block| {
        if block.rows.len() < ROWS {
            compute_block::<1, E>(a, b, block, block_k);
        } else {
            compute_block::<ROWS, E>(a, b, block, block_k);
        }
    });
}

fn compute_block<const R: usize, E: Float>(a: &impl Lines, b: &impl Lines, block: Block<'_, E>, block_k: usize) {
    let (height, width) = (block.rows.len(), block.rows.first().map_or(0, |row| row.len()));
    let (mut left, mut right) = (Panel::<R>::default(), Panel::<LANES>::default());
    let mut sums = Sums::<R>::zeros(height, width);
    for first_k in (0..a.k()).step_by(block_k) {
        let depth = block_k.min(a.k() - first_k);
        left.reset(height, depth);
        for row in 0..height {
            left.pack_along(row, a.numbers(block.first_row + row, first_k, depth));
        }
        right.reset(width, depth);
        for column in 0..width {
            right.pack_along(column, b.numbers(block.first_column + column, first_k, depth));
        }
        sums.add_product(&left, &right);
    }
    block.write(&sums);
}
