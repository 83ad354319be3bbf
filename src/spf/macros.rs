//! Macros of SPF records (RFC 7208 §7): read once with the record, expanded for each message.
//!
//! The letters `c`, `r` and `t` are for explanations alone (§7.2). The gate fetches none, so that they are known here
//! only to be refused in a domain. Pure.

use std::net::IpAddr;

use crate::domain;

/// A domain with macros in it, as terms have it after their colon or equals sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    parts: Box<[Part]>,
}

/// Why a text is no domain with macros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MacroError {
    /// A percent sign that begins nothing.
    #[error("stray percent sign")]
    StrayPercent,
    /// No letter, or one that is no macro.
    #[error("unknown macro letter")]
    UnknownLetter,
    /// `c`, `r` or `t` outside of an explanation.
    #[error("macro letter that only explanations may have")]
    ExplanationLetter,
    /// Something after the letter that is neither a number, `r`, nor a delimiter.
    #[error("bad macro transformer")]
    BadTransformer,
    /// No label may be kept.
    #[error("macro that keeps no part")]
    KeepsNothing,
    /// A character that macro strings do not have.
    #[error("character not allowed")]
    BadCharacter,
    /// Neither a label that a top-level domain may have nor a macro, `%%`, `%_` or `%-` stands at the end.
    #[error("domain does not end in a top label or a macro")]
    BadEnd,
}

/// What the letters stand for.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The address of the client, not IPv4-mapped.
    pub ip: IpAddr,
    /// The local part of the sender; `postmaster` if there is none.
    pub local_part: &'a str,
    /// The domain of the sender.
    pub sender_domain: &'a str,
    /// The domain whose record is evaluated.
    pub domain: &'a str,
    /// The EHLO name.
    pub helo: &'a str,
    /// The validated name of the client, or `unknown`.
    pub validated_name: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    /// What `%%`, `%_` or `%-` stands for.
    Escape(&'static str),
    Macro(Macro),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Macro {
    letter: Letter,
    /// How many parts are kept, from the right; none: all.
    keep: Option<usize>,
    reverse: bool,
    /// Empty: the dot.
    delimiters: Box<str>,
    /// Whether the letter was a capital: octets other than unreserved ones are percent-encoded.
    url_escape: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letter {
    Sender,
    LocalPart,
    SenderDomain,
    Domain,
    Ip,
    ValidatedName,
    Version,
    Helo,
    /// `c`, `r`, `t`.
    ExplanationOnly,
}

impl DomainSpec {
    /// Reads a `domain-spec` (RFC 7208 §7.1).
    ///
    /// # Errors
    ///
    /// The record is wrong: permerror.
    pub fn parse(text: &str) -> Result<Self, MacroError> {
        let parts = parse_parts(text)?;
        let explanation = |part: &Part| matches!(part, Part::Macro(m) if m.letter == Letter::ExplanationOnly);
        if parts.iter().any(explanation) {
            return Err(MacroError::ExplanationLetter);
        }
        let ends_well = match parts.last() {
            Some(Part::Macro(_) | Part::Escape(_)) => true,
            Some(Part::Literal(text)) => ends_in_top_label(text),
            None => false,
        };
        if !ends_well {
            return Err(MacroError::BadEnd);
        }
        Ok(Self { parts: parts.into() })
    }

    /// Whether `values.validated_name` is needed: it costs look-ups.
    pub fn wants_validated_name(&self) -> bool {
        self.has_letter(|letter| letter == Letter::ValidatedName)
    }

    /// Whether `values.local_part` is needed, which may be no name for DNS.
    pub fn wants_local_part(&self) -> bool {
        self.has_letter(|letter| matches!(letter, Letter::Sender | Letter::LocalPart))
    }

    fn has_letter(&self, is_it: impl Fn(Letter) -> bool) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Macro(m) if is_it(m.letter)))
    }

    /// The name that the text stands for, without a trailing dot. If it is longer than DNS takes, labels are dropped
    /// from the left (RFC 7208 §7.3).
    pub fn expand(&self, values: &Values<'_>) -> String {
        let mut name = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => name.push_str(text),
                Part::Escape(text) => name.push_str(text),
                Part::Macro(m) => m.expand(values, &mut name),
            }
        }
        if name.ends_with('.') {
            name.pop();
        }
        truncate(name)
    }
}

/// Checks a `macro-string`, as unknown modifiers have it (RFC 7208 §6.4). It may be empty.
///
/// # Errors
///
/// The record is wrong: permerror.
pub fn check_macro_string(text: &str) -> Result<(), MacroError> {
    parse_parts(text).map(drop)
}

fn parse_parts(text: &str) -> Result<Vec<Part>, MacroError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first != '%' {
            if !first.is_ascii_graphic() {
                return Err(MacroError::BadCharacter);
            }
            literal.push(first);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let (part, length) = match rest.as_bytes().get(1) {
            Some(b'%') => (Part::Escape("%"), 2),
            Some(b'_') => (Part::Escape(" "), 2),
            Some(b'-') => (Part::Escape("%20"), 2),
            Some(b'{') => {
                let end = rest.find('}').ok_or(MacroError::StrayPercent)?;
                (Part::Macro(Macro::parse(rest.get(2..end).unwrap_or_default())?), end + 1)
            }
            _ => return Err(MacroError::StrayPercent),
        };
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal).into()));
        }
        parts.push(part);
        rest = rest.get(length..).unwrap_or_default();
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts)
}

impl Macro {
    /// Reads what stands between the braces: `macro-letter transformers *delimiter`.
    fn parse(text: &str) -> Result<Self, MacroError> {
        let first = text.chars().next().ok_or(MacroError::UnknownLetter)?;
        let letter = match first.to_ascii_lowercase() {
            's' => Letter::Sender,
            'l' => Letter::LocalPart,
            'o' => Letter::SenderDomain,
            'd' => Letter::Domain,
            'i' => Letter::Ip,
            'p' => Letter::ValidatedName,
            'v' => Letter::Version,
            'h' => Letter::Helo,
            'c' | 'r' | 't' => Letter::ExplanationOnly,
            _ => return Err(MacroError::UnknownLetter),
        };
        let rest = text.get(1..).unwrap_or_default();
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, rest) = rest.split_at(digits);
        let keep = match digits {
            "" => None,
            // A number too large to hold keeps everything, as every number above the count of parts does.
            digits => Some(digits.parse().unwrap_or(usize::MAX)),
        };
        if keep == Some(0) {
            return Err(MacroError::KeepsNothing);
        }
        let (reverse, delimiters) = match rest.strip_prefix(['r', 'R']) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if !delimiters.chars().all(|c| DELIMITERS.contains(c)) {
            return Err(MacroError::BadTransformer);
        }
        Ok(Self { letter, keep, reverse, delimiters: delimiters.into(), url_escape: first.is_ascii_uppercase() })
    }

    fn expand(&self, values: &Values<'_>, out: &mut String) {
        let value = self.letter.value(values);
        let value = self.transform(&value);
        if self.url_escape {
            url_escape(&value, out);
        } else {
            out.push_str(&value);
        }
    }

    /// Splits at the delimiters, reverses, keeps the rightmost parts, joins by dots (RFC 7208 §7.3).
    fn transform(&self, value: &str) -> String {
        if self.keep.is_none() && !self.reverse && self.delimiters.is_empty() {
            return value.to_owned();
        }
        let delimiters = if self.delimiters.is_empty() { "." } else { &*self.delimiters };
        let mut parts = value.split(|c| delimiters.contains(c)).collect::<Vec<_>>();
        if self.reverse {
            parts.reverse();
        }
        let surplus = self.keep.map_or(0, |keep| parts.len().saturating_sub(keep));
        parts.get(surplus..).unwrap_or_default().join(".")
    }
}

impl Letter {
    fn value(self, values: &Values<'_>) -> String {
        match self {
            Self::Sender => format!("{}@{}", values.local_part, values.sender_domain),
            Self::LocalPart => values.local_part.to_owned(),
            Self::SenderDomain => values.sender_domain.to_owned(),
            Self::Domain => values.domain.to_owned(),
            Self::Ip => dotted(values.ip),
            Self::ValidatedName => values.validated_name.to_owned(),
            Self::Version => if values.ip.is_ipv4() { "in-addr" } else { "ip6" }.to_owned(),
            Self::Helo => values.helo.to_owned(),
            // Refused by `DomainSpec::parse`.
            Self::ExplanationOnly => String::new(),
        }
    }
}

/// An address as `%{i}` has it: dotted octets, or dotted nibbles for IPv6.
fn dotted(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
            nibbles.map(|nibble| format!("{nibble:x}")).collect::<Vec<_>>().join(".")
        }
    }
}

/// Encodes all but the unreserved characters of RFC 3986 §2.3.
fn url_escape(text: &str, out: &mut String) {
    for octet in text.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(char::from(octet));
        } else {
            out.push_str(&format!("%{octet:02X}"));
        }
    }
}

/// Drops labels from the left until the name fits into DNS (RFC 7208 §7.3). A single label that does not fit stays: no such name
/// exists.
fn truncate(name: String) -> String {
    let mut rest = name.as_str();
    while rest.len() > domain::MAX_LENGTH {
        match rest.split_once('.') {
            Some((_, right)) => rest = right,
            None => break,
        }
    }
    if rest.len() == name.len() { name } else { rest.to_owned() }
}

/// Whether the text ends in `"." toplabel [ "." ]`.
fn ends_in_top_label(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.rsplit_once('.').is_some_and(|(_, label)| is_top_label(label))
}

/// Letters, digits and inner hyphens, and not digits alone.
fn is_top_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.bytes().all(|b| b.is_ascii_digit())
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// RFC 7208 §7.1.
const DELIMITERS: &str = ".-+,/_=";

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values<'static> {
        Values {
            ip: "192.0.2.3".parse().unwrap(),
            local_part: "strong-bad",
            sender_domain: "email.example.com",
            domain: "email.example.com",
            helo: "mx.example.org",
            validated_name: "mx.example.org",
        }
    }

    fn expand(text: &str, values: &Values<'_>) -> String {
        DomainSpec::parse(text).expect(text).expand(values)
    }

    #[test]
    fn letters_and_transformers() {
        // The first ones are the examples of RFC 7208 §7.4.
        let cases = [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d3}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
            ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
            ("%{h}.%{p}", "mx.example.org.mx.example.org"),
            ("%{D2}", "example.com"),
            ("%{S}.example", "strong-bad%40email.example.com.example"),
            ("%{d99999999999999999999999}", "email.example.com"),
            ("%{l-}.%{lR-}", "strong.bad.bad.strong"),
            ("a%%b%_c%-d.example.", "a%b c%20d.example"),
            ("%{d}.a%%%_%-", "email.example.com.a% %20"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, &values()), expected, "{text}");
        }
    }

    #[test]
    fn addresses_of_ipv6_are_dotted_nibbles() {
        let values = Values { ip: "2001:db8::cb01".parse().unwrap(), ..values() };
        assert_eq!(
            expand("%{ir}.%{v}._spf.%{d2}", &values),
            "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
        );
    }

    #[test]
    fn several_delimiters_split_alike_and_empty_parts_stay() {
        let values = Values { local_part: "a-b+c_d..e", ..values() };
        assert_eq!(expand("%{l2-+_}.x.example", &values), "c.d..e.x.example");
        assert_eq!(expand("%{l.}.x.example", &values), "a-b+c_d..e.x.example");
    }

    #[test]
    fn names_that_are_too_long_lose_labels_on_the_left() {
        let long = format!("{}end", "abcdefghi.".repeat(25));
        let values = Values { local_part: &long, ..values() };
        let name = expand("%{l}.example.com", &values);
        assert!(name.len() <= 253 && name.len() > 243, "{}", name.len());
        assert!(name.starts_with("abcdefghi.") && name.ends_with("end.example.com"), "{name}");
        let single = "x".repeat(300);
        assert_eq!(truncate(single.clone()), single);
    }

    #[test]
    fn what_is_no_domain_with_macros_is_refused() {
        let cases = [
            ("", MacroError::BadEnd),
            ("com", MacroError::BadEnd),
            ("com.", MacroError::BadEnd),
            ("example.111", MacroError::BadEnd),
            ("example.-com", MacroError::BadEnd),
            ("example.com-", MacroError::BadEnd),
            ("example.c_m", MacroError::BadEnd),
            ("example.com..", MacroError::BadEnd),
            ("example.com%%x", MacroError::BadEnd),
            ("example.com%%_", MacroError::BadEnd),
            ("example.%-com", MacroError::BadEnd),
            ("example.com/24", MacroError::BadEnd),
            ("%{d}x", MacroError::BadEnd),
            ("%{d", MacroError::StrayPercent),
            ("%", MacroError::StrayPercent),
            ("a%b.example", MacroError::StrayPercent),
            ("%{}", MacroError::UnknownLetter),
            ("%{x}", MacroError::UnknownLetter),
            ("%{é}", MacroError::UnknownLetter),
            ("%{d0}", MacroError::KeepsNothing),
            ("%{d00}", MacroError::KeepsNothing),
            ("%{dr2}", MacroError::BadTransformer),
            ("%{d*}", MacroError::BadTransformer),
            ("%{d-r}", MacroError::BadTransformer),
            ("%{c}", MacroError::ExplanationLetter),
            ("%{R}.example.com", MacroError::ExplanationLetter),
            ("%{t}", MacroError::ExplanationLetter),
            ("exämple.com", MacroError::BadCharacter),
            ("a b.example", MacroError::BadCharacter),
        ];
        for (text, expected) in cases {
            assert_eq!(DomainSpec::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn ends_of_domains() {
        for text in [
            "a.com",
            "a.com.",
            ".com",
            "a.c-m",
            "a.xn--p1ai",
            "a.1a",
            "x%{d}",
            "a..com",
            "a/b.com",
            "%{d}.com",
            "a.com%%",
            "a%_",
            "%-",
            "a%%.com",
            "%%%%",
        ] {
            assert!(DomainSpec::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn macro_strings_may_be_anything_well_formed() {
        for text in ["", "x", "%{c}%{r}%{t}", "a=b/c:d", "%%%_%-"] {
            assert!(check_macro_string(text).is_ok(), "{text}");
        }
        for text in ["%", "%a", "%{z}", "%{d0}", "\u{e9}"] {
            assert!(check_macro_string(text).is_err(), "{text}");
        }
    }
}
