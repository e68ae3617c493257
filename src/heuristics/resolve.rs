//! What a class with a model answers for an exact shape: what was measured for it, else whichever of the model, the rule
//! of its bucket and the fallback of its group did best on problems left out.
//!
//! Regrets are compared in one cell: the closest to the shape's group and alignment in which any of the three was judged.
//! What was not judged there comes after what was; among equals the model is before the rule, since it sees the exact
//! shape, and the rule before the fallback. Configs that the model's conditions say cannot run the shape are passed over,
//! whoever proposes them; who is left with none is passed over too.

use super::cache::Cache;
use super::candidates::Candidates;
use super::columns::ModelConfig;
use super::entries::{Entries, Found};
use super::extents::Extents;
use super::fitted::Regret;
use super::model::Model;
use super::query::Query;
use super::template::Template;
use serde_json::Value;
use std::ops::Range;
use std::sync::OnceLock;

/// The most configs that an exact shape is answered.
const MOST_CONFIGS: usize = 3;

/// A class's model with what was resolved by it. It stays JSON text until the class is first asked for.
#[derive(Debug)]
pub(super) struct Resolver {
    /// Where in the document's text the model is.
    part: Range<usize>,
    model: OnceLock<Result<Model, String>>,
    resolved: Cache<Key, Resolution>,
}

/// A shape: its dimensions and the place of its type among those that the model knows.
type Key = (Extents, usize);

/// Which configs answer, and whose they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolution {
    pub(super) found: Found,
    pub(super) picks: Picks,
}

/// Up to three configs, best first, by their places among the model's or the entry's own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Picks {
    count: usize,
    places: [usize; MOST_CONFIGS],
    times_us: [f64; MOST_CONFIGS],
}

impl Picks {
    /// The first three, each with the time measured or expected, if any.
    fn new(picks: impl Iterator<Item = (usize, f64)>) -> Self {
        let mut chosen = Self::default();
        for (count, (place, time_us)) in picks.take(MOST_CONFIGS).enumerate() {
            (chosen.places[count], chosen.times_us[count], chosen.count) = (place, time_us, count + 1);
        }
        chosen
    }

    pub(super) fn places(&self) -> &[usize] {
        &self.places[..self.count]
    }

    pub(super) fn times_us(&self) -> &[f64] {
        &self.times_us[..self.count]
    }
}

impl Clone for Resolver {
    /// What was resolved is not worth copying.
    fn clone(&self) -> Self {
        Self { part: self.part.clone(), model: self.model.clone(), resolved: Cache::default() }
    }
}

impl Resolver {
    /// Of a model that is this part of the document's text.
    pub(super) fn of_text(text: &str, part: &str) -> Self {
        let start = part.as_ptr().addr() - text.as_ptr().addr();
        Self { part: start..start + part.len(), model: OnceLock::new(), resolved: Cache::default() }
    }

    /// Of a parsed model.
    pub(super) fn of_value(value: Value) -> Self {
        let model = serde_json::from_value(value).map_err(Into::into).and_then(Model::new);
        let model = OnceLock::from(model.map_err(|error| error.to_string()));
        Self { part: 0..0, model, resolved: Cache::default() }
    }

    /// The model; read on the first call from the text it was made of. One that proves broken answers nothing.
    pub(super) fn model(&self, text: &str) -> Result<&Model, &str> {
        let part = || text.get(self.part.clone()).unwrap_or_default();
        let model = self.model.get_or_init(|| Model::from_json(part()).map_err(|error| error.to_string()));
        model.as_ref().map_err(String::as_str)
    }

    /// What answers a query, if the model knows its type and dimensions. A shape that was resolved before is remembered.
    pub(super) fn resolve(&self, entries: &Entries, text: &str, query: &Query) -> Option<Resolution> {
        let model = self.model(text).ok()?;
        let dtype = model.fitted().dtypes.keys().position(|known| known == query.dtype.name())?;
        let key = (query.extents, dtype);
        if let Some(resolution) = self.resolved.get(&key) {
            return Some(resolution);
        }
        let resolution = Exact::new(entries, model, text, query)?.resolve();
        self.resolved.insert(key, resolution);
        Some(resolution)
    }
}

/// A shape that a model knows, with all that may answer it.
pub(super) struct Exact<'a> {
    model: &'a Model,
    class: &'a Entries,
    text: &'a str,
    /// In the model's order.
    dims: Vec<i64>,
    dtype: &'a str,
    /// The rule and the fallback that the document has for it.
    entries: [Option<Found>; 2],
    group: Option<&'static str>,
    aligned: bool,
}

impl<'a> Exact<'a> {
    /// The query's shape, if the model knows its dimensions; its type is known.
    pub(super) fn new(class: &'a Entries, model: &'a Model, text: &'a str, query: &Query<'a>) -> Option<Self> {
        if !query.extents.is_plain() && !model.knows_variants() {
            return None;
        }
        let dims = model.fitted().dims.iter().map(|name| query.extents.known(name)).collect::<Option<Vec<_>>>()?;
        let dtype = query.dtype.name();
        let aligned = model.is_aligned(&dims, dtype);
        let entries = [class.rule(query), class.fallback(query)];
        Some(Self { model, class, text, dims, dtype, entries, group: query.group(), aligned })
    }

    /// Whether all operands' rows are aligned.
    pub(super) fn is_aligned(&self) -> bool {
        self.aligned
    }

    fn resolve(&self) -> Resolution {
        let asked = [Found::Measured].into_iter().chain(self.by_regret().into_iter().map(|(found, _)| found));
        let mut answers = asked.map(|found| Resolution { found, picks: self.picks(found) });
        answers
            .find(|resolution| resolution.picks.count > 0)
            .unwrap_or(Resolution { found: Found::Nothing, picks: Picks::default() })
    }

    /// What may answer where nothing was measured, the most trusted first, each with its regret in the cell of comparison.
    pub(super) fn by_regret(&self) -> Vec<(Found, Option<&'a Regret>)> {
        let validation = &self.model.fitted().cross_validation;
        let there = [Some(Found::Model)].into_iter().chain(self.entries).flatten();
        let in_cell = |group, aligned| -> Vec<_> {
            there
                .clone()
                .map(|found| (found, validation.cell(self.class.source(found).name(), group, aligned)))
                .collect()
        };
        let cells = [(self.group, Some(self.aligned)), (self.group, None), (None, Some(self.aligned)), (None, None)];
        let mut order = cells
            .into_iter()
            .map(|(group, aligned)| in_cell(group, aligned))
            .find(|order| order.iter().any(|(_, regret)| regret.is_some()))
            .unwrap_or_else(|| in_cell(None, None));
        let geomean = |regret: Option<&Regret>| regret.map_or(f64::INFINITY, |regret| regret.geomean);
        order.sort_by(|(_, a), (_, b)| geomean(*a).total_cmp(&geomean(*b)));
        order
    }

    /// The configs that one of them answers, all legal.
    pub(super) fn picks(&self, found: Found) -> Picks {
        match found {
            Found::Measured => {
                let winners = self.model.measured(&self.dims, self.dtype).unwrap_or_default();
                let is_legal = |config: usize| self.model.is_legal(&self.dims, self.dtype, config);
                Picks::new(winners.iter().copied().filter(|(config, _)| is_legal(*config)))
            }
            Found::Model => {
                let best = self.model.best(&self.dims, self.dtype, MOST_CONFIGS);
                Picks::new(best.into_iter().map(|choice| (choice.config, choice.predicted_us)))
            }
            Found::Rule(_) | Found::Fallback(_) | Found::Nothing => {
                let legal = self.model.legal(&self.dims, self.dtype, &self.candidates(self.templates(found)));
                Picks::new(legal.into_iter().map(|place| (place, f64::NAN)))
            }
        }
    }

    /// All configs that an entry holds, legal or not.
    fn templates(&self, found: Found) -> &'a [Template] {
        self.class.entry(found).map_or(&[], |entry| &entry.served(self.text).configs)
    }

    /// The config that a pick is.
    pub(super) fn config(&self, found: Found, place: usize) -> &'a Template {
        match found {
            Found::Measured | Found::Model => &self.model.configs()[place].template,
            Found::Rule(_) | Found::Fallback(_) | Found::Nothing => &self.templates(found)[place],
        }
    }

    /// How many configs cannot run the shape.
    pub(super) fn illegal(&self, found: Found) -> usize {
        let candidates = match found {
            Found::Measured => return 0,
            Found::Model => self.model.own(),
            Found::Rule(_) | Found::Fallback(_) | Found::Nothing => &self.candidates(self.templates(found)),
        };
        candidates.len() - self.model.legal(&self.dims, self.dtype, candidates).len()
    }

    /// The times that the model expects of picks.
    pub(super) fn predicted_us(&self, found: Found, picks: &Picks) -> Vec<Option<f64>> {
        let ranked = match found {
            Found::Measured => {
                let predict = |config: &usize| self.model.predict_us(&self.dims, self.dtype, *config);
                return picks.places().iter().map(predict).collect();
            }
            Found::Model => return picks.times_us().iter().copied().map(Some).collect(),
            Found::Rule(_) | Found::Fallback(_) | Found::Nothing => {
                let candidates = self.candidates(self.templates(found));
                self.model.rank(&self.dims, self.dtype, &candidates, candidates.len())
            }
        };
        let of_place = |place: &usize| ranked.iter().find(|choice| choice.config == *place);
        picks.places().iter().map(|place| of_place(place).map(|choice| choice.predicted_us)).collect()
    }

    /// Configs as the model takes them: what is known beside the knobs of those that are its own, too.
    fn candidates(&self, templates: &[Template]) -> Candidates {
        let own = self.model.configs();
        let configs: Vec<_> = templates
            .iter()
            .map(|template| {
                let known = own.iter().find(|config| config.template == *template).cloned();
                known.unwrap_or_else(|| ModelConfig { template: template.clone(), ..ModelConfig::default() })
            })
            .collect();
        self.model.candidates(&configs)
    }
}
