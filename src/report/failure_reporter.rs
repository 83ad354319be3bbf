//! Sends failure reports as messages fail, at once: a report of yesterday's forgery does not help to stop today's.
//!
//! A session puts a [`Case`] into a bounded queue once its client has the reply; mail never waits for it. One task
//! takes them out, holds the rest of a flood back ([`RateLimit`]), settles who may be told, and hands the message to
//! the relay. No store keeps them: what the relay does not take after a few attempts, and what comes faster than it can
//! be sent, is counted as lost. The aggregate reports still cover it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info};

use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::dmarc::report_destination::ReportKind;
use crate::domain::Domain;
use crate::evaluation::subject::Subject;
use crate::evaluation::{DmarcOutput, Evaluation};
use crate::message::spool::{Allotment, Allowance};
use crate::metrics::Registry;
use crate::report::attempt::{file_name, put};
use crate::report::delivery::{self, Delivery};
use crate::report::failure::limit::{RateLimit, Rates, Share, organization};
use crate::report::failure::redaction::Redaction;
use crate::report::failure::{
    AuthFailure, Beginning, Canonicalized, Delivered, Extent, Incident, Signed, build, wanted,
};
use crate::report::metrics::{FailureMetrics, FailureOutcome};
use crate::report::recipient::{self, Address, recipients};
use crate::report::relay::{self, Envelope};
use crate::report::signing::sign;
use crate::smtp::address::ReversePath;

/// What the operator sets of failure reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether they are sent; the master switch for all reports stands above it.
    pub enabled: bool,
    /// How much of a message they contain.
    pub extent: Extent,
    /// How much they contain of what a failed signature was made over.
    pub canonicalized: Canonicalized,
    /// Whether local parts are hidden.
    pub redact: bool,
    /// How many there may be.
    pub rates: Rates,
}

/// A message that failed, as the session leaves it.
#[derive(Debug)]
pub struct Case {
    /// All that was found.
    pub evaluation: Evaluation,
    /// The message.
    pub subject: Arc<Subject>,
    /// The beginning of its body, if that is to be shown.
    pub body: Option<Beginning>,
    /// From MAIL.
    pub reverse_path: ReversePath,
    /// The client's port, if it is known.
    pub source_port: Option<u16>,
    /// What became of it.
    pub delivered: Delivered,
    /// The Authentication-Results field.
    pub results: String,
    /// The id of its transaction.
    pub id: Box<str>,
    /// When its end of data came, in epoch seconds.
    pub arrived: i64,
}

/// Where sessions put their cases; cheap to clone.
#[derive(Clone)]
pub struct FailureReporter {
    cases: mpsc::Sender<Box<Queued>>,
    /// What cases may keep of their messages.
    allowance: Allowance,
    metrics: FailureMetrics,
}

/// Room for one case in the queue, and for what it keeps of its message.
pub struct QueueSlot {
    place: mpsc::OwnedPermit<Box<Queued>>,
    allotment: Allotment,
}

/// A case, and what it takes of the memory for all.
struct Queued {
    case: Case,
    _allotment: Allotment,
}

/// Makes and sends the reports; cheap to clone.
#[derive(Clone)]
struct FailureWorker {
    delivery: Delivery,
    limit: Arc<Mutex<RateLimit>>,
    metrics: FailureMetrics,
}

/// The organizations that were told of a message, each with the author domain that it was told of: one is enough,
/// however many the message names.
type NotifiedOrganizations = Arc<Mutex<HashMap<Domain, Domain>>>;

/// A failure of one author domain, to be reported.
struct Failure<'a> {
    case: &'a Case,
    dmarc: &'a DmarcOutput,
    kind: AuthFailure,
    policy_domain: &'a Domain,
    /// The organization under which the policy domain is counted.
    organization: Domain,
    notified: &'a NotifiedOrganizations,
    incidents: u64,
}

/// What became of a report to one address, and why.
type Ending = (FailureOutcome, String);

impl FailureReporter {
    /// Starts the task that sends, on the current runtime. It ends when all copies are gone and what was in the
    /// queue has been dealt with. `allowance` is what its cases may keep of the spool's memory.
    pub fn start(
        delivery: Delivery,
        settings: watch::Receiver<Option<Arc<delivery::Settings>>>,
        allowance: Allowance,
        registry: &Registry,
    ) -> (Self, JoinHandle<()>) {
        let (sender, cases) = mpsc::channel(MAX_WAITING);
        let metrics = FailureMetrics::new(registry);
        let worker = FailureWorker { delivery, limit: Arc::default(), metrics: metrics.clone() };
        (Self { cases: sender, allowance, metrics }, tokio::spawn(run(cases, settings, worker)))
    }

    /// Room for a case that keeps so many octets of its message, taken before anything is kept for it; none if too many
    /// wait, which is counted. Never waits.
    pub fn slot(&self, octets: usize) -> Option<QueueSlot> {
        let slot = self.reserve(octets);
        if slot.is_none() {
            self.metrics.reports.inc(FailureOutcome::Lost);
        }
        slot
    }

    fn reserve(&self, octets: usize) -> Option<QueueSlot> {
        let allotment = self.allowance.take(octets)?;
        Some(QueueSlot { place: self.cases.clone().try_reserve_owned().ok()?, allotment })
    }
}

impl QueueSlot {
    /// Hands in the case.
    pub fn put(self, case: Case) {
        self.place.send(Box::new(Queued { case, _allotment: self.allotment }));
    }
}

async fn run(
    mut cases: mpsc::Receiver<Box<Queued>>,
    settings: watch::Receiver<Option<Arc<delivery::Settings>>>,
    worker: FailureWorker,
) {
    let mut workers = JoinSet::new();
    while let Some(queued) = cases.recv().await {
        let in_force = settings.borrow().clone();
        let Some(settings) = in_force.filter(|s| s.enabled && s.failure.enabled) else { continue };
        let queued: Arc<Queued> = queued.into();
        let evaluation = &queued.case.evaluation;
        let notified = NotifiedOrganizations::default();
        for (index, dmarc) in evaluation.dmarc.iter().enumerate() {
            let Some(policy) = dmarc.policy.as_ref().filter(|_| wanted(evaluation, dmarc).is_some()) else {
                continue;
            };
            let counted = worker.organization(&policy.domain, dmarc.organizational_domain.as_ref());
            match worker.with_limit(|limit| limit.admit(settings.failure.rates, &counted, epoch_seconds_signed())) {
                Some(incidents) => {
                    let (queued, notified) = (Arc::clone(&queued), Arc::clone(&notified));
                    workers.spawn(worker.clone().tell(Arc::clone(&settings), queued, notified, index, incidents));
                }
                None => worker.metrics.reports.inc(FailureOutcome::HeldBack),
            }
        }
        while let Some(ended) = workers.try_join_next() {
            worker.ended(ended);
        }
        while workers.len() >= PARALLEL {
            match workers.join_next().await {
                Some(ended) => worker.ended(ended),
                None => break,
            }
        }
    }
    while let Some(ended) = workers.join_next().await {
        worker.ended(ended);
    }
}

impl FailureWorker {
    fn with_limit<T>(&self, work: impl FnOnce(&mut RateLimit) -> T) -> T {
        // Counts that a panic left half done are still counts.
        work(&mut self.limit.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn organization(&self, domain: &Domain, walked: Option<&Domain>) -> Domain {
        organization(&self.delivery.shared().rules.borrow().suffixes, domain, walked)
    }

    fn ended(&self, ended: Result<(), tokio::task::JoinError>) {
        if let Err(cause) = ended {
            self.metrics.reports.inc(FailureOutcome::Fault);
            error!(error = %cause, "a fault of ours: a failure report could not be made");
        }
    }

    /// Reports a failure to everyone who is to know of it.
    async fn tell(
        self,
        settings: Arc<delivery::Settings>,
        queued: Arc<Queued>,
        notified: NotifiedOrganizations,
        index: usize,
        incidents: u64,
    ) {
        let case = &queued.case;
        let Some(dmarc) = case.evaluation.dmarc.get(index) else { return };
        let Some(policy) = &dmarc.policy else { return };
        let Some(kind) = wanted(&case.evaluation, dmarc) else { return };
        let organization = self.organization(&policy.domain, dmarc.organizational_domain.as_ref());
        let failure =
            Failure { case, dmarc, kind, policy_domain: &policy.domain, organization, notified: &notified, incidents };
        let shared = self.delivery.shared();
        let lookup = shared.resolver.for_message(None);
        let rules = Arc::clone(&shared.rules.borrow());
        let chosen = recipient::Settings::default();
        let about = (&policy.domain, &*policy.record);
        let found = recipients(&lookup.unmetered(), &rules, &chosen, ReportKind::Failure, about).await;
        for (uri, refusal) in &found.refused {
            self.note(&failure, uri.as_str(), (FailureOutcome::NoConsent, refusal.to_string()));
        }
        for address in &found.postponed {
            let why = "DNS does not say whether the destination takes reports".to_owned();
            self.note(&failure, &address.to_string(), (FailureOutcome::Unverified, why));
        }
        for address in &found.to {
            let ending = match self.settle(&settings, &failure, address).await {
                Ok(ending) => ending,
                Err(cause) => (FailureOutcome::Failed, Causes(&cause).to_string()),
            };
            self.note(&failure, &address.to_string(), ending);
        }
    }

    /// What becomes of a report to an address that takes them.
    async fn settle(
        &self,
        settings: &delivery::Settings,
        failure: &Failure<'_>,
        address: &Address,
    ) -> Result<Ending, crate::store::Error> {
        if settings.denies(failure.policy_domain, address) {
            return Ok((FailureOutcome::Denied, "reports.deny names it".to_owned()));
        }
        if settings.is_own(address) {
            return Ok((FailureOutcome::OwnAddress, "it is the sender of reports itself".to_owned()));
        }
        let (now, text) = (epoch_seconds_signed(), address.to_string());
        if let Some(found) = self.delivery.with_jobs(async |jobs| jobs.suppression(&text, now).await).await? {
            return Ok((FailureOutcome::Suppressed, found.reason));
        }
        let incidents = match self.admit(settings.failure.rates, failure, address, now) {
            Ok(incidents) => incidents,
            Err(ending) => return Ok(ending),
        };
        let id = format!("f{:016x}", rand::random::<u64>());
        let sender = match &settings.bounce_domain {
            Some(domain) => self.delivery.key().await?.address(&id, now, domain),
            None => settings.author.address.to_string(),
        };
        let redaction = match settings.failure.redact {
            true => Some(self.redaction().await?),
            false => None,
        };
        let message = failure.message(incidents, redaction.as_ref(), (settings, address), (&id, now));
        let message = match sign(&message, &settings.keys) {
            Ok(message) => message,
            Err(cause) => return Ok((FailureOutcome::Fault, Causes(&cause).to_string())),
        };
        if let Some(directory) = &settings.dry_run {
            let name = file_name(failure.dmarc.author_domain.as_str(), &id);
            return Ok(write(directory, format!("{name}.eml"), message).await);
        }
        if settings.bounce_domain.is_some() {
            // Any gate on the store may get the bounce.
            self.delivery.with_jobs(async |jobs| jobs.note_failure_report(&id, &text, now).await).await?;
        }
        let envelope = Envelope { sender: &sender, recipient: &text, size: message.len() };
        self.hand_over(&settings.relay, &envelope, &message).await
    }

    /// The number of failures that a report to `address` stands for, if one may go there.
    fn admit(&self, rates: Rates, failure: &Failure<'_>, address: &Address, now: i64) -> Result<u64, Ending> {
        let destination = self.organization(address.domain(), None);
        let author = &failure.dmarc.author_domain;
        let mut notified = failure.notified.lock().unwrap_or_else(PoisonError::into_inner);
        // RFC 9991 §2: each address of one record is to be tried.
        if let Some(other) = notified.get(&destination).filter(|other| *other != author) {
            return Err((
                FailureOutcome::Repeated,
                format!("{destination} is told of the message for {other} already"),
            ));
        }
        let about = (&failure.organization, failure.incidents);
        let incidents =
            self.with_limit(|limit| limit.admit_to(rates, about, (address, &destination), now)).map_err(|share| {
                let outcome = match share {
                    Share::Address => FailureOutcome::HeldBack,
                    Share::Destination | Share::Overall => FailureOutcome::Capped,
                };
                (outcome, share.meaning().to_owned())
            })?;
        notified.insert(destination, author.clone());
        Ok(incidents)
    }

    /// Hands a report to the relay, a few times if need be.
    async fn hand_over(
        &self,
        relay: &relay::Settings,
        envelope: &Envelope<'_>,
        message: &[u8],
    ) -> Result<Ending, crate::store::Error> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let outcome = match relay::begin(relay, envelope).await {
                Ok(ready) => ready.send(message).await,
                Err(outcome) => outcome,
            };
            return Ok(match outcome {
                relay::Outcome::Taken(reply) => (FailureOutcome::Sent, reply.summary()),
                relay::Outcome::MessageRefused(reply) => (FailureOutcome::MessageRefused, reply.summary()),
                // Sent again, it might arrive twice.
                relay::Outcome::Unanswered(why) => (FailureOutcome::Unanswered, why),
                relay::Outcome::RecipientRefused(reply) => {
                    let (address, reason) = (envelope.recipient, reply.summary());
                    let now = epoch_seconds_signed();
                    self.delivery.with_jobs(async |jobs| jobs.suppress(address, now, &reason).await).await?;
                    (FailureOutcome::DestinationRefused, reason)
                }
                relay::Outcome::Postponed(why) => match pauses.next() {
                    Some(pause) => {
                        sleep(pause).await;
                        continue;
                    }
                    None => (FailureOutcome::Failed, why),
                },
            });
        }
    }

    /// What hides local parts: one key for all gates on one store, so that they hide them alike.
    async fn redaction(&self) -> Result<Redaction, crate::store::Error> {
        let fresh: [u8; 32] = rand::random();
        let key = self.delivery.with_jobs(async |jobs| jobs.secret("redaction", &fresh).await).await?;
        Ok(Redaction::new(&key))
    }

    fn note(&self, failure: &Failure<'_>, destination: &str, (outcome, note): Ending) {
        self.metrics.reports.inc(outcome);
        info!(
            transaction = &*failure.case.id,
            author_domain = %failure.dmarc.author_domain,
            policy_domain = %failure.policy_domain,
            destination,
            outcome = %outcome,
            incidents = failure.incidents,
            note,
            "failure report"
        );
    }
}

impl Failure<'_> {
    fn message(
        &self,
        incidents: u64,
        redaction: Option<&Redaction>,
        (settings, to): (&delivery::Settings, &Address),
        (id, now): (&str, i64),
    ) -> Vec<u8> {
        let Self { case, dmarc, kind, .. } = self;
        let body = case.body.as_ref();
        let whole = body.filter(|body| body.is_whole).map(|body| &*body.octets);
        let body_of = |canonicalized| match canonicalized {
            Canonicalized::Nothing => None,
            Canonicalized::Header => Some(None),
            Canonicalized::Message => Some(whole),
        };
        let claims = case.subject.claims.as_ref();
        let signed = body_of(settings.failure.canonicalized)
            .and_then(|body| Some(Signed { signatures: &claims?.signatures, body }));
        let incident = Incident {
            evaluation: &case.evaluation,
            dmarc,
            header: &case.subject.section,
            body: body.filter(|_| settings.failure.extent == Extent::Message).map(|body| &*body.octets),
            signed,
            reverse_path: &case.reverse_path,
            source_port: case.source_port,
            delivered: case.delivered,
            results: &case.results,
            id: &case.id,
            arrived: case.arrived,
            failure: *kind,
            incidents,
        };
        build(&incident, redaction, &settings.author, to, id, now)
    }
}

/// A dry run.
async fn write(directory: &Path, name: String, message: Vec<u8>) -> Ending {
    let directory = directory.to_owned();
    let written = spawn_blocking(move || put(&directory, &name, &message));
    match written.await.unwrap_or_else(|cause| Err(cause.to_string())) {
        Ok(path) => (FailureOutcome::Written, format!("dry run: written to {path}")),
        Err(cause) => (FailureOutcome::Failed, format!("dry run: {cause}")),
    }
}

/// Cases that wait: what a burst brings while the relay is busy.
const MAX_WAITING: usize = 256;
/// Failures that are reported at the same time; those whose relay pauses are among them.
const PARALLEL: usize = 8;
/// Pauses before further attempts: a relay that was restarted is back after them; for one that is down, the report is
/// given up.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];
