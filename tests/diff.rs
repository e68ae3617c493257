//! Comparing documents.
#![cfg(feature = "harness")]
#![allow(missing_docs, clippy::float_cmp, clippy::panic, clippy::unwrap_used)] // figures are exact; a panic fails a test

use kernel_sweep::derive::config_key;
use kernel_sweep::diff::{self, Diff, Entry, IncomparableTimes, Status};
use kernel_sweep::error::ErrorKind;
use kernel_sweep::heuristics::Document;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A problem as documents list it.
fn problem(name: &str, served_us: f64, noise: f64) -> Value {
    json!({ "problem": name, "served_us": served_us, "best_us": served_us, "noise": noise })
}

/// The same with the served time over that of other programs.
fn anchored(name: &str, served_us: f64, anchors: &[(&str, f64)]) -> Value {
    let anchors: BTreeMap<_, _> = anchors.iter().copied().collect();
    json!({ "problem": name, "served_us": served_us, "noise": 0.005, "anchors": anchors })
}

fn diff(old: &Document, new: &Document) -> Diff {
    diff::diff(old, new, IncomparableTimes::Refuse).unwrap()
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

/// The status of one rule whose problems took `old_us` and take `new_us`.
fn status<const N: usize>(old_us: [f64; N], new_us: [f64; N]) -> (Status, bool) {
    let problems = |us: [f64; N]| us.iter().enumerate().map(|(at, us)| problem(&format!("p{at}"), *us, 0.01)).collect();
    let rule = |us| -> Document { one(16, Vec::<Value>::as_slice(&problems(us))) };
    let diff = diff(&rule(old_us), &rule(new_us));
    (only(&diff).status, diff.regression)
}

#[test]
fn verdicts_need_more_than_two_per_cent_and_more_than_chance() {
    assert_eq!(status([10.0; 4], [9.5; 4]), (Status::Fast, false));
    assert_eq!(status([10.0; 4], [10.5; 4]), (Status::Slow, true));
    assert_eq!(status([10.0; 4], [10.19; 4]), (Status::Same, false));
    assert_eq!(status([10.0; 4], [9.81; 4]), (Status::Same, false));
    assert_eq!(status([400.0; 9], [406.0; 9]), (Status::Same, false), "sure, and nothing anyone is told of");
    assert_eq!(status([10.0], [10.3]), (Status::Ambiguous, false), "beyond 2 %, within chance");
    assert_eq!(status([10.0, 20.0], [12.0, 16.7]), (Status::Ambiguous, false), "one faster, one slower");
    assert_eq!(status([10.0], [13.0]), (Status::Slow, true), "one problem, and plain");
}

#[test]
fn one_stray_among_others_is_not_sure() {
    assert_eq!(status([10.0; 4], [10.0, 11.5, 10.0, 10.0]), (Status::Ambiguous, false));
    assert_eq!(status([10.0; 4], [10.0, 10.7, 10.0, 10.0]), (Status::Same, false));
}

#[test]
fn anchors_tell_a_slowdown_from_a_slow_day() {
    let document = |served_us: f64, others: f64| {
        let name = |at| format!("m={at},n=512,k=512 bf16");
        let one = |at| anchored(&name(at), served_us, &[("a", served_us / others), ("b", served_us / others / 2.0)]);
        one_of(&(1..=4).map(one).collect::<Vec<_>>())
    };
    // Everything takes 4 % longer.
    let slow_day = diff(&document(10.0, 12.0), &document(10.4, 12.48));
    assert_eq!(only(&slow_day).status, Status::Same);
    let times = only(&slow_day).times.as_ref().unwrap();
    assert!((times.ratio - 1.0).abs() < 1e-9 && (times.absolute - 1.04).abs() < 1e-9 && times.anchored == 4);
    // The same times on a day when the others took less.
    let slowdown = diff(&document(10.0, 12.0), &document(10.0, 11.4));
    assert_eq!((only(&slowdown).status, slowdown.regression), (Status::Slow, true));
}

fn one_of(problems: &[Value]) -> Document {
    one(16, problems)
}

#[test]
fn an_anchor_that_is_the_served_program_or_is_gone_says_nothing() {
    let with = |served_us: f64, anchors: &[(&str, f64)]| {
        one_of(&(1..=4).map(|at| anchored(&format!("p{at}"), served_us, anchors)).collect::<Vec<_>>())
    };
    let entry = |old: &Document, new: &Document| only(&diff(old, new)).clone();
    // It is beside itself in both; so it goes by absolute times.
    let itself = entry(&with(10.0, &[("own", 1.0)]), &with(10.5, &[("own", 1.0)]));
    assert_eq!((itself.status, itself.times.unwrap().anchored), (Status::Slow, 0));
    // A changed kernel is another program.
    let changed = entry(&with(10.0, &[("a", 0.8)]), &with(10.5, &[("b", 0.8)]));
    assert_eq!((changed.status, changed.times.unwrap().anchored), (Status::Slow, 0));
    // Another config of the same kernels: each was an anchor of the other.
    let old = with(10.0, &[("own", 1.0), ("other", 0.99)]);
    let new = with(10.1, &[("own", 1.01), ("other", 1.0)]);
    let tie = entry(&old, &new);
    assert_eq!(tie.status, Status::Same);
    assert!((tie.times.unwrap().ratio - 1.01).abs() < 2e-4);
}

/// The same document once it was written and read, with its problems in rows.
fn written(document: &Document) -> Document {
    let text = document.to_canonical_json();
    assert!(!text.contains("served_us") && text.contains("\"problems\":[\n["), "{text}");
    Document::from_bytes(text.as_bytes()).unwrap()
}

#[test]
fn a_document_of_the_form_before_compares_with_one_of_today_as_with_its_like() {
    let of_day = |factor: f64| {
        let one = |at: usize| {
            let (us, beside) = (10.012_34 * factor * at as f64, 0.98 / factor);
            let anchors = [("5336653c", beside), ("8124954e", 0.6533), ("ba092663", 3.2171), ("f5584efa", 1.0)];
            anchored(&format!("m={at},n=512,k=512 bf16"), us, &anchors)
        };
        one_of(&(1..=9).map(one).collect::<Vec<_>>())
    };
    let (old, new) = (of_day(1.0), of_day(1.07));
    let verdict = |old: &Document, new: &Document| {
        let entry = only(&diff(old, new)).clone();
        let times = entry.times.unwrap();
        (entry.status, times.problems, times.anchored, times.ratio, times.range, times.noise)
    };
    for [old, new] in [[&old, &new], [&new, &old], [&old, &old]] {
        let expected = verdict(old, new);
        assert_eq!(verdict(&written(old), new), expected);
        assert_eq!(verdict(old, &written(new)), expected);
        assert_eq!(verdict(&written(old), &written(new)), expected);
    }
    assert_eq!(verdict(&old, &written(&old)).0, Status::Same);
    assert_eq!(diff(&old, &written(&old)).calibration, diff(&old, &old).calibration, "nothing was measured again");
}

/// Rules of four problems each, all 16 of which take `us`, but for those of one rule.
fn class_with(us: f64, first_us: f64) -> Document {
    let rules: Vec<Value> = ["<=4", "<=8", "<=16", "<=64"]
        .iter()
        .enumerate()
        .map(|(at, m_bin)| {
            let us = if at == 0 { first_us } else { us };
            rule(m_bin, 16, &(0..4).map(|of| problem(&format!("p{at}.{of}"), us, 0.01)).collect::<Vec<_>>())
        })
        .collect();
    document(&rules, None, "1")
}

#[test]
fn absolute_times_are_judged_less_what_the_rest_of_the_class_does() {
    let statuses = |diff: &Diff| diff.entries.iter().map(|entry| entry.status).collect::<Vec<_>>();
    let slow_day = diff(&class_with(10.0, 10.0), &class_with(10.1, 10.1));
    assert!(statuses(&slow_day).iter().all(|status| *status == Status::Same) && !slow_day.regression);
    let one_bucket = diff(&class_with(10.0, 10.0), &class_with(10.1, 10.605));
    assert!(one_bucket.entries.iter().any(|entry| entry.status == Status::Slow && entry.place == "m_bin <=4"));
    let ratio = one_bucket.entries.iter().find(|entry| entry.status == Status::Slow).unwrap().times.as_ref().unwrap();
    // Times are told in four digits.
    assert!((ratio.ratio - 1.05).abs() < 1e-3, "{ratio:?}");
    let the_others: Vec<_> = one_bucket.entries.iter().filter(|entry| entry.status == Status::Same).collect();
    assert_eq!(the_others.len(), 3, "the rest of the class is not faster for it");
}

#[test]
fn what_was_carried_over_says_nothing_of_noise() {
    let with = |us: f64| {
        let rules = (0..20).map(|at| {
            let us = if at == 0 { us } else { 10.0 };
            rule(
                &format!("<={at}"),
                16,
                &(0..4).map(|of| problem(&format!("p{at}.{of}"), us, 0.01)).collect::<Vec<_>>(),
            )
        });
        document(&rules.collect::<Vec<_>>(), None, "1")
    };
    let diff = diff(&with(10.0), &with(10.25));
    let entry = diff.entries.iter().find(|entry| entry.place == "m_bin <=0").unwrap();
    assert_eq!((entry.status, entry.regression), (Status::Ambiguous, false), "nineteen rules were not measured again");
    let others = diff.entries.iter().filter(|entry| entry.place != "m_bin <=0");
    assert!(others.map(|entry| entry.status).all(|status| status == Status::Same) && !diff.classes[0].regression);
}

/// The same document, derived from the trials of that name.
fn of_trials(name: &str, mut document: Document) -> Document {
    for rule in &mut document.rules {
        rule.source.insert("measurement".into(), json!(name));
    }
    document
}

/// Short kernels take a whole number of ticks of the GPU's clock, and so the same time on most nights.
#[test]
fn equal_times_of_two_nights_were_measured_again() {
    // Of 80 problems the last nine take a tick more on the second night, and those of the first rule whatever they take.
    let night = |name: &str, first_us: f64, last_us: f64| {
        let rules = (0..20).map(|at| {
            let us = |of| match at * 4 + of {
                71.. => last_us,
                0..4 => first_us,
                _ => 10.0,
            };
            let problems: Vec<Value> = (0..4).map(|of| problem(&format!("p{at}.{of}"), us(of), 0.01)).collect();
            rule(&format!("<={at}"), 16, &problems)
        });
        of_trials(name, document(&rules.collect::<Vec<_>>(), None, "1"))
    };
    let entry = |diff: &Diff, place: &str| diff.entries.iter().find(|entry| entry.place == place).unwrap().clone();
    let first = |diff: &Diff| entry(diff, "m_bin <=0");
    // Most of the class did not shift, so that nothing is taken off what did; of the nine alone it would be their tick.
    let two_nights = diff(&night("one", 10.0, 10.0), &night("another", 10.0, 10.4));
    let ticks = entry(&two_nights, "m_bin <=18").times.unwrap();
    assert!((ticks.ratio - 1.04).abs() < 1e-9, "{ticks:?}");
    // A slowdown stands out from a class that is as quiet as that.
    let slowdown = diff(&night("one", 10.0, 10.0), &night("another", 10.25, 10.0));
    assert_eq!((first(&slowdown).status, slowdown.regression), (Status::Slow, true));
    // Of the same trials, nothing else was measured, and nothing says how far nights differ.
    let same_trials = diff(&night("one", 10.0, 10.0), &night("one", 10.25, 10.0));
    assert_eq!((first(&same_trials).status, same_trials.regression), (Status::Ambiguous, false));
}

/// A sweep that goes on gives the class other trials, and most problems the ones they had: anchors and slowdowns tell.
#[test]
fn what_stands_beside_others_as_before_was_not_measured_again() {
    let night = |name: &str, first_us: f64| {
        let rules = (0..20).map(|at| {
            let us = if at == 0 { first_us } else { 10.0 };
            let one = |of: usize| match of % 2 {
                0 => json!({ "problem": format!("p{at}.{of}"), "served_us": us, "noise": 0.01, "slowdown": 1.0123 }),
                _ => anchored(&format!("p{at}.{of}"), us, &[("abcdef", 0.9876)]),
            };
            rule(&format!("<={at}"), 16, &(0..4).map(one).collect::<Vec<_>>())
        });
        of_trials(name, document(&rules.collect::<Vec<_>>(), None, "1"))
    };
    let calibration = |new: &str| diff(&night("one", 10.0), &night(new, 10.0)).calibration;
    assert_eq!(calibration("another"), calibration("one"));
}

#[test]
fn a_whole_class_that_got_slower_is_a_regression_of_its_own() {
    let diff_of = |us: f64| diff(&class_with(10.0, 10.0), &class_with(us, us));
    let slower = diff_of(10.8);
    assert!(slower.regression && slower.entries.iter().all(|entry| entry.status == Status::Same));
    assert!((slower.classes[0].ratio - 1.08).abs() < 1e-9 && slower.classes[0].regression);
    assert!(slower.to_table().contains("matmul: slower as a whole: 1.080"), "{}", slower.to_table());
    let unsure = diff_of(10.35);
    assert!(unsure.classes[0].suspect && !unsure.regression, "sweeps alone differ by so much: a race has to tell");
    assert!(unsure.to_table().contains("matmul: maybe slower as a whole, which is AMBIGUOUS: 1.035"));
    assert!(!diff_of(10.1).classes[0].suspect, "hosts and nights differ by so much");
    assert!(!diff_of(9.5).regression);
}

/// 1.42 %: what one time of less than 20 µs is off by from sweep to sweep, where too few were measured to tell.
const ONE_TIME: f64 = 0.0142;

#[test]
fn an_entry_says_by_how_much_it_changed_and_how_sure_that_is() {
    let problems = |us: [f64; 4]| (0..4).map(|at| problem(&format!("p{at}"), us[at], 0.01)).collect::<Vec<_>>();
    let new_us = [10.0, 10.1, 10.3, 10.5];
    let diff = diff(&one(16, &problems([10.0; 4])), &one(16, &problems(new_us)));
    let times = only(&diff).times.as_ref().unwrap();
    let change = new_us.iter().map(|us| (us / 10.0_f64).ln()).sum::<f64>() / 4.0;
    let near = |value: f64, wanted: f64| (value - wanted).abs() < 1e-9;
    assert!(near(times.ratio, change.exp()) && near(times.absolute, change.exp()), "{times:?}");
    assert!(near(times.range[0], 1.0) && near(times.range[1], 1.05), "{times:?}");
    assert!(near(times.noise, 1.96 * ONE_TIME / 2.0) && near(times.deviations, 2.0 * change / ONE_TIME), "{times:?}");
    assert_eq!((times.problems, times.anchored, times.mixed), (4, 0, false));
}

#[test]
fn a_class_is_known_better_than_its_problems_and_one_stray_of_them_is_no_shift() {
    let class = |first_us: f64| diff(&class_with(10.0, 10.0), &class_with(10.0, first_us)).classes.remove(0);
    let quiet = class(10.1);
    assert_eq!(quiet.problems, 16);
    assert!((quiet.noise - 1.96 * ONE_TIME / 16.0_f64.sqrt()).abs() < 1e-9, "{}", quiet.noise);
    // Four of sixteen count for four deviations each, however far they went.
    for (first_us, shift) in [(20.0, ONE_TIME), (30.0, ONE_TIME), (5.0, -ONE_TIME), (2.5, -ONE_TIME)] {
        let strayed = class(first_us);
        assert!((strayed.ratio.ln() - shift).abs() < 1e-9 && !strayed.suspect, "{first_us} µs: {}", strayed.ratio);
    }
}

#[test]
fn a_bucket_that_a_fallback_serves_is_found_among_the_others() {
    let with = |slow_us: f64| {
        let many =
            |m: u32, us: f64| (0..4).map(move |at| problem(&format!("m={m},n={},k=512 bf16", 512 - at), us, 0.005));
        let others = [2, 8, 16, 64, 128].into_iter().flat_map(|m| many(m, 30.0));
        document(&[], Some(fallback(16, &others.chain(many(200, slow_us)).collect::<Vec<_>>())), "1")
    };
    let diff = diff(&with(30.0), &with(31.5));
    let entry = only(&diff);
    assert_eq!((entry.status, entry.place.as_str()), (Status::Slow, "small_m"));
    let times = entry.times.as_ref().unwrap();
    assert!(times.bucket.as_ref().unwrap().contains("m_bin <=256") && times.problems == 4, "{times:?}");
    assert_eq!(entry.contests.len(), 4, "its problems would be raced");
    assert!(diff.to_table().contains("fallback small_m: aspect"), "{}", diff.to_table());
}

#[test]
fn unlike_protocols_and_devices_are_refused_and_name_the_way_on() {
    let with = |word: &str, other: &str, us: f64| {
        let text = serde_json::to_string(&one(16, &[problem("a", us, 0.01)])).unwrap();
        Document::from_value(serde_json::from_str(&text.replace(word, other)).unwrap()).unwrap()
    };
    let old = one(16, &[problem("a", 10.0, 0.01)]);
    for (word, other, way_on) in
        [("cold-l2/1", "cold-l2/2", "--fresh"), ("NVIDIA H200", "NVIDIA H200 MIG 1g.18gb", "documents of one device")]
    {
        let new = with(word, other, 20.0);
        let error = diff::diff(&old, &new, IncomparableTimes::Refuse).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        for part in ["matmul", &format!("{word} in the old"), &format!("{other} in the new"), way_on] {
            assert!(error.to_string().contains(part), "{error}");
        }
        let coverage = diff::diff(&old, &new, IncomparableTimes::LeaveOut).unwrap();
        assert!(only(&coverage).times.is_none() && !coverage.regression);
    }
    let lost = diff::diff(&old, &document(&[rule("<=4", 16, &[])], None, "1"), IncomparableTimes::Refuse).unwrap();
    assert!(lost.regression, "coverage counts under any protocol");
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
    assert!((times.ratio - 0.8).abs() < 1e-9 && times.problems == 1);
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
    assert!((slower.entries[0].times.as_ref().unwrap().ratio - 1.5).abs() < 1e-9);
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
    assert_eq!(faster.entries[0].status, Status::Added);
    assert!((faster.entries[0].times.as_ref().unwrap().ratio - 0.5).abs() < 1e-9);
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
    let template = |size: u32| json!({ "block_sizes": [size] }).as_object().unwrap().clone();
    let with_ties = |block_size, us, ties: &[u32]| {
        let mut document = one(block_size, &[problem("m=2,n=512,k=512 bf16", us, 0.01)]);
        let keys: Vec<String> = ties.iter().map(|tie| config_key(&template(*tie))).collect();
        document.rules[0].validation.insert("ties".into(), json!({ "configs": keys, "repeat_noise": 0.03 }));
        document
    };
    let old = with_ties(16, 10.0, &[32, 64]);
    assert_eq!(stability(&old, &with_ties(32, 10.5, &[])), (1, 1, 0));
    assert_eq!(stability(&old, &with_ties(128, 10.5, &[16])), (1, 1, 0));
    assert_eq!(stability(&old, &with_ties(128, 10.5, &[256])), (1, 0, 1));
    // Texts, as documents held them before.
    let mut by_text = one(128, &[problem("m=2,n=512,k=512 bf16", 10.5, 0.01)]);
    by_text.rules[0]
        .validation
        .insert("ties".into(), json!({ "configs": [r#"{"block_sizes":[16]}"#], "repeat_noise": 0.03 }));
    assert_eq!(stability(&old, &by_text), (1, 1, 0));
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

/// A night on which each of so many buckets got slower by its own share and so many others did not, under another driver.
fn slower_night(slower: u32, others: u32, problems: u32) -> Diff {
    let of_night = |is_slow: bool| {
        let rule = |at: u32| {
            // What was measured again is never quite the same, in the four digits that times are told in.
            let again = if is_slow { 0.002 } else { 0.0 };
            let share = if is_slow && at < slower { 0.1 + f64::from(at) / 100.0 } else { again };
            let problems = (0..problems).map(|of| problem(&format!("p{at}.{of}"), 10.0 * (1.0 + share), 0.01));
            rule(&format!("<={at:040}"), 16, &problems.collect::<Vec<_>>())
        };
        (0..slower + others).map(rule).collect::<Vec<_>>()
    };
    diff(&document(&of_night(false), None, "580.1"), &document(&of_night(true), None, "590.2"))
}

#[test]
fn a_comment_opens_with_the_verdict_and_shows_ten_rows_with_the_rest_folded() {
    let diff = slower_night(14, 70, 4);
    let markdown = diff.to_markdown();
    assert!(markdown.starts_with("**Regression**: "), "{markdown}");
    let worst = diff.by_weight()[0];
    let first_line = markdown.lines().next().unwrap();
    assert!(first_line.contains("slower") && first_line.contains(&format!("{} at ", worst.name())), "{first_line}");
    assert!(markdown.contains("matmul: driver changed: 580.1 → 590.2"));
    let (shown, folded) = markdown.split_once("<details>").unwrap();
    let rows = |text: &str| text.lines().filter(|line| line.contains("m_bin <=")).count();
    let changed = diff.entries.iter().filter(|entry| entry.status != Status::Same).count();
    // The verdict names the worst once more.
    assert_eq!((rows(shown), rows(folded)), (10 + 1, changed - 10), "{markdown}");
    assert_eq!(folded.matches("</details>").count(), markdown.matches("<details>").count());
}

#[test]
fn a_comment_stays_short_enough_to_be_posted_whatever_changed() {
    let markdown = slower_night(700, 700, 1).to_markdown();
    assert!(markdown.len() < 65_536, "{} bytes", markdown.len());
    assert!(markdown.contains("which `sweep diff` lists") && markdown.trim_end().ends_with("</details>"));
}

#[test]
fn what_a_document_is_called_does_nothing_to_a_comment() {
    let of = |us: f64| {
        let name = "<img src=x> | @everyone [a](b)\n# loud";
        document(
            &[rule(name, 16, &(0..4).map(|at| problem(&format!("p{at}"), us, 0.01)).collect::<Vec<_>>())],
            None,
            "1",
        )
    };
    let markdown = diff(&of(10.0), &of(13.0)).to_markdown();
    for raw in ["<img", "@everyone", " | @", "[a](b)", "\n# loud"] {
        assert!(!markdown.contains(raw), "{raw}: {markdown}");
    }
}

#[test]
fn a_comment_without_a_regression_says_so_first() {
    let (same, faster) = (one(16, &[problem("a", 10.0, 0.01)]), one(16, &[problem("a", 7.0, 0.01)]));
    assert!(diff(&same, &same).to_markdown().starts_with("**No regression**: 1 the same\n"));
    assert!(diff(&same, &faster).to_markdown().starts_with("**No regression**: 1 faster\n"));
    let gone = diff(&same, &one(16, &[]));
    assert!(
        gone.to_markdown().starts_with("**Regression**: 1 of the problems covered no more"),
        "{}",
        gone.to_markdown()
    );
}

/// Nights made up from recorded noise, to see how often a diff is wrong. A simulation: no time in it was measured.
mod simulation {
    use super::*;
    use rand::{Rng, SeedableRng, seq::IndexedRandom};
    use rand_chacha::ChaCha8Rng;
    use rayon::prelude::*;

    /// How far the times of 716 problems shifted between two sweeps on an H200 with the same kernels, by duration class: relative to
    /// the other finalists, over the spread of so many, and absolute. From the archives of attention, softmax, elementwise and matmul
    /// before this one's protocol.
    type Recorded = BTreeMap<String, Vec<[f64; 2]>>;

    fn recorded() -> Recorded {
        serde_json::from_str(include_str!("data/repeat_noise.json")).unwrap()
    }

    /// A class of each kind, of the shape that documents have: rules of three to five problems, and a fallback over all of them.
    struct Plan {
        /// Class, rule and its problems' times.
        rules: Vec<(String, String, Vec<f64>)>,
    }

    impl Plan {
        fn of(random: &mut impl Rng) -> Self {
            let rule = |at: usize| {
                let times = [4.0, 8.0, 12.0, 17.0, 35.0, 100.0, 400.0];
                let base: f64 = *times.choose(random).unwrap();
                let problems = (0..random.random_range(3..=5)).map(|_| base * random.random_range(0.8..1.2)).collect();
                (format!("class{}", at % 4), format!("<={at}"), problems)
            };
            Self { rules: (0..100).map(rule).collect() }
        }

        /// A document where each problem's anchors and absolute time shifted by `shift`; without anchors as if all kernels were new.
        fn document(&self, anchors: bool, mut shift: impl FnMut(usize, f64) -> [f64; 2]) -> Document {
            let mut by_class: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
            let mut rules = Vec::new();
            for (at, (class, bin, times)) in self.rules.iter().enumerate() {
                let problem = |(of, us): (usize, &f64)| {
                    let [relative, absolute] = shift(at, *us);
                    let anchors = (0..5)
                        .filter(|_| anchors)
                        .map(|key| (key.to_string(), (0.9 - 0.02 * f64::from(key)) * relative.exp()));
                    json!({
                        "problem": format!("{at}.{of}"), "served_us": us * absolute.exp(), "noise": 0.008,
                        "anchors": anchors.collect::<BTreeMap<_, _>>(),
                    })
                };
                let problems: Vec<Value> = times.iter().enumerate().map(problem).collect();
                by_class.entry(class).or_default().extend(problems.clone());
                rules.push(json!({
                    "kernel_class": class, "shape_bucket": { "m_bin": bin }, "match_exact_only": true,
                    "source": { "problems": problems, "kernels": [if anchors { "k" } else { "other" }] },
                    "templates": [{ "template": { "block_sizes": [at] } }],
                }));
            }
            let fallbacks: BTreeMap<_, _> = by_class
                .into_iter()
                .map(|(class, problems)| (class, json!({ "all": fallback(16, &problems) })))
                .collect();
            let value = json!({ "schema_version": 2, "policy": {}, "rules": rules, "fallbacks": fallbacks });
            Document::from_value(value).unwrap()
        }
    }

    /// Of so many pairs of sweeps, in how many something unchanged is called a regression, and in how many a rule that got slower by
    /// `slowdown` is found, and in how many it is at least to be raced.
    fn nights(nights: u64, anchors: bool, slowdown: f64) -> [usize; 3] {
        let recorded = recorded();
        let night = |night: u64| {
            let mut random = ChaCha8Rng::seed_from_u64(night);
            let plan = Plan::of(&mut random);
            // Those below 20 µs are the hardest.
            let fast: Vec<usize> = (0..100).filter(|at| plan.rules[*at].2.iter().all(|us| *us < 20.0)).collect();
            let slow_rule = *fast.choose(&mut random).unwrap();
            let mut noise = |us: f64| {
                let class = match us {
                    ..20.0 => "under_20",
                    20.0..50.0 => "under_50",
                    50.0..200.0 => "under_200",
                    _ => "slow",
                };
                let sign = if random.random_bool(0.5) { 1.0 } else { -1.0 };
                let [relative, absolute] = *recorded[class].choose(&mut random).unwrap();
                // The spread of five anchors.
                [sign * relative * 1.2f64.sqrt(), sign * absolute]
            };
            let shifts: Vec<Vec<[f64; 2]>> =
                plan.rules.iter().map(|(.., times)| times.iter().map(|us| noise(*us)).collect()).collect();
            let after = |slow_rule: Option<usize>| {
                let mut next = shifts.iter().flatten();
                plan.document(anchors, |at, _| {
                    let slower = if slow_rule == Some(at) { slowdown.ln_1p() } else { 0.0 };
                    next.next().unwrap().map(|shift| shift + slower)
                })
            };
            let mut old = plan.document(true, |_, _| [0.0; 2]);
            old.policy.clear();
            let cries_wolf = diff(&old, &after(None)).regression;
            let found = diff(&old, &after(Some(slow_rule)));
            let entry =
                found.entries.iter().find(|entry| entry.rule && entry.place == format!("m_bin <={slow_rule}")).unwrap();
            [cries_wolf, entry.status == Status::Slow && entry.regression, entry.is_suspect()].map(usize::from)
        };
        let all: Vec<[usize; 3]> = (0..nights).into_par_iter().map(night).collect();
        [0, 1, 2].map(|count| all.iter().map(|counts| counts[count]).sum())
    }

    #[test]
    fn one_night_in_a_hundred_cries_wolf_and_a_slow_bucket_is_found() {
        let [alarms, found, raced] = nights(60, true, 0.05);
        assert!(alarms <= 2, "{alarms} of 60 nights without change are regressions");
        assert!(found >= 56, "{found} of 60 buckets that got 5 % slower are found");
        assert_eq!(raced, 60);
        let [alarms, _, raced] = nights(20, false, 0.05);
        assert!(alarms <= 1, "{alarms} of 20 nights with other kernels and the same times are regressions");
        assert!(raced >= 19, "{raced} of 20 buckets that got 5 % slower by another kernel are raced");
    }

    #[test]
    fn sign_flips_tell_how_often_a_night_would_cry_wolf() {
        let recorded = recorded();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let plan = Plan::of(&mut random);
        let old = plan.document(true, |_, _| [0.0; 2]);
        let new = plan.document(true, |_, _| *recorded["under_20"].choose(&mut random).unwrap());
        let calibration = diff(&old, &new).calibration;
        assert!(calibration.false_alarms <= 0.02 && calibration.threshold > 4.0, "{calibration:?}");
    }

    /// The figures for the README: cargo test --release --test diff -- --ignored --nocapture
    #[test]
    #[ignore = "takes minutes"]
    fn figures() {
        for (anchors, slowdown) in [(true, 0.05), (true, 0.03), (false, 0.05), (false, 0.1)] {
            let [alarms, found, raced] = nights(1000, anchors, slowdown);
            println!(
                "anchors {anchors}, {slowdown}: of 1000 nights {alarms} false alarms, {found} found, {raced} to be raced"
            );
        }
    }
}
