//! A running gate that is killed while it sends reports: each arrives once, or twice where the store says that it may
//! have.
//!
//! Over a file of its own, and with two gates on one PostgreSQL. That part needs a server: `tests/postgres`, as
//! `.ci/run` has it.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use dmarcgate::metrics::Registry;
use dmarcgate::store::{Location, Settings, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, AssertSqlSafe, ConnectOptions, Connection, Executor, Row, SqlSafeStr};
use tempfile::TempDir;

use crate::delivery::many;
use crate::support::config::ConfigText;
use crate::support::dns::DnsServer;
use crate::support::gate::{Gate, POLL};
use crate::support::rules::{DOT, Script, on};
use crate::support::upstream::{Connection as Seen, Message, Upstream};

/// Reports of each round.
const REPORTS: usize = 15;
const ROUNDS: usize = 6;

#[tokio::test]
async fn over_a_file_every_report_arrives() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("sqlite://{}", directory.path().join("reports.db").display());
    rounds(&url, 1).await;
}

mod postgres {
    #[tokio::test]
    #[ignore = "needs a PostgreSQL server: tests/postgres"]
    async fn of_two_gates_one_is_killed_and_every_report_arrives() {
        super::rounds(&super::database().await, 2).await;
    }
}

/// An empty database of the server that the environment names.
async fn database() -> String {
    let server = std::env::var("DMARCGATE_TEST_POSTGRES").expect("DMARCGATE_TEST_POSTGRES, which tests/postgres sets");
    sqlx::any::install_default_drivers();
    let mut options = AnyConnectOptions::from_str(&server).expect("a URL");
    let mut connection = options.connect().await.expect("the server");
    let name = format!("killed_{}", std::process::id());
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name}")).into_sql_str()).await.expect("a superuser");
    connection.close().await.expect("no more to do");
    options.database_url.set_path(&name);
    options.database_url.to_string()
}

/// In each round there are more reports to send, `gates` begin at once, and one of them is killed in the middle. Now
/// and then the relay takes a report and its reply is lost besides.
async fn rounds(url: &str, gates: usize) {
    let (zone, records) = many(REPORTS * ROUNDS);
    let dns = DnsServer::start(zone).await;
    let relay = Upstream::start(Script::new().rule(on(DOT).times(2).close())).await;
    let mut places: Vec<Option<TempDir>> = (0..gates).map(|_| Some(place())).collect();
    let mut random = StdRng::seed_from_u64(9991);
    let mut held_by_the_dead = 0;
    for records in records.chunks(REPORTS) {
        let settings = Settings::new(Location::parse(url).expect("a URL"));
        let store = Store::open(settings, &Registry::new()).await.expect("the store");
        records.iter().for_each(|record| store.appender().append(record.clone()));
        store.close(Duration::from_secs(20)).await;
        plan(&config(&relay, &dns, places[0].as_ref().expect("the last round's"), url)).await;
        let before = heard(&relay.connections());
        let started = places.iter_mut().map(|place| {
            let directory = place.take().expect("the last round's");
            let config = config(&relay, &dns, &directory, url);
            tokio::spawn(async move { Gate::start_in(directory, &config).await })
        });
        let mut running = Vec::new();
        for gate in started.collect::<Vec<_>>() {
            running.push(gate.await.expect("no panic"));
        }
        // A report has half a dozen words.
        let until = before + random.random_range(1..5 * REPORTS);
        relay.wait_until("they have said enough for one to die", |seen| heard(seen) >= until).await;
        tokio::time::sleep(Duration::from_micros(random.random_range(0..4000))).await;
        let victim = random.random_range(0..gates);
        places[victim] = Some(running.remove(victim).kill());
        for (n, gate) in running.into_iter().enumerate() {
            // What it began before the other died, and all else.
            settled(url).await;
            let (status, directory) = gate.stop().await;
            assert!(status.success());
            places[if n < victim { n } else { n + 1 }] = Some(directory);
        }
        held_by_the_dead +=
            number(url, "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs WHERE state = 'claimed'").await;
        execute(url, HURRY).await;
    }
    assert!(held_by_the_dead > 0, "none died in the middle");
    let directory = places.pop().flatten().expect("the last round's");
    let config = config(&relay, &dns, &directory, url);
    let gate = Gate::start_in(directory, &config).await;
    settled(url).await;
    assert!(gate.stop().await.0.success());
    assert_eq!(number(url, "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs WHERE state <> 'sent'").await, 0);
    let mut arrived: BTreeMap<String, Vec<Message>> = BTreeMap::new();
    for message in relay.messages() {
        arrived.entry(message.recipients.concat()).or_default().push(message);
    }
    assert_eq!(arrived.len(), REPORTS * ROUNDS);
    let surplus: usize = arrived.values().map(|messages| messages.len() - 1).sum();
    assert!(arrived.values().all(|all| all.iter().all(|m| m.content == all[0].content)), "twice the very same");
    let known = number(url, "SELECT CAST(SUM(unanswered) AS BIGINT) FROM report_jobs").await;
    assert!(surplus >= 2, "{surplus}: the relay has lost two replies");
    assert!(surplus <= usize::try_from(known).expect("a count"), "{surplus} duplicates, {known} known");
}

/// By hand: with PostgreSQL, a gate that has just begun leaves others time to bring in their rows before it plans.
async fn plan(config: &ConfigText) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("dmarcgate.toml");
    std::fs::write(&file, config.text()).expect("a writable directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dmarcgate"));
    command.args(["reports", "send", "--dry-run", "--config"]).arg(file).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    let output = output.expect("cargo has built the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn heard(seen: &[Seen]) -> usize {
    seen.iter().map(|c| c.commands.len() + c.messages.len()).sum()
}

fn place() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(directory.path().join("spool")).expect("a fresh directory");
    directory
}

fn config(relay: &Upstream, dns: &DnsServer, directory: &TempDir, url: &str) -> ConfigText {
    ConfigText::new(relay.address(), dns.address(), directory.path())
        .set("store.url", url)
        .set("reports.enabled", true)
        .set("reports.from", "reports@gate.example")
        .set("reports.organization", "Gate")
        .set("reports.window", "0s")
        .set("reports.rate", 10_000)
}

/// Waits until all that is due has been taken up: what is left then is under way, held by those who died in this round,
/// or waits for another attempt.
async fn settled(url: &str) {
    let deadline = tokio::time::Instant::now() + 2 * crate::support::PATIENCE;
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let open = format!(
            "SELECT CAST(COUNT(*) AS BIGINT) FROM report_jobs
            WHERE (state = 'due' AND due <= {now}) OR (state = 'claimed' AND lease = 0)"
        );
        if number(url, &open).await == 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "reports are left");
        tokio::time::sleep(POLL).await;
    }
}

async fn execute(url: &str, sql: &'static str) {
    let mut connection = connect(url).await;
    connection.execute(sql).await.expect("a statement");
    connection.close().await.expect("no more to do");
}

async fn number(url: &str, sql: &str) -> i64 {
    let mut connection = connect(url).await;
    let row = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.expect("a number");
    connection.close().await.expect("no more to do");
    row.get(0)
}

async fn connect(url: &str) -> AnyConnection {
    sqlx::any::install_default_drivers();
    AnyConnection::connect(url).await.expect("the store")
}

/// As if the leases of the dead had run out, and the pauses before further attempts.
const HURRY: &str = "UPDATE report_jobs SET lease = 0, due = 0 WHERE state IN ('due', 'claimed')";
