//! What fitting a model needs to know of a kernel: which knob tiles which dimension, and little more.

use crate::model::{Dtype, Family, GpuProfile, Problem};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A kernel, described for a model of its times. All texts but names are expressions of
/// [`heuristics`](crate::heuristics::EXPRESSION_FUNCTIONS), over the dimensions, `dtype_bytes`, the constants and knobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The dimensions' names, in the problem's order.
    pub dims: Vec<String>,
    /// The types it comes in, with the bytes of an element.
    pub dtypes: BTreeMap<String, i64>,
    /// What is known of the GPU: at least `multiprocessors`.
    pub constants: BTreeMap<String, i64>,
    /// The knobs' names.
    pub knobs: Vec<String>,
    /// What is known of a config beside its knobs: `registers`.
    #[serde(default)]
    pub config_constants: Vec<String>,
    /// The fewest bytes that the problem moves.
    pub bytes: String,
    /// The operations that it does.
    pub flops: String,
    /// Bytes of a row of each operand, by the operand's name: their alignment decides how they can be copied.
    #[serde(default)]
    pub rows: BTreeMap<String, String>,
    /// Programs that there are however a config tiles: heads of a batch, say.
    #[serde(default)]
    pub instances: Option<String>,
    /// By dimension: the extent of it that a program has. There are programs for all of it.
    #[serde(default)]
    pub tiles: BTreeMap<String, String>,
    /// By dimension: the extent of it that a program takes in one step. It goes through all of it.
    #[serde(default)]
    pub steps: BTreeMap<String, String>,
    /// Programs that share the steps of one tile.
    #[serde(default)]
    pub parts: Option<String>,
    /// Bytes that a program loads in one step.
    #[serde(default)]
    pub step_bytes: Option<String>,
    /// Programs that a multiprocessor holds at once.
    #[serde(default)]
    pub resident: Option<String>,
    /// `name = expression`, for the expressions after it; may also use `tile_`, `tiles_`, `step_` and `steps_` with a
    /// dimension's name.
    #[serde(default)]
    pub definitions: Vec<String>,
    /// What else the times may depend on.
    #[serde(default)]
    pub features: Vec<String>,
    /// Where a config may run.
    #[serde(default)]
    pub legal: Vec<String>,
    /// Where a config is worth trying.
    #[serde(default)]
    pub tried: Vec<String>,
    /// The sets of dimensions by which problems are kin, the closest first: `[["n", "k"]]`. Kin are left out of fitting
    /// together, as far as that leaves enough to be fitted to.
    pub kin: Vec<Vec<String>>,
}

/// Bytes of the widest copy.
const WIDEST_COPY: u32 = 16;
/// Warps that copy what the copy engine of Hopper does not take: a whole group.
pub(super) const LOADING_WARPS: u32 = 4;
/// Bytes of a line of the cache: beyond it, alignment changes nothing.
const CACHE_LINE: u32 = 128;

impl Description {
    /// The description of a family that ships, but for where its configs may run: see [`Legality`](super::Legality). With
    /// `variants` that of all its problems, else that of the plain ones.
    pub fn of(family: Family, profile: &GpuProfile, variants: bool) -> Self {
        let of_variants = super::spec(family).description_of_variants().filter(|_| variants);
        let has_variants = of_variants.is_some();
        let described = of_variants.unwrap_or_else(|| super::spec(family).description());
        let dims = family.all_dimensions().take(if has_variants { usize::MAX } else { family.dimensions().len() });
        let constants = [
            ("multiprocessors", i64::from(profile.multiprocessors)),
            ("registers_per_multiprocessor", i64::from(profile.registers_per_multiprocessor)),
            ("smem_per_block", profile.smem_per_block.0 as i64),
            ("smem_per_multiprocessor", profile.smem_per_multiprocessor.0 as i64),
            ("threads_per_multiprocessor", i64::from(profile.threads_per_multiprocessor)),
        ];
        Self {
            dims: dims.map(str::to_owned).collect(),
            constants: constants.map(|(name, value)| (name.to_owned(), value)).into(),
            ..described
        }
    }

    /// A problem's dimensions as these are.
    pub fn dims_of(&self, problem: &Problem) -> Vec<i64> {
        problem.shape.extents().iter().take(self.dims.len()).map(|extent| *extent as i64).collect()
    }

    /// Whether all operands' rows are aligned for the widest copy.
    pub fn aligned(&self) -> String {
        let rows: Vec<_> = self.rows.values().map(|bytes| format!("({bytes}) % {WIDEST_COPY} == 0")).collect();
        if rows.is_empty() { "1".to_owned() } else { rows.join(" && ") }
    }

    /// What the features are made of, in order: tiles, steps and programs.
    pub fn all_definitions(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (dim, extent) in &self.tiles {
            all.push(format!("tile_{dim} = {extent}"));
            all.push(format!("tiles_{dim} = ceil_div({dim}, tile_{dim})"));
        }
        for (dim, extent) in &self.steps {
            all.push(format!("step_{dim} = {extent}"));
            all.push(format!("steps_{dim} = ceil_div({dim}, step_{dim})"));
        }
        all.extend(self.definitions.iter().cloned());
        let product = |prefix: &str, dims: &BTreeMap<String, String>| {
            dims.keys().fold(String::new(), |product, dim| format!("{product} * {prefix}_{dim}"))
        };
        let instances = self.instances.as_deref().unwrap_or("1");
        let parts = self.parts.as_deref().unwrap_or("1");
        all.push(format!("parts = {parts}"));
        all.push(format!("programs = ({instances}) * parts{}", product("tiles", &self.tiles)));
        all.push("rounds = ceil_div(programs, multiprocessors)".to_owned());
        all.push(format!("steps = ceil_div(1{}, parts)", product("steps", &self.steps)));
        all.push(format!("work = steps{}{}", product("tile", &self.tiles), product("step", &self.steps)));
        if let Some(resident) = &self.resident {
            all.push(format!("resident = {resident}"));
            all.push("waves = ceil_div(programs, multiprocessors * resident)".to_owned());
        }
        if let Some(bytes) = &self.step_bytes {
            all.push(format!("step_bytes = {bytes}"));
        }
        all
    }

    /// What a model looks at, apart from the knobs.
    pub fn all_features(&self) -> Vec<String> {
        let mut all = self.dims.clone();
        // Types of as many bytes take as long.
        if self.dtypes.values().collect::<BTreeSet<_>>().len() > 1 {
            all.push("dtype_bytes".to_owned());
        }
        all.push("floor_ns".to_owned());
        all.push(format!("per_mille({}, {})", self.flops, self.bytes));
        all.extend(self.rows.values().map(|bytes| format!("min(align({bytes}), {CACHE_LINE})")));
        for dim in self.tiles.keys() {
            all.push(format!("tiles_{dim}"));
            all.push(format!("per_mille({dim}, tiles_{dim} * tile_{dim})"));
        }
        for dim in self.steps.keys() {
            all.push(format!("per_mille({dim}, steps_{dim} * step_{dim})"));
        }
        let volume =
            self.tiles.keys().chain(self.steps.keys()).fold("1".to_owned(), |all, dim| format!("{all} * {dim}"));
        let instances = self.instances.as_deref().unwrap_or("1");
        all.extend([
            "programs".to_owned(),
            "per_mille(programs, multiprocessors)".to_owned(),
            "per_mille(programs, rounds * multiprocessors)".to_owned(),
            "work".to_owned(),
            format!("per_mille(rounds * multiprocessors * work, ({instances}) * {volume})"),
        ]);
        if !self.steps.is_empty() {
            all.extend(["steps".to_owned(), "rounds * steps".to_owned()]);
        }
        if self.resident.is_some() {
            all.push("resident".to_owned());
            all.push("per_mille(programs, waves * multiprocessors * resident)".to_owned());
        }
        if self.step_bytes.is_some() {
            all.push("step_bytes".to_owned());
            all.push(format!("per_mille(programs * steps * step_bytes, {})", self.bytes));
        }
        all.extend(self.features.iter().cloned());
        all.extend(self.config_constants.iter().cloned());
        all
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn named<const N: usize>(texts: [(&str, &str); N]) -> BTreeMap<String, String> {
    texts.map(|(name, text)| (name.to_owned(), text.to_owned())).into()
}

fn dtypes(dtypes: &[Dtype]) -> BTreeMap<String, i64> {
    dtypes.iter().map(|dtype| (dtype.name().to_owned(), dtype.size_bytes() as i64)).collect()
}

/// A product whose weights take `weight_bytes` an element, which holds `packed` of them along k, and their scales as many bytes as
/// an expression says.
pub(super) fn gemm(weight_bytes: u64, packed: u64, scales: &str) -> Description {
    let step_bytes = format!("2 * tile_m * step_k + {weight_bytes} * block_sizes[2] * tile_n");
    // Copies of a step's tile that threads make themselves.
    let copies = |tile: &str, line: &str| {
        let beside_engine = copies_beside_engine(tile, line);
        format!("if(by_threads, {tile} / min({line}, {WIDEST_COPY}), {beside_engine})")
    };
    let a_copies = copies("2 * tile_m * step_k", "a_line");
    let b_copies = copies(&format!("{weight_bytes} * block_sizes[2] * tile_n"), "b_line");
    let realigns = |operand: &str| format!("given(realigned) && (realigned == \"{operand}\" || realigned == \"ab\")");
    // Bytes that rows begin at multiples of, as the kernel finds them.
    let line = |operand: &str, row: &str| {
        format!("{operand}_line = if(realigns_{operand}, {CACHE_LINE}, min(align({row}), {CACHE_LINE}))")
    };
    Description {
        dtypes: dtypes(&[Dtype::Bf16, Dtype::F16]),
        knobs: realigning(),
        bytes: format!("2 * m * k + {weight_bytes} * ceil_div(k, {packed}) * n + 2 * m * n{scales}"),
        rows: named([("a", "2 * k"), ("b", &format!("{weight_bytes} * n")), ("c", "2 * n")]),
        steps: named([("k", &format!("{packed} * block_sizes[2]"))]),
        definitions: texts(&[
            &format!("smem_bytes = num_stages * ({step_bytes})"),
            "threads = 32 * num_warps",
            "by_threads = given(mma) && mma == \"mma_sync\"",
            &format!("realigns_a = {}", realigns("a")),
            &format!("realigns_b = {}", realigns("b")),
            &line("a", "2 * k"),
            &line("b", &format!("{weight_bytes} * n")),
            &format!(
                "realigned_bytes = if(realigns_a, 4 * m * k, 0) + if(realigns_b, {} * ceil_div(k, {packed}) * n, 0)",
                2 * weight_bytes
            ),
            &format!("a_copies = {a_copies}"),
            &format!("b_copies = {b_copies}"),
            &format!("step_copies = (a_copies + b_copies) / if(by_threads, num_warps, {LOADING_WARPS})"),
        ]),
        step_bytes: Some(step_bytes),
        features: texts(&[
            "smem_bytes",
            "tile_m * tile_n",
            "tile_m * tile_n / num_warps",
            "a_line",
            "b_line",
            "a_copies",
            "b_copies",
            "realigned_bytes",
            "per_mille(rounds * steps * step_copies, floor_ns)",
        ]),
        ..product()
    }
}

/// Copies of a tile of so many bytes that warps make beside the copy engine, which takes rows that are aligned for it; to shift 16 bytes
/// into place takes about as long as to copy as many in words of four.
fn copies_beside_engine(tile: &str, line: &str) -> String {
    format!("if({line} < {WIDEST_COPY}, ({tile}) / max({line}, 4), 0)")
}

/// The knobs of products whose operands may be copied to aligned rows.
fn realigning() -> Vec<String> {
    let mut knobs = product().knobs;
    knobs.push("realigned".to_owned());
    knobs.sort();
    knobs
}

/// What all products have in common.
fn product() -> Description {
    Description {
        knobs: texts(&[
            "block_sizes",
            "l2_groupings",
            "mma",
            "num_sm_multiplier",
            "num_stages",
            "num_warps",
            "pid_type",
            "split_k",
        ]),
        flops: "2 * m * n * k".to_owned(),
        tiles: named([("m", "block_sizes[0]"), ("n", "block_sizes[1]")]),
        parts: Some("split_k".to_owned()),
        resident: Some(
            "max(1, min(smem_per_multiprocessor / smem_bytes, threads_per_multiprocessor / threads))".to_owned(),
        ),
        kin: vec![texts(&["n", "k"]), texts(&["m", "n"]), texts(&["m", "k"])],
        ..Description::default()
    }
}

/// A product of E4M3 numbers, which the copy engine loads; with `variants` of whatever scaling, else of a scale a tensor.
pub(super) fn gemm_fp8(variants: bool) -> Description {
    const SCALES: &str =
        "if(scale_block == 0, 2, if(scale_block == 1, m + n, (m + ceil_div(n, 128)) * ceil_div(k, 128)))";
    let scales = if variants { SCALES } else { "2" };
    let step_bytes = "block_sizes[2] * (tile_m + tile_n)";
    Description {
        dtypes: dtypes(&[Dtype::Fp8]),
        knobs: realigning(),
        bytes: format!("m * k + k * n + 2 * m * n + 4 * {scales}"),
        rows: named([("a", "k"), ("c", "2 * n")]),
        steps: named([("k", "block_sizes[2]")]),
        definitions: texts(&[
            &format!("smem_bytes = num_stages * ({step_bytes})"),
            "threads = 32 * num_warps",
            "realigns = given(realigned)",
            // Bytes that rows of A and B begin at multiples of, as the kernel finds them.
            &format!("line = if(realigns, {CACHE_LINE}, min(align(k), {CACHE_LINE}))"),
            "realigned_bytes = if(realigns, 2 * (m + n) * k, 0)",
            &format!("step_copies = {} / {LOADING_WARPS}", copies_beside_engine(step_bytes, "line")),
        ]),
        step_bytes: Some(step_bytes.to_owned()),
        features: texts(&[
            "smem_bytes",
            "tile_m * tile_n",
            "tile_m * tile_n / num_warps",
            "line",
            "step_copies",
            "realigned_bytes",
            "per_mille(rounds * steps * step_copies, floor_ns)",
        ]),
        ..product()
    }
}

/// A product of operands that both have `packed` numbers in a byte, and with scales take as many bytes as an expression says.
pub(super) fn block_scaled(packed: u64, scales: &str) -> Description {
    let step_bytes = "block_sizes[2] * (tile_m + tile_n)";
    let row = format!("k / {packed}");
    // Threads make the copies themselves where no engine does.
    let copies = format!("{step_bytes} / min(align({row}), {WIDEST_COPY})");
    Description {
        dtypes: dtypes(&[Dtype::Bf16, Dtype::F16]),
        bytes: format!("(m + n) * ({row}) + 2 * m * n + {scales}"),
        rows: named([("a", &row), ("c", "2 * n")]),
        steps: named([("k", &format!("{packed} * block_sizes[2]"))]),
        definitions: texts(&[
            &format!("smem_bytes = num_stages * ({step_bytes})"),
            "threads = 32 * if(given(num_warps), num_warps, 6)",
            &format!("step_copies = if(given(mma) && mma == \"mma_sync\", {copies}, 0)"),
        ]),
        step_bytes: Some(step_bytes.to_owned()),
        features: texts(&[
            "smem_bytes",
            "tile_m * tile_n",
            "step_copies",
            "per_mille(rounds * steps * step_copies, floor_ns)",
        ]),
        ..product()
    }
}

pub(super) fn attention() -> Description {
    Description {
        dtypes: dtypes(&[Dtype::Bf16, Dtype::F16]),
        knobs: texts(&[
            "block_sizes",
            "mma",
            "num_sm_multiplier",
            "num_stages",
            "num_warps",
            "pid_type",
            "prefetch",
            "split_k",
        ]),
        bytes: "4 * batch * heads * (q_seq + kv_seq) * head_dim".to_owned(),
        flops: "4 * batch * heads * q_seq * kv_seq * head_dim".to_owned(),
        rows: named([("q", "2 * head_dim")]),
        instances: Some("batch * heads".to_owned()),
        tiles: named([("q_seq", "block_sizes[1]")]),
        steps: named([("kv_seq", "block_sizes[2]")]),
        parts: Some("split_k".to_owned()),
        step_bytes: Some("4 * block_sizes[2] * head_dim".to_owned()),
        definitions: texts(&[
            "query_buffers = if(given(prefetch), 2, 1)",
            "smem_bytes = 2 * head_dim * (query_buffers * block_sizes[1] + 2 * num_stages * block_sizes[2])",
        ]),
        resident: Some("max(1, smem_per_multiprocessor / smem_bytes)".to_owned()),
        features: texts(&["batch * heads", "smem_bytes", "block_sizes[1] / num_warps", "given(prefetch)"]),
        kin: vec![texts(&["q_seq", "kv_seq"]), texts(&["batch", "heads"])],
        ..Description::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::heuristics::{FittedModel, Floor, MODEL_FORM, Model, ModelConfig};
    use serde_json::json;

    /// A model with a description's expressions, and no trees.
    fn model(description: &Description) -> Model {
        let floor = Floor {
            bytes: description.bytes.clone(),
            flops: description.flops.clone(),
            launch_us: 1.0,
            bytes_per_us: 1.0,
            flops_per_us: 1.0,
        };
        Model::new(FittedModel {
            form: MODEL_FORM.to_owned(),
            dims: description.dims.clone(),
            dtypes: description.dtypes.clone(),
            constants: description.constants.clone(),
            knobs: description.knobs.clone(),
            definitions: description.all_definitions(),
            features: description.all_features(),
            legal: description.legal.clone(),
            aligned: description.aligned(),
            floor,
            ..FittedModel::default()
        })
        .unwrap()
    }

    #[test]
    fn a_families_work_is_what_its_spec_says() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        for family in Family::ALL {
            let description = Description::of(family, &h200, false);
            let model = model(&description);
            let dims = [6, 10, 96, 34, 72][..description.dims.len()].to_vec();
            let pairs: Vec<_> = description.dims.iter().map(String::as_str).zip(dims.iter().copied()).collect();
            for dtype in Dtype::ALL.into_iter().filter(|dtype| description.dtypes.contains_key(dtype.name())) {
                let problem = crate::model::Problem::new(family, &pairs, dtype).unwrap();
                let spec = crate::families::spec(family);
                let [bytes, flops] = model.work(&dims, dtype.name()).unwrap();
                assert_eq!((bytes as u64, flops as f64), (spec.bytes(&problem).0, spec.flops(&problem)), "{problem}");
                // A model that knows variants says the same of the plain problem, and what it says of one.
                let of_variants = Description::of(family, &h200, true);
                let all_variants: &[&[i64]] = match family {
                    Family::Attention => &[&[10, 0, 0], &[5, 0, 0], &[2, 1, 0], &[10, 1, 7]],
                    Family::MatmulInt4Group => &[&[128, 0], &[32, 0], &[64, 1], &[0, 0], &[0, 1]],
                    Family::MatmulFp8 => &[&[0], &[1], &[128]],
                    _ => &[&[]],
                };
                for &variant in all_variants {
                    assert_eq!(variant.len(), family.variants().len(), "{family}");
                    let extents = [&dims[..], variant].concat();
                    let pairs: Vec<_> = family.all_dimensions().zip(extents.iter().copied()).collect();
                    let problem = crate::model::Problem::new(family, &pairs, dtype).unwrap();
                    let dims = of_variants.dims_of(&problem);
                    let [bytes, flops] = self::model(&of_variants).work(&dims, dtype.name()).unwrap();
                    let expected = (spec.bytes(&problem).0, spec.flops(&problem));
                    assert_eq!((bytes as u64, flops as f64), expected, "{problem}");
                }
            }
        }
    }

    #[test]
    fn alignment_is_that_of_every_operands_rows() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let aligned = |family, dims: &[i64]| model(&Description::of(family, &h200, false)).is_aligned(dims, "bf16");
        assert!(aligned(Family::Matmul, &[3, 4096, 64]) && !aligned(Family::Matmul, &[3, 4100, 64]));
        assert!(aligned(Family::MatmulFp4, &[3, 4096, 64]) && !aligned(Family::MatmulFp4, &[3, 4104, 64]));
        assert!(!aligned(Family::MatmulFp4, &[3, 4096, 66]) && !aligned(Family::RowSoftmax, &[8, 1001]));
    }

    #[test]
    fn every_feature_of_a_complete_config_has_a_value() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let config = json!({"block_sizes": [1, 64, 64], "l2_groupings": [1], "mma": "wgmma", "num_sm_multiplier": 1,
            "num_stages": 4, "num_warps": 4, "pid_type": "flat", "reduction_loops": [null], "split_k": 2});
        let config = ModelConfig { template: config.as_object().cloned().unwrap(), ..ModelConfig::default() };
        for family in Family::ALL {
            let model = model(&Description::of(family, &h200, false));
            let variants = self::model(&Description::of(family, &h200, true));
            for model in [model, variants] {
                let candidates = model.candidates(std::slice::from_ref(&config));
                let dims = [3, 1000, 700, 512, 64, 100, 1, 0][..model.fitted().dims.len()].to_vec();
                let features = model.looked_at(&dims, family.dtypes()[0].name(), &candidates, 0).unwrap().features;
                for (feature, value) in model.fitted().features.iter().zip(features) {
                    assert_ne!(value, i64::MIN, "{family}: {feature}");
                }
            }
        }
    }

    #[test]
    fn a_description_can_be_told_in_toml() {
        let text = r#"
            dims = ["rows", "cols"]
            dtypes = { bf16 = 2 }
            constants = { multiprocessors = 132 }
            knobs = ["block_sizes", "num_warps"]
            bytes = "2 * rows * cols * dtype_bytes"
            flops = "rows * cols"
            tiles = { rows = "block_sizes[0]" }
            kin = [["cols"]]
        "#;
        let description: Description = toml::from_str(text).unwrap();
        assert!(model(&description).fitted().features.contains(&"per_mille(rows, tiles_rows * tile_rows)".to_owned()));
        assert!(toml::from_str::<Description>(&text.replace("tiles", "tilse")).is_err());
    }
}
