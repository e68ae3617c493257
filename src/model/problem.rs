//! Problems: a family with concrete dimensions and a data type.

use super::{Dtype, Family, MOST_DIMENSIONS, Variant};
use crate::error::{Error, Result};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::hash::{Hash, Hasher};

/// The dimensions of a problem, in its family's order. In JSON an object of them: `{"m":16,"n":4096,"k":4096}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    names: &'static [&'static str],
    variants: &'static [Variant],
    /// 0 beyond the last, and for a variant that is left out.
    extents: [u64; MOST_DIMENSIONS],
}

impl Shape {
    /// The dimensions of a family's problem, in its order, variants last; those that are not there are left out.
    pub fn of(family: Family, extents: &[u64]) -> Self {
        let mut shape = Self { names: family.dimensions(), variants: family.variants(), extents: [0; MOST_DIMENSIONS] };
        let count = shape.extents().len();
        for (place, extent) in shape.extents.iter_mut().zip(extents).take(count) {
            *place = *extent;
        }
        shape
    }

    /// The same dimensions in the order of a family that has them; as they are where it has others.
    #[must_use]
    pub fn in_order_of(self, family: Family) -> Self {
        if (self.names, self.variants) == (family.dimensions(), family.variants()) {
            return self;
        }
        let wanted = family.all_dimensions();
        let given = self.given();
        let is_missing = |name: &&str| !given.iter().any(|(own, _)| own == name);
        if family.dimensions().iter().any(is_missing) || given.iter().any(|(own, _)| !wanted.contains(own)) {
            return self;
        }
        let extent = |name: &&str| given.iter().find(|(own, _)| own == name).map_or(0, |(_, extent)| *extent);
        Self::of(family, &wanted.iter().map(extent).collect::<Vec<_>>())
    }

    /// The dimensions with their names, in the family's order; variants that are left out are 0.
    pub fn dimensions(&self) -> Vec<(&'static str, u64)> {
        let variants = self.variants.iter().map(|variant| variant.name);
        self.names.iter().copied().chain(variants).zip(self.extents).collect()
    }

    /// The same without the variants that are left out.
    pub fn given(&self) -> Vec<(&'static str, u64)> {
        let mut given = self.dimensions();
        let mut place = 0;
        given.retain(|(_, extent)| {
            place += 1;
            place <= self.names.len() || *extent != 0
        });
        given
    }

    /// The dimensions alone, in the family's order; variants that are left out are 0.
    pub fn extents(&self) -> &[u64] {
        &self.extents[..self.names.len() + self.variants.len()]
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
        serializer.collect_map(self.given())
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
                let extent =
                    |wanted: &str| named.iter().find(|(name, _)| name == wanted).map_or(0, |(_, extent)| *extent);
                Ok(Shape::of(family, &family.all_dimensions().into_iter().map(extent).collect::<Vec<_>>()))
            }
        }

        deserializer.deserialize_map(Dimensions)
    }
}

/// `m=16,n=4096,k=4096`, the form `--shape` reads.
impl fmt::Display for Shape {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<_> = self.given().iter().map(|(name, value)| format!("{name}={value}")).collect();
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
    /// Where a dimension is missing, unknown, twice there or not positive, k is odd for packed weights, or the family
    /// does not come in `dtype`.
    pub fn new(family: Family, dimensions: &[(&str, i64)], dtype: Dtype) -> Result<Self> {
        let wanted = family.dimensions();
        let all = family.all_dimensions();
        for (index, (name, value)) in dimensions.iter().enumerate() {
            if !all.contains(name) {
                return Err(Error::usage(format!(
                    "{family} has no dimension '{name}'; its dimensions are {}",
                    all.join(", ")
                )));
            }
            if dimensions[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::usage(format!("dimension '{name}' is given twice")));
            }
            if *value <= 0 {
                return Err(Error::usage(format!("dimension {name} = {value}: it must be positive")));
            }
        }
        let get = |wanted: &str| {
            dimensions.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.unsigned_abs()).ok_or_else(
                || Error::usage(format!("{family} needs dimension '{wanted}' ({})", family.dimensions().join(", "))),
            )
        };
        let mut extents = wanted.iter().map(|name| get(name)).collect::<Result<Vec<_>>>()?;
        for Variant { name, values } in family.variants() {
            let given = dimensions.iter().find(|(own, _)| own == name).map(|(_, value)| value.unsigned_abs());
            if let Some(value) = given.filter(|value| !values.contains(value)) {
                let values: Vec<_> = values.iter().map(ToString::to_string).collect();
                return Err(Error::usage(format!(
                    "dimension {name} = {value}: {family} has {}, or none",
                    values.join(", ")
                )));
            }
            extents.push(given.unwrap_or(0));
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
        let dimensions = self.shape.given().into_iter().map(|(name, extent)| match i64::try_from(extent) {
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
