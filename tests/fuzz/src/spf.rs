//! What SPF reads of strangers: records with their macros, and what check_host() makes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dmarcgate::dns::{Answer, Lookup, Miss, Mx, RecordType, Records, TxtRecords};
use dmarcgate::spf::evaluate::{Cost, Request, check_host_at_cost};
use dmarcgate::spf::macros::{DomainSpec, MacroError, Values, check_macro_string};
use dmarcgate::spf::record::{Published, Record, SyntaxError};
use dmarcgate::spf::{Identity, SpfOutput, SpfResult};

/// An octet that chooses the client and what DNS has, then, divided by octets that UTF-8 has not, a record that stands
/// at every name, a local part, an EHLO name and a name of the client: whatever they are, the record is read within its
/// bounds, and the check ends within those of RFC 7208 §4.6.4, twice the same.
pub fn spf(input: &[u8]) {
    let (choice, rest) = input.split_first().unwrap_or((&0, &[]));
    let mut parts = rest.split(|b| *b == SEPARATOR);
    let record = parts.next().unwrap_or_default();
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (local_part, helo, name) = (text(), text(), text());
    let ip = match choice & 1 {
        0 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    };
    let values = Values {
        ip,
        local_part: &local_part,
        sender_domain: "sender.example",
        domain: "record.example",
        helo: &helo,
        validated_name: &name,
    };
    published(record);
    if let Ok(spec) = std::str::from_utf8(record) {
        domain_spec(spec, &values);
    }

    let request =
        Request { ip, helo: &helo, local_part: &local_part, domain: "sender.example", identity: Identity::MailFrom };
    let (output, cost) = check(&request, record, &name, *choice);
    let again = check(&request, record, &name, *choice);
    assert_eq!(format!("{:?}", (&output, cost)), format!("{again:?}"));
    assert_ne!(output.result, SpfResult::TempError, "DNS has answered");
    assert!(!output.unsettled && !output.reason.is_empty());
    assert!(output.records.len() <= 11 && cost.terms <= 11 && cost.void_terms <= 3, "{cost:?}");
    let within = cost.terms <= 10 && cost.void_terms <= 2;
    assert!(within || output.result == SpfResult::PermError, "{cost:?} {output:?}");
    let texts = output.records.iter().map(|(_, text)| &**text).chain(output.term.as_deref());
    assert!(texts.flat_map(str::bytes).all(|b| (0x20..=0x7e).contains(&b)), "{output:?}");
}

/// One evaluation, and how often it asks.
fn check(request: &Request<'_>, record: &[u8], name: &str, choice: u8) -> (SpfOutput, Cost) {
    let world = World { record, name, choice, asked: AtomicUsize::new(0) };
    let found = match pin!(check_host_at_cost(&world, request)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(found) => found,
        Poll::Pending => panic!("nothing to wait for"),
    };
    // A record for the start and for each term that leads to another; for each term one question, or eleven of an `mx`,
    // or ten about names of the client; and one for these names.
    assert!(world.asked.into_inner() <= 1 + MAX_TERMS * 22 + 1);
    found
}

/// A text at a name: what is read of it does not hang on blanks at its end, nor on modifiers that nobody knows.
fn published(text: &[u8]) {
    let read = |more: &[u8]| Published::read(&[[text, more].concat().into()]);
    match read(b"") {
        Published::Several => panic!("one text is not several"),
        Published::Absent => assert_eq!(Published::read(&[text.into(), text.into()]), Published::Absent),
        Published::One { text: kept, record } => {
            assert_eq!(Published::read(&[text.into(), text.into()]), Published::Several);
            assert!(kept.len() <= 4 * 4096 + 3);
            let of = |published: Published| match published {
                Published::One { record, .. } => record,
                other => panic!("no longer a record: {other:?}"),
            };
            assert_eq!(of(read(b"  ")), record, "blanks at the end");
            match (of(read(b" zz=%{i}")), record) {
                (Err(SyntaxError::TooLong), _) => {}
                (more, record) => assert_eq!(more, record, "a modifier of nobody's"),
            }
            bounded(&of(read(b"")));
        }
    }
}

fn bounded(record: &Result<Record, SyntaxError>) {
    let Ok(record) = record else { return };
    assert!(record.directives.len() <= 500);
    let texts = record.directives.iter().map(|d| &*d.text).chain(record.redirect.iter().map(|r| &*r.text));
    for text in texts {
        assert!(text.len() <= 256 + 3 && text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
    }
}

/// A domain with macros: it is a macro string, and what it stands for fits into DNS unless it is one label.
fn domain_spec(text: &str, values: &Values<'_>) {
    let spec = DomainSpec::parse(text);
    match (&spec, check_macro_string(text)) {
        (Ok(_) | Err(MacroError::BadEnd | MacroError::ExplanationLetter), Ok(())) => {}
        (Err(error), Err(same)) => assert_eq!(*error, same),
        (spec, checked) => panic!("{text:?}: {spec:?}, {checked:?}"),
    }
    let Ok(spec) = spec else { return };
    let name = spec.expand(values);
    assert!(name.len() <= 253 || !name.contains('.'), "{name:?}");
    if !text.contains('%') && text.len() <= 253 {
        assert_eq!(name, text.strip_suffix('.').unwrap_or(text));
    }
    assert!(text.contains("%{") || !spec.wants_validated_name());
}

/// The same at every name.
struct World<'a> {
    record: &'a [u8],
    name: &'a str,
    choice: u8,
    asked: AtomicUsize,
}

impl Lookup for World<'_> {
    async fn ask(&self, _: &str, record_type: RecordType) -> Answer {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let has = |bit: u8| self.choice & (1 << bit) != 0;
        let many = |bit: u8| if has(bit) { 12 } else { 1 };
        let records = match record_type {
            RecordType::Txt => Some(Records::Txt(TxtRecords::new(vec![self.record.into()]))),
            RecordType::A => {
                has(1).then(|| Records::A(vec![Ipv4Addr::new(192, 0, 2, 1 + (self.choice >> 7)); many(2)]))
            }
            RecordType::Aaaa => {
                let last = u16::from(1 + (self.choice >> 7));
                has(1).then(|| Records::Aaaa(vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last); many(2)]))
            }
            RecordType::Mx => {
                has(3).then(|| Records::Mx(vec![Mx { preference: 1, exchange: self.name.into() }; many(4)]))
            }
            RecordType::Ptr => has(5).then(|| Records::Ptr(vec![self.name.into(); many(6)])),
        };
        let miss = if self.choice & 2 == 0 { Miss::NoData } else { Miss::NxDomain };
        Answer { outcome: records.map(Arc::new).ok_or(miss), ttl: Duration::from_secs(60) }
    }
}

/// Between the parts of an input.
const SEPARATOR: u8 = 0xff;
/// Terms that ask DNS (RFC 7208 §4.6.4).
const MAX_TERMS: usize = 10;
