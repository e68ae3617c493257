//! A full disk, a folder that cannot be written, a device that vanishes, a clock that jumps, a second sweep: one clear error,
//! nothing measured lost, the old document in place.

#![cfg(target_os = "linux")]

use crate::common::{self, at_once, wait_for};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

const DOCUMENT: &str = "observed_heuristics_cpu.json";

/// A folder with a copy of the tool, a tiny plan and the document that this made, which anybody may read.
struct Place {
    folder: TempDir,
    document: Vec<u8>,
}

impl Place {
    fn new() -> Self {
        let folder = common::swept_folder();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        common::install(Path::new(env!("CARGO_BIN_EXE_sweep")), &folder.path().join("sweep"));
        for (name, more) in [("some.toml", common::SOME), ("endless.toml", common::ENDLESS)] {
            fs::write(folder.path().join(name), common::plan_with(more)).unwrap();
        }
        let mut place = Self { folder, document: Vec::new() };
        place.document = fs::read(place.output(DOCUMENT)).unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn output(&self, name: &str) -> PathBuf {
        self.path().join("output/cpu").join(name)
    }

    fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path().join("sweep"));
        command.current_dir(self.path()).args(["--gpu", "cpu", "--family", "row_softmax"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The trials in the journal of a folder under this one.
    fn trials(&self, output: &str) -> Vec<Value> {
        common::trials(&self.path().join(output).join("cpu/journal/row_softmax.jsonl"))
    }

    /// A sweep that outlasts every test, once it has measured something.
    fn endless_sweep(&self) -> Child {
        let known = self.trials("output").len();
        let child = self.tool(&["-q", "--plan", "endless.toml"]).spawn().unwrap();
        wait_for("the sweep to measure", || self.trials("output").len() >= known + 5);
        child
    }

    /// Gives the journal's header another value of a field; the journal with what is in it now.
    fn edit_header(&self, field: &str) -> (PathBuf, String) {
        let journal = self.output("journal/row_softmax.jsonl");
        let own = fs::read_to_string(&journal).unwrap();
        let header: Value = serde_json::from_str(own.lines().next().unwrap()).unwrap();
        let was = format!("\"{field}\":{}", header[field]);
        assert!(own.contains(&was));
        let edited = own.replacen(&was, &format!("\"{field}\":\"another\""), 1);
        fs::write(&journal, &edited).unwrap();
        (journal, edited)
    }

    fn assert_document_in_place(&self) {
        assert_eq!(fs::read(self.output(DOCUMENT)).unwrap(), self.document);
    }
}

/// The one line of error that a failed sweep printed.
fn error(output: &Output) -> String {
    error_of(output, 1)
}

/// The one line of error that a sweep printed on leaving with `code`.
fn error_of(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    errors[0].to_string()
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}

#[test]
fn a_second_sweep_of_a_folder_is_told_who_holds_it() {
    let place = Place::new();
    let mut first = place.endless_sweep();
    // Another family writes the same document, so it is refused as well; and so is a night.
    let commands: [&[&str]; 2] = [&["--gpu", "cpu", "--family", "elementwise"], &["nightly", "--gpu", "cpu"]];
    for arguments in commands {
        let mut second = Command::new(place.path().join("sweep"));
        let message = error(&second.current_dir(place.path()).args(arguments).output().unwrap());
        let holder = format!("another sweep is writing it (pid {} on ", first.id());
        assert!(message.contains("output/cpu/sweep.lock") && message.contains(&holder), "{message}");
        assert!(message.contains(" since 2"), "{message}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(place.tool(&["--plan", "plan.toml", "-q"]).status().unwrap().success(), "a killed sweep holds nothing");
}

/// Sweeps into `output` until the file system is full; what is there then resumes.
fn fills_up(place: &Place, output: &str, command: &mut Command) {
    let message = error(&command.output().unwrap());
    assert!(message.contains("cannot write journal") && message.contains("row_softmax.jsonl"), "{message}");
    let kept = place.trials(output).len();
    assert!(kept > 3, "{kept} trials");
    let journal = place.path().join(output).join("cpu/journal/row_softmax.jsonl");
    assert!(fs::read(&journal).unwrap().ends_with(b"\n"), "no half line is left");
    place.assert_document_in_place();
}

#[test]
fn a_journal_that_cannot_grow_keeps_what_is_in_it() {
    let place = Place::new();
    // A limit on the size of files stands for the disk where there is no right to mount a small one.
    let script =
        "trap '' XFSZ; ulimit -f 16; exec ./sweep --gpu cpu --family row_softmax --plan some.toml -q --output limited";
    let mut limited = Command::new("bash");
    limited.current_dir(place.path()).args(["-c", script]);
    fills_up(&place, "limited", &mut limited);
    let before = place.trials("limited");
    // With room again it goes on where it was.
    let resumed = place.tool(&["--plan", "some.toml", "--output", "limited", "--json", "-q"]).output().unwrap();
    let summary: Value = serde_json::from_slice(&resumed.stdout).unwrap();
    // A null arm stands for itself and is not asked for again.
    let asked = before.iter().filter(|trial| trial["null_arm"] != true).count();
    assert_eq!(summary["resumed"].as_u64().unwrap() as usize, asked);
    assert_eq!(&place.trials("limited")[..before.len()], &before[..]);
}

/// A tmpfs of 32 KiB, taken away at the end.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_costs_nothing() {
    let place = Place::new();
    let Some(disk) = Disk::mount(place.path().join("disk")) else {
        eprintln!("skipped: no right to mount a small disk");
        return;
    };
    // A document that was there before the disk filled up.
    fs::create_dir_all(disk.0.join("cpu")).unwrap();
    fs::write(disk.0.join("cpu").join(DOCUMENT), &place.document).unwrap();
    fills_up(&place, "disk", &mut place.tool(&["-q", "--plan", "some.toml", "--output", "disk"]));
    assert_eq!(fs::read(disk.0.join("cpu").join(DOCUMENT)).unwrap(), place.document);
    // On a disk that is full from the start nothing is measured, and the same is said.
    let message = error(&place.tool(&["-q", "--output", "disk"]).output().unwrap());
    assert!(message.contains("No space left on device"), "{message}");
}

#[test]
fn a_folder_that_may_not_be_written_is_named_before_anything_is_measured() {
    let place = Place::new();
    let folder = place.output("");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    fs::remove_file(place.output("sweep.lock")).unwrap();
    let mut command = place.tool(&["-q", "--plan", "plan.toml"]);
    if is_root() {
        command.uid(65534).gid(65534); // nothing is read-only to root
    }
    let message = error_of(&command.output().unwrap(), 2);
    assert!(message.contains("output/cpu/sweep.lock") && message.contains("Permission denied"), "{message}");
    place.assert_document_in_place();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The worker processes of a sweep.
fn children(parent: u32) -> Vec<String> {
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().map(str::to_string));
    }
    children
}

#[test]
fn a_device_that_vanishes_ends_the_sweep_and_is_blamed_on_no_config() {
    let place = Place::new();
    let child = place.endless_sweep();
    // The host cannot vanish; a worker that dies and cannot be started again looks the same from here.
    fs::remove_file(place.path().join("sweep")).unwrap();
    let workers = children(child.id());
    assert!(!workers.is_empty());
    let before = place.trials("output").len();
    assert!(Command::new("kill").arg("-KILL").args(&workers).status().unwrap().success());
    let message = error(&child.wait_with_output().unwrap());
    assert!(message.contains("the device is gone") && message.contains("is in the journal"), "{message}");
    let trials = place.trials("output");
    assert!(trials.len() >= before);
    assert!(trials.iter().all(|trial| trial["status"] == "ok"), "no config is blamed");
    place.assert_document_in_place();
}

#[test]
fn a_worker_that_dies_alone_costs_no_trial() {
    let place = Place::new();
    let mut child = place.endless_sweep();
    let before = place.trials("output").len();
    assert!(Command::new("kill").arg("-KILL").args(children(child.id())).status().unwrap().success());
    wait_for("the sweep to go on", || place.trials("output").len() >= before + 10);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(failures(&place.trials("output")), Vec::<&Value>::new(), "who was killed is not to blame");
}

fn failures(trials: &[Value]) -> Vec<&Value> {
    trials.iter().filter(|trial| trial["status"] != "ok").collect()
}

/// A sweep into `output` whose measuring process has faults: `cases` of what it is asked, where `first N` holds the first N times.
fn with_faults(place: &Place, output: &str, cases: &str) -> Output {
    let counter = place.path().join(format!("{output}.times"));
    let first = r#"{ echo >> COUNTER; [ "$(wc -l < COUNTER)" -le TIMES ]; }"#;
    let times: String = cases.split("first ").nth(1).unwrap_or("0").chars().take_while(char::is_ascii_digit).collect();
    let first = first.replace("COUNTER", counter.to_str().unwrap()).replace("TIMES", &times);
    let cases = cases.replace(&format!("first {times}"), &first);
    let folder = place.path().join(format!("{output}.tool"));
    fs::create_dir(&folder).unwrap();
    let tool = common::tool_with_faults(&folder, &cases);
    let mut sweep = place.tool(&["--plan", "plan.toml", "-q", "--json", "--output", output]);
    sweep.env("SWEEP_PROGRAM", tool).output().unwrap()
}

/// The same sweep of a sound machine does the rest, and comes to what it does from the start.
fn assert_the_rest_is_done(place: &Place, output: &str) {
    let again = place.tool(&["--plan", "plan.toml", "-q", "--output", output]).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    let trials = place.trials(output);
    assert_eq!(failures(&trials), Vec::<&Value>::new());
    assert!(place.path().join(output).join("cpu").join(DOCUMENT).is_file());
    let screened: std::collections::BTreeSet<_> =
        trials.iter().map(|trial| format!("{} {}", trial["problem"], trial["config"])).collect();
    assert_eq!(screened.len(), 8, "two problems, four configs each");
}

#[test]
fn a_process_that_is_killed_some_times_costs_nothing() {
    let place = Place::new();
    let cases = [
        ("preparing", r#"*'"ask":"prepare"'*) first 2 && kill -9 $$ ;;"#),
        ("opening", r#"*'"ask":"open"'*) first 2 && kill -9 $$ ;;"#),
        ("screening", r#"*'"ask":"trial"'*'"block_sizes":[8]'*) first 1 && kill -9 $$ ;;"#),
        ("dying", r#"*'"ask":"trial"'*'"block_sizes":[8]'*) first 1 && exit 1 ;;"#),
        ("racing", r#"*'"ask":"race"'*) first 2 && kill -9 $$ ;;"#),
        ("stopped", r#"*'"ask":"trial"'*'"block_sizes":[8]'*) first 1 && kill -TERM $$ ;;"#),
        ("memory", r#"*'"ask":"trial"'*) first 2 && { echo '{"reply":"trouble","error":"no memory"}'; exit; } ;;"#),
    ];
    at_once(&cases, |(output, cases)| {
        let swept = with_faults(&place, output, cases);
        assert!(swept.status.success(), "{output}: {swept:?}");
        assert_the_rest_is_done(&place, output);
    });
}

#[test]
fn a_machine_that_stays_in_trouble_ends_the_sweep_and_blames_no_config() {
    let place = Place::new();
    let cases = [
        ("preparing", r#"*'"ask":"prepare"'*) kill -9 $$ ;;"#),
        ("screening", r#"*'"ask":"trial"'*) kill -9 $$ ;;"#),
        ("dying", r#"*'"ask":"trial"'*) exit 1 ;;"#),
        ("device", r#"*'"ask":"open"'*) echo '{"reply":"refused","error":"no device"}'; exit ;;"#),
        ("canary", r#"*'"ask":"control"'* | *'"ask":"trial"'*) exit 1 ;;"#),
    ];
    at_once(&cases, |(output, cases)| {
        let swept = with_faults(&place, output, cases);
        let message = error(&swept);
        assert!(message.contains("no config is blamed"), "{output}: {message}");
        assert_eq!(place.trials(output), Vec::<Value>::new(), "{output}");
        assert_the_rest_is_done(&place, output);
    });
}

#[test]
fn one_problem_that_cannot_be_prepared_is_left_and_the_others_are_measured() {
    let place = Place::new();
    let swept = with_faults(&place, "left", r#"*'"ask":"prepare"'*'"rows":600'*) kill -9 $$ ;;"#);
    let message = error(&swept);
    assert!(message.contains("1 problems are left to the next run"), "{message}");
    let stderr = String::from_utf8_lossy(&swept.stderr).into_owned();
    assert!(stderr.contains("warning: row_softmax rows=600,cols=300") && stderr.contains("killed"), "{stderr}");
    let summary: Value = serde_json::from_slice(&swept.stdout).unwrap();
    assert_eq!(summary["families"]["row_softmax"]["unworkable"], serde_json::json!([]));
    let trials = place.trials("left");
    assert!(!trials.is_empty() && trials.iter().all(|trial| trial["problem"]["rows"] == 256), "{trials:?}");
    assert_the_rest_is_done(&place, "left");
}

#[test]
fn what_timed_out_is_tried_again_by_the_next_run_and_what_crashed_is_not() {
    let place = Place::new();
    // Alone and in a race; what is known to be good comes in a control.
    let cases = r#"
        *'"ask":"control"'*) ;;
        *'"block_sizes":[8],"num_warps":1,"reduction_loops":[64]'*) exec sleep 1000 ;;
        *'"block_sizes":[8],"num_warps":1,"reduction_loops":[null]'*)
            echo '{"reply":"dead","error":"an illegal address"}'; exit ;;
"#;
    let tool = common::tool_with_faults(place.path(), cases);
    let mut sweep = place.tool(&["--plan", "plan.toml", "-q", "--output", "hangs", "--trial-deadline", "2s"]);
    assert!(sweep.env("SWEEP_PROGRAM", tool).status().unwrap().success());
    let trials = place.trials("hangs");
    let statuses: Vec<_> = failures(&trials).iter().map(|trial| trial["status"].as_str().unwrap().to_owned()).collect();
    assert_eq!(statuses.iter().filter(|status| *status == "timeout").count(), 2, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| *status == "crashed").count(), 2, "{statuses:?}");

    assert!(place.tool(&["--plan", "plan.toml", "-q", "--output", "hangs"]).status().unwrap().success());
    let after = place.trials("hangs");
    assert_eq!(&after[..trials.len()], &trials[..]);
    let hung = |trial: &&Value| trial["config"]["block_sizes"][0] == 8 && trial["config"]["reduction_loops"][0] == 64;
    let tried: Vec<&Value> = after[trials.len()..].iter().filter(|trial| trial["stage"] == "screen").collect();
    assert_eq!(tried.iter().filter(|trial| hung(trial) && trial["status"] == "ok").count(), 2, "{tried:?}");
    let crashed =
        |trial: &&Value| trial["config"]["block_sizes"][0] == 8 && trial["config"]["reduction_loops"][0].is_null();
    assert!(!tried.iter().any(crashed), "what crashed is not tried again: {tried:?}");
    assert!(place.tool(&["--plan", "plan.toml", "-q", "--output", "hangs"]).status().unwrap().success());
    assert_eq!(place.trials("hangs"), after, "now all is settled");
}

/// A sweep by a user who may not do as it likes: with so many processes, or so much memory.
fn limited(place: &Place, output: &str, limit: &str) -> Output {
    let mut command = Command::new("prlimit");
    command.arg(limit).arg("./sweep").current_dir(place.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.args(["--gpu", "cpu", "--family", "row_softmax", "--plan", "plan.toml", "-q", "--output", output]);
    if is_root() {
        command.uid(65534).gid(65534); // no limit of processes holds for root
    }
    command.output().unwrap()
}

#[test]
fn a_limit_of_the_machine_is_blamed_on_no_config() {
    let place = Place::new();
    for (output, limits) in [
        ("processes", ["--nproc=1", "--nproc=3", "--nproc=5", "--nproc=6", "--nproc=8", "--nproc=12"]),
        (
            "memory",
            ["--as=40000000", "--as=60000000", "--as=100000000", "--as=200000000", "--as=400000000", "--as=1000000000"],
        ),
    ] {
        let mut ended = 0;
        for (turn, limit) in limits.iter().enumerate() {
            let output = format!("{output}-{turn}");
            let swept = limited(&place, &output, limit);
            let stderr = String::from_utf8_lossy(&swept.stderr).into_owned();
            println!("{limit}: {} {stderr}", swept.status);
            assert_eq!(failures(&place.trials(&output)), Vec::<&Value>::new(), "{limit}");
            ended += usize::from(!swept.status.success());
            // Without a byte of memory no word can be said either: the system's abort is the end.
            let is_aborted = output.starts_with("memory") && swept.status.code().is_none();
            if !swept.status.success() && !is_aborted {
                assert_eq!(swept.status.code(), Some(1), "{limit}: {stderr}");
                let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
                assert!(errors == 1 && !stderr.contains("panicked"), "{limit}: {stderr}");
            }
        }
        assert!(ended > 0, "{output}: no limit was felt");
    }
}

/// The processes that a sweep started, with those that these started.
fn descendants(parent: u32) -> Vec<u32> {
    let own: Vec<u32> = children(parent).iter().map(|child| child.parse().unwrap()).collect();
    own.iter().flat_map(|child| std::iter::once(*child).chain(descendants(*child))).collect()
}

fn is_alive(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[test]
fn what_a_killed_sweep_started_is_gone_at_once_even_where_it_was_stopped() {
    let place = Place::new();
    for is_stopped in [false, true] {
        let mut child = place.endless_sweep();
        let workers = descendants(child.id());
        assert!(!workers.is_empty() && workers.iter().all(|worker| is_alive(*worker)));
        if is_stopped {
            let names = workers.iter().map(u32::to_string);
            assert!(Command::new("kill").arg("-STOP").args(names).status().unwrap().success());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while workers.iter().any(|worker| is_alive(*worker)) {
            assert!(std::time::Instant::now() < patience, "{workers:?} go on, stopped: {is_stopped}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Programs that keep every core busy.
struct Load(Vec<Child>);

impl Load {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().unwrap().get();
        let busy = || Command::new("bash").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..2 * cores).map(|_| busy()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn what_was_measured_beside_other_work_is_flagged_in_journal_and_document() {
    let place = Place::new();
    fs::write(place.path().join("few.toml"), common::plan_with(10)).unwrap();
    let load = Load::start();
    let swept = place.tool(&["--plan", "few.toml", "-q", "--json", "--output", "loaded"]).output().unwrap();
    assert!(swept.status.success(), "{swept:?}");
    let stderr = String::from_utf8_lossy(&swept.stderr).into_owned();
    assert_eq!(stderr.matches("warning: ").count(), 1, "one word: {stderr}");
    assert!(stderr.contains("has other work"), "{stderr}");
    let summary: Value = serde_json::from_slice(&swept.stdout).unwrap();
    let loaded = place.trials("loaded").iter().filter(|trial| trial["loaded"] == true).count();
    // Trials of a program that several configs share are in the journal for each of these.
    let told = summary["loaded"].as_u64().unwrap() as usize;
    assert!(0 < told && told <= loaded, "{told} of {loaded}: {summary}");
    let document = fs::read(place.path().join("loaded/cpu").join(DOCUMENT)).unwrap();
    let document = kernel_sweep::heuristics::Document::from_bytes(&document).unwrap();
    let of_rules = document.rules.iter().map(|rule| &rule.source);
    let of_fallbacks = document.fallbacks.values().flat_map(|groups| groups.values()).map(|fallback| &fallback.source);
    let mut problems = of_rules.chain(of_fallbacks).filter_map(|source| source.get("problems")?.as_array()).flatten();
    assert!(problems.any(|problem| problem["loaded"] == true), "the document says so");

    // A night beside it tells nothing of what was measured before.
    let nightly = ["nightly", "--gpu", "cpu", "--family", "row_softmax", "--plan", "plan.toml", "--json"];
    let night = Command::new(place.path().join("sweep")).current_dir(place.path()).args(nightly).output().unwrap();
    drop(load);
    let told = String::from_utf8_lossy(&night.stdout).into_owned();
    let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["state"], "loaded", "{told}");
    assert_eq!(events[2]["verdict"], "unchecked", "{told}");
    place.assert_document_in_place();
}

#[test]
fn a_clock_that_jumps_is_no_matter() {
    let place = Place::new();
    // A journal from the future, as left by a clock that was set back since.
    let journal = place.output("journal/row_softmax.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: Value = serde_json::from_str(header).unwrap();
    header["started"] = "2999-01-01T00:00:00Z".into();
    fs::write(&journal, format!("{header}\n{rest}")).unwrap();
    let known = place.trials("output").len();
    let again = place.tool(&["--plan", "plan.toml", "--json", "-q", "--budget", "10m"]).output().unwrap();
    let summary: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&summary["cut_short"], place.trials("output").len()), (&Value::Bool(false), known));
    assert!(summary["wall_s"].as_f64().unwrap() >= 0.0);
    place.assert_document_in_place();
    // A journal set aside never lands on one that is there.
    for _ in 0..3 {
        assert!(place.tool(&["--plan", "plan.toml", "--fresh", "-q"]).status().unwrap().success());
    }
    assert_eq!(fs::read_dir(place.output("journal")).unwrap().count(), 4);
}

/// Whoever watched leaves: at once, so that not one line can be written.
#[test]
fn a_reader_that_leaves_ends_no_sweep() {
    let place = Place::new();
    for (stdout, stderr) in [(true, false), (false, true)] {
        let output = format!("left-{stdout}-{stderr}");
        let mut sweep = place.tool(&["--plan", "plan.toml", "--json", "-v", "--output", &output]);
        let mut child = sweep.spawn().unwrap();
        let pipes = (child.stdout.take().filter(|_| !stdout), child.stderr.take().filter(|_| !stderr));
        assert!(child.wait().unwrap().success());
        drop(pipes);
        assert!(place.path().join(&output).join("cpu").join(DOCUMENT).is_file());
    }
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let to_full = |arguments: &[&str]| place.tool(arguments).stdout(full()).output().unwrap();
    let message = error(&to_full(&["--plan", "plan.toml", "--json"]));
    assert!(message.contains("standard output"), "{message}");
    let unheard = place.tool(&["--plan", "plan.toml"]).stderr(full()).output().unwrap();
    assert!(unheard.status.success(), "{unheard:?}");
}

#[test]
fn a_sweep_that_comes_away_with_nothing_leaves_the_document_as_it_was() {
    let place = Place::new();
    let hasty = place.tool(&["--plan", "plan.toml", "--fresh", "--budget", "0.001s", "-q"]).output().unwrap();
    assert!(hasty.status.success(), "{hasty:?}");
    place.assert_document_in_place();
}

#[test]
fn a_journal_of_another_device_is_refused_before_anything_is_measured() {
    let place = Place::new();
    let (journal, foreign) = place.edit_header("gpu");
    let message = error_of(&place.tool(&["--plan", "plan.toml", "-q"]).output().unwrap(), 2);
    assert!(message.contains("was measured on another") && message.contains("--fresh"), "{message}");
    assert_eq!(fs::read_to_string(&journal).unwrap(), foreign, "it is as it was");
    place.assert_document_in_place();
}

#[test]
fn a_journal_of_another_protocol_is_set_aside_and_all_is_measured_anew() {
    let place = Place::new();
    let (journal, foreign) = place.edit_header("protocol");
    let run = place.tool(&["--plan", "plan.toml", "--json"]).output().unwrap();
    let message = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success() && message.contains("was measured by another") && message.contains("set aside"));
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(summary["resumed"], 0);
    let new = fs::read_to_string(&journal).unwrap();
    assert!(!new.contains("\"protocol\":\"another\"") && new.lines().count() >= 10, "{new}");
    let aside = fs::read_dir(place.output("journal")).unwrap().map(|entry| entry.unwrap().path());
    let aside: Vec<PathBuf> = aside.filter(|path| *path != journal).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(fs::read_to_string(&aside[0]).unwrap(), foreign, "it is as it was");
}

/// The sizes of what is far too large would overflow, and nothing that is left of them be verified.
#[test]
fn a_problem_that_no_device_holds_is_pruned_with_its_size() {
    let place = Place::new();
    for extent in [1u64 << 32, i64::MAX as u64, 4_000_000] {
        let plan = fs::read_to_string(place.path().join("plan.toml")).unwrap();
        let space = plan.split("[[space.cpu.problem]]").next().unwrap();
        let plan = format!("{space}[[space.cpu.problem]]\nrows = {extent}\ncols = {extent}\n");
        fs::write(place.path().join("huge.toml"), plan).unwrap();
        let output = format!("huge-{extent}");
        let swept = place.tool(&["--plan", "huge.toml", "-q", "--output", &output]).output().unwrap();
        assert_eq!(swept.status.code(), Some(4), "{swept:?}");
        let trials = place.trials(&output);
        assert!(!trials.is_empty());
        for trial in trials {
            assert_eq!(trial["status"], "pruned");
            let error = trial["error"].as_str().unwrap();
            assert!(error.starts_with("the tensors need ") || error.starts_with("tensor X needs "), "{trial}");
        }
    }
}

#[test]
fn a_race_that_was_cut_before_its_null_arm_is_run_again() {
    let place = Place::new();
    let journal = place.output("journal/row_softmax.jsonl");
    let whole = fs::read_to_string(&journal).unwrap();
    let null_arms = |text: &str| text.matches("\"null_arm\":true").count();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    let first = lines.iter().position(|line| null_arms(line) == 1).unwrap();
    fs::write(&journal, lines[..first].concat()).unwrap();
    assert!(place.tool(&["--plan", "plan.toml", "-q"]).status().unwrap().success());
    let again = fs::read_to_string(&journal).unwrap();
    assert_eq!(null_arms(&again), null_arms(&whole));
}
