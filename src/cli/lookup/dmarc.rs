//! The DMARC policy of a domain: the walk, the record that applies, and who may get its reports (RFC 9989, RFC 9990).

use serde::Serialize;

use super::facts::{Problem, is_failure, quoted, word};
use super::near_miss;
use crate::dmarc::record::{self, Parsed, PolicyRecord};
use crate::dmarc::report_destination::{Consent, ReportKind, confirmation_name};
use crate::dmarc::report_uri::ReportUri;
use crate::dns::{Asked, Lookup, MessageLookup, Miss, RecordType};
use crate::domain::Domain;
use crate::evaluation::PublishedPolicy;
use crate::evaluation::discovery::{Rules, of_domain};
use crate::explain::escape::escaped;
use crate::explain::facts::walks::{Policy, Step, Walks};
use crate::label::Label;
use crate::label_enum;

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
    /// What is wrong with texts that are no records.
    #[serde(skip)]
    problems: Vec<Problem>,
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
    #[serde(serialize_with = "word")]
    pub tag: ReportKind,
    pub uri: String,
    /// The name that has to say so, if another organization is to get them (RFC 9990 §4).
    pub asked: Option<String>,
    #[serde(serialize_with = "word")]
    pub standing: Standing,
    /// With `replaced` where they go instead, with `diverted` the address that forbids them.
    pub instead: Vec<String>,
}

label_enum! {
    /// Whether an address may get reports.
    pub enum Standing {
        /// It is of the policy domain's organization.
        SameOrganization = "same_organization",
        /// It is of another, which takes them.
        Authorised = "authorised",
        /// It is of another, which takes them at another address.
        Replaced = "replaced",
        /// It is of another, which names an address elsewhere: nobody gets them.
        Diverted = "diverted",
        /// It is of another, which does not say that it takes them.
        NotAuthorised = "not_authorised",
        /// Failure reports for a public suffix domain: nobody gets them.
        PublicSuffix = "public_suffix",
        /// It is no mail address.
        NotMail = "not_mail",
        /// DNS left it open.
        Unknown = "unknown",
    }
}

/// Walks from `domain` and looks at the record that applies.
pub async fn find(lookup: &MessageLookup, domain: &Domain, rules: &Rules) -> Dmarc {
    let asker = lookup.unmetered();
    let found = of_domain(&asker, rules, domain).await;
    let evidence = lookup.evidence().asked;
    let walks = Walks { asked: &evidence, rules, most: usize::MAX };
    let (steps, organizational_domain) = walks.from(domain);
    let mut problems: Vec<Problem> = steps.iter().flat_map(|step| misread(step, &evidence)).collect();
    if steps.first().is_some_and(|step| step.record.is_none()) {
        problems.extend(misplaced(&asker, domain).await);
    }
    let walk = steps.into_iter().map(|step| Visited { ttl_seconds: ttl(&evidence, &step.name), step }).collect();
    let (state, reason) = match &found.policy {
        Ok(_) => ("policy", "a policy record applies"),
        Err((result, reason)) => (result.as_str(), *reason),
    };
    let mut dmarc = Dmarc {
        walk,
        organizational_domain,
        state,
        reason,
        policy: None,
        tags: Vec::new(),
        reports: Vec::new(),
        problems,
    };
    if let Ok(policy) = &found.policy {
        dmarc.policy = Some(walks.policy(policy, domain));
        dmarc.tags = tags(&policy.record);
        dmarc.destinations(&asker, rules, policy).await;
    }
    dmarc
}

impl Dmarc {
    /// What is wrong with it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems.clone();
        for Visited { step, .. } in &self.walk {
            if is_failure(&step.said) {
                problems.push(Problem::failure(ABOUT, &step.name, &step.said));
            }
            problems.extend(
                step.problems
                    .iter()
                    .map(|problem| Problem::new(ABOUT, format!("{}: {problem}", step.name), remedy(problem))),
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

    async fn destinations(&mut self, lookup: &impl Lookup, rules: &Rules, policy: &PublishedPolicy) {
        let listed = |kind: ReportKind| kind.listed(&policy.record).iter().map(move |uri| (kind, uri));
        for (kind, uri) in ReportKind::ALL.iter().flat_map(|kind| listed(*kind)).take(MAX_DESTINATIONS) {
            let mut destination = Destination {
                tag: kind,
                uri: escaped(uri.as_str().as_bytes()),
                asked: None,
                standing: Standing::NotMail,
                instead: Vec::new(),
            };
            if kind.requested(&policy.record).is_empty() {
                destination.standing = Standing::PublicSuffix;
            } else if let Some(host) = uri.mail_host() {
                let near = destination.settle(lookup, rules, (&policy.domain, &host)).await;
                self.problems.extend(near.into_iter().filter(|near| !self.problems.contains(near)).collect::<Vec<_>>());
            }
            self.reports.push(destination);
        }
    }
}

impl Destination {
    /// Finds out who has to say what of it (RFC 9990 §4), and what has been said; texts that were meant to say
    /// something are told as problems.
    async fn settle(
        &mut self,
        lookup: &impl Lookup,
        rules: &Rules,
        (policy_domain, host): (&Domain, &Domain),
    ) -> Vec<Problem> {
        let (own, other) = tokio::join!(of_domain(lookup, rules, policy_domain), of_domain(lookup, rules, host));
        self.standing = match (own.organizational_domain, other.organizational_domain) {
            (Some(own), Some(other)) if own == other => Standing::SameOrganization,
            (Some(_), Some(_)) => Standing::NotAuthorised,
            _ => Standing::Unknown,
        };
        let name = confirmation_name(policy_domain, host).filter(|_| self.standing == Standing::NotAuthorised);
        let Some(name) = name else { return Vec::new() };
        let answer = lookup.ask(&name, RecordType::Txt).await;
        let texts: Vec<&[u8]> = match &answer.outcome {
            Ok(records) => records.as_txt().iter().flat_map(|txt| txt.texts()).collect(),
            Err(Miss::NoData | Miss::NxDomain) => Vec::new(),
            Err(Miss::Failed(_)) => {
                (self.standing, self.asked) = (Standing::Unknown, Some(name));
                return Vec::new();
            }
        };
        let shown = |uri: &ReportUri| escaped(uri.as_str().as_bytes());
        match Consent::of(self.tag, host, texts.iter().copied()) {
            Consent::NotGiven => {}
            Consent::Given => self.standing = Standing::Authorised,
            Consent::Replaced(uris) => {
                let is_mail = uris.iter().any(|uri| uri.mail_host().is_some());
                self.standing = if is_mail { Standing::Replaced } else { Standing::NotMail };
                self.instead = uris.iter().map(shown).collect();
            }
            Consent::Diverted(uri) => (self.standing, self.instead) = (Standing::Diverted, vec![shown(&uri)]),
        }
        let is_open = self.standing == Standing::NotAuthorised;
        let near = texts.iter().filter(|_| is_open);
        let near = near.filter_map(|text| Some(near_miss::dmarc(text)?.problem(ABOUT, &name, text))).collect();
        self.asked = Some(name);
        near
    }

    fn problem(&self) -> Option<Problem> {
        let Self { tag, uri, asked, standing, instead } = self;
        let instead = instead.join(", ");
        let problem = |what: String, remedy| Some(Problem::new(ABOUT, format!("{tag}: {what}"), remedy));
        match (*standing, asked.as_deref()) {
            (Standing::SameOrganization | Standing::Authorised | Standing::Replaced, _) => None,
            (Standing::Unknown, Some(asked)) => {
                Some(Problem::failure(ABOUT, asked, "it is not known who may get reports"))
            }
            (Standing::Unknown, None) => Some(Problem::failure(ABOUT, uri, "its organization is not known")),
            (Standing::NotAuthorised, Some(asked)) => problem(
                format!("{uri} gets no reports, for {asked} has no record that allows it (RFC 9990 §4)"),
                "have the receiver of the reports publish \"v=DMARC1\" there as TXT",
            ),
            (Standing::NotAuthorised, None) => problem(
                format!("{uri} gets no reports, for the name that would allow it is too long for DNS (RFC 9990 §4)"),
                "have the reports sent to an address with a shorter domain",
            ),
            (Standing::Diverted, asked) => problem(
                format!(
                    "neither {uri} nor {instead} gets reports, for {} names the latter, which is at another host (RFC \
                     9990 §4)",
                    asked.unwrap_or_default()
                ),
                "name the right address in the policy record, and have the receiver of the reports publish no more than \
                 \"v=DMARC1\" there, or an address at that very host",
            ),
            (Standing::PublicSuffix, _) => problem(
                format!(
                    "{uri} gets no failure reports, for the record is a public suffix domain's (psd=y, RFC 9991 §2)"
                ),
                "take ruf away: aggregate reports (rua) are all that the operator of such a domain gets; if the domain \
                 is no public suffix, take psd=y away",
            ),
            (Standing::NotMail, Some(asked)) => problem(
                format!("{uri} gets no reports, for {asked} replaces it by {instead}, and reports go by mail alone"),
                "have the receiver of the reports name a mail address there, or none",
            ),
            (Standing::NotMail, None) => {
                problem(format!("{uri} is no mailto: URI, and reports go by mail alone"), "name a mail address")
            }
        }
    }
}

/// What may stand in the tag that a problem begins with, and what it counts as until it does.
fn remedy(problem: &str) -> &'static str {
    match problem.split(' ').next().unwrap_or_default() {
        "p" | "sp" | "np" => "write none, quarantine or reject: until then no policy of the record counts",
        "adkim" | "aspf" => "write r or s: until then it counts as r",
        "t" => "write y or n: until then it counts as n",
        "psd" => "write y, n or u: until then it counts as u",
        "fo" => "write 0 or 1, and d and s where wanted, with colons between them: until then it counts as 0",
        "rua" | "ruf" => "write each address once, as mailto:user@domain with commas between them",
        _ => "mend the tag, or take it out: it is ignored",
    }
}

/// A policy record at the domain itself, where nobody looks for one.
async fn misplaced(lookup: &impl Lookup, domain: &Domain) -> Option<Problem> {
    let answer = lookup.ask(domain.as_str(), RecordType::Txt).await;
    let texts = answer.outcome.as_ref().ok()?.as_txt()?;
    let text = texts.texts().find(|text| near_miss::is_dmarc_at_the_domain(text))?;
    let what = format!("{} stands at {domain} itself, where nobody looks for it", quoted(text));
    Some(Problem::new(ABOUT, what, "publish it at the name _dmarc below the domain"))
}

/// What is wrong with the texts at a name of the walk that has not one record.
fn misread(step: &Step, evidence: &[Asked]) -> Vec<Problem> {
    let asked = evidence.iter().find(|asked| *asked.name == *step.name && asked.record_type == RecordType::Txt);
    let texts = asked.and_then(|asked| asked.answer.outcome.as_ref().ok()?.as_txt());
    let texts = || texts.iter().flat_map(|txt| txt.texts());
    match &*step.said {
        "several_records" => {
            let records = texts().filter(|text| matches!(record::parse(text), Parsed::Record(_)));
            let records = records.map(quoted).collect::<Vec<_>>().join(" and ");
            let what = format!("{} has several DMARC records, which count as none: {records}", step.name);
            vec![Problem::new(ABOUT, what, "leave one of them")]
        }
        "other_records" => {
            texts().filter_map(|text| Some(near_miss::dmarc(text)?.problem(ABOUT, &step.name, text))).collect()
        }
        _ => Vec::new(),
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
        tag("fo", record.fo.to_string()),
    ];
    tags.extend(record.pct.map(|pct| tag("pct", format!("{pct} (historic)"))));
    tags.extend(record.ri.map(|ri| tag("ri", format!("{ri} (historic)"))));
    tags.extend(record.rf.as_ref().map(|rf| tag("rf", format!("{} (historic)", escaped(rf.as_bytes())))));
    tags
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
