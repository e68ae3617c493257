//! Every night: what changed is measured again, what did not is spot-checked, and the document is replaced where the new
//! one is whole and nowhere slower.
//!
//! A family whose environment changed, or whose times drifted beyond noise, is measured from the start; of one whose
//! kernels changed, the problems they ran on. What the document serves and the space still has defends its place in every
//! final and keeps it unless beaten beyond noise. What looks slower in the new document races: the old program against the new
//! one, and only what that confirms is a regression. Until the very end the old document is as it was.

mod check;
mod confirm;
mod night;
mod rounds;

pub use check::{Check, Checked};
pub use confirm::{Confirmation, Finding};

use crate::derive::{self, Evidence, Inputs};
use crate::diff::{self, Contest, Diff, IncomparableTimes};
use crate::error::{Context, Error, Result};
use crate::heuristics::{Document, Template, class_groups};
use crate::journal::{self, Contents, Journal};
use crate::model::{Config, Family, Problem};
use crate::plan::{self, Plan};
use crate::sweep::{self, DeviceBench, Lab, Site, Summary, Turn};
use confirm::{Duel, confirm};
use night::Night;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What to do tonight.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where and what to measure. Journals alone are filled by this part.
    pub sweep: sweep::Options,
    /// Replace the document even by one with a regression.
    pub accept: bool,
    /// How many good nights' journals and documents to keep.
    pub keep: usize,
}

/// Why a family is, or is not, measured again.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// There is no journal yet.
    New,
    /// Environment, kernels and, on the problems checked, times are those of the journal.
    Unchanged {
        /// What was checked.
        check: Check,
    },
    /// Some problems' kernels changed; they are measured again, and the rest holds.
    KernelsChanged {
        /// How many problems.
        problems: usize,
        /// What was checked of the rest.
        check: Check,
    },
    /// Other work disturbed the device while the times were checked: whether they still hold cannot be told, and they stand until
    /// a quiet night.
    Loaded {
        /// What was checked.
        check: Check,
    },
    /// Times changed by more than noise: all is measured again.
    Drifted {
        /// What was checked.
        check: Check,
    },
    /// Measured with something else: all is measured again.
    EnvironmentChanged {
        /// What changed: `driver 580.1 → 590.2`.
        changes: Vec<String>,
    },
}

impl fmt::Display for State {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = |check: &Check| match (check.ratio, check.beside_anchors) {
            (Some(ratio), beside) => {
                let beside = beside.map(|beside| format!(", {beside:.3} beside what raced along")).unwrap_or_default();
                format!("{ratio:.3} of the recorded time on {} problems{beside}", check.problems.len())
            }
            (None, _) => "no finals to check".to_string(),
        };
        match self {
            Self::New => out.write_str("no journal yet: a full run"),
            Self::Unchanged { check } => write!(out, "unchanged ({})", times(check)),
            Self::KernelsChanged { problems, check } => {
                write!(out, "kernels changed: {problems} problems are measured again ({} on the rest)", times(check))
            }
            Self::Loaded { check } => {
                write!(out, "not checked, since the device has other work: what was measured stands ({})", times(check))
            }
            Self::Drifted { check } => {
                write!(out, "drifted beyond noise of {:.1} %: a full run ({})", check.noise * 100.0, times(check))
            }
            Self::EnvironmentChanged { changes } => {
                let changes = changes.join(", ");
                write!(out, "environment changed: the journal is set aside, and all is measured anew ({changes})")
            }
        }
    }
}

/// What became of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The new one is in its place.
    Replaced,
    /// Both are the same.
    Same,
    /// Both are the same, but the device had other work: whether it still holds could not be told.
    Unchecked,
    /// The new one has a regression; the old one is in place.
    Kept,
}

/// A line for the log.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A family was checked.
    Checked {
        /// Which.
        family: Family,
        /// What was found.
        #[serde(flatten)]
        state: State,
    },
    /// All was measured.
    Swept(Box<Summary>),
    /// The night is over.
    Done(Box<Report>),
}

/// What the night came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The GPU's short name.
    pub gpu: String,
    /// What became of the document.
    pub verdict: Verdict,
    /// The new document is slower somewhere, or covers less.
    pub regression: bool,
    /// The budget ran out before the plan did.
    pub cut_short: bool,
    /// Some problem has no working config.
    pub unworkable: bool,
    /// The document.
    #[serde(serialize_with = "sweep::lossy::path")]
    pub document: PathBuf,
    /// Tonight's folder: the document before, the new one, the journals.
    #[serde(serialize_with = "sweep::lossy::path")]
    pub night: PathBuf,
    /// What changed; none where there was no document.
    pub diff: Option<Diff>,
    /// What looked slower, and what racing it came to.
    pub confirmations: Vec<Confirmation>,
    /// What the document before serves and this version cannot run, so that it did not defend its place, with the reason.
    pub undefended: Vec<String>,
}

/// Runs the night; each step's outcome goes to `tell`.
///
/// # Errors
/// As a sweep, and where the new document is not whole; the old one is then in place.
pub fn run(options: &Options, tell: &dyn Fn(&Event) -> Result<()>) -> Result<Report> {
    let started = Instant::now();
    let site = Site::open(&options.sweep)?;
    let gpu = site.found().profile.name.clone();
    let plans = plan::load_all(&options.sweep.families, options.sweep.plan.as_deref())?;
    let night = Night::begin(&sweep::gpu_folder(&options.sweep.output, &gpu))?;
    let document = sweep::document_path(&options.sweep.output, &gpu);
    sweep::check_outputs(Some(&document), &[])?;
    let before = if document.is_file() { Some(Document::load(&document)?) } else { None };
    if let Some(before) = &before {
        let is_ours = derive::refuse_other_device(before, &site.found().identity());
        is_ours.context(|| document.display())?;
        night.keep(&document, "before.json")?;
    }
    let undefended = before.as_ref().map(|before| undefended(before, &options.sweep.families)).unwrap_or_default();
    for served in &undefended {
        site.progress.say(&format!("cannot defend its place: {served}"));
    }
    let mut is_loaded = false;
    for plan in &plans {
        let tonight = Tonight { site: &site, options, plan, night: &night };
        let state = tonight.prepare().context(|| format!("family {}", plan.family))?;
        is_loaded |= matches!(state, State::Loaded { .. });
        site.progress.say(&format!("{}: {state}", plan.family));
        tell(&Event::Checked { family: plan.family, state })?;
    }
    let budget = options.sweep.budget.map(|budget| budget.saturating_sub(started.elapsed()));
    let measuring = sweep::Options { budget, journal_only: true, fresh: false, ..options.sweep.clone() };
    let summary = sweep::run_at(&site, &measuring, Instant::now())?;
    tell(&Event::Swept(Box::new(summary.clone())))?;

    let after = derive_document(&site, options, &plans, before.as_ref())?;
    let candidate = night.candidate();
    after.write_atomically(&candidate)?;
    let after = load_whole(&candidate, &options.sweep.families)?;
    for journal in &summary.journals {
        let name = journal.file_name().unwrap_or_default().to_string_lossy();
        journal::pack(journal::read(journal)?, &night.folder().join(format!("journal/{name}.zst")))?;
    }
    let mut diff = before.as_ref().map(|before| diff::diff(before, &after, IncomparableTimes::LeaveOut)).transpose()?;
    let confirmations = match &mut diff {
        Some(diff) if diff.has_suspects() => Races::of(&site, options, &night, &summary.journals)?.confirm(diff)?,
        _ => Vec::new(),
    };
    let regression = diff.as_ref().is_some_and(|diff| diff.regression);
    let verdict = match &before {
        Some(before) if before.to_canonical_json() == after.to_canonical_json() => {
            if is_loaded {
                Verdict::Unchecked
            } else {
                Verdict::Same
            }
        }
        Some(_) if regression && !options.accept => Verdict::Kept,
        _ => {
            after.write_atomically(&document)?;
            Verdict::Replaced
        }
    };
    let report = Report {
        gpu,
        verdict,
        regression,
        cut_short: summary.cut_short,
        unworkable: summary.families.values().any(|family| !family.unworkable.is_empty()),
        document,
        night: night.folder().to_path_buf(),
        diff,
        confirmations,
        undefended,
    };
    night.end(&candidate, &report, options.keep)?;
    tell(&Event::Done(Box::new(report.clone())))?;
    Ok(report)
}

/// One family, tonight.
struct Tonight<'a> {
    site: &'a Site,
    options: &'a Options,
    plan: &'a Plan,
    night: &'a Night,
}

impl Tonight<'_> {
    /// Leaves in the journal what holds, so that the sweep measures the rest.
    fn prepare(&self) -> Result<State> {
        let gpu = &self.site.found().profile.name;
        let path = sweep::journal_path(&self.options.sweep.output, gpu, self.plan.family, (0, 1));
        if !path.is_file() {
            return Ok(State::New);
        }
        let (journal, Contents { headers, mut trials, warnings }) = Journal::open(&path, false)?;
        drop(journal);
        for warning in &warnings {
            self.site.progress.say(warning);
        }
        let changes = check::environment_changes(&headers, &self.site.header(), &self.site.apart(&headers));
        if !changes.is_empty() {
            self.night.set_aside(&path)?;
            return Ok(State::EnvironmentChanged { changes });
        }
        let record = self.night.folder().join("check").join(format!("{}.jsonl", self.plan.family));
        let lab = Lab::new(self.site, self.options.sweep.seed, Vec::new(), self.site.journal(&record, false)?);
        let stale = check::stale(&trials, |trial| lab.is_current(trial))?;
        trials.retain(|trial| !stale.contains(&trial.problem()));
        let check = self.check(&lab, &trials)?;
        if check.loaded {
            self.site.tell_of_load();
        } else if check.drifted {
            self.night.set_aside(&path)?;
            return Ok(State::Drifted { check });
        }
        if stale.is_empty() {
            return Ok(if check.loaded { State::Loaded { check } } else { State::Unchanged { check } });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.night.keep(&path, &format!("before-{name}"))?;
        journal::replace(&path, Contents { headers, trials, ..Contents::default() })?;
        Ok(State::KernelsChanged { problems: stale.len(), check })
    }

    fn check(&self, lab: &Lab<'_>, trials: &[journal::Trial]) -> Result<Check> {
        let profile = &self.site.found().profile;
        let spots = check::spots(trials, &self.plan.defaults(profile), days_since_1970());
        let checked = Mutex::new(Vec::new());
        sweep::on_all_devices(lab, &self.site.devices, &spots, |bench, spot| {
            let outcome = check::check(bench, spot)?;
            checked.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            Ok(())
        })?;
        let mut checked = checked.into_inner().unwrap_or_else(PoisonError::into_inner);
        checked.sort_by(|one: &Checked, other| one.problem.cmp(&other.problem));
        Ok(Check::of(checked))
    }
}

/// Races of old programs with new ones, on one device.
struct Races<'a> {
    site: &'a Site,
    lab: Lab<'a>,
    /// What ran as which kernel, by all journals there are of tonight and before.
    ran: BTreeSet<(Problem, Config, String)>,
}

impl<'a> Races<'a> {
    fn of(site: &'a Site, options: &Options, night: &Night, journals: &[PathBuf]) -> Result<Self> {
        let record = night.folder().join("races.jsonl");
        let lab = Lab::new(site, options.sweep.seed, Vec::new(), site.journal(&record, false)?);
        let mut ran = BTreeSet::new();
        for path in journals.iter().cloned().chain(night.earlier_journals()?) {
            for trial in journal::read(&path)?.trials {
                ran.insert((trial.problem(), trial.config, trial.kernel));
            }
        }
        Ok(Self { site, lab, ran })
    }

    fn confirm(&self, diff: &mut Diff) -> Result<Vec<Confirmation>> {
        let device = Turn::default();
        let mut bench = DeviceBench::new(&self.lab, self.site.found(), &device)?;
        let confirmations = confirm(diff, &mut |contest, turn| self.duel(&mut bench, contest, turn))?;
        bench.leave();
        Ok(confirmations)
    }

    /// Races what the two documents serve on one problem.
    fn duel(&self, bench: &mut DeviceBench<'_, '_>, contest: &Contest, turn: u64) -> Result<Duel> {
        let Some(problem) = derive::problem(&contest.class, &contest.problem) else {
            return Ok(Duel::Failed("no problem that this version knows".into()));
        };
        let (old, new) = match (config_of(&contest.old.0), config_of(&contest.new.0)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(why), _) | (_, Err(why)) => return Ok(Duel::Failed(why)),
        };
        bench.turn_to(problem);
        let kernels = &contest.old.1;
        let ran = |kernel: &&String| self.ran.contains(&(problem, old.clone(), (*kernel).clone()));
        let kernel = if let [only] = &kernels[..] { Some(only) } else { kernels.iter().find(ran) };
        let programs = (bench.program_of(&old, kernel.map(String::as_str))?, bench.program_of(&new, None)?);
        let ((old_arm, old_key), (new_arm, new_key)) = match programs {
            (Ok(old), Ok(new)) => (old, new),
            (Err(why), _) => return Ok(Duel::Failed(format!("the old config does not run: {why}"))),
            (_, Err(why)) => return Ok(Duel::Failed(format!("the new config does not run: {why}"))),
        };
        let stand_in = !kernels.contains(&old_key.0);
        let is_host = old_arm.program.is_none() && old_arm.config != new_arm.config;
        if old_key == new_key && old_arm.program == new_arm.program && !is_host {
            return Ok(if stand_in {
                Duel::Failed("the old kernel is no longer cached, and the config is the same".into())
            } else {
                Duel::SameProgram
            });
        }
        let is_turned = turn % 2 == 1;
        let arms = if is_turned { vec![new_arm, old_arm] } else { vec![old_arm, new_arm] };
        let mut times = match bench.race_programs(&arms, turn)? {
            Ok(raced) => raced.rounds_us,
            Err(why) => return Ok(Duel::Failed(why)),
        };
        if is_turned {
            times.reverse();
        }
        Ok(match <[Vec<f64>; 2]>::try_from(times) {
            Ok([old_us, new_us]) => Duel::Raced { old_us, new_us, stand_in },
            Err(_) => Duel::Failed("a race of something else".into()),
        })
    }
}

/// A template as a config that this version can run, or why it is none.
fn config_of(template: &Template) -> Result<Config, String> {
    serde_json::from_value(template.clone().into()).map_err(|error| format!("not a config of this version: {error}"))
}

/// What a document serves first in these families that this version cannot run.
fn undefended(before: &Document, families: &[Family]) -> Vec<String> {
    let is_ours = |class: &str| families.iter().any(|family| family.name() == class);
    let rules = before.rules.iter().filter(|rule| is_ours(&rule.kernel_class)).filter_map(|rule| {
        let place = rule.shape_bucket.iter().map(|(field, label)| format!("{field} {label}")).collect::<Vec<_>>();
        Some((
            format!("{} {}", rule.kernel_class, place.join(", ")),
            rule.templates.iter().find_map(|ranked| ranked.config())?,
        ))
    });
    let fallbacks = before.fallbacks.iter().filter(|(class, _)| is_ours(class)).flat_map(|(class, groups)| {
        groups
            .iter()
            .filter_map(move |(group, fallback)| Some((format!("{class} fallback {group}"), fallback.config()?)))
    });
    let unknown = |(place, template): (String, &Template)| Some(format!("{place}: {}", config_of(template).err()?));
    rules.chain(fallbacks).filter_map(unknown).collect()
}

fn days_since_1970() -> usize {
    (jiff::Timestamp::now().as_second() / 86_400).unsigned_abs() as usize
}

/// The document of all families' journals, with what `before` serves kept where nothing beats it, and its other classes.
fn derive_document(site: &Site, options: &Options, plans: &[Plan], before: Option<&Document>) -> Result<Document> {
    let profile = &site.found().profile;
    let mut journals = Vec::new();
    for plan in plans {
        let path = sweep::journal_path(&options.sweep.output, &profile.name, plan.family, (0, 1));
        journals.push((path.display().to_string(), journal::read(&path)?));
    }
    let derived = derive::run(Inputs {
        profile,
        journals: &journals,
        measurements: Evidence::default(),
        defaults: &plans.iter().map(|plan| (plan.family, plan.defaults(profile))).collect(),
        before,
        accept_driver: options.sweep.accept_driver,
        is_current: &|_| Ok(true),
    })?;
    Ok(derived.document)
}

/// Loads a document and makes sure that it answers every shape of the families with a config of ours.
fn load_whole(path: &Path, families: &[Family]) -> Result<Document> {
    let document = Document::load(path)?;
    let is_config = |template: Option<&Template>| {
        template.is_some_and(|template| serde_json::from_value::<Config>(template.clone().into()).is_ok())
    };
    let incomplete = |what: String| Err(Error::failure(what).context(format!("{} is not whole", path.display())));
    for class in families.iter().map(|family| family.name()) {
        let fallbacks: BTreeMap<_, _> = document.fallbacks.get(class).into_iter().flatten().collect();
        for group in class_groups(class) {
            let fallback = fallbacks.get(&(*group).to_string());
            if !is_config(fallback.and_then(|fallback| fallback.config())) {
                return incomplete(format!("{class} has no fallback for {group}; run again with a larger --budget"));
            }
        }
    }
    for (index, rule) in document
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| families.iter().any(|family| family.name() == rule.kernel_class))
    {
        if !is_config(rule.templates.first().and_then(|ranked| ranked.config())) {
            return incomplete(format!("rule {index} of {} has no config", rule.kernel_class));
        }
    }
    Ok(document)
}
