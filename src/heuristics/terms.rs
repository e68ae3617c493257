//! What kernels of a class take: a question on other terms fits nothing, and is refused.

use super::bins::PackedBucket;
use super::classes::Kind;
use super::dtypes::{DtypeClass, DtypeName};
use super::extents::Extents;
use super::own::OwnKind;
use crate::model::Family;
use std::fmt;

/// The dimensions and types that kernels of a class take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    kind: Kind,
    /// Two weights share a byte along k.
    packs_two_weights: bool,
    types: Types,
}

/// The classes of types that are known to run, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Types(u8);

impl Types {
    const fn of(class: DtypeClass) -> Self {
        Self(1 << class as u8)
    }

    const fn holds(self, class: DtypeClass) -> bool {
        self.0 & Self::of(class).0 != 0
    }
}

/// Why a shape is none that kernels of a class can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Foreign,
    Missing(&'static str),
    NotPositive(&'static str, i64),
    OddK(i64),
    Uncountable,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => out.write_str("the dimensions are another kind of class's"),
            Self::Missing(name) => write!(out, "dimension '{name}' is missing"),
            Self::NotPositive(name, value) => write!(out, "dimension {name} = {value}: it must be positive"),
            Self::OddK(k) => write!(out, "dimension k = {k}: two weights share a byte, so k must be even"),
            Self::Uncountable => out.write_str("the tensors have more elements than 64 bits can count"),
        }
    }
}

impl Terms {
    /// What is known of a class by its name: the types that the kernels of a family come in, each with those of its bucket.
    pub(super) fn of_class(name: &str) -> Self {
        let family = Family::by_name(name);
        // Of a product of 8-bit floats either operand may be of another type, as other tools' are.
        let dtypes = family.filter(|family| *family != Family::MatmulFp8).map_or(&[][..], Family::dtypes);
        let types = dtypes.iter().fold(0, |types, dtype| types | Types::of((*dtype).into()).0);
        Self {
            kind: Kind::of_class(name),
            packs_two_weights: family.is_some_and(Family::packs_two_weights_a_byte),
            types: Types(types),
        }
    }

    /// What a document says of a family that it describes.
    pub(super) fn of_own(own: &'static OwnKind) -> Self {
        let types = own.types().fold(0, |types, class| types | Types::of(class).0);
        Self { kind: Kind::Own(own), packs_two_weights: false, types: Types(types) }
    }

    /// Learns of a rule: what its bucket holds was measured, so it runs.
    pub(super) fn learn(&mut self, bucket: PackedBucket) {
        self.types.0 |= bucket.dtype().map_or(0, |class| Types::of(class).0);
    }

    /// Whether kernels of the class run the type; nothing where no more is known of it.
    pub(super) fn runs(self, dtype: DtypeName) -> Option<bool> {
        (self.types != Types(0)).then_some(self.types.holds(dtype.class()))
    }

    /// The short names of the types that run.
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        let classes = DtypeClass::ALL.into_iter().filter(move |class| self.types.holds(*class));
        classes.flat_map(DtypeName::of_class)
    }

    /// What is wrong with the dimensions, if anything is. Allocates nothing.
    pub(super) fn fault(self, extents: &Extents) -> Option<Fault> {
        match (self.kind, extents) {
            (Kind::Gemm, &Extents::Gemm { m, n, k, .. }) => check([("m", m), ("n", n), ("k", k)], |[m, n, k]| {
                if self.packs_two_weights && k % 2 != 0 {
                    return Some(Fault::OddK(k));
                }
                uncountable([&[m, k], &[k, n], &[m, n]])
            }),
            // Variants are there where they were asked for, and then fit: a problem or the arguments told them.
            (Kind::Attention, &Extents::Attention { batch, heads, q_seq, kv_seq, head_dim, .. }) => {
                let named =
                    [("batch", batch), ("heads", heads), ("q_seq", q_seq), ("kv_seq", kv_seq), ("head_dim", head_dim)];
                check(named, |[batch, heads, q_seq, kv_seq, head_dim]| {
                    uncountable([&[batch, heads, q_seq, head_dim], &[batch, heads, kv_seq, head_dim]])
                })
            }
            (Kind::Rows, &Extents::Rows { rows, cols }) => {
                check([("rows", rows), ("cols", cols)], |[rows, cols]| uncountable([&[rows, cols]]))
            }
            (Kind::Elements, &Extents::Elements { numel }) => check([("numel", numel)], |_| None),
            (Kind::Own(own), Extents::Own(its, extents)) if own == *its => {
                let wrong = own.family.dimensions().iter().zip(extents).find(|(_, extent)| **extent <= 0)?;
                Some(if *wrong.1 == 0 { Fault::Missing(wrong.0) } else { Fault::NotPositive(wrong.0, *wrong.1) })
            }
            (Kind::Unbinned, _) => None,
            _ => Some(Fault::Foreign),
        }
    }
}

/// The first of the dimensions that is not there or not positive, else what `beyond` says of them together.
#[inline]
fn check<const N: usize>(
    named: [(&'static str, Option<i64>); N],
    beyond: impl Fn([i64; N]) -> Option<Fault>,
) -> Option<Fault> {
    let mut extents = [0; N];
    for ((name, extent), place) in named.into_iter().zip(&mut extents) {
        match extent {
            None => return Some(Fault::Missing(name)),
            Some(extent @ ..=0) => return Some(Fault::NotPositive(name, extent)),
            Some(extent) => *place = extent,
        }
    }
    beyond(extents)
}

/// Whether one of the tensors has more elements than can be counted.
#[inline]
fn uncountable<const N: usize>(tensors: [&[i64]; N]) -> Option<Fault> {
    tensors.into_iter().any(|shape| elements(shape).is_none()).then_some(Fault::Uncountable)
}

/// The elements of a tensor of that shape, if they can be counted.
#[inline]
pub(super) fn elements(shape: &[i64]) -> Option<i64> {
    shape.iter().try_fold(1, |elements: i64, extent| elements.checked_mul(*extent))
}
