//! What orders configs before anything was measured on a GPU: floors by what its maker says of it, and what another GPU learnt of
//! the kinds of kernel that both run. It orders what to try. No time of it is told, recorded or served.

use crate::families::{self, Description, Work};
use crate::heuristics::{FittedModel, Model, builtin_document, builtin_names};
use crate::model::{Config, Family, GpuProfile, Mma, Peaks, Problem};
use serde_json::Value;
use std::collections::BTreeSet;

// These are assumptions of round numbers, fitted to nothing: all they decide is what is tried first, and how near that comes to what a
// model of measurements would try is tested below.

/// How long a trip to memory is taken to be under load, in microseconds.
const TRIP_US: f64 = 0.8;
/// How many times memory's rate L2 is taken to give.
const L2_RATE: f64 = 2.0;
/// The share of the tensor cores' rate that `mma.sync` is taken to reach beside newer instructions.
const MMA_SYNC_SHARE: f64 = 0.5;
/// What takes less time than the longest of copying, loading and multiplying is hidden behind it, but for so much.
const UNHIDDEN: f64 = 0.1;

/// What is known of a family on a GPU where nothing of it was measured.
#[derive(Debug)]
pub(super) struct Prior {
    peaks: Option<Peaks>,
    multiprocessors: u32,
    other: Option<Other>,
}

/// Another GPU that has a model.
#[derive(Debug)]
struct Other {
    gpu: GpuProfile,
    model: FittedModel,
    /// The kinds of kernel that the model chooses from.
    kinds: BTreeSet<Option<Mma>>,
    /// Those of them, by kinds of this GPU.
    shared: Vec<Mma>,
}

impl Prior {
    /// Of a family on a GPU. The other GPU is the one nearest to it in memory's rate of those with a built-in document.
    pub(super) fn new(family: Family, profile: &GpuProfile) -> Self {
        let rate = |gpu: &GpuProfile| gpu.peaks.map(|peaks| peaks.memory_gb_per_s);
        let others = builtin_names().filter(|name| *name != profile.name).filter_map(|name| {
            let gpu = GpuProfile::by_name(name).ok()?;
            Some((rate(&gpu)?.abs_diff(rate(profile)?), gpu))
        });
        let nearest = others.min_by_key(|(distance, _)| *distance).map(|(_, gpu)| gpu);
        let other = nearest.and_then(|gpu| Other::new(family, gpu, profile));
        Self { other, ..Self::floors(profile) }
    }

    /// The same without another GPU's model.
    pub(super) fn floors(profile: &GpuProfile) -> Self {
        Self { peaks: profile.peaks, multiprocessors: profile.multiprocessors, other: None }
    }

    /// Where the order comes from, in one line; nothing where no rates of the GPU are known.
    pub(super) fn said(&self, has_model: bool) -> Option<String> {
        let Peaks { memory_gb_per_s, bf16_tflops } = self.peaks?;
        let floors = format!(
            "floors ({memory_gb_per_s} GB/s, {bf16_tflops} TFLOP/s of bf16, {} multiprocessors, as its maker says)",
            self.multiprocessors
        );
        let other = self.other.as_ref().filter(|_| has_model).map(|other| {
            let kinds: Vec<_> = other.shared.iter().map(|mma| mma.name()).collect();
            format!(" and, for {}, from what the document of {} learnt", kinds.join(" and "), other.gpu.name)
        });
        let other = other.unwrap_or_default();
        Some(format!(
            "nothing of it was measured here yet: the search starts from {floors}{other}; none of that is served"
        ))
    }

    /// The other GPU's model, with this GPU's constants and rates in place of its own.
    pub(super) fn model(&self, description: &Description) -> Option<Model> {
        let Other { gpu, model, .. } = self.other.as_ref()?;
        let (here, there) = (self.peaks?, gpu.peaks?);
        let mut model = model.clone();
        for (name, value) in &mut model.constants {
            *value = description.constants.get(name).copied().unwrap_or(*value);
        }
        model.floor.bytes_per_us *= f64::from(here.memory_gb_per_s) / f64::from(there.memory_gb_per_s);
        model.floor.flops_per_us *= f64::from(here.bf16_tflops) / f64::from(there.bf16_tflops);
        Model::new(model).ok()
    }

    /// The config of the other GPU's model that is most like this one; none of a kind that it knows nothing of.
    pub(super) fn as_there(&self, config: &Config) -> Option<Config> {
        let kind = like(config.mma?, &self.other.as_ref()?.kinds)?;
        Some(Config { mma: Some(kind), ..config.clone() })
    }

    /// How long a config takes at least, in microseconds where the GPU's rates are known, else in bytes that are loaded. Only the
    /// order means anything.
    pub(super) fn floor(&self, config: &Config, problem: &Problem, profile: &GpuProfile) -> f64 {
        if profile.is_cpu() {
            return 0.0;
        }
        let spec = families::spec(problem.family);
        let Ok(work) = spec.work(config, problem, profile) else { return f64::INFINITY };
        let Some(peaks) = self.peaks else { return loaded_bytes(&work, profile) };
        let multiprocessors = f64::from(profile.multiprocessors);
        let memory_bytes_per_us = f64::from(peaks.memory_gb_per_s) * 1e3;
        let tflops = f64::from(peaks.tflops(problem.family, config.mma));
        let flops_per_us = tflops * 1e6 * mma_share(config, profile);

        // The longest row of programs, each multiprocessor shared by those that it holds at once.
        let steps = work.waves as f64 * work.tiles_a_program as f64 * work.steps_a_tile as f64;
        let resident = (work.resident as f64).min((work.programs as f64 / multiprocessors).ceil());
        let share = |[extent, block]: &[u64; 2]| *block as f64 / (*extent).max(1) as f64;
        let step_flops = spec.flops(problem) * work.axes.iter().map(share).product::<f64>();
        let multiplying = steps * resident * step_flops * multiprocessors / flops_per_us;

        // What is on its way at once, of all programs, sets the rate where it is less than memory's (Little's law).
        let at_once = (resident * multiprocessors).min(work.programs as f64);
        let stages = f64::from(config.num_stages.unwrap_or(1));
        let in_flight_bytes = at_once * stages * work.stage_bytes.0.max(1) as f64;
        let reached = memory_bytes_per_us.min(in_flight_bytes / TRIP_US);
        let merged_bytes = config.split_k.filter(|split| *split > 1).map_or(0.0, |_| partial_bytes(&work, problem));
        let copying = (spec.bytes(problem).0 as f64 + merged_bytes) / reached;
        let loading = loaded_bytes(&work, profile) / (L2_RATE * memory_bytes_per_us);

        let all = [multiplying, copying, loading];
        let longest = all.iter().copied().fold(0.0, f64::max);
        longest + UNHIDDEN * (all.iter().sum::<f64>() - longest) + TRIP_US * work.waves as f64
    }
}

impl Other {
    fn new(family: Family, gpu: GpuProfile, profile: &GpuProfile) -> Option<Self> {
        let document: Value = serde_json::from_str(builtin_document(&gpu.name)?).ok()?;
        let model: FittedModel = serde_json::from_value(document.get("models")?.get(family.name())?.clone()).ok()?;
        // Which configs are legal here the plan knows.
        let model = FittedModel { legal: Vec::new(), problems: Vec::new(), ..model };
        let kind = |template: &serde_json::Map<String, Value>| template.get("mma")?.as_str()?.parse().ok();
        let kinds = model.configs.iter().map(|config| kind(&config.template)).collect();
        let shared: Vec<Mma> = profile.mma.iter().copied().filter(|mma| like(*mma, &kinds).is_some()).collect();
        (!shared.is_empty()).then_some(Self { gpu, model, kinds, shared })
    }
}

/// The kind among those known that works as this one does: itself, or `mma.sync` however its tiles are loaded.
fn like(mma: Mma, known: &BTreeSet<Option<Mma>>) -> Option<Mma> {
    let alike: &[Mma] = match mma {
        Mma::MmaSync => &[Mma::MmaSync, Mma::MmaSyncTma],
        Mma::MmaSyncTma => &[Mma::MmaSyncTma, Mma::MmaSync],
        Mma::Simt => &[Mma::Simt],
        Mma::Wgmma => &[Mma::Wgmma],
        // Known to no other GPU so far, and unlike what is.
        Mma::Tcgen05 | Mma::Tcgen05Tmem | Mma::SimtWide => &[],
    };
    alike.iter().copied().find(|mma| known.contains(&Some(*mma)))
}

/// The share of the tensor cores' rate that a config's instructions are taken to reach.
fn mma_share(config: &Config, profile: &GpuProfile) -> f64 {
    let is_outdone = profile.mma.iter().any(|mma| matches!(mma, Mma::Wgmma | Mma::Tcgen05));
    let is_old = matches!(config.mma, Some(Mma::MmaSync | Mma::MmaSyncTma));
    if is_outdone && is_old { MMA_SYNC_SHARE } else { 1.0 }
}

/// What the parts of a split write and read again, in f32: each of its programs a tile of the output.
fn partial_bytes(work: &Work, problem: &Problem) -> f64 {
    let axes = families::spec(problem.family).axes().iter().zip(&work.axes);
    let tile: u64 = axes.filter(|(axis, _)| !axis.is_reduced).map(|(_, [_, block])| *block).product();
    2.0 * 4.0 * work.programs as f64 * work.tiles_a_program as f64 * tile as f64
}

/// What all multiprocessors together load in as many steps as the longest row of programs takes.
fn loaded_bytes(work: &Work, profile: &GpuProfile) -> f64 {
    let steps = work.waves as f64 * work.tiles_a_program as f64 * work.steps_a_tile as f64;
    let programs_at_once = (f64::from(profile.multiprocessors) * work.resident as f64).min(work.programs as f64);
    // A multiprocessor that has nothing to do loads nothing, but its share of the bandwidth is lost all the same.
    let share = programs_at_once.max(f64::from(profile.multiprocessors));
    steps * share * work.stage_bytes.0.max(1) as f64
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::heuristics::ModelConfig;
    use crate::model::Dtype;
    use crate::plan::Plan;

    /// A clock that is none of ours: what the document of a GPU expects of its configs.
    fn clock(family: Family, gpu: &str, problem: &Problem, configs: &[&Config]) -> Vec<f64> {
        let document: Value = serde_json::from_str(builtin_document(gpu).unwrap()).unwrap();
        let fitted: FittedModel = serde_json::from_value(document["models"][family.name()].clone()).unwrap();
        let model = Model::new(FittedModel { legal: Vec::new(), ..fitted }).unwrap();
        let candidates: Vec<ModelConfig> = configs
            .iter()
            .map(|config| ModelConfig { template: config.to_template(), ..ModelConfig::default() })
            .collect();
        let known = model.fitted().dims.len();
        let dims: Vec<i64> = problem.shape.extents().iter().take(known).map(|extent| *extent as i64).collect();
        let ranked = model.rank(&dims, problem.dtype.name(), &model.candidates(&candidates), usize::MAX);
        let mut times = vec![f64::INFINITY; configs.len()];
        for choice in &ranked {
            times[choice.config] = choice.predicted_us;
        }
        times
    }

    /// How much longer the best of the first configs by floors takes than the best of all, and than the middle one does.
    fn regret_of_floors(family: Family, gpu: &str, shape: &str, first: usize) -> [f64; 2] {
        let (profile, plan) = (GpuProfile::by_name(gpu).unwrap(), Plan::load(family, None).unwrap());
        let problem = Problem::parse(family, shape, Dtype::Bf16).unwrap();
        let mut configs = plan.legal_configs(&problem, &profile);
        let prior = Prior::floors(&profile);
        configs.sort_by(|one, other| {
            prior.floor(one, &problem, &profile).total_cmp(&prior.floor(other, &problem, &profile))
        });
        let times = clock(family, gpu, &problem, &configs);
        let best = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        [best(&times[..first]) / best(&times), best(&times[..first]) / sorted[sorted.len() / 2]]
    }

    #[test]
    fn by_floors_something_near_the_best_comes_early() {
        let shapes = [
            (Family::Matmul, "m=4096,n=4096,k=4096"),
            (Family::Matmul, "m=512,n=8192,k=2048"),
            (Family::Matmul, "m=16,n=4096,k=4096"),
            (Family::MatmulFp4, "m=16,n=28672,k=8192"),
            (Family::MatmulInt4, "m=2048,n=4096,k=4096"),
            (Family::Attention, "batch=4,heads=8,q_seq=2048,kv_seq=2048,head_dim=128"),
            (Family::RowSoftmax, "rows=65536,cols=1024"),
            (Family::RowSoftmax, "rows=4096,cols=32768"),
            (Family::Elementwise, "numel=134217728"),
        ];
        let all: Vec<_> = shapes.map(|(family, shape)| (shape, regret_of_floors(family, "h200", shape, 32))).into();
        let geomean =
            |place: usize| (all.iter().map(|(_, regrets)| regrets[place].ln()).sum::<f64>() / all.len() as f64).exp();
        eprintln!("{all:#?} {} {}", geomean(0), geomean(1));
        assert!(geomean(0) < 1.15, "of the best: {all:?}");
        assert!(geomean(1) < 0.75, "of the middle: {all:?}");
    }

    #[test]
    fn each_kind_is_told_by_what_is_like_it_or_by_floors_alone() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        let kinds = |family| {
            let prior = Prior::new(family, &b200);
            prior.other.map(|other| (other.gpu.name.clone(), other.shared.clone()))
        };
        for family in Family::ALL {
            // One that no GPU was swept for yet has floors alone.
            let Some((gpu, shared)) = kinds(family) else {
                assert!(!Family::ALL[..7].contains(&family), "{family}");
                continue;
            };
            let wanted = if families::spec(family).domain().is_some() { Mma::Simt } else { Mma::MmaSync };
            assert_eq!((gpu.as_str(), shared), ("h200", vec![wanted]), "{family}");
        }
        let prior = Prior::new(Family::Matmul, &b200);
        let config = |mma| Config { block_sizes: vec![64, 64, 64], mma: Some(mma), ..Config::default() };
        assert_eq!(prior.as_there(&config(Mma::MmaSync)), Some(config(Mma::MmaSync)));
        assert_eq!(prior.as_there(&config(Mma::Tcgen05)), None);
        let copied = BTreeSet::from([Some(Mma::Wgmma), Some(Mma::MmaSyncTma)]);
        assert_eq!(like(Mma::MmaSync, &copied), Some(Mma::MmaSyncTma), "however its tiles are loaded");
    }

    #[test]
    fn the_other_gpus_model_is_asked_with_this_gpus_numbers() {
        let [b200, h200] = ["b200", "h200"].map(|gpu| GpuProfile::by_name(gpu).unwrap());
        let prior = Prior::new(Family::Matmul, &b200);
        let model = prior.model(&Description::of(Family::Matmul, &b200, false)).unwrap();
        let (own, fitted) = (&prior.other.as_ref().unwrap().model, model.fitted());
        assert_eq!(own.constants["multiprocessors"], i64::from(h200.multiprocessors));
        assert_eq!(fitted.constants["multiprocessors"], i64::from(b200.multiprocessors));
        assert!((fitted.floor.bytes_per_us / own.floor.bytes_per_us - 8000.0 / 4800.0).abs() < 1e-9);
        assert!((fitted.floor.flops_per_us / own.floor.flops_per_us - 2250.0 / 989.0).abs() < 1e-9);
    }

    /// Two floors worked out by hand from what the GPUs' makers say.
    #[test]
    fn a_floor_is_the_longest_of_multiplying_copying_and_loading_with_a_little_of_the_others() {
        let floor = |gpu: &str, family, shape: &str, config: &str| {
            let profile = GpuProfile::by_name(gpu).unwrap();
            let problem = Problem::parse(family, shape, Dtype::Bf16).unwrap();
            Prior::floors(&profile).floor(&serde_json::from_str(config).unwrap(), &problem, &profile)
        };
        // 256 programs on 108 multiprocessors, one each at once: 3 waves of 32 steps of 32 × 128 × 64, 524,288 FLOP and 20,480 bytes.
        // Multiplying: 96 · 108 · 524,288 FLOP at 312 TFLOP/s, 17.422 µs.
        // Loading: 96 · 108 · 20,480 bytes at twice 2039 GB/s, 52.069 µs.
        // Copying at 2039 GB/s: A, B and C are 68,681,728 bytes; the four parts of each sum, 256 · 4096 of 4 bytes, are written and
        // read: 8,388,608 more; 37.798 µs.
        let split = floor(
            "a100",
            Family::Matmul,
            "m=64,n=4096,k=8192",
            r#"{"block_sizes":[32,128,64],"l2_groupings":[1],"mma":"mma_sync","num_stages":6,"num_warps":4,"pid_type":"flat","split_k":4}"#,
        );
        let by_hand = 52.069 + 0.1 * (17.422 + 37.798) + 3.0 * 0.8;
        assert!((split / by_hand - 1.0).abs() < 1e-4, "{split} µs, by hand {by_hand}");
        // 264 programs, two on each of 132 multiprocessors, with 8,192 bytes on the way each: 2.163 MB in 0.8 µs, less than 4800 GB/s.
        // Copying 805,306,368 bytes at that rate takes 297.89 µs, loading 249 tiles by each program from L2 56.095 µs, and adding
        // 249 · 264 · 2048 numbers at the tensor cores' rate 0.136 µs.
        let streamed = floor(
            "h200",
            Family::Elementwise,
            "numel=134217728",
            r#"{"block_sizes":[2048],"mma":"simt","num_sm_multiplier":2,"num_warps":32,"pid_type":"persistent_interleaved"}"#,
        );
        let by_hand = 297.89 + 0.1 * (56.095 + 0.136) + 0.8;
        assert!((streamed / by_hand - 1.0).abs() < 1e-4, "{streamed} µs, by hand {by_hand}");
    }

    /// Whatever the tiles, splits and program orders: all the work has to be done, and all the tensors have to be moved.
    #[test]
    fn no_floor_is_less_than_the_gpus_rates_allow() {
        for (gpu, family, shape) in [
            ("a100", Family::Matmul, "m=4096,n=4096,k=4096"),
            ("h200", Family::Matmul, "m=16896,n=3072,k=2048"),
            ("h200", Family::MatmulFp8, "m=4096,n=4096,k=8192"),
            ("b200", Family::Attention, "batch=4,heads=8,q_seq=2048,kv_seq=2048,head_dim=128"),
            ("h200", Family::RowSoftmax, "rows=4096,cols=32768"),
        ] {
            let (profile, plan) = (GpuProfile::by_name(gpu).unwrap(), Plan::load(family, None).unwrap());
            let problem = Problem::parse(family, shape, family.dtypes()[0]).unwrap();
            let (spec, peaks) = (families::spec(family), profile.peaks.unwrap());
            let rate = f64::from(peaks.bf16_tflops) * 1e6 * if problem.dtype == Dtype::Fp8 { 2.0 } else { 1.0 };
            let memory_us = spec.bytes(&problem).0 as f64 / (f64::from(peaks.memory_gb_per_s) * 1e3);
            for config in plan.legal_configs(&problem, &profile) {
                let multiplying_us = spec.flops(&problem) / (rate * mma_share(config, &profile));
                let floor = Prior::floors(&profile).floor(config, &problem, &profile);
                let least = multiplying_us.max(memory_us);
                assert!(floor >= least, "{gpu} {problem} {config}: {floor} µs, where the rates allow {least}");
            }
        }
    }

    /// With memory out of the way, what fills every multiprocessor to the end takes the problem's FLOP at the rate.
    #[test]
    fn multiplying_takes_half_as_long_at_twice_the_rate() {
        for (gpu, family) in [("a100", Family::Matmul), ("h200", Family::Matmul), ("h200", Family::MatmulFp8)] {
            let (profile, plan) = (GpuProfile::by_name(gpu).unwrap(), Plan::load(family, None).unwrap());
            let m = 128 * u64::from(profile.multiprocessors);
            let problem = Problem::parse(family, &format!("m={m},n=3072,k=8192"), family.dtypes()[0]).unwrap();
            let faster = if problem.dtype == Dtype::Fp8 { 2.0 } else { 1.0 };
            let tflops = profile.peaks.unwrap().bf16_tflops;
            let floor = |config: &Config, bf16_tflops: u32| {
                let peaks = Peaks { memory_gb_per_s: 1_000_000, bf16_tflops };
                let prior = Prior { peaks: Some(peaks), ..Prior::floors(&profile) };
                prior.floor(config, &problem, &profile)
            };
            let large = |config: &&Config| config.block_sizes[0] >= 128 && config.block_sizes[1] >= 128;
            let shares = plan.legal_configs(&problem, &profile).into_iter().filter(large).map(|config| {
                let rate = faster * f64::from(tflops) * 1e6 * mma_share(config, &profile);
                let least = families::spec(family).flops(&problem) / rate;
                2.0 * (floor(config, tflops) - floor(config, 2 * tflops)) / least
            });
            let least = shares.fold(f64::INFINITY, f64::min);
            assert!((least - 1.0).abs() < 1e-9, "{gpu} {family}: {least} times as long");
        }
    }

    #[test]
    fn floors_know_the_better_instructions_and_the_programs_that_a_gpu_holds() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        let plan = Plan::load(Family::Matmul, None).unwrap();
        let prior = Prior::floors(&b200);
        let best = |shape: &str| {
            let problem = Problem::parse(Family::Matmul, shape, Dtype::Bf16).unwrap();
            let floor = |config: &&Config| prior.floor(config, &problem, &b200);
            let configs = plan.legal_configs(&problem, &b200).into_iter();
            let best = configs.min_by(|one, other| floor(one).total_cmp(&floor(other))).unwrap();
            (best.mma, floor(&best), families::spec(Family::Matmul).work(best, &problem, &b200).unwrap())
        };
        let (large, floor, _) = best("m=8192,n=8192,k=8192");
        assert_eq!(large, Some(Mma::Tcgen05));
        // 1.1 PFLOP at 2.25 PFLOP/s, and never less.
        assert!((489.0..700.0).contains(&floor), "{floor}");
        // A stream of weights: 268 MB at 8 TB/s, by as many programs as the GPU has multiprocessors or more.
        let (_, floor, work) = best("m=16,n=16384,k=8192");
        assert!((33.5..60.0).contains(&floor) && work.programs >= 100, "{floor} {work:?}");
    }

    /// 8.8 PFLOP by the instructions that take the operands as they lie, at 2.25, 4.5 or 9 PFLOP/s; by those that take bf16 alone, at
    /// half of 2.25.
    #[test]
    fn floors_know_how_fast_each_format_is_multiplied() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        let prior = Prior::floors(&b200);
        for (family, tcgen05_us) in [
            (Family::Matmul, 3909.4),
            (Family::MatmulNvfp4, 3909.4),
            (Family::MatmulFp8, 1954.7),
            (Family::MatmulMxfp8, 1954.7),
            (Family::MatmulNvfp4Nvfp4, 977.3),
        ] {
            let dtype = *family.dtypes().first().unwrap();
            let problem = Problem::parse(family, "m=16384,n=16384,k=16384", dtype).unwrap();
            let plan = Plan::load(family, None).unwrap();
            let configs = plan.legal_configs(&problem, &b200);
            let best = |mma: Mma| {
                let of_kind = configs.iter().filter(|config| config.mma == Some(mma));
                of_kind.map(|config| prior.floor(config, &problem, &b200)).fold(f64::INFINITY, f64::min)
            };
            let near = |least_us: f64| least_us..1.4 * least_us;
            let [tcgen05, mma_sync] = [Mma::Tcgen05, Mma::MmaSync].map(best);
            assert!(near(tcgen05_us).contains(&tcgen05), "{family}: {tcgen05} µs");
            let has_other = configs.iter().any(|config| config.mma == Some(Mma::MmaSync));
            assert!(!has_other || near(2.0 * 3909.4).contains(&mma_sync), "{family}: {mma_sync} µs");
        }
    }
}
