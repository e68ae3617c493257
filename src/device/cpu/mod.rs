//! The host as a device: blocked kernels on threads, timed by the monotonic clock. What a newcomer without a GPU and
//! every test runs; real measuring, of a slow machine.

pub mod kernels;

use super::{Address, Deviation, Device, Fault, Found, Program};
use crate::families::{self, HostTensor, TensorSpec};
use crate::measure::Sample;
use crate::model::{Bytes, Config, GpuProfile, Micros, Problem};
use half::bf16;
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
        profile: GpuProfile::cpu(cores as u32, l2_size()),
    }
}

fn l2_size() -> Bytes {
    let size = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    size.trim().strip_suffix('K').and_then(|kib| kib.parse().ok()).map_or(USUAL_L2, Bytes::kib)
}

/// The host device.
pub struct Cpu {
    flush: Vec<u64>,
    pools: BTreeMap<usize, ThreadPool>,
    task: Option<Task>,
    config: Config,
}

/// A problem's tensors, with plain and with awkward inputs.
struct Task {
    problem: Problem,
    plain: Contents,
    awkward: Contents,
    output: HostTensor,
}

/// Inputs and what they come to.
struct Contents {
    inputs: Vec<HostTensor>,
    reference: Vec<f64>,
}

impl Cpu {
    /// The host, nothing prepared.
    pub fn open() -> Self {
        let flush_words = 2 * l2_size().0 as usize / size_of::<u64>();
        Self { flush: (0..flush_words as u64).collect(), pools: BTreeMap::new(), task: None, config: Config::default() }
    }

    /// Runs the loaded config on one of the problem's contents; returns the task with its output, and how long the kernel
    /// alone took.
    fn run(&mut self, contents: fn(&Task) -> &Contents) -> Result<(&mut Task, Micros), Fault> {
        let threads = kernels::threads(&self.config);
        let pool = match self.pools.entry(threads) {
            Entry::Occupied(pool) => pool.into_mut(),
            Entry::Vacant(place) => {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                place.insert(pool.map_err(|error| Fault::Refused(format!("{threads} threads: {error}")))?)
            }
        };
        let task = self.task.as_mut().ok_or_else(|| Fault::Refused("no problem prepared".into()))?;
        let mut output = std::mem::replace(&mut task.output, HostTensor::I8(Vec::new()));
        let started = Instant::now();
        let done = kernels::run(&task.problem, &self.config, &contents(task).inputs, &mut output, pool);
        let time = Micros(started.elapsed().as_secs_f64() * 1e6);
        task.output = output;
        done.map_err(|error| Fault::Refused(error.to_string()))?;
        Ok((task, time))
    }

    /// Poisons the output, runs the loaded config and compares.
    fn deviation(&mut self, contents: fn(&Task) -> &Contents) -> Result<Deviation, Fault> {
        if let Some(task) = &mut self.task {
            poison(&mut task.output);
        }
        let (task, _) = self.run(contents)?;
        Ok(deviation(&task.output, &contents(task).reference))
    }
}

impl Device for Cpu {
    fn prepare(&mut self, problem: &Problem, seed: u64, _reference: Option<&Program>) -> Result<(), Fault> {
        let spec = families::spec(problem.family);
        let tensors = spec.tensors(problem);
        let contents = |specs: &[TensorSpec]| {
            let inputs: Vec<_> = (seed..).zip(specs).map(|(seed, tensor)| families::fill(tensor, seed)).collect();
            let reference = spec.host_reference(problem, &inputs);
            Contents { inputs, reference }
        };
        self.task = Some(Task {
            problem: *problem,
            plain: contents(&tensors.inputs),
            awkward: contents(&families::awkward(problem.family, &tensors.inputs)),
            output: families::fill(&tensors.output, seed),
        });
        Ok(())
    }

    fn load(&mut self, config: &Config, _program: Option<&Program>) -> Result<(), Fault> {
        self.config = config.clone();
        Ok(())
    }

    fn verify(&mut self) -> Result<Deviation, Fault> {
        let plain = self.deviation(|task| &task.plain)?;
        Ok(plain.worse(self.deviation(|task| &task.awkward)?))
    }

    fn sample(&mut self, _round: u32) -> Result<Sample, Fault> {
        // Reads alone: what was written here would have to go back to memory at the kernel's cost.
        std::hint::black_box(self.flush.iter().fold(0, |bits, word| bits | word));
        let (_, time) = self.run(|task| &task.plain)?;
        Ok(Sample { time, sm_mhz: None, throttled: false })
    }
}

/// Makes every element a NaN of all ones, which arithmetic never makes.
fn poison(output: &mut HostTensor) {
    match output {
        HostTensor::Bf16(values) => values.fill(bf16::from_bits(u16::MAX)),
        HostTensor::F32(values) => values.fill(f32::from_bits(u32::MAX)),
        HostTensor::I8(_) | HostTensor::I16(_) => {}
    }
}

/// Compares an output with its reference. NaN for NaN, unless it is the poison, and an infinity for the same infinity are
/// equal.
#[allow(clippy::float_cmp)] // infinities are equal or not
pub fn deviation(output: &HostTensor, reference: &[f64]) -> Deviation {
    let values = output.to_f64();
    let is_poison = |index: usize| match output {
        HostTensor::Bf16(values) => values[index].to_bits() == u16::MAX,
        HostTensor::F32(values) => values[index].to_bits() == u32::MAX,
        HostTensor::I8(_) | HostTensor::I16(_) => false,
    };
    let (mut difference, mut size, mut poisoned) = (0.0, 0.0, 0);
    for (index, (value, &wanted)) in values.into_iter().zip(reference).enumerate() {
        if is_poison(index) {
            poisoned += 1;
        } else if value == wanted || (value.is_nan() && wanted.is_nan()) {
            size += if wanted.is_finite() { wanted * wanted } else { 0.0 };
        } else if (value - wanted).is_finite() {
            difference += (value - wanted) * (value - wanted);
            size += wanted * wanted;
        } else {
            poisoned += 1;
        }
    }
    Deviation::of_sums(difference, size, poisoned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Family};

    #[test]
    fn the_host_kernels_are_right_on_plain_and_awkward_inputs() {
        let shapes = [
            (Family::Matmul, "m=5,n=33,k=130", vec![4, 16, 32]),
            (Family::MatmulInt4, "m=3,n=17,k=66", vec![4, 16, 32]),
            (Family::MatmulInt16, "m=7,n=65,k=31", vec![4, 16, 32]),
            (Family::MatmulFp4, "m=1,n=1,k=2", vec![4, 16, 32]),
            (Family::Attention, "batch=1,heads=2,q_seq=33,kv_seq=65,head_dim=20", vec![1, 16, 16]),
            (Family::RowSoftmax, "rows=60,cols=37", vec![4]),
            (Family::Elementwise, "numel=1001", vec![64]),
        ];
        for (family, shape, block_sizes) in shapes {
            for dtype in [Dtype::Bf16, Dtype::F32] {
                let Ok(problem) = Problem::parse(family, shape, dtype) else { continue };
                let reduction_loops = if family == Family::RowSoftmax { vec![Some(16)] } else { Vec::new() };
                let config = Config {
                    block_sizes: block_sizes.clone(),
                    num_warps: Some(1),
                    reduction_loops,
                    ..Config::default()
                };
                let mut cpu = Cpu::open();
                cpu.prepare(&problem, 11, None).unwrap();
                cpu.load(&config, None).unwrap();
                let deviation = cpu.verify().unwrap();
                assert!(deviation.is_right(dtype), "{problem}: {deviation:?}");
            }
        }
    }

    #[test]
    fn a_nan_is_right_where_the_reference_has_one_unless_nobody_wrote_it() {
        let reference = [f64::NAN, 1.0];
        let mut output = HostTensor::Bf16(vec![bf16::NAN, bf16::ONE]);
        assert_eq!(deviation(&output, &reference), Deviation { relative: 0.0, poisoned: 0 });
        assert_eq!(deviation(&HostTensor::F32(vec![0.0, 1.0]), &reference).poisoned, 1);
        poison(&mut output);
        assert_eq!(deviation(&output, &reference).poisoned, 2);
        let mut output = HostTensor::F32(vec![0.0; 2]);
        poison(&mut output);
        assert_eq!(deviation(&output, &reference).poisoned, 2);
    }
}
