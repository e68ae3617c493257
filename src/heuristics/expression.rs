//! Small integer expressions over dimensions, knobs and a GPU's figures: where a config is legal, and what a plan leaves out.
//!
//! `+ - * / %`, comparisons, `&& || !`, `min(a, b)`, `max(a, b)` and `ceil_div(a, b)` over whole numbers of 64 bits. A
//! comparison is 1 where it holds, else 0, and what is not 0 is true. Arithmetic stops at the largest number.

use crate::error::{Error, Result};

/// An expression whose names are places in a list of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    text: String,
    root: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Number(i64),
    Place(usize),
    Not(Box<Node>),
    Two(Operation, Box<[Node; 2]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Or,
    And,
    Equal,
    Unequal,
    AtMost,
    AtLeast,
    Less,
    More,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    CeilDiv,
    Min,
    Max,
}

/// Operators by how tightly they bind, the loosest first; a longer one before its own beginning.
const LEVELS: [&[(&str, Operation)]; 5] = [
    &[("||", Operation::Or)],
    &[("&&", Operation::And)],
    &[
        ("==", Operation::Equal),
        ("!=", Operation::Unequal),
        ("<=", Operation::AtMost),
        (">=", Operation::AtLeast),
        ("<", Operation::Less),
        (">", Operation::More),
    ],
    &[("+", Operation::Add), ("-", Operation::Subtract)],
    &[("*", Operation::Multiply), ("/", Operation::Divide), ("%", Operation::Remainder)],
];

const FUNCTIONS: [(&str, Operation); 3] =
    [("ceil_div", Operation::CeilDiv), ("max", Operation::Max), ("min", Operation::Min)];

/// How deep parentheses may nest.
const MOST_DEPTH: u32 = 64;

impl Expression {
    /// Reads an expression; `place` says where the value of a name such as `m` or `block_sizes[0]` stands.
    ///
    /// # Errors
    /// Where it is none, or has a name that `place` does not know; the message says where.
    pub fn parse(text: &str, place: &dyn Fn(&str) -> Option<usize>) -> Result<Self> {
        let mut reader = Reader { text, at: 0, depth: 0, place };
        let root = reader.level(0)?;
        if !reader.rest().is_empty() {
            return Err(reader.error("something else follows"));
        }
        Ok(Self { text: text.into(), root })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The places it reads, with repetitions.
    pub fn places(&self) -> Vec<usize> {
        fn collect(node: &Node, places: &mut Vec<usize>) {
            match node {
                Node::Number(_) => {}
                Node::Place(place) => places.push(*place),
                Node::Not(inner) => collect(inner, places),
                Node::Two(_, sides) => sides.iter().for_each(|side| collect(side, places)),
            }
        }
        let mut places = Vec::new();
        collect(&self.root, &mut places);
        places
    }

    /// Its value, or nothing where it divides by zero or a place is past the end of `values`.
    pub fn value(&self, values: &[i64]) -> Option<i64> {
        value(&self.root, values)
    }

    /// Whether it holds: it has a value, which is not 0.
    pub fn holds(&self, values: &[i64]) -> bool {
        self.value(values).is_some_and(|value| value != 0)
    }
}

fn value(node: &Node, values: &[i64]) -> Option<i64> {
    let (operation, sides) = match node {
        Node::Number(number) => return Some(*number),
        Node::Place(place) => return values.get(*place).copied(),
        Node::Not(inner) => return Some(i64::from(value(inner, values)? == 0)),
        Node::Two(operation, sides) => (*operation, sides),
    };
    let left = value(&sides[0], values)?;
    match operation {
        Operation::And if left == 0 => return Some(0),
        Operation::Or if left != 0 => return Some(1),
        _ => {}
    }
    let right = value(&sides[1], values)?;
    Some(match operation {
        Operation::Or | Operation::And => i64::from(right != 0),
        Operation::Equal => i64::from(left == right),
        Operation::Unequal => i64::from(left != right),
        Operation::AtMost => i64::from(left <= right),
        Operation::AtLeast => i64::from(left >= right),
        Operation::Less => i64::from(left < right),
        Operation::More => i64::from(left > right),
        Operation::Add => left.saturating_add(right),
        Operation::Subtract => left.saturating_sub(right),
        Operation::Multiply => left.saturating_mul(right),
        Operation::Divide => left.checked_div(right)?,
        Operation::Remainder => left.checked_rem(right)?,
        Operation::CeilDiv => left.checked_div(right)? + i64::from(left.checked_rem(right)? > 0),
        Operation::Min => left.min(right),
        Operation::Max => left.max(right),
    })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
    place: &'a dyn Fn(&str) -> Option<usize>,
}

impl<'a> Reader<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn error(&self, what: &str) -> Error {
        Error::usage(format!("'{}', at '{}': {what}", self.text, &self.text[self.at..]))
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_next = self.rest().starts_with(token);
        self.at += if is_next { token.len() } else { 0 };
        is_next
    }

    fn needs(&mut self, token: &str) -> Result<()> {
        if self.takes(token) { Ok(()) } else { Err(self.error(&format!("expected '{token}'"))) }
    }

    /// Operands of this level's operators, from left to right.
    fn level(&mut self, level: usize) -> Result<Node> {
        let Some(operators) = LEVELS.get(level) else { return self.operand() };
        let mut left = self.level(level + 1)?;
        while let Some((_, operation)) = operators.iter().find(|(token, _)| self.takes(token)) {
            left = Node::Two(*operation, Box::new([left, self.level(level + 1)?]));
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Node> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(self.error("too deep"));
        }
        let operand = if self.takes("!") {
            Node::Not(Box::new(self.operand()?))
        } else if self.takes("-") {
            Node::Two(Operation::Subtract, Box::new([Node::Number(0), self.operand()?]))
        } else if self.takes("(") {
            let inner = self.level(0)?;
            self.needs(")")?;
            inner
        } else {
            self.word()?
        };
        self.depth -= 1;
        Ok(operand)
    }

    /// A number, a name or a function of two.
    fn word(&mut self) -> Result<Node> {
        let rest = self.rest();
        let is_part = |character: char| character.is_ascii_alphanumeric() || "_[]".contains(character);
        let word = &rest[..rest.find(|character| !is_part(character)).unwrap_or(rest.len())];
        if word.starts_with(|first: char| first.is_ascii_digit()) {
            let number = word.parse().map_err(|_| self.error("no whole number"))?;
            self.at += word.len();
            return Ok(Node::Number(number));
        }
        if let Some((_, operation)) = FUNCTIONS.iter().find(|(name, _)| *name == word) {
            self.at += word.len();
            self.needs("(")?;
            let left = self.level(0)?;
            self.needs(",")?;
            let right = self.level(0)?;
            self.needs(")")?;
            return Ok(Node::Two(*operation, Box::new([left, right])));
        }
        let place = (self.place)(word).ok_or_else(|| self.error("expected a number or a name that is known here"))?;
        self.at += word.len();
        Ok(Node::Place(place))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["m", "block_sizes[0]", "split_k"];

    fn parse(text: &str) -> Result<Expression> {
        Expression::parse(text, &|name| NAMES.iter().position(|known| *known == name))
    }

    fn value(text: &str) -> Option<i64> {
        parse(text).unwrap().value(&[100, 64, 3])
    }

    #[test]
    fn operators_bind_as_in_rust() {
        assert_eq!(value("1 + 2 * 3 - 4 / 2 % 3"), Some(5));
        assert_eq!(value("(1 + 2) * -3"), Some(-9));
        assert_eq!(value("m > 64 && split_k == 3 || 0"), Some(1));
        assert_eq!(value("!(m >= block_sizes[0]) || m - 1 < 99"), Some(0));
        assert_eq!(value("10 - 3 - 2"), Some(5));
    }

    #[test]
    fn functions_take_two() {
        assert_eq!(value("ceil_div(m, block_sizes[0]) * min(split_k, 2) + max(m, 7)"), Some(104));
        assert_eq!(value("ceil_div(128, 64)"), Some(2));
    }

    #[test]
    fn what_has_no_value_does_not_hold_and_nothing_overflows() {
        assert_eq!(value("m / (split_k - 3)"), None);
        assert!(!parse("m % 0 == 0").unwrap().holds(&[100, 64, 3]));
        assert_eq!(value("split_k == 3 || m / 0"), Some(1), "what does not matter is not looked at");
        assert_eq!(value("9223372036854775807 * 2 + m"), Some(i64::MAX));
        assert_eq!(parse("m").unwrap().value(&[]), None);
    }

    #[test]
    fn errors_say_where() {
        for (text, at) in [("m +", "''"), ("m < n", "'n'"), ("min(m)", "')'"), ("(m", "''"), ("m 3", "'3'"), ("", "''")]
        {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("at {at}")), "{text}: {error}");
        }
        assert!(parse(&"(".repeat(100_000)).is_err());
        assert!(parse(&"!".repeat(100_000)).is_err());
    }

    #[test]
    fn it_knows_what_it_reads() {
        assert_eq!(parse("m * m + split_k").unwrap().places(), [0, 0, 2]);
    }
}
