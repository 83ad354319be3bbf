//! Mail a minute for some hours, from counters that others count: mail itself never waits for it.
//!
//! Whoever looks at the counters hands in what they say; the difference to the look before belongs to the minute of the
//! look. A task looks every few seconds, and each page does. So the minutes always add up to the counters, as long as
//! none has left at the old end.

use std::collections::VecDeque;

use serde::Serialize;

use crate::label::Label;
use crate::metrics::Samples;
use crate::session::metrics::Outcome;

/// Messages by outcome, in the order of [`Outcome::ALL`].
pub type Counts = [u64; OUTCOMES];

/// The last hours.
#[derive(Debug, Default)]
pub struct History {
    /// From the oldest on; minutes without mail are left out.
    minutes: VecDeque<Minute>,
    /// What the counters said at the last look.
    seen: Counts,
}

/// What one minute brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Minute {
    /// Its first second, since the epoch.
    pub begins: i64,
    /// Messages by outcome.
    #[serde(serialize_with = "by_name")]
    pub messages: Counts,
}

impl History {
    /// Looks at the counters at `now`, in seconds since the epoch.
    pub fn look(&mut self, now: i64, counts: Counts) {
        let begins = now - now.rem_euclid(MINUTE);
        let mut difference = [0; OUTCOMES];
        for ((difference, count), seen) in difference.iter_mut().zip(counts).zip(self.seen) {
            *difference = count.saturating_sub(seen);
        }
        self.seen = counts;
        if difference != [0; OUTCOMES] {
            match self.minutes.back_mut().filter(|last| last.begins >= begins) {
                // A clock that went back adds to the last minute that there is.
                Some(last) => last.messages.iter_mut().zip(difference).for_each(|(sum, more)| *sum += more),
                None => self.minutes.push_back(Minute { begins, messages: difference }),
            }
        }
        while self.minutes.front().is_some_and(|first| first.begins <= begins - KEPT) || self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }

    /// Minutes with mail, the oldest first.
    pub fn minutes(&self) -> Vec<Minute> {
        self.minutes.iter().copied().collect()
    }
}

/// What the counters say.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and never negative")]
pub fn counts(samples: &Samples) -> Counts {
    let mut counts = [0; OUTCOMES];
    for (count, outcome) in counts.iter_mut().zip(Outcome::ALL) {
        *count = samples.of("dmarcgate_messages_total", "outcome", outcome.as_str()) as u64;
    }
    counts
}

/// Counts under the names of the outcomes; those without messages are left out.
pub fn by_name<S: serde::Serializer>(counts: &Counts, serializer: S) -> Result<S::Ok, S::Error> {
    let named = Outcome::ALL.iter().map(|outcome| outcome.as_str()).zip(counts);
    serializer.collect_map(named.filter(|(_, count)| **count > 0))
}

/// How many outcomes there are.
pub const OUTCOMES: usize = Outcome::ALL.len();
/// Seconds of a minute.
pub const MINUTE: i64 = 60;
/// How many minutes are kept: three hours.
pub const MINUTES: usize = 180;
/// The same in seconds.
const KEPT: i64 = 180 * MINUTE;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accepted: u64, refused: u64) -> Counts {
        let mut counts = [0; OUTCOMES];
        counts[Outcome::Accepted.index()] = accepted;
        counts[Outcome::Refused.index()] = refused;
        counts
    }

    #[test]
    fn differences_belong_to_the_minute_of_the_look() {
        let mut history = History::default();
        for (now, counts) in [(60, of(1, 0)), (119, of(3, 0)), (119, of(3, 0)), (120, of(3, 1)), (400, of(9, 1))] {
            history.look(now, counts);
        }
        let minute = |begins, messages| Minute { begins, messages };
        assert_eq!(history.minutes(), [minute(60, of(3, 0)), minute(120, of(0, 1)), minute(360, of(6, 0))]);
        history.look(90, of(10, 1));
        assert_eq!(history.minutes()[2], minute(360, of(7, 0)), "a clock that went back");
        let json = serde_json::to_string(&history.minutes()[1]).unwrap();
        assert_eq!(json, r#"{"begins":120,"messages":{"refused":1}}"#);
    }

    #[test]
    fn what_is_older_than_three_hours_goes() {
        let mut history = History::default();
        for minute in 0..200 {
            history.look(minute * MINUTE, of(1 + minute.unsigned_abs(), 0));
        }
        assert_eq!((history.minutes().len(), history.minutes()[0].begins), (MINUTES, 20 * MINUTE));
        history.look(1_000_000, of(200, 0));
        assert_eq!(history.minutes(), []);
    }
}
