//! Journals to a document: rules and fallbacks with the evidence for them, and fitted models. Pure: the same trials, in any order, give the same
//! document on any number of threads.
//!
//! - The slowdown of a config on a problem is what it takes beside the winner of the problem's last final, in rounds that did
//!   not choose the winner. A config of another race, a cross trial's, is compared through the arms that lasted in both races,
//!   by paired rounds in either: no two times of a problem come from two occasions, but where there are no rounds to go by.
//!   Trials of the search before count only for a problem that has no races.
//! - Noise is what 95 % of null arms stay within, duplicates of the winner against it, pooled over the class by how long the
//!   kernels take; more where there were fewer rounds or a config was compared through others; never under half a percent,
//!   and 2 % where there are too few null arms to tell.
//! - A set of problems is given the config with the least geometric mean slowdown; a missing time counts as at least
//!   twice the best. What is within the noise of so many problems is one tie class, in which a fixed order chooses: simpler
//!   launches first, then the text.
//! - A fallback is that choice over all of a group's problems. A rule is that choice over a bucket's problems, and with
//!   little weight the group's, among the configs nowhere slower than a default, or the family's best single config where that
//!   is faster beyond noise; with up to two more that help most beside it. It is kept only where it beats what would be served
//!   otherwise, the fallback, by more than null arms differ.
//! - What is chosen for a bucket or a group runs on all its shapes, as far as the family's conditions tell, where anything that
//!   was measured does: on problems drawn from the family's domain too.
//! - A model is fitted to all trials of a class. Its `cross_validation` tells what model, rule and fallback would have been
//!   worth on problems left out of all three.
//! - What the document before serves stays where nothing beats it by more than noise.
//! - `validation.ties` names the configs, by [`config_key`], that cannot be told from the one that is served, by that noise or by what the ratio of
//!   two configs changes from one race to another, so that a change from one sweep to the next can be judged.
//! - `source.problems[].anchors` compares what is served with other programs of the same final, so that two documents can be
//!   compared by what did not change between them.

mod carry;
mod class;
mod choose;
mod compare;
mod derived_class;
mod evidence;
pub mod helion_csv;
mod incumbent;
mod merge;
mod model;
mod noise;
mod pair;
mod race;
mod report;
mod shapes;
mod table;
mod todays_kernels;
mod validation;

pub use evidence::{Environment, Evidence, ProblemFacts, Record, Timing};
pub(crate) use evidence::{config_text, of_latest_kernels, problem, timing_of};
pub use merge::merge;
pub(crate) use merge::{ENVIRONMENT_FIELDS, environments_of, refuse_other_device};
pub(crate) use noise::{ASSUMED_NOISE, NOISE_FLOOR, half_width};
pub(crate) use pair::pair;
pub use report::{ClassReport, ModelReport};
pub use table::config_key;
pub(crate) use table::text_key;
pub(crate) use todays_kernels::TodaysKernels;
pub use validation::{Compared, Exemplar, LeaveOneOut, ProblemSource, Source, Ties, Validation};

use crate::error::{Context, Result};
use crate::heuristics::{DescribedFamily, Document, FAMILIES, SCHEMA_VERSION};
use crate::journal::{Contents, Trial};
use crate::model::{Config, Family, GpuProfile, Mma};
use carry::Earlier;
use choose::GROUP_WEIGHT;
use derived_class::{ClassResult, derive_class};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use table::{MISSING_SLOWDOWN, Table};
use todays_kernels::ByFamily;

/// The defaults of each family, one for each kind of space it has on the device.
pub type Defaults = BTreeMap<Family, Vec<Config>>;

/// A document and what became of the evidence.
#[derive(Clone, Debug)]
pub struct Derived {
    /// The document.
    pub document: Document,
    /// One entry a class there was evidence for, sorted by class.
    pub classes: Vec<ClassReport>,
    /// Trials called `ok` without a usable time, which were left out.
    pub unusable_trials: usize,
    /// Trials called `ok` that err so much more than others of their problem that they were taken for wrong.
    pub stray_trials: usize,
    /// Trials of kernels that have changed since, which were left out.
    pub changed_trials: usize,
    /// Classes without a trial of a kernel that is today's: another version of the sources made all of it, and all of it counts.
    pub of_other_kernels: BTreeSet<Family>,
}

/// All that a document follows from.
pub struct Inputs<'a> {
    /// The GPU.
    pub profile: &'a GpuProfile,
    /// What was measured on it, each with what errors call it.
    pub journals: &'a [(String, Contents)],
    /// What other tools measured on it.
    pub measurements: Evidence,
    /// The defaults of the families that were measured.
    pub defaults: &'a Defaults,
    /// The document that the new one takes the place of.
    pub before: Option<&'a Document>,
    /// Whether journals of unlike drivers, or of one that is not known, count together.
    pub accept_driver: bool,
}

/// Derives the document that is to be served from now on: the classes there are measurements of anew, what the document before
/// serves staying where nothing beats it by more than noise, or where it was measured on what is not among these journals, and its
/// other classes as they are. Trials of a journal by kernels that have changed since say nothing of what is served.
///
/// # Errors
/// Where a journal is of another GPU than this, journals or the document before are of different devices, or journals of
/// different protocols or drivers.
pub fn run(inputs: Inputs) -> Result<Derived> {
    let kernels = ByFamily::of(inputs.profile, inputs.journals);
    run_where(inputs, &|trial| kernels.made(trial))
}

/// The same where `is_today` tells whether a trial's kernel is today's.
///
/// # Errors
/// As [`run`].
pub fn run_where(inputs: Inputs, is_today: &(dyn Fn(&Trial) -> bool + Sync)) -> Result<Derived> {
    let mut evidence = inputs.measurements;
    evidence.accept_driver = inputs.accept_driver;
    let are_today: Vec<Vec<bool>> =
        inputs.journals.iter().map(|(_, contents)| contents.trials.par_iter().map(is_today).collect()).collect();
    let judged =
        inputs.journals.iter().zip(&are_today).flat_map(|((_, contents), are)| contents.trials.iter().zip(are));
    // What never ran has no kernel.
    let ran = judged.clone().filter(|(trial, _)| !trial.kernel.is_empty());
    let (today, other): (Vec<_>, Vec<_>) = ran.partition(|(_, is_today)| **is_today);
    let [today, other] =
        [today, other].map(|ran| ran.iter().map(|(trial, _)| trial.family).collect::<BTreeSet<Family>>());
    let of_other_kernels = &other - &today;
    let counts = |trial: &Trial, is_today: bool| is_today || of_other_kernels.contains(&trial.family);
    let changed_trials = judged.filter(|(trial, is_today)| !counts(trial, **is_today)).count();
    for ((name, contents), are_today) in inputs.journals.iter().zip(&are_today) {
        contents
            .headers
            .iter()
            .try_for_each(|header| header.refuse_other_gpu(&inputs.profile.name))
            .context(|| name)?;
        let trials = contents.trials.iter().zip(are_today).filter(|(trial, is_today)| counts(trial, **is_today));
        evidence.add_trials(&contents.headers, &trials.map(|(trial, _)| trial).collect::<Vec<_>>()).context(|| name)?;
    }
    evidence.of_other_kernels = of_other_kernels.iter().map(|family| family.name()).collect();
    let mut earlier = BTreeMap::new();
    if let Some(before) = inputs.before {
        evidence.identities().try_for_each(|identity| merge::refuse_other_device(before, &identity))?;
        let is_today = |trial: &Trial| counts(trial, is_today(trial));
        earlier.extend(
            evidence.classes().into_iter().map(|class| (class.to_owned(), Earlier::of(before, class, &is_today))),
        );
    }
    let mut derived = derive_all(inputs.before, earlier, &evidence, inputs.profile, inputs.defaults);
    if let Some(before) = inputs.before {
        let classes: BTreeSet<String> = derived.classes.iter().map(|report| report.class.clone()).collect();
        derived.document = merge(before.clone(), derived.document, &classes);
    }
    Ok(Derived { changed_trials, of_other_kernels, ..derived })
}

/// Derives the document of a GPU.
pub fn document(evidence: &Evidence, profile: &GpuProfile, defaults: &Defaults) -> Derived {
    document_after(None, evidence, profile, defaults)
}

/// The same, but what the document before it serves stays where nothing beats it by more than noise, or where it was measured on
/// what this evidence says nothing of.
pub fn document_after(
    before: Option<&Document>,
    evidence: &Evidence,
    profile: &GpuProfile,
    defaults: &Defaults,
) -> Derived {
    let earlier = |class: &str| Some((class.to_owned(), Earlier::of(before?, class, &|_| true)));
    let earlier = evidence.classes().into_iter().filter_map(earlier);
    derive_all(before, earlier.collect(), evidence, profile, defaults)
}

/// What was measured anew of each class, and what `earlier` holds of it beside that.
fn derive_all(
    before: Option<&Document>,
    mut earlier: BTreeMap<String, Earlier>,
    evidence: &Evidence,
    profile: &GpuProfile,
    defaults: &Defaults,
) -> Derived {
    let default_texts = defaults.iter().map(|(family, configs)| {
        let texts = configs.iter().map(|config| config_text(&config.to_template())).collect();
        (family.name().to_owned(), texts)
    });
    let tables = Table::all(evidence, &default_texts.collect());
    let derive = |table: &Table| {
        let sister = table.class.parse().ok().and_then(Family::sister);
        // Of kernels that have changed there is nothing to learn.
        let sister = sister.filter(|sister| !evidence.of_other_kernels.contains(sister.name()));
        let sister = sister.and_then(|sister| tables.iter().find(|table| table.class == sister.name()));
        derive_class(table, sister, before, profile)
    };
    let mut classes: Vec<ClassResult> = tables.par_iter().map(derive).collect();
    let mut environments: BTreeMap<String, BTreeSet<Environment>> = tables
        .iter()
        .map(|table| (table.class.to_owned(), evidence.environments.get(table.class).cloned().unwrap_or_default()))
        .collect();
    for (class, table) in classes.iter_mut().zip(&tables) {
        let Some(earlier) = earlier.remove(table.class) else { continue };
        let environments = environments.entry(table.class.to_owned()).or_default();
        if earlier.is_like(environments) {
            let own = earlier.environments().to_vec();
            class.report.carried_over = earlier.stay_in(class, table);
            if class.report.carried_over > 0 {
                environments.extend(own);
            }
        }
    }

    let mut rules = Vec::new();
    let mut fallbacks = BTreeMap::new();
    let mut models = BTreeMap::new();
    let mut reports = Vec::new();
    for class in classes {
        // A struct of numbers, texts and collections of them is always JSON.
        if let Some(model) = class.model.and_then(|model| serde_json::to_value(model).ok()) {
            models.insert(class.report.class.clone(), model);
        }
        rules.extend(class.rules);
        if !class.fallbacks.is_empty() {
            fallbacks.insert(class.report.class.clone(), class.fallbacks);
        }
        reports.push(class.report);
    }
    let document = Document {
        schema_version: SCHEMA_VERSION,
        description: format!(
            "Measured config heuristics for {}: one rule for each shape bucket where a config beats the fallback beyond noise, \
             and one fallback for each group of shapes.",
            profile.name
        ),
        policy: policy(profile, &environments),
        rules,
        fallbacks,
        models,
        extra: Map::new(),
    };
    Derived {
        document,
        classes: reports,
        unusable_trials: evidence.unusable,
        stray_trials: evidence.stray,
        changed_trials: 0,
        of_other_kernels: BTreeSet::new(),
    }
}

/// What a Blackwell document says of the kernels that nobody here could run.
const UNPROVEN: &str = "tcgen05 configs were written without a GPU to run them on: compiled for sm_100a and checked on a model of the \
     machine; each was compared with the reference before it was timed";

/// The document's `policy`: what was measured with what, and how the choices were made.
fn policy(profile: &GpuProfile, environments: &BTreeMap<String, BTreeSet<Environment>>) -> Map<String, Value> {
    let mut policy = Map::from_iter([
        (
            "fallbacks".to_owned(),
            json!(
                "least geomean slowdown over all measured problems of the group; used only where no rule's bucket is equal"
            ),
        ),
        ("gpu".to_owned(), json!(profile.name)),
        ("group_weight".to_owned(), json!(GROUP_WEIGHT)),
        ("matching".to_owned(), json!("exact shape bucket only")),
        ("missing_slowdown".to_owned(), json!(MISSING_SLOWDOWN)),
        ("noise_floor".to_owned(), json!(NOISE_FLOOR)),
        (
            "problems".to_owned(),
            json!(
                "rows: place among the model's problems, or name; us served; ln of the slowdown and its noise, in 1e-4; ln of the ratios to anchors"
            ),
        ),
        (
            "target".to_owned(),
            json!(
                "least geomean slowdown against the winner of each problem's last final, in rounds that did not choose it"
            ),
        ),
        (
            "validation".to_owned(),
            json!(
                "a rule is faster than its group's fallback by more than null arms differ, and no slower than its class's best single config and the defaults beyond noise; ratios are rule over baseline"
            ),
        ),
    ]);
    let is_ours = environments.values().any(|environments| !environments.is_empty());
    if is_ours && profile.mma.contains(&Mma::Tcgen05) {
        policy.insert("tcgen05".to_owned(), json!(UNPROVEN));
    }
    let described = environments.keys().filter_map(|class| Family::by_name(class).filter(|family| !family.ships()));
    let described: Map<String, Value> =
        described.map(|family| (family.name().to_owned(), json!(DescribedFamily::of(family)))).collect();
    if !described.is_empty() {
        policy.insert(FAMILIES.to_owned(), described.into());
    }
    merge::set_environments(&mut policy, environments);
    policy
}
