//! Where a problem's dimensions show in the arguments that a kernel is called with.

use crate::error::{Error, Result};
use crate::families;
use crate::model::{Dtype, Family, Problem};

/// Even, and no two of them, nor the half of one and another, are alike.
const TELLING: [i64; 8] = [202, 214, 226, 254, 262, 274, 278, 298];

/// By dimension: an expression of Python over `args`.
pub(super) fn dimensions(family: Family) -> Result<Vec<String>> {
    let named: Vec<(&str, i64)> = family.dimensions().iter().copied().zip(TELLING).collect();
    let spec = families::spec(family);
    let problem = Problem::new(family, &named, family.dtypes().first().copied().unwrap_or_default())?;
    let inputs = spec.tensors(&problem).inputs;
    let given = spec.callable().map(|callable| callable.arguments.as_slice()).unwrap_or_default();
    // Their places among the arguments; in their own order where nothing else is said.
    let place = |index: usize| match given {
        [] => Some(index),
        given => given.iter().position(|name| *name == inputs[index].name),
    };
    let shown = |extent: i64| {
        for (index, tensor) in inputs.iter().enumerate() {
            let Some(argument) = place(index) else { continue };
            let Some(axis) = tensor.shape.iter().position(|own| *own == extent as u64) else { continue };
            // A tensor of fewer dimensions may be given with more before its last, as kernels flatten them.
            return Some(match (tensor.shape.len(), axis) {
                (1, _) => format!("args[{argument}].numel()"),
                (2, 0) => format!("args[{argument}].numel() // args[{argument}].shape[-1]"),
                (2, _) => format!("args[{argument}].shape[-1]"),
                _ => format!("args[{argument}].shape[{axis}]"),
            });
        }
        None
    };
    let of = |(name, extent): (&str, i64)| {
        // Where no argument has it whole, two of its elements share a byte.
        let packed = || shown(extent / 2).map(|half| format!("2 * {half}"));
        shown(extent).or_else(packed).ok_or_else(|| {
            Error::usage(format!(
                "dimension {name} of {family} is no extent of an argument, so that no key can be made of it"
            ))
        })
    };
    named.into_iter().map(of).collect()
}

/// The place among the arguments of the tensor whose type is the problem's.
pub(super) fn first(family: Family) -> usize {
    let spec = families::spec(family);
    let given = spec.callable().map(|callable| callable.arguments.as_slice()).unwrap_or_default();
    given.iter().position(|name| !name.is_empty()).unwrap_or(0)
}

/// Torch's name of a type.
pub(super) const fn torch_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "torch.bfloat16",
        Dtype::F16 => "torch.float16",
        Dtype::F32 => "torch.float32",
        Dtype::F64 => "torch.float64",
        Dtype::Fp8 => "torch.float8_e4m3fn",
        Dtype::I8 => "torch.int8",
        Dtype::I16 => "torch.int16",
        Dtype::I32 => "torch.int32",
        Dtype::I64 => "torch.int64",
        Dtype::U8 => "torch.uint8",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_dimension_of_a_family_shows_in_its_arguments() {
        let of = |family| dimensions(family).unwrap();
        assert_eq!(
            of(Family::MatmulInt4),
            ["args[0].numel() // args[0].shape[-1]", "args[1].shape[-1]", "args[0].shape[-1]"]
        );
        assert_eq!(
            of(Family::MatmulNvfp4Nvfp4),
            ["args[0].numel() // args[0].shape[-1]", "args[1].numel() // args[1].shape[-1]", "2 * args[0].shape[-1]"]
        );
        assert_eq!(of(Family::Elementwise), ["args[0].numel()"]);
        assert_eq!(of(Family::Attention)[3], "args[1].shape[2]");
        for family in Family::ALL {
            assert_eq!(of(family).len(), family.dimensions().len(), "{family}");
        }
    }
}
