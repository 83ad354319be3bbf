//! The statement that reads rows for [`crate::forwarders`].

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use crate::domain::Domain;
use crate::forwarders::{Identity, Observation};
use crate::label::Label;
use crate::record::{AlignmentOutcome, DkimAuthResult, FinalReply};

/// Reads the rows of all days from `first` on and hands each on. They are read in pages, so that neither memory nor the
/// database is held for long.
///
/// # Errors
///
/// The database's.
pub async fn observe(
    connection: &mut AnyConnection,
    first: i64,
    mut take: impl FnMut(&Observation),
) -> Result<(), sqlx::Error> {
    let mut last_key: Vec<u8> = Vec::new();
    loop {
        let rows = sqlx::query(SELECT).bind(first).bind(last_key.as_slice()).bind(PAGE);
        let rows = rows.fetch_all(&mut *connection).await?;
        for row in &rows {
            take(&observation(row)?);
        }
        match rows.last() {
            Some(row) => last_key = row.try_get(0)?,
            None => return Ok(()),
        }
    }
}

fn observation(row: &AnyRow) -> Result<Observation, sqlx::Error> {
    let text = |column: usize| row.try_get::<&str, _>(column);
    let unknown = |what: &str| sqlx::Error::Decode(format!("not a {what}").into());
    let signatures: Vec<DkimAuthResult> =
        serde_json::from_str(text(6)?).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let mut identities: Vec<(Identity, bool)> = Vec::new();
    for signature in signatures {
        identities.extend(Domain::parse(&signature.domain).ok().map(|d| (Identity::Dkim(d), signature.result == PASS)));
    }
    identities.extend(Domain::parse(text(7)?).ok().map(|d| (Identity::Spf(d), text(8).is_ok_and(|r| r == PASS))));
    let fails = AlignmentOutcome::Fail.as_str();
    Ok(Observation {
        day: row.try_get(1)?,
        source_ip: text(2)?.parse().map_err(|_| unknown("source_ip"))?,
        policy_domain: Domain::parse(text(3)?).ok(),
        is_unaligned: text(4)? == fails && text(5)? == fails,
        identities,
        reply: FinalReply::parse(text(9)?).ok_or_else(|| unknown("reply"))?,
        messages: row.try_get::<i64, _>(10)?.unsigned_abs(),
    })
}

const SELECT: &str =
    "SELECT row_key, day, source_ip, policy_domain, dkim_aligned, spf_aligned, dkim_results, spf_domain,
    spf_result, reply, n FROM report_rows WHERE day >= $1 AND row_key > $2 ORDER BY row_key LIMIT $3";

/// Rows of one page: some MiB.
const PAGE: i64 = 5000;
/// The word for it, of DKIM and of SPF.
const PASS: &str = "pass";
