//! How good the document is on problems it was not made from: for each of them, the config that is served races the
//! default and the best that a search of the whole space finds in the same run.
//!
//! Served is what a user would come to: the rule's first template that can run on the problem, else the group's fallback, else
//! the default.
//!
//! The search chooses the best; a second race, in interleaved rounds, tells how much slower the pick is. So the best is not
//! favoured by the luck that made it the best.

mod figures;

pub use figures::{Figures, Report, Transfer};

use crate::derive::{NOISE_FLOOR, Timing, pair, timing_of};
use crate::error::{Context, Error, Result};
use crate::heuristics::{Document, Heuristics, Source, Template, builtin_document, group_of};
use crate::journal::Trial;
use crate::model::{Config, Family, GpuProfile, Problem};
use crate::plan::{self, Candidate, Plan, PlannedProblem};
use crate::search::{self, Width};
use crate::sweep::{self, DeviceBench, Lab, Options, Site};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What became of one problem.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluated {
    /// Its family.
    pub family: String,
    /// Its dimensions and type.
    pub problem: String,
    /// The model and layer it is taken from.
    pub from: Option<String>,
    /// Its fallback group.
    pub group: &'static str,
    /// Where the pick came from: `rule`, `fallback`, or `default` where neither has a config that can run.
    pub source: &'static str,
    /// The config that is served.
    pub pick: Option<Config>,
    /// What would have been served before it, but cannot run on this problem.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// The best that the search found.
    pub best: Option<Config>,
    /// Median times of the race.
    pub pick_us: Option<f64>,
    /// Likewise.
    pub best_us: Option<f64>,
    /// Likewise; of the fastest default, where there are several.
    pub default_us: Option<f64>,
    /// Time of the pick over that of the best, by paired rounds, and never under 1: a pick that beats the search is the best.
    pub regret: Option<f64>,
    /// Time of the pick over that of the default, by paired rounds.
    pub over_default: Option<f64>,
    /// The pick is slower than the default by more than noise.
    pub slower_than_default: bool,
    /// For a rule's pick: its time over that of the fallback it stands in for.
    pub over_fallback: Option<f64>,
    /// The rule's pick is slower than that fallback by more than noise.
    pub slower_than_fallback: bool,
    /// Ratios closer to 1 than this mean nothing here: what the best differed from its own duplicate.
    pub noise: Option<f64>,
    /// Why there is no regret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The budget ran out before there was one.
    pub unfinished: bool,
}

/// A template that cannot run on a problem of its bucket or group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Skipped {
    /// `rule` or `fallback`.
    pub source: &'static str,
    /// The template.
    pub template: Template,
    /// Why it cannot run.
    pub reason: String,
}

/// Evaluates the document of a GPU on the problems of `shapes`: a shapes file, or with several families a folder that
/// holds `<family>.toml` for each. With `allow_planned` they may be of the plan, which flatters the document.
///
/// # Errors
/// Where the device is absent, there is no document, or a problem belongs to the plan and may not.
pub fn run(options: &Options, shapes: &Path, allow_planned: bool) -> Result<Report> {
    let asked: Vec<(Plan, Vec<PlannedProblem>)> = plan::load_all(&options.families, options.plan.as_deref())?
        .into_iter()
        .map(|plan| {
            let problems = plan::read_shapes(plan.family, &shapes_file(shapes, plan.family))?;
            Ok((plan, problems))
        })
        .collect::<Result<_>>()?;
    let site = Site::open(options)?;
    let gpu = &site.found().profile.name;
    let (document, name) = document(&options.output, gpu)?;
    let started = Instant::now();
    let mut problems = Vec::new();
    for (index, (plan, shapes)) in asked.iter().enumerate() {
        let left = (asked.len() - index) as u32;
        let deadline = options.budget.map(|budget| Instant::now() + budget.saturating_sub(started.elapsed()) / left);
        let evaluation = Evaluation { site: &site, options, plan, document: &document, allow_planned };
        problems.extend(evaluation.run(shapes, deadline).context(|| format!("family {}", plan.family))?);
    }
    site.progress.finish();
    Ok(Report::new(gpu, &name, problems))
}

fn shapes_file(shapes: &Path, family: Family) -> PathBuf {
    if shapes.is_dir() { shapes.join(format!("{family}.toml")) } else { shapes.to_path_buf() }
}

/// The GPU's document in the output folder, else the one built in, with what to call it.
fn document(output: &Path, gpu: &str) -> Result<(Document, String)> {
    let path = sweep::document_path(output, gpu);
    if path.is_file() {
        return Ok((Document::load(&path)?, path.display().to_string()));
    }
    let text = builtin_document(gpu).ok_or_else(|| {
        Error::usage(format!("no {} and none built in for {gpu}: run sweep --gpu {gpu} first", path.display()))
    })?;
    Ok((Document::from_bytes(text.as_bytes())?, format!("built in for {gpu}")))
}

/// `output/<gpu>/evaluate/<family>.jsonl`: apart from the sweep's journals, since the document must not learn from it.
fn journal_path(output: &Path, gpu: &str, family: Family) -> PathBuf {
    sweep::gpu_folder(output, gpu).join("evaluate").join(format!("{family}.jsonl"))
}

/// A problem, what is served for it, and what would be if there were no rule.
struct Question {
    planned: PlannedProblem,
    source: &'static str,
    pick: Option<Config>,
    skipped: Vec<Skipped>,
    fallback: Option<Config>,
}

/// One family's evaluation.
struct Evaluation<'a> {
    site: &'a Site,
    options: &'a Options,
    plan: &'a Plan,
    document: &'a Document,
    allow_planned: bool,
}

impl Evaluation<'_> {
    fn run(&self, shapes: &[PlannedProblem], deadline: Option<Instant>) -> Result<Vec<Evaluated>> {
        let profile = &self.site.found().profile;
        if !self.allow_planned {
            self.refuse_planned(shapes)?;
        }
        let heuristics = Heuristics::new(self.document.clone());
        let questions: Vec<Question> = shapes.iter().map(|planned| self.question(&heuristics, planned)).collect();
        let path = journal_path(&self.options.output, &profile.name, self.plan.family);
        let journal = self.site.journal(&path, self.options.fresh)?;
        let defenders =
            questions.iter().flat_map(|question| question.pick.clone().into_iter().chain(question.fallback.clone()));
        let (compiler, progress) = (self.site.compiler.as_ref(), &self.site.progress);
        let mut lab = Lab::new(profile.clone(), compiler, self.options.seed, defenders.collect(), journal, progress);
        lab.deadlines.trial = self.options.trial_deadline;
        lab.set_deadline(deadline);
        self.compile_ahead(&questions)?;
        progress.family(self.plan.family, questions.len());
        let evaluated = Mutex::new(vec![Evaluated::default(); questions.len()]);
        let numbered: Vec<(usize, &Question)> = questions.iter().enumerate().collect();
        sweep::on_all_devices(&lab, &self.site.devices, &numbered, |bench, (index, question)| {
            let answer = self.evaluate(bench, question)?;
            evaluated.lock().unwrap_or_else(PoisonError::into_inner)[*index] = answer;
            Ok(())
        })?;
        let out_of_time = lab.finish().out_of_time;
        let mut evaluated = evaluated.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (evaluated, question) in evaluated.iter_mut().zip(&questions) {
            if evaluated.regret.is_none() && out_of_time.contains(&question.planned.problem) {
                evaluated.unfinished = true;
                evaluated.error = Some("the budget ran out; the same command goes on".into());
            }
        }
        Ok(evaluated)
    }

    /// Asks for every kernel, in the order of the problems, so that all cores compile while the device works.
    fn compile_ahead(&self, questions: &[Question]) -> Result<()> {
        let Some(compiler) = &self.site.compiler else { return Ok(()) };
        let mut kernels =
            questions.iter().flat_map(|question| sweep::kernels(&question.planned.problem, self.candidates(question)));
        kernels.try_for_each(|kernel| compiler.request(&kernel).map(drop))
    }

    /// The space on a question's problem, and what is served where that lies outside.
    fn candidates(&self, question: &Question) -> Vec<Candidate> {
        let (problem, profile) = (question.planned.problem, &self.site.found().profile);
        let mut candidates = self.plan.candidates(&problem, profile);
        for config in question.pick.iter().chain(&question.fallback) {
            if candidates.iter().all(|candidate| candidate.config != *config) {
                candidates.push(plan::candidate(config.clone(), &problem, profile));
            }
        }
        candidates
    }

    /// What the rules were made from says nothing of how they carry over.
    fn refuse_planned(&self, shapes: &[PlannedProblem]) -> Result<()> {
        let planned = self.plan.problems(&self.site.found().profile)?;
        let planned: BTreeSet<Problem> = planned.iter().map(|planned| planned.problem).collect();
        match shapes.iter().find(|shape| planned.contains(&shape.problem)) {
            None => Ok(()),
            Some(shape) => Err(Error::usage(format!(
                "{} is in the plan of {}: the document was made from it; give shapes that are not there, or \
                 --allow-planned",
                shape.problem, self.plan.family
            ))),
        }
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
        let fallback = fallback.filter(|_| source == "rule").and_then(|template| runs(template).ok());
        Question { planned: planned.clone(), source, pick, skipped, fallback }
    }

    fn evaluate(&self, bench: &mut DeviceBench<'_, '_>, question: &Question) -> Result<Evaluated> {
        let problem = question.planned.problem;
        let profile = &self.site.found().profile;
        let defaults = self.plan.defaults(profile);
        let candidates = self.candidates(question);
        let served = question.pick.iter().chain(&question.fallback);
        let must_race: Vec<Config> = defaults.iter().chain(served).cloned().collect();
        bench.turn_to(problem);
        let trials =
            search::search(bench, problem.family, &candidates, profile.multiprocessors, &must_race, &Width::default())?;
        let Some(best) = trials.first() else { return Ok(question.unanswered("no working config", None)) };
        let Some(duel) = race(bench, &candidates, best, &must_race)? else {
            return Ok(question.unanswered("the race crashed", Some(best)));
        };
        self.site.progress.best(best);
        Ok(question.judged(&duel, &best.config, &defaults))
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

/// The best against those that must race, in interleaved rounds, with a duplicate of the best.
fn race(
    bench: &mut DeviceBench<'_, '_>,
    candidates: &[Candidate],
    best: &Trial,
    must_race: &[Config],
) -> Result<Option<Vec<Trial>>> {
    let wanted = |candidate: &&Candidate| {
        candidate.program.is_ok() && (candidate.config == best.config || must_race.contains(&candidate.config))
    };
    let mut arms: Vec<&Candidate> = candidates.iter().filter(wanted).collect();
    arms.extend(candidates.iter().find(|candidate| candidate.config == best.config));
    let rounds = search::final_rounds(best.median_us.unwrap_or_default(), arms.len());
    bench.race_anew(&arms, rounds)
}

impl Question {
    fn unanswered(&self, error: &str, best: Option<&Trial>) -> Evaluated {
        Evaluated {
            family: self.planned.problem.family.name().to_string(),
            problem: format!("{} {}", self.planned.problem.shape, self.planned.problem.dtype),
            from: self.planned.from.clone(),
            group: group_of(&self.planned.problem),
            source: self.source,
            pick: self.pick.clone(),
            skipped: self.skipped.clone(),
            best: best.map(|best| best.config.clone()),
            error: Some(error.to_string()),
            ..Evaluated::default()
        }
    }

    /// Reads the race's times.
    fn judged(&self, duel: &[Trial], best: &Config, defaults: &[Config]) -> Evaluated {
        let timing = |config: &Config, null_arm: bool| {
            let found = duel.iter().find(|trial| trial.config == *config && trial.null_arm == null_arm);
            found.filter(|trial| trial.median_us.is_some()).map(timing_of)
        };
        let known = self.unanswered("", None);
        let (Some(best_timing), Some(null)) = (timing(best, false), timing(best, true)) else {
            return Evaluated { error: Some("the best config failed in the race".into()), ..known };
        };
        let noise = (pair(&null, &best_timing, 0.0).ratio - 1.0).abs().max(NOISE_FLOOR);
        let default = fastest(defaults.iter().filter_map(|config| timing(config, false)));
        let known = Evaluated {
            best: Some(best.clone()),
            best_us: Some(best_timing.median_us),
            default_us: default.as_ref().map(|default| default.median_us),
            noise: Some(noise),
            ..known
        };
        let Some(pick) = &self.pick else {
            return Evaluated { error: Some("nothing is served".into()), ..known };
        };
        let Some(pick_timing) = timing(pick, false) else {
            return Evaluated {
                error: Some("the pick does not work here".into()),
                slower_than_default: default.is_some(),
                ..known
            };
        };
        let against = |other: &Timing| pair(&pick_timing, other, noise);
        let over_default = default.as_ref().map(against);
        let other_fallback = self.fallback.as_ref().filter(|fallback| *fallback != pick);
        let over_fallback = other_fallback.and_then(|fallback| timing(fallback, false)).as_ref().map(against);
        Evaluated {
            pick_us: Some(pick_timing.median_us),
            regret: Some(if pick == best { 1.0 } else { against(&best_timing).ratio.max(1.0) }),
            over_default: over_default.map(|pair| pair.ratio),
            slower_than_default: over_default.is_some_and(|pair| pair.ratio > 1.0 + pair.noise),
            over_fallback: over_fallback.map(|pair| pair.ratio),
            slower_than_fallback: over_fallback.is_some_and(|pair| pair.ratio > 1.0 + pair.noise),
            error: None,
            ..known
        }
    }
}

fn fastest(timings: impl Iterator<Item = Timing>) -> Option<Timing> {
    timings.min_by(|one, other| one.median_us.total_cmp(&other.median_us))
}

#[cfg(test)]
mod tests;
