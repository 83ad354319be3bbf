//! The mail servers of a domain (RFC 5321 §5.1, RFC 7505).

use serde::Serialize;

use super::facts::{Problem, addresses_of, is_failure, said};
use crate::dns::{Lookup, Miss, RecordType};
use crate::domain::Domain;
use crate::explain::escape::escaped;

#[derive(Debug, Serialize)]
pub struct Exchangers {
    /// `records`, `nodata`, `nxdomain` or the kind of failure.
    pub said: &'static str,
    pub ttl_seconds: u64,
    /// The domain takes no mail (RFC 7505).
    pub is_null: bool,
    pub exchangers: Vec<Exchanger>,
    #[serde(skip)]
    name: String,
}

#[derive(Debug, Serialize)]
pub struct Exchanger {
    pub preference: u16,
    pub name: String,
    pub addresses: Vec<String>,
    /// Whether DNS failed for one of its families.
    pub failed: bool,
}

/// Asks for the exchangers, and for the addresses of the first few.
pub async fn find(lookup: &impl Lookup, domain: &Domain) -> Exchangers {
    let answer = lookup.ask(domain.as_str(), RecordType::Mx).await;
    let mut found = Exchangers {
        said: "records",
        ttl_seconds: answer.ttl.as_secs(),
        is_null: false,
        exchangers: Vec::new(),
        name: domain.to_string(),
    };
    let records = match &answer.outcome {
        Ok(records) => records,
        Err(miss) => {
            found.said = said(*miss);
            return found;
        }
    };
    found.is_null = records.as_mx().iter().any(|mx| mx.exchange.is_empty());
    for mx in records.as_mx().iter().filter(|mx| !mx.exchange.is_empty()).take(MAX_EXCHANGERS) {
        let (four, six) =
            tokio::join!(lookup.ask(&mx.exchange, RecordType::A), lookup.ask(&mx.exchange, RecordType::Aaaa));
        let failed = [&four, &six].iter().any(|answer| matches!(answer.outcome, Err(Miss::Failed(_))));
        found.exchangers.push(Exchanger {
            preference: mx.preference,
            name: escaped(mx.exchange.as_bytes()),
            addresses: addresses_of(&four, &six),
            failed,
        });
    }
    found
}

impl Exchangers {
    /// What is wrong with them. That there are none is not: a domain may only send.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if is_failure(self.said) {
            problems.push(Problem::failure(ABOUT, &self.name, self.said));
        }
        if self.is_null && !self.exchangers.is_empty() {
            let what = "a null MX stands beside exchangers (RFC 7505 §3)";
            problems.push(Problem::new(ABOUT, what, "publish the null MX alone, or take it away"));
        }
        for exchanger in self.exchangers.iter().filter(|exchanger| exchanger.addresses.is_empty()) {
            problems.push(if exchanger.failed {
                Problem::failure(ABOUT, &exchanger.name, "no address is known")
            } else {
                let what = format!("{} has no address", exchanger.name);
                Problem::new(ABOUT, what, "publish an address for it, or take it out of the MX records")
            });
        }
        problems
    }
}

const ABOUT: &str = "MX";
/// Exchangers whose addresses are asked for.
const MAX_EXCHANGERS: usize = 10;
