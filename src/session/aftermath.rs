//! Tells log, metrics and store what became of a message. One event decides a support case alone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::latest::Refusal;
use super::metrics::{Limit, Outcome};
use super::state::State;
use super::transaction::{Answer, AnsweredBy, Ending, Mail};
use super::{End, Session};
use crate::action::Action;
use crate::clock;
use crate::domain::Domain;
use crate::envelope::{Client, Envelope};
use crate::evaluation::{ArcSet, DmarcResult, Evaluation};
use crate::explain::{Case, Letter};
use crate::label::Label;
use crate::message::author::Author;
use crate::policy::Rule;
use crate::policy::treatment::{Opinion, Treatment, words};
use crate::record::{FinalReply, UpstreamReply};
use crate::report::form::is_report;
use crate::smtp::address::ForwardPath;
use crate::smtp::reply::Reply;
use crate::spf::SpfOutput;
use crate::verdict::{self, RecipientsInRows, Shadow, Verdict};

/// Whose session a message came in.
#[derive(Debug)]
pub struct Origin<'a> {
    /// The id of the session.
    pub session: &'a str,
    /// Who sent it.
    pub client: &'a Client,
    /// Where it came to.
    pub listener: SocketAddr,
}

impl<'a> Answer<'a> {
    /// What a message was told, and so what became of it.
    pub fn new(reply: &'a Reply, by: AnsweredBy, verdict: Option<&Verdict>) -> Self {
        let is_tagged = verdict.is_some_and(Verdict::is_tagged);
        let outcome = match (by, UpstreamReply::of(reply)) {
            (AnsweredBy::Upstream, UpstreamReply::Accepted) if is_tagged => Outcome::AcceptedTagged,
            (AnsweredBy::Upstream, UpstreamReply::Accepted) => Outcome::Accepted,
            (AnsweredBy::Upstream, UpstreamReply::Refused) => Outcome::UpstreamRefused,
            (AnsweredBy::Upstream, UpstreamReply::Deferred) => Outcome::UpstreamDeferred,
            (AnsweredBy::Gate, UpstreamReply::Refused) => Outcome::Refused,
            (AnsweredBy::Gate, _) if verdict.is_some_and(|v| matches!(v.action, Action::Defer(_))) => Outcome::Deferred,
            (AnsweredBy::Gate, _) => Outcome::Failed,
        };
        Self { reply, by, outcome }
    }
}

impl Ending<'_> {
    /// The last word on a message; none for a 4xx, after which it is tried again and would count twice.
    pub(super) fn final_reply(&self) -> Option<FinalReply> {
        match (self.answer.by, UpstreamReply::of(self.answer.reply)) {
            (AnsweredBy::Upstream, UpstreamReply::Accepted) => Some(FinalReply::Accepted),
            (AnsweredBy::Upstream, UpstreamReply::Refused) => Some(FinalReply::RefusedByUpstream),
            (AnsweredBy::Gate, UpstreamReply::Refused) => Some(FinalReply::RefusedByGate),
            _ => None,
        }
    }

    /// What the upstream said to the message; none if it was not asked, or did not come to say it.
    fn upstream_reply(&self) -> Option<UpstreamReply> {
        (self.answer.by == AnsweredBy::Upstream).then(|| UpstreamReply::of(self.answer.reply))
    }

    fn is_pass(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.decision.rule == Rule::Pass)
    }

    /// Whether the message is to leave no row: reports on reports would never end. All its recipients are addresses of
    /// our own reports, or it passes DMARC and is a report by its form; the form alone anyone can give to anything.
    fn is_about_reports(&self) -> bool {
        let Mail { transaction, envelope, .. } = self.mail;
        let is_ours = |path: &ForwardPath| transaction.settings.is_for_reports(path);
        let is_report = || self.taken.as_ref().is_some_and(|taken| is_report(&taken.subject.section));
        !envelope.recipients.is_empty() && envelope.recipients.iter().all(is_ours) || self.is_pass() && is_report()
    }
}

impl Session {
    /// Counts, logs and records how a message ended, and keeps why.
    pub(super) fn tell(&self, mut ending: Ending<'_>) {
        self.count(&ending);
        log(&Origin { session: &self.id, client: &self.client, listener: self.gate.listener }, &ending);
        self.record(&ending);
        self.compare(&ending);
        self.tell_owner(&mut ending);
        self.remember(&ending);
        self.explain(ending);
    }

    /// Tells of a message that did not come to its end of data, if the session ends inside one: once a second at most,
    /// of all sessions together, since anybody can begin any number of them.
    pub(super) fn tell_of_broken_off(&self, state: &State, end: &End) {
        let (State::Receiving(hello, envelope)
        | State::ChunkSent(hello, envelope, _)
        | State::Chunked(hello, envelope)) = state
        else {
            return;
        };
        // One that is far too big was told as a message.
        let Some(transaction) = &self.transaction else { return };
        let Some(times) = self.gate.complaints.broken_off(Instant::now()) else { return };
        info!(
            session = &*self.id,
            transaction = &*transaction.id,
            client_ip = %self.client.ip(),
            listener = %self.gate.listener,
            ehlo = hello.name.as_str(),
            reverse_path = %envelope.reverse_path,
            recipients = first_recipients(envelope).join(" "),
            recipient_count = envelope.recipients.len(),
            reason = end.reason.map_or("", Label::as_str),
            reply = end.last_word.as_ref().map(Reply::summary).unwrap_or_default(),
            transaction_ms = u64::try_from(transaction.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            times,
            "message broken off before its end"
        );
    }

    fn record(&self, ending: &Ending<'_>) {
        let Mail { transaction, envelope, end_of_data, .. } = ending.mail;
        if let Some(verdict) = &ending.verdict
            && let Some(reply) = ending.final_reply()
            && !ending.is_about_reports()
        {
            let arrived = clock::signed(end_of_data.arrived);
            let mut records = verdict::records(verdict, self.client.ip(), envelope, reply, arrived);
            if transaction.settings.verdict.recipients_in_rows == RecipientsInRows::ByDomain {
                records = verdict::by_recipient_domain(records, envelope);
            }
            records.into_iter().for_each(|record| self.gate.rows.append(record));
        }
    }

    /// Records how a message came out; one that was lost on its way to the upstream did not.
    fn compare(&self, ending: &Ending<'_>) {
        if let Some(verdict) = &ending.verdict
            && ending.answer.outcome != Outcome::Failed
        {
            let (arrived, upstream) = (clock::signed(ending.mail.end_of_data.arrived), ending.upstream_reply());
            self.gate.rows.compare(verdict::comparison(verdict, self.client.ip(), upstream, arrived));
        }
    }

    /// Remembers for the status page what did not go through.
    pub(super) fn remember(&self, ending: &Ending<'_>) {
        let Answer { reply, outcome, .. } = ending.answer;
        if matches!(outcome, Outcome::Accepted | Outcome::AcceptedTagged | Outcome::Bounce) {
            return;
        }
        let author = ending.verdict.as_ref().and_then(|verdict| verdict.evaluation.author.domains().first());
        self.gate.latest.put(Refusal {
            id: ending.mail.transaction.id.clone(),
            arrived: ending.mail.end_of_data.arrived,
            ip: self.client.ip(),
            author_domain: author.map(|domain| domain.as_str().into()),
            outcome,
            reply: reply.summary().into(),
            is_explained: self.is_explained(ending),
        });
    }

    fn is_explained(&self, ending: &Ending<'_>) -> bool {
        let is_plain = ending.is_pass() && ending.answer.outcome == Outcome::Accepted;
        let transaction = ending.mail.transaction;
        let is_evaluated = transaction.bypass.is_none() && transaction.bounce.is_none();
        is_evaluated && !is_plain && self.gate.explanations.is_active()
    }

    /// Keeps what there is to tell about a message that nobody has let through, unless it is a plain pass.
    fn explain(&self, ending: Ending<'_>) {
        if !self.is_explained(&ending) {
            return;
        }
        let Ending { mail: Mail { transaction, hello, envelope, end_of_data }, answer, taken, verdict, .. } = ending;
        let settings = &transaction.settings.verdict;
        let section = taken.as_ref().map(|taken| &taken.subject.section);
        let ip = self.client.ip();
        self.gate.explanations.keep(Box::new(Case {
            id: transaction.id.clone(),
            session: self.id.clone(),
            gate: transaction.settings.hostname.clone(),
            listener: self.gate.listener,
            policy_table: transaction.settings.policy_table.as_str(),
            arrived: end_of_data.arrived,
            ip,
            hello: hello.name.as_str().into(),
            letter: Letter::new(envelope, section),
            octets: taken.as_ref().map(|taken| taken.size),
            verdict,
            rules: Arc::clone(&self.gate.discovery.borrow()),
            removed: section.map_or(0, |section| settings.removals(section, ip).count()),
            received: taken.map(|taken| taken.hop).unwrap_or_default(),
            outcome: answer.outcome.as_str(),
            answered_by: answer.by.as_str(),
            reply: answer.reply.clone(),
        }));
    }

    fn count(&self, ending: &Ending<'_>) {
        let metrics = &self.gate.metrics;
        metrics.messages.inc(ending.answer.outcome);
        if let Some(reason) = ending.mail.transaction.bypass {
            metrics.bypassed.inc(reason);
        }
        let Some(verdict) = &ending.verdict else { return };
        let Verdict { evaluation, decision, .. } = verdict;
        metrics.rules.inc(decision.rule);
        metrics.verdicts.inc(words(evaluation, decision));
        if evaluation.dkim_skipped > 0 {
            metrics.limits.inc(Limit::Signatures);
        }
        if let Some(shadow) = &verdict.shadow {
            metrics.shadow_compared.inc();
            if verdict.shadow_differs() {
                let [active, shadow] = [decision, &shadow.decision].map(|d| Treatment::of(d.disposition));
                metrics.shadow_differences.inc(active, shadow);
            }
        }
        if let Some(reply) = ending.upstream_reply() {
            metrics.verdict_replies.inc(Opinion::of(evaluation, decision), reply);
        }
        let deciding = decision.deciding_dmarc(evaluation);
        if deciding.is_some_and(|dmarc| dmarc.result == DmarcResult::Fail) {
            decision.signs.iter().for_each(|found| metrics.signs.inc(found.sign, found.counting));
        }
        metrics.spf.inc(evaluation.spf.result);
        evaluation.spf_helo.iter().for_each(|helo| metrics.spf_helo.inc(helo.result));
        metrics.arc.inc(evaluation.arc.result);
        evaluation.dkim.iter().for_each(|signature| metrics.dkim.inc(signature.result));
        evaluation.dmarc.iter().for_each(|dmarc| metrics.dmarc.inc(dmarc.result));
        let policies = evaluation.dmarc.iter().filter_map(|dmarc| dmarc.policy.as_ref());
        policies.for_each(|policy| metrics.discovery.inc(policy.agreement));
    }
}

/// Writes the one event of a message.
pub fn log(origin: &Origin<'_>, ending: &Ending<'_>) {
    let Origin { session, client, listener } = origin;
    let Ending { mail: Mail { transaction, hello, envelope, end_of_data }, answer, taken, .. } = ending;
    let findings = match &ending.verdict {
        Some(verdict) => Findings::of(verdict),
        None => Findings { rule: "not_evaluated", ..Findings::default() },
    };
    let recipients = first_recipients(envelope);
    let certificate = client.tls.and_then(|tls| tls.certificate);
    let message_id = taken.as_ref().and_then(|taken| taken.subject.section.message_id());
    let message_id = message_id.map(String::from_utf8_lossy).unwrap_or_default();
    info!(
        session,
        transaction = &*transaction.id,
        client_ip = %client.ip(),
        listener = %listener,
        ehlo = hello.name.as_str(),
        tls = client.tls.map(|tls| format!("{} {}", tls.version, tls.cipher)).unwrap_or_default(),
        client_certificate = certificate.map(|certificate| certificate.to_string()).unwrap_or_default(),
        reverse_path = envelope.reverse_path.to_string(),
        recipients = recipients.join(" "),
        recipient_count = envelope.recipients.len(),
        recipients_left_out = envelope.recipients.len().saturating_sub(recipients.len()),
        message_id = message_id.get(..message_id.floor_char_boundary(MAX_MESSAGE_ID)).unwrap_or_default(),
        size = taken.as_ref().map(|taken| taken.size),
        bypass = transaction.bypass.map_or("", Label::as_str),
        author_domain = findings.author_domain,
        from_note = findings.from_note,
        policy_domain = findings.policy_domain,
        spf = findings.spf,
        spf_helo = findings.spf_helo,
        dkim = findings.dkim,
        arc = findings.arc,
        dmarc = findings.dmarc,
        policy = findings.policy,
        mode = findings.mode,
        policy_table = transaction.settings.policy_table.as_str(),
        rule = findings.rule,
        signs = findings.signs,
        disposition = findings.disposition,
        r#override = findings.overrides,
        voucher = findings.voucher,
        shadow = findings.shadow,
        outcome = answer.outcome.as_str(),
        answered_by = answer.by.as_str(),
        reply = answer.reply.summary(),
        evaluation_ms = findings.evaluation_ms,
        elapsed_ms = u64::try_from(end_of_data.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        transaction_ms = u64::try_from(transaction.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "message"
    );
}

/// As many recipients as an event has.
fn first_recipients(envelope: &Envelope) -> Vec<String> {
    envelope.recipients.iter().take(MAX_RECIPIENTS).map(ToString::to_string).collect()
}

/// A verdict in the words of the log.
#[derive(Default)]
struct Findings {
    author_domain: String,
    /// What is odd about a From that can be read.
    from_note: &'static str,
    policy_domain: String,
    spf: String,
    /// Of the EHLO name beside the reverse-path.
    spf_helo: String,
    dkim: String,
    arc: String,
    dmarc: String,
    policy: &'static str,
    mode: &'static str,
    rule: &'static str,
    signs: String,
    disposition: &'static str,
    overrides: String,
    /// The ARC sealer whose word counted.
    voucher: String,
    /// What the shadow policy would have done, where that differs; empty without one.
    shadow: String,
    evaluation_ms: u64,
}

impl Findings {
    fn of(verdict: &Verdict) -> Self {
        let Verdict { evaluation, decision, shadow, .. } = verdict;
        let deciding = decision.deciding_dmarc(evaluation);
        Self {
            author_domain: match &evaluation.author {
                Author::Usable { domains, .. } => join(domains.iter().map(Domain::to_string)),
                Author::Unusable(_) => String::new(),
            },
            from_note: match &evaluation.author {
                Author::Usable { address_in_display_name: true, .. } => "an address stands before the angle address",
                Author::Usable { .. } | Author::Unusable(_) => "",
            },
            policy_domain: deciding
                .and_then(|dmarc| dmarc.policy.as_ref())
                .map(|policy| policy.domain.to_string())
                .unwrap_or_default(),
            spf: spf(&evaluation.spf),
            spf_helo: evaluation.spf_helo.as_ref().map(spf).unwrap_or_default(),
            dkim: join(evaluation.dkim.iter().map(|signature| {
                let domain = signature.domain.as_ref().map_or("?", |d| d.as_str());
                format!("{}:{domain} ({})", signature.result, signature.reason)
            })),
            arc: arc(evaluation),
            dmarc: match &evaluation.author {
                Author::Unusable(why) => format!("permerror (From {why})"),
                Author::Usable { .. } => join(evaluation.dmarc.iter().map(|d| format!("{} ({})", d.result, d.reason))),
            },
            policy: decision.policy().map_or("", Label::as_str),
            mode: decision.mode.as_str(),
            rule: decision.rule.as_str(),
            signs: join(decision.signs.iter().map(ToString::to_string)),
            disposition: decision.reported().as_str(),
            overrides: join(decision.overrides().iter().map(|o| format!("{} ({})", o.kind, o.comment))),
            voucher: decision
                .deciding_assessment()
                .and_then(|a| a.voucher.as_ref())
                .map(|set| format!("{} (i={})", set.sealer, set.instance))
                .unwrap_or_default(),
            shadow: match shadow {
                Some(Shadow { decision, .. }) if verdict.shadow_differs() => {
                    format!("{} ({})", Treatment::of(decision.disposition), decision.rule)
                }
                Some(_) => "same".to_owned(),
                None => String::new(),
            },
            evaluation_ms: u64::try_from(evaluation.elapsed.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn spf(spf: &SpfOutput) -> String {
    let domain = spf.domain.as_ref().map_or("?", |d| d.as_str());
    format!("{}:{domain} ({}: {})", spf.result, spf.identity, spf.reason)
}

/// The result of the chain, and its sealers from the first up with what each says of DMARC.
fn arc(evaluation: &Evaluation) -> String {
    let arc = &evaluation.arc;
    let set = |set: &ArcSet| match &set.dmarc {
        Some(found) => format!("{} dmarc={} header.from={}", set.sealer, found.result, found.author_domain),
        None => set.sealer.to_string(),
    };
    if arc.sets.is_empty() {
        return arc.result.as_str().to_owned();
    }
    format!("{} ({})", arc.result, join(arc.sets.iter().map(set)))
}

/// A bounded list.
fn join(words: impl Iterator<Item = String>) -> String {
    words.take(MAX_LISTED).collect::<Vec<_>>().join(", ")
}

/// Recipients that one event lists; it tells how many there are, and how many are left out.
const MAX_RECIPIENTS: usize = 20;
/// Octets of a Message-ID in an event.
const MAX_MESSAGE_ID: usize = 250;
/// Signatures, domains, signs that one event lists.
const MAX_LISTED: usize = 20;
