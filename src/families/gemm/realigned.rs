//! The knob `realigned`: operands that all programs first copy to scratch, where rows begin at multiples of a line of the cache,
//! so that the copy engine can take them, and takes them as fast as it can.
//!
//! All programs then wait for each other, so all must run at once: persistent ones, one a multiprocessor, or clusters that share k, as
//! many as surely find room.

use crate::families::{Arg, Condition, Element, Mapped, Rejection, Swizzle, TensorMap, legality, require};
use crate::model::{Bytes, Config, Family, GpuProfile, KnobValue};

/// The knob's name: `a`, `b` or `ab`; a config that has none copies nothing.
pub(super) const KNOB: &str = "realigned";

/// Bytes of a line of the cache, at multiples of which copied rows begin.
const LINE_BYTES: u64 = 128;
/// Programs of the largest cluster that copies: larger ones find room on few GPUs' parts.
const MOST_PARTS: u64 = 8;
/// Most scratch for copies: as much as a problem of the families' domain takes.
const MOST_SCRATCH: u64 = 4 << 30;

/// An operand as it lies in memory.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
}

impl Matrix {
    /// Bytes of a copy whose rows are aligned.
    fn copy_bytes(self) -> u64 {
        self.rows * pitch_bytes(self.row_bytes)
    }
}

/// Which operands are copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Realigned {
    pub(super) a: bool,
    pub(super) b: bool,
}

impl Realigned {
    /// What the config's knob says.
    pub(super) fn of(config: &Config) -> Result<Self, Rejection> {
        match config.own.get(KNOB) {
            None => Ok(Self::default()),
            Some(KnobValue::Word(word)) if word == "a" => Ok(Self { a: true, b: false }),
            Some(KnobValue::Word(word)) if word == "b" => Ok(Self { a: false, b: true }),
            Some(KnobValue::Word(word)) if word == "ab" => Ok(Self { a: true, b: true }),
            Some(other) => Err(Rejection(format!("{KNOB} {other}: the operands to copy are a, b or ab"))),
        }
    }

    pub(super) fn any(self) -> bool {
        self.a || self.b
    }

    /// Refuses configs whose programs could wait for one that does not run yet, but for clusters that are too many: see [`conditions`].
    pub(super) fn check(self, config: &Config) -> Result<(), Rejection> {
        let are_one_each =
            config.pid_type.is_some_and(|order| order.is_persistent() && config.num_sm_multiplier == Some(1));
        require!(
            !self.any() || are_one_each || (2..=MOST_PARTS).contains(&super::split_k(config)),
            "{KNOB}: all programs wait for each other, so they must be persistent with num_sm_multiplier 1, or share k with split_k 2 \
             to {MOST_PARTS}"
        );
        Ok(())
    }

    /// The programs that a launch has where so many have tiles: beside clusters, every multiprocessor copies.
    pub(super) fn programs(self, with_tiles: u64, split_k: u64, profile: &GpuProfile) -> u64 {
        if self.any() && split_k == 1 { profile.multiprocessors.into() } else { with_tiles }
    }

    /// The kernel's macro.
    pub(super) fn bits(self) -> u8 {
        u8::from(self.a) + 2 * u8::from(self.b)
    }

    /// Bytes of the copies of A and B.
    fn copies(self, [a, b]: [Matrix; 2]) -> [u64; 2] {
        [(self.a, a), (self.b, b)].map(|(is_copied, matrix)| if is_copied { matrix.copy_bytes() } else { 0 })
    }

    /// Where A and B are loaded from: their copies, of which B's comes after A's, where there are such.
    pub(super) fn sources(self, operands: [Matrix; 2]) -> [Mapped; 2] {
        let [a_bytes, _] = self.copies(operands);
        [
            if self.a { Mapped::Workspace(0) } else { Mapped::Input(0) },
            if self.b { Mapped::Workspace(a_bytes) } else { Mapped::Input(1) },
        ]
    }

    /// Scratch for the copies.
    pub(super) fn scratch(self, operands: [Matrix; 2]) -> Bytes {
        Bytes(self.copies(operands).iter().sum())
    }
}

/// What the copy engine takes of a row-major matrix in tiles, or of its copy.
pub(super) fn tiles(of: Mapped, element: Element, shape: [u64; 2], tile: [u32; 2], swizzle: Swizzle) -> Arg {
    let mut map = TensorMap::of_matrix(of, element, shape, tile, swizzle);
    if matches!(of, Mapped::Workspace(_)) {
        map.strides_bytes = map.strides_bytes.into_iter().map(pitch_bytes).collect();
    }
    Arg::TensorMap(map)
}

/// Bytes from one copied row to the next.
pub(super) fn pitch_bytes(row_bytes: u64) -> u64 {
    row_bytes.next_multiple_of(LINE_BYTES)
}

/// Where copying is of any use, and has room: of A and of B, expressions of how many rows they have and of a row's bytes.
pub(super) fn conditions(
    family: Family,
    [(a_rows, a_row), (b_rows, b_row)]: [(&str, &str); 2],
) -> impl Iterator<Item = Condition> {
    let (a, b) = (format!("({KNOB} == \"a\" || {KNOB} == \"ab\")"), format!("({KNOB} == \"b\" || {KNOB} == \"ab\")"));
    let a_copy = format!("{a_rows} * ceil_div({a_row}, {LINE_BYTES}) * {LINE_BYTES}");
    let b_copy = format!("{b_rows} * ceil_div({b_row}, {LINE_BYTES}) * {LINE_BYTES}");
    let texts = [
        (format!("!{a} || {a_row} % {LINE_BYTES} != 0"), "rows of A begin at multiples of 128 bytes as they are"),
        (format!("!{b} || {b_row} % {LINE_BYTES} != 0"), "rows of B begin at multiples of 128 bytes as they are"),
        (
            format!("if({a}, {a_copy}, 0) + if({b}, {b_copy}, 0) <= {MOST_SCRATCH}"),
            "copies of more than 4 GiB would crowd out the problem",
        ),
        // Clusters of eight fit parts of a GPU with 14 multiprocessors once and those with 16 or 18 twice, so at least three in four
        // multiprocessors have one.
        (
            format!(
                "!({a} || {b}) || split_k == 1 || \
                 ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1]) * split_k <= multiprocessors * 3 / 4"
            ),
            "programs that copy wait for each other, so their clusters must all run at once",
        ),
    ];
    texts.into_iter().flat_map(move |(text, reason)| legality::conditions(family, [(text.as_str(), reason)]))
}
