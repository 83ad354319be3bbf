//! Writes lines that come together in few statements, and finds those among them that the database refuses for what
//! they are.

use sqlx::any::{Any, AnyArguments};
use sqlx::query::Query;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Transaction};

use crate::store::database::SQLITE;

/// One line of a table, as it is written.
pub trait Line: Sync {
    /// The statement up to the values: `INSERT INTO table AS t (columns)`.
    const INTO: &'static str;
    /// How many columns it names.
    const COLUMNS: usize;
    /// What stands behind the values: what becomes of a line whose like is there.
    const CONFLICT: &'static str;

    /// Binds the values, in the order of the columns.
    fn bind<'q>(&'q self, query: Put<'q>) -> Put<'q>;
}

/// A statement under way.
pub type Put<'q> = Query<'q, Any, AnyArguments>;

/// Writes lines in their order, at most [`TOGETHER`] with a statement. No two of them have one key.
///
/// # Errors
///
/// The database's; the transaction should then be rolled back.
pub async fn put<L: Line>(transaction: &mut Transaction<'_, Any>, lines: &[L]) -> Result<(), sqlx::Error> {
    let (mut rest, marks) = (lines, Marks::of(transaction));
    while !rest.is_empty() {
        // Powers of two, so that there are few different statements: each is prepared once.
        let count = 1 << rest.len().min(TOGETHER).ilog2();
        let (group, behind) = rest.split_at(count);
        let mut query = sqlx::query(AssertSqlSafe(statement::<L>(count, marks)));
        for line in group {
            query = line.bind(query);
        }
        query.execute(&mut **transaction).await?;
        rest = behind;
    }
    Ok(())
}

/// The same, without the lines that the database refuses for what they are ([`is_of_data`]): they are looked for by
/// halves, and returned. Beyond [`MAX_SOUGHT`] of them a group that is refused is refused as a whole, for the search
/// costs a dozen statements for each.
///
/// # Errors
///
/// The database's of another kind; the transaction should then be rolled back.
pub async fn put_accepted<'a, L: Line>(
    transaction: &mut Transaction<'_, Any>,
    lines: &'a [L],
) -> Result<Vec<&'a L>, sqlx::Error> {
    let mut refused = Vec::new();
    // What is still to be written, the first on top.
    let mut parts: Vec<_> = lines.chunks(TOGETHER).rev().collect();
    while let Some(part) = parts.pop() {
        let mut attempt = transaction.begin().await?;
        match put(&mut attempt, part).await {
            Ok(()) => attempt.commit().await?,
            Err(cause) if is_of_data(&cause) => {
                attempt.rollback().await?;
                if part.len() > 1 && refused.len() < MAX_SOUGHT {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                } else {
                    refused.extend(part);
                }
            }
            Err(cause) => return Err(cause),
        }
    }
    Ok(refused)
}

/// Whether the database refused a statement for the values in it, as it will again: not for its own state, the
/// connection or the schema.
pub fn is_of_data(cause: &sqlx::Error) -> bool {
    match cause {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(cause) => cause.code().is_some_and(|code| is_code_of_data(&code)),
        _ => false,
    }
}

/// PostgreSQL has SQLSTATEs of five characters, SQLite numbers, of which the lowest octet counts.
fn is_code_of_data(code: &str) -> bool {
    match (code.len(), code.parse::<u32>()) {
        (5, _) => SQLSTATES_OF_DATA.iter().any(|class| code.starts_with(class)),
        (_, Ok(number)) => SQLITE_CODES_OF_DATA.contains(&(number & 0xff)),
        _ => false,
    }
}

/// How a statement says where values go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// `$1`, `$2`: what PostgreSQL takes.
    Numbered,
    /// `?`. Marks with names SQLite keeps in a list, and sqlx asks it for each one's name: with the thousand of a
    /// statement, that took more time than all else.
    Bare,
}

impl Marks {
    fn of(connection: &AnyConnection) -> Self {
        if connection.backend_name() == SQLITE { Self::Bare } else { Self::Numbered }
    }
}

/// The statement for so many lines.
fn statement<L: Line>(count: usize, marks: Marks) -> String {
    let mut text = String::with_capacity(L::INTO.len() + L::CONFLICT.len() + count * (L::COLUMNS + 1) * 6);
    text.push_str(L::INTO);
    text.push_str(" VALUES ");
    for line in 0..count {
        for column in 0..L::COLUMNS {
            text.push_str(match (line, column) {
                (0, 0) => "(",
                (_, 0) => "), (",
                _ => ", ",
            });
            match marks {
                Marks::Numbered => text.push_str(&format!("${}", line * L::COLUMNS + column + 1)),
                Marks::Bare => text.push('?'),
            }
        }
    }
    text.push_str(") ");
    text.push_str(L::CONFLICT);
    text
}

/// Lines of one statement at most. PostgreSQL takes 65,535 values, SQLite 32,766; beyond some dozen lines nothing is
/// gained.
pub const TOGETHER: usize = 32;
/// Lines of one kind that are looked for in a batch, so that all of it takes some seconds over a slow network, too. A
/// batch with more consists of values that this database can't hold.
const MAX_SOUGHT: usize = 16;
/// Cardinality violation, data exception, integrity constraint violation, program limit exceeded, and what a trigger
/// raises.
const SQLSTATES_OF_DATA: [&str; 5] = ["21", "22", "23", "54", "P0"];
/// Too big, constraint, mismatch.
const SQLITE_CODES_OF_DATA: [u32; 3] = [18, 19, 20];

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair;

    impl Line for Pair {
        const INTO: &'static str = "INSERT INTO t (a, b)";
        const COLUMNS: usize = 2;
        const CONFLICT: &'static str = "ON CONFLICT DO NOTHING";

        fn bind<'q>(&'q self, query: Put<'q>) -> Put<'q> {
            query.bind(1).bind(2)
        }
    }

    #[test]
    fn values_are_numbered_through_or_stand_in_their_order() {
        for (count, marks, values) in [
            (1, Marks::Numbered, "($1, $2)"),
            (3, Marks::Numbered, "($1, $2), ($3, $4), ($5, $6)"),
            (1, Marks::Bare, "(?, ?)"),
            (2, Marks::Bare, "(?, ?), (?, ?)"),
        ] {
            let expected = format!("INSERT INTO t (a, b) VALUES {values} ON CONFLICT DO NOTHING");
            assert_eq!(statement::<Pair>(count, marks), expected);
        }
    }

    #[test]
    fn what_is_the_fault_of_the_values() {
        let cases = [
            ("a NUL in a text", "22021", true),
            ("a number too large", "22003", true),
            ("a check", "23514", true),
            ("an index entry too large", "54000", true),
            ("a trigger", "P0001", true),
            ("a row twice", "21000", true),
            ("no such table", "42P01", false),
            ("no such column", "42703", false),
            ("a deadlock", "40P01", false),
            ("a full disk", "53100", false),
            ("shutting down", "57P01", false),
            ("read only", "25006", false),
            ("SQLite: a trigger", "1811", true),
            ("SQLite: a check", "275", true),
            ("SQLite: too big", "18", true),
            ("SQLite: busy", "5", false),
            ("SQLite: full", "13", false),
            ("SQLite: an error of the disk", "778", false),
            ("SQLite: no such table", "1", false),
            ("nothing", "", false),
        ];
        for (name, code, expected) in cases {
            assert_eq!(is_code_of_data(code), expected, "{name}");
        }
        assert!(!is_of_data(&sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into())));
    }
}
