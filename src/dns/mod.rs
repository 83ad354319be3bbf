//! What the gate asks of DNS, and what it was told.
//!
//! [`Lookup`] is the only door to DNS: SPF, DKIM, ARC and DMARC ask through a handle that belongs to one message, so
//! that its evidence and its budget do too. NXDOMAIN, NODATA and every kind of failure stay apart all the way up,
//! since DMARC depends on the difference (RFC 9989 §5.3.6).
//!
//! A name with a CNAME exists: where the target does not, or has no record of the type, the answer is NODATA, though
//! the server says NXDOMAIN of the target (RFC 6604 §3). An answer without records and without an SOA is NODATA too.

use std::any::Any;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::label_enum;

mod cache;
mod lane;
pub mod message_lookup;
pub mod metrics;
pub mod resolver;
pub mod reverse;
pub mod server;
mod share;
mod transport;
#[cfg(test)]
pub mod zone;

pub use message_lookup::MessageLookup;
pub use metrics::Metrics;
pub use resolver::{Resolver, Settings};
pub use reverse::{ConfirmedName, confirmed_name, confirmed_name_within, reverse_name};
pub use server::NameServer;

label_enum! {
    /// The record types that the gate asks for.
    pub enum RecordType {
        /// IPv4 address.
        A = "a",
        /// IPv6 address.
        Aaaa = "aaaa",
        /// Mail exchanger.
        Mx = "mx",
        /// Reverse name.
        Ptr = "ptr",
        /// Text: SPF, DKIM and DMARC records.
        Txt = "txt",
    }
}

label_enum! {
    /// Why a question got no usable answer. All of these are temporary: a retry may be answered (RFC 9989 §5.3.6).
    pub enum Failure {
        /// No answer in time.
        Timeout = "timeout",
        /// The server answered SERVFAIL.
        ServFail = "servfail",
        /// The server answered REFUSED or another error code.
        Refused = "refused",
        /// The server can't be reached.
        Network = "network",
        /// The answer can't be read.
        Malformed = "malformed",
        /// This message's look-ups are used up, or its answers are too large together.
        Budget = "budget",
        /// The message's time was up before DNS had a fair chance to answer.
        Deadline = "deadline",
        /// The gate has too much to do: too many questions, too many answers held for others, no socket left.
        Overload = "overload",
    }
}

impl Failure {
    /// Whether the gate's own limits are the cause: nothing is known of DNS then, and a forger may have brought it
    /// about.
    pub fn is_ours(self) -> bool {
        match self {
            Self::Budget | Self::Deadline | Self::Overload => true,
            Self::Timeout | Self::ServFail | Self::Refused | Self::Network | Self::Malformed => false,
        }
    }
}

/// Why there are no records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The name exists, but has no record of the type (NODATA).
    NoData,
    /// The name does not exist, nor anything below it (NXDOMAIN, RFC 8020).
    NxDomain,
    /// Not known.
    Failed(Failure),
}

/// The records of one name and type, as they stand in the cache.
#[derive(Debug)]
pub enum Records {
    /// IPv4 addresses.
    A(Vec<Ipv4Addr>),
    /// IPv6 addresses.
    Aaaa(Vec<Ipv6Addr>),
    /// Exchangers in the order of their preference; a null MX (RFC 7505) is the empty name.
    Mx(Vec<Mx>),
    /// Names in lower case without a trailing dot.
    Ptr(Vec<Box<str>>),
    /// Texts.
    Txt(TxtRecords),
}

/// One mail exchanger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mx {
    /// Lower is preferred.
    pub preference: u16,
    /// In lower case without a trailing dot.
    pub exchange: Box<str>,
}

/// TXT records, each with its strings joined without a separator (RFC 7208 §3.3, RFC 6376 §3.6.2.2, RFC 9989 §4.5),
/// and what an evaluator made of them, so that a cached record is parsed once.
#[derive(Debug, Default)]
pub struct TxtRecords {
    texts: Vec<Box<[u8]>>,
    parsed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl TxtRecords {
    /// Wraps joined texts.
    pub fn new(texts: Vec<Box<[u8]>>) -> Self {
        Self { texts, parsed: OnceLock::new() }
    }

    /// The texts, one a record, in the order of the answer.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.texts.iter().map(|t| &**t)
    }

    /// The value that `parse` makes of the texts, kept for the life of the cache entry. A name that is asked for as two
    /// kinds of record keeps the first; the other is parsed anew.
    pub fn parsed<T: Send + Sync + 'static>(&self, parse: impl Fn(&[Box<[u8]>]) -> T) -> Arc<T> {
        let kept = self.parsed.get_or_init(|| Arc::new(parse(&self.texts)));
        Arc::clone(kept).downcast::<T>().unwrap_or_else(|_| Arc::new(parse(&self.texts)))
    }
}

/// The answer to one question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The records, or why there are none.
    pub outcome: Result<Arc<Records>, Miss>,
    /// How long the gate remembers the answer from now: as long as DNS says, within the bounds of [`Settings`].
    pub ttl: Duration,
}

impl Asked {
    /// Whether no server was asked, for the message had no look-up left.
    pub fn was_not_put(&self) -> bool {
        matches!(self.answer.outcome, Err(Miss::Failed(Failure::Budget)))
    }
}

impl Answer {
    /// An answer without records that is not remembered.
    fn without_records(miss: Miss) -> Self {
        Self { outcome: Err(miss), ttl: Duration::ZERO }
    }

    /// No answer.
    fn failed(failure: Failure) -> Self {
        Self::without_records(Miss::Failed(failure))
    }
}

/// One question of a message with what came of it: evidence for `check` and `explain`.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The name as asked, in lower case, without a trailing dot.
    pub name: Arc<str>,
    /// The type.
    pub record_type: RecordType,
    /// What was answered.
    pub answer: Answer,
    /// How long this message waited for it.
    pub waited: Duration,
    /// Whether the cache had it.
    pub cached: bool,
}

/// What one message was told by DNS.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The questions with their answers, in the order of the answers.
    pub asked: Vec<Asked>,
    /// Questions that are not among them, since their answers were too large together, or too many were not put: see
    /// [`MessageLookup`].
    pub left_out: usize,
}

/// The look-ups of one message.
pub trait Lookup: Sync {
    /// Asks for the records of `name` (a DNS name of any characters, at most 253 octets in text form; one trailing dot
    /// does no harm). A name that DNS can't carry (an empty label, one beyond 63 octets, one too long) is answered
    /// NXDOMAIN without a question.
    fn ask(&self, name: &str, record_type: RecordType) -> impl Future<Output = Answer> + Send;

    /// The texts at `name`; never empty when `Ok`.
    fn txt(&self, name: &str) -> impl Future<Output = Result<Arc<Records>, Miss>> + Send {
        async { self.ask(name, RecordType::Txt).await.outcome }
    }
}

impl Records {
    /// The texts, if these are TXT records.
    pub fn as_txt(&self) -> Option<&TxtRecords> {
        match self {
            Self::Txt(txt) => Some(txt),
            _ => None,
        }
    }

    /// IPv4 addresses; none if these are other records.
    pub fn as_a(&self) -> &[Ipv4Addr] {
        if let Self::A(addresses) = self { addresses } else { &[] }
    }

    /// IPv6 addresses; none if these are other records.
    pub fn as_aaaa(&self) -> &[Ipv6Addr] {
        if let Self::Aaaa(addresses) = self { addresses } else { &[] }
    }

    /// Exchangers; none if these are other records.
    pub fn as_mx(&self) -> &[Mx] {
        if let Self::Mx(exchangers) = self { exchangers } else { &[] }
    }

    /// Names; none if these are other records.
    pub fn as_ptr(&self) -> &[Box<str>] {
        if let Self::Ptr(names) = self { names } else { &[] }
    }

    /// Whether `ip` is among these addresses.
    pub fn contains_address(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.as_a().contains(&ip),
            IpAddr::V6(ip) => self.as_aaaa().contains(&ip),
        }
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::A(addresses) => addresses.is_empty(),
            Self::Aaaa(addresses) => addresses.is_empty(),
            Self::Mx(exchangers) => exchangers.is_empty(),
            Self::Ptr(names) => names.is_empty(),
            Self::Txt(txt) => txt.texts.is_empty(),
        }
    }

    /// About how many octets they take.
    fn octets(&self) -> usize {
        match self {
            Self::A(addresses) => addresses.len() * 4,
            Self::Aaaa(addresses) => addresses.len() * 16,
            Self::Mx(exchangers) => exchangers.iter().map(|mx| mx.exchange.len() + 24).sum(),
            Self::Ptr(names) => names.iter().map(|name| name.len() + 16).sum(),
            Self::Txt(txt) => txt.texts.iter().map(|text| text.len() + 16).sum(),
        }
    }

    /// About how many octets they take at most, with what an evaluator makes of them: a parsed text holds its own
    /// copies of what it names, and an item for each term, tag or macro.
    fn footprint(&self) -> usize {
        let Self::Txt(txt) = self else { return self.octets() };
        let is_mark = |octet: &&u8| b" ;,%".contains(octet);
        let marks: usize = txt.texts().map(|text| text.iter().filter(is_mark).count()).sum();
        self.octets().saturating_mul(PARSED_COPIES) + marks.min(PARSED_ITEMS) * OCTETS_PER_ITEM
    }
}

/// The text itself, the terms in it, and the names in these.
const PARSED_COPIES: usize = 3;
/// Items that an evaluator makes of one answer at most: terms and macros of an SPF record are bounded at 500 each.
const PARSED_ITEMS: usize = 1000;
/// What one of them takes, with its share of a list that was grown by doubling and what its allocations cost.
const OCTETS_PER_ITEM: usize = 128;
