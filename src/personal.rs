//! Takes local parts of mail addresses, and login names, out of lines that are ready to be written.
//!
//! It looks at text, not at meaning: whatever comes before an `@`, in any field of any line, so that no event can be
//! forgotten. Message-IDs, which have the same form, go with it. Domains stay.

use std::borrow::Cow;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};

use crate::label_enum;

label_enum! {
    /// What becomes of local parts.
    pub enum PersonalData {
        /// They stay.
        Full = "full",
        /// A code stands in place of each: the same for the same one as long as the process lives.
        Hash = "hash",
        /// `-` stands in place of each.
        Drop = "drop",
    }
}

/// Makes the codes, with a key that nobody else has and that ends with the process.
pub struct Redactor(Key);

impl Redactor {
    /// With a new key.
    pub fn new() -> Self {
        Self(Key::new(HMAC_SHA256, &rand::random::<[u8; 32]>()))
    }

    /// The line without local parts and login names.
    pub fn redact<'a>(&self, line: &'a str, personal_data: PersonalData) -> Cow<'a, str> {
        let replacement: &dyn Fn(&str) -> String = match personal_data {
            PersonalData::Full => return Cow::Borrowed(line),
            PersonalData::Hash => &|part| self.code(part),
            PersonalData::Drop => &|_| "-".to_owned(),
        };
        let without = without_local_parts(line, replacement);
        match without_logins(&without, replacement) {
            Cow::Borrowed(_) => without,
            Cow::Owned(text) => Cow::Owned(text),
        }
    }

    #[expect(clippy::indexing_slicing, reason = "an octet modulo 32 is an index into 32 digits")]
    fn code(&self, part: &str) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let tag = sign(&self.0, part.to_ascii_lowercase().as_bytes());
        tag.as_ref().iter().take(CODE).map(|octet| char::from(DIGITS[usize::from(octet % 32)])).collect()
    }
}

impl Default for Redactor {
    fn default() -> Self {
        Self::new()
    }
}

/// Replaces what stands before each `@` as a local part can (RFC 5321 §4.1.2), quoted or not.
fn without_local_parts<'a>(line: &'a str, replacement: &dyn Fn(&str) -> String) -> Cow<'a, str> {
    // From the end: a quoted local part may hold another at sign.
    let (mut parts, mut rest) = (Vec::new(), line);
    while let Some((before, _)) = rest.rsplit_once('@') {
        let start = local_part(before);
        parts.push(start..before.len());
        rest = before.get(..start).unwrap_or_default();
    }
    if parts.is_empty() {
        return Cow::Borrowed(line);
    }
    let (mut out, mut done) = (String::with_capacity(line.len()), 0);
    for part in parts.into_iter().rev() {
        out.push_str(line.get(done..part.start).unwrap_or_default());
        out.push_str(&line.get(part.clone()).filter(|part| !part.is_empty()).map(replacement).unwrap_or_default());
        done = part.end;
    }
    out.push_str(line.get(done..).unwrap_or_default());
    Cow::Owned(out)
}

/// Where the local part begins at the end of `text`. Quotation marks are escaped in the values of lines (`\"`), which
/// is how those of a local part are told from those around a value.
fn local_part(text: &str) -> usize {
    if let Some(inner) = text.strip_suffix("\\\"") {
        let near = inner.floor_char_boundary(inner.len().saturating_sub(MAX_QUOTED));
        // A bare quotation mark is an end of the value.
        let mut bare = inner.rmatch_indices('"').map(|(at, _)| at).take_while(|at| *at >= near);
        let begin = bare.find(|at| !is_escaped(inner, *at)).map_or(near, |at| at + 1);
        // An escaped quotation mark inside of it is `\\\"`: three characters of escape and one more.
        let mut openings = inner.get(begin..).unwrap_or_default().rmatch_indices("\\\"").map(|(at, _)| begin + at);
        return openings.find(|at| !is_escaped(inner, *at)).unwrap_or(text.len());
    }
    let ends = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"!#$%&'*+-/=?^_`{|}~.".contains(c);
    // A field of a line for people: `name=value` without quotation marks.
    let start = text.rfind(ends).map_or(0, |at| at + 1);
    let part = text.get(start..).unwrap_or_default();
    let is_field = |name: &str| start == 0 || text.get(..start).is_some_and(|t| t.ends_with(' ')) && is_name(name);
    let name = part.split_once('=').filter(|(name, _)| is_field(name));
    start + name.map_or(0, |(name, _)| name.len() + 1)
}

/// Whether what is at this place of `text` stands behind a backslash.
fn is_escaped(text: &str, at: usize) -> bool {
    text.get(..at).is_some_and(|before| before.ends_with('\\'))
}

/// Whether it is the name of a field.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Replaces the value of the field `login`, in both forms of lines.
fn without_logins<'a>(line: &'a str, replacement: &dyn Fn(&str) -> String) -> Cow<'a, str> {
    for key in [" login=\"", "\"login\":\""] {
        let Some((before, rest)) = line.split_once(key) else { continue };
        let end = rest.match_indices('"').map(|(at, _)| at).find(|at| !is_escaped(rest, *at));
        if let Some((name, after)) = end.and_then(|at| rest.split_at_checked(at)).filter(|(name, _)| !name.is_empty()) {
            return Cow::Owned(format!("{before}{key}{}{after}", replacement(name)));
        }
    }
    Cow::Borrowed(line)
}

/// Octets of a quoted local part in a line: more than SMTP has room for (RFC 5321 §4.5.3.1.3), escapes included.
const MAX_QUOTED: usize = 1024;
/// Characters of a code: two of a million users share one only by a chance of one in a thousand.
const CODE: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_parts_and_logins_go_and_all_else_stays() {
        let cases = [
            (
                r#"INFO message reverse_path="<a.b+c@x.example>" size=1"#,
                r#"INFO message reverse_path="<-@x.example>" size=1"#,
            ),
            (r#"recipients="<a@x.example> <b@y.example>""#, r#"recipients="<-@x.example> <-@y.example>""#),
            (r#"{"reverse_path":"<\"a b\"@x.example>","n":1}"#, r#"{"reverse_path":"<-@x.example>","n":1}"#),
            (r#"{"reverse_path":"<\"a\\\"b\"@x.example>"}"#, r#"{"reverse_path":"<-@x.example>"}"#),
            (r#"reverse_path="<\"q@r\"@x.example>" n=1"#, r#"reverse_path="<-@x.example>" n=1"#),
            (r#"one="say \"hi" two="b\"@x.example""#, r#"one="say \"hi" two="b\"@x.example""#),
            ("a@b@c.example", "-@-@c.example"),
            ("INFO report to=jo@x.example ok", "INFO report to=-@x.example ok"),
            ("refused: <jörg@x.example> unknown", "refused: <-@x.example> unknown"),
            (r#"reverse_path="<>" reply="250 ok""#, r#"reverse_path="<>" reply="250 ok""#),
            ("spf=pass @ x", "spf=pass @ x"),
            (
                r#"INFO login session="1" login="jo" mechanism="PLAIN""#,
                r#"INFO login session="1" login="-" mechanism="PLAIN""#,
            ),
            (r#"{"message":"login","login":"jo","n":1}"#, r#"{"message":"login","login":"-","n":1}"#),
            (r#"{"message":"login","login":"","n":1}"#, r#"{"message":"login","login":"","n":1}"#),
        ];
        let redactor = Redactor::new();
        for (line, expected) in cases {
            assert_eq!(redactor.redact(line, PersonalData::Drop), expected);
            assert_eq!(redactor.redact(line, PersonalData::Full), line);
        }
    }

    #[test]
    fn a_code_is_the_same_for_the_same_one_of_one_process_alone() {
        let redactor = Redactor::new();
        let code = |redactor: &Redactor, line: &str| redactor.redact(line, PersonalData::Hash).into_owned();
        let one = code(&redactor, "<jo@x.example>");
        assert_eq!(one.len(), CODE + "<@x.example>".len());
        assert!(!one.contains("jo@"), "{one}");
        assert_eq!(code(&redactor, "<Jo@x.example>"), one, "case tells nobody apart");
        assert_ne!(code(&redactor, "<joe@x.example>"), one);
        assert_ne!(code(&Redactor::new(), "<jo@x.example>"), one);
    }
}
