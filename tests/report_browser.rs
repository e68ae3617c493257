//! The page in a real browser: no errors, nothing beyond the edge of a phone or a screen, tooltips and sorting that work. Skipped,
//! with a word, where there is no Chromium (Debian: `apt-get install chromium`; `$CHROMIUM` may name another).

#![cfg(feature = "harness")]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

mod common;

use common::sweep;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is run beside the page, in a frame of each width: told as JSON in the outer page's title.
const HARNESS: &str = include_str!("report_browser/harness.html");

/// Put before all else in the page, so that no error goes unheard.
const LISTENER: &str = r#"<script>window.problems = [];
addEventListener("error", (event) => problems.push(event.message || "a resource of " + event.target.tagName), true);
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...told) => problems.push(told.join(" "));</script>"#;

fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let names = ["chromium", "chromium-browser", "google-chrome"].map(PathBuf::from);
    let starts =
        |program: &PathBuf| Command::new(program).arg("--version").output().is_ok_and(|told| told.status.success());
    named.into_iter().chain(names).find(starts)
}

/// What the harness tells of the page in `folder`.
fn look(chromium: &Path, folder: &Path, more: &[&str]) -> Vec<Value> {
    let output = Command::new(chromium)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--allow-file-access-from-files",
        ])
        .args(["--window-size=1700,1000", "--virtual-time-budget=60000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(more)
        .arg(format!("file://{}", folder.join("harness.html").display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap_or_default();
    let title = title.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&title)
        .unwrap_or_else(|error| unreachable!("{error}: {title}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn assert_well(told: &[Value]) {
    assert_eq!(
        told.iter().map(|told| told["width"].as_u64().unwrap_or(0)).collect::<Vec<_>>(),
        [400, 1600],
        "{told:?}"
    );
    for told in told {
        assert_eq!(told["errors"], serde_json::json!([]), "{told}");
        assert_eq!(
            (&told["beyond"], &told["beyondUnfolded"]),
            (&serde_json::json!([]), &serde_json::json!([])),
            "{told}"
        );
        assert!(
            told["scroll"] == told["client"] && told["unfolded"] == told["client"],
            "it can be scrolled sideways: {told}"
        );
        for works in ["tip", "sorts", "leads"] {
            assert_eq!(told[works], true, "{works}: {told}");
        }
    }
}

#[test]
fn a_browser_shows_the_committed_pages_without_errors_and_within_their_width() {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: there is no chromium here (apt-get install chromium, or name it in $CHROMIUM)");
        return;
    };
    let output = Path::new(env!("CARGO_MANIFEST_DIR")).join("output");
    for gpu in ["h200", "h100"] {
        let folder = tempfile::tempdir().unwrap();
        let old = output.join("h100/observed_heuristics_h100.json");
        sweep(folder.path())
            .args(["report", "--gpu", gpu, "-o", "page.html", "--output"])
            .arg(&output)
            .arg("--against")
            .arg(old)
            .assert()
            .success();
        let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
        fs::write(folder.path().join("page.html"), page.replacen("<head>", &format!("<head>{LISTENER}"), 1)).unwrap();
        fs::write(folder.path().join("harness.html"), HARNESS).unwrap();
        let light = look(&chromium, folder.path(), &[]);
        assert_well(&light);
        assert_eq!((&light[0]["dark"], &light[0]["paper"]), (&false.into(), &"rgb(255, 255, 255)".into()));
        let dark = look(&chromium, folder.path(), &["--blink-settings=preferredColorScheme=0"]);
        assert_well(&dark);
        assert_eq!((&dark[0]["dark"], &dark[0]["paper"]), (&true.into(), &"rgb(16, 20, 24)".into()));
    }
}
