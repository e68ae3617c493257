//! What a manifest cannot say: the host's side of a family of ours, for the cpu device and for the tests of its reference kernel.

use crate::families::{HostTensor, Reference, Rejection, knobs, rounding};
use crate::model::{Config, Family, Problem};

/// Which configs the host's kernel runs, and what is right, computed in f64.
pub(super) struct Host {
    pub(super) check: fn(&Config, &Problem) -> Result<(), Rejection>,
    pub(super) reference: fn(&Problem, &[HostTensor]) -> Reference,
}

/// The host's side of a family, if it has one.
pub(super) fn of(family: Family) -> Option<&'static Host> {
    static ELEMENTWISE: Host = Host { check: check_elementwise, reference: add };
    static ROW_SOFTMAX: Host = Host { check: check_row_softmax, reference: softmax };
    match family {
        Family::Elementwise => Some(&ELEMENTWISE),
        Family::RowSoftmax => Some(&ROW_SOFTMAX),
        _ => None,
    }
}

fn check_elementwise(config: &Config, _problem: &Problem) -> Result<(), Rejection> {
    knobs::only(config, &["num_warps"])?;
    knobs::block_sizes::<1>(config)?;
    knobs::host_threads(config)
}

fn check_row_softmax(config: &Config, _problem: &Problem) -> Result<(), Rejection> {
    knobs::only(config, &["num_warps", "reduction_loops"])?;
    knobs::block_sizes::<1>(config)?;
    knobs::host_threads(config)?;
    match config.reduction_loops.as_slice() {
        [None | Some(1..)] => Ok(()),
        [Some(0)] => Err(Rejection("reduction_loops [0] must be positive, or null for the whole row".into())),
        [] => Err(Rejection("reduction_loops is missing: [null] for the whole row, or [columns]".into())),
        many => Err(Rejection(format!("reduction_loops has {} entries, this kernel one", many.len()))),
    }
}

/// By what share of itself an element of a softmax may differ before it is rounded, and by how much more for each unit that it is below
/// the row's maximum. The manifest has the same, and says why.
const SOFTMAX_ALLOWED: f64 = 256.0 * rounding::F32;
const SOFTMAX_SLOPE: f64 = 8.0 * rounding::F32;
/// Further below, the result is 0 in f32. `row_softmax_reference.cu` has the same.
const FURTHEST: f64 = 128.0;

fn softmax(problem: &Problem, inputs: &[HostTensor]) -> Reference {
    let [_, cols] = problem.shape.first();
    let of_row = |row: &[f64]| {
        let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let distances: Vec<f64> = row.iter().map(|value| maximum - value).collect();
        let sum: f64 = distances.iter().map(|distance| (-distance).exp()).sum();
        distances.into_iter().map(move |distance| {
            let value = (-distance).exp() / sum;
            (value, value * (SOFTMAX_ALLOWED + SOFTMAX_SLOPE * distance.min(FURTHEST)))
        })
    };
    inputs[0].to_f64().chunks(cols as usize).flat_map(of_row).collect()
}

/// By what share of itself a sum may differ before it is rounded: a sum in f32 is rounded once, and this is twice as much. The
/// manifest has the same.
const ALLOWED: f64 = 2.0 * rounding::F32;

fn add(_problem: &Problem, inputs: &[HostTensor]) -> Reference {
    let sums = inputs[0].to_f64().into_iter().zip(inputs[1].to_f64()).map(|(x, y)| x + y);
    sums.map(|sum| (sum, ALLOWED * sum.abs())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Dtype;
    use half::bf16;

    #[test]
    fn the_host_reference_adds() {
        let tensor = |values: [f32; 2]| HostTensor::Bf16(values.map(bf16::from_f32).to_vec());
        let problem = Problem::parse(Family::Elementwise, "numel=2", Dtype::Bf16).unwrap();
        assert_eq!(add(&problem, &[tensor([1.0, -2.5]), tensor([0.5, 2.5])]).values, [1.5, 0.0]);
    }

    #[test]
    fn the_host_reference_is_a_softmax() {
        let (three, infinity) = (3f32.ln(), f32::INFINITY);
        let rows = vec![0.0, three, -infinity, 1e30, -infinity, -infinity];
        let problem = Problem::parse(Family::RowSoftmax, "rows=3,cols=2", Dtype::F32).unwrap();
        let out = softmax(&problem, &[HostTensor::F32(rows)]).values;
        assert!((out[0] - 0.25).abs() < 1e-7 && (out[1] - 0.75).abs() < 1e-7);
        assert_eq!(out[2..4], [0.0, 1.0]);
        assert!(out[4..].iter().all(|value| value.is_nan()));
    }
}
