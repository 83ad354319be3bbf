//! What the resolver counts.

use crate::label_enum;
use crate::metrics::{Family, Histograms, IntCounter, IntGauge, Registry};

use super::{Failure, RecordType};

label_enum! {
    /// Where the answer to a message's question came from.
    pub enum Source {
        /// The cache had it.
        Cache = "cache",
        /// The same question was under way already.
        Shared = "shared",
        /// A name server was asked.
        Server = "server",
    }
}

label_enum! {
    /// Why a question that was put by UDP was put again by TCP.
    pub enum TcpReason {
        /// The answer was cut off.
        Truncated = "truncated",
        /// It came back in another spelling than the question's (0x20): it may be forged.
        Spelling = "spelling",
        /// It could not be read.
        Unreadable = "unreadable",
    }
}

/// The resolver's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    pub(super) lookups: Family<Source>,
    pub(super) queries: Family<RecordType>,
    pub(super) failures: Family<Failure>,
    pub(super) seconds: Histograms<RecordType>,
    pub(super) tcp: Family<TcpReason>,
    pub(super) evictions: IntCounter,
    pub(super) entries: IntGauge,
    pub(super) entries_limit: IntGauge,
    pub(super) outstanding: IntGauge,
    pub(super) outstanding_limit: IntGauge,
}

impl Metrics {
    /// Registers them, once for each registry.
    pub fn new(registry: &Registry) -> Self {
        Self {
            lookups: registry.family(
                "dmarcgate_dns_lookups_total",
                "Questions of messages, by where the answer came from.",
                "source",
            ),
            queries: registry.family(
                "dmarcgate_dns_queries_total",
                "Questions put to the name servers; a retry does not count again.",
                "type",
            ),
            failures: registry.family(
                "dmarcgate_dns_failures_total",
                "Questions that ended without a usable answer: to the name servers, or, with budget, deadline and overload, of messages.",
                "failure",
            ),
            seconds: registry.histograms(
                "dmarcgate_dns_query_seconds",
                "Time from putting a question to the name servers to its answer or failure.",
                "type",
                BUCKETS,
            ),
            tcp: registry.family(
                "dmarcgate_dns_tcp_total",
                "Questions put again by TCP, by why the answer by UDP would not do.",
                "reason",
            ),
            evictions: registry.counter(
                "dmarcgate_dns_cache_evictions_total",
                "Answers that left the cache, or did not get in, for want of room.",
            ),
            entries: registry.gauge("dmarcgate_dns_cache_entries", "Answers in the cache."),
            entries_limit: registry.gauge(
                "dmarcgate_dns_cache_entries_limit",
                "Answers that the cache may hold, large ones counting for several: dns.cache_entries.",
            ),
            outstanding_limit: registry.gauge(
                "dmarcgate_dns_outstanding_limit",
                "Questions of SPF, DKIM and ARC that may be put to name servers at a time, and as many of policies; others wait.",
            ),
            outstanding: registry.gauge(
                "dmarcgate_dns_outstanding",
                "Questions under way or waiting for their turn to be put to a name server.",
            ),
        }
    }
}

/// Seconds: from a warm local resolver over a cold walk through the Internet to the last attempt's time-out.
const BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
