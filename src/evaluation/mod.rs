//! What is found out about one message: SPF, DKIM, ARC and DMARC, each result a value with its reason.
//!
//! An [`Evaluation`] holds facts alone. What to do about them is `policy`'s business; header field, log event, report
//! row, metrics and `dmarcgate check` are all drawn from this one value.

pub mod arc;
pub mod discovery;
pub mod dkim;
pub mod gather;
#[cfg(test)]
#[allow(missing_docs)]
pub mod sample;
pub mod subject;

use std::sync::Arc;
use std::time::Duration;

pub use self::arc::results::DmarcFinding;
pub use self::gather::Sender;
pub use crate::dmarc::alignment::{Alignment, DmarcResult, Doubt};
use crate::dmarc::public_suffix::{Agreement, Discovery};
use crate::dmarc::record::{Policy, PolicyRecord};
use crate::dns::{Evidence, Failure};
use crate::domain::Domain;
use crate::label_enum;
use crate::message::author::Author;
use crate::spf::SpfOutput;

label_enum! {
    /// The results of one DKIM signature (RFC 8601 §2.7.1).
    pub enum DkimResult {
        /// The message is not signed.
        None = "none",
        /// The signature is good.
        Pass = "pass",
        /// The signature does not fit the message.
        Fail = "fail",
        /// The signature is good but not acceptable here.
        Policy = "policy",
        /// The signature can't be read.
        Neutral = "neutral",
        /// The key could not be had for now.
        TempError = "temperror",
        /// The key or the signature can never be used.
        PermError = "permerror",
    }
}

label_enum! {
    /// The results of an ARC chain (RFC 8617 §4.4, RFC 8601 spelling).
    pub enum ArcResult {
        /// No chain.
        None = "none",
        /// The chain validates.
        Pass = "pass",
        /// It does not.
        Fail = "fail",
        /// A key could not be had for now.
        TempError = "temperror",
    }
}

label_enum! {
    /// What came of the search for the public key of a signature.
    pub enum KeySearch {
        /// There is a usable one.
        Found = "found",
        /// There is none: DNS said so.
        Missing = "missing",
        /// It is not known: nobody asked, since the signature can't be read, or DNS did not tell.
        Unknown = "unknown",
    }
}

/// Who is at fault for a doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtCause {
    /// DNS gave no answer that could be used.
    Dns,
    /// A bound of ours kept DNS from being asked or its answer from being waited for: look-ups, time, load.
    OwnLimits,
}

impl DoubtCause {
    /// In a few words, for the sender and for report rows.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Dns => "temporary DNS failure",
            Self::OwnLimits => "DNS look-ups reached a limit of the receiver",
        }
    }

    /// The same of a doubt that does not end.
    pub fn in_words_for_long(self) -> &'static str {
        match self {
            Self::Dns => "temporary DNS failure that does not end",
            Self::OwnLimits => "DNS look-ups reach a limit of the receiver each time",
        }
    }
}

/// What was found for one DKIM-Signature field.
#[derive(Debug, Clone)]
pub struct DkimOutput {
    /// The place of its field among the fields of the header section, from 0.
    pub place: usize,
    /// The result.
    pub result: DkimResult,
    /// `d=`, if it is a domain.
    pub domain: Option<Domain>,
    /// `s=`, as written; empty if there is none.
    pub selector: Box<str>,
    /// `i=`, as written, if there.
    pub identity: Option<Box<str>>,
    /// `a=`, if known: `rsa-sha256`, `ed25519-sha256`, `rsa-sha1`.
    pub algorithm: Option<&'static str>,
    /// The first characters of `b=` without white space, at most 64: tells signatures apart (RFC 6008).
    pub signature_start: Box<str>,
    /// Whether a usable public key was found: a signature without one speaks for nobody.
    pub key: KeySearch,
    /// Why, in a few words of ours; never text of a peer.
    pub reason: &'static str,
    /// With temperror: why the key could not be looked up, if that is the cause.
    pub failure: Option<Failure>,
}

/// What was found of an ARC chain.
#[derive(Debug, Clone)]
pub struct ArcOutput {
    /// The result of the whole chain.
    pub result: ArcResult,
    /// Its sets from the first instance up, if the chain validates; else none, for then nobody stands behind them.
    pub sets: Vec<ArcSet>,
    /// With temperror: the sets of a chain of sound structure, as they claim to be, for a key is missing. Forged or
    /// not, they are good for nothing but to tell what a pass would change.
    pub unverified: Vec<ArcSet>,
    /// Why, in a few words of ours.
    pub reason: &'static str,
    /// With temperror: why the first key that is missing could not be looked up.
    pub failure: Option<Failure>,
}

/// One ARC set of a chain that validates, or might.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArcSet {
    /// From 1 to 50.
    pub instance: usize,
    /// `d=` of the seal.
    pub sealer: Domain,
    /// What the sealer says that DMARC came to when the message reached it: worth as much as the sealer's word.
    pub dmarc: Option<DmarcFinding>,
}

/// The policy that applies to one author domain.
#[derive(Debug, Clone)]
pub struct PublishedPolicy {
    /// Where the record was found (RFC 9989: policy domain).
    pub domain: Domain,
    /// The record.
    pub record: Arc<PolicyRecord>,
    /// What it asks for this author domain by `p`, `sp` or `np`, before `t` and `pct`.
    pub requested: Policy,
    /// How it was found.
    pub discovery: Discovery,
    /// Whether the other way leads to the same organizational domain.
    pub agreement: Agreement,
}

/// What DMARC found for one author domain.
#[derive(Debug, Clone)]
pub struct DmarcOutput {
    /// The author domain.
    pub author_domain: Domain,
    /// Its organizational domain, if the walk or the list told it.
    pub organizational_domain: Option<Domain>,
    /// The result.
    pub result: DmarcResult,
    /// With temperror: what is open.
    pub doubt: Option<Doubt>,
    /// Why, in a few words of ours.
    pub reason: &'static str,
    /// The policy, if a record applies.
    pub policy: Option<PublishedPolicy>,
    /// How the SPF domain is aligned, whatever SPF's result; `Unaligned` if there is none.
    pub spf_alignment: Alignment,
    /// How each d= is aligned, in the order of [`Evaluation::dkim`].
    pub dkim_alignment: Vec<Alignment>,
    /// Whether SPF gave an aligned pass.
    pub spf_aligned: bool,
    /// Whether a signature gave an aligned pass.
    pub dkim_aligned: bool,
    /// Whether one of [`Evaluation::dkim_skipped`] is or may be aligned: it might have passed.
    pub dkim_skipped_may_be_aligned: bool,
}

impl Evaluation {
    /// Who is at fault where the verdict on an author domain is open, or might be another had the ARC chain's keys been
    /// there.
    pub fn cause_of_doubt(&self, dmarc: &DmarcOutput) -> DoubtCause {
        let is_ours = match dmarc.doubt {
            Some(doubt) => doubt.is_ours(),
            None => self.arc.failure.is_some_and(Failure::is_ours),
        };
        if is_ours { DoubtCause::OwnLimits } else { DoubtCause::Dns }
    }

    /// Whether DNS, or a bound of ours, left something open for which the message might be deferred.
    pub fn is_in_doubt(&self) -> bool {
        self.arc.result == ArcResult::TempError || self.dmarc.iter().any(|d| d.result == DmarcResult::TempError)
    }
}

/// All that was found out about one message.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Who the header section says wrote it.
    pub author: Author,
    /// Who sent it, as the session and the envelope have it.
    pub sender: Sender,
    /// SPF of the identity that DMARC uses.
    pub spf: SpfOutput,
    /// SPF of the EHLO name beside that of the reverse-path, for information alone: nothing may be decided by it
    /// (RFC 9989 §4.4.2). None if `spf` is of that name already, or if the name is no domain that could be checked.
    pub spf_helo: Option<SpfOutput>,
    /// One for each DKIM-Signature field that was evaluated, in the order of the fields; empty if there is none.
    pub dkim: Vec<DkimOutput>,
    /// DKIM-Signature fields beyond a bound of ours (their number, or the octets that they sign), not evaluated.
    pub dkim_skipped: usize,
    /// The ARC chain.
    pub arc: ArcOutput,
    /// One for each author domain, in the order of From; empty if From is unusable.
    pub dmarc: Vec<DmarcOutput>,
    /// Whether the header section has the fields of a mailing list (List-Id, List-Post, or List-Unsubscribe
    /// beside `Precedence: list`).
    pub list_fields: bool,
    /// The identifier in List-Id (RFC 2919 §3), if there is one such field and it is a name. A claim of anyone.
    pub list_id: Option<Domain>,
    /// The DNS questions with their answers.
    pub evidence: Evidence,
    /// Time from the end of data to the verdict, that is what the sender waited for us.
    pub elapsed: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_error_of_arc_or_of_one_author_domain_is_doubt() {
        use DmarcResult::{Fail, Pass, TempError};
        let cases = [
            (ArcResult::None, vec![], false),
            (ArcResult::Fail, vec![Pass, Fail], false),
            (ArcResult::None, vec![Pass, TempError], true),
            (ArcResult::TempError, vec![Pass], true),
        ];
        for (arc, results, expected) in cases {
            let dmarc = results.iter().map(|result| sample::dmarc("a.example", *result)).collect();
            let mut evaluation = sample::evaluation(dmarc);
            evaluation.arc.result = arc;
            assert_eq!(evaluation.is_in_doubt(), expected, "{arc}, {results:?}");
        }
    }
}
