//! Two gates that report to each other, day after day: what they tell each other is never a reason to tell more.
//!
//! Each has a mail server that relays its reports; the test is the Internet between them. A day passes when all that a
//! store has of times moves back by one.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor, Row};

use crate::delivery::BOUNCE;
use crate::support::client::Client;
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};
use crate::support::gate::Gate;
use crate::support::rules::Script;
use crate::support::upstream::{Message, Upstream};

/// A domain with its gate, the mail server behind, and the one that sends its reports.
struct Site {
    domain: &'static str,
    ip: &'static str,
    gate: Gate,
    inside: Upstream,
    relay: Upstream,
    /// Of the relay's messages, how many were carried over.
    carried: usize,
}

/// How the two live together.
struct Life {
    /// What the record of each says of reports; `DOMAIN` stands for it.
    record: &'static str,
    /// Where its mail comes from, as its SPF record has it; `IP` stands for where it does.
    spf: &'static str,
    change: fn(ConfigText, &str) -> ConfigText,
    /// Whether each report that arrives comes back as a bounce.
    bounces: bool,
}

const BOTH: &str = "v=DMARC1; p=reject; fo=1; rua=mailto:dmarc@DOMAIN; ruf=mailto:ruf@DOMAIN";

#[tokio::test]
async fn reports_that_pass_are_no_reason_for_more() {
    let life = Life { record: BOTH, spf: "v=spf1 ip4:IP -all", change: |config, _| config, bounces: false };
    // What was forged on the first day is told once, and that is all.
    assert_eq!(live(life).await, [[2, 0], [0, 0]]);
}

#[tokio::test]
async fn reports_that_fail_are_told_of_once_a_day_and_never_at_once() {
    // As everything that fails; for anyone can give his forgeries the form of a report.
    let life = Life { record: BOTH, spf: "v=spf1 -all", change: |config, _| tag(config), bounces: false };
    assert_eq!(live(life).await, [[2, 2], [2, 2]]);
}

#[tokio::test]
async fn reports_that_fail_and_come_to_the_sender_of_reports_are_told_to_nobody() {
    let record = "v=DMARC1; p=reject; fo=1; rua=mailto:reports@DOMAIN; ruf=mailto:reports@DOMAIN";
    let life = Life { record, spf: "v=spf1 -all", change: |config, _| tag(config), bounces: false };
    // Those of the first day, on forgeries.
    assert_eq!(live(life).await, [[2, 0], [0, 0]]);
}

#[tokio::test]
async fn reports_that_bounce_end() {
    let change = |config: ConfigText, domain: &str| {
        tag(config).set("reports.bounce_domain", format!("bounces.{domain}")).set("reports.failure.enabled", false)
    };
    let life = Life { record: BOTH, spf: "v=spf1 -all", change, bounces: true };
    // A failing report is a row, and the report on that has nowhere to go: its address has peace for a week.
    assert_eq!(live(life).await, [[2, 2], [0, 0]]);
}

fn tag(config: ConfigText) -> ConfigText {
    config.set("policy.mode", "tag")
}

/// Lets thirty days pass behind one of forgeries. Of the second day and of the worst of those behind it: how many
/// aggregate reports both sent together; and how many messages the rows of its evening stand for.
async fn live(life: Life) -> [[usize; 2]; 2] {
    let names = [("a.example", "192.0.2.1"), ("b.example", "192.0.2.2")];
    let zone = names.iter().fold(Zone::new(), |zone, (domain, ip)| {
        zone.txt(domain, &life.spf.replace("IP", ip))
            .txt(&format!("_dmarc.{domain}"), &life.record.replace("DOMAIN", domain))
    });
    let dns = DnsServer::start(zone).await;
    let mut sites = Vec::new();
    for (domain, ip) in names {
        sites.push(Site::start(domain, ip, &dns, life.change).await);
    }
    let failures = if life.bounces { 0 } else { FORGERIES };
    for (site, other) in [(0, 1), (1, 0)] {
        let from = format!("ceo@{}", sites[other].domain);
        for n in 0..FORGERIES {
            let content = format!("From: {from}\r\nSubject: forgery {n}\r\n\r\npay\r\n");
            sites[site].take("203.0.113.66", &from, "you@rcpt.example", content.as_bytes()).await;
        }
        let series = "dmarcgate_failure_reports_total{outcome=\"sent\"}";
        let all = |scrape: &crate::support::gate::Scrape| scrape.value(series) == failures as f64;
        sites[site].gate.wait_for_metrics("failure reports", all).await;
    }
    exchange(&mut sites, life.bounces).await;
    let mut days = Vec::new();
    for _ in 0..DAYS {
        for site in &sites {
            site.sleep().await;
            site.send().await;
        }
        let sent = exchange(&mut sites, life.bounces).await;
        let mut left = 0;
        for site in &sites {
            left += site.rows_of_today().await;
        }
        days.push([sent, left]);
    }
    for site in &sites {
        let all: Vec<_> = site.relay.messages();
        let told = all.iter().filter(|message| is(message, "report-type=feedback-report")).count();
        assert_eq!(told, failures, "{}: failures of the first day alone", site.domain);
        site.inside.assert_clean();
    }
    let worst = |column: usize| days[1..].iter().map(|day| day[column]).max().expect("many days");
    [days[0], [worst(0), worst(1)]]
}

/// Carries what both have sent to the other, and says how many of it were aggregate reports.
async fn exchange(sites: &mut [Site], bounces: bool) -> usize {
    let mut count = 0;
    for (from, to) in [(0, 1), (1, 0)] {
        for message in sites[from].fresh() {
            count += usize::from(is(&message, "Report Domain: "));
            let [recipient] = &message.recipients[..] else { panic!("{message:?}") };
            sites[to].take(sites[from].ip, &message.from, recipient, &message.content).await;
            if bounces {
                let content = BOUNCE.replace("ACTION", "failed").replace("STATUS", "5.1.1");
                sites[from].take(sites[to].ip, "", &message.from, content.as_bytes()).await;
            }
        }
    }
    count
}

fn is(message: &Message, what: &str) -> bool {
    String::from_utf8_lossy(&message.content).replace("\r\n ", " ").contains(what)
}

impl Site {
    async fn start(
        domain: &'static str,
        ip: &'static str,
        dns: &DnsServer,
        change: fn(ConfigText, &str) -> ConfigText,
    ) -> Self {
        let inside = Upstream::start(Script::with_xclient()).await;
        let relay = Upstream::start(Script::new()).await;
        let gate = Gate::start(inside.address(), dns.address(), |config| {
            let config = config
                .set("hostname", format!("mx.{domain}"))
                .set("policy.mode", "enforce")
                .set("reports.enabled", true)
                .set("reports.from", format!("reports@{domain}"))
                .set("reports.organization", domain)
                .set("reports.relay", relay.address().to_string())
                .set("reports.relay_tls", "off")
                .set("reports.rate", 10_000)
                .set("reports.failure.enabled", true);
            change(config, domain)
        });
        let gate = gate.await;
        Self { domain, ip, gate, inside, relay, carried: 0 }
    }

    /// A message comes in.
    async fn take(&self, ip: &str, from: &str, to: &str, content: &[u8]) {
        let mut client = Client::introduced(self.gate.address(), ip, "client.example").await;
        let reply = client.deliver(from, &[to], content).await.outcome().clone();
        assert!([250, 550].contains(&reply.code), "{reply}");
        client.command("QUIT").await.assert(221);
    }

    /// What its relay has got since the last time.
    fn fresh(&mut self) -> Vec<Message> {
        let fresh = self.relay.messages().split_off(self.carried);
        self.carried += fresh.len();
        fresh
    }

    /// Lets two days pass: what came in yesterday isn't told in today's first quarter of an hour.
    async fn sleep(&self) {
        self.gate
            .wait_for_metrics("all rows written", |scrape| scrape.value("dmarcgate_store_rows_pending") == 0.0)
            .await;
        let mut store = open(self.gate.directory()).await;
        store.execute(TWO_DAYS).await.expect("the store");
        store.close().await.expect("no more to do");
    }

    /// Sends what is due now.
    async fn send(&self) {
        loop {
            let output = self.gate.run(&["reports", "send", "--now"]).await;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            // The running gate may be at one.
            let open = self.number("SELECT COUNT(*) FROM report_jobs WHERE state IN ('due', 'claimed')").await;
            if open == 0 {
                return;
            }
        }
    }

    async fn rows_of_today(&self) -> usize {
        self.gate
            .wait_for_metrics("all rows written", |scrape| scrape.value("dmarcgate_store_rows_pending") == 0.0)
            .await;
        let rows = self.number("SELECT COALESCE(SUM(n), 0) FROM report_rows WHERE day = unixepoch() / 86400").await;
        usize::try_from(rows).expect("few")
    }

    async fn number(&self, query: &'static str) -> i64 {
        let mut store = open(self.gate.directory()).await;
        let row = sqlx::query(query).fetch_one(&mut store).await.expect("the store");
        store.close().await.expect("no more to do");
        row.get(0)
    }
}

async fn open(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(directory.join("dmarcgate.db"))
        .busy_timeout(std::time::Duration::from_secs(10));
    SqliteConnection::connect_with(&options).await.expect("the gate's database")
}

/// Keys are hashes over the day, too; others take their place, so that the next day's are not the same. What was
/// reported goes, or it would be planned anew: its job has another name now.
const TWO_DAYS: &str = "BEGIN IMMEDIATE;
    DELETE FROM report_rows WHERE day < unixepoch() / 86400;
    UPDATE report_rows SET day = day - 2, row_key = randomblob(32),
        first_seen = first_seen - 172800, last_seen = last_seen - 172800;
    UPDATE report_jobs SET id = lower(hex(randomblob(16))), period_begin = period_begin - 172800,
        period_end = period_end - 172800, due = due - 172800, deadline = deadline - 172800, lease = lease - 172800,
        claimed = claimed - 172800, changed = changed - 172800;
    UPDATE report_suppressions SET since = since - 172800, until = until - 172800;
    COMMIT";

const FORGERIES: usize = 3;
const DAYS: usize = 30;
