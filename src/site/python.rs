//! Families that files of Python name: each describes itself as a manifest, which is read like any other.

use crate::error::{Context, Error, Result};
use crate::heuristics;
use crate::paths::{cache_folder, make_private};
use crate::process;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// `FILE.py:NAME`, or `FILE.py` where there is one family in it.
pub fn python_family(text: &str) -> Option<(&Path, &str)> {
    let (file, name) = match text.rsplit_once(".py:") {
        Some((stem, name)) => (&text[..stem.len() + ".py".len()], name),
        None => (text, ""),
    };
    let file = Path::new(file);
    file.extension().is_some_and(|ending| ending == "py").then_some((file, name))
}

/// Python describing a family. Dropping it ends that.
pub struct Describing {
    file: PathBuf,
    name: String,
    interpreter: String,
    process: Option<Child>,
}

impl Describing {
    /// Has Python describe a family, which takes seconds where it is compiled: several are described at once.
    ///
    /// # Errors
    /// Where there is no such file, or no Python.
    pub fn start(file: &Path, name: &str) -> Result<Self> {
        if !file.is_file() {
            let missing = Error::usage(format!("there is no file {}", file.display()));
            return Err(missing.context(format!("family {}:{name}", file.display())));
        }
        let file = std::path::absolute(file)?;
        let mut command = process::python("describe", &file, name);
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let interpreter = command.get_program().to_string_lossy().into_owned();
        let process = process.map_err(|error| {
            Error::usage(format!("{interpreter}: {error}; families of Python need it: set SWEEP_PYTHON to where it is"))
        })?;
        Ok(Self { file, name: name.to_owned(), interpreter, process: Some(process) })
    }

    /// The file of the manifest that it wrote, which is the same for the same description.
    ///
    /// # Errors
    /// Where Python lacks what the file imports, or refuses what the file says; in one line.
    pub fn finish(mut self) -> Result<PathBuf> {
        let what = format!("family {}:{}", self.file.display(), self.name);
        let Some(process) = self.process.take() else {
            return Err(Error::failure("it was asked before").context(what));
        };
        let done = process.wait_with_output()?;
        if !done.status.success() {
            let told = String::from_utf8_lossy(&done.stderr).into_owned();
            let last = told.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it says nothing");
            let lacks_wheel =
                last.contains("No module named kernel_sweep") || last.contains("No module named 'kernel_sweep");
            let way = lacks_wheel.then(|| {
                let interpreter = &self.interpreter;
                format!(
                    ": install the wheel for {interpreter} (pip install kernel-sweep), or set SWEEP_PYTHON to a Python that has it"
                )
            });
            return Err(Error::usage(format!("{last}{}", way.unwrap_or_default())).context(what));
        }
        let text = String::from_utf8(done.stdout).map_err(|error| Error::failure(error).context(what))?;
        let folder = cache_folder()?.join("described");
        make_private(&folder, &[])?;
        let stem = self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = if self.name.is_empty() { "family" } else { &self.name };
        let path = folder.join(format!("{stem}.{name}-{}.toml", crate::compile::Key::of(&[&text]).0));
        heuristics::replace(&path, |out| Ok(out.write_all(text.as_bytes())?)).context(|| path.display())?;
        Ok(path)
    }
}

impl Drop for Describing {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_of_python_is_told_from_other_names() {
        let of = |text| python_family(text).map(|(file, name)| (file.to_str().unwrap_or_default(), name));
        assert_eq!(of("kernels.py:mine"), Some(("kernels.py", "mine")));
        assert_eq!(of("/a.py:b/kernels.py:mine"), Some(("/a.py:b/kernels.py", "mine")));
        assert_eq!(of("kernels.py"), Some(("kernels.py", "")));
        assert_eq!(of("kernels.toml"), None);
        assert_eq!(of("matmul"), None);
    }
}
