//! Judges one case by the code of sessions: only what DNS and the signatures would have said is given.

use std::sync::Arc;
use std::time::Duration;

use super::facts::{CaseFacts, Judged};
use crate::calendar::SECONDS_PER_DAY;
use crate::clock::epoch_seconds;
use crate::config::Config;
use crate::config::cases::{Case, Signature};
use crate::dns::{Answer, Evidence, Failure, Lookup, Miss, RecordType, Records, TxtRecords};
use crate::domain::Domain;
use crate::envelope::Envelope;
use crate::evaluation::discovery::discover;
use crate::evaluation::gather::Sender;
use crate::evaluation::{ArcOutput, ArcResult, ArcSet, DkimOutput, DmarcFinding, Evaluation};
use crate::message::author::Author;
use crate::policy::Circumstances;
use crate::policy::bypass::Login;
use crate::smtp::command::MailParameters;
use crate::spf::{Request, SpfOutput};
use crate::suffix_list;
use crate::verdict;

/// What the configuration decides for a case.
pub async fn judge<'a>(case: &'a Case, config: &Config) -> CaseFacts<'a> {
    let login = if case.authenticated { Login::Authenticated } else { Login::Anonymous };
    if let Some(reason) = config.bypass().reason(case.ip, case.certificate, login) {
        return CaseFacts::new(case, Judged::Bypassed(reason));
    }
    let settings = config.verdict();
    let mut envelope = Envelope::new(case.mail_from.clone(), MailParameters::default());
    envelope.recipients.clone_from(&case.recipients);
    let now = case.date.map_or_else(epoch_seconds, |date| {
        u64::try_from(date.to_day().saturating_mul(SECONDS_PER_DAY)).unwrap_or_default()
    });
    let circumstances = Circumstances {
        host: case.host.clone(),
        in_doubt_for: vec![case.deferred_for; case.from.len()],
        sample: case.sample,
        ..settings.circumstances(&envelope, now)
    };
    let evaluation = evaluate(case, config).await;
    let verdict = verdict::conclude(evaluation, &envelope, &circumstances, &settings, ID);
    CaseFacts::new(case, Judged::Evaluated(Box::new(verdict)))
}

async fn evaluate(case: &Case, config: &Config) -> Evaluation {
    let mail_from = case.mail_from.mailbox().map_or("", |mailbox| mailbox.as_str());
    let request = Request::mail_from(case.ip, &case.helo, mail_from);
    let spf = SpfOutput {
        result: case.spf,
        identity: request.identity,
        domain: Domain::parse(request.domain).ok(),
        term: None,
        reason: "as the case says".into(),
        unsettled: false,
        records: Vec::new(),
        failure: None,
    };
    let dkim: Vec<DkimOutput> = case.signatures.iter().map(signature).collect();
    let identifiers: Vec<Domain> =
        spf.domain.iter().cloned().chain(case.signatures.iter().map(|signature| signature.domain.clone())).collect();
    let rules = suffix_list::rules(&config.suffix_list());
    let discoveries = discover(&Given(case), &rules, &case.from, &identifiers).await;
    let mut dmarc = discoveries.evaluate(&spf, &dkim);
    discoveries.note_skipped(&case.signatures_left_out, &mut dmarc);
    Evaluation {
        author: match case.from_unusable {
            Some(why) => Author::Unusable(why),
            None => Author::Usable { domains: case.from.clone(), address_in_display_name: false },
        },
        sender: Sender { ip: case.ip, helo: case.helo.as_str().into(), mail_from: mail_from.into() },
        spf,
        spf_helo: None,
        dkim,
        dkim_skipped: case.signatures_left_out.len(),
        arc: chain(case),
        dmarc,
        list_fields: case.list_fields,
        list_id: case.list_id.clone(),
        evidence: Evidence::default(),
        elapsed: Duration::ZERO,
    }
}

fn signature(Signature { domain, result, key }: &Signature) -> DkimOutput {
    DkimOutput {
        place: 0,
        result: *result,
        domain: Some(domain.clone()),
        selector: "case".into(),
        identity: None,
        algorithm: None,
        signature_start: "".into(),
        key: *key,
        reason: "as the case says",
        failure: None,
    }
}

/// As the evaluation yields it: sets are there if the chain validates; of one in doubt they are claims.
fn chain(case: &Case) -> ArcOutput {
    let set = |(index, sealer): (usize, &crate::config::cases::Sealer)| ArcSet {
        instance: index + 1,
        sealer: sealer.domain.clone(),
        dmarc: sealer.dmarc.clone().map(|(result, author_domain)| DmarcFinding { result, author_domain }),
    };
    let said: Vec<ArcSet> = case.sealers.iter().enumerate().map(set).collect();
    let (sets, unverified) = match case.arc {
        ArcResult::Pass => (said, Vec::new()),
        ArcResult::TempError => (Vec::new(), said),
        ArcResult::None | ArcResult::Fail => (Vec::new(), Vec::new()),
    };
    ArcOutput { result: case.arc, sets, unverified, reason: "as the case says", failure: None }
}

/// DNS as far as a case has it.
struct Given<'a>(&'a Case);

impl Lookup for Given<'_> {
    async fn ask(&self, name: &str, record_type: RecordType) -> Answer {
        Answer { outcome: self.outcome(name, record_type), ttl: Duration::ZERO }
    }
}

impl Given<'_> {
    /// A name that the case says nothing of exists, without a record.
    fn outcome(&self, name: &str, record_type: RecordType) -> Result<Arc<Records>, Miss> {
        let at = name.strip_prefix("_dmarc.").unwrap_or(name);
        let is = |domain: &Domain| domain.as_str() == at;
        if self.0.dns_fails.iter().any(is) {
            return Err(Miss::Failed(Failure::ServFail));
        }
        // RFC 8020: nothing exists below a name that does not.
        if Domain::parse(at).is_ok_and(|at| self.0.missing.iter().any(|missing| at.is_within(missing))) {
            return Err(Miss::NxDomain);
        }
        let is_asked_for = at.len() < name.len() && record_type == RecordType::Txt;
        let texts: Vec<Box<[u8]>> = self
            .0
            .records
            .iter()
            .filter(|record| is_asked_for && is(&record.at))
            .map(|r| r.text.as_bytes().into())
            .collect();
        if texts.is_empty() { Err(Miss::NoData) } else { Ok(Arc::new(Records::Txt(TxtRecords::new(texts)))) }
    }
}

/// Stands where a session puts the id of the message.
const ID: &str = "test";
