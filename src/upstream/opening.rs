//! Opens the connection of a link: each server in turn, and none that would take the client for its neighbour.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use super::connection::{Connection, ExchangeError, OpenError, Sight, Step};
use super::handover::Introduction;
use super::handover::can_be_told;
use super::metrics::ConnectResult;
use super::servers::{AT_LEISURE, SOON};
use super::{Blind, Error, Link, Settings};
use crate::label::Label;
use crate::smtp::reply::Reply;

impl Link {
    /// Connects, and makes sure that the upstream knows of a client's login.
    pub(super) async fn attach(
        &mut self,
        introduction: &Introduction,
        avoid: Option<usize>,
    ) -> Result<Option<Reply>, Error> {
        self.quit_connection().await;
        let refusal = self.connect(introduction, avoid).await?;
        let is_told = |login: &str, c: &Connection| c.takes_login() && can_be_told(login);
        if let (Some(login), Some(connection)) = (&introduction.login, &self.connection)
            && !is_told(login, connection)
        {
            self.quit_connection().await;
            return Err(Error::LoginLost);
        }
        Ok(refusal)
    }

    /// Tries each server, `avoid` last. Gives the reply of one that refuses the client.
    ///
    /// They have `timeouts.open` together. Each may use its share of what is left, so that one that hangs leaves time
    /// for the others.
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
            let session = Some(&*self.session);
            let opened = open_in_session(session, share, &self.settings, server, introduction).await;
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
                    let cause = cause.settled_in_session(self.settings.identity, self.servers.sees_clients(index));
                    self.metrics.connections.inc(connect_result(&cause));
                    self.report(server, &cause, introduction);
                    match cause {
                        // A refusal of the client is no fault of the server's. Before EHLO it may still be one of the
                        // PROXY header, which the server has come not to read: the probe finds that out.
                        OpenError::ClientRefused(_, ref announced) => {
                            self.servers.answered(index);
                            if self.settings.identity.is_proxy() && announced.is_none() {
                                self.servers.request_probe(index, AT_LEISURE);
                            }
                        }
                        // A stranger must not be able to make a server look ill.
                        _ if cause.may_be_for_the_client(self.settings.identity) => {
                            self.servers.request_probe(index, SOON);
                        }
                        _ => self.servers.failed(index, began),
                    }
                    match cause {
                        OpenError::ClientRefused(reply, _) if reply.is_permanent() => return Ok(Some(reply)),
                        OpenError::ClientRefused(reply, _) => refusal = Some(reply),
                        _ if cause.refuses_gate_for_good() => error = Error::Refused,
                        _ => {}
                    }
                }
            }
        }
        refusal.map(Some).ok_or(error)
    }

    fn report(&self, server: &str, cause: &OpenError, introduction: &Introduction) {
        let session = &*self.session;
        let result = connect_result(cause);
        let may_be_for_the_client = cause.may_be_for_the_client(self.settings.identity);
        let is_by_ipv6 = introduction.client.as_ref().is_some_and(|client| client.ip().is_ipv6());
        let hint = (may_be_for_the_client && is_by_ipv6)
            .then_some("the client comes over IPv6: does the server take such clients? Postfix: inet_protocols");
        match cause {
            OpenError::ClientRefused(..) => debug!(session, server, error = %cause, "upstream refuses the client"),
            OpenError::XclientNotAnnounced => error!(
                session,
                server,
                result = result.as_str(),
                error = %cause,
                "the upstream can't be told who the client is: let it announce XCLIENT to this address, or change \
                 upstream.identity"
            ),
            // Where it may be for the client the probe says so, if it meets the same.
            _ if cause.refuses_gate_for_good() && !may_be_for_the_client => {
                error!(
                    session,
                    server,
                    result = result.as_str(),
                    error = %cause,
                    "the upstream refuses this gate: check upstream.identity and what the MTA permits to this address"
                );
            }
            _ => warn!(session, server, result = result.as_str(), error = %cause, hint, "upstream connection failed"),
        }
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
    open_in_session(None, limit, settings, server, introduction).await
}

/// The same for a session, whose id its warnings carry.
async fn open_in_session(
    session: Option<&str>,
    limit: Duration,
    settings: &Settings,
    server: &str,
    introduction: &Introduction,
) -> Result<Connection, OpenError> {
    let late = || Err(OpenError::Setup { step: Step::Opening, cause: ExchangeError::Timeout });
    timeout(limit, open(session, settings, server, introduction)).await.unwrap_or_else(|_| late())
}

async fn open(
    session: Option<&str>,
    settings: &Settings,
    server: &str,
    introduction: &Introduction,
) -> Result<Connection, OpenError> {
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
        match Connection::open(address, name, introduction, settings, session).await {
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
        OpenError::Unprotected { .. } => ConnectResult::Tls,
        OpenError::GateRefused { .. } => ConnectResult::GateRefused,
        OpenError::XclientNotAnnounced => ConnectResult::NoXclient,
        OpenError::ClientRefused(..) => ConnectResult::ClientRefused,
    }
}
