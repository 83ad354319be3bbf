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
        /// The reply to its end was lost: it may have been delivered.
        Unanswered = "unanswered",
        /// The relay refuses the destination.
        DestinationRefused = "destination_refused",
        /// The relay refuses the message.
        MessageRefused = "message_refused",
        /// The destination is suppressed.
        Suppressed = "suppressed",
        /// The destination has had its share of the day.
        Capped = "capped",
        /// There is nothing to send.
        Skipped = "skipped",
        /// Another gate has taken the job over.
        Lost = "lost",
    }
}

/// What is counted.
#[derive(Clone)]
pub struct Metrics {
    /// Jobs that were planned by this gate.
    pub planned: IntCounter,
    /// Attempts by outcome.
    pub jobs: Family<JobOutcome>,
    /// Messages that the reports sent tell of.
    pub messages: IntCounter,
    /// Reports that may have arrived before they were sent once more.
    pub possible_duplicates: IntCounter,
    /// What came to the addresses for bounces.
    pub bounces: Family<BounceKind>,
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
            jobs: registry.family("dmarcgate_reports_attempts_total", "Attempts to send a report.", "outcome"),
            messages: registry.counter(
                "dmarcgate_reports_messages_total",
                "Messages that the reports sent tell of, once for each destination.",
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
            last_run: registry.gauge(
                "dmarcgate_reports_run_seconds",
                "When this gate last looked for reports that are due, in seconds since 1970; 0: never.",
            ),
        }
    }
}
