//! Commands and replies on the connection of a link, which is gone once one fails.

use std::io::ErrorKind;
use std::time::Instant;

use tracing::warn;

use super::Link;
use super::connection::ExchangeError;
use crate::smtp::reply::{Reply, ReplyError};

impl Link {
    /// One command on the connection at hand, which is gone if this fails.
    pub(super) async fn command(&mut self, line: &str, expected: Expected) -> Result<Reply, ExchangeError> {
        match self.queue(std::iter::once(line)) {
            Ok(()) => self.answer(expected).await,
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Queues commands, which leave with the next [`Link::answer`].
    pub(super) fn queue(&mut self, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<(), ExchangeError> {
        let connection = self.connection.as_mut().ok_or_else(|| ExchangeError::Lost(ErrorKind::NotConnected.into()))?;
        lines.into_iter().try_for_each(|line| connection.queue(line.as_ref()))
    }

    /// The next reply on the connection at hand, which is gone if this fails.
    pub(super) async fn answer(&mut self, expected: Expected) -> Result<Reply, ExchangeError> {
        let Some(connection) = &mut self.connection else {
            return Err(ExchangeError::Lost(ErrorKind::NotConnected.into()));
        };
        let limit = self.settings.timeouts.command;
        let result = connection.reply(limit).await.and_then(|reply| expected.check(reply));
        self.last_use = Instant::now();
        match result {
            Ok(reply) if reply.code() == 421 => {
                self.discard_connection();
                Ok(reply)
            }
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.failed(error)),
        }
    }

    pub(super) fn failed(&mut self, error: ExchangeError) -> ExchangeError {
        warn!(session = &*self.session, error = %error, "upstream connection lost");
        if matches!(error, ExchangeError::Nonsense(_)) {
            self.metrics.nonsense.inc();
        }
        self.discard_connection();
        error
    }
}

/// What a command may be answered with, beside a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
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
