//! One entry derives: whoever does so from the same journals and the same document before, a sweep, a night or `sweep derive`, writes
//! the same bytes.

use crate::common::{self, TINY, folder_with_plan, sweep};
use kernel_sweep::heuristics::{Document, RankedTemplate, Rule, bucket_of};
use kernel_sweep::model::{Dtype, Family, Problem};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const DOCUMENT: &str = "output/cpu/observed_heuristics_cpu.json";

fn document(folder: &Path) -> Document {
    Document::load(&folder.join(DOCUMENT)).unwrap()
}

fn text(folder: &Path) -> String {
    fs::read_to_string(folder.join(DOCUMENT)).unwrap()
}

/// A folder with the plans and journals of another, and this document.
fn with_journals_of(folder: &Path, document: &Document) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for place in ["", "sweeps", "output/cpu/journal"] {
        let files = fs::read_dir(folder.join(place)).into_iter().flatten().map(|entry| entry.unwrap().path());
        for file in files.filter(|file| file.is_file()) {
            fs::create_dir_all(copy.path().join(place)).unwrap();
            fs::copy(&file, copy.path().join(place).join(file.file_name().unwrap())).unwrap();
        }
    }
    fs::create_dir_all(copy.path().join("output/cpu")).unwrap();
    fs::write(copy.path().join(DOCUMENT), document.to_canonical_json()).unwrap();
    copy
}

/// What `sweep derive` makes of a folder's journals after this document.
fn derived(folder: &Path, before: &Document, plan: &[&str]) -> String {
    let elsewhere = with_journals_of(folder, before);
    sweep(elsewhere.path()).args(["derive", "--gpu", "cpu"]).args(plan).assert().success();
    text(elsewhere.path())
}

/// A rule that was measured where nothing is measured now, and ran as a kernel that no sources of today make.
fn outdated_rule(document: &Document) -> Rule {
    let name = "rows=3,cols=70000";
    let problem = Problem::parse(Family::RowSoftmax, name, Dtype::Bf16).unwrap();
    let served = document.fallbacks["row_softmax"]["short"].template.clone();
    let told = json!([{"problem": format!("{name} bf16"), "served_us": 1.0, "slowdown": 1.0, "noise": 0.01}]);
    let source = json!({"kernels": ["0123456789abcdef"], "measurement": "old", "problems": told});
    Rule {
        kernel_class: "row_softmax".into(),
        shape_bucket: bucket_of(&problem),
        match_exact_only: true,
        source: source.as_object().unwrap().clone(),
        templates: vec![RankedTemplate { template: served, ..RankedTemplate::default() }],
        ..Rule::default()
    }
}

/// A line of a journal that is to be changed.
fn unsealed(line: &mut Value) {
    line.as_object_mut().unwrap().remove("seal");
}

fn write(journal: &Path, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    fs::write(journal, lines.join("\n") + "\n").unwrap();
}

#[test]
fn kernels_that_have_changed_say_nothing_whoever_derives() {
    let folder = folder_with_plan();
    sweep(folder.path()).args(TINY).assert().success();
    let whole = document(folder.path());
    let mut before = whole.clone();
    before.rules.push(outdated_rule(&whole));
    // As if a finalist had been a kernel that took no time, and is none of today's.
    let journal = "output/cpu/journal/row_softmax.jsonl";
    let lines = common::journal_lines(&folder.path().join(journal));
    let mut old = lines.iter().rfind(|line| line["stage"] == "final" && line["null_arm"] != true).unwrap().clone();
    unsealed(&mut old);
    for figure in ["time_us", "median_us", "q1_us", "q3_us", "min_us"] {
        old[figure] = 0.001.into();
    }
    old["kernel"] = "ffffffffffffffff".into();
    for (verb, accept) in [(None, None), (Some("nightly"), Some("--accept"))] {
        let run = with_journals_of(folder.path(), &before);
        let path = run.path().join(journal);
        fs::write(&path, fs::read_to_string(&path).unwrap() + &format!("{old}\n")).unwrap();
        let command = |folder: &Path| {
            let mut command = sweep(folder);
            command.args(verb).args(TINY).args(accept);
            command
        };
        let status = command(run.path()).output().unwrap().status.code();
        assert!([Some(0), Some(5)].contains(&status), "{verb:?}: {status:?}");
        let made = text(run.path());
        assert!(!made.contains("0123456789abcdef"), "{verb:?}: what ran as another kernel is not carried over");
        assert_eq!(derived(run.path(), &before, &["--plan", "plan.toml"]), made, "{verb:?}");
    }
    // An archive counts as it is: it was packed by other sources, as far as anybody knows.
    let run = with_journals_of(folder.path(), &whole);
    let path = run.path().join(journal);
    fs::write(&path, fs::read_to_string(&path).unwrap() + &format!("{old}\n")).unwrap();
    let derive = |folder: &Path| {
        let run = sweep(folder).args(["derive", "--gpu", "cpu", "--plan", "plan.toml"]).assert().success();
        String::from_utf8_lossy(&run.get_output().stderr).into_owned()
    };
    assert!(derive(run.path()).contains("1 trials are of kernels that have changed since: left out"));
    sweep(run.path()).args(["archive", "--gpu", "cpu"]).assert().success();
    fs::remove_file(&path).unwrap();
    assert!(!derive(run.path()).contains("have changed since"));
    // Where all of a class is of other kernels, as of an older version of the sources, all of it counts: nothing else is known.
    let run = with_journals_of(folder.path(), &whole);
    let path = run.path().join(journal);
    let mut aged = lines.clone();
    for line in &mut aged {
        if line["kind"] == "trial" {
            line["kernel"] = "eeeeeeeeeeeeeeee".into();
        }
        unsealed(line);
    }
    write(&path, &aged);
    fs::remove_file(run.path().join(DOCUMENT)).unwrap();
    let told = derive(run.path());
    assert!(told.contains("row_softmax: no trial is of a kernel that these sources make"), "{told}");
    let served = |document: &Document| document.fallbacks["row_softmax"]["short"].template.clone();
    assert_eq!(served(&document(run.path())), served(&whole));
}

/// One problem, and more configs than a document names as anchors.
const PRODUCT: &str = "
[space.cpu]
default = { block_sizes = [16, 32, 32], num_warps = 1 }
[space.cpu.axes]
block_sizes = [[16, 32], [32, 64], [32, 64, 128]]
num_warps = [1]
[[space.cpu.problem]]
m = 16
n = 64
k = 64
";

/// Puts in the place of a journal's trials a final of all their configs, each a per cent slower than the one before; returns the last.
fn with_a_final(journal: &Path) -> Value {
    let mut lines = common::journal_lines(journal);
    lines.iter_mut().for_each(unsealed);
    let mut configs: Vec<&Value> = Vec::new();
    for line in lines.iter().filter(|line| line["kind"] == "trial") {
        if !configs.contains(&&line["config"]) {
            configs.push(&line["config"]);
        }
    }
    assert!(configs.len() > 8, "{}", configs.len());
    let of_final = lines.iter().find(|line| line["stage"] == "final" && line["null_arm"] != true).unwrap();
    let arm = |config: &Value, us: f64| {
        let mut line = of_final.clone();
        line["config"] = config.clone();
        for figure in ["time_us", "median_us", "q1_us", "q3_us", "min_us"] {
            line[figure] = us.into();
        }
        line["rounds_us"] = vec![us; 24].into();
        (line["race"], line["joined"], line["chosen_by"]) = (1.into(), 0.into(), 12.into());
        line
    };
    let mut all: Vec<Value> = lines.iter().filter(|line| line["kind"] == "header").cloned().collect();
    all.extend(configs.iter().enumerate().map(|(place, config)| arm(config, 10.0 * (1.0 + 0.01 * place as f64))));
    let mut null_arm = arm(configs[0], 10.0);
    null_arm["null_arm"] = true.into();
    all.push(null_arm);
    write(journal, &all);
    configs[configs.len() - 1].clone()
}

/// Of families that learn of each other a sweep derives each twice. What was served before the sweep is compared with in both, as
/// whoever derives once does.
#[test]
fn a_sweep_of_sisters_makes_what_is_derived_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sweeps")).unwrap();
    for family in ["matmul_fp4", "matmul_int4"] {
        fs::write(folder.path().join(format!("sweeps/{family}.toml")), PRODUCT).unwrap();
    }
    let both = ["--gpu", "cpu", "--family", "matmul_fp4,matmul_int4"];
    sweep(folder.path()).args(both).assert().success();
    let mut before = document(folder.path());
    before.rules.clear();
    for family in ["matmul_fp4", "matmul_int4"] {
        let slowest = with_a_final(&folder.path().join(format!("output/cpu/journal/{family}.jsonl")));
        for fallback in before.fallbacks.get_mut(family).unwrap().values_mut() {
            fallback.template = slowest.as_object().unwrap().clone();
        }
    }
    let run = with_journals_of(folder.path(), &before);
    sweep(run.path()).args(both).assert().success();
    let made = text(run.path());
    assert_eq!(derived(run.path(), &before, &[]), made);
    assert_ne!(derived(run.path(), &document(run.path()), &[]), made, "it matters what was served before");
}
