//! The SMTP client side: one connection to the MTA for a session, its transactions, and their replay before DATA.
//!
//! The connection opens at the first MAIL and serves the session's later transactions. What it was told in the present
//! transaction is remembered, so that a connection lost (or held too long) before its DATA can be opened anew and told
//! again, once. After DATA nothing is ever sent twice.

pub mod connection;
pub mod handover;
pub mod metrics;
pub mod pool;
pub mod probe;
pub mod security;
pub mod servers;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use self::connection::{Connection, DeliveryError, ExchangeError, Limits, OpenError, Sight};
use self::handover::{Identity, Introduction};
pub use self::metrics::Metrics;
use self::metrics::{ConnectResult, LostAt};
use self::pool::Selection;
use self::security::Security;
use self::servers::Servers;
use crate::label::Label;
use crate::message::spool;
use crate::smtp::data::Framing;
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::{Reply, ReplyError};

/// How the upstream is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each.
    pub servers: Vec<Box<str>>,
    /// Whether and how connections are under TLS.
    pub security: Security,
    /// The name that certificates have to be for; none: the server's own, as it is written.
    pub tls_name: Option<Box<str>>,
    /// Which of them is tried first.
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
    /// The reply to the end of data (RFC 5321 §4.5.3.2.6: ten minutes; less, since the client waits no longer than that).
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
    /// Dots that the encoding has doubled, in both.
    pub dots: u64,
    /// Whether the last line has an end.
    pub ends_with_line: bool,
    /// How it came; it goes on as it came if the upstream knows how.
    pub framing: Framing,
}

/// How long the steps of a delivery took; those that it did not come to are none.
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
    /// Of the connection at hand, or of the last one.
    server: Option<usize>,
    /// Of the connection at hand, or of the last one.
    sight: Sight,
    last_use: Instant,
    told: Told,
    /// RCPT commands that went out with MAIL, whose replies have not been read.
    ahead: VecDeque<String>,
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
    /// The connection was let go on purpose: telling it all to the next one is no loss.
    parked: bool,
}

/// Why a command has no reply that could be handed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All connections that may be open are in use, and none became free in time.
    #[error("upstream.connections are open and in use")]
    Busy,
    /// No upstream can be used; each was tried.
    #[error("no upstream can be used")]
    Unavailable,
    /// Each upstream was tried, and one refused the gate itself for good.
    #[error("the upstream refuses the gate")]
    Refused,
    /// The connection failed inside the transaction and the transaction could not be told again.
    #[error("the upstream was lost inside the transaction")]
    Lost,
    /// The upstream does not see the client and nothing says what it may be asked to take: the relay guard.
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
            pinned: false,
        }
    }

    /// Whether a Received field of ours tells the upstream who the client was.
    pub fn adds_received(&self) -> bool {
        self.sight == Sight::Gate && self.settings.identity != Identity::None
    }

    /// What the upstream at hand announced.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.connection.as_ref().map(Connection::capabilities)
    }

    /// How long the connection at hand may go on idling; none if there is no connection.
    pub fn idle_left(&self) -> Option<Duration> {
        let connection = self.connection.as_ref().filter(|_| !self.pinned);
        connection.map(|_| self.settings.idle.saturating_sub(self.last_use.elapsed()))
    }

    /// Waits until another session wants the connection at hand more: at once where it idles between transactions, after
    /// a moment where it waits inside one, which then has to be told again. A connection that must be kept is not asked
    /// for.
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

    /// How long the connection at hand may go on waiting inside a transaction; none if there is no connection.
    pub fn hold_left(&self) -> Option<Duration> {
        let connection = self.connection.as_ref().filter(|_| !self.pinned);
        connection.map(|_| self.settings.hold.saturating_sub(self.last_use.elapsed()))
    }

    /// Turns to other servers, between two transactions. The connection is closed then: whether the upstream may be asked
    /// without seeing the client hangs on the relay guard of the very same settings. One on which the client has
    /// authenticated is kept to its end.
    pub async fn follow(&mut self, servers: &Arc<Servers>) {
        if self.pinned || Arc::ptr_eq(&self.servers, servers) {
            return;
        }
        self.close().await;
        (self.settings, self.servers) = (Arc::clone(servers.settings()), Arc::clone(servers));
    }

    /// Whether the connection at hand must be kept: the client has authenticated on it.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Begins a transaction: connects if need be and relays MAIL, and with it the recipients that are known already, in
    /// one write. `group` makes the commands for an upstream with these capabilities, or refuses one that lacks what they
    /// need.
    ///
    /// # Errors
    ///
    /// No reply could be had; the client is told to try again.
    pub async fn mail(
        &mut self,
        introduction: &Introduction,
        group: impl Fn(&Capabilities) -> Option<Group>,
    ) -> Result<Reply, Error> {
        self.told = Told::default();
        let reused = self.revive().await;
        if !reused && let Some(refusal) = self.attach(introduction, None).await? {
            return Ok(refusal);
        }
        match self.say_mail(&group).await? {
            // An idle connection may have been ended meanwhile: that is not shown to the client.
            Ok(reply) if reply.code() == 421 && reused => {}
            Ok(reply) => return Ok(reply),
            // A server that is silent, or says what can't be understood, is not asked again.
            Err(ExchangeError::Lost(_)) => {}
            Err(_) => return Err(self.lost(LostAt::BeforeData)),
        }
        if let Some(refusal) = self.attach(introduction, self.server).await? {
            return Ok(refusal);
        }
        self.told.replayed = true;
        self.say_mail(&group).await?.map_err(|_| self.lost(LostAt::BeforeData))
    }

    /// Relays one RCPT, or reads the reply to it if it has left with MAIL. `line` makes the command, or refuses an upstream
    /// that lacks what it needs.
    ///
    /// # Errors
    ///
    /// The transaction is over; the client is told to try again.
    pub async fn recipient(
        &mut self,
        introduction: &Introduction,
        line: impl Fn(&Capabilities) -> Option<String>,
    ) -> Result<Reply, Error> {
        if self.ahead.is_empty() && !self.is_alive() {
            self.replay(introduction).await?;
        }
        let command = self.capabilities().and_then(&line).ok_or(Error::Extension)?;
        let first = match self.ahead.pop_front() {
            Some(sent) if sent == command => self.answer(Expected::Done).await,
            Some(_) => {
                // What was sent is not what is asked for now: only a new connection is sure to know no one else.
                self.drop_connection().await;
                Err(ExchangeError::Lost(ErrorKind::Other.into()))
            }
            None => self.command(&command, Expected::Done).await,
        };
        let (command, reply) = match first {
            Ok(reply) => (command, reply),
            Err(ExchangeError::Lost(_)) => {
                self.replay(introduction).await?;
                // The new one may be another server.
                let command = self.capabilities().and_then(line).ok_or(Error::Extension)?;
                let reply = self.command(&command, Expected::Done).await.map_err(|_| self.lost(LostAt::BeforeData))?;
                (command, reply)
            }
            Err(_) => return Err(self.lost(LostAt::BeforeData)),
        };
        if reply.is_positive() {
            self.told.recipients.push(command);
        }
        Ok(reply)
    }

    /// Relays AUTH; the reply is the first challenge or the end.
    ///
    /// # Errors
    ///
    /// No reply could be had; the client is told to try again.
    pub async fn log_in(
        &mut self,
        introduction: &Introduction,
        mechanism: &str,
        initial: Option<&str>,
    ) -> Result<Reply, Error> {
        self.told = Told::default();
        let reused = self.revive().await;
        if !reused && let Some(refusal) = self.attach(introduction, None).await? {
            return Ok(refusal);
        }
        let is_offered = |found: &Capabilities| found.auth.iter().any(|known| **known == *mechanism);
        if !self.capabilities().is_some_and(is_offered) {
            return Err(Error::Extension);
        }
        let line = match initial {
            Some(initial) => format!("AUTH {mechanism} {initial}"),
            None => format!("AUTH {mechanism}"),
        };
        self.command(&line, Expected::Challenge).await.map_err(|_| Error::Lost)
    }

    /// Relays the client's response to a challenge.
    ///
    /// # Errors
    ///
    /// No reply could be had; the client is told to try again.
    pub async fn respond(&mut self, response: &str) -> Result<Reply, Error> {
        self.command(response, Expected::Challenge).await.map_err(|_| Error::Lost)
    }

    /// Says that the client has authenticated as `login` on the connection at hand, which is kept from now on if no other
    /// can be told.
    pub fn logged_in(&mut self, login: &str) {
        let can_be_told = |connection: &Connection| connection.takes_login() && login != UNKNOWN_LOGIN;
        self.pinned = !self.connection.as_ref().is_some_and(can_be_told);
    }

    /// Sends DATA and the message and gives the upstream's answer: to the end of data, or to DATA if it is refused.
    ///
    /// # Errors
    ///
    /// The transaction is over. The upstream has the message only if it is [`DeliveryError::AfterEnd`], and then it may.
    pub async fn deliver(
        &mut self,
        introduction: &Introduction,
        message: MessageParts,
    ) -> (Result<Reply, Error>, Times) {
        let mut times = Times::default();
        let reply = self.hand_over(introduction, message, &mut times).await;
        (reply, times)
    }

    async fn hand_over(
        &mut self,
        introduction: &Introduction,
        message: MessageParts,
        times: &mut Times,
    ) -> Result<Reply, Error> {
        let began = Instant::now();
        if !self.ahead.is_empty() {
            // It knows recipients that the client was not told of.
            self.drop_connection().await;
        }
        if !self.is_alive() {
            let replayed = self.replay(introduction).await;
            times.connect = Some(began.elapsed());
            replayed?;
        }
        let ready = Instant::now();
        let as_chunk = message.framing == Framing::Count && self.capabilities().is_some_and(|c| c.chunking);
        if !as_chunk {
            // From here on nothing is told again: DATA was sent.
            let reply = self.command("DATA", Expected::Data).await.map_err(|_| self.lost(LostAt::InData))?;
            if reply.code() != 354 {
                return Ok(reply);
            }
        }
        let Some(mut connection) = self.connection.take() else { return Err(Error::Lost) };
        let limits = Limits { timeouts: &self.settings.timeouts, began };
        let result = match as_chunk {
            true => connection.send_chunk(message, limits).await,
            false => connection.send(message, limits).await,
        };
        self.last_use = Instant::now();
        match connection.sent_at() {
            Some(sent) => {
                times.transfer = Some(sent.saturating_duration_since(ready));
                times.reply = Some(sent.elapsed());
            }
            None => times.transfer = Some(ready.elapsed()),
        }
        // A chunk that is refused may leave its transaction open, until RSET (RFC 3030 §2).
        if !as_chunk || !matches!(&result, Ok(reply) if !reply.is_positive()) {
            self.told = Told::default();
        }
        match result {
            Ok(reply) if reply.is_positive() || reply.is_transient() || reply.is_permanent() => {
                if reply.code() != 421 {
                    self.connection = Some(connection);
                }
                Ok(reply)
            }
            // The upstream has spoken, but nobody can say what it did with the message.
            Ok(reply) => Err(self.undelivered(DeliveryError::AfterEnd(ReplyError::Unexpected(reply.code()).into()))),
            // Its connection is gone with the rest of the message.
            Err(DeliveryError::Refused(reply)) => Ok(reply),
            Err(error) => Err(self.undelivered(error)),
        }
    }

    /// Ends the transaction, if one is open, with RSET; a connection that does not answer well is dropped.
    pub async fn reset(&mut self) {
        if std::mem::take(&mut self.told).mail.is_none() {
            return;
        }
        if !self.ahead.is_empty() {
            return self.drop_connection().await;
        }
        let Some(connection) = &mut self.connection else { return };
        // The client's reply waits for this one, whatever it is, so a slow upstream is rather left.
        let limit = self.settings.timeouts.command.min(RESET_WAIT);
        let reply = connection.command("RSET", limit).await;
        self.last_use = Instant::now();
        if !reply.is_ok_and(|reply| reply.is_positive()) {
            self.drop_connection().await;
        }
    }

    /// Lets the connection go inside a transaction; it is opened and told again when the message is there.
    pub async fn let_go(&mut self) {
        self.told.parked = self.told.mail.is_some();
        self.drop_connection().await;
    }

    /// Drops the connection without a word, where one could be misunderstood.
    pub fn abandon(&mut self) {
        self.told = Told::default();
        self.forget_connection();
    }

    /// Says QUIT and forgets everything.
    pub async fn close(&mut self) {
        self.told = Told::default();
        self.drop_connection().await;
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

    async fn drop_connection(&mut self) {
        self.ahead.clear();
        self.pinned = false;
        if let Some(connection) = self.connection.take() {
            connection.quit().await;
        }
    }

    /// Whether there is a connection that may be used again.
    async fn revive(&mut self) -> bool {
        let usable =
            self.ahead.is_empty() && (self.pinned || self.last_use.elapsed() < self.settings.idle) && self.is_alive();
        if !usable {
            self.drop_connection().await;
        }
        usable
    }

    /// Connects, and makes sure that the upstream knows of a client's login.
    async fn attach(&mut self, introduction: &Introduction, avoid: Option<usize>) -> Result<Option<Reply>, Error> {
        self.drop_connection().await;
        let refusal = self.connect(introduction, avoid).await?;
        let is_told = |login: &str, c: &Connection| c.takes_login() && login != UNKNOWN_LOGIN;
        if let (Some(login), Some(connection)) = (&introduction.login, &self.connection)
            && !is_told(login, connection)
        {
            self.drop_connection().await;
            return Err(Error::LoginLost);
        }
        Ok(refusal)
    }

    /// Tries each server, `avoid` last. Gives the reply of one that refuses the client.
    ///
    /// All together have `timeouts.open`; of what is left of it each may use its share, so that one that hangs leaves
    /// time for the others.
    async fn connect(&mut self, introduction: &Introduction, avoid: Option<usize>) -> Result<Option<Reply>, Error> {
        let mut slot = self.servers.slot().await?;
        let (mut refusal, mut error) = (None, Error::Unavailable);
        let deadline = Instant::now() + self.settings.timeouts.open;
        let mut order = self.servers.order(avoid).into_iter();
        while let Some(index) = order.next() {
            let Some(server) = self.settings.servers.get(index) else { continue };
            slot.at(index);
            let (began, took) = (Instant::now(), self.metrics.connect_seconds.start_timer());
            let left = u32::try_from(order.len()).unwrap_or(u32::MAX).saturating_add(1);
            let share = deadline.saturating_duration_since(began) / left;
            let opened = open_within(share, &self.settings, server, introduction).await;
            took.observe_duration();
            match opened {
                Ok(mut connection) => {
                    self.metrics.connections.inc(ConnectResult::Open);
                    self.servers.answered(index);
                    if connection.sight() == Sight::Client {
                        self.servers.saw_a_client(index);
                    }
                    if connection.sight() == Sight::Gate && self.settings.blind == Blind::Refused {
                        error!(
                            session = &*self.session,
                            server = &**server,
                            "the upstream can't see the client: let it announce XCLIENT to this gate, set \
                             upstream.identity, or set smtp.recipient_domains"
                        );
                        connection.quit().await;
                        error = Error::Unguarded;
                        continue;
                    }
                    connection.occupy(slot);
                    self.last_use = Instant::now();
                    self.sight = connection.sight();
                    self.server = Some(index);
                    self.connection = Some(connection);
                    return Ok(None);
                }
                Err(cause) => {
                    let cause = cause.settled(self.settings.identity, self.servers.sees_clients(index));
                    let result = connect_result(&cause);
                    self.metrics.connections.inc(result);
                    self.report(server, result, &cause);
                    match cause {
                        // A refusal of the client is no fault of the server's.
                        OpenError::ClientRefused(..) => self.servers.answered(index),
                        _ => self.servers.failed(index, began),
                    }
                    match cause {
                        OpenError::ClientRefused(reply, _) if reply.is_permanent() => return Ok(Some(reply)),
                        OpenError::ClientRefused(reply, _) => refusal = Some(reply),
                        OpenError::GateRefused { reply, .. } if reply.is_permanent() => error = Error::Refused,
                        _ => {}
                    }
                }
            }
        }
        refusal.map(Some).ok_or(error)
    }

    /// The outer error is a client that uses what this upstream lacks.
    async fn say_mail(
        &mut self,
        group: &impl Fn(&Capabilities) -> Option<Group>,
    ) -> Result<Result<Reply, ExchangeError>, Error> {
        let Group { mail, recipients } = self.capabilities().and_then(group).ok_or(Error::Extension)?;
        let reply = match self.queue(std::iter::once(&mail).chain(&recipients)) {
            Ok(()) => {
                self.ahead = recipients.into();
                self.answer(Expected::Done).await
            }
            Err(error) => Err(self.failed(error)),
        };
        match &reply {
            Ok(reply) if reply.is_positive() => self.told.mail = Some(mail),
            _ => self.skip_ahead().await,
        }
        // What it wants of our link is not the client's to do.
        if let Ok(reply) = &reply
            && wants_tls(reply)
            && self.settings.security == Security::Off
        {
            error!(
                session = &*self.session,
                reply = reply.summary(),
                "the upstream wants TLS of this gate: set upstream.tls"
            );
            return Err(Error::Refused);
        }
        Ok(reply)
    }

    /// Reads the replies to recipients of a transaction that was refused.
    async fn skip_ahead(&mut self) {
        while self.connection.is_some() && self.ahead.pop_front().is_some() {
            if self.answer(Expected::Done).await.is_err() {
                self.drop_connection().await;
            }
        }
        self.ahead.clear();
    }

    /// Opens a new connection and tells it what the lost one was told; all of it must be accepted again.
    async fn replay(&mut self, introduction: &Introduction) -> Result<(), Error> {
        let Told { mail, recipients, replayed, parked } = std::mem::take(&mut self.told);
        let (Some(mail), true) = (mail, parked || !replayed) else { return Err(self.lost(LostAt::BeforeData)) };
        debug!(session = &*self.session, "telling the transaction again on a new upstream connection");
        self.drop_connection().await;
        let sight = self.sight;
        // A server that lost the transaction is not the first to be told it again.
        let avoid = if parked { None } else { self.server };
        if self.attach(introduction, avoid).await?.is_some() {
            return Err(self.lost(LostAt::BeforeData));
        }
        if self.sight != sight {
            // The message was made for an upstream that sees (or does not see) the client.
            self.drop_connection().await;
            return Err(self.lost(LostAt::BeforeData));
        }
        self.told.replayed = replayed || !parked;
        let lines: Vec<&String> = std::iter::once(&mail).chain(&recipients).collect();
        let pipelining = self.capabilities().is_some_and(|found| found.pipelining);
        for group in lines.chunks(if pipelining { MAX_GROUP } else { 1 }) {
            if !self.are_accepted(group).await {
                self.drop_connection().await;
                return Err(self.lost(LostAt::BeforeData));
            }
        }
        if !parked {
            self.metrics.lost.inc(LostAt::Replayed);
        }
        (self.told.mail, self.told.recipients) = (Some(mail), recipients);
        Ok(())
    }

    /// Sends commands in one write; whether all of them are accepted.
    async fn are_accepted(&mut self, lines: &[&String]) -> bool {
        if self.queue(lines.iter().copied()).is_err() {
            return false;
        }
        for _ in lines {
            if !self.answer(Expected::Done).await.is_ok_and(|reply| reply.is_positive()) {
                return false;
            }
        }
        true
    }

    /// One command on the connection at hand, which is gone if this fails.
    async fn command(&mut self, line: &str, expected: Expected) -> Result<Reply, ExchangeError> {
        match self.queue(std::iter::once(line)) {
            Ok(()) => self.answer(expected).await,
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Queues commands, which leave with the next [`Link::answer`].
    fn queue(&mut self, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<(), ExchangeError> {
        let connection = self.connection.as_mut().ok_or_else(|| ExchangeError::Lost(ErrorKind::NotConnected.into()))?;
        lines.into_iter().try_for_each(|line| connection.queue(line.as_ref()))
    }

    /// The next reply on the connection at hand, which is gone if this fails.
    async fn answer(&mut self, expected: Expected) -> Result<Reply, ExchangeError> {
        let Some(connection) = &mut self.connection else {
            return Err(ExchangeError::Lost(ErrorKind::NotConnected.into()));
        };
        let limit = self.settings.timeouts.command;
        let result = connection.reply(limit).await.and_then(|reply| expected.check(reply));
        self.last_use = Instant::now();
        match result {
            Ok(reply) if reply.code() == 421 => {
                self.forget_connection();
                Ok(reply)
            }
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: ExchangeError) -> ExchangeError {
        warn!(session = &*self.session, error = %error, "upstream connection lost");
        if matches!(error, ExchangeError::Nonsense(_)) {
            self.metrics.nonsense.inc();
        }
        self.forget_connection();
        error
    }

    fn forget_connection(&mut self) {
        self.connection = None;
        self.ahead.clear();
        self.pinned = false;
    }

    fn lost(&mut self, at: LostAt) -> Error {
        self.metrics.lost.inc(at);
        self.told = Told::default();
        Error::Lost
    }

    fn undelivered(&mut self, error: DeliveryError) -> Error {
        warn!(session = &*self.session, error = %error, "message not delivered");
        let at = if matches!(error, DeliveryError::AfterEnd(_)) { LostAt::AfterEnd } else { LostAt::InData };
        self.metrics.lost.inc(at);
        if let DeliveryError::BeforeEnd(ExchangeError::Nonsense(_))
        | DeliveryError::AfterEnd(ExchangeError::Nonsense(_)) = error
        {
            self.metrics.nonsense.inc();
        }
        error.into()
    }

    fn report(&self, server: &str, result: ConnectResult, cause: &OpenError) {
        let session = &*self.session;
        match cause {
            OpenError::ClientRefused(..) => debug!(session, server, error = %cause, "upstream refuses the client"),
            OpenError::GateRefused { reply, .. } if reply.is_permanent() => error!(
                session,
                server,
                result = result.as_str(),
                error = %cause,
                "the upstream refuses this gate: check upstream.identity and what the MTA permits to this address"
            ),
            _ => warn!(session, server, result = result.as_str(), error = %cause, "upstream connection failed"),
        }
    }
}

/// What a command may be answered with, beside a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// 2xx.
    Done,
    /// 2xx, or 334 for more.
    Challenge,
    /// 354.
    Data,
}

impl Expected {
    /// A reply that fits.
    fn check(self, reply: Reply) -> Result<Reply, ExchangeError> {
        let fits = match reply.code() {
            354 => self == Self::Data,
            334 => self == Self::Challenge,
            200..=299 => self != Self::Data,
            code => code >= 400,
        };
        if fits { Ok(reply) } else { Err(ReplyError::Unexpected(reply.code()).into()) }
    }
}

/// Opens a connection to `server`, at the first of its addresses that answers, within `limit`.
///
/// # Errors
///
/// [`OpenError`] says whose fault it is.
pub async fn open_within(
    limit: Duration,
    settings: &Settings,
    server: &str,
    introduction: &Introduction,
) -> Result<Connection, OpenError> {
    let late = || Err(OpenError::Setup { step: "opening", cause: ExchangeError::Timeout });
    timeout(limit, open(settings, server, introduction)).await.unwrap_or_else(|_| late())
}

async fn open(settings: &Settings, server: &str, introduction: &Introduction) -> Result<Connection, OpenError> {
    let addresses = match server.parse() {
        Ok(address) => vec![address],
        Err(_) => timeout(settings.timeouts.connect, lookup_host(server))
            .await
            .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
            .map_err(OpenError::Unreachable)?
            .collect(),
    };
    let name = settings.certificate_name(server);
    let mut last = OpenError::Unreachable(ErrorKind::NotFound.into());
    for address in addresses {
        match Connection::open(address, name, introduction, settings).await {
            Err(error @ OpenError::Unreachable(_)) => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host(server: &str) -> &str {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether a server refuses to go on in the clear (RFC 3207 §4).
fn wants_tls(reply: &Reply) -> bool {
    reply.code() == 530 && reply.summary().to_ascii_uppercase().contains("STARTTLS")
}

fn connect_result(error: &OpenError) -> ConnectResult {
    match error {
        OpenError::Unreachable(_) => ConnectResult::Unreachable,
        OpenError::Setup { .. } => ConnectResult::Setup,
        OpenError::Unprotected { .. } => ConnectResult::Tls,
        OpenError::GateRefused { .. } => ConnectResult::GateRefused,
        OpenError::ClientRefused(..) => ConnectResult::ClientRefused,
    }
}

/// How long a connection may wait inside a transaction while another session wants it.
const BRIEF_HOLD: Duration = Duration::from_secs(1);
/// How long the upstream may take to forget a transaction before its connection is dropped instead.
const RESET_WAIT: Duration = Duration::from_secs(5);
/// Commands that leave in one write: their replies must fit into what the network buffers, or both sides wait for the
/// other to read (RFC 2920 §3.1).
pub const MAX_GROUP: usize = 100;
/// A login whose name is not known, or not for certain: no other connection can be told it.
pub const UNKNOWN_LOGIN: &str = "?";
