//! The resolver that all messages share: cache, questions under way, bounds.
//!
//! A question is put by a task of its own, which fills the cache: a client that leaves cancels nobody's question. All
//! askers of one name and type, for whatever purpose, wait for one query. The evidence and the budget of a message are
//! its [`MessageLookup`]'s.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
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
use super::{Answer, Failure, Miss, NameServer};
use crate::tls::TrustError;

/// How DNS is asked and what of it is remembered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name servers in the order of preference; empty: those of `/etc/resolv.conf`.
    pub servers: Vec<NameServer>,
    /// A PEM file with the authorities of encrypted servers; none: the system's.
    pub ca: Option<PathBuf>,
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
    /// Nobody could be believed over TLS.
    #[error("cannot verify name servers over TLS: {0}")]
    Trust(#[from] TrustError),
}

/// The resolver; cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    transport: Transport,
    cache: Cache,
    under_way: Mutex<UnderWay>,
    /// Questions that may be put at one time for identifiers, then those for policies: see [`Purpose`].
    permits: [Semaphore; 2],
    /// Tasks of one lane.
    max_tasks: usize,
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

/// The questions that are not answered yet, over both lanes: a name and type stand here once.
#[derive(Default)]
struct UnderWay {
    questions: HashMap<Key, Question>,
    /// Tasks of each lane that have not ended.
    tasks: [usize; 2],
}

/// One question that is not answered yet. A task of a lane waits for a permit of that lane to put it; where both lanes
/// have one, the first to get its permit puts the question and the other has nothing left to do.
#[derive(Clone)]
struct Question {
    progress: Arc<watch::Sender<Progress>>,
    /// Whether the policy lane has a task for it. Without one it is the identifier lane's.
    in_policy_lane: bool,
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

/// A task that puts a question, unless that is done or of no more use when its turn comes.
struct Asker {
    shared: Arc<Shared>,
    purpose: Purpose,
    key: Key,
    progress: Arc<watch::Sender<Progress>>,
    /// Whether this one has taken the question over, and with it its end.
    has_claimed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            ca: None,
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
            transport: Transport::new(&servers, &settings, metrics.tcp.clone())?,
            cache: Cache::new(&settings, metrics.evictions.clone()),
            under_way: Mutex::default(),
            permits: [Semaphore::new(outstanding), Semaphore::new(outstanding)],
            max_tasks: outstanding.saturating_mul(QUEUE),
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
        let Some((mut receiver, source)) = self.0.join(key, purpose) else {
            return (failed(Failure::Budget), Source::Server);
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
    /// Where the answer to `key` will appear, from a question under way or from one that begins now; none if too many
    /// wait already.
    ///
    /// An identifier's asker takes part in whatever is under way. A policy's does, too, if the question was put to a
    /// server; one that only waits for its turn behind other identifiers gets a second turn in the policy lane.
    fn join(self: &Arc<Self>, key: &Key, purpose: Purpose) -> Option<(watch::Receiver<Progress>, Source)> {
        let mut under_way = self.under_way();
        let UnderWay { questions, tasks } = &mut *under_way;
        let has_room = tasks.get(purpose.index()).is_some_and(|tasks| *tasks < self.max_tasks);
        let (progress, receiver, source) = match questions.get_mut(key) {
            Some(question) => {
                let receiver = question.progress.subscribe();
                let waits_behind_identifiers = purpose == Purpose::Policy
                    && !question.in_policy_lane
                    && matches!(*receiver.borrow(), Progress::Queued);
                if !waits_behind_identifiers || !has_room {
                    return Some((receiver, Source::Shared));
                }
                question.in_policy_lane = true;
                (Arc::clone(&question.progress), receiver, Source::Shared)
            }
            None if !has_room => return None,
            None => {
                let (progress, receiver) = watch::channel(Progress::Queued);
                let progress = Arc::new(progress);
                let in_policy_lane = purpose == Purpose::Policy;
                questions.insert(key.clone(), Question { progress: Arc::clone(&progress), in_policy_lane });
                self.metrics.outstanding.inc();
                (progress, receiver, Source::Server)
            }
        };
        if let Some(tasks) = tasks.get_mut(purpose.index()) {
            *tasks += 1;
        }
        let asker = Asker { shared: Arc::clone(self), purpose, key: key.clone(), progress, has_claimed: false };
        tokio::spawn(asker.run());
        Some((receiver, source))
    }

    fn permits(&self, purpose: Purpose) -> &Semaphore {
        let [identifiers, policies] = &self.permits;
        match purpose {
            Purpose::Identifier => identifiers,
            Purpose::Policy => policies,
        }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Takes a question off the list, unless another one of that name has taken its place.
    fn remove(&mut self, key: &Key, progress: &Arc<watch::Sender<Progress>>, metrics: &Metrics) {
        if self.questions.get(key).is_some_and(|question| Arc::ptr_eq(&question.progress, progress)) {
            self.questions.remove(key);
            metrics.outstanding.dec();
        }
    }
}

impl Purpose {
    fn index(self) -> usize {
        match self {
            Self::Identifier => 0,
            Self::Policy => 1,
        }
    }
}

impl Asker {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let Shared { transport, cache, metrics, .. } = &*shared;
        // Never closed; while we have it, one question is put to a server.
        let _permit = shared.permits(self.purpose).acquire().await;
        if !self.claim() {
            return;
        }
        // Between an asker's look into the cache and its entry in the list another task may have filled it.
        if let Some(answer) = cache.get(&self.key).await {
            self.progress.send_replace(Progress::Answered(answer));
            return;
        }
        let (name, record_type) = &self.key;
        metrics.queries.inc(*record_type);
        let start = Instant::now();
        let reply = transport.ask(name, *record_type).await;
        metrics.seconds.of(*record_type).observe(start.elapsed().as_secs_f64());
        if let Err(Miss::Failed(failure)) = reply.outcome {
            metrics.failures.inc(failure);
        }
        let answer = cache.fill(self.key.clone(), reply).await;
        metrics.entries.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        self.progress.send_replace(Progress::Answered(answer));
    }

    /// Takes the question over. Not if the other lane has, nor if everyone who asked has gone while it waited: then it
    /// is taken off the list unasked, so that sessions that begin transactions only to end them leave no work behind.
    fn claim(&mut self) -> bool {
        let mut under_way = self.shared.under_way();
        // A new asker gets its receiver under the same lock.
        if self.progress.receiver_count() == 0 && matches!(*self.progress.borrow(), Progress::Queued) {
            under_way.remove(&self.key, &self.progress, &self.shared.metrics);
            return false;
        }
        self.has_claimed = self.progress.send_if_modified(|progress| {
            let is_free = matches!(progress, Progress::Queued);
            if is_free {
                *progress = Progress::Put;
            }
            is_free
        });
        self.has_claimed
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let mut under_way = self.shared.under_way();
        if let Some(tasks) = under_way.tasks.get_mut(self.purpose.index()) {
            *tasks = tasks.saturating_sub(1);
        }
        if self.has_claimed {
            under_way.remove(&self.key, &self.progress, &self.shared.metrics);
            // However it ended: nobody waits for an answer that does not come.
            self.progress.send_if_modified(|progress| {
                let is_open = !matches!(progress, Progress::Answered(_));
                if is_open {
                    *progress = Progress::Answered(failed(Failure::Timeout));
                }
                is_open
            });
        }
    }
}

/// The servers of `/etc/resolv.conf`, without its search list and options.
fn system_servers() -> Result<Vec<NameServer>, Error> {
    let (config, _) = read_system_conf().map_err(|e| Error::SystemConfiguration(e.to_string()))?;
    let servers = config.name_servers().iter().flat_map(|server| {
        let udp = server.connections.iter().filter(|c| c.protocol == ProtocolConfig::Udp);
        udp.map(|connection| SocketAddr::new(server.ip, connection.port).into())
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
