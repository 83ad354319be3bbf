//! Judges one author domain by the verdict table, and a From that names none.

use super::corroboration::{FoundSign, Weight};
use super::overrides::{LocalOverride, OverrideAction};
use super::{
    Assessment, Circumstances, Decision, Disposition, LocalPolicy, Mark, Mode, OnTempError, OnUnusableFrom, Override,
    OverrideKind, Pct, Recipients, Reject, ReportDisposition, ReversePathKind, Rule,
};
use std::time::Duration;

use crate::dmarc::alignment::{DmarcResult, Doubt};
use crate::dmarc::record::Policy;
use crate::evaluation::{ArcSet, DmarcOutput, DoubtCause};

/// One author domain with all that its judgement depends on.
pub(super) struct Judge<'a> {
    pub(super) circumstances: &'a Circumstances,
    pub(super) local: &'a LocalPolicy,
    pub(super) dmarc: &'a DmarcOutput,
    pub(super) signs: &'a [FoundSign],
    /// Who vouches for this author domain.
    pub(super) voucher: Option<&'a ArcSet>,
    /// Somebody might, if DNS gave the keys of the ARC chain.
    pub(super) voucher_in_doubt: bool,
    /// Who is at fault where something is open.
    pub(super) cause_of_doubt: DoubtCause,
    /// How long its mail from this sender has been deferred already.
    pub(super) in_doubt_for: Option<Duration>,
    /// The first of the operator's overrides that fits, with its place in the list.
    pub(super) fitting: Option<(usize, &'a LocalOverride)>,
}

impl Judge<'_> {
    /// What becomes of the message for this author domain.
    pub(super) fn assess(&self) -> Assessment {
        let mut overrides = Vec::new();
        let policy = self.effective_policy(&mut overrides);
        let (disposition, rule) = match self.dmarc.result {
            DmarcResult::Pass => (Disposition::Accept, Rule::Pass),
            DmarcResult::None => (Disposition::Accept, Rule::NoRecord),
            DmarcResult::PermError => (Disposition::Accept, Rule::BrokenRecord),
            DmarcResult::TempError => self.doubt(policy, &mut overrides),
            DmarcResult::Fail => self.failure(policy.unwrap_or(Policy::None), &mut overrides),
        };
        let voucher = self.voucher.filter(|_| rule == Rule::TrustedSealer).cloned();
        let overridden_by = self.fitting.filter(|_| rule == Rule::Override).map(|(place, _)| place);
        let reported = ReportDisposition::None;
        Assessment { policy, disposition, rule, reported, overrides, voucher, overridden_by }
    }

    /// D. `t=y` and a sample that leaves the message out ask for the same step down, once (RFC 9989 Appendix A.6).
    fn effective_policy(&self, overrides: &mut Vec<Override>) -> Option<Policy> {
        let published = self.dmarc.policy.as_ref()?;
        let record = &published.record;
        // What passes is not sampled, and needs no reason.
        let passed = self.dmarc.result == DmarcResult::Pass;
        let left_out = self.local.pct == Pct::Honored && record.pct.is_some_and(|pct| self.circumstances.sample >= pct);
        let reason = if record.testing {
            Override::new(OverrideKind::PolicyTestMode, "t=y")
        } else if left_out && !passed {
            Override::new(OverrideKind::Other, "left out by pct")
        } else {
            return Some(published.requested);
        };
        if !passed && published.requested != Policy::None {
            overrides.push(reason);
        }
        Some(published.requested.one_below())
    }

    /// RFC 9989 §5.3.6: neither pass nor fail, and the owner's policy can't be applied.
    fn doubt(&self, policy: Option<Policy>, overrides: &mut Vec<Override>) -> (Disposition, Rule) {
        let enforce = self.local.mode == Mode::Enforce;
        let on_temperror = self.local.on_temperror;
        let (defer, rule) = match self.dmarc.doubt {
            Some(Doubt::Identifier | Doubt::IdentifierOwnLimits) => {
                // RFC 9989 §5.4: p=none never changes how mail is handled.
                let matters = policy.is_some_and(|p| p != Policy::None);
                if matters {
                    overrides.push(Override::new(OverrideKind::Other, self.cause_of_doubt.in_words()));
                }
                (matters && on_temperror != OnTempError::Pass, Rule::IdentifierDoubt)
            }
            Some(Doubt::EnforcingAbove) => (on_temperror != OnTempError::Pass, Rule::PolicyDoubt),
            // Not the sender's domain is in doubt but we ourselves, and whoever brought that about may be the forger.
            Some(Doubt::OwnLimits) => (on_temperror != OnTempError::Pass, Rule::OwnLimits),
            Some(Doubt::PolicyDiscovery) | None => (on_temperror == OnTempError::Defer, Rule::PolicyDoubt),
        };
        if enforce && defer { self.defer(rule, policy, overrides) } else { (Disposition::Accept, rule) }
    }

    /// The client is asked to come again, unless the operator lets the message by or that has gone on for too long.
    fn defer(&self, rule: Rule, policy: Option<Policy>, overrides: &mut Vec<Override>) -> (Disposition, Rule) {
        match self.fitting {
            // Whom the operator lets by need not come again for DNS.
            Some((_, fitting)) if fitting.action != OverrideAction::Reject => {
                overrides.push(fitting.reason(policy));
                let marked = fitting.action == OverrideAction::Tag;
                let tag = Disposition::Tag(Mark::Quarantine);
                (if marked { tag } else { Disposition::Accept }, Rule::Override)
            }
            _ if self.doubt_lasts() => {
                overrides.push(Override::new(OverrideKind::Other, self.cause_of_doubt.in_words_for_long()));
                (Disposition::Tag(Mark::Quarantine), Rule::LastingDoubt)
            }
            _ => (Disposition::Defer, rule),
        }
    }

    /// Whether the sender has been put off for so long that its mail would never get through, whoever is at fault: a
    /// forger who floods us for hours gains a mark.
    fn doubt_lasts(&self) -> bool {
        self.in_doubt_for.is_some_and(|time| time >= self.local.defer_at_most)
    }

    fn failure(&self, policy: Policy, overrides: &mut Vec<Override>) -> (Disposition, Rule) {
        if let Some(overridden) = self.overridden(policy, overrides) {
            return overridden;
        }
        let mut because = |comment| overrides.push(Override::new(OverrideKind::LocalPolicy, comment));
        let (mark, rule) = match policy {
            Policy::None => return (Disposition::Accept, Rule::FailNone),
            Policy::Quarantine => (Mark::Quarantine, Rule::FailQuarantine),
            Policy::Reject => (Mark::Reject, Rule::FailReject),
        };
        match (self.local.mode, mark) {
            (Mode::Monitor, _) => {
                because("monitor mode: nothing is acted upon");
                (Disposition::Accept, rule)
            }
            // As if the owner asked for nothing: what broke on the way is known, and by whom.
            (Mode::Tag | Mode::Enforce, _) if self.voucher.is_some() => {
                let comment = "a trusted ARC sealer found that DMARC passes";
                overrides.push(Override::new(OverrideKind::TrustedForwarder, comment));
                (Disposition::Accept, Rule::TrustedSealer)
            }
            (Mode::Enforce, _) if self.voucher_in_doubt && self.local.on_temperror != OnTempError::Pass => {
                overrides.push(Override::new(OverrideKind::Other, self.cause_of_doubt.in_words()));
                self.defer(Rule::IdentifierDoubt, Some(policy), overrides)
            }
            (Mode::Tag, Mark::Reject) => {
                because("tag mode: nothing is refused");
                (Disposition::Tag(mark), rule)
            }
            (Mode::Tag | Mode::Enforce, Mark::Quarantine) => (Disposition::Tag(mark), rule),
            (Mode::Enforce, Mark::Reject) => self.rejection(overrides),
        }
    }

    /// A failure for which the operator has an override, where that makes a difference.
    fn overridden(&self, policy: Policy, overrides: &mut Vec<Override>) -> Option<(Disposition, Rule)> {
        let (_, fitting) = self.fitting?;
        let disposition = match (self.local.mode, fitting.action) {
            (Mode::Monitor, _) => return None,
            // Nothing would be done anyway.
            (_, OverrideAction::Pass) if policy == Policy::None => return None,
            (_, OverrideAction::Pass) => Disposition::Accept,
            (_, OverrideAction::Tag) => Disposition::Tag(Mark::Quarantine),
            (Mode::Tag, OverrideAction::Reject) => Disposition::Tag(Mark::Reject),
            (Mode::Enforce, OverrideAction::Reject) => match self.shield() {
                Some((kind, comment, rule)) => {
                    overrides.push(Override::new(kind, comment));
                    return Some((Disposition::Tag(Mark::Quarantine), rule));
                }
                None => Disposition::Refuse,
            },
        };
        overrides.push(fitting.reason(Some(policy)));
        Some((disposition, Rule::Override))
    }

    /// What no strictness overrides: a sign that always counts (what was put beside all that the author's
    /// domain signed, a bound of ours, a trusted sealer whose key could not be had), and that those who may complain
    /// are reachable.
    fn shield(&self) -> Option<(OverrideKind, &'static str, Rule)> {
        if let Some(FoundSign { sign, .. }) = self.signs.iter().find(|found| found.weight == Weight::Always) {
            return Some((sign.override_kind(), sign.comment(), Rule::IndirectFlow));
        }
        let comment = "mail to these recipients is never refused";
        let exempt = self.circumstances.recipients == Recipients::AllExempt;
        exempt.then_some((OverrideKind::LocalPolicy, comment, Rule::ExemptRecipients))
    }

    /// A failure under D = reject in enforce.
    fn rejection(&self, overrides: &mut Vec<Override>) -> (Disposition, Rule) {
        let mut because = |kind, comment| overrides.push(Override::new(kind, comment));
        match self.local.reject {
            Reject::Never => {
                because(OverrideKind::LocalPolicy, "nothing is refused for its policy here");
                return (Disposition::Tag(Mark::Reject), Rule::NeverReject);
            }
            Reject::Corroborated | Reject::Always => {}
        }
        let mut counted = self.signs.iter().filter(|found| found.counts()).peekable();
        if counted.peek().is_some() {
            counted.for_each(|found| because(found.sign.override_kind(), found.sign.comment()));
            return (Disposition::Tag(Mark::Quarantine), Rule::IndirectFlow);
        }
        match self.shield() {
            Some((kind, comment, rule)) => {
                because(kind, comment);
                (Disposition::Tag(Mark::Quarantine), rule)
            }
            None => (Disposition::Refuse, Rule::FailReject),
        }
    }
}

/// RFC 9989 §11.5: such mail never passes silently; a null reverse-path may be an honest, if broken, notification.
pub(super) fn unusable_from(circumstances: &Circumstances, local: &LocalPolicy) -> Decision {
    let refuse = local.unusable_from == OnUnusableFrom::Reject && circumstances.reverse_path != ReversePathKind::Null;
    let tag = Disposition::Tag(Mark::Quarantine);
    let (disposition, rule) = match (local.mode, refuse, circumstances.recipients) {
        (Mode::Monitor, _, _) => (Disposition::Accept, Rule::UnusableFrom),
        (Mode::Enforce, true, Recipients::Ordinary) => (Disposition::Refuse, Rule::UnusableFrom),
        (Mode::Enforce, true, Recipients::AllExempt) => (tag, Rule::ExemptRecipients),
        (Mode::Tag, _, _) | (Mode::Enforce, false, _) => (tag, Rule::UnusableFrom),
    };
    let (assessments, signs) = (Vec::new(), Vec::new());
    let LocalPolicy { mode, reject, .. } = *local;
    Decision { disposition, rule, mode, reject, deciding: None, assessments, signs }
}
