//! The committed documents: what they serve can run.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::problems_of;
use kernel_sweep::families::Legality;
use kernel_sweep::heuristics::{
    Bucket, Document, FittedModel, Heuristics, Rule, Source, Template, bucket_of, builtin_document, builtin_names,
};
use kernel_sweep::model::{Config, Family, GpuProfile, Problem};
use kernel_sweep::plan;
use rayon::prelude::*;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;

fn document(gpu: &str) -> Document {
    Document::from_bytes(builtin_document(gpu).unwrap().as_bytes()).unwrap()
}

/// The class, the config served first and the source of each rule and fallback.
fn entries(document: &Document) -> impl Iterator<Item = (&str, &Template, &Map<String, Value>)> {
    let rules = document.rules.iter();
    let rules = rules.map(|rule| (rule.kernel_class.as_str(), &rule.templates[0].template, &rule.source));
    let fallbacks = document.fallbacks.iter().flat_map(|(class, groups)| {
        groups.values().map(move |fallback| (class.as_str(), &fallback.template, &fallback.source))
    });
    rules.chain(fallbacks)
}

/// Why a config does not run, if so.
fn rejection(template: &Template, problem: &Problem, profile: &GpuProfile) -> Option<String> {
    let config: Config = serde_json::from_value(Value::Object(template.clone())).unwrap();
    let rejection = plan::candidate(config.clone(), problem, profile).program.err()?;
    Some(format!("{} {problem}: {config}: {rejection}", profile.name))
}

fn assert_none(rejections: &[String]) {
    assert!(rejections.is_empty(), "{} of them, as {:#?}", rejections.len(), &rejections[..rejections.len().min(10)]);
}

#[test]
fn what_is_served_first_runs_on_every_problem_it_was_made_from() {
    let mut illegal = Vec::new();
    for gpu in builtin_names() {
        let profile = GpuProfile::by_name(gpu).unwrap();
        for (class, template, source) in entries(&document(gpu)) {
            // A problem that the config was not measured on may be one that it cannot run on.
            let measured = problems_of(class, source).into_iter().filter(|(_, is_measured)| *is_measured);
            illegal.extend(measured.filter_map(|(problem, _)| rejection(template, &problem, &profile)));
        }
    }
    assert_none(&illegal);
}

/// The problems at which a bucket ends beyond one of its problems: along each dimension the last, and the one before, whose rows are
/// aligned to nothing.
fn edges(inside: &Problem, bucket: &Bucket) -> Vec<Problem> {
    let names = inside.family.dimensions();
    let extents: Vec<u64> = inside.shape.extents().iter().copied().take(names.len()).collect();
    let with = |place: usize, extent: u64| {
        let extents = extents.iter().enumerate().map(|(own, known)| if own == place { extent } else { *known } as i64);
        let dimensions: Vec<(&str, i64)> = names.iter().copied().zip(extents).collect();
        Problem::new(inside.family, &dimensions, inside.dtype).ok().filter(|problem| bucket_of(problem) == *bucket)
    };
    let last = |place: usize| {
        let (mut inside, mut outside) = (extents[place], 2 * extents[place]);
        while with(place, outside).is_none() && outside - inside > 1 {
            let middle = inside.midpoint(outside);
            if with(place, middle).is_some() { inside = middle } else { outside = middle }
        }
        inside
    };
    // Heads are whole vectors of eight elements wherever a family's domain has them.
    let step = |place: usize| if names[place] == "head_dim" { 8 } else { 1 };
    let last = |place: usize| last(place) / step(place) * step(place);
    (0..names.len())
        .flat_map(|place| [last(place), last(place) - step(place)].map(|extent| with(place, extent)))
        .flatten()
        .collect()
}

#[test]
fn rules_run_to_the_edges_of_their_buckets_or_say_where_not() {
    let mut illegal = Vec::new();
    for gpu in builtin_names() {
        let profile = GpuProfile::by_name(gpu).unwrap();
        let (document, heuristics) = (document(gpu), Heuristics::builtin(gpu).unwrap());
        // How many edges a rule has, and what does not run there.
        let judged = |rule: &Rule| -> Option<(usize, Vec<String>)> {
            let template = &rule.templates[0].template;
            let plain = problems_of(&rule.kernel_class, &rule.source).into_iter().map(|(problem, _)| problem);
            let inside = plain.filter(|problem| problem.shape.is_plain()).max()?;
            // Where no config runs, none is to be had.
            let is_workable = |problem: &Problem| {
                let answer = heuristics.lookup_problem(problem);
                answer.configs().any(|config| rejection(config, problem, &profile).is_none())
            };
            let edges: Vec<Problem> = edges(&inside, &rule.shape_bucket).into_iter().filter(is_workable).collect();
            Some((edges.len(), edges.iter().filter_map(|problem| rejection(template, problem, &profile)).collect()))
        };
        let rules = document.rules.par_iter().filter(|rule| !rule.validation.contains_key("refused_on"));
        let judged: Vec<_> = rules.filter_map(judged).collect();
        let asked: usize = judged.iter().map(|(edges, _)| edges).sum();
        illegal.extend(judged.into_iter().flat_map(|(_, illegal)| illegal));
        assert!(asked > document.rules.len(), "{gpu}: {asked} edges of {} rules", document.rules.len());
    }
    assert_none(&illegal);
}

/// The families whose trials on a GPU are committed.
fn swept(gpu: &str) -> Vec<Family> {
    let archives = Path::new(env!("CARGO_MANIFEST_DIR")).join("output").join(gpu).join("archive");
    let is_there = |family: &Family| archives.join(format!("{family}.jsonl.zst")).is_file();
    let swept: Vec<Family> = Family::ALL.into_iter().filter(is_there).collect();
    assert!(swept.len() >= 7, "{gpu}: {swept:?}");
    swept
}

#[test]
fn exact_shapes_are_answered_what_was_measured_on_them_and_runs_there() {
    let mut illegal = Vec::new();
    for gpu in builtin_names() {
        let profile = GpuProfile::by_name(gpu).unwrap();
        let (document, heuristics) = (document(gpu), Heuristics::builtin(gpu).unwrap());
        for family in swept(gpu) {
            assert!(document.models.contains_key(family.name()), "{gpu}: no model of {family}");
        }
        let asked: BTreeSet<Problem> = entries(&document)
            .flat_map(|(class, _, source)| problems_of(class, source))
            .map(|(problem, _)| problem)
            .collect();
        for problem in &asked {
            let answer = heuristics.lookup_problem(problem);
            assert_eq!((answer.source, answer.configs().len() > 0), (Source::Measured, true), "{gpu} {problem}");
            illegal.extend(answer.configs().filter_map(|template| rejection(template, problem, &profile)));
        }
    }
    assert_none(&illegal);
}

/// What derive would write anew of a model, but for what is fitted to times.
#[test]
fn models_are_in_the_expressions_that_families_describe_today() {
    for gpu in ["h200", "h100"] {
        let profile = GpuProfile::by_name(gpu).unwrap();
        let document = Document::from_bytes(builtin_document(gpu).unwrap().as_bytes()).unwrap();
        for family in swept(gpu) {
            let model: FittedModel = serde_json::from_value(document.models[family.name()].clone()).unwrap();
            let configs: Vec<Config> = model
                .configs
                .iter()
                .map(|config| serde_json::from_value(config.template.clone().into()).unwrap())
                .collect();
            // Of all that was tried, also what is not among the model's own configs.
            let plan = plan::Plan::load(family, None).unwrap();
            let tried = plan.spaces(&profile).into_iter().flat_map(|space| &space.configs);
            let has_variants = model.dims.len() > family.dimensions().len();
            let legality = Legality::new(family, &profile, has_variants, configs.iter().chain(tried));
            let described = legality.description(plan.untried(&profile));
            assert_eq!(model.dims, described.dims, "{family}");
            // The types that it was measured in.
            let is_described = |(name, bytes): (&String, &i64)| described.dtypes.get(name) == Some(bytes);
            assert!(!model.dtypes.is_empty() && model.dtypes.iter().all(is_described), "{family}: {:?}", model.dtypes);
            // Fitting adds its own of families that learn of each other.
            let has = |(name, value): (&String, &i64)| model.constants.get(name) == Some(value);
            assert!(described.constants.iter().all(has), "{family}: {:?}", model.constants);
            assert_eq!(model.definitions, described.all_definitions(), "{family}");
            // Operands whose rows are alike make one feature.
            let mut features = described.all_features();
            let mut seen = BTreeSet::new();
            features.retain(|feature| seen.insert(feature.clone()));
            assert_eq!(model.features[..features.len()], features, "{family}");
            assert_eq!((&model.floor.bytes, &model.floor.flops), (&described.bytes, &described.flops), "{family}");
            let conditions = (described.aligned(), described.legal, described.tried);
            assert_eq!((model.aligned, model.legal, model.tried), conditions, "{family}");
        }
    }
}
