//! Takes bounces of reports: the one kind of message that the gate answers for itself (README).

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::Session;
use super::metrics::Outcome;
use super::receive::Received;
use super::state::Event;
use super::transaction::Transaction;
use crate::causes::Causes;
use crate::clock;
use crate::envelope::Envelope;
use crate::report::bounce::{Bounce, MAX_BODY};
use crate::smtp::address::ForwardPath;
use crate::smtp::reply::Reply;

impl Session {
    /// Whether a recipient is in the domain that is for bounces alone; then nothing of it goes upstream.
    pub(super) fn is_bounce_domain(&self, path: &ForwardPath) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.settings.takes_bounces(path))
    }

    /// What becomes of a recipient in that domain: a signed address takes mail alone and from nobody.
    pub(super) async fn catch(&mut self, envelope: &Envelope, path: &ForwardPath) -> Event {
        let refused = |code, enhanced, text| Event::Answer(Reply::new(code, enhanced, text));
        if !envelope.reverse_path.is_null() {
            return refused(550, "5.1.1", "No such user here");
        }
        if !envelope.recipients.is_empty() {
            return refused(452, "4.5.3", "This recipient wants a transaction of its own");
        }
        let key = match timeout(STORE_WAIT, self.gate.reports.key()).await {
            Ok(Ok(key)) => key,
            _ => return refused(451, "4.3.0", "Can't look that up now, please try again later"),
        };
        let now = clock::epoch_seconds_signed();
        let Some(job) = key.job(path.mailbox().local_part(), now) else {
            return refused(550, "5.1.1", "No such user here");
        };
        // It stays here: neither upstream nor evaluation have anything to do with it.
        self.link.reset().await;
        self.evaluation = None;
        match &mut self.transaction {
            Some(transaction) => transaction.bounce = Some(job.into()),
            None => return refused(451, "4.3.0", "Please try again later"),
        }
        Event::Caught
    }

    /// Reads a bounce and writes down what it says. The client has its 250 when the store has it.
    pub(super) async fn take_bounce(&mut self, transaction: &Transaction, job: &str, received: Received) -> Reply {
        let Received { subject, body, .. } = received;
        let octets = match body.beginning(MAX_BODY).await {
            Ok(octets) => octets,
            Err(error) => {
                warn!(session = &*self.id, job, %error, "a bounce can't be read back from its spool file");
                self.gate.metrics.messages.inc(Outcome::Failed);
                return cannot_take();
            }
        };
        let bounce = Bounce::read(&subject.section, &octets);
        let stored = timeout(STORE_WAIT, self.gate.reports.bounced(job, &bounce)).await;
        let (outcome, reply) = match &stored {
            Ok(Ok(())) => (Outcome::Bounce, Reply::new(250, "2.0.0", "Noted")),
            Ok(Err(cause)) => {
                warn!(session = &*self.id, job, error = %Causes(cause), "a bounce can't be written down");
                (Outcome::Failed, cannot_take())
            }
            Err(_) => {
                warn!(session = &*self.id, job, "a bounce can't be written down: the store does not answer");
                (Outcome::Failed, cannot_take())
            }
        };
        self.gate.metrics.messages.inc(outcome);
        if reply.is_positive() {
            self.patience.delivered();
        }
        info!(
            session = &*self.id,
            transaction = &*transaction.id,
            client_ip = %self.client.ip(),
            job,
            kind = %bounce.kind,
            reason = &*bounce.reason,
            reply = reply.summary(),
            "bounce of a report"
        );
        reply
    }
}

/// A bounce that can't be read or written down comes again.
fn cannot_take() -> Reply {
    Reply::new(451, "4.3.0", "Can't take that now, please try again later")
}

/// How long the store may take over a bounce: its sender waits.
const STORE_WAIT: Duration = Duration::from_secs(10);
