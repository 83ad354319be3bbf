//! Builds aggregate reports (RFC 9990): rows of a period become a [`Feedback`], and that becomes XML. Pure.
//!
//! A report is about one policy domain and one configuration of its record (RFC 9990 §3.1). [`Drafts`] sorts rows by
//! [`Configuration`]; a [`Draft`] adds up what a report does not tell apart. Whatever a peer wrote is cleaned before it
//! is compared, and [`check()`] reads a report once more before it leaves. What is left out is counted ([`LeftOut`]),
//! and the report itself says what it had no room for.

pub mod check;
mod configuration;
mod draft;
mod identity;
mod line;
mod source;
mod xml;

#[cfg(test)]
mod tests;

pub use check::check;
pub use configuration::Configuration;
pub use draft::{Draft, Drafts, LeftOut, Limits};
pub use identity::ReportId;
pub use line::Line;
pub use source::{PrivateAddresses, Source};

use crate::calendar::SECONDS_PER_DAY;
use crate::domain::Domain;
use crate::label_enum;

label_enum! {
    /// The schema that reports follow.
    pub enum Format {
        /// That of RFC 9990.
        Rfc9990 = "rfc9990",
        /// The older one of RFC 7489, for consumers that don't read the new one.
        Rfc7489 = "rfc7489",
    }
}

/// Who reports, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// The name of the reporting organization.
    pub organization: String,
    /// Its address for questions about reports.
    pub email: String,
    /// Where else it can be reached.
    pub extra_contact_info: Option<String>,
    /// The receiver's domain: one for all gates of a fleet, or their reports would have different names.
    pub receiver: Domain,
    /// The schema.
    pub format: Format,
}

/// A reporting period in seconds since the epoch, UTC; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    /// The first second.
    pub begin: i64,
    /// The last second, so that periods do not overlap (RFC 9990 §3.1.1.4).
    pub end: i64,
}

/// A whole report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feedback {
    /// Who reports.
    pub reporter: Reporter,
    /// Its id, the same in the report, its name and the subject (RFC 9990 §3.1.4).
    pub id: ReportId,
    /// What it covers.
    pub period: Period,
    /// The policy that was published.
    pub policy: Configuration,
    /// What is wrong with the policy record, and what the report leaves out; in a few words.
    pub error: Option<String>,
    /// The records and their counts, at least one, in an order of their own, so that the same rows make the same
    /// octets.
    pub lines: Vec<(Line, u64)>,
}

impl Period {
    /// A UTC day, counted from 1970-01-01.
    pub fn day(day: i64) -> Self {
        let begin = day.saturating_mul(SECONDS_PER_DAY);
        Self { begin, end: begin.saturating_add(SECONDS_PER_DAY - 1) }
    }

    /// So many hours of a UTC day from the given one on.
    pub fn of_hours(day: i64, first: i64, hours: i64) -> Self {
        let begin = Self::day(day).begin.saturating_add(first.saturating_mul(SECONDS_PER_HOUR));
        Self { begin, end: begin.saturating_add(hours.saturating_mul(SECONDS_PER_HOUR) - 1) }
    }

    /// Its length in seconds.
    pub fn seconds(self) -> i64 {
        self.end.saturating_sub(self.begin).saturating_add(1)
    }
}

impl Feedback {
    /// The report as XML.
    pub fn to_xml(&self) -> String {
        xml::write(self)
    }

    /// The name of the compressed attachment (RFC 9990 §3.5.2).
    pub fn file_name(&self) -> String {
        let Self { reporter, policy, period, id, .. } = self;
        let Period { begin, end } = period;
        format!("{}!{}!{begin}!{end}!{id}.xml.gz", reporter.receiver, policy.domain)
    }

    /// How many messages it is about.
    pub fn messages(&self) -> u64 {
        self.lines.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

const SECONDS_PER_HOUR: i64 = 3600;

/// The text with U+FFFD in place of what XML 1.0 forbids (`Char`), of other control characters and of line ends: none
/// of them is part of a name, and a parser would change some of them.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || !is_xml(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Whether XML 1.0 has the character.
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}
