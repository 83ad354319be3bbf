//! Reverse-paths and forward-paths of the envelope (RFC 5321 §4.1.2).
//!
//! The text goes on to the upstream as the client wrote it; what is read out of it are the local part and the domain.
//! The grammar is that of the RFC with the liberties that honest clients take (dots anywhere in a local part, no angle
//! brackets), but nothing that could carry a second address, a line end or a control character to the upstream. UTF-8
//! is read as RFC 6531 §3.3 has it; whether it is allowed is for the command to say.

use std::fmt;

use crate::domain::Domain;

/// The argument of MAIL FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`: a notification that nobody is to answer (RFC 5321 §4.5.5).
    Null,
    /// Where a notification would go.
    Mailbox(Mailbox),
}

/// The argument of RCPT TO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPath(pub Mailbox);

/// A mailbox as it stood in an envelope command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Without angle brackets, with its source route, as written.
    text: Box<str>,
    /// Where the local part begins: behind a source route.
    local_start: usize,
    /// Where the local part ends; the text's length if there is no domain.
    local_end: usize,
}

/// Why a path can't be read. The client is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not of the form `<local-part@domain>`.
    #[error("not a path")]
    Syntax,
    /// A character beyond ASCII where SMTPUTF8 is not in use (RFC 6531 §3.3).
    #[error("address needs SMTPUTF8")]
    NonAscii,
    /// Longer than the RFC allows (RFC 5321 §4.5.3.1).
    #[error("path too long")]
    TooLong,
}

/// The domain part of a mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainPart {
    /// A name.
    Name(Domain),
    /// An address literal (RFC 5321 §4.1.3), which DNS knows nothing of.
    Literal,
    /// None, as in `<postmaster>`.
    Absent,
}

impl ReversePath {
    /// Reads the path at the start of `text` and gives it with what follows it.
    ///
    /// # Errors
    ///
    /// The client's fault: [`PathError`].
    pub fn parse(text: &[u8]) -> Result<(Self, &[u8]), PathError> {
        match text.strip_prefix(b"<>") {
            Some(rest) if ends_path(rest) => Ok((Self::Null, rest)),
            Some(_) => Err(PathError::Syntax),
            None => Mailbox::parse(text).map(|(mailbox, rest)| (Self::Mailbox(mailbox), rest)),
        }
    }

    /// Reads a path that is all of `text`, with or without its angle brackets; an empty text is the null reverse-path.
    pub fn of_text(text: &str) -> Option<Self> {
        match Self::parse(bracketed(text).as_bytes()) {
            Ok((path, b"")) => Some(path),
            _ => None,
        }
    }

    /// The mailbox, unless it is the null reverse-path.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Whether it needs no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(|mailbox| mailbox.as_str().is_ascii())
    }

    /// Whether this is `<>`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

impl ForwardPath {
    /// Reads the path at the start of `text` and gives it with what follows it.
    ///
    /// # Errors
    ///
    /// The client's fault: [`PathError`].
    pub fn parse(text: &[u8]) -> Result<(Self, &[u8]), PathError> {
        Mailbox::parse(text).map(|(mailbox, rest)| (Self(mailbox), rest))
    }

    /// Reads a path that is all of `text`, with or without its angle brackets.
    pub fn of_text(text: &str) -> Option<Self> {
        match Self::parse(bracketed(text).as_bytes()) {
            Ok((path, b"")) => Some(path),
            _ => None,
        }
    }

    /// The mailbox.
    pub fn mailbox(&self) -> &Mailbox {
        &self.0
    }

    /// Whether it needs no SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.0.as_str().is_ascii()
    }
}

/// An address as it stands in MAIL and RCPT.
fn bracketed(address: &str) -> String {
    if address.starts_with('<') { address.to_owned() } else { format!("<{address}>") }
}

impl Mailbox {
    /// The mailbox as written, without angle brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as written, quotes included.
    pub fn local_part(&self) -> &str {
        self.text.get(self.local_start..self.local_end).unwrap_or_default()
    }

    /// The domain part.
    pub fn domain(&self) -> DomainPart {
        match self.text.get(self.local_end + 1..) {
            None => DomainPart::Absent,
            Some(text) => Domain::parse(text).map_or(DomainPart::Literal, DomainPart::Name),
        }
    }

    /// Whether the address asks an MTA to send it on elsewhere: a source route, or `%`, `!` or a quoted `@` in the
    /// local part, which older MTAs (Postfix among them) rewrite into another domain once they trust the client.
    pub fn is_routed(&self) -> bool {
        self.local_start > 0 || self.local_part().bytes().any(|b| matches!(b, b'%' | b'!' | b'@'))
    }

    #[expect(clippy::indexing_slicing, reason = "`end` is a place in `inner`")]
    fn parse(text: &[u8]) -> Result<(Self, &[u8]), PathError> {
        let (inner, rest) = match text.strip_prefix(b"<") {
            Some(inner) => {
                let end = path_end(inner, |b| b == b'>').ok_or(PathError::Syntax)?;
                (&inner[..end], &inner[end + 1..])
            }
            // Without brackets the path ends at the first space: old devices write it so.
            None => text.split_at(path_end(text, |b| b == b' ').unwrap_or(text.len())),
        };
        if !ends_path(rest) {
            return Err(PathError::Syntax);
        }
        if inner.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let inner = std::str::from_utf8(inner).map_err(|_| PathError::Syntax)?;
        let (local_start, local_end) = split(inner).ok_or(PathError::Syntax)?;
        Ok((Self { text: inner.into(), local_start, local_end }, rest))
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.mailbox().map_or("", Mailbox::as_str))
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

/// A path is followed by nothing or by parameters.
fn ends_path(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b' ' | b'\t'))
}

/// Where `end` is met first outside a quoted string.
fn path_end(text: &[u8], end: impl Fn(u8) -> bool) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.iter().position(|&b| {
        let was_escaped = std::mem::replace(&mut escaped, false);
        match b {
            _ if was_escaped => false,
            b'\\' if quoted => {
                escaped = true;
                false
            }
            b'"' => {
                quoted = !quoted;
                false
            }
            _ => !quoted && end(b),
        }
    })
}

/// Where local part and domain lie in `[source-route ":"] local-part ["@" domain]`.
fn split(text: &str) -> Option<(usize, usize)> {
    let local_start = match text.strip_prefix('@') {
        // RFC 5321 §4.1.1.3 and appendix C: a source route is accepted; the upstream may do with it what it likes.
        Some(_) => {
            let colon = text.find(':')?;
            let route = text.get(..colon)?;
            route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(is_domain)).then_some(colon + 1)?
        }
        None => 0,
    };
    let rest = text.get(local_start..)?;
    let local_len = path_end(rest.as_bytes(), |b| b == b'@').unwrap_or(rest.len());
    let (local, domain) = rest.split_at_checked(local_len)?;
    let domain_fits = domain.is_empty() || domain.strip_prefix('@').is_some_and(is_domain);
    (is_local_part(local) && domain_fits).then_some((local_start, local_start + local_len))
}

/// A domain name or an address literal.
fn is_domain(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        Some(literal) => {
            !literal.is_empty() && literal.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-".contains(&b))
        }
        None => Domain::parse(text).is_ok(),
    }
}

/// RFC 5321 §4.1.2, except that dots may be anywhere in an unquoted local part: some mail systems assign such names.
fn is_local_part(text: &str) -> bool {
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    (1..=MAX_LOCAL_PART).contains(&text.len())
        && match quoted {
            Some(inner) => is_quoted_content(inner),
            None => text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || is_utf8(c)),
        }
}

fn is_quoted_content(inner: &str) -> bool {
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let fits = match c {
            '\\' => chars.next().is_some_and(|c| (' '..='~').contains(&c)),
            '"' => false,
            c => (' '..='~').contains(&c) || is_utf8(c),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// What RFC 6531 §3.3 adds to the characters of an address, less what could pass for a line end or a space somewhere.
fn is_utf8(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// Octets of a path without its brackets. RFC 5321 §4.5.3.1.3 has 256 with them; source routes and VERP addresses of
/// honest senders go beyond, and the upstream has its own limit.
const MAX_PATH: usize = 1000;
/// Octets of a local part. RFC 5321 §4.5.3.1.1 has 64, which VERP and SRS senders exceed daily.
const MAX_LOCAL_PART: usize = 320;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_with_the_liberties_of_honest_clients() {
        let cases: [(&str, &str, &str, &str); 15] = [
            ("<käthe@grün.example> SMTPUTF8", "käthe", "xn--grn-ioa.example", " SMTPUTF8"),
            ("<\"ü ä\"@b.example>", "\"ü ä\"", "b.example", ""),
            ("<用户@例子.example>", "用户", "xn--fsqu00a.example", ""),
            ("<a@b.example>", "a", "b.example", ""),
            ("<a@b.example> SIZE=5", "a", "b.example", " SIZE=5"),
            ("a@b.example SIZE=5", "a", "b.example", " SIZE=5"),
            ("<a..b.@b.example>", "a..b.", "b.example", ""),
            ("<\"a b\"@b.example>", "\"a b\"", "b.example", ""),
            ("<\"a@c>d\\\"\"@b.example>", "\"a@c>d\\\"\"", "b.example", ""),
            ("<@x.example,@y.example:a@b.example>", "a", "b.example", ""),
            ("<prvs=12=a+b@B.Example>", "prvs=12=a+b", "b.example", ""),
            ("<a@[192.0.2.1]>", "a", "[]", ""),
            ("<a@[IPv6:2001:db8::1]>", "a", "[]", ""),
            ("<Postmaster>", "Postmaster", "", ""),
            ("<a@b.example.>", "a", "b.example", ""),
        ];
        for (text, local, domain, rest) in cases {
            let (path, after) = ForwardPath::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
            let found = match path.mailbox().domain() {
                DomainPart::Name(name) => name.to_string(),
                DomainPart::Literal => "[]".into(),
                DomainPart::Absent => String::new(),
            };
            assert_eq!((path.mailbox().local_part(), &*found, after), (local, domain, rest.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let long = format!("<{}@b.example>", "a".repeat(321));
        let cases = [
            "<a@b.example",
            "a@b.example>",
            "<a@b@c.example>",
            "<a@b.example>x",
            "<<a@b.example>>",
            "<a b@b.example>",
            "<\"a\"b@c.example>",
            "<a@>",
            "<@b.example>",
            "<@b.example:>",
            "<a@b..example>",
            "<a@b.example,c@d.example>",
            "<a(c)@b.example>",
            "<a\x00@b.example>",
            "<\"a\x0d\"@b.example>",
            "<\"a\"\"b\"@b.example>",
            "<a\u{85}b@b.example>",
            "<a\u{2028}b@b.example>",
            "<a@\u{200b}.example>",
            "",
            &long,
        ];
        for text in cases {
            assert_eq!(ForwardPath::parse(text.as_bytes()), Err(PathError::Syntax), "{text:?}");
        }
        assert_eq!(ForwardPath::parse(b"<\xfc@b.example>"), Err(PathError::Syntax), "not UTF-8");
        assert_eq!(ForwardPath::parse(b"<>"), Err(PathError::Syntax), "a recipient is never null");
        assert_eq!(ReversePath::parse(b"<>"), Ok((ReversePath::Null, &b""[..])));
        assert_eq!(ReversePath::parse(b"<>x"), Err(PathError::Syntax));
    }

    #[test]
    fn addresses_that_ask_for_routing_are_known() {
        let cases = [
            ("<a@b.example>", false),
            ("<a%c.example@b.example>", true),
            ("<c.example!a@b.example>", true),
            ("<\"a@c.example\"@b.example>", true),
            ("<@b.example:a@b.example>", true),
        ];
        for (text, routed) in cases {
            assert_eq!(ForwardPath::parse(text.as_bytes()).unwrap().0.mailbox().is_routed(), routed, "{text}");
        }
    }
}
