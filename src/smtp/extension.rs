//! Service extensions: what a server announces, and what the gate offers of it.
//!
//! The gate offers what it understands itself *and* every eligible upstream offers; nothing else (an extension that is
//! announced and not carried through loses mail).

use std::fmt::Write as _;

use super::reply::Reply;

/// What a server's EHLO reply announces, as far as the gate has use for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// SIZE: octets, 0 if announced without a limit (RFC 1870 §4).
    pub size: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// The attributes of Postfix's XCLIENT, in upper case; none if it is not announced.
    pub xclient: Option<Vec<Box<str>>>,
}

/// The EHLO list of the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Octets of a message that the gate takes.
    pub size: u64,
    /// Whether BODY=8BITMIME may be given.
    pub eight_bit_mime: bool,
    /// Whether replies carry enhanced codes throughout.
    pub enhanced_status_codes: bool,
}

impl Capabilities {
    /// Reads an EHLO reply; its first line is the server's name.
    pub fn read(reply: &Reply) -> Self {
        let mut found = Self::default();
        for text in reply.texts().skip(1) {
            let line = String::from_utf8_lossy(text).to_ascii_uppercase();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("SIZE") => found.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("ENHANCEDSTATUSCODES") => found.enhanced_status_codes = true,
                Some("PIPELINING") => found.pipelining = true,
                Some("STARTTLS") => found.starttls = true,
                Some("XCLIENT") => found.xclient = Some(words.map(Into::into).collect()),
                _ => {}
            }
        }
        found
    }

    /// What both servers announce; the smaller size.
    pub fn intersection(&self, other: &Self) -> Self {
        let size = match (self.size, other.size) {
            (Some(a), Some(b)) if a > 0 && b > 0 => Some(a.min(b)),
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
        let xclient = match (&self.xclient, &other.xclient) {
            (Some(a), Some(b)) => Some(a.iter().filter(|x| b.contains(x)).cloned().collect()),
            _ => None,
        };
        Self {
            size,
            eight_bit_mime: self.eight_bit_mime && other.eight_bit_mime,
            enhanced_status_codes: self.enhanced_status_codes && other.enhanced_status_codes,
            pipelining: self.pipelining && other.pipelining,
            starttls: self.starttls && other.starttls,
            xclient,
        }
    }
}

impl Offer {
    /// What the gate offers in front of servers with these capabilities, when its own limit is `own_size` octets.
    pub fn new(upstream: &Capabilities, own_size: u64) -> Self {
        let size = match upstream.size {
            Some(limit) if limit > 0 => own_size.min(limit.saturating_sub(ADDED_FIELDS)),
            _ => own_size,
        };
        Self { size, eight_bit_mime: upstream.eight_bit_mime, enhanced_status_codes: upstream.enhanced_status_codes }
    }

    /// The reply to EHLO.
    pub fn reply(&self, hostname: &str) -> Reply {
        let mut size = String::from("SIZE ");
        // Writing to a String does not fail.
        let _ = write!(size, "{}", self.size);
        let mut lines = vec![hostname, "PIPELINING", &size];
        if self.eight_bit_mime {
            lines.push("8BITMIME");
        }
        if self.enhanced_status_codes {
            lines.push("ENHANCEDSTATUSCODES");
        }
        Reply::lines(250, lines)
    }
}

/// Octets kept free for the fields that the gate puts on top: the upstream's limit less this is what a client may send.
pub const ADDED_FIELDS: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities(lines: &[&str]) -> Capabilities {
        Capabilities::read(&Reply::lines(250, lines.iter().copied()))
    }

    #[test]
    fn an_ehlo_reply_is_read() {
        let found =
            capabilities(&["SIZE", "PIPELINING", "size 1000", "8bitmime", "XCLIENT NAME ADDR", "STARTTLS", "X-ODD"]);
        assert_eq!(found.size, Some(1000));
        assert!(found.pipelining && found.eight_bit_mime && !found.enhanced_status_codes);
        assert_eq!(found.xclient, Some(vec!["NAME".into(), "ADDR".into()]));
        assert_eq!(capabilities(&["mx"]), Capabilities::default());
    }

    #[test]
    fn the_offer_is_what_both_sides_do() {
        let cases: [(&[&str], u64); 4] = [
            (&["mx", "SIZE 1000000"], 1_000_000 - ADDED_FIELDS),
            (&["mx", "SIZE 99000000"], 50_000_000),
            (&["mx", "SIZE 0"], 50_000_000),
            (&["mx"], 50_000_000),
        ];
        for (lines, size) in cases {
            assert_eq!(Offer::new(&capabilities(lines), 50_000_000).size, size, "{lines:?}");
        }
        let offer = Offer::new(&capabilities(&["mx", "8BITMIME"]), 100);
        assert_eq!(
            offer.reply("gate.example").as_wire(),
            b"250-gate.example\r\n250-PIPELINING\r\n250-SIZE 100\r\n250 8BITMIME\r\n"
        );
    }

    #[test]
    fn several_upstreams_offer_what_all_of_them_do() {
        let a = capabilities(&["a", "SIZE 100", "8BITMIME", "PIPELINING", "XCLIENT NAME ADDR"]);
        let b = capabilities(&["b", "SIZE 0", "8BITMIME", "ENHANCEDSTATUSCODES", "XCLIENT ADDR"]);
        let both = a.intersection(&b);
        assert_eq!(both.size, Some(100));
        assert!(both.eight_bit_mime && !both.pipelining && !both.enhanced_status_codes);
        assert_eq!(both.xclient, Some(vec!["ADDR".into()]));
    }
}
