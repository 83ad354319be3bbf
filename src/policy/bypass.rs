//! Says whose mail is not evaluated, before anything is known of the message.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::label_enum;

label_enum! {
    /// Why a message was not evaluated.
    pub enum BypassReason {
        /// The client's address is in `bypass.trusted_networks`.
        TrustedNetwork = "trusted_network",
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
    /// Whether of those who have logged in.
    pub authenticated: bool,
}

impl Bypass {
    /// Why mail of this client is not evaluated; none: it is.
    pub fn reason(&self, client: IpAddr, login: Login) -> Option<BypassReason> {
        if self.trusts(client) {
            Some(BypassReason::TrustedNetwork)
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_address_and_login() {
        use BypassReason::{Authenticated, TrustedNetwork};
        let cases = [
            ("192.0.2.1", Login::Anonymous, Some(TrustedNetwork), Some(TrustedNetwork)),
            ("192.0.2.1", Login::Authenticated, Some(TrustedNetwork), Some(TrustedNetwork)),
            ("198.51.100.1", Login::Anonymous, None, None),
            ("198.51.100.1", Login::Authenticated, Some(Authenticated), None),
            ("2001:db8::1", Login::Anonymous, Some(TrustedNetwork), Some(TrustedNetwork)),
            ("::ffff:192.0.2.1", Login::Anonymous, None, None),
        ];
        let networks = ["192.0.2.0/24", "2001:db8::/32"].map(|network| network.parse().unwrap());
        for (client, login, with_logins, without) in cases {
            for (authenticated, expected) in [(true, with_logins), (false, without)] {
                let bypass = Bypass { trusted_networks: networks.into(), authenticated };
                assert_eq!(bypass.reason(client.parse().unwrap(), login), expected, "{client} {login} {authenticated}");
            }
        }
    }
}
