//! Runs futures together and takes their outputs in order.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Futures that run together and whose outputs are taken in order. The second is started only when the first has to
/// wait, so that what a cache answers at once spares the rest.
pub(super) struct InOrder<'a, T> {
    /// How many run at a time.
    width: usize,
    slots: VecDeque<Slot<'a, T>>,
}

enum Slot<'a, T> {
    Waiting(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
    Ready(T),
}

impl<'a, T> InOrder<'a, T> {
    /// These futures, none of them started.
    pub(super) fn new<F: Future<Output = T> + Send + 'a>(futures: impl Iterator<Item = F>) -> Self {
        Self { width: usize::MAX, slots: futures.map(|f| Slot::Waiting(Box::pin(f))).collect() }
    }

    /// At most so many of them run at a time, the first ones that have no output yet.
    pub(super) fn at_a_time(self, width: usize) -> Self {
        Self { width, ..self }
    }

    /// The output of the first that is left.
    pub(super) async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            if self.slots.front_mut().is_some_and(|front| !front.is_ready(context)) {
                let mut running = 1;
                for slot in self.slots.iter_mut().skip(1) {
                    if running >= self.width {
                        break;
                    }
                    running += usize::from(!slot.is_ready(context));
                }
                return Poll::Pending;
            }
            Poll::Ready(self.slots.pop_front().and_then(Slot::output))
        })
        .await
    }

    /// The outputs of all that are left.
    pub(super) async fn all(mut self) -> Vec<T> {
        let mut outputs = Vec::with_capacity(self.slots.len());
        while let Some(output) = self.next().await {
            outputs.push(output);
        }
        outputs
    }
}

impl<T> Slot<'_, T> {
    fn is_ready(&mut self, context: &mut Context<'_>) -> bool {
        if let Self::Waiting(future) = self {
            match future.as_mut().poll(context) {
                Poll::Ready(output) => *self = Self::Ready(output),
                Poll::Pending => return false,
            }
        }
        true
    }

    fn output(self) -> Option<T> {
        match self {
            Self::Ready(output) => Some(output),
            Self::Waiting(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::Waker;

    use super::*;

    #[test]
    fn so_many_run_at_a_time() {
        let (waiting, all) = ([false; 4], usize::MAX);
        let cases = [
            ("all", all, waiting, vec![0, 1, 2, 3]),
            ("one", 1, waiting, vec![0]),
            ("two", 2, waiting, vec![0, 1]),
            ("one with an output makes room", 2, [false, true, false, false], vec![0, 1, 2]),
            ("the first has its output at once", all, [true, false, false, false], vec![0]),
        ];
        for (name, width, ready, expected) in cases {
            let started = Mutex::new(Vec::new());
            let future = |(at, is_ready): (usize, bool)| {
                let started = &started;
                async move {
                    started.lock().unwrap().push(at);
                    if !is_ready {
                        pending::<()>().await;
                    }
                }
            };
            let mut futures = InOrder::new(ready.into_iter().enumerate().map(future)).at_a_time(width);
            let polled = pin!(futures.next()).poll(&mut Context::from_waker(Waker::noop()));
            assert_eq!(polled.is_ready(), ready[0], "{name}");
            assert_eq!(*started.lock().unwrap(), expected, "{name}");
        }
    }
}
