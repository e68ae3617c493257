//! Helion's ahead-of-time heuristics: `_helion_aot_<stem>_cuda_<sm>.py` with `key_<kernel>` and `autotune_<kernel>`
//! (`helion/autotuner/aot_cache.py` of Helion 1.1.0 looks for them).

use super::arguments::{dimensions, first, torch_name};
use super::kernel::Kernel;
use crate::error::{Error, Result};
use crate::model::GpuProfile;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;

/// By name: a file for each file of kernels.
pub(super) fn files(kernels: &[Kernel], profile: &GpuProfile) -> Result<Vec<(String, String)>> {
    let mut of_stem: BTreeMap<&str, Vec<&Kernel>> = BTreeMap::new();
    for kernel in kernels {
        of_stem.entry(&kernel.stem).or_default().push(kernel);
    }
    let compute: String = profile.arch.chars().filter(char::is_ascii_digit).collect();
    let file = |(stem, kernels): (&str, Vec<&Kernel>)| {
        Ok((format!("_helion_aot_{stem}_cuda_sm{compute}.py"), text(&kernels, profile)?))
    };
    of_stem.into_iter().map(file).collect()
}

/// Whoever calls a kernel on a problem that was not measured gets the config of the nearest one: of the same type where there is
/// one, by the logarithms of the dimensions.
const NEAREST: &str = "
def _nearest(known, dims, dtype):
    def distance(entry):
        of_type, of_dims, _ = entry
        return of_type != dtype, sum(abs(math.log2(max(own, 1) / other)) for own, other in zip(dims, of_dims))

    return min(known, key=distance)[2]
";

fn text(kernels: &[&Kernel], profile: &GpuProfile) -> Result<String> {
    let mut out = format!(
        "\"\"\"Configs that kernel_sweep {} measured on {}, for Helion: name this file's folder in HELION_HEURISTIC_DIR.\"\"\"\n\nimport math\n\n{NEAREST}",
        env!("CARGO_PKG_VERSION"),
        profile.device_name,
    );
    for kernel in kernels {
        let name = &kernel.name;
        let dims = dimensions(kernel.family)?;
        let written = |error: std::fmt::Error| Error::failure(error);
        writeln!(
            out,
            "\n\n# The type of the first tensor, {}, and the config's place.",
            kernel.family.dimensions().join(", ")
        )
        .and_then(|()| writeln!(out, "_PROBLEMS_{name} = ["))
        .map_err(written)?;
        for (problem, place) in &kernel.problems {
            let extents: Vec<String> = problem.shape.extents().iter().map(ToString::to_string).collect();
            let dtype = torch_name(problem.dtype);
            writeln!(out, "    (\"{dtype}\", ({},), {place}),", extents.join(", ")).map_err(written)?;
        }
        let first = first(kernel.family);
        write!(
            out,
            "]\n\n\ndef key_{name}(*args):\n    \"\"\"The place of the config for these arguments, which is their key, too.\"\"\"\n    \
             dims = ({},)\n    return _nearest(_PROBLEMS_{name}, dims, str(args[{first}].dtype))\n\n\n\
             def autotune_{name}(*args):\n    \"\"\"The config for these arguments.\"\"\"\n    _C = [\n",
            dims.join(", ")
        )
        .map_err(written)?;
        for config in &kernel.configs {
            writeln!(out, "        {},", python(&Value::Object(config.clone()))).map_err(written)?;
        }
        write!(out, "    ]\n    return _C[key_{name}(*args)]\n").map_err(written)?;
    }
    Ok(out)
}

/// JSON as Python writes it.
fn python(value: &Value) -> String {
    let list = |items: &mut dyn Iterator<Item = String>| items.collect::<Vec<_>>().join(", ");
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Array(items) => format!("[{}]", list(&mut items.iter().map(python))),
        Value::Object(fields) => {
            format!(
                "{{{}}}",
                list(&mut fields.iter().map(|(name, value)| format!(
                    "{}: {}",
                    Value::from(name.as_str()),
                    python(value)
                )))
            )
        }
        // Numbers and texts are written alike in both.
        other => other.to_string(),
    }
}
