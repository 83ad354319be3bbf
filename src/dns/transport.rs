//! Carries one question to the name servers and reads the answer.
//!
//! hickory is the wire alone: message format, a fresh random port for each UDP question, spelling in mixed case (0x20),
//! EDNS, TCP where an answer is cut. Which server is asked when, and what an answer means, is decided here. A question
//! ends in a [`Reply`]; nothing is remembered but which server answered last.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType as WireType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::resolver::Error;
use super::{Failure, Miss, Mx, RecordType, Records, TxtRecords};

/// The name servers and how they are asked.
pub(super) struct Transport {
    servers: Vec<Server>,
    /// The server that answered last: a dead one costs its time-out once, not with every question.
    preferred: AtomicUsize,
    timeout: Duration,
    attempts: u32,
}

/// What came of a question.
pub(super) struct Reply {
    /// The records, or why there are none.
    pub outcome: Result<Records, Miss>,
    /// How long DNS lets it be remembered; none where nobody said (no SOA, RFC 2308 §5) and for failures.
    pub ttl: Option<Duration>,
}

/// One server; each pool holds nothing else, so that hickory has no choice to make.
struct Server {
    /// UDP, and TCP for what is cut or comes back in another spelling.
    pool: Pool,
    /// TCP alone.
    tcp: Pool,
}

type Pool = NameServerPool<TokioRuntimeProvider>;

/// How a question is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// UDP with EDNS and mixed case.
    Full,
    /// UDP in lower case without EDNS: for servers (and middle boxes) that choke on either.
    Plain,
    /// TCP: for UDP answers that can't be read, such as those larger than we said we take.
    Tcp,
}

/// An answer that a server stands by.
struct Answered {
    answers: Vec<Record>,
    nx_domain: bool,
    /// Seconds, if there is an SOA: the answer is then a complete one.
    negative_ttl: Option<u32>,
}

/// What an answer says about one name.
enum Reading {
    Found(Records, u32),
    /// A CNAME whose target the server says nothing about.
    Alias(Name, u32),
    Missing(Miss, Option<u32>),
}

impl Transport {
    /// Prepares to ask `servers` in this order; opens nothing yet.
    pub fn new(servers: &[SocketAddr], timeout: Duration, attempts: u32) -> Result<Self, Error> {
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        options.cache_size = 0;
        options.num_concurrent_reqs = 1;
        options.max_active_requests = MAX_TCP_REQUESTS;
        let tls = TlsConfig::new().map_err(|e| Error::Transport(e.to_string()))?;
        let context = Arc::new(PoolContext::new(options, tls));
        let servers = servers.iter().map(|address| Server::new(*address, &context)).collect::<Vec<_>>();
        if servers.is_empty() {
            return Err(Error::NoServers);
        }
        Ok(Self { servers, preferred: AtomicUsize::new(0), timeout, attempts: attempts.max(1) })
    }

    /// Asks for the records of `name`, which is lower case and fit for DNS. A CNAME is followed within the answer, and
    /// by further questions where the server leaves that to us.
    pub async fn ask(&self, name: &str, record_type: RecordType) -> Reply {
        let Some(mut name) = to_wire(name) else { return Reply { outcome: Err(Miss::NxDomain), ttl: None } };
        let mut ttl = u32::MAX;
        let mut aliased = false;
        for _ in 0..MAX_QUESTIONS {
            let answered = match self.exchange(&name, record_type).await {
                Ok(answered) => answered,
                Err(failure) => return Reply::failed(failure),
            };
            match read(&answered, &name, record_type) {
                Reading::Found(records, own) => return Reply::new(Ok(records), Some(ttl.min(own))),
                Reading::Alias(target, own) => {
                    ttl = ttl.min(own);
                    name = target;
                    aliased = true;
                }
                // The target does not exist, but the name that was asked for does: it has the CNAME.
                Reading::Missing(Miss::NxDomain, own) if aliased => {
                    return Reply::new(Err(Miss::NoData), own.map(|own| own.min(ttl)));
                }
                Reading::Missing(miss, own) => return Reply::new(Err(miss), own.map(|own| own.min(ttl))),
            }
        }
        Reply::failed(Failure::Malformed)
    }

    /// Puts the question to one server after the other until one answers or the attempts are used up.
    ///
    /// A server that answers with an error is not asked again, one that does not answer is. The last attempt is made
    /// the plain way: over UDP hickory asks again by TCP where the spelling came back changed, and this serves a
    /// server that both changes it and has no TCP. An attacker gains little by it, since it takes the loss of all
    /// attempts before to get there.
    async fn exchange(&self, name: &Name, record_type: RecordType) -> Result<Answered, Failure> {
        let first = self.preferred.load(Ordering::Relaxed);
        let count = self.servers.len();
        let mut ways: Vec<Option<Way>> = vec![Some(Way::Full); count];
        let mut worst: Option<Failure> = None;
        let mut turn = first;
        for attempt in 0..self.attempts {
            let Some(index) =
                (turn..turn + count).map(|i| i % count).find(|i| ways.get(*i).is_some_and(Option::is_some))
            else {
                break;
            };
            let (Some(server), Some(slot)) = (self.servers.get(index), ways.get_mut(index)) else { break };
            let last = attempt > 0 && attempt + 1 == self.attempts;
            let way = match *slot {
                Some(Way::Full) if last => Way::Plain,
                Some(way) => way,
                None => break,
            };
            match self.attempt(server, name, record_type, way).await {
                Ok(answered) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answered);
                }
                Err(error) => {
                    let failure = failure(&error);
                    let next = next_way(&error, way);
                    worst = Some(worst.map_or(failure, |before| more_telling(before, failure)));
                    *slot = next;
                    // Another way to the same server goes first; else the next server has its turn.
                    turn = if next.is_some_and(|next| next != way) { index } else { index + 1 };
                }
            }
        }
        match worst.unwrap_or(Failure::Network) {
            // Nothing was asked, and that is nobody's fault but ours. The libraries below hide the cause.
            Failure::Network if is_out_of_sockets() => Err(Failure::Budget),
            failure => Err(failure),
        }
    }

    async fn attempt(&self, server: &Server, name: &Name, kind: RecordType, way: Way) -> Result<Answered, NetError> {
        let mut options = DnsRequestOptions::default();
        options.use_edns = way != Way::Plain;
        options.edns_payload_len = EDNS_PAYLOAD;
        options.case_randomization = way == Way::Full;
        let request = DnsRequest::from_query(Query::query(name.clone(), wire_type(kind)), options);
        let pool = if way == Way::Tcp { &server.tcp } else { &server.pool };
        // hickory's time-out holds for UDP, for the TCP connection and for the TCP answer apiece.
        let answer = tokio::time::timeout(self.timeout.saturating_mul(2), pool.send(request).first_answer()).await;
        match answer.unwrap_or(Err(NetError::Timeout)) {
            Ok(response) => Answered::new(response),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Ok(Answered {
                answers: Vec::new(),
                nx_domain: none.response_code == ResponseCode::NXDomain,
                negative_ttl: none.negative_ttl,
            }),
            Err(error) => Err(error),
        }
    }
}

impl Server {
    fn new(address: SocketAddr, context: &Arc<PoolContext>) -> Self {
        let connection = |mut connection: ConnectionConfig| {
            connection.port = address.port();
            connection
        };
        let pool = |connections| {
            let config = NameServerConfig::new(address.ip(), true, connections);
            NameServerPool::from_config([config], Arc::clone(context), TokioRuntimeProvider::default())
        };
        let (udp, tcp) = (connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp()));
        Self { pool: pool(vec![udp, tcp.clone()]), tcp: pool(vec![tcp]) }
    }
}

impl Reply {
    fn new(outcome: Result<Records, Miss>, ttl: Option<u32>) -> Self {
        Self { outcome, ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())) }
    }

    fn failed(failure: Failure) -> Self {
        Self { outcome: Err(Miss::Failed(failure)), ttl: None }
    }
}

impl Answered {
    fn new(response: DnsResponse) -> Result<Self, NetError> {
        let negative_ttl = response.negative_ttl();
        let message = response.into_message();
        let nx_domain = match message.metadata.response_code {
            ResponseCode::NoError => false,
            ResponseCode::NXDomain => true,
            code => return Err(NetError::Dns(DnsError::ResponseCode(code))),
        };
        Ok(Self { answers: message.answers, nx_domain, negative_ttl })
    }
}

/// The name on the wire; every octet is allowed in a label. None if a label or the whole is too long.
fn to_wire(name: &str) -> Option<Name> {
    Name::from_labels(name.split('.').map(str::as_bytes)).ok()
}

/// A name from the wire: lower case, no trailing dot; the root is empty. Printable characters stand for themselves, so that
/// the name can be asked for by [`to_wire`]; other octets, dots within a label and backslashes are escaped as in a zone
/// file, and no such name is asked for again.
fn to_text(name: &Name) -> Box<str> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for octet in label {
            match octet {
                b'.' | b'\\' => text.push_str(&format!("\\{octet:03}")),
                _ if octet.is_ascii_graphic() => text.push(char::from(octet.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{octet:03}")),
            }
        }
    }
    text.into()
}

fn wire_type(record_type: RecordType) -> WireType {
    match record_type {
        RecordType::A => WireType::A,
        RecordType::Aaaa => WireType::AAAA,
        RecordType::Mx => WireType::MX,
        RecordType::Ptr => WireType::PTR,
        RecordType::Txt => WireType::TXT,
    }
}

/// Reads what `answered` says about `name`: its records, or those at the end of its chain of CNAMEs. Records of other
/// names are not looked at.
fn read(answered: &Answered, name: &Name, record_type: RecordType) -> Reading {
    let mut owner = name;
    let mut ttl = u32::MAX;
    for _ in 0..MAX_CHAIN {
        let own = || answered.answers.iter().filter(|record| record.name == *owner);
        if let Some((records, lowest)) = collect(own(), record_type) {
            return Reading::Found(records, ttl.min(lowest));
        }
        let alias = own().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        match alias {
            Some((target, own)) => {
                ttl = ttl.min(own);
                owner = target;
            }
            None => break,
        }
    }
    if std::ptr::eq(owner, name) {
        let miss = if answered.nx_domain { Miss::NxDomain } else { Miss::NoData };
        Reading::Missing(miss, answered.negative_ttl)
    } else if answered.nx_domain || answered.negative_ttl.is_some() {
        // NXDOMAIN is said of the target (RFC 6604 §3); the name itself exists.
        Reading::Missing(Miss::NoData, answered.negative_ttl.map(|own| own.min(ttl)))
    } else {
        Reading::Alias(owner.clone(), ttl)
    }
}

/// The records of one type among those of one name, with their lowest TTL; none if there are none.
fn collect<'a>(records: impl Iterator<Item = &'a Record>, record_type: RecordType) -> Option<(Records, u32)> {
    let mut ttl = u32::MAX;
    let records = records
        .filter(|record| record.record_type() == wire_type(record_type))
        .inspect(|record| ttl = ttl.min(record.ttl))
        .map(|record| &record.data);
    let found = match record_type {
        RecordType::A => Records::A(records.filter_map(ipv4).collect()),
        RecordType::Aaaa => Records::Aaaa(records.filter_map(ipv6).collect()),
        RecordType::Mx => {
            let mut exchangers = records.filter_map(exchanger).collect::<Vec<_>>();
            exchangers.sort_by_key(|mx| mx.preference);
            Records::Mx(exchangers)
        }
        RecordType::Ptr => Records::Ptr(records.filter_map(pointer).collect()),
        RecordType::Txt => Records::Txt(TxtRecords::new(records.filter_map(text).collect())),
    };
    (!found.is_empty()).then_some((found, ttl))
}

fn ipv4(data: &RData) -> Option<Ipv4Addr> {
    if let RData::A(address) = data { Some(address.0) } else { None }
}

fn ipv6(data: &RData) -> Option<Ipv6Addr> {
    if let RData::AAAA(address) = data { Some(address.0) } else { None }
}

fn exchanger(data: &RData) -> Option<Mx> {
    let RData::MX(mx) = data else { return None };
    Some(Mx { preference: mx.preference, exchange: to_text(&mx.exchange) })
}

fn pointer(data: &RData) -> Option<Box<str>> {
    if let RData::PTR(name) = data { Some(to_text(&name.0)) } else { None }
}

fn text(data: &RData) -> Option<Box<[u8]>> {
    if let RData::TXT(txt) = data { Some(txt.txt_data.concat().into()) } else { None }
}

fn failure(error: &NetError) -> Failure {
    match error {
        NetError::Timeout => Failure::Timeout,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => Failure::ServFail,
        NetError::Dns(_) => Failure::Refused,
        NetError::Proto(_)
        | NetError::Truncated
        | NetError::QueryCaseMismatch
        | NetError::ForeignClassRecord { .. }
        | NetError::ParseInt(_) => Failure::Malformed,
        _ => Failure::Network,
    }
}

/// Whether the process or the system has no room for another socket, which only trying tells.
fn is_out_of_sockets() -> bool {
    std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).is_err()
}

/// How to ask a server again after `error`; none: not at all.
fn next_way(error: &NetError, way: Way) -> Option<Way> {
    use ResponseCode::{BADVERS, FormErr, NotImp};
    match error {
        NetError::Dns(DnsError::ResponseCode(FormErr | NotImp | BADVERS)) => (way == Way::Full).then_some(Way::Plain),
        error => match failure(error) {
            Failure::Timeout | Failure::Network => Some(way),
            Failure::Malformed => (way != Way::Tcp).then_some(Way::Tcp),
            Failure::ServFail | Failure::Refused | Failure::Budget => None,
        },
    }
}

/// Of two failures the one that tells more: an answer, however bad, before silence.
fn more_telling(before: Failure, now: Failure) -> Failure {
    let rank = |failure| match failure {
        Failure::ServFail => 5,
        Failure::Malformed => 4,
        Failure::Refused => 3,
        Failure::Timeout => 2,
        Failure::Network => 1,
        Failure::Budget => 0,
    };
    if rank(now) > rank(before) { now } else { before }
}

/// Octets of a UDP answer that we say we take: what crosses any link without fragments (DNS flag day 2020).
const EDNS_PAYLOAD: u16 = 1232;
/// Questions under way on one TCP connection; the resolver bounds those under way at all.
const MAX_TCP_REQUESTS: usize = 4096;
/// CNAMEs followed within one answer.
const MAX_CHAIN: usize = 16;
/// Questions for one name, where the server leaves it to us to follow a CNAME.
const MAX_QUESTIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_printable_characters_can_be_asked_for_again() {
        for name in ["mail.example", "foo:bar/baz.example", "a%b(c;\"d@_x.example"] {
            let wire = to_wire(name).unwrap();
            assert_eq!(&*to_text(&wire), name);
            assert_eq!(to_wire(&to_text(&wire)), Some(wire));
        }
        assert_eq!(&*to_text(&to_wire("MAIL.Example").unwrap()), "mail.example");
        let odd = Name::from_labels([&b"a.b\\ \x00\xff"[..], b"example"]).unwrap();
        assert_eq!(&*to_text(&odd), "a\\046b\\092\\032\\000\\255.example");
        assert_eq!(&*to_text(&Name::root()), "");
    }
}
