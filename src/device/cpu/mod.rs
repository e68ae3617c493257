//! The host as a device: blocked kernels on threads, timed by the monotonic clock. What a newcomer without a GPU and
//! every test runs; real measuring, of a slow machine.

mod calling;
mod canary;
pub mod kernels;

pub use calling::CallingCpu;

use super::mutants::{Alteration, Place};
use super::{Address, Deviation, Device, Fault, Found, LEAST_ALLOWED, Program};
use crate::families::{self, HostTensor, Reference, TensorSpec};
use crate::measure::Sample;
use crate::model::{Bytes, Config, GpuProfile, Micros, Problem};
use half::{bf16, f16};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Instant;

/// L2 where the system does not tell its size.
const USUAL_L2: Bytes = Bytes::mib(1);

/// The host as it is found.
pub fn discover() -> Found {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Found {
        address: Address::Cpu,
        name: model.map_or(std::env::consts::ARCH, |(_, name)| name).trim().to_string(),
        driver: std::env::consts::OS.to_string(),
        unit: None,
        memory: meminfo("MemTotal"),
        profile: GpuProfile::cpu(cores as u32, l2_size()),
    }
}

/// What the system says of its memory under a name, where it does.
fn meminfo(name: &str) -> Option<Bytes> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let size = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    size.trim().strip_suffix("kB")?.trim().parse().ok().map(Bytes::kib)
}

fn l2_size() -> Bytes {
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    size.trim().strip_suffix('K').and_then(|kib| kib.parse().ok()).map_or(USUAL_L2, Bytes::kib)
}

/// Memory that the system says is to be had, where it does.
pub(super) fn memory_available() -> Option<Bytes> {
    meminfo("MemAvailable")
}

/// The host device.
pub struct Cpu {
    flush: Vec<u64>,
    pools: BTreeMap<usize, ThreadPool>,
    task: Option<Task>,
    config: Config,
}

/// A problem's tensors.
struct Task {
    problem: Problem,
    contents: [Contents; 2],
    output: HostTensor,
}

/// Which of a task's contents: what is timed and verified, and what is verified only.
const PLAIN: usize = 0;
const AWKWARD: usize = 1;

/// Inputs and what they come to.
struct Contents {
    inputs: Vec<HostTensor>,
    reference: Reference,
}

impl Cpu {
    /// The host, nothing prepared.
    pub fn open() -> Self {
        Self { flush: flush_buffer(), pools: BTreeMap::new(), task: None, config: Config::default() }
    }

    /// Runs the loaded config on one of the problem's contents; returns the task with its output, and how long the kernel
    /// alone took.
    fn run(&mut self, contents: usize) -> Result<(&mut Task, Micros), Fault> {
        let threads = kernels::threads(&self.config);
        let pool = match self.pools.entry(threads) {
            Entry::Occupied(pool) => pool.into_mut(),
            Entry::Vacant(place) => {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                place.insert(pool.map_err(|error| Fault::Trouble(format!("{threads} threads: {error}")))?)
            }
        };
        let task = self.task.as_mut().ok_or_else(|| Fault::Refused("no problem prepared".into()))?;
        let mut output = std::mem::replace(&mut task.output, HostTensor::I8(Vec::new()));
        let started = Instant::now();
        let done = kernels::run(&task.problem, &self.config, &task.contents[contents].inputs, &mut output, pool);
        let time = Micros(started.elapsed().as_secs_f64() * 1e6);
        task.output = output;
        done.map_err(|error| Fault::Refused(error.to_string()))?;
        Ok((task, time))
    }

    /// Poisons the output, runs the loaded config and compares, with the alterations of a mutant.
    fn deviation(&mut self, contents: usize, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        let mut originals = None;
        if let Some(task) = &mut self.task {
            poison(&mut task.output);
            if !alterations.is_empty() {
                let inputs = &mut task.contents[contents].inputs;
                originals = Some(inputs.clone());
                for (index, input) in inputs.iter_mut().enumerate() {
                    alter(input, Place::Input(index), alterations);
                }
            }
        }
        let ran = self.run(contents).map(|_| ());
        let task = self.task.as_mut().ok_or_else(|| Fault::Refused("no problem prepared".into()))?;
        if let Some(originals) = originals {
            task.contents[contents].inputs = originals;
        }
        ran?;
        alter(&mut task.output, Place::Output, alterations);
        Ok(deviation(&task.output, &task.contents[contents].reference))
    }
}

/// Makes those of the alterations that are made to this tensor.
fn alter(tensor: &mut HostTensor, place: Place, alterations: &[Alteration]) {
    for alteration in alterations.iter().filter(|alteration| alteration.place == place) {
        alteration.change.apply(tensor);
    }
}

impl Device for Cpu {
    fn prepare(&mut self, task: &families::Task, seed: u64, _reference: Option<&Program>) -> Result<(), Fault> {
        let problem =
            task.host.ok_or_else(|| Fault::Refused(format!("{}: there is no host kernel for it", task.name)))?;
        let [output] = task.outputs.as_slice() else {
            return Err(Fault::Refused(format!("{}: host kernels have one output", task.name)));
        };
        let spec = families::spec(problem.family);
        // Inputs and outputs twice over, and the references, which are in f64 with what is allowed beside them.
        let all = task.inputs.iter().map(TensorSpec::bytes).chain([output.bytes()]);
        let needed = 2 * (all.map(|bytes| bytes.0).sum::<u64>() + 16 * output.numel());
        if let Some(available) = memory_available().filter(|available| available.0 < needed) {
            let needed = Bytes(needed);
            return Err(Fault::Trouble(format!(
                "{problem} needs {needed} of memory, and the host has {available} left"
            )));
        }
        let contents = |specs: &[TensorSpec]| {
            let inputs: Vec<_> = (seed..).zip(specs).map(|(seed, tensor)| families::fill(tensor, seed)).collect();
            let reference = spec.host_reference(&problem, &inputs);
            Contents { inputs, reference }
        };
        self.task = Some(Task {
            problem,
            contents: [contents(&task.inputs), contents(task.awkward.as_ref().unwrap_or(&task.inputs))],
            output: families::fill(output, seed),
        });
        Ok(())
    }

    fn load(&mut self, config: &Config, _program: Option<&Program>) -> Result<(), Fault> {
        self.config = config.clone();
        Ok(())
    }

    fn verify_altered(&mut self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        let plain = self.deviation(PLAIN, alterations)?;
        Ok(plain.worse(self.deviation(AWKWARD, alterations)?))
    }

    fn canary(&mut self) -> Result<Vec<Vec<f64>>, Fault> {
        canary::time()
    }

    fn sample(&mut self, _round: u32) -> Result<Sample, Fault> {
        flush(&self.flush);
        let (_, time) = self.run(PLAIN)?;
        Ok(Sample { time, sm_mhz: None, throttled: false })
    }
}

/// What a flush reads: twice L2.
fn flush_buffer() -> Vec<u64> {
    let words = 2 * l2_size().0 as usize / size_of::<u64>();
    (0..words as u64).collect()
}

/// Leaves L2 full of foreign lines. Reads alone: what was written here would have to go back to memory at the kernel's cost.
fn flush(buffer: &[u64]) {
    std::hint::black_box(buffer.iter().fold(0, |bits, word| bits | word));
}

/// Makes every element a NaN of all ones, which arithmetic never makes.
fn poison(output: &mut HostTensor) {
    match output {
        HostTensor::Bf16(values) => values.fill(bf16::from_bits(u16::MAX)),
        HostTensor::F16(values) => values.fill(f16::from_bits(u16::MAX)),
        HostTensor::F32(values) => values.fill(f32::from_bits(u32::MAX)),
        HostTensor::I8(_) | HostTensor::U8(_) | HostTensor::I16(_) | HostTensor::Fp8(_) => {}
    }
}

/// The bits of the representable number of 16 bits next to a finite one.
fn neighbour(bits: u16, upwards: bool) -> u16 {
    const SIGN: u16 = 1 << 15;
    match (bits & !SIGN == 0, bits & SIGN == 0, upwards) {
        (true, _, true) => 1,
        (true, _, false) => SIGN | 1,
        (false, positive, upwards) if positive == upwards => bits + 1,
        _ => bits - 1,
    }
}

/// Compares an output with its reference. NaN for NaN, unless it is the poison, and an infinity for what is the same infinity once it
/// is rounded are equal.
#[allow(clippy::float_cmp)] // infinities are equal or not
pub fn deviation(output: &HostTensor, reference: &Reference) -> Deviation {
    let values = output.to_f64();
    let is_poison = |index: usize| match output {
        HostTensor::Bf16(values) => values[index].to_bits() == u16::MAX,
        HostTensor::F16(values) => values[index].to_bits() == u16::MAX,
        HostTensor::F32(values) => values[index].to_bits() == u32::MAX,
        HostTensor::I8(_) | HostTensor::U8(_) | HostTensor::I16(_) | HostTensor::Fp8(_) => false,
    };
    let neighbour = |index: usize, upwards: bool| match output {
        HostTensor::Bf16(values) => bf16::from_bits(neighbour(values[index].to_bits(), upwards)).to_f64(),
        HostTensor::F16(values) => f16::from_bits(neighbour(values[index].to_bits(), upwards)).to_f64(),
        HostTensor::F32(values) if upwards => values[index].next_up().into(),
        HostTensor::F32(values) => values[index].next_down().into(),
        HostTensor::I8(_) | HostTensor::U8(_) | HostTensor::I16(_) | HostTensor::Fp8(_) => values[index],
    };
    let rounded = |wanted: f64| match output {
        HostTensor::Bf16(_) => bf16::from_f64(wanted).to_f64(),
        HostTensor::F16(_) => f16::from_f64(wanted).to_f64(),
        HostTensor::F32(_) => (wanted as f32).into(),
        HostTensor::I8(_) | HostTensor::U8(_) | HostTensor::I16(_) | HostTensor::Fp8(_) => wanted,
    };
    let (mut squared_difference, mut squared_reference) = (0.0, 0.0);
    let mut outcome = Deviation::default();
    for (index, (value, &wanted)) in values.iter().copied().zip(&reference.values).enumerate() {
        if !is_poison(index) && (value.is_nan() && wanted.is_nan() || value.is_infinite() && rounded(wanted) == value) {
            continue;
        }
        let difference = (value - wanted).abs();
        let is_wrong = if is_poison(index) || !difference.is_finite() {
            outcome.poisoned += 1;
            true
        } else {
            squared_difference += difference * difference;
            squared_reference += wanted * wanted;
            let half_gap = (neighbour(index, wanted > value) - value).abs() / 2.0;
            let ratio = (difference - half_gap).max(0.0) / reference.allowed[index].max(LEAST_ALLOWED.into());
            outcome.worst = outcome.worst.max(ratio);
            outcome.beyond += u64::from(ratio > 1.0);
            ratio > 1.0
        };
        if is_wrong {
            outcome.first.get_or_insert(index as u64);
        }
    }
    Deviation { relative: Deviation::relative_of(squared_difference, squared_reference), ..outcome }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::mutants::mutants;
    use crate::model::{Dtype, Family};

    #[test]
    fn the_host_kernels_are_right_on_plain_and_awkward_inputs() {
        let shapes = [
            (Family::Matmul, "m=5,n=33,k=130", vec![4, 16, 32]),
            (Family::MatmulInt4, "m=3,n=17,k=66", vec![4, 16, 32]),
            (Family::MatmulInt16, "m=7,n=65,k=31", vec![4, 16, 32]),
            (Family::MatmulFp4, "m=1,n=1,k=2", vec![4, 16, 32]),
            (Family::MatmulFp8, "m=5,n=33,k=130", vec![4, 16, 32]),
            (Family::MatmulFp8, "m=7,n=65,k=300,scale_block=1", vec![4, 16, 200]),
            (Family::MatmulFp8, "m=3,n=260,k=257,scale_block=128", vec![4, 48, 200]),
            (Family::MatmulNvfp4Nvfp4, "m=5,n=133,k=130", vec![4, 16, 32]),
            (Family::MatmulNvfp4Nvfp4, "m=130,n=7,k=78", vec![64, 16, 100]),
            (Family::MatmulMxfp8, "m=5,n=133,k=143", vec![4, 16, 32]),
            (Family::MatmulMxfp8, "m=130,n=7,k=30", vec![64, 16, 100]),
            (Family::Attention, "batch=1,heads=2,q_seq=33,kv_seq=65,head_dim=20", vec![1, 16, 16]),
            (Family::Attention, "batch=2,heads=6,kv_heads=2,q_seq=33,kv_seq=65,head_dim=20,causal=1", vec![1, 16, 16]),
            (Family::Attention, "batch=1,heads=2,q_seq=70,kv_seq=50,head_dim=24,causal=1,window=9", vec![1, 16, 16]),
            (Family::RowSoftmax, "rows=60,cols=37", vec![4]),
            (Family::Elementwise, "numel=1001", vec![64]),
        ];
        for (family, shape, block_sizes) in shapes {
            for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::Fp8] {
                let Ok(problem) = Problem::parse(family, shape, dtype) else { continue };
                let reduction_loops = if family == Family::RowSoftmax { vec![Some(16)] } else { Vec::new() };
                let config = Config {
                    block_sizes: block_sizes.clone(),
                    num_warps: Some(1),
                    reduction_loops,
                    ..Config::default()
                };
                let mut cpu = Cpu::open();
                cpu.prepare(&families::spec(problem.family).task(&problem), 11, None).unwrap();
                cpu.load(&config, None).unwrap();
                let deviation = cpu.verify().unwrap();
                assert!(deviation.is_right(), "{problem}: {deviation:?}");
            }
        }
    }

    fn reference(values: &[f64], allowed: f64) -> Reference {
        values.iter().map(|value| (*value, allowed)).collect()
    }

    #[test]
    fn a_nan_is_right_where_the_reference_has_one_unless_nobody_wrote_it() {
        let reference = reference(&[f64::NAN, 1.0], 0.0);
        let mut output = HostTensor::Bf16(vec![bf16::NAN, bf16::ONE]);
        assert_eq!(deviation(&output, &reference), Deviation::default());
        let wrong = deviation(&HostTensor::F32(vec![0.0, 1.0]), &reference);
        assert_eq!((wrong.poisoned, wrong.first, wrong.is_right()), (1, Some(0), false));
        poison(&mut output);
        assert_eq!(deviation(&output, &reference).poisoned, 2);
        let mut output = HostTensor::F32(vec![0.0; 2]);
        poison(&mut output);
        assert_eq!(deviation(&output, &reference).poisoned, 2);
    }

    #[test]
    fn what_rounds_to_the_output_is_no_error_and_what_does_not_is_one() {
        // Next to 1 bf16 has steps of 2^-7 above and of 2^-8 below.
        let worst = |value: f32, wanted| {
            let output = HostTensor::Bf16(vec![bf16::from_f32(value)]);
            deviation(&output, &reference(&[wanted], 2f64.powi(-10))).worst
        };
        let unit = 2f64.powi(-10);
        let cases = [
            (1.0, 1.0 + 4.0 * unit, 0.0),
            (1.0, 1.0 + 5.0 * unit, 1.0),
            (1.0, 1.0 - 2.0 * unit, 0.0),
            (1.0, 1.0 - 5.0 * unit, 3.0),
            (-1.0, -1.0 - 6.0 * unit, 2.0),
            (-1.0, -1.0 + 3.0 * unit, 1.0),
            (0.0, 7.0 * unit, 7.0),
        ];
        for (value, wanted, error) in cases {
            let found = worst(value, wanted);
            assert!((found - error).abs() < 1e-9, "{value} for {wanted} errs by {found}, not {error}");
        }
        let in_f32 = deviation(&HostTensor::F32(vec![1.0]), &reference(&[1.0 + 3.0 * 2f64.powi(-24)], 2f64.powi(-24)));
        assert!((in_f32.worst - 2.0).abs() < 1e-9, "{in_f32:?}");
        assert_eq!((in_f32.beyond, in_f32.first), (1, Some(0)));
    }

    /// Problems as large as the host computes in a second, with k, rows and keys as long as the longest of the plans.
    const LARGE: [(Family, &str, [u32; 3]); 34] = [
        (Family::Matmul, "m=1,n=64,k=28672", [1, 64, 512]),
        (Family::Matmul, "m=16,n=128,k=57344", [16, 64, 512]),
        (Family::Matmul, "m=64,n=64,k=64", [64, 64, 64]),
        (Family::Matmul, "m=3000,n=8,k=64", [64, 64, 64]),
        (Family::Matmul, "m=33,n=129,k=14336", [16, 64, 512]),
        (Family::MatmulInt4, "m=16,n=128,k=57344", [16, 64, 512]),
        (Family::MatmulFp4, "m=16,n=128,k=57344", [16, 64, 512]),
        (Family::MatmulInt16, "m=16,n=128,k=53248", [16, 64, 512]),
        (Family::MatmulFp8, "m=16,n=128,k=53248", [16, 64, 512]),
        (Family::MatmulFp8, "m=16,n=128,k=28672,scale_block=1", [16, 64, 512]),
        (Family::MatmulFp8, "m=33,n=129,k=18432,scale_block=128", [16, 64, 512]),
        (Family::MatmulFp8, "m=1,n=64,k=7168,scale_block=128", [1, 64, 512]),
        (Family::MatmulNvfp4Nvfp4, "m=16,n=128,k=57344", [16, 64, 512]),
        (Family::MatmulNvfp4Nvfp4, "m=1,n=64,k=7168", [1, 64, 512]),
        (Family::MatmulNvfp4Nvfp4, "m=33,n=129,k=2006", [16, 64, 512]),
        (Family::MatmulMxfp8, "m=33,n=129,k=2007", [16, 64, 512]),
        (Family::MatmulMxfp8, "m=16,n=128,k=53248", [16, 64, 512]),
        (Family::MatmulMxfp8, "m=33,n=129,k=2007", [16, 64, 512]),
        (Family::MatmulMxfp8, "m=1,n=64,k=7168", [1, 64, 512]),
        (Family::MatmulFp8, "m=15,n=64,k=18432,scale_block=128", [15, 64, 512]),
        (Family::MatmulFp8, "m=3,n=260,k=2048,scale_block=128", [3, 64, 512]),
        (Family::MatmulInt4Group, "m=1,n=64,k=28672,group=32,zero_points=1", [1, 64, 512]),
        (Family::MatmulInt4Group, "m=16,n=128,k=14336,group=0,zero_points=1", [16, 64, 512]),
        (Family::MatmulInt4Group, "m=33,n=129,k=8192", [16, 64, 512]),
        (Family::Attention, "batch=1,heads=8,q_seq=1,kv_seq=16384,head_dim=128", [1, 1, 128]),
        (Family::Attention, "batch=1,heads=2,q_seq=300,kv_seq=300,head_dim=64", [1, 64, 64]),
        (Family::Attention, "batch=2,heads=2,q_seq=5,kv_seq=2048,head_dim=64", [1, 64, 64]),
        (Family::Attention, "batch=1,heads=8,kv_heads=1,q_seq=1,kv_seq=16384,head_dim=128", [1, 1, 128]),
        (Family::Attention, "batch=1,heads=4,kv_heads=2,q_seq=300,kv_seq=300,head_dim=64,causal=1", [1, 64, 64]),
        (Family::Attention, "batch=2,heads=2,q_seq=64,kv_seq=1024,head_dim=64,causal=1", [1, 64, 64]),
        (
            Family::Attention,
            "batch=1,heads=4,kv_heads=2,q_seq=200,kv_seq=200,head_dim=64,causal=1,window=128",
            [1, 64, 64],
        ),
        (Family::RowSoftmax, "rows=8,cols=262144", [4, 0, 0]),
        (Family::RowSoftmax, "rows=3000,cols=77", [64, 0, 0]),
        (Family::Elementwise, "numel=1000003", [4096, 0, 0]),
    ];

    fn large_problems() -> impl Iterator<Item = (Problem, Config)> {
        LARGE.into_iter().flat_map(|(family, shape, block_sizes)| {
            let config = Config {
                block_sizes: block_sizes.into_iter().filter(|extent| *extent > 0).collect(),
                num_warps: Some(2),
                reduction_loops: if family == Family::RowSoftmax { vec![Some(512)] } else { Vec::new() },
                ..Config::default()
            };
            let problems = Dtype::ALL.into_iter().filter_map(move |dtype| Problem::parse(family, shape, dtype).ok());
            problems.map(move |problem| (problem, config.clone()))
        })
    }

    /// A mask that is off by one, that begins where the sequences do, or that is not there, is another result.
    #[test]
    fn every_other_mask_is_caught() {
        let masks = |causal: i64, window: i64| [("causal", causal), ("window", window)];
        for (q_seq, kv_seq, window) in
            [(64, 64, 0), (300, 300, 128), (16, 4096, 0), (128, 700, 0), (1, 4096, 128), (90, 60, 33)]
        {
            let named =
                [("batch", 1), ("heads", 4), ("q_seq", q_seq), ("kv_seq", kv_seq), ("head_dim", 64), ("kv_heads", 2)];
            let problem = |[causal, window]: [(&'static str, i64); 2]| {
                Problem::new(Family::Attention, &[&named[..], &[causal, window]].concat(), Dtype::Bf16).unwrap()
            };
            let right = problem(masks(1, window));
            let mut others = vec![problem(masks(0, 0))];
            if window > 0 {
                others.extend([window - 1, window + 1, 0].map(|window| problem(masks(1, window))));
            } else {
                others.push(problem(masks(1, kv_seq / 2)));
            }
            let config = Config { block_sizes: vec![1, 16, 32], num_warps: Some(2), ..Config::default() };
            let spec = families::spec(right.family);
            let mut cpu = Cpu::open();
            cpu.prepare(&spec.task(&right), 5, None).unwrap();
            cpu.load(&config, None).unwrap();
            assert!(cpu.verify().unwrap().is_right(), "{right}");
            for other in others.into_iter().filter(|other| *other != right) {
                cpu.task.as_mut().unwrap().problem = other;
                let wrong = cpu.verify().unwrap();
                assert!(!wrong.is_right(), "{right} taken for {other}: {wrong:?}");
            }
            // One key too many, one too few: as if there were a query more or less before the first.
            let task = spec.task(&right);
            let sets = [task.inputs.clone(), task.awkward.clone().unwrap()];
            for shift in [-1i64, 1] {
                let caught = sets.iter().any(|tensors| {
                    let inputs: Vec<HostTensor> =
                        tensors.iter().zip(5..).map(|(tensor, seed)| families::fill(tensor, seed)).collect();
                    let reference = spec.host_reference(&right, &inputs);
                    let output = shifted(&right, &inputs, shift);
                    !deviation(&output, &reference).is_right()
                });
                assert!(caught || q_seq == 1 && shift == 1 || right.shape.is_plain(), "{right} shifted by {shift}");
            }
        }
    }

    /// The result where every query sees the keys of the one `shift` places after it.
    fn shifted(problem: &Problem, inputs: &[HostTensor], shift: i64) -> HostTensor {
        let [_, heads, q_seq, kv_seq, head_dim, kv_heads, causal, window] =
            problem.shape.first::<8>().map(|extent| extent as usize);
        let [q, k, v] = [0, 1, 2].map(|index| inputs[index].to_f64());
        let sharing = heads / kv_heads;
        let attend = |(row, query): (usize, &[f64])| {
            let own = (row % q_seq + kv_seq) as i64 - q_seq as i64 + shift;
            let first = row / q_seq / sharing * kv_seq;
            let is_seen = |key: &usize| {
                let ahead = own - *key as i64;
                causal == 0 || ahead >= 0 && (window == 0 || ahead < window as i64)
            };
            let seen: Vec<usize> = (0..kv_seq).filter(is_seen).map(|key| (first + key) * head_dim).collect();
            let dot = |at: usize| k[at..at + head_dim].iter().zip(query).map(|(k, q)| k * q).sum::<f64>();
            let scores: Vec<f64> = seen.iter().map(|at| dot(*at) / (head_dim as f64).sqrt()).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum = weights.iter().sum::<f64>().max(f64::MIN_POSITIVE);
            let column = |column: usize| {
                let all = weights.iter().zip(&seen).map(|(weight, at)| weight * v[at + column]);
                bf16::from_f64(all.sum::<f64>() / sum)
            };
            (0..head_dim).map(column).collect::<Vec<_>>()
        };
        HostTensor::Bf16(q.chunks(head_dim).enumerate().flat_map(attend).collect())
    }

    #[test]
    fn every_mutant_of_a_large_problem_is_caught_and_what_is_right_has_room() {
        for (problem, config) in crate::amount::some(large_problems()) {
            let mut cpu = Cpu::open();
            cpu.prepare(&families::spec(problem.family).task(&problem), 5, None).unwrap();
            cpu.load(&config, None).unwrap();
            let right = cpu.verify().unwrap();
            println!("{problem} {}: right {:.3}", problem.dtype, right.worst);
            assert!(right.is_right() && right.worst < 0.5, "{problem}: {right:?}");
            let mutants = mutants(&problem);
            assert!(mutants.len() >= 5, "{problem}: {} mutants", mutants.len());
            for mutant in mutants {
                let wrong = cpu.verify_altered(&mutant.alterations).unwrap();
                println!(
                    "  {}: {:.1}, {} beyond, relative {:.1e}",
                    mutant.name, wrong.worst, wrong.beyond, wrong.relative
                );
                assert!(!wrong.is_right(), "{problem}: {}: {wrong:?}", mutant.name);
            }
            assert_eq!(cpu.verify().unwrap(), right, "a mutant leaves nothing behind");
        }
    }

    /// The sum of a row without its last column, where that column itself is written as it should be.
    #[test]
    fn a_softmax_whose_sum_lacks_a_column_is_caught() {
        const COLS: usize = 131_072;
        let softmax = |row: &[f64]| {
            let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let exponentials: Vec<f64> = row.iter().map(|value| (value - maximum).exp()).collect();
            let sum: f64 = exponentials[..COLS - 1].iter().sum();
            exponentials.into_iter().map(|exponential| exponential / sum).collect::<Vec<_>>()
        };
        for dtype in [Dtype::Bf16, Dtype::F32] {
            let problem = Problem::parse(Family::RowSoftmax, "rows=4,cols=131072", dtype).unwrap();
            let spec = families::spec(problem.family);
            let plain = spec.tensors(&problem).inputs;
            let deviations = [spec.awkward(&problem, &plain).unwrap(), plain].map(|tensors| {
                let inputs = [families::fill(&tensors[0], 3)];
                let wrong = inputs[0].to_f64().chunks(COLS).flat_map(softmax).collect::<Vec<f64>>();
                let output = match dtype {
                    Dtype::Bf16 => HostTensor::Bf16(wrong.into_iter().map(bf16::from_f64).collect()),
                    _ => HostTensor::F32(wrong.into_iter().map(|value| value as f32).collect()),
                };
                deviation(&output, &spec.host_reference(&problem, &inputs))
            });
            assert!(deviations.iter().any(|deviation| deviation.worst > 100.0), "{dtype}: {deviations:?}");
        }
    }
}
