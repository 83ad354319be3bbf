//! How a name server is written down: an address in the clear, over TLS (RFC 7858) or over HTTPS (RFC 8484).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::domain::Domain;

/// A name server and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Where it listens; never port 0.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub link: Link,
}

/// How a name server is spoken to. What is encrypted never falls back to the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// UDP, and TCP where an answer needs it.
    Clear,
    /// DNS over TLS.
    Tls {
        /// What its certificate has to be for.
        name: Domain,
    },
    /// DNS over HTTPS, by HTTP/2.
    Https {
        /// What its certificate has to be for.
        name: Domain,
        /// The path, which begins with a slash.
        path: Box<str>,
    },
}

/// What [`NameServer::parse`] reads, for messages about what it does not.
pub const FORMS: &str = r#"an address such as "192.0.2.53", "192.0.2.53:5353" or "[2001:db8::53]:53", "tls://192.0.2.53:853#dns.example.net" or "https://192.0.2.53/dns-query#dns.example.net""#;

impl NameServer {
    /// Reads `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:53`, `tls://ADDRESS#NAME` or `https://ADDRESS/PATH#NAME`,
    /// where ADDRESS is one of the first three forms (IPv6 in brackets in `https:`). The address comes first because
    /// there is nobody to ask for it; the name is what the certificate is verified for.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("tls://") {
            let (address, name) = rest.split_once('#')?;
            let name = Domain::parse(name).ok()?;
            return Some(Self { address: address_of(address, TLS_PORT)?, link: Link::Tls { name } });
        }
        if let Some(rest) = text.strip_prefix("https://") {
            let (rest, name) = rest.split_once('#')?;
            let name = Domain::parse(name).ok()?;
            let (address, path) = rest.split_at_checked(rest.find('/')?)?;
            if path.len() > MAX_PATH || !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~".contains(&b)) {
                return None;
            }
            let link = Link::Https { name, path: path.into() };
            return Some(Self { address: address_of(address, HTTPS_PORT)?, link });
        }
        address_of(text, DNS_PORT).map(Self::from)
    }

    /// Whether nobody on the way can read or change what is said.
    pub fn is_encrypted(&self) -> bool {
        self.link != Link::Clear
    }
}

impl From<SocketAddr> for NameServer {
    fn from(address: SocketAddr) -> Self {
        Self { address, link: Link::Clear }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match &self.link {
            Link::Clear => write!(f, "{address}"),
            Link::Tls { name } => write!(f, "tls://{address}#{name}"),
            Link::Https { name, path } => write!(f, "https://{address}{path}#{name}"),
        }
    }
}

fn address_of(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    address.or_else(|_| text.parse()).ok().filter(|address| address.port() != 0)
}

/// RFC 1035 §4.2.
const DNS_PORT: u16 = 53;
/// RFC 7858 §3.1.
const TLS_PORT: u16 = 853;
/// RFC 8484 §4.1: that of HTTPS.
const HTTPS_PORT: u16 = 443;
/// Octets of a path.
const MAX_PATH: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_and_shown() {
        let cases = [
            ("192.0.2.53", Some("192.0.2.53:53")),
            ("192.0.2.53:5353", Some("192.0.2.53:5353")),
            ("2001:db8::53", Some("[2001:db8::53]:53")),
            ("[2001:db8::53]", Some("[2001:db8::53]:53")),
            ("[2001:db8::53]:5353", Some("[2001:db8::53]:5353")),
            ("tls://192.0.2.53#dns.example.net", Some("tls://192.0.2.53:853#dns.example.net")),
            ("tls://192.0.2.53:8853#DNS.Example.net", Some("tls://192.0.2.53:8853#dns.example.net")),
            ("tls://[2001:db8::53]#dns.example.net", Some("tls://[2001:db8::53]:853#dns.example.net")),
            ("https://192.0.2.53/dns-query#dns.example.net", Some("https://192.0.2.53:443/dns-query#dns.example.net")),
            ("https://[2001:db8::53]:8443/q/1#dns.example", Some("https://[2001:db8::53]:8443/q/1#dns.example")),
            ("dns.example", None),
            ("192.0.2.53:0", None),
            ("tls://192.0.2.53", None),
            ("tls://192.0.2.53#", None),
            ("tls://dns.example.net#dns.example.net", None),
            ("tls://192.0.2.53/path#dns.example.net", None),
            ("https://192.0.2.53#dns.example.net", None),
            ("https://192.0.2.53/dns-query", None),
            ("https://192.0.2.53/a b#dns.example.net", None),
            ("https://192.0.2.53/q{?dns}#dns.example.net", None),
            ("http://192.0.2.53/dns-query#dns.example.net", None),
            ("quic://192.0.2.53#dns.example.net", None),
        ];
        for (text, expected) in cases {
            let server = NameServer::parse(text);
            assert_eq!(server.as_ref().map(ToString::to_string).as_deref(), expected, "{text}");
            if let Some(server) = server {
                assert_eq!(NameServer::parse(&server.to_string()), Some(server), "{text}: what is shown can be read");
            }
        }
    }
}
