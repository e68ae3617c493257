//! Buckets and fallback groups: how the many shapes of a class fall into the few a document holds.
//!
//! A bucket is kept packed, one small label index a field, so that finding a rule compares integers. Its labels are
//! spelled out only for people and for the document.

use super::Bucket;
use crate::error::{Error, Result};
use crate::model::{Dtype, Family, Problem, Shape};

/// What a bucket knows of a data type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DtypeClass {
    /// An 8-bit float.
    Fp8,
    /// IEEE half precision or bfloat16.
    #[default]
    Fp16Bf16,
    /// IEEE single precision.
    Fp32,
    /// An integer of any width.
    Int,
    /// Anything else, and no type at all.
    Other,
}

impl DtypeClass {
    const LABELS: &'static [&'static str] = &["fp8", "fp16_bf16", "fp32", "int", "other"];

    /// The class of a tensor library's dtype name, such as `torch.bfloat16`.
    pub fn of_name(name: &str) -> Self {
        if name.contains("float8") {
            Self::Fp8
        } else if name.contains("float16") {
            Self::Fp16Bf16
        } else if name.contains("float32") {
            Self::Fp32
        } else if name.contains("int") {
            Self::Int
        } else {
            Self::Other
        }
    }

    /// The label in a bucket.
    pub const fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

/// Reads the short names people use, a class's own label, and the names of tensor libraries.
impl std::str::FromStr for DtypeClass {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "bf16" | "f16" | "fp16" | "half" | "fp16_bf16" => Ok(Self::Fp16Bf16),
            "f32" | "fp32" | "float" => Ok(Self::Fp32),
            "f8" | "fp8" => Ok(Self::Fp8),
            "i8" | "i16" | "i32" | "i64" => Ok(Self::Int),
            "other" => Ok(Self::Other),
            _ => match Self::of_name(name) {
                Self::Other if !name.starts_with("torch.") => Err(Error::usage(format!(
                    "'{name}' is no data type; such as bf16, f16, f32, fp8, int or torch.bfloat16 are"
                ))),
                known => Ok(known),
            },
        }
    }
}

impl From<Dtype> for DtypeClass {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Fp16Bf16,
            Dtype::F32 => Self::Fp32,
        }
    }
}

/// The dimensions that buckets and groups are made of; `None` where one is not known. They may be zero or negative, as a
/// tensor library's may; a product too large for 64 bits stops at the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extents {
    /// A matrix product [m,k]·[k,n], k in unpacked elements.
    Gemm {
        /// Rows of the first matrix.
        m: Option<i64>,
        /// Columns of the second.
        n: Option<i64>,
        /// The dimension summed over.
        k: Option<i64>,
    },
    /// Attention.
    Attention {
        /// Sequences times heads.
        batch_heads: Option<i64>,
        /// Query positions.
        q_seq: Option<i64>,
        /// Key positions; those of the query where not known.
        kv_seq: Option<i64>,
        /// Elements of one head.
        head_dim: Option<i64>,
    },
    /// A reduction over rows.
    Rows {
        /// Rows.
        rows: Option<i64>,
        /// Elements of a row.
        cols: Option<i64>,
    },
    /// A map over elements.
    Elements {
        /// Elements.
        numel: Option<i64>,
    },
    /// A class whose buckets know only the data type.
    Unbinned,
}

#[cfg(feature = "harness")]
impl Extents {
    /// The same, where each dimension that is `unknown` is not known.
    pub(crate) fn without(self, unknown: i64) -> Self {
        let known = |extent: Option<i64>| extent.filter(|extent| *extent != unknown);
        match self {
            Self::Gemm { m, n, k } => Self::Gemm { m: known(m), n: known(n), k: known(k) },
            Self::Attention { batch_heads, q_seq, kv_seq, head_dim } => Self::Attention {
                batch_heads: known(batch_heads),
                q_seq: known(q_seq),
                kv_seq: known(kv_seq),
                head_dim: known(head_dim),
            },
            Self::Rows { rows, cols } => Self::Rows { rows: known(rows), cols: known(cols) },
            Self::Elements { numel } => Self::Elements { numel: known(numel) },
            Self::Unbinned => Self::Unbinned,
        }
    }
}

impl From<Shape> for Extents {
    fn from(shape: Shape) -> Self {
        let known = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
        match shape {
            Shape::Gemm { m, n, k } => Self::Gemm { m: known(m), n: known(n), k: known(k) },
            Shape::Attention { batch, heads, q_seq, kv_seq, head_dim } => Self::Attention {
                batch_heads: known(batch.saturating_mul(heads)),
                q_seq: known(q_seq),
                kv_seq: known(kv_seq),
                head_dim: known(head_dim),
            },
            Shape::Rows { rows, cols } => Self::Rows { rows: known(rows), cols: known(cols) },
            Shape::Elements { numel } => Self::Elements { numel: known(numel) },
        }
    }
}

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

    /// The fields of its buckets.
    const fn fields(self) -> &'static [Field] {
        match self {
            Self::Gemm => &[Field::ASPECT, Field::DTYPE, Field::K, Field::M, Field::N],
            Self::Attention => &[Field::BATCH_HEADS, Field::DTYPE, Field::HEAD_DIM, Field::KV_SEQ, Field::SEQ],
            Self::Rows => &[Field::COLS, Field::DTYPE, Field::ROWS],
            Self::Elements => &[Field::DTYPE, Field::NUMEL],
            Self::Unbinned => &[Field::DTYPE],
        }
    }

    /// Its fallback groups, in the order of the documentation.
    pub(super) const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Gemm => &["small_m", "small_n", "small_k", "balanced", "rect"],
            Self::Attention => &["short_seq", "small_head", "mid_seq", "long_seq"],
            Self::Rows => &["short", "narrow", "square", "wide"],
            Self::Elements => &["tiny", "mid", "huge"],
            Self::Unbinned => &[],
        }
    }
}

/// One field of a bucket with its labels, in the order of their indices.
struct Field {
    name: &'static str,
    /// Its place among the fields of all kinds, which are sorted by name.
    position: u32,
    /// Upper bounds, inclusive; empty for a field that is no bin.
    bounds: &'static [i64],
    labels: &'static [&'static str],
}

/// The bins up to each bound, past the last, and of an unknown value.
macro_rules! bins {
    ($position:literal, $name:literal: $($bound:literal)*, $last:literal) => {
        Field {
            name: $name,
            position: $position,
            bounds: &[$($bound,)* $last],
            labels: &[$(concat!("<=", $bound),)* concat!("<=", $last), concat!(">", $last), "unknown"],
        }
    };
}

impl Field {
    const ASPECT: Self = Self { name: "aspect", position: 0, bounds: &[], labels: Aspect::LABELS };
    const DTYPE: Self = Self { name: "dtype", position: 3, bounds: &[], labels: DtypeClass::LABELS };
    const M: Self = bins!(7, "m_bin": 4 8 16 64 128 256 512 1024, 4096);
    const N: Self = bins!(8, "n_bin": 64 128 256 512 1024, 4096);
    const K: Self = bins!(5, "k_bin": 64 128 256 512 1024 4096, 32768);
    const ROWS: Self = bins!(10, "rows_bin": 512 2048 4096 16384 65536, 262_144);
    const COLS: Self = bins!(2, "cols_bin": 512 1024 2048 4096 8192 16384, 32768);
    const BATCH_HEADS: Self = bins!(1, "batch_heads_bin": 32 64 128, 256);
    const HEAD_DIM: Self = bins!(4, "head_dim_bin": 64 128, 256);
    const SEQ: Self = bins!(11, "seq_bin": 1 16 1024 2048 4096 8192, 16384);
    const KV_SEQ: Self = bins!(6, "kv_seq_bin": 1024 2048 4096 8192, 16384);
    const NUMEL: Self = bins!(9, "numel_bin": 4096 65536 1_048_576 16_777_216, 134_217_728);

    /// The fields of all kinds.
    const ALL: [Self; 12] = [
        Self::ASPECT,
        Self::BATCH_HEADS,
        Self::COLS,
        Self::DTYPE,
        Self::HEAD_DIM,
        Self::K,
        Self::KV_SEQ,
        Self::M,
        Self::N,
        Self::NUMEL,
        Self::ROWS,
        Self::SEQ,
    ];

    /// In place of a label's index, for a field that a bucket does not have.
    const ABSENT: u64 = 0xF;

    /// In place of a label's index, for a label that is none of the field's.
    const FOREIGN: u64 = 0xE;

    fn index(&self, value: Option<i64>) -> u64 {
        match value {
            // Counting them all takes no branch, which is faster than stopping at the first.
            Some(value) => self.bounds.iter().filter(|bound| **bound < value).count() as u64,
            None => self.bounds.len() as u64 + 1,
        }
    }

    fn index_of_label(&self, label: &str) -> u64 {
        self.labels.iter().position(|known| *known == label).map_or(Self::FOREIGN, |index| index as u64)
    }
}

/// Which dimension of a matrix product is small beside the largest.
#[derive(Clone, Copy)]
enum Aspect {
    Balanced,
    SkinnyM,
    SkinnyN,
    SkinnyK,
    Unknown,
}

impl Aspect {
    const LABELS: &'static [&'static str] = &["balanced", "skinny_m", "skinny_n", "skinny_k", "unknown"];

    fn of(m: Option<i64>, n: Option<i64>, k: Option<i64>) -> Self {
        let (Some(m @ 1..), Some(n @ 1..), Some(k @ 1..)) = (m, n, k) else { return Self::Unknown };
        let least = m.min(n).min(k);
        if m.max(n).max(k) / 4 < least {
            Self::Balanced
        } else if m == least {
            Self::SkinnyM
        } else if n == least {
            Self::SkinnyN
        } else {
            Self::SkinnyK
        }
    }
}

/// A bucket as one integer: four bits a field, the first of [`Field::ALL`] lowest, each the index of its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PackedBucket(u64);

impl PackedBucket {
    /// The bucket without a field.
    pub(super) const EMPTY: Self = Self(u64::MAX);

    /// The bucket of those dimensions. Dimensions of another kind of class count as missing.
    pub(super) fn of(kind: Kind, extents: &Extents, dtype: DtypeClass) -> Self {
        let typed = Self::EMPTY.with(&Field::DTYPE, dtype as u64);
        match kind {
            Kind::Gemm => {
                let (m, n, k) = match *extents {
                    Extents::Gemm { m, n, k } => (m, n, k),
                    _ => (None, None, None),
                };
                let typed = typed.with(&Field::ASPECT, Aspect::of(m, n, k) as u64);
                typed.with_bin(&Field::K, k).with_bin(&Field::M, m).with_bin(&Field::N, n)
            }
            Kind::Attention => {
                let (batch_heads, q_seq, kv_seq, head_dim) = match *extents {
                    Extents::Attention { batch_heads, q_seq, kv_seq, head_dim } => {
                        (batch_heads, q_seq, kv_seq, head_dim)
                    }
                    _ => (None, None, None, None),
                };
                let typed = typed.with_bin(&Field::BATCH_HEADS, batch_heads).with_bin(&Field::HEAD_DIM, head_dim);
                let packed = typed.with_bin(&Field::SEQ, q_seq);
                if kv_seq.is_none() || kv_seq == q_seq { packed } else { packed.with_bin(&Field::KV_SEQ, kv_seq) }
            }
            Kind::Rows => {
                let (rows, cols) = match *extents {
                    Extents::Rows { rows, cols } => (rows, cols),
                    _ => (None, None),
                };
                typed.with_bin(&Field::COLS, cols).with_bin(&Field::ROWS, rows)
            }
            Kind::Elements => {
                let numel = match *extents {
                    Extents::Elements { numel } => numel,
                    _ => None,
                };
                typed.with_bin(&Field::NUMEL, numel)
            }
            Kind::Unbinned => typed,
        }
    }

    /// A document's bucket packed; `None` for one that no query of that kind can have, such as a bin of other bounds.
    pub(super) fn read(kind: Kind, bucket: &Bucket) -> Option<Self> {
        let labels = bucket.iter();
        labels.fold(Self::EMPTY, |packed, (name, label)| packed.with_label(name, label)).fitting(kind)
    }

    /// The bucket with one more of a document's labels, or another in its place.
    pub(super) fn with_label(self, name: &str, label: &str) -> Self {
        match Field::ALL.iter().find(|field| field.name == name) {
            Some(field) => self.with(field, field.index_of_label(label)),
            // No field of any kind is here, so no query's bucket is equal.
            None => self.with_index(Field::ALL.len() as u32, Field::FOREIGN),
        }
    }

    /// The bucket, if a query of that kind can have it.
    pub(super) fn fitting(self, kind: Kind) -> Option<Self> {
        let mut others = self;
        for field in kind.fields() {
            let index = self.index(field.position);
            let optional = field.position == Field::KV_SEQ.position;
            if index >= field.labels.len() as u64 && !(optional && index == Field::ABSENT) {
                return None;
            }
            others = others.with(field, Field::ABSENT);
        }
        (others == Self::EMPTY).then_some(self)
    }

    fn with_bin(self, field: &Field, value: Option<i64>) -> Self {
        self.with(field, field.index(value))
    }

    fn with(self, field: &Field, index: u64) -> Self {
        self.with_index(field.position, index)
    }

    fn with_index(self, position: u32, index: u64) -> Self {
        let shift = 4 * position;
        Self(self.0 & !(0xF << shift) | index << shift)
    }

    fn index(self, position: u32) -> u64 {
        self.0 >> (4 * position) & 0xF
    }

    /// The bucket with its labels.
    pub(super) fn spell_out(self) -> Bucket {
        let label = |field: &Field| field.labels.get(self.index(field.position) as usize).copied();
        let labels = Field::ALL.iter().filter_map(|field| Some((field.name.to_owned(), label(field)?.to_owned())));
        labels.collect()
    }

    /// In how many fields two buckets differ, and by how many labels in all.
    pub(super) fn distance(self, other: Self) -> (u64, u64) {
        (0..Field::ALL.len() as u32)
            .map(|position| self.index(position).abs_diff(other.index(position)))
            .filter(|steps| *steps > 0)
            .fold((0, 0), |(fields, steps), step| (fields + 1, steps + step))
    }
}

/// The position of the fallback group in [`Kind::groups`]; `None` where a dimension it needs is missing.
pub(super) fn group_index(kind: Kind, extents: &Extents) -> Option<usize> {
    match (kind, *extents) {
        (Kind::Gemm, Extents::Gemm { m: Some(m), n: Some(n), k: Some(k) }) => Some(match (m, n, k) {
            (..=256, _, _) => 0,
            (_, ..=256, _) => 1,
            (_, _, ..=256) => 2,
            _ if m.max(n).max(k) / 2 < m.min(n).min(k) => 3,
            _ => 4,
        }),
        (Kind::Attention, Extents::Attention { q_seq: Some(q_seq), head_dim: Some(head_dim), .. }) => {
            Some(match (q_seq, head_dim) {
                (..=1024, _) => 0,
                (8192.., _) => 3,
                (_, ..=64) => 1,
                _ => 2,
            })
        }
        (Kind::Rows, Extents::Rows { rows: Some(rows), cols: Some(cols) }) => Some(match (rows, cols) {
            (..=512, _) => 0,
            (_, ..=1024) => 1,
            (_, 8192..) => 3,
            _ => 2,
        }),
        (Kind::Elements, Extents::Elements { numel: Some(numel) }) => Some(match numel {
            ..=65_536 => 0,
            65_537..=1_048_576 => 1,
            _ => 2,
        }),
        _ => None,
    }
}

/// The bucket of a problem of one of the families.
pub fn bucket_of(problem: &Problem) -> Bucket {
    let kind = Kind::of_class(problem.family.name());
    PackedBucket::of(kind, &problem.shape.into(), problem.dtype.into()).spell_out()
}

/// The fallback group of a problem of one of the families.
pub fn group_of(problem: &Problem) -> &'static str {
    let kind = Kind::of_class(problem.family.name());
    // Every family has groups and every dimension of a problem is known, unless its shape is another family's.
    group_index(kind, &problem.shape.into()).map_or("none", |index| kind.groups()[index])
}

/// The fallback groups of a family's class.
pub fn groups(family: Family) -> &'static [&'static str] {
    class_groups(family.name())
}

/// The fallback groups of any class.
pub fn class_groups(class: &str) -> &'static [&'static str] {
    Kind::of_class(class).groups()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(family: Family, shape: &str, dtype: Dtype) -> Problem {
        Problem::parse(family, shape, dtype).unwrap()
    }

    fn label(family: Family, shape: &str, field: &str) -> Option<String> {
        bucket_of(&problem(family, shape, Dtype::Bf16)).get(field).cloned()
    }

    /// Every bound falls into its own bin, the next value into the next, and what is past the last is `>LAST`.
    fn check_bins(family: Family, field: &str, bounds: &[i64], shape_with: impl Fn(i64) -> String) {
        for (index, bound) in bounds.iter().enumerate() {
            let past = bounds.get(index + 1).map_or(format!(">{bound}"), |next| format!("<={next}"));
            for (value, expected) in
                [(bound - 1, format!("<={bound}")), (*bound, format!("<={bound}")), (bound + 1, past)]
            {
                let below_first_bin = value == 0 || (index > 0 && value <= bounds[index - 1]);
                if !below_first_bin {
                    assert_eq!(label(family, &shape_with(value), field), Some(expected), "{field} of {value}");
                }
            }
        }
    }

    #[test]
    fn bins_end_at_their_bounds() {
        let gemm = Family::Matmul;
        check_bins(gemm, "m_bin", &[4, 8, 16, 64, 128, 256, 512, 1024, 4096], |m| format!("m={m},n=7,k=7"));
        check_bins(gemm, "n_bin", &[64, 128, 256, 512, 1024, 4096], |n| format!("m=7,n={n},k=7"));
        check_bins(gemm, "k_bin", &[64, 128, 256, 512, 1024, 4096, 32768], |k| format!("m=7,n=7,k={k}"));
        let rows = Family::RowSoftmax;
        check_bins(rows, "rows_bin", &[512, 2048, 4096, 16384, 65536, 262_144], |rows| format!("rows={rows},cols=9"));
        let cols = [512, 1024, 2048, 4096, 8192, 16384, 32768];
        check_bins(rows, "cols_bin", &cols, |cols| format!("rows=9,cols={cols}"));
        let numel = [4096, 65536, 1_048_576, 16_777_216, 134_217_728];
        check_bins(Family::Elementwise, "numel_bin", &numel, |numel| format!("numel={numel}"));
        let attention = Family::Attention;
        check_bins(attention, "batch_heads_bin", &[32, 64, 128, 256], |batch| {
            format!("batch={batch},heads=1,q_seq=9,kv_seq=9,head_dim=9")
        });
        check_bins(attention, "head_dim_bin", &[64, 128, 256], |head_dim| {
            format!("batch=1,heads=1,q_seq=9,kv_seq=9,head_dim={head_dim}")
        });
        check_bins(attention, "seq_bin", &[1, 16, 1024, 2048, 4096, 8192, 16384], |seq| {
            format!("batch=1,heads=1,q_seq={seq},kv_seq=9,head_dim=9")
        });
        check_bins(attention, "kv_seq_bin", &[1024, 2048, 4096, 8192, 16384], |seq| {
            format!("batch=1,heads=1,q_seq=9,kv_seq={seq},head_dim=9")
        });
    }

    #[test]
    fn only_unequal_sequences_have_a_kv_bin() {
        let with = |q_seq, kv_seq| format!("batch=2,heads=16,q_seq={q_seq},kv_seq={kv_seq},head_dim=64");
        assert_eq!(label(Family::Attention, &with(2048, 2048), "kv_seq_bin"), None);
        assert_eq!(label(Family::Attention, &with(2047, 2048), "kv_seq_bin"), Some("<=2048".to_owned()));
        assert_eq!(label(Family::Attention, &with(2048, 2048), "batch_heads_bin"), Some("<=32".to_owned()));
    }

    #[test]
    fn aspect_names_the_smallest_dimension_from_a_ratio_of_four() {
        let aspect = |shape| label(Family::Matmul, shape, "aspect").unwrap();
        assert_eq!(aspect("m=100,n=399,k=250"), "balanced");
        assert_eq!(aspect("m=100,n=400,k=250"), "skinny_m");
        assert_eq!(aspect("m=400,n=100,k=250"), "skinny_n");
        assert_eq!(aspect("m=400,n=250,k=100"), "skinny_k");
        assert_eq!(aspect("m=1,n=1,k=8"), "skinny_m", "of equal ones the first in the order m, n, k");
        assert_eq!(aspect("m=8,n=1,k=1"), "skinny_n");
    }

    #[test]
    fn aspect_of_what_is_not_positive_is_unknown() {
        for (m, expected) in [(Some(0), "<=4"), (Some(-5), "<=4"), (None, "unknown")] {
            let extents = Extents::Gemm { m, n: Some(64), k: Some(64) };
            let bucket = PackedBucket::of(Kind::Gemm, &extents, DtypeClass::Fp16Bf16).spell_out();
            assert_eq!(bucket["aspect"], "unknown");
            assert_eq!(bucket["m_bin"], expected);
        }
    }

    #[test]
    fn dtype_names_fall_into_classes() {
        for (name, expected) in [
            ("torch.float8_e4m3fn", "fp8"),
            ("torch.float16", "fp16_bf16"),
            ("torch.bfloat16", "fp16_bf16"),
            ("torch.float32", "fp32"),
            ("torch.int8", "int"),
            ("uint8", "int"),
            ("torch.float64", "other"),
            ("torch.bool", "other"),
            ("", "other"),
        ] {
            assert_eq!(DtypeClass::of_name(name).label(), expected, "{name}");
        }
        assert_eq!(bucket_of(&problem(Family::Elementwise, "numel=1", Dtype::F32))["dtype"], "fp32");
    }

    #[test]
    fn groups_change_at_their_bounds() {
        let group = |family, shape: &str| group_of(&problem(family, shape, Dtype::Bf16));
        for (shape, expected) in [
            ("m=256,n=256,k=256", "small_m"),
            ("m=257,n=256,k=256", "small_n"),
            ("m=257,n=257,k=256", "small_k"),
            ("m=257,n=257,k=257", "balanced"),
            ("m=257,n=513,k=257", "balanced"),
            ("m=257,n=514,k=257", "rect"),
        ] {
            assert_eq!(group(Family::Matmul, shape), expected, "{shape}");
        }
        for (shape, expected) in [
            ("rows=512,cols=8192", "short"),
            ("rows=513,cols=1024", "narrow"),
            ("rows=513,cols=1025", "square"),
            ("rows=513,cols=8191", "square"),
            ("rows=513,cols=8192", "wide"),
        ] {
            assert_eq!(group(Family::RowSoftmax, shape), expected, "{shape}");
        }
        for (shape, expected) in
            [("numel=65536", "tiny"), ("numel=65537", "mid"), ("numel=1048576", "mid"), ("numel=1048577", "huge")]
        {
            assert_eq!(group(Family::Elementwise, shape), expected, "{shape}");
        }
        for (q_seq, head_dim, expected) in [
            (1024, 64, "short_seq"),
            (1025, 64, "small_head"),
            (1025, 65, "mid_seq"),
            (8191, 65, "mid_seq"),
            (8192, 64, "long_seq"),
        ] {
            let shape = format!("batch=1,heads=1,q_seq={q_seq},kv_seq=9000,head_dim={head_dim}");
            assert_eq!(group(Family::Attention, &shape), expected, "{shape}");
        }
    }

    #[test]
    fn a_bucket_names_its_class_fields_alone() {
        let fields =
            |family, shape| bucket_of(&problem(family, shape, Dtype::Bf16)).into_keys().collect::<Vec<_>>().join(" ");
        for family in [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4] {
            assert_eq!(fields(family, "m=2,n=2,k=2"), "aspect dtype k_bin m_bin n_bin");
        }
        assert_eq!(fields(Family::RowSoftmax, "rows=2,cols=2"), "cols_bin dtype rows_bin");
        assert_eq!(fields(Family::Elementwise, "numel=2"), "dtype numel_bin");
        let self_attention = "batch=2,heads=2,q_seq=2,kv_seq=2,head_dim=2";
        assert_eq!(fields(Family::Attention, self_attention), "batch_heads_bin dtype head_dim_bin seq_bin");
    }

    fn any_problem() -> impl Strategy<Value = Problem> {
        let dimension = || (0u32..20, 1i64..4).prop_map(|(bits, factor)| (factor << bits) * 2);
        (proptest::sample::select(&Family::ALL[..]), proptest::collection::vec(dimension(), 5)).prop_map(
            |(family, values)| {
                let named: Vec<_> = family.dimensions().iter().copied().zip(values).collect();
                Problem::new(family, &named, Dtype::Bf16).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn a_bucket_survives_being_spelled_out(problem in any_problem()) {
            let kind = Kind::of_class(problem.family.name());
            let packed = PackedBucket::of(kind, &problem.shape.into(), problem.dtype.into());
            prop_assert_eq!(PackedBucket::read(kind, &bucket_of(&problem)), Some(packed));
        }

        #[test]
        fn every_problem_has_a_group_of_its_family(problem in any_problem()) {
            prop_assert!(groups(problem.family).contains(&group_of(&problem)));
        }
    }

    #[test]
    fn fields_are_packed_in_the_order_of_their_names() {
        assert!(Field::ALL.windows(2).all(|pair| pair[0].name < pair[1].name));
        for (position, field) in Field::ALL.iter().enumerate() {
            assert_eq!(field.position as usize, position, "{}", field.name);
            assert!((field.labels.len() as u64) < Field::FOREIGN, "{} has too many labels", field.name);
        }
    }

    #[test]
    fn foreign_buckets_match_no_query() {
        let good = bucket_of(&problem(Family::Matmul, "m=2,n=2,k=2", Dtype::Bf16));
        let altered = |change: fn(&mut Bucket)| {
            let mut bucket = good.clone();
            change(&mut bucket);
            PackedBucket::read(Kind::Gemm, &bucket)
        };
        assert!(altered(|_| ()).is_some());
        assert_eq!(altered(|bucket| drop(bucket.remove("m_bin"))), None);
        assert_eq!(altered(|bucket| drop(bucket.insert("m_bin".into(), "<=5".into()))), None);
        assert_eq!(altered(|bucket| drop(bucket.insert("odd".into(), "x".into()))), None);
        assert_eq!(altered(|bucket| drop(bucket.insert("rows_bin".into(), "<=512".into()))), None);
    }
}
