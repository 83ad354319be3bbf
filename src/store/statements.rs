//! The statements for rows and explanations, once for every kind of database.

use sqlx::{AnyConnection, Row as _};

use crate::label::Label;
use crate::record::Disposition;
use crate::store::batch::{Batch, Stamp};
use crate::store::{Explanation, SummaryLine, comparison, database};

/// Writes rows and comparisons, in the order of their keys, and explanations in one transaction: all or none. A batch that
/// the database has by its stamp is not written again.
///
/// # Errors
///
/// The database's; the connection should then be thrown away.
pub async fn write(
    connection: &mut AnyConnection,
    batch: Option<&Batch>,
    explanations: &[Explanation],
    now: i64,
) -> Result<(), sqlx::Error> {
    let mut transaction = database::begin(connection).await?;
    let mut is_new = false;
    if let Some(Batch { stamp: Stamp { writer, sequence }, .. }) = batch {
        let query = sqlx::query(UPSERT_WRITER).bind(writer.as_slice()).bind(*sequence).bind(now);
        is_new = query.execute(&mut *transaction).await?.rows_affected() > 0;
    }
    let batch = batch.filter(|_| is_new);
    if let Some(batch) = batch {
        comparison::write(&mut transaction, &batch.comparisons).await?;
    }
    for (key, row) in batch.iter().flat_map(|batch| &batch.rows) {
        let mut query = sqlx::query(UPSERT)
            .bind(key.as_slice())
            .bind(row.day)
            .bind(row.count)
            .bind(row.first_seen)
            .bind(row.last_seen);
        for text in &row.texts {
            query = query.bind(text.as_str());
        }
        query.execute(&mut *transaction).await?;
    }
    for Explanation { id, arrived, body } in explanations {
        let octets = i64::try_from(body.len()).unwrap_or(i64::MAX);
        let query = sqlx::query(INSERT_EXPLANATION).bind(&**id).bind(*arrived).bind(octets).bind(&**body);
        query.execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Deletes explanations that arrived before `before`, in seconds since the epoch, then the oldest of what is left until
/// it holds at most `octets`, and says how many octets are left. It deletes a bounded number at a time, so that rows need
/// not wait long: there may be more left than wanted, for the next time.
///
/// # Errors
///
/// The database's.
pub async fn prune(connection: &mut AnyConnection, before: i64, octets: u64) -> Result<u64, sqlx::Error> {
    sqlx::query(DELETE_OLD_EXPLANATIONS).bind(before).bind(DELETED_AT_ONCE).execute(&mut *connection).await?;
    let mut left = explained_octets(connection).await?;
    // A little more than has to go, or every batch would have to delete.
    let wanted = octets - octets / 10;
    if left <= octets {
        return Ok(left);
    }
    for _ in 0..DELETIONS {
        if left <= wanted {
            break;
        }
        sqlx::query(DELETE_OLDEST_EXPLANATIONS).bind(DELETED_AT_ONCE / DELETIONS).execute(&mut *connection).await?;
        left = explained_octets(connection).await?;
    }
    Ok(left)
}

async fn explained_octets(connection: &mut AnyConnection) -> Result<u64, sqlx::Error> {
    let sum: i64 = sqlx::query(SUM_EXPLANATIONS).fetch_one(&mut *connection).await?.try_get(0)?;
    Ok(sum.unsigned_abs())
}

/// The body of an explanation.
///
/// # Errors
///
/// The database's.
pub async fn explanation(connection: &mut AnyConnection, id: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let row = sqlx::query(SELECT_EXPLANATION).bind(id).fetch_optional(connection).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// The messages of the days from `first` to `last`, by day, policy domain and disposition.
///
/// # Errors
///
/// The database's.
pub async fn summary(connection: &mut AnyConnection, first: i64, last: i64) -> Result<Vec<SummaryLine>, sqlx::Error> {
    let rows = sqlx::query(SUMMARY).bind(first).bind(last).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let word: &str = row.try_get(2)?;
            let disposition = Disposition::ALL.iter().find(|d| d.as_str() == word);
            Ok(SummaryLine {
                day: row.try_get(0)?,
                policy_domain: row.try_get(1)?,
                disposition: *disposition.ok_or_else(|| sqlx::Error::Decode("not a disposition".into()))?,
                messages: row.try_get(3)?,
            })
        })
        .collect()
}

const UPSERT: &str = "INSERT INTO report_rows AS t (
    row_key, day, n, first_seen, last_seen,
    source_ip, policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing, requested,
    disposition, dkim_aligned, spf_aligned, reasons, header_from, envelope_from, envelope_to,
    dkim_results, spf_domain, spf_scope, spf_result, reply
) VALUES (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24,
    $25, $26, $27, $28, $29
) ON CONFLICT (row_key) DO UPDATE SET
    n = t.n + excluded.n,
    first_seen = CASE WHEN excluded.first_seen < t.first_seen THEN excluded.first_seen ELSE t.first_seen END,
    last_seen = CASE WHEN excluded.last_seen > t.last_seen THEN excluded.last_seen ELSE t.last_seen END";

const UPSERT_WRITER: &str = "INSERT INTO store_writers AS t (id, sequence, seen) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, seen = excluded.seen
    WHERE t.sequence < excluded.sequence";

const SUMMARY: &str = "SELECT day, policy_domain, disposition, CAST(SUM(n) AS BIGINT)
    FROM report_rows WHERE day >= $1 AND day <= $2
    GROUP BY day, policy_domain, disposition ORDER BY day, policy_domain, disposition";

const INSERT_EXPLANATION: &str =
    "INSERT INTO explanations (id, arrived, octets, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING";

const SELECT_EXPLANATION: &str = "SELECT body FROM explanations WHERE id = $1";

const SUM_EXPLANATIONS: &str = "SELECT CAST(COALESCE(SUM(octets), 0) AS BIGINT) FROM explanations";

const DELETE_OLD_EXPLANATIONS: &str = "DELETE FROM explanations WHERE id IN
    (SELECT id FROM explanations WHERE arrived < $1 ORDER BY arrived LIMIT $2)";

const DELETE_OLDEST_EXPLANATIONS: &str = "DELETE FROM explanations WHERE id IN
    (SELECT id FROM explanations ORDER BY arrived LIMIT $1)";

/// Explanations that one pruning deletes at most for their age, and as many for their size: some hundred milliseconds.
const DELETED_AT_ONCE: i64 = 20_000;
/// In how many steps those that go for the size do.
const DELETIONS: i64 = 20;
