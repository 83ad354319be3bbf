//! How the upstream learns who the client is: XCLIENT attributes and PROXY protocol headers.

use std::net::{IpAddr, SocketAddr};

use ppp::v2;

use crate::dns::reverse::ConfirmedName;
use crate::domain::Domain;
use crate::envelope::{Client, Hello, Protocol};
use crate::label_enum;

label_enum! {
    /// How the client is handed over to the upstream.
    pub enum Identity {
        /// XCLIENT where the upstream announces it; else a Received field, if the relay guard has its list of domains.
        Auto = "auto",
        /// Postfix's XCLIENT command.
        Xclient = "xclient",
        /// PROXY protocol, version 1.
        ProxyV1 = "proxy-v1",
        /// PROXY protocol, version 2.
        ProxyV2 = "proxy-v2",
        /// A Received field of ours.
        Received = "received",
        /// Not at all.
        None = "none",
    }
}

impl Identity {
    /// Whether the client's name by DNS may be told, so that it is looked up from the session's beginning.
    pub fn tells_name(self) -> bool {
        matches!(self, Self::Auto | Self::Xclient | Self::Received)
    }

    /// Whether the upstream wants a PROXY header before anything else.
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::ProxyV1 | Self::ProxyV2)
    }
}

/// What the upstream is told about the client.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// Its addresses; none: the gate speaks for itself, by the ends of its own connection.
    pub client: Option<Client>,
    /// Its name by DNS.
    pub name: ConfirmedName,
    /// What it called itself.
    pub hello: Hello,
    /// As whom it has authenticated, if it has.
    pub login: Option<Box<str>>,
}

/// The XCLIENT command, with its CRLF, that hands over every attribute the upstream `announced`; none if the gate knows
/// none of them.
///
/// It is one, within the length of a command line (RFC 5321 §4.5.3.1.4). A second one would come from the client that
/// the first has named: Haraka grants such a client nothing, and Postfix forgets the login that is not said again.
pub fn xclient_command(introduction: &Introduction, announced: &[Box<str>]) -> Option<String> {
    let value = |name| xclient_value(introduction, name).map(|value| (name, value));
    let mut attributes: Vec<(&str, String)> = announced.iter().filter_map(|name| value(name)).collect();
    // The client may have chosen these long; the upstream hears them in the EHLO that follows, or may look them up.
    shorten(&mut attributes, "HELO", UNAVAILABLE);
    if command_length(&attributes) > MAX_COMMAND && matches!(introduction.name, ConfirmedName::Confirmed(_)) {
        // Postfix takes a NAME for the reverse name, too.
        attributes.retain(|(name, _)| *name != "REVERSE_NAME");
    }
    shorten(&mut attributes, "REVERSE_NAME", TEMPORARILY_UNAVAILABLE);
    shorten(&mut attributes, "NAME", TEMPORARILY_UNAVAILABLE);
    let words = attributes.iter().fold(String::new(), |words, (name, value)| words + " " + name + "=" + value);
    (!attributes.is_empty()).then(|| format!("{COMMAND}{words}{CRLF}"))
}

/// Whether a login's name can be told by XCLIENT: it is known, and no longer than Postfix takes a value.
pub fn can_be_told(login: &str) -> bool {
    login != UNKNOWN_LOGIN && client_text(login).len() <= MAX_VALUE
}

/// Puts `substitute` in the place of a value that is too long, or that makes the command too long.
fn shorten(attributes: &mut [(&str, String)], long: &str, substitute: &str) {
    let is_too_long = command_length(attributes) > MAX_COMMAND;
    let cut = attributes.iter_mut().filter(|(name, value)| *name == long && (is_too_long || value.len() > MAX_VALUE));
    cut.for_each(|(_, value)| substitute.clone_into(value));
}

/// Octets of the command with these attributes.
fn command_length(attributes: &[(&str, String)]) -> usize {
    let words = attributes.iter().map(|(name, value)| " =".len() + name.len() + value.len());
    COMMAND.len() + words.sum::<usize>() + CRLF.len()
}

/// The PROXY header of version 1 for the client's connection.
pub fn proxy_v1(client: &Client) -> Vec<u8> {
    let (source, destination) = same_family(client);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// The PROXY header of version 2 for the client's connection.
pub fn proxy_v2(client: &Client) -> Vec<u8> {
    let addresses = same_family(client);
    v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, addresses)
        .build()
        // Fails only for TLVs beyond the length field; none are added.
        .unwrap_or_default()
}

/// None for attributes that the gate does not know.
fn xclient_value(introduction: &Introduction, attribute: &str) -> Option<String> {
    let Introduction { client, name, hello, login } = introduction;
    let of_client = |value: fn(&Client) -> String| client.as_ref().map_or_else(|| UNAVAILABLE.into(), value);
    Some(match attribute {
        "NAME" => match name {
            ConfirmedName::Confirmed(name) => host_name(name),
            ConfirmedName::None(_) => UNAVAILABLE.into(),
            ConfirmedName::TempError(_) => TEMPORARILY_UNAVAILABLE.into(),
        },
        // Without it Postfix keeps that of the gate's own connection, where NAME is none.
        "REVERSE_NAME" => match name {
            ConfirmedName::Confirmed(name) | ConfirmedName::None(Some(name)) | ConfirmedName::TempError(Some(name)) => {
                host_name(name)
            }
            ConfirmedName::None(None) => UNAVAILABLE.into(),
            ConfirmedName::TempError(None) => TEMPORARILY_UNAVAILABLE.into(),
        },
        "ADDR" => of_client(|client| address(client.address.ip())),
        "PORT" => of_client(|client| client.address.port().to_string()),
        "PROTO" => match hello.protocol {
            Protocol::Smtp => "SMTP".into(),
            Protocol::Esmtp => "ESMTP".into(),
        },
        "HELO" => client_text(hello.name.as_str()),
        "LOGIN" => login.as_deref().filter(|login| can_be_told(login)).map_or_else(|| UNAVAILABLE.into(), client_text),
        "DESTADDR" => of_client(|client| address(client.local.ip())),
        "DESTPORT" => of_client(|client| client.local.port().to_string()),
        _ => return None,
    })
}

/// A name as Postfix takes it for one of a host (RFC 1123 §2.1, and an underscore): no label begins or ends with a hyphen,
/// and it is not all digits. It refuses the whole command for any other; looking up itself, it takes them for none.
fn host_name(name: &Domain) -> String {
    let is_fit = |label: &str| !label.starts_with('-') && !label.ends_with('-');
    let has_letter = name.as_str().bytes().any(|b| b.is_ascii_alphabetic() || b == b'_');
    if has_letter && name.labels().all(is_fit) { xtext(name.as_str()) } else { UNAVAILABLE.into() }
}

/// What a client said of itself; it can't say `[UNAVAILABLE]`, which has a meaning of its own here.
fn client_text(text: &str) -> String {
    let encoded = xtext(text);
    let is_word = [UNAVAILABLE, TEMPORARILY_UNAVAILABLE].iter().any(|word| encoded.eq_ignore_ascii_case(word));
    if is_word { encoded.replace('[', "+5B") } else { encoded }
}

fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPV6:{ip}"),
    }
}

/// RFC 3461 §4: what is not printable, "+" and "=" as "+" and two hexadecimal digits.
fn xtext(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, b| {
        match b {
            b'!'..=b'~' if b != b'+' && b != b'=' => out.push(char::from(b)),
            // Writing to a String does not fail.
            _ => drop(write!(out, "+{b:02X}")),
        }
        out
    })
}

/// Both ends in one address family, as the PROXY protocol wants it.
fn same_family(client: &Client) -> (SocketAddr, SocketAddr) {
    let (source, destination) = (client.address, client.local);
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (mapped(source), mapped(destination))
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The verb.
const COMMAND: &str = "XCLIENT";
/// The end of a command line.
const CRLF: &str = "\r\n";
/// What XCLIENT says of an attribute that does not exist.
const UNAVAILABLE: &str = "[UNAVAILABLE]";
/// What it says of one that could not be found out.
const TEMPORARILY_UNAVAILABLE: &str = "[TEMPUNAVAIL]";
/// Octets of a command line with its CRLF (RFC 5321 §4.5.3.1.4).
const MAX_COMMAND: usize = 512;
/// Octets of an attribute's value: what Postfix takes. All others at their longest leave LOGIN as much.
const MAX_VALUE: usize = 255;
/// A login whose name is not known, or not for certain: no other connection can be told it.
pub const UNKNOWN_LOGIN: &str = "?";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::command::Command;

    fn introduction(hello: &str) -> Introduction {
        let Ok(Command::Ehlo(name)) = Command::parse(format!("EHLO {hello}").as_bytes(), None) else {
            panic!("{hello}")
        };
        Introduction {
            client: Some(Client::new("198.51.100.7:4711".parse().unwrap(), "198.51.100.1:25".parse().unwrap())),
            name: ConfirmedName::Confirmed(Domain::parse("mx.client.example").unwrap()),
            hello: Hello { name, protocol: Protocol::Esmtp },
            login: None,
        }
    }

    fn announced(words: &str) -> Vec<Box<str>> {
        words.split(' ').map(Into::into).collect()
    }

    #[test]
    fn xclient_hands_over_what_is_announced() {
        let mut who = introduction("a+b=c");
        assert_eq!(
            xclient_command(&who, &announced("NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT ODD")).unwrap(),
            "XCLIENT NAME=mx.client.example ADDR=198.51.100.7 PORT=4711 PROTO=ESMTP HELO=a+2Bb+3Dc \
              LOGIN=[UNAVAILABLE] DESTADDR=198.51.100.1 DESTPORT=25\r\n"
        );
        who.login = Some("us er@client.example".into());
        assert_eq!(xclient_command(&who, &announced("LOGIN")).unwrap(), "XCLIENT LOGIN=us+20er@client.example\r\n");
        let liar = introduction("[unavailable]");
        assert_eq!(xclient_command(&liar, &announced("HELO")).unwrap(), "XCLIENT HELO=+5Bunavailable]\r\n");
        who.client.as_mut().unwrap().address = "[2001:db8::1]:1".parse().unwrap();
        who.name = ConfirmedName::TempError(None);
        assert_eq!(
            xclient_command(&who, &announced("ADDR NAME")).unwrap(),
            "XCLIENT ADDR=IPV6:2001:db8::1 NAME=[TEMPUNAVAIL]\r\n"
        );
        assert_eq!(xclient_command(&who, &announced("ODD")), None);
    }

    #[test]
    fn names_by_dns_are_told_as_postfix_knows_them() {
        let parsed = |name: &str| Domain::parse(name).unwrap();
        let of = |name: &str| Some(parsed(name));
        let (none, later) = ("[UNAVAILABLE]", "[TEMPUNAVAIL]");
        let cases = [
            (ConfirmedName::Confirmed(parsed("mx_1.a--b.example")), "mx_1.a--b.example", "mx_1.a--b.example"),
            (ConfirmedName::None(None), none, none),
            (ConfirmedName::None(of("liar.example")), none, "liar.example"),
            (ConfirmedName::TempError(None), later, later),
            (ConfirmedName::TempError(of("mx.example")), later, "mx.example"),
            (ConfirmedName::Confirmed(parsed("-mail.client.example")), none, none),
            (ConfirmedName::Confirmed(parsed("mail-.client.example")), none, none),
            (ConfirmedName::None(of("mail.-client.example")), none, none),
            (ConfirmedName::Confirmed(parsed("1.2.3.4")), none, none),
            (ConfirmedName::Confirmed(parsed("host.123")), "host.123", "host.123"),
        ];
        for (name, told, reverse) in cases {
            let who = Introduction { name: name.clone(), ..introduction("x") };
            assert_eq!(
                xclient_command(&who, &announced("NAME REVERSE_NAME")).unwrap(),
                format!("XCLIENT NAME={told} REVERSE_NAME={reverse}\r\n"),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_long_xclient_is_cut_to_one_command() {
        let known = announced("NAME ADDR PORT HELO LOGIN");
        let mut who = introduction(&"=".repeat(160));
        let named = |name: &str, login: &str| {
            format!("XCLIENT NAME={name} ADDR=198.51.100.7 PORT=4711 HELO=[UNAVAILABLE] LOGIN={login}\r\n")
        };
        assert_eq!(xclient_command(&who, &known).unwrap(), named("mx.client.example", "[UNAVAILABLE]"));
        // A value of its own that is too long, in a command that is not.
        assert_eq!(
            xclient_command(&introduction(&"=".repeat(86)), &announced("HELO")).unwrap(),
            "XCLIENT HELO=[UNAVAILABLE]\r\n"
        );
        who = introduction(&"x".repeat(250));
        let login = "y".repeat(MAX_VALUE);
        who.login = Some(login.as_str().into());
        assert_eq!(xclient_command(&who, &known).unwrap(), named("mx.client.example", &login));
        // One that is longer is not told, and nothing may be relayed as if it were.
        let logins = [
            (login.clone(), true),
            (format!("{login}y"), false),
            ("\u{e9}".repeat(42), true),
            ("\u{e9}".repeat(43), false),
            ("?".into(), false),
        ];
        for (login, told) in logins {
            assert_eq!(can_be_told(&login), told, "{login}");
            who.login = Some(login.as_str().into());
            assert_eq!(xclient_command(&who, &announced("LOGIN")).unwrap().contains("[UNAVAILABLE]"), !told, "{login}");
        }
        // Everything at its longest.
        let all = announced("NAME ADDR PORT PROTO HELO REVERSE_NAME LOGIN DESTADDR DESTPORT");
        who.login = Some(login.into());
        let long = Domain::parse(&["n".repeat(63), "n".repeat(63), "n".repeat(63), "n".repeat(61)].join(".")).unwrap();
        who.name = ConfirmedName::Confirmed(long.clone());
        who.client = Some(Client::new(
            "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap(),
            "[2001:db8:1111:2222:3333:4444:5555:7777]:65535".parse().unwrap(),
        ));
        let command = xclient_command(&who, &all).unwrap();
        assert!(command.len() <= MAX_COMMAND && command.contains(" NAME=[TEMPUNAVAIL]"), "{command}");
        who.login = None;
        let command = xclient_command(&who, &all).unwrap();
        assert!(command.contains(&format!(" NAME={long} ")) && !command.contains("REVERSE_NAME"), "{command}");
        who.name = ConfirmedName::None(Some(long.clone()));
        let command = xclient_command(&who, &all).unwrap();
        assert!(command.contains(" NAME=[UNAVAILABLE] ") && command.contains(long.as_str()), "{command}");
    }

    #[test]
    fn proxy_headers_carry_both_ends() {
        let client = introduction("x").client.unwrap();
        assert_eq!(proxy_v1(&client), b"PROXY TCP4 198.51.100.7 198.51.100.1 4711 25\r\n");
        let header = proxy_v2(&client);
        assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(header[16..], [198, 51, 100, 7, 198, 51, 100, 1, 0x12, 0x67, 0, 25]);
        let mixed = Client { address: "[2001:db8::1]:1".parse().unwrap(), ..client };
        assert_eq!(proxy_v1(&mixed), b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 1 25\r\n");
        assert_eq!(proxy_v2(&mixed)[13..16], [0x21, 0, 36]);
    }
}
