//! Families that files of Python name: each describes itself as a manifest, which is read like any other.

use crate::error::{Context, Error, Result};
use crate::heuristics;
use crate::paths::{cache_folder, make_private};
use crate::process;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// `FILE.py:NAME`, or `FILE.py` where there is one family in it.
pub fn python_family(text: &str) -> Option<(&Path, &str)> {
    let (file, name) = match text.rsplit_once(".py:") {
        Some((stem, name)) => (&text[..stem.len() + ".py".len()], name),
        None => (text, ""),
    };
    let file = Path::new(file);
    file.extension().is_some_and(|ending| ending == "py").then_some((file, name))
}

/// Has Python describe a family; returns the file of the manifest that it wrote, which is the same for the same description.
///
/// # Errors
/// Where Python is not to be had, lacks what the file imports, or refuses what the file says; in one line.
pub fn describe(file: &Path, name: &str) -> Result<PathBuf> {
    let what = || format!("family {}:{name}", file.display());
    if !file.is_file() {
        return Err(Error::usage(format!("there is no file {}", file.display())));
    }
    let file = std::path::absolute(file)?;
    let mut command = process::python("describe", &file, name);
    let done = command.stdin(Stdio::null()).output();
    let interpreter = command.get_program().to_string_lossy().into_owned();
    let done = done.map_err(|error| {
        Error::usage(format!("{interpreter}: {error}; families of Python need it: set SWEEP_PYTHON to where it is"))
    })?;
    if !done.status.success() {
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        let last = told.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it says nothing");
        let way = if last.contains("No module named kernel_sweep") || last.contains("No module named 'kernel_sweep") {
            format!(
                ": install the wheel for {interpreter} (pip install kernel-sweep), or set SWEEP_PYTHON to a Python that has it"
            )
        } else {
            String::new()
        };
        return Err(Error::usage(format!("{last}{way}")).context(what()));
    }
    let text = String::from_utf8(done.stdout).map_err(|error| Error::failure(error).context(what()))?;
    let folder = cache_folder()?.join("described");
    make_private(&folder, &[])?;
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = if name.is_empty() { "family" } else { name };
    let path = folder.join(format!("{stem}.{name}-{}.toml", crate::compile::Key::of(&[&text]).0));
    heuristics::replace(&path, |out| Ok(out.write_all(text.as_bytes())?)).context(|| path.display())?;
    Ok(path)
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
