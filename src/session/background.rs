//! Lets a session's task do two things at once: talk to its client, and look up what the evaluation needs.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// A future that is polled whenever the session waits for something else, and its result once it is there.
///
/// It lives in the session's own task: nothing is woken across threads, and it ends with the session.
pub enum Background<T> {
    /// Not done.
    Running(Pin<Box<dyn Future<Output = T> + Send>>),
    /// Done.
    Done(T),
}

impl<T: Unpin> Background<T> {
    /// Begins to run at the first wait.
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self::Running(Box::pin(future))
    }

    /// The result; waits for it.
    pub async fn finish(self) -> T {
        match self {
            Self::Running(future) => future.await,
            Self::Done(result) => result,
        }
    }
}

/// Waits for `foreground` while `background`, if there is one, goes on. It is pinned where it was made: taken by value it
/// would stand twice in the task of each session, some kilobytes.
pub async fn alongside<F: Future, T: Unpin>(
    background: &mut Option<Background<T>>,
    mut foreground: Pin<&mut F>,
) -> F::Output {
    poll_fn(|context| {
        if let Poll::Ready(output) = foreground.as_mut().poll(context) {
            return Poll::Ready(output);
        }
        if let Some(Background::Running(future)) = background
            && let Poll::Ready(result) = future.as_mut().poll(context)
        {
            *background = Some(Background::Done(result));
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn the_background_goes_on_while_the_foreground_waits() {
        let (done, is_done) = oneshot::channel();
        let mut background = Some(Background::new(async move {
            let _ = done.send(());
            7
        }));
        // The foreground ends only because the background was polled.
        alongside(&mut background, pin!(is_done)).await.unwrap();
        assert!(matches!(background, Some(Background::Done(7))));
        assert_eq!(background.unwrap().finish().await, 7);
    }
}
