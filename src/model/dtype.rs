//! Types of elements.

use super::serde_by_name;

/// The type of a tensor's elements in memory; of a problem, its first tensor's, or of
/// a product of two operands with scales its result's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// bfloat16, the default where a family has it and for what is no family.
    #[default]
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// IEEE double precision.
    F64,
    /// An eight-bit float, E4M3 without infinities.
    Fp8,
    /// A byte: a signed integer, or two packed 4-bit weights.
    I8,
    /// A 16-bit integer.
    I16,
    /// A 32-bit integer.
    I32,
    /// A 64-bit integer.
    I64,
    /// An unsigned byte.
    U8,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 10] =
        [Self::Bf16, Self::F32, Self::F16, Self::F64, Self::Fp8, Self::I8, Self::I16, Self::I32, Self::I64, Self::U8];

    /// The name in plans, journals and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::F64 => "f64",
            Self::Fp8 => "fp8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
        }
    }

    /// Whether it is a float of any width.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::Bf16 | Self::F32 | Self::F16 | Self::F64 | Self::Fp8)
    }

    /// The type that a reference of it is kept in: one that every number of it fits, and which tells right from nearly right.
    #[must_use]
    pub const fn reference(self) -> Self {
        match self {
            Self::Bf16 | Self::F16 | Self::Fp8 | Self::F32 => Self::F32,
            exact => exact,
        }
    }

    /// Bytes of one element.
    pub const fn size_bytes(self) -> u64 {
        match self {
            Self::Fp8 | Self::I8 | Self::U8 => 1,
            Self::Bf16 | Self::F16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

serde_by_name!(Dtype);
