//! What the upstream side counts.

use crate::label_enum;
use crate::metrics::{Family, Histogram, IntCounter, IntGauge, Registry};

label_enum! {
    /// What became of an attempt to connect.
    pub enum ConnectResult {
        /// Open, client handed over.
        Open = "open",
        /// Nobody answered.
        Unreachable = "unreachable",
        /// The dialogue failed before it could be used.
        Setup = "setup",
        /// TLS was demanded and could not be had.
        Tls = "tls",
        /// The gate was refused.
        GateRefused = "gate_refused",
        /// XCLIENT was wanted and not announced.
        NoXclient = "no_xclient",
        /// The client was refused.
        ClientRefused = "client_refused",
    }
}

label_enum! {
    /// Why a transaction's link was lost.
    pub enum LostAt {
        /// Before DATA; told again.
        Replayed = "replayed",
        /// Before DATA; could not be told again.
        BeforeData = "before_data",
        /// Between DATA and the final dot.
        InData = "in_data",
        /// After the final dot without a reply: possibly a duplicate.
        AfterEnd = "after_end",
    }
}

/// What the upstream side counts.
#[derive(Clone)]
pub struct Metrics {
    /// Attempts to connect.
    pub connections: Family<ConnectResult>,
    /// How long an attempt took.
    pub connect_seconds: Histogram,
    /// Connections open or being opened.
    pub open: IntGauge,
    /// How many there may be.
    pub limit: IntGauge,
    /// Servers that are configured.
    pub servers: IntGauge,
    /// Waits for a connection to become free that ended in vain.
    pub slot_timeouts: IntCounter,
    /// Servers that did not answer when last tried.
    pub servers_down: IntGauge,
    /// Connections lost inside a transaction.
    pub lost: Family<LostAt>,
    /// Replies that could not be read or did not fit.
    pub nonsense: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Self {
        Self {
            connections: registry.family(
                "dmarcgate_upstream_connections_total",
                "Attempts to open a connection to the upstream.",
                "result",
            ),
            connect_seconds: registry.histogram(
                "dmarcgate_upstream_connect_seconds",
                "Time of an attempt to open a connection to the upstream, its greeting and the hand-over of the client \
                 included, whatever came of it.",
                BUCKETS,
            ),
            limit: registry.gauge(
                "dmarcgate_upstream_connections_limit",
                "Connections of sessions to the upstream that may be open: upstream.connections.",
            ),
            servers: registry.gauge("dmarcgate_upstream_servers", "Upstream servers that are configured."),
            open: registry.gauge(
                "dmarcgate_upstream_connections_open",
                "Connections of sessions to the upstream, open or being opened; upstream.connections bounds them.",
            ),
            slot_timeouts: registry.counter(
                "dmarcgate_upstream_slot_timeouts_total",
                "Transactions put off because no connection to the upstream became free within timeouts.upstream_slot.",
            ),
            servers_down: registry.gauge(
                "dmarcgate_upstream_servers_down",
                "Upstream servers that did not answer as they should when last tried.",
            ),
            lost: registry.family(
                "dmarcgate_upstream_lost_total",
                "Upstream connections lost inside a transaction; after_end is a possible duplicate.",
                "at",
            ),
            nonsense: registry.counter(
                "dmarcgate_upstream_nonsense_total",
                "Upstream replies that could not be read or did not fit the state.",
            ),
        }
    }
}

/// Seconds: from a server on the same machine to the time-out of one that hangs.
const BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
