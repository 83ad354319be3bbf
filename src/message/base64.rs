//! Base64 (RFC 4648 §4): reads it as signatures, key records and encoded words have it, and writes it.

/// Encodes octets, with padding.
pub(crate) fn encode(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * place) & 63).unwrap_or_default();
            let letter = ALPHABET.get(digit).filter(|_| place <= group.len());
            text.push(letter.copied().map_or('=', char::from));
        }
    }
    text
}

/// Decodes base64 without white space; padding may be missing, since the grammar of RFC 6376 §2.10 lets it.
///
/// Anything else that is not base64 makes it `None`, so that no two readers of it can differ.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let data = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let padding = text.len() - data.len();
    if data.len() % 4 == 1 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut out = Vec::with_capacity(data.len() / 4 * 3 + 2);
    let (groups, rest) = data.as_chunks::<4>();
    for [a, b, c, d] in groups {
        let bits = value(*a)? << 18 | value(*b)? << 12 | value(*c)? << 6 | value(*d)?;
        let [_, octets @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&octets);
    }
    let mut bits = 0_u32;
    for letter in rest {
        bits = bits << 6 | value(*letter)?;
    }
    // Bits of a short group stand at its left end: 2 characters are one octet, 3 are two.
    bits <<= 6 * (4 - rest.len());
    let [_, octets @ ..] = bits.to_be_bytes();
    out.extend(octets.iter().take(rest.len().saturating_sub(1)));
    Some(out)
}

fn value(letter: u8) -> Option<u32> {
    let value = VALUES.get(usize::from(letter)).copied().unwrap_or(NO_LETTER);
    (value != NO_LETTER).then_some(u32::from(value))
}

/// The value of each letter.
#[expect(clippy::indexing_slicing, reason = "a constant: an index beyond the end would not compile")]
const VALUES: [u8; 256] = {
    let mut values = [NO_LETTER; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        values[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    values
};

const NO_LETTER: u8 = u8::MAX;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_strictly_but_for_padding() {
        let cases: [(&str, Option<&[u8]>); 14] = [
            ("", Some(b"")),
            ("Zg==", Some(b"f")),
            ("Zm8=", Some(b"fo")),
            ("Zm9v", Some(b"foo")),
            ("Zm9vYg==", Some(b"foob")),
            ("Zm9vYg", Some(b"foob")),
            ("Zm9vYmE", Some(b"fooba")),
            ("+/+/", Some(b"\xfb\xff\xbf")),
            ("Z", None),
            ("Zm9vY", None),
            ("Zg=", None),
            ("Z===", None),
            ("Zm 9", None),
            ("Zm-_", None),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
