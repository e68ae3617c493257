//! Source assembly: a kernel file with its includes put in place, so that one text is the whole input of a compile.

use super::cache::Key;
#[cfg(feature = "harness")]
use crate::error::Context;
use crate::error::{Error, Result};
#[cfg(feature = "harness")]
use crate::plan::read_text;
use include_dir::{Dir, include_dir};
use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "harness")]
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/kernels");

/// The kernel sources: a folder `kernels/` in the working directory, else those built into the binary.
#[derive(Debug)]
pub(super) struct Sources {
    #[cfg(feature = "harness")]
    folder: Option<PathBuf>,
    assembled: Mutex<BTreeMap<&'static str, Source>>,
}

/// The text of a compile.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// What the compiler reads.
    pub(super) text: Arc<str>,
    /// The hash of the code in it. A comment changes no kernel, so it costs no night's measurements.
    pub(super) code: Key,
}

impl Sources {
    /// Those built in alone.
    pub(super) fn built_in() -> Self {
        Self {
            #[cfg(feature = "harness")]
            folder: None,
            assembled: Mutex::default(),
        }
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

    /// The text of `name` with every `#include "…"` replaced by that file, each once. `#line` keeps the compiler's
    /// messages pointing at the files.
    pub(super) fn assemble(&self, name: &'static str) -> Result<Source> {
        let mut assembled = self.assembled.lock().map_err(Error::failure)?;
        if let Some(source) = assembled.get(name) {
            return Ok(source.clone());
        }
        let mut text = String::new();
        self.append(name, &mut BTreeSet::new(), &mut text)?;
        let source = Source { code: Key::of(&[&code_of(&text)]), text: text.into() };
        assembled.insert(name, source.clone());
        Ok(source)
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
        #[cfg(feature = "harness")]
        if let Some(folder) = &self.folder {
            let path = folder.join(name);
            return read_text(&path).context(|| format!("kernel source {}", path.display()));
        }
        let text = EMBEDDED.get_file(name).and_then(|file| file.contents_utf8());
        text.map(str::to_owned).ok_or_else(|| Error::failure(format!("kernel source {name} is not built in")))
    }
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
