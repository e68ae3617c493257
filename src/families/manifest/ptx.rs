//! What a file of PTX says of itself: its entries with their parameters, and the target it was written for.

use super::cubin::Contents;
use std::collections::BTreeMap;

/// Reads PTX; nothing where it is none.
pub(super) fn read(data: &[u8]) -> Option<Contents> {
    let text = without_comments(std::str::from_utf8(data).ok()?);
    let after = |directive: &str| text.split_once(directive).map(|(_, rest)| rest);
    after(".version")?;
    let target =
        after(".target")?.split(|letter: char| letter.is_whitespace() || letter == ',').find(|word| !word.is_empty());
    let mut functions = BTreeMap::new();
    for entry in text.split(".entry").skip(1) {
        let (name, rest) = entry.split_once(['(', '{', '.'])?;
        let has_parameters = entry[name.len()..].starts_with('(');
        let parameters = if has_parameters { rest.split_once(')')?.0 } else { "" };
        let sizes = parameters.split(',').filter(|parameter| !parameter.trim().is_empty()).map(size_bytes);
        functions.insert(name.trim().to_owned(), sizes.collect());
    }
    Some(Contents { arch: target.map(str::to_owned), functions })
}

/// Whether the driver compiles PTX of that target for a GPU: of an older one for any later, but what one GPU alone has (`sm_90a`) for
/// that one.
pub(super) fn runs_on(target: &str, arch: &str) -> bool {
    if target.ends_with(|letter: char| letter.is_ascii_digit()) {
        version(target) <= version(arch)
    } else {
        target == arch
    }
}

/// 90 of `sm_90a`.
pub(super) fn version(arch: &str) -> Option<u32> {
    arch.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// The bytes of a parameter: `.param .u64 .ptr .align 1 name`, or `.param .align 64 .b8 name[128]`.
fn size_bytes(parameter: &str) -> Option<usize> {
    let is_type =
        |word: &&str| word.len() > 2 && word.starts_with(['.']) && word[2..].bytes().all(|byte| byte.is_ascii_digit());
    let bits: usize = parameter.split_whitespace().find(is_type)?[2..].parse().ok()?;
    let count = match parameter.split_once('[') {
        Some((_, rest)) => rest.split_once(']')?.0.trim().parse().ok()?,
        None => 1,
    };
    Some(bits / 8 * count)
}

/// A text of PTX or of C++ without what is a comment in either.
pub(super) fn without_comments(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(place) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        let (before, comment) = rest.split_at(place);
        kept.push_str(before);
        let end = if comment.starts_with("//") { comment.find('\n') } else { comment.find("*/").map(|end| end + 2) };
        rest = &comment[end.unwrap_or(comment.len())..];
    }
    kept + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = "// .entry none()\n.version 9.0\n.target sm_90\n.address_size 64\n/* two */\n\
        .visible .entry scale(\n\t.param .u64 .ptr .align 1 scale_param_0,\n\t.param .f32 scale_param_1,\n\
        \t.param .align 64 .b8 map[128]\n)\n.maxntid 128\n{ ret; }\n.visible .entry nothing()\n{ ret; }\n";

    #[test]
    fn entries_have_their_parameters_sizes() {
        let contents = read(TEXT.as_bytes()).unwrap();
        assert_eq!(contents.arch.as_deref(), Some("sm_90"));
        let functions = [("scale".to_owned(), Some(vec![8, 4, 128])), ("nothing".to_owned(), Some(vec![]))];
        assert_eq!(contents.functions, functions.into());
        assert_eq!(read(b"\x7fELF"), None);
        assert_eq!(read(b"__global__ void scale() {}"), None);
    }

    #[test]
    fn ptx_runs_on_later_gpus_but_for_what_one_alone_has() {
        assert!(runs_on("sm_80", "sm_90a") && runs_on("sm_90", "sm_100a") && runs_on("sm_90a", "sm_90a"));
        assert!(!runs_on("sm_100", "sm_90a") && !runs_on("sm_90a", "sm_100a") && !runs_on("sm_100f", "sm_90a"));
    }
}
