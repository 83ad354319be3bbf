//! Who may see what, and what every page tells a browser about itself.
//!
//! With a token, everything but `/healthz` and `/readyz` asks for it. Without one the listener trusts whoever reaches
//! it; what must not reach it then is a web page that somebody on this machine looks at, whose host is made out to be
//! this one (DNS rebinding): a browser names that host, and pages and API are given out under an address or a name of
//! ours alone.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use axum::http::{HeaderMap, HeaderValue, header};

use crate::message::base64;

/// The token, as its digest: it is compared in the same time whatever is offered, and can't be told by accident.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Of a text; none of one that is too short to be a secret, or could not stand in a header field.
    pub fn new(text: &str) -> Option<Self> {
        let is_fit = text.len() >= SHORTEST && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic());
        is_fit.then(|| Self(of(text.as_bytes())))
    }

    /// Whether a request has it: `Authorization: Bearer`, or `Basic` with any name, which a browser asks for.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, rest)) = value.trim().split_once(' ') else { return false };
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => self.is(rest.trim().as_bytes()),
            "basic" => base64::decode(rest.trim().as_bytes()).is_some_and(|pair| {
                let colon = pair.iter().position(|b| *b == b':');
                colon.and_then(|colon| pair.get(colon + 1..)).is_some_and(|password| self.is(password))
            }),
            _ => false,
        }
    }

    fn is(&self, offered: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, &of(offered)).is_ok()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

fn of(text: &[u8]) -> [u8; 32] {
    let mut octets = [0; 32];
    octets.iter_mut().zip(digest(&SHA256, text).as_ref()).for_each(|(octet, from)| *octet = *from);
    octets
}

/// Whether a request names a host that can be ours: an address, `localhost`, the gate's own name, or none at all.
pub fn names_us(headers: &HeaderMap, hostname: &str) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.');
    let is_ours = name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(hostname);
    hosts.next().is_none() && (is_ours || name.parse::<IpAddr>().is_ok())
}

/// Puts into a reply what keeps a browser from doing more with it than to show it.
pub fn harden(headers: &mut HeaderMap, style: &str) {
    let policy = format!(
        "default-src 'none'; style-src '{style}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in FIXED.iter().copied() {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What a style sheet inside a page is known by in its Content-Security-Policy.
pub fn style_source(style: &str) -> String {
    format!("sha256-{}", base64::encode(digest(&SHA256, style.as_bytes()).as_ref()))
}

const FIXED: &[(&str, &str)] = &[
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];
/// Characters of a token, at least: what nobody tries out over a network.
pub const SHORTEST: usize = 16;
/// And at most: it stands in a header field.
const LONGEST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_token_is_had_or_not() {
        let token = Token::new("0123456789abcdef").unwrap();
        let basic = |pair: &str| format!("Basic {}", base64::encode(pair.as_bytes()));
        let cases: &[(&str, bool)] = &[
            ("Bearer 0123456789abcdef", true),
            ("bearer  0123456789abcdef ", true),
            ("Bearer 0123456789abcdeg", false),
            ("Bearer 0123456789abcde", false),
            ("Bearer 0123456789abcdef0", false),
            ("Bearer ", false),
            ("0123456789abcdef", false),
            ("Token 0123456789abcdef", false),
            (&basic("admin:0123456789abcdef"), true),
            (&basic(":0123456789abcdef"), true),
            (&basic("0123456789abcdef:"), false),
            (&basic("0123456789abcdef"), false),
            ("Basic !!", false),
        ];
        for (value, expected) in cases {
            assert_eq!(token.is_in(&with(header::AUTHORIZATION, &[value])), *expected, "{value}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
        assert!(!format!("{token:?}").contains("0123"));
        for unfit in ["", "short", "0123456789 abcdef", "0123456789abcde\u{e9}", &"x".repeat(1025)] {
            assert!(Token::new(unfit).is_none(), "{unfit}");
        }
    }

    #[test]
    fn a_host_that_is_not_ours_is_known() {
        let cases: &[(&[&str], bool)] = &[
            (&[], true),
            (&["127.0.0.1:9125"], true),
            (&["[::1]:9125"], true),
            (&["localhost"], true),
            (&["LOCALHOST:9125"], true),
            (&["mx.example.net:9125"], true),
            (&["MX.example.net."], true),
            (&["evil.example"], false),
            (&["127.0.0.1.evil.example:9125"], false),
            (&["localhost.evil.example"], false),
            (&["localhost", "evil.example"], false),
            (&[""], false),
        ];
        for (hosts, expected) in cases {
            assert_eq!(names_us(&with(header::HOST, hosts), "mx.example.net"), *expected, "{hosts:?}");
        }
    }
}
