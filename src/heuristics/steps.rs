//! The steps that an expression is evaluated in, and what can go wrong in one.

use super::scope::{Scope, Variable};

/// What stands for a value that is not there.
pub(super) const MISSING: i64 = i64::MIN;

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
pub(super) enum Step {
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

/// What is done with one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Abs,
    Align,
    IsPow2,
    IsTrue,
    Log2,
    Negate,
    Not,
}

/// What is done with two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
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

/// Of two numbers; that of a number and 0 is the number.
pub(crate) const fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

impl Unary {
    #[inline]
    pub(super) fn of(self, a: i64) -> Result<i64, Fault> {
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
    pub(super) fn of(self, a: i64, b: i64) -> Result<i64, Fault> {
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
                let divisor = greatest_common_divisor(a.unsigned_abs(), b.unsigned_abs());
                i64::try_from(divisor).map_err(|_| Fault::Overflow)
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
