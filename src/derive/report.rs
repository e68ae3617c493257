//! What became of each class's evidence, for people.

use crate::heuristics::FittedModel;
use serde::Serialize;
use std::collections::BTreeMap;

/// What became of one class.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassReport {
    /// The class.
    pub class: String,
    /// Trials there were.
    pub trials: usize,
    /// Problems with a working config.
    pub problems: usize,
    /// Problems whose trials all failed.
    pub unworkable: Vec<String>,
    /// Buckets that hold a problem.
    pub buckets: usize,
    /// Buckets that got a rule.
    pub rules: usize,
    /// Buckets left to the fallback, since no choice beats it beyond noise.
    pub left_to_fallback: usize,
    /// Buckets without a config that keeps up with the defaults on every problem.
    pub slower_than_default: usize,
    /// Groups that got a fallback.
    pub fallbacks: usize,
    /// Groups without a problem, given the family's best config.
    pub borrowed_fallbacks: Vec<&'static str>,
    /// What came of its model.
    pub model: Option<ModelReport>,
    /// Why it has no model, where it has none.
    pub no_model: Option<String>,
    /// Rules, fallbacks and models of the document before that stay: not all they were measured on was measured anew.
    pub carried_over: usize,
}

/// What came of a class's model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModelReport {
    /// Configs that it may choose from.
    pub configs: usize,
    /// Geometric mean slowdown on problems left out, of `model`, `rule` and `fallback`.
    pub regret: BTreeMap<String, f64>,
}

impl ModelReport {
    pub(super) fn of(model: &FittedModel) -> Self {
        let regret = |source: &String| {
            let all = model.cross_validation.regret[source]
                .iter()
                .find(|cell| cell.group.is_none() && cell.aligned.is_none());
            Some((source.clone(), all?.geomean))
        };
        Self { configs: model.configs.len(), regret: model.cross_validation.regret.keys().filter_map(regret).collect() }
    }
}
