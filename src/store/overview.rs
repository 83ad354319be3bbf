//! What the status page asks of rows, jobs and reports: sums over some days, bounded in rows.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::any::AnyRow;
use sqlx::{Connection as _, Row as _};

use crate::calendar::SECONDS_PER_DAY;
use crate::label::Label as _;
use crate::record::ReportDisposition;
use crate::store::jobs::JobState;
use crate::store::{Error, Reader, database};

/// Mail in the name of one author domain that failed DMARC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// The author domain; empty where From names none.
    pub author_domain: String,
    /// Messages.
    pub messages: i64,
    /// Those of them that the gate refused.
    pub refused: i64,
    /// Those of them that were marked or that the owner wants in quarantine.
    pub quarantined: i64,
    /// From how many addresses.
    pub addresses: usize,
    /// The addresses with most of them, and how many.
    pub from: Vec<(String, i64)>,
}

/// Reports of one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The state.
    pub state: JobState,
    /// How many reports.
    pub reports: i64,
    /// Messages that they cover.
    pub messages: i64,
}

/// What others report of one address under one of our domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Our domain.
    pub policy_domain: String,
    /// Where the messages came from.
    pub source_ip: String,
    /// Messages.
    pub messages: i64,
    /// Those of them without an aligned pass.
    pub failed: i64,
    /// Organizations that say so.
    pub reporters: i64,
    /// Domains of signatures that passed, in one of the reports.
    pub signers: String,
}

/// What was reported in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inbound {
    /// Reports.
    pub reports: i64,
    /// Messages in them.
    pub messages: i64,
    /// When the last of their periods ended, in seconds since the epoch; 0 without any.
    pub last_end: i64,
    /// Organizations that sent them.
    pub reporters: i64,
    /// The addresses with most failures.
    pub sources: Vec<Reported>,
}

impl Reader {
    /// The author domains with most mail without an aligned pass, from the UTC day of `since` on (seconds since the
    /// epoch): at most `most`, of each at most `addresses`. Not more than the newest `MOST_ROWS` rows are looked at.
    ///
    /// # Errors
    ///
    /// See [`Error`]; a question that takes longer than `PATIENCE` is given up.
    pub async fn failing(&self, since: i64, most: usize, addresses: usize) -> Result<Vec<Failing>, Error> {
        let first = since.div_euclid(SECONDS_PER_DAY);
        let mut connection = database::open_read_only(&self.location).await?;
        let rows = sqlx::query(FAILING).bind(first).bind(MOST_ROWS).fetch_all(&mut connection);
        let rows = database::in_time(PATIENCE, rows).await?;
        let _ = connection.close().await;
        let mut domains: BTreeMap<String, Failing> = BTreeMap::new();
        for row in &rows {
            add(&mut domains, row)?;
        }
        let mut domains: Vec<Failing> = domains.into_values().collect();
        domains.sort_by(|a, b| b.messages.cmp(&a.messages).then_with(|| a.author_domain.cmp(&b.author_domain)));
        domains.truncate(most);
        for domain in &mut domains {
            domain.addresses = domain.from.len();
            domain.from.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            domain.from.truncate(addresses);
        }
        Ok(domains)
    }

    /// How many reports of periods that ended at `since` or later are in which state.
    ///
    /// # Errors
    ///
    /// As [`Reader::failing`].
    pub async fn report_tally(&self, since: i64) -> Result<Vec<Tally>, Error> {
        let mut connection = database::open_read_only(&self.location).await?;
        let rows = sqlx::query(TALLY).bind(since).fetch_all(&mut connection);
        let rows = database::in_time(PATIENCE, rows).await?;
        let _ = connection.close().await;
        let tally = |row: &AnyRow| {
            let state = JobState::parse(row.try_get(0)?);
            let state = state.ok_or_else(|| sqlx::Error::Decode("not a state of reports".into()))?;
            Ok(Tally { state, reports: row.try_get(1)?, messages: row.try_get(2)? })
        };
        Ok(rows.iter().map(tally).collect::<Result<_, sqlx::Error>>()?)
    }

    /// What others have reported about periods that ended at `since` or later, with the `most` addresses that have most
    /// failures. Not more than the newest `MOST_REPORTS` reports are looked at.
    ///
    /// # Errors
    ///
    /// As [`Reader::failing`].
    pub async fn inbound(&self, since: i64, most: i64) -> Result<Inbound, Error> {
        let mut connection = database::open_read_only(&self.location).await?;
        let read = async {
            let all = sqlx::query(INBOUND).bind(since).fetch_one(&mut connection).await?;
            let rows = sqlx::query(REPORTED).bind(since).bind(MOST_REPORTS).bind(most);
            let rows = rows.fetch_all(&mut connection).await?;
            Ok::<_, sqlx::Error>(Inbound {
                reports: all.try_get(0)?,
                messages: all.try_get(1)?,
                last_end: all.try_get(2)?,
                reporters: all.try_get(3)?,
                sources: rows.iter().map(reported).collect::<Result<_, _>>()?,
            })
        };
        let found = database::in_time(PATIENCE, read).await?;
        let _ = connection.close().await;
        Ok(found)
    }
}

fn add(domains: &mut BTreeMap<String, Failing>, row: &AnyRow) -> Result<(), sqlx::Error> {
    let (name, address): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let (disposition, messages): (&str, i64) = (row.try_get(2)?, row.try_get(3)?);
    let domain = domains.entry(name).or_insert_with_key(|name| Failing {
        author_domain: name.clone(),
        messages: 0,
        refused: 0,
        quarantined: 0,
        addresses: 0,
        from: Vec::new(),
    });
    domain.messages = domain.messages.saturating_add(messages);
    if disposition == ReportDisposition::Reject.as_str() {
        domain.refused = domain.refused.saturating_add(messages);
    } else if disposition == ReportDisposition::Quarantine.as_str() {
        domain.quarantined = domain.quarantined.saturating_add(messages);
    }
    // Rows of one address come one after the other.
    match domain.from.last_mut().filter(|(last, _)| *last == address) {
        Some((_, sum)) => *sum = sum.saturating_add(messages),
        None => domain.from.push((address, messages)),
    }
    Ok(())
}

fn reported(row: &AnyRow) -> Result<Reported, sqlx::Error> {
    Ok(Reported {
        policy_domain: row.try_get(0)?,
        source_ip: row.try_get(1)?,
        messages: row.try_get(2)?,
        failed: row.try_get(3)?,
        reporters: row.try_get(4)?,
        signers: row.try_get(5)?,
    })
}

const FAILING: &str = "SELECT t.header_from, t.source_ip, t.disposition, CAST(SUM(t.n) AS BIGINT) FROM (
        SELECT header_from, source_ip, disposition, n, dkim_aligned, spf_aligned FROM report_rows
        WHERE day >= $1 ORDER BY day DESC LIMIT $2
    ) AS t WHERE t.dkim_aligned = 'fail' AND t.spf_aligned = 'fail'
    GROUP BY t.header_from, t.source_ip, t.disposition ORDER BY t.header_from, t.source_ip, t.disposition";

const TALLY: &str = "SELECT state, COUNT(*), CAST(COALESCE(SUM(messages), 0) AS BIGINT) FROM report_jobs
    WHERE period_end >= $1 GROUP BY state ORDER BY state";

const INBOUND: &str = "SELECT COUNT(*), CAST(COALESCE(SUM(messages), 0) AS BIGINT), COALESCE(MAX(ends), 0),
    COUNT(DISTINCT organization) FROM inbound_reports WHERE ends >= $1";

const REPORTED: &str = "SELECT r.policy_domain, w.source_ip, CAST(SUM(w.n) AS BIGINT) AS messages,
    CAST(SUM(CASE WHEN w.dkim_aligned = 'fail' AND w.spf_aligned = 'fail' THEN w.n ELSE 0 END) AS BIGINT) AS failed,
    COUNT(DISTINCT r.organization), MAX(w.dkim_passed)
    FROM (SELECT report_key, policy_domain, organization FROM inbound_reports WHERE ends >= $1
        ORDER BY ends DESC LIMIT $2) AS r
    JOIN inbound_rows w ON w.report_key = r.report_key
    GROUP BY r.policy_domain, w.source_ip ORDER BY failed DESC, messages DESC, r.policy_domain, w.source_ip LIMIT $3";

/// Rows that one look reads: less than a second, as a rule.
const MOST_ROWS: i64 = 100_000;
/// Reports that one look reads the rows of.
const MOST_REPORTS: i64 = 5_000;
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
