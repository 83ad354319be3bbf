//! Values for tests of what is drawn from an evaluation: each has what most of them don't care about.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Alignment, ArcOutput, ArcResult, DkimOutput, DkimResult, DmarcOutput, DmarcResult, Evaluation, KeySearch,
    PublishedPolicy, Sender,
};
use crate::dmarc::public_suffix::{Agreement, Discovery};
use crate::dmarc::record::{Parsed, Place, PolicyRecord, parse};
use crate::dns::Evidence;
use crate::domain::Domain;
use crate::message::author::Author;
use crate::spf::{Identity, SpfOutput, SpfResult};

/// A domain of a test.
pub fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

/// SPF of an identity; an empty `name` is no domain.
pub fn spf(result: SpfResult, identity: Identity, name: &str) -> SpfOutput {
    SpfOutput {
        result,
        identity,
        domain: Domain::parse(name).ok(),
        term: None,
        reason: "no mechanism matched".into(),
        unsettled: false,
        records: Vec::new(),
        failure: None,
    }
}

/// A signature of `name`, whose key was found.
pub fn signature(result: DkimResult, name: &str) -> DkimOutput {
    DkimOutput {
        place: 0,
        result,
        domain: Some(domain(name)),
        selector: "s1".into(),
        identity: None,
        algorithm: Some("rsa-sha256"),
        signature_start: "abc/d+f=".into(),
        key: KeySearch::Found,
        reason: "body hash did not verify",
        failure: None,
    }
}

/// DMARC for an author without a policy, nothing aligned.
pub fn dmarc(author: &str, result: DmarcResult) -> DmarcOutput {
    DmarcOutput {
        author_domain: domain(author),
        organizational_domain: None,
        result,
        doubt: None,
        reason: "no identifier passed",
        policy: None,
        spf_alignment: Alignment::Unaligned,
        dkim_alignment: Vec::new(),
        spf_aligned: false,
        dkim_aligned: false,
        dkim_skipped_may_be_aligned: false,
    }
}

/// What an author's own record with these tags publishes.
pub fn published(author: &str, tags: &str) -> PublishedPolicy {
    let Parsed::Record(record) = parse(format!("v=DMARC1; {tags}").as_bytes()) else { panic!("{tags}") };
    let record = Arc::from(record);
    PublishedPolicy {
        discovery: Discovery::TreeWalk,
        agreement: Agreement::Same,
        domain: domain(author),
        requested: PolicyRecord::requested(&record, Place::Here),
        record,
    }
}

/// A chain of no sets with this result.
pub fn arc(result: ArcResult) -> ArcOutput {
    ArcOutput { result, sets: Vec::new(), unverified: Vec::new(), reason: "no chain", failure: None }
}

/// An unsigned message that SPF fails, from the authors of `dmarc`.
pub fn evaluation(dmarc: Vec<DmarcOutput>) -> Evaluation {
    Evaluation {
        author: Author::Usable {
            domains: dmarc.iter().map(|d| d.author_domain.clone()).collect(),
            address_in_display_name: false,
        },
        sender: Sender {
            ip: "192.0.2.10".parse().unwrap(),
            helo: "mail.example.net".into(),
            mail_from: "joe@bounce.example.org".into(),
        },
        spf: spf(SpfResult::Fail, Identity::MailFrom, ""),
        spf_helo: None,
        dkim: Vec::new(),
        dkim_skipped: 0,
        arc: arc(ArcResult::None),
        dmarc,
        list_fields: false,
        list_id: None,
        evidence: Evidence::default(),
        elapsed: Duration::ZERO,
    }
}
