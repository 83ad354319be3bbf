//! Writes the Received-SPF field of a message (RFC 7208 §9.1), for those whose filters read it; off by default.
//!
//! It says of the identity that DMARC uses what Authentication-Results says, and with what it can be checked again. As
//! there, the field is made of atoms that are never broken: a comment of our own words, and pairs whose value is a
//! plain dot-atom, else a quoted string of printable ASCII; a value that is neither is left out, with its key.

use crate::evaluation::{Evaluation, Sender};
use crate::label::Label;
use crate::spf::{Identity, SpfOutput, SpfResult};

/// The field, ended by CRLF; `receiver` is the gate's host name.
pub fn field(evaluation: &Evaluation, receiver: &str) -> String {
    let Evaluation { sender, spf, .. } = evaluation;
    let mut text = format!("{NAME}: {}", spf.result.as_str());
    let mut column = text.len();
    let comment = comment(spf, receiver);
    let pairs = pairs(sender, spf, receiver);
    let last = pairs.len();
    let atoms = pairs.into_iter().enumerate().map(|(at, (key, value))| {
        let end = if at + 1 < last { ";" } else { "" };
        format!("{key}={value}{end}")
    });
    for atom in comment.into_iter().chain(atoms) {
        if column + 1 + atom.len() > LINE {
            text.push_str("\r\n ");
            column = 1 + atom.len();
        } else {
            text.push(' ');
            column += 1 + atom.len();
        }
        text.push_str(&atom);
    }
    text + "\r\n"
}

/// For people: who says so, and why. It may be folded between its words.
fn comment(spf: &SpfOutput, receiver: &str) -> Vec<String> {
    let plain = |c: &char| c.is_ascii_graphic() && !matches!(c, '(' | ')' | '\\');
    let words = format!("{receiver}: {}", spf.reason);
    let words = words.split_ascii_whitespace().map(|word| word.chars().filter(plain).take(MAX_WORD).collect());
    let mut words: Vec<String> = words.filter(|word: &String| !word.is_empty()).take(MAX_WORDS).collect();
    if let Some(first) = words.first_mut() {
        first.insert(0, '(');
    }
    if let Some(last) = words.last_mut() {
        last.push(')');
    }
    words
}

/// Keys with values as they are written. The client's address, its name and the reverse-path are what one needs to
/// check again (RFC 7208 §9.1).
fn pairs(sender: &Sender, spf: &SpfOutput, receiver: &str) -> Vec<(&'static str, String)> {
    let envelope_from = match spf.identity {
        Identity::MailFrom => &*sender.mail_from,
        // The null reverse-path.
        Identity::Helo => "",
    };
    let is_error = matches!(spf.result, SpfResult::TempError | SpfResult::PermError);
    let mechanism = match (spf.result, &spf.term) {
        (SpfResult::None | SpfResult::TempError | SpfResult::PermError, _) => "",
        (_, Some(term)) => term,
        // No mechanism matched.
        (_, None) => "default",
    };
    let ip = sender.ip.to_canonical().to_string();
    let pairs = [
        ("identity", spf.identity.as_str()),
        ("client-ip", &ip),
        ("envelope-from", envelope_from),
        ("helo", &sender.helo),
        ("receiver", receiver),
        ("mechanism", mechanism),
        ("problem", if is_error { &*spf.reason } else { "" }),
    ];
    pairs.into_iter().filter_map(|(key, text)| Some((key, value(text)?))).collect()
}

/// A dot-atom of plain characters as it is, other printable ASCII quoted (RFC 5322 §3.2.4); none if it is empty, too
/// long or anything else.
fn value(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > MAX_VALUE || !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
        return None;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if text.split('.').all(|part| !part.is_empty() && part.bytes().all(plain)) {
        return Some(text.to_owned());
    }
    Some(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

const NAME: &str = "Received-SPF";
/// Characters of a line where atoms allow (RFC 5322 §2.1.1).
const LINE: usize = 78;
/// Octets of a value: a reverse-path at its longest (RFC 5321 §4.5.3.1) has a local part of 64 and a domain of 255.
const MAX_VALUE: usize = 320;
/// Characters of a word of the comment: a host name at its longest, and a colon.
const MAX_WORD: usize = 254;
/// Words of the comment; those of ours are fewer.
const MAX_WORDS: usize = 30;
