//! Data types: the exact one that a model tells apart, and the few classes that buckets pool them into. There is one reader of
//! names, [`DtypeName::parse`].

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
    /// Every class, in the order of their labels.
    pub(super) const ALL: [Self; 5] = [Self::Fp8, Self::Fp16Bf16, Self::Fp32, Self::Int, Self::Other];

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
            Dtype::Bf16 | Dtype::F16 => Self::Fp16Bf16,
            Dtype::F32 => Self::Fp32,
            Dtype::F64 => Self::Other,
            Dtype::Fp8 => Self::Fp8,
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 | Dtype::U8 => Self::Int,
        }
    }
}

/// A type that is known by name.
struct Known {
    class: DtypeClass,
    /// Short names, as the command line and models have them.
    short: &'static [&'static str],
    /// What PyTorch calls it: first as it prints it, then other names that it has for it.
    torch: &'static [&'static str],
}

impl Known {
    const fn new(class: DtypeClass, short: &'static [&'static str], torch: &'static [&'static str]) -> Self {
        Self { class, short, torch }
    }

    /// The name that models have: the short one, if there is one.
    fn name(&self) -> &'static str {
        self.short.first().or(self.torch.first()).copied().unwrap_or_default()
    }

    fn is_called(&self, name: &str) -> bool {
        self.short.contains(&name) || self.torch.contains(&name)
    }
}

/// Every type that is known by name. `fp8` is an eight-bit float of whichever format.
const TYPES: [Known; 23] = [
    Known::new(DtypeClass::Fp16Bf16, &["bf16"], &["bfloat16"]),
    Known::new(DtypeClass::Fp16Bf16, &["f16", "fp16"], &["float16", "half"]),
    Known::new(DtypeClass::Fp32, &["f32", "fp32"], &["float32", "float"]),
    Known::new(DtypeClass::Other, &["f64", "fp64"], &["float64", "double"]),
    Known::new(DtypeClass::Fp8, &["fp8", "f8"], &[]),
    Known::new(DtypeClass::Fp8, &[], &["float8_e4m3fn"]),
    Known::new(DtypeClass::Fp8, &[], &["float8_e4m3fnuz"]),
    Known::new(DtypeClass::Fp8, &[], &["float8_e5m2"]),
    Known::new(DtypeClass::Fp8, &[], &["float8_e5m2fnuz"]),
    Known::new(DtypeClass::Fp8, &[], &["float8_e8m0fnu"]),
    Known::new(DtypeClass::Int, &["i8"], &["int8"]),
    Known::new(DtypeClass::Int, &["i16"], &["int16", "short"]),
    Known::new(DtypeClass::Int, &["i32"], &["int32", "int"]),
    Known::new(DtypeClass::Int, &["i64"], &["int64", "long"]),
    Known::new(DtypeClass::Int, &["u8"], &["uint8"]),
    Known::new(DtypeClass::Int, &["u16"], &["uint16"]),
    Known::new(DtypeClass::Int, &["u32"], &["uint32"]),
    Known::new(DtypeClass::Int, &["u64"], &["uint64"]),
    Known::new(DtypeClass::Other, &[], &["float4_e2m1fn_x2"]),
    Known::new(DtypeClass::Other, &[], &["bool"]),
    Known::new(DtypeClass::Other, &[], &["complex32", "chalf"]),
    Known::new(DtypeClass::Other, &[], &["complex64", "cfloat"]),
    Known::new(DtypeClass::Other, &[], &["complex128", "cdouble"]),
];

/// A data type by its exact name, with its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DtypeName<'a> {
    name: &'a str,
    class: DtypeClass,
}

impl DtypeName<'static> {
    /// The type of exactly that name: a short one (`bf16`), or PyTorch's, with or without `torch.` (`torch.half`).
    ///
    /// # Errors
    /// Where the name is none of those that are known, which the message lists.
    pub fn parse(name: &str) -> Result<Self> {
        let known = match name.strip_prefix("torch.") {
            Some(bare) => TYPES.iter().find(|known| known.torch.contains(&bare)),
            None => TYPES.iter().find(|known| known.is_called(name)),
        };
        known.map(|known| Self { name: known.name(), class: known.class }).ok_or_else(|| {
            let shown: String = name.chars().take(60).collect();
            let short: Vec<_> = TYPES.iter().flat_map(|known| known.short).copied().collect();
            let torch: Vec<_> = TYPES.iter().flat_map(|known| known.torch).copied().collect();
            Error::usage(format!(
                "'{shown}' is no data type; there are {}, and with or without torch. {}",
                short.join(", "),
                torch.join(", ")
            ))
        })
    }

    /// The types of a class that have a short name.
    pub(super) fn of_class(class: DtypeClass) -> impl Iterator<Item = &'static str> {
        TYPES.iter().filter(move |known| known.class == class).filter_map(|known| known.short.first().copied())
    }

    /// What PyTorch prints of it, as the tests of classification go by; its own name where PyTorch has none.
    pub(super) fn library_name(self) -> &'static str {
        let known = TYPES.iter().find(|known| known.name() == self.name);
        known.and_then(|known| known.torch.first().copied()).unwrap_or(self.name)
    }
}

impl<'a> DtypeName<'a> {
    /// The type that a tensor library calls so, by what the name holds, as the runtime that documents come from tells it: any name
    /// is of some class. [`DtypeName::parse`] is the reader for everything else.
    pub(super) fn of_library(name: &'a str) -> Self {
        let bare = name.rsplit_once('.').map_or(name, |(_, bare)| bare);
        let known = TYPES.iter().find(|known| known.is_called(bare));
        Self { name: known.map_or(bare, |known| known.name()), class: DtypeClass::of_name(name) }
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

/// Whether the type of a class is that of its result: of products whose operands both have scales, no other tensor comes in two.
pub(super) fn goes_by_result(class: &str) -> bool {
    matches!(class, "matmul_nvfp4_nvfp4" | "matmul_mxfp8")
}

/// The type of a result among the types of what follows A and B; bfloat16 where none is there, as libraries have it.
pub(super) fn result_type<'a>(mut types: impl Iterator<Item = DtypeName<'a>>) -> DtypeName<'a> {
    types.find(|dtype| dtype.class() == DtypeClass::Fp16Bf16).unwrap_or_else(|| Dtype::Bf16.into())
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
    fn classes_are_in_the_order_of_their_labels() {
        for (place, class) in DtypeClass::ALL.into_iter().enumerate() {
            assert_eq!((class as usize, class.label()), (place, DtypeClass::LABELS[place]));
        }
    }

    #[test]
    fn names_of_one_type_are_one_and_kin_are_told_apart() {
        let parse = |name| DtypeName::parse(name).unwrap();
        for names in [
            &["bf16", "bfloat16", "torch.bfloat16"][..],
            &["f16", "fp16", "half", "float16", "torch.half", "torch.float16"],
            &["f32", "fp32", "float", "float32", "torch.float", "torch.float32"],
            &["f64", "torch.double", "torch.float64"],
            &["i16", "short", "torch.short", "torch.int16"],
            &["i32", "int", "torch.int"],
            &["i64", "long", "torch.long"],
            &["u8", "uint8", "torch.uint8"],
        ] {
            for name in names {
                assert_eq!(parse(name), parse(names[0]), "{name}");
            }
        }
        for dtype in Dtype::ALL {
            assert_eq!(parse(dtype.name()), dtype.into());
        }
        let all: Vec<_> = TYPES.iter().map(Known::name).collect();
        for (place, name) in all.iter().enumerate() {
            assert_eq!(parse(name).name(), *name);
            assert!(!all[..place].contains(name), "{name} is two types");
        }
        assert!(parse("f16").class() == parse("bf16").class() && parse("f16") != parse("bf16"));
    }

    #[test]
    fn what_is_no_exact_name_is_refused_with_those_that_are() {
        for unknown in [
            "",
            " ",
            "b16",
            "BF16",
            " bf16",
            "bf16 ",
            "bf 16",
            "torch.",
            "torch",
            "torch.bfloat17",
            "xfloat16y",
            "float16x",
            "torch.bf16",
            "torch.f32",
            "torch.fp8",
            "torch.torch.half",
            "paddle.half",
            "numpy.float32",
            "integer",
            "fp16_bf16",
            "other",
            "float8",
            "torch.float8",
            "bf16,f16",
            "bf16\0",
            "\u{ff42}f16",
        ] {
            let message = DtypeName::parse(unknown).unwrap_err().to_string();
            assert!(
                message.contains("bf16") && message.contains("float8_e4m3fn") && !message.contains('\n'),
                "{message}"
            );
        }
    }

    /// The reader of signatures, which takes any name, agrees on what PyTorch prints.
    #[test]
    fn both_readers_agree_on_what_a_library_prints() {
        for known in &TYPES {
            let Some(printed) = known.torch.first() else { continue };
            let library = format!("torch.{printed}");
            let (exact, of_library) = (DtypeName::parse(&library).unwrap(), DtypeName::of_library(&library));
            assert_eq!(exact, of_library);
            assert_eq!(exact.library_name(), *printed);
        }
        for (name, class) in [("a.float16", DtypeClass::Fp16Bf16), ("x", DtypeClass::Other), ("int7", DtypeClass::Int)]
        {
            assert_eq!(DtypeName::of_library(name).class(), class);
        }
    }
}
