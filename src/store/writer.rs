//! The writer task: gathers items, adds them up by key, writes them in batches, and keeps them while it can't.
//!
//! It does one job at a time beside taking items: a batch to the database, a batch to the spill file, a batch from
//! there to the database, or a step of pruning. Batches reach the database in the order of their stamps: those of the
//! spill file first, then the one that is held, then what waits; so while there is something in the file, all else goes
//! behind it.

use std::future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{AnyConnection, Connection};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinHandle, JoinSet};
use tokio::time::{self, Instant};
use tracing::{debug, error, info, warn};

use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::record::Record;
use crate::store::batch::{Batch, Stamp, Waiting, WriterId};
use crate::store::clock::Clock;
use crate::store::comparison::{Comparison, ComparisonRow};
use crate::store::retention::{self, Pruned};
use crate::store::row::Row;
use crate::store::spill::{self, Spill};
use crate::store::statements::Refused;
use crate::store::{Error, Explanation, Item, Location, Loss, Metrics, Retention, Settings, database, statements};
use crate::throttle::Throttle;

/// Owns the write connection and all rows that wait for it. It goes on taking records while the database writes.
pub struct Writer {
    settings: Settings,
    items: mpsc::Receiver<Item>,
    metrics: Metrics,
    /// None while a job has it, and after a failure.
    database: Option<Database>,
    /// How long it may take to open the database; no bound before the first time, which may change the schema.
    opening: Option<Duration>,
    spill: Option<SharedSpill>,
    /// Opens the spill file, where it could not be opened before.
    opening_spill: Option<JoinHandle<io::Result<Spill>>>,
    in_spill: InSpill,
    waiting: Waiting,
    /// Since when rows or comparisons wait.
    rows_since: Option<Instant>,
    /// Since when explanations wait. They never go to the spill file, so that they must not make rows due for it.
    explanations_since: Option<Instant>,
    /// A batch that has its stamp and is neither in the database nor in the spill file, as far as we know.
    held: Option<Arc<Batch>>,
    writer: WriterId,
    sequence: i64,
    /// How the database is waited for after a failure; none while it works.
    retry: Option<Retry>,
    /// Before this the spill file takes nothing, since it was full or broken, or is not opened again.
    spill_again: Instant,
    /// When pruning begins anew, or goes on.
    prune_at: Instant,
    /// Octets of explanations in the database, as far as it is known; with a shared one, others add to it.
    explained: u64,
    /// Octets of all else in the database when it was last looked up.
    stored: u64,
    /// Octets of rows written since.
    grown: u64,
    /// Whether there is more in the database than it may hold: then rows are lost.
    is_full: bool,
    /// Whether rows are late: see [`Store::behind`](crate::store::Store::behind).
    behind: watch::Sender<bool>,
    /// Counts the rows; ends with the writer.
    counting: JoinSet<()>,
    log: Throttle,
}

/// The write connection and the file that it was opened on. Without the latter, a file that was removed or replaced (by
/// a backup) would be written to where nobody finds it.
pub struct Database {
    connection: AnyConnection,
    file: Option<(u64, u64)>,
    clock: DatabaseClock,
}

/// The clock by which what is old is deleted.
enum DatabaseClock {
    /// Ours; what was stored last is not known yet.
    Unread,
    /// Ours, as far as it is believed.
    Ours(Clock),
    /// The server's.
    Server,
}

/// Locked by one job at a time, on a thread that may block.
type SharedSpill = Arc<Mutex<Spill>>;

/// What is in the spill file, as far as the writer knows: while a job has the file nobody can look, and the disk may hold
/// it up for as long as it likes.
#[derive(Debug, Clone, Copy, Default)]
struct InSpill {
    messages: u64,
    /// Octets of the file; 0 where every batch was taken out.
    octets: u64,
}

/// When the database is tried again, and how long after that.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    pause: Duration,
}

/// One thing that the writer does beside taking items.
struct Job {
    needs: Needs,
    done: Pin<Box<dyn Future<Output = Done> + Send>>,
}

/// Whose answer a job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Database,
    SpillFile,
    Both,
}

/// What came of it.
enum Done {
    /// A batch went to the database, or failed to.
    Wrote { database: Option<Database>, wrote: Wrote, result: Result<Refused, Error> },
    /// The batch that is held went to the spill file, or failed to.
    Spilled(Result<(), spill::Fault>),
    /// The spill file was opened, or could not be.
    Opened(io::Result<Spill>),
    /// A step of pruning.
    Pruned { database: Option<Database>, result: Result<Pruned, sqlx::Error> },
}

/// What was to be written.
struct Wrote {
    batch: Option<Arc<Batch>>,
    source: Source,
    /// Messages that the spill file could not give back.
    unreadable: u64,
    explanations: Vec<Explanation>,
    /// Their octets.
    explained: usize,
    took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Memory,
    Spill,
}

/// How much the gate is in a hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Normal,
    /// It stops: nothing waits for others, and what the database doesn't take at once goes to the spill file.
    Stopping,
}

impl Writer {
    /// A writer with an open connection, or one that has yet to be opened.
    pub fn new(settings: Settings, opened: Opened, items: mpsc::Receiver<Item>, metrics: Metrics) -> Self {
        let Opened { database, spill } = opened;
        let now = Instant::now();
        let opening = database.is_some().then_some(ATTEMPT);
        let retry = database.is_none().then_some(Retry { at: now + FIRST_RETRY, pause: FIRST_RETRY });
        metrics.up.set(i64::from(retry.is_none()));
        let is_behind = retry.is_some() || spill.as_ref().is_some_and(|spill| !spill.is_empty());
        let limits = [
            (&metrics.memory_limit, settings.memory as u64),
            (&metrics.spill_limit, spill.as_ref().map_or(0, Spill::limit)),
            (&metrics.size_limit, settings.retention.size.unwrap_or(0)),
        ];
        limits.into_iter().for_each(|(gauge, octets)| gauge.set(i64::try_from(octets).unwrap_or(i64::MAX)));
        Self {
            settings,
            items,
            metrics,
            database,
            opening,
            spill: spill.map(|spill| Arc::new(Mutex::new(spill))),
            opening_spill: None,
            in_spill: InSpill::default(),
            waiting: Waiting::default(),
            rows_since: None,
            explanations_since: None,
            held: None,
            writer: rand::random(),
            sequence: 0,
            retry,
            spill_again: now,
            prune_at: now,
            explained: 0,
            stored: 0,
            grown: 0,
            is_full: false,
            behind: watch::Sender::new(is_behind),
            counting: JoinSet::new(),
            log: Throttle::new(LOG_INTERVAL),
        }
    }

    /// Whether a line may be written now.
    fn may_log(&self) -> bool {
        self.log.permits(Instant::now().into_std()).is_some()
    }

    /// Whether rows are late, now and later.
    pub fn behind(&self) -> watch::Receiver<bool> {
        self.behind.subscribe()
    }

    /// Runs until all appenders are gone or `stopped` is told, then writes what waits, to the database or the spill
    /// file, however long that takes: the caller has the deadline.
    pub async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        let mut stopping = false;
        let mut working: Option<Job> = None;
        self.tell_spill();
        loop {
            let now = Instant::now();
            if working.is_none() {
                working = self.next_job(now, Pace::Normal);
            }
            let wake = if working.is_none() { self.next_wake(now) } else { None };
            tokio::select! {
                done = finished(&mut working), if working.is_some() => {
                    working = None;
                    self.settle(done);
                    self.tell_memory();
                }
                () = time::sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
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
                    self.tell_memory();
                }
            }
        }
        self.drain(working).await;
    }

    /// Writes what is left, again and again until all is in the database or the spill file.
    async fn drain(mut self, mut working: Option<Job>) {
        loop {
            match working.take() {
                // If there is a spill file, no batch waits long for a database that says nothing, nor for a disk.
                Some(Job { needs, done }) if self.spill.is_some() => {
                    match time::timeout(STOPPING_ATTEMPT, done).await {
                        Ok(done) => self.settle(done),
                        Err(_) => self.give_up(needs),
                    }
                }
                Some(job) => {
                    let done = job.done.await;
                    self.settle(done);
                }
                None if self.retry.is_some() => time::sleep(RETRY_WHILE_STOPPING).await,
                None => {}
            }
            let rows_left = self.held.is_some() || self.waiting.has_rows();
            if !rows_left && (self.waiting.len() == 0 || self.retry.is_some()) {
                break;
            }
            if let Some(retry) = &mut self.retry {
                retry.at = retry.at.min(Instant::now() + RETRY_WHILE_STOPPING);
            }
            working = self.next_job(Instant::now(), Pace::Stopping);
            // What waits makes a job, unless the database is waited for: else this would go round and round.
            if working.is_none() && self.retry.is_none() {
                break;
            }
        }
        let lost = self.waiting.explanations.len();
        self.metrics.explanations_lost.of(Loss::Stopped).inc_by(lost as u64);
        // A reading connection would keep the log from being checkpointed.
        self.counting.shutdown().await;
        if let Some(database) = self.database.take() {
            // Everything is committed; closing only checkpoints the log.
            let _ = database.connection.close().await;
        }
    }

    /// Adds one record to what waits, or counts it as lost.
    fn take(&mut self, record: Record) {
        if self.is_full {
            self.metrics.pending.dec();
            self.metrics.lost.inc(Loss::StoreFull);
            if self.may_log() {
                let (stored, most) = (self.stored, self.settings.retention.most);
                error!(
                    stored,
                    most, "rows for reports are lost: the database has all that store.size allows, and more"
                );
            }
            return;
        }
        let held = self.held.as_ref().map_or(0, |batch| batch.memory);
        if self.waiting.add(Row::new(record, self.settings.periods), self.settings.memory.saturating_sub(held)) {
            self.rows_since.get_or_insert_with(Instant::now);
        } else {
            self.metrics.pending.dec();
            self.metrics.lost.inc(Loss::MemoryFull);
            if self.may_log() {
                let rows = self.waiting.messages;
                error!(waiting = rows, "rows for reports are lost: the database takes none and all room is full");
            }
        }
    }

    /// Adds an explanation to what waits, or counts it as lost.
    fn take_explanation(&mut self, explanation: Explanation) {
        if self.waiting.explain(explanation, self.settings.memory / 4) {
            self.explanations_since.get_or_insert_with(Instant::now);
        } else {
            self.metrics.explanations_lost.inc(Loss::MemoryFull);
        }
    }

    /// Adds a comparison to what waits, or counts it as lost.
    fn take_comparison(&mut self, comparison: Comparison) {
        let held = self.held.as_ref().map_or(0, |batch| batch.compared);
        let room = (self.settings.memory / 8).saturating_sub(held);
        if self.waiting.compare(ComparisonRow::new(comparison), room) {
            self.rows_since.get_or_insert_with(Instant::now);
        } else {
            self.metrics.comparisons_lost.inc(Loss::MemoryFull);
        }
    }
}

/// Which job is next, and when.
impl Writer {
    fn next_job(&mut self, now: Instant, pace: Pace) -> Option<Job> {
        let is_spilled = self.in_spill.octets > 0;
        let is_behind = is_spilled || self.retry.is_some();
        let is_hasty = pace == Pace::Stopping && self.waiting.len() > 0;
        let is_past = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let are_rows_due = self.held.is_some() || (is_hasty && self.waiting.has_rows()) || is_past(self.rows_due());
        if is_behind && are_rows_due && self.may_spill(now) {
            return self.spill_job();
        }
        if self.spill.is_none() && self.spill_again <= now && pace == Pace::Normal {
            // Another gate that had it may have ended: that from which this one takes over.
            if let Some(job) = self.open_spill(now) {
                return Some(job);
            }
        }
        if self.retry.is_some_and(|retry| retry.at > now) {
            return None;
        }
        if is_spilled {
            return Some(self.unspill_job());
        }
        let is_due = are_rows_due || is_hasty || is_past(self.explanations_due());
        if is_due || self.retry.is_some() || self.waiting.len() >= self.settings.batch_rows {
            return Some(self.database_job());
        }
        (self.prune_at <= now && pace == Pace::Normal).then(|| self.prune())
    }

    /// Opens the spill file beside all jobs, since a large one takes long to read and a disk may hang; a job once that
    /// has come to its end.
    fn open_spill(&mut self, now: Instant) -> Option<Job> {
        match self.opening_spill.take() {
            Some(ended) if ended.is_finished() => {
                let opened = async move { ended.await.unwrap_or_else(|fault| Err(io::Error::other(fault))) };
                return Some(Job::new(Needs::SpillFile, async { Done::Opened(opened.await) }));
            }
            Some(open) => self.opening_spill = Some(open),
            None => {
                let wanted = self.settings.spill.clone()?;
                self.opening_spill = Some(task::spawn_blocking(move || Spill::open(&wanted)));
            }
        }
        self.spill_again = now + LOOK_AT_OPENING;
        None
    }

    /// When there may be a job next, if nothing comes in: strictly later than `now`.
    fn next_wake(&self, now: Instant) -> Option<Instant> {
        let retry = self.retry.map(|retry| retry.at);
        let spill_again = self.settings.spill.is_some().then_some(self.spill_again);
        let prune_at = self.retry.is_none().then_some(self.prune_at);
        [self.rows_due(), self.explanations_due(), retry, spill_again, prune_at]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    /// When rows that wait are taken out: later if they go to the spill file, where none adds to another any more.
    fn rows_due(&self) -> Option<Instant> {
        let can_spill = self.spill.is_some() && self.retry.is_some();
        let delay = if can_spill { self.settings.batch_delay.max(SPILL_DELAY) } else { self.settings.batch_delay };
        self.rows_since.map(|since| since + delay)
    }

    /// When explanations that wait are taken out; with the next attempt if the database is away.
    fn explanations_due(&self) -> Option<Instant> {
        self.explanations_since.map(|since| since + self.settings.batch_delay)
    }

    fn may_spill(&self, now: Instant) -> bool {
        self.spill.is_some() && self.spill_again <= now
    }

    /// The batch that is held, or a new one of what waits.
    fn hold(&mut self) -> Option<Arc<Batch>> {
        if self.held.is_none() {
            let stamp = Stamp { writer: self.writer, sequence: self.sequence + 1 };
            if let Some(batch) = self.waiting.depart(stamp) {
                self.sequence += 1;
                self.held = Some(Arc::new(batch));
            }
            self.rest();
        }
        self.held.clone()
    }

    /// Forgets since when something waits if nothing does; what is more than a batch stays due.
    fn rest(&mut self) {
        if !self.waiting.has_rows() {
            self.rows_since = None;
        }
        if self.waiting.explanations.is_empty() {
            self.explanations_since = None;
        }
    }

    fn spill_job(&mut self) -> Option<Job> {
        let (batch, spill) = (self.hold()?, self.spill.clone()?);
        Some(Job::new(Needs::SpillFile, async move {
            let append = move || locked(&spill).append(&batch);
            Done::Spilled(blocking(append).await.map_err(spill::Fault::Io).and_then(|result| result))
        }))
    }

    fn database_job(&mut self) -> Job {
        let batch = self.hold();
        let (explanations, explained) = self.waiting.take_explanations();
        self.rest();
        if self.explained.saturating_add(explained as u64) > self.settings.retention.octets {
            self.prune_at = Instant::now();
        }
        let (mut database, opening) = (self.database.take(), self.opening());
        Job::new(Needs::Database, async move {
            let begun = Instant::now();
            let result = try_write(&mut database, &opening, batch.as_deref(), &explanations).await;
            let took = begun.elapsed();
            let wrote = Wrote { batch, source: Source::Memory, unreadable: 0, explanations, explained, took };
            Done::Wrote { database, wrote, result }
        })
    }

    fn unspill_job(&mut self) -> Job {
        let (mut database, opening) = (self.database.take(), self.opening());
        let spill = self.spill.clone();
        Job::new(Needs::Both, async move {
            let begun = Instant::now();
            let (batch, unreadable) = match spill.clone() {
                Some(spill) => blocking(move || first(&mut locked(&spill))).await.unwrap_or_default(),
                None => (None, 0),
            };
            let batch = batch.map(Arc::new);
            let mut result = try_write(&mut database, &opening, batch.as_deref(), &[]).await;
            if let (Ok(_), Some(spill)) = (&result, spill) {
                let removed = blocking(move || locked(&spill).remove_first()).await.and_then(|removed| removed);
                if let Err(error) = removed {
                    // It comes again, and is known by its stamp.
                    result = Err(Error::Read(sqlx::Error::Io(error)));
                }
            }
            let took = begun.elapsed();
            let explanations = Vec::new();
            let wrote = Wrote { batch, source: Source::Spill, unreadable, explanations, explained: 0, took };
            Done::Wrote { database, wrote, result }
        })
    }

    fn opening(&self) -> Opening {
        Opening { location: self.settings.location.clone(), limit: self.opening }
    }

    fn prune(&mut self) -> Job {
        let (mut database, retention) = (self.database.take(), self.settings.retention);
        let opening = self.opening();
        Job::new(Needs::Database, async move {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let work = async {
                match reopened(&mut database, &opening).await {
                    Ok(database) => database.prune(&retention, now).await,
                    Err(Error::Open { source, .. } | Error::Read(source)) => Err(source),
                    Err(error) => Err(sqlx::Error::Configuration(error.into())),
                }
            };
            let result = database::in_time(ATTEMPT, work).await;
            Done::Pruned { database, result }
        })
    }
}

impl Job {
    fn new(needs: Needs, done: impl Future<Output = Done> + Send + 'static) -> Self {
        Self { needs, done: Box::pin(done) }
    }
}

/// What came of a job.
impl Writer {
    fn settle(&mut self, done: Done) {
        // Before the rows are counted: whoever sees them counted sees how large the file has become.
        self.tell_spill();
        match done {
            Done::Wrote { database, wrote, result: Ok(refused) } => {
                self.database = database;
                self.written(&wrote, &refused);
            }
            Done::Wrote { wrote, result: Err(fault), .. } => {
                self.metrics.lost.of(Loss::SpillUnreadable).inc_by(wrote.unreadable);
                // The connection is dropped: after a failed statement it is in no known state.
                self.waiting.put_back(wrote.explanations);
                if !self.waiting.explanations.is_empty() {
                    self.explanations_since.get_or_insert_with(Instant::now);
                }
                self.fail(&Causes(&fault));
            }
            Done::Spilled(result) => self.spilled(result),
            Done::Opened(result) => self.opened(result),
            Done::Pruned { database, result } => {
                self.pruned(database, result);
            }
        }
        self.tell_lag();
    }

    fn written(&mut self, wrote: &Wrote, refused: &Refused) {
        self.metrics.lost.of(Loss::SpillUnreadable).inc_by(wrote.unreadable);
        if let Some(batch) = &wrote.batch {
            self.metrics.written.inc_by(batch.messages.saturating_sub(refused.messages));
            let now = epoch_seconds_signed();
            let late = batch.rows.values().filter(|row| row.is_late(now)).map(|row| row.count.unsigned_abs()).sum();
            self.metrics.late.inc_by(late);
            self.metrics.batch_seconds.observe(wrote.took.as_secs_f64());
            self.grow(batch.memory as u64);
            if wrote.source == Source::Memory {
                self.metrics.pending.sub(i64::try_from(batch.messages).unwrap_or(i64::MAX));
                self.held = None;
            }
        }
        self.waiting.let_go();
        let explanations = (wrote.explanations.len() as u64).saturating_sub(refused.explanations);
        self.metrics.explanations_written.inc_by(explanations);
        self.refused(refused);
        self.explained = self.explained.saturating_add(wrote.explained as u64);
        self.metrics.explanations_size.set(i64::try_from(self.explained).unwrap_or(i64::MAX));
        self.metrics.up.set(1);
        self.opening = Some(ATTEMPT);
        if self.retry.take().is_some() {
            info!("the database takes rows again");
        }
    }

    /// Counts as lost what the database refused for its values.
    fn refused(&self, refused: &Refused) {
        let Refused { messages, compared, explanations, cause } = refused;
        self.metrics.lost.of(Loss::Refused).inc_by(*messages);
        self.metrics.comparisons_lost.of(Loss::Refused).inc_by(*compared);
        self.metrics.explanations_lost.of(Loss::Refused).inc_by(*explanations);
        if messages + compared + explanations > 0 {
            let (rows, comparisons) = (messages, compared);
            error!(error = %cause, rows, comparisons, explanations, "the database refused some of a batch; that is lost");
        }
    }

    /// Looks soon how large the database is, if it may have come near its bound; but not after each batch.
    fn grow(&mut self, octets: u64) {
        self.grown = self.grown.saturating_add(octets);
        let reaches = |size: u64| self.stored.saturating_add(self.grown) > size && self.grown > size / GROWTH;
        if self.settings.retention.size.is_some_and(reaches) {
            self.prune_at = Instant::now();
        }
    }

    /// Goes on without a job that takes too long. What it does to the spill file it may still do, later; the stamp keeps
    /// that from being counted twice.
    fn give_up(&mut self, needs: Needs) {
        match needs {
            Needs::Database => self.fail(&"the database does not answer"),
            Needs::SpillFile => self.spilled(Err(io::Error::from(io::ErrorKind::TimedOut).into())),
            Needs::Both => self.fail(&"the database or the spill file does not answer"),
        }
    }

    fn fail(&mut self, fault: &dyn std::fmt::Display) {
        self.database = None;
        self.metrics.failed_batches.inc();
        self.metrics.up.set(0);
        let pause = self.retry.map_or(FIRST_RETRY, |retry| (retry.pause * 2).min(LAST_RETRY));
        self.retry = Some(Retry { at: Instant::now() + pause, pause });
        let waiting = self.metrics.pending.get();
        let spilled = self.in_spill.messages;
        error!(error = %fault, waiting, spilled, "the database does not take rows; mail is not affected, the rows wait");
    }

    fn spilled(&mut self, result: Result<(), spill::Fault>) {
        match result {
            Ok(()) => {
                let messages = self.held.take().map_or(0, |batch| batch.messages);
                self.metrics.pending.sub(i64::try_from(messages).unwrap_or(i64::MAX));
                self.metrics.spilled.inc_by(messages);
            }
            Err(fault) => {
                self.spill_again = Instant::now() + SPILL_PAUSE;
                if self.may_log() {
                    warn!(error = %Causes(&fault), "rows can't wait in the spill file; they wait in memory");
                }
            }
        }
    }

    fn opened(&mut self, result: io::Result<Spill>) {
        match result {
            Ok(spill) => {
                info!(rows = spill.messages(), "the spill file can be used now");
                self.metrics.spill_limit.set(i64::try_from(spill.limit()).unwrap_or(i64::MAX));
                self.spill = Some(Arc::new(Mutex::new(spill)));
                self.tell_spill();
            }
            // That it can't be used was told at the start.
            Err(_) => self.spill_again = Instant::now() + SPILL_PAUSE,
        }
    }

    fn pruned(&mut self, database: Option<Database>, result: Result<Pruned, sqlx::Error>) {
        let mut next = PRUNING_INTERVAL;
        match result {
            Ok(pruned) => {
                self.database = database;
                if pruned.ahead > retention::CLOCK_TOLERANCE && self.may_log() {
                    let seconds = pruned.ahead.as_secs();
                    match self.settings.location {
                        Location::Postgres(_) => {
                            warn!(
                                seconds,
                                "the clock is ahead of the database's, by which what is old is deleted; set it"
                            );
                        }
                        Location::Sqlite(_) => warn!(
                            seconds,
                            "the clock is far ahead of what was stored last, and for an hour nothing is deleted by it; \
                             set it if it is wrong"
                        ),
                    }
                }
                self.explained = pruned.explained;
                self.metrics.explanations_size.set(i64::try_from(pruned.explained).unwrap_or(i64::MAX));
                self.metrics.pruned.inc_by(pruned.rows_deleted);
                self.metrics.size.set(pruned.octets);
                self.stored = pruned.octets.unsigned_abs().saturating_sub(pruned.explained);
                self.grown = 0;
                if pruned.is_unfinished {
                    next = PRUNING_STEP_PAUSE;
                } else {
                    self.is_full = self.settings.retention.most.is_some_and(|most| self.stored > most);
                    self.count();
                }
            }
            Err(fault) => {
                let error = Causes(&fault);
                warn!(%error, "what is old can't be deleted from the database; it will be, later");
            }
        }
        self.prune_at = Instant::now() + next;
    }

    /// Begins to count the rows, unless that is still being done. The count is only shown.
    fn count(&mut self) {
        while self.counting.try_join_next().is_some() {}
        if !self.counting.is_empty() {
            return;
        }
        let (location, rows) = (self.settings.location.clone(), self.metrics.rows.clone());
        self.counting.spawn(async move {
            match retention::count_rows(&location).await {
                Ok(count) => rows.set(count),
                Err(fault) => debug!(error = %Causes(&fault), "the rows can't be counted; they will be, later"),
            }
        });
    }

    fn tell_lag(&self) {
        let is_spilled = self.in_spill.octets > 0;
        let waits_long = self.rows_since.is_some_and(|since| since.elapsed() > LAG);
        self.behind.send_if_modified(|behind| {
            // The last batch of those that waited long is under way, and nothing else would say so.
            let is_behind = self.retry.is_some() || is_spilled || waits_long || (*behind && self.held.is_some());
            std::mem::replace(behind, is_behind) != is_behind
        });
    }

    fn tell_memory(&self) {
        let held = self.held.as_ref().map_or(0, |batch| batch.memory);
        self.metrics.memory.set(i64::try_from(self.waiting.memory + held).unwrap_or(i64::MAX));
    }

    fn tell_spill(&mut self) {
        if let Some(spill) = &self.spill {
            // This is an I/O thread, and a job that was given up may have the file as long as the disk hangs.
            let file = match spill.try_lock() {
                Ok(file) => Some(file),
                Err(TryLockError::Poisoned(file)) => Some(file.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            let look = |file: MutexGuard<'_, Spill>| InSpill {
                messages: file.messages(),
                octets: if file.is_empty() { 0 } else { file.length() },
            };
            self.in_spill = file.map_or(self.in_spill, look);
        }
        let InSpill { messages, octets } = self.in_spill;
        self.metrics.spill_size.set(i64::try_from(octets).unwrap_or(i64::MAX));
        self.metrics.spill_rows.set(i64::try_from(messages).unwrap_or(i64::MAX));
    }
}

/// What a writer starts with.
pub struct Opened {
    /// None if the server is not there yet.
    pub database: Option<Database>,
    /// None if there is to be none, or it can't be opened.
    pub spill: Option<Spill>,
}

impl Opened {
    /// Opens the database and the spill file. A server that does not answer is waited for while the gate runs; a spill
    /// file that can't be opened is done without, and tried again now and then.
    ///
    /// # Errors
    ///
    /// See [`database::open`].
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        let database = match Database::open(&settings.location).await {
            Ok(database) => Some(database),
            Err(fault) if fault.may_pass() => {
                warn!(error = %Causes(&fault), "the database is not there yet; rows wait for it");
                None
            }
            Err(fault) => return Err(fault),
        };
        let spill = match settings.spill.clone() {
            Some(wanted) => blocking(move || Spill::open(&wanted)).await.and_then(|opened| opened).map(Some),
            None => Ok(None),
        };
        let spill = spill.unwrap_or_else(|error| {
            warn!(%error, "the spill file can't be used yet; rows will wait in memory alone");
            None
        });
        Ok(Self { database, spill })
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
        let clock = match location {
            Location::Sqlite(_) => DatabaseClock::Unread,
            Location::Postgres(_) => DatabaseClock::Server,
        };
        Ok(Self { connection, file: database::file_identity(location), clock })
    }

    /// The time to go by when the host's clock shows `shown`, in seconds since 1970. Asked before anything is written by
    /// a clock that may be wrong.
    async fn time(&mut self, shown: i64) -> Result<i64, sqlx::Error> {
        let now = Instant::now().into_std();
        if let DatabaseClock::Unread = self.clock {
            self.clock = DatabaseClock::Ours(Clock::new(retention::newest(&mut self.connection).await?, shown, now));
        }
        Ok(match &mut self.clock {
            DatabaseClock::Ours(clock) => clock.time(shown, now),
            DatabaseClock::Unread | DatabaseClock::Server => shown,
        })
    }

    /// Takes a step of pruning by the clock as far as it is believed.
    async fn prune(&mut self, retention: &Retention, shown: Duration) -> Result<Pruned, sqlx::Error> {
        let believed = self.time(i64::try_from(shown.as_secs()).unwrap_or(i64::MAX)).await?.unsigned_abs();
        // To the fraction as it is shown, so that nothing is told of a clock that is believed.
        let believed = if believed == shown.as_secs() { shown } else { Duration::from_secs(believed) };
        let pruned = retention::step(&mut self.connection, retention, believed).await?;
        Ok(Pruned { ahead: pruned.ahead.max(shown.saturating_sub(believed)), ..pruned })
    }
}

/// What a job needs to open the database anew.
struct Opening {
    location: Location,
    /// How long that may take; none: no bound.
    limit: Option<Duration>,
}

async fn try_write(
    database: &mut Option<Database>,
    opening: &Opening,
    batch: Option<&Batch>,
    explanations: &[Explanation],
) -> Result<Refused, Error> {
    let database = reopened(database, opening).await?;
    let work = async {
        let time = database.time(epoch_seconds_signed()).await?;
        statements::write(&mut database.connection, batch, explanations, time).await
    };
    Ok(database::in_time(ATTEMPT, work).await?)
}

/// The connection, opened if there is none or its file is not the one that the path names any more.
async fn reopened<'a>(database: &'a mut Option<Database>, opening: &Opening) -> Result<&'a mut Database, Error> {
    let Opening { location, limit } = opening;
    let usable = database.take().filter(|database| database.file == database::file_identity(location));
    let usable = match (usable, limit) {
        (Some(usable), _) => usable,
        (None, Some(limit)) => database::in_time(*limit, Database::open(location)).await?,
        (None, None) => Database::open(location).await?,
    };
    Ok(database.insert(usable))
}

/// The first batch of the file. If it can't be read, the disk has failed: all is given up, with its number of messages.
fn first(spill: &mut Spill) -> (Option<Batch>, u64) {
    match spill.first() {
        Ok(batch) => (batch, 0),
        Err(error) => {
            let lost = spill.messages();
            // What can't be emptied either will be found at the next start, and what of it can be read then is not
            // lost.
            let _ = spill.clear();
            error!(%error, lost, "the spill file can't be read; its rows are lost");
            (None, lost)
        }
    }
}

fn locked(spill: &SharedSpill) -> MutexGuard<'_, Spill> {
    spill.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what may block on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    task::spawn_blocking(work).await.map_err(|_| io::Error::other("the runtime ends"))
}

/// Waits for the job in hand; for ever if there is none.
async fn finished(working: &mut Option<Job>) -> Done {
    match working {
        Some(job) => job.done.as_mut().await,
        None => future::pending().await,
    }
}

/// Records taken from the queue in one go.
const TAKEN_AT_ONCE: usize = 256;
/// The pause after the first failure; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long the database may take to be opened anew, for a batch or a step of pruning; it is tried again then.
const ATTEMPT: Duration = Duration::from_secs(15);
/// The same while the gate stops and there is a spill file.
const STOPPING_ATTEMPT: Duration = Duration::from_secs(2);
/// How long rows add up before they go to the spill file: what dies with the process.
const SPILL_DELAY: Duration = Duration::from_millis(800);
/// How long rows may wait before they are late.
const LAG: Duration = Duration::from_secs(60);
/// How long a spill file is left alone that was full or broken, or that another gate has.
const SPILL_PAUSE: Duration = Duration::from_secs(10);
/// How soon it is looked whether the spill file is open.
const LOOK_AT_OPENING: Duration = Duration::from_millis(250);
/// How often what is old is deleted, and sizes are summed up anew.
const PRUNING_INTERVAL: Duration = Duration::from_secs(600);
/// By which part of `store.size` rows grow at least before the size is looked up out of turn: it takes a count of all
/// rows.
const GROWTH: u64 = 32;
/// The pause between steps, in which batches get through.
const PRUNING_STEP_PAUSE: Duration = Duration::from_millis(50);
/// The pause between attempts when the gate stops and there is no time for more.
const RETRY_WHILE_STOPPING: Duration = Duration::from_millis(200);
/// The interval of lines about one fault.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc as std_mpsc;

    use super::*;
    use crate::metrics::Registry;
    use crate::record::sample;
    use crate::store::spill::Settings as SpillSettings;
    use crate::store::testing::Home;

    /// How long the disk hangs, unless it is let go before.
    const HANGS: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_disk_that_hangs_under_the_file_holds_no_thread_up_and_rows_go_to_the_database() {
        let home = Home::sqlite();
        let spill = SpillSettings { path: home.directory.path().join("rows.spill"), octets: 1 << 20 };
        let settings = Settings { spill: Some(spill), ..Settings::new(home.location.clone()) };
        let opened = Opened::open(&settings).await.unwrap();
        let (items, taken) = mpsc::channel(1);
        let mut writer = Writer::new(settings, opened, taken, Metrics::register(&Registry::new()));
        let file = writer.spill.clone().unwrap();
        let ((has_it, holds), (let_go, hangs)) = (std_mpsc::channel(), std_mpsc::channel::<()>());
        let disk = std::thread::spawn(move || {
            let _file = file.lock().unwrap();
            has_it.send(()).unwrap();
            let _ = hangs.recv_timeout(HANGS);
        });
        holds.recv().unwrap();
        // So that the next batch is to go to the file first.
        writer.fail(&"away for a moment");
        items.send(Item::Record(Box::new(sample::record()))).await.unwrap();
        drop(items);
        let began = Instant::now();
        let (_stop, stopped) = oneshot::channel();
        writer.run(stopped).await;
        assert!(began.elapsed() < HANGS / 2, "{:?}", began.elapsed());
        assert_eq!(home.number("SELECT COUNT(*) FROM report_rows").await, 1);
        drop(let_go);
        disk.join().unwrap();
    }

    #[tokio::test]
    async fn a_spill_file_that_another_gate_has_is_used_once_that_one_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = spill::Settings { path: directory.path().join("rows.spill"), octets: 1 << 20 };
        let other = Spill::open(&wanted).unwrap();
        let location = Location::Sqlite(directory.path().join("gate.db"));
        let settings = Settings { spill: Some(wanted), ..Settings::new(location) };
        let opened = Opened::open(&settings).await.unwrap();
        let (_sender, items) = mpsc::channel(1);
        let registry = Registry::new();
        let mut writer = Writer::new(settings, opened, items, Metrics::register(&registry));
        let says = |octets: u64| {
            let line = format!("dmarcgate_store_spill_limit_bytes {octets}\n");
            assert!(registry.render().contains(&line), "no {line}");
        };
        open_spill(&mut writer).await;
        assert!(writer.spill.is_none() && writer.spill_again > Instant::now());
        says(0);
        drop(other);
        open_spill(&mut writer).await;
        assert!(writer.spill.is_some());
        says(1 << 20);
    }

    /// Has the writer try to open the spill file, whatever else it does meanwhile.
    async fn open_spill(writer: &mut Writer) {
        loop {
            let Some(job) = writer.next_job(writer.spill_again, Pace::Normal) else {
                task::yield_now().await;
                continue;
            };
            let done = job.done.await;
            let is_over = matches!(done, Done::Opened(_));
            writer.settle(done);
            if is_over {
                return;
            }
        }
    }
}
