//! The keys of DKIM selectors, read by the rules that verification has.

use serde::Serialize;

use super::facts::{Problem, is_failure, said};
use super::near_miss::{self, NearMiss};
use crate::dns::{Lookup, RecordType};
use crate::domain::Domain;
use crate::evaluation::dkim::{KeyFacts, inspect};
use crate::explain::escape::escaped;

#[derive(Debug, Serialize)]
pub struct Selector {
    pub selector: String,
    pub name: String,
    /// `records`, `nodata`, `nxdomain` or the kind of failure.
    pub said: &'static str,
    pub ttl_seconds: u64,
    pub records: Vec<Record>,
}

#[derive(Debug, Serialize)]
pub struct Record {
    pub text: String,
    /// None if it is no usable key.
    pub key: Option<Key>,
    pub fault: Option<&'static str>,
    #[serde(skip)]
    near_miss: Option<NearMiss>,
}

#[derive(Debug, Serialize)]
pub struct Key {
    pub algorithm: &'static str,
    pub bits: usize,
    /// `t=y`.
    pub testing: bool,
    /// `t=s`.
    pub strict_identity: bool,
}

/// Asks for the keys of each selector.
pub async fn find(lookup: &impl Lookup, domain: &Domain, selectors: &[String]) -> Vec<Selector> {
    let mut found = Vec::with_capacity(selectors.len());
    for selector in selectors {
        let name = format!("{selector}._domainkey.{domain}");
        let answer = lookup.ask(&name, RecordType::Txt).await;
        let (said, records) = match &answer.outcome {
            Ok(records) => {
                ("records", records.as_txt().map_or(Vec::new(), |txt| txt.texts().map(Record::new).collect()))
            }
            Err(miss) => (said(*miss), Vec::new()),
        };
        let ttl_seconds = answer.ttl.as_secs();
        found.push(Selector { selector: selector.clone(), name, said, ttl_seconds, records });
    }
    found
}

impl Record {
    fn new(text: &[u8]) -> Self {
        let (key, fault) = match inspect(text) {
            Ok(KeyFacts { algorithm, bits, testing, strict_identity }) => {
                (Some(Key { algorithm, bits, testing, strict_identity }), None)
            }
            Err(fault) => (None, Some(fault)),
        };
        let near_miss = fault.and_then(|_| near_miss::dkim(text));
        Self { text: escaped(text), key, fault, near_miss }
    }
}

impl Record {
    fn problem(&self, name: &str) -> Option<Problem> {
        let fault = self.fault?;
        if let Some(NearMiss { fault: why, remedy }) = self.near_miss {
            return Some(Problem::new(ABOUT, format!("{name}: {fault}: {why}"), remedy));
        }
        let (meaning, remedy) = match fault {
            REVOKED => (
                " (p= is empty): whatever is signed with this selector counts as not validly signed (RFC 6376 §3.6.1)",
                "nothing is to be done if the key was withdrawn on purpose and nothing signs with it any more; else \
                 publish the key of the signing program, or sign with a selector that has one",
            ),
            _ => ("", "publish the record anew as the signing program gives it out"),
        };
        Some(Problem::new(ABOUT, format!("{name}: {fault}{meaning}"), remedy))
    }
}

/// What is wrong with the keys.
pub fn problems(selectors: &[Selector]) -> Vec<Problem> {
    selectors.iter().flat_map(of_selector).collect()
}

fn of_selector(selector: &Selector) -> Vec<Problem> {
    let name = &selector.name;
    if is_failure(selector.said) {
        return vec![Problem::failure(ABOUT, name, selector.said)];
    }
    if selector.records.is_empty() {
        let remedy = "publish the key there, or sign with a selector that has one";
        return vec![Problem::new(ABOUT, format!("there is no key at {name}"), remedy)];
    }
    let mut problems = Vec::new();
    for record in &selector.records {
        problems.extend(record.problem(name));
        let Some(key) = &record.key else { continue };
        if key.algorithm == "rsa" && key.bits < RECOMMENDED_BITS {
            let what = format!("{name}: {} bits are too few for years to come (RFC 8301 §3.2)", key.bits);
            problems.push(Problem::new(ABOUT, what, "make a key of 2048 bits and publish it under a new selector"));
        }
        if key.testing {
            let what = format!("{name}: t=y says that signing is only being tried out");
            problems.push(Problem::new(ABOUT, what, "take t=y away once signatures are good"));
        }
    }
    if selector.records.len() > 1 {
        let what =
            format!("{name}: several records at one name, which verifiers treat differently (RFC 6376 §3.6.2.2)");
        problems.push(Problem::new(ABOUT, what, "leave one record there and give other keys other selectors"));
    }
    problems
}

const ABOUT: &str = "DKIM";
/// What [`inspect`] calls a key whose `p=` is empty.
const REVOKED: &str = "key is revoked";
/// RFC 8301 §3.2: what signers should have.
const RECOMMENDED_BITS: usize = 2048;
