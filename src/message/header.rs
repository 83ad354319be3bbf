//! Reads the header section of a message and says what of it goes on to the upstream.
//!
//! The octets stay as they came: a [`HeaderSection`] is an index over them, built in one pass. Evaluation reads the
//! message as received, and [`HeaderSection::relayed`] leaves out what [`HeaderSection::removals`] names, so that no
//! other octet is ever touched. Fields are read by RFC 5322 §2.2 and §3.6.8; what forged fields must not reach the
//! upstream is read leniently, since the reader behind us may be lenient too.
//!
//! A bare CR is an ordinary octet here, but goes on to the upstream as a space: wherever a space would matter to the
//! next reader, a bare CR is taken for one.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr2};

use crate::domain::{Domain, is_beyond_idna};

/// The header section of one message: its octets and where the fields in them stand.
///
/// The caller bounds its size; the index needs at most four times the octets of the section.
#[derive(Debug, Clone)]
pub struct HeaderSection {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    malformed_at: Option<usize>,
}

/// One header field, as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// All of its octets, name through final line end, with its continuation lines.
    pub raw: &'a [u8],
    /// The name as spelled, without the white space that obsolete syntax allows before the colon.
    pub name: &'a [u8],
    /// What follows the colon, with folding and the final line end.
    pub value: &'a [u8],
}

/// The authserv-ids whose `Authentication-Results` are ours alone to write, in the form in which they are compared.
#[derive(Debug, Clone, Default)]
pub struct AuthservIds(Vec<Box<str>>);

/// The parts of a header section that must not reach the upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removals(Vec<Range<usize>>);

impl HeaderSection {
    /// Indexes a header section: the octets up to and including the first empty line, or the whole content if it has
    /// none. Never fails: a line that is neither a field nor a continuation is kept and remembered.
    pub fn parse(bytes: Vec<u8>) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut malformed_at = None;
        let mut start = 0;
        while let Some(rest) = bytes.get(start..)
            && !rest.is_empty()
            && !is_empty_line(rest)
        {
            let (length, odd_continuation) = piece_length(rest);
            let end = start + length;
            let colon = field_colon(rest);
            if let Some(at) = if colon.is_none() { Some(0) } else { odd_continuation } {
                malformed_at.get_or_insert(start + at);
            }
            let colon = colon.map_or(NO_COLON, |at| offset(start + at));
            pieces.push(Piece { start: offset(start), colon, end: offset(end) });
            start = end;
        }
        Self { bytes, pieces, malformed_at }
    }

    /// All octets, as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The fields from the top down; lines that are no field are left out.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = Field<'_>> {
        self.pieces.iter().filter_map(|piece| self.field(piece))
    }

    /// The fields of one name, compared without regard to case (RFC 5322 §1.2.2), from the top down.
    pub fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = Field<'_>> {
        self.fields().filter(move |field| field.name.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// How many fields of one name there are.
    pub fn count(&self, name: &str) -> usize {
        self.named(name).count()
    }

    /// How many fields of one name a lenient reader might find: those of [`Self::count`], and lines that are no field
    /// but would be one if control characters, folding or octets beyond ASCII around the name were overlooked.
    pub fn lenient_count(&self, name: &str) -> usize {
        self.pieces.iter().filter(|piece| has_lenient_name(self.raw(piece), name)).count()
    }

    /// Where the first line stands that is neither a field nor a continuation by the grammar.
    pub fn malformed_line(&self) -> Option<usize> {
        self.malformed_at
    }

    /// Whether the first line would continue a field put before it: it begins with a space or a tab, or with a bare
    /// CR, which goes on as a space.
    pub fn begins_with_continuation(&self) -> bool {
        match self.bytes.as_slice() {
            [b' ' | b'\t', ..] => true,
            [b'\r', rest @ ..] => rest.first() != Some(&b'\n'),
            _ => false,
        }
    }

    /// Whether the message says that a mailing list sent it: List-Id (RFC 2919), List-Post (RFC 2369), or
    /// List-Unsubscribe beside `Precedence: list`. List-Unsubscribe alone is no sign, since bulk senders put it on
    /// direct mail (RFC 8058).
    pub fn is_mailing_list(&self) -> bool {
        let is_list = |field: Field<'_>| field.value.trim_ascii().eq_ignore_ascii_case(b"list");
        self.count("List-Id") > 0
            || self.count("List-Post") > 0
            || (self.count("List-Unsubscribe") > 0 && self.named("Precedence").any(is_list))
    }

    /// The identifier in List-Id, between its last angle brackets (RFC 2919 §3), if there is one such field and it is a
    /// name.
    pub fn list_id(&self) -> Option<Domain> {
        let mut fields = self.named("List-Id");
        let (field, None) = (fields.next()?, fields.next()) else { return None };
        let start = field.value.iter().rposition(|b| *b == b'<')? + 1;
        let rest = field.value.get(start..)?;
        let id = rest.get(..rest.iter().position(|b| *b == b'>')?)?;
        Domain::parse(std::str::from_utf8(id.trim_ascii()).ok()?).ok()
    }

    /// The value of the first field of a name as text, unfolded, with one space for each run of white space; empty if
    /// there is none.
    pub fn unfolded(&self, name: &str) -> String {
        let value = self.named(name).next().map_or(&b""[..], |field| field.value);
        String::from_utf8_lossy(value).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The value of the first Message-ID without surrounding white space, for the log: text of a peer, to be escaped.
    pub fn message_id(&self) -> Option<&[u8]> {
        self.named("Message-ID").next().map(|field| field.value.trim_ascii())
    }

    /// How many Received fields there are: each is a hop, and a loop shows in their number (RFC 5321 §6.3).
    pub fn received_count(&self) -> usize {
        self.count("Received")
    }

    /// What must not reach the upstream: every `X-DMARC-Fail-policy`, and every `Authentication-Results` that a lenient
    /// reader could take for one of `ids` or whose version nobody knows (RFC 8601 §5). A field without a readable id
    /// claims nobody and stays.
    pub fn removals(&self, ids: &AuthservIds) -> Removals {
        let forged_results = |value: &[u8]| ids.claimed_by(value) || has_unknown_version(value);
        let forged = |raw: &[u8]| {
            has_lenient_name(raw, FAIL_POLICY)
                || (has_lenient_name(raw, AUTHENTICATION_RESULTS) && forged_results(after_colon(raw)))
        };
        let ranges = self.pieces.iter().filter(|piece| forged(self.raw(piece))).map(Piece::range);
        Removals(ranges.collect())
    }

    /// The octets that go on to the upstream, in as few slices as there can be.
    pub fn relayed<'a>(&'a self, removals: &'a Removals) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(removals.0.iter().map(|range| range.end));
        let ends = removals.0.iter().map(|range| range.start).chain(std::iter::once(self.bytes.len()));
        starts.zip(ends).filter_map(|(start, end)| self.bytes.get(start..end)).filter(|slice| !slice.is_empty())
    }

    fn raw(&self, piece: &Piece) -> &[u8] {
        self.bytes.get(piece.range()).unwrap_or_default()
    }

    fn field(&self, piece: &Piece) -> Option<Field<'_>> {
        let raw = self.raw(piece);
        let colon = (piece.colon != NO_COLON).then(|| piece.colon.saturating_sub(piece.start))?;
        let (name, value) = raw.split_at_checked(colon as usize)?;
        Some(Field { raw, name: trim_end(name), value: value.get(1..).unwrap_or_default() })
    }
}

impl AuthservIds {
    /// The ids as configured: host names (U-labels and A-labels are the same) or other words.
    pub fn new(ids: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self(ids.into_iter().map(|id| comparable(id.as_ref())).collect())
    }

    /// Whether the value of an `Authentication-Results` field could be read as one of these ids speaking.
    fn claimed_by(&self, value: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        match plain_id(value).map(|(id, _)| id) {
            // Beyond ASCII there are spaces that some readers take off.
            Some(id) => self.contains(id) || (!id.is_ascii() && self.begins(value)),
            // Quotes, nested comments, control characters, an id with a slash...: readers differ on such a field, so
            // that any word of it may be what one of them takes for the id.
            None => {
                let squeezed = squeezed(value);
                [value, &squeezed].iter().any(|value| is_encoded(value) || self.contains_any_word(value))
                    || self.begins(value)
            }
        }
    }

    /// Whether the first run of octets that host names have is one of these ids, whatever comes behind it.
    fn begins(&self, value: &[u8]) -> bool {
        let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
        let start = value.iter().position(is_name).unwrap_or(value.len());
        let rest = value.get(start..).unwrap_or_default();
        let end = rest.iter().position(|b| !is_name(b)).unwrap_or(rest.len());
        rest.get(..end).is_some_and(|run| self.contains(run))
    }

    fn contains_any_word(&self, value: &[u8]) -> bool {
        let mut words = value.split(|b| b.is_ascii_control() || ID_SEPARATORS.contains(b));
        let mut beyond_ascii = 0;
        // Comparing such a word is expensive. No honest field has many; one that does is removed unread.
        words.any(|word| {
            beyond_ascii += usize::from(!word.is_ascii());
            beyond_ascii > MAX_WORDS_BEYOND_ASCII || self.contains(word)
        })
    }

    fn contains(&self, word: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(word) else { return false };
        // No name is as long, and comparing would be expensive; but one of ours may be in it, among characters that
        // IDNA ignores.
        if is_beyond_idna(text) {
            return true;
        }
        // Cheap before expensive: nearly every word is another host's name in plain ASCII.
        self.0.iter().any(|id| id.eq_ignore_ascii_case(text.trim_end_matches('.')))
            || (!text.is_ascii() && self.0.contains(&comparable(text)))
    }
}

impl Removals {
    /// How many fields are removed.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// A field, or a line that is none, with its continuation lines. Offsets of 32 bits keep the index small beside a
/// section of many short lines.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: u32,
    /// Where the colon after the name stands; [`NO_COLON`] if this is no field.
    colon: u32,
    end: u32,
}

impl Piece {
    fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

const NO_COLON: u32 = u32::MAX;
/// Octets of a line without its end (RFC 5322 §2.1.1). Postfix breaks longer ones when it sends them.
pub const MAX_LINE: usize = 998;
/// Words beyond ASCII of an Authentication-Results field that are compared with our ids.
const MAX_WORDS_BEYOND_ASCII: usize = 16;
/// The name of the field that marks failing mail for the upstream, and that only the gate may write.
pub const FAIL_POLICY: &str = "X-DMARC-Fail-policy";
const AUTHENTICATION_RESULTS: &str = "Authentication-Results";
/// What may end an authserv-id for one reader or another; `=` is missing, so that `smtp.mailfrom=host` is one word.
const ID_SEPARATORS: &[u8] = b" ()<>@,;:\\\"/[]?";

/// A section of 4 GiB cannot come in: the caller's bound is some hundred KiB.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX - 1)
}

fn is_empty_line(rest: &[u8]) -> bool {
    rest.starts_with(b"\r\n") || rest.starts_with(b"\n")
}

/// The length of the first line with the continuation lines after it, and where the first of these stands that is none
/// by RFC 5322 §2.2.3: one that begins with a bare CR. It goes on to the upstream as a continuation, so that it has to
/// share the fate of its field; were it a piece of its own, it could end up below a field of ours.
fn piece_length(rest: &[u8]) -> (usize, Option<usize>) {
    let mut end = 0;
    let mut malformed = None;
    while let Some(line_end) = rest.get(end..).and_then(|tail| memchr(b'\n', tail)) {
        end += line_end + 1;
        match rest.get(end..) {
            Some([b' ' | b'\t', ..]) => {}
            Some([b'\r', next, ..]) if *next != b'\n' => {
                malformed.get_or_insert(end);
            }
            Some([b'\r']) => {
                malformed.get_or_insert(end);
            }
            _ => return (end, malformed),
        }
    }
    (rest.len(), malformed)
}

/// Whether a line begins a header field.
pub fn begins_field(line: &[u8]) -> bool {
    field_colon(line).is_some()
}

/// Where the colon stands if `rest` begins with a field name: 1*ftext (RFC 5322 §3.6.8), then, in obsolete syntax
/// (§4.5), white space. The colon stands within the longest line that there may be (§2.1.1): mail servers that look at
/// a line in pieces (Postfix, at 2,048 octets) find no field in one without it, and take that for the end of the header
/// section.
fn field_colon(rest: &[u8]) -> Option<usize> {
    let colon = memchr2(b':', b'\n', rest.get(..MAX_LINE).unwrap_or(rest))?;
    let (name, tail) = rest.split_at_checked(colon)?;
    let name = trim_end(name);
    let is_field = tail.first() == Some(&b':') && !name.is_empty() && name.iter().all(|b| is_ftext(*b));
    is_field.then_some(colon)
}

fn is_ftext(b: u8) -> bool {
    b.is_ascii_graphic() && b != b':'
}

/// Without white space at the end; a bare CR goes on as a space.
fn trim_end(mut name: &[u8]) -> &[u8] {
    while let [head @ .., b' ' | b'\t' | b'\r'] = name {
        name = head;
    }
    name
}

/// Whether what stands before the first colon is `name` once everything is left out that no field name can have.
fn has_lenient_name(raw: &[u8], name: &str) -> bool {
    let mut wanted = name.bytes();
    for b in raw.iter().filter(|b| b.is_ascii_graphic()) {
        match wanted.next() {
            Some(w) if w.eq_ignore_ascii_case(b) => {}
            Some(_) => return false,
            None => return *b == b':',
        }
    }
    false
}

fn after_colon(raw: &[u8]) -> &[u8] {
    memchr(b':', raw).and_then(|at| raw.get(at + 1..)).unwrap_or_default()
}

/// Whether results are of another version than 1, whoever the author (RFC 8601 §2.2, §5); without one they are of that.
fn has_unknown_version(value: &[u8]) -> bool {
    let is_unknown = |(_, version): (&[u8], &[u8])| {
        let number = std::str::from_utf8(version).ok().and_then(|digits| digits.parse::<u64>().ok());
        !version.is_empty() && number != Some(1)
    };
    match plain_id(value) {
        Some(found) => is_unknown(found),
        None => plain_id(&squeezed(value)).is_some_and(is_unknown),
    }
}

/// The id of a field that every reader reads alike, and the digits of the version behind it, if any: `[FWS] [comment]
/// id [comment] [version] [comment] ";"`, the id a token (RFC 2045 §5.1), comments without anything that nests, escapes
/// or ends them early.
fn plain_id(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_token = |b: &u8| (b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(b)) || !b.is_ascii();
    let value = skip_plain_cfws(value)?;
    let end = value.iter().position(|b| !is_token(b)).unwrap_or(value.len());
    let (id, rest) = value.split_at_checked(end)?;
    let rest = skip_plain_cfws(rest)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (version, rest) = rest.split_at_checked(digits)?;
    let rest = skip_plain_cfws(rest)?;
    (!id.is_empty() && matches!(rest.first(), None | Some(b';'))).then_some((id, version))
}

/// Skips white space and simple comments; `None` where readers would differ on what a comment is.
fn skip_plain_cfws(mut value: &[u8]) -> Option<&[u8]> {
    loop {
        value = value.trim_ascii_start();
        let Some(comment) = value.strip_prefix(b"(") else { return Some(value) };
        let end = comment.iter().position(|b| b"()\\\"".contains(b) || (b.is_ascii_control() && *b != b'\t'))?;
        value = comment.get(end..)?.strip_prefix(b")")?;
    }
}

/// The value as the most forgiving reader assembles it: without comments, quotes, backslashes and control characters,
/// and without white space around dots.
fn squeezed(value: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(value.len());
    let mut depth = 0_usize;
    for b in value {
        match b {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            b' ' | b'\t' | b'\r' | b'\n' => {
                if !matches!(out.last(), Some(b' ' | b'.')) {
                    out.push(b' ');
                }
            }
            b'.' => {
                if out.last() == Some(&b' ') {
                    out.pop();
                }
                out.push(b'.');
            }
            b'"' | b'\\' => {}
            b if b.is_ascii_control() => {}
            b => out.push(*b),
        }
    }
    out
}

/// Whether an encoded word (RFC 2047) may begin before the first semicolon, where the id stands. Some readers decode it
/// there, and no honest id has one.
fn is_encoded(value: &[u8]) -> bool {
    let id = value.split(|b| *b == b';').next().unwrap_or_default();
    id.windows(2).any(|two| two == b"=?")
}

/// A host name in A-labels, lower case, without a final dot; any other word in lower case.
fn comparable(id: &str) -> Box<str> {
    let name = Domain::parse(id).map(|domain| Cow::from(domain.as_str().to_owned()));
    name.unwrap_or_else(|_| id.trim_end_matches('.').to_ascii_lowercase().into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: impl AsRef<[u8]>) -> HeaderSection {
        HeaderSection::parse(text.as_ref().to_vec())
    }

    #[test]
    fn fields_are_indexed_as_they_came() {
        let section = section("A: 1\r\nb : 2\r\n 3\r\nC:\r\n\r\n");
        let fields: Vec<_> = section.fields().collect();
        assert_eq!(fields.len(), 3);
        assert_eq!(fields[0], Field { raw: b"A: 1\r\n", name: b"A", value: b" 1\r\n" });
        assert_eq!(fields[1], Field { raw: b"b : 2\r\n 3\r\n", name: b"b", value: b" 2\r\n 3\r\n" });
        assert_eq!(fields[2], Field { raw: b"C:\r\n", name: b"C", value: b"\r\n" });
        assert_eq!(section.malformed_line(), None);
        assert_eq!(section.count("B"), 1);
    }

    #[test]
    fn lines_that_are_no_field_are_remembered_and_kept() {
        let named = |length: usize| [b"A: 1\r\n", "n".repeat(length).as_bytes(), b": 2\r\n\r\n"].concat();
        let spaced = |length: usize| [b"A: 1\r\nFrom", " ".repeat(length - 4).as_bytes(), b": 2\r\n\r\n"].concat();
        let cases: [(&str, &[u8], Option<usize>, usize); 17] = [
            ("nothing", b"", None, 0),
            ("an empty section", b"\r\n", None, 0),
            ("no empty line", b"A: 1\r\n", None, 1),
            ("no line end", b"A: 1", None, 1),
            ("a word", b"A: 1\r\nword\r\nB: 2\r\n\r\n", Some(6), 2),
            ("a word with a continuation", b"A: 1\r\nword\r\n : x\r\nB: 2\r\n\r\n", Some(6), 2),
            ("mbox From line", b"From a@b Mon Jan 1 10:00:00\r\nA: 1\r\n\r\n", Some(0), 1),
            ("no name", b": 1\r\n\r\n", Some(0), 0),
            ("NUL in the name", b"A\0: 1\r\n\r\n", Some(0), 0),
            ("octets beyond ASCII in the name", b"\xc3\xa4: 1\r\n\r\n", Some(0), 0),
            ("a space inside the name", b"A B: 1\r\n\r\n", Some(0), 0),
            ("a bare CR continues", b"A: 1\r\n\rB: 2\r\nC: 3\r\n\r\n", Some(6), 2),
            ("a bare CR last", b"A: 1\r\n\r", Some(6), 1),
            ("a bare CR is no empty line", b"A: 1\r\n\r\r\nB: 2\r\n\r\n", Some(6), 2),
            ("the longest name", &named(MAX_LINE - 1), None, 2),
            ("a longer one", &named(MAX_LINE), Some(6), 1),
            ("white space that long", &spaced(MAX_LINE), Some(6), 1),
        ];
        for (name, text, malformed, fields) in cases {
            let section = section(text);
            assert_eq!(section.malformed_line(), malformed, "{name}");
            assert_eq!(section.fields().count(), fields, "{name}");
            let relayed: Vec<u8> = section.relayed(&Removals::default()).flatten().copied().collect();
            assert_eq!(relayed, text, "{name}");
        }
    }

    #[test]
    fn a_first_line_that_would_continue_our_field() {
        let cases: [(&[u8], bool); 7] = [
            (b" x\r\n", true),
            (b"\tx\r\n", true),
            (b"\rx: 1\r\n", true),
            (b"\r\r\n", true),
            (b"\r\n", false),
            (b"A: 1\r\n", false),
            (b"", false),
        ];
        for (text, expected) in cases {
            assert_eq!(section(text).begins_with_continuation(), expected, "{text:?}");
        }
    }

    #[test]
    fn forged_results_are_removed_however_they_are_spelled() {
        let ids = AuthservIds::new(["mx.example.net", "bücher.example", "Inner"]);
        let ours = [
            "Authentication-Results: mx.example.net; spf=pass",
            "Authentication-Results:mx.example.net;spf=pass",
            "authentication-results: MX.Example.NET; spf=pass",
            "AUTHENTICATION-RESULTS : mx.example.net; spf=pass",
            "Authentication-Results\t: mx.example.net; spf=pass",
            "Authentication-Results\r: mx.example.net; spf=pass",
            "Authentication-Results\0: mx.example.net; spf=pass",
            "\u{feff}Authentication-Results: mx.example.net; spf=pass",
            "Authentication-Results\r\n : mx.example.net; spf=pass",
            "Authentication-Results:\r\n mx.example.net; spf=pass",
            "Authentication-Results:\rmx.example.net; spf=pass",
            "Authentication-Results: mx.example.net",
            "Authentication-Results: mx.example.net 1; spf=pass",
            "Authentication-Results: mx.example.net (c) 1 (d); spf=pass",
            "Authentication-Results: (c)mx.example.net; spf=pass",
            "Authentication-Results: (c (d) e) mx.example.net; spf=pass",
            "Authentication-Results: (c \\) d) mx.example.net; spf=pass",
            "Authentication-Results: (a (b) mx.example.net; spf=pass",
            "Authentication-Results: mx.example.net (never closed; spf=pass",
            "Authentication-Results: other.example (\u{1}mx.example.net) 1; spf=pass",
            "Authentication-Results: (mx.example.net; spf=pass",
            "Authentication-Results: \"mx.example.net\"; spf=pass",
            "Authentication-Results: mx.example.net\u{a0}; spf=pass",
            "Authentication-Results: \u{3000}mx.example.net; spf=pass",
            "Authentication-Results: mx.example.net=; spf=pass",
            "Authentication-Results: mx.example.net=x mx.example.net=x; spf=pass",
            "Authentication-Results: \"mx\\.example.net\" 1; spf=pass",
            "Authentication-Results: \"mx.example.net; spf=pass",
            "Authentication-Results: mx.example.net/1; spf=pass",
            "Authentication-Results: mx.example.net.; spf=pass",
            "Authentication-Results: mx . example . net; spf=pass",
            "Authentication-Results: mx.(c)example.net; spf=pass",
            "Authentication-Results: mx.exa\0mple.net; spf=pass",
            "Authentication-Results: mx.example.net\0; spf=pass",
            "Authentication-Results: mx.example.net\0.evil.example; spf=pass",
            "Authentication-Results: \u{1}mx.example.net; spf=pass",
            "Authentication-Results: ;mx.example.net; spf=pass",
            "Authentication-Results: ; ; mx.example.net; spf=pass",
            "Authentication-Results: , mx.example.net; spf=pass",
            "Authentication-Results: mx.example.net, spf=pass",
            "Authentication-Results: xn--bcher-kva.example; spf=pass",
            "Authentication-Results: bücher.example; spf=pass",
            "Authentication-Results: BÜCHER.example.; spf=pass",
            "Authentication-Results: ｍｘ.example.net; spf=pass",
            "Authentication-Results: inner; spf=pass",
            "Authentication-Results: =?utf-8?q?mx=2Eexample=2Enet?=; spf=pass",
            "Authentication-Results: =?utf-8?b?bXguZXhhbXBsZS5uZXQ=?=; spf=pass",
            "Authentication-Results: =?utf-8?b?bXguZXhhbXBsZS5uZXQ7IHNwZj1wYXNz?=",
            "Authentication-Results: =?utf-8?q?m?=\r\n =?utf-8?q?x=2Eexample=2Enet;_spf=3Dpass?=",
            "Authentication-Results: m=?utf-8?q?x.example.net?=; spf=pass",
            "Authentication-Results: (c) =?utf-8?q?mx=2Eexample=2Enet?= 1; spf=pass",
            "Authentication-Results: =\0?utf-8?q?mx=2Eexample=2Enet?=; spf=pass",
            "Authentication-Results: \"=?utf-8?q?mx=2Eexample=2Enet?=\"; spf=pass",
            "Authentication-Results: other.example 2; spf=pass",
            "Authentication-Results:other.example 0;spf=pass",
            "Authentication-Results: other.example (c) 2 (d)",
            "Authentication-Results: other.example 99999999999999999999999999; spf=pass",
            "Authentication-Results: \"other.example\" 2; spf=pass",
            "Authentication-Results: other.example (c (d)) 2; spf=pass",
            "X-DMARC-Fail-policy: none",
            "x-dmarc-fail-POLICY : none",
            "X-DMARC-Fail-policy\0: none",
            "X-DMARC-Fail-policy\r\n : none",
            "X-DMARC-\u{b}Fail-policy: none",
            "X-DMARC-Fail-policy: none\r\n\rleft over: x",
            "Authentication-Results: mx.example.net;\r\n\r dmarc=pass\r\n\r\r\n\tx",
        ];
        for line in ours {
            let section = section(format!("A: 1\r\n{line}\r\nB: 2\r\n\r\n"));
            let removals = section.removals(&ids);
            let relayed: Vec<u8> = section.relayed(&removals).flatten().copied().collect();
            assert_eq!(relayed, b"A: 1\r\nB: 2\r\n\r\n", "{line:?}");
            assert_eq!(removals.count(), 1, "{line:?}");
        }
        // A bare CR that the section ends with shares the fate of its field.
        let cut = section("X-DMARC-Fail-policy: none\r\n\r");
        assert_eq!(cut.relayed(&cut.removals(&ids)).count(), 0);
    }

    #[test]
    fn the_results_of_others_stay() {
        let ids = AuthservIds::new(["mx.example.net", "bücher.example"]);
        let theirs = [
            "Authentication-Results: mx.example.org; spf=pass smtp.mailfrom=mx.example.net",
            "Authentication-Results: amx.example.net; spf=pass",
            "Authentication-Results: mx.example.net.evil.example; spf=pass",
            "Authentication-Results: other.example 1; spf=pass",
            "Authentication-Results: other.example (c (2)) 01 (2); spf=pass",
            "Authentication-Results: other.example; spf=pass (=?utf-8?q?mx=2Eexample=2Enet?=)",
            "Authentication-Results: other.example; spf=fail reason=\"why=?\"",
            "Authentication-Results: \"other.example\" 1; spf=pass",
            "Authentication-Results: other2; spf=pass",
            "Authentication-Results: 2; spf=pass",
            "Authentication-Results: other.example (mx.example.net); spf=pass",
            "Authentication-Results: other.example (from mx.example.net) 1; spf=pass",
            "Authentication-Results: other.example (from\tmx.example.net) 1; spf=pass",
            "Authentication-Results: other.example; iprev=pass policy.iprev=192.0.2.1 (mx.example.net)",
            "Authentication-Results: spf=pass (sender IP is 192.0.2.1) smtp.mailfrom=mx.example.net; dkim=none",
            "Authentication-Results: mх.example.net; spf=pass",
            "Authentication-Results: xn--bcher-xyz.example; spf=pass",
            "Authentication-Results:",
            "X-Authentication-Results: mx.example.net; spf=pass",
            "ARC-Authentication-Results: i=1; mx.example.net; spf=pass",
            "X-DMARC-Fail-policies: none",
            "X-DMARC-Pass-policy: none",
            "X-DMARC-Fail-policy",
        ];
        for line in theirs {
            let text = format!("{line}\r\nB: 2\r\n\r\n");
            let section = section(&text);
            let removals = section.removals(&ids);
            assert_eq!(removals.count(), 0, "{line}");
        }
    }

    #[test]
    fn a_field_of_words_that_are_dear_to_compare_is_taken_out_unread() {
        let ids = AuthservIds::new(["gate.example"]);
        let field = |count: usize| format!("Authentication-Results: \"{}\"; none\r\n\r\n", "\u{e9};".repeat(count));
        assert_eq!(section(field(MAX_WORDS_BEYOND_ASCII)).removals(&ids).count(), 0);
        assert_eq!(section(field(MAX_WORDS_BEYOND_ASCII + 1)).removals(&ids).count(), 1);
        // Our id, with more in it that IDNA ignores than it is given.
        for ignored in [1, 100, 1_000, 100_000] {
            let id = format!("g{}ate.example", "\u{ad}".repeat(ignored));
            for field in
                [format!("Authentication-Results: {id}; none"), format!("Authentication-Results: \"{id}\"; none")]
            {
                assert_eq!(section(format!("{field}\r\n\r\n")).removals(&ids).count(), 1, "{ignored}");
            }
        }
    }

    #[test]
    fn without_ids_only_the_tag_is_removed() {
        let section =
            section("X-DMARC-Fail-policy: x\r\nAuthentication-Results: a; none\r\nX-DMARC-Fail-policy: y\r\n\r\n");
        let removals = section.removals(&AuthservIds::default());
        let relayed: Vec<&[u8]> = section.relayed(&removals).collect();
        assert_eq!(relayed, [b"Authentication-Results: a; none\r\n".as_slice(), b"\r\n"]);
    }

    #[test]
    fn signs_of_a_mailing_list() {
        let cases = [
            ("List-Id: <l.example.org>", true),
            ("List-Post: <mailto:l@example.org>", true),
            ("List-Unsubscribe: <https://a.example>", false),
            ("List-Unsubscribe: <https://a.example>\r\nPrecedence: bulk", false),
            ("List-Unsubscribe: <https://a.example>\r\nPrecedence: List", true),
            ("Precedence: list", false),
            ("Subject: hello", false),
        ];
        for (text, expected) in cases {
            assert_eq!(section(format!("{text}\r\n\r\n")).is_mailing_list(), expected, "{text}");
        }
    }

    #[test]
    fn the_identifier_of_a_list() {
        let cases = [
            ("List-Id: <l.Example.org>", Some("l.example.org")),
            ("List-Id: A list <of ours> < l.example.org >", Some("l.example.org")),
            ("List-Id: \r\n <l.example.org> (x)", Some("l.example.org")),
            ("List-Id: l.example.org", None),
            ("List-Id: <l.example.org", None),
            ("List-Id: <a list>", None),
            ("List-Id: <>", None),
            ("List-Id: <l.example.org>\r\nList-Id: <l.example.org>", None),
            ("List-Post: <l.example.org>", None),
        ];
        for (text, expected) in cases {
            let id = section(format!("{text}\r\n\r\n")).list_id();
            assert_eq!(id.as_ref().map(Domain::as_str), expected, "{text}");
        }
    }

    #[test]
    fn facts_for_the_log() {
        let text = "Received: a\r\nReceived: b\r\nMessage-ID:\r\n <1@a.example>\r\nSubject: a\r\n\tb  c \r\n\r\n";
        let section = section(text);
        assert_eq!((section.unfolded("subject"), section.unfolded("X")), ("a b c".to_owned(), String::new()));
        assert_eq!(section.message_id(), Some(b"<1@a.example>".as_slice()));
        assert_eq!(section.received_count(), 2);
    }

    proptest::proptest! {
        #[test]
        fn what_is_relayed_and_what_is_removed_is_the_whole(
            lines in proptest::collection::vec("(X-DMARC-Fail-policy|Authentication-Results|A|)[ :\r\0]{0,3}\
                [m\"(); .\\\\\r\0]{0,4}(mx.example.net)?[;)\" ]{0,2}(\r\n|\n|\r)", 0..8)
        ) {
            let section = section(lines.concat());
            let removals = section.removals(&AuthservIds::new(["mx.example.net"]));
            let relayed: usize = section.relayed(&removals).map(<[u8]>::len).sum();
            let removed: usize = removals.0.iter().map(|range| range.len()).sum();
            proptest::prop_assert_eq!(relayed + removed, section.as_bytes().len());
            // Nothing is left that would be removed the next time, or that would continue a field of ours.
            let again = HeaderSection::parse(section.relayed(&removals).flatten().copied().collect());
            if !section.begins_with_continuation() {
                proptest::prop_assert!(!again.begins_with_continuation());
                proptest::prop_assert_eq!(again.removals(&AuthservIds::new(["mx.example.net"])).count(), 0);
            }
        }
    }
}
