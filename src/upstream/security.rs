//! Whether and how connections to the upstream are under TLS.

use crate::label_enum;
use crate::tls;

label_enum! {
    /// TLS towards the upstream, in the operator's words.
    pub enum UpstreamTls {
        /// None.
        Off = "off",
        /// STARTTLS if offered, without looking at the certificate.
        Opportunistic = "opportunistic",
        /// STARTTLS with a valid certificate.
        Required = "required",
        /// From the first octet, with a valid certificate.
        Implicit = "implicit",
    }
}

/// Whether and how connections are under TLS, with what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Security {
    /// In the clear.
    Off,
    /// STARTTLS where it is offered and succeeds, else in the clear: mail is never held up for it.
    Opportunistic(tls::Client),
    /// STARTTLS, or no mail.
    Required(tls::Client),
    /// From the first octet, or no mail.
    Implicit(tls::Client),
}

impl Security {
    /// What performs STARTTLS, where that is to be asked for.
    pub fn by_starttls(&self) -> Option<&tls::Client> {
        match self {
            Self::Opportunistic(client) | Self::Required(client) => Some(client),
            Self::Off | Self::Implicit(_) => None,
        }
    }
}
