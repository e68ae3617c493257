//! The names that expressions may use.

use crate::error::{Error, Result};
use std::fmt;

/// Texts are numbers this far from any that is meant as one.
pub(super) const FIRST_WORD: i64 = i64::MIN / 2;
/// The names that expressions may use, each with the slot its value is in, and the texts they compare with.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// By slot.
    pub(super) variables: Vec<Variable>,
    pub(super) knobs: Vec<String>,
    pub(super) words: Vec<String>,
}

/// A value by its name; of a knob's list, by its place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) entry: Option<usize>,
}

impl Scope {
    /// Declares a value and gives its slot.
    ///
    /// # Errors
    /// Where the name is no name, or taken.
    pub(super) fn declare(&mut self, name: &str) -> Result<usize> {
        self.check_new(name)?;
        self.variables.push(Variable { name: name.to_owned(), entry: None });
        Ok(self.variables.len() - 1)
    }

    /// Declares a knob; it gets a slot where an expression asks for it, or for an entry of it.
    ///
    /// # Errors
    /// As [`Scope::declare`].
    pub(super) fn declare_knob(&mut self, name: &str) -> Result<()> {
        self.check_new(name)?;
        self.knobs.push(name.to_owned());
        Ok(())
    }

    fn check_new(&self, name: &str) -> Result<()> {
        let mut letters = name.chars();
        let is_name = letters.next().is_some_and(is_name_start) && letters.all(is_name_part);
        if !is_name {
            return Err(Error::usage(format!("'{name}' is no name: letters, digits and _, no digit first")));
        }
        if self.names().any(|known| known == name) {
            return Err(Error::usage(format!("the name '{name}' is given twice")));
        }
        Ok(())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let plain = self.variables.iter().map(|variable| &variable.name);
        plain.chain(&self.knobs).map(String::as_str)
    }

    /// The slots there are.
    pub(super) fn len(&self) -> usize {
        self.variables.len()
    }

    /// The slots of knobs and their entries, with what each holds.
    pub(super) fn knob_slots(&self) -> impl Iterator<Item = (usize, &Variable)> {
        self.variables.iter().enumerate().filter(|(_, variable)| self.knobs.contains(&variable.name))
    }

    /// The number that stands for a text; one for all that no expression names.
    pub(super) fn word(&self, text: &str) -> i64 {
        let known = self.words.iter().position(|word| word == text);
        FIRST_WORD + known.map_or(0, |index| 1 + index as i64)
    }

    /// The number that stands for a text, which from now on is one that an expression names.
    pub(super) fn word_slot(&mut self, text: &str) -> i64 {
        if !self.words.iter().any(|word| word == text) {
            self.words.push(text.to_owned());
        }
        self.word(text)
    }

    /// The slot of a value; a knob, or an entry of its list, gets one where it has none yet.
    pub(super) fn resolve(&mut self, name: &str, entry: Option<usize>) -> Result<u16, String> {
        let wanted = Variable { name: name.to_owned(), entry };
        let known = self.variables.iter().position(|variable| *variable == wanted);
        let slot = match known {
            Some(slot) => slot,
            None if self.knobs.iter().any(|knob| knob == name) => {
                self.variables.push(wanted);
                self.variables.len() - 1
            }
            None if entry.is_some() && self.names().any(|known| known == name) => {
                return Err(format!("'{name}' is no knob, so it has no entries"));
            }
            None => {
                let mut names: Vec<_> = self.names().filter(|name| !name.is_empty()).collect();
                names.sort_unstable();
                names.dedup();
                let perhaps = nearest(name, &names).map(|near| format!(", perhaps '{near}'")).unwrap_or_default();
                return Err(format!("unknown name '{name}'{perhaps}; there are {}", names.join(", ")));
            }
        };
        u16::try_from(slot).map_err(|_| "too many names".to_owned())
    }
}

/// The name that is nearest to one that is not there, where few letters tell them apart.
pub(crate) fn nearest<'n>(unknown: &str, names: &[&'n str]) -> Option<&'n str> {
    let near = names.iter().map(|name| (distance(unknown, name), *name));
    let (letters, name) = near.min_by_key(|(letters, _)| *letters)?;
    (letters <= unknown.len().max(3) / 3).then_some(name)
}

/// Letters to be put in, taken out or changed that make one name of another (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (place, letter) in one.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], place + 1);
        for (column, its) in other.bytes().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (corner + usize::from(letter != its)).min(above + 1).min(row[column] + 1);
            corner = above;
        }
    }
    row[other.len()]
}

impl fmt::Display for Variable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(out, "{}[{entry}]", self.name),
            None => out.write_str(&self.name),
        }
    }
}

/// Whether a name may start so.
pub(super) fn is_name_start(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '_'
}

/// Whether a name may go on so.
pub(super) fn is_name_part(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_that_is_named_has_a_number_of_its_own_and_all_others_share_one() {
        let mut scope = Scope::default();
        let named = ["flat", "strips", "flat", "whole"].map(|text| scope.word_slot(text));
        assert_eq!(named[0], named[2]);
        let unnamed = scope.word("spiral");
        assert_eq!(scope.word("zigzag"), unnamed);
        let mut apart = vec![named[0], named[1], named[3], unnamed];
        assert_eq!(["flat", "strips", "whole"].map(|text| scope.word(text)), [named[0], named[1], named[3]]);
        apart.sort_unstable();
        apart.dedup();
        assert_eq!(apart.len(), 4, "{apart:?}");
        assert!(apart.iter().all(|number| *number < i64::MIN / 4), "no number that is meant as one: {apart:?}");
    }

    #[test]
    fn names_are_declared_once_and_knobs_have_entries() {
        let mut scope = Scope::default();
        assert_eq!([scope.declare("rows").unwrap(), scope.declare("_cols2").unwrap()], [0, 1]);
        scope.declare_knob("block_sizes").unwrap();
        assert_eq!(scope.names().collect::<Vec<_>>(), ["rows", "_cols2", "block_sizes"]);
        for (name, said) in
            [("2d", "no name"), ("", "no name"), ("a-b", "no name"), ("rows", "twice"), ("block_sizes", "twice")]
        {
            let refused = [scope.declare(name).map(drop), scope.declare_knob(name)];
            for error in refused.map(|refused| refused.unwrap_err().to_string()) {
                assert!(error.contains(said), "{name}: {error}");
            }
        }
        let slots = [("rows", None), ("block_sizes", Some(1)), ("block_sizes", None), ("block_sizes", Some(1))];
        assert_eq!(slots.map(|(name, entry)| scope.resolve(name, entry).unwrap()), [0, 2, 3, 2]);
        assert_eq!(scope.len(), 4);
        let knobs: Vec<String> = scope.knob_slots().map(|(slot, knob)| format!("{slot} {knob}")).collect();
        assert_eq!(knobs, ["2 block_sizes[1]", "3 block_sizes"]);
        assert_eq!(scope.resolve("rows", Some(0)), Err("'rows' is no knob, so it has no entries".to_owned()));
        let unknown = scope.resolve("rowz", None).unwrap_err();
        assert_eq!(unknown, "unknown name 'rowz', perhaps 'rows'; there are _cols2, block_sizes, rows");
        let unlike = scope.resolve("depth", None).unwrap_err();
        assert!(unlike.starts_with("unknown name 'depth'; "), "{unlike}");
    }

    #[test]
    fn the_nearest_name_is_the_one_with_the_fewest_letters_to_change() {
        for (one, other, letters) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("rows", "rows", 0),
        ] {
            assert_eq!(distance(one, other), letters, "{one} {other}");
        }
        let names = ["num_warps", "num_stages", "m"];
        for (unknown, near) in
            [("num_warp", Some("num_warps")), ("nun_stage", Some("num_stages")), ("k", Some("m")), ("threads", None)]
        {
            assert_eq!(nearest(unknown, &names), near, "{unknown}");
        }
    }
}
