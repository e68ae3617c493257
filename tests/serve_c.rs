//! The C interface, as a C program meets it: `tests/c/lookup.c` built against the header and the shared library.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

#[test]
fn a_c_program_asks_the_shared_library() {
    if Command::new("cc").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C compiler `cc` here");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
    let library = ["rustc", "--lib", "--crate-type", "cdylib", "--no-default-features", "--features", "c"];
    run(Command::new(env!("CARGO")).current_dir(root).args(library).arg("--target-dir").arg(&target));
    let (folder, program) = (target.join("debug"), target.join("lookup"));
    run(Command::new("cc")
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"])
        .args([root.join("tests/c/lookup.c").as_os_str(), "-I".as_ref(), root.join("src").as_os_str()])
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&folder)
        .args(["-lkernel_sweep", &format!("-Wl,-rpath,{}", folder.display())]));
    // Cargo's own search path may hold a library of this name that was built for Python.
    let documents = ["example", "model"].map(|name| root.join(format!("tests/data/observed_heuristics_{name}.json")));
    let said = run(Command::new(&program).env("LD_LIBRARY_PATH", &folder).args(documents));
    assert_eq!(said, "ok\n");
}
