//! The parts of the manifest's JSON Schema that no Rust type says: which words there are, and what goes together.

use crate::model::{Config, Dtype, GpuProfile, Mma, PidType};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// A name of a dimension, a knob or a tensor that expressions may use.
pub(super) const NAME: &str = "^[A-Za-z][A-Za-z0-9_]*$";
/// A kernel's file.
pub(super) const KERNEL_FILE: &str = r"\.(cu|ptx|cubin)$";
/// `name = expression`.
pub(super) const DEFINITION: &str = r"^\s*[A-Za-z][A-Za-z0-9_]*\s*=[^=]";
/// `NAME = value`.
pub(super) const MACRO: &str = r"^\s*[A-Za-z_][A-Za-z0-9_]*\s*=";
/// What a tensor is filled with.
pub(super) const FILL: &str = r"^\s*((uniform|logits|whole|wide|landmarks)\s*\(.*\)|bits|extremes)\s*$";

fn type_names() -> Vec<&'static str> {
    Dtype::ALL.map(Dtype::name).to_vec()
}

/// The types that a family's kernels come in.
pub(super) fn dtypes(_: &mut SchemaGenerator) -> Schema {
    let names = type_names();
    json_schema!({"type": "array", "minItems": 1, "items": {"enum": names}})
}

/// What kernels call types.
pub(super) fn c_types(_: &mut SchemaGenerator) -> Schema {
    let names = type_names();
    json_schema!({"type": "object", "propertyNames": {"enum": names}, "additionalProperties": {"type": "string"}})
}

/// The type of a tensor's elements.
pub(super) fn element(_: &mut SchemaGenerator) -> Schema {
    let names = [&["dtype"][..], &type_names()].concat();
    json_schema!({"enum": names})
}

/// The type of a problem.
pub(super) fn dtype(_: &mut SchemaGenerator) -> Schema {
    let names = type_names();
    json_schema!({"enum": names})
}

/// The names that spaces have.
pub(super) fn space_names() -> Value {
    let gpus = GpuProfile::known().into_iter().map(|profile| profile.name);
    let kinds = Mma::ALL.into_iter().map(|mma| mma.name().to_owned());
    let names: Vec<String> =
        [GpuProfile::CPU.to_owned(), "gpu".to_owned()].into_iter().chain(gpus).chain(kinds).collect();
    json!({"anyOf": [{"enum": names}, {"pattern": "^sm_"}]})
}

/// The kinds of mma.
pub(super) fn mma(_: &mut SchemaGenerator) -> Schema {
    let names = Mma::ALL.map(Mma::name);
    json_schema!({"enum": names})
}

/// A knob's value. The empty word leaves a knob out.
fn value_of(knob: &str) -> Value {
    let word = |names: &[&str]| {
        let names = [&[""][..], names].concat();
        json!({"enum": names})
    };
    match knob {
        "block_sizes" | "l2_groupings" => json!({"type": "array", "items": {"type": "integer", "minimum": 1}}),
        "reduction_loops" => {
            json!({"type": "array", "items": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "whole"}]}})
        }
        "mma" => word(&Mma::ALL.map(Mma::name)),
        "pid_type" => word(&PidType::ALL.map(PidType::name)),
        _ => json!({"anyOf": [{"type": "integer", "minimum": 0}, {"const": ""}]}),
    }
}

/// A knob of the family's own.
fn own_value() -> Value {
    let items = json!({"type": ["integer", "boolean", "string", "array"]});
    json!({"type": ["integer", "boolean", "string", "array"], "items": items})
}

/// Knobs, each with what `of` makes of its value's schema.
fn knobs(of: impl Fn(&str, Value) -> Value) -> Schema {
    let known: Map<String, Value> =
        Config::FIELDS.into_iter().map(|knob| (knob.to_owned(), of(knob, value_of(knob)))).collect();
    let others = of("", own_value());
    json_schema!({
        "type": "object",
        "properties": known,
        "propertyNames": {"pattern": NAME},
        "additionalProperties": others,
    })
}

fn some_of(values: &Value) -> Value {
    json!({"type": "array", "minItems": 1, "items": values})
}

/// A config: a value of each knob.
pub(super) fn config(_: &mut SchemaGenerator) -> Schema {
    knobs(|_, value| value)
}

/// Configs.
pub(super) fn configs(generator: &mut SchemaGenerator) -> Schema {
    let config = config(generator);
    json_schema!({"type": "array", "items": config})
}

/// Axes: the values of each knob; of `block_sizes` those of each position.
pub(super) fn axes(_: &mut SchemaGenerator) -> Schema {
    knobs(|knob, value| match knob {
        "block_sizes" => some_of(&some_of(&json!({"type": "integer", "minimum": 1}))),
        _ => some_of(&value),
    })
}

/// An exclusion: an expression, or the values of some knobs; in `block_sizes` `"*"` stands for any.
pub(super) fn when(_: &mut SchemaGenerator) -> Schema {
    let pattern = knobs(|knob, value| match knob {
        "block_sizes" => {
            let size = json!({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "*"}]});
            some_of(&json!({"type": "array", "items": size}))
        }
        _ => some_of(&value),
    });
    json_schema!({"anyOf": [{"type": "string"}, pattern]})
}

/// A problem's extents, beside its type and where it is taken from.
pub(super) fn extents(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}})
}

/// Kernels, or what calls one; problems that are written or drawn, or spaces that bring their own; and something that says what is right
/// of each output.
pub(super) fn wholes() -> Value {
    let is_given = json!({"anyOf": [{"properties": {"role": {"const": "in"}}}, {"required": ["reference"]}]});
    json!([
        {"oneOf": [{"required": ["kernel"]}, {"required": ["callable"]}]},
        {"anyOf": [
            {"required": ["problem"]},
            {"required": ["random"]},
            {"properties": {"space": {"additionalProperties": {"required": ["problem"]}}}},
        ]},
        {"anyOf": [
            {"required": ["reference"]},
            {"required": ["callable"]},
            {"properties": {"tensor": {"items": is_given}}},
        ]},
    ])
}

/// What a tensor has by its role: one that is read alone no reference, one that is written alone no contents.
pub(super) fn by_role() -> Value {
    let none_of = |fields: &[&str]| {
        let absent: Map<String, Value> = fields.iter().map(|field| ((*field).to_owned(), Value::Bool(false))).collect();
        json!({"properties": absent})
    };
    let of_role = |role: &str| json!({"required": ["role"], "properties": {"role": {"const": role}}});
    json!([
        {"if": of_role("in"), "then": none_of(&["tolerance", "reference"])},
        {"if": of_role("out"), "then": none_of(&["fill", "awkward", "file"])},
    ])
}

/// That some tensor is an output.
pub(super) fn an_output() -> Value {
    json!({"properties": {"role": {"enum": ["out", "inout"]}}})
}
