//! Puts together the octets that a signature signs in the header section (RFC 6376 §3.4.1, §3.4.2, §3.7).

use std::cmp::Ordering;

use crate::message::body_hash::Canonicalization;
use crate::message::header::{Field, HeaderSection};

/// The fields of a header section by name, built once for all the signatures of a message.
pub(in crate::evaluation) struct FieldIndex<'a> {
    fields: Vec<Field<'a>>,
    /// Places in `fields`, in the order of the names in lower case; those of one name from the top down.
    by_name: Vec<usize>,
}

impl<'a> FieldIndex<'a> {
    pub(in crate::evaluation) fn new(section: &'a HeaderSection) -> Self {
        let fields: Vec<_> = section.fields().collect();
        let mut by_name: Vec<usize> = (0..fields.len()).collect();
        // Stable: places of one name stay in their order.
        by_name.sort_by(|a, b| match (fields.get(*a), fields.get(*b)) {
            (Some(a), Some(b)) => in_lower_case(a.name, b.name),
            _ => Ordering::Equal,
        });
        Self { fields, by_name }
    }

    /// The field at a place of [`HeaderSection::fields`].
    pub(in crate::evaluation) fn at(&self, place: usize) -> Option<Field<'a>> {
        self.fields.get(place).copied()
    }

    /// Writes the fields that `h=` names: each mention takes the next field of that name from the bottom up, and none
    /// if there is no more (RFC 6376 §5.4.2). The signature's own field is never among them (§3.5 on `h=`).
    pub(in crate::evaluation) fn write_signed<'n>(
        &self,
        names: impl Iterator<Item = &'n [u8]>,
        own: usize,
        canonicalization: Canonicalization,
        out: &mut Vec<u8>,
    ) {
        // How many of the fields of one name are taken, at the place of the first of them in `by_name`.
        let mut taken = vec![0; self.by_name.len()];
        for name in names {
            let (start, places) = self.places(name);
            let Some(taken) = taken.get_mut(start) else { continue };
            let mut left = places.iter().rev().skip(*taken);
            let next = left.by_ref().inspect(|_| *taken += 1).find(|place| **place != own);
            if let Some(field) = next.and_then(|place| self.at(*place)) {
                write_field(field, canonicalization, out);
            }
        }
    }

    /// Which of `singles` stands more often than `h=` names it, though it is named: what stands on top of the signed
    /// field is unsigned, and readers may show it in its place (RFC 6376 §8.15). A copy that says the same is harmless.
    pub(in crate::evaluation) fn unsigned_twin<'n, 's, N: Iterator<Item = &'n [u8]>>(
        &self,
        names: impl Fn() -> N,
        singles: &'s [Single],
    ) -> Option<&'s Single> {
        singles.iter().find(|single| {
            let (_, places) = self.places(single.name.as_bytes());
            // Hardly ever is there more than one, and then nothing is to be counted.
            if places.len() < 2 {
                return false;
            }
            let signed = names().filter(|name| name.eq_ignore_ascii_case(single.name.as_bytes())).count();
            let Some((unsigned, signed)) = places.split_at_checked(places.len().saturating_sub(signed)) else {
                return false;
            };
            let said = |place: &usize| {
                let mut out = Vec::new();
                self.at(*place).into_iter().for_each(|field| write_relaxed(field.name, field.value, &mut out));
                out
            };
            signed.first().map(said).is_some_and(|signed| unsigned.iter().any(|place| said(place) != signed))
        })
    }

    /// The places of the fields of one name from the top down, and where in `by_name` they begin.
    fn places(&self, name: &[u8]) -> (usize, &[usize]) {
        let order = |place: &usize| self.at(*place).map_or(Ordering::Less, |field| in_lower_case(field.name, name));
        let start = self.by_name.partition_point(|place| order(place).is_lt());
        let rest = self.by_name.get(start..).unwrap_or_default();
        (start, rest.get(..rest.partition_point(|place| order(place).is_eq())).unwrap_or_default())
    }
}

/// A field that a message has once at most, and what is said where it stands again beside a signed one.
pub(in crate::evaluation) struct Single {
    pub(in crate::evaluation) name: &'static str,
    pub(in crate::evaluation) again: &'static str,
}

fn in_lower_case(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}

/// Writes one field with its final line end.
pub(in crate::evaluation) fn write_field(field: Field<'_>, canonicalization: Canonicalization, out: &mut Vec<u8>) {
    match canonicalization {
        Canonicalization::Simple => out.extend_from_slice(without_line_end(field.raw)),
        Canonicalization::Relaxed => write_relaxed(field.name, field.value, out),
    }
    // The last line of a content may lack its end; it has one once it is relayed.
    out.extend_from_slice(b"\r\n");
}

/// Writes the field of the signature itself: `value` is its value with an empty `b=`, and no line end follows
/// (RFC 6376 §3.7).
pub(in crate::evaluation) fn write_own(
    field: Field<'_>,
    value: &[u8],
    canonicalization: Canonicalization,
    out: &mut Vec<u8>,
) {
    match canonicalization {
        Canonicalization::Simple => {
            // Name, white space and colon as they are.
            let head = field.raw.len().saturating_sub(field.value.len());
            out.extend_from_slice(field.raw.get(..head).unwrap_or_default());
            out.extend_from_slice(without_line_end(value));
        }
        Canonicalization::Relaxed => write_relaxed(field.name, value, out),
    }
}

/// Name in lower case, colon, and the value on one line with single spaces for white space, none at its ends.
fn write_relaxed(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let value = without_line_end(value);
    let mut words = 0;
    // A line end that is not the last one is folding, and white space follows it.
    for word in value.split(|b| matches!(b, b' ' | b'\t')) {
        let start = out.len();
        if words > 0 {
            out.push(b' ');
        }
        let before = out.len();
        push_unfolded(word, out);
        if out.len() == before {
            out.truncate(start);
        } else {
            words += 1;
        }
    }
}

/// Copies a word without the line ends in it.
fn push_unfolded(mut word: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\n', word) {
        let (line, rest) = word.split_at(at);
        out.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        word = rest.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(word);
}

fn without_line_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\r\n").or_else(|| text.strip_suffix(b"\n")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Canonicalization::{Relaxed, Simple};

    fn canonical(text: &str, canonicalization: Canonicalization) -> String {
        let section = HeaderSection::parse(text.as_bytes().to_vec());
        let mut out = Vec::new();
        section.fields().for_each(|field| write_field(field, canonicalization, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_are_canonicalized_to_the_letter() {
        let cases = [
            ("RFC 6376 §3.4.5", "A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n", "a:X\r\nb:Y Z\r\n"),
            ("empty value", "A:\r\n\r\n", "a:\r\n"),
            ("white space value", "A: \t \r\n\r\n", "a:\r\n"),
            ("folded at once", "A:\r\n x\r\n\r\n", "a:x\r\n"),
            ("folded white space lines", "A: x\r\n \r\n\ty\r\n\r\n", "a:x y\r\n"),
            ("no line end", "A: x", "a:x\r\n"),
            ("bare CR stays", "A: x\ry\r\n\r\n", "a:x\ry\r\n"),
            ("bare CR before white space stays", "A: x\r y\r\n\r\n", "a:x\r y\r\n"),
            ("colons in the value", "A:b:c\r\n\r\n", "a:b:c\r\n"),
            ("UTF-8", "A: \u{e4}\u{a0}\r\n\r\n", "a:\u{e4}\u{a0}\r\n"),
        ];
        for (name, text, relaxed) in cases {
            assert_eq!(canonical(text, Relaxed), relaxed, "{name}");
        }
        assert_eq!(canonical("A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n", Simple), "A: X\r\nB : Y\t\r\n\tZ  \r\n");
        assert_eq!(canonical("A: x", Simple), "A: x\r\n");
    }

    #[test]
    fn fields_are_taken_from_the_bottom_up() {
        let section = HeaderSection::parse(b"S: own\r\nA: 1\r\nB: 2\r\na: 3\r\nA: 4\r\nS: 5\r\n\r\n".to_vec());
        let index = FieldIndex::new(&section);
        let cases = [
            ("one", "a", "A: 4\r\n"),
            ("two", "a b a", "A: 4\r\nB: 2\r\na: 3\r\n"),
            ("more than there are", "a a a a", "A: 4\r\na: 3\r\nA: 1\r\n"),
            ("none", "x x", ""),
            ("never its own", "s s s", "S: 5\r\n"),
        ];
        for (name, names, expected) in cases {
            let mut out = Vec::new();
            index.write_signed(names.split(' ').map(str::as_bytes), 0, Simple, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{name}");
        }
    }
}
