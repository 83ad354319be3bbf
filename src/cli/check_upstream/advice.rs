//! What an MTA gets wrong that can't see the client, what to write into its configuration, and why an extension is not
//! passed on. Plain words for an operator; no peer's text.

use std::net::IpAddr;

use crate::config::Identity;

/// What an MTA that sees the gate in place of every client gets wrong.
pub const BLINDNESS: [&str; 6] = [
    "its own SPF check asks about the gate's address: honest mail fails it; switch it off, the gate checks SPF",
    "its DNS block lists are asked about the gate's address: they stop nobody",
    "its greylisting takes all clients for one: known once, known for ever",
    "its limits by address (connections, rate, errors) hit everybody at once; except the gate's address from them",
    "relaying by address (mynetworks, relay_from_hosts): with the gate's address in it the whole Internet may relay",
    "its log and its Received fields name the gate where the client should stand",
];

/// What lets it take clients over IPv6.
pub const IPV6_REMEDY: &str = "Postfix, main.cf: inet_protocols = all";

/// An MTA known by its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Software {
    Postfix,
    Exim,
    OpenSmtpd,
    Other,
}

/// The lines that let the MTA see the client, for the one that the greeting names; for each known one where it names
/// none.
pub fn remedies(greeting: &str, identity: Identity, gate: Option<IpAddr>) -> Vec<String> {
    let gate = gate.map_or_else(|| "GATE".to_owned(), |address| address.to_canonical().to_string());
    let by = |wanted: Identity, words: &str| match identity == wanted {
        true => String::new(),
        false => format!("; and here: upstream.identity = \"{wanted}\"{words}"),
    };
    let xclient = match identity {
        Identity::Auto | Identity::Xclient => String::new(),
        _ => by(Identity::Xclient, ", or \"auto\""),
    };
    let postfix = format!("Postfix, main.cf: smtpd_authorized_xclient_hosts = {gate}{xclient}");
    let exim = format!("Exim, main section: hosts_proxy = {gate}{}", by(Identity::ProxyV2, ""));
    let opensmtpd =
        format!("OpenSMTPD, smtpd.conf: listen on ... proxy-v2, for the gate alone{}", by(Identity::ProxyV2, ""));
    match software(greeting) {
        Software::Postfix => vec![postfix],
        Software::Exim => vec![exim],
        Software::OpenSmtpd => vec![opensmtpd],
        Software::Other => vec![postfix, exim, opensmtpd],
    }
}

/// The lines by which the MTA brings bounces that it makes itself to the gate, for the one that the greeting names; for
/// each known one where it names none.
pub fn transport(greeting: &str, domain: &str) -> Vec<String> {
    let postfix = format!(
        "Postfix, transport_maps: {domain} smtp:[127.0.0.1]:2526, and a [[listener]] of the gate with that address: port 25 \
         of its own addresses Postfix takes for a loop"
    );
    let exim = format!(
        "Exim, a router before all others: driver = manualroute, domains = {domain}, transport = remote_smtp, \
         route_list = * 127.0.0.1, self = send"
    );
    let opensmtpd = format!(
        "OpenSMTPD, smtpd.conf, before all other match lines: action \"dmarcgate_bounces\" relay host \
         smtp://127.0.0.1:25, then match for domain \"{domain}\" action \"dmarcgate_bounces\""
    );
    match software(greeting) {
        Software::Postfix => vec![postfix],
        Software::Exim => vec![exim],
        Software::OpenSmtpd => vec![opensmtpd],
        Software::Other => vec![postfix, exim, opensmtpd],
    }
}

fn software(greeting: &str) -> Software {
    let greeting = greeting.to_ascii_lowercase();
    let known = [("postfix", Software::Postfix), ("exim", Software::Exim), ("opensmtpd", Software::OpenSmtpd)];
    known.into_iter().find(|(name, _)| greeting.contains(name)).map_or(Software::Other, |(_, software)| software)
}

/// Why an extension that the server announces is not offered to clients.
pub fn withheld(keyword: &str) -> &'static str {
    match keyword {
        "XCLIENT" | "XFORWARD" => "it is for the gate alone: a client could claim any address by it",
        "STARTTLS" => "TLS ends at the gate; what clients are offered is for listener.tls to say",
        "BINARYMIME" | "REQUIRETLS" => "the gate could not keep the promise that it makes",
        "VRFY" | "EXPN" | "ETRN" | "HELP" | "TURN" | "ATRN" => "a command that the gate does not pass on",
        _ => "the gate does not carry it through",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_that_of_the_server_at_hand() {
        let gate = Some("::ffff:192.0.2.25".parse().unwrap());
        let cases = [
            (
                "mx.example ESMTP Postfix (Debian)",
                Identity::Auto,
                "Postfix, main.cf: smtpd_authorized_xclient_hosts = 192.0.2.25",
            ),
            (
                "mx.example ESMTP Postfix",
                Identity::Received,
                "Postfix, main.cf: smtpd_authorized_xclient_hosts = 192.0.2.25; and here: upstream.identity = \
                 \"xclient\", or \"auto\"",
            ),
            (
                "mx.example ESMTP Exim 4.96",
                Identity::Auto,
                "Exim, main section: hosts_proxy = 192.0.2.25; and here: upstream.identity = \"proxy-v2\"",
            ),
            (
                "mx ESMTP OpenSMTPD",
                Identity::ProxyV2,
                "OpenSMTPD, smtpd.conf: listen on ... proxy-v2, for the gate alone",
            ),
        ];
        for (greeting, identity, expected) in cases {
            assert_eq!(remedies(greeting, identity, gate), [expected], "{greeting}");
        }
        assert_eq!(remedies("mx ESMTP", Identity::Auto, None).len(), 3);
        let lines = transport("mx.example ESMTP Postfix", "b.example");
        let line = "Postfix, transport_maps: b.example smtp:[127.0.0.1]:2526, and a [[listener]]";
        assert!(lines.len() == 1 && lines[0].starts_with(line), "{lines:?}");
        assert_eq!(transport("", "b.example").len(), 3);
    }
}
