//! Tensors and their random contents: a counter-based generator, so that the host and a GPU kernel fill a tensor alike.

use crate::model::{Bytes, Family};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use crate::model::Dtype as Element;

/// What an input tensor is filled with. `kernels/support.cu` fills alike, value for value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fill {
    /// Uniform in [-magnitude, magnitude), rounded to the element type. For floats.
    Uniform {
        /// Half the width of the range.
        magnitude: f32,
    },
    /// Nothing: of an output, which is poisoned before a kernel writes it.
    Nothing,
    /// Whole numbers in [least, most], each as likely.
    Whole {
        /// The least.
        least: i32,
        /// The largest.
        most: i32,
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
    /// The same, but one in eight is zero and one in eight is two to the power of `most`. For scales.
    Scales {
        /// The least exponent of the others.
        least: i32,
        /// One past their largest.
        most: i32,
    },
    /// As [`Fill::Wide`], but a row's last column, and those on either side of its multiples of [`LANDMARK_SPACING`], stand out: their
    /// exponent is [`LANDMARK_ABOVE`] more than `most`. Of a sum along such rows each landmark makes up a part that is seen.
    Landmarks {
        /// The least exponent of the other columns.
        least: i32,
        /// One past their largest.
        most: i32,
    },
    /// Queries for uniform keys of the same magnitude, which are the tensor filled from the next seed. Every other row, and half
    /// of those between at random, is [`ATTENTION`] times one key of its head and so has nearly all its weight on it: the
    /// former on the last key, the latter on any that it sees. Under a mask the former look as often for the first key that they
    /// see and for those on the other side of either edge, which no weight may come to, and a head's last query looks for the
    /// last key. The rest is uniform. One row in eight is [`LOUD`] times as large as its key or the uniform ones, so that its
    /// scores lie far beyond what an exponential without its maximum subtracted can hold.
    Queries {
        /// Half the width of the range of keys and uniform rows.
        magnitude: f32,
        /// Rows of a head.
        q_seq: u64,
        /// Keys of a head.
        kv_seq: u64,
        /// Heads that share a head of keys.
        sharing: u64,
        /// Keys that a query sees at most, where they end with its own; 0 where it sees all.
        window: u64,
    },
    /// Rows of logits of five kinds in turn: uniform in [-magnitude, magnitude) but for one column that stands out, the last in
    /// every other such row, else any; uniform with half of it -inf; all -inf; uniform with one value in 16 the type's largest
    /// or smallest; and all of it these two.
    Logits {
        /// Half the width of the ordinary values' range.
        magnitude: f32,
    },
}

/// Columns between the landmarks of a row: what most kernels step by, or a part of it; its multiples are the smaller steps' too.
const LANDMARK_SPACING: u64 = 64;
/// By how many powers of two landmarks lie above the largest other column.
const LANDMARK_ABOVE: i32 = 4;

/// How much larger one query in eight is than the others.
const LOUD: f32 = 32.0;
/// How many times its key a query is that looks for one: with heads of 64 elements that gives the key 400 times the weight of
/// 65,536 others, with longer ones more.
const ATTENTION: f32 = 2.0;
/// How many magnitudes the logit that stands out has.
const OUTSTANDING: f32 = 4.0;

/// The largest finite value of bf16, which f32 has too: 2¹²⁷ · (2 - 2⁻⁷).
const HUGE: f32 = 3.389_531_4e38;

impl Fill {
    /// What input `index` of `family`, a matrix product, is verified with beside its own fill: values that show what uniform ones hide.
    /// Sums stay finite in bf16.
    fn awkward(self, family: Family, index: usize, element: Element) -> Self {
        match (self, family.name(), index) {
            // Landmarks lie along k, and their products go past the end of fp16, but where it has the sums.
            (Self::Uniform { magnitude }, _, 0) if element == Element::F16 => {
                let most = magnitude.log2() as i32;
                Self::Landmarks { least: most - 10, most }
            }
            (Self::Uniform { .. }, _, 0) => Self::Landmarks { least: -12, most: 8 },
            (Self::Uniform { .. }, "matmul_int4_group", _) if element == Element::F16 => {
                Self::Scales { least: -8, most: 0 }
            }
            (Self::Uniform { .. }, "matmul_int4_group", _) => Self::Scales { least: -4, most: 4 },
            (Self::Uniform { .. }, ..) => Self::Wide { least: -4, most: 4 },
            (Self::Bits, "matmul_int16", _) => Self::Extremes,
            (other, ..) => other,
        }
    }

    /// As the support kernels take it.
    pub fn parameters(self) -> FillParameters {
        let of = |fill, floats, rows| FillParameters { fill, floats, rows };
        match self {
            Self::Uniform { magnitude } => of(0, [magnitude, 0.0], [0; 2]),
            Self::Bits | Self::Nothing => of(0, [0.0; 2], [0; 2]),
            Self::Whole { least, most } => {
                of(6, [0.0; 2], [i64::from(least) as u64, (i64::from(most) - i64::from(least) + 1) as u64])
            }
            Self::Wide { least, most } => of(1, [least as f32, most as f32], [0; 2]),
            Self::Queries { magnitude, q_seq, kv_seq, sharing, window } => {
                of(2, [magnitude, 0.0], [sharing << 32 | q_seq, window << 32 | kv_seq])
            }
            Self::Logits { magnitude } => of(3, [magnitude, 0.0], [0; 2]),
            Self::Extremes => of(4, [0.0; 2], [0; 2]),
            Self::Landmarks { least, most } => of(5, [least as f32, most as f32], [0; 2]),
            Self::Scales { least, most } => of(7, [least as f32, most as f32], [0; 2]),
        }
    }

    /// The byte at `index`.
    fn byte(self, seed: u64, index: u64) -> u8 {
        match self {
            Self::Whole { least, most } => whole(seed, index, least, most) as u8,
            _ => (random_bits(seed, index) >> 56) as u8,
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
        let value = unit(seed, index);
        let wide = |exponent| (1.0 + value.abs()).copysign(value) * power_of_two(exponent);
        let any_of = |least: i32, most: i32| least + (choice(seed, index) % most.abs_diff(least)) as i32;
        let (row, column) = (index / cols, index % cols);
        // The row's word is of another stream than any element's.
        let word = || random_bits(!seed, row);
        match self {
            Self::Bits | Self::Extremes | Self::Nothing => value,
            Self::Whole { least, most } => whole(seed, index, least, most) as f32,
            Self::Uniform { magnitude } => magnitude * value,
            Self::Wide { least, most } => wide(any_of(least, most)),
            Self::Scales { least, most } => match random_bits(seed, index) % 8 {
                0 => 0.0,
                1 => power_of_two(most),
                _ => wide(any_of(least, most)),
            },
            Self::Landmarks { least, most } => {
                let is_landmark = column + 1 == cols || (column + 1) % LANDMARK_SPACING <= 1;
                wide(if is_landmark { most + LANDMARK_ABOVE } else { any_of(least, most) })
            }
            Self::Queries { magnitude, q_seq, kv_seq, sharing, window } => {
                let word = word();
                let end = if window == 0 { kv_seq } else { (row % q_seq + 1 + kv_seq).saturating_sub(q_seq) };
                let first = if window == 0 { 0 } else { end.saturating_sub(window) };
                let is_key = |key: &u64| *key < kv_seq;
                // The last key of all is seen by one query.
                let is_last = window > 0 && (row + 1) % q_seq == 0;
                let key = match (row % 2, word % 2) {
                    _ if is_last => Some(kv_seq - 1),
                    (0, _) => {
                        let edges = [end.checked_sub(1), Some(end), Some(first), first.checked_sub(1)];
                        let edge = if window == 0 { 0 } else { (word >> 1) as usize % 4 };
                        Some(edges[edge].filter(is_key).unwrap_or(end.saturating_sub(1)))
                    }
                    (_, 0) => Some(first + (word >> 16) % (end - first).max(1)),
                    _ => None,
                };
                let of_key = |key| unit(seed.wrapping_add(1), (row / q_seq / sharing * kv_seq + key) * cols + column);
                let value = key.map_or(value, of_key);
                let factor = match key {
                    _ if (word >> 8) % 8 == 0 => LOUD,
                    Some(_) => ATTENTION,
                    None => 1.0,
                };
                factor * magnitude * value
            }
            Self::Logits { magnitude } => {
                let huge = HUGE.copysign(value);
                let outstanding = if row % 2 == 0 { cols - 1 } else { (word() >> 16) % cols };
                match (row % 5, choice(seed, index)) {
                    (0, _) if column == outstanding => magnitude * OUTSTANDING,
                    (1, choice) if choice % 2 == 0 => f32::NEG_INFINITY,
                    (2, _) => f32::NEG_INFINITY,
                    (3, choice) if choice % 16 == 0 => huge,
                    (4, _) => huge,
                    _ => magnitude * value,
                }
            }
        }
    }
}

/// A [`Fill`] in the support kernels' terms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FillParameters {
    /// Which fill.
    pub fill: u32,
    /// A magnitude; or the least exponent and one past the largest.
    pub floats: [f32; 2],
    /// Rows of a head of this tensor and of the next one, with what else queries depend on in their upper halves; or the least
    /// whole number and how many there are.
    pub rows: [u64; 2],
}

/// The inputs that a problem's kernels are verified with beside those they are timed with.
pub fn awkward(family: Family, inputs: &[TensorSpec]) -> Vec<TensorSpec> {
    let change = |(index, tensor): (usize, &TensorSpec)| TensorSpec {
        fill: tensor.fill.awkward(family, index, tensor.element),
        ..tensor.clone()
    };
    inputs.iter().enumerate().map(change).collect()
}

/// One tensor of a problem, contiguous in row-major order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Its name in the design: `A`, `B`, `Q`.
    pub name: String,
    /// The type of its elements.
    pub element: Element,
    /// Its extents, slowest first.
    pub shape: Vec<u64>,
    /// Its contents before a kernel runs: of an output [`Fill::Nothing`], unless the kernel updates it.
    pub fill: Fill,
    /// The file that has its contents in place of these, as they lie in memory.
    pub file: Option<PathBuf>,
    /// Bytes past a multiple of 256 that it begins at.
    pub offset_bytes: u64,
}

impl TensorSpec {
    /// A tensor that begins where memory does.
    pub fn new(name: &str, element: Element, shape: &[u64], fill: Fill) -> Self {
        Self { name: name.to_owned(), element, shape: shape.to_vec(), fill, file: None, offset_bytes: 0 }
    }

    /// The same as an output that a kernel writes.
    #[must_use]
    pub fn written(self) -> Self {
        Self { fill: Fill::Nothing, ..self }
    }

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
    /// IEEE half precision.
    F16(Vec<f16>),
    /// IEEE single precision.
    F32(Vec<f32>),
    /// Bytes.
    I8(Vec<i8>),
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// 16-bit integers.
    I16(Vec<i16>),
    /// The codes of E4M3 numbers.
    Fp8(Vec<u8>),
}

impl HostTensor {
    /// Where its elements begin, for what is called with it.
    pub fn address(&mut self) -> u64 {
        match self {
            Self::Bf16(values) => values.as_mut_ptr() as u64,
            Self::F16(values) => values.as_mut_ptr() as u64,
            Self::F32(values) => values.as_mut_ptr() as u64,
            Self::I8(values) => values.as_mut_ptr() as u64,
            Self::U8(values) | Self::Fp8(values) => values.as_mut_ptr() as u64,
            Self::I16(values) => values.as_mut_ptr() as u64,
        }
    }

    /// Its elements, exact in f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::Bf16(values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::F16(values) => values.iter().map(|value| value.to_f64()).collect(),
            Self::F32(values) => values.iter().map(|&value| value.into()).collect(),
            Self::I8(values) => values.iter().map(|&value| value.into()).collect(),
            Self::U8(values) => values.iter().map(|&value| value.into()).collect(),
            Self::I16(values) => values.iter().map(|&value| value.into()).collect(),
            Self::Fp8(codes) => codes.iter().map(|code| decode_e4m3(*code).into()).collect(),
        }
    }
}

/// The number that an E4M3 code stands for: a sign, four bits of exponent, three of mantissa; a NaN for all ones beside the sign.
pub fn decode_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match code & 0x7f {
        0x7f => f32::NAN,
        0..8 => mantissa * power_of_two(-9),
        _ => (8.0 + mantissa) * power_of_two(exponent - 10),
    };
    if code < 0x80 { magnitude } else { -magnitude }
}

/// The code of the nearest E4M3 number, ties to even; of the largest for what is larger. `kernels/support.cu` rounds alike.
fn encode_e4m3(value: f32) -> u8 {
    let magnitude = value.abs().min(448.0);
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let eighths = (magnitude * power_of_two(3 - exponent)).round_ties_even() as u32;
    // A carry out of the mantissa is one of the exponent.
    let code = ((exponent + 6) as u32 * 8 + eighths) as u8;
    if value < 0.0 { code | 0x80 } else { code }
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

/// A whole number from `least` to `most`.
fn whole(seed: u64, index: u64, least: i32, most: i32) -> i64 {
    let count = (i64::from(most) - i64::from(least) + 1) as u64;
    i64::from(least) + ((random_bits(seed, index) >> 16) % count) as i64
}

/// A random choice for element `index`, from bits that [`unit`] does not use.
fn choice(seed: u64, index: u64) -> u32 {
    (random_bits(seed, index) >> 8) as u32 & 0xffff
}

/// 2^exponent for the exponents of normal numbers.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The nearest in half precision, where what is finite stays finite.
fn nearest_f16(value: f32) -> f16 {
    let most = f32::from(f16::MAX);
    f16::from_f32(if value.is_finite() { value.clamp(-most, most) } else { value })
}

/// Fills a tensor on the host from stream `seed`.
pub fn fill(tensor: &TensorSpec, seed: u64) -> HostTensor {
    let cols = tensor.cols();
    let float = |index| tensor.fill.float(seed, index, cols);
    let indices = 0..tensor.numel();
    match tensor.element {
        Element::Bf16 => HostTensor::Bf16(indices.map(|index| bf16::from_f32(float(index))).collect()),
        Element::F16 => HostTensor::F16(indices.map(|index| nearest_f16(float(index))).collect()),
        Element::F32 => HostTensor::F32(indices.map(float).collect()),
        Element::Fp8 => HostTensor::Fp8(indices.map(|index| encode_e4m3(float(index))).collect()),
        Element::I8 => HostTensor::I8(indices.map(|index| tensor.fill.byte(seed, index).cast_signed()).collect()),
        Element::U8 => HostTensor::U8(indices.map(|index| tensor.fill.byte(seed, index)).collect()),
        Element::I16 => HostTensor::I16(indices.map(|index| tensor.fill.int16(seed, index)).collect()),
        other => unreachable!("no family with host kernels has tensors of {other}"),
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // fills are exact
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn tensor(element: Element, shape: [u64; 2], fill: Fill) -> TensorSpec {
        TensorSpec::new("X", element, &shape, fill)
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
    fn one_column_stands_out_of_every_fifth_row_of_logits_and_in_half_of_them_the_last() {
        let cols = 64;
        let values = fill(&tensor(Element::F32, [100, cols], Fill::Logits { magnitude: 4.0 }), 7).to_f64();
        let rows: Vec<&[f64]> = values.chunks(cols as usize).collect();
        for (index, row) in rows.iter().enumerate().step_by(5) {
            let outstanding: Vec<usize> = (0..row.len()).filter(|column| row[*column] > 4.0).collect();
            assert_eq!(outstanding.len(), 1, "row {index}: {row:?}");
            assert!(row[outstanding[0]] == 16.0 && (index % 2 == 1 || outstanding[0] + 1 == row.len()), "row {index}");
        }
    }

    #[test]
    fn landmarks_stand_at_the_end_and_beside_the_borders_of_blocks() {
        let values = fill(&tensor(Element::Bf16, [3, 300], Fill::Landmarks { least: -12, most: 8 }), 5).to_f64();
        for row in values.chunks(300) {
            let large: Vec<usize> = (0..300).filter(|column| row[*column].abs() >= 4096.0).collect();
            assert_eq!(large, [0, 63, 64, 127, 128, 191, 192, 255, 256, 299]);
            let others = row.iter().filter(|value| value.abs() < 4096.0);
            assert!(others.clone().all(|value| (2f64.powi(-12)..=256.0).contains(&value.abs())), "{row:?}");
        }
    }

    #[test]
    fn masked_queries_look_for_keys_on_either_side_of_both_edges() {
        let (q_seq, kv_seq, sharing, window) = (64u64, 50u64, 2u64, 20u64);
        let queries = Fill::Queries { magnitude: 2.0, q_seq, kv_seq, sharing, window };
        let queries = fill(&tensor(Element::Bf16, [4 * q_seq, 64], queries), 1).to_f64();
        let keys = fill(&tensor(Element::Bf16, [2 * kv_seq, 64], Fill::Uniform { magnitude: 2.0 }), 2).to_f64();
        let keys: Vec<&[f64]> = keys.chunks(64).collect();
        let mut looked_for = [0; 5];
        for (row, query) in queries.chunks(64).enumerate() {
            let row = row as u64;
            let head = (row / q_seq / sharing * kv_seq) as usize;
            let is_key_of = |key: &&&[f64]| {
                [ATTENTION, LOUD]
                    .iter()
                    .any(|factor| query.iter().zip(**key).all(|(query, value)| *query == value * f64::from(*factor)))
            };
            let found = keys[head..head + kv_seq as usize].iter().position(|key| is_key_of(&key));
            let own = (row % q_seq + kv_seq).checked_sub(q_seq); // the last that it sees
            assert!(row % 2 == 1 || found.is_some(), "row {row}");
            let (Some(found), Some(own)) = (found.map(|key| key as u64), own) else { continue };
            let edges = [Some(own), Some(own + 1), (own + 1).checked_sub(window), own.checked_sub(window)];
            let edge = edges.iter().position(|edge| *edge == Some(found));
            let is_seen = found <= own && found + window > own;
            assert!(edge.is_some() || is_seen, "row {row} looks for {found}, which it does not see, and sees {own}");
            looked_for[edge.unwrap_or(4)] += 1;
        }
        assert!(looked_for.iter().all(|count| *count > 4), "{looked_for:?}");
    }

    #[test]
    fn every_other_query_looks_for_the_last_key_and_some_are_loud() {
        let (q_seq, kv_seq) = (64, 50);
        let queries = Fill::Queries { magnitude: 2.0, q_seq, kv_seq, sharing: 1, window: 0 };
        let queries = fill(&tensor(Element::Bf16, [4 * q_seq, 64], queries), 1).to_f64();
        let keys = fill(&tensor(Element::Bf16, [4 * kv_seq, 64], Fill::Uniform { magnitude: 2.0 }), 2).to_f64();
        let keys: Vec<&[f64]> = keys.chunks(64).collect();
        let (mut loud, mut looking) = (0, 0);
        for (row, query) in queries.chunks(64).enumerate() {
            let head = row / q_seq as usize * kv_seq as usize;
            let is_key_of = |key: &&&[f64]| {
                [ATTENTION, LOUD]
                    .iter()
                    .any(|factor| query.iter().zip(**key).all(|(query, value)| *query == value * f64::from(*factor)))
            };
            let found = keys[head..head + kv_seq as usize].iter().position(|key| is_key_of(&key));
            assert!(row % 2 == 1 || found == Some(kv_seq as usize - 1), "row {row} looks for {found:?}");
            looking += usize::from(row % 2 == 1 && found.is_some());
            loud += usize::from(query.iter().any(|value| value.abs() > 4.0));
        }
        assert!((40..88).contains(&looking), "{looking} of 128 look for any key");
        assert!((16..56).contains(&loud), "{loud} of 256");
        assert!(queries.iter().all(|value| value.abs() <= 64.0));
    }
}
