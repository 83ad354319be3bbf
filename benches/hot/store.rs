//! Rows: handed in, which a session does and never waits for, and written to the database, a batch at a time.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput};
use dmarcgate::metrics::Registry;
use dmarcgate::record::{FinalReply, Record};
use dmarcgate::store::{Settings, Store};
use dmarcgate::verdict::{conclude, records};
use tokio::time::sleep;

use crate::letters::{self, Letter};
use crate::world::World;

pub fn bench(criterion: &mut Criterion, world: &World) {
    let record = record(world);
    append(criterion, world, &record);
    write(criterion, world, &record);
}

/// Rows that are alike, so that the database has next to nothing to do and what is measured is what a session does.
fn append(criterion: &mut Criterion, world: &World, record: &Record) {
    // Each burst is waited for, but no longer than it takes.
    let store = Open::new(world, Settings { batch_delay: Duration::ZERO, ..world.config.store() });
    store.check(record);
    let mut group = criterion.benchmark_group("store");
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("append", |b| {
        b.iter_custom(|count| {
            let (mut left, mut took) = (count, Duration::ZERO);
            while left > 0 {
                let some = left.min(BURST);
                let rows = (0..some).map(|_| record.clone()).collect();
                took += store.append(rows);
                store.settle();
                left -= some;
            }
            took
        });
    });
    group.finish();
    store.close();
}

/// As many different rows as make a batch, so that none waits for others: from the first that is handed in until the
/// database has all of them.
fn write(criterion: &mut Criterion, world: &World, record: &Record) {
    let settings = world.config.store();
    let batch = settings.batch_rows as u128;
    let store = Open::new(world, settings);
    store.check(record);
    let mut group = criterion.benchmark_group("store");
    group.sampling_mode(SamplingMode::Flat).sample_size(20).throughput(Throughput::Elements(batch as u64));
    let mut clients = 0;
    for (name, step) in [("write known rows", 0), ("write new rows", batch)] {
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let mut took = Duration::ZERO;
                for _ in 0..count {
                    let clients_of_batch = clients..clients + batch;
                    let rows = clients_of_batch.map(|n| Record { source_ip: client(n), ..record.clone() }).collect();
                    clients += step;
                    let began = Instant::now();
                    store.append(rows);
                    store.settle();
                    took += began.elapsed();
                }
                took
            });
        });
    }
    group.finish();
    store.close();
}

/// A store with its metrics. Its writer has its turns while it is waited for.
struct Open<'a> {
    world: &'a World,
    store: Store,
    registry: Registry,
}

impl<'a> Open<'a> {
    fn new(world: &'a World, settings: Settings) -> Self {
        let registry = Registry::new();
        let store = world.run(Store::open(settings, &registry)).expect("a store");
        Self { world, store, registry }
    }

    /// How long handing in takes.
    fn append(&self, rows: Vec<Record>) -> Duration {
        let appender = self.store.appender();
        let began = Instant::now();
        rows.into_iter().for_each(|row| appender.append(row));
        began.elapsed()
    }

    /// Waits until nothing waits.
    fn settle(&self) {
        self.world.run(async {
            while self.value("dmarcgate_store_rows_pending") > 0.0 {
                sleep(POLL).await;
            }
        });
    }

    fn value(&self, name: &str) -> f64 {
        self.registry.samples().sum(name)
    }

    /// Hands one row in and sees it written.
    fn check(&self, record: &Record) {
        self.append(vec![record.clone()]);
        self.settle();
        assert_eq!(self.value(WRITTEN), 1.0);
    }

    /// Ends it; every row that was handed in must be in the database.
    fn close(self) {
        assert_eq!(self.value("dmarcgate_store_rows_appended_total"), self.value(WRITTEN), "rows were lost");
        self.world.run(self.store.close(Duration::from_secs(10)));
    }
}

/// The row of an honest message.
fn record(world: &World) -> Record {
    let letter = Letter::small();
    let (settings, envelope) = (world.config.verdict(), letter.envelope());
    let circumstances = settings.circumstances(&envelope, letters::now());
    let evaluation = world.evaluated(&world.take(&letter));
    let verdict = conclude(evaluation, &envelope, &circumstances, &settings, "7Z3K9Q0V5T8WX");
    let arrived = i64::try_from(letters::now()).expect("before the year 2^63");
    records(&verdict, letter.sender.ip, &envelope, FinalReply::Accepted, arrived).remove(0)
}

fn client(n: u128) -> IpAddr {
    Ipv6Addr::from((0x2001_0db8 << 96) + n).into()
}

/// Rows that are handed in at a time: fewer than may wait.
const BURST: u64 = 4096;
/// Between two looks at what waits.
const POLL: Duration = Duration::from_millis(1);
const WRITTEN: &str = "dmarcgate_store_rows_written_total";
