//! Says whose mail is not evaluated, before anything is known of the message.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::label_enum;
use crate::tls::ClientFingerprint;

label_enum! {
    /// Why a message was not evaluated.
    pub enum BypassReason {
        /// The client's address is in `bypass.trusted_networks`.
        TrustedNetwork = "trusted_network",
        /// The client's certificate is in `bypass.client_certificates`.
        ClientCertificate = "client_certificate",
        /// The client has authenticated, and `bypass.authenticated` is set.
        Authenticated = "authenticated",
    }
}

label_enum! {
    /// Whether a client has logged in (AUTH).
    pub enum Login {
        /// It has not.
        Anonymous = "anonymous",
        /// It has.
        Authenticated = "authenticated",
    }
}

/// Whose mail is not evaluated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bypass {
    /// Of clients in these networks.
    pub trusted_networks: Vec<IpNet>,
    /// Of clients with one of these certificates; if there are any, clients are asked for one.
    pub client_certificates: Arc<[ClientFingerprint]>,
    /// Whether of those who have logged in.
    pub authenticated: bool,
}

impl Bypass {
    /// Why mail of this client is not evaluated; none: it is. `certificate` is one that it has proved to be the holder
    /// of.
    pub fn reason(&self, client: IpAddr, certificate: Option<ClientFingerprint>, login: Login) -> Option<BypassReason> {
        if self.trusts(client) {
            Some(BypassReason::TrustedNetwork)
        } else if self.knows(certificate) {
            Some(BypassReason::ClientCertificate)
        } else if login == Login::Authenticated && self.authenticated {
            Some(BypassReason::Authenticated)
        } else {
            None
        }
    }

    /// Whether the client's address alone is reason enough.
    pub fn trusts(&self, client: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&client))
    }

    /// Whether the client's certificate is.
    pub fn knows(&self, certificate: Option<ClientFingerprint>) -> bool {
        certificate.is_some_and(|certificate| self.client_certificates.contains(&certificate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_address_certificate_and_login() {
        use BypassReason::{Authenticated, ClientCertificate, TrustedNetwork};
        let cases = [
            ("192.0.2.1", None, Login::Anonymous, Some(TrustedNetwork), Some(TrustedNetwork)),
            ("192.0.2.1", Some("ab"), Login::Authenticated, Some(TrustedNetwork), Some(TrustedNetwork)),
            ("198.51.100.1", None, Login::Anonymous, None, None),
            ("198.51.100.1", None, Login::Authenticated, Some(Authenticated), None),
            ("198.51.100.1", Some("ab"), Login::Anonymous, Some(ClientCertificate), Some(ClientCertificate)),
            ("198.51.100.1", Some("ab"), Login::Authenticated, Some(ClientCertificate), Some(ClientCertificate)),
            ("198.51.100.1", Some("cd"), Login::Anonymous, None, None),
            ("2001:db8::1", None, Login::Anonymous, Some(TrustedNetwork), Some(TrustedNetwork)),
            ("::ffff:192.0.2.1", None, Login::Anonymous, None, None),
        ];
        let networks = ["192.0.2.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap());
        let fingerprint = |pair: &str| ClientFingerprint::parse(&pair.repeat(32)).unwrap();
        for (client, certificate, login, with_logins, without) in cases {
            for (authenticated, expected) in [(true, with_logins), (false, without)] {
                let client_certificates = [fingerprint("ab")].into();
                let bypass = Bypass { trusted_networks: networks.into(), client_certificates, authenticated };
                let reason = bypass.reason(client.parse().unwrap(), certificate.map(fingerprint), login);
                assert_eq!(reason, expected, "{client} {certificate:?} {login} {authenticated}");
            }
        }
    }
}
