//! Names what becomes of a message, so that one policy can be held against another, and the gate's verdict against the
//! upstream's reply.

use crate::dmarc::alignment::DmarcResult;
use crate::dmarc::record::Policy;
use crate::evaluation::Evaluation;
use crate::label::Label;
use crate::label_enum;
use crate::policy::{Decision, Disposition, Mark, Rule};

label_enum! {
    /// What is done with a message, or would be.
    pub enum Treatment {
        /// It goes to the upstream.
        PassedOn = "passed_on",
        /// It goes there marked, as a quarantine asks.
        TaggedQuarantine = "tagged_quarantine",
        /// It goes there marked, as a reject asks.
        TaggedReject = "tagged_reject",
        /// The client is asked to come again.
        Deferred = "deferred",
        /// It is refused.
        Refused = "refused",
    }
}

label_enum! {
    /// What the gate thinks of a message that it passes on.
    pub enum Opinion {
        /// DMARC passed.
        Pass = "pass",
        /// No policy applies, or its record is broken.
        NoPolicy = "none",
        /// DMARC failed, or From names no author domain.
        Fail = "fail",
        /// The same, and it is marked.
        FailTagged = "fail_tagged",
        /// DNS left it open.
        Doubt = "doubt",
        /// The same, and it is marked.
        DoubtTagged = "doubt_tagged",
    }
}

label_enum! {
    /// The policy that applied to a message, as it was after `p`, `sp`, `np`, `t` and `pct`.
    pub enum Applied {
        /// There was none, or it is not known.
        Absent = "absent",
        /// The owner asks for nothing.
        None = "none",
        /// The owner finds failing mail suspicious.
        Quarantine = "quarantine",
        /// The owner says that failing mail is not from the domain.
        Reject = "reject",
    }
}

/// A verdict in four words: the result of DMARC and the policy for the author domain that decided, what is done, and by
/// which rule.
pub type Words = (DmarcResult, Applied, Treatment, Rule);

/// A decision in four words. A From that names no author domain is a permerror without a policy.
pub fn words(evaluation: &Evaluation, decision: &Decision) -> Words {
    let deciding = decision.deciding_dmarc(evaluation);
    let result = deciding.map_or(DmarcResult::PermError, |dmarc| dmarc.result);
    (result, Applied::of(decision.policy()), Treatment::of(decision.disposition), decision.rule)
}

/// The words that a decision can have, in every mode and by every setting.
pub fn possible_words() -> impl Iterator<Item = Words> {
    use Applied as A;
    use DmarcResult::{Fail, PermError, TempError};
    use Treatment::{Deferred, PassedOn, Refused, TaggedQuarantine, TaggedReject};
    let any = [A::Absent, A::None, A::Quarantine, A::Reject].as_slice();
    let published = [A::None, A::Quarantine, A::Reject].as_slice();
    let strict = [A::Quarantine, A::Reject].as_slice();
    Rule::ALL.iter().flat_map(move |rule| {
        let rows: Vec<(DmarcResult, &[A], &[Treatment])> = match rule {
            Rule::Pass => vec![(DmarcResult::Pass, published, &[PassedOn])],
            Rule::NoRecord => vec![(DmarcResult::None, &[A::Absent], &[PassedOn])],
            Rule::BrokenRecord => vec![(PermError, &[A::Absent], &[PassedOn])],
            Rule::PolicyDoubt | Rule::OwnLimits => vec![(TempError, any, &[PassedOn, Deferred])],
            // A trusted sealer whose key can't be had leaves a failure in doubt.
            Rule::IdentifierDoubt => {
                vec![
                    (TempError, &[A::None], &[PassedOn]),
                    (TempError, strict, &[PassedOn, Deferred]),
                    (Fail, strict, &[Deferred]),
                ]
            }
            Rule::LastingDoubt => vec![(TempError, any, &[TaggedQuarantine]), (Fail, strict, &[TaggedQuarantine])],
            Rule::FailNone => vec![(Fail, &[A::None], &[PassedOn])],
            Rule::TrustedSealer => vec![(Fail, strict, &[PassedOn])],
            Rule::Override => vec![
                (Fail, published, &[TaggedQuarantine, TaggedReject, Refused]),
                (Fail, strict, &[PassedOn]),
                (TempError, any, &[PassedOn, TaggedQuarantine]),
            ],
            Rule::FailQuarantine => vec![(Fail, &[A::Quarantine], &[PassedOn, TaggedQuarantine])],
            Rule::FailReject => vec![(Fail, &[A::Reject], &[PassedOn, TaggedReject, Refused])],
            Rule::IndirectFlow => vec![(Fail, published, &[TaggedQuarantine])],
            Rule::NeverReject => vec![(Fail, &[A::Reject], &[TaggedReject])],
            Rule::ExemptRecipients => {
                vec![(Fail, published, &[TaggedQuarantine]), (PermError, &[A::Absent], &[TaggedQuarantine])]
            }
            Rule::UnusableFrom => vec![(PermError, &[A::Absent], &[PassedOn, TaggedQuarantine, Refused])],
        };
        let words = rows.into_iter().flat_map(|(result, policies, treatments)| {
            policies.iter().flat_map(move |policy| treatments.iter().map(move |t| (result, *policy, *t)))
        });
        words.map(|(result, policy, treatment)| (result, policy, treatment, *rule)).collect::<Vec<_>>()
    })
}

impl Applied {
    /// What applied, if anything.
    pub fn of(policy: Option<Policy>) -> Self {
        match policy {
            None => Self::Absent,
            Some(Policy::None) => Self::None,
            Some(Policy::Quarantine) => Self::Quarantine,
            Some(Policy::Reject) => Self::Reject,
        }
    }
}

impl Treatment {
    /// What a disposition comes to.
    pub fn of(disposition: Disposition) -> Self {
        match disposition {
            Disposition::Accept => Self::PassedOn,
            Disposition::Tag(Mark::Quarantine) => Self::TaggedQuarantine,
            Disposition::Tag(Mark::Reject) => Self::TaggedReject,
            Disposition::Defer => Self::Deferred,
            Disposition::Refuse => Self::Refused,
        }
    }
}

impl Opinion {
    /// By the author domain that decided.
    pub fn of(evaluation: &Evaluation, decision: &Decision) -> Self {
        let deciding = decision.deciding_dmarc(evaluation);
        let is_tagged = matches!(decision.disposition, Disposition::Tag(_));
        match deciding.map_or(DmarcResult::Fail, |dmarc| dmarc.result) {
            DmarcResult::Pass => Self::Pass,
            DmarcResult::None | DmarcResult::PermError => Self::NoPolicy,
            DmarcResult::Fail if is_tagged => Self::FailTagged,
            DmarcResult::Fail => Self::Fail,
            DmarcResult::TempError if is_tagged => Self::DoubtTagged,
            DmarcResult::TempError => Self::Doubt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::sample;
    use crate::message::author::{Author, UnusableFrom};
    use crate::policy::overrides::{Criteria, LocalOverride, OverrideAction};
    use crate::policy::sample::ORDINARY;
    use crate::policy::{LocalPolicy, Mode, OverrideKind, Rule, decide};

    #[test]
    fn treatments_have_one_word_each() {
        use Disposition::{Accept, Defer, Refuse, Tag};
        let cases = [
            (Accept, "passed_on"),
            (Tag(Mark::Quarantine), "tagged_quarantine"),
            (Tag(Mark::Reject), "tagged_reject"),
            (Defer, "deferred"),
            (Refuse, "refused"),
        ];
        for (disposition, word) in cases {
            assert_eq!(Treatment::of(disposition).to_string(), word);
        }
    }

    /// An override that tags everything that fails, so that no policy record is needed.
    fn tagging() -> LocalPolicy {
        let tag = LocalOverride {
            criteria: Criteria::default(),
            action: OverrideAction::Tag,
            kind: Some(OverrideKind::LocalPolicy),
            note: "all".into(),
            until: None,
        };
        LocalPolicy { overrides: vec![tag], ..LocalPolicy::default() }
    }

    #[test]
    fn opinions_follow_the_result_that_decided_and_the_mark() {
        let monitor = LocalPolicy { mode: Mode::Monitor, ..LocalPolicy::default() };
        let cases = [
            (DmarcResult::Pass, "pass", "pass"),
            (DmarcResult::None, "none", "none"),
            (DmarcResult::PermError, "none", "none"),
            (DmarcResult::Fail, "fail", "fail_tagged"),
            (DmarcResult::TempError, "doubt", "doubt"),
        ];
        for (result, unmarked, marked) in cases {
            let facts = sample::evaluation(vec![sample::dmarc("a.example", result)]);
            for (local, expected) in [(&monitor, unmarked), (&tagging(), marked)] {
                let decision = decide(&facts, &ORDINARY, local);
                assert_eq!(Opinion::of(&facts, &decision).to_string(), expected, "{result} {}", local.mode);
            }
            let lasting = Decision {
                disposition: Disposition::Tag(Mark::Quarantine),
                rule: Rule::LastingDoubt,
                ..decide(&facts, &ORDINARY, &monitor)
            };
            if result == DmarcResult::TempError {
                assert_eq!(Opinion::of(&facts, &lasting), Opinion::DoubtTagged);
            }
        }
        let unusable = Evaluation { author: Author::Unusable(UnusableFrom::Missing), ..sample::evaluation(Vec::new()) };
        let decision = decide(&unusable, &ORDINARY, &LocalPolicy { mode: Mode::Tag, ..LocalPolicy::default() });
        assert_eq!(Opinion::of(&unusable, &decision), Opinion::FailTagged);
    }
}
