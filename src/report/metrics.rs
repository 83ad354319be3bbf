//! What is counted of reports.

use crate::label_enum;
use crate::metrics::{Family, IntCounter, IntGauge, Registry};
use crate::report::bounce::BounceKind;

label_enum! {
    /// What came of one attempt to send a report.
    pub enum JobOutcome {
        /// The relay has taken it.
        Sent = "sent",
        /// It was written into a file.
        Written = "written",
        /// It is tried again later.
        Postponed = "postponed",
        /// It was `postponed` or `capped` once more, and its deadline leaves no time for another attempt.
        GivenUp = "given_up",
        /// The reply to the end of its data was lost: it may have been delivered.
        Unanswered = "unanswered",
        /// The relay refuses the destination.
        DestinationRefused = "destination_refused",
        /// The relay refuses the message.
        MessageRefused = "message_refused",
        /// The destination is suppressed.
        Suppressed = "suppressed",
        /// The destination or its organization has had its share of the day, or the domain's organization that of
        /// replacements.
        Capped = "capped",
        /// There is nothing to send.
        Skipped = "skipped",
        /// Another gate has taken the job over.
        Lost = "lost",
    }
}

label_enum! {
    /// What became of a failure report, or of the failure that it would have reported.
    pub enum FailureOutcome {
        /// The relay has taken it.
        Sent = "sent",
        /// It was written into a file.
        Written = "written",
        /// There were enough lately: the next one counts it in.
        HeldBack = "held_back",
        /// The organization of the address, or all reports together, had their share of the hour.
        Capped = "capped",
        /// The organization of the address was told of the same message already, for another author domain.
        Repeated = "repeated",
        /// The operator's deny list has its domain or its address.
        Denied = "denied",
        /// The address is one that no report goes to, or does not want it.
        NoConsent = "no_consent",
        /// DNS left open whether the address wants it.
        Unverified = "unverified",
        /// The address is the sender of reports.
        OwnAddress = "own_address",
        /// The address has refused reports lately.
        Suppressed = "suppressed",
        /// The relay refuses the address.
        DestinationRefused = "destination_refused",
        /// The relay refuses the message.
        MessageRefused = "message_refused",
        /// The reply to the end of its data was lost: it may have been delivered.
        Unanswered = "unanswered",
        /// Relay or store failed, and it was given up.
        Failed = "failed",
        /// More came than could be sent.
        Lost = "lost",
        /// A fault of ours.
        Fault = "fault",
    }
}

label_enum! {
    /// Why a report leaves out a message.
    pub enum Omission {
        /// It came from a private or reserved address (`reports.private_addresses`).
        PrivateAddress = "private_address",
        /// The report holds no more records.
        Surplus = "surplus",
    }
}

/// What is counted of failure reports.
#[derive(Clone)]
pub struct FailureMetrics {
    /// One for each address, or for the failure where it did not come to an address.
    pub reports: Family<FailureOutcome>,
}

impl FailureMetrics {
    /// All at 0.
    pub fn new(registry: &Registry) -> Self {
        let help =
            "Failure reports, one for each address, and failures that were not reported, by what became of them.";
        Self { reports: registry.family("dmarcgate_failure_reports_total", help, "outcome") }
    }
}

/// What is counted.
#[derive(Clone)]
pub struct Metrics {
    /// Jobs that were planned by this gate.
    pub planned: IntCounter,
    /// Jobs that the last planning left out.
    pub left_out: IntGauge,
    /// Attempts by outcome.
    pub jobs: Family<JobOutcome>,
    /// Messages that the reports sent cover.
    pub messages: IntCounter,
    /// Messages that the reports leave out.
    pub omitted: Family<Omission>,
    /// Reports that may have arrived before they were sent once more.
    pub possible_duplicates: IntCounter,
    /// What came to the addresses for bounces.
    pub bounces: Family<BounceKind>,
    /// Jobs that have not come to their end.
    pub unfinished: IntGauge,
    /// When jobs were last looked for.
    pub last_run: IntGauge,
}

impl Metrics {
    /// All at 0.
    pub fn new(registry: &Registry) -> Self {
        Self {
            planned: registry.counter(
                "dmarcgate_reports_planned_total",
                "Reports to one destination each that this gate was the first to plan.",
            ),
            left_out: registry.gauge(
                "dmarcgate_reports_left_out",
                "Reports that this gate's last planning left out, since an organization had its share of the day.",
            ),
            jobs: registry.family("dmarcgate_reports_attempts_total", "Attempts to send a report.", "outcome"),
            messages: registry.counter(
                "dmarcgate_reports_messages_total",
                "Messages that the reports sent tell of, once for each destination.",
            ),
            omitted: registry.family(
                "dmarcgate_reports_omitted_messages_total",
                "Messages that a report was made without, once for each destination.",
                "reason",
            ),
            possible_duplicates: registry.counter(
                "dmarcgate_reports_possible_duplicates_total",
                "Reports sent once more since the reply to an earlier end of data was lost.",
            ),
            bounces: registry.family(
                "dmarcgate_reports_bounces_total",
                "Messages to the addresses for bounces of reports.",
                "kind",
            ),
            unfinished: registry.gauge(
                "dmarcgate_reports_unfinished",
                "Reports in the store that wait for their time or for another attempt, those of all gates on it.",
            ),
            last_run: registry.gauge(
                "dmarcgate_reports_run_seconds",
                "When this gate last looked for reports that are due, in seconds since 1970; 0: never.",
            ),
        }
    }
}
