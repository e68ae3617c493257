//! Problems: a family with concrete dimensions and a data type.

use super::{Dtype, Family, MOST_DIMENSIONS, Plain, Variant};
use crate::error::{Error, Result};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::hash::{Hash, Hasher};

/// The dimensions of a problem, in its family's order. In JSON an object of them: `{"m":16,"n":4096,"k":4096}`. Variants are
/// told only where they are not plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    names: &'static [&'static str],
    variants: &'static [Variant],
    /// Those of the variants last; 0 beyond the last.
    extents: [u64; MOST_DIMENSIONS],
}

impl Shape {
    /// The dimensions of a family's problem, in its order; variants are plain where there are no more extents.
    pub fn of(family: Family, extents: &[u64]) -> Self {
        let (names, variants) = (family.dimensions(), family.variants());
        let mut all = [0; MOST_DIMENSIONS];
        for (place, variant) in (names.len()..).zip(variants) {
            all[place] = variant.plain.value(extents);
        }
        for (place, extent) in all.iter_mut().zip(extents).take(names.len() + variants.len()) {
            *place = *extent;
        }
        Self { names, variants, extents: all }
    }

    /// The same dimensions in the order of a family that has them, with its variants, of which those that are not told here are plain; as
    /// they are where it has others.
    #[must_use]
    pub fn in_order_of(self, family: Family) -> Self {
        let wanted = family.dimensions();
        if self.names == wanted && self.variants == family.variants() || self.names.len() != wanted.len() {
            return self;
        }
        let place = |name: &&str| self.names.iter().position(|own| own == name);
        let extents: Option<Vec<u64>> = wanted.iter().map(|name| Some(self.extents[place(name)?])).collect();
        let Some(extents) = extents else { return self };
        let mut shape = Self::of(family, &extents);
        for (place, variant) in (extents.len()..).zip(family.variants()) {
            let told = self.of_variants().find(|(own, _)| own.name == variant.name);
            shape.extents[place] = told.map_or(shape.extents[place], |(_, extent)| extent);
        }
        shape
    }

    /// The dimensions with their names, in the family's order: of the variants those that are not plain.
    pub fn dimensions(&self) -> Vec<(&'static str, u64)> {
        let variants = self.of_variants().filter(|(variant, extent)| *extent != variant.plain.value(&self.extents));
        let variants = variants.map(|(variant, extent)| (variant.name, extent));
        self.names.iter().copied().zip(self.extents).chain(variants).collect()
    }

    /// The dimensions alone, in the family's order, and all variants.
    pub fn extents(&self) -> &[u64] {
        &self.extents[..self.names.len() + self.variants.len()]
    }

    /// Whether it has none of its family's variants.
    pub fn is_plain(&self) -> bool {
        self.of_variants().all(|(variant, extent)| extent == variant.plain.value(&self.extents))
    }

    fn of_variants(&self) -> impl Iterator<Item = (&'static Variant, u64)> {
        self.variants.iter().zip(self.extents.into_iter().skip(self.names.len()))
    }

    /// The first dimensions; 0 where there are fewer.
    pub fn first<const N: usize>(&self) -> [u64; N] {
        std::array::from_fn(|place| self.extents.get(place).copied().unwrap_or(0))
    }
}

/// What differs in its dimensions' names alone is rare.
impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.extents().hash(state);
    }
}

impl Serialize for Shape {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.dimensions())
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;

        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("an object of a family's dimensions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut dimensions: A) -> Result<Shape, A::Error> {
                let mut named: Vec<(String, u64)> = Vec::new();
                while let Some((name, extent)) = dimensions.next_entry::<String, u64>()? {
                    if named.len() == MOST_DIMENSIONS || named.iter().any(|(earlier, _)| *earlier == name) {
                        return Err(serde::de::Error::custom(format!("dimension '{name}' is one too many")));
                    }
                    named.push((name, extent));
                }
                let names: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
                let unknown = || serde::de::Error::custom(format!("no family has the dimensions {}", names.join(", ")));
                let family = Family::of_dimensions(&names).ok_or_else(unknown)?;
                let extent = |wanted: &str| named.iter().find(|(name, _)| name == wanted).map(|(_, extent)| *extent);
                let extents: Vec<u64> =
                    family.dimensions().iter().map(|wanted| extent(wanted).unwrap_or_default()).collect();
                let mut shape = Shape::of(family, &extents);
                for (place, variant) in (extents.len()..).zip(family.variants()) {
                    shape.extents[place] = extent(variant.name).unwrap_or(shape.extents[place]);
                }
                Ok(shape)
            }
        }

        deserializer.deserialize_map(Dimensions)
    }
}

/// `m=16,n=4096,k=4096`, the form `--shape` reads.
impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<_> = self.dimensions().iter().map(|(name, value)| format!("{name}={value}")).collect();
        out.pad(&text.join(","))
    }
}

/// One problem: what a kernel of `family` is asked to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Problem {
    /// The operation.
    pub family: Family,
    /// Its dimensions, all positive.
    pub shape: Shape,
    /// The type of its first tensor and output.
    pub dtype: Dtype,
}

impl Problem {
    /// A problem from named dimensions.
    ///
    /// # Errors
    /// Where a dimension is missing, unknown, twice there or not positive, k is odd for packed weights, a variant does not fit the
    /// others, or the family does not come in `dtype`.
    pub fn new(family: Family, dimensions: &[(&str, i64)], dtype: Dtype) -> Result<Self> {
        let wanted = family.dimensions();
        for (index, (name, value)) in dimensions.iter().enumerate() {
            let variant = family.variants().iter().find(|variant| variant.name == *name);
            if variant.is_none() && !wanted.contains(name) {
                let all: Vec<&str> = family.all_dimensions().collect();
                return Err(Error::usage(format!(
                    "{family} has no dimension '{name}'; its dimensions are {}",
                    all.join(", ")
                )));
            }
            if dimensions[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::usage(format!("dimension '{name}' is given twice")));
            }
            let may_be_nothing = variant.is_some_and(|variant| !matches!(variant.plain, Plain::As(_)));
            if *value < 0 || *value == 0 && !may_be_nothing {
                return Err(Error::usage(format!("dimension {name} = {value}: it must be positive")));
            }
        }
        let given =
            |wanted: &str| dimensions.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.unsigned_abs());
        let get = |wanted: &str| {
            given(wanted).ok_or_else(|| {
                Error::usage(format!("{family} needs dimension '{wanted}' ({})", family.dimensions().join(", ")))
            })
        };
        let mut extents = wanted.iter().map(|name| get(name)).collect::<Result<Vec<_>>>()?;
        for variant in family.variants() {
            let extent = given(variant.name).unwrap_or_else(|| variant.plain.value(&extents));
            if let Plain::As(place) = variant.plain
                && !extents[place].is_multiple_of(extent.max(1))
            {
                return Err(Error::usage(format!(
                    "dimension {} = {extent}: {} = {} is no multiple of it",
                    variant.name, wanted[place], extents[place]
                )));
            }
            extents.push(extent);
        }
        if family == Family::MatmulInt4Group {
            settle_groups(&mut extents)?;
        }
        if family == Family::Attention {
            settle_mask(&mut extents)?;
        }
        if family == Family::MatmulFp8
            && let Some(scale_block) = extents.last().filter(|scale_block| ![0, 1, 128].contains(*scale_block))
        {
            return Err(Error::usage(format!(
                "dimension scale_block = {scale_block}: it is 1, for a scale a row and column, or 128, or left out for one a tensor"
            )));
        }
        if family.packs_two_weights_a_byte()
            && let Some(k) = wanted.iter().position(|name| *name == "k").map(|place| extents[place])
            && k % 2 != 0
        {
            return Err(Error::usage(format!(
                "dimension k = {k}: {family} packs two weights a byte, so k must be even"
            )));
        }
        if !family.dtypes().contains(&dtype) {
            let names: Vec<_> = family.dtypes().iter().map(|dtype| dtype.name()).collect();
            return Err(Error::usage(format!("{family} comes in {} only, not {dtype}", names.join(" and "))));
        }
        Ok(Self { family, shape: Shape::of(family, &extents), dtype })
    }

    /// Whether it is one: whoever reads dimensions, family and type one by one may come by what is none.
    ///
    /// # Errors
    /// As [`Problem::new`].
    pub fn check(&self) -> Result<()> {
        let dimensions = self.shape.dimensions().into_iter().map(|(name, extent)| match i64::try_from(extent) {
            Ok(extent) => Ok((name, extent)),
            Err(_) => Err(Error::usage(format!("dimension {name} = {extent} is larger than any"))),
        });
        Self::new(self.family, &dimensions.collect::<Result<Vec<_>>>()?, self.dtype).map(drop)
    }

    /// What tells it from others of its family: `m=16,n=4096,k=4096`, with the type where the family comes in several.
    pub fn label(&self) -> String {
        let dtype = if self.family.dtypes().len() > 1 { format!(" {}", self.dtype) } else { String::new() };
        format!("{}{dtype}", self.shape)
    }

    /// A problem from text such as `m=16,n=4096,k=4096`.
    ///
    /// # Errors
    /// As [`Problem::new`] and [`parse_dimensions`].
    pub fn parse(family: Family, text: &str, dtype: Dtype) -> Result<Self> {
        Self::new(family, &parse_dimensions(text)?, dtype)
    }
}

/// Refuses groups that no kernel has, and takes one of all weights along k for what it is: problems that ask for the same are the
/// same.
fn settle_groups(extents: &mut [u64]) -> Result<()> {
    let [_, _, k, group, zero_points] = extents else { return Ok(()) };
    if *group >= *k && ![32, 64, 128].contains(group) {
        *group = 0;
    }
    if ![0, 32, 64, 128].contains(group) {
        return Err(Error::usage(format!(
            "dimension group = {group}: 32, 64 or 128 weights along k share a scale, or all {k} of them (0)"
        )));
    }
    if *zero_points > 1 {
        return Err(Error::usage(format!(
            "dimension zero_points = {zero_points}: it is 1, or 0 where weights have none"
        )));
    }
    Ok(())
}

/// Refuses a mask that is none, and takes away one that hides nothing: problems that ask for the same are the same.
fn settle_mask(extents: &mut [u64]) -> Result<()> {
    let [_, _, q_seq, kv_seq, _, _, causal, window] = extents else { return Ok(()) };
    if *causal > 1 {
        return Err(Error::usage(format!("dimension causal = {causal}: it is 1, or 0 where queries see all keys")));
    }
    if *window > 0 && *causal == 0 {
        return Err(Error::usage(format!("dimension window = {window}: only with causal = 1 is there a window")));
    }
    if *window >= *kv_seq {
        *window = 0;
    }
    if *q_seq == 1 && *window == 0 {
        *causal = 0;
    }
    Ok(())
}

/// Named dimensions from text such as `m=16,n=4096,k=4096`.
///
/// # Errors
/// Where the text is not `name=integer` pairs.
pub fn parse_dimensions(text: &str) -> Result<Vec<(&str, i64)>> {
    let mut dimensions = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("'{pair}' in shape '{text}' is not name=value")))?;
        let (name, value) = (name.trim(), value.trim());
        let value = value
            .parse()
            .map_err(|error| Error::usage(format!("dimension {name} = '{value}' is not an integer: {error}")))?;
        dimensions.push((name, value));
    }
    Ok(dimensions)
}

/// `matmul_fp4 m=16,n=4096,k=4096 bf16`
impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.family, self.shape, self.dtype)
    }
}
