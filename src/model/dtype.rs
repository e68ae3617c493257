//! Types of elements.

use super::serde_by_name;

/// The type of a problem's first tensor (and of its output).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// bfloat16, the default everywhere.
    #[default]
    Bf16,
    /// IEEE single precision; only for the families without a matrix product.
    F32,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::F32];

    /// The name in plans, journals and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
        }
    }

    /// Bytes of one element.
    pub const fn size_bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

serde_by_name!(Dtype);
