//! Asks every upstream from time to time what it offers, and once whether it would relay for a stranger.
//!
//! The EHLO list shown to clients is cut to what was found here. The client of a probe is 192.0.2.1 (TEST-NET-1, RFC
//! 5737), so that an MTA which sees the real client has no reason to trust it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::connection::{Connection, ExchangeError, OpenError, Sight};
use super::handover::{Identity, Introduction};
use super::{Settings, open};
use crate::dns::reverse::ConfirmedName;
use crate::envelope::{Client, Hello, Protocol};
use crate::smtp::command::ClientName;
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::Reply;

/// What the probes know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// What all upstreams that answered offer; none as long as no probe has succeeded.
    pub capabilities: Option<Capabilities>,
    /// Whether one answered at the last round.
    pub reachable: bool,
    /// Whether one that answered can't see the client.
    pub blind: bool,
    /// Whether one would relay a stranger's mail anywhere.
    pub open_relay: bool,
}

/// Whether the probes ask for relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayTest {
    /// Yes, each server that sees the client.
    Run,
    /// No: the operator says that the upstream guards itself.
    Skip,
}

/// Probes until nobody listens any more.
pub async fn run(settings: Arc<Settings>, relay_test: RelayTest, survey: watch::Sender<Survey>) {
    let mut pause = FIRST_PAUSE;
    let mut servers = vec![Known::default(); settings.servers.len()];
    while !survey.is_closed() {
        let known = survey.borrow().clone();
        let found = round(&settings, relay_test, &known, &mut servers).await;
        pause = if found.reachable { PAUSE } else { (pause * 2).min(PAUSE) };
        if found.reachable != known.reachable {
            match found.reachable {
                true => info!(
                    identity = %settings.identity,
                    sees_the_client = !found.blind && settings.identity != Identity::None,
                    size = found.capabilities.as_ref().and_then(|c| c.size),
                    "the upstream answers"
                ),
                false => warn!("no upstream answers; clients are told to try again"),
            }
        }
        if !found.reachable && known.capabilities.is_none() {
            // Until the first success clients wait for it: ask often.
            pause = pause.min(Duration::from_secs(2));
        }
        survey.send_replace(found);
        tokio::select! {
            () = sleep(pause) => {}
            () = survey.closed() => {}
        }
    }
}

/// What is remembered of one server from round to round.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Whether it relays for strangers; none as long as it has not said.
    relays: Option<bool>,
    /// Why the last probe failed, and how many in a row did for that.
    trouble: Option<(String, u32)>,
}

/// Probes every server once.
async fn round(settings: &Settings, relay_test: RelayTest, known: &Survey, servers: &mut [Known]) -> Survey {
    let mut found = Survey::default();
    for (server, memory) in settings.servers.iter().zip(servers.iter_mut()) {
        let (offered, blind) = match open(settings, server, &stranger(settings)).await {
            Ok(mut connection) => {
                let seen = (connection.capabilities().clone(), connection.sight() == Sight::Gate);
                // Once it was found to guard itself it is not asked again, as long as it is there.
                if memory.relays != Some(false) && relay_test == RelayTest::Run && !seen.1 {
                    memory.relays = relays(&mut connection, settings).await;
                    tell_of_relaying(server, memory.relays);
                }
                connection.quit().await;
                seen
            }
            // It lives, it sees the client, and it has nothing to do with a stranger.
            Err(OpenError::ClientRefused(_, capabilities)) => {
                memory.relays = Some(false);
                (capabilities, false)
            }
            Err(cause) => {
                memory.fail(server, &cause);
                continue;
            }
        };
        memory.trouble = None;
        found.capabilities = Some(match &found.capabilities {
            Some(others) => others.intersection(&offered),
            None => offered,
        });
        found.reachable = true;
        found.blind |= blind && settings.identity != Identity::None;
    }
    found.open_relay = servers.iter().any(|memory| memory.relays == Some(true));
    if !found.reachable {
        found.capabilities.clone_from(&known.capabilities);
        found.blind = known.blind;
    }
    found
}

impl Known {
    /// Remembers a failed probe; says so the first time, when the cause is another, and now and then.
    fn fail(&mut self, server: &str, cause: &OpenError) {
        // Its mind may have changed when it is there again.
        self.relays = None;
        let text = cause.to_string();
        let times = match self.trouble.take() {
            Some((before, times)) if before == text => times.saturating_add(1),
            _ => 0,
        };
        if times.is_multiple_of(REMINDER) {
            let hint = match cause {
                OpenError::Setup { .. } | OpenError::GateRefused { .. } => {
                    "; does it expect a PROXY header, or none? see upstream.identity"
                }
                OpenError::Unprotected { .. } => "; see upstream.tls",
                OpenError::Unreachable(_) | OpenError::ClientRefused(..) => "",
            };
            warn!(server, error = %cause, "upstream probe failed{hint}");
        }
        self.trouble = Some((text, times));
    }
}

fn tell_of_relaying(server: &str, relays: Option<bool>) {
    match relays {
        Some(true) => error!(
            server,
            "OPEN RELAY: the upstream takes a stranger's mail for a foreign domain although it is told the client's \
             address; mend the MTA, or set smtp.recipient_domains"
        ),
        Some(false) => {}
        None => info!(server, "the upstream did not say yet whether it relays for strangers; it is asked again"),
    }
}

/// Whether the upstream accepts a recipient in a domain that cannot be its own; none if it did not say, as a server that
/// greylists does not.
async fn relays(connection: &mut Connection, settings: &Settings) -> Option<bool> {
    let limit = settings.timeouts.command;
    let verdict = |reply: &Reply| match reply {
        reply if reply.is_positive() => Some(true),
        reply if reply.is_permanent() => Some(false),
        _ => None,
    };
    let dialogue = async {
        let mail = connection.command("MAIL FROM:<>", limit).await?;
        if !mail.is_positive() {
            return Ok(verdict(&mail));
        }
        let recipient = connection.command("RCPT TO:<relay-test@dmarcgate.invalid>", limit).await?;
        connection.command("RSET", limit).await?;
        Ok::<_, ExchangeError>(verdict(&recipient))
    };
    dialogue.await.ok().flatten()
}

/// The client that a probe hands over.
fn stranger(settings: &Settings) -> Introduction {
    Introduction {
        client: Client::new(([192, 0, 2, 1], 25).into(), ([192, 0, 2, 2], 25).into()),
        name: ConfirmedName::None,
        hello: Hello { name: ClientName::own(&settings.hostname), protocol: Protocol::Esmtp },
        login: None,
    }
}

/// Between two rounds while all is well.
const PAUSE: Duration = Duration::from_secs(60);
/// Before the second round if the first one fails; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Failed probes for one cause of which one is logged: about one a minute while they come every two seconds.
const REMINDER: u32 = 30;
