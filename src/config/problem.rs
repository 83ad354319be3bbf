//! What is wrong with a configuration file, said so that it can be mended without a manual.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, counted from 1; none where something is missing from the file as a whole.
    pub line: Option<usize>,
    /// The key's path (`policy.mode`); empty where the text isn't TOML.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Why there is no configuration; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file says something that can't be; everything that is wrong, in the order of the file.
    #[error("{}", Listed { path, problems })]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// At least one.
        problems: Vec<Problem>,
    },
    /// The file can't be read.
    #[error("{path} can't be read: {source}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The problems, one a line, in the form that editors jump to: `file:line: key: message`.
struct Listed<'a> {
    path: &'a PathBuf,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { line, key, message }) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if let Some(line) = line {
                write!(f, "{line}:")?;
            }
            if !key.is_empty() {
                write!(f, " {key}:")?;
            }
            write!(f, " {message}")?;
        }
        Ok(())
    }
}

/// The one of `words` that `word` was probably meant to be.
pub fn suggestion<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerance = (word.chars().count() / 3).clamp(1, 3);
    words
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters have to be put in, taken out, changed or swapped with their neighbour.
#[expect(clippy::indexing_slicing, reason = "each row has one place more than `to` has characters")]
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut cost = (row[j] + usize::from(a != b)).min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            next.push(cost);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let cases = [("", "", 0), ("", "abc", 3), ("mode", "mode", 0), ("mdoe", "mode", 1), ("moed", "mode", 1)];
        for (from, to, expected) in cases {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn suggestions_are_near_or_none() {
        let words = ["mode", "reject", "on_temperror", "honor_pct"];
        let cases = [
            ("mdoe", Some("mode")),
            ("Mode", Some("mode")),
            ("on_temp_error", Some("on_temperror")),
            ("honour_pct", Some("honor_pct")),
            ("colour", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(suggestion(word, words), expected, "{word}");
        }
    }
}
