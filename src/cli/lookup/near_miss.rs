//! Tells texts that were meant as records from other texts, and what keeps them from being some.
//!
//! Whoever published such a text believes that it is there; all that a verifier says is that there is none. These are
//! guesses, for texts that the readers of `dmarc`, `spf` and `dkim` have already turned down.

use super::facts::{Problem, quoted};

/// A text that is nearly a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NearMiss {
    /// What is wrong, to stand behind the text.
    pub fault: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

impl NearMiss {
    /// As a problem with the text at `name`.
    pub fn problem(self, about: &'static str, name: &str, text: &[u8]) -> Problem {
        let what = format!("{name} has {}, which counts as no {about} record: {}", quoted(text), self.fault);
        Problem::new(about, what, self.remedy)
    }
}

/// What keeps a text at a `_dmarc` name from being a policy record (RFC 9989 §4.7 and §4.8).
pub fn dmarc(text: &[u8]) -> Option<NearMiss> {
    let text = lossy(text);
    let bare = bare(&text);
    let of = |fault, remedy| Some(NearMiss { fault, remedy });
    let first = bare.split(';').next().unwrap_or_default();
    let version = value(first, "v");
    if version == Some("DMARC1") {
        return of(before(&text), "begin the text with v=DMARC1;");
    }
    if let Some(version) = version.filter(|version| starts(version, "DMARC")) {
        return if version.eq_ignore_ascii_case("DMARC1") {
            of("DMARC1 has to be in capitals", "write v=DMARC1;")
        } else if version.strip_prefix("DMARC1").is_some_and(|rest| rest.starts_with([' ', '\t', ',', ':'])) {
            of("a semicolon is missing behind v=DMARC1", "write v=DMARC1; with a semicolon behind it")
        } else {
            of("the version is not DMARC1", "write v=DMARC1;")
        };
    }
    if bare.split(';').skip(1).any(|part| value(part, "v").is_some_and(|v| starts(v, "DMARC1"))) {
        return of("v=DMARC1 does not come first", "move v=DMARC1; to the beginning");
    }
    if starts(bare, "DMARC1") || starts(bare, "v:DMARC") || starts(bare, "v DMARC") || starts(bare, "DMARC=") {
        return of("it does not begin with v=DMARC1", "write v=DMARC1; at the beginning");
    }
    if ["p", "sp", "rua"].iter().any(|tag| value(first, tag).is_some()) {
        return of("v=DMARC1 is missing", "put v=DMARC1; before the rest");
    }
    starts(bare, "v=spf1").then_some(NearMiss {
        fault: "it is an SPF record",
        remedy: "publish the SPF record at the domain itself, and a DMARC record here",
    })
}

/// What keeps a text at a domain from being an SPF record (RFC 7208 §4.5).
pub fn spf(text: &[u8]) -> Option<NearMiss> {
    let text = lossy(text);
    let bare = bare(&text);
    let of = |fault, remedy| Some(NearMiss { fault, remedy });
    if let Some(rest) = after(bare, "v=spf1") {
        return if rest.is_empty() || rest.starts_with(' ') {
            of(before(&text), "begin the text with v=spf1")
        } else if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            of("the version is not spf1", "write v=spf1 with a space behind it")
        } else {
            of("a space is missing behind v=spf1", "write v=spf1 with a space behind it, and a space between all terms")
        };
    }
    if ["v=spf", "v =", "v:spf", "v= ", "v spf", "spf1 ", "spf=", "spf "].iter().any(|start| starts(bare, start))
        && bare.to_ascii_lowercase().contains("spf")
    {
        return of("it does not begin with v=spf1", "write v=spf1 at the beginning, with a space behind it");
    }
    let is_late = bare.to_ascii_lowercase().contains(" v=spf1 ");
    is_late.then_some(NearMiss { fault: "v=spf1 does not come first", remedy: "begin the text with v=spf1" })
}

/// What keeps a text at a selector from being a key record (RFC 6376 §3.6.1), as far as its version goes.
pub fn dkim(text: &[u8]) -> Option<NearMiss> {
    let text = lossy(text);
    let bare = bare(&text);
    let of = |fault, remedy| Some(NearMiss { fault, remedy });
    let mut parts = bare.split(';');
    let first = value(parts.next().unwrap_or_default(), "v");
    if text.trim_start().starts_with('"') {
        return of("quotation marks are part of the text", "take the quotation marks out of the text");
    }
    if text.contains("\\;") {
        return of("backslashes are part of the text", "write semicolons without a backslash before them");
    }
    match (first, parts.find_map(|part| value(part, "v"))) {
        (Some("DKIM1"), _) | (None, None) => None,
        (Some(version), _) if version.eq_ignore_ascii_case("DKIM1") => {
            of("DKIM1 has to be in capitals", "write v=DKIM1;")
        }
        (Some(version), _) if version.strip_prefix("DKIM1").is_some_and(|rest| rest.starts_with([' ', ','])) => {
            of("a semicolon is missing behind v=DKIM1", "write v=DKIM1; with a semicolon behind it")
        }
        (Some(_), _) => of("the version is not DKIM1", "write v=DKIM1;"),
        (None, Some(_)) => of("v= does not come first", "move v=DKIM1; to the beginning, or leave it out"),
    }
}

/// Whether a text is a DMARC record that stands where nobody looks for one: at the domain itself.
pub fn is_dmarc_at_the_domain(text: &[u8]) -> bool {
    let text = lossy(text);
    value(bare(&text).split(';').next().unwrap_or_default(), "v").is_some_and(|version| starts(version, "DMARC1"))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..MAX_READ).unwrap_or(text)).into_owned()
}

/// Without what editors and web forms put around a record.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || NOISE.contains(&c) || !(c.is_alphanumeric() || c.is_ascii()))
        .trim_start_matches(';')
        .trim_start()
}

/// What stands before a record that is sound from there on.
fn before(text: &str) -> &'static str {
    match text.chars().next() {
        Some(c) if NOISE.contains(&c) => "quotation marks are part of the text",
        Some(c) if c.is_whitespace() => "a space stands before it",
        Some(';') => "a semicolon stands before it",
        _ => "a character that can't be seen stands before or in it",
    }
}

fn value<'a>(part: &'a str, tag: &str) -> Option<&'a str> {
    let (name, value) = part.split_once('=')?;
    name.trim().eq_ignore_ascii_case(tag).then(|| value.trim())
}

fn starts(text: &str, start: &str) -> bool {
    after(text, start).is_some()
}

fn after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(start.len())?;
    head.eq_ignore_ascii_case(start).then_some(rest)
}

/// Quotation marks, as they come from a form that wants none or from a text processor.
const NOISE: [char; 6] = ['"', '\'', '\u{201c}', '\u{201d}', '\u{201e}', '`'];
/// Octets of a text that are read.
const MAX_READ: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmarc::record::{Parsed, parse};
    use crate::evaluation::dkim::inspect;
    use crate::spf::record::Published;

    fn fault(found: Option<NearMiss>) -> &'static str {
        found.map_or("-", |found| found.fault)
    }

    #[test]
    fn dmarc_records_that_are_none() {
        let cases = [
            ("v=dmarc1; p=none", "DMARC1 has to be in capitals"),
            ("v=DMARC1 p=reject", "a semicolon is missing behind v=DMARC1"),
            ("v=DMARC1, p=reject", "a semicolon is missing behind v=DMARC1"),
            (" v=DMARC1; p=none", "a space stands before it"),
            ("\tv=DMARC1; p=none", "a space stands before it"),
            ("\"v=DMARC1; p=none\"", "quotation marks are part of the text"),
            ("\u{201c}v=DMARC1; p=none\u{201d}", "quotation marks are part of the text"),
            ("\u{feff}v=DMARC1; p=none", "a character that can't be seen stands before or in it"),
            (";v=DMARC1; p=none", "a semicolon stands before it"),
            ("p=none; v=DMARC1", "v=DMARC1 does not come first"),
            ("DMARC1; p=none", "it does not begin with v=DMARC1"),
            ("DMARC1;p=none", "it does not begin with v=DMARC1"),
            ("v:DMARC1; p=none", "it does not begin with v=DMARC1"),
            ("v=DMARC2; p=none", "the version is not DMARC1"),
            ("v=DMARC10; p=none", "the version is not DMARC1"),
            ("v=DMARC; p=none", "the version is not DMARC1"),
            ("p=none; rua=mailto:a@a.example", "v=DMARC1 is missing"),
            ("v=spf1 -all", "it is an SPF record"),
            ("hello", "-"),
            ("google-site-verification=x", "-"),
            ("v=STSv1; id=1", "-"),
            ("", "-"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), Parsed::Foreign, "{text:?}");
            assert_eq!(fault(dmarc(text.as_bytes())), expected, "{text:?}");
        }
    }

    #[test]
    fn spf_records_that_are_none() {
        let cases = [
            ("v=spf10 -all", "the version is not spf1"),
            ("v=spf1.0 -all", "the version is not spf1"),
            ("v=spf1include:a.example -all", "a space is missing behind v=spf1"),
            ("v=spf1;include:a.example", "a space is missing behind v=spf1"),
            ("v=spf1\tmx -all", "a space is missing behind v=spf1"),
            ("v=SPF1-all", "a space is missing behind v=spf1"),
            ("spf1 mx -all", "it does not begin with v=spf1"),
            ("v=spf mx -all", "it does not begin with v=spf1"),
            ("v=spf2 mx -all", "it does not begin with v=spf1"),
            ("v = spf1 mx -all", "it does not begin with v=spf1"),
            ("v:spf1 mx -all", "it does not begin with v=spf1"),
            (" v=spf1 mx -all", "a space stands before it"),
            ("\"v=spf1 mx -all\"", "quotation marks are part of the text"),
            ("mx v=spf1 -all", "v=spf1 does not come first"),
            ("spf2.0/pra mx -all", "-"),
            ("v=verifydomain MS=1", "-"),
            ("hello", "-"),
            ("", "-"),
        ];
        for (text, expected) in cases {
            assert_eq!(Published::read(&[text.as_bytes().into()]), Published::Absent, "{text:?}");
            assert_eq!(fault(spf(text.as_bytes())), expected, "{text:?}");
        }
    }

    #[test]
    fn key_records_that_are_none() {
        let cases = [
            ("v=DKIM2; p=AAAA", "the version is not DKIM1"),
            ("v=dkim1; p=AAAA", "DKIM1 has to be in capitals"),
            ("v=DKIM1 k=rsa; p=AAAA", "a semicolon is missing behind v=DKIM1"),
            ("k=rsa; v=DKIM1; p=AAAA", "v= does not come first"),
            ("\"v=DKIM1; p=AAAA\"", "quotation marks are part of the text"),
            ("v=DKIM1\\; p=AAAA", "backslashes are part of the text"),
            ("v=DKIM1; p=AAAA", "-"),
            ("p=AAAA", "-"),
            ("hello", "-"),
        ];
        for (text, expected) in cases {
            assert!(inspect(text.as_bytes()).is_err(), "{text:?}");
            assert_eq!(fault(dkim(text.as_bytes())), expected, "{text:?}");
        }
    }

    #[test]
    fn a_policy_record_at_the_wrong_name() {
        for (text, expected) in
            [("v=DMARC1; p=none", true), (" v=dmarc1;p=none", true), ("v=spf1 -all", false), ("", false)]
        {
            assert_eq!(is_dmarc_at_the_domain(text.as_bytes()), expected, "{text:?}");
        }
    }
}
