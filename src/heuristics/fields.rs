//! The fields of buckets, with their labels.

use super::dtypes::DtypeClass;

/// The labels of which dimension of a matrix product is small, in the order of their kinds.
const ASPECTS: &[&str] = &["balanced", "skinny_m", "skinny_n", "skinny_k", "unknown"];

/// One field of a bucket with its labels, in the order of their indices.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Its place: among the fields of all kinds of ours, which are sorted by name, or among those of somebody's own family.
    pub(super) position: u32,
    /// Upper bounds, inclusive; empty for a field that is no bin.
    pub(super) bounds: &'static [i64],
    pub(super) labels: &'static [&'static str],
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
    pub(super) const ASPECT: Self = Self { name: "aspect", position: 0, bounds: &[], labels: ASPECTS };
    pub(super) const CAUSAL: Self = Self { name: "causal", position: 2, bounds: &[], labels: &["yes"] };
    pub(super) const DTYPE: Self = Self { name: "dtype", position: 4, bounds: &[], labels: DtypeClass::LABELS };
    pub(super) const GROUP: Self = Self { name: "group", position: 5, bounds: &[], labels: &["32", "64", "one"] };
    pub(super) const ZERO_POINTS: Self = Self { name: "zero_points", position: 17, bounds: &[], labels: &["yes"] };
    pub(super) const M: Self = bins!(10, "m_bin": 4 8 16 64 128 256 512 1024, 4096);
    pub(super) const N: Self = bins!(11, "n_bin": 64 128 256 512 1024, 4096);
    pub(super) const K: Self = bins!(7, "k_bin": 64 128 256 512 1024 4096, 32768);
    pub(super) const ROWS: Self = bins!(13, "rows_bin": 512 2048 4096 16384 65536, 262_144);
    pub(super) const COLS: Self = bins!(3, "cols_bin": 512 1024 2048 4096 8192 16384, 32768);
    pub(super) const BATCH_HEADS: Self = bins!(1, "batch_heads_bin": 32 64 128, 256);
    pub(super) const HEAD_DIM: Self = bins!(6, "head_dim_bin": 64 128, 256);
    pub(super) const SCALE_BLOCK: Self = bins!(14, "scale_block_bin": 1, 128);
    pub(super) const SEQ: Self = bins!(15, "seq_bin": 1 16 1024 2048 4096 8192, 16384);
    pub(super) const KV_GROUP: Self = bins!(8, "kv_group_bin": 2 4 8, 16);
    pub(super) const WINDOW: Self = bins!(16, "window_bin": 128 512 1024, 4096);
    pub(super) const KV_SEQ: Self = bins!(9, "kv_seq_bin": 1024 2048 4096 8192, 16384);
    pub(super) const NUMEL: Self = bins!(12, "numel_bin": 4096 65536 1_048_576 16_777_216, 134_217_728);

    /// The fields of all kinds.
    pub(super) const ALL: [Self; 18] = [
        Self::ASPECT,
        Self::BATCH_HEADS,
        Self::CAUSAL,
        Self::COLS,
        Self::DTYPE,
        Self::GROUP,
        Self::HEAD_DIM,
        Self::K,
        Self::KV_GROUP,
        Self::KV_SEQ,
        Self::M,
        Self::N,
        Self::NUMEL,
        Self::ROWS,
        Self::SCALE_BLOCK,
        Self::SEQ,
        Self::WINDOW,
        Self::ZERO_POINTS,
    ];

    /// Those that a bucket has only where a problem is not the plain case: as many keys as queries, each head with keys of its own,
    /// and no mask; a scale for 128 weights along k, and no zero points; one scale for a tensor of 8-bit floats.
    pub(super) const OPTIONAL: [Self; 7] =
        [Self::CAUSAL, Self::GROUP, Self::KV_GROUP, Self::KV_SEQ, Self::SCALE_BLOCK, Self::WINDOW, Self::ZERO_POINTS];
    /// Those of them that tell a family's variants.
    pub(super) const VARIANTS: [Self; 6] =
        [Self::CAUSAL, Self::GROUP, Self::KV_GROUP, Self::SCALE_BLOCK, Self::WINDOW, Self::ZERO_POINTS];

    /// The most bounds of a field: with what is past the last and what is unknown, its labels are counted in four bits.
    pub(super) const MOST_BOUNDS: usize = 12;

    /// In place of a label's index, for a field that a bucket does not have.
    pub(super) const ABSENT: u64 = 0xF;

    /// In place of a label's index, for a label that is none of the field's.
    pub(super) const FOREIGN: u64 = 0xE;

    pub(super) fn index(&self, value: Option<i64>) -> u64 {
        match value {
            // Counting them all takes no branch, which is faster than stopping at the first.
            Some(value) => self.bounds.iter().filter(|bound| **bound < value).count() as u64,
            None => self.bounds.len() as u64 + 1,
        }
    }

    pub(super) fn index_of_label(&self, label: &str) -> u64 {
        self.labels.iter().position(|known| *known == label).map_or(Self::FOREIGN, |index| index as u64)
    }
}
