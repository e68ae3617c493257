//! What the harness asks of a device.

use super::Fault;
use super::mutants::Alteration;
use crate::compile::{Compiler, Outcome};
use crate::error::Error;
use crate::families::{Code, KernelSpec, Launch, Task};
use crate::measure::Sample;
use crate::model::{Bytes, Config, GpuProfile, Identity};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a device is on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// The host.
    Cpu,
    /// A CUDA GPU by its ordinal.
    Cuda(u32),
}

/// A device that is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Where it is.
    pub address: Address,
    /// What its driver calls it.
    pub name: String,
    /// The driver's version.
    pub driver: String,
    /// Eight hex digits that tell it from other devices of its kind: of a hash of its UUID. The host has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Its memory, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// What it offers kernels.
    pub profile: GpuProfile,
}

impl Found {
    /// What tells it from devices whose times are not its own.
    pub fn identity(&self) -> Identity {
        Identity { name: self.name.clone(), multiprocessors: Some(self.profile.multiprocessors), memory: self.memory }
    }
}

/// A compiled kernel and how to launch it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The cubin file.
    pub cubin: PathBuf,
    /// The function in it.
    pub entry: String,
    /// Geometry and arguments.
    pub launch: Launch,
    /// Whether the driver alone knows its registers and local memory: see [`Code::is_binary`].
    pub is_binary: bool,
}

impl Program {
    /// What a kernel came to, ready to be launched so.
    ///
    /// # Errors
    /// Where the launch's arguments are not the kernel's parameters.
    pub fn new(cubin: PathBuf, entry: Option<String>, kernel: &KernelSpec, launch: &Launch) -> Result<Self, String> {
        let entry = entry.unwrap_or_else(|| kernel.entry.clone());
        launch.check_cubin(&cubin, &entry, &kernel.code)?;
        Ok(Self { cubin, entry, launch: launch.clone(), is_binary: kernel.code.is_binary() })
    }

    /// The program of a kernel that nothing works without.
    ///
    /// # Errors
    /// Where it does not compile, or has other parameters.
    pub fn needed(compiler: &Compiler, kernel: &KernelSpec, launch: &Launch) -> crate::error::Result<Self> {
        match compiler.wait(kernel)? {
            Outcome::Compiled { cubin, entry, .. } => Self::new(cubin, entry, kernel, launch).map_err(Error::usage),
            // One of somebody else's sources is what the user brought.
            Outcome::Failed { error, timed_out, .. } if !timed_out && !matches!(kernel.code, Code::Shipped(_)) => {
                Err(Error::usage(format!("{kernel} does not compile: {error}")))
            }
            Outcome::Failed { error, .. } => Err(Error::failure(format!("{kernel} does not compile: {error}"))),
        }
    }
}

/// The least that any element may differ by, beside what its reference allows: results below the least normal f32 may be
/// flushed to zero.
pub(crate) const LEAST_ALLOWED: f32 = 2.0 * f32::MIN_POSITIVE;

/// How far an output is from the reference. An element's error is the distance of its reference from the nearest number that
/// rounds to it, so that the rounding of the output counts for nothing; what an element may err by is the reference's to say
/// ([`crate::families::Reference`]).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// ‖out − reference‖ / ‖reference‖, rounding and all.
    pub relative: f64,
    /// The largest of the elements' errors, each over what is allowed there.
    pub worst: f64,
    /// Elements that err by more than is allowed.
    pub beyond: u64,
    /// Elements that still hold the poison, or are not finite where the reference is, or the other way round.
    pub poisoned: u64,
    /// The output that the first element is of that is beyond or poisoned.
    pub output: usize,
    /// Its index there.
    pub first: Option<u64>,
}

impl Deviation {
    /// ‖out − reference‖ / ‖reference‖ from the sums of the squares.
    pub(crate) fn relative_of(squared_difference: f64, squared_reference: f64) -> f64 {
        if squared_difference == 0.0 { 0.0 } else { (squared_difference / squared_reference).sqrt() }
    }

    /// Two outputs of one kernel as one: the larger distances, and all that is wrong.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        Self {
            relative: self.relative.max(other.relative),
            worst: self.worst.max(other.worst),
            beyond: self.beyond + other.beyond,
            poisoned: self.poisoned + other.poisoned,
            output: if self.first.is_some() { self.output } else { other.output },
            first: self.first.or(other.first),
        }
    }

    /// Whether the output may be called right.
    pub fn is_right(&self) -> bool {
        self.beyond == 0 && self.poisoned == 0
    }

    /// What is wrong with outputs whose rows have so many elements, in one line.
    pub fn complaint(&self, columns: &[u64]) -> String {
        let cols = columns.get(self.output).copied().unwrap_or(1).max(1);
        let of = if columns.len() > 1 { format!(" of output {}", self.output) } else { String::new() };
        let place = self.first.map(|index| format!(", the first at row {}, column {}{of}", index / cols, index % cols));
        let place = place.unwrap_or_default();
        let Self { relative, worst, beyond, poisoned, .. } = self;
        if *poisoned > 0 {
            return format!("{poisoned} elements are not finite or were never written{place}");
        }
        format!(
            "{beyond} elements err by more than is allowed, up to {worst:.3e} times{place}; relative error {relative:.2e}"
        )
    }
}

/// A device with one problem's tensors on it and one kernel loaded.
pub trait Device {
    /// Makes a task's inputs from `seed`, plain and awkward ones, and their reference outputs. `reference` is the reference
    /// kernel, where the device runs compiled kernels and there is one.
    fn prepare(&mut self, task: &Task, seed: u64, reference: Option<&Program>) -> Result<(), Fault>;

    /// Makes a config's kernel the one that runs next.
    fn load(&mut self, config: &Config, program: Option<&Program>) -> Result<(), Fault>;

    /// Local memory of a thread of the loaded kernel, where the driver alone tells of it: of one that was loaded as it is. Whether
    /// arrays lie there by design or values that found no register nobody knows, so it is no reason to leave the kernel out.
    fn local_memory(&self) -> Result<Bytes, Fault> {
        Ok(Bytes(0))
    }

    /// Poisons the output, runs the loaded kernel and compares its output with the reference: on the plain inputs and on the
    /// awkward ones ([`crate::families::awkward`]).
    fn verify(&mut self) -> Result<Deviation, Fault> {
        self.verify_altered(&[])
    }

    /// The same with the alterations of a mutant, made to copies of the inputs and to the output before it is compared.
    fn verify_altered(&mut self, alterations: &[Alteration]) -> Result<Deviation, Fault>;

    /// Times a kernel that is always the same and known to be good, some times over in each of the device's places: its cores, say.
    /// Where it fails the device does; where it is slow the device has other work.
    fn canary(&mut self) -> Result<Vec<Vec<f64>>, Fault>;

    /// Times one run of the loaded kernel on the plain inputs, caches cold and clean. A device that holds them more than once takes
    /// another set each `round`, so that no config owes its time to where they lie.
    fn sample(&mut self, round: u32) -> Result<Sample, Fault>;
}

/// The name and version of the sampling protocol, part of every journal: what a sample is must not change under it.
pub const PROTOCOL: &str = "cold-l2/2";

/// The kernels of the harness itself: they fill tensors, read L2 full and compare outputs. One source holds them all.
pub fn support_kernel() -> KernelSpec {
    KernelSpec::shipped("support.cu", "fill_bf16", [])
}
