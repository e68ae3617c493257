//! Comparing an output with its reference on the device, and altering tensors as a mutant has it.

use super::{Buffer, Current, Gpu, POISON, Task};
use crate::device::mutants::{Alteration, Change, Place};
use crate::device::{Deviation, Fault, LEAST_ALLOWED};
use crate::families::Element;

/// Words of `Comparison` in `kernels/support.cu`.
const WORDS: usize = 6;

/// Where the comparison on one set of inputs leaves its outcome.
pub(super) struct Comparison(Buffer);

impl Comparison {
    pub(super) fn new() -> Result<Self, Fault> {
        Ok(Self(Buffer::new(8 * WORDS as u64)?))
    }

    /// The outcome of the last comparison of `numel` elements; the device must be done with it.
    fn deviation(&self, numel: u64) -> Result<Deviation, Fault> {
        let mut words = [0u64; WORDS];
        self.0.read(&mut words)?;
        let [squared_difference, squared_reference, poisoned, beyond, worst, from_first] = words;
        let [squared_difference, squared_reference, worst] =
            [squared_difference, squared_reference, worst].map(f64::from_bits);
        Ok(Deviation {
            relative: Deviation::relative_of(squared_difference, squared_reference),
            worst,
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
        let deviation = self.compare_on_both(alterations);
        if let Some(tasks) = &mut self.tasks {
            for (set, index, original) in originals {
                tasks[set].tensors.inputs[index] = original;
            }
        }
        deviation
    }

    fn compare_on_both(&self, alterations: &[Alteration]) -> Result<Deviation, Fault> {
        let (tasks, current) = self.prepared()?;
        for (task, comparison) in tasks.iter().zip(&self.comparisons) {
            self.queue_comparison(task, current, alterations, comparison)?;
        }
        self.synchronize()?;
        let [plain, awkward] = &self.comparisons;
        Ok(plain.deviation(tasks[0].numel)?.worse(awkward.deviation(tasks[1].numel)?))
    }

    fn queue_comparison(
        &self,
        task: &Task,
        current: &Current,
        alterations: &[Alteration],
        comparison: &Comparison,
    ) -> Result<(), Fault> {
        let output = &task.tensors.output;
        output.fill(POISON, self.stream)?;
        self.run(current.function, &current.program, task, &task.tensors, output)?;
        for alteration in alterations.iter().filter(|alteration| alteration.place == Place::Output) {
            self.alter(output, task.output_element, alteration.change)?;
        }
        comparison.0.fill(0, self.stream)?;
        let compare = match task.output_element {
            Element::F32 => self.support.compare_f32,
            _ => self.support.compare_bf16,
        };
        let tensors = [output, &task.reference, &task.allowed].map(Buffer::address);
        let least = u64::from(LEAST_ALLOWED.to_bits());
        self.launch_support(compare, &[&tensors[..], &[task.numel, least, comparison.0.address()]].concat())
    }

    /// Puts altered copies in the place of the inputs that a mutant alters. Returns the originals: of which set, which input.
    fn alter_inputs(&mut self, alterations: &[Alteration]) -> Result<Vec<(usize, usize, Buffer)>, Fault> {
        let mut originals: Vec<(usize, usize, Buffer)> = Vec::new();
        for alteration in alterations {
            let Place::Input(index) = alteration.place else { continue };
            for set in 0..2 {
                let Some(tasks) = &mut self.tasks else { continue };
                if !originals.iter().any(|(of_set, input, _)| (*of_set, *input) == (set, index)) {
                    let copy = tasks[set].tensors.inputs[index].copy(self.stream)?;
                    originals.push((set, index, std::mem::replace(&mut tasks[set].tensors.inputs[index], copy)));
                }
                if let Some(tasks) = &self.tasks {
                    self.alter(&tasks[set].tensors.inputs[index], tasks[set].input_elements[index], alteration.change)?;
                }
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
