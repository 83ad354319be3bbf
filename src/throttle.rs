//! Keeps a fault that comes up thousands of times a second from drowning the log: one line in an interval. Leaf.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets through one in an interval, and counts those that it holds back.
#[derive(Debug)]
pub struct Throttle {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When it last let one through.
    last: Option<Instant>,
    /// How often it was asked since.
    since: u64,
}

impl Throttle {
    /// Lets the first one through, and each that comes `interval` or more after the last that it let through.
    pub const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new(State { last: None, since: 0 }) }
    }

    /// It has come up again at `now`. If it may be said: how often it has since it was said last, this time included.
    pub fn permits(&self, now: Instant) -> Option<u64> {
        // The numbers are right after every statement.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.since = state.since.saturating_add(1);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_an_interval_with_what_has_come_up_since() {
        let (throttle, start) = (Throttle::new(Duration::from_mins(1)), Instant::now());
        let cases = [(0, Some(1)), (0, None), (1, None), (59, None), (60, Some(4)), (61, None), (500, Some(2))];
        for (second, expected) in cases {
            assert_eq!(throttle.permits(start + Duration::from_secs(second)), expected, "{second}");
        }
    }
}
