//! An evaluation in figures: overall, by source and by family.

use super::evaluated::{Evaluated, Skipped};
use crate::measure::{
    CrossFit, Interval, geomean, interval_of_largest, interval_of_mean, interval_of_quantile, mean, quantile, sorted,
};
use crate::plan::Alignment;
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
    /// Its 99th percentile.
    pub p99: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// How far the figures may be off.
    pub intervals: Intervals,
    /// The problem with the largest.
    pub worst: Option<String>,
    /// Problems where the pick is slower than the default by more than noise, or fails where the default works.
    pub slower_than_default: usize,
    /// Problems without a regret that the budget reached.
    pub failed: usize,
    /// Problems that it did not reach, or not finish.
    pub unfinished: usize,
    /// Problems where what is served first cannot run, so that something else was measured.
    pub served_instead: usize,
}

/// 95 % intervals of the figures: of the first three for all problems that these are a sample of, of the largest for these alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Intervals {
    /// Of the geometric mean.
    pub geomean: Interval,
    /// Of the 90th percentile.
    pub p90: Interval,
    /// Of the 99th percentile.
    pub p99: Interval,
    /// Of the largest.
    pub max: Interval,
}

impl Figures {
    /// The figures of some problems; `seed` is that of the intervals.
    pub fn of<'a>(problems: impl IntoIterator<Item = &'a Evaluated>, seed: u64) -> Self {
        let problems: Vec<&Evaluated> = problems.into_iter().collect();
        let fits: Vec<CrossFit> = problems.iter().filter_map(|problem| problem.fit.clone()).collect();
        let ln_regrets = sorted(fits.iter().map(|fit| fit.ln_ratio));
        let worst = problems
            .iter()
            .filter(|problem| problem.fit.is_some())
            .max_by(|one, other| one.ln_regret.unwrap_or(f64::NAN).total_cmp(&other.ln_regret.unwrap_or(f64::NAN)));
        let count = |holds: fn(&Evaluated) -> bool| problems.iter().filter(|problem| holds(problem)).count();
        let unfinished = count(|problem| problem.unfinished);
        Self {
            problems: problems.len(),
            geomean: mean(&ln_regrets).map(f64::exp),
            p90: quantile(&ln_regrets, 0.9).map(f64::exp),
            p99: quantile(&ln_regrets, 0.99).map(f64::exp),
            max: ln_regrets.last().copied().map(f64::exp),
            intervals: Intervals {
                geomean: interval_of_mean(&ln_regrets, seed).map(f64::exp),
                p90: interval_of_quantile(&ln_regrets, 0.9).map(f64::exp),
                p99: interval_of_quantile(&ln_regrets, 0.99).map(f64::exp),
                max: interval_of_largest(&fits).map(f64::exp),
            },
            worst: worst.map(|problem| format!("{} {}", problem.family, problem.problem)),
            slower_than_default: count(|problem| problem.slower_than_default),
            failed: problems.len() - ln_regrets.len() - unfinished,
            unfinished,
            served_instead: count(|problem| !problem.skipped.is_empty()),
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
    /// [Its fingerprint](super::fingerprint).
    pub document_sha256: String,
    /// All problems.
    pub overall: Figures,
    /// By where the pick came from.
    pub by_source: BTreeMap<&'static str, Figures>,
    /// By family.
    pub by_family: BTreeMap<String, Figures>,
    /// By whether rows are aligned.
    pub by_alignment: BTreeMap<Alignment, Figures>,
    /// How rules carry over.
    pub transfer: Transfer,
    /// Each problem, in the order of the shapes file, or of the draws.
    pub problems: Vec<Evaluated>,
}

impl Report {
    /// The report on some problems; `seed` is that of the intervals.
    pub fn new(gpu: &str, document: &str, seed: u64, problems: Vec<Evaluated>) -> Self {
        let over_fallback: Vec<f64> = problems.iter().filter_map(|problem| problem.over_fallback).collect();
        let from = |source: &str| problems.iter().filter(|problem| problem.source == source).count();
        Self {
            gpu: gpu.to_string(),
            document: document.to_string(),
            document_sha256: String::new(),
            overall: Figures::of(&problems, seed),
            by_source: by(&problems, seed, |problem| problem.source),
            by_family: by(&problems, seed, |problem| problem.family.clone()),
            by_alignment: by(&problems, seed, |problem| problem.alignment),
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

fn by<K: Ord>(problems: &[Evaluated], seed: u64, key: impl Fn(&Evaluated) -> K) -> BTreeMap<K, Figures> {
    let mut parts: BTreeMap<K, Vec<&Evaluated>> = BTreeMap::new();
    for problem in problems {
        parts.entry(key(problem)).or_default().push(problem);
    }
    parts.into_iter().map(|(key, problems)| (key, Figures::of(problems, seed))).collect()
}

/// A table of the problems, one of the figures, and how rules carry over.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "family",
            "problem",
            "source",
            "pick us",
            "best us",
            "ln regret",
            "95 %",
            "vs default",
            "pick",
        ]);
        for problem in &self.problems {
            let pick = problem.pick.as_ref().map(ToString::to_string);
            table.add_row([
                problem.family.clone(),
                problem.problem.clone(),
                problem.source.to_string(),
                number(problem.pick_us, 1),
                number(problem.best_us, 1),
                problem.error.clone().unwrap_or_else(|| signed(problem.ln_regret)),
                problem.ln_regret_interval.map_or_else(String::new, |interval| between(interval, signed)),
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
            "95 %",
            "p90",
            "95 %",
            "p99",
            "95 %",
            "max",
            "95 %",
            "slower than default",
            "failed",
            "unfinished",
            "served instead",
        ]);
        let families = self.by_family.iter().map(|(family, figures)| (family.as_str(), figures));
        let sources = self.by_source.iter().map(|(source, figures)| (*source, figures));
        let alignments = self.by_alignment.iter().map(|(alignment, figures)| (alignment.name(), figures));
        let all = std::iter::once(("overall", &self.overall)).chain(sources).chain(families).chain(alignments);
        for (name, figures) in all {
            let three = |value| number(value, 3);
            let off = |interval| if figures.geomean.is_some() { between(interval, three) } else { String::new() };
            table.add_row([
                name.to_string(),
                figures.problems.to_string(),
                three(figures.geomean),
                off(figures.intervals.geomean),
                three(figures.p90),
                off(figures.intervals.p90),
                three(figures.p99),
                off(figures.intervals.p99),
                three(figures.max),
                off(figures.intervals.max),
                figures.slower_than_default.to_string(),
                figures.failed.to_string(),
                figures.unfinished.to_string(),
                figures.served_instead.to_string(),
            ]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        if let Some(worst) = &self.overall.worst {
            writeln!(out, "the largest regret is that of {worst}")?;
        }
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

fn signed(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:+.4}"))
}

/// An interval for people; `?` where it has no bound.
fn between(interval: Interval, text: impl Fn(Option<f64>) -> String) -> String {
    let bound = |bound: Option<f64>| if bound.is_some() { text(bound) } else { "?".to_string() };
    format!("{} … {}", bound(interval.low), bound(interval.high))
}
