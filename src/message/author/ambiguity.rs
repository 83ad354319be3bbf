//! Finds fields that show a stranger's address beside the author's where readers go different ways.
//!
//! The two readers agree on such a field, but others may not: one that knows no comments, or that takes brackets for a
//! domain literal, an encoded word for a token or a comma for a separator wherever it stands, finds an address that is
//! hidden to them. Each such spot is harmless in itself, and honest mail has them. So is an address in a display name.
//! It is both at once that honest mail hardly has, and that shows one author to us and another to the reader.

use super::lenient::{is_ascii_compatible, is_utf8};
use crate::domain::Domain;
use crate::message::encoded_word;

/// Whether an address of none of `domains`, the authors', stands in an unfolded value along with a spot that readers
/// take apart differently. `own` are the places of the authors' at signs, ascending.
pub(super) fn hides_address(value: &[u8], own: &[usize], domains: &[Domain]) -> bool {
    names_stranger(&shown(value, own), domains)
        && (has_doubtful_spot(value, domains) || is_group_of_stranger(value, domains))
}

/// Whether an at sign in `text` stands before anything else than one of `domains`, where that may be a domain: `@ Company`
/// and `@handle` are none. What can't be read may be anything. A name below one of them is a stranger's, too: the
/// author's may be `co.uk`, or a domain without the policy that the one below has.
fn names_stranger(text: &[u8], domains: &[Domain]) -> bool {
    text.contains(&UNREADABLE)
        || text.split(|b| *b == b'@').skip(1).any(|rest| {
            let rest = rest.trim_ascii_start();
            let end = rest.iter().position(|b| !is_name(*b)).unwrap_or(rest.len());
            let (name, behind) = rest.split_at_checked(end).unwrap_or_default();
            // With a dot behind white space, quotes or comments the domain may go on.
            let goes_on = matches!(behind.iter().find(|b| !b" \t\"'\\>)],;".contains(b)), Some(b'.' | b'('));
            let Some(text) = std::str::from_utf8(name).ok().filter(|name| !name.is_empty()) else {
                return !name.is_empty() || goes_on || behind.starts_with(b"[") || behind.starts_with(b"\"");
            };
            match Domain::parse(text) {
                // A name without a dot is no domain of mail.
                Ok(domain) => goes_on || !domains.contains(&domain) && domain.label_count() > 1,
                Err(_) => goes_on || text.trim_matches('.').contains('.'),
            }
        })
}

/// The value with its encoded words decoded, [`UNREADABLE`] for each that can't be, and NUL for the authors' at signs.
fn shown(value: &[u8], own: &[usize]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let (mut at, mut word_end) = (0, None);
    while let Some(rest) = value.get(at..)
        && let Some(first) = rest.first()
    {
        let Some(word) = EncodedWord::parse(rest) else {
            out.push(if own.binary_search(&at).is_ok() { 0 } else { *first });
            at += 1;
            continue;
        };
        // White space between two encoded words is not shown (RFC 2047 §6.2).
        if let Some(end) = word_end
            && out.get(end..).is_some_and(|between: &[u8]| between.trim_ascii().is_empty())
        {
            out.truncate(end);
        }
        at += word.length;
        out.extend(word.decode(value.get(at..).unwrap_or_default()));
        word_end = Some(out.len());
    }
    out
}

/// Where in a field an octet stands.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Outside,
    Quotes,
    Comment,
    /// Square brackets outside of quotes and comments.
    Brackets,
}

/// Whether there is a spot at which readers go different ways: a backslash outside of quotes or last in them, a comment
/// with specials (commas count only beside a stranger's address in it) or within an address or behind a colon, quotes
/// or a comment in an element of the list without an address, brackets that hold more than words or don't match, text
/// close to quotes, an encoded word with specials or unfinished.
fn has_doubtful_spot(value: &[u8], domains: &[Domain]) -> bool {
    Scan { value, domains, at: 0, word_end: 0, is_hidden: false, has_address: false }.field().is_err()
}

/// Looks for doubtful spots from left to right.
struct Scan<'a> {
    value: &'a [u8],
    domains: &'a [Domain],
    /// Where the next octet stands.
    at: usize,
    /// Where the last encoded word ends.
    word_end: usize,
    /// Whether the element of the list has quotes or a comment so far.
    is_hidden: bool,
    /// Whether it has an at sign outside of them.
    has_address: bool,
}

/// Readers go different ways here.
struct Doubtful;

impl Scan<'_> {
    /// The whole field.
    fn field(mut self) -> Result<(), Doubtful> {
        while let Some(b) = self.next(Place::Outside)? {
            match b {
                b'\\' | b']' | b')' => return Err(Doubtful),
                b'"' => self.quotes()?,
                b'(' => self.comment()?,
                b'[' => self.brackets()?,
                b',' | b';' => self.end_element()?,
                b'@' => self.has_address = true,
                _ => {}
            }
        }
        self.end_element()
    }

    /// From behind the opening quote to behind the closing one.
    fn quotes(&mut self) -> Result<(), Doubtful> {
        self.is_hidden = true;
        let before = self.value.get(..self.at - 1).and_then(<[u8]>::last);
        doubtful_if(before.is_some_and(|b| !b" \t<.@,;:".contains(b)))?;
        loop {
            match self.inside(Place::Quotes)? {
                // Some take the backslash before the last quote for one that escapes it.
                b'\\' => {
                    let escaped = self.inside(Place::Quotes)?;
                    doubtful_if(escaped == b'\\' && self.behind() == b'"')?;
                }
                b'"' => return doubtful_if(!b" \t<.@,;>".contains(&self.behind())),
                _ => {}
            }
        }
    }

    /// From behind the opening parenthesis to behind the closing one.
    fn comment(&mut self) -> Result<(), Doubtful> {
        self.is_hidden = true;
        let start = self.at;
        let before = self.value.get(..start - 1).unwrap_or_default();
        doubtful_if(before.iter().rfind(|b| !b" \t".contains(b)).is_some_and(|b| b".@:".contains(b)))?;
        let mut separates = false;
        loop {
            match self.inside(Place::Comment)? {
                b')' => {
                    doubtful_if(b".@".contains(&self.behind()))?;
                    let is_of_stranger = || is_of_stranger(self.value.get(start..self.at), self.domains);
                    return doubtful_if(separates && is_of_stranger());
                }
                b'"' | b'[' | b']' | b'(' | b'\\' | b'<' | b'>' => return Err(Doubtful),
                b',' | b';' => separates = true,
                _ => {}
            }
        }
    }

    /// From behind the opening bracket to behind the closing one.
    fn brackets(&mut self) -> Result<(), Doubtful> {
        loop {
            match self.inside(Place::Brackets)? {
                b']' => return Ok(()),
                b => doubtful_if(b"\"[()\\<>,;".contains(&b))?,
            }
        }
    }

    /// At the end of an element of the list.
    fn end_element(&mut self) -> Result<(), Doubtful> {
        doubtful_if(self.is_hidden && !self.has_address)?;
        (self.is_hidden, self.has_address) = (false, false);
        Ok(())
    }

    /// The next octet of something that has to be closed.
    fn inside(&mut self, place: Place) -> Result<u8, Doubtful> {
        self.next(place)?.ok_or(Doubtful)
    }

    /// The next octet; none at the end.
    fn next(&mut self, place: Place) -> Result<Option<u8>, Doubtful> {
        let rest = self.value.get(self.at..).unwrap_or_default();
        if self.at >= self.word_end && rest.starts_with(b"=?") {
            let word = EncodedWord::parse(rest).filter(|word| !word.is_doubtful(place)).ok_or(Doubtful)?;
            self.word_end = self.at + word.length;
        }
        self.at += 1;
        Ok(rest.first().copied())
    }

    /// The octet behind the last one; white space at the end.
    fn behind(&self) -> u8 {
        self.value.get(self.at).copied().unwrap_or(b' ')
    }
}

fn doubtful_if(is: bool) -> Result<(), Doubtful> {
    if is { Err(Doubtful) } else { Ok(()) }
}

fn is_of_stranger(part: Option<&[u8]>, domains: &[Domain]) -> bool {
    part.is_some_and(|part| names_stranger(&shown(part, &[]), domains))
}

/// Whether the name of a group holds a stranger's address.
fn is_group_of_stranger(value: &[u8], domains: &[Domain]) -> bool {
    let (mut place, mut escaped, mut angle, mut start) = (Place::Outside, false, false, 0);
    for (at, b) in value.iter().enumerate() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (place, b) {
            (_, b'\\') => escaped = true,
            (Place::Outside, b'"') => place = Place::Quotes,
            (Place::Outside, b'(') => place = Place::Comment,
            (Place::Quotes, b'"') | (Place::Comment, b')') => place = Place::Outside,
            (Place::Outside, b'<' | b'>') => angle = *b == b'<',
            (Place::Outside, b',' | b';') => start = at,
            (Place::Outside, b':') if !angle => {
                if is_of_stranger(value.get(start..at), domains) {
                    return true;
                }
                start = at;
            }
            _ => {}
        }
    }
    false
}

/// An encoded word (RFC 2047 §2), in quotes and comments as well, and with white space in its text as sloppy software
/// writes it.
struct EncodedWord<'a> {
    charset: &'a [u8],
    encoding: &'a [u8],
    text: &'a [u8],
    /// Octets of the whole.
    length: usize,
}

impl<'a> EncodedWord<'a> {
    /// The one that `rest` begins with.
    fn parse(rest: &'a [u8]) -> Option<Self> {
        let mut parts = rest.strip_prefix(b"=?")?.splitn(4, |b| *b == b'?');
        let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
        let is_charset = charset.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:+*".contains(b));
        let is_whole = is_charset && parts.next()?.starts_with(b"=") && matches!(encoding, [b'b' | b'B' | b'q' | b'Q']);
        let length = b"=????=".len() + charset.len() + encoding.len() + text.len();
        is_whole.then_some(Self { charset, encoding, text, length })
    }

    /// Whether its text has what means something else where it is no encoded word. A comment that begins and ends in it
    /// does not.
    fn is_doubtful(&self, place: Place) -> bool {
        let specials: &[u8] = if place == Place::Quotes { b"\"\\" } else { b"\"<>[]\\,;:" };
        let mut open = Some(0_usize);
        for b in self.text {
            open = match b {
                b'(' => open.map(|open| open + 1),
                b')' => open.and_then(|open| open.checked_sub(1)),
                _ => open,
            };
        }
        self.text.iter().any(|b| specials.contains(b)) || place != Place::Quotes && open != Some(0)
    }

    /// Its text, [`UNREADABLE`] if it can't be read; what is not encoded as it should be stays. Where an at sign is the
    /// second octet of a character, as it may be in Shift_JIS, Big5, GBK and ISO-2022, it stays only if it looks like
    /// one all the same. `behind` is what follows the word.
    fn decode(&self, behind: &[u8]) -> Vec<u8> {
        let is_quoted = matches!(self.encoding, [b'q' | b'Q']);
        let text =
            encoded_word::decode(self.encoding, self.text).or_else(|| is_quoted.then(|| as_far_as_it_goes(self.text)));
        let Some(mut text) = text.filter(|_| is_ascii_compatible(self.charset)) else {
            return vec![UNREADABLE];
        };
        let goes_on = behind.first().is_some_and(|b| is_name(*b)) || behind.trim_ascii_start().starts_with(b"=?");
        let (mut pairs, mut before) = (false, 0);
        for at in 0..if is_utf8(self.charset) { 0 } else { text.len() } {
            let (Some(b), rest) = (text.get(at).copied(), text.get(at + 1..).unwrap_or_default()) else { break };
            match (b, rest.first()) {
                (ESCAPE, Some(next)) => pairs = *next == b'$',
                (b'@', next)
                    if (pairs || before >= 0x80) && !(begins_as_domain(rest) && (next.is_some() || goes_on)) =>
                {
                    text.get_mut(at).into_iter().for_each(|b| *b = b'?');
                }
                _ => {}
            }
            before = b;
        }
        text
    }
}

/// The text of the Q encoding, where some of it is not encoded.
fn as_far_as_it_goes(text: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, behind)) = rest.split_first() {
        let escape = rest.split_at_checked(3).filter(|_| *first == b'=');
        let decoded = escape.and_then(|(escape, behind)| Some((encoded_word::decode(b"Q", escape)?, behind)));
        let (octets, next) = decoded.unwrap_or_else(|| (vec![*first], behind));
        out.extend(octets);
        rest = next;
    }
    out
}

/// Whether a run of letters and digits goes up to a dot or to the end.
fn begins_as_domain(text: &[u8]) -> bool {
    let end = text.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'-');
    end.is_none_or(|end| text.get(end) == Some(&b'.') && end > 0)
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._".contains(&b) || !b.is_ascii()
}

/// Stands for an encoded word that can't be read: no octet of a field (control characters have no place in From).
const UNREADABLE: u8 = 1;
/// Begins the sequences by which ISO-2022 switches between character sets.
const ESCAPE: u8 = 0x1b;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::author::UnusableFrom::{self, Disagreement};
    use crate::message::author::read_value;

    /// Whether the field is usable, with `a.example` for its domain.
    fn read(value: &[u8]) -> Result<(), UnusableFrom> {
        let mailboxes = read_value(value)?;
        assert_eq!(mailboxes.domains, [Domain::parse("a.example").unwrap()], "{}", value.escape_ascii());
        Ok(())
    }

    #[test]
    fn a_strangers_address_beside_a_doubtful_spot_is_a_disagreement() {
        let cases: [(&str, &[u8]); 46] = [
            ("quotes that hide the end of a comment", br#"Boss (a "(" ) <ceo@v.example> ) <x@a.example>"#),
            ("the same below the author's domain", br#"Boss (a "(" ) <ceo@v.a.example> ) <x@a.example>"#),
            ("the same below a public suffix", br#"Boss (a "(" ) <ceo@v.example> ) <x@example>"#),
            ("brackets that hide the start of one", b"Boss [ (] <ceo@v.example> ) <x@a.example>"),
            ("a quote in an encoded word", br#"=?utf-8?q?"?=<ceo@v.example>" <x@a.example>"#),
            ("an escaped quote, one in a comment", br#"Boss \"<x@a.example> (" ceo@v.example ")"#),
            ("the same with commas", br#"\"<x@a.example>(", ceo@v.example, ")"#),
            ("a backslash after an encoded address", br"=?utf-8?q?ceo=40v.example?=\ <x@a.example>"),
            ("the same in base64", br"=?utf-8?b?Y2VvQHYuZXhhbXBsZQ==?=\ <x@a.example>"),
            ("split over two words", br"=?utf-8?q?ceo=40v?= =?utf-8?q?.example?=\ <x@a.example>"),
            ("in a charset of pairs", br"=?big5?q?ceo=40v.example?=\ <x@a.example>"),
            ("behind an octet of a pair", br"=?big5?q?ceo=A4=40v.example?=\ <x@a.example>"),
            ("last in such a word", br"=?big5?q?ceo=A4=40?=v.example\ <x@a.example>"),
            ("within pairs", br"=?iso-2022-jp?q?=1B$Bceo=40v.example?=\ <x@a.example>"),
            ("unreadable", br"=?utf-7?q?ceo+AEA-v.example?=\ <x@a.example>"),
            (
                "an encoded word that begins outside",
                b"Boss =? <x@a.example> (<c@v.example> <x@a.example> =?utf-8?q?x?=)",
            ),
            ("quotes in brackets", br#"[",ceo@v.example"] <x@a.example>"#),
            ("a bracket after quotes", br#""ceo@v.example"] <x@a.example>"#),
            ("brackets never closed", br#""ceo@v.example" [x <x@a.example>"#),
            ("a comment in brackets", br#"[(ceo@v.example)] <x@a.example>"#),
            ("name of a group, quoted", br#""ceo@v.example":<x@a.example>"#),
            ("name of a group, encoded", b"=?utf-8?q?ceo=40v.example?=:<x@a.example>"),
            ("name of a group, unreadable", b"=?utf-7?q?ceo?=: x@a.example;"),
            ("name of a second group", br#"Team: x@a.example; "ceo@v.example": x@a.example;"#),
            ("a comment in the local part", br#"(ceo@v.example) x(")@a.example"#),
            ("a comment alone", b"x@a.example, (ceo@v.example)"),
            ("a comment alone, first", b"(ceo@v.example), x@a.example"),
            ("a comment of a bare phrase", b"Boss (ceo@v.example), <x@a.example>"),
            ("quotes alone", br#""(ceo@v.example@",<x@a.example>"#),
            ("a comment within an address", b"(ceo@v.example) x(c)@a.example"),
            ("a comment within a domain", b"(ceo@v.example) x@a. (c) example"),
            ("a comment behind a colon", b"Team: (ceo@v.example) x@a.example"),
            ("a comma in a comment", b"x@a.example (a, ceo@v.example, b)"),
            ("a semicolon in a comment", b"x@a.example (a; ceo@v.example)"),
            ("a comment in a comment", b"((c)ceo@v.example)x@a.example"),
            ("an escape in a comment", br"x@a.example (\) ceo@v.example)"),
            ("a literal in a comment", b"x@a.example ([ceo@v.example)"),
            ("a quote in a comment", br#"x@a.example (" ceo@v.example)"#),
            ("a closing bracket", br#"Boss) "ceo@v.example" <x@a.example>"#),
            ("text close before quotes", br#"Boss"ceo@v.example" <x@a.example>"#),
            ("text close behind quotes", br#""ceo@v.example"Boss <x@a.example>"#),
            ("quotes close to quotes", br#""ceo@v.example""" <x@a.example>"#),
            ("a comment close to quotes", br#""ceo@v.example"(c) <x@a.example>"#),
            ("an escaped backslash last in quotes", br#""ceo@v.example\\" <x@a.example>"#),
            ("an at sign of ours in a domain that goes on", br#"[",x@a.example .v.example"] <x@a.example>"#),
            ("the same after a comment", br#"[",x@a.example(c).v.example"] <x@a.example>"#),
        ];
        for (name, value) in cases {
            assert_eq!(read(value), Err(Disagreement), "{name}");
        }
    }

    #[test]
    fn honest_fields_have_one_of_both_at_most() {
        let cases: [(&str, &[u8]); 68] = [
            // A stranger's address.
            ("in quotes", br#""ceo@b.example" <x@a.example>"#),
            ("by a list", br#""ceo@b.example via List" <list@a.example>"#),
            ("Google Groups", br#""'ceo@b.example' via Team" <team@a.example>"#),
            ("close to the angle", br#""ceo@b.example"<x@a.example>"#),
            ("with angles", br#""Ceo <ceo@b.example>" <x@a.example>"#),
            ("with brackets", br#""Ceo [ceo@b.example] (Sales)" <x@a.example>"#),
            ("with commas", br#""Doe, John, john@b.example" <x@a.example>"#),
            ("with quotes", br#""John \"john@b.example\" Doe" <x@a.example>"#),
            ("with a login", br#""B\\john (john@b.example)" <x@a.example>"#),
            ("with a colon", br#""From: ceo@b.example" <x@a.example>"#),
            ("before another string", br#""ceo@b.example" "via" List <list@a.example>"#),
            ("with a comment behind it", br#""ceo@b.example" (Sales) <x@a.example>"#),
            ("with brackets behind it", br#""ceo@b.example" [EXT] <x@a.example>"#),
            ("with brackets before it", br#"[EXT] "ceo@b.example" <x@a.example>"#),
            ("in apostrophes in quotes", br#""'ceo@b.example'" <x@a.example>"#),
            ("without quotes", b"ceo@b.example <x@a.example>"),
            ("without quotes, by a list", b"ceo@b.example via List <list@a.example>"),
            ("in brackets", b"Ceo [ceo@b.example] <x@a.example>"),
            ("in a comment", b"x@a.example (ceo@b.example)"),
            ("in a comment, with words", b"x@a.example (for: ceo@b.example via List)"),
            ("in a comment after the angle", b"List <x@a.example> (ceo@b.example)"),
            ("in a comment before it", b"Ceo (ceo@b.example) <x@a.example>"),
            ("in a comment first", b"(ceo@b.example) x@a.example"),
            ("a handle", b"John Doe (@john) <gitlab@a.example>"),
            ("a handle in quotes", br#""John (@john)" <gitlab@a.example>"#),
            ("encoded", b"=?UTF-8?Q?ceo=40b=2Eexample?= <x@a.example>"),
            ("encoded in base64", b"=?UTF-8?B?Y2VvQGIuZXhhbXBsZQ==?= <x@a.example>"),
            ("encoded with more", b"=?UTF-8?Q?J=C3=B6rg_=28j=40b=2Eexample=29?= =?utf-8?q?via_List?= <x@a.example>"),
            ("encoded by half", b"=?UTF-8?Q?J=C3=B6rg_j@b.example_via_List?= <x@a.example>"),
            ("encoded in quotes", br#""=?UTF-8?Q?M=C3=BCller,_J_(j@b.example)?=" <x@a.example>"#),
            ("encoded in a comment", b"x@a.example (=?UTF-8?Q?ceo=40b=2Eexample?=)"),
            ("encoded with white space in it", b"=?UTF-8?Q?J=C3=B6rg j=40b.example?= <x@a.example>"),
            ("of two addresses", br#""ceo@b.example" <x@a.example>, "cto@b.example" <y@a.example>"#),
            ("in a group", br#"Team: "ceo@b.example" <x@a.example>;"#),
            ("a charset as some write it", b"=?utf8?Q?J=C3=B6rg_M=C3=BCller_(ACME)?= <x@a.example>"),
            ("the same beside a comment", b"=?utf8?B?SsO2cmc=?= (ABC Co., Ltd.) <x@a.example>"),
            ("what is not encoded", b"=?UTF-8?Q?J=C3=B6rg_=_(ACME)?= <x@a.example>"),
            ("an escape cut off", b"=?UTF-8?Q?100%_=3D_J=C3=B6rg_=F?= (Acme, Inc.) <x@a.example>"),
            ("a name whose last octet is an at sign", b"=?big5?B?pP2kQA==?= (ABC Co., Ltd.) <x@a.example>"),
            ("a company", b"x@a.example (John Doe @ Acme, Inc.)"),
            ("a handle beside quotes", br#"J.R. "Bob" Dobbs, Jr. (@bob) <x@a.example>"#),
            ("a handle behind brackets", b"[JIRA: ABC] John (@john) <x@a.example>"),
            ("a handle encoded", b"=?UTF-8?Q?J=C3=B6rg_(@joerg)?= <x@a.example>"),
            ("a smiley and a handle", b"John :) @home <x@a.example>"),
            ("a company without a blank", "M\u{fc}ller@Acme (DE, AT) <x@a.example>".as_bytes()),
            ("as Outlook copies it", b"Boss [mailto:boss@b.example] <x@a.example>"),
            ("beside a comment with a comma", b"support@b.example on behalf of Bob (ABC, Inc.) <x@a.example>"),
            ("in an encoded comment", b"=?windows-1251?Q?=C8=E2=E0=ED_(ivan@b.example)?= <x@a.example>"),
            ("behind brackets with a colon", b"[Re: x] john@b.example <x@a.example>"),
            ("below the author's", b"Sales | x@mail.a.example (ABC Co., Ltd.) <x@a.example>"),
            ("without a dot", b"John@work (A, B) <x@a.example>"),
            ("Notes", br#"[EXT] <"John Doe/ORG@ORGNET"@a.example>"#),
            // A doubtful spot.
            ("comment with a comma", b"x@a.example (Doe, John)"),
            ("comment in a comment", b"x@a.example (John (Johnny) Doe)"),
            ("comment with quotes", br#"x@a.example (John "Johnny" Doe)"#),
            ("comment with an escape", br"x@a.example (John \(Johnny\) Doe)"),
            ("comment alone", b"x@a.example, (and nobody else)"),
            ("encoded with specials", b"=?UTF-8?Q?M=C3=BCller,_J_(EXT)?= <x@a.example>"),
            ("encoded word cut off", b"=?UTF-8?Q?M=C3=BCll <x@a.example>"),
            ("encoded group", b"=?UTF-8?Q?B=C3=BCro?=: <x@a.example>;"),
            ("Big5 with specials and an octet of an at sign", br"=?big5?Q?=A4@=AF\=A4[?= <x@a.example>"),
            ("ISO-2022-JP with one", br"\ =?iso-2022-jp?q?=1B$B=40=3E=1B=28B?= <x@a.example>"),
            ("smiley", b"John :) <x@a.example>"),
            // Both, but the address is the author's.
            ("of the author in a comment", b"x@a.example (John, x@a.example)"),
            ("of the author in brackets", br#"["x@a.example"] <x@a.example>"#),
            ("of the author in escaped quotes", br#"\"x@a.example\" <x@a.example>"#),
            ("of the author, encoded", b"=?utf-8?q?John_(x=40a=2Eexample)?= <x@a.example>"),
            ("of the author, by name of a group", br#""x@a.example": x@a.example;"#),
        ];
        for (name, value) in cases {
            assert_eq!(read(value), Ok(()), "{name}");
        }
    }
}
