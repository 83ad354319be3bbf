//! How a database is opened: the file or the server, and the schema.
//!
//! What differs between the kinds of database is here and in the DDL under `migrations/`, which is compiled in.

use std::fs::{self, DirBuilder, OpenOptions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::any::AnyConnectOptions;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, ConnectOptions, Connection, Row as _, SqlSafeStr, Transaction};
use tokio::time;

use crate::store::{Error, Location};

/// Opens the database for writing: makes directory and file if they are not there, and brings the schema up to date.
///
/// Of SQLite's connections one writes at a time; another that wants to waits for two seconds at most. How long the
/// schema takes is for the caller to bound: another gate may be at it, and a table of millions of rows may have to be
/// changed.
///
/// # Errors
///
/// The operator's: a path that can't be made or opened, a file that is no database or of a newer version, a server that
/// doesn't let us in or does not answer.
pub async fn open(location: &Location) -> Result<AnyConnection, Error> {
    if let Location::Sqlite(path) = location {
        make_file(path).map_err(|source| Error::Path { path: path.clone(), source })?;
    }
    let failed = |source| Error::Open { location: location.clone(), source };
    let mut connection = in_time(CONNECTING, connect_to_write(location)).await.map_err(failed)?;
    let schema = |source| Error::Schema { location: location.clone(), source };
    // `run` would want a pool: its future over a connection can't be spawned.
    let migrator = Migrator::with_migrations(migrations(location));
    migrator.run_direct(None, &mut connection, false).await.map_err(schema)?;
    if let Location::Postgres(_) = location {
        // Not before: the schema may take longer.
        in_time(CONNECTING, set_up(&mut connection)).await.map_err(failed)?;
    }
    Ok(connection)
}

/// Opens the database for reading alone; a gate that writes to it isn't disturbed.
///
/// # Errors
///
/// As [`open`]; also if there is no database yet.
pub async fn open_read_only(location: &Location) -> Result<AnyConnection, Error> {
    let connect = async {
        let mut connection = match location {
            // SQLite says no more than that it can't; what keeps us from the file is said by the file system.
            Location::Sqlite(path) => fs::metadata(path).map(|_| options(location, "ro"))??.connect().await?,
            Location::Postgres(_) => options(location, "ro")?.connect().await?,
        };
        if let Location::Postgres(_) = location {
            sqlx::query(POSTGRES_READ_ONLY).execute(&mut connection).await?;
        }
        Ok(connection)
    };
    in_time(CONNECTING, connect).await.map_err(|source| Error::Open { location: location.clone(), source })
}

/// Begins a transaction that writes. With SQLite it takes the turn to write at once: one that first reads might
/// find that it can't write any more.
///
/// # Errors
///
/// The database's.
pub async fn begin(connection: &mut AnyConnection) -> Result<Transaction<'_, Any>, sqlx::Error> {
    if connection.backend_name() == SQLITE {
        connection.begin_with("BEGIN IMMEDIATE").await
    } else {
        connection.begin().await
    }
}

/// Which file a path names, by device and inode; none if there is none, or if it is a server.
pub fn file_identity(location: &Location) -> Option<(u64, u64)> {
    let Location::Sqlite(path) = location else { return None };
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// The result of `work`, if that doesn't take longer than `limit`: a server that is cut off says nothing for minutes.
/// The connection in use is to be dropped then.
///
/// # Errors
///
/// That of `work`, or that it took too long.
pub async fn in_time<T, E: From<sqlx::Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let silent = || sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time"));
    time::timeout(limit, work).await.unwrap_or_else(|_| Err(silent().into()))
}

/// Octets of the database that are in use.
///
/// # Errors
///
/// The database's.
pub async fn octets(connection: &mut AnyConnection) -> Result<i64, sqlx::Error> {
    let query = if connection.backend_name() == SQLITE { SQLITE_OCTETS } else { POSTGRES_OCTETS };
    sqlx::query(query).fetch_one(connection).await?.try_get(0)
}

/// The time since the epoch by the clock of the server, which all gates share; none with SQLite, whose clock is ours.
///
/// # Errors
///
/// The database's.
pub async fn clock(connection: &mut AnyConnection) -> Result<Option<Duration>, sqlx::Error> {
    if connection.backend_name() == SQLITE {
        return Ok(None);
    }
    let seconds: i64 = sqlx::query_scalar(POSTGRES_CLOCK).fetch_one(connection).await?;
    Ok(Some(Duration::from_secs(seconds.unsigned_abs())))
}

async fn connect_to_write(location: &Location) -> Result<AnyConnection, sqlx::Error> {
    let mut connection = options(location, "rw")?.connect().await?;
    match location {
        Location::Sqlite(_) => {
            for pragma in SQLITE_WRITER_PRAGMAS {
                sqlx::query(*pragma).execute(&mut connection).await?;
            }
            // A file that may only be read is opened all the same; another writer at the same time does no harm.
            match begin(&mut connection).await {
                Ok(transaction) => transaction.rollback().await?,
                Err(error) if is_read_only(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Location::Postgres(_) => {
            let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut connection).await?;
            if encoding != "UTF8" {
                // A row that can't be written would stop all that come after it.
                return Err(sqlx::Error::Configuration(format!("its encoding is {encoding}, not UTF8").into()));
            }
        }
    }
    Ok(connection)
}

async fn set_up(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    for setting in POSTGRES_WRITER_SETTINGS {
        sqlx::query(*setting).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Whether SQLite may not write: SQLITE_READONLY, the low octet of the code.
fn is_read_only(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 8)
}

fn options(location: &Location, mode: &str) -> Result<AnyConnectOptions, sqlx::Error> {
    sqlx::any::install_default_drivers();
    let options: AnyConnectOptions = match location {
        Location::Sqlite(path) => format!("sqlite://{}?mode={mode}", path.display()).parse()?,
        Location::Postgres(postgres) => postgres.options()?,
    };
    Ok(options.disable_statement_logging())
}

/// Makes the directory and an empty file, closed to the world: rows tell who writes to whom. SQLite gives the files
/// beside it the same mode. A file that is there is not opened: closing it would drop the locks of every connection
/// that this process has (POSIX), and the next process to close the database would take the log away from under them.
fn make_file(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    }
    match OpenOptions::new().append(true).create_new(true).mode(0o640).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_dir() => Ok(()),
        made => made.map(drop),
    }
}

fn migrations(location: &Location) -> Vec<Migration> {
    let steps = MIGRATIONS.iter().map(|step| {
        let sql = match location {
            Location::Sqlite(_) => step.sqlite,
            Location::Postgres(_) => step.postgres,
        };
        Migration::new(step.version, step.file.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    steps.collect()
}

/// One step of the schema, for each kind of database.
struct Step {
    version: i64,
    file: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! steps {
    ($($version:literal => $file:literal),* $(,)?) => {
        &[$(Step {
            version: $version,
            file: $file,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $file)),
            postgres: include_str!(concat!("../../migrations/postgres/", $file)),
        }),*]
    };
}

/// The schema, step by step. What has been in a release is never changed: a further step does that.
const MIGRATIONS: &[Step] = steps![
    1 => "0001_report_rows.sql",
    2 => "0002_explanations.sql",
    3 => "0003_report_jobs.sql",
    4 => "0004_comparisons.sql",
    5 => "0005_inbound_reports.sql",
    6 => "0006_writers.sql",
    7 => "0007_periods_and_bounces.sql",
    8 => "0008_shares_of_reports.sql",
];

/// With a write-ahead log readers don't wait for the writer, and what was committed survives the death of the process;
/// NORMAL may lose the last commits, and nothing else, when the machine loses its power.
const SQLITE_WRITER_PRAGMAS: &[&str] =
    &["PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA busy_timeout = 2000"];
/// A batch takes milliseconds; one that takes longer waits for a lock or a server in distress, and is tried again.
const POSTGRES_WRITER_SETTINGS: &[&str] = &["SET statement_timeout = '30s'", "SET lock_timeout = '10s'"];
/// Without the pages that deleted rows have left to those to come.
const SQLITE_OCTETS: &str = "SELECT CAST((page_count - freelist_count) * page_size AS BIGINT)
    FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()";
const POSTGRES_OCTETS: &str = "SELECT CAST(pg_database_size(current_database()) AS BIGINT)";
const POSTGRES_CLOCK: &str = "SELECT CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) AS BIGINT)";
const POSTGRES_READ_ONLY: &str = "SET default_transaction_read_only = on";
/// The name by which sqlx identifies SQLite.
pub const SQLITE: &str = "SQLite";
/// How long opening a connection may take: a server over a slow link takes a second.
const CONNECTING: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_a_step_in_its_place() {
        let names: BTreeSet<String> = MIGRATIONS.iter().map(|step| step.file.to_owned()).collect();
        for kind in ["sqlite", "postgres"] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(kind);
            let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            assert_eq!(files.collect::<BTreeSet<String>>(), names, "{kind}");
        }
        for (step, version) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(step.version, version, "{}", step.file);
            assert!(step.file.starts_with(&format!("{version:04}_")), "{}", step.file);
        }
    }

    /// One set of statements works on both only while the tables are the same.
    #[test]
    fn the_schemas_differ_in_the_names_of_types_alone() {
        let plain = |sql: &str| {
            let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default().to_owned());
            let text = lines.collect::<Vec<_>>().join(" ").replace("BYTEA", "BLOB").replace("COLLATE \"C\"", "");
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        for step in MIGRATIONS {
            assert_eq!(plain(step.sqlite), plain(step.postgres), "{}", step.file);
        }
    }
}
