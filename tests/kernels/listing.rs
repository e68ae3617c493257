//! A kernel as `nvdisasm -c` lists it: its instructions, the basic blocks they make, and which of these lie in which loops.

use std::collections::{BTreeMap, BTreeSet};

/// One machine instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Its line, without address and surrounding blanks: `@!P0 MEMBAR.ALL.GPU`.
    pub(crate) text: String,
    /// The predicate without its sign, `P0` or `UP0`; none where it always runs.
    pub(crate) predicate: Option<String>,
    /// `MEMBAR.ALL.GPU`.
    pub(crate) opcode: String,
    /// What follows it.
    pub(crate) operands: String,
}

impl Instruction {
    fn parse(text: &str) -> Self {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (predicate, rest) = match text.strip_prefix('@') {
            Some(rest) => {
                let (predicate, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                (Some(predicate.trim_start_matches('!').to_owned()), rest)
            }
            None => (None, text.as_str()),
        };
        let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
        let (opcode, operands) = (opcode.to_owned(), operands.to_owned());
        Self { text, predicate, opcode, operands }
    }

    /// Whether the opcode is this one, with or without modifiers.
    pub(crate) fn is(&self, opcode: &str) -> bool {
        self.opcode.strip_prefix(opcode).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Whether it loads or stores so much of the GPU's memory at once.
    pub(crate) fn is_of_32_bytes(&self) -> bool {
        (self.is("LDG") || self.is("STG")) && self.opcode.split('.').any(|modifier| modifier == "256")
    }

    /// The labels that it names.
    fn labels(&self) -> impl Iterator<Item = &str> {
        let is_of_label = |character: char| character.is_ascii_alphanumeric() || "._$".contains(character);
        self.operands.split(move |character| !is_of_label(character)).filter(|word| word.starts_with(".L_"))
    }

    /// The barrier register of a `BSSY` or `BSYNC`: `B0`.
    pub(crate) fn convergence_barrier(&self) -> Option<&str> {
        self.operands.split([',', ' ']).find(|word| word.starts_with('B'))
    }

    /// The predicates among its operands, in their order: `P0`.
    pub(crate) fn predicates(&self) -> impl Iterator<Item = &str> {
        let words = self.operands.split(", ").map(|word| word.trim_start_matches('!'));
        words.filter(|word| {
            word.len() == 2 && word.starts_with('P') && word.ends_with(|digit: char| digit.is_ascii_digit())
        })
    }

    fn is_jump(&self) -> bool {
        ["BRA", "BRX", "BRXU", "JMP", "JMX"].iter().any(|jump| self.is(jump))
    }

    /// A way on that not all of a warp's lanes need take together.
    pub(crate) fn may_diverge(&self) -> bool {
        let is_told_apart = self.predicate.as_ref().is_some_and(|predicate| !predicate.starts_with('U'));
        let is_uniform = self.opcode.split('.').any(|modifier| ["U", "DIV", "CONV"].contains(&modifier));
        !is_uniform && (self.is("BRX") || (self.is_jump() && is_told_apart))
    }

    /// Whether control never comes to the next instruction.
    fn ends(&self) -> bool {
        let is_certain = self.predicate.is_none() && !self.operands.starts_with(['P', 'U', '!']);
        is_certain && (self.is_jump() || ["EXIT", "RET", "KILL", "BPT"].iter().any(|end| self.is(end)))
    }
}

/// Instructions that run one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) successors: Vec<usize>,
}

/// A kernel's blocks in the order of the listing; it starts in the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) blocks: Vec<Block>,
    /// Labels that instructions go to and no line has.
    pub(crate) unknown_labels: BTreeSet<String>,
}

/// A natural loop: what lies on a way from its head back to it.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    pub(crate) head: usize,
    pub(crate) blocks: BTreeSet<usize>,
    /// The blocks that go back to the head.
    pub(crate) latches: BTreeSet<usize>,
}

/// The kernels of a listing.
pub(crate) fn kernels(listing: &str) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for section in listing.split(".section\t.text.").skip(1) {
        let name = section.split([',', '\n']).next().unwrap_or_default();
        kernels.push(Kernel::parse(name, section));
    }
    kernels
}

impl Kernel {
    fn parse(name: &str, section: &str) -> Self {
        let (mut blocks, mut places) = (vec![Block::default()], BTreeMap::new());
        for line in section.lines().map(str::trim) {
            let is_full = blocks.last().is_some_and(|block| !block.instructions.is_empty());
            if let Some(label) = line.strip_suffix(':').filter(|label| label.starts_with(".L_")) {
                if is_full {
                    blocks.push(Block::default());
                }
                places.insert(label.to_owned(), blocks.len() - 1);
            } else if let Some((_, text)) = line.strip_prefix("/*").and_then(|line| line.split_once("*/")) {
                let instruction = Instruction::parse(text.trim().trim_end_matches(';'));
                let ends = instruction.is_jump() || instruction.ends();
                if let Some(block) = blocks.last_mut() {
                    block.instructions.push(instruction);
                }
                if ends {
                    blocks.push(Block::default());
                }
            }
        }
        let count = blocks.len();
        for (index, block) in blocks.iter_mut().enumerate() {
            let last = block.instructions.last();
            let jumps = last.filter(|last| last.is_jump()).into_iter().flat_map(Instruction::labels);
            let mut successors: BTreeSet<usize> = jumps.filter_map(|label| places.get(label).copied()).collect();
            if !last.is_some_and(Instruction::ends) && index + 1 < count {
                successors.insert(index + 1);
            }
            block.successors = successors.into_iter().collect();
        }
        let named = blocks.iter().filter_map(|block| block.instructions.last()).filter(|last| last.is_jump());
        let unknown = named.flat_map(Instruction::labels).filter(|label| !places.contains_key(*label));
        let unknown_labels = unknown.map(str::to_owned).collect();
        Self { name: name.to_owned(), blocks, unknown_labels }
    }

    pub(crate) fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.blocks.iter().flat_map(|block| &block.instructions)
    }

    fn predecessors(&self) -> Vec<Vec<usize>> {
        let mut predecessors = vec![Vec::new(); self.blocks.len()];
        for (index, block) in self.blocks.iter().enumerate() {
            block.successors.iter().for_each(|successor| predecessors[*successor].push(index));
        }
        predecessors
    }

    /// For each block, those that every way from the start to it goes through; none of a block that there is no way to.
    pub(crate) fn dominators(&self) -> Vec<BTreeSet<usize>> {
        let predecessors = self.predecessors();
        let mut dominators: Vec<Option<BTreeSet<usize>>> = vec![None; self.blocks.len()];
        dominators[0] = Some(BTreeSet::from([0]));
        loop {
            let mut has_changed = false;
            for block in 1..self.blocks.len() {
                let known = predecessors[block].iter().filter_map(|from| dominators[*from].clone());
                let Some(mut common) = known.reduce(|one, other| &one & &other) else { continue };
                common.insert(block);
                if dominators[block].as_ref() != Some(&common) {
                    dominators[block] = Some(common);
                    has_changed = true;
                }
            }
            if !has_changed {
                return dominators.into_iter().map(Option::unwrap_or_default).collect();
            }
        }
    }

    /// The loops, those of one head taken together.
    pub(crate) fn loops(&self, dominators: &[BTreeSet<usize>]) -> Vec<Loop> {
        let predecessors = self.predecessors();
        let mut by_head: BTreeMap<usize, Loop> = BTreeMap::new();
        for (index, block) in self.blocks.iter().enumerate() {
            for &head in block.successors.iter().filter(|head| dominators[index].contains(head)) {
                let empty = || Loop { head, blocks: BTreeSet::from([head]), latches: BTreeSet::new() };
                let found = by_head.entry(head).or_insert_with(empty);
                found.latches.insert(index);
                let mut open = vec![index];
                while let Some(block) = open.pop() {
                    if found.blocks.insert(block) {
                        open.extend(predecessors[block].iter().filter(|from| !dominators[**from].is_empty()));
                    }
                }
            }
        }
        by_head.into_values().collect()
    }
}
