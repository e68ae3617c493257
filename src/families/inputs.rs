//! Tensors and their random contents: a counter-based generator, so that the host and a GPU kernel fill a tensor alike.

use crate::model::{Bytes, Dtype, Family};
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

/// What an input tensor is filled with. `kernels/support.cu` fills alike, value for value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in [-magnitude, magnitude), rounded to the element type. For floats.
    Uniform {
        /// Half the width of the range.
        magnitude: f32,
    },
    /// Every bit random, so that every code and both extremes turn up. For integers.
    Bits,
    /// The same, but one in eight is the least or the largest there is. For 16-bit integers, whose extremes are else rare.
    Extremes,
    /// Large and tiny side by side: random sign and mantissa, and an exponent of two that is uniform in [least, most). For
    /// floats.
    Wide {
        /// The least exponent.
        least: i32,
        /// One past the largest.
        most: i32,
    },
    /// Queries: uniform in [-magnitude, magnitude), but one row in eight is [`LOUD`] times as large, so that its scores lie
    /// far beyond what an exponential without its maximum subtracted can hold.
    Queries {
        /// Half the width of the other rows' range.
        magnitude: f32,
    },
    /// Rows of logits of five kinds in turn at random: uniform in [-magnitude, magnitude); that with half of it -inf; all -inf;
    /// that with one value in 16 the type's largest or smallest; and all of it these two.
    Logits {
        /// Half the width of the ordinary values' range.
        magnitude: f32,
    },
}

/// How much larger one query in eight is than the others.
const LOUD: f32 = 32.0;

/// The largest finite value of bf16, which f32 has too: 2¹²⁷ · (2 - 2⁻⁷).
const HUGE: f32 = 3.389_531_4e38;

impl Fill {
    /// What a tensor of `family` is verified with beside its own fill: values that show what uniform ones hide. Sums stay
    /// finite in bf16, and most rows of an attention keep more than one weight.
    fn awkward(self, family: Family, index: usize) -> Self {
        match (self, family, index) {
            (Self::Uniform { magnitude }, Family::Attention, 0) => Self::Queries { magnitude },
            (keys @ Self::Uniform { .. }, Family::Attention, 1) => keys,
            (Self::Uniform { magnitude }, Family::RowSoftmax, _) => Self::Logits { magnitude },
            (Self::Uniform { .. }, Family::Elementwise, _) => Self::Wide { least: -100, most: 100 },
            // Products and their sums go past both ends of fp16.
            (Self::Uniform { .. }, ..) => Self::Wide { least: -12, most: 12 },
            (Self::Bits, Family::MatmulInt16, _) => Self::Extremes,
            (other, ..) => other,
        }
    }

    /// As the support kernels take it: which fill, and its two parameters.
    pub fn parameters(self) -> (u32, f32, f32) {
        match self {
            Self::Uniform { magnitude } => (0, magnitude, 0.0),
            Self::Bits => (0, 0.0, 0.0),
            Self::Wide { least, most } => (1, least as f32, most as f32),
            Self::Queries { magnitude } => (2, magnitude, LOUD),
            Self::Logits { magnitude } => (3, magnitude, HUGE),
            Self::Extremes => (4, 0.0, 0.0),
        }
    }

    /// The 16-bit integer at `index`.
    fn int16(self, seed: u64, index: u64) -> i16 {
        match choice(seed, index) % 16 {
            0 if self == Self::Extremes => i16::MIN,
            8 if self == Self::Extremes => i16::MAX,
            _ => (random_bits(seed, index) >> 48) as i16,
        }
    }

    /// The float at `index` of a tensor with rows of `cols`.
    fn float(self, seed: u64, index: u64, cols: u64) -> f32 {
        // The row's word is of another stream than any element's.
        let row = || random_bits(!seed, index / cols);
        let unit = unit(seed, index);
        match self {
            Self::Bits | Self::Extremes => unit,
            Self::Uniform { magnitude } => magnitude * unit,
            Self::Wide { least, most } => {
                let exponent = least + (choice(seed, index) % most.abs_diff(least)) as i32;
                (1.0 + unit.abs()).copysign(unit) * power_of_two(exponent)
            }
            Self::Queries { magnitude } => magnitude * unit * if row() % 8 == 0 { LOUD } else { 1.0 },
            Self::Logits { magnitude } => {
                let huge = HUGE.copysign(unit);
                match (row() % 5, choice(seed, index)) {
                    (1, choice) if choice % 2 == 0 => f32::NEG_INFINITY,
                    (2, _) => f32::NEG_INFINITY,
                    (3, choice) if choice % 16 == 0 => huge,
                    (4, _) => huge,
                    _ => magnitude * unit,
                }
            }
        }
    }
}

/// The inputs that a problem's kernels are verified with beside those they are timed with.
pub fn awkward(family: Family, inputs: &[TensorSpec]) -> Vec<TensorSpec> {
    let change = |(index, tensor): (usize, &TensorSpec)| TensorSpec {
        fill: tensor.fill.awkward(family, index),
        ..tensor.clone()
    };
    inputs.iter().enumerate().map(change).collect()
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
        self.shape.iter().fold(1, |numel, extent| numel.saturating_mul(*extent))
    }

    /// The length of a row: its last extent.
    pub fn cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Its size in memory.
    pub fn bytes(&self) -> Bytes {
        Bytes(self.numel().saturating_mul(self.element.size_bytes()))
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

/// A random choice for element `index`, from bits that [`unit`] does not use.
fn choice(seed: u64, index: u64) -> u32 {
    (random_bits(seed, index) >> 8) as u32 & 0xffff
}

/// 2^exponent for the exponents of normal numbers.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Fills a tensor on the host from stream `seed`.
pub fn fill(tensor: &TensorSpec, seed: u64) -> HostTensor {
    let cols = tensor.cols();
    let float = |index| tensor.fill.float(seed, index, cols);
    let indices = 0..tensor.numel();
    match tensor.element {
        Element::Bf16 => HostTensor::Bf16(indices.map(|index| bf16::from_f32(float(index))).collect()),
        Element::F32 => HostTensor::F32(indices.map(float).collect()),
        Element::I8 => HostTensor::I8(indices.map(|index| (random_bits(seed, index) >> 56) as i8).collect()),
        Element::I16 => HostTensor::I16(indices.map(|index| tensor.fill.int16(seed, index)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn tensor(element: Element, shape: [u64; 2], fill: Fill) -> TensorSpec {
        TensorSpec { name: "X", element, shape: shape.to_vec(), fill }
    }

    #[test]
    fn every_code_and_both_extremes_of_an_integer_turn_up() {
        let HostTensor::I8(bytes) = fill_bits(Element::I8, 1 << 12) else { unreachable!() };
        let nibbles: BTreeSet<u8> = bytes.iter().flat_map(|byte| [*byte as u8 & 15, *byte as u8 >> 4]).collect();
        assert_eq!(nibbles.len(), 16);
        let HostTensor::I16(words) = fill_bits(Element::I16, 1 << 20) else { unreachable!() };
        assert!(words.contains(&i16::MIN) && words.contains(&i16::MAX));
        let HostTensor::I16(words) = fill(&tensor(Element::I16, [8, 16], Fill::Extremes), 3) else { unreachable!() };
        let extremes = words.iter().filter(|word| [i16::MIN, i16::MAX].contains(word)).count();
        assert!(words.contains(&i16::MIN) && words.contains(&i16::MAX) && extremes < 64, "{words:?}");
    }

    fn fill_bits(element: Element, numel: u64) -> HostTensor {
        fill(&tensor(element, [1, numel], Fill::Bits), 3)
    }

    #[test]
    fn wide_values_have_either_sign_and_every_exponent_of_their_range() {
        for element in [Element::Bf16, Element::F32] {
            let values = fill(&tensor(element, [64, 64], Fill::Wide { least: -12, most: 12 }), 5).to_f64();
            let exponents: BTreeSet<i64> = values.iter().map(|value| value.abs().log2().floor() as i64).collect();
            // Rounding to bf16 may carry into the next exponent.
            assert!((-12..12).all(|exponent| exponents.contains(&exponent)), "{exponents:?}");
            assert!(exponents.iter().all(|exponent| (-12..=12).contains(exponent)), "{exponents:?}");
            let negative = values.iter().filter(|value| **value < 0.0).count();
            assert!((1800..2300).contains(&negative), "{negative} of 4096");
        }
    }

    #[test]
    fn logits_have_rows_of_every_kind() {
        for element in [Element::Bf16, Element::F32] {
            let cols = 64;
            let values = fill(&tensor(element, [100, cols], Fill::Logits { magnitude: 4.0 }), 7).to_f64();
            let kind = |row: &[f64]| {
                let infinite = row.iter().filter(|value| **value == f64::NEG_INFINITY).count();
                let huge = row.iter().filter(|value| value.is_finite() && value.abs() > 3e38).count();
                assert!(row.iter().all(|value| !value.is_nan() && *value != f64::INFINITY));
                (infinite * 2 / cols as usize, infinite > 0, huge == cols as usize, huge > 0)
            };
            let kinds: BTreeSet<_> = values.chunks(cols as usize).map(kind).collect();
            assert!(kinds.contains(&(0, false, false, false)), "ordinary");
            assert!(kinds.contains(&(2, true, false, false)), "all -inf");
            assert!(kinds.iter().any(|(half, some, ..)| *some && *half < 2), "some -inf");
            assert!(kinds.contains(&(0, false, true, true)), "all huge");
            assert!(kinds.contains(&(0, false, false, true)), "some huge");
        }
    }

    #[test]
    fn some_queries_are_loud() {
        let values = fill(&tensor(Element::Bf16, [256, 64], Fill::Queries { magnitude: 2.0 }), 1).to_f64();
        let loud = values.chunks(64).filter(|row| row.iter().any(|value| value.abs() > 2.0)).count();
        assert!((16..56).contains(&loud), "{loud} of 256");
        assert!(values.iter().all(|value| value.abs() <= 64.0));
    }
}
