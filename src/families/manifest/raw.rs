//! The manifest as it is written: TOML, with the place of whatever can be wrong. Its JSON Schema is made of these types.

#[cfg(feature = "harness")]
use super::schema;
use crate::families::Callable;
use crate::heuristics::{DescribedBin, DescribedGroup};
#[cfg(feature = "harness")]
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use toml::Spanned;

/// An expression over the dimensions, `element_bytes`, knobs, the GPU's figures and the definitions; or a number.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(untagged, expecting = "it must be a whole number or an expression in quotes")]
pub(super) enum RawExpression {
    Number(i64),
    Text(String),
}

impl RawExpression {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// A kernel family: what it computes, on which tensors, by which kernels, and over which configs and problems it is swept.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[cfg_attr(
    feature = "harness",
    schemars(extend("required" = ["family", "tensor", "space"], "allOf" = schema::wholes()))
)]
#[serde(deny_unknown_fields)]
pub(super) struct RawManifest {
    pub(super) family: RawFamily,
    /// The tensors, in any order.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawTensor>", length(min = 1), extend("contains" = schema::an_output())))]
    pub(super) tensor: Vec<Spanned<RawTensor>>,
    /// The plain kernel that outputs are compared with. Not needed where every output has a file.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawReference>"))]
    pub(super) reference: Option<Spanned<RawReference>>,
    /// The kernels: a config runs the first whose `when` holds.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawKernel>", length(min = 1)))]
    pub(super) kernel: Vec<Spanned<RawKernel>>,
    /// What runs its configs in place of kernels: a family that a file of Python names. `sweep --family FILE.py:NAME` writes it.
    pub(super) callable: Option<Callable>,
    /// What a model of the times may look at beside dimensions and knobs.
    #[serde(default)]
    pub(super) model: RawModel,
    /// Problems to sweep: the dimensions by name, `dtype` where it is not the first, and `from` where they are taken.
    #[serde(default, rename = "problem")]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<super::raw_plan::RawProblem>"))]
    _problem: IgnoredAny,
    /// Random problems beside them, drawn from the domain: `problems` and `seed`.
    #[serde(default, rename = "random")]
    #[cfg_attr(feature = "harness", schemars(with = "Option<super::raw_plan::RawRandom>"))]
    _random: IgnoredAny,
    /// Config spaces: `[space.gpu]` for any GPU, or by GPU (`h200`), architecture (`sm_90a`) or kind of `mma`. Each has a `default`,
    /// `axes` that list every knob's values, and any number of `[[space.….exclude]]` with `when` and `reason`.
    #[serde(default, rename = "space")]
    #[cfg_attr(
        feature = "harness",
        schemars(with = "BTreeMap<String, super::raw_plan::RawSpace>", extend("propertyNames" = schema::space_names()))
    )]
    _space: IgnoredAny,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawFamily {
    /// The name on the command line and the class in documents; the file's where there is none.
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>"))]
    pub(super) name: Option<Spanned<String>>,
    /// The names of a problem's dimensions, in order.
    #[cfg_attr(
        feature = "harness",
        schemars(with = "Vec<String>", length(min = 1, max = 8), inner(regex(pattern = schema::NAME)), extend("uniqueItems" = true))
    )]
    pub(super) dims: Spanned<Vec<String>>,
    /// The types of the first tensor that its kernels come in: bf16, f16, f32, f64, fp8, i8, i16, i32, i64 or u8.
    #[cfg_attr(feature = "harness", schemars(schema_with = "schema::dtypes"))]
    pub(super) dtypes: Spanned<Vec<String>>,
    /// The names of its knobs: Helion's (`block_sizes`, `num_warps`, `num_stages`, …) or any others.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<String>", inner(regex(pattern = schema::NAME))))]
    pub(super) knobs: Option<Spanned<Vec<String>>>,
    /// Those of them that no kernel is compiled for, so that changing them costs no compile.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<String>", inner(regex(pattern = schema::NAME))))]
    pub(super) launch_knobs: Option<Spanned<Vec<String>>>,
    /// By knob: in which configs it changes nothing, as an expression of the other knobs; such configs do without it.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "BTreeMap<String, String>"))]
    pub(super) idle: BTreeMap<String, Spanned<String>>,
    /// `name = expression`, for all expressions after it.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<String>", inner(regex(pattern = schema::DEFINITION))))]
    pub(super) define: Vec<Spanned<String>>,
    /// Operations of a problem.
    #[cfg_attr(feature = "harness", schemars(with = "RawExpression"))]
    pub(super) flops: Spanned<RawExpression>,
    /// The fewest bytes a problem moves; those of all its tensors where this is not given.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawExpression>"))]
    pub(super) bytes: Option<Spanned<RawExpression>>,
    /// The fields of the document's buckets.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "BTreeMap<String, DescribedBin>"))]
    pub(super) bins: Option<Spanned<BTreeMap<String, DescribedBin>>>,
    /// The document's fallback groups; one of all problems where there are none.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<DescribedGroup>"))]
    pub(super) groups: Option<Spanned<Vec<DescribedGroup>>>,
    /// What must hold for a config to run on a problem, whatever the kernel.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawRequirement>"))]
    pub(super) require: Vec<Spanned<RawRequirement>>,
    /// What the kernels call types, where it is not the usual name in C: `bf16 = "__nv_bfloat16"`. Macros and entries have it as
    /// `c_type`.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(schema_with = "schema::c_types"))]
    pub(super) c_types: BTreeMap<String, String>,
    /// By dimension: what sizes users may come with, which random problems are drawn from.
    #[cfg_attr(feature = "harness", schemars(with = "BTreeMap<String, RawExtent>"))]
    pub(super) domain: Spanned<BTreeMap<String, RawExtent>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawExtent {
    /// The least.
    #[cfg_attr(feature = "harness", schemars(range(min = 1)))]
    pub(super) least: u64,
    /// The largest.
    #[cfg_attr(feature = "harness", schemars(range(min = 1)))]
    pub(super) most: u64,
    /// What it is a multiple of in three draws of four; 1 where this is not given.
    #[serde(default = "one")]
    #[cfg_attr(feature = "harness", schemars(range(min = 1)))]
    pub(super) multiple: u64,
}

const fn one() -> u64 {
    1
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawRequirement {
    /// The condition.
    pub(super) holds: String,
    /// Why, in a few words.
    pub(super) reason: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// The kernel reads it.
    In,
    /// The kernel writes it.
    Out,
    /// The kernel reads it and writes it in place.
    Inout,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[cfg_attr(feature = "harness", schemars(extend("allOf" = schema::by_role())))]
#[serde(deny_unknown_fields)]
pub(super) struct RawTensor {
    /// What arguments call it.
    pub(super) name: String,
    /// Whether the kernel reads it, writes it, or both.
    pub(super) role: Role,
    /// The type of its elements, or `dtype` for the problem's.
    #[cfg_attr(feature = "harness", schemars(schema_with = "schema::element"))]
    pub(super) dtype: String,
    /// Its extents, slowest first.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawExpression>", length(max = 8)))]
    pub(super) shape: Vec<Spanned<RawExpression>>,
    /// What it is filled with: `uniform(m)`, in [-m, m); `whole(a, b)`, whole numbers of that range; `wide(a, b)`, of either sign with
    /// exponents of two from a to b; `landmarks(a, b)`, the same, but a row's last column and those on either side of the multiples of
    /// 64 larger than all others by four powers of two; `logits(m)`; `extremes`, of integers: one in eight is the least or the largest;
    /// or `bits`, the usual for integers. For floats the usual is `uniform(1)`.
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>", regex(pattern = schema::FILL)))]
    pub(super) fill: Option<Spanned<String>>,
    /// What it is filled with beside that, for checking alone.
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>", regex(pattern = schema::FILL)))]
    pub(super) awkward: Option<Spanned<String>>,
    /// A file with its contents in their place, which may have `{expressions}` in its name.
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>"))]
    pub(super) file: Option<Spanned<String>>,
    /// The alignment that its address has and no higher, in bytes: a power of two up to 256, which is the usual.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawExpression>"))]
    pub(super) alignment: Option<Spanned<RawExpression>>,
    /// Of an output: by how much an element may differ from the reference beside its own rounding. Without it the reference kernel
    /// takes `allowed(name)`; integers must be equal.
    pub(super) tolerance: Option<RawTolerance>,
    /// Of an output: a file with what is right, in place of the reference kernel; f32 for floats, else the output's type.
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>"))]
    pub(super) reference: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawTolerance {
    /// As a share of the reference.
    #[serde(default)]
    pub(super) relative: f32,
    /// In any case.
    #[serde(default)]
    pub(super) absolute: f32,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawReference {
    /// The file, beside the manifest: CUDA C++. It writes outputs of floats in f32 (of f64 in f64).
    #[cfg_attr(feature = "harness", schemars(with = "String", regex(pattern = schema::KERNEL_FILE)))]
    pub(super) source: Spanned<String>,
    /// Folders that includes are looked for in, beside the file's own.
    #[serde(default)]
    pub(super) include: Vec<String>,
    /// Options of NVRTC.
    #[serde(default)]
    pub(super) options: Vec<String>,
    /// The function: an `extern "C"` one by its name, any other by an expression of C++.
    #[cfg_attr(feature = "harness", schemars(with = "String"))]
    pub(super) entry: Spanned<String>,
    /// `NAME = value`, in order; no knob has a say.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<String>", inner(regex(pattern = schema::MACRO))))]
    pub(super) macros: Vec<Spanned<String>>,
    /// Blocks along x, y, z.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawExpression>", length(min = 1, max = 3)))]
    pub(super) grid: Vec<Spanned<RawExpression>>,
    /// Threads of a block along x, y, z.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawExpression>", length(min = 1, max = 3)))]
    pub(super) threads: Vec<Spanned<RawExpression>>,
    /// Dynamic shared memory in bytes.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawExpression>"))]
    pub(super) smem: Option<Spanned<RawExpression>>,
    /// The arguments in order, as a kernel's, and `allowed(name)` for what an output may differ by, in bf16.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawArg>"))]
    pub(super) args: Vec<Spanned<RawArg>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawKernel {
    /// Which configs run it, by their knobs; all that are left where this is not given.
    #[cfg_attr(feature = "harness", schemars(with = "Option<String>"))]
    pub(super) when: Option<Spanned<String>>,
    /// The file, beside the manifest: `.cu`, `.ptx` or `.cubin`. It may have `{expressions}` over knobs in its name. A `.cu` whose registers
    /// run out is left out of a sweep. Of `.ptx` and `.cubin` the driver tells local memory alone, which may be arrays by design: that is
    /// said, and they are measured all the same.
    #[cfg_attr(feature = "harness", schemars(with = "String", regex(pattern = schema::KERNEL_FILE)))]
    pub(super) source: Spanned<String>,
    /// Folders that includes are looked for in, beside the file's own.
    #[serde(default)]
    pub(super) include: Vec<String>,
    /// Options of NVRTC.
    #[serde(default)]
    pub(super) options: Vec<String>,
    /// The function: by its name, or of CUDA C++ by an expression such as `scale<{unroll}, {c_type}>`.
    #[cfg_attr(feature = "harness", schemars(with = "String"))]
    pub(super) entry: Spanned<String>,
    /// `NAME = value`, in order: an expression, `c_type`, or a knob that holds a word.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<String>", inner(regex(pattern = schema::MACRO))))]
    pub(super) macros: Vec<Spanned<String>>,
    /// Blocks along x, y, z.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawExpression>", length(min = 1, max = 3)))]
    pub(super) grid: Vec<Spanned<RawExpression>>,
    /// Threads of a block along x, y, z.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawExpression>", length(min = 1, max = 3)))]
    pub(super) threads: Vec<Spanned<RawExpression>>,
    /// Blocks of a cluster: along x, or a list along x, y, z. More than one block needs a GPU with clusters, of `sm_90` or later.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawAxes>"))]
    pub(super) cluster: Option<Spanned<RawAxes>>,
    /// Dynamic shared memory in bytes.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawExpression>"))]
    pub(super) smem: Option<Spanned<RawExpression>>,
    /// Bytes behind the argument `scratch`, whose contents are undefined.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawExpression>"))]
    pub(super) scratch: Option<Spanned<RawExpression>>,
    /// 32-bit words behind the argument `counters`, which are zero at launch and which the kernel leaves zero.
    #[cfg_attr(feature = "harness", schemars(with = "Option<RawExpression>"))]
    pub(super) counters: Option<Spanned<RawExpression>>,
    /// The arguments in order: a tensor's name, `null`, `scratch`, `counters`, or a scalar such as `{ i32 = "cols" }`.
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawArg>"))]
    pub(super) args: Vec<Spanned<RawArg>>,
    /// What must hold for its configs to run on a problem.
    #[serde(default)]
    #[cfg_attr(feature = "harness", schemars(with = "Vec<RawRequirement>"))]
    pub(super) require: Vec<Spanned<RawRequirement>>,
}

/// One extent, or up to three.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(untagged, expecting = "it must be a whole number, an expression in quotes, or a list of up to three")]
pub(super) enum RawAxes {
    /// Along x.
    One(RawExpression),
    /// Along x, y, z.
    List(#[cfg_attr(feature = "harness", schemars(length(min = 1, max = 3)))] Vec<RawExpression>),
}

/// An argument.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(
    untagged,
    expecting = "an argument must be a tensor's name, null, scratch, counters, or a scalar of i32, i64, f32 or f64 such as { i32 = \"n\" }"
)]
pub(super) enum RawArg {
    /// A tensor by its name, `null`, `scratch`, `counters`, or of a reference `allowed(name)`.
    Pointer(String),
    /// A scalar by its type and value.
    Scalar(RawScalar),
}

#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum RawScalar {
    /// 32-bit integer.
    I32(RawExpression),
    /// 64-bit integer.
    I64(RawExpression),
    /// 32-bit float.
    F32(RawNumber),
    /// 64-bit float.
    F64(RawNumber),
}

/// A float, or an expression whose value becomes one.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(untagged, expecting = "it must be a number with a point, or an expression in quotes")]
pub(super) enum RawNumber {
    Float(f64),
    Text(String),
}

/// What a model of the times may look at; all texts but names are expressions over dimensions, `dtype_bytes`, knobs and the GPU's
/// figures.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "harness", derive(JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    /// Bytes of a row of each operand, whose alignment decides how it can be copied.
    pub(super) rows: BTreeMap<String, String>,
    /// Programs that there are however a config tiles.
    pub(super) instances: Option<String>,
    /// By dimension: the extent of it that a program has.
    pub(super) tiles: BTreeMap<String, String>,
    /// By dimension: the extent of it that a program takes in one step.
    pub(super) steps: BTreeMap<String, String>,
    /// Programs that share the steps of one tile.
    pub(super) parts: Option<String>,
    /// Bytes that a program loads in one step.
    pub(super) step_bytes: Option<String>,
    /// Programs that a multiprocessor holds at once.
    pub(super) resident: Option<String>,
    /// `name = expression`, for the expressions after it.
    pub(super) definitions: Vec<String>,
    /// What else the times may depend on.
    pub(super) features: Vec<String>,
    /// The sets of dimensions by which problems are kin, the closest first; each dimension alone where this is not given.
    pub(super) kin: Vec<Vec<String>>,
    /// Registers of a thread, as an estimate before the compiler tells; an expression as the kernels'.
    pub(super) registers: Option<RawExpression>,
    /// Bytes that a program loads of one tile, where there is no time yet to order configs by; an expression as the kernels'.
    pub(super) stage_bytes: Option<String>,
}
