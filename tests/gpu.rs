//! What only a GPU can show: the reference kernels against f64 on the host, random configs of every plan against the
//! reference kernels on random awkward shapes and inputs, mutants against the check, configs against themselves, and what a
//! sample reads. Each test passes with a message where there is no GPU, and fails where there is one that cannot be used.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on may stop

mod common;

use kernel_sweep::compile::{Compiler, Outcome};
use kernel_sweep::device::cuda::{Flush, Gpu};
use kernel_sweep::device::mutants::mutants;
use kernel_sweep::device::{Address, Device, Found, Program, cpu};
use kernel_sweep::error::{Error, Result};
use kernel_sweep::families::{self, Arg, Code, FamilySpec, HostTensor, KernelSpec, Launch};
use kernel_sweep::measure::{RacePlan, Sample as Timed, Sampling, Timer, WarmUp, median, warm_up};
use kernel_sweep::model::{Bytes, Config, Dtype, Family, GpuProfile, Mma, PidType, Problem};
use kernel_sweep::plan::{self, Candidate, Plan, Space};
use kernel_sweep::process;
use kernel_sweep::site::{self, Progress};
use kernel_sweep::worker::{Arm, Deadlines, Verdict, Worker};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Shapes of each family that are checked.
const SHAPES: usize = 200;
/// On a busy machine the usual one is too short.
const COMPILE_DEADLINE: Duration = Duration::from_secs(600);

struct Bench {
    machine: Machine,
    gpu: Gpu,
    prepared: Option<Problem>,
}

/// A GPU and the compiler for it.
struct Machine {
    found: Found,
    compiler: Compiler,
    support: PathBuf,
}

/// The first GPU; nothing where there is none.
fn machine() -> Option<Machine> {
    let found = common::gpu()?;
    process::use_program(Path::new(env!("CARGO_BIN_EXE_sweep")));
    let compiler = site::compiler(COMPILE_DEADLINE, &found.profile, &Progress::new(true, false)).unwrap();
    let support = cubin(&compiler, &KernelSpec::shipped("support.cu", "empty", []));
    Some(Machine { found, compiler, support })
}

/// The same, opened in this process.
fn bench() -> Option<Bench> {
    let machine = machine()?;
    let Address::Cuda(ordinal) = machine.found.address else { panic!("{} is no GPU", machine.found.name) };
    let gpu = Gpu::open(ordinal, &machine.support).unwrap();
    Some(Bench { machine, gpu, prepared: None })
}

fn task(problem: &Problem) -> families::Task {
    families::spec(problem.family).task(problem)
}

fn cubin(compiler: &Compiler, kernel: &KernelSpec) -> PathBuf {
    match compiler.wait(kernel).unwrap() {
        Outcome::Compiled { cubin, .. } => cubin,
        Outcome::Failed { error, .. } => panic!("{kernel:?}: {error}"),
    }
}

impl Machine {
    fn reference(&self, problem: &Problem) -> Program {
        let (kernel, launch) = families::spec(problem.family).reference(problem).unwrap().unwrap();
        Program { cubin: cubin(&self.compiler, &kernel), entry: kernel.entry, launch, is_binary: false }
    }
}

impl Bench {
    /// Nothing where it is the problem prepared before.
    fn prepare(&mut self, problem: &Problem, seed: u64) {
        if self.prepared.replace(*problem) != Some(*problem) {
            let reference = self.machine.reference(problem);
            self.gpu.prepare(&task(problem), seed, Some(&reference)).unwrap();
        }
    }
}

/// Extents that are awkward for blocks of 16 to 256: primes, powers of two and their neighbours.
const EXTENTS: [i64; 24] =
    [1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 127, 128, 129, 191, 255, 257];
/// The same for what kernels loop over.
const DEPTHS: [i64; 6] = [511, 513, 1000, 1031, 2048, 2049];
const LENGTHS: [i64; 6] = [1023, 4097, 5003, 16_384, 50_257, 131_073];

/// A small linear congruential sequence, so that every run checks the same.
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % count
    }

    fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        &values[self.below(values.len())]
    }

    /// One of the extents, or now and then one of those that are longer.
    fn extent(&mut self, longer: &[i64]) -> i64 {
        if self.below(4) == 0 { *self.pick(longer) } else { *self.pick(&EXTENTS) }
    }

    fn problem(&mut self, family: Family) -> Problem {
        let mut dimensions: Vec<(&str, i64)> =
            family.dimensions().iter().map(|name| (*name, *self.pick(&EXTENTS))).collect();
        let mut dtype = Dtype::Bf16;
        match family {
            packed if packed.packs_two_weights_a_byte() => dimensions[2].1 = 2 * self.extent(&DEPTHS),
            Family::Matmul | Family::MatmulInt16 | Family::MatmulMxfp8 => dimensions[2].1 = self.extent(&DEPTHS),
            Family::MatmulFp8 => {
                dtype = Dtype::Fp8;
                dimensions[2].1 = self.extent(&DEPTHS);
                let scale_block = *self.pick(&[0, 1, 128]);
                dimensions.extend((scale_block > 0).then_some(("scale_block", scale_block)));
            }
            Family::Attention => {
                dimensions[0].1 = *self.pick(&[1, 2, 3]);
                dimensions[1].1 = *self.pick(&[1, 2, 5]);
                dimensions[3].1 = self.extent(&DEPTHS);
                dimensions[4].1 = dimensions[4].1.min(256);
            }
            Family::RowSoftmax | Family::RowNormRms | Family::RowNormLayer | Family::RowCrossEntropy => {
                dtype = *self.pick(family.dtypes());
                dimensions[1].1 = self.extent(&LENGTHS);
            }
            _ => {
                dtype = *self.pick(family.dtypes());
                let any = 1 + self.below(200_000) as i64;
                dimensions[0].1 = self.extent(&[any]);
                if self.below(2) == 0 {
                    dimensions[0].1 *= self.pick(&EXTENTS);
                }
            }
        }
        Problem::new(family, &dimensions, dtype).unwrap()
    }
}

/// `count` distinct shapes of a family: the smallest of all, then random ones.
fn shapes(family: Family, count: usize) -> Vec<Problem> {
    shapes_like(family, count, |_| true)
}

/// The same of those that are like this.
fn shapes_like(family: Family, count: usize, like: fn(&Problem) -> bool) -> Vec<Problem> {
    let mut random = Random(family.place() as u64);
    let least = |name: &'static str| (name, if name == "k" { 2 } else { 1 });
    let smallest: Vec<_> = family.dimensions().iter().copied().map(least).collect();
    let smallest = Problem::new(family, &smallest, family.dtypes()[0]).unwrap();
    let mut seen = BTreeSet::new();
    let all = std::iter::once(smallest).chain(std::iter::repeat_with(|| random.problem(family)));
    all.filter(|problem| like(problem) && seen.insert(*problem)).take(count).collect()
}

/// A config to check on a shape.
struct Case {
    problem: Problem,
    config: Config,
    kernel: KernelSpec,
    launch: Launch,
}

impl Case {
    /// Nothing where the config cannot run there.
    fn of(problem: Problem, candidate: Candidate) -> Option<Self> {
        let (kernel, launch) = candidate.program.ok()??;
        Some(Self { problem, config: candidate.config, kernel, launch })
    }
}

/// How much of a family to check.
struct Sample {
    shapes: usize,
    /// Which are taken.
    like: fn(&Problem) -> bool,
    /// Sets of compile-time knobs in all, as near as every alignment a shape may have allows.
    kernels: usize,
    configs_per_shape: usize,
}

/// The configs of a space by their compile-time knobs.
fn variants(space: &Space, spec: &dyn FamilySpec) -> Vec<Vec<Config>> {
    let mut variants: BTreeMap<Config, Vec<Config>> = BTreeMap::new();
    for config in &space.configs {
        variants.entry(spec.compiled_half(config)).or_default().push(config.clone());
    }
    variants.into_values().collect()
}

/// Random legal configs of a family's plan on random shapes. Kernels differ with the alignment of their shape too; so each
/// alignment has its own few sets of compile-time knobs, of every space in turn, and few kernels are compiled in all.
fn cases(family: Family, profile: &GpuProfile, sample: &Sample) -> Vec<Case> {
    let spec = families::spec(family);
    let plan = Plan::load(family, None).unwrap();
    let spaces: Vec<_> = plan.spaces(profile).into_iter().map(|space| variants(space, spec)).collect();
    let default = plan.defaults(profile).remove(0);
    let mut by_alignment: BTreeMap<KernelSpec, Vec<Problem>> = BTreeMap::new();
    for problem in shapes_like(family, sample.shapes, sample.like) {
        by_alignment.entry(spec.kernel(&default, &problem, profile).unwrap()).or_default().push(problem);
    }
    let kernels_per_alignment = sample.kernels.div_ceil(by_alignment.len()).max(2);

    let mut random = Random(1000 + family.place() as u64);
    let mut cases = Vec::new();
    for problems in by_alignment.values() {
        let fits = |variant: &&Vec<Config>| spec.kernel(&variant[0], &problems[0], profile).is_ok();
        let fitting: Vec<Vec<&Vec<Config>>> = spaces.iter().map(|space| space.iter().filter(fits).collect()).collect();
        let fitting: Vec<_> = fitting.into_iter().filter(|space| !space.is_empty()).collect();
        let here: Vec<&Vec<Config>> =
            (0..kernels_per_alignment).map(|turn| *random.pick(&fitting[turn % fitting.len()])).collect();
        for problem in problems {
            // Most shapes are too small for some of the splits: draw often, but not for ever.
            let drawn: Vec<Config> = (0..50 * sample.configs_per_shape)
                .map(|_| {
                    let variant = *random.pick(&here);
                    random.pick(variant).clone()
                })
                .collect();
            let mut taken = BTreeSet::new();
            let distinct = std::iter::once(default.clone()).chain(drawn).filter(|config| taken.insert(config.clone()));
            let legal = distinct.filter_map(|config| Case::of(*problem, plan::candidate(config, problem, profile)));
            cases.extend(legal.take(sample.configs_per_shape));
        }
    }
    cases
}

/// Compiles every case's kernel on all cores. Those that are pruned for spilling, as the sweep prunes them, are left out.
fn compiled(compiler: &Compiler, cases: Vec<Case>) -> Vec<(Case, Program)> {
    for case in &cases {
        compiler.request(&case.kernel).unwrap();
        compiler.request(&families::spec(case.problem.family).reference(&case.problem).unwrap().unwrap().0).unwrap();
    }
    let compiled = cases.into_iter().filter_map(|case| match compiler.wait(&case.kernel).unwrap() {
        Outcome::Compiled { resources, .. } if resources.spill_bytes > 0 => None,
        Outcome::Compiled { cubin, .. } => {
            let program =
                Program { cubin, entry: case.kernel.entry.clone(), launch: case.launch.clone(), is_binary: false };
            Some((case, program))
        }
        Outcome::Failed { error, .. } => panic!("{}: {error}", case.config),
    });
    compiled.collect()
}

/// What `every_family_is_right_on_random_shapes` checks.
const ALL: Sample = Sample { shapes: SHAPES, like: |_| true, kernels: 40, configs_per_shape: 5 };
/// What `sanitizer_sample` checks. Under racecheck a large problem takes many seconds; but some loops must be long enough for
/// stages of shared memory to be used again.
const FEW: [Sample; 2] = [
    Sample { shapes: 5, like: is_small, kernels: 4, configs_per_shape: 3 },
    Sample { shapes: 5, like: |problem| is_small(problem) && is_long(problem), kernels: 4, configs_per_shape: 3 },
];

fn is_small(problem: &Problem) -> bool {
    problem.shape.dimensions().iter().map(|(_, extent)| extent).product::<u64>() <= 1 << 17
}

fn is_long(problem: &Problem) -> bool {
    problem.shape.dimensions().iter().any(|(_, extent)| *extent > 500)
}

/// Problems of a family, configs on each, and launches of each of these that `a_config_errs_the_same_each_time` checks.
const REPEATED_PROBLEMS: usize = 20;
const REPEATED_CONFIGS: usize = 8;
const REPEATS: usize = 20;

/// Compiles all that the tests on an H200 launch, on a machine that need not have one.
#[test]
#[ignore = "compiles some hundred kernels"]
fn fill_the_cache_for_an_h200() {
    process::use_program(Path::new(env!("CARGO_BIN_EXE_sweep")));
    let h200 = GpuProfile::by_name("h200").unwrap();
    let compiler = site::compiler(COMPILE_DEADLINE, &h200, &Progress::new(true, false)).unwrap();
    cubin(&compiler, &KernelSpec::shipped("support.cu", "empty", []));
    let samples = Family::ALL
        .into_iter()
        .flat_map(|family| [cases(family, &h200, &ALL), sanitizer_cases(family, &h200), planned_cases(family, &h200)])
        .chain(Family::ALL.into_iter().map(|family| mutant_cases(family, &h200)))
        .chain([short_and_fast(&h200)]);
    println!("{} cases", compiled(&compiler, samples.flatten().collect()).len());
    for family in Family::ALL {
        for problem in shapes(family, SHAPES) {
            cubin(&compiler, &families::spec(family).reference(&problem).unwrap().unwrap().0);
        }
    }
}

/// Random legal configs on problems of the family's plan: more programs and longer loops than awkward shapes have, as a race needs.
fn planned_cases(family: Family, profile: &GpuProfile) -> Vec<Case> {
    let plan = Plan::load(family, None).unwrap();
    let problems = plan.problems(profile).unwrap();
    let mut random = Random(2000 + family.place() as u64);
    let every = problems.len().div_ceil(REPEATED_PROBLEMS);
    let cases = problems.iter().step_by(every).flat_map(|planned| {
        let mut candidates = plan.candidates(&planned.problem, profile);
        let in_random_order = std::iter::from_fn(|| {
            let left = candidates.len();
            (left > 0).then(|| candidates.swap_remove(random.below(left)))
        });
        let legal = in_random_order.filter_map(|candidate| Case::of(planned.problem, candidate));
        legal.take(REPEATED_CONFIGS).collect::<Vec<_>>()
    });
    cases.collect()
}

/// Where one lane of a warp arrives at a barrier for all, racecheck does not know that it does, and what the others wrote or
/// read looks like a race. So all lanes arrive here, which changes nothing else.
fn sanitizer_cases(family: Family, profile: &GpuProfile) -> Vec<Case> {
    let mut cases: Vec<Case> = FEW.iter().flat_map(|sample| cases(family, profile, sample)).collect();
    for case in cases.iter_mut().filter(|case| case.kernel.code == Code::Shipped("gemm_wgmma.cu".into())) {
        case.kernel.macros.push(("EVERY_LANE_ARRIVES".into(), "1".into()));
    }
    cases
}

/// What checking a family's cases came to.
#[derive(Default)]
struct Tally {
    shapes: BTreeSet<Problem>,
    kernels: BTreeSet<PathBuf>,
    checked: usize,
    worst: f64,
    wrong: Vec<String>,
}

impl Tally {
    /// Notes how much of what is allowed a case's worst element errs by, or what went wrong.
    fn note(&mut self, case: &Case, program: &Program, outcome: Result<f64, String>) {
        self.shapes.insert(case.problem);
        self.kernels.insert(program.cubin.clone());
        self.checked += 1;
        match outcome {
            Ok(worst) => self.worst = self.worst.max(worst),
            Err(error) => self.wrong.push(format!("{} {}: {error}", case.problem, case.config)),
        }
    }

    fn print(&self, family: Family) {
        println!(
            "{family}: {} shapes, {} kernels, {} configs checked, {} wrong, those that are right err by at most {:.3} of what is allowed",
            self.shapes.len(),
            self.kernels.len(),
            self.checked,
            self.wrong.len(),
            self.worst
        );
        for wrong in self.wrong.iter().take(10) {
            println!("  {wrong}");
        }
    }
}

/// The family in `$SWEEP_SAMPLE`, or all of them.
fn sampled_families() -> Vec<Family> {
    let wanted = std::env::var("SWEEP_SAMPLE").ok();
    Family::ALL.into_iter().filter(|family| wanted.as_deref().is_none_or(|name| name == family.name())).collect()
}

/// In a process of its own, so that a kernel that takes its context down costs one case.
#[test]
fn every_family_is_right_on_random_shapes() {
    let Some(machine) = machine() else { return };
    let mut worker = Worker::new(machine.found.address, Some(machine.support.clone()), Deadlines::default());
    let once = Sampling { min_samples: 1, max_samples: 1, abandon_above: None };
    let mut wrong = 0;
    for family in sampled_families() {
        let mut tally = Tally::default();
        let mut prepared = None;
        for (seed, (case, program)) in
            (0..).zip(compiled(&machine.compiler, cases(family, &machine.found.profile, &ALL)))
        {
            if prepared != Some(case.problem) {
                prepared = Some(case.problem);
                let reference = machine.reference(&case.problem);
                if let Err(failure) = worker.prepare(task(&case.problem), seed, Some(reference)) {
                    tally.note(&case, &program, Err(format!("preparing: {failure}")));
                    prepared = None;
                    continue;
                }
            }
            let arm = Arm { config: case.config.clone(), program: Some(program.clone()), anchor: false };
            worker.submit(arm, once);
            let outcome = match worker.verdict() {
                Ok(Verdict::Timed { worst, .. }) => Ok(worst),
                Ok(verdict) => Err(format!("{verdict:?}")),
                Err(failure) => Err(failure.to_string()),
            };
            tally.note(&case, &program, outcome);
        }
        tally.print(family);
        assert!(tally.shapes.len() >= SHAPES, "{family}: {} distinct shapes", tally.shapes.len());
        wrong += tally.wrong.len();
    }
    assert_eq!(wrong, 0, "configs that are wrong, see above");
}

/// Warps that race for shared memory lose a sum now and then, and it may be one too small to be seen. But the same inputs then
/// err otherwise, by far more than the order in which the errors are summed makes.
#[test]
fn a_config_errs_the_same_each_time() {
    const SUMMING_NOISE: f64 = 1e-9;
    let Some(mut bench) = bench() else { return };
    let mut unsteady = 0;
    for family in sampled_families() {
        let mut tally = Tally::default();
        let cases = planned_cases(family, &bench.machine.found.profile);
        for (seed, (case, program)) in (0..).zip(compiled(&bench.machine.compiler, cases)) {
            bench.prepare(&case.problem, seed);
            bench.gpu.load(&case.config, Some(&program)).unwrap();
            let deviations: Vec<_> = (0..REPEATS).map(|_| bench.gpu.verify().unwrap()).collect();
            let errors = deviations.iter().map(|deviation| deviation.relative);
            let [least, most] = [f64::min, f64::max].map(|pick| errors.clone().reduce(pick).unwrap());
            let steady = most - least <= SUMMING_NOISE * most;
            let outcome = if steady { Ok(deviations[0].worst) } else { Err(format!("errs by {least:e} to {most:e}")) };
            tally.note(&case, &program, outcome);
        }
        tally.print(family);
        assert!(tally.checked > REPEATED_PROBLEMS, "{family}: {} configs", tally.checked);
        unsteady += tally.wrong.len();
    }
    assert_eq!(unsteady, 0, "configs that err otherwise each time, see above");
}

/// Programs of a cluster that send each other sums, in many waves: a stage that is filled again too soon, or a sum read too
/// early, shows in a few elements of some launches.
#[test]
#[ignore = "launches each config hundreds of times"]
fn a_split_among_programs_loses_no_sum() {
    const LAUNCHES: usize = 300;
    let Some(mut bench) = bench() else { return };
    let profile = bench.machine.found.profile.clone();
    let mut lost = 0;
    for family in [Family::MatmulInt4, Family::MatmulFp4, Family::Matmul] {
        let problem = Problem::parse(family, "m=8,n=131072,k=5120", Dtype::Bf16).unwrap();
        bench.prepare(&problem, 1);
        let mut cases = Vec::new();
        for (stages, split_k) in [(3, 8), (4, 8), (12, 8), (3, 16), (3, 4), (3, 2), (4, 1)] {
            let config = format!(
                r#"{{"block_sizes": [16, 128, 64], "num_warps": 4, "num_stages": {stages}, "pid_type": "flat",
                    "l2_groupings": [1], "split_k": {split_k}, "mma": "mma_sync_tma"}}"#
            );
            let mut config: Config = serde_json::from_str(&config).unwrap();
            config.block_sizes[2] /= if family == Family::Matmul { 1 } else { 2 };
            cases.extend(Case::of(problem, plan::candidate(config, &problem, &profile)));
        }
        for (case, program) in compiled(&bench.machine.compiler, cases) {
            bench.gpu.load(&case.config, Some(&program)).unwrap();
            let wrong: Vec<_> =
                (0..LAUNCHES).map(|_| bench.gpu.verify().unwrap()).filter(|found| !found.is_right()).collect();
            println!("{problem} {}: {} of {LAUNCHES} launches wrong", case.config, wrong.len());
            for found in wrong.iter().take(2) {
                println!("  {found:?}");
            }
            lost += wrong.len();
        }
    }
    assert_eq!(lost, 0, "launches that lost a sum, see above");
}

/// Products whose mistakes a norm over the whole output does not see.
const EASILY_HIDDEN: [&str; 7] = [
    "m=16,n=4096,k=14336",
    "m=1,n=8192,k=28672",
    "m=32,n=14336,k=57344",
    "m=12000,n=4096,k=4096",
    "m=4096,n=16384,k=4096",
    "m=64,n=64,k=64",
    "m=1024,n=1024,k=1024",
];

/// The problems of a family's plan that are largest in some extent, and the one of the most work.
fn largest(family: Family, profile: &GpuProfile) -> BTreeSet<Problem> {
    let plan = Plan::load(family, None).unwrap();
    let problems: Vec<Problem> = plan.problems(profile).unwrap().iter().map(|planned| planned.problem).collect();
    let spec = families::spec(family);
    let extent = |dimension: usize| move |problem: &&Problem| problem.shape.dimensions()[dimension].1;
    let longest = (0..family.dimensions().len()).filter_map(|dimension| problems.iter().max_by_key(extent(dimension)));
    let most_work = problems.iter().max_by(|one, other| spec.flops(one).total_cmp(&spec.flops(other)));
    longest.chain(most_work).copied().collect()
}

/// The default config of each kind of tensor core on these.
fn mutant_cases(family: Family, profile: &GpuProfile) -> Vec<Case> {
    let hidden = EASILY_HIDDEN.iter().map(|shape| Problem::parse(Family::Matmul, shape, Dtype::Bf16).unwrap());
    let hidden = hidden.filter(|_| family == Family::Matmul);
    let plan = Plan::load(family, None).unwrap();
    let cases = largest(family, profile).into_iter().chain(hidden).flat_map(|problem| {
        let defaults = plan.defaults(profile).into_iter();
        let legal = defaults.filter_map(|config| Case::of(problem, plan::candidate(config, &problem, profile)));
        legal.collect::<Vec<_>>()
    });
    cases.collect()
}

/// Each case as it is, and with each mistake.
#[test]
fn every_mutant_is_caught_on_the_largest_problems() {
    let Some(mut bench) = bench() else { return };
    let profile = bench.machine.found.profile.clone();
    let mut escaped = 0;
    for family in sampled_families() {
        let cases = mutant_cases(family, &profile);
        let (mut tally, mut checked, mut least) = (Tally::default(), 0, (f64::INFINITY, String::new()));
        for (seed, (case, program)) in (0..).zip(compiled(&bench.machine.compiler, cases)) {
            let problem = case.problem;
            bench.prepare(&problem, seed);
            bench.gpu.load(&case.config, Some(&program)).unwrap();
            let right = bench.gpu.verify().unwrap();
            tally.note(&case, &program, if right.is_right() { Ok(right.worst) } else { Err(format!("{right:?}")) });
            for mutant in mutants(&problem) {
                let wrong = bench.gpu.verify_altered(&mutant.alterations).unwrap();
                checked += 1;
                if wrong.is_right() {
                    tally.wrong.push(format!("{problem} {}: {} escapes, {wrong:?}", case.config, mutant.name));
                } else if wrong.poisoned == 0 && wrong.worst < least.0 {
                    least = (wrong.worst, format!("{problem}: {}", mutant.name));
                }
            }
            let again = bench.gpu.verify().unwrap();
            assert_eq!(again.worst.to_bits(), right.worst.to_bits(), "{problem}: a mutant left something behind");
        }
        tally.print(family);
        println!("  {checked} mutants err by at least {:.1} times what is allowed: {}", least.0, least.1);
        assert!(checked >= 5, "{family}: {checked} mutants");
        escaped += tally.wrong.len();
    }
    assert_eq!(escaped, 0, "mutants that escape or configs that are wrong, see above");
}

/// A small sample of each family, launched by this process: for compute-sanitizer, which slows kernels down many times. Run
/// it once without, to fill the cache of cubins. No case of a family begins after `$SWEEP_SAMPLE_SECONDS`, where it is set.
#[test]
#[ignore = "for compute-sanitizer"]
fn sanitizer_sample() {
    let Some(mut bench) = bench() else { return };
    let limit: Option<f64> = std::env::var("SWEEP_SAMPLE_SECONDS").ok().map(|seconds| seconds.parse().unwrap());
    let mut wrong = 0;
    for family in sampled_families() {
        let mut tally = Tally::default();
        let cases = compiled(&bench.machine.compiler, sanitizer_cases(family, &bench.machine.found.profile));
        let count = cases.len();
        let started = Instant::now();
        for (seed, (case, program)) in (0..).zip(cases) {
            let begun = started.elapsed().as_secs_f64();
            if limit.is_some_and(|limit| begun > limit) {
                println!("{family}: out of time, {} of {count} cases checked", tally.checked);
                break;
            }
            bench.prepare(&case.problem, seed);
            let verified = bench.gpu.load(&case.config, Some(&program)).and_then(|()| bench.gpu.verify());
            let outcome = match verified {
                Ok(deviation) if deviation.is_right() => Ok(deviation.worst),
                Ok(deviation) => Err(format!("{deviation:?}")),
                Err(fault) => Err(fault.to_string()),
            };
            let seconds = started.elapsed().as_secs_f64() - begun;
            println!("{seconds:6.2} s  {} {}  {}", case.problem, case.config, case.kernel);
            tally.note(&case, &program, outcome);
        }
        tally.print(family);
        wrong += tally.wrong.len();
    }
    assert_eq!(wrong, 0, "configs that are wrong, see above");
}

/// What the tests above check, as far as it can be known without a GPU.
#[test]
fn the_sample_of_every_family_is_wide_and_needs_few_kernels() {
    let h200 = GpuProfile::by_name("h200").unwrap();
    for family in Family::ALL {
        let cases = cases(family, &h200, &ALL);
        let kernels: BTreeSet<&KernelSpec> = cases.iter().map(|case| &case.kernel).collect();
        let shapes: BTreeSet<Problem> = cases.iter().map(|case| case.problem).collect();
        assert!(shapes.len() >= SHAPES, "{family}: {} distinct shapes", shapes.len());
        assert!(cases.len() > 2 * shapes.len(), "{family}: {} cases", cases.len());
        assert!((20..200).contains(&kernels.len()), "{family}: {} kernels", kernels.len());
        let planned = planned_cases(family, &h200).len();
        assert!(planned > REPEATED_PROBLEMS * REPEATED_CONFIGS / 2, "{family}: {planned} cases of the plan");
        let mutants: Vec<usize> = mutant_cases(family, &h200).iter().map(|case| mutants(&case.problem).len()).collect();
        assert!(!mutants.is_empty() && mutants.iter().all(|count| *count >= 5), "{family}: {mutants:?} mutants");
    }
}

#[test]
fn reference_kernels_agree_with_f64_on_the_host() {
    let Some(mut bench) = bench() else { return };
    // Of those that a manifest alone describes nothing is known on the host.
    for family in Family::ALL.into_iter().filter(|family| families::spec(*family).has_host_kernels()) {
        let mut worst: f64 = 0.0;
        for (seed, problem) in (0..).zip(shapes(family, SHAPES)) {
            let spec = families::spec(family);
            let tensors = spec.tensors(&problem).inputs;
            bench.prepare(&problem, seed);
            let found = bench.gpu.references().unwrap();
            for (found, tensors) in found.into_iter().zip([tensors.clone(), spec.task(&problem).awkward.unwrap()]) {
                let inputs: Vec<HostTensor> =
                    (seed..).zip(&tensors).map(|(seed, tensor)| families::fill(tensor, seed)).collect();
                let wanted = spec.host_reference(&problem, &inputs);
                assert_eq!(found.values.len(), wanted.values.len(), "{problem}");
                let values = found.values.iter().map(|value| *value as f32).collect();
                let deviation = cpu::deviation(&HostTensor::F32(values), &wanted);
                assert!(deviation.worst < 0.25 && deviation.poisoned == 0, "{problem}: {deviation:?}");
                worst = worst.max(deviation.worst);
                for (found, wanted) in found.allowed.into_iter().zip(wanted.allowed) {
                    // Below, neither counts for anything: more is allowed of every element.
                    let (found, wanted) = (found.max(1e-38), wanted.max(1e-38));
                    assert!((found / wanted - 1.0).abs() < 0.02, "{problem}: {found:e} is allowed, not {wanted:e}");
                }
            }
        }
        println!("{family}: {SHAPES} shapes, plain and awkward inputs, errors up to {worst:.3} of what is allowed");
    }
}

/// The GPU with the kernel it has loaded, for warming up.
struct Loaded<'a>(&'a mut Gpu);

impl Timer for Loaded<'_> {
    fn sample(&mut self) -> Result<Timed> {
        self.0.sample(0).map_err(Error::failure)
    }
}

#[test]
fn a_sample_reads_the_kernel_and_nothing_else() {
    let Some(mut bench) = bench() else { return };
    let problem = Problem::new(Family::Elementwise, &[("numel", 1 << 27)], Dtype::Bf16).unwrap();
    bench.prepare(&problem, 1);
    let time = |gpu: &mut Gpu| {
        let samples: Vec<Timed> = (0..50).map(|round| gpu.sample(round).unwrap()).collect();
        let mhz = samples.last().unwrap().sm_mhz.unwrap_or(0);
        (median(samples.iter().map(|sample| sample.time.0)).unwrap(), mhz)
    };

    let launch = Launch {
        grid: [1, 1, 1],
        cluster: [1; 3],
        threads: [32, 1, 1],
        dynamic_smem: Bytes(0),
        args: Vec::new(),
        workspace: Bytes(0),
        counters: 0,
        cooperative: false,
    };
    let empty = Program { cubin: bench.machine.support.clone(), entry: "empty".into(), launch, is_binary: false };
    bench.gpu.load(&Config::default(), Some(&empty)).unwrap();
    let (cold_us, cold_mhz) = time(&mut bench.gpu);

    let config = Config {
        block_sizes: vec![2048],
        mma: Some(Mma::Simt),
        num_warps: Some(4),
        pid_type: Some(PidType::Flat),
        ..Config::default()
    };
    let spec = families::spec(Family::Elementwise);
    let kernel = spec.kernel(&config, &problem, &bench.machine.found.profile).unwrap();
    let launch = spec.launch(&config, &problem, &bench.machine.found.profile).unwrap();
    let add = Program { cubin: cubin(&bench.machine.compiler, &kernel), entry: kernel.entry, launch, is_binary: false };
    bench.gpu.load(&config, Some(&add)).unwrap();
    // As the worker does before it times: a GPU that was idle has slower clocks.
    let started = Instant::now();
    warm_up(&mut Loaded(&mut bench.gpu), &WarmUp::default(), &|| started.elapsed()).unwrap();
    let (add_us, add_mhz) = time(&mut bench.gpu);
    let terabytes_per_s = spec.bytes(&problem).0 as f64 / add_us / 1e6;
    bench.gpu.load(&Config::default(), Some(&empty)).unwrap();
    let (empty_us, empty_mhz) = time(&mut bench.gpu);
    println!("empty kernel {cold_us:.2} µs at {cold_mhz} MHz when cold, {empty_us:.2} µs at {empty_mhz} MHz when warm");
    println!("268 MB + 268 MB added at {terabytes_per_s:.2} TB/s and {add_mhz} MHz");
    assert!(empty_us < 3.0, "an empty kernel reads {empty_us} µs");
    assert!(bench.machine.found.profile.name != "h200" || terabytes_per_s > 3.8, "{terabytes_per_s} TB/s");
}

/// The support kernel that only reads, over a problem's first tensor.
fn reading(bench: &Bench, bytes: u64) -> Program {
    let launch = Launch {
        grid: [1024, 1, 1],
        cluster: [1; 3],
        threads: [256, 1, 1],
        dynamic_smem: Bytes(0),
        args: vec![Arg::Input(0), Arg::I64((bytes / 16) as i64), Arg::Workspace],
        workspace: Bytes(16),
        counters: 0,
        cooperative: false,
    };
    Program { cubin: bench.machine.support.clone(), entry: "read_lines".into(), launch, is_binary: false }
}

/// A kernel that reads takes what it takes after reading alone, however much that was; after writing it pays for that too.
#[test]
fn a_flush_leaves_nothing_to_pay() {
    let Some(mut bench) = bench() else { return };
    println!("{:>8} {:>8} {:>8} {:>8} {:>8}", "MB", "nothing", "read", "thrice", "written");
    for megabytes in [8, 17, 34, 67, 134, 268] {
        let bytes = (megabytes << 20) as u64;
        let problem = Problem::new(Family::Elementwise, &[("numel", (bytes / 2) as i64)], Dtype::Bf16).unwrap();
        bench.prepare(&problem, 1);
        let program = reading(&bench, bytes);
        bench.gpu.load(&Config::default(), Some(&program)).unwrap();
        let started = Instant::now();
        warm_up(&mut Loaded(&mut bench.gpu), &WarmUp::default(), &|| started.elapsed()).unwrap();
        // Interleaved in every order, so that the clock and what ran before are the same for all.
        let flushes = [Flush::Nothing, Flush::Read, Flush::ReadThrice, Flush::Written];
        let mut times = [const { Vec::new() }; 4];
        let mut random = Random(1);
        for turn in 0..480 {
            let place = random.below(4);
            times[place].push(bench.gpu.sample_after(flushes[place], turn).unwrap().time.0);
        }
        let [nothing, read, thrice, written] = times.map(|times| median(times).unwrap());
        println!("{megabytes:>8} {nothing:>8.2} {read:>8.2} {thrice:>8.2} {written:>8.2}");
        assert!(
            (read - thrice).abs() <= (0.02 * thrice).max(0.5),
            "{megabytes} MB: {read} µs, {thrice} after reading thrice"
        );
        assert!(read <= written + 0.5, "{megabytes} MB: {read} µs, {written} after writing");
    }
}

/// Kernels of less than 20 µs that read through the copy engine, whose times used to have two states.
fn short_and_fast(profile: &GpuProfile) -> Vec<Case> {
    let gemm = |blocks: [u32; 3], warps: u32, stages: u32, split_k: Option<u32>| Config {
        block_sizes: blocks.to_vec(),
        num_warps: Some(warps),
        num_stages: Some(stages),
        pid_type: Some(PidType::Flat),
        l2_groupings: vec![1],
        split_k,
        mma: Some(Mma::Wgmma),
        ..Config::default()
    };
    let cases = [
        (Family::Matmul, [64, 4096, 4096], gemm([64, 64, 128], 4, 4, Some(2))),
        (Family::Matmul, [1024, 1024, 1024], gemm([128, 64, 64], 4, 4, Some(1))),
        (Family::MatmulInt16, [64, 4096, 2048], gemm([64, 64, 64], 4, 4, Some(2))),
        (Family::MatmulInt4, [64, 4096, 4096], gemm([64, 64, 64], 4, 4, Some(2))),
        (Family::MatmulFp4, [64, 2048, 4096], gemm([64, 64, 64], 4, 4, Some(4))),
    ];
    let case = |(family, [m, n, k], config): (Family, [i64; 3], Config)| {
        let problem = Problem::new(family, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16).unwrap();
        Case::of(problem, plan::candidate(config, &problem, profile)).unwrap()
    };
    cases.map(case).into()
}

/// The same config raced in fresh processes comes to the same time. Where `$SWEEP_ROUNDS` names a file, every round goes there.
#[test]
#[ignore = "half a minute"]
fn a_race_comes_to_the_same_in_every_process() {
    const PROCESSES: usize = 20;
    let Some(machine) = machine() else { return };
    let cases = compiled(&machine.compiler, short_and_fast(&machine.found.profile));
    let mut times = vec![Vec::new(); cases.len()];
    let mut rounds = String::new();
    for process in 0..PROCESSES {
        let mut worker = Worker::new(machine.found.address, Some(machine.support.clone()), Deadlines::default());
        for ((case, program), times) in cases.iter().zip(&mut times) {
            worker.prepare(task(&case.problem), 1, Some(machine.reference(&case.problem))).unwrap();
            let arm = Arm { config: case.config.clone(), program: Some(program.clone()), anchor: false };
            let results = worker.race(vec![arm], RacePlan::FINAL, process as u64).unwrap();
            let Verdict::Timed { measurement, rounds_us, .. } = &results.verdicts[0] else { panic!("{results:?}") };
            times.push(measurement.summary.time_us.0);
            let mhz = measurement.sm_mhz.unwrap_or(0);
            for (round, us) in rounds_us.iter().enumerate() {
                writeln!(rounds, "{process},{},{round},{us},{mhz}", case.problem).unwrap();
            }
        }
    }
    if let Some(path) = std::env::var_os("SWEEP_ROUNDS") {
        std::fs::write(path, rounds).unwrap();
    }
    let mut agreeing = 0;
    let mut pairs = 0;
    for ((case, _), times) in cases.iter().zip(&times) {
        let near = |one: f64, other: f64| (one / other).ln().abs() <= 0.015f64.ln_1p();
        let all = times
            .iter()
            .enumerate()
            .flat_map(|(index, one)| times[index + 1..].iter().map(move |other| (*one, *other)));
        let near = all.clone().filter(|(one, other)| near(*one, *other)).count();
        println!("{} {}: {near} of {} pairs agree; {times:.2?}", case.problem, case.config, all.clone().count());
        agreeing += near;
        pairs += all.count();
    }
    println!("{agreeing} of {pairs} pairs within 1.5 %");
    assert!(agreeing as f64 >= 0.95 * pairs as f64, "{agreeing} of {pairs}");
}
