//! The SMTP client side: one connection to the MTA for a session, its transactions, and their replay before DATA.
//!
//! The connection opens at the first MAIL and serves the session's later transactions. What it was told in the present
//! transaction is remembered, so that a connection lost (or held too long) before its DATA can be opened anew and told
//! again, once. After DATA nothing is ever sent twice.

pub mod connection;
pub mod handover;
pub mod metrics;
pub mod probe;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use self::connection::{Connection, DeliveryError, ExchangeError, OpenError, Sight};
use self::handover::{Identity, Introduction};
pub use self::metrics::Metrics;
use self::metrics::{ConnectResult, LostAt};
use crate::label::Label;
use crate::message::spool;
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::{Reply, ReplyError};

/// How the upstream is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` each, tried in order.
    pub servers: Vec<Box<str>>,
    /// How it learns who the client is.
    pub identity: Identity,
    /// Whether an upstream that can't see the client may be used.
    pub blind: Blind,
    /// The gate's own name, for EHLO.
    pub hostname: Box<str>,
    /// How long a connection may wait inside a transaction for a slow sender's data.
    pub hold: Duration,
    /// How long each step may take.
    pub timeouts: Timeouts,
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
    /// What ends the data.
    pub end: &'static [u8],
}

/// The session's link to the upstream.
pub struct Link {
    settings: Arc<Settings>,
    metrics: Metrics,
    connection: Option<Connection>,
    /// Of the connection at hand, or of the last one.
    sight: Sight,
    last_use: Instant,
    told: Told,
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
    /// The upstream lacks an extension that was used in this transaction.
    #[error("the upstream lacks an extension in use")]
    Extension,
    /// The final reply to a message is missing, or it was not sent whole.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

impl Link {
    /// A link that is not connected yet.
    pub fn new(settings: Arc<Settings>, metrics: Metrics) -> Self {
        Self {
            settings,
            metrics,
            connection: None,
            sight: Sight::Gate,
            last_use: Instant::now(),
            told: Told::default(),
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
        self.connection.as_ref().map(|_| IDLE.saturating_sub(self.last_use.elapsed()))
    }

    /// How long the connection at hand may go on waiting inside a transaction; none if there is no connection.
    pub fn hold_left(&self) -> Option<Duration> {
        self.connection.as_ref().map(|_| self.settings.hold.saturating_sub(self.last_use.elapsed()))
    }

    /// Takes other settings over, between two transactions. Where they differ, the connection is closed: whether the
    /// upstream may be asked without seeing the client hangs on the relay guard of the very same settings.
    pub async fn follow(&mut self, settings: &Arc<Settings>) {
        if *self.settings != **settings {
            self.close().await;
        }
        self.settings = Arc::clone(settings);
    }

    /// Begins a transaction: connects if need be and relays MAIL. `line` makes the command for an upstream with these
    /// capabilities, or refuses one that lacks what it needs.
    ///
    /// # Errors
    ///
    /// No reply could be had; the client is told to try again.
    pub async fn mail(
        &mut self,
        introduction: &Introduction,
        line: impl Fn(&Capabilities) -> Option<String>,
    ) -> Result<Reply, Error> {
        self.told = Told::default();
        let reused = self.revive().await;
        if !reused && let Some(refusal) = self.connect(introduction).await? {
            return Ok(refusal);
        }
        match self.say_mail(&line).await? {
            // An idle connection may have been ended meanwhile: that is not shown to the client.
            Ok(reply) if reply.code() == 421 && reused => {}
            Ok(reply) => return Ok(reply),
            // A server that is silent, or says what can't be understood, is not asked again.
            Err(ExchangeError::Lost(_)) => {}
            Err(_) => return Err(self.lost(LostAt::BeforeData)),
        }
        if let Some(refusal) = self.connect(introduction).await? {
            return Ok(refusal);
        }
        self.told.replayed = true;
        self.say_mail(&line).await?.map_err(|_| self.lost(LostAt::BeforeData))
    }

    /// Relays one RCPT.
    ///
    /// # Errors
    ///
    /// The transaction is over; the client is told to try again.
    pub async fn recipient(&mut self, introduction: &Introduction, path: &str) -> Result<Reply, Error> {
        let line = format!("RCPT TO:{path}");
        if !self.is_alive() {
            self.replay(introduction).await?;
        }
        let reply = match self.command(&line).await {
            Ok(reply) => reply,
            Err(ExchangeError::Lost(_)) => {
                self.replay(introduction).await?;
                self.command(&line).await.map_err(|_| self.lost(LostAt::BeforeData))?
            }
            Err(_) => return Err(self.lost(LostAt::BeforeData)),
        };
        if reply.is_positive() {
            self.told.recipients.push(line);
        }
        Ok(reply)
    }

    /// Sends DATA and the message and gives the upstream's answer: to the end of data, or to DATA if it is refused.
    ///
    /// # Errors
    ///
    /// The transaction is over. The upstream has the message only if it is [`DeliveryError::AfterEnd`], and then it may.
    pub async fn deliver(&mut self, introduction: &Introduction, message: MessageParts) -> Result<Reply, Error> {
        if !self.is_alive() {
            self.replay(introduction).await?;
        }
        // From here on nothing is told again: DATA was sent.
        let reply = self.command("DATA").await.map_err(|_| self.lost(LostAt::InData))?;
        if reply.code() != 354 {
            return Ok(reply);
        }
        let Some(mut connection) = self.connection.take() else { return Err(Error::Lost) };
        let result = connection.send(message, &self.settings.timeouts).await;
        self.told = Told::default();
        self.last_use = Instant::now();
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

    /// Whether there is a connection that has not been ended by the upstream, by closing it or with a 421.
    fn is_alive(&mut self) -> bool {
        self.connection.as_mut().is_some_and(Connection::is_quiet)
    }

    async fn drop_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.quit().await;
        }
    }

    /// Whether there is a connection that may be used again.
    async fn revive(&mut self) -> bool {
        let usable = self.last_use.elapsed() < IDLE && self.is_alive();
        if !usable {
            self.drop_connection().await;
        }
        usable
    }

    /// Tries each server in order. Gives the reply of one that refuses the client.
    async fn connect(&mut self, introduction: &Introduction) -> Result<Option<Reply>, Error> {
        let (mut refusal, mut error) = (None, Error::Unavailable);
        for server in &self.settings.servers {
            match open(&self.settings, server, introduction).await {
                Ok(connection) => {
                    self.metrics.connections.inc(ConnectResult::Open);
                    if connection.sight() == Sight::Gate && self.settings.blind == Blind::Refused {
                        error!(
                            server = &**server,
                            "the upstream can't see the client: let it announce XCLIENT to this gate, set \
                             upstream.identity, or set smtp.recipient_domains"
                        );
                        connection.quit().await;
                        return Err(Error::Unguarded);
                    }
                    self.last_use = Instant::now();
                    self.sight = connection.sight();
                    self.connection = Some(connection);
                    return Ok(None);
                }
                Err(cause) => {
                    let result = connect_result(&cause);
                    self.metrics.connections.inc(result);
                    report(server, result, &cause);
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
        line: &impl Fn(&Capabilities) -> Option<String>,
    ) -> Result<Result<Reply, ExchangeError>, Error> {
        let line = self.capabilities().and_then(line).ok_or(Error::Extension)?;
        let reply = self.command(&line).await;
        if reply.as_ref().is_ok_and(Reply::is_positive) {
            self.told.mail = Some(line);
        }
        Ok(reply)
    }

    /// Opens a new connection and tells it what the lost one was told; all of it must be accepted again.
    async fn replay(&mut self, introduction: &Introduction) -> Result<(), Error> {
        let Told { mail, recipients, replayed, parked } = std::mem::take(&mut self.told);
        let (Some(mail), true) = (mail, parked || !replayed) else { return Err(self.lost(LostAt::BeforeData)) };
        debug!("telling the transaction again on a new upstream connection");
        self.drop_connection().await;
        let sight = self.sight;
        if self.connect(introduction).await?.is_some() {
            return Err(self.lost(LostAt::BeforeData));
        }
        if self.sight != sight {
            // The message was made for an upstream that sees (or does not see) the client.
            self.drop_connection().await;
            return Err(self.lost(LostAt::BeforeData));
        }
        self.told.replayed = replayed || !parked;
        for line in std::iter::once(&mail).chain(&recipients) {
            let accepted = self.command(line).await.is_ok_and(|reply| reply.is_positive());
            if !accepted {
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

    /// One command on the connection at hand, which is gone if this fails.
    async fn command(&mut self, line: &str) -> Result<Reply, ExchangeError> {
        let Some(connection) = &mut self.connection else {
            return Err(ExchangeError::Lost(ErrorKind::NotConnected.into()));
        };
        let result =
            connection.command(line, self.settings.timeouts.command).await.and_then(|reply| fitting(line, reply));
        self.last_use = Instant::now();
        match &result {
            Ok(reply) if reply.code() == 421 => self.connection = None,
            Ok(_) => {}
            Err(error) => {
                warn!(error = %error, "upstream connection lost");
                if matches!(error, ExchangeError::Nonsense(_)) {
                    self.metrics.nonsense.inc();
                }
                self.connection = None;
            }
        }
        result
    }

    fn lost(&mut self, at: LostAt) -> Error {
        self.metrics.lost.inc(at);
        self.told = Told::default();
        Error::Lost
    }

    fn undelivered(&mut self, error: DeliveryError) -> Error {
        warn!(error = %error, "message not delivered");
        let at = if matches!(error, DeliveryError::AfterEnd(_)) { LostAt::AfterEnd } else { LostAt::InData };
        self.metrics.lost.inc(at);
        if let DeliveryError::BeforeEnd(ExchangeError::Nonsense(_))
        | DeliveryError::AfterEnd(ExchangeError::Nonsense(_)) = error
        {
            self.metrics.nonsense.inc();
        }
        error.into()
    }
}

/// A reply that may follow `command`: 354 belongs to DATA, and 2xx does not.
fn fitting(command: &str, reply: Reply) -> Result<Reply, ExchangeError> {
    let fits = match reply.code() {
        354 => command == "DATA",
        200..=299 => command != "DATA",
        code => code >= 400,
    };
    if fits { Ok(reply) } else { Err(ReplyError::Unexpected(reply.code()).into()) }
}

/// Opens a connection to `server`, at the first of its addresses that answers.
async fn open(settings: &Settings, server: &str, introduction: &Introduction) -> Result<Connection, OpenError> {
    let addresses = match server.parse() {
        Ok(address) => vec![address],
        Err(_) => timeout(settings.timeouts.connect, lookup_host(server))
            .await
            .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
            .map_err(OpenError::Unreachable)?
            .collect(),
    };
    let mut last = OpenError::Unreachable(ErrorKind::NotFound.into());
    for address in addresses {
        let opened =
            Connection::open(address, settings.identity, introduction, &settings.hostname, &settings.timeouts).await;
        match opened {
            Err(error @ OpenError::Unreachable(_)) => last = error,
            other => return other,
        }
    }
    Err(last)
}

fn connect_result(error: &OpenError) -> ConnectResult {
    match error {
        OpenError::Unreachable(_) => ConnectResult::Unreachable,
        OpenError::Setup { .. } => ConnectResult::Setup,
        OpenError::GateRefused { .. } => ConnectResult::GateRefused,
        OpenError::ClientRefused(..) => ConnectResult::ClientRefused,
    }
}

fn report(server: &str, result: ConnectResult, cause: &OpenError) {
    match cause {
        OpenError::ClientRefused(..) => debug!(server, error = %cause, "upstream refuses the client"),
        OpenError::GateRefused { reply, .. } if reply.is_permanent() => error!(
            server,
            result = result.as_str(),
            error = %cause,
            "the upstream refuses this gate: check upstream.identity and what the MTA permits to this address"
        ),
        _ => warn!(server, result = result.as_str(), error = %cause, "upstream connection failed"),
    }
}

/// How long a connection may idle between transactions: idle connections use up an MTA's processes.
const IDLE: Duration = Duration::from_secs(10);
/// How long the upstream may take to forget a transaction before its connection is dropped instead.
const RESET_WAIT: Duration = Duration::from_secs(5);
