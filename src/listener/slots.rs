//! Bounds the sessions at a time; the bound may change while they run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::{IntGauge, Registry};

/// One slot for each session that may be open; shared by all listeners.
pub struct Slots {
    free: Arc<Semaphore>,
    limit: AtomicU32,
    gauge: IntGauge,
}

impl Slots {
    /// So many slots, all free; with their metric.
    pub fn new(limit: u32, registry: &Registry) -> Self {
        let gauge = registry.gauge(
            "dmarcgate_sessions_limit",
            "Sessions that may be open at a time: limits.sessions, or what the limit of open files has room for.",
        );
        gauge.set(limit.into());
        Self { free: Arc::new(Semaphore::new(size(limit))), limit: AtomicU32::new(limit), gauge }
    }

    /// A slot, which is free again when it is dropped; none if all are taken.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// The next slot that comes free, in the order of those who wait; none only when nobody gives any out any more.
    pub async fn next(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// How many there are.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes their number. Where it shrinks below what is taken, no session is ended, but none is let in before
    /// enough have ended. Call it inside the runtime.
    pub fn resize(&self, limit: u32) {
        let before = self.limit.swap(limit, Ordering::Relaxed);
        self.gauge.set(limit.into());
        if limit > before {
            self.free.add_permits(size(limit - before));
        } else if limit < before {
            // It stands first in the queue, and whatever comes free is its own, until it has them all.
            let surplus = Arc::clone(&self.free).acquire_many_owned(before - limit);
            tokio::spawn(async move {
                if let Ok(permits) = surplus.await {
                    permits.forget();
                }
            });
        }
    }

    /// Waits until all are free: all sessions have ended.
    pub async fn all_free(&self) {
        // Fails only for a semaphore that is closed, and nobody closes it.
        let _ = self.free.acquire_many(self.limit()).await;
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settle() {
        // The task that takes slots away has to run; there is no other.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn growing_lets_more_in_and_shrinking_waits_for_those_who_are() {
        let registry = Registry::new();
        let slots = Slots::new(2, &registry);
        let (first, second) = (slots.take(), slots.take());
        assert!(first.is_some() && second.is_some() && slots.take().is_none());
        slots.resize(3);
        let third = slots.take();
        assert!(third.is_some() && slots.take().is_none());

        slots.resize(1);
        drop((first, second));
        settle().await;
        assert!(slots.take().is_none(), "the third is still there, and there is room for one");
        drop(third);
        settle().await;
        let next = slots.take();
        assert!(next.is_some() && slots.take().is_none());
        assert!(registry.render().contains("dmarcgate_sessions_limit 1\n"));
        drop(next);
        slots.all_free().await;
    }

    #[tokio::test]
    async fn a_bound_that_changes_its_mind_ends_where_it_was() {
        let slots = Slots::new(4, &Registry::new());
        let taken: Vec<_> = (0..4).map(|_| slots.take()).collect();
        slots.resize(1);
        slots.resize(4);
        settle().await;
        drop(taken);
        settle().await;
        let again: Vec<_> = (0..5).filter_map(|_| slots.take()).collect();
        assert_eq!(again.len(), 4);
    }
}
