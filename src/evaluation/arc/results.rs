//! Reads what an ARC-Authentication-Results says of DMARC (RFC 8617 §4.1.1): evidence, if its sealer is trusted.
//!
//! The grammar is that of RFC 8601 §2.2, and a field that departs from it is no evidence at all, since another reader
//! may find something else in it. Three departures are overlooked, for honest sealers are known by them and none can
//! make one result of another: properties without a type (`action=none`, Microsoft), characters in values that should
//! be quoted (`header.b=a/b`, `smtp.remote-ip=2001:db8::1`), and empty places between semicolons.

use crate::dmarc::alignment::DmarcResult;
use crate::domain::Domain;
use crate::label::Label;

/// What a sealer found by DMARC when the message reached it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmarcFinding {
    /// `dmarc=`.
    pub result: DmarcResult,
    /// `header.from=`.
    pub author_domain: Domain,
}

/// What the value of an ARC-Authentication-Results says of DMARC. `None` where it says nothing of it, says it twice, or
/// names no author domain, and where anything in it can't be read; at most 16 KiB are.
pub fn dmarc_finding(value: &[u8]) -> Option<DmarcFinding> {
    if value.len() > MAX_LENGTH {
        return None;
    }
    let mut reader = Reader(value);
    reader.instance()?;
    reader.authserv_id()?;
    let mut found = None;
    while !reader.is_at_end() {
        reader.take(b';')?;
        reader.skip()?;
        if reader.is_between_results() {
            continue;
        }
        match reader.result()? {
            MethodResult::Other => {}
            MethodResult::Dmarc(_) if found.is_some() => return None,
            MethodResult::Dmarc(finding) => found = Some(finding),
        }
    }
    found.flatten()
}

/// The digits of the instance that the value of an ARC-Authentication-Results begins with; one at least.
pub(super) fn instance_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(Reader(value).instance()?).ok()
}

/// One result.
enum MethodResult {
    /// Of another method.
    Other,
    /// Of DMARC; `None` if it can't be believed.
    Dmarc(Option<DmarcFinding>),
}

/// What is still to be read. Each step is `None` where the grammar ends.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// `[CFWS] "i" [CFWS] "=" [CFWS] 1*DIGIT [CFWS] ";"`: the digits.
    fn instance(&mut self) -> Option<&'a [u8]> {
        self.skip()?;
        let name = self.keyword()?;
        self.skip()?;
        self.take(b'=')?;
        self.skip()?;
        let number = self.keyword()?;
        self.skip()?;
        self.take(b';')?;
        (name == b"i" && number.iter().all(u8::is_ascii_digit)).then_some(number)
    }

    /// `[CFWS] authserv-id [CFWS authres-version] [CFWS]`, where nothing but a semicolon may follow.
    fn authserv_id(&mut self) -> Option<()> {
        self.skip()?;
        self.value()?;
        self.skip()?;
        if self.0.first().is_some_and(u8::is_ascii_digit) {
            // RFC 8601 §2.2: a version that is not known can't be read.
            (self.keyword()? == b"1").then_some(())?;
            self.skip()?;
        }
        Some(())
    }

    /// `method ["/" version] "=" result [reasonspec] *propspec [CFWS]`. `none` in place of all results (RFC 8601 §2.2)
    /// is taken for what can't be read: neither says anything of DMARC.
    fn result(&mut self) -> Option<MethodResult> {
        let method = self.keyword()?;
        self.skip()?;
        let mut is_known_version = true;
        if self.take(b'/').is_some() {
            self.skip()?;
            is_known_version = self.keyword()? == b"1";
            self.skip()?;
        }
        self.take(b'=')?;
        self.skip()?;
        let word = self.keyword()?;
        let authors = self.properties()?;
        if !method.eq_ignore_ascii_case(b"dmarc") {
            return Some(MethodResult::Other);
        }
        let result = DmarcResult::parse_ignore_case(word);
        let finding = match (result, authors.as_slice()) {
            (Some(result), [Some(author)]) if is_known_version => {
                Some(DmarcFinding { result, author_domain: author.clone() })
            }
            _ => None,
        };
        Some(MethodResult::Dmarc(finding))
    }

    /// The properties of one result up to its end: each `header.from` among them, `None` for one that is no domain.
    fn properties(&mut self) -> Option<Vec<Option<Domain>>> {
        let mut authors = Vec::new();
        loop {
            let skipped = self.skip()?;
            if self.is_between_results() {
                return Some(authors);
            }
            // Something has to stand between them.
            (skipped > 0).then_some(())?;
            let kind = self.keyword()?;
            self.skip()?;
            let mut property: &[u8] = b"";
            if self.take(b'.').is_some() {
                self.skip()?;
                property = self.keyword()?;
                self.skip()?;
            }
            self.take(b'=')?;
            self.skip()?;
            let value = self.value()?;
            if kind.eq_ignore_ascii_case(b"header") && property.eq_ignore_ascii_case(b"from") {
                authors.push(std::str::from_utf8(value).ok().and_then(|text| Domain::parse(text).ok()));
            }
        }
    }

    fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    fn is_between_results(&self) -> bool {
        matches!(self.0.first(), None | Some(b';'))
    }

    fn take(&mut self, octet: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[octet])?;
        Some(())
    }

    /// Letters, digits, hyphens, and underscores, which some sealers have in names of their own.
    fn keyword(&mut self) -> Option<&'a [u8]> {
        self.run(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    }

    /// A quoted string as it stands between its quotes, or a run of characters that can't be taken for anything else.
    fn value(&mut self) -> Option<&'a [u8]> {
        let Some(quoted) = self.0.strip_prefix(b"\"") else {
            return self.run(|b| (b.is_ascii_graphic() && !b"\"();,<>\\".contains(&b)) || !b.is_ascii());
        };
        let end = end_of(quoted, |b| b == b'"')?;
        let (value, rest) = quoted.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(value)
    }

    fn run(&mut self, is_part: impl Fn(u8) -> bool) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|b| !is_part(*b)).unwrap_or(self.0.len());
        let (run, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        (!run.is_empty()).then_some(run)
    }

    /// Skips white space and comments, which nest (RFC 5322 §3.2.2); how many octets.
    fn skip(&mut self) -> Option<usize> {
        let before = self.0.len();
        loop {
            self.0 = self.0.trim_ascii_start();
            let Some(comment) = self.0.strip_prefix(b"(") else { return Some(before - self.0.len()) };
            let mut depth = 1_usize;
            let end = end_of(comment, |b| {
                match b {
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                depth == 0
            })?;
            self.0 = comment.get(end + 1..)?;
        }
    }
}

/// Where a quoted string or comment ends, with the pairs of a backslash left out (RFC 5322 §3.2.1). `None` if nowhere,
/// or behind a control character, at which readers differ.
fn end_of(text: &[u8], mut is_end: impl FnMut(u8) -> bool) -> Option<usize> {
    let mut octets = text.iter().enumerate();
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'\\' => {
                octets.next().filter(|(_, b)| !b.is_ascii_control())?;
            }
            b if b.is_ascii_control() && !matches!(b, b'\t' | b'\r' | b'\n') => return None,
            b if is_end(*b) => return Some(at),
            _ => {}
        }
    }
    None
}

/// Octets of a field that is read. Honest ones have one or two thousand.
const MAX_LENGTH: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// `result author`, or nothing.
    fn found(value: &str) -> String {
        let finding = dmarc_finding(value.as_bytes());
        finding.map(|f| format!("{} {}", f.result, f.author_domain)).unwrap_or_default()
    }

    #[test]
    fn what_sealers_write_is_read() {
        let cases = [
            ("plain", "i=1; mx.example; dmarc=pass header.from=a.example", "pass a.example"),
            (
                "white space",
                " i = 1 ;\r\n\tmx.example ;\r\n dmarc = fail\r\n header . from = a.example ;",
                "fail a.example",
            ),
            ("no space at all", "i=1;mx.example;spf=none;dmarc=pass header.from=a.example;arc=none", "pass a.example"),
            ("case", "i=1; mx.example; DMARC=Pass Header.From=A.Example", "pass a.example"),
            ("versions", "i=1; mx.example 1; dmarc/1=pass header.from=a.example", "pass a.example"),
            ("quoted domain", "i=1; mx.example; dmarc=pass header.from=\"a.example\"", "pass a.example"),
            ("quoted id", "i=1; \"mx.example\"; dmarc=pass header.from=a.example", "pass a.example"),
            ("reason", "i=1; mx; dmarc=fail reason=\"x; dmarc=pass\" header.from=a.example", "fail a.example"),
            (
                "comments",
                "i=1 (a); (b) mx (c (d) \\)); (e) dmarc (f) = pass (g) header.from=a.example (h)",
                "pass a.example",
            ),
            ("U-label", "i=1; mx; dmarc=pass header.from=bücher.example", "pass xn--bcher-kva.example"),
            ("temperror", "i=1; mx; dmarc=temperror header.from=a.example", "temperror a.example"),
            (
                "Google",
                "i=1; mx.google.com;\r\n       dkim=pass header.i=@a.example header.s=s header.b=Ab/c+d;\r\n       \
                 spf=pass (google.com: domain of x@a.example designates 192.0.2.1 as permitted sender) \
                 smtp.mailfrom=x@a.example;\r\n       dmarc=pass (p=REJECT sp=REJECT dis=NONE) header.from=a.example\r\n",
                "pass a.example",
            ),
            (
                "Microsoft",
                "i=1; mx.microsoft.com 1; spf=pass smtp.mailfrom=a.example; dmarc=pass (p=none sp=none pct=100) \
                 action=none header.from=a.example; dkim=pass (signature was verified) header.d=a.example; \
                 arc=pass (0 oda=1 ltdi=1 spf=[1,1,smtp.mailfrom=b.example] dmarc=[1,1,header.from=b.example])",
                "pass a.example",
            ),
            (
                "Fastmail",
                "i=1; mx.example; x-tls=pass smtp.version=TLSv1.3 smtp.bits=256/256; iprev=pass \
                 smtp.remote-ip=2001:db8::1 (mail.a.example); dmarc=pass policy.applied-disposition=none \
                 (p=none,d=none) policy.policy-from=p header.from=a.example",
                "pass a.example",
            ),
        ];
        for (name, value, expected) in cases {
            assert_eq!(found(value), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_evidence() {
        let cases = [
            ("empty", ""),
            ("no instance", "mx.example; dmarc=pass header.from=a.example"),
            ("another name", "j=1; mx.example; dmarc=pass header.from=a.example"),
            ("no number", "i=x; mx.example; dmarc=pass header.from=a.example"),
            ("instance last", "mx.example; dmarc=pass header.from=a.example; i=1"),
            ("no id", "i=1; ; dmarc=pass header.from=a.example"),
            ("id alone", "i=1; mx.example"),
            ("no result", "i=1; mx.example; none"),
            ("no result beside one", "i=1; mx.example; none; dmarc=pass header.from=a.example"),
            ("one beside no result", "i=1; mx.example; dmarc=pass header.from=a.example; none"),
            ("unknown version", "i=1; mx.example 2; dmarc=pass header.from=a.example"),
            ("unknown method version", "i=1; mx.example; dmarc/2=pass header.from=a.example"),
            ("no author", "i=1; mx.example; dmarc=pass"),
            ("author of another method", "i=1; mx.example; dmarc=pass; spf=pass header.from=a.example"),
            ("other property", "i=1; mx.example; dmarc=pass smtp.from=a.example"),
            ("no type", "i=1; mx.example; dmarc=pass from=a.example"),
            ("two authors", "i=1; mx.example; dmarc=pass header.from=a.example header.from=b.example"),
            ("an address", "i=1; mx.example; dmarc=pass header.from=x@a.example"),
            ("two results", "i=1; mx.example; dmarc=pass header.from=a.example; dmarc=fail header.from=a.example"),
            ("the same twice", "i=1; mx; dmarc=pass header.from=a.example; dmarc=pass header.from=a.example"),
            ("two, one without author", "i=1; mx.example; dmarc=pass header.from=a.example; dmarc=none"),
            ("another word", "i=1; mx.example; dmarc=bestguesspass header.from=a.example"),
            ("two words", "i=1; mx.example; dmarc=pass fail header.from=a.example"),
            ("no semicolon", "i=1; mx.example dmarc=pass header.from=a.example"),
            ("in a comment", "i=1; mx.example; (dmarc=pass header.from=a.example)"),
            ("in a quoted string", "i=1; mx.example; spf=fail reason=\"; dmarc=pass header.from=a.example\""),
            ("open comment", "i=1; mx.example; spf=pass (; dmarc=pass header.from=a.example"),
            ("open quote", "i=1; mx.example; dmarc=pass header.from=a.example reason=\"x"),
            ("comment closed twice", "i=1; mx.example; spf=pass (a)); dmarc=pass header.from=a.example"),
            ("glued", "i=1; mx.example; dmarc=pass reason=\"x\"header.from=a.example"),
            ("NUL", "i=1; mx.example; spf=pass (\0); dmarc=pass header.from=a.example"),
            ("NUL outside", "i=1; mx.example;\0 dmarc=pass header.from=a.example"),
            ("broken elsewhere", "i=1; mx.example; dmarc=pass header.from=a.example; spf"),
            ("no value", "i=1; mx.example; dmarc=pass header.from= ; spf=pass"),
        ];
        for (name, value) in cases {
            assert_eq!(found(value), "", "{name}");
        }
        let padding = format!("i=1; mx; ({}); dmarc=pass header.from=a.example", "x".repeat(MAX_LENGTH));
        assert_eq!(found(&padding), "", "huge");
        let tail = "); dmarc=pass header.from=a.example";
        let longest = format!("i=1; mx; ({}{tail}", "x".repeat(MAX_LENGTH - "i=1; mx; (".len() - tail.len()));
        assert_eq!(found(&longest), "pass a.example", "as long as it may be");
        let nested = format!("i=1; mx {}{}; dmarc=pass header.from=a.example", "(".repeat(4000), ")".repeat(4000));
        assert_eq!(found(&nested), "pass a.example", "nested deeply");
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_no_evidence_and_never_panics(tail in "[;=./()\"\\\\ a-z\r\n\t\0ä]{0,80}") {
            dmarc_finding(tail.as_bytes());
            // Whatever follows it in the same place, the result of another domain can't come of it.
            let value = format!("i=1; mx; dmarc=fail header.from=a.example {tail}");
            if let Some(finding) = dmarc_finding(value.as_bytes()) {
                proptest::prop_assert_eq!(finding.author_domain.as_str(), "a.example");
                proptest::prop_assert_eq!(finding.result, DmarcResult::Fail);
            }
        }
    }
}
