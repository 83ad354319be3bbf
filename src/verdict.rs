//! From what was found out about a message to what is done with it and what is written down about it.
//!
//! `session::transaction` and `dmarcgate check` both call this, so that they never differ.

use std::net::IpAddr;

use ipnet::IpNet;
use rand::Rng;

use crate::action::{Action, Names, Replies, ReplyText};
use crate::dmarc::alignment::Alignment;
use crate::domain::Domain;
use crate::envelope::{Envelope, sender_network};
use crate::evaluation::{DkimResult, DmarcOutput, Evaluation};
use crate::label::Label;
use crate::message::author::Author;
use crate::message::header::{AuthservIds, HeaderSection, Removals};
use crate::panics::caught_in;
use crate::policy::treatment::{Opinion, Treatment};
use crate::policy::{
    Assessment, Circumstances, Decision, Disposition, LocalPolicy, Mode, OnTempError, Recipients, ReversePathKind,
    decide,
};
use crate::record::{
    DkimAuthResult, FinalReply, NO_DOMAIN, PolicyEvaluated, PolicyPublished, Record, SpfAuthResult, SpfScope,
    UpstreamReply,
};
use crate::smtp::address::{DomainPart, ForwardPath, ReversePath};
use crate::smtp::reply::Reply;
use crate::spf::{Identity, SpfResult};
use crate::store::comparison::{Comparison, Origin};

/// How a message is judged.
#[derive(Debug)]
pub struct Settings {
    /// What the operator wants.
    pub policy: LocalPolicy,
    /// The name under which results are written.
    pub authserv_id: Box<str>,
    /// The host name under which Received-SPF is written; none: it isn't.
    pub receiver: Option<Box<str>>,
    /// The names whose incoming results are removed: ours and those that the operator adds.
    pub own_ids: AuthservIds,
    /// Hosts whose incoming results stay.
    pub keep_results_from: Vec<IpNet>,
    /// Recipients whose mail is not refused, if there are no others.
    pub exempt_recipients: Vec<ExemptRecipient>,
    /// What is said to clients whose message is refused or deferred.
    pub replies: Replies,
    /// What rows tell of recipients.
    pub recipients_in_rows: RecipientsInRows,
    /// A policy that is evaluated but never acted on.
    pub shadow: Option<ShadowPolicy>,
}

/// What rows tell of recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientsInRows {
    /// Nothing.
    Omitted,
    /// Their domains: there is a row for each.
    ByDomain,
}

/// A second policy beside the one in force: it sees the same facts under the same circumstances, and is never acted on.
#[derive(Debug)]
pub struct ShadowPolicy {
    /// What it wants.
    pub policy: LocalPolicy,
    /// Whom it exempts.
    pub exempt_recipients: Vec<ExemptRecipient>,
}

/// A recipient whose mail is not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExemptRecipient {
    /// In whatever domain.
    LocalPart(Box<str>),
    /// This address.
    Address(Box<str>),
}

/// What was found out about a message and what is done with it.
#[derive(Debug)]
pub struct Verdict {
    /// The facts.
    pub evaluation: Evaluation,
    /// The decision.
    pub decision: Decision,
    /// Its execution.
    pub action: Action,
    /// What the shadow policy would have done; none without one, or by a fault of ours in it.
    pub shadow: Option<Shadow>,
}

/// What the shadow policy would have done with a message.
#[derive(Debug)]
pub struct Shadow {
    /// What it decides.
    pub decision: Decision,
    /// What would come of that.
    pub action: Action,
}

impl Settings {
    /// What must not reach the upstream of a message from the host `ip`.
    pub fn removals(&self, section: &HeaderSection, ip: IpAddr) -> Removals {
        if self.keep_results_from.iter().any(|network| network.contains(&ip)) {
            return Removals::default();
        }
        section.removals(&self.own_ids)
    }

    /// What counts besides the message: its envelope and the time in epoch seconds. What takes a look-up or a memory,
    /// the client's name and how long DNS has failed, is for the caller to add.
    pub fn circumstances(&self, envelope: &Envelope, now: u64) -> Circumstances {
        let policies = std::iter::once(&self.policy).chain(self.shadow.as_ref().map(|shadow| &shadow.policy));
        let are_asked_for = policies.into_iter().any(|policy| !policy.overrides.is_empty());
        let recipient_domains = if are_asked_for { recipient_domains(&envelope.recipients) } else { Vec::new() };
        Circumstances {
            reverse_path: match envelope.reverse_path {
                ReversePath::Null => ReversePathKind::Null,
                ReversePath::Mailbox(_) => ReversePathKind::Mailbox,
            },
            recipients: kind_of(&envelope.recipients, &self.exempt_recipients),
            recipient_domains,
            host: None,
            in_doubt_for: Vec::new(),
            now,
            sample: rand::rng().random_range(0..100),
        }
    }
}

impl ShadowPolicy {
    /// What it would do with a message.
    fn decide(&self, evaluation: &Evaluation, envelope: &Envelope, circumstances: &Circumstances) -> Decision {
        let recipients = kind_of(&envelope.recipients, &self.exempt_recipients);
        decide(evaluation, &Circumstances { recipients, ..circumstances.clone() }, &self.policy)
    }
}

impl Verdict {
    /// Whether the shadow policy would have treated the message otherwise.
    pub fn shadow_differs(&self) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.decision.disposition != self.decision.disposition)
    }

    /// Whether the message goes on with a mark.
    pub fn is_tagged(&self) -> bool {
        matches!(self.decision.disposition, Disposition::Tag(_))
    }
}

impl ExemptRecipient {
    fn covers(&self, path: &ForwardPath) -> bool {
        match self {
            Self::LocalPart(name) => path.mailbox().local_part().eq_ignore_ascii_case(name),
            Self::Address(address) => path.mailbox().as_str().eq_ignore_ascii_case(address),
        }
    }
}

fn kind_of(recipients: &[ForwardPath], exempt: &[ExemptRecipient]) -> Recipients {
    let is_exempt = |path: &ForwardPath| exempt.iter().any(|exempt| exempt.covers(path));
    if recipients.iter().all(is_exempt) { Recipients::AllExempt } else { Recipients::Ordinary }
}

/// Judges an evaluated message with this envelope.
pub fn conclude(
    evaluation: Evaluation,
    envelope: &Envelope,
    circumstances: &Circumstances,
    settings: &Settings,
    id: &str,
) -> Verdict {
    let decision = decide(&evaluation, circumstances, &settings.policy);
    let names = Names { authserv_id: &settings.authserv_id, explain_id: id, receiver: settings.receiver.as_deref() };
    let act = |decision: &Decision| Action::of(&evaluation, decision, &names, &settings.replies);
    let action = act(&decision);
    let shadow = settings.shadow.as_ref().and_then(|shadow| {
        let judged = || {
            let decision = shadow.decide(&evaluation, envelope, circumstances);
            Shadow { action: act(&decision), decision }
        };
        // A fault of ours in it is none in the verdict.
        caught_in(judged).ok()
    });
    Verdict { evaluation, decision, action, shadow }
}

/// What is done with a message whose evaluation did not finish: a fault of ours, never a 5xx.
pub fn undecided(settings: &Settings, id: &str) -> Action {
    match (settings.policy.mode, settings.policy.on_temperror) {
        (Mode::Enforce, OnTempError::DeferIfItMatters | OnTempError::Defer) => Action::Defer(ReplyText {
            code: 451,
            enhanced: (4, 3, 0),
            lines: vec![format!("Message could not be evaluated, please try again later (id {id})")],
        }),
        _ => Action::unevaluated(&settings.authserv_id),
    }
}

/// A reply text as it goes over the wire.
pub fn reply(text: &ReplyText) -> Reply {
    let (class, subject, detail) = text.enhanced;
    let enhanced = format!("{class}.{subject}.{detail}");
    Reply::of_texts(text.code, &enhanced, text.lines.iter().map(String::as_str))
}

/// The rows of a message: one for each author domain, or one without if From is unusable. `arrived` is in epoch
/// seconds.
pub fn records(
    Verdict { evaluation, decision, .. }: &Verdict,
    source_ip: IpAddr,
    envelope: &Envelope,
    reply: FinalReply,
    arrived: i64,
) -> Vec<Record> {
    let record = |dmarc: Option<(&DmarcOutput, &Assessment)>| Record {
        arrived,
        source_ip,
        policy: dmarc.and_then(|(dmarc, _)| published(dmarc)),
        evaluated: evaluated(decision, dmarc),
        header_from: dmarc.map(|(dmarc, _)| dmarc.author_domain.clone()),
        envelope_from: match envelope.sender_domain() {
            Some(domain) => domain.to_string(),
            None if envelope.reverse_path.mailbox().is_some() => NO_DOMAIN.to_owned(),
            None => String::new(),
        },
        envelope_to: None,
        dkim: dkim_results(evaluation, dmarc.map(|(dmarc, _)| dmarc)),
        spf: evaluation.spf.domain.as_ref().map(|domain| SpfAuthResult {
            domain: domain.to_string(),
            scope: match evaluation.spf.identity {
                Identity::MailFrom => SpfScope::MailFrom,
                Identity::Helo => SpfScope::Helo,
            },
            result: evaluation.spf.result.as_str().into(),
        }),
        reply,
    };
    match evaluation.author {
        Author::Unusable(_) => vec![record(None)],
        Author::Usable { .. } => {
            evaluation.dmarc.iter().zip(&decision.assessments).map(|pair| record(Some(pair))).collect()
        }
    }
}

/// How a message came out, beside what the shadow policy would have done. `arrived` is in epoch seconds.
pub fn comparison(verdict: &Verdict, ip: IpAddr, reply: Option<UpstreamReply>, arrived: i64) -> Comparison {
    let Verdict { evaluation, decision, shadow, .. } = verdict;
    let deciding = decision.deciding_dmarc(evaluation);
    let text = |domain: Option<&Domain>| domain.map(Domain::to_string).unwrap_or_default();
    let origin = || Origin {
        author_domain: text(deciding.map(|dmarc| &dmarc.author_domain)),
        source: source(evaluation, ip),
        list_id: text(evaluation.list_id.as_ref()),
    };
    Comparison {
        arrived,
        opinion: Opinion::of(evaluation, decision),
        active: Treatment::of(decision.disposition),
        reply,
        shadow: shadow.as_ref().map(|shadow| Treatment::of(shadow.decision.disposition)),
        origin: verdict.shadow_differs().then(origin),
    }
}

/// Who has really sent a message, as far as that was verified; else from which network it came.
fn source(evaluation: &Evaluation, ip: IpAddr) -> String {
    let signer = evaluation.dkim.iter().find(|signature| signature.result == DkimResult::Pass);
    let sender = evaluation.spf.domain.as_ref().filter(|_| evaluation.spf.result == SpfResult::Pass);
    match (signer.and_then(|signature| signature.domain.as_ref()), sender) {
        (Some(domain), _) => format!("d={domain}"),
        (None, Some(domain)) => format!("spf={domain}"),
        (None, None) => sender_network(ip).to_string(),
    }
}

/// The rows of a message that tell its recipients' domains: each of `records` once for each domain. Recipients without
/// one share a row without.
pub fn by_recipient_domain(records: Vec<Record>, envelope: &Envelope) -> Vec<Record> {
    let domains = recipient_domains(&envelope.recipients);
    let of = |record: Record| {
        let domains = domains.iter().map(|domain| domain.as_ref().map(ToString::to_string));
        domains.map(move |envelope_to| Record { envelope_to, ..record.clone() }).collect::<Vec<_>>()
    };
    records.into_iter().flat_map(of).collect()
}

/// Each once; none for recipients without one.
fn recipient_domains(recipients: &[ForwardPath]) -> Vec<Option<Domain>> {
    let mut domains = Vec::new();
    for recipient in recipients {
        let domain = match recipient.mailbox().domain() {
            DomainPart::Name(domain) => Some(domain),
            DomainPart::Literal | DomainPart::Absent => None,
        };
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    domains
}

fn published(dmarc: &DmarcOutput) -> Option<PolicyPublished> {
    let policy = dmarc.policy.as_ref()?;
    Some(PolicyPublished::new(&policy.domain, policy.discovery.into(), &policy.record, policy.requested))
}

fn evaluated(decision: &Decision, dmarc: Option<(&DmarcOutput, &Assessment)>) -> PolicyEvaluated {
    match dmarc {
        Some((dmarc, assessment)) => {
            PolicyEvaluated::new(assessment.reported, (dmarc.dkim_aligned, dmarc.spf_aligned), &assessment.overrides)
        }
        None => PolicyEvaluated::new(decision.reported(), (false, false), decision.overrides()),
    }
}

/// In the order that RFC 9990 §3.1.3 prefers: strictly aligned passes, aligned passes, passes, the rest. Anybody can
/// write signatures that fail, with names of any length, and each row would hold them: few of those are kept.
fn dkim_results(evaluation: &Evaluation, dmarc: Option<&DmarcOutput>) -> Vec<DkimAuthResult> {
    let alignments = dmarc.map_or(&[][..], |dmarc| &dmarc.dkim_alignment);
    let mut results: Vec<_> = evaluation
        .dkim
        .iter()
        .enumerate()
        .filter_map(|(place, output)| {
            let rank = match (output.result, alignments.get(place)) {
                (DkimResult::Pass, Some(Alignment::Strict)) => 0,
                (DkimResult::Pass, Some(Alignment::Relaxed)) => 1,
                (DkimResult::Pass, _) => 2,
                (_, Some(Alignment::Strict | Alignment::Relaxed)) => 3,
                _ => 4,
            };
            let domain = output.domain.as_ref()?.to_string();
            let (selector, result) = (output.selector.to_string(), output.result.as_str().to_owned());
            Some((rank, DkimAuthResult { domain, selector, result }))
        })
        .collect();
    results.sort_by_key(|(rank, _)| *rank);
    let (mut aligned, mut others) = (0, 0);
    results.retain(|(rank, _)| match rank {
        0..=2 => true,
        3 => within(&mut aligned, MOST_FAILED_ALIGNED),
        _ => within(&mut others, MOST_FAILED),
    });
    results.into_iter().map(|(_, result)| result).collect()
}

/// Counts one more, and says whether it is among the first so many.
fn within(count: &mut usize, most: usize) -> bool {
    *count += 1;
    *count <= most
}

/// Failed signatures of a row that would have been aligned: what owners look for when their own mail fails.
const MOST_FAILED_ALIGNED: usize = 5;
/// Failed signatures of a row that would have been no use to anybody.
const MOST_FAILED: usize = 2;

#[cfg(test)]
mod tests;
