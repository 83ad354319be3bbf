//! check_host() (RFC 7208 §4): one client, one identity, one result with its reason.
//!
//! Limits of §4.6.4: ten terms that ask DNS, two of them void, ten exchangers for each `mx`, ten names of the client. A
//! look-up that fails is temperror, never fail or permerror; but not those for the client's own names, which fail as if
//! the client had none (§5.5, §7.3): their zone is the client's, who could turn each fail into temperror by silence.
//! `exp=` is not fetched: no text of others is shown to senders.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::dns::reverse::{address_type, ask_addresses, has_address};
use crate::dns::{Failure, Lookup, Miss, RecordType, Records, reverse_name};
use crate::domain::{Domain, fits_dns};

use super::macros::{DomainSpec, Values};
use super::record::{Directive, Mechanism, Prefix, Published, Qualifier, Record, Redirect};
use super::{Identity, SpfOutput, SpfResult};

/// Whom to check.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The client's address.
    pub ip: IpAddr,
    /// The EHLO name as given.
    pub helo: &'a str,
    /// The sender's local part; empty: `postmaster` (RFC 7208 §4.3).
    pub local_part: &'a str,
    /// The sender's domain as given.
    pub domain: &'a str,
    /// Whose domain that is.
    pub identity: Identity,
}

impl<'a> Request<'a> {
    /// The MAIL FROM identity (RFC 7208 §2.4): `reverse_path` is the address without angle brackets; the null
    /// reverse-path, empty, stands for postmaster at the EHLO name.
    pub fn mail_from(ip: IpAddr, helo: &'a str, reverse_path: &'a str) -> Self {
        if reverse_path.is_empty() {
            return Self { ip, helo, local_part: "", domain: helo, identity: Identity::Helo };
        }
        // The last at sign: a quoted local part may have others. Without one there is no domain.
        let (local_part, domain) = reverse_path.rsplit_once('@').unwrap_or((reverse_path, ""));
        Self { ip, helo, local_part, domain, identity: Identity::MailFrom }
    }

    /// The HELO identity (RFC 7208 §2.3); none where the name is not a domain of several labels (an address literal,
    /// for example): then there is nothing to check.
    pub fn helo(ip: IpAddr, helo: &'a str) -> Option<Self> {
        let is_checkable = Domain::parse(helo).is_ok_and(|domain| domain.label_count() > 1);
        is_checkable.then_some(Self { ip, helo, local_part: "", domain: helo, identity: Identity::Helo })
    }
}

/// What an evaluation spent of the limits of RFC 7208 §4.6.4.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Terms that ask DNS; the one beyond the limit of ten counts.
    pub terms: usize,
    /// Those of them that found nothing; the one beyond the limit of two counts.
    pub void_terms: usize,
}

/// Evaluates SPF for `request`. It takes as long as its look-ups; the deadline is the handle's.
pub async fn check_host(lookup: &impl Lookup, request: &Request<'_>) -> SpfOutput {
    check_host_at_cost(lookup, request).await.0
}

/// Does what [`check_host`] does, and tells what it spent.
pub async fn check_host_at_cost(lookup: &impl Lookup, request: &Request<'_>) -> (SpfOutput, Cost) {
    let output = |domain, finding: Finding, records, unsettled| SpfOutput {
        result: finding.result,
        identity: request.identity,
        domain,
        term: finding.term,
        reason: finding.reason,
        unsettled,
        failure: finding.failure,
        records,
    };
    // Malformed, an address literal, or a single label: nothing to look for (RFC 7208 §4.3).
    let Some(domain) = Domain::parse(request.domain).ok() else {
        let finding = Finding::new(SpfResult::None, "identity without a usable domain");
        return (output(None, finding, Vec::new(), false), Cost::default());
    };
    if domain.label_count() < 2 {
        let finding = Finding::new(SpfResult::None, "domain of a single label");
        return (output(Some(domain), finding, Vec::new(), false), Cost::default());
    }
    let mut check = Check {
        lookup,
        ip: request.ip.to_canonical(),
        helo: request.helo,
        local_part: if request.local_part.is_empty() { "postmaster" } else { request.local_part },
        sender_domain: domain.as_str(),
        cost: Cost::default(),
        names: None,
        unsettled: false,
        records: Vec::new(),
    };
    let finding = check.domain(domain.as_str().to_owned()).await;
    let Check { records, unsettled, cost, .. } = check;
    (output(Some(domain), finding, records, unsettled), cost)
}

/// One evaluation over all its records.
struct Check<'a, L> {
    lookup: &'a L,
    ip: IpAddr,
    helo: &'a str,
    local_part: &'a str,
    sender_domain: &'a str,
    /// So far.
    cost: Cost,
    /// The client's names, once they were asked for.
    names: Option<Result<Arc<Records>, Miss>>,
    /// A look-up for those names failed and was passed over.
    unsettled: bool,
    records: Vec<(Box<str>, Arc<str>)>,
}

/// The result of a record.
struct Finding {
    result: SpfResult,
    term: Option<Box<str>>,
    reason: Box<str>,
    /// With temperror: what failed.
    failure: Option<Failure>,
}

/// Why an evaluation ends without a match.
enum Stop {
    TempError(Failure),
    PermError(&'static str),
}

/// Whether a mechanism matches.
type Match = Result<bool, Stop>;

impl<L: Lookup> Check<'_, L> {
    /// Evaluates the record of `domain`. Boxed, since `include` and `redirect` come back here; at most ten deep.
    fn domain(&mut self, domain: String) -> Pin<Box<dyn Future<Output = Finding> + Send + '_>> {
        Box::pin(async move {
            if !is_usable(&domain) {
                return Finding::new(SpfResult::None, "not a domain name of several labels");
            }
            let texts = match self.lookup.txt(&domain).await {
                Ok(texts) => texts,
                Err(Miss::Failed(failure)) => return Finding::stopped(Stop::TempError(failure)),
                Err(Miss::NxDomain) => return Finding::new(SpfResult::None, "domain does not exist"),
                Err(Miss::NoData) => return Finding::new(SpfResult::None, "no SPF record"),
            };
            let published = texts.as_txt().map(|txt| txt.parsed(Published::read));
            match published.as_deref() {
                None | Some(Published::Absent) => Finding::new(SpfResult::None, "no SPF record"),
                Some(Published::Several) => Finding::new(SpfResult::PermError, "several SPF records"),
                Some(Published::One { text, record }) => {
                    if !self.records.iter().any(|(name, _)| **name == domain) {
                        self.records.push((domain.as_str().into(), Arc::clone(text)));
                    }
                    match record {
                        Ok(record) => self.record(record, &domain).await,
                        Err(error) => Finding::new(SpfResult::PermError, &format!("syntax error: {error}")),
                    }
                }
            }
        })
    }

    async fn record(&mut self, record: &Record, domain: &str) -> Finding {
        for Directive { qualifier, mechanism, text } in &record.directives {
            match self.mechanism(mechanism, domain).await {
                Ok(false) => {}
                Ok(true) => return Finding::new(qualifier.result(), "matched").by(text),
                Err(stop) => return Finding::stopped(stop).by(text),
            }
        }
        match &record.redirect {
            Some(redirect) => self.redirect(redirect, domain).await,
            None => Finding::no_match(),
        }
    }

    async fn mechanism(&mut self, mechanism: &Mechanism, domain: &str) -> Match {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, bits) => {
                Ok(Prefix { ip4: *bits, ..Prefix::HOST }.covers((*network).into(), self.ip))
            }
            Mechanism::Ip6(network, bits) => {
                Ok(Prefix { ip6: *bits, ..Prefix::HOST }.covers((*network).into(), self.ip))
            }
            Mechanism::Include(spec) => self.include(spec, domain).await,
            Mechanism::A(spec, prefix) => {
                self.spend_term()?;
                let Some(target) = self.target(spec.as_ref(), domain).await? else { return Ok(false) };
                let found = self.records(&target, address_type(self.ip)).await?;
                Ok(found.is_some_and(|records| self.any_covers(*prefix, &records)))
            }
            Mechanism::Mx(spec, prefix) => self.mx(spec.as_ref(), *prefix, domain).await,
            Mechanism::Ptr(spec) => self.ptr(spec.as_ref(), domain).await,
            Mechanism::Exists(spec) => {
                self.spend_term()?;
                let Some(target) = self.target(Some(spec), domain).await? else { return Ok(false) };
                // An A record, whatever the client's family (RFC 7208 §5.7).
                Ok(self.records(&target, RecordType::A).await?.is_some())
            }
        }
    }

    /// RFC 7208 §5.2.
    async fn include(&mut self, spec: &DomainSpec, domain: &str) -> Match {
        self.spend_term()?;
        let Some(target) = self.target(Some(spec), domain).await? else { return Ok(false) };
        let included = self.domain(target).await;
        match included.result {
            SpfResult::Pass => Ok(true),
            SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral => Ok(false),
            SpfResult::TempError => Err(Stop::TempError(included.failure.unwrap_or(Failure::Timeout))),
            SpfResult::None => Err(Stop::PermError("included domain has no SPF record")),
            SpfResult::PermError => Err(Stop::PermError("error in an included record")),
        }
    }

    /// RFC 7208 §6.1.
    async fn redirect(&mut self, redirect: &Redirect, domain: &str) -> Finding {
        let target = match self.spend_term() {
            Ok(()) => self.target(Some(&redirect.domain), domain).await,
            Err(stop) => Err(stop),
        };
        let target = match target {
            Ok(Some(target)) => target,
            Ok(None) => return Finding::no_match(),
            Err(stop) => return Finding::stopped(stop).by(&redirect.text),
        };
        let finding = self.domain(target).await;
        match finding.result {
            SpfResult::None => {
                Finding::new(SpfResult::PermError, "domain of redirect has no SPF record").by(&redirect.text)
            }
            _ => finding,
        }
    }

    /// RFC 7208 §5.4. More than ten exchangers are an error (§4.6.4).
    async fn mx(&mut self, spec: Option<&DomainSpec>, prefix: Prefix, domain: &str) -> Match {
        self.spend_term()?;
        let Some(target) = self.target(spec, domain).await? else { return Ok(false) };
        let Some(records) = self.records(&target, RecordType::Mx).await? else { return Ok(false) };
        if records.as_mx().len() > MAX_EXCHANGERS {
            return Err(Stop::PermError("more than ten exchangers"));
        }
        // A null MX (RFC 7505) has no exchanger.
        let exchangers = records.as_mx().iter().filter(|mx| !mx.exchange.is_empty());
        let (mut asked, mut found) = (false, false);
        for mx in exchangers {
            asked = true;
            match ask_addresses(self.lookup, &mx.exchange, self.ip).await.outcome {
                Ok(addresses) if self.any_covers(prefix, &addresses) => return Ok(true),
                Ok(_) => found = true,
                Err(Miss::Failed(failure)) => return Err(Stop::TempError(failure)),
                Err(_) => {}
            }
        }
        if asked && !found {
            self.spend_void()?;
        }
        Ok(false)
    }

    /// RFC 7208 §5.5. Only names within the target are validated, which gives the same result with fewer look-ups.
    async fn ptr(&mut self, spec: Option<&DomainSpec>, domain: &str) -> Match {
        self.spend_term()?;
        let Some(target) = self.target(spec, domain).await? else { return Ok(false) };
        match self.names().await {
            Ok(names) => Ok(self.validated_within(&names, &target).await?.is_some()),
            Err(Miss::Failed(failure)) => self.passed_over(failure).map(|()| false),
            Err(_) => self.spend_void().map(|()| false),
        }
    }

    /// The name that a term is about: its own domain, expanded, or that of the record. None where it is made of a local
    /// part beyond ASCII: the term does not match (RFC 8616 §4).
    async fn target(&mut self, spec: Option<&DomainSpec>, domain: &str) -> Result<Option<String>, Stop> {
        let Some(spec) = spec else { return Ok(Some(domain.to_owned())) };
        if spec.wants_local_part() && !self.local_part.is_ascii() {
            return Ok(None);
        }
        let validated = if spec.wants_validated_name() { self.validated_name(domain).await? } else { None };
        Ok(Some(spec.expand(&Values {
            ip: self.ip,
            local_part: self.local_part,
            sender_domain: self.sender_domain,
            domain,
            helo: self.helo,
            validated_name: validated.as_deref().unwrap_or("unknown"),
        })))
    }

    /// `%{p}` (RFC 7208 §7.3): the domain itself if the client has that name, else a name below it, else any.
    async fn validated_name(&mut self, domain: &str) -> Result<Option<String>, Stop> {
        let names = match self.names().await {
            Ok(names) => names,
            Err(Miss::Failed(failure)) => return self.passed_over(failure).map(|()| None),
            Err(_) => return Ok(None),
        };
        if let Some(name) = self.validated_within(&names, domain).await? {
            return Ok(Some(name));
        }
        for name in names.as_ptr().iter().take(MAX_NAMES).filter(|name| !is_within(name, domain)) {
            if self.is_validated(name).await? {
                return Ok(Some(name.to_string()));
            }
        }
        Ok(None)
    }

    /// The first validated name of the client that is `domain`, else the first below it.
    async fn validated_within(&mut self, names: &Records, domain: &str) -> Result<Option<String>, Stop> {
        let names = names.as_ptr().iter().take(MAX_NAMES);
        let (same, below): (Vec<_>, Vec<_>) =
            names.filter(|name| is_within(name, domain)).partition(|name| name.len() == domain.len());
        for name in same.into_iter().chain(below) {
            if self.is_validated(name).await? {
                return Ok(Some(name.to_string()));
            }
        }
        Ok(None)
    }

    /// Whether the client's name has the client's address.
    async fn is_validated(&mut self, name: &str) -> Result<bool, Stop> {
        match has_address(self.lookup, name, self.ip).await {
            Ok(has) => Ok(has),
            Err(failure) => self.passed_over(failure).map(|()| false),
        }
    }

    /// A failed look-up for the client's names counts as a name that is not there, unless the failure is ours. What it
    /// leaves open is remembered: to DMARC a temporary failure is never a failed identifier (RFC 9989 §5.3.6).
    fn passed_over(&mut self, failure: Failure) -> Result<(), Stop> {
        self.unsettled = true;
        if failure.is_ours() { Err(Stop::TempError(failure)) } else { Ok(()) }
    }

    async fn names(&mut self) -> Result<Arc<Records>, Miss> {
        if let Some(names) = &self.names {
            return names.clone();
        }
        let names = self.lookup.ask(&reverse_name(self.ip), RecordType::Ptr).await.outcome;
        self.names = Some(names.clone());
        names
    }

    fn any_covers(&self, prefix: Prefix, addresses: &Records) -> bool {
        match self.ip {
            IpAddr::V4(_) => addresses.as_a().iter().any(|ip| prefix.covers((*ip).into(), self.ip)),
            IpAddr::V6(_) => addresses.as_aaaa().iter().any(|ip| prefix.covers((*ip).into(), self.ip)),
        }
    }

    /// The records of a name, or none if there are none. One that DNS can't carry (from a macro, for example) has none
    /// (RFC 7208 §4.8), and does not count as a void look-up, since nothing is asked.
    async fn records(&mut self, name: &str, record_type: RecordType) -> Result<Option<Arc<Records>>, Stop> {
        if !fits_dns(name) {
            return Ok(None);
        }
        match self.lookup.ask(name, record_type).await.outcome {
            Ok(records) => Ok(Some(records)),
            Err(Miss::Failed(failure)) => Err(Stop::TempError(failure)),
            Err(Miss::NoData | Miss::NxDomain) => self.spend_void().map(|()| None),
        }
    }

    fn spend_term(&mut self) -> Result<(), Stop> {
        self.cost.terms += 1;
        if self.cost.terms > MAX_TERMS { Err(Stop::PermError("more than ten terms that ask DNS")) } else { Ok(()) }
    }

    /// Counts a term that found nothing. RFC 7208 §4.6.4 limits the terms, not the look-ups, that find nothing: an `mx`
    /// counts once, and only if none of its hosts has an address, or every sender without IPv6 would fail over IPv6.
    fn spend_void(&mut self) -> Result<(), Stop> {
        self.cost.void_terms += 1;
        if self.cost.void_terms > MAX_VOIDS {
            Err(Stop::PermError("more than two terms that find nothing"))
        } else {
            Ok(())
        }
    }
}

impl Finding {
    fn new(result: SpfResult, reason: &str) -> Self {
        Self { result, term: None, reason: reason.into(), failure: None }
    }

    /// RFC 7208 §4.7.
    fn no_match() -> Self {
        Self::new(SpfResult::Neutral, "no mechanism matched")
    }

    fn stopped(stop: Stop) -> Self {
        match stop {
            Stop::TempError(failure) => {
                let reason = format!("DNS look-up failed: {failure}");
                Self { failure: Some(failure), ..Self::new(SpfResult::TempError, &reason) }
            }
            Stop::PermError(reason) => Self::new(SpfResult::PermError, reason),
        }
    }

    fn by(self, term: &str) -> Self {
        Self { term: Some(term.into()), ..self }
    }
}

impl Qualifier {
    /// What a match means.
    pub fn result(self) -> SpfResult {
        match self {
            Self::Pass => SpfResult::Pass,
            Self::Fail => SpfResult::Fail,
            Self::SoftFail => SpfResult::SoftFail,
            Self::Neutral => SpfResult::Neutral,
        }
    }
}

/// Whether check_host() has something to look for (RFC 7208 §4.3): a name that DNS can carry, of several labels.
fn is_usable(domain: &str) -> bool {
    domain.contains('.') && fits_dns(domain)
}

/// Whether `name` is `domain` or below it, in any case.
fn is_within(name: &str, domain: &str) -> bool {
    let Some(start) = name.len().checked_sub(domain.len()) else { return false };
    let Some((before, end)) = name.split_at_checked(start) else { return false };
    end.eq_ignore_ascii_case(domain) && (before.is_empty() || before.ends_with('.'))
}

/// RFC 7208 §4.6.4.
const MAX_TERMS: usize = 10;
/// RFC 7208 §4.6.4.
const MAX_VOIDS: usize = 2;
/// RFC 7208 §4.6.4.
const MAX_EXCHANGERS: usize = 10;
/// RFC 7208 §4.6.4.
const MAX_NAMES: usize = 10;

#[cfg(test)]
mod rules;
#[cfg(test)]
mod tests;
