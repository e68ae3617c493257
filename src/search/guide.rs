//! Which config next: by the time that a model expects of it, once there is one; before, by its [`Prior`].

use super::prior::Prior;
use crate::error::Result;
use crate::families::{self, Description};
use crate::fit::{self, Time, Trials};
use crate::heuristics::{Candidates, FittedModel, Model, ModelConfig, group_of};
use crate::journal::Stage;
use crate::model::{Config, GpuProfile, KnobValue, Micros, Mma, Problem};
use crate::plan::{self, Plan};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// A time that was measured, as far as a model learns from it.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Of which problem.
    pub problem: Problem,
    /// Of which config.
    pub config: Config,
    /// At which stage of the search.
    pub stage: Stage,
    /// The time.
    pub time: Micros,
}

/// Orders the configs of a plan on any of its problems.
pub struct Guide<'p> {
    plan: &'p Plan,
    profile: GpuProfile,
    description: Description,
    /// Every config of the plan's spaces, and the place of each.
    configs: Vec<&'p Config>,
    places: HashMap<&'p Config, usize>,
    earlier: Option<Arc<Ready>>,
    own: RwLock<Option<Arc<Ready>>>,
    /// What orders as long as nothing was measured.
    prior: Prior,
    /// The other GPU's model of the prior, with the configs that it may know of.
    borrowed: Option<Ready>,
}

/// A model with the plan's configs made ready for it.
struct Ready {
    model: Model,
    candidates: Candidates,
}

impl Ready {
    /// Problems that the model has seen.
    fn problems(&self) -> usize {
        self.model.fitted().problems.len()
    }
}

/// The configs of a problem that are worth trying, the most promising first.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The configs.
    pub configs: Vec<Config>,
    /// Whether a model ordered them that has seen enough problems to be relied on.
    pub is_predicted: bool,
    /// Whether kernels of another language are called.
    pub is_called: bool,
}

/// Problems that a model must have seen to be relied on: fewer leave out whole kinds of shapes.
const ENOUGH: usize = 25;

/// Choices of each model that does not know a problem.
const CHOICES: usize = 2;

/// Configs of one tile that come next to each other where no model tells more; those left come after all others.
const ALIKE: usize = 2;

impl<'p> Guide<'p> {
    /// A guide that knows nothing yet but what a model of an earlier day does, where there is one, and before it [`Prior`].
    pub fn new(plan: &'p Plan, profile: &GpuProfile, earlier: Option<&Value>) -> Self {
        let spaces = plan.spaces(profile);
        let mut configs: Vec<&Config> = Vec::new();
        let mut places = HashMap::new();
        for config in spaces.iter().flat_map(|space| std::iter::once(&space.default).chain(&space.configs)) {
            places.entry(config).or_insert_with(|| {
                configs.push(config);
                configs.len() - 1
            });
        }
        let variants =
            plan.problems(profile).unwrap_or_default().iter().any(|planned| !planned.problem.shape.is_plain());
        let description = Description::of(plan.family, profile, variants);
        let own = RwLock::new(None);
        // One of another form, or of other knobs, is of no use; there will be another soon.
        let earlier = earlier.and_then(|model| ordering(model).ok());
        let prior = if earlier.is_some() { Prior::floors(profile) } else { Prior::new(plan.family, profile) };
        let mut guide = Self {
            plan,
            profile: profile.clone(),
            description,
            configs,
            places,
            earlier: None,
            own,
            prior,
            borrowed: None,
        };
        guide.earlier = earlier.map(|model| Arc::new(guide.ready(model)));
        guide.borrow_model();
        guide
    }

    fn ready(&self, model: Model) -> Ready {
        let configs: Vec<ModelConfig> = self.configs.iter().map(|config| model_config(config)).collect();
        let candidates = model.candidates(&configs);
        Ready { model, candidates }
    }

    /// Makes the other GPU's model ready for the configs that it knows the like of.
    fn borrow_model(&mut self) {
        let Some(model) = self.prior.model(&self.description) else { return };
        let as_there = |config: &&'p Config| ModelConfig {
            template: self.prior.as_there(config).map(|config| config.to_template()).unwrap_or_default(),
            ..ModelConfig::default()
        };
        let configs: Vec<ModelConfig> = self.configs.iter().map(as_there).collect();
        let candidates = model.candidates(&configs);
        self.borrowed = Some(Ready { model, candidates });
    }

    /// What the order comes from as long as nothing was measured on this GPU, in one line; nothing once something was, or where
    /// there is no more to it than what programs load.
    pub fn prior(&self) -> Option<String> {
        let is_fitted = self.own.read().unwrap_or_else(PoisonError::into_inner).is_some();
        (self.earlier.is_none() && !is_fitted).then(|| self.prior.said(self.borrowed.is_some())).flatten()
    }

    /// Fits a model to what was measured by now, and orders by it; by an earlier day's as well for as long as that has seen more.
    ///
    /// # Errors
    /// Where no model can be fitted to these observations.
    pub fn learn(&self, observations: &[Observation]) -> Result<()> {
        let (_, trials) = trials(observations, &self.description);
        if trials.times.is_empty() {
            return Ok(());
        }
        let ready = self.ready(Model::new(fit::train(&self.description, &trials)?)?);
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ready));
        Ok(())
    }

    /// What models would choose for a problem that were fitted without it and its kin, among the configs that a document's model has
    /// to choose from. Measured, it tells models where they go wrong, and makes what they are said to lose on problems held out
    /// what they would lose on shapes that nobody measured.
    ///
    /// # Errors
    /// As [`Guide::learn`].
    pub fn held_out_choices(&self, observations: &[Observation]) -> Result<Vec<(Problem, Vec<Config>)>> {
        let (problems, trials) = trials(observations, &self.description);
        if problems.len() < ENOUGH {
            return Ok(Vec::new());
        }
        let divisions = fit::divisions(&self.description, &trials.problems);
        let chosen: Vec<Vec<(Problem, Config)>> = divisions
            .parts()
            .into_par_iter()
            .map(|(folds, fold)| -> Result<Vec<(Problem, Config)>> {
                let mut kept = trials.clone();
                kept.times.retain(|time| folds[time.problem] != fold);
                let model = Model::new(fit::train(&self.description, &kept)?)?;
                let left_out = problems.iter().zip(folds).filter(|(_, its)| **its == fold);
                Ok(left_out.flat_map(|(problem, _)| self.choices(&model, problem)).collect())
            })
            .collect::<Result<_>>()?;
        let mut by_problem: BTreeMap<Problem, BTreeSet<Config>> = BTreeMap::new();
        for (problem, config) in chosen.into_iter().flatten() {
            by_problem.entry(problem).or_default().insert(config);
        }
        Ok(by_problem.into_iter().map(|(problem, configs)| (problem, configs.into_iter().collect())).collect())
    }

    /// The first configs of a model's own that run on a problem, as it ranks them.
    fn choices(&self, model: &Model, problem: &Problem) -> Vec<(Problem, Config)> {
        let ranked = model.best(&dims(problem, model), problem.dtype.name(), usize::MAX).into_iter();
        let configs = ranked.filter_map(|choice| {
            let template = model.configs()[choice.config].template.clone();
            serde_json::from_value(Value::Object(template)).ok()
        });
        let runs = |config: &Config| plan::candidate(config.clone(), problem, &self.profile).program.is_ok();
        configs.filter(runs).take(CHOICES).map(|config| (*problem, config)).collect()
    }

    /// The configs of a problem in the order they are worth trying in.
    pub fn order(&self, problem: &Problem) -> Order {
        let legal = self.plan.legal_configs(problem, &self.profile);
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner).clone();
        let seen = own.as_ref().map_or(0, |own| own.problems());
        let earlier = self.earlier.clone().filter(|earlier| earlier.problems() > seen);
        let mut orders = Vec::new();
        let mut is_predicted = false;
        for ready in [own, earlier].into_iter().flatten() {
            if let Some(configs) = self.predicted(&ready, problem, &legal) {
                is_predicted |= ready.problems() >= ENOUGH;
                orders.push(configs);
            }
        }
        if orders.is_empty() {
            orders.push(self.by_floors(problem, &legal));
            orders.extend(self.by_the_others_model(problem, &legal));
        }
        let is_called = families::spec(problem.family).callable().is_some();
        Order { configs: in_turn(orders), is_predicted, is_called }
    }

    /// The configs that the other GPU's model knows the like of, in its order.
    fn by_the_others_model(&self, problem: &Problem, legal: &[&Config]) -> Option<Vec<Config>> {
        let known: Vec<&Config> =
            legal.iter().copied().filter(|config| self.prior.as_there(config).is_some()).collect();
        self.predicted(self.borrowed.as_ref()?, problem, &known)
    }

    /// Nothing where the model does not know the problem's type.
    fn predicted(&self, ready: &Ready, problem: &Problem, legal: &[&Config]) -> Option<Vec<Config>> {
        let mut is_legal = vec![false; self.configs.len()];
        for config in legal {
            is_legal[*self.places.get(config)?] = true;
        }
        let ranked =
            ready.model.rank(&dims(problem, &ready.model), problem.dtype.name(), &ready.candidates, usize::MAX);
        let configs = ranked.iter().filter(|choice| is_legal[choice.config]);
        let configs: Vec<Config> = configs.map(|choice| self.configs[choice.config].clone()).collect();
        (!configs.is_empty()).then_some(configs)
    }

    /// By the prior's floors; a few of each tile first, since tiles decide most.
    fn by_floors(&self, problem: &Problem, legal: &[&Config]) -> Vec<Config> {
        let mut by_floor: Vec<(f64, &Config)> =
            legal.iter().map(|config| (self.prior.floor(config, problem, &self.profile), *config)).collect();
        by_floor.sort_by(|one, other| one.0.total_cmp(&other.0));
        let spec = families::spec(problem.family);
        let mut alike: HashMap<_, usize> = HashMap::new();
        let mut turns: Vec<(usize, usize, &Config)> = Vec::new();
        for (place, (_, config)) in by_floor.iter().enumerate() {
            let earlier = alike.entry(tile(config, spec.launch_knobs(), spec.callable().is_some())).or_default();
            turns.push((*earlier / ALIKE, place, config));
            *earlier += 1;
        }
        turns.sort_by_key(|(turn, place, _)| (*turn, *place));
        turns.into_iter().map(|(_, _, config)| config.clone()).collect()
    }
}

/// What configs of one tile share. Of a family with knobs of its own those that it compiles kernels for may be its tiles; but of
/// kernels that are called, which have many, only where there are no blocks.
fn tile<'c>(
    config: &'c Config,
    launch_knobs: &[&str],
    is_called: bool,
) -> (&'c [u32], Option<Mma>, Vec<(&'c String, &'c KnobValue)>) {
    let has_blocks = is_called && !config.block_sizes.is_empty();
    let own = config.own.iter().filter(|(knob, _)| !has_blocks && !launch_knobs.contains(&knob.as_str()));
    (&config.block_sizes, config.mma, own.collect())
}

/// A document's model as far as it orders configs. Which are legal the plan knows, of all of its configs, where the document tells
/// by what it notes of its own.
fn ordering(model: &Value) -> Result<Model> {
    let fitted: FittedModel = serde_json::from_value(model.clone())?;
    Model::new(FittedModel { legal: Vec::new(), ..fitted })
}

/// The first of each list, then the second of each, and so on, each config once.
fn in_turn(mut lists: Vec<Vec<Config>>) -> Vec<Config> {
    if lists.len() == 1 {
        return lists.remove(0);
    }
    let mut taken = HashSet::new();
    let longest = lists.iter().map(Vec::len).max().unwrap_or_default();
    let all = (0..longest).flat_map(|place| lists.iter().filter_map(move |list| list.get(place)));
    all.filter(|config| taken.insert(*config)).cloned().collect()
}

/// A problem's dimensions as far as a model knows them.
fn dims(problem: &Problem, model: &Model) -> Vec<i64> {
    let extents = problem.shape.extents().iter().take(model.fitted().dims.len());
    extents.map(|extent| *extent as i64).collect()
}

fn model_config(config: &Config) -> ModelConfig {
    ModelConfig { template: config.to_template(), ..ModelConfig::default() }
}

/// The observations laid out for fitting, with the problems by their places; of several times of a config on a problem the one of the
/// latest stage counts.
fn trials(observations: &[Observation], description: &Description) -> (Vec<Problem>, Trials) {
    let (mut trials, mut known) = (Trials::default(), Vec::new());
    let (mut problems, mut configs) = (BTreeMap::new(), BTreeMap::new());
    let mut ordered: Vec<&Observation> = observations.iter().collect();
    ordered.sort_by_key(|observation| observation.stage);
    for Observation { problem, config, stage, time } in ordered {
        let problem = *problems.entry(*problem).or_insert_with_key(|problem| {
            known.push(*problem);
            trials.problems.push(fit::Problem {
                dims: description.dims_of(problem),
                dtype: problem.dtype.name().to_owned(),
                group: group_of(problem).to_owned(),
            });
            trials.problems.len() - 1
        });
        let config = *configs.entry(config.clone()).or_insert_with_key(|config| {
            trials.configs.push(model_config(config));
            trials.configs.len() - 1
        });
        trials.times.push(Time { problem, config, median_us: time.0, is_final: *stage == Stage::Final });
    }
    (known, trials)
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dtype, Family};

    #[test]
    fn a_tile_is_its_blocks_and_own_knobs_where_a_kernel_that_is_called_has_none() {
        let config = |blocks: &[u32], indexing: &str, order: &str| Config {
            block_sizes: blocks.to_vec(),
            own: [("indexing", indexing), ("order", order)]
                .map(|(knob, value)| (knob.to_owned(), KnobValue::Word(value.to_owned())))
                .into(),
            ..Config::default()
        };
        let alike = |one: &Config, other: &Config, is_called| {
            tile(one, &["order"], is_called) == tile(other, &["order"], is_called)
        };
        let [plain, other, ordered] = [("pointer", "flat"), ("descriptor", "flat"), ("pointer", "strips")]
            .map(|(indexing, order)| config(&[64], indexing, order));
        assert!(alike(&plain, &ordered, false) && alike(&plain, &ordered, true));
        assert!(!alike(&plain, &other, false) && alike(&plain, &other, true));
        assert!(!alike(&plain, &config(&[32], "pointer", "flat"), true));
        assert!(!alike(&config(&[], "pointer", "flat"), &config(&[], "descriptor", "flat"), true));
    }

    fn problem(m: i64, n: i64, k: i64) -> Problem {
        Problem::new(Family::Matmul, &[("m", m), ("n", n), ("k", k)], Dtype::Bf16).unwrap()
    }

    #[test]
    fn without_a_model_tiles_come_in_turn_and_all_that_is_legal_comes() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let plan = Plan::load(Family::Matmul, None).unwrap();
        let guide = Guide { borrowed: None, ..Guide::new(&plan, &h200, None) };
        let problem = problem(512, 4096, 4096);
        let order = guide.order(&problem);
        assert!(!order.is_predicted);
        assert_eq!(order.configs.len(), plan.legal_configs(&problem, &h200).len());
        let mut tiles: Vec<_> = order.configs[..40].iter().map(|config| config.block_sizes.clone()).collect();
        tiles.sort();
        tiles.dedup();
        assert!(tiles.len() >= 15, "{tiles:?}");
    }

    /// A model that has seen one config win comes to try it first, and its like before others.
    #[test]
    fn what_was_learnt_comes_first() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let plan = Plan::load(Family::Matmul, None).unwrap();
        let guide = Guide::new(&plan, &h200, None);
        let time_of = |config: &Config, problem: &Problem| {
            let rows = f64::from(config.block_sizes[0]);
            let m = problem.shape.dimensions()[0].1 as f64;
            20.0 + (rows / m).log2().abs() * 5.0 + if config.num_stages == Some(4) { 0.0 } else { 3.0 }
        };
        let mut observations = Vec::new();
        for m in [16, 32, 64, 128, 256] {
            for n in [1024, 1536, 2048, 3072, 4096] {
                let problem = problem(m, n, 2048);
                for config in guide.order(&problem).configs.into_iter().step_by(97) {
                    let time = Micros(time_of(&config, &problem));
                    observations.push(Observation { problem, config, stage: Stage::Screen, time });
                }
            }
        }
        guide.learn(&observations).unwrap();
        let asked = problem(64, 2560, 2048);
        let order = guide.order(&asked);
        assert!(order.is_predicted);
        let best = order.configs.iter().map(|config| time_of(config, &asked)).fold(f64::INFINITY, f64::min);
        let tried = order.configs[..16].iter().map(|config| time_of(config, &asked)).fold(f64::INFINITY, f64::min);
        assert!(tried <= 1.05 * best, "{tried} of {best}");
    }

    /// Each problem is told of by models that know others, so what they choose there is near what the others had.
    #[test]
    fn strangers_choose_for_each_problem_what_won_on_others() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let plan = Plan::load(Family::Matmul, None).unwrap();
        let guide = Guide::new(&plan, &h200, None);
        let mut observations = Vec::new();
        for m in [16, 64, 256] {
            for n in [1024, 1536, 2048, 3072, 4096, 6144, 8192, 9216, 10240] {
                let problem = problem(m, n, 2048);
                for config in guide.order(&problem).configs.into_iter().step_by(211) {
                    let rows = f64::from(config.block_sizes[0]);
                    let time = Micros(20.0 + (rows / m as f64).log2().abs() * 5.0);
                    observations.push(Observation { problem, config, stage: Stage::Screen, time });
                }
            }
        }
        let choices = guide.held_out_choices(&observations).unwrap();
        assert_eq!(choices.len(), 27);
        for (problem, configs) in choices {
            assert!((1..=CHOICES * 3).contains(&configs.len()), "{problem}: {configs:?}");
            for config in configs {
                assert!(plan::candidate(config.clone(), &problem, &h200).program.is_ok(), "{problem}: {config}");
            }
        }
        let few: Vec<Observation> =
            observations.into_iter().filter(|observation| observation.problem.shape.dimensions()[0].1 == 16).collect();
        assert_eq!(guide.held_out_choices(&few).unwrap(), []);
    }

    /// The plan knows which configs are legal; the document's model says so by what it knows of its own configs alone.
    #[test]
    fn the_model_of_an_earlier_document_guides_from_the_first_problem() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let text = crate::heuristics::builtin_document("h200").unwrap();
        let document: Value = serde_json::from_str(text).unwrap();
        let is_known = |family: &Family| !document["models"][family.name()].is_null();
        let mut relied_on = 0;
        for family in Family::ALL.into_iter().filter(is_known) {
            let plan = Plan::load(family, None).unwrap();
            let guide = Guide::new(&plan, &h200, Some(&document["models"][family.name()]));
            let problem = plan.problems(&h200).unwrap()[0].problem;
            let order = guide.order(&problem);
            let legal = plan.legal_configs(&problem, &h200);
            assert_eq!(order.configs.len(), legal.len(), "{problem}");
            // A model that has seen few problems orders as well, but is not to be relied on.
            let earlier = guide.earlier.as_ref().unwrap();
            assert_eq!(order.is_predicted, earlier.problems() >= ENOUGH, "{problem}");
            if order.is_predicted {
                relied_on += 1;
            } else {
                assert_eq!(guide.predicted(earlier, &problem, &legal), Some(order.configs), "{problem}");
            }
        }
        // All but row_norm_layer and matmul_nvfp4, of which the document's models have seen 8 and 19 problems.
        assert!(relied_on >= 12, "{relied_on}");
    }

    /// The same observations make the same order, whatever the search began from.
    #[test]
    fn a_prior_is_said_and_forgotten_with_the_first_observation() {
        let b200 = GpuProfile::by_name("b200").unwrap();
        let plan = Plan::load(Family::Attention, None).unwrap();
        let guide = Guide::new(&plan, &b200, None);
        let said = guide.prior().unwrap();
        for part in ["8000 GB/s", "2250 TFLOP/s", "148 multiprocessors", "mma_sync", "h200", "none of that is served"] {
            assert!(said.contains(part), "{said}");
        }
        let named = [("batch", 2), ("heads", 16), ("q_seq", 2048), ("kv_seq", 2048), ("head_dim", 128)];
        let problem = Problem::new(Family::Attention, &named, Dtype::Bf16).unwrap();
        let order = guide.order(&problem);
        assert!(!order.is_predicted, "nothing here is to be relied on");
        assert_eq!(order.configs.len(), plan.legal_configs(&problem, &b200).len());

        let unaided = Guide { borrowed: None, prior: Prior::floors(&b200), ..Guide::new(&plan, &b200, None) };
        let observation = |(place, config): (usize, &Config)| {
            let time = Micros(9.0 + place as f64);
            Observation { problem, config: config.clone(), stage: Stage::Screen, time }
        };
        let observations: Vec<Observation> =
            order.configs.iter().rev().take(150).enumerate().map(observation).collect();
        let other =
            Problem::new(Family::Attention, &[named[0], named[1], named[2], ("kv_seq", 4096), named[4]], Dtype::Bf16);
        let other = other.unwrap();
        assert_ne!(guide.order(&other), unaided.order(&other), "what another GPU learnt has a say");
        guide.learn(&observations).unwrap();
        unaided.learn(&observations).unwrap();
        assert_eq!(guide.order(&other), unaided.order(&other));
        assert_eq!(guide.prior(), None);

        let text = crate::heuristics::builtin_document("h200").unwrap();
        let document: Value = serde_json::from_str(text).unwrap();
        let h200 = GpuProfile::by_name("h200").unwrap();
        assert_eq!(Guide::new(&plan, &h200, Some(&document["models"]["attention"])).prior(), None);
        assert_eq!(Guide::new(&plan, &GpuProfile::cpu(2, crate::model::Bytes(0)), None).prior(), None);
    }

    /// What few problems taught does not take the place of what many did.
    #[test]
    fn an_earlier_model_has_a_say_until_as_many_problems_were_seen() {
        let h200 = GpuProfile::by_name("h200").unwrap();
        let document: Value = serde_json::from_str(crate::heuristics::builtin_document("h200").unwrap()).unwrap();
        let plan = Plan::load(Family::Matmul, None).unwrap();
        let guide = Guide::new(&plan, &h200, Some(&document["models"]["matmul"]));
        let asked = problem(64, 2560, 2048);
        let earlier = guide.order(&asked).configs;
        let few = problem(512, 4096, 4096);
        let observation = |(place, config)| Observation {
            problem: few,
            config,
            stage: Stage::Screen,
            time: Micros(9.0 + place as f64),
        };
        let observations: Vec<Observation> =
            guide.order(&few).configs.into_iter().rev().take(200).enumerate().map(observation).collect();
        guide.learn(&observations).unwrap();
        let both = guide.order(&asked);
        assert!(both.is_predicted && both.configs[..3].contains(&earlier[0]));
        assert_eq!(both.configs.len(), earlier.len());
        assert_eq!(in_turn(vec![earlier[..2].to_vec(), earlier[1..4].to_vec()]), earlier[..4]);
    }
}
