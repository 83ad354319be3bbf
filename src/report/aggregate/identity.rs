//! The id of a report.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

use crate::domain::Domain;
use crate::hex::hex;
use crate::label::Label;
use crate::report::aggregate::{Configuration, Period};

/// What makes a report unique among all that its reader gets (RFC 9990 §3.5.1): 32 hexadecimal digits, computed from
/// receiver, configuration and period, so that a report that is built or sent again is the same report, whichever gate
/// does it.
///
/// Letters and digits alone fit a file name's `unique-id`, which has to be identical to the id elsewhere (RFC 9990
/// §3.1.4), and are a `dot-atom`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportId(Box<str>);

impl ReportId {
    /// The id of a receiver's report on one configuration in one period.
    pub fn new(receiver: &Domain, policy: &Configuration, period: Period) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut take = |text: &str| {
            // The length first, so that no text can pass for two.
            hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text.as_bytes());
        };
        let optional = |policy: Option<crate::record::Policy>| policy.map_or("", Label::as_str);
        for text in [
            receiver.as_str(),
            policy.domain.as_str(),
            &policy.record,
            policy.discovery.as_str(),
            policy.adkim.as_str(),
            policy.aspf.as_str(),
            policy.p.as_str(),
            optional(policy.sp),
            optional(policy.np),
            &policy.fo,
            policy.testing.as_str(),
        ] {
            take(text);
        }
        hash.update(&period.begin.to_be_bytes());
        hash.update(&period.end.to_be_bytes());
        Self(hex(hash.finish().as_ref().iter().take(ID_OCTETS)).into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Octets of the hash that are used: nobody can find two reports with the same id.
const ID_OCTETS: usize = 16;
