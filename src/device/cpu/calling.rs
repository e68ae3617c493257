//! The host where it calls kernels of another language: the same memory, flush and clock as for kernels of its own.

use super::{canary, deviation, flush, flush_buffer, memory_available, poison};
use crate::device::mutants::Alteration;
use crate::device::{Array, Called, Callee, Deviation, Device, Fault, Program, Where};
use crate::families::{self, Element, HostTensor, Reference, Task, TensorSpec, Tolerance};
use crate::measure::Sample;
use crate::model::{Bytes, Config, Micros};
use std::time::Instant;

/// The host as a device that calls.
pub struct CallingCpu {
    callee: Box<dyn Callee>,
    flush: Vec<u64>,
    task: Option<Prepared>,
}

/// A problem's tensors.
struct Prepared {
    task: Task,
    /// What is timed and verified, and what is verified only, if there is any.
    contents: Vec<Contents>,
    outputs: Vec<HostTensor>,
    /// The outputs before a kernel runs, where it updates them.
    initial: Vec<Option<HostTensor>>,
}

/// Inputs, as they are and as they were made, and what they come to.
struct Contents {
    inputs: Vec<HostTensor>,
    originals: Vec<HostTensor>,
    references: Vec<Reference>,
}

/// The types that the host makes tensors of.
const TYPES: [Element; 4] = [Element::Bf16, Element::F32, Element::I8, Element::I16];

impl CallingCpu {
    /// The host, nothing prepared.
    ///
    /// # Errors
    /// Where the language lacks what it takes.
    pub fn open(callee: Box<dyn Callee>) -> Result<Self, Fault> {
        callee.open(Where::Host)?;
        Ok(Self { callee, flush: flush_buffer(), task: None })
    }

    fn contents(&self, task: &Task, specs: &[TensorSpec], seed: u64) -> Result<Contents, Fault> {
        let inputs: Vec<HostTensor> = (seed..).zip(specs).map(|(seed, tensor)| families::fill(tensor, seed)).collect();
        let mut originals = inputs.clone();
        let mut values: Vec<Vec<f64>> =
            task.outputs.iter().map(|tensor| vec![f64::NAN; tensor.numel() as usize]).collect();
        for (place, (values, tensor)) in values.iter_mut().zip(&task.outputs).enumerate() {
            // What is updated is read by the reference as well.
            if tensor.fill != families::Fill::Nothing {
                *values = families::fill(tensor, seed + (specs.len() + place) as u64).to_f64();
            }
        }
        let inputs_given = arrays(&mut originals, specs);
        let wanted: Vec<Array> = values
            .iter_mut()
            .zip(&task.outputs)
            .map(|(values, tensor)| Array::of_reference(values.as_mut_ptr() as u64, Element::F64, tensor))
            .collect();
        self.callee.reference(&inputs_given, &wanted)?;
        // A reference that changes its inputs is none of the kernel's doing.
        let originals = inputs.clone();
        let exact = Tolerance { relative: 0.0, absolute: 0.0 };
        let allowed = |place: usize| task.wanted.get(place).and_then(|wanted| wanted.tolerance).unwrap_or(exact);
        let references = values.into_iter().enumerate().map(|(place, values)| {
            let Tolerance { relative, absolute } = allowed(place);
            let of = |value: f64| (value, f64::from(relative) * value.abs() + f64::from(absolute));
            values.into_iter().map(of).collect()
        });
        let references = references.collect();
        Ok(Contents { inputs, originals, references })
    }
}

fn arrays(tensors: &mut [HostTensor], specs: &[TensorSpec]) -> Vec<Array> {
    tensors.iter_mut().zip(specs).map(|(tensor, spec)| Array::new(tensor.address(), spec)).collect()
}

fn unprepared() -> Fault {
    Fault::Refused("no problem prepared".into())
}

impl Prepared {
    /// Runs what is built on one of the contents; returns how long the call took.
    fn call(&mut self, callee: &dyn Callee, place: usize, called: Called) -> Result<Micros, Fault> {
        for (output, initial) in self.outputs.iter_mut().zip(&self.initial) {
            match initial {
                Some(initial) => output.clone_from(initial),
                None if called == Called::ToVerify => poison(output),
                None => {}
            }
        }
        let inputs = arrays(&mut self.contents[place].inputs, &self.task.inputs);
        let outputs = arrays(&mut self.outputs, &self.task.outputs);
        let started = Instant::now();
        callee.call(&inputs, &outputs, called)?;
        Ok(Micros(started.elapsed().as_secs_f64() * 1e6))
    }

    /// How far its outputs are from the reference.
    fn deviation(&self, place: usize) -> Deviation {
        let outputs = self.outputs.iter().zip(&self.contents[place].references).enumerate();
        let all = outputs.map(|(output, (values, reference))| Deviation { output, ..deviation(values, reference) });
        all.reduce(Deviation::worse).unwrap_or_default()
    }

    /// Gives inputs that were changed their contents back.
    ///
    /// # Errors
    /// Where there are any.
    fn check_inputs(&mut self, place: usize) -> Result<(), Fault> {
        let contents = &mut self.contents[place];
        let changed = contents.inputs.iter().zip(&contents.originals).position(|(input, original)| input != original);
        match changed {
            None => Ok(()),
            Some(changed) => {
                contents.inputs.clone_from(&contents.originals);
                Err(Fault::Wrong(format!("it changes its input {}", self.task.inputs[changed].name)))
            }
        }
    }
}

impl Device for CallingCpu {
    fn prepare(&mut self, task: &Task, seed: u64, _reference: Option<&Program>) -> Result<(), Fault> {
        self.task = None;
        let call = task.call.as_ref().ok_or_else(|| Fault::Refused(format!("{}: nothing calls it", task.name)))?;
        let all = || task.inputs.iter().chain(&task.outputs);
        if let Some(tensor) = all().find(|tensor| !TYPES.contains(&tensor.element)) {
            return Err(Fault::Refused(format!(
                "{}: tensor {} is {}, and the host makes tensors of {} alone",
                task.name,
                tensor.name,
                tensor.element,
                TYPES.map(Element::name).join(", ")
            )));
        }
        let needed: u64 = all().map(|tensor| 4 * tensor.bytes().0 + 16 * tensor.numel()).sum();
        if let Some(available) = memory_available().filter(|available| available.0 < needed) {
            let (name, needed) = (&task.name, Bytes(needed));
            return Err(Fault::Trouble(format!("{name} needs {needed} of memory, and the host has {available} left")));
        }
        self.callee.prepare(call)?;
        let mut contents = Vec::new();
        for inputs in std::iter::once(&task.inputs).chain(&task.awkward) {
            contents.push(self.contents(task, inputs, seed)?);
        }
        let is_updated = |tensor: &TensorSpec| tensor.fill != families::Fill::Nothing;
        let outputs: Vec<HostTensor> = (seed + task.inputs.len() as u64..)
            .zip(&task.outputs)
            .map(|(seed, tensor)| families::fill(tensor, seed))
            .collect();
        let initial = task.outputs.iter().zip(&outputs);
        let initial = initial.map(|(spec, output)| is_updated(spec).then(|| output.clone())).collect();
        self.task = Some(Prepared { task: task.clone(), contents, outputs, initial });
        Ok(())
    }

    fn load(&mut self, config: &Config, _program: Option<&Program>) -> Result<(), Fault> {
        self.callee.build(config, None) // on the host nothing is compiled ahead
    }

    fn verify_altered(&mut self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        if !alterations.is_empty() {
            return Err(Fault::Refused("what is called has no mutants".into()));
        }
        let prepared = self.task.as_mut().ok_or_else(unprepared)?;
        let mut all = Deviation::default();
        for place in 0..prepared.contents.len() {
            let called = prepared.call(&*self.callee, place, Called::ToVerify).map(drop);
            prepared.check_inputs(place)?;
            called?;
            all = all.worse(prepared.deviation(place));
        }
        Ok(all)
    }

    fn canary(&mut self) -> Result<Vec<Vec<f64>>, Fault> {
        canary::time()
    }

    fn sample(&mut self, _round: u32) -> Result<Sample, Fault> {
        flush(&self.flush);
        let prepared = self.task.as_mut().ok_or_else(unprepared)?;
        let time = prepared.call(&*self.callee, 0, Called::ToTime)?;
        Ok(Sample { time, sm_mhz: None, throttled: false })
    }
}
