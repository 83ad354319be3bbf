//! Keeps a panic to the work that it happened in: a fault of ours in one message never becomes the fate of others.
//!
//! What panics is dropped at once and never polled or used again, so that no broken state is seen; its message is in
//! the log through the process's panic hook.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

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
}
