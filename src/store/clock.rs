//! How far the host's clock is believed where it alone says what is old and to be deleted.
//!
//! A machine that begins with a wrong clock and is put right a minute later would have deleted all that it keeps. So a
//! clock that has leapt ahead of what was last stored, or of its own pace, counts only once it has stayed there.

use std::time::{Duration, Instant};

/// The clock as it is believed. Times are seconds since 1970.
#[derive(Debug)]
pub struct Clock {
    /// When it was believed last, and what it was then.
    believed: (Instant, i64),
    /// Since when it is not.
    doubted: Option<Instant>,
}

impl Clock {
    /// At `now`, where it shows `shown` and the newest thing that is stored is from `newest`.
    pub fn new(newest: Option<i64>, shown: i64, now: Instant) -> Self {
        Self { believed: (now, newest.map_or(shown, |newest| newest.min(shown))), doubted: None }
    }

    /// What to go by at `now`, when it shows `shown`: that, or less.
    pub fn time(&mut self, shown: i64, now: Instant) -> i64 {
        let (since, time) = self.believed;
        let passed = now.saturating_duration_since(since).as_secs();
        let expected = time.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        let is_near = shown.saturating_sub(expected) <= LEAP;
        let doubted = *self.doubted.get_or_insert(now);
        if !is_near && now.saturating_duration_since(doubted) < PROBATION {
            return expected;
        }
        self.believed = (now, shown);
        self.doubted = None;
        shown
    }
}

/// Seconds that it may be ahead and is believed all the same: that much is kept in any case.
const LEAP: i64 = 2 * 86_400;
/// How long it must have been ahead, while the gate runs, to be believed: clocks are set within that. The gate may have
/// been off for long, and what is old has to go some time.
const PROBATION: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_leaps_ahead_counts_once_it_has_stayed_there_for_an_hour() {
        const T: i64 = 1_790_000_000;
        const DAY: i64 = 86_400;
        // The newest thing stored, and rows of (seconds since the start, what is shown, what is gone by).
        let cases: [(Option<i64>, &[(u64, i64, i64)]); 7] = [
            // Nothing is stored: nothing can be lost.
            (None, &[(0, T + 400 * DAY, T + 400 * DAY)]),
            (Some(T), &[(0, T + 60, T + 60), (600, T + 660, T + 660), (1200, T, T)]),
            (Some(T), &[(0, T + 2 * DAY, T + 2 * DAY)]),
            // Rows of tomorrow, from when the clock was ahead.
            (Some(T + 400 * DAY), &[(0, T, T), (600, T + 600, T + 600)]),
            // Set right within the hour.
            (Some(T), &[(0, T + 400 * DAY, T), (600, T + 400 * DAY, T + 600), (1200, T + 1200, T + 1200)]),
            // It was right: the gate had been off.
            (Some(T), &[(0, T + 9 * DAY, T), (3599, T + 9 * DAY, T + 3599), (3600, T + 9 * DAY, T + 9 * DAY)]),
            // It leaps while the gate runs, twice.
            (Some(T), &[(0, T, T), (600, T + 9 * DAY, T + 600), (1200, T, T), (4800, T + 9 * DAY, T + 3600)]),
        ];
        for (row, (newest, looks)) in cases.into_iter().enumerate() {
            let start = Instant::now();
            let shown = looks.first().map_or(T, |look| look.1);
            let mut clock = Clock::new(newest, shown, start);
            for (second, shown, expected) in looks {
                assert_eq!(clock.time(*shown, start + Duration::from_secs(*second)), *expected, "row {row}, {second}");
            }
        }
    }
}
