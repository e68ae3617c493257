//! The host as a device: blocked kernels on threads, timed by the monotonic clock. What a newcomer without a GPU and
//! every test runs; real measuring, of a slow machine.

pub mod kernels;

use super::{Address, Deviation, Device, Fault, Found, Program};
use crate::families::{self, Element, HostTensor};
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

/// A problem's tensors.
struct Task {
    problem: Problem,
    inputs: Vec<HostTensor>,
    output: HostTensor,
    reference: Vec<f64>,
}

impl Cpu {
    /// The host, nothing prepared.
    pub fn open() -> Self {
        let flush_words = 2 * l2_size().0 as usize / size_of::<u64>();
        Self { flush: vec![0; flush_words], pools: BTreeMap::new(), task: None, config: Config::default() }
    }

    /// Runs the loaded config and returns how long the kernel alone took.
    fn run(&mut self) -> Result<Micros, Fault> {
        let threads = kernels::threads(&self.config);
        let pool = match self.pools.entry(threads) {
            Entry::Occupied(pool) => pool.into_mut(),
            Entry::Vacant(place) => {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build();
                place.insert(pool.map_err(|error| Fault::Refused(format!("{threads} threads: {error}")))?)
            }
        };
        let task = self.task.as_mut().ok_or_else(|| Fault::Refused("no problem prepared".into()))?;
        let started = Instant::now();
        kernels::run(&task.problem, &self.config, &task.inputs, &mut task.output, pool)
            .map_err(|error| Fault::Refused(error.to_string()))?;
        Ok(Micros(started.elapsed().as_secs_f64() * 1e6))
    }
}

impl Device for Cpu {
    fn prepare(&mut self, problem: &Problem, seed: u64, _reference: Option<&Program>) -> Result<(), Fault> {
        let spec = families::spec(problem.family);
        let tensors = spec.tensors(problem);
        let inputs: Vec<_> = (seed..).zip(&tensors.inputs).map(|(seed, tensor)| families::fill(tensor, seed)).collect();
        let reference = spec.host_reference(problem, &inputs);
        let output = poison(tensors.output.element, tensors.output.numel() as usize);
        self.task = Some(Task { problem: *problem, inputs, output, reference });
        Ok(())
    }

    fn load(&mut self, config: &Config, _program: Option<&Program>) -> Result<(), Fault> {
        self.config = config.clone();
        Ok(())
    }

    fn verify(&mut self) -> Result<Deviation, Fault> {
        if let Some(task) = &mut self.task {
            task.output =
                poison(families::spec(task.problem.family).tensors(&task.problem).output.element, task.reference.len());
        }
        self.run()?;
        let task = self.task.as_ref().ok_or_else(|| Fault::Refused("no problem prepared".into()))?;
        Ok(deviation(&task.output, &task.reference))
    }

    fn sample(&mut self) -> Result<Sample, Fault> {
        for (word, value) in self.flush.iter_mut().zip(0..) {
            *word = value;
        }
        std::hint::black_box(&self.flush);
        Ok(Sample { time: self.run()?, sm_mhz: None, throttled: false })
    }
}

fn poison(element: Element, numel: usize) -> HostTensor {
    match element {
        Element::Bf16 => HostTensor::Bf16(vec![bf16::NAN; numel]),
        Element::F32 => HostTensor::F32(vec![f32::NAN; numel]),
        Element::I8 => HostTensor::I8(vec![0; numel]),
        Element::I16 => HostTensor::I16(vec![0; numel]),
    }
}

/// Compares an output with its reference. NaN for NaN and an infinity for the same infinity are equal.
#[allow(clippy::float_cmp)] // infinities are equal or not
pub fn deviation(output: &HostTensor, reference: &[f64]) -> Deviation {
    let values: Box<dyn Iterator<Item = f64>> = match output {
        HostTensor::Bf16(values) => Box::new(values.iter().map(|value| value.to_f64())),
        HostTensor::F32(values) => Box::new(values.iter().map(|value| f64::from(*value))),
        HostTensor::I8(values) => Box::new(values.iter().map(|value| f64::from(*value))),
        HostTensor::I16(values) => Box::new(values.iter().map(|value| f64::from(*value))),
    };
    let (mut difference, mut size, mut poisoned) = (0.0, 0.0, 0);
    for (value, &wanted) in values.zip(reference) {
        if value == wanted || (value.is_nan() && wanted.is_nan()) {
            size += if wanted.is_finite() { wanted * wanted } else { 0.0 };
        } else if (value - wanted).is_finite() {
            difference += (value - wanted) * (value - wanted);
            size += wanted * wanted;
        } else {
            poisoned += 1;
        }
    }
    let relative = if difference == 0.0 { 0.0 } else { (difference / size).sqrt() };
    Deviation { relative, poisoned }
}
