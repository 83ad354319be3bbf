//! Reads a stored message and puts it into the form in which a client would send it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A stored message.
#[derive(Debug)]
pub struct Input {
    /// Octets of the file, as far as it was read.
    pub octets: usize,
    /// How its lines end.
    pub line_ends: LineEnds,
    /// Whether an mbox separator stood above it and was taken off.
    pub separator: bool,
    /// The message, with the line ends that it would have over SMTP.
    content: Vec<u8>,
}

crate::label_enum! {
    /// How the lines of a file end; its first line tells.
    pub enum LineEnds {
        /// As over SMTP: an LF without a CR is an irregularity of the message.
        Crlf = "crlf",
        /// As files on this system: each stands for a CRLF.
        Lf = "lf",
    }
}

impl Input {
    /// Reads `path`, or standard input without one: at most one octet more than `limit`, which is enough to tell that
    /// the message is too big.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub fn read(path: Option<&Path>, limit: u64) -> io::Result<Self> {
        let mut raw = Vec::new();
        let most = limit.saturating_add(1);
        match path {
            Some(path) => File::open(path)?.take(most).read_to_end(&mut raw)?,
            None => io::stdin().lock().take(most).read_to_end(&mut raw)?,
        };
        Ok(Self::new(&raw))
    }

    fn new(raw: &[u8]) -> Self {
        // A colon makes it a header field with obsolete white space before it (RFC 5322 §4.5).
        let separator = raw.strip_prefix(b"From ").is_some_and(|rest| !rest.trim_ascii_start().starts_with(b":"));
        let after_line = || memchr::memchr(b'\n', raw).map_or(raw.len(), |end| end + 1);
        let message = if separator { raw.get(after_line()..).unwrap_or_default() } else { raw };
        let line_ends = match memchr::memchr(b'\n', message) {
            Some(end) if !message.get(..end).unwrap_or_default().ends_with(b"\r") => LineEnds::Lf,
            _ => LineEnds::Crlf,
        };
        let content = match line_ends {
            LineEnds::Crlf => message.to_vec(),
            LineEnds::Lf => with_crlf(message),
        };
        Self { octets: raw.len(), line_ends, separator, content }
    }

    /// What a client sends after DATA: dots doubled, the end of data behind it. Bare CR and LF stay, to be judged.
    pub fn as_data(&self) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.content.len() + 64);
        let mut rest = &*self.content;
        while !rest.is_empty() {
            let length = memchr::memmem::find(rest, b"\r\n").map_or(rest.len(), |at| at + 2);
            let (line, next) = rest.split_at(length);
            if line.starts_with(b".") {
                data.push(b'.');
            }
            data.extend_from_slice(line);
            rest = next;
        }
        if !data.is_empty() && !data.ends_with(b"\r\n") {
            data.extend_from_slice(b"\r\n");
        }
        data.extend_from_slice(b".\r\n");
        data
    }
}

fn with_crlf(message: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(message.len() + message.len() / 32);
    for line in message.split_inclusive(|b| *b == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                content.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
                content.extend_from_slice(b"\r\n");
            }
            None => content.extend_from_slice(line),
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_what_a_client_would_send() {
        let cases: &[(&str, &[u8], &[u8], LineEnds)] = &[
            ("CRLF", b"A: b\r\n\r\nc\r\n", b"A: b\r\n\r\nc\r\n.\r\n", LineEnds::Crlf),
            ("LF", b"A: b\n\nc\n", b"A: b\r\n\r\nc\r\n.\r\n", LineEnds::Lf),
            ("mixed, LF first", b"A: b\n\r\nc", b"A: b\r\n\r\nc\r\n.\r\n", LineEnds::Lf),
            ("mixed, CRLF first", b"A: b\r\n\r\nc\nd\r\n", b"A: b\r\n\r\nc\nd\r\n.\r\n", LineEnds::Crlf),
            ("dots", b".a\n\n.\n..\n", b"..a\r\n\r\n..\r\n...\r\n.\r\n", LineEnds::Lf),
            ("mbox", b"From x@y Mon\nA: b\n\n", b"A: b\r\n\r\n.\r\n", LineEnds::Lf),
            ("a field is no separator", b"From: x@y\n\n", b"From: x@y\r\n\r\n.\r\n", LineEnds::Lf),
            ("nor with white space before its colon", b"From : x@y\n\n", b"From : x@y\r\n\r\n.\r\n", LineEnds::Lf),
            ("nothing", b"", b".\r\n", LineEnds::Crlf),
        ];
        for (case, file, data, line_ends) in cases {
            let input = Input::new(file);
            assert_eq!(input.as_data().escape_ascii().to_string(), data.escape_ascii().to_string(), "{case}");
            assert_eq!(input.line_ends, *line_ends, "{case}");
        }
    }
}
