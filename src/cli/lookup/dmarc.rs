//! The DMARC policy of a domain: the walk, the record that applies, and who may get its reports (RFC 9989, RFC 9990).

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;

use super::facts::{Problem, is_failure};
use crate::dmarc::record::{self, FailureScope, Parsed, PolicyRecord};
use crate::dmarc::report_uri::ReportUri;
use crate::dns::{Asked, Lookup, MessageLookup, Miss, RecordType};
use crate::domain::Domain;
use crate::evaluation::discovery::{Rules, discover};
use crate::explain::escape::escaped;
use crate::explain::facts::walks::{Policy, Step, Walks};
use crate::label::Label;
use crate::spf::evaluate::{Request, check_host};

#[derive(Debug, Serialize)]
pub struct Dmarc {
    pub walk: Vec<Visited>,
    pub organizational_domain: Option<String>,
    /// `none` without a record, `temperror` where DNS left it open, `permerror` where the record can't be used.
    pub state: &'static str,
    pub reason: &'static str,
    pub policy: Option<Policy>,
    pub tags: Vec<Tag>,
    pub reports: Vec<Destination>,
}

/// One name of the walk.
#[derive(Debug, Serialize)]
pub struct Visited {
    #[serde(flatten)]
    pub step: Step,
    pub ttl_seconds: u64,
}

#[derive(Debug, Serialize)]
pub struct Tag {
    pub name: &'static str,
    pub value: String,
    /// Whether it stands in the record; else the value is the default.
    pub published: bool,
}

/// Where reports are to go.
#[derive(Debug, Serialize)]
pub struct Destination {
    /// `rua` or `ruf`.
    pub tag: &'static str,
    pub uri: String,
    /// The name that has to say so, if another organization is to get them (RFC 9990 §4).
    pub asked: Option<String>,
    /// `same_organization`, `authorised`, `not_authorised`, `not_mail` or `unknown`.
    pub standing: &'static str,
}

/// Walks from `domain` and looks at the record that applies.
pub async fn find(lookup: &MessageLookup, domain: &Domain, rules: &Rules) -> Dmarc {
    let asker = lookup.unmetered();
    let nobody = check_host(&asker, &Request::mail_from(Ipv4Addr::UNSPECIFIED.into(), "", "")).await;
    let found = discover(&asker, rules, std::slice::from_ref(domain), &[]).await.evaluate(&nobody, &[]);
    let evidence = lookup.evidence().asked;
    let walks = Walks { asked: &evidence, rules, most: usize::MAX };
    let (steps, organizational_domain) = walks.from(domain);
    let walk = steps.into_iter().map(|step| Visited { ttl_seconds: ttl(&evidence, &step.name), step }).collect();
    let mut dmarc = Dmarc {
        walk,
        organizational_domain,
        state: "none",
        reason: "",
        policy: None,
        tags: Vec::new(),
        reports: Vec::new(),
    };
    let Some(output) = found.into_iter().next() else { return dmarc };
    // With a record and no identifier the result would be fail, which tells nothing of the record.
    dmarc.state = if output.policy.is_some() { "policy" } else { output.result.as_str() };
    dmarc.reason = if output.policy.is_some() { "a policy record applies" } else { output.reason };
    if let Some(policy) = &output.policy {
        dmarc.policy = Some(walks.policy(policy, domain));
        dmarc.tags = tags(&policy.record);
        dmarc.reports = destinations(&asker, rules, &policy.domain, &policy.record).await;
    }
    dmarc
}

impl Dmarc {
    /// What is wrong with it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for Visited { step, .. } in &self.walk {
            if is_failure(&step.said) {
                problems.push(Problem::failure(ABOUT, &step.name, &step.said));
            }
            if step.said == "several_records" {
                let what = format!("{} has several DMARC records, which count as none", step.name);
                problems.push(Problem::new(ABOUT, what, "leave one of them"));
            }
            let remedy = "mend the tag: what can't be read counts as its default, or not at all";
            problems.extend(
                step.problems.iter().map(|problem| Problem::new(ABOUT, format!("{}: {problem}", step.name), remedy)),
            );
        }
        match self.state {
            "none" => {
                let what = format!("no policy applies: {}", self.reason);
                problems.push(Problem::new(
                    ABOUT,
                    what,
                    "publish one; to begin with: v=DMARC1; p=none; rua=mailto:...",
                ));
            }
            "permerror" => problems.push(Problem::new(ABOUT, self.reason, "publish a valid p=")),
            "temperror" if !problems.iter().any(|problem| problem.is_failure) => {
                problems.push(Problem { is_failure: true, ..Problem::new(ABOUT, self.reason, "try again") });
            }
            _ => {}
        }
        problems.extend(self.reports.iter().filter_map(Destination::problem));
        problems
    }
}

impl Destination {
    fn problem(&self) -> Option<Problem> {
        let Self { tag, uri, asked, standing } = self;
        match (*standing, asked) {
            ("unknown", Some(asked)) => Some(Problem::failure(ABOUT, asked, "it is not known who may get reports")),
            ("unknown", None) => Some(Problem::failure(ABOUT, uri, "its organization is not known")),
            ("not_authorised", Some(asked)) => Some(Problem::new(
                ABOUT,
                format!("{tag}: {uri} gets no reports, for {asked} has no record that allows it (RFC 9990 §4)"),
                "have the receiver of the reports publish \"v=DMARC1\" there as TXT",
            )),
            ("not_mail", _) => Some(Problem::new(
                ABOUT,
                format!("{tag}: {uri} is no mailto: URI, and reports go by mail alone"),
                "name a mail address",
            )),
            _ => None,
        }
    }
}

/// Every tag of the record with its value or default (RFC 9989 §4.7).
fn tags(record: &PolicyRecord) -> Vec<Tag> {
    let stands = |name: &str| {
        record
            .text
            .split(';')
            .any(|part| part.split('=').next().is_some_and(|tag| tag.trim().eq_ignore_ascii_case(name)))
    };
    let tag = |name, value: String| Tag { name, value, published: stands(name) };
    let policy = |policy: Option<record::Policy>, or: &str| policy.map_or(or, |policy| policy.as_str()).to_owned();
    let p = policy(record.p, "none");
    let sp = policy(record.sp, &p);
    let uris = |uris: &[ReportUri]| match uris {
        [] => "nobody".to_owned(),
        uris => uris.iter().map(|uri| escaped(uri.as_str().as_bytes())).collect::<Vec<_>>().join(", "),
    };
    let mut tags = vec![
        tag("p", p),
        tag("np", policy(record.np, &sp)),
        tag("sp", sp),
        tag("t", if record.testing { "y" } else { "n" }.to_owned()),
        tag("psd", record.psd.as_str().to_owned()),
        tag("adkim", record.adkim.as_str().to_owned()),
        tag("aspf", record.aspf.as_str().to_owned()),
        tag("rua", uris(&record.rua)),
        tag("ruf", uris(&record.ruf)),
        tag("fo", failure_options(record)),
    ];
    tags.extend(record.pct.map(|pct| tag("pct", format!("{pct} (historic)"))));
    tags.extend(record.ri.map(|ri| tag("ri", format!("{ri} (historic)"))));
    tags.extend(record.rf.as_ref().map(|rf| tag("rf", format!("{} (historic)", escaped(rf.as_bytes())))));
    tags
}

fn failure_options(record: &PolicyRecord) -> String {
    let scope = record.fo.dmarc.map(|scope| match scope {
        FailureScope::AllFailed => "0",
        FailureScope::AnyFailed => "1",
    });
    let more = [record.fo.dkim.then_some("d"), record.fo.spf.then_some("s")];
    scope.into_iter().chain(more.into_iter().flatten()).collect::<Vec<_>>().join(":")
}

async fn destinations(
    lookup: &impl Lookup,
    rules: &Rules,
    policy_domain: &Domain,
    record: &PolicyRecord,
) -> Vec<Destination> {
    let all = record.rua.iter().map(|uri| ("rua", uri)).chain(record.ruf.iter().map(|uri| ("ruf", uri)));
    let mut found = Vec::new();
    for (tag, uri) in all.take(MAX_DESTINATIONS) {
        let uri_text = escaped(uri.as_str().as_bytes());
        let (standing, asked) = match host(uri) {
            Some(host) => standing(lookup, rules, (policy_domain, &host)).await,
            None => ("not_mail", None),
        };
        found.push(Destination { tag, uri: uri_text, asked, standing });
    }
    found
}

/// RFC 9990 §4: who is of another organization must have said that it takes the reports.
async fn standing(
    lookup: &impl Lookup,
    rules: &Rules,
    (policy_domain, host): (&Domain, &Domain),
) -> (&'static str, Option<String>) {
    let (own, other) = tokio::join!(organization(lookup, rules, policy_domain), organization(lookup, rules, host));
    match (own, other) {
        (Some(own), Some(other)) if own == other => return ("same_organization", None),
        (Some(_), Some(_)) => {}
        _ => return ("unknown", None),
    }
    let name = format!("{policy_domain}._report._dmarc.{host}");
    let answer = lookup.ask(&name, RecordType::Txt).await;
    let standing = match &answer.outcome {
        Ok(records) => {
            let allows = |text: &[u8]| matches!(record::parse(text), Parsed::Record(_));
            let is_allowed = records.as_txt().is_some_and(|txt| txt.texts().any(allows));
            if is_allowed { "authorised" } else { "not_authorised" }
        }
        Err(Miss::NoData | Miss::NxDomain) => "not_authorised",
        Err(Miss::Failed(_)) => "unknown",
    };
    (standing, Some(name))
}

/// The organizational domain; none if DNS left it open.
async fn organization(lookup: &impl Lookup, rules: &Rules, domain: &Domain) -> Option<Arc<str>> {
    let nobody = check_host(lookup, &Request::mail_from(Ipv4Addr::UNSPECIFIED.into(), "", "")).await;
    let found = discover(lookup, rules, std::slice::from_ref(domain), &[]).await.evaluate(&nobody, &[]);
    found.into_iter().next()?.organizational_domain.map(|domain| domain.as_str().into())
}

/// The domain of a `mailto:` URI.
fn host(uri: &ReportUri) -> Option<Domain> {
    let (scheme, rest) = uri.as_str().split_once(':')?;
    let address = rest.split(['?', '#']).next().filter(|_| scheme.eq_ignore_ascii_case("mailto"))?;
    Domain::parse(address.rsplit_once('@')?.1).ok()
}

fn ttl(evidence: &[Asked], name: &str) -> u64 {
    evidence
        .iter()
        .find(|asked| &*asked.name == name && asked.record_type == RecordType::Txt)
        .map_or(0, |asked| asked.answer.ttl.as_secs())
}

const ABOUT: &str = "DMARC";
/// Addresses that are looked into: as many as a record is read for, of each tag.
const MAX_DESTINATIONS: usize = 40;
