//! Takes bounces of reports: the one kind of message that the gate answers for itself (README).

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::Session;
use super::metrics::Outcome;
use super::objection::{Objection, excerpt};
use super::receive::Received;
use super::state::Event;
use super::transaction::{Answer, AnsweredBy, Ending, Mail};
use crate::causes::Causes;
use crate::clock;
use crate::envelope::Envelope;
use crate::label::Label;
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
        if !envelope.reverse_path.is_null() {
            return self.refuse_bounce(path, Reply::new(550, "5.1.1", "No such user here"));
        }
        if !envelope.recipients.is_empty() {
            let reply = Reply::new(452, "4.5.3", "This recipient wants a transaction of its own");
            return self.refuse_bounce(path, reply);
        }
        let key = match timeout(STORE_WAIT, self.gate.reports.key()).await {
            Ok(Ok(key)) => key,
            _ => {
                let reply = Reply::new(451, "4.3.0", "Can't look that up now, please try again later");
                return self.refuse_bounce(path, reply);
            }
        };
        let now = clock::epoch_seconds_signed();
        let Some(job) = key.job(path.mailbox().local_part(), now) else {
            return self.refuse_bounce(path, Reply::new(550, "5.1.1", "No such user here"));
        };
        // It stays here: neither upstream nor evaluation have anything to do with it.
        self.link.reset().await;
        self.evaluation = None;
        match &mut self.transaction {
            Some(transaction) => transaction.bounce = Some(job.into()),
            None => return Event::Answer(cannot_take()),
        }
        Event::Caught
    }

    /// Refuses a recipient in that domain, and tells of it.
    fn refuse_bounce(&self, path: &ForwardPath, reply: Reply) -> Event {
        self.object(Objection::BounceAddress, &excerpt(format!("RCPT TO:{path}").as_bytes()), &reply);
        Event::Answer(reply)
    }

    /// Reads a bounce and writes down what it says. The client has its 250 when the store has it.
    pub(super) async fn take_bounce(&mut self, mail: Mail<'_>, job: &str, received: Received) -> Reply {
        let Received { subject, body, .. } = received;
        let octets = match body.beginning(MAX_BODY).await {
            Ok(octets) => octets,
            Err(error) => {
                warn!(session = &*self.id, job, %error, "a bounce can't be read back from its spool file");
                return self.tell_of_bounce(mail, job, None, Outcome::Failed, cannot_take());
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
        self.tell_of_bounce(mail, job, Some(&bounce), outcome, reply)
    }

    /// Counts and logs what became of a bounce, and remembers it if it was not taken; the reply goes to its client.
    fn tell_of_bounce(
        &mut self,
        mail: Mail<'_>,
        job: &str,
        bounce: Option<&Bounce>,
        outcome: Outcome,
        reply: Reply,
    ) -> Reply {
        self.gate.metrics.messages.inc(outcome);
        if reply.is_positive() {
            self.patience.delivered();
        }
        let Mail { transaction, envelope, .. } = mail;
        info!(
            session = &*self.id,
            transaction = &*transaction.id,
            client_ip = %self.client.ip(),
            reverse_path = %envelope.reverse_path,
            recipients = envelope.recipients.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            job,
            kind = bounce.map_or("", |bounce| bounce.kind.as_str()),
            reason = bounce.map_or("", |bounce| &bounce.reason),
            outcome = outcome.as_str(),
            reply = reply.summary(),
            "bounce of a report"
        );
        let answer = Answer { reply: &reply, by: AnsweredBy::Gate, outcome };
        self.remember(&Ending { mail, answer, taken: None, verdict: None, claim: None });
        reply
    }
}

/// A bounce that can't be read or written down comes again.
fn cannot_take() -> Reply {
    Reply::new(451, "4.3.0", "Can't take that now, please try again later")
}

/// How long the store may take over a bounce: its sender waits.
const STORE_WAIT: Duration = Duration::from_secs(10);
