//! What sessions and their transactions count.

use super::fault::Fault;
use super::state::Parting;
use crate::dmarc::public_suffix::Agreement;
use crate::evaluation::{ArcResult, DkimResult, DmarcResult};
use crate::label_enum;
use crate::metrics::{Family, Histogram, IntCounter, IntGauge, Pairs, Registry};
use crate::policy::Rule;
use crate::policy::bypass::BypassReason;
use crate::policy::corroboration::{Counting, Sign};
use crate::policy::treatment::{Opinion, Treatment};
use crate::record::UpstreamReply;
use crate::spf::SpfResult;

label_enum! {
    /// What became of a message whose end of data was reached.
    pub enum Outcome {
        /// The upstream took it.
        Accepted = "accepted",
        /// The upstream took it, marked.
        AcceptedTagged = "accepted_tagged",
        /// The upstream refused it for good.
        UpstreamRefused = "upstream_refused",
        /// The upstream asks the client to come again.
        UpstreamDeferred = "upstream_deferred",
        /// The gate refused it by policy.
        Refused = "refused",
        /// The gate asks the client to come again, since DNS left the verdict open.
        Deferred = "deferred",
        /// The gate refused it for its form or size.
        Unacceptable = "unacceptable",
        /// The upstream or the spool failed; the client is to come again.
        Failed = "failed",
        /// A bounce of a report, which the gate has taken itself.
        Bounce = "bounce",
    }
}

label_enum! {
    /// How an AUTH exchange ended.
    pub enum LoginResult {
        /// The upstream accepted the client.
        Accepted = "accepted",
        /// The upstream refused it for good.
        Refused = "refused",
        /// The upstream could not say, or was lost.
        Failed = "failed",
        /// The client gave up.
        Cancelled = "cancelled",
    }
}

label_enum! {
    /// Why a session ended other than by QUIT.
    pub enum Ended {
        /// The client closed the connection.
        ClientGone = "client_gone",
        /// The client was silent too long.
        Timeout = "timeout",
        /// The client sent the octets of a message too slowly.
        Slow = "slow",
        /// The client made too many errors.
        Errors = "errors",
        /// The client sent too many commands without mail.
        Commands = "commands",
        /// The client spoke before the greeting.
        Pregreet = "pregreet",
        /// The gate stops.
        Stopping = "stopping",
        /// The client sent far more than it may.
        Excess = "excess",
        /// The upstream closed, or the client was told to come again.
        Unavailable = "unavailable",
        /// The TLS handshake behind STARTTLS failed.
        Handshake = "handshake",
        /// A PROXY header from an address that may not send one, or none from one that must.
        ProxyHeader = "proxy_header",
        /// A client without an address, a balancer's health check, wanted to send mail.
        HealthCheck = "health_check",
        /// A fault of ours: the session's task panicked.
        Panic = "panic",
    }
}

impl Ended {
    /// Why the state machine closed a session, unless by QUIT.
    pub fn of(parting: Parting) -> Option<Self> {
        match parting {
            Parting::Quit => None,
            Parting::Unavailable => Some(Self::Unavailable),
            Parting::ProxyHeader => Some(Self::ProxyHeader),
            Parting::Lost => Some(Self::Errors),
            Parting::HealthCheck => Some(Self::HealthCheck),
        }
    }
}

/// What sessions count.
#[derive(Clone)]
pub struct Metrics {
    /// Sessions begun.
    pub sessions: IntCounter,
    /// Sessions open now.
    pub active: IntGauge,
    /// Sessions that ended otherwise than by QUIT.
    pub ended: Family<Ended>,
    /// Messages by what became of them.
    pub messages: Family<Outcome>,
    /// Messages refused for their form or size.
    pub unacceptable: Family<Fault>,
    /// Messages put off because the spool could not keep them.
    pub unkept: IntCounter,
    /// Messages that were not evaluated.
    pub bypassed: Family<BypassReason>,
    /// AUTH exchanges by how they ended.
    pub logins: Family<LoginResult>,
    /// Recipients that the relay guard refused.
    pub guarded: IntCounter,
    /// Evaluated messages by the rule that decided.
    pub rules: Family<Rule>,
    /// Messages for which the shadow policy was asked, too.
    pub shadow_compared: IntCounter,
    /// Those that it would have treated otherwise.
    pub shadow_differences: Pairs<Treatment, Treatment>,
    /// What the gate thinks of messages beside what the upstream said to them.
    pub verdict_replies: Pairs<Opinion, UpstreamReply>,
    /// Signs of indirect flow in failing messages, by whether they count.
    pub signs: Pairs<Sign, Counting>,
    /// Author domains by DMARC result.
    pub dmarc: Family<DmarcResult>,
    /// Author domains with a policy by whether tree walk and list agree on the organizational domain.
    pub discovery: Family<Agreement>,
    /// Evaluated messages by SPF result.
    pub spf: Family<SpfResult>,
    /// EHLO names that were checked beside the reverse-path, by SPF result.
    pub spf_helo: Family<SpfResult>,
    /// Signatures by DKIM result.
    pub dkim: Family<DkimResult>,
    /// Evaluated messages by ARC result.
    pub arc: Family<ArcResult>,
    /// From the client's end of data to the verdict.
    pub evaluation: Histogram,
    /// From the client's end of data to its reply.
    pub end_of_data: Histogram,
    /// Octets of messages received.
    pub octets: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Self {
        Self {
            sessions: registry.counter("dmarcgate_sessions_total", "SMTP sessions begun."),
            active: registry.gauge("dmarcgate_sessions_active", "SMTP sessions open now."),
            ended: registry.family(
                "dmarcgate_sessions_ended_total",
                "SMTP sessions that ended otherwise than by QUIT.",
                "reason",
            ),
            messages: registry.family(
                "dmarcgate_messages_total",
                "Messages whose end of data was reached.",
                "outcome",
            ),
            unacceptable: registry.family(
                "dmarcgate_unacceptable_messages_total",
                "Messages that the gate refused for their form or size.",
                "reason",
            ),
            unkept: registry.counter(
                "dmarcgate_spool_refusals_total",
                "Messages put off with 452: the memory for all is used up, or the spool directory fails.",
            ),
            bypassed: registry.family("dmarcgate_bypassed_total", "Messages that were not evaluated.", "reason"),
            logins: registry.family("dmarcgate_logins_total", "AUTH exchanges relayed to the upstream.", "result"),
            guarded: registry.counter(
                "dmarcgate_relay_guard_refusals_total",
                "Recipients refused because neither the upstream nor the configuration guards against relaying to them.",
            ),
            rules: registry.family("dmarcgate_decisions_total", "Evaluated messages.", "rule"),
            shadow_compared: registry.counter(
                "dmarcgate_shadow_compared_total",
                "Messages that the shadow policy judged beside the one in force; at each attempt, where one is deferred.",
            ),
            shadow_differences: registry.pairs(
                "dmarcgate_shadow_differences_total",
                "Those of them that the shadow policy would have treated otherwise.",
                ["active", "shadow"],
            ),
            verdict_replies: registry.pairs(
                "dmarcgate_verdict_replies_total",
                "Messages that were passed on: what DMARC says of them, and the upstream's reply.",
                ["verdict", "reply"],
            ),
            signs: registry.pairs(
                "dmarcgate_signs_total",
                "Signs of indirect mail flow in messages that fail DMARC; not_counted by policy.signs or policy.reject.",
                ["sign", "counting"],
            ),
            dmarc: registry.family("dmarcgate_dmarc_results_total", "Author domains evaluated.", "result"),
            discovery: registry.family(
                "dmarcgate_dmarc_discovery_total",
                "Author domains with a policy: whether tree walk and public suffix list give one organizational domain.",
                "agreement",
            ),
            spf: registry.family("dmarcgate_spf_results_total", "SPF evaluations.", "result"),
            spf_helo: registry.family(
                "dmarcgate_spf_helo_results_total",
                "SPF evaluations of EHLO names beside the reverse-path, for information alone.",
                "result",
            ),
            dkim: registry.family("dmarcgate_dkim_results_total", "DKIM signatures evaluated.", "result"),
            arc: registry.family("dmarcgate_arc_results_total", "ARC chains evaluated.", "result"),
            evaluation: registry.histogram(
                "dmarcgate_evaluation_seconds",
                "Time from a client's end of data to the verdict.",
                LATENCIES,
            ),
            end_of_data: registry.histogram(
                "dmarcgate_end_of_data_seconds",
                "Time from a client's end of data to its reply, the upstream's part included.",
                LATENCIES,
            ),
            octets: registry.counter("dmarcgate_message_bytes_total", "Octets of message content received."),
        }
    }
}

/// Half a millisecond, which a warm cache takes, to the minutes that an MTA may take for its own filters.
const LATENCIES: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0];
