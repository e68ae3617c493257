//! Reading an expression into steps.

use super::scope::{Scope, is_name_part, is_name_start};
use super::steps::{Binary, Step, Unary};
use crate::error::{Error, Result};

/// The functions, with what they give.
pub const FUNCTIONS: [(&str, &str); 12] = [
    ("abs(a)", "a without its sign"),
    ("align(a)", "the largest power of two that divides a; 2^62 for 0"),
    ("ceil_div(a, b)", "a / b rounded up"),
    ("default(knob, a)", "the knob, or a where it is missing or null"),
    ("gcd(a, b)", "the greatest common divisor"),
    ("given(knob)", "1 where the knob is there and not null, else 0"),
    ("if(c, a, b)", "a where c is true, else b; the other is not evaluated"),
    ("is_pow2(a)", "1 where a is a power of two, else 0"),
    ("log2(a)", "the logarithm of a positive a, rounded down"),
    ("max(a, b)", "the larger"),
    ("min(a, b)", "the smaller"),
    ("per_mille(a, b)", "1000 a / b, rounded down; the product may exceed 64 bits"),
];

/// Longer expressions are no longer small.
const MOST_BYTES: usize = 4096;
/// Values that an expression has in hand at once.
pub(super) const MOST_VALUES: usize = 32;
/// Parentheses, calls and signs within each other.
const MOST_NESTING: usize = 64;

/// Reads by recursive descent, a method for each level of precedence, writing steps as it goes.
struct Parser<'a> {
    text: &'a str,
    /// In bytes.
    place: usize,
    nesting: usize,
    /// Values on the stack after the steps so far.
    values: usize,
    steps: Vec<Step>,
    scope: &'a mut Scope,
}

/// The steps of an expression.
///
/// # Errors
/// Where it is none, with the expression and the place in it.
pub(super) fn steps_of(text: &str, scope: &mut Scope) -> Result<Vec<Step>> {
    let mut parser = Parser { text, place: 0, nesting: 0, values: 0, steps: Vec::new(), scope };
    let parsed = if text.len() > MOST_BYTES {
        Err(format!("longer than {MOST_BYTES} bytes"))
    } else {
        parser.either().and_then(|()| parser.end())
    };
    parsed.map(|()| std::mem::take(&mut parser.steps)).map_err(|wrong| {
        let column = text.get(..parser.place).unwrap_or(text).chars().count() + 1;
        Error::usage(format!("expression '{}', column {column}: {wrong}", around(text, column)))
    })
}

/// A text, of a long one what lies around a column.
fn around(text: &str, column: usize) -> String {
    const MOST: usize = 200;
    let letters = text.chars().count();
    let begin = column.saturating_sub(MOST / 2).min(letters.saturating_sub(MOST));
    let part: String = text.chars().skip(begin).take(MOST).collect();
    let [before, after] = [begin > 0, begin + MOST < letters].map(|is_cut| if is_cut { "…" } else { "" });
    format!("{before}{part}{after}")
}

/// What is wrong at the parser's place.
type Parsed<T = ()> = Result<T, String>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.place..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        self.place = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        self.skip_spaces();
        let comes = self.rest().starts_with(token);
        if comes {
            self.place += token.len();
        }
        comes
    }

    fn expect(&mut self, token: &str) -> Parsed {
        if self.take(token) { Ok(()) } else { Err(format!("expected '{token}', {}", self.found())) }
    }

    fn found(&self) -> String {
        self.rest().chars().next().map_or("but it ends here".to_owned(), |letter| format!("not '{letter}'"))
    }

    fn end(&mut self) -> Parsed {
        self.skip_spaces();
        if self.rest().is_empty() { Ok(()) } else { Err(format!("expected an operator or the end, {}", self.found())) }
    }

    /// Writes a step that adds a value.
    fn push(&mut self, step: Step) -> Parsed {
        self.steps.push(step);
        self.values += 1;
        if self.values > MOST_VALUES { Err(format!("more than {MOST_VALUES} values in hand")) } else { Ok(()) }
    }

    fn binary(&mut self, operation: Binary) {
        self.steps.push(Step::Binary(operation));
        self.values -= 1;
    }

    /// Writes a jump whose target is still open.
    fn jump(&mut self, jump: fn(u16) -> Step) -> usize {
        self.steps.push(jump(0));
        self.steps.len() - 1
    }

    /// Lets the jump lead to the next step.
    fn land(&mut self, jump: usize) -> Parsed {
        let here = u16::try_from(self.steps.len()).map_err(|_| "too long".to_owned())?;
        if let Some(Step::Jump(target) | Step::JumpUnless(target) | Step::LoadOrGoOn(_, target)) =
            self.steps.get_mut(jump)
        {
            *target = here;
        }
        Ok(())
    }

    fn deeper(&mut self, read: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.nesting += 1;
        if self.nesting > MOST_NESTING {
            return Err(format!("more than {MOST_NESTING} levels deep"));
        }
        read(self)?;
        self.nesting -= 1;
        Ok(())
    }

    fn either(&mut self) -> Parsed {
        self.both()?;
        while self.take("||") {
            // 1 where the left side holds, else whether the right side does.
            self.choose(
                |parser| parser.push(Step::Push(1)),
                |parser| {
                    parser.both()?;
                    parser.steps.push(Step::Unary(Unary::IsTrue));
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    fn both(&mut self) -> Parsed {
        self.comparison()?;
        while self.take("&&") {
            self.choose(
                |parser| {
                    parser.comparison()?;
                    parser.steps.push(Step::Unary(Unary::IsTrue));
                    Ok(())
                },
                |parser| parser.push(Step::Push(0)),
            )?;
        }
        Ok(())
    }

    /// Takes the top, and does one thing where it is true, the other where it is not; each adds a value.
    fn choose(&mut self, one: impl FnOnce(&mut Self) -> Parsed, other: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        let to_other = self.jump(Step::JumpUnless);
        self.values -= 1;
        one(self)?;
        let to_end = self.jump(Step::Jump);
        self.land(to_other)?;
        self.values -= 1;
        other(self)?;
        self.land(to_end)
    }

    fn comparison(&mut self) -> Parsed {
        self.sum()?;
        // What is greater is what is less the other way round; the negation keeps the order of evaluation.
        let operations = [
            ("==", Binary::Equal, false),
            ("!=", Binary::Unequal, false),
            ("<=", Binary::LessOrEqual, false),
            (">=", Binary::Less, true),
            ("<", Binary::Less, false),
            (">", Binary::LessOrEqual, true),
        ];
        if let Some((_, operation, negated)) = operations.into_iter().find(|(token, ..)| self.take(token)) {
            self.sum()?;
            self.binary(operation);
            if negated {
                self.steps.push(Step::Unary(Unary::Not));
            }
        }
        Ok(())
    }

    fn sum(&mut self) -> Parsed {
        self.product()?;
        while let Some(operation) = self.operator(&[("+", Binary::Add), ("-", Binary::Subtract)]) {
            self.product()?;
            self.binary(operation);
        }
        Ok(())
    }

    fn product(&mut self) -> Parsed {
        self.signed()?;
        let operations = [("*", Binary::Multiply), ("/", Binary::Divide), ("%", Binary::Remainder)];
        while let Some(operation) = self.operator(&operations) {
            self.signed()?;
            self.binary(operation);
        }
        Ok(())
    }

    fn operator(&mut self, operations: &[(&str, Binary)]) -> Option<Binary> {
        operations.iter().find(|(token, _)| self.take(token)).map(|(_, operation)| *operation)
    }

    fn signed(&mut self) -> Parsed {
        let operation = if self.take("-") {
            Unary::Negate
        } else if !self.rest().starts_with("!=") && self.take("!") {
            Unary::Not
        } else {
            return self.primary();
        };
        self.deeper(Self::signed)?;
        self.steps.push(Step::Unary(operation));
        Ok(())
    }

    fn primary(&mut self) -> Parsed {
        if self.take("(") {
            self.deeper(Self::either)?;
            return self.expect(")");
        }
        if self.take("\"") {
            let Some(length) = self.rest().find('"') else { return Err("a text without its closing \"".to_owned()) };
            let word = self.scope.word_slot(&self.rest()[..length]);
            self.place += length + 1;
            return self.push(Step::Push(word));
        }
        self.skip_spaces();
        match self.rest().chars().next() {
            Some(digit) if digit.is_ascii_digit() => {
                let number = self.number()?;
                self.push(Step::Push(number))
            }
            Some(letter) if is_name_start(letter) => {
                let start = self.place;
                let name = self.name();
                if self.take("(") { self.call(name, start) } else { self.variable(name, start) }
            }
            _ => Err(format!("expected a number, a name or '(', {}", self.found())),
        }
    }

    fn number(&mut self) -> Parsed<i64> {
        self.skip_spaces();
        let digits = self.rest().find(|letter: char| !letter.is_ascii_digit()).unwrap_or(self.rest().len());
        let number = self.rest()[..digits].parse().map_err(|error| format!("a number of 64 bits: {error}"))?;
        self.place += digits;
        Ok(number)
    }

    fn name(&mut self) -> &'a str {
        self.skip_spaces();
        let length = self.rest().find(|letter| !is_name_part(letter)).unwrap_or(self.rest().len());
        let name = &self.rest()[..length];
        self.place += length;
        name
    }

    /// The slot of the value that `name` began to name at `start`.
    fn slot(&mut self, name: &str, start: usize) -> Parsed<u16> {
        let entry = if self.take("[") {
            let entry = self.number()?;
            self.expect("]")?;
            Some(entry as usize)
        } else {
            None
        };
        self.scope.resolve(name, entry).inspect_err(|_| self.place = start)
    }

    fn variable(&mut self, name: &str, start: usize) -> Parsed {
        let slot = self.slot(name, start)?;
        self.push(Step::Load(slot))
    }

    fn call(&mut self, name: &str, start: usize) -> Parsed {
        self.deeper(|parser| parser.arguments(name, start))?;
        self.expect(")")
    }

    fn arguments(&mut self, name: &str, start: usize) -> Parsed {
        let unary = match name {
            "abs" => Some(Unary::Abs),
            "align" => Some(Unary::Align),
            "is_pow2" => Some(Unary::IsPow2),
            "log2" => Some(Unary::Log2),
            _ => None,
        };
        let binary = match name {
            "ceil_div" => Some(Binary::CeilDiv),
            "gcd" => Some(Binary::Gcd),
            "max" => Some(Binary::Max),
            "min" => Some(Binary::Min),
            "per_mille" => Some(Binary::PerMille),
            _ => None,
        };
        if let Some(operation) = unary {
            self.either()?;
            self.steps.push(Step::Unary(operation));
            return Ok(());
        }
        if let Some(operation) = binary {
            self.either()?;
            self.expect(",")?;
            self.either()?;
            self.binary(operation);
            return Ok(());
        }
        match name {
            "given" => {
                let slot = self.knob()?;
                self.push(Step::Given(slot))
            }
            "default" => {
                let slot = self.knob()?;
                self.steps.push(Step::LoadOrGoOn(slot, 0));
                let to_end = self.steps.len() - 1;
                self.expect(",")?;
                self.either()?;
                self.land(to_end)
            }
            "if" => {
                self.either()?;
                self.expect(",")?;
                self.choose(Self::either, |parser| {
                    parser.expect(",")?;
                    parser.either()
                })
            }
            _ => {
                self.place = start;
                let known = FUNCTIONS.map(|(call, _)| call.split('(').next().unwrap_or_default()).join(", ");
                Err(format!("unknown function '{name}'; there are {known}"))
            }
        }
    }

    fn knob(&mut self) -> Parsed<u16> {
        self.skip_spaces();
        let start = self.place;
        let name = self.name();
        self.slot(name, start)
    }
}
