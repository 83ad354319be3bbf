//! Accepts connections: the PROXY header where one is due, the bounds on sessions, and the end when the gate stops.

pub mod networks;
pub mod proxy;
pub mod slots;

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use self::networks::{NetworkPlace, Networks, Refusal};
use self::proxy::{Origin, Parsed};
use self::slots::Slots;
use crate::envelope::{Client, unmapped};
use crate::label_enum;
use crate::metrics::{Family, IntCounter, Registry};
use crate::session::state::{ClientKind, Security};
use crate::session::{self, Arrival, Gate, HASTE};
use crate::smtp::reply::Reply;
use crate::smtp::stream::Stream;
use crate::tls::{ListenerTls, Protection};

/// What the operator sets for one listener.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who must open with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long that header may take.
    pub proxy_header: Duration,
    /// TLS at this listener.
    pub tls: ListenerTls,
    /// Whether a client may send mail only under TLS; with [`ListenerTls::StartTls`] alone.
    pub require_tls: bool,
    /// What one client network may have.
    pub networks: networks::Bounds,
}

/// A socket that listens.
pub struct Listening {
    /// The socket.
    pub socket: TcpListener,
    /// To whom the clients in its queue belong.
    pub backlog: Backlog,
    /// The settings in force; a connection keeps those that it came under.
    pub settings: watch::Receiver<Arc<Settings>>,
}

/// To whom clients belong that the kernel has let in and nobody has accepted yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// Ours: with the socket they are gone.
    Own,
    /// The socket's, which outlives us: the next gate serves them.
    Inherited,
}

/// The room for sessions that all listeners share. Cheap to clone.
#[derive(Clone)]
pub struct Room {
    /// One for each session.
    pub slots: Arc<Slots>,
    /// Who has how many.
    pub networks: Arc<Networks>,
}

label_enum! {
    /// Why a connection for which there was a slot is closed before its session begins.
    pub enum NoSession {
        /// Its client's network has as many as it may have.
        NetworkSessions = "network_sessions",
        /// Its client's network began too many a short while ago.
        NetworkRate = "network_rate",
        /// It had to open with a PROXY header and did not.
        ProxyHeader = "proxy_header",
    }
}

impl From<Refusal> for NoSession {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Sessions => Self::NetworkSessions,
            Refusal::Rate => Self::NetworkRate,
        }
    }
}

/// What listeners count.
#[derive(Clone)]
pub struct Metrics {
    turned_away: IntCounter,
    refused: Family<NoSession>,
    accept_errors: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    pub fn new(registry: &Registry) -> Self {
        Self {
            turned_away: registry
                .counter("dmarcgate_connections_turned_away_total", "Connections closed with 421 at limits.sessions."),
            refused: registry.family(
                "dmarcgate_connections_refused_total",
                "Connections closed before their session: their network has or began too many, or no PROXY header came.",
                "reason",
            ),
            accept_errors: registry.counter(
                "dmarcgate_accept_errors_total",
                "Connections that could not be accepted, for want of file descriptors above all.",
            ),
        }
    }
}

/// Binds a listening socket. IPv6 sockets take IPv6 alone, so that both families can be listed. With `reuse_port` other
/// processes of the same user that set it, too, may listen at the address beside us.
///
/// # Errors
///
/// The operator's: the address is in use, not ours, or the port needs a privilege.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the gate stops, and lasts until every connection has ended; dropped, it cuts off those that have not.
/// Each session holds one of the room's slots: when all are free again, all sessions are gone.
pub async fn run(listening: Listening, gate: Arc<Gate>, room: Room, metrics: Metrics) {
    let mut stop: watch::Receiver<bool> = gate.stop.clone();
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let waiting_clients = Arc::new(Semaphore::new(MAX_WAITING));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listening.socket.accept() => accepted,
        };
        // With the next one, so that no connection that ends wakes this task up.
        while connections.try_join_next().is_some() {}
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                metrics.accept_errors.inc();
                warn!(error = %error, "connection not accepted");
                // Out of descriptors the next accept fails at once, too: a session has to end first.
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let host = Host {
            settings: Arc::clone(&listening.settings.borrow()),
            gate: Arc::clone(&gate),
            networks: Arc::clone(&room.networks),
            metrics: metrics.clone(),
            refusals: Arc::clone(&refusals),
        };
        let peer = unmapped(peer);
        if let Some(slot) = room.slots.take() {
            connections.spawn(host.receive(socket, peer, slot));
        } else if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
            let waiting = Arc::clone(&waiting_clients).try_acquire_owned().ok();
            connections.spawn(host.wait_for_slot(socket, peer, Arc::clone(&room.slots), (refusal, waiting)));
        } else {
            metrics.turned_away.inc();
            gate.complaints.full(peer.ip(), || room.networks.largest());
            tell(socket, FULL);
        }
    }
    match listening.backlog {
        Backlog::Own => refuse_backlog(listening.socket).await,
        Backlog::Inherited => drop(listening.socket),
    }
    while connections.join_next().await.is_some() {}
}

/// What serves one connection.
struct Host {
    settings: Arc<Settings>,
    gate: Arc<Gate>,
    networks: Arc<Networks>,
    metrics: Metrics,
    /// Bounds those who are told that there is no room, or wait for it.
    refusals: Arc<Semaphore>,
}

/// The gate stops.
struct Stopping;

/// Why there is no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoHeader {
    /// Something else came, or nothing in time.
    Due,
    /// The peer went without a word, as a balancer does that only tries whether the port is open.
    Gone,
}

impl Host {
    /// For a client that came when there was no slot: one comes free every few milliseconds in a busy gate, so the
    /// client waits a moment for it, unless too many wait already. A 421 at once and another connection at once would
    /// cost both sides more than that.
    async fn wait_for_slot(
        self,
        socket: TcpStream,
        peer: SocketAddr,
        slots: Arc<Slots>,
        (refusal, waiting): (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
    ) {
        let mut stop = self.gate.stop.clone();
        if waiting.is_some() {
            let waited = tokio::select! {
                // The slots that come free then are not for anybody new.
                biased;
                () = async { drop(stop.wait_for(|stop| *stop).await) } => Some(Err(Stopping)),
                slot = timeout(MAX_WAIT, slots.next()) => slot.ok().flatten().map(Ok),
            };
            match waited {
                Some(Ok(slot)) => {
                    drop((refusal, waiting));
                    return self.receive(socket, peer, slot).await;
                }
                Some(Err(Stopping)) => return turn_away(Stream::new(socket), STOPPING, HASTE).await,
                None => {}
            }
        }
        // The next client may wait while this one reads why it has to go.
        drop(waiting);
        self.metrics.turned_away.inc();
        self.gate.complaints.full(peer.ip(), || self.networks.largest());
        turn_away(Stream::new(socket), FULL, REFUSAL_PATIENCE).await;
        drop(refusal);
    }

    /// Serves a connection to its end: PROXY header, the bounds on its client's network, the handshake, the session.
    async fn receive(self, socket: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let Some((stream, client, kind)) = Box::pin(self.admit(socket, peer)).await else { return };
        let Self { settings, gate, networks, metrics, refusals } = self;
        let place = match place(&networks, &settings, &gate, (client.ip(), kind)) {
            Ok(place) => place,
            Err(refusal) => {
                metrics.refused.inc(refusal.into());
                gate.complaints.crowded(client.ip(), settings.networks.network(client.ip()), &refusal);
                debug!(client_ip = %client.ip(), reason = %refusal, "connection refused");
                // A refusal needs no slot: others may have it. Before a handshake nothing can be said.
                drop(slot);
                if settings.tls != ListenerTls::Implicit
                    && let Ok(_refusal) = refusals.try_acquire()
                {
                    Box::pin(turn_away(stream, CROWDED, REFUSAL_PATIENCE)).await;
                }
                return;
            }
        };
        if let Some((stream, tls)) = Box::pin(secure(stream, &client, &settings, &gate)).await {
            let security = settings.security(client.ip(), &gate);
            session::run(gate, stream, Arrival { client: Client { tls, ..client }, kind, security }).await;
        }
        drop((place, slot));
    }

    /// Who the client is: by its PROXY header if it is one of those that must send it, else by its socket.
    async fn admit(&self, socket: TcpStream, peer: SocketAddr) -> Option<(Stream, Client, ClientKind)> {
        let Self { settings, gate, .. } = self;
        // A client that has gone already has no address any more.
        let local = unmapped(socket.local_addr().ok()?);
        // Replies leave in whole groups: waiting for more would only add 40 ms.
        socket.set_nodelay(true).ok()?;
        let mut stream = Stream::new(socket);
        if !settings.proxy_protocol_from.iter().any(|network| network.contains(&peer.ip())) {
            return Some((stream, Client::new(peer, local), ClientKind::Sender));
        }
        let mut stop = gate.stop.clone();
        let origin = tokio::select! {
            origin = timeout(settings.proxy_header, proxy_header(&mut stream)) => origin.unwrap_or(Err(NoHeader::Due)),
            () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                turn_away(stream, STOPPING, HASTE).await;
                return None;
            }
        };
        match origin {
            Ok(Origin::Client { source, destination }) => {
                Some((stream, Client::new(source, destination), ClientKind::Sender))
            }
            Ok(Origin::Nobody) => Some((stream, Client::new(peer, local), ClientKind::HealthCheck)),
            Err(NoHeader::Due) => {
                self.metrics.refused.inc(NoSession::ProxyHeader);
                gate.complaints.missing_header(peer.ip());
                debug!(client_ip = %peer.ip(), "closed: a PROXY header was due");
                None
            }
            Err(NoHeader::Gone) => None,
        }
    }
}

/// Tells those who wait to be accepted that the gate stops; they would only see their connection reset.
async fn refuse_backlog(socket: TcpListener) {
    let Ok(socket) = socket.into_std() else { return };
    let mut clients = JoinSet::new();
    while clients.len() < MAX_REFUSALS
        && let Ok((client, _)) = socket.accept()
    {
        if client.set_nonblocking(true).is_ok()
            && let Ok(client) = TcpStream::from_std(client)
        {
            clients.spawn(turn_away(Stream::new(client), STOPPING, HASTE));
        }
    }
    drop(socket);
    while clients.join_next().await.is_some() {}
}

/// A place for a session in its client's network; none is needed by those who are trusted, by health checks, and by
/// clients on this machine, who could do worse.
fn place(
    networks: &Arc<Networks>,
    settings: &Settings,
    gate: &Gate,
    (ip, kind): (IpAddr, ClientKind),
) -> Result<Option<NetworkPlace>, Refusal> {
    if kind == ClientKind::HealthCheck || ip.is_loopback() || gate.settings.borrow().trusts(ip) {
        return Ok(None);
    }
    networks.enter(ip, &settings.networks).map(Some)
}

/// The handshake that opens a connection with implicit TLS. One that fails ends it without a word: there is nobody yet
/// to whom a reply could be said.
async fn secure(
    stream: Stream,
    client: &Client,
    settings: &Settings,
    gate: &Gate,
) -> Option<(Stream, Option<Protection>)> {
    if settings.tls != ListenerTls::Implicit {
        return Some((stream, None));
    }
    let tls = gate.tls.as_ref()?;
    let named = Arc::clone(&gate.settings.borrow().bypass.client_certificates);
    let mut stop = gate.stop.clone();
    tokio::select! {
        secured = tls.accept_first(stream, &named) => match secured {
            Ok((stream, protection)) => Some((stream, Some(protection))),
            Err(cause) => {
                debug!(client_ip = %client.ip(), error = %cause, "closed: no TLS");
                None
            }
        },
        // Nothing is lost with a client that has said nothing.
        _ = stop.wait_for(|stop| *stop) => None,
    }
}

impl Settings {
    /// Whether a client is offered TLS, and must use it.
    fn security(&self, ip: IpAddr, gate: &Gate) -> Security {
        let is_hidden = gate.tls.as_ref().is_none_or(|tls| tls.is_hidden_from(ip));
        match self.tls {
            ListenerTls::StartTls if is_hidden => Security::Unavailable,
            ListenerTls::StartTls if self.require_tls => Security::Required,
            ListenerTls::StartTls => Security::Offered,
            ListenerTls::Off | ListenerTls::Implicit => Security::Unavailable,
        }
    }
}

async fn proxy_header(stream: &mut Stream) -> Result<Origin, NoHeader> {
    loop {
        match proxy::parse(stream.buffered()) {
            Parsed::Header(length, origin) => {
                stream.consume(length);
                return Ok(origin);
            }
            Parsed::Invalid => return Err(NoHeader::Due),
            Parsed::Incomplete => match stream.fill().await {
                Ok(1..) => {}
                _ if stream.buffered().is_empty() => return Err(NoHeader::Gone),
                _ => return Err(NoHeader::Due),
            },
        }
    }
}

/// Says why the client is not served, and waits a moment for it to read that: it may have sent octets already (a PROXY
/// header), with which a socket can't be closed at once without a reset.
async fn turn_away(mut stream: Stream, (enhanced, text): (&str, &str), patience: Duration) {
    stream.queue(Reply::new(421, enhanced, text).as_wire());
    // A fresh socket takes so short a text at once. Whether the client reads it is its own affair.
    let _ = stream.flush().await;
    stream.shutdown().await;
    stream.linger(patience).await;
}

/// Says it and closes, whatever the client does with it: for when those who are told with patience are too many
/// already.
fn tell(socket: TcpStream, (enhanced, text): (&str, &str)) {
    if let Ok(mut socket) = socket.into_std() {
        // It does not block. What has come already, a PROXY header as a rule, is taken: else the kernel would reset the
        // connection, and the reset may overtake the reply. A fresh socket takes so short a text at once.
        let _ = socket.read(&mut [0; 512]);
        let _ = socket.write_all(Reply::new(421, enhanced, text).as_wire());
    }
}

/// What clients are told beyond `limits.sessions`.
const FULL: (&str, &str) = ("4.3.2", "Too many sessions, please try again later");
/// What clients are told whose network has too many.
const CROWDED: (&str, &str) = ("4.7.0", "Too many sessions from your network, please try again later");
/// Connections that the kernel keeps until they are accepted; it has a bound of its own (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// Clients at one time that wait for a slot or are told that there is none, and may take a moment to read it; more are
/// told and closed at once.
const MAX_REFUSALS: usize = 256;
/// How many of them may wait for a slot: as many again can be told to go meanwhile.
const MAX_WAITING: usize = MAX_REFUSALS / 2;
/// How long they may.
const MAX_WAIT: Duration = Duration::from_millis(250);
/// How long one of them may take to close.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// What clients read while the gate stops.
const STOPPING: (&str, &str) = ("4.3.2", "Service is being restarted, please try again");
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
