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

mod night;
mod shift;
mod stability;
mod text;

pub(crate) use shift::{Z_95, absolute_sigma, relative_sigma};
pub use stability::Stability;

use crate::derive::{ENVIRONMENT_FIELDS, Environment, config_key, environments_of, problem, text_key};
use crate::error::{Error, Result};
use crate::heuristics::{Bucket, Document, Rule, Template, bucket_of, by_rank};
use crate::measure::{geomean, mean, median};
use night::{MOST, Set, TOLD_APART};
use serde::Serialize;
use serde_json::{Map, Value};
use shift::{Judge, Shift};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a rule or fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// Faster by more than 2 %, and by more than any entry of a night without changes would be.
    Fast,
    /// Slower, likewise.
    Slow,
    /// Within 2 %.
    Same,
    /// Beyond 2 %, but not surely so; or faster on some problems and slower on others; or another config without times to compare.
    Ambiguous,
    /// Only the new document has it.
    Added,
    /// Only the old document has it.
    Removed,
}

impl Status {
    /// The word in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "FAST",
            Self::Slow => "SLOW",
            Self::Same => "SAME",
            Self::Ambiguous => "AMBIGUOUS",
            Self::Added => "ADDED",
            Self::Removed => "REMOVED",
        }
    }
}

/// New times over old times of the problems both documents have, as far as these can be told from a shift that all share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Mean of the problems' ratios, in logarithms, the surer ones with more weight.
    pub ratio: f64,
    /// Least and largest of them.
    pub range: [f64; 2],
    /// Half a 95 % interval of `ratio`.
    pub noise: f64,
    /// Geometric mean of the times as they stand in the documents.
    pub absolute: f64,
    /// How far it stands out, in standard deviations; of no problem more than four count.
    pub deviations: f64,
    /// Problems compared.
    pub problems: usize,
    /// Those of them that were compared beside programs which did not change.
    pub anchored: usize,
    /// Some problem is far faster and some other far slower.
    pub mixed: bool,
    /// Where the problems of one bucket of a fallback stand out, that bucket: the figures are of these problems alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
}

/// A rule or fallback of either document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its class.
    pub class: String,
    /// The bucket of a rule, the group of a fallback.
    pub place: String,
    /// Whether it is a rule.
    pub rule: bool,
    /// What became of it.
    pub status: Status,
    /// How its times changed, where there are times to compare.
    #[serde(flatten)]
    pub times: Option<Ratio>,
    /// Another config is served first.
    pub config_changed: bool,
    /// What served its shapes is gone, and nothing is known to serve them.
    pub uncovered: bool,
    /// Whether it counts as a regression: slower beyond chance, or uncovered.
    pub regression: bool,
    /// What to race, should someone want to know for sure, on the problems behind `times`.
    #[serde(skip)]
    pub contests: Vec<Contest>,
}

impl Entry {
    /// Whether a race could tell more: its times are slower by more than 2 %, surely so or not.
    pub fn is_suspect(&self) -> bool {
        let slower = self.times.as_ref().is_some_and(|times| times.ratio > 1.0 + TOLD_APART);
        slower && !matches!(self.status, Status::Same | Status::Fast)
    }

    /// What a race of its contests came to: a regression, or none that anyone could see again.
    pub(crate) fn settle(&mut self, slower: bool) {
        self.regression = slower || self.uncovered;
        match self.status {
            Status::Ambiguous if slower => self.status = Status::Slow,
            Status::Slow if !slower => self.status = Status::Ambiguous,
            _ => {}
        }
    }
}

/// What each document serves on one problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Contest {
    /// The class.
    pub class: String,
    /// The problem's name in it.
    pub problem: String,
    /// What it took by the old document.
    pub old_us: f64,
    /// The old document's config and the hashes of the kernels it ran as, over all problems of its entry.
    pub old: (Template, Vec<String>),
    /// The same of the new one.
    pub new: (Template, Vec<String>),
}

/// How the absolute times of a class changed as a whole, its problems of 200 µs and more left out, whose clocks differ most.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassShift {
    /// The class.
    pub class: String,
    /// Geometric mean of new times over old ones, strays trimmed.
    pub ratio: f64,
    /// Half a 95 % interval of it.
    pub noise: f64,
    /// Problems compared.
    pub problems: usize,
    /// Slower by more than 1.5 %, and by more than three standard errors beyond these: a race could tell whether it is.
    pub suspect: bool,
    /// Slower by more than 4 %, and so many errors beyond: more than sweeps of the same kernels differ by.
    pub regression: bool,
    /// What to race, should someone want to know for sure.
    #[serde(skip)]
    pub contests: Vec<Contest>,
}

/// What telling a change from chance took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// How many deviations an entry must stand out by: in 99 of 100 nights without changes none does.
    pub threshold: f64,
    /// Nights made from this one by giving the change of each problem a sign at random: of a night without changes, others like it.
    pub sign_flips: usize,
    /// The share of them in which something would have been SLOW.
    pub false_alarms: f64,
}

/// A difference in what was measured with what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// The class; none where the documents as a whole differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// `driver`, `nvrtc`, `kernel`, …
    pub field: String,
    /// In the old document.
    pub old: String,
    /// In the new one.
    pub new: String,
}

/// A problem that only the old document covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LostProblem {
    /// Its class.
    pub class: String,
    /// Its name.
    pub problem: String,
}

/// All that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Something is slower, or covered no more.
    pub regression: bool,
    /// Rules, then fallbacks, sorted by class and place.
    pub entries: Vec<Entry>,
    /// The classes that both documents have times of.
    pub classes: Vec<ClassShift>,
    /// Problems that are covered no more.
    pub lost_problems: Vec<LostProblem>,
    /// What the environments differ in.
    pub environment: Vec<Change>,
    /// How many buckets are served another config first.
    pub stability: Stability,
    /// What it took to be SLOW or FAST.
    pub calibration: Calibration,
}

/// A problem that changed by so much, beyond its noise, makes an entry mixed where another changed the other way.
const FAR: f64 = 0.1;
/// A part of a fallback is AMBIGUOUS only where it stands out by so many deviations: there are many of them.
const PART_DEVIATIONS: f64 = 2.0;

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
    let (mut old, mut new) = (Side::of(old), Side::of(new));
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

impl Diff {
    /// Whether something looks slower, surely so or not.
    pub(crate) fn has_suspects(&self) -> bool {
        self.entries.iter().any(Entry::is_suspect) || self.classes.iter().any(|class| class.suspect)
    }

    /// Whether something is slower, or covered no more.
    pub(crate) fn has_regression(&self) -> bool {
        let slower =
            self.entries.iter().any(|entry| entry.regression) || self.classes.iter().any(|class| class.regression);
        slower || !self.lost_problems.is_empty()
    }
}

/// The classes that both documents hold, and measured by other protocols or on other devices: what each says, and what to do.
fn incomparable_classes(old: &Document, new: &Document) -> BTreeMap<String, String> {
    let (was, is) = (environments_of(&old.policy), environments_of(&new.policy));
    let of_class =
        |document: &Document, environments: &BTreeMap<String, Vec<Environment>>, class: &str, field: &str| {
            let whole = || document.policy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            environments.get(class).map_or_else(whole, |environments| values(environments, field))
        };
    let classes = |document: &Document| -> BTreeSet<String> {
        document.rules.iter().map(|rule| &rule.kernel_class).chain(document.fallbacks.keys()).cloned().collect()
    };
    let why = |class: &String| {
        let fields = [
            (
                "protocol",
                "by",
                "a time means something else in each; measure the old configs again with this version of the tool (sweep --fresh), \
                 or compare documents of one protocol",
            ),
            ("device", "on", "a time is one device's; compare documents of one device"),
        ];
        fields.into_iter().find_map(|(field, by, what_to_do)| {
            let [was, is] = [of_class(old, &was, class, field), of_class(new, &is, class, field)];
            // A document of another maker does not say.
            let differ = was != is && !was.is_empty() && !is.is_empty();
            differ.then(|| format!("{by} {was} in the old document and {by} {is} in the new one, and {what_to_do}"))
        })
    };
    let both = classes(old).intersection(&classes(new)).cloned().collect::<Vec<_>>();
    both.into_iter().filter_map(|class| why(&class).map(|why| (class, why))).collect()
}

/// Where a config is served; rules sort before fallbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place<'d> {
    Rule(&'d str, &'d Bucket),
    Fallback(&'d str, &'d str),
}

impl<'d> Place<'d> {
    fn class(&self) -> &'d str {
        match self {
            Self::Rule(class, _) | Self::Fallback(class, _) => class,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Rule(_, bucket) => label(bucket),
            Self::Fallback(_, group) => (*group).to_owned(),
        }
    }
}

fn label(bucket: &Bucket) -> String {
    bucket.iter().map(|(field, label)| format!("{field} {label}")).collect::<Vec<_>>().join(", ")
}

/// What a document says of one problem.
#[derive(Clone, Debug, PartialEq)]
struct Time {
    us: f64,
    /// Half a 95 % interval by the null arms of its sweep, relative.
    noise: f64,
    /// The time over that of other programs in the same rounds, by what tells these programs apart.
    anchors: BTreeMap<String, f64>,
}

impl Time {
    fn read(problem: &Value) -> Option<Self> {
        let positive = |value: &Value| value.as_f64().filter(|figure| *figure > 0.0);
        let anchors = problem["anchors"].as_object().into_iter().flatten();
        Some(Self {
            us: positive(&problem["served_us"])?,
            noise: problem["noise"].as_f64().unwrap_or(0.0),
            anchors: anchors.filter_map(|(key, ratio)| Some((key.clone(), positive(ratio)?))).collect(),
        })
    }
}

/// What a document serves in one place.
struct Served<'d> {
    template: Option<&'d Template>,
    /// By problem.
    times: BTreeMap<&'d str, Option<Time>>,
    kernels: Option<&'d Value>,
    /// The keys of the configs that the document cannot tell from the template.
    ties: BTreeSet<String>,
}

impl<'d> Served<'d> {
    fn new(template: Option<&'d Template>, source: &'d Map<String, Value>, validation: &'d Map<String, Value>) -> Self {
        let problems = source.get("problems").and_then(Value::as_array).into_iter().flatten();
        let times = problems.filter_map(|problem| Some((problem["problem"].as_str()?, Time::read(problem))));
        let ties = validation.get("ties").and_then(|ties| ties["configs"].as_array()).into_iter().flatten();
        // Documents of before keys hold the texts themselves.
        let key = |tie: &str| if tie.starts_with('{') { text_key(tie) } else { tie.to_owned() };
        let ties = ties.filter_map(Value::as_str).map(key).collect();
        Self { template, times: times.collect(), kernels: source.get("kernels"), ties }
    }

    fn time(&self, problem: &str) -> Option<&Time> {
        self.times.get(problem)?.as_ref()
    }

    /// Whether both run one program on every problem.
    fn runs_as(&self, other: &Self) -> bool {
        self.template == other.template && self.kernels == other.kernels
    }

    /// The config with the hashes of its kernels.
    fn program(&self) -> Option<(Template, Vec<String>)> {
        let kernels = self.kernels.and_then(Value::as_array).into_iter().flatten();
        Some((self.template?.clone(), kernels.filter_map(Value::as_str).map(str::to_owned).collect()))
    }

    /// Whether either document counts the other's config among the ties of its own.
    fn ties_with(&self, other: &Self) -> bool {
        let within = |ties: &BTreeSet<String>, template: Option<&Template>| {
            template.is_some_and(|one| ties.contains(&config_key(one)))
        };
        within(&self.ties, other.template) || within(&other.ties, self.template)
    }

    fn of_rule(rule: &'d Rule) -> Self {
        let ranked = rule.templates.iter().filter(|ranked| ranked.config().is_some()).min_by(|a, b| by_rank(a, b));
        Self::new(ranked.map(|ranked| &ranked.template), &rule.source, &rule.validation)
    }
}

/// One of the two documents, by place and by problem.
struct Side<'d> {
    document: &'d Document,
    entries: BTreeMap<Place<'d>, Served<'d>>,
    /// The place that answers each problem, by class and name: a rule before a fallback.
    places: BTreeMap<(&'d str, &'d str), Place<'d>>,
}

impl<'d> Side<'d> {
    fn of(document: &'d Document) -> Self {
        let rules = document.rules.iter();
        let mut entries: BTreeMap<Place, Served> =
            rules.map(|rule| (Place::Rule(&rule.kernel_class, &rule.shape_bucket), Served::of_rule(rule))).collect();
        for (class, groups) in &document.fallbacks {
            for (group, fallback) in groups {
                entries.insert(
                    Place::Fallback(class, group),
                    Served::new(fallback.config(), &fallback.source, &fallback.validation),
                );
            }
        }
        let mut places = BTreeMap::new();
        for (place, entry) in &entries {
            for problem in entry.times.keys() {
                places.entry((place.class(), *problem)).or_insert(*place);
            }
        }
        Self { document, entries, places }
    }

    /// What answers a problem of a class.
    fn answer(&self, class: &str, problem: &str) -> Option<&Served<'d>> {
        self.entries.get(self.places.get(&(class, problem))?)
    }

    /// Takes the times of these classes as unknown.
    fn forget_times<T>(&mut self, classes: &BTreeMap<String, T>) {
        for (_, entry) in self.entries.iter_mut().filter(|(place, _)| classes.contains_key(place.class())) {
            entry.times.values_mut().for_each(|time| *time = None);
        }
    }
}

/// Problems of a place that are judged together: all of them, or those of one bucket that a fallback serves.
struct Parted<'d> {
    bucket: Option<String>,
    problems: Vec<(&'d str, Shift)>,
}

impl Parted<'_> {
    fn set(&self) -> Set {
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
struct Compared<'d> {
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
    fn of(place: Place<'d>, old: &Side<'d>, new: &Side<'d>, judge: &Judge<'d>) -> Option<Self> {
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
            Some((name, judge.shift(place, name, was.time(name)?, is.time(name)?)))
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

    fn sets(&self) -> impl Iterator<Item = &Parted<'d>> {
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

    fn entry(self, night: &Calibration, old: &Side<'d>, new: &Side<'d>) -> Entry {
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

fn contest(class: &str, problem: &str, was: &Served, is: &Served) -> Option<Contest> {
    Some(Contest {
        class: class.to_owned(),
        problem: problem.to_owned(),
        old_us: was.time(problem)?.us,
        old: was.program()?,
        new: is.program()?,
    })
}

/// A class that changed by less as a whole did not, from one host or night to another.
const CLASS_SHIFT: f64 = 0.015;
/// The least that two documents alone show. Of ten sweeps of one class on one H200, one after the other, four pairs were 2.2 to
/// 2.8 % apart as a whole, far beyond what their problems scatter by.
const SURE_CLASS_SHIFT: f64 = 0.04;
/// Standard errors beyond that which make it sure.
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
            suspect: shift > CLASS_SHIFT.ln_1p() + CLASS_ERRORS * error,
            regression: shift > SURE_CLASS_SHIFT.ln_1p() + CLASS_ERRORS * error,
            contests: problems.filter_map(contest).collect(),
        })
    };
    classes.into_iter().filter_map(of_class).collect()
}

/// What the documents were measured with, where it differs: by class where both say so, else as a whole; and which
/// unchanged configs run as other kernels.
fn environment_changes(old: &Side, new: &Side) -> Vec<Change> {
    let by_class = |side: &Side| environments_of(&side.document.policy);
    let (was, is) = (by_class(old), by_class(new));
    let mut changes = BTreeSet::new();
    for field in ENVIRONMENT_FIELDS {
        let whole =
            |side: &Side| side.document.policy.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut add = |class: Option<&String>, old: String, new: String| {
            if old != new {
                changes.insert(Change { class: class.cloned(), field: field.to_owned(), old, new });
            }
        };
        if was.is_empty() || is.is_empty() {
            add(None, whole(old), whole(new));
        }
        for (class, environments) in &was {
            if let Some(others) = is.get(class) {
                add(Some(class), values(environments, field), values(others, field));
            }
        }
    }
    changes.extend(kernel_changes(old, new));
    changes.into_iter().collect()
}

/// A field's values, joined.
fn values(environments: &[Environment], field: &str) -> String {
    let all: Vec<Value> =
        environments.iter().filter_map(|environment| serde_json::to_value(environment).ok()).collect();
    let values: BTreeSet<&str> = all.iter().filter_map(|environment| environment[field].as_str()).collect();
    values.into_iter().collect::<Vec<_>>().join(", ")
}

/// Classes where a config that is served by both documents runs as another kernel.
fn kernel_changes(old: &Side, new: &Side) -> Vec<Change> {
    let mut unchanged: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (place, was) in &old.entries {
        let Some(is) = new.entries.get(place).filter(|is| is.template == was.template) else { continue };
        if let (Some(was), Some(is)) = (was.kernels, is.kernels) {
            let (all, other) = unchanged.entry(place.class()).or_default();
            *all += 1;
            *other += usize::from(was != is);
        }
    }
    let changed = unchanged.into_iter().filter(|(_, (_, other))| *other > 0);
    let change = |(class, (all, other)): (&str, (usize, usize))| Change {
        class: Some(class.to_owned()),
        field: "kernel".to_owned(),
        old: format!("{all} configs served as before"),
        new: format!("{other} of them run as other kernels"),
    };
    changed.map(change).collect()
}
