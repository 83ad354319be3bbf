//! The end of a transaction: message, evaluation, policy, action, answer, record.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::oneshot;
use tracing::error;

use super::failure::Claim;
use super::metrics::{Limit, Outcome, Part};
use super::receive::Received;
use super::relay::trouble;
use super::{Session, Settings, pause, report};
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
use crate::upstream::{self, MessageParts};
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

/// How a message ended.
pub struct Ending<'a> {
    /// The verdict; none if it was not evaluated.
    pub verdict: Option<Verdict>,
    /// What became of it.
    pub outcome: Outcome,
    /// The reply to the end of data.
    pub reply: &'a Reply,
    /// Who gave it.
    pub answered_by: AnsweredBy,
    /// The message; none if it was not taken for its form or size.
    pub subject: Option<&'a Arc<Subject>>,
    /// Its octets; none if they were not counted to the end.
    pub size: Option<u64>,
    /// When its end of data came.
    pub end_of_data: EndOfData,
    /// The Received field that was added; empty if none was.
    pub received: String,
    /// What is ready for a failure report, if the owner of an author domain wants one.
    pub claim: Option<Claim>,
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
        dot: EndOfData,
    ) -> Reply {
        let Some(transaction) = self.transaction.take() else { return trouble(&upstream::Error::Lost) };
        if let Some(job) = &transaction.bounce {
            return self.take_bounce(&transaction, job, received).await;
        }
        let Received { subject, hashes, mut body, size, dots, ends_with_line, framing, .. } = received;
        // The body is let go once it was sent; the header section stays until all is told.
        let _header_section = body.hand_over_apart();

        // What was found out, and what is to be done about it.
        let verdict = match transaction.bypass {
            Some(_) => None,
            None => self.judge(&transaction, envelope, hashes, dot).await,
        };
        let action = match (&verdict, transaction.bypass) {
            (Some(verdict), _) => verdict.action.clone(),
            (None, Some(reason)) => Action::bypass(reason, &transaction.settings.verdict.authserv_id),
            (None, None) => {
                error!(session = &*self.id, transaction = &*transaction.id, "the evaluation did not come to an end");
                verdict::undecided(&transaction.settings.verdict, &transaction.id)
            }
        };
        let claim = self.claim(&transaction, envelope, verdict.as_ref(), (&subject, &body)).await;

        let evaluation = verdict.as_ref().map(|verdict| &verdict.evaluation);
        let inbound = InboundMessage::of(
            &transaction.settings.inbound,
            (&transaction.id, envelope),
            evaluation,
            (&subject, &body),
        );

        // Done.
        let mut received = String::new();
        let (reply, answered_by) = match action {
            Action::Relay { header } => {
                received = self.hop(&transaction, hello, envelope, dot.arrived).await;
                let (head, dots_of_head) = self.head(&transaction, &subject, &[&header, &received]);
                let parts = MessageParts {
                    head,
                    body_size: body.len(),
                    body: body.into_reader(),
                    dots: dots.saturating_add(dots_of_head),
                    ends_with_line,
                    framing,
                };
                let introduction = self.introduction(hello).await;
                self.took(Part::Verdict, dot.at.elapsed());
                let (delivered, times) = self.link.deliver(&introduction, parts).await;
                let spent = [(Part::Connect, times.connect), (Part::Transfer, times.transfer)];
                spent.into_iter().chain([(Part::UpstreamReply, times.reply)]).for_each(|(part, took)| {
                    took.into_iter().for_each(|took| self.took(part, took));
                });
                match delivered {
                    Ok(reply) => (reply, AnsweredBy::Upstream),
                    Err(error) => (self.told(&error), AnsweredBy::Gate),
                }
            }
            Action::Reject(text) | Action::Defer(text) => {
                self.took(Part::Verdict, dot.at.elapsed());
                (verdict::reply(&text), AnsweredBy::Gate)
            }
        };
        self.link.reset().await;

        // Told, once, to everyone who wants to know.
        let outcome = report::outcome(verdict.as_ref(), &reply, answered_by);
        if reply.is_positive() {
            self.patience.delivered();
            if let Some(message) = inbound.filter(|_| answered_by == AnsweredBy::Upstream) {
                self.gate.inbound.hand_in(message);
            }
        }
        let (subject, size) = (Some(&subject), Some(size));
        let (told, end_of_data) = (&reply, dot);
        let ending = Ending { verdict, outcome, reply: told, answered_by, subject, size, end_of_data, received, claim };
        self.report(&transaction, hello, envelope, ending);
        reply
    }

    /// Counts what a client has waited for.
    fn took(&self, part: Part, time: Duration) {
        self.gate.metrics.parts.of(part).observe(time.as_secs_f64());
    }

    /// Ends the transaction of a message that is not taken for its form or size, or for want of room.
    pub(super) fn turn_away(
        &mut self,
        hello: &Hello,
        envelope: &Envelope,
        (outcome, reply): (Outcome, &Reply),
        end_of_data: EndOfData,
    ) {
        let Some(transaction) = self.transaction.take() else { return };
        let answered_by = AnsweredBy::Gate;
        let (verdict, subject, size, received, claim) = (None, None, None, String::new(), None);
        let ending = Ending { verdict, outcome, reply, answered_by, subject, size, end_of_data, received, claim };
        self.report(&transaction, hello, envelope, ending);
    }

    /// Hands the header section to the evaluation, as soon as it is complete.
    pub(super) fn announce(&mut self, subject: &Arc<Subject>) {
        if let Some(waiting) = self.transaction.as_mut().and_then(|t| t.subject.take()) {
            // The evaluation may have ended already, on a header section that is not evaluated.
            let _ = waiting.send(Arc::clone(subject));
        }
    }

    /// Evaluates and judges; none if that does not come to an end, by a fault of ours.
    async fn judge(
        &mut self,
        transaction: &Transaction,
        envelope: &Envelope,
        hashes: BodyHashes,
        end_of_data: EndOfData,
    ) -> Option<Verdict> {
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
        let reached = [(Limit::Lookups, lookup.is_exhausted()), (Limit::Evaluation, lookup.is_expired())];
        reached.iter().filter(|(_, is)| *is).for_each(|(limit, _)| self.gate.metrics.limits.inc(*limit));
        let evaluated = || gathered.evaluate(&hashes, end_of_data.arrived, lookup.take_evidence(), elapsed);
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
    async fn hop(&mut self, transaction: &Transaction, hello: &Hello, envelope: &Envelope, time: u64) -> String {
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
            time,
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

/// An id of 13 characters that no one can guess and everyone can read out (Crockford's base 32 of 64 random bits).
#[expect(clippy::indexing_slicing, reason = "a number modulo 32 is an index into 32 digits")]
pub fn new_id() -> Box<str> {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut random = rand::rng().random::<u64>();
    let digit = |_| {
        let digit = char::from(DIGITS[(random % 32) as usize]);
        random /= 32;
        digit
    };
    (0..13).map(digit).collect::<String>().into()
}

/// Octets for the dots that the encoding may add to a header section.
const ROOM_FOR_DOTS: usize = 64;
