//! Trees as texts: a split is the name of its feature and the threshold, `e1000`, a leaf a number with its sign. The form before
//! had places for names, and blanks: `4<1000 -1204 88`.

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer};

/// Splits and leaves of all trees, and splits above a leaf: some ten times what is fitted.
const MOST_NODES: usize = 1 << 18;
const MOST_DEPTH: usize = 64;

/// A split, whose side below the threshold is the next node; or a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// The threshold, or the leaf's value.
    pub(super) value: i64,
    /// The node of the side at or above the threshold; of a leaf 0, where no such side can be.
    pub(super) other: u32,
    /// The feature's place.
    pub(super) feature: u16,
}

/// The name that trees call a feature by: `a` the first, `z` the 26th, `aa` the next.
pub(crate) fn feature_name(feature: usize) -> String {
    let last = char::from(b'a' + (feature % 26) as u8);
    if feature < 26 { last.to_string() } else { format!("{}{last}", feature_name(feature / 26 - 1)) }
}

/// The feature that trees call so; none where that is no name, or one of far too many features.
fn feature_named(name: &str) -> Option<usize> {
    let digit = |letter: u8| letter.is_ascii_lowercase().then(|| usize::from(letter - b'a') + 1);
    let letters = Some(name.bytes()).filter(|letters| letters.len() <= 4)?;
    letters.into_iter().try_fold(0, |place, letter| Some(place * 26 + digit(letter)?))?.checked_sub(1)
}

/// Reads trees of either form. What is broken stays as it is, for the model to tell what is wrong.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<String>, D::Error> {
    let trees = Vec::<String>::deserialize(deserializer)?;
    Ok(trees.into_iter().map(|tree| of_today(&tree).unwrap_or(tree)).collect())
}

/// A tree of the form before as it is written today; nothing for any other text.
fn of_today(tree: &str) -> Option<String> {
    if !tree.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let word = |word: &str| match word.split_once('<') {
        Some((feature, threshold)) => Some(format!("{}{threshold}", feature_name(feature.parse().ok()?))),
        None if word.starts_with('-') => Some(word.to_owned()),
        None => Some(format!("+{word}")),
    };
    tree.split_ascii_whitespace().map(word).collect()
}

/// Where the first number of a text ends: at what is no digit, after one that is.
fn end_of_number(text: &str) -> usize {
    let is_end = |pair: &[u8]| pair[0].is_ascii_digit() && !pair[1].is_ascii_digit();
    text.as_bytes().windows(2).position(is_end).map_or(text.len(), |before| before + 1)
}

/// The start of a word, for a message.
fn shown(word: &str) -> String {
    word.chars().take(40).collect()
}

/// Reads one tree and adds its nodes.
pub(super) fn read_tree(text: &str, features: usize, nodes: &mut Vec<Node>) -> Result<()> {
    let mut rest = text;
    // The splits whose other side is still to come.
    let mut open: Vec<usize> = Vec::new();
    loop {
        if rest.is_empty() {
            return Err(Error::usage("the tree ends before its last leaf"));
        }
        let word;
        (word, rest) = rest.split_at(end_of_number(rest));
        let broken = || Error::usage(format!("'{}' is neither a feature with a threshold nor a leaf", shown(word)));
        let (name, number) =
            word.split_at(word.len() - word.trim_start_matches(|c: char| c.is_ascii_lowercase()).len());
        if !name.is_empty() {
            let place = feature_named(name).filter(|place| *place < features);
            let feature = place.and_then(|place| u16::try_from(place).ok()).ok_or_else(|| {
                let shown = shown(word);
                Error::usage(format!("'{shown}' asks for a feature beyond the {features} there are"))
            })?;
            let threshold = number.parse().map_err(|_| broken())?;
            open.push(nodes.len());
            if open.len() > MOST_DEPTH {
                return Err(Error::usage(format!("the tree is deeper than {MOST_DEPTH}")));
            }
            if nodes.len() >= MOST_NODES {
                return Err(Error::usage(format!("the trees have more than {MOST_NODES} splits and leaves")));
            }
            nodes.push(Node { value: threshold, other: 0, feature });
            continue;
        }
        // So small that no sum of leaves overflows.
        let leaf: i32 = number.parse().map_err(|_| broken())?;
        nodes.push(Node { value: leaf.into(), other: 0, feature: 0 });
        let Some(split) = open.pop() else { break };
        nodes[split].other = u32::try_from(nodes.len()).map_err(|_| Error::usage("too many nodes"))?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("'{}' comes after the last leaf", shown(rest))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named_by_letters() {
        assert_eq!([0, 25, 26, 51, 701, 702].map(feature_name), ["a", "z", "aa", "az", "zz", "aaa"]);
        assert!((0..1000).all(|feature| feature_named(&feature_name(feature)) == Some(feature)));
        assert_eq!(["", "A", "é", "a1", "aaaaa"].map(feature_named), [None; 5]);
    }
}
