//! One configuration of a policy domain: what one report is about.

use crate::dmarc::record::{Parsed, parse};
use crate::domain::Domain;
use crate::record::{AlignmentMode, DiscoveryMethod, Policy, PolicyPublished, TestMode};
use crate::report::aggregate::clean;

/// A policy record as it was published in the period. Reports are told apart by all of it; where they go is read from
/// [`Configuration::record`] alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Configuration {
    /// The policy domain: where the record was found.
    pub domain: Domain,
    /// The record's text.
    pub record: String,
    /// How it was found.
    pub discovery: DiscoveryMethod,
    /// `adkim`.
    pub adkim: AlignmentMode,
    /// `aspf`.
    pub aspf: AlignmentMode,
    /// `p`.
    pub p: Policy,
    /// `sp`, if published.
    pub sp: Option<Policy>,
    /// `np`, if published.
    pub np: Option<Policy>,
    /// `fo`.
    pub fo: String,
    /// Whether `t=y`.
    pub testing: TestMode,
}

impl Configuration {
    /// What `sp` comes to: without one it is `p`.
    pub fn effective_sp(&self) -> Policy {
        self.sp.unwrap_or(self.p)
    }

    /// What `np` comes to: without one it is `sp`.
    pub fn effective_np(&self) -> Policy {
        self.np.unwrap_or_else(|| self.effective_sp())
    }

    /// `pct`, which reports in the older format name; 100 if it is not published.
    pub(super) fn pct(&self) -> u8 {
        match parse(self.record.as_bytes()) {
            Parsed::Record(record) => record.pct.unwrap_or(100),
            Parsed::Foreign => 100,
        }
    }

    /// What is wrong with the record, for its owner to read; empty if nothing is.
    pub(super) fn problems(&self) -> String {
        match parse(self.record.as_bytes()) {
            Parsed::Record(record) => record.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Parsed::Foreign => String::new(),
        }
    }
}

impl From<&PolicyPublished> for Configuration {
    fn from(policy: &PolicyPublished) -> Self {
        Self {
            domain: policy.domain.clone(),
            record: policy.record.clone(),
            discovery: policy.discovery,
            adkim: policy.adkim,
            aspf: policy.aspf,
            p: policy.p,
            sp: policy.sp,
            np: policy.np,
            fo: clean(&policy.fo),
            testing: policy.testing,
        }
    }
}
