//! The resolver that all messages share: cache, questions under way, bounds.
//!
//! A question is put by a task of its own (`asker`), which fills the cache: a client that leaves cancels nobody else's
//! question. All askers of one name and type, for whatever purpose, wait for one query. What one client network may
//! have under way is bounded (`share`). The evidence and the budget of a message are its [`MessageLookup`]'s.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use self::asker::{Asker, Progress, UnderWay};
use self::silence::{Silence, Turn};
use super::cache::{Cache, Key};
use super::lane::{PerLane, Purpose};
use super::message_lookup::MessageLookup;
use super::metrics::{Metrics, Source};
use super::share::{Share, SharePlace, Shares};
use super::transport::Transport;
use super::{Answer, Failure, NameServer};
use crate::throttle::Throttle;
use crate::tls::TrustError;

mod asker;
mod silence;
mod system;

/// How DNS is asked and what of it is remembered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name servers in the order of preference; empty: those of the system.
    pub servers: Vec<NameServer>,
    /// The file that names those of the system.
    pub system: PathBuf,
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
    /// Questions put to the name servers at one time, of which one client network may have an eighth: each needs a
    /// socket.
    pub outstanding: usize,
    /// Questions beyond these, for whichever networks need them first, so that a network alone is not held to its
    /// eighth.
    pub spare: usize,
    /// Questions that one message may ask; repeated ones count once.
    pub lookups_per_message: usize,
}

/// Why there is no resolver. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no server to ask.
    #[error("no name server is configured")]
    NoServers,
    /// No certificate of a name server could ever be trusted.
    #[error("can't verify name servers over TLS: {0}")]
    Trust(#[from] TrustError),
}

/// The resolver; cheap to clone.
#[derive(Clone)]
pub struct Resolver(Arc<Shared>);

struct Shared {
    transport: RwLock<Arc<Transport>>,
    /// None where the settings name the servers.
    system: Option<System>,
    silence: Mutex<Silence>,
    cache: Cache,
    under_way: Mutex<UnderWay>,
    /// Questions that may be put at one time.
    permits: PerLane<Semaphore>,
    /// Tasks of one lane.
    max_tasks: usize,
    shares: Arc<Shares>,
    /// How long a question must have been out before silence is the fault of DNS: one whole attempt.
    patience: Duration,
    lookups_per_message: AtomicUsize,
    metrics: Metrics,
}

/// The system's servers.
struct System {
    settings: Settings,
    /// Those that are asked.
    servers: Mutex<Vec<NameServer>>,
    log: Throttle,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            system: PathBuf::from("/etc/resolv.conf"),
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
            spare: 512,
            // SPF at its worst (ten terms of ten exchangers), 20 signatures, ARC and the walks of ten authors.
            lookups_per_message: 300,
        }
    }
}

impl Settings {
    /// What is odd about the servers of the system, where those are asked; for the operator.
    pub fn oddity(&self) -> Option<String> {
        if self.servers.is_empty() { system::read_or_local(&self.system).1 } else { None }
    }
}

/// For whom a question is asked.
pub(super) struct Asking<'a> {
    pub purpose: Purpose,
    /// The share of the client's network.
    pub share: &'a Arc<Share>,
    /// Becomes true when the message waits no longer.
    pub expired: watch::Receiver<bool>,
}

/// What came of an attempt to take part in a question.
enum Joined {
    /// The answer will appear here.
    Part(watch::Receiver<Progress>, Source),
    /// The question takes a place in the network's share. Where it waits for its turn behind others already, its answer
    /// may appear here before.
    NeedsPlace(Option<watch::Receiver<Progress>>),
    /// Too many wait already.
    Full,
}

impl Resolver {
    /// A resolver after `settings`; nothing is asked yet. Questions need a tokio runtime, this does not. Where neither
    /// the settings nor the system name a server, the host itself is asked, and the log says so.
    ///
    /// # Errors
    ///
    /// Nobody is known who could vouch for an encrypted server: the operator's fault.
    pub fn new(settings: Settings, metrics: Metrics) -> Result<Self, Error> {
        let (servers, oddity) = match settings.servers.is_empty() {
            true => system::read_or_local(&settings.system),
            false => (settings.servers.clone(), None),
        };
        if let Some(oddity) = oddity {
            warn!(warning = oddity, "the system has no usable configuration of DNS");
        }
        let places = settings.outstanding.clamp(1, Semaphore::MAX_PERMITS / 2);
        let spare = settings.spare.min(Semaphore::MAX_PERMITS / 2);
        let outstanding = places + spare;
        metrics.entries_limit.set(i64::try_from(settings.cache_entries).unwrap_or(i64::MAX));
        metrics.outstanding_limit.set(i64::try_from(outstanding).unwrap_or(i64::MAX));
        Ok(Self(Arc::new(Shared {
            transport: RwLock::new(Arc::new(Transport::new(&servers, &settings, metrics.tcp.clone())?)),
            silence: Mutex::default(),
            cache: Cache::new(&settings, metrics.evictions.clone()),
            under_way: Mutex::new(UnderWay::new(outstanding)),
            permits: PerLane::new(|| Semaphore::new(outstanding)),
            max_tasks: outstanding.saturating_mul(QUEUE),
            shares: Shares::new(places / NETWORKS, spare),
            patience: settings.timeout,
            lookups_per_message: AtomicUsize::new(settings.lookups_per_message),
            metrics,
            system: settings.servers.is_empty().then(|| System {
                settings,
                servers: Mutex::new(servers),
                log: Throttle::new(UNREADABLE_AGAIN),
            }),
        })))
    }

    /// Reads the system's servers anew, which others change (DHCP, a VPN), and asks those from now on. Where the file
    /// names none, those from before are asked on: it may be just being written. Nothing where the settings name the
    /// servers.
    pub async fn reread(&self) {
        let Some(system) = &self.0.system else { return };
        let path = system.settings.system.clone();
        let found =
            spawn_blocking(move || system::read(&path)).await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        let servers = match found {
            Ok(servers) if servers.is_empty() => return,
            Ok(servers) => servers,
            Err(error) => {
                if system.log.permits(Instant::now()).is_some() {
                    let file = system.settings.system.display();
                    warn!(%file, %error, "the system's name servers can't be read anew; those from before are asked");
                }
                return;
            }
        };
        let mut present = system.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == servers {
            return;
        }
        // In the clear, so that nothing can fail.
        if let Ok(transport) = Transport::new(&servers, &system.settings, self.0.metrics.tcp.clone()) {
            let shown = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            info!(servers = shown, "the system's name servers have changed");
            *self.0.transport.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(transport);
            *present = servers;
        }
    }

    /// Looks every minute whether the system's servers have changed; ends at once where the settings name the servers.
    pub async fn watch(self) {
        if self.0.system.is_none() {
            return;
        }
        let mut minute = interval(POLL);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once, when the file has just been read.
        minute.tick().await;
        loop {
            minute.tick().await;
            self.reread().await;
        }
    }

    /// Changes how many questions a message may ask; one that is being evaluated keeps its budget.
    pub fn set_lookups_per_message(&self, lookups: usize) {
        self.0.lookups_per_message.store(lookups, Ordering::Relaxed);
    }

    /// The look-ups of one message that comes from `client`. Clients of one network, and all that are not known, share
    /// what one network may have under way.
    pub fn for_message(&self, client: Option<IpAddr>) -> MessageLookup {
        let budget = self.0.lookups_per_message.load(Ordering::Relaxed);
        MessageLookup::new(self.clone(), self.0.shares.of(client), budget)
    }

    /// Asks the cache, then the servers; `key` is fit for DNS. Where the message waits no longer, the answer is a
    /// time-out if the question has been out for a whole attempt, whoever asked it first, and otherwise
    /// [`Failure::Deadline`]: DNS had no chance to answer, and the forger may have kept us busy.
    pub(super) async fn ask(&self, key: &Key, asking: Asking<'_>) -> (Answer, Source) {
        let (answer, source) = self.find(key, asking).await;
        self.0.metrics.lookups.inc(source);
        (answer, source)
    }

    /// No answer to a question of a message, for a bound of ours.
    pub(super) fn give_up(&self, failure: Failure) -> Answer {
        self.0.metrics.failures.inc(failure);
        Answer::failed(failure)
    }

    async fn find(&self, key: &Key, asking: Asking<'_>) -> (Answer, Source) {
        if let Some(answer) = self.0.cache.get(key).await {
            return (answer, Source::Cache);
        }
        let Asking { purpose, share, mut expired } = asking;
        let mut joined = self.0.join(key, purpose, None);
        if let Joined::NeedsPlace(receiver) = &mut joined {
            let place = tokio::select! {
                biased;
                place = share.place(purpose) => place,
                () = answered(receiver.as_mut()) => None,
                // The sender is the message's own, so that this ends with the expiry alone.
                _ = expired.wait_for(|expired| *expired) => None,
            };
            if place.is_some() {
                joined = self.0.join(key, purpose, place);
            }
        }
        let (mut receiver, source) = match joined {
            Joined::Part(receiver, source) => (receiver, source),
            Joined::NeedsPlace(Some(receiver)) => (receiver, Source::Shared),
            Joined::NeedsPlace(None) => return (self.give_up(Failure::Deadline), Source::Server),
            Joined::Full => return (self.give_up(Failure::Overload), Source::Server),
        };
        tokio::select! {
            biased;
            () = answered(Some(&mut receiver)) => {}
            _ = expired.wait_for(|expired| *expired) => {}
        }
        let answer = match &*receiver.borrow() {
            Progress::Answered(answer) => answer.clone(),
            Progress::Put(since) if since.elapsed() >= self.0.patience => Answer::failed(Failure::Timeout),
            Progress::Put(_) | Progress::Queued => self.give_up(Failure::Deadline),
        };
        (answer, source)
    }
}

/// Ends when the answer is there, or the task is gone without one since the runtime stops. Without a question, never.
async fn answered(receiver: Option<&mut watch::Receiver<Progress>>) {
    match receiver {
        Some(receiver) => _ = receiver.wait_for(|progress| matches!(progress, Progress::Answered(_))).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    /// Where the answer to `key` will appear, from a question under way or, given a place, from one that begins now.
    ///
    /// An identifier's asker takes part in whatever is under way. A policy's does, too, if the question was put to a
    /// server; one that only waits for its turn behind other identifiers gets a second turn in the policy lane.
    fn join(self: &Arc<Self>, key: &Key, purpose: Purpose, place: Option<SharePlace>) -> Joined {
        let mut under_way = self.under_way();
        let has_room = under_way.tasks(purpose) < self.max_tasks;
        let known = under_way.question(key).map(|question| (question.progress.subscribe(), question.in_policy_lane));
        let source = if known.is_some() { Source::Shared } else { Source::Server };
        if let Some((receiver, in_policy_lane)) = &known {
            let is_queued = matches!(*receiver.borrow(), Progress::Queued);
            let waits_behind_identifiers = purpose == Purpose::Policy && !in_policy_lane && is_queued;
            if !waits_behind_identifiers || !has_room {
                return Joined::Part(receiver.clone(), source);
            }
        } else if !has_room {
            return Joined::Full;
        }
        let Some(place) = place else { return Joined::NeedsPlace(known.map(|(receiver, _)| receiver)) };
        let (progress, receiver) = under_way.begin(key, purpose, &self.metrics);
        tokio::spawn(Asker::new(Arc::clone(self), purpose, place, key.clone(), progress).run());
        Joined::Part(receiver, source)
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers to ask now. A question that is out goes on with those that it began with.
    fn transport(&self) -> Arc<Transport> {
        Arc::clone(&self.transport.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the operator when no server answers any more, and when one does again.
    fn listen(&self, failure: Option<Failure>, now: Instant) {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = match failure {
            Some(Failure::Timeout | Failure::Network) => silence.unanswered(now),
            Some(failure) if failure.is_ours() => None,
            _ => silence.heard(),
        };
        drop(silence);
        match turn {
            None => {}
            Some(Turn::Silent(questions)) => {
                warn!(questions, "no name server answers: what hangs on DNS can't be evaluated (temperror)");
            }
            Some(Turn::Heard) => info!("name servers answer again"),
        }
    }
}

/// Questions that may wait, for each that may be put at one time: beyond that they would wait longer than a message.
const QUEUE: usize = 16;
/// One client network holds at most this fraction of the questions that may be out at one time, beside spare ones.
const NETWORKS: usize = 8;
/// Between two looks at the system's servers.
const POLL: Duration = Duration::from_mins(1);
/// How often the log tells that they can't be read.
const UNREADABLE_AGAIN: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests;
