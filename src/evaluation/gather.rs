//! Runs what needs DNS during the transfer of the message, and draws the [`Evaluation`] from it at the end.

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Evaluation;
use super::discovery::{Discoveries, Rules, discover};
use super::dkim::{Keys, Verified};
use super::subject::{Claims, Subject};
use crate::dns::{Evidence, Lookup, MessageLookup};
use crate::domain::Domain;
use crate::message::body_hash::BodyHashes;
use crate::panics::caught;
use crate::spf::evaluate::{Request, check_host};
use crate::spf::{SpfOutput, SpfResult};

/// The facts of the session and the envelope that SPF needs.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The client's address.
    pub ip: IpAddr,
    /// What it called itself.
    pub helo: Box<str>,
    /// The address of the reverse-path without angle brackets; empty if it is null.
    pub mail_from: Box<str>,
}

/// What DNS said for one message.
pub struct Gathered {
    sender: Sender,
    spf: SpfOutput,
    spf_helo: Option<SpfOutput>,
    rest: Option<Rest>,
}

/// What depends on the header section.
struct Rest {
    subject: Arc<Subject>,
    keys: Keys,
    chain_keys: Keys,
    discoveries: Discoveries,
}

/// Where the questions of one message go: those of its identifiers, those of the EHLO name, and those of the policy,
/// each through a handle that the others can't use up. A sender decides how many look-ups its own SPF records,
/// signatures and ARC sets cost; it must not be able to leave none for the policy of the domain that it forges, nor the
/// name that it gives itself for what counts.
pub struct Lookups<'a, I, H, P> {
    /// For SPF of the reverse-path, DKIM and ARC.
    pub identifiers: &'a I,
    /// For SPF of the EHLO name: [`HELO_LOOKUPS`] questions are enough.
    pub helo: &'a H,
    /// For DMARC.
    pub policy: &'a P,
}

/// Asks DNS all that the evaluation of one message needs: SPF at once, DKIM keys, ARC keys and policies as soon as
/// `subject` yields the header section. It ends when these are done; if the handle's deadline passes, the questions
/// that are still open end as temporary failures, so that it always ends. SPF of the EHLO name runs beside all that; it
/// is waited for a moment longer, as a rule while the body is still coming.
pub async fn gather<I: Lookup, H: Lookup, P: Lookup>(
    lookups: Lookups<'_, I, H, P>,
    sender: Sender,
    rules: &Rules,
    subject: impl Future<Output = Option<Arc<Subject>>>,
) -> Gathered {
    let request = Request::mail_from(sender.ip, &sender.helo, &sender.mail_from);
    let rest = async {
        let subject = subject.await?;
        let Subject { claims: Some(claims), .. } = &*subject else { return None };
        let identifiers = identifiers(claims, request.domain);
        let (keys, chain_keys, discoveries) = tokio::join!(
            claims.signatures.keys(lookups.identifiers),
            claims.chain.keys(lookups.identifiers),
            discover(lookups.policy, rules, claims.author.domains(), &identifiers),
        );
        Some(Rest { subject, keys, chain_keys, discoveries })
    };
    let needed = async { tokio::join!(check_host(lookups.identifiers, &request), rest) };
    let helo = match sender.mail_from.is_empty() {
        true => None,
        false => Request::helo(sender.ip, &sender.helo),
    };
    let ((spf, rest), spf_helo) = match helo {
        // What is for information alone must not cost the message its evaluation, not even by a fault of ours.
        Some(request) => {
            let (needed, output) = beside(needed, caught(check_host(lookups.helo, &request))).await;
            (needed, Some(output.and_then(Result::ok).unwrap_or_else(|| unfinished(&request))))
        }
        None => (needed.await, None),
    };
    Gathered { sender, spf, spf_helo, rest }
}

/// Waits for `needed`, and then a little longer for `extra`, which goes on beside it; it is dropped if it isn't done by
/// then.
async fn beside<T, U>(needed: impl Future<Output = T>, extra: impl Future<Output = U>) -> (T, Option<U>) {
    let (mut needed, mut extra) = (pin!(needed), pin!(extra));
    let mut found = None;
    let needed = poll_fn(|context| {
        let needed = needed.as_mut().poll(context);
        if found.is_none()
            && let Poll::Ready(output) = extra.as_mut().poll(context)
        {
            found = Some(output);
        }
        needed
    })
    .await;
    match found {
        Some(found) => (needed, Some(found)),
        None => (needed, timeout(HELO_GRACE, extra).await.ok()),
    }
}

/// What is said of an EHLO name whose check was dropped. A temporary error, and not nothing: who reads the results
/// learns that there was something to check, and that the answer is not "none".
fn unfinished(request: &Request<'_>) -> SpfOutput {
    SpfOutput {
        result: SpfResult::TempError,
        identity: request.identity,
        domain: Domain::parse(request.domain).ok(),
        term: None,
        reason: "not finished when all else was".into(),
        unsettled: false,
        failure: None,
        records: Vec::new(),
    }
}

/// Waits for `gathering`, which asks `lookup`, at most for `limit`; then the questions that are still open end as
/// temporary failures, so that what is known still counts. None if it does not end even so: a fault of ours.
pub async fn within<T>(limit: Duration, lookup: &MessageLookup, gathering: impl Future<Output = T>) -> Option<T> {
    let mut gathering = pin!(gathering);
    tokio::select! {
        biased;
        gathered = &mut gathering => Some(gathered),
        () = sleep(limit) => {
            lookup.expire();
            timeout(GRACE, gathering).await.ok()
        }
    }
}

impl Gathered {
    /// Settles every result; `now` is in epoch seconds, `elapsed` the time since the end of data.
    ///
    /// None if there was no header section to evaluate.
    pub fn evaluate(self, hashes: &BodyHashes, now: u64, evidence: Evidence, elapsed: Duration) -> Option<Evaluation> {
        let Rest { subject, keys, chain_keys, discoveries } = self.rest?;
        let claims = subject.claims.as_ref()?;
        let Verified { outputs: dkim, skipped: dkim_skipped, skipped_domains } =
            claims.signatures.verify(&subject.section, &keys, hashes, now);
        let arc = claims.chain.verify(&subject.section, &chain_keys, hashes, now);
        let mut dmarc = discoveries.evaluate(&self.spf, &dkim);
        discoveries.note_skipped(&skipped_domains, &mut dmarc);
        // Whom the reader takes for the author is known with the envelope. A reverse-path of one's own shows nobody
        // else, and one whose domain says nothing, or did not answer, is no reason to refuse a message for good.
        let is_forged = matches!(
            self.spf.result,
            SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral | SpfResult::PermError
        );
        let author = match is_forged {
            true => claims.author.clone().with_reverse_path(&subject.section, &self.sender.mail_from),
            false => claims.author.clone(),
        };
        if author.domains().is_empty() {
            dmarc.clear();
        }
        Some(Evaluation {
            author,
            sender: self.sender,
            spf: self.spf,
            spf_helo: self.spf_helo,
            dkim,
            dkim_skipped,
            arc,
            dmarc,
            list_fields: subject.section.is_mailing_list(),
            list_id: subject.section.list_id(),
            evidence,
            elapsed,
        })
    }
}

/// The domains that may turn out to be aligned: the SPF domain and each d=.
fn identifiers(claims: &Claims, spf_domain: &str) -> Vec<Domain> {
    let mut found: Vec<Domain> = Domain::parse(spf_domain).into_iter().collect();
    for domain in claims.signatures.domains() {
        if !found.contains(domain) {
            found.push(domain.clone());
        }
    }
    found
}

/// Questions for SPF of the EHLO name. The name of a host has a record of few terms, as a rule `a` alone; one that
/// needs more is a temporary error.
pub const HELO_LOOKUPS: usize = 30;
/// How long the check of the EHLO name may last beyond all that counts: long enough that a quick DNS gives one message
/// the same results each time, too short to be noticed.
const HELO_GRACE: Duration = Duration::from_millis(100);
/// How long an evaluation may take to end once its look-ups have been cut off: it waits for nothing else.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dmarc::alignment::DmarcResult;
    use crate::dns::zone::Zone;
    use crate::dns::{Answer, RecordType};
    use crate::message::body_hash::BodyHasher;
    use crate::message::header::HeaderSection;
    use crate::spf::Identity;

    /// A lookup that answers questions for some names never.
    struct Silent<'a>(&'a Zone, &'static str);

    impl Lookup for Silent<'_> {
        async fn ask(&self, name: &str, record_type: RecordType) -> Answer {
            if name == self.1 {
                std::future::pending::<()>().await;
            }
            self.0.ask(name, record_type).await
        }
    }

    fn zone() -> Zone {
        Zone::new()
            .txt("bank.example", &["v=spf1 ip4:192.0.2.1 -all"])
            .txt("_dmarc.bank.example", &["v=DMARC1; p=reject"])
            .txt("other.example", &["v=spf1 -all"])
    }

    fn sender(helo: &str, mail_from: &str) -> Sender {
        Sender { ip: "192.0.2.1".parse().unwrap(), helo: helo.into(), mail_from: mail_from.into() }
    }

    async fn evaluate(helo: &impl Lookup, zone: &Zone, sender: Sender) -> Evaluation {
        evaluate_fields("From: a@bank.example\r\n", helo, zone, sender).await
    }

    async fn evaluate_fields(fields: &str, helo: &impl Lookup, zone: &Zone, sender: Sender) -> Evaluation {
        let section = HeaderSection::parse(format!("{fields}\r\n").into_bytes());
        let subject = Arc::new(Subject::read(section, Some(10)));
        let hashes = BodyHasher::new(subject.body_hash_specs()).finish();
        let lookups = Lookups { identifiers: zone, helo, policy: zone };
        let gathered = gather(lookups, sender, &Rules::default(), std::future::ready(Some(subject))).await;
        gathered.evaluate(&hashes, 0, Evidence::default(), Duration::ZERO).unwrap()
    }

    #[tokio::test]
    async fn a_pass_of_the_ehlo_name_never_counts() {
        let zone = zone();
        let found = evaluate(&zone, &zone, sender("bank.example", "x@other.example")).await;
        let helo = found.spf_helo.as_ref().unwrap();
        assert_eq!((helo.result, helo.identity), (SpfResult::Pass, Identity::Helo));
        assert_eq!((found.spf.result, found.spf.identity), (SpfResult::Fail, Identity::MailFrom));
        assert_eq!((found.dmarc[0].result, found.dmarc[0].spf_aligned), (DmarcResult::Fail, false));
        // Only where it is the SPF domain itself, for lack of another.
        let bounce = evaluate(&zone, &zone, sender("bank.example", "")).await;
        assert_eq!((bounce.spf.result, bounce.dmarc[0].result), (SpfResult::Pass, DmarcResult::Pass));
        assert!(bounce.spf_helo.is_none());
    }

    #[tokio::test]
    async fn whether_each_identifier_is_aligned_is_found_out() {
        use crate::dmarc::alignment::Alignment::{Relaxed, Unaligned};
        let signature = |domain: &str| {
            format!("DKIM-Signature: v=1; a=ed25519-sha256; d={domain}; s=s; h=from; bh=47DEQpj8HBSa; b=AAAA\r\n")
        };
        let fields = signature("mail.bank.example") + &signature("other.example") + "From: a@www.bank.example\r\n";
        let zone = zone();
        let found = evaluate_fields(&fields, &zone, &zone, sender("localhost", "x@mta.bank.example")).await;
        let dmarc = &found.dmarc[0];
        assert_eq!((dmarc.spf_alignment, &*dmarc.dkim_alignment), (Relaxed, &[Relaxed, Unaligned][..]));
        let section = || HeaderSection::parse(format!("{fields}\r\n").into_bytes());
        assert_eq!(Subject::read(section(), Some(10)).body_hash_specs().len(), 1, "equal ones are one");
        assert!(Subject::read(section(), None).body_hash_specs().is_empty(), "nothing is evaluated");
    }

    #[tokio::test]
    async fn a_name_that_is_no_domain_is_not_checked() {
        let zone = zone();
        for name in ["[192.0.2.1]", "localhost", "a..example"] {
            let found = evaluate(&zone, &zone, sender(name, "x@bank.example")).await;
            assert!(found.spf_helo.is_none(), "{name}");
            assert_eq!(found.dmarc[0].result, DmarcResult::Pass);
        }
    }

    #[tokio::test]
    async fn nothing_waits_long_for_the_ehlo_name() {
        let zone = zone();
        let silent = Silent(&zone, "slow.example");
        let found = evaluate(&silent, &zone, sender("slow.example", "x@bank.example")).await;
        let helo = found.spf_helo.unwrap();
        assert_eq!((helo.result, &*helo.reason), (SpfResult::TempError, "not finished when all else was"));
        assert_eq!(helo.domain.unwrap().as_str(), "slow.example");
        assert_eq!((found.dmarc[0].result, found.dmarc[0].doubt), (DmarcResult::Pass, None));
    }

    #[tokio::test]
    async fn its_doubt_is_nobody_elses() {
        let zone = zone().fail("slow.example", RecordType::Txt, crate::dns::Failure::Timeout);
        let found = evaluate(&zone, &zone, sender("slow.example", "x@other.example")).await;
        assert_eq!(found.spf_helo.unwrap().result, SpfResult::TempError);
        assert_eq!((found.dmarc[0].result, found.dmarc[0].doubt), (DmarcResult::Fail, None));
    }

    #[tokio::test]
    async fn a_fault_in_it_is_not_the_messages() {
        struct Faulty;
        impl Lookup for Faulty {
            async fn ask(&self, _: &str, _: RecordType) -> Answer {
                panic!("a fault of ours")
            }
        }
        let found = evaluate(&Faulty, &zone(), sender("mail.example", "x@bank.example")).await;
        assert_eq!(found.spf_helo.unwrap().result, SpfResult::TempError);
        assert_eq!(found.dmarc[0].result, DmarcResult::Pass);
    }
}
