//! The connections to one name server: hickory's, of one protocol each, so that it has no choice to make.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Query};
use hickory_resolver::{ConnectionProvider, NameServerPool, PoolContext, TlsConfig};
use tokio::time::timeout;
use tracing::warn;

use super::Way;
use crate::dns::metrics::TcpReason;
use crate::dns::resolver::{Error, Settings};
use crate::dns::server::{Link, NameServer};
use crate::metrics::Family;
use crate::tls::{Trust, client_config};

/// One server.
pub(super) enum Server {
    /// In the clear.
    Clear {
        /// For questions that fit in a datagram, with their answers.
        udp: Pool,
        /// For the others.
        tcp: Pool,
    },
    /// Over TLS or HTTPS, and in no other way.
    Encrypted(Encrypted),
}

/// A server over TLS or HTTPS. Its connection is kept and shared by all questions.
pub(super) struct Encrypted {
    pool: Pool,
    name: String,
    state: Mutex<State>,
    /// Held by the question that opens the connection: a burst of questions would open one each. Only an answer shows
    /// that the connection is up, so nobody waits for it longer than [`OPENING`].
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    answered: Option<Instant>,
    warned: Option<Instant>,
}

pub(super) type Pool = NameServerPool<Provider>;

/// Opens connections as hickory does, but for how often a datagram is repeated: the library would send it four times
/// within a second where a cold resolver takes that long to answer.
#[derive(Clone)]
pub(super) struct Provider {
    runtime: TokioRuntimeProvider,
    timeout: Duration,
}

impl ConnectionProvider for Provider {
    type Conn = <TokioRuntimeProvider as ConnectionProvider>::Conn;
    type FutureConn = <TokioRuntimeProvider as ConnectionProvider>::FutureConn;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        context: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        if !matches!(config.protocol, ProtocolConfig::Udp) {
            return self.runtime.new_connection(ip, config, context);
        }
        // One may get lost: it is repeated once, when most answers would have come.
        let repeat = u64::try_from((self.timeout / 2).min(REPEAT).as_millis()).unwrap_or(u64::MAX).max(1);
        let stream = UdpClientStream::builder(SocketAddr::new(ip, config.port), self.runtime.clone())
            .with_timeout(Some(self.timeout))
            .with_retry_interval_floor(repeat)
            .with_max_retries(1);
        Ok(Box::pin(async move { Ok(stream.exchange()) }))
    }

    fn runtime_provider(&self) -> &Self::RuntimeProvider {
        &self.runtime
    }
}

/// What the connections to all servers have in common.
///
/// # Errors
///
/// A server is encrypted and nobody's certificate could be believed.
pub(super) fn context(servers: &[NameServer], settings: &Settings) -> Result<Arc<PoolContext>, Error> {
    let mut options = ResolverOpts::default();
    options.timeout = settings.timeout;
    options.cache_size = 0;
    options.num_concurrent_reqs = 1;
    options.max_active_requests = MAX_STREAM_REQUESTS;
    // The library wants it in any case. Without an encrypted server it is never used and trusts no key at all, so that
    // a system without authorities can still ask in the clear.
    let trust = match servers.iter().any(NameServer::is_encrypted) {
        true => settings.ca.clone().map_or(Trust::System, Trust::File),
        false => Trust::Pins(Vec::new()),
    };
    Ok(Arc::new(PoolContext::new(options, TlsConfig { config: client_config(&trust)? })))
}

impl Server {
    /// Prepares to ask `server`; opens nothing yet.
    pub fn new(server: &NameServer, context: &Arc<PoolContext>, timeout: Duration) -> Self {
        let provider = Provider { runtime: TokioRuntimeProvider::default(), timeout };
        let pool = |mut connection: ConnectionConfig| {
            connection.port = server.address.port();
            let config = NameServerConfig::new(server.address.ip(), true, vec![connection]);
            NameServerPool::from_config([config], Arc::clone(context), provider.clone())
        };
        let connection = match &server.link {
            Link::Clear => {
                return Self::Clear { udp: pool(ConnectionConfig::udp()), tcp: pool(ConnectionConfig::tcp()) };
            }
            Link::Tls { name } => ConnectionConfig::tls(name.as_str().into()),
            Link::Https { name, path } => ConnectionConfig::https(name.as_str().into(), Some((&**path).into())),
        };
        Self::Encrypted(Encrypted {
            pool: pool(connection),
            name: server.to_string(),
            state: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    /// Whether the way to it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Encrypted(_))
    }

    /// Puts the question. What UDP can't answer goes on by TCP, which `tcp` counts.
    pub async fn ask(&self, query: &Query, way: Way, tcp: &Family<TcpReason>) -> Result<DnsResponse, NetError> {
        let request = |spelling: Spelling| {
            let mut options = DnsRequestOptions::default();
            options.use_edns = way != Way::Plain;
            options.edns_payload_len = EDNS_PAYLOAD;
            options.case_randomization = spelling == Spelling::Mixed;
            DnsRequest::from_query(query.clone(), options)
        };
        match self {
            Self::Encrypted(server) => server.ask(request(Spelling::Lower)).await,
            Self::Clear { tcp: stream, .. } if way == Way::Tcp => send(stream, request(Spelling::Lower)).await,
            Self::Clear { udp, tcp: stream } => {
                let spelling = if way == Way::Full { Spelling::Mixed } else { Spelling::Lower };
                let answer = send(udp, request(spelling)).await;
                let Some(reason) = answer.as_ref().err().and_then(tcp_reason) else { return answer };
                tcp.inc(reason);
                send(stream, request(Spelling::Lower)).await
            }
        }
    }
}

impl Encrypted {
    async fn ask(&self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let opening = match self.is_warm() {
            true => None,
            // The first may have asked for what nobody answers. That must not hold up other questions, or the policy of
            // an author would go unread because of a signer's slow zone.
            false => timeout(OPENING, self.opening.lock()).await.ok(),
        };
        // Those that waited find the connection that another question has opened.
        let opening = opening.filter(|_| !self.is_warm());
        let answer = send(&self.pool, request).await;
        let mut state = self.state();
        match &answer {
            // A DNS error is an answer, too.
            Ok(_) | Err(NetError::Dns(_)) => state.answered = Some(Instant::now()),
            Err(error) => {
                state.answered = None;
                // For example an untrusted certificate: the operator must learn of it, since nobody else can mend it.
                if state.warned.is_none_or(|warned| warned.elapsed() > WARN_AGAIN) {
                    state.warned = Some(Instant::now());
                    warn!(server = %self.name, %error, "an encrypted name server gives no answer");
                }
            }
        }
        drop(state);
        drop(opening);
        answer
    }

    /// Whether it has just answered, so that there is a connection.
    fn is_warm(&self) -> bool {
        self.state().answered.is_some_and(|answered| answered.elapsed() < WARM)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a name is spelled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// At random, which the answer must repeat (0x20).
    Mixed,
    Lower,
}

async fn send(pool: &Pool, request: DnsRequest) -> Result<DnsResponse, NetError> {
    pool.send(request).first_answer().await
}

/// Why the question has to be put again by TCP, if it has to.
fn tcp_reason(error: &NetError) -> Option<TcpReason> {
    match error {
        NetError::Truncated => Some(TcpReason::Truncated),
        // On a wrong spelling the library turns to another connection than UDP, and here it has none.
        NetError::QueryCaseMismatch | NetError::NoConnections => Some(TcpReason::Spelling),
        _ => None,
    }
}

/// Octets of a UDP answer that we say we take: what crosses any link without fragments (DNS flag day 2020).
const EDNS_PAYLOAD: u16 = 1232;
/// Questions under way on one stream; the resolver bounds those under way at all.
const MAX_STREAM_REQUESTS: usize = 4096;
/// How long a connection is taken to be there without an answer over it: public resolvers close idle ones after some
/// seconds.
const WARM: Duration = Duration::from_secs(2);
/// How long a question waits for another one to open the connection: longer than a handshake with a distant server, or
/// all that wait would open one each, and only part of its time-out.
const OPENING: Duration = Duration::from_secs(1);
/// How often the log tells that an encrypted server gives no answer.
const WARN_AGAIN: Duration = Duration::from_mins(1);
/// When a datagram without an answer is sent once more, unless half of the time-out is less.
const REPEAT: Duration = Duration::from_secs(1);
