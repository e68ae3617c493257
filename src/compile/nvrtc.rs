//! Finding NVRTC, CUDA's run-time compiler, or fetching it. It needs no GPU and no driver.

use super::cache_folder;
use crate::error::{Context, Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    /// The folder that holds the library and its builtins.
    pub folder: PathBuf,
}

impl Nvrtc {
    /// Finds NVRTC: `$SWEEP_NVRTC`, the CUDA toolkit, installed wheels, the tool's cache; else fetches the wheel into
    /// the cache with pip, calling `notice` before.
    ///
    /// # Errors
    /// Where none is found and none can be fetched; the message says what to do.
    pub fn find(notice: &dyn Fn(&str)) -> Result<Self> {
        if let Some(path) = std::env::var_os("SWEEP_NVRTC") {
            let path = PathBuf::from(path);
            let folder =
                if path.is_dir() { path.clone() } else { path.parent().map(Path::to_path_buf).unwrap_or_default() };
            return Self::in_folder(&folder)
                .ok_or_else(|| Error::usage(format!("SWEEP_NVRTC = {}: there is no {LIBRARY}", path.display())));
        }
        let cached = cache_folder()?.join("nvrtc");
        if let Some(found) =
            toolkits().chain(wheels()).chain([wheel_library(&cached)]).find_map(|folder| Self::in_folder(&folder))
        {
            return Ok(found);
        }
        notice(&format!("fetching {WHEEL} into {}", cached.display()));
        fetch(&cached).context(|| {
            format!("no NVRTC here, and fetching it failed; install the CUDA 13 toolkit or `pip install '{WHEEL}'`, or set SWEEP_NVRTC")
        })?;
        Self::in_folder(&wheel_library(&cached))
            .ok_or_else(|| Error::failure(format!("the fetched wheel in {} holds no {LIBRARY}", cached.display())))
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        folder.join(LIBRARY).exists().then(|| Self { folder: folder.to_path_buf() })
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

fn wheels() -> impl Iterator<Item = PathBuf> {
    let script = "import sys; print('\\n'.join(path for path in sys.path if path))";
    let output = Command::new("python3").args(["-c", script]).output();
    let paths = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let folders: Vec<_> = paths.lines().map(|site| wheel_library(Path::new(site))).collect();
    folders.into_iter()
}

/// Installs the wheel into a folder beside `target` first, so that a kill leaves no half of it.
fn fetch(target: &Path) -> Result<()> {
    let parent = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let temporary = tempfile::tempdir_in(parent)?;
    let mut wanted = tempfile::NamedTempFile::new()?;
    let hashes = WHEEL_HASHES.map(|hash| format!("--hash=sha256:{hash}")).join(" ");
    wanted.write_all(format!("{WHEEL} {hashes}\n").as_bytes())?;
    // Isolated, Python looks for its modules neither in the working directory nor where the environment says.
    let output = Command::new("python3")
        .args(["-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--require-hashes", "--target"])
        .arg(temporary.path())
        .arg("--requirement")
        .arg(wanted.path())
        .output()
        .context(|| "cannot run python3 -m pip")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(Error::failure(message.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("pip failed")));
    }
    if target.exists() {
        std::fs::remove_dir_all(target)?;
    }
    std::fs::rename(temporary.keep(), target)?;
    Ok(())
}
