//! Looks for signs that a failing message came through a forwarder or a mailing list.
//!
//! RFC 9989 §7.4: a receiver MUST NOT reject solely on the basis of `p=reject`. What the gate has beside the policy is
//! the absence of every trace that indirect mail flow leaves. A sign lowers reject to quarantine, never to pass, since
//! anyone can forge each of them. Which of them count is the operator's to say (`policy.signs`), but for those that are
//! a doubt of ours; what does not count is found and told all the same.

use std::fmt;

use crate::dmarc::alignment::Alignment;
use crate::evaluation::{ArcResult, DkimOutput, DkimResult, DmarcOutput, Evaluation, KeySearch};
use crate::label_enum;
use crate::policy::{OverrideKind, Reject};

label_enum! {
    /// One sign of indirect mail flow.
    pub enum Sign {
        /// A signature that is or may be the author's domain's, whose key exists, but which no longer fits.
        BrokenSignature = "broken_signature",
        /// A signature that is or may be the author's domain's, and fits, but for octets beyond its `l=` or a field that
        /// stands again beside the signed one: the author's domain did sign this, and a footer of a mailing list looks
        /// like that.
        UnsignedEnd = "unsigned_end",
        /// A signature that is or may be the author's domain's, but was not evaluated for a bound of ours.
        SkippedSignature = "skipped_signature",
        /// The header fields of a mailing list.
        ListFields = "list_fields",
        /// An ARC chain that validates.
        ArcChain = "arc_chain",
        /// An ARC chain that might validate, had DNS answered: doubt never ends in a refusal.
        ArcUndecided = "arc_undecided",
    }
}

label_enum! {
    /// How much a sign weighs under a policy.
    pub enum Weight {
        /// It keeps a message from being refused, however strict the operator.
        Always = "always",
        /// It does so under `reject = "corroborated"`.
        Corroborates = "corroborates",
        /// The operator has switched it off.
        SwitchedOff = "switched_off",
    }
}

label_enum! {
    /// Whether a sign counts.
    pub enum Counting {
        /// A refusal becomes a mark for it.
        Counted = "counted",
        /// It is told and no more.
        NotCounted = "not_counted",
    }
}

/// A sign in a message, and what it weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSign {
    /// Which.
    pub sign: Sign,
    /// How much.
    pub weight: Weight,
    /// Whether it counts, by its weight and `policy.reject`.
    pub counting: Counting,
}

/// The signs in a message for one of its author domains, in the order of [`Sign`].
pub fn signs(evaluation: &Evaluation, dmarc: &DmarcOutput) -> Vec<Sign> {
    let mut signs = Vec::new();
    let of_author = |(signature, alignment): (&DkimOutput, &Alignment)| {
        (signature.key == KeySearch::Found && alignment.may_be_aligned()).then_some(signature.result)
    };
    let results = || evaluation.dkim.iter().zip(&dmarc.dkim_alignment).filter_map(of_author);
    // A permerror with a key is an l= larger than the body: something was taken away.
    if results().any(|result| matches!(result, DkimResult::Fail | DkimResult::PermError)) {
        signs.push(Sign::BrokenSignature);
    }
    if results().any(|result| result == DkimResult::Policy) {
        signs.push(Sign::UnsignedEnd);
    }
    // The likeliest to pass were not left out: where all of these failed for good, the rest is no better.
    let aligned = || evaluation.dkim.iter().zip(&dmarc.dkim_alignment).filter(|(_, a)| a.may_be_aligned());
    let failed = |result| matches!(result, DkimResult::Fail | DkimResult::PermError | DkimResult::Neutral);
    let all_failed = aligned().next().is_some() && aligned().all(|(signature, _)| failed(signature.result));
    if dmarc.dkim_skipped_may_be_aligned && !all_failed {
        signs.push(Sign::SkippedSignature);
    }
    if evaluation.list_fields {
        signs.push(Sign::ListFields);
    }
    match evaluation.arc.result {
        ArcResult::Pass => signs.push(Sign::ArcChain),
        ArcResult::TempError => signs.push(Sign::ArcUndecided),
        ArcResult::None | ArcResult::Fail => {}
    }
    signs
}

/// What the signs of a message weigh where `switched_off` are those of [`Sign::SWITCHABLE`] that don't count.
///
/// With `trusted_in_doubt` the chain whose keys could not be had is that of a sealer whose word would count: then
/// nothing is refused because it is missing, whatever is switched off.
pub fn weigh(found: &[Sign], switched_off: &[Sign], reject: Reject, trusted_in_doubt: bool) -> Vec<FoundSign> {
    let weigh = |sign: Sign| match (sign, sign.switch()) {
        (_, None) => Weight::Always,
        (Sign::ArcUndecided, _) if trusted_in_doubt => Weight::Always,
        (_, Some(switch)) if switched_off.contains(&switch) => Weight::SwitchedOff,
        (Sign::UnsignedEnd, _) => Weight::Always,
        (_, Some(_)) => Weight::Corroborates,
    };
    let weighed = |sign: &Sign| {
        let weight = weigh(*sign);
        let counts = weight == Weight::Always || (weight == Weight::Corroborates && reject == Reject::Corroborated);
        FoundSign { sign: *sign, weight, counting: if counts { Counting::Counted } else { Counting::NotCounted } }
    };
    found.iter().map(weighed).collect()
}

impl FoundSign {
    /// Whether it counts.
    pub fn counts(&self) -> bool {
        self.counting == Counting::Counted
    }
}

impl fmt::Display for FoundSign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.counting {
            Counting::Counted => write!(f, "{}", self.sign),
            Counting::NotCounted => write!(f, "{} (not counted)", self.sign),
        }
    }
}

impl Sign {
    /// Those that `policy.signs` may name.
    pub const SWITCHABLE: [Self; 4] = [Self::BrokenSignature, Self::UnsignedEnd, Self::ListFields, Self::ArcChain];

    /// Under which name `policy.signs` has it; none of a doubt of ours, which never ends in a refusal.
    pub fn switch(self) -> Option<Self> {
        match self {
            Self::BrokenSignature | Self::UnsignedEnd | Self::ListFields | Self::ArcChain => Some(self),
            Self::ArcUndecided => Some(Self::ArcChain),
            Self::SkippedSignature => None,
        }
    }

    /// The reason for a report row.
    pub fn override_kind(self) -> OverrideKind {
        match self {
            Self::ListFields => OverrideKind::MailingList,
            Self::BrokenSignature | Self::UnsignedEnd | Self::SkippedSignature | Self::ArcChain => {
                OverrideKind::LocalPolicy
            }
            Self::ArcUndecided => OverrideKind::Other,
        }
    }

    /// The comment for a report row.
    pub fn comment(self) -> &'static str {
        match self {
            Self::BrokenSignature => "a signature of the author domain was broken on the way",
            Self::UnsignedEnd => {
                "the author domain's signature fits, but the end of the body (l=) or a field that stands again is unsigned"
            }
            Self::SkippedSignature => "a signature that may be the author domain's was left out (limits.signatures)",
            Self::ListFields => "mailing list header fields",
            Self::ArcChain => "an ARC chain that validates",
            Self::ArcUndecided => "an ARC chain whose keys could not be looked up for now",
        }
    }
}
