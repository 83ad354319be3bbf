//! Splits the tag lists of RFC 6376 §3.2, which signatures, seals and key records are.

use std::ops::Range;

/// The tags of one list, in their order.
#[derive(Debug)]
pub(in crate::evaluation) struct TagList<'a> {
    text: &'a [u8],
    tags: Vec<Tag<'a>>,
}

/// One tag.
#[derive(Debug)]
struct Tag<'a> {
    name: &'a [u8],
    /// Without white space at its ends.
    value: &'a [u8],
    /// Where the value stands in the list, with the white space around it.
    range: Range<usize>,
}

impl<'a> TagList<'a> {
    /// Splits a list; `None` where its syntax is broken or a tag stands in it twice. Empty places between semicolons
    /// are overlooked: they are against the grammar, do no harm and occur in key records.
    pub(in crate::evaluation) fn parse(text: &'a [u8]) -> Option<Self> {
        if !has_sound_folding(text) || !has_sound_characters(text) {
            return None;
        }
        let mut tags: Vec<Tag<'a>> = Vec::with_capacity(USUAL_TAGS);
        let mut start = 0;
        for spec in text.split(|b| *b == b';') {
            let end = start + spec.len();
            if !spec.trim_ascii().is_empty() {
                let equals = spec.iter().position(|b| *b == b'=')?;
                let name = spec.get(..equals)?.trim_ascii();
                let value = spec.get(equals + 1..)?;
                let is_new = tags.iter().all(|tag| tag.name != name);
                if tags.len() == MAX_TAGS || !is_new || !is_tag_name(name) {
                    return None;
                }
                tags.push(Tag { name, value: value.trim_ascii(), range: start + equals + 1..end });
            }
            start = end + 1;
        }
        Some(Self { text, tags })
    }

    /// The value of a tag, without white space at its ends. Names are case-sensitive.
    pub(in crate::evaluation) fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.tag(name).map(|tag| tag.value)
    }

    /// The value of a tag without any white space.
    pub(in crate::evaluation) fn squeezed(&self, name: &str) -> Option<Vec<u8>> {
        self.get(name).map(without_white_space)
    }

    /// The value of a tag as text without any white space.
    pub(in crate::evaluation) fn text(&self, name: &str) -> Option<String> {
        self.squeezed(name).and_then(|value| String::from_utf8(value).ok())
    }

    /// The name of the first tag.
    pub(in crate::evaluation) fn first(&self) -> Option<&'a [u8]> {
        self.tags.first().map(|tag| tag.name)
    }

    /// The list with the value of one tag, and the white space around it, taken out.
    pub(in crate::evaluation) fn without_value(&self, name: &str) -> Vec<u8> {
        let gap = self.tag(name).map_or(0..0, |tag| tag.range.clone());
        let head = self.text.get(..gap.start).unwrap_or_default();
        let tail = self.text.get(gap.end..).unwrap_or_default();
        [head, tail].concat()
    }

    fn tag(&self, name: &str) -> Option<&Tag<'a>> {
        self.tags.iter().find(|tag| tag.name == name.as_bytes())
    }
}

/// The names of a list divided by colons, without the white space around them (RFC 6376 §3.5 on `h=`, `q=`; §3.6.1).
pub(in crate::evaluation) fn colon_list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b':').map(<[u8]>::trim_ascii)
}

/// White space may stand anywhere in base64 (RFC 6376 §3.5), as it may not in a name or a word.
pub(in crate::evaluation) fn without_white_space(value: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(value.len());
    value.split(u8::is_ascii_whitespace).for_each(|run| kept.extend_from_slice(run));
    kept
}

/// Tags in one list; RFC 6376 defines 14 for a signature.
const MAX_TAGS: usize = 64;
/// Tags that most lists have room for.
const USUAL_TAGS: usize = 14;

/// A CR that is no part of a line end is neither white space nor a character of a value.
fn has_sound_folding(text: &[u8]) -> bool {
    let mut crs = memchr::memchr_iter(b'\r', text);
    crs.all(|at| text.get(at + 1) == Some(&b'\n'))
}

fn is_tag_name(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_alphabetic) && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// Printable characters and white space, and octets beyond ASCII (RFC 8616 §3).
fn has_sound_characters(text: &[u8]) -> bool {
    // Without a way out of the loop, the compiler looks at many octets at once.
    text.iter().fold(true, |sound, b| sound & !(b.is_ascii_control() & !matches!(b, b'\t' | b'\r' | b'\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_at_semicolons() {
        let text = b" v=1; b = YW\r\n\tJj ;bh=;\r\n h=a : b=c;";
        let list = TagList::parse(text).unwrap();
        assert_eq!(list.first(), Some(b"v".as_slice()));
        assert_eq!(list.get("v"), Some(b"1".as_slice()));
        assert_eq!(list.squeezed("b"), Some(b"YWJj".to_vec()));
        assert_eq!(list.get("bh"), Some(b"".as_slice()));
        assert_eq!(list.get("V"), None);
        let names: Vec<_> = colon_list(list.get("h").unwrap()).collect();
        assert_eq!(names, [b"a".as_slice(), b"b=c"]);
        assert_eq!(list.without_value("b"), b" v=1; b =;bh=;\r\n h=a : b=c;");
        assert_eq!(list.without_value("x"), text);
    }

    #[test]
    fn broken_lists_are_refused() {
        let many: String = (0..65).map(|i| format!("a{i}=;")).collect();
        let cases: [(&str, &[u8], bool); 13] = [
            ("empty", b"", true),
            ("empty places", b";; v=1;;", true),
            ("no equals sign", b"v=1; b", false),
            ("no name", b"v=1; =x", false),
            ("name begins with a digit", b"1v=1", false),
            ("space in the name", b"a b=1", false),
            ("twice", b"v=1; d=a; d=b", false),
            ("case tells names apart", b"v=1; d=a; D=b", true),
            ("control character", b"v=1\0", false),
            ("bare CR", b"v=1;\rb=2", false),
            ("form feed", b"v=1;\x0cb=2", false),
            ("UTF-8", "d=bücher.example".as_bytes(), true),
            ("too many", many.as_bytes(), false),
        ];
        for (name, text, sound) in cases {
            assert_eq!(TagList::parse(text).is_some(), sound, "{name}");
        }
    }
}
