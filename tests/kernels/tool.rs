//! `nvdisasm`, as the Python package index has it: no compiler's toolkit need be here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{env, fs};

/// The wheel; of the versions there are the nearest to the compiler's.
const WHEEL: &str = "nvidia-cuda-nvdisasm==13.2.51";
/// SHA-256 of its files, for Linux on aarch64 and on x86-64: what else comes under that name is refused.
const WHEEL_HASHES: [&str; 2] = [
    "483c8f652c1ca006135584b4faf7ea1d2bafe4c40ec1c9ef57a04c6acfbdd57f",
    "5a7acf77c55d6d2911ed6155d4d5bc156ffadf9df7a68a89b0c1155f4b13688c",
];
/// What pip says where the index cannot be reached.
const UNREACHED: [&str; 6] = [
    "Could not fetch URL",
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "ConnectTimeout",
    "Connection refused",
];

/// The disassembler; nothing where neither it nor the package index is here, which is said.
pub(crate) fn nvdisasm() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(|| find().map_err(|why| eprintln!("skipped: {why}")).ok()).as_deref()
}

/// It is kept beside what is built.
fn find() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(WHEEL.replace("==", "-"));
    let program = folder.join("nvidia/cu13/bin/nvdisasm");
    if !program.is_file() {
        let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let wanted = making.path().join("wanted");
        let hashes = WHEEL_HASHES.map(|hash| format!(" --hash=sha256:{hash}")).concat();
        fs::write(&wanted, format!("{WHEEL}{hashes}\n")).unwrap();
        let site = making.path().join("site");
        let mut pip = Command::new("python3");
        pip.args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
            .args(["--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--retries=1", "--target"])
            .args([&site, Path::new("--requirement"), &wanted])
            .stdin(Stdio::null());
        let output = pip.output().map_err(|error| format!("no python3 to fetch {WHEEL} with: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if UNREACHED.iter().any(|unreached| said.contains(unreached)) {
            return Err(format!("the Python package index cannot be reached for {WHEEL}"));
        }
        assert!(output.status.success(), "{WHEEL}: {said}");
        // Another test run may have been faster.
        let _ = fs::rename(&site, &folder);
    }
    assert!(program.is_file(), "{WHEEL} holds no {}", program.display());
    let executable = Command::new("chmod").arg("+x").arg(&program).status();
    assert!(executable.is_ok_and(|status| status.success()));
    Ok(program)
}

/// The listing of a cubin.
pub(crate) fn disassemble(nvdisasm: &Path, cubin: &Path) -> String {
    let output = Command::new(nvdisasm).arg("-c").arg(cubin).output().unwrap();
    assert!(output.status.success(), "{}: {}", cubin.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
