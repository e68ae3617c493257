//! Hostile input: plans, journals, names and times that are none are refused in one clear line, in bounded time and memory, and
//! whatever is under way ends when the time is up or somebody asks for it.

#![cfg(target_os = "linux")]

use crate::common::{self, amount, at_once, folder_with_plan, wait_for};
use assert_cmd::cargo::CommandCargoExt;
use kernel_sweep::error::ErrorKind;
use kernel_sweep::journal;
use kernel_sweep::model::{Config, Family, GpuProfile, Mma, PidType, Problem};
use kernel_sweep::plan;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn tool(folder: &Path) -> Command {
    let mut command = Command::cargo_bin("sweep").unwrap();
    command.current_dir(folder).args(["--gpu", "cpu", "--family", "row_softmax"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a command printed for people: never a panic, and one line of error where it failed.
fn said(output: &Output, codes: &[i32]) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{:?}: {said}", output.status);
    assert!(!said.contains("panicked"), "{said}");
    let errors = said.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, usize::from(!output.status.success() && codes != [4]), "{said}");
    said
}

fn plan(axes: [&str; 3], problem: &str, more: &str) -> String {
    let [blocks, warps, loops] = axes;
    format!(
        "{more}\n[space.cpu]\ndefault = {{ block_sizes = [64], num_warps = 1, reduction_loops = ['whole'] }}\n[space.cpu.axes]\n\
         block_sizes = {blocks}\nnum_warps = {warps}\nreduction_loops = {loops}\n[[space.cpu.problem]]\n{problem}\n"
    )
}

const AXES: [&str; 3] = ["[[8, 64]]", "[1]", "[['whole']]"];
const PROBLEM: &str = "rows = 64\ncols = 30";

#[test]
fn a_plan_may_hold_anything_and_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let most = u32::MAX.to_string();
    let most = most.as_str();
    let of_list = |value: &str| format!("[{value}]");
    at_once(&["0", "1", most], |value| {
        let folder = tempfile::tempdir().unwrap();
        let listed = of_list(value);
        let twice = of_list(&listed);
        for axes in [
            [twice.as_str(), AXES[1], AXES[2]],
            [AXES[0], listed.as_str(), AXES[2]],
            [AXES[0], AXES[1], twice.as_str()],
            ["[[1], [2]]", listed.as_str(), "[[1, 2]]"],
            [AXES[0], AXES[1], "[[]]"],
        ] {
            fs::write(folder.path().join("plan.toml"), plan(axes, PROBLEM, "")).unwrap();
            let swept = tool(folder.path()).args(["--plan", "plan.toml", "-q", "--fresh"]).output().unwrap();
            said(&swept, &[0, 4]);
        }
    });
    let refused = [
        (plan(["[[-1]]", AXES[1], AXES[2]], PROBLEM, ""), "plan.toml:"),
        (plan(["[[99999999999999999999]]", AXES[1], AXES[2]], PROBLEM, ""), "plan.toml:"),
        (plan(["[[1.5]]", AXES[1], AXES[2]], PROBLEM, ""), "plan.toml:"),
        (plan([AXES[0], "[nan]", AXES[2]], "rows = 2020-01-01\ncols = 1", ""), "plan.toml:"),
        (plan(AXES, "rows = -9223372036854775808\ncols = 1", ""), "it must be positive"),
        (plan(AXES, PROBLEM, "random = { problems = 1000000000000, seed = 1 }"), "more than 100000"),
        (plan(AXES, PROBLEM, "random = { problems = -1, seed = -1 }"), "plan.toml:1"),
        (format!("a = {}", "[".repeat(100_000)), "plan.toml:1"),
        ("\0\u{1}".to_string(), "plan.toml:1"),
    ];
    for (text, message) in refused {
        fs::write(folder.path().join("plan.toml"), text).unwrap();
        let error = said(&tool(folder.path()).args(["--plan", "plan.toml", "-q"]).output().unwrap(), &[2]);
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn what_is_no_plan_is_not_waited_for_and_does_not_fill_memory() {
    let folder = folder_with_plan();
    let path = |name: &str| folder.path().join(name);
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    fs::write(path("noise"), b"x = '\xff'").unwrap();
    fs::write(path("large"), vec![b'#'; 17 << 20]).unwrap();
    let cases = [
        ("pipe", "it is no file"),
        (".", "it is no file"),
        ("/dev/zero", "it is no file"),
        ("noise", "it is no text in UTF-8: see its byte 5"),
        ("large", "larger than 16 MiB"),
        ("nothing", "No such file"),
    ];
    for (name, message) in cases {
        let error = said(&tool(folder.path()).args(["--plan", name]).output().unwrap(), &[2]);
        assert!(error.contains(&format!("plan {name}")) && error.contains(message), "{error}");
        let shapes = ["evaluate", "--gpu", "cpu", "--family", "row_softmax", "--shapes", name];
        let evaluated = Command::cargo_bin("sweep").unwrap().current_dir(folder.path()).args(shapes).output().unwrap();
        said(&evaluated, &[2]);
    }
    let marked = [b"\xef\xbb\xbf".as_slice(), &fs::read(path("plan.toml")).unwrap()].concat();
    fs::write(path("marked.toml"), marked).unwrap();
    said(&tool(folder.path()).args(["--plan", "marked.toml", "-q"]).output().unwrap(), &[0]);
}

#[test]
fn a_trial_of_what_is_no_problem_is_refused_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.jsonl");
    let header = r#"{"kind":"header","schema":1,"gpu":"a host","arch":"x86_64","driver":"linux","nvrtc":"","protocol":"cold-l2/2","sweep":"0.1.0","started":"2026-01-01T00:00:00Z"}"#;
    let trial = |family: &str, problem: &str, dtype: &str| {
        format!(
            r#"{{"kind":"trial","family":"{family}","problem":{problem},"dtype":"{dtype}","config":{{"block_sizes":[64]}},"status":"ok","stage":"final","median_us":5.0,"q1_us":4.9,"q3_us":5.1,"min_us":4.8,"samples":20,"rel_err":0.0,"kernel":"abc"}}"#
        )
    };
    fs::write(&path, format!("{header}\n{}\n", trial("elementwise", r#"{"numel":4096}"#, "bf16"))).unwrap();
    assert_eq!(journal::read(&path).unwrap().trials.len(), 1);
    let cases = [
        ("elementwise", r#"{"m":16,"n":16,"k":16}"#, "bf16", "elementwise has no dimension 'm'"),
        ("row_softmax", r#"{"numel":16}"#, "bf16", "row_softmax has no dimension 'numel'"),
        ("attention", r#"{"rows":16,"cols":16}"#, "bf16", "attention has no dimension 'rows'"),
        ("matmul", r#"{"numel":16}"#, "bf16", "matmul has no dimension 'numel'"),
        ("matmul_fp4", r#"{"m":16,"n":16,"k":15}"#, "bf16", "k must be even"),
        ("matmul", r#"{"m":16,"n":0,"k":15}"#, "bf16", "it must be positive"),
        ("matmul", r#"{"m":16,"n":16,"k":18446744073709551615}"#, "bf16", "larger than any"),
        ("matmul", r#"{"m":16,"n":16,"k":16}"#, "f32", "bf16 and f16 only"),
    ];
    for (family, problem, dtype, message) in cases {
        fs::write(&path, format!("{header}\n{}\n", trial(family, problem, dtype))).unwrap();
        let error = journal::read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let error = error.to_string();
        assert!(error.contains("line 2: ") && error.contains(message), "{error}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named_before_anything_is_measured() {
    let folder = folder_with_plan();
    let in_the_way = |name: &str| fs::create_dir_all(folder.path().join(name)).unwrap();
    in_the_way("one/cpu/observed_heuristics_cpu.json");
    in_the_way("two/cpu/journal/row_softmax.jsonl");
    let tried = |arguments: &[&str]| said(&tool(folder.path()).args(arguments).output().unwrap(), &[2]);
    for (output, name) in [("one", "observed_heuristics_cpu.json"), ("two", "row_softmax.jsonl")] {
        let error = tried(&["--plan", "plan.toml", "-q", "--output", output]);
        assert!(error.contains(&format!("{name} cannot be written")) && error.contains("--output"), "{error}");
        let journal = folder.path().join(output).join("cpu/journal/row_softmax.jsonl");
        assert!(!journal.is_file(), "nothing was measured");
    }
    // Of several families, the last one's journal.
    in_the_way("three/cpu/journal/elementwise.jsonl");
    let families = ["--gpu", "cpu", "--family", "row_softmax,elementwise", "-q", "--output", "three"];
    let swept = Command::cargo_bin("sweep").unwrap().current_dir(folder.path()).args(families).output().unwrap();
    let error = said(&swept, &[2]);
    assert!(error.contains("elementwise.jsonl cannot be written"), "{error}");
    assert!(!folder.path().join("three/cpu/journal/row_softmax.jsonl").exists());
}

#[test]
fn a_folder_whose_name_is_no_text_is_as_good_as_any() {
    let folder = folder_with_plan();
    let output = OsStr::from_bytes(b"out-\xff");
    let swept =
        tool(folder.path()).args(["--plan", "plan.toml", "--json"]).arg("--output").arg(output).output().unwrap();
    said(&swept, &[0]);
    let summary: Value = serde_json::from_slice(&swept.stdout).unwrap();
    assert_eq!(summary["document"], "out-\u{fffd}/cpu/observed_heuristics_cpu.json");
    for command in [vec!["derive", "--gpu", "cpu", "--plan", "plan.toml", "--json"], vec!["archive", "--gpu", "cpu"]] {
        let mut tool = Command::cargo_bin("sweep").unwrap();
        said(&tool.current_dir(folder.path()).args(command).arg("--output").arg(output).output().unwrap(), &[0]);
    }
    assert!(folder.path().join(output).join("cpu/archive/row_softmax.jsonl.zst").is_file());
}

/// A sweep of a problem whose reference takes the host far longer than the tests below wait.
fn sweep_of_a_large_problem(folder: &Path) -> Command {
    let plan = "[space.cpu]\ndefault = { block_sizes = [64, 128, 64], num_warps = 2 }\n[space.cpu.axes]\n\
                block_sizes = [[64], [128], [64]]\nnum_warps = [1, 2]\n[[space.cpu.problem]]\nm = 6000\nn = 6000\nk = 6000\n";
    fs::write(folder.join("large.toml"), plan).unwrap();
    let mut command = Command::cargo_bin("sweep").unwrap();
    command.current_dir(folder).args(["--gpu", "cpu", "--family", "matmul", "--plan", "large.toml"]);
    command
}

const JOURNAL: &str = "output/cpu/journal/matmul.jsonl";

#[test]
fn a_budget_ends_what_prepares_a_large_problem_and_blames_no_config() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let swept = sweep_of_a_large_problem(folder.path()).args(["--budget", "1s", "--json"]).output().unwrap();
    said(&swept, &[0]);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let summary: Value = serde_json::from_slice(&swept.stdout).unwrap();
    let trials = common::trials(&folder.path().join(JOURNAL));
    assert_eq!((&summary["cut_short"], trials), (&Value::Bool(true), Vec::new()));
}

#[test]
fn an_interrupt_ends_what_prepares_a_large_problem() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let (journal, errors) = (folder.path().join(JOURNAL), folder.path().join("errors"));
        let mut child =
            sweep_of_a_large_problem(folder.path()).stderr(fs::File::create(&errors).unwrap()).spawn().unwrap();
        wait_for("the sweep to begin", || journal.is_file());
        std::thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
        let errors = fs::read_to_string(errors).unwrap();
        assert!(errors.contains("everything measured is in the journal") && !errors.contains("panicked"), "{errors}");
        assert!(common::trials(&journal).is_empty());
    }
}

fn any_knob() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 1, 2, 3, 4, 8, 16, 64, 128, 1024, 65_536, 1 << 31, u32::MAX])
}

fn any_config() -> impl Strategy<Value = Config> {
    let maybe = || prop::option::of(any_knob());
    let lists = (prop::collection::vec(any_knob(), 0..5), prop::collection::vec(any_knob(), 0..3));
    let loops = prop::collection::vec(maybe(), 0..3);
    let kinds = (
        prop::option::of(prop::sample::select(Mma::ALL.to_vec())),
        prop::option::of(prop::sample::select(PidType::ALL.to_vec())),
    );
    (lists, loops, kinds, [maybe(), maybe(), maybe(), maybe()]).prop_map(
        |(
            (block_sizes, l2_groupings),
            reduction_loops,
            (mma, pid_type),
            [num_sm_multiplier, num_stages, num_warps, split_k],
        )| {
            Config {
                block_sizes,
                l2_groupings,
                mma,
                num_sm_multiplier,
                num_stages,
                num_warps,
                pid_type,
                reduction_loops,
                split_k,
                own: BTreeMap::new(),
            }
        },
    )
}

fn any_problem() -> impl Strategy<Value = Problem> {
    let extent = || prop::sample::select(vec![1i64, 2, 16, 30, 4096, 1 << 31, 1 << 40, i64::MAX - 1]);
    (prop::sample::select(Family::ALL.to_vec()), prop::array::uniform5(extent())).prop_map(|(family, extents)| {
        let names = family.dimensions().iter().zip(extents).map(|(name, extent)| {
            let even = *name == "k" && family.packs_two_weights_a_byte();
            (*name, if even { extent.max(2) / 2 * 2 } else { extent })
        });
        Problem::new(family, &names.collect::<Vec<_>>(), family.dtypes()[0]).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(amount::times(1_700) as u32))]

    /// Configs come from plans, journals and documents, and may be any.
    #[test]
    fn any_config_on_any_problem_runs_or_is_rejected(config in any_config(), problem in any_problem()) {
        let profiles = ["a100", "h100", "b200"].map(|gpu| GpuProfile::by_name(gpu).unwrap());
        for profile in profiles.into_iter().chain([GpuProfile::cpu(2, kernel_sweep::model::Bytes::mib(8))]) {
            let candidate = plan::candidate(config.clone(), &problem, &profile);
            if let Err(rejection) = candidate.program {
                prop_assert!(!rejection.to_string().is_empty());
            }
        }
    }
}
