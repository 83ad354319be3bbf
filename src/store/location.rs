//! Which database: read from a URL, shown without its password.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;
use sqlx::postgres::PgSslMode;

use crate::secret::Secret;

/// Which database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of our own.
    Sqlite(PathBuf),
    /// A server, which a fleet may share.
    Postgres(Postgres),
}

/// A database on a PostgreSQL server. Neither `Debug` nor `Display` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Postgres {
    /// It may have a password in it.
    url: Secret<String>,
    password_file: Option<PathBuf>,
}

/// Why a URL names no database that we can use; for the operator to fix. Each says what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// No URL of the kinds that we know.
    #[error(r#""sqlite:///absolute/path", without '%', '?' and '#', or "postgres://user@host/database""#)]
    Unknown,
    /// A URL of PostgreSQL that lacks a part, which the environment would otherwise decide.
    #[error(r#""postgres://user@host/database", with user, host and database"#)]
    Incomplete,
    /// A parameter that is not ours to pass on.
    #[error("no other parameters than {PARAMETERS:?}")]
    Parameter,
    /// A way to use TLS that PostgreSQL doesn't know.
    #[error("sslmode=disable, allow, prefer, require, verify-ca or verify-full")]
    SslMode,
}

impl Location {
    /// Reads a URL: `sqlite://` and an absolute path, or `postgres://user@host/database`.
    ///
    /// # Errors
    ///
    /// Says what is expected.
    pub fn parse(url: &str) -> Result<Self, LocationError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Postgres::parse(url).map(Self::Postgres);
        }
        let path = url.strip_prefix("sqlite://").ok_or(LocationError::Unknown)?;
        if !path.starts_with('/') || path.ends_with('/') || path.contains(['%', '?', '#']) {
            return Err(LocationError::Unknown);
        }
        Ok(Self::Sqlite(PathBuf::from(path)))
    }

    /// The same, with the password in a file, which is read whenever a connection is opened; nothing to a file of our
    /// own.
    #[must_use]
    pub fn with_password_file(self, file: Option<PathBuf>) -> Self {
        match self {
            Self::Postgres(Postgres { url, .. }) => Self::Postgres(Postgres { url, password_file: file }),
            Self::Sqlite(path) => Self::Sqlite(path),
        }
    }
}

impl Postgres {
    fn parse(url: &str) -> Result<Self, LocationError> {
        let options = AnyConnectOptions::from_str(url).map_err(|_| LocationError::Unknown)?;
        let parsed = &options.database_url;
        let mut has_host = parsed.host_str().is_some_and(|host| !host.is_empty());
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "host" => has_host = value.starts_with('/'),
                "sslmode" => drop(PgSslMode::from_str(&value).map_err(|_| LocationError::SslMode)?),
                name if PARAMETERS.contains(&name) => {}
                _ => return Err(LocationError::Parameter),
            }
        }
        if !has_host || parsed.username().is_empty() || parsed.path().len() < 2 {
            return Err(LocationError::Incomplete);
        }
        Ok(Self { url: Secret::new(url.to_owned()), password_file: None })
    }

    /// The files that are read when a connection is opened, each with the key that names it.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        let url = AnyConnectOptions::from_str(self.url.expose()).map(|options| options.database_url);
        let is_file = |name: &str| matches!(name, "sslrootcert" | "sslcert" | "sslkey");
        let named = url.map(|url| {
            url.query_pairs()
                .filter(|(name, _)| is_file(name))
                .map(|(_, value)| value.into_owned().into())
                .collect::<Vec<_>>()
        });
        let password = self.password_file.clone().map(|file| ("store.password_file", file));
        password.into_iter().chain(named.unwrap_or_default().into_iter().map(|file| ("store.url", file)))
    }

    /// What to connect with, the password of the file in it.
    ///
    /// # Errors
    ///
    /// The file's.
    pub(super) fn options(&self) -> Result<AnyConnectOptions, sqlx::Error> {
        let mut options = AnyConnectOptions::from_str(self.url.expose())?;
        if let Some(file) = &self.password_file {
            let password = Secret::new(fs::read_to_string(file).map_err(|error| unreadable(file, &error))?);
            // Fails only for URLs without a host, which were refused.
            let password = Secret::new(password.expose().trim_end_matches(['\r', '\n']).replace('%', "%25"));
            let _ = options.database_url.set_password(Some(password.expose()));
        }
        if !options.database_url.query_pairs().any(|(name, _)| name == APPLICATION_NAME) {
            options.database_url.query_pairs_mut().append_pair(APPLICATION_NAME, "dmarcgate");
        }
        Ok(options)
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> sqlx::Error {
    sqlx::Error::Configuration(format!("store.password_file {} can't be read: {error}", file.display()).into())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(postgres) => postgres.fmt(f),
        }
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It was parsed before.
        let Ok(mut options) = AnyConnectOptions::from_str(self.url.expose()) else { return Err(fmt::Error) };
        if options.database_url.password().is_none() {
            return f.write_str(self.url.expose());
        }
        let _ = options.database_url.set_password(Some("***"));
        write!(f, "{}", options.database_url)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What may stand behind the '?': TLS, the directory of a local socket, the name under which the server lists us, and
/// 0 for a pooler between us and the server that can't keep prepared statements.
const PARAMETERS: [&str; 7] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "host", APPLICATION_NAME, "statement-cache-capacity"];
/// The name under which the server lists us (pg_stat_activity): `dmarcgate`, unless the URL has another.
const APPLICATION_NAME: &str = "application_name";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let sqlite = |path: &str| Ok(Some(path.to_owned()));
        let cases: &[(&str, Result<Option<String>, LocationError>)] = &[
            ("sqlite:///var/lib/dmarcgate/dmarcgate.db", sqlite("/var/lib/dmarcgate/dmarcgate.db")),
            ("sqlite:///a path/b.db", sqlite("/a path/b.db")),
            ("sqlite://relative.db", Err(LocationError::Unknown)),
            ("sqlite:///var/lib/", Err(LocationError::Unknown)),
            ("sqlite:///a.db?mode=memory", Err(LocationError::Unknown)),
            ("sqlite::memory:", Err(LocationError::Unknown)),
            ("/var/lib/a.db", Err(LocationError::Unknown)),
            ("mysql://u@h/db", Err(LocationError::Unknown)),
            ("postgres://u@h/db", Ok(None)),
            ("postgresql://u@h:5433/db?sslmode=verify-full&sslrootcert=/etc/ca.pem", Ok(None)),
            ("postgres://u@localhost/db?host=/run/postgresql", Ok(None)),
            ("postgres://u@[2001:db8::1]/db", Ok(None)),
            ("postgres://h/db", Err(LocationError::Incomplete)),
            ("postgres://u@h", Err(LocationError::Incomplete)),
            ("postgres://u@h/", Err(LocationError::Incomplete)),
            ("postgres:///db", Err(LocationError::Incomplete)),
            ("postgres://u@h/db?sslmode=maybe", Err(LocationError::SslMode)),
            ("postgres://u@h/db?password=p", Err(LocationError::Parameter)),
            ("postgres://u@h/db?options=-c", Err(LocationError::Parameter)),
        ];
        for (url, expected) in cases {
            let location = Location::parse(url);
            let path = location.clone().map(|location| match location {
                Location::Sqlite(path) => Some(path.display().to_string()),
                Location::Postgres(_) => None,
            });
            assert_eq!(&path, expected, "{url}");
            if let Ok(location) = location {
                assert_eq!(location.to_string(), *url);
            }
        }
    }

    #[test]
    fn a_password_is_shown_nowhere() {
        let location = Location::parse("postgres://u:hunter2%21@h:5433/db?sslmode=require").unwrap();
        assert_eq!(location.to_string(), "postgres://u:***@h:5433/db?sslmode=require");
        assert!(!format!("{location:?}").contains("hunter2"));
    }

    #[test]
    fn the_server_lists_us_by_name() {
        let cases = [
            ("postgres://u@h/db", "application_name=dmarcgate"),
            ("postgres://u@h/db?sslmode=require", "sslmode=require&application_name=dmarcgate"),
            ("postgres://u@h/db?application_name=mx1", "application_name=mx1"),
        ];
        for (url, query) in cases {
            let Ok(Location::Postgres(postgres)) = Location::parse(url) else { panic!("no PostgreSQL") };
            assert_eq!(postgres.options().unwrap().database_url.query(), Some(query), "{url}");
        }
    }

    #[test]
    fn the_password_of_a_file_is_taken_whatever_is_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "p@ss:/?#%41 wörd\n").unwrap();
        let location = Location::parse("postgres://u@h/db").unwrap().with_password_file(Some(file.path().into()));
        assert_eq!(location.to_string(), "postgres://u@h/db");
        let Location::Postgres(postgres) = location else { panic!("no PostgreSQL") };
        let options = postgres.options().unwrap();
        // sqlx undoes what the URL needs; a per cent sign of the password itself has to come out as one.
        assert_eq!(options.database_url.password(), Some("p%40ss%3A%2F%3F%23%2541%20w%C3%B6rd"));

        let missing = Postgres { password_file: Some("/nowhere/secret".into()), ..postgres };
        let error = missing.options().unwrap_err().to_string();
        assert!(error.contains("/nowhere/secret"), "{error}");
    }
}
