//! Accepts connections: the PROXY header where one is due, the bounds on sessions, and the end when the gate stops.

pub mod networks;
pub mod proxy;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use self::networks::{Networks, Place, Refusal};
use self::proxy::{Origin, Parsed};
use crate::envelope::{Client, unmapped};
use crate::metrics::{Family, IntCounter, Registry};
use crate::session::metrics::Ended;
use crate::session::state::ClientKind;
use crate::session::{self, Gate};
use crate::smtp::reply::Reply;
use crate::smtp::stream::Stream;

/// What the operator sets for one listener.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who must open with a PROXY header.
    pub proxy_protocol_from: Vec<IpNet>,
    /// How long that header may take.
    pub proxy_header: Duration,
    /// What one client network may have.
    pub networks: networks::Bounds,
}

/// The room for sessions that all listeners share. Cheap to clone.
#[derive(Clone)]
pub struct Room {
    /// One for each session.
    pub slots: Arc<Semaphore>,
    /// Who has how many.
    pub networks: Arc<Networks>,
}

/// What listeners count.
#[derive(Clone)]
pub struct Metrics {
    turned_away: IntCounter,
    refused: Family<Refusal>,
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
                "Connections closed with 421 because their client's network has or began too many.",
                "reason",
            ),
            accept_errors: registry.counter(
                "dmarcgate_accept_errors_total",
                "Connections that could not be accepted, for want of file descriptors above all.",
            ),
        }
    }
}

/// Binds a listening socket. IPv6 sockets take IPv6 alone, so that both families can be listed.
///
/// # Errors
///
/// The operator's: the address is in use, not ours, or the port needs a privilege.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the gate stops. Each session holds one of the room's slots; when all are free again, all sessions have
/// ended.
pub async fn run(listener: TcpListener, settings: Arc<Settings>, gate: Arc<Gate>, room: Room, metrics: Metrics) {
    let mut stop: watch::Receiver<bool> = gate.stop.clone();
    let farewells = Arc::new(Semaphore::new(FAREWELLS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
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
        let Ok(slot) = Arc::clone(&room.slots).try_acquire_owned() else {
            metrics.turned_away.inc();
            if let Ok(place) = Arc::clone(&farewells).try_acquire_owned() {
                tokio::spawn(async move {
                    turn_away(Stream::new(socket), FULL).await;
                    drop(place);
                });
            }
            continue;
        };
        let (settings, gate, networks) = (Arc::clone(&settings), Arc::clone(&gate), Arc::clone(&room.networks));
        let (metrics, farewells) = (metrics.clone(), Arc::clone(&farewells));
        tokio::spawn(async move {
            let Some((stream, client, kind)) = admit(socket, unmapped(peer), &settings, &gate).await else { return };
            match place(&networks, &settings, &gate, (client.ip(), kind)) {
                Ok(place) => {
                    session::run(gate, stream, client, kind).await;
                    drop(place);
                }
                Err(refusal) => {
                    metrics.refused.inc(refusal);
                    debug!(client_ip = %client.ip(), reason = %refusal, "connection refused");
                    // A farewell is no session: others may have the slot.
                    drop(slot);
                    if let Ok(_place) = farewells.try_acquire() {
                        turn_away(stream, CROWDED).await;
                    }
                }
            }
        });
    }
}

/// A place for a session in its client's network; none is needed by those who are trusted, and by health checks.
fn place(
    networks: &Arc<Networks>,
    settings: &Settings,
    gate: &Gate,
    (ip, kind): (IpAddr, ClientKind),
) -> Result<Option<Place>, Refusal> {
    if kind == ClientKind::HealthCheck || gate.settings.borrow().trusts(ip) {
        return Ok(None);
    }
    networks.enter(ip, &settings.networks).map(Some)
}

/// Who is on the line: by its PROXY header if it is one of those that must send it, else by its socket.
async fn admit(
    socket: TcpStream,
    peer: SocketAddr,
    settings: &Settings,
    gate: &Gate,
) -> Option<(Stream, Client, ClientKind)> {
    // A client that has gone already has no address any more.
    let local = unmapped(socket.local_addr().ok()?);
    // Replies leave in whole groups: waiting for more would only add 40 ms.
    socket.set_nodelay(true).ok()?;
    let mut stream = Stream::new(socket);
    if !settings.proxy_protocol_from.iter().any(|network| network.contains(&peer.ip())) {
        return Some((stream, Client { address: peer, local }, ClientKind::Sender));
    }
    let origin = timeout(settings.proxy_header, proxy_header(&mut stream)).await.unwrap_or_else(|_| {
        debug!(client_ip = %peer.ip(), "no PROXY header in time");
        None
    });
    match origin {
        Some(Origin::Client { source, destination }) => {
            Some((stream, Client { address: source, local: destination }, ClientKind::Sender))
        }
        Some(Origin::Nobody) => Some((stream, Client { address: peer, local }, ClientKind::HealthCheck)),
        None => {
            gate.metrics.ended.inc(Ended::ProxyHeader);
            debug!(client_ip = %peer.ip(), "closed: a PROXY header was due");
            None
        }
    }
}

async fn proxy_header(stream: &mut Stream) -> Option<Origin> {
    loop {
        match proxy::parse(stream.buffered()) {
            Parsed::Header(length, origin) => {
                stream.consume(length);
                return Some(origin);
            }
            Parsed::Invalid => return None,
            Parsed::Incomplete => {
                if stream.fill().await.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}

/// Says that there is no room, and waits a moment for the client to read it: it may have sent octets already (a PROXY
/// header), with which a socket can't be closed at once without a reset.
async fn turn_away(mut stream: Stream, (enhanced, text): (&str, &str)) {
    stream.queue(Reply::new(421, enhanced, text).as_wire());
    // A fresh socket takes so short a text at once. Whether the client reads it is its own affair.
    let _ = stream.flush().await;
    stream.shutdown().await;
    stream.linger(FAREWELL).await;
}

/// What clients are told beyond `limits.sessions`.
const FULL: (&str, &str) = ("4.3.2", "Too many sessions, please try again later");
/// What clients are told whose network has too many.
const CROWDED: (&str, &str) = ("4.7.0", "Too many sessions from your network, please try again later");
/// Connections that the kernel keeps until they are accepted; it has a bound of its own (net.core.somaxconn).
const BACKLOG: i32 = 4096;
/// Clients that are told at one time that there is no room; more are closed without a word.
const FAREWELLS: usize = 256;
/// How long one of them may take to close.
const FAREWELL: Duration = Duration::from_secs(1);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
