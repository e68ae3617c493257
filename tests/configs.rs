//! A config is what runs: every knob of every config of every plan is what its kernel is compiled and launched with, on problems
//! of any size and alignment; and what a family calls legal can be launched.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on may stop

mod common;

use common::{WIDE_SOURCES, problems_of};
use kernel_sweep::families::{Arg, Code, KernelSpec, Launch, spec};
use kernel_sweep::heuristics::{Document, builtin_document, builtin_names};
use kernel_sweep::model::{Config, Family, GpuProfile, Mma, PidType, Problem};
use kernel_sweep::plan::Plan;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// Extents from one to a few thousand, every second one near a power of two, where blocks end.
fn extent(most_log2: u32) -> impl Strategy<Value = i64> {
    let near = (0..most_log2, -1i64..2).prop_map(|(log2, off)| ((1i64 << log2) + off).max(1));
    let any = (0..most_log2).prop_flat_map(|log2| 1i64..(2i64 << log2));
    prop_oneof![near, any]
}

/// Problems of any family: tiny, odd, unaligned and usual.
fn problem(family: Family) -> BoxedStrategy<Problem> {
    let dimensions = family.dimensions();
    let most = |name: &str| match name {
        "head_dim" => 8,
        "batch" | "heads" => 6,
        "numel" => 30,
        _ => 15,
    };
    let extents: Vec<_> = dimensions.iter().map(|name| extent(most(name)).boxed()).collect();
    let dtypes = family.dtypes().len();
    let aligned = prop::bool::ANY;
    (extents, 0..dtypes, aligned)
        .prop_map(move |(extents, dtype, aligned)| {
            let extent = |(name, extent): (&&'static str, i64)| match *name {
                "k" if family.packs_two_weights_a_byte() => (*name, 2 * extent),
                "k" | "n" | "head_dim" if aligned => (*name, (extent + 15) / 16 * 16),
                _ => (*name, extent),
            };
            let named: Vec<_> = dimensions.iter().zip(extents).map(extent).collect();
            Problem::new(family, &named, family.dtypes()[dtype % family.dtypes().len()]).unwrap()
        })
        .boxed()
}

fn check_all<T: std::fmt::Debug>(
    cases: u32,
    strategy: &impl Strategy<Value = T>,
    test: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let checked = TestRunner::new(ProptestConfig::with_cases(cases)).run(strategy, test);
    assert!(checked.is_ok(), "{}", checked.unwrap_err());
}

const GPUS: [&str; 3] = ["h200", "b200", "a100"];

/// Every family's plan on every GPU that it has spaces for.
fn plans() -> impl Iterator<Item = (Family, Plan, GpuProfile)> {
    let plan = |family| (family, Plan::load(family, None).unwrap());
    Family::ALL
        .into_iter()
        .map(plan)
        .flat_map(|(family, plan)| GPUS.map(|gpu| (family, plan.clone(), GpuProfile::by_name(gpu).unwrap())))
}

/// The names of a kernel's parameters, in the order of its arguments, as its source or a header of it has them: those that are
/// there with its macros.
fn parameters(source: &str, entry: &str, macros: &[&str]) -> Vec<String> {
    static KNOWN: Mutex<BTreeMap<String, Vec<String>>> = Mutex::new(BTreeMap::new());
    // A masked kernel has those within `#if CAUSAL`, one whose weights share scales those of a macro after the others.
    // One that copies its operands first has those of another.
    let [is_causal, is_grouped, has_scales, is_realigned] =
        ["CAUSAL", "GROUP", "BLOCK_SCALES", "REALIGNED"].map(|name| macros.contains(&name));
    let mut known = KNOWN.lock().unwrap();
    let names = known
        .entry(format!("{source} {entry} {is_causal} {is_grouped} {has_scales} {is_realigned}"))
        .or_insert_with(|| {
            let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
            let headers = fs::read_dir(kernels.join("include")).unwrap().map(|entry| entry.unwrap().path());
            let mut texts =
                std::iter::once(kernels.join(source)).chain(headers).map(|path| fs::read_to_string(path).unwrap());
            let listed = |text: String| {
                let list = text.split_once(&format!("\n{entry}("))?.1.split_once(") {")?.0;
                let list = match list.split_once("\n#if CAUSAL\n") {
                    Some((all, masked)) if is_causal => format!("{all}{}", masked.strip_suffix("\n#endif\n").unwrap()),
                    Some((all, _)) => all.to_owned(),
                    None => list.to_owned(),
                };
                if let Some(all) = list.strip_suffix(" COPY_PARAMETERS") {
                    let copies = if is_realigned { defined(&text, 0, "COPY_PARAMETERS") } else { String::new() };
                    return Some(format!("{all}{copies}"));
                }
                Some(match list.strip_suffix(" SCALE_PARAMETERS") {
                    Some(all) if is_grouped => format!("{all}{}", defined(&text, 0, "SCALE_PARAMETERS")),
                    Some(all) if has_scales => format!("{all}{}", defined(&text, 1, "SCALE_PARAMETERS")),
                    Some(all) => all.to_owned(),
                    None => list,
                })
            };
            let list = texts.find_map(listed).unwrap();
            let name = |parameter: &str| {
                let parameter = parameter.trim_end();
                let start = parameter.rfind(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap();
                parameter[start + 1..].to_owned()
            };
            list.split(',').map(name).collect()
        });
    names.clone()
}

/// What a macro's definition of that place stands for, on one line.
fn defined(text: &str, place: usize, name: &str) -> String {
    let definition = text.split(&format!("#define {name} ")).nth(place + 1).unwrap().replace("\\\n", " ");
    definition.lines().next().unwrap().to_owned()
}

/// The macros of a kernel and the arguments of its launch, to be read by name.
struct Running<'a> {
    kernel: &'a KernelSpec,
    launch: &'a Launch,
}

impl Running<'_> {
    fn value(&self, name: &str) -> u64 {
        let (_, value) = self.kernel.macros.iter().find(|(known, _)| *known == name).unwrap();
        value.parse().unwrap()
    }

    /// The argument that the kernel's parameter of that name gets.
    fn argument(&self, name: &str) -> u64 {
        let there = self.kernel.macros.iter().filter(|(name, value)| name != "REALIGNED" || value != "0");
        let macros: Vec<&str> = there.map(|(name, _)| &**name).collect();
        let parameters = parameters(self.source(), &self.kernel.entry, &macros);
        assert_eq!(parameters.len(), self.launch.args.len(), "{} gets what it asks for", self.kernel);
        let place = parameters.iter().position(|known| known == name).unwrap();
        match self.launch.args[place] {
            Arg::I32(number) => number.try_into().unwrap(),
            ref other => panic!("{name} is {other:?}, and no number"),
        }
    }

    /// The file of `kernels/` that it is compiled from.
    fn source(&self) -> &str {
        match &self.kernel.code {
            Code::Shipped(source) => source,
            other => panic!("{other} is none of ours"),
        }
    }

    fn blocks(&self) -> u64 {
        self.launch.grid.iter().map(|extent| u64::from(*extent)).product()
    }
}

/// Threads that may load for Hopper's products: a warp that asks the copy engine, or one for each stage up to four where it does not take
/// an operand; or a whole group of warps, that hands its registers over.
fn loading_threads(running: &Running) -> [u64; 2] {
    let mut vectors =
        running.kernel.macros.iter().filter(|(name, _)| name.ends_with("_VECTOR_BYTES") && !name.starts_with('C'));
    let by_engine = vectors.all(|(_, bytes)| bytes == "16");
    [32 * if by_engine { 1 } else { running.value("NUM_STAGES").min(4) }, 128]
}

/// Programs that a config names for so many tiles, where `places` of them run at once for each multiple.
fn programs(config: &Config, tiles: u64, places: u64) -> u64 {
    match config.pid_type.unwrap() {
        PidType::Flat | PidType::ClusterLaunchControl => tiles,
        _ => tiles.min(u64::from(config.num_sm_multiplier.unwrap()) * places),
    }
}

/// Blocked programs have whole runs, so that a few may have none; those are not there.
fn runs(config: &Config, tiles: u64, places: u64) -> u64 {
    let most = programs(config, tiles, places);
    if config.pid_type == Some(PidType::PersistentInterleaved) { most } else { tiles.div_ceil(tiles.div_ceil(most)) }
}

/// The operands that a config copies first.
fn realigned(config: &Config) -> Option<String> {
    config.own.get("realigned").map(ToString::to_string)
}

/// The programs that run where operands may be copied first: all of them must then run at once, and every multiprocessor copies but
/// beside clusters.
fn runs_realigned(config: &Config, tiles: u64, multiprocessors: u64, running: &Running) -> u64 {
    let is_realigned = realigned(config).is_some();
    let launch = running.launch;
    assert_eq!([launch.counters > 0, launch.workspace.0 > 0, launch.cooperative], [is_realigned; 3]);
    let programs = runs(config, tiles, multiprocessors);
    if !is_realigned {
        return programs;
    }
    assert!(running.blocks() <= multiprocessors, "all run at once");
    if config.split_k == Some(1) { multiprocessors } else { programs }
}

#[allow(clippy::too_many_lines)] // a family after the other
fn is_as_named(config: &Config, problem: &Problem, profile: &GpuProfile, running: &Running) {
    let extents: Vec<u64> = problem.shape.dimensions().iter().map(|(_, extent)| *extent).collect();
    let block = |place: usize| u64::from(config.block_sizes[place]);
    let knob = |value: Option<u32>| u64::from(value.unwrap());
    let (warps, split) = (config.num_warps.map(u64::from), config.split_k.map(u64::from));
    let multiprocessors = u64::from(profile.multiprocessors);
    let is_wide = WIDE_SOURCES.contains(&running.source());
    assert_eq!(
        spec(problem.family).alignment(config),
        if is_wide { 32 } else { 16 },
        "{config} is {}",
        running.source()
    );
    match problem.family {
        Family::Elementwise => {
            let is_wide = config.mma == Some(Mma::SimtWide);
            assert!(is_wide || config.mma == Some(Mma::Simt));
            assert_eq!(running.source(), if is_wide { "elementwise_wide.cu" } else { "elementwise.cu" });
            assert_eq!((running.value("BLOCK"), Some(running.value("NUM_WARPS"))), (block(0), warps));
            let tiles = extents[0].div_ceil(block(0));
            assert_eq!(running.blocks(), programs(config, tiles, multiprocessors));
            assert_eq!(running.value("ONE_TILE"), u64::from(running.blocks() == tiles));
            assert_eq!(running.argument("contiguous"), u64::from(config.pid_type == Some(PidType::PersistentBlocked)));
        }
        Family::RowSoftmax => {
            let is_wide = config.mma == Some(Mma::SimtWide);
            assert!(is_wide || config.mma == Some(Mma::Simt));
            assert_eq!(running.source(), if is_wide { "row_softmax_wide.cu" } else { "row_softmax.cu" });
            assert_eq!((running.value("ROWS"), Some(running.value("NUM_WARPS"))), (block(0), warps));
            assert_eq!((Some(running.value("SPLIT")), Some(running.launch.cluster[0].into())), (split, split));
            let tiles = extents[0].div_ceil(block(0));
            assert_eq!(running.blocks() / split.unwrap(), programs(config, tiles, multiprocessors / split.unwrap()));
            match config.reduction_loops[..] {
                [Some(columns)] => {
                    assert_eq!(running.value("NUM_STAGES"), knob(config.num_stages));
                    let share = running.argument("share");
                    assert_eq!(share * 16, u64::from(columns) * problem.dtype.size_bytes());
                }
                _ => assert_eq!(running.value("NUM_STAGES"), config.num_stages.map_or(0, u64::from)),
            }
            assert_eq!(running.argument("contiguous"), u64::from(config.pid_type == Some(PidType::PersistentBlocked)));
        }
        Family::RowNormRms | Family::RowNormLayer | Family::RowCrossEntropy => {
            let is_norm = problem.family != Family::RowCrossEntropy;
            assert_eq!(running.source(), if is_norm { "row_norm.cu" } else { "row_cross_entropy.cu" });
            assert_eq!((running.value("ROWS"), Some(running.value("NUM_WARPS"))), (block(0), warps));
            assert_eq!((Some(running.value("SPLIT")), Some(running.launch.cluster[0].into())), (split, split));
            assert_eq!(running.value("NUM_STAGES"), knob(config.num_stages));
            let tiles = extents[0].div_ceil(block(0));
            assert_eq!(running.blocks() / split.unwrap(), programs(config, tiles, multiprocessors / split.unwrap()));
            assert_eq!(running.argument("contiguous"), u64::from(config.pid_type == Some(PidType::PersistentBlocked)));
            // A row that lies worst has its first element at a vector's last.
            let width = 16 / problem.dtype.size_bytes();
            let is_aligned = extents[1].is_multiple_of(width);
            let window = if is_aligned { extents[1] / width } else { (extents[1] + width - 1).div_ceil(width) };
            let (share, steps, vectors) =
                (running.argument("share"), running.argument("steps"), running.value("VECTORS"));
            let lanes = 32 * warps.unwrap() / block(0);
            assert_eq!((running.value("ALIGNED"), share), (u64::from(is_aligned), window.div_ceil(split.unwrap())));
            assert!((1..=8).contains(&vectors) && steps * vectors * lanes >= share, "every vector has its lane");
            if let [Some(columns)] = config.reduction_loops[..] {
                assert_eq!(vectors * lanes * width, u64::from(columns));
                assert!((steps - 1) * vectors * lanes < share, "no step is idle");
            } else {
                assert_eq!(steps, 1);
            }
            if is_norm {
                let is_centered = problem.family == Family::RowNormLayer;
                assert_eq!(running.value("CENTERED"), u64::from(is_centered));
                assert_eq!(running.value("LOOPED"), u64::from(config.reduction_loops != [None]));
                let bias = if is_centered { Arg::Input(2) } else { Arg::Null };
                assert_eq!(running.launch.args[..4], [Arg::Input(0), Arg::Input(1), bias, Arg::Output(0)]);
            }
        }
        Family::Attention => {
            let [q, kv] = [block(1), block(2)];
            assert_eq!((block(0), running.value("BLOCK_Q"), running.value("BLOCK_KV")), (1, q, kv));
            assert_eq!(running.value("NUM_STAGES"), knob(config.num_stages));
            let threads = running.launch.threads.iter().map(|extent| u64::from(*extent)).product::<u64>();
            match config.mma.unwrap() {
                Mma::Wgmma => {
                    assert_eq!((running.source(), threads), ("attention_wgmma.cu", 32 * (warps.unwrap() + 4)));
                }
                Mma::Tcgen05 => {
                    assert_eq!((running.source(), threads), ("attention_tcgen05.cu", q + 256));
                    assert_eq!(warps, None);
                }
                mma => {
                    assert_eq!((running.source(), mma), ("attention.cu", Mma::MmaSync));
                    assert_eq!((running.value("NUM_WARPS"), threads), (warps.unwrap(), 32 * warps.unwrap()));
                }
            }
            // Queries of heads that share keys are rows of one tile, but for a mask's, where there are many.
            let [batch, heads, q_seq, _, _, kv_heads, causal] = problem.shape.first();
            let sharing = heads / kv_heads;
            let is_shared = causal == 0 || q_seq < q;
            let rows = if is_shared { (sharing * q_seq).div_ceil(q) } else { sharing * q_seq.div_ceil(q) };
            let tiles = batch * kv_heads * rows * split.unwrap();
            assert_eq!(running.blocks(), programs(config, tiles, multiprocessors), "{problem}: {config}");
            assert_eq!(running.argument("splits"), split.unwrap());
            assert_eq!(running.argument("contiguous"), u64::from(config.pid_type == Some(PidType::PersistentBlocked)));
        }
        _ => {
            let packed = if problem.family.packs_two_weights_a_byte() { 2 } else { 1 };
            let is_block_scaled = [Family::MatmulNvfp4Nvfp4, Family::MatmulMxfp8].contains(&problem.family);
            let tile = ["BLOCK_M", "BLOCK_N", "BLOCK_K"].map(|name| running.value(name));
            assert_eq!(tile, [block(0), block(1), block(2) * packed]);
            assert_eq!(running.value("NUM_STAGES"), knob(config.num_stages));
            let tiles = [extents[0].div_ceil(tile[0]), extents[1].div_ceil(tile[1])];
            let all: u64 = tiles.iter().product();
            let split = split.unwrap();
            let threads = u64::from(running.launch.threads[0]);
            let (source, programs, blocks_each) = match config.mma.unwrap() {
                Mma::MmaSync => {
                    assert_eq!((running.value("NUM_WARPS"), threads), (warps.unwrap(), 32 * warps.unwrap()));
                    (
                        if is_block_scaled { "gemm_block_scaled.cu" } else { "gemm.cu" },
                        runs(config, all * split, multiprocessors),
                        1,
                    )
                }
                Mma::Wgmma if problem.family == Family::MatmulFp8 => {
                    assert_eq!(running.value("NUM_WARPS"), warps.unwrap());
                    assert!(
                        loading_threads(running).contains(&(threads - 32 * warps.unwrap())),
                        "beside those that load"
                    );
                    assert_eq!(u64::from(running.launch.cluster[0]), split);
                    let is_realigned = realigned(config).is_some();
                    assert_eq!(running.value("REALIGNED"), u64::from(is_realigned));
                    ("gemm_fp8.cu", runs_realigned(config, all, multiprocessors, running), split)
                }
                mma @ (Mma::Wgmma | Mma::MmaSyncTma) => {
                    assert_eq!(running.value("NUM_WARPS"), warps.unwrap());
                    assert!(
                        loading_threads(running).contains(&(threads - 32 * warps.unwrap())),
                        "beside those that load"
                    );
                    assert_eq!(running.value("BY_WARP"), u64::from(mma == Mma::MmaSyncTma));
                    assert_eq!(u64::from(running.launch.cluster[0]), split);
                    let realigned = match realigned(config).as_deref() {
                        None => 0,
                        Some("a") => 1,
                        Some("b") => 2,
                        Some("ab") => 3,
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(running.value("REALIGNED"), realigned);
                    ("gemm_wgmma.cu", runs_realigned(config, all, multiprocessors, running), split)
                }
                Mma::Tcgen05 if is_block_scaled => {
                    assert_eq!((warps, threads), (None, 192));
                    let rows = if tile[0] < 128 { tile[1] } else { tile[0] };
                    assert_eq!(u64::from(running.launch.cluster[0]), rows / 128);
                    let programs = runs(config, all * split, multiprocessors / (rows / 128));
                    ("gemm_block_scaled_tcgen05.cu", programs, rows / 128)
                }
                mma @ (Mma::Tcgen05 | Mma::Tcgen05Tmem) => {
                    let is_held = mma == Mma::Tcgen05Tmem;
                    assert_eq!(running.value("DECODE_WARPS"), warps.map_or(0, |warps| warps - 6));
                    if problem.family == Family::MatmulFp8 {
                        let [m, n, blocks] = ["m", "n", "blocks_k"].map(|name| running.argument(name));
                        assert_eq!([m, n, blocks], [extents[0], extents[1], extents[2].div_ceil(128)]);
                        assert_eq!(running.value("BLOCK_SCALES"), u64::from(extents.get(3) == Some(&128)));
                    }
                    assert_eq!(running.value("TENSOR_WEIGHTS"), u64::from(is_held));
                    let pair = if tile[usize::from(is_held)] > 128 { 2 } else { 1 };
                    assert_eq!(u64::from(running.launch.cluster[0]), pair);
                    ("gemm_tcgen05.cu", runs(config, all * split, multiprocessors / pair), pair)
                }
                Mma::Simt | Mma::SimtWide => panic!("no matrix product is simt"),
            };
            assert_eq!((running.source(), running.blocks()), (source, programs * blocks_each));
            let [group, stride] = ["group_m", "stride"].map(|name| running.argument(name));
            // Where k has no parts, none are told of.
            let has_parts = !(is_block_scaled && config.mma == Some(Mma::MmaSync));
            let parts = if has_parts { running.argument("split_k") } else { 1 };
            let tile_rows = u64::from(config.l2_groupings[0]).min(tiles[0]); // beyond those there are it is all of them
            let order = match config.pid_type {
                // Programs without a tile copy alone.
                Some(PidType::PersistentInterleaved) if realigned(config).is_some() => programs.min(all),
                Some(PidType::PersistentInterleaved) => programs,
                Some(PidType::ClusterLaunchControl) => 0,
                _ => 1,
            };
            assert_eq!((group, parts, stride), (tile_rows, split, order));
        }
    }
}

#[test]
fn every_config_of_every_space_is_what_runs() {
    for (family, plan, profile) in plans() {
        let configs: Vec<Config> = plan
            .spaces(&profile)
            .into_iter()
            .flat_map(|space| [&space.default].into_iter().chain(&space.configs).cloned())
            .collect();
        if configs.is_empty() {
            continue;
        }
        for some in configs.chunks(512) {
            check_all(4, &problem(family), |problem| {
                for config in some {
                    if let Ok((kernel, launch)) = spec(family).program(config, &problem, &profile) {
                        is_as_named(config, &problem, &profile, &Running { kernel: &kernel, launch: &launch });
                    }
                }
                Ok(())
            });
        }
    }
}

#[test]
fn every_committed_template_is_what_runs_on_its_problems() {
    for gpu in builtin_names() {
        let profile = GpuProfile::by_name(gpu).unwrap();
        let document = Document::from_bytes(builtin_document(gpu).unwrap().as_bytes()).unwrap();
        let rules = document.rules.iter().flat_map(|rule| {
            rule.templates.iter().map(|ranked| (rule.kernel_class.as_str(), &ranked.template, &rule.source))
        });
        let fallbacks = document.fallbacks.iter().flat_map(|(class, groups)| {
            groups.values().map(move |fallback| (class.as_str(), &fallback.template, &fallback.source))
        });
        let (mut variants, mut checked) = (0, 0);
        for (class, template, source) in rules.chain(fallbacks) {
            let config: Config = serde_json::from_value(Value::Object(template.clone())).unwrap();
            for (problem, _) in problems_of(class, source) {
                // Further templates of a rule may not run on all of its problems.
                let Ok((kernel, launch)) = spec(problem.family).program(&config, &problem, &profile) else { continue };
                is_as_named(&config, &problem, &profile, &Running { kernel: &kernel, launch: &launch });
                variants += usize::from(!problem.shape.is_plain());
                checked += 1;
            }
        }
        assert!(checked > 2 * document.rules.len(), "{gpu}: {checked}");
        assert!(variants > 0 || gpu == "h100", "{gpu}: the H100 was swept before there were variants");
    }
}

#[test]
fn a_default_of_each_plan_runs_on_every_problem() {
    for (family, plan, profile) in plans() {
        let defaults = plan.defaults(&profile);
        if defaults.is_empty() {
            let is_new = |mma: &Mma| matches!(mma, Mma::Wgmma | Mma::Tcgen05);
            let needs_newer = family == Family::MatmulFp8 && !profile.mma.iter().any(is_new);
            assert!(needs_newer, "{family} has no space on {}", profile.name);
            continue;
        }
        check_all(256, &problem(family), |problem| {
            // Blackwell's products of 8-bit floats need rows that the copy engine takes.
            let [_, n, k, ..] = problem.shape.first::<4>();
            let is_aligned = k.is_multiple_of(16) && n.is_multiple_of(8);
            if family == Family::MatmulFp8 && !profile.mma.contains(&Mma::Wgmma) && !is_aligned {
                return Ok(());
            }
            let runs = |config: &Config| spec(family).legal(config, &problem, &profile);
            let verdicts: Vec<_> = defaults.iter().map(runs).collect();
            prop_assert!(verdicts.iter().any(Result::is_ok), "{} on {}: {:?}", problem, profile.name, verdicts);
            Ok(())
        });
    }
}

/// A launch that the driver takes, and tensor maps that it encodes.
fn is_possible(launch: &Launch, profile: &GpuProfile) {
    assert!(
        launch.grid[0] > 0 && i32::try_from(launch.grid[0]).is_ok() && launch.grid[1..] == [1, 1],
        "{:?}",
        launch.grid
    );
    assert!(
        launch.threads.iter().product::<u32>() <= 1024 && launch.dynamic_smem <= profile.smem_per_block,
        "{launch:?}"
    );
    assert_eq!(launch.grid[0] % launch.cluster[0], 0);
    assert!(launch.workspace.0 <= 4 << 30, "{}", launch.workspace);
    for arg in &launch.args {
        match arg {
            Arg::TensorMap(map) => {
                assert!(map.strides_bytes.iter().all(|stride| stride % 16 == 0), "{map:?}");
                assert!(map.tile.iter().all(|extent| *extent <= 256), "{map:?}");
            }
            Arg::I32(number) => assert!(*number >= 0, "{launch:?}"),
            _ => {}
        }
    }
}

#[test]
fn what_the_conditions_allow_can_be_launched_however_large() {
    let large = |family: Family| {
        let extents = vec![(0u32..36).prop_flat_map(|log2| 1i64..(2i64 << log2)); family.dimensions().len()];
        (extents, 0..2usize).prop_filter_map("is a problem", move |(extents, dtype)| {
            let named: Vec<_> = family.dimensions().iter().copied().zip(extents).collect();
            Problem::new(family, &named, family.dtypes()[dtype % family.dtypes().len()]).ok()
        })
    };
    for (family, plan, profile) in plans() {
        let configs: Vec<Config> =
            plan.spaces(&profile).into_iter().flat_map(|space| space.configs.iter().cloned()).collect();
        if configs.is_empty() {
            continue;
        }
        check_all(128, &(prop_oneof![problem(family), large(family).boxed()], 0..64usize), |(problem, part)| {
            for config in configs.iter().skip(part).step_by(64) {
                if spec(family).legal(config, &problem, &profile).is_ok() {
                    let (_, launch) = spec(family).build(config, &problem, &profile).unwrap();
                    is_possible(&launch, &profile);
                }
            }
            Ok(())
        });
    }
}

#[test]
fn most_configs_of_a_space_run_somewhere() {
    for (family, plan, profile) in plans() {
        for space in plan.spaces(&profile) {
            let never = space.configs.iter().filter(|config| spec(family).check(config, &profile).is_err()).count();
            assert!(never * 2 < space.configs.len(), "{family} {}: {never} of {}", profile.name, space.configs.len());
        }
    }
}

#[test]
fn the_work_of_a_config_is_what_its_launch_does() {
    for (family, plan, profile) in plans() {
        let configs: Vec<Config> =
            plan.spaces(&profile).into_iter().flat_map(|space| space.configs.iter().cloned()).collect();
        if configs.is_empty() {
            continue;
        }
        check_all(16, &(problem(family), 0..256usize), |(problem, part)| {
            for config in configs.iter().skip(part).step_by(256) {
                let Ok(work) = spec(family).work(config, &problem, &profile) else { continue };
                let launch = spec(family).launch(config, &problem, &profile).unwrap();
                let split = u64::from(config.split_k.unwrap_or(1));
                prop_assert!(work.programs * work.tiles_a_program >= work.tiles * split);
                prop_assert!(work.smem >= launch.dynamic_smem && work.resident >= 1 && work.steps_a_tile >= 1);
                if config.pid_type == Some(PidType::Flat)
                    && !matches!(config.mma, Some(Mma::Tcgen05 | Mma::Tcgen05Tmem))
                {
                    prop_assert_eq!(
                        work.programs,
                        launch.grid.iter().map(|extent| u64::from(*extent)).product::<u64>()
                    );
                }
            }
            Ok(())
        });
    }
}
