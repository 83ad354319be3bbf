//! The end of a transaction: message, evaluation, policy, action, answer, record.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::error;

use super::failure_report::Claim;
use super::id::new_id;
use super::metrics::{Limit, Outcome, Part};
use super::receive::Received;
use super::{End, Session, Settings, pause};
use crate::action::Action;
use crate::clock;
use crate::dns::message_lookup::MessageLookup;
use crate::envelope::{Envelope, Hello};
use crate::evaluation::gather::{Gathered, within};
use crate::evaluation::subject::Subject;
use crate::label_enum;
use crate::message::body_hash::BodyHashes;
use crate::message::trace::Hop;
use crate::panics::caught_in;
use crate::policy::Circumstances;
use crate::policy::bypass::BypassReason;
use crate::report::inbound::InboundMessage;
use crate::smtp::data::Encoder;
use crate::smtp::reply::Reply;
use crate::upstream::MessageParts;
use crate::verdict::{self, Verdict};

/// What belongs to one mail transaction beside its envelope.
pub struct Transaction {
    /// The settings that it began with.
    pub settings: Arc<Settings>,
    /// Under which id it is found in log, reply and evidence.
    pub id: Box<str>,
    /// Why it is not evaluated, if it is not.
    pub bypass: Option<BypassReason>,
    /// When it began.
    pub began: Instant,
    /// Its look-ups.
    pub lookup: Option<Arc<MessageLookup>>,
    /// The report whose bounce this is, if its only recipient is an address for such.
    pub bounce: Option<Box<str>>,
    /// Where the evaluation waits for the header section.
    pub subject: Option<oneshot::Sender<Arc<Subject>>>,
}

/// A message that has come to its end of data, or is cut off there.
#[derive(Clone, Copy)]
pub struct Mail<'a> {
    /// Its transaction.
    pub transaction: &'a Transaction,
    /// How its client introduced itself.
    pub hello: &'a Hello,
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// When its end of data came.
    pub end_of_data: EndOfData,
}

/// How a message ended.
pub struct Ending<'a> {
    /// Which one it is.
    pub mail: Mail<'a>,
    /// What its client was told.
    pub answer: Answer<'a>,
    /// What there is of it; none if it was not taken for its form or size, or for want of room.
    pub taken: Option<Taken>,
    /// The verdict; none if it was not evaluated.
    pub verdict: Option<Verdict>,
    /// What is ready for a failure report, if the owner of an author domain wants one.
    pub claim: Option<Claim>,
}

/// The answer to the end of data.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The reply.
    pub reply: &'a Reply,
    /// Who gave it.
    pub by: AnsweredBy,
    /// What became of the message.
    pub outcome: Outcome,
}

/// What is left of a message that was taken.
pub struct Taken {
    /// Its header section.
    pub subject: Arc<Subject>,
    /// Octets of its content.
    pub size: u64,
    /// The Received field that was added; empty if none was.
    pub hop: String,
}

/// The moment at which a message had come, by both clocks. The wall clock is read this once, so that signatures, row,
/// explanation and failure report go by one time.
#[derive(Debug, Clone, Copy)]
pub struct EndOfData {
    /// By the clock that measures.
    pub at: Instant,
    /// In seconds since the epoch.
    pub arrived: u64,
}

label_enum! {
    /// Who gave the reply to the end of data.
    pub enum AnsweredBy {
        /// The gate.
        Gate = "gate",
        /// The upstream.
        Upstream = "upstream",
    }
}

impl EndOfData {
    /// Now.
    pub fn now() -> Self {
        Self { at: Instant::now(), arrived: clock::epoch_seconds() }
    }
}

impl Transaction {
    /// A transaction that begins now.
    pub fn new(settings: Arc<Settings>, bypass: Option<BypassReason>) -> Self {
        Self { settings, id: new_id(), bypass, began: Instant::now(), lookup: None, bounce: None, subject: None }
    }
}

impl Session {
    /// The way of a message from its end of data to the client's reply.
    pub(super) async fn conclude(
        &mut self,
        hello: &Hello,
        envelope: &Envelope,
        received: Received,
        end_of_data: EndOfData,
    ) -> Result<Reply, End> {
        let Some(transaction) = self.transaction.take() else {
            return Err(self.broken("a message without transaction"));
        };
        let mail = Mail { transaction: &transaction, hello, envelope, end_of_data };
        if let Some(job) = &transaction.bounce {
            return Ok(self.take_bounce(mail, job, received).await);
        }
        // The body is let go once it was sent; the header section stays until all is told.
        let (subject, size) = (Arc::clone(&received.subject), received.size);
        let verdict = match transaction.bypass {
            Some(_) => None,
            None => self.judge(&mail, &received.hashes).await,
        };
        let action = self.action(&transaction, verdict.as_ref());
        let claim = self.claim(&mail, verdict.as_ref(), &received).await;
        let evaluation = verdict.as_ref().map(|verdict| &verdict.evaluation);
        let inbound = InboundMessage::of(
            &transaction.settings.inbound,
            (&transaction.id, envelope),
            evaluation,
            (&subject, &received.body),
        );

        let mut hop = String::new();
        let (reply, by) = match action {
            Action::Relay { header } => {
                hop = self.hop(&mail).await;
                self.relay_message(&mail, &[&header, &hop], received).await
            }
            Action::Reject(text) | Action::Defer(text) => {
                self.took(Part::Verdict, Some(end_of_data.at.elapsed()));
                (verdict::reply(&text), AnsweredBy::Gate)
            }
        };
        self.link.reset().await;

        if reply.is_positive() {
            self.patience.delivered();
            if let Some(message) = inbound.filter(|_| by == AnsweredBy::Upstream) {
                self.gate.inbound.hand_in(message);
            }
        }
        let answer = Answer::new(&reply, by, verdict.as_ref());
        self.tell(Ending { mail, answer, taken: Some(Taken { subject, size, hop }), verdict, claim });
        Ok(reply)
    }

    /// What is to be done about a message.
    fn action(&self, transaction: &Transaction, verdict: Option<&Verdict>) -> Action {
        let settings = &transaction.settings.verdict;
        match (verdict, transaction.bypass) {
            (Some(verdict), _) => verdict.action.clone(),
            (None, Some(reason)) => Action::bypass(reason, &settings.authserv_id),
            (None, None) => {
                error!(session = &*self.id, transaction = &*transaction.id, "the evaluation did not come to an end");
                verdict::undecided(settings, &transaction.id)
            }
        }
    }

    /// Hands a message on, with `fields` on top, and gives the answer to it.
    async fn relay_message(&mut self, mail: &Mail<'_>, fields: &[&str], received: Received) -> (Reply, AnsweredBy) {
        let Received { subject, body, dots, ends_with_line, framing, .. } = received;
        let (head, dots_of_head) = self.head(mail.transaction, &subject, fields);
        let parts = MessageParts {
            head,
            body_size: body.len(),
            body: body.into_reader(),
            dots: dots.saturating_add(dots_of_head),
            ends_with_line,
            framing,
        };
        let introduction = self.introduction(mail.hello).await;
        self.took(Part::Verdict, Some(mail.end_of_data.at.elapsed()));
        let (delivered, times) = self.link.deliver(&introduction, parts).await;
        self.took(Part::Connect, times.connect);
        self.took(Part::Transfer, times.transfer);
        self.took(Part::UpstreamReply, times.reply);
        match delivered {
            Ok(reply) => (reply, AnsweredBy::Upstream),
            Err(error) => {
                let Mail { transaction, envelope, .. } = mail;
                (self.told(&error, &transaction.id, &envelope.reverse_path, None), AnsweredBy::Gate)
            }
        }
    }

    /// Counts what a client has waited for, if it came to that.
    fn took(&self, part: Part, time: Option<Duration>) {
        if let Some(time) = time {
            self.gate.metrics.parts.of(part).observe(time.as_secs_f64());
        }
    }

    /// Ends the transaction of a message that is not taken for its form or size, or for want of room.
    pub(super) fn turn_away(
        &mut self,
        hello: &Hello,
        envelope: &Envelope,
        end_of_data: EndOfData,
        outcome: Outcome,
        reply: &Reply,
    ) {
        let Some(transaction) = self.transaction.take() else { return };
        let mail = Mail { transaction: &transaction, hello, envelope, end_of_data };
        let answer = Answer { reply, by: AnsweredBy::Gate, outcome };
        self.tell(Ending { mail, answer, taken: None, verdict: None, claim: None });
    }

    /// Hands the header section to the evaluation, as soon as it is complete.
    pub(super) fn announce(&mut self, subject: &Arc<Subject>) {
        if let Some(waiting) = self.transaction.as_mut().and_then(|t| t.subject.take()) {
            // The evaluation may have ended already, on a header section that is not evaluated.
            let _ = waiting.send(Arc::clone(subject));
        }
    }

    /// Evaluates and judges; none if that does not come to an end, by a fault of ours.
    async fn judge(&mut self, mail: &Mail<'_>, hashes: &BodyHashes) -> Option<Verdict> {
        let Mail { transaction, envelope, end_of_data, .. } = *mail;
        let lookup = transaction.lookup.as_ref()?;
        let settings = &transaction.settings.verdict;
        let gathered = self.gathered(&transaction.settings, lookup).await?;
        let host = match settings.policy.wants_host() {
            true => self.reverse.name().await.confirmed(),
            // What the shadow policy alone would like to know is not asked or waited for.
            false => self.reverse.known().await.confirmed(),
        };
        let elapsed = end_of_data.at.elapsed();
        self.gate.metrics.evaluation.observe(elapsed.as_secs_f64());
        if lookup.is_exhausted() {
            self.gate.metrics.limits.inc(Limit::Lookups);
        }
        if lookup.is_expired() {
            self.gate.metrics.limits.inc(Limit::Evaluation);
        }
        let evaluated = || gathered.evaluate(hashes, end_of_data.arrived, lookup.take_evidence(), elapsed);
        let evaluation = caught_in(evaluated).ok()??;
        let (doubts, ip, now) = (&self.gate.doubts, self.client.ip(), Instant::now());
        let in_doubt_for = match evaluation.is_in_doubt() {
            true => doubts.last(ip, &evaluation.dmarc, now).await,
            false => Vec::new(),
        };
        let circumstances =
            Circumstances { host, in_doubt_for, ..settings.circumstances(envelope, end_of_data.arrived) };
        let judged = || verdict::conclude(evaluation, envelope, &circumstances, settings, &transaction.id);
        let verdict = caught_in(judged).ok()?;
        doubts.note(ip, &verdict.evaluation.dmarc, &verdict.decision.assessments, now).await;
        Some(verdict)
    }

    /// Waits for what DNS has to say, at most until the deadline. A sender whose name servers are slow holds the
    /// upstream up no longer than one who is slow himself.
    async fn gathered(&mut self, settings: &Settings, lookup: &MessageLookup) -> Option<Gathered> {
        let gathering = self.evaluation.take()?.finish();
        let mut gathering = pin!(within(settings.timeouts.evaluation, lookup, gathering));
        loop {
            let (hold, wanted) = (self.link.hold_left(), self.link.wanted());
            tokio::select! {
                biased;
                gathered = &mut gathering => return gathered?.ok(),
                () = pause(hold) => self.let_upstream_go().await,
                () = wanted => self.let_upstream_go().await,
            }
        }
    }

    /// Our Received field, where the upstream has no other way to learn who the client was; else empty.
    async fn hop(&mut self, mail: &Mail<'_>) -> String {
        let Mail { transaction, hello, envelope, end_of_data } = *mail;
        if !self.link.adds_received() {
            return String::new();
        }
        let name = self.introduction(hello).await.name.confirmed();
        let hop = Hop {
            hello,
            tls: self.client.tls,
            is_authenticated: self.client.login.is_some(),
            is_utf8: envelope.parameters.smtp_utf8,
            name: name.as_ref().map(|n| n.as_str()),
            ip: self.client.ip(),
            by: &transaction.settings.hostname,
            id: &transaction.id,
            time: end_of_data.arrived,
        };
        hop.field()
    }

    /// The top of the message as it goes on: our fields, then the header section without what others forged; and how
    /// many dots its encoding has doubled.
    fn head(&self, transaction: &Transaction, subject: &Subject, fields: &[&str]) -> (Vec<u8>, u64) {
        let section = &subject.section;
        let removals = transaction.settings.verdict.removals(section, self.client.ip());
        let added = || fields.iter().map(|field| field.as_bytes());
        let length = added().map(<[u8]>::len).sum::<usize>() + section.as_bytes().len();
        let mut head = Vec::with_capacity(length + ROOM_FOR_DOTS);
        let mut encoder = Encoder::default();
        let mut content = 0;
        for piece in added().chain(section.relayed(&removals)) {
            encoder.encode(piece, &mut head);
            content += piece.len();
        }
        let dots = head.len().saturating_sub(content) as u64;
        (head, dots)
    }
}

/// Octets for the dots that the encoding may add to a header section.
const ROOM_FOR_DOTS: usize = 64;
