//! Buckets: how the many shapes of a class fall into the few that a document has rules for.
//!
//! A bucket is kept packed, one small label index a field, so that finding a rule compares integers. Its labels are
//! spelled out only for people and for the document.

use super::Bucket;
use super::classes::Kind;
use super::dtypes::DtypeClass;
use super::extents::Extents;
use super::fields::Field;
use crate::model::Problem;

impl Kind {
    /// The fields of its buckets.
    fn fields(self) -> &'static [Field] {
        match self {
            Self::Gemm => &[
                Field::ASPECT,
                Field::DTYPE,
                Field::GROUP,
                Field::K,
                Field::M,
                Field::N,
                Field::SCALE_BLOCK,
                Field::ZERO_POINTS,
            ],
            Self::Attention => &[
                Field::BATCH_HEADS,
                Field::CAUSAL,
                Field::DTYPE,
                Field::HEAD_DIM,
                Field::KV_GROUP,
                Field::KV_SEQ,
                Field::SEQ,
                Field::WINDOW,
            ],
            Self::Rows => &[Field::COLS, Field::DTYPE, Field::ROWS],
            Self::Elements => &[Field::DTYPE, Field::NUMEL],
            Self::Unbinned => &[Field::DTYPE],
            Self::Own(own) => &own.fields,
        }
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
pub(super) struct PackedBucket(u128);

impl PackedBucket {
    /// The places for fields. The last is for what is no field.
    const PLACES: u32 = 32;

    /// The bucket without a field.
    pub(super) const EMPTY: Self = Self(u128::MAX);

    /// The bucket of those dimensions. Dimensions of another kind of class count as missing.
    pub(super) fn of(kind: Kind, extents: &Extents, dtype: DtypeClass) -> Self {
        let typed = Self::EMPTY.with(&Field::DTYPE, dtype as u64);
        match kind {
            Kind::Gemm => {
                let (m, n, k, sharing) = match *extents {
                    Extents::Gemm { m, n, k, sharing } => (m, n, k, sharing),
                    _ => (None, None, None, None),
                };
                let typed = typed.with(&Field::ASPECT, Aspect::of(m, n, k) as u64);
                let mut packed = typed.with_bin(&Field::K, k).with_bin(&Field::M, m).with_bin(&Field::N, n);
                if let Some(sharing) = sharing {
                    let group = match sharing.group {
                        0 => "one",
                        32 => "32",
                        64 => "64",
                        _ => "128",
                    };
                    // The plain group has no label.
                    let group = Field::GROUP.labels.iter().position(|label| *label == group);
                    packed = group.map_or(packed, |group| packed.with(&Field::GROUP, group as u64));
                    if sharing.scale_block > 0 {
                        packed = packed.with_bin(&Field::SCALE_BLOCK, Some(sharing.scale_block));
                    }
                    if sharing.zero_points {
                        packed = packed.with(&Field::ZERO_POINTS, 0);
                    }
                }
                packed
            }
            Kind::Attention => {
                let unknown = Extents::attention([None; 5]);
                let extents = if matches!(extents, Extents::Attention { .. }) { extents } else { &unknown };
                let Extents::Attention { batch, heads, q_seq, kv_seq, head_dim, kv_heads, causal, window } = *extents
                else {
                    return typed;
                };
                let batch_heads = batch.zip(heads).map(|(batch, heads)| batch.saturating_mul(heads));
                let typed = typed.with_bin(&Field::BATCH_HEADS, batch_heads).with_bin(&Field::HEAD_DIM, head_dim);
                let mut packed = typed.with_bin(&Field::SEQ, q_seq);
                if kv_seq.is_some() && kv_seq != q_seq {
                    packed = packed.with_bin(&Field::KV_SEQ, kv_seq);
                }
                if kv_heads != heads
                    && let Some((heads, kv_heads @ 1..)) = heads.zip(kv_heads)
                {
                    packed = packed.with_bin(&Field::KV_GROUP, Some(heads / kv_heads));
                }
                if causal.is_some_and(|causal| causal > 0) {
                    packed = packed.with(&Field::CAUSAL, 0);
                }
                if window.is_some_and(|window| window > 0) { packed.with_bin(&Field::WINDOW, window) } else { packed }
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
            Kind::Own(own) => {
                let extents = if let Extents::Own(_, extents) = extents { &extents[..] } else { &[] };
                own.bins(extents).fold(typed, |packed, (field, value)| packed.with_bin(field, value))
            }
        }
    }

    /// A document's bucket packed; `None` for one that no query of that kind can have, such as a bin of other bounds.
    pub(super) fn read(kind: Kind, bucket: &Bucket) -> Option<Self> {
        let labels = bucket.iter();
        let with = |packed: Self, (name, label): (&String, &String)| match kind {
            Kind::Own(own) => packed.with_label_of(&own.fields, name, label),
            _ => packed.with_label(name, label),
        };
        labels.fold(Self::EMPTY, with).fitting(kind)
    }

    /// The bucket with one more of a document's labels, or another in its place.
    pub(super) fn with_label(self, name: &str, label: &str) -> Self {
        self.with_label_of(&Field::ALL, name, label)
    }

    fn with_label_of(self, fields: &[Field], name: &str, label: &str) -> Self {
        match fields.iter().find(|field| field.name == name) {
            Some(field) => self.with(field, field.index_of_label(label)),
            // No field of any kind is here, so no query's bucket is equal.
            None => self.with_index(Self::PLACES - 1, Field::FOREIGN),
        }
    }

    /// The bucket, if a query of that kind can have it.
    pub(super) fn fitting(self, kind: Kind) -> Option<Self> {
        let mut others = self;
        for field in kind.fields() {
            let index = self.index(field.position);
            let optional = Field::OPTIONAL.iter().any(|own| own.position == field.position);
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
        Self(self.0 & !(0xF << shift) | u128::from(index) << shift)
    }

    fn index(self, position: u32) -> u64 {
        (self.0 >> (4 * position) & 0xF) as u64
    }

    /// Whether a bucket of ours has a field that tells a variant.
    pub(super) fn is_variant(self) -> bool {
        Field::VARIANTS.iter().any(|field| self.index(field.position) != Field::ABSENT)
    }

    /// The class of types that it is for.
    pub(super) fn dtype(self) -> Option<DtypeClass> {
        DtypeClass::ALL.get(self.index(Field::DTYPE.position) as usize).copied()
    }

    /// The bucket of a kind with its labels.
    pub(super) fn spell_out(self, kind: Kind) -> Bucket {
        let label = |field: &Field| field.labels.get(self.index(field.position) as usize).copied();
        let labels = kind.fields().iter().filter_map(|field| Some((field.name.to_owned(), label(field)?.to_owned())));
        labels.collect()
    }

    /// In how many fields two buckets differ, and by how many labels in all.
    pub(super) fn distance(self, other: Self) -> (u64, u64) {
        (0..Self::PLACES)
            .map(|position| self.index(position).abs_diff(other.index(position)))
            .filter(|steps| *steps > 0)
            .fold((0, 0), |(fields, steps), step| (fields + 1, steps + step))
    }
}

/// The bucket of a problem of one of the families.
pub fn bucket_of(problem: &Problem) -> Bucket {
    let extents = Extents::of(problem);
    let kind = extents.kind_of_class(problem.family.name());
    PackedBucket::of(kind, &extents, problem.dtype.into()).spell_out(kind)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Dtype, Family};
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
    fn variants_have_fields_of_their_own_and_plain_problems_none() {
        let bucket = |shape: &str| {
            let shape = format!("batch=2,q_seq=64,kv_seq=64,head_dim=128,{shape}");
            let bucket = bucket_of(&problem(Family::Attention, &shape, Dtype::Bf16));
            bucket.into_iter().map(|(name, label)| format!("{name} {label}")).collect::<Vec<_>>().join(", ")
        };
        let plain = "batch_heads_bin <=64, dtype fp16_bf16, head_dim_bin <=128, seq_bin <=1024";
        for shape in ["heads=32", "heads=32,kv_heads=32", "heads=32,causal=0,window=0"] {
            assert_eq!(bucket(shape), plain, "{shape}");
        }
        assert_eq!(
            bucket("heads=32,kv_heads=8,causal=1,window=33"),
            "batch_heads_bin <=64, causal yes, dtype fp16_bf16, head_dim_bin <=128, kv_group_bin <=4, seq_bin <=1024, \
             window_bin <=128"
        );
        assert_eq!(bucket("heads=32,causal=1,window=64"), bucket("heads=32,causal=1"), "it sees all keys");
        for (kv_heads, label) in [(16, "<=2"), (8, "<=4"), (4, "<=8"), (2, "<=16"), (1, ">16")] {
            let shape = format!("batch=1,heads=32,q_seq=1,kv_seq=64,head_dim=8,kv_heads={kv_heads}");
            assert_eq!(self::label(Family::Attention, &shape, "kv_group_bin").as_deref(), Some(label));
        }
        check_bins(Family::Attention, "window_bin", &[128, 512, 1024, 4096], |window| {
            format!("batch=1,heads=1,q_seq=9,kv_seq=9000,head_dim=9,causal=1,window={window}")
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
            let extents = Extents::Gemm { m, n: Some(64), k: Some(64), sharing: None };
            let bucket = PackedBucket::of(Kind::Gemm, &extents, DtypeClass::Fp16Bf16).spell_out(Kind::Gemm);
            assert_eq!(bucket["aspect"], "unknown");
            assert_eq!(bucket["m_bin"], expected);
        }
    }

    #[test]
    fn a_bucket_names_its_class_fields_alone() {
        let fields =
            |family, shape| bucket_of(&problem(family, shape, Dtype::Bf16)).into_keys().collect::<Vec<_>>().join(" ");
        for family in [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4] {
            assert_eq!(fields(family, "m=2,n=2,k=2"), "aspect dtype k_bin m_bin n_bin");
        }
        let scaled = |shape: &str| -> Vec<String> {
            let bucket = bucket_of(&problem(Family::MatmulFp8, shape, Dtype::Fp8));
            bucket.into_iter().map(|(name, label)| name + &label).collect()
        };
        let plain = scaled("m=2,n=2,k=2");
        assert_eq!(plain.join(" "), "aspectbalanced dtypefp8 k_bin<=64 m_bin<=4 n_bin<=64");
        for (scale_block, bin) in [(1, "<=1"), (128, "<=128")] {
            let with = scaled(&format!("m=2,n=2,k=2,scale_block={scale_block}"));
            let own: Vec<&String> = with.iter().filter(|field| !plain.contains(field)).collect();
            assert_eq!((own, with.len()), (vec![&format!("scale_block_bin{bin}")], plain.len() + 1));
        }
        assert_eq!(fields(Family::RowSoftmax, "rows=2,cols=2"), "cols_bin dtype rows_bin");
        assert_eq!(fields(Family::Elementwise, "numel=2"), "dtype numel_bin");
        let self_attention = "batch=2,heads=2,q_seq=2,kv_seq=2,head_dim=2";
        assert_eq!(fields(Family::Attention, self_attention), "batch_heads_bin dtype head_dim_bin seq_bin");
    }

    pub(in crate::heuristics) fn any_problem() -> impl Strategy<Value = Problem> {
        let dimension = || (0u32..20, 1i64..4).prop_map(|(bits, factor)| (factor << bits) * 2);
        (proptest::sample::select(&Family::ALL[..]), proptest::collection::vec(dimension(), 5)).prop_map(
            |(family, values)| {
                let named: Vec<_> = family.dimensions().iter().copied().zip(values).collect();
                Problem::new(family, &named, family.dtypes()[0]).unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn a_bucket_survives_being_spelled_out(problem in any_problem()) {
            let kind = Kind::of_class(problem.family.name());
            let packed = PackedBucket::of(kind, &Extents::of(&problem), problem.dtype.into());
            prop_assert_eq!(PackedBucket::read(kind, &bucket_of(&problem)), Some(packed));
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
