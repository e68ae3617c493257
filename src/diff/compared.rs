//! One place of the two documents, with the problems that both have times of, and what became of it.

use super::changes::{Contest, Entry, Ratio, Status};
use super::night::{Calibration, MOST, Set, TOLD_APART};
use super::shift::{Judge, Shift};
use super::side::{Place, Served, Side, label};
use crate::derive::problem;
use crate::heuristics::bucket_of;
use crate::measure::{Z_95, geomean};
use std::collections::BTreeMap;

/// A problem that changed by so much, beyond its noise, makes an entry mixed where another changed the other way: five times what
/// anybody is told of, so that a mean hides nothing that somebody would miss.
const FAR: f64 = 0.1;
/// A part of a fallback is AMBIGUOUS only where it stands out by so many deviations: there are many of them.
const PART_DEVIATIONS: f64 = 2.0;

/// Problems of a place that are judged together: all of them, or those of one bucket that a fallback serves.
pub(super) struct Parted<'d> {
    bucket: Option<String>,
    problems: Vec<(&'d str, Shift)>,
}

impl Parted<'_> {
    pub(super) fn set(&self) -> Set {
        Set::of(self.problems.iter().map(|(_, shift)| (shift.index, shift.change, shift.sigma)))
    }

    /// How the problems changed together; nothing where there are none.
    fn ratio(&self) -> Option<Ratio> {
        let set = self.set();
        let shifts = || self.problems.iter().map(|(_, shift)| shift);
        let all = || shifts().map(|shift| shift.change);
        let far = |sign: f64| shifts().any(|shift| sign * shift.change > FAR && sign * shift.deviation() >= MOST);
        Some(Ratio {
            absolute: geomean(&shifts().map(|shift| shift.absolute.exp()).collect::<Vec<_>>())?,
            ratio: set.change().exp(),
            range: [all().fold(f64::INFINITY, f64::min).exp(), all().fold(f64::NEG_INFINITY, f64::max).exp()],
            noise: Z_95 * set.error(),
            deviations: set.deviations(),
            problems: self.problems.len(),
            anchored: shifts().filter(|shift| shift.anchored).count(),
            mixed: far(1.0) && far(-1.0),
            bucket: self.bucket.clone(),
        })
    }
}

/// One place, with the problems that both documents have times of.
pub(super) struct Compared<'d> {
    place: Place<'d>,
    presence: Presence,
    whole: Parted<'d>,
    /// The buckets of a fallback where more than one is served by it and no rule.
    parts: Vec<Parted<'d>>,
    config_changed: bool,
    /// What served it is there no more, and nothing else answers its problems.
    unanswered: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Both,
    OnlyOld,
    OnlyNew,
}

impl<'d> Compared<'d> {
    /// One place; none where neither document has it.
    pub(super) fn of(place: Place<'d>, old: &Side<'d>, new: &Side<'d>, judge: &Judge<'d>) -> Option<Self> {
        let (was, is) = (old.entries.get(&place), new.entries.get(&place));
        let presence = match (was, is) {
            (Some(_), Some(_)) => Presence::Both,
            (Some(_), None) => Presence::OnlyOld,
            (None, Some(_)) => Presence::OnlyNew,
            (None, None) => return None,
        };
        let names = was.or(is).into_iter().flat_map(|served| served.times.keys().copied());
        let shift = |name: &'d str| {
            let (was, is) = serving(place, name, old, new)?;
            Some((name, judge.shift(place, name, was, is)?))
        };
        let problems: Vec<(&str, Shift)> = names.filter_map(shift).collect();
        let mut parts: BTreeMap<String, Vec<(&str, Shift)>> = BTreeMap::new();
        for (name, shift) in &problems {
            let served_here = [old, new].iter().any(|side| side.places.get(&(place.class(), *name)) == Some(&place));
            if let (Place::Fallback(..), true, Some(problem)) = (place, served_here, problem(place.class(), name)) {
                parts.entry(label(&bucket_of(&problem))).or_default().push((name, *shift));
            }
        }
        let parts = parts.into_iter().filter(|(_, part)| part.len() < problems.len());
        let parts = parts.map(|(bucket, problems)| Parted { bucket: Some(bucket), problems }).collect();
        let answered = |name: &&str| new.answer(place.class(), name).is_some();
        Some(Self {
            place,
            presence,
            parts,
            config_changed: was.and_then(|was| was.template) != is.and_then(|is| is.template) || was.is_none(),
            unanswered: !was.into_iter().flat_map(|was| was.times.keys()).any(answered),
            whole: Parted { bucket: None, problems },
        })
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &Parted<'d>> {
        std::iter::once(&self.whole).chain(&self.parts)
    }

    /// What became of it, and the problems that show it: all, or those of the bucket that stands out most.
    fn verdict(&self, night: &Calibration) -> (Status, Option<(Ratio, &Parted<'d>)>) {
        let Some(ratio) = self.whole.ratio() else {
            return (if self.config_changed { Status::Ambiguous } else { Status::Same }, None);
        };
        let worst_part = |shows: &dyn Fn(&Ratio, &Parted) -> bool| {
            let parts = self.parts.iter().filter_map(|part| Some((part.ratio()?, part)));
            parts
                .filter(|(ratio, part)| shows(ratio, part))
                .max_by(|(one, _), (other, _)| one.deviations.total_cmp(&other.deviations))
        };
        let set = self.whole.set();
        let is_beyond = |ratio: &Ratio| ratio.ratio.ln().abs() > TOLD_APART.ln_1p();
        let suspect = |ratio: &Ratio, _: &Parted| ratio.deviations > PART_DEVIATIONS && is_beyond(ratio);
        let whole = |ratio| Some((ratio, &self.whole));
        if night.is_slower(&set) {
            (Status::Slow, whole(ratio))
        } else if let Some(part) = worst_part(&|_, part| night.is_slower(&part.set())) {
            (Status::Slow, Some(part))
        } else if night.is_faster(&set) {
            (Status::Fast, whole(ratio))
        } else if ratio.mixed || is_beyond(&ratio) {
            (Status::Ambiguous, whole(ratio))
        } else if let Some(part) = worst_part(&suspect) {
            (Status::Ambiguous, Some(part))
        } else {
            (Status::Same, whole(ratio))
        }
    }

    pub(super) fn entry(self, night: &Calibration, old: &Side<'d>, new: &Side<'d>) -> Entry {
        let (verdict, times) = self.verdict(night);
        let is_fallback = matches!(self.place, Place::Fallback(..));
        let uncovered = self.presence == Presence::OnlyOld && (is_fallback || self.unanswered);
        let contest = |name: &str| {
            let (was, is) = serving(self.place, name, old, new)?;
            contest(self.place.class(), name, was, is)
        };
        let problems = times.iter().flat_map(|(_, part)| &part.problems);
        Entry {
            class: self.place.class().to_owned(),
            place: self.place.label(),
            rule: !is_fallback,
            status: match self.presence {
                Presence::Both => verdict,
                Presence::OnlyOld => Status::Removed,
                Presence::OnlyNew => Status::Added,
            },
            config_changed: self.config_changed,
            uncovered,
            regression: verdict == Status::Slow || uncovered,
            contests: problems.filter_map(|(name, _)| contest(name)).collect(),
            times: times.map(|(ratio, _)| ratio),
        }
    }
}

/// What the documents serve on one problem of a place: its own entries, and for a document that does not have it whatever
/// answers the problem there.
fn serving<'s, 'd>(
    place: Place<'d>,
    name: &str,
    old: &'s Side<'d>,
    new: &'s Side<'d>,
) -> Option<(&'s Served<'d>, &'s Served<'d>)> {
    let here = |side: &'s Side<'d>| side.entries.get(&place).or_else(|| side.answer(place.class(), name));
    here(old).zip(here(new))
}

/// What a race of what both serve on a problem is about; nothing where one of them has no config or no time.
pub(super) fn contest(class: &str, problem: &str, was: &Served, is: &Served) -> Option<Contest> {
    Some(Contest {
        class: class.to_owned(),
        problem: problem.to_owned(),
        old_us: was.time(problem)?.us,
        old: was.program()?,
        new: is.program()?,
    })
}
