//! All that `lookup` tells, as one value. The field names are those of `--json` and stay as they are.
//!
//! Text of peers is escaped on its way in here.

use serde::{Serialize, Serializer};

use super::dkim::Selector;
use super::dmarc::Dmarc;
use super::mx::Exchangers;
use super::spf::Spf;
use super::{Lookup, dkim, dmarc, mx, spf};
use crate::dns::{Answer, MessageLookup, Miss};
use crate::evaluation::discovery::Rules;
use crate::explain::escape::escaped_start;
use crate::label::Label;
use crate::label_enum;

label_enum! {
    /// How well it is with what a domain publishes.
    pub enum Health {
        /// Nothing is wrong.
        Fine = "fine",
        /// Something is.
        Faulty = "faulty",
        /// DNS failed, so that something is not known.
        Unknown = "unknown",
    }
}

#[derive(Debug, Serialize)]
pub struct Facts {
    pub domain: String,
    pub spf: Spf,
    pub dmarc: Dmarc,
    pub dkim: Vec<Selector>,
    pub mx: Exchangers,
    pub problems: Vec<Problem>,
    #[serde(serialize_with = "word")]
    pub health: Health,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `SPF`, `DMARC`, `DKIM` or `MX`.
    pub about: &'static str,
    pub what: String,
    /// What to do about it.
    pub remedy: &'static str,
    /// Whether DNS failed, rather than what is published.
    pub is_failure: bool,
}

impl Facts {
    /// Asks all of it.
    pub async fn find(command: &Lookup, lookup: &MessageLookup, rules: &Rules) -> Self {
        let domain = &command.domain;
        // Nothing of this is a message's: what is asked is bounded here, term by term.
        let asker = lookup.unmetered();
        let (spf, dmarc, dkim, mx) = tokio::join!(
            spf::find(&asker, domain, command.ip),
            dmarc::find(lookup, domain, rules),
            dkim::find(&asker, domain, &command.selector),
            mx::find(&asker, domain),
        );
        let problems = [spf.problems(), dmarc.problems(), dkim::problems(&dkim), mx.problems()].concat();
        let health = if problems.iter().any(|problem| problem.is_failure) {
            Health::Unknown
        } else if problems.is_empty() {
            Health::Fine
        } else {
            Health::Faulty
        };
        Self { domain: domain.to_string(), spf, dmarc, dkim, mx, problems, health }
    }

    /// One object on several lines, the fields in the order in which they stand here.
    pub fn to_json(&self) -> String {
        // Fails only for maps with keys that are no strings; there are none.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

impl Problem {
    /// Something that is published wrongly.
    pub fn new(about: &'static str, what: impl Into<String>, remedy: &'static str) -> Self {
        Self { about, what: what.into(), remedy, is_failure: false }
    }

    /// A question that DNS did not answer.
    pub fn failure(about: &'static str, name: &str, said: &str) -> Self {
        Self { is_failure: true, ..Self::new(about, format!("the question for {name} failed: {said}"), FAILURE_REMEDY) }
    }
}

/// What came of a question without records.
pub fn said(miss: Miss) -> &'static str {
    match miss {
        Miss::NoData => "nodata",
        Miss::NxDomain => "nxdomain",
        Miss::Failed(failure) => failure.as_str(),
    }
}

/// The addresses of both families.
pub fn addresses_of(four: &Answer, six: &Answer) -> Vec<String> {
    let four = four.outcome.iter().flat_map(|records| records.as_a()).map(ToString::to_string);
    let six = six.outcome.iter().flat_map(|records| records.as_aaaa()).map(ToString::to_string);
    four.chain(six).collect()
}

/// A text of a peer in quotation marks, or its beginning.
pub fn quoted(text: &[u8]) -> String {
    format!("\"{}\"", escaped_start(text, MAX_QUOTED))
}

/// Whether [`said`] tells of a failure.
pub fn is_failure(said: &str) -> bool {
    crate::dns::Failure::parse(said).is_some()
}

/// Serializes a label as its word.
pub fn word<S: Serializer>(label: &impl Label, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(label.as_str())
}

/// Octets of a text that are quoted: enough to find it again.
const MAX_QUOTED: usize = 80;
const FAILURE_REMEDY: &str = "try again; if it stays so, the domain's name servers are at fault, and mail of the domain is deferred where it matters";
