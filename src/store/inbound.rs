//! What others report about our domains: the values, and how they are stored and read.
//!
//! A report goes in whole or not at all, and the same one only once, whichever gate reads it. It is written over a
//! connection of its own, opened for it: there are some hundred reports a day, and the rows of our own mail don't wait
//! for them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest::{self, SHA256};
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Row as _};
use tokio::time::Instant;

use crate::domain::Domain;
use crate::label::Label;
use crate::record::{AlignmentOutcome, ReportDisposition};
use crate::store::{Error, Location, Reader, database};

/// An aggregate report of someone else. Texts are bounded and without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The author domain of the message that it came with, if SPF or DKIM vouches for it; none: anybody may have
    /// written it.
    pub reporter: Option<Domain>,
    /// The organization that it names as its author.
    pub organization: String,
    /// Its id, by which it counts once.
    pub report_id: String,
    /// The domain that it is about.
    pub policy_domain: Domain,
    /// `p` of that domain's record; empty if it doesn't say.
    pub policy: String,
    /// Where its period begins, in seconds since the epoch.
    pub begin: i64,
    /// Where its period ends, in seconds since the epoch.
    pub end: i64,
    /// What it tells apart, each with a number of messages.
    pub rows: Vec<(Row, u64)>,
    /// Records in it without an address or a plausible number.
    pub left_out: u64,
}

/// Messages from one address that fared alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Where they came from.
    pub source_ip: IpAddr,
    /// The author domain; none if it doesn't say.
    pub header_from: Option<Domain>,
    /// What was done; none if it doesn't say.
    pub disposition: Option<ReportDisposition>,
    /// Whether DKIM gave an aligned pass.
    pub dkim: AlignmentOutcome,
    /// Whether SPF gave an aligned pass.
    pub spf: AlignmentOutcome,
    /// Domains of signatures that passed, aligned or not, with spaces between.
    pub dkim_passed: String,
    /// Domains for which SPF passed, aligned or not, with spaces between.
    pub spf_passed: String,
    /// Types of the reasons for an override, with spaces between.
    pub reasons: String,
}

/// How long and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long a report is kept from its receipt on.
    pub keep: Duration,
    /// Rows in the database, one for each report counted in; the oldest reports go first.
    pub rows: u32,
}

/// What became of a report that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Stored,
    /// It was there already.
    Known,
}

/// Puts the reports of others into the store, one at a time.
pub struct InboundStore {
    location: Location,
    retention: Retention,
    prune_at: Instant,
    /// Rows put since then.
    put: usize,
}

/// What reports say of one address under one policy domain: messages that fared alike, by one reporter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The domain that was reported on.
    pub policy_domain: String,
    /// Where the messages came from.
    pub source_ip: IpAddr,
    /// Who vouches for that; empty: nobody does.
    pub reporter: String,
    /// The organization that the reports name as their author.
    pub organization: String,
    /// What was done; none if it was not said.
    pub disposition: Option<ReportDisposition>,
    /// Whether DKIM gave an aligned pass.
    pub dkim: AlignmentOutcome,
    /// Whether SPF gave an aligned pass.
    pub spf: AlignmentOutcome,
    /// Domains of signatures that passed, with spaces between.
    pub dkim_passed: String,
    /// Domains for which SPF passed, with spaces between.
    pub spf_passed: String,
    /// How many.
    pub messages: u64,
}

/// Reports of one reporter on one domain with one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporting {
    /// The domain that was reported on.
    pub policy_domain: String,
    /// Its `p` then; empty if it was not said.
    pub policy: String,
    /// Who vouches for the reports; empty: nobody does.
    pub reporter: String,
    /// The organization that they name as their author.
    pub organization: String,
    /// How many reports.
    pub reports: u64,
    /// The messages in them.
    pub messages: u64,
    /// When the last of their periods ended, in seconds since the epoch.
    pub last_end: i64,
}

impl Report {
    /// The messages of all rows.
    pub fn messages(&self) -> u64 {
        self.rows.iter().fold(0, |sum, (_, messages)| sum.saturating_add(*messages))
    }

    /// The same for each copy of a report. A forgery of another's organization and id gets a key of its own.
    fn key(&self) -> Vec<u8> {
        let reporter = self.reporter.as_ref().map_or("", Domain::as_str);
        let organization = self.organization.to_lowercase();
        // None of them has a control character.
        let text = [reporter, &organization, &self.report_id, self.policy_domain.as_str()].join("\0");
        digest::digest(&SHA256, text.as_bytes()).as_ref().to_vec()
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { keep: Duration::from_secs(400 * 86_400), rows: 1_000_000 }
    }
}

impl InboundStore {
    /// The part of the database at `location`, which is opened for each report.
    pub fn new(location: Location, retention: Retention) -> Self {
        Self { location, retention, prune_at: Instant::now(), put: 0 }
    }

    /// How long a report is kept, in seconds.
    pub fn keeps(&self) -> i64 {
        i64::try_from(self.retention.keep.as_secs()).unwrap_or(i64::MAX)
    }

    /// Puts a report that was received at `received`, in seconds since the epoch, with all its rows or not at all. From
    /// time to time it deletes what is too old or too much.
    ///
    /// # Errors
    ///
    /// The database's: nothing was put.
    pub async fn put(&mut self, report: &Report, received: i64) -> Result<Put, Error> {
        let mut connection = database::open(&self.location).await?;
        let put = database::in_time(PUTTING, put(&mut connection, report, received)).await?;
        self.put += report.rows.len();
        if self.prune_at <= Instant::now() || self.put >= PRUNED_AFTER {
            (self.prune_at, self.put) = (Instant::now() + PRUNING_INTERVAL, 0);
            let before = received.saturating_sub(self.keeps());
            database::in_time(PUTTING, prune(&mut connection, before, self.retention.rows.into())).await?;
        }
        // All is committed.
        let _ = connection.close().await;
        Ok(put)
    }
}

impl Reader {
    /// What was reported about periods that ended at `since` or later, in seconds since the epoch, in the order of
    /// policy domain and address. Each is handed on as it is read: there may be as many as rows are kept.
    ///
    /// # Errors
    ///
    /// See [`Error`]; there is no database before the gate's first start.
    pub async fn inbound_sources(&self, since: i64, mut each: impl FnMut(Source)) -> Result<(), Error> {
        let mut connection = database::open_read_only(&self.location).await?;
        {
            let mut rows = sqlx::query(SOURCES).bind(since).bind(MOST).fetch(&mut connection);
            while let Some(row) = next(&mut rows).await {
                each(source(&row?)?);
            }
        }
        let _ = connection.close().await;
        Ok(())
    }

    /// Who has reported about those periods, by policy domain, policy and reporter.
    ///
    /// # Errors
    ///
    /// As [`Reader::inbound_sources`].
    pub async fn inbound_reporting(&self, since: i64) -> Result<Vec<Reporting>, Error> {
        let mut connection = database::open_read_only(&self.location).await?;
        let rows = sqlx::query(REPORTING).bind(since).bind(MOST).fetch_all(&mut connection).await?;
        let _ = connection.close().await;
        let reporting = |row: &sqlx::any::AnyRow| {
            Ok(Reporting {
                policy_domain: row.try_get(0)?,
                policy: row.try_get(1)?,
                reporter: row.try_get(2)?,
                organization: row.try_get(3)?,
                reports: row.try_get::<i64, _>(4)?.unsigned_abs(),
                messages: row.try_get::<i64, _>(5)?.unsigned_abs(),
                last_end: row.try_get(6)?,
            })
        };
        Ok(rows.iter().map(reporting).collect::<Result<_, sqlx::Error>>()?)
    }
}

/// The next of a stream's items, without a crate for that alone.
async fn next<T>(stream: &mut (impl futures_core::Stream<Item = T> + Unpin)) -> Option<T> {
    std::future::poll_fn(|context| std::pin::Pin::new(&mut *stream).poll_next(context)).await
}

async fn put(connection: &mut AnyConnection, report: &Report, received: i64) -> Result<Put, sqlx::Error> {
    let number = |number: u64| i64::try_from(number.min(MAX_MESSAGES)).unwrap_or(i64::MAX);
    let key = report.key();
    let mut transaction = database::begin(connection).await?;
    let inserted = sqlx::query(INSERT_REPORT)
        .bind(&*key)
        .bind(received)
        .bind(report.reporter.as_ref().map_or("", Domain::as_str))
        .bind(&*report.organization)
        .bind(&*report.report_id)
        .bind(report.policy_domain.as_str())
        .bind(&*report.policy)
        .bind(report.begin)
        .bind(report.end)
        .bind(number(report.rows.len() as u64))
        .bind(number(report.messages()))
        .bind(number(report.left_out))
        .execute(&mut *transaction)
        .await?;
    if inserted.rows_affected() == 0 {
        transaction.rollback().await?;
        return Ok(Put::Known);
    }
    let mut place = 0_i64;
    for rows in report.rows.chunks(ROWS_AT_ONCE) {
        // The text depends only on a number of ours.
        let mut query = sqlx::query(AssertSqlSafe(insert_rows(rows.len())));
        for (row, messages) in rows {
            query = query
                .bind(&*key)
                .bind(place)
                .bind(number(*messages))
                .bind(row.source_ip.to_string())
                .bind(row.header_from.as_ref().map_or("", Domain::as_str))
                .bind(row.disposition.map_or("", Label::as_str))
                .bind(row.dkim.as_str())
                .bind(row.spf.as_str())
                .bind(&*row.dkim_passed)
                .bind(&*row.spf_passed)
                .bind(&*row.reasons);
            place += 1;
        }
        query.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(Put::Stored)
}

/// The statement that inserts so many rows.
fn insert_rows(rows: usize) -> String {
    let mut sql = INSERT_ROWS.to_owned();
    for row in 0..rows {
        let first = row * ROW_COLUMNS + 1;
        // Writing to a string can't fail.
        let _ = write!(sql, "{}(${first}", if row == 0 { "" } else { ", " });
        for column in 1..ROW_COLUMNS {
            let _ = write!(sql, ", ${}", first + column);
        }
        sql.push(')');
    }
    sql
}

/// Deletes reports that were received before `before`, then the oldest until at most `most` rows are left; a bounded
/// number at a time, in short transactions.
async fn prune(connection: &mut AnyConnection, before: i64, most: i64) -> Result<(), sqlx::Error> {
    for _ in 0..DELETIONS {
        let kept: i64 = sqlx::query_scalar(COUNT_ROWS).fetch_one(&mut *connection).await?;
        // Where there is too much, the age of what goes does not matter.
        let before = if kept > most { i64::MAX } else { before };
        let mut transaction = database::begin(connection).await?;
        sqlx::query(DELETE_OLD_ROWS).bind(before).bind(DELETED_AT_ONCE).execute(&mut *transaction).await?;
        let deleted =
            sqlx::query(DELETE_OLD_REPORTS).bind(before).bind(DELETED_AT_ONCE).execute(&mut *transaction).await?;
        transaction.commit().await?;
        if deleted.rows_affected() == 0 {
            break;
        }
    }
    Ok(())
}

fn source(row: &sqlx::any::AnyRow) -> Result<Source, sqlx::Error> {
    let word = |place: usize| row.try_get::<&str, _>(place);
    let broken = |what: &'static str| sqlx::Error::Decode(what.into());
    let outcome = |place: usize| AlignmentOutcome::parse(word(place)?).ok_or_else(|| broken("neither pass nor fail"));
    Ok(Source {
        policy_domain: row.try_get(0)?,
        source_ip: word(1)?.parse().map_err(|_| broken("not an address"))?,
        reporter: row.try_get(2)?,
        organization: row.try_get(3)?,
        disposition: ReportDisposition::parse(word(4)?),
        dkim: outcome(5)?,
        spf: outcome(6)?,
        dkim_passed: row.try_get(7)?,
        spf_passed: row.try_get(8)?,
        messages: row.try_get::<i64, _>(9)?.unsigned_abs(),
    })
}

const INSERT_REPORT: &str = "INSERT INTO inbound_reports (
    report_key, received, reporter, organization, report_id, policy_domain, policy, begins, ends, n_rows, messages,
    left_out
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (report_key) DO NOTHING";

const INSERT_ROWS: &str = "INSERT INTO inbound_rows (
    report_key, place, n, source_ip, header_from, disposition, dkim_aligned, spf_aligned, dkim_passed, spf_passed,
    reasons
) VALUES ";
/// The columns above.
const ROW_COLUMNS: usize = 11;

/// Numbers above `$2` are not added up, whatever their origin: a sum that overflows is an error of the database, for as
/// long as the row is kept.
const SOURCES: &str = "SELECT r.policy_domain, w.source_ip, r.reporter, r.organization, w.disposition, w.dkim_aligned,
    w.spf_aligned, w.dkim_passed, w.spf_passed, CAST(SUM(CASE WHEN w.n > $2 THEN $2 ELSE w.n END) AS BIGINT)
    FROM inbound_reports r JOIN inbound_rows w ON w.report_key = r.report_key WHERE r.ends >= $1
    GROUP BY r.policy_domain, w.source_ip, r.reporter, r.organization, w.disposition, w.dkim_aligned, w.spf_aligned,
    w.dkim_passed, w.spf_passed
    ORDER BY r.policy_domain, w.source_ip, r.reporter, r.organization";

const REPORTING: &str = "SELECT policy_domain, policy, reporter, organization, COUNT(*),
    CAST(SUM(CASE WHEN messages > $2 THEN $2 ELSE messages END) AS BIGINT), MAX(ends)
    FROM inbound_reports WHERE ends >= $1
    GROUP BY policy_domain, policy, reporter, organization ORDER BY policy_domain, policy, reporter, organization";

const COUNT_ROWS: &str = "SELECT CAST(COALESCE(SUM(n_rows + 1), 0) AS BIGINT) FROM inbound_reports";

const DELETE_OLD_ROWS: &str = "DELETE FROM inbound_rows WHERE report_key IN
    (SELECT report_key FROM inbound_reports WHERE received < $1 ORDER BY received, report_key LIMIT $2)";

const DELETE_OLD_REPORTS: &str = "DELETE FROM inbound_reports WHERE report_key IN
    (SELECT report_key FROM inbound_reports WHERE received < $1 ORDER BY received, report_key LIMIT $2)";

/// Messages of one report: ten billion, as the largest provider may see in a day. A hundred million rows, which is as
/// many as may be kept, add up to a ninth of what a sum can hold.
pub const MAX_MESSAGES: u64 = 10_000_000_000;
/// The same as the database takes it.
const MOST: i64 = 10_000_000_000;
/// Rows that one statement inserts: 550 parameters, of 32,766 that SQLite has.
const ROWS_AT_ONCE: usize = 50;
/// Reports that one transaction deletes.
const DELETED_AT_ONCE: i64 = 20;
/// Transactions of one pruning.
const DELETIONS: usize = 500;
/// How often to check whether something has to be deleted.
const PRUNING_INTERVAL: Duration = Duration::from_secs(600);
/// After how many rows to check earlier.
const PRUNED_AFTER: usize = 100_000;
/// How long the database may take for the largest report, or for a pruning.
const PUTTING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
