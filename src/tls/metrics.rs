//! What TLS counts, apart for clients and for the upstream.

use super::Version;
use crate::label_enum;
use crate::metrics::{Family, IntGauge, Registry};

label_enum! {
    /// How a handshake ended.
    pub enum Handshake {
        /// The connection is protected.
        Ok = "ok",
        /// It was not over in time.
        Timeout = "timeout",
        /// The peer speaks neither TLS 1.2 nor 1.3.
        NoCommonVersion = "no_common_version",
        /// No cipher suite, key exchange or signature that both know.
        NoCommonCipher = "no_common_cipher",
        /// The peer's certificate is not believed.
        Certificate = "certificate",
        /// The peer ended it with an alert, for our certificate above all.
        PeerAlert = "peer_alert",
        /// What the peer sent is not TLS, or not in its order.
        NotTls = "not_tls",
        /// The peer closed the connection.
        Closed = "closed",
        /// Anything else; the log has it at level debug.
        Other = "other",
    }
}

label_enum! {
    /// How the certificates were read anew.
    pub enum Reload {
        /// Those of the files are shown from now on.
        Done = "done",
        /// A file is broken: the certificate that was read from it before is kept.
        Failed = "failed",
    }
}

/// What is counted of TLS towards clients.
#[derive(Clone)]
pub struct ServerMetrics {
    pub(super) handshakes: Family<Handshake>,
    pub(super) versions: Family<Version>,
    pub(super) reloads: Family<Reload>,
    pub(super) expiry: IntGauge,
}

/// What is counted of TLS towards the upstream.
#[derive(Clone)]
pub struct ClientMetrics {
    pub(super) handshakes: Family<Handshake>,
    pub(super) versions: Family<Version>,
}

impl ServerMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Self {
        Self {
            handshakes: registry.family("dmarcgate_tls_handshakes_total", "TLS handshakes with clients.", "result"),
            versions: registry.family(
                "dmarcgate_tls_connections_total",
                "Connections of clients under TLS.",
                "version",
            ),
            reloads: registry.family(
                "dmarcgate_tls_reloads_total",
                "Readings of changed certificate files; a broken file keeps what was read from it before.",
                "result",
            ),
            expiry: registry.gauge(
                "dmarcgate_tls_certificate_expiry_seconds",
                "When the certificate that expires first does so, in seconds since 1970; 0 without certificates.",
            ),
        }
    }
}

impl ClientMetrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Self {
        Self {
            handshakes: registry.family(
                "dmarcgate_upstream_tls_handshakes_total",
                "TLS handshakes with the upstream.",
                "result",
            ),
            versions: registry.family(
                "dmarcgate_upstream_tls_connections_total",
                "Connections to the upstream under TLS.",
                "version",
            ),
        }
    }
}
