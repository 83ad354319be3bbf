//! The PROXY protocol header, versions 1 and 2, that a balancer puts before the first octet of a client.

use std::net::SocketAddr;

use ppp::{HeaderResult, PartialResult, v1, v2};

use crate::envelope::unmapped;

/// How far a header could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More octets are needed.
    Incomplete,
    /// A header of this many octets.
    Header(usize, Origin),
    /// Not a header, never one with more octets, or one of something else than a TCP connection.
    Invalid,
}

/// Whom a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A client and the address that it reached.
    Client {
        /// Where it came from.
        source: SocketAddr,
        /// What it reached.
        destination: SocketAddr,
    },
    /// Nobody: v1 UNKNOWN, v2 LOCAL, or a family other than IP. The balancer's own health check.
    Nobody,
}

/// Reads the header at the start of `input`.
pub fn parse(input: &[u8]) -> Parsed {
    let text = V1_START.starts_with(input.get(..V1_START.len()).unwrap_or(input));
    // ppp calls some beginnings of a good line bad, and looks for CRLF behind the line's end: it is shown one whole
    // line.
    let input = match memchr::memchr(b'\n', input) {
        None if text => return if input.len() < V1_MAX { Parsed::Incomplete } else { Parsed::Invalid },
        Some(end) if text && end >= V1_MAX => return Parsed::Invalid,
        Some(end) if text => input.get(..=end).unwrap_or(input),
        _ => input,
    };
    if let Some([high, low]) = input.strip_prefix(V2_START).and_then(|rest| rest.get(2..4))
        && V2_FIXED + usize::from(u16::from_be_bytes([*high, *low])) > MAX_HEADER
    {
        return Parsed::Invalid;
    }
    let result = HeaderResult::parse(input);
    if !text && result.is_incomplete() && input.len() < MAX_HEADER {
        return Parsed::Incomplete;
    }
    match result {
        HeaderResult::V1(Ok(header)) => {
            let origin = match header.addresses {
                v1::Addresses::Tcp4(a) => {
                    client((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
                }
                v1::Addresses::Tcp6(a) => {
                    client((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
                }
                v1::Addresses::Unknown => Origin::Nobody,
            };
            Parsed::Header(header.header.len(), origin)
        }
        HeaderResult::V2(Ok(header)) => {
            let names_client = matches!(header.addresses, v2::Addresses::IPv4(_) | v2::Addresses::IPv6(_));
            let is_tcp = header.protocol == v2::Protocol::Stream;
            let is_datagram = header.protocol == v2::Protocol::Datagram;
            if header.command == v2::Command::Proxy && (is_datagram || (names_client && !is_tcp)) {
                return Parsed::Invalid;
            }
            let origin = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(a)) => {
                    client((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
                }
                (v2::Command::Proxy, v2::Addresses::IPv6(a)) => {
                    client((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
                }
                _ => Origin::Nobody,
            };
            Parsed::Header(header.len(), origin)
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Parsed::Invalid,
    }
}

fn client(source: SocketAddr, destination: SocketAddr) -> Origin {
    Origin::Client { source: unmapped(source), destination: unmapped(destination) }
}

/// How version 1 begins.
const V1_START: &[u8] = b"PROXY ";
/// Octets of a version 1 header with its CRLF.
const V1_MAX: usize = 107;
/// How version 2 begins.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Octets of a version 2 header before its addresses; the last two say how many follow.
const V2_FIXED: usize = 16;
/// Octets of a header with its TLVs: none that is met comes near.
const MAX_HEADER: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str, destination: &str) -> Origin {
        Origin::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    #[test]
    fn headers_are_read_whole() {
        let v4 =
            [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[198, 51, 100, 7, 192, 0, 2, 1, 0x12, 0x67, 0, 25]]
                .concat();
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
        let with_tlv = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10"[..],
            &[198, 51, 100, 7, 192, 0, 2, 1, 0x12, 0x67, 0, 25, 4, 0, 1, 0],
        ]
        .concat();
        let cases: [(&[u8], Origin); 7] = [
            (b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n", named("198.51.100.7:4711", "192.0.2.1:25")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 25\r\n", named("[2001:db8::7]:4711", "[2001:db8::1]:25")),
            (b"PROXY TCP6 ::ffff:198.51.100.7 ::1 1 25\r\n", named("198.51.100.7:1", "[::1]:25")),
            (b"PROXY UNKNOWN\r\n", Origin::Nobody),
            (&v4, named("198.51.100.7:4711", "192.0.2.1:25")),
            (&with_tlv, named("198.51.100.7:4711", "192.0.2.1:25")),
            (&local, Origin::Nobody),
        ];
        for (header, origin) in cases {
            let input = [header, b"EHLO x\r\n"].concat();
            assert_eq!(parse(&input), Parsed::Header(header.len(), origin), "{header:?}");
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Parsed::Incomplete, "{header:?} up to {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        let datagram =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c"[..], &[198, 51, 100, 7, 192, 0, 2, 1, 0x12, 0x67, 0, 25]].concat();
        let cases: [&[u8]; 8] = [
            &datagram,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf1",
            b"EHLO x\r\n",
            b"PROXY TCP4 198.51.100.7\r\n",
            b"PROXY TCP4 198.51.100.700 192.0.2.1 4711 25\r\n",
            b"PROXY TCP5 198.51.100.7 192.0.2.1 4711 25\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\x16\x03\x01",
        ];
        for input in cases {
            assert_eq!(parse(input), Parsed::Invalid, "{input:?}");
        }
        assert_eq!(parse(&[b'P', b'R', b'O', b'X', b'Y', b' '].repeat(1000)), Parsed::Invalid);
    }

    #[test]
    fn a_header_ends_with_its_first_line() {
        for line in ["PROXY UNKNOWN x\n", "PROXY UNKNOWN x\ny\r\n", "PROXY UNKNOWN x\n\0\r\n"] {
            assert_eq!(parse(line.as_bytes()), Parsed::Invalid, "{line:?}");
        }
        let overlong = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_MAX));
        assert_eq!(parse(overlong.as_bytes()), Parsed::Invalid);
    }
}
