//! The kernel families.

use super::{Dtype, serde_by_name_alone};
use crate::error::{Error, Result};
use std::hash::{Hash, Hasher};
use std::sync::{PoisonError, RwLock};

/// The most dimensions that a family's problems have.
pub const MOST_DIMENSIONS: usize = 8;

/// A kernel family: an operation's name, with a description behind it. Its name is also its class in the document.
///
/// A few ship, and anyone may describe more ([`Family::described`]). Descriptions live as long as the process, each once, so
/// that families are as cheap to copy as numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Family(&'static FamilyProfile);

/// What is to be known of a family without its kernels: what its problems are, and how a document sorts them. All that the served
/// part needs to answer for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyProfile {
    /// The name on the command line, in plans and journals, and the class in documents.
    pub name: &'static str,
    /// The names of a problem's dimensions, in order.
    pub dimensions: &'static [&'static str],
    /// Dimensions beside these that a problem may have, in order: with them it has [`MOST_DIMENSIONS`] at most.
    pub variants: &'static [Variant],
    /// The types of the first tensor that its kernels come in; of the result, where both operands have scales.
    pub dtypes: &'static [Dtype],
    /// Whether two weights share a byte along k, so that k must be even.
    pub packs_two_weights_a_byte: bool,
    /// The name of the family that differs in how weights of as many bits are decoded, and in nothing else: what is fast for one
    /// teaches of the other.
    pub sister: Option<&'static str>,
    /// The bucket's bins; of a family that ships, the class says them.
    pub bins: &'static [Bin],
    /// The fallback groups, the first whose condition holds; likewise.
    pub groups: &'static [Group],
}

/// A dimension that only some of a family's problems need: a plain one goes without it, in every file and question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// Its name: `kv_heads`.
    pub name: &'static str,
    /// What it is where it is not given, and then never written.
    pub plain: Plain,
}

/// What a dimension is where a problem goes without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plain {
    /// As much as another dimension, by its place, which is a multiple of it where it is given.
    As(usize),
    /// Nothing: 0.
    Nothing,
    /// So much.
    Is(u64),
}

impl Plain {
    /// The value, of a problem with these dimensions.
    pub fn value(self, extents: &[u64]) -> u64 {
        match self {
            Self::As(place) => extents.get(place).copied().unwrap_or(0),
            Self::Nothing => 0,
            Self::Is(extent) => extent,
        }
    }
}

/// One field of a bucket: where a value falls between bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bin {
    /// The field's name: `tokens_bin`.
    pub name: &'static str,
    /// The value, as an expression of the dimensions.
    pub of: &'static str,
    /// The bins' upper bounds, inclusive, rising.
    pub bounds: &'static [i64],
}

/// A part of a class that a document always has a config for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Its name: `short`.
    pub name: &'static str,
    /// Which problems are in it, as an expression of the dimensions; all that are in no group before it where there is none.
    pub when: Option<&'static str>,
}

/// The matrix products' dimensions.
const GEMM: &[&str] = &["m", "n", "k"];
/// The dimensions of what is done to rows, and the types that their elements come in.
const ROWS: &[&str] = &["rows", "cols"];
const FLOATS: &[Dtype] = &[Dtype::Bf16, Dtype::F16, Dtype::F32];

impl FamilyProfile {
    const fn shipped(name: &'static str, dimensions: &'static [&'static str], dtypes: &'static [Dtype]) -> Self {
        Self {
            name,
            dimensions,
            variants: &[],
            dtypes,
            packs_two_weights_a_byte: false,
            sister: None,
            bins: &[],
            groups: &[],
        }
    }

    const fn product(name: &'static str, sister: &'static str, packs_two_weights_a_byte: bool) -> Self {
        Self { packs_two_weights_a_byte, sister: Some(sister), ..Self::shipped(name, GEMM, &[Dtype::Bf16, Dtype::F16]) }
    }
}

static MATMUL: FamilyProfile = FamilyProfile::product("matmul", "matmul_int16", false);
static MATMUL_INT4: FamilyProfile = FamilyProfile::product("matmul_int4", "matmul_fp4", true);
static MATMUL_INT16: FamilyProfile = FamilyProfile::product("matmul_int16", "matmul", false);
static MATMUL_FP4: FamilyProfile = FamilyProfile::product("matmul_fp4", "matmul_int4", true);
static ATTENTION: FamilyProfile = FamilyProfile {
    variants: &[
        Variant { name: "kv_heads", plain: Plain::As(1) },
        Variant { name: "causal", plain: Plain::Nothing },
        Variant { name: "window", plain: Plain::Nothing },
    ],
    ..FamilyProfile::shipped(
        "attention",
        &["batch", "heads", "q_seq", "kv_seq", "head_dim"],
        &[Dtype::Bf16, Dtype::F16],
    )
};
static ROW_SOFTMAX: FamilyProfile = FamilyProfile::shipped("row_softmax", ROWS, FLOATS);
static ELEMENTWISE: FamilyProfile = FamilyProfile::shipped("elementwise", &["numel"], FLOATS);
static ROW_NORM_RMS: FamilyProfile = FamilyProfile::shipped("row_norm_rms", ROWS, FLOATS);
static ROW_NORM_LAYER: FamilyProfile = FamilyProfile::shipped("row_norm_layer", ROWS, FLOATS);
static ROW_CROSS_ENTROPY: FamilyProfile = FamilyProfile::shipped("row_cross_entropy", ROWS, FLOATS);
static MATMUL_FP8: FamilyProfile = FamilyProfile {
    variants: &[Variant { name: "scale_block", plain: Plain::Nothing }],
    ..FamilyProfile::shipped("matmul_fp8", GEMM, &[Dtype::Fp8])
};

static MATMUL_INT4_GROUP: FamilyProfile = FamilyProfile {
    variants: &[
        Variant { name: "group", plain: Plain::Is(128) },
        Variant { name: "zero_points", plain: Plain::Nothing },
    ],
    // Kin without its variants has problems of fewer dimensions.
    sister: None,
    ..FamilyProfile::product("matmul_int4_group", "matmul_mxfp4", true)
};
static MATMUL_NVFP4: FamilyProfile = FamilyProfile::product("matmul_nvfp4", "matmul_mxfp4", true);
static MATMUL_MXFP4: FamilyProfile = FamilyProfile::product("matmul_mxfp4", "matmul_nvfp4", true);
/// Of products whose operands both have scales, the type is that of C.
const RESULTS: &[Dtype] = &[Dtype::Bf16, Dtype::F16];
static MATMUL_NVFP4_NVFP4: FamilyProfile =
    FamilyProfile { packs_two_weights_a_byte: true, ..FamilyProfile::shipped("matmul_nvfp4_nvfp4", GEMM, RESULTS) };
static MATMUL_MXFP8: FamilyProfile = FamilyProfile::shipped("matmul_mxfp8", GEMM, RESULTS);

/// Every description that somebody brought.
static DESCRIBED: RwLock<Vec<Family>> = RwLock::new(Vec::new());
/// Those of them that are known by name, the latest last.
static NAMED: RwLock<Vec<Family>> = RwLock::new(Vec::new());

#[allow(non_upper_case_globals)] // they read as the names of kinds do
impl Family {
    /// C = A·B, all of one type.
    pub const Matmul: Self = Self(&MATMUL);
    /// C = A·B, B packed signed int4.
    pub const MatmulInt4: Self = Self(&MATMUL_INT4);
    /// C = A·B, B int16 rounded to A's type.
    pub const MatmulInt16: Self = Self(&MATMUL_INT16);
    /// C = A·B, B packed E2M1.
    pub const MatmulFp4: Self = Self(&MATMUL_FP4);
    /// softmax(QKᵀ/√d)V. Heads of queries may share `kv_heads` heads of keys; with `causal` query i sees the keys up to
    /// i + kv_seq - q_seq, so that both end together, and of these with `window` that many, its own among them.
    pub const Attention: Self = Self(&ATTENTION);
    /// C = A·B, B packed int4 with a scale in A's type for each `group` of weights along k, or one for all where it is 0; with
    /// `zero_points` unsigned, less a zero point of four bits.
    pub const MatmulInt4Group: Self = Self(&MATMUL_INT4_GROUP);
    /// C = A·B, B packed E2M1 with an E4M3 scale for each 16 weights along k, and one f32 for all.
    pub const MatmulNvfp4: Self = Self(&MATMUL_NVFP4);
    /// C = A·B, B packed E2M1 with an E8M0 scale for each 32 weights along k.
    pub const MatmulMxfp4: Self = Self(&MATMUL_MXFP4);
    /// Softmax over the last axis.
    pub const RowSoftmax: Self = Self(&ROW_SOFTMAX);
    /// out = x + y.
    pub const Elementwise: Self = Self(&ELEMENTWISE);
    /// x / sqrt(mean(x²) + ε) * weight, over the last axis.
    pub const RowNormRms: Self = Self(&ROW_NORM_RMS);
    /// (x - mean) / sqrt(variance + ε) * weight + bias, over the last axis.
    pub const RowNormLayer: Self = Self(&ROW_NORM_LAYER);
    /// log(sum(exp(x))) - x\[target\], over the last axis.
    pub const RowCrossEntropy: Self = Self(&ROW_CROSS_ENTROPY);
    /// C = A·B, both E4M3 with f32 scales: one a tensor, or with `scale_block` 1 one a row of A and one a column of B, and with 128
    /// one for 128 of k of a row of A and one for 128 columns by 128 of k of B.
    pub const MatmulFp8: Self = Self(&MATMUL_FP8);
    /// C = A·B, both packed E2M1 with an E4M3 scale for each 16 along k, and one f32 each; C is of the problem's type.
    pub const MatmulNvfp4Nvfp4: Self = Self(&MATMUL_NVFP4_NVFP4);
    /// C = A·B, both E4M3 with an E8M0 scale for each 32 along k; C is of the problem's type.
    pub const MatmulMxfp8: Self = Self(&MATMUL_MXFP8);
}

impl Family {
    /// Every family that ships, in the order of the documentation.
    pub const ALL: [Self; 16] = [
        Self::Matmul,
        Self::MatmulInt4,
        Self::MatmulInt16,
        Self::MatmulFp4,
        Self::Attention,
        Self::RowSoftmax,
        Self::Elementwise,
        Self::RowNormRms,
        Self::RowNormLayer,
        Self::RowCrossEntropy,
        Self::MatmulInt4Group,
        Self::MatmulNvfp4,
        Self::MatmulMxfp4,
        Self::MatmulFp8,
        Self::MatmulNvfp4Nvfp4,
        Self::MatmulMxfp8,
    ];

    /// The family of a description: one that was described before, or a new one. It is not known by its name yet: see
    /// [`Family::make_known`].
    pub fn described(is_it: impl Fn(Self) -> bool, profile: impl FnOnce() -> FamilyProfile) -> Self {
        let mut described = DESCRIBED.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = described.iter().find(|known| is_it(**known)) {
            return *known;
        }
        let family = Self(Box::leak(Box::new(profile())));
        described.push(family);
        family
    }

    /// From now on the family is what its name stands for, in journals too.
    pub fn make_known(self) {
        let mut named = NAMED.write().unwrap_or_else(PoisonError::into_inner);
        named.retain(|known| known.name() != self.name());
        named.push(self);
    }

    /// Every family that is known by its name: those that ship, then the others by their names.
    pub fn known() -> Vec<Self> {
        let mut known: Vec<Self> = NAMED.read().unwrap_or_else(PoisonError::into_inner).clone();
        known.extend(Self::ALL);
        known.sort_unstable();
        known
    }

    /// The family of that name: one that ships, or one that was made known.
    pub fn by_name(name: &str) -> Option<Self> {
        let shipped = Self::ALL.into_iter().find(|family| family.name() == name);
        let named =
            || NAMED.read().unwrap_or_else(PoisonError::into_inner).iter().find(|own| own.name() == name).copied();
        shipped.or_else(named)
    }

    /// A family that has exactly these dimensions, in any order, and none but its variants beside them.
    pub fn of_dimensions(names: &[&str]) -> Option<Self> {
        let has_these = |family: &Self| {
            let is_known = |name: &&str| {
                family.dimensions().contains(name) || family.variants().iter().any(|variant| variant.name == *name)
            };
            family.dimensions().iter().all(|dimension| names.contains(dimension)) && names.iter().all(is_known)
        };
        let described = || DESCRIBED.read().unwrap_or_else(PoisonError::into_inner).iter().copied().find(has_these);
        Self::ALL.into_iter().find(has_these).or_else(described)
    }

    /// The name on the command line, in plans and journals, and the class in documents.
    pub const fn name(self) -> &'static str {
        self.0.name
    }

    /// What is to be known of it without its kernels.
    pub const fn profile(self) -> &'static FamilyProfile {
        self.0
    }

    /// Whether it is one of those that ship.
    pub fn ships(self) -> bool {
        self.place() < Self::ALL.len()
    }

    /// Its place in the order of the documentation; what does not ship comes last.
    pub fn place(self) -> usize {
        Self::ALL.iter().position(|family| *family == self).unwrap_or(Self::ALL.len())
    }

    /// The names of a problem's dimensions, in order.
    pub const fn dimensions(self) -> &'static [&'static str] {
        self.0.dimensions
    }

    /// Dimensions beside these that only some problems have.
    pub const fn variants(self) -> &'static [Variant] {
        self.0.variants
    }

    /// The names of all dimensions, the variants' last.
    pub fn all_dimensions(self) -> impl Iterator<Item = &'static str> {
        self.dimensions().iter().copied().chain(self.variants().iter().map(|variant| variant.name))
    }

    /// The types of the first tensor that its kernels come in.
    pub const fn dtypes(self) -> &'static [Dtype] {
        self.0.dtypes
    }

    /// The type of the first tensor where a question names none: bf16, or the first that its kernels come in where these have no bf16.
    pub fn default_dtype(self) -> Dtype {
        let first = self.dtypes().first().copied().unwrap_or_default();
        if self.dtypes().contains(&Dtype::Bf16) { Dtype::Bf16 } else { first }
    }

    /// Whether two weights share a byte along k, so that k must be even.
    pub const fn packs_two_weights_a_byte(self) -> bool {
        self.0.packs_two_weights_a_byte
    }

    /// The family that differs in how weights of as many bits are decoded, and in nothing else: what is fast for one teaches of the
    /// other.
    pub fn sister(self) -> Option<Self> {
        self.0.sister.and_then(Self::by_name)
    }
}

impl Hash for Family {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// The order of the documentation, then by name.
impl Ord for Family {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = |family: &Self| {
            (family.place(), family.name(), family.dimensions(), family.dtypes(), family.0.bins, family.0.groups)
        };
        order(self).cmp(&order(other))
    }
}

impl PartialOrd for Family {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Its name.
impl std::fmt::Debug for Family {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

impl std::str::FromStr for Family {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::by_name(name).ok_or_else(|| {
            let known: Vec<_> = Self::known().into_iter().map(Self::name).collect();
            Error::usage(format!(
                "'{name}' is not one of {}, and no manifest of it was read (--family PATH.toml)",
                known.join(", ")
            ))
        })
    }
}

serde_by_name_alone!(Family);
