//! The page about a GPU, from outside and without a browser.

#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::sweep;
use predicates::str::contains;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

const COMMITTED: [&str; 2] = ["h200", "h100"];
/// What a page may weigh, so that it can be sent and opened anywhere.
const MOST_BYTES: usize = 3_000_000;

/// An output folder that holds what is committed of each GPU, and nothing that somebody measured here.
fn committed_output() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = Path::new(env!("CARGO_MANIFEST_DIR")).join("output");
    for gpu in COMMITTED {
        fs::create_dir(folder.path().join(gpu)).unwrap();
        for name in [format!("observed_heuristics_{gpu}.json"), "archive".into(), "evaluation.json".into()] {
            let (committed, here) = (output.join(gpu).join(&name), folder.path().join(gpu).join(&name));
            if committed.exists() {
                std::os::unix::fs::symlink(committed, here).unwrap();
            }
        }
    }
    folder
}

/// The page of a GPU whose folder lies in `output`, with more arguments.
fn page(output: &Path, gpu: &str, more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    sweep(folder.path())
        .args(["report", "--gpu", gpu, "-o", "page.html", "--output"])
        .arg(output)
        .args(more)
        .assert()
        .success()
        .stderr(contains("wrote page.html"));
    fs::read_to_string(folder.path().join("page.html")).unwrap()
}

/// The pages of what is committed, which take seconds to make.
static COMMITTED_PAGES: LazyLock<BTreeMap<&str, String>> = LazyLock::new(|| {
    let output = committed_output();
    COMMITTED.into_iter().map(|gpu| (gpu, page(output.path(), gpu, &[]))).collect()
});

/// Elements that HTML knows to have no end.
const VOID: [&str; 4] = ["meta", "link", "br", "hr"];

/// What is wrong with how a page's elements nest, if anything.
fn misnested(page: &str) -> Option<String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>')?;
        let (tag, after) = rest.split_at(end);
        rest = &after[1..];
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
        if tag.starts_with('!') || VOID.contains(&name) {
            continue;
        }
        if tag.matches('"').count() % 2 != 0 {
            return Some(format!("a quote within <{tag}>"));
        }
        if tag.starts_with('/') {
            match open.pop() {
                Some(opened) if opened == name => {}
                opened => return Some(format!("</{name}> ends {opened:?}")),
            }
            continue;
        }
        open.push(name);
        // What scripts and styles hold is no markup.
        if matches!(name, "script" | "style") {
            rest = &rest[rest.find(&format!("</{name}>"))?..];
        }
    }
    (!open.is_empty()).then(|| format!("{open:?} do not end"))
}

/// The values of an attribute.
fn attributes<'p>(page: &'p str, name: &str) -> Vec<&'p str> {
    page.split(&format!(" {name}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_committed_pages_are_whole_small_and_need_nothing_from_elsewhere() {
    for (gpu, page) in &*COMMITTED_PAGES {
        assert!(page.len() < MOST_BYTES, "{gpu}: {} bytes", page.len());
        assert_eq!(misnested(page), None, "{gpu}");
        let outside = ["http://", "https://", "//cdn", "@import", " src=", "fetch(", "XMLHttpRequest", "import("];
        for outside in outside {
            assert!(!page.contains(outside), "{gpu}: {outside}");
        }
        assert!(
            page.split("url(").skip(1).all(|rest| rest.starts_with('#')),
            "{gpu}: a url that is no mark of its own"
        );
        let ids: Vec<&str> = attributes(page, "id");
        let distinct: std::collections::BTreeSet<&&str> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len(), "{gpu}: an id stands twice");
        for link in attributes(page, "href") {
            let leads = link.strip_prefix('#').is_some_and(|mark| distinct.contains(&mark)) || link == "data:,";
            assert!(leads, "{gpu}: {link} leads nowhere");
        }
        let archives = Path::new(env!("CARGO_MANIFEST_DIR")).join("output").join(gpu).join("archive");
        let is_swept = |family: &kernel_sweep::model::Family| archives.join(format!("{family}.jsonl.zst")).is_file();
        for family in kernel_sweep::model::Family::ALL.into_iter().filter(is_swept) {
            assert!(page.matches(&format!("<h3>{family} ")).count() >= 3, "{gpu}: map, roofline and knobs of {family}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{gpu}");
    }
}

/// The verdict depends on the document that is compared with, and the knobs on what spaces are by now.
#[test]
fn the_page_of_the_readme_is_that_of_the_committed_files() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("output/h200/report.html");
    let committed = fs::read_to_string(committed).unwrap();
    assert!(committed.len() < MOST_BYTES && misnested(&committed).is_none());
    let made = &COMMITTED_PAGES["h200"];
    for id in ["buckets", "roofline", "regret"] {
        let same = section(made, id) == section(&committed, id);
        assert!(same, "{id}: make output/h200/report.html again, as README.md says");
    }
}

fn problem(name: &str, served_us: f64) -> Value {
    json!({ "problem": name, "served_us": served_us, "noise": 0.005, "slowdown": 1.02 })
}

/// A document of two rules whose problems take so long, and a fallback.
fn document(first_us: f64, driver: &str) -> Value {
    let problems =
        |m: u32, us: f64| (0..4).map(|at| problem(&format!("m={m},n={},k=512 bf16", 512 - at), us)).collect::<Vec<_>>();
    let rule = |m_bin: &str, m: u32, us: f64, ties: &[&str]| {
        json!({
            "kernel_class": "matmul",
            "shape_bucket": { "aspect": "skinny_m", "dtype": "fp16_bf16", "k_bin": "<=512", "m_bin": m_bin, "n_bin": "<=512" },
            "match_exact_only": true,
            "source": { "problems": problems(m, us), "kernels": ["k1"] },
            "validation": { "ties": { "configs": ties, "repeat_noise": 0.0 } },
            "templates": [{ "template": { "block_sizes": [16, 64, 64], "mma": "wgmma", "num_warps": 4 } }],
        })
    };
    let environment = json!({
        "arch": "sm_90a", "device": "NVIDIA H200", "driver": driver, "nvrtc": "13.0.88", "protocol": "cold-l2/2", "sweep": "0.1.0",
    });
    json!({
        "schema_version": 2,
        "policy": { "device": "NVIDIA H200", "driver": driver, "measured_with": { "matmul": [environment] } },
        "rules": [rule("<=4", 2, first_us, &[]), rule("<=16", 16, 20.0, &["abcd1234"])],
        "fallbacks": { "matmul": { "small_m": {
            "template": { "block_sizes": [64, 64, 64], "mma": "mma_sync" },
            "source": { "problems": problems(200, 30.0), "kernels": ["k2"] },
        } } },
    })
}

/// An output folder whose H200 has this document.
fn with_document(document: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "h200/observed_heuristics_h200.json", document);
    folder
}

fn write(folder: &Path, name: &str, value: &Value) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, serde_json::to_string(value).unwrap()).unwrap();
}

/// The text of a part of the page.
fn section<'p>(page: &'p str, id: &str) -> &'p str {
    page.split(&format!("<section id=\"{id}\">")).nth(1).unwrap().split("</section>").next().unwrap()
}

#[test]
fn a_bucket_that_got_slower_is_the_verdict() {
    let folder = with_document(&document(13.0, "590.2"));
    write(folder.path(), "old.json", &document(10.0, "580.1"));
    let old = folder.path().join("old.json");
    let page = page(folder.path(), "h200", &["--against", old.to_str().unwrap()]);
    let verdict = section(&page, "verdict");
    assert!(verdict.contains("▲ Regression"), "{verdict}");
    assert!(
        verdict.contains("1 slower, the most matmul m ≤ 4, n ≤ 512, k ≤ 512, skinny_m, fp16_bf16 at 1.300"),
        "{verdict}"
    );
    assert!(verdict.contains("<b>1</b><span>▲ SLOWER</span><small>on average +30.0 %"), "{verdict}");
    assert!(verdict.contains("<b>2</b><span>● SAME</span>"), "{verdict}");
    assert!(verdict.contains("matmul: driver changed: 580.1 → 590.2"), "{verdict}");
    assert_eq!(misnested(&page), None);

    let page = self::page(
        folder.path(),
        "h200",
        &["--against", folder.path().join("h200/observed_heuristics_h200.json").to_str().unwrap()],
    );
    let verdict = section(&page, "verdict");
    assert!(verdict.contains("✓ No regression") && verdict.contains("<b>3</b><span>● SAME</span>"), "{verdict}");
    assert!(verdict.contains("Driver, compiler, protocol and the kernels that both serve are the same"), "{verdict}");
}

#[test]
fn a_map_shows_rules_ties_and_what_is_left_to_the_fallback() {
    let folder = with_document(&document(10.0, "1"));
    let page = page(folder.path(), "h200", &[]);
    let map = section(&page, "buckets").split("</figure>").next().unwrap().to_owned();
    let map = map.split("<div class=\"row\">").nth(1).unwrap().split("<details>").next().unwrap();
    assert_eq!(map.matches("class=\"cell\"").count(), 2, "{map}");
    assert_eq!(map.matches("class=\"cell fallback\"").count(), 1, "{map}");
    assert_eq!(map.matches("class=\"hatch\"").count(), 1, "{map}");
    assert_eq!(map.matches(">2</text>").count(), 3, "each is 2 % behind: {map}");
    assert!(map.contains("m ≤ 4, n ≤ 512, k ≤ 512, skinny_m, fp16_bf16\nrule: wgmma, 16×64×64, warps 4\n+2.0 % behind the best on 4 problems"), "{map}");
}

#[test]
fn what_is_not_there_is_said_with_how_to_make_it() {
    let folder = with_document(&document(10.0, "1"));
    let page = page(folder.path(), "h200", &[]);
    for (id, word, way) in [
        ("verdict", "Not compared", "sweep report --gpu h200 --against OLD.json"),
        ("regret", "There is no evaluation.json", "sweep evaluate --gpu h200"),
        ("knobs", "There are no journals", "sweep --gpu h200"),
        ("effort", "There are no journals", "sweep archive --gpu h200"),
        ("nights", "No night is kept", "sweep nightly --gpu h200"),
    ] {
        let section = section(&page, id);
        assert!(section.contains(word) && section.contains(way), "{id}: {section}");
    }
    assert_eq!(misnested(&page), None);
}

#[test]
fn an_evaluation_is_drawn_for_each_that_may_answer() {
    let folder = with_document(&document(10.0, "1"));
    let judged = |at: u32, served: f64, fallback: Value| {
        json!({
            "family": "matmul", "problem": format!("m={at},n=9,k=9 bf16"), "source": "model", "regret": served, "over_default": 0.5,
            "answers": { "model": { "regret": served }, "fallback": { "regret": fallback }, "default": { "regret": served / 0.5 } },
        })
    };
    let problems = [judged(1, 1.0, json!(1.5)), judged(2, 1.21, json!(null)), judged(3, 1.1, json!(2.0))];
    write(
        folder.path(),
        "h200/evaluation.json",
        &json!({ "gpu": "h200", "document": "earlier.json", "problems": problems }),
    );
    let page = page(folder.path(), "h200", &[]);
    let regret = section(&page, "regret");
    let charts = |name: &str| regret.matches(&format!("data-t=\"{name}: ")).count();
    assert_eq!(
        ["served", "model", "fallback", "default", "rule"].map(charts),
        [2, 2, 2, 2, 0],
        "all, and matmul: {regret}"
    );
    assert!(regret.contains("data-t=\"served: +10.0 % on average over 3 problems\""), "{regret}");
    assert!(regret.contains("fallback (2)"), "its config does not work on the third: {regret}");
    assert!(regret.contains("may be of an earlier one"), "{regret}");
    fs::write(folder.path().join("h200/evaluation.json"), "[]").unwrap();
    sweep(folder.path())
        .args(["report", "--gpu", "h200", "-o", "page.html", "--output", "."])
        .assert()
        .code(2)
        .stderr(contains("evaluation ./h200/evaluation.json"));
}

#[test]
fn nights_are_a_trend_from_the_second_on_and_one_that_got_slower_stands_out() {
    let folder = with_document(&document(10.0, "1"));
    let night = |when: &str, factor: f64, verdict: &str| {
        let mut of_night = document(10.0 * factor, "1");
        for (rule, us) in of_night["rules"].as_array_mut().unwrap().iter_mut().zip([10.0, 20.0]) {
            for problem in rule["source"]["problems"].as_array_mut().unwrap() {
                problem["served_us"] = json!(us * factor);
            }
        }
        write(folder.path(), &format!("h200/nights/{when}/observed_heuristics_h200.json"), &of_night);
        write(folder.path(), &format!("h200/nights/{when}/report.json"), &json!({ "verdict": verdict }));
    };
    night("2026-11-01T020000Z", 1.0, "replaced");
    let one = page(folder.path(), "h200", &[]);
    assert!(section(&one, "nights").contains("One night is kept here"));
    night("2026-11-02T020000Z", 1.005, "same");
    night("2026-11-03T020000Z", 1.2, "kept");
    let page = page(folder.path(), "h200", &[]);
    let nights = section(&page, "nights");
    assert!(nights.contains("class=\"band\"") && nights.contains(">11-01<") && nights.contains(">11-03<"), "{nights}");
    assert_eq!(
        (nights.matches("<g class=\"sf\"").count(), nights.matches("<g class=\"ss\"").count()),
        (2, 1),
        "{nights}"
    );
    assert!(nights.contains("document: kept"), "{nights}");
}

#[test]
fn what_documents_call_things_is_shown_as_it_is() {
    let mut hostile = document(10.0, "</p><script>alert(1)</script>");
    hostile["rules"][0]["kernel_class"] = json!("\"><img src=x onerror=alert(1)>");
    hostile["rules"][1]["templates"][0]["template"]["mma"] = json!("<b>\" onload=\"x");
    let folder = with_document(&hostile);
    write(folder.path(), "old.json", &document(13.0, "1"));
    let page = page(folder.path(), "h200", &["--against", folder.path().join("old.json").to_str().unwrap()]);
    assert_eq!(misnested(&page), None);
    for raw in ["<img", "<script>alert", "<b>\"", "\" onload"] {
        assert!(!page.contains(raw), "{raw}");
    }
}

#[test]
fn a_page_is_the_same_each_time_and_of_no_gpu_that_nothing_is_known_of() {
    let folder = with_document(&document(10.0, "1"));
    assert!(page(folder.path(), "h200", &[]) == page(folder.path(), "h200", &[]));
    let report =
        |gpu: &str| sweep(folder.path()).args(["report", "--gpu", gpu, "-o", "x.html", "--output", "."]).assert();
    report("a100").code(2).stderr(contains("run sweep --gpu a100 first"));
    report("../h200").code(2);
    sweep(folder.path()).args(["report", "--gpu", "h200"]).assert().code(2).stderr(contains("-o"));
}

/// All of a small page but its style and script, so that a change of what is drawn shows.
#[test]
fn a_small_page_is_drawn_as_before() {
    let folder = with_document(&document(13.0, "590.2"));
    write(folder.path(), "old.json", &document(10.0, "580.1"));
    let page = page(folder.path(), "h200", &["--against", folder.path().join("old.json").to_str().unwrap()]);
    let main = page.split("<main>").nth(1).unwrap().split("</main>").next().unwrap();
    let main = main.replace(&folder.path().display().to_string(), "OUTPUT").replace("><", ">\n<");
    insta::assert_snapshot!("page", main);
}
