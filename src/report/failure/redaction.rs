//! Hides the local parts of addresses (RFC 6590): always by the same text for the same local part, so that a reader can
//! tell that two messages concern one user, but not which user without the key.

use aws_lc_rs::hmac;

use crate::hex::hex;

/// Replaces local parts.
#[derive(Clone)]
pub struct Redaction(hmac::Key);

impl Redaction {
    /// With a key of the site's own (RFC 6590 §3).
    pub fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The text with the local part of each address in it replaced. What looks like a part of one is: `name=user@host`
    /// may be a reverse-path that names another address.
    pub fn apply(&self, text: &str) -> String {
        self.replaced(text, |_| 0)
    }

    /// As [`Redaction::apply`], in a list of tags or properties (`i=user@host`), whose names stay.
    pub fn apply_to_tags(&self, text: &str) -> String {
        self.replaced(text, |local_part| {
            let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'.');
            local_part.split_once('=').map_or(0, |(name, _)| if is_name(name) { name.len() + 1 } else { 0 })
        })
    }

    /// `kept` says how many octets of what precedes an at sign belong to something else.
    fn replaced(&self, text: &str, kept: impl Fn(&str) -> usize) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('@') {
            let (before, after) = rest.split_at(at);
            let (other, local_part) = before.split_at(start_of_local_part(before));
            let (name, local_part) = local_part.split_at(kept(local_part));
            out.push_str(other);
            out.push_str(name);
            if !local_part.is_empty() {
                let code = hmac::sign(&self.0, local_part.as_bytes());
                out.push_str(&hex(code.as_ref().iter().take(REDACTED_OCTETS)));
            }
            out.push('@');
            rest = after.get(1..).unwrap_or_default();
        }
        out.push_str(rest);
        out
    }
}

/// Where the local part begins that a text ends with: a quoted string, or all that may stand in one without quotes.
fn start_of_local_part(text: &str) -> usize {
    let is_local = |c: &char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(*c);
    match text.strip_suffix('"') {
        Some(quoted) => quoted.rfind('"').unwrap_or(0),
        None => text.len() - text.chars().rev().take_while(is_local).map(char::len_utf8).sum::<usize>(),
    }
}

/// Octets of the code that stands for a local part: nobody can find two with the same code.
const REDACTED_OCTETS: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_parts_are_hidden_and_comparable() {
        let redaction = Redaction::new(b"site key");
        let hidden = |text: &str| redaction.apply(text);
        let joe = hidden("joe@a.example");
        assert!(joe.ends_with("@a.example") && !joe.contains("joe") && joe.len() == "@a.example".len() + 20, "{joe}");
        let code = joe.strip_suffix("@a.example").unwrap();
        assert_eq!(
            hidden("To: <joe@a.example>, joe@b.example (x)"),
            format!("To: <{code}@a.example>, {code}@b.example (x)")
        );
        for text in ["\"j o e\"@a.example", "<\"j\r\n joe\"@a.example>", "l+joe=a.example@b.example", "j\u{f6}joe@b"] {
            assert!(!hidden(text).contains("jo") && !hidden(text).contains("o e"), "{text}: {}", hidden(text));
        }
        for text in ["@ nobody", "no address", "(@a.example)", ""] {
            assert_eq!(hidden(text), text);
        }
        assert_ne!(Redaction::new(b"another").apply("joe@a.example"), joe);
    }

    #[test]
    fn names_of_tags_stay() {
        let redaction = Redaction::new(b"site key");
        let code = redaction.apply("joe@").replace('@', "");
        assert_eq!(redaction.apply_to_tags("d=a.example; i=joe@a.example"), format!("d=a.example; i={code}@a.example"));
        assert_eq!(redaction.apply_to_tags("header.i=@a.example"), "header.i=@a.example");
        assert!(!redaction.apply("i=joe@a.example").contains("i="));
    }
}
