//! The classes of kernels, and what each computes as far as buckets and groups care.

use super::own::OwnKind;
use crate::model::Family;

/// The family whose dimensions a class goes by: `matmul` for `matmul_fp8`. None for a class whose buckets have no bins.
pub fn family_of_shape(class: &str) -> Option<Family> {
    Family::by_name(class).or(match Kind::of_class(class) {
        Kind::Gemm => Some(Family::Matmul),
        Kind::Attention => Some(Family::Attention),
        Kind::Rows => Some(Family::RowSoftmax),
        Kind::Elements => Some(Family::Elementwise),
        Kind::Own(own) => Some(own.family),
        Kind::Unbinned => None,
    })
}

/// What a class computes, as far as buckets and groups care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Gemm,
    Attention,
    Rows,
    Elements,
    Unbinned,
    /// What its family's description says.
    Own(&'static OwnKind),
}

impl Kind {
    /// Of a class by its name: one of ours, or of a family that was made known; else nothing is known of it.
    pub(super) fn of_class(class: &str) -> Self {
        Self::shipped(class).or_else(|| Family::by_name(class).map(Self::of_family)).unwrap_or(Self::Unbinned)
    }

    pub(super) fn of_family(family: Family) -> Self {
        let own = || OwnKind::of(family).map_or(Self::Unbinned, Self::Own);
        Self::shipped(family.name()).unwrap_or_else(own)
    }

    fn shipped(class: &str) -> Option<Self> {
        match class {
            "matmul" | "matmul_fp8" | "grouped_matmul" | "matmul_int4" | "matmul_int16" | "matmul_fp4"
            | "matmul_int4_group" | "matmul_nvfp4" | "matmul_mxfp4" | "matmul_nvfp4_nvfp4" | "matmul_mxfp8" => {
                Some(Self::Gemm)
            }
            "attention" => Some(Self::Attention),
            "elementwise" => Some(Self::Elements),
            _ if class.starts_with("row_") => Some(Self::Rows),
            _ => None,
        }
    }
}
