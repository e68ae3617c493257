//! Bundles: a document with the cubins of what it answers, in one file.
//!
//! ```text
//! "kernel_sweep bundle 1\n"   what it is
//! u32                         bytes of the index, little-endian
//! 32 bytes                    SHA-256 of the index
//! index                       JSON, zstd: below
//! parts                       zstd, one after the other; cubins by a dictionary of their own, which is a part too
//! ```

use crate::compile::{Key, Recipes, sha256};
use crate::error::{Context, Error, Result};
use crate::families::{Code, KernelSpec};
use crate::heuristics::Heuristics;
use crate::model::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a bundle begins with; the number is the format's.
const MAGIC: &[u8; 22] = b"kernel_sweep bundle 1\n";
/// Bytes before the index.
const HEAD: u64 = MAGIC.len() as u64 + 4 + 32;
/// Far more than an index of ten thousand kernels has, packed or not.
const MOST_INDEX_BYTES: usize = 64 << 20;
/// Far more than a cubin or a document has, packed or not.
const MOST_PART_BYTES: u64 = 64 << 20;
/// The dictionary's size: half a megabyte holds what the kernels of all families have in common.
const DICTIONARY_BYTES: usize = 512 << 10;
/// Bytes of cubins that the dictionary is made from.
const SAMPLE_BYTES: usize = 32 << 20;
/// How hard is packed. Twice as hard takes many times as long and saves a few per cent.
const LEVEL: i32 = 12;

/// What a bundle holds beside its parts.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    /// The version of the tool that made it.
    sweep: String,
    /// The short name of the GPU it is for.
    gpu: String,
    /// The architecture its cubins are for.
    arch: String,
    /// The compiler that made them.
    nvrtc: String,
    /// The code of each kernel source, by its hash.
    sources: BTreeMap<String, Key>,
    document: Part,
    dictionary: Part,
    kernels: BTreeMap<Key, Part>,
}

/// Where a part lies in the file, and what it must come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    /// After the index.
    offset: u64,
    packed_bytes: u64,
    bytes: u64,
    /// Of what it comes to, unpacked.
    sha256: String,
}

/// What goes into a bundle.
pub struct Contents<'a> {
    /// The short name of the GPU: `h200`.
    pub gpu: &'a str,
    /// The document's text.
    pub document: &'a str,
    /// How its kernels are compiled.
    pub recipes: &'a Recipes,
    /// The kernels with their cubins.
    pub kernels: Vec<(KernelSpec, PathBuf)>,
}

/// What a bundle came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Kernels in it.
    pub kernels: usize,
    /// What their cubins weigh.
    pub cubins: Bytes,
    /// What the whole bundle weighs.
    pub bundle: Bytes,
}

/// A document and the cubins of what it answers. Cubins stay in the file until they are asked for.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    file: File,
    index: Index,
    parts_at: u64,
    recipes: Recipes,
    dictionary: Vec<u8>,
    document: Arc<Heuristics>,
}

impl Contents<'_> {
    /// Writes the bundle; `read` reads a cubin.
    ///
    /// # Errors
    /// Where a cubin cannot be read, or what it is written to fails.
    pub fn write(&self, out: &mut dyn Write, read: impl Fn(&Path) -> Result<Vec<u8>>) -> Result<Packed> {
        let (mut parts, mut cubins) = (Parts::default(), 0);
        let document = parts.add(self.document.as_bytes(), &[])?;
        let dictionary = dictionary(&self.kernels, &read)?;
        let dictionary_part = parts.add(&dictionary, &[])?;
        let (mut kernels, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for (spec, path) in &self.kernels {
            let Code::Shipped(source) = &spec.code else {
                return Err(Error::usage(format!("{spec}: only kernels that are built in can be packed")));
            };
            let cubin = read(path)?;
            cubins += cubin.len() as u64;
            kernels.insert(self.recipes.key(spec)?, parts.add(&cubin, &dictionary)?);
            sources.insert(source.clone(), self.recipes.code(&spec.code)?);
        }
        let index = Index {
            sweep: env!("CARGO_PKG_VERSION").into(),
            gpu: self.gpu.into(),
            arch: self.recipes.arch().into(),
            nvrtc: self.recipes.version().into(),
            sources,
            document,
            dictionary: dictionary_part,
            kernels,
        };
        let kernels = index.kernels.len();
        let index = zstd::encode_all(serde_json::to_vec(&index)?.as_slice(), LEVEL)?;
        out.write_all(MAGIC)?;
        out.write_all(&(index.len() as u32).to_le_bytes())?;
        out.write_all(&digest(&index))?;
        out.write_all(&index)?;
        out.write_all(&parts.bytes)?;
        Ok(Packed { kernels, cubins: Bytes(cubins), bundle: Bytes(HEAD + (index.len() + parts.bytes.len()) as u64) })
    }
}

/// The parts so far.
#[derive(Default)]
struct Parts {
    bytes: Vec<u8>,
}

impl Parts {
    fn add(&mut self, bytes: &[u8], dictionary: &[u8]) -> Result<Part> {
        let packed = zstd::bulk::Compressor::with_dictionary(LEVEL, dictionary)?.compress(bytes)?;
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&packed);
        Ok(Part { offset, packed_bytes: packed.len() as u64, bytes: bytes.len() as u64, sha256: sha256(bytes) })
    }
}

/// What cubins have in common, from some of them; nothing where they are too few to tell.
fn dictionary(kernels: &[(KernelSpec, PathBuf)], read: &impl Fn(&Path) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    /// Fewer samples teach nothing.
    const FEWEST: usize = 16;
    if kernels.len() < FEWEST {
        return Ok(Vec::new());
    }
    let (mut samples, mut bytes) = (Vec::new(), 0);
    // Spread over all of them: their order is by source and macros.
    let spread = kernels.len().div_ceil(512);
    for (_, path) in kernels.iter().step_by(spread) {
        let cubin = read(path)?;
        bytes += cubin.len();
        samples.push(cubin);
        if bytes > SAMPLE_BYTES {
            break;
        }
    }
    // Where it cannot be made, each is packed by itself.
    Ok(zstd::dict::from_samples(&samples, DICTIONARY_BYTES).unwrap_or_default())
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

impl Bundle {
    /// Opens a bundle and reads its document.
    ///
    /// # Errors
    /// Where it cannot be read, is none, was altered, or is of other kernels than this version's.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).context(|| format!("bundle {}", path.display()))
    }

    /// Whether a file begins as a bundle does.
    pub fn is_one(path: &Path) -> bool {
        let mut magic = [0; MAGIC.len()];
        File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *MAGIC
    }

    fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::usage)?;
        let is_file = file.metadata()?.is_file();
        let mut head = [0; HEAD as usize];
        if !is_file || file.read_exact(&mut head).is_err() || !head.starts_with(MAGIC) {
            return Err(Error::usage("it is no bundle of `sweep bundle` that this version knows"));
        }
        let (length, hash) = head[MAGIC.len()..].split_at(4);
        let length = length.try_into().map_or(usize::MAX, |length| u32::from_le_bytes(length) as usize);
        if length > MOST_INDEX_BYTES {
            return Err(damaged());
        }
        let mut packed = vec![0; length];
        file.read_exact(&mut packed).map_err(|_| damaged())?;
        if digest(&packed) != *hash {
            return Err(damaged());
        }
        let text = zstd::bulk::decompress(&packed, MOST_INDEX_BYTES).map_err(|_| damaged())?;
        let index: Index = serde_json::from_slice(&text)?;
        let recipes = Recipes::built_in(&index.arch, index.nvrtc.clone());
        let parts_at = HEAD + length as u64;
        let document = unpack(&file, parts_at, &index.document, &[]).context(|| "its document")?;
        let document = Arc::new(Heuristics::from_bytes(&document).context(|| "its document")?);
        let dictionary = unpack(&file, parts_at, &index.dictionary, &[]).context(|| "its dictionary")?;
        Ok(Self { path: path.into(), file, index, parts_at, recipes, dictionary, document })
    }

    /// The short name of the GPU it was made for.
    pub fn gpu(&self) -> &str {
        &self.index.gpu
    }

    /// The architecture its cubins are for: `sm_90a`.
    pub fn arch(&self) -> &str {
        &self.index.arch
    }

    /// Kernels in it.
    pub fn kernels(&self) -> usize {
        self.index.kernels.len()
    }

    /// Its document.
    pub fn document(&self) -> Arc<Heuristics> {
        Arc::clone(&self.document)
    }

    /// A kernel's identity, as the bundle's compiler would make it of this version's sources.
    pub(super) fn key(&self, kernel: &KernelSpec) -> Result<Key> {
        self.recipes.key(kernel)
    }

    /// A kernel's cubin, as it was packed.
    ///
    /// # Errors
    /// Where it is not in the bundle, is of other code than this version's, or was altered.
    pub fn cubin(&self, kernel: &KernelSpec) -> Result<Vec<u8>> {
        let cubin = || -> Result<Vec<u8>> {
            let key = self.key(kernel)?;
            if let Some(part) = self.index.kernels.get(&key) {
                return unpack(&self.file, self.parts_at, part, &self.dictionary);
            }
            let own = self.recipes.code(&kernel.code)?;
            match self.index.sources.get(&kernel.code.to_string()) {
                Some(packed) if *packed != own => Err(Error::usage(format!(
                    "it was made of another {} than this version's (code {}, here {}): make it again by this version's `sweep bundle`",
                    kernel.code, packed.0, own.0
                ))),
                _ => Err(Error::usage(
                    "it holds no such kernel, and nothing is compiled beside it: make one that holds this problem's",
                )),
            }
        };
        cubin().context(|| format!("bundle {}", self.path.display()))
    }
}

/// A part's bytes, where they are those that were packed.
fn unpack(file: &File, parts_at: u64, part: &Part, dictionary: &[u8]) -> Result<Vec<u8>> {
    if part.packed_bytes > MOST_PART_BYTES || part.bytes > MOST_PART_BYTES {
        return Err(damaged());
    }
    let mut packed = vec![0; part.packed_bytes as usize];
    let at = parts_at.checked_add(part.offset).ok_or_else(damaged)?;
    file.read_exact_at(&mut packed, at).map_err(|_| damaged())?;
    let mut decompressor = zstd::bulk::Decompressor::with_dictionary(dictionary)?;
    let bytes = decompressor.decompress(&packed, part.bytes as usize).map_err(|_| damaged())?;
    if sha256(&bytes) == part.sha256 { Ok(bytes) } else { Err(damaged()) }
}

fn damaged() -> Error {
    Error::usage("a hash does not fit: it was cut short or altered")
}
