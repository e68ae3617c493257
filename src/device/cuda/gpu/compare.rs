//! Comparing an output with its reference on the device, and altering tensors as a mutant has it.

use super::{Buffer, Contents, Current, Gpu, POISON, Support};
use crate::device::mutants::{Alteration, Change, Place};
use crate::device::{Called, Deviation, Fault, LEAST_ALLOWED};
use crate::families::{Element, Task};

/// Words of `Comparison` in `kernels/support.cu`.
const WORDS: usize = 6;

/// Where the comparison on one set of inputs leaves its outcome.
pub(super) struct Comparison(Buffer);

impl Comparison {
    pub(super) fn new() -> Result<Self, Fault> {
        Ok(Self(Buffer::new(8 * WORDS as u64)?))
    }

    /// Where kernels write it.
    pub(super) fn address(&self) -> u64 {
        self.0.address()
    }

    /// Forgets the last one, in stream order.
    pub(super) fn clear(&self, stream: cudarc::driver::sys::CUstream) -> Result<(), Fault> {
        self.0.fill(0, stream)
    }

    /// The outcome of the last comparison of `numel` elements; the device must be done with it.
    pub(super) fn deviation(&self, numel: u64) -> Result<Deviation, Fault> {
        let mut words = [0u64; WORDS];
        self.0.read(&mut words)?;
        let [squared_difference, squared_reference, poisoned, beyond, worst, from_first] = words;
        let [squared_difference, squared_reference, worst] =
            [squared_difference, squared_reference, worst].map(f64::from_bits);
        Ok(Deviation {
            relative: Deviation::relative_of(squared_difference, squared_reference),
            worst,
            output: 0,
            beyond,
            poisoned,
            first: numel.checked_sub(from_first).filter(|_| from_first > 0),
        })
    }
}

impl Gpu {
    /// Runs the loaded kernel on both sets of inputs, over poisoned outputs, and compares, with the alterations of a mutant.
    pub(super) fn compare(&mut self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        let originals = self.alter_inputs(alterations)?;
        let deviation = self.compare_all(alterations);
        for (set, index, original) in originals {
            self.contents[set].tensors.inputs[index] = original;
        }
        deviation
    }

    fn compare_all(&self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        let (contents, current) = self.prepared()?;
        let task = self.task.as_ref().ok_or_else(|| Fault::Refused("nothing is prepared".into()))?;
        for (contents, comparisons) in contents.iter().zip(&self.comparisons) {
            self.queue_comparisons(task, contents, current, alterations, comparisons)?;
        }
        self.synchronize()?;
        let mut all = Vec::new();
        for comparisons in self.comparisons.iter().take(contents.len()) {
            for (index, comparison) in comparisons.iter().enumerate() {
                all.push(Deviation { output: index, ..comparison.deviation(task.outputs[index].numel())? });
            }
        }
        Ok(all.into_iter().reduce(Deviation::worse).unwrap_or_default())
    }

    fn queue_comparisons(
        &self,
        task: &Task,
        contents: &Contents,
        current: &Current,
        alterations: &[Alteration],
        comparisons: &[Comparison],
    ) -> Result<(), Fault> {
        let Contents { tensors, references, allowed, .. } = contents;
        tensors.outputs.iter().try_for_each(|output| output.fill(POISON, self.stream))?;
        self.restore(contents, &tensors.outputs)?;
        self.run_current(current, tensors, allowed, Called::ToVerify)?;
        for (index, comparison) in comparisons.iter().enumerate() {
            let (output, tensor) = (&tensors.outputs[index], &task.outputs[index]);
            for alteration in alterations.iter().filter(|alteration| alteration.place == Place::Output && index == 0) {
                self.alter(output, tensor.element, alteration.change)?;
            }
            comparison.clear(self.stream)?;
            let compare = Support::of(&self.support.compare, tensor.element)?;
            let buffers = [output, &references[index], &allowed[index]].map(Buffer::address);
            let least = u64::from(LEAST_ALLOWED.to_bits());
            let words = [tensor.numel(), least, comparison.address()];
            self.launch_support(compare, &[&buffers[..], &words].concat())?;
        }
        Ok(())
    }

    /// Puts altered copies in the place of the inputs that a mutant alters. Returns the originals: of which set, which input.
    fn alter_inputs(&mut self, alterations: &[Alteration]) -> Result<Vec<(usize, usize, Buffer)>, Fault> {
        let mut originals: Vec<(usize, usize, Buffer)> = Vec::new();
        for alteration in alterations {
            let Place::Input(index) = alteration.place else { continue };
            let Some(element) = self.task.as_ref().and_then(|task| task.inputs.get(index)).map(|input| input.element)
            else {
                continue;
            };
            for set in 0..self.contents.len() {
                if !originals.iter().any(|(of_set, input, _)| (*of_set, *input) == (set, index)) {
                    let copy = self.contents[set].tensors.inputs[index].copy(self.stream)?;
                    let input = &mut self.contents[set].tensors.inputs[index];
                    originals.push((set, index, std::mem::replace(input, copy)));
                }
                self.alter(&self.contents[set].tensors.inputs[index], element, alteration.change)?;
            }
        }
        Ok(originals)
    }

    fn alter(&self, tensor: &Buffer, element: Element, change: Change) -> Result<(), Fault> {
        let (change, one, other) = match change {
            Change::Zero(region) => (0, region, region),
            Change::Copy(from, to) => (1, from, to),
            Change::Swap(one, other) => (2, one, other),
        };
        let bytes = |elements: u64| elements * element.size_bytes();
        for region in [one, other].iter().filter(|region| region.rows * region.columns > 0) {
            let end = bytes(region.first() + (region.rows - 1) * region.pitch + region.columns);
            if end > tensor.bytes() {
                return Err(Fault::Refused(format!("{region:?} ends at byte {end} of {}", tensor.bytes())));
            }
        }
        let [first, second] = [one, other].map(|region| tensor.address() + bytes(region.first()));
        let extents = [bytes(one.pitch), bytes(one.columns), one.rows];
        self.launch_support(self.support.alter, &[&[first, second][..], &extents, &[change]].concat())
    }
}
