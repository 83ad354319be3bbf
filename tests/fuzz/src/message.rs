//! Messages: what follows DATA, chunks, and header sections.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use dmarcgate::message::author::Author;
use dmarcgate::message::header::{AuthservIds, HeaderSection};
use dmarcgate::message::spool::{Settings, Spool, Spooler};
use dmarcgate::session::fault::Fault;
use dmarcgate::session::receive::{Bounds, Intake, Received, Stage};
use dmarcgate::session::settings::BareNewline;
use dmarcgate::smtp::data::{Decoder, Encoder, Framing, Irregularities, Progress, Sink, Unstuffer, end_of_data};

/// Four octets that say how it is cut, then what follows a 354 reply.
pub fn data(input: &[u8]) {
    let (cuts, input) = input.split_at(input.len().min(CUTS));
    let whole = decode(Framing::Dot, &[input]);
    assert_eq!(decode(Framing::Dot, &pieces(input, cuts)), whole, "cut by {cuts:?}");
    let taken = whole.end.unwrap_or(input.len());
    assert!(taken <= input.len());
    if whole.end.is_some() {
        assert!(input[..taken] == *b".\r\n" || input[..taken].ends_with(b"\r\n.\r\n"), "only CRLF . CRLF ends it");
        assert!(whole.ends_with_line);
        goes_on_safely(&whole);
    } else {
        assert_eq!(memmem(input, b"\r\n.\r\n"), None, "CRLF . CRLF ends it");
    }
    taken_in(Framing::Dot, &input[..taken], cuts, &whole);
}

/// The same for chunks, whose octets are counted.
pub fn bdat(input: &[u8]) {
    let (cuts, input) = input.split_at(input.len().min(CUTS));
    let whole = decode(Framing::Count, &[input]);
    assert_eq!(decode(Framing::Count, &pieces(input, cuts)), whole, "cut by {cuts:?}");
    assert_eq!(whole.end, None, "only the count ends it");
    goes_on_safely(&whole);
    let (mut unstuffer, mut content) = (Unstuffer::default(), Vec::new());
    pieces(&whole.wire, cuts).into_iter().for_each(|piece| unstuffer.unstuff(piece, &mut content));
    assert_eq!(content, without_bare_cr(&whole.content), "as one chunk again it is the content");
    taken_in(Framing::Count, input, cuts, &whole);
}

/// The head of a message: whatever it is, it can be read, its author is found or not, and no forged result goes on.
pub fn header(input: &[u8]) {
    let Ok(received) = intake(Framing::Count, &[input]) else { return };
    let section = &received.subject.section;
    let octets = section.as_bytes();
    let mut at = 0;
    for field in section.fields() {
        assert!(field.raw.len() > field.name.len() + field.value.len() && field.raw.starts_with(field.name));
        at += field.raw.len();
    }
    assert!(at <= octets.len());
    let nobody = AuthservIds::default();
    // Results of a version that is unknown go, too, whoever speaks.
    let (removed, policies) = (section.removals(&nobody).count(), section.lenient_count(FAIL_POLICY));
    assert!((policies..=policies + section.lenient_count("Authentication-Results")).contains(&removed));

    let ids = AuthservIds::new(["mx.example", "bücher.example"]);
    let kept = HeaderSection::parse(relayed(section, &ids));
    assert_eq!(kept.removals(&ids).count(), 0, "what goes on has nothing forged: {}", octets.escape_ascii());
    assert_eq!(kept.lenient_count(FAIL_POLICY), 0);
    assert!(kept.fields().all(|field| section.fields().any(|whole| whole == field)), "fields go on as they came");

    if let Author::Usable { domains, .. } = Author::read(section) {
        assert!((1..=10).contains(&domains.len()) && section.count("From") == 1, "{domains:?}");
        assert!((1..domains.len()).all(|i| !domains[..i].contains(&domains[i])), "{domains:?}");
        assert!(section.malformed_line().is_none());
    }
    // Reading for evaluation catches our panics: here they are to be seen.
    assert!(received.subject.claims.is_some(), "reading {} panicked", octets.escape_ascii());
}

/// What comes of a message in pieces.
#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    wire: Vec<u8>,
    odd: Irregularities,
    ends_with_line: bool,
    /// Octets up to the end of the data.
    end: Option<usize>,
}

impl Sink for Decoded {
    fn piece(&mut self, content: &[u8], wire: &[u8]) {
        self.content.extend_from_slice(content);
        self.wire.extend_from_slice(wire);
    }
}

fn decode(framing: Framing, pieces: &[&[u8]]) -> Decoded {
    let (mut decoder, mut out, mut before) = (Decoder::new(framing), Decoded::default(), 0);
    for piece in pieces {
        if let Progress::End(taken) = decoder.decode(piece, &mut out) {
            out.end = Some(before + taken);
            break;
        }
        before += piece.len();
    }
    if framing == Framing::Count {
        decoder.finish(&mut out);
    }
    (out.odd, out.ends_with_line) = (decoder.irregularities(), decoder.ends_with_line());
    out
}

/// A message that has come whole ends behind the octets sent, and nowhere before, for any server.
fn goes_on_safely(message: &Decoded) {
    let Decoded { content, wire, odd, ends_with_line, .. } = message;
    let whole = [wire, end_of_data(*ends_with_line)].concat();
    let end = if whole == b".\r\n" { Some(0) } else { memmem(&whole, b"\r\n.\r\n").map(|at| at + 2) };
    assert_eq!(end, Some(whole.len() - 3), "{}", whole.escape_ascii());
    let bare = whole.windows(2).any(|two| (two[0] == b'\r') != (two[1] == b'\n'));
    assert!(!bare && whole.first() != Some(&b'\n'), "{}", whole.escape_ascii());
    assert!(odd.nul_dot_line || !hides_an_end(wire), "{}", whole.escape_ascii());
    let mut encoded = Vec::new();
    Encoder::default().encode(content, &mut encoded);
    assert_eq!(&encoded, wire, "it is the encoding of the content");
    let mut again = decode(Framing::Dot, &[&whole]);
    assert_eq!(again.end, Some(whole.len()));
    if !ends_with_line {
        again.content.truncate(again.content.len() - 2);
    }
    assert_eq!(again.content, without_bare_cr(content), "the next server reads the same");
}

/// What the most lenient server could take for an end of data: any line of one dot, whatever ends lines.
fn hides_an_end(wire: &[u8]) -> bool {
    let without_nul: Vec<u8> = wire.iter().copied().filter(|b| *b != 0).collect();
    // Behind the last line end there is no line yet.
    let end = without_nul.iter().rposition(|b| matches!(b, b'\r' | b'\n')).unwrap_or(0);
    without_nul[..end].split(|b| matches!(b, b'\r' | b'\n')).any(|line| line == b".")
}

/// The same message taken in as a session does it: the parts are those of the content, however it is cut.
fn taken_in(framing: Framing, input: &[u8], cuts: &[u8], whole: &Decoded) {
    let taken = match (intake(framing, &[input]), intake(framing, &pieces(input, cuts))) {
        (Err(fault), Err(again)) => {
            assert_eq!(fault, again, "cut by {cuts:?}");
            let head = whole.content.len().min(memmem(&whole.content, b"\r\n\r\n").unwrap_or(usize::MAX));
            assert!(fault != Fault::HeaderSize || head + 4 > BOUNDS.header_size, "{head}");
            assert_ne!(fault, Fault::MessageSize);
            return;
        }
        (Ok(taken), Ok(again)) => {
            assert_eq!(format!("{:?}", taken.hashes), format!("{:?}", again.hashes), "cut by {cuts:?}");
            assert_eq!((taken.size, taken.dots), (again.size, again.dots), "cut by {cuts:?}");
            assert_eq!(octets(again.body), octets_of(&taken, &whole.wire), "cut by {cuts:?}");
            taken
        }
        (one, other) => panic!("{:?} whole, {:?} cut by {cuts:?}", one.err(), other.err()),
    };
    assert_eq!((taken.size, taken.ends_with_line), (whole.content.len() as u64, whole.ends_with_line));
    assert_eq!((taken.irregularities, taken.framing), (whole.odd, framing));
    let refused = taken.objection(BareNewline::Reject).is_some();
    assert!(refused || !(whole.odd.bare_cr || whole.odd.bare_lf || whole.odd.nul_dot_line));
    let (head, dots) = (taken.subject.section.as_bytes().to_vec(), taken.dots);
    let body = octets(taken.body);
    assert_eq!(head.len() as u64 + body.len() as u64 - dots, whole.content.len() as u64, "what BDAT announces");
    let (mut encoded, mut encoder) = (Vec::new(), Encoder::default());
    encoder.encode(&head, &mut encoded);
    encoded.extend_from_slice(&body);
    assert_eq!(encoded, whole.wire, "header section and body, encoded apart, are the whole");
}

/// The body that a message must have: what is on the wire behind its header section.
fn octets_of(message: &Received, wire: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    Encoder::default().encode(message.subject.section.as_bytes(), &mut head);
    wire.strip_prefix(&*head).expect("the header section comes first").to_vec()
}

fn intake(framing: Framing, pieces: &[&[u8]]) -> Result<Received, Fault> {
    static SPOOLER: OnceLock<Spooler> = OnceLock::new();
    let directory = std::env::temp_dir();
    let spooler = SPOOLER.get_or_init(|| Spooler::new(&Settings { directory, memory: 1 << 30 }).expect("a directory"));
    let mut intake = Intake::new(framing, BOUNDS, spooler.spool());
    for piece in pieces {
        match intake.take(piece) {
            Stage::Going => {}
            Stage::Hopeless => panic!("no input is as large"),
            Stage::End(_) => break,
        }
    }
    intake.finish()
}

/// What is in a spool that never went to its file.
fn octets(spool: Spool) -> Vec<u8> {
    let (mut reader, mut all) = (spool.into_reader(), Vec::new());
    loop {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(reader.next()).poll(&mut context) {
            Poll::Ready(Ok(Some(piece))) => all.extend_from_slice(piece),
            Poll::Ready(Ok(None)) => return all,
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => panic!("memory is at hand"),
        }
    }
}

fn relayed(section: &HeaderSection, ids: &AuthservIds) -> Vec<u8> {
    section.relayed(&section.removals(ids)).collect::<Vec<_>>().concat()
}

/// `input` in pieces whose lengths are those of `cuts`, over and over, and never 0.
fn pieces<'a>(input: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let (mut rest, mut pieces) = (input, Vec::new());
    for length in cuts.iter().cycle().map(|length| usize::from(*length).max(1)) {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

fn without_bare_cr(content: &[u8]) -> Vec<u8> {
    let is_bare = |at: usize| content[at] == b'\r' && content.get(at + 1) != Some(&b'\n');
    (0..content.len()).map(|at| if is_bare(at) { b' ' } else { content[at] }).collect()
}

fn memmem(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// Octets of an input that say how the rest is cut.
const CUTS: usize = 4;
const FAIL_POLICY: &str = "X-DMARC-Fail-policy";
/// Small, so that the bounds are met, but for the size of the message.
const BOUNDS: Bounds =
    Bounds { message_size: 1 << 24, header_size: 2000, header_fields: 30, received_fields: 5, signatures: Some(3) };
