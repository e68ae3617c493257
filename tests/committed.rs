//! The committed documents: what they serve can run.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use kernel_sweep::heuristics::{Document, builtin_document, builtin_names};
use kernel_sweep::model::{Config, Family, GpuProfile, Problem};
use kernel_sweep::plan;
use serde_json::Value;

/// `m=16,n=4096,k=4096 bf16` in a document's `source`.
fn problem(family: Family, name: &str) -> Problem {
    let (shape, dtype) = name.rsplit_once(' ').unwrap();
    Problem::parse(family, shape, dtype.parse().unwrap()).unwrap()
}

#[test]
fn what_is_served_first_runs_on_every_problem_it_was_made_from() {
    let mut illegal = Vec::new();
    for gpu in builtin_names() {
        let profile = GpuProfile::by_name(gpu).unwrap();
        let document = Document::from_bytes(builtin_document(gpu).unwrap().as_bytes()).unwrap();
        let rules = document.rules.iter().map(|rule| (&rule.kernel_class, &rule.templates[0].template, &rule.source));
        let fallbacks = document.fallbacks.iter().flat_map(|(class, groups)| {
            groups.values().map(move |fallback| (class, &fallback.template, &fallback.source))
        });
        for (class, template, source) in rules.chain(fallbacks) {
            let family: Family = class.parse().unwrap();
            let config: Config = serde_json::from_value(Value::Object(template.clone())).unwrap();
            for served in source["problems"].as_array().into_iter().flatten() {
                let problem = problem(family, served["problem"].as_str().unwrap());
                // A problem that the config was not measured on may be one that it cannot run on.
                if served["served_us"].is_null() {
                    continue;
                }
                if let Err(rejection) = plan::candidate(config.clone(), &problem, &profile).program {
                    illegal.push(format!("{gpu} {problem}: {config}: {rejection}"));
                }
            }
        }
    }
    assert!(illegal.is_empty(), "{} of them, as {:#?}", illegal.len(), &illegal[..illegal.len().min(10)]);
}
