//! What others report about our domains, as it is stored.

use std::net::IpAddr;

use crate::domain::Domain;
use crate::record::{AlignmentOutcome, Disposition};

/// An aggregate report of someone else. Texts are bounded and without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The author domain of the message that it came with, if SPF or DKIM vouches for it; none: anybody may have
    /// written it.
    pub reporter: Option<Domain>,
    /// Who it says has made it.
    pub organization: String,
    /// Its id, by which it counts once.
    pub report_id: String,
    /// The domain that it is about.
    pub policy_domain: Domain,
    /// `p` of that domain's record; empty if it doesn't say.
    pub policy: String,
    /// Where its period begins, in seconds since the epoch.
    pub begin: i64,
    /// Where its period ends, in seconds since the epoch.
    pub end: i64,
    /// What it tells apart, each with a number of messages.
    pub rows: Vec<(Row, u64)>,
    /// Records in it without an address or a number that can be.
    pub left_out: u64,
}

impl Report {
    /// The messages of all rows.
    pub fn messages(&self) -> u64 {
        self.rows.iter().map(|(_, messages)| *messages).sum()
    }
}

/// Messages from one address that fared alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Where they came from.
    pub source_ip: IpAddr,
    /// The author domain; none if it doesn't say.
    pub header_from: Option<Domain>,
    /// What was done; none if it doesn't say.
    pub disposition: Option<Disposition>,
    /// Whether DKIM gave an aligned pass.
    pub dkim: AlignmentOutcome,
    /// Whether SPF gave an aligned pass.
    pub spf: AlignmentOutcome,
    /// Domains of signatures that passed, aligned or not, with spaces between.
    pub dkim_passed: String,
    /// Domains for which SPF passed, aligned or not, with spaces between.
    pub spf_passed: String,
    /// Types of the reasons for an override, with spaces between.
    pub reasons: String,
}
