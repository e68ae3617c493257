//! What the tool says of itself: help that fits a terminal, examples that do what they say, completions and a manual.

#![cfg(target_os = "linux")]

use crate::common::{self, sweep};
use kernel_sweep::journal;
use predicates::str::contains;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;
use tempfile::TempDir;

const COMMANDS: [&str; 15] = [
    "",
    "compile",
    "derive",
    "evaluate",
    "export",
    "nightly",
    "lookup",
    "diff",
    "report",
    "archive",
    "bundle",
    "devices",
    "new",
    "completions",
    "man",
];

/// What a command says of itself on a terminal of 80 columns.
fn help(subcommand: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = sweep(folder.path());
    command.env("COLUMNS", "80").args(Some(subcommand).filter(|name| !name.is_empty())).arg("--help");
    String::from_utf8_lossy(&command.assert().success().get_output().stdout).into_owned()
}

#[test]
fn the_help_tells_the_whole_command_line_and_fits_a_terminal() {
    for subcommand in COMMANDS {
        let help = help(subcommand);
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{subcommand}: {line}");
        }
        let name = if subcommand.is_empty() { "help".to_string() } else { format!("help_{subcommand}") };
        insta::assert_snapshot!(name, help);
    }
    let known = help("");
    let listed = known.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let listed: BTreeSet<&str> = named.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(listed, COMMANDS.into_iter().filter(|name| !name.is_empty()).chain(["help"]).collect());
    let folder = tempfile::tempdir().unwrap();
    sweep(folder.path()).arg("--version").assert().success().stdout(contains(env!("CARGO_PKG_VERSION")));
}

/// The command lines that the help of a command gives as examples.
fn examples(subcommand: &str) -> Vec<String> {
    let help = help(subcommand);
    let after = help.split_once("\nExample").map(|(_, after)| after.to_owned()).unwrap_or_default();
    after.lines().filter_map(|line| line.strip_prefix("  sweep").map(|rest| format!("sweep{rest}"))).collect()
}

const CSV: &str = "kernel_name,shape_hash,config_hash,config,shape_features,timing_ms
matmul,s0,c0,\"{\"\"num_warps\"\": 4}\",\"{\"\"arg0_ndim\"\": 2, \"\"arg0_dim0\"\": 16, \"\"arg0_dim1\"\": 4096, \
\"\"arg0_dtype\"\": \"\"torch.bfloat16\"\", \"\"arg1_ndim\"\": 2, \"\"arg1_dim0\"\": 4096, \"\"arg1_dim1\"\": 512, \
\"\"arg1_dtype\"\": \"\"torch.bfloat16\"\"}\",0.02
";
const QUERY: &str = r#"{"args":[{"shape":[4096],"dtype":"torch.bfloat16"},{"shape":[4096],"dtype":"torch.bfloat16"}],"traits":[],"block_rank":1,"has_reduction":false,"has_split_k":false}"#;
/// Problems of the committed archive that examples derive from.
const PROBLEMS: usize = 12;

/// Some of an H200's trials, as a journal and packed.
fn measured() -> &'static [Vec<u8>; 2] {
    static MEASURED: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    MEASURED.get_or_init(|| {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("output/h200/archive/elementwise.jsonl.zst");
        let mut contents = journal::read(&archive).unwrap();
        let mut problems = BTreeSet::new();
        for trial in &contents.trials {
            if problems.len() < PROBLEMS {
                problems.insert(trial.problem());
            }
        }
        contents.trials.retain(|trial| problems.contains(&trial.problem()));
        let folder = tempfile::tempdir().unwrap();
        let [journal, packed] = ["journal.jsonl", "journal.jsonl.zst"].map(|name| folder.path().join(name));
        journal::replace(&journal, contents.clone()).unwrap();
        journal::pack(contents, &packed).unwrap();
        [fs::read(journal).unwrap(), fs::read(packed).unwrap()]
    })
}

/// A folder with all that examples speak of: an H200's archive, journal and document, documents to compare, shards,
/// measurements, shapes and questions.
fn folder_with_everything(example: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["output/h200/journal", "output/h200/archive", "tests/shapes"] {
        fs::create_dir_all(path(name)).unwrap();
    }
    let [journal, packed] = measured();
    fs::write(path("shard0.jsonl"), journal).unwrap();
    if !example.contains("--unpack") {
        fs::write(path("output/h200/journal/elementwise.jsonl"), journal).unwrap();
    }
    for name in ["shard1.jsonl.zst", "output/h200/archive/elementwise.jsonl.zst"] {
        fs::write(path(name), packed).unwrap();
    }
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("output/h200/observed_heuristics_h200.json");
    for name in ["old.json", "new.json", "output/h200/observed_heuristics_h200.json"] {
        fs::copy(&document, path(name)).unwrap();
    }
    fs::write(path("measurements_b200.csv"), CSV).unwrap();
    fs::write(path("queries.jsonl"), QUERY).unwrap();
    fs::write(path("shapes.toml"), "[[problem]]\nm = 17\nn = 4000\nk = 96\n").unwrap();
    for family in kernel_sweep::model::Family::ALL {
        let name = format!("tests/shapes/{family}.toml");
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(&name), path(&name)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sweep"), path("sweep")).unwrap();
    folder
}

fn run(example: &str) -> Output {
    let folder = folder_with_everything(example);
    // A manual page needs a reader that may not be here.
    let script = format!("set -e; PATH=.:$PATH; {}", example.replace(" && man ", " && test -s "));
    std::process::Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap()
}

/// Whether an example measures on a GPU, which ends in the word that there is none here.
fn needs_a_gpu(example: &str) -> bool {
    let measures = |part: &str| {
        let command =
            ["sweep --", "sweep evaluate ", "sweep nightly "].into_iter().any(|start| part.starts_with(start));
        command && part.contains("--gpu h200")
    };
    example.split(" && ").any(measures)
}

#[test]
fn examples_do_what_they_say() {
    let is_here = common::gpu().is_some();
    let of_command = |subcommand: &str| {
        let examples = examples(subcommand);
        assert!(!examples.is_empty(), "sweep {subcommand} has no example");
        examples
    };
    let mut all: Vec<String> = COMMANDS.into_iter().flat_map(of_command).collect();
    all.retain(|example| !(is_here && needs_a_gpu(example))); // it would measure for hours
    all.par_iter().for_each(|example| {
        let output = run(example);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(if needs_a_gpu(example) { 3 } else { 0 }), "{example}: {said}");
    });
    let ran = all.iter().filter(|example| !needs_a_gpu(example)).count();
    assert!(ran > 12, "only {ran} examples ran");
}

#[test]
fn shells_and_man_know_every_command_and_none_that_is_not_for_people() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = sweep(folder.path()).args(["completions", shell]).assert().success();
        let script = String::from_utf8_lossy(&printed.get_output().stdout).into_owned();
        for known in ["lookup", "nightly", "trial-deadline"] {
            assert!(script.contains(known), "{shell} knows no {known}");
        }
    }
    sweep(folder.path()).args(["completions", "sh"]).assert().code(2).stderr(contains("bash"));
    sweep(folder.path()).args(["man", "manual"]).assert().success();
    let pages = fs::read_dir(folder.path().join("manual")).unwrap().map(|entry| entry.unwrap().file_name());
    let pages: BTreeSet<String> = pages.map(|name| name.into_string().unwrap()).collect();
    let page = |name: &&str| if name.is_empty() { "sweep.1".to_owned() } else { format!("sweep-{name}.1") };
    assert_eq!(pages.into_iter().filter(|name| !name.contains("help")).collect::<Vec<_>>(), {
        let mut wanted: Vec<String> = COMMANDS.iter().map(page).collect();
        wanted.sort();
        wanted
    });
    let lookup = fs::read_to_string(folder.path().join("manual/sweep-lookup.1")).unwrap();
    assert!(lookup.contains("explain") && lookup.contains("Examples"), "{lookup}");
}
