//! Replies: ours, written here, and the upstream's, read with every oddity bounded and handed on verbatim.

use std::fmt;

/// A reply of one or several lines (RFC 5321 §4.2).
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    /// The lines as they go over the wire, each with its code and CRLF.
    wire: Vec<u8>,
}

/// Reads one reply line after the other.
#[derive(Debug, Default)]
pub struct ReplyReader {
    code: Option<u16>,
    wire: Vec<u8>,
    lines: usize,
}

/// Why what a server said is not a reply. The server is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No three digits, or a character other than space and hyphen behind them.
    #[error("not a reply line")]
    Syntax,
    /// The lines of one reply have different codes.
    #[error("reply lines of different codes")]
    MixedCodes,
    /// A reply that nobody asked for: it can no longer be known which command the next one answers.
    #[error("a reply to nothing")]
    Unasked,
    /// A well-formed reply whose code does not fit here.
    #[error("unexpected code {0}")]
    Unexpected(u16),
    /// More lines or octets than any honest server sends.
    #[error("reply too long")]
    TooLong,
}

impl Reply {
    /// A reply of ours. `enhanced` is an RFC 3463 code such as "5.7.1", or empty where none may stand (RFC 2034 §4: not
    /// in a greeting, an EHLO reply or a 3xx). `text` is one of ours: printable ASCII; longer text becomes several
    /// lines.
    pub fn new(code: u16, enhanced: &str, text: &str) -> Self {
        Self::of_texts(code, enhanced, [text])
    }

    /// A reply of several lines of ours, such as the one to EHLO.
    pub fn lines<'a>(code: u16, lines: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of_texts(code, "", lines)
    }

    /// As [`new`](Self::new), each text on a line of its own; without a text there is no reply. The enhanced code
    /// stands on every line (RFC 2034 §4).
    pub fn of_texts<'a>(code: u16, enhanced: &str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut lines = texts.into_iter().flat_map(wrap).peekable();
        let mut wire = Vec::new();
        while let Some(line) = lines.next() {
            let mark = if lines.peek().is_some() { '-' } else { ' ' };
            let space = if enhanced.is_empty() { "" } else { " " };
            wire.extend_from_slice(format!("{code}{mark}{enhanced}{space}").as_bytes());
            wire.extend(line.bytes().map(|b| if (b' '..=b'~').contains(&b) { b } else { b'?' }));
            wire.extend_from_slice(b"\r\n");
        }
        Self { code, wire }
    }

    /// The three digits.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Whether the command was done (2xx).
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Whether a retry may succeed (4xx).
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// Whether a retry is useless (5xx).
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// The reply as it goes over the wire.
    pub fn as_wire(&self) -> &[u8] {
        &self.wire
    }

    /// The texts of the lines, without code and line end.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.wire
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(|line| line.get(4..).unwrap_or_default())
    }

    /// The reply in one printable line, for log and evidence: at most 512 octets of it.
    pub fn summary(&self) -> String {
        let mut summary = self.code.to_string();
        for text in self.texts() {
            summary.push(' ');
            summary.extend(text.iter().map(|&b| if (b' '..=b'~').contains(&b) { char::from(b) } else { '?' }));
        }
        summary.truncate(MAX_SUMMARY);
        summary
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({})", self.summary())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary())
    }
}

impl ReplyReader {
    /// Takes one line without its line end; gives the reply if this was its last line.
    ///
    /// # Errors
    ///
    /// The server's fault; nothing more can be understood from it.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        let code = line.get(..3).filter(|c| c.iter().all(u8::is_ascii_digit)).ok_or(ReplyError::Syntax)?;
        let code = code.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
        let last = match line.get(3) {
            None | Some(b' ') => true,
            Some(b'-') => false,
            Some(_) => return Err(ReplyError::Syntax),
        };
        if !(200..=599).contains(&code) {
            return Err(ReplyError::Syntax);
        }
        if *self.code.get_or_insert(code) != code {
            return Err(ReplyError::MixedCodes);
        }
        self.lines += 1;
        if self.lines > MAX_LINES || self.wire.len() + line.len() > MAX_OCTETS {
            return Err(ReplyError::TooLong);
        }
        // A bare CR inside would be a line end to somebody, a NUL the end of the text.
        self.wire.extend(line.iter().map(|&b| if matches!(b, b'\r' | 0) { b' ' } else { b }));
        if line.len() == 3 {
            self.wire.push(b' ');
        }
        self.wire.extend_from_slice(b"\r\n");
        if !last {
            return Ok(None);
        }
        let done = std::mem::take(self);
        Ok(Some(Reply { code, wire: done.wire }))
    }
}

/// `text` in pieces that each have room on one line of a reply, broken at spaces where there are any.
pub fn wrap(text: &str) -> impl Iterator<Item = &str> {
    let width = MAX_TEXT;
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        if text.len() <= width {
            rest = None;
            return Some(text);
        }
        let hard = (0..=width).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
        let at = text.get(..hard).and_then(|t| t.rfind(' ')).filter(|&i| i > 0).unwrap_or(hard);
        let (line, tail) = text.split_at(at);
        rest = Some(tail.trim_start_matches(' '));
        Some(line)
    })
}

/// Octets of text in one of our lines: RFC 5321 §4.5.3.1.5 bounds a reply line to 512 with code and CRLF.
const MAX_TEXT: usize = 480;
/// Lines of one reply of a server: no honest one comes near.
const MAX_LINES: usize = 200;
/// Octets of one reply of a server, all lines.
const MAX_OCTETS: usize = 64 * 1024;
/// Octets of a reply in a log event.
const MAX_SUMMARY: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Reply>, ReplyError> {
        let mut reader = ReplyReader::default();
        let mut result = Ok(None);
        for line in lines {
            result = reader.line(line.as_bytes());
            result.as_ref().map_err(|e| *e)?;
        }
        result
    }

    #[test]
    fn our_replies_fit_the_grammar() {
        assert_eq!(Reply::new(250, "2.1.0", "OK").as_wire(), b"250 2.1.0 OK\r\n");
        assert_eq!(Reply::new(354, "", "go\r\non").as_wire(), b"354 go??on\r\n");
        let long = Reply::new(550, "5.7.1", &"word ".repeat(200));
        let lines: Vec<_> = long.as_wire().split_inclusive(|b| *b == b'\n').collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|l| l.len() <= 512 && l.ends_with(b"\r\n")));
        assert!(lines[0].starts_with(b"550-5.7.1 word") && lines[2].starts_with(b"550 5.7.1 word"));
    }

    #[test]
    fn a_servers_reply_is_kept_verbatim() {
        let reply = read(&["250-mx.example", "250-SIZE 100", "250 OK"]).unwrap().unwrap();
        assert_eq!(reply.code(), 250);
        assert_eq!(reply.as_wire(), b"250-mx.example\r\n250-SIZE 100\r\n250 OK\r\n");
        assert_eq!(reply.texts().collect::<Vec<_>>(), [&b"mx.example"[..], b"SIZE 100", b"OK"]);
        assert_eq!(read(&["250"]).unwrap().unwrap().as_wire(), b"250 \r\n");
        assert_eq!(read(&["250-more"]).unwrap(), None);
    }

    #[test]
    fn nonsense_is_no_reply() {
        let cases: [(&[&str], ReplyError); 7] = [
            (&["hello"], ReplyError::Syntax),
            (&["25 OK"], ReplyError::Syntax),
            (&["250x"], ReplyError::Syntax),
            (&["999 no"], ReplyError::Syntax),
            (&["100 no"], ReplyError::Syntax),
            (&[""], ReplyError::Syntax),
            (&["250-a", "550 b"], ReplyError::MixedCodes),
        ];
        for (lines, error) in cases {
            assert_eq!(read(lines), Err(error), "{lines:?}");
        }
        assert_eq!(read(&vec!["250-x"; 300]), Err(ReplyError::TooLong));
    }
}
