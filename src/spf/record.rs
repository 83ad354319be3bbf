//! SPF records (RFC 7208 §4.5, §4.6, §5, §6): from the TXT records of a name to terms.
//!
//! Strict by the grammar of RFC 7208 §12: one error anywhere makes the whole record a permerror, whatever stands
//! before it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::macros::{DomainSpec, MacroError, check_macro_string};

/// What the TXT records of a name say about SPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// None of them is an SPF record.
    Absent,
    /// More than one is (RFC 7208 §4.5): permerror.
    Several,
    /// One is.
    One {
        /// As published, cut to a bound, with octets that can't be printed as `\xNN`; shared, since each message that
        /// uses the record keeps it.
        text: Arc<str>,
        /// Its terms.
        record: Result<Record, SyntaxError>,
    },
}

/// The terms of a record, in the order of the record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// The mechanisms with their qualifiers.
    pub directives: Vec<Directive>,
    /// `redirect=` (RFC 7208 §6.1).
    pub redirect: Option<Redirect>,
}

/// A mechanism and what a match of it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// What a match means.
    pub qualifier: Qualifier,
    /// What matches.
    pub mechanism: Mechanism,
    /// As published, cut to a bound; printable ASCII.
    pub text: Box<str>,
}

/// The modifier `redirect=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// Whose record takes over.
    pub domain: DomainSpec,
    /// As published, cut to a bound; printable ASCII.
    pub text: Box<str>,
}

/// The signs before mechanisms (RFC 7208 §4.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qualifier {
    /// `+`, or none.
    Pass,
    /// `-`
    Fail,
    /// `~`
    SoftFail,
    /// `?`
    Neutral,
}

/// The mechanisms (RFC 7208 §5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mechanism {
    /// `all`
    All,
    /// `include:`
    Include(DomainSpec),
    /// `a`, of the given domain or the record's own.
    A(Option<DomainSpec>, Prefix),
    /// `mx`
    Mx(Option<DomainSpec>, Prefix),
    /// `ptr`
    Ptr(Option<DomainSpec>),
    /// `ip4:`
    Ip4(Ipv4Addr, u8),
    /// `ip6:`
    Ip6(Ipv6Addr, u8),
    /// `exists:`
    Exists(DomainSpec),
}

/// How many leading bits of an address must agree (`dual-cidr-length`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// 0 to 32.
    pub ip4: u8,
    /// 0 to 128.
    pub ip6: u8,
}

/// Why a record can't be read. The domain owner's fault: permerror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// An octet beyond ASCII, or a control character.
    #[error("character that is not printable ASCII")]
    BadCharacter,
    /// Neither a mechanism nor a modifier.
    #[error("unknown mechanism")]
    UnknownMechanism,
    /// A mechanism lacks the argument that it needs, or has one that it can't have.
    #[error("mechanism with a wrong argument")]
    BadArgument,
    /// The address of `ip4:` or `ip6:`.
    #[error("bad network address")]
    BadAddress,
    /// A prefix length that is no number, too large or written with leading zeros.
    #[error("bad prefix length")]
    BadPrefix,
    /// More terms or macros than a record is read for.
    #[error("too many terms or macros")]
    TooLong,
    /// `redirect=` or `exp=` twice (RFC 7208 §6).
    #[error("modifier given twice")]
    RepeatedModifier,
    /// A domain or a macro.
    #[error("bad domain or macro: {0}")]
    BadDomain(#[from] MacroError),
}

impl Published {
    /// Picks the SPF record out of the TXT records of a name (RFC 7208 §4.5) and reads it.
    pub fn read(texts: &[Box<[u8]>]) -> Self {
        let mut records = texts.iter().filter_map(|text| Some((text, terms(text)?)));
        match (records.next(), records.next()) {
            (None, _) => Self::Absent,
            (Some(_), Some(_)) => Self::Several,
            (Some((text, terms)), None) => Self::One { text: printable(text), record: Record::parse(terms) },
        }
    }
}

impl Record {
    /// Reads what follows `v=spf1`.
    fn parse(terms: &[u8]) -> Result<Self, SyntaxError> {
        let printable = terms.iter().all(|octet| *octet == b' ' || octet.is_ascii_graphic());
        let terms = std::str::from_utf8(terms).ok().filter(|_| printable).ok_or(SyntaxError::BadCharacter)?;
        let words = || terms.split(' ').filter(|term| !term.is_empty());
        if words().nth(MAX_TERMS).is_some() || terms.matches('%').nth(MAX_MACROS).is_some() {
            return Err(SyntaxError::TooLong);
        }
        let mut record = Self::default();
        let mut explained = false;
        // Terms are separated by one or more spaces, and by nothing else (RFC 7208 §4.6.1).
        for term in words() {
            let Some((name, value)) = modifier(term) else {
                record.directives.push(Directive::parse(term)?);
                continue;
            };
            if name.eq_ignore_ascii_case("redirect") {
                let redirect = Redirect { domain: DomainSpec::parse(value)?, text: cut(term, MAX_TERM) };
                if record.redirect.replace(redirect).is_some() {
                    return Err(SyntaxError::RepeatedModifier);
                }
            } else if name.eq_ignore_ascii_case("exp") {
                // The gate shows senders no text of others: checked, never fetched.
                DomainSpec::parse(value)?;
                if std::mem::replace(&mut explained, true) {
                    return Err(SyntaxError::RepeatedModifier);
                }
            } else {
                check_macro_string(value)?;
            }
        }
        Ok(record)
    }
}

impl Directive {
    fn parse(term: &str) -> Result<Self, SyntaxError> {
        let (qualifier, rest) = match term.as_bytes().first() {
            Some(b'+') => (Qualifier::Pass, term.get(1..)),
            Some(b'-') => (Qualifier::Fail, term.get(1..)),
            Some(b'~') => (Qualifier::SoftFail, term.get(1..)),
            Some(b'?') => (Qualifier::Neutral, term.get(1..)),
            _ => (Qualifier::Pass, Some(term)),
        };
        let mechanism = Mechanism::parse(rest.unwrap_or_default())?;
        Ok(Self { qualifier, mechanism, text: cut(term, MAX_TERM) })
    }
}

impl Mechanism {
    fn parse(text: &str) -> Result<Self, SyntaxError> {
        let end = text.find([':', '/']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let argument = rest.strip_prefix(':');
        match name.to_ascii_lowercase().as_str() {
            "all" if rest.is_empty() => Ok(Self::All),
            "include" => Ok(Self::Include(required(argument)?)),
            "exists" => Ok(Self::Exists(required(argument)?)),
            "a" => Prefix::after(rest).and_then(|(rest, prefix)| Ok(Self::A(optional(rest)?, prefix))),
            "mx" => Prefix::after(rest).and_then(|(rest, prefix)| Ok(Self::Mx(optional(rest)?, prefix))),
            "ptr" => Ok(Self::Ptr(optional(rest)?)),
            "ip4" => {
                let (ip, prefix) = network(argument.ok_or(SyntaxError::BadArgument)?, 32)?;
                ip.parse().map(|ip| Self::Ip4(ip, prefix)).map_err(|_| SyntaxError::BadAddress)
            }
            "ip6" => {
                let (ip, prefix) = network(argument.ok_or(SyntaxError::BadArgument)?, 128)?;
                ip.parse().map(|ip| Self::Ip6(ip, prefix)).map_err(|_| SyntaxError::BadAddress)
            }
            "all" => Err(SyntaxError::BadArgument),
            _ => Err(SyntaxError::UnknownMechanism),
        }
    }
}

impl Prefix {
    /// Whole addresses must agree.
    pub const HOST: Self = Self { ip4: 32, ip6: 128 };

    /// Takes a `dual-cidr-length` off the end of `text`: `/24`, `//64` or `/24//64`. A slash within a domain, before
    /// its last label, is left alone.
    fn after(text: &str) -> Result<(&str, Self), SyntaxError> {
        let (text, ip6) = match text.rsplit_once("//") {
            Some((before, digits)) if is_number(digits) => (before, length(digits, 128)?),
            _ => (text, Self::HOST.ip6),
        };
        let (text, ip4) = match text.rsplit_once('/') {
            Some((before, digits)) if is_number(digits) => (before, length(digits, 32)?),
            _ => (text, Self::HOST.ip4),
        };
        Ok((text, Self { ip4, ip6 }))
    }

    /// Whether the first bits of both addresses agree; those of different families never do.
    pub fn covers(self, network: IpAddr, ip: IpAddr) -> bool {
        match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.ip4.min(32))).unwrap_or(0);
                (network.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.ip6.min(128))).unwrap_or(0);
                (network.to_bits() ^ ip.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// What follows the version, if this is an SPF record: `v=spf1`, in any case, then a space or the end.
fn terms(text: &[u8]) -> Option<&[u8]> {
    let (version, rest) = text.split_at_checked(VERSION.len())?;
    (version.eq_ignore_ascii_case(VERSION) && (rest.is_empty() || rest.starts_with(b" "))).then_some(rest)
}

/// Name and value, if the term is a modifier: a name, then an equals sign before any other delimiter.
fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    named.then_some((name, value))
}

/// The domain after the colon.
fn required(argument: Option<&str>) -> Result<DomainSpec, SyntaxError> {
    Ok(DomainSpec::parse(argument.ok_or(SyntaxError::BadArgument)?)?)
}

/// Nothing, or a colon and a domain.
fn optional(rest: &str) -> Result<Option<DomainSpec>, SyntaxError> {
    if rest.is_empty() { Ok(None) } else { required(rest.strip_prefix(':')).map(Some) }
}

/// Address and prefix length of `ip4:` and `ip6:`.
fn network(text: &str, max: u8) -> Result<(&str, u8), SyntaxError> {
    match text.split_once('/') {
        Some((ip, digits)) => Ok((ip, length(digits, max)?)),
        None => Ok((text, max)),
    }
}

fn is_number(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

/// A prefix length: digits without leading zeros, at most `max`.
fn length(digits: &str, max: u8) -> Result<u8, SyntaxError> {
    let well_formed = is_number(digits) && (digits == "0" || !digits.starts_with('0'));
    let value = digits.parse::<u8>().ok().filter(|value| well_formed && *value <= max);
    value.ok_or(SyntaxError::BadPrefix)
}

/// The record's text for people: cut, and with octets that can't be printed as `\xNN`.
fn printable(text: &[u8]) -> Arc<str> {
    let mut out = String::new();
    for octet in text.iter().take(MAX_TEXT) {
        if *octet == b' ' || octet.is_ascii_graphic() {
            out.push(char::from(*octet));
        } else {
            out.push_str(&format!("\\x{octet:02x}"));
        }
    }
    if text.len() > MAX_TEXT {
        out.push_str(CUT);
    }
    out.into()
}

/// A term for people: cut. It is ASCII.
fn cut(term: &str, max: usize) -> Box<str> {
    match term.get(..max) {
        Some(start) if term.len() > max => format!("{start}{CUT}").into(),
        _ => term.into(),
    }
}

const VERSION: &[u8] = b"v=spf1";
/// Terms of one record, beyond which it is a permerror: a term of one letter takes more than a hundred octets once it
/// is read. RFC 7208 sets no bound; records of flattened networks, the longest that are honest, have some two hundred.
const MAX_TERMS: usize = 500;
/// Percent signs of one record, for the same reason.
const MAX_MACROS: usize = 500;
/// Octets of a term that are kept for people; honest ones are far shorter.
const MAX_TERM: usize = 256;
/// Octets of a record that are kept for people: whatever fits into a UDP answer.
const MAX_TEXT: usize = 4096;
/// Says that something was cut.
const CUT: &str = "...";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Record, SyntaxError> {
        match Published::read(&[text.as_bytes().into()]) {
            Published::One { record, .. } => record,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn mechanisms(text: &str) -> Vec<Mechanism> {
        parse(text).expect(text).directives.into_iter().map(|d| d.mechanism).collect()
    }

    fn domain(text: &str) -> DomainSpec {
        DomainSpec::parse(text).unwrap()
    }

    #[test]
    fn the_spf_record_is_told_from_other_texts() {
        let absent = ["", "v=spf10", "v=spf1\t-all", " v=spf1 -all", "v=spf2.0/pra -all", "spf1", "v=spf", "v=DMARC1"];
        for text in absent {
            assert_eq!(Published::read(&[text.as_bytes().into()]), Published::Absent, "{text}");
        }
        for text in ["v=spf1", "v=spf1 ", "V=SPF1  ", "v=spf1 -all", "v=spf1   -all  "] {
            assert!(
                matches!(Published::read(&[text.as_bytes().into()]), Published::One { record: Ok(_), .. }),
                "{text}"
            );
        }
        let texts = |texts: &[&[u8]]| texts.iter().map(|t| (*t).into()).collect::<Vec<Box<[u8]>>>();
        assert_eq!(Published::read(&[]), Published::Absent);
        assert_eq!(Published::read(&texts(&[b"v=spf1 -all", b"V=SPF1 -all"])), Published::Several);
        assert_eq!(Published::read(&texts(&[b"v=spf1 -all", b"v=spf1 -all"])), Published::Several);
        assert!(matches!(
            Published::read(&texts(&[b"\xff\x00", b"v=spf1 -all", b"v=spf10"])),
            Published::One { record: Ok(_), .. }
        ));
    }

    #[test]
    fn a_record_has_a_bounded_number_of_terms_and_macros() {
        let of = |count: usize, term: &str| parse(&format!("v=spf1  {}", term.repeat(count)));
        assert_eq!(of(MAX_TERMS, "a ").unwrap().directives.len(), MAX_TERMS);
        assert!(of(MAX_TERMS, "x=  ").is_ok());
        for (count, term) in [(MAX_TERMS + 1, "a "), (MAX_TERMS + 1, "x=y "), (29_000, "a ")] {
            assert_eq!(of(count, term), Err(SyntaxError::TooLong), "{count} {term}");
        }
        let macros = |count: usize| parse(&format!("v=spf1 a:{}", "%{i}".repeat(count)));
        assert!(macros(MAX_MACROS).is_ok());
        assert_eq!(macros(MAX_MACROS + 1), Err(SyntaxError::TooLong));
    }

    #[test]
    fn mechanisms_and_their_arguments() {
        let host = Prefix::HOST;
        let own = |ip4, ip6| Mechanism::A(None, Prefix { ip4, ip6 });
        let cases = [
            ("all", Mechanism::All),
            ("ALL", Mechanism::All),
            ("include:a.example", Mechanism::Include(domain("a.example"))),
            ("InClude:%{d2}", Mechanism::Include(domain("%{d2}"))),
            ("a", own(32, 128)),
            ("a/24", own(24, 128)),
            ("a//64", own(32, 64)),
            ("a/24//64", own(24, 64)),
            ("a/0//0", own(0, 0)),
            ("A:a.example", Mechanism::A(Some(domain("a.example")), host)),
            ("a:a.example/8", Mechanism::A(Some(domain("a.example")), Prefix { ip4: 8, ip6: 128 })),
            ("a:a.example//8", Mechanism::A(Some(domain("a.example")), Prefix { ip4: 32, ip6: 8 })),
            ("a:a/b.example/8", Mechanism::A(Some(domain("a/b.example")), Prefix { ip4: 8, ip6: 128 })),
            ("a:a:b.example", Mechanism::A(Some(domain("a:b.example")), host)),
            ("a:%{l/}.example", Mechanism::A(Some(domain("%{l/}.example")), host)),
            ("mx", Mechanism::Mx(None, host)),
            ("mx:a.example/8//9", Mechanism::Mx(Some(domain("a.example")), Prefix { ip4: 8, ip6: 9 })),
            ("ptr", Mechanism::Ptr(None)),
            ("ptr:a.example", Mechanism::Ptr(Some(domain("a.example")))),
            ("exists:%{i}.a.example", Mechanism::Exists(domain("%{i}.a.example"))),
            ("ip4:192.0.2.0", Mechanism::Ip4("192.0.2.0".parse().unwrap(), 32)),
            ("ip4:192.0.2.0/24", Mechanism::Ip4("192.0.2.0".parse().unwrap(), 24)),
            ("ip4:192.0.2.0/0", Mechanism::Ip4("192.0.2.0".parse().unwrap(), 0)),
            ("ip6:2001:db8::/32", Mechanism::Ip6("2001:db8::".parse().unwrap(), 32)),
            ("ip6:::1", Mechanism::Ip6("::1".parse().unwrap(), 128)),
            ("ip6:::ffff:192.0.2.1/128", Mechanism::Ip6("::ffff:192.0.2.1".parse().unwrap(), 128)),
        ];
        for (text, expected) in cases {
            assert_eq!(mechanisms(&format!("v=spf1 {text}")), [expected], "{text}");
        }
    }

    #[test]
    fn qualifiers() {
        let record = parse("v=spf1 a +a -a ~a ?a").unwrap();
        let qualifiers = record.directives.iter().map(|d| d.qualifier).collect::<Vec<_>>();
        use Qualifier::{Fail, Neutral, Pass, SoftFail};
        assert_eq!(qualifiers, [Pass, Pass, Fail, SoftFail, Neutral]);
        assert_eq!(&*record.directives[3].text, "~a");
    }

    #[test]
    fn modifiers() {
        let record = parse("v=spf1 redirect=%{d2} -all exp=e.example moo.cow-far_out=man:dog/cat x= a=b").unwrap();
        assert_eq!(record.redirect.map(|r| r.domain), Some(domain("%{d2}")));
        assert_eq!(record.directives.len(), 1);
    }

    #[test]
    fn one_error_anywhere_spoils_the_record() {
        use SyntaxError as E;
        let cases = [
            ("-all ipv4:192.0.2.1", E::UnknownMechanism),
            ("moo", E::UnknownMechanism),
            ("--all", E::UnknownMechanism),
            ("-", E::UnknownMechanism),
            ("9=x", E::UnknownMechanism),
            ("-x=y", E::UnknownMechanism),
            ("=x", E::UnknownMechanism),
            ("all.", E::UnknownMechanism),
            ("all:a.example", E::BadArgument),
            ("all/8", E::BadArgument),
            ("include", E::BadArgument),
            ("include/24", E::BadArgument),
            ("include:", E::BadDomain(MacroError::BadEnd)),
            ("include:a.example/24", E::BadDomain(MacroError::BadEnd)),
            ("exists:", E::BadDomain(MacroError::BadEnd)),
            ("exists:a.example/24", E::BadDomain(MacroError::BadEnd)),
            ("exists", E::BadArgument),
            ("a:", E::BadDomain(MacroError::BadEnd)),
            ("a:/24", E::BadDomain(MacroError::BadEnd)),
            ("a:museum", E::BadDomain(MacroError::BadEnd)),
            ("a:1.2.3.4", E::BadDomain(MacroError::BadEnd)),
            ("a/", E::BadArgument),
            ("a//", E::BadArgument),
            ("a/x", E::BadArgument),
            ("a/33", E::BadPrefix),
            ("a/024", E::BadPrefix),
            ("a/00", E::BadPrefix),
            ("a//129", E::BadPrefix),
            ("a//64/24", E::BadArgument),
            ("a/24/24", E::BadArgument),
            ("a/24/64", E::BadPrefix),
            ("a///24", E::BadArgument),
            ("a/9999999999", E::BadPrefix),
            ("a:a.example/", E::BadDomain(MacroError::BadEnd)),
            ("ptr/24", E::BadArgument),
            ("ptr:", E::BadDomain(MacroError::BadEnd)),
            ("ip4", E::BadArgument),
            ("ip4/24", E::BadArgument),
            ("ip4:", E::BadAddress),
            ("ip4:192.0.2", E::BadAddress),
            ("ip4:192.0.2.1.5", E::BadAddress),
            ("ip4:192.0.2.01", E::BadAddress),
            ("ip4:192.0.2.1:25", E::BadAddress),
            ("ip4:192.0.2.1/33", E::BadPrefix),
            ("ip4:192.0.2.1/032", E::BadPrefix),
            ("ip4:192.0.2.1//32", E::BadPrefix),
            ("ip4:192.0.2.1/", E::BadPrefix),
            ("ip4:::1", E::BadAddress),
            ("ip6:192.0.2.1", E::BadAddress),
            ("ip6:2001:db8::/129", E::BadPrefix),
            ("ip6:2001:db8::1%eth0", E::BadAddress),
            ("ip6:", E::BadAddress),
            ("redirect=", E::BadDomain(MacroError::BadEnd)),
            ("redirect=a.example redirect=a.example", E::RepeatedModifier),
            ("redirect:a.example", E::UnknownMechanism),
            ("exp=", E::BadDomain(MacroError::BadEnd)),
            ("exp=a.example exp=a.example", E::RepeatedModifier),
            ("exp=%{r}.example", E::BadDomain(MacroError::ExplanationLetter)),
            ("x=%{z}", E::BadDomain(MacroError::UnknownLetter)),
            ("a\ta", E::BadCharacter),
            ("a\rptr", E::BadCharacter),
            ("a:\u{e9}.example", E::BadCharacter),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(&format!("v=spf1 {text} -all")), Err(expected), "{text}");
        }
    }

    #[test]
    fn prefixes_cover() {
        let cases = [
            ("192.0.2.1", "192.0.2.1", 32, true),
            ("192.0.2.1", "192.0.2.2", 32, false),
            ("192.0.2.1", "192.0.2.2", 24, true),
            ("192.0.2.1", "198.51.100.1", 0, true),
            ("192.0.2.1", "2001:db8::1", 0, false),
            ("2001:db8::1", "2001:db8::2", 127, false),
            ("2001:db8::2", "2001:db8::3", 127, true),
            ("2001:db8::1", "::1", 0, true),
        ];
        for (network, ip, bits, expected) in cases {
            let prefix = Prefix { ip4: bits, ip6: bits };
            assert_eq!(prefix.covers(network.parse().unwrap(), ip.parse().unwrap()), expected, "{network}/{bits} {ip}");
        }
    }

    #[test]
    fn what_is_kept_for_people_is_printable_and_bounded() {
        let Published::One { text, .. } = Published::read(&[b"v=spf1 a\r\n\xff".as_slice().into()]) else { panic!() };
        assert_eq!(&*text, "v=spf1 a\\x0d\\x0a\\xff");
        let long = format!("v=spf1 exists:{}.example", "x".repeat(10_000));
        let Published::One { text, record } = Published::read(&[long.as_bytes().into()]) else { panic!() };
        assert_eq!(text.len(), MAX_TEXT + CUT.len());
        assert_eq!(record.unwrap().directives[0].text.len(), MAX_TERM + CUT.len());
        // What just fits is whole.
        let fitting = format!("v=spf1 exists:{}.example", "x".repeat(MAX_TERM - "exists:.example".len()));
        let fitting = format!("{fitting}{}", " ".repeat(MAX_TEXT - fitting.len()));
        let Published::One { text, record } = Published::read(&[fitting.as_bytes().into()]) else { panic!() };
        assert_eq!((&*text, &*record.unwrap().directives[0].text), (fitting.as_str(), fitting[7..].trim_end()));
    }
}
