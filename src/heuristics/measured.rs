//! The problems that a model lists, as a document holds them: a text each.

use super::listed::Listed;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Differences of times are natural logarithms in units of which a factor e is so many, as leaves of trees are: four digits of a
/// time survive them.
const UNIT: f64 = 1e5;

/// A problem that was measured, with its fastest configs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "harness", derive(schemars::JsonSchema))]
pub struct MeasuredProblem {
    /// Its dimensions, in the model's order.
    pub dims: Vec<i64>,
    /// Its type.
    pub dtype: String,
    /// The fastest configs, best first: their place among the model's, and their medians in microseconds.
    pub winners: Vec<(usize, f64)>,
}

/// A time as documents have it: noise leaves it no more digits.
pub(crate) fn four_digits(time_us: f64) -> f64 {
    // What is no number has no digits.
    format!("{time_us:.3e}").parse().unwrap_or(time_us)
}

/// Problems by their type, a text each: the dimensions; the place of the fastest config and its median in microseconds, of four
/// digits; then the places of the next ones, each with how much more its median is, in parts of [`UNIT`]: `16,4096,4096 41 17.98 7+130 502+941`.
pub(super) type ByType = BTreeMap<String, Vec<String>>;

/// A problem as a text.
fn problem_text(problem: &MeasuredProblem) -> String {
    let mut text = problem.dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first_us = problem.winners.first().map_or(0.0, |(_, us)| four_digits(*us));
    for (place, (config, us)) in problem.winners.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = match place {
            0 => write!(text, " {config} {first_us}"),
            _ => write!(text, " {config}{:+}", ((four_digits(*us) / first_us).ln() * UNIT).round() as i64),
        };
    }
    text
}

/// A problem's dimensions, and its winners by their places with their times.
type Told = (Vec<i64>, Vec<(usize, f64)>);

/// What such a text tells; nothing where it is none.
fn problem_of(text: &str) -> Option<Told> {
    let mut words = text.split_ascii_whitespace();
    let dims = words.next()?.split(',').map(|extent| extent.parse().ok()).collect::<Option<_>>()?;
    let Some(config) = words.next() else { return Some((dims, Vec::new())) };
    let first_us: f64 = words.next()?.parse().ok()?;
    let mut winners = vec![(config.parse().ok()?, first_us)];
    for word in words {
        let (config, parts) = word.split_at(word.find(['+', '-'])?);
        let parts: i32 = parts.parse().ok()?;
        winners.push((config.parse().ok()?, four_digits(first_us * (f64::from(parts) / UNIT).exp())));
    }
    Some((dims, winners))
}

pub(super) fn serialize<S: Serializer>(problems: &[MeasuredProblem], to: S) -> Result<S::Ok, S::Error> {
    let mut by_type = ByType::new();
    for problem in problems {
        by_type.entry(problem.dtype.clone()).or_default().push(problem_text(problem));
    }
    by_type.serialize(to)
}

/// Reads problems as texts, or listed as in the form before.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<MeasuredProblem>, D::Error> {
    let by_type = match Listed::<MeasuredProblem, ByType>::deserialize(from)? {
        Listed::Old(problems) => return Ok(problems),
        Listed::New(by_type) => by_type,
    };
    let mut problems = Vec::new();
    for (dtype, texts) in by_type {
        for text in texts {
            let shown = || text.chars().take(60).collect::<String>();
            let broken = || D::Error::custom(format!("'{}' is no problem with its fastest configs", shown()));
            let (dims, winners) = problem_of(&text).ok_or_else(broken)?;
            problems.push(MeasuredProblem { dims, dtype: dtype.clone(), winners });
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_have_four_digits() {
        let rounded = [7.652_24, 284.624, 10_004.9, 0.001_234_56, 5.0].map(four_digits);
        assert_eq!(rounded.map(|us| us.to_string()), ["7.652", "284.6", "10000", "0.001235", "5"]);
    }

    proptest! {
        #[test]
        fn a_problem_is_read_as_it_was_written(dims in prop::collection::vec(1i64..1 << 40, 1..6),
            winners in prop::collection::vec((0usize..4096, 0.01f64..1e6), 0..4)) {
            let winners: Vec<_> = winners.into_iter().map(|(config, us)| (config, four_digits(us))).collect();
            let text = problem_text(&MeasuredProblem { dims: dims.clone(), dtype: "bf16".into(), winners: winners.clone() });
            prop_assert_eq!(problem_of(&text), Some((dims, winners)), "{}", text);
        }
    }
}
