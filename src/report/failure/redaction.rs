//! Hides the local parts of addresses (RFC 6590): always by the same text for the same local part, so that a reader can
//! tell that two messages concern one user, but not which user without the key.

use std::cmp::Reverse;
use std::ops::Range;

use aws_lc_rs::hmac;

use crate::hex::hex;
use crate::message::encoded_word;

/// Replaces local parts.
#[derive(Clone)]
pub struct Redaction(hmac::Key);

impl Redaction {
    /// With a key of the site's own (RFC 6590 §3).
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The text with the local part of each address in it replaced. What looks like a part of one is: `name=user@host`
    /// may be a reverse-path that names another address.
    pub fn apply(&self, text: &str) -> String {
        self.replaced(text, |_| 0)
    }

    /// As [`Redaction::apply`], in a list of tags or properties (`i=user@host`), whose names stay.
    pub fn apply_to_tags(&self, text: &str) -> String {
        self.replaced(text, |local_part| {
            let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'.');
            local_part.split_once('=').map_or(0, |(name, _)| if is_name(name) { name.len() + 1 } else { 0 })
        })
    }

    /// `kept` says how many octets of what precedes an at sign belong to something else.
    fn replaced(&self, text: &str, kept: impl Fn(&str) -> usize) -> String {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for range in Scanner::new(text).hidden() {
            if range.start < done {
                continue;
            }
            let hidden = text.get(range.clone()).unwrap_or_default();
            let (name, hidden) = hidden.split_at(kept(hidden));
            out.push_str(text.get(done..range.start).unwrap_or_default());
            out.push_str(name);
            if !hidden.is_empty() {
                let code = hmac::sign(&self.0, hidden.as_bytes());
                out.push_str(&hex(code.as_ref().iter().take(REDACTED_OCTETS)));
            }
            done = range.end;
        }
        out.push_str(text.get(done..).unwrap_or_default());
        out
    }
}

/// Finds what is to be hidden, in one pass: local parts, between which and the at sign there may be white space and
/// comments (RFC 5322 §4.4), and encoded words that hold an at sign or can't be read.
///
/// Text need not be an address field: quotes and brackets may have no partners.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// What is a local part if an at sign follows.
    candidate: Option<Range<usize>>,
    /// The candidates before the comments that are open.
    outer: Vec<Option<Range<usize>>>,
    /// Where the quoted string began that is open, with what a dot joins to it.
    quoted: Option<usize>,
    last_quote: usize,
    /// Behind the last at sign.
    floor: usize,
    hidden: Vec<Range<usize>>,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            candidate: None,
            outer: Vec::new(),
            quoted: None,
            last_quote: 0,
            floor: 0,
            hidden: Vec::new(),
        }
    }

    /// In the order of the text; one may lie in the one before.
    fn hidden(mut self) -> Vec<Range<usize>> {
        while let Some(next) = self.rest().chars().next() {
            if let Some(length) = escaped_at(self.rest()) {
                self.at += length;
                self.at_sign();
            } else if !self.encoded_words() {
                self.step(next);
            }
        }
        self.hidden.sort_by_key(|range| (range.start, Reverse(range.end)));
        self.hidden
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn step(&mut self, next: char) {
        let start = self.at;
        self.at += next.len_utf8();
        match next {
            '@' => self.at_sign(),
            '(' => self.outer.push(self.candidate.take()),
            ')' => self.candidate = self.outer.pop().flatten(),
            '"' => self.quote(start),
            '\\' => {
                self.candidate = None;
                if self.quoted.is_some() {
                    self.at += self.rest().chars().next().map_or(0, char::len_utf8);
                }
            }
            _ if next.is_whitespace() => {}
            _ if is_local(next) => self.run(start),
            _ => self.candidate = None,
        }
    }

    /// One ends here.
    fn at_sign(&mut self) {
        self.hidden.extend(self.candidate.take());
        self.floor = self.at;
    }

    fn quote(&mut self, start: usize) {
        let begin = match self.quoted.take() {
            Some(begin) => begin,
            None => {
                let joined = self.candidate.take().filter(|before| before.end == start && self.ends(before, '.'));
                self.quoted = Some(joined.map_or(start, |before| before.start));
                // It may end a string all the same, if a quote before had no partner.
                self.last_quote
            }
        };
        self.candidate = Some(begin.max(self.floor)..self.at);
        self.last_quote = start;
    }

    /// What may stand in a local part without quotes, up to where an encoded word or an escaped at sign may begin.
    fn run(&mut self, start: usize) {
        let rest = self.text.get(start..).unwrap_or_default();
        let goes_on = |(place, next): &(usize, char)| {
            let ends = |rest: &str| rest.starts_with("=?") || escaped_at(rest).is_some();
            is_local(*next) && (*place == 0 || !rest.get(*place..).is_some_and(ends))
        };
        let length: usize = rest.char_indices().take_while(goes_on).map(|(_, next)| next.len_utf8()).sum();
        self.at = start + length;
        let before = self.candidate.take();
        let is_joined =
            |before: &Range<usize>| rest.starts_with('.') || (before.end == start && !self.ends(before, '"'));
        let begin = before.filter(is_joined).map_or(start, |before| before.start);
        self.candidate = Some(begin..self.at);
    }

    fn ends(&self, range: &Range<usize>, with: char) -> bool {
        self.text.get(range.clone()).is_some_and(|text| text.ends_with(with))
    }

    /// Reads encoded words that a reader sees as one text, with nothing but white space between them.
    fn encoded_words(&mut self) -> bool {
        let start = self.at;
        let mut decoded = Some(Vec::new());
        let mut ahead = self.rest();
        while let Some((word, behind)) = encoded_word(ahead) {
            decoded = decoded.zip(word).map(|(mut text, word)| {
                text.extend(word);
                text
            });
            self.at = self.text.len() - behind.len();
            ahead = behind.trim_start();
        }
        if self.at == start {
            return false;
        }
        let before = self.candidate.take();
        match decoded {
            Some(text) if !text.contains(&b'@') => {
                let joined = before.filter(|before| before.end == start && !self.ends(before, '"'));
                self.candidate = Some(joined.map_or(start, |before| before.start)..self.at);
            }
            decoded => {
                let is_of_address = |before: &Range<usize>| match &decoded {
                    Some(text) => text.trim_ascii_start().starts_with(b"@"),
                    // It may be no encoded word at all: both marks can stand in a local part.
                    None => before.end == start,
                };
                self.hidden.extend(before.filter(is_of_address));
                self.hidden.push(start..self.at);
                self.floor = self.at;
            }
        }
        true
    }
}

/// The octets of an at sign as URIs write it (RFC 3986 §2.1), or quoted-printable (RFC 2045 §6.7) before what may be a
/// domain: `width=40` is none.
fn escaped_at(text: &str) -> Option<usize> {
    let (escape, rest) = text.split_at_checked(3)?;
    let domain = || rest.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '.')).next().unwrap_or_default();
    let is_domain = |name: &str| {
        name.trim_matches('.').contains('.') && name.contains(|c: char| c.is_alphabetic()) && !name.starts_with('.')
    };
    (escape == "%40" || escape == "=40" && is_domain(domain())).then_some(3)
}

/// Whether it may stand in a local part without quotes.
fn is_local(next: char) -> bool {
    next.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(next)
}

/// The octets of the encoded word that a text begins with, none if they can't be read, and what follows it.
fn encoded_word(text: &str) -> Option<(Option<Vec<u8>>, &str)> {
    let mut parts = text.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
    if charset.contains(char::is_whitespace) || !matches!(encoding, "B" | "b" | "Q" | "q") {
        return None;
    }
    if let Some((encoded, behind)) = rest.split_once('?')
        && let Some(behind) = behind.strip_prefix('=')
    {
        let decoded = encoded_word::decode(encoding.as_bytes(), encoded.as_bytes());
        return Some((decoded.filter(|_| is_ascii_compatible(charset)), behind));
    }
    // It has no end, or another than the standard's: nobody knows what clients make of it.
    Some((None, rest.get(rest.find(char::is_whitespace).unwrap_or(rest.len())..)?))
}

/// Whether an at sign is known to be the octet of ASCII in this charset, as it is not in UTF-7 and UTF-16.
fn is_ascii_compatible(charset: &str) -> bool {
    let name = charset.split('*').next().unwrap_or_default().to_ascii_lowercase();
    ASCII_COMPATIBLE.iter().any(|known| name.starts_with(known))
}

/// How the names of charsets begin that have ASCII in them.
const ASCII_COMPATIBLE: [&str; 14] = [
    "utf-8",
    "us-ascii",
    "iso-8859-",
    "iso-2022-jp",
    "windows-12",
    "windows-874",
    "cp12",
    "koi8-",
    "gb",
    "big5",
    "shift_jis",
    "euc-",
    "ks_c_5601",
    "tis-620",
];
/// Octets of the code that stands for a local part: nobody can find two with the same code.
const REDACTED_OCTETS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_parts_are_hidden_and_comparable() {
        let redaction = Redaction::new(b"site key");
        let hidden = |text: &str| redaction.apply(text);
        let joe = hidden("joe@a.example");
        assert!(joe.ends_with("@a.example") && !joe.contains("joe") && joe.len() == "@a.example".len() + 20, "{joe}");
        let code = joe.strip_suffix("@a.example").unwrap();
        assert_eq!(
            hidden("To: <joe@a.example>, joe@b.example (x)"),
            format!("To: <{code}@a.example>, {code}@b.example (x)")
        );
        for text in ["\"j o e\"@a.example", "<\"j\r\n joe\"@a.example>", "l+joe=a.example@b.example", "j\u{f6}joe@b"] {
            assert!(!hidden(text).contains("jo") && !hidden(text).contains("o e"), "{text}: {}", hidden(text));
        }
        for text in ["@ nobody", "no address", "(@a.example)", ""] {
            assert_eq!(hidden(text), text);
        }
        assert_ne!(Redaction::new(b"another").apply("joe@a.example"), joe);
    }

    #[test]
    fn names_of_tags_stay() {
        let redaction = Redaction::new(b"site key");
        let code = redaction.apply("joe@").replace('@', "");
        assert_eq!(redaction.apply_to_tags("d=a.example; i=joe@a.example"), format!("d=a.example; i={code}@a.example"));
        assert_eq!(redaction.apply_to_tags("header.i=@a.example"), "header.i=@a.example");
        assert!(!redaction.apply("i=joe@a.example").contains("i="));
    }

    #[test]
    fn local_parts_are_hidden_however_they_are_written() {
        let redaction = Redaction::new(b"site key");
        let code = redaction.apply("secret@").replace('@', "");
        let cases = [
            ("<secret @ rcpt.example>", "<CODE @ rcpt.example>"),
            ("secret (c) @rcpt.example", "CODE (c) @rcpt.example"),
            ("secret\r\n (a (b) c) (d) @rcpt.example", "CODE\r\n (a (b) c) (d) @rcpt.example"),
            ("secret (secret@a.example) @b.example", "CODE (CODE@a.example) @b.example"),
            ("(of secret@a.example) :-) secret@b.example", "(of CODE@a.example) :-) CODE@b.example"),
            ("5\" disks, secret@a.example", "5\" disks, CODE@a.example"),
            ("\"to secret@a.example\" <secret@b.example>", "\"to CODE@a.example\" <CODE@b.example>"),
            ("=?utf-8?Q?J=C3=B6rg?= <secret@a.example>", "=?utf-8?Q?J=C3=B6rg?= <CODE@a.example>"),
            ("what=?x?y?z secret@a.example", "what=?x?y?z CODE@a.example"),
        ];
        for (text, expected) in cases {
            assert_eq!(redaction.apply(text), expected.replace("CODE", &code), "{text}");
        }
        let hidden = [
            "\"se\".\"cret\"@rcpt.example",
            "\"se\\\"cret\"@rcpt.example",
            "5\" \"se cret\" @rcpt.example",
            "\"se@cret\"@rcpt.example",
            "se .cret@rcpt.example",
            "=?utf-8?Q?secret=40rcpt.example?=",
            "=?UTF-8*en?q?secret@rcpt.example?=",
            "=?utf-8?B?c2VjcmV0QHJjcHQuZXhhbXBsZQ==?=",
            "x =?utf-8?Q?se?=\r\n =?utf-8?b?Y3JldA==?= =?utf-8?Q?=40rcpt.example?= y",
            "secret =?utf-8?Q?=40rcpt.example?=",
            "secret=?utf-8?Q?=40rcpt.example?=",
            "=?utf-8?Q?secret?= @rcpt.example",
            "=?utf-8?Q?se?= =?utf-8?Q?cret?=@rcpt.example",
            "=?utf-7?Q?secret+AEA-rcpt.example?=",
            "=?unicode-1-1-utf-7?Q?secret+AEA-rcpt.example?=",
            "=?utf-8?Q?secret=4?=",
            "=?utf-8?B?c2Vj*cmV0QHJjcHQuZXhhbXBsZQ==?=",
            "=?utf-8?Q?secret?=40rcpt=40?=@x",
            "=?utf-8?Q?secret?_=40rcpt.example?=",
            "=?utf-8?Q?secret=40rcpt.example",
            "secret=?utf-8?Q?@rcpt.example",
            "<https://l.example/u?e=secret%40rcpt.example&x=1>",
            "<mailto:x@l.example?subject=secret%40rcpt.example>",
            "secret=40rcpt.example",
            "i=se.cret=40rcpt.example; l=4012",
            "secret=?utf-8?Q?=?@rcpt.example",
        ];
        for text in hidden {
            let shown = redaction.apply(text);
            let told = ["se", "cret", "c2Vj", "Y3Jl"].iter().any(|part| shown.contains(part));
            assert!(!told, "{text}: {shown}");
        }
    }

    #[test]
    fn long_texts_take_one_pass() {
        let redaction = Redaction::new(b"site key");
        let parts =
            ["(", "()", "(a@", "\"", "\"a\".", "=?", "=?a?Q?", "=?a?Q?x ", "=?a?Q?x?= ", "a ", "a.", "\\\"", "?="];
        for part in parts {
            for end in ["", "@", ")@", "\"@"] {
                let text = part.repeat(500_000 / part.len()) + end;
                let begun = std::time::Instant::now();
                assert!(!redaction.apply(&text).is_empty());
                // A second pass for each character would take minutes.
                assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{part}{end}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(characters in proptest::collection::vec(proptest::sample::select(
            "ab.@()\"\\<>:; \t\r\n=?qB4_\u{e4}\u{2003}".chars().collect::<Vec<_>>()), 0..60)) {
            let text: String = characters.into_iter().collect();
            let redaction = Redaction::new(b"site key");
            redaction.apply_to_tags(&text);
            let shown = redaction.apply(&text);
            if !text.contains('@') && !text.contains("=?") {
                proptest::prop_assert_eq!(shown, text);
            }
        }
    }
}
