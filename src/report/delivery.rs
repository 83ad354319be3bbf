//! Sends the reports that are due: plans them, takes them up one by one, and settles what became of each.
//!
//! One task, off the path of mail. Whatever dies, whenever: a job that nobody settled is taken up again when its lease
//! has run out, with the message that was on its way, if one was. Every step asks the database, and nothing is assumed
//! about it in between; while it does not answer, nothing is sent. `attempt` handles a single job.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::calendar::{Date, SECONDS_PER_DAY};
use crate::causes::Causes;
use crate::clock::epoch_seconds_signed;
use crate::dns::Resolver;
use crate::domain::Domain;
use crate::evaluation::discovery::Rules;
use crate::label_enum;
use crate::metrics::Registry;
use crate::report::aggregate::{Configuration, Period, PrivateAddresses, Reporter};
use crate::report::attempt::Ending;
use crate::report::bounce::{self, Bounce, BounceKind, Key};
use crate::report::failure_reporter;
use crate::report::message::Author;
use crate::report::metrics::{JobOutcome, Metrics};
use crate::report::recipient::Address;
use crate::report::schedule::{self, Event, Plan, Progress};
use crate::report::{relay, signing};
use crate::store::jobs::{CLOCK_TOLERANCE, Claim, Job, JobState, Jobs, NewJob, Planned, Room, Settlement};
use crate::store::{self, Error, Location, SETTLING};

label_enum! {
    /// Whether a domain has to earn its reports.
    pub enum Reputation {
        /// One whose own mail was refused throughout gets none.
        On = "on",
        /// Every domain gets them.
        Off = "off",
    }
}

/// What the operator sets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether reports are sent.
    pub enabled: bool,
    /// Who reports.
    pub reporter: Reporter,
    /// What is done with messages from private addresses.
    pub private: PrivateAddresses,
    /// Seconds over which the reports of a period are spread.
    pub window: i64,
    /// Attempts within a minute.
    pub rate: i64,
    /// Reports to one address within 24 hours.
    pub daily_cap: i64,
    /// Who gets none.
    pub denied: Vec<Denial>,
    /// Whether a domain has to earn its reports.
    pub reputation: Reputation,
    /// Where reports are written to instead of being sent.
    pub dry_run: Option<PathBuf>,
    /// Seconds for which the outcome of a report is kept.
    pub keep: i64,
    /// The domain that bounces of reports go to; none: they go to the sender's own address.
    pub bounce_domain: Option<Domain>,
    /// The From address and name.
    pub author: Author,
    /// What they are signed with.
    pub keys: Arc<[signing::Key]>,
    /// Who takes them.
    pub relay: relay::Settings,
    /// What is set of failure reports.
    pub failure: failure_reporter::Settings,
}

impl Settings {
    /// Whether the operator wants no reports on a domain, or none to an address.
    pub(super) fn denies(&self, policy_domain: &Domain, address: &Address) -> bool {
        let text = address.to_string();
        self.denied.iter().any(|denial| match denial {
            Denial::Address(denied) => denied.eq_ignore_ascii_case(&text),
            Denial::Domain(domain) => address.domain().is_within(domain) || policy_domain.is_within(domain),
        })
    }

    /// Whether an address is one of our own, so that reports to it would come back.
    pub(super) fn is_own(&self, address: &Address) -> bool {
        let own = self.author.address.to_string();
        own.eq_ignore_ascii_case(&address.to_string()) || self.bounce_domain.as_ref() == Some(address.domain())
    }
}

/// Who gets no reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// Reports on these domains, and reports to hosts of these names; with all below them.
    Domain(Domain),
    /// This address, lower case.
    Address(String),
}

/// Sends reports. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    shared: Arc<Shared>,
    /// Gets a line for each attempt.
    listener: Option<mpsc::UnboundedSender<String>>,
}

/// Jobs, and how much room there is for them.
type Batch<'a> = (&'a [NewJob], Room);

/// What all attempts share.
pub(super) struct Shared {
    location: Location,
    jobs: Mutex<Option<Jobs>>,
    pub(super) resolver: Resolver,
    pub(super) rules: watch::Receiver<Arc<Rules>>,
    pub(super) metrics: Metrics,
    /// A name unique to this process.
    pub(super) holder: String,
    /// What signs the addresses for bounces, once it was read from the store.
    key: OnceCell<Key>,
    /// Seconds by which this host's clock is ahead of the store's, when it was last looked at.
    ahead: AtomicI64,
    /// When the store last did not answer, in seconds since the epoch; 0 if that was seen to, or it always did.
    failed: AtomicI64,
}

impl Delivery {
    /// A delivery that has not begun.
    pub fn new(
        location: Location,
        resolver: Resolver,
        rules: watch::Receiver<Arc<Rules>>,
        registry: &Registry,
    ) -> Self {
        let holder = format!("{}-{:016x}", std::process::id(), rand::random::<u64>());
        let metrics = Metrics::new(registry);
        let (jobs, key) = (Mutex::new(None), OnceCell::new());
        let (ahead, failed) = (AtomicI64::new(0), AtomicI64::new(0));
        let shared = Shared { location, jobs, resolver, rules, metrics, holder, key, ahead, failed };
        Self { shared: Arc::new(shared), listener: None }
    }

    /// One that also tells `listener` of each attempt, in a line.
    #[must_use]
    pub fn telling(self, listener: mpsc::UnboundedSender<String>) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// Sends what is due until `stop` says so; what is on its way then is brought to its end. While `behind` says that
    /// rows are late, nothing is sent, for two days at most: rows that arrive after their report was sent are in no
    /// report. For the sake of other gates' rows none are planned for a while after the store did not answer.
    pub async fn run(
        self,
        mut settings: watch::Receiver<Option<Arc<Settings>>>,
        behind: watch::Receiver<bool>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut planned = None;
        let mut lag = Lag::default();
        let mut outage = Outage::default();
        // Other gates may have begun with this one, when the server was back.
        if let Location::Postgres(_) = self.shared.location {
            outage.seen(epoch_seconds_signed());
        }
        while !*stop.borrow() {
            let now = epoch_seconds_signed();
            let in_force = settings.borrow_and_update().clone();
            let is_behind = *behind.borrow();
            let waits = lag.holds(is_behind, now);
            if is_behind {
                outage.seen(now);
            }
            match self.shared.failed.swap(0, Ordering::Relaxed) {
                0 => {}
                failed => outage.seen(failed),
            }
            if let Some(in_force) = in_force.filter(|settings| settings.enabled && !waits) {
                if planned.is_none_or(|at| now - at >= PLANNING_INTERVAL || now < at) && !outage.holds(now) {
                    match self.plan(&in_force).await {
                        Ok(()) => planned = Some(now),
                        Err(cause) => error!(error = %Causes(&cause), "reports can't be planned"),
                    }
                }
                match self.round(&in_force, &stop).await {
                    Ok(_) => {
                        self.shared.metrics.last_run.set(epoch_seconds_signed());
                        self.count_unfinished().await;
                    }
                    Err(cause) => error!(error = %Causes(&cause), "reports wait: the store does not answer"),
                }
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                // The sender goes with the gate.
                changed = settings.changed() => if changed.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Puts the jobs of all periods that have ended into the store, and takes old ones out.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn plan(&self, settings: &Settings) -> Result<(), Error> {
        let now = self.look_at_clock().await?;
        let mut left_out = 0;
        let rules = Arc::clone(&self.shared.rules.borrow());
        let (receiver, window) = (&settings.reporter.receiver, settings.window);
        let plan = Plan { receiver, window, suffixes: &rules.suffixes };
        for day in schedule::days(now) {
            let mut after = String::new();
            loop {
                let domains = self.with_jobs(async |jobs| jobs.policy_domains(day, &after).await).await?;
                let Some(last) = domains.last() else { break };
                after.clone_from(last);
                let mut new: Vec<NewJob> = Vec::new();
                for domain in &domains {
                    let policies = self.with_jobs(async |jobs| jobs.policies(day, domain).await).await?;
                    let found = policies.iter().map(|(policy, part)| {
                        (Configuration::from(policy), Period::of_hours(day, part.begin_hour, part.hours))
                    });
                    let mut ripe: Vec<_> = found.filter(|(_, period)| schedule::is_ripe(*period, now)).collect();
                    ripe.dedup();
                    new.extend(ripe.iter().flat_map(|(policy, period)| schedule::jobs(policy, *period, &plan)));
                }
                left_out += self.put((&new, Room::First), now).await?.left_out;
            }
        }
        let before = self.shared.metrics.left_out.get();
        self.shared.metrics.left_out.set(i64::try_from(left_out).unwrap_or(i64::MAX));
        if self.shared.metrics.left_out.get() > before {
            warn!(left_out, "reports are not sent: one organization would have more than its share of the day");
        }
        let before = now.saturating_sub(settings.keep);
        self.with_jobs(async |jobs| jobs.prune(before).await).await?;
        let before = now.saturating_sub(KEEP_FAILURE_REPORTS);
        self.with_jobs(async |jobs| jobs.forget_failure_reports(before).await).await?;
        Ok(())
    }

    /// Puts jobs in, as far as there is room for their organizations, and counts those that are new.
    pub(super) async fn put(&self, (jobs, room): Batch<'_>, now: i64) -> Result<Planned, Error> {
        let rules = Arc::clone(&self.shared.rules.borrow());
        let shares = schedule::shares(room, &rules.suffixes);
        let planned = self.with_jobs(async |store| store.plan(jobs, &shares, now).await).await?;
        self.shared.metrics.planned.inc_by(planned.new);
        Ok(planned)
    }

    /// Takes up jobs, several at a time, until none is due, the rate is used up or `stop` says so. Says how many.
    ///
    /// # Errors
    ///
    /// The store's; jobs that were under way are taken up again when their leases have run out.
    pub async fn round(&self, settings: &Arc<Settings>, stop: &watch::Receiver<bool>) -> Result<u64, Error> {
        let mut workers = JoinSet::new();
        for _ in 0..PARALLEL {
            workers.spawn(self.clone().work(Arc::clone(settings), stop.clone()));
        }
        let mut result = Ok(0);
        while let Some(ended) = workers.join_next().await {
            match (ended, &mut result) {
                (Ok(Ok(count)), Ok(sum)) => *sum += count,
                (Ok(Err(cause)), _) => result = Err(cause),
                (Ok(Ok(_)), Err(_)) => {}
                // A panic is a fault of ours; its job is taken up again.
                (Err(cause), _) => error!(error = %cause, "an attempt to send a report broke off"),
            }
        }
        result
    }

    /// Shows what is left to do; a store that did not answer is asked again after the next round.
    async fn count_unfinished(&self) {
        match self.with_jobs(async |jobs| jobs.unfinished().await).await {
            Ok(count) => self.shared.metrics.unfinished.set(count),
            Err(cause) => warn!(error = %Causes(&cause), "reports that wait can't be counted"),
        }
    }

    /// Makes every waiting job due now.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn hasten(&self) -> Result<u64, Error> {
        let now = self.look_at_clock().await?;
        self.with_jobs(async |jobs| jobs.hasten(now).await).await
    }

    /// What signs the addresses for bounces: one key for all gates on one store, made by the first who asks.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn key(&self) -> Result<&Key, Error> {
        let fetch = async || {
            let fresh: [u8; 32] = rand::random();
            let secret = self.with_jobs(async |jobs| jobs.secret("bounce", &fresh).await).await?;
            Ok(Key::new(&secret))
        };
        self.shared.key.get_or_try_init(fetch).await
    }

    /// Writes down what a bounce says of the report of `job`: the address gets none for a while if it takes no mail for
    /// good. A bounce of a report that is not known any more is of no use.
    ///
    /// # Errors
    ///
    /// The store's: nothing is written down.
    pub async fn bounced(&self, job: &str, bounce: &Bounce) -> Result<(), Error> {
        if bounce.kind == BounceKind::Failed {
            let now = epoch_seconds_signed();
            let reason = format!("bounce: {}", bounce.reason);
            self.with_jobs(async |jobs| {
                if let Some(address) = jobs.failure_report(job).await? {
                    jobs.suppress(&address, now, &reason).await?;
                }
                for job in jobs.find(job).await? {
                    if !job.recipient.is_empty() {
                        jobs.suppress(&job.recipient, now, &reason).await?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        self.shared.metrics.bounces.inc(bounce.kind);
        Ok(())
    }

    /// How many jobs are due at `now`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn waiting(&self, now: i64) -> Result<i64, Error> {
        self.with_jobs(async |jobs| jobs.waiting(now).await).await
    }

    /// The time by this host's clock, or by the store's if that is behind it: one gate whose clock is ahead would report
    /// on a day that is not over, and give up for all what has time left.
    ///
    /// # Errors
    ///
    /// The store's.
    async fn look_at_clock(&self) -> Result<i64, Error> {
        let ahead = self.with_jobs(async |jobs| jobs.ahead(epoch_seconds_signed).await).await?;
        self.shared.ahead.store(ahead, Ordering::Relaxed);
        Ok(self.now())
    }

    /// The time since the epoch in seconds, as `look_at_clock` last found it.
    pub fn now(&self) -> i64 {
        epoch_seconds_signed().saturating_sub(self.shared.ahead.load(Ordering::Relaxed))
    }

    async fn work(self, settings: Arc<Settings>, stop: watch::Receiver<bool>) -> Result<u64, Error> {
        let mut count = 0;
        while !*stop.borrow() {
            let now = self.look_at_clock().await?;
            let claim = Claim { holder: &self.shared.holder, now, lease: LEASE, rate: settings.rate };
            let Some(job) = self.with_jobs(async |jobs| jobs.claim(&claim).await).await? else { break };
            let ending = self.attempt(&settings, &job).await?;
            self.settle(&job, &ending).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Writes down what became of a job, counts it and logs it.
    async fn settle(&self, job: &Job, ending: &Ending) -> Result<(), Error> {
        let now = self.now();
        let progress = Progress { state: job.state, attempts: job.attempts, deadline: job.planned.deadline };
        let Some(transition) = schedule::next(progress, ending.event, now) else { return Ok(()) };
        let settlement = Settlement {
            holder: &self.shared.holder,
            now,
            state: transition.state,
            due: transition.due,
            // Only what has departed has an end of data that could have been answered.
            answered: i64::from(ending.departed.is_some() && transition.answered),
            effort: ending.event.effort(),
            note: &ending.note,
        };
        let refused = ending.recipient.as_deref().filter(|_| ending.event == Event::DestinationRefused);
        // Nobody else takes it up before.
        let until = ending.departed.unwrap_or(job.lease) + CLOCK_TOLERANCE;
        let settle = async || {
            let settle = async |jobs: &mut Jobs| {
                if let Some(address) = refused {
                    jobs.suppress(address, now, &ending.note).await?;
                }
                jobs.settle(&job.planned.id, &settlement).await
            };
            self.with_jobs(settle).await
        };
        // A report that was taken but not settled would be sent again.
        let mut pause = FIRST_SETTLING_PAUSE;
        let is_ours = loop {
            match settle().await {
                Err(cause) if self.now() < until => {
                    warn!(job = &*job.planned.id, error = %Causes(&cause), "the store does not take what became of a report");
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_SETTLING_PAUSE);
                }
                result => break result?,
            }
        };
        self.tell(job, ending, transition.state, is_ours);
        Ok(())
    }

    fn tell(&self, job: &Job, ending: &Ending, state: JobState, is_ours: bool) {
        let metrics = &self.shared.metrics;
        let outcome = if is_ours { ending.outcome(state) } else { JobOutcome::Lost };
        metrics.jobs.inc(outcome);
        if state == JobState::Sent && is_ours {
            metrics.messages.inc_by(ending.messages);
            metrics.possible_duplicates.inc_by(job.unanswered.unsigned_abs());
        }
        let day = Date::of_day(job.planned.begin.div_euclid(SECONDS_PER_DAY));
        if let Some(listener) = &self.listener {
            let (domain, destination) = (&job.planned.policy_domain, &job.planned.destination);
            // Nobody needs to listen.
            let _ = listener.send(format!("{outcome}: {domain} {day} to {destination}: {}", ending.note));
        }
        info!(
            job = &*job.planned.id,
            report_id = &*job.planned.report_id,
            policy_domain = &*job.planned.policy_domain,
            day = %day,
            destination = &*job.planned.destination,
            recipient = ending.recipient.as_deref().unwrap_or_default(),
            outcome = %outcome,
            state = %state,
            attempts = job.attempts,
            possible_duplicates = job.unanswered,
            messages = ending.messages,
            note = &*ending.note,
            "report"
        );
    }

    /// Does something with the jobs, in [`PATIENCE`]. A connection that failed is opened anew the next time.
    pub(super) async fn with_jobs<T>(&self, work: impl AsyncFnOnce(&mut Jobs) -> Result<T, Error>) -> Result<T, Error> {
        self.with_jobs_in_time(PATIENCE, work).await
    }

    async fn with_jobs_in_time<T>(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&mut Jobs) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut place = self.shared.jobs.lock().await;
        // Taken out, so that a connection whose answer was given up on is not used again.
        let jobs = place.take();
        let work = async {
            let mut jobs = match jobs {
                Some(jobs) => jobs,
                None => Jobs::open(&self.shared.location).await?,
            };
            work(&mut jobs).await.map(|done| (done, jobs))
        };
        let noted = |cause: Error| {
            self.shared.failed.store(epoch_seconds_signed(), Ordering::Relaxed);
            cause
        };
        let (done, jobs) = store::in_time(limit, work).await.map_err(noted)?;
        *place = Some(jobs);
        Ok(done)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

/// Holds reports back while rows are late.
#[derive(Debug, Default)]
struct Lag {
    /// Since when they are, in seconds since the epoch.
    since: Option<i64>,
}

impl Lag {
    /// Whether reports wait at `now`.
    fn holds(&mut self, is_behind: bool, now: i64) -> bool {
        let before = self.since;
        self.since = is_behind.then(|| before.unwrap_or(now));
        match (before, self.since) {
            (None, Some(_)) => info!("reports wait: rows of this gate are yet to come into the store"),
            (Some(_), None) => info!("reports go on: the store has the rows of this gate"),
            _ => {}
        }
        self.since.is_some_and(|since| (0..LONGEST_LAG).contains(&(now - since)))
    }
}

/// Holds planning back when the store was away: other gates have rows of their own that were to come in meanwhile, and
/// try again in their own time.
#[derive(Debug, Default)]
struct Outage {
    /// When it first did not answer, and when last; none once it was back for long enough. In seconds since the epoch.
    seen: Option<(i64, i64)>,
}

impl Outage {
    /// Takes down that the store did not answer at `now`.
    fn seen(&mut self, now: i64) {
        let (first, last) = self.seen.unwrap_or((now, now));
        self.seen = Some((first, last.max(now)));
    }

    /// Whether planning waits at `now`; not for ever, where the store comes and goes.
    fn holds(&mut self, now: i64) -> bool {
        self.seen = self.seen.filter(|(_, last)| (0..SETTLING).contains(&(now - last)));
        self.seen.is_some_and(|(first, _)| now - first < LONGEST_LAG)
    }
}

/// How long the store may take for one step, including opening it: a server that is cut off says nothing, and all other
/// work waits. The longest step looks through the rows of a day, for seconds; a server ends a statement after 30.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds for which reports wait for rows that are late: a day is left then until the first of them are given up.
const LONGEST_LAG: i64 = 2 * SECONDS_PER_DAY;
/// Between two looks at what is due.
const PAUSE: Duration = Duration::from_secs(15);
/// Seconds between two plannings: rows of a period may come late.
const PLANNING_INTERVAL: i64 = 10 * 60;
/// Seconds for which the recipient of a failure report is remembered: as long as its bounce address is valid.
const KEEP_FAILURE_REPORTS: i64 = (bounce::LIFETIME + 1) * SECONDS_PER_DAY;
/// Attempts at the same time: a relay that takes its time over each message must not make a night too short.
const PARALLEL: usize = 4;
/// Seconds for which a job is held until its message is sent: enough for building the largest report and for all the
/// time a relay may take over the commands before it.
pub(super) const LEASE: i64 = 30 * 60;
/// The pauses between attempts to settle a job while the store fails: from this one, doubled each time,
const FIRST_SETTLING_PAUSE: Duration = Duration::from_secs(2);
/// up to this one.
const LAST_SETTLING_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns;

    fn delivery(directory: &tempfile::TempDir) -> Delivery {
        let registry = Registry::new();
        let servers =
            vec![dns::NameServer { address: "127.0.0.1:53".parse().unwrap(), link: dns::server::Link::Clear }];
        let settings = dns::Settings { servers, ..dns::Settings::default() };
        let resolver = Resolver::new(settings, dns::Metrics::new(&registry)).unwrap();
        let location = Location::Sqlite(directory.path().join("store.db"));
        Delivery::new(location, resolver, watch::Sender::new(Arc::default()).subscribe(), &registry)
    }

    #[test]
    fn reports_wait_for_rows_that_are_late_but_not_for_ever() {
        let mut lag = Lag::default();
        let day = SECONDS_PER_DAY;
        let steps = [
            ("in time", false, 0, false),
            ("late", true, 10, true),
            ("late for a day", true, 10 + day, true),
            ("late for two days", true, 10 + 2 * day, false),
            ("in time again", false, 11 + 2 * day, false),
            ("late again", true, 12 + 2 * day, true),
            ("the clock was set back", true, 12, false),
        ];
        for (name, is_behind, now, expected) in steps {
            assert_eq!(lag.holds(is_behind, now), expected, "{name}");
        }
    }

    #[test]
    fn planning_waits_for_rows_of_others_when_the_store_was_away_but_not_for_ever() {
        let mut outage = Outage::default();
        assert!(!outage.holds(5), "it was never away");
        outage.seen(100);
        outage.seen(160);
        assert!(outage.holds(160) && outage.holds(160 + SETTLING - 1));
        assert!(!outage.holds(160 + SETTLING));
        outage.seen(5000);
        assert!(!outage.holds(4990), "the clock was set back");
        let begin = 10_000;
        for now in (begin..begin + 3 * SECONDS_PER_DAY).step_by(60) {
            outage.seen(now);
            assert_eq!(outage.holds(now), now < begin + LONGEST_LAG, "one that comes and goes is no reason for ever");
        }
    }

    #[tokio::test]
    async fn a_store_that_says_nothing_is_asked_anew_over_another_connection() {
        let directory = tempfile::tempdir().unwrap();
        let delivery = delivery(&directory);
        assert_eq!(delivery.waiting(0).await.unwrap(), 0);
        assert!(delivery.shared.jobs.lock().await.is_some());
        let silent = delivery.with_jobs_in_time(Duration::from_millis(20), async |_| std::future::pending().await);
        let silent: Result<(), Error> = silent.await;
        assert!(silent.unwrap_err().to_string().contains("can't be used"));
        assert_ne!(delivery.shared.failed.load(Ordering::Relaxed), 0, "planning waits for other gates");
        assert!(delivery.shared.jobs.lock().await.is_none());
        assert_eq!(delivery.waiting(0).await.unwrap(), 0);
    }
}
