//! Finds what may be a report among the parts of a message (RFC 2045, RFC 2046, RFC 2183). Pure.
//!
//! Own code, since libraries build a tree of all parts, and a hostile message decides how large and how deep that is:
//! mail-parser 0.11.9 overflows its stack, and takes the process with it, on 300 KiB of nested `message/rfc822`. Here
//! only the few parts that are wanted are kept, each as a whole. The message is scanned once for each level.

use crate::message::base64;
use crate::message::header::HeaderSection;
use crate::message::mime::MimeField;
use crate::report::inbound::Refusal;

/// The octets of each part that may be a report, in their order.
///
/// # Errors
///
/// There is none, or the message exceeds the bounds of this module; a part whose encoding is broken is an error if no
/// other part can be read.
pub fn candidates(message: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut search = Search::default();
    search.entity(message, 0)?;
    match (search.found.is_empty(), search.broken) {
        (false, _) => Ok(search.found),
        (true, true) => Err(Refusal::TransferEncoding),
        (true, false) => Err(Refusal::NoReport),
    }
}

#[derive(Default)]
struct Search {
    found: Vec<Vec<u8>>,
    /// Whether a candidate could not be decoded.
    broken: bool,
    /// Parts seen, the multiparts themselves included.
    parts: usize,
}

/// What the header section of a part says.
struct Part {
    content_type: MimeField,
    /// Whether a file name in it is one that reports have.
    named_as_report: bool,
    encoding: Encoding,
}

/// How the octets of a part are written (RFC 2045 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// As they are.
    Identity,
    Base64,
    QuotedPrintable,
}

impl Search {
    /// Looks at a message or a part of one: a header section and a body.
    fn entity(&mut self, octets: &[u8], depth: usize) -> Result<(), Refusal> {
        self.parts += 1;
        if self.parts > MAX_PARTS || depth > MAX_DEPTH {
            return Err(Refusal::Structure);
        }
        let (head, body) = split(octets);
        let part = Part::read(head)?;
        if let Some(boundary) = part.content_type.boundary() {
            return each_part(body, boundary, |octets| self.entity(octets, depth + 1));
        }
        if !part.is_candidate() || self.found.len() >= MAX_CANDIDATES {
            return Ok(());
        }
        match part.encoding.decode(body) {
            Some(octets) => self.found.push(octets),
            None => self.broken = true,
        }
        Ok(())
    }
}

impl Part {
    fn read(head: &[u8]) -> Result<Self, Refusal> {
        if head.len() > MAX_HEAD {
            return Err(Refusal::Structure);
        }
        let section = HeaderSection::parse(head.to_vec());
        let content_type = MimeField::first(&section, "Content-Type");
        let disposition = MimeField::first(&section, "Content-Disposition");
        let mut parameters = content_type.parameters.iter().chain(&disposition.parameters);
        let named_as_report = parameters.any(|(name, value)| is_report_name(name, value));
        let encoding = MimeField::first(&section, "Content-Transfer-Encoding");
        Ok(Self {
            content_type,
            named_as_report,
            encoding: match encoding.value.as_str() {
                "base64" => Encoding::Base64,
                "quoted-printable" => Encoding::QuotedPrintable,
                _ => Encoding::Identity,
            },
        })
    }

    /// Reporters disagree on the type: a file with the name of a report counts as one, whatever its type.
    fn is_candidate(&self) -> bool {
        TYPES.contains(&self.content_type.value.as_str()) || self.named_as_report
    }
}

impl Encoding {
    /// The octets; none if the text can't be read. White space, and in base64 all that stands behind the padding, is
    /// passed over.
    fn decode(self, body: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Identity => Some(body.to_vec()),
            Self::Base64 => {
                let mut text: Vec<u8> = body.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
                if let Some(padding) = memchr::memchr(b'=', &text) {
                    text.truncate(padding);
                }
                base64::decode(&text)
            }
            Self::QuotedPrintable => Some(quoted_printable(body)),
        }
    }
}

/// Leniently, as RFC 2045 §6.7 allows: what is no escape stands for itself.
fn quoted_printable(body: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(body.len());
    for line in body.split_inclusive(|b| *b == b'\n') {
        let text = line.trim_ascii_end();
        let (text, is_soft) = text.strip_suffix(b"=").map_or((text, false), |text| (text, true));
        let mut at = 0;
        while let Some(octet) = text.get(at) {
            match (octet, digit(text.get(at + 1)), digit(text.get(at + 2))) {
                (b'=', Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    at += 3;
                }
                _ => {
                    out.push(*octet);
                    at += 1;
                }
            }
        }
        if !is_soft && line.ends_with(b"\n") {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

/// The header section, through its last line, and the body behind the empty line.
fn split(octets: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    for line in octets.split_inclusive(|b| *b == b'\n') {
        if matches!(line, b"\r\n" | b"\n") {
            let (head, rest) = octets.split_at(start);
            return (head, rest.get(line.len()..).unwrap_or_default());
        }
        start += line.len();
        if start > MAX_HEAD {
            break;
        }
    }
    (octets, b"")
}

/// Calls `each` with the octets of each part between the lines of the boundary (RFC 2046 §5.1.1). A part without a
/// closing line ends with the body.
fn each_part(body: &[u8], boundary: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let mut part = None;
    let mut at = 0;
    for line in body.split_inclusive(|b| *b == b'\n') {
        let next = at + line.len();
        if let Some(rest) = line.strip_prefix(b"--").and_then(|line| line.strip_prefix(boundary)) {
            let rest = rest.trim_ascii_end();
            if rest.is_empty() || rest == b"--" {
                if let Some(start) = part.take() {
                    each(body.get(start..at).unwrap_or_default())?;
                }
                if rest == b"--" {
                    return Ok(());
                }
                part = Some(next);
            }
        }
        at = next;
    }
    part.map_or(Ok(()), |start| each(body.get(start..).unwrap_or_default()))
}

/// Whether a parameter is a file name that reports have. A name in pieces or with a character set (RFC 2231) has its
/// end in one of the pieces, which is all that counts.
fn is_report_name(name: &str, value: &[u8]) -> bool {
    let is_name = name == "name" || name.starts_with("name*") || name.starts_with("filename");
    let value = value.to_ascii_lowercase();
    is_name && SUFFIXES.iter().any(|suffix| value.ends_with(suffix.as_bytes()))
}

/// Types that reports come as (RFC 9990 §3.5.2 has the first two), `application/octet-stream` only with a name.
const TYPES: &[&str] = &[
    "application/gzip",
    "text/xml",
    "application/xml",
    "application/x-gzip",
    "application/zip",
    "application/x-zip",
    "application/x-zip-compressed",
];
/// What names of reports end with.
const SUFFIXES: &[&str] = &[".xml", ".xml.gz", ".gz", ".zip"];
/// Parts of a message: a report has one beside a text or two.
const MAX_PARTS: usize = 64;
/// Nested multiparts: two are in use.
const MAX_DEPTH: usize = 5;
/// Parts that are tried as a report: one is in use.
const MAX_CANDIDATES: usize = 4;
/// Octets of a header section: that of the message is bounded by `limits.header_size`, too.
const MAX_HEAD: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn found(message: &str) -> Result<Vec<String>, Refusal> {
        let found = candidates(message.replace('\n', "\r\n").as_bytes())?;
        Ok(found.into_iter().map(|octets| String::from_utf8(octets).unwrap()).collect())
    }

    #[test]
    fn parts_that_may_be_reports_are_found() {
        let whole = |head: &str, body: &str| format!("Subject: x\n{head}\n\n{body}");
        let mixed = |part: &str| {
            whole(
                "Content-Type: multipart/mixed; boundary=\"b 1\"",
                &format!("preamble\n--b 1\nContent-Type: text/plain\n\nhello\n--b 1\n{part}\n--b 1--\nepilogue\n"),
            )
        };
        let cases: &[(&str, String, Result<&[&str], Refusal>)] = &[
            ("the message itself", whole("Content-Type: application/zip", "PK"), Ok(&["PK"])),
            (
                "base64 in lines",
                whole("Content-Type: application/gzip\nContent-Transfer-Encoding: BASE64", "Zm9v\nYmE=\n"),
                Ok(&["fooba"]),
            ),
            (
                "text behind the padding",
                whole("Content-Type: text/xml\nContent-Transfer-Encoding: base64", "Zm9vYg==\n--\nsent by\n"),
                Ok(&["foob"]),
            ),
            (
                "quoted-printable",
                whole("Content-Type: text/xml\nContent-Transfer-Encoding: quoted-printable", "<a =\nb=3D=zz>  \n=3c"),
                Ok(&["<a b==zz>\r\n<"]),
            ),
            ("an attachment", mixed("Content-Type: application/xml\n\n<x>"), Ok(&["<x>\r\n"])),
            (
                "by the name alone",
                mixed("Content-Type: application/octet-stream;\n NAME=\"a!b!1!2.XML.GZ\"\n\ngz"),
                Ok(&["gz\r\n"]),
            ),
            (
                "by the name of the disposition, encoded",
                mixed(
                    "Content-Type: x/y\nContent-Disposition: attachment; filename*0*=utf-8''a; filename*1*=b.zip\n\nz",
                ),
                Ok(&["z\r\n"]),
            ),
            ("octets without a name", mixed("Content-Type: application/octet-stream\n\ngz"), Err(Refusal::NoReport)),
            (
                "a multipart in it",
                mixed("Content-Type: multipart/related; boundary=c\n\n--c\nContent-Type: text/xml\n\n<y>\n--c--"),
                Ok(&["<y>\r\n"]),
            ),
            (
                "cut off",
                whole("Content-Type: multipart/mixed; boundary=b", "--b\nContent-Type: text/xml\n\n<z"),
                Ok(&["<z"]),
            ),
            (
                "a boundary that begins like another",
                whole("Content-Type: multipart/mixed; boundary=b", "--b\nContent-Type: text/xml\n\n--bc\n--b--\n"),
                Ok(&["--bc\r\n"]),
            ),
            (
                "comments and quotes",
                whole("Content-Type: (a;\\)b) text/xml (c); charset=\"x;y\"; name=\"a\\\"b\"", "<w>"),
                Ok(&["<w>"]),
            ),
            (
                "no base64",
                whole("Content-Type: text/xml\nContent-Transfer-Encoding: base64", "!!!"),
                Err(Refusal::TransferEncoding),
            ),
            ("a letter", whole("Content-Type: text/plain", "hello"), Err(Refusal::NoReport)),
            ("nothing", String::new(), Err(Refusal::NoReport)),
        ];
        for (name, message, expected) in cases {
            let expected = expected.map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(found(message), expected, "{name}");
        }
    }

    #[test]
    fn what_is_too_deep_or_has_too_many_parts_is_left_alone() {
        let mut nested = "Content-Type: text/xml\n\n<x>".to_owned();
        for level in 0..=MAX_DEPTH {
            nested =
                format!("Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n{nested}\n--b{level}--\n");
        }
        assert_eq!(found(&nested), Err(Refusal::Structure));
        let many = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(MAX_PARTS));
        assert_eq!(found(&many), Err(Refusal::Structure));
        let reports =
            format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\nContent-Type: text/xml\n\nx\n".repeat(9));
        assert_eq!(found(&reports).unwrap().len(), MAX_CANDIDATES);
        assert_eq!(found(&"x".repeat(MAX_HEAD + 1)), Err(Refusal::Structure), "all header section");
        let messages = "Content-Type: message/rfc822\n\n".repeat(100_000);
        assert_eq!(found(&messages), Err(Refusal::NoReport), "messages in messages are not looked into");
    }
}
