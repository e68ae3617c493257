//! The stand-in for NVRTC: building it with its builtins, or what is to be taken for them.

#![allow(unreachable_pub, clippy::unwrap_used)] // each test uses a part; one that cannot go on may stop

use std::fs;
use std::path::Path;
use std::process::Command;

/// What a whole one consists of.
pub const LIBRARIES: [&str; 2] = ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"];

/// Builds these libraries, of that major version, into a folder. Loading one leaves a file of its name with `.loaded` behind it.
pub fn build(folder: &Path, major: u32, names: &[&str], flags: &[&str]) {
    fs::create_dir_all(folder).unwrap();
    for name in names {
        let (source, soname) = if name.contains("builtins") {
            ("__attribute__((constructor)) static void mark(void) { close(open(MARK, O_CREAT, 0600)); }", *name)
        } else {
            ("", "libnvrtc.so.13")
        };
        let mark = format!("-DMARK=\"{}\"", folder.join(format!("{name}.loaded")).display());
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", &mark, &format!("-DMAJOR={major}"), &format!("-Wl,-soname,{soname}")]);
        compiler.args(flags).arg("-o").arg(folder.join(name));
        if source.is_empty() {
            compiler.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvrtc/stub.c")).args(["-ldl", "-pthread"]);
        } else {
            let file = folder.join("builtins.c");
            fs::write(&file, format!("#include <fcntl.h>\n#include <unistd.h>\n{source}\n")).unwrap();
            compiler.arg(file);
        }
        let built = compiler.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
}
