//! Writes an error with all its causes on one line, for log and standard error. A leaf.

use std::error::Error;
use std::fmt;

use sqlx::postgres::PgDatabaseError;

/// An error, shown as `what failed: why: why that`. A cause that the text before it ends with is left out: some
/// libraries name it in both places.
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        let mut cause = Some(self.0);
        while let Some(error) = cause {
            let said = said_by_server(error);
            let text = said.clone().unwrap_or_else(|| error.to_string());
            if last.is_empty() {
                f.write_str(&text)?;
            } else if !last.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            cause = if said.is_some() { None } else { error.source() };
        }
        Ok(())
    }
}

/// What a database server said, with its SQLSTATE: sqlx writes the line of the server's own source in its place.
fn said_by_server(error: &(dyn Error + 'static)) -> Option<String> {
    let sqlx::Error::Database(fault) = error.downcast_ref()? else { return None };
    // SQLite's codes are shorter.
    let state = fault.code().filter(|code| code.len() == SQLSTATE)?;
    let severity = fault.try_downcast_ref::<PgDatabaseError>().map(|fault| format!("{:?}: ", fault.severity()));
    let severity = severity.unwrap_or_default().to_ascii_uppercase();
    Some(format!("the database says: {severity}{} (SQLSTATE {state})", fault.message()))
}

/// Characters of a SQLSTATE.
const SQLSTATE: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        cause: Option<Box<Layer>>,
    }

    /// What a server says; its `Display` is that of sqlx.
    #[derive(Debug, thiserror::Error)]
    #[error("role \"gate\" does not exist at line 334")]
    struct Said(&'static str);

    impl sqlx::error::DatabaseError for Said {
        fn message(&self) -> &str {
            "role \"gate\" does not exist"
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn what_a_database_server_says_ends_in_its_code_and_not_in_a_line_of_its_source() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] sqlx::Error);
        let outer = |code| Outer(sqlx::Error::Database(Box::new(Said(code))));
        let said = "outer: the database says: role \"gate\" does not exist (SQLSTATE 28000)";
        assert_eq!(Causes(&outer("28000")).to_string(), said);
        assert!(Causes(&outer("13")).to_string().ends_with("at line 334"), "SQLite has no such codes");
    }

    #[test]
    fn each_cause_is_named_once() {
        let cases: &[(&[&str], &str)] =
            &[(&["a"], "a"), (&["b", "a"], "a: b"), (&["c", "b: c", "a"], "a: b: c"), (&["c", "c", "a"], "a: c")];
        for (texts, expected) in cases {
            let layers = texts.iter().fold(None, |cause, text| Some(Box::new(Layer { text, cause })));
            assert_eq!(Causes(&*layers.unwrap()).to_string(), *expected);
        }
    }
}
