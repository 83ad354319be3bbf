//! What the operator knows better than the policy record: overrides for single senders, in a list whose first match
//! wins.
//!
//! An override may depend on two kinds of things. *Evidence* was verified for this very message: the client's network,
//! its forward-confirmed host name, the `d=` of a signature that passed, the SPF domain that passed, the sealers of an
//! ARC chain that validates. *Claims* are what anyone can write: the author domain, List-Id, the recipients. List-Id
//! never fits alone, which the configuration sees to; an override for an author domain alone is the operator's
//! responsibility.

use std::borrow::Cow;

use ipnet::IpNet;

use crate::dmarc::record::Policy;
use crate::domain::Domain;
use crate::evaluation::{DkimResult, DmarcOutput, Evaluation};
use crate::label_enum;
use crate::policy::{Circumstances, Override, OverrideKind};
use crate::spf::SpfResult;

label_enum! {
    /// What an override does with a message that fails, or is in doubt.
    pub enum OverrideAction {
        /// It goes on unmarked.
        Pass = "pass",
        /// It goes on marked, as a quarantine asks.
        Tag = "tag",
        /// It is refused if it fails, whatever the policy asks for and whatever signs of indirect flow there are; one
        /// in doubt is treated as without an override.
        Reject = "reject",
    }
}

/// One override of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalOverride {
    /// What has to fit.
    pub criteria: Criteria,
    /// What is done then.
    pub action: OverrideAction,
    /// The reason in report rows; none: by what fits and what is done.
    pub kind: Option<OverrideKind>,
    /// The operator's words, which go into log, explanation and report rows.
    pub note: Box<str>,
    /// Until when it holds, in seconds since the epoch; none: for ever.
    pub until: Option<u64>,
}

/// What has to fit. An empty list asks for nothing; of a list one has to fit; all lists have to. A domain stands for
/// itself and all below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Criteria {
    /// The author domain.
    pub author_domains: Vec<Domain>,
    /// The client's address.
    pub networks: Vec<IpNet>,
    /// The client's forward-confirmed host name.
    pub hosts: Vec<Domain>,
    /// `d=` of a signature that passed.
    pub dkim_domains: Vec<Domain>,
    /// The SPF domain, if SPF passed.
    pub spf_domains: Vec<Domain>,
    /// The newest sealer of an ARC chain that validates.
    pub arc_sealers: Vec<Domain>,
    /// The identifier in List-Id.
    pub list_ids: Vec<Domain>,
    /// The domain of every accepted recipient.
    pub recipient_domains: Vec<Domain>,
}

/// The first override that fits the message for one of its author domains, with its place in the list.
pub fn first_that_fits<'a>(
    overrides: &'a [LocalOverride],
    evaluation: &Evaluation,
    dmarc: &DmarcOutput,
    circumstances: &Circumstances,
) -> Option<(usize, &'a LocalOverride)> {
    let holds = |o: &LocalOverride| o.until.is_none_or(|until| circumstances.now < until);
    overrides.iter().enumerate().find(|(_, o)| holds(o) && o.criteria.fit(evaluation, dmarc, circumstances))
}

impl LocalOverride {
    /// The reason in a report row of a domain that asks for `policy`; none where that is not known.
    pub fn reason(&self, policy: Option<Policy>) -> Override {
        let kind = self.kind.unwrap_or_else(|| self.kind_by_what_fits(policy));
        Override { kind, comment: Cow::Owned(self.note.to_string()) }
    }

    /// RFC 9990 §3.1.6: forwarders and lists excuse what is milder than published. Whatever is not is our own policy.
    fn kind_by_what_fits(&self, policy: Option<Policy>) -> OverrideKind {
        let is_milder = match self.action {
            OverrideAction::Pass => true,
            OverrideAction::Tag => policy == Some(Policy::Reject),
            OverrideAction::Reject => false,
        };
        match is_milder {
            true if !self.criteria.list_ids.is_empty() => OverrideKind::MailingList,
            true if !self.criteria.hang_on_claims_alone() => OverrideKind::TrustedForwarder,
            _ => OverrideKind::LocalPolicy,
        }
    }
}

impl Criteria {
    /// Whether nothing but claims is asked for.
    pub fn hang_on_claims_alone(&self) -> bool {
        let evidence = [&self.hosts, &self.dkim_domains, &self.spf_domains, &self.arc_sealers];
        self.networks.is_empty() && evidence.iter().all(|list| list.is_empty())
    }

    /// Whether these fit whatever `others` fit.
    pub fn cover(&self, others: &Self) -> bool {
        let domains = |mine: &[Domain], theirs: &[Domain]| {
            let covered = |one: &Domain| mine.iter().any(|wider| one.is_within(wider));
            mine.is_empty() || (!theirs.is_empty() && theirs.iter().all(covered))
        };
        let network = |one: &IpNet| self.networks.iter().any(|wider| wider.contains(one));
        let networks = &others.networks;
        (self.networks.is_empty() || (!networks.is_empty() && networks.iter().all(network)))
            && domains(&self.author_domains, &others.author_domains)
            && domains(&self.hosts, &others.hosts)
            && domains(&self.dkim_domains, &others.dkim_domains)
            && domains(&self.spf_domains, &others.spf_domains)
            && domains(&self.arc_sealers, &others.arc_sealers)
            && domains(&self.list_ids, &others.list_ids)
            && domains(&self.recipient_domains, &others.recipient_domains)
    }

    fn fit(&self, evaluation: &Evaluation, dmarc: &DmarcOutput, circumstances: &Circumstances) -> bool {
        let passed = evaluation.dkim.iter().filter(|signature| signature.result == DkimResult::Pass);
        let signers = passed.filter_map(|signature| signature.domain.as_ref());
        let sender = evaluation.spf.domain.as_ref().filter(|_| evaluation.spf.result == SpfResult::Pass);
        any(&self.author_domains, [&dmarc.author_domain])
            && (self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&evaluation.sender.ip)))
            && any(&self.hosts, circumstances.host.as_ref())
            && any(&self.dkim_domains, signers)
            && any(&self.spf_domains, sender)
            // The list of sets is empty unless the chain validates.
            && any(&self.arc_sealers, evaluation.arc.sets.last().map(|set| &set.sealer))
            && any(&self.list_ids, evaluation.list_id.as_ref())
            && self.fit_recipients(circumstances)
    }

    /// One recipient elsewhere, and the message is not only theirs.
    fn fit_recipients(&self, circumstances: &Circumstances) -> bool {
        let within = |domain: &Option<Domain>| domain.as_ref().is_some_and(|d| any(&self.recipient_domains, [d]));
        self.recipient_domains.is_empty()
            || (!circumstances.recipient_domains.is_empty() && circumstances.recipient_domains.iter().all(within))
    }
}

/// Whether one of `found` is, or lies below, one of `wanted`, or nothing is wanted.
fn any<'a>(wanted: &[Domain], found: impl IntoIterator<Item = &'a Domain>) -> bool {
    wanted.is_empty() || found.into_iter().any(|found| wanted.iter().any(|wanted| found.is_within(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::sample::{self, arc, domain, signature, spf};
    use crate::evaluation::{ArcOutput, ArcResult, ArcSet, DmarcResult, Sender};
    use crate::policy::sample::ORDINARY;
    use crate::spf::Identity;

    fn author(name: &str) -> DmarcOutput {
        sample::dmarc(name, DmarcResult::Fail)
    }

    /// From 192.0.2.7, named mx.fwd.example, for a@author.example by a list; everything of the forwarder passes.
    fn evaluation() -> Evaluation {
        let set = |instance, name| ArcSet { instance, sealer: domain(name), dmarc: None };
        Evaluation {
            sender: Sender {
                ip: "192.0.2.7".parse().unwrap(),
                helo: "trusted.example".into(),
                mail_from: "b@bounce.fwd.example".into(),
            },
            spf: spf(SpfResult::Pass, Identity::MailFrom, "bounce.fwd.example"),
            spf_helo: Some(spf(SpfResult::Pass, Identity::Helo, "trusted.example")),
            dkim: vec![signature(DkimResult::Fail, "author.example"), signature(DkimResult::Pass, "fwd.example")],
            arc: ArcOutput { sets: vec![set(1, "first.example"), set(2, "fwd.example")], ..arc(ArcResult::Pass) },
            list_fields: true,
            list_id: Some(domain("talk.lists.example")),
            ..sample::evaluation(vec![author("author.example")])
        }
    }

    fn circumstances() -> Circumstances {
        Circumstances {
            recipient_domains: vec![Some(domain("rcpt.example")), Some(domain("sub.rcpt.example"))],
            host: Some(domain("mx.fwd.example")),
            ..ORDINARY
        }
    }

    /// `key=value` pairs; values of one key are alternatives.
    fn criteria(text: &str) -> Criteria {
        let mut criteria = Criteria::default();
        for (key, value) in text.split_whitespace().map(|pair| pair.split_once('=').unwrap()) {
            match key {
                "network" => criteria.networks.push(value.parse().unwrap()),
                "author" => criteria.author_domains.push(domain(value)),
                "host" => criteria.hosts.push(domain(value)),
                "dkim" => criteria.dkim_domains.push(domain(value)),
                "spf" => criteria.spf_domains.push(domain(value)),
                "arc" => criteria.arc_sealers.push(domain(value)),
                "list" => criteria.list_ids.push(domain(value)),
                "rcpt" => criteria.recipient_domains.push(domain(value)),
                _ => panic!("{key}"),
            }
        }
        criteria
    }

    #[test]
    fn what_fits_and_what_nearly_does() {
        let cases = [
            ("author=author.example", true),
            ("author=example.com author=author.example", true),
            ("author=uthor.example", false),
            ("author=sub.author.example", false),
            ("network=192.0.2.0/24", true),
            ("network=192.0.2.0/29", true),
            ("network=192.0.2.8/29", false),
            ("network=2001:db8::/32", false),
            ("host=fwd.example", true),
            ("host=mx.fwd.example", true),
            ("host=trusted.example", false),
            ("dkim=fwd.example", true),
            ("dkim=author.example", false),
            ("spf=fwd.example", true),
            ("spf=wd.example", false),
            ("spf=trusted.example", false),
            ("arc=fwd.example", true),
            ("arc=first.example", false),
            ("list=lists.example", true),
            ("list=talk.lists.example", true),
            ("list=other.lists.example", false),
            ("rcpt=rcpt.example", true),
            ("rcpt=sub.rcpt.example", false),
            ("author=author.example dkim=fwd.example list=lists.example", true),
            ("author=author.example dkim=other.example list=lists.example", false),
        ];
        for (text, expected) in cases {
            let fits = criteria(text).fit(&evaluation(), &author("author.example"), &circumstances());
            assert_eq!(fits, expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_verified_is_no_evidence() {
        let failing = Evaluation {
            spf: spf(SpfResult::SoftFail, Identity::MailFrom, "bounce.fwd.example"),
            dkim: vec![signature(DkimResult::Fail, "fwd.example"), signature(DkimResult::Policy, "fwd.example")],
            arc: arc(ArcResult::Fail),
            ..evaluation()
        };
        let unknown = Circumstances { host: None, recipient_domains: vec![None], ..circumstances() };
        for text in ["host=fwd.example", "dkim=fwd.example", "spf=fwd.example", "arc=fwd.example", "rcpt=rcpt.example"]
        {
            assert!(!criteria(text).fit(&failing, &author("author.example"), &unknown), "{text}");
        }
    }

    #[test]
    fn what_covers_what() {
        let cases = [
            ("", "author=a.example", true),
            ("author=a.example", "author=x.a.example dkim=b.example", true),
            ("author=x.a.example", "author=a.example", false),
            ("author=a.example dkim=b.example", "author=a.example", false),
            ("network=192.0.2.0/24", "network=192.0.2.0/28 network=192.0.2.128/25", true),
            ("network=192.0.2.0/24", "network=192.0.2.0/28 network=198.51.100.1/32", false),
            ("network=192.0.2.0/24", "author=a.example", false),
        ];
        for (wider, narrower, expected) in cases {
            assert_eq!(criteria(wider).cover(&criteria(narrower)), expected, "{wider} | {narrower}");
        }
        // Each kind counts, whatever else agrees.
        let of = |kind: &str, name: &str| {
            let all = ["network", "author", "host", "dkim", "spf", "arc", "list", "rcpt"];
            let value = |key: &str| match (key == "network", key == kind) {
                (true, true) => if name == "b.example" { "198.51.100.0/24" } else { "192.0.2.0/24" }.to_owned(),
                (true, false) => "192.0.2.0/24".to_owned(),
                (false, true) => name.to_owned(),
                (false, false) => "a.example".to_owned(),
            };
            criteria(&all.map(|key| format!("{key}={}", value(key))).join(" "))
        };
        for kind in ["network", "author", "host", "dkim", "spf", "arc", "list", "rcpt"] {
            assert!(of(kind, "a.example").cover(&of(kind, "a.example")), "{kind}");
            assert!(!of(kind, "a.example").cover(&of(kind, "b.example")), "{kind}");
        }
    }

    #[test]
    fn claims_are_what_anyone_can_write() {
        for text in ["", "author=a.example", "list=a.example", "rcpt=a.example", "author=a.example list=b.example"] {
            assert!(criteria(text).hang_on_claims_alone(), "{text}");
        }
        for text in ["network=192.0.2.0/24", "host=a.example", "dkim=a.example", "spf=a.example", "arc=a.example"] {
            assert!(!criteria(text).hang_on_claims_alone(), "{text}");
            assert!(!criteria(&format!("{text} list=b.example")).hang_on_claims_alone(), "{text}");
        }
    }
}
