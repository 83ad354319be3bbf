//! Puts one question to the name servers, when its turn comes, and answers all who wait for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use super::Shared;
use crate::dns::cache::Key;
use crate::dns::lane::{PerLane, Purpose};
use crate::dns::metrics::Metrics;
use crate::dns::share::SharePlace;
use crate::dns::transport::Resolution;
use crate::dns::{Answer, Failure, Miss};
use crate::label::Label;

/// The questions that are not answered yet, over both lanes: a name and type stand here once.
pub(super) struct UnderWay {
    questions: HashMap<Key, Question>,
    /// Tasks of each lane that have not ended.
    tasks: PerLane<usize>,
    crowd: Crowd,
}

/// One question that is not answered yet. A task of a lane waits for a permit of that lane to put it; where both lanes
/// have one, the first to get its permit puts the question and the other has nothing left to do.
pub(super) struct Question {
    pub progress: Arc<watch::Sender<Progress>>,
    /// Whether the policy lane has a task for it. Without one it is the identifier lane's.
    pub in_policy_lane: bool,
}

/// How far a question is.
#[derive(Debug, Clone)]
pub(super) enum Progress {
    /// It waits for a permit.
    Queued,
    /// It was put to a server, at this moment.
    Put(Instant),
    /// It is answered.
    Answered(Answer),
}

/// How many questions the servers have from us. A server that gets too many at a time refuses or drops what it would
/// have answered otherwise, so that its failures say nothing about the names.
struct Crowd {
    out: usize,
    /// From how many on it is a crowd.
    bound: usize,
    /// When it was one last.
    seen: Option<Instant>,
}

/// A task that puts a question, unless that is done or no longer needed when its turn comes.
pub(super) struct Asker {
    shared: Arc<Shared>,
    purpose: Purpose,
    key: Key,
    progress: Arc<watch::Sender<Progress>>,
    /// In the share of the network that asked first.
    place: Option<SharePlace>,
    /// Whether this one has taken the question over, and with it its end.
    has_claimed: bool,
}

/// One of the questions that the servers have from us.
struct Out(Arc<Shared>);

impl UnderWay {
    /// Without questions; `outstanding` bounds each lane.
    pub fn new(outstanding: usize) -> Self {
        let crowd = Crowd { out: 0, bound: CROWD.min(outstanding), seen: None };
        Self { questions: HashMap::new(), tasks: PerLane::default(), crowd }
    }

    /// The question for `key`.
    pub fn question(&self, key: &Key) -> Option<&Question> {
        self.questions.get(key)
    }

    /// How many questions there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// The tasks of a lane that have not ended.
    pub fn tasks(&self, purpose: Purpose) -> usize {
        *self.tasks.of(purpose)
    }

    /// Enters a task of a lane for `key`, and the question if it is not under way.
    pub fn begin(
        &mut self,
        key: &Key,
        purpose: Purpose,
        metrics: &Metrics,
    ) -> (Arc<watch::Sender<Progress>>, watch::Receiver<Progress>) {
        *self.tasks.of_mut(purpose) += 1;
        let question = self.questions.entry(key.clone()).or_insert_with(|| {
            metrics.outstanding.inc();
            Question { progress: Arc::new(watch::Sender::new(Progress::Queued)), in_policy_lane: false }
        });
        question.in_policy_lane |= purpose == Purpose::Policy;
        (Arc::clone(&question.progress), question.progress.subscribe())
    }

    /// Takes a question off the list, unless another one of that name has taken its place.
    fn remove(&mut self, key: &Key, progress: &Arc<watch::Sender<Progress>>, metrics: &Metrics) {
        if self.questions.get(key).is_some_and(|question| Arc::ptr_eq(&question.progress, progress)) {
            self.questions.remove(key);
            metrics.outstanding.dec();
        }
    }
}

impl Crowd {
    fn look(&mut self) {
        if self.out >= self.bound {
            self.seen = Some(Instant::now());
        }
    }

    fn enter(&mut self) {
        self.out += 1;
        self.look();
    }

    fn leave(&mut self) {
        self.look();
        self.out = self.out.saturating_sub(1);
    }

    /// Whether there was one at any time since `start`.
    fn was_there(&mut self, start: Instant) -> bool {
        self.look();
        self.seen.is_some_and(|seen| seen >= start)
    }
}

impl Out {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.under_way().crowd.enter();
        Self(Arc::clone(shared))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.0.under_way().crowd.leave();
    }
}

impl Asker {
    /// A task of a lane, which holds a place while the servers are busy with its question.
    pub fn new(
        shared: Arc<Shared>,
        purpose: Purpose,
        place: SharePlace,
        key: Key,
        progress: Arc<watch::Sender<Progress>>,
    ) -> Self {
        Self { shared, purpose, key, progress, place: Some(place), has_claimed: false }
    }

    /// Waits for its turn, puts the question and answers it.
    pub async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Never closed; while we have it, one question is put to a server.
        let permit = shared.permits.of(self.purpose).acquire().await;
        let start = Instant::now();
        if !self.claim(start) {
            return;
        }
        // Between an asker's look into the cache and its entry in the list another task may have filled it.
        if let Some(answer) = shared.cache.get(&self.key).await {
            self.progress.send_replace(Progress::Answered(answer));
            return;
        }
        let (name, record_type) = &self.key;
        shared.metrics.queries.inc(*record_type);
        let out = Out::new(&shared);
        let transport = shared.transport();
        let resolution = tokio::select! {
            resolution = transport.ask(name, *record_type) => Some(resolution),
            () = self.is_abandoned() => None,
        };
        let Some(resolution) = resolution else {
            let place = self.place.take();
            drop((self, permit));
            // The servers don't know that nobody waits any more.
            sleep(LINGER).await;
            drop((out, place));
            return;
        };
        let took = start.elapsed();
        shared.listen(resolution.failure(), Instant::now());
        shared.metrics.seconds.of(*record_type).observe(took.as_secs_f64());
        debug!(
            name = &**name,
            record_type = record_type.as_str(),
            outcome = resolution.in_a_word(),
            ttl = resolution.ttl.map(|ttl| ttl.as_secs()),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "asked DNS"
        );
        let answer = self.settle(resolution, start).await;
        self.progress.send_replace(Progress::Answered(answer));
    }

    /// Remembers what came of it, unless that says nothing about the name.
    async fn settle(&self, resolution: Resolution, start: Instant) -> Answer {
        let Shared { cache, metrics, .. } = &*self.shared;
        if let Err(Miss::Failed(failure)) = resolution.outcome {
            metrics.failures.inc(failure);
            // Whoever caused the crowd must not profit from what it breaks.
            if failure != Failure::Malformed && self.shared.under_way().crowd.was_there(start) {
                return Answer::failed(Failure::Overload);
            }
        }
        let answer = cache.fill(self.key.clone(), resolution).await;
        metrics.entries.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        answer
    }

    /// Takes the question over. Not if the other lane has, nor if everyone who asked has gone while it waited: then it
    /// is taken off the list unasked, so that sessions that begin transactions only to end them leave no work behind.
    fn claim(&mut self, now: Instant) -> bool {
        let mut under_way = self.shared.under_way();
        // A new asker gets its receiver under the same lock.
        if self.progress.receiver_count() == 0 && matches!(*self.progress.borrow(), Progress::Queued) {
            under_way.remove(&self.key, &self.progress, &self.shared.metrics);
            return false;
        }
        self.has_claimed = self.progress.send_if_modified(|progress| {
            let is_free = matches!(progress, Progress::Queued);
            if is_free {
                *progress = Progress::Put(now);
            }
            is_free
        });
        self.has_claimed
    }

    /// Ends when nobody has waited for the answer for a while; the question is off the list then.
    async fn is_abandoned(&self) {
        loop {
            self.progress.closed().await;
            sleep(ABANDONED).await;
            let mut under_way = self.shared.under_way();
            if self.progress.receiver_count() == 0 {
                under_way.remove(&self.key, &self.progress, &self.shared.metrics);
                return;
            }
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        let mut under_way = self.shared.under_way();
        let tasks = under_way.tasks.of_mut(self.purpose);
        *tasks = tasks.saturating_sub(1);
        if self.has_claimed {
            under_way.remove(&self.key, &self.progress, &self.shared.metrics);
            // However it ended: nobody is left waiting for an answer that does not come. That is our fault then.
            self.progress.send_if_modified(|progress| {
                let is_open = !matches!(progress, Progress::Answered(_));
                if is_open {
                    *progress = Progress::Answered(Answer::failed(Failure::Overload));
                }
                is_open
            });
        }
    }
}

/// Questions that the servers may have from us at one time before their failures count as ours. dnsmasq takes 150 at a
/// time from all who ask it, and refuses those beyond; it is the smallest that is known.
pub(super) const CROWD: usize = 100;
/// How long a question goes on that nobody waits for any more: most answers come within it, and are remembered.
const ABANDONED: Duration = Duration::from_secs(1);
/// How long servers may go on with a question that we gave up: dnsmasq keeps an unanswered one for so long.
const LINGER: Duration = Duration::from_secs(10);
