//! A client's AUTH, which is relayed word for word to the connection that its mail will go by.

use super::connection::Connection;
use super::exchange::Expected;
use super::handover::Introduction;
use super::handover::can_be_told;
use super::{Error, Link, Told};
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::Reply;

impl Link {
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

    /// Says that the client has authenticated as `login` on the connection at hand, which is kept from now on if no
    /// other can be told.
    pub fn logged_in(&mut self, login: &str) {
        let is_told = |connection: &Connection| connection.takes_login() && can_be_told(login);
        self.pinned = !self.connection.as_ref().is_some_and(is_told);
    }
}
