//! Hashes the body of a message as it streams by, in every way that its signatures ask for.
//!
//! The canonicalizations of RFC 6376 §3.4.3 and §3.4.4 are done here and not by mail-auth, whose relaxed one keeps
//! lines of white space at the end of the body and counts raw octets for `l=`. Each canonicalization runs once however
//! many hashes take it in; its state is a few counters and one buffer of some KiB, and how the body is
//! split into pieces makes no difference. The caller bounds the number of specs.
//!
//! A line ends with CRLF; a bare CR or LF is an ordinary octet.

use aws_lc_rs::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use memchr::memchr;

/// How a body, or a header section, is made ready for hashing (RFC 6376 §3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Canonicalization {
    /// As it is.
    Simple,
    /// With white space levelled.
    Relaxed,
}

/// The hash algorithms that signatures name (RFC 6376 §3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// SHA-256.
    Sha256,
    /// SHA-1, of historic signatures; nothing that it signs passes (RFC 8301 §3.1).
    Sha1,
}

/// One body hash that a signature asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BodyHashSpec {
    /// The body's half of `c=`.
    pub canonicalization: Canonicalization,
    /// The hash of `a=`.
    pub algorithm: HashAlgorithm,
    /// `l=`: how many octets of the canonicalized body are hashed; all if absent.
    pub length: Option<u64>,
}

/// One hash of a body.
#[derive(Debug, Clone)]
pub struct BodyHash {
    digest: Digest,
    /// The octets of the whole canonicalized body, whatever `l=` says.
    pub canonical_length: u64,
}

/// Takes in the body; see [`BodyHasher::update`].
pub struct BodyHasher {
    simple: Option<(Simple, Output)>,
    relaxed: Option<(Relaxed, Output)>,
}

/// The hashes of one body.
#[derive(Debug, Clone, Default)]
pub struct BodyHashes(Vec<(BodyHashSpec, BodyHash)>);

impl BodyHasher {
    /// A hasher for these specs; equal ones are hashed once.
    pub fn new(specs: Vec<BodyHashSpec>) -> Self {
        let wanted = |canonicalization| specs.iter().filter(move |s| s.canonicalization == canonicalization);
        Self {
            simple: Output::new(wanted(Canonicalization::Simple)).map(|output| (Simple::default(), output)),
            relaxed: Output::new(wanted(Canonicalization::Relaxed)).map(|output| (Relaxed::default(), output)),
        }
    }

    /// Takes in the next octets of the body; any split of the body gives the same hashes.
    pub fn update(&mut self, data: &[u8]) {
        if let Some((state, output)) = &mut self.simple {
            state.update(data, output);
        }
        if let Some((state, output)) = &mut self.relaxed {
            state.update(data, output);
        }
    }

    /// The hashes, once the whole body was taken in.
    pub fn finish(self) -> BodyHashes {
        let mut hashes = Vec::new();
        if let Some((state, mut output)) = self.simple {
            state.finish(&mut output);
            output.finish(&mut hashes);
        }
        if let Some((state, mut output)) = self.relaxed {
            state.finish(&mut output);
            output.finish(&mut hashes);
        }
        BodyHashes(hashes)
    }
}

impl BodyHashes {
    /// The hash for `spec`; none if the hasher was not asked for it.
    pub fn get(&self, spec: &BodyHashSpec) -> Option<&BodyHash> {
        self.0.iter().find(|(known, _)| known == spec).map(|(_, hash)| hash)
    }
}

impl BodyHash {
    /// The octets of the hash, as `bh=` has them.
    pub fn digest(&self) -> &[u8] {
        self.digest.as_ref()
    }
}

/// The octets that a hash by `spec` takes in: the canonicalized body, as far as `l=` goes.
pub fn canonical(spec: &BodyHashSpec, body: &[u8]) -> Vec<u8> {
    let mut output = Output { hashes: Vec::new(), length: 0, stage: Vec::new(), copy: Some(Vec::new()) };
    match spec.canonicalization {
        Canonicalization::Simple => {
            let mut state = Simple::default();
            state.update(body, &mut output);
            state.finish(&mut output);
        }
        Canonicalization::Relaxed => {
            let mut state = Relaxed::default();
            state.update(body, &mut output);
            state.finish(&mut output);
        }
    }
    output.flush();
    let mut octets = output.copy.unwrap_or_default();
    octets.truncate(spec.length.and_then(|length| usize::try_from(length).ok()).unwrap_or(usize::MAX));
    octets
}

/// The simple canonicalization (RFC 6376 §3.4.3): empty lines at the end become the one CRLF that ends the body.
#[derive(Default)]
struct Simple {
    /// Line ends held back: at the end of the body they count for nothing.
    line_ends: u64,
    /// The last octet was a CR, which may be half of a line end.
    after_cr: bool,
}

impl Simple {
    fn update(&mut self, mut data: &[u8], output: &mut Output) {
        if self.after_cr && !data.is_empty() {
            self.after_cr = false;
            if let Some(rest) = data.strip_prefix(b"\n") {
                self.line_ends += 1;
                data = rest;
            } else {
                output.line_ends(&mut self.line_ends);
                output.write(b"\r");
            }
        }
        let (content, line_ends, after_cr) = split_line_ends(data);
        if !content.is_empty() {
            output.line_ends(&mut self.line_ends);
            output.write(content);
        }
        self.line_ends += line_ends;
        self.after_cr |= after_cr;
    }

    fn finish(mut self, output: &mut Output) {
        if self.after_cr {
            output.line_ends(&mut self.line_ends);
            output.write(b"\r");
        }
        // An empty body is a CRLF too.
        output.write(b"\r\n");
    }
}

/// Splits off the line ends at the end of `data` (how many) and a single CR after them.
fn split_line_ends(data: &[u8]) -> (&[u8], u64, bool) {
    let (mut content, after_cr) = match data {
        [head @ .., b'\r'] => (head, true),
        _ => (data, false),
    };
    let mut line_ends = 0;
    while let [head @ .., b'\r', b'\n'] = content {
        content = head;
        line_ends += 1;
    }
    (content, line_ends, after_cr)
}

/// The relaxed canonicalization (RFC 6376 §3.4.4): white space at the end of a line goes, elsewhere a run of it becomes
/// one space; then lines at the end that are empty go. An empty body stays empty.
#[derive(Default)]
struct Relaxed {
    /// Line ends held back.
    line_ends: u64,
    /// White space held back: before a line end it counts for nothing.
    white_space: bool,
    /// The last octet was a CR, which may be half of a line end.
    after_cr: bool,
    /// Something was written, so that the body ends with a CRLF.
    has_content: bool,
}

impl Relaxed {
    fn update(&mut self, mut data: &[u8], output: &mut Output) {
        if self.after_cr && !data.is_empty() {
            self.after_cr = false;
            if let Some(rest) = data.strip_prefix(b"\n") {
                self.end_line();
                data = rest;
            } else {
                self.content(b"\r", output);
            }
        }
        // Octets of a window that has to be changed, which is not looked at as a whole again.
        let mut uneven = 0;
        while !data.is_empty() {
            let window = data.get(..WINDOW).unwrap_or(data);
            if uneven == 0 && !self.white_space {
                let text = without_end(window);
                if is_canonical(text) {
                    self.content(text, output);
                    data = data.get(text.len()..).unwrap_or_default();
                    continue;
                }
                uneven = window.len();
            }
            let length = data.len();
            let (text, _) = data.split_at(memchr(b'\r', window).unwrap_or(window.len()));
            if is_level(text) {
                self.content(text, output);
            } else {
                self.words(text, output);
            }
            data = match data.get(text.len()..).unwrap_or_default() {
                [b'\r', b'\n', rest @ ..] => {
                    self.end_line();
                    rest
                }
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                [b'\r', rest @ ..] => {
                    self.content(b"\r", output);
                    rest
                }
                rest => rest,
            };
            uneven = uneven.saturating_sub(length - data.len());
        }
    }

    fn finish(mut self, output: &mut Output) {
        if self.after_cr {
            self.content(b"\r", output);
        }
        if self.has_content {
            output.write(b"\r\n");
        }
    }

    fn end_line(&mut self) {
        self.white_space = false;
        self.line_ends += 1;
    }

    /// Takes in text whose white space is to be levelled; it may begin and end inside a line.
    fn words(&mut self, mut text: &[u8], output: &mut Output) {
        while let Some(first) = text.first() {
            let is_space = is_white_space(*first);
            let end = text.iter().position(|b| is_white_space(*b) != is_space).unwrap_or(text.len());
            let (run, rest) = text.split_at(end);
            if is_space {
                self.white_space = true;
            } else {
                self.content(run, output);
            }
            text = rest;
        }
    }

    fn content(&mut self, octets: &[u8], output: &mut Output) {
        output.line_ends(&mut self.line_ends);
        if std::mem::take(&mut self.white_space) {
            output.write(b" ");
        }
        output.write(octets);
        self.has_content = true;
    }
}

/// Whether text is some words with single spaces between them, as most lines are, and so needs no change. Without a
/// way out of the loop, the compiler looks at many octets at once.
fn is_level(text: &[u8]) -> bool {
    let (Some(first), Some(last), Some(tail)) = (text.first(), text.last(), text.get(1..)) else { return false };
    let pairs = text.iter().zip(tail);
    let uneven = pairs.fold(false, |uneven, (a, b)| uneven | (*a == b'\t') | ((*a == b' ') & (*b == b' ')));
    !uneven && !is_white_space(*first) && !is_white_space(*last)
}

/// Whether lines that end with text stay as they are, however many; false for none. Without a way out of the loop, the
/// compiler looks at many octets at once.
fn is_canonical(lines: &[u8]) -> bool {
    let Some(tail) = lines.get(1..) else { return false };
    let pairs = lines.iter().zip(tail);
    !pairs.fold(false, |uneven, (a, b)| uneven | (*a == b'\t') | ((*a == b' ') & ((*b == b' ') | (*b == b'\r'))))
}

/// Without the line ends and white space at the end, which are held back.
fn without_end(lines: &[u8]) -> &[u8] {
    let is_text = |b: &u8| !is_white_space(*b) && !matches!(b, b'\r' | b'\n');
    let end = lines.iter().rposition(is_text).map_or(0, |last| last + 1);
    lines.get(..end).unwrap_or_default()
}

fn is_white_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t')
}

/// What one canonicalization yields, on its way into the hashes.
struct Output {
    hashes: Vec<Hash>,
    length: u64,
    /// Small writes are gathered: a call of the hash function costs more than some octets copied.
    stage: Vec<u8>,
    /// All that was hashed, if it is wanted.
    copy: Option<Vec<u8>>,
}

struct Hash {
    spec: BodyHashSpec,
    context: Context,
    /// Octets still to be hashed.
    left: u64,
}

impl Output {
    fn new<'a>(specs: impl Iterator<Item = &'a BodyHashSpec>) -> Option<Self> {
        let mut hashes: Vec<Hash> = Vec::new();
        for spec in specs {
            if hashes.iter().all(|known| known.spec != *spec) {
                let algorithm = match spec.algorithm {
                    HashAlgorithm::Sha256 => &SHA256,
                    HashAlgorithm::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
                };
                let left = spec.length.unwrap_or(u64::MAX);
                hashes.push(Hash { spec: *spec, context: Context::new(algorithm), left });
            }
        }
        (!hashes.is_empty()).then(|| Self { hashes, length: 0, stage: Vec::with_capacity(STAGE_SIZE), copy: None })
    }

    fn write(&mut self, octets: &[u8]) {
        self.length += octets.len() as u64;
        if self.stage.len() + octets.len() > STAGE_SIZE {
            self.flush();
        }
        if octets.len() > STAGE_SIZE / 2 {
            self.flush();
            self.hash(octets);
        } else {
            self.stage.extend_from_slice(octets);
        }
    }

    /// Writes the line ends that were held back.
    fn line_ends(&mut self, count: &mut u64) {
        while *count > 0 {
            let some = (*count).min(LINE_ENDS.len() as u64 / 2);
            self.write(LINE_ENDS.get(..some as usize * 2).unwrap_or_default());
            *count -= some;
        }
    }

    fn flush(&mut self) {
        let stage = std::mem::take(&mut self.stage);
        self.hash(&stage);
        self.stage = stage;
        self.stage.clear();
    }

    fn hash(&mut self, octets: &[u8]) {
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(octets);
        }
        for hash in &mut self.hashes {
            let some = usize::try_from(hash.left).unwrap_or(usize::MAX).min(octets.len());
            hash.context.update(octets.get(..some).unwrap_or_default());
            hash.left -= some as u64;
        }
    }

    fn finish(mut self, hashes: &mut Vec<(BodyHashSpec, BodyHash)>) {
        self.flush();
        let canonical_length = self.length;
        let done = self.hashes.into_iter();
        hashes.extend(done.map(|h| (h.spec, BodyHash { digest: h.context.finish(), canonical_length })));
    }
}

/// Octets gathered before they are hashed.
const STAGE_SIZE: usize = 4096;
/// Octets of a line that are looked at in one go; a line without an end must not be searched for it again and again.
const WINDOW: usize = 1024;
const LINE_ENDS: &[u8; 64] = b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\
    \r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;
    use Canonicalization::{Relaxed, Simple};
    use proptest::prelude::*;

    /// RFC 6376 §3.4.3 and §3.4.4 on a whole body, word for word.
    fn reference(canonicalization: Canonicalization, body: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
        let mut rest = body;
        while let Some((first, tail)) = rest.split_first() {
            if rest.starts_with(b"\r\n") {
                lines.push(Vec::new());
                rest = &rest[2..];
            } else {
                lines.last_mut().unwrap().push(*first);
                rest = tail;
            }
        }
        if canonicalization == Relaxed {
            for line in &mut lines {
                let words = String::from_utf8_lossy(line).into_owned();
                assert_eq!(words.as_bytes(), line, "the reference takes UTF-8 alone");
                let mut out = String::new();
                for c in words.trim_end_matches([' ', '\t']).chars() {
                    match c {
                        ' ' | '\t' if out.ends_with(' ') => {}
                        ' ' | '\t' => out.push(' '),
                        c => out.push(c),
                    }
                }
                *line = out.into_bytes();
            }
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        let mut out = lines.join(&b"\r\n"[..]);
        if !lines.is_empty() || canonicalization == Simple {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    fn spec(canonicalization: Canonicalization, length: Option<u64>) -> BodyHashSpec {
        BodyHashSpec { canonicalization, algorithm: HashAlgorithm::Sha256, length }
    }

    fn hash_in_pieces(spec: BodyHashSpec, pieces: &[&[u8]]) -> BodyHash {
        let mut hasher = BodyHasher::new(vec![spec]);
        pieces.iter().for_each(|piece| hasher.update(piece));
        hasher.finish().get(&spec).unwrap().clone()
    }

    fn sha256(octets: &[u8]) -> Digest {
        aws_lc_rs::digest::digest(&SHA256, octets)
    }

    #[test]
    fn bodies_are_canonicalized_to_the_letter() {
        let cases: [(&str, &str, &str, &str); 21] = [
            ("empty", "", "\r\n", ""),
            ("one line end", "\r\n", "\r\n", ""),
            ("line ends alone", "\r\n\r\n\r\n", "\r\n", ""),
            ("the example of RFC 6376 §3.4.5", " C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"),
            ("no line end", "a", "a\r\n", "a\r\n"),
            ("empty lines in between", "a\r\n\r\n\r\nb\r\n\r\n", "a\r\n\r\n\r\nb\r\n", "a\r\n\r\n\r\nb\r\n"),
            ("white space alone", " \t ", " \t \r\n", ""),
            ("white space lines at the end", "a\r\n \r\n\t\r\n", "a\r\n \r\n\t\r\n", "a\r\n"),
            ("white space lines in between", "a\r\n \t\r\nb", "a\r\n \t\r\nb\r\n", "a\r\n\r\nb\r\n"),
            ("a space alone in the first line", " \r\na", " \r\na\r\n", "\r\na\r\n"),
            ("a tab first", "\ta", "\ta\r\n", " a\r\n"),
            ("tabs in between", "a\t\tb", "a\t\tb\r\n", "a b\r\n"),
            ("a space at the end of a line", "a \r\nb", "a \r\nb\r\n", "a\r\nb\r\n"),
            ("white space last", "a\r\n ", "a\r\n \r\n", "a\r\n"),
            ("white space first", "  a\r\n", "  a\r\n", " a\r\n"),
            ("bare CR inside", "a\rb\r\n", "a\rb\r\n", "a\rb\r\n"),
            ("bare CR last", "a\r", "a\r\r\n", "a\r\r\n"),
            ("bare CR after empty lines", "\r\n\r\n\r", "\r\n\r\n\r\r\n", "\r\n\r\n\r\r\n"),
            ("two CR and LF", "a\r\r\n", "a\r\r\n", "a\r\r\n"),
            ("white space before bare CR", "a \r \r\n", "a \r \r\n", "a \r\r\n"),
            (
                "other white space is content",
                "a \u{b}\u{c}\u{a0}\r\n",
                "a \u{b}\u{c}\u{a0}\r\n",
                "a \u{b}\u{c}\u{a0}\r\n",
            ),
        ];
        for (name, body, simple, relaxed) in cases {
            for (canonicalization, expected) in [(Simple, simple), (Relaxed, relaxed)] {
                assert_eq!(reference(canonicalization, body.as_bytes()), expected.as_bytes(), "reference: {name}");
                let hash = hash_in_pieces(spec(canonicalization, None), &[body.as_bytes()]);
                assert_eq!(hash.digest(), sha256(expected.as_bytes()).as_ref(), "{name}, {canonicalization:?}");
                assert_eq!(hash.canonical_length, expected.len() as u64, "{name}, {canonicalization:?}");
                for at in 0..body.len() {
                    let (start, end) = body.as_bytes().split_at(at);
                    let split = hash_in_pieces(spec(canonicalization, None), &[start, end]);
                    assert_eq!(split.digest(), hash.digest(), "{name}, {canonicalization:?}, split at {at}");
                }
                let whole = canonical(&spec(canonicalization, None), body.as_bytes());
                assert_eq!(whole, expected.as_bytes(), "{name}, {canonicalization:?}");
                let cut = canonical(&spec(canonicalization, Some(3)), body.as_bytes());
                assert_eq!(cut, expected.as_bytes()[..expected.len().min(3)], "{name}, {canonicalization:?}");
            }
        }
    }

    #[test]
    fn length_counts_canonicalized_octets() {
        let body = b"a  b \r\n\r\nc\r\n\r\n";
        for (length, hashed) in
            [(0, ""), (3, "a b"), (6, "a b\r\n\r"), (10, "a b\r\n\r\nc\r\n"), (99, "a b\r\n\r\nc\r\n")]
        {
            let hash = hash_in_pieces(spec(Relaxed, Some(length)), &[body]);
            assert_eq!(hash.digest(), sha256(hashed.as_bytes()).as_ref(), "{length}");
            assert_eq!(hash.canonical_length, 10, "{length}");
        }
    }

    #[test]
    fn many_specs_share_one_pass() {
        let sha1 = BodyHashSpec { algorithm: HashAlgorithm::Sha1, ..spec(Simple, None) };
        let specs = vec![spec(Simple, None), spec(Relaxed, Some(2)), sha1, spec(Simple, None), spec(Relaxed, None)];
        let mut hasher = BodyHasher::new(specs.clone());
        assert_eq!(hasher.simple.as_ref().unwrap().1.hashes.len(), 2);
        hasher.update(b"x  y");
        let hashes = hasher.finish();
        assert_eq!(hashes.get(&sha1).unwrap().digest().len(), 20);
        assert_eq!(hashes.get(&specs[1]).unwrap().digest(), sha256(b"x ").as_ref());
        assert_eq!(hashes.get(&specs[4]).unwrap().digest(), sha256(b"x y\r\n").as_ref());
        assert!(hashes.get(&spec(Simple, Some(1))).is_none());
    }

    #[test]
    fn long_runs_of_line_ends_come_out_whole() {
        let body = [b"a".as_slice(), &b"\r\n".repeat(10_000), b"b\r\n"].concat();
        for canonicalization in [Simple, Relaxed] {
            let hash = hash_in_pieces(spec(canonicalization, None), &[&body]);
            assert_eq!(hash.digest(), sha256(&body).as_ref());
        }
    }

    #[test]
    fn what_is_gathered_is_bounded_and_hashed_in_order() {
        let mut hasher = BodyHasher::new(vec![spec(Simple, None)]);
        let mut body = Vec::new();
        let half = STAGE_SIZE / 2;
        let lengths = [half, half - 1, 1, 1, half, half, 1, half + 1, STAGE_SIZE, 1, 2 * STAGE_SIZE, half, 3, 5 * half];
        for length in std::iter::repeat_n(1, STAGE_SIZE + 1).chain(lengths) {
            let piece = vec![b'a' + (length % 26) as u8; length];
            hasher.update(&piece);
            body.extend_from_slice(&piece);
            let stage = &hasher.simple.as_ref().unwrap().1.stage;
            assert_eq!(stage.capacity(), STAGE_SIZE, "after {length} octets");
        }
        body.extend_from_slice(b"\r\n");
        assert_eq!(hasher.finish().get(&spec(Simple, None)).unwrap().digest(), sha256(&body).as_ref());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_split_gives_the_hash_of_the_reference(
            pieces in proptest::collection::vec("[ab \t\r\n\u{e4}]{0,6}|\r\n|[a-z]{30,60}|([a-z]{60} b\r\n){20}", 0..12),
            length in proptest::option::of(0_u64..40),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(|p| p.as_bytes()).collect();
            let body = pieces.concat();
            for canonicalization in [Simple, Relaxed] {
                let expected = reference(canonicalization, &body);
                let hashed = &expected[..expected.len().min(length.map_or(usize::MAX, |l| l as usize))];
                let hash = hash_in_pieces(spec(canonicalization, length), &pieces);
                let expected_digest = sha256(hashed);
                prop_assert_eq!(hash.digest(), expected_digest.as_ref());
                prop_assert_eq!(hash.canonical_length, expected.len() as u64);
                let at_once = hash_in_pieces(spec(canonicalization, length), &[&body]);
                prop_assert_eq!(at_once.digest(), hash.digest());
            }
        }
    }
}
