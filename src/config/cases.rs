//! Cases for `dmarcgate policy test`: facts about messages as an operator writes them down, with what the
//! configuration is expected to decide.
//!
//! A case names what was found out about identifiers (SPF, signatures, the ARC chain) and what DNS has of DMARC.
//! Alignment, the policy and the result of DMARC are no facts to be claimed: they follow from these, by the gate's own
//! code.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::calendar::Date;
use crate::config::document::{Document, Section};
use crate::config::problem::{Error, Problem};
use crate::config::value::OneOrMore;
use crate::dmarc::alignment::DmarcResult;
use crate::dmarc::record::Policy;
use crate::domain::Domain;
use crate::evaluation::{ArcResult, DkimResult, KeySearch};
use crate::label_enum;
use crate::message::author::UnusableFrom;
use crate::policy::Rule;
use crate::policy::bypass::BypassReason;
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::spf::SpfResult;
use crate::tls::ClientFingerprint;

label_enum! {
    /// What a case expects.
    pub enum CaseOutcome {
        /// The message goes on without a mark.
        Pass = "pass",
        /// With `X-DMARC-Fail-policy: quarantine`.
        TagQuarantine = "tag quarantine",
        /// With `X-DMARC-Fail-policy: reject`.
        TagReject = "tag reject",
        /// The client is asked to come again.
        Defer = "defer",
        /// It is refused.
        Refuse = "refuse",
        /// It is not evaluated and goes on.
        Bypass = "bypass",
    }
}

/// `[[case]]`. The keys are documented in contrib/policy/cases.toml.
#[derive(Debug)]
pub struct Case {
    /// The line in which it begins, from 1.
    pub line: usize,
    /// What it is about.
    pub name: String,
    /// At which listener it arrives; without one, what holds in general is tried.
    pub listener: Option<SocketAddr>,
    /// Why From names no author domain; then there are none.
    pub from_unusable: Option<UnusableFrom>,
    /// The author domains.
    pub from: Vec<Domain>,
    /// What DNS has: DMARC records by domain.
    pub records: Vec<PolicyRecordAt>,
    /// Domains that don't exist.
    pub missing: Vec<Domain>,
    /// Domains at which DNS fails.
    pub dns_fails: Vec<Domain>,
    /// The client's address.
    pub ip: IpAddr,
    /// Its name for itself.
    pub helo: String,
    /// Its forward-confirmed host name.
    pub host: Option<Domain>,
    /// The certificate that it holds.
    pub certificate: Option<ClientFingerprint>,
    /// Whether it has logged in.
    pub authenticated: bool,
    /// The reverse-path.
    pub mail_from: ReversePath,
    /// At least one.
    pub recipients: Vec<ForwardPath>,
    /// The result of SPF for the reverse-path, or for `helo` where that is null.
    pub spf: SpfResult,
    /// The DKIM signatures.
    pub signatures: Vec<Signature>,
    /// `d=` of signatures that were left out for `limits.signatures`.
    pub signatures_left_out: Vec<Domain>,
    /// The ARC chain.
    pub arc: ArcResult,
    /// Its sets, from the first up.
    pub sealers: Vec<Sealer>,
    /// The identifier in List-Id.
    pub list_id: Option<Domain>,
    /// Whether there are the fields of a mailing list.
    pub list_fields: bool,
    /// How long the sender's mail has been deferred already.
    pub deferred_for: Option<Duration>,
    /// The day of the message; today without it.
    pub date: Option<Date>,
    /// A number from 0 to 99 for `pct`: 0 is in every sample.
    pub sample: u8,
    /// What is expected.
    pub expected: Expected,
}

/// `record` of a case.
#[derive(Debug)]
pub struct PolicyRecordAt {
    /// The domain: the record stands at `_dmarc` below it.
    pub at: Domain,
    /// The text.
    pub text: String,
}

/// `signature` of a case.
#[derive(Debug)]
pub struct Signature {
    /// `d=`.
    pub domain: Domain,
    /// The result.
    pub result: DkimResult,
    /// Whether its key was found.
    pub key: KeySearch,
}

/// `sealer` of a case.
#[derive(Debug)]
pub struct Sealer {
    /// `d=` of the seal.
    pub domain: Domain,
    /// What it says that DMARC came to, and for whom.
    pub dmarc: Option<(DmarcResult, Domain)>,
}

/// What a case expects; what is none is not looked at.
#[derive(Debug)]
pub struct Expected {
    /// What becomes of the message.
    pub outcome: Option<CaseOutcome>,
    /// The rule that decides.
    pub rule: Option<Rule>,
    /// The comment of one of the reasons in the report row, the note of an override above all.
    pub note: Option<String>,
    /// Why it is not evaluated.
    pub bypass: Option<BypassReason>,
}

/// Reads a file of cases.
///
/// # Errors
///
/// The operator's: everything that is wrong.
pub fn load(path: &Path) -> Result<Vec<Case>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|problems| Error::Invalid { path: path.to_owned(), problems })
}

/// Reads the text of a file of cases.
///
/// # Errors
///
/// Everything that is wrong, in the order of the text; at least one problem.
pub fn parse(text: &str) -> Result<Vec<Case>, Vec<Problem>> {
    let document = Document::parse(text)?;
    document.top(&[CASE], |_| ());
    let cases = document.tables(CASE, case);
    if cases.is_empty() {
        document.problem(CASE, "there is none; write tables [[case]]");
    }
    let (_, problems) = document.finish(&[CASE]);
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

fn case(section: &mut Section<'_>) -> Case {
    let name: String = section.required("name", r#""a forgery of our bank""#).unwrap_or_default();
    let from_unusable: Option<UnusableFrom> = section.optional("from_unusable");
    let OneOrMore(from) = section.get("from", OneOrMore(Vec::<Domain>::new()));
    if from.is_empty() == from_unusable.is_none() {
        section.problem_of_all("needs from, the author domain or a list of them, or else from_unusable");
    }
    let mut records = section.tables("record", RECORD, record);
    if let Some(policy) = section.optional::<Policy>("policy") {
        if !records.is_empty() {
            section.problem("policy", "stands for a record at each author domain; write one or the other");
        }
        let text = format!("v=DMARC1; p={policy}");
        records = from.iter().map(|at| PolicyRecordAt { at: at.clone(), text: text.clone() }).collect();
    }
    let list_id: Option<Domain> = section.optional("list_id");
    let sample: u32 = section.within("sample", 0, 0..=99);
    let (arc, sealers) = chain(section, from.first());
    Case {
        line: section.first_line(),
        name,
        listener: section.optional("listener"),
        certificate: section.optional("certificate"),
        records,
        missing: section.get("missing", Vec::new()),
        dns_fails: section.get("dns_fails", Vec::new()),
        ip: client_ip(section),
        helo: section.get("helo", "client.example".to_owned()),
        host: section.optional("host"),
        authenticated: section.get("authenticated", false),
        mail_from: mail_from(section, from.first()),
        recipients: recipients(section),
        spf: section.get("spf", SpfResult::None),
        signatures: section.tables("signature", SIGNATURE, signature),
        signatures_left_out: section.get("signatures_left_out", Vec::new()),
        arc,
        sealers,
        list_fields: section.get("list_fields", list_id.is_some()),
        list_id,
        deferred_for: section.optional("deferred_for"),
        date: section.optional("date"),
        // In range, else there is a problem.
        sample: u8::try_from(sample).unwrap_or_default(),
        expected: Expected {
            outcome: section.optional("expect"),
            rule: section.optional("expect_rule"),
            note: section.optional("expect_note"),
            bypass: section.optional("expect_bypass"),
        },
        from_unusable,
        from,
    }
}

fn record(section: &mut Section<'_>) -> PolicyRecordAt {
    PolicyRecordAt {
        at: section.required("at", r#""example.org""#).unwrap_or_else(placeholder),
        text: section.required("text", r#""v=DMARC1; p=reject""#).unwrap_or_default(),
    }
}

fn signature(section: &mut Section<'_>) -> Signature {
    let result = section.required("result", r#""pass""#).unwrap_or(DkimResult::None);
    let key = match result {
        DkimResult::Pass | DkimResult::Fail | DkimResult::Policy => KeySearch::Found,
        DkimResult::PermError => KeySearch::Missing,
        DkimResult::None | DkimResult::Neutral | DkimResult::TempError => KeySearch::Unknown,
    };
    let domain = section.required("d", r#""example.org""#).unwrap_or_else(placeholder);
    Signature { domain, result, key: section.get("key", key) }
}

fn chain(section: &mut Section<'_>, author: Option<&Domain>) -> (ArcResult, Vec<Sealer>) {
    let read = |section: &mut Section<'_>| {
        let domain = section.required("d", r#""list.example.org""#).unwrap_or_else(placeholder);
        let found: Option<DmarcResult> = section.optional("dmarc");
        let whose: Option<Domain> = section.optional("author");
        Sealer { domain, dmarc: found.zip(whose.or_else(|| author.cloned())) }
    };
    let sealers = section.tables("sealer", SEALER, read);
    let arc = section.get("arc", if sealers.is_empty() { ArcResult::None } else { ArcResult::Pass });
    if sealers.is_empty() && matches!(arc, ArcResult::Pass) {
        section
            .problem("arc", "a chain that passes has sealers; write for example: sealer = [{ d = \"list.example\" }]");
    }
    (arc, sealers)
}

/// An address that nobody has, else one from which nothing comes by default.
fn client_ip(section: &mut Section<'_>) -> IpAddr {
    let text: String = section.get("ip", Ipv4Addr::new(192, 0, 2, 1).to_string());
    text.parse().map(|ip: IpAddr| ip.to_canonical()).unwrap_or_else(|_| {
        section.problem("ip", "expected an address such as \"192.0.2.1\" or \"2001:db8::1\"");
        Ipv4Addr::UNSPECIFIED.into()
    })
}

/// By default of the author's domain, as direct mail is as a rule.
fn mail_from(section: &mut Section<'_>, author: Option<&Domain>) -> ReversePath {
    let default = author.map_or("<>".to_owned(), |domain| format!("sender@{domain}"));
    let text: String = section.get("mail_from", default);
    ReversePath::of_text(&text).unwrap_or_else(|| {
        section.problem("mail_from", "expected an address such as \"someone@example.net\", or \"<>\"");
        ReversePath::Null
    })
}

fn recipients(section: &mut Section<'_>) -> Vec<ForwardPath> {
    let OneOrMore::<String>(texts) = section.get("recipients", OneOrMore(vec![ORDINARY_RECIPIENT.to_owned()]));
    let paths: Option<Vec<_>> = texts.iter().map(|text| ForwardPath::of_text(text)).collect();
    match paths {
        Some(paths) if !paths.is_empty() => return paths,
        Some(_) => section.problem("recipients", "needs at least one recipient"),
        None => section.problem("recipients", "expected addresses such as \"someone@example.net\""),
    }
    Vec::new()
}

/// Stands for a domain that is missing, and never used: there is a problem.
#[expect(clippy::expect_used, reason = "the literal is a domain name")]
fn placeholder() -> Domain {
    Domain::parse("invalid").expect("a literal of ours is a domain name")
}

/// The recipient where none is named: exempt by no configuration, for its domain can't exist.
pub const ORDINARY_RECIPIENT: &str = "recipient@recipient.invalid";
const CASE: &str = "case";
const RECORD: &str = "case.record";
const SIGNATURE: &str = "case.signature";
const SEALER: &str = "case.sealer";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::config::{Origin, Problem};

    fn problems(text: &str) -> Vec<String> {
        let told = |Problem { line, key, message }: Problem| format!("{}: {key}: {message}", line.unwrap_or_default());
        parse(text).unwrap_err().into_iter().map(told).collect()
    }

    #[test]
    fn a_case_of_a_name_and_an_author_has_the_rest_by_default() {
        let [case] = &parse("# a remark\n[[case]]\nname = \"n\"\nfrom = \"a.example\"\n").unwrap()[..] else {
            panic!()
        };
        assert_eq!((case.line, &*case.name), (2, "n"));
        assert_eq!(case.mail_from.mailbox().unwrap().as_str(), "sender@a.example");
        assert_eq!(case.recipients[0].mailbox().as_str(), ORDINARY_RECIPIENT);
        assert_eq!((case.spf, case.arc, case.list_fields), (SpfResult::None, ArcResult::None, false));
        assert!(case.records.is_empty() && case.signatures.is_empty() && case.expected.outcome.is_none());
    }

    #[test]
    fn the_example_shows_every_key() {
        let text = include_str!("../../contrib/policy/cases.toml");
        let document = Document::parse(text).unwrap();
        let cases = document.tables(CASE, case);
        let (lines, problems) = document.finish(&[CASE]);
        assert!(problems.is_empty() && cases.len() > 10, "{problems:?}");
        let (mut known, mut shown) = (BTreeSet::new(), BTreeSet::new());
        for line in lines {
            known.insert(line.path());
            if line.origin == Origin::File {
                shown.insert(line.path());
            }
        }
        assert_eq!(known, shown);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let cases = [
            ("", "0: case: there is none; write tables [[case]]"),
            (
                "[[case]]\nfrom = \"a.example\"\n",
                "1: case.name: is missing; write for example: name = \"a forgery of our bank\"",
            ),
            (
                "[[case]]\nname = \"n\"\n",
                "1: case: needs from, the author domain or a list of them, or else from_unusable",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\nfrm = 1\n",
                "4: case.frm: unknown key; did you mean case.from?",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\nsignature = [{ d = \"a.example\", reslt = \"pass\", result = \"pass\" }]\n",
                "4: case.signature.reslt: unknown key; did you mean case.signature.result?",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\nexpect = \"tag\"\n",
                "4: case.expect: \"tag\" is not allowed; expected one of \"pass\", \"tag quarantine\", \"tag reject\", \
                 \"defer\", \"refuse\", \"bypass\"",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\npolicy = \"none\"\nrecord = [{ at = \"a.example\", text = \"x\" }]\n",
                "4: case.policy: stands for a record at each author domain; write one or the other",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\nip = \"x\"\n",
                "4: case.ip: expected an address such as \"192.0.2.1\" or \"2001:db8::1\"",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\nmail_from = \"a b@x.example\"\nrecipients = []\n",
                "4: case.mail_from: expected an address such as \"someone@example.net\", or \"<>\"",
            ),
            (
                "[[case]]\nname = \"n\"\nfrom = \"a.example\"\narc = \"pass\"\n",
                "4: case.arc: a chain that passes has sealers; write for example: sealer = [{ d = \"list.example\" }]",
            ),
            ("[[cases]]\nname = \"n\"\n", "1: cases: unknown key"),
        ];
        for (text, expected) in cases {
            assert_eq!(problems(text)[0], expected, "{text}");
        }
    }
}
