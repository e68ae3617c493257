//! Source assembly: a kernel file with its includes put in place, so that one text is the whole input of a compile.

use super::cache::Key;
use crate::error::{Context, Error, Result};
use crate::families::manifest::read_text;
use crate::families::{Callable, Code};
use include_dir::{Dir, include_dir};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/kernels");

/// The kernel sources: a folder `kernels/` in the working directory, else those built into the binary.
#[derive(Debug)]
pub(super) struct Sources {
    folder: Option<PathBuf>,
    assembled: Mutex<BTreeMap<Code, Source>>,
}

/// What a compile, or the driver, reads.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The text that the compiler reads.
    pub(super) text: Arc<str>,
    /// Where it looks for what that includes.
    pub(super) include: Vec<PathBuf>,
    /// What the driver reads as it is.
    pub(super) bytes: Arc<[u8]>,
    /// The hash of the code in it. A comment changes no kernel, so it costs no night's measurements.
    pub(super) code: Key,
}

impl Sources {
    /// Those built in alone.
    pub(super) fn built_in() -> Self {
        Self { folder: None, assembled: Mutex::default() }
    }

    #[cfg(feature = "harness")]
    pub(super) fn find() -> Self {
        let local = Path::new("kernels");
        let here = local.is_dir().then(|| std::path::absolute(local).unwrap_or_else(|_| local.to_path_buf()));
        Self { folder: here, assembled: Mutex::default() }
    }

    /// The folder they are from, where that is not the binary.
    #[cfg(feature = "harness")]
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// What is read for a kernel's code, the same for as long as the program runs.
    pub(super) fn assemble(&self, code: &Code) -> Result<Source> {
        let mut assembled = self.assembled.lock().map_err(Error::failure)?;
        if let Some(source) = assembled.get(code) {
            return Ok(source.clone());
        }
        let source = match code {
            Code::Shipped(name) => self.shipped(name)?,
            Code::Cuda { file, include, .. } => foreign(file, include)?,
            Code::Ptx(file) => loaded(file, b"\0")?, // the driver takes a text that ends
            Code::Cubin(file) => loaded(file, b"")?,
            Code::Callable(callable) => called(callable),
        };
        assembled.insert(code.clone(), source.clone());
        Ok(source)
    }

    /// The text of `name` with every `#include "…"` replaced by that file, each once. `#line` keeps the compiler's
    /// messages pointing at the files.
    fn shipped(&self, name: &str) -> Result<Source> {
        let mut text = String::new();
        self.append(name, &mut BTreeSet::new(), &mut text)?;
        let code = Key::of(&[&code_of(&text)]);
        Ok(Source { code, text: text.into(), include: Vec::new(), bytes: Arc::default() })
    }

    fn append(&self, name: &str, seen: &mut BTreeSet<String>, text: &mut String) -> Result<()> {
        let body = self.read(name)?;
        text.extend(["#line 1 \"", name, "\"\n"]);
        for (index, line) in body.lines().enumerate() {
            let included = line.trim().strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
            match included {
                Some(included) => {
                    let file = included.rsplit('/').next().unwrap_or(included);
                    if seen.insert(file.to_string()) {
                        self.append(&format!("include/{file}"), seen, text)?;
                    }
                    text.extend(["#line ", &(index + 2).to_string(), " \"", name, "\"\n"]);
                }
                None if line.trim() == "#pragma once" => text.push('\n'),
                None => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String> {
        if let Some(folder) = &self.folder {
            let path = folder.join(name);
            return read_text(&path).context(|| format!("kernel source {}", path.display()));
        }
        let text = EMBEDDED.get_file(name).and_then(|file| file.contents_utf8());
        text.map(str::to_owned).ok_or_else(|| Error::failure(format!("kernel source {name} is not built in")))
    }
}

/// Somebody else's CUDA C++: the compiler finds what it includes in the file's own folder and those of `include`, and what it finds
/// there is part of the code.
fn foreign(file: &Path, include: &[PathBuf]) -> Result<Source> {
    let own = file.parent().unwrap_or(Path::new(".")).to_path_buf();
    let include: Vec<PathBuf> = std::iter::once(own).chain(include.iter().cloned()).collect();
    let text = read_text(file).context(|| format!("kernel source {}", file.display()))?;
    let mut codes = vec![code_of(&text)];
    let mut seen = BTreeSet::from([file.to_path_buf()]);
    let mut to_read = vec![(file.to_path_buf(), text.clone())];
    while let Some((from, text)) = to_read.pop() {
        for name in text.lines().filter_map(included) {
            let beside = from.parent().map(|folder| folder.join(name));
            let places = beside.into_iter().chain(include.iter().map(|folder| folder.join(name)));
            let Some(found) = places.into_iter().find(|place| place.is_file()) else { continue };
            if seen.insert(found.clone()) {
                let text = read_text(&found).context(|| format!("included by {}", from.display()))?;
                codes.push(code_of(&text));
                to_read.push((found, text));
            }
        }
    }
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    Ok(Source { code: Key::of(&codes), text: text.into(), include, bytes: Arc::default() })
}

/// What a line includes, quoted or in angle brackets.
fn included(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
    let quoted = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
    let bracketed = || rest.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    Some(quoted.or_else(bracketed)?.0)
}

/// What the driver loads as it is, with what it must end in.
fn loaded(file: &Path, end: &[u8]) -> Result<Source> {
    let mut bytes = std::fs::read(file).map_err(Error::usage).context(|| format!("kernel {}", file.display()))?;
    let code = Key::of_bytes(&bytes);
    if !bytes.ends_with(end) {
        bytes.extend(end);
    }
    Ok(Source { code, text: Arc::from(""), include: Vec::new(), bytes: bytes.into() })
}

/// What another language reads and compiles itself: what is loaded stands for it.
fn called(callable: &Callable) -> Source {
    let bytes: Arc<[u8]> = callable.identity.as_bytes().into();
    Source { code: Key::of(&[&callable.identity]), text: Arc::from(""), include: Vec::new(), bytes }
}

/// A text without its comments, `#line`s and blank lines. Quoted text stays as it is.
fn code_of(text: &str) -> String {
    let mut bare = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(['"', '/']) {
        bare.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            let end = if rest.starts_with('"') { quoted(rest) } else { 1 };
            bare.push_str(&rest[..end]);
            end
        };
        rest = &rest[end..];
    }
    bare.push_str(rest);
    let lines = bare.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with("#line "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The length of the quoted text that `text` begins with.
fn quoted(text: &str) -> usize {
    let mut escaped = true; // so that the opening quote ends nothing
    for (at, character) in text.char_indices() {
        match character {
            '"' if !escaped => return at + 1,
            '\\' if !escaped => escaped = true,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_do_not_tell_kernels_apart_and_code_does() {
        let code = "int x = 6 / 3;\nasm(\"// stays \\\" /* too */\");";
        let noted = "// A note.\n#line 1 \"x.cu\"\nint x = 6 / 3;  // half\n\n/* two\nlines */\nasm(\"// stays \\\" /* too */\");\n";
        assert_eq!(code_of(noted), code);
        assert_ne!(code_of("int x = 6 / 2;"), code_of("int x = 6 / 3;"));
        assert_ne!(code_of("asm(\"// a\");"), code_of("asm(\"// b\");"));
    }

    #[test]
    fn every_kernel_keeps_its_code() {
        for file in EMBEDDED.files().filter_map(|file| file.contents_utf8()) {
            let code = code_of(file);
            assert!(code.contains("extern \"C\" __global__"), "{code}");
            assert!(!code.contains("// "), "{code}");
        }
    }
}
