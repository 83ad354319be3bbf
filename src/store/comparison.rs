//! What was done with messages beside what the shadow policy would have done and what the upstream said, added up.
//!
//! Messages of one UTC day that this does not tell apart are one row. Author domain, source and list are kept only
//! where the shadow policy differs, so that all other messages of a day take a few rows.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use crate::calendar::SECONDS_PER_DAY;
use crate::label::Label;
use crate::policy::treatment::{Opinion, Treatment};
use crate::record::UpstreamReply;
use crate::store::row::{self, Key, Text, key, octets};
use crate::store::upsert::{Line, Put};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// When end-of-data came, in seconds since the epoch; not told apart beyond its UTC day.
    pub arrived: i64,
    /// What the gate thinks of it.
    pub opinion: Opinion,
    /// What was done.
    pub active: Treatment,
    /// What the upstream said; none if it was not asked, since the gate refused or deferred the message.
    pub reply: Option<UpstreamReply>,
    /// What the shadow policy would have done; none without one.
    pub shadow: Option<Treatment>,
    /// Where that differs: whose message it is, and from where.
    pub origin: Option<Origin>,
}

/// Whose a message seems to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The author domain that decided; empty if From names none.
    pub author_domain: String,
    /// Who has really sent it: `d=` of a signature that passed, else the SPF domain that passed, else the network.
    pub source: String,
    /// The identifier in List-Id; empty without one.
    pub list_id: String,
}

/// Messages of one day that are not told apart, as the table holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparisonRow {
    day: i64,
    pub(super) count: i64,
    /// In the order of the columns.
    texts: [Text; 7],
}

/// The sums over some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparisons {
    /// Each combination with its number of messages.
    pub totals: Vec<Total>,
    /// The most frequent author domains of messages that the shadow policy would have treated otherwise.
    pub author_domains: Vec<Among>,
    /// Their sources.
    pub sources: Vec<Among>,
    /// Their lists.
    pub lists: Vec<Among>,
}

/// Messages that came out alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// What the gate thinks of them.
    pub opinion: Opinion,
    /// What was done.
    pub active: Treatment,
    /// What the shadow policy would have done.
    pub shadow: Option<Treatment>,
    /// What the upstream said.
    pub reply: Option<UpstreamReply>,
    /// How many.
    pub messages: i64,
}

/// One of several that messages are counted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Among {
    /// Which.
    pub name: String,
    /// How many messages.
    pub messages: i64,
    /// Those of them that the upstream accepted.
    pub accepted: i64,
    /// Those that it refused.
    pub refused: i64,
}

impl ComparisonRow {
    /// The row of one message.
    pub fn new(comparison: Comparison) -> Self {
        let Comparison { arrived, opinion, active, reply, shadow, origin } = comparison;
        let (author_domain, source, list_id) =
            origin.map_or_else(Default::default, |o| (o.author_domain, o.source, o.list_id));
        let texts = [
            row::word(opinion),
            row::word(active),
            shadow.map(row::word).unwrap_or_default(),
            reply.map(row::word).unwrap_or_default(),
            author_domain.into(),
            source.into(),
            list_id.into(),
        ];
        Self { day: arrived.div_euclid(SECONDS_PER_DAY), count: 1, texts }
    }

    /// Equal keys are equal rows.
    pub fn key(&self) -> Key {
        key(self.day, &self.texts)
    }

    /// Octets of memory, roughly.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + size_of::<Key>() + octets(&self.texts)
    }
}

impl Line for (&Key, &ComparisonRow) {
    const INTO: &'static str = "INSERT INTO comparisons AS t (
    row_key, day, n, opinion, active, shadow, reply, author_domain, source, list_id
)";
    const COLUMNS: usize = 10;
    const CONFLICT: &'static str = "ON CONFLICT (row_key) DO UPDATE SET n = t.n + excluded.n";

    fn bind<'q>(&'q self, query: Put<'q>) -> Put<'q> {
        let (key, row) = self;
        let query = query.bind(key.as_slice()).bind(row.day).bind(row.count);
        row.texts.iter().fold(query, |query, text| query.bind(text.as_ref()))
    }
}

/// Deletes the rows of days before `first`, then the oldest beyond `most` rows; a bounded number at a time.
///
/// # Errors
///
/// The database's.
pub async fn prune(connection: &mut AnyConnection, first: i64, most: i64) -> Result<(), sqlx::Error> {
    sqlx::query(DELETE_OLD).bind(first).bind(DELETED_AT_ONCE).execute(&mut *connection).await?;
    sqlx::query(DELETE_BEYOND).bind(DELETED_AT_ONCE).bind(most).execute(&mut *connection).await?;
    Ok(())
}

/// The sums over the days from `first` to `last`, with at most `most` names of each kind.
///
/// # Errors
///
/// The database's.
pub async fn read(
    connection: &mut AnyConnection,
    first: i64,
    last: i64,
    most: i64,
) -> Result<Comparisons, sqlx::Error> {
    let rows = sqlx::query(TOTALS).bind(first).bind(last).fetch_all(&mut *connection).await?;
    let totals = rows.iter().map(total).collect::<Result<_, _>>()?;
    let mut names = [const { Vec::new() }; 3];
    for (query, names) in [TOP_AUTHOR_DOMAINS, TOP_SOURCES, TOP_LISTS].into_iter().zip(&mut names) {
        let rows = sqlx::query(query).bind(first).bind(last).bind(most).fetch_all(&mut *connection).await?;
        *names = rows.iter().map(among).collect::<Result<_, _>>()?;
    }
    let [author_domains, sources, lists] = names;
    Ok(Comparisons { totals, author_domains, sources, lists })
}

fn total(row: &AnyRow) -> Result<Total, sqlx::Error> {
    Ok(Total {
        opinion: word(row, 0)?.ok_or_else(unknown)?,
        active: word(row, 1)?.ok_or_else(unknown)?,
        shadow: word(row, 2)?,
        reply: word(row, 3)?,
        messages: row.try_get(4)?,
    })
}

fn among(row: &AnyRow) -> Result<Among, sqlx::Error> {
    Ok(Among { name: row.try_get(0)?, messages: row.try_get(1)?, accepted: row.try_get(2)?, refused: row.try_get(3)? })
}

/// The label of a column; none where it is empty.
fn word<L: Label>(row: &AnyRow, column: usize) -> Result<Option<L>, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    if text.is_empty() {
        return Ok(None);
    }
    L::parse(text).map(Some).ok_or_else(unknown)
}

fn unknown() -> sqlx::Error {
    sqlx::Error::Decode("not a word of this version".into())
}

const DELETE_OLD: &str = "DELETE FROM comparisons WHERE row_key IN
    (SELECT row_key FROM comparisons WHERE day < $1 ORDER BY day LIMIT $2)";

const DELETE_BEYOND: &str = "DELETE FROM comparisons WHERE row_key IN
    (SELECT row_key FROM comparisons ORDER BY day DESC LIMIT $1 OFFSET $2)";

const TOTALS: &str = "SELECT opinion, active, shadow, reply, CAST(SUM(n) AS BIGINT)
    FROM comparisons WHERE day >= $1 AND day <= $2
    GROUP BY opinion, active, shadow, reply ORDER BY opinion, active, shadow, reply";

/// The most frequent values of a column. What the upstream deferred comes again and would count twice.
macro_rules! top {
    ($column:literal) => {
        concat!(
            "SELECT ",
            $column,
            ", CAST(SUM(n) AS BIGINT) AS messages,
                CAST(SUM(CASE WHEN reply = 'accepted' THEN n ELSE 0 END) AS BIGINT),
                CAST(SUM(CASE WHEN reply = 'refused' THEN n ELSE 0 END) AS BIGINT)
            FROM comparisons
            WHERE day >= $1 AND day <= $2 AND shadow <> '' AND shadow <> active AND reply <> 'deferred' AND ",
            $column,
            " <> '' GROUP BY ",
            $column,
            " ORDER BY messages DESC, ",
            $column,
            " LIMIT $3"
        )
    };
}

const TOP_AUTHOR_DOMAINS: &str = top!("author_domain");
const TOP_SOURCES: &str = top!("source");
const TOP_LISTS: &str = top!("list_id");

/// Rows that one pruning deletes at most of each kind: some hundred milliseconds.
const DELETED_AT_ONCE: i64 = 20_000;

#[cfg(test)]
mod tests;
