//! Asks DNS what DMARC needs to know, and settles DMARC's result once SPF and DKIM are done.
//!
//! Two steps, so that look-ups overlap with the transfer of the message. As soon as the header section is complete the
//! caller knows the author domains and every identifier that may yet pass (the SPF domain, and `d=` of each signature
//! that will be evaluated) and awaits [`discover`]; it is cancel-safe and may be joined with reading the body and
//! with SPF and DKIM. When their results are there, [`Discoveries::evaluate`] is a pure function.
//!
//! Each domain is walked at most once for a message, two of them at a time, so that one message has few questions out;
//! the names of a walk are asked together, but their answers are taken in order, and with a warm cache no name beyond
//! the walk's stop is asked.
//!
//! The older way, by a public suffix list, asks at two names at most for an author domain and at none for an
//! identifier.

mod in_order;
mod of_domain;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use self::in_order::InOrder;
pub use self::of_domain::{DomainPolicy, of_domain};
use crate::dmarc::alignment::{Alignment, DmarcResult, Doubt, Placed, alignment};
use crate::dmarc::public_suffix::{Agreement, Discovery, List};
use crate::dmarc::record::{AlignmentMode, Place, Policy, PolicyRecord, Psd, RecordAt, Standing, select};
use crate::dmarc::tree_walk::{Found, Organization, Selection, Walk};
use crate::dns::{Failure, Lookup, Miss, RecordType};
use crate::domain::Domain;
use crate::evaluation::{DkimOutput, DkimResult, DmarcOutput, DoubtCause, PublishedPolicy};
use crate::spf::{SpfOutput, SpfResult};

/// What was discovered for the author domains of one message.
#[derive(Debug, Clone)]
pub struct Discoveries {
    authors: Vec<Discovered>,
    /// What the walks from author domains and identifiers came to.
    walked: HashMap<Domain, Organization>,
    /// That of all these walks.
    asking: Asking,
}

/// How discovery is done.
#[derive(Debug, Clone)]
pub struct Rules {
    /// By which method.
    pub discovery: Discovery,
    /// The list that the older method goes by, and the newer is compared with.
    pub suffixes: Arc<List>,
}

impl Default for Rules {
    /// The tree walk, and the built-in list.
    fn default() -> Self {
        Self { discovery: Discovery::TreeWalk, suffixes: Arc::default() }
    }
}

/// What was discovered for one author domain.
#[derive(Debug, Clone)]
struct Discovered {
    author_domain: Domain,
    organization: Organization,
    asking: Asking,
    finding: Finding,
}

/// What a mechanism says of its identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Passed,
    /// It might have passed.
    InDoubt(DoubtCause),
    Failed,
}

#[derive(Debug, Clone)]
enum Finding {
    /// A record applies.
    Applies(PublishedPolicy),
    /// None does, or the one that would can't be used: the result is settled.
    Settled(DmarcResult, &'static str),
    /// Which one does is not known.
    Open(Open),
}

/// Why it is not known what an author domain asks for.
#[derive(Debug, Clone)]
struct Open {
    doubt: Doubt,
    reason: &'static str,
    /// The record that is known, whose alignment modes are gone by; none if there is none or it asks for nothing.
    record: Option<Arc<PolicyRecord>>,
    /// The policy as if the author domain existed, where no more is open than that. What passes needs to know no more.
    policy: Option<PublishedPolicy>,
}

/// Whether no bound of ours kept a question of a walk from its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    Complete,
    CutShort,
}

/// Discovers the policy of each author domain (RFC 9989 §4.10.1), then walks from those identifiers that may be aligned
/// with one of them under a record that asks for relaxed alignment (RFC 9989 §4.10.2).
///
/// `identifiers` are the SPF domain (the EHLO name's where the reverse-path is null) and each `d=`; one left out is
/// taken for a domain whose walk failed, unless it is an author domain itself.
pub async fn discover<L: Lookup>(
    lookup: &L,
    rules: &Rules,
    author_domains: &[Domain],
    identifiers: &[Domain],
) -> Discoveries {
    let authors = InOrder::new(author_domains.iter().map(|domain| discover_one(lookup, rules, domain)));
    let authors = authors.at_a_time(WALKS).all().await;
    let mut found = Discoveries::of(authors);
    if rules.discovery == Discovery::PublicSuffix {
        let by_list =
            |domain: &Domain| (domain.clone(), Organization::Known(rules.suffixes.organizational_domain(domain)));
        found.walked.extend(identifiers.iter().map(by_list));
        return found;
    }
    let mut wanted: Vec<&Domain> = Vec::new();
    for identifier in identifiers {
        if found.needs_walk(identifier) && !wanted.contains(&identifier) {
            wanted.push(identifier);
        }
    }
    let walks = InOrder::new(wanted.into_iter().map(|domain| walk(lookup, domain))).at_a_time(WALKS).all().await;
    for (walk, asking) in walks {
        found.asking = found.asking.and(asking);
        let name = walk.names().first().cloned();
        found.walked.extend(name.map(|name| (name, walk.organization())));
    }
    found
}

impl Discoveries {
    /// The result for each author domain, in their order (RFC 9989 §5.3.4 and §5.3.5).
    pub fn evaluate(&self, spf: &SpfOutput, dkim: &[DkimOutput]) -> Vec<DmarcOutput> {
        self.authors.iter().map(|author| self.evaluate_one(author, spf, dkim)).collect()
    }

    /// Notes in the `outputs` of [`Self::evaluate`] where one of `skipped`, the `d=` of signatures that were not
    /// evaluated for a bound of ours, is or may be aligned. They were not walked.
    pub fn note_skipped(&self, skipped: &[Domain], outputs: &mut [DmarcOutput]) {
        for (author, output) in self.authors.iter().zip(outputs) {
            let (_, adkim) = author.modes();
            output.dkim_skipped_may_be_aligned =
                skipped.iter().any(|domain| self.place(author, adkim, domain).may_be_aligned());
        }
    }

    fn of(authors: Vec<Discovered>) -> Self {
        let walked = authors.iter().map(|a| (a.author_domain.clone(), a.organization.clone())).collect();
        let asking = authors.iter().fold(Asking::Complete, |asking, author| asking.and(author.asking));
        Self { authors, walked, asking }
    }

    /// Whether the walk from `identifier` could make a difference: RFC 9989 §4.10.2 spares it without a policy, in
    /// strict mode and for the author domain itself; and a domain outside the author's organizational domain can't be
    /// aligned whatever its walk says.
    fn needs_walk(&self, identifier: &Domain) -> bool {
        let matters = |author: &Discovered| {
            let (aspf, adkim) = author.modes();
            let relaxed = [aspf, adkim].contains(&AlignmentMode::Relaxed);
            relaxed && self.place(author, AlignmentMode::Relaxed, identifier).may_be_aligned()
        };
        !self.walked.contains_key(identifier) && self.authors.iter().any(matters)
    }

    fn place(&self, author: &Discovered, mode: AlignmentMode, identifier: &Domain) -> Alignment {
        alignment(
            mode,
            Placed { domain: &author.author_domain, organization: Some(&author.organization) },
            Placed { domain: identifier, organization: self.walked.get(identifier) },
        )
    }

    fn evaluate_one(&self, author: &Discovered, spf: &SpfOutput, dkim: &[DkimOutput]) -> DmarcOutput {
        let modes = author.modes();
        let stands = |mode, domain: &Option<Domain>| {
            domain.as_ref().map_or(Alignment::Unaligned, |domain| self.place(author, mode, domain))
        };
        let mut output = DmarcOutput {
            author_domain: author.author_domain.clone(),
            organizational_domain: author.organizational_domain(),
            result: DmarcResult::None,
            doubt: None,
            reason: "",
            policy: None,
            spf_alignment: stands(modes.0, &spf.domain),
            dkim_alignment: dkim.iter().map(|d| stands(modes.1, &d.domain)).collect(),
            spf_aligned: false,
            dkim_aligned: false,
            dkim_skipped_may_be_aligned: false,
        };
        match author.finding.policy() {
            Ok(policy) => {
                output.policy = Some(policy.clone());
                settle(&mut output, spf, dkim, self.asking);
            }
            Err((result, reason, doubt)) => {
                let passes = has_aligned_pass(&output, spf, dkim);
                if let (true, Finding::Open(Open { policy: Some(policy), .. })) = (passes, &author.finding) {
                    output.policy = Some(policy.clone());
                    settle(&mut output, spf, dkim, self.asking);
                    return output;
                }
                (output.result, output.reason) = (result, reason);
                // What passes whichever policy applies needs none.
                let harmless = doubt == Some(Doubt::EnforcingAbove) && passes;
                output.doubt = if harmless { Some(Doubt::PolicyDiscovery) } else { doubt };
            }
        }
        output
    }
}

impl Discovered {
    fn organizational_domain(&self) -> Option<Domain> {
        match &self.organization {
            Organization::Known(domain) => Some(domain.clone()),
            Organization::Open(_) => None,
        }
    }

    /// How close identifiers must be: for SPF, for DKIM.
    fn modes(&self) -> (AlignmentMode, AlignmentMode) {
        match &self.finding {
            Finding::Applies(PublishedPolicy { record, .. }) | Finding::Open(Open { record: Some(record), .. }) => {
                (record.aspf, record.adkim)
            }
            // Nothing is walked: the plain comparison is all that can be told.
            Finding::Settled(..) | Finding::Open(_) => (AlignmentMode::Strict, AlignmentMode::Strict),
        }
    }
}

impl Asking {
    fn and(self, other: Self) -> Self {
        if self == Self::Complete { other } else { self }
    }
}

impl Finding {
    /// The policy that applies; without one the result, why, and what is in doubt.
    fn policy(&self) -> Result<&PublishedPolicy, (DmarcResult, &'static str, Option<Doubt>)> {
        match self {
            Self::Applies(policy) => Ok(policy),
            Self::Settled(result, reason) => Err((*result, reason, None)),
            Self::Open(Open { doubt, reason, .. }) => Err((DmarcResult::TempError, reason, Some(*doubt))),
        }
    }
}

fn has_aligned_pass(output: &DmarcOutput, spf: &SpfOutput, dkim: &[DkimOutput]) -> bool {
    let passes = |(signature, alignment): (&DkimOutput, &Alignment)| {
        signature.result == DkimResult::Pass && alignment.is_aligned()
    };
    (spf.result == SpfResult::Pass && output.spf_alignment.is_aligned())
        || dkim.iter().zip(&output.dkim_alignment).any(passes)
}

/// Pass if one aligned identifier passed, whatever else is in doubt; else doubt if one that is or may be aligned might
/// have; else fail.
fn settle(output: &mut DmarcOutput, spf: &SpfOutput, dkim: &[DkimOutput], walks: Asking) {
    let in_doubt = |failure: Option<Failure>| {
        let is_ours = failure.is_some_and(Failure::is_ours);
        Check::InDoubt(if is_ours { DoubtCause::OwnLimits } else { DoubtCause::Dns })
    };
    let spf_check = match spf.result {
        SpfResult::Pass => Check::Passed,
        SpfResult::TempError => in_doubt(spf.failure),
        // A name of the client that could not be asked for might have matched before whatever ended the check, or have
        // led to another record than the one that is missing.
        _ if spf.unsettled => Check::InDoubt(DoubtCause::Dns),
        // RFC 7208 §2.6.7: else a permerror is the owner's to mend; it hides no pass.
        SpfResult::None | SpfResult::Neutral | SpfResult::Fail | SpfResult::SoftFail | SpfResult::PermError => {
            Check::Failed
        }
    };
    let dkim_check = |signature: &DkimOutput| match signature.result {
        DkimResult::Pass => Check::Passed,
        DkimResult::TempError => in_doubt(signature.failure),
        DkimResult::None | DkimResult::Fail | DkimResult::Policy | DkimResult::Neutral | DkimResult::PermError => {
            Check::Failed
        }
    };
    let signatures: Vec<(Check, Alignment)> =
        dkim.iter().map(dkim_check).zip(output.dkim_alignment.iter().copied()).collect();
    output.spf_aligned = spf_check == Check::Passed && output.spf_alignment.is_aligned();
    output.dkim_aligned = signatures.iter().any(|(s, a)| *s == Check::Passed && a.is_aligned());
    let identifiers = || std::iter::once((spf_check, output.spf_alignment)).chain(signatures.iter().copied());
    let in_doubt = || {
        identifiers().filter(|(_, alignment)| alignment.may_be_aligned()).filter_map(|(check, _)| match check {
            Check::InDoubt(cause) => Some(cause),
            Check::Passed | Check::Failed => None,
        })
    };
    // What DNS did not tell either is not for our limits alone.
    let mut is_ours = in_doubt().all(|cause| cause == DoubtCause::OwnLimits);
    let (result, reason) = match (output.spf_aligned, output.dkim_aligned) {
        (true, true) => (DmarcResult::Pass, "SPF and DKIM gave an aligned pass"),
        (true, false) => (DmarcResult::Pass, "SPF gave an aligned pass"),
        (false, true) => (DmarcResult::Pass, "DKIM gave an aligned pass"),
        (false, false) if in_doubt().next().is_some() => {
            (DmarcResult::TempError, "an identifier that may be aligned could not be checked for now")
        }
        (false, false) if identifiers().any(|(s, a)| s == Check::Passed && a == Alignment::Unknown) => {
            is_ours = walks == Asking::CutShort;
            (DmarcResult::TempError, "whether an identifier that passed is aligned could not be found out")
        }
        (false, false) if identifiers().any(|(s, _)| s == Check::Passed) => {
            (DmarcResult::Fail, "no identifier that passed is aligned")
        }
        (false, false) => (DmarcResult::Fail, "no identifier passed"),
    };
    (output.result, output.reason) = (result, reason);
    let doubt = if is_ours { Doubt::IdentifierOwnLimits } else { Doubt::Identifier };
    output.doubt = (result == DmarcResult::TempError).then_some(doubt);
}

/// What a search for the policy record of an author domain came to.
struct Searched {
    selection: Selection,
    /// The same if names whose look-up failed had no record.
    so_far: Selection,
    organization: Organization,
    agreement: Agreement,
    asking: Asking,
    met_several_records: bool,
}

async fn discover_one<L: Lookup>(lookup: &L, rules: &Rules, author_domain: &Domain) -> Discovered {
    let by_list = rules.suffixes.organizational_domain(author_domain);
    let discovery = rules.discovery;
    let searched = match discovery {
        Discovery::TreeWalk => search_by_walk(lookup, author_domain, &by_list).await,
        Discovery::PublicSuffix => search_by_list(lookup, author_domain, by_list).await,
    };
    let Searched { selection, so_far, organization, agreement, asking, met_several_records } = searched;
    let finding = match selection {
        Selection::Open if asking == Asking::CutShort => Finding::Open(OWN_LIMITS),
        Selection::Open => Finding::Open(open_search(lookup, author_domain, so_far).await),
        Selection::NoRecord if met_several_records => {
            Finding::Settled(DmarcResult::None, "several policy records at one name count as none")
        }
        Selection::NoRecord => Finding::Settled(DmarcResult::None, "no policy record"),
        Selection::Found { record, .. } if record.standing == Standing::Unusable => {
            Finding::Settled(DmarcResult::PermError, "the policy record has no valid policy and asks for no reports")
        }
        Selection::Found { domain, record } => match requested(lookup, author_domain, &domain, &record).await {
            Ok(requested) => Finding::Applies(PublishedPolicy { domain, record, requested, discovery, agreement }),
            Err(failure) if failure.is_ours() => Finding::Open(OWN_LIMITS),
            Err(_) => {
                let requested = record.requested(Place::ExistingBelow);
                let policy = PublishedPolicy { domain, record: Arc::clone(&record), requested, discovery, agreement };
                Finding::Open(Open {
                    doubt: doubt_under(&record, strictest_below(&record)),
                    reason: "whether the author domain exists could not be found out, and the policy depends on it",
                    record: Some(record),
                    policy: Some(policy),
                })
            }
        },
    };
    Discovered { author_domain: author_domain.clone(), organization, asking, finding }
}

/// What to make of a search in which a look-up failed. RFC 9989 §5.3.6 leaves it to the receiver. A forger chooses the
/// name below a domain, and may find one whose DNS fails for good: where the record above it asks for something, that
/// is no way past it.
async fn open_search<L: Lookup>(lookup: &L, author_domain: &Domain, so_far: Selection) -> Open {
    let reason = "a look-up of the policy record failed";
    let harmless = Open { doubt: Doubt::PolicyDiscovery, reason, record: None, policy: None };
    let Selection::Found { domain, record } = so_far else { return harmless };
    let asked_for = match requested(lookup, author_domain, &domain, &record).await {
        Ok(policy) => policy,
        Err(failure) if failure.is_ours() => return OWN_LIMITS,
        Err(_) => strictest_below(&record),
    };
    match doubt_under(&record, asked_for) {
        doubt @ Doubt::EnforcingAbove => Open {
            doubt,
            reason: "a look-up of the policy record failed, and a record above asks for a policy",
            record: Some(record),
            ..harmless
        },
        _ => harmless,
    }
}

/// The stricter of what a record asks for existing names below it and for those that don't exist.
fn strictest_below(record: &PolicyRecord) -> Policy {
    record.requested(Place::ExistingBelow).max(record.requested(Place::MissingBelow))
}

/// What it is to be in doubt whether `record` asks for this policy.
fn doubt_under(record: &PolicyRecord, policy: Policy) -> Doubt {
    let policy = if record.testing { policy.one_below() } else { policy };
    if policy == Policy::None { Doubt::PolicyDiscovery } else { Doubt::EnforcingAbove }
}

const OWN_LIMITS: Open =
    Open { doubt: Doubt::OwnLimits, reason: "the policy could not be looked up for now", record: None, policy: None };

async fn search_by_walk<L: Lookup>(lookup: &L, author_domain: &Domain, by_list: &Domain) -> Searched {
    let (walk, asking) = walk(lookup, author_domain).await;
    let agreement = match &walk.organizational_domain() {
        Some(by_walk) if by_walk == by_list => Agreement::Same,
        Some(_) => Agreement::Different,
        None => Agreement::Unknown,
    };
    let (selection, met_several_records) = (walk.policy_record(), walk.met_several_records());
    let so_far = walk.policy_record_so_far();
    let organization = walk.organization();
    Searched { selection, so_far, organization, agreement, asking, met_several_records }
}

/// RFC 7489 §6.6.3: the record of the author domain, else, where it has none at all, that of the organizational domain.
/// Several at one name are no reason to ask at the other; a failure is, to know how much it matters.
async fn search_by_list<L: Lookup>(lookup: &L, author_domain: &Domain, by_list: Domain) -> Searched {
    let mut names = vec![author_domain.clone()];
    names.extend((by_list != *author_domain).then(|| by_list.clone()));
    let mut answers = InOrder::new(names.iter().map(|name| found_at(lookup, name.clone())));
    let mut searched = Searched {
        selection: Selection::NoRecord,
        so_far: Selection::NoRecord,
        organization: Organization::Known(by_list.clone()),
        agreement: Agreement::Unknown,
        asking: Asking::Complete,
        met_several_records: false,
    };
    for name in &names {
        let Some((found, failure)) = answers.next().await else { break };
        match found {
            Found::Answered(RecordAt::Absent) => continue,
            Found::Answered(RecordAt::Several) => searched.met_several_records = true,
            Found::Answered(RecordAt::One(record)) => {
                searched.agreement = agreement_by_list(name, &record, author_domain, &by_list);
                searched.so_far = Selection::Found { domain: name.clone(), record };
                if searched.selection != Selection::Open {
                    searched.selection = searched.so_far.clone();
                }
            }
            Found::Failed => {
                searched.selection = Selection::Open;
                if failure.is_some_and(Failure::is_ours) {
                    searched.asking = Asking::CutShort;
                }
                continue;
            }
        }
        break;
    }
    drop(answers);
    searched
}

/// What the tree walk would say, as far as the one record that was met tells: what stands at other names is not asked
/// for only to be compared.
fn agreement_by_list(at: &Domain, record: &PolicyRecord, author: &Domain, by_list: &Domain) -> Agreement {
    match record.psd {
        Psd::PublicSuffix if at != author => Agreement::Different,
        Psd::Unstated if at != by_list => Agreement::Unknown,
        _ if at == by_list => Agreement::Same,
        _ => Agreement::Different,
    }
}

/// What the record asks for the author domain; an error if that depends on whether it exists, and DNS does not tell.
async fn requested<L: Lookup>(
    lookup: &L,
    author_domain: &Domain,
    policy_domain: &Domain,
    record: &PolicyRecord,
) -> Result<Policy, Failure> {
    if author_domain == policy_domain {
        return Ok(record.requested(Place::Here));
    }
    if !record.depends_on_existence() {
        return Ok(record.requested(Place::ExistingBelow));
    }
    // RFC 9989 §3.2.13: NXDOMAIN for the name itself, whatever type is asked. `_dmarc` below it says nothing of it.
    match lookup.ask(author_domain.as_str(), RecordType::A).await.outcome {
        Ok(_) | Err(Miss::NoData) => Ok(record.requested(Place::ExistingBelow)),
        Err(Miss::NxDomain) => Ok(record.requested(Place::MissingBelow)),
        Err(Miss::Failed(failure)) => Err(failure),
    }
}

async fn walk<L: Lookup>(lookup: &L, start: &Domain) -> (Walk, Asking) {
    let (mut walk, mut asking) = (Walk::new(start), Asking::Complete);
    let mut answers = InOrder::new(walk.names().to_vec().into_iter().map(|name| found_at(lookup, name)));
    while walk.due().is_some() {
        let Some((found, failure)) = answers.next().await else { break };
        if failure.is_some_and(Failure::is_ours) {
            asking = Asking::CutShort;
        }
        walk.answer(found);
    }
    (walk, asking)
}

async fn found_at<L: Lookup>(lookup: &L, name: Domain) -> (Found, Option<Failure>) {
    let found = match lookup.txt(&format!("_dmarc.{name}")).await {
        Ok(records) => Found::Answered(records.as_txt().map_or(RecordAt::Absent, |txt| {
            let at: Arc<RecordAt> = txt.parsed(select);
            RecordAt::clone(&at)
        })),
        Err(Miss::NoData | Miss::NxDomain) => Found::Answered(RecordAt::Absent),
        Err(Miss::Failed(failure)) => return (Found::Failed, Some(failure)),
    };
    (found, None)
}

/// Domains that are walked at a time: a walk asks at up to eight names, and many domains in From or signatures must not
/// make one message a flood of questions.
const WALKS: usize = 2;
