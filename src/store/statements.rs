//! The statements for rows and explanations, once for every kind of database.

use sqlx::{Any, AnyConnection, Row as _, Transaction};

use crate::label::Label;
use crate::record::ReportDisposition;
use crate::store::batch::{Batch, Stamp};
use crate::store::comparison::ComparisonRow;
use crate::store::row::{Key, Row, TEXT_COLUMNS};
use crate::store::upsert::{self, Line, Put};
use crate::store::{Explanation, SummaryLine, database};

/// What the database refused for what it is, and will not be offered again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Refused {
    /// Messages of rows.
    pub messages: u64,
    /// Messages of comparisons.
    pub compared: u64,
    /// Explanations.
    pub explanations: u64,
    /// What it said first; empty if it took all.
    pub cause: String,
}

/// Writes rows and comparisons, in the order of their keys, and explanations in one transaction: all or none. A batch
/// that the database has by its stamp is not written again.
///
/// What the database refuses for its values it would refuse for ever, and nothing behind it would get through. Then all
/// is written again but for such lines.
///
/// # Errors
///
/// The database's; the connection should then be thrown away.
pub async fn write(
    connection: &mut AnyConnection,
    batch: Option<&Batch>,
    explanations: &[Explanation],
    now: i64,
) -> Result<Refused, sqlx::Error> {
    let mut transaction = database::begin(connection).await?;
    let written = async {
        let batch = stamped(&mut transaction, batch, now).await?;
        let (rows, comparisons) = lines(batch);
        upsert::put(&mut transaction, &comparisons).await?;
        upsert::put(&mut transaction, &rows).await?;
        upsert::put(&mut transaction, explanations).await
    };
    match written.await {
        Ok(()) => transaction.commit().await.map(|()| Refused::default()),
        Err(cause) if upsert::is_of_data(&cause) => {
            transaction.rollback().await?;
            let refused = write_accepted(connection, batch, explanations, now).await?;
            Ok(Refused { cause: cause.to_string(), ..refused })
        }
        Err(cause) => Err(cause),
    }
}

/// Writes what the database takes, in one transaction, and counts the rest.
async fn write_accepted(
    connection: &mut AnyConnection,
    batch: Option<&Batch>,
    explanations: &[Explanation],
    now: i64,
) -> Result<Refused, sqlx::Error> {
    let mut transaction = database::begin(connection).await?;
    let batch = stamped(&mut transaction, batch, now).await?;
    let (rows, comparisons) = lines(batch);
    let comparisons = upsert::put_accepted(&mut transaction, &comparisons).await?;
    let rows = upsert::put_accepted(&mut transaction, &rows).await?;
    let explanations = upsert::put_accepted(&mut transaction, explanations).await?;
    let refused = Refused {
        messages: rows.iter().map(|(_, row)| row.count.unsigned_abs()).sum(),
        compared: comparisons.iter().map(|(_, row)| row.count.unsigned_abs()).sum(),
        explanations: explanations.len() as u64,
        cause: String::new(),
    };
    transaction.commit().await?;
    Ok(refused)
}

/// The batch, if the database does not have it by its stamp; from here on it has.
async fn stamped<'a>(
    transaction: &mut Transaction<'_, Any>,
    batch: Option<&'a Batch>,
    now: i64,
) -> Result<Option<&'a Batch>, sqlx::Error> {
    let Some(Batch { stamp: Stamp { writer, sequence }, .. }) = batch else { return Ok(None) };
    let query = sqlx::query(UPSERT_WRITER).bind(writer.as_slice()).bind(*sequence).bind(now);
    let is_new = query.execute(&mut **transaction).await?.rows_affected() > 0;
    Ok(batch.filter(|_| is_new))
}

type Lines<'a> = (Vec<(&'a Key, &'a Row)>, Vec<(&'a Key, &'a ComparisonRow)>);

fn lines(batch: Option<&Batch>) -> Lines<'_> {
    batch.map(|batch| (batch.rows.iter().collect(), batch.comparisons.iter().collect())).unwrap_or_default()
}

impl Line for (&Key, &Row) {
    const INTO: &'static str = "INSERT INTO report_rows AS t (
    row_key, day, n, first_seen, last_seen,
    source_ip, policy_domain, discovery, policy_record, adkim, aspf, p, sp, np, fo, testing, requested,
    disposition, dkim_aligned, spf_aligned, reasons, header_from, envelope_from, envelope_to,
    dkim_results, spf_domain, spf_scope, spf_result, reply, begin_hour, hours
)";
    const COLUMNS: usize = 7 + TEXT_COLUMNS;
    const CONFLICT: &'static str = "ON CONFLICT (row_key) DO UPDATE SET
    n = t.n + excluded.n,
    first_seen = CASE WHEN excluded.first_seen < t.first_seen THEN excluded.first_seen ELSE t.first_seen END,
    last_seen = CASE WHEN excluded.last_seen > t.last_seen THEN excluded.last_seen ELSE t.last_seen END";

    fn bind<'q>(&'q self, query: Put<'q>) -> Put<'q> {
        let (key, row) = self;
        let query = query.bind(key.as_slice()).bind(row.day).bind(row.count).bind(row.first_seen).bind(row.last_seen);
        let query = row.texts.iter().fold(query, |query, text| query.bind(text.as_ref()));
        query.bind(row.part.begin_hour).bind(row.part.hours)
    }
}

impl Line for Explanation {
    const INTO: &'static str = "INSERT INTO explanations (id, arrived, octets, body)";
    const COLUMNS: usize = 4;
    const CONFLICT: &'static str = "ON CONFLICT (id) DO NOTHING";

    fn bind<'q>(&'q self, query: Put<'q>) -> Put<'q> {
        let octets = i64::try_from(self.body.len()).unwrap_or(i64::MAX);
        query.bind(&*self.id).bind(self.arrived).bind(octets).bind(&*self.body)
    }
}

/// Deletes explanations that arrived before `before`, in seconds since the epoch, then the oldest of what is left until
/// it holds at most `octets`, and says how many octets are left. It deletes a bounded number at a time, so that rows
/// need not wait long: there may be more left than wanted, for the next time.
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
            let disposition = ReportDisposition::parse(row.try_get(2)?);
            Ok(SummaryLine {
                day: row.try_get(0)?,
                policy_domain: row.try_get(1)?,
                disposition: disposition.ok_or_else(|| sqlx::Error::Decode("not a disposition".into()))?,
                messages: row.try_get(3)?,
            })
        })
        .collect()
}

const UPSERT_WRITER: &str = "INSERT INTO store_writers AS t (id, sequence, seen) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO UPDATE SET sequence = excluded.sequence, seen = excluded.seen
    WHERE t.sequence < excluded.sequence";

const SUMMARY: &str = "SELECT day, policy_domain, disposition, CAST(SUM(n) AS BIGINT)
    FROM report_rows WHERE day >= $1 AND day <= $2
    GROUP BY day, policy_domain, disposition ORDER BY day, policy_domain, disposition";

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
