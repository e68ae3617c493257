//! What was measured, from whatever file: problems, configs and kernels by index, and one record a trial.

use crate::error::{Error, Result};
use crate::families;
use crate::heuristics::{Bucket, Template, bucket_of, class_groups, group_of};
use crate::journal::{Change, Header, Stage, Status, Trial};
use crate::measure::median;
use crate::model::{Bytes, Config, Dtype, Family, Identity, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A problem as deriving sees it: a name in a class, and the bucket and group it falls into.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProblemFacts {
    /// Its class in the document.
    pub class: String,
    /// Its dimensions; they give the order of problems.
    pub dimensions: Vec<u64>,
    /// `m=16,n=4096,k=4096 bf16`: its name, unique in its class.
    pub name: String,
    /// Its shape bucket.
    pub bucket: Bucket,
    /// Its fallback group, if its class has any.
    pub group: Option<&'static str>,
    /// The problem, where it is known as one of a family that ships.
    pub problem: Option<Problem>,
}

impl From<&Problem> for ProblemFacts {
    fn from(problem: &Problem) -> Self {
        let class = problem.family.name();
        let group = group_of(problem);
        Self {
            class: class.to_owned(),
            dimensions: problem.shape.extents().to_vec(),
            name: format!("{} {}", problem.shape, problem.dtype),
            bucket: bucket_of(problem),
            group: class_groups(class).contains(&group).then_some(group),
            problem: Some(*problem),
        }
    }
}

/// A problem by its name in a document's class, where it is one of a family that ships.
pub(crate) fn problem(class: &str, name: &str) -> Option<Problem> {
    let family: Family = class.parse().ok()?;
    let (shape, dtype) = name.rsplit_once(' ')?;
    Problem::parse(family, shape, dtype.parse().ok()?).ok()
}

/// A config with its canonical text, by which configs are told apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ConfigFacts {
    pub(super) template: Template,
    pub(super) text: String,
}

impl ConfigFacts {
    /// The fixed order that breaks ties: what is likelier to do well on shapes that were not measured comes first. A program a
    /// tile, then programs that stride over the tiles or take them as they come, then those with a run of tiles each, which a few tiles too many leave waiting
    /// for one; fewer programs; the text.
    pub(super) fn order(&self) -> impl Ord {
        let pid_type = self.template.get("pid_type").and_then(Value::as_str);
        let program_order = match pid_type {
            None | Some("flat") => 0,
            Some("persistent_interleaved" | "cluster_launch_control") => 1,
            Some(_) => 2,
        };
        let multiplier = self.template.get("num_sm_multiplier").and_then(Value::as_u64);
        (program_order, multiplier, self.text.clone())
    }
}

/// The times of a trial that worked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// What configs are compared by: see [`Trial::time_us`]. Positive and finite.
    pub time_us: f64,
    /// First and third quartile, where known.
    pub quartiles_us: Option<(f64, f64)>,
    /// Samples taken; 0 where unknown.
    pub samples: u32,
    /// Which race it ran in; 0 where nobody counted them.
    pub race: u64,
    /// Rounds of that race before its first.
    pub joined: u32,
    /// Rounds of that race that chose the winner; those after them report.
    pub chosen_by: u32,
    /// The time of each of its rounds, in the race's order; empty where it ran alone.
    pub rounds_us: Vec<f64>,
    /// Taken while the GPU was throttled.
    pub throttled: bool,
    /// Taken while other work disturbed the device.
    pub loaded: bool,
}

impl Timing {
    /// The times of its rounds from one of its race's on.
    pub(super) fn rounds_since(&self, round: u32) -> impl Iterator<Item = f64> {
        self.rounds_us.iter().copied().skip(round.saturating_sub(self.joined) as usize)
    }
}

/// One trial: what, when in the search, and with what result.
#[derive(Clone, Debug)]
pub struct Record {
    /// Index of the problem, from [`Evidence::problem`].
    pub problem: usize,
    /// Index of the config, from [`Evidence::config`].
    pub config: usize,
    /// Index of the kernel, from [`Evidence::kernel`].
    pub kernel: usize,
    /// Which part of the search asked for it.
    pub stage: Stage,
    /// It is the winner's duplicate.
    pub null_arm: bool,
    /// Its times; `None` for a trial that failed.
    pub timing: Option<Timing>,
}

/// What a class was measured with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Environment {
    /// The architecture kernels were compiled for.
    pub arch: String,
    /// The device's full name.
    pub device: String,
    /// The driver's version.
    pub driver: String,
    /// The run-time compiler's version.
    pub nvrtc: String,
    /// The sampling protocol.
    pub protocol: String,
    /// The measuring tool and its version.
    pub sweep: String,
    /// The device's multiprocessors, where the journal told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiprocessors: Option<u32>,
    /// Its memory in bytes, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Bytes>,
}

impl Environment {
    /// The device, as it is told from others.
    pub(crate) fn identity(&self) -> Identity {
        Identity { name: self.device.clone(), multiprocessors: self.multiprocessors, memory: self.memory_bytes }
    }
}

impl From<&Header> for Environment {
    fn from(header: &Header) -> Self {
        Self {
            arch: header.arch.clone(),
            device: header.gpu.clone(),
            driver: header.driver.clone(),
            nvrtc: header.nvrtc.clone(),
            protocol: header.protocol.clone(),
            sweep: header.sweep.clone(),
            multiprocessors: header.multiprocessors,
            memory_bytes: header.memory_bytes,
        }
    }
}

/// A result whose error is so many times what is usual on its problem is taken for wrong, though it is within what every trial is
/// held to: rounding to bf16 makes up nearly all of the error of a right kernel, whatever its config, and a race that loses a
/// few sums now and then shows as this. On an H200 and an H100 right kernels of one problem differed by up to 1.001 times, those of
/// attention by up to 1.26, and a kernel with a race by up to 6.3.
const STRAY_ERROR: f64 = 1.5;
/// Fewer trials of a problem do not show what is usual.
const FEWEST_ERRORS: usize = 8;

/// The median error of the trials that worked on each problem with bf16 results.
fn usual_errors(trials: &[&Trial]) -> HashMap<Problem, f64> {
    let mut errors: HashMap<Problem, Vec<f64>> = HashMap::new();
    for trial in trials.iter().filter(|trial| trial.status == Status::Ok && trial.dtype == Dtype::Bf16) {
        if let Some(error) = trial.rel_err.filter(|error| *error > 0.0) {
            errors.entry(trial.problem()).or_default().push(error);
        }
    }
    errors.retain(|_, errors| errors.len() >= FEWEST_ERRORS);
    errors.into_iter().filter_map(|(problem, errors)| Some((problem, median(errors)?))).collect()
}

/// All that was measured. The order in which it was gathered makes no difference to what is derived from it, but for the lines
/// of a journal where a kernel has changed: the later one is the one there is now.
#[derive(Debug, Default)]
pub struct Evidence {
    pub(super) problems: Vec<ProblemFacts>,
    pub(super) configs: Vec<ConfigFacts>,
    pub(super) kernels: Vec<String>,
    pub(super) records: Vec<Record>,
    /// By class.
    pub(super) environments: BTreeMap<String, BTreeSet<Environment>>,
    /// Trials called `ok` whose time is missing or no positive number.
    pub(super) unusable: usize,
    /// Trials called `ok` that err more than [`STRAY_ERROR`] allows.
    pub(super) stray: usize,
    /// The headers of the journals it holds, each with the classes of its trials.
    journals: Vec<(BTreeSet<&'static str>, Vec<Header>)>,
    /// Whether journals of unlike drivers count together.
    pub(super) accept_driver: bool,
    /// Classes that were measured with other kernels than today's alone.
    pub(super) of_other_kernels: BTreeSet<&'static str>,
    problem_indices: HashMap<(String, String), usize>,
    config_indices: HashMap<String, usize>,
    kernel_indices: HashMap<String, usize>,
}

impl Evidence {
    /// The index of a problem.
    pub fn problem(&mut self, facts: ProblemFacts) -> usize {
        let key = (facts.class.clone(), facts.name.clone());
        *self.problem_indices.entry(key).or_insert_with(|| push(&mut self.problems, facts))
    }

    /// The index of a config.
    pub fn config(&mut self, template: Template) -> usize {
        let text = config_text(&template);
        *self
            .config_indices
            .entry(text.clone())
            .or_insert_with(|| push(&mut self.configs, ConfigFacts { template, text }))
    }

    /// The index of a kernel by its hash, or whatever else names it.
    pub fn kernel(&mut self, hash: &str) -> usize {
        if let Some(index) = self.kernel_indices.get(hash) {
            return *index;
        }
        let index = push(&mut self.kernels, hash.to_owned());
        self.kernel_indices.insert(hash.to_owned(), index);
        index
    }

    /// Adds a trial. One whose time is no positive number is counted and left out.
    pub fn add(&mut self, record: Record) {
        match &record.timing {
            Some(timing) if !(timing.time_us.is_finite() && timing.time_us > 0.0) => self.unusable += 1,
            _ => self.records.push(record),
        }
    }

    /// Says what a class was measured with.
    pub fn measured_with(&mut self, class: &str, environment: Environment) {
        self.environments.entry(class.to_owned()).or_default().insert(environment);
    }

    /// The classes that it has problems of, sorted.
    pub(super) fn classes(&self) -> BTreeSet<&str> {
        self.problems.iter().map(|problem| problem.class.as_str()).collect()
    }

    /// The devices that its journals were measured on.
    pub(super) fn identities(&self) -> impl Iterator<Item = Identity> {
        self.journals.iter().flat_map(|(_, headers)| headers).map(Header::identity)
    }

    /// Adds a journal: its headers and trials, in the journal's order. Where a set of compile-time knobs ran as more than one
    /// kernel on a problem, only the trials of the last count, so that a kernel may change without starting over.
    ///
    /// # Errors
    /// Where it was measured on another device than what is here already, by another protocol or under another driver.
    pub fn add_journal(&mut self, headers: &[Header], trials: &[Trial]) -> Result<()> {
        self.add_trials(headers, &trials.iter().collect::<Vec<_>>())
    }

    /// The same of some of a journal's trials.
    pub(super) fn add_trials(&mut self, headers: &[Header], trials: &[&Trial]) -> Result<()> {
        let families: BTreeSet<&'static str> = trials.iter().map(|trial| trial.family.name()).collect();
        self.refuse_mixing(&families, headers)?;
        let mut problems: HashMap<Problem, usize> = HashMap::new();
        let mut configs: HashMap<&Config, usize> = HashMap::new();
        let trials = of_latest_kernels(trials);
        // A problem of which only the pruned configs are known was never reached.
        let tried = trials.iter().filter(|trial| trial.status != Status::Pruned);
        let reached: BTreeSet<Problem> = tried.map(|trial| trial.problem()).collect();
        let usual_errors = usual_errors(&trials);
        for trial in trials.iter().filter(|trial| reached.contains(&trial.problem())) {
            let problem = trial.problem();
            let error_limit = usual_errors.get(&problem).map(|usual| STRAY_ERROR * usual);
            let problem = *problems.entry(problem).or_insert_with(|| self.problem(ProblemFacts::from(&problem)));
            let config = *configs.entry(&trial.config).or_insert_with(|| self.config(trial.config.to_template()));
            let kernel = self.kernel(&trial.kernel);
            let strays = trial.rel_err.zip(error_limit).is_some_and(|(error, limit)| error > limit);
            self.stray += usize::from(strays && trial.status == Status::Ok);
            let timing = (trial.status == Status::Ok && !strays).then(|| timing_of(trial));
            self.add(Record { problem, config, kernel, stage: trial.stage, null_arm: trial.null_arm, timing });
        }
        for family in &families {
            for header in headers {
                self.measured_with(family, header.into());
            }
        }
        self.journals.push((families, headers.to_vec()));
        Ok(())
    }

    /// Times of two devices, or that were taken in two ways, are times of two things.
    fn refuse_mixing(&self, families: &BTreeSet<&str>, headers: &[Header]) -> Result<()> {
        let all = || self.journals.iter().flat_map(|(_, headers)| headers).chain(headers);
        let accepted: BTreeSet<&String> = all().flat_map(|header| &header.accepted_drivers).collect();
        let is_accepted = |header: &Header| self.accept_driver || accepted.contains(&header.driver);
        let apart = |one: &Header, other: &Header, have_unknown_drivers_mixed: bool| {
            other.changes_since(one).into_iter().find(|change| match change {
                Change::Driver { was, is } if was.is_empty() && is.is_empty() => {
                    have_unknown_drivers_mixed && !is_accepted(one)
                }
                _ => !(change.is_acceptable() && (is_accepted(one) || is_accepted(other))),
            })
        };
        let of_others = self.journals.iter().flat_map(|(theirs, others)| {
            let is_of_same_class = !theirs.is_disjoint(families);
            others.iter().map(move |other| (other, is_of_same_class))
        });
        let of_this = headers.iter().map(|header| (header, false));
        let pairs = of_others.chain(of_this).flat_map(|(one, shared)| headers.iter().map(move |it| (one, it, shared)));
        let Some(change) = pairs.into_iter().find_map(|(one, other, shared)| apart(one, other, shared)) else {
            return Ok(());
        };
        let way = "derive from the journals of one of them, or measure again with --fresh";
        let names = families.iter().flat_map(|family| [*family, ": "]).collect::<String>();
        Err(Error::usage(match change {
            Change::Device { was, is } => {
                let devices: BTreeSet<String> = [was.to_string(), is.to_string()].into();
                let devices: Vec<String> = devices.into_iter().collect();
                format!(
                    "these journals come from different devices ({}): derive one document for each",
                    devices.join(", ")
                )
            }
            change @ Change::UnknownDevice { .. } => format!(
                "one of these journals does not tell the size of its device ({change}): {way}, or take them together with \
                 --accept-driver"
            ),
            Change::Protocol { was, is } => {
                let protocols: BTreeSet<String> = [was, is].into();
                let protocols: Vec<String> = protocols.into_iter().collect();
                format!(
                    "{names}measured by the protocols {}, whose times do not compare: {way}",
                    protocols.join(" and ")
                )
            }
            change @ Change::Driver { .. } => {
                format!(
                    "{names}the journals are of two drivers ({change}): {way}, or take them together with --accept-driver"
                )
            }
        }))
    }
}

/// The trials of a journal, in its order, without those of a kernel that a later one has replaced. A variant is the configs of a
/// family that are compiled from the same knobs and so share a kernel; of each variant only the trials of the kernel that it had
/// last on a problem count there. Pruned configs have no kernel, and stay.
pub(crate) fn of_latest_kernels<'t>(trials: &[&'t Trial]) -> Vec<&'t Trial> {
    let mut variants: HashMap<(Family, Config), usize> = HashMap::new();
    let mut variant_of: HashMap<(Family, &Config), usize> = HashMap::new();
    let mut latest: HashMap<(Problem, usize), &str> = HashMap::new();
    for trial in trials.iter().filter(|trial| !trial.kernel.is_empty()) {
        let variant = *variant_of.entry((trial.family, &trial.config)).or_insert_with(|| {
            let next = variants.len();
            let half = families::spec(trial.family).compiled_half(&trial.config);
            *variants.entry((trial.family, half)).or_insert(next)
        });
        latest.insert((trial.problem(), variant), &trial.kernel);
    }
    let is_latest = |trial: &&'t Trial| {
        let variant = variant_of.get(&(trial.family, &trial.config));
        trial.kernel.is_empty() || variant.is_some_and(|variant| latest[&(trial.problem(), *variant)] == trial.kernel)
    };
    trials.iter().copied().filter(is_latest).collect()
}

/// Compact JSON with sorted keys.
pub(crate) fn config_text(template: &Template) -> String {
    Value::Object(template.clone()).to_string()
}

/// The times of a trial that worked.
pub(crate) fn timing_of(trial: &Trial) -> Timing {
    Timing {
        time_us: trial.time().map_or(f64::NAN, |time| time.0),
        quartiles_us: trial.q1_us.zip(trial.q3_us).map(|(q1, q3)| (q1.0, q3.0)),
        samples: trial.samples.unwrap_or(0),
        race: trial.race.unwrap_or(0),
        joined: trial.joined,
        chosen_by: trial.chosen_by,
        rounds_us: trial.rounds_us.clone(),
        throttled: trial.throttled,
        loaded: trial.loaded,
    }
}

fn push<T>(items: &mut Vec<T>, item: T) -> usize {
    items.push(item);
    items.len() - 1
}
