//! How the upstream learns who the client is: XCLIENT attributes and PROXY protocol headers.

use std::net::{IpAddr, SocketAddr};

use ppp::v2;

use crate::dns::reverse::ConfirmedName;
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
    /// Its addresses.
    pub client: Client,
    /// Its name by DNS.
    pub name: ConfirmedName,
    /// What it called itself.
    pub hello: Hello,
    /// As whom it has authenticated, if it has.
    pub login: Option<Box<str>>,
}

/// The XCLIENT commands, each with its CRLF, that hand over every attribute the upstream `announced`: one, within the
/// length of a command line (RFC 5321 §4.5.3.1.4), wherever it can be. A second one comes from the client that the
/// first has named, who has no right to it with Postfix and Haraka; so where only a long LOGIN is in the way, NAME and
/// ADDR are in the last.
pub fn xclient_commands(introduction: &Introduction, announced: &[Box<str>]) -> Vec<String> {
    let value = |name| xclient_value(introduction, name).map(|value| (name, value));
    let mut attributes: Vec<(&str, String)> = announced.iter().filter_map(|name| value(name)).collect();
    // The client may have chosen these long; the upstream hears them in the EHLO that follows, or may look them up.
    for (long, substitute) in [("HELO", UNAVAILABLE), ("NAME", TEMPORARILY_UNAVAILABLE)] {
        if command_length(&attributes) > MAX_COMMAND {
            attributes.iter_mut().filter(|(name, _)| *name == long).for_each(|(_, value)| substitute.clone_into(value));
        }
    }
    if command_length(&attributes) <= MAX_COMMAND {
        return commands(&attributes);
    }
    let (last, first): (Vec<_>, Vec<_>) =
        attributes.into_iter().partition(|(name, _)| matches!(*name, "NAME" | "ADDR"));
    [commands(&first), commands(&last)].concat()
}

/// Octets of the command with these attributes.
fn command_length(attributes: &[(&str, String)]) -> usize {
    let words = attributes.iter().map(|(name, value)| " =".len() + name.len() + value.len());
    COMMAND.len() + words.sum::<usize>() + CRLF.len()
}

/// As few commands with these attributes as there can be.
fn commands(attributes: &[(&str, String)]) -> Vec<String> {
    let mut commands = Vec::new();
    let mut line = String::new();
    for (name, value) in attributes {
        let mut word = format!(" {name}={value}");
        if COMMAND.len() + word.len() + CRLF.len() > MAX_COMMAND {
            // What fits into no command at all can't be told.
            word = format!(" {name}={UNAVAILABLE}");
        }
        if !line.is_empty() && line.len() + word.len() + CRLF.len() > MAX_COMMAND {
            commands.push(std::mem::take(&mut line) + CRLF);
        }
        if line.is_empty() {
            line.push_str(COMMAND);
        }
        line.push_str(&word);
    }
    if !line.is_empty() {
        commands.push(line + CRLF);
    }
    commands
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
    Some(match attribute {
        "NAME" => match name {
            ConfirmedName::Confirmed(name) => xtext(name.as_str()),
            ConfirmedName::None => UNAVAILABLE.into(),
            ConfirmedName::TempError => TEMPORARILY_UNAVAILABLE.into(),
        },
        "ADDR" => address(client.address.ip()),
        "PORT" => client.address.port().to_string(),
        "PROTO" => match hello.protocol {
            Protocol::Smtp => "SMTP".into(),
            Protocol::Esmtp => "ESMTP".into(),
        },
        "HELO" => client_text(hello.name.as_str()),
        "LOGIN" => login.as_deref().map_or_else(|| UNAVAILABLE.into(), client_text),
        "DESTADDR" => address(client.local.ip()),
        "DESTPORT" => client.local.port().to_string(),
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Domain;
    use crate::smtp::command::Command;

    fn introduction(hello: &str) -> Introduction {
        let Ok(Command::Ehlo(name)) = Command::parse(format!("EHLO {hello}").as_bytes(), None) else {
            panic!("{hello}")
        };
        Introduction {
            client: Client::new("198.51.100.7:4711".parse().unwrap(), "198.51.100.1:25".parse().unwrap()),
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
            xclient_commands(&who, &announced("NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT ODD")),
            ["XCLIENT NAME=mx.client.example ADDR=198.51.100.7 PORT=4711 PROTO=ESMTP HELO=a+2Bb+3Dc \
              LOGIN=[UNAVAILABLE] DESTADDR=198.51.100.1 DESTPORT=25\r\n"]
        );
        who.login = Some("us er@client.example".into());
        assert_eq!(xclient_commands(&who, &announced("LOGIN")), ["XCLIENT LOGIN=us+20er@client.example\r\n"]);
        let liar = introduction("[unavailable]");
        assert_eq!(xclient_commands(&liar, &announced("HELO")), ["XCLIENT HELO=+5Bunavailable]\r\n"]);
        who.client.address = "[2001:db8::1]:1".parse().unwrap();
        who.name = ConfirmedName::TempError;
        assert_eq!(
            xclient_commands(&who, &announced("ADDR NAME")),
            ["XCLIENT ADDR=IPV6:2001:db8::1 NAME=[TEMPUNAVAIL]\r\n"]
        );
        assert_eq!(xclient_commands(&who, &announced("ODD")), Vec::<String>::new());
    }

    #[test]
    fn a_long_xclient_is_cut_and_becomes_several_commands_for_a_long_login_alone() {
        let known = announced("NAME ADDR PORT HELO LOGIN");
        let mut who = introduction(&"=".repeat(160));
        let named = |helo: &str, login: &str| {
            format!("XCLIENT NAME=mx.client.example ADDR=198.51.100.7 PORT=4711 HELO={helo} LOGIN={login}\r\n")
        };
        assert_eq!(xclient_commands(&who, &known), [named("[UNAVAILABLE]", "[UNAVAILABLE]")]);
        // A login takes the room that is left.
        let long = named("[UNAVAILABLE]", "").replace("mx.client.example", "[TEMPUNAVAIL]");
        let login = "x".repeat(MAX_COMMAND - long.len());
        who.login = Some(login.as_str().into());
        assert_eq!(xclient_commands(&who, &known), [long.replace("LOGIN=", &format!("LOGIN={login}"))]);
        let login = format!("{login}y");
        who.login = Some(login.as_str().into());
        let split = [
            format!("XCLIENT PORT=4711 HELO=[UNAVAILABLE] LOGIN={login}\r\n"),
            "XCLIENT NAME=[TEMPUNAVAIL] ADDR=198.51.100.7\r\n".to_owned(),
        ];
        assert_eq!(xclient_commands(&who, &known), split);
        who.login = Some("=".repeat(255).into());
        let commands = xclient_commands(&who, &known);
        assert!(commands.len() == 2 && commands[0].ends_with(" LOGIN=[UNAVAILABLE]\r\n"), "{commands:?}");
        who.login = Some("x".repeat(490).into());
        let commands = xclient_commands(&who, &known);
        let ends = ["HELO=[UNAVAILABLE]\r\n", "x\r\n", "ADDR=198.51.100.7\r\n"];
        assert!(commands.len() == 3 && commands.iter().zip(ends).all(|(c, end)| c.ends_with(end)), "{commands:?}");
        assert!(commands.iter().all(|command| command.len() <= MAX_COMMAND));
    }

    #[test]
    fn proxy_headers_carry_both_ends() {
        let client = introduction("x").client;
        assert_eq!(proxy_v1(&client), b"PROXY TCP4 198.51.100.7 198.51.100.1 4711 25\r\n");
        let header = proxy_v2(&client);
        assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(header[16..], [198, 51, 100, 7, 198, 51, 100, 1, 0x12, 0x67, 0, 25]);
        let mixed = Client { address: "[2001:db8::1]:1".parse().unwrap(), ..client };
        assert_eq!(proxy_v1(&mixed), b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 1 25\r\n");
        assert_eq!(proxy_v2(&mixed)[13..16], [0x21, 0, 36]);
    }
}
