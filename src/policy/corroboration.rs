//! Looks for signs that a failing message came through a forwarder or a mailing list.
//!
//! RFC 9989 §7.4: a receiver MUST NOT reject solely on the basis of `p=reject`. What the gate has beside the policy is
//! the absence of every trace that indirect mail flow leaves. A sign lowers reject to quarantine, never to pass, since
//! anyone can forge each of them.

use crate::dmarc::alignment::Alignment;
use crate::evaluation::{ArcResult, DkimOutput, DkimResult, DmarcOutput, Evaluation, KeySearch};
use crate::label_enum;
use crate::policy::OverrideKind;

label_enum! {
    /// One sign of indirect mail flow.
    pub enum Sign {
        /// A signature that is or may be the author's domain's, whose key exists, but which no longer fits.
        BrokenSignature = "broken_signature",
        /// A signature that is or may be the author's domain's, and fits, but for octets beyond its `l=`: the author's
        /// domain did sign this, and a footer of a mailing list looks like that.
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
    if dmarc.dkim_skipped_may_be_aligned {
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

impl Sign {
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
            Self::UnsignedEnd => "the author domain's signature leaves the end of the body unsigned (l=)",
            Self::SkippedSignature => "a signature that may be the author domain's was left out (limits.signatures)",
            Self::ListFields => "mailing list header fields",
            Self::ArcChain => "an ARC chain that validates",
            Self::ArcUndecided => "an ARC chain that could not be checked: temporary DNS failure",
        }
    }
}
