//! Picks the domains out of From as a mail client with little knowledge of the grammar might.
//!
//! Written independently of the strict reader, and deliberately simpler: split at commas and semicolons, take what
//! stands in the last angle brackets wherever these are, else the whole piece without its comments, and there what
//! follows the last at sign.

use super::MAX_DOMAINS;
use crate::domain::Domain;
use crate::message::encoded_word;

/// The distinct domains, sorted (at most one more than [`MAX_DOMAINS`]); `None` where no two clients would show the
/// same.
pub(super) fn read(value: &[u8]) -> Option<Vec<Domain>> {
    if has_encoded_nul(value) {
        return None;
    }
    let mut domains = Vec::new();
    for piece in pieces(value) {
        let Some(domain) = domain_of(piece)? else { continue };
        if domains.len() <= MAX_DOMAINS && !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains.sort();
    Some(domains)
}

/// Splits at commas and semicolons outside of quotes, comments and angle brackets.
fn pieces(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut escaped, mut quoted, mut comment, mut angle) = (false, false, 0_usize, false);
    value.split(move |b| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match b {
            b'\\' => escaped = true,
            b'"' if comment == 0 => quoted = !quoted,
            _ if quoted => {}
            b'(' => comment += 1,
            b')' => comment = comment.saturating_sub(1),
            _ if comment > 0 => {}
            b'<' => angle = true,
            b'>' => angle = false,
            b',' | b';' => return !angle,
            _ => {}
        }
        false
    })
}

/// The domain that a piece shows, `Some(None)` if none, `None` if clients differ.
fn domain_of(piece: &[u8]) -> Option<Option<Domain>> {
    // Brackets without an at sign hold no address: `x@a.example (I <3 mail)`, `<x@a.example> (I <3 mail)`.
    let mut in_brackets = piece.rsplit(|b| *b == b'<').take(piece.iter().filter(|b| **b == b'<').count());
    let is_address = |text: &&[u8]| text.contains(&b'@') || has_encoded_address(text);
    let in_brackets = in_brackets.find_map(|text| text.split(|b| *b == b'>').next().filter(is_address));
    let address = match in_brackets {
        Some(text) => text.to_vec(),
        None => without_comments(piece),
    };
    let Some(at) = address.iter().rposition(|b| *b == b'@') else {
        return (!has_encoded_address(&address)).then_some(None);
    };
    // A client that decodes encoded words before it looks for the address finds another one (RFC 2047 §5 forbids them
    // here, §6.2 says to decode afterwards).
    if address.windows(2).any(|two| two == b"=?") {
        return None;
    }
    let host = without_comments(address.get(at + 1..)?);
    let squeezed: Vec<u8> = host.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    // What follows behind white space is no part of a domain to most: the rest of a comment that nests, say.
    let word = host.trim_ascii_start().split(|b| b.is_ascii_whitespace()).next()?;
    let domain = [&squeezed, word].into_iter().find_map(|text| Domain::parse(std::str::from_utf8(text).ok()?).ok())?;
    Some(Some(domain))
}

/// Leaves out what stands between a bracket and the next closing one: comments don't nest here.
fn without_comments(text: &[u8]) -> Vec<u8> {
    let mut in_comment = false;
    let mut out = text.to_vec();
    out.retain(|b| match b {
        b'(' => {
            in_comment = true;
            false
        }
        b')' if in_comment => {
            in_comment = false;
            false
        }
        _ => !in_comment,
    });
    out
}

/// Whether an encoded word (`=?charset?encoding?text?=`, RFC 2047 §2) hides an address, or can't be read. A phrase that
/// an unquoted comma cut off may well be encoded: `=?utf-8?q?M=C3=BCller?=, Hans <hans@x.example>`.
fn has_encoded_address(phrase: &[u8]) -> bool {
    encoded_words(phrase).any(|text| text.is_none_or(|text| text.iter().any(|b| b"@<>".contains(b))))
}

/// Whether the text of an encoded word has a NUL: some clients show nothing behind it, not even the address.
fn has_encoded_nul(value: &[u8]) -> bool {
    encoded_words(value).flatten().any(|text| text.contains(&0))
}

/// The texts of the encoded words, none for one that can't be read.
fn encoded_words(phrase: &[u8]) -> impl Iterator<Item = Option<Vec<u8>>> {
    let mut parts = phrase.split(|b| *b == b'?');
    // What stands before a word ends in `=`; the part after its text begins with one, and may be where the next starts.
    std::iter::from_fn(move || {
        parts.by_ref().find(|before| before.ends_with(b"="))?;
        let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
        Some(if is_ascii_compatible(charset) { encoded_word::decode(encoding, text) } else { None })
    })
}

/// Whether an at sign is the octet of ASCII in this charset, as it is not in UTF-7 and UTF-16.
pub(super) fn is_ascii_compatible(charset: &[u8]) -> bool {
    let is_utf = charset.get(..3).is_some_and(|head| head.eq_ignore_ascii_case(b"utf"));
    !is_utf || is_utf8(charset)
}

/// Whether it is UTF-8, without its hyphen as well, and with a language or not (RFC 2231 §5).
pub(super) fn is_utf8(charset: &[u8]) -> bool {
    let name = charset.split(|b| *b == b'*').next().unwrap_or_default();
    [&b"utf-8"[..], b"utf8"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_separators_outside_of_everything() {
        let cases: [(&str, &[&str]); 15] = [
            ("a, b; c", &["a", " b", " c"]),
            (r#""a, b" c, d"#, &[r#""a, b" c"#, " d"]),
            (r#""a\", b", c"#, &[r#""a\", b""#, " c"]),
            (r#""(<" a, b"#, &[r#""(<" a"#, " b"]),
            ("(a, b) c, d", &["(a, b) c", " d"]),
            ("(a (b, c), d), e", &["(a (b, c), d)", " e"]),
            ("(((a))), b", &["(((a)))", " b"]),
            (") a, b", &[") a", " b"]),
            (r#"(") a, b"#, &[r#"(") a"#, " b"]),
            ("(<) a, b", &["(<) a", " b"]),
            ("(>) <a, b>, c", &["(>) <a, b>", " c"]),
            ("<a, b (>), c>, d", &["<a, b (>), c>", " d"]),
            (r"a \, b", &[r"a \, b"]),
            (r#"\"a, b"#, &[r#"\"a"#, " b"]),
            (r"\(a, b", &[r"\(a", " b"]),
        ];
        for (value, expected) in cases {
            let found: Vec<_> = pieces(value.as_bytes()).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            assert_eq!(found, expected, "{value}");
        }
    }
}
