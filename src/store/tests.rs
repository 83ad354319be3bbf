//! The store against real databases.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::record::sample;
use crate::store::testing::{Home, on_both};

on_both![
    equal_rows_add_up_in_memory_and_in_the_table,
    rows_are_summed_by_day_domain_and_disposition,
    rows_that_come_behind_their_reports_are_counted,
    ten_thousand_different_rows_are_all_kept,
    what_is_a_second_old_survives_kill_9,
    a_database_that_breaks_makes_rows_wait_and_then_takes_them,
    beyond_the_memory_only_rows_with_a_new_key_are_lost,
    a_full_queue_never_makes_mail_wait,
    closing_ends_at_the_deadline_and_counts_what_is_lost,
    a_schema_of_a_later_version_is_not_touched,
    nothing_can_be_read_before_the_first_start,
    explanations_are_found_by_their_id_until_they_are_too_old,
    beyond_their_room_the_oldest_explanations_go,
    explanations_wait_in_a_share_of_the_memory_and_rows_are_not_lost_for_them,
];

async fn equal_rows_add_up_in_memory_and_in_the_table(home: Home) {
    let gate = Gate::open(home).await;
    for _ in 0..3 {
        gate.append(sample::record());
    }
    gate.wait_until_written(3).await;
    gate.append(Record { arrived: sample::record().arrived + 60, ..sample::record() });
    let home = gate.close().await;

    assert_eq!(lines(&home).await, [line(20_454, "example.org", ReportDisposition::Reject, 4)]);
    assert_eq!(count_rows(&home).await, 1);
}

async fn rows_are_summed_by_day_domain_and_disposition(home: Home) {
    let gate = Gate::open(home).await;
    let mut other = sample::record();
    other.evaluated.disposition = ReportDisposition::None;
    other.policy = None;
    gate.append(other);
    gate.append(Record { arrived: sample::record().arrived + 86_400, ..sample::record() });
    gate.append(sample::record());
    gate.append(Record { source_ip: [192, 0, 2, 2].into(), ..sample::record() });
    let home = gate.close().await;

    let expected = [
        line(20_454, "", ReportDisposition::None, 1),
        line(20_454, "example.org", ReportDisposition::Reject, 2),
        line(20_455, "example.org", ReportDisposition::Reject, 1),
    ];
    assert_eq!(lines(&home).await, expected);
    let reader = Reader::new(home.location.clone());
    let second_day = sample::record().arrived + 86_400;
    assert_eq!(reader.summary(second_day, second_day).await.unwrap(), expected[2..]);
}

async fn rows_that_come_behind_their_reports_are_counted(home: Home) {
    let gate = Gate::open(home).await;
    gate.append(sample::record());
    gate.append(sample::record());
    gate.append(Record { arrived: now(), ..sample::record() });
    gate.wait_until_written(3).await;
    assert_eq!(gate.metric("dmarcgate_store_rows_late_total"), 2);
    gate.close().await;
}

async fn ten_thousand_different_rows_are_all_kept(home: Home) {
    // This is faster than any mail: the queue has room for all of them.
    let gate = Gate::with_settings(home, |settings| settings.queue = 10_000).await;
    for i in 0..10_000_u32 {
        gate.append(Record { source_ip: std::net::Ipv4Addr::from_bits(i).into(), ..sample::record() });
    }
    let home = gate.close().await;
    assert_eq!(lines(&home).await[0].messages, 10_000);
    assert_eq!(count_rows(&home).await, 10_000);
}

async fn what_is_a_second_old_survives_kill_9(home: Home) {
    let mut gate = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::tests::the_gate_that_is_killed"])
        .env(KILLED_GATE, home.location.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines_of_gate = BufReader::new(gate.stdout.take().unwrap()).lines();
    assert!(lines_of_gate.any(|line| line.unwrap().contains(APPENDED)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.kill().unwrap();
    gate.wait().unwrap();
    assert_eq!(lines(&home).await, [line(20_454, "example.org", ReportDisposition::Reject, 500)]);

    let gate = Gate::open(home).await;
    gate.append(sample::record());
    let home = gate.close().await;
    assert_eq!(lines(&home).await[0].messages, 501, "the next start goes on with the same file");
}

/// Not a test of its own: the process that the test above kills.
#[tokio::test]
async fn the_gate_that_is_killed() {
    let Ok(url) = std::env::var(KILLED_GATE) else { return };
    let settings = lasting(Location::parse(&url).unwrap());
    let store = Store::open(settings, &Registry::new()).await.unwrap();
    for i in 0..500_u32 {
        let source_ip = std::net::Ipv4Addr::from_bits(i).into();
        store.appender().append(Record { source_ip, ..sample::record() });
    }
    println!("{APPENDED}");
    std::future::pending().await
}

const KILLED_GATE: &str = "DMARCGATE_TEST_KILLED_GATE";
const APPENDED: &str = "all appended";

/// Else another process that closes the database takes itself for the last one, and the log that is written to is gone.
#[tokio::test]
async fn another_connection_leaves_the_locks_of_the_first_one() {
    let home = Home::sqlite();
    let mut first = database::open(&home.location).await.unwrap();
    let (_, inode) = database::file_identity(&home.location).unwrap();
    let locks = || {
        let all = std::fs::read_to_string("/proc/locks").unwrap();
        let own =
            |line: &&str| line.contains(&format!(" {} ", std::process::id())) && line.contains(&format!(":{inode} "));
        all.lines().filter(own).count()
    };
    sqlx::query("SELECT COUNT(*) FROM report_rows").fetch_one(&mut first).await.unwrap();
    assert_eq!(locks(), 1, "{}", std::fs::read_to_string("/proc/locks").unwrap());
    sqlx::Connection::close(database::open(&home.location).await.unwrap()).await.unwrap();
    assert_eq!(locks(), 1);
    sqlx::Connection::close(first).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_taken_away_is_made_anew() {
    let home = Home::sqlite();
    let gate = Gate::open(home).await;
    gate.append(sample::record());
    gate.wait_until_written(1).await;
    for file in std::fs::read_dir(gate.home.directory.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    gate.append(sample::record());
    gate.wait_until_written(2).await;
    let home = gate.close().await;
    assert_eq!(lines(&home).await[0].messages, 1);
}

async fn a_database_that_breaks_makes_rows_wait_and_then_takes_them(home: Home) {
    let gate = Gate::open(home).await;
    gate.append(sample::record());
    gate.wait_until_written(1).await;
    gate.home.execute("ALTER TABLE report_rows RENAME TO gone").await;
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_up 0").await;
    gate.append(sample::record());
    assert!(gate.scrape().contains("dmarcgate_store_rows_pending 2"), "{}", gate.scrape());

    gate.home.execute("ALTER TABLE gone RENAME TO report_rows").await;
    gate.wait_until_written(3).await;
    assert!(gate.scrape().contains("dmarcgate_store_up 1"));
    assert!(gate.scrape().contains("dmarcgate_store_rows_pending 0"));
    let home = gate.close().await;
    assert_eq!(lines(&home).await[0].messages, 3);
}

async fn beyond_the_memory_only_rows_with_a_new_key_are_lost(home: Home) {
    let gate = Gate::with_settings(home, |settings| settings.memory = 4000).await;
    gate.home.execute("ALTER TABLE report_rows RENAME TO gone").await;
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_up 0").await;
    for i in 0..100 {
        gate.append(Record { source_ip: [198, 51, 100, i].into(), ..sample::record() });
        gate.append(sample::record());
    }
    gate.wait_for("dmarcgate_store_rows_pending 10").await;
    gate.home.execute("ALTER TABLE gone RENAME TO report_rows").await;
    gate.wait_for("dmarcgate_store_rows_pending 0").await;

    let lost = gate.metric("dmarcgate_store_rows_lost_total{reason=\"memory_full\"}");
    let written = gate.metric("dmarcgate_store_rows_written_total");
    assert_eq!(lost + written, 201);
    assert!((101..150).contains(&written), "{written}");
    gate.close().await;
}

async fn a_full_queue_never_makes_mail_wait(home: Home) {
    let gate = Gate::with_settings(home, |settings| settings.queue = 10).await;
    // No await in between: the writer has no turn on this thread.
    for _ in 0..1000 {
        gate.append(sample::record());
    }
    assert_eq!(gate.metric("dmarcgate_store_rows_lost_total{reason=\"queue_full\"}"), 990);
    let home = gate.close().await;
    assert_eq!(lines(&home).await[0].messages, 10);
}

async fn closing_ends_at_the_deadline_and_counts_what_is_lost(home: Home) {
    let gate = Gate::open(home).await;
    gate.home.execute("DROP TABLE report_rows").await;
    gate.append(sample::record());
    gate.append(sample::record());
    let appender = gate.store.appender();
    let begun = std::time::Instant::now();
    gate.store.close(Duration::from_millis(300)).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    appender.append(sample::record());
    let text = gate.registry.render();
    assert!(text.contains("dmarcgate_store_rows_lost_total{reason=\"stopped\"} 3"), "{text}");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_refused_with_path_and_cause() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "not a database, and longer than the header of one: ".repeat(20)).unwrap();
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    let cases = [("file", "opened"), ("file/below/store.db", "made"), ("directory", "made")];
    for (path, expected) in cases {
        let path = directory.path().join(path);
        let settings = Settings::new(Location::Sqlite(path.clone()));
        let error = Store::open(settings, &Registry::new()).await.err().unwrap();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}

async fn a_schema_of_a_later_version_is_not_touched(home: Home) {
    let home = Gate::open(home).await.close().await;
    home.execute("UPDATE _sqlx_migrations SET version = 99 WHERE version = 2").await;
    let result = Store::open(Settings::new(home.location.clone()), &Registry::new()).await;
    assert!(matches!(result, Err(Error::Schema { .. })));
}

#[tokio::test]
async fn the_directory_is_made_and_closed_to_the_world() {
    use std::os::unix::fs::PermissionsExt;

    let directory = TempDir::new().unwrap();
    let below = directory.path().join("a/b");
    let store = Store::open(Settings::new(Location::Sqlite(below.join("store.db"))), &Registry::new()).await.unwrap();
    for (path, forbidden) in [(below.clone(), 0o027), (below.join("store.db"), 0o137)] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & forbidden, 0, "{mode:o} {}", path.display());
    }
    store.close(Duration::from_secs(5)).await;
}

async fn nothing_can_be_read_before_the_first_start(home: Home) {
    let result = Reader::new(home.location.clone()).summary(0, 1).await;
    assert!(matches!(result, Err(Error::Open { .. } | Error::Read(_))), "{result:?}");
}

async fn explanations_are_found_by_their_id_until_they_are_too_old(home: Home) {
    let gate = Gate::with_settings(home, |s| s.retention.keep = Duration::from_secs(86_400)).await;
    let now = now();
    gate.explain("OLD", now - 86_500, b"old");
    gate.explain("NEW", now - 86_300, b"new");
    gate.explain("NEW", now, b"a second under one id");
    let home = gate.close().await;
    let reader = Reader::new(home.location.clone());
    assert_eq!(reader.explanation("NEW").await.unwrap().as_deref(), Some(&b"new"[..]));
    assert_eq!(reader.explanation("MISSING").await.unwrap(), None);

    // A gate that starts deletes what has become too old, though no mail comes.
    let gate = Gate::with_settings(home, |s| s.retention.keep = Duration::from_secs(86_400)).await;
    gate.wait_for("dmarcgate_store_explanations_bytes 3\n").await;
    let home = gate.close().await;
    assert_eq!(Reader::new(home.location.clone()).explanation("OLD").await.unwrap(), None);
}

async fn beyond_their_room_the_oldest_explanations_go(home: Home) {
    let gate = Gate::with_settings(home, |settings| {
        settings.retention.octets = 100_000;
        settings.batch_delay = Duration::from_millis(1);
    });
    let gate = gate.await;
    let now = now();
    for n in 0..500 {
        gate.explain(&format!("{n}"), now - 500 + n, &[0; 1000]);
        gate.wait_for(&format!("dmarcgate_store_explanations_written_total {}\n", n + 1)).await;
    }
    let octets = gate.metric("dmarcgate_store_explanations_bytes");
    let home = gate.close().await;
    assert!((50_000..=101_000).contains(&octets), "{octets}");
    let reader = Reader::new(home.location.clone());
    assert!(reader.explanation("499").await.unwrap().is_some());
    assert!(reader.explanation("420").await.unwrap().is_some());
    assert!(reader.explanation("399").await.unwrap().is_none());
}

async fn explanations_wait_in_a_share_of_the_memory_and_rows_are_not_lost_for_them(home: Home) {
    let gate = Gate::with_settings(home, |settings| {
        settings.memory = 40_000;
        settings.batch_delay = Duration::from_secs(3600);
    });
    let gate = gate.await;
    for n in 0..20 {
        gate.explain(&format!("{n}"), now(), &[0; 1000]);
    }
    gate.wait_for("dmarcgate_store_explanations_lost_total{reason=\"memory_full\"} 10\n").await;
    gate.append(sample::record());
    let home = gate.close().await;
    assert_eq!(count_rows(&home).await, 1);
}

/// A store over a database of its own.
pub struct Gate {
    pub home: Home,
    pub registry: Registry,
    store: Store,
}

impl Gate {
    pub async fn open(home: Home) -> Self {
        Self::with_settings(home, |_| ()).await
    }

    pub async fn with_settings(home: Home, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = lasting(home.location.clone());
        change(&mut settings);
        let registry = Registry::new();
        let store = Store::open(settings, &registry).await.unwrap();
        Self { home, registry, store }
    }

    pub fn append(&self, record: Record) {
        self.store.appender().append(record);
    }

    pub fn explain(&self, id: &str, arrived: i64, body: &[u8]) {
        self.store.appender().explain(Explanation { id: id.into(), arrived, body: body.into() });
    }

    pub fn is_behind(&self) -> bool {
        *self.store.behind().borrow()
    }

    pub fn scrape(&self) -> String {
        self.registry.render()
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = self.scrape();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    }

    pub async fn wait_until_written(&self, rows: u64) {
        self.wait_for(&format!("dmarcgate_store_rows_written_total {rows}\n")).await;
    }

    pub async fn wait_for(&self, text: &str) {
        wait_for(&self.registry, text, Duration::from_secs(10)).await;
    }

    pub async fn close(self) -> Home {
        self.store.close(Duration::from_secs(60)).await;
        self.home
    }
}

/// Waits until `text` is among the metrics.
pub async fn wait_for(registry: &Registry, text: &str, limit: Duration) {
    let deadline = Instant::now() + limit;
    while !registry.render().contains(text) {
        assert!(Instant::now() < deadline, "no {text} in {}", registry.render());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

fn line(day: i64, policy_domain: &str, disposition: ReportDisposition, messages: i64) -> SummaryLine {
    SummaryLine { day, policy_domain: policy_domain.into(), disposition, messages }
}

async fn lines(home: &Home) -> Vec<SummaryLine> {
    Reader::new(home.location.clone()).summary(0, i64::MAX).await.unwrap()
}

/// Settings under which no row is too old: those of the tests are of January 2026.
pub fn lasting(location: Location) -> Settings {
    let mut settings = Settings::new(location);
    settings.retention.keep_rows = Duration::MAX;
    settings
}

pub async fn messages(home: &Home) -> i64 {
    home.number("SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) FROM report_rows").await
}

pub async fn count_rows(home: &Home) -> i64 {
    home.number("SELECT COUNT(*) FROM report_rows").await
}
