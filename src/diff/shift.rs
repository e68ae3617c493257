//! How far the time of each problem shifted, and how much of that sweeps alone do.

use super::side::{Place, Served, Side, Time};
use crate::derive::half_width;
use crate::measure::{DurationClass, Z_95, mean, median};
use crate::model::Micros;
use std::collections::BTreeMap;

/// The shift of one problem's served time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shift {
    /// Which problem, by its place among all.
    pub(super) index: usize,
    /// In logarithms: relative to the anchors, else what is left when what the rest of the class shifted by is taken off.
    pub(super) change: f64,
    /// Its standard deviation where nothing changed.
    pub(super) sigma: f64,
    /// The times as they stand.
    pub(super) absolute: f64,
    /// Whether it is relative to anchors.
    pub(super) anchored: bool,
}

impl Shift {
    pub(super) fn deviation(&self) -> f64 {
        self.change / self.sigma
    }
}

/// Fewer problems than this say nothing of how far sweeps shift times: what they did on an H200 is taken instead.
const FEWEST_OF_SPREAD: usize = 20;
/// Fewer problems than this say nothing of what they shifted by together.
const FEWEST_OF_DRIFT: usize = 5;
/// No time is known better from one sweep to another: the least spread that is [`RECORDED`], rounded.
const LEAST_SIGMA: f64 = 0.003;
/// Robust standard deviations by duration class, of 716 problems of attention, softmax, elementwise and matmul that two sweeps on
/// an H200 timed with the same kernels: relative to infinitely many anchors, and absolute less the median of family and class.
/// Below 12 µs and from there to 20 they are one figure.
const RECORDED: [[f64; DurationClass::ALL.len()]; 2] =
    [[0.0092, 0.0092, 0.0058, 0.0049, 0.0033], [0.0142, 0.0142, 0.0096, 0.0082, 0.0125]];
const RELATIVE: usize = 0;
const ABSOLUTE: usize = 1;

/// Standard deviation, from one race to another, of a program's time relative to so many others of its race, in logarithms.
pub(crate) fn relative_sigma(duration: DurationClass, others: usize) -> f64 {
    RECORDED[RELATIVE][duration as usize] * spread_of(others)
}

/// The same of its time alone, from one occasion to another.
pub(crate) fn absolute_sigma(duration: DurationClass) -> f64 {
    RECORDED[ABSOLUTE][duration as usize]
}

/// How much wider the spread is for having so few others to compare with: each is as noisy as the time itself.
fn spread_of(others: usize) -> f64 {
    (1.0 + 1.0 / others as f64).sqrt()
}

/// One problem that both documents answer with a time.
struct Answered<'d> {
    place: Place<'d>,
    duration: DurationClass,
    absolute: f64,
    /// The same program, as far as the documents say.
    unchanged: bool,
    /// Not measured again: it says nothing of how far sweeps shift times.
    carried_over: bool,
}

/// What there is to judge shifts by.
pub(super) struct Judge<'d> {
    answered: BTreeMap<(&'d str, &'d str), Answered<'d>>,
    /// All problems of either document, by place.
    indices: BTreeMap<(&'d str, &'d str), usize>,
    /// By kind and duration class.
    sigmas: [[f64; DurationClass::ALL.len()]; 2],
    /// What the answered problems are off by, in standard deviations.
    pub(super) deviations: Vec<f64>,
}

impl<'d> Judge<'d> {
    pub(super) fn of(old: &Side<'d>, new: &Side<'d>) -> Self {
        let names = old.places.keys().chain(new.places.keys());
        let indices: BTreeMap<_, _> = names.map(|key| (*key, 0)).collect();
        let indices = indices.into_keys().enumerate().map(|(index, key)| (key, index)).collect();
        let both = |(class, name): &(&'d str, &'d str)| -> Option<(&Served<'d>, &Served<'d>)> {
            old.answer(class, name).zip(new.answer(class, name))
        };
        let answered = old.places.iter().filter_map(|(key, place)| {
            let (was, is) = both(key)?;
            let (before, after) = was.time(key.1).zip(is.time(key.1))?;
            let unchanged = was.runs_as(is);
            let duration = duration_of(before, after);
            Some((
                *key,
                Answered {
                    place: *place,
                    duration,
                    absolute: absolute(before, after),
                    unchanged,
                    carried_over: was.is_carried_over(is, key.1),
                },
            ))
        });
        let mut judge = Self { answered: answered.collect(), indices, sigmas: RECORDED, deviations: Vec::new() };
        let relative = judge.measured_again().filter_map(|(key, answered)| {
            let (was, is) = both(key)?;
            let (change, scale) = relative(was.time(key.1)?, is.time(key.1)?)?;
            Some((answered.duration, change / scale))
        });
        let relative: Vec<_> = relative.collect();
        judge.sigmas = [Self::spread(RELATIVE, &relative), Self::spread(ABSOLUTE, &judge.residuals())];
        let shifts = judge.measured_again().filter_map(|(key, answered)| {
            let (was, is) = both(key)?;
            Some(judge.shift(answered.place, key.1, was, is)?.deviation())
        });
        judge.deviations = shifts.collect();
        judge
    }

    fn measured_again(&self) -> impl Iterator<Item = (&(&'d str, &'d str), &Answered<'d>)> {
        self.answered.iter().filter(|(_, answered)| !answered.carried_over)
    }

    /// How many problems there are.
    pub(super) fn problems(&self) -> usize {
        self.indices.len()
    }

    /// The shift of a problem from what served it in `place`, or instead of that, to what does; none where one of them has no time.
    pub(super) fn shift(&self, place: Place<'d>, name: &str, was: &Served<'d>, is: &Served<'d>) -> Option<Shift> {
        let index = self.indices.get(&(place.class(), name)).copied().unwrap_or_default();
        let is_carried_over = was.is_carried_over(is, name);
        let (was, is) = was.time(name).zip(is.time(name))?;
        let (duration, absolute) = (duration_of(was, is), absolute(was, is));
        let relative = relative(was, is);
        let (change, sigma) = match relative {
            _ if is_carried_over => (0.0, self.sigmas[ABSOLUTE][duration as usize]),
            Some((change, scale)) => (change, scale * self.sigmas[RELATIVE][duration as usize]),
            None => (absolute - self.drift(place, duration), self.sigmas[ABSOLUTE][duration as usize]),
        };
        let sigma = sigma.max(was.noise.max(is.noise) / Z_95);
        Some(Shift { index, change, sigma, absolute, anchored: relative.is_some() })
    }

    /// What a class's problems of one duration class shifted by together, those of `place` left out: by the programs that did not
    /// change, else by all, else by all of the class, else unknown.
    fn drift(&self, place: Place<'d>, duration: DurationClass) -> f64 {
        let others = || {
            let of_class = self.answered.iter().filter(|((class, _), _)| *class == place.class());
            of_class.map(|(_, answered)| answered).filter(|answered| answered.place != place)
        };
        let enough = |shifts: Vec<f64>| if shifts.len() >= FEWEST_OF_DRIFT { median(shifts) } else { None };
        let alike = || others().filter(|answered| answered.duration == duration);
        let shift = |answered: &Answered| answered.absolute;
        let again = |answered: &&Answered| answered.unchanged && !answered.carried_over;
        enough(alike().filter(again).map(shift).collect())
            .or_else(|| enough(alike().map(shift).collect()))
            .or_else(|| enough(others().map(shift).collect()))
            .unwrap_or(0.0)
    }

    /// The absolute shifts less the median of their class and duration class.
    fn residuals(&self) -> Vec<(DurationClass, f64)> {
        let mut cells: BTreeMap<(&str, DurationClass), Vec<f64>> = BTreeMap::new();
        for ((class, _), answered) in self.measured_again() {
            cells.entry((class, answered.duration)).or_default().push(answered.absolute);
        }
        cells.retain(|_, shifts| shifts.len() >= FEWEST_OF_DRIFT);
        let of_cell = |((_, duration), shifts): ((&str, DurationClass), Vec<f64>)| {
            let middle = median(shifts.iter().copied()).unwrap_or(0.0);
            shifts.into_iter().map(move |shift| (duration, shift - middle)).collect::<Vec<_>>()
        };
        cells.into_iter().flat_map(of_cell).collect()
    }

    /// The robust standard deviation of each duration class.
    fn spread(kind: usize, values: &[(DurationClass, f64)]) -> [f64; DurationClass::ALL.len()] {
        DurationClass::ALL.map(|duration| {
            let distances: Vec<f64> =
                values.iter().filter(|(of, _)| *of == duration).map(|(_, value)| value.abs()).collect();
            let enough = distances.len() >= FEWEST_OF_SPREAD;
            let sigma = median(distances).filter(|_| enough).map(|distance| half_width(distance) / Z_95);
            sigma.unwrap_or(RECORDED[kind][duration as usize]).max(LEAST_SIGMA)
        })
    }

    /// The absolute shifts of a class's problems that are measured well, with their standard deviation.
    pub(super) fn steady(&self, class: &str) -> Vec<(f64, f64)> {
        let of_class = self.answered.iter().filter(|((of, _), _)| *of == class).map(|(_, answered)| answered);
        let steady = of_class.filter(|answered| answered.duration != DurationClass::Slow);
        steady.map(|answered| (answered.absolute, self.sigmas[ABSOLUTE][answered.duration as usize])).collect()
    }
}

fn absolute(was: &Time, is: &Time) -> f64 {
    (is.us / was.us).ln()
}

fn duration_of(was: &Time, is: &Time) -> DurationClass {
    DurationClass::of(Micros((was.us * is.us).sqrt()))
}

/// How a time changed beside the anchors that both documents have, and how much wider the spread is for having so few of them. An
/// anchor that is the served program itself in both says nothing.
fn relative(was: &Time, is: &Time) -> Option<(f64, f64)> {
    let common = was.anchors.iter().filter_map(|(key, before)| Some((*before, *is.anchors.get(key)?)));
    let telling = common.filter(|(before, after)| (*before - 1.0).abs() > 0.0 || (*after - 1.0).abs() > 0.0);
    let changes: Vec<f64> = telling.map(|(before, after)| (after / before).ln()).collect();
    let change = mean(&changes)?;
    Some((change, spread_of(changes.len())))
}
