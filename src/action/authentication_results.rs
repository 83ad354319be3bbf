//! Writes the one Authentication-Results field of a message (RFC 8601), and reads nothing.
//!
//! The field is made of atoms that are never broken: `method=result`, `ptype.property=value`, `reason="..."`, comments
//! of our own words. A value is a checked domain or a token, else a quoted string of printable ASCII, else it is left
//! out; so whatever a peer sends, no line, property, comment or method can come of it. Lines are folded at 78
//! characters where atoms allow, and stay far below 998 (RFC 5322 §2.1.1), since every atom is bounded.

use std::borrow::Cow;
use std::fmt::Write;

use crate::dmarc::alignment::DmarcResult;
use crate::domain::{self, Domain};
use crate::evaluation::{ArcOutput, ArcResult, DkimOutput, DkimResult, DmarcOutput, Evaluation};
use crate::label::Label;
use crate::message::author::Author;
use crate::policy::{Assessment, Decision, Disposition};
use crate::spf::{Identity, SpfOutput, SpfResult};

/// The names that the fields carry.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// Who speaks: the gate's, or the fleet's (RFC 8601 §2.5).
    pub authserv_id: &'a str,
    /// Under which id `dmarcgate explain` finds the message.
    pub explain_id: &'a str,
    /// The gate's host name, if Received-SPF is to be written.
    pub receiver: Option<&'a str>,
}

/// The field of an evaluated message, ended by CRLF.
pub fn evaluated(evaluation: &Evaluation, decision: &Decision, names: &Names<'_>) -> String {
    let mut field = Field::new(names.authserv_id);
    // RFC 8601 §2.7.2: a result for each identity. A reader that takes the first spf= must see the one that counts.
    spf(&mut field, &evaluation.spf);
    if let Some(helo) = &evaluation.spf_helo {
        spf(&mut field, helo);
    }
    all_dkim(&mut field, evaluation);
    arc(&mut field, &evaluation.arc);
    // A marked message says where to ask why.
    let id =
        matches!(decision.disposition, Disposition::Tag(_)).then(|| clean_id(names.explain_id)).unwrap_or_default();
    if let Author::Unusable(why) = evaluation.author {
        field.method("dmarc", DmarcResult::PermError);
        field.comment(&[("id", &id)]);
        field.reason(&format!("From names no usable author domain: {}", why.as_str().replace('_', " ")), false);
    }
    // Failing ones first: a reader that takes the first result must not take the mildest.
    let each = || evaluation.dmarc.iter().zip(&decision.assessments);
    let failing = each().filter(|(d, _)| d.result == DmarcResult::Fail);
    let others = each().filter(|(d, _)| d.result != DmarcResult::Fail);
    for (index, (output, assessment)) in failing.chain(others).enumerate() {
        dmarc(&mut field, output, assessment, if index == 0 { &id } else { "" });
    }
    field.end()
}

/// The field of a message that was not evaluated: `authserv-id; none` (RFC 8601 §2.2), ended by CRLF.
pub fn not_evaluated(authserv_id: &str) -> String {
    let mut field = Field::new(authserv_id);
    field.text.push_str("; none");
    field.end()
}

/// The field of a message that was not evaluated because its sender has logged in (RFC 8601 §2.7.4). As whom is
/// nobody's business further on.
pub fn authenticated(authserv_id: &str) -> String {
    let mut field = Field::new(authserv_id);
    field.text.push_str("; auth=pass");
    field.end()
}

fn spf(field: &mut Field, spf: &SpfOutput) {
    field.method("spf", spf.result);
    field.reason(&spf.reason, spf.result == SpfResult::Pass);
    if let Some(domain) = &spf.domain {
        // The domain alone: the local part proves nothing, and is the sender's to choose.
        let property = match spf.identity {
            Identity::MailFrom => "smtp.mailfrom",
            Identity::Helo => "smtp.helo",
        };
        field.property(property, domain.as_str());
    }
}

/// Each signature up to a bound, copies left out; beyond it those that passed go first.
fn all_dkim(field: &mut Field, evaluation: &Evaluation) {
    let all = &evaluation.dkim;
    let chosen: Vec<&DkimOutput> = if all.len() > MAX_DKIM {
        let passed = all.iter().filter(|d| d.result == DkimResult::Pass);
        passed.chain(all.iter().filter(|d| d.result != DkimResult::Pass)).take(MAX_DKIM).collect()
    } else {
        all.iter().collect()
    };
    if chosen.is_empty() {
        field.method("dkim", DkimResult::None);
    }
    let chosen = without_copies(&chosen);
    for signature in &chosen {
        dkim(field, signature, unique_start(signature, &chosen));
    }
    let left_out = all.len() - chosen.len() + evaluation.dkim_skipped;
    if left_out > 0 {
        field.comment(&[("more", &left_out.to_string())]);
    }
}

/// Of several with the same `b=`, as far as it is kept, the one that passed, else the first: no reader could tell them
/// apart, and the others are that one's copies in fields that were changed (RFC 6008 §4).
fn without_copies<'a>(all: &[&'a DkimOutput]) -> Vec<&'a DkimOutput> {
    let is_kept = |output: &DkimOutput| {
        let copies = all.iter().filter(|other| other.signature_start == output.signature_start);
        // The first of the least.
        let best = copies.min_by_key(|copy| copy.result != DkimResult::Pass);
        output.signature_start.is_empty() || best.is_some_and(|best| best.place == output.place)
    };
    all.iter().copied().filter(|output| is_kept(output)).collect()
}

/// As much of `b=` as tells a signature from all the others, eight characters at least (RFC 6008 §4).
fn unique_start<'a>(signature: &'a DkimOutput, all: &[&DkimOutput]) -> &'a str {
    let start = &signature.signature_start;
    let others = all.iter().filter(|other| other.signature_start != *start);
    let shared = |other: &&DkimOutput| {
        let pairs = start.bytes().zip(other.signature_start.bytes());
        pairs.take_while(|(one, another)| one == another).count()
    };
    let length = others.map(shared).max().map_or(MIN_START, |shared| MIN_START.max(shared + 1));
    start.get(..length).unwrap_or(start)
}

fn dkim(field: &mut Field, signature: &DkimOutput, start: &str) {
    field.method("dkim", signature.result);
    field.reason(signature.reason, signature.result == DkimResult::Pass);
    if let Some(domain) = &signature.domain {
        field.property("header.d", domain.as_str());
    }
    if let Some(identity) = signature.identity.as_deref().and_then(clean_identity) {
        field.property_as_is("header.i", &identity);
    }
    field.property("header.s", &signature.selector);
    field.property("header.a", signature.algorithm.unwrap_or_default());
    field.property("header.b", start);
}

fn arc(field: &mut Field, arc: &ArcOutput) {
    let result = match arc.result {
        ArcResult::None => return,
        // RFC 8617 §4.4, §5.2.1: no such result is registered, and all errors fail.
        ArcResult::TempError => ArcResult::Fail,
        result => result,
    };
    field.method("arc", result);
    field.reason(arc.reason, result == ArcResult::Pass);
}

fn dmarc(field: &mut Field, output: &DmarcOutput, assessment: &Assessment, id: &str) {
    field.method("dmarc", output.result);
    let published = output.policy.as_ref().map_or("", |p| p.requested.as_str());
    let dis = if published.is_empty() { "" } else { assessment.reported.as_str() };
    // One comment: a common reader, authres, loses what follows two.
    field.comment(&[("p", published), ("dis", dis), ("id", id)]);
    field.reason(output.reason, output.result == DmarcResult::Pass);
    if let Some(policy) = assessment.policy {
        field.property("policy.dmarc", policy.as_str());
    }
    field.property("header.from", output.author_domain.as_str());
}

/// The field as far as it is written.
struct Field {
    text: String,
    /// Characters in its last line.
    column: usize,
}

impl Field {
    fn new(authserv_id: &str) -> Self {
        // Kept on the first line, since some readers look for it there.
        let mut text = String::with_capacity(CAPACITY);
        text.push_str(NAME);
        text.push_str(": ");
        text.push_str(&value(authserv_id).unwrap_or("unknown".into()));
        Self { column: text.len(), text }
    }

    /// Begins a result, on a line of its own.
    fn method(&mut self, method: &str, result: impl Label) {
        for part in [";\r\n ", method, "=", result.as_str()] {
            self.text.push_str(part);
        }
        self.column = 1 + method.len() + 1 + result.as_str().len();
    }

    /// `reason="..."`, which goes before all properties; a pass needs none. May be folded between its words.
    fn reason(&mut self, reason: &str, passed: bool) {
        if passed {
            return;
        }
        let words: Vec<&str> = reason.split_ascii_whitespace().collect();
        if let Some(quoted) = quoted(&words.join(" ")).filter(|_| !words.is_empty()) {
            format!("reason={quoted}").split(' ').for_each(|word| self.atom(&[word]));
        }
    }

    fn property(&mut self, name: &str, text: &str) {
        if let Some(value) = value(text) {
            self.property_as_is(name, &value);
        }
    }

    fn property_as_is(&mut self, name: &str, value: &str) {
        self.atom(&[name, "=", value]);
    }

    /// A comment of words with values; those without a value are left out, and the whole if none has one.
    fn comment(&mut self, words: &[(&str, &str)]) {
        let mut comment = String::new();
        for (word, value) in words.iter().filter(|(_, value)| !value.is_empty()) {
            let _ = write!(comment, "{}{word}={value}", if comment.is_empty() { "(" } else { " " });
        }
        if !comment.is_empty() {
            self.atom(&[&comment, ")"]);
        }
    }

    /// An atom, given in parts.
    fn atom(&mut self, parts: &[&str]) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        // One more character for the semicolon that may follow.
        if self.column + 1 + length + 1 > LINE {
            self.text.push_str("\r\n ");
            self.column = 1 + length;
        } else {
            self.text.push(' ');
            self.column += 1 + length;
        }
        parts.iter().for_each(|part| self.text.push_str(part));
    }

    fn end(mut self) -> String {
        self.text.push_str("\r\n");
        self.text
    }
}

/// A value of RFC 2045 §5.1: as it is if it is a token, else quoted if it is printable ASCII, else none.
fn value(text: &str) -> Option<Cow<'_, str>> {
    if text.is_empty() || text.len() > MAX_VALUE {
        None
    } else if text.bytes().all(is_token_character) {
        Some(text.into())
    } else {
        quoted(text).map(Cow::Owned)
    }
}

/// RFC 2045 §5.1: printable, and none of the `tspecials`.
fn is_token_character(b: u8) -> bool {
    let is_special = matches!(
        b,
        b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b':' | b'\\' | b'"' | b'/' | b'[' | b']' | b'?' | b'='
    );
    b.is_ascii_graphic() && !is_special
}

fn quoted(text: &str) -> Option<String> {
    if text.len() > MAX_VALUE || !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return None;
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    Some(quoted)
}

/// `i=` as `[local-part] "@" domain-name` (RFC 8601 §2.2), if its local part is plain; else it is left out, for the
/// rest of it would be another identity.
fn clean_identity(identity: &str) -> Option<String> {
    let (local, domain) = identity.rsplit_once('@')?;
    let domain = Domain::parse(domain).ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+');
    let is_dot_atom = local.split('.').all(|part| !part.is_empty() && part.bytes().all(plain));
    (local.len() <= MAX_LOCAL && (local.is_empty() || is_dot_atom)).then(|| format!("{local}@{domain}"))
}

fn clean_id(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(MAX_ID).collect()
}

const NAME: &str = "Authentication-Results";
/// Octets that the field of most messages fits into.
const CAPACITY: usize = 768;
/// Characters of a line where atoms allow (RFC 5322 §2.1.1).
const LINE: usize = 78;
/// Octets of a value: a domain name at its longest.
const MAX_VALUE: usize = domain::MAX_LENGTH;
/// Octets of a local part (RFC 5321 §4.5.3.1.1).
const MAX_LOCAL: usize = 64;
/// Characters of an id: its comment must fit into a line.
const MAX_ID: usize = 32;
/// Characters of a `b=` that are written at least (RFC 6008 §4).
const MIN_START: usize = 8;
/// Signatures that are written.
const MAX_DKIM: usize = 20;
