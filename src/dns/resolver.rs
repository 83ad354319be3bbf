//! The resolver that all messages share: cache, questions under way, bounds.
//!
//! A question is put by a task of its own, which fills the cache: a client that leaves cancels nobody's question, and
//! askers of one name wait for one query. The evidence and the budget of a message are its
//! [`MessageLookup`]'s.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::config::ProtocolConfig;
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::{Semaphore, watch};

use super::cache::{Cache, Key};
use super::message_lookup::MessageLookup;
use super::metrics::{Metrics, Source};
use super::transport::Transport;
use super::{Answer, Failure, Miss};

/// How DNS is asked and what of it is remembered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name servers in the order of preference; empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// How long one attempt may wait for its answer; twice as long if it goes on by TCP.
    pub timeout: Duration,
    /// Attempts for one question, over all servers; at least one.
    pub attempts: u32,
    /// Answers that the cache holds; a large one counts for several.
    pub cache_entries: u64,
    /// Answers with records, and negative ones with an SOA, are remembered for at least this long.
    pub min_ttl: Duration,
    /// Answers with records are remembered for at most this long.
    pub max_ttl: Duration,
    /// NXDOMAIN and NODATA are remembered for at most this long (RFC 2308 §5).
    pub max_negative_ttl: Duration,
    /// Failures, and negative answers without an SOA, are remembered for this long; zero: not at all.
    pub failure_ttl: Duration,
    /// Questions put to the name servers at one time: each needs a socket.
    pub outstanding: usize,
    /// Questions that one message may ask; repeated ones count once.
    pub lookups_per_message: usize,
}

/// Why there is no resolver. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's configuration can't be read.
    #[error("cannot read the system's resolver configuration: {0}")]
    SystemConfiguration(String),
    /// Neither the settings nor the system name a server.
    #[error("no name server is configured")]
    NoServers,
    /// The transport could not be set up.
    #[error("cannot set up the DNS transport: {0}")]
    Transport(String),
}

/// The resolver; cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    transport: Transport,
    cache: Cache,
    /// For identifiers, then for policies: see [`Purpose`].
    lanes: [Lane; 2],
    /// Questions of one lane under way or waiting for a permit.
    max_under_way: usize,
    lookups_per_message: AtomicUsize,
    metrics: Metrics,
}

/// What a question is for. Each purpose has a lane of its own: a sender decides how many questions its identifiers cost
/// and how slowly they are answered, and must not be able to keep those for the policy of the domain that it forges
/// waiting behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// SPF, DKIM, ARC, the client's name.
    Identifier,
    /// DMARC.
    Policy,
}

struct Lane {
    under_way: Mutex<HashMap<Key, watch::Receiver<Progress>>>,
    permits: Semaphore,
}

/// How far a question is.
#[derive(Debug, Clone)]
enum Progress {
    /// It waits for a permit.
    Queued,
    /// It was put to a server.
    Put,
    /// It is answered.
    Answered(Answer),
}

/// A question under way; leaves the list when its task ends, in whatever way.
struct UnderWay {
    shared: Arc<Shared>,
    purpose: Purpose,
    key: Key,
    /// Whether it is on the list.
    listed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            attempts: 3,
            cache_entries: 100_000,
            min_ttl: Duration::from_secs(5),
            // Short enough that a key or record changed in a hurry is seen within the hour.
            max_ttl: Duration::from_secs(3600),
            max_negative_ttl: Duration::from_secs(300),
            failure_ttl: Duration::from_secs(5),
            outstanding: 512,
            // SPF at its worst (ten terms of ten exchangers), 20 signatures, ARC and the walks of ten authors.
            lookups_per_message: 300,
        }
    }
}

impl Resolver {
    /// A resolver after `settings`; nothing is asked yet. Questions need a tokio runtime, this does not.
    ///
    /// # Errors
    ///
    /// No server is set and the system names none: the operator's fault.
    pub fn new(settings: Settings, metrics: Metrics) -> Result<Self, Error> {
        let servers = if settings.servers.is_empty() { system_servers()? } else { settings.servers.clone() };
        let outstanding = settings.outstanding.clamp(1, Semaphore::MAX_PERMITS);
        Ok(Self(Arc::new(Shared {
            transport: Transport::new(&servers, settings.timeout, settings.attempts)?,
            cache: Cache::new(&settings),
            lanes: [Lane::new(outstanding), Lane::new(outstanding)],
            max_under_way: outstanding.saturating_mul(QUEUE),
            lookups_per_message: AtomicUsize::new(settings.lookups_per_message),
            metrics,
        })))
    }

    /// Changes how many questions a message may ask; one that is being evaluated keeps its budget.
    pub fn set_lookups_per_message(&self, lookups: usize) {
        self.0.lookups_per_message.store(lookups, Ordering::Relaxed);
    }

    /// The look-ups of one message.
    pub fn for_message(&self) -> MessageLookup {
        MessageLookup::new(self.clone(), self.0.lookups_per_message.load(Ordering::Relaxed))
    }

    /// Asks the cache, then the servers; `key` is fit for DNS. When `expired` ends first, the answer is a time-out if the
    /// question had been put to a server, and [`Failure::Budget`] if we had not come to that.
    pub(super) async fn ask(&self, key: &Key, purpose: Purpose, expired: impl Future<Output = ()>) -> (Answer, Source) {
        let (answer, source) = self.find(key, purpose, expired).await;
        self.0.metrics.lookups.inc(source);
        (answer, source)
    }

    async fn find(&self, key: &Key, purpose: Purpose, expired: impl Future<Output = ()>) -> (Answer, Source) {
        if let Some(answer) = self.0.cache.get(key).await {
            return (answer, Source::Cache);
        }
        let (mut receiver, source) = {
            let mut under_way = self.0.lane(purpose).under_way();
            match under_way.get(key) {
                Some(receiver) => (receiver.clone(), Source::Shared),
                None if under_way.len() >= self.0.max_under_way => return (failed(Failure::Budget), Source::Server),
                None => {
                    let (sender, receiver) = watch::channel(Progress::Queued);
                    under_way.insert(key.clone(), receiver.clone());
                    self.0.metrics.outstanding.inc();
                    let entry = UnderWay { shared: Arc::clone(&self.0), purpose, key: key.clone(), listed: true };
                    tokio::spawn(entry.run(sender));
                    (receiver, Source::Server)
                }
            }
        };
        let answered = tokio::select! {
            biased;
            progress = receiver.wait_for(|progress| matches!(progress, Progress::Answered(_))) => {
                // An error: the task is gone without an answer, since the runtime stops.
                progress.ok().map(|progress| progress.clone())
            }
            () = expired => None,
        };
        let answer = match answered.unwrap_or_else(|| receiver.borrow().clone()) {
            Progress::Answered(answer) => answer,
            Progress::Put => failed(Failure::Timeout),
            Progress::Queued => failed(Failure::Budget),
        };
        (answer, source)
    }
}

impl Shared {
    fn lane(&self, purpose: Purpose) -> &Lane {
        let [identifiers, policies] = &self.lanes;
        match purpose {
            Purpose::Identifier => identifiers,
            Purpose::Policy => policies,
        }
    }
}

impl Lane {
    fn new(outstanding: usize) -> Self {
        Self { under_way: Mutex::default(), permits: Semaphore::new(outstanding) }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Progress>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    async fn run(mut self, progress: watch::Sender<Progress>) {
        let shared = Arc::clone(&self.shared);
        let Shared { transport, cache, metrics, .. } = &*shared;
        // Never closed; while we have it, one question is put to a server.
        let _permit = shared.lane(self.purpose).permits.acquire().await;
        if self.is_abandoned(&progress) {
            return;
        }
        // Between an asker's look into the cache and its entry in the list another task may have filled it.
        if let Some(answer) = cache.get(&self.key).await {
            progress.send_replace(Progress::Answered(answer));
            return;
        }
        progress.send_replace(Progress::Put);
        let (name, record_type) = &self.key;
        metrics.queries.inc(*record_type);
        let start = Instant::now();
        let reply = transport.ask(name, *record_type).await;
        metrics.seconds.observe(start.elapsed().as_secs_f64());
        if let Err(Miss::Failed(failure)) = reply.outcome {
            metrics.failures.inc(failure);
        }
        let answer = cache.fill(self.key.clone(), reply).await;
        metrics.entries.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        progress.send_replace(Progress::Answered(answer));
    }

    /// Whether everyone who asked has gone while it waited: then it is taken off the list unasked, so that sessions that
    /// begin transactions only to end them leave no work behind.
    fn is_abandoned(&mut self, progress: &watch::Sender<Progress>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut under_way = shared.lane(self.purpose).under_way();
        // The list's own receiver is always there; a new asker gets its copy under the same lock.
        let abandoned = progress.receiver_count() <= 1;
        if abandoned {
            under_way.remove(&self.key);
            self.listed = false;
        }
        abandoned
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.listed {
            self.shared.lane(self.purpose).under_way().remove(&self.key);
        }
        self.shared.metrics.outstanding.dec();
    }
}

/// The servers of `/etc/resolv.conf`, without its search list and options.
fn system_servers() -> Result<Vec<SocketAddr>, Error> {
    let (config, _) = read_system_conf().map_err(|e| Error::SystemConfiguration(e.to_string()))?;
    let servers = config.name_servers().iter().flat_map(|server| {
        let udp = server.connections.iter().filter(|c| c.protocol == ProtocolConfig::Udp);
        udp.map(|connection| SocketAddr::new(server.ip, connection.port))
    });
    Ok(servers.collect())
}

/// An answer that is none, and is not remembered.
fn failed(failure: Failure) -> Answer {
    Answer { outcome: Err(Miss::Failed(failure)), ttl: Duration::ZERO }
}

/// Questions that may wait, for each that may be put at one time: beyond that they would wait longer than a message.
const QUEUE: usize = 16;

#[cfg(test)]
mod tests;
