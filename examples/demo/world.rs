//! A small Internet on loopback: DNS with four domains, a mail server that takes everything, and the gate before it.

use std::time::Duration;

use dmarcgate::app::{self, Passed, Running};
use dmarcgate::config::Config;
use dmarcgate::metrics::Registry;
use dmarcgate::store::{Reader, SummaryLine};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::support::PATIENCE;
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::rules::Script;
use crate::support::signer::{Signer, SigningKey};
use crate::support::upstream::Upstream;

/// The whole of it. What is in it ends with this value.
pub struct World {
    pub dns: DnsServer,
    pub mta: Upstream,
    pub gate: Running,
    rows: Reader,
    _directory: TempDir,
}

impl World {
    /// Starts everything and waits until the gate would be sent mail.
    pub async fn start() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
        let dns = DnsServer::start(zone()).await;
        let mta = Upstream::start(Script::with_xclient()).await;
        let text = ConfigText::new(mta.address(), dns.address(), directory.path())
            .set("hostname", HOSTNAME)
            .set("bypass.trusted_networks", vec![TRUSTED])
            .another_listener();
        let loaded = Config::parse(&text.text()).map_err(|problems| format!("configuration: {problems:?}"))?;
        let location = loaded.config.store.url.clone();
        let sockets = app::bind(&loaded.config, Passed::none()).map_err(|e| e.to_string())?;
        let gate = app::start(loaded, sockets, Registry::new()).await.map_err(|e| e.to_string())?;
        if timeout(PATIENCE, gate.readiness().ready()).await.is_err() {
            return Err(format!("the gate is never ready: {:?}", gate.readiness().lacking()));
        }
        Ok(Self { dns, mta, gate, rows: Reader::new(location), _directory: directory })
    }

    /// The recorded rows, as soon as there are `messages` of them: they are written in batches.
    pub async fn rows(&self, messages: i64) -> Result<Vec<SummaryLine>, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.rows.summary(0, i64::MAX).await.map_err(|e| e.to_string())?;
            if rows.iter().map(|row| row.messages).sum::<i64>() >= messages || Instant::now() > deadline {
                return Ok(rows);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The bank's signer. The key is made anew in each run.
pub fn bank_signer() -> Signer<'static> {
    Signer::new(SigningKey::rsa(), "bank.example", "s1")
}

/// The bank wants forgeries refused, the shop wants them set aside, the blog only wants to know. The list is honest.
fn zone() -> Zone {
    Zone::new()
        .txt("bank.example", "v=spf1 ip4:192.0.2.10 -all")
        .txt("s1._domainkey.bank.example", &SigningKey::rsa().record())
        .txt("_dmarc.bank.example", "v=DMARC1; p=reject; rua=mailto:dmarc@bank.example")
        .txt("shop.example", "v=spf1 ip4:192.0.2.20 -all")
        .txt("_dmarc.shop.example", "v=DMARC1; p=quarantine")
        .txt("blog.example", "v=spf1 ip4:192.0.2.30 -all")
        .txt("_dmarc.blog.example", "v=DMARC1; p=none")
        .txt("list.example", "v=spf1 ip4:203.0.113.5 -all")
        .a("mail.list.example", "203.0.113.5")
}

/// The gate's name, under which it writes results.
pub const HOSTNAME: &str = "mx.you.example";
/// The network whose mail is not evaluated.
pub const TRUSTED: &str = "10.0.0.0/8";
