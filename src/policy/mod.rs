//! Decides what happens to a message: facts ([`Evaluation`]) and our operator's will ([`LocalPolicy`]) in, a
//! [`Decision`] out.
//!
//! Pure. It is cheap, too: `dmarcgate check` asks for the decision in each mode. The verdict table that it follows is
//! in the README; every row is a [`Rule`].

pub mod bypass;
pub mod corroboration;
mod judge;
pub mod overrides;
pub mod treatment;
pub mod trusted_sealer;

use std::borrow::Cow;
use std::time::Duration;

use self::judge::{Judge, unusable_from};
use self::overrides::{LocalOverride, first_that_fits};
use crate::dmarc::alignment::DmarcResult;
use crate::dmarc::record::Policy;
use crate::domain::Domain;
use crate::evaluation::{ArcSet, DmarcOutput, Evaluation};
use crate::label_enum;
use crate::message::author::Author;
use crate::policy::corroboration::{FoundSign, Sign, signs, weigh};
use crate::policy::trusted_sealer::{may_be_vouched_for, voucher};

label_enum! {
    /// How far the gate goes (`policy.mode`).
    pub enum Mode {
        /// Evaluate and report; never act.
        Monitor = "monitor",
        /// Mark failing mail for the upstream.
        Tag = "tag",
        /// Refuse and mark.
        Enforce = "enforce",
    }
}

label_enum! {
    /// When a failure under `reject` is refused in enforce (`policy.reject`).
    pub enum Reject {
        /// When nothing speaks for indirect mail flow (RFC 9989 §7.4: MUST NOT reject solely on the policy).
        Corroborated = "corroborated",
        /// Always. Does not conform to RFC 9989 §7.4 and §8.
        Always = "always",
        /// Never: it is marked `reject`.
        Never = "never",
    }
}

label_enum! {
    /// What a temporary DNS failure leads to in enforce (`policy.on_temperror`).
    pub enum OnTempError {
        /// 4xx if it may hide a pass under an enforcing policy.
        DeferIfItMatters = "defer-if-it-matters",
        /// 4xx also where it leaves the policy itself open.
        Defer = "defer",
        /// Never 4xx.
        Pass = "pass",
    }
}

label_enum! {
    /// What happens in enforce if From names no author domain (`policy.unusable_from`).
    pub enum OnUnusableFrom {
        /// It is refused; marked where the reverse-path is null.
        Reject = "reject",
        /// It is marked.
        Tag = "tag",
    }
}

label_enum! {
    /// Whether the historic `pct` counts (`policy.honor_pct`).
    pub enum Pct {
        /// RFC 9989: no.
        Ignored = "ignored",
        /// RFC 7489 §6.6.4: messages that the sample leaves out get the next milder policy.
        Honored = "honored",
    }
}

label_enum! {
    /// Whose mail the message may be.
    pub enum ReversePathKind {
        /// `<>`: a notification.
        Null = "null",
        /// Anything else.
        Mailbox = "mailbox",
    }
}

label_enum! {
    /// Who gets the message.
    pub enum Recipients {
        /// At least one recipient whose mail may be refused.
        Ordinary = "ordinary",
        /// Every accepted recipient is exempt from refusal (postmaster, abuse).
        AllExempt = "all_exempt",
    }
}

label_enum! {
    /// What a message is marked with (`X-DMARC-Fail-policy`).
    pub enum Mark {
        /// As the policy quarantine asks.
        Quarantine = "quarantine",
        /// As the policy reject asks.
        Reject = "reject",
    }
}

label_enum! {
    /// The rule of the verdict table that decided.
    pub enum Rule {
        /// DMARC passed.
        Pass = "pass",
        /// No policy record applies.
        NoRecord = "no_record",
        /// The policy record can't be used.
        BrokenRecord = "broken_record",
        /// DNS left the policy open.
        PolicyDoubt = "policy_doubt",
        /// A bound of ours was reached before the policy could be looked up.
        OwnLimits = "own_limits",
        /// DNS, or a bound of ours, left open whether an aligned identifier passed, or whether a trusted sealer vouches
        /// for the author.
        IdentifierDoubt = "identifier_doubt",
        /// DNS has left it open for so long that the message is deferred no more.
        LastingDoubt = "lasting_doubt",
        /// It failed; the owner asks for nothing.
        FailNone = "fail_none",
        /// It failed, but a sealer that the operator trusts says that it passed when it reached it.
        TrustedSealer = "trusted_sealer",
        /// It failed or was in doubt, and one of `policy.override` fits.
        Override = "override",
        /// It failed under quarantine.
        FailQuarantine = "fail_quarantine",
        /// It failed under reject, and is refused.
        FailReject = "fail_reject",
        /// It failed under reject, but there are signs of indirect mail flow.
        IndirectFlow = "indirect_flow",
        /// It failed under reject, and `policy.reject` is `never`.
        NeverReject = "never_reject",
        /// It would be refused, but every recipient is exempt.
        ExemptRecipients = "exempt_recipients",
        /// From names no author domain.
        UnusableFrom = "unusable_from",
    }
}

label_enum! {
    /// The reasons why a failing message was treated otherwise than published (RFC 9990 §3.1.6).
    #[derive(serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum OverrideKind {
        /// The gate's own policy.
        LocalPolicy = "local_policy",
        /// A mailing list.
        MailingList = "mailing_list",
        /// Anything else.
        Other = "other",
        /// The owner is testing (`t=y`).
        PolicyTestMode = "policy_test_mode",
        /// A forwarder that the operator trusts.
        TrustedForwarder = "trusted_forwarder",
    }
}

label_enum! {
    /// The disposition of a report row (RFC 9990 §3.1.1.9).
    pub enum ReportDisposition {
        /// Nothing was done.
        None = "none",
        /// DMARC passed under an enforcing policy.
        Pass = "pass",
        /// It was marked.
        Quarantine = "quarantine",
        /// It was refused.
        Reject = "reject",
    }
}

/// What our operator sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPolicy {
    /// How far the gate goes.
    pub mode: Mode,
    /// When a failure under `reject` is refused.
    pub reject: Reject,
    /// What a temporary DNS failure leads to.
    pub on_temperror: OnTempError,
    /// How long mail of one sender and author domain is deferred for temporary DNS failures; then it goes on marked.
    pub defer_at_most: Duration,
    /// What happens if From names no author domain.
    pub unusable_from: OnUnusableFrom,
    /// Whether `pct` counts.
    pub pct: Pct,
    /// Which of [`Sign::SWITCHABLE`] don't count.
    pub ignored_signs: Vec<Sign>,
    /// Whose word in an ARC chain counts: domains of seals (`d=`), each for itself.
    pub trusted_sealers: Vec<Domain>,
    /// What the operator knows better, in the order in which it is tried.
    pub overrides: Vec<LocalOverride>,
}

/// What counts besides the message itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// The kind of reverse-path.
    pub reverse_path: ReversePathKind,
    /// Who gets it.
    pub recipients: Recipients,
    /// The domain of each accepted recipient, once; none where one has none.
    pub recipient_domains: Vec<Option<Domain>>,
    /// The client's forward-confirmed host name, if it is known.
    pub host: Option<Domain>,
    /// For each author domain, how long its mail from this sender has been deferred already, without a break.
    pub in_doubt_for: Vec<Option<Duration>>,
    /// Seconds since the epoch, for overrides that end.
    pub now: u64,
    /// A random number from 0 to 99 for `pct`.
    pub sample: u8,
}

/// What is done with a message, from the mildest to the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// It goes to the upstream.
    Accept,
    /// It goes to the upstream with a mark.
    Tag(Mark),
    /// The client is asked to come again (4xx).
    Defer,
    /// It is refused for good (5xx).
    Refuse,
}

/// One reason why a failing message was treated otherwise than published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The kind.
    pub kind: OverrideKind,
    /// In a few words of ours or of the operator.
    pub comment: Cow<'static, str>,
}

/// What is said of one author domain, in log, header and report row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// D: the policy after `p`/`sp`/`np`, `t` and `pct`; none without a usable record.
    pub policy: Option<Policy>,
    /// What this domain alone would have led to.
    pub disposition: Disposition,
    /// The rule for this domain.
    pub rule: Rule,
    /// The disposition of its report row.
    pub reported: ReportDisposition,
    /// The reasons of its report row.
    pub overrides: Vec<Override>,
    /// With [`Rule::TrustedSealer`]: the ARC set whose word counted.
    pub voucher: Option<ArcSet>,
    /// With [`Rule::Override`]: the place of the override in the list, from 0.
    pub overridden_by: Option<usize>,
}

/// What we do with one message, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub disposition: Disposition,
    /// The rule that decided.
    pub rule: Rule,
    /// The mode under which it was decided.
    pub mode: Mode,
    /// `policy.reject` under which it was decided.
    pub reject: Reject,
    /// Which author domain decided, as an index into `Evaluation::dmarc` and `assessments`; none if From is unusable.
    pub deciding: Option<usize>,
    /// One for each author domain, in the order of `Evaluation::dmarc`.
    pub assessments: Vec<Assessment>,
    /// Signs of indirect mail flow for the author domain that decided, whether or not they count.
    pub signs: Vec<FoundSign>,
}

/// Decides by the verdict table.
///
/// Of several author domains each is judged, and the strictest outcome rules (RFC 9989 §11.5); among equals a failure
/// before a doubt before the rest, then the stricter policy, then the order of From.
pub fn decide(evaluation: &Evaluation, circumstances: &Circumstances, local: &LocalPolicy) -> Decision {
    if let Author::Unusable(_) = evaluation.author {
        return unusable_from(circumstances, local);
    }
    let may_be_vouched =
        |dmarc: &DmarcOutput| may_be_vouched_for(&evaluation.arc, &local.trusted_sealers, &dmarc.author_domain);
    let signs_of = |dmarc: &DmarcOutput| {
        weigh(&signs(evaluation, dmarc), &local.ignored_signs, local.reject, may_be_vouched(dmarc))
    };
    let signs_of: Vec<Vec<FoundSign>> = evaluation.dmarc.iter().map(signs_of).collect();
    let judge = |(index, (dmarc, signs)): (usize, (&DmarcOutput, &Vec<FoundSign>))| {
        let in_doubt_for = circumstances.in_doubt_for.get(index).copied().flatten();
        let voucher = voucher(&evaluation.arc, &local.trusted_sealers, &dmarc.author_domain);
        let fitting = first_that_fits(&local.overrides, evaluation, dmarc, circumstances);
        let voucher_in_doubt = may_be_vouched(dmarc);
        let cause_of_doubt = evaluation.cause_of_doubt(dmarc);
        let judge = Judge {
            circumstances,
            local,
            dmarc,
            signs,
            voucher,
            voucher_in_doubt,
            cause_of_doubt,
            fitting,
            in_doubt_for,
        };
        judge.assess()
    };
    let mut assessments: Vec<Assessment> = evaluation.dmarc.iter().zip(&signs_of).enumerate().map(judge).collect();
    let weight = |a: &Assessment| (a.disposition, significance(a.rule), a.policy);
    // The last of equals wins in max_by_key: reversed, the first does.
    let deciding = assessments.iter().enumerate().rev().max_by_key(|(_, a)| weight(a)).map(|(index, _)| index);
    let chosen = deciding.and_then(|index| assessments.get(index));
    let disposition = chosen.map_or(Disposition::Accept, |a| a.disposition);
    let rule = chosen.map_or(Rule::NoRecord, |a| a.rule);
    for (assessment, dmarc) in assessments.iter_mut().zip(&evaluation.dmarc) {
        assessment.report(dmarc, disposition);
    }
    let signs = deciding.and_then(|index| signs_of.into_iter().nth(index)).unwrap_or_default();
    Decision { disposition, rule, mode: local.mode, reject: local.reject, deciding, assessments, signs }
}

impl Default for LocalPolicy {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            reject: Reject::Corroborated,
            on_temperror: OnTempError::DeferIfItMatters,
            defer_at_most: Duration::from_secs(4 * 3600),
            unusable_from: OnUnusableFrom::Reject,
            pct: Pct::Ignored,
            ignored_signs: Vec::new(),
            trusted_sealers: Vec::new(),
            overrides: Vec::new(),
        }
    }
}

impl LocalPolicy {
    /// Whether an override depends on the client's host name, so that it has to be looked up.
    pub fn wants_host(&self) -> bool {
        self.overrides.iter().any(|o| !o.criteria.hosts.is_empty())
    }
}

impl Decision {
    /// What is said of the author domain that decided.
    pub fn deciding_assessment(&self) -> Option<&Assessment> {
        self.deciding.and_then(|index| self.assessments.get(index))
    }

    /// What DMARC says of the author domain that decided, in the evaluation that was decided on.
    pub fn deciding_dmarc<'a>(&self, evaluation: &'a Evaluation) -> Option<&'a DmarcOutput> {
        self.deciding.and_then(|index| evaluation.dmarc.get(index))
    }

    /// D of the author domain that decided.
    pub fn policy(&self) -> Option<Policy> {
        self.deciding_assessment().and_then(|a| a.policy)
    }

    /// The report disposition of the author domain that decided; without one, that of the message.
    pub fn reported(&self) -> ReportDisposition {
        self.deciding_assessment().map_or_else(|| ReportDisposition::of(self.disposition), |a| a.reported)
    }

    /// The override reasons of the author domain that decided.
    pub fn overrides(&self) -> &[Override] {
        self.deciding_assessment().map_or(&[], |a| &a.overrides)
    }
}

impl Override {
    fn new(kind: OverrideKind, comment: &'static str) -> Self {
        Self { kind, comment: Cow::Borrowed(comment) }
    }
}

impl ReportDisposition {
    /// What was done, as a report says it.
    fn of(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Refuse => Self::Reject,
            Disposition::Tag(_) => Self::Quarantine,
            Disposition::Accept | Disposition::Defer => Self::None,
        }
    }
}

impl Assessment {
    /// Fills in the report row, once it is known what happens to the message as a whole.
    fn report(&mut self, dmarc: &DmarcOutput, whole: Disposition) {
        let enforcing = self.policy.is_some_and(|p| p != Policy::None);
        self.reported = match ReportDisposition::of(whole) {
            ReportDisposition::None if dmarc.result == DmarcResult::Pass && enforcing => ReportDisposition::Pass,
            reported => reported,
        };
        if self.disposition < whole {
            let comment = "another author domain of the message failed";
            self.overrides.push(Override::new(OverrideKind::LocalPolicy, comment));
        }
    }
}

/// Orders rules that lead to the same disposition: what went wrong tells more than what went well.
fn significance(rule: Rule) -> u8 {
    match rule {
        Rule::FailNone
        | Rule::FailQuarantine
        | Rule::FailReject
        | Rule::TrustedSealer
        | Rule::Override
        | Rule::IndirectFlow
        | Rule::NeverReject
        | Rule::ExemptRecipients
        | Rule::UnusableFrom => 4,
        Rule::PolicyDoubt | Rule::OwnLimits | Rule::IdentifierDoubt | Rule::LastingDoubt => 3,
        Rule::BrokenRecord => 2,
        Rule::Pass => 1,
        Rule::NoRecord => 0,
    }
}

#[cfg(test)]
pub(crate) mod sample {
    use super::*;

    /// An ordinary recipient and sender, nothing known beside them; no sample is left out by `pct`.
    pub(crate) const ORDINARY: Circumstances = Circumstances {
        reverse_path: ReversePathKind::Mailbox,
        recipients: Recipients::Ordinary,
        recipient_domains: Vec::new(),
        host: None,
        in_doubt_for: Vec::new(),
        now: 0,
        sample: 99,
    };
}

#[cfg(test)]
mod tests;
