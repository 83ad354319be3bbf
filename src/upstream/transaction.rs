//! The commands of a transaction: live up to DATA, told again once if the connection is lost before that, and never
//! after.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::{debug, error, warn};

use super::connection::{DeliveryError, ExchangeError, Limits};
use super::exchange::Expected;
use super::handover::Introduction;
use super::metrics::LostAt;
use super::security::Security;
use super::{Error, Group, Link, MessageParts, Times, Told};
use crate::smtp::data::Framing;
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::{Reply, ReplyError};

impl Link {
    /// Begins a transaction: connects if need be and relays MAIL, and with it the recipients that are known already, in
    /// one write. `group` makes the commands for an upstream with these capabilities, or refuses one that lacks what
    /// they need.
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
        let pinned = self.pinned;
        match self.say_mail(&group).await? {
            // An idle connection may have been ended meanwhile: that is not shown to a client that another one can serve.
            Ok(reply) if reply.code() == 421 && reused && !pinned => {}
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

    /// Relays one RCPT, or reads the reply to it if it has left with MAIL. `line` makes the command, or refuses an
    /// upstream that lacks what it needs.
    ///
    /// # Errors
    ///
    /// The transaction is over; the client is told to try again.
    pub async fn recipient(
        &mut self,
        introduction: &Introduction,
        line: impl Fn(&Capabilities) -> Option<String>,
    ) -> Result<Reply, Error> {
        // Its client waits no longer for a replay than for a server that is slow.
        let (began, limit) = (Instant::now(), self.settings.timeouts.command);
        if self.ahead.is_empty() && !self.is_alive() {
            self.replay_within(limit, introduction).await?;
        }
        let command = self.capabilities().and_then(&line).ok_or(Error::Extension)?;
        let first = match self.ahead.pop_front() {
            Some(sent) if sent == command => self.answer(Expected::Done).await,
            Some(_) => {
                // What was sent is not what is asked for now: only a new connection has no other recipients for sure.
                self.quit_connection().await;
                Err(ExchangeError::Lost(ErrorKind::Other.into()))
            }
            None => self.command(&command, Expected::Done).await,
        };
        let (command, reply) = match first {
            Ok(reply) => (command, reply),
            Err(ExchangeError::Lost(_)) => {
                self.replay_within(limit.saturating_sub(began.elapsed()), introduction).await?;
                // The new one may be another server.
                let command = self.capabilities().and_then(line).ok_or(Error::Extension)?;
                let left = limit.saturating_sub(began.elapsed());
                let reply = self.command_within(left, &command, Expected::Done).await;
                let reply = reply.ok_or_else(|| self.lost(LostAt::BeforeData))?;
                (command, reply)
            }
            Err(_) => return Err(self.lost(LostAt::BeforeData)),
        };
        if reply.is_positive() {
            self.told.recipients.push(command);
        }
        Ok(reply)
    }

    /// Sends DATA and the message and gives the upstream's answer: to the end of data, or to DATA if it is refused.
    ///
    /// # Errors
    ///
    /// The transaction is over. Only after [`DeliveryError::AfterEnd`] the upstream may have the message.
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
        let settings = Arc::clone(&self.settings);
        let limits = Limits { timeouts: &settings.timeouts, began: Instant::now() };
        if !self.ahead.is_empty() {
            // It has been given recipients whose replies the client has not seen.
            self.quit_connection().await;
        }
        if !self.is_alive() {
            let replayed = self.replay_within(settings.timeouts.final_reply, introduction).await;
            times.connect = Some(limits.began.elapsed());
            replayed?;
        }
        let ready = Instant::now();
        let as_chunk = message.framing == Framing::Count && self.capabilities().is_some_and(|c| c.chunking);
        if !as_chunk {
            // From here on nothing is told again: DATA was sent.
            let left = limits.left().map_err(|error| self.undelivered(error))?;
            let reply = self.command_within(left, "DATA", Expected::Data).await;
            let reply = reply.ok_or_else(|| self.lost(LostAt::InData))?;
            if reply.code() != 354 {
                return Ok(reply);
            }
        }
        let Some(mut connection) = self.connection.take() else { return Err(Error::Lost) };
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
            return self.quit_connection().await;
        }
        let Some(connection) = &mut self.connection else { return };
        // The client's reply waits for this one, whatever it says, so a slow upstream is rather dropped.
        let limit = self.settings.timeouts.command.min(RESET_WAIT);
        let reply = connection.command("RSET", limit).await;
        self.last_use = Instant::now();
        if !reply.is_ok_and(|reply| reply.is_positive()) {
            self.quit_connection().await;
        }
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
            // The replies to its recipients are of no use, and the client is not to wait for them.
            _ => self.unread = std::mem::take(&mut self.ahead).len(),
        }
        // The client can't provide what the upstream wants of our link.
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

    /// Reads the replies to recipients of a MAIL that was refused, before the connection is used again. One that owes
    /// them too long is dropped; but where the client has authenticated on it, it is waited for as for a reply.
    pub(super) async fn catch_up(&mut self) {
        let limit = self.settings.timeouts.command;
        let limit = if self.pinned { limit } else { limit.min(RESET_WAIT) };
        let skip = async {
            while self.connection.is_some() && self.unread > 0 {
                self.unread -= 1;
                if self.answer(Expected::Done).await.is_err() {
                    break;
                }
            }
        };
        if timeout(limit, skip).await.is_err() {
            self.quit_connection().await;
        }
    }

    /// Tells the transaction again, all of it within `limit`: the client waits for one reply all the while, and goes by
    /// its own clock (RFC 5321 §4.5.3.2).
    async fn replay_within(&mut self, limit: Duration, introduction: &Introduction) -> Result<(), Error> {
        match timeout(limit, self.replay(introduction)).await {
            Ok(replayed) => replayed,
            Err(_) => {
                self.discard_connection();
                Err(self.lost(LostAt::BeforeData))
            }
        }
    }

    /// The reply to a command, within `limit`; none if there is none, and no connection then.
    async fn command_within(&mut self, limit: Duration, line: &str, expected: Expected) -> Option<Reply> {
        match timeout(limit, self.command(line, expected)).await {
            Ok(reply) => reply.ok(),
            Err(_) => {
                self.discard_connection();
                None
            }
        }
    }

    /// Opens a new connection and tells it what the lost one was told; all of it must be accepted again.
    async fn replay(&mut self, introduction: &Introduction) -> Result<(), Error> {
        let Told { mail, recipients, replayed, parked } = std::mem::take(&mut self.told);
        let (Some(mail), true) = (mail, parked || !replayed) else { return Err(self.lost(LostAt::BeforeData)) };
        debug!(session = &*self.session, "telling the transaction again on a new upstream connection");
        self.quit_connection().await;
        let sight = self.sight;
        // A server that lost the transaction is not the first to be told it again.
        let avoid = if parked { None } else { self.server };
        if self.attach(introduction, avoid).await?.is_some() {
            return Err(self.lost(LostAt::BeforeData));
        }
        if self.sight != sight {
            // The message was made for an upstream that sees (or does not see) the client.
            self.quit_connection().await;
            return Err(self.lost(LostAt::BeforeData));
        }
        self.told.replayed = replayed || !parked;
        let lines: Vec<&String> = std::iter::once(&mail).chain(&recipients).collect();
        let pipelining = self.capabilities().is_some_and(|found| found.pipelining);
        for group in lines.chunks(if pipelining { MAX_GROUP } else { 1 }) {
            if !self.are_accepted(group).await {
                self.quit_connection().await;
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
}

/// Whether a server refuses to go on in the clear (RFC 3207 §4).
fn wants_tls(reply: &Reply) -> bool {
    reply.code() == 530 && reply.summary().to_ascii_uppercase().contains("STARTTLS")
}

/// How long the upstream may take to forget a transaction, or to answer what is left of a refused one, before its
/// connection is dropped instead.
const RESET_WAIT: Duration = Duration::from_secs(5);
/// Commands that leave in one write: their replies must fit into what the network buffers, or both sides wait for the
/// other to read (RFC 2920 §3.1).
pub const MAX_GROUP: usize = 100;
