//! The texts of encoded words (RFC 2047).

use crate::message::base64;

/// The octets of an encoded word, by its encoding and its encoded text; none if they can't be read.
pub(crate) fn decode(encoding: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    match encoding {
        b"B" | b"b" => base64::decode(text),
        b"Q" | b"q" => quoted_printable(text),
        _ => None,
    }
}

fn quoted_printable(text: &[u8]) -> Option<Vec<u8>> {
    let mut runs = text.split(|b| *b == b'=');
    let mut out = runs.next()?.to_vec();
    for run in runs {
        let (digits, rest) = run.split_at_checked(2)?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        out.extend_from_slice(rest);
    }
    Some(out)
}
