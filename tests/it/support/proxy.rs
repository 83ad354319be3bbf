//! PROXY protocol headers, both versions, both ways: written from the specification a second time, so that the gate's
//! library is not tested against itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a PROXY header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its form.
    pub version: ProxyVersion,
    /// Client and server address; `None` for v1 UNKNOWN and v2 LOCAL (health checks).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// The two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyHeader {
    /// A header that names `client`, the server's address being one of documentation.
    pub fn naming(version: ProxyVersion, client: IpAddr) -> Self {
        let server: IpAddr = match client {
            IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 25).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x25).into(),
        };
        Self { version, addresses: Some((SocketAddr::new(client, 40_025), SocketAddr::new(server, 25))) }
    }

    /// A health check's header.
    pub fn without_addresses(version: ProxyVersion) -> Self {
        Self { version, addresses: None }
    }

    /// The octets on the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self.version {
            ProxyVersion::V1 => self.encode_v1(),
            ProxyVersion::V2 => self.encode_v2(),
        }
    }

    /// Reads a header from the beginning of `octets`: how many it takes and what it says, `Ok(None)` while there are
    /// too few.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(octets: &[u8]) -> Result<Option<(usize, Self)>, String> {
        let common = octets.len().min(SIGNATURE.len());
        if octets[..common] == SIGNATURE[..common] && common > 0 {
            return Self::decode_v2(octets);
        }
        match octets.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => Self::decode_v1(&octets[..end]).map(|header| Some((end + 2, header))),
            None if octets.len() > 107 => Err("no PROXY header in the first 107 octets".into()),
            None => Ok(None),
        }
    }

    fn encode_v1(&self) -> Vec<u8> {
        match self.addresses {
            None => b"PROXY UNKNOWN\r\n".to_vec(),
            Some((client, server)) => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (client.ip(), server.ip());
                format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), server.port()).into_bytes()
            }
        }
    }

    fn encode_v2(&self) -> Vec<u8> {
        let mut block = Vec::new();
        let (command, family) = match self.addresses {
            None => (0x20, 0x00),
            Some((client, _)) if client.is_ipv4() => (0x21, 0x11),
            Some(_) => (0x21, 0x21),
        };
        if let Some((client, server)) = self.addresses {
            for address in [client, server] {
                match address.ip() {
                    IpAddr::V4(ip) => block.extend(ip.octets()),
                    IpAddr::V6(ip) => block.extend(ip.octets()),
                }
            }
            block.extend(client.port().to_be_bytes());
            block.extend(server.port().to_be_bytes());
        }
        let length = u16::try_from(block.len()).expect("36 octets at most");
        [&SIGNATURE[..], &[command, family], &length.to_be_bytes(), &block].concat()
    }

    fn decode_v1(line: &[u8]) -> Result<Self, String> {
        let line = std::str::from_utf8(line).map_err(|e| e.to_string())?;
        let words: Vec<_> = line.split(' ').collect();
        match words.as_slice() {
            ["PROXY", "UNKNOWN", ..] => Ok(Self::without_addresses(ProxyVersion::V1)),
            ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
                let (client, server) = (socket_address(from, from_port)?, socket_address(to, to_port)?);
                if client.is_ipv4() != (*family == "TCP4") || server.is_ipv4() != client.is_ipv4() {
                    return Err(format!("family and addresses differ: {line:?}"));
                }
                Ok(Self { version: ProxyVersion::V1, addresses: Some((client, server)) })
            }
            _ => Err(format!("no PROXY header: {line:?}")),
        }
    }

    fn decode_v2(octets: &[u8]) -> Result<Option<(usize, Self)>, String> {
        let Some(fixed) = octets.get(..16) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        let Some(block) = octets.get(16..16 + length) else { return Ok(None) };
        let ip4 = |at: usize| -> IpAddr { Ipv4Addr::from_octets(block[at..at + 4].try_into().expect("4")).into() };
        let ip6 = |at: usize| -> IpAddr { Ipv6Addr::from_octets(block[at..at + 16].try_into().expect("16")).into() };
        let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
        let addresses = match (fixed[12], fixed[13]) {
            (0x20, _) => None,
            (0x21, 0x11) if length >= 12 => Some((SocketAddr::new(ip4(0), port(8)), SocketAddr::new(ip4(4), port(10)))),
            (0x21, 0x21) if length >= 36 => {
                Some((SocketAddr::new(ip6(0), port(32)), SocketAddr::new(ip6(16), port(34))))
            }
            (command, family) => return Err(format!("command {command:#x}, family {family:#x}, length {length}")),
        };
        Ok(Some((16 + length, Self { version: ProxyVersion::V2, addresses })))
    }
}

fn socket_address(ip: &str, port: &str) -> Result<SocketAddr, String> {
    let ip = ip.parse::<IpAddr>().map_err(|e| format!("{ip:?}: {e}"))?;
    let port = port.parse::<u16>().map_err(|e| format!("{port:?}: {e}"))?;
    Ok(SocketAddr::new(ip, port))
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
