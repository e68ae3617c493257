//! What a cubin says of itself, without a GPU: its functions, their parameters and the architecture it is for, and whether two hold the
//! same code. A cubin is an ELF file of 64 bits; its `.nv.info.<function>` sections list a function's parameters.

use std::collections::BTreeMap;

/// Functions with the sizes of their parameters in bytes, where the file tells them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Of a cubin `sm_90` for what runs on 9.0, with or without what it alone has; of PTX as it says.
    pub(super) arch: Option<String>,
    pub(super) functions: BTreeMap<String, Option<Vec<usize>>>,
}

/// ELF's number of NVIDIA's GPUs.
const MACHINE: u16 = 190;
/// The attribute of `.nv.info` that describes one parameter (`EIATTR_KPARAM_INFO`), and the form of attributes that have a size.
const PARAMETER: u8 = 0x17;
const SIZED: u8 = 0x04;

fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn word(data: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes(data, at)?) as usize)
}

fn long(data: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes(data, at)?)).ok()
}

/// A section of a cubin.
struct Section<'a> {
    /// The place of its name in the section of names.
    name: usize,
    /// Bytes in memory, of which a section of shared memory has none in the file.
    size: usize,
    /// Of a section of code, in its highest byte, the registers of a thread.
    info: usize,
    body: &'a [u8],
}

/// The named sections of a cubin; nothing where it is none.
fn sections(data: &[u8]) -> Option<Vec<(String, Section<'_>)>> {
    let is_ours = data.starts_with(b"\x7fELF\x02") && u16::from_le_bytes(bytes(data, 18)?) == MACHINE;
    if !is_ours {
        return None;
    }
    let first = long(data, 40)?;
    let [entry_size, count, names] = [58, 60, 62].map(|at| bytes(data, at).map(u16::from_le_bytes));
    let (entry_size, count, names) = (usize::from(entry_size?), usize::from(count?), usize::from(names?));
    let section = |index: usize| -> Option<Section<'_>> {
        let at = first.checked_add(index.checked_mul(entry_size)?)?;
        let (start, size) = (long(data, at + 24)?, long(data, at + 32)?);
        let body = data.get(start..start.checked_add(size)?).unwrap_or(&[]);
        Some(Section { name: word(data, at)?, size, info: word(data, at + 44)?, body })
    };
    let all_names = section(names)?.body;
    let named = (0..count).filter_map(section).map(|section| {
        let rest = all_names.get(section.name..).unwrap_or(&[]);
        let name = String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or(&[])).into_owned();
        (name, section)
    });
    Some(named.collect())
}

/// Whether two cubins hold the same machine code, with the same registers, shared memory and constants that it reads: whatever else
/// differs, such as what was compiled to them or how many parameters they leave unread, a GPU runs them alike. False where one is
/// no cubin.
pub fn same_code(one: &[u8], other: &[u8]) -> bool {
    type Run = BTreeMap<String, (usize, usize, Vec<u8>)>;
    let code = |data| -> Option<Run> {
        let is_run = |name: &str| {
            let is_constant = name.starts_with(".nv.constant") && !name.starts_with(".nv.constant0.");
            name.starts_with(CODE) || name.starts_with(".nv.shared.") || is_constant
        };
        let run = sections(data)?.into_iter().filter(|(name, _)| is_run(name)).map(|(name, section)| {
            let registers = if name.starts_with(CODE) { section.info >> 24 } else { 0 };
            // Shared memory has nothing in the file.
            let body = if name.starts_with(".nv.shared.") { &[] } else { section.body };
            (name, (section.size, registers, body.to_vec()))
        });
        let mut run: Run = run.collect();
        let reads_addresses = run.iter().any(|(name, (_, _, body))| name.starts_with(CODE) && reads_bank(body, 4));
        if !reads_addresses {
            run.remove(".nv.constant4");
        }
        Some(run)
    };
    code(one).is_some_and(|one| one.keys().any(|name| name.starts_with(CODE)) && Some(one) == code(other))
}

/// How the names of sections of code begin.
const CODE: &str = ".text.";

/// Whether an instruction reads that bank of constants: 0 holds the parameters, 4 the addresses of global variables. Instructions are of
/// 16 bytes since Volta; those of two forms, told by bits 9 to 11, have a constant for an operand, whose bank stands in bits 54
/// to 58.
fn reads_bank(code: &[u8], bank: u64) -> bool {
    code.chunks_exact(16)
        .filter_map(|instruction| bytes(instruction, 0).map(u64::from_le_bytes))
        .any(|instruction| matches!(instruction >> 9 & 7, 3 | 5) && instruction >> 54 & 31 == bank)
}

impl Contents {
    /// Reads a cubin; nothing where it is none.
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        let sections = sections(data)?;
        let mut contents = Self { arch: arch_of(word(data, 48)?, data.get(7..9)?), functions: BTreeMap::new() };
        for (name, section) in sections {
            if let Some(function) = name.strip_prefix(".text.") {
                contents.functions.entry(function.to_owned()).or_default();
            }
            if let Some(function) = name.strip_prefix(".nv.info.") {
                contents.functions.insert(function.to_owned(), parameter_sizes(section.body));
            }
        }
        Some(contents)
    }
}

/// The architecture by the ELF header's flags: their lowest byte in older files, the next one in those of a newer interface.
fn arch_of(flags: usize, abi: &[u8]) -> Option<String> {
    /// The version of the interface since which flags lie a byte higher.
    const NEWER: u8 = 8;
    let version = if abi.get(1).is_some_and(|version| *version >= NEWER) { flags >> 8 } else { flags };
    Some(version & 0xff).filter(|version| *version >= 50).map(|version| format!("sm_{version}"))
}

/// The sizes of a function's parameters in order, from the attributes of its section.
fn parameter_sizes(mut attributes: &[u8]) -> Option<Vec<usize>> {
    let mut sizes: BTreeMap<u16, usize> = BTreeMap::new();
    while let Some([form, kind, low, high]) = bytes(attributes, 0) {
        let size = if form == SIZED { usize::from(u16::from_le_bytes([low, high])) } else { 0 };
        let body = attributes.get(4..4 + size)?;
        if form == SIZED && kind == PARAMETER && size == 12 {
            // An index, the ordinal and the offset, then a word whose upper bits are the size.
            sizes.insert(u16::from_le_bytes(bytes(body, 4)?), word(body, 8)? >> 18);
        }
        attributes = &attributes[4 + size..];
    }
    Some(sizes.into_values().collect())
}
