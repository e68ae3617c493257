//! Small integer expressions: where a config is legal, and what a fitted model looks at.
//!
//! ```text
//! ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1]) <= 4 * multiprocessors && pid_type == "flat"
//! ```
//!
//! Numbers are 64-bit integers; what does not fit one is a fault, never another number. There are `+ - * / %` (division
//! rounds down, a remainder has the divisor's sign), `== != < <= > >=`, `&& || !` (0 is false, the rest true; the right
//! side is evaluated only where it decides), parentheses, texts to compare knobs with, `knob[0]` for an entry of a list,
//! and the functions of [`super::EXPRESSION_FUNCTIONS`]. A knob that is missing or null is a fault too, except to `given` and `default`.

use super::parser::{MOST_VALUES, steps_of};
use super::scope::{FIRST_WORD, Scope, Variable};
use super::steps::{Fault, MISSING, Step};
use crate::error::{Error, Result};

/// An expression, ready to be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expression {
    steps: Box<[Step]>,
}

impl Expression {
    /// The same, with its texts by the numbers that they have in every expression.
    fn with_words_of_all(self, scope: &Scope) -> Self {
        let renumbered = |step: &Step| match *step {
            Step::Push(value) => {
                let word = scope.words.iter().find(|word| scope.word(word) == value);
                Step::Push(word.map_or(value, |word| Formula::word(word)))
            }
            other => other,
        };
        Self { steps: self.steps.iter().map(renumbered).collect() }
    }

    /// Reads an expression, giving a slot to each knob that it is the first to ask for.
    ///
    /// # Errors
    /// Where it is none, with the expression and the place in it.
    pub(super) fn parse(text: &str, scope: &mut Scope) -> Result<Self> {
        Ok(Self { steps: steps_of(text, scope)?.into() })
    }

    /// Its value, of the values in the scope's slots. Allocates nothing.
    pub(super) fn evaluate(&self, values: &[i64]) -> Result<i64, Fault> {
        self.evaluate_with(values, MISSING)
    }

    /// The same, where a knob of this value is one that the config does not have.
    fn evaluate_with(&self, values: &[i64], not_given: i64) -> Result<i64, Fault> {
        let value_in = |slot: u16| values.get(usize::from(slot)).copied().unwrap_or(MISSING);
        let load = |slot: u16| match value_in(slot) {
            MISSING => Err(Fault::Missing(slot.into())),
            value => Ok(value),
        };
        if let [Step::Load(slot)] = *self.steps {
            return load(slot);
        }
        // The parser saw to it that the stack is large enough, and that each step finds what it takes.
        let mut stack = [0; MOST_VALUES + 1];
        let mut top = 0;
        let mut next = 0;
        while let Some(step) = self.steps.get(next) {
            next += 1;
            match *step {
                Step::Push(value) => {
                    top += 1;
                    stack[top % stack.len()] = value;
                }
                Step::Load(slot) => {
                    top += 1;
                    stack[top % stack.len()] = load(slot)?;
                }
                Step::Given(slot) => {
                    top += 1;
                    stack[top % stack.len()] = i64::from(![MISSING, not_given].contains(&value_in(slot)));
                }
                Step::LoadOrGoOn(slot, target) => {
                    let value = value_in(slot);
                    if ![MISSING, not_given].contains(&value) {
                        top += 1;
                        stack[top % stack.len()] = value;
                        next = target.into();
                    }
                }
                Step::Unary(operation) => {
                    let a = &mut stack[top % (MOST_VALUES + 1)];
                    *a = operation.of(*a)?;
                }
                Step::Binary(operation) => {
                    let b = stack[top % stack.len()];
                    top -= 1;
                    let a = &mut stack[top % (MOST_VALUES + 1)];
                    *a = operation.of(*a, b)?;
                }
                Step::JumpUnless(target) => {
                    if stack[top % stack.len()] == 0 {
                        next = target.into();
                    }
                    top -= 1;
                }
                Step::Jump(target) => next = target.into(),
            }
        }
        match stack[top % stack.len()] {
            MISSING => Err(Fault::Overflow),
            value => Ok(value),
        }
    }

    /// Whether it has a value other than 0; a condition that has none does not hold.
    pub(super) fn holds(&self, values: &[i64]) -> bool {
        matches!(self.evaluate(values), Ok(value) if value != 0)
    }

    /// The slots it may read.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().filter_map(|step| match *step {
            Step::Load(slot) | Step::Given(slot) | Step::LoadOrGoOn(slot, _) => Some(slot.into()),
            _ => None,
        })
    }

    /// The slot whose value is this expression's, if it is nothing more.
    pub(super) fn as_slot(&self) -> Option<usize> {
        match *self.steps {
            [Step::Load(slot)] => Some(slot.into()),
            _ => None,
        }
    }
}

/// What a [`Formula`] reads of a knob that the config does not have, or that is null.
const NOT_GIVEN: i64 = 0;

/// An expression with its text, over values that its reader holds in a list. A knob that is missing is 0 there, and so it is to
/// `given` and `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formula {
    text: String,
    expression: Expression,
}

impl Formula {
    /// Reads an expression over these names, in the order of the list that its values will come in. A name such as
    /// `block_sizes[0]` stands for an entry of a knob's list.
    ///
    /// # Errors
    /// Where it is none, or asks for another name.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self> {
        let mut scope = Scope::default();
        for name in names {
            let entry = name.strip_suffix(']').and_then(|name| name.split_once('['));
            let parts = entry.and_then(|(knob, place)| Some((knob, place.parse().ok()?)));
            let variable = match parts {
                None => Variable { name: (*name).to_owned(), entry: None },
                Some((knob, place)) => {
                    if !scope.knobs.iter().any(|known| known == knob) {
                        scope.knobs.push(knob.to_owned());
                    }
                    Variable { name: knob.to_owned(), entry: Some(place) }
                }
            };
            scope.variables.push(variable);
        }
        let expression = Expression::parse(text, &mut scope)?;
        match scope.variables.get(names.len()) {
            None => Ok(Self { text: text.to_owned(), expression: expression.with_words_of_all(&scope) }),
            Some(Variable { name, .. }) => Err(Error::usage(format!(
                "expression '{text}': there is no such entry of '{name}'; there are {}",
                names.iter().copied().filter(|name| !name.is_empty()).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// As it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The places in the list that it reads, each once.
    pub fn places(&self) -> Vec<usize> {
        let mut places: Vec<usize> = self.expression.slots().collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// Its value; nothing where it has none, as of a division by zero.
    pub fn value(&self, values: &[i64]) -> Option<i64> {
        self.expression.evaluate_with(values, NOT_GIVEN).ok()
    }

    /// The same, over values of these names.
    ///
    /// # Errors
    /// Where it has none, with the expression and why.
    pub fn evaluate(&self, values: &[i64], names: &[&str]) -> Result<i64> {
        self.expression.evaluate_with(values, NOT_GIVEN).map_err(|fault| {
            let mut scope = Scope::default();
            scope.variables.extend(names.iter().map(|name| Variable { name: (*name).to_owned(), entry: None }));
            Error::usage(format!("expression '{}': {}", self.text, fault.explain(&scope)))
        })
    }

    /// The value that a text has in every expression: texts are compared by it.
    pub fn word(text: &str) -> i64 {
        // FNV-1a (Fowler, Noll, Vo), of 32 bits.
        let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        FIRST_WORD + 1 + i64::from(hash)
    }

    /// Whether it has a value, and is true.
    pub fn holds(&self, values: &[i64]) -> bool {
        self.value(values).is_some_and(|value| value != 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// m = 100, n = 7, block_sizes = [64, 128], pid_type = "flat", split_k missing.
    fn value(text: &str) -> Result<i64, String> {
        let mut scope = Scope::default();
        for name in ["m", "n", "huge"] {
            scope.declare(name).unwrap();
        }
        for name in ["block_sizes", "pid_type", "split_k"] {
            scope.declare_knob(name).unwrap();
        }
        let expression = Expression::parse(text, &mut scope).map_err(|error| error.to_string())?;
        let mut values = vec![MISSING; scope.len()];
        values[..3].copy_from_slice(&[100, 7, i64::MAX]);
        for (slot, variable) in scope.knob_slots() {
            values[slot] = match (variable.name.as_str(), variable.entry) {
                ("block_sizes", Some(0)) => 64,
                ("block_sizes", Some(1)) => 128,
                ("pid_type", None) => scope.word("flat"),
                _ => MISSING,
            };
        }
        expression.evaluate(&values).map_err(|fault| fault.explain(&scope))
    }

    #[test]
    fn expressions_mean_what_they_mean_elsewhere() {
        for (text, expected) in [
            ("1 + 2 * 3 - 4", 3),
            ("(1 + 2) * 3", 9),
            ("10 - 3 - 2", 5),
            ("7 / 2", 3),
            ("-7 / 2", -4),
            ("7 / -2", -4),
            ("-7 % 4", 1),
            ("7 % -4", -1),
            ("ceil_div(7, 2)", 4),
            ("ceil_div(-7, 2)", -3),
            ("ceil_div(7, -2)", -3),
            ("- -3", 3),
            ("!0 + !5", 1),
            ("1 < 2 && 2 <= 2 && 3 > 2 && 3 >= 3 && 1 != 2 && 4 == 4", 1),
            ("2 > 2 || 2 >= 3", 0),
            ("5 && 3", 1),
            ("0 || 7", 1),
            ("m == 100 || 1 / 0", 1),
            ("m != 100 && 1 / 0", 0),
            ("min(m, n) + max(m, n)", 107),
            ("gcd(100, 75)", 25),
            ("gcd(-4, 6)", 2),
            ("align(96)", 32),
            ("align(7)", 1),
            ("min(align(0), 16)", 16),
            ("log2(100)", 6),
            ("is_pow2(64) + is_pow2(65) + is_pow2(0)", 1),
            ("abs(-5)", 5),
            ("per_mille(m, 132)", 757),
            ("per_mille(huge, huge)", 1000),
            ("block_sizes[0] * block_sizes[1]", 8192),
            ("ceil_div(m, block_sizes[0])", 2),
            ("pid_type == \"flat\"", 1),
            ("pid_type == \"persistent_blocked\"", 0),
            ("given(split_k) + given(block_sizes[1])", 1),
            ("default(split_k, 1) + default(block_sizes[0], 1 / 0)", 65),
            ("default(block_sizes[5], m)", 100),
            ("if(m > 50, n, 1 / 0)", 7),
            ("if(m < 50, 1 / 0, if(n == 7, 3, 4)) * 2", 6),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_says_why() {
        for (text, why) in [
            ("split_k + 1", "split_k is missing"),
            ("block_sizes[2]", "block_sizes[2] is missing"),
            ("m / (n - 7)", "division by zero"),
            ("m % 0", "division by zero"),
            ("huge + 1", "64 bits"),
            ("huge * 2", "64 bits"),
            ("per_mille(huge, 1)", "64 bits"),
            ("-huge - 1", "64 bits"),
            ("log2(0)", "not positive"),
        ] {
            let fault = value(text).unwrap_err();
            assert!(fault.contains(why), "{text}: {fault}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        for (text, column, why) in [
            ("", 1, "but it ends here"),
            ("1 +", 4, "but it ends here"),
            ("(1", 3, "expected ')'"),
            ("1 2", 3, "expected an operator"),
            ("m < n < 3", 7, "expected an operator"),
            ("bloc_sizes[0]", 1, "unknown name 'bloc_sizes', perhaps 'block_sizes'; there are block_sizes, huge, m"),
            ("m[0]", 1, "'m' is no knob"),
            ("1 + root(4)", 5, "unknown function 'root'; there are abs, align"),
            ("99999999999999999999", 1, "64 bits"),
            ("min(1)", 6, "expected ','"),
            ("\"flat", 2, "closing"),
            ("m & n", 3, "expected an operator"),
            ("µ", 1, "not 'µ'"),
        ] {
            let error = value(text).unwrap_err();
            assert!(error.contains(&format!("expression '{text}', column {column}: ")), "{error}");
            assert!(error.contains(why), "{error}");
        }
        let long = format!("{} + rows + {}", vec!["m"; 200].join(" + "), vec!["n"; 200].join(" + "));
        let error = value(&long).unwrap_err();
        assert!(error.contains("'…") && error.contains("m + rows + n") && error.contains("…'"), "{error}");
        let entry = Formula::parse("tiles[3]", &["m", "", "tiles[0]", "tiles[1]"]).unwrap_err().to_string();
        assert!(entry.ends_with("no such entry of 'tiles'; there are m, tiles[0], tiles[1]"), "{entry}");
        assert!(value(&"(".repeat(5000)).unwrap_err().contains("longer than"));
        assert!(value(&"(".repeat(500)).unwrap_err().contains("levels deep"));
        assert!(value(&"-".repeat(500)).unwrap_err().contains("levels deep"));
        let many_in_hand = format!("{}1{}", "1+(1*(".repeat(30), "))".repeat(30));
        assert!(value(&many_in_hand).unwrap_err().contains("values in hand"));
    }

    #[test]
    fn names_are_names_and_each_is_given_once() {
        let mut scope = Scope::default();
        scope.declare("m").unwrap();
        assert!(scope.declare("m").unwrap_err().to_string().contains("twice"));
        assert!(scope.declare_knob("m").is_err() && scope.declare("2m").is_err() && scope.declare("").is_err());
    }

    /// An expression with its value by 128-bit arithmetic, none where anything in it has none.
    fn arithmetic() -> impl Strategy<Value = (String, Option<i128>)> {
        let leaf = (0i64..1_000_000).prop_map(|number| (number.to_string(), Some(i128::from(number))));
        leaf.prop_recursive(4, 24, 2, |inner| {
            (inner.clone(), 0usize..6, inner).prop_map(|((a, x), operation, (b, y))| {
                let text = match operation {
                    5 => format!("ceil_div({a}, {b})"),
                    _ => format!("({a} {} {b})", ["+", "-", "*", "/", "%"][operation]),
                };
                let exact_floor = |x: i128, y: i128| {
                    let quotient = x.checked_div(y)?;
                    Some(if quotient * y != x && (x < 0) != (y < 0) { quotient - 1 } else { quotient })
                };
                let value = x.zip(y).and_then(|(x, y)| match operation {
                    0 => Some(x + y),
                    1 => Some(x - y),
                    2 => Some(x * y),
                    3 => exact_floor(x, y),
                    4 => exact_floor(x, y).map(|quotient| x - quotient * y),
                    _ => exact_floor(-x, y).map(|quotient| -quotient),
                });
                (text, value.filter(|value| i64::try_from(*value).is_ok_and(|value| value != MISSING)))
            })
        })
    }

    proptest! {
        #[test]
        fn arithmetic_is_exact_or_a_fault((text, expected) in arithmetic()) {
            prop_assert_eq!(value(&text).ok().map(i128::from), expected, "{}", text);
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".{0,60}") {
            let _ = value(&text);
        }

        #[test]
        fn no_text_of_its_own_words_breaks_the_reader(words in prop::collection::vec(prop::sample::select(vec![
            "m", "n", "huge", "block_sizes", "[0]", "split_k", "pid_type", "\"flat\"", "(", ")", ",", "+", "-", "*", "/", "%",
            "<", ">=", "==", "!=", "!", "&&", "||", "if(", "default(", "given(", "ceil_div(", "per_mille(", "align(", "0", "1", "7",
        ]), 0..24)) {
            let _ = value(&words.concat());
        }
    }
}
