//! What must not be found in a kernel.

use super::listing::{Instruction, Kernel, Loop};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is wrong with a kernel, one line each.
pub(crate) fn faults(kernel: &Kernel) -> Vec<String> {
    let spills = kernel.instructions().filter(|one| one.is("LDL") || one.is("STL"));
    let mut faults: Vec<String> = spills.map(|one| format!("spills to local memory: {}", one.text)).collect();
    faults.extend(kernel.unknown_labels.iter().map(|label| format!("{label} is a label of no line")));
    faults.extend(fences_in_loops(kernel));
    faults.extend(unsynchronized(kernel));
    faults
}

/// Makes all that a thread wrote visible beyond its program, waits for errors of that, or throws away the L1 cache.
fn is_fence(instruction: &Instruction) -> bool {
    let beyond = ["GPU", "SYS", "VC"];
    let is_wide = instruction.is("MEMBAR") && instruction.opcode.split('.').any(|scope| beyond.contains(&scope));
    is_wide || instruction.is("ERRBAR") || instruction.is("CCTL.IVALL")
}

/// Moves or multiplies data.
fn is_work(instruction: &Instruction) -> bool {
    const WORK: [&str; 20] = [
        "HMMA", "HGMMA", "IMMA", "QGMMA", "UTCHMMA", "UTCQMMA", "UTCOMMA", "UTCIMMA", "LDTM", "STTM", "LDSM", "LDGSTS",
        "UTMALDG", "UTMASTG", "LDG", "STG", "LDS", "STS", "UBLKCP", "UTCCP",
    ];
    WORK.iter().any(|opcode| instruction.is(opcode))
}

/// A loop around nothing but a question whether something has happened.
fn is_wait(kernel: &Kernel, found: &Loop) -> bool {
    const MOST: usize = 16;
    let instructions = || found.blocks.iter().flat_map(|block| &kernel.blocks[*block].instructions);
    instructions().count() <= MOST && !instructions().any(|one| is_work(one) && !one.is("LDG") && !one.is("LDS"))
}

/// A fence costs microseconds. It may stand in a loop over tiles, on a way that some tiles take: where the programs of a split meet.
/// In the innermost loop that works, or on the way of every round of a loop, there is none.
fn fences_in_loops(kernel: &Kernel) -> Vec<String> {
    let dominators = kernel.dominators();
    let loops = kernel.loops(&dominators);
    let is_innermost = |outer: &Loop| {
        let inside = |inner: &&Loop| inner.head != outer.head && outer.blocks.contains(&inner.head);
        loops.iter().filter(inside).all(|inner| is_wait(kernel, inner))
    };
    let mut faults = Vec::new();
    for (index, block) in kernel.blocks.iter().enumerate() {
        for fence in block.instructions.iter().filter(|one| is_fence(one)) {
            for around in loops.iter().filter(|around| around.blocks.contains(&index)) {
                let is_on_every_way = around.latches.iter().all(|latch| dominators[*latch].contains(&index));
                if is_on_every_way {
                    faults.push(format!("a fence in every round of a loop: {}", fence.text));
                } else if is_innermost(around) {
                    faults.push(format!("a fence in a main loop: {}", fence.text));
                }
            }
        }
    }
    faults
}

/// Whether a warp's lanes are known to run together, whether they did where each convergence barrier was set, and the predicates
/// that are the same in all lanes, since they were voted on.
#[derive(Clone, Debug, PartialEq)]
struct Convergence {
    is_together: bool,
    barriers: BTreeMap<String, bool>,
    voted: BTreeSet<String>,
}

impl Convergence {
    /// What holds on both of two ways.
    fn both(&self, other: &Self) -> Self {
        let common = |name: &String| Some((name.clone(), *self.barriers.get(name)? && *other.barriers.get(name)?));
        let names: BTreeSet<&String> = self.barriers.keys().chain(other.barriers.keys()).collect();
        Self {
            is_together: self.is_together && other.is_together,
            barriers: names.into_iter().filter_map(common).collect(),
            voted: &self.voted & &other.voted,
        }
    }

    fn after(&mut self, instruction: &Instruction) {
        // Whatever names a predicate may set it; a vote of all lanes sets its first operand alike in all of them.
        self.voted.retain(|voted| instruction.predicates().all(|predicate| predicate != voted));
        let is_vote = instruction.is("VOTE") && self.is_together && instruction.predicate.is_none();
        if let Some(voted) = instruction.predicates().next().filter(|first| instruction.operands.starts_with(*first))
            && is_vote
        {
            self.voted.insert(voted.to_owned());
        }
        if instruction.is("WARPSYNC") || instruction.is("BAR") || instruction.is("UCGABAR_WAIT") {
            self.is_together = true;
        } else if let Some(barrier) = instruction.convergence_barrier() {
            if instruction.is("BSSY") {
                self.barriers.insert(barrier.to_owned(), self.is_together);
            } else if instruction.is("BSYNC") {
                self.is_together = self.barriers.get(barrier).copied().unwrap_or(false);
            }
        }
    }
}

/// Instructions that all lanes of a warp must come to together: loads and stores of tensor memory, what relinquishes the permit to
/// allocate it, and what hands registers over. Before these ptxas itself brings the lanes together, on Blackwell. Allocating and freeing
/// cannot be looked at so: of them ptxas makes code in which one lane is elected, and branches of its own, to `UTCATOMSWS`. Nor can
/// `ldmatrix`, `mma.sync` and `wgmma`: it takes the kernel's word that a branch before them is the same in all lanes.
const ALIGNED: [&str; 4] = ["LDTM", "STTM", "UVIRTCOUNT", "USETMAXREG"];

/// Instructions that all lanes of a warp must come to together, and may not.
fn unsynchronized(kernel: &Kernel) -> Vec<String> {
    let mut before: Vec<Option<Convergence>> = vec![None; kernel.blocks.len()];
    before[0] = Some(Convergence { is_together: true, barriers: BTreeMap::new(), voted: BTreeSet::new() });
    let mut open = BTreeSet::from([0]);
    let mut faults = BTreeSet::new();
    while let Some(index) = open.pop_first() {
        let Some(mut state) = before[index].clone() else { continue };
        let block = &kernel.blocks[index];
        block.instructions.iter().for_each(|instruction| state.after(instruction));
        let is_apart = |last: &Instruction| {
            last.may_diverge() && !last.predicate.as_ref().is_some_and(|predicate| state.voted.contains(predicate))
        };
        if block.instructions.last().is_some_and(is_apart) {
            state.is_together = false;
        }
        for &next in &block.successors {
            let met = before[next].as_ref().map_or_else(|| state.clone(), |known| known.both(&state));
            if before[next].as_ref() != Some(&met) {
                before[next] = Some(met);
                open.insert(next);
            }
        }
    }
    for (block, state) in kernel.blocks.iter().zip(before) {
        let Some(mut state) = state else { continue };
        for instruction in &block.instructions {
            if ALIGNED.iter().any(|opcode| instruction.is(opcode)) && !state.is_together {
                faults.insert(format!("lanes may come apart to {}", instruction.text));
            }
            state.after(instruction);
        }
    }
    faults.into_iter().collect()
}
