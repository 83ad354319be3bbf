//! Wall-clock time as messages and rows have it. What measures how long something takes uses `Instant` instead.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time in seconds since 1970-01-01 00:00 UTC; 0 on a host whose clock stands before that.
pub fn epoch_seconds() -> u64 {
    since_epoch(SystemTime::now())
}

/// The same as the store and its rows have it.
pub fn epoch_seconds_signed() -> i64 {
    signed(epoch_seconds())
}

/// `time` in seconds since the epoch; 0 for one before it.
pub fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Seconds since the epoch as the store has them.
pub fn signed(epoch_seconds: u64) -> i64 {
    i64::try_from(epoch_seconds).unwrap_or(i64::MAX)
}
