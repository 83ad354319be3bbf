//! Base64 (RFC 4648 §4): reads it as signatures, key records and encoded words have it, and writes it.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Encodes octets, with padding.
pub(crate) fn encode(octets: &[u8]) -> String {
    ENGINE.encode(octets)
}

/// Decodes base64 without white space; padding may be missing, since the grammar of RFC 6376 §2.10 lets it, and the bits
/// that are left over may be set.
///
/// Anything else that is not base64 makes it `None`, so that no two readers of it can differ.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    // Half a padding is none; the engine would take it.
    let is_half_padded = text.ends_with(b"=") && !text.len().is_multiple_of(4);
    if is_half_padded { None } else { ENGINE.decode(text).ok() }
}

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_strictly_but_for_padding() {
        let cases: [(&str, Option<&[u8]>); 22] = [
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
            ("Zh", Some(b"f")),
            ("Zh==", Some(b"f")),
            ("Zm9=", Some(b"fo")),
            ("=", None),
            ("==", None),
            ("====", None),
            ("Zg==Zg==", None),
            ("Zm9v====", None),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn base64_is_written_with_padding() {
        for (octets, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(encode(octets.as_bytes()), expected);
        }
    }
}
