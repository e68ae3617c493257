//! An evaluation in figures: overall, by source and by family.

use super::{Evaluated, Skipped};
use crate::measure::{geomean, quantile, sorted};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What a set of problems came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Problems.
    pub problems: usize,
    /// Geometric mean of the regret of those that have one.
    pub geomean: Option<f64>,
    /// Its 90th percentile.
    pub p90: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// Problems where the pick is slower than the default by more than noise, or fails where the default works.
    pub slower_than_default: usize,
    /// Problems without a regret that the budget reached.
    pub failed: usize,
    /// Problems that it did not reach, or not finish.
    pub unfinished: usize,
    /// Problems where what is served first cannot run, so that something else was measured.
    pub served_instead: usize,
}

impl Figures {
    /// The figures of some problems.
    pub fn of<'a>(problems: impl IntoIterator<Item = &'a Evaluated>) -> Self {
        let problems: Vec<&Evaluated> = problems.into_iter().collect();
        let regrets = sorted(problems.iter().filter_map(|problem| problem.regret));
        let unfinished = problems.iter().filter(|problem| problem.unfinished).count();
        Self {
            problems: problems.len(),
            geomean: geomean(&regrets),
            p90: quantile(&regrets, 0.9),
            max: regrets.last().copied(),
            slower_than_default: problems.iter().filter(|problem| problem.slower_than_default).count(),
            failed: problems.len() - regrets.len() - unfinished,
            unfinished,
            served_instead: problems.iter().filter(|problem| !problem.skipped.is_empty()).count(),
        }
    }
}

/// How rules carry over to problems of their buckets that they were not made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Transfer {
    /// Problems whose bucket has a rule.
    pub with_rule: usize,
    /// Problems left to their group's fallback.
    pub with_fallback: usize,
    /// Geometric mean of a rule's time over that of the fallback it stands in for, where these are different configs.
    pub rule_over_fallback: Option<f64>,
    /// Problems where the rule is slower than that fallback by more than noise.
    pub slower_than_fallback: usize,
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The GPU's short name.
    pub gpu: String,
    /// The document that was evaluated.
    pub document: String,
    /// All problems.
    pub overall: Figures,
    /// By where the pick came from.
    pub by_source: BTreeMap<&'static str, Figures>,
    /// By family.
    pub by_family: BTreeMap<String, Figures>,
    /// How rules carry over.
    pub transfer: Transfer,
    /// Each problem, in the order of the shapes file.
    pub problems: Vec<Evaluated>,
}

impl Report {
    /// The report on some problems.
    pub fn new(gpu: &str, document: &str, problems: Vec<Evaluated>) -> Self {
        let over_fallback: Vec<f64> = problems.iter().filter_map(|problem| problem.over_fallback).collect();
        let from = |source: &str| problems.iter().filter(|problem| problem.source == source).count();
        Self {
            gpu: gpu.to_string(),
            document: document.to_string(),
            overall: Figures::of(&problems),
            by_source: by(&problems, |problem| problem.source),
            by_family: by(&problems, |problem| problem.family.clone()),
            transfer: Transfer {
                with_rule: from("rule"),
                with_fallback: from("fallback"),
                rule_over_fallback: geomean(&over_fallback),
                slower_than_fallback: problems.iter().filter(|problem| problem.slower_than_fallback).count(),
            },
            problems,
        }
    }
}

fn by<K: Ord>(problems: &[Evaluated], key: impl Fn(&Evaluated) -> K) -> BTreeMap<K, Figures> {
    let mut parts: BTreeMap<K, Vec<&Evaluated>> = BTreeMap::new();
    for problem in problems {
        parts.entry(key(problem)).or_default().push(problem);
    }
    parts.into_iter().map(|(key, problems)| (key, Figures::of(problems))).collect()
}

/// A table of the problems, one of the figures, and how rules carry over.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["family", "problem", "source", "pick us", "best us", "regret", "vs default", "pick"]);
        for problem in &self.problems {
            let pick = problem.pick.as_ref().map(ToString::to_string);
            table.add_row([
                problem.family.clone(),
                problem.problem.clone(),
                problem.source.to_string(),
                number(problem.pick_us, 1),
                number(problem.best_us, 1),
                problem.error.clone().unwrap_or_else(|| number(problem.regret, 3)),
                number(problem.over_default, 3) + if problem.slower_than_default { " slower" } else { "" },
                pick.unwrap_or_default(),
            ]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        for problem in &self.problems {
            for Skipped { source, template, reason } in &problem.skipped {
                let template = serde_json::Value::Object(template.clone());
                writeln!(
                    out,
                    "{} {}: the {source}'s {template} cannot run: {reason}",
                    problem.family, problem.problem
                )?;
            }
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "regret",
            "problems",
            "geomean",
            "p90",
            "max",
            "slower than default",
            "failed",
            "unfinished",
            "served instead",
        ]);
        let families = self.by_family.iter().map(|(family, figures)| (family.as_str(), figures));
        let sources = self.by_source.iter().map(|(source, figures)| (*source, figures));
        for (name, figures) in std::iter::once(("overall", &self.overall)).chain(sources).chain(families) {
            table.add_row([
                name.to_string(),
                figures.problems.to_string(),
                number(figures.geomean, 3),
                number(figures.p90, 3),
                number(figures.max, 3),
                figures.slower_than_default.to_string(),
                figures.failed.to_string(),
                figures.unfinished.to_string(),
                figures.served_instead.to_string(),
            ]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        let transfer = &self.transfer;
        write!(
            out,
            "{} problems in buckets with a rule, {} left to a fallback",
            transfer.with_rule, transfer.with_fallback
        )?;
        match transfer.rule_over_fallback {
            None => Ok(()),
            Some(ratio) => write!(
                out,
                "; rules take {ratio:.3} of their fallbacks' time and are slower on {}",
                transfer.slower_than_fallback
            ),
        }
    }
}

fn number(value: Option<f64>, places: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.places$}"))
}
