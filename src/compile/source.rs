//! Source assembly: a kernel file with its includes put in place, so that one text is the whole input of a compile.

use crate::error::{Error, Result};
use include_dir::{Dir, include_dir};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/kernels");

/// The kernel sources: a folder `kernels/` in the working directory, else those built into the binary.
#[derive(Debug)]
pub(super) struct Sources {
    folder: Option<PathBuf>,
    assembled: Mutex<BTreeMap<&'static str, String>>,
}

impl Sources {
    pub(super) fn find() -> Self {
        let local = Path::new("kernels");
        Self { folder: local.is_dir().then(|| local.to_path_buf()), assembled: Mutex::default() }
    }

    /// The text of `name` with every `#include "…"` replaced by that file, each once. `#line` keeps the compiler's
    /// messages pointing at the files.
    pub(super) fn assemble(&self, name: &'static str) -> Result<String> {
        let mut assembled = self.assembled.lock().map_err(Error::failure)?;
        if let Some(text) = assembled.get(name) {
            return Ok(text.clone());
        }
        let mut text = String::new();
        self.append(name, &mut BTreeSet::new(), &mut text)?;
        assembled.insert(name, text.clone());
        Ok(text)
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
            return std::fs::read_to_string(&path)
                .map_err(|error| Error::failure(format!("kernel source {}: {error}", path.display())));
        }
        let text = EMBEDDED.get_file(name).and_then(|file| file.contents_utf8());
        text.map(str::to_owned).ok_or_else(|| Error::failure(format!("kernel source {name} is not built in")))
    }
}
