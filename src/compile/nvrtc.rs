//! Finding NVRTC, CUDA's run-time compiler, or fetching it. It needs no GPU and no driver.
//!
//! No file of the working directory has a say in it: programs and folders are known by absolute paths, and Python runs isolated.

use crate::error::{Error, ErrorKind, Result};
use crate::heuristics;
use crate::paths::{cache_folder, make_private};
use crate::process;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The library's file name; its major version is the one the bindings are made for.
const LIBRARY: &str = "libnvrtc.so.13";
/// The wheel on the Python package index, of the version that everything here was measured with.
const WHEEL: &str = "nvidia-cuda-nvrtc==13.0.88";
/// SHA-256 of its files, for Linux on aarch64 and on x86-64: what else comes under that name is refused.
const WHEEL_HASHES: [&str; 2] = [
    "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
    "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
];

/// An NVRTC on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvrtc {
    /// The library, by its absolute path. Its builtins lie beside it.
    pub library: PathBuf,
}

impl Nvrtc {
    /// The variable that names it.
    pub const VARIABLE: &'static str = "SWEEP_NVRTC";

    /// Finds NVRTC: `$SWEEP_NVRTC` (the library, or its folder), the CUDA toolkit, installed wheels, the tool's cache; else
    /// fetches the wheel into the cache with pip, calling `notice` before.
    ///
    /// # Errors
    /// Where none is found and none can be fetched; the message says what to do.
    pub fn find(notice: &dyn Fn(&str)) -> Result<Self> {
        if let Some(named) = std::env::var_os(Self::VARIABLE) {
            return Self::named(Path::new(&named));
        }
        let cache = cache_folder()?;
        let cached = cache.join("nvrtc");
        if cached.symlink_metadata().is_ok() {
            make_private(&cached, &[])?;
        }
        let folders = toolkits().chain(wheels()).chain([wheel_library(&cached)]);
        if let Some(found) = folders.into_iter().find_map(|folder| Self::in_folder(&folder)) {
            return Ok(found);
        }
        notice(&format!("fetching {WHEEL} into {}", cached.display()));
        fetch(&cache, &cached).map_err(|error| match error.kind() {
            ErrorKind::Interrupted => error,
            _ => error.context(format!(
                "no NVRTC here, and fetching it failed; install the CUDA 13 toolkit or `pip install '{WHEEL}'`, or set SWEEP_NVRTC"
            )),
        })?;
        Self::in_folder(&wheel_library(&cached))
            .ok_or_else(|| Error::failure(format!("the fetched wheel in {} holds no {LIBRARY}", cached.display())))
    }

    fn named(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join(LIBRARY) } else { path.to_path_buf() };
        if !file.is_file() {
            return Err(Error::usage(format!(
                "SWEEP_NVRTC = '{}': there is no {LIBRARY}; name that file or its folder",
                path.display()
            )));
        }
        Ok(Self { library: std::path::absolute(file)? })
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let library = folder.join(LIBRARY);
        (folder.is_absolute() && library.is_file()).then_some(Self { library })
    }
}

fn toolkits() -> impl Iterator<Item = PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = ["/usr/local/cuda", "/usr/local/cuda-13.0", "/usr/local/cuda-13"].map(PathBuf::from);
    homes.chain(usual).flat_map(|home| [home.join("lib64"), home.join("targets/x86_64-linux/lib")])
}

/// Where the wheel keeps its libraries, below a site folder.
fn wheel_library(site: &Path) -> PathBuf {
    site.join("nvidia/cu13/lib")
}

/// The installed wheels' places. The user's own site, which an isolated Python leaves out, is one.
fn wheels() -> impl Iterator<Item = PathBuf> {
    let script = "import site, sys; print('\\n'.join([*sys.path, site.getusersitepackages()]))";
    let output = python().and_then(|mut python| Ok(python.args(["-c", script]).stdin(Stdio::null()).output()?));
    let paths = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let folders: Vec<_> = paths.lines().map(|site| wheel_library(Path::new(site))).collect();
    folders.into_iter()
}

/// What pip may be told by the environment: where wheels come from and how to get there. Which ones are right, the hashes say.
const PIP_VARIABLES: [&str; 9] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "PIP_TRUSTED_HOST",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_PROXY",
    "PIP_DEFAULT_TIMEOUT",
];

/// Python, isolated: it takes modules neither from the working directory nor from where the environment says, and is itself
/// looked for in the absolute folders of the search path alone.
fn python() -> Result<Command> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("python3"))
        .find(|program| program.is_file())
        .ok_or_else(|| Error::failure("there is no python3 on the search path"))?;
    let mut python = Command::new(program);
    python.arg("-I").current_dir("/");
    for (name, _) in std::env::vars_os() {
        let begins = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        let is_allowed = PIP_VARIABLES.iter().any(|allowed| name == OsStr::new(allowed));
        if begins("PYTHON") || begins("PIP_") && !is_allowed {
            python.env_remove(name);
        }
    }
    Ok(python)
}

/// Installs the wheel into a folder in the making first, which a kill leaves to the next run to take away.
fn fetch(cache: &Path, target: &Path) -> Result<()> {
    let (temporary, _lock) = heuristics::new_folder(cache)?;
    let place = |name: &str| temporary.path().join(name);
    let hashes = WHEEL_HASHES.map(|hash| format!("--hash=sha256:{hash}")).join(" ");
    fs::write(place("wanted"), format!("{WHEEL} {hashes}\n"))?;
    fs::create_dir(place("unpacking"))?;
    let mut pip = python()?;
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--no-cache-dir", "--target"])
        .args([place("site"), "--requirement".into(), place("wanted")])
        .env("TMPDIR", place("unpacking"))
        .stdout(Stdio::null())
        .stderr(File::create(place("errors"))?);
    let status = process::run_to_end(&mut pip)?;
    if !status.success() {
        let message = fs::read_to_string(place("errors")).unwrap_or_default();
        let said = message.lines().rfind(|line| !line.trim().is_empty());
        return Err(Error::failure(said.map_or_else(|| format!("pip ended with {status}"), str::to_owned)));
    }
    if target.exists() {
        fs::remove_dir_all(target)?;
    }
    fs::rename(place("site"), target)?;
    make_private(target, &[])
}
