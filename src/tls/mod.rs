//! TLS towards clients and the upstream: handshakes bounded in time, certificates chosen, checked and read anew.
//!
//! rustls stays behind this border: others see [`Server`], [`Client`] and, of a handshake that succeeded, its
//! [`Protection`]. What was read in the clear is thrown away with the plain stream, so that nothing that an attacker
//! injected before the handshake is taken for the peer's own words after it (CVE-2011-0411 and its kin). TLS 1.2 and
//! 1.3 are spoken, with the ciphers that rustls considers good; anything older is counted and fails.

mod certificate;
mod client;
mod client_certificate;
mod metrics;
mod server;
#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::{self, AlertDescription, CipherSuite, CommonState, ProtocolVersion};

pub use self::certificate::{CertificateFiles, FileError};
pub use self::client::{Client, ClientSettings, Pin, Trust, TrustError, client_config};
pub use self::client_certificate::ClientFingerprint;
pub use self::metrics::{ClientMetrics, Handshake, Reload, ServerMetrics};
pub use self::server::{Named, Server, ServerSettings, inspect};
use crate::label_enum;

label_enum! {
    /// TLS at a listener.
    pub enum ListenerTls {
        /// None.
        Off = "off",
        /// On request, by STARTTLS.
        StartTls = "starttls",
        /// From the first octet.
        Implicit = "implicit",
    }
}

label_enum! {
    /// The versions of TLS that are spoken.
    pub enum Version {
        /// RFC 5246.
        Tls12 = "TLSv1.2",
        /// RFC 8446.
        Tls13 = "TLSv1.3",
    }
}

/// What protects a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    /// The version of TLS.
    pub version: Version,
    /// The cipher suite, by the name that IANA has for it.
    pub cipher: &'static str,
    /// The certificate of a client that was asked for one and has proved to hold its key.
    pub certificate: Option<ClientFingerprint>,
}

/// Why a handshake failed. The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It was not over in time.
    #[error("TLS handshake not over in time")]
    Timeout,
    /// The connection is under TLS already: our fault.
    #[error("TLS inside TLS")]
    Twice,
    /// The name to verify is not a name: our fault, since the configuration has checked it.
    #[error("{0:?} is no name that a certificate could have")]
    Name(Box<str>),
    /// The peer's fault, or the network's; rustls says which.
    #[error("TLS handshake failed: {0}")]
    Failed(io::Error),
}

impl Protection {
    /// What was negotiated; none before the end of the handshake.
    fn of(connection: &CommonState) -> Option<Self> {
        let version = match connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Version::Tls12,
            ProtocolVersion::TLSv1_3 => Version::Tls13,
            _ => return None,
        };
        let cipher = match connection.negotiated_cipher_suite()?.suite() {
            // rustls has spellings of its own for those of version 1.3.
            CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
            CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
            other => other.as_str().unwrap_or("unknown"),
        };
        Some(Self { version, cipher, certificate: None })
    }
}

impl HandshakeError {
    /// The cause under which it is counted.
    pub fn cause(&self) -> Handshake {
        let Self::Failed(error) = self else {
            return if matches!(self, Self::Timeout) { Handshake::Timeout } else { Handshake::Other };
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => cause(error),
            None if is_end(error) => Handshake::Closed,
            None => Handshake::Other,
        }
    }
}

fn cause(error: &rustls::Error) -> Handshake {
    use rustls::{Error, PeerIncompatible as Peer};
    match error {
        Error::PeerIncompatible(
            Peer::Tls12NotOffered
            | Peer::Tls12NotOfferedOrEnabled
            | Peer::SupportedVersionsExtensionRequired
            // Clients older than TLS 1.2 don't have it, and rustls looks for it before it looks at the version.
            | Peer::SignatureAlgorithmsExtensionRequired
            | Peer::ServerDoesNotSupportTls12Or13
            | Peer::ServerTlsVersionIsDisabledByOurConfig,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => Handshake::NoCommonVersion,
        Error::PeerIncompatible(
            Peer::NoCipherSuitesInCommon
            | Peer::NoKxGroupsInCommon
            | Peer::NoSignatureSchemesInCommon
            | Peer::NoEcPointFormatsInCommon
            | Peer::NamedGroupsExtensionRequired,
        ) => Handshake::NoCommonCipher,
        Error::AlertReceived(_) => Handshake::PeerAlert,
        Error::InvalidCertificate(_) => Handshake::Certificate,
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => Handshake::NotTls,
        _ => Handshake::Other,
    }
}

/// Whether the peer left without a word of TLS.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    error.source().is_none() && matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// The cryptographic library, which DKIM uses, too.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
