//! Reading plans and shapes files, with the line of whatever is wrong.

use super::domain::{self, Limits, Purpose};
use super::problem::PlannedProblem;
use super::space::{self, Exclusion, Space};
use crate::error::{Context, Error, Result};
use crate::families::manifest::{RawExclusion, RawProblem, RawRandom, RawSpace, When};
use crate::families::{self, manifest};
use crate::heuristics::Formula;
use crate::model::{Config, Family, Problem};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    #[serde(default)]
    problem: Vec<Spanned<RawProblem>>,
    random: Option<Spanned<RawRandom>>,
    #[serde(default)]
    space: BTreeMap<String, RawSpace>,
    /// What the family is, which [`families::manifest`] reads.
    #[serde(rename = "family")]
    _family: Option<IgnoredAny>,
    #[serde(rename = "tensor")]
    _tensor: Option<IgnoredAny>,
    #[serde(rename = "reference")]
    _reference: Option<IgnoredAny>,
    #[serde(rename = "kernel")]
    _kernel: Option<IgnoredAny>,
    #[serde(rename = "callable")]
    _callable: Option<IgnoredAny>,
    #[serde(rename = "model")]
    _model: Option<IgnoredAny>,
}

/// The text being read and what to call it.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    /// `message`, at the line of byte `offset`.
    fn error(&self, offset: usize, message: impl std::fmt::Display) -> Error {
        let line = 1 + self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
        Error::usage(format!("{}:{line}: {message}", self.name))
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        toml::from_str(self.text)
            .map_err(|error| self.error(error.span().map_or(0, |span| span.start), error.message().replace('\n', "; ")))
    }

    fn problem(&self, family: Family, raw: &Spanned<RawProblem>) -> Result<PlannedProblem> {
        let fields = raw.get_ref();
        let dtype = match &fields.dtype {
            None => family.dtypes()[0],
            Some(name) => name.parse().map_err(|error| self.error(raw.span().start, error))?,
        };
        let dimensions = fields.dimensions.iter().map(|(name, value)| match value.as_integer() {
            Some(extent) => Ok((name.as_str(), extent)),
            None => Err(self.error(raw.span().start, format!("{name} = {value} is no whole number"))),
        });
        let dimensions = dimensions.collect::<Result<Vec<_>>>()?;
        let problem = Problem::new(family, &dimensions, dtype).map_err(|error| self.error(raw.span().start, error))?;
        Ok(PlannedProblem { problem, from: fields.from.clone() })
    }

    fn problems(&self, family: Family, raw: &[Spanned<RawProblem>]) -> Result<Vec<PlannedProblem>> {
        raw.iter().map(|problem| self.problem(family, problem)).collect()
    }

    fn space(&self, family: Family, kind: &str, raw: &RawSpace) -> Result<Space> {
        let kind_field = space::kind_field(kind)
            .map_err(|error| self.error(self.text.find(&format!("[space.{kind}")).unwrap_or(0), error))?;
        let default = space::config(raw.default.get_ref(), &kind_field, family)
            .map_err(|error| self.error(raw.default.span().start, error))?;
        let (of_knobs, of_problems): (Vec<Formula>, Vec<Formula>) =
            self.conditions(family, &raw.exclude)?.into_iter().partition(families::is_of_knobs);
        let patterns = raw.exclude.iter().filter_map(|exclusion| match &exclusion.get_ref().when {
            When::Pattern(fields) => Some((exclusion.span().start, fields)),
            When::Condition(_) => None,
        });
        let mut exclusions: Vec<_> = of_knobs.iter().map(Exclusion::Condition).collect();
        for (at, fields) in patterns {
            space::check_fields(fields, family).map_err(|error| self.error(at, error))?;
            exclusions.push(Exclusion::Pattern(fields));
        }
        let listed = raw.configs.iter().map(|config| {
            let read = space::config(config.get_ref(), &kind_field, family);
            read.map_err(|error| self.error(config.span().start, error))
        });
        let mut configs = listed.collect::<Result<Vec<_>>>()?;
        if let Some(axes) = &raw.axes {
            let product = space::expand(axes.get_ref(), &exclusions, &kind_field, family);
            let product = product.map_err(|error| self.error(axes.span().start, error))?;
            let listed: BTreeSet<Config> = configs.iter().cloned().collect();
            configs.extend(product.into_iter().filter(|config| !listed.contains(config)));
        } else if configs.is_empty() {
            return Err(self.error(raw.default.span().start, format!("[space.{kind}] has neither axes nor configs")));
        }
        let problems = raw.problem.as_deref().map(|raw| self.problems(family, raw)).transpose()?;
        let mma = |name: &Spanned<String>| name.get_ref().parse().map_err(|error| self.error(name.span().start, error));
        let superseded_by = raw.superseded_by.as_ref().map(mma).transpose()?;
        Ok(Space { default, configs, exclusions: of_problems, superseded_by, problems })
    }

    /// The exclusions that are expressions.
    fn conditions(&self, family: Family, raw: &[Spanned<RawExclusion>]) -> Result<Vec<Formula>> {
        let condition = |exclusion: &Spanned<RawExclusion>| match &exclusion.get_ref().when {
            When::Pattern(_) => None,
            When::Condition(text) => {
                let expanded = families::spec(family).expand(text);
                let read = expanded.and_then(|text| Formula::parse(&text, &families::names(family)));
                Some(read.map_err(|error| self.error(exclusion.span().start, error)))
            }
        };
        raw.iter().filter_map(condition).collect()
    }
}

/// Problems that anybody draws at random: many times what a GPU measures in a day.
pub const MOST_RANDOM_PROBLEMS: usize = 100_000;

/// What a plan's text says.
pub(super) struct Contents {
    /// The problems of every space that brings none of its own.
    pub(super) problems: Vec<PlannedProblem>,
    /// The spaces by kind.
    pub(super) spaces: BTreeMap<String, Space>,
}

/// Parses a plan; `name` is what messages call it.
pub(super) fn parse(family: Family, text: &str, name: &str) -> Result<Contents> {
    let source = Source { name, text };
    manifest::check_shipped(family, text, name)?;
    let raw: RawPlan = source.parse()?;
    let mut problems = source.problems(family, &raw.problem)?;
    if let Some(random) = raw.random {
        let (at, RawRandom { problems: count, variants, seed }) = (random.span().start, *random.get_ref());
        for (name, count) in [("problems", count), ("variants", variants)] {
            if count > MOST_RANDOM_PROBLEMS {
                return Err(source.error(at, format!("random {name} = {count}: more than {MOST_RANDOM_PROBLEMS}")));
            }
        }
        if variants > 0 && family.variants().is_empty() {
            return Err(source.error(at, format!("random variants = {variants}: {family} has none")));
        }
        let written: Vec<Problem> = problems.iter().map(|planned| planned.problem).collect();
        problems.extend(domain::draw_plain(family, Purpose::Plan, seed, Limits::GPU, written.clone()).take(count));
        problems.extend(domain::draw_variants(family, Purpose::Plan, seed, Limits::GPU, written).take(variants));
    }
    let spaces = raw
        .space
        .iter()
        .map(|(kind, raw)| Ok((kind.clone(), source.space(family, kind, raw)?)))
        .collect::<Result<_>>()?;
    Ok(Contents { problems, spaces })
}

/// Reads a shapes file: the problems of a plan without its spaces.
///
/// # Errors
/// Where the file cannot be read or holds something else; the message names file and line.
pub fn read_shapes(family: Family, path: &Path) -> Result<Vec<PlannedProblem>> {
    let name = path.display().to_string();
    let text = manifest::read_text(path).context(|| format!("shapes file {name}"))?;
    let plan = parse(family, &text, &name)?;
    if plan.problems.is_empty() {
        return Err(Error::usage(format!("shapes file {name}: it has no [[problem]]")));
    }
    Ok(plan.problems)
}
