//! Problems: a family with concrete dimensions and a data type.

use super::{Dtype, Family};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The dimensions of a problem, by kind of family. In JSON an object of its dimensions: `{"m":16,"n":4096,"k":4096}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Shape {
    /// A matrix product [m,k]·[k,n].
    Gemm {
        /// Rows of A and C.
        m: u64,
        /// Columns of B and C.
        n: u64,
        /// The dimension summed over, in unpacked elements.
        k: u64,
    },
    /// Attention over [batch, heads, seq, head_dim].
    Attention {
        /// Sequences.
        batch: u64,
        /// Heads of each sequence.
        heads: u64,
        /// Query positions.
        q_seq: u64,
        /// Key and value positions.
        kv_seq: u64,
        /// Elements of one head.
        head_dim: u64,
    },
    /// A reduction over the rows of [rows, cols].
    Rows {
        /// Rows.
        rows: u64,
        /// Elements of a row.
        cols: u64,
    },
    /// A map over so many elements.
    Elements {
        /// Elements.
        numel: u64,
    },
}

impl Shape {
    /// The dimensions with their names, in the family's order.
    pub fn dimensions(&self) -> Vec<(&'static str, u64)> {
        match *self {
            Self::Gemm { m, n, k } => vec![("m", m), ("n", n), ("k", k)],
            Self::Attention { batch, heads, q_seq, kv_seq, head_dim } => {
                vec![("batch", batch), ("heads", heads), ("q_seq", q_seq), ("kv_seq", kv_seq), ("head_dim", head_dim)]
            }
            Self::Rows { rows, cols } => vec![("rows", rows), ("cols", cols)],
            Self::Elements { numel } => vec![("numel", numel)],
        }
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
    /// Where a dimension is missing, unknown, twice there or not positive, k is odd for packed weights, or the family
    /// does not come in `dtype`.
    pub fn new(family: Family, dimensions: &[(&str, i64)], dtype: Dtype) -> Result<Self> {
        let wanted = family.dimensions();
        for (index, (name, value)) in dimensions.iter().enumerate() {
            if !wanted.contains(name) {
                return Err(Error::usage(format!(
                    "{family} has no dimension '{name}'; its dimensions are {}",
                    wanted.join(", ")
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
        let shape = match family {
            Family::Attention => Shape::Attention {
                batch: get("batch")?,
                heads: get("heads")?,
                q_seq: get("q_seq")?,
                kv_seq: get("kv_seq")?,
                head_dim: get("head_dim")?,
            },
            Family::RowSoftmax => Shape::Rows { rows: get("rows")?, cols: get("cols")? },
            Family::Elementwise => Shape::Elements { numel: get("numel")? },
            Family::Matmul | Family::MatmulInt4 | Family::MatmulInt16 | Family::MatmulFp4 => {
                Shape::Gemm { m: get("m")?, n: get("n")?, k: get("k")? }
            }
        };
        if let Shape::Gemm { k, .. } = shape
            && family.packs_two_weights_a_byte()
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
        Ok(Self { family, shape, dtype })
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
