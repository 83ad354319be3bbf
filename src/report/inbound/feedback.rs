//! Reads the XML of an aggregate report, event by event, into a value whose size is bounded. Pure.
//!
//! RFC 7489 and RFC 9990 differ in elements that are not read here. Real reports differ from both: what is not known is
//! passed over, what is missing and not needed stays empty, words may be written in capitals. XML beyond its simplest
//! form is refused: a document type, and with it any custom entity. Attributes are never looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead, Read};
use std::net::IpAddr;

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};

use crate::domain::Domain;
use crate::label::Label;
use crate::record::{AlignmentOutcome, Policy, ReportDisposition};
use crate::report::inbound::{Refusal, unpack};
use crate::store::inbound::{MAX_MESSAGES, Report, Row};

/// Reads a report to its end.
///
/// # Errors
///
/// It is no report, goes beyond the bounds, or is not read for its form; nothing of it counts then.
pub fn read(xml: impl BufRead) -> Result<Report, Refusal> {
    let mut reader = Reader::from_reader(Rationed { inner: xml, left: 0 });
    let (mut draft, mut buffer) = (Draft::default(), Vec::new());
    loop {
        buffer.clear();
        reader.get_mut().left = MAX_TOKEN;
        match reader.read_event_into(&mut buffer).map_err(|error| refusal(&error))? {
            Event::Start(tag) => draft.open(tag.local_name().as_ref())?,
            Event::End(_) => draft.close()?,
            Event::Empty(tag) => {
                draft.open(tag.local_name().as_ref())?;
                draft.close()?;
            }
            Event::Text(text) => draft.text(&text)?,
            Event::CData(text) => draft.text(&text)?,
            Event::GeneralRef(reference) => draft.text(&resolved(&reference)?)?,
            Event::DocType(_) => return Err(Refusal::Doctype),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => return draft.finish(),
        }
    }
}

fn refusal(error: &quick_xml::Error) -> Refusal {
    match error {
        quick_xml::Error::Io(error) => unpack::refusal_in(error).unwrap_or(Refusal::Compression),
        quick_xml::Error::Encoding(_) => Refusal::Charset,
        _ => Refusal::Malformed,
    }
}

/// The five entities that every XML has, and characters by number.
fn resolved(reference: &BytesRef<'_>) -> Result<String, Refusal> {
    let text = match &**reference {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => {
            let character = reference.resolve_char_ref().map_err(|_| Refusal::Malformed)?;
            return character.map(String::from).ok_or(Refusal::Doctype);
        }
    };
    Ok(text.to_owned())
}

/// Gives the XML reader so many octets for each event and no more: it would gather an endless tag or text in memory.
struct Rationed<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> BufRead for Rationed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let octets = self.inner.fill_buf()?;
        match self.left {
            0 if !octets.is_empty() => Err(io::Error::other(Refusal::Bounds)),
            left => Ok(octets.get(..left).unwrap_or(octets)),
        }
    }

    fn consume(&mut self, taken: usize) {
        self.left = self.left.saturating_sub(taken);
        self.inner.consume(taken);
    }
}

impl<R: BufRead> Read for Rationed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// A report as far as it was read.
#[derive(Default)]
struct Draft {
    /// The elements that are open, by their known names.
    path: Vec<&'static str>,
    /// The text of the innermost one.
    text: String,
    organization: String,
    report_id: String,
    begin: Option<i64>,
    end: Option<i64>,
    policy_domain: Option<Domain>,
    policy: String,
    record: Record,
    rows: BTreeMap<Row, u64>,
    records: usize,
    messages: u64,
    left_out: u64,
    /// Whether the report was there.
    closed: bool,
}

/// One `record`, which becomes a row.
#[derive(Default)]
struct Record {
    source_ip: Option<IpAddr>,
    count: Option<u64>,
    disposition: Option<ReportDisposition>,
    dkim: Option<AlignmentOutcome>,
    spf: Option<AlignmentOutcome>,
    reasons: Vec<&'static str>,
    header_from: Option<Domain>,
    dkim_passed: Vec<Domain>,
    spf_passed: Vec<Domain>,
    /// Of the result that is open.
    domain: Option<Domain>,
    passed: bool,
}

impl Draft {
    fn open(&mut self, name: &str) -> Result<(), Refusal> {
        if self.path.len() >= MAX_DEPTH {
            return Err(Refusal::Bounds);
        }
        let known = NAMES.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().unwrap_or_default();
        if self.path.is_empty() && (self.closed || known != "feedback") {
            return Err(Refusal::Content);
        }
        self.path.push(known);
        self.text.clear();
        match self.path.as_slice() {
            ["feedback", "record"] => self.record = Record::default(),
            ["feedback", "record", "auth_results", "dkim" | "spf"] => {
                (self.record.domain, self.record.passed) = (None, false);
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), Refusal> {
        if self.path.is_empty() && !text.trim().is_empty() {
            return Err(Refusal::Malformed);
        }
        // Text between elements is ignored; text longer than any that counts is cut.
        let room = MAX_TEXT.saturating_sub(self.text.len());
        self.text.push_str(text.get(..text.floor_char_boundary(room)).unwrap_or_default());
        Ok(())
    }

    fn close(&mut self) -> Result<(), Refusal> {
        let text = std::mem::take(&mut self.text);
        let text = text.trim();
        match self.path.as_slice() {
            ["feedback"] => self.closed = true,
            ["feedback", "report_metadata", name] => match *name {
                "org_name" => self.organization = cleaned(text),
                "report_id" => self.report_id = cleaned(text),
                _ => {}
            },
            ["feedback", "report_metadata", "date_range", "begin"] => self.begin = epoch(text),
            ["feedback", "report_metadata", "date_range", "end"] => self.end = epoch(text),
            ["feedback", "policy_published", "domain"] => self.policy_domain = Domain::parse(text).ok(),
            ["feedback", "policy_published", "p"] => {
                self.policy = Policy::parse_ignore_case(text).map_or("", Label::as_str).to_owned();
            }
            ["feedback", "record"] => self.end_of_record()?,
            ["feedback", "record", rest @ ..] => self.record.take(rest, text),
            _ => {}
        }
        // The XML reader makes sure that end tags match.
        self.path.pop();
        Ok(())
    }

    fn end_of_record(&mut self) -> Result<(), Refusal> {
        self.records += 1;
        if self.records > MAX_RECORDS {
            return Err(Refusal::Bounds);
        }
        match std::mem::take(&mut self.record).row() {
            Some((_, 0)) => {}
            Some((row, messages)) => {
                self.messages = self.messages.saturating_add(messages);
                match self.rows.entry(row) {
                    Entry::Occupied(mut like) => *like.get_mut() += messages,
                    Entry::Vacant(place) => {
                        place.insert(messages);
                    }
                }
            }
            None => self.left_out += 1,
        }
        if self.rows.len() > MAX_ROWS || self.messages > MAX_MESSAGES { Err(Refusal::Bounds) } else { Ok(()) }
    }

    fn finish(self) -> Result<Report, Refusal> {
        if !self.closed || !self.path.is_empty() {
            return Err(Refusal::Malformed);
        }
        let (Some(policy_domain), Some(begin), Some(end)) = (self.policy_domain, self.begin, self.end) else {
            return Err(Refusal::Content);
        };
        let is_empty = self.rows.is_empty() && self.left_out > 0;
        if self.report_id.is_empty() || begin > end || is_empty {
            return Err(Refusal::Content);
        }
        Ok(Report {
            reporter: None,
            organization: self.organization,
            report_id: self.report_id,
            policy_domain,
            policy: self.policy,
            begin,
            end,
            rows: self.rows.into_iter().collect(),
            left_out: self.left_out,
        })
    }
}

impl Record {
    /// Takes the text of the element at `path`.
    fn take(&mut self, path: &[&str], text: &str) {
        match path {
            ["row", "source_ip"] => self.source_ip = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()),
            ["row", "count"] => self.count = text.parse().ok().filter(|count| *count <= MAX_COUNT),
            ["row", "policy_evaluated", "disposition"] => self.disposition = ReportDisposition::parse_ignore_case(text),
            ["row", "policy_evaluated", "dkim"] => self.dkim = AlignmentOutcome::parse_ignore_case(text),
            ["row", "policy_evaluated", "spf"] => self.spf = AlignmentOutcome::parse_ignore_case(text),
            ["row", "policy_evaluated", "reason", "type"] => {
                let known = REASONS.iter().find(|known| known.eq_ignore_ascii_case(text)).copied().unwrap_or("other");
                insert(&mut self.reasons, known, REASONS.len());
            }
            ["identifiers", "header_from"] => self.header_from = Domain::parse(text).ok(),
            ["auth_results", "dkim" | "spf", "domain"] => self.domain = Domain::parse(text).ok(),
            ["auth_results", "dkim" | "spf", "result"] => self.passed = text.eq_ignore_ascii_case("pass"),
            ["auth_results", mechanism @ ("dkim" | "spf")] => {
                let passed = if *mechanism == "dkim" { &mut self.dkim_passed } else { &mut self.spf_passed };
                if let Some(domain) = self.domain.take().filter(|_| self.passed) {
                    insert(passed, domain, MAX_PASSED);
                }
            }
            _ => {}
        }
    }

    /// The row and its number of messages; none without an address or a plausible number.
    fn row(self) -> Option<(Row, u64)> {
        let joined = |domains: Vec<Domain>| domains.iter().map(Domain::as_str).collect::<Vec<_>>().join(" ");
        let row = Row {
            source_ip: self.source_ip?,
            header_from: self.header_from,
            disposition: self.disposition,
            dkim: self.dkim.unwrap_or(AlignmentOutcome::Fail),
            spf: self.spf.unwrap_or(AlignmentOutcome::Fail),
            dkim_passed: joined(self.dkim_passed),
            spf_passed: joined(self.spf_passed),
            reasons: self.reasons.join(" "),
        };
        Some((row, self.count?))
    }
}

/// Puts what is not there yet into a sorted list, if there is room.
fn insert<T: Ord>(list: &mut Vec<T>, item: T, most: usize) {
    if let Err(place) = list.binary_search(&item)
        && list.len() < most
    {
        list.insert(place, item);
    }
}

/// Seconds since the epoch; what follows a decimal point is dropped.
fn epoch(text: &str) -> Option<i64> {
    let (seconds, _) = text.split_once('.').unwrap_or((text, ""));
    seconds.parse().ok().filter(|seconds| (0..=LAST_SECOND).contains(seconds))
}

/// Text of a peer without what a database or a terminal can't hold.
fn cleaned(text: &str) -> String {
    let mut cleaned = text.replace(char::is_control, "\u{FFFD}");
    cleaned.truncate(cleaned.floor_char_boundary(MAX_NAME));
    cleaned.truncate(cleaned.trim_end().len());
    cleaned
}

/// The elements that are known.
const NAMES: &[&str] = &[
    "feedback",
    "report_metadata",
    "org_name",
    "report_id",
    "date_range",
    "begin",
    "end",
    "policy_published",
    "domain",
    "p",
    "record",
    "row",
    "source_ip",
    "count",
    "policy_evaluated",
    "disposition",
    "dkim",
    "spf",
    "reason",
    "type",
    "identifiers",
    "header_from",
    "auth_results",
    "result",
];
/// Reasons for an override: those of RFC 9990 §3.1.1.14, and the two that RFC 7489 had beside them.
const REASONS: &[&str] =
    &["forwarded", "local_policy", "mailing_list", "other", "policy_test_mode", "sampled_out", "trusted_forwarder"];
/// Octets of one tag, text, comment or declaration, in a text the stretch between two references.
const MAX_TOKEN: usize = 64 * 1024;
/// Octets of a text that are kept.
const MAX_TEXT: usize = 1024;
/// Octets of a name or an id that are stored.
const MAX_NAME: usize = 255;
/// Elements in one another: seven are in use.
const MAX_DEPTH: usize = 16;
/// `record` elements of a report.
const MAX_RECORDS: usize = 500_000;
/// Different rows of a report: some ten megabytes in memory, half a second for the database.
pub const MAX_ROWS: usize = 25_000;
/// Messages of one `record`: a billion, more than any provider gets from one address in a day.
pub const MAX_COUNT: u64 = 1_000_000_000;
/// Domains that passed which a row lists, by DKIM and by SPF.
const MAX_PASSED: usize = 4;
/// The end of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;
