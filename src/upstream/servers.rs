//! Keeps which servers there are, how well each is and how many connections are open, for all sessions together.
//!
//! Real use tells whether a server is well: whoever connects reports the result. One that failed is set aside for a
//! growing pause, and then tried by one session before others use it again. While all are set aside, all are tried
//! regardless: an upstream that might answer is never given up. What can be decided without a clock or a
//! lock is in [`pool`](super::pool).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep_until, timeout};

use super::metrics::Metrics;
use super::pool::Pool;
use super::{Error, Settings};
use crate::readiness::{Condition, Readiness};

/// The servers, shared by sessions and probes.
pub struct Servers {
    settings: Arc<Settings>,
    metrics: Metrics,
    readiness: Readiness,
    pool: Mutex<Pool>,
    slots: Arc<Semaphore>,
    /// Sessions that wait for a slot.
    waiting: AtomicUsize,
    /// Tells one session that keeps a connection idle that another one waits.
    wanted: Notify,
    notes: Vec<Notes>,
    /// Whether other servers have replaced these.
    retired: AtomicBool,
}

/// The room for one open connection. It is given back when it is dropped.
pub struct Slot {
    servers: Arc<Servers>,
    server: Option<usize>,
    _permit: OwnedSemaphorePermit,
}

/// What is noted of a server beside its health.
#[derive(Default)]
struct Notes {
    moments: Mutex<Moments>,
    probe_requested: Notify,
}

/// Moments in the life of a server.
#[derive(Default)]
struct Moments {
    /// By when it should be probed; none if only its time tells.
    probe_by: Option<Instant>,
    /// When it last accepted being told who the client is; none if it never has, or has come not to.
    saw_client: Option<Instant>,
}

impl Servers {
    /// The servers of `settings`, none of them known to be ill.
    pub fn new(settings: Arc<Settings>, metrics: Metrics, readiness: Readiness) -> Self {
        let count = settings.servers.len();
        metrics.servers.set(i64::try_from(count).unwrap_or(i64::MAX));
        metrics.limit.set(i64::try_from(settings.connections).unwrap_or(i64::MAX));
        Self {
            pool: Mutex::new(Pool::new(count, settings.selection)),
            slots: Arc::new(Semaphore::new(settings.connections)),
            waiting: AtomicUsize::new(0),
            wanted: Notify::new(),
            notes: (0..count).map(|_| Notes::default()).collect(),
            retired: AtomicBool::new(false),
            settings,
            metrics,
            readiness,
        }
    }

    /// How they are reached.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// What is counted of them.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The order in which they are to be tried now, `avoid` behind all that are well.
    pub fn order(&self, avoid: Option<usize>) -> Vec<usize> {
        self.pool().order(Instant::now(), avoid)
    }

    /// Says that other servers replace these. Sessions that still use these go on, but no longer affect readiness.
    pub fn retire(&self) {
        // Under the pool's lock, so that nobody who is about to publish does it later.
        let _pool = self.pool();
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Says that `server` was reached and took the client or refused it.
    pub fn answered(&self, server: usize) {
        let mut pool = self.pool();
        let was_ill = pool.answered(server);
        self.publish(&pool);
        drop(pool);
        if was_ill {
            // What it offers may have changed while it was away.
            self.request_probe(server, SOON);
        }
    }

    /// Says that an attempt to connect to `server`, which began at `began`, failed.
    pub fn failed(&self, server: usize, began: Instant) {
        let mut pool = self.pool();
        pool.failed(server, began, Instant::now());
        self.publish(&pool);
        drop(pool);
        self.request_probe(server, SOON);
    }

    /// Says that a connection with `server` was opened on which it sees the client.
    pub fn saw_a_client(&self, server: usize) {
        if let Some(mut moments) = self.moments(server) {
            moments.saw_client = Some(Instant::now());
        }
    }

    /// Says that `server` refuses both a stranger and the gate's own name: it has come not to read who the client is,
    /// unless it took one just now.
    pub fn refuses_everybody(&self, server: usize) {
        if let Some(mut moments) = self.moments(server) {
            moments.saw_client = moments.saw_client.filter(|at| at.elapsed() < AT_LEISURE);
        }
    }

    /// Whether it has accepted being told who the client is, as far as is known.
    pub fn sees_clients(&self, server: usize) -> bool {
        self.moments(server).is_some_and(|moments| moments.saw_client.is_some())
    }

    /// Waits for room for one more connection, at most as long as the settings say.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`].
    pub async fn slot(self: &Arc<Self>) -> Result<Slot, Error> {
        let permit = match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = Waiting::new(self);
                let acquire = Arc::clone(&self.slots).acquire_owned();
                match timeout(self.settings.timeouts.slot, acquire).await {
                    Ok(Ok(permit)) => permit,
                    _ => {
                        self.metrics.slot_timeouts.inc();
                        return Err(Error::Busy);
                    }
                }
            }
        };
        self.metrics.open.inc();
        Ok(Slot { servers: Arc::clone(self), server: None, _permit: permit })
    }

    /// Waits until a session needs the slot of an idle connection.
    pub async fn wanted(&self) {
        while !self.is_wanted() {
            self.wanted.notified().await;
        }
    }

    /// Whether a session waits for a slot.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until `server` is to be probed: at `latest`, or as soon as somebody has requested it.
    pub async fn probe_due(&self, server: usize, latest: Instant) {
        let Some(notes) = self.notes.get(server) else { return std::future::pending().await };
        loop {
            let by = notes.moments().probe_by.map_or(latest, |by| by.min(latest));
            tokio::select! {
                () = sleep_until(by.into()) => return,
                () = notes.probe_requested.notified() => {}
            }
        }
    }

    /// Says that a probe of `server` begins: it will see all that has happened.
    pub fn probe_begins(&self, server: usize) {
        if let Some(mut moments) = self.moments(server) {
            moments.probe_by = None;
        }
    }

    /// Says that `server` should be probed `within` so long. Never at once: every failure of a server that fails now and
    /// then would cost a probe.
    pub fn request_probe(&self, server: usize, within: Duration) {
        if let Some(notes) = self.notes.get(server) {
            let by = Instant::now() + within;
            let mut moments = notes.moments();
            moments.probe_by = Some(moments.probe_by.map_or(by, |before| before.min(by)));
            drop(moments);
            notes.probe_requested.notify_one();
        }
    }

    fn moments(&self, server: usize) -> Option<MutexGuard<'_, Moments>> {
        self.notes.get(server).map(Notes::moments)
    }

    fn publish(&self, pool: &Pool) {
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        // Under the pool's lock, so that two callers at once can't leave readiness behind.
        self.metrics.servers_down.set(i64::try_from(pool.down()).unwrap_or(i64::MAX));
        match pool.is_up() {
            Some(true) => self.readiness.holds(Condition::Upstream),
            Some(false) => self.readiness.lacks(Condition::Upstream, "no upstream server answers as it should"),
            None => {}
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // Nothing in here panics half-way; a pool that a panic has seen is as good as another.
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    fn moments(&self) -> MutexGuard<'_, Moments> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Says which server the connection in this slot is, or will be, with.
    pub fn at(&mut self, server: usize) {
        let before = self.server.replace(server);
        self.servers.pool().moved(before, Some(server));
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Servers").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.servers.pool().moved(self.server, None);
        self.servers.metrics.open.dec();
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A session that waits, counted as long as it does, even if its client leaves.
struct Waiting<'a>(&'a Servers);

impl<'a> Waiting<'a> {
    fn new(servers: &'a Servers) -> Self {
        servers.waiting.fetch_add(1, Ordering::Relaxed);
        servers.wanted.notify_one();
        Self(servers)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Before a server is probed that has failed, or has come back.
pub const SOON: Duration = Duration::from_millis(250);
/// Before a server is probed that has refused a client in a way that might be meant for the gate: strangers whom it
/// knows may make it do so all the time.
pub const AT_LEISURE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Registry;
    use crate::upstream::handover::Identity;
    use crate::upstream::pool::Selection;
    use crate::upstream::security::Security;
    use crate::upstream::{Blind, Timeouts};

    fn settings() -> Settings {
        let second = Duration::from_secs(1);
        Settings {
            servers: vec!["mta.example:25".into()],
            security: Security::Off,
            tls_name: None,
            selection: Selection::Ordered,
            connections: 1,
            identity: Identity::Auto,
            blind: Blind::Allowed,
            hostname: "mx.gate.example".into(),
            hold: second,
            silence: second,
            idle: second,
            timeouts: Timeouts {
                slot: second,
                open: second,
                connect: second,
                greeting: second,
                command: second,
                block: second,
                final_reply: second,
            },
        }
    }

    #[test]
    fn servers_that_others_have_replaced_say_nothing_of_readiness() {
        let registry = Registry::new();
        let (metrics, readiness) = (Metrics::new(&registry), Readiness::new(&[Condition::Upstream], &registry));
        let new = || Servers::new(Arc::new(settings()), metrics.clone(), readiness.clone());
        let old = new();
        old.failed(0, Instant::now());
        assert!(!readiness.is_ready());
        old.retire();
        let present = new();
        present.answered(0);
        assert!(readiness.is_ready());
        old.failed(0, Instant::now());
        assert!(readiness.is_ready() && metrics.servers_down.get() == 0, "{:?}", readiness.lacking());
        present.failed(0, Instant::now());
        old.answered(0);
        assert!(!readiness.is_ready() && metrics.servers_down.get() == 1);
    }
}
