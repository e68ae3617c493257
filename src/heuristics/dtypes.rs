//! Data types: the exact one that a model tells apart, and the few classes that buckets pool them into.

use crate::error::{Error, Result};
use crate::model::Dtype;

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
    pub(super) const LABELS: &'static [&'static str] = &["fp8", "fp16_bf16", "fp32", "int", "other"];

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

impl From<Dtype> for DtypeClass {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::Fp16Bf16,
            Dtype::F32 => Self::Fp32,
        }
    }
}

/// The classes, in the order of their labels.
const CLASSES: [DtypeClass; 5] =
    [DtypeClass::Fp8, DtypeClass::Fp16Bf16, DtypeClass::Fp32, DtypeClass::Int, DtypeClass::Other];

/// Every type that is known by name, with its class: the short name that models have first, then what people and libraries call it.
const TYPES: [(DtypeClass, &[&str]); 20] = [
    (DtypeClass::Fp16Bf16, &["bf16", "bfloat16"]),
    (DtypeClass::Fp16Bf16, &["f16", "fp16", "half", "float16"]),
    (DtypeClass::Fp32, &["f32", "fp32", "float", "float32"]),
    (DtypeClass::Other, &["f64", "fp64", "double", "float64"]),
    (DtypeClass::Fp8, &["fp8", "f8"]),
    (DtypeClass::Fp8, &["float8_e4m3fn"]),
    (DtypeClass::Fp8, &["float8_e4m3fnuz"]),
    (DtypeClass::Fp8, &["float8_e5m2"]),
    (DtypeClass::Fp8, &["float8_e5m2fnuz"]),
    (DtypeClass::Fp8, &["float8_e8m0fnu"]),
    (DtypeClass::Int, &["i8", "int8"]),
    (DtypeClass::Int, &["i16", "int16"]),
    (DtypeClass::Int, &["i32", "int32"]),
    (DtypeClass::Int, &["i64", "int64"]),
    (DtypeClass::Int, &["uint8", "u8"]),
    (DtypeClass::Int, &["uint16", "u16"]),
    (DtypeClass::Int, &["uint32", "u32"]),
    (DtypeClass::Int, &["uint64", "u64"]),
    (DtypeClass::Other, &["bool"]),
    (DtypeClass::Other, &["complex64"]),
];

/// A data type by its exact name, with its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DtypeName<'a> {
    name: &'a str,
    class: DtypeClass,
}

impl<'a> DtypeName<'a> {
    /// The type that a tensor library calls so: `torch.bfloat16`.
    pub fn of_library(name: &'a str) -> Self {
        Self { name: short(name), class: DtypeClass::of_name(name) }
    }

    /// The type of a short name that people use (`bf16`), of a tensor library's name, or of a class's label, which is the
    /// exact name of none.
    ///
    /// # Errors
    /// Where the name is none of these.
    pub fn parse(name: &'a str) -> Result<Self> {
        let bare = name.strip_prefix("torch.").unwrap_or(name);
        let known = known(bare);
        let label = DtypeClass::LABELS.iter().position(|label| *label == name);
        if let (None, Some(class)) = (known, label.and_then(|place| CLASSES.get(place))) {
            return Ok((*class).into());
        }
        let Some((class, [name, ..])) = known else {
            return Err(Error::usage(format!(
                "'{name}' is no data type; such as bf16, f16, f32, fp8, i8 or torch.bfloat16 are"
            )));
        };
        Ok(Self { name, class: *class })
    }

    /// Its short name, as models have it: `bf16`.
    pub const fn name(self) -> &'a str {
        self.name
    }

    /// What a bucket knows of it.
    pub const fn class(self) -> DtypeClass {
        self.class
    }
}

/// The short name of what libraries call so; other names without the library's own.
fn short(name: &str) -> &str {
    let bare = name.rsplit_once('.').map_or(name, |(_, bare)| bare);
    known(bare).map_or(bare, |(_, names)| names[0])
}

/// A type by one of its names.
fn known(name: &str) -> Option<&'static (DtypeClass, &'static [&'static str])> {
    TYPES.iter().find(|(_, names)| names.contains(&name))
}

impl From<Dtype> for DtypeName<'static> {
    fn from(dtype: Dtype) -> Self {
        Self { name: dtype.name(), class: dtype.into() }
    }
}

/// A type of which only the class is known, so that no model takes it for one of its own.
impl From<DtypeClass> for DtypeName<'static> {
    fn from(class: DtypeClass) -> Self {
        Self { name: class.label(), class }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        assert_eq!(DtypeClass::from(Dtype::F32).label(), "fp32");
    }

    #[test]
    fn names_of_one_type_are_one_and_kin_are_told_apart() {
        for [a, b] in
            [["torch.bfloat16", "bf16"], ["float16", "half"], ["f16", "paddle.float16"], ["torch.float32", "fp32"]]
        {
            assert_eq!(
                DtypeName::parse(a).unwrap_or(DtypeName::of_library(a)),
                DtypeName::parse(b).unwrap_or(DtypeName::of_library(b))
            );
        }
        for dtype in Dtype::ALL {
            assert_eq!(DtypeName::parse(dtype.name()).unwrap(), dtype.into());
        }
        let [half, brain, pool] = ["f16", "bf16", "fp16_bf16"].map(|name| DtypeName::parse(name).unwrap());
        assert!(half.name() != brain.name() && pool.name() != half.name() && pool.name() != brain.name());
        assert!(half.class() == brain.class() && pool == DtypeClass::Fp16Bf16.into());
        for unknown in ["b16", "torch.bfloat17", "xfloat16y", "torch.fp16_bf16", "torch.", "", "paddle.half", "integer"]
        {
            assert!(DtypeName::parse(unknown).is_err(), "{unknown}");
        }
        for (place, class) in CLASSES.into_iter().enumerate() {
            assert_eq!((class as usize, class.label()), (place, DtypeClass::LABELS[place]));
            assert_eq!(DtypeName::parse(class.label()).unwrap().class(), class);
        }
        // The reader of signatures, which takes any name, agrees on all that are known.
        for name in TYPES.iter().flat_map(|(_, names)| names.iter()).filter(|name| name.len() > 4) {
            let library = format!("torch.{name}");
            assert_eq!(DtypeName::parse(&library).unwrap().name(), DtypeName::of_library(&library).name(), "{name}");
        }
        assert_eq!(DtypeName::parse("torch.bool").unwrap().class(), DtypeClass::Other);
    }
}
