//! The SMTP client side: one connection to the MTA for a session, its transactions, and their replay before DATA.
//!
//! The connection opens at the first MAIL and serves the session's later transactions. What it was told in the present
//! transaction is remembered, so that a connection lost (or held too long) before its DATA can be opened anew and told
//! again, once. After DATA nothing is ever sent twice. `opening` opens it, `exchange` talks on it, `transaction` and
//! `login` say what a client may say.

pub mod connection;
mod exchange;
pub mod handover;
mod login;
pub mod metrics;
mod opening;
pub mod pool;
pub mod probe;
pub mod security;
pub mod servers;
mod transaction;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use self::connection::{Connection, DeliveryError, Sight};
use self::exchange::Expected;
use self::handover::Identity;
pub use self::metrics::Metrics;
pub use self::opening::open_within;
use self::pool::Selection;
use self::security::Security;
use self::servers::Servers;
pub use self::transaction::MAX_GROUP;
use crate::message::spool;
use crate::smtp::data::Framing;
use crate::smtp::extension::Capabilities;

/// How the upstream is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each.
    pub servers: Vec<Box<str>>,
    /// Whether and how connections are under TLS.
    pub security: Security,
    /// The name that certificates have to be for; none: the server's own, as it is written.
    pub tls_name: Option<Box<str>>,
    /// Which server is tried first.
    pub selection: Selection,
    /// Connections that all sessions together may have open.
    pub connections: usize,
    /// How it learns who the client is.
    pub identity: Identity,
    /// Whether an upstream that can't see the client may be used.
    pub blind: Blind,
    /// The gate's own name, for EHLO.
    pub hostname: Box<str>,
    /// How long a connection may wait inside a transaction for a slow sender's data.
    pub hold: Duration,
    /// How long a connection may idle between transactions: idle connections use up an MTA's processes.
    pub idle: Duration,
    /// How long a connection that must be kept, since the client has authenticated on it, may be silent before it is
    /// told NOOP: less than the five minutes that a server waits (RFC 5321 §4.5.3.2.7).
    pub silence: Duration,
    /// How long each step may take.
    pub timeouts: Timeouts,
}

impl Settings {
    /// The name that the certificate of `server` has to be for.
    pub fn certificate_name<'a>(&'a self, server: &'a str) -> &'a str {
        self.tls_name.as_deref().unwrap_or_else(|| host(server))
    }
}

/// Whether an upstream that sees only the gate may be used: it would take the whole Internet for its trusted neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blind {
    /// Yes: the gate guards the recipients itself (or the operator says that the upstream does).
    Allowed,
    /// No: clients are told to try again.
    Refused,
}

/// How long each step with the upstream may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// Until there is room for one more connection.
    pub slot: Duration,
    /// All of opening a connection, whatever servers are tried.
    pub open: Duration,
    /// The TCP connection.
    pub connect: Duration,
    /// Its greeting (RFC 5321 §4.5.3.2.1: five minutes; less by default, since a sender waits).
    pub greeting: Duration,
    /// The reply to a command.
    pub command: Duration,
    /// The writing of a block of data (RFC 5321 §4.5.3.2.5: three minutes).
    pub block: Duration,
    /// The reply to the end of data (RFC 5321 §4.5.3.2.6: ten minutes; less, since the client waits no longer than
    /// that).
    pub final_reply: Duration,
}

/// A message on its way to the upstream.
#[derive(Debug)]
pub struct MessageParts {
    /// Added fields and header section, encoded for the wire.
    pub head: Vec<u8>,
    /// The body, encoded for the wire.
    pub body: spool::Reader,
    /// Octets of the body as the spool has it.
    pub body_size: u64,
    /// Dots that the encoding has doubled, in head and body.
    pub dots: u64,
    /// Whether the last line has an end.
    pub ends_with_line: bool,
    /// How it came; it leaves the same way if the upstream can take it so.
    pub framing: Framing,
}

/// How long the steps of a delivery took; none for those that it did not reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// Connecting anew and telling the envelope again.
    pub connect: Option<Duration>,
    /// Sending the message, with the reply to DATA.
    pub transfer: Option<Duration>,
    /// Waiting for the final reply.
    pub reply: Option<Duration>,
}

impl MessageParts {
    /// Octets of the message without the dots of the encoding.
    pub fn content_size(&self) -> u64 {
        (self.head.len() as u64).saturating_add(self.body_size).saturating_sub(self.dots)
    }
}

/// The session's link to the upstream.
pub struct Link {
    servers: Arc<Servers>,
    settings: Arc<Settings>,
    metrics: Metrics,
    /// Whose link it is, for the log.
    session: Box<str>,
    connection: Option<Connection>,
    /// Index of the server of the connection at hand, or of the last one.
    server: Option<usize>,
    /// What the server of the connection at hand sees, or that of the last one.
    sight: Sight,
    last_use: Instant,
    told: Told,
    /// RCPT commands that went out with MAIL, whose replies have not been read.
    ahead: VecDeque<String>,
    /// How many replies to recipients of a refused MAIL the upstream still owes: they are read and dropped before the
    /// next command.
    unread: usize,
    /// Whether the client has authenticated on the connection at hand, and no other can be told so.
    pinned: bool,
}

/// A group of commands that begins a transaction.
#[derive(Debug)]
pub struct Group {
    /// MAIL.
    pub mail: String,
    /// The RCPT commands that the client has sent already; empty for an upstream without PIPELINING.
    pub recipients: Vec<String>,
}

/// What the upstream was told in the present transaction.
#[derive(Debug, Default)]
struct Told {
    mail: Option<String>,
    recipients: Vec<String>,
    replayed: bool,
    /// The connection was parked, not lost: telling it all to the next one is no loss.
    parked: bool,
}

/// Why a command has no reply that could be handed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All connections that may be open are in use, and none became free in time.
    #[error("upstream.connections are open and in use")]
    Busy,
    /// No upstream can be used; all were tried.
    #[error("no upstream can be used")]
    Unavailable,
    /// All upstreams were tried, and one refused the gate itself for good.
    #[error("the upstream refuses the gate")]
    Refused,
    /// The connection failed inside the transaction and the transaction could not be told again.
    #[error("the upstream was lost inside the transaction")]
    Lost,
    /// The upstream does not see the client, and nothing says which recipients it may be given: the relay guard.
    #[error("the upstream can't see the client, and smtp.recipient_domains is not set")]
    Unguarded,
    /// The connection on which the client had authenticated is lost, and a new one can't be told who it is.
    #[error("the upstream connection on which the client had authenticated is lost")]
    LoginLost,
    /// The upstream lacks an extension that was used in this transaction.
    #[error("the upstream lacks an extension in use")]
    Extension,
    /// The final reply to a message is missing, or it was not sent whole.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

impl Link {
    /// A link that is not connected yet; `session` is the id that its warnings carry.
    pub fn new(servers: Arc<Servers>, session: &str) -> Self {
        Self {
            settings: Arc::clone(servers.settings()),
            metrics: servers.metrics().clone(),
            servers,
            session: session.into(),
            connection: None,
            server: None,
            sight: Sight::Gate,
            last_use: Instant::now(),
            told: Told::default(),
            ahead: VecDeque::new(),
            unread: 0,
            pinned: false,
        }
    }

    /// Whether a Received field of ours tells the upstream who the client was.
    pub fn adds_received(&self) -> bool {
        self.sight == Sight::Gate && self.settings.identity != Identity::None
    }

    /// How the upstream learns who the client is.
    pub fn identity(&self) -> Identity {
        self.settings.identity
    }

    /// What the upstream at hand announced.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.connection.as_ref().map(Connection::capabilities)
    }

    /// How long the connection at hand may go on idling between transactions before it is let go, or told NOOP if it
    /// must be kept; none if there is no connection.
    pub fn idle_left(&self) -> Option<Duration> {
        self.left_of(self.settings.idle)
    }

    /// Waits until another session needs the connection at hand more: it is free at once while it idles between
    /// transactions, and after a moment while it waits inside one, which then has to be told again. A connection that
    /// must be kept is never wanted.
    pub fn wanted(&self) -> impl Future<Output = ()> + Send + use<> {
        let connection = self.connection.as_ref().filter(|_| !self.pinned);
        let servers = connection.map(|_| Arc::clone(&self.servers));
        let begun = self.told.mail.as_ref().map(|_| BRIEF_HOLD.saturating_sub(self.last_use.elapsed()));
        async move {
            let Some(servers) = servers else { return std::future::pending().await };
            if let Some(rest) = begun {
                sleep(rest).await;
            }
            servers.wanted().await;
        }
    }

    /// How long the connection at hand may go on waiting for the client inside a transaction before it is let go, or told
    /// NOOP if it must be kept; none if there is no connection.
    pub fn hold_left(&self) -> Option<Duration> {
        self.left_of(self.settings.hold)
    }

    fn left_of(&self, pause: Duration) -> Option<Duration> {
        let pause = if self.pinned { self.settings.silence } else { pause };
        self.connection.as_ref().map(|_| pause.saturating_sub(self.last_use.elapsed()))
    }

    /// Turns to other servers, between two transactions. The connection is closed then, since whether an upstream may
    /// be used that can't see the client depends on the relay guard of the same settings. A connection on which the
    /// client has authenticated is kept to its end.
    pub async fn follow(&mut self, servers: &Arc<Servers>) {
        if self.pinned || Arc::ptr_eq(&self.servers, servers) {
            return;
        }
        self.quit().await;
        (self.settings, self.servers) = (Arc::clone(servers.settings()), Arc::clone(servers));
    }

    /// Whether the connection at hand must be kept: the client has authenticated on it.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Says QUIT, keeping in mind what the transaction has told: a new connection is told it when the message is there.
    pub async fn park(&mut self) {
        self.told.parked = self.told.mail.is_some();
        self.quit_connection().await;
    }

    /// Says NOOP, which changes nothing, inside a transaction or not (RFC 5321 §4.1.1.9): a connection that must be kept
    /// would be closed by the upstream for its silence while the client's message comes in. One on which this fails is
    /// gone, as whoever uses it next is told.
    pub async fn keep_alive(&mut self) {
        self.catch_up().await;
        if self.connection.is_some() && self.ahead.is_empty() {
            let _ = self.command("NOOP", Expected::Done).await;
        }
        self.last_use = Instant::now();
    }

    /// Drops the connection without QUIT, where that could be misunderstood, and forgets the transaction.
    pub fn discard(&mut self) {
        self.told = Told::default();
        self.discard_connection();
    }

    /// Says QUIT and forgets the transaction.
    pub async fn quit(&mut self) {
        self.told = Told::default();
        self.quit_connection().await;
    }

    /// Gives buffers back before a long wait.
    pub fn release(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.release();
        }
    }

    /// Whether there is a connection, be it ended by the upstream or not.
    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether there is a connection that has not been ended by the upstream, by closing it or with a 421.
    fn is_alive(&mut self) -> bool {
        self.connection.as_mut().is_some_and(Connection::is_quiet)
    }

    async fn quit_connection(&mut self) {
        self.ahead.clear();
        self.unread = 0;
        self.pinned = false;
        if let Some(connection) = self.connection.take() {
            connection.quit().await;
        }
    }

    /// Whether there is a connection that may be used again.
    async fn revive(&mut self) -> bool {
        self.catch_up().await;
        let usable =
            self.ahead.is_empty() && (self.pinned || self.last_use.elapsed() < self.settings.idle) && self.is_alive();
        if !usable {
            self.quit_connection().await;
        }
        usable
    }

    fn discard_connection(&mut self) {
        self.connection = None;
        self.ahead.clear();
        self.unread = 0;
        self.pinned = false;
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// How long a connection may wait inside a transaction while another session wants it.
const BRIEF_HOLD: Duration = Duration::from_secs(1);
