//! How far the guided search ends from the best of the whole space: both are run on three problems of each family, and what
//! the guided one found races again in the exhaustive one's finals.

use crate::common::{self, TINY, folder_with_plan, sweep, trials};
use include_dir::{Dir, include_dir};
use kernel_sweep::journal::Trial;
use kernel_sweep::measure::median;
use kernel_sweep::model::Family;
use kernel_sweep::plan;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use toml::Table;

static PLANS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sweeps");
static SHAPES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/tests/exhaustive");

/// The winner may be this much slower than the best there is.
const WITHIN: f64 = 1.01;

/// A family's plan with the three problems, and the axes that are held.
fn plan_of(family: Family) -> Table {
    let read = |folder: &Dir<'_>| -> Table {
        let file = folder.get_file(format!("{family}.toml")).unwrap();
        toml::from_str(file.contents_utf8().unwrap()).unwrap()
    };
    let (mut plan, mut shapes) = (read(&PLANS), read(&SHAPES));
    plan.insert("problem".into(), shapes.remove("problem").unwrap());
    plan.remove("random");
    let held = shapes.remove("hold").map_or_else(Table::new, |held| held.as_table().unwrap().clone());
    let spaces = plan["space"].as_table_mut().unwrap();
    spaces.remove("cpu");
    for (_, space) in spaces.iter_mut() {
        let axes = space["axes"].as_table_mut().unwrap();
        for (name, values) in held.iter().filter(|(name, _)| axes.contains_key(*name)).collect::<Vec<_>>() {
            axes.insert(name.clone(), values.clone());
        }
    }
    plan
}

/// Sweeps the folder's plan; the summary.
fn run(folder: &Path, arguments: &[&str]) -> Value {
    let output = sweep(folder).args(arguments).arg("--json").assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

/// The rounds of a trial that chose the best, and those held out, which judge, since the best of many is in part the luckiest.
fn rounds(trial: &Value) -> [Vec<f64>; 2] {
    let count = |field: &str| trial[field].as_u64().unwrap_or(0) as usize;
    let mut choosing: Vec<f64> = trial["rounds_us"].as_array().unwrap().iter().map(|us| us.as_f64().unwrap()).collect();
    let held_out = choosing.split_off(choosing.len().min(count("chosen_by") - count("joined")));
    [choosing, held_out]
}

/// A trial's times over another's, round by round: of those held out, but where one of them had dropped out by then.
fn paired(one: &Value, other: &Value) -> f64 {
    let ratio = |[one, other]: [&Vec<f64>; 2]| median(one.iter().zip(other).map(|(one, other)| one / other));
    let [one, other] = [rounds(one), rounds(other)];
    ratio([&one[1], &other[1]]).or_else(|| ratio([&one[0], &other[0]])).unwrap()
}

/// Runs both searches and prints a line a problem; true where all ends of the guided one are near the best.
fn compare(family: Family) {
    let Some(found) = common::gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plan.toml"), toml::to_string(&plan_of(family)).unwrap()).unwrap();
    let arguments = ["--family", family.name(), "--plan", "plan.toml"];
    let guided = run(folder.path(), &arguments);
    let exhaustive = run(folder.path(), &[&arguments[..], &["--fresh", "--exhaustive"]].concat());
    let journal = trials(&folder.path().join(format!("output/{}/journal/{family}.jsonl", found.profile.name)));
    let tried = |summary: &Value| {
        let statuses = summary["statuses"].as_object().unwrap().iter().filter(|(status, _)| *status != "pruned");
        statuses.map(|(_, count)| count.as_u64().unwrap()).sum::<u64>()
    };
    println!(
        "{family}: trials guided {} in {:.1} s, exhaustive {} in {:.1} s",
        tried(&guided),
        guided["wall_s"].as_f64().unwrap(),
        tried(&exhaustive),
        exhaustive["wall_s"].as_f64().unwrap()
    );
    println!("{:44} {:>10} {:>10} {:>8} {:>8} {:>8}", "problem", "best us", "guided us", "ratio", "served", "null");
    let mut far = Vec::new();
    for winner in exhaustive["families"][family.name()]["winners"].as_array().unwrap() {
        let found_best = &winner["trial"];
        let of_problem = |trial: &&Value| ["problem", "dtype"].iter().all(|field| trial[*field] == found_best[*field]);
        let winners = guided["families"][family.name()]["winners"].as_array().unwrap();
        let wanted = &winners.iter().map(|winner| &winner["trial"]).find(of_problem).unwrap()["config"];
        let racers: Vec<&Value> = journal.iter().filter(|trial| trial["stage"] == "final").filter(of_problem).collect();
        let racer = |config: &Value| {
            racers.iter().copied().find(|trial| trial["config"] == *config && trial["null_arm"] != true)
        };
        let null = racers.iter().copied().find(|trial| trial["null_arm"] == true).unwrap();
        let best = racer(&null["config"]).unwrap(); // the null arm is the winner's duplicate
        let noise = paired(null, best);
        let served = winner["served_ratio"].as_f64();
        // A guided winner may launch as another config does, which then raced in its place: the finalist to look at.
        // One that is not even a finalist is judged by that, which always races.
        let problem = serde_json::from_value::<Trial>(best.clone()).unwrap().problem();
        let program = |config: &Value| {
            plan::candidate(serde_json::from_value(config.clone()).unwrap(), &problem, &found.profile).program
        };
        let folded = || racers.iter().copied().find(|racer| program(&racer["config"]) == program(wanted));
        let end = racer(wanted).or_else(folded);
        let ratio = end.map(|end| paired(end, best)).or(served).unwrap();
        let us = |trial: &Value| trial["median_us"].as_f64().unwrap();
        println!(
            "{:44} {:>10.2} {:>10.2} {ratio:>8.4} {:>8.4} {noise:>8.4}",
            best["problem"].to_string(),
            us(best),
            end.map_or(f64::NAN, us),
            served.unwrap_or(f64::NAN),
        );
        if ratio > WITHIN {
            far.push(best["problem"].to_string());
        }
    }
    assert!(far.is_empty(), "{family}: more than 1 % from the best on {far:?}");
}

/// A minute of a GPU for each family.
macro_rules! guided_search_ends_within_a_per_cent_of_the_best {
    ($($name:ident: $family:expr,)*) => {
        mod the_guided_search_ends_within_a_per_cent_of_the_best {
            use super::*;
            $(
                #[test]
                #[ignore = "takes up to a minute of a GPU"]
                fn $name() {
                    compare($family);
                }
            )*
        }
    };
}

guided_search_ends_within_a_per_cent_of_the_best! {
    matmul: Family::Matmul,
    matmul_int4: Family::MatmulInt4,
    matmul_int16: Family::MatmulInt16,
    matmul_fp4: Family::MatmulFp4,
    matmul_fp8: Family::MatmulFp8,
    attention: Family::Attention,
    row_softmax: Family::RowSoftmax,
    elementwise: Family::Elementwise,
    matmul_int4_group: Family::MatmulInt4Group,
    matmul_nvfp4: Family::MatmulNvfp4,
    matmul_mxfp4: Family::MatmulMxfp4,
    matmul_nvfp4_nvfp4: Family::MatmulNvfp4Nvfp4,
    matmul_mxfp8: Family::MatmulMxfp8,
    row_norm_rms: Family::RowNormRms,
    row_norm_layer: Family::RowNormLayer,
    row_cross_entropy: Family::RowCrossEntropy,
}

#[test]
fn the_plans_for_it_can_be_read() {
    for family in Family::ALL {
        let plan = toml::to_string(&plan_of(family)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.toml");
        fs::write(&path, plan).unwrap();
        let plan = kernel_sweep::plan::Plan::load(family, Some(&path)).unwrap();
        let profile = kernel_sweep::model::GpuProfile::by_name("h200").unwrap();
        let problems = plan.problems(&profile).unwrap();
        let groups: BTreeSet<_> =
            problems.iter().map(|planned| kernel_sweep::heuristics::group_of(&planned.problem)).collect();
        assert_eq!((problems.len(), groups.len()), (3, 3), "{family}: a group for each, so that its winner is served");
        let counts: Vec<usize> = problems
            .iter()
            .map(|planned| {
                let candidates = plan.candidates(&planned.problem, &profile);
                candidates.iter().filter(|candidate| candidate.program.is_ok()).count()
            })
            .collect();
        println!("{family}: {counts:?} configs");
        assert!(counts.iter().all(|count| (20..8000).contains(count)), "{family}: {counts:?}");
    }
}

#[test]
fn an_exhaustive_sweep_screens_every_config_and_races_what_was_served() {
    let folder = folder_with_plan();
    run(folder.path(), &TINY);
    let summary = run(folder.path(), &[&TINY[..], &["--fresh", "--exhaustive"]].concat());
    let trials = trials(&folder.path().join("output/cpu/journal/row_softmax.jsonl"));
    for rows in [256, 600] {
        let screened: BTreeSet<String> = trials
            .iter()
            .filter(|trial| trial["problem"]["rows"] == rows && trial["stage"] == "screen")
            .map(|trial| trial["config"].to_string())
            .collect();
        assert_eq!(screened.len(), 4, "rows = {rows}");
    }
    let winners = summary["families"]["row_softmax"]["winners"].as_array().unwrap();
    assert_eq!(winners.len(), 2);
    for winner in winners {
        // Paired rounds may see a served config ahead of the best median by noise.
        assert!(winner["served_ratio"].as_f64().unwrap() > 0.5, "{winner}");
        assert!(winner["trial"]["median_us"].as_f64().unwrap() > 0.0);
    }
}
