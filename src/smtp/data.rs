//! The codec of DATA and BDAT: the wire form of a message becomes its content, and goes on encoded afresh (RFC 5321
//! §4.5.2, RFC 3030 §2).
//!
//! Only CRLF "." CRLF ends the data (RFC 5321 §4.1.1.4). A bare LF is a line end to the content and leaves as CRLF; a
//! bare CR stays in the content and leaves as a space: neither reaches the upstream as such, so that no server behind
//! the gate, however lenient, can see an end of data or a command where the gate saw none (SMTP smuggling). In BDAT a
//! dot is only a dot and the octets are counted; all else is the same, so that a message may come in one form and leave
//! in the other.

use memchr::{memchr, memchr2, memmem, memrchr};

/// Takes what a [`Decoder`] yields.
pub trait Sink {
    /// A piece of the message, twice: as content (what is hashed and evaluated) and as it goes over the wire to the
    /// upstream. Both are the same slice, except where dots and bare CR differ. Either may be empty.
    fn piece(&mut self, content: &[u8], wire: &[u8]);
}

/// How far a call of [`Decoder::decode`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The whole input is taken and the data goes on.
    More,
    /// The data ended behind this many octets of the input.
    End(usize),
}

/// What was met that RFC 5321 forbids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Irregularities {
    /// A LF without a CR before it.
    pub bare_lf: bool,
    /// A CR without a LF behind it.
    pub bare_cr: bool,
    /// A line of NULs and one dot, which some servers take for the end of data once they have dropped the NULs.
    pub nul_dot_line: bool,
}

/// Decodes the octets that follow a 354 reply, or those of BDAT chunks, in pieces of any size.
#[derive(Debug, Default)]
pub struct Decoder {
    framing: Framing,
    state: State,
    line: LineShape,
    irregularities: Irregularities,
}

/// What ends the message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// A line of one dot: DATA. Lines that begin with a dot have one more.
    #[default]
    Dot,
    /// The count of octets: BDAT.
    Count,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Behind a CRLF, or where the data begins: here a dot is a signal.
    #[default]
    LineStart,
    /// Behind a bare LF: a line begins for the upstream, but a dot is only a dot.
    SoftLineStart,
    /// Inside a line.
    Middle,
    /// Behind a CR that has not been passed on yet.
    Cr,
    /// Behind a dot at a line's start.
    Dot,
    /// Behind a dot and a CR at a line's start.
    DotCr,
}

/// Whether the line so far is nothing but NULs and at most one dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineShape {
    /// `dots` as the client sent them; `deleted` if the first of them does not go on.
    NulDot {
        nuls: bool,
        dots: u8,
        deleted: bool,
    },
    Other,
}

impl Default for LineShape {
    fn default() -> Self {
        Self::NulDot { nuls: false, dots: 0, deleted: false }
    }
}

impl Decoder {
    /// A decoder at the beginning of a message.
    pub fn new(framing: Framing) -> Self {
        Self { framing, ..Self::default() }
    }

    /// How the message comes.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Notes that all octets of a counted message have come.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        if self.state == State::Cr {
            self.bare_cr(sink);
        }
        // The last line may have no end; the upstream sees one.
        let state = self.state;
        self.end_line(state);
    }

    /// Whether what came so far ends with a line end, or is nothing at all.
    pub fn ends_with_line(&self) -> bool {
        matches!(self.state, State::LineStart | State::SoftLineStart | State::Dot | State::DotCr)
    }

    /// What was met so far.
    pub fn irregularities(&self) -> Irregularities {
        self.irregularities
    }

    /// Takes the next octets. After [`Progress::End`] the decoder is done.
    pub fn decode(&mut self, input: &[u8], sink: &mut impl Sink) -> Progress {
        let (mut at, mut uneven_to) = (0, 0);
        while let Some(&next) = input.get(at) {
            match (self.state, next) {
                (State::LineStart, b'.') if self.framing == Framing::Dot => {
                    self.state = State::Dot;
                    at += 1;
                }
                (State::LineStart, b'.') => {
                    // Here the wire needs what the client did not have to send.
                    sink.piece(b"", b".");
                    self.state = State::Middle;
                }
                (State::SoftLineStart, b'.') => {
                    // For the upstream this dot begins a line: it needs its double.
                    sink.piece(b"", b".");
                    self.state = State::Middle;
                }
                (State::LineStart | State::SoftLineStart | State::Middle, _) => {
                    self.state = State::Middle;
                    at = self.middle(input, at, &mut uneven_to, sink);
                }
                (State::Cr, b'\n') => {
                    sink.piece(b"\r\n", b"\r\n");
                    self.end_line(State::LineStart);
                    at += 1;
                }
                (State::Cr, _) => self.bare_cr(sink),
                (State::Dot, b'\r') => {
                    self.state = State::DotCr;
                    at += 1;
                }
                (State::Dot, b'.') => {
                    // The client's double dot: one in the content, both on the wire.
                    self.shape(b".");
                    sink.piece(b"", b".");
                    self.state = State::Middle;
                }
                (State::Dot, b'\n') => {
                    // A dot that a bare LF follows never ends the data: it is a line of one dot.
                    sink.piece(b".", b"..");
                    self.shape(b".");
                    self.state = State::Middle;
                }
                (State::Dot, _) => {
                    // RFC 5321 §4.5.2: the first of other characters is deleted if it is a dot.
                    self.shape_deleted_dot();
                    self.state = State::Middle;
                }
                (State::DotCr, b'\n') => return Progress::End(at + 1),
                (State::DotCr, _) => {
                    self.shape_deleted_dot();
                    self.bare_cr(sink);
                }
            }
        }
        Progress::More
    }

    /// Passes on what stands in the middle of lines from `at` on, up to a place where the state changes.
    fn middle(&mut self, input: &[u8], at: usize, uneven_to: &mut usize, sink: &mut impl Sink) -> usize {
        let mut end = at;
        loop {
            end = self.regular_lines(input, end, uneven_to);
            let rest = input.get(end..).unwrap_or_default();
            let Some(found) = memchr2(b'\r', b'\n', rest) else {
                self.shape(rest);
                pass(sink, input, at, input.len());
                return input.len();
            };
            self.shape(rest.get(..found).unwrap_or_default());
            end += found;
            match (input.get(end), input.get(end + 1), input.get(end + 2)) {
                // A regular line end with a regular line behind it: the slice goes on.
                (Some(b'\r'), Some(b'\n'), Some(next)) if *next != b'.' => {
                    self.end_line(State::Middle);
                    end += 2;
                }
                (Some(b'\r'), _, _) => {
                    pass(sink, input, at, end);
                    self.state = State::Cr;
                    return end + 1;
                }
                _ => {
                    pass(sink, input, at, end);
                    sink.piece(b"\r\n", b"\r\n");
                    self.irregularities.bare_lf = true;
                    self.end_line(State::SoftLineStart);
                    return end + 1;
                }
            }
        }
    }

    /// Passes over regular lines, many octets at once, from `at` inside one of them, and gives where it stopped: inside
    /// a line again. `uneven_to` is where the octets end in which something was met, so that none is looked at twice.
    fn regular_lines(&mut self, input: &[u8], mut at: usize, uneven_to: &mut usize) -> usize {
        while at >= *uneven_to
            && let Some(window) = input.get(at..at + WINDOW)
        {
            // What follows a line end decides about it.
            let window = window.strip_suffix(b"\r").unwrap_or(window);
            let window = window.strip_suffix(b"\r\n").unwrap_or(window);
            if !is_regular(window) {
                *uneven_to = at + WINDOW;
                break;
            }
            match (memchr(b'\r', window), memrchr(b'\n', window)) {
                (Some(first), Some(last)) => {
                    self.shape(window.get(..first).unwrap_or_default());
                    self.end_line(State::Middle);
                    self.shape(window.get(last + 1..).unwrap_or_default());
                }
                _ => self.shape(window),
            }
            at += window.len();
        }
        at
    }

    fn bare_cr(&mut self, sink: &mut impl Sink) {
        sink.piece(b"\r", b" ");
        self.irregularities.bare_cr = true;
        // To a lenient server a CR may end a line, so what follows is looked at as a line of its own.
        self.end_line(State::Middle);
    }

    fn end_line(&mut self, state: State) {
        // One dot as the line came, or as it goes on.
        if let LineShape::NulDot { nuls: true, dots, deleted } = self.line
            && (dots == 1 || (dots == 2 && deleted))
        {
            self.irregularities.nul_dot_line = true;
        }
        self.line = LineShape::default();
        self.state = state;
    }

    /// Notes octets of the present line; after the first ordinary one there is nothing to note.
    fn shape(&mut self, octets: &[u8]) {
        let LineShape::NulDot { mut nuls, mut dots, deleted } = self.line else { return };
        for octet in octets {
            match octet {
                0 => nuls = true,
                b'.' if dots < 2 => dots += 1,
                _ => {
                    self.line = LineShape::Other;
                    return;
                }
            }
        }
        self.line = LineShape::NulDot { nuls, dots, deleted };
    }

    /// Notes a dot at a line's start that the client should have doubled.
    fn shape_deleted_dot(&mut self) {
        self.line = LineShape::NulDot { nuls: false, dots: 1, deleted: true };
    }
}

/// Encodes content for the wire: dots doubled at line starts, bare CR as a space. The content has CRLF line ends.
#[derive(Debug)]
pub struct Encoder {
    at_line_start: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { at_line_start: true }
    }
}

impl Encoder {
    /// Appends the wire form of `content`, which ends with a line or is the last piece, to `wire`.
    pub fn encode(&mut self, content: &[u8], wire: &mut Vec<u8>) {
        for line in content.split_inclusive(|b| *b == b'\n') {
            if self.at_line_start && line.first() == Some(&b'.') {
                wire.push(b'.');
            }
            let (text, end) = match line.strip_suffix(b"\r\n") {
                Some(text) => (text, &b"\r\n"[..]),
                None => (line, &b""[..]),
            };
            let start = wire.len();
            wire.extend_from_slice(text);
            if memchr(b'\r', text).is_some() {
                wire.iter_mut().skip(start).filter(|b| **b == b'\r').for_each(|b| *b = b' ');
            }
            wire.extend_from_slice(end);
            self.at_line_start = !end.is_empty();
        }
    }
}

/// Undoes the doubling of dots, piece by piece, for an upstream that takes the message as one chunk.
#[derive(Debug)]
pub struct Unstuffer {
    at_line_start: bool,
}

impl Default for Unstuffer {
    fn default() -> Self {
        Self { at_line_start: true }
    }
}

impl Unstuffer {
    /// Takes the first dot of each line out of `wire`, an encoded message in pieces that are cut anywhere.
    pub fn unstuff(&mut self, wire: &[u8], content: &mut Vec<u8>) {
        let mut rest = wire;
        while !rest.is_empty() {
            if std::mem::take(&mut self.at_line_start) && rest.first() == Some(&b'.') {
                rest = rest.get(1..).unwrap_or_default();
            }
            // Line ends are CRLF throughout, so that a LF followed by a dot is all there is to look for.
            let end = memmem::find(rest, b"\n.").map_or(rest.len(), |found| found + 1);
            let (lines, behind) = rest.split_at(end);
            content.extend_from_slice(lines);
            self.at_line_start = lines.last() == Some(&b'\n');
            rest = behind;
        }
    }
}

/// What ends the data on the wire, given whether the message ended with a line end.
pub fn end_of_data(ends_with_line: bool) -> &'static [u8] {
    if ends_with_line { b".\r\n" } else { b"\r\n.\r\n" }
}

/// Whether octets that begin and end inside a line have only regular line ends, no dot behind one, and no NUL except as
/// the last. The loop has no early exit, so that the compiler can look at many of them at once.
fn is_regular(octets: &[u8]) -> bool {
    let (Some(first), Some(last), Some(tail)) = (octets.first(), octets.last(), octets.get(1..)) else { return false };
    let is_odd = |(a, b): (&u8, &u8)| ((*a == b'\r') != (*b == b'\n')) | ((*a == b'\n') & (*b == b'.')) | (*a == 0);
    let is_odd_inside = octets.iter().zip(tail).fold(false, |odd, pair| odd | is_odd(pair));
    !is_odd_inside && *first != b'\n' && !matches!(last, b'\r' | b'\n')
}

fn pass(sink: &mut impl Sink, input: &[u8], from: usize, to: usize) {
    if let Some(piece) = input.get(from..to).filter(|p| !p.is_empty()) {
        sink.piece(piece, piece);
    }
}

/// Octets that are looked at at once.
const WINDOW: usize = 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Collected {
        content: Vec<u8>,
        wire: Vec<u8>,
        pieces: usize,
    }

    impl Sink for Collected {
        fn piece(&mut self, content: &[u8], wire: &[u8]) {
            self.content.extend_from_slice(content);
            self.wire.extend_from_slice(wire);
            self.pieces += 1;
        }
    }

    fn decode(pieces: &[&[u8]]) -> (Collected, Irregularities, Option<usize>) {
        let (mut decoder, mut out) = (Decoder::new(Framing::Dot), Collected::default());
        for piece in pieces {
            if let Progress::End(n) = decoder.decode(piece, &mut out) {
                return (out, decoder.irregularities(), Some(n));
            }
        }
        (out, decoder.irregularities(), None)
    }

    /// Decodes whole, in single octets and in every two pieces, and expects the same of each.
    fn content_and_wire(input: &[u8]) -> (Vec<u8>, Vec<u8>, bool, Irregularities) {
        let (whole, odd, end) = decode(&[input]);
        let octets: Vec<&[u8]> = input.chunks(1).collect();
        let (single, single_odd, single_end) = decode(&octets);
        assert_eq!((&single.content, &single.wire), (&whole.content, &whole.wire), "{input:?}");
        assert_eq!((single_odd, single_end.is_some()), (odd, end.is_some()), "{input:?}");
        for at in 0..input.len() {
            let (a, b) = input.split_at(at);
            let (split, split_odd, _) = decode(&[a, b]);
            assert_eq!(
                (&split.content, &split.wire, split_odd),
                (&whole.content, &whole.wire, odd),
                "{input:?} at {at}"
            );
        }
        (whole.content, whole.wire, end.is_some(), odd)
    }

    #[test]
    fn dots_and_line_ends_table() {
        type Octets = &'static [u8];
        let cases: [(&str, Octets, Octets, Octets, bool); 18] = [
            ("empty message", b".\r\n", b"", b"", true),
            ("one line", b"a\r\n.\r\n", b"a\r\n", b"a\r\n", true),
            ("doubled dot", b"..a\r\n.\r\n", b".a\r\n", b"..a\r\n", true),
            ("doubled dot alone", b"..\r\n.\r\n", b".\r\n", b"..\r\n", true),
            ("dot not doubled", b".a\r\n.\r\n", b"a\r\n", b"a\r\n", true),
            ("three dots", b"...\r\n.\r\n", b"..\r\n", b"...\r\n", true),
            ("bare LF", b"a\nb\r\n.\r\n", b"a\r\nb\r\n", b"a\r\nb\r\n", true),
            ("bare CR", b"a\rb\r\n.\r\n", b"a\rb\r\n", b"a b\r\n", true),
            ("CR CR LF", b"a\r\r\nb\r\n.\r\n", b"a\r\r\nb\r\n", b"a \r\nb\r\n", true),
            ("LF . LF", b"a\n.\nb\r\n", b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n", false),
            ("LF . CRLF", b"a\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n", false),
            ("CRLF . LF", b"a\r\n.\nb\r\n", b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n", false),
            ("CR . CR", b"a\r.\rb\r\n", b"a\r.\rb\r\n", b"a . b\r\n", false),
            ("CRLF . CR", b"a\r\n.\rb\r\n", b"a\r\n\rb\r\n", b"a\r\n b\r\n", false),
            ("CR . CRLF", b"a\r.\r\nb\r\n", b"a\r.\r\nb\r\n", b"a .\r\nb\r\n", false),
            ("LF CR . CRLF", b"a\n\r.\r\nb\r\n", b"a\r\n\r.\r\nb\r\n", b"a\r\n .\r\nb\r\n", false),
            ("CRLF .. LF", b"a\r\n..\nb\r\n", b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n", false),
            ("LF .. CRLF", b"a\n..\r\nb\r\n", b"a\r\n..\r\nb\r\n", b"a\r\n...\r\nb\r\n", false),
        ];
        for (name, input, content, wire, ended) in cases {
            let (got_content, got_wire, got_ended, _) = content_and_wire(input);
            assert_eq!(got_content, content, "content of {name}");
            assert_eq!(got_wire, wire, "wire of {name}");
            assert_eq!(got_ended, ended, "end of {name}");
        }
    }

    #[test]
    fn irregularities_are_noted() {
        let cases: [(&[u8], Irregularities); 14] = [
            (b"a\r\nb.\r\n", Irregularities::default()),
            (b"a\nb", Irregularities { bare_lf: true, ..Default::default() }),
            (b"a\rb", Irregularities { bare_cr: true, ..Default::default() }),
            (b"\0.\r\nx", Irregularities { nul_dot_line: true, ..Default::default() }),
            (b"a\r\n.\0\r\nx", Irregularities { nul_dot_line: true, ..Default::default() }),
            (b"a\r\n\0\0.\0\r\nx", Irregularities { nul_dot_line: true, ..Default::default() }),
            (b"a\n.\0\nx", Irregularities { nul_dot_line: true, bare_lf: true, bare_cr: false }),
            (b"a\r\0.\r\nx", Irregularities { nul_dot_line: true, bare_lf: false, bare_cr: true }),
            (b"a\r\n\0\r\nx", Irregularities::default()),
            (b"a\r\n..\0\r\nx", Irregularities::default()),
            (b"a\r\n.\0.\r\nx", Irregularities { nul_dot_line: true, ..Default::default() }),
            (b"a\r\n.\0..\r\nx", Irregularities::default()),
            (b"a\r\nx\0.\r\nx", Irregularities::default()),
            (b"\0.x\r\nx", Irregularities::default()),
        ];
        for (input, expected) in cases {
            assert_eq!(content_and_wire(input).3, expected, "{input:?}");
        }
        let many_dots = [b"\0".as_slice(), &[b'.'; 257], b"\r\nx"].concat();
        assert_eq!(content_and_wire(&many_dots).3, Irregularities::default(), "dots beyond what an octet counts");
    }

    #[test]
    fn regular_lines_go_on_in_one_piece() {
        // "a", CR LF and "b"; or one slice with all lines that no dot begins.
        let cases: [(&[u8], usize); 4] =
            [(b"a\r\nb\r\nc\r\nd", 1), (b"a\r\n\r\nb", 1), (b"a\r\nb\r\n..c\r\nd", 4), (b"a\nb\nc", 5)];
        for (input, pieces) in cases {
            assert_eq!(decode(&[input]).0.pieces, pieces, "{input:?}");
        }
    }

    #[test]
    fn what_follows_the_end_is_left_alone() {
        assert_eq!(decode(&[b"a\r\n.\r\nQUIT\r\n"]).2, Some(6));
        assert_eq!(decode(&[b".\r\nQUIT\r\n"]).2, Some(3));
    }

    /// Decodes chunks whole, in single octets and in every two pieces, and expects the same of each.
    fn counted(input: &[u8]) -> (Collected, Irregularities, bool) {
        let decode = |pieces: &[&[u8]]| {
            let (mut decoder, mut out) = (Decoder::new(Framing::Count), Collected::default());
            assert_eq!(decoder.framing(), Framing::Count);
            for piece in pieces {
                assert_eq!(decoder.decode(piece, &mut out), Progress::More, "only the count ends it: {input:?}");
            }
            decoder.finish(&mut out);
            (out, decoder.irregularities(), decoder.ends_with_line())
        };
        let whole = decode(&[input]);
        let octets: Vec<&[u8]> = input.chunks(1).collect();
        let splits = (0..input.len()).map(|at| vec![&input[..at], &input[at..]]);
        for pieces in splits.chain([octets]) {
            let (out, odd, ends) = decode(&pieces);
            assert_eq!((&out.content, &out.wire), (&whole.0.content, &whole.0.wire), "{pieces:?}");
            assert_eq!((odd, ends), (whole.1, whole.2), "{pieces:?}");
        }
        whole
    }

    #[test]
    fn chunks_table() {
        type Octets = &'static [u8];
        let cases: [(&str, Octets, Octets, Octets, bool); 14] = [
            ("nothing", b"", b"", b"", true),
            ("one line", b"a\r\n", b"a\r\n", b"a\r\n", true),
            ("no last line end", b"a\r\nb", b"a\r\nb", b"a\r\nb", false),
            ("a dot", b".\r\n", b".\r\n", b"..\r\n", true),
            ("a dot alone", b".", b".", b"..", false),
            ("two dots", b"..\r\n", b"..\r\n", b"...\r\n", true),
            ("an end of data", b"a\r\n.\r\nb", b"a\r\n.\r\nb", b"a\r\n..\r\nb", false),
            ("bare LF", b"a\nb\r\n", b"a\r\nb\r\n", b"a\r\nb\r\n", true),
            ("LF . LF", b"a\n.\nb\r\n", b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n", true),
            ("bare LF at the end", b"a\n", b"a\r\n", b"a\r\n", true),
            ("bare CR", b"a\rb", b"a\rb", b"a b", false),
            ("CR at the end", b"a\r", b"a\r", b"a ", false),
            ("CR . CR", b"a\r.\rb\r\n", b"a\r.\rb\r\n", b"a . b\r\n", true),
            ("CR CR LF", b"a\r\r\n", b"a\r\r\n", b"a \r\n", true),
        ];
        for (name, input, content, wire, ends_with_line) in cases {
            let (out, _, ends) = counted(input);
            assert_eq!((&*out.content, &*out.wire, ends), (content, wire, ends_with_line), "{name}");
        }
        let cases: [(&[u8], bool); 5] =
            [(b"\0.", true), (b"a\r\n.\0\r\n", true), (b"\0.x", false), (b".\r\n", false), (b"\0", false)];
        for (input, nul_dot_line) in cases {
            assert_eq!(counted(input).1.nul_dot_line, nul_dot_line, "{input:?}");
        }
    }

    /// What the most lenient server could take for an end of data: any line of one dot, whatever ends lines.
    fn hides_an_end(wire: &[u8]) -> bool {
        let without_nul: Vec<u8> = wire.iter().copied().filter(|b| *b != 0).collect();
        // Behind the last line end there is no line yet.
        let end = without_nul.iter().rposition(|b| matches!(b, b'\r' | b'\n')).unwrap_or(0);
        without_nul[..end].split(|b| matches!(b, b'\r' | b'\n')).any(|line| line == b".")
    }

    fn awkward() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop::sample::select(vec![&b"\r"[..], b"\n", b"\r\n", b".", b"..", b"\0", b"a", b"QUIT", b" ", b"\xff"]),
            0..40,
        )
        .prop_map(|parts| parts.concat())
    }

    /// What is awkward among so many regular lines that these are looked at many at once.
    fn awkward_among_lines() -> impl Strategy<Value = Vec<u8>> {
        let lines = || {
            (0..2 * WINDOW, 2_usize..90).prop_map(|(octets, length)| {
                let line = [&b"x".repeat(length)[..], b"\r\n"].concat();
                line.into_iter().cycle().take(octets).collect::<Vec<u8>>()
            })
        };
        let few = || awkward().prop_map(|octets| octets.into_iter().take(6).collect::<Vec<u8>>());
        prop::collection::vec((lines(), few()), 1..4)
            .prop_map(|parts| parts.into_iter().flat_map(|(lines, odd)| [lines, odd].concat()).collect())
    }

    /// Whether pieces, as dot-stuffed data and as chunks, come out as their octets do that are fed one by one.
    fn is_the_same_octet_by_octet(pieces: &[&[u8]]) -> bool {
        let decode = |framing, pieces: &[&[u8]]| {
            let (mut decoder, mut out, mut taken) = (Decoder::new(framing), Collected::default(), 0);
            for piece in pieces {
                if let Progress::End(end) = decoder.decode(piece, &mut out) {
                    return (out.content, out.wire, decoder.irregularities(), Some(taken + end));
                }
                taken += piece.len();
            }
            decoder.finish(&mut out);
            (out.content, out.wire, decoder.irregularities(), None)
        };
        let whole = pieces.concat();
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        [Framing::Dot, Framing::Count].into_iter().all(|framing| decode(framing, pieces) == decode(framing, &single))
    }

    #[test]
    fn what_stands_where_one_look_at_many_lines_ends_is_seen() {
        let odd: [&[u8]; 12] =
            [b"\0.", b"\0", b".", b"..", b"\0.x", b"x\0.", b"\r", b"\n", b"\r\n.", b"\r\n\0.", b"\r\n..\0", b"\n."];
        // One look ends inside a line, at a line end, and before any.
        for length in [5, 6, 3 * WINDOW] {
            let lines = |octets| {
                let line = [&b"x".repeat(length)[..], b"\r\n"].concat();
                line.into_iter().cycle().take(octets).collect::<Vec<u8>>()
            };
            for octets in WINDOW - 4..=WINDOW + 4 {
                for odd in odd {
                    let input = [&lines(octets)[..], odd, b"\r\n", &lines(2 * WINDOW)].concat();
                    assert!(is_the_same_octet_by_octet(&[&input]), "{odd:?} behind {octets} octets");
                    for cut in octets..octets + 3 {
                        let (a, b) = input.split_at(cut);
                        assert!(is_the_same_octet_by_octet(&[a, b]), "{odd:?} behind {octets} octets, cut at {cut}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn many_lines_at_once_are_what_they_are_octet_by_octet(
            mut input in awkward_among_lines(),
            nul_line in any::<Option<prop::sample::Index>>(),
            cut in any::<prop::sample::Index>(),
        ) {
            if let Some(at) = nul_line {
                let at = at.index(input.len() + 1);
                input.splice(at..at, *b"\r\n\0.\r\n");
            }
            let (a, b) = input.split_at(cut.index(input.len() + 1));
            prop_assert!(is_the_same_octet_by_octet(&[&input]) && is_the_same_octet_by_octet(&[a, b]), "{:?}", input);
        }

        #[test]
        fn any_content_comes_out_as_it_went_in(mut content in awkward(), cut in any::<prop::sample::Index>()) {
            // Content as a client has it: CRLF line ends only.
            content.retain(|b| *b != b'\r' && *b != b'\n');
            let content: Vec<u8> = content.chunks(3).flat_map(|c| [c, b"\r\n"].concat()).collect();
            let mut wire = Vec::new();
            Encoder::default().encode(&content, &mut wire);
            wire.extend_from_slice(end_of_data(true));
            let (a, b) = wire.split_at(cut.index(wire.len()));
            let (out, odd, end) = decode(&[a, b]);
            prop_assert_eq!(&out.content, &content);
            prop_assert_eq!(&out.wire, &wire[..wire.len() - 3]);
            prop_assert!(!odd.bare_cr && !odd.bare_lf);
            prop_assert!(end.is_some());
        }

        #[test]
        fn nothing_that_goes_on_can_end_the_data_early(input in awkward()) {
            let (content, wire, _, odd) = content_and_wire(&input);
            prop_assert!(odd.nul_dot_line || !hides_an_end(&wire), "{:?} -> {:?}", input, wire);
            prop_assert!(memchr::memmem::find(&wire, b"\n.\r\n").is_none());
            let bare = wire.windows(2).any(|w| (w[0] == b'\r') != (w[1] == b'\n'));
            prop_assert!(!bare && wire.first() != Some(&b'\n') && wire.last() != Some(&b'\r'), "{:?}", wire);
            // The wire form is the encoding of the content, so that header section and body may be encoded apart.
            let mut encoded = Vec::new();
            Encoder::default().encode(&content, &mut encoded);
            prop_assert_eq!(encoded, wire);
        }

        #[test]
        fn chunks_hide_nothing_and_go_on_as_they_came(input in awkward(), cut in any::<prop::sample::Index>()) {
            let (Collected { content, wire, .. }, odd, ends_with_line) = counted(&input);
            let whole = [&wire[..], end_of_data(ends_with_line)].concat();
            prop_assert!(odd.nul_dot_line || !hides_an_end(&wire), "{:?} -> {:?}", input, wire);
            prop_assert!(whole == b".\r\n" || memmem::find(&whole, b"\r\n.\r\n") == Some(whole.len() - 5));
            let mut encoded = Vec::new();
            Encoder::default().encode(&content, &mut encoded);
            prop_assert_eq!(&encoded, &wire);
            // As one chunk again it is the content, but for bare CR.
            let (a, b) = wire.split_at(cut.index(wire.len() + 1));
            let (mut unstuffer, mut out) = (Unstuffer::default(), Vec::new());
            unstuffer.unstuff(a, &mut out);
            unstuffer.unstuff(b, &mut out);
            let crs: Vec<usize> = memchr::memchr_iter(b'\r', &content).filter(|i| content.get(i + 1) != Some(&b'\n')).collect();
            let mut expected = content;
            crs.into_iter().for_each(|i| expected[i] = b' ');
            prop_assert_eq!(out, expected);
        }
    }
}
