//! What was found out about a message and decided, as values that are told to people and to programs.
//!
//! The field names are those of `--json` and stay as they are. Text of peers is escaped on its way in here; a name or
//! address that has been through the gate's own parsers can hold nothing that needs it, and a header field or a reply
//! is told line by line as it would be sent. What is stored can be read back: each word of ours is one again.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::walks::{Policy, Step, Walks};
use super::escape::{escaped, escaped_start};
use crate::dns::{Asked, Miss, Records};
use crate::domain::Domain;
use crate::envelope::Envelope;
use crate::evaluation::discovery::Rules;
use crate::evaluation::{self, Alignment, DkimOutput, DmarcOutput, Evaluation};
use crate::label::Label;
use crate::message::author::Author;
use crate::message::header::HeaderSection;
use crate::policy::corroboration::signs;
use crate::smtp::reply::Reply;
use crate::spf::SpfOutput;

pub mod decision;
pub mod walks;

/// A word of ours; owned once it was read back.
pub type Word = Cow<'static, str>;

/// Who sent it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Client {
    pub ip: IpAddr,
    pub helo: String,
}

/// The envelope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Addresses {
    /// Empty if the reverse-path is null.
    pub mail_from: String,
    pub recipients: Vec<String>,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    pub from: From,
    pub spf: Spf,
    /// Of the EHLO name besides the reverse-path, for information alone; none where there was nothing to check.
    pub spf_helo: Option<Spf>,
    pub dkim: Vec<Dkim>,
    /// Signatures beyond `limits.signatures`.
    pub dkim_skipped: usize,
    pub arc: Arc,
    pub list_fields: bool,
    pub dmarc: Vec<Dmarc>,
    pub milliseconds: f64,
}

/// How From was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct From {
    /// Each From field as it stands in the message.
    pub fields: Vec<String>,
    pub domains: Vec<String>,
    /// Why no domain could be read.
    pub unusable: Option<Word>,
    pub address_in_display_name: bool,
}

/// SPF of the identity that DMARC uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spf {
    pub result: Word,
    pub identity: Word,
    pub domain: Option<String>,
    pub records: Vec<Text>,
    pub term: Option<String>,
    pub reason: String,
}

/// A record that was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub name: String,
    pub text: String,
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dkim {
    pub result: Word,
    pub domain: Option<String>,
    pub selector: String,
    pub identity: Option<String>,
    pub algorithm: Option<Word>,
    /// The first eight characters of `b=`.
    pub signature_start: String,
    /// `found`, `missing`, or `unknown` where nobody asked or DNS did not tell.
    #[serde(default)]
    pub key: Word,
    pub reason: Word,
}

/// The ARC chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arc {
    pub result: Word,
    /// From the first instance up, if the chain validates.
    pub sets: Vec<ArcSet>,
    pub reason: Word,
}

/// One set of a chain that validates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArcSet {
    pub instance: usize,
    pub sealer: String,
    /// What the sealer says that DMARC came to, and for whom; none if it says nothing of it that can be believed.
    pub dmarc: Option<Word>,
    pub author_domain: Option<String>,
}

/// DMARC for one author domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dmarc {
    pub author_domain: String,
    pub result: Word,
    pub reason: Word,
    /// With temperror: what DNS left open.
    pub doubt: Option<Word>,
    pub walk: Vec<Step>,
    pub organizational_domain: Option<String>,
    pub policy: Option<Policy>,
    pub identifiers: Vec<Identifier>,
    /// Signs that the message came by a forwarder or a mailing list.
    pub signs: Vec<Word>,
}

/// A domain that speaks for the message if it is aligned and its check passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identifier {
    pub method: Word,
    pub domain: String,
    pub result: Word,
    pub alignment: Word,
    /// None where no walk could make a difference.
    pub organizational_domain: Option<String>,
    pub walk: Vec<Step>,
}

/// One question to DNS with its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    pub name: String,
    #[serde(rename = "type")]
    pub record_type: Word,
    /// `records`, `nodata`, `nxdomain`, or the kind of failure.
    pub outcome: Word,
    pub records: Vec<String>,
    pub ttl_seconds: u64,
    pub milliseconds: f64,
}

impl Client {
    /// The client at `ip` that called itself `helo`.
    pub fn new(ip: IpAddr, helo: &str) -> Self {
        Self { ip, helo: escaped(helo.as_bytes()) }
    }
}

impl Addresses {
    /// The reverse-path, and the first recipients.
    pub fn new(envelope: &Envelope) -> Self {
        let recipients = envelope.recipients.iter().take(MAX_RECIPIENTS);
        Self {
            mail_from: envelope.reverse_path.mailbox().map_or(String::new(), |m| escaped(m.as_str().as_bytes())),
            recipients: recipients.map(|path| escaped(path.mailbox().as_str().as_bytes())).collect(),
        }
    }
}

impl From {
    /// The first From fields of a header section, of each at most `most` octets.
    pub fn fields(section: &HeaderSection, most: usize) -> Vec<String> {
        section.named("From").take(MAX_FROM).map(|field| escaped_start(field.value.trim_ascii(), most)).collect()
    }
}

impl Results {
    /// What an evaluation found, with the From fields; of each text of a peer at most `most` octets.
    pub fn new(evaluation: &Evaluation, fields: Vec<String>, rules: &Rules, most: usize) -> Self {
        let Evaluation { author, spf, spf_helo, dkim, arc, dmarc, .. } = evaluation;
        let walks = Walks { asked: &evaluation.evidence.asked, rules, most };
        Self {
            from: From {
                fields,
                domains: author.domains().iter().map(ToString::to_string).collect(),
                unusable: match author {
                    Author::Usable { .. } => None,
                    Author::Unusable(why) => Some(named(*why)),
                },
                address_in_display_name: matches!(author, Author::Usable { address_in_display_name: true, .. }),
            },
            spf: Spf::new(spf, most),
            spf_helo: spf_helo.as_ref().map(|helo| Spf::new(helo, most)),
            dkim: dkim.iter().map(Dkim::new).collect(),
            dkim_skipped: evaluation.dkim_skipped,
            arc: Arc {
                result: named(arc.result),
                sets: arc.sets.iter().map(ArcSet::new).collect(),
                reason: arc.reason.into(),
            },
            list_fields: evaluation.list_fields,
            dmarc: dmarc.iter().map(|output| Dmarc::new(evaluation, output, &walks)).collect(),
            milliseconds: milliseconds(evaluation.elapsed),
        }
    }
}

impl Spf {
    fn new(output: &SpfOutput, most: usize) -> Self {
        let text = |text: &str| escaped_start(text.as_bytes(), most);
        Self {
            result: named(output.result),
            identity: named(output.identity),
            domain: output.domain.as_ref().map(ToString::to_string),
            records: output.records.iter().map(|(name, t)| Text { name: text(name), text: text(t) }).collect(),
            term: output.term.as_deref().map(text),
            reason: text(&output.reason),
        }
    }
}

impl Dkim {
    fn new(output: &DkimOutput) -> Self {
        let start = output.signature_start.as_bytes();
        Self {
            result: named(output.result),
            domain: output.domain.as_ref().map(ToString::to_string),
            selector: escaped(output.selector.as_bytes()),
            identity: output.identity.as_deref().map(|identity| escaped(identity.as_bytes())),
            algorithm: output.algorithm.map(Word::Borrowed),
            signature_start: escaped(start.get(..8).unwrap_or(start)),
            key: named(output.key),
            reason: output.reason.into(),
        }
    }
}

impl ArcSet {
    fn new(set: &evaluation::ArcSet) -> Self {
        Self {
            instance: set.instance,
            sealer: set.sealer.to_string(),
            dmarc: set.dmarc.as_ref().map(|found| named(found.result)),
            author_domain: set.dmarc.as_ref().map(|found| found.author_domain.to_string()),
        }
    }
}

impl Dmarc {
    fn new(evaluation: &Evaluation, output: &DmarcOutput, walks: &Walks<'_>) -> Self {
        let spf = evaluation.spf.domain.as_ref();
        let spf = spf.map(|domain| ("spf", domain, named(evaluation.spf.result), output.spf_alignment));
        let dkim = evaluation.dkim.iter().zip(&output.dkim_alignment);
        let dkim = dkim.filter_map(|(d, alignment)| Some(("dkim", d.domain.as_ref()?, named(d.result), *alignment)));
        let identifier = |(method, domain, result, alignment): (&'static str, &Domain, Word, Alignment)| {
            let (walk, organizational_domain) = walks.of_identifier(domain, &output.author_domain);
            let (method, alignment) = (method.into(), named(alignment));
            Identifier { method, domain: domain.to_string(), result, alignment, organizational_domain, walk }
        };
        Self {
            author_domain: output.author_domain.to_string(),
            result: named(output.result),
            reason: output.reason.into(),
            doubt: output.doubt.map(named),
            walk: walks.from(&output.author_domain).0,
            organizational_domain: output.organizational_domain.as_ref().map(ToString::to_string),
            policy: output.policy.as_ref().map(|policy| walks.policy(policy, &output.author_domain)),
            identifiers: spf.into_iter().chain(dkim).map(identifier).collect(),
            signs: signs(evaluation, output).into_iter().map(named).collect(),
        }
    }
}

impl Question {
    /// A question with its answer; of each text at most `most` octets.
    pub fn new(asked: &Asked, most: usize) -> Self {
        let (outcome, records) = match &asked.answer.outcome {
            Ok(records) => ("records".into(), texts(records, most)),
            Err(miss) => (of_miss(*miss), Vec::new()),
        };
        Self {
            name: escaped(asked.name.as_bytes()),
            record_type: named(asked.record_type),
            outcome,
            records,
            ttl_seconds: asked.answer.ttl.as_secs(),
            milliseconds: milliseconds(asked.waited),
        }
    }
}

/// The spelling of a label.
pub fn named(label: impl Label) -> Word {
    Cow::Borrowed(label.as_str())
}

/// A reply of ours, as the client reads it; its lines joined.
pub fn one_line(reply: &Reply) -> String {
    escaped(reply.as_wire().trim_ascii_end()).replace("\\r\\n", " / ")
}

fn of_miss(miss: Miss) -> Word {
    match miss {
        Miss::NoData => "nodata".into(),
        Miss::NxDomain => "nxdomain".into(),
        Miss::Failed(failure) => named(failure),
    }
}

fn texts(records: &Records, most: usize) -> Vec<String> {
    match records {
        Records::A(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Records::Aaaa(addresses) => addresses.iter().map(ToString::to_string).collect(),
        Records::Mx(all) => {
            all.iter().map(|mx| format!("{} {}", mx.preference, escaped(mx.exchange.as_bytes()))).collect()
        }
        Records::Ptr(names) => names.iter().map(|name| escaped(name.as_bytes())).collect(),
        Records::Txt(txt) => txt.texts().map(|text| escaped_start(text, most)).collect(),
    }
}

fn milliseconds(time: Duration) -> f64 {
    // To the microsecond: what lies below is noise.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Recipients that are told.
const MAX_RECIPIENTS: usize = 100;
/// From fields that are told: a second one settles the matter.
const MAX_FROM: usize = 10;
