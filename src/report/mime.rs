//! Writes messages: header fields that are folded, and parts in plain ASCII.
//!
//! Every line ends in CRLF and is shorter than 998 octets, as all words are that go into one (RFC 5322 §2.1.1).

use std::fmt::Write as _;

use crate::message::base64;
use crate::message::trace::date;
use crate::report::recipient::Address;

/// A message that grows from its top.
#[derive(Debug, Default)]
pub(super) struct Message(String);

impl Message {
    /// What every report's message has on top; `sent` is in epoch seconds.
    pub fn new(from: &Author, to: &Address, sent: i64, message_id: &str) -> Self {
        let mut message = Self::default();
        let address = format!("<{}>", from.address);
        message.field("From", phrase(&from.name).iter().map(String::as_str).chain([address.as_str()]));
        message.field("To", [format!("<{to}>").as_str()]);
        message.field("Date", [date(sent.max(0).unsigned_abs()).as_str()]);
        message.field("Message-ID", [format!("<{message_id}>").as_str()]);
        // RFC 3834 §5: nobody is to answer it by a machine.
        message.field("Auto-Submitted", ["auto-generated"]);
        message.field("MIME-Version", ["1.0"]);
        message
    }

    /// A field of words; lines are broken between them.
    pub fn field<'a>(&mut self, name: &str, words: impl IntoIterator<Item = &'a str>) {
        self.0.push_str(name);
        self.0.push(':');
        let mut column = name.len() + 1;
        for word in words {
            let is_first = column == name.len() + 1;
            if !is_first && column + 1 + word.len() > LINE {
                self.0.push_str("\r\n\t");
                column = 1;
            } else {
                self.0.push(' ');
                column += 1;
            }
            self.0.push_str(word);
            column += word.len();
        }
        self.0.push_str("\r\n");
    }

    /// The end of a header section.
    pub fn end_header(&mut self) {
        self.0.push_str("\r\n");
    }

    /// Lines of text, of which each ends in CRLF.
    pub fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// The line before a part.
    pub fn boundary(&mut self, boundary: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "\r\n--{boundary}\r\n");
    }

    /// The line behind the last part.
    pub fn last_boundary(&mut self, boundary: &str) {
        let _ = write!(self.0, "\r\n--{boundary}--\r\n");
    }

    /// Octets in base64, in lines of 76 characters (RFC 2045 §6.8).
    pub fn base64(&mut self, octets: &[u8]) {
        for line in octets.chunks(76 / 4 * 3) {
            self.0.push_str(&base64::encode(line));
            self.0.push_str("\r\n");
        }
    }

    /// The octets.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

/// Who a report comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The address in From; its domain has the policy that the report passes under.
    pub address: Address,
    /// The organization's name.
    pub name: String,
}

/// A display name: a quoted string, or encoded words where it is not in ASCII (RFC 2047 §5).
fn phrase(name: &str) -> Vec<String> {
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    if name.trim().is_empty() {
        return Vec::new();
    }
    if name.is_ascii() {
        let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
        // A name longer than a line should be is no name; it is encoded, so that it can be broken.
        if quoted.len() < LINE {
            return vec![format!("\"{quoted}\"")];
        }
    }
    let mut words: Vec<String> = vec![String::new()];
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if word.len() + c.len_utf8() <= ENCODED => word.push(c),
            _ => words.push(c.into()),
        }
    }
    words.iter().map(|word| format!("=?utf-8?B?{}?=", base64::encode(word.as_bytes()))).collect()
}

/// Characters of a line (RFC 5322 §2.1.1 asks for 78 at most).
const LINE: usize = 76;
/// Octets in an encoded word, which may have 75 characters (RFC 2047 §2).
const ENCODED: usize = 45;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" \r\n", &[]),
            ("Example Networks", &["\"Example Networks\""]),
            ("A \"B\" \\ C\r\nBcc: x", &["\"A \\\"B\\\" \\\\ CBcc: x\""]),
            ("Söhne", &["=?utf-8?B?U8O2aG5l?="]),
        ];
        for (name, expected) in cases {
            assert_eq!(phrase(name), *expected, "{name}");
        }
        for name in ["ä".repeat(100), "x".repeat(500)] {
            let words = phrase(&name);
            assert!(words.len() > 1 && words.iter().all(|word| word.len() <= 75), "{words:?}");
        }
    }

    #[test]
    fn fields_are_folded_between_words() {
        let mut message = Message::default();
        let long = "x".repeat(70);
        message.field("A", ["one", "two"]);
        message.field("Bee", [long.as_str(), "two", "three"]);
        message.field("See", ["x".repeat(200).as_str()]);
        let expected = format!("A: one two\r\nBee: {long}\r\n\ttwo three\r\nSee: {}\r\n", "x".repeat(200));
        assert_eq!(message.0, expected);
    }
}
