//! Carries one question to the name servers and reads the answer.
//!
//! hickory is the wire alone: message format, a fresh random port for each UDP question, spelling in mixed case (0x20),
//! EDNS, TLS and HTTP. Which server is asked when and in which way is decided here, what an answer means in `reading`.
//! A question ends in a [`Resolution`]; nothing is remembered but which server answered last.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::Name;

use self::link::Server;
use self::reading::{Answered, OTHER_QUESTION, Reading, read, to_wire, wire_type};
use super::metrics::TcpReason;
use super::resolver::{Error, Settings};
use super::{Failure, Miss, NameServer, RecordType, Records};
use crate::label::Label;
use crate::metrics::Family;

mod link;
mod reading;

/// The name servers and how they are asked.
pub(super) struct Transport {
    servers: Vec<Server>,
    /// The server that answered last: a dead one costs its time-out once, not with every question.
    preferred: AtomicUsize,
    timeout: Duration,
    attempts: u32,
    tcp: Family<TcpReason>,
}

/// What came of a question.
pub(super) struct Resolution {
    /// The records, or why there are none.
    pub outcome: Result<Records, Miss>,
    /// How long DNS lets it be remembered; none where nobody said (no SOA, RFC 2308 §5) and for failures.
    pub ttl: Option<Duration>,
}

impl Resolution {
    /// Why nothing is known, if nothing is.
    pub fn failure(&self) -> Option<Failure> {
        match self.outcome {
            Err(Miss::Failed(failure)) => Some(failure),
            Ok(_) | Err(Miss::NoData | Miss::NxDomain) => None,
        }
    }

    /// What the servers said, for the log.
    pub fn in_a_word(&self) -> &'static str {
        match &self.outcome {
            Ok(_) => "records",
            Err(Miss::NoData) => "nodata",
            Err(Miss::NxDomain) => "nxdomain",
            Err(Miss::Failed(failure)) => failure.as_str(),
        }
    }
}

/// How a question is put.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// UDP with EDNS and mixed case; where the server is reached under encryption, that with EDNS.
    Full,
    /// The same in lower case without EDNS: for servers (and middle boxes) that choke on either.
    Plain,
    /// TCP: for UDP answers that can't be read, such as those larger than we said we take.
    Tcp,
}

impl Transport {
    /// Prepares to ask `servers` in this order; opens nothing yet. `tcp` counts questions that are put again by TCP.
    pub fn new(servers: &[NameServer], settings: &Settings, tcp: Family<TcpReason>) -> Result<Self, Error> {
        if servers.is_empty() {
            return Err(Error::NoServers);
        }
        let context = link::context(servers, settings)?;
        let servers = servers.iter().map(|server| Server::new(server, &context, settings.timeout)).collect();
        let (timeout, attempts) = (settings.timeout, settings.attempts.max(1));
        Ok(Self { servers, preferred: AtomicUsize::new(0), timeout, attempts, tcp })
    }

    /// Asks for the records of `name`, which is lower case and fit for DNS. A CNAME is followed within the answer, and
    /// by further questions where the server leaves that to us.
    pub async fn ask(&self, name: &str, record_type: RecordType) -> Resolution {
        let Some(mut name) = to_wire(name) else { return Resolution { outcome: Err(Miss::NxDomain), ttl: None } };
        let mut ttl = u32::MAX;
        let mut aliased = false;
        for _ in 0..MAX_QUESTIONS {
            let answered = match self.exchange(&name, record_type).await {
                Ok(answered) => answered,
                Err(failure) => return Resolution::failed(failure),
            };
            match read(&answered, &name, record_type) {
                Reading::Found(records, own) => return Resolution::new(Ok(records), Some(ttl.min(own))),
                Reading::Alias(target, own) => {
                    ttl = ttl.min(own);
                    name = target;
                    aliased = true;
                }
                // The target does not exist, but the name that was asked for does: it has the CNAME.
                Reading::Missing(Miss::NxDomain, own) if aliased => {
                    return Resolution::new(Err(Miss::NoData), own.map(|own| own.min(ttl)));
                }
                Reading::Missing(miss, own) => return Resolution::new(Err(miss), own.map(|own| own.min(ttl))),
            }
        }
        Resolution::failed(Failure::Malformed)
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
                    let next = next_way(&error, way).filter(|next| *next != Way::Tcp || !server.is_encrypted());
                    if next == Some(Way::Tcp) && way != Way::Tcp {
                        self.tcp.inc(TcpReason::Unreadable);
                    }
                    worst = Some(worst.map_or(failure, |before| more_telling(before, failure)));
                    *slot = next;
                    // Another way to the same server goes first; else the next server has its turn.
                    turn = if next.is_some_and(|next| next != way) { index } else { index + 1 };
                }
            }
        }
        match worst.unwrap_or(Failure::Network) {
            // Nothing was asked, and only we are to blame. The libraries below hide the cause.
            Failure::Network if is_out_of_sockets() => Err(Failure::Overload),
            failure => Err(failure),
        }
    }

    async fn attempt(&self, server: &Server, name: &Name, kind: RecordType, way: Way) -> Result<Answered, NetError> {
        let query = Query::query(name.clone(), wire_type(kind));
        // hickory's time-out holds for UDP, for the connection and for the answer over it apiece.
        let answer = tokio::time::timeout(self.timeout.saturating_mul(2), server.ask(&query, way, &self.tcp)).await;
        Answered::new(answer.unwrap_or(Err(NetError::Timeout)), &query)
    }
}

impl Resolution {
    fn new(outcome: Result<Records, Miss>, ttl: Option<u32>) -> Self {
        Self { outcome, ttl: ttl.map(|seconds| Duration::from_secs(seconds.into())) }
    }

    fn failed(failure: Failure) -> Self {
        Self { outcome: Err(Miss::Failed(failure)), ttl: None }
    }
}

fn failure(error: &NetError) -> Failure {
    match error {
        NetError::Timeout => Failure::Timeout,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => Failure::ServFail,
        NetError::Dns(_) => Failure::Refused,
        NetError::Proto(_)
        | NetError::Message(OTHER_QUESTION)
        | NetError::Truncated
        | NetError::QueryCaseMismatch
        | NetError::ForeignClassRecord { .. }
        | NetError::ParseInt(_) => Failure::Malformed,
        _ => Failure::Network,
    }
}

/// Whether the process or the system has no room for another socket; only trying shows it.
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
            Failure::ServFail | Failure::Refused | Failure::Budget | Failure::Deadline | Failure::Overload => None,
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
        Failure::Budget | Failure::Deadline | Failure::Overload => 0,
    };
    if rank(now) > rank(before) { now } else { before }
}

/// Questions for one name, where the server leaves it to us to follow a CNAME.
const MAX_QUESTIONS: usize = 8;
