//! The rules of the source tree, asserted.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on may stop

use std::collections::{BTreeMap, BTreeSet};
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

/// Where a module lies below the crate: `["heuristics", "lookup"]`.
type Module = Vec<String>;

/// The code of each module, without its tests.
fn modules() -> BTreeMap<Module, String> {
    let source = root().join("src");
    let named = |path: PathBuf| {
        let place = path.strip_prefix(&source).unwrap().with_extension("");
        let mut module: Module = place.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
        module.pop_if(|last| last == "mod" || last == "lib");
        (module, without_tests(&code(&path)))
    };
    rust_files(&source).into_iter().map(named).collect()
}

/// All paths of a tree such as `a::{b, c::d}` at the start of `code`, and the rest of it.
fn paths(code: &str) -> (Vec<Vec<String>>, &str) {
    let (mut path, mut rest) = (Vec::new(), code);
    loop {
        rest = rest.trim_start();
        if let Some(mut inside) = rest.strip_prefix('{') {
            let mut all = Vec::new();
            loop {
                let (below, after) = paths(inside);
                let whole = |below: Vec<String>| path.iter().cloned().chain(below).collect();
                all.extend(below.into_iter().map(whole));
                inside = after.trim_start();
                match inside.strip_prefix(',') {
                    Some(next) if !next.trim_start().starts_with('}') => inside = next,
                    _ => break,
                }
            }
            let end = inside.trim_start_matches([',', ' ', '\n']);
            return (all, end.strip_prefix('}').unwrap_or(end));
        }
        let is_name = |character: char| character.is_alphanumeric() || character == '_' || character == '*';
        let (name, after) = rest.split_at(rest.find(|character| !is_name(character)).unwrap_or(rest.len()));
        path.push(name.to_owned());
        rest = after;
        match rest.strip_prefix("::") {
            Some(below) => rest = below,
            None => return (vec![path], rest),
        }
    }
}

/// The full paths that a module's code names from the crate, from itself or from the module above.
fn named(module: &Module, code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
                continue; // the middle of another path
            }
            for path in paths(&code[at..]).0 {
                let above = path.iter().take_while(|name| *name == "super").count();
                let base = if path[0] == "crate" { &[] } else { &module[..module.len().saturating_sub(above)] };
                let skipped = if above > 0 { above } else { 1 };
                found.push(base.iter().chain(&path[skipped..]).cloned().collect());
            }
        }
    }
    found
}

/// Code without its declarations of modules and what it passes on from them.
fn own_code(code: &str) -> String {
    let passes_on = |item: &&str| {
        let item: String =
            item.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        let item = item.trim_start().trim_start_matches('}').trim_start();
        let visible = item.strip_prefix("pub").map(str::trim_start);
        let rest =
            visible.map(|rest| rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |it| it.1));
        rest.is_some_and(|rest| rest.trim_start().starts_with("use ")) || item.starts_with("mod ")
    };
    code.split_inclusive(';').filter(|item| !passes_on(item)).collect()
}

/// What a module imports of its folder, as edges between the folder's modules. The folder's own file is `mod`; what it only passes
/// on from a module is that module's.
fn edges(folder: &Module, modules: &BTreeMap<Module, String>) -> BTreeSet<(String, String)> {
    let depth = folder.len();
    let is_below = |module: &Module| module.len() > depth && module.starts_with(folder);
    let children: BTreeSet<&String> =
        modules.keys().filter(|module| is_below(module)).map(|module| &module[depth]).collect();
    let facade = &modules[folder];
    let mut passed_on: BTreeMap<String, &String> = BTreeMap::new();
    for (at, _) in facade.match_indices("use ") {
        for path in paths(&facade[at + 4..]).0 {
            if let Some(child) = children.get(&path[0]).filter(|_| path.len() > 1) {
                passed_on.insert(path[path.len() - 1].clone(), child);
            }
        }
    }
    let own = own_code(facade);
    let mut edges = BTreeSet::new();
    for child in &children {
        let by_path = own.match_indices(&format!("{child}::")).any(|(at, _)| {
            !own[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
        });
        let by_name = passed_on.iter().any(|(name, of)| of == child && has_word(&own, name));
        if by_path || by_name {
            edges.insert(("mod".to_owned(), (*child).clone()));
        }
    }
    for (module, code) in modules.iter().filter(|(module, _)| is_below(module)) {
        for path in named(module, code).into_iter().filter(|path| is_below(path)) {
            let name = &path[depth];
            let target = if children.contains(name) {
                name.clone()
            } else {
                passed_on.get(name).map_or("mod".to_owned(), |child| (*child).clone())
            };
            if target != module[depth] {
                edges.insert((module[depth].clone(), target));
            }
        }
    }
    edges
}

/// The modules that import each other, in a circle however long.
fn in_circles(edges: &BTreeSet<(String, String)>) -> BTreeSet<String> {
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            next.extend(
                edges.iter().filter(|(one, other)| one == module && seen.insert(other)).map(|(_, other)| other),
            );
        }
        seen
    };
    edges.iter().map(|(from, _)| from).filter(|from| reached(from).contains(from)).cloned().collect()
}

/// Folders whose own file states an interface that its modules fill in, and then picks one of them: imports go both ways there.
const INTERFACES: [&str; 9] = [
    "device",
    "device/cpu/kernels",
    "device/cuda/gpu",
    "families",
    "families/attention",
    "families/gemm",
    "families/gemm/block_scaled",
    "families/manifest",
    "report/page",
];

#[test]
fn no_stage_imports_a_later_one() {
    let stages = stages();
    assert!(stages.len() > 12, "{stages:?}");
    let place = |module: &Module| stages.iter().position(|stage| module.first() == Some(stage));
    let mut seen = 0;
    for (module, code) in modules() {
        let Some(own) = place(&module) else { continue };
        for import in named(&module, &code) {
            seen += 1;
            assert!(place(&import).is_none_or(|imported| imported <= own), "{module:?} imports {import:?}");
        }
    }
    assert!(seen > 500, "this test sees but {seen} imports");
}

#[test]
fn no_modules_of_a_folder_import_each_other_in_a_circle() {
    let modules = modules();
    let folders: Vec<&Module> = modules
        .keys()
        .filter(|folder| !folder.is_empty() && root().join("src").join(folder.join("/")).is_dir())
        .collect();
    assert!(folders.len() > 15, "{folders:?}");
    let mut seen = 0;
    for folder in folders {
        let mut edges = edges(folder, &modules);
        seen += edges.len();
        if INTERFACES.contains(&folder.join("/").as_str()) {
            edges.retain(|(one, other)| one != "mod" && other != "mod");
        }
        let circle = in_circles(&edges);
        edges.retain(|(one, other)| circle.contains(one) && circle.contains(other));
        assert!(circle.is_empty(), "in src/{}: {edges:?}", folder.join("/"));
    }
    assert!(seen > 200, "this test sees but {seen} imports");
}

#[test]
fn a_circle_of_imports_is_found_however_it_is_written() {
    let tree = |files: &[(&str, &str)]| {
        let module = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
        let modules: BTreeMap<Module, String> =
            files.iter().map(|(path, code)| (module(path), (*code).to_owned())).collect();
        in_circles(&edges(&module("a"), &modules)).into_iter().collect::<Vec<_>>().join(" ")
    };
    let facade = ("a", "mod x;\nmod y;\npub use x::{One,\n    Two as Second};\npub(crate) use y::Three;\n");
    let circle = |x: &str, y: &str| tree(&[facade, ("a/x", x), ("a/y", y)]);
    assert_eq!(circle("use super::y::Three;", "use super::x::One;"), "x y");
    assert_eq!(circle("use super::{self, y};", "fn f() { crate::a::x::g() }"), "x y");
    assert_eq!(circle("use crate::{a::{b::C, Three}, d};", "use super::One;"), "x y", "by what the folder passes on");
    assert_eq!(circle("use super::y::Three;", "use crate::b::x::One; use other::super_::x;"), "");
    assert_eq!(circle("use super::Three;", ""), "");
    let inner = [("a", "mod x;\nmod y;\nuse x::One;\npub struct Own;"), ("a/x", "use super::Own;"), ("a/y", "")];
    assert_eq!(tree(&inner), "mod x", "through the folder's own file");
    let deep = [facade, ("a/x", "mod z;"), ("a/x/z", "use super::super::y::Three;"), ("a/y", "use super::x::z::Four;")];
    assert_eq!(tree(&deep), "x y");
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

/// What nobody reads in one sitting is in parts.
#[test]
fn no_file_has_more_than_500_lines_of_code() {
    for path in rust_files(&root().join("src")) {
        let lines = without_tests(&code(&path)).lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= 500, "{} has {lines} lines of code beside its tests", path.display());
    }
}

#[test]
fn main_reads_as_the_program() {
    let lines = fs::read_to_string(root().join("src/main.rs")).unwrap().lines().count();
    assert!(lines <= 60, "src/main.rs has {lines} lines");
}

/// The words of the glossary, each with the files that it names.
#[test]
fn the_glossary_names_files_that_speak_of_its_words() {
    let design = fs::read_to_string(root().join("DESIGN.md")).unwrap();
    let (_, glossary) = design.split_once("## Glossary").unwrap();
    let rows = glossary.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")).skip(1);
    let mut words = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [word, sentence, files] = cells[..] else { panic!("{row}") };
        assert!(sentence.len() > 20 && words.insert(word), "{row}");
        for file in files.split(", ") {
            let text = fs::read_to_string(root().join(file.trim_matches('`'))).unwrap_or_default().to_lowercase();
            assert!(text.contains(&word.replace(' ', "_")) || text.contains(word), "{file} says nothing of '{word}'");
        }
    }
    let wanted = "arm anchor bench candidate cross final group incumbent journal lab night problem program refine screen site variant";
    assert!(wanted.split(' ').chain(["null arm", "tie class"]).all(|word| words.contains(word)), "{words:?}");
}
