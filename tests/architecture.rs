//! The rules of the source tree, asserted.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The lines of a file with its comments cut off.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What stands before the test module, whose attributes may come in any order and on any lines. Tests may use anything.
fn without_tests(code: &str) -> String {
    let lines: Vec<&str> = code.lines().collect();
    let module = lines.iter().position(|line| line.trim_start().starts_with("mod tests {")).unwrap_or(lines.len());
    let is_attribute = |line: &&&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let attributes = lines[..module].iter().rev().take_while(is_attribute);
    let is_test = attributes.clone().any(|line| line.contains("cfg(test)"));
    let end = if is_test { module - attributes.count() } else { lines.len() };
    lines[..end].join("\n")
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|character: char| !character.is_alphanumeric() && character != '_').any(|found| found == word)
}

/// C is spoken to through raw pointers, so the file that does has `unsafe` of its own, but nothing of the GPU.
#[test]
fn cudarc_and_unsafe_stay_in_the_cuda_folder() {
    let allowed = root().join("src/device/cuda");
    let interface_of_c = root().join("src/c.rs");
    let mut inside = 0;
    for path in rust_files(&root().join("src")) {
        let code = code(&path);
        let dangerous = has_word(&code, "cudarc") || has_word(&code, "unsafe") && path != interface_of_c;
        if path.starts_with(&allowed) {
            inside += usize::from(dangerous);
        } else {
            assert!(!dangerous, "{} holds unsafe code or cudarc", path.display());
        }
    }
    assert!(inside > 0, "this test sees nothing");
}

/// The modules in the order of `src/lib.rs`, which is the order the data goes.
fn stages() -> Vec<String> {
    let library = code(&root().join("src/lib.rs"));
    library
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect()
}

#[test]
fn no_stage_imports_a_later_one() {
    let stages = stages();
    assert!(stages.len() > 12, "{stages:?}");
    for (place, stage) in stages.iter().enumerate() {
        let folder = root().join("src").join(stage);
        let files = if folder.is_dir() { rust_files(&folder) } else { vec![folder.with_extension("rs")] };
        for path in files {
            let code = without_tests(&code(&path));
            for later in &stages[place + 1..] {
                assert!(!code.contains(&format!("crate::{later}::")), "{} imports {later}", path.display());
            }
        }
    }
}

#[test]
fn a_test_module_is_found_whatever_the_order_of_its_attributes() {
    for attributes in
        ["#[cfg(test)]", "#[cfg(test)]\n#[allow(x)]\n", "#[allow(x)]\n#[cfg(test)]", "#[allow(x)] #[cfg(test)]"]
    {
        assert_eq!(without_tests(&format!("use a;\n{attributes}\nmod tests {{\n use b; }}")), "use a;");
    }
    assert!(without_tests("mod tests {\nuse b; }").contains("use b"), "a module of that name alone is no test");
}

#[test]
fn main_reads_as_the_program() {
    let lines = fs::read_to_string(root().join("src/main.rs")).unwrap().lines().count();
    assert!(lines <= 60, "src/main.rs has {lines} lines");
}
