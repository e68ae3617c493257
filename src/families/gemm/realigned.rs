//! The knob `realigned`: operands that all programs first copy to scratch, where rows begin at multiples of a line of the cache,
//! so that the copy engine can take them, and takes them as fast as it can.

use super::{Condition, Product};
use crate::families::{Rejection, require};
use crate::model::{Bytes, Config, KnobValue};

/// The knob's name: `a`, `b` or `ab`; a config that has none copies nothing.
pub(super) const KNOB: &str = "realigned";

/// Bytes of a line of the cache, at multiples of which copied rows begin.
const LINE_BYTES: u64 = 128;
/// Most scratch for copies: as much as a problem of the families' domain takes.
const MOST_SCRATCH: u64 = 4 << 30;

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

    /// Refuses configs whose programs could wait for one that does not run yet.
    pub(super) fn check(self, config: &Config) -> Result<(), Rejection> {
        require!(
            !self.any()
                || config.pid_type.is_some_and(|order| order.is_persistent() && config.num_sm_multiplier == Some(1)),
            "{KNOB}: all programs wait for each other, so they must be persistent, with num_sm_multiplier 1"
        );
        Ok(())
    }

    /// The kernel's macro.
    pub(super) fn bits(self) -> u8 {
        u8::from(self.a) + 2 * u8::from(self.b)
    }

    /// Bytes of A's copy, after which B's begins.
    fn a_bytes(self, product: &Product) -> u64 {
        if self.a { product.m * pitch_bytes(product.a_row_bytes()) } else { 0 }
    }

    /// Where in scratch the copy of A and that of B begin, where there is one.
    pub(super) fn places(self, product: &Product) -> [Option<u64>; 2] {
        [self.a.then_some(0), self.b.then(|| self.a_bytes(product))]
    }

    /// Scratch for the copies.
    pub(super) fn scratch(self, product: &Product) -> Bytes {
        let b_rows = product.k / product.weights.per_element();
        Bytes(self.a_bytes(product) + if self.b { b_rows * pitch_bytes(product.b_row_bytes()) } else { 0 })
    }
}

/// Bytes from one copied row to the next.
pub(super) fn pitch_bytes(row_bytes: u64) -> u64 {
    row_bytes.next_multiple_of(LINE_BYTES)
}

/// Where copying is of any use, and has room. Of B, an element of `bytes` holds `packed` weights along k.
pub(super) fn conditions(bytes: u64, packed: u64) -> impl Iterator<Item = Condition> {
    let (a, b) = (format!("({KNOB} == \"a\" || {KNOB} == \"ab\")"), format!("({KNOB} == \"b\" || {KNOB} == \"ab\")"));
    let a_copy = format!("m * ceil_div(2 * k, {LINE_BYTES}) * {LINE_BYTES}");
    let b_copy = format!("ceil_div(k, {packed}) * ceil_div({bytes} * n, {LINE_BYTES}) * {LINE_BYTES}");
    let texts = [
        (format!("!{a} || 2 * k % {LINE_BYTES} != 0"), "rows of A begin at multiples of 128 bytes as they are"),
        (format!("!{b} || {bytes} * n % {LINE_BYTES} != 0"), "rows of B begin at multiples of 128 bytes as they are"),
        (
            format!("if({a}, {a_copy}, 0) + if({b}, {b_copy}, 0) <= {MOST_SCRATCH}"),
            "copies of more than 4 GiB would crowd out the problem",
        ),
    ];
    texts.into_iter().flat_map(|(text, reason)| super::conditions([(text.as_str(), reason)]))
}
