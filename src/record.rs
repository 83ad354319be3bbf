//! One evaluated message, flat, as it is stored and reported.
//!
//! A [`Record`] holds everything that an aggregate report tells apart (RFC 9990 §3.1), so that equal records can be
//! counted instead of kept, and no report has to look at a message again. A message whose From names several domains
//! makes one record for each. Pure. The caller that builds a record passes the time in; the store calls
//! [`Record::bounded`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::calendar::SECONDS_PER_DAY;
use crate::dmarc::public_suffix::Discovery;
use crate::dmarc::record::Standing;
pub use crate::dmarc::record::{AlignmentMode, Policy, PolicyRecord};
use crate::domain::Domain;
use crate::label_enum;
pub use crate::policy::{Override, OverrideKind, ReportDisposition};
use crate::smtp::reply::Reply;

/// One message under one author domain, with all that was found and done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When end-of-data came, in seconds since the epoch. Not told apart beyond its UTC day.
    pub arrived: i64,
    /// The client's address; an IPv4-mapped one was unmapped.
    pub source_ip: IpAddr,
    /// The policy that applied; none where no record did (DMARC none, or no answer from DNS).
    pub policy: Option<PolicyPublished>,
    /// What was done with the message.
    pub evaluated: PolicyEvaluated,
    /// The author domain; none where From names no usable one.
    pub header_from: Option<Domain>,
    /// The domain of the reverse-path that SPF was applied to; empty for the null reverse-path, [`NO_DOMAIN`] for one
    /// without a domain.
    pub envelope_from: String,
    /// The recipients' domain; only where the operator asked for it, since it reveals who writes to whom.
    pub envelope_to: Option<String>,
    /// One for each signature that was evaluated, in the order that RFC 9990 §3.1.3 prefers; at most
    /// [`MAX_DKIM_RESULTS`].
    pub dkim: Vec<DkimAuthResult>,
    /// SPF; none where it wasn't evaluated.
    pub spf: Option<SpfAuthResult>,
    /// How end-of-data was answered, and by whom.
    pub reply: FinalReply,
}

/// Messages that the rows of a store do not tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The first of them.
    pub record: Record,
    /// How many there were.
    pub count: u64,
}

/// The policy record as published, with defaults filled in (RFC 9990 §3.1.1.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPublished {
    /// The policy domain: where the record was found.
    pub domain: Domain,
    /// How it was found.
    pub discovery: DiscoveryMethod,
    /// The record's text; destinations of reports are read from it anew when a report is due.
    pub record: String,
    /// `adkim`.
    pub adkim: AlignmentMode,
    /// `aspf`.
    pub aspf: AlignmentMode,
    /// `p`.
    pub p: Policy,
    /// `sp`, if published.
    pub sp: Option<Policy>,
    /// `np`, if published.
    pub np: Option<Policy>,
    /// `fo` in its normal form; "0" if it is not published, or stands without `ruf`.
    pub fo: String,
    /// Whether `t=y`.
    pub testing: TestMode,
    /// Which of p, sp and np the record asks to be applied to this author domain, before `t` and `pct`.
    pub requested: Policy,
}

/// How the policy was applied (RFC 9990 §3.1.1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyEvaluated {
    /// What was done.
    pub disposition: ReportDisposition,
    /// Whether DKIM gave an aligned pass, before any override.
    pub dkim: AlignmentOutcome,
    /// Whether SPF gave an aligned pass, before any override.
    pub spf: AlignmentOutcome,
    /// Why a failing message was treated more mildly than published; empty if it wasn't.
    pub reasons: Vec<OverrideReason>,
}

/// Why the published policy was not applied (RFC 9990 §3.1.1.14).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OverrideReason {
    /// The type.
    #[serde(rename = "type")]
    pub kind: OverrideKind,
    /// More, in a few words of ours; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

/// The result of one signature (RFC 9990 §3.1.1.12).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DkimAuthResult {
    /// `d=`.
    pub domain: String,
    /// `s=`.
    pub selector: String,
    /// A word of RFC 8601 §2.7.1, lower case.
    pub result: String,
}

/// The result of SPF (RFC 9990 §3.1.1.13).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpfAuthResult {
    /// The domain that was checked.
    pub domain: String,
    /// Where it came from.
    pub scope: SpfScope,
    /// A word of RFC 8601 §2.7.2, lower case.
    pub result: String,
}

label_enum! {
    /// The answer to a message or a command that was to be relayed: the upstream's, or the gate's in its place.
    pub enum UpstreamReply {
        /// 2xx.
        Accepted = "accepted",
        /// 5xx: refused for good.
        Refused = "refused",
        /// 4xx, or anything else: the client tries again later.
        Deferred = "deferred",
    }
}

impl UpstreamReply {
    /// The class of a reply.
    pub fn of(reply: &Reply) -> Self {
        if reply.is_positive() {
            Self::Accepted
        } else if reply.is_permanent() {
            Self::Refused
        } else {
            Self::Deferred
        }
    }
}

label_enum! {
    /// Whether a mechanism gave an aligned pass.
    pub enum AlignmentOutcome {
        /// It did.
        Pass = "pass",
        /// It did not.
        Fail = "fail",
    }
}

label_enum! {
    /// The value of `t`.
    pub enum TestMode {
        /// The policy is meant.
        Off = "n",
        /// The owner asks for one step less.
        On = "y",
    }
}

label_enum! {
    /// How the policy record was found (RFC 9990 §3.1.1.5).
    pub enum DiscoveryMethod {
        /// By a public suffix list, as in RFC 7489.
        PublicSuffix = "psl",
        /// By the tree walk of RFC 9989.
        TreeWalk = "treewalk",
    }
}

label_enum! {
    /// Which identity SPF looked at. Reports know `mfrom` alone (RFC 9990 §3.1.1.13), which covers the EHLO name under
    /// a null reverse-path, too.
    pub enum SpfScope {
        /// The domain of the reverse-path.
        MailFrom = "mfrom",
        /// The EHLO name, standing in for a null reverse-path.
        Helo = "helo",
    }
}

label_enum! {
    /// How end-of-data was answered. A sender that the upstream refuses throughout gets no reports.
    pub enum FinalReply {
        /// The upstream took the message.
        Accepted = "accepted",
        /// The upstream refused it for good.
        RefusedByUpstream = "refused_by_upstream",
        /// The gate refused it for good.
        RefusedByGate = "refused_by_gate",
    }
}

impl PolicyPublished {
    /// The policy that `requested` was read out of, found at `domain` by either way of discovery.
    ///
    /// A record that only asks for reports stands as the `p=none` that it is taken for (RFC 9989 §4.10.1).
    pub fn new(domain: &Domain, discovery: DiscoveryMethod, record: &PolicyRecord, requested: Policy) -> Self {
        let published = |policy: Option<Policy>| policy.filter(|_| record.standing == Standing::Sound);
        Self {
            domain: domain.clone(),
            discovery,
            record: record.text.to_string(),
            adkim: record.adkim,
            aspf: record.aspf,
            p: published(record.p).unwrap_or(Policy::None),
            sp: published(record.sp),
            np: published(record.np),
            fo: record.fo.to_string(),
            testing: if record.testing { TestMode::On } else { TestMode::Off },
            requested,
        }
    }
}

impl From<Discovery> for DiscoveryMethod {
    fn from(discovery: Discovery) -> Self {
        match discovery {
            Discovery::TreeWalk => Self::TreeWalk,
            Discovery::PublicSuffix => Self::PublicSuffix,
        }
    }
}

impl PolicyEvaluated {
    /// What was done, and whether DKIM and SPF, in this order, gave an aligned pass.
    pub fn new(disposition: ReportDisposition, (dkim, spf): (bool, bool), reasons: &[Override]) -> Self {
        let outcome = |aligned| if aligned { AlignmentOutcome::Pass } else { AlignmentOutcome::Fail };
        let reason = |o: &Override| OverrideReason { kind: o.kind, comment: o.comment.to_string() };
        let reasons = reasons.iter().map(reason).collect();
        Self { disposition, dkim: outcome(dkim), spf: outcome(spf), reasons }
    }
}

impl Record {
    /// The record with each part cut to its bound and without the characters that a database or an XML document can't
    /// hold, so that nothing a peer publishes decides how much is stored.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        bound(&mut self.envelope_from, MAX_NAME);
        if let Some(domain) = &mut self.envelope_to {
            bound(domain, MAX_NAME);
        }
        if let Some(policy) = &mut self.policy {
            bound(&mut policy.record, MAX_POLICY_RECORD);
            bound(&mut policy.fo, MAX_WORD);
        }
        if let Some(spf) = &mut self.spf {
            bound(&mut spf.domain, MAX_NAME);
            bound(&mut spf.result, MAX_WORD);
        }
        self.dkim.truncate(MAX_DKIM_RESULTS);
        for dkim in &mut self.dkim {
            bound(&mut dkim.domain, MAX_NAME);
            bound(&mut dkim.selector, MAX_NAME);
            bound(&mut dkim.result, MAX_WORD);
        }
        self.evaluated.reasons.truncate(MAX_REASONS);
        for reason in &mut self.evaluated.reasons {
            bound(&mut reason.comment, MAX_COMMENT);
        }
        self
    }

    /// The UTC day of arrival, in days since the epoch.
    pub fn day(&self) -> i64 {
        self.arrived.div_euclid(SECONDS_PER_DAY)
    }
}

/// Cuts `text` to at most `max` octets at a character's border, and puts U+FFFD for each control character.
fn bound(text: &mut String, max: usize) {
    text.truncate(text.floor_char_boundary(max));
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{FFFD}");
        text.truncate(text.floor_char_boundary(max));
    }
}

/// Signatures in one record: what a report should list at most (RFC 9990 §3.1.3).
pub const MAX_DKIM_RESULTS: usize = 100;
/// Stands in for the domain of a reverse-path that has none but an address literal, or none at all: that is not the null
/// reverse-path. No domain is written so.
pub const NO_DOMAIN: &str = "[]";
/// Override reasons in one record: each type once, with room for two comments.
pub const MAX_REASONS: usize = 10;
/// Octets of a name: the longest that DNS knows, with room for what peers put in its place.
const MAX_NAME: usize = 255;
/// Octets of a policy record's text. Real ones have some 300; its report addresses come first in few.
const MAX_POLICY_RECORD: usize = 4096;
/// Octets of a comment of ours.
const MAX_COMMENT: usize = 256;
/// Octets of a word (`softfail`, `0:1:d:s`).
const MAX_WORD: usize = 32;

#[cfg(test)]
#[expect(missing_docs, reason = "for tests")]
pub mod sample {
    use super::*;

    /// A message that failed under p=reject and was refused, on the first of January 2026.
    pub fn record() -> Record {
        let domain = Domain::parse("example.org").unwrap();
        Record {
            arrived: 1_767_225_600,
            source_ip: IpAddr::from([192, 0, 2, 1]),
            policy: Some(PolicyPublished {
                domain: domain.clone(),
                discovery: DiscoveryMethod::TreeWalk,
                record: "v=DMARC1; p=reject; rua=mailto:d@example.org".into(),
                adkim: AlignmentMode::Relaxed,
                aspf: AlignmentMode::Strict,
                p: Policy::Reject,
                sp: Some(Policy::Quarantine),
                np: None,
                fo: "0".into(),
                testing: TestMode::Off,
                requested: Policy::Reject,
            }),
            evaluated: PolicyEvaluated {
                disposition: ReportDisposition::Reject,
                dkim: AlignmentOutcome::Fail,
                spf: AlignmentOutcome::Fail,
                reasons: Vec::new(),
            },
            header_from: Some(domain),
            envelope_from: "bounce.example.net".into(),
            envelope_to: None,
            dkim: vec![DkimAuthResult { domain: "example.org".into(), selector: "s1".into(), result: "fail".into() }],
            spf: Some(SpfAuthResult {
                domain: "bounce.example.net".into(),
                scope: SpfScope::MailFrom,
                result: "softfail".into(),
            }),
            reply: FinalReply::RefusedByGate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::Label;

    #[test]
    fn a_sound_record_stays_as_it_is() {
        assert_eq!(sample::record().bounded(), sample::record());
    }

    #[test]
    fn what_peers_write_is_cut_and_cleaned() {
        let mut record = sample::record();
        let dkim = DkimAuthResult { domain: "d".repeat(500), selector: "a\0b\nc".into(), result: "pass".into() };
        record.dkim = vec![dkim; 300];
        record.envelope_from = "ä".repeat(300);
        record.policy.as_mut().unwrap().record = "x".repeat(100_000);
        record.evaluated.reasons =
            vec![OverrideReason { kind: OverrideKind::Other, comment: "\u{7}".repeat(1000) }; 50];

        let record = record.bounded();
        assert_eq!(record.dkim.len(), MAX_DKIM_RESULTS);
        assert_eq!(record.dkim[0].domain.len(), MAX_NAME);
        assert_eq!(record.dkim[0].selector, "a\u{FFFD}b\u{FFFD}c");
        assert_eq!(record.envelope_from.len(), MAX_NAME - 1, "cut at a character's border");
        assert_eq!(record.policy.unwrap().record.len(), MAX_POLICY_RECORD);
        assert_eq!(record.evaluated.reasons.len(), MAX_REASONS);
        assert!(record.evaluated.reasons.iter().all(|r| r.comment.len() <= MAX_COMMENT));
    }

    #[test]
    fn a_record_that_only_asks_for_reports_stands_as_p_none() {
        use crate::dmarc::record::{Parsed, parse};

        let Parsed::Record(record) = parse(b"v=DMARC1; p=reject; np=reject; sp=bogus; rua=mailto:r@a.example") else {
            panic!()
        };
        let published = PolicyPublished::new(
            &Domain::parse("a.example").unwrap(),
            DiscoveryMethod::TreeWalk,
            &record,
            Policy::None,
        );
        assert_eq!((published.p, published.sp, published.np), (Policy::None, None, None));
    }

    #[test]
    fn days_begin_at_midnight_utc() {
        let day = |arrived| Record { arrived, ..sample::record() }.day();
        assert_eq!(day(0), 0);
        assert_eq!(day(86_399), 0);
        assert_eq!(day(86_400), 1);
        assert_eq!(day(-1), -1, "a clock before the epoch makes no day 0 of two days");
    }

    #[test]
    fn json_spells_the_words_of_the_labels() {
        for kind in OverrideKind::ALL {
            assert_eq!(serde_json::to_string(kind).unwrap(), format!("\"{kind}\""));
        }
        let plain = OverrideReason { kind: OverrideKind::MailingList, comment: String::new() };
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"type":"mailing_list"}"#);
    }
}
