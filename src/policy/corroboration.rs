//! Looks for signs that a failing message came through a forwarder or a mailing list.
//!
//! RFC 9989 §7.4: a receiver MUST NOT reject solely on the basis of `p=reject`. What the gate has beside the policy is
//! the absence of every trace that indirect mail flow leaves. A sign lowers reject to quarantine, never to pass, since
//! anyone can forge each of them.

use crate::dmarc::alignment::Alignment;
use crate::evaluation::{ArcResult, DkimOutput, DkimResult, DmarcOutput, Evaluation};
use crate::label_enum;
use crate::policy::OverrideKind;

label_enum! {
    /// One sign of indirect mail flow.
    pub enum Sign {
        /// A signature that is or may be the author's domain's, whose key exists, but which no longer fits.
        BrokenSignature = "broken_signature",
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
    let broken = |(signature, alignment): (&DkimOutput, &Alignment)| {
        // `policy` is a signature that is good but for what is not accepted here, such as octets beyond l=: a footer.
        let spoiled = matches!(signature.result, DkimResult::Fail | DkimResult::Policy);
        spoiled && signature.key_found && alignment.may_be_aligned()
    };
    if evaluation.dkim.iter().zip(&dmarc.dkim_alignment).any(broken) {
        signs.push(Sign::BrokenSignature);
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
            Self::BrokenSignature | Self::ArcChain => OverrideKind::LocalPolicy,
            Self::ArcUndecided => OverrideKind::Other,
        }
    }

    /// The comment for a report row.
    pub fn comment(self) -> &'static str {
        match self {
            Self::BrokenSignature => "a signature of the author domain was broken on the way",
            Self::ListFields => "mailing list header fields",
            Self::ArcChain => "an ARC chain that validates",
            Self::ArcUndecided => "an ARC chain that could not be checked: temporary DNS failure",
        }
    }
}
