//! A GPU that calls kernels of another language: on its own stream and tensors, with its own flush, gate and events. What a compiled
//! kernel cannot do and a call can is looked for here: changing its inputs, leaving the stream, waiting for it.

use super::{Buffer, Contents, Current, GATE_SHAPE, GATE_TIMEOUT_NS, Gpu, POISON, Support, WAITS};
use crate::device::cuda::launch::{Parameter, launch};
use crate::device::mutants::Alteration;
use crate::device::{Array, Called, Callee, Deviation, Fault, Where};
use crate::families::{Element, Task};
use crate::model::Config;
use cudarc::driver::{result, sys};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The other language's side, and what is known of its kernels.
pub(super) struct Calling {
    pub(super) callee: Box<dyn Callee>,
    /// The inputs of each of the contents as they were made.
    originals: Vec<Vec<Buffer>>,
    /// Zeros for as many elements as the largest input has: nothing may differ.
    nothing: Buffer,
    /// Configs of the problem that keep to the stream.
    on_stream: BTreeSet<Config>,
    /// A stream that nothing holds, to look at memory with.
    beside: sys::CUstream,
}

/// Inputs are compared as so wide integers, whatever they are.
const COMPARED_AS: Element = Element::I32;
/// Bytes of an output that are looked at while the stream is held.
const LOOKED_AT: usize = 1 << 16;
/// What a call is given to write what it must not, beside twice what it took before.
const PATIENCE: Duration = Duration::from_millis(1);
/// The longest that is waited for that.
const MOST_PATIENCE: Duration = Duration::from_millis(200);

impl Gpu {
    /// The same GPU where kernels are called.
    ///
    /// # Errors
    /// Where the language lacks what it takes.
    pub fn calling(mut self, callee: Box<dyn Callee>, ordinal: u32) -> Result<Self, Fault> {
        callee.open(Where::Cuda { ordinal, stream: self.stream as u64 })?;
        let beside = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        let (originals, on_stream) = (Vec::new(), BTreeSet::new());
        self.calling = Some(Calling { callee, originals, nothing: Buffer::new(0)?, on_stream, beside });
        Ok(self)
    }

    pub(super) fn caller(&self) -> Result<&Calling, Fault> {
        self.calling.as_ref().ok_or_else(|| Fault::Refused("nothing calls kernels here".into()))
    }

    /// Has the language write the references.
    pub(super) fn call_reference(&self, task: &Task, contents: &Contents) -> Result<(), Fault> {
        let inputs = contents.tensors.inputs.iter().zip(&task.inputs);
        let inputs: Vec<Array> = inputs.map(|(buffer, tensor)| Array::new(buffer.address(), tensor)).collect();
        let outputs = contents.references.iter().zip(&task.outputs);
        let outputs: Vec<Array> = outputs
            .map(|(buffer, tensor)| Array::of_reference(buffer.address(), tensor.element.reference(), tensor))
            .collect();
        for (index, (initial, tensor)) in contents.initial.iter().zip(&task.outputs).enumerate() {
            if initial.is_some() && tensor.element.reference() == tensor.element {
                contents.tensors.outputs[index].copy_to(&contents.references[index], self.stream)?;
            } else if initial.is_some() {
                return Err(Fault::Refused(format!(
                    "{}: tensor {} is updated in place, and has no f32",
                    task.name, tensor.name
                )));
            }
        }
        self.caller()?.callee.reference(&inputs, &outputs)?;
        self.synchronize()
    }

    /// Remembers the inputs as they are.
    pub(super) fn keep_originals(&mut self) -> Result<(), Fault> {
        let copies =
            |contents: &Contents| contents.tensors.inputs.iter().map(|input| input.copy(self.stream)).collect();
        let originals: Vec<Vec<Buffer>> = self.contents.iter().map(copies).collect::<Result<_, _>>()?;
        let largest = originals.iter().flatten().map(Buffer::bytes).max().unwrap_or(0);
        let nothing = Buffer::new(2 * largest / COMPARED_AS.size_bytes())?;
        nothing.fill(0, self.stream)?;
        self.synchronize()?;
        if let Some(calling) = &mut self.calling {
            (calling.originals, calling.nothing) = (originals, nothing);
            calling.on_stream.clear();
        }
        Ok(())
    }

    /// Verifies what is called: its outputs, that its inputs are what they were, and that it keeps to the stream.
    pub(super) fn verify_call(&mut self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        if !alterations.is_empty() {
            return Err(Fault::Refused("what is called has no mutants".into()));
        }
        let begun = Instant::now();
        let compared = self.compare(&[]);
        self.synchronize()?;
        let took = begun.elapsed();
        self.check_inputs()?;
        let deviation = compared?;
        if deviation.is_right()
            && let Some(Current::Called(config)) = &self.current
            && !self.caller()?.on_stream.contains(config)
        {
            let config = config.clone();
            self.check_stream(took)?;
            if let Some(calling) = &mut self.calling {
                calling.on_stream.insert(config);
            }
        }
        Ok(deviation)
    }

    /// Gives inputs that were changed their contents back.
    fn check_inputs(&self) -> Result<(), Fault> {
        let calling = self.caller()?;
        let task = self.task.as_ref().ok_or_else(|| Fault::Refused("nothing is prepared".into()))?;
        let compare = Support::of(&self.support.compare, COMPARED_AS)?;
        for (contents, originals) in self.contents.iter().zip(&calling.originals) {
            for (index, (input, original)) in contents.tensors.inputs.iter().zip(originals).enumerate() {
                let comparison = &self.comparisons[0][0];
                let numel = task.inputs[index].bytes().0.div_ceil(COMPARED_AS.size_bytes());
                comparison.clear(self.stream)?;
                let words = [input, original, &calling.nothing].map(Buffer::address);
                self.launch_support(compare, &[&words[..], &[numel, 0, comparison.address()]].concat())?;
                self.synchronize()?;
                if !comparison.deviation(numel)?.is_right() {
                    original.copy_to(input, self.stream)?;
                    self.synchronize()?;
                    return Err(Fault::Wrong(format!("it changes its input {}", task.inputs[index].name)));
                }
            }
        }
        Ok(())
    }

    /// Calls the kernel with the stream held, where nothing may be written before it is let go.
    fn check_stream(&self, took: Duration) -> Result<(), Fault> {
        let (contents, current) = self.prepared()?;
        let calling = self.caller()?;
        let outputs = &contents[0].tensors.outputs;
        // What it updates it reads, too, and is left as it is.
        let written = || {
            outputs.iter().zip(&contents[0].initial).filter_map(|(output, initial)| initial.is_none().then_some(output))
        };
        written().try_for_each(|output| output.fill(POISON, self.stream))?;
        self.restore(&contents[0], outputs)?;
        calling.callee.poison_returned(POISON)?;
        self.synchronize()?;
        self.mailbox.close();
        let mut gate = [self.mailbox.address(), GATE_TIMEOUT_NS].map(Parameter);
        launch(self.support.block_stream, &GATE_SHAPE, self.stream, &mut gate)?;
        let called = self.run_current(current, &contents[0].tensors, &contents[0].allowed, Called::ToTime);
        let looked = called.and_then(|()| {
            std::thread::sleep((2 * took + PATIENCE).min(MOST_PATIENCE));
            let mut places = calling.callee.returned()?;
            places.extend(written().map(|output| (output.address(), output.bytes())));
            places.into_iter().map(|place| self.is_poison(place)).collect::<Result<Vec<bool>, Fault>>()
        });
        let waited = self.mailbox.open();
        self.synchronize()?;
        let is_untouched = looked?.into_iter().all(|is_poison| is_poison);
        self.restore(&contents[0], outputs)?;
        match (waited, is_untouched) {
            (false, _) => Err(Fault::Wrong(WAITS.into())),
            (true, false) => Err(Fault::Wrong(
                "it leaves the stream: its output was written while the stream was held, so that no sample would hold its time".into(),
            )),
            (true, true) => Ok(()),
        }
    }

    /// Whether the first bytes of some memory are what they were filled with. The stream is held meanwhile.
    fn is_poison(&self, (address, bytes): (u64, u64)) -> Result<bool, Fault> {
        let mut seen = vec![0u8; LOOKED_AT.min(bytes as usize)];
        // SAFETY: the memory is the device's and as long, and nothing else is done with the copy before the stream is done.
        unsafe {
            result::memcpy_dtoh_async(&mut seen, address, self.caller()?.beside)?;
            result::stream::synchronize(self.caller()?.beside)?;
        }
        Ok(seen.iter().all(|byte| *byte == POISON))
    }
}
