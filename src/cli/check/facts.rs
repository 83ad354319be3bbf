//! All that `check` tells, as one value: what people read and what programs read are drawn from it.
//!
//! The field names are those of `--json` and stay as they are. Text of peers is escaped on its way in here; a name or
//! address that has been through the gate's own parsers can hold nothing that needs it, and a header field or a reply
//! is told line by line as it would be sent.

use std::net::IpAddr;

use serde::Serialize;

use self::decision::Decision;
use self::walks::{Policy, Step, Walks};
use super::escape::escaped;
use super::input::Input;
use super::{Check, Fate};
use crate::config::Config;
use crate::dns::{Asked, Miss, Records};
use crate::envelope::Envelope;
use crate::evaluation::discovery::Rules;
use crate::evaluation::{DkimOutput, DmarcOutput, Evaluation};
use crate::label::Label;
use crate::message::author::Author;
use crate::policy::corroboration::signs;
use crate::session::receive::Received;
use crate::smtp::reply::Reply;

pub mod decision;
pub mod walks;

#[derive(Debug, Serialize)]
pub struct Facts {
    pub message: Message,
    pub client: Client,
    pub envelope: Addresses,
    /// The reply to a message that is refused for its form or size, whatever it says.
    pub objection: Option<String>,
    /// Whether a session would not evaluate it, since it trusts the client.
    pub trusted_network: bool,
    /// None of a message that is too big to be evaluated.
    pub evaluation: Option<Results>,
    /// In the order of the modes; of enforce one for each value of `policy.reject`.
    pub decisions: Vec<Decision>,
    /// In the mode that is in force.
    #[serde(serialize_with = "word")]
    pub fate: Fate,
    pub dns: Vec<Question>,
}

#[derive(Debug, Serialize)]
pub struct Message {
    pub file: String,
    pub octets: usize,
    pub line_ends: &'static str,
    pub mbox_separator: bool,
    pub irregularities: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct Client {
    pub ip: IpAddr,
    pub helo: String,
}

#[derive(Debug, Serialize)]
pub struct Addresses {
    /// Empty if the reverse-path is null.
    pub mail_from: String,
    pub recipients: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Results {
    pub from: From,
    pub spf: Spf,
    pub dkim: Vec<Dkim>,
    /// Signatures beyond `limits.signatures`.
    pub dkim_skipped: usize,
    pub arc: Arc,
    pub list_fields: bool,
    pub dmarc: Vec<Dmarc>,
    pub milliseconds: f64,
}

#[derive(Debug, Serialize)]
pub struct From {
    /// Each From field as it stands in the message.
    pub fields: Vec<String>,
    pub domains: Vec<String>,
    /// Why no domain could be read.
    pub unusable: Option<&'static str>,
    pub address_in_display_name: bool,
}

#[derive(Debug, Serialize)]
pub struct Spf {
    pub result: &'static str,
    pub identity: &'static str,
    pub domain: Option<String>,
    pub records: Vec<Text>,
    pub term: Option<String>,
    pub reason: String,
}

#[derive(Debug, Serialize)]
pub struct Text {
    pub name: String,
    pub text: String,
}

#[derive(Debug, Serialize)]
pub struct Dkim {
    pub result: &'static str,
    pub domain: Option<String>,
    pub selector: String,
    pub identity: Option<String>,
    pub algorithm: Option<&'static str>,
    pub signature_start: String,
    pub key_found: bool,
    pub reason: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Arc {
    pub result: &'static str,
    pub sealers: Vec<String>,
    pub reason: &'static str,
}

#[derive(Debug, Serialize)]
pub struct Dmarc {
    pub author_domain: String,
    pub result: &'static str,
    pub reason: &'static str,
    /// With temperror: what DNS left open.
    pub doubt: Option<&'static str>,
    pub walk: Vec<Step>,
    pub organizational_domain: Option<String>,
    pub policy: Option<Policy>,
    pub identifiers: Vec<Identifier>,
    /// Signs that the message came by a forwarder or a mailing list.
    pub signs: Vec<&'static str>,
}

/// A domain that speaks for the message if it is aligned and its check passed.
#[derive(Debug, Serialize)]
pub struct Identifier {
    pub method: &'static str,
    pub domain: String,
    pub result: &'static str,
    pub alignment: &'static str,
    /// None where no walk could make a difference.
    pub organizational_domain: Option<String>,
    pub walk: Vec<Step>,
}

#[derive(Debug, Serialize)]
pub struct Question {
    pub name: String,
    #[serde(rename = "type")]
    pub record_type: &'static str,
    /// `records`, `nodata`, `nxdomain`, or the kind of failure.
    pub outcome: &'static str,
    pub records: Vec<String>,
    pub ttl_seconds: u64,
    pub milliseconds: f64,
}

/// What the facts are drawn from.
pub struct Findings<'a> {
    pub config: &'a Config,
    pub envelope: &'a Envelope,
    pub received: &'a Received,
    pub evaluation: &'a Evaluation,
    pub rules: &'a Rules,
}

impl Facts {
    /// Of an evaluated message.
    pub fn new(check: &Check, input: &Input, name: &str, findings: &Findings<'_>) -> Self {
        let Findings { config, received, evaluation, .. } = findings;
        let irregularities = received.irregularities;
        let met = [
            (irregularities.bare_cr, "bare_cr"),
            (irregularities.bare_lf, "bare_lf"),
            (irregularities.nul_dot_line, "nul_dot_line"),
        ];
        let objection = received.objection(config.smtp.bare_newline);
        let trusted_network = config.bypass.trusted_networks.iter().any(|network| network.contains(&check.ip()));
        let decisions = findings.decisions(check.ip());
        let in_force = decisions.iter().find(|decision| decision.in_force).map_or(Fate::PassedOn, |d| d.fate);
        Self {
            message: Message {
                irregularities: met.iter().filter(|(met, _)| *met).map(|(_, word)| *word).collect(),
                ..Message::new(input, name)
            },
            fate: match (&objection, trusted_network) {
                (Some(_), _) => Fate::Refused,
                (None, true) => Fate::PassedOn,
                (None, false) => in_force,
            },
            objection: objection.map(|fault| one_line(&fault.reply())),
            trusted_network,
            evaluation: Some(findings.results()),
            decisions,
            dns: evaluation.evidence.iter().map(Question::new).collect(),
            ..Self::envelope(check, input, name)
        }
    }

    /// Of a message that is not taken for its size or its header section.
    pub fn too_big(check: &Check, input: &Input, name: &str, reply: &Reply) -> Self {
        Self { objection: Some(one_line(reply)), fate: Fate::Refused, ..Self::envelope(check, input, name) }
    }

    /// One object on several lines, the fields in the order in which they stand here.
    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    fn envelope(check: &Check, input: &Input, name: &str) -> Self {
        Self {
            message: Message::new(input, name),
            client: Client { ip: check.ip(), helo: escaped(check.helo.as_str().as_bytes()) },
            envelope: Addresses {
                mail_from: check.mail_from.mailbox().map_or(String::new(), |m| escaped(m.as_str().as_bytes())),
                recipients: check.rcpt.iter().map(|path| escaped(path.mailbox().as_str().as_bytes())).collect(),
            },
            objection: None,
            trusted_network: false,
            evaluation: None,
            decisions: Vec::new(),
            fate: Fate::PassedOn,
            dns: Vec::new(),
        }
    }
}

impl Message {
    fn new(input: &Input, name: &str) -> Self {
        Self {
            file: escaped(name.as_bytes()),
            octets: input.octets,
            line_ends: input.line_ends.as_str(),
            mbox_separator: input.separator,
            irregularities: Vec::new(),
        }
    }
}

impl Findings<'_> {
    fn results(&self) -> Results {
        let Evaluation { author, spf, dkim, arc, dmarc, .. } = self.evaluation;
        let section = &self.received.subject.section;
        let walks = Walks { asked: &self.evaluation.evidence, rules: self.rules };
        Results {
            from: From {
                fields: section.named("From").map(|field| escaped(field.value.trim_ascii())).collect(),
                domains: author.domains().iter().map(ToString::to_string).collect(),
                unusable: match author {
                    Author::Usable { .. } => None,
                    Author::Unusable(why) => Some(why.as_str()),
                },
                address_in_display_name: matches!(author, Author::Usable { address_in_display_name: true, .. }),
            },
            spf: Spf {
                result: spf.result.as_str(),
                identity: spf.identity.as_str(),
                domain: spf.domain.as_ref().map(ToString::to_string),
                records: spf.records.iter().map(|(name, text)| Text::new(name, text)).collect(),
                term: spf.term.as_deref().map(|term| escaped(term.as_bytes())),
                reason: escaped(spf.reason.as_bytes()),
            },
            dkim: dkim.iter().map(Dkim::new).collect(),
            dkim_skipped: self.evaluation.dkim_skipped,
            arc: Arc {
                result: arc.result.as_str(),
                sealers: arc.sealers.iter().map(ToString::to_string).collect(),
                reason: arc.reason,
            },
            list_fields: self.evaluation.list_fields,
            dmarc: dmarc.iter().map(|output| Dmarc::new(self.evaluation, output, &walks)).collect(),
            milliseconds: milliseconds(self.evaluation.elapsed),
        }
    }
}

impl Text {
    fn new(name: &str, text: &str) -> Self {
        Self { name: escaped(name.as_bytes()), text: escaped(text.as_bytes()) }
    }
}

impl Dkim {
    fn new(output: &DkimOutput) -> Self {
        Self {
            result: output.result.as_str(),
            domain: output.domain.as_ref().map(ToString::to_string),
            selector: escaped(output.selector.as_bytes()),
            identity: output.identity.as_deref().map(|identity| escaped(identity.as_bytes())),
            algorithm: output.algorithm,
            signature_start: escaped(output.signature_start.as_bytes()),
            key_found: output.key_found,
            reason: output.reason,
        }
    }
}

impl Dmarc {
    fn new(evaluation: &Evaluation, output: &DmarcOutput, walks: &Walks<'_>) -> Self {
        let spf =
            evaluation.spf.domain.as_ref().map(|d| ("spf", d, evaluation.spf.result.as_str(), output.spf_alignment));
        let dkim = evaluation.dkim.iter().zip(&output.dkim_alignment);
        let dkim = dkim.filter_map(|(d, alignment)| Some(("dkim", d.domain.as_ref()?, d.result.as_str(), *alignment)));
        let identifier = |(method, domain, result, alignment): (_, _, _, crate::evaluation::Alignment)| {
            let (walk, organizational_domain) = walks.of_identifier(domain, &output.author_domain);
            let alignment = alignment.as_str();
            Identifier { method, domain: domain.to_string(), result, alignment, organizational_domain, walk }
        };
        Self {
            author_domain: output.author_domain.to_string(),
            result: output.result.as_str(),
            reason: output.reason,
            doubt: output.doubt.map(Label::as_str),
            walk: walks.from(&output.author_domain).0,
            organizational_domain: output.organizational_domain.as_ref().map(ToString::to_string),
            policy: output.policy.as_ref().map(|policy| walks.policy(policy, &output.author_domain)),
            identifiers: spf.into_iter().chain(dkim).map(identifier).collect(),
            signs: signs(evaluation, output).into_iter().map(Label::as_str).collect(),
        }
    }
}

impl Question {
    fn new(asked: &Asked) -> Self {
        let (outcome, records) = match &asked.answer.outcome {
            Ok(records) => ("records", texts(records)),
            Err(miss) => (of_miss(*miss), Vec::new()),
        };
        Self {
            name: escaped(asked.name.as_bytes()),
            record_type: asked.record_type.as_str(),
            outcome,
            records,
            ttl_seconds: asked.answer.ttl.as_secs(),
            milliseconds: milliseconds(asked.waited),
        }
    }
}

fn of_miss(miss: Miss) -> &'static str {
    match miss {
        Miss::NoData => "nodata",
        Miss::NxDomain => "nxdomain",
        Miss::Failed(failure) => failure.as_str(),
    }
}

fn texts(records: &Records) -> Vec<String> {
    match records {
        Records::A(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Records::Aaaa(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Records::Mx(all) => {
            all.iter().map(|mx| format!("{} {}", mx.preference, escaped(mx.exchange.as_bytes()))).collect()
        }
        Records::Ptr(names) => names.iter().map(|name| escaped(name.as_bytes())).collect(),
        Records::Txt(txt) => txt.texts().map(escaped).collect(),
    }
}

/// A reply of ours, as the client reads it; its lines joined.
fn one_line(reply: &Reply) -> String {
    escaped(reply.as_wire().trim_ascii_end()).replace("\\r\\n", " / ")
}

fn milliseconds(time: std::time::Duration) -> f64 {
    // To the microsecond: what lies below is noise.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn word<S: serde::Serializer>(label: &impl Label, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(label.as_str())
}
