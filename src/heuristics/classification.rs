//! Classification: what a kernel computes, told from its arguments and a few facts about its body.

use super::classes::Kind;
use super::dtypes::{DtypeClass, DtypeName, goes_by_result, result_type};
use super::extents::{Extents, Sharing};
use super::query::Query;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// No kernel has more arguments, nor a tensor more dimensions; what a line holds beyond must not fill memory.
const MOST_ITEMS: usize = 4096;

/// A list of up to [`MOST_ITEMS`].
struct Few<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Few<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = Few<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Few<T>, A::Error> {
                let mut few = Vec::new();
                while let Some(item) = items.next_element()? {
                    if few.len() == MOST_ITEMS {
                        return Err(A::Error::custom(format_args!("more than {MOST_ITEMS} in a list")));
                    }
                    few.push(item);
                }
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// Reads a list of up to [`MOST_ITEMS`].
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Few::deserialize(deserializer).map(|items| items.0)
}

/// A tensor argument. An argument without shape or dtype is passed over where that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tensor {
    /// Its extents, slowest first.
    pub shape: Option<Vec<i64>>,
    /// The name of its data type, as its library prints it: `torch.bfloat16`.
    pub dtype: Option<String>,
}

/// From an object alone: what serde derives would take an array for the fields in order.
impl<'de> Deserialize<'de> for Tensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Fields {
            #[serde(default)]
            shape: Option<Few<i64>>,
            #[serde(default)]
            dtype: Option<String>,
        }

        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Tensor;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an argument: an object with shape and dtype")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Tensor, A::Error> {
                let Fields { shape, dtype } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
                Ok(Tensor { shape: shape.map(|extents| extents.0), dtype })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What is known of a kernel about to run: a batch query's line, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Signature {
    /// Its class, where the caller knows it; else it is classified.
    pub kernel_class: Option<String>,
    /// Its arguments, in order.
    #[serde(deserialize_with = "few")]
    pub args: Vec<Tensor>,
    /// What its body does, in the words of the workload detector: `matmul`, `sum_reduction`, `exp`.
    #[serde(deserialize_with = "few")]
    pub traits: Vec<String>,
    /// The number of its tiled dimensions.
    pub block_rank: u32,
    /// Whether one of its dimensions is reduced in a loop of its own.
    pub has_reduction: bool,
    /// Whether its config space has a split-k knob.
    pub has_split_k: bool,
    /// Its source, which tells int4 weights from fp4.
    pub kernel_source: Option<String>,
}

impl Signature {
    /// The class: the given one, else the first that the arguments and traits fit, else none.
    pub fn class(&self) -> Option<&str> {
        let of_arguments = || {
            let (shapes, dtypes) = (self.shapes().collect::<Vec<_>>(), self.dtypes().collect::<Vec<_>>());
            self.classify(&shapes, &dtypes)
        };
        self.kernel_class.as_deref().or_else(of_arguments)
    }

    /// The question to ask of a document, if there is a class to ask for: as the runtime that documents come from asks it, whether or
    /// not the arguments fit each other. [`Heuristics::query_of`](super::Heuristics::query_of) asks what fits alone.
    pub fn query(&self) -> Option<Query<'_>> {
        let class = self.class()?;
        let dtype = if goes_by_result(class) {
            result_type(self.dtypes().skip(2).map(DtypeName::of_library))
        } else {
            self.dtypes().next().map_or(DtypeClass::Other.into(), DtypeName::of_library)
        };
        Some(Query { class, extents: self.extents(class), dtype })
    }

    /// The class of a kernel with arguments of these shapes and types.
    pub(super) fn classify(&self, shapes: &[&[i64]], dtypes: &[&str]) -> Option<&'static str> {
        let matmul = self.has_trait("matmul");
        match self.block_rank {
            3 if self.has_trait("attention_reduction") => Some("attention"),
            _ if matmul && self.has_split_k => Some("split_k_matmul"),
            4 if matmul => match shapes {
                [first, second, ..] if first.len() == 3 && second.len() == 3 => Some("batched_matmul"),
                _ => Some("grouped_matmul"),
            },
            3 if matmul && dtypes.iter().take(2).any(|dtype| dtype.contains("float8")) => Some("matmul_fp8"),
            3 if matmul => Some(self.quantized(shapes, dtypes).unwrap_or("matmul")),
            3 if self.has_trait("sum_reduction") && self.has_trait("reduction") => self.quantized(shapes, dtypes),
            1 if self.has_reduction => self.row_class(shapes, dtypes),
            1 if shapes.first().is_some_and(|first| shapes.iter().all(|shape| shape == first)) => Some("elementwise"),
            _ => None,
        }
    }

    /// Whether the second argument holds narrow weights, and which.
    fn quantized(&self, shapes: &[&[i64]], dtypes: &[&str]) -> Option<&'static str> {
        let weights = dtypes.get(1)?;
        if weights.contains("int16") {
            return Some("matmul_int16");
        }
        let ([.., _, k], [.., packed_k, _]) = (shapes.first()?, shapes.get(1)?) else { return None };
        if !weights.contains("int8") || Some(*k) != packed_k.checked_mul(2) {
            return None;
        }
        let source = self.kernel_source.as_ref()?.to_lowercase();
        // "nvfp4" holds "fp4" too.
        if source.contains("e2m1") || source.contains("fp4") {
            Some("matmul_fp4")
        } else {
            source.contains("int4").then_some("matmul_int4")
        }
    }

    fn row_class(&self, shapes: &[&[i64]], dtypes: &[&str]) -> Option<&'static str> {
        let indices = |dtype: &&str| matches!(dtype.trim_start_matches("torch."), "int32" | "int64");
        if self.has_trait("cross_entropy") || shapes.len() >= 2 && dtypes.get(1).is_some_and(indices) {
            return Some("row_cross_entropy");
        }
        let cols = shapes.first().and_then(|shape| shape.last());
        let is_row_vector = |position: usize| match shapes.get(position) {
            Some([length]) => Some(length) == cols,
            _ => false,
        };
        match (is_row_vector(1), is_row_vector(2)) {
            (true, true) => Some("row_norm_layer"),
            (true, false) => Some("row_norm_rms"),
            _ if self.has_trait("softmax") => Some("row_softmax"),
            _ if self.has_trait("exp") && self.has_trait("sum_reduction") => Some("row_softmax"),
            _ => None,
        }
    }

    /// The dimensions a class goes by, as far as the arguments tell.
    pub(super) fn extents(&self, class: &str) -> Extents {
        let kind = Kind::of_class(class);
        let mut shapes = self.shapes();
        let first = shapes.next();
        let second = shapes.next();
        match kind {
            Kind::Gemm => match (first, second) {
                (Some(&[.., m, k]), Some(&[.., _, n])) => {
                    let sharing = match class {
                        "matmul_int4_group" => self.sharing(k),
                        "matmul_fp8" => self.scale_block([m, n, k]).and_then(Sharing::of_blocks),
                        _ => None,
                    };
                    // Of the classes whose first argument is packed, k is twice as long.
                    let k = if class == "matmul_nvfp4_nvfp4" { k.saturating_mul(2) } else { k };
                    Extents::Gemm { m: Some(m), n: Some(n), k: Some(k), sharing }
                }
                _ => Extents::Gemm { m: None, n: None, k: None, sharing: None },
            },
            Kind::Attention => match first {
                Some(&[batch, heads, .., q_seq, head_dim]) => {
                    let (kv_heads, kv_seq) = match second {
                        Some(&[_, kv_heads, .., kv_seq, _]) => (kv_heads, kv_seq),
                        _ => (heads, q_seq),
                    };
                    let shares = kv_heads > 0 && heads % kv_heads == 0;
                    Extents::Attention {
                        batch: Some(batch),
                        heads: Some(heads),
                        q_seq: Some(q_seq),
                        kv_seq: Some(kv_seq),
                        head_dim: Some(head_dim),
                        kv_heads: Some(if shares { kv_heads } else { heads }),
                        causal: Some(0),
                        window: Some(0),
                    }
                }
                _ => Extents::attention([None; 5]),
            },
            Kind::Rows => match first {
                Some([outer @ .., cols]) if !outer.is_empty() => {
                    Extents::Rows { rows: Some(product(outer)), cols: Some(*cols) }
                }
                _ => Extents::Rows { rows: None, cols: None },
            },
            Kind::Elements => Extents::Elements { numel: first.map(product) },
            // Which of its arguments has which of its dimensions, a family of somebody's own does not say.
            Kind::Unbinned | Kind::Own(_) => Extents::Unbinned,
        }
    }

    /// How weights share scales, by the scales' rows and whether there are zero points.
    fn sharing(&self, k: i64) -> Option<Sharing> {
        let mut others = self.shapes().skip(2);
        let rows = match others.next() {
            Some(&[rows, _]) if rows > 0 => rows,
            _ => return None,
        };
        let zero_points = others.next().is_some_and(|shape| shape.len() == 2);
        let group = [128, 64, 32].into_iter().find(|group| k.checked_add(group - 1).is_some_and(|k| k / group == rows));
        Sharing::of(group.unwrap_or(0), zero_points)
    }

    /// What shares a scale of two 8-bit floats that come with those of each after them: 1 for a row and a column, 128 for blocks.
    fn scale_block(&self, [m, n, k]: [i64; 3]) -> Option<i64> {
        let mut dtypes = self.dtypes();
        let are_floats = dtypes.by_ref().take(2).all(|dtype| dtype.contains("float8"));
        let have_scales = are_floats && dtypes.take(2).filter(|dtype| dtype.contains("float32")).count() == 2;
        let mut scales = self.shapes().skip(2);
        let (Some(of_a), Some(of_b), true) = (scales.next(), scales.next(), have_scales) else { return None };
        let blocks = |extent: i64| extent / 128 + i64::from(extent % 128 != 0);
        let of_all = product(&[blocks(n), blocks(k)]);
        match of_a {
            [rows, 1] if *rows == m && of_b == [1, n] && (m > 1 || n > 1) => Some(1),
            [rows, of_k] if (*rows, *of_k) == (m, blocks(k)) && product(of_b) == of_all => Some(128),
            _ => None,
        }
    }

    fn shapes(&self) -> impl Iterator<Item = &[i64]> {
        self.args.iter().filter_map(|tensor| tensor.shape.as_deref())
    }

    fn dtypes(&self) -> impl Iterator<Item = &str> {
        self.args.iter().filter_map(|tensor| tensor.dtype.as_deref())
    }

    fn has_trait(&self, name: &str) -> bool {
        self.traits.iter().any(|known| known == name)
    }
}

fn product(extents: &[i64]) -> i64 {
    if extents.contains(&0) {
        return 0; // whatever the others multiply to
    }
    extents.iter().fold(1, |product: i64, extent| product.saturating_mul(*extent))
}
