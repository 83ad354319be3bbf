//! The whole world of most tests: DNS, the MTA behind the gate, and the gate, and the messages that go through them.

use super::certificates::Certificate;
use super::client::{Client, Delivery, Reply};
use super::config::ConfigText;
use super::dns::{DnsServer, Zone};
use super::gate::Gate;
use super::results::Results;
use super::rules::Script;
use super::upstream::{Connection, Message, Upstream};

/// A gate between a scripted upstream that is handed the client, and a zone.
pub struct World {
    pub dns: DnsServer,
    pub upstream: Upstream,
    pub gate: Gate,
}

/// A message with its envelope and the client that sends it.
#[derive(Debug, Clone)]
pub struct Letter {
    pub ip: String,
    pub helo: String,
    /// The reverse-path; empty for the null one.
    pub sender: String,
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
}

/// What became of a letter.
#[derive(Debug)]
pub struct Outcome {
    /// The last reply that the client got.
    pub reply: Reply,
    /// What came to the upstream's end-of-data.
    pub relayed: Option<Message>,
    sent: Vec<u8>,
}

impl World {
    /// Starts all three with the default script.
    pub async fn start(zone: Zone, change: impl FnOnce(ConfigText) -> ConfigText) -> Self {
        Self::unprobed(Script::with_xclient(), zone, change).await
    }

    /// A gate as [`ConfigText::new`] has it before an upstream that does what `script` says.
    pub async fn around(script: Script) -> Self {
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

    /// As [`World::with`], with a first listener that offers STARTTLS; the directory is that of its certificate.
    pub async fn with_starttls(
        script: Script,
        zone: Zone,
        change: impl FnOnce(ConfigText) -> ConfigText,
    ) -> (Self, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (certificate, key) = Certificate::new(&["mx.gate.example"]).write(directory.path(), "gate");
        let world = Self::with(script, zone, |config| {
            let config = config.set("tls.certificate", certificate.display().to_string());
            change(config.set("tls.key", key.display().to_string()).listener("tls", "starttls"))
        });
        (world.await, directory)
    }

    /// A stranger who has said EHLO, STARTTLS, and EHLO again.
    pub async fn secured_client(&self) -> Client {
        let mut client = self.client().await;
        client.start_tls().await;
        client.command("EHLO client.example").await.assert(250);
        client
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

    /// Sends a letter in a session of its own. Letters are sent one after the other.
    pub async fn send(&self, letter: &Letter) -> Outcome {
        self.send_to(0, letter).await
    }

    /// As [`World::send`], to the `n`th listener.
    pub async fn send_to(&self, n: usize, letter: &Letter) -> Outcome {
        let before = self.upstream.messages().len();
        let mut client = Client::introduced(self.gate.listener(n), &letter.ip, &letter.helo).await;
        let recipients: Vec<_> = letter.recipients.iter().map(String::as_str).collect();
        let delivery: Delivery = client.deliver(&letter.sender, &recipients, &letter.content).await;
        client.command("QUIT").await.assert(221);
        let mut messages = self.upstream.messages();
        assert!(messages.len() <= before + 1, "one in, at most one out\n{}", self.upstream.transcript());
        let relayed = if messages.len() > before { messages.pop() } else { None };
        Outcome { reply: delivery.outcome().clone(), relayed, sent: letter.content.clone() }
    }
}

impl Letter {
    /// A letter of one author, From and reverse-path alike, from a client at `ip`.
    pub fn new(ip: &str, author: &str) -> Self {
        Self::with_header(ip, author, &format!("From: {author}\r\nTo: you@rcpt.example\r\nSubject: a letter\r\n"))
    }

    /// A letter with this header section, which ends each field by CRLF, and a short body.
    pub fn with_header(ip: &str, sender: &str, header: &str) -> Self {
        Self {
            ip: ip.to_owned(),
            helo: "client.example".to_owned(),
            sender: sender.to_owned(),
            recipients: vec!["you@rcpt.example".to_owned()],
            content: format!("{header}\r\nHello.\r\n").into_bytes(),
        }
    }

    /// With this name in EHLO.
    pub fn helo(mut self, name: &str) -> Self {
        self.helo = name.to_owned();
        self
    }

    /// With this reverse-path.
    pub fn sender(mut self, sender: &str) -> Self {
        self.sender = sender.to_owned();
        self
    }

    /// To these recipients.
    pub fn to(mut self, recipients: &[&str]) -> Self {
        self.recipients = recipients.iter().map(|&r| r.to_owned()).collect();
        self
    }

    /// With this content.
    pub fn content(mut self, content: impl Into<Vec<u8>>) -> Self {
        self.content = content.into();
        self
    }

    /// With more fields on top.
    pub fn field(mut self, fields: &str) -> Self {
        self.content.splice(..0, fields.bytes());
        self
    }
}

impl Outcome {
    /// The header fields that the gate put on top of what was sent, which follows octet by octet.
    #[track_caller]
    pub fn added(&self) -> String {
        self.added_to(&self.sent)
    }

    /// The header fields that the gate put on top of `content`, which follows octet by octet.
    #[track_caller]
    pub fn added_to(&self, content: &[u8]) -> String {
        let relayed = &self.relayed().content;
        let Some(added) = relayed.strip_suffix(content) else {
            panic!("{}\nis not what was to be relayed:\n{}", relayed.escape_ascii(), content.escape_ascii());
        };
        String::from_utf8(added.to_vec()).expect("our fields are ASCII")
    }

    /// What the upstream got.
    #[track_caller]
    pub fn relayed(&self) -> &Message {
        self.relayed.as_ref().unwrap_or_else(|| panic!("nothing was relayed: {}", self.reply))
    }

    /// The gate's results; they stand on top.
    #[track_caller]
    pub fn results(&self) -> Results {
        Results::read(&unfolded(&self.added()).first().expect("a field on top").1)
    }

    /// The mark among the added fields.
    #[track_caller]
    pub fn mark(&self) -> Option<String> {
        mark(&self.added())
    }

    /// Reply code and mark in one word or two: `250`, `250 quarantine`, `550`.
    #[track_caller]
    pub fn summary(&self) -> String {
        let mark = self.relayed.as_ref().and_then(|_| self.mark()).map(|mark| format!(" {mark}")).unwrap_or_default();
        format!("{}{mark}", self.reply.code)
    }
}

/// The mark among these header fields.
pub fn mark(fields: &str) -> Option<String> {
    let marks = unfolded(fields).into_iter().filter(|(name, _)| name == "X-DMARC-Fail-policy");
    let marks: Vec<_> = marks.map(|(_, value)| value).collect();
    assert!(marks.len() <= 1, "{fields}");
    marks.into_iter().next()
}

/// Names and values of header fields, the folding left in values as white space.
pub fn unfolded(fields: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in fields.split_inclusive("\r\n") {
        let text = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("{line:?} has no end"));
        match (text.strip_prefix([' ', '\t']), found.last_mut()) {
            (Some(_), Some((_, value))) => value.push_str(text),
            _ => {
                let (name, value) = text.split_once(": ").unwrap_or_else(|| panic!("{text:?} is no field"));
                found.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    found
}

/// The address of a client that nobody trusts.
pub const STRANGER: &str = "198.51.100.7";
/// A message that passes: nothing is published for its author domain.
pub const MESSAGE: &[u8] = b"From: a@a.example\r\nSubject: x\r\n\r\nbody\r\n";
