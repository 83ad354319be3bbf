//! Asks every upstream from time to time what it offers, and once whether it would relay for a stranger.
//!
//! The EHLO list shown to clients is cut to what was found here. The client of a probe is 192.0.2.1 (TEST-NET-1, RFC
//! 5737), so that an MTA which sees the real client has no reason to trust it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::connection::{Connection, ExchangeError, Sight};
use super::handover::{Identity, Introduction};
use super::{Settings, open};
use crate::dns::reverse::ConfirmedName;
use crate::envelope::{Client, Hello, Protocol};
use crate::smtp::command::ClientName;
use crate::smtp::extension::Capabilities;

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
    let mut relaying = vec![None; settings.servers.len()];
    while !survey.is_closed() {
        let known = survey.borrow().clone();
        let found = round(&settings, relay_test, &known, &mut relaying).await;
        pause = if found.reachable { PAUSE } else { (pause * 2).min(PAUSE) };
        if found.reachable != known.reachable {
            match found.reachable {
                true => info!(capabilities = ?found.capabilities, "upstream answers"),
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

/// Probes every server once. `relaying` says of each whether it relays for strangers, as far as it was asked.
async fn round(settings: &Settings, relay_test: RelayTest, known: &Survey, relaying: &mut [Option<bool>]) -> Survey {
    let mut found = Survey::default();
    for (server, relaying) in settings.servers.iter().zip(relaying.iter_mut()) {
        let mut connection = match open(settings, server, &stranger(settings)).await {
            Ok(connection) => connection,
            Err(cause) => {
                if known.reachable || known.capabilities.is_none() {
                    warn!(server = &**server, error = %cause, "upstream probe failed");
                }
                // Its mind may have changed when it is there again.
                *relaying = None;
                continue;
            }
        };
        let offered = connection.capabilities().clone();
        found.capabilities = Some(match &found.capabilities {
            Some(others) => others.intersection(&offered),
            None => offered,
        });
        found.reachable = true;
        let blind = connection.sight() == Sight::Gate && settings.identity != Identity::None;
        found.blind |= blind;
        // Once it was found to guard itself it is not asked again, as long as it is there.
        if *relaying != Some(false) && relay_test == RelayTest::Run && connection.sight() == Sight::Client {
            *relaying = relays(&mut connection, settings).await;
            if *relaying == Some(true) {
                error!(
                    server = &**server,
                    "OPEN RELAY: the upstream takes a stranger's mail for a foreign domain although it is told the \
                     client's address; mend the MTA, or set smtp.recipient_domains"
                );
            }
        }
        connection.quit().await;
    }
    found.open_relay = relaying.contains(&Some(true));
    if !found.reachable {
        found.capabilities.clone_from(&known.capabilities);
        found.blind = known.blind;
    }
    found
}

/// Whether the upstream accepts a recipient in a domain that cannot be its own; none if it did not answer to the end.
async fn relays(connection: &mut Connection, settings: &Settings) -> Option<bool> {
    let limit = settings.timeouts.command;
    let dialogue = async {
        let mail = connection.command("MAIL FROM:<>", limit).await?;
        if !mail.is_positive() {
            return Ok(false);
        }
        let recipient = connection.command("RCPT TO:<relay-test@dmarcgate.invalid>", limit).await?;
        connection.command("RSET", limit).await?;
        Ok::<_, ExchangeError>(recipient.is_positive())
    };
    dialogue.await.ok()
}

/// The client that a probe hands over.
fn stranger(settings: &Settings) -> Introduction {
    Introduction {
        client: Client { address: ([192, 0, 2, 1], 25).into(), local: ([192, 0, 2, 2], 25).into() },
        name: ConfirmedName::None,
        hello: Hello { name: ClientName::own(&settings.hostname), protocol: Protocol::Esmtp },
    }
}

/// Between two rounds while all is well.
const PAUSE: Duration = Duration::from_secs(60);
/// Before the second round if the first one fails; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
