//! A document never gets poorer by a run that measured less than the last: what was not measured anew stays, with its source.

use super::amount;
use super::models;
use super::trials::{config, failed, finalist, h200, header, trial};
use kernel_sweep::derive::{self, Defaults, Derived, Evidence, Inputs};
use kernel_sweep::error::Result;
use kernel_sweep::heuristics::{Document, FittedModel};
use kernel_sweep::journal::{Contents, Header, Stage, Status, Trial};
use kernel_sweep::model::{Bytes, Family};
use serde_json::Value;
use std::collections::BTreeSet;

/// Of one bucket and group.
const SMALL: [&str; 3] = ["m=16,n=4096,k=4096", "m=12,n=4096,k=4096", "m=14,n=4096,k=4096"];
/// Of another bucket of that group.
const LARGE: [&str; 3] = ["m=200,n=4096,k=4096", "m=220,n=4096,k=4096", "m=240,n=4096,k=4096"];
/// Of another group.
const NARROW: [&str; 2] = ["m=4096,n=128,k=4096", "m=4000,n=128,k=4096"];

/// Finals of some problems, in which `best` of four configs wins.
fn finals(shapes: &[&str], best: u32) -> Vec<Trial> {
    let of_shape = |shape: &&str| {
        let us = |block: u32| if block == best { 10.0 } else { 12.0 + f64::from(block) / 16.0 };
        let of_config = |block: u32| finalist(Family::Matmul, shape, &config(block), us(block));
        [16, 32, 64, 128].map(of_config)
    };
    shapes.iter().flat_map(of_shape).collect()
}

/// The first night: another config wins in each bucket.
fn first_night() -> Vec<Trial> {
    [finals(&SMALL, 16), finals(&LARGE, 32), finals(&NARROW, 64)].concat()
}

fn contents(headers: &[Header], trials: &[Trial]) -> Contents {
    Contents { headers: headers.to_vec(), trials: trials.to_vec(), ..Contents::default() }
}

fn derived(
    before: Option<&Document>,
    journals: Vec<Contents>,
    accept_driver: bool,
    is_today: &(dyn Fn(&Trial) -> bool + Sync),
) -> Result<Derived> {
    let named = journals.into_iter().enumerate().map(|(place, contents)| (format!("journal {place}"), contents));
    let named: Vec<_> = named.collect();
    let inputs = Inputs {
        profile: &h200(),
        journals: &named,
        measurements: Evidence::default(),
        defaults: &Defaults::new(),
        before,
        accept_driver,
    };
    derive::run_where(inputs, is_today)
}

fn try_run(
    before: Option<&Document>,
    journals: Vec<Contents>,
    accept_driver: bool,
    is_today: &(dyn Fn(&Trial) -> bool + Sync),
) -> Result<Document> {
    let derived = derived(before, journals, accept_driver, is_today)?;
    // As whoever reads it has it.
    Document::from_bytes(derived.document.to_canonical_json().as_bytes())
}

fn run(before: Option<&Document>, trials: &[Trial]) -> Document {
    try_run(before, vec![contents(&[header()], trials)], false, &|_| true).unwrap()
}

fn problems_of(source: &Value) -> BTreeSet<String> {
    let problems = source["problems"].as_array().into_iter().flatten();
    problems.map(|problem| problem["problem"].as_str().unwrap().to_owned()).collect()
}

/// What a document holds: where, of which problems, and all that it says there.
fn entries(document: &Document) -> Vec<(String, BTreeSet<String>, Value)> {
    let rules = document.rules.iter().map(|rule| (format!("{:?}", rule.shape_bucket), serde_json::to_value(rule)));
    let fallbacks = document.fallbacks.values().flatten();
    let fallbacks = fallbacks.map(|(group, fallback)| (group.clone(), serde_json::to_value(fallback)));
    let entry = |(place, value): (String, serde_json::Result<Value>)| {
        let value = value.unwrap();
        (place, problems_of(&value["source"]), value)
    };
    rules.chain(fallbacks).map(entry).collect()
}

fn served(document: &Document, shape: &str) -> Value {
    let problem = kernel_sweep::model::Problem::parse(Family::Matmul, shape, kernel_sweep::model::Dtype::Bf16).unwrap();
    let heuristics = kernel_sweep::heuristics::Heuristics::new(document.clone());
    heuristics.lookup_problem(&problem).best().unwrap()["block_sizes"][0].clone()
}

#[test]
fn whatever_part_is_measured_anew_the_rest_stays_as_it_was() {
    let before = run(None, &first_night());
    let all: Vec<&str> = SMALL.into_iter().chain(LARGE).chain(NARROW).collect();
    assert_eq!(before.rules.len(), 1, "two buckets are left to their groups' fallbacks");
    for subset in amount::some(1_u32..1 << all.len()) {
        let measured: Vec<&str> =
            (0..all.len()).filter(|place| subset >> place & 1 == 1).map(|place| all[place]).collect();
        let names: BTreeSet<String> = measured.iter().map(|shape| format!("{shape} bf16")).collect();
        // Every problem has another winner now.
        let after = run(Some(&before), &finals(&measured, 128));
        let now = entries(&after);
        for (place, problems, entry) in entries(&before) {
            let same_place = now.iter().find(|(other, ..)| *other == place);
            if !problems.is_subset(&names) {
                assert_eq!(same_place.map(|(.., entry)| entry), Some(&entry), "{place} after {measured:?}");
            }
        }
        let known = |entries: &[(String, BTreeSet<String>, Value)]| -> BTreeSet<String> {
            entries.iter().flat_map(|(_, problems, _)| problems.clone()).collect()
        };
        assert!(known(&now).is_superset(&known(&entries(&before))), "{measured:?}");
        for shape in &all {
            let bucket = [&SMALL[..], &LARGE, &NARROW].into_iter().find(|bucket| bucket.contains(shape)).unwrap();
            let untouched = bucket.iter().all(|shape| !measured.contains(shape));
            if untouched {
                assert_eq!(served(&after, shape), served(&before, shape), "{shape} after {measured:?}");
            }
        }
        if measured.len() == all.len() {
            assert!(all.iter().all(|shape| served(&after, shape) == 128), "all was measured anew");
        }
        // The same journal once more changes nothing.
        let again = run(Some(&after), &finals(&measured, 128));
        assert_eq!(again.to_canonical_json(), after.to_canonical_json(), "{measured:?}");
    }
}

#[test]
fn a_report_counts_what_was_measured_and_what_stays() {
    let before = run(None, &first_night());
    for measured in [&NARROW[..1], &NARROW, &[&SMALL[..], &LARGE].concat()] {
        let trials = finals(measured, 128);
        let derived = derived(Some(&before), vec![contents(&[header()], &trials)], false, &|_| true).unwrap();
        let [report] = &derived.classes[..] else { panic!("one class, not {:?}", derived.classes) };
        let now = entries(&derived.document);
        let as_it_was = entries(&before).into_iter().filter(|entry| now.contains(entry)).count();
        assert!(as_it_was > 0 && report.carried_over == as_it_was, "{measured:?}: {as_it_was}, not {report:?}");
        let counts = (report.trials, report.problems, report.rules, report.fallbacks);
        assert_eq!(counts, (trials.len(), measured.len(), derived.document.rules.len(), now.len() - report.rules));
    }
}

#[test]
fn more_problems_than_before_replace_them() {
    let before = run(None, &finals(&SMALL[..2], 16));
    let after = run(Some(&before), &finals(&SMALL, 128));
    assert_eq!(after.to_canonical_json(), run(None, &finals(&SMALL, 128)).to_canonical_json());
}

#[test]
fn a_search_that_came_to_no_final_replaces_no_final() {
    let before = run(None, &finals(&SMALL, 16));
    let searched: Vec<Trial> = SMALL
        .iter()
        .flat_map(|shape| [16, 128].map(|block| (shape, block, if block == 128 { 5.0 } else { 10.0 })))
        .map(|(shape, block, us)| trial(Family::Matmul, shape, &config(block), Stage::Screen, us))
        .collect();
    assert_eq!(run(Some(&before), &searched).to_canonical_json(), before.to_canonical_json());
}

#[test]
fn what_fails_now_was_measured_anew() {
    let before = run(None, &first_night());
    let fails = |shape: &&str| failed(trial(Family::Matmul, shape, &config(16), Stage::Screen, 1.0), Status::Wrong);
    let now: Vec<Trial> = SMALL.iter().map(fails).chain(finals(&LARGE, 32)).chain(finals(&NARROW, 64)).collect();
    let after = run(Some(&before), &now);
    assert!(after.rules.iter().all(|rule| rule.shape_bucket["m_bin"] != "<=16"), "{:?}", after.rules);
}

#[test]
fn what_ran_as_kernels_that_are_gone_does_not_stay() {
    let before = run(None, &first_night());
    let now: Vec<Trial> =
        finals(&SMALL[..1], 128).into_iter().map(|trial| Trial { kernel: "new".into(), ..trial }).collect();
    let is_today = |trial: &Trial| trial.kernel == "new";
    let after = try_run(Some(&before), vec![contents(&[header()], &now)], false, &is_today).unwrap();
    let problems: BTreeSet<String> = entries(&after).into_iter().flat_map(|(_, problems, _)| problems).collect();
    assert_eq!(problems.into_iter().collect::<Vec<_>>(), [format!("{} bf16", SMALL[0])]);
}

/// What cannot run a problem has no kernel there that could be today's.
#[test]
fn a_problem_that_what_is_served_never_ran_on_says_nothing_of_its_kernels() {
    let mut night = first_night();
    let is_untried = |trial: &Trial| trial.problem().shape.to_string() == SMALL[2] && trial.config == config(16);
    night.retain(|trial| !is_untried(trial));
    let before = run(None, &night);
    assert!(entries(&before).iter().any(|(_, problems, entry)| {
        problems.contains(&format!("{} bf16", SMALL[2]))
            && entry["source"]["kernels"] == serde_json::json!(["kernel-{\"block_sizes\":[16]}"])
    }));
    let journal = contents(&[header()], &finals(&SMALL[..1], 128));
    let after = try_run(Some(&before), vec![journal], false, &|trial| !is_untried(trial)).unwrap();
    assert_eq!(entries(&after), entries(&before));
}

#[test]
fn what_another_protocol_measured_does_not_stay_beside_this_one() {
    let before = run(None, &first_night());
    let newer = Header { protocol: "cold-l2/9".into(), ..header() };
    let journal = contents(&[newer], &finals(&SMALL[..1], 128));
    let after = try_run(Some(&before), vec![journal], false, &|_| true).unwrap();
    assert_eq!(after.policy["protocol"], "cold-l2/9");
    let problems: BTreeSet<String> = entries(&after).into_iter().flat_map(|(_, problems, _)| problems).collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn what_another_driver_measured_stays_and_both_are_named() {
    let before = run(None, &first_night());
    let newer = Header { driver: "590.2".into(), ..header() };
    let journal = contents(&[newer], &finals(&SMALL[..1], 128));
    let after = try_run(Some(&before), vec![journal], false, &|_| true).unwrap();
    assert_eq!(entries(&after), entries(&before));
    assert_eq!(after.policy["driver"], "580.159, 590.2");
}

/// A header with the device's size, and one of a slice of it.
fn sized(gpu: &str, multiprocessors: u32, gib: u64) -> Header {
    let memory_bytes = Some(Bytes::mib(gib << 10));
    Header { gpu: gpu.into(), multiprocessors: Some(multiprocessors), memory_bytes, ..header() }
}

#[test]
fn a_document_takes_nothing_of_another_device_or_of_a_slice_of_its_own() {
    let refusal = |before: Option<&Document>, headers: &[Header]| {
        let journals = headers.iter().map(|header| contents(std::slice::from_ref(header), &finals(&SMALL, 16)));
        let error = try_run(before, journals.collect(), true, &|_| true).unwrap_err();
        error.to_string()
    };
    let whole = sized("NVIDIA H200", 132, 140);
    let before = try_run(None, vec![contents(std::slice::from_ref(&whole), &first_night())], false, &|_| true).unwrap();
    let slice = refusal(None, &[sized("NVIDIA H200 MIG 1g.18gb", 16, 16)]);
    assert!(
        slice.contains("measured on NVIDIA H200 MIG 1g.18gb (h200_mig_1g_18gb), so it says nothing of h200"),
        "{slice}"
    );
    for other in [sized("NVIDIA H200", 16, 140), sized("NVIDIA H200", 132, 16), sized("NVIDIA H200 NVL", 132, 140)] {
        let message = refusal(Some(&before), std::slice::from_ref(&other));
        let told = "was measured on NVIDIA H200 (132 multiprocessors, 143360 MiB), not on NVIDIA H200";
        assert!(message.contains(told) && message.contains("--output"), "{message}");
        let message = refusal(None, &[whole.clone(), other]);
        assert!(message.contains("journal 1") && message.contains("different devices"), "{message}");
    }
}

#[test]
fn journals_of_two_drivers_do_not_count_together_unless_that_is_accepted() {
    let of =
        |driver: &str, shapes: &[&str]| contents(&[Header { driver: driver.into(), ..header() }], &finals(shapes, 16));
    let derive = |journals: Vec<Contents>, accept| try_run(None, journals, accept, &|_| true);
    for (one, other, told) in [
        ("580.1", "590.2", "driver 580.1 → 590.2"),
        ("580.1", "", "driver 580.1 → unknown"),
        ("", "590.2", "driver unknown → 590.2"),
        ("", "", "driver unknown → unknown"),
    ] {
        let journals = || vec![of(one, &SMALL), of(other, &LARGE)];
        let message = derive(journals(), false).unwrap_err().to_string();
        assert!(message.contains("journal 1") && message.contains(told), "{message}");
        assert!(message.contains("--accept-driver"), "{message}");
        derive(journals(), true).unwrap();
    }
    derive(vec![of("580.1", &SMALL), of("580.1", &LARGE)], false).unwrap();
    derive(vec![of("", &SMALL)], false).unwrap();
    // A journal that was taken over says so.
    let older = Header { driver: "580.1".into(), ..header() };
    let newer = Header { driver: "590.2".into(), ..header() };
    let accepting = Header { accepted_drivers: ["580.1".to_owned()].into(), ..newer.clone() };
    derive(vec![contents(&[older.clone(), accepting], &finals(&SMALL, 16))], false).unwrap();
    derive(vec![contents(&[older, newer], &finals(&SMALL, 16))], false).unwrap_err();
}

#[test]
fn a_journal_that_does_not_tell_its_devices_size_is_not_taken_for_one_that_does() {
    let journals = || {
        vec![
            contents(&[header()], &finals(&SMALL, 16)),
            contents(&[sized("NVIDIA H200", 132, 140)], &finals(&LARGE, 16)),
        ]
    };
    let message = try_run(None, journals(), false, &|_| true).unwrap_err().to_string();
    assert!(message.contains("does not tell the size of its device"), "{message}");
    try_run(None, journals(), true, &|_| true).unwrap();
}

fn model_of(document: &Document) -> FittedModel {
    serde_json::from_value(document.models["row_softmax"].clone()).unwrap()
}

#[test]
fn a_model_gives_way_to_none_of_few_problems_and_no_answer_is_lost() {
    let trials = models::journal(Family::RowSoftmax, 40, 40);
    let before = run(None, &trials);
    let model = model_of(&before);
    assert_eq!(model.problems.len(), 40);
    let mut shapes: Vec<_> = trials.iter().map(|trial| trial.problem).collect();
    shapes.dedup();
    // All twice as fast, so that what is anew can be told.
    let anew = |count: usize| -> Vec<Trial> {
        let of_first = trials.iter().filter(|trial| shapes[..count].contains(&trial.problem));
        let faster = |us: Option<kernel_sweep::model::Micros>| us.map(|us| kernel_sweep::model::Micros(us.0 / 2.0));
        let halved = of_first.map(|trial| Trial {
            median_us: faster(trial.median_us),
            rounds_us: trial.rounds_us.iter().map(|us| us / 2.0).collect(),
            ..trial.clone()
        });
        halved.collect()
    };
    let best = |model: &FittedModel| -> Vec<(Vec<i64>, f64)> {
        let mut best: Vec<_> =
            model.problems.iter().map(|problem| (problem.dims.clone(), problem.winners[0].1)).collect();
        best.sort_by(|one, other| one.0.cmp(&other.0));
        best
    };
    for (count, is_of_before) in [(3, true), (20, true), (39, false)] {
        let after = run(Some(&before), &anew(count));
        let now = model_of(&after);
        assert_eq!(now.trees == model.trees, is_of_before, "{count} of 40 measured anew");
        let changed = best(&now).into_iter().zip(best(&model)).filter(|(now, then)| {
            assert_eq!(now.0, then.0, "no problem is lost");
            assert!(now.1 == then.1 || (now.1 / then.1 - 0.5).abs() < 1e-3, "{now:?} {then:?}");
            now.1 < then.1
        });
        assert_eq!(changed.count(), count, "what was measured anew is answered anew");
        kernel_sweep::heuristics::Model::new(now).unwrap();
        assert_eq!(run(Some(&after), &anew(count)).to_canonical_json(), after.to_canonical_json());
    }
}
