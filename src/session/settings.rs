//! What the operator sets for sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{patience, receive};
use crate::domain::Domain;
use crate::envelope::Client;
use crate::policy::bypass::{Bypass, BypassReason, Login};
use crate::report::failure::Extent;
use crate::report::inbound;
use crate::smtp::address::{DomainPart, ForwardPath};
use crate::smtp::extension::Extension;
use crate::tls::ClientFingerprint;
use crate::upstream::servers::Servers;
use crate::{label_enum, verdict};

/// What the operator sets for the sessions of one listener. A transaction keeps the settings that it began with.
#[derive(Debug)]
pub struct Settings {
    /// The gate's name: greeting and EHLO reply.
    pub hostname: Box<str>,
    /// What the greeting says behind the name; "ESMTP" by default.
    pub banner: Option<Box<str>>,
    /// Recipients of a transaction, and what a session may do without sending mail.
    pub patience: patience::Bounds,
    /// Octets a second that a client has to send of a message, as a mean over `timeouts.data_block`; 0: any.
    pub data_rate: u64,
    /// How long the greeting waits for clients that speak before it.
    pub pregreet_delay: Duration,
    /// What bounds a message.
    pub message: receive::Bounds,
    /// What becomes of bare CR and LF.
    pub bare_newline: BareNewline,
    /// Which table says what is done with a message.
    pub policy_table: PolicyTable,
    /// Where recipients may be, from clients that are not trusted.
    pub relay_guard: RelayGuard,
    /// The address that reports come from: mail to it makes no rows.
    pub report_address: Option<Box<str>>,
    /// The domain whose mail is bounces of reports and nothing else; the gate takes it itself.
    pub bounce_domain: Option<Domain>,
    /// What failure reports have of a message; none: there are no such reports.
    pub failure_reports: Option<Extent>,
    /// Clients whose mail is not evaluated.
    pub bypass: Bypass,
    /// What is never announced, whatever the upstream offers.
    pub hidden: Vec<Extension>,
    /// When AUTH is offered, if the upstream offers it.
    pub auth: AuthOffer,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How a message is judged.
    pub verdict: verdict::Settings,
    /// Reports that arrive, to be read in passing.
    pub inbound: inbound::Settings,
    /// The upstream servers, and how they are reached.
    pub servers: Arc<Servers>,
}

label_enum! {
    /// What becomes of bare CR and LF in a message.
    pub enum BareNewline {
        /// LF goes on as CRLF, CR as a space.
        Normalize = "normalize",
        /// The message is refused.
        Reject = "reject",
    }
}

label_enum! {
    /// Which table of the configuration says what is done with a message.
    pub enum PolicyTable {
        /// The one for all listeners that have none.
        General = "policy",
        /// The listener's own.
        Listener = "listener.policy",
    }
}

label_enum! {
    /// When AUTH is offered to clients.
    pub enum AuthOffer {
        /// Under TLS.
        UnderTls = "tls",
        /// In the clear, too.
        Always = "always",
        /// Never.
        Never = "off",
    }
}

/// Where recipients may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayGuard {
    /// The upstream guards itself.
    Upstream,
    /// In these domains alone, and nowhere that routing in the address might lead.
    Domains(Vec<Domain>),
}

/// How long a client may take.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Silence between commands, and before the first (RFC 5321 §4.5.3.2.7).
    pub command: Duration,
    /// From the greeting to the first EHLO or HELO.
    pub first_command: Duration,
    /// Silence inside DATA.
    pub data_block: Duration,
    /// The whole of DATA.
    pub data: Duration,
    /// Our own work after the end of data.
    pub evaluation: Duration,
}

impl Settings {
    /// Why a client's mail is not evaluated; none if it is.
    pub fn bypass(&self, client: &Client) -> Option<BypassReason> {
        let login = if client.login.is_some() { Login::Authenticated } else { Login::Anonymous };
        self.bypass.reason(client.ip(), certificate(client), login)
    }

    /// Whether a client's recipients are not guarded, and its messages bounded by no network's share of the spool.
    pub fn lets_relay(&self, client: &Client) -> bool {
        client.login.is_some() || self.trusts(client.ip()) || self.bypass.knows(certificate(client))
    }

    /// Whether a recipient is in the domain that is for bounces of reports alone.
    pub fn takes_bounces(&self, path: &ForwardPath) -> bool {
        let is_domain = |ours: &Domain| matches!(path.mailbox().domain(), DomainPart::Name(domain) if domain == *ours);
        self.bounce_domain.as_ref().is_some_and(is_domain)
    }

    /// Whether a recipient is the sender of our reports, or in the domain for their bounces.
    pub fn is_for_reports(&self, path: &ForwardPath) -> bool {
        let is_sender = |ours: &str| path.mailbox().as_str().eq_ignore_ascii_case(ours);
        self.report_address.as_deref().is_some_and(is_sender) || self.takes_bounces(path)
    }

    /// Whether a client's mail is not evaluated, and its recipients are not guarded, for its address.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.bypass.trusts(ip)
    }
}

/// The certificate that a client has proved to be the holder of.
fn certificate(client: &Client) -> Option<ClientFingerprint> {
    client.tls.and_then(|tls| tls.certificate)
}

impl RelayGuard {
    /// Whether a recipient may be passed on: in one of the domains, without a route to elsewhere.
    pub fn admits(&self, path: &ForwardPath) -> bool {
        let Self::Domains(domains) = self else { return true };
        let mailbox = path.mailbox();
        if mailbox.is_routed() {
            return false;
        }
        match mailbox.domain() {
            DomainPart::Name(domain) => domains.contains(&domain),
            // RFC 5321 §4.5.1: postmaster without a domain is the server's own.
            DomainPart::Absent => mailbox.local_part().eq_ignore_ascii_case("postmaster"),
            DomainPart::Literal => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_guard_lets_own_domains_through() {
        let guard = RelayGuard::Domains(vec![Domain::parse("example.net").unwrap()]);
        let cases = [
            ("<a@example.net>", true),
            ("<a@EXAMPLE.NET>", true),
            ("<a@x.example.net>", false),
            ("<a@example.net.evil.example>", false),
            ("<a@evil.example>", false),
            ("<a%evil.example@example.net>", false),
            ("<evil.example!a@example.net>", false),
            ("<\"a@evil.example\"@example.net>", false),
            ("<@example.net:a@evil.example>", false),
            ("<@evil.example:a@example.net>", false),
            ("<a@[192.0.2.1]>", false),
            ("<Postmaster>", true),
            ("<a>", false),
        ];
        for (text, expected) in cases {
            let (path, _) = ForwardPath::parse(text.as_bytes()).unwrap();
            assert_eq!(guard.admits(&path), expected, "{text}");
        }
    }
}
