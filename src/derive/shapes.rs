//! The shapes that an entry answers for, measured or not: its config has to run on all of them.

use super::table::{Row, Table};
use crate::families;
use crate::heuristics::{Bucket, bucket_of, class_groups, greatest_common_divisor, group_of};
use crate::model::{Config, Dtype, Family, GpuProfile, Problem};
use crate::plan::{Limits, Purpose, draw_plain, draw_variants};
use std::collections::{BTreeMap, BTreeSet};

/// Problems that are drawn of a family's domain, in each of its types.
const DRAWS: usize = 20_000;
/// The seed of these draws: any will do, but the same trials are to give the same document.
const SEED: u64 = 1;
/// Draws that a bucket or a group is judged by, beside what was measured in it and its largest corner.
const MOST_OF_A_PLACE: usize = 48;

/// A class's configs as its family knows them.
pub(super) struct Known<'t> {
    pub(super) family: Family,
    pub(super) profile: &'t GpuProfile,
    /// By index in the table; none where the family takes it on no problem, as of another version or another tool.
    pub(super) configs: Vec<Option<Config>>,
}

impl<'t> Known<'t> {
    /// None where the class is of no family that ships, or was measured on the host, whose kernels refuse no shape.
    pub(super) fn of(table: &Table, profile: &'t GpuProfile) -> Option<Self> {
        let family: Family = table.class.parse().ok().filter(|_| !profile.is_cpu())?;
        let known = |template: &_| {
            let config: Config = serde_json::from_value(serde_json::Value::Object(Clone::clone(template))).ok()?;
            families::spec(family).check(&config, profile).ok().map(|()| config)
        };
        let configs = table.configs.iter().map(|config| known(&config.template)).collect();
        Some(Self { family, profile, configs })
    }

    /// Whether any config runs on a problem.
    fn is_workable(&self, problem: &Problem) -> bool {
        (0..self.configs.len()).any(|config| self.is_legal(config, problem) == Some(true))
    }

    /// Whether a config runs on a problem; none where the family does not know the config.
    pub(super) fn is_legal(&self, config: usize, problem: &Problem) -> Option<bool> {
        let config = self.configs.get(config)?.as_ref()?;
        Some(families::spec(self.family).meets_conditions(config, problem, self.profile))
    }
}

/// What an entry answers for: a bucket, a group or a whole class.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    shapes: Vec<Problem>,
    /// The configs that the family refuses on one of the shapes, each with the first such.
    refused: BTreeMap<usize, Problem>,
    /// The configs that were raced there and may not be chosen.
    barred: BTreeSet<usize>,
}

impl Place {
    /// Of its shapes, and of those at its edges, which few problems lie at.
    fn new(shapes: Vec<Problem>, edges: &[Problem], rows: &[&Row], known: &Known) -> Self {
        let raced: BTreeSet<usize> = rows
            .iter()
            .flat_map(|row| row.cells())
            .filter(|cell| cell.ln_slowdown.is_some())
            .map(|cell| cell.config)
            .collect();
        let refused_on = |among: &[Problem]| -> BTreeMap<usize, Problem> {
            let refusing = |config| among.iter().find(|shape| known.is_legal(config, shape) == Some(false));
            raced.iter().filter_map(|config| Some((*config, *refusing(*config)?))).collect()
        };
        let (on_shapes, mut refused) = (refused_on(&shapes), refused_on(edges));
        // One that runs everywhere is chosen where there is any, else one that runs everywhere but at the edges.
        let everywhere: BTreeSet<usize> = on_shapes.keys().chain(refused.keys()).copied().collect();
        let inside: BTreeSet<usize> = on_shapes.keys().copied().collect();
        let barred = [everywhere, inside].into_iter().find(|barred| barred.len() < raced.len()).unwrap_or_default();
        refused.extend(on_shapes);
        Self { shapes, refused, barred }
    }

    /// Whether a config that was raced there may be chosen: one that runs on all shapes, as long as there is any.
    pub(super) fn allows(&self, config: usize) -> bool {
        !self.barred.contains(&config)
    }

    /// A shape that a config is refused on.
    pub(super) fn refusing(&self, config: usize) -> Option<&Problem> {
        self.refused.get(&config)
    }
}

/// The places of a class.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) buckets: BTreeMap<Bucket, Place>,
    pub(super) groups: BTreeMap<&'static str, Place>,
    /// All groups together.
    pub(super) class: Place,
}

impl Places {
    /// Those of a class, judged by what was measured, draws of the family's domain, the corner that has the largest extent of any of
    /// these along each dimension, and the edges near it.
    pub(super) fn of(table: &Table, known: Option<&Known>) -> Self {
        let all: Vec<&Row> = table.rows.iter().collect();
        let mut buckets: BTreeMap<&Bucket, Sample> =
            table.rows.iter().map(|row| (&row.facts.bucket, Sample::default())).collect();
        let mut groups: BTreeMap<&'static str, Sample> =
            class_groups(table.class).iter().map(|group| (*group, Sample::default())).collect();
        let mut steps = Steps::default();
        if let Some(known) = known.filter(|known| known.configs.iter().any(Option::is_some)) {
            let measured: Vec<Problem> = table.rows.iter().filter_map(|row| row.facts.problem).collect();
            let dtypes: BTreeSet<Dtype> = measured.iter().map(|problem| problem.dtype).collect();
            let has_variants = measured.iter().any(|problem| !problem.shape.is_plain());
            let variants = draw_variants(known.family, Purpose::Plan, SEED, Limits::GPU, []);
            let drawn: Vec<Problem> = draw_plain(known.family, Purpose::Plan, SEED, Limits::GPU, [])
                .take(DRAWS)
                .chain(variants.take(if has_variants { DRAWS } else { 0 }))
                .flat_map(|drawn| dtypes.iter().map(move |dtype| Problem { dtype: *dtype, ..drawn.problem }))
                .collect();
            for (problems, most) in [(measured, usize::MAX), (drawn, MOST_OF_A_PLACE)] {
                for problem in problems {
                    steps.add(&problem);
                    if let Some(bucket) = buckets.get_mut(&bucket_of(&problem)) {
                        bucket.add(problem, most);
                    }
                    if let Some(group) = groups.get_mut(group_of(&problem)) {
                        group.add(problem, most);
                    }
                }
            }
        }
        let place = |sample: Sample, rows: &[&Row], is_there: &dyn Fn(&Problem) -> bool| match known {
            Some(known) => {
                let edges: Vec<Problem> =
                    sample.edges(is_there, &steps).into_iter().filter(|edge| known.is_workable(edge)).collect();
                Place::new(sample.with_corner(), &edges, rows, known)
            }
            None => Place::default(),
        };
        let of = |is_there: &dyn Fn(&Row) -> bool| -> Vec<&Row> {
            all.iter().copied().filter(|row| is_there(row)).collect()
        };
        let groups: BTreeMap<&'static str, Place> = groups
            .into_iter()
            .map(|(group, sample)| {
                let rows = of(&|row| row.facts.group == Some(group));
                // What is borrowed where nothing was measured may come from anywhere.
                let rows = if rows.is_empty() { &all } else { &rows };
                (group, place(sample, rows, &|problem| group_of(problem) == group))
            })
            .collect();
        let shapes = groups.values().flat_map(|group| group.shapes.iter().copied()).collect();
        let class = known.map_or_else(Place::default, |known| Place::new(shapes, &[], &all, known));
        let buckets = buckets
            .into_iter()
            .map(|(bucket, sample)| {
                let rows = of(&|row| row.facts.bucket == *bucket);
                (bucket.clone(), place(sample, &rows, &|problem| bucket_of(problem) == *bucket))
            })
            .collect();
        Self { buckets, groups, class }
    }
}

/// The plain problem of a family with these extents.
fn plain(family: Family, extents: impl IntoIterator<Item = u64>, dtype: Dtype) -> Option<Problem> {
    let extents = extents.into_iter().map(|extent| extent as i64);
    let dimensions: Vec<(&str, i64)> = family.dimensions().iter().copied().zip(extents).collect();
    Problem::new(family, &dimensions, dtype).ok()
}

/// A problem's extents without those of its variants.
fn plain_extents(problem: &Problem) -> Vec<u64> {
    problem.shape.extents().iter().copied().take(problem.family.dimensions().len()).collect()
}

/// What all extents along a dimension are multiples of: heads are in whole vectors wherever a family's domain has them.
#[derive(Default)]
struct Steps(Vec<u64>);

impl Steps {
    fn add(&mut self, problem: &Problem) {
        let extents = plain_extents(problem);
        self.0.resize(extents.len(), 0);
        for (step, extent) in self.0.iter_mut().zip(extents) {
            *step = greatest_common_divisor(*step, extent);
        }
    }

    fn of(&self, place: usize) -> u64 {
        self.0.get(place).copied().unwrap_or_default().max(1)
    }
}

/// Shapes of a place.
#[derive(Default)]
struct Sample {
    shapes: Vec<Problem>,
    /// Draws that are among them.
    drawn: usize,
    /// The largest extents, also of those that are not.
    largest: Option<Problem>,
}

impl Sample {
    fn add(&mut self, problem: Problem, most_drawn: usize) {
        let largest = self.largest.get_or_insert(problem);
        // Variants need no more than the plain problem of the same dimensions.
        let extents = largest.shape.extents().iter().zip(problem.shape.extents()).map(|(one, other)| *one.max(other));
        if let Some(corner) = plain(problem.family, extents, largest.dtype.max(problem.dtype)) {
            *largest = corner;
        }
        if self.drawn < most_drawn {
            self.shapes.push(problem);
            self.drawn += usize::from(most_drawn < usize::MAX);
        }
    }

    /// The problems at which a place ends beyond its largest: along each dimension the last one, and the one before, whose rows are
    /// aligned to nothing. Where a place has no end, its largest extents stand for that.
    fn edges(&self, is_there: &dyn Fn(&Problem) -> bool, steps: &Steps) -> Vec<Problem> {
        // The corner may be another place's.
        let corner = self.largest.filter(is_there);
        let Some(largest) = corner.or_else(|| self.shapes.iter().copied().max()) else { return Vec::new() };
        let extents = plain_extents(&largest);
        let with = |changed: &[(usize, u64)]| {
            let mut extents = extents.clone();
            for (place, extent) in changed {
                extents[*place] = *extent;
            }
            plain(largest.family, extents, largest.dtype).filter(is_there)
        };
        let last = |place: usize| {
            let (step, mut inside) = (steps.of(place), extents[place]);
            let mut outside = 2 * inside;
            if with(&[(place, outside)]).is_some() {
                return inside;
            }
            while outside - inside > 1 {
                let middle = inside.midpoint(outside);
                if with(&[(place, middle)]).is_some() { inside = middle } else { outside = middle }
            }
            inside - inside % step
        };
        let ends: Vec<(usize, u64)> = (0..extents.len()).map(|place| (place, last(place))).collect();
        let before: Vec<(usize, u64)> =
            ends.iter().map(|(place, end)| (*place, end.saturating_sub(steps.of(*place)))).collect();
        let alone = ends.iter().chain(&before).map(|edge| vec![*edge]);
        alone.chain([before.clone()]).filter_map(|changed| with(&changed)).collect()
    }

    fn with_corner(self) -> Vec<Problem> {
        self.shapes.into_iter().chain(self.largest).collect()
    }
}
