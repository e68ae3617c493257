//! Kernels for a compiler of the host: as they are, but that each `asm` statement becomes a call of the model, with its text,
//! and the dynamic shared memory a name of the model's.

/// The source with its `asm` statements and its shared memory replaced.
pub(crate) fn for_the_host(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = next_statement(rest) {
        let (before, statement) = rest.split_at(at);
        out.push_str(before);
        let open = statement.find('(').expect("asm with its text");
        let (inside, after) = enclosed(&statement[open..]);
        out.push_str(&call(inside));
        rest = after;
    }
    out.push_str(rest);
    shared_memory(&out.replace("\"+f\"(", "model::output("))
}

/// Where the next `asm` begins, beyond comments.
fn next_statement(text: &str) -> Option<usize> {
    let mut from = 0;
    for line in text.split_inclusive('\n') {
        let code = line.split("//").next().unwrap_or_default();
        let found = code.match_indices("asm").find(|(at, _)| {
            let before = code[..*at].chars().next_back();
            let after = code[at + 3..].trim_start();
            !before.is_some_and(|it| it.is_alphanumeric() || it == '_' || it == '"')
                && (after.starts_with('(') || after.starts_with("volatile"))
        });
        if let Some((at, _)) = found {
            return Some(from + at);
        }
        from += line.len();
    }
    None
}

/// What the brackets at the beginning of the text enclose, and what follows them.
fn enclosed(text: &str) -> (&str, &str) {
    let mut depth = 0;
    for (at, it, quoted) in plain(text) {
        depth += i32::from(!quoted && "([{".contains(it)) - i32::from(!quoted && ")]}".contains(it));
        if depth == 0 {
            return (&text[1..at], &text[at + 1..]);
        }
    }
    panic!("brackets that do not end: {text}")
}

/// Every character with its place, and whether it is part of a string.
fn plain(text: &str) -> impl Iterator<Item = (usize, char, bool)> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().map(move |(at, it)| {
        let was_quoted = quoted;
        if escaped {
            escaped = false;
        } else if quoted && it == '\\' {
            escaped = true;
        } else if it == '"' {
            quoted = !quoted;
        }
        (at, it, was_quoted || quoted)
    })
}

/// The parts between a separator that is in no brackets and no string.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0, 0, Vec::new());
    for (at, it, quoted) in plain(text) {
        if quoted {
            continue;
        }
        depth += i32::from("([{".contains(it)) - i32::from(")]}".contains(it));
        if depth == 0 && it == separator {
            parts.push(text[from..at].trim());
            from = at + it.len_utf8();
        }
    }
    parts.push(text[from..].trim());
    // Of a macro's lines the ends go too.
    parts.iter().map(|part| part.trim_matches(|it: char| it.is_whitespace() || it == '\\')).collect()
}

/// The model's call for what an `asm` statement has in its brackets.
fn call(inside: &str) -> String {
    let sections = split(inside, ':');
    let mut all = vec![sections[0].to_string()];
    for (section, function) in [(1, "output"), (2, "input")] {
        for operand in sections.get(section).map_or(Vec::new(), |text| split(text, ',')) {
            match operand.find('(') {
                Some(open) => all.push(format!("model::{function}{}", &operand[open..])),
                None if operand.is_empty() => {}
                None => all.push(operand.into()), // a macro that stands for outputs
            }
        }
    }
    if sections[0] == "\"\"" {
        return "((void)0)".to_string();
    }
    if all.len() == 1 {
        all.push(String::new());
    }
    format!("MODEL_ASM({})", all.join(", "))
}

/// The dynamic shared memory's declaration, by the model's name.
fn shared_memory(source: &str) -> String {
    let Some(at) = source.find("extern __shared__") else { return source.to_string() };
    let end = at + source[at..].find(';').expect("a declaration's end");
    let declaration = &source[at..end];
    let name = declaration.trim_end_matches("[]").rsplit(' ').next().expect("a name");
    // Within a function it is the program's own, which threads may touch by pointers as well; no race is seen there.
    let stands_in_function = source[..at].ends_with(' ');
    let stands_for = if stands_in_function {
        format!("unsigned char* const {name} = model::shared_memory()")
    } else {
        format!("static unsigned char* const {name} = model::shared_symbol()")
    };
    format!("{}{stands_for}{}", &source[..at], &source[end..])
}
