//! The classes of kernels, and what each computes as far as buckets and groups care.

use crate::model::Family;

/// The classes that classification knows: the families and their kin of other tools.
pub const CLASSES: [&str; 14] = [
    "matmul",
    "matmul_int4",
    "matmul_int16",
    "matmul_fp4",
    "matmul_fp8",
    "grouped_matmul",
    "batched_matmul",
    "split_k_matmul",
    "attention",
    "row_softmax",
    "row_norm_rms",
    "row_norm_layer",
    "row_cross_entropy",
    "elementwise",
];

/// The family whose dimensions a class goes by: `matmul` for `matmul_fp8`. None for a class whose buckets have no bins.
pub fn family_of_shape(class: &str) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family.name() == class).or(match Kind::of_class(class) {
        Kind::Gemm => Some(Family::Matmul),
        Kind::Attention => Some(Family::Attention),
        Kind::Rows => Some(Family::RowSoftmax),
        Kind::Elements => Some(Family::Elementwise),
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
}

impl Kind {
    pub(super) fn of_class(class: &str) -> Self {
        match class {
            "matmul" | "matmul_fp8" | "grouped_matmul" | "matmul_int4" | "matmul_int16" | "matmul_fp4" => Self::Gemm,
            "attention" => Self::Attention,
            "elementwise" => Self::Elements,
            _ if class.starts_with("row_") => Self::Rows,
            _ => Self::Unbinned,
        }
    }
}
