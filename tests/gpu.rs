//! What only a GPU can show: the reference kernels against f64 on the host, and what a sample reads. Each test passes
//! with a message where there is no GPU.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on may stop

use kernel_sweep::compile::{Compiler, Outcome};
use kernel_sweep::device::cuda::{self, Gpu};
use kernel_sweep::device::{Address, Device, Found, Program};
use kernel_sweep::families::{self, HostTensor, KernelSpec, Launch};
use kernel_sweep::measure::median;
use kernel_sweep::model::{Bytes, Config, Dtype, Family, Mma, PidType, Problem};
use kernel_sweep::sweep::{self, Progress};
use std::path::PathBuf;

struct Bench {
    found: Found,
    compiler: Compiler,
    support: PathBuf,
    gpu: Gpu,
}

/// The first GPU, one test at a time; nothing where there is none.
fn bench() -> Option<Bench> {
    let Some(found) = cuda::discover().into_iter().next() else {
        eprintln!("no GPU here: nothing to test");
        return None;
    };
    if std::env::var_os("SWEEP_PROGRAM").is_none() {
        eprintln!("set SWEEP_PROGRAM to the sweep binary");
        return None;
    }
    let compiler = sweep::compiler(&found.profile, &Progress::new(true, false)).unwrap();
    let support = cubin(&compiler, &KernelSpec { source: "support.cu", entry: "empty", macros: Vec::new() });
    let Address::Cuda(ordinal) = found.address else { return None };
    let gpu = Gpu::open(ordinal, &support).unwrap();
    Some(Bench { found, compiler, support, gpu })
}

fn cubin(compiler: &Compiler, kernel: &KernelSpec) -> PathBuf {
    match compiler.wait(kernel).unwrap() {
        Outcome::Compiled { cubin, .. } => cubin,
        Outcome::Failed { error, .. } => panic!("{kernel:?}: {error}"),
    }
}

impl Bench {
    fn prepare(&mut self, problem: &Problem, seed: u64) {
        let (kernel, launch) = families::spec(problem.family).reference(problem);
        let program = Program { cubin: cubin(&self.compiler, &kernel), entry: kernel.entry.into(), launch };
        self.gpu.prepare(problem, seed, Some(&program)).unwrap();
    }
}

/// Extents that are awkward for blocks of 16 to 256: primes, powers of two and their neighbours.
const EXTENTS: [i64; 24] =
    [1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 127, 128, 129, 191, 255, 257];

/// A small linear congruential sequence, so that every run checks the same shapes.
struct Shapes(u64);

impl Shapes {
    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        values[(self.0 >> 33) as usize % values.len()]
    }

    fn problem(&mut self, family: Family) -> Problem {
        let mut dimensions: Vec<(&str, i64)> =
            family.dimensions().iter().map(|name| (*name, self.pick(&EXTENTS))).collect();
        let mut dtype = Dtype::Bf16;
        match family {
            Family::MatmulInt4 | Family::MatmulFp4 => dimensions[2].1 *= 2,
            Family::Attention => {
                dimensions[0].1 = self.pick(&[1, 2, 3]);
                dimensions[1].1 = self.pick(&[1, 2, 5]);
            }
            Family::RowSoftmax | Family::Elementwise => dtype = self.pick(&Dtype::ALL),
            Family::Matmul | Family::MatmulInt16 => {}
        }
        if family == Family::Attention && dimensions[4].1 > 256 {
            dimensions[4].1 = 256;
        }
        Problem::new(family, &dimensions, dtype).unwrap()
    }
}

#[test]
fn reference_kernels_agree_with_f64_on_the_host() {
    let Some(mut bench) = bench() else { return };
    for family in Family::ALL {
        let mut shapes = Shapes(family as u64);
        let mut worst: f64 = 0.0;
        for seed in 0..200 {
            let problem = shapes.problem(family);
            let spec = families::spec(family);
            let tensors = spec.tensors(&problem).inputs;
            let inputs: Vec<HostTensor> =
                (seed..).zip(&tensors).map(|(seed, tensor)| families::fill(tensor, seed)).collect();
            let wanted = spec.host_reference(&problem, &inputs);
            bench.prepare(&problem, seed);
            let found = bench.gpu.reference().unwrap();
            assert_eq!(found.len(), wanted.len(), "{problem}");
            let difference: f64 = found.iter().zip(&wanted).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
            let size: f64 = wanted.iter().map(|y| y * y).sum();
            let relative = if difference == 0.0 { 0.0 } else { (difference / size).sqrt() };
            assert!(relative < 1e-5, "{problem}: {relative:e}");
            worst = worst.max(relative);
        }
        println!("{family}: 200 shapes, worst relative error {worst:.1e}");
    }
}

#[test]
fn a_sample_reads_the_kernel_and_nothing_else() {
    let Some(mut bench) = bench() else { return };
    let problem = Problem::new(Family::Elementwise, &[("numel", 1 << 27)], Dtype::Bf16).unwrap();
    bench.prepare(&problem, 1);
    let time = |gpu: &mut Gpu| {
        let times: Vec<f64> = (0..50).map(|_| gpu.sample().unwrap().time.0).collect();
        median(&times)
    };

    let launch = Launch {
        grid: [1, 1, 1],
        cluster: 1,
        threads: 32,
        dynamic_smem: Bytes(0),
        args: Vec::new(),
        workspace: Bytes(0),
        counters: 0,
    };
    let empty = Program { cubin: bench.support.clone(), entry: "empty".into(), launch };
    bench.gpu.load(&Config::default(), Some(&empty)).unwrap();
    let empty_us = time(&mut bench.gpu);

    let config = Config {
        block_sizes: vec![2048],
        mma: Some(Mma::Simt),
        num_warps: Some(4),
        pid_type: Some(PidType::Flat),
        ..Config::default()
    };
    let spec = families::spec(Family::Elementwise);
    let kernel = spec.kernel(&config, &problem, &bench.found.profile).unwrap();
    let launch = spec.launch(&config, &problem, &bench.found.profile).unwrap();
    let add = Program { cubin: cubin(&bench.compiler, &kernel), entry: kernel.entry.into(), launch };
    bench.gpu.load(&config, Some(&add)).unwrap();
    let add_us = time(&mut bench.gpu);
    let terabytes_per_s = spec.bytes(&problem).0 as f64 / add_us / 1e6;
    println!("empty kernel {empty_us:.2} µs; 268 MB + 268 MB added at {terabytes_per_s:.2} TB/s");
    assert!(empty_us < 3.0, "an empty kernel reads {empty_us} µs");
    assert!(bench.found.profile.name != "h200" || terabytes_per_s > 3.8, "{terabytes_per_s} TB/s");
}
