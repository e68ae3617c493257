//! Comparing documents.
#![cfg(feature = "harness")]
#![allow(missing_docs, clippy::float_cmp, clippy::panic, clippy::unwrap_used)] // figures are exact; a panic fails a test

use kernel_sweep::diff::{Diff, Entry, Status, diff};
use kernel_sweep::heuristics::Document;
use serde_json::{Value, json};

/// A problem as documents list it.
fn problem(name: &str, served_us: f64, noise: f64) -> Value {
    json!({ "problem": name, "served_us": served_us, "best_us": served_us, "noise": noise })
}

fn rule(m_bin: &str, block_size: u32, problems: &[Value]) -> Value {
    json!({
        "kernel_class": "matmul",
        "shape_bucket": { "m_bin": m_bin },
        "match_exact_only": true,
        "source": { "problems": problems, "kernels": ["k1"] },
        "templates": [{ "template": { "block_sizes": [block_size] } }],
    })
}

fn fallback(block_size: u32, problems: &[Value]) -> Value {
    json!({ "template": { "block_sizes": [block_size] }, "source": { "problems": problems, "kernels": ["k1"] } })
}

fn document(rules: &[Value], small_m: Option<Value>, driver: &str) -> Document {
    let environment = json!({
        "arch": "sm_90a", "device": "NVIDIA H200", "driver": driver, "nvrtc": "13.0.88", "protocol": "cold-l2/1", "sweep": "0.1.0",
    });
    let fallbacks = small_m.map_or(json!({}), |fallback| json!({ "matmul": { "small_m": fallback } }));
    let value = json!({
        "schema_version": 2,
        "policy": { "driver": driver, "measured_with": { "matmul": [environment] } },
        "rules": rules,
        "fallbacks": fallbacks,
    });
    Document::from_value(value).unwrap()
}

/// A document of one rule.
fn one(block_size: u32, problems: &[Value]) -> Document {
    document(&[rule("<=4", block_size, problems)], None, "1")
}

fn only(diff: &Diff) -> &Entry {
    let [entry] = &diff.entries[..] else { panic!("one entry, not {:?}", diff.entries) };
    entry
}

/// The status of one rule whose two problems took `old_us` and take `new_us`, both documents noisy by 1 % and 3 %.
fn status(old_us: [f64; 2], new_us: [f64; 2]) -> (Status, bool) {
    let problems = |us: [f64; 2], noise| [problem("a", us[0], noise), problem("b", us[1], noise)];
    let diff = diff(&one(16, &problems(old_us, 0.01)), &one(16, &problems(new_us, 0.03)));
    (only(&diff).status, diff.regression)
}

#[test]
fn what_unchanged_configs_take_from_one_sweep_to_the_next_is_noise() {
    // The times of 24 problems went up by 1, 2 or 3 %: by 2 %, and half a 95 % interval around that is 2.9 %.
    let many = |us: [f64; 3]| -> Vec<Value> {
        (0..24).map(|index| problem(&format!("p{index}"), us[index % 3], 0.005)).collect()
    };
    let status = |now_us: f64| {
        let rules = |us, other_us| [rule("<=4", 16, &many(us)), rule("<=8", 32, &[problem("q", other_us, 0.005)])];
        let old = document(&rules([10.0; 3], 10.0), None, "1");
        let diff = diff(&old, &document(&rules([10.1, 10.2, 10.3], now_us), None, "1"));
        diff.entries.iter().map(|entry| entry.status).collect::<Vec<_>>()
    };
    assert_eq!(status(10.25), [Status::Same, Status::Same]);
    assert_eq!(status(10.5), [Status::Same, Status::Slow]);
}

#[test]
fn verdicts_need_more_than_the_noise_of_both() {
    assert_eq!(status([10.0, 20.0], [9.6, 19.2]), (Status::Fast, false));
    assert_eq!(status([10.0, 20.0], [10.4, 20.8]), (Status::Slow, true));
    assert_eq!(status([10.0, 20.0], [10.05, 20.1]), (Status::Same, false));
    assert_eq!(status([10.0, 20.0], [9.95, 20.1]), (Status::Same, false));
    assert_eq!(status([10.0, 20.0], [10.2, 20.4]), (Status::Ambiguous, false), "beyond 1 %, within 3 %");
    assert_eq!(status([10.0, 20.0], [12.0, 16.7]), (Status::Ambiguous, false), "one faster, one slower");
}

#[test]
fn a_document_is_the_same_as_itself() {
    let document =
        document(&[rule("<=4", 16, &[problem("a", 1.0, 0.01)])], Some(fallback(32, &[problem("b", 2.0, 0.01)])), "1");
    let diff = diff(&document, &document);
    assert!(diff.entries.iter().all(|entry| entry.status == Status::Same && !entry.config_changed));
    assert!(!diff.regression && diff.environment.is_empty() && diff.lost_problems.is_empty());
    assert_eq!(diff.to_table(), "2 SAME: no regression\n");
}

#[test]
fn times_are_compared_on_the_problems_both_have() {
    let old = one(16, &[problem("a", 10.0, 0.01), problem("only old", 1.0, 0.01)]);
    let new = one(16, &[problem("a", 8.0, 0.01), problem("only new", 9.0, 0.01)]);
    let diff = diff(&old, &new);
    let times = only(&diff).times.as_ref().unwrap();
    assert_eq!((times.ratio, times.problems), (0.8, 1));
    assert_eq!(diff.lost_problems[0].problem, "only old");
    assert!(diff.regression, "coverage lost is a regression");
}

#[test]
fn a_removed_rule_is_judged_by_what_serves_in_its_place() {
    let rules = [rule("<=4", 16, &[problem("a", 10.0, 0.01)])];
    let old = document(&rules, Some(fallback(32, &[problem("a", 20.0, 0.01)])), "1");
    let replaced = |us| document(&[], Some(fallback(32, &[problem("a", us, 0.01)])), "1");

    let tied = diff(&old, &replaced(10.05));
    assert_eq!(tied.entries[0].status, Status::Removed);
    assert!(!tied.entries[0].regression && !tied.regression);

    let slower = diff(&old, &replaced(15.0));
    assert_eq!(slower.entries[0].times.as_ref().unwrap().ratio, 1.5);
    assert!(slower.entries[0].regression && slower.regression);

    let gone = diff(&old, &document(&[], None, "1"));
    assert!(gone.entries.iter().all(|entry| entry.status == Status::Removed && entry.regression));
}

#[test]
fn an_added_rule_is_compared_with_what_served_before() {
    let old = document(&[], Some(fallback(32, &[problem("a", 20.0, 0.01)])), "1");
    let with_rule = |us| {
        document(&[rule("<=4", 16, &[problem("a", us, 0.01)])], Some(fallback(32, &[problem("a", 20.0, 0.01)])), "1")
    };
    let faster = diff(&old, &with_rule(10.0));
    assert_eq!((faster.entries[0].status, faster.entries[0].times.as_ref().unwrap().ratio), (Status::Added, 0.5));
    assert!(!faster.regression);
    assert!(diff(&old, &with_rule(30.0)).regression);
    // A rule where nothing served before is no regression.
    assert!(!diff(&document(&[], None, "1"), &with_rule(30.0)).regression);
}

#[test]
fn a_lost_fallback_is_a_regression_whatever_its_times() {
    let rules = [rule("<=4", 16, &[problem("a", 10.0, 0.01)])];
    let old = document(&rules, Some(fallback(32, &[problem("a", 20.0, 0.01)])), "1");
    let diff = diff(&old, &document(&rules, None, "1"));
    assert!(diff.regression);
    assert!(diff.entries.iter().any(|entry| !entry.rule && entry.status == Status::Removed && entry.regression));
}

#[test]
fn documents_without_times_compare_by_config() {
    let reference = |block_size| one(block_size, &[]);
    assert_eq!(only(&diff(&reference(16), &reference(16))).status, Status::Same);
    let changed = diff(&reference(16), &reference(32));
    assert_eq!(only(&changed).status, Status::Ambiguous);
    assert!(only(&changed).config_changed && !changed.regression);
    assert!(diff(&reference(16), &document(&[], None, "1")).regression, "a rule is gone and nothing is known to serve");
}

/// Buckets compared, and those that changed within and outside ties.
fn stability(old: &Document, new: &Document) -> (usize, usize, usize) {
    let stability = diff(old, new).stability;
    (stability.buckets, stability.changed_within_ties, stability.changed_outside_ties)
}

#[test]
fn another_config_is_a_tie_where_it_takes_the_same_time() {
    let old = one(16, &[problem("m=2,n=512,k=512 bf16", 10.0, 0.01), problem("m=4,n=512,k=512 bf16", 10.0, 0.01)]);
    let new = |block_size, us| {
        let problems = ["m=2,n=512,k=512 bf16", "m=4,n=512,k=512 bf16"].map(|name| problem(name, us, 0.01));
        one(block_size, &problems)
    };
    assert_eq!(stability(&old, &old), (1, 0, 0));
    assert_eq!(stability(&old, &new(16, 15.0)), (1, 0, 0), "the config is the same, whatever its times");
    assert_eq!(stability(&old, &new(32, 10.05)), (1, 1, 0));
    assert_eq!(stability(&old, &new(32, 10.5)), (1, 0, 1));
    assert_eq!(stability(&old, &new(32, 9.5)), (1, 0, 1), "which of two runs is right is not known");
    let stability = diff(&old, &new(32, 10.5)).stability;
    assert_eq!((stability.share_within_ties, stability.share_outside_ties), (0.0, 1.0));
}

#[test]
fn another_config_is_a_tie_where_either_document_says_so() {
    let with_ties = |block_size, us, ties: &[u32]| {
        let mut document = one(block_size, &[problem("m=2,n=512,k=512 bf16", us, 0.01)]);
        let texts: Vec<String> = ties.iter().map(|tie| format!("{{\"block_sizes\":[{tie}]}}")).collect();
        document.rules[0].validation.insert("ties".into(), json!({ "configs": texts, "repeat_noise": 0.03 }));
        document
    };
    let old = with_ties(16, 10.0, &[32, 64]);
    assert_eq!(stability(&old, &with_ties(32, 10.5, &[])), (1, 1, 0));
    assert_eq!(stability(&old, &with_ties(128, 10.5, &[16])), (1, 1, 0));
    assert_eq!(stability(&old, &with_ties(128, 10.5, &[256])), (1, 0, 1));
}

#[test]
fn a_bucket_left_to_the_fallback_is_compared_by_what_that_serves() {
    let small = |us| problem("m=2,n=512,k=512 bf16", us, 0.01);
    let large = |us| problem("m=200,n=512,k=512 bf16", us, 0.01);
    let by_rule = document(&[rule("<=4", 16, &[small(10.0)])], Some(fallback(32, &[small(20.0), large(30.0)])), "1");
    // The rule is gone; what served the other bucket serves both.
    let by_fallback = |us| document(&[], Some(fallback(32, &[small(us), large(30.0)])), "1");
    assert_eq!(stability(&by_rule, &by_fallback(10.0)), (2, 1, 0));
    assert_eq!(stability(&by_rule, &by_fallback(20.0)), (2, 0, 1));
    assert_eq!(stability(&by_rule, &document(&[], None, "1")), (0, 0, 0), "nothing is answered by both");
}

#[test]
fn problems_without_a_known_name_are_buckets_of_their_own_and_unknown_times_are_no_tie() {
    let old = one(16, &[problem("a", 10.0, 0.01), problem("b", 10.0, 0.01)]);
    assert_eq!(stability(&old, &one(32, &[problem("a", 10.0, 0.01), json!({ "problem": "b" })])), (2, 1, 1));
}

#[test]
fn the_environment_is_shown_apart() {
    let old = document(&[rule("<=4", 16, &[problem("a", 10.0, 0.01)])], None, "580.1");
    let mut new = document(&[rule("<=4", 16, &[problem("a", 10.0, 0.01)])], None, "590.2");
    new.rules[0].source.insert("kernels".into(), json!(["k2"]));
    let diff = diff(&old, &new);
    assert!(!diff.regression);
    let fields: Vec<&str> = diff.environment.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(fields, ["driver", "kernel"]);
    assert_eq!((diff.environment[0].old.as_str(), diff.environment[0].new.as_str()), ("580.1", "590.2"));
    assert!(diff.to_table().contains("matmul: driver changed: 580.1 → 590.2"), "{}", diff.to_table());
}

#[test]
fn tables_name_what_changed() {
    let rules = |us| [rule("<=4", 16, &[problem("a", us, 0.01)]), rule("<=8", 16, &[problem("b", 5.0, 0.01)])];
    let diff = diff(&document(&rules(10.0), None, "1"), &document(&rules(12.5), None, "1"));
    insta::assert_snapshot!("table", diff.to_table());
    insta::assert_snapshot!("markdown", diff.to_markdown());
    insta::assert_json_snapshot!("json", diff);
}
