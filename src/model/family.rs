//! The kernel families.

use super::{Dtype, serde_by_name};

/// A kernel family: one operation with fixed tensor formats. Its name is also its class in the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// C = A·B, all bf16.
    Matmul,
    /// C = A·B, B packed signed int4.
    MatmulInt4,
    /// C = A·B, B int16 rounded to bf16.
    MatmulInt16,
    /// C = A·B, B packed E2M1.
    MatmulFp4,
    /// softmax(QKᵀ/√d)V, not causal.
    Attention,
    /// Softmax over the last axis.
    RowSoftmax,
    /// out = x + y.
    Elementwise,
}

impl Family {
    /// Every family, in the order of the documentation.
    pub const ALL: [Self; 7] = [
        Self::Matmul,
        Self::MatmulInt4,
        Self::MatmulInt16,
        Self::MatmulFp4,
        Self::Attention,
        Self::RowSoftmax,
        Self::Elementwise,
    ];

    /// The name on the command line, in plans and journals, and the class in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::MatmulInt4 => "matmul_int4",
            Self::MatmulInt16 => "matmul_int16",
            Self::MatmulFp4 => "matmul_fp4",
            Self::Attention => "attention",
            Self::RowSoftmax => "row_softmax",
            Self::Elementwise => "elementwise",
        }
    }

    /// The names of a problem's dimensions, in order.
    pub const fn dimensions(self) -> &'static [&'static str] {
        match self {
            Self::Matmul | Self::MatmulInt4 | Self::MatmulInt16 | Self::MatmulFp4 => &["m", "n", "k"],
            Self::Attention => &["batch", "heads", "q_seq", "kv_seq", "head_dim"],
            Self::RowSoftmax => &["rows", "cols"],
            Self::Elementwise => &["numel"],
        }
    }

    /// The types of the first tensor that its kernels come in.
    pub const fn dtypes(self) -> &'static [Dtype] {
        match self {
            Self::Matmul | Self::MatmulInt4 | Self::MatmulInt16 | Self::MatmulFp4 | Self::Attention => &[Dtype::Bf16],
            Self::RowSoftmax | Self::Elementwise => &Dtype::ALL,
        }
    }

    /// Whether two weights share a byte along k, so that k must be even.
    pub const fn packs_two_weights_a_byte(self) -> bool {
        matches!(self, Self::MatmulInt4 | Self::MatmulFp4)
    }

    /// The family that differs in how weights of as many bits are decoded, and in nothing else: what is fast for one teaches of the
    /// other.
    pub const fn sister(self) -> Option<Self> {
        match self {
            Self::Matmul => Some(Self::MatmulInt16),
            Self::MatmulInt16 => Some(Self::Matmul),
            Self::MatmulInt4 => Some(Self::MatmulFp4),
            Self::MatmulFp4 => Some(Self::MatmulInt4),
            Self::Attention | Self::RowSoftmax | Self::Elementwise => None,
        }
    }
}

serde_by_name!(Family);
