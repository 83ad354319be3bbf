//! What is measured: the memory of this process, the database's size, a metric.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, AssertSqlSafe, ConnectOptions, Connection, Executor, SqlSafeStr};

/// A fresh database.
pub struct Database {
    pub kind: &'static str,
    pub url: String,
}

/// Resident memory of this process, in KiB.
pub struct Memory(u64);

impl Database {
    /// A file in `place`.
    pub fn sqlite(place: &Path) -> Self {
        Self { kind: "SQLite", url: format!("sqlite://{}", place.join("dmarcgate.db").display()) }
    }

    /// The `n`th database of a server, which is thrown away as a whole.
    pub async fn postgres(server: &str, n: usize) -> Self {
        sqlx::any::install_default_drivers();
        let mut options = AnyConnectOptions::from_str(server).expect("a URL");
        let mut connection = options.connect().await.expect("the server of tests/postgres");
        let create = format!("CREATE DATABASE scale_{n}");
        connection.execute(AssertSqlSafe(create).into_sql_str()).await.expect("a superuser");
        connection.close().await.expect("no more to do");
        options.database_url.set_path(&format!("scale_{n}"));
        Self { kind: "PostgreSQL", url: options.database_url.to_string() }
    }

    /// What the rows take, their indexes included.
    pub async fn octets(&self) -> u64 {
        sqlx::any::install_default_drivers();
        let query = match self.kind {
            "SQLite" => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
            _ => "SELECT pg_total_relation_size('report_rows')",
        };
        let mut connection = AnyConnection::connect(&self.url).await.expect("the database");
        let octets: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("its size");
        connection.close().await.expect("no more to do");
        octets.unsigned_abs()
    }
}

impl Memory {
    /// What is in use.
    pub fn now() -> Self {
        Self::forget_peak();
        Self::read("VmRSS:")
    }

    /// The most since [`Memory::forget_peak`].
    pub fn peak() -> Self {
        Self::read("VmHWM:")
    }

    /// Lets the peak begin anew (proc(5), `clear_refs`).
    pub fn forget_peak() {
        std::fs::write("/proc/self/clear_refs", "5").expect("our own process");
    }

    fn read(field: &str) -> Self {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("its memory");
        Self(line.trim().trim_end_matches(" kB").parse().expect("a number"))
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 / 1024)
    }
}

/// A series of what a registry renders.
pub fn value(samples: &str, series: &str) -> f64 {
    let line = samples.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {series}"))
}
