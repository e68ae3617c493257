//! Definitions, put in place of their names before an expression is read.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// `name = expression`, in the order of the manifest. Each may use those before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Definitions {
    expanded: BTreeMap<String, String>,
    /// All there are, also those that are still to come.
    names: Vec<String>,
}

impl Definitions {
    /// Knows the names that are to come, so that one that is used too early is told from one that is none.
    pub(super) fn expecting(texts: impl IntoIterator<Item = String>) -> Self {
        let names = texts.into_iter().filter_map(|text| Some(text.split_once('=')?.0.trim().to_owned()));
        Self { expanded: BTreeMap::new(), names: names.collect() }
    }

    /// Adds one; returns its name.
    pub(super) fn add(&mut self, text: &str) -> Result<String> {
        let split = text.split_once('=').filter(|(_, rest)| !rest.starts_with('='));
        let (name, expression) =
            split.ok_or_else(|| Error::usage(format!("'{text}' is no definition: write name = expression")))?;
        let (name, expression) = (name.trim(), expression.trim());
        if self.expanded.contains_key(name) {
            return Err(Error::usage(format!("'{name}' is defined twice")));
        }
        let expanded = self.expand(expression)?;
        self.expanded.insert(name.to_owned(), expanded);
        Ok(name.to_owned())
    }

    /// The expression with definitions in place of their names.
    pub(super) fn expand(&self, text: &str) -> Result<String> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let mut out = String::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let length = match letter {
                '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
                _ if is_part(letter) => rest.find(|letter| !is_part(letter)).unwrap_or(rest.len()),
                _ => letter.len_utf8(),
            };
            let (word, after) = rest.split_at(length);
            rest = after;
            if let Some(expression) = self.expanded.get(word) {
                out.extend(["(", expression, ")"]);
            } else if self.names.iter().any(|name| name == word) {
                return Err(Error::usage(format!(
                    "expression '{text}': '{word}' is defined by itself or only after this; definitions may use those before them"
                )));
            } else {
                out.push_str(word);
            }
            if out.len() > MOST_BYTES {
                return Err(Error::usage(format!(
                    "expression '{text}' is longer than {MOST_BYTES} bytes with its definitions"
                )));
            }
        }
        Ok(out)
    }
}

/// What an expression may come to, as [`Formula`](crate::heuristics::Formula) has it.
const MOST_BYTES: usize = 4096;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn definitions_stand_for_their_expressions_and_texts_stay() {
        let mut definitions = Definitions::expecting(["a = n + 1".to_owned(), "b = 2 * a".to_owned()]);
        definitions.add("a = n + 1").unwrap();
        definitions.add("b = 2 * a").unwrap();
        assert_eq!(definitions.expand("b == \"a b\" && ab").unwrap(), "(2 * (n + 1)) == \"a b\" && ab");
    }

    #[test]
    fn a_circle_and_an_endless_one_are_refused() {
        let texts = ["a = b + 1", "b = a + 1"];
        let mut definitions = Definitions::expecting(texts.map(str::to_owned));
        let error = definitions.add(texts[0]).unwrap_err().to_string();
        assert!(error.contains("'b'") && error.contains("defined by itself"), "{error}");
        let mut doubling = Definitions::default();
        doubling.add("x0 = n + n").unwrap();
        let error =
            (1..20).find_map(|place| doubling.add(&format!("x{place} = x{0} + x{0}", place - 1)).err()).unwrap();
        assert!(error.to_string().contains("longer than 4096 bytes"), "{error}");
        assert!(doubling.add("n").unwrap_err().to_string().contains("no definition"));
        assert!(doubling.add("x0 = 3").unwrap_err().to_string().contains("twice"));
    }
}
