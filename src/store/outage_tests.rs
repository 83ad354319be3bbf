//! The store while its database is away: what waits where, what outlives what, and that each row counts once.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::batch::{Batch, Stamp, Waiting};
use super::row::Row;
use super::testing::{Home, SERVER, on_both};
use super::tests::{Gate, count_rows, lasting, messages, now, wait_for};
use super::*;
use crate::record::sample;

on_both![
    a_batch_that_is_offered_twice_counts_once,
    rows_wait_in_the_file_and_come_back,
    until_the_last_row_of_an_outage_is_in_rows_are_late,
    what_waits_in_the_file_outlives_the_gate,
    an_explanation_behind_a_backlog_does_not_hold_up_the_stop,
    an_explanation_that_waits_sends_no_row_to_the_file_by_itself,
    what_waits_in_the_file_survives_kill_9,
    a_file_that_is_full_leaves_the_memory,
    what_the_database_refuses_holds_nothing_up,
    what_the_database_refuses_is_taken_out_of_the_file,
    a_database_that_refuses_everything_ends_the_search,
    rows_that_are_too_old_are_deleted_in_steps,
    a_clock_far_ahead_of_the_newest_row_deletes_nothing_at_first,
    beyond_the_size_the_oldest_days_go_and_the_present_stays,
    beyond_the_margin_no_more_rows_are_taken_until_there_is_room,
];

async fn a_batch_that_is_offered_twice_counts_once(home: Home) {
    let mut connection = database::open(&home.location).await.unwrap();
    for (sequence, expected) in [(1, 2), (1, 2), (2, 4), (1, 4), (2, 4), (3, 6)] {
        let batch = batch(sequence);
        statements::write(&mut connection, Some(&batch), &[], 1).await.unwrap();
        assert_eq!(messages(&home).await, expected, "after batch {sequence}");
    }
    let other = Batch { stamp: Stamp { writer: [2; 16], sequence: 1 }, ..batch(1) };
    statements::write(&mut connection, Some(&other), &[], 1).await.unwrap();
    assert_eq!(messages(&home).await, 8, "each writer counts by itself");
}

fn batch(sequence: i64) -> Batch {
    let mut waiting = Waiting::default();
    for n in 0..2 {
        waiting
            .add(Row::new(Record { source_ip: [192, 0, 2, n].into(), ..sample::record() }, Periods::Days), usize::MAX);
    }
    waiting.depart(Stamp { writer: [1; 16], sequence }).unwrap()
}

fn with_file(settings: &mut Settings, directory: &Path) {
    settings.spill = Some(SpillSettings { path: directory.join("rows.spill"), octets: 1 << 20 });
}

async fn broken_with_file(home: Home) -> Gate {
    home.execute("ALTER TABLE report_rows RENAME TO gone").await;
    let directory = home.directory.path().to_owned();
    Gate::with_settings(home, |settings| with_file(settings, &directory)).await
}

/// The schema is made, and no gate runs.
async fn made(home: Home) -> Home {
    Gate::open(home).await.close().await
}

async fn rows_wait_in_the_file_and_come_back(home: Home) {
    let gate = broken_with_file(made(home).await).await;
    for round in 1..=3 {
        gate.append(sample::record());
        gate.append(Record { source_ip: [192, 0, 2, 99].into(), ..sample::record() });
        gate.wait_for(&format!("dmarcgate_store_rows_spilled_total {}\n", 2 * round)).await;
    }
    let scrape = gate.scrape();
    for text in ["dmarcgate_store_up 0\n", "dmarcgate_store_spill_rows 6\n", "dmarcgate_store_rows_pending 0\n"] {
        assert!(scrape.contains(text), "no {text} in {scrape}");
    }
    gate.home.execute("ALTER TABLE gone RENAME TO report_rows").await;
    gate.append(sample::record());
    gate.wait_until_written(7).await;
    gate.wait_for("dmarcgate_store_spill_bytes 0\n").await;
    let home = gate.close().await;
    assert_eq!((messages(&home).await, count_rows(&home).await), (7, 2));
}

async fn until_the_last_row_of_an_outage_is_in_rows_are_late(home: Home) {
    let gate = broken_with_file(made(home).await).await;
    assert!(!gate.is_behind(), "nothing waits yet");
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_rows_spilled_total 1\n").await;
    assert!(gate.is_behind());
    let home = gate.close().await;
    home.execute("ALTER TABLE gone RENAME TO report_rows").await;

    let directory = home.directory.path().to_owned();
    let gate = Gate::with_settings(home, |settings| with_file(settings, &directory)).await;
    assert!(gate.is_behind(), "those of the last run");
    gate.wait_until_written(1).await;
    gate.wait_for("dmarcgate_store_spill_bytes 0\n").await;
    assert!(!gate.is_behind());
    let home = gate.close().await;

    home.execute("ALTER TABLE report_rows RENAME TO gone").await;
    let gate = Gate::open(home).await;
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_up 0\n").await;
    assert!(gate.is_behind(), "without a file, too");
    gate.home.execute("ALTER TABLE gone RENAME TO report_rows").await;
    gate.wait_until_written(1).await;
    assert!(!gate.is_behind());
    gate.close().await;
}

async fn what_waits_in_the_file_outlives_the_gate(home: Home) {
    let gate = broken_with_file(made(home).await).await;
    gate.append(sample::record());
    // No time to find out that the database is broken: stopping finds out.
    let registry = gate.registry.clone();
    let home = gate.close().await;
    let text = registry.render();
    assert!(text.contains("dmarcgate_store_rows_lost_total{reason=\"stopped\"} 0\n"), "{text}");
    home.execute("ALTER TABLE gone RENAME TO report_rows").await;

    let directory = home.directory.path().to_owned();
    let gate = Gate::with_settings(home, |settings| with_file(settings, &directory)).await;
    gate.wait_until_written(1).await;
    let home = gate.close().await;
    assert_eq!(messages(&home).await, 1);
}

async fn an_explanation_behind_a_backlog_does_not_hold_up_the_stop(home: Home) {
    let gate = broken_with_file(made(home).await).await;
    for batch in 1..=2 {
        gate.append(sample::record());
        gate.wait_for(&format!("dmarcgate_store_rows_spilled_total {batch}\n")).await;
    }
    let home = gate.close().await;
    home.execute("ALTER TABLE gone RENAME TO report_rows").await;

    let directory = home.directory.path().to_owned();
    let gate = Gate::with_settings(home, |settings| with_file(settings, &directory)).await;
    // No await in between: the stop meets a backlog, a row, which goes behind it, and an explanation, which does not.
    gate.append(sample::record());
    gate.explain("ID", now(), b"told");
    let begun = std::time::Instant::now();
    let home = gate.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(messages(&home).await, 3);
    assert!(Reader::new(home.location.clone()).explanation("ID").await.unwrap().is_some());
}

/// Like rows become one before they go to the file, whatever else waits.
async fn an_explanation_that_waits_sends_no_row_to_the_file_by_itself(home: Home) {
    let gate = broken_with_file(made(home).await).await;
    gate.explain("ID", now(), b"told");
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_rows_spilled_total 1\n").await;
    let first = gate.metric("dmarcgate_store_spill_bytes ");
    // The next pause is two seconds: long enough for the explanation to be older than rows may become in memory.
    gate.wait_for("dmarcgate_store_failed_batches_total 2\n").await;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for _ in 0..100 {
        ticks.tick().await;
        gate.append(sample::record());
    }
    gate.wait_for("dmarcgate_store_rows_spilled_total 101\n").await;
    let batches = gate.metric("dmarcgate_store_spill_bytes ") / first;
    assert!(batches < 10, "{batches} batches of rows that are alike");
    let home = gate.close().await;
    home.execute("ALTER TABLE gone RENAME TO report_rows").await;
}

async fn what_waits_in_the_file_survives_kill_9(home: Home) {
    let home = made(home).await;
    home.execute("ALTER TABLE report_rows RENAME TO gone").await;
    let mut gate = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "store::outage_tests::the_gate_that_is_killed"])
        .env(KILLED_GATE, home.location.to_string())
        .env(KILLED_GATE_FILES, home.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(gate.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains(APPENDED)));
    gate.kill().unwrap();
    gate.wait().unwrap();
    home.execute("ALTER TABLE gone RENAME TO report_rows").await;

    let directory = home.directory.path().to_owned();
    let gate = Gate::with_settings(home, |settings| with_file(settings, &directory)).await;
    gate.wait_until_written(500).await;
    let home = gate.close().await;
    assert_eq!(messages(&home).await, 500);
}

/// Not a test of its own: the process that the test above kills once its rows are in the file, with its database away.
#[tokio::test]
async fn the_gate_that_is_killed() {
    let Ok(url) = std::env::var(KILLED_GATE) else { return };
    let mut settings = Settings::new(Location::parse(&url).unwrap());
    with_file(&mut settings, Path::new(&std::env::var_os(KILLED_GATE_FILES).unwrap()));
    let registry = Registry::new();
    let store = Store::open(settings, &registry).await.unwrap();
    for i in 0..500_u32 {
        let source_ip = std::net::Ipv4Addr::from_bits(i).into();
        store.appender().append(Record { source_ip, ..sample::record() });
    }
    wait_for(&registry, "dmarcgate_store_rows_spilled_total 500\n", Duration::from_secs(10)).await;
    println!("{APPENDED}");
    std::future::pending().await
}

const KILLED_GATE: &str = "DMARCGATE_TEST_KILLED_SPILLING_GATE";
const KILLED_GATE_FILES: &str = "DMARCGATE_TEST_KILLED_SPILLING_GATE_FILES";
const APPENDED: &str = "all appended";

async fn a_file_that_is_full_leaves_the_memory(home: Home) {
    let home = made(home).await;
    home.execute("ALTER TABLE report_rows RENAME TO gone").await;
    let path = home.directory.path().join("rows.spill");
    let gate = Gate::with_settings(home, |settings| {
        settings.memory = 20_000;
        settings.spill = Some(SpillSettings { path, octets: 3000 });
    });
    let gate = gate.await;
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_rows_spilled_total 1\n").await;
    for i in 0..100 {
        gate.append(Record { source_ip: [198, 51, 100, i].into(), ..sample::record() });
    }
    gate.wait_for("dmarcgate_store_rows_lost_total{reason=\"memory_full\"}").await;
    gate.home.execute("ALTER TABLE gone RENAME TO report_rows").await;
    gate.wait_for("dmarcgate_store_rows_pending 0\n").await;
    gate.wait_for("dmarcgate_store_spill_rows 0\n").await;
    let lost = gate.metric("dmarcgate_store_rows_lost_total{reason=\"memory_full\"}");
    let written = gate.metric("dmarcgate_store_rows_written_total");
    assert_eq!(lost + written, 101);
    assert!(written >= 5, "{written}");
    let home = gate.close().await;
    assert_eq!(messages(&home).await.unsigned_abs(), written);
}

/// From now on the table takes no row whose SPF domain is `poison.example`, and says so in the way of its database.
async fn poisoned(home: &Home) {
    let statements: &[&'static str] = match home.location {
        Location::Sqlite(_) => {
            &["CREATE TRIGGER poison BEFORE INSERT ON report_rows WHEN NEW.spf_domain = 'poison.example'
            BEGIN SELECT RAISE(ABORT, 'poison'); END"]
        }
        Location::Postgres(_) => &["ALTER TABLE report_rows ADD CHECK (spf_domain <> 'poison.example')"],
    };
    for statement in statements {
        home.execute(statement).await;
    }
}

/// The `n`th of many rows, which is one of the kind that the table does not take if `poison` says so.
fn one_of_many(n: u32, poison: bool) -> Record {
    let mut record = Record { source_ip: std::net::Ipv4Addr::from_bits(n).into(), ..sample::record() };
    if poison {
        record.spf.as_mut().unwrap().domain = "poison.example".into();
    }
    record
}

const REFUSED: &str = "dmarcgate_store_rows_lost_total{reason=\"refused\"}";

async fn what_the_database_refuses_holds_nothing_up(home: Home) {
    let home = made(home).await;
    poisoned(&home).await;
    let gate = Gate::open(home).await;
    for n in 0..300 {
        gate.append(one_of_many(n, n % 100 == 7));
        gate.append(one_of_many(n, n % 100 == 7));
    }
    gate.explain("ID", now(), b"told");
    gate.wait_until_written(594).await;
    gate.wait_for(&format!("{REFUSED} 6\n")).await;
    gate.wait_for("dmarcgate_store_rows_pending 0\n").await;
    gate.append(one_of_many(1, false));
    gate.wait_until_written(595).await;
    let scrape = gate.scrape();
    for text in ["dmarcgate_store_up 1\n", "dmarcgate_store_failed_batches_total 0\n"] {
        assert!(scrape.contains(text), "no {text} in {scrape}");
    }
    let home = gate.close().await;
    assert_eq!((messages(&home).await, count_rows(&home).await), (595, 297));
    assert!(Reader::new(home.location.clone()).explanation("ID").await.unwrap().is_some());
}

async fn what_the_database_refuses_is_taken_out_of_the_file(home: Home) {
    let home = made(home).await;
    poisoned(&home).await;
    let gate = broken_with_file(home).await;
    (0..10).for_each(|n| gate.append(one_of_many(n, n == 3)));
    gate.wait_for("dmarcgate_store_rows_spilled_total 10\n").await;
    gate.home.execute("ALTER TABLE gone RENAME TO report_rows").await;
    gate.wait_until_written(9).await;
    gate.wait_for(&format!("{REFUSED} 1\n")).await;
    gate.wait_for("dmarcgate_store_spill_bytes 0\n").await;
    let home = gate.close().await;
    assert_eq!(messages(&home).await, 9);
}

async fn a_database_that_refuses_everything_ends_the_search(home: Home) {
    let home = made(home).await;
    poisoned(&home).await;
    let gate = Gate::open(home).await;
    (0..1500).for_each(|n| gate.append(one_of_many(n, true)));
    gate.wait_for(&format!("{REFUSED} 1500\n")).await;
    gate.append(one_of_many(0, false));
    gate.wait_until_written(1).await;
    gate.close().await;
}

async fn rows_that_are_too_old_are_deleted_in_steps(home: Home) {
    let home = with_days(home, &[(40, 2500), (31, 10), (29, 10), (0, 10)]).await;
    let gate = Gate::with_settings(home, |s| s.retention.keep_rows = Duration::from_secs(30 * 86_400)).await;
    gate.wait_for("dmarcgate_store_rows_pruned_total 2510\n").await;
    gate.wait_for("dmarcgate_store_rows 20\n").await;
    assert!(gate.metric("dmarcgate_store_bytes") > 10_000);
    let home = gate.close().await;
    assert_eq!(count_rows(&home).await, 20);
}

async fn a_clock_far_ahead_of_the_newest_row_deletes_nothing_at_first(home: Home) {
    let is_shared = matches!(home.location, Location::Postgres(_));
    let home = with_days(home, &[(40, 10), (33, 10)]).await;
    home.execute("UPDATE store_writers SET seen = 1").await;
    let gate = Gate::with_settings(home, |s| s.retention.keep_rows = Duration::from_secs(30 * 86_400)).await;
    // A server has a clock of its own.
    let left = if is_shared { 0 } else { 20 };
    gate.wait_for(&format!("dmarcgate_store_rows_pruned_total {}\n", 20 - left)).await;
    gate.wait_for(&format!("dmarcgate_store_rows {left}\n")).await;
    if is_shared {
        gate.close().await;
        return;
    }
    // What is written by it makes it no more believable, not at the next start either.
    gate.append(sample::record());
    let home = gate.close().await;
    assert_eq!(count_rows(&home).await, left + 1);
    let gate = Gate::with_settings(home, |s| s.retention.keep_rows = Duration::from_secs(30 * 86_400)).await;
    gate.wait_for(&format!("dmarcgate_store_rows {}\n", left + 1)).await;
    gate.append(sample::record());
    let home = gate.close().await;
    assert!(count_rows(&home).await > left);
}

async fn beyond_the_size_the_oldest_days_go_and_the_present_stays(home: Home) {
    let home = with_days(home, &[(5, 1200), (1, 20), (0, 20)]).await;
    let gate = Gate::with_settings(home, |settings| settings.retention.size = Some(1)).await;
    gate.wait_for("dmarcgate_store_rows_pruned_total 1200\n").await;
    gate.wait_for("dmarcgate_store_rows 40\n").await;
    let home = gate.close().await;
    assert_eq!(count_rows(&home).await, 40);
}

async fn beyond_the_margin_no_more_rows_are_taken_until_there_is_room(home: Home) {
    let home = with_days(home, &[(0, 20)]).await;
    let gate = Gate::with_settings(home, |settings| {
        (settings.retention.size, settings.retention.most) = (Some(1), Some(2));
    })
    .await;
    gate.wait_for("dmarcgate_store_rows 20\n").await;
    gate.append(sample::record());
    gate.wait_for("dmarcgate_store_rows_lost_total{reason=\"store_full\"} 1\n").await;
    gate.wait_for("dmarcgate_store_rows_pending 0\n").await;
    let home = gate.close().await;
    assert_eq!(count_rows(&home).await, 20, "those that are there stay: their reports are due");

    // One that has just started learns how large it is, and what comes in makes it look again.
    let gate = Gate::with_settings(home, |settings| settings.retention.most = Some(1 << 30)).await;
    gate.append(sample::record());
    gate.wait_until_written(1).await;
    gate.close().await;
}

/// A database with as many different rows of days as long ago.
async fn with_days(home: Home, days: &[(i64, u32)]) -> Home {
    let gate = Gate::open(home).await;
    let mut sum = 0;
    for (ago, count) in days {
        for n in 0..*count {
            let (arrived, source_ip) = (now() - ago * 86_400, std::net::Ipv4Addr::from_bits(n).into());
            gate.append(Record { arrived, source_ip, ..sample::record() });
            sum += 1;
            if sum % 1000 == 0 {
                gate.wait_until_written(sum).await;
            }
        }
    }
    gate.wait_until_written(sum).await;
    gate.close().await
}

/// Stands between a gate and the server, and does what networks do.
struct Line {
    location: Location,
    /// Breaks all connections once the reply to the next COMMIT is there, without passing it on.
    swallows_commit: Arc<AtomicBool>,
    /// Whether a COMMIT has been swallowed.
    has_swallowed: Arc<AtomicBool>,
    /// Passes on nothing more for whoever asks for the schema, and keeps the connection.
    is_mute: Arc<AtomicBool>,
    directory: tempfile::TempDir,
}

impl Line {
    /// To the database of a test, not yet open.
    fn to(home: &Home) -> Self {
        let directory = tempfile::TempDir::new().unwrap();
        let url = home.location.to_string();
        let (url, _) = url.split_once("?host=").expect("tests/postgres gives a local socket");
        let location = Location::parse(&format!("{url}?host={}", directory.path().display())).unwrap();
        let (swallows_commit, has_swallowed, is_mute) = Default::default();
        Self { location, swallows_commit, has_swallowed, is_mute, directory }
    }

    /// From now on there is somebody there.
    fn open(&self) {
        let server = std::env::var(SERVER).unwrap();
        let server = Path::new(server.split_once("?host=").unwrap().1).join(SOCKET);
        let listener = UnixListener::bind(self.directory.path().join(SOCKET)).unwrap();
        let (arm, done) = (Arc::clone(&self.swallows_commit), Arc::clone(&self.has_swallowed));
        let mute = Arc::clone(&self.is_mute);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(carry([client, server], Arc::clone(&arm), Arc::clone(&done), Arc::clone(&mute)));
            }
        });
    }
}

async fn carry(
    [mut client, mut server]: [UnixStream; 2],
    arm: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    mute: Arc<AtomicBool>,
) {
    let (mut asked, mut told) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_commit = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let octets = read.unwrap_or(0);
                if octets == 0 {
                    return;
                }
                is_commit = asked[..octets].windows(6).any(|text| text == b"COMMIT");
                if mute.load(Ordering::SeqCst) && asked[..octets].windows(16).any(|text| text == b"_sqlx_migrations") {
                    // Until the client has had enough of it: the server would keep its lock.
                    while client.read(&mut asked).await.is_ok_and(|octets| octets > 0) {}
                    return;
                }
                server.write_all(&asked[..octets]).await.unwrap();
            }
            read = server.read(&mut told) => {
                let octets = read.unwrap_or(0);
                if octets == 0 {
                    return;
                }
                if is_commit && arm.swap(false, Ordering::SeqCst) {
                    done.store(true, Ordering::SeqCst);
                    return;
                }
                client.write_all(&told[..octets]).await.unwrap();
            }
        }
    }
}

const SOCKET: &str = ".s.PGSQL.5432";

/// What only a server can do.
mod server {
    mod postgres {
        use super::super::*;

        #[tokio::test]
        #[ignore = "needs a PostgreSQL server: tests/postgres"]
        async fn a_commit_whose_answer_is_lost_counts_once() {
            let home = made(Home::postgres().await).await;
            let line = Line::to(&home);
            line.open();
            for file in [false, true] {
                let before = messages(&home).await;
                let mut settings = lasting(line.location.clone());
                if file {
                    with_file(&mut settings, home.directory.path());
                }
                // The schema is there, so the first COMMIT is that of the rows.
                let registry = Registry::new();
                let store = Store::open(settings, &registry).await.unwrap();
                line.swallows_commit.store(true, Ordering::SeqCst);
                line.has_swallowed.store(false, Ordering::SeqCst);
                (0..10).for_each(|_| store.appender().append(sample::record()));
                let written = || registry.render().contains("dmarcgate_store_rows_written_total 10\n");
                for _ in 0..1000 {
                    if written() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                assert!(written() && line.has_swallowed.load(Ordering::SeqCst), "{}", registry.render());
                assert!(registry.render().contains("dmarcgate_store_failed_batches_total 1\n"));
                store.close(Duration::from_secs(5)).await;
                assert_eq!(messages(&home).await - before, 10, "with a file: {file}");
            }
        }

        #[tokio::test]
        #[ignore = "needs a PostgreSQL server: tests/postgres"]
        async fn texts_that_it_has_no_place_for_are_refused_alone() {
            let home = made(Home::postgres().await).await;
            let mut connection = database::open(&home.location).await.unwrap();
            let mut rows: Vec<_> = (0..100).map(|n| Row::new(one_of_many(n, false), Periods::Days)).collect();
            // A NUL, and a key of an index that is too long: what no version of ours writes.
            rows[20].texts[20] = "a\0b".into();
            rows[70].texts[1] = (0..9000_u32).map(|n| char::from_u32(0x4e00 + n * 7919 % 20_000).unwrap()).collect();
            let rows = rows.into_iter().map(|row| (row.key(), row)).collect();
            let batch = Batch::new(Stamp { writer: [1; 16], sequence: 1 }, rows, Default::default());
            let refused = statements::write(&mut connection, Some(&batch), &[], 1).await.unwrap();
            assert_eq!((refused.messages, messages(&home).await), (2, 98), "{}", refused.cause);
        }

        #[tokio::test]
        #[ignore = "needs a PostgreSQL server: tests/postgres"]
        async fn a_gate_whose_clock_is_ahead_leaves_the_rows_of_the_others() {
            let home = with_days(Home::postgres().await, &[(70, 3), (0, 5)]).await;
            let mut connection = database::open(&home.location).await.unwrap();
            let ahead = Duration::from_secs(now().unsigned_abs() + 1000 * 86_400);
            let pruned = retention::step(&mut connection, &Retention::default(), ahead).await.unwrap();
            assert_eq!((pruned.rows_deleted, count_rows(&home).await), (3, 5));
        }

        #[tokio::test]
        #[ignore = "needs a PostgreSQL server: tests/postgres"]
        async fn a_server_that_comes_later_is_waited_for() {
            let home = made(Home::postgres().await).await;
            let line = Line::to(&home);
            let directory = home.directory.path().to_owned();
            let location = line.location.clone();
            let away = Home { directory: tempfile::TempDir::new().unwrap(), location };
            let gate = Gate::with_settings(away, |settings| with_file(settings, &directory)).await;
            gate.append(sample::record());
            gate.wait_for("dmarcgate_store_rows_spilled_total 1\n").await;
            gate.wait_for("dmarcgate_store_up 0\n").await;
            line.open();
            gate.wait_until_written(1).await;
            gate.wait_for("dmarcgate_store_up 1\n").await;
            gate.close().await;
            assert_eq!(messages(&home).await, 1);
        }

        #[tokio::test]
        #[ignore = "needs a PostgreSQL server: tests/postgres"]
        async fn a_server_that_falls_silent_while_it_is_opened_anew_is_tried_again() {
            let home = made(Home::postgres().await).await;
            let line = Line::to(&home);
            line.open();
            let directory = home.directory.path().to_owned();
            let through = Home { directory: tempfile::TempDir::new().unwrap(), location: line.location.clone() };
            let gate = Gate::with_settings(through, |settings| with_file(settings, &directory)).await;
            gate.append(sample::record());
            gate.wait_until_written(1).await;
            line.is_mute.store(true, Ordering::SeqCst);
            line.swallows_commit.store(true, Ordering::SeqCst);
            gate.append(sample::record());
            gate.wait_for("dmarcgate_store_failed_batches_total 1\n").await;
            // A second, and what opening may take.
            wait_for(&gate.registry, "dmarcgate_store_failed_batches_total 2\n", Duration::from_secs(30)).await;
            line.is_mute.store(false, Ordering::SeqCst);
            gate.wait_until_written(2).await;
            gate.close().await;
            assert_eq!(messages(&home).await, 2);
        }

        #[tokio::test]
        #[ignore = "needs a PostgreSQL server: tests/postgres"]
        async fn a_server_that_does_not_let_us_in_is_no_start() {
            let home = Home::postgres().await;
            let url = home.location.to_string();
            for (wrong, expected) in [("postgres@", "nobody_of_that_name@"), ("/test_", "/no_such_")] {
                let location = Location::parse(&url.replacen(wrong, expected, 1)).unwrap();
                let error = Store::open(Settings::new(location), &Registry::new()).await.err().expect(expected);
                assert!(matches!(error, Error::Open { .. }), "{error}");
            }
        }
    }
}
