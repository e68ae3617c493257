//! Small integer expressions: where a config is legal, and what a fitted model looks at.
//!
//! ```text
//! ceil_div(m, block_sizes[0]) * ceil_div(n, block_sizes[1]) <= 4 * multiprocessors && pid_type == "flat"
//! ```
//!
//! Numbers are 64-bit integers; what does not fit one is a fault, never another number. There are `+ - * / %` (division
//! rounds down, a remainder has the divisor's sign), `== != < <= > >=`, `&& || !` (0 is false, the rest true; the right
//! side is evaluated only where it decides), parentheses, texts to compare knobs with, `knob[0]` for an entry of a list,
//! and the functions of [`FUNCTIONS`]. A knob that is missing or null is a fault too, except to `given` and `default`.

use crate::error::{Error, Result};
use std::fmt;

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

/// What stands for a value that is not there.
pub(super) const MISSING: i64 = i64::MIN;

/// Texts are numbers this far from any that is meant as one.
const FIRST_WORD: i64 = i64::MIN / 2;
/// Longer expressions are no longer small.
const MOST_BYTES: usize = 4096;
/// Values that an expression has in hand at once.
const MOST_VALUES: usize = 32;
/// Parentheses, calls and signs within each other.
const MOST_NESTING: usize = 64;

/// The names that expressions may use, each with the slot its value is in, and the texts they compare with.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// By slot.
    variables: Vec<Variable>,
    knobs: Vec<String>,
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

    fn word_slot(&mut self, text: &str) -> i64 {
        if !self.words.iter().any(|word| word == text) {
            self.words.push(text.to_owned());
        }
        self.word(text)
    }

    fn resolve(&mut self, name: &str, entry: Option<usize>) -> Result<u16, String> {
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
                return Err(match nearest(name, &names) {
                    Some(nearest) => {
                        format!("unknown name '{name}', perhaps '{nearest}'; there are {}", names.join(", "))
                    }
                    None => format!("unknown name '{name}'; there are {}", names.join(", ")),
                });
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

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The value in that slot is not there.
    Missing(usize),
    DivisionByZero,
    /// The value needs more than 64 bits.
    Overflow,
    /// The logarithm of what is not positive.
    NotPositive,
}

impl Fault {
    /// The fault in words.
    pub(super) fn explain(self, scope: &Scope) -> String {
        match self {
            Self::Missing(slot) => match scope.variables.get(slot) {
                Some(Variable { name, entry: Some(entry) }) => format!("{name}[{entry}] is missing"),
                Some(Variable { name, entry: None }) => format!("{name} is missing"),
                None => "a value is missing".to_owned(),
            },
            Self::DivisionByZero => "division by zero".to_owned(),
            Self::Overflow => "the value needs more than 64 bits".to_owned(),
            Self::NotPositive => "log2 of what is not positive".to_owned(),
        }
    }
}

/// A step of the evaluation, on a stack of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Push(i64),
    /// A value that must be there.
    Load(u16),
    /// Whether a value is there.
    Given(u16),
    /// The value and a jump where it is there; else nothing.
    LoadOrGoOn(u16, u16),
    Unary(Unary),
    Binary(Binary),
    /// Takes the top; jumps where it is false.
    JumpUnless(u16),
    Jump(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unary {
    Abs,
    Align,
    IsPow2,
    IsTrue,
    Log2,
    Negate,
    Not,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Binary {
    Add,
    CeilDiv,
    Divide,
    Equal,
    Gcd,
    Less,
    LessOrEqual,
    Max,
    Min,
    Multiply,
    PerMille,
    Remainder,
    Subtract,
    Unequal,
}

impl Unary {
    #[inline]
    fn of(self, a: i64) -> Result<i64, Fault> {
        match self {
            Self::Abs => a.checked_abs().ok_or(Fault::Overflow),
            Self::Align => Ok(if a == 0 { 1 << 62 } else { 1 << a.trailing_zeros().min(62) }),
            Self::IsPow2 => Ok(i64::from(a > 0 && a & (a - 1) == 0)),
            Self::IsTrue => Ok(i64::from(a != 0)),
            Self::Log2 => a.checked_ilog2().map(i64::from).ok_or(Fault::NotPositive),
            Self::Negate => a.checked_neg().ok_or(Fault::Overflow),
            Self::Not => Ok(i64::from(a == 0)),
        }
    }
}

impl Binary {
    #[inline]
    fn of(self, a: i64, b: i64) -> Result<i64, Fault> {
        let divided = |a: i128, b: i64| {
            if b == 0 {
                return Err(Fault::DivisionByZero);
            }
            let b = i128::from(b);
            // Euclid's quotient is the floor for a positive divisor, and the ceiling for a negative one.
            let floor = if b > 0 { a.div_euclid(b) } else { (-a).div_euclid(-b) };
            i64::try_from(floor).map_err(|_| Fault::Overflow)
        };
        let quotient = |a: i64, b: i64| {
            if a >= 0 && b > 0 { Ok(a / b) } else { divided(a.into(), b) }
        };
        match self {
            Self::Add => a.checked_add(b).ok_or(Fault::Overflow),
            Self::CeilDiv if a >= 0 && b > 0 => Ok(a / b + i64::from(a % b != 0)),
            Self::CeilDiv => divided(-i128::from(a), b)?.checked_neg().ok_or(Fault::Overflow),
            Self::Divide => quotient(a, b),
            Self::Equal => Ok(i64::from(a == b)),
            Self::Gcd => {
                let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                i64::try_from(a).map_err(|_| Fault::Overflow)
            }
            Self::Less => Ok(i64::from(a < b)),
            Self::LessOrEqual => Ok(i64::from(a <= b)),
            Self::Max => Ok(a.max(b)),
            Self::Min => Ok(a.min(b)),
            Self::Multiply => a.checked_mul(b).ok_or(Fault::Overflow),
            Self::PerMille => match a.checked_mul(1000) {
                Some(scaled) => quotient(scaled, b),
                None => divided(i128::from(a) * 1000, b),
            },
            Self::Remainder => {
                let quotient = i128::from(quotient(a, b)?);
                // Smaller than b, so it fits.
                Ok((i128::from(a) - quotient * i128::from(b)) as i64)
            }
            Self::Subtract => a.checked_sub(b).ok_or(Fault::Overflow),
            Self::Unequal => Ok(i64::from(a != b)),
        }
    }
}

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
        let mut parser = Parser { text, place: 0, nesting: 0, values: 0, steps: Vec::new(), scope };
        let parsed = if text.len() > MOST_BYTES {
            Err(format!("longer than {MOST_BYTES} bytes"))
        } else {
            parser.either().and_then(|()| parser.end())
        };
        match parsed {
            Ok(()) => Ok(Self { steps: parser.steps.into() }),
            Err(wrong) => {
                let column = text.get(..parser.place).unwrap_or(text).chars().count() + 1;
                let shown: String = text.chars().take(200).collect();
                Err(Error::usage(format!("expression '{shown}', column {column}: {wrong}")))
            }
        }
    }

    /// Its value, of the values in the scope's slots. Allocates nothing.
    pub(super) fn evaluate(&self, values: &[i64]) -> Result<i64, Fault> {
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
                    stack[top % stack.len()] = i64::from(value_in(slot) != MISSING);
                }
                Step::LoadOrGoOn(slot, target) => {
                    let value = value_in(slot);
                    if value != MISSING {
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

/// An expression with its text, over values that its reader holds in a list.
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
                names.join(", ")
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
        self.expression.evaluate(values).ok()
    }

    /// The same, over values of these names.
    ///
    /// # Errors
    /// Where it has none, with the expression and why.
    pub fn evaluate(&self, values: &[i64], names: &[&str]) -> Result<i64> {
        self.expression.evaluate(values).map_err(|fault| {
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

fn is_name_start(letter: char) -> bool {
    letter.is_ascii_alphabetic() || letter == '_'
}

fn is_name_part(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

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

impl fmt::Display for Variable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(out, "{}[{entry}]", self.name),
            None => out.write_str(&self.name),
        }
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
