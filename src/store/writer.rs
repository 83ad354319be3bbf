//! The writer task: gathers items, adds them up by key, writes them in batches, and keeps them while it can't.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{AnyConnection, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant};
use tracing::{error, info, warn};

use crate::calendar::SECONDS_PER_DAY;
use crate::causes::Causes;
use crate::record::Record;
use crate::store::comparison::{self, Comparison, ComparisonRow};
use crate::store::row::{Key, Row};
use crate::store::{Error, Explanation, Item, Location, Loss, Metrics, Retention, Settings, database, statements};

/// Owns the write connection and all rows that wait for it. It goes on taking records while the database writes.
pub struct Writer {
    settings: Settings,
    database: Option<Database>,
    items: mpsc::Receiver<Item>,
    metrics: Metrics,
    waiting: Waiting,
    /// Octets of the batch that is being written.
    in_flight: usize,
    /// When what waits is written; none while nothing waits.
    due: Option<Instant>,
    /// When old explanations are deleted, though no room is needed.
    prune_at: Instant,
    /// Octets of explanations in the database, as far as it is known; with a shared one, others add to it.
    explained: u64,
    /// How long to wait after the next failure; none while the database works.
    retry: Option<Duration>,
    log: LogLimit,
}

/// The write connection and the file that it was opened on. A file that is removed or put in another's place (a
/// backup) would otherwise go on being written to where nobody finds it.
pub struct Database {
    connection: AnyConnection,
    file: Option<(u64, u64)>,
}

/// A batch on its way to the database.
type Writing = Pin<Box<dyn Future<Output = Written> + Send>>;

/// What came of it.
struct Written {
    database: Option<Database>,
    batch: Waiting,
    result: Result<(), Error>,
    /// The octets of explanations that are left, where some were to be deleted.
    pruned: Option<Result<u64, sqlx::Error>>,
    took: Duration,
}

/// Rows that wait, added up, with their number of messages and their octets.
#[derive(Default)]
struct Waiting {
    rows: BTreeMap<Key, Row>,
    messages: u64,
    memory: usize,
    explanations: Vec<Explanation>,
    /// Their octets.
    explained: usize,
    comparisons: BTreeMap<Key, ComparisonRow>,
    /// Their octets.
    compared: usize,
}

/// Lets one line through in ten seconds, so that a flood of one fault does not drown all else.
#[derive(Clone, Default)]
pub struct LogLimit(Arc<Mutex<Option<Instant>>>);

impl Writer {
    /// A writer with an open connection.
    pub fn new(settings: Settings, database: Database, items: mpsc::Receiver<Item>, metrics: Metrics) -> Self {
        Self {
            settings,
            database: Some(database),
            items,
            metrics,
            waiting: Waiting::default(),
            in_flight: 0,
            due: None,
            prune_at: Instant::now(),
            explained: 0,
            retry: None,
            log: LogLimit::default(),
        }
    }

    /// Runs until all appenders are gone or `stopped` is told, then writes what waits, however long that takes: who
    /// stops it has the deadline.
    pub async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        let mut stopping = false;
        let mut writing: Option<Writing> = None;
        loop {
            let due = self.due.unwrap_or(self.prune_at);
            let due = writing.is_none().then(|| if self.retry.is_none() { due.min(self.prune_at) } else { due });
            tokio::select! {
                written = finished(&mut writing), if writing.is_some() => {
                    writing = None;
                    self.settle(written);
                }
                () = time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    writing = Some(self.write());
                }
                // An error means that the store was dropped without being closed: the same.
                _ = &mut stopped, if !stopping => {
                    stopping = true;
                    self.items.close();
                }
                count = self.items.recv_many(&mut taken, TAKEN_AT_ONCE) => {
                    if count == 0 {
                        break;
                    }
                    for item in taken.drain(..) {
                        match item {
                            Item::Record(record) => self.take(*record),
                            Item::Explanation(explanation) => self.take_explanation(explanation),
                            Item::Comparison(comparison) => self.take_comparison(*comparison),
                        }
                    }
                }
            }
            if writing.is_none() && self.retry.is_none() && self.waiting.len() >= self.settings.batch_rows {
                writing = Some(self.write());
            }
        }
        self.drain(writing).await;
    }

    /// Writes what is left, again and again until all is written.
    async fn drain(mut self, mut writing: Option<Writing>) {
        loop {
            if let Some(writing) = writing.take() {
                self.settle(writing.await);
            }
            if self.waiting.len() == 0 {
                break;
            }
            if self.retry.is_some() {
                time::sleep(RETRY_WHILE_STOPPING).await;
            }
            writing = Some(self.write());
        }
        if let Some(database) = self.database.take() {
            // Everything is committed; closing only folds the log into the database.
            let _ = database.connection.close().await;
        }
    }

    /// Adds one record to what waits, or counts it as lost.
    fn take(&mut self, record: Record) {
        let room = self.settings.memory.saturating_sub(self.in_flight);
        if self.waiting.add(Row::new(record), room) {
            self.due.get_or_insert_with(|| Instant::now() + self.settings.batch_delay);
        } else {
            self.metrics.pending.dec();
            self.metrics.lost.inc(Loss::MemoryFull);
            if self.log.permits() {
                let rows = self.waiting.messages;
                error!(waiting = rows, "rows for reports are lost: the database takes none and the memory is full");
            }
        }
    }

    /// Adds an explanation to what waits, or counts it as lost.
    fn take_explanation(&mut self, explanation: Explanation) {
        if self.waiting.explain(explanation, self.settings.memory / 4) {
            self.due.get_or_insert_with(|| Instant::now() + self.settings.batch_delay);
        } else {
            self.metrics.explanations_lost.inc(Loss::MemoryFull);
        }
    }

    /// Adds a comparison to what waits, or counts it as lost.
    fn take_comparison(&mut self, comparison: Comparison) {
        if self.waiting.compare(ComparisonRow::new(comparison), self.settings.memory / 8) {
            self.due.get_or_insert_with(|| Instant::now() + self.settings.batch_delay);
        } else {
            self.metrics.comparisons_lost.inc(Loss::MemoryFull);
        }
    }

    /// Sends all that waits on its way; deletes explanations where it is time to.
    fn write(&mut self) -> Writing {
        let batch = mem::take(&mut self.waiting);
        let mut database = self.database.take();
        let location = self.settings.location.clone();
        let retention = self.settings.retention;
        let is_full = self.explained.saturating_add(batch.explained as u64) > retention.octets;
        let prunes = is_full || self.prune_at <= Instant::now();
        self.in_flight = batch.memory;
        self.due = None;
        Box::pin(async move {
            let begun = Instant::now();
            let result = try_write(&mut database, &location, &batch).await;
            let took = begun.elapsed();
            let pruned = match &mut database {
                Some(database) if prunes && result.is_ok() => Some(prune(database, retention).await),
                _ => None,
            };
            Written { database, batch, result, pruned, took }
        })
    }

    /// Counts what was written, or plans the next attempt.
    fn settle(&mut self, written: Written) {
        let Written { database, batch, result, pruned, took } = written;
        self.in_flight = 0;
        match result {
            Ok(()) => {
                self.database = database;
                self.metrics.written.inc_by(batch.messages);
                self.metrics.explanations_written.inc_by(batch.explanations.len() as u64);
                self.explained = self.explained.saturating_add(batch.explained as u64);
                self.metrics.pending.sub(i64::try_from(batch.messages).unwrap_or(i64::MAX));
                if batch.len() > 0 {
                    self.metrics.batch_seconds.observe(took.as_secs_f64());
                }
                self.metrics.up.set(1);
                if self.retry.take().is_some() {
                    info!(rows = batch.messages, "the database takes rows again");
                }
                self.settle_pruning(pruned);
            }
            Err(fault) => {
                // The connection is dropped: after a failed statement it is in no known state.
                self.waiting.put_back(batch);
                self.metrics.failed_batches.inc();
                self.metrics.up.set(0);
                let pause = self.retry.unwrap_or(FIRST_RETRY);
                self.retry = Some((pause * 2).min(LAST_RETRY));
                self.due = Some(Instant::now() + pause);
                let (error, waiting) = (Causes(&fault), self.waiting.messages);
                error!(%error, waiting, "the database does not take rows; mail is not affected, the rows wait");
            }
        }
    }
}

impl Writer {
    fn settle_pruning(&mut self, pruned: Option<Result<u64, sqlx::Error>>) {
        match &pruned {
            Some(Ok(left)) => self.explained = *left,
            Some(Err(fault)) => {
                self.database = None;
                let error = Causes(fault);
                warn!(%error, "old explanations can't be deleted from the database; they will be, with a later batch");
            }
            None => {}
        }
        if pruned.is_some() {
            self.prune_at = Instant::now() + PRUNING_INTERVAL;
        }
        self.metrics.explanations_size.set(i64::try_from(self.explained).unwrap_or(i64::MAX));
    }
}

impl Database {
    /// Opens the database for writing.
    ///
    /// # Errors
    ///
    /// See [`database::open`].
    pub async fn open(location: &Location) -> Result<Self, Error> {
        let connection = database::open(location).await?;
        Ok(Self { connection, file: database::file_identity(location) })
    }
}

async fn try_write(database: &mut Option<Database>, location: &Location, batch: &Waiting) -> Result<(), Error> {
    let database = match database {
        Some(database) if database.file == database::file_identity(location) => database,
        other => other.insert(Database::open(location).await?),
    };
    let Waiting { rows, comparisons, explanations, .. } = batch;
    Ok(statements::write(&mut database.connection, rows, comparisons, explanations).await?)
}

/// Deletes what is too old or too much.
async fn prune(database: &mut Database, retention: Retention) -> Result<u64, sqlx::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = |keep| i64::try_from(now.saturating_sub(keep).as_secs()).unwrap_or(i64::MAX);
    let first = before(retention.comparisons).div_euclid(SECONDS_PER_DAY);
    comparison::prune(&mut database.connection, first, MAX_COMPARISONS).await?;
    let before = before(retention.keep);
    statements::prune(&mut database.connection, before, retention.octets).await
}

/// Waits for the batch that is being written; for ever if there is none.
async fn finished(writing: &mut Option<Writing>) -> Written {
    match writing {
        Some(writing) => writing.await,
        None => future::pending().await,
    }
}

impl Waiting {
    /// Adds a row, if its like waits or the memory has room.
    fn add(&mut self, row: Row, limit: usize) -> bool {
        let memory = row.memory();
        match self.rows.entry(row.key()) {
            Entry::Occupied(mut like) => like.get_mut().add(&row),
            Entry::Vacant(_) if self.memory + memory > limit => return false,
            Entry::Vacant(place) => {
                place.insert(row);
                self.memory += memory;
            }
        }
        self.messages += 1;
        true
    }

    /// Adds an explanation, if those that wait leave room for it.
    fn explain(&mut self, explanation: Explanation, limit: usize) -> bool {
        let octets = explanation.body.len();
        if self.explained + octets > limit {
            return false;
        }
        self.explained += octets;
        self.explanations.push(explanation);
        true
    }

    /// Adds a comparison, if its like waits or those that wait leave room for it.
    fn compare(&mut self, row: ComparisonRow, limit: usize) -> bool {
        let memory = row.memory();
        match self.comparisons.entry(row.key()) {
            Entry::Occupied(mut like) => like.get_mut().count = like.get().count.saturating_add(row.count),
            Entry::Vacant(_) if self.compared + memory > limit => return false,
            Entry::Vacant(place) => {
                place.insert(row);
                self.compared += memory;
            }
        }
        true
    }

    /// Rows, comparisons and explanations.
    fn len(&self) -> usize {
        self.rows.len() + self.comparisons.len() + self.explanations.len()
    }

    /// Takes back a batch that could not be written; its memory was reserved.
    fn put_back(&mut self, batch: Self) {
        self.messages += batch.messages;
        self.explained += batch.explained;
        self.explanations.extend(batch.explanations);
        for row in batch.comparisons.into_values() {
            self.compare(row, usize::MAX);
        }
        for (key, row) in batch.rows {
            match self.rows.entry(key) {
                Entry::Occupied(mut like) => like.get_mut().add(&row),
                Entry::Vacant(place) => {
                    self.memory += row.memory();
                    place.insert(row);
                }
            }
        }
    }
}

impl LogLimit {
    /// Whether a line may be written now.
    pub fn permits(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let permits = last.is_none_or(|last| now - last >= LOG_INTERVAL);
        if permits {
            *last = Some(now);
        }
        permits
    }
}

/// Records taken from the queue in one go.
const TAKEN_AT_ONCE: usize = 256;
/// The pause after the first failure; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Rows of comparisons that are kept at most, whoever invents author domains: some hundred megabytes. The oldest go first.
const MAX_COMPARISONS: i64 = 500_000;
/// How often explanations are deleted for their age, and their size is summed up anew.
const PRUNING_INTERVAL: Duration = Duration::from_secs(600);
/// The pause between attempts when the gate stops and there is no time for more.
const RETRY_WHILE_STOPPING: Duration = Duration::from_millis(200);
/// The interval of lines about one fault.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
