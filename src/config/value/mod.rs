//! The kinds of value in the file: how each is read, what is allowed, and how it is written back.

mod reply;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use toml::Spanned;
use toml::de::DeValue;

use crate::calendar::Date;
use crate::config::LogLevel;
use crate::config::problem::suggestion;
use crate::dns::{NameServer, server};
use crate::domain::Domain;
use crate::hex::hex;
use crate::label::Label;
use crate::message::base64;
use crate::policy::corroboration::Sign;
use crate::store::Location;
use crate::tls::{ClientFingerprint, Pin};

/// A kind of value.
pub trait Setting: Sized {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// What is expected instead, for each place that is wrong.
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>>;

    /// The value as TOML.
    fn show(&self) -> String;
}

/// A value that is not allowed.
#[derive(Debug)]
pub struct ValueFault {
    /// Where it stands in the text.
    pub span: Range<usize>,
    /// What is allowed instead.
    pub expected: String,
}

/// A number of octets, written "4096B", "64KiB", "50MiB" or "2GiB".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMore<T>(pub Vec<T>);

/// A server: a name or an address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Name or address.
    pub host: Host,
    /// Port; never 0.
    pub port: u16,
}

/// Name or address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address; IPv6 is written in brackets.
    Address(IpAddr),
    /// A name, looked up when a connection is made.
    Name(Domain),
}

/// Where the public suffix list comes from: `https:`, or `http:` on loopback, where nobody can change it under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListUrl(pub String);

/// Where DNS is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsServer(pub NameServer);

/// A mail address, or the local part alone; lower case. That a local part's case matters somewhere (RFC 5321 §2.4) is
/// of no use to who writes a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Before the `@`.
    pub local_part: String,
    /// After it; none where every domain is meant.
    pub domain: Option<Domain>,
}

/// An entry of `smtp.recipient_domains`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientDomain {
    /// `*`.
    Any,
    /// A domain, without its subdomains.
    Domain(Domain),
}

/// One of the signs that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchableSign(pub Sign);

/// An entry of `reports.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// A domain, with all below it.
    Domain(Domain),
    /// An address, lower case.
    Address(String),
}

/// An entry of `log.modules`: what is written of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleLevel {
    /// The module, of `LOG_MODULES`.
    pub module: &'static str,
    /// The least important lines.
    pub level: LogLevel,
}

/// The modules that have something to say.
const LOG_MODULES: [&str; 14] = [
    "admin",
    "app",
    "cli",
    "dns",
    "evaluation",
    "explain",
    "listener",
    "process",
    "report",
    "session",
    "store",
    "suffix_list",
    "tls",
    "upstream",
];

/// Reads a string by `parse`.
fn text<T>(
    value: &Spanned<DeValue<'_>>,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, Vec<ValueFault>> {
    value.get_ref().as_str().and_then(parse).ok_or_else(|| fault(value, expected))
}

fn fault(value: &Spanned<DeValue<'_>>, expected: impl Into<String>) -> Vec<ValueFault> {
    vec![ValueFault { span: value.span(), expected: expected.into() }]
}

fn quoted(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}

impl<L: Label> Setting for L {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        one_of(value, L::ALL)
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for SwitchableSign {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let mut read = one_of(value, &Sign::SWITCHABLE);
        let why = match value.get_ref().as_str() {
            Some("skipped_signature") => {
                "; skipped_signature is a bound of the gate's own, for which nothing is ever refused: it always counts"
            }
            Some("arc_undecided") => "; arc_undecided goes with arc_chain",
            _ => "",
        };
        if let Err(faults) = &mut read {
            faults.iter_mut().for_each(|fault| fault.expected.push_str(why));
        }
        read.map(Self)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// Reads one of some labels.
fn one_of<L: Label>(value: &Spanned<DeValue<'_>>, labels: &[L]) -> Result<L, Vec<ValueFault>> {
    let text = value.get_ref().as_str();
    if let Some(label) = labels.iter().find(|label| Some(label.as_str()) == text) {
        return Ok(*label);
    }
    let words: Vec<String> = labels.iter().map(|label| quoted(label.as_str())).collect();
    let mut expected = format!("one of {}", words.join(", "));
    if let Some(near) = text.and_then(|text| suggestion(text, labels.iter().map(|label| label.as_str()))) {
        expected.push_str(&format!("; did you mean {}?", quoted(near)));
    }
    Err(fault(value, expected))
}

impl Setting for ModuleLevel {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let expected =
            format!("a module and a level such as \"dns=debug\"; there are the modules {}", LOG_MODULES.join(", "));
        text(value, &expected, |text| {
            let (module, level) = text.split_once('=')?;
            let module = LOG_MODULES.iter().find(|known| **known == module)?;
            let level = LogLevel::parse(level)?;
            Some(Self { module, level })
        })
    }

    fn show(&self) -> String {
        quoted(format!("{}={}", self.module, self.level))
    }
}

impl Setting for ListUrl {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let expected = r#"an address such as "https://publicsuffix.org/list/public_suffix_list.dat""#;
        text(value, expected, |text| is_list_url(text).then(|| Self(text.to_owned())))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

fn is_list_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_local = ["127.0.0.1", "[::1]", "localhost"].iter().any(|host| {
        let port = authority.strip_prefix(host);
        port.is_some_and(|port| port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok()))
    });
    let is_plain = text.bytes().all(|b| b.is_ascii_graphic()) && !authority.is_empty() && !authority.contains('@');
    is_plain && (scheme == "https" || (scheme == "http" && is_local))
}

impl Setting for bool {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        value.get_ref().as_bool().ok_or_else(|| fault(value, "true or false"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let integer = value.get_ref().as_integer();
        integer
            .and_then(|i| u32::from_str_radix(i.as_str(), i.radix()).ok())
            .ok_or_else(|| fault(value, "a whole number without quotes"))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a duration such as "250ms", "30s", "5m", "2h" or "15d""#, parse_duration)
    }

    fn show(&self) -> String {
        if self.is_zero() {
            return quoted("0s");
        }
        let milliseconds = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        quoted(in_largest_unit(milliseconds, DURATION_UNITS))
    }
}

impl Setting for ByteSize {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a size such as "4096B", "64KiB", "50MiB" or "2GiB""#, |text| {
            let (number, unit) = number_and_unit(text)?;
            let (_, octets) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
            number.checked_mul(*octets).map(Self)
        })
    }

    fn show(&self) -> String {
        quoted(in_largest_unit(self.0, SIZE_UNITS))
    }
}

impl Setting for Domain {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a domain name such as "mx.example.net""#, |text| Self::parse(text).ok())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for Date {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a date such as "2027-01-31""#, Self::parse)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for IpNet {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a network such as "192.0.2.0/24" or "2001:db8::/32", or a single address"#, |text| {
            let network = text.parse::<Self>().or_else(|_| text.parse::<IpAddr>().map(Self::from)).ok()?;
            Some(unmapped(network).trunc())
        })
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for SocketAddr {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"an address with a port such as "127.0.0.1:2525" or "[::1]:2525""#, |text| text.parse().ok())
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl DnsServer {
    /// Reads what [`NameServer::parse`] does.
    pub fn parse(text: &str) -> Option<Self> {
        NameServer::parse(text).map(Self)
    }
}

impl Setting for DnsServer {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, server::FORMS, Self::parse)
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Setting for ServerAddress {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a server with a port such as "127.0.0.1:10025", "[::1]:25" or "mail.example.net:25""#, |text| {
            if let Ok(address) = text.parse::<SocketAddr>() {
                return (address.port() != 0)
                    .then(|| Self { host: Host::Address(address.ip().to_canonical()), port: address.port() });
            }
            let (name, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|port| *port != 0)?;
            // "127.0.0.1.:25" or "1.2.3:25" would be looked up as a name; whoever wrote it meant an address.
            let name = Domain::parse(name).ok().filter(|name| !ends_in_digits(name))?;
            Some(Self { host: Host::Name(name), port })
        })
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Address(address) => write!(f, "{}", SocketAddr::new(*address, self.port)),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Setting for Mailbox {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a local part such as "postmaster" or an address such as "abuse@example.net""#, Self::parse)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Mailbox {
    /// Reads `local-part` or `local-part@domain`; quoted local parts are not needed here.
    fn parse(text: &str) -> Option<Self> {
        let (local_part, domain) = match text.rsplit_once('@') {
            Some((local_part, domain)) => (local_part, Some(Domain::parse(domain).ok()?)),
            None => (text, None),
        };
        let sound = |c: char| !c.is_control() && !c.is_whitespace() && !"<>()[]\\,;:@\"".contains(c);
        let length = (1..=MAX_LOCAL_PART).contains(&local_part.len());
        (length && local_part.chars().all(sound)).then(|| Self { local_part: local_part.to_lowercase(), domain })
    }
}

impl std::fmt::Display for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.domain {
            Some(domain) => write!(f, "{}@{domain}", self.local_part),
            None => f.write_str(&self.local_part),
        }
    }
}

impl Setting for RecipientDomain {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a domain name such as "example.net", or "*""#, |text| {
            if text == "*" { Some(Self::Any) } else { Domain::parse(text).ok().map(Self::Domain) }
        })
    }

    fn show(&self) -> String {
        match self {
            Self::Any => quoted("*"),
            Self::Domain(domain) => quoted(domain),
        }
    }
}

impl Setting for Denied {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let is_address = value.get_ref().as_str().is_some_and(|text| text.contains('@'));
        if is_address {
            return Mailbox::read(value).map(|mailbox| Self::Address(mailbox.to_string()));
        }
        text(value, r#"a domain such as "example.net", or an address"#, |text| Domain::parse(text).ok())
            .map(Self::Domain)
    }

    fn show(&self) -> String {
        match self {
            Self::Domain(domain) => quoted(domain),
            Self::Address(address) => quoted(address),
        }
    }
}

impl Setting for PathBuf {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        // A relative path would depend on where the gate was started.
        text(value, "an absolute path", |text| {
            (text.starts_with('/') && !text.contains('\0')).then(|| Self::from(text))
        })
    }

    fn show(&self) -> String {
        quoted(self.display())
    }
}

impl Setting for String {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, "a text of one line, at most 255 octets", |text| {
            (!text.is_empty() && text.len() <= 255 && !text.contains(char::is_control)).then(|| text.to_owned())
        })
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for Location {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let url = value.get_ref().as_str().unwrap_or_default();
        Self::parse(url).map_err(|error| fault(value, error.to_string()))
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let Some(array) = value.get_ref().as_array() else {
            return Err(fault(value, r#"a list such as ["...", "..."]"#));
        };
        let (mut items, mut faults) = (Self::new(), Vec::new());
        for item in array.iter() {
            match T::read(item) {
                Ok(item) => items.push(item),
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(items) } else { Err(faults) }
    }

    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(T::show).collect();
        format!("[{}]", items.join(", "))
    }
}

impl<T: Setting> Setting for OneOrMore<T> {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        if value.get_ref().is_array() {
            return Vec::read(value).map(Self);
        }
        T::read(value).map(|value| Self(vec![value]))
    }

    fn show(&self) -> String {
        match &*self.0 {
            [value] => value.show(),
            _ => self.0.show(),
        }
    }
}

impl Setting for Host {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, r#"a name such as "mail.example.net", or an address"#, |text| {
            if let Ok(address) = text.parse::<IpAddr>() {
                return Some(Self::Address(address.to_canonical()));
            }
            Domain::parse(text).ok().filter(|name| !ends_in_digits(name)).map(Self::Name)
        })
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

impl Setting for Pin {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        text(value, "the SHA-256 of a public key (SubjectPublicKeyInfo), 64 hexadecimal digits or base64", |text| {
            let octets = if text.len() == 2 * PIN && text.bytes().all(|b| b.is_ascii_hexdigit()) {
                from_hex(text)?
            } else {
                base64::decode(text.as_bytes())?
            };
            octets.try_into().ok().map(Self)
        })
    }

    fn show(&self) -> String {
        quoted(hex(&self.0))
    }
}

impl Setting for ClientFingerprint {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ValueFault>> {
        let expected = "the SHA-256 of a certificate, 64 hexadecimal digits with or without colons, as \
                        `openssl x509 -noout -fingerprint -sha256` prints it";
        text(value, expected, Self::parse)
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())).collect()
}

/// Reads "250ms", "30s", "5m", "2h" or "15d".
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let (_, milliseconds) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*milliseconds).map(Duration::from_millis)
}

/// Splits "30s"; no sign, no fraction, no blank.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

fn in_largest_unit(number: u64, units: &[(&str, u64)]) -> String {
    let largest = units.iter().rev().find(|(_, size)| number >= *size && number.is_multiple_of(*size));
    let (name, size) = largest.or(units.first()).copied().unwrap_or(("", 1));
    format!("{}{name}", number / size)
}

/// IPv4 networks written as IPv4-mapped IPv6: clients' addresses are unmapped everywhere.
fn unmapped(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(address) = v6.addr().to_ipv4_mapped()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(address, prefix)
    {
        return IpNet::V4(v4);
    }
    network
}

fn ends_in_digits(name: &Domain) -> bool {
    name.labels().next_back().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()))
}

/// From the smallest up, in milliseconds.
const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// From the smallest up, in octets.
const SIZE_UNITS: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
/// Octets of a SHA-256.
const PIN: usize = 32;
/// The port of DNS.
/// Octets of a local part (RFC 5321 §4.5.3.1.1).
const MAX_LOCAL_PART: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a value reads as and is written back as; none if it is refused.
    fn show<T: Setting>(toml: &str) -> Option<String> {
        T::read(&DeValue::parse(toml).unwrap()).ok().map(|value| value.show())
    }

    #[test]
    fn values_are_read_and_written_back() {
        type Read = fn(&str) -> Option<String>;
        let hex = quoted("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let cases: &[(Read, &str, Option<&str>)] = &[
            (show::<Duration>, r#""250ms""#, Some(r#""250ms""#)),
            (show::<Duration>, r#""120s""#, Some(r#""2m""#)),
            (show::<Duration>, r#""15d""#, Some(r#""15d""#)),
            (show::<Duration>, r#""0s""#, Some(r#""0s""#)),
            (show::<Duration>, "30", None),
            (show::<Duration>, r#""30""#, None),
            (show::<Duration>, r#""30 s""#, None),
            (show::<Duration>, r#""-1s""#, None),
            (show::<Duration>, r#""1.5h""#, None),
            (show::<Duration>, r#""99999999999999999999d""#, None),
            (show::<Duration>, r#""999999999999999999d""#, None),
            (show::<ByteSize>, r#""4096B""#, Some(r#""4KiB""#)),
            (show::<ByteSize>, r#""50MiB""#, Some(r#""50MiB""#)),
            (show::<ByteSize>, r#""50MB""#, None),
            (show::<ByteSize>, "50", None),
            (show::<u32>, "0x10", Some("16")),
            (show::<u32>, "-1", None),
            (show::<u32>, "4294967296", None),
            (show::<IpNet>, r#""192.0.2.77/24""#, Some(r#""192.0.2.0/24""#)),
            (show::<IpNet>, r#""192.0.2.1""#, Some(r#""192.0.2.1/32""#)),
            (show::<IpNet>, r#""2001:db8::1""#, Some(r#""2001:db8::1/128""#)),
            (show::<IpNet>, r#""::ffff:10.0.0.0/104""#, Some(r#""10.0.0.0/8""#)),
            (show::<IpNet>, r#""192.0.2.0/33""#, None),
            (show::<ServerAddress>, r#""127.0.0.1:25""#, Some(r#""127.0.0.1:25""#)),
            (show::<ServerAddress>, r#""[::1]:25""#, Some(r#""[::1]:25""#)),
            (show::<ServerAddress>, r#""postfix:10025""#, Some(r#""postfix:10025""#)),
            (show::<ServerAddress>, r#""127.0.0.1""#, None),
            (show::<ServerAddress>, r#""127.0.0.1:0""#, None),
            (show::<ServerAddress>, r#""127.0.0:25""#, None),
            (show::<ServerAddress>, r#""::1:25""#, None),
            (show::<DnsServer>, r#""192.0.2.53""#, Some(r#""192.0.2.53:53""#)),
            (show::<DnsServer>, r#""2001:db8::53""#, Some(r#""[2001:db8::53]:53""#)),
            (show::<DnsServer>, r#""tls://192.0.2.53#a.example""#, Some(r#""tls://192.0.2.53:853#a.example""#)),
            (show::<DnsServer>, r#""dns.example""#, None),
            (show::<Mailbox>, r#""Postmaster""#, Some(r#""postmaster""#)),
            (show::<Mailbox>, r#""Abuse@Example.NET""#, Some(r#""abuse@example.net""#)),
            (show::<Mailbox>, r#""@example.net""#, None),
            (show::<Mailbox>, r#""a b@example.net""#, None),
            (show::<RecipientDomain>, r#""*""#, Some(r#""*""#)),
            (show::<RecipientDomain>, r#""*.example.net""#, None),
            (show::<PathBuf>, r#""spool""#, None),
            (show::<String>, r#""a\nb""#, None),
            (show::<Vec<u32>>, "[1, 2]", Some("[1, 2]")),
            (show::<Vec<u32>>, "1", None),
            (show::<OneOrMore<u32>>, "1", Some("1")),
            (show::<OneOrMore<u32>>, "[1]", Some("1")),
            (show::<OneOrMore<u32>>, "[1, 2]", Some("[1, 2]")),
            (show::<OneOrMore<u32>>, r#""a""#, None),
            (show::<Host>, r#""Mail.example.net""#, Some(r#""mail.example.net""#)),
            (show::<Host>, r#""2001:DB8::1""#, Some(r#""2001:db8::1""#)),
            (show::<Host>, r#""1.2.3""#, None),
            (show::<Pin>, &hex, Some(&hex)),
            (show::<Pin>, &hex.to_ascii_uppercase(), Some(&hex)),
            (show::<Pin>, r#""47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=""#, Some(&hex)),
            (show::<Pin>, r#""47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuA==""#, None),
            (show::<Pin>, &hex.replacen("e3", "+3", 1), None),
            (show::<bool>, r#""yes""#, None),
        ];
        for (show, text, expected) in cases {
            assert_eq!(show(text).as_deref(), *expected, "{text}");
        }
    }

    #[test]
    fn each_wrong_item_of_a_list_is_named() {
        let value = DeValue::parse(r#"["192.0.2.0/24", "x", "y"]"#).unwrap();
        let spans: Vec<_> = Vec::<IpNet>::read(&value).unwrap_err().into_iter().map(|fault| fault.span).collect();
        assert_eq!(spans, [17..20, 22..25]);
    }
}
