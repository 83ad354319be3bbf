//! Keeps the rows that reports are made of, and explanations of single messages, without ever holding up mail.
//!
//! [`Store::open`] starts one writer task, which owns the write connection behind a bounded queue. [`Appender::append`]
//! never waits and never fails: a record that can't be kept is counted as lost and logged. Rows that a report would not
//! tell apart add up, in memory and in the table. What was appended more than a second ago survives the death of the
//! process. While the database does not take rows, they wait in a bounded file, which outlives the process, too, and
//! where that can't be or is full, in a bounded memory; beyond that they are lost and counted. A batch of which nobody
//! knows whether the database took it is offered again under the same stamp, and taken once. What the database refuses
//! for its values is lost and counted, too, so that it holds up nothing. Explanations go the same way, with a small
//! share of the memory and without the file. All is deleted after some days, and the oldest earlier where it takes more
//! room than it may. Comparisons, of how messages came out with what a shadow policy would have done, go with the rows.
//!
//! One set of statements serves SQLite and PostgreSQL, through sqlx's `Any`. Whoever adds a table:
//!
//! - writes `NNNN_name.sql` under `migrations/sqlite` and under `migrations/postgres`, which differ in BLOB and BYTEA
//!   and in `COLLATE "C"` alone (for texts that are compared or sorted), and names it in `database::MIGRATIONS`.
//!   Numbers go up by one; the one merged second takes the next number. There are BIGINT, TEXT and BLOB and no NULL;
//!   times are seconds since the epoch, days are days since it, keys are made by us (a hash, a text), not by the
//!   database;
//! - puts its statements into a file of its own here, beside its value types: `$n` parameters; `ON CONFLICT (key) DO
//!   UPDATE SET n = t.n + excluded.n`; `CAST(SUM(..) AS BIGINT)`; a claim is one conditional `UPDATE .. RETURNING` with
//!   a lease. No `QueryBuilder`, no `query!`, no function that one of them lacks (such as MAX of two values).
//!   PostgreSQL takes no NUL octet in a text, and one row twice in one upsert is an error: what comes together is added
//!   up before, and written in the order of its keys (`upsert`), so that two gates don't wait for each other;
//! - lets what comes with mail go through the writer (an `Item`, as rows and explanations do), and writes all else
//!   (states of reports, suppressions) in short transactions (`database::begin`) over a connection of its own
//!   (`database::open`; for reading `database::open_read_only`), wherever waiting for it does not hold up mail;
//! - tests it over both, with `testing::on_both!`.

mod batch;
mod clock;
pub mod comparison;
mod database;
mod flows;
pub mod inbound;
pub mod jobs;
mod location;
pub mod overview;
mod retention;
mod row;
mod spill;
mod statements;
mod upsert;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time;
use tracing::error;

use crate::forwarders::Observation;
use crate::label_enum;
use crate::metrics::{Family, Histogram, IntCounter, IntGauge, Registry};
use crate::record::{Record, ReportDisposition};
use crate::store::comparison::{Comparison, Comparisons};
pub use crate::store::database::in_time;
pub use crate::store::location::{Location, LocationError, Postgres};
pub use crate::store::row::{Part, Periods, SETTLING};
pub use crate::store::spill::Settings as SpillSettings;
use crate::store::writer::{LOG_INTERVAL, Opened, Writer};
use crate::throttle::Throttle;

/// What the operator sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Which database.
    pub location: Location,
    /// How long a row waits for others before it is written; with the write itself it has to stay below a second.
    pub batch_delay: Duration,
    /// Different rows that are written at once, without waiting longer.
    pub batch_rows: usize,
    /// Records that may wait for the writer task.
    pub queue: usize,
    /// Octets of rows that may wait for the database; a quarter as many of explanations.
    pub memory: usize,
    /// Where rows wait while the database takes none; none: in memory alone.
    pub spill: Option<SpillSettings>,
    /// What is kept.
    pub retention: Retention,
    /// Which periods rows are added up over.
    pub periods: Periods,
}

/// How long and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long an explanation is kept.
    pub keep: Duration,
    /// Octets of explanations in the database; the oldest go first.
    pub octets: u64,
    /// How long comparisons are kept.
    pub comparisons: Duration,
    /// How long a row is kept, beyond the last two days, which stay.
    pub keep_rows: Duration,
    /// Octets of all else in the database; the oldest rows go first. None: no bound.
    pub size: Option<u64>,
    /// Octets of all else beyond which no more rows are taken, since those of the last two days stay. None: no bound.
    pub most: Option<u64>,
}

/// What is kept about one message, opaque to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The id under which it is found; a message's, hence unique.
    pub id: Box<str>,
    /// Seconds since the epoch.
    pub arrived: i64,
    /// What there is to tell.
    pub body: Box<[u8]>,
}

/// Why the store can't be opened or read; for the operator to fix.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no database, or can't be opened; the server does not answer or does not let us in.
    #[error("{location} can't be opened as a database")]
    Open {
        /// Which one.
        location: Location,
        /// Why.
        source: sqlx::Error,
    },
    /// The directory or the file can't be made.
    #[error("{path} can't be made", path = path.display())]
    Path {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database doesn't answer as it should.
    #[error("the database can't be used")]
    Read(#[from] sqlx::Error),
    /// The schema can't be brought up to date; that of a later version is not touched.
    #[error("{location} has a schema that this version can't use")]
    Schema {
        /// Which one.
        location: Location,
        /// Why.
        source: sqlx::migrate::MigrateError,
    },
}

label_enum! {
    /// Why rows were lost.
    pub enum Loss {
        /// The database did not take rows for so long that file and memory for waiting ones were full.
        MemoryFull = "memory_full",
        /// The writer task did not come round to taking them.
        QueueFull = "queue_full",
        /// The gate stopped before they were written.
        Stopped = "stopped",
        /// The spill file did not give them back.
        SpillUnreadable = "spill_unreadable",
        /// The database refused them for what they are: they would have held up all behind them.
        Refused = "refused",
        /// The database has all that it may hold, and nothing in it is old enough to go.
        StoreFull = "store_full",
    }
}

/// Messages of one day under one policy domain that were treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryLine {
    /// Days since the epoch, UTC.
    pub day: i64,
    /// The policy domain; empty where no policy applied.
    pub policy_domain: String,
    /// What was done.
    pub disposition: ReportDisposition,
    /// How many.
    pub messages: i64,
}

/// The running store: owns the writer task.
pub struct Store {
    appender: Appender,
    behind: watch::Receiver<bool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Where records are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    queue: mpsc::Sender<Item>,
    metrics: Metrics,
    log: Arc<Throttle>,
}

/// What is handed in.
enum Item {
    Record(Box<Record>),
    Explanation(Explanation),
    Comparison(Box<Comparison>),
}

/// Reads the rows, beside a running gate or without one.
pub struct Reader {
    location: Location,
}

/// How the store fares.
#[derive(Clone)]
struct Metrics {
    appended: IntCounter,
    written: IntCounter,
    late: IntCounter,
    lost: Family<Loss>,
    pending: IntGauge,
    memory: IntGauge,
    memory_limit: IntGauge,
    spill_limit: IntGauge,
    size_limit: IntGauge,
    spilled: IntCounter,
    spill_rows: IntGauge,
    spill_size: IntGauge,
    pruned: IntCounter,
    rows: IntGauge,
    size: IntGauge,
    explanations_written: IntCounter,
    explanations_lost: Family<Loss>,
    explanations_size: IntGauge,
    comparisons_lost: Family<Loss>,
    failed_batches: IntCounter,
    batch_seconds: Histogram,
    up: IntGauge,
}

impl Store {
    /// Opens the database, makes it if it isn't there, and starts the writer task on the current runtime.
    ///
    /// # Errors
    ///
    /// The operator's: see [`Error`]. A database that breaks later, or a server that does not answer yet, is no error:
    /// rows wait, then are lost.
    pub async fn open(settings: Settings, registry: &Registry) -> Result<Self, Error> {
        let opened = Opened::open(&settings).await?;
        let metrics = Metrics::register(registry);
        let (queue, records) = mpsc::channel(settings.queue.max(1));
        let (stop, stopped) = oneshot::channel();
        let appender = Appender { queue, metrics: metrics.clone(), log: Arc::new(Throttle::new(LOG_INTERVAL)) };
        let writer = Writer::new(settings, opened, records, metrics);
        let behind = writer.behind();
        Ok(Self { appender, behind, stop, task: tokio::spawn(writer.run(stopped)) })
    }

    /// A handle for those who have records.
    pub fn appender(&self) -> Appender {
        self.appender.clone()
    }

    /// Whether rows of this gate are late: the database does not take them, or has yet to take those from when it did
    /// not.
    pub fn behind(&self) -> watch::Receiver<bool> {
        self.behind.clone()
    }

    /// Writes what waits, to the spill file if the database doesn't take it, and stops the writer task, in at most
    /// `deadline`; what is in neither by then is lost.
    pub async fn close(self, deadline: Duration) {
        let Self { appender, stop, mut task, .. } = self;
        // Fails only if the task has ended by itself; then there is nothing to wait for either.
        let _ = stop.send(());
        if time::timeout(deadline, &mut task).await.is_err() {
            task.abort();
        }
        let Metrics { lost, pending, .. } = &appender.metrics;
        let rows = pending.get();
        if rows > 0 {
            lost.of(Loss::Stopped).inc_by(rows.unsigned_abs());
            error!(rows, "rows were lost: the store could not write them before the gate stopped");
        }
    }
}

impl Appender {
    /// Hands in a record; never waits. What can't be kept is counted and logged.
    pub fn append(&self, record: Record) {
        self.metrics.appended.inc();
        self.metrics.pending.inc();
        let reason = match self.queue.try_send(Item::Record(Box::new(record))) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => Loss::QueueFull,
            Err(mpsc::error::TrySendError::Closed(_)) => Loss::Stopped,
        };
        self.metrics.pending.dec();
        self.metrics.lost.inc(reason);
        if self.log.permits(Instant::now()).is_some() {
            error!(%reason, "rows for reports are lost: the store can't keep up; dmarcgate_store_rows_lost_total counts");
        }
    }

    /// Hands in the explanation of a message; never waits. What can't be kept is counted: it is worth less than a row,
    /// and a flood of forgeries has one for each message.
    pub fn explain(&self, explanation: Explanation) {
        let reason = match self.queue.try_send(Item::Explanation(explanation)) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => Loss::QueueFull,
            Err(mpsc::error::TrySendError::Closed(_)) => Loss::Stopped,
        };
        self.metrics.explanations_lost.inc(reason);
    }

    /// Hands in how a message came out; never waits. What can't be kept is counted.
    pub fn compare(&self, comparison: Comparison) {
        let reason = match self.queue.try_send(Item::Comparison(Box::new(comparison))) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(_)) => Loss::QueueFull,
            Err(mpsc::error::TrySendError::Closed(_)) => Loss::Stopped,
        };
        self.metrics.comparisons_lost.inc(reason);
    }
}

impl Reader {
    /// A reader of the database at `location`; it is opened for each question.
    pub fn new(location: Location) -> Self {
        Self { location }
    }

    /// The messages of the UTC days that `since` to `until` touch (seconds since the epoch, both included), by day,
    /// policy domain and disposition, in this order.
    ///
    /// # Errors
    ///
    /// See [`Error`]; there is no database before the gate's first start.
    pub async fn summary(&self, since: i64, until: i64) -> Result<Vec<SummaryLine>, Error> {
        let day = |seconds: i64| seconds.div_euclid(crate::calendar::SECONDS_PER_DAY);
        let mut connection = database::open_read_only(&self.location).await?;
        let lines = statements::summary(&mut connection, day(since), day(until)).await?;
        // The answer is complete; an error while closing changes nothing about it.
        let _ = sqlx::Connection::close(connection).await;
        Ok(lines)
    }

    /// How messages came out on the UTC days that `since` to `until` touch (seconds since the epoch, both included),
    /// with at most `most` names of each kind.
    ///
    /// # Errors
    ///
    /// See [`Error`]; there is no database before the gate's first start.
    pub async fn comparisons(&self, since: i64, until: i64, most: i64) -> Result<Comparisons, Error> {
        let day = |seconds: i64| seconds.div_euclid(crate::calendar::SECONDS_PER_DAY);
        let mut connection = database::open_read_only(&self.location).await?;
        let found = comparison::read(&mut connection, day(since), day(until), most).await?;
        let _ = sqlx::Connection::close(connection).await;
        Ok(found)
    }

    /// The rows of the UTC days from that of `since` on (seconds since the epoch), one after the other, as
    /// [`crate::forwarders`] looks at them.
    ///
    /// # Errors
    ///
    /// See [`Error`]; there is no database before the gate's first start.
    pub async fn observe(&self, since: i64, take: impl FnMut(&Observation)) -> Result<(), Error> {
        let first = since.div_euclid(crate::calendar::SECONDS_PER_DAY);
        let mut connection = database::open_read_only(&self.location).await?;
        flows::observe(&mut connection, first, take).await?;
        let _ = sqlx::Connection::close(connection).await;
        Ok(())
    }

    /// What is kept under `id`, if anything is.
    ///
    /// # Errors
    ///
    /// See [`Error`]; there is no database before the gate's first start.
    pub async fn explanation(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut connection = database::open_read_only(&self.location).await?;
        let body = statements::explanation(&mut connection, id).await?;
        let _ = sqlx::Connection::close(connection).await;
        Ok(body)
    }
}

impl Error {
    /// Whether it may pass by itself, without a change to the gate: a server that is away, starts or has no place for
    /// us.
    fn may_pass(&self) -> bool {
        let Self::Open { location: Location::Postgres(_), source } = self else { return false };
        match source {
            sqlx::Error::Io(_) => true,
            // Insufficient resources, and what an operator of the server does.
            sqlx::Error::Database(error) => {
                error.code().is_some_and(|code| code.starts_with("53") || code.starts_with("57"))
            }
            _ => false,
        }
    }
}

impl Settings {
    /// The settings for a database, with defaults for everything else.
    pub fn new(location: Location) -> Self {
        Self {
            location,
            batch_delay: Duration::from_millis(300),
            batch_rows: 1000,
            queue: 8192,
            memory: 64 * 1024 * 1024,
            spill: None,
            retention: Retention::default(),
            periods: Periods::Days,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        let (keep_rows, size) = (days(60), Some(4 << 30));
        let most = size.map(Self::most);
        Self { keep: days(7), octets: 256 << 20, comparisons: days(35), keep_rows, size, most }
    }
}

impl Retention {
    /// Beyond which no more rows are taken where the oldest go beyond `size`: a quarter more, and at least 16 MiB, so
    /// that a busy day has room that is only a little over.
    pub fn most(size: u64) -> u64 {
        size.saturating_add((size / 4).max(16 << 20))
    }
}

impl Metrics {
    fn register(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| registry.counter(&format!("dmarcgate_store_{name}_total"), help);
        let lost = "dmarcgate_store_rows_lost_total";
        let up = registry.gauge("dmarcgate_store_up", "Whether the last batch was written: 1 or 0.");
        up.set(1);
        Self {
            appended: counter("rows_appended", "Rows handed to the store, one for each evaluated author domain."),
            written: counter("rows_written", "Rows that the database has taken."),
            late: counter(
                "rows_late",
                "Rows that the database has taken when the reports of their period were due: they may be in none.",
            ),
            lost: registry.family(lost, "Rows that will be in no report.", "reason"),
            pending: registry.gauge("dmarcgate_store_rows_pending", "Rows that wait for the database."),
            memory: registry.gauge("dmarcgate_store_memory_bytes", "Octets of the rows that wait in memory."),
            memory_limit: registry.gauge("dmarcgate_store_memory_limit_bytes", "Octets that they may take."),
            spill_limit: registry.gauge(
                "dmarcgate_store_spill_limit_bytes",
                "Octets that the spill file may have: store.spill; 0 without one, or while another gate has it.",
            ),
            size_limit: registry.gauge(
                "dmarcgate_store_limit_bytes",
                "Octets of the database beyond which the oldest rows are deleted: store.size; 0 without a bound.",
            ),
            spilled: counter("rows_spilled", "Rows that went to the spill file, since the database took none."),
            spill_rows: registry.gauge("dmarcgate_store_spill_rows", "Rows in the spill file."),
            spill_size: registry.gauge("dmarcgate_store_spill_bytes", "Octets of the spill file."),
            pruned: counter(
                "rows_pruned",
                "Different rows that were deleted for their age, or for the database's size.",
            ),
            rows: registry.gauge("dmarcgate_store_rows", "Different rows in the database, counted every ten minutes."),
            size: registry
                .gauge("dmarcgate_store_bytes", "Octets of the database in use, looked up every ten minutes."),
            explanations_written: counter(
                "explanations_written",
                "Explanations of messages that the database has taken.",
            ),
            explanations_lost: registry.family(
                "dmarcgate_store_explanations_lost_total",
                "Explanations that `dmarcgate explain` will not find.",
                "reason",
            ),
            explanations_size: registry.gauge("dmarcgate_store_explanations_bytes", "Explanations in the database."),
            comparisons_lost: registry.family(
                "dmarcgate_store_comparisons_lost_total",
                "Messages that `dmarcgate reports shadow` will not count.",
                "reason",
            ),
            failed_batches: counter("failed_batches", "Batches that the database did not take; their rows wait."),
            batch_seconds: registry.histogram(
                "dmarcgate_store_batch_seconds",
                "Time that the database took for a batch that it accepted.",
                BATCH_BUCKETS,
            ),
            up,
        }
    }
}

/// A batch takes a millisecond on a good disk; beyond half a second the promise of one lost second at most is broken.
const BATCH_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod outage_tests;
#[cfg(test)]
mod tests;
