//! Hexadecimal digits, as names, keys and fingerprints are written. Leaf.

use std::fmt::Write as _;

/// Two lower-case digits for each octet.
pub fn hex<'a>(octets: impl IntoIterator<Item = &'a u8>) -> String {
    let octets = octets.into_iter();
    let mut text = String::with_capacity(2 * octets.size_hint().0);
    for octet in octets {
        // Writing to a string does not fail.
        let _ = write!(text, "{octet:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_for_each_octet() {
        assert_eq!(hex(&[]), "");
        assert_eq!(hex(&[0, 10, 255]), "000aff");
        assert_eq!(hex([1, 2, 3].iter().take(2)), "0102");
    }
}
