//! Deletes what is too old or too much, in small steps between which batches get through.
//!
//! Several gates that prune one database delete the same rows; one of them finds nothing left to do.

use std::time::Duration;

use sqlx::{AnyConnection, Connection, Row as _};

use crate::calendar::SECONDS_PER_DAY;
use crate::store::{Error, Location, Retention, comparison, database, statements};

/// What one step has found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Octets of explanations that are left.
    pub explained: u64,
    /// Rows that this step has deleted.
    pub rows_deleted: u64,
    /// Octets of the database that are in use.
    pub octets: i64,
    /// How far the gate's clock is ahead of the server's.
    pub ahead: Duration,
    /// Whether there is more to delete.
    pub is_unfinished: bool,
}

/// Takes one step. Rows of the last two days are never deleted: their reports are due. A gate whose clock is ahead of
/// that of the server deletes by the server's: otherwise it would delete the rows of all others.
///
/// # Errors
///
/// The database's.
pub async fn step(connection: &mut AnyConnection, retention: &Retention, now: Duration) -> Result<Pruned, sqlx::Error> {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let shared = database::clock(connection).await?.unwrap_or(now);
    let ahead = now.saturating_sub(shared);
    let now = now.min(shared);
    let before = seconds(now.saturating_sub(retention.keep));
    let first = seconds(now.saturating_sub(retention.comparisons)).div_euclid(SECONDS_PER_DAY);
    comparison::prune(connection, first, MAX_COMPARISONS).await?;
    let explained = statements::prune(connection, before, retention.octets).await?;
    sqlx::query(DELETE_WRITERS).bind(seconds(now.saturating_sub(KEEP_WRITERS))).execute(&mut *connection).await?;

    let present = seconds(now).div_euclid(SECONDS_PER_DAY) - 1;
    let oldest = (seconds(now.saturating_sub(retention.keep_rows)).div_euclid(SECONDS_PER_DAY)).min(present);
    let mut rows_deleted = delete_before(connection, oldest).await?;
    let octets = database::octets(connection).await?;
    let mut is_unfinished = rows_deleted == DELETED_ROWS.unsigned_abs();
    // Explanations have a bound of their own.
    let of_rows = octets.unsigned_abs().saturating_sub(explained);
    if rows_deleted == 0 && retention.size.is_some_and(|size| of_rows > size) {
        rows_deleted = delete_before(connection, present).await?;
        is_unfinished = rows_deleted > 0;
    }
    Ok(Pruned { explained, rows_deleted, octets, ahead, is_unfinished })
}

/// When something was stored last, in seconds since 1970, as far as the clock was believed then; of what is stored without
/// that, the end of the newest day. None: nothing is.
///
/// # Errors
///
/// The database's.
pub async fn newest(connection: &mut AnyConnection) -> Result<Option<i64>, sqlx::Error> {
    let seen: Option<i64> = sqlx::query_scalar(NEWEST_WRITER).fetch_one(&mut *connection).await?;
    if seen.is_some() {
        return Ok(seen);
    }
    let day: Option<i64> = sqlx::query_scalar(NEWEST_DAY).fetch_one(connection).await?;
    Ok(day.map(|day| (day + 1).saturating_mul(SECONDS_PER_DAY)))
}

/// Counts the rows, on a connection of its own: ten million take half a second from memory and many seconds from a
/// disk, and those that come in wait for the writer's.
///
/// # Errors
///
/// The database can't be opened or read.
pub async fn count_rows(location: &Location) -> Result<i64, Error> {
    let mut connection = database::open_read_only(location).await?;
    let row = database::in_time(COUNTING, sqlx::query(COUNT_ROWS).fetch_one(&mut connection)).await;
    let count = row.and_then(|row| row.try_get(0)).map_err(Error::Read)?;
    // It has been read from, and no more. One that does not answer is dropped: closing it would wait, too.
    let _ = connection.close().await;
    Ok(count)
}

/// Deletes some rows of days before `day`, the oldest first, and says how many.
async fn delete_before(connection: &mut AnyConnection, day: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(DELETE_ROWS).bind(day).bind(DELETED_ROWS).execute(connection).await?;
    Ok(done.rows_affected())
}

const DELETE_ROWS: &str = "DELETE FROM report_rows WHERE row_key IN
    (SELECT row_key FROM report_rows WHERE day < $1 ORDER BY day, policy_domain LIMIT $2)";

const NEWEST_WRITER: &str = "SELECT MAX(seen) FROM store_writers";
const NEWEST_DAY: &str = "SELECT MAX(day) FROM report_rows";

const COUNT_ROWS: &str = "SELECT COUNT(*) FROM report_rows";

/// How far a gate's clock may be ahead of the server's without a warning.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// How long counting may take; a server that is cut off would never let it be done again.
const COUNTING: Duration = Duration::from_secs(300);

const DELETE_WRITERS: &str = "DELETE FROM store_writers WHERE seen < $1";

/// Rows of comparisons that are kept at most, however many author domains are invented: some hundred megabytes. The
/// oldest go first.
const MAX_COMPARISONS: i64 = 500_000;
/// Rows of one step: some ten milliseconds.
const DELETED_ROWS: i64 = 1000;
/// How long it is known what a writer has brought in; a spill file that waits longer for its gate counts twice what was
/// in doubt.
const KEEP_WRITERS: Duration = Duration::from_secs(90 * 86_400);
