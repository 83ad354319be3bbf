//! Runs what needs DNS beside the transfer of the message, and draws the [`Evaluation`] from it at the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Evaluation;
use super::discovery::{Discoveries, Rules, discover};
use super::dkim::Keys;
use super::subject::{Claims, Subject};
use crate::dns::{Asked, Lookup, MessageLookup};
use crate::domain::Domain;
use crate::message::body_hash::BodyHashes;
use crate::spf::SpfOutput;
use crate::spf::evaluate::{Request, check_host};

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
    spf: SpfOutput,
    rest: Option<Rest>,
}

/// What hangs on the header section.
struct Rest {
    subject: Arc<Subject>,
    keys: Keys,
    chain_keys: Keys,
    discoveries: Discoveries,
}

/// Where the questions of one message go: those of its identifiers, and those of the policy, which are asked through a
/// handle that nothing else can use up. A sender decides how many look-ups its own SPF record, signatures and ARC sets
/// cost; it must not be able to leave none for the policy of the domain that it forges.
pub struct Lookups<'a, I, P> {
    /// For SPF, DKIM and ARC.
    pub identifiers: &'a I,
    /// For DMARC.
    pub policy: &'a P,
}

/// Asks DNS all that the evaluation of one message needs: SPF at once, DKIM keys, ARC keys and policies as soon as
/// `subject` yields the header section. It ends when both are done; if the handle's deadline passes, the questions that
/// are still open end as temporary failures, so that it always ends.
pub async fn gather<I: Lookup, P: Lookup>(
    lookups: Lookups<'_, I, P>,
    sender: &Sender,
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
    let (spf, rest) = tokio::join!(check_host(lookups.identifiers, &request), rest);
    Gathered { spf, rest }
}

/// Waits for `gathering`, which asks `lookup`, at most for `limit`; then the questions that are still open end as
/// temporary failures, so that what is known still counts. None if it does not end even so: a fault of ours.
pub async fn within<T>(limit: Duration, lookup: &MessageLookup, gathering: impl Future<Output = T>) -> Option<T> {
    let mut gathering = std::pin::pin!(gathering);
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
    pub fn evaluate(
        self,
        hashes: &BodyHashes,
        now: u64,
        evidence: Vec<Asked>,
        elapsed: Duration,
    ) -> Option<Evaluation> {
        let Rest { subject, keys, chain_keys, discoveries } = self.rest?;
        let claims = subject.claims.as_ref()?;
        let dkim = claims.signatures.verify(&subject.section, &keys, hashes, now);
        let arc = claims.chain.verify(&subject.section, &chain_keys, hashes, now);
        let dmarc = discoveries.evaluate(&self.spf, &dkim);
        Some(Evaluation {
            author: claims.author.clone(),
            spf: self.spf,
            dkim,
            dkim_skipped: claims.signatures.skipped(),
            arc,
            dmarc,
            list_fields: subject.section.is_mailing_list(),
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

/// How long an evaluation may take to end once its look-ups have been cut off: it waits for nothing else.
const GRACE: Duration = Duration::from_secs(1);
