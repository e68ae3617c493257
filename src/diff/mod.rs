//! What changed from one document to the next: speed by rule and fallback, coverage, and apart from these the environment.
//!
//! - The times of one problem shift by some per cent from sweep to sweep, those of programs that did not change with them. So a
//!   served time is judged beside the lasting programs of its own final, the anchors, where both documents have some; else by
//!   itself, less what the rest of its class shifted by.
//! - An entry is SLOW or FAST where it changed by more than 2 % and stands out from all that is compared: in one night of a
//!   hundred without any change some entry does. Whatever else is beyond 2 % is AMBIGUOUS, and no regression.
//! - Anchors do not show that a whole class got slower: its absolute times do, apart from all that.
//! - A rule that came or went is compared with what the other document serves on the same problems, so that dropping a rule which
//!   merely ties its fallback is no regression.

mod changes;
mod compared;
mod environment;
mod night;
mod shift;
mod side;
mod stability;
mod text;
mod verdict;

pub use changes::{Change, ClassShift, Contest, Diff, Entry, LostProblem, Ratio, Status};
pub use night::Calibration;
pub(crate) use shift::{absolute_sigma, relative_sigma};
pub use stability::Stability;

use crate::error::{Error, Result};
use crate::heuristics::Document;
use crate::measure::{Z_95, mean, median};
use compared::{Compared, Parted, contest};
use environment::{environment_changes, incomparable_classes};
use night::{MOST, Set};
use shift::Judge;
use side::{Place, Side, all_told};
use std::collections::BTreeSet;

/// What to do about classes whose times in the two documents are of unlike protocols or devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncomparableTimes {
    /// As they cannot be compared, nothing is.
    Refuse,
    /// Compare what these classes cover, and no times.
    LeaveOut,
}

/// Compares two documents.
///
/// # Errors
/// Where a class that both have was measured by unlike protocols or on unlike devices, and that is to be refused.
pub fn diff(old: &Document, new: &Document, incomparable: IncomparableTimes) -> Result<Diff> {
    let incomparable_classes = incomparable_classes(old, new);
    if let (IncomparableTimes::Refuse, Some((class, why))) = (incomparable, incomparable_classes.first_key_value()) {
        let classes = incomparable_classes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(Error::usage(format!("the times of {classes} cannot be compared: {class} was measured {why}")));
    }
    let (of_old, of_new) = (all_told(old), all_told(new));
    let (mut old, mut new) = (Side::of(old, &of_old), Side::of(new, &of_new));
    for side in [&mut old, &mut new] {
        side.forget_times(&incomparable_classes);
    }
    let judge = Judge::of(&old, &new);
    let places: BTreeSet<Place> = old.entries.keys().chain(new.entries.keys()).copied().collect();
    let compared: Vec<Compared> =
        places.into_iter().filter_map(|place| Compared::of(place, &old, &new, &judge)).collect();
    let sets: Vec<Set> = compared.iter().flat_map(Compared::sets).map(Parted::set).collect();
    let calibration = Calibration::of(&sets, judge.problems(), &judge.deviations);
    let entries = compared.into_iter().map(|compared| compared.entry(&calibration, &old, &new)).collect();
    let classes = class_shifts(&old, &new, &judge);
    let lost_problems: Vec<LostProblem> = old
        .places
        .keys()
        .filter(|key| !new.places.contains_key(key))
        .map(|(class, problem)| LostProblem { class: (*class).to_owned(), problem: (*problem).to_owned() })
        .collect();
    let mut diff = Diff {
        regression: false,
        environment: environment_changes(&old, &new),
        stability: Stability::between(&old, &new, &judge),
        calibration,
        entries,
        classes,
        lost_problems,
    };
    diff.regression = diff.has_regression();
    Ok(diff)
}

/// A class that changed by less as a whole did not, from one host or night to another: a race decides, and this says when to run it.
pub(crate) const SAME_CLASS: f64 = 0.015;
/// The least that two documents alone show. Of ten sweeps of one class on one H200, one after the other, four pairs were 2.2 to
/// 2.8 % apart as a whole, far beyond what their problems scatter by.
const SURE_CLASS_SHIFT: f64 = 0.04;
/// Standard errors beyond that which make it sure: by a normal distribution one class in 740 without change is.
const CLASS_ERRORS: f64 = 3.0;
/// A class with fewer problems has no shift of its own.
const FEWEST_OF_CLASS: usize = 5;

/// How each class's absolute times changed as a whole.
fn class_shifts(old: &Side, new: &Side, judge: &Judge) -> Vec<ClassShift> {
    let classes: BTreeSet<&str> = old.places.keys().map(|(class, _)| *class).collect();
    let of_class = |class: &str| {
        let shifts = judge.steady(class);
        let middle = median(shifts.iter().map(|(shift, _)| *shift)).filter(|_| shifts.len() >= FEWEST_OF_CLASS)?;
        let trimmed = shifts.iter().map(|(shift, sigma)| middle + (shift - middle).clamp(-MOST * sigma, MOST * sigma));
        let shift = mean(&trimmed.collect::<Vec<_>>())?;
        let error = shifts.iter().map(|(_, sigma)| sigma * sigma).sum::<f64>().sqrt() / shifts.len() as f64;
        let problems = old.places.keys().filter(|(of, _)| *of == class);
        let contest =
            |(_, name): &(&str, &str)| contest(class, name, old.answer(class, name)?, new.answer(class, name)?);
        Some(ClassShift {
            class: class.to_owned(),
            ratio: shift.exp(),
            noise: Z_95 * error,
            problems: shifts.len(),
            suspect: shift > SAME_CLASS.ln_1p() + CLASS_ERRORS * error,
            regression: shift > SURE_CLASS_SHIFT.ln_1p() + CLASS_ERRORS * error,
            contests: problems.filter_map(contest).collect(),
        })
    };
    classes.into_iter().filter_map(of_class).collect()
}
