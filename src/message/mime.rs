//! Header fields with parameters, as MIME has them: Content-Type and Content-Disposition (RFC 2045 §5.1, RFC 2183 §2).
//!
//! The only reader of such fields, so that what is shown, redacted or believed does not depend on the caller. It is
//! lenient with what real mail has (comments anywhere, white space around `=`), and skips what is no parameter. A
//! parameter in pieces or with a character set (RFC 2231) keeps the name that it has on the wire (`filename*0*`).
//! Pure.

use crate::message::header::HeaderSection;

/// The value of a field: a word and its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MimeField {
    /// What stands before the parameters (`text/plain`), lower case; empty if nothing does.
    pub value: String,
    /// Names, lower case, and values, without quotes and escapes, in their order; at most [`MAX_PARAMETERS`].
    pub parameters: Vec<(String, Vec<u8>)>,
}

impl MimeField {
    /// Reads the first field of a name in a section; empty if there is none.
    pub fn first(section: &HeaderSection, name: &str) -> Self {
        section.named(name).next().map(|field| Self::parse(field.value)).unwrap_or_default()
    }

    /// Reads the value of a field, folded or not.
    pub fn parse(value: &[u8]) -> Self {
        let mut pieces = Pieces { rest: value };
        let first = pieces.next().unwrap_or_default();
        let lower = |octets: &[u8]| String::from_utf8_lossy(octets.trim_ascii()).to_ascii_lowercase();
        let pairs = pieces.take(MAX_PARAMETERS).filter_map(|piece| {
            let equals = memchr::memchr(b'=', &piece)?;
            let (name, value) = piece.split_at(equals);
            Some((lower(name), value.get(1..)?.trim_ascii().to_vec()))
        });
        Self { value: lower(&first), parameters: pairs.collect() }
    }

    /// The first parameter of a name, which is given in lower case.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// Whether the type is one of several parts (RFC 2046 §5.1).
    pub fn is_multipart(&self) -> bool {
        self.value.starts_with("multipart/")
    }

    /// What stands between the parts of a multipart; none if it has no usable boundary.
    pub fn boundary(&self) -> Option<&[u8]> {
        let boundary = self.parameter("boundary").filter(|_| self.is_multipart())?;
        (1..=MAX_BOUNDARY).contains(&boundary.len()).then_some(boundary)
    }
}

/// What stands between semicolons, without quotes, escapes and comments.
struct Pieces<'a> {
    rest: &'a [u8],
}

impl Iterator for Pieces<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.rest.is_empty() {
            return None;
        }
        let (mut piece, mut quoted, mut comment) = (Vec::new(), false, 0_usize);
        let mut octets = self.rest.iter();
        while let Some(&octet) = octets.next() {
            match octet {
                b'\\' if quoted || comment > 0 => {
                    let escaped = octets.next();
                    piece.extend(escaped.filter(|_| comment == 0));
                }
                b'"' if comment == 0 => quoted = !quoted,
                b'(' if !quoted => comment += 1,
                b')' if !quoted => comment = comment.saturating_sub(1),
                b';' if !quoted && comment == 0 => break,
                b'\r' | b'\n' => {}
                _ if comment == 0 => piece.push(octet),
                _ => {}
            }
        }
        self.rest = octets.as_slice();
        Some(piece)
    }
}

/// Octets of a boundary (RFC 2046 §5.1.1).
const MAX_BOUNDARY: usize = 70;
/// Parameters of one field that are read: few have more than three.
pub const MAX_PARAMETERS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_all_that_real_mail_has() {
        let cases: &[(&str, &str, &[(&str, &str)])] = &[
            ("", "", &[]),
            (" \r\n", "", &[]),
            (" Text/PLAIN\r\n", "text/plain", &[]),
            (" multipart/mixed;\r\n\tBoundary=\"a b\"\r\n", "multipart/mixed", &[("boundary", "a b")]),
            (" a/b; x = y ; ; z; c=\"d;\\\"e\"", "a/b", &[("x", "y"), ("c", "d;\"e")]),
            (" (c;\\)d) a/b (e (f)); (g) x=y (h)", "a/b", &[("x", "y")]),
            (" a/b; x=\"(no comment)\"", "a/b", &[("x", "(no comment)")]),
            (" a/b; filename*0*=utf-8''x; filename*1=y", "a/b", &[("filename*0*", "utf-8''x"), ("filename*1", "y")]),
            (" a/b; x=\"never closed; y=z", "a/b", &[("x", "never closed; y=z")]),
            (";;;", "", &[]),
        ];
        for (text, value, parameters) in cases {
            let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
            let expected = MimeField { value: (*value).to_owned(), parameters: parameters.collect() };
            assert_eq!(MimeField::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn the_first_field_and_the_first_parameter_count() {
        let section = HeaderSection::parse(b"X: a/b\r\nx: c/d\r\n\r\n".to_vec());
        assert_eq!(MimeField::first(&section, "X").value, "a/b");
        assert_eq!(MimeField::first(&section, "Y"), MimeField::default());
        assert_eq!(MimeField::parse(b"a/b; x=1; X=2").parameter("x"), Some(&b"1"[..]));
        let many = format!("a/b{}; last=1", "; x=1".repeat(MAX_PARAMETERS));
        assert_eq!(MimeField::parse(many.as_bytes()).parameter("last"), None);
    }

    #[test]
    fn boundaries() {
        let long = format!("multipart/mixed; boundary={}", "b".repeat(MAX_BOUNDARY + 1));
        let cases = [
            ("multipart/mixed; boundary=b", Some("b")),
            ("multipart/mixed; x-boundary=a; boundary=\"b\"", Some("b")),
            ("multipart/mixed; x=\"boundary=a\"; boundary=b", Some("b")),
            ("multipart/mixed; (boundary=a) boundary = b", Some("b")),
            ("multipart/mixed; boundary*=us-ascii''b", None),
            ("multipart/mixed; boundary=\"\"", None),
            ("multipart/mixed", None),
            ("text/plain; boundary=b", None),
            (&*long, None),
            (&long[..long.len() - 1], Some(&long[long.len() - MAX_BOUNDARY..])),
        ];
        for (text, expected) in cases {
            assert_eq!(MimeField::parse(text.as_bytes()).boundary(), expected.map(str::as_bytes), "{text}");
        }
    }
}
