//! Files of JSON: lists of configs for Helion's autotuner, and vLLM's (`vllm/kernels/helion/config_manager.py` of vLLM 0.33 reads
//! `<kernel>/<platform>.json`).

use super::kernel::Kernel;
use crate::error::Result;
use crate::heuristics::Template;
use crate::model::GpuProfile;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// `<kernel>.json`: configs, each once.
pub(super) fn seeds(kernels: &[Kernel]) -> Result<Vec<(String, String)>> {
    let file = |kernel: &Kernel| Ok((format!("{}.json", kernel.name), lines(&kernel.configs)?));
    kernels.iter().map(file).collect()
}

/// What vLLM calls a GPU: `nvidia_h200`.
fn platform(profile: &GpuProfile) -> String {
    format!("nvidia_{}", profile.name)
}

/// The problems with their configs, after the one that is served for the most, whose key is empty: it is for all others.
pub(super) fn vllm(kernels: &[Kernel], profile: &GpuProfile) -> Result<Vec<(String, String)>> {
    let entry = |key: Map<String, Value>, config: &Template| json!({"key": key, "config": config});
    let file = |kernel: &Kernel| {
        let served = |place: usize| kernel.problems.iter().filter(|(_, config)| *config == place).count();
        let usual = (0..kernel.configs.len()).max_by_key(|place| (served(*place), usize::MAX - place)).unwrap_or(0);
        let mut entries = vec![entry(Map::new(), &kernel.configs[usual])];
        for (problem, place) in &kernel.problems {
            let names = problem.family.dimensions().iter().zip(problem.shape.extents());
            let key = names.map(|(name, extent)| ((*name).to_owned(), (*extent).into())).collect();
            entries.push(entry(key, &kernel.configs[*place]));
        }
        Ok((format!("{}/{}.json", kernel.name, platform(profile)), lines(&entries)?))
    };
    kernels.iter().map(file).collect()
}

/// A list with an item a line.
fn lines(items: &[impl Serialize]) -> Result<String> {
    let items = items.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("[\n  {}\n]\n", items.join(",\n  ")))
}
