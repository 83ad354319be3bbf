//! What sessions and their transactions count.

use super::fault::Fault;
use super::objection::Objection;
use super::state::Parting;
use crate::dmarc::public_suffix::Agreement;
use crate::evaluation::{ArcResult, DkimResult, DmarcResult};
use crate::label_enum;
use crate::message::spool::Cause;
use crate::metrics::{Family, Histogram, Histograms, IntCounter, IntGauge, Pairs, Quads, Registry};
use crate::policy::Rule;
use crate::policy::bypass::BypassReason;
use crate::policy::corroboration::{Counting, Sign};
use crate::policy::treatment::{Applied, Opinion, Treatment, possible_words};
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
    /// What a client waits for between its end of data and our reply.
    pub enum Part {
        /// The gate's own work, until it has a verdict and the fields that it adds.
        Verdict = "verdict",
        /// A connection to the upstream, where there is none any more, and telling it the envelope again.
        Connect = "connect",
        /// The message on its way to the upstream.
        Transfer = "transfer",
        /// The upstream's final reply.
        UpstreamReply = "upstream_reply",
    }
}

label_enum! {
    /// Bounds that hold for one message and end neither its session nor its transaction.
    pub enum Limit {
        /// `limits.recipients`: a recipient was put off with 452.
        Recipients = "recipients",
        /// `limits.signatures`, or the octets that they sign: signatures were not evaluated.
        Signatures = "signatures",
        /// `limits.lookups`, or the octets of answers: DNS was not asked any more.
        Lookups = "lookups",
        /// `timeouts.evaluation`: what DNS had not said by then was not waited for.
        Evaluation = "evaluation",
        /// `upstream.hold`, or another session that needed it: the upstream's connection was let go.
        UpstreamHold = "upstream_hold",
    }
}

label_enum! {
    /// How an AUTH exchange ended.
    pub enum LoginResult {
        /// The upstream accepted the client.
        Accepted = "accepted",
        /// The upstream refused it for good, or does not offer the mechanism.
        Refused = "refused",
        /// The upstream could not say, asked without end, or was lost.
        Failed = "failed",
        /// The client gave up, went away or was silent too long, or sent what is no response.
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
        /// A PROXY header from an address that may not send one.
        ProxyHeader = "proxy_header",
        /// A client without an address, a balancer's health check, wanted to send mail.
        HealthCheck = "health_check",
        /// A fault of ours: the session's task panicked.
        Panic = "panic",
        /// A fault of ours: the session came where it can't.
        Fault = "fault",
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
    /// MAIL commands by the reply to them.
    pub transactions: Family<UpstreamReply>,
    /// RCPT commands by the reply to them, but for those that the relay guard refused.
    pub recipients: Family<UpstreamReply>,
    /// Bounds of a message that were reached.
    pub limits: Family<Limit>,
    /// Messages by what became of them.
    pub messages: Family<Outcome>,
    /// Messages refused for their form or size.
    pub unacceptable: Family<Fault>,
    /// MAIL and RCPT that the gate itself refused.
    pub objections: Family<Objection>,
    /// Messages put off because the spool could not keep them.
    pub unkept: Family<Cause>,
    /// Messages that were not evaluated.
    pub bypassed: Family<BypassReason>,
    /// AUTH exchanges by how they ended.
    pub logins: Family<LoginResult>,
    /// Recipients that the relay guard refused.
    pub guarded: IntCounter,
    /// Evaluated messages by result, policy, treatment and rule.
    pub verdicts: Quads<DmarcResult, Applied, Treatment, Rule>,
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
    /// The same in its parts.
    pub parts: Histograms<Part>,
    /// Octets of messages received.
    pub octets: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    #[expect(clippy::too_many_lines, reason = "one table: each metric with its help")]
    pub fn new(registry: &Registry) -> Self {
        let verdicts = registry.quads(
            "dmarcgate_verdicts_total",
            "Evaluated messages; policy is what applied after sp, np, t and pct.",
            ["result", "policy", "action", "reason"],
        );
        possible_words().for_each(|words| verdicts.announce(words));
        Self {
            verdicts,
            sessions: registry.counter("dmarcgate_sessions_total", "SMTP sessions begun."),
            active: registry.gauge("dmarcgate_sessions_active", "SMTP sessions open now."),
            ended: registry.family(
                "dmarcgate_sessions_ended_total",
                "SMTP sessions that ended otherwise than by QUIT.",
                "reason",
            ),
            transactions: registry.family(
                "dmarcgate_transactions_total",
                "Mail transactions that clients wanted to begin, by the reply to MAIL.",
                "reply",
            ),
            recipients: registry.family(
                "dmarcgate_recipients_total",
                "Recipients that the upstream was asked for, by the reply to RCPT.",
                "reply",
            ),
            limits: registry.family(
                "dmarcgate_limits_reached_total",
                "Bounds that a message has reached and that end neither session nor transaction, once for each time.",
                "limit",
            ),
            messages: registry.family(
                "dmarcgate_messages_total",
                "Messages whose end of data was reached, or that were cut off for their size.",
                "outcome",
            ),
            unacceptable: registry.family(
                "dmarcgate_unacceptable_messages_total",
                "Messages that the gate refused for their form or size.",
                "reason",
            ),
            objections: registry.family(
                "dmarcgate_command_refusals_total",
                "MAIL and RCPT that the gate itself refused, and chunks without a message that were too big; not for the relay guard, limits.recipients or the order of commands.",
                "reason",
            ),
            unkept: registry.family(
                "dmarcgate_spool_refusals_total",
                "Messages put off with 452, since the spool could not keep them.",
                "reason",
            ),
            bypassed: registry.family("dmarcgate_bypassed_total", "Messages that were not evaluated.", "reason"),
            logins: registry.family("dmarcgate_logins_total", "AUTH exchanges.", "result"),
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
            parts: registry.histograms(
                "dmarcgate_end_of_data_part_seconds",
                "What a client waits for between its end of data and the reply; the last three only where mail goes on.",
                "part",
                LATENCIES,
            ),
            octets: registry.counter("dmarcgate_message_bytes_total", "Octets of message content received."),
        }
    }
}

/// Half a millisecond, which a warm cache takes, to the minutes that an MTA may take for its own filters.
const LATENCIES: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0];
