//! Who is on the line and what the envelope says: the facts about a session and a transaction that everyone shares.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::domain::Domain;
use crate::smtp::address::{DomainPart, ForwardPath, ReversePath};
use crate::smtp::command::{ClientName, MailParameters};
use crate::tls::Protection;

/// The client of a session.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address and port: those of the PROXY header where there is one; IPv4-mapped addresses are unmapped.
    pub address: SocketAddr,
    /// The address and port that it reached.
    pub local: SocketAddr,
    /// As whom it has authenticated; "?" if its mechanism hides the name.
    pub login: Option<Box<str>>,
    /// What protects its connection; none in the clear.
    pub tls: Option<Protection>,
}

/// How the client introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its name for itself.
    pub name: ClientName,
    /// Whether it said EHLO.
    pub protocol: Protocol,
}

/// SMTP with or without extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HELO.
    Smtp,
    /// EHLO.
    Esmtp,
}

/// The envelope of a mail transaction (RFC 5321 §2.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// From MAIL.
    pub reverse_path: ReversePath,
    /// From MAIL.
    pub parameters: MailParameters,
    /// From each RCPT that the upstream accepted.
    pub recipients: Vec<ForwardPath>,
}

impl Client {
    /// A client of whom nothing but its addresses is known.
    pub fn new(address: SocketAddr, local: SocketAddr) -> Self {
        Self { address, local, login: None, tls: None }
    }

    /// The client's address.
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

impl Envelope {
    /// An envelope without recipients.
    pub fn new(reverse_path: ReversePath, parameters: MailParameters) -> Self {
        Self { reverse_path, parameters, recipients: Vec::new() }
    }

    /// The domain of the reverse-path, if it has one that DNS could know.
    pub fn sender_domain(&self) -> Option<Domain> {
        match self.reverse_path.mailbox()?.domain() {
            DomainPart::Name(domain) => Some(domain),
            DomainPart::Literal | DomainPart::Absent => None,
        }
    }
}

/// The network of a sender, whose hosts stand in for one another: an IPv4 /24 or an IPv6 /48, what one site gets.
pub fn sender_network(ip: IpAddr) -> IpNet {
    network(ip.to_canonical(), 24, 48)
}

/// An address cut to its leading bits; more bits than it has mean the address itself.
pub fn network(ip: IpAddr, bits_v4: u8, bits_v6: u8) -> IpNet {
    let bits = if ip.is_ipv4() { bits_v4 } else { bits_v6 };
    IpNet::new(ip, bits).map_or_else(|_| ip.into(), |network| network.trunc())
}

/// An address without the IPv4-mapped form of IPv6 (RFC 4291 §2.5.5.2), in which dual-stack sockets show IPv4 clients.
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
