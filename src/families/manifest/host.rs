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
    (family == Family::Elementwise).then_some(&ELEMENTWISE)
}

fn check_elementwise(config: &Config, _problem: &Problem) -> Result<(), Rejection> {
    knobs::only(config, &["num_warps"])?;
    knobs::block_sizes::<1>(config)?;
    knobs::needed("num_warps", config.num_warps)?;
    Ok(())
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
}
