//! PROXY headers.

use dmarcgate::listener::proxy::{Origin, Parsed, parse};

/// What comes first on a connection from a balancer: a header is found as soon as it has come, and only then.
pub fn proxy(input: &[u8]) {
    match parse(input) {
        Parsed::Header(length, origin) => {
            assert!((1..=input.len()).contains(&length) && length <= MAX_HEADER, "{length}");
            assert_eq!(parse(&input[..length]), Parsed::Header(length, origin), "what follows changes nothing");
            // All cuts of an ordinary header, some of a huge one.
            for cut in (0..length).step_by(length / 300 + 1).chain([length - 1]) {
                assert_eq!(parse(&input[..cut]), Parsed::Incomplete, "up to {cut}");
            }
            if let Origin::Client { source, destination } = origin {
                for address in [source, destination] {
                    assert_eq!(address.ip().to_canonical(), address.ip(), "an unmapped address");
                }
            }
        }
        Parsed::Invalid => {
            for more in [&b"\n"[..], b"\r\n", b"\0", b" 192.0.2.1\r\n"] {
                assert_eq!(parse(&[input, more].concat()), Parsed::Invalid, "more octets make nothing good");
            }
        }
        Parsed::Incomplete => assert!(input.len() < MAX_HEADER, "what is incomplete has a bound"),
    }
}

/// Octets of the longest header.
const MAX_HEADER: usize = 4096;
