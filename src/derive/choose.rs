//! Choosing configs for a set of problems: least geometric mean slowdown, ties by a fixed order, and what the same choice
//! would have been worth on a problem it had not seen.

use super::compare::{Comparison, tie_width};
use super::table::{Row, repeat_noise};
use super::validation::LeaveOneOut;
use crate::heuristics::{RankedTemplate, Template, by_rank};
use crate::measure::{geomean, quantile, sorted};
use serde_json::Map;
use std::cmp::Ordering;

/// Most templates of a rule: as many as whoever tries what a document offers has time for, and as the lookup answers.
const MOST_TEMPLATES: usize = 3;

/// What all the problems of a group weigh together where a bucket's config is chosen, each problem of the bucket being 1: a few
/// problems alone sometimes choose what is best on them by luck. Found by leaving problems out of sweeps on an H200.
pub(super) const GROUP_WEIGHT: f64 = 0.1;

/// What a config must do on the problems that it is chosen for, beside being eligible. It is told in one pass over the times, so
/// that choosing for thousands of problems with one left out each time stays fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bar {
    /// Nothing.
    None,
    /// Be nowhere slower than a default by more than noise.
    KeepsUpWithDefaults,
}

/// The config to serve on the problems `rows`, by its place in the table; nothing where none qualifies.
///
/// A config's slowdown on a problem is its time over that of the problem's winner. The config with the least geometric mean
/// slowdown is the best, so logarithms are added up:
///
/// ```text
/// gain(config) = Σ over rows of min(ln slowdown, taken) − taken  +  weight · Σ over others of ln slowdown − ln missing
/// ```
///
/// - `taken`, a logarithm for each row, is what a reader of the configs chosen before gets there: a further one only helps
///   where it is faster. With none chosen before it is what a missing time counts as ([`Row::ln_missing`], at least a factor 2), so
///   that a config which was never timed on a problem gains nothing there.
/// - `others` are the problems of the rows' groups. All together they weigh as much as [`GROUP_WEIGHT`] of one row: where two
///   configs differ by luck on a few rows, the group decides.
/// - Only configs that raced on some row, are `eligible` (they run on all shapes that are answered for) and meet the `bar` may
///   be chosen, and of these only those that failed on the fewest rows.
/// - What lies within the noise of the best is one tie class. Its first config in the table's order, simpler launches before others,
///   is chosen, so that the next sweep, with other luck, chooses it too.
fn choose_beside(
    rows: &[&Row],
    others: &[&Row],
    taken: &[f64],
    configs: usize,
    bar: Bar,
    eligible: impl Fn(usize) -> bool,
) -> Option<usize> {
    let weight = GROUP_WEIGHT / others.len().max(1) as f64;
    let all = rows.len() as f64 + weight * others.len() as f64;
    // By config. Negative is faster than what is there.
    let mut gains = vec![0.0; configs];
    let mut failures = vec![0_usize; configs];
    let mut raced = vec![false; configs];
    let mut barred = vec![false; configs];
    for (row, taken) in rows.iter().zip(taken) {
        for cell in row.cells() {
            barred[cell.config] |= bar == Bar::KeepsUpWithDefaults && cell.slower_than_default;
            failures[cell.config] += usize::from(!cell.works());
            if let Some(ln_slowdown) = cell.ln_slowdown {
                raced[cell.config] = true;
                gains[cell.config] += ln_slowdown.min(*taken) - taken;
            }
        }
    }
    for row in others {
        for cell in row.cells() {
            gains[cell.config] += weight * cell.ln_slowdown.map_or(0.0, |ln_slowdown| ln_slowdown - row.ln_missing);
        }
    }
    let is_candidate = |config: &usize| raced[*config] && !barred[*config] && eligible(*config);
    let candidates: Vec<usize> = (0..configs).filter(is_candidate).collect();
    let fewest = candidates.iter().map(|config| failures[*config]).min()?;
    let candidates = candidates.into_iter().filter(|config| failures[*config] == fewest);
    let best = candidates.clone().map(|config| gains[config]).min_by(f64::total_cmp)?;
    // The noise of a mean over the rows, as a sum over all.
    let tie = tie_width(rows).ln_1p() * all;
    candidates.into_iter().find(|config| gains[*config] <= best + tie)
}

/// The one config to use on all of `rows`, with an eye to `others`.
pub(super) fn choose(
    rows: &[&Row],
    others: &[&Row],
    configs: usize,
    bar: Bar,
    eligible: impl Fn(usize) -> bool,
) -> Option<usize> {
    let missing: Vec<f64> = rows.iter().map(|row| row.ln_missing).collect();
    choose_beside(rows, others, &missing, configs, bar, eligible)
}

/// The configs that `first` ties with on all of `rows`, at whatever stage they were timed.
pub(super) fn ties(rows: &[&Row], first: usize) -> Vec<usize> {
    let repeat_noise = repeat_noise(rows);
    let tried = rows.first().into_iter().flat_map(|row| row.cells()).map(|cell| cell.config);
    let ties = |other: usize| Comparison::over(rows, first, |_| Some(other)).is_tie(repeat_noise);
    tried.filter(|other| *other != first && ties(*other)).collect()
}

/// Whether a config is nowhere among `rows` slower than a default by more than noise.
pub(super) fn keeps_up_with_defaults(rows: &[&Row], config: usize) -> bool {
    rows.iter().all(|row| row.cell(config).is_none_or(|cell| !cell.slower_than_default))
}

/// `first` and up to two more, each the one that helps most beside those before, for as long as one helps by more than
/// noise. One that readers would rank before `first` is left out, since `first` is what was validated.
pub(super) fn complement(
    rows: &[&Row],
    first: usize,
    configs: &[Template],
    eligible: impl Fn(usize) -> bool,
) -> Vec<RankedTemplate> {
    let ranked = |config: usize| ranked_template(rows, config, configs[config].clone());
    let mut templates = vec![ranked(first)];
    let mut chosen = vec![first];
    let mut taken: Vec<f64> = rows.iter().map(|row| row.ln_missing).collect();
    while chosen.len() < MOST_TEMPLATES {
        let latest = chosen[chosen.len() - 1];
        for (row, taken) in rows.iter().zip(&mut taken) {
            *taken = ln_slowdown(row, latest).min(*taken);
        }
        let behind_first = |config: usize| by_rank(&templates[0], &ranked(config)) != Ordering::Greater;
        let fresh = |config: usize| !chosen.contains(&config) && eligible(config) && behind_first(config);
        let Some(next) = choose_beside(rows, &[], &taken, configs.len(), Bar::None, fresh) else { break };
        let gain: f64 = rows.iter().zip(&taken).map(|(row, taken)| taken - ln_slowdown(row, next).min(*taken)).sum();
        if gain <= tie_width(rows).ln_1p() * rows.len() as f64 {
            break;
        }
        templates.push(ranked(next));
        chosen.push(next);
    }
    templates[1..].sort_by(by_rank);
    templates
}

/// The logarithm of a config's slowdown, or of what a missing one counts as.
fn ln_slowdown(row: &Row, config: usize) -> f64 {
    row.cell(config).and_then(|cell| cell.ln_slowdown).unwrap_or(row.ln_missing)
}

/// The geometric mean slowdown of a pick for each row, missing ones counted as such.
pub(super) fn geomean_slowdown(rows: &[&Row], pick: impl Fn(usize) -> Option<usize>) -> Option<f64> {
    let slowdown =
        |(index, row): (usize, &&Row)| pick(index).map_or(row.ln_missing, |config| ln_slowdown(row, config)).exp();
    geomean(&rows.iter().enumerate().map(slowdown).collect::<Vec<_>>())
}

/// A template with its rank metadata over `rows`.
fn ranked_template(rows: &[&Row], config: usize, template: Template) -> RankedTemplate {
    let covered: Vec<(f64, f64)> =
        rows.iter().filter_map(|row| Some((row.slowdown(config)?, row.noise_of(config)))).collect();
    let slowdowns = sorted(covered.iter().map(|(slowdown, _)| *slowdown));
    let wins = covered.iter().filter(|(slowdown, noise)| *slowdown <= 1.0 + noise).count();
    RankedTemplate {
        template,
        shape_coverage: Some(covered.len() as f64),
        win_count: Some(wins as f64),
        geomean_slowdown: geomean(&slowdowns).map(round),
        median_slowdown: quantile(&slowdowns, 0.5).map(round),
        p90_slowdown: quantile(&slowdowns, 0.9).map(round),
        extra: Map::new(),
    }
}

/// As the document rounds, so that templates rank here as they do in the file.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Leave-one-shape-out: each problem served by what `choose` makes of the other `rows`, and of the `others` without it. `None` for a
/// single problem.
pub(super) fn leave_one_out(
    rows: &[&Row],
    others: &[&Row],
    choose: impl Fn(&[&Row], &[&Row]) -> Option<usize>,
) -> Option<LeaveOneOut> {
    if rows.len() < 2 {
        return None;
    }
    let picks: Vec<Option<usize>> = (0..rows.len())
        .map(|left_out| {
            let seen = [&rows[..left_out], &rows[left_out + 1..]].concat();
            let others: Vec<&Row> = others.iter().copied().filter(|row| !std::ptr::eq(*row, rows[left_out])).collect();
            choose(&seen, &others)
        })
        .collect();
    let slowdown = |(row, pick): (&&Row, &Option<usize>)| row.slowdown((*pick)?);
    let covered = sorted(rows.iter().zip(&picks).filter_map(slowdown));
    Some(LeaveOneOut {
        geomean_slowdown: geomean_slowdown(rows, |index| picks[index]),
        max_slowdown: covered.last().copied(),
        problems: rows.len(),
        uncovered: rows.len() - covered.len(),
    })
}
