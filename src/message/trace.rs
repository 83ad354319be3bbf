//! Writes the Received field of the gate, for upstreams that have no other way to learn who the client was. Pure.

use std::net::IpAddr;

use crate::calendar::Date;
use crate::envelope::{Hello, Protocol};
use crate::tls::Protection;

/// What a Received field says of one hop (RFC 5321 §4.4).
#[derive(Debug, Clone)]
pub struct Hop<'a> {
    /// What the client called itself.
    pub hello: &'a Hello,
    /// What protected its connection.
    pub tls: Option<Protection>,
    /// Whether it has authenticated. Its user name is not passed on.
    pub is_authenticated: bool,
    /// Whether the transaction uses SMTPUTF8.
    pub is_utf8: bool,
    /// Its confirmed name, if it has one.
    pub name: Option<&'a str>,
    /// Its address.
    pub ip: IpAddr,
    /// The gate.
    pub by: &'a str,
    /// The transaction.
    pub id: &'a str,
    /// When, in epoch seconds.
    pub time: u64,
}

impl Hop<'_> {
    /// The field with its CRLF.
    pub fn field(&self) -> String {
        let Self { hello, tls, name, ip, by, id, time, .. } = self;
        let tag = if ip.is_ipv6() { "IPv6:" } else { "" };
        // RFC 3848 has no keyword for HELO under TLS, which only EHLO can have begun; the comment tells.
        let with = match hello.protocol {
            Protocol::Smtp => "SMTP",
            // RFC 6531 §4.3.
            Protocol::Esmtp if self.is_utf8 => "UTF8SMTP",
            Protocol::Esmtp => "ESMTP",
        };
        let is_esmtp = hello.protocol == Protocol::Esmtp;
        let secured = if is_esmtp && tls.is_some() { "S" } else { "" };
        let authenticated = if is_esmtp && self.is_authenticated { "A" } else { "" };
        let tls = tls.map(|tls| format!(" ({} {})", tls.version, tls.cipher)).unwrap_or_default();
        let from: String = hello.name.as_str().chars().map(|c| if is_host_character(c) { c } else { '?' }).collect();
        let name = name.map(|n| format!("{n} ")).unwrap_or_default();
        format!(
            "Received: from {from} ({name}[{tag}{ip}])\r\n\tby {by} with {with}{secured}{authenticated}{tls} id {id};\r\n\t{}\r\n",
            date(*time)
        )
    }
}

/// The date-time of RFC 5322 §3.3 for a time in epoch seconds, in UTC.
pub fn date(time: u64) -> String {
    let (days, second) = (i64::try_from(time / 86_400).unwrap_or(i64::MAX), time % 86_400);
    let Date { year, month, day } = Date::of_day(days);
    let name = |names: &[&'static str], place: i64| {
        usize::try_from(place).ok().and_then(|place| names.get(place).copied()).unwrap_or_default()
    };
    let (weekday, month) = (name(&WEEKDAYS, (days + 4) % 7), name(&MONTHS, month - 1));
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

/// What may stand in a domain name or address literal.
fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']')
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::Command;
    use crate::tls::Version;

    #[test]
    fn dates_table() {
        let cases = [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_795_361_999, "Sun, 22 Nov 2026 15:39:59 +0000"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, "Mon, 1 Mar 2100 00:00:00 +0000"),
        ];
        for (time, expected) in cases {
            assert_eq!(date(time), expected);
        }
    }

    #[test]
    fn nothing_that_a_client_says_breaks_the_field() {
        let Ok(Command::Ehlo(name)) = Command::parse(b"EHLO a(b;c", None) else { panic!() };
        let hello = Hello { name, protocol: Protocol::Esmtp };
        let hop = Hop {
            hello: &hello,
            tls: None,
            is_authenticated: false,
            is_utf8: false,
            name: None,
            ip: "2001:db8::1".parse().unwrap(),
            by: "mx.example",
            id: "X1",
            time: 0,
        };
        assert_eq!(
            hop.field(),
            "Received: from a?b?c ([IPv6:2001:db8::1])\r\n\tby mx.example with ESMTP id X1;\r\n\tThu, 1 Jan 1970 \
             00:00:00 +0000\r\n"
        );
        let tls = Some(Protection { version: Version::Tls13, cipher: "TLS_AES_128_GCM_SHA256", certificate: None });
        let field = Hop { tls, ..hop.clone() }.field();
        assert!(field.contains("\tby mx.example with ESMTPS (TLSv1.3 TLS_AES_128_GCM_SHA256) id X1;\r\n"), "{field}");
        let field = Hop { tls, is_authenticated: true, is_utf8: true, ..hop }.field();
        assert!(field.contains(" with UTF8SMTPSA (TLSv1.3 "), "{field}");
    }
}
