//! What reports cost at scale: a flood of forgeries, many different rows, many policy domains.
//!
//! `cargo run --release --example scale` measures with SQLite in a temporary directory; under `tests/postgres`, with
//! the PostgreSQL server that it starts, too. Rows go in through the store's writer and reports come out through the
//! very delivery that a gate runs, into files. Everything that is claimed of it is checked: exit code 0 only if no
//! message was lost, and each is in one report, as far as that may grow.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "what goes wrong here ends the program"
)]

mod measure;
#[path = "../demo/support.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dmarcgate::config::Config;
use dmarcgate::dns::{self, Resolver};
use dmarcgate::domain::Domain;
use dmarcgate::metrics::Registry;
use dmarcgate::record::{
    AlignmentMode, AlignmentOutcome, DiscoveryMethod, FinalReply, Policy, PolicyEvaluated, PolicyPublished, Record,
    ReportDisposition, SpfAuthResult, SpfScope, TestMode,
};
use dmarcgate::report::delivery::Delivery;
use dmarcgate::store::Store;
use dmarcgate::suffix_list;
use dmarcgate::tls::ClientMetrics;
use mimalloc::MiMalloc;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::measure::{Database, Memory, value};
use crate::support::config::ConfigText;
use crate::support::dns::{DnsServer, Zone};

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A day's mail.
struct Day {
    name: &'static str,
    messages: u32,
    /// The different rows that it makes.
    rows: u32,
    /// Each with a report of its own.
    domains: u32,
    /// Messages that the reports tell of: a report has 50,000 records at most, and says how many messages are beyond.
    told: u32,
}

const DAYS: [Day; 3] = [
    Day { name: "a flood of few kinds", messages: 1_000_000, rows: 100, domains: 1, told: 1_000_000 },
    Day { name: "many kinds", messages: 100_000, rows: 100_000, domains: 1, told: 50_000 },
    Day { name: "many domains", messages: 100_000, rows: 20_000, domains: 10_000, told: 100_000 },
];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        println!(
            "{:27}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}",
            "", "messages", "rows", "written", "store", "planned", "again", "reported"
        );
        for (n, day) in DAYS.iter().enumerate() {
            let place = directory.path().join(n.to_string());
            std::fs::create_dir(&place).expect("a fresh directory");
            measure_day(day, Database::sqlite(&place), &place).await;
        }
        if let Ok(server) = std::env::var("DMARCGATE_TEST_POSTGRES") {
            for (n, day) in DAYS.iter().enumerate() {
                let place = directory.path().join(format!("postgres-{n}"));
                std::fs::create_dir(&place).expect("a fresh directory");
                measure_day(day, Database::postgres(&server, n).await, &place).await;
            }
        }
    });
    ExitCode::SUCCESS
}

async fn measure_day(day: &Day, database: Database, place: &Path) {
    let zone = (0..day.domains).fold(Zone::new(), |zone, n| zone.txt(&format!("_dmarc.{}", domain(n)), POLICY));
    let dns = DnsServer::start(zone).await;
    let text = ConfigText::new(([127, 0, 0, 1], 1).into(), dns.address(), place)
        .set("store.url", database.url.as_str())
        .set("reports.from", "reports@gate.example")
        .set("reports.organization", "Gate")
        .set("reports.window", "0s")
        .set("reports.rate", 10_000)
        .set("reports.dry_run", place.join("reports").display().to_string());
    let config = Config::parse(&text.text()).expect("a configuration").config;

    let before = Memory::now();
    let began = Instant::now();
    write(day, &config).await;
    let written = began.elapsed();
    let octets = database.octets().await;
    let writing = Memory::peak();

    let registry = Registry::new();
    let settings = config.reports(ClientMetrics::new(&registry)).expect("good settings").expect("a sender");
    let rules = watch::Sender::new(Arc::new(suffix_list::rules(&config.suffix_list())));
    let resolver = Resolver::new(config.resolver(), dns::Metrics::new(&registry)).expect("a resolver");
    let delivery = Delivery::new(config.store.url.clone(), resolver, rules.subscribe(), &registry);
    Memory::forget_peak();
    let mut planned = [Duration::ZERO; 2];
    for planned in &mut planned {
        let began = Instant::now();
        delivery.plan(&settings).await.expect("the store");
        *planned = began.elapsed();
    }
    let (settings, (_stop, stopped)) = (Arc::new(settings), watch::channel(false));
    let began = Instant::now();
    let mut reports = 0;
    // A minute's rate may be used up.
    while delivery.waiting(now()).await.expect("the store") > 0 {
        reports += delivery.round(&settings, &stopped).await.expect("the store");
    }
    let reported = began.elapsed();
    let reporting = Memory::peak();

    assert_eq!(reports, u64::from(day.domains));
    let samples = registry.render();
    assert_eq!(value(&samples, "dmarcgate_reports_attempts_total{outcome=\"written\"}"), f64::from(day.domains));
    assert_eq!(value(&samples, "dmarcgate_reports_messages_total"), f64::from(day.told));
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    println!(
        "{:27}{:>10}{:>9}{:>9}{:>9}{:>9}{:>9}{:>11}",
        format!("{}, {}", day.name, database.kind),
        day.messages,
        day.rows,
        seconds(written),
        mebibytes(octets),
        seconds(planned[0]),
        seconds(planned[1]),
        seconds(reported),
    );
    println!(
        "    peak memory: {before} before, {writing} writing, {reporting} reporting; largest report: {}",
        largest(place)
    );
}

/// Writes a day's mail as fast as the store takes it.
async fn write(day: &Day, config: &Config) {
    let registry = Registry::new();
    let store = Store::open(config.store(), &registry).await.expect("a fresh store");
    let appender = store.appender();
    for n in 0..day.messages {
        appender.append(record(n % day.rows, day));
        if n % 1000 == 999 {
            // Faster than that and rows would be lost, as they should be.
            while value(&registry.render(), "dmarcgate_store_rows_pending") > MOST_PENDING {
                sleep(Duration::from_millis(2)).await;
            }
        }
    }
    store.close(Duration::from_secs(60)).await;
    assert_eq!(value(&registry.render(), "dmarcgate_store_rows_written_total"), f64::from(day.messages));
}

/// A forgery of the `kind`th kind: a client, a domain and a sender of its own.
fn record(kind: u32, day: &Day) -> Record {
    let domain = domain(kind % day.domains);
    let policy = PolicyPublished {
        domain: domain.clone(),
        discovery: DiscoveryMethod::TreeWalk,
        record: format!("{POLICY}; rua=mailto:dmarc@{domain}"),
        adkim: AlignmentMode::Relaxed,
        aspf: AlignmentMode::Relaxed,
        p: Policy::Reject,
        sp: None,
        np: None,
        fo: "0".into(),
        testing: TestMode::Off,
        requested: Policy::Reject,
    };
    let client = kind / day.domains;
    let source_ip = match client % 2 {
        0 => IpAddr::from(Ipv4Addr::from_bits(0x1000_0000 + client)),
        _ => IpAddr::from(Ipv6Addr::from_bits((0x2a00_0000 << 96) + u128::from(client))),
    };
    let sender = format!("bot{client}.net");
    Record {
        // The day before yesterday, at noon: yesterday may not have settled yet.
        arrived: now() / 86_400 * 86_400 - 129_600,
        source_ip,
        policy: Some(policy),
        evaluated: PolicyEvaluated {
            disposition: ReportDisposition::Reject,
            dkim: AlignmentOutcome::Fail,
            spf: AlignmentOutcome::Fail,
            reasons: Vec::new(),
        },
        header_from: Some(domain),
        envelope_from: sender.as_str().into(),
        envelope_to: None,
        dkim: Vec::new(),
        spf: Some(SpfAuthResult {
            domain: sender.as_str().into(),
            scope: SpfScope::MailFrom,
            result: "softfail".into(),
        }),
        reply: FinalReply::RefusedByGate,
    }
}

fn domain(n: u32) -> Domain {
    Domain::parse(&format!("bank{n}.com")).expect("a domain")
}

fn largest(place: &Path) -> String {
    let size = |end: &str| {
        let files = std::fs::read_dir(place.join("reports")).expect("reports").flatten();
        let files = files.filter(|file| file.path().extension().is_some_and(|found| found == end));
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).max().unwrap_or(0)
    };
    format!("{} of XML, {} of mail", mebibytes(size("xml")), mebibytes(size("eml")))
}

fn mebibytes(octets: u64) -> String {
    format!("{:.1} MiB", octets as f64 / f64::from(1 << 20))
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("before the year 2^63")
}

const POLICY: &str = "v=DMARC1; p=reject";
/// Well below the queue and the memory that a store has by default.
const MOST_PENDING: f64 = 6000.0;
