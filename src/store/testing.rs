//! Databases for tests: every test over both kinds, each with a database of its own.
//!
//! With SQLite they are plain tests. With PostgreSQL they are ignored, since they need a server: `tests/postgres`
//! starts one in a directory of its own and runs a command with its URL in `DMARCGATE_TEST_POSTGRES`; `.ci/run` does
//! that.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::any::AnyConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, SqlSafeStr};
use tempfile::TempDir;

use super::{Location, database};

/// A test's database, and a directory that goes with the value.
pub struct Home {
    /// Empty but for SQLite's files.
    pub directory: TempDir,
    /// Which database; there is none yet, or an empty one.
    pub location: Location,
}

impl Home {
    /// A file in the directory.
    pub fn sqlite() -> Self {
        let directory = TempDir::new().unwrap();
        let location = Location::Sqlite(directory.path().join("store.db"));
        Self { directory, location }
    }

    /// A database of the server that the environment names. It stays: the server is thrown away as a whole.
    pub async fn postgres() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);

        let url = std::env::var(SERVER).expect("DMARCGATE_TEST_POSTGRES, which tests/postgres sets");
        sqlx::any::install_default_drivers();
        let mut options = AnyConnectOptions::from_str(&url).unwrap();
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut connection = options.connect().await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")).into_sql_str()).await.unwrap();
        connection.close().await.unwrap();
        options.database_url.set_path(&name);
        let location = Location::parse(options.database_url.as_str()).unwrap();
        Self { directory: TempDir::new().unwrap(), location }
    }

    /// Executes a statement over a connection of its own.
    pub async fn execute(&self, sql: &'static str) {
        let mut connection = database::open(&self.location).await.unwrap();
        connection.execute(sql).await.unwrap();
        connection.close().await.unwrap();
    }

    /// The one number that a query asks for.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let mut connection = database::open(&self.location).await.unwrap();
        let number = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        number
    }
}

/// Makes two tests of each function named, which stands in the same module and takes a [`Home`].
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::store::testing::Home::sqlite()).await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            #[ignore = "needs a PostgreSQL server: tests/postgres"]
            async fn $name() {
                super::$name(crate::store::testing::Home::postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_both;

/// The server to use.
pub const SERVER: &str = "DMARCGATE_TEST_POSTGRES";
