//! Tells the service manager how the gate is: ready, reloading, stopping, and alive (systemd's sd_notify protocol).
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is said. A message that can't be sent must not harm mail:
//! the manager draws its own conclusions.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::runtime::{Handle, RuntimeMetrics};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::Running;
use crate::listener::slots::Slots;
use crate::metrics::IntGauge;
use crate::readiness::Readiness;

/// What the status line is made of.
#[derive(Clone)]
pub(super) struct Sources {
    pub readiness: Readiness,
    pub slots: Arc<Slots>,
    pub active: IntGauge,
}

/// A reload that goes on as long as this value lives.
#[must_use]
pub struct Reloading(());

impl Reloading {
    /// Says that the configuration is being read again.
    pub fn begin() -> Self {
        // From version 253 on systemd wants to know since when, so as to tell one reload from the next.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
        Self(())
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        tell(&[NotifyState::Ready]);
    }
}

impl Running {
    /// Says that the gate serves: it listens and answers. Whether the upstream is there, too, is for `/readyz`; a start
    /// that waited for it would fail with it.
    pub fn tell_ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// Says that the gate stops, and how long that may take.
    pub(super) fn tell_stopping(&self) {
        let patience = u32::try_from((self.shutdown + MARGIN).as_micros()).unwrap_or(u32::MAX);
        let status = NotifyState::Status("stopping: running transactions may end");
        tell(&[NotifyState::Stopping, status, NotifyState::ExtendTimeoutUsec(patience)]);
    }
}

/// Shows that the gate is alive, if the manager watches that, and tells its state, until it is aborted.
pub(super) async fn run(sources: Sources) {
    if env::var_os(SOCKET).is_none() {
        return;
    }
    let mut limit = 0;
    let watched = sd_notify::watchdog_enabled(false, &mut limit).then(|| Duration::from_micros(limit));
    let period = watched.map_or(STATUS, |limit| (limit / 2).clamp(SHORTEST, STATUS));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut workers = Workers::default();
    let mut shown = String::new();
    loop {
        ticks.tick().await;
        if watched.is_some() {
            if workers.go_on(&Handle::current().metrics()) {
                tell(&[NotifyState::Watchdog]);
            } else {
                warn!("an I/O thread hangs: the service manager is not told that the gate is alive");
            }
        }
        let status = sources.status();
        if status != shown {
            tell(&[NotifyState::Status(&status)]);
            shown = status;
        }
    }
}

impl Sources {
    fn status(&self) -> String {
        let lacking = self.readiness.lacking();
        let readiness = match lacking.first() {
            None => "ready".to_owned(),
            Some((condition, reason)) => format!("not ready: {condition}: {reason}"),
        };
        format!("{readiness}; {} of {} sessions", self.active.get(), self.slots.limit())
    }
}

/// The runtime's I/O threads at the last look: how often each had gone to sleep or woken up, and how long it had been
/// busy in all.
#[derive(Debug, Default)]
struct Workers {
    seen: Vec<(u64, Duration)>,
}

impl Workers {
    /// Whether each thread waits for work, or has gone on since the last look. This runs on one of them, and would run
    /// on while all others hang.
    fn go_on(&mut self, metrics: &RuntimeMetrics) -> bool {
        let look = |i| (metrics.worker_park_unpark_count(i), metrics.worker_total_busy_duration(i));
        let now: Vec<_> = (0..metrics.num_workers()).map(look).collect();
        // An odd count is that of a thread that sleeps.
        let go_on = now.iter().enumerate().all(|(i, worker)| worker.0 % 2 == 1 || self.seen.get(i) != Some(worker));
        self.seen = now;
        go_on
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        debug!(error = %error, "the service manager can't be told");
    }
}

/// Names the service manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";
/// How often the status line is looked at.
const STATUS: Duration = Duration::from_secs(10);
/// The shortest time between two looks, whatever the manager wants.
const SHORTEST: Duration = Duration::from_millis(10);
/// What a stop takes beyond `timeouts.shutdown`: rows are written, the admin listener ends.
const MARGIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_hangs_is_noticed_and_one_that_waits_is_not() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let metrics = runtime.metrics();
        let mut workers = Workers::default();
        let all_wait = || (0..2).all(|i| metrics.worker_park_unpark_count(i) % 2 == 1);
        while !all_wait() {
            std::thread::yield_now();
        }
        assert!(workers.go_on(&metrics) && workers.go_on(&metrics), "both wait");

        let (go_on, hang) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel();
        let task = runtime.spawn(async move {
            entered.send(()).unwrap();
            hang.recv().unwrap();
        });
        inside.recv().unwrap();
        // What the thread did until it hung may count once.
        workers.go_on(&metrics);
        assert!(!workers.go_on(&metrics), "one hangs");
        go_on.send(()).unwrap();
        runtime.block_on(task).unwrap();
        while !all_wait() {
            std::thread::yield_now();
        }
        assert!(workers.go_on(&metrics), "both wait again");
    }
}
