//! Domain names as DMARC compares them: A-labels, lower case, checked. Pure.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A domain name: one to 127 labels of letters, digits, hyphen and underscore, in lower case, without a trailing dot.
///
/// U-labels become A-labels (UTS 46) when it is parsed, so that two equal domains are equal strings (RFC 9989 §4.2).
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

/// Why a text is no domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Nothing, or nothing but a dot.
    #[error("empty domain")]
    Empty,
    /// A label is empty, longer than 63 octets, or has a character that no host or service name has.
    #[error("bad label")]
    BadLabel,
    /// A U-label that IDNA does not allow.
    #[error("not valid as an internationalized domain name")]
    BadIdn,
    /// Longer than 253 octets as A-labels (RFC 1035 §2.3.4).
    #[error("domain too long")]
    TooLong,
}

impl Domain {
    /// Reads a domain name; one trailing dot is taken off.
    ///
    /// # Errors
    ///
    /// Whoever wrote the name is at fault; nothing is repaired.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if is_beyond_idna(text) {
            return Err(DomainError::TooLong);
        }
        let ascii: Cow<'_, str> = match text.is_ascii() {
            true if text.bytes().any(|b| b.is_ascii_uppercase()) => text.to_ascii_lowercase().into(),
            true => text.into(),
            false => idna::domain_to_ascii(text).map_err(|_| DomainError::BadIdn)?.into(),
        };
        // Behind IDNA, to which other full stops (U+3002 and its kin) are dots, also the last one.
        let ascii = ascii.strip_suffix('.').unwrap_or(&ascii);
        if ascii.is_empty() {
            return Err(DomainError::Empty);
        }
        if ascii.len() > MAX_LENGTH {
            return Err(DomainError::TooLong);
        }
        if !ascii.split('.').all(is_label) {
            return Err(DomainError::BadLabel);
        }
        Ok(Self(ascii.into()))
    }

    /// The name in A-labels, lower case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels from left to right.
    pub fn labels(&self) -> std::str::Split<'_, char> {
        self.0.split('.')
    }

    /// How many labels there are, at least one.
    pub fn label_count(&self) -> usize {
        self.labels().count()
    }

    /// The name without its leftmost label; none above a single label.
    pub fn parent(&self) -> Option<Domain> {
        self.0.split_once('.').map(|(_, rest)| Self(rest.into()))
    }

    /// The rightmost `count` labels, or the whole name if it has no more than that (or `count` is 0).
    pub fn last_labels(&self, count: usize) -> Domain {
        let surplus = self.label_count().saturating_sub(count.max(1));
        let rest = self.0.splitn(surplus + 1, '.').last().unwrap_or(&self.0);
        Self(rest.into())
    }

    /// Whether this name is `ancestor` itself or lies below it.
    pub fn is_within(&self, ancestor: &Domain) -> bool {
        self.0.strip_suffix(&*ancestor.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Whether a text beyond ASCII is longer than any name can be before IDNA has seen it, or has a label that is: all but
/// characters that are ignored become an octet at least, and none has more than four. IDNA takes time in proportion to
/// the square of a label's length, so that it must not get all that a peer may send.
pub fn is_beyond_idna(text: &str) -> bool {
    let is_full_stop = |c: char| matches!(c, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}');
    !text.is_ascii()
        && (text.len() > 4 * MAX_LENGTH || text.split(is_full_stop).any(|label| label.len() > 4 * MAX_LABEL))
}

/// Whether DNS can carry a name, without its trailing dot (RFC 1035 §2.3.4): no label empty, none too long. Octets of
/// any kind: macros of SPF make names of local parts.
pub fn fits_dns(name: &str) -> bool {
    name.len() <= MAX_LENGTH && name.split('.').all(|label| (1..=MAX_LABEL).contains(&label.len()))
}

/// Octets of a name in text form (RFC 1035 §2.3.4: 255 on the wire, less the root and the first length octet).
pub const MAX_LENGTH: usize = 253;
/// Octets of a label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Letters, digits, hyphen, and the underscore of service names (RFC 8552); a hyphen may stand anywhere, since such
/// names are in use and DNS answers them.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    #[test]
    fn names_are_folded_to_lower_case_a_labels() {
        let cases = [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("_dmarc.example.org", "_dmarc.example.org"),
            ("com", "com"),
            ("example\u{3002}org", "example.org"),
            ("example\u{ff0e}org\u{ff61}", "example.org"),
            ("exam\u{ad}ple.org", "example.org"),
        ];
        for (text, expected) in cases {
            assert_eq!(domain(text).as_str(), expected, "{text}");
        }
        let widest = ["\u{1d41a}".repeat(63), "\u{1d41b}".repeat(63), "\u{1d41c}".repeat(63)].join(".");
        let expected = ["a".repeat(63), "b".repeat(63), "c".repeat(63)].join(".");
        assert_eq!(domain(&widest).as_str(), expected, "four octets for each of theirs");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "abcdefg.".repeat(32));
        let ignored = format!("{}a.example", "\u{ad}".repeat(127));
        let many = "\u{fc}.".repeat(400);
        let cases = [
            ("", DomainError::Empty),
            (".", DomainError::Empty),
            ("\u{ad}", DomainError::Empty),
            ("\u{3002}", DomainError::Empty),
            ("a..", DomainError::BadLabel),
            ("a\u{3002}.", DomainError::BadLabel),
            ("\u{202e}a.example", DomainError::BadIdn),
            ("a..b", DomainError::BadLabel),
            (".a", DomainError::BadLabel),
            ("a b", DomainError::BadLabel),
            ("[192.0.2.1]", DomainError::BadLabel),
            ("a(b).example", DomainError::BadLabel),
            (&long_label, DomainError::BadLabel),
            (&long_name, DomainError::TooLong),
            (&ignored, DomainError::TooLong),
            (&many, DomainError::TooLong),
        ];
        for (text, expected) in cases {
            assert_eq!(Domain::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn lengths_at_the_bounds() {
        let name = |last: usize| format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(last));
        assert_eq!(name(61).len(), MAX_LENGTH);
        assert_eq!(domain(&name(61)).as_str(), name(61));
        assert_eq!(Domain::parse(&name(62)), Err(DomainError::TooLong));
        // DNS takes octets of any kind.
        let cases = [
            (name(61), true),
            (name(62), false),
            ("a b.\u{fc}".to_owned(), true),
            ("a".repeat(63), true),
            ("a".repeat(64), false),
            (String::new(), false),
            ("a..b".to_owned(), false),
            ("a.".to_owned(), false),
        ];
        for (name, expected) in cases {
            assert_eq!(fits_dns(&name), expected, "{name}");
        }
    }

    #[test]
    fn idna_gets_no_more_than_a_name_can_have() {
        let (label, name) = ("\u{fc}".repeat(2 * MAX_LABEL), "\u{fc}.".repeat(4 * MAX_LENGTH / 3));
        let cases = [
            ("a label that just may be", label.clone(), false),
            ("one that may not", format!("{label}a"), true),
            ("behind another full stop", format!("a\u{3002}{label}a"), true),
            ("a name that just may be", format!("{name}a"), false),
            ("one that may not", format!("{name}aa"), true),
            ("ASCII", "a".repeat(5 * MAX_LENGTH), false),
        ];
        for (case, text, expected) in cases {
            assert_eq!(is_beyond_idna(&text), expected, "{case}, {} octets", text.len());
        }
    }

    #[test]
    fn names_are_shown_as_they_are() {
        let name = domain("A.example");
        assert_eq!(
            format!("{name} {name:>10} {name:?} {}", name.as_ref()),
            "a.example  a.example \"a.example\" a.example"
        );
    }

    #[test]
    fn ancestors_and_descendants() {
        let name = domain("a.b.example.org");
        assert_eq!(name.parent(), Some(domain("b.example.org")));
        assert_eq!(domain("org").parent(), None);
        assert_eq!(name.last_labels(2), domain("example.org"));
        assert_eq!(name.last_labels(1), domain("org"));
        assert_eq!(name.last_labels(9), name);
        assert_eq!(name.label_count(), 4);
        assert!(name.is_within(&domain("example.org")));
        assert!(name.is_within(&name));
        assert!(!domain("badexample.org").is_within(&domain("example.org")));
        assert!(!domain("example.org").is_within(&name));
    }
}
