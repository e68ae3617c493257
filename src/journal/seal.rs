//! A short hash at the end of each line of a journal, so that what a disk or a copy changed in it is not read as other data.

use super::Line;
use crate::error::Result;
use sha2::{Digest, Sha256};

/// What stands before the hash, and how many hex digits that has.
const NAME: &[u8] = b",\"seal\":\"";
const DIGITS: usize = 8;
const END: &[u8] = b"\"}";

/// What a line's seal says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seal {
    /// There is none: the line is of an archive or an older journal, or somebody wrote it anew.
    Missing,
    /// The line is as it was written.
    Fits,
    /// It is not.
    Broken,
}

/// The seal of a line without its line break.
pub(super) fn of(line: &[u8]) -> Seal {
    let sealed = || {
        let (line, digits) = line.strip_suffix(END)?.split_last_chunk::<DIGITS>()?;
        let is_seal = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        Some((line.strip_suffix(NAME)?, digits)).filter(|_| is_seal)
    };
    match sealed() {
        None => Seal::Missing,
        Some((text, digits)) if digits_of(text).as_bytes() == digits => Seal::Fits,
        Some(_) => Seal::Broken,
    }
}

/// Appends a line with its seal and its line break.
pub(super) fn write(text: &mut Vec<u8>, line: &Line) -> Result<()> {
    let start = text.len();
    serde_json::to_writer(&mut *text, line)?;
    text.pop(); // the brace that ends the object
    let digits = digits_of(&text[start..]);
    text.extend_from_slice(NAME);
    text.extend_from_slice(digits.as_bytes());
    text.extend_from_slice(END);
    text.push(b'\n');
    Ok(())
}

/// The same without a seal.
pub(super) fn write_unsealed(text: &mut Vec<u8>, line: &Line) -> Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

/// Eight hex digits of a hash of all that stands before a seal.
fn digits_of(text: &[u8]) -> String {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(text).into();
    format!("{:0DIGITS$x}", u32::from_be_bytes([a, b, c, d]))
}
