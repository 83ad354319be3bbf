//! Asks every upstream from time to time what it offers, and once whether it would relay for a stranger.
//!
//! The EHLO list shown to clients is cut to what was found here. The client of a probe is 192.0.2.1 (TEST-NET-1, RFC
//! 5737), so that an MTA which sees the real client has no reason to trust it. One that wants nothing to do with it, and
//! says so before EHLO, is asked what it offers in the gate's own name: that it reads the PROXY header shows as well. Each
//! server is probed on its own, so that one that hangs holds up no other. One that failed a session, or came back, is
//! probed soon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::connection::{Connection, ExchangeError, OpenError, REFUSED, Sight};
use super::handover::{Identity, Introduction};
use super::servers::Servers;
use super::{Settings, open_within};
use crate::dns::reverse::ConfirmedName;
use crate::envelope::{Client, Hello, Protocol};
use crate::panics::lasting;
use crate::smtp::command::ClientName;
use crate::smtp::extension::Capabilities;
use crate::smtp::reply::Reply;

/// What the probes know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// What all upstreams that answered their last probe offer; none until a probe has succeeded. While none answers,
    /// what was offered before.
    pub capabilities: Option<Capabilities>,
    /// Whether one answered when last probed.
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

/// Probes every server until it is dropped.
pub async fn run(servers: Arc<Servers>, relay_test: RelayTest, survey: watch::Sender<Survey>) {
    let count = servers.settings().servers.len();
    let known = Mutex::new(vec![Known::default(); count]);
    let round = Arc::new(Round { servers, relay_test, known, survey });
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let round = Arc::clone(&round);
        tasks.spawn(lasting("upstream probe", move || probe_forever(Arc::clone(&round), index)));
    }
    while tasks.join_next().await.is_some() {}
}

/// What the probes of all servers share.
struct Round {
    servers: Arc<Servers>,
    relay_test: RelayTest,
    known: Mutex<Vec<Known>>,
    survey: watch::Sender<Survey>,
}

/// What is remembered of one server from probe to probe.
#[derive(Debug, Clone, Default)]
struct Known {
    /// What was seen at the last probe; none if that failed.
    seen: Option<Seen>,
    /// Whether it relays for strangers; none as long as it has not said.
    relays: Option<bool>,
    /// How many probes it has not said so.
    silences: u32,
    /// Why the last probe failed, and how many in a row did for that.
    trouble: Option<(String, u32)>,
}

/// What a probe saw of a server.
#[derive(Debug, Clone)]
struct Seen {
    /// What it offers, or did when it last said so; none if it has not.
    offered: Option<Capabilities>,
    /// Whether it sees the client.
    sight: Sight,
}

/// Probes one server for as long as its task lives.
async fn probe_forever(round: Arc<Round>, index: usize) {
    let mut memory = Known::default();
    let mut pause = FIRST_PAUSE;
    loop {
        round.servers.probe_begins(index);
        let began = Instant::now();
        memory.probe(&round.servers, index, round.relay_test).await;
        // Before sessions are sent there: what it offers counts from now on.
        round.publish(index, &memory);
        match memory.seen {
            Some(_) => round.servers.answered(index),
            None => round.servers.failed(index, began),
        }
        // Our own report is no reason to probe again.
        round.servers.probe_begins(index);
        pause = if memory.seen.is_some() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_FAILING_PAUSE) };
        if memory.seen.is_none() {
            sleep(pause).await;
            continue;
        }
        round.servers.probe_due(index, Instant::now() + PAUSE).await;
    }
}

impl Round {
    /// Merges what is known of all servers, and publishes it if it has changed.
    fn publish(&self, index: usize, memory: &Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = known.get_mut(index) {
            slot.clone_from(memory);
        }
        let settings = self.servers.settings();
        // Under the lock, so that two probes that end together publish in the order in which they ended.
        self.survey.send_if_modified(|survey| {
            let found = draw(&known, survey, settings.identity);
            if found.reachable != survey.reachable {
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
            let changed = *survey != found;
            *survey = found;
            changed
        });
    }
}

/// What is known of all servers, from what is known of each and what was known before.
fn draw(known: &[Known], before: &Survey, identity: Identity) -> Survey {
    let open_relay = known.iter().any(|memory| memory.relays == Some(true));
    let mut found = Survey { open_relay, ..Survey::default() };
    for Seen { offered, sight } in known.iter().filter_map(|memory| memory.seen.as_ref()) {
        found.capabilities = match (&found.capabilities, offered) {
            (Some(others), Some(offered)) => Some(others.intersection(offered)),
            (others, offered) => others.as_ref().or(offered.as_ref()).cloned(),
        };
        found.reachable = true;
        found.blind |= *sight == Sight::Gate && identity != Identity::None;
    }
    if found.capabilities.is_none() {
        found.capabilities.clone_from(&before.capabilities);
    }
    if !found.reachable {
        found.blind = before.blind;
    }
    found
}

impl Known {
    /// Probes once.
    async fn probe(&mut self, servers: &Servers, index: usize, relay_test: RelayTest) {
        let settings = servers.settings();
        let Some(server) = settings.servers.get(index) else { return };
        let limit = LONGEST_PROBE.min(settings.timeouts.open);
        let mut opened = open_within(limit, settings, server, &stranger(STRANGER)).await;
        if let Err(OpenError::ClientRefused(reply, announced)) = &mut opened {
            // One that is busy for a moment has not changed what it offers.
            let passes = reply.is_transient() && self.seen.as_ref().is_some_and(|seen| seen.offered.is_some());
            if !servers.sees_clients(index) || announced.is_none() && !passes {
                match offered_to_gate(limit, settings, server).await {
                    Ok(Some(found)) => {
                        servers.saw_a_client(index);
                        *announced = Some(found);
                    }
                    // It is not about the client, then: it may have read the header once, and not any more.
                    Err(cause) if cause.is_permanent() => servers.refuses_everybody(index),
                    Ok(None) | Err(_) => {}
                }
            }
        }
        match opened.map_err(|cause| cause.settled(settings.identity, servers.sees_clients(index))) {
            Ok(mut connection) => {
                let sight = connection.sight();
                self.seen = Some(Seen { offered: Some(connection.capabilities().clone()), sight });
                if sight == Sight::Client {
                    servers.saw_a_client(index);
                }
                // Once it was found to guard itself it is not asked again while it stays up.
                if self.relays != Some(false) && relay_test == RelayTest::Run && sight == Sight::Client {
                    self.relays = relays(&mut connection, settings).await;
                    self.tell_of_relaying(server);
                }
                connection.quit().await;
            }
            // It is up, it sees the client, and it wants nothing to do with a stranger.
            Err(OpenError::ClientRefused(reply, announced)) => {
                let offered = announced.or_else(|| self.seen.take().and_then(|seen| seen.offered));
                self.seen = Some(Seen { offered, sight: Sight::Client });
                // For now is not for ever: another time it may take what it must not. And it may have meant the gate.
                let is_certain = servers.sees_clients(index) || reply.code() != REFUSED;
                if reply.is_permanent() && is_certain {
                    self.relays = Some(false);
                } else if self.relays.is_none() && relay_test == RelayTest::Run {
                    self.tell_of_relaying(server);
                }
            }
            Err(cause) => return self.fail(server, &cause),
        }
        self.trouble = None;
    }

    /// Remembers a failed probe; says so the first time, when the cause is another, and now and then.
    fn fail(&mut self, server: &str, cause: &OpenError) {
        // It may answer differently once it is back.
        self.seen = None;
        self.relays = None;
        let text = cause.to_string();
        let times = match self.trouble.take() {
            Some((before, times)) if before == text => times.saturating_add(1),
            _ => 0,
        };
        if times.is_multiple_of(REMINDER) {
            let hint = match cause {
                OpenError::Setup { .. } | OpenError::GateRefused { .. } => {
                    Some("does it expect a PROXY header, or none? see upstream.identity")
                }
                OpenError::Unprotected { .. } => Some("see upstream.tls"),
                OpenError::XclientNotAnnounced => Some("does it permit XCLIENT to this gate? see upstream.identity"),
                OpenError::Unreachable(_) | OpenError::ClientRefused(..) => None,
            };
            match cause {
                // Its client is nobody whom a server could have anything against.
                OpenError::XclientNotAnnounced => {
                    error!(server, error = %cause, hint, "upstream probe failed: it can't be told who the client is");
                }
                _ if cause.refuses_gate_for_good() => {
                    error!(server, error = %cause, hint, "upstream probe failed: it refuses this gate");
                }
                _ => warn!(server, error = %cause, hint, "upstream probe failed"),
            }
        }
        self.trouble = Some((text, times));
    }

    fn tell_of_relaying(&mut self, server: &str) {
        match self.relays {
            Some(true) => error!(
                server,
                "OPEN RELAY: the upstream takes a stranger's mail for a foreign domain although it is told the client's \
                 address; mend the MTA, or set smtp.recipient_domains"
            ),
            Some(false) => self.silences = 0,
            None => {
                if self.silences.is_multiple_of(REMINDER) {
                    info!(server, "the upstream did not say yet whether it relays for strangers; it is asked again");
                }
                self.silences = self.silences.saturating_add(1);
            }
        }
    }
}

/// Whether the upstream accepts a recipient in a domain that cannot be its own; none if it did not say, as a server
/// that greylists does not. DATA is never sent.
pub async fn relays(connection: &mut Connection, settings: &Settings) -> Option<bool> {
    let limit = settings.timeouts.command;
    let verdict = |reply: &Reply| match reply {
        reply if reply.is_positive() => Some(true),
        // It wants TLS of the gate before it says anything.
        reply if matches!(reply.code(), 530 | 538) => None,
        reply if reply.is_permanent() => Some(false),
        // Postfix under `defer_unauth_destination`, as Debian sets it up: a refusal for good that asks to come again.
        reply if reply.is_transient() && reply.summary().contains("Relay access denied") => Some(false),
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

/// What a server that reads PROXY headers offers to the gate itself; none where the client is handed over in another
/// way.
///
/// # Errors
///
/// The server refuses the gate as well, as one does that can't read the header, or does not answer.
pub async fn offered_to_gate(
    limit: Duration,
    settings: &Settings,
    server: &str,
) -> Result<Option<Capabilities>, OpenError> {
    if !settings.identity.is_proxy() {
        return Ok(None);
    }
    let gate = Introduction { client: None, ..introduced_as(&settings.hostname) };
    let connection = open_within(limit, settings, server, &gate).await?;
    let offered = connection.capabilities().clone();
    connection.quit().await;
    Ok(Some(offered))
}

/// The client that a probe hands over, from `address`. It calls itself by that: no server has rules for the name, as it
/// may have for the gate's.
pub fn stranger(address: IpAddr) -> Introduction {
    let (literal, local) = match address {
        IpAddr::V4(ip) => (format!("[{ip}]"), IpAddr::from([192, 0, 2, 2])),
        IpAddr::V6(ip) => (format!("[IPv6:{ip}]"), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2])),
    };
    let client = Client::new((address, 25).into(), (local, 25).into());
    Introduction { client: Some(client), ..introduced_as(&literal) }
}

fn introduced_as(name: &str) -> Introduction {
    let hello = Hello { name: ClientName::own(name), protocol: Protocol::Esmtp };
    Introduction { client: None, name: ConfirmedName::None(None), hello, login: None }
}

/// A client that nobody knows, in TEST-NET-1.
pub const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The same over IPv6, from the documentation's prefix.
pub const STRANGER_BY_IPV6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// Between two probes of a server while all is well.
const PAUSE: Duration = Duration::from_secs(60);
/// Before the next probe after a failure; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Between two probes of a server that is down: nobody else may find out that it is back, since a gate that is not
/// ready may get no clients.
const LONGEST_FAILING_PAUSE: Duration = Duration::from_secs(2);
/// How long all of a probe's opening may take.
const LONGEST_PROBE: Duration = Duration::from_secs(60);
/// Probes of which one is logged that fail for one cause, about one a minute while they come every two seconds, or that
/// leave open whether the server relays.
const REMINDER: u32 = 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn known(seen: Option<Capabilities>) -> Known {
        let seen = seen.map(|offered| Seen { offered: Some(offered), sight: Sight::Client });
        Known { seen, ..Known::default() }
    }

    #[test]
    fn those_that_answered_when_last_probed_are_what_counts() {
        let able = Capabilities { eight_bit_mime: true, ..Capabilities::default() };
        let mut all = [known(None), known(None)];
        let draw = |all: &[Known], before: &Survey| draw(all, before, Identity::Auto);
        let first = draw(&all, &Survey::default());
        assert_eq!(first, Survey::default());
        all[0] = known(Some(able.clone()));
        let second = draw(&all, &first);
        assert!(second.reachable && second.capabilities == Some(able.clone()));
        // One that comes back counts from its probe on.
        all[1] = known(Some(Capabilities::default()));
        assert_eq!(draw(&all, &second).capabilities, Some(Capabilities::default()));
        // One that refuses the probe before it says what it offers takes nothing away.
        let mute = Known { seen: Some(Seen { offered: None, sight: Sight::Client }), ..Known::default() };
        let third = draw(&[known(Some(able.clone())), mute.clone()], &second);
        assert!(third.reachable && third.capabilities == Some(able.clone()));
        let third = draw(&[known(None), mute], &second);
        assert!(third.reachable && third.capabilities == Some(able.clone()));
        // While none answers clients are still offered what was there.
        let last = draw(&[known(None), known(None)], &second);
        assert!(!last.reachable && last.capabilities == Some(able));
    }
}
