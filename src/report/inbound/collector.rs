//! Takes reports out of mail that was delivered, reads them on a blocking thread and puts them into the store.
//!
//! A session makes an [`InboundMessage`] before a message goes to the upstream, and hands it in once the upstream has
//! said 250. Nothing here delays mail: the message waits in a bounded queue, and beyond that it is counted and not
//! read. One message is read at a time, so that memory and threads are bounded however many come.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info};

use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::domain::Domain;
use crate::envelope::Envelope;
use crate::evaluation::subject::Subject;
use crate::evaluation::{DkimOutput, DkimResult, Evaluation};
use crate::label_enum;
use crate::message::spool::{Allotment, Allowance, Duplicate, Spool};
use crate::metrics::{Family, IntCounter, Registry};
use crate::panics::caught_in;
use crate::report::inbound::{Refusal, Report, read};
use crate::smtp::data::Unstuffer;
use crate::spf::SpfResult;
use crate::store::inbound::{InboundStore, Put};

/// What the operator sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The recipients whose mail is looked at.
    pub addresses: Vec<Box<str>>,
    /// Whose reports count.
    pub senders: Senders,
    /// Octets of a message that is read.
    pub message_size: u64,
}

label_enum! {
    /// Whose reports count.
    pub enum Senders {
        /// Those whose author domain has an aligned pass.
        Verified = "verified",
        /// Everyone's.
        Any = "any",
    }
}

/// A message that may bring a report.
#[derive(Debug)]
pub struct InboundMessage {
    /// Of its transaction, for the log.
    id: Box<str>,
    /// Its author domain, if there is one alone and it is verified.
    reporter: Option<Domain>,
    content: Result<Content, Refusal>,
}

#[derive(Debug)]
struct Content {
    subject: Arc<Subject>,
    body: Duplicate,
    /// What it has of the memory for those that wait; none before it waits.
    allotment: Option<Allotment>,
}

/// Where sessions hand in messages; cheap to clone.
#[derive(Clone)]
pub struct Collector {
    messages: mpsc::Sender<InboundMessage>,
    /// What messages that wait may keep of their header sections.
    allowance: Allowance,
    metrics: Metrics,
}

#[derive(Clone)]
struct Metrics {
    read: IntCounter,
    refused: Family<Refusal>,
    rows: IntCounter,
}

impl Settings {
    /// Whether one of the recipients is one of the addresses.
    fn cover(&self, envelope: &Envelope) -> bool {
        let covered = |path: &str| self.addresses.iter().any(|address| address.eq_ignore_ascii_case(path));
        !self.addresses.is_empty() && envelope.recipients.iter().any(|path| covered(path.mailbox().as_str()))
    }
}

impl InboundMessage {
    /// What is needed to read the report in a message later; none if it goes to no address for reports. Costs a copy of
    /// what the spool has in memory; for other mail it costs nothing.
    pub fn of(
        settings: &Settings,
        (id, envelope): (&str, &Envelope),
        evaluation: Option<&Evaluation>,
        (subject, body): (&Arc<Subject>, &Spool),
    ) -> Option<Self> {
        if !settings.cover(envelope) {
            return None;
        }
        let reporter = evaluation.and_then(verified);
        let octets = (subject.section.as_bytes().len() as u64).saturating_add(body.len());
        let content = if settings.senders == Senders::Verified && reporter.is_none() {
            Err(Refusal::Unverified)
        } else if octets > settings.message_size {
            Err(Refusal::MessageSize)
        } else {
            Ok(Content { subject: Arc::clone(subject), body: body.duplicate(), allotment: None })
        };
        Some(Self { id: id.into(), reporter, content })
    }
}

/// The author domain, if DKIM or SPF vouches for it. Where it has no policy, alignment was not looked at; a pass for
/// the very domain is aligned whatever a policy might say.
fn verified(evaluation: &Evaluation) -> Option<Domain> {
    let [dmarc] = &*evaluation.dmarc else { return None };
    let author = &dmarc.author_domain;
    let spf = &evaluation.spf;
    let by_spf = spf.result == SpfResult::Pass && spf.domain.as_ref() == Some(author);
    let signs = |dkim: &DkimOutput| dkim.result == DkimResult::Pass && dkim.domain.as_ref() == Some(author);
    let is_verified = dmarc.dkim_aligned || dmarc.spf_aligned || by_spf || evaluation.dkim.iter().any(signs);
    is_verified.then(|| author.clone())
}

impl Content {
    /// The report in it. Reads a file and takes up to a second for the largest: not on an I/O thread.
    fn read(self) -> Result<Report, Refusal> {
        let mut message = self.subject.section.as_bytes().to_vec();
        let body = self.body.read().map_err(|_| Refusal::Fault)?;
        message.reserve(body.len());
        Unstuffer::default().unstuff(&body, &mut message);
        drop(body);
        read(&message)
    }
}

impl Collector {
    /// Starts the task that reads, on the current runtime. It ends when all collectors are gone and what waits is read.
    /// `allowance` is what messages that wait may keep of the spool's memory for their header sections.
    pub fn start(store: InboundStore, allowance: Allowance, registry: &Registry) -> (Self, JoinHandle<()>) {
        let metrics = Metrics {
            read: registry
                .counter("dmarcgate_inbound_reports_total", "Aggregate reports of others that were read and stored."),
            refused: registry.family(
                "dmarcgate_inbound_reports_refused_total",
                "Messages to reports.inbound.addresses whose report was not read or did not count.",
                "reason",
            ),
            rows: registry.counter("dmarcgate_inbound_rows_total", "Rows of the reports that were read."),
        };
        let (messages, waiting) = mpsc::channel(MAX_WAITING);
        let task = tokio::spawn(run(waiting, store, metrics.clone()));
        (Self { messages, allowance, metrics }, task)
    }

    /// Hands in a message that the upstream has taken; never waits.
    pub fn hand_in(&self, message: InboundMessage) {
        if self.queue(message).is_none() {
            self.metrics.refused.inc(Refusal::QueueFull);
        }
    }

    fn queue(&self, mut message: InboundMessage) -> Option<()> {
        if let Ok(Content { subject, allotment, .. }) = &mut message.content {
            *allotment = Some(self.allowance.take(subject.section.as_bytes().len())?);
        }
        self.messages.try_send(message).ok()
    }
}

async fn run(mut messages: mpsc::Receiver<InboundMessage>, mut store: InboundStore, metrics: Metrics) {
    while let Some(InboundMessage { id, reporter, content }) = messages.recv().await {
        let read = match content {
            Ok(content) => {
                let read = spawn_blocking(move || caught_in(|| content.read()));
                read.await.ok().and_then(Result::ok).unwrap_or(Err(Refusal::Fault))
            }
            Err(refusal) => Err(refusal),
        };
        let taken = match read {
            Ok(report) => take(Report { reporter: reporter.clone(), ..report }, &mut store).await,
            Err(refusal) => Err(refusal),
        };
        let reporter = reporter.as_ref().map_or("", Domain::as_str);
        match taken {
            Ok(report) => {
                metrics.read.inc();
                metrics.rows.inc_by(report.rows.len() as u64);
                info!(
                    transaction = &*id,
                    reporter,
                    organization = report.organization,
                    report_id = report.report_id,
                    policy_domain = report.policy_domain.as_str(),
                    rows = report.rows.len(),
                    messages = report.messages(),
                    "a report of others was read"
                );
            }
            Err(refusal) => {
                metrics.refused.inc(refusal);
                info!(transaction = &*id, reporter, reason = %refusal, "a report of others was not read");
            }
        }
    }
}

/// Puts a report into the store, in several attempts.
async fn take(report: Report, store: &mut InboundStore) -> Result<Report, Refusal> {
    let now = epoch_seconds_signed();
    if report.end > now + EARLY || report.end < now - store.keeps() {
        return Err(Refusal::Period);
    }
    let mut pauses = PAUSES.iter();
    loop {
        match store.put(&report, now).await {
            Ok(Put::Stored) => return Ok(report),
            Ok(Put::Known) => return Err(Refusal::Duplicate),
            Err(fault) => {
                error!(error = %Causes(&fault), "the database does not take a report of others; mail is not affected");
                sleep(*pauses.next().ok_or(Refusal::Store)?).await;
            }
        }
    }
}

/// Messages that may wait: each has a descriptor and a quarter of a megabyte at most that counts for no budget. The header
/// section and whole pieces, up to 2 MiB of a message, are the spool's and count for its budget until it was read; of the
/// former there may be an eighth of the budget.
const MAX_WAITING: usize = 32;
/// Seconds that a period may end after now: reporters' clocks and days are not ours.
const EARLY: i64 = 2 * 86_400;
/// Between attempts: a database that is restarted is back by then.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::{ForwardPath, ReversePath};
    use crate::smtp::parameter::MailParameters;

    #[test]
    fn an_address_is_one_of_the_recipients_in_whatever_case() {
        let settings = |addresses: &[&str]| Settings {
            addresses: addresses.iter().map(|address| (*address).into()).collect(),
            senders: Senders::Any,
            message_size: 1,
        };
        let envelope = |recipients: &[&str]| {
            let mut envelope = Envelope::new(ReversePath::Null, MailParameters::default());
            let paths = recipients.iter().map(|path| ForwardPath::parse(path.as_bytes()).unwrap().0);
            envelope.recipients.extend(paths);
            envelope
        };
        let cases: &[(&[&str], &[&str], bool)] = &[
            (&["dmarc@example.net"], &["<dmarc@example.net>"], true),
            (&["dmarc@example.net"], &["<a@example.net>", "<DMARC@Example.NET>"], true),
            (&["a@example.net", "b@example.net"], &["<b@example.net>"], true),
            (
                &["dmarc@example.net"],
                &["<xdmarc@example.net>", "<dmarc@example.net.evil.example>", "<Postmaster>"],
                false,
            ),
            (&["dmarc@example.net"], &[], false),
            (&[], &["<dmarc@example.net>"], false),
        ];
        for (addresses, recipients, expected) in cases {
            assert_eq!(settings(addresses).cover(&envelope(recipients)), *expected, "{addresses:?} {recipients:?}");
        }
    }
}
