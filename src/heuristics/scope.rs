//! The names that expressions may use.

use crate::error::{Error, Result};
use std::fmt;

/// Texts are numbers this far from any that is meant as one.
const FIRST_WORD: i64 = i64::MIN / 2;
/// The names that expressions may use, each with the slot its value is in, and the texts they compare with.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// By slot.
    pub(super) variables: Vec<Variable>,
    pub(super) knobs: Vec<String>,
    words: Vec<String>,
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
                let mut names: Vec<_> = self.names().collect();
                names.sort_unstable();
                names.dedup();
                return Err(format!("unknown name '{name}'; there are {}", names.join(", ")));
            }
        };
        u16::try_from(slot).map_err(|_| "too many names".to_owned())
    }
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
