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

    /// The domain of the address, if it is a `mailto:`.
    pub fn mail_host(&self) -> Option<Domain> {
        let (scheme, rest) = self.0.split_once(':')?;
        scheme.eq_ignore_ascii_case("mailto").then(|| mailbox(rest)).flatten().map(|(_, domain)| domain)
    }

    /// The host: that of the address or of the authority (RFC 3986 §3.2.2); none if there is none, or no domain.
    pub fn host(&self) -> Option<Domain> {
        self.mail_host().or_else(|| {
            let (_, rest) = self.0.split_once(':')?;
            let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
            let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
            Domain::parse(place.split(':').next()?).ok()
        })
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
            && (!scheme.eq_ignore_ascii_case("mailto") || mailbox(rest).is_some());
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

/// The address in the part of a `mailto:` before `?`: a local part, and a domain that DNS can have.
///
/// There is no authority (`mailto://a@example.org`), and what is neither text of an atom nor in quotes has to be escaped,
/// as a slash has to be anywhere (RFC 6068 §2). A slash within a local part misleads nobody.
fn mailbox(rest: &str) -> Option<(&str, Domain)> {
    let (local, domain) = rest.split(['?', '#']).next()?.rsplit_once('@')?;
    let is_malformed = local.is_empty() || local.starts_with('/') || local.contains([':', '@']);
    if is_malformed { None } else { Some((local, Domain::parse(domain).ok()?)) }
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
            ("mailto://a@example.org", false),
            ("mailto:/a@example.org", false),
            ("mailto:mailto:a@example.org", false),
            ("mailto:a@b@example.org", false),
            ("mailto:a/b@example.org", true),
            ("mailto:%2Fa@example.org", true),
            ("mailto:a@", false),
            ("mailto:a", false),
            ("mailto:a b@example.org", false),
            ("mailto:a%zz@example.org", false),
            ("a@example.org", false),
            ("1https://example.org", false),
            ("://example.org", false),
            ("x:a[b]", false),
            ("x+y-z.1:a", true),
            ("x_y:a", false),
            ("x:a#b", true),
            ("x:a#b#c", false),
            ("mailto:a%4@example.org", false),
            ("x:a%", false),
            ("mailto:a@example.org!", false),
            ("mailto:a@example.org!k", false),
        ];
        for (text, expected) in cases {
            assert_eq!(ReportUri::parse(text).is_some(), expected, "{text}");
        }
        for (octets, expected) in [(MAX_URI, true), (MAX_URI + 1, false)] {
            let text = format!("x:{}", "a".repeat(octets - 2));
            assert_eq!(ReportUri::parse(&text).is_some(), expected, "{octets} octets");
        }
    }

    #[test]
    fn hosts() {
        let cases = [
            ("mailto:a@Example.org?subject=b@example.net", Some("example.org"), Some("example.org")),
            ("MAILTO:a%40b@example.org", Some("example.org"), Some("example.org")),
            ("https://example.org", None, Some("example.org")),
            ("https://u@v@Example.org:8443/x@y?z", None, Some("example.org")),
            ("https://example.org?x", None, Some("example.org")),
            ("https://example.org#x", None, Some("example.org")),
            ("https://[2001:db8::1]/", None, None),
            ("https:///x", None, None),
            ("tel:+1", None, None),
            ("x:a@example.org", None, None),
        ];
        for (text, mail, any) in cases {
            let uri = ReportUri::parse(text).unwrap();
            let texts = [uri.mail_host(), uri.host()].map(|host| host.map(|host| host.to_string()));
            assert_eq!(texts, [mail, any].map(|host| host.map(str::to_owned)), "{text}");
        }
    }
}
