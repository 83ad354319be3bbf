//! The whole world of most tests: DNS, the MTA behind the gate, and the gate, seen by a stranger from 198.51.100.7.

use super::client::Client;
use super::config::ConfigText;
use super::dns::{DnsServer, Zone};
use super::gate::Gate;
use super::rules::Script;
use super::upstream::{Connection, Upstream};

/// A gate with what stands around it.
pub struct World {
    /// What DNS knows.
    pub dns: DnsServer,
    /// The MTA behind the gate.
    pub upstream: Upstream,
    /// The gate.
    pub gate: Gate,
}

impl World {
    /// A gate as [`ConfigText::new`] has it before an upstream that does what `script` says.
    pub async fn start(script: Script) -> Self {
        Self::with(script, Zone::new(), |config| config).await
    }

    /// A gate whose configuration is changed by `change`; its first probe of the upstream is over.
    pub async fn with(script: Script, zone: Zone, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        let world = Self::unprobed(script, zone, change).await;
        world.upstream.wait_for_close().await;
        world
    }

    /// As [`World::with`], for an upstream that may not let itself be probed.
    pub async fn unprobed(script: Script, zone: Zone, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        let dns = DnsServer::start(zone).await;
        let upstream = Upstream::start(script).await;
        let gate = Gate::start(upstream.address(), dns.address(), change).await;
        Self { dns, upstream, gate }
    }

    /// A stranger who has said EHLO.
    pub async fn client(&self) -> Client {
        Client::introduced(self.gate.address(), STRANGER, "client.example").await
    }

    /// What the upstream saw after the first probe.
    pub fn sessions(&self) -> Vec<Connection> {
        self.upstream.connections().into_iter().skip(1).collect()
    }

    /// The commands that the upstream saw after the first probe, those of opening and ending a connection left out.
    pub fn relayed(&self) -> Vec<String> {
        let commands = self.sessions().into_iter().flat_map(|c| c.commands);
        commands.filter(|line| !["EHLO", "XCLI", "QUIT"].iter().any(|verb| line.starts_with(verb))).collect()
    }

    /// Waits until the upstream has seen `count` connections after the first probe, all of them over.
    pub async fn wait_for_end(&self, count: usize) -> Vec<Connection> {
        let over = |seen: &[Connection]| seen.len() == count + 1 && seen.iter().all(|c| c.closed);
        self.upstream.wait_until(&format!("{count} connections are over"), over).await.split_off(1)
    }

    /// Waits until a counter has this value.
    pub async fn wait_for_count(&self, series: &str, value: f64) {
        self.gate.wait_for_metrics(&format!("{series} {value}"), |scrape| scrape.value(series) == value).await;
    }

    /// Waits until `/readyz` answers with this status, and yields what it says.
    pub async fn wait_for_readiness(&self, status: u16) -> String {
        let (mut again, deadline) =
            (tokio::time::interval(super::gate::POLL), tokio::time::Instant::now() + super::PATIENCE);
        loop {
            again.tick().await;
            let (now, body) = self.gate.http_get("/readyz").await;
            if now == status {
                return body;
            }
            assert!(tokio::time::Instant::now() < deadline, "/readyz stays at {now}: {body}");
        }
    }
}

/// The address of a client that nobody trusts.
pub const STRANGER: &str = "198.51.100.7";
/// A message that passes: nothing is published for its author domain.
pub const MESSAGE: &[u8] = b"From: a@a.example\r\nSubject: x\r\n\r\nbody\r\n";
