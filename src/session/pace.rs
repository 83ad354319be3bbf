//! Tells a slow client from one that only drips, by the octets of a message in windows of time. Pure.
//!
//! Only time spent waiting for the client counts: a slow disk of ours is not its fault.

use std::time::Duration;

/// How a client sends a message.
#[derive(Debug)]
pub struct Pace {
    window: Duration,
    /// Octets that each window needs.
    quota: u64,
    waited: Duration,
    taken: u64,
}

impl Pace {
    /// At least `rate` octets a second, in each window.
    pub fn new(rate: u64, window: Duration) -> Self {
        let milliseconds = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let quota = rate.saturating_mul(milliseconds) / 1000;
        Self { window, quota, waited: Duration::ZERO, taken: 0 }
    }

    /// How much longer the client may be waited for before the window ends.
    pub fn left(&self) -> Duration {
        if self.quota == 0 { Duration::MAX } else { self.window.saturating_sub(self.waited) }
    }

    /// Counts octets that came after a wait. False if the window has ended with too few of them.
    #[must_use]
    pub fn keeps_up(&mut self, waited: Duration, octets: usize) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.taken = self.taken.saturating_add(octets as u64);
        if self.waited < self.window {
            return true;
        }
        let enough = self.taken >= self.quota;
        (self.waited, self.taken) = (Duration::ZERO, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many seconds a client is cut that sends `octets` every `pause` seconds, if within an hour.
    fn cut(rate: u64, octets: usize, pause: u64) -> Option<u64> {
        let mut pace = Pace::new(rate, Duration::from_secs(180));
        (1..=3600 / pause).find(|_| !pace.keeps_up(Duration::from_secs(pause), octets)).map(|n| n * pause)
    }

    #[test]
    fn who_drips_is_cut_and_who_is_slow_is_not() {
        let cases = [
            ("a drop each second", 100, 1, 1, Some(180)),
            ("a little less than it may", 100, 99, 1, Some(180)),
            ("what it may", 100, 100, 1, None),
            ("a satellite", 100, 300, 1, None),
            ("long pauses, large pieces", 100, 18_000, 170, None),
            ("no bound", 0, 1, 1, None),
        ];
        for (name, rate, octets, pause, expected) in cases {
            assert_eq!(cut(rate, octets, pause), expected, "{name}");
        }
    }

    #[test]
    fn who_sends_much_at_first_may_not_drip_for_ever() {
        let mut pace = Pace::new(100, Duration::from_secs(180));
        assert!(pace.keeps_up(Duration::from_secs(1), 1 << 20));
        assert_eq!(pace.left(), Duration::from_secs(179));
        assert!(pace.keeps_up(Duration::from_secs(179), 1), "the first window had enough");
        assert_eq!(pace.left(), Duration::from_secs(180));
        assert!(!pace.keeps_up(Duration::from_secs(180), 1));
    }
}
