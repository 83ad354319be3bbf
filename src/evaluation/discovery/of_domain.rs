//! What applies to a domain, apart from any message: for those who ask about a domain, or send reports to its owner.

use super::{Rules, discover_one};
use crate::dmarc::alignment::DmarcResult;
use crate::dns::Lookup;
use crate::domain::Domain;
use crate::evaluation::PublishedPolicy;

/// What applies to a domain.
#[derive(Debug, Clone)]
pub struct DomainPolicy {
    /// None where DNS left it open.
    pub organizational_domain: Option<Domain>,
    /// The policy; without one the result that each message from the domain gets (none, temperror or permerror), and
    /// why.
    pub policy: Result<PublishedPolicy, (DmarcResult, &'static str)>,
}

/// Discovers the policy of `domain` as for a message from it (RFC 9989 §4.10.1), and its organizational domain.
pub async fn of_domain(lookup: &impl Lookup, rules: &Rules, domain: &Domain) -> DomainPolicy {
    let found = discover_one(lookup, rules, domain).await;
    let policy = found.finding.policy().cloned().map_err(|(result, reason, _)| (result, reason));
    DomainPolicy { organizational_domain: found.organizational_domain(), policy }
}
