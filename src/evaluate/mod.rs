//! How good the document is on problems it was not made from: for each of them, the config that is served races the
//! default and the best that a search of the whole space finds in the same run.
//!
//! Served is what a user would come to: the rule's first template that can run on the problem, else the group's fallback, else
//! the default.
//!
//! The best three of the search race the pick, the default and the fallback, in interleaved rounds of their own. Half of the
//! rounds choose the best of the three and the other half tells how far the pick is behind, then the other way round: so the
//! best is not favoured by the luck that made it the best, and a pick as good as the best comes out ahead of it as often as
//! behind. What the model, the rule and the fallback would each have served alone races along, so that their regrets can be told
//! apart.

mod evaluated;
mod figures;
mod noise;
mod recorded;

pub use evaluated::{Answered, Evaluated, Skipped};
pub use figures::{Figures, Intervals, Report, Transfer};
pub use recorded::{Answer, Evaluation, JudgedProblem, fingerprint};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::heuristics::{Document, Heuristics, Source, Template, builtin_document, group_of};
use crate::journal::Trial;
use crate::measure::{CrossFit, RacePlan, cross_fit};
use crate::model::{Config, Family, GpuProfile, Problem};
use crate::paths::{self, GpuFolder};
use crate::plan::{self, Alignment, Candidate, Limits, Plan, PlannedProblem, Purpose};
use crate::search::{Guide, RaceOutcome, Racer, Width};
use crate::site::Site;
use crate::sweep::{self, Ahead, DeviceBench, Lab, Options};
use noise::NullArm;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Which problems to evaluate on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shapes {
    /// Those of a shapes file, or with several families of a folder that holds `<family>.toml` for each.
    File {
        /// The file or the folder.
        path: PathBuf,
        /// They may be of the plan, which flatters the document.
        allow_planned: bool,
    },
    /// So many of each family's domain and types, none of them of the plan, drawn with the seed of the options.
    Random(usize),
}

/// Evaluates the document of a GPU.
///
/// # Errors
/// Where the device is absent, there is no document, a problem belongs to the plan and may not, or the domain has not as many
/// problems as are to be drawn.
pub fn run(options: &Options, shapes: &Shapes) -> Result<Report> {
    let plans = plan::load_all(&options.families, options.plan.as_deref())?;
    // What a file says wrong is said before a device is asked for.
    let mut read: BTreeMap<Family, Option<Vec<PlannedProblem>>> =
        plans.iter().map(|plan| Ok((plan.family, shapes.read(plan.family)?))).collect::<Result<_>>()?;
    let site = Site::open(&options.site)?;
    let profile = &site.found().profile;
    let gpu = &profile.name;
    let (plans, left_out) = plan::with_a_space(plans, profile);
    for why in &left_out {
        site.progress.say(why);
    }
    let asked = plans.iter().map(|plan| {
        let planned: BTreeSet<Problem> = plan.problems(profile)?.iter().map(|planned| planned.problem).collect();
        let problems = match read.remove(&plan.family).flatten() {
            Some(problems) => problems,
            None => shapes.draw(plan, options.seed, profile, &planned)?,
        };
        shapes.check(&problems, &planned)?;
        Ok((plan, problems))
    });
    let asked: Vec<(&Plan, Vec<PlannedProblem>)> = asked.collect::<Result<_>>()?;
    let (document, name) = document(&site.folder, gpu)?;
    let journals: Vec<PathBuf> = plans.iter().map(|plan| site.folder.evaluation(plan.family)).collect();
    paths::check_outputs(None, &journals)?;
    site.progress.plans(&plans);
    let started = Instant::now();
    let mut problems = Vec::new();
    for (index, (plan, shapes)) in asked.iter().enumerate() {
        let left = (asked.len() - index) as u32;
        let deadline = options.budget.map(|budget| Instant::now() + budget.saturating_sub(started.elapsed()) / left);
        let evaluation = OneFamily { site: &site, options, plan, document: &document };
        problems.extend(evaluation.run(shapes, deadline).context(|| format!("family {}", plan.family))?);
    }
    site.progress.finish();
    evaluated::judge(&mut problems);
    let report = Report::new(gpu, &name, options.seed, problems);
    Ok(Report { document_sha256: fingerprint(&document), ..report })
}

impl Shapes {
    /// The problems that are written down.
    fn read(&self, family: Family) -> Result<Option<Vec<PlannedProblem>>> {
        match self {
            Self::File { path, .. } if path.is_dir() => {
                plan::read_shapes(family, &path.join(format!("{family}.toml"))).map(Some)
            }
            Self::File { path, .. } => plan::read_shapes(family, path).map(Some),
            Self::Random(_) => Ok(None),
        }
    }

    /// Problems of the family's domain, in those of its types that the plan has configs for.
    fn draw(
        &self,
        plan: &Plan,
        seed: u64,
        profile: &GpuProfile,
        planned: &BTreeSet<Problem>,
    ) -> Result<Vec<PlannedProblem>> {
        let Self::Random(count) = *self else { return Ok(Vec::new()) };
        let (family, limits) = (plan.family, Limits::of(profile));
        let drawn = plan::draw(family, Purpose::Evaluation, seed, limits, planned.clone()).take(count);
        let runs = |problem: &Problem| !planned.contains(problem) && !plan.legal_configs(problem, profile).is_empty();
        let drawn: Vec<_> = plan::in_all_types(family, Purpose::Evaluation, seed, limits, drawn, runs).collect();
        if drawn.len() < count {
            return Err(Error::usage(format!(
                "--random {count}: beside the plan the domain of {family} has hardly more than {} problems for this device",
                drawn.len()
            )));
        }
        Ok(drawn)
    }

    /// What the rules were made from says nothing of how they carry over.
    fn check(&self, problems: &[PlannedProblem], planned: &BTreeSet<Problem>) -> Result<()> {
        let may_be_planned = matches!(self, Self::File { allow_planned: true, .. });
        match problems.iter().find(|shape| !may_be_planned && planned.contains(&shape.problem)) {
            None => Ok(()),
            Some(shape) => Err(Error::usage(format!(
                "{} is in the plan of {}: the document was made from it; give shapes that are not there, or \
                 --allow-planned",
                shape.problem, shape.problem.family
            ))),
        }
    }
}

/// The GPU's document in the output folder, else the one built in, with what to call it.
fn document(folder: &GpuFolder, gpu: &str) -> Result<(Document, String)> {
    let path = folder.document();
    if path.is_file() {
        return Ok((Document::load(&path)?, path.display().to_string()));
    }
    let text = builtin_document(gpu).ok_or_else(|| {
        Error::usage(format!("no {} and none built in for {gpu}: run sweep --gpu {gpu} first", path.display()))
    })?;
    Ok((Document::from_bytes(text.as_bytes())?, format!("built in for {gpu}")))
}

/// A problem, what is served for it, and what would be if there were no rule.
struct Question {
    planned: PlannedProblem,
    source: &'static str,
    pick: Option<Config>,
    skipped: Vec<Skipped>,
    fallback: Option<Config>,
    /// What the model, the rule and the fallback would each serve alone.
    alone: BTreeMap<&'static str, Config>,
}

/// Those that may answer, as they are called, in the order of asking where nothing is known of their regret.
const ANSWERING: [&str; 3] = ["model", "rule", "fallback"];

/// One family's evaluation.
struct OneFamily<'a> {
    site: &'a Site,
    options: &'a Options,
    plan: &'a Plan,
    document: &'a Document,
}

impl OneFamily<'_> {
    fn run(&self, shapes: &[PlannedProblem], deadline: Option<Instant>) -> Result<Vec<Evaluated>> {
        let profile = &self.site.found().profile;
        let heuristics = Heuristics::new(self.document.clone());
        let questions: Vec<Question> = shapes.iter().map(|planned| self.question(&heuristics, planned)).collect();
        let path = self.site.folder.evaluation(self.plan.family);
        let journal = self.site.journal(&path, self.options.fresh)?;
        let defenders =
            questions.iter().flat_map(|question| question.pick.clone().into_iter().chain(question.fallback.clone()));
        let progress = &self.site.progress;
        let mut lab = Lab::new(self.site, self.options.seed, defenders.collect(), journal);
        lab.clock.deadlines.trial = self.options.trial_deadline;
        lab.clock.set_end(deadline);
        let guide = Guide::new(self.plan, profile, self.document.models.get(self.plan.family.name()));
        let problems: Vec<Problem> = questions.iter().map(|question| question.planned.problem).collect();
        let must_race = |problem: &Problem| {
            let asked = questions.iter().find(|question| question.planned.problem == *problem);
            asked.map(|question| self.must_race(question)).unwrap_or_default()
        };
        let ahead = Ahead::new(&lab, &guide, &problems, &must_race, |_| Width::THOROUGH);
        progress.family(self.plan.family, questions.len());
        let evaluated: Mutex<Vec<Option<Evaluated>>> = Mutex::new(vec![None; questions.len()]);
        let numbered: Vec<(usize, &Question)> = questions.iter().enumerate().collect();
        let work = |bench: &mut DeviceBench<'_, '_>, (index, question): &(usize, &Question)| {
            let answer = self.evaluate(bench, question, &ahead)?;
            evaluated.lock().unwrap_or_else(PoisonError::into_inner)[*index] = Some(answer);
            Ok(())
        };
        ahead.beside(|| sweep::on_all_devices(&lab, &self.site.devices, &numbered, work))?;
        let out_of_time = lab.finish().out_of_time;
        let evaluated = evaluated.into_inner().unwrap_or_else(PoisonError::into_inner);
        let evaluated = evaluated.into_iter().zip(&questions).map(|(evaluated, question)| {
            let evaluated = evaluated.unwrap_or_else(|| question.unanswered("not reached", None));
            if evaluated.regret.is_some() || !out_of_time.contains(&question.planned.problem) {
                return evaluated;
            }
            Evaluated {
                unfinished: true,
                error: Some("the budget ran out; the same command goes on".into()),
                ..evaluated
            }
        });
        Ok(evaluated.collect())
    }

    fn question(&self, heuristics: &Heuristics, planned: &PlannedProblem) -> Question {
        let profile = &self.site.found().profile;
        let answer = heuristics.lookup_problem(&planned.problem);
        let groups = self.document.fallbacks.get(self.plan.family.name());
        let fallback = groups.and_then(|groups| groups.get(group_of(&planned.problem))?.config());
        let ranked: Vec<(&'static str, &Template)> = match answer.source {
            Source::Fallback(..) | Source::None => Vec::new(),
            source => answer.configs().map(|template| (source.name(), template)).collect(),
        };
        let served = ranked.into_iter().chain(fallback.map(|template| ("fallback", template)));
        let default = self.plan.defaults(profile).into_iter().next();
        let runs = |template: &Template| runnable(template, &planned.problem, profile);
        let (served, skipped) = first_that_runs(served, runs);
        let (source, pick) = match served {
            Some((source, config)) => (source, Some(config)),
            None => ("default", default),
        };
        let of_rule = fallback.filter(|_| source == "rule").and_then(|template| runs(template).ok());
        let alone = alone(heuristics, &planned.problem, fallback, runs);
        Question { planned: planned.clone(), source, pick, skipped, fallback: of_rule, alone }
    }

    /// What races whatever it costs: the defaults, and what is served.
    fn must_race(&self, question: &Question) -> Vec<Config> {
        let mut must_race = self.plan.defaults(&self.site.found().profile);
        for config in question.pick.iter().chain(&question.fallback).chain(question.alone.values()) {
            if !must_race.contains(config) {
                must_race.push(config.clone());
            }
        }
        must_race
    }

    fn evaluate(
        &self,
        bench: &mut DeviceBench<'_, '_>,
        question: &Question,
        ahead: &Ahead<'_, '_, '_>,
    ) -> Result<Evaluated> {
        let problem = question.planned.problem;
        let profile = &self.site.found().profile;
        let must_race = self.must_race(question);
        bench.turn_to(problem);
        let candidate = |config: &Config| plan::candidate(config.clone(), &problem, profile);
        let trials = match ahead.search(bench, &problem, &must_race) {
            Ok(RaceOutcome::Done(trials)) => trials,
            Ok(_) => return Ok(question.unanswered("the race crashed", None)),
            Err(trouble) if trouble.kind() == ErrorKind::Trouble => {
                return Ok(question.unanswered(&trouble.to_string(), None));
            }
            Err(error) => return Err(error),
        };
        let Some(best) = trials.first() else { return Ok(question.unanswered("no working config", None)) };
        let three: Vec<Config> = trials.iter().take(CONTENDERS).map(|trial| trial.config.clone()).collect();
        let others = must_race.iter().filter(|config| !three.contains(config));
        let racing: Vec<Candidate> = three.iter().chain(others).map(candidate).collect();
        let Some(raced) = race(bench, &racing)? else {
            return Ok(question.unanswered("the race crashed", Some(&best.config)));
        };
        self.site.progress.best(best);
        let defaults = self.plan.defaults(profile);
        Ok(question.judged(&raced, &three, &defaults, self.options.seed))
    }
}

/// The template as a config that can run on the problem, or why it is none.
fn runnable(template: &Template, problem: &Problem, profile: &GpuProfile) -> Result<Config, String> {
    let config: Config = serde_json::from_value(template.clone().into()).map_err(|error| error.to_string())?;
    match plan::candidate(config, problem, profile) {
        Candidate { config, program: Ok(_) } => Ok(config),
        Candidate { program: Err(rejection), .. } => Err(rejection.to_string()),
    }
}

/// What the model, the rule and the fallback would each serve of a problem if there were no other, as far as it runs.
fn alone(
    heuristics: &Heuristics,
    problem: &Problem,
    fallback: Option<&Template>,
    runs: impl Fn(&Template) -> Result<Config, String>,
) -> BTreeMap<&'static str, Config> {
    let query = problem.into();
    let considered = heuristics.explain(&query).map(|explanation| explanation.considered).unwrap_or_default();
    // A class without a model answers by a rule, or else a fallback.
    let answer = heuristics.lookup(&query);
    let templates = |source: &'static str| {
        let told = considered.iter().filter(|other| other.source == source).flat_map(|other| other.templates.clone());
        let answered = answer.configs().filter(|_| answer.source.name() == source);
        told.chain(answered).chain(fallback.filter(|_| source == "fallback")).collect::<Vec<_>>()
    };
    let first = |source| Some((source, templates(source).into_iter().find_map(|template| runs(template).ok())?));
    ANSWERING.into_iter().filter_map(first).collect()
}

/// The first template that runs, with its source, and those before it.
fn first_that_runs<'t>(
    ranked: impl Iterator<Item = (&'static str, &'t Template)>,
    runs: impl Fn(&Template) -> Result<Config, String>,
) -> (Option<(&'static str, Config)>, Vec<Skipped>) {
    let mut skipped = Vec::new();
    for (source, template) in ranked {
        match runs(template) {
            Ok(config) => return (Some((source, config)), skipped),
            Err(reason) => skipped.push(Skipped { source, template: template.clone(), reason }),
        }
    }
    (None, skipped)
}

/// The best of a search that race once more: the best of many is in part the luckiest.
const CONTENDERS: usize = 3;

/// The best of the search against those that must race, in interleaved rounds.
fn race(bench: &mut DeviceBench<'_, '_>, candidates: &[Candidate]) -> Result<Option<Vec<Trial>>> {
    let works = |candidate: &&Candidate| candidate.program.is_ok();
    let racers: Vec<Racer> = candidates.iter().filter(works).map(Racer::anchor).collect();
    Ok(match bench.race_anew(&racers, &RacePlan::FINAL)? {
        RaceOutcome::Done(trials) => Some(trials),
        RaceOutcome::OutOfTime | RaceOutcome::Crashed(_) => None,
    })
}

impl Question {
    fn unanswered(&self, error: &str, best: Option<&Config>) -> Evaluated {
        let problem = &self.planned.problem;
        Evaluated {
            family: problem.family.name().to_string(),
            problem: format!("{} {}", problem.shape, problem.dtype),
            from: self.planned.from.clone(),
            group: group_of(problem),
            alignment: Alignment::of(problem),
            source: self.source,
            pick: self.pick.clone(),
            skipped: self.skipped.clone(),
            best: best.cloned(),
            pick_us: None,
            best_us: None,
            default_us: None,
            ln_regret: None,
            ln_regret_interval: None,
            regret: None,
            over_default: None,
            answers: BTreeMap::new(),
            slower_than_default: false,
            over_fallback: None,
            slower_than_fallback: false,
            noise: None,
            error: Some(error.to_string()),
            unfinished: false,
            fit: None,
            null_arm: None,
        }
    }

    /// Reads the race's rounds. What is slower by more than noise, [`evaluated::judge`] tells when all have raced.
    fn judged(&self, raced: &[Trial], contenders: &[Config], defaults: &[Config], seed: u64) -> Evaluated {
        let arm = |config: &Config| {
            raced.iter().find(|trial| trial.config == *config && !trial.null_arm && !trial.rounds_us.is_empty())
        };
        let time_us = |trial: &Trial| trial.time().map(|time| time.0);
        let rivals = |configs: &[Config]| configs.iter().filter_map(arm).collect::<Vec<_>>();
        let (best_of_search, contenders, defaults) = (contenders.first(), rivals(contenders), rivals(defaults));
        let Some(best) = fastest(&contenders) else {
            return self.unanswered("the best configs failed in the race", best_of_search);
        };
        let default = fastest(&defaults);
        let against = |arm: &Trial, rivals: &[&Trial]| {
            let rounds: Vec<&[f64]> = rivals.iter().map(|rival| rival.rounds_us.as_slice()).collect();
            cross_fit(&arm.rounds_us, &rounds, seed)
        };
        let ratio = |fit: CrossFit| fit.ln_ratio.exp();
        let answered = |config: &Config| {
            let trial = arm(config);
            Answered {
                config: config.clone(),
                time_us: trial.and_then(time_us),
                regret: trial.and_then(|trial| against(trial, &contenders)).map(ratio),
            }
        };
        let alone = self.alone.iter().map(|(source, config)| (*source, config));
        let answers = alone.chain(default.map(|trial| ("default", &trial.config)));
        let known = Evaluated {
            best_us: time_us(best),
            default_us: default.and_then(time_us),
            answers: answers.map(|(source, config)| (source, answered(config))).collect(),
            null_arm: NullArm::of(raced),
            ..self.unanswered("", Some(&best.config))
        };
        let Some(pick) = &self.pick else {
            return Evaluated { error: Some("nothing is served".into()), ..known };
        };
        let Some(picked) = arm(pick) else {
            return Evaluated {
                error: Some("the pick does not work here".into()),
                slower_than_default: default.is_some(),
                ..known
            };
        };
        let Some(fit) = against(picked, &contenders) else {
            return Evaluated { error: Some("the race has too few rounds".into()), ..known };
        };
        let fallback = self.fallback.as_ref().filter(|fallback| *fallback != pick).and_then(arm);
        Evaluated {
            pick_us: time_us(picked),
            ln_regret: Some(fit.ln_ratio),
            ln_regret_interval: Some(fit.interval()),
            regret: Some(fit.ln_ratio.exp()),
            over_default: against(picked, &defaults).map(ratio),
            over_fallback: fallback.and_then(|fallback| against(picked, &[fallback])).map(ratio),
            error: None,
            fit: Some(fit),
            ..known
        }
    }
}

fn fastest<'t>(trials: &[&'t Trial]) -> Option<&'t Trial> {
    let us = |trial: &Trial| trial.time().map_or(f64::INFINITY, |time| time.0);
    trials.iter().copied().min_by(|one, other| us(one).total_cmp(&us(other)))
}

#[cfg(test)]
mod tests;
