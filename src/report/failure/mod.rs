//! Failure reports (RFC 9991): one message that failed, reported to the owner of the domain in its From. Pure.
//!
//! [`wanted`] says which failure the owner asked to be told of, [`may_be_reported`] whether we would send one
//! on such a message at all, [`build`] writes it as an ARF message (RFC 5965, RFC 6591). [`limit`] counts what is held
//! back, which the next report gives as `Incidents`. Who gets it: [`recipient`](crate::report::recipient); who sends
//! it: [`failure_reporter`](crate::report::failure_reporter).

mod body;
pub mod limit;
pub mod redaction;

use std::net::IpAddr;

use self::redaction::Redaction;
use crate::dmarc::alignment::{Alignment, DmarcResult};
use crate::dmarc::record::FailureScope;
use crate::dmarc::report_destination::ReportKind;
use crate::domain::Domain;
use crate::evaluation::dkim::{BODY_HASH_MISMATCH, Signatures};
use crate::evaluation::{DkimOutput, DkimResult, DmarcOutput, Evaluation};
use crate::label::Label;
use crate::label_enum;
use crate::message::base64;
use crate::message::body_hash::canonical;
use crate::message::header::{Field, HeaderSection};
use crate::message::trace::date;
use crate::report::form::is_any_report;
use crate::report::message::Author;
use crate::report::mime::Message;
use crate::report::recipient::Address;
use crate::smtp::address::ReversePath;
use crate::spf::SpfResult;

label_enum! {
    /// What became of the message, as far as the gate knows (RFC 6591 §3.2.2).
    pub enum Delivered {
        /// The mail server has taken it; where to, it does not say.
        Taken = "delivered",
        /// Gate or mail server refused it.
        Refused = "reject",
    }
}

label_enum! {
    /// How much of the message a report has.
    pub enum Extent {
        /// Its header section.
        Headers = "headers",
        /// The beginning of its body, too.
        Message = "message",
    }
}

label_enum! {
    /// What a report has of the octets over which a failed DKIM signature was made (RFC 6591 §3.2.4).
    pub enum Canonicalized {
        /// Nothing.
        Nothing = "none",
        /// The header fields.
        Header = "header",
        /// The body, too, if all of it is at most [`MAX_BODY`] octets.
        Message = "message",
    }
}

label_enum! {
    /// The types of failure that are reported (RFC 6591 §3.1, RFC 9991 §4).
    pub enum AuthFailure {
        /// Mechanisms gave no aligned pass.
        Dmarc = "dmarc",
        /// A signature whose body hash does not match.
        BodyHash = "bodyhash",
        /// A signature that failed otherwise.
        Signature = "signature",
        /// SPF.
        Spf = "spf",
    }
}

/// The beginning of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// At most [`MAX_BODY`] octets.
    pub octets: Vec<u8>,
    /// Whether there are no more.
    pub is_whole: bool,
}

/// What a failed signature was made over, as far as it is to be shown.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The signatures as they were read.
    pub signatures: &'a Signatures,
    /// The whole body, if that is to be shown.
    pub body: Option<&'a [u8]>,
}

/// A message that failed, for one of its author domains.
#[derive(Debug, Clone, Copy)]
pub struct Incident<'a> {
    /// All that was found.
    pub evaluation: &'a Evaluation,
    /// What was found for the author domain.
    pub dmarc: &'a DmarcOutput,
    /// The header section as it came.
    pub header: &'a HeaderSection,
    /// The body, at most [`MAX_BODY`] octets of it, if it is to be shown.
    pub body: Option<&'a [u8]>,
    /// What its signatures were made over, if that is to be shown.
    pub signed: Option<Signed<'a>>,
    /// From MAIL.
    pub reverse_path: &'a ReversePath,
    /// The client's port, if it is known (RFC 6692).
    pub source_port: Option<u16>,
    /// What became of it.
    pub delivered: Delivered,
    /// The Authentication-Results field, name and line ends included.
    pub results: &'a str,
    /// The id under which the gate's operator finds it.
    pub id: &'a str,
    /// When it came, in epoch seconds.
    pub arrived: i64,
    /// What failed.
    pub failure: AuthFailure,
    /// For how many failures the report stands: itself and those that were held back.
    pub incidents: u64,
}

/// The failure that the record asks to be told of (`fo`, RFC 9989 §4.7): that of DMARC rather than those of its
/// mechanisms, which are reported whatever their alignment. Never where DNS left the result open, and never for a
/// public suffix domain, whose operator is not the message's owner (RFC 9991 §2).
pub fn wanted(evaluation: &Evaluation, dmarc: &DmarcOutput) -> Option<AuthFailure> {
    let record = &dmarc.policy.as_ref()?.record;
    if ReportKind::Failure.requested(record).is_empty()
        || !matches!(dmarc.result, DmarcResult::Pass | DmarcResult::Fail)
    {
        return None;
    }
    let by_dmarc = match record.fo.dmarc {
        Some(FailureScope::AllFailed) => !dmarc.dkim_aligned && !dmarc.spf_aligned,
        Some(FailureScope::AnyFailed) => !dmarc.dkim_aligned || !dmarc.spf_aligned,
        None => false,
    };
    if by_dmarc {
        return Some(AuthFailure::Dmarc);
    }
    let signature = evaluation.dkim.iter().find(|signature| record.fo.dkim && has_failed(signature));
    if let Some(signature) = signature {
        let is_hash = signature.reason == BODY_HASH_MISMATCH;
        return Some(if is_hash { AuthFailure::BodyHash } else { AuthFailure::Signature });
    }
    let failed = [SpfResult::Fail, SpfResult::SoftFail, SpfResult::PermError];
    (record.fo.spf && failed.contains(&evaluation.spf.result)).then_some(AuthFailure::Spf)
}

impl AuthFailure {
    /// In a sentence about the message.
    fn words(self) -> &'static str {
        match self {
            Self::Dmarc => "It failed DMARC, or a part of it.",
            Self::BodyHash | Self::Signature => "A DKIM signature of it failed.",
            Self::Spf => "It failed SPF.",
        }
    }

    fn is_dkim(self) -> bool {
        matches!(self, Self::BodyHash | Self::Signature)
    }
}

/// Whether a report on such a message could not become part of a loop: not for a null reverse-path, not for what a
/// machine sent by itself (RFC 3834 §5), not for reports.
pub fn may_be_reported(reverse_path: &ReversePath, header: &HeaderSection) -> bool {
    let by_machine = |field: Field<'_>| {
        let value = field.value.trim_ascii();
        let word = value.split(|b| *b == b';' || *b == b'(' || b.is_ascii_whitespace()).next().unwrap_or_default();
        !word.eq_ignore_ascii_case(b"no")
    };
    !reverse_path.is_null() && !header.named("Auto-Submitted").any(by_machine) && !is_any_report(header)
}

/// Writes the report, unsigned; `sent` is in epoch seconds and `id` unique. `redaction` hides the local parts in what
/// it shows of the message.
pub fn build(
    incident: &Incident<'_>,
    redaction: Option<&Redaction>,
    author: &Author,
    to: &Address,
    id: &str,
    sent: i64,
) -> Vec<u8> {
    let domain = &incident.dmarc.author_domain;
    let mut message = Message::new(author, to, sent, &format!("{id}@{}", author.address.domain()));
    message.field("Subject", ["DMARC", "failure", "report", "for", domain.as_str()]);
    // Nobody who writes the message can guess it.
    let boundary = format!("=_{id}");
    let boundary_word = format!("boundary=\"{boundary}\"");
    message.field("Content-Type", ["multipart/report;", "report-type=feedback-report;", &boundary_word]);
    message.end_header();
    message.boundary(&boundary);
    message.field("Content-Type", ["text/plain;", "charset=us-ascii"]);
    message.end_header();
    message.text(&format!(
        "A message in the name of\r\n{domain}\r\ncame from {} on {}.\r\n{} \
         The DMARC record asks for\r\nsuch reports by its tag ruf.\r\n",
        incident.evaluation.sender.ip,
        date(incident.arrived.max(0).unsigned_abs()),
        incident.failure.words(),
    ));
    message.boundary(&boundary);
    message.field("Content-Type", ["message/feedback-report"]);
    message.end_header();
    feedback(&mut message, incident, redaction);
    message.boundary(&boundary);
    evidence(&mut message, incident, redaction);
    message.last_boundary(&boundary);
    message.into_bytes()
}

/// The fields of RFC 5965 §3, RFC 6591 §3 and RFC 9991 §4.
fn feedback(message: &mut Message, incident: &Incident<'_>, redaction: Option<&Redaction>) {
    let Incident { evaluation, dmarc, .. } = incident;
    message.field("Feedback-Type", ["auth-failure"]);
    message.field("User-Agent", [concat!("dmarcgate/", env!("CARGO_PKG_VERSION"))]);
    message.field("Version", ["1"]);
    message.field("Auth-Failure", [incident.failure.as_str()]);
    let (_, results) = incident.results.split_once(':').unwrap_or_default();
    let results = results.split_ascii_whitespace().map(ascii).collect::<Vec<_>>().join(" ");
    let results = redaction.map_or_else(|| results.clone(), |redaction| redaction.apply_to_tags(&results));
    message.field("Authentication-Results", results.split(' '));
    message.field("Identity-Alignment", [alignment(dmarc)]);
    message.field("Delivery-Result", [incident.delivered.to_string().as_str()]);
    if let Some((output, domain)) = failed_signature(incident) {
        let identity = output.identity.as_deref().map_or_else(|| format!("@{domain}"), ascii);
        message.field("DKIM-Domain", [domain.as_str()]);
        message.field("DKIM-Identity", words(&redacted(&identity, redaction)).iter().map(String::as_str));
        message.field("DKIM-Selector", words(&ascii(&output.selector)).iter().map(String::as_str));
        canonicalized(message, incident, output, redaction);
    }
    if incident.failure == AuthFailure::Spf || has_failed_aligned_spf(evaluation, dmarc) {
        for (name, text) in &evaluation.spf.records {
            let text = ascii(text).replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("txt : {} : \"{text}\"", ascii(name));
            message.field("SPF-DNS", words(&text).iter().map(String::as_str));
        }
    }
    message.field("Original-Envelope-Id", [incident.id]);
    let mail_from = incident.reverse_path.mailbox().map_or("", |mailbox| mailbox.as_str());
    let mail_from = ascii(&format!("<{}>", redacted(mail_from, redaction)));
    message.field("Original-Mail-From", words(&mail_from).iter().map(String::as_str));
    message.field("Arrival-Date", [date(incident.arrived.max(0).unsigned_abs()).as_str()]);
    message.field("Source-IP", [source_ip(evaluation.sender.ip).as_str()]);
    if let Some(port) = incident.source_port {
        message.field("Source-Port", [port.to_string().as_str()]);
    }
    message.field("Reported-Domain", [dmarc.author_domain.as_str()]);
    message.field("Incidents", [incident.incidents.to_string().as_str()]);
}

/// What the signature was made over (RFC 6591 §3.2.4). With redaction the octets are no longer the same, and the body
/// is shown only as far as elsewhere in the report.
fn canonicalized(message: &mut Message, incident: &Incident<'_>, output: &DkimOutput, redaction: Option<&Redaction>) {
    let Some(signed) = incident.signed else { return };
    let Some((header, spec)) = signed.signatures.signed(incident.header, output) else { return };
    let header = match redaction {
        Some(redaction) => redacted_fields(header, redaction),
        None => header,
    };
    encoded(message, "DKIM-Canonicalized-Header", &header, MAX_HEADER);
    let Some(body) = signed.body else { return };
    let body = canonical(&spec, body);
    let body = match redaction {
        Some(redaction) => {
            let lines = body::shown(incident.header, &String::from_utf8_lossy(&body));
            lines.iter().flat_map(|line| (redaction.apply(line) + "\r\n").into_bytes()).collect()
        }
        None => body,
    };
    encoded(message, "DKIM-Canonicalized-Body", &body, 2 * MAX_BODY);
}

/// Canonicalized fields with the local parts hidden in them.
fn redacted_fields(fields: Vec<u8>, redaction: &Redaction) -> Vec<u8> {
    let hidden = |field: Field<'_>| {
        let (name, raw) = (String::from_utf8_lossy(field.name), String::from_utf8_lossy(field.raw));
        let text = match is_tagged(&name) {
            true => redaction.apply_to_tags(&raw),
            false => redaction.apply(&raw),
        };
        text.into_bytes()
    };
    HeaderSection::parse(fields).fields().flat_map(hidden).collect()
}

/// A field of base64, unless it would be too long.
fn encoded(message: &mut Message, name: &str, octets: &[u8], most: usize) {
    if octets.len() <= most {
        let words: Vec<_> = octets.chunks(ENCODED).map(base64::encode).collect();
        message.field(name, words.iter().map(String::as_str));
    }
}

/// The mechanisms that gave no aligned pass: one that passed for another domain is among them (RFC 9991 §4).
fn alignment(dmarc: &DmarcOutput) -> &'static str {
    match (dmarc.dkim_aligned, dmarc.spf_aligned) {
        (false, false) => "dkim, spf",
        (false, true) => "dkim",
        (true, false) => "spf",
        (true, true) => "none",
    }
}

/// The first signature that failed, where one is what is reported; else the first of an aligned domain that did not
/// pass, whatever the reason (RFC 9991 §4).
fn failed_signature<'a>(incident: &Incident<'a>) -> Option<(&'a DkimOutput, &'a Domain)> {
    let pairs = incident.evaluation.dkim.iter().zip(&incident.dmarc.dkim_alignment);
    let mut failed = pairs.filter(|(output, alignment)| match incident.failure.is_dkim() {
        true => has_failed(output),
        false => output.result != DkimResult::Pass && **alignment != Alignment::Unaligned,
    });
    failed.find_map(|(output, _)| Some((output, output.domain.as_ref()?)))
}

fn has_failed(output: &DkimOutput) -> bool {
    matches!(output.result, DkimResult::Fail | DkimResult::PermError | DkimResult::Policy)
}

fn has_failed_aligned_spf(evaluation: &Evaluation, dmarc: &DmarcOutput) -> bool {
    evaluation.spf.result != SpfResult::Pass && dmarc.spf_alignment != Alignment::Unaligned
}

/// As in an address literal (RFC 5965 §3.2, RFC 5321 §4.1.3).
fn source_ip(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPv6:{ip}"),
    }
}

/// The header section, or the message.
fn evidence(message: &mut Message, incident: &Incident<'_>, redaction: Option<&Redaction>) {
    let kind = if incident.body.is_some() { "message/rfc822" } else { "text/rfc822-headers" };
    message.field("Content-Type", [kind]);
    message.end_header();
    let mut octets = 0;
    for field in incident.header.fields() {
        let text = field_lines(&field, redaction);
        octets += text.len();
        if octets > MAX_HEADER {
            break;
        }
        message.text(&text);
    }
    if let Some(body) = incident.body {
        message.end_header();
        let body = String::from_utf8_lossy(body.get(..body.len().min(MAX_BODY)).unwrap_or_default());
        for line in body::shown(incident.header, &body) {
            for piece in pieces(&defused(&ascii(&redacted(&line, redaction)))) {
                message.text(piece);
                message.text("\r\n");
            }
        }
    }
}

/// A field of the message on the lines on which it came, but for octets that are no printable ASCII.
fn field_lines(field: &Field<'_>, redaction: Option<&Redaction>) -> String {
    let name = ascii(&String::from_utf8_lossy(field.name));
    let value = String::from_utf8_lossy(field.value);
    let value = match redaction {
        Some(redaction) if is_tagged(&name) => redaction.apply_to_tags(&value),
        _ => redacted(&value, redaction),
    };
    let mut lines = String::with_capacity(name.len() + value.len() + 16);
    for (place, line) in value.trim_end_matches(['\r', '\n']).split('\n').enumerate() {
        let line = defused(&ascii(line.trim_end_matches('\r')));
        let line = if place == 0 { format!("{name}:{line}") } else { line };
        // An empty line would end the section, and one without white space would begin another field.
        let is_blank = line.trim().is_empty();
        for (part, piece) in pieces(&line).enumerate().filter(|_| !is_blank) {
            if part > 0 || (place > 0 && !line.starts_with([' ', '\t'])) {
                lines.push('\t');
            }
            lines.push_str(piece);
            lines.push_str("\r\n");
        }
    }
    lines
}

fn is_tagged(name: &str) -> bool {
    TAGGED.iter().any(|tagged| name.eq_ignore_ascii_case(tagged))
}

/// Links that nobody follows by mistake (RFC 9991 §7.3).
fn defused(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (at, _) in lower.match_indices("http") {
        if lower.get(at..).is_some_and(|rest| rest.starts_with("http://") || rest.starts_with("https://")) {
            out.push_str(text.get(from..at).unwrap_or_default());
            out.push_str("hxxp");
            from = at + "http".len();
        }
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// In printable ASCII and tabs.
fn ascii(text: &str) -> String {
    let kept = |c: char| if matches!(c, ' '..='~' | '\t') { c } else { '?' };
    text.chars().map(kept).collect()
}

/// Words of ASCII text, none too long for a line.
fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().flat_map(pieces).map(str::to_owned).collect()
}

/// ASCII text cut so that no line is too long; one piece at least.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let count = text.len().div_ceil(MAX_WORD).max(1);
    (0..count).map(move |place| {
        let start = place * MAX_WORD;
        text.get(start..text.len().min(start + MAX_WORD)).unwrap_or_default()
    })
}

fn redacted(text: &str, redaction: Option<&Redaction>) -> String {
    redaction.map_or_else(|| text.to_owned(), |redaction| redaction.apply(text))
}

/// Fields whose values are lists of tags or properties.
const TAGGED: [&str; 6] = [
    "DKIM-Signature",
    "ARC-Seal",
    "ARC-Message-Signature",
    "ARC-Authentication-Results",
    "Authentication-Results",
    "Received-SPF",
];
/// Octets of the header section that a report has.
const MAX_HEADER: usize = 64 * 1024;
/// Octets of the body that a report has: enough to see what it was about.
pub const MAX_BODY: usize = 64 * 1024;
/// Octets between two places where a line can be broken (RFC 5322 §2.1.1).
const MAX_WORD: usize = 900;
/// Octets of a word of base64: 72 characters, so that a line has one.
const ENCODED: usize = 54;

#[cfg(test)]
mod tests;
