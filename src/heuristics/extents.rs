//! The dimensions that a class of kernels is asked about.

use super::classes::Kind;
use super::own::OwnKind;
use crate::model::{Family, MOST_DIMENSIONS, Problem};

/// The dimensions of a query; `None` where one is not known. They may be zero or negative, as a tensor library's may; one
/// too large for 64 bits stops at the largest.
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
        /// How weights share scales where it is not the plain way, or they are of a class that has none.
        sharing: Option<Sharing>,
    },
    /// Attention.
    Attention {
        /// Sequences.
        batch: Option<i64>,
        /// Heads of each sequence.
        heads: Option<i64>,
        /// Query positions.
        q_seq: Option<i64>,
        /// Key positions; those of the query where not known.
        kv_seq: Option<i64>,
        /// Elements of one head.
        head_dim: Option<i64>,
        /// Heads of keys and values of each sequence; those of the queries where each has its own.
        kv_heads: Option<i64>,
        /// 1 where queries see keys up to their own alone, else 0.
        causal: Option<i64>,
        /// Keys that a query sees at most; 0 where there is no such bound.
        window: Option<i64>,
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
    /// The dimensions of a family that somebody brought, in its order; 0 where one is not known.
    Own(&'static OwnKind, [i64; MOST_DIMENSIONS]),
    /// A class whose buckets know only the data type.
    Unbinned,
}

/// How the numbers of a product share scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sharing {
    /// Weights along k with one scale; 0 where all have the same.
    pub group: i64,
    /// Whether they have zero points.
    pub zero_points: bool,
    /// Of 8-bit floats: 1 where a row and a column have a scale each, 128 where blocks have, 0 where each tensor has one.
    pub scale_block: i64,
}

impl Sharing {
    /// The plain way: what [`Family::MatmulInt4Group`](crate::model::Family::MatmulInt4Group) and
    /// [`Family::MatmulFp8`](crate::model::Family::MatmulFp8) say of their variants.
    const PLAIN: Self = Self { group: 128, zero_points: false, scale_block: 0 };

    /// It, but where it is the plain way.
    pub(super) fn of(group: i64, zero_points: bool) -> Option<Self> {
        Some(Self { group, zero_points, ..Self::PLAIN }).filter(|sharing| *sharing != Self::PLAIN)
    }

    /// The same of 8-bit floats.
    pub(super) fn of_blocks(scale_block: i64) -> Option<Self> {
        Some(Self { scale_block, ..Self::PLAIN }).filter(|sharing| *sharing != Self::PLAIN)
    }
}

impl Extents {
    /// The dimension of that name, where this kind of class has it and it is known.
    pub fn dimension(&self, name: &str) -> Option<i64> {
        match (*self, name) {
            (Self::Gemm { m: extent, .. }, "m")
            | (Self::Gemm { n: extent, .. }, "n")
            | (Self::Gemm { k: extent, .. }, "k")
            | (Self::Attention { batch: extent, .. }, "batch")
            | (Self::Attention { heads: extent, .. }, "heads")
            | (Self::Attention { q_seq: extent, .. }, "q_seq")
            | (Self::Attention { kv_seq: extent, .. }, "kv_seq")
            | (Self::Attention { head_dim: extent, .. }, "head_dim")
            | (Self::Attention { kv_heads: extent, .. }, "kv_heads")
            | (Self::Attention { causal: extent, .. }, "causal")
            | (Self::Attention { window: extent, .. }, "window")
            | (Self::Rows { rows: extent, .. }, "rows")
            | (Self::Rows { cols: extent, .. }, "cols")
            | (Self::Elements { numel: extent }, "numel") => extent,
            (Self::Gemm { sharing, .. }, "group") => Some(sharing.unwrap_or(Sharing::PLAIN).group),
            (Self::Gemm { sharing, .. }, "zero_points") => Some(sharing.unwrap_or(Sharing::PLAIN).zero_points.into()),
            (Self::Gemm { sharing, .. }, "scale_block") => Some(sharing.unwrap_or(Sharing::PLAIN).scale_block),
            (Self::Own(own, extents), name) => {
                let place = own.family.dimensions().iter().position(|dimension| *dimension == name)?;
                Some(extents[place]).filter(|extent| *extent != 0)
            }
            _ => None,
        }
    }

    /// The same, where it can be one: positive, or a variant that may be nothing.
    pub(super) fn known(&self, name: &str) -> Option<i64> {
        let may_be_nothing = matches!(
            (self, name),
            (Self::Attention { .. }, "causal" | "window")
                | (Self::Gemm { .. }, "group" | "zero_points" | "scale_block")
        );
        self.dimension(name).filter(|extent| *extent > 0 || may_be_nothing && *extent == 0)
    }

    /// The same, where each dimension that is `unknown` is not known.
    #[cfg(feature = "harness")]
    pub(crate) fn without(self, unknown: i64) -> Self {
        let known = |extent: Option<i64>| extent.filter(|extent| *extent != unknown);
        match self {
            Self::Gemm { m, n, k, sharing } => Self::Gemm { m: known(m), n: known(n), k: known(k), sharing },
            Self::Attention { batch, heads, q_seq, kv_seq, head_dim, kv_heads, causal, window } => Self::Attention {
                batch: known(batch),
                heads: known(heads),
                q_seq: known(q_seq),
                kv_seq: known(kv_seq),
                head_dim: known(head_dim),
                kv_heads: known(kv_heads),
                causal,
                window,
            },
            Self::Rows { rows, cols } => Self::Rows { rows: known(rows), cols: known(cols) },
            Self::Elements { numel } => Self::Elements { numel: known(numel) },
            Self::Own(own, extents) => Self::Own(own, extents.map(|extent| if extent == unknown { 0 } else { extent })),
            Self::Unbinned => Self::Unbinned,
        }
    }
}

impl Extents {
    /// The same without a family's variants: what is known of a problem where nothing is known of these.
    #[must_use]
    pub fn plain(self) -> Self {
        match self {
            Self::Attention { batch, heads, q_seq, kv_seq, head_dim, .. } => {
                Self::attention([batch, heads, q_seq, kv_seq, head_dim])
            }
            Self::Gemm { m, n, k, .. } => Self::Gemm { m, n, k, sharing: None },
            other => other,
        }
    }

    /// Whether they have no variants: [`Extents::plain`] changes nothing.
    pub(super) fn is_plain(&self) -> bool {
        match self {
            Self::Attention { heads, kv_heads, causal, window, .. } => {
                kv_heads == heads && [causal, window].into_iter().all(|variant| *variant == Some(0))
            }
            Self::Gemm { sharing, .. } => sharing.is_none(),
            Self::Rows { .. } | Self::Elements { .. } | Self::Own(..) | Self::Unbinned => true,
        }
    }

    /// Attention without variants: batch, heads, q_seq, kv_seq and head_dim.
    pub(super) const fn attention([batch, heads, q_seq, kv_seq, head_dim]: [Option<i64>; 5]) -> Self {
        Self::Attention { batch, heads, q_seq, kv_seq, head_dim, kv_heads: heads, causal: Some(0), window: Some(0) }
    }

    /// Those of a problem.
    pub fn of(problem: &Problem) -> Self {
        let known = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let extents = problem.shape.first::<MOST_DIMENSIONS>().map(known);
        let [first, second, third, fourth, fifth, kv_heads, causal, window] = extents.map(Some);
        match Kind::of_family(problem.family) {
            Kind::Gemm => {
                let [_, _, _, group, zero_points, ..] = extents;
                let sharing = match problem.family {
                    Family::MatmulInt4Group => Sharing::of(group, zero_points == 1),
                    Family::MatmulFp8 => Sharing::of_blocks(group),
                    _ => None,
                };
                Self::Gemm { m: first, n: second, k: third, sharing }
            }
            Kind::Attention => Self::Attention {
                batch: first,
                heads: second,
                q_seq: third,
                kv_seq: fourth,
                head_dim: fifth,
                kv_heads,
                causal,
                window,
            },
            Kind::Rows => Self::Rows { rows: first, cols: second },
            Kind::Elements => Self::Elements { numel: first },
            Kind::Own(own) => Self::Own(own, extents),
            Kind::Unbinned => Self::Unbinned,
        }
    }

    /// What a class of that name computes, which dimensions of somebody's own family tell by themselves.
    pub(super) fn kind_of_class(&self, class: &str) -> Kind {
        match self {
            Self::Own(own, _) => Kind::Own(own),
            _ => Kind::of_class(class),
        }
    }
}
