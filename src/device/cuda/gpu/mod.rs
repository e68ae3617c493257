//! A GPU as the harness has it: with a problem's tensors on it, and the kernels that fill, compare, flush and hold the stream.

mod calling;
mod clocks;
mod compare;
mod mailbox;
mod survey;

pub use survey::{discover, trouble, work_under_way};

use super::driver;
use super::launch::{Addresses, Function, GridShape, Parameter, Ready, get_function, launch, load_module};
use super::memory::Buffer;
use crate::compile;
use crate::device::mutants::Alteration;
use crate::device::{Array, Called, Deviation, Device, Fault, Program};
use crate::families::{Element, Fill, FillParameters, Reference, Task, TensorSpec, Tolerance};
use crate::measure::Sample;
use crate::model::{Bytes, Config, Micros};
use calling::Calling;
use clocks::Clocks;
use compare::Comparison;
use cudarc::driver::{result, sys};
use half::bf16;
use mailbox::Mailbox;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// How long a gate holds the stream when the host forgets it, in nanoseconds.
const GATE_TIMEOUT_NS: u64 = 2_000_000_000;
/// Each byte of an output before a kernel writes it: bf16 and f32 of all ones are NaNs that arithmetic never makes.
const POISON: u8 = 0xff;
/// The support kernels stride over any size.
const SUPPORT_SHAPE: GridShape =
    GridShape { grid: [1024, 1, 1], cluster: [1; 3], threads: [256, 1, 1], smem_bytes: 0, cooperative: false };
/// The flush buffer is this many times L2: once might leave lines behind, since what lies where in L2 is the hardware's secret.
const FLUSH_FACTOR: u64 = 2;
/// Sets of tensors that samples take in turn, as far as memory allows. Where tensors lie makes kernels that read through the copy
/// engine up to half a microsecond slower: of a product of 1024³ on an H200 two to four in ten places, others in each process.
/// The rounds of a race are multiples of the most, so that each set has its share.
const PLACEMENTS: RangeInclusive<u64> = 4..=30;
/// What all sets together may take, but for the fewest.
const PLACEMENT_BYTES: u64 = 4 << 30;
/// One thread holds the stream, and one says when it came to an end.
const GATE_SHAPE: GridShape =
    GridShape { grid: [1, 1, 1], cluster: [1; 3], threads: [1, 1, 1], smem_bytes: 0, cooperative: false };
/// How often a call may outlast the gate before it is taken to wait for the stream that the gate holds.
const CALLS_PAST_THE_GATE: u32 = 2;
/// What is said then.
const WAITS: &str = "it waits for the GPU while it is called, so that its launches cannot be timed: synchronize after the call, not in it";
/// Runs of the canary a look. The host waits for each, so that another program has its turn between two.
const CANARY_RUNS: usize = 16;
/// Cubins kept loaded; past that all are unloaded at once.
const LOADED_KERNELS: usize = 512;

/// A GPU with its context, current on the thread that opened it.
pub struct Gpu {
    stream: sys::CUstream,
    start: sys::CUevent,
    end: sys::CUevent,
    mailbox: Mailbox,
    clocks: Clocks,
    flush: Buffer,
    /// Of each output with each input set.
    comparisons: [Vec<Comparison>; 2],
    support: Support,
    loaded: HashMap<(PathBuf, String), Function>,
    /// The tensors that are prepared.
    task: Option<Task>,
    /// What is timed and verified, and what is verified only.
    contents: Vec<Contents>,
    /// The timed task's tensors once more, elsewhere in memory.
    placements: Vec<Placement>,
    current: Option<Current>,
    workspace: Buffer,
    counters: Buffer,
    /// What runs kernels of another language.
    calling: Option<Calling>,
}

/// A task's tensors.
struct Placement {
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
}

/// What L2 holds when a kernel starts. Samples are taken after [`Flush::Read`]; the others are there to show what it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// What ran before.
    Nothing,
    /// Foreign lines that were read, and are clean.
    Read,
    /// The same, read three times over.
    ReadThrice,
    /// Foreign lines that were written, and go back to memory at the cost of the kernel that evicts them.
    Written,
}

/// The harness's own kernels.
struct Support {
    /// By type.
    fill: HashMap<Element, sys::CUfunction>,
    compare: HashMap<Element, sys::CUfunction>,
    /// By the reference's type.
    allow: HashMap<Element, sys::CUfunction>,
    read_lines: sys::CUfunction,
    alter: sys::CUfunction,
    block_stream: sys::CUfunction,
    say_when: sys::CUfunction,
}

/// A task's tensors, with one set of contents. All lists but the inputs' are by output.
struct Contents {
    tensors: Placement,
    references: Vec<Buffer>,
    /// By how much each element may differ from them, in bf16.
    allowed: Vec<Buffer>,
    /// What is there before a kernel runs, where it is updated.
    initial: Vec<Option<Buffer>>,
}

/// The kernel that runs next.
enum Current {
    /// A compiled one.
    Compiled(Function, Program),
    /// One that another language built last.
    Called(Config),
}

impl Gpu {
    /// Opens the GPU and loads the support kernels from their cubin.
    ///
    /// # Errors
    /// Where the driver refuses.
    pub fn open(ordinal: u32, support: &Path) -> Result<Self, Fault> {
        if let Some(trouble) = driver::missing_symbols(&survey::CALLED) {
            return Err(Fault::Trouble(trouble));
        }
        result::init()?;
        let device = result::device::get(ordinal as i32)?;
        // SAFETY: the handles are the driver's own; the context stays retained and current for this process's life.
        let (stream, l2) = unsafe {
            let context = result::primary_ctx::retain(device)?;
            result::ctx::set_current(context)?;
            let l2 =
                result::device::get_attribute(device, sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
            (result::stream::create(result::stream::StreamKind::NonBlocking)?, l2.unsigned_abs())
        };
        let timed = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let flush = Buffer::new(FLUSH_FACTOR * u64::from(l2))?;
        flush.fill(0, stream)?;
        Ok(Self {
            stream,
            start: result::event::create(timed)?,
            end: result::event::create(timed)?,
            mailbox: Mailbox::new()?,
            clocks: Clocks::watch(survey::pci_bus_id(device)?),
            flush,
            comparisons: [Vec::new(), Vec::new()],
            support: Support::load(support)?,
            loaded: HashMap::new(),
            task: None,
            contents: Vec::new(),
            placements: Vec::new(),
            current: None,
            workspace: Buffer::new(0)?,
            counters: Buffer::new(0)?,
            calling: None,
        })
    }

    /// What the reference kernel says of the first output, which is kept in f32, on the plain and awkward inputs: what its own
    /// test looks at.
    ///
    /// # Errors
    /// Where no such problem is prepared or the driver refuses.
    pub fn references(&self) -> Result<[Reference; 2], Fault> {
        let ([plain, awkward], Some(task)) = (self.contents.as_slice(), &self.task) else {
            return Err(Fault::Refused("no problem with two sets of inputs is prepared".into()));
        };
        let numel = task.outputs[0].numel() as usize;
        let read = |contents: &Contents| -> Result<Reference, Fault> {
            let mut values = vec![0.0f32; numel];
            contents.references[0].read(&mut values)?;
            let mut allowed = vec![0u16; numel];
            contents.allowed[0].read(&mut allowed)?;
            let allowed = allowed.into_iter().map(|bits| bf16::from_bits(bits).to_f64());
            Ok(values.into_iter().map(f64::from).zip(allowed).collect())
        };
        Ok([read(plain)?, read(awkward)?])
    }

    fn synchronize(&self) -> Result<(), Fault> {
        // SAFETY: the stream lives as long as this.
        Ok(unsafe { result::stream::synchronize(self.stream) }?)
    }

    fn launch_support(&self, function: sys::CUfunction, words: &[u64]) -> Result<(), Fault> {
        let mut parameters: Vec<_> = words.iter().copied().map(Parameter).collect();
        launch(function, &SUPPORT_SHAPE, self.stream, &mut parameters)
    }

    fn fill(&self, tensor: &TensorSpec, seed: u64) -> Result<Buffer, Fault> {
        let buffer = Buffer::at_offset(tensor.offset_bytes, tensor.bytes().0)?;
        if let Some(file) = &tensor.file {
            return buffer.read_file(file, tensor.bytes().0);
        }
        if tensor.fill == Fill::Nothing {
            return Ok(buffer);
        }
        let function = Support::of(&self.support.fill, tensor.element)?;
        let FillParameters { fill, floats: [first, second], rows } = tensor.fill.parameters();
        let parameters = [fill, first.to_bits(), second.to_bits()].map(u64::from);
        let words = [&[buffer.address(), tensor.numel(), seed], &parameters[..], &[tensor.cols()], &rows];
        self.launch_support(function, &words.concat())?;
        Ok(buffer)
    }

    /// Loads a function, or finds it loaded, and grants it the shared memory it asks for.
    fn function(&mut self, program: &Program) -> Result<Function, Fault> {
        let name = (program.cubin.clone(), program.entry.clone());
        if !self.loaded.contains_key(&name) {
            if self.loaded.len() >= LOADED_KERNELS {
                self.synchronize()?;
                for (_, function) in self.loaded.drain() {
                    // SAFETY: nothing of it runs any more, and the map was its only owner.
                    unsafe { function.unload() }?;
                }
            }
            let function = Function::load(&read_cubin(&program.cubin)?, &program.entry)?;
            function.check(&program.launch)?;
            self.loaded.insert(name.clone(), function);
        }
        let function = self.loaded[&name];
        function.grant(&program.launch)?;
        Ok(function)
    }

    /// Makes room for what a launch needs beside the tensors.
    fn make_scratch(&mut self, program: &Program) -> Result<(), Fault> {
        let launch = &program.launch;
        if self.workspace.bytes() < launch.workspace.0 {
            self.synchronize()?;
            self.workspace = Buffer::new(launch.workspace.0)?;
        }
        let counter_bytes = 4 * u64::from(launch.counters);
        if self.counters.bytes() < counter_bytes {
            self.synchronize()?;
            self.counters = Buffer::new(counter_bytes)?;
        }
        self.counters.fill(0, self.stream)
    }

    fn run(
        &self,
        function: Function,
        program: &Program,
        inputs: &[Buffer],
        outputs: &[Buffer],
        allowed: &[Buffer],
    ) -> Result<(), Fault> {
        let of = |buffers: &[Buffer]| buffers.iter().map(Buffer::address).collect::<Vec<u64>>();
        let (inputs, outputs, allowed) = (of(inputs), of(outputs), of(allowed));
        let addresses = Addresses {
            inputs: &inputs,
            outputs: &outputs,
            allowed: &allowed,
            workspace: self.workspace.address(),
            counters: self.counters.address(),
        };
        // Encoded for these very tensors.
        Ready::new(function, &program.launch, &addresses)?.launch(self.stream, &addresses, 1)
    }

    /// Runs the kernel that is loaded on these tensors.
    fn run_current(
        &self,
        current: &Current,
        tensors: &Placement,
        allowed: &[Buffer],
        called: Called,
    ) -> Result<(), Fault> {
        match current {
            Current::Compiled(function, program) => {
                self.run(*function, program, &tensors.inputs, &tensors.outputs, allowed)
            }
            Current::Called(_) => {
                let (inputs, outputs) = self.arrays(tensors)?;
                self.caller()?.callee.call(&inputs, &outputs, called)
            }
        }
    }

    /// Tensors as what is called takes them.
    fn arrays(&self, tensors: &Placement) -> Result<(Vec<Array>, Vec<Array>), Fault> {
        let task = self.task.as_ref().ok_or_else(|| Fault::Refused("nothing is prepared".into()))?;
        let of = |buffers: &[Buffer], specs: &[TensorSpec]| {
            buffers.iter().zip(specs).map(|(buffer, spec)| Array::new(buffer.address(), spec)).collect()
        };
        Ok((of(&tensors.inputs, &task.inputs), of(&tensors.outputs, &task.outputs)))
    }

    /// Makes a task's tensors with these inputs, and what is right of them.
    fn make_contents(
        &mut self,
        task: &Task,
        inputs: &[TensorSpec],
        seed: u64,
        reference: Option<&Program>,
    ) -> Result<Contents, Fault> {
        let fill = |(seed, tensor): (u64, &TensorSpec)| self.fill(tensor, seed);
        let all = (seed..).zip(inputs.iter().chain(&task.outputs)).map(fill).collect::<Result<Vec<_>, _>>()?;
        let mut inputs_and_outputs = all.into_iter();
        let inputs: Vec<Buffer> = inputs_and_outputs.by_ref().take(inputs.len()).collect();
        let outputs: Vec<Buffer> = inputs_and_outputs.collect();
        let is_updated = |tensor: &TensorSpec| tensor.fill != Fill::Nothing || tensor.file.is_some();
        let initial = task.outputs.iter().zip(&outputs);
        let initial = initial.map(|(spec, output)| is_updated(spec).then(|| output.copy(self.stream)).transpose());
        let initial = initial.collect::<Result<Vec<_>, _>>()?;
        let bytes = |tensor: &TensorSpec| tensor.numel() * tensor.element.reference().size_bytes();
        let new = |tensor: &TensorSpec| Buffer::new(bytes(tensor));
        let mut contents = Contents {
            tensors: Placement { inputs, outputs },
            references: task.outputs.iter().map(new).collect::<Result<_, _>>()?,
            allowed: task.outputs.iter().map(|tensor| Buffer::new(2 * tensor.numel())).collect::<Result<_, _>>()?,
            initial,
        };
        if let Some(reference) = reference {
            for (index, initial) in contents.initial.iter().enumerate() {
                // It updates what the kernel updates, in the type that it computes in.
                if initial.is_some() {
                    let tensor =
                        TensorSpec { element: task.outputs[index].element.reference(), ..task.outputs[index].clone() };
                    contents.references[index] = self.fill(&tensor, seed + (task.inputs.len() + index) as u64)?;
                }
            }
            let function = self.function(reference)?;
            self.make_scratch(reference)?;
            let Contents { tensors, references, allowed, .. } = &contents;
            self.run(function, reference, &tensors.inputs, references, allowed)?;
        }
        if task.call.is_some() {
            self.call_reference(task, &contents)?;
        }
        for (index, wanted) in task.wanted.iter().enumerate() {
            let tensor = &task.outputs[index];
            if let Some(file) = &wanted.file {
                contents.references[index] = Buffer::new(bytes(tensor))?.read_file(file, bytes(tensor))?;
            }
            if let Some(Tolerance { relative, absolute }) = wanted.tolerance {
                let allow = Support::of(&self.support.allow, tensor.element.reference())?;
                let [reference, allowed] = [&contents.references[index], &contents.allowed[index]].map(Buffer::address);
                let shares = [relative, absolute].map(|share| u64::from(share.to_bits()));
                self.launch_support(allow, &[&[reference, allowed, tensor.numel()][..], &shares].concat())?;
            }
        }
        self.synchronize()?;
        Ok(contents)
    }

    /// The contents, of which there are one or two, and what is loaded.
    fn prepared(&self) -> Result<(&[Contents], &Current), Fault> {
        match &self.current {
            Some(current) if !self.contents.is_empty() => Ok((&self.contents, current)),
            _ => Err(Fault::Refused("nothing is loaded".into())),
        }
    }

    /// Makes outputs what they are before a kernel runs: what it updates as it was, in stream order.
    fn restore(&self, contents: &Contents, outputs: &[Buffer]) -> Result<(), Fault> {
        let updated =
            contents.initial.iter().zip(outputs).filter_map(|(initial, output)| Some((initial.as_ref()?, output)));
        updated.into_iter().try_for_each(|(initial, output)| initial.copy_to(output, self.stream))
    }
}

impl Device for Gpu {
    fn prepare(&mut self, task: &Task, seed: u64, reference: Option<&Program>) -> Result<(), Fault> {
        self.synchronize()?;
        (self.task, self.current) = (None, None); // frees the last problem's memory first
        self.contents.clear();
        self.placements.clear();
        if let Some(call) = &task.call {
            self.caller()?.callee.prepare(call)?;
        } else if reference.is_none() && task.wanted.iter().any(|wanted| wanted.file.is_none()) {
            return Err(Fault::Refused("a GPU needs the reference kernel".into()));
        }
        let bytes: u64 = task.inputs.iter().chain(&task.outputs).map(|tensor| tensor.bytes().0).sum();
        let sets = (PLACEMENT_BYTES / bytes.max(1)).clamp(*PLACEMENTS.start(), *PLACEMENTS.end());
        // The sets and one with awkward contents, and twice the references with what is allowed in bf16.
        let of_output = |tensor: &TensorSpec| 2 * (tensor.element.reference().size_bytes() + 2) * tensor.numel();
        let needed = Bytes((sets + 1) * bytes + task.outputs.iter().map(of_output).sum::<u64>());
        let (free, total) = result::mem_get_info()?;
        if needed > Bytes(free as u64) {
            let [free, total] = [free, total].map(|bytes| Bytes(bytes as u64));
            return Err(Fault::Trouble(format!(
                "{} needs {needed} of the GPU's memory, {free} of {total} are free",
                task.name
            )));
        }
        for inputs in std::iter::once(&task.inputs).chain(&task.awkward) {
            let contents = self.make_contents(task, inputs, seed, reference)?;
            self.contents.push(contents);
        }
        self.placements = (1..sets).map(|_| self.another(&self.contents[0].tensors)).collect::<Result<_, _>>()?;
        self.synchronize()?;
        for comparisons in &mut self.comparisons {
            *comparisons = task.outputs.iter().map(|_| Comparison::new()).collect::<Result<_, _>>()?;
        }
        self.task = Some(task.clone());
        if task.call.is_some() {
            self.keep_originals()?;
        }
        Ok(())
    }

    fn load(&mut self, config: &Config, program: Option<&Program>) -> Result<(), Fault> {
        if let Some(calling) = &self.calling {
            let compiles =
                self.task.as_ref().and_then(|task| task.call.as_ref()).is_some_and(|call| call.callable.compiles);
            let made = program.filter(|_| compiles).map(|program| program.cubin.as_path());
            let built = calling.callee.build(config, made);
            self.synchronize()?; // what broke the device meanwhile shows now
            built?;
            self.current = Some(Current::Called(config.clone()));
            return Ok(());
        }
        let program = program.ok_or_else(|| Fault::Refused("a GPU needs a compiled kernel".into()))?;
        let function = self.function(program)?;
        self.make_scratch(program)?;
        self.current = Some(Current::Compiled(function, program.clone()));
        Ok(())
    }

    fn local_memory(&self) -> Result<Bytes, Fault> {
        match &self.current {
            Some(Current::Compiled(function, Program { is_binary: true, .. })) => function.local_memory(),
            _ => Ok(Bytes(0)),
        }
    }

    fn verify_altered(&mut self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        if self.calling.is_some() {
            return self.verify_call(alterations);
        }
        self.compare(alterations)
    }

    /// A read of twice L2, timed behind another one, which keeps the stream busy while it is queued.
    fn canary(&mut self) -> Result<Vec<Vec<f64>>, Fault> {
        let mut times_us = Vec::with_capacity(CANARY_RUNS);
        for _ in 0..CANARY_RUNS {
            self.flush(Flush::Read)?;
            // SAFETY: the events and the stream live as long as this.
            unsafe { result::event::record(self.start, self.stream) }?;
            self.flush(Flush::Read)?;
            // SAFETY: as above.
            unsafe { result::event::record(self.end, self.stream) }?;
            self.synchronize()?;
            // SAFETY: both events were recorded on this stream just now.
            let milliseconds = unsafe { result::event::elapsed(self.start, self.end) }?;
            times_us.push(f64::from(milliseconds) * 1e3);
        }
        Ok(vec![times_us])
    }

    fn sample(&mut self, round: u32) -> Result<Sample, Fault> {
        self.sample_after(Flush::Read, round)
    }
}

impl Gpu {
    /// Times one run of the loaded kernel after another flush than samples have.
    ///
    /// # Errors
    /// Where nothing is loaded or the driver refuses.
    pub fn sample_after(&mut self, flush: Flush, round: u32) -> Result<Sample, Fault> {
        for attempt in 1.. {
            if let Some(sample) = self.gated_sample(flush, round)? {
                return Ok(sample);
            }
            if self.calling.is_some() && attempt >= CALLS_PAST_THE_GATE {
                return Err(Fault::Wrong(WAITS.into()));
            }
        }
        unreachable!("attempts have no end")
    }

    /// The same tensors elsewhere in memory.
    fn another(&self, tensors: &Placement) -> Result<Placement, Fault> {
        let inputs = tensors.inputs.iter().map(|input| input.copy(self.stream)).collect::<Result<_, _>>()?;
        let outputs = tensors.outputs.iter().map(|output| output.copy(self.stream)).collect::<Result<_, _>>()?;
        Ok(Placement { inputs, outputs })
    }

    /// The tensors of a round: every set in turn.
    fn placement<'a>(&'a self, contents: &'a Contents, round: u32) -> &'a Placement {
        let turn = round as usize % (self.placements.len() + 1);
        self.placements.get(turn).unwrap_or(&contents.tensors)
    }

    /// The gate holds the stream until everything is queued, so that neither launch gaps nor host jitter are timed. The flush runs
    /// before it, while the host is still queueing. Nothing where the host took so long that the gate gave up.
    fn gated_sample(&self, flush: Flush, round: u32) -> Result<Option<Sample>, Fault> {
        let (contents, current) = self.prepared()?;
        let contents = &contents[0];
        let tensors = self.placement(contents, round);
        self.restore(contents, &tensors.outputs)?;
        self.flush(flush)?;
        self.mailbox.close();
        let mut gate = [self.mailbox.address(), GATE_TIMEOUT_NS].map(Parameter);
        launch(self.support.block_stream, &GATE_SHAPE, self.stream, &mut gate)?;
        let queued = || -> Result<(), Fault> {
            // SAFETY: the events and the stream live as long as this.
            unsafe { result::event::record(self.start, self.stream) }?;
            self.run_current(current, tensors, &contents.allowed, Called::ToTime)?;
            // SAFETY: as above.
            unsafe { result::event::record(self.end, self.stream) }?;
            let mut letter = [Parameter(self.mailbox.address())];
            launch(self.support.say_when, &GATE_SHAPE, self.stream, &mut letter)
        };
        let queued = queued();
        let waited = self.mailbox.open();
        queued?;
        self.synchronize()?;
        // SAFETY: both events were recorded on this stream just now.
        let milliseconds = unsafe { result::event::elapsed(self.start, self.end) }?;
        let (nvml_mhz, throttled) = self.clocks.now();
        let sm_mhz = self.mailbox.mhz().or(nvml_mhz);
        Ok(waited.then_some(Sample { time: Micros(f64::from(milliseconds) * 1e3), sm_mhz, throttled }))
    }

    /// Leaves L2 full of lines that no kernel knows.
    fn flush(&self, flush: Flush) -> Result<(), Fault> {
        let words = [self.flush.address(), self.flush.bytes() / 16, self.flush.address()];
        let times = match flush {
            Flush::Nothing => 0,
            Flush::Read => 1,
            Flush::ReadThrice => 3,
            Flush::Written => return self.flush.fill(0, self.stream),
        };
        (0..times).try_for_each(|_| self.launch_support(self.support.read_lines, &words))
    }
}

impl Support {
    /// One of its kernels for a type.
    fn of(kernels: &HashMap<Element, sys::CUfunction>, element: Element) -> Result<sys::CUfunction, Fault> {
        kernels.get(&element).copied().ok_or_else(|| Fault::Refused(format!("no support kernel for {element}")))
    }

    fn load(cubin: &Path) -> Result<Self, Fault> {
        let module = load_module(&read_cubin(cubin)?)?;
        let get = |name: &str| get_function(module, name);
        let of_types = |what: &str, elements: &[Element]| -> Result<HashMap<Element, sys::CUfunction>, Fault> {
            elements.iter().map(|element| Ok((*element, get(&format!("{what}_{element}"))?))).collect()
        };
        let references: Vec<Element> =
            Element::ALL.into_iter().filter(|element| element.reference() == *element).collect();
        Ok(Self {
            fill: of_types("fill", &Element::ALL)?,
            compare: of_types("compare", &Element::ALL)?,
            allow: of_types("allow", &references)?,
            read_lines: get("read_lines")?,
            alter: get("alter")?,
            block_stream: get("block_stream")?,
            say_when: get("say_when")?,
        })
    }
}

/// Reads a cubin. One that was altered since it was made says nothing of the kernel: it is compiled anew by the next run.
fn read_cubin(path: &Path) -> Result<Vec<u8>, Fault> {
    compile::read_cubin(path).map_err(|error| Fault::Trouble(error.to_string()))
}
