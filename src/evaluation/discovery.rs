//! Asks DNS what DMARC needs to know, and settles DMARC's result once SPF and DKIM are done.
//!
//! Two steps, so that look-ups overlap with the transfer of the message. As soon as the header section is complete the
//! caller knows the author domains and every identifier that may yet pass (the SPF domain, and `d=` of each signature
//! that will be evaluated) and awaits [`discover`]; it is cancel-safe and may be joined with reading the body and
//! with SPF and DKIM. When their results are there, [`Discoveries::evaluate`] is a pure function.
//!
//! Each domain is walked at most once for a message; the names of a walk are asked together, but their answers are
//! taken in order, and with a warm cache no name beyond the walk's stop is asked.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::dmarc::alignment::{Alignment, DmarcResult, Doubt, Placed, alignment};
use crate::dmarc::record::{AlignmentMode, Place, Policy, PolicyRecord, RecordAt, Standing, select};
use crate::dmarc::tree_walk::{Found, Selection, Walk};
use crate::dns::{Failure, Lookup, Miss, RecordType};
use crate::domain::Domain;
use crate::evaluation::{DkimOutput, DkimResult, DmarcOutput, PublishedPolicy};
use crate::spf::{SpfOutput, SpfResult};

/// What was discovered for the author domains of one message.
#[derive(Debug, Clone)]
pub struct Discoveries {
    authors: Vec<Discovery>,
    /// Organizational domains of author domains and identifiers; none where the walk was left open.
    walked: HashMap<Domain, Option<Domain>>,
}

/// What was discovered for one author domain.
#[derive(Debug, Clone)]
struct Discovery {
    author_domain: Domain,
    organizational_domain: Option<Domain>,
    finding: Finding,
}

/// What a mechanism says of its identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Passed,
    /// It might have passed.
    InDoubt,
    Failed,
}

#[derive(Debug, Clone)]
enum Finding {
    /// A record applies.
    Applies(PublishedPolicy),
    /// None does, or DNS left it open, or the one that would can't be used: the result is settled.
    Settled(DmarcResult, &'static str),
    /// Our own bounds kept us from asking.
    NotAsked,
}

/// Whether every question of a walk could be put.
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
pub async fn discover<L: Lookup>(lookup: &L, author_domains: &[Domain], identifiers: &[Domain]) -> Discoveries {
    let authors = InOrder::new(author_domains.iter().map(|domain| discover_one(lookup, domain))).all().await;
    let mut found = Discoveries::of(authors);
    let mut wanted: Vec<&Domain> = Vec::new();
    for identifier in identifiers {
        if found.needs_walk(identifier) && !wanted.contains(&identifier) {
            wanted.push(identifier);
        }
    }
    let walks = InOrder::new(wanted.into_iter().map(|domain| walk(lookup, domain))).all().await;
    found
        .walked
        .extend(walks.into_iter().filter_map(|(w, _)| Some((w.names().first()?.clone(), w.organizational_domain()))));
    found
}

impl Discoveries {
    /// The result for each author domain, in their order (RFC 9989 §5.3.4 and §5.3.5).
    pub fn evaluate(&self, spf: &SpfOutput, dkim: &[DkimOutput]) -> Vec<DmarcOutput> {
        self.authors.iter().map(|author| self.evaluate_one(author, spf, dkim)).collect()
    }

    fn of(authors: Vec<Discovery>) -> Self {
        let walked = authors.iter().map(|a| (a.author_domain.clone(), a.organizational_domain.clone())).collect();
        Self { authors, walked }
    }

    /// Whether the walk from `identifier` could make a difference: RFC 9989 §4.10.2 spares it without a policy, in
    /// strict mode and for the author domain itself; and a domain outside the author's organizational domain can't be
    /// aligned whatever its walk says.
    fn needs_walk(&self, identifier: &Domain) -> bool {
        let matters = |author: &Discovery| match &author.finding {
            Finding::Applies(policy) => {
                let record = &policy.record;
                let relaxed = [record.adkim, record.aspf].contains(&AlignmentMode::Relaxed);
                relaxed && self.place(author, AlignmentMode::Relaxed, identifier).may_be_aligned()
            }
            Finding::Settled(..) | Finding::NotAsked => false,
        };
        !self.walked.contains_key(identifier) && self.authors.iter().any(matters)
    }

    fn place(&self, author: &Discovery, mode: AlignmentMode, identifier: &Domain) -> Alignment {
        let organizational_domain = self.walked.get(identifier).and_then(Option::as_ref);
        alignment(
            mode,
            Placed { domain: &author.author_domain, organizational_domain: author.organizational_domain.as_ref() },
            Placed { domain: identifier, organizational_domain },
        )
    }

    fn evaluate_one(&self, author: &Discovery, spf: &SpfOutput, dkim: &[DkimOutput]) -> DmarcOutput {
        let modes = match &author.finding {
            Finding::Applies(policy) => (policy.record.aspf, policy.record.adkim),
            // Nothing was walked: the plain comparison is all that can be told.
            Finding::Settled(..) | Finding::NotAsked => (AlignmentMode::Strict, AlignmentMode::Strict),
        };
        let stands = |mode, domain: &Option<Domain>| {
            domain.as_ref().map_or(Alignment::Unaligned, |domain| self.place(author, mode, domain))
        };
        let mut output = DmarcOutput {
            author_domain: author.author_domain.clone(),
            organizational_domain: author.organizational_domain.clone(),
            result: DmarcResult::None,
            doubt: None,
            reason: "",
            policy: None,
            spf_alignment: stands(modes.0, &spf.domain),
            dkim_alignment: dkim.iter().map(|d| stands(modes.1, &d.domain)).collect(),
            spf_aligned: false,
            dkim_aligned: false,
        };
        match &author.finding {
            Finding::Settled(result, reason) => {
                (output.result, output.reason) = (*result, *reason);
                output.doubt = (*result == DmarcResult::TempError).then_some(Doubt::PolicyDiscovery);
            }
            Finding::NotAsked => {
                (output.result, output.reason) = (DmarcResult::TempError, "the policy could not be looked up for now");
                output.doubt = Some(Doubt::OwnLimits);
            }
            Finding::Applies(policy) => {
                output.policy = Some(policy.clone());
                settle(&mut output, spf, dkim);
            }
        }
        output
    }
}

/// Pass if one aligned identifier passed, whatever else is in doubt; else doubt if one that is or may be aligned might
/// have; else fail.
fn settle(output: &mut DmarcOutput, spf: &SpfOutput, dkim: &[DkimOutput]) {
    let spf_check = match spf.result {
        SpfResult::Pass => Check::Passed,
        SpfResult::TempError => Check::InDoubt,
        SpfResult::Neutral | SpfResult::Fail | SpfResult::SoftFail if spf.unsettled => Check::InDoubt,
        // RFC 7208 §2.6.7: a permerror is the owner's to mend; it hides no pass.
        SpfResult::None | SpfResult::Neutral | SpfResult::Fail | SpfResult::SoftFail | SpfResult::PermError => {
            Check::Failed
        }
    };
    let dkim_check = |signature: &DkimOutput| match signature.result {
        DkimResult::Pass => Check::Passed,
        DkimResult::TempError => Check::InDoubt,
        DkimResult::None | DkimResult::Fail | DkimResult::Policy | DkimResult::Neutral | DkimResult::PermError => {
            Check::Failed
        }
    };
    let signatures: Vec<(Check, Alignment)> =
        dkim.iter().map(dkim_check).zip(output.dkim_alignment.iter().copied()).collect();
    output.spf_aligned = spf_check == Check::Passed && output.spf_alignment.is_aligned();
    output.dkim_aligned = signatures.iter().any(|(s, a)| *s == Check::Passed && a.is_aligned());
    let identifiers = || std::iter::once((spf_check, output.spf_alignment)).chain(signatures.iter().copied());
    let (result, reason) = match (output.spf_aligned, output.dkim_aligned) {
        (true, true) => (DmarcResult::Pass, "SPF and DKIM gave an aligned pass"),
        (true, false) => (DmarcResult::Pass, "SPF gave an aligned pass"),
        (false, true) => (DmarcResult::Pass, "DKIM gave an aligned pass"),
        (false, false) if identifiers().any(|(s, a)| s == Check::InDoubt && a.may_be_aligned()) => {
            (DmarcResult::TempError, "an identifier that may be aligned could not be checked for now")
        }
        (false, false) if identifiers().any(|(s, a)| s == Check::Passed && a == Alignment::Unknown) => {
            (DmarcResult::TempError, "whether an identifier that passed is aligned could not be found out")
        }
        (false, false) if identifiers().any(|(s, _)| s == Check::Passed) => {
            (DmarcResult::Fail, "no identifier that passed is aligned")
        }
        (false, false) => (DmarcResult::Fail, "no identifier passed"),
    };
    (output.result, output.reason) = (result, reason);
    output.doubt = (result == DmarcResult::TempError).then_some(Doubt::Identifier);
}

async fn discover_one<L: Lookup>(lookup: &L, author_domain: &Domain) -> Discovery {
    let (walk, asking) = walk(lookup, author_domain).await;
    let finding = match walk.policy_record() {
        Selection::Open if asking == Asking::CutShort => Finding::NotAsked,
        Selection::Open => Finding::Settled(DmarcResult::TempError, "a look-up of the policy record failed"),
        Selection::NoRecord if walk.met_several_records() => {
            Finding::Settled(DmarcResult::None, "several policy records at one name count as none")
        }
        Selection::NoRecord => Finding::Settled(DmarcResult::None, "no policy record"),
        Selection::Found { record, .. } if record.standing == Standing::Unusable => {
            Finding::Settled(DmarcResult::PermError, "the policy record has no valid policy and asks for no reports")
        }
        Selection::Found { domain, record } => match requested(lookup, author_domain, &domain, &record).await {
            Ok(requested) => Finding::Applies(PublishedPolicy { domain, record, requested }),
            Err(Failure::Budget) => Finding::NotAsked,
            Err(_) => Finding::Settled(
                DmarcResult::TempError,
                "whether the author domain exists could not be found out, and the policy depends on it",
            ),
        },
    };
    Discovery { author_domain: author_domain.clone(), organizational_domain: walk.organizational_domain(), finding }
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
        if failure == Some(Failure::Budget) {
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

/// Futures that run together and whose outputs are taken in order. The second is started only when the first has to
/// wait, so that what a cache answers at once spares the rest.
struct InOrder<'a, T> {
    slots: VecDeque<Slot<'a, T>>,
}

enum Slot<'a, T> {
    Waiting(Pin<Box<dyn Future<Output = T> + Send + 'a>>),
    Ready(T),
}

impl<'a, T> InOrder<'a, T> {
    fn new<F: Future<Output = T> + Send + 'a>(futures: impl Iterator<Item = F>) -> Self {
        Self { slots: futures.map(|f| Slot::Waiting(Box::pin(f))).collect() }
    }

    /// The output of the first that is left.
    async fn next(&mut self) -> Option<T> {
        poll_fn(|context| {
            if self.slots.front_mut().is_some_and(|front| !front.is_ready(context)) {
                self.slots.iter_mut().skip(1).for_each(|slot| {
                    slot.is_ready(context);
                });
                return Poll::Pending;
            }
            Poll::Ready(self.slots.pop_front().and_then(Slot::output))
        })
        .await
    }

    async fn all(mut self) -> Vec<T> {
        let mut outputs = Vec::with_capacity(self.slots.len());
        while let Some(output) = self.next().await {
            outputs.push(output);
        }
        outputs
    }
}

impl<T> Slot<'_, T> {
    fn is_ready(&mut self, context: &mut Context<'_>) -> bool {
        if let Self::Waiting(future) = self {
            match future.as_mut().poll(context) {
                Poll::Ready(output) => *self = Self::Ready(output),
                Poll::Pending => return false,
            }
        }
        true
    }

    fn output(self) -> Option<T> {
        match self {
            Self::Ready(output) => Some(output),
            Self::Waiting(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::zone::Zone;
    use crate::spf::Identity;

    fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn spf(result: SpfResult, domain_text: &str) -> SpfOutput {
        SpfOutput {
            result,
            identity: Identity::MailFrom,
            domain: (!domain_text.is_empty()).then(|| domain(domain_text)),
            term: None,
            reason: "".into(),
            unsettled: false,
            records: Vec::new(),
        }
    }

    fn dkim(result: DkimResult, domain_text: &str) -> DkimOutput {
        DkimOutput {
            result,
            domain: Some(domain(domain_text)),
            selector: "s".into(),
            identity: None,
            algorithm: Some("rsa-sha256"),
            signature_start: "abcdefgh".into(),
            key_found: result != DkimResult::TempError,
            reason: "",
        }
    }

    async fn run(zone: &Zone, authors: &[&str], spf: &SpfOutput, dkim: &[DkimOutput]) -> Vec<DmarcOutput> {
        let authors: Vec<_> = authors.iter().map(|a| domain(a)).collect();
        let identifiers: Vec<_> =
            spf.domain.iter().chain(dkim.iter().filter_map(|d| d.domain.as_ref())).cloned().collect();
        discover(zone, &authors, &identifiers).await.evaluate(spf, dkim)
    }

    async fn one(zone: &Zone, author: &str, spf: &SpfOutput, dkim: &[DkimOutput]) -> DmarcOutput {
        run(zone, &[author], spf, dkim).await.remove(0)
    }

    fn no_spf() -> SpfOutput {
        spf(SpfResult::None, "")
    }

    const R: &str = "v=DMARC1; p=reject";

    fn simple() -> Zone {
        Zone::new().txt("_dmarc.example.com", &[R])
    }

    fn failing(zone: Zone, name: &str) -> Zone {
        zone.fail(name, RecordType::Txt, Failure::ServFail)
    }

    #[tokio::test]
    async fn results_of_an_author_domain_with_a_record() {
        use DkimResult as D;
        use DmarcResult::{Fail, Pass, TempError};
        use SpfResult as S;
        let cases: &[(&str, SpfOutput, Vec<DkimOutput>, DmarcResult)] = &[
            ("nothing passed", spf(S::Fail, "example.com"), vec![], Fail),
            ("SPF passed, identical", spf(S::Pass, "example.com"), vec![], Pass),
            ("SPF passed, subdomain", spf(S::Pass, "bounce.example.com"), vec![], Pass),
            ("SPF passed, elsewhere", spf(S::Pass, "evil.example.net"), vec![], Fail),
            ("SPF softfail", spf(S::SoftFail, "example.com"), vec![], Fail),
            ("SPF permerror is no identifier", spf(S::PermError, "example.com"), vec![], Fail),
            (
                "SPF failed, but a name that may have matched could not be asked for",
                SpfOutput { unsettled: true, ..spf(S::Fail, "example.com") },
                vec![],
                TempError,
            ),
            ("the same elsewhere", SpfOutput { unsettled: true, ..spf(S::Fail, "example.net") }, vec![], Fail),
            ("SPF temperror, aligned", spf(S::TempError, "example.com"), vec![], TempError),
            ("SPF temperror, subdomain", spf(S::TempError, "a.example.com"), vec![], TempError),
            ("SPF temperror, elsewhere", spf(S::TempError, "example.net"), vec![], Fail),
            ("SPF temperror without a domain", spf(S::TempError, ""), vec![], Fail),
            ("DKIM passed", no_spf(), vec![dkim(D::Pass, "example.com")], Pass),
            ("DKIM passed, subdomain", no_spf(), vec![dkim(D::Pass, "x.example.com")], Pass),
            ("DKIM passed, name that only ends alike", no_spf(), vec![dkim(D::Pass, "badexample.com")], Fail),
            ("DKIM failed", no_spf(), vec![dkim(D::Fail, "example.com")], Fail),
            ("DKIM policy is no identifier and no doubt", no_spf(), vec![dkim(D::Policy, "example.com")], Fail),
            ("DKIM permerror", no_spf(), vec![dkim(D::PermError, "example.com")], Fail),
            ("DKIM temperror, aligned", no_spf(), vec![dkim(D::TempError, "example.com")], TempError),
            ("DKIM temperror, elsewhere", no_spf(), vec![dkim(D::TempError, "example.net")], Fail),
            (
                "one of several signatures",
                no_spf(),
                vec![dkim(D::Fail, "example.com"), dkim(D::Pass, "example.com"), dkim(D::TempError, "example.com")],
                Pass,
            ),
            ("SPF passed, DKIM in doubt", spf(S::Pass, "example.com"), vec![dkim(D::TempError, "example.com")], Pass),
            ("SPF in doubt, DKIM passed", spf(S::TempError, "example.com"), vec![dkim(D::Pass, "example.com")], Pass),
            (
                "SPF in doubt, DKIM failed",
                spf(S::TempError, "example.com"),
                vec![dkim(D::Fail, "example.com")],
                TempError,
            ),
        ];
        for (name, spf, dkim, expected) in cases {
            let output = one(&simple(), "example.com", spf, dkim).await;
            assert_eq!(output.result, *expected, "{name}");
            assert_eq!(output.doubt, (*expected == TempError).then_some(Doubt::Identifier), "{name}");
            assert_eq!(output.organizational_domain, Some(domain("example.com")), "{name}");
            assert!(!output.reason.is_empty(), "{name}");
        }
    }

    #[tokio::test]
    async fn policy_discovery_settles_none_permerror_and_doubt() {
        use DmarcResult::{None, Pass, PermError, TempError};
        let broken = "v=DMARC1; p=bogus";
        let cases: Vec<(&str, Zone, &str, DmarcResult)> = vec![
            ("no record", Zone::new(), "example.com", None),
            ("several records", Zone::new().txt("_dmarc.example.com", &[R, R]), "example.com", None),
            ("broken record", Zone::new().txt("_dmarc.example.com", &[broken]), "example.com", PermError),
            (
                "broken record, sound one above",
                simple().txt("_dmarc.a.example.com", &[broken]),
                "a.example.com",
                PermError,
            ),
            ("broken record above", Zone::new().txt("_dmarc.example.com", &[broken]), "a.example.com", PermError),
            ("record look-up fails", failing(Zone::new(), "_dmarc.example.com"), "example.com", TempError),
            ("look-up above fails, no record", failing(Zone::new(), "_dmarc.com"), "example.com", TempError),
            ("look-up above fails, record there", failing(simple(), "_dmarc.com"), "example.com", Pass),
            ("author without a record", simple(), "a.example.com", Pass),
        ];
        for (name, zone, author, expected) in cases {
            let output = one(&zone, author, &spf(SpfResult::Pass, "example.com"), &[]).await;
            assert_eq!(output.result, expected, "{name}");
            assert_eq!(output.doubt, (expected == TempError).then_some(Doubt::PolicyDiscovery), "{name}");
            assert_eq!(output.policy.is_some(), expected == Pass, "{name}");
        }
    }

    #[tokio::test]
    async fn our_own_bounds_are_a_doubt_of_their_own() {
        let record = "v=DMARC1; p=none; np=reject";
        let cases = [
            ("policy", Zone::new().fail("_dmarc.a.example.com", RecordType::Txt, Failure::Budget)),
            ("policy above", Zone::new().fail("_dmarc.example.com", RecordType::Txt, Failure::Budget)),
            (
                "existence",
                Zone::new().txt("_dmarc.example.com", &[record]).fail("a.example.com", RecordType::A, Failure::Budget),
            ),
        ];
        for (name, zone) in cases {
            let output = one(&zone, "a.example.com", &no_spf(), &[]).await;
            assert_eq!((output.result, output.doubt), (DmarcResult::TempError, Some(Doubt::OwnLimits)), "{name}");
        }
    }

    #[tokio::test]
    async fn a_failed_walk_of_a_passing_identifier_is_doubt_only_where_it_may_be_aligned() {
        let zone = failing(simple(), "_dmarc.mail.example.com");
        let inside = one(&zone, "example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
        assert_eq!((inside.result, inside.doubt), (DmarcResult::TempError, Some(Doubt::Identifier)));
        assert_eq!(inside.spf_alignment, Alignment::Unknown);

        let failed = one(&zone, "example.com", &spf(SpfResult::Fail, "mail.example.com"), &[]).await;
        assert_eq!(failed.result, DmarcResult::Fail, "an identifier that failed needs no walk");

        let zone = failing(simple(), "_dmarc.evil.example.net");
        let outside = one(&zone, "example.com", &spf(SpfResult::Pass, "evil.example.net"), &[]).await;
        assert_eq!(outside.result, DmarcResult::Fail);
        assert!(zone.asked().iter().all(|(name, _)| !name.contains("evil")), "no one asks for it");
    }

    #[tokio::test]
    async fn np_applies_to_names_that_do_not_exist() {
        let record = "v=DMARC1; p=none; sp=quarantine; np=reject";
        let zone = || Zone::new().txt("_dmarc.example.com", &[record]);
        let cases: Vec<(&str, Zone, &str, Option<Policy>)> = vec![
            ("the name itself", zone(), "example.com", Some(Policy::None)),
            ("NXDOMAIN", zone(), "ghost.example.com", Some(Policy::Reject)),
            ("an address", zone().a("real.example.com", &["192.0.2.1"]), "real.example.com", Some(Policy::Quarantine)),
            (
                "NODATA: a name below exists",
                zone().a("x.real.example.com", &["192.0.2.1"]),
                "real.example.com",
                Some(Policy::Quarantine),
            ),
            ("not known", zone().fail("real.example.com", RecordType::A, Failure::Timeout), "real.example.com", None),
        ];
        for (name, zone, author, expected) in cases {
            let output = one(&zone, author, &no_spf(), &[]).await;
            assert_eq!(output.policy.map(|p| p.requested), expected, "{name}");
            let doubt = expected.is_none().then_some(Doubt::PolicyDiscovery);
            assert_eq!(output.doubt, doubt, "{name}");
        }
        let zone = Zone::new().txt("_dmarc.example.com", &[R]);
        one(&zone, "ghost.example.com", &no_spf(), &[]).await;
        assert!(zone.asked().iter().all(|(_, record_type)| *record_type == RecordType::Txt), "existence is not asked");
    }

    #[tokio::test]
    async fn strict_alignment_compares_names() {
        let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; adkim=s; aspf=r"]);
        let signed = one(&zone, "example.com", &no_spf(), &[dkim(DkimResult::Pass, "a.example.com")]).await;
        assert_eq!((signed.result, signed.dkim_alignment[0]), (DmarcResult::Fail, Alignment::Unaligned));
        let sent = one(&zone, "example.com", &spf(SpfResult::Pass, "a.example.com"), &[]).await;
        assert_eq!(sent.result, DmarcResult::Pass);
        let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; adkim=s; aspf=s"]);
        one(&zone, "example.com", &spf(SpfResult::Pass, "a.example.com"), &[]).await;
        assert!(zone.asked().iter().all(|(name, _)| name != "_dmarc.a.example.com"), "no walk in strict mode");
    }

    #[tokio::test]
    async fn the_session_of_appendix_b_3_1_passes_by_both() {
        let record = "v=DMARC1; p=reject; aspf=r; rua=mailto:dmarc-feedback@example.com";
        let zone = Zone::new().txt("_dmarc.example.com", &[record]);
        let output = one(
            &zone,
            "example.com",
            &spf(SpfResult::Pass, "mail.example.com"),
            &[dkim(DkimResult::Pass, "example.com")],
        )
        .await;
        assert!(output.spf_aligned && output.dkim_aligned);
        assert_eq!(output.result, DmarcResult::Pass);
    }

    #[tokio::test]
    async fn the_walks_of_appendix_b_4() {
        let signer = || [dkim(DkimResult::Pass, "signing.example.com")];
        let zone = || simple().txt("_dmarc.signing.example.com", &[R]);
        let sender = spf(SpfResult::Pass, "example.com");
        for author in ["example.com", "a.b.c.d.e.f.g.h.i.j.k.example.com"] {
            let output = one(&zone(), author, &sender, &signer()).await;
            assert!(output.spf_aligned && output.dkim_aligned, "{author}");
            assert_eq!(output.policy.unwrap().domain, domain("example.com"), "{author}");
        }
        let zone = Zone::new()
            .txt("_dmarc.bank.example", &["v=DMARC1; p=reject; psd=y"])
            .txt("_dmarc.giant.bank.example", &[R]);
        let output = one(
            &zone,
            "giant.bank.example",
            &spf(SpfResult::Pass, "mail.giant.bank.example"),
            &[dkim(DkimResult::Pass, "mail.mega.bank.example")],
        )
        .await;
        assert_eq!((output.spf_alignment, output.dkim_alignment[0]), (Alignment::Relaxed, Alignment::Unaligned));
        assert_eq!((output.result, output.policy.unwrap().domain), (DmarcResult::Pass, domain("giant.bank.example")));
    }

    #[tokio::test]
    async fn the_warning_of_section_11_8() {
        // mail.example.com is an organizational domain of its own: its identifiers don't vouch for siblings.
        let zone = simple().txt("_dmarc.mail.example.com", &["v=DMARC1; p=reject; psd=n"]);
        let evil = one(&zone, "evil.example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
        assert_eq!(evil.result, DmarcResult::Fail);
        let honest = one(&zone, "a.mail.example.com", &spf(SpfResult::Pass, "mail.example.com"), &[]).await;
        assert_eq!(honest.result, DmarcResult::Pass);
        // A subdomain in other hands vouches for the whole organization in relaxed mode.
        let subdomain = one(&simple(), "example.com", &spf(SpfResult::Pass, "evil.example.com"), &[]).await;
        assert_eq!(subdomain.result, DmarcResult::Pass);
    }

    #[tokio::test]
    async fn several_author_domains_are_each_evaluated() {
        let outputs =
            run(&simple(), &["example.com", "other.example"], &spf(SpfResult::Pass, "other.example"), &[]).await;
        let results: Vec<_> = outputs.iter().map(|o| (o.author_domain.as_str(), o.result)).collect();
        assert_eq!(results, [("example.com", DmarcResult::Fail), ("other.example", DmarcResult::None)]);
    }

    #[tokio::test]
    async fn no_domain_is_walked_twice_and_no_name_beyond_the_stop_is_asked() {
        let zone = Zone::new().txt("_dmarc.example.com", &["v=DMARC1; p=reject; psd=n"]);
        let signatures = vec![dkim(DkimResult::Pass, "s.example.com"); 5];
        one(&zone, "example.com", &spf(SpfResult::Pass, "s.example.com"), &signatures).await;
        let asked: Vec<_> = zone.asked().into_iter().map(|(name, _)| name).collect();
        assert_eq!(asked, ["_dmarc.example.com", "_dmarc.s.example.com", "_dmarc.example.com"]);
    }

    /// The more labels a name has, the later its answer comes.
    struct Backwards(Zone);

    impl Lookup for Backwards {
        async fn ask(&self, name: &str, record_type: RecordType) -> crate::dns::Answer {
            let answer = self.0.ask(name, record_type).await;
            for _ in 0..name.split('.').count() {
                tokio::task::yield_now().await;
            }
            answer
        }
    }

    #[tokio::test]
    async fn names_of_a_walk_are_asked_together_and_taken_in_order() {
        let lookup = Backwards(simple());
        let authors = [domain("a.b.example.com")];
        let discovery = discover(&lookup, &authors, &[]);
        fn is_send<T: Send>(_: &T) {}
        is_send(&discovery);
        let output = discovery.await.evaluate(&no_spf(), &[]).remove(0);
        assert_eq!(output.policy.unwrap().domain, domain("example.com"));
        let asked: Vec<_> = lookup.0.asked().into_iter().map(|(name, _)| name).collect();
        assert_eq!(asked, ["_dmarc.a.b.example.com", "_dmarc.b.example.com", "_dmarc.example.com", "_dmarc.com"]);
    }
}
