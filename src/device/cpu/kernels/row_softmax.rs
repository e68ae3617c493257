//! Softmax over the last axis: one task a block of rows. A row is held whole, or, with `reduction_loops`, read twice in
//! steps of so many columns: once for its greatest value and its sum, once to write it.

use super::{Float, blocks};
use crate::families::HostTensor;
use crate::model::{Config, Problem};
use rayon::prelude::*;

/// `None` where the config or the tensors are not this family's.
pub(super) fn run(problem: &Problem, config: &Config, inputs: &[HostTensor], output: &mut HostTensor) -> Option<()> {
    let cols = problem.shape.first::<2>()[1] as usize;
    let [block_rows] = blocks(config)?;
    let step = match config.reduction_loops[..] {
        [None] => cols,
        [Some(step)] if step > 0 => step as usize,
        _ => return None,
    };
    match (inputs, output) {
        ([HostTensor::Bf16(x)], HostTensor::Bf16(y)) => softmax(x, y, cols, block_rows, step),
        ([HostTensor::F16(x)], HostTensor::F16(y)) => softmax(x, y, cols, block_rows, step),
        ([HostTensor::F32(x)], HostTensor::F32(y)) => softmax(x, y, cols, block_rows, step),
        _ => return None,
    }
    Some(())
}

fn softmax<T: Float>(x: &[T], y: &mut [T], cols: usize, block_rows: usize, step: usize) {
    let block_numel = block_rows.saturating_mul(cols);
    let blocks = y.par_chunks_mut(block_numel).zip(x.par_chunks(block_numel)).with_max_len(1);
    blocks.for_each(|(y, x)| {
        let mut buffer = Vec::with_capacity(step.min(cols));
        for (y, x) in y.chunks_mut(cols).zip(x.chunks(cols)) {
            if step >= cols { whole_row(x, y, &mut buffer) } else { row_in_steps(x, y, step, &mut buffer) }
        }
    });
}

fn whole_row<T: Float>(x: &[T], y: &mut [T], buffer: &mut Vec<f32>) {
    let mut running = Running::default();
    buffer.clear();
    buffer.extend(x.iter().map(|value| value.load()));
    running.absorb(buffer);
    let inverse = 1.0 / running.sum;
    for (y, exponential) in y.iter_mut().zip(buffer) {
        *y = T::store(*exponential * inverse);
    }
}

fn row_in_steps<T: Float>(x: &[T], y: &mut [T], step: usize, buffer: &mut Vec<f32>) {
    let mut running = Running::default();
    for x in x.chunks(step) {
        buffer.clear();
        buffer.extend(x.iter().map(|value| value.load()));
        running.absorb(buffer);
    }
    let inverse = 1.0 / running.sum;
    for (y, x) in y.iter_mut().zip(x) {
        *y = T::store(exp(x.load() - running.max) * inverse);
    }
}

/// The softmax of a row of which some part has been seen.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// The greatest value so far.
    max: f32,
    /// The sum of exp(value - `max`) so far.
    pub(super) sum: f32,
}

impl Default for Running {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0 }
    }
}

impl Running {
    /// Takes in the row's next values and turns each into exp(value - `max`). Returns the factor by which everything
    /// taken in before has shrunk, the maximum having grown.
    pub(super) fn absorb(&mut self, values: &mut [f32]) -> f32 {
        let max = fold_lanes(values, self.max, f32::max);
        // As long as all is -inf there is nothing to subtract: -inf - -inf would be NaN.
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        for value in values.iter_mut() {
            *value = exp(*value - shift);
        }
        let factor = exp(self.max - shift);
        self.sum = self.sum * factor + fold_lanes(values, 0.0, |sum, value| sum + value);
        self.max = max;
        factor
    }
}

/// Folds with an operation that is free to be regrouped, in lanes side by side, so that it need not wait for itself.
/// `start` may be taken in more than once.
fn fold_lanes(values: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    const LANES: usize = 16;
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [start; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, *value);
        }
    }
    lanes.iter().chain(rest).fold(start, |result, value| fold(result, *value))
}

/// eˣ for x ≤ 0, to two units in the last place and without branches, so that it is done for many values at once:
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, eʳ by its Taylor series, 2ⁿ by its exponent bits. What would be smaller than any
/// normal number is zero.
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it leaves no room for fraction bits: it rounds to integers, which land in the low bits.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    /// ln 2 in two parts, the first with so few bits that its products with n are exact.
    const LN_2: [f32; 2] = [LN_2_HIGH, (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32];
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    /// ln of the smallest normal number, rounded towards zero.
    const SMALLEST: f32 = -87.33;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let series = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let exp_r = series.iter().fold(0.0, |sum, coefficient| sum * r + coefficient);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < SMALLEST { 0.0 } else { exp_r * power }
}
