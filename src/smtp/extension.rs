//! Service extensions: what a server announces, and what the gate offers of it.
//!
//! The gate offers what it understands itself *and* every eligible upstream offers, and nothing else: an extension that
//! is announced and not carried through loses mail.

use super::reply::Reply;
use crate::label_enum;

label_enum! {
    /// An extension whose offer the operator may hide.
    pub enum Extension {
        /// RFC 2920.
        Pipelining = "PIPELINING",
        /// RFC 1870.
        Size = "SIZE",
        /// RFC 6152.
        EightBitMime = "8BITMIME",
        /// RFC 2034.
        EnhancedStatusCodes = "ENHANCEDSTATUSCODES",
        /// RFC 6531.
        SmtpUtf8 = "SMTPUTF8",
        /// RFC 3461.
        Dsn = "DSN",
        /// RFC 3030.
        Chunking = "CHUNKING",
        /// RFC 4954.
        Auth = "AUTH",
    }
}

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
    /// SMTPUTF8 (RFC 6531).
    pub smtp_utf8: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING (RFC 3030).
    pub chunking: bool,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// The mechanisms of AUTH (RFC 4954), in upper case.
    pub auth: Vec<Box<str>>,
    /// The attributes of Postfix's XCLIENT, in upper case; none if it is not announced.
    pub xclient: Option<Vec<Box<str>>>,
}

/// The EHLO list of the gate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Octets of a message that the gate takes.
    pub size: u64,
    /// Whether the size is announced; it holds all the same.
    pub announces_size: bool,
    /// Whether PIPELINING is announced; it works all the same.
    pub pipelining: bool,
    /// Whether STARTTLS may be given.
    pub starttls: bool,
    /// Whether BODY=8BITMIME may be given.
    pub eight_bit_mime: bool,
    /// Whether SMTPUTF8 may be given, and UTF-8 in addresses.
    pub smtp_utf8: bool,
    /// Whether RET, ENVID, NOTIFY and ORCPT may be given.
    pub dsn: bool,
    /// Whether BDAT may be given.
    pub chunking: bool,
    /// Whether replies carry enhanced codes throughout.
    pub enhanced_status_codes: bool,
    /// The mechanisms of AUTH; empty if it is not offered.
    pub auth: Vec<Box<str>>,
}

/// What the gate itself contributes to an offer.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Octets of a message that the gate takes, whatever the upstream says.
    pub size: u64,
    /// What the operator hides.
    pub hidden: &'a [Extension],
    /// Whether STARTTLS can be given now.
    pub starttls: bool,
    /// Whether AUTH may be given now.
    pub auth: bool,
}

impl Capabilities {
    /// Reads an EHLO reply; its first line is the server's name.
    pub fn read(reply: &Reply) -> Self {
        let mut found = Self::default();
        for text in reply.texts().skip(1) {
            let line = String::from_utf8_lossy(text).to_ascii_uppercase();
            // An old form of AUTH has an equals sign behind it; some servers announce both.
            let line = line.strip_prefix("AUTH=").map_or(line.clone(), |mechanisms| format!("AUTH {mechanisms}"));
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("SIZE") => found.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                Some("8BITMIME") => found.eight_bit_mime = true,
                Some("ENHANCEDSTATUSCODES") => found.enhanced_status_codes = true,
                Some("PIPELINING") => found.pipelining = true,
                Some("SMTPUTF8") => found.smtp_utf8 = true,
                Some("DSN") => found.dsn = true,
                Some("CHUNKING") => found.chunking = true,
                Some("STARTTLS") => found.starttls = true,
                Some("AUTH") => {
                    let new = words.filter(|word| !found.auth.iter().any(|known| **known == **word));
                    let new: Vec<Box<str>> = new.map(Into::into).collect();
                    found.auth.extend(new);
                }
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
        let common = |a: &[Box<str>], b: &[Box<str>]| a.iter().filter(|x| b.contains(x)).cloned().collect();
        let xclient = match (&self.xclient, &other.xclient) {
            (Some(a), Some(b)) => Some(common(a, b)),
            _ => None,
        };
        Self {
            size,
            eight_bit_mime: self.eight_bit_mime && other.eight_bit_mime,
            enhanced_status_codes: self.enhanced_status_codes && other.enhanced_status_codes,
            pipelining: self.pipelining && other.pipelining,
            smtp_utf8: self.smtp_utf8 && other.smtp_utf8,
            dsn: self.dsn && other.dsn,
            chunking: self.chunking && other.chunking,
            starttls: self.starttls && other.starttls,
            auth: common(&self.auth, &other.auth),
            xclient,
        }
    }
}

impl Offer {
    /// What the gate offers in front of servers with these capabilities.
    pub fn new(upstream: &Capabilities, terms: Terms<'_>) -> Self {
        let size = match upstream.size {
            Some(limit) if limit > 0 => terms.size.min(limit.saturating_sub(ADDED_FIELDS).max(1)),
            _ => terms.size,
        };
        let shows = |extension| !terms.hidden.contains(&extension);
        let mechanisms = upstream.auth.iter().filter(|_| terms.auth && shows(Extension::Auth));
        Self {
            size,
            announces_size: shows(Extension::Size),
            pipelining: shows(Extension::Pipelining),
            starttls: terms.starttls,
            eight_bit_mime: upstream.eight_bit_mime && shows(Extension::EightBitMime),
            smtp_utf8: upstream.smtp_utf8 && shows(Extension::SmtpUtf8),
            dsn: upstream.dsn && shows(Extension::Dsn),
            chunking: shows(Extension::Chunking),
            enhanced_status_codes: upstream.enhanced_status_codes && shows(Extension::EnhancedStatusCodes),
            auth: mechanisms.filter(|mechanism| can_be_relayed(mechanism)).cloned().collect(),
        }
    }

    /// The reply to EHLO.
    pub fn reply(&self, hostname: &str) -> Reply {
        let mut lines = vec![hostname.to_owned()];
        let mut announce = |is_offered: bool, extension: Extension, parameters: &str| {
            if is_offered {
                lines.push(format!("{extension}{parameters}"));
            }
        };
        announce(self.pipelining, Extension::Pipelining, "");
        announce(self.announces_size, Extension::Size, &format!(" {}", self.size));
        announce(self.eight_bit_mime, Extension::EightBitMime, "");
        announce(self.enhanced_status_codes, Extension::EnhancedStatusCodes, "");
        announce(self.smtp_utf8, Extension::SmtpUtf8, "");
        announce(self.dsn, Extension::Dsn, "");
        announce(self.chunking, Extension::Chunking, "");
        announce(!self.auth.is_empty(), Extension::Auth, &format!(" {}", self.auth.join(" ")));
        if self.starttls {
            lines.push("STARTTLS".to_owned());
        }
        Reply::lines(250, lines.iter().map(String::as_str))
    }
}

/// Whether a mechanism works through a relay: not where it is bound to the TLS channel or the certificate of the client
/// (RFC 5802 §6, RFC 4422 appendix A), nor where it could set up a security layer of its own.
fn can_be_relayed(mechanism: &str) -> bool {
    !mechanism.ends_with("-PLUS") && !matches!(mechanism, "EXTERNAL" | "GSSAPI" | "DIGEST-MD5")
}

/// Octets kept free for the fields that the gate puts on top: the upstream's limit less this is what a client may send.
pub const ADDED_FIELDS: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Label;

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
        assert!(found.starttls && !found.dsn && !found.chunking && !found.smtp_utf8 && found.auth.is_empty());
        assert_eq!(capabilities(&["mx"]), Capabilities::default());
        let found = capabilities(&["mx", "AUTH PLAIN LOGIN", "AUTH=LOGIN cram-md5", "DSN", "CHUNKING", "SMTPUTF8"]);
        assert!(found.dsn && found.chunking && found.smtp_utf8);
        assert_eq!(found.auth, ["PLAIN", "LOGIN", "CRAM-MD5"].map(Box::from));
    }

    fn terms(size: u64) -> Terms<'static> {
        Terms { size, hidden: &[], starttls: false, auth: true }
    }

    #[test]
    fn the_offer_is_what_both_sides_do() {
        let cases: [(&[&str], u64); 5] = [
            (&["mx", "SIZE 1000000"], 1_000_000 - ADDED_FIELDS),
            (&["mx", "SIZE 99000000"], 50_000_000),
            // 0 would mean that there is no limit.
            (&["mx", "SIZE 1000"], 1),
            (&["mx", "SIZE 0"], 50_000_000),
            (&["mx"], 50_000_000),
        ];
        for (lines, size) in cases {
            assert_eq!(Offer::new(&capabilities(lines), terms(50_000_000)).size, size, "{lines:?}");
        }
        let everything = ["mx", "8BITMIME", "DSN", "SMTPUTF8", "ENHANCEDSTATUSCODES", "STARTTLS", "BINARYMIME"];
        let cases: [(&[&str], Terms<'_>, &[u8]); 4] = [
            (
                &["mx", "8BITMIME"],
                terms(100),
                b"250-gate.example\r\n250-PIPELINING\r\n250-SIZE 100\r\n250-8BITMIME\r\n250 CHUNKING\r\n",
            ),
            (
                &everything,
                Terms { starttls: true, ..terms(100) },
                b"250-gate.example\r\n250-PIPELINING\r\n250-SIZE 100\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n\
                  250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n250 STARTTLS\r\n",
            ),
            (&everything, Terms { hidden: Extension::ALL, ..terms(100) }, b"250 gate.example\r\n"),
            (
                &["mx", "AUTH PLAIN EXTERNAL SCRAM-SHA-256 SCRAM-SHA-256-PLUS GSSAPI DIGEST-MD5 LOGIN"],
                Terms { hidden: &[Extension::Pipelining, Extension::Chunking], ..terms(100) },
                b"250-gate.example\r\n250-SIZE 100\r\n250 AUTH PLAIN SCRAM-SHA-256 LOGIN\r\n",
            ),
        ];
        for (lines, terms, expected) in cases {
            let reply = Offer::new(&capabilities(lines), terms).reply("gate.example");
            assert_eq!(reply.as_wire().escape_ascii().to_string(), expected.escape_ascii().to_string(), "{lines:?}");
        }
        let without = Offer::new(&capabilities(&["mx", "AUTH PLAIN"]), Terms { auth: false, ..terms(100) });
        assert!(without.auth.is_empty());
    }

    #[test]
    fn several_upstreams_offer_what_all_of_them_do() {
        let a = capabilities(&["a", "SIZE 100", "8BITMIME", "PIPELINING", "XCLIENT NAME ADDR", "AUTH PLAIN LOGIN"]);
        let b = capabilities(&["b", "SIZE 0", "8BITMIME", "ENHANCEDSTATUSCODES", "XCLIENT ADDR", "AUTH LOGIN", "DSN"]);
        let both = a.intersection(&b);
        assert_eq!(both.size, Some(100));
        assert!(both.eight_bit_mime && !both.pipelining && !both.enhanced_status_codes);
        assert_eq!(both.xclient, Some(vec!["ADDR".into()]));
        assert_eq!(both.auth, [Box::from("LOGIN")]);
        assert!(!both.dsn);
    }
}
