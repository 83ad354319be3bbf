//! The SPF record of a domain with all that it includes, term by term (RFC 7208), and what it comes to for one client.
//!
//! Where an evaluation ends at the first match, `reader` goes on to the end: what is counted is what a client costs
//! that nothing matches. What a term costs that depends on the client or the sender is not in it, so that with such
//! terms the counts are the least. For a client that is given, the evaluation itself counts, up to the term that
//! decides.

mod faults;
mod reader;

use std::net::IpAddr;

use serde::Serialize;

use super::facts::{Problem, word};
use crate::dns::Lookup;
use crate::domain::Domain;
use crate::explain::escape::escaped;
use crate::label::Label;
use crate::spf::SpfResult;
use crate::spf::evaluate::{Cost, Request, check_host_at_cost};

#[derive(Debug, Serialize)]
pub struct Spf {
    pub record: Node,
    /// Terms that ask DNS, over all records that were read.
    pub terms: usize,
    /// Those of them that find nothing for clients with IPv4.
    pub void_terms: usize,
    /// The same for IPv6.
    pub void_terms_ipv6: usize,
    /// Those of them that depend on the client or the sender: whether they find something is not known.
    pub depending_terms: usize,
    /// Those of the latter that lead to a record: its terms are not counted.
    pub depending_records: usize,
    /// Whether there is more than is followed, so that the counts are the least.
    pub cut_short: bool,
    /// What clients get that nothing matches; none where that is not known or no record says it.
    pub end: Option<End>,
    /// What it comes to for the client given.
    pub client: Option<Client>,
    #[serde(skip)]
    problems: Vec<Problem>,
}

/// One record.
#[derive(Debug, Serialize)]
pub struct Node {
    pub name: String,
    /// `record`, `several_records`, `other_records`, `nodata`, `nxdomain`, the kind of failure, or `not_followed`.
    pub said: &'static str,
    pub ttl_seconds: u64,
    pub text: Option<String>,
    pub terms: Vec<Term>,
}

#[derive(Debug, Serialize)]
pub struct Term {
    pub text: String,
    /// Addresses, exchangers, or what DNS said.
    pub found: Vec<String>,
    /// The record of `include` and `redirect`.
    pub record: Option<Box<Node>>,
}

/// What ends a record.
#[derive(Debug, Serialize)]
pub struct End {
    #[serde(serialize_with = "word")]
    pub result: SpfResult,
    /// Where the record stands: that of `redirect=`, if there is one.
    pub name: String,
    /// `-all` or the like, or what closes a circle; none if the record just ends.
    pub term: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Client {
    pub ip: IpAddr,
    pub result: &'static str,
    pub term: Option<String>,
    pub reason: String,
    /// Terms that asked DNS.
    pub terms: usize,
    /// Those of them that found nothing.
    pub void_terms: usize,
}

/// Reads the record of `domain` and what it includes; for a client, evaluates it as for mail from postmaster there.
pub async fn find<L: Lookup>(lookup: &L, domain: &Domain, ip: Option<IpAddr>) -> Spf {
    let mut spf = reader::read(lookup, domain).await;
    if let Some(ip) = ip {
        spf.client = Some(Client::find(lookup, domain, ip.to_canonical()).await);
    }
    spf
}

impl Spf {
    /// What is wrong with it.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.clone()
    }
}

impl Client {
    async fn find(lookup: &impl Lookup, domain: &Domain, ip: IpAddr) -> Self {
        let sender = format!("postmaster@{domain}");
        let request = Request::mail_from(ip, domain.as_str(), &sender);
        let (output, Cost { terms, void_terms }) = check_host_at_cost(lookup, &request).await;
        Self {
            ip,
            result: output.result.as_str(),
            term: output.term.map(|term| escaped(term.as_bytes())),
            reason: escaped(output.reason.as_bytes()),
            terms,
            void_terms,
        }
    }
}

/// Terms that may ask DNS (RFC 7208 §4.6.4).
pub const MAX_TERMS: usize = 10;
/// Terms that may ask in vain (RFC 7208 §4.6.4).
pub const MAX_VOIDS: usize = 2;
const ABOUT: &str = "SPF";
