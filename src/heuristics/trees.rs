//! Trees as texts: a split is the name of its feature and the threshold, `e1000`, a leaf a number with its sign. The form before
//! had places for names, and blanks: `4<1000 -1204 88`.

use serde::{Deserialize, Deserializer};

/// The name that trees call a feature by: `a` the first, `z` the 26th, `aa` the next.
pub(crate) fn feature_name(feature: usize) -> String {
    let last = char::from(b'a' + (feature % 26) as u8);
    if feature < 26 { last.to_string() } else { format!("{}{last}", feature_name(feature / 26 - 1)) }
}

/// The feature that trees call so; none where that is no name, or one of far too many features.
pub(super) fn feature_named(name: &str) -> Option<usize> {
    let digit = |letter: u8| letter.is_ascii_lowercase().then(|| usize::from(letter - b'a') + 1);
    let letters = Some(name.bytes()).filter(|letters| letters.len() <= 4)?;
    letters.into_iter().try_fold(0, |place, letter| Some(place * 26 + digit(letter)?))?.checked_sub(1)
}

/// Reads trees of either form. What is broken stays as it is, for the model to tell what is wrong.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
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
pub(super) fn end_of_number(text: &str) -> usize {
    let is_end = |pair: &[u8]| pair[0].is_ascii_digit() && !pair[1].is_ascii_digit();
    text.as_bytes().windows(2).position(is_end).map_or(text.len(), |before| before + 1)
}

/// The start of a word, for a message.
pub(super) fn shown(word: &str) -> String {
    word.chars().take(40).collect()
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
