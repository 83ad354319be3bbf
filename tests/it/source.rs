//! The project's own files as the tests read them: sources, and sources without comments, strings and tests.

use std::path::{Path, PathBuf};

/// A file below the project's root, as it is.
pub fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every Rust source below `src/`: path relative to it, with `/`, and text; sorted by path.
pub fn sources() -> Vec<(String, String)> {
    let (base, mut found) = (root().join("src"), Vec::new());
    collect(&base, &base, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no sources below {}", base.display());
    found
}

/// The code alone: comments and literals become blanks, items under `#[cfg(test)]` vanish.
pub fn code(text: &str) -> String {
    without_tests(&without_comments_and_literals(text))
}

/// The names of the modules that stand in files of their own and are compiled for tests only.
pub fn test_modules(text: &str) -> Vec<String> {
    let text = without_comments_and_literals(text);
    let declared = text.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let item = after.split([';', '{']).next()?;
        let is_file = after.as_bytes().get(item.len()) == Some(&b';');
        let name = item.split_whitespace().skip_while(|word| *word != "mod").nth(1)?;
        is_file.then(|| name.to_owned())
    });
    declared.collect()
}

/// The identifiers of `code`, in order.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(base: &Path, directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(base, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let relative = path.strip_prefix(base).expect("below its base").to_string_lossy().replace('\\', "/");
            found.push((relative, std::fs::read_to_string(&path).expect("UTF-8")));
        }
    }
}

fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let at_word = code.chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => quoted(rest),
            'r' if at_word => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// The length of a string literal at the beginning.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a raw string literal at the beginning, or 0.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].bytes().take_while(|&b| b == b'#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = hashes + 2;
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// The length of a character literal at the beginning; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |at| at + 4),
        Some(_) => characters.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// `code` without the items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut parts = code.split("#[cfg(test)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        kept.push_str(&part[item(part)..]);
    }
    kept
}

/// The length of the item at the beginning: up to its semicolon, or to the brace that closes its first block.
fn item(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

#[test]
fn comments_literals_and_tests_are_no_code() {
    let text = r##"
use crate::a; // use crate::b
/* crate::c */ const X: &str = "crate::d \" crate::e"; const C: char = '"'; fn f<'a>(x: &'a str) -> char { '\'' }
const R: &str = r#"crate::f " crate::g"#;
#[cfg(test)]
pub mod zone;
#[cfg(test)]
mod tests { use crate::h; fn g() { { } } }
use crate::i;
"##;
    let code = code(text);
    let found: Vec<_> = words(&code).filter(|w| w.len() == 1 && *w != "X" && *w != "C" && *w != "R").collect();
    assert_eq!(found, ["a", "f", "a", "x", "a", "i"]);
    assert_eq!(test_modules(text), ["zone"]);
}
