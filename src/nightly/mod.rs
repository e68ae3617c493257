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
mod report;
mod rounds;

pub use check::{Check, Checked};
pub use confirm::{Confirmation, Finding};
pub use night::{Kept, kept};
pub use report::{Event, Report, State, Verdict};

use crate::derive;
use crate::diff::{self, Contest, Diff, IncomparableTimes};
use crate::error::{Context, Error, Result};
use crate::families;
use crate::heuristics::{Document, Template, class_groups};
use crate::journal::{self, Contents, Journal};
use crate::model::{Config, Family, Problem};
use crate::paths;
use crate::plan::{self, Plan};
use crate::site::Site;
use crate::sweep::{self, DeviceBench, Lab, Turn};
use confirm::{Duel, confirm};
use night::Night;
use std::collections::{BTreeMap, BTreeSet};
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

/// Runs the night; each step's outcome goes to `tell`.
///
/// # Errors
/// As a sweep, and where the new document is not whole; the old one is then in place.
pub fn run(options: &Options, tell: &dyn Fn(&Event) -> Result<()>) -> Result<Report> {
    let started = Instant::now();
    let site = Site::open(&options.sweep.site)?;
    let gpu = site.found().profile.name.clone();
    let plans = plan::load_all(&options.sweep.families, options.sweep.plan.as_deref())?;
    let (plans, left_out) = plan::with_a_space(plans, &site.found().profile);
    for why in &left_out {
        site.progress.say(why);
    }
    let night = Night::begin(site.folder.nights())?;
    let document = site.folder.document();
    paths::check_outputs(Some(&document), &[])?;
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

    let after =
        sweep::derive_journals(&site, &options.sweep, &plans.iter().collect::<Vec<_>>(), before.as_ref())?.document;
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
        let path = self.site.folder.journal(self.plan.family, (0, 1));
        if !path.is_file() {
            return Ok(State::New);
        }
        let (journal, Contents { headers, mut trials, warnings, .. }) = Journal::open(&path, false)?;
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
        let stale = check::stale(&trials, |trial| lab.memory.is_current(trial))?;
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
        let (old, new) = match (config_of(problem.family, &contest.old.0), config_of(problem.family, &contest.new.0)) {
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
fn config_of(family: Family, template: &Template) -> Result<Config, String> {
    let none = |why: String| format!("not a config of this version: {why}");
    let config: Config = serde_json::from_value(template.clone().into()).map_err(|error| none(error.to_string()))?;
    let own = families::spec(family).own_knobs();
    match config.own.keys().find(|knob| !own.contains(&knob.as_str())) {
        Some(unknown) => Err(none(format!("{family} has no knob '{unknown}'"))),
        None => Ok(config),
    }
}

/// What a document serves first in these families that this version cannot run.
fn undefended(before: &Document, families: &[Family]) -> Vec<String> {
    let of_class = |class: &str| families.iter().copied().find(|family| family.name() == class);
    let rules = before.rules.iter().filter_map(|rule| {
        let family = of_class(&rule.kernel_class)?;
        let place = rule.shape_bucket.iter().map(|(field, label)| format!("{field} {label}")).collect::<Vec<_>>();
        let served = rule.templates.iter().find_map(|ranked| ranked.config())?;
        Some((family, format!("{family} {}", place.join(", ")), served))
    });
    let fallbacks = before.fallbacks.iter().filter_map(|(class, groups)| Some((of_class(class)?, groups)));
    let fallbacks = fallbacks.flat_map(|(family, groups)| {
        groups.iter().filter_map(move |(group, fallback)| {
            Some((family, format!("{family} fallback {group}"), fallback.config()?))
        })
    });
    let unknown = |(family, place, template): (Family, String, &Template)| {
        Some(format!("{place}: {}", config_of(family, template).err()?))
    };
    rules.chain(fallbacks).filter_map(unknown).collect()
}

fn days_since_1970() -> usize {
    (jiff::Timestamp::now().as_second() / 86_400).unsigned_abs() as usize
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
