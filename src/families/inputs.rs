//! Tensors and their random contents: a counter-based generator, so that the host and a GPU kernel fill a tensor alike.

use crate::model::{Bytes, Dtype};
use half::bf16;
use serde::{Deserialize, Serialize};

/// The type of a tensor's elements in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Element {
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
    /// A byte: two packed 4-bit weights.
    I8,
    /// A 16-bit integer weight.
    I16,
}

impl Element {
    /// Bytes of one element.
    pub const fn size_bytes(self) -> u64 {
        match self {
            Self::I8 => 1,
            Self::Bf16 | Self::I16 => 2,
            Self::F32 => 4,
        }
    }
}

impl From<Dtype> for Element {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Bf16,
            Dtype::F32 => Self::F32,
        }
    }
}

/// What an input tensor is filled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in [-magnitude, magnitude), rounded to the element type. For floats.
    Uniform {
        /// Half the width of the range.
        magnitude: f32,
    },
    /// Every bit random, so that every code and both extremes turn up. For integers.
    Bits,
}

/// One tensor of a problem, contiguous in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Its name in the design: `A`, `B`, `Q`.
    pub name: &'static str,
    /// The type of its elements.
    pub element: Element,
    /// Its extents, slowest first.
    pub shape: Vec<u64>,
    /// Its random contents (ignored for outputs).
    pub fill: Fill,
}

impl TensorSpec {
    /// Elements in all.
    pub fn numel(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Its size in memory.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.numel() * self.element.size_bytes())
    }
}

/// A tensor's contents on the host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostTensor {
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// IEEE single precision.
    F32(Vec<f32>),
    /// Bytes.
    I8(Vec<i8>),
    /// 16-bit integers.
    I16(Vec<i16>),
}

impl HostTensor {
    /// Its elements, exact in f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::Bf16(values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::F32(values) => values.iter().map(|&value| value.into()).collect(),
            Self::I8(values) => values.iter().map(|&value| value.into()).collect(),
            Self::I16(values) => values.iter().map(|&value| value.into()).collect(),
        }
    }
}

/// The random word of element `index` in stream `seed`: splitmix64's output function over a Weyl sequence
/// (Steele, Lea, Flood 2014). `kernels/support.cu` holds the same function.
fn random_bits(seed: u64, index: u64) -> u64 {
    let mut word = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// Uniform in [-1, 1), exact in f32: the top 24 bits.
fn unit(seed: u64, index: u64) -> f32 {
    (random_bits(seed, index) >> 40) as f32 * (2.0 / (1u64 << 24) as f32) - 1.0
}

/// Fills a tensor on the host from stream `seed`.
pub fn fill(tensor: &TensorSpec, seed: u64) -> HostTensor {
    let magnitude = match tensor.fill {
        Fill::Uniform { magnitude } => magnitude,
        Fill::Bits => 1.0,
    };
    let float = |index| magnitude * unit(seed, index);
    let indices = 0..tensor.numel();
    match tensor.element {
        Element::Bf16 => HostTensor::Bf16(indices.map(|index| bf16::from_f32(float(index))).collect()),
        Element::F32 => HostTensor::F32(indices.map(float).collect()),
        Element::I8 => HostTensor::I8(indices.map(|index| (random_bits(seed, index) >> 56) as i8).collect()),
        Element::I16 => HostTensor::I16(indices.map(|index| (random_bits(seed, index) >> 48) as i16).collect()),
    }
}
