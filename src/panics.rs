//! Keeps a panic to the work that it happened in: a fault of ours in one message never becomes the fate of others.
//!
//! What panics is dropped at once and never polled or used again, so that no broken state is seen; its message is in
//! the log through the process's panic hook.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::sleep;
use tracing::error;

/// The work panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fault of ours: the work panicked")]
pub struct Panicked;

/// Waits for a future.
///
/// # Errors
///
/// It panicked.
pub async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

/// Calls a function.
///
/// # Errors
///
/// It panicked.
pub fn caught_in<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// Keeps work going that is to last as long as the process: where it panics, it begins anew after a pause. Ends when the
/// work does. `task` names it in the log.
pub async fn lasting<F: Future<Output = ()>>(task: &'static str, work: impl FnMut() -> F) {
    lasting_after(PAUSE, task, work).await;
}

async fn lasting_after<F: Future<Output = ()>>(pause: Duration, task: &'static str, mut work: impl FnMut() -> F) {
    while caught(work()).await.is_err() {
        error!(task, "a fault of ours: a task that is to last has panicked; it begins anew in a minute");
        sleep(pause).await;
    }
}

/// Before work begins anew: what panics each time is to cost no more than this.
const PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_value_to_those_who_wait() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let later = caught(async {
            tokio::task::yield_now().await;
            panic!("a fault of ours")
        });
        assert_eq!(later.await, Err::<(), _>(Panicked));
        assert_eq!(caught_in(|| 7), Ok(7));
        assert_eq!(caught_in(|| panic!("a fault of ours")), Err::<(), _>(Panicked));
    }

    #[tokio::test]
    async fn what_panicked_is_dropped() {
        struct Held(std::sync::Arc<()>);
        let held = std::sync::Arc::new(());
        let inner = Held(std::sync::Arc::clone(&held));
        let work = async move {
            let _inner = inner.0;
            tokio::task::yield_now().await;
            panic!("a fault of ours");
        };
        assert_eq!(caught(work).await, Err::<(), _>(Panicked));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn work_that_is_to_last_begins_anew_after_a_panic() {
        let mut begun = 0;
        let work = || {
            begun += 1;
            let is_sound = begun == 3;
            async move { assert!(is_sound, "a fault of ours") }
        };
        lasting_after(Duration::ZERO, "test", work).await;
        assert_eq!(begun, 3);
    }
}
