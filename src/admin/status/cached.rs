//! What was read from the store a while ago, read anew by one task at a time however many ask.
//!
//! A caller gets the last reading, and waits a moment where that is too old. A reading that took long is not repeated
//! soon, so that readings never take more than a twentieth of the time, whoever asks how often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A value that is read now and then. A clone is the same one.
#[derive(Debug)]
pub struct Cached<T> {
    state: Arc<Mutex<State>>,
    value: Arc<watch::Sender<Arc<T>>>,
    /// The least time from the end of one reading to the begin of the next.
    rest: Duration,
}

#[derive(Debug, Default)]
struct State {
    is_reading: bool,
    /// When the next reading may begin; none before the first.
    next: Option<Instant>,
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// One that holds `value` until it is read.
    pub fn new(value: T, rest: Duration) -> Self {
        Self { state: Arc::default(), value: Arc::new(watch::Sender::new(Arc::new(value))), rest }
    }

    /// The last reading; if it is too old, `read` is begun in a task of its own, which goes on if nobody waits any
    /// more, and waited for until `patience` is over.
    pub async fn value<F>(&self, patience: Duration, read: impl FnOnce() -> F) -> Arc<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut seen = self.value.subscribe();
        let is_current = {
            let mut state = self.state();
            let is_due = state.next.is_none_or(|next| next <= Instant::now());
            if is_due && !state.is_reading {
                state.is_reading = true;
                tokio::spawn(self.clone().keep(read()));
            }
            !is_due
        };
        if !is_current {
            // The sender is held by `self`.
            let _ = timeout(patience, seen.changed()).await;
        }
        let value = seen.borrow();
        Arc::clone(&value)
    }

    async fn keep(self, reading: impl Future<Output = T>) {
        // However the reading ends, another may follow.
        let _done = Done(&self.state);
        let begun = Instant::now();
        let value = reading.await;
        let rest = self.rest.max(begun.elapsed() * SHARE);
        self.state().next = Some(Instant::now() + rest);
        self.value.send_replace(Arc::new(value));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), value: Arc::clone(&self.value), rest: self.rest }
    }
}

/// Says at its end that nobody reads.
struct Done<'a>(&'a Mutex<State>);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_reading = false;
    }
}

/// How many times as long as a reading took it rests at least.
const SHARE: u32 = 19;

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough to be no part of a test.
    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn many_who_ask_at_once_cause_one_reading() {
        let cached = Cached::new(0, LONG);
        let readings = watch::Sender::new(0);
        let read = || {
            let mut open = readings.subscribe();
            async move {
                open.changed().await.unwrap();
                *open.borrow()
            }
        };
        let ask = || cached.value(LONG, read);
        let first = tokio::join!(ask(), ask(), ask(), async { readings.send_replace(1) });
        assert_eq!((*first.0, *first.1, *first.2), (1, 1, 1));
        assert_eq!(*ask().await, 1, "young enough: nobody is let read");

        cached.state().next = Some(Instant::now());
        assert_eq!(*cached.value(Duration::ZERO, read).await, 1, "the last reading, for a caller that can't wait");
        let second = tokio::join!(ask(), async { readings.send_replace(2) });
        assert_eq!(*second.0, 2, "the reading that was begun went on");
    }

    #[tokio::test]
    async fn a_reading_that_panics_is_tried_again() {
        async fn broken() -> i32 {
            panic!("no")
        }
        let cached = Cached::new(0, LONG);
        assert_eq!(*cached.value(Duration::from_millis(20), broken).await, 0);
        assert_eq!(*cached.value(LONG, || async { 7 }).await, 7);
    }

    #[tokio::test]
    async fn what_took_long_rests_long() {
        let cached = Cached::new(0, Duration::ZERO);
        let took = Duration::from_millis(30);
        let begun = Instant::now();
        let read = || async move {
            tokio::time::sleep(took).await;
            1
        };
        cached.value(LONG, read).await;
        assert!(cached.state().next.is_some_and(|next| next >= begun + took * (SHARE + 1)));
    }
}
