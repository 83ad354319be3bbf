//! Signatures: DKIM-Signature fields and their keys, ARC chains and what their sealers say.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dmarcgate::dns::{Answer, Lookup, Miss, RecordType, Records, TxtRecords};
use dmarcgate::evaluation::arc::Chain;
use dmarcgate::evaluation::arc::results::dmarc_finding;
use dmarcgate::evaluation::dkim::{Signatures, inspect};
use dmarcgate::evaluation::{ArcResult, DkimResult, KeySearch};
use dmarcgate::message::body_hash::BodyHasher;
use dmarcgate::message::header::HeaderSection;

/// The value of a DKIM-Signature, then, behind an octet that UTF-8 has not, the record at the name of its key.
pub fn dkim_signature(input: &[u8]) {
    let (value, record) = halves(input);
    let section = HeaderSection::parse([b"DKIM-Signature:", value, b"\r\nFrom: a@a.example\r\n\r\n"].concat());
    let fields = section.count("DKIM-Signature");
    let signatures = Signatures::read(&section, &[], LIMIT);
    assert!(signatures.key_names().len() <= LIMIT && signatures.body_hash_specs().len() <= LIMIT);
    let keys = ready(signatures.keys(&OneRecord(record)));
    let mut hasher = BodyHasher::new(signatures.body_hash_specs());
    hasher.update(b"Hello  world \r\n");
    let hashes = hasher.finish();
    let verified = signatures.verify(&section, &keys, &hashes, NOW);
    let outputs = verified.outputs;
    assert_eq!(outputs.len() + verified.skipped, fields, "none vanishes");
    for output in &outputs {
        assert!(!output.reason.is_empty() && output.result != DkimResult::None);
        assert_ne!(output.result, DkimResult::TempError, "DNS has answered");
        assert!(output.result != DkimResult::Pass || (output.domain.is_some() && output.key == KeySearch::Found));
        assert!(output.signature_start.len() <= 64);
    }
    let again = signatures.verify(&section, &keys, &hashes, NOW).outputs;
    assert_eq!(format!("{outputs:?}"), format!("{again:?}"));
}

/// A record at the name of a key: what is a key has its bounds, and neither folding nor tags of nobody's change it.
pub fn dkim_key(text: &[u8]) {
    let found = inspect(text);
    match found {
        Ok(facts) if facts.algorithm == "rsa" => assert!((1024..=8192).contains(&facts.bits), "{facts:?}"),
        Ok(facts) => assert_eq!((facts.algorithm, facts.bits), ("ed25519", 256)),
        Err(reason) => assert!(!reason.is_empty()),
    }
    let with = |more: &[u8]| inspect(&[text, more].concat());
    if found.is_ok() {
        assert_eq!(with(b"\r\n "), found, "folded at the end");
        // A list has a bound, and a tag is there once.
        let may_be_refused = text.iter().filter(|b| **b == b';').count() >= 62 || text.windows(2).any(|w| w == b"zz");
        assert!(with(b"; zz=1") == found || may_be_refused, "a tag of nobody's");
        assert!(with(b"; p=").is_err(), "a tag that is there twice");
    }
}

/// A header section, then the record at the names of all keys.
pub fn arc(input: &[u8]) {
    let (head, record) = halves(input);
    let section = HeaderSection::parse(head.to_vec());
    let fields: usize = ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"]
        .iter()
        .map(|name| section.count(name))
        .sum();
    let chain = Chain::read(&section);
    assert!(chain.key_names().len() <= 10);
    let keys = ready(chain.keys(&OneRecord(record)));
    let mut hasher = BodyHasher::new(chain.body_hash_spec().into_iter().collect());
    hasher.update(b"x\r\n");
    let output = chain.verify(&section, &keys, &hasher.finish(), NOW);
    assert_eq!(output.result == ArcResult::None, fields == 0);
    assert_ne!(output.result, ArcResult::TempError, "DNS has answered");
    assert_eq!(output.sets.is_empty(), output.result != ArcResult::Pass);
    assert!(output.sets.len() * 3 <= fields.min(150));
}

/// The value of an ARC-Authentication-Results.
pub fn arc_results(input: &[u8]) {
    if let Some(finding) = dmarc_finding(input) {
        let more = |more: &str| dmarc_finding(&[input, more.as_bytes()].concat());
        assert_eq!(more("; dmarc=pass header.from=b.example"), None, "two results are no evidence");
        assert_eq!(more("; spf=pass (dmarc=pass header.from=b.example)"), Some(finding), "others change nothing");
        assert_eq!(more("; spf=pass ("), None, "what can't be read is no evidence");
    }
}

/// The same text at every name.
struct OneRecord<'a>(&'a [u8]);

impl Lookup for OneRecord<'_> {
    async fn ask(&self, _: &str, record_type: RecordType) -> Answer {
        let texts = TxtRecords::new(vec![self.0.into()]);
        let records = (record_type == RecordType::Txt).then(|| Arc::new(Records::Txt(texts)));
        Answer { outcome: records.ok_or(Miss::NoData), ttl: Duration::from_secs(60) }
    }
}

fn halves(input: &[u8]) -> (&[u8], &[u8]) {
    let at = input.iter().position(|b| *b == SEPARATOR).unwrap_or(input.len());
    (&input[..at], input.get(at + 1..).unwrap_or_default())
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing to wait for"),
    }
}

/// Between the parts of an input.
const SEPARATOR: u8 = 0xff;
const LIMIT: usize = 3;
const NOW: u64 = 1_800_000_000;
