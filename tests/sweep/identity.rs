//! What was measured on what, and what becomes of it in another environment: said, set aside, measured again; and never lost,
//! neither from the journal nor from the document.

use crate::common::{self, PLAN, TINY, folder_with_plan, sweep};
use kernel_sweep::heuristics::Document;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder in which the plan was swept.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(common::swept_folder())
    }

    /// Sweeps again; what it came to, and what it said.
    fn sweep(&self, more: &[&str], code: i32) -> (Value, String) {
        let run = sweep(self.0.path()).args(TINY).arg("--json").args(more).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{said}");
        (serde_json::from_slice(&run.stdout).unwrap_or_default(), said)
    }

    fn derive(&self, more: &[&str], code: i32) -> String {
        let run = sweep(self.0.path()).args(["derive", "--gpu", "cpu"]).args(more).output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(code), "{said}");
        said
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("output/cpu/journal/row_softmax.jsonl")
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join("output/cpu/observed_heuristics_cpu.json")).unwrap())
            .unwrap()
    }

    /// Changes the fields of the journal's first header; the journal as it is now.
    fn edit_header(&self, change: impl Fn(&mut serde_json::Map<String, Value>)) -> String {
        let text = fs::read_to_string(self.journal()).unwrap();
        let (header, rest) = text.split_once('\n').unwrap();
        let mut header: Value = serde_json::from_str(header).unwrap();
        change(header.as_object_mut().unwrap());
        let edited = format!("{header}\n{rest}");
        fs::write(self.journal(), &edited).unwrap();
        edited
    }

    /// The journals that were set aside.
    fn aside(&self) -> Vec<String> {
        let files = fs::read_dir(self.journal().parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| *path != self.journal()).map(|path| fs::read_to_string(path).unwrap()).collect()
    }
}

#[test]
fn a_journal_of_another_driver_is_set_aside_unless_the_user_keeps_it() {
    for driver in ["another", ""] {
        let place = Place::new();
        let trials = common::trials(&place.journal());
        let foreign = place.edit_header(|header| drop(header.insert("driver".into(), driver.into())));
        let (kept, said) = place.sweep(&["--accept-driver"], 0);
        assert!(kept["resumed"].as_u64().unwrap() > 0 && kept["statuses"] == serde_json::json!({}), "{kept} {said}");
        assert_eq!((common::trials(&place.journal()), place.aside().len()), (trials.clone(), 0));
        // It says so ever after, and one whose driver is known is taken over from then on.
        place.derive(&[], 0);
        if driver.is_empty() {
            continue;
        }
        assert_eq!(place.sweep(&[], 0).0["statuses"], serde_json::json!({}));
        fs::write(place.journal(), &foreign).unwrap();
        let (anew, said) = place.sweep(&[], 0);
        assert!(said.contains(&format!("driver {driver} → ")) && said.contains("--accept-driver keeps it"), "{said}");
        assert_eq!(anew["resumed"], 0);
        assert!(anew["statuses"]["ok"].as_u64().unwrap() >= 8, "{anew}");
        assert_eq!(place.aside(), [foreign], "nothing is lost");
    }
}

#[test]
fn a_driver_that_nobody_told_is_not_the_same_as_any() {
    let place = Place::new();
    let foreign = place.edit_header(|header| drop(header.insert("driver".into(), "".into())));
    let (anew, said) = place.sweep(&[], 0);
    assert!(said.contains("driver unknown → ") && said.contains("set aside"), "{said}");
    assert_eq!((&anew["resumed"], place.aside()), (&0.into(), vec![foreign]));
}

#[test]
fn a_journal_of_another_size_of_device_is_refused_and_one_that_does_not_tell_is_set_aside() {
    let place = Place::new();
    let document = place.document();
    for (field, other) in [("multiprocessors", 1000), ("memory_bytes", 1 << 20)] {
        let own = fs::read_to_string(place.journal()).unwrap();
        let foreign = place.edit_header(|header| drop(header.insert(field.into(), other.into())));
        let (_, said) = place.sweep(&[], 2);
        assert!(said.contains("was measured on") && said.contains("--fresh"), "{field}: {said}");
        let (_, said) = place.sweep(&["--accept-driver"], 2);
        assert!(said.contains("was measured on"), "no driver makes another device of it: {said}");
        assert_eq!(fs::read_to_string(place.journal()).unwrap(), foreign);
        fs::write(place.journal(), own).unwrap();
    }
    assert_eq!(place.document(), document);
    let older =
        place.edit_header(|header| header.retain(|field, _| field != "multiprocessors" && field != "memory_bytes"));
    place.derive(&[], 0);
    let (kept, _) = place.sweep(&["--accept-driver"], 0);
    assert_eq!(kept["statuses"], serde_json::json!({}));
    fs::write(place.journal(), &older).unwrap();
    let (anew, said) = place.sweep(&[], 0);
    assert!(said.contains("one of unknown size") && anew["resumed"] == 0, "{said}");
    assert_eq!(place.aside(), [older]);
}

#[test]
fn a_document_of_another_device_takes_nothing_of_this_one() {
    let place = Place::new();
    let path = place.0.path().join("output/cpu/observed_heuristics_cpu.json");
    let text = fs::read_to_string(&path).unwrap();
    let device = place.document()["policy"]["device"].as_str().unwrap().to_owned();
    let foreign = text.replace(&device, "Another processor");
    fs::write(&path, &foreign).unwrap();
    for said in [place.sweep(&[], 2).1, place.derive(&[], 2)] {
        assert!(said.contains("was measured on Another processor") && said.contains("--output"), "{said}");
    }
    let night = sweep(place.0.path()).arg("nightly").args(TINY).output().unwrap();
    assert_eq!(night.status.code(), Some(2), "{night:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
}

/// Journals of two environments, named one by one.
#[test]
fn journals_of_unlike_environments_make_no_document_together() {
    let place = Place::new();
    let own = fs::read_to_string(place.journal()).unwrap();
    fs::write(place.0.path().join("one.jsonl"), &own).unwrap();
    for (field, value, told) in [
        ("gpu", "Another processor", "different devices"),
        ("protocol", "cold-l2/1", "protocols cold-l2/1 and cold-l2/2"),
        ("driver", "another", "two drivers"),
        ("driver", "", "two drivers"),
    ] {
        let other = place.edit_header(|header| drop(header.insert(field.into(), value.into())));
        fs::write(place.0.path().join("other.jsonl"), other).unwrap();
        fs::write(place.journal(), &own).unwrap();
        let said = place.derive(&["--output", "elsewhere", "--from", "one.jsonl", "other.jsonl"], 2);
        assert!(said.contains("other.jsonl") && said.contains(told), "{field}: {said}");
        let is_driver = field == "driver";
        let accepted = ["--output", "elsewhere", "--accept-driver", "--from", "one.jsonl", "other.jsonl"];
        place.derive(&accepted, if is_driver { 0 } else { 2 });
    }
}

#[test]
fn a_damaged_trial_is_refused_by_derive_and_made_again_by_the_next_sweep() {
    let place = Place::new();
    let own = fs::read_to_string(place.journal()).unwrap();
    let document = place.document();
    let (line, trial) = own.lines().enumerate().find(|(_, line)| line.contains("\"stage\":\"screen\"")).unwrap();
    // One digit of a time.
    let at = trial.find("\"median_us\":").unwrap() + "\"median_us\":".len();
    let digit = if &trial[at..=at] == "1" { "3" } else { "1" };
    let damaged = own.replace(trial, &format!("{}{digit}{}", &trial[..at], &trial[at + 1..]));
    fs::write(place.journal(), &damaged).unwrap();
    let number = line + 1;
    let said = place.derive(&[], 2);
    assert!(said.contains(&format!("row_softmax.jsonl: line {number}: it is not as it was written")), "{said}");
    assert_eq!(place.document(), document);
    let (_, said) = place.sweep(&[], 0);
    assert!(said.contains(&format!("line {number}: ")) && said.contains("is measured again"), "{said}");
    assert_eq!(place.aside(), [damaged], "the journal as it was is kept");
    let now = common::trials(&place.journal());
    let without: Vec<Value> =
        own.lines().skip(1).filter(|line| *line != trial).map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(now[..without.len()], without, "what was not damaged is there");
    place.derive(&[], 0);
    // A night does the same.
    let (first, rest) = own.split_once('\n').unwrap();
    fs::write(place.journal(), format!("{first}\n{}", rest.replacen("\"samples\":", "\"samples\":1", 1))).unwrap();
    let night = sweep(place.0.path()).arg("nightly").args(TINY).output().unwrap();
    let said = String::from_utf8_lossy(&night.stderr).into_owned();
    assert!(matches!(night.status.code(), Some(0 | 5)) && said.contains("line 2: "), "{said}");
}

/// The plan with so many problems in the group `short`, and one in `narrow`.
fn plan(short: std::ops::Range<u32>) -> String {
    let space = PLAN.split("[[space.cpu.problem]]").next().unwrap();
    let problems = short.map(|more| format!("[[space.cpu.problem]]\nrows = {}\ncols = 300\n", 200 + 20 * more));
    format!("{space}{}[[space.cpu.problem]]\nrows = 600\ncols = 300\n", problems.collect::<String>())
}

fn problems_of(document: &Value, group: &str) -> Vec<String> {
    let document = Document::from_value(document.clone()).unwrap();
    let problems = document.fallbacks["row_softmax"][group].source["problems"].as_array().unwrap();
    problems.iter().map(|problem| problem["problem"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_run_that_measures_less_leaves_the_document_no_poorer() {
    let place = Place(folder_with_plan());
    let write_plan = |plan: String| fs::write(place.0.path().join("plan.toml"), plan).unwrap();
    write_plan(plan(0..4));
    place.sweep(&[], 0);
    let whole = place.document();
    assert_eq!((problems_of(&whole, "short").len(), problems_of(&whole, "narrow").len()), (4, 1));
    let short = &whole["fallbacks"]["row_softmax"]["short"];
    let stays = |what: &str| {
        let now = place.document();
        assert_eq!(&now["fallbacks"]["row_softmax"]["short"], short, "{what}");
        assert_eq!(problems_of(&now, "narrow").len(), 1, "{what}");
        let rules = |document: &Value| document["rules"].as_array().unwrap().len();
        assert!(rules(&now) >= rules(&whole), "{what}");
    };
    // A plan limited to some problems, from the start.
    write_plan(plan(0..2));
    let (_, said) = place.sweep(&["--fresh"], 0);
    stays(&said);
    place.derive(&["--plan", "plan.toml"], 0);
    stays("derived again");
    // The journal is gone, and what is measured is another problem.
    fs::remove_file(place.journal()).unwrap();
    write_plan(plan(5..6));
    place.sweep(&[], 0);
    stays("a journal removed");
    // A shard of the whole.
    write_plan(plan(0..4));
    fs::remove_file(place.journal()).unwrap();
    place.sweep(&["--shard", "0/3"], 0);
    place.derive(&["--plan", "plan.toml"], 0);
    stays("a shard");
    fs::remove_dir_all(place.journal().parent().unwrap()).unwrap();
    // Cut short.
    place.sweep(&["--fresh", "--budget", "0.15s"], 0);
    let now = place.document();
    assert_eq!(problems_of(&now, "short").len(), 4, "{now}");
    // The whole once more is as good.
    place.sweep(&["--fresh"], 0);
    let now = place.document();
    assert_eq!(problems_of(&now, "short").len(), 4);
    assert_ne!(&now["fallbacks"]["row_softmax"]["short"], short, "measured anew");
}

#[test]
fn nights_that_fail_or_are_cut_delete_no_good_one() {
    let place = Place(folder_with_plan());
    let night = |more: &[&str]| {
        sweep(place.0.path()).arg("nightly").args(TINY).args(["--keep", "2"]).args(more).output().unwrap()
    };
    let nights = || {
        let folder = fs::read_dir(place.0.path().join("output/cpu/nights")).unwrap();
        let mut nights: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
        nights.sort();
        nights
    };
    for _ in 0..2 {
        assert!(night(&["--accept"]).status.success());
    }
    let good = nights();
    let own = fs::read_to_string(place.journal()).unwrap();
    fs::write(place.journal(), "{}\n{}\n").unwrap();
    for _ in 0..4 {
        assert!(!night(&[]).status.success());
    }
    assert!(good.iter().all(|night| nights().contains(night)), "{:?}", nights());
    fs::write(place.journal(), own).unwrap();
    assert!(night(&["--accept"]).status.success());
    let now = nights();
    assert!(!now.contains(&good[0]) && now.contains(&good[1]), "{now:?}");
    assert!(now.iter().rev().take(1).all(|night| night.join("report.json").is_file()));
}

#[test]
fn a_night_keeps_what_another_driver_measured_where_that_is_accepted() {
    let place = Place::new();
    place.edit_header(|header| drop(header.insert("driver".into(), "another".into())));
    let run = sweep(place.0.path()).arg("nightly").args(TINY).args(["--accept-driver", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    let checked: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_ne!(checked["state"], "environment_changed", "{checked}");
}
