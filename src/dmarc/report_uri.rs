//! Tells valid reporting URIs from other text (RFC 9989 §4.6 and §4.8).
//!
//! They are kept as published: escapes are resolved where a report is sent.

use crate::domain::Domain;

/// A syntactically valid reporting URI as it was published, without the obsolete size limit (RFC 9989 §4.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportUri(Box<str>);

impl ReportUri {
    /// The URI as published.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads one item of `rua` or `ruf`; none if it is no valid URI.
    ///
    /// A `mailto:` needs an address; of other schemes the generic syntax of RFC 3986 is asked, since any valid URI may
    /// stand there (RFC 9989 §4.7).
    pub fn parse(item: &str) -> Option<Self> {
        let uri = without_size_limit(item);
        let (scheme, rest) = uri.split_once(':')?;
        let mut scheme_bytes = scheme.bytes();
        let valid = uri.len() <= MAX_URI
            && scheme_bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && scheme_bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && is_uri_text(rest)
            && (!scheme.eq_ignore_ascii_case("mailto") || names_mailbox(rest));
        valid.then(|| Self(uri.into()))
    }
}

/// Takes off `"!" 1*DIGIT [ "k" / "m" / "g" / "t" ]`, which is obsolete and ignored (RFC 9989 §4.8).
fn without_size_limit(item: &str) -> &str {
    let Some((uri, limit)) = item.rsplit_once('!') else { return item };
    let digits = limit.strip_suffix(|c: char| "kmgtKMGT".contains(c)).unwrap_or(limit);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) { uri } else { item }
}

/// The characters of RFC 3986 with whole escapes, less comma and exclamation point, which must be escaped here.
fn is_uri_text(text: &str) -> bool {
    let mut bytes = text.bytes();
    let mut fragments = 0;
    let in_authority = text.starts_with("//");
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|b| b.is_ascii_hexdigit())),
            b'#' => {
                fragments += 1;
                fragments == 1
            }
            // An IPv6 address of an authority.
            b'[' | b']' => in_authority,
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?@$&'()*+;=".contains(&byte),
        };
        if !fits {
            return false;
        }
    }
    true
}

/// Whether the part of a `mailto:` before `?` is an address: a local part, and a domain that DNS can have.
fn names_mailbox(rest: &str) -> bool {
    let to = rest.split(['?', '#']).next().unwrap_or_default();
    to.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && Domain::parse(domain).is_ok())
}

/// Octets of a URI: an address of 320 octets with escapes and a subject, and some to spare.
const MAX_URI: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reporting_uris() {
        let cases = [
            ("mailto:a@example.org", true),
            ("MAILTO:a@example.org", true),
            ("mailto:a%2Cb@example.org", true),
            ("mailto:a@example.org?subject=x", true),
            ("mailto:a@example.org!50m", true),
            ("mailto:a@example.org!50", true),
            ("https://example.org/dmarc?x=1#y", true),
            ("https://[2001:db8::1]/", true),
            ("mailto:a!b@example.org", false),
            ("mailto:a@example.org!50x", false),
            ("mailto:@example.org", false),
            ("mailto:a@", false),
            ("mailto:a", false),
            ("mailto:a b@example.org", false),
            ("mailto:a%zz@example.org", false),
            ("a@example.org", false),
            ("1https://example.org", false),
            ("://example.org", false),
            ("x:a[b]", false),
        ];
        for (text, expected) in cases {
            assert_eq!(ReportUri::parse(text).is_some(), expected, "{text}");
        }
    }
}
