//! Makes text of peers fit for a terminal and for a reader's eyes.

/// `octets` as text without control characters, escape sequences or characters that reorder what stands beside them:
/// letters, digits and printable ASCII stand as they are, everything else is escaped, and so is the backslash.
pub fn escaped(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for chunk in octets.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                ' '..='~' => text.push(c),
                // No letter and no digit is a control or a formatting character.
                _ if c.is_alphanumeric() => text.push(c),
                _ => text.extend(c.escape_default()),
            }
        }
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

/// The first `most` octets, escaped, and how many there are in all if there are more.
pub fn escaped_start(octets: &[u8], most: usize) -> String {
    match octets.get(..most) {
        Some(start) if octets.len() > most => format!("{}... ({} octets)", escaped(start), octets.len()),
        _ => escaped(octets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_steer_a_terminal_or_deceive_an_eye() {
        let cases: &[(&[u8], &str)] = &[
            (b"v=spf1 ip4:192.0.2.0/24 \"x\" -all", "v=spf1 ip4:192.0.2.0/24 \"x\" -all"),
            (b"\x1b[31mred", "\\u{1b}[31mred"),
            (b"a\r\nb\0", "a\\r\\nb\\u{0}"),
            (b"c:\\new", "c:\\\\new"),
            ("J\u{f6}rg".as_bytes(), "J\u{f6}rg"),
            ("\u{202e}txt\u{9b}1m".as_bytes(), "\\u{202e}txt\\u{9b}1m"),
            (b"\xff\xc3", "\\xff\\xc3"),
        ];
        for (octets, expected) in cases {
            assert_eq!(escaped(octets), *expected);
        }
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(escaped_start(b"abc", 3), "abc");
        assert_eq!(escaped_start(b"abc", 2), "ab... (3 octets)");
        assert_eq!(escaped_start("ö".as_bytes(), 1), "\\xc3... (2 octets)");
    }
}
